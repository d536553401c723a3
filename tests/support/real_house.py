"""A gateway in this process in front of a real engine: real processes under their guard, real sockets, a real model.

The same wiring as `house()`. What is different: the engine is the one that users have, so these tests ask it what it is
doing (`working`), count its processes, and kill it.
"""

import asyncio
import contextlib
import itertools
import json
import os
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import openai

from gateway.providers.base import Endpoint, Loading, Provider
from gateway.providers.local.commands import EngineName, EngineSpec, Format, Installed
from gateway.providers.local.guarded import spawn_guard
from gateway.providers.local.provider import LocalProvider
from tests.support.engines import ask, soon, with_cookie
from tests.support.house import KEY, Front, Sizes, standing
from tests.support.llama import ROOT
from tests.support.tap import TappedProvider

SOON = 1.0
"""Seconds after a caller left in which its slot is free and the engine works on nothing (issue: "within 1 s")."""
CHAT, COMPLETION = "/v1/chat/completions", "/v1/completions"
_boots = itertools.count()


def find_llama_server() -> str | None:
    """WAKEGATE_TEST_LLAMA_SERVER, or what scripts/build_llama_server.sh left in the cache for the pinned version."""
    named = os.environ.get("WAKEGATE_TEST_LLAMA_SERVER")
    if named:
        return named
    pins = (ROOT / "constraints.txt").read_text().splitlines()
    version = next(line.split("==")[1] for line in pins if line.replace("_", "-").startswith("llama-cpp-python=="))
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    binary = cache / "wakegate" / "llama-server" / version / "llama-server"
    return str(binary) if os.access(binary, os.X_OK) else None


@dataclass(frozen=True)
class OnDisk:
    """A model that needs no looking for."""

    path: Path
    name: str = "demo"
    format: Format = "gguf"


@dataclass(frozen=True)
class Engine:
    """One kind of engine as a test wants it: its settings, and where it says what it is doing."""

    name: EngineName
    args: tuple[str, ...]
    """ENGINE_ARGS: one thread, since more of them wait for each other on a busy machine."""
    doing: str
    """A path whose JSON says what the engine works on."""
    slots: int
    """Requests at once, as it says itself when it is ready."""
    context: int
    """CTX_SIZE that gives each of them some 2,000 tokens."""
    small_steps: tuple[str, ...] = ()
    """ENGINE_ARGS by which it looks up from a prompt several times a second, with a slow model on one busy core."""
    notices_within: float = 0.0
    """Seconds until it sees that a caller has left, beyond ours."""

    async def working(self, endpoint: Endpoint) -> int:
        """Requests that the engine works on, or keeps in a line of its own."""
        said = await ask(endpoint, self.doing)
        if isinstance(said, list):  # llama-server's slots
            return sum(slot["is_processing"] for slot in said)
        assert isinstance(said, dict), said
        return int(said["busy"]) + int(said["waiting"])


ENGINES: Mapping[str, Engine] = {
    "llama-cpp-python": Engine(
        "llama-cpp-python", args=("n_threads=1", "n_threads_batch=1"), doing="/health", slots=1, context=2048
    ),
    "llama-server": Engine(
        "llama-server",
        args=("--threads", "1", "--embeddings", "--slots"),
        doing="/slots",
        slots=4,
        context=8192,
        small_steps=("--batch-size", "64"),
        # It looks once a second (HTTP_POLLING_SECONDS in tools/server), and only while nothing else happens: any answer
        # to anybody starts its second anew. A test that asks it what it is doing keeps it from noticing.
        notices_within=1.0,
    ),
}


@dataclass
class RealHouse(Front):
    """A gateway with its real engine."""

    engine: Engine
    provider: LocalProvider
    tap: TappedProvider | None
    boot: str
    log: Path
    spawned: list[Sequence[str]] = field(repr=False)
    """Guards that were started: one for each engine process that ever was."""

    def __repr__(self) -> str:
        return f"<RealHouse {self.engine.name} {self.conductor!r} {self.provider!r}>"

    def sdk(self, **options: Any) -> openai.AsyncOpenAI:
        """The client that people use, without the retries that would hide a failure."""
        return openai.AsyncOpenAI(
            base_url=f"http://127.0.0.1:{self.port}/v1", api_key=KEY, max_retries=0, timeout=30, **options
        )

    @property
    def posts(self) -> int:
        """POSTs that came to the engine, seen on the line to it."""
        assert self.tap is not None
        return len(self.tap.posts)

    def pids(self) -> list[int]:
        """The engine's living processes, as somebody outside would find them."""
        return with_cookie(self.boot)

    async def working(self) -> int:
        instance = self.conductor.snapshot().instance
        return 0 if instance is None else await self.engine.working(instance.endpoint)

    async def busy(self) -> None:
        """Until the engine works on something."""
        async with asyncio.timeout(10):
            while not await self.working():
                await asyncio.sleep(0.01)

    async def freed(self) -> None:
        """A caller has just left: the gateway holds nobody, the next caller has the engine, and nothing else does.

        Raises AssertionError when that takes longer than SOON and what the engine itself needs to notice.
        """
        began = time.monotonic()
        await self.until(lambda: not self.held, within=SOON)
        async with self.calling(COMPLETION, {"model": "demo", "prompt": [301], "max_tokens": 1}) as caller:
            said = await caller.rest()
        took = time.monotonic() - began
        assert said.startswith(b"HTTP/1.1 200 "), said
        assert took < SOON + self.engine.notices_within, f"the next caller had to wait for {took:.2f} s"
        async with asyncio.timeout(SOON):  # the last piece of an answer comes a moment before its end
            while self.held or await self.working():
                await asyncio.sleep(0.02)

    @property
    def held(self) -> int:
        """Requests that the gateway has in line or in flight."""
        snapshot = self.conductor.snapshot()
        return snapshot.in_flight + snapshot.waiting

    async def ready(self, within: float = 20.0) -> None:
        self.conductor.wake()
        await self.until(lambda: self.state.value == "ready", within)

    def calling(self, path: str, body: object, *, upload: int | None = None) -> "Caller":
        return Caller(self, path, json.dumps(body).encode(), upload)


