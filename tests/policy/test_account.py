"""What a month has cost, and will: sums by hand, and that the parts are the whole."""

import pytest

from gateway.policy.account import NOBODYS, Account, account, as_json, rate
from gateway.policy.books import DAY, HOUR, BadEntry, Books, Entry, day_begins, day_of
from gateway.policy.budget import Terms

TERMS = Terms(20_000_000, grace=60_000, start_max=1_800_000)
PRICE = 480_000
"""A day of it is $11.52, an hour $0.48."""
THE_11TH = day_begins("2026-11-11")


def rented(books: Books, name: str, began: int, ended: int | None, upstream: str = "default") -> None:
    books.apply(Entry("intended", began, name, "runpod-pod", upstream, price=PRICE, amount=300_000))
    if ended is not None:
        books.apply(Entry("ended", ended, name, amount=PRICE * (ended - began) // HOUR))


@pytest.fixture
def books() -> Books:
    """An hour a day from the 1st to the 10th."""
    books = Books()
    for day in range(10):
        began = day_begins("2026-11-01") + day * DAY + 12 * HOUR
        rented(books, f"wg-{day}", began, began + HOUR)
    return books


def of(books: Books, at: int, **more: object) -> Account:
    return account(books, TERMS, at, **more)  # type: ignore[arg-type]


def test_a_month_is_its_days_and_its_disks(books: Books) -> None:
    books.apply(Entry("storage", THE_11TH, month="2026-11", provider="runpod-pod", price=12_000_000, amount=8_000_000))
    said = of(books, THE_11TH)
    assert (said.month, said.running, said.storage, said.spent) == ("2026-11", 4_800_000, 8_000_000, 12_800_000)
    assert list(said.days.values()) == [480_000] * 10
    assert said.models == {"default": 4_800_000}
    assert sum(line.amount for line in said.lines) == said.spent


def test_the_forecast_goes_on_as_the_last_days_did(books: Books) -> None:
    """Six of the last seven days cost $0.48, the seventh has just begun; then 20 more days come."""
    said = of(books, THE_11TH)
    assert said.per_day == 480_000
    assert said.forecast == 4_800_000 + 20 * 480_000
    assert said.budget_ends is None


def test_somebody_who_began_yesterday_is_judged_by_that_alone() -> None:
    books = Books()
    rented(books, "wg-0", THE_11TH - 12 * HOUR, THE_11TH - 10 * HOUR)
    assert rate(books, THE_11TH) == 960_000
    assert rate(books, THE_11TH + 2 * DAY) == 320_000


def test_a_quiet_week_says_that_nothing_more_comes(books: Books) -> None:
    said = of(books, THE_11TH + 15 * DAY)
    assert said.per_day == 0 and said.forecast == said.spent


def test_days_of_the_month_before_are_looked_at_too() -> None:
    books = Books()
    began = day_begins("2026-10-28")
    for day in range(4):
        rented(books, f"wg-{day}", began + day * DAY, began + day * DAY + HOUR)
    assert rate(books, day_begins("2026-11-01") + 12 * HOUR) == 4 * 480_000 * DAY // (4 * DAY + 12 * HOUR)


def test_a_budget_that_will_not_last_says_until_when(books: Books) -> None:
    tight = Terms(6_000_000, grace=60_000, start_max=1_800_000)
    said = account(books, tight, THE_11TH)
    assert said.budget_ends is not None
    assert day_of(said.budget_ends) == "2026-11-13"


def test_what_runs_now_is_counted_up_to_now_and_reserved_beyond(books: Books) -> None:
    rented(books, "wg-now", THE_11TH, None)
    said = of(books, THE_11TH + HOUR // 2)
    assert said.days["2026-11-11"] == 240_000 and said.price == PRICE
    assert said.reserved == 60_000


def test_another_month_is_over_and_has_no_forecast(books: Books) -> None:
    said = of(books, day_begins("2026-12-05"), month="2026-11")
    assert said.over and said.running == 4_800_000 and said.forecast == said.spent and said.reserved == 0
    assert of(books, day_begins("2026-12-05")).running == 0


def test_what_is_no_month_is_said(books: Books) -> None:
    with pytest.raises(BadEntry):
        of(books, THE_11TH, month="November")


def test_models_and_corrections_add_up_to_the_days(books: Books) -> None:
    began = THE_11TH - 5 * HOUR
    rented(books, "wg-b", began, began + 2 * HOUR, "big")
    books.apply(Entry("corrected", THE_11TH, month="2026-11", amount=70_000, instance="x", until=THE_11TH))
    said = of(books, THE_11TH)
    assert said.models == {"default": 4_800_000, "big": 960_000, "(corrections)": 70_000}
    assert sum(said.models.values()) == sum(said.days.values())


def test_keys_have_their_shares_and_the_rest_is_nobodys(books: Books) -> None:
    said = of(books, THE_11TH, keys={"team-a": 3_000_000, "idle": 0, "team-b": 1_000_000})
    assert said.keys == {"team-a": 3_000_000, "team-b": 1_000_000, NOBODYS: 800_000}
    assert of(books, THE_11TH).keys is None


def test_shares_that_are_counted_by_a_higher_price_leave_no_negative_rest(books: Books) -> None:
    assert of(books, THE_11TH, keys={"a": 9_000_000}).keys == {"a": 9_000_000}


def test_no_books_are_an_empty_month() -> None:
    said = of(Books(), THE_11TH)
    assert said.spent == said.forecast == 0 and said.days == {} and said.lines == ()


def test_programs_get_dollars_and_seconds(books: Books) -> None:
    said = as_json(of(books, THE_11TH, keys={"a": 480_000}))
    assert said["spent_dollars"] == 4.8 and said["until"] == THE_11TH // 1000
    assert said["by_key"] == {NOBODYS: 4.32, "a": 0.48}
    assert said["budget_dollars"] == 20.0
