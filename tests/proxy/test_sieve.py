"""What is taken out of a body is nothing but the inside of a string, and with it the body is what it was."""

import itertools
import json
import random
from json.decoder import scanstring

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import Refused
from gateway.proxy.checks import Rules, check
from gateway.proxy.sieve import KEPT, LEAST, WINDOW, Sieve, _content, _is_edge

CHAT = "/v1/chat/completions"


def sifted(raw: bytes, *cuts: int) -> Sieve:
    """Given in pieces that are cut at these places; without any, in reads of a usual size."""
    sieve = Sieve("0123456789abcdef" * 2, room=len(raw))
    places = [0, *(sorted(cuts) or range(100_000, len(raw), 100_000)), len(raw)]
    for begin, end in itertools.pairwise(places):
        sieve.take(raw[begin:end])
    sieve.finish()
    return sieve


def put_back(sieve: Sieve, written: bytes) -> bytes:
    """A written rest with what was taken out in the place of each mark."""
    first, *others = written.split(sieve.mark.encode())
    assert len(others) == len(sieve.holes)
    return first + b"".join(b"".join(hole) + other for hole, other in zip(sieve.holes, others, strict=True))


def chat(*texts: str, **fields: object) -> dict[str, object]:
    return {"model": "m", "messages": [{"role": "user", "content": text} for text in texts], **fields}


TEXTS = {
    "a picture": "data:image/png;base64," + "QUJD" * 50_000,
    "plain": "The quick brown fox, again. " * 10_000,
    "lines": "Some lines.\nOf \t a \\ document\u007f with \u0001 controls.\n" * 5_000,
    "quotes": 'He said: "no", and C:\\path\\"s.\\\\' * 8_000,
    "Chinese": "你好，世界。" * 15_000,
    "emoji": "\U0001f600 ä " * 30_000,
    "slashes": "https://example.org/a/b/c " * 10_000,
}


@pytest.mark.parametrize("ascii_only", [True, False], ids=["escaped", "UTF-8"])
@pytest.mark.parametrize("name", TEXTS)
def test_a_long_text_is_taken_out_and_comes_back_as_a_check_of_the_whole_writes_it(name: str, ascii_only: bool) -> None:
    raw = json.dumps(chat("hi", TEXTS[name], "bye", max_tokens=5), ensure_ascii=ascii_only).encode()
    sieve = sifted(raw)
    whole = check(raw, CHAT, Rules())
    checked = check(sieve.rest, CHAT, Rules(), mark=sieve.mark)
    assert put_back(sieve, checked.whole()) == whole.whole()
    assert checked.facts == whole.facts
    assert sieve.holes
    assert sieve.rest_size < 2 * WINDOW + 2 * KEPT
    assert json.loads(b"".join(sieve.pieces())) == json.loads(raw)
    assert sieve.size == len(raw)


def test_several_texts_are_taken_out_each_in_its_place() -> None:
    raw = json.dumps(chat(*(letter * 200_000 for letter in "abcdef"))).encode()
    sieve = sifted(raw)
    assert len(sieve.holes) == 6
    assert put_back(sieve, check(sieve.rest, CHAT, Rules(), mark=sieve.mark).whole()) == raw.replace(
        b'": ', b'":'
    ).replace(b", ", b",")


def test_short_texts_and_structure_stay() -> None:
    for document in (chat(*["x" * 500] * 1_000), {"input": list(range(90_000))}, {"input": [[]] * 90_000}):
        raw = json.dumps(document).encode()
        sieve = sifted(raw)
        assert not sieve.holes
        assert sieve.rest == raw


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_any_split_of_any_texts_gives_the_same_body(data: st.DataObject) -> None:
    """In reads of every size, with every kind of character at the edges."""
    seed = random.Random(data.draw(st.integers(0, 2**32)))
    alphabet = data.draw(st.sampled_from(["a", 'ab"\\\n', "äab", "好\U0001f600a", "a/\u0000", "\u2028\U0001f600\\b"]))
    texts = ["".join(seed.choices(alphabet, k=seed.randrange(150_000))) for _ in range(seed.randrange(1, 4))]
    indent = data.draw(st.sampled_from([None, 1]))
    raw = json.dumps(chat(*texts), ensure_ascii=data.draw(st.booleans()), indent=indent).encode()
    cuts = [seed.randrange(len(raw) + 1) for _ in range(seed.randrange(12))]
    sieve = sifted(raw, *cuts)
    checked = check(sieve.rest, CHAT, Rules(), mark=sieve.mark)
    assert put_back(sieve, checked.whole()) == check(raw, CHAT, Rules()).whole()


