"""Keeps what was spent over a restart, by each key or on the fallback: one small JSON file per worker and month.

`DATA_DIR/state/spent/2026-11_<worker>.json` holds what this worker counted; what the keys of all workers have spent is
the sum over the files. A thread reads and writes them, because a volume can be full, read-only, gone, or not answer at
all; the gateway goes on counting in memory then, `state` says so, and the newest figures are written when it is back.
Nothing is written before the files were read once, so that a restart never begins a month anew.
"""

import errno
import json
import os
import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from gateway.records.logs.volume import Volume

Books = Mapping[str, Mapping[str, int]]
"""Micro-dollars by month and key."""

SIZE_MAX = 4 << 20
"""Bytes; a file of ours has some 30 for each key."""
NAME = re.compile(r"([0-9]{4}-(?:0[1-9]|1[0-2]))_([A-Za-z0-9.-]{1,64})\.json")
AGAIN = 1.0
"""Seconds at least until a volume that failed is tried again."""
SLOW = 10.0
"""Seconds after which a volume that does not answer is said to be hanging."""


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """What was counted in a month by others, and by this worker before it was restarted."""

    month: str
    spent: Mapping[str, int]


@dataclass(slots=True)
class Found:
    """What lies on the volume, of the newest month that there is."""

    month: str
    others: dict[str, int] = field(default_factory=dict)
    own: dict[str, dict[str, int]] = field(default_factory=dict)
    """This worker's own, by month."""


class SpentFolder:
    """The files. Every method may raise OSError, and may take as long as the volume likes.

    What lies beneath a volume that was unmounted is no news of it: read there, nobody would have spent anything.
    """

    def __init__(self, folder: Path, worker: str, *, strict: bool = False) -> None:
        """`strict`: a file that is damaged cannot be read, rather than counting as none."""
        self._strict = strict
        self._volume = Volume(folder.parent.parent, folder.parent.name)
        self._folder = folder
        self._worker = re.sub(r"[^A-Za-z0-9.-]+", "-", worker)[:64] or "worker"

    def __repr__(self) -> str:
        return f"<SpentFolder {self._folder} of {self._worker}>"

    def read(self) -> Found:
        """A file that is not one of ours, or is torn, counts as none, unless this is strict."""
        try:
            with self._volume.folder(self._folder.name) as folder:
                names = sorted(os.listdir(folder))  # noqa: PTH208 - of a handle
        except FileNotFoundError:
            return Found("")
        files = [found for name in names if (found := NAME.fullmatch(name))]
        newest = max((found[1] for found in files), default="")
        kept = Found(newest)
        for month, worker in (found.groups() for found in files):
            if worker == self._worker:
                kept.own[month] = self._read(f"{month}_{worker}.json")
            elif month == newest:
                _add(kept.others, self._read(f"{month}_{worker}.json"))
        return kept

    def write(self, month: str, spent: Mapping[str, int]) -> None:
        """Replaced in one step: whoever reads meanwhile sees the old figures or the new ones."""
        path = self._folder / f"{month}_{self._worker}.json"
        temporary = self._folder / f".{path.name}.{os.getpid()}.new"
        self._volume.make(self._folder.name)
        text = json.dumps({"month": month, "worker": self._worker, "micro_dollars": dict(sorted(spent.items()))})
        try:
            with open(temporary, "w", encoding="utf-8", opener=_no_link) as file:
                file.write(text + "\n")
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except OSError:
            try:
                temporary.unlink(missing_ok=True)
            except OSError:
                pass  # it stays, some bytes; the first error is the one that tells
            raise

    def _read(self, name: str) -> dict[str, int]:
        return read_file(self._folder / name, strict=self._strict)


