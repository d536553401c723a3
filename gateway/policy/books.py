"""What was rented, since when, for how much: lines of a ledger, and the sums that they make.

A ledger is only ever added to. `Entry` is one line of it, and `Books` what all of them say together: given the same
lines in the same order, whoever reads them comes to the same figures, now or after a crash.

All money is whole micro-dollars, all time whole milliseconds since 1970, UTC, of the ledger's own clock
(policy/ledger_clock.py), and a rate is micro-dollars for an hour. Each figure is rounded up.

What holds whatever happens (tests/policy/test_books.py):

- A rental costs from its intent to its end, all of it at the highest price that was ever known for it: a vendor's
  figure that comes late or falls back never lowers what is booked. Only a vendor's word that nothing was started does.
- As time goes on and lines are added, a month's figure never goes down but by such a word.
- The parts add up: the days to the month, the lines of `why` to the same figure, a rental over midnight to itself.
"""

import calendar
import datetime
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from types import MappingProxyType
from typing import Any, Final

HOUR: Final = 3_600_000
DAY: Final = 24 * HOUR
LARGEST: Final = 2**53
"""What any reader of the ledger can count with (JSON, the edition for Cloudflare). No number reaches it."""
TEXT_MAX: Final = 1000
WHY_MAX: Final = 500
"""Letters."""
_LAST: Final = 253_370_764_800_000
"""9999-01-01. No calendar here goes further."""

KINDS: Final = frozenset(
    {
        "intended",
        "known",
        "booked",
        "ended",
        "voided",
        "lost",
        "adopted",
        "corrected",
        "storage",
        "leapt",
        "said",
    }
)


class BadEntry(ValueError):
    """A line that no ledger of ours has, or one of a newer version's. Nothing may be rented by such a ledger."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One line. Which of the fields mean something depends on `kind`; `why` always may say something to people.

    - intended: `rental` is about to be asked for at `price`; `amount` is reserved for it
    - known: its `instance`, and its `price` as the vendor says it
    - booked: `amount` more, for its time up to `until`
    - ended: confirmed to cost nothing from `at` on; `amount` more, for its time up to then
    - voided: the vendor said that nothing was started: it cost nothing
    - lost: the vendor took it away. It goes on costing until its end is confirmed
    - adopted: it was found at the vendor, known or not, and costs since `since`; one that had ended never did
    - corrected: `amount` more in `month`: that is what the vendor billed for `instance` from `since` to `until`
    - storage: disks cost `price` a month (not an hour); `amount` more in `month` for them
    - leapt: the clock was put forward from `at` to `until`, and no time passed
    - said: a remark. With `month` and `amount`: people were told that so many per cent of its budget are spent
    """

    kind: str
    at: int
    rental: str = ""
    provider: str = ""
    upstream: str = ""
    instance: str = ""
    price: int = 0
    amount: int = 0
    until: int = 0
    month: str = ""
    why: str = ""
    since: int = 0

    def __post_init__(self) -> None:
        # It is for people, and may quote anybody.
        if len(self.why) > WHY_MAX or not self.why.isprintable():
            fit = "".join(letter if letter.isprintable() else " " for letter in self.why[:WHY_MAX])
            object.__setattr__(self, "why", fit)

    def fields(self) -> dict[str, int | str]:
        """By their names, for a ledger to keep."""
        return asdict(self)

    @classmethod
    def read(cls, kept: Mapping[str, object]) -> "Entry":
        """What `fields` gave. Raises BadEntry: every field is there, of its type, and nothing else."""
        if kept.keys() != _TYPES.keys():
            raise BadEntry(f"its fields are {', '.join(sorted(kept))[:200]}")
        for name, kind in _TYPES.items():
            if type(kept[name]) is not kind:
                raise BadEntry(f"{name} is {kept[name]!r:.60}")
        typed: dict[str, Any] = dict(kept)
        entry = cls(**typed)
        entry.check()
        return entry

    def check(self) -> None:
        """Raises BadEntry."""
        if self.kind not in KINDS:
            raise BadEntry(f"no line of ours is called {self.kind!r:.60}; a newer version's may be")
        numbers = (self.at, self.price, self.amount, self.until, self.since)
        if min(numbers) < 0 or max(numbers) >= LARGEST:
            raise BadEntry(f"its numbers are {numbers!r:.120}")
        texts = (self.rental, self.provider, self.upstream, self.instance, self.month, self.why)
        if not "".join(texts).isprintable() or max(map(len, texts)) > TEXT_MAX:
            raise BadEntry(f"its texts are {texts!r:.120}")
        if self.month:
            month_begins(self.month)
        if self.kind in ("corrected", "storage") and not self.month:
            raise BadEntry(f"{self.kind} in no month")
        if self.kind in _OF_A_RENTAL and not self.rental:
            raise BadEntry(f"{self.kind} of no rental")


