"""How long between two tries, and when it is enough."""

from hypothesis import given
from hypothesis import strategies as st

from gateway.policy.backoff import Tries, pause


def tries(limit: int = 3) -> Tries:
    return Tries(limit=limit, first=1, most=30, circuit_first=60, circuit_most=900)


def test_the_pause_doubles_up_to_its_limit() -> None:
    assert [pause(n, first=1, most=30) for n in range(7)] == [1, 2, 4, 8, 16, 30, 30]


@given(st.integers(0, 10**6), st.floats(0.001, 100), st.floats(0.001, 1e6))
def test_the_pause_is_never_longer_than_its_limit_however_often_it_failed(n: int, first: float, most: float) -> None:
    """2.0 ** 1024 would be an OverflowError, on the seventeenth hour of a stop that fails."""
    assert 0 < pause(n, first=first, most=most) <= most


def test_whole_milliseconds_stay_whole() -> None:
    assert isinstance(pause(3, first=1000, most=30000), int)


def test_the_third_failure_in_a_row_is_enough() -> None:
    memory = tries()
    for expected in (False, False, True):
        memory.failed("start_failed", "It ended.", lasting=False, now=10)
        assert memory.given_up is expected
    assert memory.retry_at == 14


def test_a_lasting_failure_is_enough_by_itself() -> None:
    memory = tries()
    memory.failed("start_failed", "The model is not there.", lasting=True, now=10)
    assert memory.given_up


def test_no_capacity_is_told_after_one_try_and_tried_again_each_minute() -> None:
    memory = tries()
    for now in (10, 70, 130):
        memory.failed("no_capacity", "No such GPU is free.", lasting=False, now=now)
        assert memory.given_up
        memory.give_up(now=now)
        assert memory.retry_at == now + 60


def test_given_up_again_the_pause_doubles_up_to_its_limit() -> None:
    memory, pauses = tries(limit=1), []
    for _ in range(6):
        memory.failed("start_failed", "It ended.", lasting=False, now=0)
        memory.give_up(now=0)
        pauses.append(memory.retry_at)
    assert pauses == [60, 120, 240, 480, 900, 900]


def test_after_a_success_one_more_failure_is_enough_again() -> None:
    memory = tries()
    memory.failed("start_failed", "It ended.", lasting=True, now=0)
    memory.give_up(now=0)
    memory.succeeded()
    assert (memory.given_up, memory.retry_at) == (False, None)
    memory.failed("start_failed", "It ended.", lasting=False, now=100)
    assert memory.given_up
    memory.give_up(now=100)
    assert memory.retry_at == 220


def test_health_forgets_all_but_the_last_reason() -> None:
    memory = tries()
    memory.failed("start_failed", "It ended.", lasting=True, now=0)
    memory.give_up(now=0)
    memory.healthy()
    assert (memory.failures, memory.openings, memory.retry_at, memory.given_up) == (0, 0, None, False)
    assert (memory.code, memory.reason) == ("start_failed", "It ended.")


def test_the_repr_says_why_and_until_when() -> None:
    memory = tries()
    assert repr(memory) == "<Tries none failed>"
    memory.failed("start_failed", "It ended.", lasting=False, now=5)
    assert repr(memory) == "<Tries 1 failed, given up 0 times, next at 6: It ended.>"
