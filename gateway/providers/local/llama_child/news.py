"""How far loading is. One board: the engine's thread writes, /health reads, and the gateway hears each change.

The gateway gets one JSON line per change on a pipe, so that it knows of *ready* at once instead of asking again and
again. A gateway that does not listen must not matter here: a full or broken pipe loses lines, nothing else.
"""

import json
import os
import threading
from collections.abc import Mapping

STEP = 0.01
"""Smaller progress is not told: at most a hundred lines, so the pipe cannot fill up."""


class Board:
    """Written by the engine's thread; read by any. Phases: booting, loading, warming, ready, failed."""

    def __init__(self, news_fd: int | None = None) -> None:
        self._lock = threading.Lock()
        self._fd = news_fd
        self.phase = "booting"
        self.ratio: float | None = None
        self.reason = self.detail = ""
        if news_fd is not None:
            os.set_blocking(news_fd, False)

    @property
    def ready(self) -> bool:
        return self.phase == "ready"

    def loading(self, phase: str, ratio: float | None = None, *, done: int | None = None, total: int = 0) -> None:
        """`ratio` is 0..1 of the whole of loading where it is known; `done` of `total` are bytes, while files are read.
        Told once per phase, then every `STEP`."""
        ratio = None if ratio is None else round(min(1.0, max(0.0, ratio)), 3)
        if phase == self.phase and ratio is not None and self.ratio is not None and ratio - self.ratio < STEP:
            return
        self.phase, self.ratio = phase, ratio
        self._tell({"phase": phase, "ratio": ratio} | ({"done": done, "total": total} if done is not None else {}))

    def became_ready(self, models: tuple[str, ...], context: int) -> None:
        self.ratio, self.phase = 1.0, "ready"
        self._tell({"phase": "ready", "models": list(models), "context": context, "concurrency": 1})

    def failed(self, reason: str, detail: str) -> None:
        """`reason` is a sentence of ours; `detail` is what the engine said, for the log."""
        self.phase, self.reason, self.detail = "failed", reason, detail
        self._tell({"phase": "failed", "reason": reason, "detail": detail})

    def _tell(self, news: Mapping[str, object]) -> None:
        with self._lock:
            if self._fd is None:
                return
            try:
                os.write(self._fd, json.dumps(news, separators=(",", ":")).encode() + b"\n")
            except BlockingIOError:
                pass  # nobody reads: this line is lost, and /health still has it
            except OSError:
                self._fd = None  # the other end is gone; the guard ends us if the gateway is

    def __repr__(self) -> str:
        return f"<Board {self.phase}{'' if self.ratio is None else f' {self.ratio:.0%}'}>"
