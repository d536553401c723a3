"""What tests of providers share: command lines of the fake engine, a journal that is a list, and eyes for processes."""

import asyncio
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from gateway.providers.base import Endpoint, Gone, Instance, Loading, News, Provider, Ready, Rental
from gateway.providers.local import guard
from gateway.providers.local.environment import OURS
from gateway.providers.local.guarded import GuardedEngine, OnLine
from gateway.providers.probe import look, private_session

FAKE_ENGINE = str(Path(__file__).with_name("fake_engine.py"))
GATEWAY_STAND_IN = str(Path(__file__).with_name("gateway_stand_in.py"))
N = TypeVar("N", Loading, Ready, Gone)
PATIENCE = 10.0
"""Seconds until a test gives up on a real process. Nothing waits this long when it works."""


def fake_engine(*words: str) -> list[str]:
    """The argv of a fake engine. `-I -S`: it starts in 20 ms and sees nothing of us."""
    return [sys.executable, "-I", "-S", FAKE_ENGINE, *words]


class ListJournal:
    """What is written down survives for as long as the test does."""

    def __init__(self) -> None:
        self.rentals: list[Rental] = []
        self.said: list[tuple[str, ...]] = []
        """("intend", name), ("know", name, instance), ("void", name), ("end", name), as they came."""

    async def open(self) -> None:
        """Nothing was written down earlier."""

    def next_name(self) -> str:
        return f"wakegate-test-{len(self.rentals) + 1}"

    async def intend(self, rental: Rental) -> None:
        self.rentals.append(rental)
        self.said.append(("intend", rental.name))

    async def know(self, name: str, instance: str, price: int, why: str = "") -> None:
        self.said.append(("know", name, instance))

    async def void(self, name: str, why: str) -> None:
        self.said.append(("void", name))

    async def end(self, name: str, why: str) -> None:
        self.said.append(("end", name))


class FullJournal(ListJournal):
    """A journal on a full volume."""

    async def intend(self, rental: Rental) -> None:
        raise OSError(28, "No space left on device")


def alive(pid: int) -> bool:
    process = guard.read_process(pid)
    return process is not None and not process.zombie


def with_cookie(cookie: str) -> list[int]:
    """The living processes of an engine, found as somebody outside would find them."""
    return [
        process.pid
        for process in guard.processes().values()
        if not process.zombie and guard.carries(process.pid, guard.COOKIE, cookie)
    ]


def wait_until(true: Callable[[], bool], what: str, within: float = PATIENCE) -> float:
    """Seconds that it took. Fails with `what` when it does not come."""
    begun = time.monotonic()
    while not true():
        assert time.monotonic() - begun < within, what
        time.sleep(0.01)
    return time.monotonic() - begun


async def soon(true: Callable[[], bool], what: str, within: float = PATIENCE) -> float:
    """As `wait_until`, with the loop running."""
    begun = time.monotonic()
    while not true():
        assert time.monotonic() - begun < within, what
        await asyncio.sleep(0.01)
    return time.monotonic() - begun


class Watcher:
    """Collects an instance's news, and waits for one of a kind."""

    def __init__(self, provider: Provider, instance: Instance) -> None:
        self.heard: list[News] = []
        self._task = asyncio.ensure_future(self._collect(provider, instance))

    async def _collect(self, provider: Provider, instance: Instance) -> None:
        async for news in provider.watch(instance):
            self.heard.append(news)

    async def first(self, kind: type[N], within: float = PATIENCE) -> N:
        """The first news of this kind, which may have come already."""
        begun = time.monotonic()
        while time.monotonic() - begun < within:
            for news in self.heard:
                if isinstance(news, kind):
                    return news
            if self._task.done():
                break
            await asyncio.sleep(0.005)
        raise AssertionError(f"no {kind.__name__} in {self.heard}")

    async def gone(self, within: float = PATIENCE) -> Gone:
        """The last news, after which the watching ends by itself."""
        async with asyncio.timeout(within):
            await self._task
        last = self.heard[-1]
        assert isinstance(last, Gone)
        return last


async def ask(endpoint: Endpoint, path: str) -> object:
    """The JSON that an engine answers."""
    session = private_session(endpoint.socket)
    try:
        return (await look(session, endpoint, path, within=5)).content
    finally:
        await session.close()


async def engine_self(endpoint: Endpoint) -> dict[str, object]:
    """What the fake engine says about itself: pid, parts, environ, argv."""
    facts = await ask(endpoint, "/self")
    assert isinstance(facts, dict), json.dumps(facts)
    return facts


def text_of(log: Path) -> str:
    return log.read_text() if log.exists() else ""


class Launcher:
    """Starts guarded engines with one log in one folder."""

    def __init__(self, folder: Path) -> None:
        self.log = folder / "engine.txt"
        self.cookie = f"test{os.getpid()}{folder.name.replace('_', '')}.default.2"
        self.engines: list[GuardedEngine] = []

    def __call__(
        self,
        *argv: str,
        stop: list[str] | None = None,
        limit: int = 1 << 20,
        log: str = "",
        on_line: OnLine | None = None,
    ) -> GuardedEngine:
        engine = GuardedEngine.launch(
            argv=argv,
            env={"PATH": os.environ["PATH"], guard.COOKIE: self.cookie, **OURS},
            cookie=self.cookie,
            log=log or str(self.log),
            log_limit=limit,
            stop_argv=stop or [],
            on_line=on_line,
        )
        self.engines.append(engine)
        return engine

    async def ready(self, *words: str, stop: list[str] | None = None) -> GuardedEngine:
        engine = self(*fake_engine("--port", "0", *words), stop=stop)
        await engine.started
        await soon(lambda: "ready" in text_of(self.log).split(), "the engine")
        return engine
