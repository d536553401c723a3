"""How far a start is as a whole, and how long it will still take: judged by its own news and by earlier starts.

A start goes through phases, and each knows at most how far it is itself. Here they become one number: every phase has a
weight, the seconds that it usually takes, and what is behind, what is measured and what is still to come are added up.
What nobody knows is None: before the first measure of a first start there is no ratio, and without earlier starts no
time. A ratio never falls, and is below 1 as long as the start is not over, however long that takes.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from types import MappingProxyType

PHASES = (
    "queued",
    "booting",
    "checking",
    "downloading",
    "loading",
    "filling",
    "compiling",
    "warming",
    "waking",
    "unreachable",
)
"""In the order in which a start that is not known yet may be expected to go through them."""

GUESSED: Mapping[str, float] = MappingProxyType(
    {"queued": 5, "booting": 3, "checking": 1, "downloading": 60, "loading": 30, "filling": 10, "compiling": 30}
    | {"warming": 2, "waking": 5, "unreachable": 1}
)
"""Seconds: what weighs how much where nothing was learned. Only for the bar; no time is told by it."""
EXPECTED = ("booting", "loading", "warming")
"""The phases that a first start is expected to have. The others weigh from when they are seen."""

NEARLY = 0.95
"""From here on a ratio comes closer to 1 the longer it takes, and never reaches it."""
TRUSTED_AFTER = 3.0
"""Seconds after which a phase's own speed is believed."""

SLACK = 1.0
"""Seconds by which a phase may be slower than ever before it is called late."""


@dataclass(frozen=True, slots=True)
class Progress:
    """A whole start at one moment."""

    phase: str
    """One of PHASES; `ordered` before the first news."""
    ratio: float | None
    """0 to below 1, of the whole start, never less than before; None: nobody knows."""
    detail: str
    """Short, and fit for a caller: "12.1/28.0 GiB"."""
    elapsed: float
    """Seconds since the order."""
    seconds_left: float | None
    """Until it is probably ready; None: nobody knows."""
    late: bool = False
    """It takes longer than it ever did."""

    def text(self) -> str:
        """In one line, for those who wait: `loading 43% 12.1/28.0 GiB, about 25 s`."""
        said = " ".join(filter(None, (self.phase, percent(self.ratio), self.detail)))
        return f"{said}, {left}" if (left := self.left()) else said

    def left(self) -> str:
        """`about 25 s`, `longer than usual`, or nothing."""
        if self.seconds_left is not None:
            return f"about {spell(self.seconds_left)}"
        return "longer than usual" if self.late else ""


@dataclass(frozen=True, slots=True)
class Past:
    """An earlier start that became ready: the seconds of each of its phases, in the order in which they came."""

    phases: Mapping[str, float]

    @property
    def seconds(self) -> float:
        return sum(self.phases.values())


@dataclass(slots=True)
class _Measure:
    """How far a phase is, by its own word: the first one, and the highest so far."""

    first: float
    first_at: float
    share: float

    def raise_to(self, share: float) -> None:
        self.share = max(self.share, share)

    def left(self, now: float) -> float | None:
        """Seconds, by its speed since its first word; None while it has none."""
        moved, took = self.share - self.first, now - self.first_at
        return took * (1 - self.share) / moved if moved > 0.01 and took > 0 else None


