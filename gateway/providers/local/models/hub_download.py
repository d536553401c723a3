"""Asks the child program (hub.py) for a repository of the Hub, and makes sentences of what it answers.

The child is killed as soon as whoever waits here leaves; the partial files stay, and the next one goes on from there.
"""

import asyncio
import json
import logging
import shutil
import sys
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from gateway.providers.local.models.hub_cache import repo_folder
from gateway.providers.local.models.model_error import Kind, ModelError
from gateway.providers.local.models.model_files import human
from gateway.providers.local.models.model_names import ModelSpec, safe_name

log = logging.getLogger(__name__)

LINE_MAX = 64 << 20
"""A listing is one line; the largest repositories have some 10,000 files."""
SPARE = 1.02
SPARE_AT_LEAST = 64 << 20
"""Disk that must be left besides the model's own bytes: 2 %, and at least this many bytes."""

PASSED_ON = frozenset(
    {
        "HF_ENDPOINT", "HF_HOME", "HF_HUB_OFFLINE", "HF_TOKEN_PATH", "HF_HUB_ETAG_TIMEOUT", "HF_XET_HIGH_PERFORMANCE",
        "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "all_proxy", "no_proxy",
        "SSL_CERT_FILE", "SSL_CERT_DIR", "HOME", "PATH", "LANG", "LC_ALL", "TZ", "TMPDIR", "XDG_CACHE_HOME",
        "LD_LIBRARY_PATH", "PYTHONPATH",
    }
)  # fmt: skip
"""All that the child is given of the environment, besides HF_TOKEN."""


@dataclass(frozen=True, slots=True)
class Download:
    """How far a download is, in bytes over all its files. `waiting`: another process downloads the same file."""

    done: int
    total: int
    file: str = ""
    waiting: bool = False

    @property
    def ratio(self) -> float:
        return self.done / self.total if self.total else 1.0

    def __str__(self) -> str:
        return f"{human(self.done)} of {human(self.total)}"


@dataclass(frozen=True, slots=True)
class RemoteFile:
    name: str
    size: int
    etag: str


@dataclass(frozen=True, slots=True)
class Listing:
    commit: str
    files: tuple[RemoteFile, ...]