@given(st.text(alphabet='a\\"\x00é好\U0001f600/', min_size=1, max_size=12), st.booleans())
def test_an_edge_is_where_both_sides_are_whole(text: str, ascii_only: bool) -> None:
    """In a long text it is enough to know some edges; those that are found have to be edges."""
    inside = json.dumps(text, ensure_ascii=ascii_only).encode()[1:-1]
    for place in range(1, len(inside) + 1):
        if _is_edge(inside, place):
            assert _content(inside[:place]) is not None
            assert _content(inside[place:]) is not None
        elif place < len(inside):
            assert _content(inside[:place]) is None or _content(inside[place:]) is None


# -- proofs --------------------------------------------------------------------------------------------------------


def content_by_python(text: bytes) -> bytes | None:
    """What `_content` has to say, in the words of Python's parser."""
    try:
        value, end = scanstring(text.decode() + '"', 0, True)
        if end != len(text.decode()) + 1:
            return None
        return json.dumps(value, ensure_ascii=False).encode()[1:-1]
    except ValueError:  # lone surrogates cannot be encoded
        return None


def same_content(text: bytes) -> None:
    ours, pythons = _content(text), content_by_python(text)
    assert (ours is None) == (pythons is None), text
    assert ours is None or json.loads(b'"%b"' % ours) == json.loads(b'"%b"' % text)
    assert ours is None or ours == pythons, text


def test_every_byte_and_every_pair_of_bytes_is_judged_as_python_judges_them() -> None:
    for byte in range(256):
        same_content(bytes([byte]))
        same_content(b"abc" + bytes([byte]) + b"abc" * 30)
        same_content(b"\\" + bytes([byte]))
        same_content(b"\\u00" + bytes([byte]) + b"0")
    for pair in itertools.product(range(256), repeat=2):
        same_content(bytes(pair))


def test_every_beginning_of_a_character_in_utf8_is_judged_as_python_judges_it() -> None:
    edges = [0x00, 0x22, 0x41, 0x5C, 0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC0, 0xC2, 0xE0, 0xED, 0xF0, 0xF4, 0xFF]
    for first in range(0xC0, 0x100):
        for rest in itertools.product(edges, repeat=2):
            same_content(bytes([first, *rest]))
            same_content(bytes([first, *rest, 0x80]))


def test_every_surrogate_is_judged_as_python_judges_it() -> None:
    halves = ["d7ff", "d800", "dBfF", "dc00", "dfff", "e000", "0022", "005c", "0000", "001f", "D83D", "De00"]
    for one, two in itertools.product(halves, repeat=2):
        for text in (f"\\u{one}\\u{two}", f"\\u{one}a\\u{two}", f"\\\\u{one}\\u{two}", f"\\u{one}\\n\\u{two}"):
            same_content(text.encode())


@given(st.binary(max_size=40) | st.text(alphabet='\\u0dDc8"/nab\x00é', max_size=30).map(str.encode))
def test_any_bytes_are_judged_as_python_judges_them(text: bytes) -> None:
    same_content(text)


def test_no_piece_that_was_taken_out_could_end_its_string() -> None:
    for piece in (b'a"', b'"', b"a\\", b"\\u12", b"\xc3", b"\xa4a", b"\n", b"\\ud83d", b"\\ude00", b"\\x", b'a","b'):
        assert _content(piece * 1) is None


# -- where a mark may not stand ------------------------------------------------------------------------------------

LONG = "x" * (2 * WINDOW + KEPT + LEAST)


