"""Keeps the engine up without being asked: for as long as somebody ordered it (`wakegate keep-warm 2h`), and in the
spans of WARM_SCHEDULE. One owner of that wish: the conductor hears one moment, the later of the two.

An order to sleep, or that it is warm no longer, holds for the rest of a span too: the next span begins as it is
written. Spans go by the clock on the wall, orders by the loop's.
"""

from collections.abc import Callable
from datetime import UTC, datetime

from gateway.policy.schedule import Schedule, Span

LOOKED_UP_EVERY = 3600.0
"""Seconds for which a span is believed: one that always goes on (00:00-24:00) is longer each time."""
SAME = 2.0
"""Seconds by which the two clocks may drift apart before the conductor is told the end of a span anew."""


class Warmth:
    """Of one upstream. `beat` is called every second or so."""

    def __init__(
        self,
        keep: Callable[[float | None], None],
        schedule: Schedule,
        *,
        clock: Callable[[], float],
        wall: Callable[[], float],
        may: Callable[[], bool] = lambda: True,
    ) -> None:
        """`keep` hears until which moment of `clock` it is to be up, None: no longer (`Conductor.keep_warm`). `may`:
        whether that can be paid; while it cannot, nothing is wished for, and the wish is kept."""
        self._keep = keep
        self._may = may
        self._schedule = schedule
        self._clock = clock
        self._wall = wall
        self._ordered: float | None = None
        """Until when, on the loop's clock."""
        self._span: Span | None = None
        self._looked_up: float | None = None
        """Wall time at which `_span` was."""
        self._skipped = float("-inf")
        """Wall time before which no span counts: somebody wanted otherwise."""
        self._told: float | None = None

    def __repr__(self) -> str:
        return f"<Warmth until {self._until()} of {self._schedule!r}>"

    def order(self, seconds: float) -> None:
        """Up from now on for so long. Replaces an earlier order, also a longer one."""
        self._ordered = self._clock() + seconds
        self.beat()

    def end(self) -> None:
        """Neither the order nor the span that it is now counts any more."""
        self._ordered = None
        span = self._now()
        if span is not None:
            self._skipped = span.end
        self.beat()

    def beat(self) -> None:
        until = self._until()
        if until is None or not self._may():
            if self._told is not None:
                self._told = None
                self._keep(None)
        elif self._told is None or abs(until - self._told) > SAME:
            self._told = until
            self._keep(until)

    def facts(self) -> dict[str, object]:
        """For people: until when, why, and when the next span begins."""
        now, wall = self._clock(), self._wall()
        scheduled, until, span = self._scheduled(), self._until(), self._lookup(wall)
        found: dict[str, object] = {"warm_until": None if until is None else moment(wall + until - now)}
        if until is not None:
            longer = self._ordered is not None and (scheduled is None or self._ordered > scheduled)
            found["warm_by"] = "keep-warm" if longer else "WARM_SCHEDULE"
        if span is not None and not span.holds(wall):
            found["warm_next"] = moment(span.begin)
        return found

    def _until(self) -> float | None:
        ordered, scheduled = self._ordered, self._scheduled()
        if ordered is not None and ordered <= self._clock():
            self._ordered = ordered = None
        return max((each for each in (ordered, scheduled) if each is not None), default=None)

    def _scheduled(self) -> float | None:
        span = self._now()
        return None if span is None else self._clock() + span.end - self._wall()

    def _now(self) -> Span | None:
        """The span that it is."""
        wall = self._wall()
        span = self._lookup(wall)
        return span if span is not None and span.holds(wall) and wall >= self._skipped else None

    def _lookup(self, wall: float) -> Span | None:
        if not self._schedule:
            return None
        fresh = self._looked_up is not None and 0 <= wall - self._looked_up < LOOKED_UP_EVERY
        if not fresh or self._span is None or wall >= self._span.end:
            self._span, self._looked_up = self._schedule.span(wall), wall
        return self._span


def moment(wall: float) -> str:
    """In UTC, to the second."""
    return datetime.fromtimestamp(wall, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
