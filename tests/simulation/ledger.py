"""A ledger in memory whose disk survives the process: what was acknowledged is there, whatever dies.

It keeps the contract of gateway/records/ledger/base.py. A process that dies at an append leaves either nothing or the
whole entry, as SQLite's journal does; which of the two, the kill decides ("append": nothing, "written": all of it).
"""

import asyncio
from collections.abc import Callable

from gateway.policy.books import Entry
from tests.simulation.loop import Process


class Disk:
    """What is on it, and whether it can be written."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.full = False
        self.on_append: Callable[[str], None] = lambda phase: None
        """Told "append" before and "written" after each one reaches the disk."""
        self.on_entry: Callable[[Entry], None] = lambda entry: None


class DiskLedger:
    """One process's way to the disk."""

    def __init__(self, disk: Disk, process: Process) -> None:
        self._disk = disk
        self._process = process

    def __repr__(self) -> str:
        return f"<DiskLedger of {self._process.name}: {len(self._disk.entries)} entries>"

    async def read(self, since: int = 0) -> list[Entry]:
        await asyncio.sleep(0)
        self._process.check()
        return self._disk.entries[since:]

    async def append(self, entry: Entry, seq: int) -> bool:
        await self._pause("append")
        if self._disk.full:
            raise OSError(28, "No space left on device")
        if seq != len(self._disk.entries):
            return False
        self._disk.entries.append(entry)
        self._disk.on_entry(entry)
        await self._pause("written")
        return True

    async def _pause(self, phase: str) -> None:
        self._process.check()
        self._disk.on_append(phase)
        await asyncio.sleep(0.001)
        self._process.check()

    async def close(self) -> None:
        """The disk stays."""
