"""The ledger's time never goes back, and a clock that somebody sets costs an hour at most."""

from hypothesis import given
from hypothesis import strategies as st

from gateway.policy.books import DAY, HOUR, Books, Entry
from gateway.policy.ledger_clock import FROZEN_MOST, LedgerClock

NOON = 1_795_262_400_000
SECOND = 1_000


def test_time_passes_by_both_clocks() -> None:
    clock = LedgerClock(NOON, 50, latest=0)
    assert clock.now == NOON
    assert clock.read(NOON + SECOND, 50 + SECOND, 0) == NOON + SECOND and clock.leap is None


def test_a_wall_clock_that_goes_back_takes_nothing_back_and_time_goes_on() -> None:
    clock = LedgerClock(NOON, 0, latest=0)
    assert clock.read(NOON - HOUR, SECOND, 0) == NOON + SECOND
    assert clock.behind == HOUR + SECOND
    assert clock.read(NOON - HOUR + SECOND, 2 * SECOND, 0) == NOON + 2 * SECOND


def test_one_that_comes_back_to_where_it_was_leaps_nowhere() -> None:
    clock = LedgerClock(NOON, 0, latest=0)
    clock.read(NOON - DAY, SECOND, 0)
    assert clock.read(NOON + 2 * SECOND, 2 * SECOND, 0) == NOON + 2 * SECOND
    assert clock.leap is None and clock.behind == 0


def test_a_gateway_that_starts_behind_its_ledger_goes_on_from_there() -> None:
    clock = LedgerClock(NOON, 0, latest=NOON + DAY)
    assert clock.now == NOON + DAY and clock.behind == DAY
    assert clock.read(NOON + SECOND, SECOND, NOON + DAY) == NOON + DAY + SECOND


def test_what_may_have_been_a_frozen_machines_time_counts() -> None:
    clock = LedgerClock(NOON, 0, latest=0)
    assert clock.read(NOON + FROZEN_MOST + SECOND, SECOND, 0) == NOON + FROZEN_MOST + SECOND
    assert clock.leap is None


def test_a_longer_leap_is_a_line_and_time_goes_on_before_it_until_that_is_written() -> None:
    clock = LedgerClock(NOON, 0, latest=0)
    wall = NOON + 30 * DAY
    assert clock.read(wall, 0, 0) == NOON + FROZEN_MOST
    assert clock.leap == Entry("leapt", NOON + FROZEN_MOST, until=wall)
    assert clock.read(wall + SECOND, SECOND, 0) == NOON + FROZEN_MOST + SECOND
    assert clock.leap == Entry("leapt", NOON + FROZEN_MOST + SECOND, until=wall + SECOND)
    assert clock.read(wall + 3 * SECOND, 3 * SECOND, wall + SECOND) == wall + 3 * SECOND
    assert clock.leap is None


def test_a_leap_that_was_a_mistake_is_forgotten_unless_it_was_written() -> None:
    clock = LedgerClock(NOON, 0, latest=0)
    clock.read(NOON + 30 * DAY, 0, 0)
    assert clock.read(NOON + SECOND, SECOND, 0) == NOON + FROZEN_MOST + SECOND and clock.leap is None


def test_somebody_else_who_writes_to_the_same_ledger_is_not_in_the_future() -> None:
    clock = LedgerClock(NOON, 0, latest=0)
    assert clock.read(NOON + SECOND, SECOND, NOON + 10 * SECOND) == NOON + 10 * SECOND


def test_a_steady_clock_that_goes_back_is_not_believed() -> None:
    clock = LedgerClock(NOON, 10 * SECOND, latest=0)
    assert clock.read(NOON - HOUR, 0, 0) == NOON
    assert clock.read(NOON, 11 * SECOND, 0) == NOON + SECOND


steps = st.lists(st.tuples(st.integers(0, 600_000), st.integers(-3 * DAY, 3 * DAY), st.booleans()), max_size=20)


@given(steps)
def test_whatever_the_wall_clock_does_no_time_is_lost_and_each_leap_costs_an_hour_at_most(
    steps: list[tuple[int, int, bool]],
) -> None:
    """Of each step: how long it takes, by how much the wall clock is set in it, and whether a line can be written."""
    clock, books = LedgerClock(NOON, 0, latest=0), Books()
    rate = HOUR  # a micro-dollar a millisecond
    books.apply(Entry("intended", NOON, rental="wg", price=rate))
    wall, steady, set_ahead, last = NOON, 0, 0, NOON
    for takes, ahead, writable in steps:
        steady, wall = steady + takes, wall + takes + ahead
        set_ahead += ahead > 0
        now = clock.read(wall, steady, books.latest)
        assert now >= last
        last = now
        if writable and clock.leap is not None:
            books.apply(clock.leap)
            now = clock.read(wall, steady, books.latest)
            assert now >= wall and clock.leap is None
        cost = books.cost(books.rentals["wg"], now)
        assert steady <= cost <= steady + set_ahead * FROZEN_MOST
