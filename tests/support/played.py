"""A provider whose every answer a test decides, and callers to go with it. For simulated time.

It keeps books of its own: what exists, what was called and when, and what must never be (`wrongs`).
"""

import asyncio
import contextlib
from collections import Counter, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from gateway.conductor import Conductor, Limits, Ticket
from gateway.errors import Refusal, Refused
from gateway.policy.admission import Admission
from gateway.policy.admission import Limits as AdmissionLimits
from gateway.policy.estimate import Past
from gateway.policy.lifecycle.machine import Lifecycle, LifecycleSettings, TurnedAway
from gateway.policy.lifecycle.states import State
from gateway.providers.base import (
    Asleep,
    Endpoint,
    Gone,
    Instance,
    Intent,
    Journal,
    Loading,
    News,
    Profile,
    Ready,
)
from gateway.providers.feed import Feed

Deed = Callable[..., Awaitable[Any]]

BREAK = Loading("the test breaks off the news")


class Played:
    """Obeys as a good provider does, with the delays that were set; `next_*` holds deeds that replace the usual one."""

    name = "played"

    def __init__(self, *, start_takes: float = 0.0, ready_after: float | None = 5.0, stop_takes: float = 1.0) -> None:
        self.profile = Profile(models=("served",), can_rest=True)
        self.start_takes = start_takes
        self.ready_after = ready_after
        """Seconds from the start's return to Ready; None: the test tells it."""
        self.stop_takes = stop_takes
        self.ready = Ready(("served",))
        self.next_start: deque[Deed] = deque()
        self.next_stop: deque[Deed] = deque()
        self.next_rest: deque[Deed] = deque()
        self.next_wake: deque[Deed] = deque()
        self.alive: dict[str, Feed] = {}
        """What exists, as the vendor would list it."""
        self.feeds: dict[str, Feed] = {}
        self.calls: list[tuple[float, str]] = []
        self.wrongs: list[str] = []
        self.busy: Counter[str] = Counter()
        """Callers who are being answered, by instance."""
        self.may_cut = False
        """Whether an instance may be stopped under its callers now."""
        self.slots = 0
        """As many as it was configured to work on at once, if it says no other number itself."""
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self.closed = False

    def __repr__(self) -> str:
        return f"<Played alive={list(self.alive)} calls={self.calls[-5:]}>"

    def called(self, what: str) -> int:
        return sum(1 for _, call in self.calls if call.startswith(what))

    # -- the contract

    async def start(self, intent: Intent, journal: Journal) -> Instance:
        self._note(f"start {intent.run}")
        if self.next_start:
            return await self.next_start.popleft()(intent, journal)
        await asyncio.sleep(self.start_takes)
        return self.create(intent, self.ready_after)

    async def watch(self, instance: Instance) -> AsyncIterator[News]:
        async for news in self.feeds[instance.id].read():
            if news is BREAK:
                raise KeyError("status")
            yield news

    async def rest(self, instance: Instance) -> None:
        self._note(f"rest {instance.id}")
        if self.next_rest:
            await self.next_rest.popleft()(instance)
        else:
            self.feeds[instance.id].tell(Asleep())

    async def wake(self, instance: Instance) -> None:
        self._note(f"wake {instance.id}")
        if self.next_wake:
            await self.next_wake.popleft()(instance)
        else:
            self.feeds[instance.id].tell(self.ready)

    async def stop(self, instance: Instance, *, within: float) -> None:
        self._note(f"stop {instance.id}")
        if self.busy[instance.id] and instance.id in self.alive and not self.may_cut:
            self.wrongs.append(f"{instance.id} was stopped under {self.busy[instance.id]} callers")
        if self.next_stop:
            await self.next_stop.popleft()(instance)
        else:
            await asyncio.sleep(min(within, self.stop_takes))
            self.end(instance.id)

    async def list(self) -> list[Instance]:
        raise NotImplementedError

    async def price(self) -> int | None:
        return 0

    async def close(self) -> None:
        self.closed = True
        for timer in self._timers.values():
            timer.cancel()

    # -- the world's side

    def create(self, intent: Intent, ready_after: float | None = None) -> Instance:
        """Something exists now."""
        if self.alive:
            self.wrongs.append(f"a second instance beside {list(self.alive)}")
        instance = Instance(f"i{intent.run}", self.name, Endpoint(f"http://played/{intent.run}"), 0.0)
        feed = self.alive[instance.id] = self.feeds[instance.id] = Feed()
        if ready_after is not None:
            later = asyncio.get_running_loop().call_later
            self._timers[instance.id] = later(ready_after, feed.tell, self.ready)
        return instance

    def end(self, name: str, gone: Gone | None = None) -> None:
        """It exists no more."""
        feed = self.alive.pop(name, None)
        if feed is not None:
            if timer := self._timers.pop(name, None):
                timer.cancel()
            feed.tell(gone or Gone("The engine was stopped."))

    @contextlib.contextmanager
    def answering(self, instance: Instance) -> Iterator[None]:
        self.busy[instance.id] += 1
        try:
            yield
        finally:
            self.busy[instance.id] -= 1

    def crash(self, reason: str = "The engine was killed by signal 9.", **facts: Any) -> None:
        """What exists, if anything, dies."""
        for name in tuple(self.alive):
            self.end(name, Gone(reason, **facts))

    def tell(self, news: News) -> None:
        """To the watcher of the newest instance."""
        self.feeds[tuple(self.feeds)[-1]].tell(news)

    def _note(self, what: str) -> None:
        self.calls.append((asyncio.get_running_loop().time(), what))


