"""The provider that every vendor of rented machines is put into: what is done once, and the same for all of them.

A vendor brings a few verbs (`Vendor`), in its own file. Here is what must not be got wrong in any of them: look before
each start, write down before each call, never start twice what may have been started, believe no single answer about
an end, end at once what costs and cannot serve, and say all of it as news.

Nothing here reads a wall clock or opens a socket: both are handed in, so that months run in simulated time.
"""

import asyncio
import logging
import math
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from gateway.providers.base import (
    Bill,
    Endpoint,
    Gone,
    Instance,
    Intent,
    Journal,
    Loading,
    News,
    Profile,
    ProviderError,
    Ready,
    Rental,
)
from gateway.providers.feed import Feed
from gateway.providers.renting.prices import Price
from gateway.providers.renting.readiness import Look as Look
from gateway.providers.renting.readiness import Serves, is_there, readiness
from gateway.providers.renting.vendor import Urgency, VendorError
from gateway.providers.renting.verbs import Offer as Offer
from gateway.providers.renting.verbs import Phase as Phase
from gateway.providers.renting.verbs import Seen as Seen
from gateway.providers.renting.verbs import Vendor as Vendor

log = logging.getLogger(__name__)

NOWHERE = Endpoint("")
"""Not known yet: `Ready` brings the endpoint. Nothing is ever sent there."""
STOPPED = "It was stopped."
TAKEN = "The vendor took the machine away."
NOT_STARTED = "The vendor did not start it."
SILENT = "What runs in the rented machine does not answer any more."
NOT_WRITTEN = "What is rented could not be written down."
UNCONFIRMED = "The vendor has not confirmed the stop yet; it is asked on."


@dataclass(frozen=True, slots=True)
class Tempo:
    """Seconds."""

    booting: float = 2.0
    """Between two looks at the vendor while it boots, for the first `eager` seconds; then `patient`."""
    eager: float = 120.0
    patient: float = 5.0
    ready: float = 60.0
    """While it serves: nearer looks are asked for by whoever sees a connection break."""
    confirm: float = 2.0
    """Between two looks that must say the same before an end is believed."""
    again: float = 10.0
    """Until a stop that was not followed is asked for again."""
    alarm: float = 120.0
    """Until one that will not stop is an alarm."""
    lag: float = 60.0
    """What was just created may not be seen for so long."""
    empty: float = 15.0
    """Between two empty lists that count, of the three that mean "there is none"."""
    look: float = 1.0
    """Between two looks at the upstream while it loads."""
    steady: float = 15.0
    look_within: float = 10.0
    silent: float = 30.0
    """Until an upstream that served, and answers nothing any more, is given up though its machine runs."""
    restart: float = 600.0
    """The same for one that began again at another address, as START_TIMEOUT is for a start."""


EMPTIES = 3
LOST_LOOKS = 6
"""Looks in a row that found nobody, until an upstream that served is given up; and no sooner than `Tempo.silent`."""
ALARM_AGAIN = 3600.0
"""Seconds."""
AGREED = 2
"""Looks in a row that must agree before anything counts as over."""


@dataclass(slots=True, eq=False)
class Rented:
    """One rental that this process follows."""

    instance: Instance
    journal: Journal | None = field(repr=False)
    begun: float
    """Loop time of the call that began it."""
    feed: Feed = field(default_factory=Feed, repr=False)
    id: str = ""
    """The vendor's; empty while it is not known."""
    adopted: bool = False
    awake: bool = False
    """The vendor has said once that it runs, or is about to."""
    unanswered: bool = False
    """The call that was to start it: it may still be under way."""
    price: Price | None = None
    endpoint: Endpoint | None = None
    served: Endpoint | None = None
    """The endpoint that Ready was told of."""
    dark: bool = False
    """It served, and does not answer now: what the vendor says of its end is not from before its start."""
    suspected: asyncio.Event = field(default_factory=asyncio.Event, repr=False)
    moved: asyncio.Event = field(default_factory=asyncio.Event, repr=False)
    taken: bool = False
    """The vendor says of it that it took it away, though not yet that it is over."""
    ordered: bool = False
    """Its end was ordered: its going is no loss."""
    last_word: Gone | None = None
    """Why it was given up, to be told when it is over."""
    tasks: "list[asyncio.Task[None]]" = field(default_factory=list, repr=False)
    ending: "asyncio.Task[None] | None" = field(default=None, repr=False)

    @property
    def in_doubt(self) -> bool:
        """Whether it may begin yet, though nothing is to be seen of it."""
        return self.unanswered and not self.awake


