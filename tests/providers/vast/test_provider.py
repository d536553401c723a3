"""An instance at Vast: what its vendor's words mean, in simulated time against the emulator."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import wraps
from itertools import pairwise

import pytest

from gateway.providers.base import Bill, Endpoint, Gone, Instance, Intent, Loading, News, ProviderError, Ready
from gateway.providers.probe import Sight
from gateway.providers.renting.vendor import Answer
from gateway.providers.vast.api import Contract
from gateway.providers.vast.provider import VastProvider, months, sleeps
from tests.emulators.vast import VastCloud
from tests.support.engines import ListJournal
from tests.support.simulated import run, until

BOOT = [(0.0, None), (2.0, "loading"), (20.0, "running")]
DAY = 86_400.0


@dataclass
class Story:
    """A provider, the vendor's emulator, and who listens."""

    cloud: VastCloud = field(default_factory=VastCloud)
    journal: ListJournal = field(default_factory=ListJournal)
    alarms: list[tuple[str, str]] = field(default_factory=list)
    asked: list[tuple[str, str | None]] = field(default_factory=list)
    """(url, key) of each look at an upstream."""
    heard: list[News] = field(default_factory=list)
    serves: bool = True
    """What runs in the instance, once it runs."""
    price: int | None = None
    key: str | None = None
    epoch: float = 0.0
    """Unix seconds of loop time 0."""

    def __post_init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.cloud.now = self.clock()
        self.provider = VastProvider(
            str(self.cloud.id),
            transport=self.cloud.transport(self.clock, key=self.key),
            look=self.look,
            now=self.clock,
            key="upstream-key",
            plain_http=True,
            public_only=False,
            hourly_price=self.price,
            alarm=lambda kind, text: self.alarms.append((kind, text)),
        )
        self.loop = loop

    def clock(self) -> float:
        return self.epoch + asyncio.get_running_loop().time()

    async def look(self, endpoint: Endpoint, path: str, within: float) -> Sight:
        self.asked.append((endpoint.url, endpoint.key))
        self.cloud.handle("GET", "/", {}, None, self.clock())
        here = f"http://{self.cloud.host}:{self.cloud.port}"
        if not self.serves or endpoint.url != here or self.cloud.actual != "running" or not self.cloud.running:
            await asyncio.sleep(min(within, 1.0))
            return Sight(0, trouble="refused")
        return Sight(200, {"data": [{"id": "qwen"}]} if path.endswith("/models") else {})

    async def start(self, run_number: int = 1) -> Instance:
        instance = await self.provider.start(Intent("main", run_number), self.journal)
        self.heard = []
        self._listener = asyncio.ensure_future(self._listen(instance))
        return instance

    async def _listen(self, instance: Instance) -> None:
        async for news in self.provider.watch(instance):
            self.heard.append(news)

    async def ready(self) -> Ready:
        await until(lambda: any(isinstance(news, Ready) for news in self.heard), step=0.1)
        return next(news for news in self.heard if isinstance(news, Ready))

    async def gone(self) -> Gone:
        await self._listener
        last = self.heard[-1]
        assert isinstance(last, Gone)
        return last

    def changes(self) -> list[float]:
        return [when for when, method, _ in self.cloud.calls if method == "PUT"]

    def looks(self) -> list[float]:
        return [when for when, method, path in self.cloud.calls if method == "GET" and "/v0/instances/" in path]


Telling = Callable[[Story], Awaitable[None]]


def told(test: Telling) -> Callable[[], None]:
    """Run the story in simulated time; at its end its provider is closed."""

    async def whole() -> None:
        story = Story()
        try:
            await test(story)
        finally:
            await story.provider.close()

    @wraps(test)
    def wrapper() -> None:
        run(whole())

    del wrapper.__dict__["__wrapped__"]  # or pytest takes its argument for a fixture
    return wrapper


# --- A start and a stop


