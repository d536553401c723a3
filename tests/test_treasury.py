"""What is written before anything is rented, when callers are turned away, and what is done about what runs."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from gateway.conductor import Conductor, Limits
from gateway.errors import Refusal
from gateway.policy.admission import Admission
from gateway.policy.admission import Limits as AdmissionLimits
from gateway.policy.books import Books, Entry
from gateway.policy.budget import Terms
from gateway.policy.lifecycle.machine import Lifecycle, LifecycleSettings
from gateway.policy.lifecycle.states import State
from gateway.providers.base import Bill, Endpoint, Instance, Intent, Journal, ProviderError, Rental
from gateway.providers.feed import Feed
from gateway.records.ledger.base import LedgerTaken
from gateway.records.ledger.memory import MemoryLedger
from gateway.treasury import Clocks, Treasury
from tests.support.played import Played, call
from tests.support.simulated import BEGIN, in_simulated_time, until

NOON = 1_794_830_400.0  # 2026-11-16 12:00:00 UTC
CENT = 10_000
PRICE = 36 * CENT  # an hour: a cent for every hundred seconds


class Pods(Played):
    """A vendor whose pods are played: what runs there is what this says."""

    name = "played"

    def __init__(self, **facts: Any) -> None:
        super().__init__(**facts)
        self.running: dict[str, Instance] = {}
        self.bills_are: Sequence[Bill] | None = None
        self.billed: list[tuple[float, float]] = []
        """The spans that were asked for."""
        self.trouble: ProviderError | None = None
        self.disks: int | None = None
        self.asked = 0
        self.doubts: list[str] = []

    def _may_be_asked(self) -> None:
        self.asked += 1
        if self.trouble is not None:
            raise self.trouble

    async def start(self, intent: Intent, journal: Journal) -> Instance:
        self._note(f"start {intent.run}")
        self._may_be_asked()
        for found in self.running.values():
            name = found.name or journal.next_name()
            rental = Rental(name, self.name, intent.upstream, intent.run, PRICE, found.id, runs_since=found.started_at)
            taken = Instance(found.id, self.name, found.endpoint, found.started_at, PRICE, name)
            try:
                await journal.intend(rental)
            except ProviderError as error:
                error.instance = taken
                raise
            self.feeds[found.id] = self.alive[found.id] = Feed()
            self.feeds[found.id].tell(self.ready)
            return taken
        name = journal.next_name()
        await journal.intend(Rental(name, self.name, intent.upstream, intent.run, PRICE))
        made = self.create(intent, self.ready_after)
        await journal.know(name, made.id, PRICE)
        instance = Instance(made.id, self.name, made.endpoint, 0.0, PRICE, name)
        self.running[made.id] = instance
        return instance

    async def stop(self, instance: Instance, *, within: float) -> None:
        await super().stop(instance, within=within)
        self.running.pop(instance.id, None)

    async def list(self) -> list[Instance]:
        self._may_be_asked()
        return [*self.running.values()]

    async def price(self) -> int | None:
        return PRICE

    async def bills(self, begins: float, ends: float) -> Sequence[Bill] | None:
        self._may_be_asked()
        self.billed.append((begins, ends))
        return self.bills_are

    async def storage(self) -> int | None:
        return self.disks

    def doubt(self, name: str) -> None:
        self.doubts.append(name)


class Disk(MemoryLedger):
    """One that can be full."""

    full = gone = taken = False

    async def append(self, entry: Entry, seq: int) -> bool:
        if self.full:
            raise OSError(28, "No space left on device")
        return await super().append(entry, seq)


class On:
    """A conductor, its treasury, and what they say."""

    def __init__(self, pods: Pods, disk: Disk, **facts: Any) -> None:
        loop = asyncio.get_running_loop()
        self.pods, self.disk = pods, disk
        self.said: list[str] = []
        self.alarms: list[tuple[str, str]] = []
        self.shift = 0.0

        async def opened() -> Disk:
            if disk.gone:
                raise OSError(5, "Input/output error")
            if disk.taken:
                raise LedgerTaken(16, "another gateway has it")
            return disk

        terms = Terms(facts.pop("monthly", 20_000_000), 60_000, 1_800_000)
        self.treasury = Treasury(
            opened,
            pods,
            terms,
            prefix="wakegate-test-",
            clocks=Clocks(lambda: NOON + loop.time() - BEGIN + self.shift, loop.time),
            max_runtime=facts.pop("max_runtime", 43_200.0),
            alarm=lambda event, text, about: self.alarms.append((event, about)),
            say=lambda text, level: self.said.append(text),
            **facts,
        )
        self.conductor = Conductor(
            "default",
            pods,
            Lifecycle(LifecycleSettings(idle_timeout=600.0), now=loop.time()),
            Admission(AdmissionLimits(concurrency=4)),
            limits=Limits(stop_within=10.0, drain_reserve=5.0),
            journal=self.treasury,
            gate=self.treasury.gate,
        )
        pods.slots = 4
        self.treasury.attach(self.conductor)

    @property
    def state(self) -> State:
        return self.conductor.state

    @property
    def books(self) -> Books:
        return self.treasury.books

    def kinds(self) -> list[str]:
        return [entry.kind for entry in self.disk.lines if entry.kind not in ("said", "booked", "storage")]

    def spent(self) -> int:
        return self.treasury.standing().spent

    def come(self, name: str, takes: float = 1.0) -> "asyncio.Task[str]":
        return asyncio.get_running_loop().create_task(call(self.conductor, name, takes))


@contextlib.asynccontextmanager
async def rented(pods: Pods | None = None, disk: Disk | None = None, **facts: Any) -> AsyncIterator[On]:
    on = On(pods or Pods(), disk or Disk(), **facts)
    on.treasury.begin()
    try:
        yield on
    finally:
        await on.treasury.close()
        await on.conductor.close()


async def settled(on: On) -> None:
    await until(lambda: not on.treasury.trouble)


# --- before anything is rented


@in_simulated_time
async def test_a_rental_is_written_down_before_known_and_ended() -> None:
    async with rented() as on:
        assert await on.come("r") == "answered"
        assert on.kinds() == ["intended", "known"]
        await asyncio.sleep(700)
        assert on.state is State.STOPPED
        assert on.kinds() == ["intended", "known", "ended"]
        (rental,) = on.books.rentals.values()
        assert rental.name.startswith("wakegate-test-") and rental.instance == "i1"
        assert on.spent() == pytest.approx(PRICE * (600 + 2) / 3600, rel=0.02)
        assert on.said[0] == "rents from played: $0.00 of $20 this month, nothing runs"
        assert on.said[-1].startswith("i1 costs nothing any more: $0.06") and on.said[-1].endswith(" of $20 this month")


@in_simulated_time
async def test_nothing_is_started_that_cannot_be_written_down() -> None:
    async with rented() as on:
        await settled(on)
        on.disk.full = True
        assert await on.come("r") == "start_failed"
        assert not on.pods.running
        assert ("ledger", "write") in on.alarms
        assert on.treasury.trouble


@in_simulated_time
async def test_callers_wait_while_the_vendor_is_asked_what_runs_and_nothing_is_started_before() -> None:
    pods = Pods()
    pods.trouble = ProviderError("The vendor does not answer.")
    async with rented(pods) as on:
        caller = on.come("r")
        await asyncio.sleep(25)
        assert not pods.called("start") and not caller.done()
        pods.trouble = None
        assert await caller == "answered"


@in_simulated_time
async def test_a_key_that_the_vendor_refuses_is_said_to_callers_in_time() -> None:
    pods = Pods()
    pods.trouble = ProviderError("The vendor refuses the key.", lasting=True, code="provider_auth")
    async with rented(pods) as on:
        began = asyncio.get_running_loop().time()
        assert await on.come("r") == "provider_auth"
        assert asyncio.get_running_loop().time() - began < 1
        assert not pods.called("start")
        pods.trouble = None
        await settled(on)
        await asyncio.sleep(60)
        assert await on.come("again") == "answered"


# --- the budget


@in_simulated_time
async def test_a_start_that_does_not_fit_is_refused_before_the_vendor_is_asked() -> None:
    async with rented(monthly=10 * CENT) as on:
        await settled(on)
        asked = on.pods.asked
        refusal = on.conductor.admit("r", size=1)
        assert isinstance(refusal, Refusal)
        assert (refusal.code, refusal.status, refusal.retry) == ("insufficient_quota", 429, False)
        assert on.pods.asked == asked and not on.pods.called("start")


@in_simulated_time
async def test_without_a_budget_there_is_no_room_before_any_price_is_known() -> None:
    async with rented(monthly=0) as on:
        assert await on.come("r") == "insufficient_quota"
        assert "$0.000001" not in on.conductor.snapshot().detail
        assert not on.pods.called("start")


@in_simulated_time
async def test_whoever_came_before_the_price_was_known_causes_no_start_that_does_not_fit() -> None:
    async with rented(monthly=10 * CENT) as on:
        assert await on.come("r") == "insufficient_quota"
        assert not on.pods.called("start")


@in_simulated_time
async def test_what_runs_ends_within_the_budget() -> None:
    """A start needs 18 cents and more; 30 cents are 50 minutes, of which the last is the grace."""
    async with rented(monthly=30 * CENT) as on:
        on.pods.may_cut = True
        assert await on.come("long", takes=7200) == "insufficient_quota"
        await until(lambda: on.kinds() == ["intended", "known", "ended"])
        assert 29 * CENT <= on.spent() <= 30 * CENT + PRICE * 5 // 3600, "beyond it only what the stop took"
        assert isinstance(on.conductor.admit("r", size=1), Refusal)
        assert {about for event, about in on.alarms if event == "budget"} == {
            "2026-11 50",
            "2026-11 80",
            "2026-11 95",
        }


@in_simulated_time
async def test_what_was_spent_elsewhere_counts() -> None:
    async with rented(monthly=30 * CENT, elsewhere=lambda: 20 * CENT) as on:
        await settled(on)
        assert isinstance(on.conductor.admit("r", size=1), Refusal)


@in_simulated_time
async def test_with_the_next_month_the_gate_opens() -> None:
    async with rented(monthly=30 * CENT) as on:
        on.pods.may_cut = True
        assert await on.come("long", takes=7200) == "insufficient_quota"
        await asyncio.sleep(15 * 86_400)
        assert await on.come("r") == "answered"


@in_simulated_time
async def test_max_runtime_ends_what_runs_and_the_next_caller_starts_another() -> None:
    async with rented(max_runtime=1000.0) as on:
        on.pods.may_cut = True
        assert await on.come("long", takes=5000) == "backend_lost"
        assert await on.come("r") == "answered"
        assert on.pods.called("start") == 2


# --- restarts


@in_simulated_time
async def test_what_ran_through_a_restart_is_taken_over_and_costs_on() -> None:
    pods, disk = Pods(), Disk()
    async with rented(pods, disk) as on:
        assert await on.come("r") == "answered"
    await asyncio.sleep(1000)
    async with rented(pods, disk) as on:
        assert await on.come("r2") == "answered"
        assert len(on.books.rentals) == 1 and len(pods.running) == 1
        await asyncio.sleep(700)
        assert not pods.running and not on.books.open
        assert on.spent() >= PRICE * 1600 // 3600


@in_simulated_time
async def test_what_runs_after_a_restart_is_taken_over_though_nobody_comes_and_obeys_the_idle_time() -> None:
    pods, disk = Pods(), Disk()
    async with rented(pods, disk) as on:
        assert await on.come("r") == "answered"
    async with rented(pods, disk) as on:
        await until(lambda: on.state is State.READY)
        await asyncio.sleep(700)
        assert not pods.running and not on.books.open


@in_simulated_time
async def test_what_ended_while_nobody_looked_is_booked_until_two_looks_agree() -> None:
    pods, disk = Pods(), Disk()
    async with rented(pods, disk) as on:
        assert await on.come("r") == "answered"
    pods.running.clear()
    await asyncio.sleep(1000)
    async with rented(pods, disk) as on:
        await settled(on)
        assert on.books.open, "one look may be wrong"
        await asyncio.sleep(60)
        assert not on.books.open
        assert on.kinds()[-1] == "ended"


@in_simulated_time
async def test_an_orphan_is_told_of_and_taken_over() -> None:
    pods = Pods()
    async with rented(pods) as on:
        await settled(on)
        pods.running["stray"] = Instance("stray", "played", Endpoint("http://stray"), NOON - 600)
        await until(lambda: on.state is State.READY)
        assert ("orphan", "stray") in on.alarms
        assert "adopted" in on.kinds()
        assert on.spent() >= PRICE * 600 // 3600
        await asyncio.sleep(700)
        assert not pods.running


@in_simulated_time
async def test_an_orphan_beyond_the_budget_is_stopped() -> None:
    pods = Pods()
    async with rented(pods, monthly=10 * CENT) as on:
        await settled(on)
        pods.running["stray"] = Instance("stray", "played", Endpoint("http://stray"), NOON - 60, PRICE)
        await until(lambda: not pods.running)
        assert on.state is State.STOPPED
        assert not on.books.open and on.spent() >= PRICE * 360 // 3600, "what it cost until then is booked"


@in_simulated_time
async def test_an_orphan_beside_what_serves_is_booked_and_stopped_and_nobody_is_cut() -> None:
    pods = Pods()
    async with rented(pods) as on:
        assert await on.come("r") == "answered"
        pods.running["stray"] = Instance("stray", "played", Endpoint("http://stray"), NOON, PRICE)
        await until(lambda: len(pods.running) == 1)
        assert "stray" not in pods.running and on.state is State.READY
        assert ("orphan", "stray") in on.alarms
        assert [one.instance for one in on.books.rentals.values() if not one.open] == ["stray"]
        assert on.spent() >= 2 * PRICE * 360 // 3600


@in_simulated_time
async def test_of_two_gateways_with_one_name_that_started_at_once_only_one_ends_what_the_other_has() -> None:
    """Each sees the other's beside its own. Were both to act, both would end, again and again."""
    seconds = {}
    for theirs in ("0", "~"):  # one id is smaller than any of ours, the other larger
        pods = Pods()
        async with rented(pods) as on:
            assert await on.come("r") == "answered"
            on.conductor.keep_warm(asyncio.get_running_loop().time() + 5000)
            begun = asyncio.get_running_loop().time()
            pods.running[theirs] = Instance(theirs, "played", Endpoint("http://theirs"), NOON, PRICE)
            await until(lambda pods=pods, theirs=theirs: theirs not in pods.running)
            seconds[theirs] = asyncio.get_running_loop().time() - begun
            assert on.state is State.READY
    assert seconds["~"] < 400 and seconds["0"] > 900


