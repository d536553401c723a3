"""How long to wait before trying again, and when to give up: the memory of starts that failed."""


def pause(failures: int, *, first: float, most: float) -> float:
    """The pause after so many failures before this one: `first`, doubled each time, never above `most`.

    No jitter: one gateway tries one upstream, so there is no herd to spread, and stories stay exact.
    """
    # 1.0 * 2**1024 raises OverflowError, and a stop that fails for a day is tried more often than that.
    return min(most, first * (1 << min(failures, 40)))


NOT_ITS_FAULT = frozenset({"no_capacity", "insufficient_quota"})
"""Codes that say nothing about the upstream: the pause after them does not grow, since no start was paid for."""


class Tries:
    """The failures since the upstream was last healthy. `limit` of them in a row, and it is given up for a while.

    Times have the unit of whoever asks.
    """

    def __init__(self, *, limit: int, first: float, most: float, circuit_first: float, circuit_most: float) -> None:
        self._limit, self._first, self._most = limit, first, most
        self._circuit_first, self._circuit_most = circuit_first, circuit_most
        self.failures = 0
        self.openings = 0
        """How often it was given up without having been healthy since."""
        self.retry_at: float | None = None
        """No start before this. None: nothing speaks against one."""
        self.reason: str | None = None
        self.code: str | None = None

    def __repr__(self) -> str:
        if not self.failures:
            return "<Tries none failed>"
        return f"<Tries {self.failures} failed, given up {self.openings} times, next at {self.retry_at}: {self.reason}>"

    @property
    def given_up(self) -> bool:
        return self.failures >= self._limit

    def failed(self, code: str, reason: str, *, lasting: bool, now: float) -> None:
        """One more. A lasting one counts for all that are left: trying again would fail the same way. So does one that
        is not its fault: whoever waits is told at once, and may go elsewhere."""
        self.retry_at = now + pause(self.failures, first=self._first, most=self._most)
        self.failures = max(self.failures + 1, self._limit if lasting or code in NOT_ITS_FAULT else 0)
        self.code, self.reason = code, reason

    def give_up(self, now: float) -> None:
        """Open the circuit: no start until a pause is over that doubles each time."""
        if self.code in NOT_ITS_FAULT:
            self.retry_at = now + self._circuit_first
            return
        self.retry_at = now + pause(self.openings, first=self._circuit_first, most=self._circuit_most)
        self.openings += 1

    def succeeded(self) -> None:
        """A start went well. Not yet healthy: one more failure soon, and it is given up again, for longer."""
        self.failures = min(self.failures, self._limit - 1)
        self.retry_at = None

    def healthy(self) -> None:
        """It has served for long enough, or ended in order: the past is forgotten (its reason stays, to be read)."""
        self.failures = self.openings = 0
        self.retry_at = None
