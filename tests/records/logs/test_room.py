"""Which logs have to go."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.records.logs import names
from gateway.records.logs.names import parse
from gateway.records.logs.room import (
    BLOCK,
    LEAST,
    LIVE,
    Entry,
    count_live,
    is_live,
    limit_of_one,
    what_to_compress,
    what_to_remove,
)

NOW = 1_795_262_400.0
MIB = 1 << 20
OURS = {"20261121T000000Z_me"}


def entry(file: str, size: int = MIB, age: float = 0.0, **more: Any) -> Entry:
    name = parse(file)
    assert name is not None
    return Entry("llama", file, name, size, NOW - age, **more)


def live(worker: str, **more: Any) -> Entry:
    return entry(f"20261121T000000Z_{worker}.txt", **more)


def old(worker: str, age: float, size: int = MIB, end: str = ".gz", **more: Any) -> Entry:
    return entry(names.rotated(f"20261121T000000Z_{worker}.txt", NOW - age) + end, size, **more)


def files(going: list[Entry]) -> list[str]:
    return [entry.file for entry in going]


def test_nothing_goes_while_all_fits() -> None:
    assert what_to_remove([live("me"), old("a", 50), old("b", 90)], 100 * MIB, NOW, OURS, MIB) == []


def test_the_oldest_goes_first_whoever_wrote_it() -> None:
    young, middle, oldest = old("me", 10), old("a", 50), old("b", 90)
    assert what_to_remove([young, middle, oldest], 2 * MIB, NOW, OURS, MIB) == [oldest]
    assert what_to_remove([young, middle, oldest], MIB, NOW, OURS, MIB) == [oldest, middle]


def test_age_is_that_of_the_rotation_not_of_the_compressing() -> None:
    first, second = old("a", 90), old("b", 50)
    assert what_to_remove([second, first], MIB, NOW, OURS, MIB) == [first]


def test_a_live_file_never_goes_whoever_writes_it() -> None:
    """Ours however old its time is; another's when it was touched lately, or when its lock is held."""
    ours, touched, held = live("me", age=1e6), live("a", age=LIVE - 1), live("b", age=1e6, is_held=True)
    assert what_to_remove([ours, touched, held], 0, NOW, OURS, MIB) == []
    dead = live("c", age=LIVE)
    assert what_to_remove([ours, touched, held, dead], 0, NOW, OURS, MIB) == [dead]


def test_a_live_file_counts_with_what_it_may_grow_to() -> None:
    """Or else the cap would only hold at the moments of looking."""
    small = live("me", size=10)
    history = [old("a", age) for age in (10, 20, 30)]
    assert what_to_remove([small, *history], 4 * MIB, NOW, OURS, MIB) == []
    assert what_to_remove([small, *history], 4 * MIB - 1, NOW, OURS, MIB) == [history[2]]


@pytest.mark.parametrize(("live_files", "limit"), [(1, 20 * MIB), (2, 20 * MIB), (10, 10 * MIB), (10_000, LEAST)])
def test_the_more_workers_write_the_sooner_each_rotates(live_files: int, limit: int) -> None:
    assert limit_of_one(200 * MIB, live_files, 20 * MIB) == limit


def test_a_time_far_ahead_is_no_sign_of_life() -> None:
    """A worker whose clock was wrong once would otherwise keep its file forever."""
    assert not is_live(live("a", age=-2 * LIVE), NOW, OURS)
    assert is_live(live("a", age=-30), NOW, OURS), "clocks may disagree a little"


def test_what_a_dead_process_left_half_made_goes_though_all_fits() -> None:
    fresh = old("a", 50, end=".gz.tmp")
    left = entry(names.rotated("20261121T000000Z_b.txt", NOW - 9) + ".gz.tmp", age=LIVE)
    mine = entry(names.rotated("20261121T000000Z_me.txt", NOW - 9) + ".gz.tmp", age=LIVE)
    assert what_to_remove([fresh, left, mine], 100 * MIB, NOW, OURS, MIB) == [left, mine]