@told
async def test_a_start_leads_to_an_instance_that_serves_at_the_mapped_port(story: Story) -> None:
    instance = await story.start()
    assert (instance.provider, instance.price) == ("vast", 350_000)
    ready = await story.ready()
    assert ready == Ready(("qwen",), None, Endpoint("http://192.0.2.45:33526", key="upstream-key"))
    assert next(news.phase for news in story.heard if isinstance(news, Loading)) == "booting"
    assert story.cloud.started == 1


@told
async def test_it_is_written_down_before_the_vendor_is_told_to_start(story: Story) -> None:
    instance = await story.start()
    assert [line[0] for line in story.journal.said] == ["intend", "know"]
    rental = story.journal.rentals[0]
    assert (rental.instance, rental.price, rental.why) == ("883", 350_000, "Vast's figure")
    assert instance.name == rental.name


@told
async def test_the_higher_of_two_prices_counts(story: Story) -> None:
    dear = Story(price=500_000)
    assert (await dear.start()).price == 500_000
    assert dear.journal.rentals[0].why == "HOURLY_PRICE, more than $0.35 (Vast's figure)"
    await dear.provider.close()


@told
async def test_a_price_is_not_asked_for_again_and_again(story: Story) -> None:
    for _ in range(100):
        assert await story.provider.price() == 350_000
        await asyncio.sleep(0.5)
    assert len(story.looks()) == 1


@told
async def test_a_stop_is_done_when_the_vendor_said_so_twice(story: Story) -> None:
    instance = await story.start()
    await story.ready()
    story.cloud.stop_takes = 7.0
    before = story.clock()
    await story.provider.stop(instance, within=60)
    assert story.clock() - before >= 7 + 3
    assert not story.cloud.running
    assert story.journal.said[-1][0] == "end"
    assert (await story.gone()).taken is False
    assert await story.provider.list() == []


@told
async def test_a_stop_that_is_not_followed_is_not_done_and_is_asked_for_again(story: Story) -> None:
    instance = await story.start()
    await story.ready()
    story.cloud.deaf = True
    with pytest.raises(ProviderError) as refused:
        await story.provider.stop(instance, within=30)
    assert refused.value.instance == instance
    assert [found.id for found in await story.provider.list()] == ["883"]
    await asyncio.sleep(120)
    assert story.alarms[0][0] == "will_not_stop"
    assert len(story.changes()) > 10
    story.cloud.deaf = False
    await story.gone()
    assert not story.cloud.running


@told
async def test_a_status_that_lags_behind_a_stop_is_no_confirmation(story: Story) -> None:
    """`running` told of a contract whose GPU was given back: nobody knows which of the two is right."""
    instance = await story.start()
    await story.ready()
    ending = asyncio.ensure_future(story.provider.stop(instance, within=300))
    await until(lambda: not story.cloud.running, step=0.1)
    story.cloud.actual = "running"
    await asyncio.sleep(60)
    assert not ending.done()
    story.cloud.actual = "exited"
    await ending


@pytest.mark.parametrize("status", ["exited", "stopped", "loading", "created", None, "offline", "unknown"])
def test_whatever_the_container_is_called_a_contract_without_a_gpu_is_stopped(status: str | None) -> None:
    async def telling(story: Story) -> None:
        instance = await story.start()
        await story.ready()
        ending = asyncio.ensure_future(story.provider.stop(instance, within=60))
        await until(lambda: not story.cloud.running, step=0.1)
        story.cloud.actual = status
        await ending

    told(telling)()


@told
async def test_what_runs_already_is_taken_over(story: Story) -> None:
    first = await story.start()
    await story.ready()
    await story.provider.close()
    successor = Story(cloud=story.cloud)
    assert [found.id for found in await successor.provider.list()] == [first.id]
    second = await successor.start()
    assert (await successor.ready()).endpoint == Endpoint("http://192.0.2.45:33526", key="upstream-key")
    assert (second.id, story.cloud.started) == (first.id, 1)
    await successor.provider.stop(second, within=60)
    await successor.provider.close()


@told
async def test_an_answer_that_was_lost_starts_nothing_twice(story: Story) -> None:
    story.cloud.lose = 1
    await story.start()
    await story.ready()
    assert (story.cloud.started, len(story.changes())) == (1, 1)


