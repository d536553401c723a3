"""API_KEYS_FILE on its disk: read whole or not at all, replaced whole under a lock, never through a half-written state.

Everything here blocks, and may hang where a network volume does: a process that serves calls it on a thread.
"""

import contextlib
import fcntl
import os
import secrets
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

LARGEST = 1 << 20
"""Bytes. Every request is compared with every key: a file of this size would cost each of them a millisecond."""
LOCK_WAIT = 10.0
"""Seconds in which another `wakegate keys` ends."""


class Unreadable(Exception):
    """Why a file cannot be read, in a few words without its path."""


class BeingWritten(Unreadable):
    """It changed while it was read."""


class Busy(Exception):
    """Somebody else has been changing the file for longer than one waits."""


@dataclass(frozen=True, slots=True)
class Stamp:
    """What changes when a file does, also when another takes its place, or a link above it is turned (Kubernetes)."""

    device: int
    inode: int
    size: int
    modified: int
    changed: int

    @classmethod
    def of(cls, found: os.stat_result) -> "Stamp":
        return cls(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


@dataclass(frozen=True, slots=True)
class Found:
    """A file's bytes, and who may touch it."""

    raw: bytes
    stamp: Stamp
    mode: int
    owner: int

    def doubts(self, *, clear: bool) -> tuple[str, ...]:
        """What is unwise about it. No reason to refuse: on some volumes everything belongs to everybody."""
        said = []
        if self.mode & 0o022:
            said.append("others than its owner can write it, and so give themselves a key; chmod 600 it")
        elif self.owner not in (0, os.geteuid()):
            said.append("it belongs to another user, who can give himself a key")
        if clear and self.mode & 0o044:
            said.append("others than its owner can read the keys in it; chmod 600 it")
        return tuple(said)


def look(path: Path) -> Stamp:
    """Raises Unreadable."""
    try:
        return Stamp.of(path.stat())
    except OSError as error:
        raise Unreadable(_why(error)) from error
    except ValueError as error:  # a NUL in it
        raise Unreadable("not a path") from error


def take(path: Path) -> Found:
    """The whole file, as it was at one moment. Raises Unreadable."""
    try:
        # Not blocking: a FIFO without a writer would be waited for.
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise Unreadable(_why(error)) from error
    except ValueError as error:
        raise Unreadable("not a path") from error
    try:
        before = os.fstat(fd)
        if not stat.S_ISREG(before.st_mode):
            raise Unreadable("it is a folder" if stat.S_ISDIR(before.st_mode) else "it is not a plain file")
        raw = b""
        while len(raw) <= LARGEST and (more := os.read(fd, LARGEST + 1 - len(raw))):
            raw += more
        if len(raw) > LARGEST:
            raise Unreadable(f"it is larger than {LARGEST} bytes")
        if Stamp.of(os.fstat(fd)) != Stamp.of(before) or len(raw) != before.st_size:
            raise BeingWritten("it is being written")
        return Found(raw, Stamp.of(before), stat.S_IMODE(before.st_mode), before.st_uid)
    except OSError as error:
        raise Unreadable(_why(error)) from error
    finally:
        os.close(fd)


def _why(error: OSError) -> str:
    words = error.strerror or type(error).__name__
    return words[:1].lower() + words[1:]


@contextlib.contextmanager
def locked(path: Path, *, wait: float | None = None) -> Iterator[bool]:
    """Alone with the file, as far as others ask too. False where the volume has no locks. Raises Busy, OSError."""
    fd = _open_lock(path.with_name(f".{path.name}.lock"))
    try:
        yield _lock(fd, LOCK_WAIT if wait is None else wait)
    finally:
        os.close(fd)


def _open_lock(path: Path) -> int:
    flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        fd = os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return os.open(path, flags)
    if os.geteuid() == 0:  # of one that we have made ourselves: whoever owns the folder may need it, too
        folder = path.parent.stat()
        os.fchown(fd, folder.st_uid, folder.st_gid)
    return fd


def _lock(fd: int, wait: float) -> bool:
    until = time.monotonic() + wait
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() > until:
                raise Busy from None
            time.sleep(0.02)
        except OSError:
            return False


def put(path: Path, text: str) -> None:
    """Replace the file: whoever reads it sees the old one or the new one, also after a power cut. Raises OSError.

    It stays as readable for a gateway that runs as somebody else as it was, and becomes writable by its owner only.
    Made by root it belongs to whom the folder belongs to.
    """
    try:
        known = path.stat()
        mode = known.st_mode & 0o644 | 0o600
    except FileNotFoundError:
        known, mode = path.parent.stat(), 0o600
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(fd, "wb") as file:
            if os.geteuid() == 0:
                os.fchown(fd, known.st_uid, known.st_gid)
            os.fchmod(fd, mode)
            file.write(text.encode())
            file.flush()
            os.fsync(fd)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    except OSError:
        pass  # some network volumes cannot do that with a folder; the file itself is written
    finally:
        os.close(folder)