def test_latest_is_never_removed() -> None:
    assert what_to_remove([entry("latest.txt", age=1e6)], 0, NOW, OURS, MIB) == []


def test_a_hundred_thousand_tiny_files_are_not_nothing() -> None:
    tiny = [old("a", age, size=1) for age in range(100)]
    assert len(what_to_remove(tiny, 50 * BLOCK, NOW, OURS, MIB)) == 50


def test_what_was_rotated_is_compressed_by_its_worker_at_once_and_later_by_anybody() -> None:
    mine, theirs = old("me", 1, end=""), old("a", LIVE - 1, end="")
    orphan = _aged(old("b", LIVE + 1, end=""), LIVE + 1)
    assert what_to_compress([mine, theirs, orphan, old("me", 5), live("me")], NOW, OURS) == [orphan, mine]


def _aged(entry: Entry, age: float) -> Entry:
    return Entry(entry.folder, entry.file, entry.name, entry.size, NOW - age)


def test_the_engines_are_left_until_its_guard_has_surely_let_go() -> None:
    def engines(age: float) -> Entry:
        return _aged(entry(names.rotated("20261121T000000Z_me_engine.txt", NOW - age)), age)

    assert what_to_compress([engines(29)], NOW, OURS) == []
    assert len(what_to_compress([engines(31)], NOW, OURS)) == 1


@st.composite
def volumes(draw: st.DrawFn) -> list[Entry]:
    worker = st.sampled_from(["me", "a", "b", "c"])
    ages = st.floats(-2 * LIVE, 5 * LIVE)
    sizes = st.integers(0, 3 * MIB)
    found: dict[str, Entry] = {}
    for _ in range(draw(st.integers(0, 25))):
        file = f"20261121T000000Z_{draw(worker)}{draw(st.sampled_from(['', '_engine']))}.txt"
        age = draw(ages)
        if draw(st.booleans()):
            file = names.rotated(file, NOW - age) + draw(st.sampled_from(["", ".gz", ".gz.tmp"]))
        found[file] = entry(file, draw(sizes), draw(ages), is_held=draw(st.booleans()))
    return list(found.values())


@given(entries=volumes(), cap=st.integers(0, 50 * MIB), max_size=st.integers(1, 20 * MIB))
def test_what_goes_is_enough_and_not_too_much_and_never_live(entries: list[Entry], cap: int, max_size: int) -> None:
    going = what_to_remove(entries, cap, NOW, OURS, max_size)
    left = [entry for entry in entries if entry not in going]
    assert len(set(files(going))) == len(going)
    assert not any(is_live(entry, NOW, OURS) for entry in going)
    whole = [entry for entry in going if not entry.name.is_unfinished]
    kept = [e for e in left if not is_live(e, NOW, OURS)]
    assert all(gone.since(NOW) <= stays.since(NOW) for gone in whole for stays in kept), "the oldest first"
    limit = limit_of_one(cap, count_live(entries, NOW, OURS), max_size)

    def taken(some: list[Entry]) -> int:
        return sum(max(e.room, limit) if is_live(e, NOW, OURS) and not e.name.is_unfinished else e.room for e in some)

    assert not kept or taken(left) <= cap, "enough"
    if whole:
        assert taken([*left, whole[-1]]) > cap, "the last one had to go"
    assert what_to_remove(left, cap, NOW, OURS, max_size) == [], "a second look finds nothing to do"


@given(entries=volumes(), cap=st.integers(4 * LEAST * 50, 50 * MIB), max_size=st.integers(LEAST, 20 * MIB))
def test_live_files_that_obey_their_limit_leave_half_the_cap_to_history(
    entries: list[Entry], cap: int, max_size: int
) -> None:
    count = count_live(entries, NOW, OURS)
    assert count * limit_of_one(cap, count, max_size) <= cap / 2