_TYPES: Final = {found.name: int if found.type is int else str for found in fields(Entry)}
_OF_A_RENTAL: Final = frozenset({"intended", "known", "booked", "ended", "voided", "lost", "adopted"})


@dataclass(frozen=True, slots=True)
class Rented:
    """One rental, as far as it is known."""

    name: str
    provider: str
    upstream: str
    began: int
    """Since when it costs."""
    price: int
    """The highest that was ever known for it."""
    reservation: int
    """What was reserved for it, of which what it has cost is used up. It rises as the price does."""
    instance: str = ""
    """Empty: the vendor's id never came to be known."""
    booked: int = 0
    until: int = 0
    """Up to when `booked` is."""
    ended: int | None = None
    voided: bool = False
    lost: bool = False
    price_from: str = ""
    why: str = ""
    """Of its end."""

    @property
    def open(self) -> bool:
        """Whether it may cost something now."""
        return self.ended is None and not self.voided


@dataclass(frozen=True, slots=True)
class Line:
    """One of the lines that make up a month's figure."""

    at: int
    amount: int
    text: str


class Books:
    """The sums. Cheap to ask: what has ended is added up once."""

    def __init__(self) -> None:
        self.seq = 0
        """How many lines have been read."""
        self.latest = 0
        """The latest moment that any of them speaks of. The clock that goes on from here is not behind it."""
        self._rentals: dict[str, Rented] = {}
        self._open: dict[str, None] = {}
        self._leaps: list[tuple[int, int]] = []
        self._settled: dict[str, dict[str, int]] = {}
        """What rentals that have ended cost, by name and day."""
        self._days: dict[str, int] = {}
        """That, and what was corrected, by day."""
        self._months: dict[str, int] = {}
        """The same by month."""
        self._corrections: list[Entry] = []
        self._stored: list[Entry] = []
        self._remarks: list[Entry] = []
        self._warned: dict[str, int] = {}

    def __repr__(self) -> str:
        rented = ", ".join(f"{one.name} since {moment(one.began)}" for one in self.open) or "nothing rented"
        return f"<Books of {self.seq} lines up to {moment(self.latest)}: {rented}>"

    # -- reading lines ---------------------------------------------------------------------------

    def apply(self, entry: Entry) -> None:
        """The next line. Raises BadEntry, having changed nothing."""
        entry.check()
        _DEEDS[entry.kind](self, entry)
        self.seq += 1
        self.latest = max(self.latest, entry.at, entry.until if entry.kind in ("booked", "leapt") else 0)

    def _intended(self, entry: Entry) -> None:
        known = self._rentals.get(entry.rental)
        if known is not None:  # names never come twice; whoever wrote one twice reserved twice
            self._keep(replace(known, reservation=known.reservation + entry.amount))
            return
        self._keep(
            Rented(
                name=entry.rental,
                provider=entry.provider,
                upstream=entry.upstream,
                began=entry.at,
                until=entry.at,
                price=entry.price,
                reservation=entry.amount,
                instance=entry.instance,
                price_from=entry.why,
            )
        )

    def _known(self, entry: Entry) -> None:
        known = self._rentals.get(entry.rental)
        if known is not None:
            self._keep(_priced(replace(known, instance=entry.instance or known.instance), entry))

    def _booked(self, entry: Entry) -> None:
        known = self._rentals.get(entry.rental)
        if known is None:
            self._correct(replace(entry, month=month_of(max(entry.until - 1, 0))))
            return
        until = max(known.until, entry.until)
        if known.ended is not None:
            until = min(until, known.ended)
        self._keep(replace(known, booked=known.booked + entry.amount, until=until))

    def _ended(self, entry: Entry) -> None:
        known = self._rentals.get(entry.rental)
        if known is not None and known.open:
            ended = max(entry.at, known.until)
            self._keep(replace(known, ended=ended, until=ended, booked=known.booked + entry.amount, why=entry.why))

    def _voided(self, entry: Entry) -> None:
        known = self._rentals.get(entry.rental)
        if known is not None and known.open:
            self._keep(replace(known, voided=True, why=entry.why))

    def _lost(self, entry: Entry) -> None:
        known = self._rentals.get(entry.rental)
        if known is not None:
            self._keep(replace(known, lost=True))

    def _adopted(self, entry: Entry) -> None:
        since = entry.since or entry.at
        known = self._rentals.get(entry.rental)
        if known is None:
            self._intended(replace(entry, at=since))
            return
        reopened = replace(
            known,
            began=min(known.began, since),
            instance=entry.instance or known.instance,
            reservation=max(known.reservation, entry.amount),
            ended=None,
            voided=False,
            why="",
        )
        self._keep(_priced(reopened, entry))

    def _correct(self, entry: Entry) -> None:
        self._corrections.append(entry)
        self._count(_day_in(entry.month, max(entry.until, entry.since, 1) - 1), entry.amount)

    def _store(self, entry: Entry) -> None:
        self._stored.append(entry)

    def _leap(self, entry: Entry) -> None:
        """Two that overlap are one: no moment is left out twice."""
        begins, ends = entry.at, max(entry.at, entry.until)
        apart = [(at, until) for at, until in self._leaps if until < begins or at > ends]
        begins = min([begins, *(at for at, until in self._leaps if (at, until) not in apart)])
        ends = max([ends, *(until for at, until in self._leaps if (at, until) not in apart)])
        self._leaps = sorted([*apart, (begins, ends)])

    def _say(self, entry: Entry) -> None:
        if entry.month:
            self._warned[entry.month] = max(self._warned.get(entry.month, 0), entry.amount)
        else:
            self._remarks.append(entry)

    def _keep(self, rented: Rented) -> None:
        """This is how it is now; what has ended is added up."""
        for day, amount in self._settled.pop(rented.name, {}).items():
            self._count(day, -amount)
        self._rentals[rented.name] = rented
        if rented.open:
            self._open[rented.name] = None
            return
        self._open.pop(rented.name, None)
        settled = self._settled[rented.name] = dict(self._by_day(rented, 0, _LAST, self.latest))
        for day, amount in settled.items():
            self._count(day, amount)

    def _count(self, day: str, amount: int) -> None:
        _add(self._days, day, amount)
        _add(self._months, day[:7], amount)

    # -- what they say ---------------------------------------------------------------------------

    @property
    def open(self) -> tuple[Rented, ...]:
        """What may cost something now, the oldest first."""
        return tuple(sorted((self._rentals[name] for name in self._open), key=lambda one: (one.began, one.name)))

    @property
    def rentals(self) -> Mapping[str, Rented]:
        """Every one there ever was, by name."""
        return MappingProxyType(self._rentals)

    def spent(self, month: str, at: int) -> int:
        """Everything that this month has cost up to `at`: rentals, corrections, and its disks to its end."""
        begins, ends = month_begins(month), month_ends(month)
        running = sum(self.between(self._rentals[name], begins, ends, at) for name in self._open)
        return self._months.get(month, 0) + running + self.storage(month)

    def days(self, month: str, at: int) -> dict[str, int]:
        """The same by day (`2026-11-21`), without disks. Days that cost nothing are left out."""
        days = {day: amount for day, amount in self._days.items() if amount and day.startswith(month)}
        for name in self._open:
            begins, ends = month_begins(month), month_ends(month)
            for day, amount in self._by_day(self._rentals[name], begins, ends, at):
                _add(days, day, amount)
        return dict(sorted(days.items()))

    def storage(self, month: str) -> int:
        """What is reserved in this month for disks that cost something whatever anybody does."""
        return sum(entry.amount for entry in self._stored if entry.month == month)

    def storage_rates(self, month: str | None = None) -> dict[str, int]:
        """Micro-dollars a month by provider, as they were last said, or the highest that were said in this month."""
        rates: dict[str, int] = {}
        for entry in self._stored:
            if not entry.price:
                continue  # from a bill: what it was, not what it will be
            if month is None:
                rates[entry.provider] = entry.price
            elif entry.month == month:
                rates[entry.provider] = max(rates.get(entry.provider, 0), entry.price)
        return rates

    def corrected(self, month: str) -> int:
        """What this month was corrected by, without disks."""
        return sum(entry.amount for entry in self.corrections(month))

    def corrections(self, month: str) -> tuple[Entry, ...]:
        """What was added to this month because the vendor billed it."""
        return tuple(entry for entry in self._corrections if entry.month == month)

    def billed_until(self, instance: str) -> int:
        """Up to when what the vendor billed for this instance is in the books, but for the last hour, whose bill may
        grow. Who adopts it counts from here: not twice what a lost ledger was rebuilt of. 0: nothing of it is."""
        lasts = (entry.until for entry in self._corrections if entry.instance == instance)
        return max(0, max(lasts, default=0) - HOUR)

    def reserved(self, at: int) -> int:
        """What is reserved for what is rented and not used up yet."""
        return sum(max(0, one.reservation - self.cost(one, at)) for one in self.open)

    def cost(self, rented: Rented, at: int) -> int:
        """What it has cost in all, up to `at`."""
        return self.between(rented, 0, _LAST, at)

    def between(self, rented: Rented, begins: int, ends: int, at: int) -> int:
        """What it has cost from one moment to another, as far as that is not after `at`."""
        if rented.voided:
            return 0
        over = max(at, rented.until) if rented.ended is None else rented.ended
        begins, ends = max(begins, rented.began), max(min(ends, _LAST), 0)
        cost = self._accrued(rented, min(ends, over)) - self._accrued(rented, begins) if begins < min(ends, over) else 0
        more = rented.booked - self._accrued(rented, rented.until)
        if more > 0 and begins <= max(rented.began, rented.until - 1) < ends:
            cost += more  # booked before something was known that would have made it less
        return cost

    def by_rental(self, month: str, at: int) -> list[tuple[Rented, int]]:
        """Which rentals this month's cost is for, the oldest first."""
        begins, ends = month_begins(month), month_ends(month)
        shares = ((one, self._share(one, begins, ends, at)) for one in self._rentals.values())
        return sorted(((one, share) for one, share in shares if share), key=lambda pair: (pair[0].began, pair[0].name))

    def booking(self, name: str, at: int) -> Entry:
        """The line that books what an open rental has cost up to `at`; of one that was voided meanwhile, nothing."""
        rented = self._rentals[name]
        return Entry(
            "booked",
            at,
            rental=name,
            provider=rented.provider,
            upstream=rented.upstream,
            instance=rented.instance,
            price=rented.price,
            amount=max(0, self.cost(rented, at) - rented.booked),
            until=max(at, rented.until),
        )

    def ending(self, name: str, at: int, why: str) -> Entry:
        """The line that ends an open rental, with what is not booked of it yet."""
        return replace(self.booking(name, at), kind="ended", until=0, why=why)

    def warned(self, month: str) -> int:
        """Of how many per cent of this month's budget people were told. 0: of none."""
        return self._warned.get(month, 0)

    def why(self, month: str, at: int) -> tuple[Line, ...]:
        """Where this month's figure comes from: the amounts of the lines add up to `spent`."""
        begins, ends = month_begins(month), month_ends(month)
        lines = []
        for one in self._rentals.values():
            over = max(at, one.until) if one.ended is None else one.ended
            if one.began < ends and max(over, one.began + 1) > begins:
                share = self._share(one, begins, ends, at)
                lines.append(Line(max(one.began, begins), share, self._told(one, begins, ends, at)))
        lines += [
            Line(entry.at, entry.amount, _corrected(entry)) for entry in self._corrections if entry.month == month
        ]
        lines += [Line(entry.at, entry.amount, _stored(entry)) for entry in self._stored if entry.month == month]
        lines += [
            Line(from_, 0, f"the clock was put forward to {moment(until)}; no time passed, nothing is booked for it")
            for from_, until in self._leaps
            if begins <= from_ < ends
        ]
        lines += [Line(entry.at, 0, entry.why) for entry in self._remarks if begins <= entry.at < ends]
        return tuple(sorted(lines, key=lambda line: line.at))

    # -- how they come to it ---------------------------------------------------------------------

    def _share(self, rented: Rented, begins: int, ends: int, at: int) -> int:
        settled = self._settled.get(rented.name)
        if settled is None:
            return self.between(rented, begins, ends, at)
        return sum(amount for day, amount in settled.items() if begins <= day_begins(day) < ends)

    def _by_day(self, rented: Rented, begins: int, ends: int, at: int) -> list[tuple[str, int]]:
        over = max(at, rented.until) if rented.ended is None else rented.ended
        begins, ends = max(begins, rented.began), min(ends, max(over, rented.until, rented.began + 1))
        costs = []
        while begins < ends:
            midnight = min(begins - begins % DAY + DAY, _LAST + DAY)
            if amount := self.between(rented, begins, midnight, at):
                costs.append((day_of(begins), amount))
            begins = midnight
        return costs

    def _accrued(self, rented: Rented, until: int) -> int:
        """What its time from its beginning costs. The difference of two of these is what the time between them does."""
        return -(-rented.price * self._passed(rented.began, until) // HOUR)

    def _passed(self, begins: int, ends: int) -> int:
        if ends <= begins:
            return 0
        leapt = sum(max(0, min(ends, until) - max(begins, at)) for at, until in self._leaps)
        return ends - begins - leapt

    def _told(self, one: Rented, begins: int, ends: int, at: int) -> str:
        what = f"{one.name} on {one.provider}" + (f" ({one.instance})" if one.instance else " (its id was never known)")
        if one.voided:
            return f"{what}: nothing was started{_because(one.why)}"
        over = max(at, one.until) if one.ended is None else one.ended
        seconds = self._passed(max(one.began, begins), min(over, ends)) / 1000
        price = f"{dollars(one.price)}/h" + (f" ({one.price_from})" if one.price_from else "")
        if over > ends:
            last = "and went on into the next month"
        elif one.ended is None:
            last = "and costs on"
        else:
            last = f"ended {moment(one.ended)}{_because(one.why)}"
        return f"{what}: {span(seconds)} at {price}, {'taken away by the vendor, ' if one.lost else ''}{last}"


_DEEDS: Final[Mapping[str, Callable[[Books, Entry], None]]] = {
    "intended": Books._intended,
    "known": Books._known,
    "booked": Books._booked,
    "ended": Books._ended,
    "voided": Books._voided,
    "lost": Books._lost,
    "adopted": Books._adopted,
    "corrected": Books._correct,
    "storage": Books._store,
    "leapt": Books._leap,
    "said": Books._say,
}


def _priced(rented: Rented, entry: Entry) -> Rented:
    """At the entry's price, if that is higher; more is reserved then, too."""
    if entry.price <= rented.price:
        return rented
    more = -(-rented.reservation * entry.price // rented.price) if rented.price else rented.reservation
    return replace(rented, price=entry.price, reservation=more, price_from=entry.why)


def _because(why: str) -> str:
    return f": {why}" if why else ""


def _corrected(entry: Entry) -> str:
    whose, until = f" for {entry.instance}" if entry.instance else "", moment(entry.until)
    return f"{entry.provider or 'the vendor'} billed so much more{whose} up to {until}{_because(entry.why)}"


def _stored(entry: Entry) -> str:
    rate = f" at {dollars(entry.price)} a month, to the month's end" if entry.price else ""
    return f"disks{f' on {entry.provider}' if entry.provider else ''}{rate}{_because(entry.why)}"


def _add(sums: dict[str, int], key: str, amount: int) -> None:
    sums[key] = sums.get(key, 0) + amount


# -- the calendar --------------------------------------------------------------------------------


def _date(at: int) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(min(max(at, 0), _LAST) // 1000, datetime.UTC)


def moment(at: int) -> str:
    """`2026-11-21 10:02:11`, UTC, for people."""
    return f"{_date(at):%Y-%m-%d %H:%M:%S}"


def day_of(at: int) -> str:
    """`2026-11-21`"""
    date = _date(at)
    return f"{date.year:04}-{date.month:02}-{date.day:02}"


def day_begins(day: str) -> int:
    date = datetime.datetime(int(day[:4]), int(day[5:7]), int(day[8:]), tzinfo=datetime.UTC)
    return int(date.timestamp()) * 1000


def month_of(at: int) -> str:
    """`2026-11`; months of one spelling compare as their text does."""
    return day_of(at)[:7]


def month_begins(month: str) -> int:
    """Its first millisecond. Raises BadEntry for no month."""
    try:
        if len(month) != 7 or month[4] != "-":
            raise ValueError
        return int(datetime.datetime(int(month[:4]), int(month[5:]), 1, tzinfo=datetime.UTC).timestamp()) * 1000
    except ValueError:
        raise BadEntry(f"{month!r:.60} is no month") from None


def month_ends(month: str) -> int:
    """The next one's first millisecond."""
    begins = month_begins(month)
    return begins + calendar.monthrange(int(month[:4]), int(month[5:]))[1] * DAY


def _day_in(month: str, at: int) -> str:
    return day_of(min(max(at, month_begins(month)), month_ends(month) - 1))


def dollars(amount: int) -> str:
    """`$0.34`, `$1,204.50`, `$0.000041`: all of it, and cents at least."""
    whole, part = divmod(abs(amount), 1_000_000)
    digits = f"{part:06}".rstrip("0").ljust(2, "0")
    return f"{'-' if amount < 0 else ''}${whole:,}.{digits}"


def span(seconds: float) -> str:
    """`12 min 4 s`, for people."""
    whole = int(seconds)
    hours, minutes, rest = whole // 3600, whole % 3600 // 60, whole % 60
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
