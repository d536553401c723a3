"""Has the kernel read a model's files while the engine still imports its libraries: seconds in which the disk idles.

vLLM takes ten seconds and more until it opens the first file, and then asks for one piece after the other. Here the
kernel is told beforehand that all of it will be wanted (posix_fadvise, WILLNEED), in the order of the files, a window
at a time: it may ask the disk, or the servers of a network volume, for many pieces at once, and the engine finds them
in memory. Nothing is copied, and no memory is taken that could not be given back at once.

It is left out where it would be in the way: for files that are in memory already or in the greater part, for a model
that does not fit into the memory that is free (its beginning would be thrown out before the engine comes by), and for
an engine that was told to read past the page cache. It ends with the start, and where memory becomes short.

A thread: every call releases the interpreter's lock while it waits, and may hang as long as the volume does.
"""

import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from gateway.providers.local.loading.measures import WARM, resident
from gateway.providers.local.models.weights import weights_of
from gateway.providers.local.planning.free_memory import free_memory

WINDOW = 32 << 20
"""Bytes that are asked for before the end of the window before is waited for: two of them are under way."""
STEP = 128 << 10
"""Bytes of one call. Of more than a device's own read-ahead the kernel silently leaves out the rest (mm/readahead.c,
force_page_cache_ra; tried: of 32 MiB calls a quarter came, where that is 8 MiB; 128 KiB is the least that is usual)."""
FITS = 0.8
"""The share of the free memory that a model may take in order to be read ahead."""
SPARE = 512 << 20
"""Bytes of free memory below which it stops."""
WORTH = 64 << 20
"""Bytes. What is smaller is read before anybody could have been faster."""
PAST_THE_CACHE = ("--load-format", "--direct-io", "-dio", "--direct_io", "direct_io")
"""Arguments (ENGINE_ARGS) by which an engine reads past the page cache, or may."""


def bypassed(arguments: Sequence[str]) -> bool:
    """Whether an engine that is called so reads in its own way."""
    return any(word.partition("=")[0] in PAST_THE_CACHE for word in arguments)


class ReadAhead:
    """Of one start, on a thread of its own, from `begin` until `close` or the end of the files."""

    def __init__(self, model: Path, *, free: Callable[[], int | None] = free_memory) -> None:
        self._model = model
        self._free = free
        self._closed = threading.Event()
        self.asked = 0
        """Bytes that the kernel was asked for so far."""
        self._thread = threading.Thread(target=self._run, name=f"read ahead {model.name}", daemon=True)

    def __repr__(self) -> str:
        return f"<ReadAhead {self._model.name} asked={self.asked >> 20}MiB{' closed' if self._closed.is_set() else ''}>"

    def begin(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """At once: a call that is under way ends by itself, and there is no other."""
        self._closed.set()

    def wait(self, patience: float) -> bool:
        """Whether it has ended, after at most `patience` seconds."""
        self._thread.join(patience)
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            files = weights_of(self._model)
            if self._is_worth_it(files):
                for path in files:
                    self._read(path)
        except OSError:
            pass  # gone, unreadable, a broken disk: the engine meets the same, and its words are better

    def _is_worth_it(self, files: Sequence[Path]) -> bool:
        total = sum(path.stat().st_size for path in files)
        free = self._free()
        if total < WORTH or (free is not None and total > FITS * free):
            return False
        return (resident(files) or 0) < WARM * total

    def _read(self, path: Path) -> None:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            size = os.fstat(handle).st_size
            for offset in range(0, size, WINDOW):
                if self._closed.is_set():
                    return
                if (free := self._free()) is not None and free < SPARE:
                    self._closed.set()
                    return
                for place in range(offset, min(offset + WINDOW, size), STEP):
                    os.posix_fadvise(handle, place, STEP, os.POSIX_FADV_WILLNEED)
                self.asked += min(WINDOW, size - offset)
                if offset:
                    os.pread(handle, 1, offset - 1)  # the end of the window before: waits until it is there
        finally:
            os.close(handle)
