"""What the vendor's bills say against the books: more is added, less never taken away.

Bills are late: an hour that is over may lack some of its cost for as long as the vendor likes, and be complete later.
So only what they show above the books counts, summed up from the month's beginning to the hour where that is most: what
a late hour still lacks cannot hide what an earlier one had too much. Hours are not compared one by one: they are cut by
the vendor's clock, and a second that is booked before a seam and billed after it would be found missing at each.

An instance that the books do not know is taken for one of those rentals whose id nobody ever learnt, all together.
"""

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from gateway.policy.books import Books, Entry, Rented, day_of, dollars, month_begins, month_ends, month_of

UNKNOWN = ""
"""Instead of the id of an instance that no rental has."""
LATEST = 250_000_000_000.0
"""Unix seconds; the year 9892."""


class Billed(Protocol):
    """What a vendor says that one instance cost in one span of time (`Bill` of the providers). Seconds, micro-dollars;
    `storage` is the part of `amount` that is for disks."""

    @property
    def instance(self) -> str: ...
    @property
    def begins(self) -> float: ...
    @property
    def ends(self) -> float: ...
    @property
    def amount(self) -> int: ...
    @property
    def storage(self) -> int: ...


def corrections(books: Books, bills: Iterable[Billed], at: int, provider: str) -> list[Entry]:
    """The lines that bring the books up to what was billed for time that is over."""
    settling = _Settling(books, at, provider, {one.instance for one in books.rentals.values()})
    return settling.lines([piece for piece in _pieces(bills) if piece.ends <= at], "its bills")


def rebuilt(bills: Iterable[Billed], at: int, provider: str, books: Books | None = None) -> list[Entry]:
    """The lines of a ledger that is lost, a day's each: everything that was billed, of this very hour, too.

    `books`: what the new one has already, where this was begun before and did not come to its end.
    """
    pieces = _pieces(bills)
    settling = _Settling(books or Books(), at, provider, {piece.instance for piece in pieces})
    lines = []
    for day in sorted({day_of(piece.begins) for piece in pieces}):
        lines += settling.lines([one for one in pieces if day_of(one.begins) <= day], "there was no ledger; its bills")
    return lines


@dataclass(frozen=True, slots=True)
class _Piece:
    """A bill's part in one month. Milliseconds."""

    month: str
    instance: str
    begins: int
    ends: int
    running: int
    storage: int


class _Settling:
    """One look at the books, by instances that are told apart: `apart`."""

    def __init__(self, books: Books, at: int, provider: str, apart: Iterable[str]) -> None:
        self._books = books
        self._at = at
        self._provider = provider
        self._apart = frozenset(apart) - {UNKNOWN}
        self._made: list[Entry] = []

    def lines(self, pieces: Sequence[_Piece], by: str) -> list[Entry]:
        """What these pieces show above the books, and above what was found before."""
        found = []
        for month in sorted({piece.month for piece in pieces}):
            ours = [piece for piece in pieces if piece.month == month]
            for group in sorted({self._group(piece.instance) for piece in ours}):
                alike = [piece for piece in ours if self._group(piece.instance) == group]
                found += self._running(month, group, alike, by)
            found += self._storage(month, ours, by)
        self._made += found
        return found

    def _group(self, instance: str) -> str:
        return instance if instance in self._apart else UNKNOWN

    def _running(self, month: str, group: str, pieces: Sequence[_Piece], by: str) -> list[Entry]:
        spans = _disjoint(pieces)
        booked = self._booked(month, group, spans)
        billed = most = 0
        until, told = 0, (0, 0)
        before = 0
        for (_, ends, amount), more in zip(spans, booked, strict=True):
            billed, before = billed + amount, before + more
            if billed - before > most:
                most, until, told = billed - before, ends, (billed, before)
        lines = (*self._books.corrections(month), *self._made)
        already = sum(
            one.amount
            for one in lines
            if one.kind != "storage" and one.month == month and self._group(one.instance) == group
        )
        if most <= already:
            return []
        ids = {piece.instance for piece in pieces}
        why = f"{by} say {dollars(told[0])}, and {dollars(told[1] + already)} were booked"
        line = Entry(
            "corrected",
            self._at,
            provider=self._provider,
            instance=ids.pop() if len(ids) == 1 else UNKNOWN,
            month=month,
            amount=most - already,
            since=spans[0][0],
            until=until,
            why=why,
        )
        return [line]

    def _booked(self, month: str, group: str, spans: Sequence[tuple[int, int, int]]) -> list[int]:
        """What the books have in each of these spans."""
        booked = [0] * len(spans)
        ends = [end for _, end, _ in spans]
        for one in self._books.rentals.values():
            if self._group(one.instance) != group or not self._is_in(one, month):
                continue
            first = bisect_right(ends, one.began)
            over = max(self._at, one.until) if one.ended is None else one.ended
            for number in range(first, len(spans)):
                begin, end, _ = spans[number]
                if begin > over:
                    break
                booked[number] += self._books.between(one, begin, end, self._at)
        return booked

    def _is_in(self, one: Rented, month: str) -> bool:
        return one.began < month_ends(month) and (one.ended is None or one.ended >= month_begins(month))

    def _storage(self, month: str, pieces: Sequence[_Piece], by: str) -> list[Entry]:
        billed = sum(piece.storage for piece in pieces)
        made = sum(one.amount for one in self._made if one.kind == "storage" and one.month == month)
        more = billed - self._books.storage(month) - made
        if more <= 0:
            return []
        until = max(piece.ends for piece in pieces)
        why = f"{by} say {dollars(billed)} for disks"
        return [Entry("storage", self._at, provider=self._provider, month=month, amount=more, until=until, why=why)]


def _pieces(bills: Iterable[Billed]) -> list[_Piece]:
    """The bills by month, each span once: of two that are alike the larger one is the later answer."""
    largest: dict[tuple[str, float, float], Billed] = {}
    for bill in bills:
        if not 0 <= bill.begins <= bill.ends < LATEST:
            continue  # no time of ours
        key = (bill.instance, bill.begins, bill.ends)
        if key not in largest or bill.amount > largest[key].amount:
            largest[key] = bill
    return [piece for bill in largest.values() for piece in _cut(bill)]


def _cut(bill: Billed) -> list[_Piece]:
    begins, ends = round(bill.begins * 1000), round(bill.ends * 1000)
    whole = max(1, ends - begins)
    storage = min(max(0, bill.storage), max(0, bill.amount))
    running = max(0, bill.amount) - storage
    pieces = []
    done = (0, 0)
    at = begins
    while True:
        month = month_of(at)
        until = min(ends, month_ends(month))
        # Of the whole so far, less what the months before had: the pieces add up to the bill.
        upto = (running * (until - begins) // whole, storage * (until - begins) // whole)
        if until >= ends:
            upto = (running, storage)
        pieces.append(_Piece(month, bill.instance, at, until, upto[0] - done[0], upto[1] - done[1]))
        if until >= ends:
            return pieces
        done, at = upto, until


def _disjoint(pieces: Iterable[_Piece]) -> list[tuple[int, int, int]]:
    """(begins, ends, micro-dollars), in order; no moment twice, since what is booked for it is there once only."""
    amounts: dict[tuple[int, int], int] = {}
    for piece in pieces:
        span = (piece.begins, piece.ends)
        amounts[span] = amounts.get(span, 0) + piece.running
    spans = []
    covered = 0
    for (begins, ends), amount in sorted(amounts.items()):
        spans.append((min(max(begins, covered), max(ends, covered)), max(ends, covered), amount))
        covered = max(covered, ends)
    return spans
