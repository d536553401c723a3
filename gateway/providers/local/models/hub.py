"""The child program that talks to the Hub: lists a repository, downloads files of it.

A process, because a download must end at once when it is cancelled, and a thread that waits for a socket cannot be.

It stands alone (huggingface_hub and the standard library, nothing of ours) and speaks JSON lines: orders on stdin,
answers on stdout, words for the log on stderr. When stdin ends, whoever asked is gone, and so is this process.

    {"do": "list", "repo", "revision"}                   → {"listed": {"commit", "files": [{"name", "size", "etag"}]}}
    {"do": "fetch", "repo", "revision", "commit", "cache", "files"}
                                                         → {"progress": {"done", "total", "file", "waiting"}} …
                                                         → {"fetched": {"folder"}}
    either                                               → {"failed": {"kind", "detail"}}

huggingface_hub 2.4 downloads into a file with a random name and removes it when it fails, so a cut download starts
again from nothing (its pull request 4228: shared partial files were damaged where flock does nothing). Here the partial
file has the name of its content (`blobs/<etag>.partial`), is continued with a Range request, and its checksum is
compared at the end (reckoned as the bytes come; what an earlier try left is read once). That is safe with several
writers even where locks do nothing, as on some network file systems: all of them write the same bytes to the same
places, none truncates, the first to finish renames it, and the checksum has the last word. The lock (where
huggingface_hub has its own) only saves the second download, and is not waited for when its holder stands still.

A large file comes over several connections, each with a range of it, because one alone rarely fills a data centre's
line. Ranges that are ahead wait in memory, and the file grows in order: what its length says is still what is there, so
that all of the above goes on to hold.

Weights come last: where they are, the small files beside them are there too.
"""

import errno
import hashlib
import importlib
import json
import os
import queue
import re
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

CHUNK = 1 << 20
AT_ONCE = 4
"""Files."""
RANGE = 16 << 20
RANGES = 4
"""Ranges of one file at once. What is ahead of the file's end is in memory, at most this many of them for each file."""
CONNECTIONS = 8
"""Of all files together that come in ranges."""
HTTP_LIMIT = 50_000_000_000
"""Bytes above which the Hub serves a file over its Xet protocol only; such a file is left to huggingface_hub whole."""
TRIES = 6
"""Failures in a row, without a byte between them, before the Hub counts as unreachable."""
SILENCE = 30.0
"""Seconds without a byte that end one try."""
LOCK_HOLDER_STALLS = 60.0
"""Seconds without growth of the partial file after which a lock's holder is not waited for any more."""
PROGRESS_EVERY = 0.25

ETAG = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
COMMIT = re.compile(r"[0-9a-f]{40}")


