"""One timer for all connections that wait: a timer of its own costs each request more than a look at them all.

Who waits is woken when its time is over, and may be woken earlier or for nothing; it looks at the clock itself.
"""

import asyncio
from math import inf
from typing import Final, Protocol

STEP: Final = 0.02
"""Seconds between two rings at least: waits are of seconds, and whoever is due within one step is woken together."""


class Sleeper(Protocol):
    def wake(self) -> None: ...


class Alarms:
    """Not kept in order: setting one is one entry in a table, and a ring looks at all of them."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._due: dict[Sleeper, float] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._rings_at = inf

    def __repr__(self) -> str:
        return f"<Alarms {len(self._due)} set>"

    def set(self, who: Sleeper, at: float) -> None:
        """Wake them then, by loop time; it replaces what they had set before."""
        self._due[who] = at
        if at < self._rings_at:
            self._arm(at)

    def drop(self, who: Sleeper) -> None:
        """They are gone."""
        self._due.pop(who, None)

    def _arm(self, at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._rings_at = at
        self._timer = self._loop.call_at(at, self._ring)

    def _ring(self) -> None:
        self._timer, self._rings_at = None, inf
        now = self._loop.time()
        earliest, due = inf, []
        for who, at in self._due.items():
            if at <= now:
                due.append(who)
            elif at < earliest:
                earliest = at
        for who in due:
            del self._due[who]
            who.wake()
        if earliest < self._rings_at:  # one who was woken may have set a new one
            self._arm(max(earliest, now + STEP))
