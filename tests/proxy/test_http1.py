"""What an engine's answer may be, byte by byte: one head, one body and one verdict, however the bytes were split.

What it has to agree on with other readers is in `test_http1_peers.py`.
"""

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.proxy.http1 import (
    CHUNK_MAX,
    HEAD_MAX,
    HEADERS_MAX,
    LINE_MAX,
    SKIPPED_MAX,
    AnswerParser,
    Malformed,
)
from tests.support.answer_readers import Reading, read_by_us, split

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"
CONTINUE = b"HTTP/1.1 100 Continue\r\nX-Hint: 1\r\n\r\n"
EVENT = b'data: {"choices": [{"delta": {"content": "a"}}]}\n\n'
END = b"0\r\n\r\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def fed(*reads: bytes, method: str = "POST") -> AnswerParser:
    parser = AnswerParser(method)
    for read in reads:
        parser.feed(read)
    return parser


def in_chunks() -> AnswerParser:
    return fed(OK + CHUNKED + b"\r\n")


def read(answer: bytes, method: str = "POST") -> Reading:
    """In one piece and byte by byte, which must come to the same."""
    reading, slowly = (read_by_us(pieces, method) for pieces in ([answer], [bytes([each]) for each in answer]))
    assert slowly.verdict == reading.verdict and slowly.status == reading.status
    assert slowly.body == reading.body or (reading.verdict == "malformed" and slowly.body.startswith(reading.body))
    return reading


def header_line(size: int) -> bytes:
    return b"X-A: " + b"a" * (size - 5) + b"\r\n"


# -- the head ----------------------------------------------------------------------------------


def test_a_head_tells_what_was_sent_and_what_follows() -> None:
    head = fed(OK + b"Content-Length: 5\r\nX-A:\t b c \t\r\nx-a:d\r\nX-B:\r\nX-C: \xe9\r\n\r\n").head
    assert head is not None and head.status == 200
    sent = [("Content-Length", "5"), ("X-A", "b c"), ("x-a", "d"), ("X-B", ""), ("X-C", "é")]
    assert head.headers == sent
    assert head.get("x-a") == "b c" and head.get("x-b") == "" and head.get("x-d") is None
    assert head.all("x-a") == ["b c", "d"] and head.all("x-d") == []
    assert (head.length, head.chunked, head.reusable) == (5, False, True)
    assert "é" not in repr(head)


@pytest.mark.parametrize(
    ("line", "status"),
    {
        b"HTTP/1.1 200 OK": 200,
        b"HTTP/1.0 200 OK": 200,
        b"HTTP/1.1 200 ": 200,
        b"HTTP/1.1 200": 200,
        b"HTTP/1.1 404 caf\xe9\t!": 404,
        b"HTTP/1.1 999  x": 999,
    }.items(),
)
def test_a_status_line_may_be(line: bytes, status: int) -> None:
    assert read(line + b"\r\nContent-Length: 0\r\n\r\n") == Reading("whole", status, [("content-length", "0")])


@pytest.mark.parametrize(
    "line",
    [
        *(b"", b"HTTP/1.1", b"HTTP/1.1 ", b"HTTP/1.1 20", b"HTTP/1.1 2000 OK", b"HTTP/1.1 099 X", b"HTTP/1.1 fine"),
        *(b"HTTP/1.1  200 OK", b"HTTP/1.1\t200 OK", b"HTTP/1.1 200OK", b"HTTP/1.1 +20 OK", b"HTTP/1.1 2_0 OK"),
        *(
            b"HTTP/1.2 200 OK",
            b"HTTP/2 200 OK",
            b"HTTP/1.11 200 OK",
            b"http/1.1 200 OK",
            b"ICY 200 OK",
            b"\x15\x03\x03",
        ),
        *(b" HTTP/1.1 200 OK", b"HTTP/1.1 200 a\0b", b"HTTP/1.1 200 a\x7fb", b"HTTP/1.1 200 OK\r", b"{}"),
        *(b"HTTP/1.1 101 Switching Protocols", b"HTTP/1.1 200 " + b"a" * LINE_MAX),
    ],
)
def test_a_status_line_must_not_be(line: bytes) -> None:
    assert read(line + b"\r\nContent-Length: 0\r\n\r\n" * 2).verdict == "malformed"


