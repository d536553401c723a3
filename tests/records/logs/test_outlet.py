"""A bounded queue, and the thread behind it."""

import threading
import time
from collections.abc import Callable, Iterator

import pytest

from gateway.records.logs import outlet
from gateway.records.logs.outlet import Gap, Outlet


class Place:
    """Takes what it is let take."""

    def __init__(self) -> None:
        self.trouble = ""
        self.got = b""
        self.takes = 1 << 30
        self.gate = threading.Event()
        self.gate.set()
        self.looks = 0
        self.is_closed = False

    def write(self, data: bytes) -> int:
        self.gate.wait(10)
        taken = data[: self.takes]
        self.got += taken
        self.trouble = "" if taken == data else "full"
        return len(taken)

    def look(self) -> None:
        self.looks += 1

    def close(self) -> None:
        self.is_closed = True


def note(gap: Gap) -> bytes:
    return f"({gap.lines} lines, {gap.size} bytes: {gap.reason})\n".encode()


@pytest.fixture
def place() -> Place:
    return Place()


@pytest.fixture
def make(place: Place) -> Iterator[Callable[..., Outlet]]:
    made: list[Outlet] = []

    def start(limit: int = 100, retry_every: float = 0.01) -> Outlet:
        one = Outlet("test", place, note=note, limit=limit, retry_every=retry_every, look_every=0.01)
        made.append(one)
        one.start()
        return one

    yield start
    place.gate.set()
    place.takes = 1 << 30
    for one in made:
        one.ask_to_close()
        assert one.join(5)


def test_lines_come_out_in_their_order(make: Callable[..., Outlet], place: Place) -> None:
    out = make(limit=1 << 20)
    for number in range(1000):
        out.put(b"%d\n" % number)
    assert out.flush(5)
    assert place.got == b"".join(b"%d\n" % number for number in range(1000))


def test_what_hangs_holds_up_nobody(make: Callable[..., Outlet], place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outlet, "STUCK", 0.02)
    place.gate.clear()
    out = make()
    began = time.perf_counter()
    for number in range(1000):
        out.put(b"line %03d\n" % number)
    assert time.perf_counter() - began < 1
    assert not out.flush(0.03)
    assert out.trouble.startswith("no answer for"), "and says so while it lasts"
    out.put(b"one more\n")
    place.gate.set()
    assert out.flush(5) and not out.trouble
    out.put(b"after\n")
    assert out.flush(5)
    kept = place.got.splitlines()
    assert kept[:11] == [b"line %03d" % number for number in range(11)], "what fitted the queue is kept"
    assert kept[-1] == b"after" and kept[-2].startswith(b"(990 lines, "), "and the rest counted where it is missing"
    assert out.dropped_lines == 990


def test_what_could_not_be_written_is_tried_again_from_there(make: Callable[..., Outlet], place: Place) -> None:
    out = make(limit=1 << 20, retry_every=60)
    place.takes = 4
    out.put(b"one\ntwo\nthree\n")
    while not out.trouble:
        time.sleep(0.001)
    assert place.got == b"one\n" and out.trouble == "full"
    place.takes = 1 << 30
    assert out.flush(5), "a flush does not wait for the next try"
    assert place.got == b"one\ntwo\nthree\n" and not out.trouble


def test_lines_that_were_lost_elsewhere_are_told_without_any_further_line(
    make: Callable[..., Outlet], place: Place
) -> None:
    out = make()
    out.drop(7, 0)
    while b"(7 lines" not in place.got:
        time.sleep(0.001)
    assert b"too many lines at once" in place.got


def test_a_batch_larger_than_the_queue_passes_an_empty_one(make: Callable[..., Outlet], place: Place) -> None:
    out = make(limit=10)
    out.put(b"a line that is longer than that\n")
    assert out.flush(5) and b"longer" in place.got and out.dropped_lines == 0


def test_the_place_is_looked_at_also_when_nothing_is_written(make: Callable[..., Outlet], place: Place) -> None:
    make()
    while place.looks < 3:
        time.sleep(0.001)
    assert place.got == b""


def test_closing_writes_what_is_there(make: Callable[..., Outlet], place: Place) -> None:
    out = make()
    out.put(b"last\n")
    out.ask_to_close()
    assert out.join(5) and place.got == b"last\n" and place.is_closed


def test_closing_tries_once_where_it_does_not_work(make: Callable[..., Outlet], place: Place) -> None:
    out = make(retry_every=60)
    place.takes = 0
    out.put(b"last\n")
    while not out.trouble:
        time.sleep(0.001)
    out.ask_to_close()
    assert out.join(5) and out.waiting and place.is_closed


def test_closing_leaves_behind_what_hangs(make: Callable[..., Outlet], place: Place) -> None:
    place.gate.clear()
    out = make()
    out.put(b"last\n")
    out.ask_to_close()
    began = time.monotonic()
    assert not out.join(0.05)
    assert time.monotonic() - began < 1
