"""Which log files lie in a folder, and their lines: from the front, from the end, and as they come.

Files may be large, compressed, torn, and on a network volume; they may be rotated, compressed or removed while they are
read, by a gateway that knows nothing of us. So: pieces, never whole files; a file that is gone is no error; what comes
is found by looking again, not by being told (a network volume tells nobody).
"""

import gzip
import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, cast

from gateway.records.logs import names

PIECE = 256 * 1024
LONGEST = 1024 * 1024
"""Bytes. A longer line is not one of ours, and is taken apart."""
COMPRESSED = ".gz"


@dataclass(frozen=True, slots=True)
class Segment:
    """One file of a boot's log."""

    path: Path
    when: float | None
    """Unix time of its rotation; None for the one that is, or was last, written to."""
    changed: float
    """Unix time at which something was written to it last, as the volume says."""
    size: int
    """Bytes, as they are on the volume. Of a live file no more than this is read."""

    @property
    def is_compressed(self) -> bool:
        return self.path.name.endswith(COMPRESSED)

    @property
    def until(self) -> float:
        """Unix time after which nothing in it happened."""
        return self.changed if self.when is None else self.when


@dataclass(frozen=True, slots=True)
class BootFiles:
    """All of one boot's log, the oldest part first."""

    stamp: str
    """`<boot>_<worker>`."""
    segments: tuple[Segment, ...]

    @property
    def changed(self) -> float:
        return max(segment.changed for segment in self.segments)

    @property
    def size(self) -> int:
        return sum(segment.size for segment in self.segments)

    @property
    def began(self) -> str:
        """As times stand in lines, but up to the second: `2026-11-21T14:05:06`."""
        s = self.stamp
        return f"{s[:4]}-{s[4:6]}-{s[6:11]}:{s[11:13]}:{s[13:15]}"

    @property
    def live(self) -> Segment | None:
        return self.segments[-1] if self.segments[-1].when is None else None


def find(folder: Path, *, engine: bool = False) -> list[BootFiles]:
    """Every boot's log in `DATA_DIR/logs/<LOG_NAME>`, the oldest boot first. Raises OSError when the folder cannot be
    read."""
    found: dict[str, dict[str, Segment]] = {}
    with os.scandir(folder) as entries:
        for entry in entries:
            name = names.parse(entry.name)
            plain = entry.name.removesuffix(COMPRESSED)
            if name is None or name.is_unfinished or name.is_engine != engine or not name.stamp:
                continue
            if not plain.endswith(".txt"):
                continue  # a boot's story is another sort of log
            try:
                facts = entry.stat(follow_symlinks=False)
            except OSError:
                continue  # gone since
            segment = Segment(Path(entry.path), name.when, facts.st_mtime, facts.st_size)
            known = found.setdefault(name.stamp, {})
            if plain not in known or not segment.is_compressed:
                known[plain] = segment  # for an instant there are both
    return [
        BootFiles(stamp, tuple(sorted(files.values(), key=lambda s: (s.when is None, s.when or 0.0))))
        for stamp, files in sorted(found.items())
    ]


# --- Reading ----------------------------------------------------------------------------------------------------------


def forwards(segment: Segment, piece_size: int = PIECE, *, holding: bytes = b"") -> Iterator[bytes]:
    """Its lines from the first to the last, without their ends. `holding`: whole pieces without it may be left out."""
    rest = b""
    for piece in _pieces(segment, piece_size):
        lines, end, rest = (rest + piece).rpartition(b"\n")
        if end and holding in lines:
            yield from lines.split(b"\n")
        if len(rest) > LONGEST:
            yield rest
            rest = b""
    if rest:
        yield rest


def backwards(segment: Segment, piece_size: int = PIECE, *, holding: bytes = b"") -> Iterator[bytes]:
    """The same from the last to the first. Not for compressed ones, which can only be read from the front."""
    file = _open(segment)
    if file is None:
        return
    with file:
        place, rest = _length(file, segment), b""
        if not place:
            return
        try:
            if _read_at(file, place - 1, 1) == b"\n":
                place -= 1
            while place:
                start = max(0, place - piece_size)
                rest, end, lines = (_read_at(file, start, place - start) + rest).partition(b"\n")
                place = start
                if end and holding in lines:
                    yield from reversed(lines.split(b"\n"))
                if len(rest) > LONGEST:
                    yield rest
                    rest = b""
        except OSError:
            pass  # the volume went away: what is left of the line is shown
        if rest or not place:
            yield rest


def _pieces(segment: Segment, size: int) -> Iterator[bytes]:
    file = _open(segment)
    if file is None:
        return
    with file:
        left = _length(file, segment)
        try:
            if segment.is_compressed:
                with gzip.GzipFile(fileobj=file) as unpacked:
                    while piece := unpacked.read1(size):
                        yield piece
                return
            while left and (piece := file.read(min(size, left))):
                left -= len(piece)
                yield piece
        except (OSError, EOFError, zlib.error):
            pass  # torn, or the volume went away: what came before it is worth having


def as_it_is(segment: Segment) -> Segment:
    """The same part of a log as it lies there now: since it was found, it may have been compressed."""
    if segment.when is None or segment.is_compressed or segment.path.exists():
        return segment
    packed = segment.path.with_name(segment.path.name + COMPRESSED)
    try:
        return replace(segment, path=packed, size=packed.stat().st_size)
    except OSError:
        return segment  # gone altogether


def _open(segment: Segment) -> BinaryIO | None:
    """None when it is not there any more."""
    try:
        return _plain(segment.path)
    except OSError:
        return None