@dataclass
class Stage:
    """A conductor and its provider."""

    conductor: Conductor
    provider: Played
    callers: list["asyncio.Task[str]"] = field(default_factory=list)

    @property
    def state(self) -> State:
        return self.conductor.snapshot().state

    @property
    def in_flight(self) -> int:
        return self.conductor.snapshot().in_flight

    @property
    def waiting(self) -> int:
        return self.conductor.snapshot().waiting

    def come(self, name: str, *, takes: float = 1.0, patience: float | None = None) -> "asyncio.Task[str]":
        """A caller, at once."""
        task = asyncio.get_running_loop().create_task(call(self.conductor, name, takes, patience), name=name)
        self.callers.append(task)
        return task

    def come_many(self, count: int, *, takes: float = 1.0) -> list["asyncio.Task[str]"]:
        return [self.come(f"r{number}", takes=takes) for number in range(count)]


@contextlib.asynccontextmanager
async def stage(
    provider: Played | None = None,
    *,
    slots: int = 2,
    queue: int = 1000,
    queue_timeout: float = 300.0,
    stop_within: float = 10.0,
    drain_reserve: float = 5.0,
    adopt: bool = True,
    journal: Journal | None = None,
    gate: Callable[[], TurnedAway | None] = lambda: None,
    pasts: Callable[[str], Sequence[Past]] = lambda kind: (),
    on_change: Callable[[Conductor], None] = lambda conductor: None,
    **settings: Any,
) -> AsyncIterator[Stage]:
    """A conductor in production's settings, but for what is named. In the end callers are sent away and it closes."""
    played = provider or Played()
    played.slots = slots
    line = AdmissionLimits(concurrency=slots, max_queue_size=queue, queue_timeout=queue_timeout)
    built = Stage(
        Conductor(
            "default",
            played,
            Lifecycle(
                LifecycleSettings(**{"idle_timeout": 60.0, "drain_reserve": drain_reserve} | settings),
                now=asyncio.get_running_loop().time(),
            ),
            Admission(line),
            limits=Limits(stop_within=stop_within, drain_reserve=drain_reserve),
            limits_for=(lambda n: replace(line, concurrency=n)) if adopt else None,
            journal=journal,
            gate=gate,
            pasts=pasts,
            on_change=on_change,
        ),
        played,
    )
    try:
        yield built
    finally:
        for caller in built.callers:
            caller.cancel()
        await asyncio.gather(*built.callers, return_exceptions=True)
        await built.conductor.close()
        assert not played.wrongs, played.wrongs


async def call(conductor: Conductor, name: str, takes: float = 1.0, patience: float | None = None) -> str:
    """One caller, as web/door.py is one. Says how it ended: answered, sent back, or a refusal's code."""
    verdict = conductor.admit(name, size=10, patience=patience)
    if isinstance(verdict, Refusal):
        return verdict.code
    try:
        with verdict as ticket:
            ticket.carried_by(asyncio.current_task())
            instance = await ticket.wait(patience)
            if instance is None:
                return "sent back"
            provider = conductor.provider
            assert isinstance(provider, Played)
            in_flight, slots = conductor.snapshot().in_flight, max(provider.slots, provider.ready.concurrency or 0)
            if in_flight > slots:
                provider.wrongs.append(f"{in_flight} in flight on {slots} slots")
            with provider.answering(instance):
                await asyncio.sleep(takes)
            return "answered"
    except Refused as refused:
        return refused.refusal.code


def ticket_of(verdict: Ticket | Refusal) -> Ticket:
    assert isinstance(verdict, Ticket), verdict
    return verdict


def refusal_of(verdict: Ticket | Refusal) -> Refusal:
    assert isinstance(verdict, Refusal), verdict
    return verdict