# --- Another port at each start


@told
async def test_the_port_of_an_earlier_run_is_never_asked_again(story: Story) -> None:
    instance = await story.start()
    await story.ready()
    await story.provider.stop(instance, within=60)
    story.asked.clear()
    await story.start(2)
    ready = await story.ready()
    assert ready.endpoint is not None and ready.endpoint.url == "http://192.0.2.45:33527"
    assert {url for url, _ in story.asked} == {"http://192.0.2.45:33527"}


@told
async def test_the_old_port_is_not_believed_though_the_vendor_tells_it(story: Story) -> None:
    """A status from before: `running`, with the address that is somebody else's by now."""
    instance = await story.start()
    await story.ready()
    await story.provider.stop(instance, within=60)
    story.asked.clear()
    story.cloud.boot = [(0.0, "running")]
    story.cloud.next_ports.insert(0, 33526)
    await story.start(2)
    await asyncio.sleep(30)
    story.cloud.port = 33999
    ready = await story.ready()
    assert ready.endpoint is not None and ready.endpoint.url == "http://192.0.2.45:33999"
    assert {url for url, _ in story.asked} == {"http://192.0.2.45:33999"}


@told
async def test_the_same_port_again_is_believed_after_a_minute(story: Story) -> None:
    instance = await story.start()
    await story.ready()
    await story.provider.stop(instance, within=60)
    story.cloud.next_ports.insert(0, 33526)
    begun = story.clock()
    await story.start(2)
    await story.ready()
    assert 60 <= story.clock() - begun < 75


@told
async def test_ports_that_are_only_numbers_lead_nowhere(story: Story) -> None:
    story.cloud.port_numbers = True
    await story.start()
    await asyncio.sleep(60)
    assert story.asked == []


@told
async def test_an_instance_that_does_not_map_our_port_is_stopped_for_good(story: Story) -> None:
    story.cloud.inner = 8080
    await story.start()
    gone = await story.gone()
    assert "VAST_PORT" in gone.reason
    assert gone.lasting
    assert not story.cloud.running


# --- Starts that come to nothing


@told
async def test_a_full_host_is_no_capacity_at_once_and_its_queue_is_left(story: Story) -> None:
    """A 200 that says no, and starts all the same as soon as the GPU is free."""
    story.cloud.full = True
    with pytest.raises(ProviderError) as refused:
        await story.start()
    assert (refused.value.code, refused.value.lasting, refused.value.instance) == ("no_capacity", False, None)
    assert "state change queued" in refused.value.detail
    assert [line[0] for line in story.journal.said] == ["intend", "end"]
    story.cloud.full = False
    await asyncio.sleep(DAY)
    assert await story.provider.list() == []
    assert story.cloud.spent(story.clock()) == 0


@told
async def test_a_queue_that_cannot_be_left_is_not_called_left(story: Story) -> None:
    story.cloud.full = story.cloud.deaf = True
    with pytest.raises(ProviderError) as refused:
        await story.start()
    assert refused.value.code == "no_capacity"
    assert refused.value.instance is not None
    story.cloud.deaf = False
    await story.provider.stop(refused.value.instance, within=60)
    assert story.journal.said[-1][0] == "end"


@told
async def test_a_start_that_is_stuck_in_scheduling_is_stopped_long_before_the_start_limit(story: Story) -> None:
    story.cloud.scheduling = True
    begun = story.clock()
    await story.start()
    gone = await story.gone()
    assert (gone.code, gone.lasting) == ("no_capacity", False)
    assert 30 < story.clock() - begun < 70
    assert story.cloud.intended == "stopped"


@pytest.mark.parametrize(
    ("status", "code"),
    [("exited", "start_failed"), ("unknown", "no_capacity"), ("offline", "no_capacity"), ("frozen", "start_failed")],
)
def test_a_state_that_never_comes_up_is_stopped_and_told_at_once(status: str, code: str) -> None:
    async def telling(story: Story) -> None:
        story.cloud.boot = [(0.0, None), (2.0, "loading"), (10.0, status)]
        begun = story.clock()
        await story.start()
        gone = await story.gone()
        assert (gone.code, gone.taken, story.cloud.running) == (code, False, False)
        assert gone.lasting is (status == "exited"), "callers are told now, and not after two more that are paid for"
        assert story.clock() - begun < 30

    told(telling)()


