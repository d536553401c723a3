"""What an engine of our own tells on its pipe."""

import asyncio
import os

import pytest

from gateway.providers.base import Loading
from gateway.providers.local.news_pipe import NewsPipe


async def test_progress_comes_as_it_is_told_and_wakes_the_reader() -> None:
    with NewsPipe() as pipe:
        waiting = asyncio.ensure_future(pipe.wait(5))
        os.write(pipe.write_end, b'{"phase":"loading","ratio":0.4}\n{"phase":"warm')
        async with asyncio.timeout(1):
            await waiting
        os.write(pipe.write_end, b'ing","ratio":null}\n')
        pipe.read_now()
        assert pipe.take() == [Loading("loading", 0.4), Loading("warming", None)]
        assert pipe.take() == []
        assert pipe.spoke


@pytest.mark.parametrize(
    "line", [b"not json", b"[1]", b'{"phase":"dancing"}', b'{"phase":7}', b"[" * 100_000, b'{"ratio":0.4}']
)
async def test_words_that_it_does_not_know_are_no_news(line: bytes) -> None:
    with NewsPipe() as pipe:
        os.set_blocking(pipe.write_end, False)
        os.write(pipe.write_end, line[:60_000] + b"\n")
        pipe.read_now()
        assert pipe.take() == []
        assert pipe.failure is None


@pytest.mark.parametrize("ratio", [b"7", b"-1", b"true", b'"0.4"', b"NaN"])
async def test_a_ratio_that_is_none_is_not_told(ratio: bytes) -> None:
    with NewsPipe() as pipe:
        os.write(pipe.write_end, b'{"phase":"loading","ratio":' + ratio + b"}\n")
        pipe.read_now()
        assert pipe.take() == [Loading("loading", None)]


async def test_a_failure_is_kept_for_the_end() -> None:
    with NewsPipe() as pipe:
        os.write(pipe.write_end, b'{"phase":"failed","reason":"No."}\n')
        pipe.handed_over()
        pipe.read_now()
        assert pipe.failure == {"phase": "failed", "reason": "No."}


async def test_nobody_at_the_other_end_is_no_trouble() -> None:
    with NewsPipe() as pipe:
        pipe.handed_over()
        await pipe.wait(0.01)
        assert not pipe.spoke


async def test_bytes_are_told_where_there_are_some() -> None:
    with NewsPipe() as pipe:
        os.write(pipe.write_end, b'{"phase":"loading","ratio":0.4,"done":4,"total":10}\n')
        os.write(pipe.write_end, b'{"phase":"loading","ratio":0.5,"done":5,"total":"ten"}\n')
        os.write(pipe.write_end, b'{"phase":"loading","ratio":0.6,"done":12,"total":10}\n')
        pipe.read_now()
        assert pipe.take() == [
            Loading("loading", 0.4, done=4, total=10),
            Loading("loading", 0.5),
            Loading("loading", 0.6),
        ]


async def test_whoever_waits_is_told_whether_something_came() -> None:
    with NewsPipe() as pipe:
        assert not await pipe.wait(0.01)
        pipe.nudge()
        assert await pipe.wait(5)
