"""What the lifecycle may order: imperative, carried out by the conductor, in the order given."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StartInstance:
    """Start one instance; its news carry this `run`."""

    run: int


@dataclass(frozen=True, slots=True)
class StopInstance:
    """Stop the instance of this run and confirm it. Ordered again after a failed stop: it must be idempotent."""

    run: int


@dataclass(frozen=True, slots=True)
class RestInstance:
    """Put the instance to sleep."""

    run: int


@dataclass(frozen=True, slots=True)
class WakeInstance:
    """Wake the sleeping instance."""

    run: int


@dataclass(frozen=True, slots=True)
class ReleaseWaiting:
    """The upstream serves: let the line move."""


@dataclass(frozen=True, slots=True)
class RefuseWaiting:
    """Nobody who waits now will be served by this start: refuse them with this code and sentence.

    The machine counts them as gone from here on, except while draining: the drain ends when they have heard it
    (`RequestLeft`, which is harmless in the other cases).
    """

    code: str
    reason: str


@dataclass(frozen=True, slots=True)
class EndDrain:
    """Everything that was to finish has finished and nothing runs any more, or the time is over: it may end."""


@dataclass(frozen=True, slots=True)
class CutRunning:
    """The time of the answers that still run is over: end each with a well-formed error of this code and sentence.

    The machine counts them as gone from here on, except while draining: the drain ends when they have heard it.
    """

    code: str
    reason: str


Effect = (
    StartInstance | StopInstance | RestInstance | WakeInstance | ReleaseWaiting | RefuseWaiting | EndDrain | CutRunning
)
