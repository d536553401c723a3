"""Pods at RunPod, in simulated time against an emulated RunPod: what is started, when it is believed, how it ends."""

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from decimal import Decimal
from itertools import pairwise
from typing import Any

import pytest

from gateway.providers.base import Gone, Instance, Loading, ProviderError, Ready
from gateway.providers.probe import Sight
from gateway.providers.renting.rented import SILENT
from gateway.providers.runpod_pod.provider import Spec
from tests.emulators.runpod import RunPodCloud
from tests.support.renting import PREFIX, SPEC, WALL, PodHouse
from tests.support.simulated import in_simulated_time


def resuming(story: Callable[[PodHouse], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    """A story with one pod that exists and sleeps."""

    async def told() -> None:
        house = PodHouse()
        house.cloud.put_pod("abc123", persistent=20)
        try:
            await story(house)
        finally:
            await house.close()

    told.__name__, told.__doc__ = story.__name__, story.__doc__
    return in_simulated_time(told)


def creating(story: Callable[[PodHouse], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    """A story with a spec and no pod yet."""

    async def told() -> None:
        house = PodHouse(pod=Spec.of(SPEC))
        try:
            await story(house)
        finally:
            await house.close()

    told.__name__, told.__doc__ = story.__name__, story.__doc__
    return in_simulated_time(told)


# --- From a start to an answer


@resuming
async def test_a_sleeping_pod_is_started_and_told_of_until_it_serves(house: PodHouse) -> None:
    instance = await house.start()
    assert instance.endpoint.url == ""
    ready = await house.until_ready(instance)
    assert ready.endpoint.url == "https://abc123-8000.proxy.runpod.net"
    assert ready.endpoint.key == "worker-key-0123456789"
    phases = [news.phase for news in house.heard if isinstance(news, Loading)]
    assert phases[0] == "booting"
    assert phases[-1] == "loading"
    shares = [news.ratio for news in house.heard if isinstance(news, Loading) and news.phase == "loading"]
    assert shares == sorted(share for share in shares if share is not None)


@resuming
async def test_it_is_written_down_before_the_vendor_is_asked_and_known_after(house: PodHouse) -> None:
    def lost(method: str, path: str) -> str:
        if method == "POST":
            assert house.notes.words() == ["intend"]
        return ""

    house.lost = lost
    await house.start()
    assert house.notes.said == [("intend", "wakegate-t-1", 390_000), ("know", "wakegate-t-1", "abc123", 390_000)]


@resuming
async def test_what_cannot_be_written_down_is_not_started(house: PodHouse) -> None:
    house.notes.full = True
    with pytest.raises(ProviderError):
        await house.start()
    assert not house.cloud.running()
    assert not house.asked("POST")


@creating
async def test_a_pod_is_created_by_the_spec_with_our_name_and_environment(house: PodHouse) -> None:
    instance = await house.start()
    (body,) = house.cloud.creates
    assert body["name"] == instance.name == f"{PREFIX}1"
    assert body["gpu"] == {"id": "NVIDIA L4", "count": 1}
    assert body["env"] == {"API_KEY": "worker-key-0123456789", "WAKEGATE_RENTAL": instance.name}
    assert body["ports"] == ["8000/http"]
    assert (await house.until_ready(instance)).endpoint.url == f"https://{instance.id}-8000.proxy.runpod.net"


@in_simulated_time
async def test_gpus_and_data_centres_are_tried_in_their_order() -> None:
    spec = {**SPEC, "dataCenterIds": ["EU-RO-1", "US-KS-2"]}
    house = PodHouse(pod=Spec.of(spec))
    lost = {"NVIDIA L4 in EU-RO-1", "NVIDIA L4 in US-KS-2", "NVIDIA A40 in EU-RO-1"}
    await house.provider.price()  # the catalogue is read while all is free, and is out of date then
    house.cloud.full |= lost
    await house.start()
    (body,) = house.cloud.creates
    assert (body["gpu"]["id"], body["dataCenterIds"]) == ("NVIDIA A40", ["US-KS-2"])
    assert house.notes.words() == ["intend", "void"] * 3 + ["intend", "know"]
    await house.close()


@creating
async def test_what_the_catalogue_has_none_of_is_tried_last(house: PodHouse) -> None:
    house.cloud.full.add("NVIDIA L4")
    await house.start()
    assert house.cloud.creates[0]["gpu"]["id"] == "NVIDIA A40"
    assert house.notes.words() == ["intend", "know"]


@creating
async def test_no_capacity_anywhere_costs_nothing_and_says_so(house: PodHouse) -> None:
    house.cloud.full |= {"NVIDIA L4", "NVIDIA A40"}
    with pytest.raises(ProviderError) as refused:
        await house.start()
    assert (refused.value.code, refused.value.lasting) == ("no_capacity", False)
    assert house.notes.words() == ["intend", "void"] * 2


@creating
async def test_a_budget_without_room_for_the_dear_one_may_have_room_for_a_cheap_one(house: PodHouse) -> None:
    quota = ProviderError("The month's budget has no room.", code="insufficient_quota")
    house.notes.refuses = lambda rental: quota if rental.price < 400_000 else None
    await house.start()
    assert house.cloud.creates[0]["gpu"]["id"] == "NVIDIA A40"
    house.notes.refuses = lambda rental: quota
    house.cloud.take_away("pod0001x", "TERMINATED")
    with pytest.raises(ProviderError) as refused:
        await house.start(2)
    assert refused.value.code == "insufficient_quota"


@in_simulated_time
async def test_a_cpu_pod_is_priced_by_its_cores() -> None:
    house = PodHouse(pod=Spec.of({"image": "x", "cpu": {"id": "cpu5c", "vcpuCount": 4}}))
    assert await house.provider.price() == 160_000
    await house.start()
    assert house.cloud.creates[0]["cpu"] == {"id": "cpu5c", "vcpuCount": 4}
    await house.close()


# --- Never two


@resuming
async def test_a_pod_that_runs_already_is_taken_over_and_in_the_ledger_before_anything_is_sent(house: PodHouse) -> None:
    house.cloud.start_by_hand("abc123")
    await asyncio.sleep(60)
    instance = await house.start()
    assert not house.asked("POST")
    assert [one[0] for one in house.notes.said] == ["intend", "know"]
    assert house.notes.rentals[0].runs_since == pytest.approx(WALL + 1000)
    await house.until_ready(instance)


@creating
async def test_a_created_pod_is_found_by_its_name_after_a_restart(house: PodHouse) -> None:
    first = await house.start()
    await house.close()
    house.provider = house.opened()
    (listed,) = await house.provider.list()
    assert (listed.id, listed.name) == (first.id, first.name)
    again = await house.start(2)
    assert (again.id, again.name) == (first.id, first.name)
    assert len(house.cloud.creates) == 1


@creating
async def test_of_two_that_run_one_is_kept_and_the_other_ended(house: PodHouse) -> None:
    await house.start()
    house.cloud.handle(
        "POST", "/pods", {"authorization": "Bearer rp-key"},
        b'{"name": "wakegate-t-x", "image": "x", "gpu": {"id": "NVIDIA L4"}}', house.now(),
    )  # fmt: skip
    assert len(house.cloud.running()) == 2
    await house.close()
    house.provider = house.opened()
    kept = await house.start(2)
    await asyncio.sleep(60)
    assert len(house.cloud.running()) == 1
    assert house.alarms[0][0] == "orphan"
    other = ({*house.cloud.pods} - {kept.id}).pop()
    booked = next(rental for rental in house.notes.rentals if rental.instance == other)
    assert booked.price and booked.runs_since is not None, "what the other one has cost is written down"
    assert ("end", booked.name) in house.notes.said


@creating
async def test_a_create_that_was_not_answered_is_found_by_its_name(house: PodHouse) -> None:
    """Though new pods are in no list for 40 seconds."""
    house.cloud.lag = 40
    house.lost = lambda method, path: "after" if method == "POST" else ""
    instance = await house.start()
    assert house.cloud.running() == [instance.id]
    assert len(house.cloud.creates) == 1
    assert house.notes.words() == ["intend", "know"]


@creating
async def test_a_create_that_never_arrived_is_written_off_after_a_minute_and_three_lists(house: PodHouse) -> None:
    house.lost = lambda method, path: "gone" if method == "POST" else ""
    begun = house.now()
    with pytest.raises(ProviderError) as failed:
        await house.start()
    assert not failed.value.lasting
    assert house.now() - begun >= 60
    assert len(house.asked("GET", "/pods")) >= 4
    assert house.notes.words() == ["intend", "void"]
    house.lost = lambda method, path: ""
    await house.start(2)
    assert len(house.cloud.creates) == 1


@creating
async def test_nothing_is_created_while_the_list_cannot_be_had(house: PodHouse) -> None:
    house.cloud.failing = 1000
    with pytest.raises(ProviderError) as refused:
        await house.start()
    assert not refused.value.lasting
    assert not house.asked("POST")
    assert not house.notes.said


@resuming
async def test_a_start_that_was_not_answered_is_not_repeated(house: PodHouse) -> None:
    house.lost = lambda method, path: "after" if method == "POST" else ""
    await house.until_ready(await house.start())
    assert len(house.asked("POST", "action")) == 1


@resuming
async def test_a_start_that_never_arrived_is_told_after_a_while(house: PodHouse) -> None:
    house.lost = lambda method, path: "gone" if method == "POST" else ""
    gone = await house.gone(await house.start())
    assert (gone.reason, gone.taken) == ("The vendor did not start it.", False)
    assert house.notes.words() == ["intend", "end"]


@creating
async def test_a_start_that_is_broken_off_leaves_something_that_a_stop_finds(house: PodHouse) -> None:
    house.cloud.lag = 40
    house.lost = lambda method, path: "after" if method == "POST" else ""
    start = asyncio.ensure_future(house.start())
    await asyncio.sleep(5)
    start.cancel()
    with pytest.raises(ProviderError) as broken:
        await start
    instance = broken.value.instance
    assert instance is not None
    assert house.cloud.running()
    await house.provider.stop(instance, within=600)
    assert not house.cloud.running()
    assert house.notes.words() == ["intend", "end"]


# --- What RunPod refuses


def break_capacity(cloud: RunPodCloud) -> None:
    cloud.full.add("abc123")


def break_balance(cloud: RunPodCloud) -> None:
    cloud.broke = True


def break_lock(cloud: RunPodCloud) -> None:
    cloud.pods["abc123"].locked = True


def break_key(cloud: RunPodCloud) -> None:
    cloud.refuses_key = True


def break_pod(cloud: RunPodCloud) -> None:
    cloud.pods.clear()


@pytest.mark.parametrize(
    ("break_it", "code", "lasting", "word"),
    [
        (break_capacity, "no_capacity", False, "no free machine"),
        (break_balance, "provider_auth", True, "no money"),
        (break_lock, "start_failed", True, "locked"),
        (break_key, "provider_auth", True, "refuses the key"),
        (break_pod, "start_failed", True, "does not know"),
    ],
)
def test_each_refusal_has_its_code_and_leaves_nothing_that_costs(
    break_it: Callable[[RunPodCloud], None], code: str, lasting: bool, word: str
) -> None:
    @resuming
    async def story(house: PodHouse) -> None:
        break_it(house.cloud)
        with pytest.raises(ProviderError) as refused:
            await house.start()
        assert (refused.value.code, refused.value.lasting) == (code, lasting)
        assert word in refused.value.reason
        assert refused.value.instance is None
        assert house.notes.words() in ([], ["intend", "void"])
        assert not house.cloud.running()

    story()


@in_simulated_time
async def test_a_body_that_runpod_does_not_understand_is_refused_for_good() -> None:
    house = PodHouse(pod=Spec.of({**SPEC, "gpuTypeIds": ["NVIDIA L4"]}))
    with pytest.raises(ProviderError) as refused:
        await house.start()
    assert refused.value.lasting
    assert "gpuTypeIds" in refused.value.detail
    await house.close()


@resuming
async def test_a_pod_without_its_gpu_is_stopped_at_the_first_status_that_shows_it(house: PodHouse) -> None:
    house.cloud.zero_gpus = True
    instance = await house.start()
    gone = await house.gone(instance)
    assert "without its GPU" in gone.reason
    assert (gone.code, gone.lasting, gone.taken) == ("no_capacity", False, False)
    assert not house.cloud.running()
    assert house.notes.words()[-1] == "end"
    up = house.cloud.pods["abc123"].spans[0]
    assert up.ends is not None
    assert up.ends - up.begins < 20


@resuming
async def test_a_pod_whose_container_never_starts_makes_no_progress(house: PodHouse) -> None:
    house.cloud.never_up = True
    instance = await house.start()
    watch = house.watch(instance)
    await asyncio.sleep(600)
    assert 1 <= len(house.heard) <= 4
    assert all(isinstance(news, Loading) and news.phase == "booting" for news in house.heard)
    await house.provider.stop(instance, within=60)
    await watch
    assert not house.cloud.running()


@resuming
async def test_a_status_that_nobody_knows_means_that_it_may_cost(house: PodHouse) -> None:
    house.checks = lambda method, path, answer: None  # the schema has no such word
    house.cloud.lies["abc123"] = "MIGRATING"
    assert [one.id for one in await house.provider.list()] == ["abc123"]
    house.cloud.lies.clear()
    assert await house.provider.list() == []


# --- Until it is over


@resuming
async def test_a_stop_is_done_when_the_status_says_so_twice(house: PodHouse) -> None:
    instance = await house.until_ready(await house.start())
    await house.provider.stop(instance, within=60)
    assert not house.cloud.running()
    assert house.notes.words()[-1] == "end"
    assert house.cloud.pods["abc123"].status == "EXITED"
    assert not house.asked("DELETE")
    stopped = house.asked("POST", "action")[-1]
    assert len([at for at in house.asked("GET", "/pods/abc123") if at >= stopped]) >= 2


@creating
async def test_what_was_created_is_gone_for_good_after_a_stop(house: PodHouse) -> None:
    instance = await house.until_ready(await house.start())
    await house.provider.stop(instance, within=60)
    assert house.cloud.pods[instance.id].status == "TERMINATED"
    assert house.notes.words()[-1] == "end"
    assert await house.provider.list() == []


@resuming
async def test_a_stop_that_is_not_followed_is_asked_for_again_and_is_an_alarm(house: PodHouse) -> None:
    instance = await house.until_ready(await house.start())
    house.cloud.deaf = True
    with pytest.raises(ProviderError) as unconfirmed:
        await house.provider.stop(instance, within=25)
    assert unconfirmed.value.instance == instance
    assert "end" not in house.notes.words()
    await asyncio.sleep(200)
    assert house.alarms[0][0] == "will_not_stop"
    assert len(house.asked("POST", "action")) > 10
    house.cloud.deaf = False
    await house.provider.stop(instance, within=60)
    assert house.notes.words()[-1] == "end"
    assert not house.cloud.running()


@creating
async def test_what_will_not_be_terminated_is_stopped_in_between(house: PodHouse) -> None:
    instance = await house.until_ready(await house.start())
    house.cloud.deaf = True
    with pytest.raises(ProviderError):
        await house.provider.stop(instance, within=45)
    assert house.asked("DELETE")
    assert house.asked("POST", f"{instance.id}/action")


@resuming
async def test_one_status_alone_ends_nothing(house: PodHouse) -> None:
    instance = await house.until_ready(await house.start())
    house.cloud.lies["abc123"] = "EXITED"
    house.provider.suspect(instance)
    await asyncio.sleep(2.5)
    house.cloud.lies.clear()
    watch = house.watch(instance)
    await asyncio.sleep(120)
    assert not watch.done()
    assert house.notes.words()[-1] != "end"
    watch.cancel()


@resuming
async def test_a_404_is_an_end_only_if_the_list_agrees(house: PodHouse) -> None:
    instance = await house.until_ready(await house.start())
    house.cloud.hides.add("abc123")
    with pytest.raises(ProviderError):
        await house.provider.stop(instance, within=20)
    assert house.notes.words()[-1] != "end"
    house.cloud.hides.clear()
    await house.provider.stop(instance, within=60)
    assert not house.cloud.running()


@resuming
async def test_a_pod_that_was_locked_meanwhile_is_an_alarm_and_goes_on_costing(house: PodHouse) -> None:
    instance = await house.until_ready(await house.start())
    house.cloud.pods["abc123"].locked = True
    with pytest.raises(ProviderError):
        await house.provider.stop(instance, within=20)
    assert "locked" in house.alarms[0][1]
    assert "end" not in house.notes.words()
    house.cloud.pods["abc123"].locked = False
    await house.provider.stop(instance, within=60)


@resuming
async def test_a_stop_of_something_from_before_a_restart_needs_no_memory(house: PodHouse) -> None:
    instance = await house.until_ready(await house.start())
    await house.close()
    house.provider = house.opened()
    await house.provider.stop(instance, within=60)
    assert not house.cloud.running()


@creating
async def test_a_stopped_pod_of_ours_is_swept_away_at_the_next_start(house: PodHouse) -> None:
    first = await house.until_ready(await house.start())
    house.cloud.take_away(first.id)
    await house.gone(first)
    await house.start(2)
    await asyncio.sleep(60)
    assert house.cloud.pods[first.id].status == "TERMINATED"
    assert len(house.cloud.running()) == 1


@resuming
async def test_a_pod_that_is_taken_away_is_known_within_seconds_of_the_broken_connection(house: PodHouse) -> None:
    instance = await house.until_ready(await house.start())
    await asyncio.sleep(300)
    house.cloud.take_away("abc123")
    taken = house.now()
    house.provider.suspect(instance)
    gone = await house.gone(instance)
    assert gone.taken
    assert house.now() - taken <= 10
    assert house.notes.words()[-1] == "end"


@resuming
async def test_a_pod_that_is_taken_away_is_noticed_by_ourselves_within_a_minute(house: PodHouse) -> None:
    instance = await house.until_ready(await house.start())
    await asyncio.sleep(300)
    house.cloud.take_away("abc123")
    taken = house.now()
    assert (await house.gone(instance)).taken
    assert house.now() - taken <= 60


@resuming
async def test_an_upstream_that_is_silent_for_long_is_given_up_and_its_pod_stopped(house: PodHouse) -> None:
    instance = await house.until_ready(await house.start())
    house.looks = lambda endpoint, path: Sight(0, trouble="refused")
    gone = await house.gone(instance)
    assert (gone.reason, gone.taken) == (SILENT, False)
    assert not house.cloud.running()


@resuming
async def test_an_upstream_that_refuses_our_key_is_not_paid_for(house: PodHouse) -> None:
    house.looks = lambda endpoint, path: Sight(401 if path == "/v1/models" else 200, {})
    gone = await house.gone(await house.start())
    assert gone.lasting
    assert "UPSTREAM_API_KEY" in gone.reason
    assert not house.cloud.running()


@resuming
async def test_a_worker_whose_engine_failed_is_not_paid_for(house: PodHouse) -> None:
    house.looks = lambda endpoint, path: Sight(200, {"status": "failed", "state": "failed", "reason": "no model"})
    gone = await house.gone(await house.start())
    assert gone.reason == "In the rented machine: no model"
    assert not house.cloud.running()


# --- Over TCP


def test_another_port_at_each_start_and_nothing_goes_to_the_old_one() -> None:
    @in_simulated_time
    async def story() -> None:
        house = PodHouse(connect="tcp", plain_http=True)
        house.cloud.put_pod("abc123", ports=["8000/tcp"])
        house.cloud.old_ports = True  # asleep it still shows where it was
        first = await house.until_ready(await house.start())
        await house.provider.stop(first, within=60)
        stopped = house.now()
        house.heard.clear()
        second = await house.until_ready(await house.start(2))
        assert second.endpoint.url != first.endpoint.url
        assert not [url for at, url, _ in house.cloud.keys_sent if at > stopped and url == first.endpoint.url]
        await house.close()

    story()


def test_a_container_that_began_again_elsewhere_is_ready_again_with_its_new_address() -> None:
    @in_simulated_time
    async def story() -> None:
        house = PodHouse(connect="tcp", plain_http=True)
        house.cloud.put_pod("abc123", ports=["8000/tcp"])
        instance = await house.until_ready(await house.start())
        house.heard.clear()
        watch = house.watch(instance)
        house.cloud.restart("abc123")
        house.provider.suspect(instance)
        await asyncio.sleep(60)
        ready = [news for news in house.heard if isinstance(news, Ready)]
        assert ready[-1].endpoint is not None
        assert ready[-1].endpoint.url != instance.endpoint.url
        watch.cancel()
        await house.close()

    story()


def test_a_container_that_began_again_elsewhere_and_never_serves_is_not_paid_for() -> None:
    """No start limit holds any more: callers who keep coming would keep it for ever."""

    @in_simulated_time
    async def story() -> None:
        house = PodHouse(connect="tcp", plain_http=True)
        house.cloud.put_pod("abc123", ports=["8000/tcp"])
        instance = await house.until_ready(await house.start())
        served = instance.endpoint.url
        house.looks = lambda endpoint, path: None if endpoint.url == served else Sight(0, trouble="refused")
        house.cloud.restart("abc123")
        house.provider.suspect(instance)
        gone = await house.gone(instance, within=900)
        assert gone.code == "backend_unavailable" and not gone.taken
        assert not house.cloud.running() and house.notes.words()[-1] == "end"
        await house.close()

    story()


@pytest.mark.parametrize("ip", ["127.0.0.1", "169.254.169.254", "10.0.0.8", "metadata.internal", ""])
def test_a_key_goes_to_no_address_that_is_not_public(ip: str) -> None:
    @in_simulated_time
    async def story() -> None:
        house = PodHouse(connect="tcp", plain_http=True)
        house.cloud.put_pod("abc123", ports=["8000/tcp"], ip=ip)
        instance = await house.start()
        await asyncio.sleep(120)
        assert not house.cloud.keys_sent
        await house.provider.stop(instance, within=60)
        await house.close()

    story()


# --- Manners


@resuming
async def test_looks_are_rare_two_seconds_apart_while_booting_and_a_minute_when_ready(house: PodHouse) -> None:
    instance = await house.until_ready(await house.start())
    looks = house.asked("GET", "/pods/abc123")[2:]
    assert all(later - sooner >= 2 for sooner, later in pairwise(looks))
    before = len(house.cloud.calls)
    await asyncio.sleep(600)
    assert len(house.cloud.calls) - before <= 11
    for _ in range(500):
        house.provider.suspect(instance)
        await asyncio.sleep(0.1)
    assert len(house.cloud.calls) - before <= 11 + 26


@resuming
async def test_a_refused_key_is_met_with_growing_pauses_whoever_keeps_asking(house: PodHouse) -> None:
    instance = await house.until_ready(await house.start())
    house.cloud.refuses_key = True
    tried = [0]

    def lost(method: str, path: str) -> str:
        tried[0] += 1
        return ""

    house.lost = lost
    for _ in range(600):
        with pytest.raises(ProviderError) as refused:
            await house.provider.list()
        assert refused.value.code == "provider_auth"
        await asyncio.sleep(6)
    assert tried[0] <= 10
    assert house.alarms[0][0] == "provider_auth"
    house.cloud.refuses_key = False
    await house.provider.stop(instance, within=600)  # a stop waits no longer than half a minute between its tries
    assert not house.cloud.running()


@resuming
async def test_a_failing_api_is_met_with_growing_pauses(house: PodHouse) -> None:
    instance = await house.until_ready(await house.start())
    house.cloud.failing = 10**9
    before = house.now()
    calls = len(house.cloud.calls)
    await asyncio.sleep(3600)
    assert house.now() - before == 3600
    assert len(house.cloud.calls) - calls <= 16
    house.cloud.failing = 0
    await house.provider.stop(instance, within=60)


@resuming
async def test_when_asked_too_often_runpods_pause_is_kept_and_stops_go_first(house: PodHouse) -> None:
    instance = await house.until_ready(await house.start())
    await asyncio.sleep(100 - house.now() % 60)  # 20 seconds until a new minute
    house.cloud.limit, allowed = 0, house.now() + 19.9
    with pytest.raises(ProviderError):
        await house.provider.list()
    house.cloud.limit = None
    order: list[str] = []

    def lost(method: str, path: str) -> str:
        assert house.now() >= allowed
        order.append(method)
        return ""

    house.lost = lost
    start = asyncio.ensure_future(house.provider.price())
    await house.provider.stop(instance, within=300)
    await start
    assert order[0] == "POST"


# --- Money


@in_simulated_time
async def test_the_higher_of_two_prices_counts_and_says_why() -> None:
    house = PodHouse(hourly_price=450_000)
    house.cloud.put_pod("abc123", count=1)
    await house.start()
    assert house.notes.rentals[0].price == 450_000
    assert house.notes.rentals[0].why == "HOURLY_PRICE, more than $0.39 (RunPod's list price of 1 x NVIDIA L4)"
    await house.close()


@resuming
async def test_a_pod_that_says_0_while_it_sleeps_is_priced_by_the_catalogue_for_all_its_gpus(house: PodHouse) -> None:
    house.cloud.put_pod("abc123", count=2)
    assert await house.provider.price() == 780_000


@in_simulated_time
async def test_without_any_price_nothing_is_started() -> None:
    house = PodHouse()
    house.cloud.put_pod("abc123", gpu="NVIDIA B999")
    with pytest.raises(ProviderError) as refused:
        await house.start()
    assert "HOURLY_PRICE" in refused.value.reason
    assert not house.notes.said
    await house.close()


@resuming
async def test_a_price_that_changes_while_it_runs_is_written_down(house: PodHouse) -> None:
    await house.until_ready(await house.start())
    house.cloud.price_becomes(Decimal(2))
    await asyncio.sleep(90)
    assert house.notes.said[-1] == ("know", "wakegate-t-1", "abc123", 780_000)


@resuming
async def test_what_runpod_billed_is_told_in_micro_dollars_with_its_disk_apart(house: PodHouse) -> None:
    instance = await house.until_ready(await house.start())
    await asyncio.sleep(1800)
    await house.provider.stop(instance, within=60)
    bills = await house.provider.bills(WALL, house.now())
    assert bills is not None
    assert {bill.instance for bill in bills} == {"abc123"}
    ran = sum(bill.amount - bill.storage for bill in bills)
    assert ran == pytest.approx(house.cloud.spent(house.now()), abs=len(bills) + 1)
    assert all(bill.storage > 0 for bill in bills)


@creating
async def test_bills_of_somebody_elses_pods_are_left_out(house: PodHouse) -> None:
    house.cloud.put_pod("theirs", name="training")
    house.cloud.start_by_hand("theirs")
    await house.start()
    await asyncio.sleep(60)
    bills = await house.provider.bills(WALL, house.now())
    assert bills is not None
    assert {bill.instance for bill in bills} == {"pod0001x"}
    assert [one.id for one in await house.provider.list()] == ["pod0001x"]


@resuming
async def test_the_disk_of_a_resumed_pod_is_counted_by_the_month(house: PodHouse) -> None:
    assert await house.provider.storage() == 20 * 200_000


# --- The spec


@pytest.mark.parametrize(
    ("body", "word"),
    [
        ([], "JSON object"),
        ({"gpu": {"id": "x"}}, "image"),
        ({"image": "x"}, "exactly one of gpu and cpu"),
        ({"image": "x", "gpu": {"id": "x"}, "cpu": {"id": "y"}}, "exactly one of gpu and cpu"),
        ({"image": "x", "gpu": {"count": 1}}, "gpu.id"),
        ({"image": "x", "gpu": {"id": "x", "count": 0}}, "gpu.count"),
        ({"image": "x", "cpu": {"id": "x"}}, "cpu.vcpuCount"),
        ({"image": "x", "gpu": {"id": "x"}, "cloud": "MOON"}, "cloud"),
        ({"image": "x", "gpu": {"id": "x"}, "dataCenterIds": "EU"}, "dataCenterIds"),
        ({"image": "x", "gpu": {"id": "x"}, "env": []}, "env"),
    ],
)
def test_a_spec_that_cannot_be_one_is_refused_with_the_name_of_its_part(body: object, word: str) -> None:
    with pytest.raises(ValueError, match=word):
        Spec.of(body)


def test_a_spec_may_name_gpus_with_counts_of_their_own() -> None:
    spec = Spec.read('{"image": "x", "gpu": [{"id": "A", "count": 2}, {"id": ["B", "C"]}]}')
    assert [(one.id, one.count) for one in spec.candidates] == [("A", 2), ("B", 1), ("C", 1)]


def test_an_instance_has_no_endpoint_before_it_is_ready() -> None:
    @resuming
    async def story(house: PodHouse) -> None:
        instance: Instance = await house.start()
        assert instance.endpoint.url == ""
        assert Gone("x").taken is False

    story()


@in_simulated_time
async def test_while_something_may_cost_money_the_vendor_is_asked_with_the_short_pauses_of_a_stop() -> None:
    """After a restart nobody follows what runs, and an API that failed for an hour is paused for minutes."""
    for costs, longest in ((False, 900.0), (True, 35.0)):
        house = PodHouse()
        house.provider.heed(lambda costs=costs: costs)
        house.cloud.refuses_key = True
        for _ in range(40):
            with contextlib.suppress(ProviderError):
                await house.provider.list()
            await asyncio.sleep(60)
        begun, house.cloud.refuses_key = asyncio.get_running_loop().time(), False
        while True:
            try:
                await house.provider.list()
                break
            except ProviderError:
                await asyncio.sleep(1)
        waited = asyncio.get_running_loop().time() - begun
        assert waited <= longest
        assert costs or waited > 60, "asleep there is time for a longer pause"
        await house.provider.close()


@resuming
async def test_a_list_that_has_become_cheaper_says_nothing_of_a_pod_that_ran_at_more(house: PodHouse) -> None:
    first = await house.start()
    await house.until_ready(first)
    await house.provider.stop(first, within=60)
    for gpu in house.cloud.gpus:
        gpu.secure = gpu.secure / 2
    await asyncio.sleep(700)  # the catalogue is read again
    second = await house.start(2)
    assert second.price == first.price
    assert "when it ran last" in house.notes.rentals[-1].why
