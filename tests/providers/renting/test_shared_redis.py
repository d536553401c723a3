"""Two gateways on a real Redis that is killed, paused and emptied while something runs: one instance, whatever happens.

Real time, so terms are short and only what must come in the end is waited for.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from gateway.providers.base import ProviderError, Ready
from gateway.providers.renting.page import Page, Terms
from gateway.records.board.redis import RedisBoard
from tests.support.redis_server import RedisServer
from tests.support.shared_cloud import Cloud, Ledger, Replica

TERMS = Terms(lease=1.6, call=0.3, interest=1.5, beat=0.4, look=0.1, blind=6.0)
PATIENCE = 60.0


async def until(what: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not what():
            await asyncio.sleep(0.02)


class House:
    def __init__(self, server: RedisServer) -> None:
        self.server, self.cloud, self.ledger = server, Cloud(boot=0.1, pace=0.1), Ledger()
        self.cloud.takes = lambda: 0.02
        self.one, self.other = (self.gateway(name) for name in ("A", "B"))

    def gateway(self, name: str) -> Replica:
        board = RedisBoard(self.server.url, "main", within=0.3)
        return Replica(name, board, self.cloud, self.ledger, TERMS)

    async def both_have_it(self) -> None:
        """Each asks until it has one: a start may be refused while the board is away."""
        for replica in (self.one, self.other):
            async with asyncio.timeout(PATIENCE):
                while not replica.ready:
                    try:
                        await replica.start()
                        await until(lambda replica=replica: replica.ready or replica.gone)
                    except ProviderError:
                        await asyncio.sleep(0.1)

    async def nobody_wants_it(self) -> None:
        for replica in (self.one, self.other):
            async with asyncio.timeout(PATIENCE):
                while not replica.gone:
                    try:
                        await replica.stop(within=1.0)
                    except ProviderError:
                        await asyncio.sleep(0.1)


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    with RedisServer(tmp_path) as server:
        first = RedisBoard(server.url, "main")
        assert await first.write(Page(handed_over=True).text(), "")
        await first.close()
        made = House(server)
        try:
            yield made
            await made.nobody_wants_it()
            await until(lambda: not made.cloud.running)
            assert made.cloud.most == 1
        finally:
            for replica in (made.one, made.other):
                await replica.die_for_good()
                await replica.line.close()


async def test_a_redis_that_is_killed_and_comes_back_interrupts_nobody(house: House) -> None:
    await house.both_have_it()
    house.server.kill()
    await asyncio.sleep(0.5)
    assert house.one.ready and house.other.ready
    house.server.start()
    await until(lambda: not house.one.seat.blind_for and not house.other.seat.blind_for)
    assert isinstance(house.one.last, Ready)
    assert len(house.cloud.running) == 1


async def test_while_it_is_paused_nothing_is_started_and_afterwards_one_goes_on(house: House) -> None:
    await house.both_have_it()
    house.server.pause()
    await until(lambda: house.one.seat.blind_for > TERMS.interest and house.other.seat.blind_for > TERMS.interest)
    begun = house.cloud.begun
    await until(lambda: house.other.gone or house.one.gone)  # whoever does not decide may not know the address any more
    assert house.cloud.begun == begun
    house.server.go_on()
    await house.both_have_it()


async def test_one_that_lost_everything_makes_nobody_start_a_second_one(house: House) -> None:
    await house.both_have_it()
    house.server.lose_everything()
    house.server.start()
    await until(lambda: house.one.gone and house.other.gone)
    await house.both_have_it()
    assert house.cloud.most == 1


async def test_when_the_holder_dies_the_other_goes_on(house: House) -> None:
    await house.both_have_it()
    first, second = (house.one, house.other) if house.one.shared.decides else (house.other, house.one)
    await first.die()
    await until(lambda: second.shared.decides)
    await until(lambda: second.ready)
    first.wake()
