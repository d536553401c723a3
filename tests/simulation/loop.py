"""A loop in which processes live and die: simulated time, rounds that are counted, and kill -9 between any two of them.

Whatever a process begins (its tasks, its timers, what those begin) carries its name in the context. `Process.kill` ends
all of it at once. Its `finally` blocks still run, because Python has no other way to end a coroutine, but they reach
nobody: what leads out of the process (`Process.alive` is asked by the vendor's network and the ledger's disk) is cut.
"""

import asyncio
import contextvars
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from tests.support.simulated import BEGIN, SimulatedLoop, Stuck

T = TypeVar("T")

YEAR = 366 * 24 * 3600.0
MOST_ROUNDS_AT_ONCE = 20_000
WAYS_OUT = 200
"""Rounds in which a killed process must have let go of everything."""

_here: "contextvars.ContextVar[Process | None]" = contextvars.ContextVar("process", default=None)


class Killed(asyncio.CancelledError):
    """What a call out of a dead process meets."""


class WorldLoop(SimulatedLoop):
    """Simulated time for a year, and a count of how often it went round."""

    def __init__(self) -> None:
        super().__init__()
        self._jumps.last = BEGIN + YEAR
        self.rounds = 0
        self._moment, self._in_moment = BEGIN, 0
        self.at_round: list[tuple[int, Callable[[], object]]] = []
        """What is done when so many rounds are over."""
        self.set_task_factory(_remember)

    def _run_once(self) -> None:
        super()._run_once()  # type: ignore[misc]
        self.rounds += 1
        if self.time() > self._moment:
            self._moment, self._in_moment = self.time(), 0
        self._in_moment += 1
        if self._in_moment > MOST_ROUNDS_AT_ONCE:
            self._in_moment = 0
            raise Stuck(f"the loop goes round and no time passes: {list(self._ready)[:5]}")  # type: ignore[attr-defined]
        if self.at_round and self.at_round[0][0] <= self.rounds:
            due = [deed for moment, deed in self.at_round if moment <= self.rounds]
            self.at_round = [(moment, deed) for moment, deed in self.at_round if moment > self.rounds]
            for deed in due:
                deed()

    def after_rounds(self, rounds: int, deed: Callable[[], object]) -> None:
        """In so many rounds, between two of them: there, no task is in the middle of anything but an `await`."""
        self.at_round.append((self.rounds + rounds, deed))
        self.at_round.sort(key=lambda item: item[0])


def _remember(loop: asyncio.AbstractEventLoop, work: Any, **kwargs: Any) -> "asyncio.Task[Any]":
    context = kwargs.get("context")
    process = _here.get() if context is None else context.get(_here)
    task: asyncio.Task[Any] = asyncio.Task(work, loop=loop, **kwargs)
    if process is not None:
        process.own(task)
    return task


class Process:
    """What dies together."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.alive = True
        self._tasks: dict[asyncio.Task[Any], None] = {}
        self._context = contextvars.copy_context()
        self._context.run(_here.set, self)

    def __repr__(self) -> str:
        return f"<Process {self.name} {'alive' if self.alive else 'dead'}, {len(self._tasks)} tasks>"

    def own(self, task: "asyncio.Task[Any]") -> None:
        self._tasks[task] = None
        task.add_done_callback(lambda task: self._tasks.pop(task, None))

    def do(self, work: Callable[..., T], *args: Any) -> T:
        """A call inside it, at once."""
        return self._context.copy().run(work, *args)

    def begin(self, work: Coroutine[Any, Any, T], name: str | None = None) -> "asyncio.Task[T]":
        return asyncio.get_running_loop().create_task(work, name=name, context=self._context.copy())

    def check(self) -> None:
        """Asked wherever something leaves the process or comes back into it."""
        if not self.alive:
            raise Killed(self.name)

    async def kill(self) -> None:
        """kill -9. Returns when nothing of it is left."""
        loop = asyncio.get_running_loop()
        self.alive = False
        for _ in range(WAYS_OUT):
            self._silence(loop)
            left = [task for task in self._tasks if not task.done()]
            if not left:
                break
            for task in left:
                task.cancel()
            await asyncio.sleep(0)
        else:
            raise AssertionError(f"they do not end when they are cancelled: {left}")
        self._silence(loop)

    def _silence(self, loop: asyncio.AbstractEventLoop) -> None:
        for timer in loop._scheduled:  # type: ignore[attr-defined]
            if not timer.cancelled() and timer._context.get(_here) is self:
                timer.cancel()


def current() -> Process | None:
    return _here.get()
