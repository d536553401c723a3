"""The only loop: facts to policy, orders to a provider, its news back, and one timer.

A request asks `admit()` and gets a verdict at once: a `Ticket` (with the instance in it, or to wait for) or a
`Refusal`. Everything that happens is told to the lifecycle as an event, in order, by `_tell`; what it orders is carried
out by tasks that end in further events. Nobody else changes the state of an upstream, or reads it to decide something.

One Conductor is one upstream. It knows nothing of HTTP.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from gateway.errors import Refusal, Refused, refuse
from gateway.policy.admission import Admission, Admitted, Full
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
    RequestArrived,
    RequestFinished,
    RequestLeft,
    StartProgressed,
    StopConfirmed,
    StopFailed,
    TimePassed,
    WakeRequested,
)
from gateway.policy.lifecycle.machine import Lifecycle
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
)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What /health, /metrics, the status file and /v1/models may know of an upstream."""

    upstream: str
    state: State
    since: float
    """Loop time at which the state began."""
    loading: Loading | None
    in_flight: int
    waiting: int
    starts: int
    last_activity: float | None
    ever_ready: bool
    reason: str
    """Why it failed last, as a closed sentence; empty when it did not."""
    detail: str
    """What the engine said then. For the log and the admin key only."""
    instance: Instance | None


