"""The conductor with a provider whose every answer the test decides, in time that costs none."""

import asyncio
import itertools
import logging
import sys
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import uvloop
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gateway import conductor as conducting
from gateway.conductor import Conductor, Limits, NoJournal
from gateway.policy.admission import Admission
from gateway.policy.admission import Limits as AdmissionLimits
from gateway.policy.estimate import Past
from gateway.policy.lifecycle.machine import Lifecycle, LifecycleSettings, TurnedAway
from gateway.policy.lifecycle.states import State
from gateway.providers.base import Asleep, Gone, Instance, Intent, Journal, Loading, News, ProviderError, Ready, Rental
from tests.support.played import BREAK, Played, Stage, call, refusal_of, stage, ticket_of
from tests.support.simulated import BEGIN, CoarseLoop, SimulatedLoop, in_simulated_time, run, until


async def never(*_: object) -> Any:
    """A call that does not come back."""
    await asyncio.get_running_loop().create_future()


def raises(error: Exception) -> Any:
    async def deed(*_: object) -> None:
        raise error

    return deed


async def ready_stage(on: Stage) -> None:
    on.conductor.wake()
    await until(lambda: on.state is State.READY)


# --- verdicts


@in_simulated_time
async def test_whoever_comes_while_it_serves_is_let_in_at_once() -> None:
    async with stage() as on:
        await ready_stage(on)
        with ticket_of(on.conductor.admit("r", size=1)) as ticket:
            assert ticket.instance is not None and ticket.instance.id == "i1"
            assert await ticket.wait(0) is ticket.instance


@in_simulated_time
async def test_whoever_comes_before_waits_and_may_look_after_other_things_meanwhile() -> None:
    async with stage(Played(ready_after=5)) as on:
        with ticket_of(on.conductor.admit("r", size=1)) as ticket:
            assert await ticket.wait(0) is None
            assert await ticket.wait(4.9) is None
            instance = await ticket.wait(None)
            assert instance is not None and instance.id == "i1"


@in_simulated_time
async def test_a_full_line_is_said_at_once() -> None:
    async with stage(slots=1, queue=1) as on:
        await ready_stage(on)
        with ticket_of(on.conductor.admit("a", size=1)), ticket_of(on.conductor.admit("b", size=1)):
            refusal = refusal_of(on.conductor.admit("c", size=1))
            assert (refusal.code, refusal.status) == ("queue_full", 429)


@in_simulated_time
async def test_a_given_up_upstream_refuses_at_once_and_says_when_to_come_back() -> None:
    async with stage(circuit_first=60) as on:
        on.provider.next_start.append(raises(ProviderError("The model is not there.", lasting=True)))
        assert await on.come("first") == "start_failed"
        await asyncio.sleep(10)
        refusal = refusal_of(on.conductor.admit("second", size=1))
        assert (refusal.code, refusal.message) == ("start_failed", "The model is not there.")
        assert refusal.retry_after == pytest.approx(50)
        assert on.provider.called("start") == 1


@in_simulated_time
async def test_the_line_moves_in_the_order_in_which_it_was_joined() -> None:
    async with stage(slots=1) as on:
        ends: list[str] = []
        for number in range(20):
            caller = on.come(f"r{number}")
            caller.add_done_callback(lambda task: ends.append(task.get_name()))
        await asyncio.gather(*on.callers)
        assert ends == [f"r{number}" for number in range(20)]


@in_simulated_time
async def test_a_request_for_several_answers_takes_so_many_slots() -> None:
    async with stage(slots=2) as on:
        await ready_stage(on)
        with ticket_of(on.conductor.admit("n=2", size=1, slots=2)) as both:
            other = ticket_of(on.conductor.admit("n=1", size=1))
            assert both.instance is not None and other.instance is None
        assert other.instance is not None
        on.conductor.give_back(other)


def steps_of(work: Callable[[], object]) -> int:
    """Lines of Python that it takes: what it walks through counts once for each of them."""
    steps = 0

    def look(frame: object, event: str, _: object) -> Any:
        nonlocal steps
        steps += event == "line"
        return look

    before = sys.gettrace()
    sys.settrace(look)
    try:
        work()
    finally:
        sys.settrace(before)
    return steps


@pytest.mark.parametrize("slots", [1000, 1], ids=["in flight", "in line"])
def test_a_request_takes_as_many_steps_beside_many_others_as_beside_two(slots: int) -> None:
    """Nothing is walked through for each request: neither those in flight, nor the line."""

    async def story() -> None:
        async with stage(slots=slots) as on:
            await ready_stage(on)
            here = [ticket_of(on.conductor.admit(f"early {number}", size=1)) for number in range(3)]

            def one_comes_and_one_goes() -> None:
                here.append(ticket_of(on.conductor.admit(f"{len(here)}", size=1)))
                on.conductor.give_back(here.pop(0))

            def one_leaves_at_once() -> None:
                on.conductor.give_back(ticket_of(on.conductor.admit("short", size=1)))

            few = steps_of(one_comes_and_one_goes), steps_of(one_leaves_at_once)
            here += [ticket_of(on.conductor.admit(f"other {number}", size=1)) for number in range(500)]
            assert (steps_of(one_comes_and_one_goes), steps_of(one_leaves_at_once)) == few
            for ticket in here:
                on.conductor.give_back(ticket)

    run(story())


