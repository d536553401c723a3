"""A machine that stops itself: in simulated time, against a vendor in a few lines."""

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator

import pytest

from gateway.policy.lease import Lease
from gateway.providers.own_machine.vendors import RUNPOD, OwnMachine
from gateway.providers.own_machine.watchdog import BELIEVED, Use, Watchdog, lent
from gateway.providers.renting.vendor import Answer, Transport, Unanswered
from tests.support.simulated import BEGIN, in_simulated_time

AFTER = 1800.0
WALL = 1_795_000_000


class House:
    """One machine, its vendor's API, and what was said."""

    def __init__(self, *, key: str = "pod-scoped", after: float = AFTER) -> None:
        self.answers: list[Answer | Unanswered] = []
        """To stops, in order; then 200."""
        self.looks: list[Answer | Unanswered] = []
        self.asked: list[tuple[float, str]] = []
        self.said: list[str] = []
        self._loop = asyncio.get_running_loop()
        machine = OwnMachine(RUNPOD, "pod1", "https://api.runpod.example/v2", key)
        self.dog = Watchdog(
            machine,
            after=after,
            open_transport=lambda: lent(self._transport),
            say=lambda line, level: self.said.append(f"{level}: {line}"),
            clock=self._loop.time,
            wall=lambda: WALL + self.time,
        )

    @property
    def time(self) -> float:
        return self._loop.time() - BEGIN

    async def _transport(self, method: str, path: str, body: bytes | None, within: float) -> Answer:
        self.asked.append((self.time, f"{method} {path}"))
        waiting = self.looks if method == "GET" else self.answers
        answer = waiting.pop(0) if waiting else Answer(200, {}, b"{}")
        if isinstance(answer, Unanswered):
            raise answer
        return answer

    @property
    def stops(self) -> list[float]:
        """When it was asked to be stopped, in whole seconds."""
        return [round(at) for at, what in self.asked if what == "POST /pods/pod1/action"]

    def lease(self, counter: int, seconds: int = 300) -> str:
        return self.dog.take(Lease("pod1", counter, seconds, WALL + int(self.time) + seconds))

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator["House"]:
        task = asyncio.create_task(self.dog.run())
        try:
            yield self
        finally:
            self.dog.close()
            await task


@in_simulated_time
async def test_past_the_lease_it_stops_itself_whatever_the_traffic() -> None:
    async with House().running() as house:
        house.lease(1)
        for _ in range(320):
            house.dog.saw(Use(in_flight=3))
            await asyncio.sleep(1)
        assert house.stops == [300]
    assert any("controller has been silent" in line for line in house.said)


@in_simulated_time
async def test_while_leases_come_it_goes_on_without_any_use() -> None:
    async with House().running() as house:
        for counter in range(1, 500):
            assert house.lease(counter) == ""
            await asyncio.sleep(30)
        assert house.stops == []
        await asyncio.sleep(300)
        assert len(house.stops) == 1


@in_simulated_time
async def test_a_lease_that_ends_sooner_is_kept_at_once() -> None:
    async with House().running() as house:
        house.lease(1, seconds=3000)
        await asyncio.sleep(100)
        house.lease(2, seconds=10)
        await asyncio.sleep(15)
        assert house.stops == [110]


@in_simulated_time
async def test_without_a_lease_it_stops_after_so_long_without_a_request() -> None:
    async with House().running() as house:
        await asyncio.sleep(100)
        house.dog.saw(Use(used_at=BEGIN + 90))
        await asyncio.sleep(AFTER + 10)
        assert house.stops == [90 + AFTER]


@in_simulated_time
async def test_what_hangs_and_says_nothing_is_not_in_use() -> None:
    """The gateway's loop stands still since it had one in flight: nobody is answered any more."""
    async with House().running() as house:
        house.dog.saw(Use(in_flight=1))
        await asyncio.sleep(AFTER + BELIEVED + 10)
        assert house.stops == [AFTER]


@in_simulated_time
async def test_a_stop_that_is_refused_is_tried_again_and_told() -> None:
    house = House()
    house.answers = [Answer(500), Unanswered("timeout", may_have_happened=True), Answer(401), Answer(401)]
    async with house.running():
        house.lease(1)
        await asyncio.sleep(360)
        assert house.stops == [300, 305, 315, 335]
        assert house.dog.report().self_stop == "tried to stop itself 4 times, key: 401"
        assert house.dog.facts().failure == "key: 401"
        await asyncio.sleep(60)
        assert len(house.stops) == 5 and house.dog.facts().failure == ""
    assert any(line.startswith("error: ") and "costs money" in line for line in house.said)


@in_simulated_time
async def test_whoever_still_runs_after_a_stop_that_was_agreed_to_asks_again() -> None:
    async with House().running() as house:
        house.lease(1, seconds=10)
        await asyncio.sleep(300)
        assert house.stops == [10, 130, 250]


