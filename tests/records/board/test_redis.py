"""The contract of every board (gateway/records/board), on the one in this process and on a real Redis."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from gateway.records.board.memory import MemoryBoard
from gateway.records.board.redis import RedisBoard
from tests.support.redis_server import RedisServer


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(params=["memory", "redis"])
async def pair(request: pytest.FixtureRequest, server: RedisServer) -> AsyncIterator[tuple[object, object]]:
    """The same board, as two gateways have it."""
    if request.param == "memory":
        board = MemoryBoard()
        yield board, board
        return
    server.ask("FLUSHALL")
    boards = RedisBoard(server.url, "main"), RedisBoard(server.url, "main")
    yield boards
    for each in boards:
        await each.close()


async def test_nobody_has_written_yet(pair: tuple[MemoryBoard, MemoryBoard]) -> None:
    assert await pair[0].read() == ("", "")


async def test_what_one_writes_the_other_reads(pair: tuple[MemoryBoard, MemoryBoard]) -> None:
    one, other = pair
    assert await one.write("first — ü", "")
    version, text = await other.read()
    assert text == "first — ü"
    assert await other.write("second", version)
    assert (await one.read())[1] == "second"


async def test_who_knew_an_older_text_writes_nothing(pair: tuple[MemoryBoard, MemoryBoard]) -> None:
    one, other = pair
    assert await one.write("first", "")
    assert not await other.write("mine", "")
    version, _ = await other.read()
    assert await one.write("second", version)
    assert not await other.write("mine", version)
    assert (await one.read())[1] == "second"


async def test_of_many_at_once_one_counts(pair: tuple[MemoryBoard, MemoryBoard]) -> None:
    outcomes = await asyncio.gather(*(pair[number % 2].write(str(number), "") for number in range(20)))
    assert sum(outcomes) == 1


async def test_a_version_from_before_a_loss_is_none_after_it(tmp_path: Path) -> None:
    memory = MemoryBoard()
    with RedisServer(tmp_path) as server:
        redis = RedisBoard(server.url, "main")
        versions = []
        for board in (memory, redis):
            assert await board.write("first", "")
            versions.append((await board.read())[0])
        memory.forget()
        server.lose_everything()
        server.start()
        for board, version in zip((memory, redis), versions, strict=True):
            assert await board.read() == ("", "")
            assert await board.write("another first", "")
            assert not await board.write("mine", version)
        await redis.close()


async def test_one_that_is_down_or_paused_raises_in_time(tmp_path: Path) -> None:
    memory = MemoryBoard()
    memory.down = True
    with RedisServer(tmp_path) as server:
        redis = RedisBoard(server.url, "main", within=0.3)
        assert await redis.write("first", "")
        server.pause()
        for board in (memory, redis):
            with pytest.raises(OSError, match=r"down|no answer"):
                await board.read()
        server.go_on()
        assert (await redis.read())[1] == "first"
        server.kill()
        with pytest.raises(OSError, match=r"."):
            await redis.write("second", "")
        server.start()
        assert (await redis.read())[1] == "first"
        await redis.close()


async def test_each_upstream_has_its_own(server: RedisServer) -> None:
    server.ask("FLUSHALL")
    one, other = RedisBoard(server.url, "main"), RedisBoard(server.url, "other")
    assert await one.write("of main", "")
    assert await other.read() == ("", "")
    server.ask("HDEL", "wakegate:board:main", "text")
    with pytest.raises(OSError, match="not what was written"):
        await one.read()
    await one.close()
    await other.close()
