"""A ledger in a SQLite file, usually `DATA_DIR/state/wakegate.sqlite`: one gateway's, and sure of every line it has.

SQLite's own promises hold for what it was told is safe (`synchronous=EXTRA`: FULL, and where a journal is rolled back
its name is synced away, too, without which a line could come undone). Around them stands what it does not look after:

- One gateway has it: a lock beside it, held as long as this process lives (and not on a volume without locks).
- Each line is proved by the one before, so that a flipped bit, a line that is gone or was changed is found: SQLite has
  no checksum for what lies in the file. A damaged ledger is copied to `wakegate.sqlite.damaged` and left as it is.
- The file is still the one that was opened: on a volume that was unmounted or replaced, writes would go on into what
  nobody finds again.
- A disk that reported an error once may have dropped what it was given, and say nothing the next time. So after any
  error the file is opened anew, and everything that is in its log is written to it again, before another line counts.
- A disk that hangs holds a thread, and nobody else.

Everything that blocks is done by one thread, a job at a time.
"""

import asyncio
import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
import sqlite3
import stat
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import fields
from pathlib import Path
from typing import Final, TypeVar
from urllib.parse import unquote, urlsplit

from gateway.policy.books import BadEntry, Entry
from gateway.records.boot_log import Courier
from gateway.records.ledger.base import LedgerDamaged, LedgerError, LedgerLate, LedgerTaken
from gateway.records.logs.volume import Volume

WITHIN: Final = 5.0
"""Seconds that a call may take. A slow disk syncs in a tenth of one."""
READ_WITHIN: Final = 60.0
"""For all lines: a year of ten starts an hour takes a second or two."""
BUSY: Final = 2.0
"""Seconds that SQLite waits for somebody who is reading."""
VERSION: Final = 1
OURS: Final = 0x5747_4C31
"""In the file's header (`application_id`): `WGL1`."""
FIRST: Final = ""
"""What the first line is proved by."""

_COLUMNS: Final = tuple(found.name for found in fields(Entry))
_TABLE: Final = f"""CREATE TABLE entries (
    seq INTEGER PRIMARY KEY,
    {", ".join(f'"{found.name}" {"INTEGER" if found.type is int else "TEXT"} NOT NULL' for found in fields(Entry))},
    proof TEXT NOT NULL
)"""
_NAMES: Final = ", ".join(f'"{name}"' for name in _COLUMNS)
_ADD: Final = f"INSERT INTO entries (seq, {_NAMES}, proof) VALUES ({', '.join('?' * (len(_COLUMNS) + 2))})"  # noqa: S608 - the same
_READ: Final = f"SELECT seq, {_NAMES}, proof FROM entries WHERE seq > ? ORDER BY seq"  # noqa: S608 - names of ours

_DAMAGE: Final = frozenset({sqlite3.SQLITE_ERROR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT})
_ERRNO: Final = {
    sqlite3.SQLITE_FULL: errno.ENOSPC,
    sqlite3.SQLITE_READONLY: errno.EROFS,
    sqlite3.SQLITE_BUSY: errno.EBUSY,
    sqlite3.SQLITE_LOCKED: errno.EBUSY,
    sqlite3.SQLITE_CANTOPEN: errno.ENOENT,
    sqlite3.SQLITE_PERM: errno.EACCES,
}

T = TypeVar("T")
Run = Callable[[Callable[[], None]], None]


def usual_path(data_dir: Path) -> Path:
    """Where it is when nobody says otherwise."""
    return data_dir / "state" / "wakegate.sqlite"


def path_of(state_url: str | None, data_dir: Path) -> Path:
    """Where it is by STATE_URL: `sqlite:///path`, or nothing."""
    return Path(unquote(urlsplit(state_url).path)).resolve() if state_url else usual_path(data_dir)


class SqliteLedger:
    """`file` does the work; this one waits for it, for so long."""

    def __init__(self, path: Path, *, network: bool = False, within: float = WITHIN, run: Run | None = None) -> None:
        """The file and its folder are made where they are not there.

        `network`: the volume is one that others mount too; no memory can be shared over it, so that SQLite keeps a
        journal that is rolled back instead of a log. `run`: what does the jobs; a thread.
        """
        self._file = LedgerFile(path, network=network)
        self._within = within
        self._run: Run = run or Courier("ledger")

    def __repr__(self) -> str:
        return f"<SqliteLedger {self._file!r}>"

    async def read(self, since: int = 0) -> list[Entry]:
        return await self._do(lambda: self._file.read(since), READ_WITHIN)

    async def append(self, entry: Entry, seq: int) -> bool:
        entry.check()
        return await self._do(lambda: self._file.append(entry, seq))

    async def close(self) -> None:
        try:
            await self._do(self._file.close)
        except LedgerLate:
            pass  # the disk hangs; the lock ends with the process

    async def _do(self, job: Callable[[], T], within: float = 0.0) -> T:
        done: Future[T] = Future()

        def work() -> None:
            if not done.set_running_or_notify_cancel():
                return  # nobody waits for it any more: a line that comes so late would surprise everybody
            try:
                done.set_result(job())
            except Exception as error:
                done.set_exception(error)

        self._run(work)
        try:
            return await asyncio.wait_for(asyncio.wrap_future(done), max(self._within, within))
        except TimeoutError:
            raise LedgerLate(errno.ETIMEDOUT, "the disk did not answer in time") from None