@told
async def test_the_state_from_before_the_start_is_not_yet_an_end(story: Story) -> None:
    story.cloud.boot = [(0.0, "exited"), (15.0, "loading"), (25.0, "running")]
    await story.start()
    await story.ready()


@told
async def test_the_state_from_before_the_start_is_an_end_if_it_stays(story: Story) -> None:
    story.cloud.boot = [(0.0, "exited")]
    begun = story.clock()
    await story.start()
    assert (await story.gone()).code == "start_failed"
    assert story.clock() - begun < 70


@pytest.mark.parametrize("status", ["offline", "unknown"])
def test_a_machine_without_a_line_is_not_even_told_to_start(status: str) -> None:
    async def telling(story: Story) -> None:
        story.cloud.actual = status
        with pytest.raises(ProviderError) as refused:
            await story.start()
        assert refused.value.code == "no_capacity"
        assert story.changes() == []

    told(telling)()


@told
async def test_a_state_that_nobody_knows_may_cost_and_is_waited_for(story: Story) -> None:
    story.cloud.boot = [(0.0, None), (2.0, "hibernating"), (50.0, "running")]
    await story.start()
    assert [found.id for found in await story.provider.list()] == ["883"]
    await story.ready()


@told
async def test_an_instance_that_is_not_there_cannot_be_started(story: Story) -> None:
    story.cloud.destroy()
    with pytest.raises(ProviderError) as refused:
        await story.start()
    assert refused.value.lasting
    assert story.journal.rentals == []
    assert await story.provider.storage() == 0


@told
async def test_a_refused_key_is_told_and_asked_with_ever_more_rarely(story: Story) -> None:
    other = Story(cloud=VastCloud(key="another"), key="wrong")
    for _ in range(50):
        with pytest.raises(ProviderError) as refused:
            await other.start()
        assert refused.value.code == "provider_auth"
        assert "wrong" not in f"{refused.value.detail} {refused.value} {other.provider!r} {other.alarms}"
        await asyncio.sleep(1)
    assert other.alarms[0][0] == "provider_auth"
    assert other.cloud.refused < 5


# --- What is taken away


@told
async def test_an_interruptible_instance_that_was_outbid_is_taken_away_and_does_not_come_back_by_itself(
    story: Story,
) -> None:
    instance = await story.start()
    await story.ready()
    story.cloud.take_away()
    story.provider.suspect(instance)
    begun = story.clock()
    gone = await story.gone()
    assert gone.taken
    assert story.clock() - begun < 20
    assert story.cloud.intended == "stopped"
    assert story.journal.said[-1][0] == "end"


@told
async def test_a_machine_that_lost_its_line_is_taken_away_when_it_does_not_answer_either(story: Story) -> None:
    instance = await story.start()
    await story.ready()
    story.cloud.unplug()
    story.provider.suspect(instance)
    begun = story.clock()
    gone = await story.gone()
    assert gone.taken
    assert story.clock() - begun < 60


@pytest.mark.parametrize("status", ["loading", "offline", "unknown"])
def test_a_status_alone_does_not_end_what_answers(status: str) -> None:
    """People saw machines called so that served all the while."""

    async def telling(story: Story) -> None:
        await story.start()
        await story.ready()
        handle = story.cloud.handle

        async def lying(method: str, path: str, body: bytes | None, within: float) -> Answer:
            answer = handle(method, f"/api{path}", {"Authorization": "Bearer vast-key"}, body, story.clock())
            told_status = answer.body.replace(b'"actual_status": "running"', f'"actual_status": "{status}"'.encode())
            return Answer(answer.status, answer.headers, told_status)

        story.provider._vast.line._transport = lying
        await asyncio.sleep(600)
        assert not any(isinstance(news, Gone) for news in story.heard)

    told(telling)()


