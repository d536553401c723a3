"""Looks at an engine that loads from outside: how much of its model came from the disk, how much lies on the GPUs.

llama.cpp and vLLM map the model's files into memory. What the kernel reads for a mapping shows in no process' own
count of what it read, but the file's pages are in the page cache then, and mincore(2) tells how many. What is read in
the usual way counts with the process (`rchar`, proc_pid_io(5)). The GPUs' memory is NVML's to tell.

All of it may hang (a volume that is gone, a broken driver): it is asked on threads of its own, which are left behind
then, and the last answer stays. They run while an engine loads, and not longer.
"""

import ctypes
import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from threading import Event, Thread

from gateway import gpus
from gateway.gpus import GpusSeen
from gateway.providers.local import guard
from gateway.providers.local.loading.progress import Measured
from gateway.providers.local.models.weights import weights_of

EVERY = 0.5
"""Seconds between two looks, at least."""
SHARE = 10
"""A look that took a second is followed by ten of rest: measuring a large model must not slow it down."""
WARM = 0.9
"""The share of a model that was in the page cache before; from there on the cache says nothing of this start."""
PAGE = os.sysconf("SC_PAGE_SIZE")
PIECE, PIECES = 256 << 10, 1024
"""Bytes that are asked for at once, and how many of them: of a model that has more, as many are asked for, evenly
spread: all pages of a large model would take seconds of a core."""
PROT_READ, MAP_SHARED = 1, 1
MAP_FAILED = ctypes.c_void_p(-1).value


class Gauge:
    """Looks again and again on a thread of its own, until it is closed or there is nothing to see."""

    def __init__(self, name: str, look: Callable[[], bool], *, every: float = EVERY) -> None:
        """`look` says whether to go on. One of an earlier start that is still in its look is waited for, until this
        one is closed: two would ask the same dead driver."""
        self._name = f"gauge: {name}"
        self._look = look
        self._every = every
        self._closed = Event()
        self._earlier = [thread for thread in threading.enumerate() if thread.name == self._name]
        Thread(target=self._run, name=self._name, daemon=True).start()

    def __repr__(self) -> str:
        return f"<Gauge {self._name}{' closed' if self._closed.is_set() else ''}>"

    def _run(self) -> None:
        for thread in self._earlier:
            while thread.is_alive() and not self._closed.is_set():
                thread.join(self._every)
        goes_on = True
        while goes_on and not self._closed.is_set():
            began = time.monotonic()
            goes_on = self._look()
            took = time.monotonic() - began
            self._closed.wait(max(self._every, SHARE * took))

    def close(self) -> None:
        self._closed.set()


class Measures:
    """Of one start. Make it before the engine is started: what was there before is none of the engine's work.

    `model` is its file or folder, None when there is none to look at. `visible`: what the engine is told of
    CUDA_VISIBLE_DEVICES.
    """

    def __init__(
        self,
        model: Path | None,
        *,
        visible: str | None = None,
        every: float = EVERY,
        ask: Callable[[], GpusSeen] = gpus.look,
    ) -> None:
        self.seen = Measured()
        """What is known so far. Written by the threads, each its own part of it, read by anybody."""
        self._model = model
        self._session = 0
        self._visible = visible
        self._ask = ask
        self._paged_before: int | None = None
        self._taken_before: int | None = None
        self._writing = threading.Lock()
        self._gauges = (
            Gauge("model files", self._look_at_files, every=every),
            Gauge("GPU memory", self._look_at_gpus, every=every),
        )

    def __repr__(self) -> str:
        return f"<Measures {self.seen}>"

    def follow(self, session: int) -> None:
        """The engine's processes are those of this session (its guard's), from now on."""
        self._session = session

    def close(self) -> None:
        for gauge in self._gauges:
            gauge.close()

    def _note(self, change: Callable[[Measured], Measured]) -> None:
        with self._writing:
            self.seen = change(self.seen)

    # -- on the threads

    def _look_at_files(self) -> bool:
        files = weights_of(self._model) if self._model is not None else ()
        try:
            total = sum(path.stat().st_size for path in files)
        except OSError:
            return False  # they are not ours to see, or gone: whoever loads them says so
        paged = resident(files)
        if self._paged_before is None:
            self._paged_before = paged if paged is not None else total
        is_telling = paged is not None and self._paged_before < WARM * total
        read = read_by_session(self._session) if self._session else None
        before, paged = (self._paged_before, paged) if is_telling else (0, None)
        self._note(lambda seen: replace(seen, total=total, paged=paged, paged_before=before, read=read))
        return total > 0

    def _look_at_gpus(self) -> bool:
        seen = self._ask()
        used = gpus.visible(seen.gpus, self._visible)
        if not any(gpu.memory for gpu in used):
            return False
        taken = sum(gpu.memory - gpu.free for gpu in used)
        if self._taken_before is None:
            self._taken_before = taken
        since = max(0, taken - self._taken_before)
        self._note(lambda seen: replace(seen, gpu=since))
        return True


# --- The page cache ----------------------------------------------------------------------------------------------


def resident(files: Sequence[Path]) -> int | None:
    """Bytes of these files that are in the page cache, within a thousandth where they are large. None where the kernel
    does not tell us: of files that are not ours to write it says that all of them is there (Linux 5.2 and later)."""
    libc = load_libc()
    if libc is None:
        return None
    try:
        stride = max(1, sum(path.stat().st_size for path in files) // (PIECE * PIECES)) * PIECE
        return sum(_resident(libc, path, stride) for path in files)
    except OSError:
        return None


def load_libc() -> ctypes.CDLL | None:
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        libc.mmap.restype = ctypes.c_void_p
        libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *([ctypes.c_int] * 3), ctypes.c_int64]
        libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
        libc.mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p]
    except (OSError, AttributeError, TypeError):
        return None  # not Linux
    return libc


def _resident(libc: ctypes.CDLL, path: Path, stride: int) -> int:
    """By one piece of each stride. Raises OSError."""
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        about = os.fstat(handle)
        if os.geteuid() not in (0, about.st_uid) and not os.access(path, os.W_OK, effective_ids=True):
            raise PermissionError(path)
        looked_at = there = 0
        for offset in range(0, about.st_size, stride):
            length = min(PIECE, about.st_size - offset)
            looked_at += length
            there += min(length, _resident_pages(libc, handle, offset, length) * PAGE)
        return there * about.st_size // looked_at if looked_at else 0
    finally:
        os.close(handle)


def _resident_pages(libc: ctypes.CDLL, handle: int, offset: int, length: int) -> int:
    """A mapping that nobody touches reads nothing."""
    address = libc.mmap(None, length, PROT_READ, MAP_SHARED, handle, offset)
    if address == MAP_FAILED:
        raise OSError(ctypes.get_errno(), "mmap")
    try:
        told = ctypes.create_string_buffer((length + PAGE - 1) // PAGE)
        if libc.mincore(address, length, told) != 0:
            raise OSError(ctypes.get_errno(), "mincore")
        return told.raw.count(b"\1")
    finally:
        libc.munmap(address, length)


# --- What processes have read -------------------------------------------------------------------------------------


def read_by_session(session: int) -> int | None:
    """Bytes that the processes of this session, as far as they live, have read so far; None when nobody says."""
    known = [read_by(pid) for pid, seen in guard.processes().items() if seen.session == session and pid != session]
    told = [value for value in known if value is not None]
    return sum(told) if told else None


def read_by(pid: int) -> int | None:
    for line in guard.read_proc(pid, "io").splitlines():
        if line.startswith(b"rchar: "):
            return int(line[7:])
    return None
