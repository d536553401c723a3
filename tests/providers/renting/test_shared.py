"""Several gateways and one rented instance: stories in simulated time, at a vendor who does whatever it is told."""

import asyncio
import functools
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest

from gateway.providers.base import Gone, Intent, ProviderError, Ready
from gateway.providers.renting.page import Page, Terms
from gateway.records.board.memory import MemoryBoard
from tests.support import simulated
from tests.support.shared_cloud import Cloud, Ledger, Replica, fresh_board
from tests.support.simulated import in_simulated_time

TERMS = Terms()
until = functools.partial(simulated.until, step=0.1)


class House:
    """A cloud, a board, a ledger, and gateways as they come."""

    def __init__(self) -> None:
        self.cloud, self.ledger, self.board = Cloud(), Ledger(), fresh_board()
        self.replicas: list[Replica] = []

    def gateway(self, name: str) -> Replica:
        replica = Replica(name, self.board, self.cloud, self.ledger)
        self.replicas.append(replica)
        return replica

    async def two(self) -> tuple[Replica, Replica]:
        """The first decides."""
        first, second = self.gateway("A"), self.gateway("B")
        await until(lambda: first.shared.decides or second.shared.decides)
        assert first.shared.decides
        return first, second

    async def page(self) -> Page:
        return Page.read((await self.board.read())[1])

    def holds(self) -> None:
        """What must be so at the end of every story."""
        assert self.cloud.most <= 1, "two ran at once"
        intended = [name for what, name in self.ledger.lines if what == "intend"]
        ended = [name for what, name in self.ledger.lines if what == "end"]
        assert len(intended) == len(set(intended)) and len(ended) == len(set(ended))
        assert set(intended) - set(ended) == set(self.cloud.running), self.ledger.lines


@asynccontextmanager
async def house() -> AsyncIterator[House]:
    made = House()
    try:
        yield made
        await asyncio.sleep(30)
        made.holds()
    finally:
        for replica in made.replicas:
            await replica.die()


