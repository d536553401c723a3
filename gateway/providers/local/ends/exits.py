"""How an engine's first process ended, as its guard tells it; `endings` makes a sentence of it. Pure."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Exit:
    """`code` is minus the signal, as subprocess has it."""

    code: int
    tail: tuple[str, ...] = ()
    """Its last lines of output."""
    lost_guard: bool = False
    """The guard was killed: nobody knows how the engine ended, only that it did."""