class RentedProvider:
    """A Renter, made of a vendor. `alarm`: what somebody should be told of at once, as (kind, sentence)."""

    def __init__(
        self,
        vendor: Vendor,
        *,
        look: Look,
        now: Callable[[], float],
        profile: Profile | None = None,
        tempo: Tempo | None = None,
        alarm: Callable[[str, str], None] = lambda kind, text: None,
    ) -> None:
        self.name = vendor.name
        self._vendor = vendor
        self._look = look
        self._now = now
        self._profile = profile or Profile()
        self._tempo = tempo or Tempo()
        self._tell_somebody = alarm
        self._alarms: dict[tuple[str, str], float] = {}
        """What somebody was told, and when: the same again only after an hour."""
        self._loop = asyncio.get_running_loop()
        self._rented: dict[str, Rented] = {}
        """By the rental's name, or by the vendor's id where there is none."""
        self._costs: Callable[[], bool] = lambda: False
        self._doubts: dict[str, float] = {}
        """Names of creates that were not answered, and the loop time of the call."""
        self._tasks: set[asyncio.Task[None]] = set()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {list(self._rented.values())} {self._vendor.line!r}>"

    # --- The contract ---

    @property
    def profile(self) -> Profile:
        return self._profile

    async def start(self, intent: Intent, journal: Journal) -> Instance:
        """Adopt what runs already, or start one: never a second."""
        try:
            await self._settle(journal)
            running = await self._running(journal)
            if running:
                return await self._adopt(running, intent, journal)
            offers = await self._vendor.offers()
        except VendorError as error:
            raise self._refusal(error) from error
        return await self._take_one(offers, intent, journal)

    async def watch(self, instance: Instance) -> AsyncIterator[News]:
        """News until `Gone`."""
        rented = self._rented.get(key_of(instance))
        if rented is None:
            yield Gone(STOPPED)
            return
        async for news in rented.feed.read():
            yield news

    async def rest(self, instance: Instance) -> None:
        raise ProviderError("A rented machine cannot be put to sleep; it is stopped instead.", lasting=True)

    async def wake(self, instance: Instance) -> None:
        raise ProviderError("A rented machine does not sleep; there is nothing to wake.", lasting=True)

    async def stop(self, instance: Instance, *, within: float) -> None:
        """Returns when the vendor's own status says twice that it costs nothing. What is not confirmed within
        `within` seconds raises, and is asked for on and on all the same."""
        rented = self._rented.get(key_of(instance))
        if rented is None:
            if not instance.name and not instance.id:
                return
            rented = Rented(instance, None, self._loop.time(), id="" if instance.id == instance.name else instance.id)
            self._rented[key_of(instance)] = rented
        if rented.feed.gone is not None and rented.ending is None:
            return
        rented.ordered = True
        ending = self._ending(rented)
        done, _ = await asyncio.wait({ending}, timeout=max(within, 0.0))
        if not done:
            trouble = self._vendor.line.trouble
            raise ProviderError(UNCONFIRMED, instance=instance, detail=str(trouble or ""))
        ending.result()
        rented.feed.tell(Gone(STOPPED))  # where it was given up already, and its end ordered only then

    async def list(self) -> list[Instance]:
        try:
            seen = await self._vendor.all(self._how(Urgency.LOOK))
        except VendorError as error:
            raise self._refusal(error) from error
        return [self._instance(one) for one in seen if one.phase.costs]

    async def price(self) -> int | None:
        try:
            offers = await self._vendor.offers()
        except VendorError as error:
            raise self._refusal(error) from error
        return next((offer.price.amount for offer in offers if offer.price is not None), None)

    async def bills(self, begins: float, ends: float) -> Sequence[Bill] | None:
        try:
            return await self._vendor.bills(begins, ends)
        except VendorError as error:
            raise self._refusal(error) from error

    async def storage(self) -> int | None:
        try:
            return await self._vendor.storage()
        except VendorError as error:
            raise self._refusal(error) from error

    async def close(self) -> None:
        """Watch no more. Stops nothing."""
        tasks = {*self._tasks}
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        for rented in self._rented.values():
            rented.feed.tell(Gone(STOPPED))
        await self._vendor.close()

    # --- Beyond the contract ---

    def suspect(self, instance: Instance) -> None:
        """A connection to it broke: look at the vendor now, not in a minute. Cheap, and may be said as often as one
        likes."""
        rented = self._rented.get(key_of(instance))
        if rented is not None:
            rented.suspected.set()
            rented.moved.set()  # and at the upstream itself

    def whereabouts(self, instance: Instance) -> tuple[str, Endpoint] | None:
        """Its vendor's id, and where it answers now: that is where leases go. None: nowhere, or its end is ordered."""
        rented = self._rented.get(key_of(instance))
        if rented is None or rented.endpoint is None or rented.ending is not None:
            return None
        return rented.id, rented.endpoint

    def doubt(self, name: str) -> None:
        """The ledger has this rental as begun, and nobody knows what came of it: no start before that is settled."""
        self._doubts.setdefault(name, self._loop.time())

    def heed(self, costs: Callable[[], bool]) -> None:
        """`costs`: whether something may cost money, by the ledger. Then the vendor is asked what runs with the short
        pauses of a stop, whatever trouble there is with it: after a restart nobody follows it yet."""
        self._costs = costs

    def _how(self, urgency: Urgency) -> Urgency:
        return Urgency.STOP if self._costs() else urgency

    # --- Starting ---

    async def _settle(self, journal: Journal) -> None:
        """What came of creates that were never answered. What exists is found by the look that every start begins
        with; what does not is written off."""
        for name, since in dict_of(self._doubts).items():
            if await self._came_of(name, since) is None:
                await self._void(journal, name, f"{self._vendor.title} has none of this name")
            self._doubts.pop(name, None)

    async def _came_of(self, name: str, since: float) -> Seen | None:
        """What was created under this name. None: nothing, which no single list can say."""
        empties, counted = 0, -math.inf
        while True:
            try:
                found = await self._vendor.all(self._how(Urgency.START))
            except VendorError:
                empties, counted = 0, -math.inf
                await asyncio.sleep(max(self._tempo.empty / 3, self._vendor.line.opens_in(self._how(Urgency.START))))
                continue
            for one in found:
                if one.name == name:
                    return one
            now = self._loop.time()
            if now - counted >= self._tempo.empty:
                empties, counted = empties + 1, now
            if empties >= EMPTIES and now - since >= self._tempo.lag:
                return None
            await asyncio.sleep(self._tempo.empty / 3)

    async def _running(self, journal: Journal) -> Sequence[Seen]:
        """What of ours costs money now. A list may be old: each is looked at by itself before it is believed."""
        running = []
        for listed in await self._vendor.all(self._how(Urgency.START)):
            if listed.phase.costs:
                seen = await self._still_running(listed)
                if seen is not None:
                    running.append(seen)
            elif listed.name and listed.phase is Phase.ASLEEP:
                self._sweep(
                    listed, journal
                )  # created by us, stopped by somebody: its disk costs, and nobody will resume it
        return running

    async def _still_running(self, listed: Seen) -> Seen | None:
        """The list says that it costs. That it does not any more has to be said twice."""
        for look in range(AGREED):
            if look:
                await asyncio.sleep(self._tempo.confirm)
            seen = await self._vendor.seen(listed.id, self._how(Urgency.START))
            if seen is not None and seen.phase.costs:
                return seen
        return None

    def _sweep(self, seen: Seen, journal: Journal, name: str = "") -> None:
        """End something of ours that nobody uses, and let nobody wait for it."""
        instance = self._instance(seen)
        instance = replace(instance, name=instance.name or name)
        rented = self._rented.setdefault(
            key_of(instance), Rented(instance, journal, self._loop.time(), id=seen.id, ordered=True)
        )
        self._ending(rented)

    async def _adopt(self, running: Sequence[Seen], intent: Intent, journal: Journal) -> Instance:
        """Take over what runs already, so that it is in the ledger; a second one is ended."""
        first, *others = sorted(running, key=lambda seen: (seen.phase is not Phase.UP, -(seen.started_at or 0.0)))
        for other in others:
            log.warning("%s runs beside %s, which is one too many: it is ended", other.id, first.id)
            self._alarm("orphan", f"{self._vendor.title}'s {other.id} ran beside another one of ours: it is ended.")
            await self._end_beside(other, intent, journal)
        instance = replace(self._instance(first), name=first.name or journal.next_name())
        if first.price is None:
            raise ProviderError(self._no_price(), lasting=True, instance=instance)
        rental = self._found(instance, first, first.price, intent)
        try:
            await journal.intend(rental)
            await journal.know(rental.name, first.id, first.price.amount, first.price.why)
        except ProviderError as error:
            error.instance = instance
            raise
        except OSError as error:
            raise ProviderError(NOT_WRITTEN, instance=instance, detail=str(error)) from error
        log.info("%s runs already (%s): it is taken over", first.id, first.status)
        instance = replace(instance, price=first.price.amount)
        return self._follow(Rented(instance, journal, self._loop.time(), id=first.id, adopted=True, price=first.price))

    async def _end_beside(self, other: Seen, intent: Intent, journal: Journal) -> None:
        """What it has cost, and costs until it has ended, is written down. It is ended also where that cannot be."""
        instance = replace(self._instance(other), name=other.name or journal.next_name())
        if other.price is not None:
            try:
                await journal.intend(self._found(instance, other, other.price, intent))
            except (ProviderError, OSError) as error:
                log.warning("what %s costs is not written down: %s", other.id, error)
        self._sweep(other, journal, instance.name)

    def _found(self, instance: Instance, seen: Seen, price: Price, intent: Intent) -> Rental:
        """Of something that runs already."""
        return Rental(
            instance.name,
            self.name,
            intent.upstream,
            intent.run,
            price.amount,
            seen.id,
            price.why,
            runs_since=instance.started_at,
        )

    async def _take_one(self, offers: Sequence[Offer], intent: Intent, journal: Journal) -> Instance:
        """The first offer that can be had. Each is written down before the vendor is asked for it."""
        refusal = ProviderError(f"There is nothing that could be started at {self._vendor.title}.", lasting=True)
        for offer in offers:
            if offer.price is None:
                refusal = ProviderError(self._no_price(), lasting=True)
                continue
            name = journal.next_name()
            price = offer.price
            rental = Rental(name, self.name, intent.upstream, intent.run, price.amount, offer.instance, price.why)
            try:
                await journal.intend(rental)
            except ProviderError as error:
                refusal = error  # no room in the budget for this one; a cheaper one may fit
                continue
            except OSError as error:
                raise ProviderError(NOT_WRITTEN, detail=str(error)) from error
            try:
                return await self._take(offer, price, name, journal)
            except VendorError as error:
                log.info("%s: %s cannot be had: %s", self.name, offer.label, error)
                refusal = self._refusal(error)
                if error.kind not in ("capacity", "unprocessable", "conflict"):
                    break
        raise refusal

    async def _take(self, offer: Offer, price: Price, name: str, journal: Journal) -> Instance:
        """Raises VendorError where nothing was begun, and ProviderError where something may have been."""
        begun = self._loop.time()
        instance = Instance(offer.instance or name, self.name, NOWHERE, self._now(), price.amount, name)
        rented = Rented(instance, journal, begun, id=offer.instance, price=price)
        try:
            taken = await self._vendor.take(offer, name)
        except VendorError as error:
            if not error.may_have_happened:
                await self._void(journal, name, str(error))
                raise
            log.warning("%s: whether %s was begun is not known: %s", self.name, offer.label, error)
            rented.unanswered = error.kind != "capacity"  # a refusal was an answer
            if offer.instance:
                if error.kind == "capacity":  # in a queue: its end is made sure of before anything else is tried
                    await self._end_the_queued(rented, error)
                    raise
                return self._follow(rented)  # its own status will tell
            found = await self._find(rented)
            if found is None:
                await self._void(journal, name, f"{self._vendor.title} has none of this name: {error}")
                raise
            taken = found
        except asyncio.CancelledError:
            rented.unanswered = True
            raise self._broken_off(rented) from None
        rented.id = taken.id
        rented.instance = replace(instance, id=taken.id)
        rented.price = price = taken.price or price
        try:
            await journal.know(name, taken.id, price.amount, price.why)
        except OSError as error:
            raise ProviderError(NOT_WRITTEN, instance=rented.instance, detail=str(error)) from error
        except asyncio.CancelledError:
            raise self._broken_off(rented) from None
        return self._follow(rented)

    async def _end_the_queued(self, rented: Rented, error: VendorError) -> None:
        """It may begin by itself later. Raises ProviderError, with it, when the vendor does not confirm its end."""
        self._rented[key_of(rented.instance)] = rented
        ending = self._ending(rented)
        try:
            done, _ = await asyncio.wait({ending}, timeout=self._tempo.alarm)
        except asyncio.CancelledError:
            raise self._broken_off(rented) from None
        if not done:
            refusal = self._refusal(error)
            refusal.instance = rented.instance
            raise refusal from error
        rented.feed.tell(Gone(NOT_STARTED, code="no_capacity"))

    async def _find(self, rented: Rented) -> Seen | None:
        """What came of a create that was not answered; callers wait as for any other start."""
        name = rented.instance.name
        self._doubts[name] = rented.begun
        try:
            found = await self._came_of(name, rented.begun)
        except asyncio.CancelledError:
            raise self._broken_off(rented) from None
        self._doubts.pop(name, None)
        return found

    def _broken_off(self, rented: Rented) -> ProviderError:
        """Cancelled in the middle: it may exist, so it is to be stopped. A stop finds it by its name."""
        self._rented[key_of(rented.instance)] = rented
        return ProviderError("The start was broken off.", instance=rented.instance)

    async def _void(self, journal: Journal, name: str, why: str) -> None:
        try:
            await journal.void(name, why)
        except OSError as error:  # it stays reserved, which is too much and never too little
            log.error("%s cost nothing, which could not be written down: %s", name, error)

    def _alarm(self, kind: str, text: str) -> None:
        now = self._loop.time()
        self._alarms = {one: at for one, at in self._alarms.items() if now - at < ALARM_AGAIN}
        if (kind, text) not in self._alarms:
            self._alarms[kind, text] = now
            self._tell_somebody(kind, text)

    def _no_price(self) -> str:
        return f"{self._vendor.title} says no price for it; HOURLY_PRICE can."

    def _refusal(self, error: VendorError) -> ProviderError:
        """A vendor's error, as callers may read it."""
        title = self._vendor.title
        reason, code, lasting = {
            "key": (f"{title} refuses the key of this gateway.", "provider_auth", True),
            "balance": (f"The account at {title} has no money left.", "provider_auth", True),
            "capacity": (f"{title} has no free machine of this kind right now.", "no_capacity", False),
            "not_found": (f"{title} does not know what is to be started.", "start_failed", True),
            "conflict": (f"{title} cannot start it in the state that it is in.", "start_failed", False),
            "locked": (f"It is locked at {title}, so it could not be stopped again.", "start_failed", True),
            "unprocessable": (f"{title} refuses what it was asked for; the log says more.", "start_failed", True),
            "limited": (f"{title} was asked too often; its pause is not over yet.", "start_failed", False),
        }.get(error.kind, (f"{title} does not answer as it should.", "start_failed", False))
        self._watch_the_key(error)
        return ProviderError(reason, lasting=lasting, code=code, detail=str(error))

    def _watch_the_key(self, error: VendorError) -> None:
        """A refused key is somebody's business at once, above all while something runs that it should stop."""
        if error.kind == "key":
            self._alarm("provider_auth", f"{self._vendor.title} refuses the key of this gateway.")

    # --- Watching ---

    def _instance(self, seen: Seen) -> Instance:
        for rented in self._rented.values():
            if rented.id == seen.id and rented.feed.gone is None:
                return rented.instance
        price = seen.price.amount if seen.price is not None else 0
        return Instance(seen.id, self.name, NOWHERE, seen.started_at or self._now(), price, seen.name)

    def _follow(self, rented: Rented) -> Instance:
        self._forget_the_gone()
        self._rented[key_of(rented.instance)] = rented
        rented.tasks = [
            self._spawn(self._keep_asking(rented), f"ask for {rented.instance.name}"),
            self._spawn(self._keep_looking(rented), f"look at {rented.instance.name}"),
        ]
        return rented.instance

    def _forget_the_gone(self) -> None:
        """The last few are kept for those who ask late."""
        gone = [key for key, rented in self._rented.items() if rented.feed.gone is not None]
        for key in gone[:-8]:
            del self._rented[key]

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> "asyncio.Task[None]":
        task = self._loop.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _keep_asking(self, rented: Rented) -> None:
        """The vendor's status, until it is over. No single answer says that."""
        agreed = 0
        while rented.ending is None:
            try:
                seen = await self._vendor.seen(rented.id, Urgency.LOOK)
                over = await self._is_over(rented, seen)
            except VendorError as error:
                log.debug("%s cannot be looked at: %s", rented.id, error)
                self._watch_the_key(error)
                await self._pause(rented, self._pace(rented))
                continue
            agreed = agreed + 1 if over else 0
            if agreed >= AGREED:
                await self._lost(rented, seen)
                return
            if seen is not None and seen.phase is Phase.USELESS:
                taken = seen.taken and rented.awake
                gone = Gone(seen.trouble, seen.lasting, detail=seen.status, code=seen.code, taken=taken)
                await self._give_up(rented, gone)
                return
            if seen is not None and not over:
                await self._note(rented, seen)
            await self._pause(rented, self._tempo.confirm if over else self._pace(rented))

    async def _is_over(self, rented: Rented, seen: Seen | None) -> bool:
        """What was said of it before its start may be said again for `lag`, also after what was said since then."""
        fresh = self._loop.time() - rented.begun < self._tempo.lag
        if seen is None:
            return not fresh and all(one.id != rented.id for one in await self._vendor.all(Urgency.LOOK))
        if seen.phase is Phase.OVER:
            return True
        return seen.phase is Phase.ASLEEP and (not fresh or rented.dark)

    def _pace(self, rented: Rented) -> float:
        if rented.served is not None:
            return self._tempo.ready
        young = self._loop.time() - rented.begun < self._tempo.eager
        return self._tempo.booting if young else self._tempo.patient

    async def _pause(self, rented: Rented, seconds: float) -> None:
        """At least `booting`, whoever suspects what; and not before the vendor's line opens."""
        await asyncio.sleep(max(self._tempo.booting, self._vendor.line.opens_in(Urgency.LOOK)))
        rest = seconds - self._tempo.booting
        if rest > 0 and not rented.suspected.is_set():
            try:
                async with asyncio.timeout(rest):
                    await rented.suspected.wait()
            except TimeoutError:
                pass
        rented.suspected.clear()

    async def _note(self, rented: Rented, seen: Seen) -> None:
        """What the vendor says of one that is not over."""
        rented.taken = seen.taken
        if seen.phase.costs:
            rented.awake = True
        if seen.price is not None and seen.price != rented.price and rented.journal is not None:
            rented.price = seen.price
            try:
                await rented.journal.know(rented.instance.name, seen.id, seen.price.amount, seen.price.why)
            except OSError as error:
                log.error("the price of %s could not be written down: %s", seen.id, error)
        self._place(rented, seen)
        if rented.served is None and rented.endpoint is None:
            rented.feed.tell(Loading("booting", detail=seen.detail))

    def _place(self, rented: Rented, seen: Seen) -> None:
        """Where it answers. An address from before our start is nobody's, or somebody else's: nothing is sent there."""
        endpoint = seen.endpoint if seen.phase is Phase.UP else None
        age = self._loop.time() - rented.begun
        if not rented.adopted and seen.up_for is not None and seen.up_for > age + self._tempo.lag:
            endpoint = None
        if endpoint != rented.endpoint and (endpoint is not None or rented.served is None):
            rented.endpoint = endpoint
            rented.moved.set()

    async def _keep_looking(self, rented: Rented) -> None:
        """The upstream itself, as soon as it has an address: first until it serves, then whether it still does."""
        moved_at: float | None = None
        while rented.ending is None:
            endpoint = rented.endpoint
            if endpoint is None:
                rented.moved.clear()
                await rented.moved.wait()
                continue
            news = await readiness(self._look, endpoint, self._tempo.look_within)
            if endpoint != rented.endpoint:
                continue  # it moved meanwhile: this says nothing of the new place
            now = self._loop.time()
            if isinstance(news, Loading) and rented.served is not None:
                moved_at = now if moved_at is None else moved_at
                if now - moved_at >= self._tempo.restart:
                    news = Gone(SILENT, code="backend_unavailable")
            if isinstance(news, Gone):
                await self._give_up(rented, news)
            elif isinstance(news, Loading):
                rented.feed.tell(news)
                await self._until_moved(rented, self._tempo.look)
            else:
                moved_at = None
                self._serves(rented, endpoint, news)
                await self._while_it_serves(rented, endpoint, has_health=news.has_health)

    def _serves(self, rented: Rented, endpoint: Endpoint, news: Serves) -> None:
        if news.models and not self._profile.models:
            self._profile = replace(self._profile, models=news.models)
        rented.served = endpoint
        rented.feed.tell(Ready(news.models, self._profile.concurrency, endpoint))

    async def _while_it_serves(self, rented: Rented, endpoint: Endpoint, *, has_health: bool) -> None:
        """Until it answers somewhere else, or for too long not at all."""
        misses, since = 0, 0.0
        while rented.ending is None:
            await self._until_moved(rented, self._tempo.look if misses else self._tempo.steady)
            if rented.endpoint != endpoint:
                return
            there = await is_there(self._look, endpoint, self._tempo.look_within, has_health=has_health)
            if rented.endpoint != endpoint:
                return
            if isinstance(there, Gone):
                await self._give_up(rented, there)
                return
            misses, since = (0, 0.0) if there else (misses + 1, since or self._loop.time())
            rented.dark = misses > 0
            if not misses:
                continue
            rented.suspected.set()
            if rented.taken and misses >= AGREED:
                await self._give_up(rented, Gone(TAKEN, taken=True))
                return
            if misses >= LOST_LOOKS and self._loop.time() - since >= self._tempo.silent:
                await self._give_up(rented, Gone(SILENT, code="backend_unavailable"))
                return

    async def _until_moved(self, rented: Rented, seconds: float) -> None:
        rented.moved.clear()
        try:
            async with asyncio.timeout(seconds):
                await rented.moved.wait()
        except TimeoutError:
            pass

    # --- Ending ---

    async def _lost(self, rented: Rented, seen: Seen | None) -> None:
        """The vendor said twice that it is over, and nobody had ordered it."""
        status = seen.status if seen is not None else "it is not there any more"
        reason = TAKEN if rented.awake else NOT_STARTED
        log.warning("%s: %s (%s)", rented.id, reason, status)
        await self._write_the_end(rented, f"{reason} {status}")
        self._finish(rented, Gone(reason, detail=status, taken=rented.awake))

    async def _give_up(self, rented: Rented, gone: Gone) -> None:
        """It costs and does not serve: it is ended now, and only then told of, so that nothing starts beside it."""
        log.warning("%s is given up: %s %s", rented.id, gone.reason, gone.detail)
        rented.last_word = gone
        await asyncio.wait({self._ending(rented)})

    def _finish(self, rented: Rented, gone: Gone) -> None:
        rented.feed.tell(gone)
        for task in rented.tasks:
            if task is not asyncio.current_task():
                task.cancel()

    def _ending(self, rented: Rented) -> "asyncio.Task[None]":
        """The one task that ends it, whoever asks and however often."""
        ending = rented.ending
        if ending is None or (ending.done() and (ending.cancelled() or ending.exception() is not None)):
            rented.ending = ending = self._spawn(self._end(rented), f"end {rented.instance.name or rented.id}")
            rented.moved.set()
            rented.suspected.set()
        return ending

    async def _end(self, rented: Rented) -> None:
        """Ask until the vendor's own status has said twice that it costs nothing, and says so of now: an order to end
        it was answered, and its start is not still under way."""
        begun, asked, tries, agreed, told, heard = self._loop.time(), -math.inf, 0, 0, False, False
        while agreed < AGREED:
            now = self._loop.time()
            if not told and now - begun >= self._tempo.alarm:
                told = True
                self._cannot_end(rented)
            try:
                if not rented.id:
                    if not await self._named(rented):
                        break
                    continue
                if not agreed and now - asked >= self._tempo.again:
                    asked, tries = now, tries + 1
                    await self._ask_to_end(rented, tries)
                    heard = True
                nothing, old = await self._costs_nothing(rented, tries), now - rented.begun >= self._tempo.lag
                agreed = agreed + 1 if nothing and (old or (heard and not rented.in_doubt)) else 0
            except VendorError as error:
                log.warning("the end of %s: %s", rented.id, error)
                self._watch_the_key(error)
            if agreed < AGREED:
                await asyncio.sleep(max(self._tempo.confirm, self._vendor.line.opens_in(Urgency.STOP)))
        await self._write_the_end(rented, f"{self._vendor.title} confirmed it")
        rented.feed.tell(rented.last_word or Gone(STOPPED))
        for task in rented.tasks:
            if task is not asyncio.current_task():
                task.cancel()

    async def _named(self, rented: Rented) -> bool:
        """Find what has our name, so that it can be ended by its id. False: there is none."""
        found = await self._came_of(rented.instance.name, rented.begun)
        self._doubts.pop(rented.instance.name, None)
        if found is None:
            return False
        rented.id = found.id
        return True

    async def _ask_to_end(self, rented: Rented, tries: int) -> None:
        try:
            await self._vendor.end(rented.id, tries)
        except VendorError as error:
            if error.kind == "locked":
                self._cannot_end(rented, error.detail)
            if error.kind not in ("conflict", "not_found", "locked"):
                raise
            # its status, and nothing else, says what that means

    async def _costs_nothing(self, rented: Rented, tries: int) -> bool:
        seen = await self._vendor.seen(rented.id, Urgency.STOP)
        if seen is None:
            return all(one.id != rented.id for one in await self._vendor.all(Urgency.STOP))
        rented.awake = rented.awake or seen.phase.costs
        if seen.phase is Phase.ASLEEP and seen.name:
            return tries >= EMPTIES  # created by us: it should be gone for good, for its disk costs too
        return not seen.phase.costs

    def _cannot_end(self, rented: Rented, detail: str = "") -> None:
        text = f"{self._vendor.title}'s {rented.id or rented.instance.name} does not stop, and costs money. {detail}"
        log.error("%s", text.strip())
        self._alarm("will_not_stop", text.strip())

    async def _write_the_end(self, rented: Rented, why: str) -> None:
        if rented.journal is None or not rented.instance.name:
            return
        try:
            await rented.journal.end(rented.instance.name, why)
        except OSError as error:  # it counts on, which is too much and never too little, until a look around ends it
            log.error("the end of %s could not be written down: %s", rented.instance.name, error)


def key_of(instance: Instance) -> str:
    return instance.name or instance.id


def dict_of(doubts: dict[str, float]) -> dict[str, float]:
    """A copy to walk over while it changes."""
    return dict(doubts)
