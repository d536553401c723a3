"""The machine: facts about one upstream go in, orders come out, and it says when it next wants to be told the time.

It has no clock, no loop and no I/O. `handle(event, now=…)` first applies the one rule that `RULES` has for this event
in this state, then `FOLLOWS` as long as anything follows: from who is here, and from deadlines that have come. Both
tables stand below the facts they speak of; docs/reference/lifecycle.md and its picture are generated from them.

Durations and times have one unit, the caller's: seconds in production, whole milliseconds in tests/stories, where the
same stories are run by the edition for Cloudflare. `now` never goes back.

What holds whatever happens (tests/policy/lifecycle/test_machine_properties.py):

- At most one instance: a start is ordered only when the last run is known to be gone.
- A stop is ordered while somebody is here only by a drain, a start that took too long, an instance that broke, or
  one that must end (the budget, MAX_RUNTIME).
- Everybody who arrives is released or refused, or a start or stop is still under way for them.
- Where nobody comes, it ends stopped (or asleep), and every deadline that has come is gone or has moved on.
"""

from collections.abc import Callable, KeysView, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from gateway.policy.activity import IdleClock
from gateway.policy.backoff import Tries, pause
from gateway.policy.lifecycle.effects import (
    CutRunning,
    Effect,
    EndDrain,
    RefuseWaiting,
    ReleaseWaiting,
    RestInstance,
    StartInstance,
    StopInstance,
    WakeInstance,
)
from gateway.policy.lifecycle.events import (
    BecameReady,
    DrainRequested,
    Event,
    FellAsleep,
    InstanceBroken,
    InstanceLost,
    MustEnd,
    RequestArrived,
    RequestFinished,
    RequestLeft,
    SleepRequested,
    StartProgressed,
    StopConfirmed,
    StopFailed,
    TimePassed,
    WakeRequested,
    WarmRequested,
)
from gateway.policy.lifecycle.states import State

AT_ONCE = float("-inf")
"""Due before any moment: a rule that follows without waiting for a deadline."""

DRAINING = "This gateway is shutting down; another one, or this one in a moment, will answer."
NO_PROGRESS = "The start made no progress for START_TIMEOUT and was stopped; the engine's log says how far it came."
DRAIN_IS_OVER = "This gateway is shutting down, and the time for running answers is over."
TOO_LONG = "The start took longer than START_MAX and was stopped; the engine's log says how far it came."


@dataclass(frozen=True, slots=True, kw_only=True)
class LifecycleSettings:
    """Every duration the machine knows. The defaults are seconds."""

    idle_timeout: float | None = 900
    """None: never idle. Once somebody has wanted it, it is kept up, and tried again without being asked."""
    idle_action: Literal["stop", "sleep"] = "stop"
    """"sleep" only where the provider can rest."""
    start_timeout: float = 600
    """Without any progress."""
    start_max: float = 1800
    """In all, progress or not."""
    rest_timeout: float = 150
    """A rest that is not confirmed by then becomes a stop. Longer than a provider may take for it (120)."""
    stop_retry: float = 2
    """A stop that failed is ordered again after this, doubling up to `stop_retry_max`, for ever."""
    stop_retry_max: float = 60
    drain_timeout: float = 25
    """In all: answers, then the stop."""
    drain_reserve: float = 5
    """The part of `drain_timeout` that is kept for the stop."""
    retry_first: float = 1
    """The pause after a first failed start or crash, doubling up to `retry_max`."""
    retry_max: float = 30
    quick_crash_window: float = 60
    """Ready for longer than this is healthy: earlier failures are forgotten."""
    quick_crashes: int = 3
    """As many failures in a row, and it is given up for `circuit_first`, doubling up to `circuit_max`."""
    circuit_first: float = 60
    circuit_max: float = 900


@dataclass(frozen=True, slots=True)
class TurnedAway:
    """Why a request that came now would be refused at once. `retry_after` in the machine's unit; None: unknown."""

    code: str
    reason: str
    retry_after: float | None


