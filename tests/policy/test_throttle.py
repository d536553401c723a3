"""Wrong keys by address: exactly so many within a minute, and never more memory than said."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.policy.throttle import Throttle, network_of

HOME = "198.51.100.7"


def test_twenty_wrong_keys_a_minute_are_told_what_is_wrong_and_the_next_one_to_wait() -> None:
    throttle = Throttle()
    assert [throttle.count(HOME, 100.0 + n) for n in range(20)] == [None] * 20
    assert throttle.count(HOME, 130.0) == 30.0


def test_after_the_time_that_was_said_one_more_is_told() -> None:
    """Right to the second: not a moment earlier, and not later because somebody asked in between."""
    throttle = Throttle()
    for n in range(20):
        throttle.count(HOME, 100.0 + n)
    for n in range(500):
        assert throttle.count(HOME, 130.0 + n / 100) is not None
    assert throttle.count(HOME, 159.999) == pytest.approx(0.001)
    assert throttle.count(HOME, 160.0) is None
    assert throttle.count(HOME, 160.0) == pytest.approx(1.0)


def test_others_are_counted_on_their_own() -> None:
    throttle = Throttle()
    for _ in range(30):
        throttle.count(HOME, 100.0)
    assert throttle.count("198.51.100.8", 100.0) is None


def test_whoever_has_many_addresses_pushes_out_the_one_that_was_quiet_longest() -> None:
    throttle = Throttle(addresses=3)
    for n in range(20):
        throttle.count("a", float(n) / 100)
        throttle.count("b", float(n) / 100)
    throttle.count("a", 1.0)
    for other in ("c", "d"):
        throttle.count(other, 2.0)
    assert len(throttle) == 3
    assert throttle.count("a", 3.0) is not None, "it came after b, and is remembered"
    assert throttle.count("b", 3.0) is None, "it was pushed out"


def test_a_minute_later_nothing_is_remembered() -> None:
    throttle = Throttle()
    for n in range(1000):
        throttle.count(f"10.0.{n // 256}.{n % 256}", 100.0)
    assert len(throttle) == 1000
    throttle.count(HOME, 160.0)
    assert len(throttle) == 1


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("198.51.100.7", "198.51.100.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::ffff", "2001:db8:1:2::/64"),
        ("2001:db8:1:3::1", "2001:db8:1:3::/64"),
        ("::ffff:198.51.100.7", "198.51.100.7"),
        ("fe80::1%eth0", "fe80::/64"),
        ("local", "local"),
        ("", ""),
        ("x" * 500, "x" * 64),
    ],
)
def test_an_address_stands_for_whom_it_belongs_to(address: str, network: str) -> None:
    assert network_of(address) == network


@given(st.ip_addresses(), st.ip_addresses())
def test_two_addresses_are_one_only_within_64_bits(one: ipaddress.IPv4Address, other: ipaddress.IPv4Address) -> None:
    def part(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> tuple[int, int]:
        mapped = getattr(address, "ipv4_mapped", None) or address
        return mapped.version, int(mapped) >> (64 if mapped.version == 6 else 0)

    assert (network_of(str(one)) == network_of(str(other))) == (part(one) == part(other))


@given(st.lists(st.tuples(st.integers(0, 400), st.sampled_from("abc")), max_size=120))
def test_it_counts_as_a_list_of_all_tries_would(tries: list[tuple[int, str]]) -> None:
    """The plain definition: what was told within the last minute, and how long until one of it is over."""
    throttle = Throttle(limit=3, window=60.0)
    told: dict[str, list[int]] = {"a": [], "b": [], "c": []}
    for now, who in sorted(tries):
        lately = [at for at in told[who] if at > now - 60]
        wait = throttle.count(who, float(now))
        assert wait == (None if len(lately) < 3 else lately[0] + 60 - now)
        if wait is None:
            told[who].append(now)