@dataclass(frozen=True, slots=True)
class Hub:
    """The Hub as this machine reaches it. `environ` is what to choose from, not what the child gets."""

    environ: Mapping[str, str] = field(repr=False)
    token: str | None = field(default=None, repr=False)

    @property
    def endpoint(self) -> str:
        return (self.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")

    @asynccontextmanager
    async def session(self, spec: ModelSpec) -> AsyncIterator["Session"]:
        """A child program that takes orders about one repository. It is gone when the block ends, however it does."""
        environ = {name: value for name, value in self.environ.items() if name in PASSED_ON}
        environ |= {
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "HF_HUB_DISABLE_UPDATE_CHECK": "1",
        }
        if self.token:
            environ["HF_TOKEN"] = self.token
        child = await asyncio.create_subprocess_exec(
            sys.executable,
            "-P",  # its folder's files are not to be taken for libraries
            str(Path(__file__).with_name("hub.py")),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=environ,
            limit=LINE_MAX,
            start_new_session=True,  # Ctrl-C is for us; it ends when we say so
        )
        log_words = asyncio.create_task(_log_words(cast(StreamReader, child.stderr)))
        try:
            yield Session(self, spec, cast(StreamWriter, child.stdin), cast(StreamReader, child.stdout))
        finally:
            if child.returncode is None:
                child.kill()
            await child.wait()
            await log_words


@dataclass(frozen=True, slots=True)
class Session:
    """One child program at work on one repository. Every method raises ModelError."""

    hub: Hub
    spec: ModelSpec
    orders: StreamWriter = field(repr=False)
    answers: StreamReader = field(repr=False)

    async def list(self) -> Listing:
        """What the repository holds at the revision."""
        listed = await self._ask({"do": "list", "repo": self.spec.repo, "revision": self.spec.revision})
        files = tuple(RemoteFile(f["name"], f["size"], f["etag"]) for f in listed["files"] if safe_name(f["name"]))
        return Listing(listed["commit"], files)

    async def fetch(
        self, listing: Listing, names: tuple[str, ...], cache: Path, on_progress: Callable[[Download], None]
    ) -> Path:
        """These files of the listing into the cache; the snapshot's folder."""
        wanted = set(names)
        files = [f for f in listing.files if f.name in wanted]
        await asyncio.to_thread(check_space, cache, self.spec.repo or "", files)
        order = {
            "do": "fetch",
            "repo": self.spec.repo,
            "revision": self.spec.revision,
            "commit": listing.commit,
            "cache": str(cache),
            "files": [{"name": f.name, "size": f.size, "etag": f.etag} for f in files],
        }
        try:
            return Path((await self._ask(order, on_progress))["folder"])
        except ModelError as error:
            if error.kind != "space":
                raise
            raise await asyncio.to_thread(_became_full, cache, self.spec.repo or "", files) from error

    async def _ask(
        self, order: Mapping[str, object], on_progress: Callable[[Download], None] = lambda _: None
    ) -> dict[str, Any]:
        self.orders.write(json.dumps(order).encode() + b"\n")
        try:
            await self.orders.drain()
        except ConnectionError:
            pass  # it died at once: there will be no answer, and its last words are in the log
        while line := await self.answers.readline():
            answer = json.loads(line)
            if progress := answer.get("progress"):
                on_progress(Download(progress["done"], progress["total"], progress["file"], progress["waiting"]))
            elif failed := answer.get("failed"):
                raise _explain(self.hub, self.spec, failed["kind"], failed["detail"], order.get("cache"))
            elif done := answer.get("listed") or answer.get("fetched"):
                return dict(done)
        raise ModelError("hub", f"The download of {self.spec.repo} ended without a word; the log has the reason.")


def _explain(hub: Hub, spec: ModelSpec, word: str, detail: str, cache: object) -> ModelError:
    repo = spec.repo
    page = f"{hub.endpoint}/{repo}"
    has_token = hub.token is not None
    need = "HF_TOKEN does not open it" if has_token else "no HF_TOKEN is set"
    sentences: dict[str, tuple[Kind, str]] = {
        "repo": ("missing", f"{repo} is not on the Hub, or it is private and {need}: check the name at {page}."),
        "revision": ("missing", f"{repo} has no revision {spec.revision}: see {page}/tree/main."),
        "gated": (
            "access",
            f"{repo} is gated and {need}: accept its licence at {page} and set HF_TOKEN to a token of that account "
            f"({hub.endpoint}/settings/tokens).",
        ),
        "forbidden": ("access", f"{repo} may not be downloaded: {need}. The Hub says: {detail}"),
        "token": (
            "access",
            f"The Hub does not know this HF_TOKEN: make a new one at {hub.endpoint}/settings/tokens.",
        ),
        "name": ("name", f"{repo} is not a repository name: {detail}"),
        "offline": (
            "network",
            f"{repo} is not on this machine, and HF_HUB_OFFLINE forbids to download it: unset it.",
        ),
        "network": ("network", f"{hub.endpoint} cannot be reached: {detail}."),
        "space": ("space", f"The disk became full at {cache}: make room; the download goes on where it was."),
        "unwritable": ("unwritable", f"{cache} cannot be written ({detail}): change its rights, or set DATA_DIR."),
        "disk": ("unwritable", f"{cache} made trouble: {detail}."),
    }
    kind, sentence = sentences.get(word, ("hub", f"The Hub did not deliver {repo}: {detail}."))
    return ModelError(kind, sentence, lasting={"offline": True, "disk": False}.get(word))


def _became_full(cache: Path, repo: str, files: list[RemoteFile]) -> ModelError:
    """With what is still to come and what is left. (More may be left than a quota lets one take.)"""
    to_come = _to_come(cache, repo, files)
    try:
        left = f"{human(shutil.disk_usage(cache).free)} are left"
    except OSError:
        left = "nothing can be read there any more"
    return ModelError(
        "space",
        f"The disk became full at {cache}: {human(to_come)} are still to come, {left}. Make room, or set DATA_DIR to a "
        "larger volume; the download goes on where it was.",
    )


async def _log_words(words: StreamReader) -> None:
    while line := await words.readline():
        log.info("download: %s", line.decode("utf-8", "replace").rstrip())


def check_space(cache: Path, repo: str, files: list[RemoteFile]) -> None:
    """Raises ModelError before anything is downloaded that will not fit. Parts that are there already count."""
    missing = _to_come(cache, repo, files)
    if missing == 0:
        return
    try:
        cache.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(cache).free
    except OSError as error:
        raise ModelError(
            "unwritable",
            f"{cache} cannot be made ({error.strerror}): change the rights of its folder, or set DATA_DIR.",
        ) from error
    needed = max(int(missing * SPARE), missing + SPARE_AT_LEAST)
    if free < needed:
        raise ModelError(
            "space",
            f"{repo} needs {human(needed)} of disk, and {cache} has {human(free)} left: make room, set DATA_DIR to a "
            "larger volume, or choose a smaller quantization.",
        )


def _to_come(cache: Path, repo: str, files: list[RemoteFile]) -> int:
    blobs = repo_folder(cache, repo) / "blobs"
    return sum(f.size - _there(blobs, f) for f in files)


def _there(blobs: Path, file: RemoteFile) -> int:
    for name in (file.etag, f"{file.etag}.partial"):
        try:
            return min(file.size, (blobs / name).stat().st_size)
        except OSError:
            continue
    return 0
