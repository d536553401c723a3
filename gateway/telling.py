"""Tells what happens: of one gateway, to people (console, log), to the boot's story, and to the metrics.

It is told of every change and of every request's end, and keeps only what it needs to say each thing once. It decides
nothing and fails nothing.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from gateway.conductor import Conductor, Snapshot
from gateway.policy.estimate import amount
from gateway.policy.lifecycle.states import State
from gateway.providers.base import Loading
from gateway.records.boot_log import BootLog
from gateway.records.console import loading_line, say, show_loading
from gateway.records.metrics import Metrics
from gateway.records.readings import StateTimes, UpstreamFacts

FELL = (State.STARTING, State.STOPPED, State.FAILED)
"""What an upstream that was ready is next, when it ended by itself."""
STEPS = 20
"""Lines that the whole of a start is told in: one for each 5 %."""
LIVE_EVERY = 0.1
"""Seconds between two changes of a terminal's live line."""


@dataclass(slots=True)
class Start:
    """One start, from the order to ready or its end: its phases and how long each took."""

    began: float
    phase: str = "ordered"
    phase_began: float = 0.0
    took: dict[str, float] | None = None

    def enters(self, phase: str, now: float) -> bool:
        """Whether this is another phase than before."""
        if phase == self.phase:
            return False
        self.close(now)
        self.phase, self.phase_began = phase, now
        return True

    def close(self, now: float) -> dict[str, float]:
        took = self.took = self.took if self.took is not None else {}
        took[self.phase] = took.get(self.phase, 0.0) + now - self.phase_began
        self.phase_began = now
        return took


