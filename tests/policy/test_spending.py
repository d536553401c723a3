"""What keys spend: even shares of the price, exact to the last part, by calendar month."""

import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.policy.keys import Key
from gateway.policy.spending import Spending, month_of, problem, renewal

DOLLAR = 1_000_000
HOUR = 3600.0


def at(text: str) -> float:
    return datetime.datetime.fromisoformat(text + "+00:00").timestamp()


NOVEMBER = at("2026-11-21T12:00:00")


def spending(price: int = DOLLAR, wall: float = NOVEMBER) -> Spending:
    return Spending(price, now=0.0, wall=wall)


def spent(bills: Spending, name: str, now: float, began: float = NOVEMBER) -> int:
    return bills.spent(name, now, began + now)


def test_a_request_alone_pays_the_whole_price_of_its_time() -> None:
    bills = spending()
    bills.began("ann", 0.0, NOVEMBER)
    bills.ended("ann", HOUR)
    assert spent(bills, "ann", HOUR) == DOLLAR


def test_requests_side_by_side_split_each_second_evenly() -> None:
    bills = spending()
    bills.began("ann", 0.0, NOVEMBER)
    bills.began("bob", HOUR, NOVEMBER + HOUR)
    bills.ended("ann", 2 * HOUR)
    bills.ended("bob", 3 * HOUR)
    assert spent(bills, "ann", 3 * HOUR) == DOLLAR * 3 // 2
    assert spent(bills, "bob", 3 * HOUR) == DOLLAR * 3 // 2


def test_a_key_with_two_of_three_requests_pays_two_thirds() -> None:
    bills = spending(3 * DOLLAR)
    for name in ("ann", "ann", "bob"):
        bills.began(name, 0.0, NOVEMBER)
    for name in ("ann", "ann", "bob"):
        bills.ended(name, HOUR)
    assert spent(bills, "ann", HOUR) == 2 * DOLLAR
    assert spent(bills, "bob", HOUR) == DOLLAR


def test_a_price_that_changes_counts_from_then_on() -> None:
    bills = spending(0)
    bills.began("ann", 0.0, NOVEMBER)
    bills.reprice(DOLLAR, HOUR)
    bills.reprice(DOLLAR, HOUR + 5)
    bills.reprice(3 * DOLLAR, 2 * HOUR)
    bills.reprice(0, 3 * HOUR)
    bills.ended("ann", 9 * HOUR)
    assert spent(bills, "ann", 9 * HOUR) == 4 * DOLLAR


def test_shares_are_of_all_keys_wherever_they_were_counted() -> None:
    bills = spending()
    bills.began("ann", 0.0, NOVEMBER)
    bills.learn("2026-11", {"bob": 5, "ann": 7})
    assert bills.shares(HOUR, NOVEMBER + HOUR) == {"ann": DOLLAR + 7, "bob": 5}


def test_what_nobody_uses_is_nobodys() -> None:
    bills = spending()
    bills.began("ann", 0.0, NOVEMBER)
    bills.ended("ann", HOUR)
    bills.began("ann", 9 * HOUR, NOVEMBER + 9 * HOUR)
    bills.ended("ann", 10 * HOUR)
    assert spent(bills, "ann", 10 * HOUR) == 2 * DOLLAR


def test_a_request_in_flight_is_counted_up_to_now() -> None:
    bills = spending()
    bills.began("ann", 0.0, NOVEMBER)
    assert spent(bills, "ann", HOUR / 2) == DOLLAR // 2
    assert spent(bills, "nobody", HOUR / 2) == 0


