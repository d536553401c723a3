"""What was billed above what is booked is added, once; what bills lack, by lag or by rounding, takes nothing away."""

import datetime
from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from gateway.policy.books import DAY, HOUR, Books, Entry, month_begins, month_of
from gateway.policy.settlement import corrections, rebuilt


def at(text: str) -> int:
    return int(datetime.datetime.fromisoformat(text + "+00:00").timestamp() * 1000)


NOON = at("2026-11-21T12:00:00")
PRICE = 360_000
MINUTE = 60_000
NAME = "runpod-pod"


@dataclass(frozen=True)
class Bill:
    instance: str
    begins: float
    ends: float
    amount: int
    storage: int = 0


def hour(number: int, amount: int, *, instance: str = "pod", storage: int = 0) -> Bill:
    """The bill for one hour, counted from noon."""
    begins = NOON / 1000 + number * 3600
    return Bill(instance, begins, begins + 3600, amount, storage)


def rented(begins: int, ends: int, *, instance: str = "pod", books: Books | None = None, name: str = "wg-1") -> Books:
    books = Books() if books is None else books
    books.apply(Entry("intended", begins, rental=name, provider=NAME, price=PRICE))
    books.apply(Entry("known", begins, rental=name, instance=instance))
    books.apply(books.ending(name, ends, "idle"))
    return books


def settle(books: Books, bills: list[Bill], now: int) -> int:
    """Micro-dollars that were added."""
    lines = corrections(books, bills, now, NAME)
    for line in lines:
        books.apply(line)
    return sum(line.amount for line in lines)


def test_what_was_billed_above_the_books_is_added_and_said() -> None:
    books = rented(NOON, NOON + HOUR)
    (line,) = corrections(books, [hour(0, 400_000)], NOON + HOUR, NAME)
    assert line == Entry(
        "corrected",
        NOON + HOUR,
        provider=NAME,
        instance="pod",
        month="2026-11",
        amount=40_000,
        since=NOON,
        until=NOON + HOUR,
        why="its bills say $0.40, and $0.36 were booked",
    )


def test_it_is_added_once() -> None:
    books = rented(NOON, NOON + HOUR)
    assert settle(books, [hour(0, 400_000)], NOON + HOUR) == 40_000
    assert settle(books, [hour(0, 400_000)], NOON + 2 * HOUR) == 0
    assert settle(books, [hour(0, 410_000)], NOON + 2 * HOUR) == 10_000
    assert books.spent("2026-11", NOON + DAY) == 410_000


def test_a_bill_that_lacks_something_takes_nothing_away() -> None:
    books = rented(NOON, NOON + HOUR)
    assert settle(books, [hour(0, 10)], NOON + HOUR) == 0
    assert settle(books, [], NOON + HOUR) == 0
    assert books.spent("2026-11", NOON + DAY) == 360_000


def test_what_a_late_hour_lacks_hides_nothing_of_an_earlier_one() -> None:
    books = rented(NOON, NOON + 2 * HOUR)
    assert settle(books, [hour(0, 400_000), hour(1, 0)], NOON + 2 * HOUR) == 40_000
    assert settle(books, [hour(0, 400_000), hour(1, 400_000)], NOON + 3 * HOUR) == 40_000


def test_an_hour_that_is_not_over_is_not_looked_at() -> None:
    books = rented(NOON, NOON + HOUR)
    assert settle(books, [hour(0, 400_000)], NOON + HOUR - 1) == 0


def test_a_second_that_is_billed_in_the_next_hour_is_not_missing_at_each_seam() -> None:
    """The vendor's clock is ten seconds behind ours all the time: what it cost is the same."""
    books, billed = Books(), [0] * 21
    for number in range(20):
        begins = NOON + number * HOUR + 5_000
        rented(begins, begins + MINUTE, books=books, name=f"wg-{number}")
        billed[number], billed[number + 1] = billed[number] + 500, 5_500
    late = [hour(number - 1, amount) for number, amount in enumerate(billed)]
    assert settle(books, late, NOON + 21 * HOUR) == 500


