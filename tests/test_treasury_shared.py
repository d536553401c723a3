"""Two gateways that share what they rent: one looks after the money, and both keep to the budget."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

from gateway.conductor import Conductor, Limits, NoJournal
from gateway.errors import Refusal, Refused
from gateway.policy.admission import Admission
from gateway.policy.admission import Limits as AdmissionLimits
from gateway.policy.budget import Terms
from gateway.policy.lifecycle.machine import Lifecycle, LifecycleSettings
from gateway.policy.lifecycle.states import State
from gateway.providers.base import Instance
from gateway.providers.renting.page import Page
from gateway.providers.renting.seat import Seat
from gateway.providers.renting.shared import Shared
from gateway.records.board.memory import MemoryBoard
from gateway.records.ledger.memory import MemoryLedger
from gateway.treasury import Clocks, Treasury
from tests.support.simulated import BEGIN, in_simulated_time, until
from tests.test_treasury import CENT, NOON, PRICE, Pods


async def call(conductor: Conductor, name: str, takes: float = 1.0) -> str:
    """One caller, as web/door.py is one. Says how it ended: served, or a refusal's code."""
    verdict = conductor.admit(name, size=10)
    if isinstance(verdict, Refusal):
        return verdict.code
    try:
        with verdict as ticket:
            ticket.carried_by(asyncio.current_task())
            await ticket.wait(None)
            await asyncio.sleep(takes)
            return "served"
    except Refused as refused:
        return refused.refusal.code


class One:
    def __init__(
        self, name: str, board: MemoryBoard, lines: list[Any], running: dict[str, Instance], budget: int
    ) -> None:
        loop = asyncio.get_running_loop()
        self.name = name
        self.made: list[Pods] = []

        def make() -> Pods:
            pods = Pods(ready_after=5.0)
            pods.running = running
            pods.slots = 4
            self.made.append(pods)
            return pods

        self.seat = Seat(board, me=name)
        self.shared = Shared(make, self.seat)
        self.ledger = MemoryLedger(lines)

        async def opened() -> MemoryLedger:
            return self.ledger

        self.treasury = Treasury(
            opened,
            self.shared,
            Terms(budget, 60_000, 1_800_000),
            prefix=f"wakegate-{name}-",
            clocks=Clocks(lambda: NOON + loop.time() - BEGIN, loop.time),
            max_runtime=43_200.0,
        )
        self.shared.begin(self.treasury)
        self.conductor = Conductor(
            "default",
            self.shared,
            Lifecycle(LifecycleSettings(idle_timeout=600.0), now=loop.time()),
            Admission(AdmissionLimits(concurrency=4)),
            limits=Limits(stop_within=30.0, drain_reserve=5.0),
            journal=NoJournal(),
            gate=self.treasury.gate,
        )
        self.treasury.attach(self.conductor)
        self.treasury.begin()

    def come(self, name: str, takes: float = 1.0) -> "asyncio.Task[str]":
        return asyncio.get_running_loop().create_task(call(self.conductor, name, takes))

    @property
    def spent(self) -> int:
        return self.treasury.standing().spent

    @property
    def asked(self) -> int:
        return sum(pods.asked for pods in self.made)

    async def close(self) -> None:
        await self.treasury.close()
        await self.conductor.close()


@contextlib.asynccontextmanager
async def two(budget: int = 20_000_000) -> AsyncIterator[tuple[One, One, list[Any], dict[str, Instance]]]:
    board, lines, running = MemoryBoard(Page(handed_over=True).text()), [], {}
    one, other = One("a", board, lines, running, budget), One("b", board, lines, running, budget)
    await until(lambda: one.shared.decides and not one.treasury.trouble and not other.treasury.trouble)
    try:
        yield one, other, lines, running
    finally:
        await other.close()
        await one.close()


def kinds(lines: list[Any]) -> list[str]:
    return [line.kind for line in lines if line.kind not in ("said", "booked", "storage")]


@in_simulated_time
async def test_callers_of_one_that_does_not_decide_are_served_and_it_is_booked_once() -> None:
    async with two() as (one, other, lines, running):
        assert await other.come("first") == "served"
        assert len(running) == 1 and kinds(lines) == ["intended", "known"]
        assert other.asked == 0
        await asyncio.sleep(400)
        assert len(running) == 1  # also after its own look round, whose conductor is not in use
        assert one.conductor.state is State.STOPPED
        await until(lambda: not running, within=400)
        await asyncio.sleep(30)
        assert kinds(lines) == ["intended", "known", "ended"]
        assert other.spent == one.spent > 0


@in_simulated_time
async def test_it_runs_on_while_the_other_has_callers() -> None:
    async with two() as (one, other, lines, running):
        assert await asyncio.gather(one.come("x"), other.come("y")) == ["served", "served"]
        for number in range(6):
            await asyncio.sleep(300)
            assert await other.come(str(number)) == "served"
        assert one.conductor.state is State.STOPPED and len(running) == 1
        assert kinds(lines) == ["intended", "known"]


@in_simulated_time
async def test_the_budget_ends_it_for_both() -> None:
    async with two(budget=22 * CENT) as (one, other, lines, running):
        long = other.come("long", takes=50_000)
        assert await one.come("x") == "served"
        await until(lambda: not running, within=3000)
        await asyncio.sleep(30)
        assert one.spent <= 22 * CENT + PRICE // 60  # BUDGET_GRACE
        assert kinds(lines)[-1] == "ended"
        assert (await one.come("late")) == "insufficient_quota"
        assert (await other.come("late")) == "insufficient_quota"
        assert await long != "served"


@in_simulated_time
async def test_when_the_one_that_decides_leaves_the_other_looks_after_it() -> None:
    async with two() as (one, other, lines, running):
        assert await other.come("x") == "served"
        await one.close()
        await until(lambda: other.shared.decides and not other.treasury.trouble)
        assert await other.come("y") == "served"
        assert len(running) == 1
        await until(lambda: not running, within=1000)
        await asyncio.sleep(30)
        assert kinds(lines).count("intended") == 1 and kinds(lines)[-1] == "ended"
