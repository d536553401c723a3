"""The rate: what it lets through, when it says to come back, and that what is given back is there again."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.policy.rates import Rate, Taken

MINUTE = 60_000


def test_a_whole_periods_limit_may_be_taken_at_once_and_then_one_by_one() -> None:
    rate = Rate(6, MINUTE)
    assert all(rate.take(1, 0) for _ in range(6))
    assert rate.take(1, 0) is None
    assert rate.wait(1, 0) == 10_000
    assert rate.take(1, 9_999) is None
    assert rate.take(1, 10_000) is not None
    assert rate.take(1, 10_000) is None


def test_a_rate_that_does_not_divide_the_period_lets_nobody_in_a_moment_early() -> None:
    rate = Rate(7, MINUTE)
    rate.take(7, 0)
    assert rate.wait(1, 0) == 8_572  # 60,000 / 7 = 8,571.4
    assert rate.take(1, 8_571) is None
    assert rate.take(1, 8_572) is not None


def test_whoever_is_refused_has_taken_nothing() -> None:
    rate = Rate(6, MINUTE)
    rate.take(6, 0)
    for now in range(0, 10_000, 100):
        assert rate.take(1, now) is None
    assert rate.take(1, 10_000) is not None


def test_more_than_the_limit_counts_as_the_whole_limit() -> None:
    """Else a request of that size could never be let in."""
    rate = Rate(100, MINUTE)
    taken = rate.take(10**30, 0)
    assert taken is not None
    assert taken.cost == 100
    assert rate.wait(10**30, 0) == MINUTE
    assert rate.take(10**30, MINUTE) is not None


def test_how_a_caller_stands() -> None:
    rate = Rate(7, MINUTE)
    standing = rate.standing(0)
    assert (standing.limit, standing.remaining, standing.reset) == (7, 7, 0)
    rate.take(2, 0)
    standing = rate.standing(0)
    assert (standing.remaining, standing.reset) == (5, 17_143)  # two sevenths of a minute, and never said too short
    assert rate.standing(17_142).remaining == 6
    assert rate.standing(17_143).reset == 0


def test_what_is_given_back_is_there_again() -> None:
    rate = Rate(2, MINUTE)
    first, second = rate.take(1, 0), rate.take(1, 0)
    assert first is not None and second is not None
    assert rate.take(1, 0) is None
    rate.give_back(first, 0)
    assert rate.standing(0).remaining == 1
    rate.give_back(second, 0)
    assert rate.standing(0).remaining == 2
    assert rate.standing(0).reset == 0


def test_what_time_has_forgiven_is_not_given_back_again() -> None:
    """A long request that is returned must not pay for another one that was used meanwhile."""
    rate = Rate(2, MINUTE)
    long = rate.take(2, 0)
    assert long is not None
    kept = rate.take(2, MINUTE)
    assert kept is not None
    rate.settle(kept, 2, MINUTE)
    rate.give_back(long, MINUTE)
    assert rate.standing(MINUTE).remaining == 0


def test_less_than_was_taken_gives_the_difference_back() -> None:
    rate = Rate(100, MINUTE)
    taken = rate.take(80, 0)
    assert taken is not None
    rate.settle(taken, 30, 0)
    assert rate.standing(0).remaining == 70


def test_more_than_was_taken_is_owed_also_above_the_limit() -> None:
    rate = Rate(100, MINUTE)
    taken = rate.take(1, 0)
    assert taken is not None
    rate.settle(taken, 250, 0)
    assert rate.standing(0).remaining == 0
    assert rate.wait(1, 0) == 151 * MINUTE // 100
    assert rate.take(1, 151 * MINUTE // 100) is not None


def test_a_higher_limit_applies_at_once_and_what_was_used_stays_used() -> None:
    rate = Rate(2, MINUTE)
    rate.take(2, 0)
    rate.change(10, 0)
    assert rate.limit == 10
    assert rate.standing(0).remaining == 8


def test_a_lower_limit_makes_nobody_pay_for_what_was_allowed() -> None:
    rate = Rate(100, MINUTE)
    taken = rate.take(80, 0)
    assert taken is not None
    rate.change(10, 0)
    assert rate.wait(1, 0) == 6_000
    rate.give_back(taken, 0)
    assert rate.standing(0).remaining == 10


def test_time_stands_still_when_the_clock_goes_back() -> None:
    rate = Rate(1, MINUTE)
    rate.take(1, 100_000)
    assert rate.wait(1, 50_000) == MINUTE
    assert rate.take(1, 160_000) is not None


def test_a_rate_that_lets_nobody_in_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="lets nobody in"):
        Rate(0, MINUTE)


def test_its_repr_tells_how_full_it_is() -> None:
    rate = Rate(10, MINUTE)
    rate.take(5, 0)
    rate.take(1, 3_000)
    assert repr(rate) == "<Rate 5.50 of 10 per 60000 used at 3000, 2 open>"


# -- for every way of using it ----------------------------------------------------------------

limits = st.integers(1, 50)
steps = st.lists(st.tuples(st.integers(0, 20_000), st.integers(1, 60)), min_size=1, max_size=60)


@given(limits, steps)
def test_no_stretch_of_time_lets_more_through_than_the_limit_and_its_refill(
    limit: int, steps: list[tuple[int, int]]
) -> None:
    """GCRA's promise: between any two moments at most a whole limit, and what came in at the rate's pace."""
    rate, now, let_in = Rate(limit, MINUTE), 0, []
    for gap, cost in steps:
        now += gap
        taken = rate.take(cost, now)
        if taken is not None:
            let_in.append((now, taken.cost))
    for start, (begin, _) in enumerate(let_in):
        total = 0
        for end, cost in let_in[start:]:
            total += cost
            assert total <= limit + Fraction((end - begin) * limit, MINUTE)


@given(limits, steps, st.integers(1, 60))
def test_coming_back_when_it_says_succeeds_and_one_moment_earlier_fails(
    limit: int, steps: list[tuple[int, int]], cost: int
) -> None:
    rate, now = Rate(limit, MINUTE), 0
    for gap, each in steps:
        now += gap
        rate.take(each, now)
    wait = rate.wait(cost, now)
    if wait:
        assert rate.wait(cost, now + wait - 1) == 1
        assert rate.take(cost, now + wait - 1) is None
    assert rate.take(cost, now + wait) is not None


class Naive:
    """The same bucket by the book, in fractions, knowing only what was kept."""

    def __init__(self, limit: int) -> None:
        self.limit, self.level, self.at = limit, Fraction(0), 0

    def add(self, cost: int, now: int) -> None:
        self.look(now)
        self.level += cost

    def look(self, now: int) -> Fraction:
        self.level = max(Fraction(0), self.level - Fraction((now - self.at) * self.limit, MINUTE))
        self.at = now
        return self.level


def level(rate: Rate, now: int) -> Fraction:
    """How full it is, exactly: by what would have to wait."""
    rate.standing(now)
    return Fraction(rate._level, MINUTE)


@given(limits, st.data())
def test_when_all_that_is_open_is_given_back_it_is_as_if_it_had_never_been_taken(
    limit: int, data: st.DataObject
) -> None:
    """In any order, and however long it was open. Meanwhile it never forgets what others kept."""
    rate, naive, now = Rate(limit, MINUTE), Naive(limit), 0
    open_: list[Taken] = []
    for _ in range(data.draw(st.integers(1, 40))):
        now += data.draw(st.integers(0, 20_000))
        kept, cost = data.draw(st.booleans()), data.draw(st.integers(1, 60))
        taken = rate.take(cost, now)
        if taken is not None and kept:
            rate.settle(taken, taken.cost, now)
            naive.add(taken.cost, now)
        elif taken is not None:
            open_.append(taken)
        assert naive.look(now) <= level(rate, now) <= limit
        if open_ and data.draw(st.booleans()):
            rate.give_back(open_.pop(data.draw(st.integers(0, len(open_) - 1))), now)
    for taken in data.draw(st.permutations(open_)):
        assert naive.look(now) <= level(rate, now)
        rate.give_back(taken, now)
    assert level(rate, now) == naive.look(now)


@given(limits, st.data())
def test_giving_back_at_once_restores_exactly(limit: int, data: st.DataObject) -> None:
    rate, now = Rate(limit, MINUTE), 0
    for _ in range(data.draw(st.integers(0, 20))):
        now += data.draw(st.integers(0, 20_000))
        rate.take(data.draw(st.integers(1, 60)), now)
    before = level(rate, now)
    taken = rate.take(data.draw(st.integers(1, 60)), now)
    if taken is not None:
        rate.give_back(taken, now)
    assert level(rate, now) == before


@given(limits, st.data())
def test_what_is_kept_in_the_end_has_kept_to_the_rate(limit: int, data: st.DataObject) -> None:
    """Whatever was taken and returned in between, late or soon: those who kept theirs never had more than GCRA lets."""
    rate, now = Rate(limit, MINUTE), 0
    taken: list[tuple[int, Taken, bool]] = []
    for _ in range(data.draw(st.integers(1, 40))):
        now += data.draw(st.integers(0, 20_000))
        one = rate.take(data.draw(st.integers(1, 60)), now)
        if one is not None:
            taken.append((now, one, False))
        if taken and data.draw(st.booleans()):
            place = data.draw(st.integers(0, len(taken) - 1))
            began, one, returned = taken[place]
            if not returned:
                rate.give_back(one, now)
                taken[place] = (began, one, True)
    kept = [(began, one.cost) for began, one, returned in taken if not returned]
    for start, (begin, _) in enumerate(kept):
        total = 0
        for end, cost in kept[start:]:
            total += cost
            assert total <= limit + Fraction((end - begin) * limit, MINUTE)
