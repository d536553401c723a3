"""Who may go on to the upstream now, who waits in line, and who is better told at once to come back later.

One line, first come first served, in front of a number of slots. The line moves only while the upstream serves
(`open`); before that everybody waits, and QUEUE_TIMEOUT does not count: waiting for a start has limits of its own.

Each call costs the same however long the line is, except for the list of those it moves, and for a caller who comes
back to a place of its own. Durations are seconds.
"""

from collections import OrderedDict
from dataclasses import dataclass, replace

from gateway.errors import RETRY_AFTER_MAX

ENOUGH = 5
"""Answers that must have been timed before a wait is estimated: fewer say nothing."""
WEIGHT = 0.2
"""What the newest answer counts for in the mean; the last ten make nine tenths of it."""
RETRY_UNKNOWN = 5.0
"""Retry-After of a full line when nobody knows how fast it moves."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What the line may hold."""

    concurrency: int
    """Slots: requests the upstream works on at once."""
    max_queue_size: int = 256
    max_queue_bytes: int = 1 << 30
    """Bodies held in memory for those who wait."""
    queue_timeout: float = 300

    def __post_init__(self) -> None:
        if self.concurrency < 1:
            raise ValueError(f"an upstream works on one request at least, not on {self.concurrency}")


@dataclass(frozen=True, slots=True)
class Admitted:
    """It has a slot. Give it back with `release`."""


@dataclass(frozen=True, slots=True)
class Queued:
    """It waits. `position` 1 is next."""

    position: int


@dataclass(frozen=True, slots=True)
class Full:
    """It was not let in, and holds nothing."""

    reason: str
    retry_after: float


Verdict = Admitted | Queued | Full

_ADMITTED = Admitted()
"""It says nothing of the request: one serves all."""


@dataclass(frozen=True, slots=True)
class _Place:
    size_bytes: int
    since: float
    slots: int


