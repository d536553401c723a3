"""Who pays: the journal that providers write to before they rent, the gate that callers meet when the budget is spent.

It holds one ledger's books for one upstream. What may be started, and when what runs must end, is decided by
policy/budget.py from the books; here is the clock, the writing down, and the looking again: what the vendor says that
runs is compared with what the books say, before the first start and every few minutes.

Fail-closed: what cannot be written down is not started; what cannot be compared is not started; what runs while nothing
can be written down is ended after `Tempo.unwritten_most`. What is written is never taken back but by the vendor's own
word.

One task does all that takes time, and sleeps until the next thing is due (`_next_due`): there is nothing to be counted
second by second, since the books know what something that runs has cost at any moment.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

from gateway.conductor import Conductor
from gateway.policy import budget
from gateway.policy.books import HOUR, Books, Entry, Rented, dollars, month_begins, month_of, span
from gateway.policy.budget import Fits, Spent, Standing, Terms
from gateway.policy.ledger_clock import LedgerClock
from gateway.policy.lifecycle.machine import TurnedAway
from gateway.policy.lifecycle.states import State
from gateway.policy.settlement import corrections, rebuilt
from gateway.providers.base import Endpoint, Instance, ProviderError, Rental, Renter
from gateway.records.ledger.base import Ledger, LedgerDamaged, LedgerTaken

log = logging.getLogger(__name__)

NOT_OPEN = "What was rented before is not known yet, so nothing is started; the gateway's log says why."
UNWRITTEN = "What is rented cannot be written down any more; the gateway's log says why."
RAN_LONG = "What is rented has run for MAX_RUNTIME and was stopped; ask again, and it is started again."
NOT_OVER = "What was rented before is not known to have ended, so nothing is started beside it."
CANNOT_WRITE = "the ledger cannot be written"
BEGINS = "the ledger begins"
NOWHERE = Endpoint("")
DOWN = (State.STOPPED, State.FAILED)

DEEDS = {
    "open": "reading the ledger",
    "reread": "reading the ledger again",
    "follow": "reading what other gateways wrote",
    "uncounted": "ending what cannot be counted",
    "rebuild": "asking the vendor what runs, before the first start,",
    "reconcile": "asking the vendor what runs",
    "book": "writing down what it costs",
    "storage": "asking the vendor what is stored",
    "bills": "asking the vendor for its bills",
    "warn": "writing down a warning",
}
"""What is done when it is due, as the log says it."""
RECENT = 46 * HOUR
"""Milliseconds. Of so much vendors bill by the hour (providers/runpod_pod, BY_THE_HOUR); of more, by the day."""
LOOKS_A_DAY = 24
"""At the bills."""

EMPTY_LOOKS = 2
"""Looks in a row in which the vendor does not know something as running until it is believed to have ended."""
EMPTY_LOOKS_UNKNOWN = 3
"""The same for what was asked for and never answered: a list may be a minute old."""


@dataclass(frozen=True, slots=True)
class Tempo:
    """Seconds."""

    book: float = 300.0
    """Between two lines that book what something open has cost: what a clock may take back at most."""
    reconcile: float = 300.0
    bills: float = 3600.0
    storage: float = 21600.0
    again: float = 10.0
    """After something that failed, growing to `again_most`."""
    again_most: float = 300.0
    empty: float = 15.0
    """Between two looks that must agree."""
    unknown: float = 60.0
    """What was just created may not be in a list for so long."""
    open_within: float = 60.0
    """What a start waits for the ledger and the vendor before it is told that nothing can be started."""
    follow: float = 5.0
    """Between two readings of a ledger that another gateway writes."""
    unwritten_most: float = 300.0
    """What runs while nothing can be written down is ended after this."""
    stop_within: float = 20.0
    """What the stop of something that nobody here uses may take, until it is looked at again."""


@dataclass(frozen=True, slots=True)
class Clocks:
    """The calendar's (Unix seconds), and one that only counts, also while this machine sleeps."""

    wall: Callable[[], float]
    steady: Callable[[], float]


@dataclass(slots=True)
class _Absence:
    looks: int
    last: float


Alarm = Callable[[str, str, str], None]
"""Told what somebody should know at once: (event, sentence, what it is about)."""


def _nobody(*_: object) -> None:
    """Whom nobody told to tell."""


