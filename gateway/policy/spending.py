"""What each key has spent in this calendar month (UTC), in micro-dollars: its share of the hours that the engine cost.

While n requests are in flight each second's price is split evenly over them, and a key pays the shares of its requests.
What nobody used is nobody's. All of it is whole numbers, down to the micro-dollar's 3,600,000,000th part, so the shares
add up to the price exactly. A request pays its share in O(1), however many run beside it: `_paid` is what a request
would have paid that had been there from the beginning, and each one pays the difference between its end and its start.

Durations are measured by a clock that never goes back (`now`); the calendar (`wall`, Unix time) only says which month
it is, and a month that has begun is not taken back, whatever the clock says later. Both are seconds.
"""

import datetime
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from gateway.policy.keys import Key

_MICRO = 1_000_000
_HOUR = 3600 * _MICRO
"""Microseconds; and so many of the smallest parts make a micro-dollar."""
_DAY = 86_400.0
_LAST = datetime.datetime(9999, 12, 1, tzinfo=datetime.UTC).timestamp()
"""No calendar here goes further."""


def problem(keys: Iterable[Key], hourly_price: int | None) -> str | None:
    """One line on what is wrong with keys that have a `monthly_spend` where nobody knows what an hour costs."""
    named = [key.name for key in keys if key.monthly_spend is not None]
    if hourly_price is not None or not named:
        return None
    shown = ", ".join(named[:3]) + (f" and {len(named) - 3} more" if len(named) > 3 else "")
    return f"monthly_spend is set for {shown}, and HOURLY_PRICE is not: nothing can be counted without a price."


def month_of(wall: float) -> str:
    """`2026-11`; months of one spelling compare as their text does."""
    moment = datetime.datetime.fromtimestamp(min(max(wall, 0.0), _LAST), datetime.UTC)
    return f"{moment.year:04}-{moment.month:02}"


def renewal(month: str) -> float:
    """Unix time at which this month ends, and the next one's spending begins. Raises ValueError for no month."""
    first = datetime.datetime(int(month[:4]), int(month[5:]), 1, tzinfo=datetime.UTC).timestamp()
    if first >= _LAST:
        return first + 365_000 * _DAY
    middle = datetime.datetime.fromtimestamp(first + 45 * _DAY, datetime.UTC)  # of the next month
    return middle.timestamp() - (middle.day - 1) * _DAY


@dataclass(slots=True)
class _Bill:
    """One key's, in this month."""

    running: int = 0
    booked: int = 0
    """What `_paid` was at each end of a request, less what it was at each beginning (or the month's, for those that ran
    then): with `_paid` as it is now for each that runs, the bill in the smallest parts."""
    elsewhere: int = 0
    """Micro-dollars that other workers counted, or this one before it was restarted."""


class Spending:
    """The bills of all keys."""

    def __init__(self, hourly_price: int, *, now: float, wall: float) -> None:
        """`hourly_price`: micro-dollars."""
        self._price = hourly_price
        self._at = round(now * _MICRO)
        self._ahead = min(wall, _LAST) - now
        """Of the calendar's clock before the other."""
        self._paid = 0
        self._rest = 0
        """What could not be split evenly; it is split with what comes next."""
        self._running = 0
        self._bills: dict[str, _Bill] = {}
        self._month = month_of(wall)
        self._ends = renewal(self._month)
        self._before: tuple[str, dict[str, int]] | None = None
        """The month before this one, and what was spent in it."""

    def __repr__(self) -> str:
        spent = {name: self._spent(bill) / _MICRO for name, bill in self._bills.items()}
        return f"<Spending {self._month}, {self._running} in flight at {self._price / _MICRO:g} $/h, {spent}>"

    @property
    def month(self) -> str:
        return self._month

    def began(self, name: str, now: float, wall: float) -> None:
        """A request of this key is in flight from now on."""
        self._look(now, wall)
        bill = self._bill(name)
        bill.running += 1
        bill.booked -= self._paid
        self._running += 1

    def ended(self, name: str, now: float) -> None:
        """One of this key's is over. Once for each that began."""
        self._advance(now)
        bill = self._bills[name]
        bill.running -= 1
        bill.booked += self._paid
        self._running -= 1

    def reprice(self, hourly_price: int, now: float) -> None:
        """An hour costs this from now on: what is rented has the vendor's price, and none while it is not there."""
        if hourly_price != self._price:
            self._advance(now)
            self._price = hourly_price

    def spent(self, name: str, now: float, wall: float) -> int:
        """Micro-dollars of this key in this month, with what its requests in flight cost up to now."""
        self._look(now, wall)
        bill = self._bills.get(name)
        return 0 if bill is None else bill.elsewhere + self._spent(bill)

    def books(self, now: float, wall: float) -> dict[str, dict[str, int]]:
        """Micro-dollars that were counted here: by month (this one, and the one that ended last) and key."""
        self._look(now, wall)
        books = {} if self._before is None else {self._before[0]: self._before[1]}
        return books | {self._month: {name: self._spent(bill) for name, bill in self._bills.items()}}

    def shares(self, now: float, wall: float) -> dict[str, int]:
        """Micro-dollars of each key in this month, wherever they were counted."""
        self._look(now, wall)
        return {name: bill.elsewhere + self._spent(bill) for name, bill in self._bills.items()}

    def learn(self, month: str, elsewhere: Mapping[str, int]) -> None:
        """What was counted in this month elsewhere. A later month than ours is believed, an earlier one is over."""
        if month > self._month:
            self._turn(month)
        if month == self._month:
            for bill in self._bills.values():
                bill.elsewhere = 0
            for name, amount in elsewhere.items():
                self._bill(name).elsewhere = amount

    def _spent(self, bill: _Bill) -> int:
        return (bill.booked + bill.running * self._paid) // _HOUR

    def _bill(self, name: str) -> _Bill:
        bill = self._bills.get(name)
        if bill is None:
            bill = self._bills[name] = _Bill()
        return bill

    def _look(self, now: float, wall: float) -> None:
        """At both clocks. The time up to now is booked by what the calendar said before: somebody may have set it."""
        self._advance(now)
        wall = min(wall, _LAST)
        self._ahead = wall - now
        if wall >= self._ends:
            self._turn(month_of(wall))

    def _advance(self, now: float) -> None:
        until = round(now * _MICRO)
        while (ends := round((self._ends - self._ahead) * _MICRO)) <= until:
            self._book(ends)
            self._turn(month_of(self._ends))
        self._book(until)

    def _book(self, until: int) -> None:
        """Split the price of the time up to here."""
        if until > self._at:
            if self._running:
                share, self._rest = divmod((until - self._at) * self._price + self._rest, self._running)
                self._paid += share
            self._at = until

    def _turn(self, month: str) -> None:
        """A new month: everybody at nothing; those in flight pay what comes from here."""
        self._before = (self._month, {name: self._spent(bill) for name, bill in self._bills.items()})
        self._month, self._ends = month, renewal(month)
        running = {name: bill.running for name, bill in self._bills.items() if bill.running}
        self._bills = {name: _Bill(count, -count * self._paid) for name, count in running.items()}