class LedgerFile:
    """The file. Every method blocks, may take as long as the disk likes, and raises LedgerError."""

    def __init__(self, path: Path, *, network: bool = False) -> None:
        self.path = path
        self._volume = Volume(path.parent.parent, path.parent.name)
        self._network = network
        self._lock: int | None = None
        self._db: sqlite3.Connection | None = None
        self._identity: tuple[int, int] | None = None
        self._known = 0
        """How many lines are in it, as far as this process knows. There are never fewer."""
        self._is_proved = self._is_rewritten = False
        """Of the file as it is open now: each line was compared with its proof; what is in the log was written anew."""

    def __repr__(self) -> str:
        return f"<LedgerFile {self.path}, {self._known} lines, {'open' if self._db else 'not open'}>"

    def read(self, since: int = 0) -> list[Entry]:
        with self._translated() as db:
            count, _ = _last(db)
            self._know(count)
            entries = _proved(db, since if self._is_proved else 0)
            entries = entries if self._is_proved else entries[since:]
            self._is_proved = True
            return entries

    def append(self, entry: Entry, seq: int) -> bool:
        with self._translated() as db:
            if not self._is_proved:
                _proved(db)
                self._is_proved = True
            if not self._is_rewritten:
                self._rewrite(db)
            db.execute("BEGIN IMMEDIATE")
            count, proof = _last(db)
            if count != seq:
                db.execute("ROLLBACK")
                self._know(count)
                return False
            _insert(db, entry, seq + 1, proof)
            db.execute("COMMIT")
            self._know(seq + 1)
            self._is_the_same()
        return True

    def close(self) -> None:
        self._shut()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    @contextlib.contextmanager
    def _translated(self) -> Iterator[sqlite3.Connection]:
        """The open file; whatever goes wrong with it in there is a LedgerError, and it is opened anew the next time."""
        try:
            yield self._opened()
        except LedgerDamaged:
            self._keep_a_copy()
            self._shut()
            raise
        except sqlite3.Error as error:
            raised = _translate(error)
            if isinstance(raised, LedgerDamaged):
                self._keep_a_copy()
            self._shut()
            raise raised from error
        except BadEntry as error:
            self._shut()
            raise LedgerDamaged(errno.EILSEQ, f"a line is none of ours: {error}") from error
        except LedgerError:
            self._shut()
            raise
        except OSError as error:
            self._shut()
            raise LedgerError(error.errno, error.strerror) from error

    # -- opening and closing

    def _opened(self) -> sqlite3.Connection:
        if self._db is None:
            with self._volume.folder(make=True) as folder:
                self._take(folder)
                self._make(folder)
            db = self._db = sqlite3.connect(self.path, timeout=BUSY, isolation_level=None, check_same_thread=False)
            self._prepare(db)
        return self._db

    def _take(self, folder: int) -> None:
        """The lock, for as long as this process lives."""
        if self._lock is not None:
            return
        fd = os.open(
            f"{self.path.name}.lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=folder
        )
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            raise LedgerTaken(errno.EBUSY, "another gateway has it") from None
        except OSError as error:
            os.close(fd)
            raise LedgerError(error.errno, "its volume has no locks") from error
        self._lock = fd

    def _make(self, folder: int) -> None:
        """See that the file is there. While SQLite has it, nobody here may close a handle of it: its locks would go."""
        flags = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            fd = os.open(self.path.name, flags, dir_fd=folder)
        except FileNotFoundError:
            if self._known:
                raise LedgerDamaged(errno.ENOENT, "the file is gone, and with it every line") from None
            fd = os.open(self.path.name, flags | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=folder)
            self._sync(folder)
        found = os.fstat(fd)
        os.close(fd)
        if not stat.S_ISREG(found.st_mode):
            raise LedgerDamaged(errno.EINVAL, "it is not a plain file")
        self._identity = (found.st_dev, found.st_ino)

    def _sync(self, folder: int) -> None:
        """The names that lead to the file, which may all be new."""
        os.fsync(folder)
        above = os.open("..", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=folder)
        try:
            os.fsync(above)
        finally:
            os.close(above)

    def _prepare(self, db: sqlite3.Connection) -> None:
        db.execute("PRAGMA synchronous = EXTRA")
        (application,) = db.execute("PRAGMA application_id").fetchone()
        (version,) = db.execute("PRAGMA user_version").fetchone()
        (tables,) = db.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if application == OURS and version > VERSION:
            raise LedgerError(errno.EPROTO, "a newer version of WakeGate wrote it")
        if application not in (0, OURS) or (tables and application != OURS) or (not tables and self._known):
            raise LedgerDamaged(errno.EILSEQ, "it is no ledger of ours")
        mode = "DELETE" if self._network else "WAL"
        (got,) = db.execute(f"PRAGMA journal_mode = {mode}").fetchone()
        if got.upper() != mode:
            raise LedgerError(errno.ENOTSUP, f"its volume cannot keep a SQLite file (journal_mode {got})")
        if not tables:
            db.execute("BEGIN IMMEDIATE")
            db.execute(_TABLE)
            db.execute(f"PRAGMA application_id = {OURS}")
            db.execute(f"PRAGMA user_version = {VERSION}")
            db.execute("COMMIT")
        (verdict,) = db.execute("PRAGMA integrity_check(1)").fetchone()
        if verdict != "ok":
            raise LedgerDamaged(errno.EILSEQ, f"SQLite says of it: {verdict:.200}")
        self._is_rewritten = self._network

    def _rewrite(self, db: sqlite3.Connection) -> None:
        """What is in the log goes to the file, and the log begins anew, before the first line that we add: what an
        earlier sync may have lost without a word is written once more."""
        (busy, _, _) = db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        if busy:
            raise LedgerError(errno.EBUSY, "somebody is reading it")
        self._is_rewritten = True

    def _know(self, count: int) -> None:
        if count < self._known:
            raise LedgerDamaged(errno.EILSEQ, f"it has {count} lines, and had {self._known}")
        self._known = count

    def _is_the_same(self) -> None:
        found = self.path.stat()
        if (found.st_dev, found.st_ino) != self._identity:
            raise LedgerError(errno.ESTALE, "another file has taken its place")

    def _shut(self) -> None:
        db, self._db, self._is_proved = self._db, None, False
        if db is not None:
            try:
                db.close()
            except sqlite3.Error:
                pass  # whatever it could not do then is done, or found out, when it is opened again

    def _keep_a_copy(self) -> None:
        """As it was found, before anybody tries to save something of it. One is enough, and it may be too much."""
        for suffix in ("", "-wal"):
            damaged, copy = Path(f"{self.path}{suffix}"), Path(f"{self.path}.damaged{suffix}")
            try:
                if damaged.exists() and not copy.exists():
                    shutil.copyfile(damaged, copy)
                    copy.chmod(0o600)
            except OSError:
                pass  # the volume is full or read-only; the file itself stays as it is