@pytest.mark.parametrize("beginning", [b"{", b"\x15\x03", b"HTTP/2", b"SSH-2.0-x\r\n", b"\n", b"\rx"])
def test_another_protocol_is_known_by_its_first_bytes(beginning: bytes) -> None:
    """Who speaks one may wait for us to go on."""
    with pytest.raises(Malformed):
        fed(beginning)


@pytest.mark.parametrize(
    "headers",
    [
        *(b"X-A\r\n", b": a\r\n", b"X A: a\r\n", b"X-A : a\r\n", b"X-A\t: a\r\n", b" X-A: a\r\n", b"X(A): a\r\n"),
        *(
            b"X-A: a\r\n b\r\n",
            b"X-A: a\r\n\tb\r\n",
            b"X\xe9: a\r\n",
            b"X-A: a\0b\r\n",
            b"X-A: a\rb\r\n",
            b"X-A: a\nb\r\n",
        ),
        *(b"X-A: a\nX-B: b\r\n", b"X-A: a\r\r\n", b"X-A: \x0b\r\n", b"X-A: a\x7f\r\n", b"\0: a\r\n", b"X-\nA: a\r\n"),
        b"X: \r\n" * (HEADERS_MAX + 1),
        header_line(LINE_MAX + 1),
        header_line(8000) * 9,
        b"Content-Length: 1\r\nContent-Length: 1\r\n",
        b"Content-Length: 1\r\ncontent-length: 2\r\n",
        b"X-A: a\r\nX-A: b\r\nContent-Length: 1\r\nContent-Length: 1\r\n",
        *(
            b"Content-Length: %b\r\n" % each
            for each in (b"", b"x", b"-1", b"+1", b"1_0", b"0x1", b"1, 1", b"1 1", b"1.0")
        ),
        *(b"Content-Length: %b\r\n" % each for each in (b"\xb2", b"\xbd", b"1" * 19, b"0" * 19)),
        CHUNKED + b"Content-Length: 1\r\n",
        b"Content-Length: 1\r\nTransfer-Encoding: gzip\r\n",
        b"Transfer-Encoding: \r\n",
        b"Transfer-Encoding: ,\r\n",
        b"Transfer-Encoding: chunked, gzip\r\n",
        b"Transfer-Encoding: chunked, chunked\r\n",
        CHUNKED + CHUNKED,
    ],
    ids=lambda headers: repr(headers[:40]),
)
def test_a_header_must_not_be(headers: bytes) -> None:
    for method in ("POST", "HEAD"):
        assert read(OK + headers + b"\r\n", method).verdict == "malformed"


def test_a_head_may_be_as_large_as_its_limits() -> None:
    longest = header_line(LINE_MAX)
    last = header_line(HEAD_MAX - len(OK + b"\r\n\r\n") - 7 * len(longest))
    largest = OK + longest * 7 + last + b"\r\n"
    assert len(largest) == HEAD_MAX and read(largest + b"body").body == b"body"
    assert read(OK + last + longest * 7 + b"X: \r\n\r\n").verdict == "malformed"
    assert read(OK + b"X: \r\n" * HEADERS_MAX + b"\r\n").verdict == "whole"


def test_a_head_must_not_be_larger_than_its_limit() -> None:
    rest = HEAD_MAX + 1 - len(OK + b"\r\n\r\n") - 7 * (LINE_MAX + 2)
    larger = OK + header_line(LINE_MAX) * 7 + header_line(rest) + b"\r\n"
    assert len(larger) == HEAD_MAX + 1 and read(larger).verdict == "malformed"
    fed(larger[: HEAD_MAX - 1])
    with pytest.raises(Malformed):
        fed(larger[:HEAD_MAX])


