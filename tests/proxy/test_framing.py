"""Own events only between complete events: any split of a stream gives the same bytes, cut at event ends only."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.proxy.framing import TAIL_MAX, EventCutter

EVENT_END = re.compile(rb"(?:\r\n|\n|\r)(?:\r\n|\n|\r)$")
LINE_ENDS = st.sampled_from([b"\n", b"\r\n", b"\r"])
LINES = st.sampled_from([b"data: {}", b"event: x", b": comment", b"data: [DONE]", b"id: 1", b'data: "a\\n\\nb"'])


@st.composite
def streams(draw: st.DrawFn) -> bytes:
    """Events with one line end each; the last may be unfinished."""
    made = b""
    for _ in range(draw(st.integers(0, 5))):
        end = draw(LINE_ENDS)
        made += b"".join(line + end for line in draw(st.lists(LINES, min_size=1, max_size=3))) + end
    return made + draw(st.sampled_from([b"", b"data: unfin", b"data: x\n", b"data: y\r\n"]))


@given(streams(), st.lists(st.integers(1, 9), min_size=1, max_size=30))
def test_any_split_gives_the_same_bytes_and_stops_between_events(stream: bytes, sizes: list[int]) -> None:
    cutter, sent, place = EventCutter(), b"", 0
    while place < len(stream):
        size = sizes[place % len(sizes)]
        passed = cutter.feed(stream[place : place + size])
        place += size
        sent += passed
        assert stream.startswith(sent)
        assert not passed or EVENT_END.search(sent), sent
        assert not cutter.cut_only
    assert sent + cutter.rest() == stream


@given(streams())
def test_an_undivided_stream_passes_up_to_its_last_complete_event(stream: bytes) -> None:
    cutter = EventCutter()
    passed = cutter.feed(stream)
    ends = [match.end(1) for match in re.finditer(rb"(?=(\n\n|\n\r\n|\r\r))", stream)]
    assert len(passed) == max(ends, default=0)


def test_whole_events_are_passed_as_the_same_object() -> None:
    """The usual case costs neither a copy nor a search."""
    data = b"data: 1\n\ndata: 2\n\n"
    assert EventCutter().feed(data) is data


@pytest.mark.parametrize("end", [b"\n\n", b"\r\n\r\n", b"\r\r", b"\n\r\n"])
def test_an_event_end_is_found_in_any_split(end: bytes) -> None:
    for split in range(len(end) + 1):
        cutter = EventCutter()
        passed = cutter.feed(b"data: a" + end[:split]) + cutter.feed(end[split:] + b"data: b")
        assert passed == b"data: a" + end
        assert cutter.rest() == b"data: b"


def test_an_event_longer_than_the_tail_flows_and_allows_only_a_cut_until_it_ends() -> None:
    cutter = EventCutter()
    long = b"data: " + b"x" * TAIL_MAX
    assert cutter.feed(long[:1000]) == b""
    assert cutter.feed(long[1000:]) == long
    assert cutter.cut_only
    assert cutter.feed(b"more") == b"more"
    assert cutter.cut_only
    assert cutter.feed(b" and more\n") == b" and more\n"
    assert cutter.feed(b"\ndata: next") == b"\n"
    assert not cutter.cut_only
    assert cutter.rest() == b"data: next"


def test_a_stream_in_single_bytes_is_not_copied_over_and_over() -> None:
    cutter = EventCutter()
    for _ in range(TAIL_MAX):
        assert cutter.feed(b"x") == b""
    assert cutter.feed(b"x") == b"x" * (TAIL_MAX + 1)


def test_it_says_what_it_holds() -> None:
    cutter = EventCutter()
    cutter.feed(b"data")
    assert repr(cutter) == "<EventCutter keeps 4 bytes>"
