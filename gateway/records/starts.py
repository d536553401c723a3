"""How long the last cold starts on this volume took: what HEALTH_MODE=auto goes by.

One small JSON list on the volume. It only informs; a file that is missing, torn or cannot be written is as if there
were none.
"""

import json
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
        kept = [*self._read(), round(seconds, 3)][-KEPT:]
        temporary = self._path.with_suffix(f".{os.getpid()}.new")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_text(json.dumps(kept), "utf-8")
            temporary.replace(self._path)
        except OSError:
            pass  # a full or read-only volume: the next boot decides without it

    def _read(self) -> list[float]:
        try:
            kept = json.loads(self._path.read_text("utf-8"))
        except (OSError, ValueError):
            return []
        return [float(value) for value in kept if isinstance(value, int | float)] if isinstance(kept, list) else []