@in_simulated_time
async def test_requests_of_a_ready_upstream_set_no_timer_each() -> None:
    """The one that stands rings once in an idle time, and is set again for what is left of it."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, SimulatedLoop)
    async with stage(idle_timeout=60) as on:
        await ready_stage(on)
        before = loop.timers
        for number in range(1000):
            with ticket_of(on.conductor.admit(f"r{number}", size=1)):
                pass
        assert loop.timers == before
        came = loop.time()
        await until(lambda: on.state is not State.READY)
        assert loop.time() - came == pytest.approx(60, abs=0.02)


@in_simulated_time
async def test_requests_of_a_ready_upstream_are_no_change_to_tell_of() -> None:
    told: list[tuple[State, Loading | None]] = []

    def hear(conductor: Conductor) -> None:
        snapshot = conductor.snapshot()
        told.append((snapshot.state, snapshot.loading))

    async with stage(Played(ready_after=None), slots=1, on_change=hear) as on:
        callers = on.come_many(3)
        await asyncio.sleep(1)
        for ratio in (0.5, 0.5, 0.9):
            on.provider.tell(Loading("loading", ratio))
            await asyncio.sleep(1)
        on.provider.tell(Ready())
        await asyncio.gather(*callers)
        loading = [(State.STARTING, Loading("loading", ratio)) for ratio in (0.5, 0.9)]
        assert told == [(State.STARTING, None), *loading, (State.READY, None)]


@in_simulated_time
async def test_a_ticket_says_where_it_stands() -> None:
    async with stage(slots=1, queue_timeout=10) as on:
        await ready_stage(on)
        first, second = (ticket_of(on.conductor.admit(name, size=1)) for name in "ab")
        assert (repr(first), repr(second)) == ("<Ticket a in flight>", "<Ticket b in line>")
        await asyncio.sleep(11)
        assert repr(second) == "<Ticket b turned away>"
        on.conductor.give_back(first)
        on.conductor.give_back(second)


# --- giving back


@in_simulated_time
async def test_a_ticket_that_is_given_back_twice_frees_one_slot() -> None:
    async with stage(slots=1) as on:
        await ready_stage(on)
        first = ticket_of(on.conductor.admit("a", size=1))
        second, third = ticket_of(on.conductor.admit("b", size=1)), ticket_of(on.conductor.admit("c", size=1))
        on.conductor.give_back(first)
        on.conductor.give_back(first)
        assert second.instance is not None and third.instance is None
        assert (on.in_flight, on.waiting) == (1, 1)
        on.conductor.give_back(second)
        on.conductor.give_back(third)


@in_simulated_time
async def test_a_ticket_that_was_refused_and_comes_back_frees_nothing() -> None:
    async with stage(slots=1, queue_timeout=10) as on:
        await ready_stage(on)
        first, second = ticket_of(on.conductor.admit("a", size=1)), ticket_of(on.conductor.admit("b", size=1))
        await asyncio.sleep(11)
        assert (on.in_flight, on.waiting) == (1, 0)
        on.conductor.give_back(second)
        assert on.in_flight == 1
        on.conductor.give_back(first)
        assert on.in_flight == 0


@pytest.mark.parametrize("steps", range(12))
def test_a_caller_may_leave_at_each_of_its_steps(steps: int) -> None:
    """Cancelled after so many turns of the loop, wherever it stands then: nothing of it is left."""

    async def story() -> None:
        async with stage(Played(start_takes=0, ready_after=0), slots=1) as on:
            task = on.come("leaver", takes=0)
            for _ in range(steps):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait({task})
            assert (on.in_flight, on.waiting) == (0, 0)
            assert await on.come("next") == "answered"

    run(story())


MOMENTS = st.sampled_from([0.0, 1.0, 2.0, 5.0, 5.5, 6.0, 7.0, 9.0]) | st.floats(0, 12)


@settings(max_examples=150, deadline=None)
@given(
    leavers=st.lists(st.tuples(MOMENTS, MOMENTS, st.floats(0, 3)), min_size=1, max_size=8),
    slots=st.integers(1, 3),
)
@example(leavers=[(0.0, 7.0, 1.0)], slots=1)
def test_whoever_leaves_at_any_moment_gives_back_slot_and_place(
    leavers: list[tuple[float, float, float]], slots: int
) -> None:
    """Also in the very moment in which the start returns (2), it is ready (7), or somebody before them ends."""

    async def story() -> None:
        async with stage(Played(start_takes=2, ready_after=5), slots=slots) as on:
            loop = asyncio.get_running_loop()
            for number, (comes, leaves, takes) in enumerate(leavers):

                def arrive(name: str = f"r{number}", leaves: float = leaves, takes: float = takes) -> None:
                    loop.call_later(leaves, on.come(name, takes=takes).cancel)

                loop.call_later(comes, arrive)
            await asyncio.sleep(30)
            assert all(task.done() for task in on.callers)
            assert (on.in_flight, on.waiting) == (0, 0)
            assert await asyncio.gather(*[on.come(f"after{n}") for n in range(slots)]) == ["answered"] * slots

    run(story())


@in_simulated_time
async def test_when_the_last_who_waits_leaves_a_start_goes_on_until_it_is_idle() -> None:
    async with stage(Played(ready_after=5), idle_timeout=60) as on:
        on.come("only").cancel()
        leaver = on.come("leaver")
        await asyncio.sleep(1)
        leaver.cancel()
        await until(lambda: on.state is State.READY)
        await until(lambda: on.state is State.STOPPED)
        assert asyncio.get_running_loop().time() == pytest.approx(BEGIN + 5 + 60 + 1, abs=0.1)


# --- starts


@in_simulated_time
async def test_any_number_of_early_callers_make_one_start() -> None:
    async with stage(Played(start_takes=3, ready_after=40), slots=1000) as on:
        early = on.come_many(500)
        await asyncio.sleep(20)
        late = [on.come(f"late{number}") for number in range(500)]
        assert set(await asyncio.gather(*early, *late)) == {"answered"}
        assert on.provider.called("start") == 1


@in_simulated_time
async def test_the_reason_of_a_failed_start_reaches_everybody_who_waits() -> None:
    async with stage() as on:
        on.provider.next_start.append(raises(ProviderError("No GPU of that kind is free.", lasting=True)))
        assert set(await asyncio.gather(*on.come_many(50))) == {"start_failed"}
        assert (on.in_flight, on.waiting) == (0, 0)
        assert on.conductor.snapshot().reason == "No GPU of that kind is free."


@in_simulated_time
async def test_a_failed_start_is_tried_again_for_those_who_wait() -> None:
    async with stage(retry_first=1) as on:
        on.provider.next_start.append(raises(ProviderError("Busy.")))
        assert await on.come("r") == "answered"
        assert on.provider.called("start") == 2 and on.provider.called("stop") == 0


@in_simulated_time
async def test_what_a_failed_start_left_is_stopped_before_the_next() -> None:
    async with stage() as on:

        async def creates_and_fails(intent: Intent, journal: Journal) -> Instance:
            raise ProviderError("Created, and never answered.", instance=on.provider.create(intent))

        on.provider.next_start.append(creates_and_fails)
        assert await on.come("r") == "answered"
        assert [what for _, what in on.provider.calls] == ["start 1", "stop i1", "start 2"]


@in_simulated_time
async def test_a_start_that_cannot_be_written_down_starts_nothing() -> None:
    class FullDisk(NoJournal):
        async def intend(self, rental: Rental) -> None:
            raise OSError(28, "No space left on device", "/data/secret/state.sqlite")

    async with stage(journal=FullDisk(), quick_crashes=1) as on:

        async def writes_first(intent: Intent, journal: Journal) -> Instance:
            await journal.intend(Rental("r", "played", intent.upstream, intent.run))
            raise AssertionError("unreachable")

        on.provider.next_start.append(writes_first)
        assert await on.come("r") == "start_failed"
        snapshot = on.conductor.snapshot()
        assert not on.provider.alive and "/data/secret" not in snapshot.reason
        assert "No space left" in snapshot.detail


@in_simulated_time
async def test_a_start_that_fails_in_a_way_that_nobody_thought_of_holds_nobody_for_ever(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with stage(quick_crashes=1) as on:
        on.provider.next_start.append(raises(KeyError("status")))
        assert await on.come("r") == "start_failed"
        snapshot = on.conductor.snapshot()
        assert snapshot.reason == conducting.FAULT and snapshot.detail == "KeyError('status')"
    assert caplog.records[0].exc_info is not None


@in_simulated_time
async def test_a_start_without_progress_is_stopped_and_told() -> None:
    async with stage(Played(ready_after=None), start_timeout=100) as on:
        caller = on.come("r")
        await asyncio.sleep(60)
        on.provider.tell(Loading("loading", 0.5))
        await asyncio.sleep(60)
        on.provider.tell(Loading("loading", 0.5))  # no progress: it says what it said before
        assert on.state is State.STARTING
        assert await caller == "start_timeout"
        assert asyncio.get_running_loop().time() == BEGIN + 160
        await until(lambda: on.state is State.STOPPED)
        assert not on.provider.alive


# --- a stop while the start call is out


@in_simulated_time
async def test_a_start_call_that_is_out_is_waited_for_so_that_what_it_makes_is_stopped() -> None:
    async with stage(Played(start_takes=8), start_timeout=5, stop_within=10) as on:
        assert await on.come("r") == "start_timeout"
        await until(lambda: on.state is State.STOPPED)
        assert [what for _, what in on.provider.calls] == ["start 1", "stop i1"]
        assert not on.provider.alive


@in_simulated_time
async def test_a_start_call_that_hangs_is_cancelled_and_the_next_may_be_made() -> None:
    async with stage(Played(ready_after=3), start_timeout=5, stop_within=10) as on:
        on.provider.next_start.append(never)
        assert await on.come("r") == "start_timeout"
        assert await on.come("next") == "answered"
        assert asyncio.get_running_loop().time() == pytest.approx(BEGIN + 5 + 10 + 3 + 1)


@in_simulated_time
async def test_a_cancelled_start_call_that_made_something_has_it_stopped() -> None:
    async with stage(start_timeout=5, stop_within=10) as on:

        async def makes_and_hangs(intent: Intent, journal: Journal) -> Instance:
            instance = on.provider.create(intent)
            try:
                await never()
            except asyncio.CancelledError:
                raise ProviderError("Cancelled in the middle.", instance=instance) from None
            raise AssertionError("unreachable")

        on.provider.next_start.append(makes_and_hangs)
        assert await on.come("r") == "start_timeout"
        await until(lambda: on.state is State.STOPPED)
        assert [what for _, what in on.provider.calls] == ["start 1", "stop i1"] and not on.provider.alive


@in_simulated_time
async def test_while_a_start_call_is_deaf_no_second_start_is_made() -> None:
    """Not even cancelled does it come back: the stop is not confirmed, and callers wait."""
    async with stage(Played(ready_after=3), start_timeout=5, stop_within=10) as on:
        released = asyncio.Event()

        async def deaf(intent: Intent, journal: Journal) -> Instance:
            while not released.is_set():
                try:
                    await released.wait()
                except asyncio.CancelledError:
                    pass  # deaf
            return on.provider.create(intent)

        on.provider.next_start.append(deaf)
        assert await on.come("r") == "start_timeout"
        caller = on.come("next")
        await asyncio.sleep(200)
        assert on.state is State.STOPPING and on.provider.called("start") == 1
        released.set()
        assert await caller == "answered"
        assert [what for _, what in on.provider.calls] == ["start 1", "stop i1", "start 2"]


# --- stops


@in_simulated_time
async def test_an_idle_upstream_is_stopped_and_the_next_request_wakes_it() -> None:
    async with stage(idle_timeout=60) as on:
        assert await on.come("a", takes=100) == "answered"
        ended = asyncio.get_running_loop().time()
        await until(lambda: on.state is State.STOPPED)
        stopped = on.provider.calls[-1]
        assert stopped == (pytest.approx(ended + 60), "stop i1")
        assert await on.come("b") == "answered"
        assert on.provider.called("start") == 2


@in_simulated_time
async def test_a_stop_that_fails_is_ordered_again_and_whoever_comes_waits_for_it() -> None:
    async with stage(idle_timeout=60, stop_retry=2) as on:
        on.provider.next_stop += [raises(ProviderError("Still there.")), raises(ConnectionResetError())]
        await ready_stage(on)
        await until(lambda: on.state is State.STOPPING)
        assert await on.come("r") == "answered"
        times = [moment for moment, what in on.provider.calls if what == "stop i1"]
        assert [later - earlier for earlier, later in itertools.pairwise(times)] == pytest.approx([2, 4])
        assert on.provider.called("start") == 2


@in_simulated_time
async def test_a_stop_that_never_answers_is_ordered_again() -> None:
    async with stage(idle_timeout=60, stop_within=10) as on:
        on.provider.next_stop.append(never)
        await ready_stage(on)
        await until(lambda: on.state is State.STOPPED)
        times = [moment for moment, what in on.provider.calls if what == "stop i1"]
        assert times[1] - times[0] == pytest.approx(10 + conducting.STOP_MARGIN + 2)


@in_simulated_time
async def test_a_request_between_the_idle_decision_and_the_stop_is_served_by_the_next_instance() -> None:
    async with stage(idle_timeout=60) as on:
        await ready_stage(on)
        await until(lambda: on.state is State.STOPPING, step=0.5)
        assert await on.come("r") == "answered"
        assert on.provider.called("start") == 2


@in_simulated_time
async def test_a_stop_that_confirms_late_does_not_touch_what_was_started_since() -> None:
    """The news said that it is gone before the stop call came back, and somebody waited already."""
    async with stage(idle_timeout=60) as on:

        async def slow_to_say(instance: Instance) -> None:
            on.provider.end(instance.id)
            await asyncio.sleep(20)

        on.provider.next_stop.append(slow_to_say)
        await ready_stage(on)
        await until(lambda: on.provider.called("stop"))
        assert await on.come("r", takes=30) == "answered"
        assert on.state is State.READY and list(on.provider.alive) == ["i2"]


@in_simulated_time
async def test_it_may_die_in_the_moment_in_which_its_stop_is_ordered() -> None:
    async with stage(idle_timeout=60) as on:
        await ready_stage(on)
        asyncio.get_running_loop().call_at(BEGIN + 65, on.provider.crash)
        asyncio.get_running_loop().call_at(BEGIN + 65, on.come, "r")
        await until(lambda: on.callers and on.callers[0].done())
        assert on.callers[0].result() == "answered" and list(on.provider.alive) == ["i2"]


# --- news


@in_simulated_time
async def test_news_that_break_off_leave_nobody_waiting_for_ever(caplog: pytest.LogCaptureFixture) -> None:
    """What is left of it is stopped, and another is started for those who wait."""
    async with stage() as on:
        caller = on.come("r")
        await asyncio.sleep(1)
        on.provider.tell(BREAK)
        assert await caller == "answered"
        assert [what for _, what in on.provider.calls] == ["start 1", "stop i1", "start 2"]
        assert on.conductor.snapshot().reason == conducting.UNWATCHED
    assert caplog.records[0].exc_info is not None


@in_simulated_time
async def test_news_that_end_without_an_end_are_like_news_that_break_off() -> None:
    class Forgetful(Played):
        async def watch(self, instance: Instance) -> AsyncIterator[News]:
            if instance.id == "i1":
                yield Ready()
                return
            async for news in super().watch(instance):
                yield news

    async with stage(Forgetful(), slots=1) as on:
        on.provider.may_cut = True
        first, second = on.come_many(2, takes=100)
        await asyncio.sleep(1)
        first.cancel()
        assert await second == "answered"
        assert [what for _, what in on.provider.calls] == ["start 1", "stop i1", "start 2"]


@in_simulated_time
async def test_news_of_an_earlier_instance_change_nothing() -> None:
    async with stage(slots=1) as on:
        await ready_stage(on)
        old = on.conductor._run
        on.provider.crash("The first crash.", detail="of the first")
        assert await on.come("r") == "answered"
        for late in (
            Loading("loading", 0.9),
            Ready(("old",), 50),
            Asleep(),
            Gone("Late.", lasting=True, detail="late"),
        ):
            on.conductor._hear(old, late)
        snapshot = on.conductor.snapshot()
        assert (snapshot.state, snapshot.loading, snapshot.detail) == (State.READY, None, "of the first")
        assert on.conductor.models == ("served",)


@in_simulated_time
async def test_a_second_wake_shows_its_own_progress_not_that_of_the_last() -> None:
    async with stage(Played(ready_after=None), idle_action="sleep", idle_timeout=60) as on:
        on.provider.next_wake.append(raises_nothing)
        caller = on.come("a")
        await asyncio.sleep(1)
        on.provider.tell(Loading("loading", 0.9))
        await asyncio.sleep(1)
        assert on.conductor.snapshot().loading == Loading("loading", 0.9)
        on.provider.tell(Ready())
        await caller
        await until(lambda: on.state is State.ASLEEP)
        assert on.conductor.snapshot().loading is None
        on.come("b")
        await asyncio.sleep(1)
        assert (on.state, on.conductor.snapshot().loading) == (State.STARTING, None)


async def raises_nothing(*_: object) -> None:
    """Obeyed; what follows from it is told by the test."""


@pytest.mark.parametrize(("adopt", "expected"), [(True, 4), (False, 1)])
def test_what_the_engine_says_of_its_slots_counts_unless_the_operator_said_another_number(
    adopt: bool, expected: int
) -> None:
    async def story() -> None:
        async with stage(slots=1, adopt=adopt) as on:
            on.provider.ready = Ready(("served",), concurrency=4)
            on.come_many(10, takes=100)
            await until(lambda: on.state is State.READY)
            assert (on.in_flight, on.waiting) == (expected, 10 - expected)

    run(story())


@in_simulated_time
async def test_a_crash_is_heard_by_those_in_flight_only_and_those_in_line_are_served_by_the_next() -> None:
    async with stage(slots=1) as on:
        first = on.come("first", takes=50)
        second = on.come("second")
        await until(lambda: on.in_flight == 1)
        on.provider.crash(detail="CUDA error: out of memory")
        await asyncio.sleep(0.5)
        assert on.state is State.STARTING and on.conductor.snapshot().detail == "CUDA error: out of memory"
        first.cancel()  # its connection broke
        assert await second == "answered"
        assert on.provider.called("start") == 2


# --- rest and wake


@in_simulated_time
async def test_an_idle_upstream_rests_and_is_woken() -> None:
    async with stage(idle_action="sleep") as on:
        assert await on.come("a") == "answered"
        await until(lambda: on.state is State.ASLEEP)
        assert await on.come("b") == "answered"
        assert [what for _, what in on.provider.calls] == ["start 1", "rest i1", "wake i1"]


@pytest.mark.parametrize("order", ["rest", "wake"])
@pytest.mark.parametrize("error", [ProviderError("It cannot."), NotImplementedError()])
def test_what_can_neither_rest_nor_wake_is_stopped(order: str, error: Exception) -> None:
    async def story() -> None:
        async with stage(idle_action="sleep", rest_timeout=30, start_timeout=100) as on:
            getattr(on.provider, f"next_{order}").append(raises(error))
            assert await on.come("a") == "answered"
            await asyncio.sleep(90)
            assert await on.come("b") == "answered"
            assert on.provider.called("stop i1") == 1 and on.provider.called("start") == 2

    run(story())


@in_simulated_time
async def test_a_rest_that_hangs_is_a_stop_in_the_end() -> None:
    async with stage(idle_action="sleep", rest_timeout=30) as on:
        on.provider.next_rest.append(never)
        await ready_stage(on)
        await until(lambda: on.state is State.STOPPED)
        assert [what for _, what in on.provider.calls] == ["start 1", "rest i1", "stop i1"]
        assert not on.conductor._tasks


@in_simulated_time
async def test_a_wake_that_hangs_is_a_start_that_took_too_long() -> None:
    async with stage(idle_action="sleep", start_timeout=100) as on:
        on.provider.next_wake.append(never)
        await ready_stage(on)
        await until(lambda: on.state is State.ASLEEP)
        assert await on.come("r") == "start_timeout"
        assert await on.come("next") == "answered"
        assert on.provider.called("start") == 2


# --- the line's own clock


@in_simulated_time
async def test_nobody_waits_in_line_for_longer_than_queue_timeout() -> None:
    async with stage(slots=1, queue_timeout=30) as on:
        long = on.come("long", takes=100)
        await until(lambda: on.in_flight == 1)
        began = asyncio.get_running_loop().time()
        assert await on.come("waits") == "queue_timeout"
        assert asyncio.get_running_loop().time() == pytest.approx(began + 30)
        assert await long == "answered"


@in_simulated_time
async def test_the_time_of_a_start_is_no_time_in_line() -> None:
    async with stage(Played(ready_after=200), slots=1, queue_timeout=30) as on:
        assert await asyncio.gather(*on.come_many(3)) == ["answered"] * 3


# --- one timer


def test_a_clock_of_whole_milliseconds_makes_no_timer_go_round() -> None:
    """uvloop rounds: a deadline that is not a whole millisecond rings up to half a one early."""
    timers = []

    async def story() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, SimulatedLoop)
        async with stage(Played(ready_after=1.0001), idle_timeout=60.0004, start_timeout=600.0003) as on:
            assert await on.come("r", takes=0.0003) == "answered"
            timers.append(loop.timers)
            await asyncio.sleep(59)
            assert on.state is State.READY
            await asyncio.sleep(5)
            timers.append(loop.timers)
            assert on.state is State.STOPPED

    run(story(), CoarseLoop)
    assert timers[1] - timers[0] <= 8, "two sleeps, the idle time, the stop and its limit"


def test_on_uvloop_a_deadline_of_less_than_a_millisecond_is_kept_like_any_other() -> None:
    """There a timer of no time is a Handle that knows no `when` (uvloop 0.22)."""

    async def story() -> None:
        rings = 0
        loop = asyncio.get_running_loop()
        provider = Played(ready_after=0, stop_takes=0)
        conductor = Conductor(
            "default",
            provider,
            Lifecycle(LifecycleSettings(idle_timeout=0.0004), now=loop.time()),
            Admission(AdmissionLimits(concurrency=1)),
            limits=Limits(stop_within=1, drain_reserve=1),
        )
        ring = conductor._time_passed

        def counted() -> None:
            nonlocal rings
            rings += 1
            ring()

        conductor._time_passed = counted  # type: ignore[method-assign]
        for number in range(10):
            assert await call(conductor, f"r{number}", takes=0.0) == "answered"
            async with asyncio.timeout(5):
                while conductor.snapshot().state is not State.STOPPED:
                    await asyncio.sleep(0.001)
        assert rings <= 30
        await conductor.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(story())


@in_simulated_time
async def test_an_idle_gateway_sets_no_timer_at_all() -> None:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, SimulatedLoop)
    async with stage() as on:
        assert await on.come("r") == "answered"
        await until(lambda: on.state is State.STOPPED)
        before = loop.timers
        await asyncio.sleep(24 * 3600)
        assert loop.timers == before + 1, "the sleep's own"


@in_simulated_time
async def test_a_week_of_office_hours_costs_office_hours() -> None:
    """Somebody asks every five minutes from nine to five, five days long; one evening the engine crashes for nobody."""
    hour, day = 3600.0, 24 * 3600.0
    loop = asyncio.get_running_loop()
    async with stage(Played(start_takes=2, ready_after=40), idle_timeout=900) as on:
        for weekday in range(5):
            for moment in range(int(9 * hour), int(17 * hour), 300):
                loop.call_at(BEGIN + weekday * day + moment, on.come, f"{weekday}-{moment}")
        loop.call_at(BEGIN + day + 17 * hour, on.provider.crash)
        await asyncio.sleep(7 * day)
        assert {caller.result() for caller in on.callers} == {"answered"} and len(on.callers) == 5 * 96
        up = sum(moment if what.startswith("stop") else -moment for moment, what in on.provider.calls)
        assert on.state is State.STOPPED and on.provider.called("stop") == 5
        assert on.provider.called("start") == 6, "each morning, and after the crash, while it was still wanted"
        crash_to_restart = BEGIN + day + 17 * hour
        assert (up + crash_to_restart) / hour == pytest.approx(5 * (8 + 10 / 60), abs=0.1)


# --- drains


async def into(on: Stage, state: State) -> None:
    """Bring it there, by ordinary ways."""
    provider = on.provider
    match state:
        case State.STARTING:
            on.come("r")
            await asyncio.sleep(1)
        case State.READY:
            await ready_stage(on)
        case State.ASLEEP:
            await ready_stage(on)
            await until(lambda: on.state is State.ASLEEP)
        case State.STOPPING:
            provider.next_rest.append(never)
            await ready_stage(on)
            await until(lambda: on.state is State.STOPPING)
        case State.FAILED:
            provider.next_start.append(raises(ProviderError("No.", lasting=True)))
            await on.come("r")
    assert on.state is state


@pytest.mark.parametrize("state", [state for state in State if state is not State.DRAINING])
@pytest.mark.parametrize("hurried", [False, True])
def test_a_drain_ends_from_every_state_with_nothing_left(state: State, hurried: bool) -> None:
    async def story() -> None:
        async with stage(Played(start_takes=2), idle_action="sleep", drain_timeout=25) as on:
            await into(on, state)
            if hurried:
                asyncio.get_running_loop().call_later(0.1, on.conductor.hurry)
            await asyncio.wait_for(on.conductor.drain(), 10)
            await asyncio.sleep(1)  # a hurry that comes after the end changes nothing
            assert not on.provider.alive and (on.in_flight, on.waiting) == (0, 0)
            assert refusal_of(on.conductor.admit("late", size=1)).code == "draining"
            assert {caller.result() for caller in on.callers} <= {"draining", "start_failed"}

    run(story())


@in_simulated_time
async def test_in_a_drain_running_answers_finish_and_those_in_line_have_their_turn() -> None:
    async with stage(slots=1, drain_timeout=25) as on:
        await ready_stage(on)
        callers = on.come_many(3, takes=4)
        await asyncio.sleep(1)
        began = asyncio.get_running_loop().time()
        await on.conductor.drain()
        assert [caller.result() for caller in callers] == ["answered"] * 3
        assert asyncio.get_running_loop().time() - began == pytest.approx(11 + 1)
        assert not on.provider.alive


@in_simulated_time
async def test_when_a_drain_is_over_running_answers_are_cut_and_the_line_is_told() -> None:
    async with stage(slots=1, drain_timeout=25, drain_reserve=5) as on:
        await ready_stage(on)
        callers = on.come_many(3, takes=1000)
        await asyncio.sleep(1)
        began = asyncio.get_running_loop().time()
        await on.conductor.drain()
        assert [caller.result() for caller in callers] == ["draining"] * 3
        assert asyncio.get_running_loop().time() - began == pytest.approx(20 + 1)
        assert not on.provider.alive


@in_simulated_time
async def test_a_second_wish_to_end_cuts_now() -> None:
    async with stage(drain_timeout=25) as on:
        await ready_stage(on)
        caller = on.come("r", takes=1000)
        await asyncio.sleep(1)
        draining = asyncio.ensure_future(on.conductor.drain())
        await asyncio.sleep(2)
        on.conductor.hurry()
        assert await caller == "draining"
        await asyncio.wait_for(draining, 2)
        assert not on.provider.alive


@in_simulated_time
async def test_a_drain_ends_in_its_time_though_callers_are_deaf_and_the_stop_hangs() -> None:
    async with stage(drain_timeout=25, drain_reserve=5) as on:
        await ready_stage(on)
        deaf = ticket_of(on.conductor.admit("nobody carries it", size=1))
        on.provider.next_stop.append(never)
        began = asyncio.get_running_loop().time()
        await on.conductor.drain()
        assert asyncio.get_running_loop().time() - began == pytest.approx(25)
        on.conductor.give_back(deaf)


@in_simulated_time
async def test_a_crash_in_a_drain_refuses_the_line_and_ends_it() -> None:
    async with stage(slots=1) as on:
        await ready_stage(on)
        running, waiting = on.come_many(2, takes=10)
        await asyncio.sleep(1)
        draining = asyncio.ensure_future(on.conductor.drain())
        await asyncio.sleep(1)
        on.provider.crash()
        assert await waiting == "draining"
        running.cancel()
        await asyncio.wait_for(draining, 1)
        assert on.provider.called("start") == 1


# --- the end


@pytest.mark.parametrize("state", [state for state in State if state is not State.DRAINING])
def test_closed_in_any_state_it_leaves_no_task_and_no_timer(state: State) -> None:
    """`run` looks for them."""

    async def story() -> None:
        async with stage(Played(start_takes=2), idle_action="sleep") as on:
            await into(on, state)
        assert on.provider.closed

    run(story())


def test_what_a_cancelled_call_says_in_the_end_begins_nothing_new() -> None:
    """The start call, cancelled by the close, tells that something was made: its stop must not outlive the close."""

    async def story() -> None:
        async with stage() as on:

            async def makes_and_hangs(intent: Intent, journal: Journal) -> Instance:
                instance = on.provider.create(intent)
                try:
                    await never()
                finally:
                    raise ProviderError("Cancelled in the middle.", instance=instance)

            on.provider.next_start.append(makes_and_hangs)
            on.conductor.wake()
            await asyncio.sleep(1)

    run(story())


# --- who looks on


@in_simulated_time
async def test_each_change_is_told_and_whoever_fails_at_hearing_it_breaks_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    seen: list[State] = []

    def look(conductor: Conductor) -> None:
        seen.append(conductor.snapshot().state)
        raise BrokenPipeError("the console is gone")

    async with stage(on_change=look, idle_timeout=60) as on:
        assert await on.come("r") == "answered"
        await until(lambda: on.state is State.STOPPED)
    assert [state for state, _ in itertools.groupby(seen)] == [
        State.STARTING,
        State.READY,
        State.STOPPING,
        State.STOPPED,
    ]
    assert {record.levelno for record in caplog.records} == {logging.ERROR}


@in_simulated_time
async def test_the_snapshot_says_what_is_so() -> None:
    async with stage(Played(start_takes=1, ready_after=None), slots=2) as on:
        snapshot = on.conductor.snapshot()
        assert (snapshot.state, snapshot.starts, snapshot.instance, snapshot.ever_ready) == (
            State.STOPPED,
            0,
            None,
            False,
        )
        on.come_many(5, takes=10)
        await asyncio.sleep(2)
        on.provider.tell(Loading("downloading", 0.25, "1/4 GiB"))
        await asyncio.sleep(1)
        snapshot = on.conductor.snapshot()
        assert (snapshot.state, snapshot.since, snapshot.starts) == (State.STARTING, BEGIN, 1)
        assert (snapshot.in_flight, snapshot.waiting) == (0, 5)
        assert snapshot.loading == Loading("downloading", 0.25, "1/4 GiB") and snapshot.instance is not None
        on.provider.tell(Ready())
        await asyncio.sleep(1)
        snapshot = on.conductor.snapshot()
        assert (snapshot.state, snapshot.loading, snapshot.ever_ready) == (State.READY, None, True)
        assert (snapshot.in_flight, snapshot.waiting, snapshot.last_activity) == (2, 3, None)
        await asyncio.gather(*on.callers)
        snapshot = on.conductor.snapshot()
        assert (snapshot.in_flight, snapshot.waiting, snapshot.reason) == (0, 0, "")
        assert snapshot.last_activity == asyncio.get_running_loop().time()


@in_simulated_time
async def test_the_repr_says_where_it_stands() -> None:
    async with stage(slots=1) as on:
        on.come_many(2, takes=100)
        await until(lambda: on.state is State.READY)
        said = repr(on.conductor)
        assert "default" in said and "ready" in said and "1 in line" in said and "i1" in said
        ticket = ticket_of(on.conductor.admit("r", size=1))
        assert repr(ticket) == "<Ticket r in line>"
        on.conductor.give_back(ticket)


# --- how far a start is


@in_simulated_time
async def test_a_start_is_foretold_by_what_others_took() -> None:
    past = Past({"ordered": 0.0, "booting": 4.0, "loading": 16.0})
    async with stage(Played(ready_after=None), pasts=lambda kind: [past] if kind == "start" else []) as on:
        assert on.conductor.expected_wait() == 20.0, "stopped: what a start usually takes"
        assert on.conductor.snapshot().progress is None
        on.conductor.wake()
        await until(lambda: "i1" in on.provider.feeds)
        on.provider.feeds["i1"].tell(Loading("booting"))
        await asyncio.sleep(2)
        assert on.conductor.expected_wait() == pytest.approx(18.0)
        await asyncio.sleep(2)
        on.provider.feeds["i1"].tell(Loading("loading", done=1 << 29, total=1 << 30))
        await asyncio.sleep(0)
        progress = on.conductor.snapshot().progress
        assert progress is not None and progress.text() == "loading 60% 0.5/1.0 GiB, about 8 s"
        on.provider.feeds["i1"].tell(on.provider.ready)
        await until(lambda: on.state is State.READY)
        assert on.conductor.expected_wait() == 0.0
        assert on.conductor.snapshot().progress is None
        assert on.conductor.last_start is not None
        kind, learned = on.conductor.last_start
        assert kind == "start" and learned.phases == pytest.approx(
            {"ordered": 0.0, "booting": 4.0, "loading": 0.0}, abs=0.1
        )


@in_simulated_time
async def test_a_start_that_failed_is_no_progress_of_the_next() -> None:
    async with stage(Played(ready_after=None)) as on:
        on.come("r")
        await until(lambda: "i1" in on.provider.feeds)
        on.provider.feeds["i1"].tell(Loading("loading", 0.9))
        await asyncio.sleep(0)
        on.provider.end("i1", Gone("It crashed."))
        await asyncio.sleep(0.1)
        assert on.state is State.STARTING, "a pause before the next try"
        assert on.conductor.snapshot().progress is None
        assert on.conductor.expected_wait() is None
        await until(lambda: on.provider.called("start") == 2)
        progress = on.conductor.snapshot().progress
        assert progress is not None and progress.ratio is None
        assert on.conductor.last_start is None


@in_simulated_time
async def test_a_wake_is_judged_by_wakes() -> None:
    pasts = {"start": [Past({"loading": 60.0})], "wake": [Past({"ordered": 3.0})]}
    async with stage(
        Played(ready_after=5), pasts=lambda kind: pasts[kind], idle_timeout=60.0, idle_action="sleep"
    ) as on:
        await ready_stage(on)
        await until(lambda: on.state is State.ASLEEP)
        assert on.conductor.expected_wait() == 3.0


@in_simulated_time
async def test_what_is_known_of_the_engine_later_counts_from_then_on() -> None:
    """Which engine it is, is known once the model's files were looked at."""
    known: list[Past] = [Past({"booting": 1.0})]
    async with stage(Played(ready_after=None), pasts=lambda kind: tuple(known)) as on:
        on.conductor.wake()
        await until(lambda: "i1" in on.provider.feeds)
        known[:] = [Past({"booting": 100.0})]
        on.provider.feeds["i1"].tell(Loading("booting"))
        await asyncio.sleep(0)
        assert on.conductor.expected_wait() == pytest.approx(100.0)