class Failed(Exception):
    """The order cannot be carried out; `kind` is a word that the other side knows."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(detail)
        self.kind = kind
        self.detail = detail


class Tally:
    """How many bytes of the whole are there; counted by the download threads, told by the main one."""

    def __init__(self, total: int) -> None:
        self._lock = threading.Lock()
        self._done: dict[str, int] = {}
        self.total = total
        self.waiting = False
        self.file = ""

    def at(self, file: str, done: int) -> None:
        with self._lock:
            self._done[file] = done
            self.file = file

    def told(self) -> dict[str, object]:
        with self._lock:
            return {"done": sum(self._done.values()), "total": self.total, "file": self.file, "waiting": self.waiting}


def list_files(repo: str, revision: str | None) -> dict[str, object]:
    """The commit that the revision stands at, and its files with sizes and checksums."""
    from huggingface_hub import HfApi

    with _translated(repo, revision):
        info = HfApi().model_info(repo, revision=revision, files_metadata=True, timeout=SILENCE)
    if info.sha is None or not COMMIT.fullmatch(info.sha):
        raise Failed("hub", f"the Hub named {info.sha!r} as commit")
    files = []
    for sibling in info.siblings or []:
        etag = sibling.lfs.sha256 if sibling.lfs is not None else sibling.blob_id
        size = sibling.lfs.size if sibling.lfs is not None else sibling.size
        if etag is not None and ETAG.fullmatch(etag) and isinstance(size, int):
            files.append({"name": sibling.rfilename, "size": size, "etag": etag})
    return {"commit": info.sha, "files": files}


def fetch(order: dict[str, Any], tell: Callable[[dict[str, object]], None]) -> dict[str, object]:
    """Every file of the order into the cache, several at once, with progress told meanwhile."""
    store = Store(Path(order["cache"]), order["repo"], order["commit"])
    files = order["files"]
    tally = Tally(sum(f["size"] for f in files))
    with _translated(order["repo"], order["commit"]):
        store.prepare()
        last: dict[str, object] = {}
        for batch in ([f for f in files if not _is_weight(f["name"])], [f for f in files if _is_weight(f["name"])]):
            pool = ThreadPoolExecutor(max_workers=AT_ONCE)
            pending = {pool.submit(store.fetch_file, f["name"], f["size"], f["etag"], tally) for f in batch}
            while pending:
                done, pending = wait(pending, timeout=PROGRESS_EVERY, return_when=FIRST_EXCEPTION)
                for future in done:
                    future.result()
                if (now := tally.told()) != last:
                    tell({"progress": now})
                    last = now
        store.remember(order["revision"] or "main")
    tell({"progress": tally.told()})
    return {"folder": str(store.snapshot)}


def _is_weight(name: str) -> bool:
    return name.lower().endswith((".gguf", ".safetensors"))


class Store:
    """One repository in a cache of the Hub's layout, at one commit."""

    def __init__(
        self, cache: Path, repo: str, commit: str, http_limit: int = HTTP_LIMIT, range_size: int = RANGE
    ) -> None:
        folder = "models--" + repo.replace("/", "--")
        self.repo = repo
        self.commit = commit
        self.cache = cache
        self.http_limit = http_limit
        self.range_size = range_size
        self.connections = threading.BoundedSemaphore(CONNECTIONS)
        self.folder = cache / folder
        self.blobs = self.folder / "blobs"
        self.locks = cache / ".locks" / folder
        self.snapshot = self.folder / "snapshots" / commit

    def prepare(self) -> None:
        for folder in (self.blobs, self.locks, self.snapshot):
            folder.mkdir(parents=True, exist_ok=True)

    def remember(self, revision: str) -> None:
        """Writes down which commit the branch or tag stood at, so that the next start needs no network."""
        if revision == self.commit:
            return
        ref = self.folder / "refs" / revision
        ref.parent.mkdir(parents=True, exist_ok=True)
        temporary = ref.with_name(f"{ref.name}.{os.getpid()}.tmp")
        temporary.write_text(self.commit)
        temporary.replace(ref)

    def fetch_file(self, name: str, size: int, etag: str, tally: Tally) -> None:
        pointer, blob = self.snapshot / name, self.blobs / etag
        if not _is_whole(pointer, size) and size > self.http_limit:
            self._leave_to_library(name, etag, tally)
        elif not _is_whole(pointer, size):
            with self._lock(etag, tally, name):
                if not _is_whole(blob, size):
                    Download(self, name, size, etag, tally).run()
                _point(pointer, blob)
        tally.at(name, size)

    def _leave_to_library(self, name: str, etag: str, tally: Tally) -> None:
        """Xet, which is fast, but begins again after a cut. Progress is what its temporary file takes on the disk."""
        from huggingface_hub import hf_hub_download

        ended = threading.Event()

        def look() -> None:
            while not ended.wait(PROGRESS_EVERY):
                tally.at(name, max((_taken(p) for p in self.blobs.glob(f"{etag}.*.incomplete")), default=0))

        watcher = threading.Thread(target=look, daemon=True)
        watcher.start()
        try:
            hf_hub_download(self.repo, name, revision=self.commit, cache_dir=self.cache)
        finally:
            ended.set()
            watcher.join()

    @contextmanager
    def _lock(self, etag: str, tally: Tally, name: str) -> Iterator[None]:
        """Holds the lock, or nothing where its holder has died without giving it back."""
        from filelock import FileLock, Timeout

        lock = FileLock(self.locks / f"{etag}.lock", mode=0o664)
        partial = self.blobs / f"{etag}.partial"
        grown_at, last = time.monotonic(), -1
        while time.monotonic() - grown_at < LOCK_HOLDER_STALLS:
            try:
                lock.acquire(timeout=1)
                break
            except NotImplementedError:  # a file system without locks
                break
            except Timeout:  # an OSError too
                tally.waiting = True
            except OSError as error:
                if error.errno not in (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL):
                    raise
                break
            if (now := _size(partial)) != last:
                grown_at, last = time.monotonic(), now
                tally.at(name, now)
        tally.waiting = False
        try:
            yield
        finally:
            lock.release()


