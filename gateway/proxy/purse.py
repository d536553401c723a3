"""Pays the fallback: what a request may cost is reserved, known to the volume, and settled. One owner of one book.

With a limit (FALLBACK_MAX_SPEND) nothing is sent before the volume holds what it may cost: a gateway that is killed at
any moment finds at least that much at its next start. `Book.ceiling` sees to it that few requests wait for the disk.
When the volume cannot be read or written there is no fallback, and callers are held. Without a limit, figures are only
kept, and a volume in trouble disturbs nobody.

Several workers on one volume read each other's figures once a minute: they keep the limit together as exactly as that.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from typing import Final

from gateway.policy.fallback import Objection
from gateway.policy.purse import Book, Prices
from gateway.proxy.outgoing import Outgoing
from gateway.proxy.usage import Usage
from gateway.records.spent import Books, Elsewhere, Spent

NAME: Final = "fallback"
"""Whose money it is, in the files."""
WITHIN: Final = 2.0
"""Seconds that a request waits for the disk."""


@dataclass(frozen=True, slots=True)
class Reserved:
    """What one request may cost. Give it back with `Purse.settle`, once."""

    most: int
    out: Outgoing


class Purse:
    """Counts tokens and money. This one has no prices: it lets everybody pay, and knows no sum."""

    limit: int | None = None

    def __repr__(self) -> str:
        return "<Purse without prices>"

    @property
    def state(self) -> str:
        """Empty when all is well, else one line."""
        return ""

    @property
    def spent(self) -> int | None:
        """Micro-dollars of this calendar month (UTC); None where nobody knows a price."""
        return None

    async def reserve(self, out: Outgoing) -> Reserved | Objection:
        """Room for what this request may cost, or why there is none."""
        return Reserved(0, out)

    def settle(self, reserved: Reserved, usage: Usage | None, *, events: int = 0, was_read: bool = True) -> int:
        """It is over. Returns the micro-dollars that it cost. `usage`: what the fallback said; without it all that was
        reserved is spent, or an estimate from its bytes and `events`. `was_read`: False where nothing can be owed."""
        return 0

    def beat(self) -> None:
        """Every second or so."""

    def close(self, within: float) -> bool:
        """The last figures to the volume: waits for it, so not on the loop. False when it did not take them in time."""
        return True


class KeptPurse(Purse):
    """With prices, and with a book on the volume."""

    def __init__(
        self, prices: Prices, limit: int | None, keep: Callable[[Callable[[], None]], Spent], wall: Callable[[], float]
    ) -> None:
        """`keep` makes the keeper from what it calls when there is news of the volume. `wall`: Unix time."""
        self.limit = limit
        self._prices = prices
        self._wall = wall
        self._loop = asyncio.get_running_loop()
        self._book = Book(limit, wall=wall())
        self._learnt: Elsewhere | None = None
        self._news = asyncio.Event()
        self._newest: Books = {}
        """What was offered to the volume last."""
        self._least = inf
        """Micro-dollars: the least of what was offered since the volume last held the newest, and may lie there."""
        self._spent = keep(self._hear)

    def __repr__(self) -> str:
        return f"<KeptPurse {self._book!r}, {self.state or 'kept'}>"

    @property
    def state(self) -> str:
        return self._spent.state

    @property
    def spent(self) -> int:
        self._learn()
        self._book.look(self._wall())
        return self._book.spent

    async def reserve(self, out: Outgoing) -> Reserved | Objection:
        most = self._prices.cost(out.tokens_in, out.tokens_out)
        if self.limit is None:
            self._book.reserve(0, self._wall())
            return Reserved(0, out)
        if not await self._is_known():
            return "volume"
        if not self._book.reserve(most, self._wall()):
            return "spend"
        try:
            is_kept = await self._is_kept()
        except BaseException:
            self._book.settle(most, 0, self._wall())
            raise
        if not is_kept:
            self._book.settle(most, 0, self._wall())
            return "volume"
        return Reserved(most, out)

    def settle(self, reserved: Reserved, usage: Usage | None, *, events: int = 0, was_read: bool = True) -> int:
        cost = self._cost(reserved, usage, events) if was_read else 0
        self._book.settle(reserved.most, cost, self._wall())
        self._offer()
        return cost

    def _cost(self, reserved: Reserved, usage: Usage | None, events: int) -> int:
        if usage is not None:
            return self._prices.cost(usage.prompt, usage.completion)
        return reserved.most or self._prices.cost(reserved.out.tokens_in, events)

    def beat(self) -> None:
        self._learn()
        self._book.look(self._wall())
        self._offer()

    def close(self, within: float) -> bool:
        self._spent.offer(self._books(self._book.due))
        return self._spent.close(within)

    # -- the volume ----------------------------------------------------------------------------

    def _hear(self) -> None:
        """On the keeper's thread: it has read, or written, or failed to."""
        try:
            self._loop.call_soon_threadsafe(self._look)
        except RuntimeError:
            pass  # the loop has ended, and nobody waits

    def _look(self) -> None:
        self._learn()
        self._news.set()
        self._news = asyncio.Event()

    def _learn(self) -> None:
        known = self._spent.elsewhere
        if known is not None and known is not self._learnt:
            self._learnt = known
            self._book.learn(known.month, known.spent.get(NAME, 0))

    def _books(self, amount: int) -> Books:
        return {month: {NAME: each} for month, each in self._book.books(amount).items()}

    @property
    def _kept(self) -> float:
        """Micro-dollars of this process and month that lie on the volume, also after what is being written now."""
        written = self._spent.written
        if written is self._newest:
            self._least = inf
        return min(self._least, written.get(self._book.month, {}).get(NAME, 0))

    def _offer(self) -> None:
        """The newest figures. With a limit what lies there already is more, and is lowered when it is far too much."""
        if self.limit is None or not self._book.due <= self._kept <= self._book.ceiling + self.limit // 50:
            amount = self._book.ceiling
            books = self._books(amount)
            if books != self._newest:
                self._newest, self._least = books, min(self._least, amount)
                self._spent.offer(books)

    async def _is_known(self) -> bool:
        """Whether what was spent before has been read."""
        self._learn()
        return self._learnt is not None or await self._until(lambda: self._learnt is not None)

    async def _is_kept(self) -> bool:
        """Whether the volume knows what is about to be spent."""
        if self._spent.state:
            return False
        if self._kept >= self._book.due:
            return True
        self._offer()
        return await self._until(lambda: self._kept >= self._book.due)

    async def _until(self, true: Callable[[], bool]) -> bool:
        try:
            async with asyncio.timeout(WITHIN):
                while not true():
                    if self._spent.state:
                        return False
                    news = self._news
                    self._offer()  # somebody else's settling may have asked for less meanwhile
                    await news.wait()
        except TimeoutError:
            return False
        return True
