"""The boot log: one file per boot that tells how it came up, phase by phase, and how it ended.

`DATA_DIR/logs/_boot/<boot>_<worker>.log`, and `latest.txt` beside it with the newest one's path
(`cat latest.txt | xargs cat`). It is what is left of a worker that no longer exists: version, settings, GPU, the
engine's command line, how long each phase of each start took, and why a start failed.

Nothing here waits for the volume: lines are kept, and written by a job on another thread. What cannot be written is
kept for the next try, up to a limit; then it is dropped, and both are counted. One thread (the event loop's) tells the
story; GPUs are heard of from another, which only adds a line.
"""

import errno
import os
import re
import stat
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Condition, Lock, Thread

from gateway.records import gpus
from gateway.records.facts import masked_command
from gateway.records.lines import iso
from gateway.records.logs.volume import Volume

LATEST = "latest.txt"
KEPT = 256 * 1024
"""Bytes that wait for a volume that is full, read-only or gone."""
LENGTH = 2 * 1024 * 1024
"""Bytes of one boot's file. A gateway that is woken each quarter of an hour gets there in a month."""
DETAIL_LINES = 20
RETRY = 30.0
"""Seconds between two tries of a volume that took nothing."""
TOUCH = 60.0
"""Seconds between two signs of life: other workers of the volume make room by removing what nobody writes to."""

Job = Callable[[], object]
Run = Callable[[Job], object]
"""Does a job soon, on another thread, one after the other."""


class BootLog:
    """One boot's story.

    folder: `DATA_DIR/logs/_boot`; stamp: `<boot>_<worker>`. redact: takes secrets out of a text. now: Unix time.
    clock: seconds that never jump. run: who writes; without one, a thread that is there while there is something to do.
    """

    def __init__(
        self,
        folder: Path,
        stamp: str,
        *,
        redact: Callable[[str], str] = str,
        now: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
        run: Run | None = None,
    ) -> None:
        self.path = folder / f"{stamp}.log"
        self.failures = 0
        """Times that the volume did not take what we had."""
        self.dropped = 0
        """Bytes that were given up."""
        self._volume = Volume(folder.parent.parent)
        self._folder = folder.name
        self._stamp = stamp
        self._redact = redact
        self._now = now
        self._clock = clock
        self._began = clock()
        self._courier = Courier(f"boot log {stamp}")
        self._run: Run = run or self._courier
        self._start: _Start | None = None
        self._starts = 0
        self._engine = ""
        self._pending: list[bytes] = []
        self._pending_size = 0
        self._length = 0
        self._is_asked = False
        self._is_latest = False
        self._retry_at = 0.0
        self._touch_at = clock() + TOUCH
        self._lock = Lock()

    def __repr__(self) -> str:
        at = self._start.phase if self._start else "no start under way"
        kept = f" {self._pending_size} B wait" if self._pending_size else ""
        return f"<BootLog {self.path.name} {at}{kept} failures={self.failures} dropped={self.dropped}>"

    # -- the story -----------------------------------------------------------------------------

    def begin(self, facts: Mapping[str, Iterable[str]]) -> None:
        """What is known before anything is started: lines under a heading each."""
        self.note(f"boot {self._stamp}, process {os.getpid()}")
        for heading, lines in facts.items():
            for line in lines:
                self.note(f"{heading}: {line}")

    def look_for_gpus(self, look: Callable[[], tuple[str, ...]] = gpus.described) -> None:
        """`look` finds out about them on a thread of its own, and is heard when it is done. To be called once the port
        listens: NVIDIA's library takes 15 ms of CPU to be imported."""
        Thread(target=self._hear_of_gpus, args=(look,), name="boot log: gpus", daemon=True).start()

    def _hear_of_gpus(self, look: Callable[[], tuple[str, ...]]) -> None:
        for line in look():
            self.note(f"gpu: {line}")

    def engine(self, argv: Sequence[str]) -> None:
        """The command line that the engine was started with. The same one again says nothing."""
        line = masked_command(argv)
        if line and line != self._engine:
            self._engine = line
            self.note(f"engine: {line}")

    def phase(self, name: str, detail: str = "") -> None:
        """A start has come to this phase. The same phase again says nothing, however far it is."""
        now = self._clock()
        if self._start is None:
            self._starts += 1
            self._start = _Start(self._starts, now)
            self.note(f"start {self._starts}")
        if self._start.phase == name:
            return
        self._start.enter(name, now)
        self.note(f"  {name}{f': {detail}' if detail else ''}")

    def ready(self, seconds: float | None = None) -> None:
        """The start is over, after `seconds` as the caller counts them, and it serves."""
        start, self._start = self._start, None
        took = seconds if seconds is not None else (self._clock() - start.began if start else 0.0)
        self.note(f"ready after {took:.1f} s{start.told(self._clock()) if start else ''}")

    def failed(self, reason: str, detail: str = "") -> None:
        """A start failed, or the engine broke off.

        What an engine said before it served is no caller's word, and stands here. What it said later may repeat a
        prompt: that stays in the engine's own log.
        """
        start, self._start = self._start, None
        if start is None:
            self.note(f"broke off: {reason}")
            return
        self.note(f"failed after {self._clock() - start.began:.1f} s: {reason}{start.told(self._clock())}")
        for line in detail.splitlines()[-DETAIL_LINES:]:
            self.note(f"  | {line}")

    def stopped(self, why: str) -> None:
        """The engine was stopped, or a start was given up: as ordered, and nothing is wrong."""
        start, self._start = self._start, None
        now = self._clock()
        self.note(f"start given up after {now - start.began:.1f} s: {why}" if start else f"stopped: {why}")

    def ended(self, why: str) -> None:
        """The last line."""
        self.note(f"ended: {why}")

    def note(self, text: str) -> None:
        """One line. Returns at once, and never raises."""
        clean = "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in self._redact(text)[:4000])
        line = f"{iso(self._now())} {self._clock() - self._began:10.3f}s  {clean}\n"
        self._keep(line.encode("utf-8", "backslashreplace"))

    # -- keeping and writing -------------------------------------------------------------------

    def _keep(self, line: bytes) -> None:
        with self._lock:
            if self._pending_size + len(line) > KEPT or self._length + len(line) > LENGTH:
                self.dropped += len(line)
                return
            self._pending.append(line)
            self._pending_size += len(line)
            self._length += len(line)
            if self._is_asked:
                return
            self._is_asked = True
        self._run(self._write)

    def _write(self) -> None:
        """On the other thread: all that waits goes into the file, which is opened anew each time, since a volume that
        was gone and came back is another one."""
        with self._lock:
            self._is_asked = False
            data = b"".join(self._pending)
            self._pending.clear()
            self._pending_size = 0
        if left := self._put(data):
            with self._lock:
                self._pending.insert(0, left)
                self._pending_size += len(left)

    def _put(self, data: bytes) -> bytes:
        """Returns what could not be written. No link is followed: others may write to the volume, too."""
        try:
            with self._volume.folder(self._folder, make=True) as folder:
                handle = _open_to_append(self.path.name, folder)
                try:
                    while data:
                        data = data[os.write(handle, data) :]
                finally:
                    os.close(handle)
                if not self._is_latest:
                    self._become_latest(folder)
                    self._is_latest = True
        except OSError:
            self.failures += 1
        return data

    def _become_latest(self, folder: int) -> None:
        temporary = f".{LATEST}.{self._stamp}.new"
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        handle = os.open(temporary, flags, 0o600, dir_fd=folder)
        try:
            os.write(handle, for_xargs(self.path.absolute()).encode("utf-8", "surrogateescape") + b"\n")
        finally:
            os.close(handle)
        os.replace(temporary, LATEST, src_dir_fd=folder, dst_dir_fd=folder)

    def try_again(self) -> None:
        """Call it once in a while (each second is fine): what waits for the volume is tried again every RETRY s, and
        the file is touched every TOUCH s."""
        now = self._clock()
        if now >= self._touch_at:
            self._touch_at = now + TOUCH
            self._run(self._touch)
        with self._lock:
            if self._is_asked or not self._pending or now < self._retry_at:
                return
            self._is_asked = True
            self._retry_at = now + RETRY
        self._run(self._write)

    def _touch(self) -> None:
        try:
            with self._volume.folder(self._folder) as folder:
                os.utime(self.path.name, dir_fd=folder, follow_symlinks=False)
        except OSError:
            pass  # nothing is written yet, or cannot be now; the next line says so

    def flush(self, patience: float) -> bool:
        """For the end of the process: wait for what our own thread still has to do. Whether it has done it."""
        return self._courier.wait(patience)