@pytest.mark.parametrize(
    "document",
    [
        {"model": "m", LONG: 1, "messages": []},
        {"model": "m", "messages": [{"role": "user", LONG: "hi"}]},
        {"model": LONG, "messages": []},
        chat("hi", grammar=LONG),
        chat("hi", response_format={"type": "json_schema", "json_schema": {"schema": {"d": LONG}}}),
        chat("hi", guided_choice=[LONG]),
        {"messages": [{"content": [{"type": "image_url", "image_url": {"url": "https://good.org/" + LONG}}]}]},
        {"messages": [{"content": [{"type": "image", "image": "https://good.org/" + LONG}]}]},
        {"input": [LONG, {"image_url": "https://other.org/a"}]},
    ],
    ids=lambda document: json.dumps(document)[:60],
)
def test_a_mark_where_the_text_matters_is_refused_and_only_the_whole_can_tell(document: dict[str, object]) -> None:
    sieve = sifted(json.dumps(document).encode())
    assert sieve.holes
    with pytest.raises(Refused):
        check(sieve.rest, CHAT, Rules(media_hosts=("good.org",), media_fetch=True), mark=sieve.mark)


@pytest.mark.parametrize("space", ["", " ", "\n\t\r "])
def test_a_key_is_found_whatever_stands_around_it(space: str) -> None:
    raw = f'{{"model":"m","a":["{LONG}"{space}],{space}"{LONG}\\"b"{space}:1}}'.encode()
    sieve = sifted(raw)
    assert len(sieve.holes) == 2
    with pytest.raises(Refused):
        check(sieve.rest, CHAT, Rules(), mark=sieve.mark)


def test_a_picture_of_any_size_may_stand_where_media_stands() -> None:
    part = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + LONG}}
    sieve = sifted(json.dumps({"messages": [{"content": [part]}]}).encode())
    assert sieve.holes
    assert check(sieve.rest, CHAT, Rules(), mark=sieve.mark)


@pytest.mark.parametrize(
    "raw",
    [
        b'{"a":"' + LONG.encode(),  # never closed
        b'{"a":1}"' + LONG.encode() + b'"',
        b'{"a":"' + LONG.encode() + b'"',
        b'"' + LONG.encode() + b'"',
        b'{"a":' + LONG.encode() + b"}",  # not a string
        b'{"a":"\\' + LONG.encode() + b'"}',  # an escape that is none
        b'{"a":"' + b"x" * (WINDOW - 9) + b"\\" + LONG.encode() + b'"}',
        b'{"a":"' + LONG.encode() + b'\\"}',
        b'{"a":"' + LONG.encode() + b"\n" + LONG.encode() + b'"}',
        b'{"a":"' + LONG.encode() + b"\xff" + LONG.encode() + b'"}',
        b'{"a":"' + LONG.encode() + b'","a":"' + LONG.encode() + b'"}',
        b'\\"{"a":"' + LONG.encode() + b'"}',
        b'{"model":"m"}\\"' + LONG.encode() * 2,
    ],
    ids=lambda raw: repr(raw[:20]),
)
def test_what_is_no_json_is_none_without_its_texts_either(raw: bytes) -> None:
    """Whatever the guess was of where strings are."""
    for cuts in ((), (1,), (7, WINDOW), tuple(range(0, len(raw), WINDOW))):
        sieve = sifted(raw, *cuts)
        with pytest.raises(Refused):
            check(sieve.rest, CHAT, Rules(), mark=sieve.mark)


@given(st.binary(max_size=300) | st.text(alphabet='{}[]",:\\u0 a', max_size=300).map(str.encode), st.integers(0, 300))
def test_no_bytes_around_a_long_text_make_a_body_of_what_is_none(noise: bytes, place: int) -> None:
    place = min(place, len(noise))
    raw = noise[:place] + LONG.encode() + noise[place:]
    sieve = sifted(raw)
    try:
        checked = check(sieve.rest, CHAT, Rules(), mark=sieve.mark)
    except Refused:
        return
    assert put_back(sieve, checked.whole()) == check(raw, CHAT, Rules()).whole()
