"""What a key may take: who is let in, what the others are told, and what is given back."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import Refusal, Refused
from gateway.policy.keys import Key
from gateway.policy.spending import Spending
from gateway.proxy.usage import Usage
from gateway.records.spent import Elsewhere
from gateway.web.quota import FREE, Grant, Quotas, spell

NOW, WALL = 1000.0, 1_795_262_400.0  # 2026-11-21T12:00:00Z
HOUR = 3600.0


def key(name: str = "ann", **limits: Any) -> Key:
    return Key(name, b"digest", **limits)


def admit(quotas: Quotas, who: Key | None, now: float = NOW, *, tokens: int = 0) -> Grant:
    return quotas.admit(who, tokens=tokens, now=now, wall=WALL + now - NOW)


def refused(quotas: Quotas, who: Key, now: float = NOW, *, tokens: int = 0) -> Refusal:
    with pytest.raises(Refused) as caught:
        admit(quotas, who, now, tokens=tokens)
    assert caught.value.refusal.status == 429
    return caught.value.refusal


def head(refusal: Refusal) -> dict[str, str]:
    return dict(refusal.head())


# -- requests and tokens per minute -----------------------------------------------------------


def test_a_key_without_limits_holds_nothing() -> None:
    quotas = Quotas()
    assert admit(quotas, key()) is FREE
    assert admit(quotas, None) is FREE
    assert FREE.headers == ()
    FREE.close(NOW, used=Usage(1, 1))
    FREE.close(NOW)


def test_requests_per_minute() -> None:
    quotas, ann = Quotas(), key(requests_per_minute=6)
    for _ in range(6):
        admit(quotas, ann).close(NOW)
    refusal = refused(quotas, ann)
    assert refusal.code == "rate_limit_exceeded"
    assert "6 requests per minute. Come back in 10 s." in refusal.message
    assert head(refusal) == {
        "x-ratelimit-limit-requests": "6",
        "x-ratelimit-remaining-requests": "0",
        "x-ratelimit-reset-requests": "1m0s",
        "Retry-After": "10",
        "x-should-retry": "true",
    }
    admit(quotas, key("bob", requests_per_minute=6))
    refused(quotas, ann, NOW + 9)
    admit(quotas, ann, NOW + 10)


def test_tokens_per_minute_are_reserved_at_the_start_and_settled_at_the_end() -> None:
    quotas, ann = Quotas(), key(tokens_per_minute=1000)
    grant = admit(quotas, ann, tokens=800)
    assert dict(grant.headers) == {
        "x-ratelimit-limit-tokens": "1000",
        "x-ratelimit-remaining-tokens": "200",
        "x-ratelimit-reset-tokens": "48s",
    }
    refusal = refused(quotas, ann, tokens=800)
    assert "1000 tokens per minute, and this request asks for 800. Come back in 36 s." in refusal.message
    assert head(refusal)["Retry-After"] == "36"
    grant.close(NOW, used=Usage(50, 50))
    assert dict(admit(quotas, ann, tokens=800).headers)["x-ratelimit-remaining-tokens"] == "100"


def test_when_the_engine_said_no_usage_what_was_reserved_counts() -> None:
    quotas, ann = Quotas(), key(tokens_per_minute=1000)
    admit(quotas, ann, tokens=800).close(NOW)
    assert head(refused(quotas, ann, tokens=800))["Retry-After"] == "36"


def test_a_caller_that_does_not_say_how_many_tokens_is_counted_afterwards() -> None:
    """It is let in while there is one token left, and pays for what it used: later requests wait for it."""
    quotas, ann = Quotas(), key(tokens_per_minute=600)
    admit(quotas, ann).close(NOW, used=Usage(100, 700))
    refusal = refused(quotas, ann)
    assert refusal.message.endswith("600 tokens per minute. Come back in 21 s.")
    refused(quotas, ann, NOW + 20)
    admit(quotas, ann, NOW + 21)


def test_a_wait_beyond_a_minute_is_said_in_full_though_the_header_may_not_say_it() -> None:
    quotas, ann = Quotas(), key(tokens_per_minute=600)
    admit(quotas, ann).close(NOW, used=Usage(100, 3000))
    refusal = refused(quotas, ann)
    assert "Come back in 251 s. Retry-After is at most 60." in refusal.message
    assert head(refusal)["Retry-After"] == "60"
    assert head(refusal)["x-ratelimit-reset-tokens"] == "5m10s"


def test_more_tokens_than_the_limit_count_as_the_whole_limit() -> None:
    quotas, ann = Quotas(), key(tokens_per_minute=600)
    admit(quotas, ann, tokens=10**12).close(NOW)
    assert head(refused(quotas, ann, tokens=10**12))["Retry-After"] == "60"
    admit(quotas, ann, NOW + 60, tokens=10**12)


def test_a_refusal_takes_nothing_from_any_limit() -> None:
    quotas, ann = Quotas(), key(requests_per_minute=60, tokens_per_minute=60, max_concurrent=2)
    admit(quotas, ann, tokens=60)
    for _ in range(100):
        refused(quotas, ann, tokens=60)
    assert dict(admit(quotas, ann, NOW + 60, tokens=60).headers)["x-ratelimit-remaining-requests"] == "59"


def test_the_limit_that_lasts_longest_is_the_one_that_is_named() -> None:
    quotas, ann = Quotas(), key(requests_per_minute=2, tokens_per_minute=100, max_concurrent=1)
    grant = admit(quotas, ann, tokens=100)
    assert "100 tokens per minute" in refused(quotas, ann, tokens=100).message
    admit_two = key(requests_per_minute=1, tokens_per_minute=100, max_concurrent=1)
    assert "1 requests per minute" in refused(quotas, admit_two).message
    assert grant.headers


# -- at once ----------------------------------------------------------------------------------


def test_so_many_at_once() -> None:
    quotas, ann = Quotas(), key(max_concurrent=2)
    first, second = admit(quotas, ann), admit(quotas, ann)
    assert first.headers == ()
    refusal = refused(quotas, ann)
    assert refusal.message.startswith("A limit of this key is reached: 2 at once")
    assert head(refusal) == {"Retry-After": "1", "x-should-retry": "true"}
    first.close(NOW)
    first.close(NOW)  # a second time frees no second place
    third = admit(quotas, ann)
    refused(quotas, ann)
    second.close(NOW, reached_engine=False)
    third.close(NOW)
    admit(quotas, ann)


# -- giving back ------------------------------------------------------------------------------


def test_a_request_that_was_sent_back_to_retry_burns_no_limit() -> None:
    """It waited for a cold start, was told to come back, and comes back."""
    quotas, ann = Quotas(), key(requests_per_minute=1, tokens_per_minute=100, max_concurrent=1)
    for _ in range(10):
        grant = admit(quotas, ann, tokens=100)
        grant.close(NOW, reached_engine=False)
    admit(quotas, ann, tokens=100).close(NOW, used=Usage(10, 10))
    assert "1 requests per minute" in refused(quotas, ann, tokens=100).message


def test_a_long_hold_that_is_sent_back_gives_nobody_more_than_the_limit() -> None:
    quotas, ann = Quotas(), key(requests_per_minute=1)
    held = admit(quotas, ann)
    admit(quotas, ann, NOW + 60).close(NOW + 60)
    held.close(NOW + 60, reached_engine=False)
    refused(quotas, ann, NOW + 119)
    admit(quotas, ann, NOW + 120)


# -- a reload of the keys ---------------------------------------------------------------------


def test_counts_outlive_a_reload_and_changed_limits_apply_at_once() -> None:
    quotas = Quotas()
    for _ in range(3):
        admit(quotas, key(requests_per_minute=3))
    refused(quotas, Key("ann", b"another digest", requests_per_minute=3))
    assert dict(admit(quotas, key(requests_per_minute=5)).headers)["x-ratelimit-remaining-requests"] == "1"
    assert head(refused(quotas, key(requests_per_minute=2)))["Retry-After"] == "30"
    assert "4 at once" in refused(quotas, key(max_concurrent=4)).message
    assert admit(quotas, key()) is FREE


def test_a_limit_that_is_dropped_while_a_request_runs_disturbs_nobody() -> None:
    quotas = Quotas()
    grant = admit(quotas, key(requests_per_minute=1, tokens_per_minute=10), tokens=10)
    admit(quotas, key(requests_per_minute=1, max_concurrent=9), NOW + 60)
    grant.close(NOW + 60, used=Usage(10, 10))
    after = dict(admit(quotas, key(tokens_per_minute=10), NOW + 60).headers)
    assert after["x-ratelimit-remaining-tokens"] == "9"


# -- right to the second ----------------------------------------------------------------------


@given(
    st.integers(1, 300),
    st.integers(1, 5000),
    st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 5000), st.integers(0, 5000)), max_size=30),
    st.integers(0, 5000),
)
def test_retrying_exactly_then_succeeds_and_one_second_earlier_fails(
    requests: int, tokens: int, before: list[tuple[int, int, int]], asked: int
) -> None:
    """Whatever went before, in milliseconds of a clock. (Whoever uses more than a minute's tokens at once may have to
    wait for longer than Retry-After can say; the test above.)"""
    quotas, ann = Quotas(), key(requests_per_minute=requests, tokens_per_minute=tokens)
    now = 123_456_789.123
    for gap, cost, used in before:
        now += gap / 1000
        try:
            admit(quotas, ann, now, tokens=cost).close(now, used=Usage(0, min(used, cost, tokens)))
        except Refused:
            continue
    try:
        admit(quotas, ann, now, tokens=asked)
    except Refused as refusal:
        wait = int(head(refusal.refusal)["Retry-After"])
        if wait > 1:
            with pytest.raises(Refused):
                admit(quotas, ann, now + wait - 1, tokens=asked)
        admit(quotas, ann, now + wait, tokens=asked)


@pytest.mark.parametrize(
    ("ticks", "text"),
    [
        (0, "0s"),
        (1, "1ms"),
        (20_000, "20ms"),
        (999_001, "1s"),
        (1_000_000, "1s"),
        (7_660_000, "7.66s"),
        (7_660_001, "7.661s"),
        (60_000_000, "1m0s"),
        (360_000_000, "6m0s"),
        (179_560_000, "2m59.56s"),
        (3_661_500_000, "1h1m1.5s"),
    ],
)
def test_durations_are_spelt_as_openai_spells_them(ticks: int, text: str) -> None:
    assert spell(ticks) == text


# -- money ------------------------------------------------------------------------------------


@pytest.fixture
def paid() -> Iterator[Quotas]:
    yield Quotas(Spending(1_000_000, now=NOW, wall=WALL))


def test_a_key_whose_months_money_is_spent_is_told_when_it_renews(paid: Quotas) -> None:
    ann = key(monthly_spend=500_000)
    grant = admit(paid, ann)
    grant.close(NOW + HOUR / 2)
    refusal = refused(paid, ann, NOW + HOUR / 2)
    assert refusal.code == "insufficient_quota"
    assert refusal.message == (
        "This key has spent its 0.50 dollars of this month; it renews on 2026-12-01 at 00:00 UTC."
    )
    assert head(refusal) == {"x-should-retry": "false"}
    admit(paid, ann, NOW + 10 * 24 * HOUR)


def test_requests_in_flight_are_counted_before_they_end(paid: Quotas) -> None:
    ann = key(monthly_spend=500_000)
    admit(paid, ann)
    admit(paid, ann, NOW + HOUR / 2 - 1)
    refused(paid, ann, NOW + HOUR / 2)


def test_requests_of_keys_without_limits_bear_their_share(paid: Quotas) -> None:
    ann = key(monthly_spend=500_000)
    grants = [admit(paid, ann), admit(paid, key("bob")), admit(paid, None)]
    for grant in grants:
        assert grant.headers == ()
        grant.close(NOW + HOUR)
        grant.close(NOW + 2 * HOUR)
    assert paid.spending is not None
    assert [paid.spending.spent(name, NOW + HOUR, WALL + HOUR) for name in ("ann", "bob", "")] == [333_333] * 3


def test_a_refused_request_is_not_in_flight(paid: Quotas) -> None:
    ann = key(requests_per_minute=1)
    admit(paid, ann).close(NOW)
    refused(paid, ann)
    assert paid.spending is not None
    assert paid.spending.spent("ann", NOW + HOUR, WALL + HOUR) == 0


def test_money_that_nobody_counts_is_not_spent() -> None:
    """The keys file says no to such a key; if one came through all the same, it would have no limit at all."""
    refusal = refused(Quotas(), key(monthly_spend=500_000))
    assert refusal.code == "insufficient_quota"
    assert "HOURLY_PRICE" in refusal.message


class Keeper:
    """A volume that answers at once."""

    def __init__(self) -> None:
        self.elsewhere: Elsewhere | None = None
        self.offered: Any = None
        self.state = ""

        self.closed_within = 0.0

    def offer(self, books: Any) -> None:
        self.offered = books

    def close(self, within: float) -> bool:
        self.closed_within = within
        return True


def test_each_beat_exchanges_what_was_spent_here_and_elsewhere() -> None:
    keeper = Keeper()
    quotas = Quotas(Spending(1_000_000, now=NOW, wall=WALL), keeper)
    ann = key(monthly_spend=500_000)
    admit(quotas, ann)
    quotas.beat(NOW + 360, WALL + 360)
    assert keeper.offered == {"2026-11": {"ann": 100_000}}
    keeper.elsewhere = Elsewhere("2026-11", {"ann": 400_000})
    refused(quotas, ann, NOW + 360)  # at once: a worker that has just started must not wait for a beat
    quotas.beat(NOW + 360, WALL + 360)
    assert keeper.offered == {"2026-11": {"ann": 100_000}}
    keeper.state = "hangs"
    assert quotas.state == "hangs"


def test_what_is_rented_is_counted_by_the_price_of_now() -> None:
    keeper = Keeper()
    quotas = Quotas(Spending(0, now=NOW, wall=WALL), keeper)
    admit(quotas, key())
    quotas.beat(NOW + 360, WALL + 360, 1_000_000)
    assert keeper.offered == {"2026-11": {"ann": 0}}
    assert quotas.shares(NOW + 720, WALL + 720) == {"ann": 100_000} and Quotas().shares(NOW, WALL) is None
    quotas.beat(NOW + 720, WALL + 720, 0)
    quotas.beat(NOW + 7200, WALL + 7200, 0)
    assert keeper.offered == {"2026-11": {"ann": 100_000}}


def test_at_the_end_the_last_figures_are_handed_over() -> None:
    keeper = Keeper()
    quotas = Quotas(Spending(1_000_000, now=NOW, wall=WALL), keeper)
    admit(quotas, key())
    assert quotas.close(NOW + 360, WALL + 360, within=0.5)
    assert keeper.offered == {"2026-11": {"ann": 100_000}}
    assert keeper.closed_within == 0.5
    assert Quotas().close(NOW, WALL)


def test_without_a_price_nothing_is_kept() -> None:
    quotas = Quotas()
    quotas.beat(NOW, WALL)
    assert quotas.state == ""


def test_their_reprs_tell_who_holds_what() -> None:
    quotas = Quotas()
    grant = admit(quotas, key(requests_per_minute=5, max_concurrent=2))
    assert re.search(r"1 keys, busy: \{'ann': .*1\.00 of 5 per 60000000 used", repr(quotas))
    assert repr(grant).startswith("<Grant of 'ann', open: requests Taken(cost=1")
    assert repr(FREE) == "<Grant of no limits>"


# -- those who were told to come back -----------------------------------------------------------


def go_on(quotas: Quotas, grant: Grant, who: Key, now: float) -> Grant:
    return quotas.go_on(grant, who, now, WALL + now - NOW)


def test_who_comes_back_pays_once() -> None:
    quotas, ann = Quotas(), key(requests_per_minute=2)
    grant = admit(quotas, ann)
    grant.rest(NOW)
    admit(quotas, ann).close(NOW)
    refused(quotas, ann)
    assert go_on(quotas, grant, ann, NOW + 1) is grant
    assert head_of(grant)["x-ratelimit-remaining-requests"] == "0"
    grant.close(NOW + 2)
    refused(quotas, ann, NOW + 2)


def head_of(grant: Grant) -> dict[str, str]:
    return dict(grant.headers)


def test_who_is_away_is_none_of_those_at_once() -> None:
    quotas, ann = Quotas(), key(max_concurrent=1)
    grant = admit(quotas, ann)
    grant.rest(NOW)
    other = admit(quotas, ann)
    with pytest.raises(Refused) as caught:
        go_on(quotas, grant, ann, NOW)
    assert "1 at once" in caught.value.refusal.message
    other.close(NOW)
    go_on(quotas, grant, ann, NOW)
    refused(quotas, ann)
    grant.close(NOW)
    admit(quotas, ann)


def test_who_does_not_come_back_gets_back_what_it_took() -> None:
    quotas, ann = Quotas(), key(requests_per_minute=1, max_concurrent=1)
    grant = admit(quotas, ann)
    grant.rest(NOW)
    refused(quotas, ann)
    grant.close(NOW, reached_engine=False)
    admit(quotas, ann)


def test_time_away_costs_nothing() -> None:
    spending = Spending(3_600_000, now=NOW, wall=WALL)
    quotas, ann = Quotas(spending), key()
    grant = admit(quotas, ann)
    grant.rest(NOW + 10)
    go_on(quotas, grant, ann, NOW + 110)
    grant.close(NOW + 115)
    assert spending.spent("ann", NOW + 200, WALL + 200) == 15_000


def test_a_month_that_is_spent_meanwhile_is_said_to_who_comes_back() -> None:
    spending = Spending(3_600_000_000, now=NOW, wall=WALL)
    quotas, ann = Quotas(spending), key(monthly_spend=5_000_000)
    grant = admit(quotas, ann)
    grant.rest(NOW + 1)
    admit(quotas, ann, NOW + 1).close(NOW + 10)
    with pytest.raises(Refused) as caught:
        go_on(quotas, grant, ann, NOW + 11)
    assert caught.value.refusal.code == "insufficient_quota"
