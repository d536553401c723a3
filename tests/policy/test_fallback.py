"""When somebody else may answer, how long one that fails is left alone, and how many it takes to wake the GPU."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.policy.fallback import CASE_OF, CASES, Circuit, Often, Rules, WakeAfter

CHAT = "/v1/chat/completions"


def objection(route: str = CHAT, *, forbids: bool = False, key_may: bool = True) -> str:
    return Rules(frozenset({"waking"})).objection(route=route, forbids=forbids, key_may=key_may)


def test_a_plain_chat_may_be_answered_elsewhere() -> None:
    assert objection() == ""


def test_a_request_or_a_key_that_forbids_it_is_obeyed() -> None:
    assert objection(forbids=True) == "forbidden"
    assert objection(key_may=False) == "key"


@pytest.mark.parametrize("route", ["/v1/embeddings", "/v1/rerank", "/v1/responses", "/v1/messages", "/v1/score"])
def test_what_would_not_mean_the_same_elsewhere_stays(route: str) -> None:
    assert objection(route) == "route"


def test_each_case_but_the_waking_has_a_refusal_that_it_replaces() -> None:
    assert set(CASE_OF.values()) == set(CASES)


# -- the circuit ------------------------------------------------------------------------------


def test_one_that_failed_is_left_alone_for_twice_as_long_each_time() -> None:
    circuit = Circuit(first=2, most=300)
    now = 0.0
    for wait in (2, 4, 8, 16):
        circuit.failed(now)
        assert not circuit.may(now + wait - 0.01)
        assert circuit.may(now + wait)
        now += wait


def test_after_the_pause_one_request_tries_it_alone() -> None:
    circuit = Circuit(first=2)
    circuit.failed(0)
    assert [circuit.may(3), circuit.may(3), circuit.may(1000)] == [True, False, False]
    circuit.worked()
    assert [circuit.may(1000), circuit.may(1000)] == [True, True]


def test_a_try_whose_caller_left_says_nothing_and_the_next_one_tries() -> None:
    circuit = Circuit(first=2)
    circuit.failed(0)
    assert circuit.may(3)
    circuit.left()
    assert circuit.may(3)


def test_a_hundred_that_fail_together_count_once() -> None:
    circuit = Circuit(first=2)
    for _ in range(100):
        circuit.failed(1)
    assert circuit.may(3)


def test_it_is_left_alone_for_as_long_as_it_asks_but_not_for_ever() -> None:
    circuit = Circuit(first=2, most=300)
    circuit.failed(0, at_least=60)
    assert not circuit.may(59) and circuit.may(60)
    circuit.failed(60, at_least=1e9)
    assert circuit.may(360)


# -- waking -----------------------------------------------------------------------------------


def test_the_fifth_within_ten_minutes_wakes_it() -> None:
    wake = WakeAfter(Often(5, 600))
    assert [wake.came(t) for t in (0, 100, 200, 300, 400)] == [False] * 4 + [True]
    assert wake.came(401)


def test_stray_requests_never_wake_it() -> None:
    wake = WakeAfter(Often(2, 600))
    assert not any(wake.came(t * 600.0) for t in range(1000))


@given(st.integers(1, 6), st.lists(st.integers(0, 50), min_size=1, max_size=60))
def test_it_is_woken_exactly_when_so_many_came_within_the_span(count: int, gaps: list[int]) -> None:
    wake, now, times = WakeAfter(Often(count, 60)), 0.0, []
    for gap in gaps:
        now += gap
        times.append(now)
        assert wake.came(now) is (len([t for t in times if t > now - 60]) >= count)
