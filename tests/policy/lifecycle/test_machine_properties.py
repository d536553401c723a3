"""What holds whatever happens: Hypothesis plays the callers, the provider with its faults, and the clock."""

from typing import Any

from hypothesis import HealthCheck, note, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

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
from gateway.policy.lifecycle.machine import Lifecycle, LifecycleSettings
from gateway.policy.lifecycle.states import State

DURATIONS = st.integers(0, 3000)
SETTINGS = st.builds(
    LifecycleSettings,
    idle_timeout=st.sampled_from([None, 0, 1, 50, 1000]),
    idle_action=st.sampled_from(["stop", "sleep"]),
    start_timeout=st.sampled_from([1, 100, 600]),
    start_max=st.sampled_from([1, 150, 1800]),
    rest_timeout=st.sampled_from([1, 60]),
    stop_retry=st.sampled_from([1, 20]),
    stop_retry_max=st.sampled_from([1, 60]),
    drain_timeout=st.sampled_from([0, 1, 250]),
    drain_reserve=st.sampled_from([0, 50, 500]),
    retry_first=st.sampled_from([1, 10]),
    retry_max=st.sampled_from([1, 300]),
    quick_crash_window=st.sampled_from([0, 100]),
    quick_crashes=st.sampled_from([1, 3]),
    circuit_first=st.sampled_from([1, 100]),
    circuit_max=st.sampled_from([1, 900]),
)


