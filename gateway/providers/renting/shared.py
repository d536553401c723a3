"""One rented instance for several gateways: each has callers and an idle time of its own, one of them rents.

Towards its conductor this is a provider like any other. `start` says on the board that this replica wants the instance
and waits until there is one; `stop` takes that back. Whoever holds the seat (`seat.py`) starts one when somebody wants
it and ends it when nobody does, and tells the others how it goes on; nobody else asks the vendor for anything. A
replica that died wants nothing any more when its time is over, and a holder that died is followed by another, who finds
on the board what was begun, and at the vendor what came of it.

While the board cannot be reached nothing is started. What runs goes on serving: here as long as somebody here wants it
and the money can be accounted for (`Terms.blind`), elsewhere as long as this replica's want lasts on the board, because
after that the instance may be gone, and its address somebody else's.

What is written down is written by the holder's provider. So the conductor is given no journal: its "stopped" means that
this replica has let it go.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from dataclasses import replace
from typing import Any

from gateway.policy.backoff import pause
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
    Renter,
)
from gateway.providers.feed import Feed
from gateway.providers.renting.page import Ended, Life, Page, Want
from gateway.providers.renting.seat import Seat, ending

log = logging.getLogger(__name__)

PATIENCE = 10.0
"""Seconds without the board after which a start is refused."""
POLITE = 60.0
"""Seconds that one try of a stop is given."""
AGAIN, AGAIN_MOST = 2.0, 60.0
"""The pause after a try that failed, doubled each time."""
CLOSE_WITHIN = 5.0
KEPT = 8
"""Ends that are remembered for those who ask late."""

NO_BOARD = "The board that the gateways share (STATE_URL) does not answer; nothing is started until it does."
NOT_HERE = "Another of the gateways that share this looks after it."
NOT_CONFIRMED = "The stop is not confirmed yet; it is tried on."
LET_GO = "It was let go here; others may use it on."
STOPPED = "It was stopped."
OUT_OF_SIGHT = "The gateways' board was out of reach for too long to know that the instance is still ours."
UNSEEN = "It was stopped: what it costs could not be written down, since the gateways' board was out of reach."
NOT_CARRIED_OUT = "The start could not be carried out; the log of the gateway that tried says why."
FAULT = "The start failed by a fault of the gateway's own; the log of the one that tried says more."
UNWATCHED = "The gateway that watched it lost sight of it; its log says more."
GONE_MEANWHILE = "It ended while no gateway watched it."
ANOTHER_BEGAN_IT = "The gateway that began the start is gone; another one takes over."
REPLACED = "Another one runs in its place."


class Shared:
    """A Renter, made of one that is asked only by whoever decides.

    `make` makes that one: anew for each time that this replica comes to decide, so that nothing of an earlier time is
    left in it. Its calls go through `fenced(transport, seat)`. `complete` puts back into an endpoint what a board must
    not hold: the upstream's key.
    """

    def __init__(
        self, make: Callable[[], Renter], seat: Seat, *, complete: Callable[[Endpoint], Endpoint] = lambda place: place
    ) -> None:
        self._make = make
        self._inner = make()
        self._seat = seat
        self._complete = complete
        self._loop = asyncio.get_running_loop()
        self._journal: Journal | None = None
        self._lent: Journal | None = None
        self._feeds: dict[str, Feed] = {}
        """The news of what this replica had, by its id."""
        self._lives: dict[str, int] = {}
        """The life that each of these was."""
        self._have: tuple[int, Instance] | None = None
        """The life that this replica's conductor has in hand."""
        self._doubts: list[str] = []

        self._term = 0
        """In which we decide, or did until now. What follows is the holder's."""
        self._taken_over = False
        """What an earlier holder began is in our hands."""
        self._work: asyncio.Task[None] | None = None
        self._pump: asyncio.Task[None] | None = None
        self._outcome: Callable[[Page], Page] | None = None
        """What came of it, not written on the board yet."""
        self._news: Loading | Ready | None = None
        self._failures = 0
        """Of stops and of takings over, in a row."""
        self._again_at = -float("inf")
        self._stop_trouble: ProviderError | None = None
        self._price: int | None = None
        self._ends_for_all: tuple[float, str] | None = None
        self._suspects = 0
        self._unseen = False
        """It was ended while nobody could be told."""

        self._keeper: asyncio.Task[None] | None = None
        self._kick = asyncio.Event()
        self._begun = self._rounds = 0
        self._round_over: asyncio.Future[None] = self._loop.create_future()
        self._trouble: OSError | None = None
        self._closing = False

    def __repr__(self) -> str:
        page = self._seat.page
        return f"<Shared {self._inner.name} {self._seat!r}, life {page.number} {page.life!r}, wants {self._seat.want}>"

    # -- the contract ----------------------------------------------------------------------------

    @property
    def name(self) -> str:
        return self._inner.name

    @property
    def profile(self) -> Profile:
        return self._inner.profile

    async def start(self, intent: Intent, journal: Journal) -> Instance:
        """Want it, and wait until there is one: the one that runs already, or one that the holder starts."""
        if journal is self._journal:
            raise ValueError("a conductor that shares its instance writes nothing down itself: give it no journal")
        self._lent = journal
        try:
            return await self._wanted(intent)
        except asyncio.CancelledError:
            life = self._seat.want.life if self._seat.want is not None else 0
            self._want(None)
            await self._let_go(life, POLITE)
            raise
        except ProviderError:
            self._want(None)
            raise

    async def watch(self, instance: Instance) -> AsyncIterator[News]:
        feed = self._feeds.get(instance.id)
        if feed is None:
            yield Gone(STOPPED)
            return
        async for news in feed.read():
            yield news

    async def rest(self, instance: Instance) -> None:
        raise ProviderError("What several gateways share is not put to sleep by one of them.", lasting=True)

    async def wake(self, instance: Instance) -> None:
        raise ProviderError("What several gateways share does not sleep; there is nothing to wake.", lasting=True)

    async def stop(self, instance: Instance, *, within: float) -> None:
        """Want it no more. Returns when others do, or when it is confirmed that nothing of it exists any more."""
        feed = self._feeds.get(instance.id)
        if feed is not None and feed.gone is not None:
            return
        life = await self._life_of(instance)
        if life is None:
            await self._stop_a_stranger(instance, within)
            return
        if self._have is not None and self._have[0] == life:
            self._have = None
        self._want(None)
        others = await self._let_go(life, within)
        if feed is not None:
            feed.tell(Gone(LET_GO if others else STOPPED))

    async def list(self) -> list[Instance]:
        """Whoever decides asks the vendor. The others know what the board says."""
        await self._next_round()
        if self.decides:
            return await self._inner.list()
        page = self._seat.page
        if not page.holder or page.holder == self._seat.me or self._seat.blind_for:
            raise ProviderError("Which of the gateways decides is not settled yet.")
        instance = page.life.instance if page.life is not None else None
        return [self._completed(instance)] if instance is not None else []

    async def price(self) -> int | None:
        """As the holder hears it from the vendor."""
        await self._next_round()
        if not self.decides:
            return self._seat.page.price
        self._price = await self._inner.price()
        return self._price

    async def bills(self, begins: float, ends: float) -> Sequence[Bill] | None:
        await self._next_round()
        if not self.decides:
            raise ProviderError(NOT_HERE)
        return await self._inner.bills(begins, ends)

    async def storage(self) -> int | None:
        await self._next_round()
        return await self._inner.storage() if self.decides else None

    async def close(self) -> None:
        """Give the place to another replica. What nobody wants any more is ended first; what is wanted runs on."""
        if self._closing:
            return
        if self._keeper is not None:
            await self._finish_the_end()
        self._closing = True
        self._kick.set()
        tasks = [task for task in (self._keeper, self._work, self._pump) if task is not None and not task.done()]
        in_order = self._work is None or self._work.done()
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=POLITE)
        if not self._round_over.done():
            self._round_over.set_result(None)  # whoever waits for a look is told that there will be none
        if self._keeper is not None:
            await self._seat.leave(in_order=in_order)
        for feed in self._feeds.values():
            feed.tell(Gone(STOPPED))
        await self._inner.close()
        await self._seat.close()

    # -- beyond the contract ---------------------------------------------------------------------

    def begin(self, journal: Journal) -> None:
        """From now on it may decide, for others too: `journal` is where that is written down."""
        self._journal = journal
        self._go()

    @property
    def decides(self) -> bool:
        """Whether this replica looks after the money: reconciles, asks for bills, books."""
        return self._seat.decides and self._term == self._seat.page.term

    def cares_for(self, instance: Instance) -> bool:
        """Whether it is what the replicas share, here or elsewhere in use, and no orphan."""
        return self._is_shared(instance)

    @property
    def held(self) -> Instance | None:
        """What runs for all, where this replica looks after it: it alone sends leases to the worker in it, also while
        nobody here wants it."""
        life = self._seat.page.life
        return self._completed(life.instance) if self.decides and life is not None and life.instance else None

    def whereabouts(self, instance: Instance) -> tuple[str, Endpoint] | None:
        """The vendor's id of it and where it answers; None: not known, or another replica's business."""
        find = getattr(self._inner, "whereabouts", None)
        if find is None or not self.decides:
            return None
        found: tuple[str, Endpoint] | None = find(instance)
        return found

    def must_end(self, within: float, reason: str) -> None:
        """The instance may go on for only so long, whoever wants it: the budget, MAX_RUNTIME."""
        at = self._loop.time() + within
        if self._ends_for_all is None or at < self._ends_for_all[0]:
            self._ends_for_all = at, reason
        self._kick.set()

    def suspect(self, instance: Instance) -> None:
        """A connection to it broke. The holder looks at once."""
        self._seat.suspects += 1
        self._kick.set()

    def doubt(self, name: str) -> None:
        """The ledger has this rental as begun, and nobody knows what came of it."""
        self._doubts.append(name)
        self._pass_on_doubts()

    # -- wanting it ------------------------------------------------------------------------------

    def _want(self, want: Want | None) -> None:
        self._seat.want = want
        self._kick.set()

    async def _wanted(self, intent: Intent) -> Instance:
        page = await self._next_round()
        want = self._wanting(intent, page)
        while True:
            page = await self._next_round(hurry=False)
            ended, life = page.ended, page.life
            if ended is not None and ended.life == want.life and ended.how != "stopped":
                raise ProviderError(ended.reason, lasting=ended.lasting, code=ended.code, detail=ended.detail)
            if page.wanted_life != want.life:
                want = self._wanting(intent, page)
            elif life is not None and life.phase == "running" and life.instance is not None:
                return self._take_in_hand(page.number, self._completed(life.instance), life.news)

    def _wanting(self, intent: Intent, page: Page) -> Want:
        want = Want(intent.upstream, intent.run, page.wanted_life)
        self._want(want)
        return want

    def _take_in_hand(self, number: int, instance: Instance, news: Loading | Ready | None) -> Instance:
        feed = self._feeds[instance.id] = Feed()
        for old in [name for name, each in self._feeds.items() if each.gone is not None][:-KEPT]:
            del self._feeds[old], self._lives[old]
        self._have, self._lives[instance.id] = (number, instance), number
        if self._pump is not None:
            news = self._news
        if news is not None:
            feed.tell(self._completed_news(news))
        return instance

    async def _let_go(self, life: int, within: float) -> bool:
        """Until the instance of this life is others' alone (True) or nobody's (False). Raises ProviderError."""
        self._stop_trouble = None
        gives_up = self._loop.time() + within
        while True:
            try:
                page = await self._next_round(hurry=False, patience=max(0.0, gives_up - self._loop.time()))
            except ProviderError as error:
                if not self._seat.held and self._seat.blind_for >= self._seat.terms.interest:
                    return True  # what we wanted is forgotten by now
                raise ProviderError(NOT_CONFIRMED, detail=error.detail) from error
            if page.number > life or page.life is None:
                return False
            mine = page.replicas.get(self._seat.me)
            if page.life.phase != "stopping" and page.wants(life) and (mine is None or mine.want is None):
                return True
            if self._stop_trouble is not None:
                raise self._stop_trouble
            if self._loop.time() >= gives_up:
                raise ProviderError(NOT_CONFIRMED)

    async def _life_of(self, instance: Instance) -> int | None:
        """The life that this instance is of. None: it is none of ours."""
        if instance.id in self._feeds:
            return self._lives[instance.id]
        page = await self._next_round()
        return page.number if self._is_shared(instance) else None

    def _is_shared(self, instance: Instance) -> bool:
        life = self._seat.page.life
        if life is None or life.instance is None:
            return False
        return _same(life.instance, instance)

    async def _stop_a_stranger(self, instance: Instance, within: float) -> None:
        if not self.decides:
            raise ProviderError(NOT_HERE)
        with ending():
            await self._inner.stop(instance, within=within)

    # -- the keeper: a look at the board now and then, and what follows from it ----------------------

    def _go(self) -> None:
        if self._keeper is None and not self._closing:
            self._keeper = self._loop.create_task(self._keep(), name="share the instance")

    async def _next_round(self, *, hurry: bool = True, patience: float = PATIENCE) -> Page:
        """The board after a look that began after now. Raises ProviderError when it could not be seen for so long."""
        self._go()
        gives_up, wanted = self._loop.time() + patience, self._begun + 1
        if hurry:
            self._kick.set()
        while self._rounds < wanted or self._trouble is not None:
            if self._closing:
                raise ProviderError("This gateway is leaving.")
            if self._rounds >= wanted and self._loop.time() >= gives_up:
                raise ProviderError(NO_BOARD, detail=str(self._trouble))
            await asyncio.wait({self._round_over})
        return self._seat.page

    async def _keep(self) -> None:
        while True:
            self._kick.clear()
            self._begun += 1
            try:
                await self._round()
                self._trouble = None
            except OSError as error:
                if self._trouble is None:
                    log.warning("the board that the gateways share cannot be reached: %s", error)
                self._trouble = error
                self._out_of_touch()
            except Exception as error:  # whatever it is, the next look is made
                log.exception("a look at the board that the gateways share failed")
                self._trouble = OSError(repr(error))
            self._rounds += 1
            over, self._round_over = self._round_over, self._loop.create_future()
            over.set_result(None)
            await self._pause()

    async def _pause(self) -> None:
        """Until the next look; at once where something is to be told."""
        try:
            async with asyncio.timeout(self._seat.terms.look):
                await self._kick.wait()
        except TimeoutError:
            pass

    async def _round(self) -> None:
        page = await self._seat.look()
        if self._term and not (self._seat.held and page.term == self._term):
            await self._step_down()
        self._hear(page)
        if self._seat.decides:
            await self._decide(page)
            self._hear(self._seat.page)

    def _hear(self, page: Page) -> None:
        """What the board says of the instance that we have in hand."""
        if self._have is None:
            return
        number, instance = self._have
        life = page.life
        if page.number == number and life is not None and life.phase != "stopping":
            if self._pump is None and life.news is not None:
                self._feeds[instance.id].tell(self._completed_news(life.news))
            return
        ended = page.ended if page.ended is not None and page.ended.life == number else None
        self._lose(number, ended.gone() if ended is not None and ended.reason else Gone(OUT_OF_SIGHT, taken=True))

    def _lose(self, number: int, gone: Gone) -> None:
        """That life is nothing of ours any more."""
        if self._have is not None and self._have[0] == number:
            self._have = None
        if self._seat.want is not None and self._seat.want.life == number:
            self._seat.want = None
        for name, feed in self._feeds.items():
            if self._lives[name] == number:
                feed.tell(gone)

    def _out_of_touch(self) -> None:
        """The board was not seen for a while."""
        blind, terms = self._seat.blind_for, self._seat.terms
        if not self._seat.held:
            if blind >= terms.interest:
                for number in {*self._lives.values()}:
                    self._lose(number, Gone(OUT_OF_SIGHT, taken=True))
            return
        life = self._seat.page.life
        if life is None or life.instance is None or self._unseen or self._is_at_work():
            return
        if blind >= (terms.interest if self._seat.want is None else terms.blind):
            log.error(
                "%s runs, and the gateways' board is out of reach for %.0f s: it is stopped", life.instance, blind
            )
            self._set_to_work(self._stop_unseen(self._seat.page.number, life.instance))

    async def _stop_unseen(self, number: int, instance: Instance) -> None:
        if not await self._stopped(instance):
            return
        self._unseen = True
        ended = Ended(number, "gone", UNSEEN, taken=True)
        self._outcome = lambda page: page.over(ended) if page.number == number and page.life is not None else page
        self._lose(number, ended.gone())

    # -- deciding --------------------------------------------------------------------------------

    def _is_at_work(self) -> bool:
        return self._work is not None and not self._work.done()

    def _set_to_work(self, work: Coroutine[Any, Any, None]) -> None:
        self._work = self._loop.create_task(self._working(work), name="rent for all")

    async def _working(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        finally:
            self._kick.set()

    async def _step_down(self) -> None:
        """Another replica decides. Whatever is under way here would only be in its way; the fence lets none of it out,
        and the next time begins with a provider that remembers nothing."""
        log.warning("this replica decides no more: %r", self._seat)
        self._term = 0
        tasks = [task for task in (self._work, self._pump) if task is not None and not task.done()]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=1.0)
        self._work = self._pump = self._outcome = self._news = self._ends_for_all = None
        self._unseen, self._failures, self._again_at = False, 0, -float("inf")
        old, self._inner = self._inner, self._make()
        try:
            async with asyncio.timeout(CLOSE_WITHIN):
                await old.close()
        except TimeoutError:
            log.warning("%r does not close", old)

    async def _decide(self, page: Page) -> None:
        if self._term != page.term:
            self._term, self._taken_over = page.term, False
            self._pass_on_doubts()
        if self._outcome is not None:
            if await self._seat.decide(self._outcome):
                self._outcome = None
            page = self._seat.page
        silent = self._seat.sightings.silent(self._seat.terms.interest, self._seat.clock()) - {self._seat.me}
        if silent and await self._seat.decide(lambda page: page.without(silent)):
            log.warning("nothing was heard of %s for a while: they want nothing any more", ", ".join(sorted(silent)))
            page = self._seat.page
        if page.life is None:
            self._ends_for_all, self._unseen = None, False
        if self._is_at_work() or self._outcome is not None or self._loop.time() < self._again_at:
            await self._tell(page)
            return
        if not self._taken_over:
            self._take_over(page)
        elif page.life is None:
            await self._begin(page)
        elif page.life.phase == "starting":
            await self._seat.decide(lambda now: now.stopping(now.life.instance if now.life is not None else None))
        elif page.life.phase == "running":
            await self._go_on(page)
        else:
            self._set_to_work(self._end(page.number, page.life.instance))

    async def _tell(self, page: Page) -> None:
        """How it goes on, and the price."""
        life, news, price = page.life, self._news, self._price
        if life is not None and life.phase == "running" and news is not None and news != life.news:
            await self._seat.decide(
                lambda now: (
                    now.living(replace(now.life, news=news))
                    if now.number == page.number and now.life is not None and now.life.phase == "running"
                    else None
                )
            )
        if price is not None and price != page.price:
            await self._seat.decide(lambda now: replace(now, price=price))

    async def _begin(self, page: Page) -> None:
        await self._tell(page)
        if not page.wants(page.number):
            return
        journal, want = self._journal or self._lent, page.wants(page.number)[0]
        if journal is None:
            return  # nothing is begun that could not be written down: `begin` comes first
        begun = await self._seat.decide(
            lambda now: now.living(Life("starting")) if now.life is None and now.number == page.number else None
        )
        if begun:
            self._set_to_work(self._start(page.number, want, _Announcing(journal, self._seat, page.number)))

    async def _go_on(self, page: Page) -> None:
        """It runs: as long as somebody wants it, and it may."""
        life, number = page.life, page.number
        if life is None or life.instance is None:
            return
        instance = life.instance
        forced = self._ends_for_all is not None and self._loop.time() >= self._ends_for_all[0]
        if not forced and page.wants(number):
            await self._tell(page)
            self._pass_on_suspicions(page, instance)
            return
        reason = self._ends_for_all[1] if forced and self._ends_for_all is not None else ""
        ended = Ended(number, "stopped", reason, taken=True)

        def stopping(now: Page) -> Page | None:
            if now.number != number or (now.wants(number) and not forced):
                return None  # somebody came at the last moment, and keeps it
            return now.stopping(instance, ended if forced else None)

        if await self._seat.decide(stopping):
            self._set_to_work(self._end(number, instance))

    def _take_over(self, page: Page) -> None:
        """What an earlier holder began. The vendor's word, not the board's, says what came of it."""
        self._taken_over, life = True, page.life
        if life is None or life.phase == "stopping":
            self._kick.set()
        else:
            self._set_to_work(self._find(page.number, life, page.wants(page.number)))

    # -- work that takes time --------------------------------------------------------------------

    async def _start(self, number: int, want: Want, announced: "_Announcing") -> None:
        try:
            instance = await self._inner.start(Intent(want.upstream, want.run), announced)
        except ProviderError as error:
            self._failed(number, error.instance, _failure(number, error))
        except OSError as error:
            log.warning("the shared instance could not be started: %s", error)
            self._failed(number, announced.instance, Ended(number, "failed", NOT_CARRIED_OUT, detail=str(error)))
        except Exception as error:
            log.exception("the start of the shared instance failed")
            self._failed(number, announced.instance, Ended(number, "failed", FAULT, detail=repr(error)))
        else:
            self._runs(number, instance)

    def _runs(self, number: int, instance: Instance, life: Life | None = None) -> None:
        """`life`: as it was so far. Where something else runs, that life is over, and a new one began."""
        replaced = life is not None and life.instance is not None and not _same(life.instance, instance)
        now = number + 1 if replaced else number
        news = life.news if life is not None and not replaced else None
        self._news, self._failures = news, 0
        self._pump = self._loop.create_task(self._watch(now, instance), name=f"watch {instance.id} for all")

        def run(page: Page) -> Page:
            if page.number != number:
                return page
            over = page.over(Ended(number, "gone", REPLACED, taken=True)) if replaced else page
            return over.living(Life("running", instance, news))

        self._outcome = run

    def _failed(self, number: int, left: Instance | None, ended: Ended) -> None:
        def fail(page: Page) -> Page:
            if page.number != number:
                return page
            failed = replace(page, ended=ended)
            return failed.over(ended) if left is None else failed.stopping(left, ended)

        self._outcome = fail

    async def _watch(self, number: int, instance: Instance) -> None:
        """What happens to it, for all."""
        detail = "the news ended without an end"
        served = isinstance(self._news, Ready)
        try:
            async for news in self._inner.watch(instance):
                if isinstance(news, Gone):
                    self._is_gone(number, news)
                    return
                if isinstance(news, Loading) and served:
                    continue  # it serves, as its last holder saw; this one has yet to look
                served = False
                if isinstance(news, Loading | Ready):
                    self._news = news
                    if self._have is not None and self._have[0] == number:
                        self._feeds[self._have[1].id].tell(news)
                    if isinstance(news, Ready):
                        self._kick.set()
        except Exception as error:  # nobody may wait for news that will not come
            log.exception("the news of %s broke off", instance.id)
            detail = repr(error)
        self._failed(number, instance, Ended(number, "failed", UNWATCHED, detail=detail))
        self._kick.set()

    def _is_gone(self, number: int, gone: Gone) -> None:
        ended = Ended(
            number,
            "gone",
            gone.reason,
            lasting=gone.lasting,
            code=gone.code,
            detail=gone.detail,
            taken=gone.taken,
        )
        self._pump = None
        self._lose(number, gone)
        self._outcome = lambda page: page.over(ended) if page.number == number and page.life is not None else page
        self._kick.set()

    async def _end(self, number: int, instance: Instance | None) -> None:
        """Until the vendor has confirmed it; then the life is over."""
        if instance is not None and not await self._stopped(self._completed(instance)):
            return
        ended = Ended(number, "stopped")
        self._outcome = lambda page: page.over(ended) if page.number == number and page.life is not None else page

    async def _stopped(self, instance: Instance) -> bool:
        try:
            with ending():
                await self._inner.stop(instance, within=POLITE)
        except ProviderError as error:
            self._stop_trouble = ProviderError(error.reason, instance=instance, detail=error.detail)
            self._try_again_later()
            log.warning("the stop of %s, which several gateways shared, is not confirmed: %s", instance.id, error)
            return False
        except Exception as error:
            self._stop_trouble = ProviderError(NOT_CONFIRMED, instance=instance, detail=repr(error))
            self._try_again_later()
            log.exception("the stop of %s, which several gateways shared, failed", instance.id)
            return False
        self._failures = 0
        if self._pump is not None:
            self._pump.cancel()
            self._pump = None
        journal = self._journal or self._lent
        if instance.name and journal is not None:
            try:
                await journal.end(instance.name, "nobody wanted it any more")
            except OSError as error:  # it counts on, which is too much and never too little
                log.warning("the end of %s could not be written down: %s", instance.name, error)
        return True

    def _try_again_later(self) -> None:
        self._again_at = self._loop.time() + pause(self._failures, first=AGAIN, most=AGAIN_MOST)
        self._failures += 1

    async def _find(self, number: int, life: Life, wants: Sequence[Want]) -> None:
        """A life that an earlier holder began or watched."""
        try:
            found = await self._inner.list()
        except ProviderError as error:
            self._take_over_later(error)
            return
        known = life.instance
        there = known is not None and any(_same(known, one) for one in found)
        if there and wants:
            await self._adopt(number, life, wants[0])
        else:  # one list says nothing for sure: its end is confirmed as any end is
            reason = GONE_MEANWHILE if life.phase == "running" else ANOTHER_BEGAN_IT
            self._failed(number, known, Ended(number, "gone", reason, taken=True))

    async def _adopt(self, number: int, life: Life, want: Want) -> None:
        """A start looks first, and takes over what runs."""
        journal = self._journal or self._lent
        if journal is None:
            self._take_over_later(OSError("there is no journal yet"))
            return
        announced = _Announcing(journal, self._seat, number)
        try:
            instance = await self._inner.start(Intent(want.upstream, want.run), announced)
        except ProviderError as error:
            if error.instance is None:
                self._take_over_later(error)
            else:
                self._failed(number, error.instance, _failure(number, error))
        except OSError as error:
            self._take_over_later(error)
        else:
            self._runs(number, instance, life)

    def _take_over_later(self, error: Exception) -> None:
        """It runs on meanwhile, and whoever uses it does."""
        log.warning("what an earlier holder began cannot be taken over yet: %r", error)
        self._taken_over = False
        self._try_again_later()

    def _pass_on_doubts(self) -> None:
        doubt = getattr(self._inner, "doubt", None)
        if doubt is not None and self.decides:
            for name in self._doubts:
                doubt(name)
            self._doubts.clear()

    def _pass_on_suspicions(self, page: Page, instance: Instance) -> None:
        suspects = sum(replica.suspects for replica in page.replicas.values())
        suspect = getattr(self._inner, "suspect", None)
        if suspect is not None and suspects > self._suspects:
            suspect(instance)
        self._suspects = suspects

    async def _finish_the_end(self) -> None:
        """Before this replica leaves: what nobody wants is ended by whoever decides, and nobody else may be left to."""
        gives_up = self._loop.time() + POLITE / 2
        try:
            page = await self._next_round(patience=0.0)
            while self._seat.held and page.life is not None and not page.wants(page.number):
                if self._loop.time() >= gives_up:
                    log.error("%r is not ended yet, and this gateway leaves", page.life)
                    return
                page = await self._next_round(hurry=False, patience=0.0)
        except ProviderError:
            return  # nobody can be told anything

    # -- small things ----------------------------------------------------------------------------

    def _completed(self, instance: Instance) -> Instance:
        return replace(instance, endpoint=self._complete(instance.endpoint))

    def _completed_news(self, news: Loading | Ready) -> Loading | Ready:
        if isinstance(news, Ready) and news.endpoint is not None:
            return replace(news, endpoint=self._complete(news.endpoint))
        return news