def _plain(path: Path) -> BinaryIO:
    """No link is followed, and a pipe that somebody laid there holds nobody."""
    return cast(BinaryIO, os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb", 0))


def _length(file: BinaryIO, segment: Segment) -> int:
    """How much of it counts: what was there when we looked, if it still is."""
    return min(segment.size, os.fstat(file.fileno()).st_size)


def _read_at(file: BinaryIO, place: int, count: int) -> bytes:
    return os.pread(file.fileno(), count, place)


# --- Following --------------------------------------------------------------------------------------------------------


class Follower:
    """One boot's log from a place on, through every rotation. Close it."""

    def __init__(self, boot: BootFiles, folder: Path, *, engine: bool, from_start: bool) -> None:
        self.stamp = boot.stamp
        self._folder = folder
        self._engine = engine
        self._path = folder / f"{boot.stamp}{'_engine' if engine else ''}.txt"
        self._known = {_base(segment) for segment in boot.segments if segment.when is not None}
        self._rest = b""
        self._place = 0
        self._file = self._opened()
        if self._file is not None and not from_start:
            self._place = end_of_last_line(self._file, os.fstat(self._file.fileno()).st_size)

    def __repr__(self) -> str:
        return f"<Follower {self.stamp} at {self._place}{'' if self._file else ' (no file)'}>"

    @property
    def place(self) -> int:
        """Where in the live file it goes on: what is before that has to be shown by somebody else."""
        return self._place

    def poll(self) -> Iterator[bytes]:
        """The lines that have come since."""
        yield from self._new()
        if not self._is_another():
            return
        yield from self._new()  # between the last reading and the rotation
        rotated = self._rotated_meanwhile()
        if rotated:
            # The first of them is the file that we have open, if we have one.
            missed = rotated[1:] if self._file is not None else rotated
            if self._rest:
                yield self._rest
            for segment in missed:
                yield from forwards(as_it_is(segment))
            self._rest, self._place = b"", 0
        # Else it is the same log by another number: a volume that was mounted anew, or one that keeps no numbers.
        self.close()
        self._file = self._opened()
        yield from self._new()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _new(self) -> Iterator[bytes]:
        if self._file is None:
            return
        try:
            if os.fstat(self._file.fileno()).st_size < self._place:
                self._place, self._rest = 0, b""  # somebody has emptied it
            while piece := _read_at(self._file, self._place, PIECE):
                self._place += len(piece)
                *lines, self._rest = (self._rest + piece).split(b"\n")
                yield from lines
                if len(self._rest) > LONGEST:
                    yield self._rest
                    self._rest = b""
        except OSError:
            return  # ESTALE, EIO: the volume is away, or the file is; `_is_another` finds out

    def _is_another(self) -> bool:
        """Whether the name leads to another file than the one that is open. While it leads nowhere, we wait."""
        try:
            there = self._path.lstat()
        except OSError:
            return False
        try:
            here = os.fstat(self._file.fileno()) if self._file is not None else None
        except OSError:
            return True
        return here is None or (there.st_dev, there.st_ino) != (here.st_dev, here.st_ino)

    def _rotated_meanwhile(self) -> list[Segment]:
        """What was rotated since the last look, the oldest first."""
        try:
            boots = find(self._folder, engine=self._engine)
        except OSError:
            return []
        ours = (boot.segments for boot in boots if boot.stamp == self.stamp)
        new = [s for segments in ours for s in segments if s.when is not None and _base(s) not in self._known]
        self._known |= {_base(segment) for segment in new}
        return new

    def _opened(self) -> BinaryIO | None:
        try:
            return _plain(self._path)
        except OSError:
            return None


class Following:
    """Some boots' logs and those of every boot that begins later, as they come. Close it."""

    def __init__(self, folder: Path, boots: list[BootFiles], known: list[BootFiles], *, engine: bool = False) -> None:
        """Follows `boots`, and every one that is not among `known`."""
        self._folder = folder
        self._engine = engine
        self._followers = {boot.stamp: Follower(boot, folder, engine=engine, from_start=False) for boot in boots}
        self._known = {boot.stamp for boot in known} | set(self._followers)

    def __repr__(self) -> str:
        return f"<Following {list(self._followers.values())}>"

    def until_here(self, boot: BootFiles) -> BootFiles:
        """The boot's log up to where we go on: nothing is shown twice, and nothing is missed."""
        follower, live = self._followers.get(boot.stamp), boot.live
        if follower is None or live is None:
            return boot
        return replace(boot, segments=(*boot.segments[:-1], replace(live, size=follower.place)))

    def poll(self, *, look_around: bool) -> Iterator[tuple[str, bytes]]:
        """(stamp, line) of what has come. `look_around`: look for new boots, too; a listing costs on some volumes."""
        if look_around:
            self._look_around()
        for stamp, follower in self._followers.items():
            for line in follower.poll():
                yield stamp, line

    def _look_around(self) -> None:
        try:
            boots = find(self._folder, engine=self._engine)
        except OSError:
            return  # the volume is away: it may come back
        for boot in boots:
            if boot.stamp not in self._known:
                self._known.add(boot.stamp)
                self._followers[boot.stamp] = Follower(boot, self._folder, engine=self._engine, from_start=True)

    def close(self) -> None:
        for follower in self._followers.values():
            follower.close()


def end_of_last_line(file: BinaryIO, size: int) -> int:
    """Where the last whole line ends, of the first `size` bytes: the rest of a line that is being written comes
    later."""
    place = size
    while place:
        start = max(0, place - PIECE)
        found = _read_at(file, start, place - start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        place = start
    return 0


def _base(segment: Segment) -> str:
    return segment.path.name.removesuffix(COMPRESSED)
