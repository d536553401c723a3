"""The story of `wakegate rehearse`: a request rents a pod, is answered, nobody comes, and the pod is given back.

A real gateway runs it, with real settings, against the small RunPod on loopback, whose pod is a real worker. Nothing is
rented, no vendor is asked, no setting of the user's is read, and nothing is left behind: the folder is temporary, and
every process is ended, also when somebody interrupts. The end is looked at, not believed: the vendor's status, the
pod's process, and what the ledger booked against what it truly cost.
"""

import asyncio
import json
import secrets
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

import aiohttp

from gateway.policy.account import fold
from gateway.policy.books import Books, dollars
from gateway.records.ledger.looking import look
from gateway.rehearsal.children import END_WITHIN, Child, bare, free_port
from gateway.rehearsal.stage import Stage, body_of, pods_settings, unix
from gateway.rehearsal.vendor import POD, Vendor

PROMPT = "Say hello."
LISTENS_WITHIN = 90.0
ANSWERS_WITHIN = 180.0
STOPS_WITHIN = 120.0
"""Seconds. On an idle machine all of it takes some twenty."""
IDLE = 3
"""IDLE_TIMEOUT, seconds."""
BUDGET = "20"

Say = Callable[[str], None]
T = TypeVar("T")


class Failed(Exception):
    """It did not go as it must. One line; `console` is what the gateway said last, `code` the exit code."""

    def __init__(self, line: str, console: str = "", code: int = 1) -> None:
        super().__init__(line)
        self.console = console
        self.code = code


class Told:
    """Lines with their time, and who it was."""

    def __init__(self, say: Say, clock: Callable[[], float] = time.monotonic) -> None:
        self._say = say
        self._clock = clock
        self._began = clock()

    def __call__(self, who: str, what: str) -> None:
        self._say(f"{self._clock() - self._began:6.1f} s  {who:<8} {what}")


class Caller:
    """Somebody who asks one gateway."""

    def __init__(self, base: str, key: str, session: aiohttp.ClientSession) -> None:
        self._base = base
        self._headers = {"Authorization": f"Bearer {key}"}
        self._session = session

    async def health(self) -> Mapping[str, object] | None:
        """None: nobody answers."""
        try:
            async with self._session.get(f"{self._base}/health", headers=self._headers) as answer:
                said = await answer.json()
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError):
            return None
        return said if isinstance(said, dict) else None

    async def metrics(self) -> str:
        """The page; empty where there is none."""
        try:
            async with self._session.get(f"{self._base}/metrics", headers=self._headers) as answer:
                return await answer.text() if answer.status == 200 else ""
        except (aiohttp.ClientError, TimeoutError, OSError):
            return ""

    async def chat(self, heard: Callable[[str], None], *, most: int = 24) -> str:
        """The answer to one streamed request. `heard`: each different comment while it waits. Raises Failed."""
        body = {"messages": [{"role": "user", "content": PROMPT}], "stream": True, "max_tokens": most}
        words: list[str] = []
        try:
            async with self._session.post(
                f"{self._base}/v1/chat/completions", json=body, headers=self._headers
            ) as answer:
                if answer.status != 200:
                    raise Failed(f"the request was answered with {answer.status}: {(await answer.text())[:300]}")
                async for raw in answer.content:
                    line = raw.decode("utf-8", "replace").strip()
                    if line.startswith(":"):
                        heard(line[1:].strip())
                    elif line.startswith("data: {"):
                        words += _words(line[6:])
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise Failed(f"the answer broke off: {type(error).__name__}") from error
        return "".join(words)


def _words(data: str) -> list[str]:
    content = json.loads(data)
    if "error" in content:
        raise Failed(f"the request was answered with an error: {content['error'].get('message')}")
    return [choice["delta"].get("content") or "" for choice in content.get("choices", ())]


async def until(what: Callable[[], bool], within: float, line: str, child: Child) -> None:
    """Raises Failed when it is not so in time, or the gateway has ended."""
    deadline = time.monotonic() + within
    while not what():
        if child.code is not None:
            raise Failed(f"the gateway ended with {child.code}", child.tail())
        if time.monotonic() > deadline:
            raise Failed(f"not within {within:.0f} s: {line}", child.tail())
        await asyncio.sleep(0.1)


async def listening(caller: Caller, child: Child) -> None:
    deadline = time.monotonic() + LISTENS_WITHIN
    while await caller.health() is None:
        if child.code is not None:
            raise Failed(f"the gateway ended with {child.code}", child.tail())
        if time.monotonic() > deadline:
            raise Failed(f"the gateway does not listen after {LISTENS_WITHIN:.0f} s", child.tail())
        await asyncio.sleep(0.1)


async def surely(work: Coroutine[object, object, T]) -> T:
    """Its result, also for somebody who is cancelled meanwhile, or again: then that is raised afterwards."""
    task = asyncio.ensure_future(work)
    cancelled = None
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled
    return task.result()


@asynccontextmanager
async def running(child: Child, within: float = END_WITHIN) -> AsyncIterator[Child]:
    """It is ended however this is left; whoever interrupts that waits for it all the same."""
    await child.start()
    try:
        yield child
    finally:
        await surely(child.stop(within))


