"""Several vendors as one provider: who is asked first, who next, and that nothing ever runs with two of them."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

import pytest

from gateway.providers.base import (
    Bill,
    Endpoint,
    Gone,
    Instance,
    Intent,
    Journal,
    News,
    Profile,
    ProviderError,
    Ready,
    Renter,
)
from gateway.providers.renting.several import AVOIDED, Several
from tests.support.engines import FullJournal, ListJournal

INTENT = Intent("main", 1)
DOWN = ProviderError("The vendor does not answer.", code="provider_auth", detail="502")
FULL = ProviderError("No GPU is free.", code="no_capacity")


def instance_of(name: str, run: int = 1) -> Instance:
    return Instance(f"{name}-{run}", name, Endpoint("https://192.0.2.1:8000"), 0.0, price=340_000)


@dataclass
class FakeRenter:
    """A vendor that does what a test says, and knows what runs with it."""

    name: str
    cost: int | ProviderError | None = None
    refuses: ProviderError | None = None
    stops: bool = True
    down: bool = False
    """Its list cannot be asked for."""
    news: Sequence[News] = ()
    records: Sequence[Bill] | None = None
    disks: int | None = 0
    cuts_silence: bool = False
    running: list[Instance] = field(default_factory=list)
    starts: int = 0
    stopped: list[str] = field(default_factory=list)
    hints: list[str] = field(default_factory=list)
    closed: bool = False
    hangs: asyncio.Event | None = None

    @property
    def profile(self) -> Profile:
        return Profile(models=(self.name,), cuts_silence=self.cuts_silence)

    async def start(self, intent: Intent, journal: Journal) -> Instance:
        self.starts += 1
        if self.hangs is not None:
            try:
                await self.hangs.wait()
            except asyncio.CancelledError:
                raise ProviderError("cut", instance=instance_of(self.name)) from None
        if isinstance(journal, FullJournal):
            raise OSError(28, "No space left on device")
        if self.down:
            raise DOWN
        if self.refuses is not None:
            left = self.refuses.instance
            self.running += [left] if left is not None else []
            refused = self.refuses
            raise ProviderError(
                refused.reason, lasting=refused.lasting, instance=left, code=refused.code, detail=refused.detail
            )
        self.running.append(instance_of(self.name, self.starts))
        return self.running[-1]

    async def watch(self, instance: Instance) -> AsyncIterator[News]:
        for news in self.news:
            yield news

    async def rest(self, instance: Instance) -> None:
        raise ProviderError("cannot", lasting=True)

    async def wake(self, instance: Instance) -> None:
        raise ProviderError("cannot", lasting=True)

    async def stop(self, instance: Instance, *, within: float) -> None:
        if not self.stops:
            raise ProviderError("not confirmed", instance=instance)
        self.stopped.append(instance.id)
        self.running = [each for each in self.running if each.id != instance.id]

    async def list(self) -> list[Instance]:
        if self.down:
            raise DOWN
        return self.running

    async def price(self) -> int | None:
        if isinstance(self.cost, ProviderError):
            raise self.cost
        return self.cost

    async def bills(self, begins: float, ends: float) -> Sequence[Bill] | None:
        if self.down:
            raise DOWN
        return self.records

    async def storage(self) -> int | None:
        return self.disks

    async def close(self) -> None:
        self.closed = True

    def suspect(self, instance: Instance) -> None:
        self.hints.append(instance.id)

    def whereabouts(self, instance: Instance) -> tuple[str, Endpoint] | None:
        return instance.id, Endpoint(f"https://{self.name}.example")

    def doubt(self, name: str) -> None:
        self.hints.append(name)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def several(clock: Clock, *renters: Renter) -> Several:
    return Several(renters, now=clock)


# --- Who is asked first


async def test_the_order_of_the_setting_counts_where_a_price_is_not_known(clock: Clock) -> None:
    pods, vast = FakeRenter("runpod-pod", cost=900_000), FakeRenter("vast")
    assert (await several(clock, pods, vast).start(INTENT, ListJournal())).provider == "runpod-pod"


async def test_a_price_of_nothing_is_no_price(clock: Clock) -> None:
    pods, vast = FakeRenter("runpod-pod", cost=900_000), FakeRenter("vast", cost=0)
    assert (await several(clock, pods, vast).start(INTENT, ListJournal())).provider == "runpod-pod"


async def test_a_vendor_that_cannot_say_its_price_leaves_the_order_as_it_is(clock: Clock) -> None:
    pods, vast = FakeRenter("runpod-pod", cost=900_000), FakeRenter("vast", cost=DOWN)
    assert (await several(clock, pods, vast).start(INTENT, ListJournal())).provider == "runpod-pod"


async def test_the_cheaper_is_asked_first_where_both_say_their_price(clock: Clock) -> None:
    pods, vast = FakeRenter("runpod-pod", cost=900_000), FakeRenter("vast", cost=350_000)
    both = several(clock, pods, vast)
    assert await both.price() == 350_000
    assert (await both.start(INTENT, ListJournal())).provider == "vast"
    assert pods.starts == 0


async def test_at_the_same_price_the_setting_decides(clock: Clock) -> None:
    pods, vast = FakeRenter("runpod-pod", cost=350_000), FakeRenter("vast", cost=350_000)
    assert (await several(clock, pods, vast).start(INTENT, ListJournal())).provider == "runpod-pod"


async def test_its_price_is_the_cheapest_that_somebody_says(clock: Clock) -> None:
    assert await several(clock, FakeRenter("runpod-pod"), FakeRenter("vast", cost=5)).price() == 5
    assert await several(clock, FakeRenter("runpod-pod"), FakeRenter("vast")).price() is None


# --- Who next


async def test_no_capacity_at_one_vendor_is_a_start_at_the_next(clock: Clock) -> None:
    pods, vast = FakeRenter("runpod-pod", refuses=FULL), FakeRenter("vast")
    assert (await several(clock, pods, vast).start(INTENT, ListJournal())).provider == "vast"


async def test_a_vendor_whose_start_failed_comes_last_for_a_while(clock: Clock) -> None:
    pods, vast = FakeRenter("runpod-pod", cost=1, refuses=FULL), FakeRenter("vast", cost=2)
    both = several(clock, pods, vast)
    first = await both.start(INTENT, ListJournal())
    await both.stop(first, within=1)
    pods.refuses = None
    second = await both.start(INTENT, ListJournal())
    assert second.provider == "vast"
    await both.stop(second, within=1)
    clock.now += AVOIDED
    assert (await both.start(INTENT, ListJournal())).provider == "runpod-pod"


async def test_what_a_failed_start_left_is_stopped_before_the_next_vendor_is_asked(clock: Clock) -> None:
    left = instance_of("runpod-pod")
    pods, vast = FakeRenter("runpod-pod", refuses=ProviderError("zero GPUs", instance=left)), FakeRenter("vast")
    assert (await several(clock, pods, vast).start(INTENT, ListJournal())).provider == "vast"
    assert pods.stopped == [left.id]


async def test_what_cannot_be_stopped_keeps_the_next_vendor_from_being_asked(clock: Clock) -> None:
    left = instance_of("runpod-pod")
    pods = FakeRenter("runpod-pod", refuses=ProviderError("zero GPUs", instance=left), stops=False)
    vast = FakeRenter("vast")
    with pytest.raises(ProviderError) as refused:
        await several(clock, pods, vast).start(INTENT, ListJournal())
    assert refused.value.instance == left
    assert vast.starts == 0


async def test_what_the_vendor_took_away_is_replaced_by_another_vendors(clock: Clock) -> None:
    pods, vast = FakeRenter("runpod-pod", cost=1), FakeRenter("vast", cost=2)
    both = several(clock, pods, vast)
    instance = await both.start(INTENT, ListJournal())
    pods.news = [Ready(), Gone("The vendor took it away.", taken=True)]
    pods.running.clear()
    assert [news async for news in both.watch(instance)] == pods.news
    assert (await both.start(INTENT, ListJournal())).provider == "vast"


async def test_that_there_is_no_capacity_is_told_only_when_no_other_vendor_is_left_to_be_asked(clock: Clock) -> None:
    """A pod may come without its GPU after its start went well: callers are held for the next vendor."""
    pods, vast = FakeRenter("runpod-pod", cost=1), FakeRenter("vast", cost=2)
    both = several(clock, pods, vast)
    told = []
    for vendor in (pods, vast):
        instance = await both.start(INTENT, ListJournal())
        assert instance.provider == vendor.name
        vendor.news = [Gone("It has no GPU.", code="no_capacity", lasting=True)]
        vendor.running.clear()
        told += [(news.code, news.lasting) async for news in both.watch(instance) if isinstance(news, Gone)]
    assert told == [("start_failed", False), ("no_capacity", True)]


async def test_a_stop_that_was_ordered_is_held_against_nobody(clock: Clock) -> None:
    pods, vast = FakeRenter("runpod-pod", cost=1), FakeRenter("vast", cost=2)
    both = several(clock, pods, vast)
    instance = await both.start(INTENT, ListJournal())
    await both.stop(instance, within=1)
    pods.news = [Gone("It was stopped.")]
    assert [news async for news in both.watch(instance)] == pods.news
    assert (await both.start(INTENT, ListJournal())).provider == "runpod-pod"


async def test_one_that_is_ready_is_forgiven(clock: Clock) -> None:
    pods, vast = FakeRenter("runpod-pod", cost=1, refuses=FULL), FakeRenter("vast", cost=2)
    both = several(clock, pods, vast)
    await both.stop(await both.start(INTENT, ListJournal()), within=1)
    vast.refuses, pods.refuses = FULL, None
    instance = await both.start(INTENT, ListJournal())
    assert instance.provider == "runpod-pod"
    pods.news = [Ready()]
    assert [news async for news in both.watch(instance)] == [Ready()]
    await both.stop(instance, within=1)
    vast.refuses = None
    assert (await both.start(INTENT, ListJournal())).provider == "runpod-pod"


async def test_when_all_refuse_the_most_hopeful_refusal_is_told_with_all_in_its_detail(clock: Clock) -> None:
    key = ProviderError("The key is refused.", code="provider_auth", lasting=True, detail="401")
    pods, vast = FakeRenter("runpod-pod", refuses=key), FakeRenter("vast", refuses=FULL)
    with pytest.raises(ProviderError) as refused:
        await several(clock, pods, vast).start(INTENT, ListJournal())
    assert (refused.value.code, refused.value.lasting) == ("no_capacity", False)
    assert refused.value.detail == "runpod-pod: 401; vast: No GPU is free."


async def test_when_none_will_ever_start_that_is_said(clock: Clock) -> None:
    key = ProviderError("The key is refused.", code="provider_auth", lasting=True)
    with pytest.raises(ProviderError) as refused:
        await several(clock, FakeRenter("a", refuses=key), FakeRenter("b", refuses=key)).start(INTENT, ListJournal())
    assert refused.value.lasting


async def test_a_budget_without_room_for_one_may_have_room_for_a_cheaper_one(clock: Clock) -> None:
    spent = ProviderError("The budget is spent.", code="insufficient_quota")
    pods, vast = FakeRenter("runpod-pod", refuses=spent), FakeRenter("vast")
    both = several(clock, pods, vast)
    assert (await both.start(INTENT, ListJournal())).provider == "vast"
    vast.running.clear()
    pods.refuses = None
    assert (await both.start(INTENT, ListJournal())).provider == "runpod-pod"


async def test_a_broken_connection_is_told_to_the_vendor_whose_it_was_and_a_doubt_to_all(clock: Clock) -> None:
    pods, vast = FakeRenter("runpod-pod"), FakeRenter("vast")
    both = several(clock, pods, vast)
    both.suspect(instance_of("vast"))
    both.suspect(instance_of("nobody"))
    both.doubt("wakegate-1")
    assert (pods.hints, vast.hints) == (["wakegate-1"], ["vast-1", "wakegate-1"])


async def test_where_one_answers_its_own_vendor_knows(clock: Clock) -> None:
    """Its leases are sent there."""
    both = several(clock, FakeRenter("runpod-pod"), FakeRenter("vast"))
    assert both.whereabouts(instance_of("vast")) == ("vast-1", Endpoint("https://vast.example"))
    assert both.whereabouts(instance_of("nobody")) is None


async def test_a_ledger_that_cannot_be_written_keeps_all_of_them_from_being_asked(clock: Clock) -> None:
    pods, vast = FakeRenter("runpod-pod"), FakeRenter("vast")
    with pytest.raises(OSError, match="No space"):
        await several(clock, pods, vast).start(INTENT, FullJournal())
    assert vast.starts == 0


async def test_a_start_that_is_cancelled_goes_on_to_nobody(clock: Clock) -> None:
    pods, vast = FakeRenter("runpod-pod", hangs=asyncio.Event()), FakeRenter("vast")
    start = asyncio.ensure_future(several(clock, pods, vast).start(INTENT, ListJournal()))
    while not pods.starts:
        await asyncio.sleep(0)
    start.cancel()
    with pytest.raises(ProviderError) as cut:
        await start
    assert cut.value.instance == instance_of("runpod-pod")
    assert vast.starts == 0


# --- Never two


async def test_where_something_of_ours_runs_already_it_is_taken_over(clock: Clock) -> None:
    pods, vast = FakeRenter("runpod-pod", cost=1), FakeRenter("vast", cost=2, running=[instance_of("vast")])
    assert (await several(clock, pods, vast).start(INTENT, ListJournal())).provider == "vast"
    assert pods.starts == 0


async def test_nothing_is_started_while_something_runs_at_another_vendor(clock: Clock) -> None:
    pods = FakeRenter("runpod-pod", running=[instance_of("runpod-pod")])
    vast = FakeRenter("vast", running=[instance_of("vast")])
    with pytest.raises(ProviderError) as refused:
        await several(clock, pods, vast).start(INTENT, ListJournal())
    assert refused.value.instance == instance_of("vast")
    assert pods.starts == 0


async def test_nothing_is_started_while_it_is_unknown_whether_something_runs_at_another_vendor(clock: Clock) -> None:
    pods, vast = FakeRenter("runpod-pod"), FakeRenter("vast", down=True)
    both = several(clock, pods, vast)
    with pytest.raises(ProviderError):
        await both.start(INTENT, ListJournal())
    vast.down = False
    assert await both.list() == []
    vast.down = True
    assert (await both.start(INTENT, ListJournal())).provider == "runpod-pod"  # nothing was begun there since


async def test_a_start_that_failed_somehow_makes_it_unknown_again(clock: Clock) -> None:
    pods, vast = FakeRenter("runpod-pod", refuses=ProviderError("No answer came.")), FakeRenter("vast")
    both = several(clock, pods, vast)
    assert await both.list() == []
    pods.down = True
    with pytest.raises(ProviderError) as refused:
        await both.start(INTENT, ListJournal())
    assert refused.value.detail == "runpod-pod: 502; vast: runpod-pod: 502"
    assert vast.starts == 0


async def test_the_vendor_that_cannot_be_asked_is_itself_told_to_start(clock: Clock) -> None:
    """It alone knows what runs with it, and looks before it starts."""
    pods, vast = FakeRenter("runpod-pod"), FakeRenter("vast", down=True)
    with pytest.raises(ProviderError):
        await several(clock, pods, vast).start(INTENT, ListJournal())
    assert (pods.starts, vast.starts) == (0, 1)


# --- All of them


async def test_what_runs_is_listed_of_all(clock: Clock) -> None:
    pods = FakeRenter("runpod-pod", running=[instance_of("runpod-pod")])
    vast = FakeRenter("vast", running=[instance_of("vast")])
    assert await several(clock, pods, vast).list() == [instance_of("runpod-pod"), instance_of("vast")]


async def test_a_list_without_one_vendor_is_none_and_yet_forgets_nothing(clock: Clock) -> None:
    pods, vast = FakeRenter("runpod-pod", down=True), FakeRenter("vast", running=[instance_of("vast")])
    with pytest.raises(ProviderError) as refused:
        await several(clock, pods, vast).list()
    assert refused.value.instance == instance_of("vast")


async def test_a_stop_goes_to_the_vendor_that_the_instance_names(clock: Clock) -> None:
    pods, vast = FakeRenter("runpod-pod"), FakeRenter("vast", running=[instance_of("vast")])
    await several(clock, pods, vast).stop(instance_of("vast"), within=1)
    assert (pods.stopped, vast.stopped) == ([], ["vast-1"])
    for order in ("rest", "wake"):
        with pytest.raises(ProviderError):
            await getattr(several(clock, pods, vast), order)(instance_of("vast"))


async def test_an_instance_of_a_vendor_that_is_not_in_the_setting_is_not_called_stopped(clock: Clock) -> None:
    both = several(clock, FakeRenter("runpod-pod"))
    with pytest.raises(ProviderError) as refused:
        await both.stop(instance_of("vast"), within=1)
    assert refused.value.instance == instance_of("vast")
    assert [type(news) async for news in both.watch(instance_of("vast"))] == [Gone]


async def test_bills_are_those_of_all_that_have_some(clock: Clock) -> None:
    bill = Bill("vast-1", 0.0, 3600.0, 340_000)
    pods, vast = FakeRenter("runpod-pod"), FakeRenter("vast", records=[bill])
    both = several(clock, pods, vast)
    assert await both.bills(0, 1) == [bill]
    vast.records = None
    assert await both.bills(0, 1) is None
    vast.down = True
    with pytest.raises(ProviderError):
        await both.bills(0, 1)


async def test_disks_of_all_are_paid_and_nobody_knows_the_sum_without_one(clock: Clock) -> None:
    pods, vast = FakeRenter("runpod-pod", disks=12_000_000), FakeRenter("vast", disks=3_000_000)
    assert await several(clock, pods, vast).storage() == 15_000_000
    vast.disks = None
    assert await several(clock, pods, vast).storage() is None


async def test_all_are_closed(clock: Clock) -> None:
    pods, vast = FakeRenter("runpod-pod"), FakeRenter("vast")
    await several(clock, pods, vast).close()
    assert pods.closed and vast.closed


async def test_before_a_start_only_what_all_have_in_common_is_known(clock: Clock) -> None:
    pods, vast = FakeRenter("runpod-pod", cuts_silence=True), FakeRenter("vast")
    both = several(clock, pods, vast)
    assert both.profile == Profile(cuts_silence=True)
    pods.refuses = FULL
    await both.start(INTENT, ListJournal())
    assert both.profile == Profile(models=("vast",))


async def test_the_same_vendor_twice_is_a_mistake(clock: Clock) -> None:
    with pytest.raises(ValueError, match="twice"):
        several(clock, FakeRenter("vast"), FakeRenter("vast"))


async def test_its_name_and_repr_tell_who_is_in_it(clock: Clock) -> None:
    both = several(clock, FakeRenter("runpod-pod"), FakeRenter("vast"))
    assert both.name == "runpod-pod,vast"
    await both.list()
    assert repr(both) == "<Several runpod-pod clear, vast clear>"
    assert [renter.name for renter in both.renters] == ["runpod-pod", "vast"]