def test_a_pod_that_somebody_else_started_is_ours_to_pay() -> None:
    books = rented(NOON, NOON + HOUR)
    assert settle(books, [hour(0, 360_000), hour(5, 360_000)], NOON + DAY) == 360_000


def test_a_rental_whose_id_was_never_learnt_is_what_an_unknown_bill_is_for() -> None:
    books = rented(NOON, NOON + HOUR, instance="")
    assert settle(books, [hour(0, 300_000, instance="who")], NOON + DAY) == 0
    assert settle(books, [hour(0, 400_000, instance="who")], NOON + DAY) == 40_000
    assert settle(books, [hour(0, 400_000, instance="who")], NOON + DAY) == 0


def test_an_unknown_bill_is_not_paid_by_a_rental_that_is_known() -> None:
    books = rented(NOON, NOON + HOUR)
    assert settle(books, [hour(0, 360_000), hour(0, 50_000, instance="who")], NOON + DAY) == 50_000


def test_two_unknown_ones_in_one_hour_are_compared_with_what_is_booked_once() -> None:
    books = rented(NOON, NOON + HOUR, instance="")
    bills = [hour(0, 300_000, instance="one"), hour(0, 300_000, instance="other")]
    assert settle(books, bills, NOON + DAY) == 240_000
    assert settle(books, bills, NOON + DAY) == 0


def test_one_that_is_told_of_twice_is_one() -> None:
    books = rented(NOON, NOON + HOUR)
    assert settle(books, [hour(0, 370_000), hour(0, 400_000), hour(0, 400_000)], NOON + DAY) == 40_000


def test_a_span_within_another_is_compared_with_what_is_booked_once() -> None:
    books = rented(NOON, NOON + HOUR)
    half = Bill("pod", NOON / 1000, NOON / 1000 + 1800, 180_000)
    assert settle(books, [half, hour(0, 360_000)], NOON + DAY) == 180_000


def test_what_still_runs_is_compared_up_to_the_hours_that_are_over() -> None:
    books = Books()
    books.apply(Entry("intended", NOON, rental="wg-1", provider=NAME, price=PRICE, instance="pod"))
    assert settle(books, [hour(0, 360_000)], NOON + HOUR + MINUTE) == 0
    assert settle(books, [hour(0, 361_000), hour(1, 999_999)], NOON + HOUR + MINUTE) == 1_000


def test_a_bill_over_the_end_of_a_month_is_cut_there_and_adds_up() -> None:
    midnight = month_begins("2026-12") / 1000
    books = Books()
    lines = corrections(books, [Bill("pod", midnight - 10, midnight + 20, 100)], NOON + 30 * DAY, NAME)
    assert [(line.month, line.amount) for line in lines] == [("2026-11", 33), ("2026-12", 67)]


def test_disks_are_billed_apart_and_only_above_what_is_reserved_for_the_whole_month() -> None:
    books = rented(NOON, NOON + HOUR)
    books.apply(Entry("storage", NOON, provider=NAME, month="2026-11", price=900, amount=900))
    assert settle(books, [hour(0, 360_900, storage=900)], NOON + DAY) == 0
    assert settle(books, [hour(0, 360_950, storage=950)], NOON + DAY) == 50
    assert books.storage("2026-11") == 950 and books.storage_rates() == {NAME: 900}


def test_a_bill_of_no_time_of_ours_is_none() -> None:
    nan, inf = float("nan"), float("inf")
    spans = [(nan, nan), (0.0, inf), (-inf, 0.0), (-5.0, 5.0), (10.0, 5.0), (1e300, 1e301)]
    assert corrections(Books(), [Bill("pod", begins, ends, 5) for begins, ends in spans], 2**52, NAME) == []


# -- a ledger that is lost