# --- what is rented


@in_simulated_time
async def test_a_closed_gate_refuses_everybody_before_anything_is_started() -> None:
    spent = TurnedAway("insufficient_quota", "The month's budget is spent.", None)
    gates = [spent]
    async with stage(gate=lambda: gates[0] if gates else None) as on:
        refusal = refusal_of(on.conductor.admit("r", size=1))
        assert (refusal.code, refusal.status, refusal.retry) == ("insufficient_quota", 429, False)
        assert on.conductor.refusal() == refusal, "whoever asks without a request hears the same"
        assert on.provider.calls == []
        gates.clear()
        assert on.conductor.refusal() is None
        assert await on.come("r") == "answered"


@in_simulated_time
async def test_at_the_budgets_end_answers_have_their_grace_and_whoever_waits_is_told() -> None:
    async with stage(slots=1) as on:
        await ready_stage(on)
        short = on.come("short", takes=5)
        waits = on.come("waits")
        await asyncio.sleep(0.1)
        on.conductor.must_end(1, 60, "The month's budget is spent.", "insufficient_quota")
        assert await waits == "insufficient_quota"
        assert await short == "answered"
        await until(lambda: on.state is State.STOPPED)
        assert [what for _, what in on.provider.calls] == ["start 1", "stop i1"]


