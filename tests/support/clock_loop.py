"""A loop whose clock stands still until a test moves it, and whose names mean what a test says. Sockets are real.

loop = ClockLoop()          # around the loop that runs
loop.pass_by(60)            # timers that are due by then ring, in order
"""

import asyncio
import heapq
import itertools
import socket
from collections.abc import Callable, Sequence
from typing import Any, cast

Address = tuple[Any, ...]


class _Timer:
    def __init__(self, ring: Callable[..., object], args: tuple[object, ...]) -> None:
        self.ring: Callable[..., object] | None = ring
        self.args = args

    def cancel(self) -> None:
        self.ring = None


class ClockLoop:
    """Everything else is the running loop's."""

    def __init__(self) -> None:
        self._inner = asyncio.get_running_loop()
        self._now = 1000.0
        self._timers: list[tuple[float, int, _Timer]] = []
        self._order = itertools.count()
        self.names: dict[str, Sequence[Address]] = {}
        """What each name means: socket addresses, in the order in which a resolver gives them."""
        self.looked_up: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    @property
    def as_loop(self) -> asyncio.AbstractEventLoop:
        return cast(asyncio.AbstractEventLoop, self)

    def time(self) -> float:
        return self._now

    def call_later(self, delay: float, ring: Callable[..., object], *args: object) -> _Timer:
        return self.call_at(self._now + delay, ring, *args)

    def call_at(self, when: float, ring: Callable[..., object], *args: object) -> _Timer:
        timer = _Timer(ring, args)
        heapq.heappush(self._timers, (when, next(self._order), timer))
        return timer

    def pass_by(self, seconds: float) -> None:
        until = self._now + seconds
        while self._timers and self._timers[0][0] <= until:
            self._now, _, timer = heapq.heappop(self._timers)
            if timer.ring is not None:
                timer.ring(*timer.args)
        self._now = until

    def jump(self, seconds: float) -> None:
        """As a loop that was held up: the time is over, and no timer has rung yet."""
        self._now += seconds

    @property
    def timers(self) -> int:
        """That are still to ring."""
        return sum(timer.ring is not None for _, _, timer in self._timers)

    async def getaddrinfo(self, host: str, port: int, **how: object) -> list[Address]:
        self.looked_up.append(host)
        if host not in self.names:
            raise socket.gaierror(socket.EAI_NONAME, "no such name")
        return [
            (socket.AF_INET6 if ":" in address[0] else socket.AF_INET, socket.SOCK_STREAM, 6, "", address)
            for address in self.names[host]
        ]
