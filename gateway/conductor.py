"""The only loop: facts to policy, orders to a provider, its news back, and one timer.

A request asks `admit()` and gets a verdict at once: a `Ticket` (with the instance in it, or to wait for) or a
`Refusal`. Everything that happens is told to the lifecycle as an event, in order, by `_tell`; what it orders is carried
out by tasks that end in further events. Nobody else changes the state of an upstream, or reads it to decide something.

One Conductor is one upstream. It knows nothing of HTTP. Each request comes by here twice, so nothing is walked through
for one, and nobody told of it: bench/admission.py says what that costs.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any

from gateway.errors import Refusal, Refused, refuse
from gateway.policy.admission import Admission, Admitted, Full
from gateway.policy.admission import Limits as AdmissionLimits
from gateway.policy.estimate import Forecast, Past, Progress, usual_seconds
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
from gateway.policy.lifecycle.machine import Lifecycle, TurnedAway
from gateway.policy.lifecycle.states import State
from gateway.providers.base import (
    Asleep,
    Gone,
    Instance,
    Intent,
    Journal,
    Loading,
    News,
    Provider,
    ProviderError,
    Ready,
    Rental,
)

log = logging.getLogger(__name__)

CLOCK_STEP = 0.001
"""Seconds. uvloop's clock has whole milliseconds and rounds: a timer may ring a fraction early, and is set again for
no sooner than this, instead of going round until the fraction is over."""
STOP_MARGIN = 30.0
"""Seconds beyond what a stop was given after which the provider's call is taken for hung. The local provider, with its
guard stuck and its sweep slow, answers within 20."""

WRITTEN_WITHIN = 5.0
"""Seconds that the ledger has for the end of what was rented, once all else is over."""
NEVER = float("inf")
SERVING = (State.READY, State.DRAINING)
"""A drain lets those who are in line already have their turn, as long as it serves."""

NOT_CARRIED_OUT = "The start could not be carried out on this machine; its log says why."
FAULT = "The start failed by a fault of the gateway's own; its log says more."
UNWATCHED = "The gateway lost sight of it; its log says more."
NOT_OBEYED = "It could not be put to sleep or woken; the gateway's log says more."


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What /health, /metrics, the status file and /v1/models may know of an upstream."""

    upstream: str
    state: State
    since: float
    """Loop time at which the state began."""
    loading: Loading | None
    """What was said last of the phase that a start is in."""
    progress: Progress | None
    """How far that start is as a whole; None while none is under way."""
    in_flight: int
    waiting: int
    starts: int
    last_activity: float | None
    idle_at: float | None
    """Loop time at which it is stopped if nobody comes."""
    warm_until: float | None
    """Loop time until which it is kept up without being asked."""
    ever_ready: bool
    failures: int
    """Starts that failed in a row, up to now."""
    reason: str
    """Why it failed last, as a closed sentence; empty when it did not."""
    code: str
    """The refusal's code that callers got for it."""
    detail: str
    """What the engine said then. For the log and the admin key only."""
    instance: Instance | None


