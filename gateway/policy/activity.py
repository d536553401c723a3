"""What counts as use of an upstream, and since when nobody has used it.

Only admitted inference requests come this far at all: probes, metrics, listings and refusals never do. Of those that
were forwarded, an engine's 4xx is no use either: a client that repeats a wrong request for days must not keep a GPU.
"""


def is_activity(status: int | None) -> bool:
    """Whether a forwarded request was use. `status` is the engine's; None: the caller left, or the engine died, before
    there was one (it worked on it all the same)."""
    return status is None or not 400 <= status < 500


class IdleClock:
    """The moment from which idle time counts: the end of the last activity or of the last loading, whichever is later.

    Whether it may run out is not its business: a request in flight blocks idleness, and the machine knows who is here.
    """

    def __init__(self) -> None:
        self.last_activity: float | None = None
        """When the last activity ended, in any life of the upstream. For /health and metrics."""
        self._since: float | None = None

    def __repr__(self) -> str:
        return f"<IdleClock {'stopped' if self._since is None else f'since {self._since}'}, used {self.last_activity}>"

    def start(self, now: float) -> None:
        """Count from now: it became ready, or loaded something."""
        self._since = now

    def used(self, now: float) -> None:
        """An activity ended. A stopped clock stays so: what is not up cannot be idle."""
        self.last_activity = now
        if self._since is not None:
            self._since = now

    def stop(self) -> None:
        self._since = None

    @property
    def runs(self) -> bool:
        return self._since is not None

    def runs_out(self, timeout: float | None) -> float | None:
        """When the idle time is over; None: never, or the clock is stopped."""
        return None if self._since is None or timeout is None else self._since + timeout
