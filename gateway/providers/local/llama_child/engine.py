"""One thread works, one job at a time, first come first served; the event loop hands jobs in and takes answers out.

A job that runs is never cut by the next. A caller who leaves costs nothing: in line the job is taken out, while it runs
the brake is pulled. Answers travel through a small window, so that a caller who reads slowly slows the engine and not
the memory.
"""

import asyncio
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from enum import Enum
from typing import Any

from .brake import Brake, CallerLeft
from .refusals import Refusal, failed, stopping

WINDOW = 64
"""Pieces of an answer that may be on their way between the engine and the socket."""

Work = Callable[[Any], Iterator[object]]
"""Runs in the engine's thread with the loaded model; yields the pieces of the answer."""


class State(Enum):
    WAITING = "waiting"
    RUNNING = "running"
    ENDED = "ended"


class Job:
    """One request in the engine. The loop reads `pieces()`, and calls `leave()` when nobody waits for them any more."""

    def __init__(self, work: Work, engine: "Engine") -> None:
        self.work = work
        self.state = State.WAITING
        self._engine = engine
        self._loop = asyncio.get_running_loop()
        self._arrived: deque[object] = deque()
        self._ending: Refusal | None = None
        self._ended = False
        self._wake = asyncio.Event()
        self._window = threading.Semaphore(WINDOW)

    async def pieces(self) -> list[object]:
        """All that arrived since the last call; an empty list is the end. Raises the refusal it ended with."""
        while not self._arrived and not self._ended:
            self._wake.clear()
            await self._wake.wait()
        taken = list(self._arrived)
        self._arrived.clear()
        for _ in taken:
            self._window.release()
        if not taken and self._ending is not None:
            raise self._ending
        return taken

    def leave(self) -> None:
        """The caller is gone or has everything. Harmless when the job ended."""
        self._engine.forget(self)

    def deliver(self, piece: object, brake: Brake) -> None:
        """From the engine's thread: waits while the window is full."""
        while not self._window.acquire(timeout=0.1):
            brake.check()
        self._to_loop(self._arrive, piece)

    def end(self, refusal: Refusal | None = None) -> None:
        """From any thread, once."""
        self._to_loop(self._finish, refusal)

    def _to_loop(self, call: Callable[[Any], None], value: object) -> None:
        try:
            self._loop.call_soon_threadsafe(call, value)
        except RuntimeError:
            pass  # the loop is closed: the program is ending, and nobody is there to hear it

    def _arrive(self, piece: object) -> None:
        self._arrived.append(piece)
        self._wake.set()

    def _finish(self, refusal: Refusal | None) -> None:
        self._ended, self._ending = True, refusal
        self._wake.set()

    def __repr__(self) -> str:
        return f"<Job {self.state.value}>"


class Engine:
    """The thread and its line. `load` makes the model in that thread; nothing native is touched from another."""

    def __init__(self, load: Callable[[Brake], Any], on_failure: Callable[[], None]) -> None:
        self._load = load
        self._on_failure = on_failure
        self._brake = Brake()
        self._changed = threading.Condition()
        self._line: deque[Job] = deque()
        self._running: Job | None = None
        self._closing = False
        self._thread = threading.Thread(target=self._work, name="engine", daemon=True)

    def start(self) -> None:
        self._thread.start()

    @property
    def waiting(self) -> int:
        return len(self._line)

    @property
    def busy(self) -> bool:
        return self._running is not None

    def submit(self, work: Work) -> Job:
        """From the event loop. Raises a refusal when the engine is stopping."""
        job = Job(work, self)
        with self._changed:
            if self._closing:
                raise stopping()
            self._line.append(job)
            self._changed.notify()
        return job

    def forget(self, job: Job) -> None:
        """Takes it out of the line, or stops it. The lock makes sure that the brake never meets the next job."""
        with self._changed:
            if job.state is State.WAITING:
                self._line.remove(job)
                job.state = State.ENDED
            elif self._running is job:
                self._brake.pull()

    def refuse_new(self) -> None:
        """Nothing new begins: who waits in line is told so; what runs goes on until `cut`."""
        with self._changed:
            self._closing = True
            for job in self._line:
                job.state = State.ENDED
                job.end(stopping())
            self._line.clear()
            self._changed.notify()

    def cut(self) -> None:
        """Stops what runs, loading included."""
        with self._changed:
            self._closing = True
            self._brake.pull()

    def join(self, seconds: float) -> None:
        """Waits, at most this long, until the thread is done. Not from the event loop."""
        self._thread.join(seconds)

    def _work(self) -> None:
        model = self._load(self._brake)
        if model is None:
            self._on_failure()
            return
        while (job := self._next()) is not None:
            ending = self._serve(job, model)
            with self._changed:
                self._running = None
                job.state = State.ENDED
            job.end(ending)

    def _next(self) -> Job | None:
        with self._changed:
            while not self._line:
                if self._closing:
                    return None
                self._changed.wait()
            job = self._line.popleft()
            job.state, self._running = State.RUNNING, job
            self._brake.release()
            return job

    def _serve(self, job: Job, model: Any) -> Refusal | None:
        pieces = job.work(model)
        try:
            for piece in pieces:
                job.deliver(piece, self._brake)
                self._brake.check()
        except CallerLeft:
            return stopping()  # heard only by a caller who did not leave: then we are
        except Refusal as refusal:
            return refusal
        except Exception:
            traceback.print_exc(file=sys.stderr)
            return failed()
        finally:
            # Closed here and now, in this thread: the package's generators hold the model's state.
            close = getattr(pieces, "close", None)
            if close is not None:
                close()
        return None

    def __repr__(self) -> str:
        return (
            f"<Engine {'busy' if self.busy else 'idle'}, {self.waiting} waiting{', closing' if self._closing else ''}>"
        )
