"""Whether a model's files are what the Hub has: their content against the checksum that the Hub names them by.

In the Hub's cache a file is a link to `blobs/<checksum>`, so no network is needed. Every byte is read, which for 30 GB
takes a minute or more: nobody does it before a start, only after an engine has called a file damaged. Blocking; call it
from a thread.
"""

import hashlib
import os
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from gateway.providers.local.models.model_names import shards_of

CHECKSUM = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
"""git's SHA-1 of a small file, the SHA-256 of a large one."""
BLOCK = 4 << 20


@dataclass(frozen=True, slots=True)
class Proof:
    """What was compared. Files that lie beside no cache of the Hub's layout have nothing to be compared with."""

    compared: tuple[Path, ...]
    damaged: tuple[Path, ...]
    """Blobs whose content is not what their name says."""


def prove(model: Path, on_progress: Callable[[int, int], None], stop: threading.Event) -> Proof:
    """Reads all files of the model that can be compared; `on_progress(done, total)` hears bytes after each block.

    With `stop` set it ends at once, and what it returns is worth nothing.
    """
    blobs = tuple(dict.fromkeys(blobs_of(model)))
    tally = _Tally(sum(_size(blob) for blob in blobs), on_progress, stop)
    return Proof(blobs, tuple(blob for blob in blobs if not _is_whole(blob, tally)))


def blobs_of(model: Path) -> Iterator[Path]:
    """What the model's files are links to, where that is a blob of a cache."""
    for file in _files_of(model):
        try:
            blob = file.resolve(strict=True)
        except (OSError, RuntimeError):
            continue  # gone meanwhile, or a link to itself: the next look at the model says so
        if blob.parent.name == "blobs" and CHECKSUM.fullmatch(blob.name):
            yield blob


def _files_of(model: Path) -> list[Path]:
    if not model.is_dir():
        return [model.with_name(name) for name in shards_of(model.name)]
    try:
        return sorted(file for file in model.iterdir() if file.is_file())
    except OSError:
        return []


@dataclass(slots=True)
class _Tally:
    total: int
    tell: Callable[[int, int], None]
    stop: threading.Event
    done: int = 0

    def add(self, amount: int) -> None:
        self.done += amount
        self.tell(self.done, self.total)


def _is_whole(blob: Path, tally: _Tally) -> bool:
    """A disk that cannot give the bytes back has lost them."""
    try:
        with blob.open("rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            large = len(blob.name) == 64
            digest = hashlib.sha256() if large else hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
            while block := file.read(BLOCK):
                if tally.stop.is_set():
                    return True
                digest.update(block)
                tally.add(len(block))
    except OSError:
        return False
    return digest.hexdigest() == blob.name


def _size(blob: Path) -> int:
    try:
        return blob.stat().st_size
    except OSError:
        return 0