@dataclass(slots=True, eq=False)
class Forecast:
    """One start, from its order on. Tell it the news with `hear`, ask it with `at`; `now` never goes back."""

    began: float
    pasts: Sequence[Past] = ()
    """Starts of the same model by the same engine on the same kind of machine."""
    phase: str = "ordered"
    detail: str = ""
    _entered: float = 0.0
    _took: dict[str, float] = field(default_factory=dict)
    _measures: dict[str, _Measure] = field(default_factory=dict)
    _usual: Mapping[str, float] = field(default_factory=dict)
    _highest: float = 0.0

    def __post_init__(self) -> None:
        self._entered = self.began
        self._usual = usual(self.pasts)

    def learn(self, pasts: Sequence[Past]) -> None:
        """Go by these earlier ones from now on."""
        if pasts != self.pasts:
            self.pasts, self._usual = pasts, usual(pasts)

    def hear(
        self,
        phase: str,
        *,
        now: float,
        ratio: float | None = None,
        detail: str = "",
        done: int | None = None,
        total: int | None = None,
    ) -> None:
        """What the provider says: the phase, how far that one is, and bytes of bytes where there are some."""
        if phase != self.phase:
            self._took[self.phase] = self._spent(self.phase, now)
            self.phase, self._entered = phase, now
        if ratio is None and done is not None and total:
            ratio = done / total
        self.detail = detail or (amount(done, total) if done is not None and total else "")
        if ratio is not None:
            share = min(1.0, max(0.0, ratio))
            self._measures.setdefault(phase, _Measure(share, now, share)).raise_to(share)

    def at(self, now: float) -> Progress:
        """What can be said now."""
        left, late = self._left(now)
        return Progress(self.phase, self._ratio(now), self.detail, now - self.began, left, late)

    def past(self, now: float) -> Past:
        """It is ready: what later ones may learn of it."""
        return Past(MappingProxyType(self._took | {self.phase: self._spent(self.phase, now)}))

    # -- how far

    def _ratio(self, now: float) -> float | None:
        if not self._usual and not self._measures:
            return None
        behind = sum(self._weight(phase) for phase in self._took if phase != self.phase)
        ahead = sum(self._weight(phase) for phase in self._to_come())
        here = self._weight(self.phase)
        whole = behind + here + ahead
        ratio = (behind + here * self._share(now)) / whole if whole > 0 else 0.0
        self._highest = max(self._highest, below_one(ratio))
        return self._highest

    def _share(self, now: float) -> float:
        """Of the phase it is in: as measured, or else by the time that it usually takes."""
        measure = self._measures.get(self.phase)
        if measure is not None:
            return measure.share
        takes = self._usual.get(self.phase, 0.0)
        return below_one(self._spent(self.phase, now) / takes) if takes > 0 else 0.0

    def _weight(self, phase: str) -> float:
        if phase in self._usual:
            return self._usual[phase]
        if not self._usual:
            return GUESSED.get(phase, 0.0)
        # A phase that the others did not have: as long as it took, or as a guess says.
        return self._took.get(phase, GUESSED.get(phase, 0.0))

    def _to_come(self) -> Iterator[str]:
        """The phases that are still expected: what this start skipped does not come any more."""
        order = (*self._usual, *(phase for phase in EXPECTED if not self._usual))
        here = order.index(self.phase) if self.phase in order else None
        for place, phase in enumerate(order):
            if phase == self.phase or phase in self._took:
                continue
            if place > here if here is not None else rank(phase) > rank(self.phase):
                yield phase

    def _spent(self, phase: str, now: float) -> float:
        return self._took.get(phase, 0.0) + (now - self._entered if phase == self.phase else 0.0)

    # -- how long

    def _left(self, now: float) -> tuple[float | None, bool]:
        """Seconds until ready, and whether it takes longer than it ever did."""
        if not self._usual:
            return None, False
        here, late = self._left_here(now)
        if here is None:
            return None, late
        return here + sum(self._usual[phase] for phase in self._to_come()), False

    def _left_here(self, now: float) -> tuple[float | None, bool]:
        spent, takes = self._spent(self.phase, now), self._usual.get(self.phase)
        measure = self._measures.get(self.phase)
        if measure is not None and measure.share < 1:
            by_speed, seen = measure.left(now), now - measure.first_at
            if takes is None:
                return (by_speed if seen >= TRUSTED_AFTER else None), False
            by_habit = takes * (1 - measure.share)
            if by_speed is not None:
                trust = min(1.0, seen / max(TRUSTED_AFTER, takes / 3))
                return by_speed * trust + by_habit * (1 - trust), False
            if spent <= self._longest():
                return by_habit, False
            return None, True
        if takes is None:
            return None, False
        if spent <= self._longest():
            return max(0.0, takes - spent), False
        return None, True

    def _longest(self) -> float:
        """Seconds that this phase ever took, and a little: beyond them, habit knows nothing any more."""
        return SLACK + max((past.phases.get(self.phase, 0.0) for past in self.pasts), default=0.0)


def usual(pasts: Sequence[Past]) -> Mapping[str, float]:
    """Seconds that each phase usually takes (the median of those that had it), in the order in which they come.

    Phases that fewer than half of the starts had are not expected. A download that came once neither: it is kept on the
    disk; one that comes more often than not is.
    """
    had = {name: [past.phases[name] for past in pasts if name in past.phases] for name in ordered(pasts)}
    return {
        name: median(seconds)
        for name, seconds in had.items()
        if 2 * len(seconds) >= len(pasts) and (name != "downloading" or len(seconds) > 1)
    }


def ordered(pasts: Sequence[Past]) -> list[str]:
    """All their phases: those of the last start as they came, each of the others behind what it followed."""
    order: list[str] = []
    for past in reversed(pasts):
        place = -1
        for name in past.phases:
            if name not in order:
                order.insert(place + 1, name)
            place = order.index(name)
    return order


def usual_seconds(pasts: Sequence[Past]) -> float | None:
    """What a start usually takes, from the order to ready; None: none is known."""
    takes = usual(pasts)
    return sum(takes.values()) if takes else None


def rank(phase: str) -> int:
    return PHASES.index(phase) if phase in PHASES else -1


def below_one(share: float) -> float:
    """The share itself up to NEARLY; from there on ever nearer to 1."""
    if share <= NEARLY:
        return share
    room = 1 - NEARLY
    return min(NEARLY + room * (1 - math.exp((NEARLY - share) / room)), math.nextafter(1.0, 0.0))


def percent(ratio: float | None) -> str:
    """Rounded down: 99.9 % is not 100 %."""
    return "" if ratio is None else f"{math.floor(ratio * 100)}%"


UNITS = (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10))


def amount(done: int, total: int) -> str:
    """`12.1/28.0 GiB`."""
    unit, size = next(((unit, size) for unit, size in UNITS if total >= size), ("bytes", 1))
    if size == 1:
        return f"{done}/{total} {unit}"
    return f"{done / size:.1f}/{total / size:.1f} {unit}"


def spell(seconds: float) -> str:
    """`7 s`, `25 s`, `3 min`, `2 h`: no finer than anybody can know it, and never shorter than said."""
    whole = max(1, math.ceil(seconds))
    if whole <= 10:
        return f"{whole} s"
    if whole <= 90:
        return f"{math.ceil(whole / 5) * 5} s"
    minutes = math.ceil(whole / 60)
    return f"{minutes} min" if minutes < 120 else f"{math.ceil(minutes / 60)} h"
