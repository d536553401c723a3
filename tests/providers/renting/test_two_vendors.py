"""A gateway that rents at RunPod and at Vast: the real conductor, treasury and providers, both vendors emulated.

Simulated time. Whatever happens, the GPU is never rented twice at once, and never for nobody.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any

from gateway.conductor import Conductor, Limits, Ticket
from gateway.errors import Refused
from gateway.policy.admission import Admission
from gateway.policy.admission import Limits as AdmissionLimits
from gateway.policy.budget import Terms
from gateway.policy.lifecycle.machine import Lifecycle, LifecycleSettings
from gateway.policy.lifecycle.states import State
from gateway.providers.base import Endpoint
from gateway.providers.probe import Sight
from gateway.providers.renting.several import Several
from gateway.providers.vast.provider import VastProvider
from gateway.records.ledger.memory import MemoryLedger
from gateway.treasury import Clocks, Treasury
from tests.emulators.vast import VastCloud
from tests.support.renting import PodHouse
from tests.support.simulated import in_simulated_time, until

IDLE = 600.0
DOLLAR = 1_000_000


class Both:
    """One gateway and two vendors."""

    def __init__(self, **vast: Any) -> None:
        loop = asyncio.get_running_loop()
        self.house = PodHouse()
        self.pods = self.house.cloud
        self.pods.put_pod("abc123")
        self.vast = VastCloud(now=self.house.now(), **vast)
        self.alarms: list[tuple[str, str]] = []
        self.said: list[str] = []
        self.twice = 0
        self.ledger = MemoryLedger()

        async def opened() -> MemoryLedger:
            return self.ledger

        self.provider = Several(
            [
                self.house.provider,
                VastProvider(
                    str(self.vast.id),
                    transport=self.vast.transport(self.house.now),
                    look=self._look,
                    now=self.house.now,
                    key="upstream-key",
                    plain_http=True,
                    public_only=False,
                    alarm=lambda kind, text: self.alarms.append((kind, text)),
                ),
            ]
        )
        self.treasury = Treasury(
            opened,
            self.provider,
            Terms(20 * DOLLAR, 60_000, 1_800_000),
            prefix="wakegate-t-",
            clocks=Clocks(self.house.now, loop.time),
            max_runtime=43_200.0,
            alarm=lambda event, text, about: self.alarms.append((event, text)),
            say=lambda text, level: self.said.append(text),
        )
        self.conductor = Conductor(
            "default",
            self.provider,
            Lifecycle(LifecycleSettings(idle_timeout=IDLE), now=loop.time()),
            Admission(AdmissionLimits(concurrency=4)),
            limits=Limits(stop_within=30.0, drain_reserve=5.0),
            journal=self.treasury,
            gate=self.treasury.gate,
        )
        self.treasury.attach(self.conductor)
        self.treasury.begin()
        self._eyes = loop.create_task(self._see())

    async def _look(self, endpoint: Endpoint, path: str, within: float) -> Sight:
        cloud = self.vast
        cloud.handle("GET", "/", {}, None, self.house.now())
        if not cloud.running or cloud.actual != "running" or endpoint.url != f"http://{cloud.host}:{cloud.port}":
            await asyncio.sleep(min(within, 1.0))
            return Sight(0, trouble="refused")
        return Sight(200, {"data": [{"id": "m"}]} if path.endswith("/models") else {})

    async def _see(self) -> None:
        """The truth, ten times a second: who has the GPU."""
        while True:
            self.twice += len(self.running) > 1
            await asyncio.sleep(0.1)

    @property
    def running(self) -> list[str]:
        now = self.house.now()
        self.pods.advance(now)
        self.vast.handle("GET", "/", {}, None, now)
        return ["runpod-pod"] * len(self.pods.running()) + ["vast"] * self.vast.running

    def spent(self) -> int:
        """What it has truly cost."""
        now = self.house.now()
        return self.pods.spent(now) + self.vast.spent(now)

    def come(self, name: str, takes: float = 1.0) -> "asyncio.Task[str]":
        """A request; who answered it, or the code of its refusal. One whose connection breaks before a byte came asks
        what became of the instance, as the proxy does, and comes again."""

        async def call() -> str:
            ticket = self.conductor.admit(name, size=1)
            if not isinstance(ticket, Ticket):
                return ticket.code
            with ticket:
                try:
                    instance = await ticket.wait(None)
                except Refused as refused:
                    return refused.refusal.code
                assert instance is not None
                assert instance.endpoint.url
                ends = asyncio.get_running_loop().time() + takes
                while asyncio.get_running_loop().time() < ends:
                    if instance.provider not in self.running:
                        await self.conductor.is_taken(ticket, 30.0)
                        break
                    await asyncio.sleep(0.5)
                else:
                    return instance.provider
            return await self.come(f"{name}'", takes)

        return asyncio.get_running_loop().create_task(call())

    async def close(self) -> None:
        await self.conductor.drain()
        await self.conductor.close()
        await self.treasury.close()
        self._eyes.cancel()
        await asyncio.wait({self._eyes})


@contextlib.asynccontextmanager
async def both(**vast: Any) -> AsyncIterator[Both]:
    """At the end: nothing runs, it never ran twice at once, and the ledger has no less than it cost."""
    story = Both(**vast)
    try:
        yield story
    finally:
        await story.close()
        assert story.running == []
        assert story.twice == 0
        assert story.treasury.standing().spent >= story.spent()


@in_simulated_time
async def test_the_cheaper_of_two_is_rented_and_given_back() -> None:
    async with both() as story:
        assert await story.come("r") == "vast"  # $0.35 against $0.39
        await asyncio.sleep(IDLE + 60)
        assert (story.conductor.state, story.running) == (State.STOPPED, [])
    async with both(dollars=Decimal("0.50")) as story:
        assert await story.come("r") == "runpod-pod"


@in_simulated_time
async def test_what_one_vendor_has_none_of_the_other_gives() -> None:
    async with both(full=True) as story:
        assert await story.come("r") == "runpod-pod"
        assert [entry.provider for entry in story.ledger.lines if entry.kind == "intended"] == ["vast", "runpod-pod"]
        story.vast.full = False
        await asyncio.sleep(120)
        assert story.running == ["runpod-pod"]  # the queue at Vast was left


@in_simulated_time
async def test_where_both_have_none_the_caller_hears_of_no_capacity_and_nothing_is_left() -> None:
    async with both(full=True) as story:
        story.pods.full.add("abc123")
        assert await story.come("r") == "no_capacity"
        story.vast.full = False
        story.pods.full.clear()
        await asyncio.sleep(300)
        assert story.running == []


@in_simulated_time
async def test_callers_who_heard_nothing_yet_are_answered_by_the_other_vendor_when_one_takes_back() -> None:
    async with both() as story:
        assert await story.come("a") == "vast"
        waits = story.come("b", takes=30.0)
        await asyncio.sleep(5)
        story.vast.take_away()
        assert await waits == "runpod-pod"
        assert story.vast.intended == "stopped"  # it does not come back by itself beside the other


@in_simulated_time
async def test_nothing_is_started_elsewhere_while_nobody_can_say_what_runs_at_a_vendor() -> None:
    async with both() as story:
        assert await story.come("a") == "vast"
        story.vast.unreachable = True
        story.vast.unplug()  # no answer from the machine, and none from the vendor
        waits = story.come("b", takes=1.0)
        await asyncio.sleep(900)
        assert story.pods.running() == []
        story.vast.unreachable = False
        await asyncio.sleep(300)
        assert not story.vast.running
        waits.cancel()
        await asyncio.wait({waits})
        assert await story.come("c") in ("runpod-pod", "vast")


@in_simulated_time
async def test_a_vendor_that_is_down_from_the_first_keeps_callers_until_it_can_be_asked() -> None:
    async with both() as story:
        story.vast.unreachable = True
        waits = story.come("a")
        await asyncio.sleep(60)
        assert story.running == []
        story.vast.unreachable = False
        await until(waits.done, within=1800)
        await story.come("b")
