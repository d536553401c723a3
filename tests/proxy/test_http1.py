"""What an engine's answer may be, byte by byte: one head, one body and one verdict, however the bytes were split."""

import pytest

from gateway.proxy.http1 import AnswerParser, Head, Malformed

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"
EVENT = b'data: {"choices": [{"delta": {"content": "a"}}]}\n\n'


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def heard(answer: bytes, method: str = "POST", *, step: int = 0) -> tuple[AnswerParser, bytes]:
    parser, body = AnswerParser(method), b""
    step = step or len(answer)
    for at in range(0, len(answer), step):
        body += parser.feed(answer[at : at + step])
    return parser, body


def test_an_answer_with_a_length_is_read() -> None:
    parser, body = heard(OK + b"Content-Length: 5\r\nX-A:  b \r\nx-a:\tc\r\n\r\nhello")
    assert parser.head is not None and body == b"hello" and parser.done and not parser.surplus
    assert parser.head.headers == [("Content-Length", "5"), ("X-A", "b"), ("x-a", "c")]
    assert parser.head.get("x-a") == "b" and parser.head.all("x-a") == ["b", "c"] and parser.head.get("x") is None


@pytest.mark.parametrize("step", [1, 2, 3, 7, 1000])
def test_an_answer_in_chunks_is_read_in_any_pieces(step: int) -> None:
    answer = OK + CHUNKED + b"\r\n" + chunk(EVENT) * 3 + b'2 ;a="\\"";b=c \r\nab\r\n000\r\nX-Trailer: t\r\n\r\n'
    parser, body = heard(answer, step=step)
    assert isinstance(parser.head, Head) and parser.head.chunked and parser.head.length is None
    assert body == EVENT * 3 + b"ab" and parser.done and parser.feed_eof()


def test_a_read_that_is_one_whole_chunk_may_be_passed_on_as_it_came() -> None:
    parser, _ = heard(OK + CHUNKED + b"\r\n")
    assert parser.feed(chunk(EVENT)) == EVENT and parser.verbatim
    assert parser.feed(chunk(EVENT)[:-1]) == EVENT and not parser.verbatim


@pytest.mark.parametrize("size", [b"+de", b" de", b"d_e", b"0xde", b"zz", b"", b"f" * 16, b"0" * 17, b"1;", b"1\n"])
def test_a_size_that_is_no_size_is_refused(size: bytes) -> None:
    parser, _ = heard(OK + CHUNKED + b"\r\n")
    with pytest.raises(Malformed):
        parser.feed(size + b"\r\n")