def test_a_lost_ledger_is_what_was_billed_by_days() -> None:
    bills = [hour(0, 100), hour(13, 50, storage=20), hour(1, 30, instance="other")]
    books = Books()
    for line in rebuilt(bills, NOON + DAY, NAME):
        books.apply(line)
    assert books.days("2026-11", NOON + DAY) == {"2026-11-21": 130, "2026-11-22": 30}
    assert books.storage("2026-11") == 20 and books.spent("2026-11", NOON + DAY) == 180
    assert {line.instance for line in books.corrections("2026-11")} == {"pod", "other"}


def test_the_hour_that_is_not_over_counts_too_and_its_rest_when_it_is() -> None:
    books = Books()
    for line in rebuilt([hour(0, 100)], NOON + MINUTE, NAME):
        books.apply(line)
    assert books.spent("2026-11", NOON + MINUTE) == 100
    assert settle(books, [hour(0, 360)], NOON + HOUR) == 260


def test_one_that_was_rebuilt_halfway_goes_on_from_there() -> None:
    bills = [hour(0, 100, storage=5), hour(13, 50), hour(30, 7, instance="other", storage=3)]
    whole = rebuilt(bills, NOON + 2 * DAY, NAME)
    for done in range(len(whole) + 1):
        books = Books()
        for line in whole[:done]:
            books.apply(line)
        for line in rebuilt(bills, NOON + 2 * DAY, NAME, books):
            books.apply(line)
        assert books.spent("2026-11", NOON + 2 * DAY) == 157


def test_what_runs_on_is_taken_over_without_being_paid_twice() -> None:
    """The pod has run for ten hours when the ledger is lost; its last bill lacks half of the last hour."""
    bills = [*(hour(number, 360_000) for number in range(9)), hour(9, 180_000)]
    now = NOON + 10 * HOUR
    books = Books()
    for line in rebuilt(bills, now, NAME):
        books.apply(line)
    since = max(NOON, books.billed_until("pod"))
    books.apply(Entry("adopted", now, rental="wg-1", instance="pod", price=PRICE, since=since))
    assert 3_600_000 <= books.spent("2026-11", now) <= 3_600_000 + 360_000
    assert settle(books, [hour(number, 360_000) for number in range(10)], now) == 0


def test_no_bills_are_no_lines() -> None:
    assert rebuilt([], NOON, NAME) == []


# -- whatever happens

billed = st.lists(
    st.builds(
        hour,
        st.integers(-30, 240),
        st.integers(0, 10**6),
        instance=st.sampled_from(["pod", "who", "other"]),
        storage=st.integers(0, 10**4),
    ),
    max_size=12,
    unique_by=lambda bill: (bill.instance, bill.begins),
)
runs = st.lists(st.tuples(st.integers(0, 200 * 60), st.integers(0, 300), st.sampled_from(["pod", "", "x"])), max_size=4)


@given(billed=billed, runs=runs)
def test_what_is_booked_is_never_less_than_what_was_billed_and_twice_is_once(
    billed: list[Bill], runs: list[tuple[int, int, str]]
) -> None:
    books = Books()
    for number, (begins, lasts, instance) in enumerate(runs):
        begins = NOON + begins * MINUTE
        rented(begins, begins + lasts * MINUTE, instance=instance, books=books, name=f"wg-{number}")
    now = NOON + 400 * HOUR
    settle(books, billed, now)
    assert settle(books, billed, now) == 0
    for month in ("2026-11", "2026-12"):
        total = sum(bill.amount for bill in billed if month_of(round(bill.begins * 1000)) == month)
        assert books.spent(month, now) >= total


@given(billed=billed)
def test_a_ledger_rebuilt_is_exactly_what_was_billed(billed: list[Bill]) -> None:
    books = Books()
    for line in rebuilt(billed, NOON + 400 * HOUR, NAME):
        books.apply(line)
    total = sum(max(bill.amount, 0) for bill in billed)
    assert sum(books.spent(month, 0) for month in ("2026-11", "2026-12")) == total
