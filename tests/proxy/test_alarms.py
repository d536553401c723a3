"""The one timer of all connections: who is woken when, and how often it rings."""

from collections.abc import AsyncIterator

import pytest

from gateway.proxy.alarms import STEP, Alarms
from tests.support.clock_loop import ClockLoop


class Sleeper:
    """Notes when it was woken."""

    def __init__(self, clock: ClockLoop, alarms: Alarms | None = None, again: float = 0.0) -> None:
        self.woken: list[float] = []
        self._clock = clock
        self._alarms = alarms
        self._again = again

    def wake(self) -> None:
        self.woken.append(self._clock.time())
        if self._alarms is not None:
            self._alarms.set(self, self._clock.time() + self._again)


@pytest.fixture
async def clock() -> AsyncIterator[ClockLoop]:
    yield ClockLoop()


async def test_who_waits_is_woken_when_its_time_is_over(clock: ClockLoop) -> None:
    alarms, start = Alarms(clock.as_loop), clock.time()
    late, early = Sleeper(clock), Sleeper(clock)
    alarms.set(late, start + 2)
    alarms.set(early, start + 1)
    assert repr(alarms) == "<Alarms 2 set>" and clock.timers == 1
    clock.pass_by(10)
    assert (early.woken, late.woken) == ([start + 1], [start + 2])
    assert repr(alarms) == "<Alarms 0 set>" and clock.timers == 0


async def test_a_new_time_replaces_the_old_one(clock: ClockLoop) -> None:
    alarms, start = Alarms(clock.as_loop), clock.time()
    later, sooner = Sleeper(clock), Sleeper(clock)
    for sleeper, first, second in ((later, 1, 3), (sooner, 3, 1)):
        alarms.set(sleeper, start + first)
        alarms.set(sleeper, start + second)
    clock.pass_by(10)
    assert (later.woken, sooner.woken) == ([start + 3], [start + 1])


async def test_who_is_gone_is_not_woken_and_leaves_no_timer_behind_for_long(clock: ClockLoop) -> None:
    alarms, start = Alarms(clock.as_loop), clock.time()
    gone, there = Sleeper(clock), Sleeper(clock)
    alarms.set(gone, start + 1)
    alarms.drop(gone)
    alarms.drop(gone)
    clock.pass_by(1)
    assert gone.woken == [] and clock.timers == 0
    alarms.set(there, start + 5)
    clock.pass_by(5)
    assert there.woken == [start + 5]


async def test_a_time_that_is_over_already_is_told_at_once(clock: ClockLoop) -> None:
    alarms = Alarms(clock.as_loop)
    sleeper = Sleeper(clock)
    alarms.set(sleeper, clock.time() - 1)
    clock.pass_by(0)
    assert len(sleeper.woken) == 1


async def test_many_who_are_due_together_are_woken_by_a_few_rings_and_none_much_later(clock: ClockLoop) -> None:
    alarms, start = Alarms(clock.as_loop), clock.time()
    sleepers = [Sleeper(clock) for _ in range(1000)]
    for number, sleeper in enumerate(sleepers):
        alarms.set(sleeper, start + 1 + number / 10_000)
    clock.pass_by(10)
    for number, sleeper in enumerate(sleepers):
        [at] = sleeper.woken
        assert 0 <= at - (start + 1 + number / 10_000) <= STEP
    assert len({sleeper.woken[0] for sleeper in sleepers}) <= 0.1 / STEP + 2


async def test_who_sets_a_new_one_while_it_is_woken_is_woken_again(clock: ClockLoop) -> None:
    alarms, start = Alarms(clock.as_loop), clock.time()
    other, again = Sleeper(clock), Sleeper(clock, alarms, again=1.0)
    alarms.set(other, start + 2.5)
    alarms.set(again, start + 1)
    clock.pass_by(3.5)
    assert again.woken == [start + 1, start + 2, start + 3]
    assert len(other.woken) == 1 and 2.5 <= other.woken[0] - start <= 2.5 + STEP
