"""What counts as use, and the clock of idle time."""

import pytest

from gateway.policy.activity import IdleClock, is_activity


@pytest.mark.parametrize("status", [200, 201, 206, 302, 500, 502, 504])
def test_an_answer_is_use(status: int) -> None:
    """Also a failed one: the engine worked on it."""
    assert is_activity(status)


@pytest.mark.parametrize("status", [400, 401, 404, 413, 422, 429, 499])
def test_a_wrong_request_is_no_use(status: int) -> None:
    """A client that repeats one for days must not keep a GPU."""
    assert not is_activity(status)


def test_a_caller_who_left_before_the_answer_began_was_use() -> None:
    assert is_activity(None)


def test_a_stopped_clock_never_runs_out() -> None:
    clock = IdleClock()
    clock.used(5)
    assert (clock.runs, clock.runs_out(10), clock.last_activity) == (False, None, 5)


def test_the_later_of_ready_and_activity_counts() -> None:
    clock = IdleClock()
    clock.start(100)
    assert clock.runs_out(10) == 110
    clock.used(107)
    assert clock.runs_out(10) == 117
    clock.start(112)
    assert (clock.runs_out(10), clock.last_activity) == (122, 107)


def test_never_is_never() -> None:
    clock = IdleClock()
    clock.start(100)
    assert clock.runs_out(None) is None


def test_once_stopped_only_the_last_activity_is_remembered() -> None:
    clock = IdleClock()
    clock.start(0)
    clock.used(3)
    assert repr(clock) == "<IdleClock since 3, used 3>"
    clock.stop()
    assert (clock.runs, clock.last_activity) == (False, 3)
    assert repr(clock) == "<IdleClock stopped, used 3>"
