"""What holds a rehearsal together: work that is done however often it is interrupted, and lines with their time."""

import asyncio

import pytest

from gateway.rehearsal.play import Told, surely
from tests.support.simulated import in_simulated_time


@in_simulated_time
async def test_an_end_is_brought_to_its_end_however_often_it_is_interrupted() -> None:
    done: list[str] = []

    async def end() -> None:
        await asyncio.sleep(10)
        done.append("ended")

    task = asyncio.ensure_future(surely(end()))
    for _ in range(3):
        await asyncio.sleep(1)
        task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert done == ["ended"]


@in_simulated_time
async def test_what_it_gives_or_raises_is_passed_on() -> None:
    async def five() -> int:
        return 5

    async def fails() -> None:
        raise ValueError("so")

    assert await surely(five()) == 5
    with pytest.raises(ValueError, match="so"):
        await surely(fails())


def test_lines_have_their_time_and_who_it_was() -> None:
    now, lines = [0.0], []
    told = Told(lines.append, clock=lambda: now[0])
    now[0] = 12.34
    told("vendor", "answers")
    assert lines == ["  12.3 s  vendor   answers"]