@in_simulated_time
async def test_an_answer_beyond_the_grace_is_cut_with_the_budgets_code() -> None:
    async with stage() as on:
        await ready_stage(on)
        long = on.come("long", takes=600)
        on.provider.may_cut = True
        await asyncio.sleep(0.1)
        on.conductor.must_end(1, 60, "The month's budget is spent.", "insufficient_quota")
        began = asyncio.get_running_loop().time()
        assert await long == "insufficient_quota"
        assert asyncio.get_running_loop().time() - began == pytest.approx(60)
        await until(lambda: on.state is State.STOPPED)
        assert on.provider.called("start") == 1 and on.in_flight == 0


@in_simulated_time
async def test_at_max_runtime_nobody_new_is_let_in_and_the_line_has_the_next_start() -> None:
    async with stage(slots=2) as on:
        await ready_stage(on)
        running = on.come("running", takes=5)
        await asyncio.sleep(1)
        on.conductor.must_end(1, 60, "It ran for MAX_RUNTIME.")
        later = on.come("later")
        await asyncio.sleep(1)
        assert on.waiting == 1, "there is a free slot, but not on this instance"
        assert await running == "answered"
        on.provider.may_cut = True
        assert await later == "answered"
        assert [what for _, what in on.provider.calls] == ["start 1", "stop i1", "start 2"]


