"""One replica's seat at the board: it beats, sees who else is there, takes the holder's place when that is free, and
looks again before each call to a vendor.

No vendor has a fence: a call that was sent is carried out, however late, whoever holds the lease by then. So the
promise is made of four things. Who decides looks at the board before each call, and makes none that could outlast its
lease. A lease is over for its holder before it is over for anybody else: it counts from before the beat was sent, the
others from when they saw it. Whoever takes a place that was not handed over waits for the longest call, too. And every
clock in this is one that only counts, on the machine that reads it.
"""

import asyncio
import contextvars
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from gateway.providers.renting.page import Page, PageError, Sightings, Terms, Want
from gateway.providers.renting.vendor import Answer, Transport, Unanswered

log = logging.getLogger(__name__)

TRIES = 50
"""To write, while others do. Each time somebody's counts."""
NOT_OURS = "another replica decides now"

_ending: contextvars.ContextVar[bool] = contextvars.ContextVar("ending", default=False)


class Board(Protocol):
    """gateway/records/board: one text, changed by one at a time. Both raise OSError."""

    async def read(self) -> tuple[str, str]:
        """Its version and the text, both empty before anybody wrote."""

    async def write(self, text: str, version: str) -> bool:
        """False: somebody wrote since that version."""

    async def close(self) -> None: ...


