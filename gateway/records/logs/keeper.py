"""The keeper: compresses what was rotated and removes the oldest, of all boots and workers that share the volume.

Compressing is for a thread of its own with the lowest priority, so that lines flow meanwhile. Everything is done by
handles of folders, follows no link, and touches only regular files with one name of our pattern (names.py). What has to
go is decided in room.py. Whoever dies in the middle leaves nothing double and nothing lost: a compressed file gets its
name only when it is whole and on the disk, and only then the other one goes.
"""

import fcntl
import os
import stat
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from gateway.records.logs import names, room
from gateway.records.logs.plan import LogPlan
from gateway.records.logs.room import Entry
from gateway.records.logs.volume import FOLDER, Volume

PIECE = 256 << 10
ENGINE_EVERY = 10.0
"""Seconds between two looks whether the guard has rotated the engine's file."""
GZIP = 16 + zlib.MAX_WBITS
READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


class Live(Protocol):
    """The writer of our own live file."""

    file: str

    def allow(self, limit: int) -> None: ...


class Keeper:
    """Looks at the start, after each rotation, and every few minutes. `live` is None where no files are written."""

    def __init__(
        self, plan: LogPlan, volume: Volume, live: Live | None, *, now: Callable[[], float] = time.time
    ) -> None:
        self.trouble = ""
        self._plan = plan
        self._volume = volume
        self._live = live
        self._now = now
        self._engine = (0, 0)
        """Which file our engine's guard writes to, when we last looked."""
        self._making_room = threading.Lock()
        self._wanted = threading.Event()
        self._wanted.set()
        self._ending = False
        self._thread = threading.Thread(target=self._run, name="log-keeper", daemon=True)

    def __repr__(self) -> str:
        return f"<Keeper cap={self._plan.total_size}{' ' + self.trouble if self.trouble else ''}>"

    def start(self) -> None:
        self._thread.start()

    def rotated(self) -> None:
        """A file was rotated, on the thread of the files: make room before the next one grows (this thread is slow, and
        a busy gateway would be ahead of it by many files), and compress it later."""
        self.make_room()
        self._wanted.set()

    def ask_to_end(self) -> None:
        self._ending = True
        self._wanted.set()

    def join(self, patience: float) -> bool:
        self._thread.join(max(0.0, patience))
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)  # of this thread only, on Linux
        except OSError:
            pass  # a courtesy
        due = 0.0
        while not self._ending:
            if self._wanted.is_set() or time.monotonic() >= due or self._engine_rotated():
                self._wanted.clear()
                self.sweep()
                due = time.monotonic() + self._plan.sweep_every
            self._wanted.wait(min(self._plan.sweep_every, ENGINE_EVERY))

    @property
    def _ours(self) -> set[str]:
        """Stamps of this boot's files."""
        ours = {self._plan.stamp}
        if self._live is not None:
            ours.add(self._live.file.removesuffix(".txt"))
        return ours

    def _engine_rotated(self) -> bool:
        """The guard rotates the engine's file and tells nobody."""
        try:
            with self._volume.folder(self._plan.name) as folder:
                seen = os.stat(f"{self._plan.stamp}_engine.txt", dir_fd=folder, follow_symlinks=False)
        except OSError:
            return False
        before, self._engine = self._engine, (seen.st_dev, seen.st_ino)
        return before not in (self._engine, (0, 0))

    def sweep(self) -> None:
        """One look, and what follows from it. A volume that cannot be read or written now is looked at next time."""
        now, entries = self.make_room()
        try:
            with self._volume.folder() as logs:
                for entry in room.what_to_compress(entries, now, self._ours):
                    if self._ending:
                        return
                    self._compress(logs, entry)
        except FileNotFoundError:
            pass  # there are no logs yet
        except OSError as error:
            self.trouble = error.strerror or str(error)

    def make_room(self) -> tuple[float, list[Entry]]:
        """What has to go, goes. Returns the volume's time, and what is left."""
        with self._making_room:
            self.trouble = ""
            try:
                with self._volume.folder() as logs:
                    now = self._volume_now(logs)
                    entries = _entries(logs)
                    if self._share(logs, entries, now):
                        entries = _entries(logs)
                    return now, self._keep_under_cap(logs, entries, now)
            except FileNotFoundError:
                pass  # there are no logs yet
            except OSError as error:
                self.trouble = error.strerror or str(error)
            return 0.0, []

    # -- the cap

    def _share(self, logs: int, entries: list[Entry], now: float) -> bool:
        """Tell our live file how much it may take. The engine's guard cannot be told: where its file is larger, it is
        moved, which the guard sees at its next look, and begins another. Whether one was."""
        live = room.count_live(entries, now, self._ours)
        limit = room.limit_of_one(self._plan.total_size, live, self._plan.max_size)
        if self._live is not None:
            self._live.allow(limit)
        large = [
            entry
            for entry in entries
            if entry.name.is_engine
            and entry.name.when is None
            and entry.name.stamp in self._ours
            and entry.size > limit
        ]
        for entry in large:
            with _inside(logs, entry.folder) as folder:
                target = names.rotated(entry.file, self._now())
                os.rename(entry.file, target, src_dir_fd=folder, dst_dir_fd=folder)
        return bool(large)

    def _keep_under_cap(self, logs: int, entries: list[Entry], now: float) -> list[Entry]:
        """Returns what is left."""
        plan = self._plan
        while going := room.what_to_remove(entries, plan.total_size, now, self._ours, plan.max_size):
            gone = [entry for entry in going if self._remove(logs, entry)]
            kept = [entry for entry in going if entry not in gone]
            # Somebody holds their locks: they are alive, whatever their time says. So others have to go.
            entries = [room.held(entry) if entry in kept else entry for entry in entries if entry not in gone]
            if not kept:
                break
        return entries

    def _remove(self, logs: int, entry: Entry) -> bool:
        """False when somebody writes to it, or has since we looked; or when it is not ours to remove."""
        try:
            with _inside(logs, entry.folder) as folder:
                seen = os.stat(entry.file, dir_fd=folder, follow_symlinks=False)
                if (seen.st_ino, seen.st_mtime) != (entry.inode, entry.mtime):
                    return False
                if stat.S_ISREG(seen.st_mode) and not entry.name.is_compressed and _is_held(folder, entry.file):
                    return False
                os.unlink(entry.file, dir_fd=folder)
        except FileNotFoundError:
            # Another worker was quicker: gone is gone. Or it was compressed this moment: then it goes all the same, or
            # younger ones would go before it.
            if entry.name.is_rotated and not entry.name.is_compressed:
                self._remove_compressed(logs, entry)
        except PermissionError:
            return False  # another user's
        return True

    @staticmethod
    def _remove_compressed(logs: int, entry: Entry) -> None:
        try:
            with _inside(logs, entry.folder) as folder:
                os.unlink(f"{entry.file}.gz", dir_fd=folder)
        except FileNotFoundError:
            pass  # it was removed, not compressed

    def _volume_now(self, logs: int) -> float:
        """What time the volume thinks it is: others' times are compared with it, and a file server has a clock."""
        if self._live is None:
            return self._now()
        try:
            with _inside(logs, self._plan.name) as folder:
                os.utime(self._live.file, dir_fd=folder, follow_symlinks=False)
                return os.stat(self._live.file, dir_fd=folder, follow_symlinks=False).st_mtime
        except OSError:
            return self._now()

    # -- compressing

    def _compress(self, logs: int, entry: Entry) -> None:
        with _inside(logs, entry.folder) as folder:
            try:
                source = os.open(entry.file, READ, dir_fd=folder)
            except FileNotFoundError:
                return
            try:
                seen = os.fstat(source)
                if not stat.S_ISREG(seen.st_mode) or seen.st_nlink != 1 or not _is_free(source):
                    return
                if not _is_done_already(folder, entry.file, seen.st_size):
                    self._compress_into(folder, entry.file, source, seen)
                else:
                    _give_up(entry.file, folder)
            finally:
                os.close(source)

    def _compress_into(self, folder: int, file: str, source: int, seen: os.stat_result) -> None:
        """`file` becomes `file.gz`. Left as it was when we are to end, or somebody wrote to it meanwhile."""
        making = f"{file}.gz.tmp"
        try:
            out = os.open(making, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=folder)
        except FileExistsError:
            return  # another worker is at it, or died at it: then it is removed as a leftover first
        try:
            whole = self._pour(source, out, seen.st_size) and os.fstat(source).st_size == seen.st_size
            if whole:
                os.fsync(out)
                os.utime(out, ns=(seen.st_atime_ns, seen.st_mtime_ns))
            ours = os.stat(making, dir_fd=folder, follow_symlinks=False).st_ino == os.fstat(out).st_ino
            if whole and ours and _is_there(folder, file, seen.st_ino):
                os.rename(making, f"{file}.gz", src_dir_fd=folder, dst_dir_fd=folder)
                os.fsync(folder)
                os.unlink(file, dir_fd=folder)
            elif ours:
                os.unlink(making, dir_fd=folder)
        except FileNotFoundError:
            pass  # another worker took us for dead and removed what we were making, or the source this moment
        except OSError:
            _give_up(making, folder)
            raise
        finally:
            os.close(out)

    def _pour(self, source: int, out: int, size: int) -> bool:
        """Whether all of it went through. No further than `size`: a file that grows has no end."""
        gzip = zlib.compressobj(6, zlib.DEFLATED, GZIP)
        while size > 0 and (data := os.read(source, min(PIECE, size))):
            if self._ending:
                return False
            size -= len(data)
            _write_all(out, gzip.compress(data))
        _write_all(out, gzip.flush())
        return True


