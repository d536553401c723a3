"""Until when a rented worker goes on, whom it believes about that, and when it ends itself."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.policy.lease import LONGEST, SKEW, BadLease, DeadMan, Lease, Report, is_signed, key_from, signature

WALL = 1_795_000_000
"""Unix time when the worker's clock says 0."""
AFTER = 1800.0


def lease(counter: int = 1, seconds: int = 300, *, instance: str = "pod1", at: float = 0) -> Lease:
    return Lease(instance, counter, seconds, WALL + int(at) + seconds)


def worker() -> DeadMan:
    return DeadMan("pod1", after=AFTER, now=0)


def take(worker: DeadMan, lease: Lease, at: float) -> str:
    return worker.take(lease, now=at, wall=WALL + at)


# -- by a lease ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("busy", [True, False])
def test_past_its_lease_it_must_end_whatever_the_traffic(busy: bool) -> None:
    one = worker()
    assert take(one, lease(), at=10) == ""
    assert one.why(busy=busy, now=309.9) == ""
    assert "silent" in one.why(busy=busy, now=310)


def test_each_newer_lease_counts_from_when_it_comes_also_where_it_ends_sooner() -> None:
    """A budget that ends shortens it."""
    one = worker()
    take(one, lease(1), at=0)
    take(one, lease(2), at=200)
    assert one.ends_at(busy=False, now=200) == 500
    take(one, lease(3, seconds=60), at=210)
    assert one.ends_at(busy=False, now=210) == 270


@pytest.mark.parametrize("counter", [4, 5])
def test_an_old_lease_is_not_taken_again(counter: int) -> None:
    one = worker()
    take(one, lease(5), at=0)
    assert take(one, lease(counter), at=100).startswith("old")
    assert one.ends_at(busy=False, now=100) == 300 and one.counter == 5


def test_a_lease_for_another_machine_is_none() -> None:
    one = worker()
    assert "pod2" in take(one, lease(instance="pod2"), at=0)
    assert not one.has_lease


def test_a_lease_that_was_kept_back_is_none_also_after_the_worker_began_anew() -> None:
    """Its counters are forgotten with it; Unix time is not."""
    assert take(worker(), lease(seconds=300, at=0), at=300 + SKEW) == ""
    assert take(worker(), lease(seconds=300, at=0), at=301 + SKEW).startswith("late")


@pytest.mark.parametrize("ahead", [-SKEW, SKEW])
def test_clocks_may_differ_and_the_workers_own_counts_the_seconds(ahead: int) -> None:
    one = worker()
    assert one.take(lease(), now=0, wall=WALL + ahead) == ""
    assert one.ends_at(busy=True, now=0) == 300


def test_no_lease_is_believed_for_longer_than_an_hour() -> None:
    one = worker()
    take(one, lease(seconds=10**9), at=0)
    assert one.ends_at(busy=False, now=0) == LONGEST


def test_a_controller_that_comes_back_after_the_end_is_believed_again() -> None:
    """The stop was tried in vain, and its lease is new: it looks after the machine itself."""
    one = worker()
    take(one, lease(1), at=0)
    one.tried("refused", now=300)
    assert take(one, lease(2, at=301), at=301) == ""
    assert one.why(busy=False, now=301) == "" and one.tries == 0


# -- by use ----------------------------------------------------------------------------------------------


def test_without_a_lease_it_ends_after_so_long_without_use() -> None:
    one = worker()
    one.used(100)
    assert one.why(busy=False, now=1899.9) == ""
    assert "no controller" in one.why(busy=False, now=1900)


def test_without_a_lease_what_is_in_flight_or_loads_is_use() -> None:
    one = worker()
    assert one.why(busy=True, now=10_000) == ""
    assert one.why(busy=False, now=10_000) != ""


def test_use_saves_nobody_who_had_a_lease() -> None:
    one = worker()
    take(one, lease(), at=0)
    one.used(299)
    assert one.why(busy=True, now=300) != ""


def test_a_request_of_long_ago_does_not_shorten_its_life() -> None:
    one = worker()
    one.used(50)
    one.used(20)
    assert one.ends_at(busy=False, now=60) == 50 + AFTER


# -- trying ----------------------------------------------------------------------------------------------


def test_a_stop_in_vain_is_tried_again_for_ever_with_growing_pauses() -> None:
    one, now, pauses = worker(), AFTER, []
    for _ in range(7):
        assert one.may_try(now)
        one.tried("401", now=now)
        pauses.append(one.next_look(busy=False, now=now) - now)
        now += pauses[-1]
    assert pauses == [5, 10, 20, 40, 60, 60, 60]


def test_a_stop_that_the_vendor_took_is_tried_again_where_nothing_came_of_it() -> None:
    one = worker()
    one.tried("", now=AFTER)
    assert not one.may_try(AFTER + 119) and one.may_try(AFTER + 120)
    assert one.why(busy=False, now=AFTER + 120) != ""


# -- who says it -----------------------------------------------------------------------------------------


def test_what_is_said_is_read_as_it_was_meant() -> None:
    report = Report(5, 290, 2, 0, "armed", "key works")
    assert Lease.read(lease().spell()) == lease() and Report.read(report.spell()) == report


def test_a_signature_is_good_for_one_key_one_text_and_one_question() -> None:
    key, said = key_from("a-key-of-sixteen"), lease().spell()
    signed = signature(key, said)
    assert is_signed(key, said, signed)
    assert not is_signed(key_from("another"), said, signed)
    assert not is_signed(key, lease(2).spell(), signed)
    assert not is_signed(key, said, signed, of="another lease")
    assert not is_signed(key, said, "") and not is_signed(key, said, "ä" * 64)


def test_the_key_of_leases_is_the_same_for_every_controller_with_the_same_api_key() -> None:
    """It must not change: a worker of an older release runs while its controller is replaced."""
    assert key_from("a-key-of-sixteen").hex() == "bc22297792edb2d5d3f9db87082387d02f3ae5b3ba919fb5c96416ef85f583bf"


@pytest.mark.parametrize("data", [b"", b"[]", b"{", b"null", b"[" * 3000, b" " * 5000])
def test_what_is_no_lease_is_named(data: bytes) -> None:
    for kind in (Lease, Report):
        with pytest.raises(BadLease):
            kind.read(data)


@pytest.mark.parametrize("field", ["instance", "counter", "seconds", "until"])
@pytest.mark.parametrize("value", [None, True, -1, 1.5, "", [], 2**60])
def test_a_lease_with_one_field_wrong_is_none(field: str, value: object) -> None:
    with pytest.raises(BadLease):
        Lease.read(json.dumps(json.loads(lease().spell()) | {field: value}).encode())


@given(data=st.binary(max_size=200))
def test_no_bytes_break_the_reader(data: bytes) -> None:
    try:
        Lease.read(data)
    except BadLease:
        pass
