"""`wakegate stop --all`: the vendor is believed, and nothing else. In simulated time, and once over real HTTP."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from gateway.commands.ending import IN_ALL, LOOK_AGAIN, end_all, end_everywhere, end_rented
from gateway.config import Settings
from gateway.providers.base import Bill, Endpoint, Instance, ProviderError
from gateway.providers.renting.several import Several
from gateway.renting import prefix_of
from gateway.surroundings import settings_here
from tests.emulators.runpod import RunPodCloud, Served
from tests.support.renting import PodHouse
from tests.support.simulated import in_simulated_time


def pod(name: str, price: int = 340_000) -> Instance:
    return Instance(name, "runpod-pod", Endpoint("https://x"), 0.0, price=price, name=f"wk-{name}")


@dataclass
class Vendor:
    """What a Renter tells of one vendor; a test says what happens."""

    there: list[Instance] = field(default_factory=list)
    name: str = "runpod-pod"
    lists: list[Callable[[], Sequence[Instance]]] = field(default_factory=list)
    """Answers to the first questions, before the truth is told."""
    stopping: Callable[[Instance], Awaitable[None]] | None = None
    asked: list[str] = field(default_factory=list)

    async def list(self) -> Sequence[Instance]:
        self.asked.append("list")
        return self.lists.pop(0)() if self.lists else list(self.there)

    async def stop(self, instance: Instance, *, within: float) -> None:
        self.asked.append(f"stop {instance.id}")
        if self.stopping is not None:
            await self.stopping(instance)
        self.there.remove(instance)

    async def bills(self, begins: float, ends: float) -> Sequence[Bill] | None:
        raise NotImplementedError


def failing(reason: str, *, lasting: bool = False) -> Callable[[], Sequence[Instance]]:
    def fail() -> Sequence[Instance]:
        raise ProviderError(reason, lasting=lasting)

    return fail


async def end(vendor: Vendor) -> tuple[bool, list[str], float]:
    """Whether all has ended, what was said, and how long it took."""
    said: list[str] = []
    began = asyncio.get_running_loop().time()
    done = await end_all(vendor, said.append)  # type: ignore[arg-type]
    return done, said, asyncio.get_running_loop().time() - began


@in_simulated_time
async def test_a_vendor_that_cannot_be_asked_keeps_nothing_running_at_another() -> None:
    down = Vendor(lists=[failing("Vast refuses the key of this gateway.", lasting=True)], name="vast")
    up, said = Vendor([pod("a")]), list[str]()
    assert not await end_everywhere(Several([down, up]), said.append)  # type: ignore[list-item]
    assert up.there == []
    assert "vast cannot be asked: Vast refuses the key of this gateway." in said
    assert "a (runpod-pod) has ended, says the vendor." in said
    assert await end_everywhere(Several([Vendor(name="vast"), up]), said.append)  # type: ignore[list-item]


@in_simulated_time
async def test_what_runs_is_stopped_and_looked_for_again() -> None:
    vendor = Vendor([pod("a"), pod("b", 1_000_000)])
    done, said, _ = await end(vendor)
    assert done and vendor.there == []
    assert said == [
        "a (runpod-pod) runs, $0.34/h: it is stopped.",
        "a (runpod-pod) has ended, says the vendor.",
        "b (runpod-pod) runs, $1.00/h: it is stopped.",
        "b (runpod-pod) has ended, says the vendor.",
        "All of it has ended.",
    ]
    assert vendor.asked == ["list", "stop a", "stop b", "list", "list"]


@in_simulated_time
async def test_one_empty_list_is_not_believed() -> None:
    """What was created a moment ago is not in each list yet."""
    vendor = Vendor([pod("late")], lists=[list])
    done, said, took = await end(vendor)
    assert done and vendor.there == [] and "late (runpod-pod) has ended, says the vendor." in said
    assert took >= 2 * LOOK_AGAIN


@in_simulated_time
async def test_where_nothing_runs_that_is_said() -> None:
    done, said, took = await end(Vendor())
    assert (done, said, took) == (True, ["Nothing of ours runs at runpod-pod."], LOOK_AGAIN)


@in_simulated_time
async def test_a_vendor_that_cannot_be_asked_for_a_while_is_asked_again_and_the_trouble_said_once() -> None:
    down = failing("RunPod does not answer.")
    vendor = Vendor([pod("a")], lists=[down, down, down])
    done, said, _ = await end(vendor)
    assert done and said[0] == "runpod-pod cannot be asked: RunPod does not answer."
    assert sum("cannot be asked" in line for line in said) == 1


@in_simulated_time
async def test_an_empty_list_before_trouble_counts_for_nothing_after_it() -> None:
    vendor = Vendor(lists=[list, failing("Broken."), list, list])
    assert (await end(vendor))[0] and vendor.asked == ["list"] * 4


@in_simulated_time
async def test_a_key_that_is_refused_is_not_tried_for_minutes() -> None:
    done, said, took = await end(Vendor([pod("a")], lists=[failing("RunPod refuses the key.", lasting=True)]))
    assert (done, said, took) == (False, ["runpod-pod cannot be asked: RunPod refuses the key."], 0.0)


@in_simulated_time
async def test_a_stop_that_fails_is_tried_again_until_the_vendor_confirms_it() -> None:
    failures = [ProviderError("The pod is locked."), ProviderError("The pod is locked.")]

    async def stubborn(instance: Instance) -> None:
        if failures:
            raise failures.pop()

    vendor = Vendor([pod("a")], stopping=stubborn)
    done, said, _ = await end(vendor)
    assert done and vendor.asked.count("stop a") == 3
    assert said.count("a (runpod-pod): The pod is locked.") == 2
    assert sum("it is stopped" in line for line in said) == 1


@pytest.mark.parametrize("hangs", [False, True])
@in_simulated_time
async def test_what_will_not_stop_ends_in_a_failure_that_says_so(hangs: bool) -> None:
    async def never(instance: Instance) -> None:
        if hangs:
            await asyncio.Event().wait()
        raise ProviderError("The pod is locked.")

    vendor = Vendor([pod("a")], stopping=never)
    done, said, took = await end(vendor)
    assert not done and took < IN_ALL + 150
    assert said[-1].startswith("Not everything is known to have ended")


@in_simulated_time
async def test_one_that_hangs_does_not_hold_up_another() -> None:
    async def stopping(instance: Instance) -> None:
        if instance.id == "a":
            await asyncio.Event().wait()

    vendor = Vendor([pod("a"), pod("b")], stopping=stopping)
    done, said, _ = await end(vendor)
    assert not done and [each.id for each in vendor.there] == ["a"]
    assert "b (runpod-pod) has ended, says the vendor." in said


# --- With what production asks: settings, our provider, RunPod's API over HTTP


def rents(folder: Path, url: str, **more: str) -> Settings:
    """The settings of somebody who has nothing else left: no ledger, no gateway."""
    there = {
        "PROVIDER": "runpod-pod",
        "RUNPOD_API_KEY": "rp-key",
        "RUNPOD_API_URL": url,
        "UPSTREAM_API_KEY": "sk-pod-0123456789abcdef",
        "API_KEY": "sk-test-0123456789abcdef",
        "MONTHLY_BUDGET": "20",
        "DATA_DIR": str(folder / "data"),
        "WAKEGATE_ENV_FILE": str(folder / "none.env"),
    }
    (folder / "none.env").touch()
    return settings_here(there | more)[0]


def started(cloud: RunPodCloud, pod: str, **more: Any) -> None:
    """A pod that runs, as if somebody had started it long ago."""
    cloud.put_pod(pod, **more)
    cloud.handle(
        "POST",
        f"/v2/pods/{pod}/action",
        {"authorization": f"Bearer {cloud.key}", "content-type": "application/json"},
        b'{"action": "start"}',
        cloud.now,
    )


@in_simulated_time
async def test_the_pod_that_the_settings_name_is_ended_and_nobody_elses() -> None:
    house = PodHouse(pod="abc123")
    for pod in ("abc123", "theirs"):
        started(house.cloud, pod)
    await asyncio.sleep(3600)
    said: list[str] = []
    assert await end_all(house.provider, said.append)
    assert house.cloud.running() == ["theirs"]
    assert said[0].startswith("abc123 (runpod-pod) runs, $0.39/h") and said[-1] == "All of it has ended."
    await house.close()


async def test_pods_that_were_created_are_found_by_their_names_where_all_else_is_lost(tmp_path: Path) -> None:
    cloud = RunPodCloud(now=time.time() - 3600)
    said: list[str] = []
    async with Served(cloud, time.time) as served:
        settings = rents(
            tmp_path, served.url, RUNPOD_POD_SPEC='{"image": "x", "gpu": {"id": ["NVIDIA L4"], "count": 1}}'
        )
        started(cloud, "ours", name=f"{prefix_of(settings, 'default')}7")
        started(cloud, "theirs", name="wakegate-1234-7")
        assert await asyncio.to_thread(end_rented, settings, said.append, look_again=0.1)
    assert cloud.running() == ["theirs"] and said[-1] == "All of it has ended."
    assert not (tmp_path / "data").exists(), "it needs no ledger, and makes none"


async def test_a_key_that_is_refused_is_said_and_counts_as_failed(tmp_path: Path) -> None:
    cloud = RunPodCloud(now=time.time(), refuses_key=True)
    said: list[str] = []
    async with Served(cloud, time.time) as served:
        settings = rents(tmp_path, served.url, RUNPOD_POD_ID="abc123")
        assert not await asyncio.to_thread(end_rented, settings, said.append, look_again=0.1)
    assert len(said) == 1 and "runpod-pod cannot be asked" in said[0]


def test_what_cannot_be_rented_with_is_said(tmp_path: Path) -> None:
    said: list[str] = []
    settings = rents(tmp_path, "http://127.0.0.1:9/v2", RUNPOD_POD_SPEC=str(tmp_path / "nowhere.json"))
    assert not end_rented(settings, said.append)
    assert said[0].startswith("RUNPOD_POD_SPEC: ")