class _Announcing:
    """A journal that tells the board of a rental before anybody else hears of it: whoever follows finds it by that."""

    def __init__(self, journal: Journal, seat: Seat, number: int) -> None:
        self._journal = journal
        self._seat = seat
        self._number = number
        self.instance: Instance | None = None

    async def open(self) -> None:
        await self._journal.open()

    def next_name(self) -> str:
        return self._journal.next_name()

    async def intend(self, rental: Rental) -> None:
        announced = Instance(
            rental.instance or rental.name, rental.provider, Endpoint(""), 0.0, rental.price, rental.name
        )
        told = await self._seat.decide(
            lambda page: (
                page.living(replace(page.life, instance=announced))
                if page.number == self._number and page.life is not None
                else None
            )
        )
        if not told:
            raise ProviderError(NOT_HERE)
        self.instance = announced
        await self._journal.intend(rental)

    async def know(self, name: str, instance: str, price: int, why: str = "") -> None:
        await self._journal.know(name, instance, price, why)

    async def void(self, name: str, why: str) -> None:
        await self._journal.void(name, why)

    async def end(self, name: str, why: str) -> None:
        await self._journal.end(name, why)


def _failure(number: int, error: ProviderError) -> Ended:
    return Ended(number, "failed", error.reason, error.lasting, error.code, error.detail)


def _same(one: Instance, other: Instance) -> bool:
    """By the vendor's id or by our name, as far as both are known."""
    return bool({one.id, one.name} & {other.id, other.name} - {""})
