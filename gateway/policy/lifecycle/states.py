"""The states of an upstream, and what each means to a caller."""

from enum import StrEnum


class State(StrEnum):
    """One upstream is in exactly one of these. The names are users' words: they stand in /health and in metrics."""

    STOPPED = "stopped"
    """Nothing runs and nothing costs. A request starts it (after a crash: once the pause between tries is over)."""
    STARTING = "starting"
    """Ordered, not yet serving: booting, downloading, loading, waking from sleep, or pausing between two tries. Callers
    wait."""
    READY = "ready"
    """Serves."""
    ASLEEP = "asleep"
    """The process is there, its memory is given back, for as long as nobody comes. A request wakes it."""
    DRAINING = "draining"
    """The gateway is leaving: running answers may finish, nobody new is let in."""
    STOPPING = "stopping"
    """Told to stop or to sleep, not yet confirmed. A request that comes now waits, and starts it again afterwards."""
    FAILED = "failed"
    """Several starts in a row failed. Callers are refused at once until the pause is over; then one may try."""