class Caller:
    """One request on a socket of its own, which can be left at any time as a client that died leaves it."""

    def __init__(self, house: Front, path: str, body: bytes, upload: int | None = None) -> None:
        self._house = house
        self._data = house.request(body, path=path)
        if upload is not None:
            self._data = self._data[: -len(body) + upload]
        self.heard = b""

    async def __aenter__(self) -> "Caller":
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._house.port)
        self._writer.write(self._data)
        await self._writer.drain()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.leave()

    async def until(self, mark: bytes, within: float = 20.0) -> bytes:
        """Read until `mark` was heard; all that was heard."""
        async with asyncio.timeout(within):
            while mark not in self.heard:
                data = await self._reader.read(65536)
                assert data, f"it ended without {mark!r}: {self.heard!r}"
                self.heard += data
        return self.heard

    async def more(self, within: float = 5.0) -> None:
        """Until something new was heard."""
        async with asyncio.timeout(within):
            data = await self._reader.read(65536)
        assert data, "it ended"
        self.heard += data

    async def rest(self, within: float = 30.0) -> bytes:
        """Everything up to the end of the connection."""
        async with asyncio.timeout(within):
            with contextlib.suppress(ConnectionError):
                while data := await self._reader.read(65536):
                    self.heard += data
        return self.heard

    def leave(self) -> None:
        self._writer.close()


USUAL: Mapping[str, Any] = {
    "grace": 1.0,
    "heartbeat": 15.0,
    "first_byte": 60.0,
    "answer_time": 60.0,
    "gap": 20.0,
    "hold_max": 30.0,
    "queue": 1000,
    "body_limit": 32 << 20,
    "body_gap": 10.0,
    "stop_within": 5.0,
    "drain_timeout": 6.0,
}
"""Nearer to production's patience than Sizes: no clock of the gateway's decides here, only what the engine does."""

Resolve = Callable[[Callable[[Loading], None]], Awaitable[OnDisk | None]]


@contextlib.asynccontextmanager
async def real_house(
    engine: Engine,
    model: Path | None,
    *,
    spec: Mapping[str, Any] | None = None,
    installed: Installed | None = None,
    resolve: Resolve | None = None,
    tapped: bool = False,
    **sizes: Any,
) -> AsyncIterator[RealHouse]:
    """A gateway in front of `engine`, which is not started yet. `spec` are fields of EngineSpec, `sizes` of Sizes.

    At the end nothing of the engine may be left: that is asserted, whatever the test was about.
    """
    with tempfile.TemporaryDirectory(prefix="wg-") as name:  # short: a socket's path has 107 bytes
        folder = Path(name)
        boot = f"e{os.getpid()}x{next(_boots)}"
        spawned: list[Sequence[str]] = []

        def spawn(argv: Sequence[str], keep: Sequence[int], env: Mapping[str, str]) -> "subprocess.Popen[bytes]":
            spawned.append(argv)
            return spawn_guard(argv, keep, env)

        async def on_disk(_tell: Callable[[Loading], None]) -> OnDisk | None:
            return OnDisk(model) if model is not None else None

        fields: dict[str, Any] = {"engine": engine.name, "served_names": ("demo",), "engine_args": engine.args}
        fields |= {"ctx_size": engine.context} | dict(spec or {})
        local = LocalProvider(
            EngineSpec(**fields),
            resolve=resolve or on_disk,
            run_folder=folder,
            boot=boot,
            log_path=folder / "engine.txt",
            installed=lambda: installed or Installed(llama_cpp=True, llama_server=find_llama_server()),
            spawn=spawn,
        )
        tap = TappedProvider(local, folder) if tapped else None
        provider: Provider = tap or local
        # As in production, where nobody said MAX_CONCURRENT_REQUESTS: unknown until the engine says it.
        # As in production, where nobody said MAX_CONCURRENT_REQUESTS: unknown until the engine says it.
        usual = USUAL | {"slots": local.profile.concurrency or 2000}
        async with standing(provider, Sizes(**(usual | sizes))) as front:
            yield RealHouse(
                **vars(front),
                engine=engine,
                provider=local,
                tap=tap,
                boot=boot,
                log=folder / "engine.txt",
                spawned=spawned,
            )
            await front.conductor.drain()
        await soon(lambda: not with_cookie(boot), f"something of {engine.name} is left")
