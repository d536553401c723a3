"""What was rented: it costs from its intent to its end, never less than was known once, and the parts add up."""

import datetime
import itertools
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from gateway.policy.books import (
    DAY,
    HOUR,
    LARGEST,
    BadEntry,
    Books,
    Entry,
    day_begins,
    day_of,
    dollars,
    month_begins,
    month_ends,
    month_of,
    span,
)

SECOND, MINUTE = 1_000, 60_000


def at(text: str) -> int:
    return int(datetime.datetime.fromisoformat(text + "+00:00").timestamp() * 1000)


NOON = at("2026-11-21T12:00:00")
PRICE = 360_000
"""Micro-dollars an hour: a hundred a second."""


def rent(books: Books, begins: int = NOON, *, name: str = "wg-1", price: int = PRICE, amount: int = 0) -> None:
    books.apply(
        Entry("intended", begins, rental=name, provider="runpod-pod", upstream="main", price=price, amount=amount)
    )


def rented(begins: int = NOON, *, price: int = PRICE, amount: int = 0) -> Books:
    books = Books()
    rent(books, begins, price=price, amount=amount)
    return books


# -- one rental


def test_it_costs_from_its_intent_on_though_nobody_has_answered_yet() -> None:
    assert rented().spent("2026-11", NOON + 10 * SECOND) == 1_000


def test_it_costs_until_its_end_and_not_a_moment_longer() -> None:
    books = rented()
    books.apply(Entry("ended", NOON + 10 * SECOND, rental="wg-1", why="idle"))
    assert books.spent("2026-11", NOON + DAY) == 1_000 and books.open == ()


def test_an_end_that_is_told_again_later_changes_nothing() -> None:
    books = rented()
    books.apply(Entry("ended", NOON + 10 * SECOND, rental="wg-1"))
    books.apply(Entry("ended", NOON + 90 * SECOND, rental="wg-1"))
    assert books.spent("2026-11", NOON + DAY) == 1_000


def test_whose_id_was_never_learnt_costs_like_any_other() -> None:
    books = rented()
    books.apply(books.ending("wg-1", NOON + MINUTE, "the vendor does not know it as running"))
    assert books.spent("2026-11", NOON + DAY) == 6_000
    assert "its id was never known" in books.why("2026-11", NOON + DAY)[0].text


def test_what_the_vendor_says_was_never_started_cost_nothing_also_what_was_booked_of_it() -> None:
    books = rented()
    books.apply(books.booking("wg-1", NOON + MINUTE))
    books.apply(Entry("voided", NOON + MINUTE, rental="wg-1", why="no capacity"))
    assert books.spent("2026-11", NOON + DAY) == 0 and books.open == ()
    assert "nothing was started: no capacity" in books.why("2026-11", NOON + DAY)[0].text


def test_what_was_taken_away_goes_on_costing_until_its_end_is_confirmed() -> None:
    books = rented()
    books.apply(Entry("lost", NOON + 10 * SECOND, rental="wg-1"))
    assert books.open
    books.apply(books.ending("wg-1", NOON + 20 * SECOND, "host failure"))
    assert books.spent("2026-11", NOON + DAY) == 2_000
    assert "taken away by the vendor" in books.why("2026-11", NOON + DAY)[0].text


def test_every_part_of_a_micro_dollar_is_a_whole_one() -> None:
    assert rented(price=1).spent("2026-11", NOON + 1) == 1
    assert rented(price=1).spent("2026-11", NOON) == 0


# -- its price


def test_a_higher_price_that_comes_to_be_known_holds_for_all_of_it() -> None:
    books = rented()
    books.apply(Entry("known", NOON + MINUTE, rental="wg-1", instance="pod", price=2 * PRICE, why="the vendor's"))
    assert books.spent("2026-11", NOON + 10 * SECOND) == 2_000
    assert books.open[0].instance == "pod" and books.open[0].price_from == "the vendor's"


def test_a_lower_price_is_a_lag_and_lowers_nothing() -> None:
    books = rented()
    books.apply(Entry("known", NOON + MINUTE, rental="wg-1", instance="pod", price=0))
    books.apply(Entry("known", NOON + MINUTE, rental="wg-1", price=PRICE - 1))
    assert books.open[0].price == PRICE and books.open[0].instance == "pod"


