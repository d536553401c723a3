"""Time that costs none: a loop whose clock jumps to the next timer, so that a week of waiting runs in milliseconds.

Everything is asyncio's own; only `time()` and the waiting for file descriptors are replaced. Work in threads and real
sockets has no place here: when nothing is due any more, the loop raises `Stuck` instead of waiting for ever.
"""

import asyncio
import contextlib
import functools
import math
import selectors
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

BEGIN = 1000.0
"""Loop time at the beginning: not 0, which would hide a forgotten time."""
LAST = BEGIN + 30 * 24 * 3600
"""No story takes longer: what still waits or tries again then does so for ever."""


class Stuck(AssertionError):
    """Somebody waits for what can never happen."""


class _Jumps(selectors.SelectSelector):
    """Waits by adding to the clock."""

    def __init__(self) -> None:
        super().__init__()
        self.now, self.last = BEGIN, LAST

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready:
            if timeout is None:
                raise Stuck("everybody waits, and no timer is set")
            self.now += max(0.0, timeout)
            if self.now > self.last:
                self.last = math.inf  # said once: what is cleaned up now may take its time
                raise Stuck("this goes on for ever")
        return ready


class SimulatedLoop(asyncio.SelectorEventLoop):
    """A clock that is exact."""

    def __init__(self) -> None:
        self._jumps = _Jumps()
        self.timers = 0
        """Timers that were set since the beginning."""
        super().__init__(self._jumps)

    def time(self) -> float:
        return self._jumps.now

    def call_at(self, when: float, callback: Callable[..., object], *args: Any, **kwargs: Any) -> asyncio.TimerHandle:
        self.timers += 1
        return super().call_at(when, callback, *args, **kwargs)

    def pending_timers(self) -> list[asyncio.TimerHandle]:
        return [timer for timer in self._scheduled if not timer.cancelled()]  # type: ignore[attr-defined]


class CoarseLoop(SimulatedLoop):
    """uvloop's clock (0.22): whole milliseconds, delays rounded to them, and one of none is a plain Handle at once."""

    def time(self) -> float:
        return math.floor(self._jumps.now * 1000 + 1e-6) / 1000

    def call_at(self, when: float, callback: Callable[..., object], *args: Any, **kwargs: Any) -> asyncio.TimerHandle:
        delay = round((when - self.time()) * 1000)
        if delay <= 0:
            self.timers += 1
            self._jumps.now += 1e-5  # time goes by in a loop that goes round, too
            return self.call_soon(callback, *args, **kwargs)  # type: ignore[return-value]
        return super().call_at(self.time() + delay / 1000, callback, *args, **kwargs)


def run(work: Coroutine[Any, Any, T], loop_factory: Callable[[], SimulatedLoop] = SimulatedLoop) -> T:
    """Run it to its end in simulated time; then no task of it and no timer may be left."""
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        loop = runner.get_loop()
        result = runner.run(work)
        assert isinstance(loop, SimulatedLoop)
        left = [task for task in asyncio.all_tasks(loop) if not task.done()]
        assert not left, f"tasks that nobody ended: {left}"
        assert not loop.pending_timers(), f"timers that nobody cancelled: {loop.pending_timers()}"
        return result


def in_simulated_time(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """For a test that is a coroutine function."""

    @functools.wraps(test)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> None:
        run(test(*args, **kwargs))

    return wrapper


async def until(what: Callable[[], object], within: float = 10_000.0, step: float = 0.01) -> None:
    """Let time pass until it is so. Exact to `step`."""
    async with asyncio.timeout(within):
        while not what():
            await asyncio.sleep(step)


async def outcome(work: Awaitable[T]) -> T | None:
    """Its result; None when it was cancelled."""
    with contextlib.suppress(asyncio.CancelledError):
        return await work
    return None
