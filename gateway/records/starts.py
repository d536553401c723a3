"""How long the last cold starts on this volume took: what HEALTH_MODE=auto goes by.

One small JSON list on the volume. It only informs; a file that is missing, torn or cannot be written is as if there
were none.
"""

import json
import math
import os
from pathlib import Path

KEPT = 5


class StartTimes:
    """The last starts' seconds, oldest first."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def slowest(self) -> float | None:
        """Seconds of the slowest of the last starts; None when none is known."""
        return max(self._read(), default=None)

    def add(self, seconds: float) -> None:
        """Waits for the volume, however long that takes: not for the event loop's thread."""
        kept = [*self._read(), round(float(seconds), 3)][-KEPT:]
        temporary = self._path.with_suffix(f".{os.getpid()}.new")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_text(json.dumps(kept), "utf-8")
            temporary.replace(self._path)
        except OSError:
            # A full or read-only volume: the next boot decides without it.
            try:
                temporary.unlink(missing_ok=True)
            except OSError:
                pass  # it stays, some bytes

    def _read(self) -> list[float]:
        try:
            with self._path.open("rb") as file:
                kept = json.loads(file.read(4096))
        except (OSError, ValueError, RecursionError):
            return []
        if not isinstance(kept, list):
            return []
        return [value for value in kept if isinstance(value, float) and math.isfinite(value) and value >= 0]
