"""The month's budget: reserved before it is spent, never above it at a start, and what runs ends within it."""

import datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from gateway.policy.books import DAY, HOUR, Books, Entry, month_ends, month_of
from gateway.policy.budget import (
    Fits,
    Spent,
    Terms,
    Unpriced,
    committed,
    ends_at,
    judge,
    reached,
    standing,
    storage_due,
    warning,
)

DOLLAR, SECOND, MINUTE = 1_000_000, 1_000, 60_000


def at(text: str) -> int:
    return int(datetime.datetime.fromisoformat(text + "+00:00").timestamp() * 1000)


NOON = at("2026-11-21T12:00:00")
RENEWAL = at("2026-12-01T00:00:00")
PRICE = 360_000
TERMS = Terms(DOLLAR, grace=60 * SECOND, start_max=30 * MINUTE)


def spent(amount: int, month: str = "2026-11") -> Books:
    books = Books()
    books.apply(Entry("corrected", NOON, month=month, amount=amount, until=NOON))
    return books


def rent(books: Books, begins: int = NOON, *, name: str = "wg-1", price: int = PRICE, amount: int = 0) -> Books:
    books.apply(Entry("intended", begins, rental=name, price=price, amount=amount))
    return books


# -- a start


def test_a_reservation_is_the_longest_start_a_shortest_run_and_the_grace() -> None:
    assert TERMS.reservation(PRICE) == 192_000 and TERMS.reservation(1) == 1
    assert judge(Books(), TERMS, PRICE, NOON) == Fits(192_000)


def test_what_fits_to_the_last_micro_dollar_is_started_and_one_more_is_not() -> None:
    assert isinstance(judge(spent(DOLLAR - 192_000), TERMS, PRICE, NOON), Fits)
    assert judge(spent(DOLLAR - 191_999), TERMS, PRICE, NOON) == Spent(
        "2026-11", DOLLAR, DOLLAR - 191_999, 0, 192_000, RENEWAL
    )


def test_what_is_reserved_is_as_good_as_spent() -> None:
    books = rent(spent(DOLLAR - 2 * 192_000), amount=192_000)
    assert isinstance(judge(books, TERMS, PRICE, NOON), Fits)
    assert isinstance(judge(rent(books, name="wg-2", amount=192_000), TERMS, PRICE, NOON), Spent)


def test_what_has_used_up_its_reservation_still_has_its_grace_reserved() -> None:
    books = rent(Books(), amount=192_000)
    assert committed(books, TERMS, NOON + HOUR) == 6_000


def test_an_unknown_price_is_refused_also_without_a_limit() -> None:
    verdict = judge(Books(), Terms(None, 0, 0), None, NOON)
    assert isinstance(verdict, Unpriced) and "HOURLY_PRICE" in verdict.reason


def test_ones_own_machine_starts_when_everything_is_spent() -> None:
    assert judge(spent(2 * DOLLAR), TERMS, 0, NOON) == Fits(0)


def test_without_a_limit_everything_fits_and_is_reserved_all_the_same() -> None:
    unlimited = Terms(None, grace=60 * SECOND, start_max=30 * MINUTE)
    books = rent(spent(10**12), amount=1)
    assert judge(books, unlimited, PRICE, NOON) == Fits(192_000)
    assert ends_at(books, unlimited, NOON) is None and reached(books, unlimited, NOON) is None
    assert warning(books, unlimited, NOON) is None and standing(books, unlimited, NOON).left is None


def test_a_refusal_says_when_the_budget_renews_and_to_the_operator_how_it_stands() -> None:
    refused = judge(spent(DOLLAR), TERMS, PRICE, NOON)
    assert isinstance(refused, Spent)
    assert refused.reason == "The monthly budget is spent; it renews on 2026-12-01 00:00:00 UTC."
    assert refused.detail == "$1.00 of $1.00 are spent in 2026-11, $0.00 are reserved, and a start needs $0.192."


def test_what_does_not_fit_into_a_new_month_is_not_promised_one() -> None:
    refused = judge(Books(), TERMS, 10 * PRICE, NOON)
    assert isinstance(refused, Spent) and refused.renews is None and "too small" in refused.reason
    books = Books()
    books.apply(Entry("storage", NOON, month="2026-11", price=900_000, amount=900_000))
    refused = judge(books, TERMS, PRICE, NOON)
    assert isinstance(refused, Spent) and refused.renews is None


def test_a_new_month_is_a_new_budget() -> None:
    assert isinstance(judge(spent(DOLLAR), TERMS, PRICE, RENEWAL), Fits)


# -- what runs


def test_what_runs_begins_its_grace_so_that_it_ends_within_the_budget() -> None:
    books = rent(spent(DOLLAR - 360_000))
    assert ends_at(books, TERMS, NOON) == NOON + HOUR - MINUTE
    assert books.spent("2026-11", NOON + HOUR) == DOLLAR


def test_it_does_not_move_as_time_goes_on() -> None:
    books = rent(spent(DOLLAR - 360_000))
    assert {ends_at(books, TERMS, NOON + part * MINUTE) for part in range(60)} == {NOON + HOUR - MINUTE}


