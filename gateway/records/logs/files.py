"""The files as a place for lines: the live one, its rotation by size and age, and `latest.txt`.

The live file keeps its name for the whole life of the gateway, so that `tail -F` and a link stay right; what it held so
far is renamed when it is rotated. Nothing here ever raises: `write` says how much was taken, and `trouble` why it was
not all. Runs on the thread of its outlet; only `allow` is called from another.
"""

import errno
import fcntl
import os
import time
from collections.abc import Callable

from gateway.records.logs import names
from gateway.records.logs.plan import LogPlan
from gateway.records.logs.room import LIVE
from gateway.records.logs.volume import Volume

NEW = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
SAME_SECOND = 9
"""How many gateways with the same worker name may begin in the same second."""

Symlink = Callable[..., None]


class Files:
    """`data_dir/logs/<name>/<stamp>.txt` and what belongs to it."""

    def __init__(
        self,
        plan: LogPlan,
        volume: Volume,
        *,
        on_rotation: Callable[[], None],
        now: Callable[[], float] = time.time,
        symlink: Symlink = os.symlink,
        open_file: Callable[..., int] = os.open,
    ) -> None:
        self.trouble = ""
        self.file = f"{plan.stamp}.txt"
        """The live file's name; with `-2` behind the stamp where another gateway has the same."""
        self._plan = plan
        self._volume = volume
        self._on_rotation = on_rotation
        self._now = now
        self._symlink = symlink
        self._open_file = open_file
        self._limit = plan.max_size
        self._fd = -1
        self._size = 0
        self._began = 0.0
        self._rotated_at = 0.0
        self._torn = False
        self._is_new = True
        self._verify_at = 0.0
        self._touch_at = 0.0
        self._copy = -1
        """A second file, `latest.txt`, with the same lines: on volumes that know no links."""

    def __repr__(self) -> str:
        return f"<Files {self._plan.name}/{self.file} {self._size} bytes{' ' + self.trouble if self.trouble else ''}>"

    def allow(self, limit: int) -> None:
        """From now on rotate at this size: the more workers share the volume, the sooner."""
        self._limit = min(limit, self._plan.max_size)

    # -- what an outlet asks of a place

    def write(self, data: bytes) -> int:
        written = 0
        try:
            self._stand()
            while written < len(data):
                if self._is_full():
                    self._rotate()
                written += self._append(data, written)
        except OSError as error:
            self._fell(error)
        else:
            self.trouble = ""
        return written

    def look(self) -> None:
        """A sign of life for the other workers, and the rotation of a file that nobody writes to now."""
        if self._fd < 0:
            return
        try:
            if time.monotonic() >= self._verify_at:
                self._stand()
            if time.monotonic() >= self._touch_at:
                self._touch_at = time.monotonic() + self._plan.touch_every
                os.utime(self._fd)
                self._lock()
            if self._size and self._is_old():
                self._rotate()
        except OSError as error:
            self._fell(error)

    def close(self) -> None:
        """On the disk, as far as it can be said. A failed fsync is not tried again: what it lost is lost."""
        if self._fd >= 0:
            try:
                os.fsync(self._fd)
            except OSError as error:
                self.trouble = error.strerror or str(error)
        self._let_go()

    # -- the live file

    def _stand(self) -> None:
        """Be at a file that has our name now: not at one that was moved, deleted or unmounted under us."""
        if self._fd >= 0:
            if time.monotonic() < self._verify_at:
                return
            if self._is_ours():
                self._verify_at = time.monotonic() + self._plan.verify_every
                return
            self._let_go()
        with self._volume.folder(self._plan.name, make=True) as folder:
            self._begin(folder)
            self._point(folder)

    def _is_ours(self) -> bool:
        try:
            with self._volume.folder(self._plan.name) as folder:
                named = os.stat(self.file, dir_fd=folder, follow_symlinks=False)
                if self._copy >= 0 and not _is_same(names.LATEST, folder, self._copy):
                    self._end_copy()  # a newer gateway has it now
        except FileNotFoundError:
            return False
        return os.path.samestat(named, os.fstat(self._fd))

    def _begin(self, folder: int) -> None:
        fd = self._open_new(folder) if self._is_new else self._open_file(self.file, NEW, 0o600, dir_fd=folder)
        self._fd, self._is_new = fd, False
        self._size = os.fstat(fd).st_size
        self._torn = self._torn and self._size > 0
        if not self._size or not self._began:
            self._began = self._now()
        now = time.monotonic()
        self._verify_at, self._touch_at = now + self._plan.verify_every, now + self._plan.touch_every
        self._lock()

    def _lock(self) -> None:
        """Given back by closing. Another worker may be looking at it this very moment: then at the next touch."""
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            pass  # no locks on this volume: other workers see by its time that it is live

    def _open_new(self, folder: int) -> int:
        """The first time under a name that nobody has: two gateways on one host may begin in the same second."""
        for number in range(1, SAME_SECOND + 1):
            self.file = f"{self._plan.stamp}{'' if number == 1 else f'-{number}'}.txt"
            try:
                return self._open_file(self.file, NEW | os.O_EXCL, 0o600, dir_fd=folder)
            except FileExistsError:
                continue
        raise FileExistsError(errno.EEXIST, "the name of the log file is taken")

    def _append(self, data: bytes, begin: int) -> int:
        """As much as fits, in whole lines, at least one. Returns how much; raises OSError when not even that."""
        room = max(self._limit - self._size, 1)
        end = len(data)
        if end - begin > room:
            end = data.rfind(b"\n", begin, begin + room) + 1
            if not end:
                if self._size:
                    self._rotate()
                end = (data.find(b"\n", begin) + 1) or len(data)
        piece = data[begin:end]
        out = b"\n" + piece if self._torn else piece
        written = os.write(self._fd, out)
        self._size += written
        if written < len(out):
            return self._keep_whole(out, written, piece)
        self._torn = False
        if self._copy >= 0:
            self._write_copy(piece)
        return len(piece)

    def _keep_whole(self, out: bytes, written: int, piece: bytes) -> int:
        """The volume became full in the middle of a line: take the line's beginning back."""
        whole = out.rfind(b"\n", 0, written) + 1
        try:
            os.ftruncate(self._fd, self._size - (written - whole))
            self._size -= written - whole
            self._torn = False
        except OSError:
            self._torn = True  # then its rest begins a line of its own
        kept = max(0, whole - (len(out) - len(piece)))
        if kept:
            return kept
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _fell(self, error: OSError) -> None:
        self.trouble = error.strerror or str(error)
        self._let_go()

    def _let_go(self) -> None:
        self._end_copy()
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            try:
                os.close(fd)
            except OSError as error:
                self.trouble = error.strerror or str(error)  # network file systems report late writes here

    # -- rotation

    def _is_full(self) -> bool:
        return self._size > 0 and (self._size >= self._limit or self._is_old())

    def _is_old(self) -> bool:
        now = self._now()
        if now < self._began:
            self._began = now  # the clock was set back
        return now - self._began >= self._plan.rotate_every

    def _rotate(self) -> None:
        """Give what is there a name of its own and begin anew. Raises OSError."""
        self._rotated_at = max(self._now(), self._rotated_at + 1e-5)
        with self._volume.folder(self._plan.name) as folder:
            if _is_same(self.file, folder, self._fd):
                os.rename(self.file, names.rotated(self.file, self._rotated_at), src_dir_fd=folder, dst_dir_fd=folder)
            points = self._copy >= 0
            self._let_go()
            self._began = 0.0
            self._begin(folder)
            if points:
                self._point(folder)
        self._on_rotation()

    # -- latest.txt

    def _point(self, folder: int) -> None:
        """Let `latest.txt` lead here: by a link, or where the volume knows none, by being a copy from now on."""
        if _leads_to_newer(folder, self.file, self._now()):
            return
        making = names.latest_in_making(self._plan.stamp)
        _remove(making, folder)
        try:
            try:
                self._symlink(self.file, making, dir_fd=folder)
            except OSError:
                self._copy = os.open(making, NEW | os.O_EXCL, 0o600, dir_fd=folder)
            os.rename(making, names.LATEST, src_dir_fd=folder, dst_dir_fd=folder)
        except OSError:
            self._end_copy()  # a convenience only: the log itself is there
            _remove(making, folder)

    def _write_copy(self, data: bytes) -> None:
        try:
            os.write(self._copy, data)
        except OSError:
            self._end_copy()

    def _end_copy(self) -> None:
        if self._copy >= 0:
            fd, self._copy = self._copy, -1
            try:
                os.close(fd)
            except OSError:
                pass  # the log itself has the lines


def _is_same(file: str, folder: int, fd: int) -> bool:
    try:
        return os.path.samestat(os.stat(file, dir_fd=folder, follow_symlinks=False), os.fstat(fd))
    except FileNotFoundError:
        return False


def _leads_to_newer(folder: int, file: str, now: float) -> bool:
    """Whether `latest.txt` leads to the live log of a gateway that began after us."""
    try:
        target = os.readlink(names.LATEST, dir_fd=folder)
        if names.parse(target) is None or target <= file:
            return False
        return abs(now - os.stat(target, dir_fd=folder, follow_symlinks=False).st_mtime) < LIVE
    except OSError:
        return False  # no link, or it leads nowhere


def _remove(file: str, folder: int) -> None:
    try:
        os.unlink(file, dir_fd=folder)
    except OSError:
        pass  # usually there is none