class Admission:
    """The line and the slots of one upstream."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._running: dict[str, tuple[float, int]] = {}
        """Who is let in: since when, and on how many slots."""
        self._taken = 0
        self._line: OrderedDict[str, _Place] = OrderedDict()
        self._bytes = 0
        self._opened_at: float | None = None
        """None: the upstream does not serve."""
        self._mean = 0.0
        self._timed = 0

    def __repr__(self) -> str:
        door = "closed" if self._opened_at is None else f"open since {self._opened_at:.1f}"
        line = f"{len(self._line)} in line holding {self._bytes} bytes"
        if self._line:
            line += f", the first since {next(iter(self._line.values())).since:.1f}"
        pace = f"{self._mean:.2f} s each" if self._timed >= ENOUGH else "pace unknown"
        slots = f"{self._taken}/{self._limits.concurrency} slots"
        return f"<Admission {door}, {len(self._running)} running on {slots}, {line}, {pace}>"

    @property
    def limits(self) -> Limits:
        return self._limits

    @property
    def running(self) -> int:
        return len(self._running)

    @property
    def waiting(self) -> int:
        return len(self._line)

    @property
    def held_bytes(self) -> int:
        """Of those who wait."""
        return self._bytes

    def offer(
        self,
        request: str,
        *,
        size_bytes: int,
        patience: float | None,
        now: float,
        slots: int = 1,
        since: float | None = None,
    ) -> Verdict:
        """One request asks to be let in. `patience`: seconds it can wait at most, None when as long as it takes.

        `slots`: how many answers it asks for at once (`n`); one that asks for more than there are gets all of them,
        alone. Nobody overtakes the first in line, however much it needs. `since`: when it first came, for one that was
        told to come back: it stands before all who came later, and what is full for others is half full for it. Raises
        ValueError for an id that is in line or running: ids are for one request.
        """
        if request in self._running or request in self._line:
            raise ValueError(f"request {request} is here already: {self!r}")
        if not self._line and self._let_in(request, slots, now):
            return _ADMITTED
        full = self._why_full(size_bytes, patience, has_place=since is not None)
        if full is not None:
            return full
        if since is None:
            self._line[request] = _Place(size_bytes, now, slots)
        elif not self._stand_where_it_stood(request, _Place(size_bytes, since, slots), now):
            return _ADMITTED
        self._bytes += size_bytes
        return Queued(len(self._line))

    def _stand_where_it_stood(self, request: str, place: _Place, now: float) -> bool:
        """Whether it stands in line now; False: it would be the first, and there are slots. Walks through the line,
        which only a cold start makes long."""
        later = [other for other, stands in self._line.items() if stands.since > place.since]
        if len(later) == len(self._line) and self._let_in(request, place.slots, now):
            return False
        self._line[request] = place
        for other in later:
            self._line.move_to_end(other)
        return True

    def release(self, request: str, now: float, *, served: bool = True) -> list[str]:
        """It is over, or it left: slot or place are free. Returns who has a slot now in its stead.

        `served`: its time says how long an answer takes (not so for one that failed or was cut short). Safe to say
        twice, and of a request that never came.
        """
        running = self._running.pop(request, None)
        if running is None:
            self._leave_line(request)
            return self.move(now)
        began, slots = running
        self._taken -= slots
        if served:
            self._time(now - began)
        return self.move(now)

    def leave(self, request: str, now: float) -> list[str]:
        """It went away, wherever it was. As `release`, and nothing is learnt from its time."""
        return self.release(request, now, served=False)

    def open(self, now: float) -> list[str]:
        """The upstream serves. Returns who has a slot now."""
        if self._opened_at is None:
            self._opened_at = now
        return self.move(now)

    def close(self) -> None:
        """It serves no more. Who has a slot keeps it until it is released; who waits goes on waiting."""
        self._opened_at = None

    def resize(self, concurrency: int, now: float) -> list[str]:
        """The upstream said how many it works on at once. Returns who has a slot now; nobody loses one."""
        return self.change(replace(self._limits, concurrency=concurrency), now)

    def change(self, limits: Limits, now: float) -> list[str]:
        """Other limits from now on. Nobody who waits is sent away by them."""
        self._limits = limits
        return self.move(now)

    def refuse_all(self) -> list[str]:
        """Send away everybody who waits. Returns them, in order."""
        waiting = list(self._line)
        self._line.clear()
        self._bytes = 0
        return waiting

    def expired(self, now: float) -> list[str]:
        """Send away those who have waited for QUEUE_TIMEOUT. Returns them, in order."""
        late: list[str] = []
        while (deadline := self.next_deadline()) is not None and deadline <= now:
            request = next(iter(self._line))
            self._leave_line(request)
            late.append(request)
        return late

    def next_deadline(self) -> float | None:
        """When the first in line will have waited for QUEUE_TIMEOUT. None: nobody waits, or for the upstream itself."""
        if self._opened_at is None or not self._line:
            return None
        first = next(iter(self._line.values()))
        return max(first.since, self._opened_at) + self._limits.queue_timeout

    def estimated_wait(self, position: int) -> float | None:
        """How long until this place in line has a slot, once the upstream serves; None: too little is known.

        The first in line of one that is stopped has no wait at all: nobody is on the slots.
        """
        if self._timed < ENOUGH:
            return None
        free = max(0, self._limits.concurrency - self._taken)
        return self._mean * max(0, position - free) / self._limits.concurrency

    def _let_in(self, request: str, slots: int, now: float) -> bool:
        """Give it the slots that it asks for, at most all there are. False: so many are not free, or it is closed."""
        concurrency = self._limits.concurrency
        taken = slots if slots < concurrency else concurrency
        if self._opened_at is None or self._taken + taken > concurrency:
            return False
        self._running[request] = (now, taken)
        self._taken += taken
        return True

    def _why_full(self, size_bytes: int, patience: float | None, *, has_place: bool) -> Full | None:
        limits = self._limits
        wait = self.estimated_wait(len(self._line) + 1)
        retry_after = RETRY_UNKNOWN if wait is None else min(max(wait, 1.0), float(RETRY_AFTER_MAX))
        if len(self._line) >= limits.max_queue_size * (2 if has_place else 1):
            return Full(f"{len(self._line)} requests wait already; come back later.", retry_after)
        if self._bytes + size_bytes > limits.max_queue_bytes:
            return Full("The requests that wait already hold as much memory as they may; come back later.", retry_after)
        if has_place:
            return None
        longest = limits.queue_timeout if patience is None else min(patience, limits.queue_timeout)
        if wait is not None and wait > longest:
            return Full(f"The wait would be about {wait:.0f} s, longer than this request can wait.", retry_after)
        return None

    def _leave_line(self, request: str) -> None:
        place = self._line.pop(request, None)
        if place is not None:
            self._bytes -= place.size_bytes

    def move(self, now: float) -> list[str]:
        """Let in whoever can be, in order. Returns them; needed only after `expired`, which may free the head."""
        admitted: list[str] = []
        while self._line:
            request, place = next(iter(self._line.items()))
            if not self._let_in(request, place.slots, now):
                break
            self._leave_line(request)
            admitted.append(request)
        return admitted

    def _time(self, took: float) -> None:
        self._timed += 1
        weight = 1 / self._timed
        self._mean += (took - self._mean) * (weight if weight > WEIGHT else WEIGHT)