def test_all_that_runs_is_reckoned_together() -> None:
    books = rent(rent(spent(DOLLAR - 360_000)), name="wg-2", price=2 * PRICE)
    assert ends_at(books, TERMS, NOON) == NOON + 20 * MINUTE - MINUTE - 4  # a micro-dollar, for rounding each of them


def test_a_higher_price_brings_it_nearer() -> None:
    books = rent(spent(DOLLAR - 360_000))
    books.apply(Entry("known", NOON, rental="wg-1", price=2 * PRICE))
    assert ends_at(books, TERMS, NOON) == NOON + 30 * MINUTE - MINUTE


def test_when_it_is_reached_new_callers_are_turned_away() -> None:
    books = rent(spent(DOLLAR - 360_000))
    assert reached(books, TERMS, NOON + HOUR - MINUTE - 10) is None
    refused = reached(books, TERMS, NOON + HOUR - MINUTE)
    assert refused is not None and refused.renews == RENEWAL and refused.needed == 0
    assert refused.detail == "$0.994 of $1.00 are spent in 2026-11, $0.006 are reserved."


def test_what_is_over_the_budget_should_have_ended_already() -> None:
    ends = ends_at(rent(spent(2 * DOLLAR)), TERMS, NOON)
    assert ends is not None and ends < NOON


def test_it_runs_on_into_the_next_months_budget() -> None:
    begins = RENEWAL - HOUR
    books = rent(spent(DOLLAR - 360_001), begins)
    assert ends_at(books, TERMS, begins) == RENEWAL + DOLLAR * HOUR // PRICE - MINUTE


def test_it_ends_with_the_month_when_the_next_ones_disks_take_all_of_it() -> None:
    begins = RENEWAL - HOUR
    books = rent(Books(), begins)
    books.apply(Entry("storage", begins, month="2026-11", price=DOLLAR, amount=1))
    assert ends_at(books, TERMS, begins) == RENEWAL - MINUTE


def test_what_never_comes_to_the_budget_never_ends_by_it() -> None:
    cheap = Terms(31 * 24 * PRICE, grace=MINUTE, start_max=HOUR)
    assert ends_at(rent(Books()), cheap, NOON) is None
    dear = Terms(31 * 24 * PRICE - 1, grace=MINUTE, start_max=HOUR)
    assert ends_at(rent(Books()), dear, NOON) == month_ends("2026-12") - 10 - MINUTE


def test_a_clock_at_the_end_of_all_calendars_is_answered() -> None:
    late = 2**52
    assert ends_at(rent(Books(), late), TERMS, late) is None


def test_nothing_that_runs_is_nothing_that_ends() -> None:
    assert ends_at(spent(2 * DOLLAR), TERMS, NOON) is None and reached(spent(2 * DOLLAR), TERMS, NOON) is None


# -- disks


def test_disks_are_reserved_to_the_months_end_from_when_they_are_known_first() -> None:
    books = Books()
    entry = storage_due(books, "runpod-pod", 30 * DOLLAR, at("2026-11-16T00:00:00"))
    assert entry is not None and entry.amount == 15 * DOLLAR and entry.month == "2026-11"
    books.apply(entry)
    assert storage_due(books, "runpod-pod", 30 * DOLLAR, NOON) is None
    assert books.spent("2026-11", NOON) == 15 * DOLLAR and books.days("2026-11", NOON) == {}


def test_the_next_month_is_reserved_from_its_beginning_however_late_one_looks() -> None:
    books = Books()
    books.apply(Entry("storage", NOON, provider="vast", month="2026-11", price=DOLLAR, amount=1))
    entry = storage_due(books, "vast", DOLLAR, at("2026-12-20T00:00:00"))
    assert entry is not None and entry.amount == DOLLAR and entry.month == "2026-12"


def test_larger_disks_cost_the_difference_from_now_and_smaller_ones_less_from_the_next_month_on() -> None:
    books = Books()
    books.apply(Entry("storage", NOON, provider="vast", month="2026-11", price=DOLLAR, amount=DOLLAR))
    entry = storage_due(books, "vast", 3 * DOLLAR, at("2026-11-16T00:00:00"))
    assert entry is not None and entry.amount == DOLLAR and entry.price == 3 * DOLLAR
    books.apply(entry)
    assert storage_due(books, "vast", DOLLAR, NOON) is None
    entry = storage_due(books, "vast", DOLLAR, RENEWAL)
    assert entry is not None and entry.amount == DOLLAR


def test_no_disks_are_no_line() -> None:
    assert storage_due(Books(), "vast", 0, NOON) is None


def test_each_vendors_disks_are_their_own() -> None:
    books = Books()
    books.apply(Entry("storage", NOON, provider="vast", month="2026-11", price=DOLLAR, amount=DOLLAR))
    assert storage_due(books, "runpod-pod", DOLLAR, NOON) is not None
    assert books.storage_rates() == {"vast": DOLLAR}


