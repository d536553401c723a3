"""MONTHLY_BUDGET: whether there is room for one more start, and when what runs must end. Everything from the books.

Reserved before it is spent: a start needs room for its whole reservation (the longest start, a shortest run, and the
grace), beside all that was spent and is reserved. So what is spent and reserved is never above the budget when
something is started, however many ask at once, as long as each decision is made on books that have the one before.

Micro-dollars and milliseconds of the ledger's clock, as in policy/books.py.
"""

from dataclasses import dataclass

from gateway.policy.books import DAY, HOUR, Books, Entry, dollars, moment, month_begins, month_ends, month_of

LONGEST = 31 * DAY
WARN_AT = (50, 80, 95)
"""Per cent of the budget at which people are told."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What the settings say of money. Milliseconds."""

    monthly: int | None
    """None: there is no limit; it is only counted."""
    grace: int
    """BUDGET_GRACE: what answers get that run when the budget is reached."""
    start_max: int
    shortest: int = 60_000
    """The run that a start must be good for."""

    def reservation(self, price: int) -> int:
        """What a start at this price needs."""
        return -(-price * (self.start_max + self.shortest + self.grace) // HOUR)


@dataclass(frozen=True, slots=True)
class Fits:
    """There is room."""

    reservation: int
    """To be written down with the intent."""


@dataclass(frozen=True, slots=True)
class Spent:
    """There is no room."""

    month: str
    monthly: int
    spent: int
    reserved: int
    needed: int
    """For what was asked. 0: the budget is spent without it."""
    renews: int | None
    """When the next month begins. None: it would not fit then either."""

    @property
    def reason(self) -> str:
        """A closed sentence fit for a caller."""
        if self.renews is None:
            return "The monthly budget is too small for one start."
        return f"The monthly budget is spent; it renews on {moment(self.renews)} UTC."

    @property
    def detail(self) -> str:
        """The same with figures, for the log and the admin key."""
        needed = f", and a start needs {dollars(self.needed)}" if self.needed else ""
        spent = f"{dollars(self.spent)} of {dollars(self.monthly)} are spent in {self.month}"
        return f"{spent}, {dollars(self.reserved)} are reserved{needed}."


@dataclass(frozen=True, slots=True)
class Unpriced:
    """Nobody knows what it would cost, so nobody could say whether there is room."""

    reason = "The price of this start is not known, so nothing is started; set HOURLY_PRICE."


@dataclass(frozen=True, slots=True)
class Standing:
    """How the month stands, for /admin/status and the like."""

    month: str
    monthly: int | None
    spent: int
    """With disks."""
    storage: int
    reserved: int
    left: int | None
    """What neither is spent nor reserved. None: there is no limit."""
    renews: int
    ends_at: int | None
    """When what runs must begin its grace. None: not by this budget."""

    @property
    def of_the_budget(self) -> str:
        """` of $20`, to stand behind what was spent; empty where there is no limit."""
        return "" if self.monthly is None else f" of {dollars(self.monthly).removesuffix('.00')}"


def judge(books: Books, terms: Terms, price: int | None, at: int) -> Fits | Spent | Unpriced:
    """Whether something may be started at this price. 0 is one's own machine; None: nobody knows the price."""
    if price is None:
        return Unpriced()
    needed = terms.reservation(price)
    if terms.monthly is None or not price:
        return Fits(needed)
    month = month_of(at)
    spent, reserved = books.spent(month, at), committed(books, terms, at)
    if spent + reserved + needed <= terms.monthly:
        return Fits(needed)
    fits_next = sum(books.storage_rates().values()) + needed <= terms.monthly
    return Spent(month, terms.monthly, spent, reserved, needed, month_ends(month) if fits_next else None)


def reached(books: Books, terms: Terms, at: int) -> Spent | None:
    """Whether there is no more room for what runs: new callers are turned away, and what runs has its grace."""
    ends = ends_at(books, terms, at)
    if terms.monthly is None or ends is None or at < ends:
        return None
    month = month_of(at)
    return Spent(month, terms.monthly, books.spent(month, at), committed(books, terms, at), 0, month_ends(month))


def committed(books: Books, terms: Terms, at: int) -> int:
    """What is reserved: for each rental what is left of its reservation, and at least its grace."""
    return sum(max(one.reservation - books.cost(one, at), -(-one.price * terms.grace // HOUR), 0) for one in books.open)


def ends_at(books: Books, terms: Terms, at: int) -> int | None:
    """When the open rentals, all together, must begin their grace: with it they just stay in the budget, this month's
    and the next ones'. Not after `at`: now. None: nothing is open, or never as things are."""
    rate = sum(one.price for one in books.open)
    if terms.monthly is None or not rate:
        return None
    month = month_of(at)
    begins, spent = at, books.spent(month, at)
    stored = sum(books.storage_rates().values())
    limit = terms.monthly - (len(books.open) - 1)  # each is rounded up by itself
    while True:
        if spent >= limit:
            return begins - terms.grace
        over, ends = begins + (limit - spent) * HOUR // rate, month_ends(month)
        if over < ends:
            return over - terms.grace
        if ends <= begins or (begins > at and ends - begins >= LONGEST):
            return None  # the calendar's end; or a whole long month fits, and so does each that follows
        month = month_of(ends)
        begins, spent = ends, max(stored, books.storage(month))


def storage_due(books: Books, provider: str, monthly: int, at: int) -> Entry | None:
    """The line for disks at `monthly` micro-dollars a month, reserved to the month's end. None: it is written already.

    A month is reserved from its beginning where the disks were known before it; the first one from now. More expensive
    in the middle of a month: the difference from now. Cheaper: from the next month on.
    """
    month = month_of(at)
    begins, ends = month_begins(month), month_ends(month)
    known = books.storage_rates(month).get(provider)
    if known is None:
        since = begins if provider in books.storage_rates() else at
        rate = monthly
    else:
        since, rate = at, monthly - known
    if rate <= 0:
        return None
    amount = -(-rate * (ends - since) // (ends - begins))
    return Entry("storage", at, provider=provider, month=month, price=monthly, amount=amount, since=since, until=ends)


def warning(books: Books, terms: Terms, at: int) -> Entry | None:
    """The line that says of which part of the budget people are told now: of each once in a month. None: of none."""
    if not terms.monthly:
        return None
    month = month_of(at)
    spent = books.spent(month, at)
    level = max((per_cent for per_cent in WARN_AT if spent * 100 >= terms.monthly * per_cent), default=0)
    if level <= books.warned(month):
        return None
    said = f"{level} % of the monthly budget are spent: {dollars(spent)} of {dollars(terms.monthly)}"
    return Entry("said", at, month=month, amount=level, why=said)


def standing(books: Books, terms: Terms, at: int) -> Standing:
    month = month_of(at)
    spent, reserved = books.spent(month, at), committed(books, terms, at)
    left = None if terms.monthly is None else max(0, terms.monthly - spent - reserved)
    return Standing(
        month, terms.monthly, spent, books.storage(month), reserved, left, month_ends(month), ends_at(books, terms, at)
    )
