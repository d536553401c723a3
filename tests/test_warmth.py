"""Kept up without being asked: by order, by schedule, and no longer than either says."""

from datetime import UTC, datetime

import pytest

from gateway.policy.schedule import Schedule
from gateway.warmth import Warmth

NOON = datetime(2026, 11, 20, 12, tzinfo=UTC).timestamp()
"""A Friday."""


class Clocks:
    """A warmth with two clocks that a test moves; `heard` is what the conductor was told."""

    def __init__(self, *schedule: str) -> None:
        self.now, self.wall = 1000.0, NOON
        self.heard: list[float | None] = []
        self.warmth = Warmth(
            self.heard.append, Schedule.of(schedule, lambda name: UTC), clock=lambda: self.now, wall=lambda: self.wall
        )

    def after(self, seconds: float) -> list[float | None]:
        """What was heard since the last time, once so much time has passed."""
        self.now += seconds
        self.wall += seconds
        self.warmth.beat()
        heard = self.heard[:]
        self.heard.clear()
        return heard


def test_without_order_and_schedule_nothing_is_ever_said() -> None:
    clocks = Clocks()
    assert clocks.after(0) + clocks.after(10) + clocks.after(86_400) == []
    assert clocks.warmth.facts() == {"warm_until": None}


def test_an_order_is_told_at_once_and_once_and_when_it_is_over() -> None:
    clocks = Clocks()
    clocks.warmth.order(7200)
    assert clocks.heard == [8200.0]
    assert clocks.warmth.facts() == {"warm_until": "2026-11-20T14:00:00Z", "warm_by": "keep-warm"}
    clocks.heard.clear()
    assert clocks.after(3600) == []
    assert clocks.after(3600) == [None]
    assert clocks.after(3600) == []


def test_a_new_order_replaces_a_longer_one_and_an_end_ends_it() -> None:
    clocks = Clocks()
    clocks.warmth.order(7200)
    clocks.warmth.order(60)
    clocks.warmth.end()
    assert clocks.heard == [8200.0, 1060.0, None]


def test_a_span_begins_and_ends_as_it_is_written() -> None:
    clocks = Clocks("Fri 13:00-14:00")
    assert clocks.after(0) == [] and clocks.warmth.facts()["warm_next"] == "2026-11-20T13:00:00Z"
    assert clocks.after(3600) == [1000.0 + 7200]
    assert clocks.warmth.facts() == {"warm_until": "2026-11-20T14:00:00Z", "warm_by": "WARM_SCHEDULE"}
    assert clocks.after(1800) == []
    assert clocks.after(1800) == [None]
    assert clocks.warmth.facts()["warm_next"] == "2026-11-27T13:00:00Z"


def test_a_gateway_that_begins_within_a_span_keeps_it_to_its_end() -> None:
    assert Clocks("Fri 11:00-13:00").after(0) == [1000.0 + 3600]


def test_the_later_of_order_and_span_holds() -> None:
    clocks = Clocks("Fri 11:00-13:00")
    clocks.after(0)
    clocks.warmth.order(60)
    assert clocks.after(0) == [], "the span is longer"
    clocks.warmth.order(7200)
    assert clocks.heard == [8200.0] and clocks.warmth.facts()["warm_by"] == "keep-warm"
    clocks.heard.clear()
    assert clocks.after(3600) == []
    assert clocks.after(3600) == [None]


def test_why_it_is_warm_is_right_though_time_goes_on_meanwhile() -> None:
    clocks = Clocks("Fri 11:00-13:00")
    ticks = iter(range(1000))
    warmth = Warmth(
        clocks.heard.append,
        Schedule.of(["Fri 11:00-13:00"], lambda name: UTC),
        clock=lambda: 1000.0 + next(ticks) / 1000,
        wall=lambda: NOON + next(ticks) / 1000,
    )
    assert warmth.facts()["warm_by"] == "WARM_SCHEDULE"


def test_an_end_holds_for_the_rest_of_a_span_and_not_for_the_next() -> None:
    clocks = Clocks("daily 11:00-13:00")
    clocks.after(0)
    clocks.warmth.end()
    assert clocks.heard == [None]
    clocks.heard.clear()
    assert clocks.after(1800) + clocks.after(1800) == []
    assert clocks.after(22 * 3600) == [clocks.now + 7200]


def test_an_order_after_an_end_holds_within_the_same_span() -> None:
    clocks = Clocks("daily 11:00-13:00")
    clocks.after(0)
    clocks.warmth.end()
    clocks.warmth.order(60)
    assert clocks.heard == [None, 1060.0]


def test_a_clock_that_is_put_right_moves_the_end_of_a_span() -> None:
    clocks = Clocks("Fri 11:00-13:00")
    clocks.after(0)
    clocks.wall += 1.0
    assert clocks.after(0) == [], "what clocks drift is not worth a word"
    clocks.wall += 600.0
    assert clocks.after(0) == [1000.0 + 3600 - 601]
    clocks.wall -= 86_400
    assert clocks.after(0) == [None], "it is Thursday"


def test_a_schedule_without_an_end_never_lapses() -> None:
    clocks = Clocks("00:00-24:00")
    heard = clocks.after(0)
    for _ in range(24 * 20):
        heard += clocks.after(3600)
        assert None not in heard and heard[-1] is not None and heard[-1] > clocks.now + 6 * 86_400


def test_what_may_not_be_paid_is_wished_for_again_once_it_may() -> None:
    """A start that the budget refuses each time would be tried again all night."""
    clocks, may = Clocks(), [False]
    clocks.warmth = Warmth(
        clocks.heard.append,
        Schedule.of(["Fri 11:00-13:00"], lambda name: UTC),
        clock=lambda: clocks.now,
        wall=lambda: clocks.wall,
        may=lambda: may[0],
    )
    assert clocks.after(0) + clocks.after(60) == []
    may[0] = True
    assert clocks.after(0) == [1000.0 + 3600]
    may[0] = False
    assert clocks.after(60) + clocks.after(60) == [None]


@pytest.mark.parametrize("schedule", [(), ("Fri 11:00-13:00",)])
def test_its_repr_says_until_when(schedule: tuple[str, ...]) -> None:
    clocks = Clocks(*schedule)
    clocks.warmth.order(7200)
    assert "8200.0" in repr(clocks.warmth)