class World(RuleBasedStateMachine):
    """One upstream in a world that keeps to the rules of the house, and in which everything else may go wrong.

    The world's own books are kept apart from the machine's: what really exists, who really waits.
    """

    lifecycle: Lifecycle

    @initialize(chosen=SETTINGS)
    def begin(self, chosen: LifecycleSettings) -> None:
        self.settings = chosen
        self.lifecycle = Lifecycle(chosen)
        self.now = 0
        self.exists: int | None = None
        self.rest_pending = False
        self.stop_pending: int | None = None
        """The run whose stop was ordered and not answered."""
        self.waiting: list[str] = []
        self.running: list[str] = []
        self.unheard: list[str] = []
        """Refused, and the machine has not been told yet that they left."""
        self.cut: list[str] = []
        self.broken = self.drained = False
        self.let_go = False
        """The operator sent it to sleep, or it had to end: then it need not be up, however long its idle time."""
        self.count = 0

    # -- the world's side of each order

    def tell(self, event: Event) -> None:
        machine = self.lifecycle
        before = machine.state
        started = machine.run
        orders = machine.handle(event, now=self.now)
        note(f"{self.now} {before} {event} -> {orders} {machine.state}, next {machine.next_deadline()}")
        for order in orders:
            self.obey(order, before, event)
        assert machine.run - started <= 1, "two starts in one moment"
        deadline = machine.next_deadline()
        assert deadline is None or deadline > self.now, "a deadline that has come does not go away"

    def obey(self, order: Effect, before: State, event: Event) -> None:
        match order:
            case StartInstance(run):
                assert self.exists is None, "two instances"
                assert before is not State.DRAINING, "a start while draining"
                self.exists, self.broken = run, False
            case StopInstance(run):
                assert run == self.lifecycle.run
                if before is State.READY and not self.lifecycle.draining and not self.broken:
                    assert not self.running, "a stop with a request in flight"
                self.stop_pending, self.rest_pending = run, False
            case RestInstance(run):
                assert run == self.exists
                assert not self.running and not self.waiting, "a rest with a request here"
                self.rest_pending = True
            case WakeInstance(run):
                assert run == self.exists and not self.rest_pending
            case ReleaseWaiting():
                assert self.lifecycle.state is not State.STARTING
                self.running += self.waiting
                self.waiting = []
            case RefuseWaiting(code, reason):
                assert code and reason
                self.unheard += self.waiting
                self.waiting = []
            case CutRunning(code, reason):
                assert code and reason
                self.cut += self.running
                self.running = []
            case EndDrain():
                assert not self.drained, "ended twice"
                self.drained = True

    @property
    def serves(self) -> bool:
        return self.lifecycle.state is State.READY

    # -- callers

    @rule(wrong=st.booleans())
    def a_caller_comes(self, wrong: bool) -> None:
        if self.lifecycle.refusal(self.now) is not None and not wrong:
            return
        self.count += 1
        request = f"r{self.count}"
        (self.running if self.serves else self.waiting).append(request)
        self.tell(RequestArrived(request))
        if self.lifecycle.draining and request in self.waiting:
            self.waiting.remove(request)  # not refused: what drains still serves
            self.running.append(request)

    @precondition(lambda self: self.running)
    @rule(active=st.booleans(), which=st.integers(0, 9))
    def an_answer_ends(self, active: bool, which: int) -> None:
        self.tell(RequestFinished(self.running.pop(which % len(self.running)), active))

    @precondition(lambda self: self.waiting or self.unheard or self.cut)
    @rule(which=st.integers(0, 9))
    def a_caller_is_gone(self, which: int) -> None:
        groups = [group for group in (self.waiting, self.unheard, self.cut) if group]
        group = groups[which % len(groups)]
        self.tell(RequestLeft(group.pop(which % len(group))))

    @rule(event=st.sampled_from([RequestLeft("nobody"), RequestFinished("nobody")]))
    def somebody_unknown_leaves(self, event: Event) -> None:
        self.tell(event)

    @rule()
    def somebody_wants_it_up(self) -> None:
        self.tell(WakeRequested())

    @rule(span=st.sampled_from([None, 0, 1, 500, 3000]))
    def somebody_keeps_it_warm(self, span: int | None) -> None:
        self.tell(WarmRequested(None if span is None else self.now + span))

    @rule()
    def the_operator_sends_it_to_sleep(self) -> None:
        self.let_go = True
        self.tell(SleepRequested())

    @rule(sure=st.sampled_from([False] * 9 + [True]), leave=st.booleans())
    def the_process_is_told_to_end(self, sure: bool, leave: bool) -> None:
        if sure:
            self.tell(DrainRequested(leave))

    # -- the provider

    @precondition(lambda self: self.exists is not None)
    @rule()
    def it_progresses(self) -> None:
        self.tell(StartProgressed(self.exists or 0))

    @precondition(lambda self: self.exists is not None and not self.broken)
    @rule()
    def it_becomes_ready(self) -> None:
        self.tell(BecameReady(self.exists or 0))

    @precondition(lambda self: self.exists is not None)
    @rule(within=st.sampled_from([0, 1, 60]), code=st.sampled_from(["", "insufficient_quota"]))
    def it_must_end(self, within: int, code: str) -> None:
        self.let_go = True
        self.tell(MustEnd(self.exists or 0, within, "Its time is over.", code))

    @precondition(lambda self: self.exists is not None)
    @rule(lasting=st.sampled_from([False, False, False, True]), taken=st.booleans())
    def it_is_lost(self, lasting: bool, taken: bool) -> None:
        run, self.exists, self.rest_pending = self.exists or 0, None, False
        self.broken = True
        served = self.lifecycle.state in (State.STARTING, State.READY) and not taken
        self.tell(InstanceLost(run, "It is gone.", lasting, taken=taken))
        assert self.lifecycle.state is State.FAILED or not (lasting and served), "a lasting failure is tried again"
        self.running_break()

    @precondition(lambda self: self.exists is not None)
    @rule(lasting=st.sampled_from([False, False, False, True]))
    def it_breaks(self, lasting: bool) -> None:
        self.broken = True
        self.tell(InstanceBroken(self.exists or 0, "It hangs.", lasting))
        self.running_break()

    def running_break(self) -> None:
        """Answers of an upstream that is gone end with an error, which the machine hears of some time later."""
        if not self.lifecycle.draining:
            self.cut += self.running
            self.running = []

    @precondition(lambda self: self.exists is not None and self.rest_pending)
    @rule()
    def it_falls_asleep(self) -> None:
        self.rest_pending = False
        self.tell(FellAsleep(self.exists or 0))

    @precondition(lambda self: self.exists is not None and self.serves and not self.running)
    @rule()
    def it_falls_asleep_by_itself(self) -> None:
        self.tell(FellAsleep(self.exists or 0))

    @precondition(lambda self: self.stop_pending is not None or self.rest_pending)
    @rule()
    def it_cannot_be_stopped(self) -> None:
        run = self.stop_pending or self.exists or 0
        self.stop_pending, self.rest_pending = None, False
        self.tell(StopFailed(run))

    @precondition(lambda self: self.stop_pending is not None)
    @rule()
    def it_is_stopped(self) -> None:
        """The answer to a stop, however late: it was lost in the meantime, or another run began."""
        run, self.stop_pending = self.stop_pending or 0, None
        if self.exists == run:
            self.exists = None
        self.tell(StopConfirmed(run))

    @precondition(lambda self: self.lifecycle.run > 0)
    @rule(
        which=st.integers(0, 9),
        kind=st.sampled_from([BecameReady, StopConfirmed, StopFailed, FellAsleep, StartProgressed]),
    )
    def old_news_comes(self, which: int, kind: Any) -> None:
        before = self.lifecycle.state, self.lifecycle.next_deadline()
        self.tell(kind(which % self.lifecycle.run))
        if self.lifecycle.next_deadline() is None or before[1] is None or before[1] > self.now:
            assert self.lifecycle.state is before[0], "old news changed the state"

    # -- the clock

    @rule(passed=DURATIONS, late=st.integers(0, 3))
    def time_passes(self, passed: int, late: int) -> None:
        """Each deadline is told as it comes, or a little late."""
        until = self.now + passed
        for _ in range(200):
            deadline = self.lifecycle.next_deadline()
            if deadline is None or deadline > until:
                break
            self.now = max(self.now, int(deadline) + late)
            self.tell(TimePassed())
        self.now = max(self.now, until)

    @rule()
    def the_next_deadline_comes(self) -> None:
        deadline = self.lifecycle.next_deadline()
        if deadline is not None:
            self.now = max(self.now, int(deadline))
        self.tell(TimePassed())

    # -- what always holds

    @invariant()
    def nobody_waits_where_nobody_comes_to_get_them(self) -> None:
        if hasattr(self, "now") and self.waiting:
            assert self.lifecycle.state in (State.STARTING, State.STOPPING), "a waiter was forgotten"

    @invariant()
    def the_machine_knows_what_exists(self) -> None:
        if hasattr(self, "now") and self.exists is not None and not self.drained:
            assert self.lifecycle.instance == self.exists

    @invariant()
    def telling_the_time_twice_changes_nothing(self) -> None:
        if hasattr(self, "now"):
            machine = self.lifecycle
            deadline = machine.next_deadline()
            if deadline is not None and deadline <= self.now:
                return  # it has come, and was not told yet
            before = (machine.state, deadline, list(machine.requests))
            assert machine.handle(TimePassed(), now=self.now) == []
            assert (machine.state, machine.next_deadline(), list(machine.requests)) == before

    def teardown(self) -> None:
        """In the end the world is fair: stops succeed, starts become ready, answers end. Then everybody is served or
        refused, and the upstream rests."""
        if not hasattr(self, "now"):
            return
        note("from here on the world is fair")
        for _ in range(100):
            if not self.one_fair_step():
                break
        else:
            raise AssertionError(f"it never comes to rest: {self.lifecycle!r}")
        assert not self.waiting, "a waiter was forgotten"
        state = self.lifecycle.state
        if state is State.DRAINING:
            assert self.drained
        elif self.settings.idle_timeout is None:
            assert state in (State.STOPPED, State.READY, State.FAILED, State.ASLEEP)
            assert self.let_go or not (state is State.STOPPED and self.lifecycle.run), "what is never idle stays up"
        else:
            assert state in (State.STOPPED, State.FAILED, State.ASLEEP)
            assert state is State.ASLEEP or self.exists is None
            if state is State.FAILED:
                self.failed_reopens()

    def one_fair_step(self) -> bool:
        state = self.lifecycle.state
        if self.unheard or self.cut:
            self.tell(RequestLeft((self.unheard or self.cut).pop()))
        elif self.stop_pending is not None:
            self.it_is_stopped()
        elif self.rest_pending:
            self.it_falls_asleep()
        elif state is State.STARTING and self.exists is not None:
            self.it_becomes_ready()
        elif self.running:
            self.tell(RequestFinished(self.running.pop()))
        elif self.lifecycle.next_deadline() is not None:
            self.the_next_deadline_comes()
        else:
            return False
        return True

    def failed_reopens(self) -> None:
        """Once its pause is over, one request gets one start."""
        retry_at = self.lifecycle.retry_at
        assert retry_at is not None
        self.now = max(self.now, int(retry_at))
        assert self.lifecycle.refusal(self.now) is None
        run = self.lifecycle.run
        self.a_caller_comes(wrong=False)
        assert self.lifecycle.state is State.STARTING and self.lifecycle.run == run + 1


TestWorld = World.TestCase
TestWorld.settings = settings(
    max_examples=400,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
