"""What holds whatever happens, in simulated time: callers come and leave, everything fails that can, and it ends."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

from gateway.conductor import Conductor
from gateway.policy.lifecycle.states import State
from gateway.providers.base import Asleep, Instance, Intent, Journal, Loading, ProviderError
from tests.support.played import BREAK, Played, Stage, stage
from tests.support.simulated import run, until

OUTCOMES = {
    "answered",
    "sent back",
    "left",
    "queue_full",
    "queue_timeout",
    "start_failed",
    "start_timeout",
    "draining",
}
SECONDS = st.sampled_from([0.0, 0.001, 1.0, 2.0, 5.0, 20.0]) | st.floats(0, 40)


@dataclass(frozen=True)
class Visitor:
    comes: float
    takes: float
    patience: float | None
    leaves: float | None
    """Seconds after coming; None: it stays to the end."""


VISITORS = st.builds(
    Visitor, comes=st.floats(0, 200), takes=SECONDS, patience=st.none() | SECONDS, leaves=st.none() | SECONDS
)
STARTS = st.sampled_from(["good", "slow", "fails", "for good", "leaves some", "odd", "hangs", "hangs with some"])
STOPS = st.sampled_from(["good", "fails", "odd", "hangs", "gone first"])
ORDERS = st.sampled_from(["good", "fails", "hangs", "odd"])
MISHAPS = st.sampled_from(["crash", "break", "asleep", "loading"])
HOW = st.fixed_dictionaries(
    {
        "slots": st.integers(1, 3),
        "queue": st.sampled_from([2, 1000]),
        "queue_timeout": st.sampled_from([3.0, 300.0]),
        "stop_within": st.sampled_from([0.5, 10.0]),
        "idle_timeout": st.sampled_from([0.0, 5.0, 60.0]),
        "idle_action": st.sampled_from(["stop", "sleep"]),
        "start_timeout": st.sampled_from([2.0, 30.0]),
        "start_max": st.sampled_from([3.0, 100.0]),
        "drain_timeout": st.sampled_from([0.0, 1.0, 25.0]),
        "quick_crashes": st.sampled_from([1, 3]),
    }
)


class Wild(Played):
    """What goes wrong with it is on a list; when the list is over, it is good."""

    def heal(self) -> None:
        for deeds in (self.next_start, self.next_stop, self.next_rest, self.next_wake):
            deeds.clear()

    async def start_good(self, intent: Intent, journal: Journal) -> Instance:
        await asyncio.sleep(0.5)
        return self.create(intent, 1.0)

    async def start_slow(self, intent: Intent, journal: Journal) -> Instance:
        await asyncio.sleep(5)
        return self.create(intent, 50.0)

    async def start_fails(self, intent: Intent, journal: Journal) -> Instance:
        await asyncio.sleep(1)
        raise ProviderError("It failed.")

    async def start_for_good(self, intent: Intent, journal: Journal) -> Instance:
        raise ProviderError("It always fails.", lasting=True)

    async def start_leaves_some(self, intent: Intent, journal: Journal) -> Instance:
        raise ProviderError("It failed half-way.", instance=self.create(intent))

    async def start_odd(self, intent: Intent, journal: Journal) -> Instance:
        raise ZeroDivisionError

    async def start_hangs(self, intent: Intent, journal: Journal) -> Instance:
        raise await forever()

    async def start_hangs_with_some(self, intent: Intent, journal: Journal) -> Instance:
        instance = self.create(intent, 1.0)
        try:
            raise await forever()
        except asyncio.CancelledError:
            raise ProviderError("Cancelled.", instance=instance) from None

    async def stop_good(self, instance: Instance) -> None:
        await asyncio.sleep(1)
        self.end(instance.id)

    async def stop_fails(self, instance: Instance) -> None:
        await asyncio.sleep(1)
        raise ProviderError("It is still there.")

    async def stop_odd(self, instance: Instance) -> None:
        raise ZeroDivisionError

    async def stop_hangs(self, instance: Instance) -> None:
        raise await forever()

    async def stop_gone_first(self, instance: Instance) -> None:
        self.end(instance.id)
        await asyncio.sleep(3)

    async def rest_good(self, instance: Instance) -> None:
        self.feeds[instance.id].tell(Asleep())

    async def wake_good(self, instance: Instance) -> None:
        self.feeds[instance.id].tell(self.ready)

    async def order_fails(self, instance: Instance) -> None:
        raise ProviderError("It cannot.")

    async def order_odd(self, instance: Instance) -> None:
        raise ZeroDivisionError

    async def order_hangs(self, instance: Instance) -> None:
        raise await forever()

    rest_fails = wake_fails = order_fails
    rest_odd = wake_odd = order_odd
    rest_hangs = wake_hangs = order_hangs

    def befall(self, mishap: str) -> None:
        """Something happens to what exists, if anything does."""
        if mishap == "crash":
            self.crash()
        elif self.alive and mishap == "break":
            self.may_cut = True
            self.tell(BREAK)
        elif self.alive and mishap == "asleep":
            self.may_cut = True  # somebody else put it to sleep, under its callers
            self.tell(Asleep())
        elif self.alive:
            self.tell(Loading("loading", asyncio.get_running_loop().time() % 1))


async def forever() -> Exception:
    await asyncio.get_running_loop().create_future()
    raise AssertionError("unreachable")


def wild(starts: list[str], stops: list[str], rests: list[str], wakes: list[str]) -> Wild:
    provider = Wild(ready_after=1.0)

    def deeds(what: str, kinds: list[str]) -> list[Callable[..., Any]]:
        return [getattr(provider, f"{what}_{kind.replace(' ', '_')}") for kind in kinds]

    provider.next_start.extend(deeds("start", starts))
    provider.next_stop.extend(deeds("stop", stops))
    provider.next_rest.extend(deeds("rest", rests))
    provider.next_wake.extend(deeds("wake", wakes))
    return provider


def watch_over(slots: int) -> Callable[[Conductor], None]:
    """Looks on at each change. What it raises is logged by the conductor, so it keeps it for later."""

    def look(conductor: Conductor) -> None:
        snapshot = conductor.snapshot()
        provider = conductor.provider
        assert isinstance(provider, Wild)
        if snapshot.in_flight > slots:
            provider.wrongs.append(f"{snapshot.in_flight} in flight on {slots} slots")
        if snapshot.state is State.STOPPED and snapshot.instance is not None:
            provider.wrongs.append(f"stopped, and there is {snapshot.instance}")
        if snapshot.state is State.READY and snapshot.instance is None:
            provider.wrongs.append("ready, and there is nothing")

    return look


async def invite(on: Stage, visitors: list[Visitor]) -> None:
    """Each comes at its time."""
    loop = asyncio.get_running_loop()
    for number, visitor in enumerate(visitors):

        def arrive(name: str = f"r{number}", visitor: Visitor = visitor) -> None:
            task = on.come(name, takes=visitor.takes, patience=visitor.patience)
            if visitor.leaves is not None:
                timer = loop.call_later(visitor.leaves, task.cancel)
                task.add_done_callback(lambda _: timer.cancel())

        loop.call_later(visitor.comes, arrive)
    await asyncio.sleep(200)


def ends(callers: list["asyncio.Task[str]"]) -> list[str]:
    return ["left" if caller.cancelled() else caller.result() for caller in callers]


PLANS = given(
    how=HOW,
    visitors=st.lists(VISITORS, max_size=10),
    starts=st.lists(STARTS, max_size=5),
    stops=st.lists(STOPS, max_size=4),
    rests=st.lists(ORDERS, max_size=2),
    wakes=st.lists(ORDERS, max_size=2),
    mishaps=st.lists(st.tuples(st.floats(0, 200), MISHAPS), max_size=4),
)
QUICK = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@QUICK
@PLANS
def test_everybody_is_told_something_and_in_the_end_it_serves_or_rests(
    how: dict[str, Any],
    visitors: list[Visitor],
    starts: list[str],
    stops: list[str],
    rests: list[str],
    wakes: list[str],
    mishaps: list[tuple[float, str]],
) -> None:
    """At most one instance; every caller ends in exactly one way; no slot is lost; idle ends in stopped or asleep;
    and after any burst of faults the next caller is answered."""

    async def story() -> None:
        provider = wild(starts, stops, rests, wakes)
        async with stage(provider, on_change=watch_over(how["slots"]), circuit_max=100.0, **how) as on:
            for moment, mishap in mishaps:
                asyncio.get_running_loop().call_later(moment, provider.befall, mishap)
            await invite(on, visitors)
            await until(lambda: all(caller.done() for caller in on.callers), step=10)
            assert set(ends(on.callers)) <= OUTCOMES, ends(on.callers)
            assert (on.in_flight, on.waiting) == (0, 0)
            await asyncio.sleep(3000)
            note(f"{ends(on.callers)} {provider.calls} {on.conductor!r}")
            assert on.state in (State.STOPPED, State.ASLEEP, State.FAILED)
            assert not provider.alive or on.state is State.ASLEEP
            provider.heal()
            assert await on.come("the last") == "answered"

    run(story())


@QUICK
@PLANS
def test_a_drain_ends_in_its_time_whatever_happens(
    how: dict[str, Any],
    visitors: list[Visitor],
    starts: list[str],
    stops: list[str],
    rests: list[str],
    wakes: list[str],
    mishaps: list[tuple[float, str]],
) -> None:
    async def story() -> None:
        provider = wild(starts, stops, rests, wakes)
        loop = asyncio.get_running_loop()
        async with stage(provider, on_change=watch_over(how["slots"]), **how) as on:
            for moment, mishap in mishaps:
                loop.call_later(moment, provider.befall, mishap)
            inviting = loop.create_task(invite(on, visitors))
            await asyncio.sleep(100)
            began, starts_before = loop.time(), provider.called("start")
            provider.may_cut = True
            await on.conductor.drain()
            assert loop.time() - began <= how["drain_timeout"] + 0.002
            await inviting
            await asyncio.sleep(100)
            assert set(ends(on.callers)) <= OUTCOMES, ends(on.callers)
            assert provider.called("start") == starts_before, "a start in a drain"
            assert (on.in_flight, on.waiting) == (0, 0)

    run(story())
