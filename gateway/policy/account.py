"""What a month has cost, for people: by day, by model, by key, and what it will probably come to.

Everything comes from the books (policy/books.py), whose figure of the month is the one that MONTHLY_BUDGET is held by.
The shares of keys are counted elsewhere (policy/spending.py), by requests in flight; what is nobody's, booting and
waiting, is the rest. `wakegate spend` and GET /admin/spend show this.

Whole micro-dollars and milliseconds, UTC.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from gateway.policy.books import DAY, Books, Entry, Line, day_begins, day_of, month_begins, month_ends, month_of
from gateway.policy.budget import Terms, standing

LOOKS_BACK = 7
"""Days by which the rest of a month is judged."""
NOBODYS = "(nobody's)"
"""Booting, waiting for more, and whatever else ran while no key's request did."""


@dataclass(frozen=True, slots=True)
class Account:
    """One month."""

    month: str
    at: int
    """Up to when: now, or the month's end."""
    over: bool
    running: int
    """By day and corrections: without disks."""
    storage: int
    reserved: int
    budget: int | None
    days: Mapping[str, int]
    models: Mapping[str, int]
    keys: Mapping[str, int] | None
    """None: nobody counts them."""
    lines: tuple[Line, ...]
    per_day: int = 0
    """What a day has cost lately."""
    forecast: int = 0
    """With disks, by the month's end, if it goes on like that."""
    budget_ends: int | None = None
    """When the budget is spent at that rate, where that is before the month's end."""
    price: int = 0
    """What runs now costs an hour."""
    renews: int = field(default=0)

    @property
    def spent(self) -> int:
        return self.running + self.storage


def fold(entries: Iterable[Entry]) -> Books:
    """The books of a whole ledger. Raises BadEntry."""
    books = Books()
    for entry in entries:
        books.apply(entry)
    return books


def account(
    books: Books,
    terms: Terms,
    at: int,
    *,
    month: str = "",
    keys: Mapping[str, int] | None = None,
    names: Mapping[str, str] | None = None,
) -> Account:
    """Of `month`, or of the one that `at` is in. `keys`: micro-dollars by key in that month. `names`: what people call
    an upstream.

    Raises BadEntry for what is no month.
    """
    month = month or month_of(at)
    ends = month_ends(month)
    over = ends <= at
    until = min(max(at, month_begins(month)), ends - 1) if over else at
    days = books.days(month, until)
    running, storage = sum(days.values()), books.storage(month)
    per_day = 0 if over else rate(books, at)
    now = standing(books, terms, at)
    this = month == now.month
    forecast = running + storage + (per_day * (ends - at) // DAY if this else 0)
    return Account(
        month=month,
        at=until,
        over=over,
        running=running,
        storage=storage,
        reserved=now.reserved if this else 0,
        budget=terms.monthly,
        days=days,
        models=_models(books, month, until, names or {}),
        keys=None if keys is None else _keys(keys, running),
        lines=books.why(month, until),
        per_day=per_day,
        forecast=forecast,
        budget_ends=_budget_ends(running + storage, terms.monthly, per_day, at, ends) if this else None,
        price=sum(one.price for one in books.open),
        renews=ends,
    )


def rate(books: Books, at: int) -> int:
    """What a day has cost lately: the last seven, or those since the first one that cost anything; at least one."""
    today = day_begins(day_of(at))
    first = max(today - (LOOKS_BACK - 1) * DAY, 0)
    days = books.days(month_of(first), at) | books.days(month_of(at), at)
    recent = {day: amount for day, amount in days.items() if day_begins(day) >= first}
    if not recent:
        return 0
    if not _older(books, first):
        first = day_begins(min(recent))
    return sum(recent.values()) * DAY // max(at - first, DAY)


def _older(books: Books, first: int) -> bool:
    return any(one.began < first for one in books.rentals.values())


def _budget_ends(spent: int, budget: int | None, per_day: int, at: int, ends: int) -> int | None:
    if budget is None or not per_day:
        return None
    reached = at + max(0, budget - spent) * DAY // per_day
    return reached if reached < ends else None


def _models(books: Books, month: str, at: int, names: Mapping[str, str]) -> dict[str, int]:
    """By upstream; corrections, which name an instance, where that is known."""
    models: dict[str, int] = {}
    for rented, share in books.by_rental(month, at):
        name = names.get(rented.upstream) or rented.upstream or rented.provider
        models[name] = models.get(name, 0) + share
    corrected = books.corrected(month)
    if corrected:
        models["(corrections)"] = corrected
    return dict(sorted(models.items(), key=lambda pair: (-pair[1], pair[0])))


def _keys(keys: Mapping[str, int], running: int) -> dict[str, int]:
    rest = running - sum(keys.values())
    shown = {name: amount for name, amount in keys.items() if amount}
    if rest > 0:
        shown[NOBODYS] = rest
    return dict(sorted(shown.items(), key=lambda pair: (-pair[1], pair[0])))


def as_json(account: Account) -> dict[str, object]:
    """For programs, in dollars."""

    def dollars(amounts: Mapping[str, int]) -> dict[str, float]:
        return {name: amount / 1_000_000 for name, amount in amounts.items()}

    return {
        "month": account.month,
        "until": account.at // 1000,
        "spent_dollars": account.spent / 1_000_000,
        "running_dollars": account.running / 1_000_000,
        "storage_dollars": account.storage / 1_000_000,
        "reserved_dollars": account.reserved / 1_000_000,
        "budget_dollars": None if account.budget is None else account.budget / 1_000_000,
        "forecast_dollars": account.forecast / 1_000_000,
        "budget_ends": None if account.budget_ends is None else account.budget_ends // 1000,
        "renews": account.renews // 1000,
        "dollars_per_hour_now": account.price / 1_000_000,
        "by_day": dollars(account.days),
        "by_model": dollars(account.models),
        "by_key": None if account.keys is None else dollars(account.keys),
        "why": [
            {"at": line.at // 1000, "dollars": line.amount / 1_000_000, "text": line.text} for line in account.lines
        ],
    }