class Treasury:
    """The journal, the gate, and the task that looks again. `attach` the conductor, then `begin`."""

    def __init__(
        self,
        ledger: Callable[[], Awaitable[Ledger]],
        provider: Renter,
        terms: Terms,
        *,
        prefix: str,
        clocks: Clocks,
        max_runtime: float,
        hourly_price: int | None = None,
        elsewhere: Callable[[], int] = lambda: 0,
        alarm: Alarm = _nobody,
        say: Callable[[str, str], None] = _nobody,
        tempo: Tempo | None = None,
    ) -> None:
        """`ledger`: opens it, each time anew. `prefix`: what every name of ours begins with. `elsewhere`: micro-dollars
        that this month has cost that are not in this ledger (the fallback). `max_runtime`: seconds."""
        self._open_ledger = ledger
        self._ledger: Ledger | None = None
        self._provider = provider
        self._terms = terms
        self._prefix = prefix
        self._clocks = clocks
        self._max_runtime = max_runtime
        self._price = hourly_price
        """Of the next start, as far as it is known: the gate goes by it."""
        self._elsewhere = elsewhere
        self._alarm = alarm
        self._say = say
        self._tempo = tempo or Tempo()
        self._loop = asyncio.get_running_loop()
        self.books = Books()
        self._begun = False
        """Whether this ledger knows what the vendor's bills said when it was made."""
        self._clock: LedgerClock | None = None
        self._conductor: Conductor | None = None
        self._writing = asyncio.Lock()
        self._settled = asyncio.Event()
        """The books are read, and have been compared with what the vendor says, once."""
        self._looked = asyncio.Event()
        """The vendor was asked what runs, well or in vain."""
        self._wake = asyncio.Event()
        self._trouble: ProviderError | OSError | None = None
        """Why it is not settled, or could not look again."""
        self._unwritten_since: float | None = None
        self._names = 0
        self._aliases: dict[str, str] = {}
        """What a provider calls a rental that the books know by another name already: it runs on."""
        self._to_end: dict[str, str] = {}
        """Of what has ended, for certain, and could not be written down yet. Nothing is started before it is."""
        self._absences: dict[str, _Absence] = {}
        self._beside: dict[str, float] = {}
        """What runs beside what the conductor has in hand, by id, and the loop time at which it was seen first."""
        self._closed: TurnedAway | None = None
        self._spent: Spent | None = None
        """Why it is closed, with figures."""
        self._gate_due = float("inf")
        self._ended_run = 0
        self._ended_for_all = ""
        """The rental that was told to end for all gateways that share it."""
        self._decided = True
        """Whether we looked after what is rented when we looked last."""
        self._corrected = 0
        """Times that the vendor's bills were looked through."""
        self._due: dict[str, float] = {}
        self._fails: dict[str, int] = {}
        heed = getattr(provider, "heed", None)
        if heed is not None:
            heed(lambda: bool(self.books.open))
        self._task: asyncio.Task[None] | None = None
        self._began = self._loop.time()

    def __repr__(self) -> str:
        settled = "settled" if self._settled.is_set() else f"not settled ({self._trouble})"
        return f"<Treasury {settled}, {self.books!r}>"

    # -- wiring ----------------------------------------------------------------------------------

    def attach(self, conductor: Conductor) -> None:
        self._conductor = conductor

    def begin(self) -> None:
        """From now on it looks. Callers are held meanwhile, and nothing is started before it is settled."""
        self._began = self._loop.time()
        self._task = self._loop.create_task(self._run(), name="treasury")

    async def close(self) -> None:
        """Look no more. Books what is open, so that a successor begins from here."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
        if self._ledger is not None:
            for rented in self.books.open:
                try:
                    await self._write(_booking, rented.name)
                except OSError as error:
                    log.warning("what %s has cost could not be booked: %s", rented.name, error)
            await self._ledger.close()

    # -- the gate --------------------------------------------------------------------------------

    def gate(self) -> TurnedAway | None:
        """Why nobody is let in now. Asked with each request: it is decided when something changes, not here."""
        if self._loop.time() >= self._gate_due:
            self._judge()
        return self._closed

    @property
    def at(self) -> int:
        """The ledger's time. Unix milliseconds."""
        if self._clock is None:
            return round(self._clocks.wall() * 1000)
        wall, steady = round(self._clocks.wall() * 1000), round(self._clocks.steady() * 1000)
        return self._clock.read(wall, steady, self.books.latest)

    @property
    def terms(self) -> Terms:
        """With what was spent elsewhere taken off the budget."""
        monthly = self._terms.monthly
        return self._terms if monthly is None else replace(self._terms, monthly=max(0, monthly - self._elsewhere()))

    def standing(self) -> Standing:
        return budget.standing(self.books, self.terms, self.at)

    @property
    def ends_in(self) -> float | None:
        """Seconds until what runs must have ended, its grace included; None: no end is in sight."""
        ends = self._ends()
        return None if ends is None else max(0.0, (ends + self._terms.grace - self.at) / 1000)

    @property
    def trouble(self) -> str:
        """Why nothing could be started, as things are; empty: nothing speaks against it."""
        if self._unwritten_since is not None:
            return CANNOT_WRITE
        if not self._decides and self._ledger is not None:
            return ""
        return "" if self._settled.is_set() else str(self._trouble or "the vendor is being asked what runs")

    @property
    def _decides(self) -> bool:
        """Of several gateways that share what is rented, one looks after it (providers/renting/shared.py)."""
        return bool(getattr(self._provider, "decides", True))

    def cost_of(self, name: str) -> int:
        """Micro-dollars that this rental has cost by now."""
        rented = self.books.rentals.get(self._aliases.get(name, name))
        return 0 if rented is None else self.books.cost(rented, self.at)

    def _judge(self) -> None:
        """Whether the gate is open, and until when that holds."""
        at, terms = self.at, self.terms
        runs = bool(self.books.open)
        spent: Spent | None = budget.reached(self.books, terms, at)
        if spent is None and not runs and terms.monthly is not None:
            verdict = budget.judge(self.books, terms, self._price, at) if self._price else None
            if isinstance(verdict, Spent) or (
                self.books.spent(month_of(at), at) >= terms.monthly
                and isinstance(verdict := budget.judge(self.books, terms, 1, at), Spent)
            ):
                spent = verdict if self._price else replace(verdict, needed=0)  # what one needs is not known yet
        self._closed = TurnedAway("insufficient_quota", spent.reason, None) if spent else None
        self._spent = spent
        ends = budget.ends_at(self.books, terms, at)
        seconds = 60.0 if ends is None or self._closed is not None else min(60.0, max(0.0, (ends - at) / 1000))
        self._gate_due = self._loop.time() + max(seconds, 0.05)

    # -- the journal -----------------------------------------------------------------------------

    async def open(self) -> None:
        """Raises ProviderError, also where the budget has no room by now (the vendor need not be asked to find that
        out), or OSError."""
        await self._opened()
        if self.gate() is not None and self._spent is not None and not self.books.open:
            spent = self._spent
            raise ProviderError(spent.reason, lasting=True, code="insufficient_quota", detail=spent.detail)

    async def _opened(self) -> None:
        if self._settled.is_set():
            return
        self._hurry()
        try:
            async with asyncio.timeout(self._tempo.open_within):
                await self._settled_or_refused()
        except TimeoutError:
            if isinstance(self._trouble, ProviderError):
                raise self._trouble from None
            raise OSError(str(self._trouble or NOT_OPEN)) from None

    async def _settled_or_refused(self) -> None:
        """Waits for the first comparison with the vendor. Raises ProviderError as soon as one has failed in a way that
        waiting does not mend: a refused key keeps nobody for a minute."""
        while not self._settled.is_set():
            if isinstance(self._trouble, ProviderError) and self._trouble.lasting:
                raise self._trouble
            self._looked.clear()
            await self._looked.wait()

    def next_name(self) -> str:
        """By the clock, so that none comes twice, also when the ledger is lost."""
        self._names = max(self._names + 1, round(self._clocks.wall() * 1000))
        return f"{self._prefix}{_base36(self._names)}"

    async def intend(self, rental: Rental) -> None:
        await self._opened()  # what runs already is written down also where there is no room for it
        for name, why in tuple(self._to_end.items()):
            await self.end(name, why)
        known = self._open_one(rental) if rental.runs_since is not None else None
        if known is not None:
            self._aliases[rental.name] = known.name
            await self.know(known.name, rental.instance, rental.price, rental.why)
            return
        if self.books.open and rental.runs_since is None:
            # A vendor's list may be a minute old: what it does not name may run. The looks of `_reconcile` settle that.
            self._due["reconcile"] = min(self._due.get("reconcile", 0.0), self._loop.time())
            self._hurry()
            raise ProviderError(NOT_OVER, detail=f"{self.books.open[0].name} is open")
        refused: list[Spent | budget.Unpriced] = []

        def decide(books: Books, at: int) -> Entry | None:
            refused.clear()
            if rental.runs_since is not None:
                return self._adoption(rental, books, at, refused)
            verdict = budget.judge(books, self.terms, rental.price or None, at)
            if not isinstance(verdict, Fits):
                refused.append(verdict)
                return None
            return _entry("intended", at, rental, amount=verdict.reservation)

        await self._write(decide)
        self._price = rental.price or self._price
        if refused:
            detail = refused[0].detail if isinstance(refused[0], Spent) else ""
            code = "insufficient_quota" if isinstance(refused[0], Spent) else "start_failed"
            raise ProviderError(refused[0].reason, lasting=True, code=code, detail=detail)

    def _adoption(
        self, rental: Rental, books: Books, at: int, refused: "list[Spent | budget.Unpriced]"
    ) -> Entry | None:
        """It runs, whoever started it: it costs since then. Over the budget it is not taken over, but stopped; what it
        has cost until then is booked all the same."""
        began = min(at, round((rental.runs_since or 0.0) * 1000))
        earlier = [one for one in books.rentals.values() if rental.instance and one.instance == rental.instance]
        billed = books.billed_until(rental.instance) if rental.instance else 0
        since = max([began, month_begins(month_of(began)), billed, *(one.ended or 0 for one in earlier)])
        entry = replace(_entry("adopted", at, rental), since=min(since, at))
        terms = self.terms
        month = month_of(at)
        if terms.monthly is not None and books.spent(month, at) + budget.committed(books, terms, at) >= terms.monthly:
            verdict = budget.judge(books, terms, rental.price, at)
            if isinstance(verdict, Spent):
                refused.append(verdict)
        return entry

    def _open_one(self, rental: Rental) -> Rented | None:
        for rented in self.books.open:
            if rented.name == rental.name or (rental.instance and rented.instance == rental.instance):
                return rented
        return None

    async def know(self, name: str, instance: str, price: int, why: str = "") -> None:
        name = self._aliases.get(name, name)

        def decide(books: Books, at: int) -> Entry | None:
            known = books.rentals.get(name)
            if known is None or (known.instance == instance and known.price >= price):
                return None
            return Entry("known", at, rental=name, provider=known.provider, instance=instance, price=price, why=why)

        await self._write(decide)

    async def void(self, name: str, why: str) -> None:
        name = self._aliases.get(name, name)
        await self._write(_voiding, name, why[:300])

    async def end(self, name: str, why: str) -> None:
        name = self._aliases.pop(name, name)
        known = self.books.rentals.get(name)
        self._to_end[name] = why
        await self._write(_ending, name, why[:300])
        self._to_end.pop(name, None)
        if known is not None and known.open:
            lasted = span((self.at - known.began) / 1000)
            cost = f"{dollars(self.cost_of(name))} for {lasted}"
            self._say(f"{known.instance or name} costs nothing any more: {cost}, {self._month()}", "info")

    def _month(self) -> str:
        """`$3.10 of $20 this month`"""
        standing = self.standing()
        return f"{dollars(standing.spent)}{standing.of_the_budget} this month"

    # -- writing ---------------------------------------------------------------------------------

    async def _write(self, decide: Callable[..., Entry | None], *facts: object) -> None:
        """Write what `decide(books, at, *facts)` says; where somebody else wrote first, it is asked again. Raises
        OSError."""
        written = False
        async with self._writing:
            ledger = self._ledger
            if ledger is None:
                raise OSError(NOT_OPEN)
            try:
                while True:
                    at = self.at
                    leap = None if self._clock is None else self._clock.leap
                    entry = leap or decide(self.books, at, *facts)
                    if entry is None:
                        break
                    if await self._add(ledger, entry):
                        written = True
                        if entry is not leap:
                            break
            except OSError as error:
                self._cannot_write(error)
                raise
        if written and self._unwritten_since is not None:  # that there was nothing to write shows nothing
            self._unwritten_since = None
            self._say("what is rented can be written down again", "info")
        self._changed()

    async def _add(self, ledger: Ledger, entry: Entry) -> bool:
        if await ledger.append(entry, self.books.seq):
            self.books.apply(entry)
            return True
        await self._read_on(ledger)
        return False

    async def _read_on(self, ledger: Ledger) -> None:
        for line in await ledger.read(self.books.seq):
            self.books.apply(line)

    def _cannot_write(self, error: OSError) -> None:
        """Whether the line is there all the same is not known: the books are read anew before the next one."""
        if self._unwritten_since is None:
            self._unwritten_since = self._loop.time()
            self._alarm("ledger", f"What is rented cannot be written down: {error}. Nothing is started.", "write")
            log.error("the ledger cannot be written: %s", error)
        self._due["reread"] = self._loop.time()
        self._hurry()

    def _changed(self) -> None:
        self._judge()
        self._hurry()

    def _hurry(self) -> None:
        self._wake.set()

    # -- looking again ---------------------------------------------------------------------------

    async def _run(self) -> None:
        while True:
            self._wake.clear()
            try:
                await self._do_what_is_due()
            except Exception:  # nobody else would look at what runs; what is not settled stays closed meanwhile
                log.exception("looking after what is rented failed, and is tried again")
                await asyncio.sleep(self._tempo.again)
            wait = max(0.05, self._next_due() - self._loop.time())
            try:
                async with asyncio.timeout(wait):
                    await self._wake.wait()
            except TimeoutError:
                pass

    async def _do_what_is_due(self) -> None:
        if self._ledger is None:
            await self._try("open", self._read_ledger)
            if self._ledger is None:
                counted = isinstance(self._trouble, LedgerTaken)  # by whoever has it: what runs is theirs to end
                late = self._loop.time() >= self._began + self._tempo.unwritten_most
                if late and not counted and self._is_due("uncounted"):
                    await self._try("uncounted", self._stop_what_nobody_counts)
                return
        decides = self._decides
        if decides is not self._decided:
            self._decided = decides
            self._settled.clear()  # whoever comes to decide compares anew before the first start
            self._due.pop("rebuild", None)
        if "reread" in self._due and self._is_due("reread"):
            await self._try("reread", self._reread)
        if not decides:
            if self._is_due("follow"):
                await self._try("follow", self._follow)
            self._end_what_must()
            return
        if not self._settled.is_set():
            await self._try("rebuild", self._rebuild)
            return
        self._end_what_must()
        if self.books.open and self._is_due("book"):
            await self._try("book", self._book)
        if self._is_due("reconcile"):
            await self._try("reconcile", self._reconcile)
        if self._is_due("storage"):
            await self._try("storage", self._store)
        if self._is_due("bills"):
            await self._try("bills", self._correct)
        if self._is_due("warn"):
            if budget.warning(self.books, self.terms, self.at) is not None:
                await self._try("warn", self._warn)
            else:
                self._due.pop("warn", None)  # of a month that is over, and could not be written down in time

    def _is_due(self, what: str) -> bool:
        return self._loop.time() >= self._due.get(what, 0.0)

    async def _try(self, what: str, work: Callable[[], Awaitable[float | None]]) -> None:
        """`work` gives the seconds until it is due again; None: only when somebody says so."""
        tempo = self._tempo
        try:
            again = await work()
        except (ProviderError, OSError) as error:
            fails = self._fails[what] = self._fails.get(what, 0) + 1
            most = tempo.again_most if not self.books.open else tempo.unknown
            again = min(tempo.again * 2 ** min(fails - 1, 10), most)
            if what in ("open", "rebuild", "reconcile"):
                self._trouble = error
            if fails in (1, 10):
                detail = getattr(error, "detail", "")
                log.warning("%s failed, and is tried again in %.0f s: %s %s", DEEDS[what], again, error, detail)
                if isinstance(error, LedgerDamaged):
                    self._alarm("ledger", f"The ledger is damaged, and nothing is started: {error}", "damaged")
        except Exception as error:  # whatever it is, what runs must be ended in time: this task goes on
            log.exception("%s failed by a fault of the gateway's own", what)
            again, self._trouble = tempo.again_most, OSError(f"{what} failed: {error}")
        else:
            self._fails.pop(what, None)
        self._looked.set()
        if again is None:
            self._due.pop(what, None)
        else:
            self._due[what] = self._loop.time() + again

    def _next_due(self) -> float:
        now = self._loop.time()
        if self._ledger is None:
            opens = self._due.get("open", now)
            if isinstance(self._trouble, LedgerTaken):
                return opens
            uncounted = self._due.get("uncounted", self._began + self._tempo.unwritten_most)
            return min(opens, max(uncounted, now + 1.0))
        if not self._settled.is_set() and self._decides:
            return self._due.get("rebuild", now)
        if not self._decides:
            return self._due.get("follow", now)
        names = ("reread", "reconcile", "storage", "bills", "warn", *(("book",) if self.books.open else ()))
        due = [self._due[name] for name in names if name in self._due]
        ends, conductor = self._ends(), self._conductor
        up = conductor is not None and conductor.state not in DOWN and conductor.run != self._ended_run
        if self._unwritten_since is not None and now >= self._unwritten_since + self._tempo.unwritten_most:
            up = False  # it is being ended for that already, whatever the budget says meanwhile
        if ends is not None and up:
            due.append(now + max(0.0, (ends - self.at) / 1000))
        if self._unwritten_since is not None:
            due.append(max(now + 1.0, self._unwritten_since + self._tempo.unwritten_most))
        return min(due, default=now + self._tempo.reconcile)

    async def _stop_what_nobody_counts(self) -> float:
        """The ledger cannot even be opened: whatever of ours still runs costs unseen, and is ended."""
        for instance in await self._provider.list():
            self._alarm("ledger", f"{instance.id} is stopped: what it costs cannot be written down.", instance.id)
            await self._provider.stop(instance, within=60.0)
        return self._tempo.reconcile

    async def _read_ledger(self) -> float | None:
        ledger = await self._open_ledger()
        try:
            lines = await ledger.read()
            books = Books()
            for number, line in enumerate(lines):
                books.apply(line)
                if number % 500 == 499:
                    await asyncio.sleep(0)  # a year of lines takes a second or two, and callers come meanwhile
        except BaseException:
            await ledger.close()
            raise
        self._ledger, self.books = ledger, books
        self._begun = any(line.kind == "said" and line.why == BEGINS for line in lines)
        wall, steady = self._clocks.wall(), self._clocks.steady()
        self._clock = LedgerClock(round(wall * 1000), round(steady * 1000), latest=books.latest)
        if self._clock.behind > 60_000:
            self._say(
                f"the clock is {self._clock.behind // 1000} s behind the ledger; it goes on from where the ledger was",
                "warning",
            )
        for rented in books.open:
            if not rented.instance:
                self._doubt(rented)
        return None

    def _doubt(self, rented: Rented) -> None:
        doubt = getattr(self._provider, "doubt", None)
        if doubt is not None:
            doubt(rented.name)

    async def _reread(self) -> float | None:
        """After a line of which nobody knows whether it is there."""
        if self._ledger is None:
            return None
        async with self._writing:
            await self._read_on(self._ledger)
        if self._unwritten_since is not None:
            # Written again: a remark is the smallest line, and shows that it works.
            await self._write(_remark, "what is rented could not be written down")
        return None

    async def _follow(self) -> float | None:
        """What another gateway, which looks after it, has written since."""
        if self._ledger is None:
            return None
        async with self._writing:
            await self._read_on(self._ledger)
        self._judge()
        return self._tempo.follow

    async def _rebuild(self) -> float | None:
        """Before the first start: a new ledger learns from the vendor's bills what this month has cost already; and
        what runs is compared."""
        if self._ledger is None:
            return None
        async with self._writing:
            await self._read_on(self._ledger)  # another gateway may have written the first lines
        at = self.at
        if not self._begun:
            begins = month_begins(month_of(at)) / 1000
            bills = await self._provider.bills(begins, at / 1000)
            lines = rebuilt(bills or (), at, self._provider.name, self.books)
            for line in lines:
                await self._write(_as_it_is, line)
            if lines:
                amount = dollars(sum(line.amount for line in lines))
                self._say(f"there was no ledger; by the vendor's bills this month has cost {amount} so far", "warning")
            await self._write(_remark, BEGINS)
            self._begun = True
        again = await self._reconcile()
        self._settled.set()
        self._trouble = None
        self._changed()
        running = ", ".join(one.instance or one.name for one in self.books.open)
        self._say(f"rents from {self._provider.name}: {self._month()}, {running or 'nothing'} runs", "info")
        self._due["reconcile"] = self._loop.time() + again
        return None

    # -- what runs -------------------------------------------------------------------------------

    async def _reconcile(self) -> float:
        """What the vendor says that runs, against the books and the conductor. Seconds until the next look."""
        running = await self._provider.list()
        self._trouble = None
        await self._end_what_is_gone(running)
        if self._settled.is_set() or running:
            await self._take_care_of_strangers(running)
        if not running and self._conductor is not None and self._conductor.state in DOWN:
            price = await self._provider.price()
            if price:
                self._price = price
                self._judge()
        if self._beside:
            return self._tempo.unknown
        return self._tempo.empty if self._absences else self._tempo.reconcile

    async def _end_what_is_gone(self, running: list[Instance]) -> None:
        """Open rentals that the vendor does not know as running, look after look. What the conductor has in hand is its
        business."""
        ids, names = {one.id for one in running}, {one.name for one in running if one.name}
        now, at = self._loop.time(), self.at
        for rented in self.books.open:
            if rented.instance in ids or rented.name in names or self._is_in_hand(rented):
                self._absences.pop(rented.name, None)
                continue
            if rented.name in self._to_end:
                await self._end_if_it_can_be_written(rented.name, self._to_end[rented.name])
                continue
            absence = self._absences.get(rented.name)
            if absence is None:
                absence = self._absences[rented.name] = _Absence(0, -float("inf"))
            if now - absence.last >= self._tempo.empty:
                absence.looks, absence.last = absence.looks + 1, now
            needed = EMPTY_LOOKS if rented.instance else EMPTY_LOOKS_UNKNOWN
            old = at - rented.began >= self._tempo.unknown * 1000  # before that, the list may be from before it began
            if absence.looks >= needed and old and await self._has_ended(rented):
                self._absences.pop(rented.name, None)
                await self._end_if_it_can_be_written(rented.name, "the vendor does not know it as running")

    async def _end_if_it_can_be_written(self, name: str, why: str) -> None:
        """Else it counts on until it can be, and what runs beside it is looked after all the same."""
        try:
            await self.end(name, why)
        except OSError as error:
            log.debug("the end of %s cannot be written down: %s", name, error)

    async def _has_ended(self, rented: Rented) -> bool:
        """No list has it. But a list may leave something out for longer, and settings that have changed ask for others:
        by its id it is known, and stopped."""
        if rented.provider not in self._provider.name.split(","):
            what = rented.instance or rented.name
            text = (
                f"{what} may run at {rented.provider}, which is not in PROVIDER any more, so that nobody here can "
                "look: end it there, or rent there again. Nothing is started until it is known."
            )
            self._alarm("will_not_stop", text, what)
            return False
        if not rented.instance:
            return True
        began = rented.began / 1000
        missed = Instance(rented.instance, rented.provider, NOWHERE, began, rented.price, rented.name)
        try:
            await self._provider.stop(missed, within=self._tempo.stop_within)
        except ProviderError as error:
            log.warning("whether %s has ended is not known: %s %s", rented.instance, error, error.detail)
            return False
        return True

    def _is_in_hand(self, rented: Rented) -> bool:
        if self._conductor is None or self._conductor.state in DOWN:
            return False
        instance = self._conductor.snapshot().instance
        if instance is None:
            return True  # a start or a stop is under way, and it may be its
        return self._aliases.get(instance.name, instance.name) == rented.name or instance.id == rented.instance

    async def _take_care_of_strangers(self, running: list[Instance]) -> None:
        """What runs though nobody here started it: taken over where it can be, else stopped."""
        cares_for = getattr(self._provider, "cares_for", None)
        if cares_for is not None:
            running = [instance for instance in running if not cares_for(instance)]
        conductor = self._conductor
        if conductor is None:
            return
        if conductor.state not in DOWN:
            await self._end_what_runs_beside(running)
            return
        self._beside.clear()
        known = {one.instance for one in self.books.open} | {one.name for one in self.books.open}
        for instance in running:
            if instance.id not in known and instance.name not in known:
                text = f"{instance.id} runs, and the ledger did not know of it: it is "
                self._alarm("orphan", text + "taken over, or stopped.", instance.id)
                self._say(text + "taken over, or stopped", "warning")
        if not running:
            return
        if conductor.state is State.STOPPED and self._closed is None and self._unwritten_since is None:
            conductor.take_over()  # a start looks first, and takes over what it finds
            return
        for instance in running:
            await self._end_a_stranger(instance)

    async def _end_what_runs_beside(self, running: list[Instance]) -> None:
        """One of ours is in hand, so that any other is one too many. A list may show for a minute what has ended; and
        it may be in the hands of another gateway with this one's names, and a ledger of its own: of two such, the one
        that has the smaller id ends the other's, which then takes over what is left."""
        ours = self._conductor.snapshot().instance if self._conductor is not None else None
        now = self._loop.time()
        if ours is None or ours.id == ours.name:  # which it is, is not known yet
            return
        others = [one for one in running if one.id != ours.id]
        self._beside = {one.id: self._beside.get(one.id, now) for one in others}
        for instance in others:
            patience = self._tempo.unknown + (0.0 if ours.id < instance.id else 2 * self._tempo.reconcile)
            if now - self._beside[instance.id] >= patience:
                text = f"{instance.id} runs beside {ours.id}, which is one too many: it is stopped."
                self._alarm("orphan", text, instance.id)
                await self._end_a_stranger(instance)

    async def _end_a_stranger(self, instance: Instance) -> None:
        """What it has cost is booked, whoever started it. It is stopped also where that cannot be written down."""

        def decide(books: Books, at: int) -> Entry | None:
            if any(_is(one, instance) for one in books.open):
                return None
            upstream = self._conductor.name if self._conductor is not None else ""
            known, why = books.rentals.get(instance.name), "it ran, and nobody here had started it"
            is_another = known is not None and known.instance not in ("", instance.id)
            name = self.next_name() if is_another or not instance.name else instance.name
            since = instance.started_at
            rental = Rental(name, instance.provider, upstream, 0, instance.price, instance.id, why, runs_since=since)
            return self._adoption(rental, books, at, [])

        try:
            await self._write(decide)
        except OSError as error:
            log.error("what %s costs cannot be written down: %s", instance.id, error)
        await self._provider.stop(instance, within=self._tempo.stop_within)
        for rented in self.books.open:
            if _is(rented, instance):
                await self.end(rented.name, "nobody had started it here, and it was stopped")

    # -- money -----------------------------------------------------------------------------------

    def _ends(self) -> int | None:
        """When what runs must begin its end: by the budget, or MAX_RUNTIME."""
        ends = budget.ends_at(self.books, self.terms, self.at)
        current = self._current()
        if current is None:
            return ends
        longest = current.began + round(self._max_runtime * 1000)
        return longest if ends is None else min(ends, longest)

    def _current(self) -> Rented | None:
        """The rental that the conductor has in hand, once it is known."""
        instance = self._conductor.snapshot().instance if self._conductor is not None else None
        if instance is None:
            return None
        known = self.books.rentals.get(self._aliases.get(instance.name, instance.name))
        return known if known is not None and known.open else None

    def _end_what_must(self) -> None:
        self._end_for_all()
        conductor = self._conductor
        if conductor is None or conductor.state in DOWN or not self.books.open:
            return
        at, run, grace = self.at, conductor.run, self._terms.grace / 1000
        unwritten = self._unwritten_since
        if unwritten is not None and self._loop.time() >= unwritten + self._tempo.unwritten_most:
            conductor.must_end(run, grace, UNWRITTEN, "start_failed")
            return
        ends = self._ends()
        if ends is None or at < ends or self._ended_run == run:
            return
        self._ended_run = run
        spent = budget.reached(self.books, self.terms, at)
        self._judge()
        if spent is not None:
            self._say(f"the budget is reached: {spent.detail} What runs has its grace, and is stopped", "warning")
            conductor.must_end(run, grace, spent.reason, "insufficient_quota")
        else:
            self._say("MAX_RUNTIME is over: what runs has its grace, and is stopped", "warning")
            conductor.must_end(run, grace, RAN_LONG)

    def _end_for_all(self) -> None:
        """Where several gateways share it: also when nobody here wants it, and whoever wants it elsewhere."""
        must_end = getattr(self._provider, "must_end", None)
        ends = self._ends()
        if must_end is None or ends is None or self.at < ends or self._ended_for_all == self.books.open[0].name:
            return
        self._ended_for_all = self.books.open[0].name
        spent = budget.reached(self.books, self.terms, self.at)
        must_end(self._terms.grace / 1000, RAN_LONG if spent is None else spent.reason)

    async def _book(self) -> float:
        for rented in self.books.open:
            await self._write(_booking, rented.name)
        return self._tempo.book

    async def _store(self) -> float:
        monthly = await self._provider.storage()
        if monthly is not None:
            await self._write(_storage, self._provider.name, monthly)
        return self._tempo.storage

    async def _correct(self) -> float:
        """By what the vendor billed for time that is over: of the last days, which vendors bill by the hour, and once a
        day since the month before this one began."""
        at = self.at
        begins = at - RECENT
        if self._corrected % LOOKS_A_DAY == 0:
            begins = month_begins(month_of(month_begins(month_of(at)) - 1))
        bills = await self._provider.bills(begins / 1000, at / 1000)
        for line in corrections(self.books, bills or (), at, self._provider.name):
            await self._write(_as_it_is, line)
        self._corrected += 1
        return self._tempo.bills

    async def _warn(self) -> float | None:
        told: list[Entry] = []

        def decide(books: Books, at: int) -> Entry | None:
            told[:] = [entry] if (entry := budget.warning(books, self.terms, at)) is not None else []
            return told[0] if told else None

        await self._write(decide)
        for entry in told:
            self._say(entry.why, "warning")
            self._alarm("budget", f"{entry.why}.", f"{entry.month} {entry.amount}")
        return None