async def play(say: Say, script: Path, environ: Mapping[str, str]) -> None:
    """The whole story. Raises Failed."""
    folder = Path(await asyncio.to_thread(tempfile.mkdtemp, prefix="wakegate-rehearsal-"))
    try:
        await _on_stage(Told(say), script, folder, bare(environ))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


async def _on_stage(tell: Told, script: Path, folder: Path, home: Mapping[str, str]) -> None:
    vendors_key, pods_key, key = (secrets.token_hex(16) for _ in range(3))
    port, pods_port = free_port(), free_port()
    body = await asyncio.to_thread(body_of, folder, script.parent)
    tell("stage", f"nothing is rented here; the pod is a process on this machine ({body.engine})")
    vendor = Vendor(vendors_key, port=pods_port)

    def pod() -> Child:
        place = folder / "pod"
        place.mkdir(exist_ok=True)
        return Child("pod", script, folder, {**home, **pods_settings(pods_port, pods_key, body, place)})

    async with Stage(vendor, pod, port=pods_port, tell=tell, now=unix) as stage:
        settings = gateway_settings(stage.url, vendors_key, pods_port, pods_key) | {
            "HOST": "127.0.0.1",
            "PORT": str(port),
            "PORT_HEALTH": str(free_port()),
            "API_KEY": key,
            "DATA_DIR": str(folder / "data"),
        }
        (folder / "data").mkdir()
        child = Child("gateway", script, folder, {**home, **settings})
        timeout = aiohttp.ClientTimeout(total=ANSWERS_WITHIN)
        async with running(child), aiohttp.ClientSession(timeout=timeout) as session:
            caller = Caller(f"http://127.0.0.1:{port}", key, session)
            await listening(caller, child)
            tell("gateway", f"it listens, with {dollars(int(BUDGET) * 1_000_000)} a month to spend; the pod sleeps")
            try:
                await _cycle(tell, caller, stage, child)
            except Failed as error:
                raise Failed(str(error), error.console or child.tail()) from error
        await _end(tell, stage, folder / "data")


async def _cycle(tell: Told, caller: Caller, stage: Stage, child: Child) -> None:
    tell("you", "ask for a chat, streamed")
    comments: set[str] = set()

    def heard(comment: str) -> None:
        if comment and comment not in comments:
            comments.add(comment)
            tell("you", f"hear, while you wait: {comment}")

    answer = await caller.chat(heard)
    if not answer.strip():
        raise Failed("the answer is empty", child.tail())
    tell("you", f"are answered: {answer.strip()[:60]!r}")
    tell("gateway", f"waits {IDLE} s for somebody else")
    await until(lambda: not stage.pod_runs and stage.vendor.runs > 0, STOPS_WITHIN, "the pod is stopped", child)
    said = await _state(caller, "stopped", child)
    tell("gateway", f"has seen it stopped, twice; it is {said}")


async def _state(caller: Caller, wanted: str, child: Child) -> str:
    deadline = time.monotonic() + STOPS_WITHIN
    while True:
        said = str((await caller.health() or {}).get("state", ""))
        if said == wanted:
            return said
        if time.monotonic() > deadline:
            raise Failed(f"the gateway is {said or 'silent'}, not {wanted}", child.tail())
        await asyncio.sleep(0.2)


async def read_books(data_dir: Path, state_url: str | None = None) -> Books:
    """Empty ones where there is no ledger. Raises OSError."""
    return fold(await look(state_url, data_dir) or ())


async def _end(tell: Told, stage: Stage, data_dir: Path) -> None:
    """What must be true now. Raises Failed."""
    books = await read_books(data_dir)
    now = unix()
    at = max(int(now * 1000), books.latest)
    booked = sum(books.cost(rented, at) for rented in books.rentals.values())
    cost = stage.vendor.cost(now)
    if stage.vendor.status() != "EXITED" or stage.pod_runs or books.open:
        raise Failed(f"something is left: the pod is {stage.vendor.status()}, the ledger has {books!r}")
    if booked < cost or not books.rentals:
        raise Failed(f"the ledger booked {dollars(booked)}, and it cost {dollars(cost)}")
    tell("ledger", f"booked {dollars(booked)}; it has truly cost {dollars(cost)}: never less is booked than it costs")
    tell("stage", f"{stage.calls} calls to the vendor, nothing runs, nothing is left")


def gateway_settings(url: str, vendors_key: str, pods_port: int, pods_key: str) -> dict[str, str]:
    """As a user would have them, but for the addresses and the short silence."""
    return {
        "PROVIDER": "runpod-pod",
        "RUNPOD_API_KEY": vendors_key,
        "RUNPOD_POD_ID": POD,
        "RUNPOD_POD_PORT": str(pods_port),
        "RUNPOD_API_URL": url,
        "RUNPOD_PROXY_URL": "http://127.0.0.1:{port}",
        "UPSTREAM_API_KEY": pods_key,
        "MONTHLY_BUDGET": BUDGET,
        "IDLE_TIMEOUT": str(IDLE),
        "ON_EXIT": "leave",  # interrupted, the stage takes the pod away itself; killed, no vendor is there any more
        "HOLD_GRACE": "0",
        "HEARTBEAT_INTERVAL": "1",
        "DRAIN_TIMEOUT": "5",
        "SERVED_MODEL_NAME": "rehearsal",
    }
