"""The ledger in a real Redis: killed, paused, emptied, changed behind its back, and not durable."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from gateway.policy.books import BadEntry, Books, Entry
from gateway.records.ledger import redis as room
from gateway.records.ledger.base import LedgerDamaged, LedgerError, LedgerLate
from gateway.records.ledger.redis import KEY, NotDurable, RedisLedger
from gateway.records.redis_link import RedisDown
from tests.support.redis_server import RedisServer


def said(number: int) -> Entry:
    return Entry("said", 1_000 + number, why=f"line {number}")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """One for all tests that leave it as it was."""
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def own(tmp_path: Path) -> Iterator[RedisServer]:
    """One that a test may kill."""
    with RedisServer(tmp_path) as server:
        yield server


@pytest.fixture
async def ledger(server: RedisServer) -> AsyncIterator[RedisLedger]:
    server.ask("FLUSHALL")
    ledger = RedisLedger(server.url)
    yield ledger
    await ledger.close()


async def lines(server: RedisServer) -> list[Entry]:
    """As somebody who comes anew reads them."""
    ledger = RedisLedger(server.url)
    try:
        return await ledger.read()
    finally:
        await ledger.close()


async def test_what_is_appended_is_read_again_in_its_order(server: RedisServer, ledger: RedisLedger) -> None:
    assert await ledger.read() == []
    for number in range(5):
        assert await ledger.append(said(number), number)
    assert await ledger.read() == [said(number) for number in range(5)]
    assert await ledger.read(5) == []
    assert await ledger.read(3) == [said(3), said(4)]
    assert await lines(server) == await ledger.read()


async def test_more_lines_than_are_read_at_once(
    server: RedisServer, ledger: RedisLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "MANY", 3)
    for number in range(11):
        assert await ledger.append(said(number), number)
        assert len(await lines(server)) == number + 1


async def test_of_two_who_knew_the_same_one_is_sent_back_to_read(server: RedisServer, ledger: RedisLedger) -> None:
    other = RedisLedger(server.url)
    assert await ledger.append(said(0), 0)
    assert not await other.append(said(1), 0)
    assert await other.read(0) == [said(0)]
    assert await other.append(said(1), 1)
    assert not await ledger.append(said(2), 1)
    assert await ledger.read(1) == [said(1)]
    await other.close()


async def test_many_at_once_write_every_line_once(server: RedisServer, ledger: RedisLedger) -> None:
    ledgers = [ledger, *(RedisLedger(server.url) for _ in range(3))]

    async def write(each: RedisLedger, whose: int) -> None:
        books = Books()
        for number in range(10):
            while not await each.append(said(100 * whose + number), books.seq):
                for entry in await each.read(books.seq):
                    books.apply(entry)
            for entry in await each.read(books.seq):
                books.apply(entry)

    await asyncio.gather(*(write(each, whose) for whose, each in enumerate(ledgers)))
    written = await lines(server)
    assert sorted(entry.why for entry in written) == sorted(f"line {100 * w + n}" for w in range(4) for n in range(10))
    for each in ledgers[1:]:
        await each.close()


async def test_what_was_confirmed_survives_a_kill(own: RedisServer) -> None:
    ledger = RedisLedger(own.url)
    for number in range(20):
        assert await ledger.append(said(number), number)
    own.kill()
    own.start()
    assert await ledger.append(said(20), 20)
    assert await lines(own) == [said(number) for number in range(21)]
    await ledger.close()


async def test_while_it_is_down_or_paused_nothing_is_confirmed_and_nobody_waits_for_ever(own: RedisServer) -> None:
    ledger = RedisLedger(own.url, within=0.5)
    assert await ledger.append(said(0), 0)
    own.pause()
    with pytest.raises(LedgerLate):
        await ledger.append(said(1), 1)
    with pytest.raises(LedgerLate):
        await ledger.read()
    own.go_on()
    own.kill()
    with pytest.raises(LedgerError):
        await ledger.append(said(1), 1)
    own.start()
    assert await ledger.read(0) == [said(0)]
    await ledger.close()


async def test_a_line_whose_answer_was_lost_is_there_once(
    server: RedisServer, ledger: RedisLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask, lost = ledger._link.ask, []

    async def losing(*command: str | int) -> object:
        answer = await ask(*command)
        if command[0] == "EVAL" and len(lost) < 2:
            lost.append(answer)
            raise RedisDown("the answer was lost")
        return answer

    monkeypatch.setattr(ledger._link, "ask", losing)
    assert await ledger.append(said(0), 0)
    assert await ledger.append(said(1), 1)
    assert await lines(server) == [said(0), said(1)]
    assert len(lost) == 2


async def test_a_redis_that_came_back_with_less_is_believed_no_more(own: RedisServer) -> None:
    ledger = RedisLedger(own.url)
    for number in range(3):
        assert await ledger.append(said(number), number)
    own.lose_everything()
    own.start()
    with pytest.raises(LedgerDamaged, match="no longer has the 3 lines"):
        await ledger.append(said(3), 3)
    with pytest.raises(LedgerDamaged, match="no longer has the 3 lines"):
        await ledger.read(0)
    other = RedisLedger(own.url)
    for number in range(4):
        assert await other.append(said(10 + number), number)
    with pytest.raises(LedgerDamaged, match="no longer has the 3 lines"):
        await ledger.read(3)
    await other.close()
    await ledger.close()


@pytest.mark.parametrize(
    "how", ["another amount", "no JSON", "no object", "one is gone", "two are swapped", "unproved"]
)
async def test_lines_that_somebody_changed_are_found(server: RedisServer, ledger: RedisLedger, how: str) -> None:
    for number in range(4):
        assert await ledger.append(said(number), number)
    kept = [json.loads(await ledger._link.ask("LINDEX", KEY, number)) for number in range(4)]
    if how == "another amount":
        kept[1]["entry"]["amount"] = 7
        server.ask("LSET", KEY, "1", json.dumps(kept[1]))
    elif how in ("no JSON", "no object"):
        server.ask("LSET", KEY, "1", "{" if how == "no JSON" else "[]")
    elif how == "one is gone":
        server.ask("LREM", KEY, "1", await ledger._link.ask("LINDEX", KEY, 1))
    elif how == "two are swapped":
        first, second = await ledger._link.ask("LRANGE", KEY, 1, 2)
        server.ask("LSET", KEY, "1", second)
        server.ask("LSET", KEY, "2", first)
    else:
        server.ask("RPUSH", KEY, json.dumps({"entry": said(4).fields(), "mark": "", "proof": ""}))
    with pytest.raises(LedgerDamaged):
        await lines(server)
    with pytest.raises(LedgerDamaged):
        await ledger.read()


async def test_a_line_of_a_newer_version_is_no_line_of_ours(server: RedisServer, ledger: RedisLedger) -> None:
    newer = room._line(said(0), "")
    kept = json.loads(newer)
    kept["entry"]["kind"] = "gifted"
    proof = room._proof({"entry": kept["entry"], "mark": kept["mark"]}, "")
    server.ask("RPUSH", KEY, json.dumps(kept | {"proof": proof}, sort_keys=True, separators=(",", ":")))
    with pytest.raises(BadEntry, match="line 1"):
        await lines(server)
    with pytest.raises(BadEntry):
        await ledger.append(Entry("gifted", 1), 0)


@pytest.mark.parametrize(
    ("setting", "wrong", "right", "says"),
    [
        ("appendfsync", "everysec", "always", "appendfsync always"),
        ("appendonly", "no", "yes", "appendonly yes"),
        ("no-appendfsync-on-rewrite", "yes", "no", "no-appendfsync-on-rewrite no"),
        ("maxmemory-policy", "allkeys-lru", "noeviction", "noeviction"),
    ],
)
async def test_one_that_may_forget_is_refused_also_when_it_is_set_so_while_it_runs(
    own: RedisServer, setting: str, wrong: str, right: str, says: str
) -> None:
    ledger = RedisLedger(own.url)
    own.ask("CONFIG", "SET", "maxmemory", "100mb")
    assert await ledger.append(said(0), 0)
    own.ask("CONFIG", "SET", setting, wrong)
    with pytest.raises(NotDurable, match=says):
        await ledger.append(said(1), 1)
    with pytest.raises(NotDurable, match=says):
        await ledger.read()
    own.ask("CONFIG", "SET", setting, right)
    assert await ledger.append(said(1), 1)
    await ledger.close()


async def test_a_replica_and_one_that_does_not_say_how_it_is_set_are_refused(own: RedisServer) -> None:
    ledger = RedisLedger(own.url)
    own.ask("REPLICAOF", "127.0.0.1", "1")
    with pytest.raises(NotDurable, match="replica"):
        await ledger.read()
    own.ask("REPLICAOF", "NO", "ONE")
    assert await ledger.read() == []
    own.ask("ACL", "SETUSER", "default", "-config")
    with pytest.raises(NotDurable, match="does not say"):
        await ledger.read()
    await ledger.close()


async def test_a_password_is_never_shown(own: RedisServer) -> None:
    own.ask("ACL", "SETUSER", "somebody", "on", ">hunter22", "+@all", "~*")
    place = own.url.removeprefix("unix://")
    right, wrong = RedisLedger(f"unix://somebody:hunter22@{place}"), RedisLedger(f"unix://somebody:hunter23@{place}")
    assert await right.append(said(0), 0)
    assert "hunter" not in repr(right) + repr(right._link)
    with pytest.raises(LedgerError) as refused:
        await wrong.append(said(1), 1)
    assert "hunter" not in str(refused.value) + repr(refused.value)
    await right.close()
    await wrong.close()