def test_a_new_month_begins_at_nothing_and_running_requests_are_cut_at_its_first_second() -> None:
    began = at("2026-11-30T23:00:00")
    bills = spending(wall=began)
    bills.began("bob", 0.0, began)
    bills.ended("bob", 0.0)
    bills.began("ann", 0.0, began)
    assert bills.spent("ann", HOUR - 1, began + HOUR - 1) == DOLLAR * 3599 // 3600
    assert bills.spent("ann", HOUR, began + HOUR) == 0
    bills.ended("ann", 1.5 * HOUR)
    assert bills.month == "2026-12"
    assert bills.spent("ann", 2 * HOUR, began + 2 * HOUR) == DOLLAR // 2
    assert bills.books(2 * HOUR, began + 2 * HOUR) == {
        "2026-11": {"ann": DOLLAR, "bob": 0},
        "2026-12": {"ann": DOLLAR // 2},
    }


def test_a_request_that_runs_through_a_whole_month_pays_for_each() -> None:
    began = at("2026-11-30T00:00:00")
    bills = spending(wall=began)
    bills.began("ann", 0.0, began)
    bills.ended("ann", 33 * 24 * HOUR)
    assert bills.books(33 * 24 * HOUR, began + 33 * 24 * HOUR) == {
        "2026-12": {"ann": 31 * 24 * DOLLAR},
        "2027-01": {"ann": 24 * DOLLAR},
    }


def test_a_month_is_not_taken_back_when_the_clock_is() -> None:
    began = at("2026-12-01T00:00:10")
    bills = spending(wall=began)
    bills.began("ann", 0.0, began)
    assert bills.spent("ann", 3600.0, at("2026-11-30T23:59:50")) == DOLLAR
    assert bills.month == "2026-12"
    bills.ended("ann", 7200.0)
    assert bills.spent("ann", 7200.0, at("2020-01-01T00:00:00")) == 2 * DOLLAR


@pytest.mark.parametrize("jump", [-400 * 24 * HOUR, -10.0, 10.0, HOUR], ids=["a year back", "back", "on", "an hour on"])
def test_a_clock_that_is_set_costs_nobody_anything(jump: float) -> None:
    """Time is measured by the other clock, which nobody sets."""
    bills = spending()
    bills.began("ann", 0.0, NOVEMBER)
    assert bills.spent("ann", 10.0, NOVEMBER + 10 + jump) == 10 * DOLLAR // 3600
    bills.ended("ann", 20.0)
    assert bills.spent("ann", 20.0, NOVEMBER + 20) == 20 * DOLLAR // 3600


def test_time_that_goes_back_books_nothing() -> None:
    bills = Spending(DOLLAR, now=HOUR, wall=NOVEMBER)
    bills.began("ann", 0.5 * HOUR, NOVEMBER)
    bills.ended("ann", 0.9 * HOUR)
    assert bills.spent("ann", HOUR, NOVEMBER) == 0


@pytest.mark.parametrize("wall", [-1e18, 0.0, 1e18])
def test_a_clock_that_is_mad_stops_nothing(wall: float) -> None:
    bills = spending(wall=wall)
    bills.began("ann", 0.0, wall)
    bills.ended("ann", HOUR)
    assert bills.spent("ann", HOUR, wall) == DOLLAR


def test_what_others_counted_is_added_and_a_later_month_of_theirs_is_believed() -> None:
    bills = spending()
    bills.began("ann", 0.0, NOVEMBER)
    bills.ended("ann", HOUR)
    bills.learn("2026-11", {"ann": 5, "eve": 7})
    assert spent(bills, "ann", HOUR) == DOLLAR + 5
    assert spent(bills, "eve", HOUR) == 7
    bills.learn("2026-11", {"ann": 6})
    assert (spent(bills, "ann", HOUR), spent(bills, "eve", HOUR)) == (DOLLAR + 6, 0)
    bills.learn("2026-10", {"ann": 1000})
    assert spent(bills, "ann", HOUR) == DOLLAR + 6
    bills.learn("2026-12", {"ann": 3})
    assert (bills.month, spent(bills, "ann", HOUR)) == ("2026-12", 3)


def test_only_what_was_counted_here_is_in_the_books() -> None:
    bills = spending()
    bills.began("ann", 0.0, NOVEMBER)
    bills.ended("ann", HOUR)
    bills.learn("2026-11", {"ann": 5, "eve": 7})
    assert bills.books(HOUR, NOVEMBER + HOUR) == {"2026-11": {"ann": DOLLAR, "eve": 0}}


@pytest.mark.parametrize(
    ("month", "next_one"),
    [("2026-11", "2026-12"), ("2026-12", "2027-01"), ("2028-02", "2028-03"), ("1970-01", "1970-02")],
)
def test_a_month_ends_with_its_last_second_in_utc(month: str, next_one: str) -> None:
    assert renewal(month) == at(f"{next_one}-01T00:00:00")
    assert month_of(renewal(month)) == next_one
    assert month_of(renewal(month) - 0.001) == month


def test_the_last_month_that_there_is_ends_too() -> None:
    assert renewal("9999-12") > renewal("9999-11")


def test_its_repr_tells_who_spent_what() -> None:
    bills = spending()
    bills.began("ann", 0.0, NOVEMBER)
    spent(bills, "ann", HOUR)
    assert repr(bills) == "<Spending 2026-11, 1 in flight at 1 $/h, {'ann': 1.0}>"


def test_a_limit_in_money_needs_a_price() -> None:
    keys = [Key(name, b"", monthly_spend=1) for name in ("ann", "bob", "eve", "kim")]
    assert problem([], None) is None
    assert problem([Key("ann", b"")], None) is None
    assert problem(keys, 1) is None
    assert problem(keys[:1], None) == (
        "monthly_spend is set for ann, and HOURLY_PRICE is not: nothing can be counted without a price."
    )
    said = problem(keys, None)
    assert said is not None and "ann, bob, eve and 1 more" in said


@given(st.integers(1, 100 * DOLLAR), st.data())
def test_the_shares_add_up_to_the_price_of_the_time_in_use(price: int, data: st.DataObject) -> None:
    """Exactly: nothing is made and nothing lost; what cannot be split waits until it can."""
    bills = Spending(price, now=0.0, wall=0.0)
    now, busy = 0, 0
    running: list[str] = []
    for _ in range(data.draw(st.integers(1, 30))):
        gap = data.draw(st.integers(0, 10**9))
        now, busy = now + gap, busy + (gap if running else 0)
        if running and data.draw(st.booleans()):
            bills.ended(running.pop(data.draw(st.integers(0, len(running) - 1))), now / 1e6)
        else:
            running.append(data.draw(st.sampled_from("abc")))
            bills.began(running[-1], now / 1e6, 0.0)
    parts = sum(bill.booked + bill.running * bills._paid for bill in bills._bills.values())
    assert parts + bills._rest == busy * price
    total = sum(sum(month.values()) for month in bills.books(now / 1e6, 0.0).values())
    assert 0 <= busy * price // 3_600_000_000 - total <= 3
