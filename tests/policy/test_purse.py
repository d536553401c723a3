"""What a paid API may cost: never above the limit, whoever asks and in whatever order it ends."""

import datetime

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from gateway.policy.purse import Book, Prices

DOLLAR = 1_000_000


def at(text: str) -> float:
    return datetime.datetime.fromisoformat(text + "+00:00").timestamp()


NOVEMBER, DECEMBER = at("2026-11-21T12:00:00"), at("2026-12-01T00:00:00")


def test_a_price_is_rounded_up_to_the_micro_dollar() -> None:
    prices = Prices(150_000, 600_000)  # 0.15 and 0.60 dollars for a million
    assert prices.cost(1_000_000, 1_000_000) == 750_000
    assert prices.cost(1, 0) == 1 and prices.cost(0, 0) == 0
    assert prices.cost(10, 0) == 2


def test_what_may_cost_more_than_is_left_is_not_sent() -> None:
    book = Book(DOLLAR, wall=NOVEMBER)
    assert book.reserve(600_000, NOVEMBER)
    assert not book.reserve(400_001, NOVEMBER)
    assert book.reserve(400_000, NOVEMBER)


def test_what_was_not_spent_is_free_again() -> None:
    book = Book(DOLLAR, wall=NOVEMBER)
    assert book.reserve(DOLLAR, NOVEMBER)
    book.settle(DOLLAR, 10, NOVEMBER)
    assert book.spent == 10
    assert book.reserve(DOLLAR - 10, NOVEMBER)


def test_what_others_and_earlier_runs_spent_counts() -> None:
    book = Book(DOLLAR, wall=NOVEMBER)
    book.learn("2026-11", 900_000)
    assert not book.reserve(100_001, NOVEMBER) and book.reserve(100_000, NOVEMBER)
    book.learn("2026-10", 5)
    assert book.spent == 900_000


def test_a_new_month_begins_at_nothing_but_for_what_is_still_open() -> None:
    book = Book(DOLLAR, wall=NOVEMBER)
    assert book.reserve(DOLLAR, NOVEMBER)
    assert not book.reserve(1, DECEMBER)
    book.settle(DOLLAR, 300_000, DECEMBER)
    assert (book.month, book.spent) == ("2026-12", 300_000)
    assert book.books(book.due) == {"2026-11": 0, "2026-12": 300_000}


def test_a_clock_that_is_set_back_brings_no_month_back() -> None:
    book = Book(DOLLAR, wall=DECEMBER)
    assert book.reserve(DOLLAR, DECEMBER)
    book.settle(DOLLAR, DOLLAR, NOVEMBER)
    assert not book.reserve(1, NOVEMBER)


def test_the_volume_is_given_a_little_more_than_is_due_but_never_above_the_limit() -> None:
    book = Book(100 * DOLLAR, wall=NOVEMBER)
    assert book.reserve(DOLLAR, NOVEMBER)
    assert (book.due, book.ceiling) == (DOLLAR, 3 * DOLLAR)
    book.learn("2026-11", 98 * DOLLAR)
    assert book.ceiling == 2 * DOLLAR


@given(st.integers(0, 10**9), st.integers(0, 10**9), st.integers(0, 10**7), st.integers(0, 10**7))
def test_what_fewer_tokens_cost_is_never_more(prompt: int, out: int, less: int, fewer: int) -> None:
    prices = Prices(2_500_000, 10_000_000)
    assert prices.cost(max(0, prompt - less), max(0, out - fewer)) <= prices.cost(prompt, out)


class SpendStory(RuleBasedStateMachine):
    """Requests come, end, break off and are never told of, over months; the process dies and starts again."""

    def __init__(self) -> None:
        super().__init__()
        self.limit = DOLLAR
        self.wall = NOVEMBER
        self.book = Book(self.limit, wall=self.wall)
        self.open: list[tuple[int, int]] = []
        self.kept: dict[str, int] = {}
        """What lies on the volume: written before anything is sent."""
        self.before: dict[str, int] = {}
        """What the volume held when this process began."""
        self.paid: dict[str, int] = {}
        """What the vendor really bills, by the month in which a request ended."""

    @rule(most=st.integers(0, 400_000), share=st.integers(0, 100))
    def asks(self, most: int, share: int) -> None:
        if self.book.reserve(most, self.wall):
            self.keep()
            self.open.append((most, most * share // 100))

    @precondition(lambda self: self.open)
    @rule(index=st.integers(0, 10**6), says=st.booleans())
    def ends(self, index: int, says: bool) -> None:
        most, cost = self.open.pop(index % len(self.open))
        self.book.settle(most, cost if says else most, self.wall)
        self.bill(cost)

    @rule(days=st.integers(1, 20))
    def time_passes(self, days: int) -> None:
        self.wall += days * 86_400
        self.book.look(self.wall)
        if self.book.due:
            self.keep()

    @rule()
    def is_killed_and_starts_again(self) -> None:
        for _, cost in self.open:
            self.bill(cost)
        self.open.clear()
        self.book = Book(self.limit, wall=self.wall)
        self.before = dict(self.kept)
        month = max(self.kept, default="")
        self.book.learn(month, self.kept.get(month, 0))

    def keep(self) -> None:
        for month, amount in self.book.books(self.book.ceiling).items():
            self.kept[month] = self.before.get(month, 0) + amount

    def bill(self, cost: int) -> None:
        self.paid[self.book.month] = self.paid.get(self.book.month, 0) + cost

    @invariant()
    def the_limit_holds(self) -> None:
        assert self.book.spent + self.book.reserved <= self.limit
        assert all(paid <= self.limit for paid in self.paid.values())
        assert self.kept.get(self.book.month, 0) <= self.limit


TestSpendStory = SpendStory.TestCase