def test_a_price_that_comes_after_its_end_still_counts() -> None:
    books = rented()
    books.apply(books.ending("wg-1", NOON + 10 * SECOND, "idle"))
    books.apply(Entry("known", NOON + MINUTE, rental="wg-1", price=2 * PRICE))
    assert books.spent("2026-11", NOON + DAY) == 2_000


def test_what_is_reserved_is_used_up_by_what_it_costs_and_rises_with_its_price() -> None:
    books = rented(amount=10_000)
    assert books.reserved(NOON) == 10_000
    assert books.reserved(NOON + 10 * SECOND) == 9_000
    books.apply(Entry("known", NOON, rental="wg-1", price=2 * PRICE))
    assert books.reserved(NOON + 10 * SECOND) == 18_000
    assert books.reserved(NOON + HOUR) == 0


# -- clocks


def test_a_clock_that_goes_back_takes_nothing_back_that_was_booked() -> None:
    books = rented()
    books.apply(books.booking("wg-1", NOON + 10 * SECOND))
    assert books.spent("2026-11", NOON - HOUR) == 1_000


def test_an_end_before_what_is_booked_ends_it_there() -> None:
    books = rented()
    books.apply(books.booking("wg-1", NOON + 10 * SECOND))
    books.apply(Entry("ended", NOON - HOUR, rental="wg-1"))
    assert books.spent("2026-11", NOON + DAY) == 1_000 and books.rentals["wg-1"].ended == NOON + 10 * SECOND


def test_what_is_booked_after_the_end_counts_beside_it() -> None:
    books = rented()
    books.apply(Entry("ended", NOON + 10 * SECOND, rental="wg-1"))
    books.apply(Entry("booked", NOON + HOUR, rental="wg-1", amount=1_500, until=NOON + HOUR))
    assert books.spent("2026-11", NOON + DAY) == 1_500


def test_a_leap_of_the_clock_costs_nothing() -> None:
    books = rented()
    books.apply(Entry("leapt", NOON + 10 * SECOND, until=NOON + 5 * DAY))
    assert books.spent("2026-11", NOON + 5 * DAY) == 1_000
    assert books.spent("2026-11", NOON + 5 * DAY + 10 * SECOND) == 2_000


def test_leaps_that_overlap_are_one() -> None:
    """Two gateways with one ledger, whose clocks were both set."""
    books = rented()
    books.apply(Entry("leapt", NOON + 10 * SECOND, until=NOON + DAY))
    books.apply(Entry("leapt", NOON + 20 * SECOND, until=NOON + DAY + 5 * SECOND))
    books.apply(Entry("leapt", NOON + 2 * DAY, until=NOON + 3 * DAY))
    assert books.spent("2026-11", NOON + DAY + 15 * SECOND) == 2_000
    assert books.latest == NOON + 3 * DAY


def test_what_was_booked_before_a_leap_was_known_stays_booked() -> None:
    books = rented()
    books.apply(books.booking("wg-1", NOON + HOUR))
    before = books.spent("2026-11", NOON + HOUR)
    books.apply(Entry("leapt", NOON + 10 * SECOND, until=NOON + HOUR))
    assert books.spent("2026-11", NOON + HOUR) == before
    assert books.spent("2026-11", NOON + HOUR + SECOND) == before + 100


def test_the_latest_moment_is_not_one_that_a_line_only_speaks_of() -> None:
    books = rented()
    books.apply(Entry("storage", NOON, month="2026-11", amount=1, until=month_ends("2026-11")))
    assert books.latest == NOON
    books.apply(books.booking("wg-1", NOON + HOUR))
    assert books.latest == NOON + HOUR


# -- months and days


def test_a_rental_over_the_end_of_a_month_is_split_there_and_adds_up() -> None:
    books = rented(at("2026-11-30T23:59:50"), price=PRICE + 1)
    books.apply(books.ending("wg-1", at("2026-12-01T00:00:20"), "idle"))
    parts = [books.spent(month, NOON + 30 * DAY) for month in ("2026-11", "2026-12")]
    assert parts == [1_001, 2_000] and sum(parts) == books.cost(books.rentals["wg-1"], NOON + 30 * DAY)


def test_days_add_up_to_the_month_without_its_disks() -> None:
    books = rented(at("2026-11-20T23:59:50"))
    books.apply(Entry("storage", NOON, month="2026-11", amount=7, price=7))
    books.apply(Entry("corrected", NOON, month="2026-11", amount=5, until=NOON))
    now = at("2026-11-21T00:00:10")
    assert books.days("2026-11", now) == {"2026-11-20": 1_000, "2026-11-21": 1_005}
    assert books.spent("2026-11", now) == 2_012 and books.storage("2026-11") == 7