class Spent:
    """The thread, and what the gateway asks of it. Nothing here waits for the volume but `ready` and `close`."""

    def __init__(
        self,
        folder: SpentFolder,
        *,
        write_every: float = 5.0,
        read_every: float = 60.0,
        clock: Callable[[], float] = time.monotonic,
        what: str = "what keys have spent",
        on_news: Callable[[], None] = lambda: None,
    ) -> None:
        """`what` is kept, in words. `on_news` is called on the thread after each reading and writing, well or not."""
        self._folder = folder
        self._what = what
        self._on_news = on_news
        self._write_every, self._read_every = write_every, read_every
        self._clock = clock
        self._changed = threading.Condition()
        self._offered: Books = {}
        self._written: Books = {}
        self._base: dict[str, dict[str, int]] = {}
        """What this worker's files held when they were read first."""
        self._elsewhere: Elsewhere | None = None
        self._closing = False
        self._asked_at: float | None = None
        """Since when the volume owes an answer."""
        self._failed: dict[str, str] = {}
        """What went wrong when it was last asked to: to read, to write."""
        self._thread = threading.Thread(target=self._run, name="spent", daemon=True)
        self._thread.start()

    def __repr__(self) -> str:
        return f"<Spent in {self._folder!r}, {self.state or 'kept'}>"

    @property
    def elsewhere(self) -> Elsewhere | None:
        """None: nothing could be read yet."""
        return self._elsewhere

    @property
    def written(self) -> Books:
        """What was offered and lies on the volume."""
        return self._written

    @property
    def state(self) -> str:
        """Empty when all is well, else one line."""
        since = self._asked_at
        failed = "; ".join(self._failed.values())
        if since is not None and (waited := self._clock() - since) >= SLOW:
            failed = f"the volume has not answered for {waited:.0f} s"
        return f"{self._what} is counted in memory only: {failed}" if failed else ""

    def offer(self, books: Books) -> None:
        """The newest figures of this process. They are written soon; older ones that were not yet are forgotten."""
        with self._changed:
            if books != self._offered:
                self._offered = books
                self._changed.notify()

    def ready(self, within: float) -> bool:
        """Wait until the files were read once; False when that takes longer."""
        with self._changed:
            return self._changed.wait_for(lambda: self._elsewhere is not None, within)

    def close(self, within: float) -> bool:
        """Write what was offered last. False when the volume did not take it in time; the thread is left to it."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(within)
        return not self._thread.is_alive() and not self._failed

    # -- on the thread -------------------------------------------------------------------------

    def _run(self) -> None:
        read_at = write_at = self._clock()
        while True:
            now = self._clock()
            if now >= read_at:
                self._guarded("read", self._read)
                read_at = self._clock() + (self._read_every if self._elsewhere is not None else self._write_every)
            with self._changed:
                books, closing = self._offered, self._closing
            if self._elsewhere is not None and books != self._written and (closing or self._clock() >= write_at):
                self._guarded("write", partial(self._write, books))
                write_at = self._clock() + (max(self._write_every, AGAIN) if self._failed else self._write_every)
            if closing:
                return
            self._rest(books, min(read_at, write_at if books != self._written else read_at))

    def _rest(self, books: Books, until: float) -> None:
        """Unless others than these have been offered meanwhile."""
        with self._changed:
            late = until - self._clock()
            if late > 0:
                self._changed.wait_for(lambda: self._closing or self._offered is not books, late)

    def _guarded(self, what: str, work: Callable[[], None]) -> None:
        """An error of the volume is said, and tried again later."""
        self._asked_at = self._clock()
        try:
            work()
            self._failed = {other: why for other, why in self._failed.items() if other != what}
        except OSError as error:
            self._failed = self._failed | {what: f"cannot {what}: {error.strerror or error}"}
        finally:
            self._asked_at = None
        self._on_news()

    def _read(self) -> None:
        found = self._folder.read()
        if self._elsewhere is None:
            self._base = found.own
        spent = dict(found.others)
        _add(spent, self._base.get(found.month, {}))
        with self._changed:
            self._elsewhere = Elsewhere(found.month, spent)
            self._changed.notify_all()

    def _write(self, books: Books) -> None:
        for month, spent in books.items():
            if spent != self._written.get(month, {}):
                whole = dict(self._base.get(month, {}))
                _add(whole, spent)
                self._folder.write(month, whole)
        self._written = books


def month_on(folder: Path, month: str) -> dict[str, int] | None:
    """What each key has spent in this month, by the files of all workers; None where nobody counted. Raises OSError."""
    try:
        names = [name for name in os.listdir(folder) if (found := NAME.fullmatch(name)) and found[1] == month]  # noqa: PTH208
    except FileNotFoundError:
        return None
    spent: dict[str, int] = {}
    for name in names:
        _add(spent, read_file(folder / name))
    return spent if names else None


def read_file(path: Path, *, strict: bool = False) -> dict[str, int]:
    """Micro-dollars by key. One that is not ours, or torn, counts as none, or raises OSError where it is `strict`."""
    try:
        with open(path, "rb", opener=_no_link) as file:
            text = file.read(SIZE_MAX)
    except FileNotFoundError:
        return {}
    except OSError as error:
        if error.errno == errno.ELOOP and not strict:
            return {}  # a link is none of ours
        raise
    try:
        spent = json.loads(text)["micro_dollars"]
        pairs = spent.items()
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
        if strict:
            raise OSError(errno.EIO, f"{path.name} is damaged") from error
        return {}
    return {name: value for name, value in pairs if type(value) is int and 0 <= value < 2**53}


def _no_link(path: str, flags: int) -> int:
    """Opens no link, creates for us alone, and does not wait for whoever writes into a pipe of this name."""
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)


def _add(total: dict[str, int], more: Mapping[str, int]) -> None:
    for name, amount in more.items():
        total[name] = total.get(name, 0) + amount