class _Facts:
    """What is known of the upstream, and the deeds the tables name: each changes facts or gives an order, none the
    state."""

    def __init__(self, settings: LifecycleSettings, *, now: float = 0) -> None:
        self.settings = settings
        self._state = State.STOPPED
        self._now = self._since = now
        self._deadline: float | None = None
        """The first moment at which something follows, as things are."""
        self._orders: list[Effect] = []

        self._here: dict[str, None] = {}
        """Everyone who waits or is in flight, by id; a dict, because it keeps the order they came in."""
        self._wanted = self._once = False
        """Somebody wants it up without being here: WAKE_ON_START, the command line, an idle time of never."""
        self._warm_until: float | None = None
        """It is to be up until then, whether somebody comes or not."""
        self._dismissed = False
        """The operator wants it down as soon as nobody is here."""
        self._idle = IdleClock()

        self._run = 0
        self._instance: int | None = None
        """The run of which something may exist. News of any other run is old."""
        self._order: Effect | None = None
        """What the provider was told last and has not answered."""
        self._ordered_at = self._progress_at = now
        self._ready_at: float | None = None
        self._ever_ready = False
        self._tries = Tries(
            limit=settings.quick_crashes,
            first=settings.retry_first,
            most=settings.retry_max,
            circuit_first=settings.circuit_first,
            circuit_most=settings.circuit_max,
        )

        self._stop_failures = 0
        self._stop_again_at: float | None = None

        self._must_end: MustEnd | None = None
        self._must_end_at: float | None = None
        """When it is stopped, whoever is here. None: nothing speaks against its going on."""

        self._cut_at: float | None = None
        """While draining: when running answers are cut. None: they have been."""
        self._end_at: float | None = None
        """While draining: when it ends, come what may. None: it has."""
        self._leaves = False
        """While draining: what runs is left running, for a successor."""

    # -- who is here, and who wants it

    def _arrive(self, event: RequestArrived) -> None:
        self._here[event.request] = None
        self._dismissed = False

    def _arrive_late(self, event: RequestArrived) -> None:
        """While draining: whoever gets here must at least be told so, unless a ready upstream still serves."""
        self._arrive(event)
        if self._instance is None or self._stop_is_ordered:
            self._orders.append(RefuseWaiting("draining", DRAINING))

    def _finish(self, event: RequestFinished) -> None:
        if event.request in self._here:
            del self._here[event.request]
            if event.active:
                self._idle.used(self._now)

    def _leave(self, event: RequestLeft) -> None:
        self._here.pop(event.request, None)

    def _want(self, event: WakeRequested) -> None:
        self._once = event.once and (self._once or not self._wanted)
        self._wanted, self._dismissed = True, False

    def _keep_warm(self, event: WarmRequested) -> None:
        self._warm_until = event.until
        if event.until is not None:
            self._dismissed = False

    def _wake_warm(self, event: WarmRequested) -> None:
        """Its memory is to be back by then, not at the next request."""
        self._keep_warm(event)
        self._wanted = event.until is not None and self._now < event.until

    def _dismiss(self, event: SleepRequested) -> None:
        self._wanted, self._warm_until, self._dismissed = False, None, not self._here

    def _want_if_due(self, event: WakeRequested) -> None:
        """While given up: a wish before the pause is over is refused (see `refusal`), not kept for later."""
        if self._tries.retry_at is None or self._now >= self._tries.retry_at:
            self._wanted = True

    @property
    def _asked_for(self) -> bool:
        return bool(self._here) or self._wanted

    def _still_wanted_until(self) -> float | None:
        """When nobody would miss it; None: as long as it takes. After a crash its idle time goes on counting down."""
        if self._asked_for:
            return None
        if self._dismissed:
            return AT_ONCE
        missed = self._idle.runs_out(self.settings.idle_timeout) if self._idle.runs else AT_ONCE
        return missed if missed is None or self._warm_until is None else max(missed, self._warm_until)

    @property
    def _missed(self) -> bool:
        until = self._still_wanted_until()
        return until is None or self._now < until

    def _refuse(self, code: str, reason: str) -> None:
        if self._here:
            self._orders.append(RefuseWaiting(code, reason))
            self._here.clear()

    # -- orders to the provider

    def _tell(self, order: Effect) -> None:
        self._orders.append(order)
        self._order, self._ordered_at, self._stop_again_at = order, self._now, None

    def _begin(self, order: Effect) -> None:
        self._tell(order)
        self._progress_at, self._ready_at = self._now, None

    def _start(self, _: object) -> None:
        if not self._missed_by_clock:
            self._idle.stop()  # it ran out in an earlier life, and says nothing about this one
        self._wanted = self._wanted or self.settings.idle_timeout is None
        self._dismissed = False
        self._run += 1
        self._instance = self._run
        self._begin(StartInstance(self._run))

    @property
    def _missed_by_clock(self) -> bool:
        runs_out = self._idle.runs_out(self.settings.idle_timeout)
        return runs_out is not None and self._now < runs_out

    def _wake(self, _: object) -> None:
        self._begin(WakeInstance(self._run))

    def _stop(self, _: object) -> None:
        self._tell(StopInstance(self._run))

    def _note_end(self, event: MustEnd) -> None:
        """Running answers may go on for so long; nobody else is let in. The first end that is said holds."""
        if self._must_end_at is None or self._now + event.within < self._must_end_at:
            self._must_end, self._must_end_at = event, self._now + event.within
            if event.code and self._here:
                self._orders.append(RefuseWaiting(event.code, event.reason))

    def _end_start(self, event: MustEnd) -> None:
        """A failed start, with its pause: else one that is to be up would be started and ended again and again."""
        code = event.code or "start_timeout"
        self._tries.failed(code, event.reason, lasting=bool(event.code), now=self._now)
        self._stop(event)
        self._wanted = False
        self._refuse(code, event.reason)

    def _end_running(self, _: object) -> None:
        if self._here and self._must_end is not None:
            self._orders.append(CutRunning(self._must_end.code or "backend_lost", self._must_end.reason))
        self._wanted = self._wanted and not (self._must_end is not None and self._must_end.code)
        self._idle.stop()  # who comes back for it is another start's reason, not the time that was left
        self._stop(None)

    def _end_draining(self, event: MustEnd) -> None:
        if self._cut_at is not None:
            self._cut_at = min(self._cut_at, self._now + event.within)
        self._leaves = False

    def _retire(self, _: object) -> None:
        """Nobody has needed it for IDLE_TIMEOUT."""
        self._tries.healthy()
        if self._dismissed:
            self._dismissed = False
            self._idle.stop()
        self._tell(RestInstance(self._run) if self.settings.idle_action == "sleep" else StopInstance(self._run))

    @property
    def _stop_is_ordered(self) -> bool:
        return isinstance(self._order, StopInstance)

    @property
    def _rest_is_ordered(self) -> bool:
        return isinstance(self._order, RestInstance)

    # -- news

    def _progress(self, event: StartProgressed) -> None:
        self._progress_at = self._now

    def _load_more(self, event: StartProgressed) -> None:
        """It serves, and loads something: busy."""
        self._idle.start(self._now)

    def _serve(self, event: BecameReady) -> None:
        # A restart that nobody asked for buys no new idle time: else one that crashes each hour would run for ever.
        if self._asked_for or not self._idle.runs:
            self._idle.start(self._now)
        self._order, self._ready_at, self._ever_ready = None, self._now, True
        self._wanted, self._once = self.settings.idle_timeout is None, False
        self._tries.succeeded()
        self._orders.append(ReleaseWaiting())

    def _fall_asleep(self, event: FellAsleep) -> None:
        self._order = None
        self._idle.stop()
        self._tries.healthy()

    def _try_no_more(self) -> None:
        """What was to be taken over cannot be, and nobody wanted another."""
        if self._once:
            self._wanted, self._once = self.settings.idle_timeout is None, False

    def _fail(self, event: InstanceLost | InstanceBroken) -> None:
        self._try_no_more()
        if self._ready_at is not None and self._now > self._ready_at + self.settings.quick_crash_window:
            self._tries.healthy()
        self._tries.failed(event.code, event.reason, lasting=event.lasting, now=self._now)

    def _lose(self, event: InstanceLost) -> None:
        if event.taken and self._ready_at is not None:
            self._tries.healthy()
            self._idle.stop()  # another one is started for those who are here, and not to stand by
        else:
            self._fail(event)
        self._vanish(event)

    def _break(self, event: InstanceBroken) -> None:
        self._fail(event)
        self._stop(event)

    def _vanish(self, _: object) -> None:
        """Nothing of the run exists any more."""
        self._instance = self._order = self._stop_again_at = None
        self._must_end = self._must_end_at = None
        self._stop_failures = 0

    def _retry_stop(self, event: StopFailed) -> None:
        """The order stays unanswered; what was to rest is stopped at once."""
        self._stop_again_at = AT_ONCE
        if self._stop_is_ordered:
            self._stop_again_at = self._now + pause(
                self._stop_failures, first=self.settings.stop_retry, most=self.settings.stop_retry_max
            )
            self._stop_failures += 1

    # -- leaving

    def _drain(self, event: DrainRequested) -> None:
        self._leaves = event.leave
        self._end_at = self._now + self.settings.drain_timeout
        self._cut_at = self._now + max(0, self.settings.drain_timeout - self.settings.drain_reserve)
        if self._state is not State.READY:
            self._refuse_leaving(event)

    def _refuse_leaving(self, event: object) -> None:
        """Nothing will serve those who wait. They stay here until they have heard it: the drain waits for that."""
        if self._here:
            self._orders.append(RefuseWaiting("draining", DRAINING))
        if self._instance is not None and not self._stop_is_ordered and not self._leaves:
            self._stop(event)

    def _break_leaving(self, event: InstanceBroken) -> None:
        """What is broken is no use to a successor."""
        self._leaves = False
        self._refuse_leaving(event)

    def _hurry(self, event: DrainRequested) -> None:
        if self._cut_at is not None:
            self._cut_at = min(self._cut_at, self._now)

    def _vanish_leaving(self, event: InstanceLost | StopConfirmed) -> None:
        served = not self._stop_is_ordered
        self._vanish(event)
        if served:
            self._refuse_leaving(event)

    def _cut(self, _: object) -> None:
        self._cut_at = None
        self._orders += [RefuseWaiting("draining", DRAINING), CutRunning("draining", DRAIN_IS_OVER)]

    def _end(self, _: object) -> None:
        self._end_at = self._cut_at = self._stop_again_at = None
        self._orders.append(EndDrain())

    # -- when what follows is due: AT_ONCE, a moment, or None

    def _when_given_up(self) -> float | None:
        return AT_ONCE if self._tries.given_up else None

    def _when_missed(self) -> float | None:
        return AT_ONCE if self._missed else None

    def _when_not_missed(self) -> float | None:
        return self._still_wanted_until() if self._instance is None else None

    def _when_next_try(self) -> float | None:
        return self._retry_due if self._instance is None else None

    def _when_asked_again(self) -> float | None:
        warm = self._warm_until is not None and self._retry_due < self._warm_until
        return self._retry_due if self._asked_for or warm else None

    @property
    def _retry_due(self) -> float:
        return AT_ONCE if self._tries.retry_at is None else self._tries.retry_at

    def _when_asked_too_soon(self) -> float | None:
        return AT_ONCE if self._here and self._now < self._retry_due else None

    def _when_start_is_over(self) -> float | None:
        return min(self._no_progress_at, self._too_long_at) if self._instance is not None else None

    @property
    def _no_progress_at(self) -> float:
        return self._progress_at + self.settings.start_timeout

    @property
    def _too_long_at(self) -> float:
        return self._ordered_at + self.settings.start_max

    def _when_idle(self) -> float | None:
        if self._asked_for:
            return None
        idle = self._idle.runs_out(self.settings.idle_timeout)
        return idle if idle is None or self._warm_until is None else max(idle, self._warm_until)

    def _when_dismissed(self) -> float | None:
        return AT_ONCE if self._dismissed and not self._here and self._instance is not None else None

    def _when_it_must_end(self) -> float | None:
        if self._must_end_at is None:
            return None
        return self._must_end_at if self._here else AT_ONCE

    def _when_asked(self) -> float | None:
        return AT_ONCE if self._asked_for else None

    def _when_rest_is_late(self) -> float | None:
        return self._ordered_at + self.settings.rest_timeout if self._rest_is_ordered else None

    def _when_stop_again(self) -> float | None:
        return self._stop_again_at

    def _when_cut(self) -> float | None:
        return self._cut_at if self._here else None

    def _when_served_all(self) -> float | None:
        if self._end_at is None or self._instance is None or self._stop_is_ordered or self._leaves:
            return None
        return AT_ONCE if not self._here or self._cut_at is None else None

    def _when_ended(self) -> float | None:
        if self._end_at is None:
            return None
        left = self._leaves and not self._stop_is_ordered
        return AT_ONCE if (self._instance is None or left) and not self._here else self._end_at

    # -- deeds of what follows

    def _give_up(self, event: None) -> None:
        self._tries.give_up(self._now)
        self._idle.stop()
        self._wanted = self.settings.idle_timeout is None
        self._refuse_given_up(event)

    def _refuse_given_up(self, _: object) -> None:
        self._refuse(self._tries.code or "start_failed", self._tries.reason or "")

    def _time_out(self, event: None) -> None:
        reason = NO_PROGRESS if self._no_progress_at <= self._too_long_at else TOO_LONG
        self._tries.failed("start_timeout", reason, lasting=False, now=self._now)
        self._try_no_more()
        self._stop(event)
        self._refuse("start_timeout", reason)

    def _nothing(self, _: object) -> None:
        """The change of state says it all."""


