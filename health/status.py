"""From what the gateway last said about itself to the code that a probe gets.

The rules are pure and stand here once: the gateway's own `/ping` asks the same functions. This file imports nothing of
ours and next to nothing else, since the health process must answer within 60 ms of its start.
"""

import os

FRESH = 10.0
"""The gateway says something every second. Silent for longer than this, it is taken for dead or stuck."""

MODES = ("auto", "strict", "hold", "always")


class Status:
    """One word of the gateway: its state, when it was said, and how it wants probes to be answered."""

    __slots__ = ("at", "draining", "ever_ready", "listening", "mode", "state")

    def __init__(self, at: float, state: str, mode: str, listening: bool, ever_ready: bool, draining: bool) -> None:
        self.at = at
        """CLOCK_MONOTONIC, which all processes of one machine share."""
        self.state = state
        self.mode = mode
        """What the gateway made of `HEALTH_MODE=auto`: strict, hold or always."""
        self.listening = listening
        self.ever_ready = ever_ready
        self.draining = draining

    def __repr__(self) -> str:
        flags = [name for name in ("listening", "ever_ready", "draining") if getattr(self, name)]
        return f"<Status {self.state} {self.mode} at={self.at:.3f} {' '.join(flags)}>"

    def is_fresh(self, now: float) -> bool:
        # A snapshot restored elsewhere may bring times from "the future": not believed either, until the next word.
        return abs(now - self.at) <= FRESH


def ping_code(mode: str, status: Status | None, now: float) -> int:
    """The code of `/ping` in RunPod's words: 200 send requests, 204 still initializing, else take me out of the pool.

    `mode` is `HEALTH_MODE`; `status` is None as long as the gateway of this boot has said nothing.
    """
    if mode == "auto":
        # Until the gateway has looked at platform and model, strict is the answer that is never a false promise.
        mode = status.mode if status is not None else "strict"
    if mode == "always":
        return 200
    if status is None:
        return 204
    if status.draining or status.state == "draining" or not status.is_fresh(now):
        return 503
    if mode == "hold":
        return 200 if status.listening else 204
    if status.state == "failed":
        return 503
    if not status.listening or (status.state == "starting" and not status.ever_ready):
        return 204
    # Stopped, asleep, stopping, starting again: a request would wake it, and be held until it is there.
    return 200


def ready_code(mode: str, status: Status | None, now: float) -> int:
    """The code of `/readyz`: for those to whom 204 would mean ready (Kubernetes, Docker)."""
    return 200 if ping_code(mode, status, now) == 200 else 503


def live_code(status: Status | None, now: float) -> int:
    """The code of `/livez`: 503 only for a gateway gone silent. Before its first word the boot is under way."""
    return 200 if status is None or status.is_fresh(now) else 503


def parse(data: bytes, boot: str) -> Status | None:
    """What a status file says, or None when it belongs to another boot. Raises ValueError when it is none at all."""
    # Imported here: json costs as much as the whole rest of this process's start, and there is no file during that.
    import json

    fields = json.loads(data)
    if not isinstance(fields, dict):
        raise ValueError("a status file holds one JSON object")
    if fields.get("boot") != boot:
        return None
    try:
        return Status(
            at=float(fields["at"]),
            state=str(fields["state"]),
            mode=str(fields["mode"]),
            listening=bool(fields["listening"]),
            ever_ready=bool(fields["ever_ready"]),
            draining=bool(fields["draining"]),
        )
    except (KeyError, TypeError) as error:
        raise ValueError(f"a status file of another version: {error}") from error


class StatusFile:
    """Reads the file that the gateway replaces atomically, and parses it only when it is another one than last time."""

    def __init__(self, path: str, boot: str) -> None:
        self._path = path
        self._boot = boot
        self._seen: tuple[int, int, int] | None = None
        self._status: Status | None = None

    def __repr__(self) -> str:
        return f"<StatusFile {self._path} of boot {self._boot}: {self._status!r}>"

    def read(self) -> Status | None:
        """The gateway's last word, None before the first. An unreadable file changes nothing: the word just ages."""
        try:
            found = os.stat(self._path)
            seen = (found.st_ino, found.st_mtime_ns, found.st_size)
            if seen != self._seen:
                with open(self._path, "rb") as file:
                    data = file.read(4096)
                self._status = parse(data, self._boot) or self._status
                self._seen = seen
        except (OSError, ValueError):
            # Not there yet, or no descriptor left, or not ours. Nobody to tell: a probe makes no log line.
            pass
        return self._status
