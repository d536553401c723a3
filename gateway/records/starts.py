"""How long the last cold starts on this volume took, and in which phases: for HEALTH_MODE=auto, and to say of the next
start how far it is.

One small JSON file on the volume. It only informs; a file that is missing, torn or cannot be written is as if there
were none. It was a list of seconds once, and is read as such.
"""

import json
import math
import os
import threading
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from gateway.policy.estimate import Past

KEPT = 5
"""The last seconds; and the last starts of one kind."""
KINDS = 24
"""Models, engines and GPUs of which starts are kept, the latest. 24 kinds of 5 starts are some 50 KB."""
LARGEST = 256 << 10
"""Bytes that are read of the file."""
LONGEST_NAME = 200
PHASES_OF_ONE = 16


@dataclass(frozen=True, slots=True)
class Kind:
    """What starts must have in common to be judged by each other. Empty: not known, which fits all."""

    model: str
    engine: str = ""
    gpu: str = ""
    what: Literal["start", "wake"] = "start"

    def fits(self, other: "Kind") -> bool:
        return (
            (self.model, self.what) == (other.model, other.what)
            and (not self.engine or not other.engine or self.engine == other.engine)
            and (not self.gpu or not other.gpu or self.gpu == other.gpu)
        )


@dataclass(frozen=True, slots=True)
class Known:
    """What the file says."""

    seconds: tuple[float, ...] = ()
    """Of the last starts of any kind, oldest first."""
    pasts: tuple[tuple[Kind, Past], ...] = ()
    """Oldest first."""


class StartTimes:
    """The last starts. Only `read` and `add` go to the volume, and wait for it, however long that takes: not for the
    event loop's thread. The others answer from what was read last."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: Known | None = None
        self._writing = threading.Lock()

    def __repr__(self) -> str:
        known = self._known
        return f"<StartTimes {'not read' if known is None else f'{len(known.pasts)} starts'}>"

    def slowest(self) -> float | None:
        """Seconds of the slowest of the last starts; None when none is known. Reads the file, if it was not yet."""
        return max((self._known or self.read()).seconds, default=None)

    def pasts(self, kind: Kind) -> tuple[Past, ...]:
        """The last starts of this kind, oldest first, as far as they were read."""
        known = self._known
        return tuple(past for other, past in known.pasts if kind.fits(other))[-KEPT:] if known is not None else ()

    def read(self) -> Known:
        try:
            with self._path.open("rb") as file:
                said = json.loads(file.read(LARGEST))
        except (OSError, ValueError, RecursionError):
            said = None
        self._known = known = known_of(said)
        return known

    def add(self, kind: Kind, past: Past, seconds: float | None = None) -> None:
        """One more that became ready. `seconds`: from the order to ready, if HEALTH_MODE is to go by it."""
        with self._writing:
            before = self._known or Known()
            known = self.read()  # another worker may have written since
            known = before if known == Known() else known  # or the volume takes nothing
            lasted = () if seconds is None else (round(float(seconds), 3),)
            self._known = known = Known(
                (*known.seconds, *lasted)[-KEPT:],
                tuple(bounded((*known.pasts, (kind, past)))),
            )
            self._write(known)

    def _write(self, known: Known) -> None:
        temporary = self._path.with_suffix(f".{os.getpid()}.new")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_text(json.dumps(as_json(known)), "utf-8")
            temporary.replace(self._path)
        except OSError:
            # A full or read-only volume: the next boot decides without it.
            try:
                temporary.unlink(missing_ok=True)
            except OSError:
                pass  # it stays, some bytes


def bounded(pasts: tuple[tuple[Kind, Past], ...]) -> Iterator[tuple[Kind, Past]]:
    """The last KEPT of each of the last KINDS."""
    latest = list(dict.fromkeys(kind for kind, _ in reversed(pasts)))[:KINDS]
    for at, (kind, past) in enumerate(pasts):
        newer = sum(other == kind for other, _ in pasts[at + 1 :])
        if kind in latest and newer < KEPT:
            yield kind, past


def as_json(known: Known) -> dict[str, Any]:
    starts = [
        asdict(kind) | {"phases": {name: round(seconds, 3) for name, seconds in past.phases.items()}}
        for kind, past in known.pasts
    ]
    return {"seconds": list(known.seconds), "starts": starts}


def known_of(said: object) -> Known:
    """What can be understood of it."""
    if isinstance(said, list):
        return Known(numbers(said))
    if not isinstance(said, dict):
        return Known()
    starts = said.get("starts")
    found = [start_of(each) for each in starts] if isinstance(starts, list) else []
    seconds = said.get("seconds")
    return Known(
        numbers(seconds) if isinstance(seconds, list) else (), tuple(bounded(tuple(each for each in found if each)))
    )


def start_of(said: object) -> tuple[Kind, Past] | None:
    if (
        not isinstance(said, dict)
        or not isinstance(said.get("phases"), dict)
        or said.get("what") not in ("start", "wake")
    ):
        return None
    names = [said.get(name) for name in ("model", "engine", "gpu")]
    phases = phases_of(said["phases"])
    if not all(isinstance(name, str) and len(name) <= LONGEST_NAME for name in names) or not phases:
        return None
    model, engine, gpu = (str(name) for name in names)
    return Kind(model, engine, gpu, said["what"]), Past(phases)


def phases_of(said: Mapping[str, object]) -> Mapping[str, float]:
    known = [(name, seconds_of(value)) for name, value in list(said.items())[:PHASES_OF_ONE] if len(name) <= 40]
    return MappingProxyType({name: seconds for name, seconds in known if seconds is not None})


def numbers(said: list[object]) -> tuple[float, ...]:
    return tuple(seconds for value in said if (seconds := seconds_of(value)) is not None)[-KEPT:]


def seconds_of(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        return None
    return float(value)
