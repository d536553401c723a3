"""The status file: how the health port's process learns how the gateway is.

One small JSON file in the private run folder, replaced atomically at each change and once a second as a heartbeat.
`health/status.py` is its only reader. It carries the boot's nonce and a monotonic time, so that a stale file, or one of
another boot, is never believed.
"""

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

NAME = "status.json"


@dataclass(frozen=True, slots=True)
class Status:
    """What a probe may depend on."""

    state: str
    mode: str
    listening: bool
    ever_ready: bool
    draining: bool


class StatusFile:
    """Writes one boot's status. A folder that cannot be written makes probes stale, never requests fail."""

    def __init__(self, folder: Path, boot: str) -> None:
        self._path = folder / NAME
        self._temporary = folder / f".{NAME}.new"
        self._boot = boot
        self.failures = 0

    def write(self, status: Status) -> None:
        text = json.dumps({"boot": self._boot, "at": time.monotonic(), **asdict(status)})
        try:
            self._temporary.write_text(text, "utf-8")
            self._temporary.replace(self._path)
        except OSError:
            self.failures += 1