def since_boot() -> float:
    """Seconds that also go by while the machine sleeps, where it can tell (Linux)."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


@contextmanager
def ending() -> Iterator[None]:
    """What is asked of the vendor in here, and by tasks begun in here, ends something that costs money."""
    token = _ending.set(True)
    try:
        yield
    finally:
        _ending.reset(token)


class Seat:
    """`me`: a name that nobody else has or ever had, also not this gateway before its restart. `clock`: one that only
    counts; the loop's where there is none. Used by one event loop."""

    def __init__(
        self, board: Board, *, me: str, terms: Terms | None = None, clock: Callable[[], float] | None = None
    ) -> None:
        self._board = board
        self.me = me
        self.terms = terms or Terms()
        self.clock = clock or asyncio.get_running_loop().time
        self.page = Page()
        """As it was seen last."""
        self._version = ""
        """Of the text that was read last. After a write of ours it is another, which nobody told us."""
        self.want: Want | None = None
        """What the next beat says that this replica wants."""
        self.suspects = 0
        self.sightings = Sightings()
        self._one = asyncio.Lock()
        self._term = 0
        """The one in which we decided last."""
        self._valid_until = self._settled_at = self._beaten_at = -float("inf")
        self._seen_at = self.clock()
        self._reached = False

    def __repr__(self) -> str:
        role = "decides" if self.decides else "holds" if self.holds else "looks on"
        away = "" if self._reached else f", cannot reach the board for {self.blind_for:.0f} s"
        return f"<Seat {self.me} {role}{away}, term {self.page.term} of {self.page.holder or 'nobody'}>"

    @property
    def held(self) -> bool:
        """The place was ours when the board was seen last, whatever has happened since."""
        return self.page.holder == self.me and self.page.term == self._term

    @property
    def holds(self) -> bool:
        return self.held and self.clock() < self._valid_until

    @property
    def decides(self) -> bool:
        """It holds the place, and no call of an earlier holder can be under way."""
        return self.holds and self.clock() >= self._settled_at

    @property
    def blind_for(self) -> float:
        """Seconds since the board was seen last; 0 when the last look succeeded."""
        return 0.0 if self._reached else self.clock() - self._seen_at

    # -- the board -------------------------------------------------------------------------------

    async def look(self) -> Page:
        """What stands there; a beat, where one is due or something of ours is to be told; the place, where it is free.
        Raises OSError."""
        page, version = await self._read()
        if page.holder == self.me and page.term != self._term:
            self._took(page, waits=self.terms.call)  # the answer was lost when we took it
        if self._is_free(page):
            return await self._take(page, version)
        mine = page.replicas.get(self.me)
        told = mine is not None and (mine.want, mine.suspects) == (self.want, self.suspects)
        if told and self.clock() < self._beaten_at + self.terms.beat:
            return page
        return await self.change(lambda page: page)

    async def change(self, edit: Callable[[Page], Page | None]) -> Page:
        """Write what `edit` makes of the page, with a beat of ours, and return it. None: nothing is to be written, and
        the page is as it is. `edit` is asked again where somebody else wrote meanwhile. Raises OSError."""
        for _ in range(TRIES):
            page, version = await self._read()
            edited = edit(page)
            if edited is None:
                return page
            if await self._write(edited, version):
                return self.page
        raise OSError(f"{TRIES} others wrote to the board at the same moment")

    async def decide(self, edit: Callable[[Page], Page | None]) -> bool:
        """As `change`, by who decides. False: it does not any more, or `edit` made nothing of it. Raises OSError."""
        done = False

        def edit_as_holder(page: Page) -> Page | None:
            nonlocal done
            edited = edit(page) if page.holder == self.me and page.term == self._term else None
            done = edited is not None
            return edited

        await self.change(edit_as_holder)
        return done and self.holds

    async def leave(self, *, in_order: bool) -> None:
        """Give the place back. A want stays there, for a successor, as long as any want of somebody who is silent."""
        try:
            page, version = await self._read()
            await self._put(page.left_by(self.me, wanting=self.want is not None, in_order=in_order), version)
        except OSError as error:
            log.warning("the board could not be told that this replica leaves: %s", error)
        self._valid_until = -float("inf")

    async def close(self) -> None:
        await self._board.close()

    async def _read(self) -> tuple[Page, str]:
        try:
            async with self._one:
                version, text = await self._board.read()
            page = self.page if version and version == self._version else Page.read(text)
            self._version = version
        except PageError as error:
            self._reached = False
            raise OSError(f"the replicas' board holds something else: {error}") from error
        except OSError:
            self._reached = False
            raise
        self._saw(page)
        return page, version

    def _saw(self, page: Page) -> None:
        now = self.clock()
        if now - self._seen_at > 2 * self.terms.beat:
            self.sightings = Sightings()  # nobody was silent while we did not look
        self._reached, self._seen_at, self.page = True, now, page
        self.sightings.see(page, now)

    async def _write(self, page: Page, version: str) -> bool:
        page = page.beaten(self.me, self.want, self.suspects)
        sent = self.clock()
        if not await self._put(page, version):
            return False
        self._beaten_at = sent
        if page.holder == self.me:
            self._valid_until = sent + self.terms.lease
        self._saw(page)
        return True

    async def _put(self, page: Page, version: str) -> bool:
        self._version = ""
        try:
            async with self._one:
                return await self._board.write(page.text(), version)
        except OSError:
            self._reached = False
            raise

    # -- the holder's place ----------------------------------------------------------------------

    def _is_free(self, page: Page) -> bool:
        if page.holder == self.me:
            return False
        if page.handed_over and not page.holder:
            return True
        return self.sightings.holder_silent(self.clock()) >= self.terms.lease

    async def _take(self, page: Page, version: str) -> Page:
        """Only from the very page on which it was free."""
        if not await self._write(page.taken_by(self.me), version):
            return page
        self._took(self.page, waits=0.0 if page.handed_over else self.terms.call)
        return self.page

    def _took(self, page: Page, waits: float) -> None:
        self._term, self._settled_at = page.term, self.clock() + waits
        log.info("this replica (%s) decides from now on, in %.0f s: term %d", self.me, waits, page.term)

    async def look_again(self, within: float) -> None:
        """Before a call that takes so long. Raises Unanswered: it must not be made.

        While the board cannot be reached it may be made as long as the lease is sure to outlast it, and to end
        something also later: nobody else could be told to.
        """
        try:
            page = await self.change(lambda page: page if page.holder == self.me else None)
        except OSError as error:
            if self.held and (_ending.get() or self.clock() + within < self._valid_until):
                return
            raise Unanswered(f"the replicas' board does not answer: {error}", may_have_happened=False) from error
        if page.holder != self.me or page.term != self._term or self.clock() + within >= self._valid_until:
            raise Unanswered(NOT_OURS, may_have_happened=False)


def fenced(transport: Transport, seat: Seat) -> Transport:
    """Asks a vendor only as long as this replica decides, and gives no call longer than the lease allows for."""

    async def ask(method: str, path: str, body: bytes | None, within: float) -> Answer:
        within = min(within, seat.terms.call)
        await seat.look_again(within)
        try:
            async with asyncio.timeout(within + 1.0):  # whatever the transport thinks of `within`
                return await transport(method, path, body, within)
        except TimeoutError:
            raise Unanswered(f"no answer within {within:g} s", may_have_happened=True) from None

    return ask