@in_simulated_time
async def test_the_operators_sleep_stops_it_unless_somebody_is_here() -> None:
    async with stage() as on:
        await ready_stage(on)
        busy = on.come("r", takes=5)
        await asyncio.sleep(1)
        assert on.conductor.sleep() is False
        assert await busy == "answered"
        assert on.conductor.sleep() is True
        await until(lambda: on.state is State.STOPPED)
        assert on.provider.called("start") == 1


@in_simulated_time
async def test_what_is_kept_warm_is_up_until_then() -> None:
    async with stage(idle_timeout=60) as on:
        begin = asyncio.get_running_loop().time()
        on.conductor.keep_warm(begin + 1000)
        assert on.conductor.snapshot().warm_until == begin + 1000
        await until(lambda: on.state is State.READY)
        await asyncio.sleep(900)
        assert on.state is State.READY
        await asyncio.sleep(150)
        assert on.state is State.STOPPED


@in_simulated_time
async def test_what_is_left_to_a_successor_is_not_stopped() -> None:
    async with stage() as on:
        await ready_stage(on)
        await on.conductor.drain(leave=True)
        assert on.provider.called("stop") == 0 and on.provider.alive


class Remembering(NoJournal):
    """Which rentals are over."""

    def __init__(self) -> None:
        self.ended: list[str] = []

    async def end(self, name: str, why: str) -> None:
        self.ended.append(name)