def test_what_was_rebuilt_from_bills_does_not_stand_for_the_rest_of_the_month() -> None:
    books = Books()
    books.apply(Entry("storage", NOON, provider="vast", month="2026-11", amount=DOLLAR))
    assert storage_due(books, "vast", DOLLAR, NOON) is not None


# -- warnings


def test_people_are_told_once_of_each_part_and_of_the_largest_only() -> None:
    books = spent(DOLLAR // 2 - 1)
    assert warning(books, TERMS, NOON) is None
    books.apply(Entry("corrected", NOON, month="2026-11", amount=1))
    first = warning(books, TERMS, NOON)
    assert first is not None and first.amount == 50
    assert first.why == "50 % of the monthly budget are spent: $0.50 of $1.00"
    books.apply(first)
    assert warning(books, TERMS, NOON) is None
    books.apply(Entry("corrected", NOON, month="2026-11", amount=DOLLAR))
    last = warning(books, TERMS, NOON)
    assert last is not None and last.amount == 95
    books.apply(last)
    assert warning(books, TERMS, NOON) is None and warning(books, TERMS, RENEWAL) is None


# -- how it stands


def test_how_the_month_stands() -> None:
    books = rent(spent(500_000), amount=192_000)
    books.apply(Entry("storage", NOON, month="2026-11", price=100_000, amount=100_000))
    found = standing(books, TERMS, NOON + 100 * SECOND)
    assert (found.spent, found.storage, found.reserved, found.left) == (610_000, 100_000, 182_000, 208_000)
    assert found.renews == RENEWAL and found.ends_at == NOON + HOUR + 400 * SECOND - MINUTE


# -- whatever happens


class AnyMonth(RuleBasedStateMachine):
    """Many who want to start something, each asking the books as they are, and what runs told to end when it must."""

    def __init__(self) -> None:
        super().__init__()
        self.books = Books()
        self.now = at("2026-11-29T20:00:00")
        self.terms = Terms(3 * DOLLAR, grace=2 * MINUTE, start_max=20 * MINUTE)
        self.names = 0

    def add(self, entry: Entry | None) -> None:
        if entry is not None:
            self.books.apply(entry)

    @rule(price=st.integers(1, 10 * DOLLAR), asking=st.integers(1, 5))
    def ask(self, price: int, asking: int) -> None:
        for _ in range(asking):
            verdict = judge(self.books, self.terms, price, self.now)
            if isinstance(verdict, Fits):
                self.names += 1
                rent(self.books, self.now, name=f"wg-{self.names}", price=price, amount=verdict.reservation)
                month = month_of(self.now)
                total = self.books.spent(month, self.now) + committed(self.books, self.terms, self.now)
                assert total <= 3 * DOLLAR
                assert self.ends() - self.now >= 0, "a start that must end at once"

    def ends(self) -> int:
        ends = ends_at(self.books, self.terms, self.now)
        return 2**53 if ends is None else ends

    @rule(further=st.integers(0, 30 * HOUR))
    def pass_time(self, further: int) -> None:
        """What must end begins its grace when it must, and ends with it."""
        until = self.now + further
        while self.books.open and self.ends() <= until:
            self.now = max(self.now, self.ends() + self.terms.grace)
            for one in self.books.open:
                self.add(self.books.ending(one.name, self.now, "the budget is reached"))
        self.now = max(self.now, until)

    @precondition(lambda self: self.books.open)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        one = data.draw(st.sampled_from(self.books.open))
        self.add(self.books.ending(one.name, self.now, "idle"))

    @invariant()
    def no_month_is_above_its_budget(self) -> None:
        for month in ("2026-11", "2026-12", "2027-01"):
            assert self.books.spent(month, self.now) <= 3 * DOLLAR, f"{month} at {self.now}: {self.books!r}"


TestAnyMonth = AnyMonth.TestCase
TestAnyMonth.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


@given(price=st.integers(1, 100 * DOLLAR), before=st.integers(0, 3 * DOLLAR), ago=st.integers(0, 40 * DAY))
def test_ends_at_is_the_last_moment_from_which_the_grace_stays_within_the_budget(
    price: int, before: int, ago: int
) -> None:
    terms = Terms(3 * DOLLAR, grace=MINUTE, start_max=HOUR)
    begins = RENEWAL - ago
    books = rent(spent(before, month_of(begins)), begins, price=price)
    ends = ends_at(books, terms, begins)
    if ends is None:
        return
    over = ends + terms.grace
    assert over >= begins
    assert books.spent(month_of(over), over) <= 3 * DOLLAR
    later = over + 3_600_000 // price + 2
    assert books.spent(month_of(later), later) > 3 * DOLLAR or month_of(later) != month_of(over)


@pytest.mark.parametrize("price", [1, 7, 340_000, 3_999_999])
def test_a_reservation_is_never_too_small_by_rounding(price: int) -> None:
    needed = TERMS.reservation(price)
    books = rent(Books(), price=price, amount=needed)
    whole = TERMS.start_max + TERMS.shortest + TERMS.grace
    assert books.cost(books.rentals["wg-1"], NOON + whole) <= needed