@dataclass(frozen=True, slots=True)
class Rule:
    """What an event does in a state. `to`: the state afterwards, None for the same; `when`: else it is ignored."""

    says: str
    do: Callable[[_Facts, Any], None]
    to: State | None = None
    when: Callable[[_Facts], bool] | None = None


@dataclass(frozen=True, slots=True)
class Follow:
    """What follows in a state without an event of its own, from the moment `due` gives; None: not as things are."""

    name: str
    says: str
    due: Callable[[_Facts], float | None]
    do: Callable[[_Facts, Any], None]
    to: State | None = None


# How to edit the tables.
#
# 1. An event with no rule in a state changes nothing there. That is a decision, not a gap: late news is normal.
# 2. News of another run than the one that may exist never reaches a rule (`Lifecycle.handle`): do not test for it.
# 3. A rule has one target. Where "it depends", let the rule state the fact and `FOLLOWS` decide from there, as a lost
#    instance does: to STOPPED, from where callers lead on to STARTING and the third failure to FAILED.
# 4. FOLLOWS is read from the top, the first that is due is done, and then again from the top: order is priority.
# 5. What is done must undo its own `due`, or push it: `handle` refuses to go round for ever.
# 6. `due` compares nothing with now: it returns the moment, the same sum each time. So the moment that
#    `next_deadline` gave is exactly the one at which the rule applies, in floats too.
# 7. `says` is read by users in docs/reference/lifecycle.md. Every edge there needs a story that walks it (a test).