def test_a_correction_counts_in_its_month_whenever_it_is_made() -> None:
    books = Books()
    books.apply(Entry("corrected", at("2026-12-02T00:00:00"), month="2026-11", amount=5, until=month_ends("2026-11")))
    assert books.days("2026-11", NOON + 30 * DAY) == {"2026-11-30": 5}
    assert books.spent("2026-12", NOON + 30 * DAY) == 0


def test_the_calendar_is_utc_and_knows_its_leap_years() -> None:
    assert month_of(at("2026-12-31T23:59:59.999")) == "2026-12" and month_of(at("2027-01-01T00:00:00")) == "2027-01"
    assert month_ends("2028-02") - month_begins("2028-02") == 29 * DAY
    assert month_ends("2026-12") == month_begins("2027-01") and day_begins(day_of(NOON)) == at("2026-11-21T00:00:00")
    assert month_ends("9999-12") > month_begins("9999-12") and month_of(LARGEST) == "9999-01"


@pytest.mark.parametrize("text", ["", "2026", "2026-13", "2026-1", "2026/11", "abcd-ef", "2026-11-01"])
def test_what_is_no_month_is_refused(text: str) -> None:
    with pytest.raises(BadEntry):
        month_begins(text)


# -- found at the vendor


def test_what_is_found_running_costs_since_it_began() -> None:
    books = Books()
    books.apply(Entry("adopted", NOON, rental="wg-9", instance="pod", price=PRICE, since=NOON - MINUTE))
    assert books.spent("2026-11", NOON) == 6_000 and books.open[0].instance == "pod"


def test_what_was_thought_to_have_ended_and_runs_never_ended() -> None:
    books = rented()
    books.apply(books.ending("wg-1", NOON + 10 * SECOND, "the vendor does not know it as running"))
    books.apply(Entry("adopted", NOON + MINUTE, rental="wg-1", instance="pod", since=NOON + 5 * SECOND))
    assert books.spent("2026-11", NOON + MINUTE) == 6_000 and books.open


def test_what_was_thought_never_started_and_runs_costs_all_the_same() -> None:
    books = rented()
    books.apply(Entry("voided", NOON + SECOND, rental="wg-1"))
    books.apply(Entry("adopted", NOON + MINUTE, rental="wg-1", instance="pod"))
    assert books.spent("2026-11", NOON + MINUTE) == 6_000


def test_what_is_booked_of_a_rental_that_nobody_knows_counts_all_the_same() -> None:
    books = Books()
    books.apply(Entry("booked", NOON, rental="stranger", amount=500, until=NOON))
    assert books.spent("2026-11", NOON) == 500


def test_a_name_that_comes_twice_reserves_twice_and_ends_once() -> None:
    books = rented(amount=1_000)
    rent(books, NOON + SECOND, amount=1_000)
    assert books.reserved(NOON) == 2_000 and len(books.open) == 1


def test_whoever_takes_over_counts_from_the_last_hour_that_was_billed() -> None:
    books = Books()
    assert books.billed_until("pod") == 0
    books.apply(Entry("corrected", NOON, instance="pod", month="2026-11", amount=9, since=NOON - DAY, until=NOON))
    assert books.billed_until("pod") == NOON - HOUR and books.billed_until("another") == 0


# -- lines


def test_a_line_is_what_was_kept_of_it() -> None:
    entry = Entry("corrected", NOON, "wg-1", "runpod-pod", "main", "pod", 1, 2, 3, "2026-11", "why", 4)
    assert Entry.read(entry.fields()) == entry


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "refunded"},
        {"at": -1},
        {"at": 1.5},
        {"at": True},
        {"amount": LARGEST},
        {"amount": None},
        {"rental": ""},
        {"rental": 7},
        {"instance": "two\nlines"},
        {"instance": "\ud800"},
        {"provider": "x" * 1001},
        {"month": "2026-13"},
        {"more": 1},
    ],
    ids=str,
)
def test_what_is_none_of_our_lines_is_refused_and_changes_nothing(change: dict[str, object]) -> None:
    kept: dict[str, object] = dict(Entry("intended", NOON, rental="wg-1").fields())
    with pytest.raises(BadEntry):
        Entry.read(kept | change)


def test_a_line_that_lacks_a_field_is_refused() -> None:
    kept = Entry("intended", NOON, rental="wg-1").fields()
    del kept["price"]
    with pytest.raises(BadEntry):
        Entry.read(kept)