def look(path: Path) -> list[Entry] | None:
    """What a ledger says that somebody else may have, for `wakegate spend`; nothing is changed. None: there is none.

    Blocks. Raises LedgerError.
    """
    if not path.exists():
        return None
    try:
        with contextlib.closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=BUSY)) as db:
            (tables,) = db.execute("SELECT count(*) FROM sqlite_master").fetchone()
            return _proved(db) if tables else []
    except sqlite3.Error as error:
        raise _translate(error) from error
    except BadEntry as error:
        raise LedgerDamaged(errno.EILSEQ, f"a line is none of ours: {error}") from error


# -- lines in the table


def _proved(db: sqlite3.Connection, since: int = 0) -> list[Entry]:
    """The lines after the first `since`, each one proved by the one before. Raises BadEntry where a newer version wrote
    what this one does not know."""
    entries: list[Entry] = []
    before = db.execute("SELECT proof FROM entries WHERE seq = ?", (since,)).fetchone()
    proof = FIRST if before is None else before[0]
    next_one = since + 1
    for seq, *values, kept in db.execute(_READ, (since,)):
        if seq != next_one:
            raise LedgerDamaged(errno.EILSEQ, f"line {next_one} is missing")
        proof = _prove(proof, values)
        if proof != kept:
            raise LedgerDamaged(errno.EILSEQ, f"line {seq} is not what was written")
        entry = Entry(*values)
        entry.check()
        entries.append(entry)
        next_one += 1
    return entries


def _last(db: sqlite3.Connection) -> tuple[int, str]:
    found = db.execute("SELECT seq, proof FROM entries ORDER BY seq DESC LIMIT 1").fetchone()
    return (0, FIRST) if found is None else (found[0], found[1])


def _insert(db: sqlite3.Connection, entry: Entry, seq: int, proof: str) -> None:
    kept = entry.fields()
    values = [kept[name] for name in _COLUMNS]
    db.execute(_ADD, (seq, *values, _prove(proof, values)))


def _prove(before: str, values: Sequence[object]) -> str:
    return hashlib.blake2b(json.dumps([before, *values]).encode(), digest_size=8).hexdigest()


def _translate(error: sqlite3.Error) -> LedgerError:
    code = getattr(error, "sqlite_errorcode", None)
    said = str(error)
    if code is None or code & 0xFF in _DAMAGE:
        return LedgerDamaged(errno.EILSEQ, f"SQLite says of it: {said:.200}")
    return LedgerError(_ERRNO.get(code & 0xFF, errno.EIO), said)
