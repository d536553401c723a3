"""A small server that speaks the Hub's API as huggingface_hub 2.4 calls it: models with files, gates, keys, bad lines.

What it imitates was read in the library's source and its error handling (`hf_raise_for_status`): the model's page with
`blobs=true`, `resolve` that redirects large files to another host ("the CDN") with a signed address, `X-Error-Code` on
refusals, Range requests, ETags. Xet is absent: no answer carries `X-Xet-Hash`.
"""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aiohttp import web

COMMIT = "0123456789abcdef0123456789abcdef01234567"
LARGE = 1000
"""Files of this many bytes are kept as the Hub keeps LFS files: named by SHA-256 and served from the CDN."""


@dataclass
class Repo:
    files: dict[str, bytes]
    commits: dict[str, str]
    """Branch → commit."""
    private: bool = False
    gated: bool = False


@dataclass(frozen=True)
class Seen:
    """One request as it arrived."""

    method: str
    path: str
    range: str | None
    key: str | None
    host: str


@dataclass
class FakeHub:
    """What the server is told to do, and what it saw."""

    url: str = ""
    repos: dict[str, Repo] = field(default_factory=dict)
    good_keys: set[str] = field(default_factory=set)
    """Keys that the Hub knows; a gated or private repository opens to `accepted_keys` only."""
    accepted_keys: set[str] = field(default_factory=set)
    seen: list[Seen] = field(default_factory=list)
    cut_after: list[int] = field(default_factory=list)
    """The next downloads from the CDN are cut after so many bytes, one entry each."""
    gate: asyncio.Event | None = None
    """Set to an Event: downloads from the CDN send one half and wait for it."""
    ranges: bool = True
    cdn_expires_after: int | None = None
    """Each address of the CDN is good for so many downloads."""
    signatures: dict[str, int] = field(default_factory=dict)
    """The CDN's addresses, and how often each was used."""
    spoil: list[str] = field(default_factory=list)
    """Names whose next download from the CDN carries one wrong byte."""
    claimed_sizes: dict[str, int] = field(default_factory=dict)
    """Names whose size the listing tells otherwise."""
    cdn_statuses: list[int] = field(default_factory=list)
    """The next downloads from the CDN are answered with these instead."""
    status: int | None = None
    """Every page answers with this status instead."""

    def add(self, repo: str, files: dict[str, bytes], *, private: bool = False, gated: bool = False) -> Repo:
        self.repos[repo] = Repo(files, {"main": COMMIT}, private, gated)
        return self.repos[repo]

    def downloads(self) -> list[Seen]:
        return [s for s in self.seen if s.path.startswith("/cdn/")]


def etag_of(content: bytes) -> str:
    if len(content) >= LARGE:
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _refusal(status: int, code: str | None, message: str) -> web.Response:
    headers = {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {})
    return web.json_response({"error": message}, status=status, headers=headers)