@told
async def test_one_answer_alone_ends_nothing_that_has_served(story: Story) -> None:
    await story.start()
    await story.ready()
    handle, lies = story.cloud.handle, list[bytes]()

    async def lying(method: str, path: str, body: bytes | None, within: float) -> Answer:
        answer = handle(method, f"/api{path}", {"Authorization": "Bearer vast-key"}, body, story.clock())
        if not lies or method != "GET":
            return answer
        lie = lies.pop()
        return Answer(200, {}, answer.body.replace(lie.partition(b": ")[0] + b': "running"', lie))

    story.provider._vast.line._transport = lying
    for lie in (b'"cur_state": "stopped"', b'"actual_status": "exited"', b'"cur_state": "unloaded"'):
        lies.append(lie)
        await asyncio.sleep(120)
        assert not lies
    assert not any(isinstance(news, Gone) for news in story.heard)
    assert len(story.changes()) == 1


@pytest.mark.parametrize(
    ("actual", "current", "intended", "costs"),
    [
        ("exited", "stopped", "stopped", False),
        ("stopped", "stopped", "stopped", False),
        ("", "stopped", "stopped", False),
        ("created", "stopped", "stopped", False),
        ("offline", "stopped", "stopped", False),
        ("exited", "", "stopped", False),
        ("exited", "", "", False),
        ("exited", "running", "stopped", True),
        ("stopped", "running", "stopped", True),
        ("offline", "running", "stopped", True),
        ("", "running", "stopped", True),
        ("running", "stopped", "stopped", True),
        ("frozen", "stopped", "stopped", True),
        ("exited", "stopped", "running", True),
        ("", "", "stopped", True),
        ("unknown", "", "stopped", True),
        ("exited", "hibernating", "stopped", True),
    ],
)
def test_only_what_is_surely_at_rest_costs_nothing(actual: str, current: str, intended: str, costs: bool) -> None:
    assert sleeps(Contract("883", actual, intended, current, intended)) is not costs


@told
async def test_a_container_that_ends_is_no_fault_of_the_vendors_and_the_gpu_is_given_back(story: Story) -> None:
    instance = await story.start()
    await story.ready()
    story.cloud.exit()
    story.provider.suspect(instance)
    gone = await story.gone()
    assert not gone.taken
    assert not story.cloud.running


@told
async def test_the_end_of_a_contract_is_warned_of_and_is_the_vendors_doing(story: Story) -> None:
    story.cloud.ends_at = story.clock() + 1.1 * DAY
    await story.start()
    await story.ready()
    assert len(story.alarms) == 1
    await asyncio.sleep(1.1 * DAY - 600)
    warned = [text for kind, text in story.alarms if kind == "contract_ends"]
    assert len(warned) == 3
    assert "on 1970-01-02 at 02:40 UTC" in warned[0] and "883" in warned[0]
    await asyncio.sleep(900)
    gone = await story.gone()
    assert gone.taken
    assert "contract has ended" in gone.detail
    assert not story.cloud.running


@told
async def test_a_contract_that_ends_within_minutes_is_not_started(story: Story) -> None:
    story.cloud.ends_at = story.clock() + 200
    with pytest.raises(ProviderError) as refused:
        await story.start()
    assert refused.value.lasting
    assert "its contract ends on 1970-01-01" in refused.value.detail
    assert story.changes() == []


@told
async def test_an_instance_that_its_owner_destroyed_is_gone_once_the_list_says_so_too(story: Story) -> None:
    instance = await story.start()
    await story.ready()
    await asyncio.sleep(120)
    story.cloud.destroy()
    story.provider.suspect(instance)
    assert (await story.gone()).taken


# --- Politeness


@told
async def test_it_looks_no_oftener_than_the_vendor_wants_and_rarely_once_it_serves(story: Story) -> None:
    story.cloud.limit_every = 2.0
    await story.start()
    await story.ready()
    looks = story.looks()
    assert min(after - before for before, after in pairwise(looks)) >= 2.0
    served = len(story.looks())
    await asyncio.sleep(3600)
    assert len(story.looks()) - served <= 61


