"""Which names under `DATA_DIR/logs` are ours, and what they say. Pure.

    <boot>_<worker>.txt                  what a gateway writes now, or was writing when it ended
    <boot>_<worker>_<when>.txt[.gz]      rotated at <when>
    <boot>_<worker>_engine.txt           the same for the engine's output
    <boot>_<worker>_engine_<when>.txt[.gz]
    <boot>_<worker>.log                  a boot log
    latest.txt                           leads to the newest

`<boot>` is `20261121T140506Z`, `<when>` is `20261122T140506.123456Z`: UTC, so they sort, and no change to summer time
can make two of them equal. `<worker>` has no `_`, so nothing can be read in two ways.

    >>> parse("20261121T140506Z_pod-1_engine_20261122T140506.123456Z.txt.gz").is_rotated
    True
    >>> parse("notes.txt") is None
    True
"""

import re
from dataclasses import dataclass
from datetime import UTC, datetime

LATEST = "latest.txt"
_WHEN = "%Y%m%dT%H%M%S.%fZ"
_STAMP = r"(?P<boot>[0-9]{8}T[0-9]{6}Z)_[A-Za-z0-9.-]{1,48}"
_OURS = re.compile(
    rf"(?P<stamp>{_STAMP})(?P<engine>_engine)?"
    r"(?:(?:_(?P<when>[0-9]{8}T[0-9]{6}\.[0-9]{6}Z))(?P<rest>\.txt(?:\.gz(?:\.tmp)?)?)|\.(?:txt|log))",
    re.ASCII,
)
_LATEST_IN_MAKING = re.compile(rf"latest\.{_STAMP}\.tmp", re.ASCII)
_FOLDER = re.compile(r"_boot|[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Name:
    """What a file's name says of it."""

    stamp: str
    """`<boot>_<worker>`; empty for `latest.txt`."""
    is_engine: bool = False
    when: float | None = None
    """Unix time of its rotation."""
    is_compressed: bool = False
    is_unfinished: bool = False
    """In the making, or left over by a process that died at it."""

    @property
    def is_rotated(self) -> bool:
        """Whether nobody writes to it any more."""
        return self.when is not None and not self.is_unfinished


def parse(name: str) -> Name | None:
    """None for a file that is not ours: it is never touched."""
    if name == LATEST:
        return Name("")
    if _LATEST_IN_MAKING.fullmatch(name):
        return Name("", is_unfinished=True)
    match = _OURS.fullmatch(name)
    if match is None:
        return None
    when = _unix(match["when"])
    if match["when"] and when is None:
        return None  # the 31st of February: somebody else's idea of a name
    rest = match["rest"] or ""
    return Name(
        stamp=match["stamp"],
        is_engine=match["engine"] is not None,
        when=when,
        is_compressed=".gz" in rest,
        is_unfinished=rest.endswith(".tmp"),
    )


def is_folder(name: str) -> bool:
    """Whether a LOG_NAME could be called so."""
    return _FOLDER.fullmatch(name) is not None


def rotated(live: str, when: float) -> str:
    """What the file called `live` (`….txt`) is called once it is rotated."""
    return f"{live.removesuffix('.txt')}_{datetime.fromtimestamp(when, UTC).strftime(_WHEN)}.txt"


def latest_in_making(stamp: str) -> str:
    return f"latest.{stamp}.tmp"


def _unix(when: str | None) -> float | None:
    if when is None:
        return None
    try:
        return datetime.strptime(when, _WHEN).replace(tzinfo=UTC).timestamp()
    except ValueError:
        return None
