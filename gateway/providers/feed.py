"""The news of one instance, between the task that sees them and the watcher that tells them on.

What nobody has read yet is kept, but only the newest of several `Loading` in a row: progress is a state, not a history.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator

from gateway.providers.base import Gone, Loading, News


class Feed:
    """Written by one, read by one watcher at a time. `Gone` is the last word, told to every watcher that comes."""

    def __init__(self) -> None:
        self._unread: deque[News] = deque()
        self._last: News | None = None
        self._something = asyncio.Event()
        self.gone: Gone | None = None

    def __repr__(self) -> str:
        return f"<Feed last={self._last!r} unread={len(self._unread)}>"

    def tell(self, news: News) -> None:
        """Add it, unless it says what was said last, or comes after the end."""
        if self.gone is not None or news == self._last:
            return
        self._last = news
        if isinstance(news, Gone):
            self.gone = news
        if isinstance(news, Loading) and self._unread and isinstance(self._unread[-1], Loading):
            self._unread.pop()
        self._unread.append(news)
        self._something.set()

    async def read(self) -> AsyncIterator[News]:
        """Everything unread and then everything new, up to and with `Gone`."""
        told: News | None = None
        while True:
            while self._unread:
                told = self._unread.popleft()
                yield told
            if self.gone is not None:
                if told is not self.gone:
                    yield self.gone  # an earlier watcher took it; this one must not wait for ever
                return
            self._something.clear()
            await self._something.wait()