@told
async def test_a_stop_gets_through_where_the_vendor_says_too_often(story: Story) -> None:
    instance = await story.start()
    await story.ready()
    story.cloud.limit_every = 2.5
    await story.provider.stop(instance, within=120)
    assert not story.cloud.running


@told
async def test_an_api_that_fails_for_an_hour_changes_nothing_and_is_asked_ever_more_rarely(story: Story) -> None:
    await story.start()
    await story.ready()
    story.cloud.failing = 10_000
    before = len(story.cloud.calls)
    await asyncio.sleep(3600)
    assert len(story.cloud.calls) - before < 30
    assert not any(isinstance(news, Gone) for news in story.heard)


# --- What it cost


@told
async def test_bills_are_the_vendors_charges_with_the_disk_apart(story: Story) -> None:
    instance = await story.start()
    await story.ready()
    await asyncio.sleep(3600)
    await story.provider.stop(instance, within=60)
    bills = await story.provider.bills(1.0, story.clock())
    assert bills is not None
    (bill,) = bills
    assert isinstance(bill, Bill)
    assert bill.instance == "883"
    assert 340_000 <= bill.amount - bill.storage <= 360_000
    assert 9_000 <= bill.storage <= 11_000


@told
async def test_bills_are_asked_for_month_by_month(story: Story) -> None:
    await story.provider.bills(0.0, 62 * DAY)
    asked = [path for _, _, path in story.cloud.calls if "charges" in path]
    assert len(asked) == 3
    assert months(0.0, 62 * DAY) == [(0.0, 31 * DAY), (31 * DAY, 59 * DAY), (59 * DAY, 62 * DAY)]
    assert months(334 * DAY, 366 * DAY) == [(334 * DAY, 365 * DAY), (365 * DAY, 366 * DAY)]


@told
async def test_the_disk_is_paid_for_all_hours_of_the_longest_month(story: Story) -> None:
    assert await story.provider.storage() == 10_000 * 744


# --- Where it may be asked


def test_keys_do_not_cross_the_internet_in_the_clear_unless_that_was_said() -> None:
    async def whole() -> None:
        cloud = VastCloud()

        async def nobody(endpoint: Endpoint, path: str, within: float) -> Sight:
            raise AssertionError

        with pytest.raises(ValueError, match="ALLOW_PLAIN_HTTP"):
            VastProvider("883", transport=cloud.transport(lambda: 0.0), look=nobody, now=lambda: 0.0)

    run(whole())


def test_with_a_fingerprint_it_is_tls_and_the_one_certificate() -> None:
    async def whole() -> None:
        story = Story()
        secure = VastProvider(
            "883",
            transport=story.cloud.transport(story.clock),
            look=story.look,
            now=story.clock,
            key="upstream-key",
            fingerprint="ab" * 32,
            public_only=False,
        )
        await secure.start(Intent("main", 1), story.journal)
        await until(lambda: story.asked, step=0.1)
        assert story.asked[0] == ("https://192.0.2.45:33526", "upstream-key")
        await secure.close()
        await story.provider.close()

    run(whole())


def test_no_key_is_sent_to_an_address_that_is_not_a_public_one() -> None:
    """Whoever can make the vendor lie must not have our key sent into our own network."""

    async def whole() -> None:
        story = Story(cloud=VastCloud(host="10.0.0.7"))
        careful = VastProvider(
            "883", transport=story.cloud.transport(story.clock), look=story.look, now=story.clock, plain_http=True
        )
        await careful.start(Intent("main", 1), story.journal)
        await asyncio.sleep(60)
        assert story.asked == []
        await careful.close()
        await story.provider.close()

    run(whole())


@told
async def test_neither_key_is_in_a_repr(story: Story) -> None:
    await story.start()
    await story.ready()
    shown = f"{story.provider!r} {story.provider._vast!r} {story.heard!r}"
    assert "upstream-key" not in shown
    assert "vast-key" not in shown