async def rented(on: Stage, name: str) -> Any:
    """A start that costs money, under this name."""

    async def start(intent: Intent, journal: Journal) -> Instance:
        instance = on.provider.create(intent, 1.0)
        return Instance(instance.id, instance.provider, instance.endpoint, 0.0, 340_000, name)

    return start


@in_simulated_time
@pytest.mark.parametrize("how", ["stopped", "lost"])
async def test_the_journal_hears_that_it_costs_nothing_any_more(how: str) -> None:
    journal = Remembering()
    async with stage(journal=journal, idle_timeout=60) as on:
        on.provider.next_start.append(await rented(on, "wakegate-1"))
        assert await on.come("r") == "answered"
        if how == "lost":
            on.provider.crash("The vendor took it away.", taken=True)
        else:
            await asyncio.sleep(100)
        await until(lambda: journal.ended == ["wakegate-1"])


@in_simulated_time
async def test_no_capacity_is_its_own_refusal_and_may_be_retried() -> None:
    async with stage() as on:
        for _ in range(2):
            on.provider.next_start.append(
                raises(ProviderError("No such GPU is free.", lasting=True, code="no_capacity"))
            )
            assert await on.come("r") == "no_capacity"
            refusal = refusal_of(on.conductor.admit("early", size=1))
            assert (refusal.code, refusal.status, refusal.retry) == ("no_capacity", 503, True)
            assert refusal.retry_after == pytest.approx(60)
            await asyncio.sleep(61)