_ALWAYS: dict[type, Rule] = {
    RequestArrived: Rule("It counts as here.", _Facts._arrive),
    RequestFinished: Rule("It is here no more; if it was activity, idle time counts from now.", _Facts._finish),
    RequestLeft: Rule("It is here no more.", _Facts._leave),
    DrainRequested: Rule(
        "No new callers. Where nothing serves, those who wait are refused and the start ends.",
        _Facts._drain,
        State.DRAINING,
    ),
    WarmRequested: Rule("Until then it is wanted, whether somebody comes or not.", _Facts._keep_warm),
    SleepRequested: Rule("Nobody wants it up any more, but those who are here.", _Facts._dismiss),
    TimePassed: Rule("Nothing of its own: see what follows.", _Facts._nothing),
}

RULES: Mapping[State, Mapping[type, Rule]] = {
    State.STOPPED: _ALWAYS
    | {
        WakeRequested: Rule("Somebody wants it up.", _Facts._want),
    },
    State.STARTING: _ALWAYS
    | {
        WakeRequested: Rule("Somebody wants it up, also if all callers leave.", _Facts._want),
        StartProgressed: Rule("START_TIMEOUT counts from now; START_MAX does not.", _Facts._progress),
        BecameReady: Rule("All who wait are let in. Idle time counts from now.", _Facts._serve, State.READY),
        InstanceLost: Rule("A failed start.", _Facts._lose, State.STOPPED),
        InstanceBroken: Rule("A failed start that left something: it is stopped first.", _Facts._break, State.STOPPING),
        MustEnd: Rule("A failed start: it is stopped, those who wait are refused.", _Facts._end_start, State.STOPPING),
    },
    State.READY: _ALWAYS
    | {
        StartProgressed: Rule("Loading is being busy: idle time counts from now.", _Facts._load_more),
        FellAsleep: Rule("It went to sleep by itself.", _Facts._fall_asleep, State.ASLEEP),
        InstanceLost: Rule("A crash.", _Facts._lose, State.STOPPED),
        InstanceBroken: Rule("A crash that left something: it is stopped first.", _Facts._break, State.STOPPING),
        MustEnd: Rule("Running answers may go on for so long; nobody else is let in.", _Facts._note_end),
    },
    State.ASLEEP: _ALWAYS
    | {
        WakeRequested: Rule("Somebody wants it up.", _Facts._want),
        BecameReady: Rule("Somebody else woke it.", _Facts._serve, State.READY),
        InstanceLost: Rule("Nobody misses it: the next request starts a new one.", _Facts._vanish, State.STOPPED),
        InstanceBroken: Rule("What is left of it is stopped.", _Facts._stop, State.STOPPING),
        WarmRequested: Rule("It is woken now.", _Facts._wake_warm),
        MustEnd: Rule("It is stopped.", _Facts._stop, State.STOPPING),
    },
    State.STOPPING: _ALWAYS
    | {
        WakeRequested: Rule("Somebody wants it up, afterwards.", _Facts._want),
        FellAsleep: Rule("It rests.", _Facts._fall_asleep, State.ASLEEP, when=lambda facts: facts._rest_is_ordered),
        StopConfirmed: Rule("Nothing of it exists any more.", _Facts._vanish, State.STOPPED),
        InstanceLost: Rule("Nothing of it exists any more.", _Facts._vanish, State.STOPPED),
        InstanceBroken: Rule("It cannot rest: stopped.", _Facts._stop, when=lambda facts: facts._rest_is_ordered),
        StopFailed: Rule("The stop will be ordered again.", _Facts._retry_stop),
    },
    State.FAILED: _ALWAYS
    | {
        WakeRequested: Rule("Somebody wants it up; too early, it is not kept.", _Facts._want_if_due),
    },
    State.DRAINING: _ALWAYS
    | {
        RequestArrived: Rule("It is refused, unless the upstream still serves.", _Facts._arrive_late),
        DrainRequested: Rule("The second time: running answers are cut now.", _Facts._hurry),
        InstanceLost: Rule("Nothing of it exists any more.", _Facts._vanish_leaving),
        MustEnd: Rule("Running answers are cut by then, and it is not left to a successor.", _Facts._end_draining),
        InstanceBroken: Rule(
            "It is stopped, and those who wait are refused.",
            _Facts._break_leaving,
            when=lambda facts: not facts._stop_is_ordered,
        ),
        StopConfirmed: Rule("Nothing of it exists any more.", _Facts._vanish_leaving),
        StopFailed: Rule(
            "The stop will be ordered again, while there is time.",
            _Facts._retry_stop,
            when=lambda facts: facts._stop_is_ordered and facts._end_at is not None,
        ),
    },
}