class _Pages:
    def __init__(self, hub: FakeHub) -> None:
        self.hub = hub

    def _key(self, request: web.Request) -> str | None:
        header = request.headers.get("Authorization", "")
        return header.removeprefix("Bearer ") if header else None

    def _note(self, request: web.Request) -> None:
        seen = Seen(request.method, request.path, request.headers.get("Range"), self._key(request), request.host)
        self.hub.seen.append(seen)

    def _open(self, request: web.Request, revision: str, *, for_files: bool) -> tuple[Repo, str] | web.Response:
        """The repository and the commit, or the Hub's refusal."""
        self._note(request)
        if self.hub.status is not None:
            return _refusal(
                self.hub.status, None, "Internal Error - We're working hard to fix this as soon as possible!"
            )
        key = self._key(request)
        if key is not None and key not in self.hub.good_keys | self.hub.accepted_keys:
            return _refusal(401, None, "Invalid credentials in Authorization header")
        repo = self.hub.repos.get(f"{request.match_info['org']}/{request.match_info['name']}")
        accepted = key in self.hub.accepted_keys
        if repo is None or (repo.private and not accepted):
            return _refusal(404 if key else 401, "RepoNotFound", "Repository not found")
        if repo.gated and for_files and not accepted:
            message = f"Access to model {request.match_info['name']} is restricted."
            return _refusal(403 if key else 401, "GatedRepo", message)
        commit = repo.commits.get(revision, revision if revision in repo.commits.values() else None)
        if commit is None:
            return _refusal(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return repo, commit

    async def model(self, request: web.Request) -> web.Response:
        opened = self._open(request, request.match_info.get("revision", "main"), for_files=False)
        if isinstance(opened, web.Response):
            return opened
        repo, commit = opened
        siblings = []
        for name, content in repo.files.items():
            sibling: dict[str, object] = {"rfilename": name, "size": len(content), "blobId": "f" * 40}
            if len(content) >= LARGE:
                sibling["lfs"] = {"sha256": etag_of(content), "size": len(content), "pointerSize": 134}
            else:
                sibling["blobId"] = etag_of(content)
            if claimed := self.hub.claimed_sizes.get(name):
                sibling |= {"size": claimed, "lfs": {"sha256": etag_of(content), "size": claimed, "pointerSize": 134}}
            siblings.append(sibling)
        identity = f"{request.match_info['org']}/{request.match_info['name']}"
        gated = "manual" if repo.gated else False
        return web.json_response({"id": identity, "sha": commit, "gated": gated, "siblings": siblings, "tags": []})

    async def resolve(self, request: web.Request) -> web.Response:
        opened = self._open(request, request.match_info["revision"], for_files=True)
        if isinstance(opened, web.Response):
            return opened
        repo, commit = opened
        content = repo.files.get(request.match_info["file"])
        if content is None:
            return _refusal(404, "EntryNotFound", "Entry not found")
        headers = {"X-Repo-Commit": commit, "ETag": f'"{etag_of(content)}"', "Accept-Ranges": "bytes"}
        if len(content) < LARGE:
            return web.Response(body=b"" if request.method == "HEAD" else content, headers=headers)
        headers |= {"X-Linked-Size": str(len(content)), "X-Linked-ETag": f'"{etag_of(content)}"'}
        # Another host name, so that what may not leave the Hub (the key) can be seen to stay.
        cdn = self.hub.url.replace("127.0.0.1", "localhost")
        repo_id = f"{request.match_info['org']}/{request.match_info['name']}"
        headers["Location"] = f"{cdn}/cdn/{repo_id}/{request.match_info['file']}?Signature={len(self.hub.seen)}"
        return web.Response(status=302, headers=headers)

    async def cdn(self, request: web.Request) -> web.StreamResponse:
        self._note(request)
        name = request.match_info["file"]
        signature = request.query.get("Signature", "")
        used = self.hub.signatures[signature] = self.hub.signatures.get(signature, 0) + 1
        if self.hub.cdn_expires_after is not None and used > self.hub.cdn_expires_after:
            return web.Response(status=403)
        if self.hub.cdn_statuses:
            return web.Response(status=self.hub.cdn_statuses.pop(0), headers={"Retry-After": "0"})
        content = self.hub.repos[f"{request.match_info['org']}/{request.match_info['name']}"].files[name]
        whole = len(content)
        if name in self.hub.spoil:
            self.hub.spoil.remove(name)
            content = content[:-1] + bytes([content[-1] ^ 1])
        begin, end = 0, whole
        is_range = self.hub.ranges and "Range" in request.headers
        if is_range:
            first, _, last = request.headers["Range"].removeprefix("bytes=").partition("-")
            begin, end = int(first), int(last) + 1 if last else whole
            if begin >= whole:
                return web.Response(status=416)
        headers = {"Content-Length": str(end - begin), "ETag": f'"{etag_of(content)}"'}
        if is_range:
            headers["Content-Range"] = f"bytes {begin}-{end - 1}/{whole}"
        answer = web.StreamResponse(status=206 if is_range else 200, headers=headers)
        await answer.prepare(request)
        rest = content[begin:end]
        if self.hub.cut_after:
            await answer.write(rest[: self.hub.cut_after.pop(0)])
            assert request.transport is not None
            request.transport.abort() if len(self.hub.cut_after) % 2 else request.transport.close()
            return answer
        if self.hub.gate is not None:
            await answer.write(rest[: len(rest) // 2])
            await self.hub.gate.wait()
            rest = rest[len(rest) // 2 :]
        await answer.write(rest)
        return answer


@asynccontextmanager
async def fake_hub() -> AsyncIterator[FakeHub]:
    """Runs until the block ends."""
    hub = FakeHub()
    pages = _Pages(hub)
    app = web.Application()
    app.router.add_get("/api/models/{org}/{name}", pages.model)
    app.router.add_get("/api/models/{org}/{name}/revision/{revision}", pages.model)
    app.router.add_get("/cdn/{org}/{name}/{file:.+}", pages.cdn)
    app.router.add_get("/{org}/{name}/resolve/{revision}/{file:.+}", pages.resolve)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    hub.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield hub
    finally:
        if hub.gate is not None:
            hub.gate.set()
        await runner.cleanup()
