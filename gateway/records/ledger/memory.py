"""A ledger that survives nothing: for rehearsals, which spend nothing, and for tests.

Who makes a second one of the same `lines` has restarted the gateway.
"""

from gateway.policy.books import Entry


class MemoryLedger:
    def __init__(self, lines: list[Entry] | None = None) -> None:
        self.lines: list[Entry] = [] if lines is None else lines

    def __repr__(self) -> str:
        return f"<MemoryLedger of {len(self.lines)} lines>"

    async def read(self, since: int = 0) -> list[Entry]:
        return self.lines[since:]

    async def append(self, entry: Entry, seq: int) -> bool:
        entry.check()
        if len(self.lines) != seq:
            return False
        self.lines.append(entry)
        return True

    async def close(self) -> None:
        pass