_STOP_AGAIN = Follow(
    "stop again",
    "The pause after a failed stop is over: the same order again.",
    _Facts._when_stop_again,
    _Facts._stop,
)

FOLLOWS: Mapping[State, tuple[Follow, ...]] = {
    State.STOPPED: (
        Follow(
            "given up",
            "As many failures in a row as it may have, a lasting one, or no capacity: callers are refused until a "
            "pause is over.",
            _Facts._when_given_up,
            _Facts._give_up,
            State.FAILED,
        ),
        Follow(
            "wanted",
            "Somebody is here or wants it up, or its idle time was not over when it crashed.",
            _Facts._when_missed,
            _Facts._nothing,
            State.STARTING,
        ),
    ),
    State.STARTING: (
        Follow(
            "no longer wanted",
            "The last who waited left before a try was begun, or the idle time of what had crashed is over.",
            _Facts._when_not_missed,
            _Facts._nothing,
            State.STOPPED,
        ),
        Follow(
            "try",
            "The pause after an earlier failure, if any, is over: one start.",
            _Facts._when_next_try,
            _Facts._start,
        ),
        Follow(
            "dismissed",
            "The operator wants it down, and nobody is here: the start is stopped.",
            _Facts._when_dismissed,
            _Facts._stop,
            State.STOPPING,
        ),
        Follow(
            "start took too long",
            "No progress for START_TIMEOUT, or START_MAX in all: stopped, those who wait are refused; a failed start.",
            _Facts._when_start_is_over,
            _Facts._time_out,
            State.STOPPING,
        ),
    ),
    State.READY: (
        Follow(
            "must end",
            "What it may run is over, or nobody is here any more: running answers are cut, and it is stopped.",
            _Facts._when_it_must_end,
            _Facts._end_running,
            State.STOPPING,
        ),
        Follow(
            "dismissed",
            "The operator wants it down, and nobody is here: as if its idle time were over.",
            _Facts._when_dismissed,
            _Facts._retire,
            State.STOPPING,
        ),
        Follow(
            "idle",
            "Nobody is here, and IDLE_TIMEOUT is over since the last activity, ready, or loading, and so is the time "
            "for which it is kept warm: it is stopped, or put to sleep where it can and IDLE_ACTION has it so.",
            _Facts._when_idle,
            _Facts._retire,
            State.STOPPING,
        ),
    ),
    State.ASLEEP: (
        Follow(
            "wanted", "Somebody is here or wants it up: it is woken.", _Facts._when_asked, _Facts._wake, State.STARTING
        ),
    ),
    State.STOPPING: (
        Follow(
            "rest is late",
            "It did not confirm that it sleeps: stopped instead.",
            _Facts._when_rest_is_late,
            _Facts._stop,
        ),
        _STOP_AGAIN,
    ),
    State.FAILED: (
        Follow(
            "pause over",
            "The pause is over and somebody is here, or it is to be kept up: one start may try.",
            _Facts._when_asked_again,
            _Facts._start,
            State.STARTING,
        ),
        Follow(
            "too soon",
            "Somebody is here before the pause is over: refused with the reason of the last failure.",
            _Facts._when_asked_too_soon,
            _Facts._refuse_given_up,
        ),
    ),
    State.DRAINING: (
        Follow(
            "cut",
            "DRAIN_TIMEOUT, less what the stop needs, is over: running answers end.",
            _Facts._when_cut,
            _Facts._cut,
        ),
        Follow(
            "served all",
            "Nobody is here any more, or they were cut: it is stopped.",
            _Facts._when_served_all,
            _Facts._stop,
        ),
        _STOP_AGAIN,
        Follow(
            "drained",
            "Nothing runs and nobody is here, or DRAIN_TIMEOUT is over: the process may end.",
            _Facts._when_ended,
            _Facts._end,
        ),
    ),
}

