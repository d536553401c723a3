"""How the folders of logs are reached: by handle, no link followed below DATA_DIR, and never on the wrong disk.

A volume that was unmounted leaves an empty folder behind, on the container's own disk. What is written there is lost
with the container, and hidden when the volume comes back. So once logs were on a mounted volume, they are not begun
again on what lies beneath it.
"""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


def not_mounted() -> OSError:
    return OSError(errno.ENODEV, "the volume is not mounted")


def _make(name: str, folder: int) -> None:
    try:
        os.mkdir(name, dir_fd=folder)
    except FileExistsError:
        pass  # another worker was quicker


class Volume:
    """The place of all logs, `data_dir/logs`, or of what else is kept under `data_dir` (`top`)."""

    def __init__(self, data_dir: Path, top: str = "logs") -> None:
        self._data_dir = data_dir
        self._top = top
        self._beneath: int | None = None
        """The device that is seen here when the volume is not mounted."""

    def __repr__(self) -> str:
        return f"<Volume {self._data_dir}{'' if self._beneath is None else ' mounted'}>"

    @contextmanager
    def folder(self, *names: str, make: bool = False) -> Iterator[int]:
        """A handle of `data_dir/<top>/<names>`. Raises OSError: it is not there, a link, not a folder, not mounted."""
        fd = self.open(*names, make=make)
        try:
            yield fd
        finally:
            os.close(fd)

    def open(self, *names: str, make: bool = False) -> int:
        """The same; to be closed by the caller."""
        if make:
            self._make_data_dir()
        fd = os.open(self._data_dir, FOLDER)
        try:
            for name in (self._top, *names):
                fd = self._step(fd, name, make)
            device = os.fstat(fd).st_dev
            if device == self._beneath:
                raise not_mounted()
            self._remember(device)
        except BaseException:
            os.close(fd)
            raise
        return fd

    def make(self, *names: str) -> None:
        """See that it is there. Raises OSError, as `folder` does."""
        os.close(self.open(*names, make=True))

    def _step(self, fd: int, name: str, make: bool) -> int:
        """From a folder into one in it. The handle given is closed, except when it fails."""
        if make:
            try:
                os.stat(name, dir_fd=fd, follow_symlinks=False)
            except FileNotFoundError:
                if os.fstat(fd).st_dev == self._beneath:
                    raise not_mounted() from None
                _make(name, fd)
        inner = os.open(name, FOLDER | os.O_NOFOLLOW, dir_fd=fd)
        os.close(fd)
        return inner

    def _make_data_dir(self) -> None:
        place = self._data_dir
        if self._beneath is not None:
            while not place.exists() and place != place.parent:
                place = place.parent
            if place != self._data_dir and place.stat().st_dev == self._beneath:
                raise not_mounted()
        self._data_dir.mkdir(parents=True, exist_ok=True)

    def _remember(self, device: int) -> None:
        """Walk up to where the volume is mounted; what holds that place is beneath it."""
        if self._beneath is not None:
            return
        top = (self._data_dir / self._top).resolve()
        above = next((seen for place in top.parents if (seen := place.stat().st_dev) != device), None)
        # Not when it was mounted or unmounted this very moment: the volume would pass for what is beneath it.
        if top.stat().st_dev == device:
            self._beneath = above