# -- lines of the ledger, each decided on the books as they are ----------------------------------


def _as_it_is(books: Books, at: int, line: Entry) -> Entry:
    return replace(line, at=at)


def _remark(books: Books, at: int, why: str) -> Entry:
    return Entry("said", at, why=why)


def _voiding(books: Books, at: int, name: str, why: str) -> Entry | None:
    return Entry("voided", at, rental=name, why=why) if _is_open(books, name) else None


def _ending(books: Books, at: int, name: str, why: str) -> Entry | None:
    return books.ending(name, at, why) if _is_open(books, name) else None


def _storage(books: Books, at: int, provider: str, monthly: int) -> Entry | None:
    return budget.storage_due(books, provider, monthly, at)


def _is(rented: Rented, instance: Instance) -> bool:
    """By the id, where it is known: two gateways may have given the same name."""
    return rented.instance == instance.id if rented.instance else rented.name == instance.name


def _is_open(books: Books, name: str) -> bool:
    known = books.rentals.get(name)
    return known is not None and known.open


def _booking(books: Books, at: int, name: str) -> Entry | None:
    if not _is_open(books, name):
        return None
    entry = books.booking(name, at)
    return entry if entry.amount else None


def _entry(kind: str, at: int, rental: Rental, amount: int = 0) -> Entry:
    return Entry(
        kind,
        at,
        rental=rental.name,
        provider=rental.provider,
        upstream=rental.upstream,
        instance=rental.instance,
        price=rental.price,
        amount=amount,
        why=rental.why,
    )


_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"


def _base36(number: int) -> str:
    text = ""
    while number:
        number, digit = divmod(number, 36)
        text = _DIGITS[digit] + text
    return text or "0"
