"""How long a caller is kept waiting: the least of what everybody between here and there can stand."""

import pytest

from gateway.web.patience import LONGEST_WISH, Patience, wish_in


def patience(hold_max: float | None = None, *, edge: bool = False) -> Patience:
    return Patience(grace=10, heartbeat=15, hold_max=hold_max, behind_edge=edge)


@pytest.mark.parametrize(
    ("hold_max", "edge", "headers", "seconds"),
    [
        (None, False, {}, 280),
        (None, True, {}, 85),
        (None, False, {"CF-Ray": "8f-FRA"}, 85),
        (None, False, {"x-stainless-read-timeout": "600"}, 280),
        (None, False, {"x-stainless-timeout": "60"}, 55),
        (None, False, {"x-stainless-timeout": "2"}, 1),
        (40, True, {}, 40),
        (300, False, {"x-stainless-read-timeout": "nan?"}, 300),
        (None, False, {"Prefer": "wait=20"}, 20),
        (None, False, {"Prefer": "wait=900"}, 900),
        (None, True, {"Prefer": "wait=900"}, 85),
        (None, False, {"Prefer": "wait=900", "CF-Ray": "8f"}, 85),
        (120, False, {"Prefer": "wait=900"}, 120),
        (None, False, {"Prefer": "wait=900", "x-stainless-read-timeout": "600"}, 595),
        (None, False, {"Prefer": "wait=0"}, 0),
    ],
)
def test_hold_max_follows_the_edge_and_the_caller(
    hold_max: float | None, edge: bool, headers: dict[str, str], seconds: float
) -> None:
    """HOLD_MAX=auto: 85 s behind a known edge, else what the caller can wait; at most 280 s where it did not say."""
    assert patience(hold_max, edge=edge).of(headers) == seconds


def test_a_stream_waits_as_long_as_it_takes_unless_its_caller_said_how_long() -> None:
    assert patience(20, edge=True).of({"x-stainless-read-timeout": "60"}, streams=True) is None
    assert patience(20, edge=True).of({"Prefer": "wait=300"}, streams=True) == 300


@pytest.mark.parametrize(
    ("hold_max", "edge", "headers", "seconds"),
    [
        (None, False, {"x-stainless-read-timeout": "12"}, 7),
        (None, False, {"CF-Ray": "8f"}, 85),
        (40, True, {}, 40),
        (None, False, {"Prefer": "wait=20"}, 20),
        (None, False, {"Prefer": "wait=0"}, 280),
        (0, True, {}, 85),
        (0, False, {"Prefer": "wait=0", "x-stainless-read-timeout": "12"}, 7),
    ],
)
def test_somebody_else_has_as_long_as_a_caller_could_be_held_but_for_who_may_not_be_held_at_all(
    hold_max: float | None, edge: bool, headers: dict[str, str], seconds: float
) -> None:
    assert patience(hold_max, edge=edge).elsewhere(headers) == seconds
    assert patience(hold_max, edge=edge).elsewhere({}, streams=True) is None


@pytest.mark.parametrize(
    ("headers", "grace", "heartbeat"),
    [
        ({}, 10, 15),
        ({"x-stainless-read-timeout": "600"}, 10, 15),
        ({"x-stainless-read-timeout": "20"}, 10, 10),
        ({"x-stainless-timeout": "8"}, 4, 4),
        ({"x-stainless-timeout": "0"}, 0.5, 0.5),
        ({"x-stainless-timeout": "nan"}, 0.5, 0.5),
        ({"x-stainless-timeout": "soon"}, 10, 15),
    ],
)
def test_a_held_stream_is_never_silent_for_as_long_as_its_caller_would_give_up_after(
    headers: dict[str, str], grace: float, heartbeat: float
) -> None:
    assert patience().pulse(headers) == (grace, heartbeat)


@pytest.mark.parametrize(
    ("said", "wish"),
    [
        ("wait=10", 10),
        ("respond-async, wait=10", 10),
        ("respond-async;foo=1,  Wait = 10 ; x=y", 10),
        ('wait="10"', 10),
        ("wait=10, wait=20", 10),
        ("wait=999999999", LONGEST_WISH),
        ("await=10", None),
        ("wait=ten", None),
        ("wait=-1", None),
        ("wait=1.5", None),
        ("wait", None),
        ("", None),
    ],
)
def test_prefer_is_read_as_rfc_7240_writes_it(said: str, wish: float | None) -> None:
    assert wish_in({"Prefer": said}) == wish
