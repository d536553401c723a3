"""What a paid API has cost in this calendar month (UTC), and what it may still cost: reserved first, then settled.

Whole micro-dollars. Before a request is sent, the most that it can cost is reserved; what it did cost takes the place
of that when it is over, and an answer that does not say keeps it all. So `spent + reserved` is never above the limit,
however many ask at once and in whatever order they end, as long as none costs more than was reserved for it.

What was reserved in one month and is settled in the next counts in the next, and was held against both limits.

To outlive a crash, the volume has to know before it is spent: `due` is what it must hold, `ceiling` what it is given to
hold, which is more, so that not every request waits for a disk. What a crash leaves is believed to have been spent.
"""

from dataclasses import dataclass

from gateway.policy.spending import month_of

_MILLION = 1_000_000


@dataclass(frozen=True, slots=True)
class Prices:
    """Micro-dollars for a million tokens."""

    prompt: int
    completion: int

    def cost(self, prompt: int, completion: int) -> int:
        """Micro-dollars for so many tokens, rounded up."""
        return -(-(prompt * self.prompt + completion * self.completion) // _MILLION)


class Book:
    """One API's. `wall` is Unix time, and a month that has begun is not taken back."""

    def __init__(self, limit: int | None, *, wall: float) -> None:
        """`limit`: micro-dollars in a month; None: it is only counted."""
        self.limit = limit
        self.month = month_of(wall)
        self.reserved = 0
        self.booked = 0
        """By this process in this month."""
        self._elsewhere = 0
        """In this month by others, or by this worker before it was restarted."""
        self._before: dict[str, int] = {}
        """What was booked in the month that ended last."""

    def __repr__(self) -> str:
        limit = "no limit" if self.limit is None else f"{self.limit / _MILLION:.2f} $"
        return f"<Book {self.month}: {self.spent / _MILLION:.6f} $ and {self.reserved / _MILLION:.6f} of {limit}>"

    @property
    def spent(self) -> int:
        """Micro-dollars of this month, wherever they were counted; without what is reserved."""
        return self._elsewhere + self.booked

    def reserve(self, most: int, wall: float) -> bool:
        """Whether there is room for what this may cost. True: it is reserved; `settle` it, always and once."""
        self.look(wall)
        if self.limit is not None and self.spent + self.reserved + most > self.limit:
            return False
        self.reserved += most
        return True

    def settle(self, most: int, cost: int, wall: float) -> None:
        """What was reserved (`most`) is free again, and `cost` is spent."""
        self.look(wall)
        self.reserved -= most
        self.booked += cost

    def learn(self, month: str, amount: int) -> None:
        """What was counted in this month elsewhere. A later month than ours is believed, an earlier one is over."""
        if month > self.month:
            self._turn(month)
        if month == self.month:
            self._elsewhere = amount

    def look(self, wall: float) -> None:
        """At the calendar."""
        month = month_of(wall)
        if month > self.month:
            self._turn(month)

    # -- for the volume ------------------------------------------------------------------------

    @property
    def due(self) -> int:
        """What the volume must know of this process and month before anything more is sent."""
        return self.booked + self.reserved

    @property
    def ceiling(self) -> int:
        """What it is given to keep while requests come: some more, a fiftieth of the limit, within the limit."""
        if self.limit is None:
            return self.due
        return max(self.due, min(self.due + self.limit // 50, self.limit - self._elsewhere))

    def books(self, amount: int) -> dict[str, int]:
        """By month: `amount` for this one, and what the last one ended with."""
        return self._before | {self.month: amount}

    def _turn(self, month: str) -> None:
        self._before = {self.month: self.booked}
        self.month, self.booked, self._elsewhere = month, 0, 0
