"""A controller as the gateway builds one: the real treasury, conductor, lifecycle, line and provider.

Only what leads out of it is the world's: the way to the vendor, looks at the upstream, the ledger's disk, the clocks.

`Parts` says what it is built of. A planted fault (`planted.py`) is a house with one part exchanged.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from gateway.conductor import Conductor, Limits
from gateway.policy.admission import Admission
from gateway.policy.admission import Limits as AdmissionLimits
from gateway.policy.books import Books
from gateway.policy.budget import Terms
from gateway.policy.lifecycle.machine import Lifecycle, LifecycleSettings
from gateway.providers.base import Endpoint, Renter
from gateway.providers.probe import Sight
from gateway.records.ledger.base import Ledger
from gateway.treasury import Clocks, Treasury
from tests.simulation.loop import Process
from tests.simulation.world import World

PREFIX = "wakegate-sim-"
DRAIN = 25.0
LEAVES_WITHIN = 60.0
"""Seconds from SIGTERM until the process ends, come what may: DRAIN_TIMEOUT, and 30 s for the vendor's word."""


Look = Callable[[Endpoint, str, float], Awaitable[Sight]]


@dataclass(frozen=True)
class Parts:
    """What a house is built of."""

    provider: Callable[[World, Process, Look], Renter]
    treasury: type[Treasury] = Treasury
    conductor: type[Conductor] = Conductor
    lifecycle: type[Lifecycle] = Lifecycle
    terms: type[Terms] = Terms


class Built:
    """One controller."""

    def __init__(self, parts: Parts, world: World, process: Process) -> None:
        setup = world.setup
        loop = asyncio.get_running_loop()

        async def look(endpoint: Endpoint, path: str, within: float) -> Sight:
            process.check()
            await asyncio.sleep(0.05)
            process.check()
            return world.vendor.look(endpoint, path)

        async def ledger() -> Ledger:
            return world.ledger(process)

        self.provider = parts.provider(world, process, look)
        self.treasury = parts.treasury(
            ledger,
            self.provider,
            parts.terms(setup.budget, grace=round(setup.grace * 1000), start_max=round(setup.start_max * 1000)),
            prefix=PREFIX,
            clocks=Clocks(world.wall, loop.time),
            max_runtime=setup.max_runtime,
            alarm=lambda event, text, about: world.story.tell("alarm", f"{event}: {text}"),
            say=lambda text, level: world.story.tell("says", text),
        )
        self.conductor = parts.conductor(
            "default",
            self.provider,
            parts.lifecycle(
                LifecycleSettings(
                    idle_timeout=setup.idle_timeout,
                    start_timeout=setup.start_timeout,
                    start_max=setup.start_max,
                    drain_timeout=DRAIN,
                ),
                now=loop.time(),
            ),
            Admission(AdmissionLimits(concurrency=setup.slots)),
            limits=Limits(stop_within=30.0, drain_reserve=5.0),
            journal=self.treasury,
            gate=self.treasury.gate,
            on_change=lambda conductor: world.story.tell("conductor", conductor.state.value),
        )
        self.treasury.attach(self.conductor)
        self._ended = asyncio.Event()

    async def open(self) -> None:
        self.treasury.begin()
        await self._ended.wait()

    async def leave(self, *, leave: bool) -> None:
        try:
            async with asyncio.timeout(LEAVES_WITHIN):
                await self.conductor.drain(leave=leave)
                await self.conductor.close()
                await self.treasury.close()
        except TimeoutError:
            pass

    def now(self) -> int:
        return self.treasury.at

    @property
    def ready(self) -> bool:
        return not self.treasury.trouble

    @property
    def books(self) -> Books:
        return self.treasury.books


def house(parts: Parts) -> Callable[[World, Process], Built]:
    return lambda world, process: Built(parts, world, process)
