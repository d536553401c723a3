"""Reads somebody else's ledger, wherever STATE_URL says that it is, and changes nothing: for `wakegate spend`."""

import asyncio
from pathlib import Path

from gateway.policy.books import Entry
from gateway.records.ledger import sqlite


def is_redis(state_url: str | None) -> bool:
    """Whether STATE_URL is a Redis, which several gateways may share."""
    return (state_url or "").startswith(("redis://", "rediss://"))


async def look(state_url: str | None, data_dir: Path) -> list[Entry] | None:
    """Its lines. None: there is none. Raises LedgerError, BadEntry."""
    url = state_url or ""
    if is_redis(url):
        from gateway.records.ledger.redis import RedisLedger

        ledger = RedisLedger(url)
        try:
            return await ledger.read() or None
        finally:
            await ledger.close()
    return await asyncio.to_thread(sqlite.look, sqlite.path_of(url, data_dir))