class NoRanges(Exception):
    """The server sends whole files only."""


class Part:
    """A range of a file, from `begin` up to `end`, as far as it has come. `left`: set when nobody waits for it."""

    def __init__(self, begin: int, end: int, left: threading.Event) -> None:
        self.begin = begin
        self.end = end
        self.left = left
        self.data = bytearray()
        """Not written yet. Added to by one thread, taken from by another."""
        self.come: Future[None] | None = None

    def __repr__(self) -> str:
        return f"<Part {self.begin}..{self.end} {len(self.data)} bytes wait>"


class Download:
    """One file, from wherever its partial file ends to its place in blobs/."""

    def __init__(self, store: Store, name: str, size: int, etag: str, tally: Tally) -> None:
        from huggingface_hub import hf_hub_url

        self.store = store
        self.name = name
        self.size = size
        self.etag = etag
        self.tally = tally
        self.partial = store.blobs / f"{etag}.partial"
        self.url = hf_hub_url(store.repo, name, revision=store.commit)
        self._elsewhere = ""
        """Where the Hub redirected to last: the next range is asked for there, without asking the Hub again."""
        self._in_ranges = True
        self._begin_digest()

    def _begin_digest(self) -> None:
        """The Hub names a large file by its SHA-256, a small one by git's SHA-1 of it."""
        large = len(self.etag) == 64
        self._digest = hashlib.sha256() if large else hashlib.sha1(b"blob %d\0" % self.size, usedforsecurity=False)
        self._digested = 0

    def run(self) -> None:
        for last_try in (False, True):
            self._complete()
            if self._digest.hexdigest() == self.etag:
                break
            self.partial.unlink(missing_ok=True)
            self._begin_digest()
            if last_try:
                raise Failed("hub", f"{self.name} came with the wrong checksum twice")
        try:
            self.partial.replace(self.store.blobs / self.etag)
        except FileNotFoundError:
            # Somebody who writes the same file without our lock was first.
            if not _is_whole(self.store.blobs / self.etag, self.size):
                raise

    def _complete(self) -> None:
        """Until the partial file has every byte, whatever happens to the connections meanwhile."""
        from huggingface_hub.errors import HfHubHTTPError

        failures = 0
        descriptor = os.open(self.partial, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        with os.fdopen(descriptor, "r+b", buffering=0) as file:
            if os.fstat(file.fileno()).st_size > self.size:
                file.truncate(0)
            while (at := self._catch_up(file)) < self.size:
                try:
                    if self._in_ranges and self.size - at >= 2 * self.store.range_size:
                        self._receive_ranges(file, at)
                    else:
                        self._receive(file, at)
                    failures += 1  # the answer ended early without an error; growth below forgives it
                    trouble: Exception = Failed("network", f"the Hub sends nothing of {self.name}")
                except NoRanges:
                    self._in_ranges = False
                    continue
                except HfHubHTTPError as error:
                    if _status(error) not in (408, 425, 429, 500, 502, 503, 504):
                        raise
                    failures, trouble = failures + 1, error
                    _pause(min(60.0, _retry_after(error)))
                except _http_error() as error:
                    failures, trouble = failures + 1, error
                if os.fstat(file.fileno()).st_size > at:
                    failures = 0
                    continue
                print(f"{self.name}: {trouble} (try {failures} of {TRIES})", file=sys.stderr, flush=True)
                if failures >= TRIES:
                    raise trouble
                _pause(min(8.0, 0.25 * 2**failures))

    def _receive(self, file: Any, at: int) -> None:
        """One answer of the Hub, or of the store that it redirects to (the key is not sent along to another host)."""
        from huggingface_hub import get_session

        utils: Any = importlib.import_module("huggingface_hub.utils")  # exports these by its docs, not by its types
        headers = {**utils.build_hf_headers(), "Accept-Encoding": "identity"}
        if at:
            headers["Range"] = f"bytes={at}-"
        with get_session().stream("GET", self.url, headers=headers, timeout=SILENCE) as answer:
            utils.hf_raise_for_status(answer)
            if answer.status_code == 206:
                found = re.match(r"bytes (\d+)-", answer.headers.get("Content-Range", ""))
                if found is None or int(found[1]) != at:
                    raise Failed(
                        "hub", f"{self.name}: asked for byte {at}, got {answer.headers.get('Content-Range')!r}"
                    )
            else:
                at = 0  # it does not do ranges: the same bytes once more
            for chunk in answer.iter_bytes(CHUNK):
                if at + len(chunk) > self.size:
                    raise Failed("hub", f"{self.name} is longer than the {self.size} bytes that the Hub listed")
                _write(file.fileno(), chunk, at)
                self._count(chunk, at)
                at += len(chunk)

    def _receive_ranges(self, file: Any, at: int) -> None:
        """The rest of the file, several ranges at once, written in order. What has come when one breaks is kept as far
        as it joins on."""
        left = threading.Event()
        pool = ThreadPoolExecutor(max_workers=RANGES, thread_name_prefix="range")
        under_way: deque[Part] = deque()
        begin = at
        try:
            while under_way or begin < self.size:
                while begin < self.size and len(under_way) < RANGES:
                    part = Part(begin, min(self.size, begin + self.store.range_size), left)
                    part.come = pool.submit(self._receive_range, part)
                    under_way.append(part)
                    begin = part.end
                first = under_way[0]
                assert first.come is not None  # noqa: S101 - for the type checker
                done, _ = wait({first.come}, timeout=PROGRESS_EVERY)
                at = self._write_part(file, first, at, under_way)
                if done:
                    first.come.result()
                    at = self._write_part(file, first, at, under_way)
                    under_way.popleft()
                    if at != first.end:
                        return  # fewer bytes than were asked for: again from there
        finally:
            left.set()
            pool.shutdown(wait=False, cancel_futures=True)

    def _write_part(self, file: Any, part: Part, at: int, under_way: Iterable[Part]) -> int:
        """What has come of the first part. Returns where the file ends then; what waits behind it counts as come."""
        size = len(part.data)
        if size:
            block = bytes(part.data[:size])
            del part.data[:size]
            _write(file.fileno(), block, at)
            self._count(block, at)
        self.tally.at(self.name, self._digested + sum(len(other.data) for other in under_way))
        return at + size

    def _receive_range(self, part: Part) -> None:
        with self.store.connections:
            elsewhere = self._elsewhere
            try:
                self._ask_for(part, elsewhere)
            except _refusals():
                if not elsewhere:
                    raise
                if self._elsewhere == elsewhere:  # else another range has asked already where it lies now
                    self._elsewhere = ""  # such addresses are signed, and good for a while only
                self._ask_for(part, "")

    def _ask_for(self, part: Part, elsewhere: str) -> None:
        """One answer with a range. Elsewhere than at the Hub nobody is shown the key."""
        from huggingface_hub import get_session

        utils: Any = importlib.import_module("huggingface_hub.utils")
        headers = {} if elsewhere else dict(utils.build_hf_headers())
        headers |= {"Accept-Encoding": "identity", "Range": f"bytes={part.begin}-{part.end - 1}"}
        come = 0
        if part.left.is_set():
            return
        with get_session().stream("GET", elsewhere or self.url, headers=headers, timeout=SILENCE) as answer:
            utils.hf_raise_for_status(answer)
            found = re.match(r"bytes (\d+)-(\d+)/", answer.headers.get("Content-Range", ""))
            if answer.status_code != 206 or found is None:
                raise NoRanges
            if (int(found[1]), int(found[2])) != (part.begin, part.end - 1):
                raise Failed("hub", f"{self.name}: asked for bytes {headers['Range']}, got {found[0]!r}")
            if answer.history and answer.url.host != answer.history[0].url.host:
                self._elsewhere = str(answer.url)
            for chunk in answer.iter_bytes(CHUNK):
                come += len(chunk)
                if part.left.is_set() or come > part.end - part.begin:
                    break
                part.data += chunk

    def _catch_up(self, file: Any) -> int:
        """How much is there already; what came from an earlier try, or somebody else, is added to the checksum."""
        at = os.fstat(file.fileno()).st_size
        while self._digested < at:
            block = os.pread(file.fileno(), min(CHUNK, at - self._digested), self._digested)
            if not block:
                break
            self._count(block, self._digested)
        return at

    def _count(self, block: bytes, at: int) -> None:
        """Adds to the checksum what of this block it has not seen; a block further on waits for `_catch_up`."""
        if at <= self._digested < at + len(block):
            self._digest.update(memoryview(block)[self._digested - at :])
            self._digested = at + len(block)
        self.tally.at(self.name, self._digested)


def _point(pointer: Path, blob: Path) -> None:
    """The snapshot's name for a blob: a relative link; the file itself where the file system has no links."""
    pointer.parent.mkdir(parents=True, exist_ok=True)
    temporary = pointer.with_name(f".{pointer.name}.{os.getpid()}.tmp")
    try:
        temporary.symlink_to(os.path.relpath(blob, pointer.parent))
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EIO):
            raise
        blob.replace(pointer)
    else:
        temporary.replace(pointer)