@in_simulated_time
async def test_a_controller_that_comes_back_ends_the_tries() -> None:
    house = House()
    house.answers = [Answer(403)] * 100
    async with house.running():
        house.lease(1, seconds=10)
        await asyncio.sleep(30)
        tried = len(house.stops)
        assert tried and house.lease(2) == ""
        await asyncio.sleep(200)
        assert len(house.stops) == tried and house.dog.report().self_stop == "armed"


@pytest.mark.parametrize(
    ("looks", "said"),
    [
        ([Answer(200, {}, b'{"id": "pod1"}')], "key works"),
        ([Answer(200, {}, b'{"id": "pod1", "locked": true}')], "key works, but the pod is locked"),
        ([Answer(403, {}, b"{}")], "key refused: 403"),
        ([Unanswered("timeout", may_have_happened=False)], "key not tried yet: timeout"),
    ],
)
@in_simulated_time
async def test_the_key_is_tried_at_first_and_what_came_of_it_is_told(
    looks: list[Answer | Unanswered], said: str
) -> None:
    house = House()
    house.looks = looks
    async with house.running():
        await asyncio.sleep(1)
        assert house.asked == [(0, "GET /pods/pod1")]
        assert house.dog.report().key == said and any(said in line for line in house.said)


@in_simulated_time
async def test_a_key_that_could_not_be_tried_is_tried_again_with_growing_pauses() -> None:
    house = House()
    house.looks = [Unanswered("timeout", may_have_happened=False)] * 3
    async with house.running():
        await asyncio.sleep(1000)
        looked = [round(at) for at, what in house.asked if what.startswith("GET")]
        assert looked == [0, 30, 90, 210]
        assert house.dog.facts().key_works is True


@in_simulated_time
async def test_without_a_key_it_says_so_and_asks_nobody() -> None:
    house = House(key="")
    async with house.running():
        house.lease(1, seconds=10)
        await asyncio.sleep(20)
        assert house.asked == []
        report = house.dog.report()
    assert report.key.startswith("no key: RUNPOD_API_KEY") and report.self_stop.startswith("tried to stop itself")


@in_simulated_time
async def test_an_answer_to_a_lease_says_how_it_is() -> None:
    async with House().running() as house:
        house.dog.saw(Use(in_flight=2, waiting=1))
        assert house.lease(7) == ""
        await asyncio.sleep(100)
        refused = house.lease(7)
        report = house.dog.report(refused)
        assert (report.counter, report.seconds_left, report.in_flight, report.waiting) == (7, 200, 2, 1)
        assert (report.self_stop, report.key) == ("armed", "key works") and report.refused.startswith("old")


async def test_after_a_fault_of_its_own_it_begins_again() -> None:
    """Nobody else would stop this machine."""
    tries: list[str] = []
    said: list[str] = []
    again = threading.Event()

    async def nobody(method: str, path: str, body: bytes | None, within: float) -> Answer:
        raise Unanswered("nobody there", may_have_happened=False)

    def opened() -> contextlib.AbstractAsyncContextManager[Transport]:
        tries.append("opened")
        if len(tries) == 1:
            raise ValueError("no certificates to trust")
        again.set()
        return lent(nobody)

    machine = OwnMachine(RUNPOD, "pod1", "https://api.runpod.example/v2", "pod-scoped")
    dog = Watchdog(
        machine, after=AFTER, open_transport=opened, say=lambda line, level: said.append(line), after_a_fault=0.0
    )
    dog.start()
    try:
        assert again.wait(30)
        assert any("no certificates to trust" in line for line in said)
    finally:
        ended(dog)


async def test_it_has_a_thread_and_a_loop_of_its_own_and_both_end() -> None:
    """The gateway's loop is blocked here for as long as it takes, as by an engine's bindings that hang."""
    stopped = threading.Event()

    async def transport(method: str, path: str, body: bytes | None, within: float) -> Answer:
        if method == "POST":
            stopped.set()
        return Answer(200, {}, b"{}")

    def opened() -> contextlib.AbstractAsyncContextManager[Transport]:
        return lent(transport)

    machine = OwnMachine(RUNPOD, "pod1", "https://api.runpod.example/v2", "pod-scoped")
    dog = Watchdog(machine, after=0.05, open_transport=opened)
    dog.start()
    try:
        assert stopped.wait(30)
    finally:
        ended(dog)


def ended(dog: Watchdog) -> None:
    """Closed, and its thread is over."""
    dog.close()
    for thread in threading.enumerate():
        if thread.name == "dead-man":
            thread.join(30)
            assert not thread.is_alive()


@in_simulated_time
async def test_one_that_is_never_to_stop_for_want_of_use_still_obeys_a_lease() -> None:
    async with House(after=float("inf")).running() as house:
        await asyncio.sleep(86_400)
        assert house.stops == [] and house.dog.facts().stops_in is None
        assert house.dog.report().seconds_left == 0
        house.lease(1)
        await asyncio.sleep(310)
        assert house.stops == [86_700]
