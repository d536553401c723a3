"""The one for real may not cost more than it was given, changes no other setting, and begins only where it can end."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config import load
from gateway.policy.books import HOUR, Books
from gateway.policy.budget import Fits, Terms, judge
from gateway.records.metrics import Metrics
from gateway.records.readings import MoneyFacts
from gateway.rehearsal.play import Failed
from gateway.rehearsal.real import GRACE, Bounds, Calls, bounds, environment, overrides
from gateway.surroundings import read_file

T = 1_795_000_000_000


def test_five_cents_are_so_many_seconds() -> None:
    limits = bounds(340_000, 50_000, spent=3_000_000, budget=20_000_000)
    assert limits == Bounds(340_000, budget=3_050_000, start_max=459, max_runtime=529)


def test_a_budget_that_ends_sooner_is_kept() -> None:
    assert bounds(340_000, 50_000, spent=3_000_000, budget=3_010_000).budget == 3_010_000
    assert bounds(340_000, 50_000, spent=3_000_000, budget=None).budget == 3_050_000


def test_too_little_says_how_much_it_would_need() -> None:
    with pytest.raises(Failed, match=r"at \$2.69 an hour \$0.05 last for 66 s, .* give at least 0.10") as caught:
        bounds(2_690_000, 50_000, 0, None)
    assert caught.value.code == 2
    assert bounds(2_690_000, 100_000, 0, None).start_max >= 60


@given(st.integers(10_000, 50_000_000), st.integers(1_000, 5_000_000), st.integers(0, 10**9))
def test_the_gateway_starts_with_these_bounds_and_never_costs_more(price: int, up_to: int, spent: int) -> None:
    try:
        limits = bounds(price, up_to, spent, None)
    except Failed:
        return
    terms = Terms(limits.budget - spent, grace=GRACE * 1000, start_max=limits.start_max * 1000)
    verdict = judge(Books(), terms, price, T)
    assert isinstance(verdict, Fits) and verdict.reservation <= up_to
    assert limits.max_runtime * 1000 * price <= up_to * HOUR


def test_what_it_changes_comes_before_everything_that_the_user_set() -> None:
    changed = overrides(bounds(340_000, 50_000, 0, None), 18000, "sk-of-this-run-0123456789")
    users = {
        "PROVIDER": "runpod-pod",
        "RUNPOD_API_KEY": "rpa_0123456789abcdefghij",
        "RUNPOD_POD_ID": "abc",
        "UPSTREAM_API_KEY": "sk-of-the-pod-0123456789",
        "WAKEGATE_INACTIVITY_LIMIT": "999",
        "IDLE_TIMEOUT": "600",
        "WAKEGATE_PORT": "9000",
        "API_KEY": "sk-of-the-user-0123456789",
        "MONTHLY_BUDGET": "20",
        "WAKEGATE_RUN_DIR": "/run/of/another",
        "MODEL": "kept",
    }
    env = environment(users, changed)
    assert "WAKEGATE_RUN_DIR" not in env
    settings = load(env, read=read_file)
    assert settings.port == 18000 and settings.monthly_budget == 50_000 and settings.idle_timeout == 3
    assert settings.on_exit == "stop" and not settings.wake_on_start and settings.model == "kept"
    assert settings.api_key is not None and settings.api_key.get_secret_value() == "sk-of-this-run-0123456789"
    assert settings.runpod_pod_id == "abc"


def test_calls_are_told_once_by_kind_and_those_that_begin_or_end_something_each_time() -> None:
    """Read from the page that a gateway has, so that none of its names can change unnoticed."""
    price, told = [0], []
    metrics = Metrics()
    metrics.watch_money(lambda: MoneyFacts(0, price=price[0]), "runpod-pod")
    calls = Calls(lambda who, what: told.append(what))
    calls.read(metrics.page().decode())
    assert told == []
    metrics.provider_called("runpod-pod", "look", "ok")
    metrics.provider_called("runpod-pod", "start", "capacity")
    calls.read(metrics.page().decode())
    metrics.provider_called("runpod-pod", "look", "ok")
    metrics.provider_called("runpod-pod", "start", "capacity")
    price[0] = 340_000
    calls.read(metrics.page().decode())
    price[0] = 0
    calls.read(metrics.page().decode())
    calls.read("")
    assert told == [
        "is asked for look: ok",
        "is asked for start: capacity",
        "is asked for start: capacity",
        "costs $0.34 an hour from now on",
        "costs nothing any more",
    ]