def _write(descriptor: int, block: bytes, at: int) -> None:
    """All of it: a volume that fills up may take a part first."""
    view = memoryview(block)
    while view:
        written = os.pwrite(descriptor, view, at)
        view, at = view[written:], at + written


def _is_whole(path: Path, size: int) -> bool:
    return _size(path) == size


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return -1


def _taken(path: Path) -> int:
    """Bytes that it takes on the disk: a file whose length was set beforehand counts by what was written."""
    try:
        found = path.stat()
    except OSError:
        return 0
    return min(found.st_size, found.st_blocks * 512)


def _pause(seconds: float) -> None:
    time.sleep(seconds)


def _http_error() -> type[Exception]:
    """The base of connection troubles in whichever HTTP library huggingface_hub is built on (httpx, now httpx2)."""
    from huggingface_hub.errors import HfHubHTTPError

    return next(base for base in HfHubHTTPError.__bases__ if base is not OSError)


def _refusals() -> type[Exception]:
    """Any status from 400."""
    from huggingface_hub.errors import HfHubHTTPError

    return HfHubHTTPError


def _status(error: Any) -> int:
    return int(error.response.status_code)


def _retry_after(error: Any) -> float:
    value = error.response.headers.get("Retry-After", "")
    return float(value) if value.isdigit() else 0.0