def test_nobody_asked_to_change_the_protocol() -> None:
    assert read(b"HTTP/1.1 101 Switching\r\n\r\n" + OK + b"Content-Length: 0\r\n\r\n").verdict == "malformed"


def test_a_head_without_an_end_is_refused_before_it_ends() -> None:
    parser = fed(OK)
    with pytest.raises(Malformed):
        for _ in range(HEAD_MAX):
            parser.feed(b"X: a\r\n")


@pytest.mark.parametrize("head", [b"HTTP/1.1 200 OK\n", OK + b"X-A: a\n", OK + b"X-A: a\r\r", OK + b"X-A: \ra"])
def test_half_a_line_end_is_refused_at_once(head: bytes) -> None:
    """A head that ends in LF LF would otherwise be waited for."""
    with pytest.raises(Malformed):
        fed(head)


# -- where the body ends -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("head", "length", "chunked", "reusable"),
    [
        (OK + b"Content-Length: 3\r\n", 3, False, True),
        (OK + b"Content-Length: 003\r\n", 3, False, True),
        (OK + b"Content-Length: 3\r\nConnection: close\r\n", 3, False, False),
        (OK + b"Content-Length: 3\r\nConnection: Keep-Alive , CLOSE\r\n", 3, False, False),
        (OK + b"Content-Length: 3\r\nConnection: x\r\nConnection: close\r\n", 3, False, False),
        (OK + b"Content-Length: 3\r\nConnection: x\r\n", 3, False, True),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 3\r\n", 3, False, False),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 3\r\nConnection: x, Keep-alive\r\n", 3, False, True),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 3\r\nConnection: keep-alive, close\r\n", 3, False, False),
        (OK + CHUNKED, None, True, True),
        (OK + b"tRANSFER-eNCODING:\t,CHUNKED ,\r\n", None, True, True),
        (OK + b"Transfer-Encoding: gzip\r\n" + CHUNKED, None, True, True),
        (OK + CHUNKED + b"Connection: close\r\n", None, True, False),
        (OK, None, False, False),
        (OK + b"Connection: keep-alive\r\n", None, False, False),
        (OK + b"Transfer-Encoding: gzip\r\n", None, False, False),
        (OK + b"Transfer-Encoding: chunked;q=1\r\n", None, False, False),
        (b"HTTP/1.1 204 No Content\r\n", 0, False, True),
        (b"HTTP/1.1 204 No Content\r\nContent-Length: 3\r\n", 0, False, True),
        (b"HTTP/1.1 304 Not Modified\r\n" + CHUNKED, 0, False, True),
        (b"HTTP/1.1 205 Reset Content\r\n", None, False, False),
        (OK + b"Content-Length: 0\r\n", 0, False, True),
    ],
)
def test_the_head_says_where_the_body_ends(head: bytes, length: int | None, chunked: bool, reusable: bool) -> None:
    """RFC 9112, 6.3 and 9.3."""
    parser = fed(head + b"\r\n")
    assert parser.head is not None
    assert (parser.head.length, parser.head.chunked, parser.head.reusable) == (length, chunked, reusable)
    assert parser.done is (length == 0)
    without_body = fed(head + b"\r\n", method="HEAD")
    assert without_body.done and without_body.head is not None
    assert (without_body.head.length, without_body.head.chunked) == (0, False)


def test_transfer_codings_are_unknown_to_http_1_0() -> None:
    for coding in (CHUNKED, b"Transfer-Encoding: gzip\r\n"):
        assert read(b"HTTP/1.0 200 OK\r\n" + coding + b"\r\n" + END).verdict == "malformed"


def test_a_body_with_a_length_ends_with_it() -> None:
    answer = OK + b"Content-Length: 5\r\n\r\nhello"
    assert read(answer) == Reading("whole", 200, [("content-length", "5")], b"hello")
    assert read(answer[:-1]) == Reading("cut", 200, [("content-length", "5")], b"hell")


