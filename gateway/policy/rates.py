"""How much may be taken per minute: GCRA, exact. No windows, so nothing is forgotten or doubled at a window's edge.

A bucket, in the words of ITU-T I.371: what is taken fills it, it leaks at the rate's pace, and what would overflow has
to wait. It holds one whole period's worth, so that a quiet caller may take a period's limit at once, and from then on
one unit each `period / limit`. All arithmetic is in whole numbers: a level is counted in units × period, so that no
rate, however odd, drifts.

What is taken may be given back, wholly or in part, when it turns out not to have been used. Time has forgiven some of
it meanwhile, and that part must not be given back again, else a long request that is returned would pay for others
that were used. So the bucket leaks what is settled first, then what may still be returned, the oldest first: whatever
is returned in the end, those who kept what they took have kept to the rate.

Times are whole numbers of any unit, `period` in the same.
"""

from collections import OrderedDict
from dataclasses import dataclass


@dataclass(eq=False, slots=True)
class Taken:
    """A share that was taken and is not settled yet. Settle it once, or give it back."""

    cost: int
    """Units, at most the limit that there was."""
    owed: int
    """What of it is still in the bucket, in units × period."""


@dataclass(frozen=True, slots=True)
class Standing:
    """How a caller stands with a rate at one moment."""

    limit: int
    remaining: int
    """Whole units that can be taken now."""
    reset: int
    """Time until all of it can be taken."""


class Rate:
    """So many units per period, for one caller. `now` never goes back; where it does, time stands still."""

    def __init__(self, limit: int, period: int) -> None:
        if limit < 1 or period < 1:
            raise ValueError(f"a rate of {limit} per {period} lets nobody in, ever")
        self._limit = limit
        self._period = period
        self._at = 0
        self._level = 0
        self._settled = 0
        """What of the level can no longer be given back; the rest is owed by those below."""
        self._open: OrderedDict[Taken, None] = OrderedDict()

    def __repr__(self) -> str:
        used = self._level / self._period
        return f"<Rate {used:.2f} of {self._limit} per {self._period} used at {self._at}, {len(self._open)} open>"

    @property
    def limit(self) -> int:
        return self._limit

    def wait(self, cost: int, now: int) -> int:
        """How long until so much can be taken, if nobody else takes any; 0: now. More than the limit counts as all."""
        self._leak(now)
        over = self._level + (min(cost, self._limit) - self._limit) * self._period
        return max(0, -(-over // self._limit))

    def take(self, cost: int, now: int) -> Taken | None:
        """Take so much, at most the whole limit; None when that has to wait."""
        if self.wait(cost, now):
            return None
        cost = min(cost, self._limit)
        taken = Taken(cost, cost * self._period)
        self._level += taken.owed
        self._open[taken] = None
        return taken

    def give_back(self, taken: Taken, now: int) -> None:
        """It was not used."""
        self.settle(taken, 0, now)

    def settle(self, taken: Taken, used: int, now: int) -> None:
        """It was used up to here. Less than was taken: the difference is there again, but for what time has forgiven.
        More: the difference is owed from now on, also above the limit."""
        self._leak(now)
        self._open.pop(taken, None)
        spare = (taken.cost - used) * self._period
        kept = max(0, taken.owed - spare)
        self._level += kept - taken.owed
        self._settled += kept
        taken.owed, taken.cost = 0, used

    def change(self, limit: int, now: int) -> None:
        """Another limit from now on. What was used stays used; what a lower limit cannot hold is forgiven, because it
        was allowed when it was taken."""
        self._leak(now)
        if limit < self._limit:
            self._forgive(max(0, self._level - limit * self._period))
        self._limit = limit

    def standing(self, now: int) -> Standing:
        self._leak(now)
        free = max(0, self._limit * self._period - self._level)
        return Standing(self._limit, free // self._period, -(-self._level // self._limit))

    def _leak(self, now: int) -> None:
        if now > self._at:
            self._forgive(min(self._level, (now - self._at) * self._limit))
            self._at = now

    def _forgive(self, amount: int) -> None:
        self._level -= amount
        settled = min(amount, self._settled)
        self._settled -= settled
        amount -= settled
        while amount:
            oldest = next(iter(self._open))
            part = min(amount, oldest.owed)
            oldest.owed -= part
            amount -= part
            if not oldest.owed:
                del self._open[oldest]