_TURNING_AWAY = (State.DRAINING, State.FAILED)
_MOST_STEPS = 16
"""More than any chain of FOLLOWS has; beyond it, a rule does not undo its own `due`."""


class Lifecycle(_Facts):
    """One upstream's life. The tables are attributes, so that a test can hand in a faulty one."""

    rules: ClassVar = RULES
    follows: ClassVar = FOLLOWS

    def handle(self, event: Event, *, now: float) -> list[Effect]:
        """What is to be done, in this order, now that `event` has happened."""
        before, self._now = self._state, now
        rule = self.rules[self._state].get(type(event))
        if rule is not None and self._is_news(event) and (rule.when is None or rule.when(self)):
            self._apply(rule, event)
        self._settle()
        if self._state is not before:
            self._since = now
        orders, self._orders = self._orders, []
        return orders

    def next_deadline(self) -> float | None:
        """When `TimePassed` must be told at the latest. Always later than the last `now`; None: only news can help."""
        return self._deadline

    def refusal(self, now: float) -> TurnedAway | None:
        """Why a request that came at `now` would be refused; None: it may arrive. Changes nothing."""
        if self._state not in _TURNING_AWAY:
            return None
        if self._state is State.DRAINING:
            return TurnedAway("draining", DRAINING, None)
        if now < self._retry_due:
            return TurnedAway(self._tries.code or "start_failed", self._tries.reason or "", self._retry_due - now)
        return None

    def _is_news(self, event: Event) -> bool:
        """False for what an earlier run still says."""
        run = getattr(event, "run", None)
        return run is None or run == self._instance

    def _apply(self, rule: Rule | Follow, event: object) -> None:
        rule.do(self, event)
        self._state = rule.to or self._state

    def _settle(self) -> None:
        """Do what is due, until nothing is. Of what is not, the first is the deadline."""
        for _ in range(_MOST_STEPS):
            first = None
            for follow in self.follows[self._state]:
                due = follow.due(self)
                if due is None:
                    continue
                if due <= self._now:
                    self._apply(follow, None)
                    break
                if first is None or due < first:
                    first = due
            else:
                self._deadline = first
                return
        raise RuntimeError(f"the rules that follow go round for ever: {self!r}")

    # -- to be read by /health, metrics and a person at night

    @property
    def state(self) -> State:
        return self._state

    @property
    def draining(self) -> bool:
        return self._state is State.DRAINING

    @property
    def since(self) -> float:
        """When the state began."""
        return self._since

    @property
    def run(self) -> int:
        """The number of the last start; so many have been ordered."""
        return self._run

    @property
    def instance(self) -> int | None:
        """The run of which something may exist."""
        return self._instance

    @property
    def requests(self) -> KeysView[str]:
        """Everyone who waits or is in flight, in the order they came."""
        return self._here.keys()

    @property
    def last_activity(self) -> float | None:
        return self._idle.last_activity

    @property
    def idle_at(self) -> float | None:
        """When it is stopped for being idle if nobody comes; None: somebody is here, or it is never idle, or not up."""
        return self._when_idle() if self._state is State.READY else None

    @property
    def warm_until(self) -> float | None:
        """Until when it is kept up without being asked."""
        return self._warm_until

    @property
    def ending(self) -> bool:
        """Whether it serves those whom it serves, and nobody else any more."""
        return self._must_end_at is not None

    @property
    def ever_ready(self) -> bool:
        return self._ever_ready

    @property
    def failures(self) -> int:
        """In a row, up to now."""
        return self._tries.failures

    @property
    def reason(self) -> str | None:
        """Why the last failed start or crash happened, in a sentence fit for callers."""
        return self._tries.reason

    @property
    def code(self) -> str | None:
        return self._tries.code

    @property
    def retry_at(self) -> float | None:
        """No start before this moment; None: nothing speaks against one."""
        return self._tries.retry_at

    def __repr__(self) -> str:
        parts = [
            f"<Lifecycle {self._state} since {self._since}, now {self._now}, run {self._run}, {len(self._here)} here"
        ]
        if self._order is not None:
            parts.append(f"waits for {self._order!r} of {self._ordered_at}")
        if self._wanted:
            parts.append("wanted")
        if self._tries.failures:
            parts.append(f"{self._tries.failures} failed ({self._tries.reason}), next try at {self._tries.retry_at}")
        if self._end_at is not None:
            parts.append(f"cut at {self._cut_at}, ends at {self._end_at}")
        return ", ".join(parts) + f", next deadline {self.next_deadline()}>"
