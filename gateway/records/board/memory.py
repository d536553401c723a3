"""A board in this process. Several gateways in one loop share it as they would a Redis, with its faults on call."""

import asyncio
import itertools
from collections.abc import Callable


class MemoryBoard:
    """`down`: nobody can reach it. `slow`: seconds that an answer takes, drawn anew for each. `losing`: whether the
    answer of the next write is lost though it counts."""

    def __init__(self, text: str = "") -> None:
        self._numbers = itertools.count(1)
        self._text = text
        self._version = str(next(self._numbers)) if text else ""
        self.down = False
        self.slow: Callable[[], float] = lambda: 0.0
        self.losing: Callable[[], bool] = lambda: False

    def __repr__(self) -> str:
        return f"<MemoryBoard {self._version}{' down' if self.down else ''} {self._text}>"

    def forget(self) -> None:
        """As a Redis that came back with nothing."""
        self._text, self._version = "", ""

    async def read(self) -> tuple[str, str]:
        await self._way()
        answer = self._version, self._text
        await self._way()
        return answer

    async def write(self, text: str, version: str) -> bool:
        await self._way()
        counts = version == self._version
        if counts:
            self._text, self._version = text, str(next(self._numbers))
        if self.losing():
            raise ConnectionResetError("the answer was lost")
        await self._way()
        return counts

    async def close(self) -> None:
        pass

    async def _way(self) -> None:
        """There or back. It always lets the loop go round, as a socket does."""
        await asyncio.sleep(self.slow() / 2)
        if self.down:
            raise ConnectionRefusedError("the board is down")