def test_a_body_that_the_connection_ends_is_whole_only_then() -> None:
    parser = fed(OK + b"\r\n")
    assert parser.feed(b"a") == b"a" and parser.feed(b"\r\n\0") == b"\r\n\0" and not parser.done
    assert parser.feed_eof() and parser.done and not parser.surplus


@pytest.mark.parametrize("part", [b"", b"HT", OK, OK + b"X-A: a\r\n", CONTINUE, b"\r\n", CONTINUE + OK, b"\r"])
def test_an_answer_that_ends_in_its_head_is_none(part: bytes) -> None:
    assert read(part) == Reading("cut")


# -- chunks ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "chunks",
    [
        *(b"", b"3", b"3\r", b"3\r\n", b"3\r\nab", b"3\r\nabc", b"3\r\nabc\r", b"3\r\nabc\r\n", b"3\r\nabc\r\n0"),
        *(b"3\r\nabc\r\n0\r\n", b"3\r\nabc\r\n0\r\n\r", b"0\r\nX-A: a\r\n", b"0\r\nX-A: a\r\n\r", b"3;a", b"0\r\nX"),
    ],
)
def test_chunks_that_break_off_are_no_whole_answer(chunks: bytes) -> None:
    reading = read(OK + CHUNKED + b"\r\n" + chunks)
    assert reading.verdict == "cut" and b"abc".startswith(reading.body)


@pytest.mark.parametrize(
    "size",
    [
        *(b"3", b"03", b"3 ", b"3\t ", b"0" * 15 + b"3", b"3;a", b"3;a=b", b'3;a="b"', b"3 ; a = b ; c", b"3;a;b=c;d"),
        *(rb'3;a="\"b\\;\r"', b'3;a="\xe9 ;x=y"', b'3;a=""', b"3;" + b"a" * (LINE_MAX - 2), b'3;a="\t"  '),
    ],
)
def test_a_chunk_size_may_be(size: bytes) -> None:
    """RFC 9112, 7.1.1; and padded with blanks, as some servers do."""
    assert read(OK + CHUNKED + b"\r\n" + size + b"\r\nabc\r\n" + END).body == b"abc"
    last = size.replace(b"3", b"0", 1)
    assert read(OK + CHUNKED + b"\r\n" + last + b"\r\n\r\n").verdict == "whole"


@pytest.mark.parametrize(
    "size",
    [
        *(b"", b" 3", b"+3", b"-3", b"0x3", b"3_", b"1_0", b"g", b"3h", b"3.", b"\xb2", b"0" * 16 + b"3", b"f" * 16),
        *(b"%x" % CHUNK_MAX, b"3;", b"3;;a", b"3;=b", b"3;a=", b'3;a="b', b'3;a="b"c', b"3;a b", b"3;a=b c", b"3 a"),
        *(
            b"3;a\0",
            b"3\0",
            b"3;a=\xe9",
            b"3\n",
            b"3;a\n",
            b"3\r",
            b'3;a="\r"',
            b"3;" + b"a" * (LINE_MAX - 1),
            b",3",
            b"\n",
        ),
        b"3;" + b" " * 9000,
        b'3;a="' + b"\\" * 8001,
        b"3" + b";a=b" * 2000 + b"\0",
    ],
    ids=lambda size: repr(size[:40]),
)
def test_a_chunk_size_must_not_be(size: bytes) -> None:
    """`int` takes some of these."""
    assert read(OK + CHUNKED + b"\r\n" + chunk(b"before") + size + b"\r\nabc\r\n" + END).verdict == "malformed"


@pytest.mark.parametrize("after", [b"x", b"\n", b"\rx", b"0\r\n\r\n", b"\r\r\n"])
def test_a_chunk_ends_where_its_size_says(after: bytes) -> None:
    assert read(OK + CHUNKED + b"\r\n3\r\nabc" + after).verdict == "malformed"


