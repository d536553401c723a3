"""The fallback's money on a real folder: known to the volume before it is spent, and never counted twice."""

import asyncio
import json
import threading
from collections.abc import Mapping
from pathlib import Path

import pytest

from gateway.policy.purse import Prices
from gateway.proxy.outgoing import Outgoing
from gateway.proxy.purse import KeptPurse, Reserved
from gateway.proxy.usage import Usage
from gateway.records.spent import Spent, SpentFolder

NOVEMBER, DECEMBER = 1795262400.0, 1796083200.0
CENT = 10_000
PRICES = Prices(1_000_000, 1_000_000)
"""A micro-dollar for each token."""


class Volume(SpentFolder):
    """Says what was written, in order."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, "w1", strict=True)
        self.writes: list[int] = []
        self.asked, self.answers = threading.Event(), threading.Event()
        self.answers.set()

    def write(self, month: str, spent: Mapping[str, int]) -> None:
        self.asked.set()
        assert self.answers.wait(5)
        super().write(month, spent)
        self.writes.append(spent["fallback"])


class Clock:
    def __init__(self) -> None:
        self.wall = NOVEMBER

    def __call__(self) -> float:
        return self.wall


@pytest.fixture
def volume(tmp_path: Path) -> Volume:
    (tmp_path / "data" / "state").mkdir(parents=True)
    return Volume(tmp_path / "data" / "state" / "fallback")


def purse(volume: Volume, limit: int | None = 100 * CENT, clock: Clock | None = None) -> KeptPurse:
    return KeptPurse(PRICES, limit, lambda tell: Spent(volume, write_every=0.0, on_news=tell), clock or Clock())


def asks(most: int) -> Outgoing:
    return Outgoing((), most, 0)


async def close(one: KeptPurse) -> None:
    assert await asyncio.get_running_loop().run_in_executor(None, one.close, 5.0)


async def test_nothing_is_sent_before_the_volume_knows_what_it_may_cost(volume: Volume) -> None:
    one = purse(volume)
    reserved = await one.reserve(asks(5 * CENT))
    assert isinstance(reserved, Reserved) and volume.writes[-1] >= 5 * CENT
    one.settle(reserved, Usage(10, 5))
    assert one.spent == 15
    await close(one)
    assert volume.writes[-1] == 15


async def test_not_each_request_waits_for_the_disk(volume: Volume) -> None:
    one = purse(volume)
    for _ in range(50):
        reserved = await one.reserve(asks(CENT // 10))
        assert isinstance(reserved, Reserved)
        one.settle(reserved, Usage(1, 1))
    assert len(volume.writes) == 1
    await close(one)


async def test_a_thousand_who_ask_at_once_reserve_no_more_than_there_is(volume: Volume) -> None:
    one = purse(volume)
    found = await asyncio.gather(*(one.reserve(asks(CENT)) for _ in range(1000)))
    held = [each for each in found if isinstance(each, Reserved)]
    assert len(held) == 100 and found.count("spend") == 900
    assert max(volume.writes) <= 100 * CENT
    for each in held:
        one.settle(each, None)
    assert one.spent == 100 * CENT
    await close(one)


async def test_a_request_that_leaves_while_it_waits_for_the_disk_gives_back_what_it_reserved(volume: Volume) -> None:
    volume.answers.clear()
    one = purse(volume)
    waiting = asyncio.create_task(one.reserve(asks(100 * CENT)))
    async with asyncio.timeout(5):
        while not volume.asked.is_set():
            await asyncio.sleep(0.002)
    assert await one.reserve(asks(1)) == "spend"
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    volume.answers.set()
    assert isinstance(await one.reserve(asks(100 * CENT)), Reserved)
    await close(one)


async def test_what_is_being_lowered_on_the_volume_covers_nobody_any_more(volume: Volume) -> None:
    """Killed right after the lower figure was written, the gateway would know less than it may have spent."""
    one = purse(volume)
    first = await one.reserve(asks(50 * CENT))
    assert isinstance(first, Reserved)
    volume.answers.clear()
    volume.asked.clear()
    one.settle(first, Usage(10, 5))
    await asyncio.get_running_loop().run_in_executor(None, volume.asked.wait, 5)
    second = asyncio.create_task(one.reserve(asks(40 * CENT)))
    await asyncio.sleep(0.02)
    assert not second.done() and volume.writes[-1] >= 50 * CENT
    volume.answers.set()
    assert isinstance(await second, Reserved) and volume.writes[-1] >= 40 * CENT + 15
    await close(one)


async def test_a_gateway_that_was_killed_believes_what_the_volume_holds(volume: Volume) -> None:
    killed = purse(volume)
    assert isinstance(await killed.reserve(asks(60 * CENT)), Reserved)
    (file,) = Path(volume._folder).iterdir()
    assert json.loads(file.read_text())["micro_dollars"]["fallback"] == 62 * CENT
    after = purse(Volume(volume._folder))
    assert await after.reserve(asks(39 * CENT)) == "spend"
    assert after.spent == 62 * CENT
    assert isinstance(await after.reserve(asks(38 * CENT)), Reserved)
    await close(killed)
    await close(after)


async def test_a_new_month_is_known_to_the_volume_before_it_is_spent(volume: Volume) -> None:
    clock = Clock()
    one = purse(volume, clock=clock)
    reserved = await one.reserve(asks(100 * CENT))
    assert isinstance(reserved, Reserved)
    clock.wall = DECEMBER
    one.settle(reserved, Usage(70 * CENT, 0))
    assert one.spent == 70 * CENT
    assert isinstance(await one.reserve(asks(30 * CENT)), Reserved)
    assert json.loads((volume._folder / "2026-12_w1.json").read_text())["micro_dollars"]["fallback"] == 100 * CENT
    await close(one)


async def test_without_a_limit_what_it_cost_is_kept_all_the_same(volume: Volume) -> None:
    one = purse(volume, None)
    reserved = await one.reserve(asks(10**9))
    assert isinstance(reserved, Reserved)
    assert one.settle(reserved, Usage(7, 0)) == 7
    unknown = await one.reserve(Outgoing((), 100, 0))
    assert isinstance(unknown, Reserved)
    assert one.settle(unknown, None, events=20) == 120  # as far as anybody can tell
    one.beat()
    await close(one)
    assert volume.writes[-1] == 127
