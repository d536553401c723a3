"""The ledger's time: it never goes back, and no leap of a clock is taken for hours that a machine was rented.

It goes on by `steady`, a clock that only counts (and counts on while the machine sleeps: CLOCK_BOOTTIME), and is put
forward where `wall`, the calendar's, is ahead of it. It is never put back: a month that has begun stays begun, and what
is booked stays booked.

A wall clock that leaps ahead has been set; or this machine was frozen, and what it rents ran on: a virtual machine that
is moved or saved stops both its clocks. Nobody here can tell, so of each leap up to `FROZEN_MOST` counts as time that
passed. The rest is in the calendar, but costs nothing: it is a line of the ledger (`leap`). Until that is written time
goes on from before it. What a machine costs that was frozen for longer comes from the vendor's bills.

Where the wall clock goes back, or is behind the ledger when the gateway starts, nothing is booked for the difference,
and time goes on from where it was.
"""

from typing import Final

from gateway.policy.books import HOUR, Entry

FROZEN_MOST: Final = HOUR


class LedgerClock:
    """Whole milliseconds, as everything in the books."""

    def __init__(self, wall: int, steady: int, *, latest: int) -> None:
        """`latest`: what the books have come to (`Books.latest`). Between two runs of the gateway there is only the
        wall clock to go by: all of what it says is time that passed."""
        self.now = max(wall, latest)
        self._steady = steady
        self.behind = self.now - wall
        """How far the wall clock is behind the ledger: somebody has put it back."""
        self.leap: Entry | None = None
        """To be written before any other line."""

    def __repr__(self) -> str:
        leap = "" if self.leap is None else f", {self.leap.until - self.leap.at} ms to leap"
        return f"<LedgerClock {self.now}, the wall clock {self.behind} ms behind{leap}>"

    def read(self, wall: int, steady: int, latest: int) -> int:
        """What time it is, by both clocks as they are at one moment, and by the books: what is written in them has
        come, be it a leap of this clock, or somebody else's time who writes to the same ledger."""
        now = self.now + max(0, steady - self._steady)
        self._steady = max(self._steady, steady)
        if self.leap is None or latest > now:  # nothing to leap, or it was written
            now = max(now, latest)
            now = max(now, min(wall, now + FROZEN_MOST))
        self.now = now
        self.leap = Entry("leapt", now, until=wall) if wall > now else None
        self.behind = max(0, now - wall)
        return now