@pytest.mark.parametrize("half", [b"3\nabc", b"3;a\nabc", b"3\rabc"])
def test_half_a_line_end_behind_a_size_is_refused_at_once(half: bytes) -> None:
    parser = in_chunks()
    with pytest.raises(Malformed):
        parser.feed(half)


@pytest.mark.parametrize(
    "trailers",
    [b"X-A: a\r\n", b"X-A:\r\nX-B: b\r\n" * 9, header_line(LINE_MAX) * 7 + header_line(4000) + header_line(4188)],
)
def test_trailers_are_read_and_dropped(trailers: bytes) -> None:
    answer = OK + CHUNKED + b"\r\n" + chunk(b"abc") + b"0\r\n" + trailers + b"\r\n"
    assert read(answer) == Reading("whole", 200, [("transfer-encoding", "chunked")], b"abc")


@pytest.mark.parametrize(
    "trailers",
    [
        *(
            b"X-A\r\n",
            b"X A: a\r\n",
            b" X: a\r\n",
            b"X: a\0\r\n",
            b"X: a\rb\r\n",
            b"X: a\n",
            b"\n",
            b"0\r\n",
            b": a\r\n",
        ),
        header_line(LINE_MAX) * 7 + header_line(4000) + header_line(4189),  # a byte too many
        header_line(LINE_MAX + 1),
    ],
    ids=lambda trailers: repr(trailers[:40]),
)
def test_a_trailer_must_not_be(trailers: bytes) -> None:
    assert read(OK + CHUNKED + b"\r\n0\r\n" + trailers + b"\r\n").verdict == "malformed"


# -- the read that may be passed on ------------------------------------------------------------


@pytest.mark.parametrize("size", [b"%x" % len(EVENT), b"%X" % len(EVENT), b"00%x" % len(EVENT)])
def test_a_read_that_is_one_whole_chunk_may_be_passed_on_as_it_came(size: bytes) -> None:
    parser = in_chunks()
    assert not parser.verbatim
    for _ in range(3):
        assert parser.feed(size + b"\r\n" + EVENT + b"\r\n") == EVENT and parser.verbatim
    parser.feed(END)
    assert parser.done and not parser.verbatim


@pytest.mark.parametrize(
    "reads",
    [
        [chunk(EVENT) * 2],
        [chunk(EVENT)[:-1], b"\n"],
        [chunk(EVENT)[:1], chunk(EVENT)[1:]],
        [chunk(EVENT)[:9], chunk(EVENT)[9:]],
        [chunk(EVENT) + b"3"],
        [b"3;a\r\nabc\r\n"],
        [b"3 \r\nabc\r\n"],
        [END],
        [chunk(EVENT) + END],
        [b"5\r\nabc\r\n", b"\r\n"],  # the chunk itself ends as a chunk does
    ],
)
def test_any_other_read_may_not(reads: list[bytes]) -> None:
    parser = in_chunks()
    for each in reads:
        parser.feed(each)
        assert not parser.verbatim


def test_a_read_with_the_head_may_not_be_passed_on() -> None:
    parser = AnswerParser()
    assert parser.feed(OK + CHUNKED + b"\r\n" + chunk(EVENT)) == EVENT and not parser.verbatim


# -- before the answer, and behind it ----------------------------------------------------------


def test_interim_answers_and_empty_lines_are_skipped() -> None:
    answer = OK + b"Content-Length: 1\r\n\r\nx"
    for before in (CONTINUE, b"HTTP/1.1 103 Hints\r\nContent-Length: 5\r\n" + CHUNKED + b"\r\n", b"\r\n", b"\r\n" * 2):
        assert read(before + answer) == read(answer)
    assert read(CONTINUE * SKIPPED_MAX + answer) == read(answer)
    assert read(b"\r\n" * SKIPPED_MAX + answer) == read(answer)
    assert read(b"\r\n" + CONTINUE * SKIPPED_MAX + answer).verdict == "malformed"
    assert read(CONTINUE * 100_000).verdict == "malformed"


