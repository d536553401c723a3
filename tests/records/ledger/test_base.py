"""What every ledger promises, asked of those that need no server (Redis: test_redis.py)."""

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from gateway.policy.books import BadEntry, Entry
from gateway.records.ledger.base import Ledger, LedgerError
from gateway.records.ledger.memory import MemoryLedger
from gateway.records.ledger.sqlite import SqliteLedger, usual_path

Open = Callable[[], Awaitable[Ledger]]


def line(number: int) -> Entry:
    return Entry("said", 1_000 + number, why=f"line {number}")


@pytest.fixture(params=["sqlite", "sqlite on a network volume", "memory"])
def begin(request: pytest.FixtureRequest, tmp_path: Path) -> Open:
    """The ledger anew, as after a restart."""
    lines: list[Entry] = []
    last: list[Ledger] = []

    async def begun() -> Ledger:
        if last:
            await last.pop().close()
        if request.param == "memory":
            last.append(MemoryLedger(lines))
        else:
            last.append(SqliteLedger(usual_path(tmp_path), network="network" in request.param, within=60))
        return last[-1]

    return begun


async def test_a_new_one_has_no_lines(begin: Open) -> None:
    ledger = await begin()
    assert await ledger.read() == []
    await ledger.close()


async def test_lines_come_back_as_they_were_and_in_their_order(begin: Open) -> None:
    ledger = await begin()
    lines = [
        line(0),
        Entry("intended", 2**52, "wg-ä", "p", "u", "i", 1, 2**53 - 1, 3, "2026-11", "it's € 5", 4),
        line(2),
    ]
    for seq, entry in enumerate(lines):
        assert await ledger.append(entry, seq)
    ledger = await begin()
    assert await ledger.read() == lines and await ledger.read(2) == lines[2:] and await ledger.read(3) == []
    await ledger.close()


async def test_who_decided_without_knowing_all_lines_writes_none(begin: Open) -> None:
    ledger = await begin()
    assert await ledger.append(line(0), 0)
    assert not await ledger.append(line(1), 0)
    assert not await ledger.append(line(1), 2)
    assert await ledger.read() == [line(0)]
    assert await ledger.append(line(1), 1)
    await ledger.close()


async def test_what_is_no_line_of_ours_is_not_written(begin: Open) -> None:
    ledger = await begin()
    with pytest.raises(BadEntry):
        await ledger.append(Entry("refunded", 1), 0)
    assert await ledger.read() == []
    await ledger.close()


async def test_it_can_be_closed_twice(begin: Open) -> None:
    ledger = await begin()
    await ledger.append(line(0), 0)
    await ledger.close()
    await ledger.close()


def test_whatever_fails_is_an_error_of_the_system() -> None:
    """Journal and Treasury know OSError only."""
    assert issubclass(LedgerError, OSError)