def test_books_that_refuse_a_line_are_as_they_were() -> None:
    books = rented()
    with pytest.raises(BadEntry):
        books.apply(Entry("refunded", NOON, rental="wg-1", amount=5))
    with pytest.raises(BadEntry):
        books.apply(Entry("corrected", NOON, amount=5))
    assert books.seq == 1 and books.spent("2026-11", NOON) == 0


def test_what_a_vendor_says_is_made_fit_for_people() -> None:
    entry = Entry("ended", NOON, rental="wg-1", why="a\x1b[31m line\nand \ud800" + "x" * 900)
    assert entry.why.startswith("a [31m line and ") and len(entry.why) == 500
    entry.check()


# -- why


def test_why_says_where_the_figure_comes_from_line_by_line() -> None:
    books = rented()
    books.apply(Entry("known", NOON + SECOND, rental="wg-1", instance="pod", price=2 * PRICE, why="RunPod's figure"))
    books.apply(books.ending("wg-1", NOON + 724 * SECOND, "idle"))
    books.apply(Entry("storage", NOON + HOUR, provider="runpod-pod", month="2026-11", price=12_000_000, amount=99))
    books.apply(Entry("said", NOON + 2 * HOUR, why="the ledger begins"))
    books.apply(Entry("leapt", NOON + 3 * HOUR, until=NOON + 4 * HOUR))
    rent(books, NOON + 5 * HOUR, name="wg-2")
    assert [line.text for line in books.why("2026-11", NOON + 6 * HOUR)] == [
        "wg-1 on runpod-pod (pod): 12 min 4 s at $0.72/h (RunPod's figure), ended 2026-11-21 12:12:04: idle",
        "disks on runpod-pod at $12.00 a month, to the month's end",
        "the ledger begins",
        "the clock was put forward to 2026-11-21 16:00:00; no time passed, nothing is booked for it",
        "wg-2 on runpod-pod (its id was never known): 1 h 0 min at $0.36/h, and costs on",
    ]


def test_what_went_on_into_the_next_month_says_so() -> None:
    books = rented(at("2026-11-30T23:59:50"))
    books.apply(books.ending("wg-1", at("2026-12-01T00:00:20"), "idle"))
    (november,), (december,) = books.why("2026-11", NOON), books.why("2026-12", NOON)
    assert november.text.endswith("10 s at $0.36/h, and went on into the next month") and "20 s at" in december.text


@pytest.mark.parametrize(
    ("amount", "text"),
    [(0, "$0.00"), (340_000, "$0.34"), (41, "$0.000041"), (1_204_500_000, "$1,204.50"), (-5_000, "-$0.005")],
)
def test_money_is_shown_in_full_and_to_the_cent_at_least(amount: int, text: str) -> None:
    assert dollars(amount) == text


def test_durations_are_shown_for_people() -> None:
    assert [span(seconds) for seconds in (0.4, 59, 724, 7_260)] == ["0 s", "59 s", "12 min 4 s", "2 h 1 min"]


def test_of_what_was_voided_after_it_was_booked_nothing_is_booked_or_taken_back() -> None:
    books, begun = Books(), at("2026-11-20T10:00:00")
    books.apply(Entry("adopted", begun, rental="a", price=1_000_000, since=begun))
    books.apply(books.booking("a", begun + HOUR))
    books.apply(Entry("voided", begun + HOUR, rental="a"))
    assert books.booking("a", begun + 2 * HOUR).amount == 0
    assert books.ending("a", begun + 2 * HOUR, "over").amount == 0


# -- whatever happens


