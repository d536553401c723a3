"""The way to the vendor, and what goes wrong on it.

A request that was sent is sent: it is heard also when its sender stops to listen, is cancelled or dies (`_carry` is
nobody's task but the world's). What is lost, late or wrong is drawn from the troubles that are on at that moment.
"""

import asyncio
import contextvars
import random
from collections.abc import Callable
from dataclasses import dataclass

from gateway.providers.renting.vendor import Answer, Unanswered
from tests.simulation.loop import Process
from tests.simulation.scenario import Trouble
from tests.simulation.vendors import Vendor

USUAL = (0.05, 0.4)
"""Seconds of a call there and back."""
STALE = 45.0
"""A vendor's list is at most so old when it is; less than the minute that every part allows for (FAULTS.md 55)."""

TROUBLES = {
    "slow": "answers take two to nine seconds",
    "very slow": "answers take ten to thirty seconds",
    "answer lost": "it is heard, and nobody hears the answer",
    "unsent": "it does not get there, and that is known",
    "limited": "429, with Retry-After",
    "limited silently": "429, without",
    "failing": "500, and nothing was done",
    "failing after all": "500, and it was done all the same",
    "html": "502 with a page",
    "cut": "half of the answer's text",
    "stale": "a GET says what was so up to 45 s ago",
    "locked out": "401",
}


@dataclass
class _On:
    trouble: Trouble
    until: float
    dice: random.Random


class Network:
    """All ways to one vendor."""

    def __init__(self, vendor: Vendor, seed: int, tell: Callable[[str], None]) -> None:
        self._vendor = vendor
        self._dice = random.Random(f"network {seed}")
        self._seed = seed
        self._tell = tell
        self._on: list[_On] = []
        self._world = contextvars.copy_context()
        self._under_way: set[asyncio.Task[None]] = set()
        self._old: dict[str, tuple[float, Answer]] = {}
        """Of each thing that was ever asked for: what was so before the last change, and when that was."""
        self._asked: dict[str, None] = {}
        self.on_phase: Callable[[str, str, str, bytes | None], None] = lambda phase, method, path, body: None
        """Told "call" before a request leaves, "heard" when the vendor has done it, "answered" before its sender
        hears of it."""
        self.calls = 0

    def begin(self, trouble: Trouble) -> None:
        now = asyncio.get_running_loop().time()
        dice = random.Random(f"trouble {self._seed} {trouble.number}")
        self._on.append(_On(trouble, now + trouble.lasts, dice))

    def in_trouble(self, now: float, since: float = 0.0) -> bool:
        return any(on.until > now - since for on in self._on)

    def heal(self) -> None:
        self._on.clear()

    def way(self, process: Process) -> "Way":
        return Way(self, process)

    def _meets(self) -> str:
        now = asyncio.get_running_loop().time()
        for on in self._on:
            if now < on.until and on.dice.random() < on.trouble.share:
                return on.trouble.kind
        return ""

    async def call(self, process: Process, method: str, path: str, body: bytes | None, within: float) -> Answer:
        process.check()
        self.on_phase("call", method, path, body)
        process.check()
        self.calls += 1
        loop = asyncio.get_running_loop()
        kind = self._meets()
        there, back = self._delays(kind)
        if kind == "unsent":
            await asyncio.sleep(min(there, within))
            process.check()
            raise Unanswered("the connection was refused", may_have_happened=False)
        answer: asyncio.Future[Answer] = loop.create_future()
        work = self._carry(kind, method, path, body, there, back, answer)
        carrier = loop.create_task(work, context=self._world.copy())
        self._under_way.add(carrier)
        carrier.add_done_callback(self._under_way.discard)
        try:
            async with asyncio.timeout(within):
                result = await answer
        except TimeoutError:
            process.check()
            self._tell(f"{method} {path}: no answer within {within:g} s")
            raise Unanswered("no answer in time", may_have_happened=True) from None
        finally:
            answer.cancel()
        process.check()
        self.on_phase("answered", method, path, body)
        process.check()
        return result

    def _delays(self, kind: str) -> tuple[float, float]:
        low, high = {"slow": (2.0, 9.0), "very slow": (10.0, 30.0)}.get(kind, USUAL)
        whole = self._dice.uniform(low, high)
        there = whole * self._dice.random()
        return there, whole - there

    async def _carry(
        self,
        kind: str,
        method: str,
        path: str,
        body: bytes | None,
        there: float,
        back: float,
        answer: "asyncio.Future[Answer]",
    ) -> None:
        await asyncio.sleep(there)
        result = self._heard(kind, method, path, body)
        self.on_phase("heard", method, path, body)
        await asyncio.sleep(back)
        if kind != "answer lost" and not answer.done():
            answer.set_result(result)

    def _heard(self, kind: str, method: str, path: str, body: bytes | None) -> Answer:
        match kind:
            case "limited":
                return Answer(429, {"Retry-After": "7", "Content-Type": "text/plain"}, b"slow down")
            case "limited silently":
                return Answer(429, {}, b"")
            case "failing":
                return Answer(
                    500, {"Content-Type": "application/json"}, b'{"title":"Internal Server Error","status":500}'
                )
            case "html":
                return Answer(502, {"Content-Type": "text/html"}, b"<html><h1>502 Bad Gateway</h1></html>")
            case "locked out":
                return Answer(401, {}, b'{"title":"Unauthorized","status":401,"detail":"invalid api key"}')
        now = asyncio.get_running_loop().time()
        if method == "GET":
            self._asked[path] = None
            if kind == "stale" and path in self._old and now - self._old[path][0] < STALE:
                self._tell(f"GET {path} says what was so {now - self._old[path][0]:.0f} s ago")
                return self._old[path][1]
        else:
            for asked in self._asked:
                self._old[asked] = now, self._vendor.handle("GET", asked, None)
        result = self._vendor.handle(method, path, body)
        if kind == "failing after all":
            return Answer(500, {}, b"")
        if kind == "cut":
            return Answer(result.status, result.headers, result.body[: len(result.body) // 2])
        return result

    async def close(self) -> None:
        for task in tuple(self._under_way):
            task.cancel()
        await asyncio.gather(*self._under_way, return_exceptions=True)


class Way:
    """One process's."""

    def __init__(self, network: Network, process: Process) -> None:
        self._network = network
        self._process = process

    async def __call__(self, method: str, path: str, body: bytes | None, within: float) -> Answer:
        return await self._network.call(self._process, method, path, body, within)

    async def close(self) -> None:
        """Nothing is held."""