@in_simulated_time
async def test_a_list_that_still_shows_what_has_ended_makes_nobody_an_orphan() -> None:
    pods = Pods()
    async with rented(pods) as on:
        await settled(on)
        await asyncio.sleep(270)
        assert await on.come("r") == "answered"
        await asyncio.sleep(5)
        pods.running["late"] = Instance("late", "played", Endpoint("http://late"), NOON, PRICE)
        await asyncio.sleep(50)
        del pods.running["late"]
        await asyncio.sleep(400)
        assert not on.alarms and "stop late" not in [call for _, call in pods.calls]


@in_simulated_time
async def test_what_no_list_shows_is_stopped_by_its_id_before_it_counts_as_ended() -> None:
    pods, disk = Pods(), Disk()
    async with rented(pods, disk) as on:
        assert await on.come("r") == "answered"
    (runs,) = pods.running.values()
    pods.running.clear()  # it runs: only the list is empty
    await asyncio.sleep(100)
    async with rented(pods, disk) as on:
        await settled(on)
        await until(lambda: not on.books.open)
        assert f"stop {runs.id}" in [call for _, call in pods.calls]
        assert on.kinds()[-1] == "ended"


@in_simulated_time
async def test_what_ended_is_not_stopped_again_and_again_because_that_cannot_be_written_down() -> None:
    """And an orphan beside it is stopped all the same."""
    pods, disk = Pods(), Disk()
    async with rented(pods, disk) as on:
        assert await on.come("r") == "answered"
    (runs,) = pods.running.values()
    pods.running.clear()
    await asyncio.sleep(100)
    async with rented(pods, disk) as on:
        await settled(on)
        disk.full = True
        await asyncio.sleep(600)
        pods.running["stray"] = Instance("stray", "played", Endpoint("http://stray"), NOON, PRICE)
        await asyncio.sleep(3000)
        assert [call for _, call in pods.calls].count(f"stop {runs.id}") == 1
        assert not pods.running and on.books.open
        disk.full = False
        await until(lambda: not on.books.open)