@dataclass(slots=True)
class _Start:
    """One start that is under way."""

    number: int
    began: float
    phase: str = ""
    entered: float = 0.0
    times: dict[str, float] = field(default_factory=dict)

    def enter(self, phase: str, now: float) -> None:
        self._leave(now)
        self.phase, self.entered = phase, now

    def _leave(self, now: float) -> None:
        if self.phase:
            self.times[self.phase] = self.times.get(self.phase, 0.0) + now - self.entered

    def told(self, now: float) -> str:
        """` (checking 0.1 s, loading 11.8 s)`: where the time went, when it is over."""
        self._leave(now)
        parts = ", ".join(f"{phase} {seconds:.1f} s" for phase, seconds in self.times.items())
        return f" ({parts})" if parts else ""


class Courier:
    """Does jobs one after the other, on a thread that is there only while there are jobs. One that hangs (a volume that
    does not answer) keeps that thread and those behind it, and nobody else."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._jobs: deque[Job] = deque()
        self._changed = Condition()
        self._thread: Thread | None = None

    def __call__(self, job: Job) -> None:
        with self._changed:
            self._jobs.append(job)
            if self._thread is None:
                self._thread = Thread(target=self._work, name=self._name, daemon=True)
                self._thread.start()

    def _work(self) -> None:
        while True:
            with self._changed:
                if not self._jobs:
                    self._thread = None
                    self._changed.notify_all()
                    return
                job = self._jobs.popleft()
            job()

    def wait(self, patience: float) -> bool:
        """Until nothing is left to do, or for `patience` seconds. Whether it is so."""
        with self._changed:
            return self._changed.wait_for(lambda: self._thread is None, patience)


def _open_to_append(name: str, folder: int) -> int:
    """O_NONBLOCK: a pipe that somebody laid there must not hold us, either."""
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    handle = os.open(name, flags, 0o600, dir_fd=folder)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(errno.EINVAL, "not a file", name)
    return handle


def for_xargs(path: Path) -> str:
    """So that `cat latest.txt | xargs cat` finds it: blanks and quotes mean something to xargs, unless \\ is before."""
    return re.sub(r"""([\s'"\\])""", r"\\\1", str(path))
