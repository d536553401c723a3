"""A bounded queue of lines and the thread that empties it: whoever puts never waits, whatever the other side does.

What cannot be written now (full, read-only, hanging, nobody reads the pipe) waits in the queue and is written when that
works again. What does not fit the queue is dropped and counted, and a line says so in the very place where it is
missing.
"""

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

PIECE = 256 << 10
"""Bytes that are written in one go."""
STUCK = 5.0
"""Seconds after which a write that has not come back counts as trouble."""


class Place(Protocol):
    """Where an outlet writes to. Called on its thread only."""

    trouble: str
    """Why the last write did not succeed; empty when it did."""

    def write(self, data: bytes) -> int:
        """Write whole lines; how many bytes need not be written again. Fewer than given: not now, see `trouble`."""

    def look(self) -> None:
        """Called at least every `Outlet.look_every` seconds: age, signs of life."""

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Gap:
    """What is missing."""

    lines: int = 0
    size: int = 0
    since: float = 0.0
    """Unix time."""
    reason: str = ""


class Outlet:
    """Lines for one place. `note` makes the line that says what is missing."""

    def __init__(
        self,
        name: str,
        place: Place,
        *,
        note: Callable[[Gap], bytes],
        limit: int = 4 << 20,
        retry_every: float = 5.0,
        look_every: float = 10.0,
    ) -> None:
        self.place = place
        self.dropped_lines = 0
        self.dropped_size = 0
        self._note = note
        self._limit = limit
        self._retry_every = retry_every
        self._look_every = look_every
        self._queue: deque[bytes] = deque()
        self._size = 0
        self._gap: Gap | None = None
        self._changed = threading.Condition()
        self._closing = False
        self._at_work_since: float | None = None
        self._retry_at = 0.0
        self._thread = threading.Thread(target=self._run, name=f"log-{name}", daemon=True)

    def __repr__(self) -> str:
        trouble = f" trouble={self.trouble!r}" if self.trouble else ""
        return f"<Outlet {self._thread.name} waiting={self._size} dropped={self.dropped_lines}{trouble}>"

    def start(self) -> None:
        self._thread.start()

    def put(self, data: bytes) -> None:
        """Whole lines. Never waits longer than it takes to append."""
        with self._changed:
            if self._size and self._size + len(data) > self._limit:
                self._drop(data.count(b"\n"), len(data))
                return
            if self._gap is not None:
                self._append(self._note(self._gap))
                self._gap = None
            self._append(data)
            self._changed.notify_all()

    def drop(self, lines: int, size: int) -> None:
        """Lines that were lost before they came here."""
        with self._changed:
            self._drop(lines, size)

    @property
    def trouble(self) -> str:
        """Why lines do not get out just now; empty when they do."""
        since = self._at_work_since
        stuck = time.monotonic() - since if since is not None else 0.0
        if stuck >= STUCK:
            return f"no answer for {stuck:.0f} s"
        return self.place.trouble

    @property
    def waiting(self) -> bool:
        return self._size > 0

    def flush(self, patience: float) -> bool:
        """Wait until all is out, or for so long. Whether it is."""
        with self._changed:
            self._retry_at = 0.0
            self._changed.notify_all()
            return self._changed.wait_for(lambda: self._size == 0 and self._at_work_since is None, patience)

    def ask_to_close(self) -> None:
        """Write what is there, try once where it does not work, close the place, end."""
        with self._changed:
            self._closing = True
            self._retry_at = 0.0
            self._changed.notify_all()

    def join(self, patience: float) -> bool:
        """Whether it has ended within so many seconds. What hangs is left behind: the thread is a daemon."""
        self._thread.join(max(0.0, patience))
        return not self._thread.is_alive()

    # -- under the lock

    def _append(self, data: bytes) -> None:
        self._queue.append(data)
        self._size += len(data)

    def _drop(self, lines: int, size: int) -> None:
        gap = self._gap or Gap(since=time.time())
        reason = self.trouble or gap.reason or "too many lines at once"
        self._gap = Gap(gap.lines + lines, gap.size + size, gap.since, reason)
        self.dropped_lines += lines
        self.dropped_size += size

    # -- on the thread

    def _run(self) -> None:
        while True:
            data = self._next()
            if data is None:
                break
            self.place.look()
            written = self.place.write(data) if data else 0
            self._done(data, written)
        self.place.close()

    def _next(self) -> bytes | None:
        """What to write next; empty when it is time to look around; None at the end."""
        with self._changed:
            wait = self._look_every
            if self._retry_at:
                wait = min(wait, max(0.0, self._retry_at - time.monotonic()))
            self._changed.wait_for(self._has_work, wait)
            if self._gap is not None and not self._queue and not self.place.trouble:
                self._append(self._note(self._gap))
                self._gap = None
            if self._closing and (not self._queue or self._retry_at):
                return None
            self._at_work_since = time.monotonic()
            if self._retry_at > self._at_work_since and not self._closing:
                return b""
            taken: list[bytes] = []
            size = 0
            while self._queue and (not taken or size + len(self._queue[0]) <= PIECE):
                taken.append(self._queue.popleft())
                size += len(taken[-1])
            return b"".join(taken)

    def _has_work(self) -> bool:
        return self._closing or (bool(self._queue) and self._retry_at <= time.monotonic())

    def _done(self, data: bytes, written: int) -> None:
        with self._changed:
            self._at_work_since = None
            self._size -= written
            if written < len(data):
                self._queue.appendleft(data[written:])
                self._retry_at = time.monotonic() + self._retry_every
            elif data:
                self._retry_at = 0.0
            self._changed.notify_all()