@in_simulated_time
async def test_what_runs_at_a_vendor_that_is_rented_from_no_more_is_told_of_and_counts_on() -> None:
    """PROVIDER was changed while something ran: nobody here can say that it ended."""
    pods, disk = Pods(), Disk()
    async with rented(pods, disk) as on:
        assert await on.come("r") == "answered"
    elsewhere = Pods()
    elsewhere.name = "another"
    async with rented(elsewhere, disk) as on:
        await asyncio.sleep(3600)
        assert on.books.open and on.spent() >= PRICE
        assert any(event == "will_not_stop" for event, _ in on.alarms)
        assert await on.come("r2") != "answered" and not elsewhere.running


@in_simulated_time
async def test_a_new_ledger_learns_from_the_vendors_bills() -> None:
    pods = Pods()
    pods.bills_are = [Bill("old", NOON - 90_000, NOON - 3600, 5_000_000)]
    async with rented(pods, monthly=5_100_000) as on:
        await settled(on)
        assert on.spent() >= 5_000_000
        assert isinstance(on.conductor.admit("r", size=1), Refusal)


@in_simulated_time
async def test_what_the_vendor_billed_more_is_added_and_less_is_not() -> None:
    pods = Pods()
    async with rented(pods) as on:
        assert await on.come("r") == "answered"
        await asyncio.sleep(700)
        before = on.spent()
        day = NOON - NOON % 86_400
        pods.bills_are = [Bill("i1", day, day + 86_400, before + 7 * CENT)]
        await asyncio.sleep(2 * 86_400)
        assert on.spent() == before + 7 * CENT
        pods.bills_are = [Bill("i1", day, day + 86_400, 1)]
        await asyncio.sleep(7200)
        assert on.spent() == before + 7 * CENT


