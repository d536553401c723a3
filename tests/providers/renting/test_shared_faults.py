"""Gateways that share an instance, and everything that can go wrong, drawn from a seed: at most one ever runs, and none
is left at the end.

More of them: SHARED_SEEDS=200 pytest tests/providers/renting/test_shared_faults.py. One that failed says its story; it
is told again by -k 'drawn[17]'.
"""

import asyncio
import os
import random

import pytest

from gateway.providers.base import Gone, ProviderError
from gateway.providers.renting.page import Terms
from tests.support.shared_cloud import Cloud, Ledger, Replica, fresh_board
from tests.support.simulated import run

SEEDS = int(os.environ.get("SHARED_SEEDS", "4"))
TERMS = Terms()
TROUBLE = 900.0
"""Seconds of it; afterwards everything works again, and everybody lets go."""


class Town:
    """A few gateways with callers who come and go, each with a conductor's habits."""

    def __init__(self, seed: int) -> None:
        self.dice = random.Random(seed)
        self.cloud, self.ledger, self.board = Cloud(boot=20.0), Ledger(), fresh_board()
        self.cloud.takes = lambda: self.dice.choice((0.2, 0.5, 1.0, 5.0, TERMS.call))
        self.living: dict[Replica, asyncio.Task[None]] = {}
        self.names = iter(range(10**6))
        self.wanted = True
        self.served = 0
        self.story: list[str] = []

    def say(self, what: str) -> None:
        self.story.append(f"{asyncio.get_running_loop().time() - 1000:7.1f} {what}")

    def settle_in(self) -> Replica:
        replica = Replica(f"R{next(self.names)}", self.board, self.cloud, self.ledger)
        self.living[replica] = asyncio.create_task(self.life_of(replica))
        self.say(f"{replica.name} begins")
        return replica

    async def life_of(self, replica: Replica) -> None:
        while replica in self.living:  # a start that is cancelled may say what it left instead
            await asyncio.sleep(self.dice.uniform(1, 120))
            if not self.wanted:
                continue
            try:
                await replica.start()
            except ProviderError as error:
                self.say(f"{replica.name} gets none: {error.reason}")
                continue
            self.say(f"{replica.name} has {replica.instance.name if replica.instance else None}")
            until = asyncio.get_running_loop().time() + self.dice.uniform(5, 200)
            while asyncio.get_running_loop().time() < until and not replica.gone and self.wanted:
                await asyncio.sleep(1)
            self.served += replica.ready
            if not replica.gone:
                await self.let_go(replica)
            last = replica.last
            self.say(f"{replica.name} has it no more: {last.reason if isinstance(last, Gone) else last}")

    async def let_go(self, replica: Replica) -> None:
        while replica in self.living:
            try:
                await replica.stop(within=30.0)
                return
            except ProviderError:
                await asyncio.sleep(5)

    async def trouble(self) -> None:
        ends = asyncio.get_running_loop().time() + TROUBLE
        while asyncio.get_running_loop().time() < ends:
            await asyncio.sleep(self.dice.expovariate(1 / 40))
            what = self.dice.choice(
                (self.kill, self.kill, self.leave, self.cut, self.cut, self.board_down, self.cloud_down, self.take_away,
                 self.refuse, self.deafen, self.lose_answers, self.forget, self.must_end)
            )  # fmt: skip
            await what()

    def anybody(self) -> Replica:
        holder = next((each for each in self.living if each.shared.decides), None)
        if holder is not None and self.dice.random() < 0.6:
            return holder  # it is the one with whom most can go wrong
        return self.dice.choice(list(self.living))

    async def kill(self) -> None:
        replica = self.anybody()
        self.say(f"{replica.name} is killed")
        await self.forget_about(replica)
        self.settle_in()

    async def leave(self) -> None:
        replica = self.anybody()
        self.say(f"{replica.name} leaves")
        life = self.living.pop(replica)
        life.cancel()
        await replica.close()
        await asyncio.wait({life})
        self.settle_in()

    async def forget_about(self, replica: Replica) -> None:
        life = self.living.pop(replica)
        life.cancel()
        await replica.die_for_good()
        await asyncio.wait({life})

    async def cut(self) -> None:
        replica = self.anybody()
        self.say(f"{replica.name} is cut off the board")
        replica.line.cut = True
        self.later(self.dice.uniform(1, 400), lambda: setattr(replica.line, "cut", False))

    async def board_down(self) -> None:
        self.say("the board is down")
        self.board.down = True
        self.later(self.dice.choice((3, 30, 70, 350)), lambda: setattr(self.board, "down", False))

    async def cloud_down(self) -> None:
        self.say("the cloud is down")
        self.cloud.down = True
        self.later(self.dice.uniform(1, 90), lambda: setattr(self.cloud, "down", False))

    async def take_away(self) -> None:
        self.say("the cloud takes it away")
        self.cloud.running.clear()

    async def refuse(self) -> None:
        self.say("the cloud has nothing free")
        self.cloud.refuses = ProviderError("Nothing is free.", code="no_capacity")
        self.later(60, lambda: setattr(self.cloud, "refuses", None))

    async def deafen(self) -> None:
        self.say("the cloud stops nothing")
        self.cloud.deaf = True
        self.later(60, lambda: setattr(self.cloud, "deaf", False))

    async def lose_answers(self) -> None:
        self.say("answers of the board are lost")
        self.board.losing = lambda: self.dice.random() < 0.3
        self.later(60, lambda: setattr(self.board, "losing", lambda: False))

    async def forget(self) -> None:
        self.say("the board has lost everything")
        self.board.forget()

    async def must_end(self) -> None:
        self.say("the budget is spent")
        for replica in self.living:
            replica.shared.must_end(self.dice.uniform(0, 60), "The budget is spent.")

    def later(self, seconds: float, heal: object) -> None:
        asyncio.get_running_loop().call_later(seconds, heal)

    async def see_it_through(self) -> None:
        for _ in range(3):
            self.settle_in()
        await self.trouble()
        await asyncio.sleep(500)  # until the last trouble is over
        self.say("nobody wants it any more")
        self.wanted = False
        await asyncio.sleep(600)
        try:
            assert self.cloud.most <= 1, "two ran at once"
            assert not self.cloud.running, "something is left"
            intended = {name for what, name in self.ledger.lines if what == "intend"}
            ended = {name for what, name in self.ledger.lines if what == "end"}
            assert self.served, "nobody was ever served"
            assert intended <= ended or self.board_lost_something(), f"never ended in the ledger: {intended - ended}"
        finally:
            for replica in list(self.living):
                await self.forget_about(replica)

    def board_lost_something(self) -> bool:
        """Then the ledger's own look at the vendor ends what is open: no business of the board's."""
        return any("lost everything" in line for line in self.story)


@pytest.mark.parametrize("seed", range(SEEDS))
def test_whatever_is_drawn(seed: int) -> None:
    towns: list[Town] = []

    async def told() -> None:
        towns.append(Town(seed))
        await towns[0].see_it_through()

    try:
        run(told())
    except AssertionError as error:
        raise AssertionError("\n".join([str(error), *towns[0].story])) from error