class Ticket:
    """One request's place: in line, then in flight. Give it back with `with ticket:`, in every phase."""

    __slots__ = ("_conductor", "_future", "_task", "active", "cut_short", "id", "instance")

    def __init__(self, conductor: "Conductor", request: str) -> None:
        self.id = request
        self.instance: Instance | None = None
        self.active = True
        """Whether its end counts as activity; the engine's own 4xx does not."""
        self.cut_short: Refusal | None = None
        """Set when the gateway, not the caller, ends it: the drain's time is over."""
        self._conductor = conductor
        self._future: asyncio.Future[Instance] | None = None
        self._task: asyncio.Task[Any] | None = None

    def __repr__(self) -> str:
        return f"<Ticket {self.id} {'in flight' if self.instance else 'in line'}>"

    async def wait(self, timeout: float | None) -> Instance | None:
        """The instance once it is this request's turn; None when `timeout` seconds passed. Raises Refused.

        Cancelled or timed out, the place in line stays until the ticket is given back.
        """
        if self.instance is not None:
            return self.instance
        if self._future is None:
            self._future = asyncio.get_running_loop().create_future()
        done, _ = await asyncio.wait({self._future}, timeout=timeout)
        return self._future.result() if done else None

    def carried_by(self, task: "asyncio.Task[Any] | None") -> None:
        """The task to cancel, with `cut_short` set, should the gateway have to end this answer."""
        self._task = task

    def grant(self, instance: Instance) -> None:
        self.instance = instance
        if self._future is None:
            self._future = asyncio.get_running_loop().create_future()
        if not self._future.done():
            self._future.set_result(instance)

    def turn_away(self, refused: Refused) -> None:
        if self._future is None:
            self._future = asyncio.get_running_loop().create_future()
        if not self._future.done():
            self._future.set_exception(refused)
            self._future.exception()  # a caller who left never asks; that is no error to log

    def cut(self, refusal: Refusal) -> None:
        if self._task is not None and not self._task.done():
            self.cut_short = refusal
            self._task.cancel()

    def __enter__(self) -> "Ticket":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._conductor.give_back(self)


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds that the conductor itself keeps."""

    stop_within: float
    """What a stop may take while the gateway goes on; in a drain it is what the drain has left."""
    drain_reserve: float


class NoJournal:
    """For providers that spend nothing: there is nothing to write down before a start."""

    def note(self, what: str, **facts: object) -> None:
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
        adopt_concurrency: bool = True,
        journal: Journal | None = None,
        on_change: Callable[["Conductor"], None] = lambda conductor: None,
    ) -> None:
        self.name = name
        self.provider = provider
        self.models: tuple[str, ...] = provider.profile.models
        self._lifecycle = lifecycle
        self._admission = admission
        self._limits = limits
        self._adopt_concurrency = adopt_concurrency
        self._journal: Journal = journal or NoJournal()
        self._on_change = on_change
        self._loop = asyncio.get_running_loop()
        self._tickets: dict[str, Ticket] = {}
        self._instance: Instance | None = None
        self._loading: Loading | None = None
        self._detail = ""
        self._starts = 0
        self._begun: asyncio.Future[None] | None = None
        """Done once the provider's start call came back: only then is it known what there is to stop."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._events: deque[Event] = deque()
        self._telling = False
        self._timer: asyncio.TimerHandle | None = None
        self._drained = asyncio.Event()

    def __repr__(self) -> str:
        return f"<Conductor {self.name} {self._lifecycle!r} {self._admission!r}>"

    # -- what callers of the conductor may ask -------------------------------------------------

    def admit(self, request: str, *, size: int, patience: float | None = None, slots: int = 1) -> Ticket | Refusal:
        """The verdict on one authenticated, checked request, at once. `size` is the bytes that are held for it.

        `patience`: seconds it can wait in all, None when it can wait as long as it takes (a stream). `slots`: answers
        that it asks for at once.
        """
        now = self._loop.time()
        refusal = self._lifecycle.refusal(now)
        if refusal is not None:
            return refuse(refusal.code, refusal.reason, retry_after=refusal.retry_after).refusal
        verdict = self._admission.offer(request, size_bytes=size, patience=patience, now=now, slots=slots)
        if isinstance(verdict, Full):
            return refuse("queue_full", verdict.reason, retry_after=verdict.retry_after).refusal
        ticket = Ticket(self, request)
        self._tickets[request] = ticket
        if isinstance(verdict, Admitted) and self._instance is not None:
            ticket.grant(self._instance)
        self._tell(RequestArrived(request))
        return ticket

    def give_back(self, ticket: Ticket) -> None:
        """The request is over, or its caller left: its slot, its place and its hold on the instance are free."""
        if self._tickets.pop(ticket.id, None) is None:
            return
        admitted = self._admission.release(ticket.id, now=self._loop.time(), served=ticket.active)
        if ticket.instance is not None:
            self._tell(RequestFinished(ticket.id, ticket.active))
        else:
            self._tell(RequestLeft(ticket.id))
        self._grant(admitted)

    def wake(self) -> None:
        """Somebody wants it up, without a request of their own."""
        self._tell(WakeRequested())

    def snapshot(self) -> Snapshot:
        lifecycle = self._lifecycle
        waiting = self._admission.waiting
        return Snapshot(
            upstream=self.name,
            state=lifecycle.state,
            since=lifecycle.since,
            loading=self._loading if lifecycle.state is State.STARTING else None,
            in_flight=len(self._tickets) - waiting,
            waiting=waiting,
            starts=self._starts,
            last_activity=lifecycle.last_activity,
            ever_ready=lifecycle.ever_ready,
            reason=lifecycle.reason or "",
            detail=self._detail,
            instance=self._instance,
        )

    async def drain(self) -> None:
        """End it in good order: running answers first, then the instance."""
        self._tell(DrainRequested())
        await self._drained.wait()

    def hurry(self) -> None:
        """A second wish to end: running answers are cut, the instance is stopped, now."""
        self._tell(DrainRequested())

    async def close(self) -> None:
        """After a drain: end what still runs here and give back the provider's sockets."""
        if self._timer is not None:
            self._timer.cancel()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
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
                before = self._lifecycle.state
                effects = self._lifecycle.handle(self._events.popleft(), now=self._loop.time())
                if self._lifecycle.state is not State.READY and before is State.READY:
                    self._admission.close()
                for effect in effects:
                    self._carry_out(effect)
        finally:
            self._telling = False
        self._arm()
        self._on_change(self)

    def _carry_out(self, effect: Effect) -> None:
        match effect:
            case StartInstance(run):
                self._starts += 1
                self._loading = None
                self._begun = self._loop.create_future()
                self._spawn(self._run(run, self._begun))
            case StopInstance(run):
                self._spawn(self._stop(run))
            case RestInstance(run):
                self._spawn(self._order(run, self.provider.rest))
            case WakeInstance(run):
                self._spawn(self._order(run, self.provider.wake))
            case ReleaseWaiting():
                self._grant(self._admission.open(now=self._loop.time()))
            case RefuseWaiting(code, reason):
                self._turn_away(self._admission.refuse_all(), refuse(code, reason))
            case CutRunning():
                cut = refuse("draining", "This gateway is shutting down, and the time for running answers is over.")
                for ticket in list(self._tickets.values()):
                    ticket.cut(cut.refusal)
            case EndDrain():
                self._drained.set()

    def _grant(self, requests: list[str]) -> None:
        for request in requests:
            ticket = self._tickets.get(request)
            if ticket is not None and self._instance is not None:
                ticket.grant(self._instance)

    def _turn_away(self, requests: list[str], refused: Refused) -> None:
        for request in requests:
            ticket = self._tickets.get(request)
            if ticket is not None:
                ticket.turn_away(refused)

    # -- one timer -----------------------------------------------------------------------------

    def _arm(self) -> None:
        deadlines = (self._lifecycle.next_deadline(), self._admission.next_deadline())
        deadline = min((d for d in deadlines if d is not None), default=None)
        if self._timer is not None:
            if deadline is not None and self._timer.when() == deadline:
                return
            self._timer.cancel()
            self._timer = None
        if deadline is not None:
            self._timer = self._loop.call_at(deadline, self._time_passed)

    def _time_passed(self) -> None:
        self._timer = None
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

    async def _run(self, run: int, begun: asyncio.Future[None]) -> None:
        """One start: from the order until the instance is gone. Its one watcher serves all who wait."""
        try:
            self._instance = instance = await self.provider.start(Intent(self.name, run), self._journal)
        except ProviderError as error:
            self._instance = error.instance
            fact = InstanceLost if error.instance is None else InstanceBroken
            self._tell(fact(run, error.reason, error.lasting))
            return
        except OSError as error:
            self._tell(InstanceLost(run, f"The start could not be carried out: {error.strerror or error}."))
            return
        finally:
            begun.set_result(None)
        async for news in self.provider.watch(instance):
            self._hear(run, instance, news)

    def _hear(self, run: int, instance: Instance, news: News) -> None:
        match news:
            case Loading():
                if news != self._loading:
                    self._loading = news
                    self._tell(StartProgressed(run))
            case Ready(models, concurrency):
                if models:
                    self.models = models
                if concurrency is not None and self._adopt_concurrency:
                    self._grant(self._admission.resize(concurrency, now=self._loop.time()))
                self._tell(BecameReady(run))
            case Asleep():
                self._tell(FellAsleep(run))
            case Gone(reason, lasting, detail):
                self._detail = detail
                if self._instance is instance:
                    self._instance = None
                self._tell(InstanceLost(run, reason, lasting))

    async def _stop(self, run: int) -> None:
        if self._begun is not None and not self._begun.done():
            # The start call has not come back: what it creates must be known, or it would be nobody's.
            await asyncio.wait({self._begun}, timeout=self._limits.stop_within)
        if self._begun is not None and not self._begun.done():
            self._tell(StopFailed(run))
        elif self._instance is None or await self._ended(self._instance):
            self._tell(StopConfirmed(run))
        else:
            self._tell(StopFailed(run))

    async def _ended(self, instance: Instance) -> bool:
        """Stop it, and say whether the provider confirmed that nothing of it exists."""
        within = self._limits.drain_reserve if self._lifecycle.draining else self._limits.stop_within
        try:
            await self.provider.stop(instance, within=within)
        except ProviderError:
            return False
        if self._instance is instance:
            self._instance = None
        return True

    async def _order(self, run: int, order: Callable[[Instance], Coroutine[Any, Any, None]]) -> None:
        """Rest or wake; an upstream that can do neither any more is stopped."""
        if self._instance is None:
            return
        try:
            await order(self._instance)
        except ProviderError as error:
            self._tell(InstanceBroken(run, error.reason, error.lasting))
