"""Reads somebody else's ledger, wherever STATE_URL says that it is, and changes nothing: for `wakegate spend`."""

import asyncio
from pathlib import Path

from gateway.policy.books import Entry
from gateway.records.ledger import sqlite


async def look(state_url: str | None, data_dir: Path) -> list[Entry] | None:
    """Its lines. None: there is none. Raises LedgerError, BadEntry."""
    url = state_url or ""
    if url.startswith(("redis://", "rediss://")):
        from gateway.records.ledger.redis import RedisLedger

        ledger = RedisLedger(url)
        try:
            return await ledger.read() or None
        finally:
            await ledger.close()
    return await asyncio.to_thread(sqlite.look, sqlite.path_of(url, data_dir))