def test_an_interim_answer_is_no_head() -> None:
    parser = fed(CONTINUE)
    assert parser.head is None and not parser.done and not parser.feed_eof()


ANSWERS = {
    "length": OK + b"Content-Length: 3\r\n\r\nabc",
    "chunks": OK + CHUNKED + b"\r\n" + chunk(b"abc") + END,
    "nothing": b"HTTP/1.1 204 No Content\r\n\r\n",
}


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS)
@pytest.mark.parametrize(
    "behind", [OK, b"HTTP/1.1 200 evil\r\n\r\n" * 2, b"\r\n", b"\n\r\r\n", b"HTT", b"\r\nHTTP/1.0"]
)
def test_what_may_begin_another_answer_is_surplus_and_dropped(answer: bytes, behind: bytes) -> None:
    assert read(answer + behind) == read(answer)
    for parser in (fed(answer + behind), fed(answer, behind), fed(answer[:-1], answer[-1:] + behind[:1], behind[1:])):
        assert parser.done and parser.surplus and parser.feed_eof()
    assert not fed(answer, b"").surplus


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS)
@pytest.mark.parametrize("behind", [b"x", b"\0" * 100_000, b"HTTQ", b"\r\nx", b"HT\r\nTP/1.1", b"abc", b"0\r\n\r\n"])
def test_any_other_byte_behind_an_answer_makes_it_doubtful(answer: bytes, behind: bytes) -> None:
    reading = [
        read_by_us(pieces) for pieces in ([answer + behind], [answer, behind], [*map(bytes, zip(answer + behind))])
    ]
    assert {each.verdict for each in reading} == {"malformed"}


def test_what_is_broken_stays_broken() -> None:
    parser = in_chunks()
    for data in (b"zz\r\n", b"", chunk(EVENT), OK):
        with pytest.raises(Malformed):
            parser.feed(data)
        assert not parser.feed_eof() and not parser.verbatim


def test_the_message_is_ours_and_so_is_the_repr() -> None:
    for answer in (
        b"secret",
        OK + b"secret\r\n\r\n",
        OK + CHUNKED + b"\r\nsecret\r\n",
        OK + b"Content-Length: secret\r\n\r\n",
    ):
        parser = AnswerParser()
        with pytest.raises(Malformed) as caught:
            parser.feed(answer)
        assert "secret" not in f"{caught.value}{parser!r}{parser.head!r}" and str(caught.value).endswith(".")
    assert repr(fed(OK + b"X-A: secret\r\n" + CHUNKED + b"\r\n3\r\na")) == (
        "<AnswerParser to POST: Head(status=200, length=None, chunked=True, reusable=True), "
        "awaits the rest of a chunk, 2 bytes>"
    )
    assert repr(fed(OK + CHUNKED + b"\r\n" + END)).endswith("awaits nothing more>")


# -- what it costs -----------------------------------------------------------------------------


def test_a_long_body_is_neither_copied_nor_kept() -> None:
    block = bytes(1 << 16)
    by_length = fed(OK + b"Content-Length: 1000000000000\r\n\r\n")
    by_end = fed(OK + b"\r\n")
    by_chunk = fed(OK + CHUNKED + b"\r\n" + b"fffffffffff\r\n")
    assert all(parser.feed(block) is block for parser in (by_length, by_end) for _ in range(100))
    assert all(by_chunk.feed(block) == block for _ in range(100))


def test_nothing_is_kept_of_chunks_however_small_they_are_and_however_they_arrive() -> None:
    parser, data = in_chunks(), chunk(b"a") * 5000 + b"1;ext=1\r\na\r\n" * 500
    parser.feed(data)
    tracemalloc.start()
    try:
        for _ in range(5):
            assert len(parser.feed(data)) == 5500
        for at in range(0, len(data), 3):
            parser.feed(data[at : at + 3])
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 10_000


# -- any answer, any split ---------------------------------------------------------------------

