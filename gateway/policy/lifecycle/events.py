"""What may happen to an upstream: facts, in the past tense.

Requests are ids, not counts: a request that is told of twice, or finishes without having arrived, cannot make the
number in flight wrong. `run` is the number that `StartInstance` carried: news of an earlier run changes nothing.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RequestArrived:
    """An authenticated, checked inference request wants the upstream: it waits in line or is in flight."""

    request: str


@dataclass(frozen=True, slots=True)
class RequestFinished:
    """The request was forwarded and is over. `active` is False for what is not activity: the engine's 4xx."""

    request: str
    active: bool = True


@dataclass(frozen=True, slots=True)
class RequestLeft:
    """The request went away, or was refused, before it was forwarded. Never activity."""

    request: str


@dataclass(frozen=True, slots=True)
class WakeRequested:
    """Somebody wants it up without a request of their own: WAKE_ON_START, the command line.

    `once`: nobody does, but something runs already that is to be taken over. If that fails, nothing is started instead.
    """

    once: bool = False


@dataclass(frozen=True, slots=True)
class StartProgressed:
    """A start in progress moved: more bytes, another phase. Pushes START_TIMEOUT, not START_MAX."""

    run: int


@dataclass(frozen=True, slots=True)
class BecameReady:
    """The upstream serves, or serves again after sleep."""

    run: int


@dataclass(frozen=True, slots=True)
class FellAsleep:
    """The upstream confirmed that it rests."""

    run: int


@dataclass(frozen=True, slots=True)
class InstanceLost:
    """The instance is gone without an order: a failed start, a crash, a vendor that took it away.

    `reason` is a closed sentence for callers and /health. `lasting` says that another try would fail the same way (a
    model that is not there): no retry, failed at once.
    """

    run: int
    reason: str
    lasting: bool = False
    code: str = "start_failed"
    taken: bool = False
    """The vendor took away what served: nothing is wrong with it, and the next start need not wait."""


@dataclass(frozen=True, slots=True)
class InstanceBroken:
    """The instance will not serve any more, but something of it exists and must be stopped before the next start.

    A start that failed after creating, a wake from sleep that failed, an engine that hangs. Else as `InstanceLost`.
    """

    run: int
    reason: str
    lasting: bool = False
    code: str = "start_failed"


@dataclass(frozen=True, slots=True)
class StopConfirmed:
    """The provider itself says that nothing of this run exists any more."""

    run: int


@dataclass(frozen=True, slots=True)
class StopFailed:
    """The stop could not be carried out or confirmed; it will be ordered again. Of a rest: it is stopped instead."""

    run: int


@dataclass(frozen=True, slots=True)
class WarmRequested:
    """It is to be up until then without being asked (keep-warm, WARM_SCHEDULE); None: no longer."""

    until: float | None


@dataclass(frozen=True, slots=True)
class SleepRequested:
    """Nobody wants it up any more, says the operator: its idle time is over, unless somebody is here."""


@dataclass(frozen=True, slots=True)
class MustEnd:
    """It may run only so much longer, whatever the traffic: the budget is reached, or MAX_RUNTIME.

    `within`: what running answers have left. `code`: what those who wait are refused with; empty: they wait for the
    next start. Nobody is let in meanwhile.
    """

    run: int
    within: float
    reason: str
    code: str = ""


@dataclass(frozen=True, slots=True)
class DrainRequested:
    """The process was told to end (SIGTERM). `leave`: what runs is left for a successor."""

    leave: bool = False


@dataclass(frozen=True, slots=True)
class TimePassed:
    """The deadline that `next_deadline` gave has come (or may have: it is safe to say at any time)."""


Event = (
    RequestArrived
    | RequestFinished
    | RequestLeft
    | WakeRequested
    | StartProgressed
    | BecameReady
    | FellAsleep
    | InstanceLost
    | InstanceBroken
    | StopConfirmed
    | StopFailed
    | WarmRequested
    | SleepRequested
    | MustEnd
    | DrainRequested
    | TimePassed
)