class AnyLedger(RuleBasedStateMachine):
    """Lines in any order, by a clock that goes on, of rentals that are told of more than once and not in order."""

    def __init__(self) -> None:
        super().__init__()
        self.now = at("2026-11-29T20:00:00")
        self.lines: list[Entry] = []
        self.books = Books()
        self.before: dict[str, int] = {}
        self.void = 0

    def add(self, entry: Entry) -> None:
        self.lines.append(entry)
        self.books.apply(entry)

    names = st.sampled_from(["a", "b", "c"])
    prices = st.integers(0, 5_000_000)

    @rule(name=names, price=prices, amount=st.integers(0, 10_000_000))
    def intend(self, name: str, price: int, amount: int) -> None:
        self.add(Entry("intended", self.now, rental=name, price=price, amount=amount))

    @rule(name=names, price=prices, instance=st.sampled_from(["", "x", "y"]))
    def know(self, name: str, price: int, instance: str) -> None:
        self.add(Entry("known", self.now, rental=name, price=price, instance=instance))

    @rule(name=names)
    def book(self, name: str) -> None:
        if name in self.books.rentals:
            entry = self.books.booking(name, self.now)
            assert entry.amount >= 0
            self.add(entry)

    @rule(name=names, booked=st.booleans())
    def end(self, name: str, booked: bool) -> None:
        if booked and name in self.books.rentals:
            self.add(self.books.ending(name, self.now, "over"))
        else:
            self.add(Entry("ended", self.now, rental=name))

    @rule(name=names)
    def void_it(self, name: str) -> None:
        self.add(Entry("voided", self.now, rental=name))
        self.before = {}

    @rule(name=names, ago=st.integers(0, 3 * DAY), price=prices)
    def adopt(self, name: str, ago: int, price: int) -> None:
        self.add(Entry("adopted", self.now, rental=name, price=price, since=self.now - ago))

    @rule(amount=st.integers(0, 100), month=st.sampled_from(["2026-11", "2026-12"]), kind=st.booleans())
    def bill(self, amount: int, month: str, kind: bool) -> None:
        self.add(
            Entry("corrected" if kind else "storage", self.now, month=month, amount=amount, price=5, until=self.now)
        )

    @rule(further=st.integers(0, 20 * HOUR))
    def pass_time(self, further: int) -> None:
        self.now += further

    @rule(further=st.integers(1, 2 * DAY))
    def leap(self, further: int) -> None:
        self.add(Entry("leapt", self.now, until=self.now + further))
        self.now += further

    @rule()
    def restart(self) -> None:
        books = Books()
        for line in self.lines:
            books.apply(Entry.read(line.fields()))
        assert [books.spent(month, self.now) for month in self.months()] == [
            self.books.spent(month, self.now) for month in self.months()
        ]
        assert books.rentals == self.books.rentals and repr(books) == repr(self.books)
        self.books = books

    def months(self) -> list[str]:
        return ["2026-11", "2026-12", "2027-01"]

    @invariant()
    def a_month_never_goes_down_but_by_a_void(self) -> None:
        now = {month: self.books.spent(month, self.now) for month in self.months()}
        for month, spent in self.before.items():
            assert now[month] >= spent, f"{month} went down from {spent} to {now[month]}"
        self.before = now

    @invariant()
    def the_parts_add_up(self) -> None:
        for month in self.months():
            spent = self.books.spent(month, self.now)
            lines = self.books.why(month, self.now)
            assert sum(line.amount for line in lines) == spent, f"{month}: {lines}"
            assert sum(self.books.days(month, self.now).values()) + self.books.storage(month) == spent
            rentals = sum(share for _, share in self.books.by_rental(month, self.now))
            assert rentals + self.books.corrected(month) + self.books.storage(month) == spent
        for one in self.books.rentals.values():
            months = [("2026-10", "2026-11", "2026-12", "2027-01", "2027-02", "2027-03")]
            parts = [
                self.books.between(one, month_begins(month), month_ends(month), self.now)
                for group in months
                for month in group
            ]
            assert sum(parts) == self.books.cost(one, self.now)


TestAnyLedger = AnyLedger.TestCase
TestAnyLedger.settings = __import__("hypothesis").settings(max_examples=60, stateful_step_count=25, deadline=None)


@given(
    begins=st.integers(NOON - 40 * DAY, NOON),
    lasts=st.integers(0, 90 * DAY),
    price=st.integers(1, 50_000_000),
    cuts=st.lists(st.integers(0, 90 * DAY), max_size=5),
)
def test_what_something_costs_is_the_same_however_its_time_is_cut(
    begins: int, lasts: int, price: int, cuts: list[int]
) -> None:
    books = rented(begins, price=price)
    whole = books.rentals["wg-1"]
    edges = sorted({begins, begins + lasts, *(begins + min(cut, lasts) for cut in cuts)})
    parts = sum(books.between(whole, one, other, begins + lasts) for one, other in itertools.pairwise(edges))
    assert parts == books.cost(whole, begins + lasts) == -(-price * lasts // HOUR)
    booked = replace(whole)
    for cut in edges:
        books.apply(books.booking("wg-1", cut))
    assert books.rentals["wg-1"].booked == books.cost(booked, begins + lasts)