@contextmanager
def _translated(repo: str, revision: str | None) -> Iterator[None]:
    """Foreign errors become `Failed` with a word that the other side has a sentence for."""
    from huggingface_hub import errors

    try:
        yield
    except errors.OfflineModeIsEnabled as error:
        raise Failed("offline", "HF_HUB_OFFLINE is set") from error
    except errors.GatedRepoError as error:
        raise Failed("gated", _brief(error)) from error
    except errors.RevisionNotFoundError as error:
        raise Failed("revision", _brief(error)) from error
    except errors.RepositoryNotFoundError as error:
        raise Failed("token" if "Invalid credentials" in str(error) else "repo", _brief(error)) from error
    except errors.HfHubHTTPError as error:
        status = _status(error)
        if status == 401:
            raise Failed("token" if "Invalid credentials" in str(error) else "repo", _brief(error)) from error
        raise Failed("forbidden" if status == 403 else "hub", f"HTTP {status}: {_brief(error)}") from error
    except errors.HFValidationError as error:
        raise Failed("name", _brief(error)) from error
    except _http_error() as error:
        raise Failed("network", f"{type(error).__name__}: {_brief(error)}") from error
    except OSError as error:
        kinds = {errno.ENOSPC: "space", errno.EDQUOT: "space", errno.EACCES: "unwritable", errno.EPERM: "unwritable"}
        kinds[errno.EROFS] = "unwritable"
        raise Failed(kinds.get(error.errno or 0, "disk"), f"{error.filename or ''} {error.strerror}".strip()) from error


def _brief(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines)[:300] or type(error).__name__


def main() -> NoReturn:
    """One order after the other, until one fails or nobody asks any more."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever a library prints is for the log, not part of the answers
    said = threading.Lock()

    def tell(message: dict[str, object]) -> None:
        with said:
            answers.write(json.dumps(message) + "\n")
            answers.flush()

    orders: queue.Queue[str] = queue.Queue()

    def listen() -> None:
        for line in sys.stdin:
            orders.put(line)
        os._exit(0)

    threading.Thread(target=listen, daemon=True, name="whoever asked").start()
    code = 0
    while code == 0:
        order = json.loads(orders.get())
        try:
            if order["do"] == "list":
                tell({"listed": list_files(order["repo"], order["revision"])})
            else:
                tell({"fetched": fetch(order, tell)})
        except Failed as failed:
            tell({"failed": {"kind": failed.kind, "detail": failed.detail}})
            code = 2
        except Exception:
            traceback.print_exc()
            code = 1
    sys.stderr.flush()
    # Other download threads may still wait for a socket; nothing of theirs is worth waiting for.
    os._exit(code)


if __name__ == "__main__":
    main()
