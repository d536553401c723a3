"""RunPod emulated, a provider that rents there, its journal and its news, all in simulated time."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

from gateway.providers.base import Endpoint, Gone, Instance, Intent, News, Ready, Rental
from gateway.providers.probe import Sight, is_html, parse
from gateway.providers.renting.vendor import Answer
from gateway.providers.runpod_pod.provider import RunPodPod, Spec, Wishes
from tests.emulators.runpod import RunPodCloud, straight
from tests.emulators.runpod_schema import check

WALL = 1_790_000_000.0
"""Unix seconds at loop time 0."""
PREFIX = "wakegate-t-"
SPEC = {"image": "ghcr.io/x/wakegate:1", "gpu": {"id": ["NVIDIA L4", "NVIDIA A40"], "count": 1}, "disk": 20}


class Notes:
    """A journal that is a list: ("intend", name, price), ("know", name, id, price), ("void", name), ("end", name)."""

    def __init__(self) -> None:
        self.said: list[tuple[Any, ...]] = []
        self.rentals: list[Rental] = []
        self.refuses: Callable[[Rental], Exception | None] = lambda rental: None
        self.full = False
        """As a volume on which nothing more can be written."""

    async def open(self) -> None:
        pass

    def next_name(self) -> str:
        return f"{PREFIX}{len(self.rentals) + 1}"

    async def intend(self, rental: Rental) -> None:
        self._write()
        refusal = self.refuses(rental)
        if refusal is not None:
            self.rentals.append(rental)
            raise refusal
        self.rentals.append(rental)
        self.said.append(("intend", rental.name, rental.price))

    async def know(self, name: str, instance: str, price: int, why: str = "") -> None:
        self._write()
        self.said.append(("know", name, instance, price))

    async def void(self, name: str, why: str) -> None:
        self._write()
        self.said.append(("void", name))

    async def end(self, name: str, why: str) -> None:
        self._write()
        if ("end", name) not in self.said:
            self.said.append(("end", name))

    def _write(self) -> None:
        if self.full:
            raise OSError(28, "No space left on device")

    def words(self) -> list[str]:
        return [said[0] for said in self.said]


class PodHouse:
    """One gateway that rents pods. Make it inside the simulated loop."""

    def __init__(self, cloud: RunPodCloud | None = None, pod: str | Spec | None = "abc123", **wishes: Any) -> None:
        self._loop = asyncio.get_running_loop()
        self.cloud = cloud or RunPodCloud(now=self.now())
        self.lost: Callable[[str, str], str] = lambda method, path: ""
        self.checks: Callable[[str, str, Answer], None] = check
        self.alarms: list[tuple[str, str]] = []
        self.heard: list[News] = []
        self.notes = Notes()
        self.looks: Callable[[Endpoint, str], Sight | None] = lambda endpoint, path: None
        """Overrides what is seen at an upstream."""
        self.wishes = Wishes(pod or Spec.of(SPEC), PREFIX, key="worker-key-0123456789", models=(), **wishes)
        self.nowhere = Endpoint("")
        self.provider = self.opened()

    def opened(self) -> RunPodPod:
        """The provider, as after a restart."""
        return RunPodPod(
            self.wishes,
            transport=straight(
                self.cloud,
                self.now,
                lose=lambda method, path: self.lost(method, path),
                checked=lambda method, path, answer: self.checks(method, path, answer),
            ),
            look=self._look,
            now=self.now,
            environment=lambda name: {"API_KEY": "worker-key-0123456789", "WAKEGATE_RENTAL": name},
            alarm=lambda kind, text: self.alarms.append((kind, text)),
        )

    def now(self) -> float:
        return WALL + self._loop.time()

    async def _look(self, endpoint: Endpoint, path: str, within: float) -> Sight:
        seen = self.looks(endpoint, path)
        if seen is not None:
            return seen
        answer = self.cloud.upstream(endpoint.url, path, endpoint.key, self.now())
        if answer is None:
            return Sight(0, trouble="refused")
        html = is_html(answer.headers.get("content-type", ""), answer.body)
        return Sight(answer.status, parse(answer.body), html)

    async def start(self, run: int = 1) -> Instance:
        return await self.provider.start(Intent("main", run), self.notes)

    def watch(self, instance: Instance) -> "asyncio.Task[None]":
        async def collect() -> None:
            async for news in self.provider.watch(instance):
                self.heard.append(news)

        return self._loop.create_task(collect())

    async def until_ready(self, instance: Instance) -> Instance:
        """With the endpoint that Ready told, as the conductor has it."""
        watch = self.watch(instance)
        while not any(isinstance(news, Ready) for news in self.heard):
            assert not watch.done(), self.heard
            await asyncio.sleep(0.1)
        watch.cancel()
        with suppress(asyncio.CancelledError):
            await watch
        ready = next(news for news in self.heard if isinstance(news, Ready))
        assert ready.endpoint is not None
        return replace(instance, endpoint=ready.endpoint)

    async def gone(self, instance: Instance, within: float = 3600.0) -> Gone:
        async with asyncio.timeout(within):
            await self.watch(instance)
        last = self.heard[-1]
        assert isinstance(last, Gone)
        return last

    def asked(self, what: str, path: str = "") -> list[float]:
        """Loop times of the calls with this method whose path has this in it."""
        return [at - WALL for at, method, asked in self.cloud.calls if method == what and path in asked]

    async def close(self) -> None:
        await self.provider.close()