@in_simulated_time
async def test_bills_are_read_by_the_hour_for_the_last_days_and_once_a_day_for_all() -> None:
    pods = Pods()
    async with rented(pods):
        await asyncio.sleep(30 * 3600)
        spans = [round((ends - begins) / 3600) for begins, ends in pods.billed[1:]]
        assert spans.count(46) >= 26
        assert [index for index, span in enumerate(spans) if span > 46] == [0, 24]


@in_simulated_time
async def test_disks_are_reserved_to_the_months_end() -> None:
    pods = Pods()
    pods.disks = 12_000_000
    async with rented(pods) as on:
        await asyncio.sleep(10)
        assert on.treasury.standing().storage == pytest.approx(12_000_000 * 14.5 / 30, rel=0.001)


@in_simulated_time
async def test_what_runs_while_nothing_can_be_written_is_ended_after_a_while() -> None:
    async with rented() as on:
        caller = on.come("r", takes=5000)
        await until(lambda: on.state is State.READY)
        on.disk.full = True
        on.pods.may_cut = True
        assert await caller == "start_failed"
        await until(lambda: not on.pods.running)


@in_simulated_time
async def test_what_runs_while_the_ledger_cannot_even_be_opened_is_stopped_after_a_while() -> None:
    pods, disk = Pods(), Disk()
    async with rented(pods, disk) as on:
        assert await on.come("r") == "answered"
    disk.gone = True
    async with rented(pods, disk) as on:
        await asyncio.sleep(200)
        assert pods.running, "a disk may come back"
        await asyncio.sleep(200)
        assert not pods.running
        assert ("ledger", "i1") in on.alarms