class Ticket:
    """One request's place: in line, then in flight. Give it back with `with ticket:`, in every phase. Where the gateway
    ended it, that raises Refused, which says why, instead of CancelledError: the caller has not left, and is told."""

    __slots__ = ("_conductor", "_goes_on", "_task", "_turn", "active", "cut_short", "id", "instance", "run", "since")

    def __init__(
        self,
        conductor: "Conductor",
        request: str,
        instance: Instance | None,
        turn: "asyncio.Future[Instance] | None",
        since: float,
    ) -> None:
        self.id = request
        self.instance = instance
        self.since = since
        """Loop time at which it came first."""
        self.run: Run | None = None
        """The start whose instance it has."""
        self.active = True
        """Whether its end counts as activity; the engine's own 4xx does not."""
        self.cut_short: Refusal | None = None
        """Set when the gateway, not the caller, ends it: the drain's time is over."""
        self._conductor = conductor
        self._turn = turn
        """None: it was granted at once."""
        self._task: asyncio.Task[Any] | None = None
        self._goes_on = False

    def __repr__(self) -> str:
        turned_away = self._turn is not None and self._turn.done()
        return f"<Ticket {self.id} {'in flight' if self.instance else 'turned away' if turned_away else 'in line'}>"

    async def wait(self, timeout: float | None) -> Instance | None:
        """The instance once it is this request's turn; None when `timeout` seconds passed. Raises Refused.

        Cancelled or timed out, the place in line stays until the ticket is given back.
        """
        if self.instance is not None or self._turn is None:
            return self.instance
        done, _ = await asyncio.wait({self._turn}, timeout=timeout)
        return self._turn.result() if done else None

    def carried_by(self, task: "asyncio.Task[Any] | None") -> None:
        """The task to cancel, with `cut_short` set, should the gateway have to end this answer."""
        self._task = task

    def grant(self, instance: Instance) -> None:
        if self._turn is not None and not self._turn.done():
            self.instance = instance
            self._turn.set_result(instance)

    def turn_away(self, refused: Refused) -> None:
        if self._turn is not None and not self._turn.done():
            self._turn.set_exception(refused)
            self._turn.exception()  # a caller who left never asks; that is no error to log

    def cut(self, refusal: Refusal) -> None:
        if self._task is not None and not self._task.done():
            self.cut_short = refusal
            self._task.cancel()

    def goes_on_without_its_caller(self, work: "asyncio.Task[None]") -> None:
        """The engine works on it to the end, though nobody listens: it is given back when `work` is done."""
        self._goes_on = True
        self._task = work
        work.add_done_callback(lambda _: self._conductor.give_back(self))

    def __enter__(self) -> "Ticket":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._goes_on:
            self._conductor.give_back(self)
        if self.cut_short is not None and self._task is not None and isinstance(error, asyncio.CancelledError):
            self._task.uncancel()
            raise Refused(self.cut_short) from None


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds that the conductor itself keeps."""

    stop_within: float
    """What a stop may take while the gateway goes on; in a drain it is what the drain has left."""
    drain_reserve: float


@dataclass(slots=True, eq=False)
class Run:
    """One start, from its order until nothing of it exists any more, and who is at work on it."""

    number: int
    instance: Instance | None = None
    """What there is to stop, as far as anybody knows."""
    start: "asyncio.Task[None] | None" = field(default=None, repr=False)
    watch: "asyncio.Task[None] | None" = field(default=None, repr=False)
    order: "asyncio.Task[None] | None" = field(default=None, repr=False)
    """The rest or the wake that was ordered last."""
    over: asyncio.Event = field(default_factory=asyncio.Event, repr=False)
    """Nothing of it exists any more."""
    taken: bool = False
    """The vendor took it away."""


def public_name(name: str) -> str:
    """An engine that was given a file calls its model by that path (llama_cpp.server, `vllm serve /models/x`). Callers
    see the file's name: a path is nobody's business."""
    if not name.startswith(("/", "./", "../", "~")):
        return name
    return name.rstrip("/").rpartition("/")[2].removesuffix(".gguf") or name


def _as_refusal(away: TurnedAway) -> Refusal:
    return refuse(away.code, away.reason, retry_after=away.retry_after).refusal


class NoJournal:
    """For providers that spend nothing: there is nothing to write down before a start."""

    async def open(self) -> None:
        pass

    def next_name(self) -> str:
        return ""

    async def intend(self, rental: Rental) -> None:
        pass

    async def know(self, name: str, instance: str, price: int, why: str = "") -> None:
        pass

    async def void(self, name: str, why: str) -> None:
        pass

    async def end(self, name: str, why: str) -> None:
        pass


class Conductor:
    """Carries out what the lifecycle decides for one upstream."""

    def __init__(
        self,
        name: str,
        provider: Provider,
        lifecycle: Lifecycle,
        admission: Admission,
        *,
        limits: Limits,
        limits_for: Callable[[int], AdmissionLimits] | None = None,
        journal: Journal | None = None,
        gate: Callable[[], TurnedAway | None] = lambda: None,
        pasts: Callable[[str], Sequence[Past]] = lambda kind: (),
        on_change: Callable[["Conductor"], None] = lambda conductor: None,
    ) -> None:
        """`gate`: why nobody is let in at the moment, whatever the upstream could do: the budget.

        `on_change` hears of another state, and of what a start says of its loading. Not of each request: whoever
        wants counts reads them when asked. `pasts`: earlier ones ("start" or "wake"), to judge the next one by."""
        self.name = name
        self.provider = provider
        self.models: tuple[str, ...] = ()
        """The names of what is served, as far as they are known yet; the first is the usual one."""
        self._names: dict[str, str] = {}
        """What callers call the models, and what the engine calls them."""
        self._learn_names(provider.profile.models)
        self._lifecycle = lifecycle
        self._admission = admission
        self._limits = limits
        self._limits_for = limits_for
        """The line's limits for what the upstream says it works on at once; None: what was configured stays."""
        self._journal: Journal = journal or NoJournal()
        self._gate = gate
        self._pasts = pasts
        self._on_change = on_change
        self._loop = asyncio.get_running_loop()
        self._tickets: dict[str, Ticket] = {}
        self._run = Run(0)
        """The last one that was ordered; before the first, one of which there never was anything."""
        self._loading: Loading | None = None
        self._forecast: Forecast | None = None
        """Of the start or the wake that is under way."""
        self.last_start: tuple[str, Past] | None = None
        """What the last one that became ready was ("start" or "wake"), and what may be learned of it."""
        self._expects = "start"
        self._detail = ""
        self._tasks: set[asyncio.Task[None]] = set()
        self._writing: set[asyncio.Task[None]] = set()
        """Ends that are being written down: the last thing that is given up."""
        self._events: deque[Event] = deque()
        self._telling = False
        self._told: tuple[State, Loading | None] | None = None
        """What `on_change` has heard of."""
        self._due = NEVER
        self._timer: asyncio.TimerHandle | None = None
        self._drained = asyncio.Event()

    def __repr__(self) -> str:
        return f"<Conductor {self.name} {self._run!r} {self._lifecycle!r} {self._admission!r}>"

    # -- what callers of the conductor may ask -------------------------------------------------

    def admit(
        self, request: str, *, size: int, patience: float | None = None, slots: int = 1, since: float | None = None
    ) -> Ticket | Refusal:
        """The verdict on one authenticated, checked request, at once. `size` is the bytes that are held for it.

        `patience`: seconds it can wait in all, None when it can wait as long as it takes (a stream). `slots`: answers
        that it asks for at once. `since`: when it came first, if it was told to come back and did.
        """
        now = self._loop.time()
        refusal = self._lifecycle.refusal(now) or self._gate()
        if refusal is not None:
            return _as_refusal(refusal)
        verdict = self._admission.offer(request, size_bytes=size, patience=patience, now=now, slots=slots, since=since)
        if isinstance(verdict, Full):
            wait = verdict.retry_after if self._lifecycle.state in SERVING else self.expected_wait()
            return refuse("queue_full", verdict.reason, retry_after=wait or verdict.retry_after).refusal
        instance = self._run.instance if isinstance(verdict, Admitted) else None
        turn = self._loop.create_future() if instance is None else None
        ticket = Ticket(self, request, instance, turn, now if since is None else since)
        ticket.run = self._run if instance is not None else None
        self._tickets[request] = ticket
        self._tell(RequestArrived(request))
        return ticket

    def refusal(self) -> Refusal | None:
        """What any request that came now would hear at once: that it is given up, drains, or may not be paid."""
        away = self._lifecycle.refusal(self._loop.time()) or self._gate()
        return None if away is None else _as_refusal(away)

    def give_back(self, ticket: Ticket) -> None:
        """The request is over, or its caller left: its slot, its place and its hold on the instance are free."""
        if self._tickets.pop(ticket.id, None) is None:
            return
        admitted = self._admission.release(ticket.id, now=self._loop.time(), served=ticket.active)
        if ticket.instance is not None:
            self._tell(RequestFinished(ticket.id, ticket.active))
        else:
            self._tell(RequestLeft(ticket.id))
        if admitted:
            self._grant(admitted)

    def name_for(self, model: str | None) -> str | None:
        """What the engine calls the model that a caller asks for: the usual one where it has none of that name. None:
        nobody knows, let the engine decide."""
        if model is not None and model in self._names:
            return self._names[model]
        return self._names[self.models[0]] if self.models else None

    async def is_taken(self, ticket: Ticket, within: float) -> bool:
        """A connection broke on which this request was: whether the vendor took the instance away, so that what was
        sent there can have no answer any more. The provider looks now; False also where nothing of the kind was seen
        within so many seconds."""
        suspect, run = getattr(self.provider, "suspect", None), ticket.run
        if suspect is None or run is None:
            return False
        if run.instance is not None:
            suspect(run.instance)
            try:
                async with asyncio.timeout(within):
                    await run.over.wait()
            except TimeoutError:
                return False
        return run.taken

    def wake(self) -> None:
        """Somebody wants it up, without a request of their own."""
        self._tell(WakeRequested())

    def take_over(self) -> None:
        """Something runs already, and nobody here started it: begin with it. Should that fail, nobody wanted it."""
        self._tell(WakeRequested(once=True))

    def sleep(self) -> bool:
        """Nobody wants it up any more: it is stopped now. False: somebody is here, and it is stopped when they have
        gone and it is idle."""
        self._tell(SleepRequested())
        return not self._lifecycle.requests

    def keep_warm(self, until: float | None) -> None:
        """It is to be up until this moment (loop time), whether somebody comes or not; None: no longer."""
        self._tell(WarmRequested(until))

    def must_end(self, run: int, within: float, reason: str, code: str = "") -> None:
        """The instance of this run may go on for only so long: the budget (with its code), or MAX_RUNTIME."""
        self._tell(MustEnd(run, within, reason, code))

    @property
    def state(self) -> State:
        return self._lifecycle.state

    @property
    def run(self) -> int:
        """The number of the last start."""
        return self._run.number

    @property
    def since(self) -> float:
        """Loop time at which the state began."""
        return self._lifecycle.since

    def snapshot(self) -> Snapshot:
        lifecycle = self._lifecycle
        return Snapshot(
            upstream=self.name,
            state=lifecycle.state,
            since=lifecycle.since,
            loading=self._loading if lifecycle.state is State.STARTING else None,
            progress=self._progress(),
            in_flight=self._admission.running,
            waiting=self._admission.waiting,
            starts=lifecycle.run,
            last_activity=lifecycle.last_activity,
            idle_at=lifecycle.idle_at,
            warm_until=lifecycle.warm_until,
            ever_ready=lifecycle.ever_ready,
            failures=lifecycle.failures,
            reason=lifecycle.reason or "",
            code=lifecycle.code or "",
            detail=self._detail,
            instance=self._run.instance,
        )

    def _progress(self) -> Progress | None:
        if self._forecast is None or self._lifecycle.state is not State.STARTING:
            return None
        return self._forecast.at(self._loop.time())

    def expected_wait(self) -> float | None:
        """Seconds until it will probably serve: 0 when it does, what a start usually takes while there is none under
        way. None: nobody knows."""
        if self._lifecycle.state is State.READY:
            return 0.0
        progress = self._progress()
        if progress is not None:
            return progress.seconds_left
        return usual_seconds(self._pasts("wake" if self._lifecycle.state is State.ASLEEP else "start"))

    async def drain(self, *, leave: bool = False) -> None:
        """End it in good order: running answers first, then the instance, unless it is left to a successor."""
        self._tell(DrainRequested(leave))
        await self._drained.wait()

    def hurry(self) -> None:
        """A second wish to end: running answers are cut, the instance is stopped, now."""
        self._tell(DrainRequested())

    async def close(self) -> None:
        """After a drain, when all tickets are back: end what still runs here and give back the provider's sockets."""
        if self._writing:
            await asyncio.wait(self._writing, timeout=WRITTEN_WITHIN)
        # What one of them says in its end may order another. Those that are done are not waited for again: from Python
        # 3.12 on that would not let the loop go round, and they would never be taken off the list.
        while alive := [task for task in (*self._tasks, *self._writing) if not task.done()]:
            for task in alive:
                task.cancel()
            await asyncio.gather(*alive, return_exceptions=True)
        if self._timer is not None:
            self._timer.cancel()
        await self.provider.close()

    # -- facts in, orders out ------------------------------------------------------------------

    def _tell(self, event: Event) -> None:
        """One event at a time: what an order brings about at once is told after it, not inside it."""
        self._events.append(event)
        if self._telling:
            return
        self._telling = True
        try:
            while self._events:
                for effect in self._lifecycle.handle(self._events.popleft(), now=self._loop.time()):
                    self._carry_out(effect)
                if self._lifecycle.state not in SERVING or self._lifecycle.ending:
                    self._admission.close()
        finally:
            self._telling = False
        self._arm()
        tale = self._lifecycle.state, self._loading
        if tale == self._told:
            return
        self._told = tale
        try:
            self._on_change(self)
        except Exception:  # whoever looks on may fail; the upstream goes on
            log.exception("what happened to %s could not be told", self.name)

    def _carry_out(self, effect: Effect) -> None:
        match effect:
            case StartInstance(number):
                self._expect("start")
                self._run = run = Run(number)
                run.start = self._spawn(self._start(run))
            case StopInstance():
                self._spawn(self._stop(self._run))
            case RestInstance():
                self._order(self._run, self.provider.rest)
            case WakeInstance():
                self._expect("wake")
                self._order(self._run, self.provider.wake)
            case ReleaseWaiting():
                self._grant(self._admission.open(now=self._loop.time()))
            case RefuseWaiting(code, reason):
                self._turn_away(self._admission.refuse_all(), refuse(code, reason))
            case CutRunning(code, reason):
                self._cut(refuse(code, reason))
            case EndDrain():
                self._drained.set()

    def _expect(self, kind: str) -> None:
        self._loading = None
        self._expects = kind
        self._forecast = Forecast(self._loop.time(), self._pasts(kind))

    def _grant(self, requests: list[str]) -> None:
        for request in requests:
            ticket = self._tickets.get(request)
            if ticket is not None and self._run.instance is not None:
                ticket.run = self._run
                ticket.grant(self._run.instance)

    def _cut(self, refused: Refused) -> None:
        """All answers that run. In a drain their ends are waited for; else they are over for us from here on."""
        for ticket in [ticket for ticket in self._tickets.values() if ticket.instance is not None]:
            ticket.cut(refused.refusal)
            if not self._lifecycle.draining:
                self.give_back(ticket)

    def _turn_away(self, requests: list[str], refused: Refused) -> None:
        for request in requests:
            ticket = self._tickets.get(request)
            if ticket is not None:
                ticket.turn_away(refused)

    # -- one timer -----------------------------------------------------------------------------

    def _arm(self) -> None:
        """It is set for what comes first, and put forward, but never off: one that rings too early is set again, and
        that is once in an idle time instead of with every request."""
        due, too_late = self._lifecycle.next_deadline(), self._admission.next_deadline()
        if due is None or (too_late is not None and too_late < due):
            due = too_late
        if due is None or due >= self._due:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._due = due
        self._timer = self._loop.call_at(max(due, self._loop.time() + CLOCK_STEP), self._time_passed)

    def _time_passed(self) -> None:
        self._due, self._timer = NEVER, None
        waited = refuse(
            "queue_timeout", "Waited in line for QUEUE_TIMEOUT; the upstream is busy with others.", retry_after=10
        )
        self._turn_away(self._admission.expired(now=self._loop.time()), waited)
        self._grant(self._admission.move(now=self._loop.time()))
        self._tell(TimePassed())

    # -- orders that take time -----------------------------------------------------------------

    def _spawn(self, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _start(self, run: Run) -> None:
        """Until the provider's start call came back: only then is it known what there is to watch, and to stop."""
        try:
            await self._journal.open()
            run.instance = await self.provider.start(Intent(self.name, run.number), self._journal)
        except ProviderError as error:
            run.instance = error.instance
            fact = InstanceLost if error.instance is None else InstanceBroken
            self._fell(run, fact(run.number, error.reason, error.lasting, error.code), error.detail)
        except OSError as error:  # above all a journal that cannot be written
            log.warning("start %d of %s could not be carried out: %s", run.number, self.name, error)
            self._fell(run, InstanceLost(run.number, NOT_CARRIED_OUT), detail=str(error))
        except Exception as error:
            log.exception("start %d of %s failed", run.number, self.name)
            self._fell(run, InstanceLost(run.number, FAULT), detail=repr(error))
        else:
            run.watch = self._spawn(self._watch(run, run.instance))

    async def _watch(self, run: Run, instance: Instance) -> None:
        """What happens to it, until it is gone. One watcher serves all who wait."""
        detail = "the news ended without an end"
        try:
            async for news in self.provider.watch(instance):
                self._hear(run, news)
        except Exception as error:  # nobody may wait for news that will not come
            log.exception("the news of %s broke off", instance.id)
            detail = repr(error)
        if run.instance is not None:
            self._fell(run, InstanceBroken(run.number, UNWATCHED), detail=detail)

    def _hear(self, run: Run, news: News) -> None:
        if run.instance is None:
            return  # it was stopped, or told us that it is gone: what comes now is late
        match news:
            case Loading():
                if news != self._loading:
                    self._loading = news
                    self._foresee(news)
                    self._tell(StartProgressed(run.number))
            case Ready(models, concurrency, endpoint):
                if endpoint is not None and endpoint != run.instance.endpoint:
                    run.instance = replace(run.instance, endpoint=endpoint)
                if models:
                    self._learn_names(models)
                if concurrency and self._limits_for is not None:
                    self._grant(self._admission.change(self._limits_for(concurrency), now=self._loop.time()))
                self._arrived()
                self._tell(BecameReady(run.number))
            case Asleep():
                self._tell(FellAsleep(run.number))
            case Gone(reason, lasting, detail, code, taken):
                gone, run.instance = run.instance, None
                run.over.set()
                run.taken = taken
                self._end_rental(gone, reason)
                self._fell(run, InstanceLost(run.number, reason, lasting, code, taken), detail)

    def _foresee(self, news: Loading) -> None:
        if self._forecast is not None:
            if news.phase != self._forecast.phase:
                self._forecast.learn(self._pasts(self._expects))  # by now it may be known which engine it is
            self._forecast.hear(
                news.phase,
                now=self._loop.time(),
                ratio=news.ratio,
                detail=news.detail,
                done=news.done,
                total=news.total,
            )

    def _arrived(self) -> None:
        if self._forecast is not None and self._lifecycle.state is State.STARTING:
            self.last_start = self._expects, self._forecast.past(self._loop.time())

    def _learn_names(self, models: tuple[str, ...]) -> None:
        self._names = {public_name(name): name for name in models}
        self.models = tuple(self._names)

    def _fell(self, run: Run, fact: InstanceLost | InstanceBroken, detail: str = "") -> None:
        if run is self._run:
            self._detail, self._forecast = detail, None
            self._tell(fact)

    async def _stop(self, run: Run) -> None:
        """End whatever there is of this run. The provider's own word, and nothing else, confirms it."""
        within = self._limits.drain_reserve if self._lifecycle.draining else self._limits.stop_within
        if run.order is not None:
            run.order.cancel()  # it rests no more, and is not woken
        if await self._start_is_over(run, within) and await self._ended(run, within):
            self._tell(StopConfirmed(run.number))
        else:
            self._tell(StopFailed(run.number))

    async def _start_is_over(self, run: Run, within: float) -> bool:
        """What a start call creates must be known, or it would be nobody's. One that does not come back in time is
        cancelled, which by contract ends what it began or says what it left."""
        if run.start is None or run.start.done():
            return True
        done, _ = await asyncio.wait({run.start}, timeout=within)
        if not done:
            log.warning("start %d of %s does not come back; it is cancelled", run.number, self.name)
            run.start.cancel()
            done, _ = await asyncio.wait({run.start}, timeout=within)
        return bool(done)

    async def _ended(self, run: Run, within: float) -> bool:
        """Stop it, and say whether the provider confirmed that nothing of it exists."""
        instance = run.instance
        if instance is None:
            return True
        try:
            async with asyncio.timeout(within + STOP_MARGIN):
                await self.provider.stop(instance, within=within)
        except (ProviderError, TimeoutError) as error:
            log.warning("the stop of %s was not confirmed: %r", instance.id, error)
            return False
        except Exception:
            log.exception("the stop of %s failed", instance.id)
            return False
        run.instance = None
        run.over.set()
        if run.watch is not None:
            run.watch.cancel()
        self._end_rental(instance, "stopped")
        return True

    def _end_rental(self, instance: Instance, why: str) -> None:
        if instance.name:
            writing = self._loop.create_task(self._write_end(instance, why))
            self._writing.add(writing)
            writing.add_done_callback(self._writing.discard)

    async def _write_end(self, instance: Instance, why: str) -> None:
        """What cannot be written down goes on being counted, until somebody looks again: that errs on the safe side."""
        try:
            await self._journal.end(instance.name, why)
        except OSError as error:
            log.warning("the end of %s could not be written down: %s", instance.name, error)

    def _order(self, run: Run, order: Callable[[Instance], Coroutine[Any, Any, None]]) -> None:
        if run.order is not None:
            run.order.cancel()
        run.order = self._spawn(self._obey(run, order))

    async def _obey(self, run: Run, order: Callable[[Instance], Coroutine[Any, Any, None]]) -> None:
        """Rest or wake; an upstream that can do neither any more is stopped."""
        instance = run.instance
        if instance is None:
            return
        try:
            await order(instance)
        except ProviderError as error:
            self._fell(run, InstanceBroken(run.number, error.reason, error.lasting, error.code), error.detail)
        except Exception as error:
            log.exception("%s was told to rest or wake, and failed", instance.id)
            self._fell(run, InstanceBroken(run.number, NOT_OBEYED), detail=repr(error))