def story(test: Callable[[House], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    async def told() -> None:
        async with house() as made:
            await test(made)

    told.__name__, told.__doc__ = test.__name__, test.__doc__
    return in_simulated_time(told)


# --- Ordinary days


@story
async def test_callers_of_both_are_one_start(house: House) -> None:
    one, other = await house.two()
    first, second = await asyncio.gather(one.start(), other.start())
    assert first == second
    await until(lambda: one.ready and other.ready)
    assert one.last == other.last
    assert isinstance(other.last, Ready) and other.last.endpoint is not None and other.last.endpoint.key == "secret"
    assert house.cloud.who("start") == ["A"]


@story
async def test_only_who_decides_asks_the_vendor(house: House) -> None:
    _one, other = await house.two()
    await other.start()
    await until(lambda: other.ready)
    await asyncio.sleep(600)
    await other.stop()
    assert {who for who, _ in house.cloud.asked} == {"A"}
    assert house.cloud.running == {}


@story
async def test_no_secret_lies_on_the_board(house: House) -> None:
    _one, other = await house.two()
    await other.start()
    await until(lambda: other.ready)
    assert "secret" not in (await house.board.read())[1]


@story
async def test_it_runs_as_long_as_anybody_wants_it(house: House) -> None:
    one, other = await house.two()
    await asyncio.gather(one.start(), other.start())
    await until(lambda: one.ready and other.ready)
    await one.stop()
    assert one.gone and len(house.cloud.running) == 1
    await asyncio.sleep(600)
    assert other.ready and len(house.cloud.running) == 1
    await other.stop()
    assert house.cloud.running == {}


@story
async def test_whoever_let_go_comes_back_to_the_same_one(house: House) -> None:
    one, other = await house.two()
    first, _ = await asyncio.gather(one.start(), other.start())
    await until(lambda: one.ready and other.ready)
    await one.stop()
    assert await one.start() == first
    await until(lambda: one.ready)
    await other.stop()
    await asyncio.sleep(600)
    assert one.ready and house.cloud.begun == 1
    await one.stop()


@story
async def test_callers_that_come_and_go_at_both(house: House) -> None:
    one, other = await house.two()
    for _ in range(5):
        await asyncio.gather(one.start(), other.start())
        await asyncio.gather(one.stop(), other.stop())
        assert house.cloud.running == {}
    assert house.cloud.begun == 5


@story
async def test_who_comes_while_it_is_stopped_gets_the_next_one(house: House) -> None:
    one, other = await house.two()
    first = await one.start()
    await until(lambda: one.ready)
    stopping = asyncio.create_task(one.stop())
    await until(lambda: "stop" in [what for _, what in house.cloud.asked])
    second = await other.start()
    await stopping
    assert second.id != first.id and house.cloud.begun == 2
    await until(lambda: other.ready)
    await other.stop()


@story
async def test_who_comes_just_before_the_stop_keeps_it(house: House) -> None:
    one, other = await house.two()
    first = await one.start()
    await until(lambda: one.ready)
    second, _ = await asyncio.gather(other.start(), one.stop())
    if second.id == first.id:
        assert house.cloud.begun == 1
    await until(lambda: other.ready)
    assert len(house.cloud.running) == 1
    await other.stop()


@story
async def test_a_start_that_fails_is_told_to_all_and_tried_once(house: House) -> None:
    one, other = await house.two()
    house.cloud.refuses = ProviderError("Nothing is free.", code="no_capacity", detail="400")
    outcomes = await asyncio.gather(one.start(), other.start(), return_exceptions=True)
    for outcome in outcomes:
        assert isinstance(outcome, ProviderError)
        assert (outcome.reason, outcome.code, outcome.detail) == ("Nothing is free.", "no_capacity", "400")
    assert house.cloud.who("start") == ["A"]
    house.cloud.refuses = None
    await other.start()
    await until(lambda: other.ready)
    await other.stop()


@story
async def test_what_the_vendor_takes_away_is_gone_for_all_and_one_starts_anew(house: House) -> None:
    one, other = await house.two()
    first, _ = await asyncio.gather(one.start(), other.start())
    await until(lambda: one.ready and other.ready)
    house.cloud.running.clear()
    other.shared.suspect(first)
    await until(lambda: one.gone and other.gone, within=10)
    assert isinstance(other.last, Gone) and other.last.taken
    second, third = await asyncio.gather(one.start(), other.start())
    assert second == third != first
    await asyncio.gather(one.stop(), other.stop())


@story
async def test_an_address_that_changes_is_told_to_all(house: House) -> None:
    one, other = await house.two()
    first, _ = await asyncio.gather(one.start(), other.start())
    await until(lambda: one.ready and other.ready)
    house.cloud.running[first.name] = 9999
    await until(lambda: isinstance(other.last, Ready) and "9999" in str(other.last.endpoint))
    await asyncio.gather(one.stop(), other.stop())


@story
async def test_it_must_end_for_all_whoever_wants_it(house: House) -> None:
    one, other = await house.two()
    await asyncio.gather(one.start(), other.start())
    await until(lambda: one.ready and other.ready)
    one.shared.must_end(60, "The budget is spent.")
    await asyncio.sleep(55)
    assert one.ready and other.ready
    await until(lambda: house.cloud.running == {}, within=15)
    await until(lambda: one.gone and other.gone)
    assert isinstance(other.last, Gone) and other.last.reason == "The budget is spent." and other.last.taken


@story
async def test_a_caller_who_gives_up_the_wait_leaves_nothing(house: House) -> None:
    one, other = await house.two()
    for replica in (one, other):
        starting = asyncio.create_task(replica.start())
        await asyncio.sleep(1.2)
        starting.cancel()
        await asyncio.wait({starting})
        assert starting.cancelled()
        assert house.cloud.running == {}


@story
async def test_a_stop_that_is_not_confirmed_is_said_and_tried_on(house: House) -> None:
    _one, other = await house.two()
    await other.start()
    await until(lambda: other.ready)
    house.cloud.deaf = True
    with pytest.raises(ProviderError):
        await other.stop()
    stopping = asyncio.create_task(other.stop(within=1000))
    house.cloud.deaf = False
    await stopping
    assert house.cloud.running == {} and other.gone


@story
async def test_a_conductor_that_would_write_down_ends_of_its_own_is_refused(house: House) -> None:
    one = house.gateway("A")
    journal = house.ledger.journal("A")
    one.shared.begin(journal)
    with pytest.raises(ValueError, match="no journal"):
        await one.shared.start(Intent("main", 1), journal)


# --- One of them dies


@story
async def test_a_replica_that_dies_wants_nothing_any_more_in_time(house: House) -> None:
    _one, other = await house.two()
    await other.start()
    await until(lambda: other.ready)
    await other.die()
    await asyncio.sleep(TERMS.interest - TERMS.beat - 5)
    assert len(house.cloud.running) == 1
    await until(lambda: house.cloud.running == {}, within=30)


@story
async def test_when_the_holder_dies_another_takes_over_and_nothing_is_interrupted(house: House) -> None:
    one, other = await house.two()
    first, _ = await asyncio.gather(one.start(), other.start())
    await until(lambda: one.ready and other.ready)
    await one.die()
    asked = len(house.cloud.asked)
    await until(lambda: other.shared.decides, within=TERMS.lease + TERMS.call + 10)
    assert house.cloud.asked[asked:] in ([], [("B", "list")]), "it asked before it decided"
    await asyncio.sleep(30)
    assert other.ready and list(house.cloud.running) == [first.name]
    await other.stop()
    assert house.cloud.running == {} and house.cloud.begun == 1


@story
async def test_a_new_holder_waits_for_the_lease_and_for_the_longest_call(house: House) -> None:
    one, other = await house.two()
    await one.die()
    died = asyncio.get_running_loop().time()
    await until(lambda: other.shared.decides)
    assert asyncio.get_running_loop().time() - died >= TERMS.lease + TERMS.call - TERMS.beat - TERMS.look


@pytest.mark.parametrize("after", [0.0, 0.3, 0.6, 1.0, 1.3, 1.6, 2.0, 2.5])
def test_a_holder_that_dies_during_the_start_leaves_one_at_most(after: float) -> None:
    """Before the intent, between it and the call, during the call, after it: the next one finds what came of it."""

    @story
    async def told(house: House) -> None:
        one, other = await house.two()
        waiting = asyncio.create_task(other.start())
        await asyncio.sleep(after)
        await one.die()
        await asyncio.wait({waiting}, timeout=200)
        if waiting.exception() is not None:  # that start failed; the next does not
            await other.start()
        await until(lambda: other.ready)
        assert len(house.cloud.running) == 1
        await other.stop()
        assert house.cloud.running == {}

    told()


@story
async def test_a_holder_that_dies_during_the_stop_is_followed_by_one_who_ends_it(house: House) -> None:
    one, _other = await house.two()
    await one.start()
    await until(lambda: one.ready)
    stopping = asyncio.create_task(one.stop())
    await asyncio.sleep(0.1)
    await one.die()
    stopping.cancel()
    await asyncio.wait({stopping})
    await until(lambda: house.cloud.running == {}, within=200)
    await until(lambda: "end" in [what for what, _ in house.ledger.lines], within=200)


@story
async def test_all_die_and_one_comes_back(house: House) -> None:
    one, other = await house.two()
    first, _ = await asyncio.gather(one.start(), other.start())
    await until(lambda: one.ready)
    await one.die()
    await other.die()
    again = house.gateway("C")
    await until(lambda: house.cloud.running == {}, within=200)
    assert await again.start() != first
    await again.stop()


# --- One of them leaves


@story
async def test_a_holder_that_leaves_hands_over_at_once(house: House) -> None:
    one, other = await house.two()
    await asyncio.gather(one.start(), other.start())
    await until(lambda: one.ready and other.ready)
    await one.stop()
    await one.close()
    await until(lambda: other.shared.decides, within=2)
    await asyncio.sleep(300)
    assert other.ready and house.cloud.begun == 1
    await other.stop()
    assert house.cloud.running == {}


@story
async def test_a_holder_that_leaves_ends_first_what_nobody_wants_any_more(house: House) -> None:
    one, other = await house.two()
    await other.start()
    await until(lambda: other.ready)
    stopping = asyncio.create_task(other.stop())
    await asyncio.sleep(0.1)
    await one.close()
    await stopping
    assert house.cloud.running == {}


@story
async def test_what_the_last_one_leaves_running_is_adopted_by_a_successor(house: House) -> None:
    one = house.gateway("A")
    first = await one.start()
    await until(lambda: one.ready)
    await one.close()
    again = house.gateway("B")
    assert (await again.start()).name == first.name
    await until(lambda: again.ready, within=60)
    await asyncio.sleep(300)
    assert again.ready and house.cloud.begun == 1
    await again.stop()


# --- One of them is paused


@story
async def test_a_holder_that_was_paused_finds_its_place_taken_and_asks_nobody_for_anything(house: House) -> None:
    one, other = await house.two()
    _first, _ = await asyncio.gather(one.start(), other.start())
    await until(lambda: one.ready and other.ready)
    one.line.cut = True  # what it sends and hears stands still, as it does
    await one.die()
    await asyncio.sleep(TERMS.lease + TERMS.call + 30)
    assert other.shared.decides
    asked = len(house.cloud.who("look"))
    one.line.cut = False
    with pytest.raises(ProviderError):
        await one.shared._inner.list()
    assert len(house.cloud.who("look")) == asked
    one.wake()
    await asyncio.sleep(30)
    assert not one.shared.decides and other.shared.decides
    assert other.ready
    assert len(house.cloud.running) == 1 and {who for who, _ in house.cloud.asked[-5:]} == {"B"}
    await other.stop()


@story
async def test_a_replica_that_was_paused_and_is_forgotten_wants_it_again_when_it_wakes(house: House) -> None:
    one, other = await house.two()
    await asyncio.gather(one.start(), other.start())
    await until(lambda: one.ready and other.ready)
    await other.die()
    await asyncio.sleep(TERMS.interest + 30)
    assert "B" not in (await house.page()).replicas
    other.wake()
    await asyncio.sleep(10)
    await one.stop()
    await asyncio.sleep(300)
    assert len(house.cloud.running) == 1
    await other.stop()
    assert house.cloud.running == {}


# --- The board is out of reach


@story
async def test_without_the_board_nothing_is_started(house: House) -> None:
    one, other = await house.two()
    house.board.down = True
    for replica in (one, other):
        with pytest.raises(ProviderError, match="STATE_URL"):
            await replica.start()
    assert house.cloud.who("start") == []
    house.board.down = False
    await other.start()
    await other.stop()


@story
async def test_a_short_loss_of_the_board_interrupts_nobody(house: House) -> None:
    one, other = await house.two()
    await asyncio.gather(one.start(), other.start())
    await until(lambda: one.ready and other.ready)
    house.board.down = True
    await asyncio.sleep(TERMS.interest - 10)
    house.board.down = False
    await asyncio.sleep(30)
    assert one.ready and other.ready and house.cloud.begun == 1
    await asyncio.gather(one.stop(), other.stop())


@story
async def test_whoever_cannot_see_the_board_forgets_the_address_when_its_want_is_over(house: House) -> None:
    one, other = await house.two()
    await asyncio.gather(one.start(), other.start())
    await until(lambda: one.ready and other.ready)
    house.board.down = True
    await asyncio.sleep(TERMS.interest + 10)
    assert other.gone and one.ready
    house.board.down = False
    await other.start()
    await until(lambda: other.ready)
    assert house.cloud.begun == 1
    await asyncio.gather(one.stop(), other.stop())


@story
async def test_whoever_decides_ends_what_costs_unseen(house: House) -> None:
    one, other = await house.two()
    await asyncio.gather(one.start(), other.start())
    await until(lambda: one.ready and other.ready)
    house.board.down = True
    await asyncio.sleep(TERMS.blind - 10)
    assert one.ready
    await until(lambda: house.cloud.running == {}, within=30)
    await until(lambda: one.gone, within=10)
    house.board.down = False
    await asyncio.sleep(30)
    await asyncio.gather(one.start(), other.start())
    await until(lambda: one.ready and other.ready)
    await asyncio.gather(one.stop(), other.stop())


@story
async def test_a_stop_without_the_board_is_carried_out_when_no_want_can_be_left(house: House) -> None:
    one, _other = await house.two()
    await one.start()
    await until(lambda: one.ready)
    house.board.down = True
    with pytest.raises(ProviderError):
        await one.stop(within=5)
    assert len(house.cloud.running) == 1
    await until(lambda: house.cloud.running == {}, within=TERMS.interest + 30)
    await asyncio.sleep(5)
    await one.stop(within=5)
    assert one.gone


@story
async def test_one_that_is_cut_off_is_followed_by_another_and_takes_nothing_with_it(house: House) -> None:
    one, other = await house.two()
    await asyncio.gather(one.start(), other.start())
    await until(lambda: one.ready and other.ready)
    one.line.cut = True
    await until(lambda: other.shared.decides)
    await asyncio.sleep(30)
    assert other.ready
    one.line.cut = False
    await asyncio.sleep(30)
    assert one.ready and not one.shared.decides
    await asyncio.gather(one.stop(), other.stop())
    assert house.cloud.begun == 1


@story
async def test_a_board_that_lost_everything_makes_nobody_start_a_second_one(house: House) -> None:
    one, other = await house.two()
    first, _ = await asyncio.gather(one.start(), other.start())
    await until(lambda: one.ready and other.ready)
    house.board.forget()
    await until(lambda: one.gone and other.gone)
    again = await asyncio.gather(one.start(), other.start())
    assert [each.name for each in again] == [first.name] * 2
    await until(lambda: one.ready and other.ready)
    assert house.cloud.begun == 1
    await asyncio.gather(one.stop(), other.stop())


@story
async def test_on_an_empty_board_everybody_waits_as_for_one_who_might_be_there(house: House) -> None:
    house.board = MemoryBoard()
    one = house.gateway("A")
    begun = asyncio.get_running_loop().time()
    await one.start()
    assert asyncio.get_running_loop().time() - begun >= TERMS.lease + TERMS.call
    await one.stop()


@story
async def test_answers_of_the_board_that_are_lost_change_nothing(house: House) -> None:
    one, other = await house.two()
    count = iter(range(10**9))
    house.board.losing = lambda: next(count) % 3 == 0

    async def in_the_end(replica: Replica) -> None:
        while replica.instance is None:
            try:
                await replica.start()
            except ProviderError:
                await asyncio.sleep(1)

    await asyncio.gather(in_the_end(one), in_the_end(other))
    await until(lambda: one.ready and other.ready)
    await asyncio.gather(one.stop(), other.stop())
    assert house.cloud.running == {}


@story
async def test_a_board_with_somebody_elses_text_is_left_alone(house: House) -> None:
    house.board = MemoryBoard("hello")
    one = house.gateway("A")
    with pytest.raises(ProviderError, match="STATE_URL"):
        await one.start()
    assert (await house.board.read())[1] == "hello"


# --- What the others may know


@story
async def test_the_others_know_what_runs_and_what_the_next_one_costs_from_the_board(house: House) -> None:
    one, other = await house.two()
    assert await other.shared.list() == []
    assert await one.shared.price() == 100
    await asyncio.sleep(5)
    assert await other.shared.price() == 100
    first = await one.start()
    assert [each.name for each in await other.shared.list()] == [first.name]
    assert other.shared.cares_for(first)
    assert one.shared.held == first and other.shared.held is None
    assert one.shared.whereabouts(first) == ("id", first.endpoint) and other.shared.whereabouts(first) is None
    with pytest.raises(ProviderError):
        await other.shared.bills(0, 1)
    assert await one.shared.bills(0, 1) == []
    await one.stop()


@story
async def test_an_orphan_is_ended_by_who_decides_and_by_nobody_else(house: House) -> None:
    one, other = await house.two()
    house.cloud.create("wakegate-orphan")
    house.ledger.lines.append(("intend", "wakegate-orphan"))
    (orphan,) = await one.shared.list()
    assert not one.shared.cares_for(orphan)
    with pytest.raises(ProviderError):
        await other.shared.stop(orphan, within=10)
    assert len(house.cloud.running) == 1
    await one.shared.stop(orphan, within=10)
    house.ledger.lines.append(("end", "wakegate-orphan"))
    assert house.cloud.running == {}