@in_simulated_time
async def test_what_another_gateway_counts_is_not_stopped_here() -> None:
    """The second one on a folder: it starts nothing, and leaves alone what the first one has in its ledger."""
    pods, disk = Pods(), Disk()
    disk.taken = True
    pods.running["theirs"] = Instance("theirs", "played", Endpoint("http://theirs"), NOON, PRICE)
    async with rented(pods, disk) as on:
        await asyncio.sleep(3600)
        assert list(pods.running) == ["theirs"]
        disk.taken = False  # the first one has ended
        await until(lambda: on.state is State.READY)
        assert on.spent() >= PRICE


@in_simulated_time
async def test_a_clock_that_leaps_or_goes_back_books_nothing_for_it() -> None:
    async with rented() as on:
        caller = on.come("r", takes=400)
        await until(lambda: on.state is State.READY)
        on.shift = -5000.0
        assert await caller == "answered"
        before = on.spent()
        assert before == pytest.approx(PRICE * 401 / 3600, rel=0.05)
        on.shift = 40 * 86_400.0
        await asyncio.sleep(700)
        assert on.books.latest >= (NOON + 30 * 86_400) * 1000
        assert sum(on.books.cost(one, on.treasury.at) for one in on.books.rentals.values()) <= PRICE * 1.6


def test_names_are_by_the_clock_and_never_come_twice() -> None:
    async def names() -> list[str]:
        on = On(Pods(), Disk())
        return [on.treasury.next_name() for _ in range(3)]

    found = asyncio.run(names())
    assert len(set(found)) == 3 and all(name.startswith("wakegate-test-") for name in found)