NAMES = st.text("abcXYZ-_!#09", min_size=1, max_size=9).map(lambda name: "x-" + name)
VALUES = st.text(st.characters(min_codepoint=32, max_codepoint=255, exclude_categories=["Cc"]), max_size=20)
BLANKS = st.sampled_from([b"", b" ", b"\t", b" \t "])
EXTENSIONS = st.sampled_from([b"", b" ", b";a", b";a=b", b' ; a = "b;\\"\xff"', b";a;b=c \t"])


@st.composite
def answers(draw: st.DrawFn) -> tuple[bytes, Reading]:
    """A valid answer as an engine might put it, and how it is to be read."""
    before = draw(st.lists(st.sampled_from([CONTINUE, b"\r\n"]), max_size=3))
    status = draw(st.sampled_from([200, 200, 201, 204, 304, 400, 503, 999]))
    version, framing = draw(st.sampled_from([(1, "length"), (1, "chunks"), (1, "end"), (0, "length"), (0, "end")]))
    headers = draw(st.lists(st.tuples(NAMES, VALUES), max_size=5))
    body = draw(st.binary(max_size=60))
    if framing == "length":
        headers.insert(draw(st.integers(0, len(headers))), ("Content-Length", str(len(body))))
        framed = body
    elif framing == "chunks":
        headers.insert(draw(st.integers(0, len(headers))), ("Transfer-Encoding", "chunked"))
        framed, rest = b"", body
        while rest:
            size = draw(st.integers(1, len(rest)))
            form = draw(st.sampled_from([b"%x", b"%X", b"%04x"]))
            framed += form % size + draw(EXTENSIONS) + b"\r\n" + rest[:size] + b"\r\n"
            rest = rest[size:]
        trailers = draw(st.lists(st.tuples(NAMES, VALUES), max_size=2))
        framed += b"0" + draw(EXTENSIONS) + b"\r\n"
        framed += b"".join(f"{name}: {value}\r\n".encode("latin-1") for name, value in trailers) + b"\r\n"
    else:
        framed = body
    head = b"HTTP/1.%d %d" % (version, status) + draw(st.sampled_from([b"", b" ", b" OK", b" \xe9 x"])) + b"\r\n"
    for name, value in headers:
        head += name.encode() + b":" + draw(BLANKS) + value.encode("latin-1") + draw(BLANKS) + b"\r\n"
    if status in (204, 304):
        framed = body = b""
    sent = [(name.lower(), value.strip(" \t")) for name, value in headers]
    return b"".join(before) + head + b"\r\n" + framed, Reading("whole", status, sent, body)


@given(answers(), st.lists(st.integers(0, 1000), max_size=9))
def test_any_valid_answer_is_read_as_it_was_meant_in_any_split(made: tuple[bytes, Reading], cuts: list[int]) -> None:
    answer, meant = made
    assert read(answer) == meant
    assert read_by_us(list(split(answer, cuts))) == meant


@given(answers(), st.data())
def test_a_part_of_a_valid_answer_is_never_broken(made: tuple[bytes, Reading], data: st.DataObject) -> None:
    """It is cut, or whole already where only the connection's end ends it; what came is the beginning of the body."""
    answer, meant = made
    reading = read(answer[: data.draw(st.integers(0, len(answer) - 1))])
    assert reading.verdict != "malformed" and meant.body.startswith(reading.body)
    if {"content-length", "transfer-encoding"} & {name for name, _ in meant.headers} and meant.body:
        assert reading.verdict == "cut"


@pytest.mark.parametrize("byte", [b"\0", b"g", b" ", b"-", b"\n"])
def test_what_cannot_begin_a_chunks_size_is_refused_at_once(byte: bytes) -> None:
    """Not when its line ends: behind it may be nothing but silence."""
    parser = AnswerParser()
    assert parser.feed(OK + CHUNKED + b"\r\n" + chunk(b"abc")) == b"abc"
    with pytest.raises(Malformed):
        parser.feed(byte)