class Telling:
    """Of one upstream."""

    def __init__(
        self,
        *,
        metrics: Metrics,
        boot_log: BootLog,
        clock: Callable[[], float],
        on_state: Callable[[], None],
        on_ready: Callable[[Snapshot, float], None],
        engine_line: Callable[[], Sequence[str]] = tuple,
        shows_loading: bool = True,
    ) -> None:
        self._metrics = metrics
        self._boot_log = boot_log
        self._clock = clock
        self._on_state = on_state
        self._on_ready = on_ready
        """With the seconds that the start took."""
        self._engine_line = engine_line
        self._state: State | None = None
        self._reason = ""
        self._failures = 0
        self._shows_loading = shows_loading
        self._step = ("", -1)
        """The phase and the step that were told last."""
        self._shown_at: float | None = None
        """When the live line was written last; None: there is none."""
        self._start: Start | None = None
        self._ready_since: float | None = None
        self._times = StateTimes(State.STOPPED, clock())

    def changed(self, conductor: Conductor) -> None:
        """Something was told to the lifecycle: say what is new of it, once."""
        snapshot = conductor.snapshot()
        if snapshot.loading is not None:
            self._tell_phase(snapshot)
            self._tell_progress(snapshot)
        if snapshot.progress is None and self._shown_at is not None:
            self._shown_at = None
            show_loading("", mark=False)
        if snapshot.state is self._state:
            if snapshot.state is State.STARTING:  # one try has failed, and another one follows
                self._tell_fall(snapshot, snapshot.state)
            self._failures = snapshot.failures
            return
        before, self._state = self._state, snapshot.state
        self._times.entered(snapshot.state, self._clock())
        self._on_state()
        fell = self._tell_fall(snapshot, before)
        self._failures = snapshot.failures
        self._tell_run(snapshot, before, fell=fell)
        if snapshot.state is State.READY and before is State.STARTING:
            return  # whoever heard of it says so, with what to do now
        if snapshot.state is not State.STARTING and (snapshot.state is not State.STOPPED or before is not None):
            say(snapshot.state.value)

    def beat(self, conductor: Conductor) -> None:
        """Once a second: time goes on while nothing is said."""
        if conductor.state is State.STARTING:
            self._tell_progress(conductor.snapshot())

    def facts(self, conductor: Conductor) -> UpstreamFacts:
        """For the gauges, at a scrape."""
        snapshot, now = conductor.snapshot(), self._clock()
        return UpstreamFacts(
            name=snapshot.upstream,
            state=snapshot.state,
            in_flight=snapshot.in_flight,
            waiting=snapshot.waiting,
            starts=snapshot.starts,
            last_activity_age=None if snapshot.last_activity is None else now - snapshot.last_activity,
            phase=snapshot.progress.phase if snapshot.progress else None,
            progress=snapshot.progress.ratio if snapshot.progress else None,
            seconds_left=snapshot.progress.seconds_left if snapshot.progress else None,
            idle_stop_in=None if snapshot.idle_at is None else max(0.0, snapshot.idle_at - now),
            state_seconds=self._times.read(now),
            ready_for=None if self._ready_since is None else now - self._ready_since,
        )

    # -- one thing each ------------------------------------------------------------------------

    def _tell_phase(self, snapshot: Snapshot) -> None:
        """Once per phase, for the boot's story."""
        loading = snapshot.loading
        if loading is None or self._start is None or not self._start.enters(loading.phase, self._clock()):
            return
        self._boot_log.phase(loading.phase, " ".join(filter(None, (loading.file, amount_of(loading)))))
        self._boot_log.engine(self._engine_line())

    def _tell_progress(self, snapshot: Snapshot) -> None:
        """One line per phase and per step of the whole; on a terminal each change."""
        progress, now = snapshot.progress, self._clock()
        if progress is None or not self._shows_loading:
            return
        step = progress.phase, -1 if progress.ratio is None else int(progress.ratio * STEPS)
        mark = step != self._step and progress.phase != "ordered"  # which is over at once, or else says nothing
        if not mark and self._shown_at is not None and now - self._shown_at < LIVE_EVERY:
            return
        self._step, self._shown_at = step, now
        show_loading(loading_line(progress, snapshot.loading.file if snapshot.loading else ""), mark=mark)

    def _tell_fall(self, snapshot: Snapshot, before: State | None) -> bool:
        """Why it failed or crashed, once for each time: the sentence, and what the engine or the model room said.
        Whether there was something to tell."""
        again = snapshot.failures > self._failures or (before is State.READY and snapshot.state in FELL)
        if not snapshot.reason or (snapshot.reason == self._reason and not again):
            return False
        self._reason = snapshot.reason
        say(snapshot.reason, "warning")
        for line in snapshot.detail.splitlines()[-10:]:
            say(f"  | {line}", "warning")
        self._boot_log.failed(snapshot.reason, snapshot.detail)
        return True

    def _tell_run(self, snapshot: Snapshot, before: State | None, *, fell: bool) -> None:
        """Starts and ends of runs, for the boot's story and the counters."""
        now, state = self._clock(), snapshot.state
        if before is State.READY:
            self._ready_since = None
            self._metrics.engine_ended(snapshot.upstream, _end_of(state, fell=fell))
            if not fell:
                self._boot_log.stopped(_end_of(state, fell=False))
        if before is State.STARTING and self._start is not None and state is not State.STARTING:
            self._metrics.start_ended(snapshot.upstream, _outcome(snapshot, fell=fell), self._start.close(now))
            if state is State.READY:
                self._boot_log.ready(now - self._start.began)
                self._on_ready(snapshot, now - self._start.began)
            self._start = None
        if state is State.READY:
            self._ready_since, self._reason = now, snapshot.reason  # an old reason is told by now
        if state is State.STARTING:
            self._start = Start(now, phase_began=now)
            self._metrics.start_began(snapshot.upstream)
            self._boot_log.phase("start ordered")


def amount_of(loading: Loading) -> str:
    if loading.detail or loading.done is None or not loading.total:
        return loading.detail
    return amount(loading.done, loading.total)


def _end_of(state: State, *, fell: bool) -> str:
    """Why what was ready is so no more, in the metrics' words."""
    if fell:
        return "crashed" if state in FELL else "unhealthy"
    return {State.DRAINING: "drained", State.STOPPING: "idle", State.ASLEEP: "idle"}.get(state, "other")


def _outcome(snapshot: Snapshot, *, fell: bool) -> str:
    if snapshot.state is State.READY:
        return "ready"
    if not fell:
        return "given_up"
    return "timeout" if snapshot.code == "start_timeout" else "failed"