@contextmanager
def _inside(logs: int, name: str) -> Iterator[int]:
    folder = os.open(name, FOLDER | os.O_NOFOLLOW, dir_fd=logs)
    try:
        yield folder
    finally:
        os.close(folder)


def _entries(logs: int) -> list[Entry]:
    """Every file of ours in every folder of ours."""
    return [
        entry for folder in sorted(os.listdir(logs)) if names.is_folder(folder) for entry in _entries_of(logs, folder)
    ]


def _entries_of(logs: int, folder_name: str) -> Iterator[Entry]:
    try:
        with _inside(logs, folder_name) as folder:
            for file in sorted(os.listdir(folder)):  # noqa: PTH208 - of a handle
                if (entry := _entry(folder, folder_name, file)) is not None:
                    yield entry
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return  # no folder of ours after all; for a link it is ENOTDIR


def _entry(folder: int, folder_name: str, file: str) -> Entry | None:
    name = names.parse(file)
    if name is None:
        return None
    try:
        seen = os.stat(file, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return None
    link_of_ours = stat.S_ISLNK(seen.st_mode) and not name.stamp and name.is_unfinished
    if not (stat.S_ISREG(seen.st_mode) and seen.st_nlink == 1) and not link_of_ours:
        return None
    return Entry(folder_name, file, name, seen.st_size, seen.st_mtime, seen.st_ino)


def _is_held(folder: int, file: str) -> bool:
    fd = os.open(file, READ, dir_fd=folder)
    try:
        return not _is_free(fd)
    finally:
        os.close(fd)


def _is_free(fd: int) -> bool:
    """Whether nobody is seen to write to it. Taken for a moment only: closing gives it back."""
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        pass  # no locks on this volume
    return True


def _is_there(folder: int, file: str, inode: int) -> bool:
    """Whether it still has its name: what was removed meanwhile must not come back compressed."""
    try:
        return os.stat(file, dir_fd=folder, follow_symlinks=False).st_ino == inode
    except FileNotFoundError:
        return False


def _give_up(file: str, folder: int) -> None:
    try:
        os.unlink(file, dir_fd=folder)
    except OSError:
        pass  # it is a leftover then, and removed as one


def _is_done_already(folder: int, file: str, size: int) -> bool:
    """Whether somebody died between naming the compressed file and removing this one. Its last four bytes say how much
    is in it (RFC 1952)."""
    try:
        fd = os.open(f"{file}.gz", READ, dir_fd=folder)
    except FileNotFoundError:
        return False
    try:
        length = os.fstat(fd).st_size
        tail = os.pread(fd, 4, max(0, length - 4))
        return len(tail) == 4 and int.from_bytes(tail, "little") == size & 0xFFFFFFFF
    finally:
        os.close(fd)


def _write_all(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]
