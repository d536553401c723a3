"""Both ends of the lease together, in simulated time: what happens to the machine when something dies."""

import asyncio
from collections.abc import Callable

from gateway.policy.lease import Lease, is_signed, key_from, signature
from gateway.providers.base import Endpoint
from gateway.providers.own_machine.vendors import RUNPOD, OwnMachine
from gateway.providers.own_machine.watchdog import Watchdog, lent
from gateway.providers.renting.leases import Lessor, Posted
from gateway.providers.renting.vendor import Answer
from tests.support.simulated import BEGIN, in_simulated_time

KEY = "the-key-of-the-worker"
HERE = Endpoint("https://pod1.example", key=KEY)
WALL = 1_795_000_000


class Machine:
    """A rented one, with the worker in it, its vendor, and a network to it that can be cut."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.stopped: list[float] = []
        self.is_cut = False
        self.dog = self._worker()
        self._life = asyncio.create_task(self.dog.run())

    def _worker(self) -> Watchdog:
        machine = OwnMachine(RUNPOD, "pod1", "https://api.runpod.example/v2", "pod-scoped")
        return Watchdog(
            machine,
            after=1800,
            open_transport=lambda: lent(self._vendor),
            clock=self._loop.time,
            wall=lambda: WALL + self.time,
        )

    @property
    def time(self) -> float:
        return self._loop.time() - BEGIN

    async def _vendor(self, method: str, path: str, body: bytes | None, within: float) -> Answer:
        if method == "POST":
            self.stopped.append(round(self.time))
        return Answer(200, {}, b"{}")

    async def post(self, endpoint: Endpoint, said: bytes, signed: str, within: float) -> Posted:
        if self.is_cut:
            await asyncio.sleep(within)
            return Posted(0, trouble="timeout")
        assert is_signed(key_from(KEY), said, signed)
        report = self.dog.report(self.dog.take(Lease.read(said))).spell()
        return Posted(200, report, signature(key_from(KEY), report, of=signed))

    def controller(self, ends_in: Callable[[str], float | None] = lambda instance: None) -> "Controller":
        return Controller(self, Lessor(self.post, wall=lambda: WALL + self.time, ends_in=ends_in))

    async def end(self) -> None:
        self.dog.close()
        await self._life


class Controller:
    """Sends leases until it is killed."""

    def __init__(self, machine: Machine, lessor: Lessor) -> None:
        self.lessor = lessor
        self._keeping = asyncio.create_task(lessor.keep(lambda: ("pod1", HERE)))

    async def killed(self) -> None:
        self._keeping.cancel()
        await asyncio.wait({self._keeping})


@in_simulated_time
async def test_a_controller_that_is_killed_costs_five_minutes_at_most() -> None:
    machine = Machine()
    controller = machine.controller()
    await asyncio.sleep(3600)
    await controller.killed()
    await asyncio.sleep(400)
    assert machine.stopped[0] <= 3600 + 300
    await machine.end()


@in_simulated_time
async def test_a_successor_within_that_time_finds_the_machine_as_it_was() -> None:
    machine = Machine()
    for _ in range(5):
        controller = machine.controller()
        await asyncio.sleep(600)
        await controller.killed()
        await asyncio.sleep(240)
    assert machine.stopped == []
    await machine.end()


@in_simulated_time
async def test_whoever_leaves_gives_a_successor_a_quarter_of_an_hour() -> None:
    machine = Machine()
    controller = machine.controller()
    await asyncio.sleep(100)
    await controller.killed()
    await controller.lessor.leave(lambda: ("pod1", HERE))
    await asyncio.sleep(890)
    assert machine.stopped == []
    await asyncio.sleep(20)
    assert machine.stopped == [1000]
    await machine.end()


@in_simulated_time
async def test_a_network_that_fails_for_a_moment_costs_nothing_and_one_that_stays_so_ends_it() -> None:
    machine = Machine()
    controller = machine.controller()
    for _ in range(4):
        machine.is_cut = True
        await asyncio.sleep(250)
        machine.is_cut = False
        await asyncio.sleep(60)
    assert machine.stopped == []
    machine.is_cut = True
    await asyncio.sleep(310)
    assert len(machine.stopped) == 1
    await controller.killed()
    await machine.end()


@in_simulated_time
async def test_the_machine_ends_with_the_money_also_where_nobody_can_tell_it_any_more() -> None:
    """The controller is cut off with the budget nearly spent: the last lease did not go beyond it."""
    machine = Machine()
    controller = machine.controller(ends_in=lambda instance: 1000 - machine.time)
    await asyncio.sleep(900)
    machine.is_cut = True
    await asyncio.sleep(200)
    assert machine.stopped and machine.stopped[0] <= 1000
    await controller.killed()
    await machine.end()
