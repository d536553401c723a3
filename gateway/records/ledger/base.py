"""What every ledger promises: lines in one order, each either safe or not there, and no two writers that disagree."""

from typing import Protocol

from gateway.policy.books import Entry


class LedgerError(OSError):
    """It cannot be read or written now. Nothing may be rented; what one of its readers knows stays as it is.

    Whether a line that failed is in it all the same is not known: read on from where you were before the next one.
    """


class LedgerLate(LedgerError):
    """It did not answer in time, as a disk that hangs. What was not begun yet will not be done any more."""


class LedgerTaken(LedgerError):
    """Another gateway has it."""


class LedgerDamaged(LedgerError):
    """It does not say what was written to it. Nothing in it is changed; nothing is begun anew in its place."""


class Ledger(Protocol):
    """Lines that are only ever added. Used by one event loop; each call may be cancelled, and is as one that failed."""

    async def read(self, since: int = 0) -> list[Entry]:
        """Every line, or those after the first `since`. None at all: it is new. Raises LedgerError, BadEntry."""

    async def append(self, entry: Entry, seq: int) -> bool:
        """Write a line that was decided on knowing the first `seq`. False: there are more by now; read them and decide
        again. True: it is there, and would be after a power cut. Raises LedgerError, BadEntry."""

    async def close(self) -> None:
        """Give it back. What is being written is written, as far as that takes no longer than any other call."""
