"""Who was told to come back finds its place again: once, in time, and nobody else's."""

from hypothesis import given
from hypothesis import strategies as st

from gateway.policy.returning import Returning


def test_who_comes_back_in_time_finds_its_place_once() -> None:
    returning: Returning[str] = Returning(8)
    assert returning.keep(b"a", "first", until=10) == []
    assert returning.take(b"b", now=5) is None
    assert returning.take(b"a", now=9.9) == "first"
    assert returning.take(b"a", now=9.9) is None and len(returning) == 0


def test_the_same_request_twice_has_two_places_and_the_older_is_found_first() -> None:
    returning: Returning[str] = Returning(8)
    returning.keep(b"a", "first", until=10)
    returning.keep(b"a", "second", until=10)
    assert [returning.take(b"a", now=1) for _ in range(3)] == ["first", "second", None]


def test_who_comes_too_late_finds_nothing_and_a_later_place_of_its_own_all_the_same() -> None:
    returning: Returning[str] = Returning(8)
    returning.keep(b"a", "old", until=10)
    returning.keep(b"a", "new", until=20)
    assert returning.take(b"a", now=15) == "new"
    assert returning.expired(now=15) == ["old"] and not returning


def test_the_place_that_ends_first_makes_room() -> None:
    returning: Returning[int] = Returning(2)
    returning.keep(b"a", 1, until=30)
    returning.keep(b"b", 2, until=10)
    assert returning.keep(b"c", 3, until=20) == [2]
    assert returning.take(b"b", now=0) is None and returning.take(b"a", now=0) == 1


@given(st.lists(st.tuples(st.sampled_from(["keep", "take", "expire"]), st.sampled_from([b"a", b"b", b"c"]))))
def test_every_place_that_was_kept_comes_out_exactly_once(steps: list[tuple[str, bytes]]) -> None:
    """Found, expired or made room for: whoever holds something for it is told once."""
    returning: Returning[int] = Returning(3)
    out: list[int] = []
    kept = 0
    for now, (step, who) in enumerate(steps):
        if step == "keep":
            out += returning.keep(who, kept, until=now + 2)
            kept += 1
        elif step == "expire":
            out += returning.expired(now)
        elif (place := returning.take(who, now)) is not None:
            out.append(place)
        assert len(returning) <= 3
    out += returning.expired(len(steps) + 3)
    assert sorted(out) == list(range(kept)) and not returning
