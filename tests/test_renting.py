"""What is said of what is rented, when it wakes and when the gateway ends."""

from gateway.providers.base import Endpoint, Instance
from gateway.renting import what_is_left

POD = Instance("abc123", "runpod-pod", Endpoint(""), 0.0, 340_000, "wakegate-1")


def test_what_runs_on_on_purpose_is_named_with_its_price() -> None:
    line = what_is_left(POD, on_purpose=True)
    assert line == "abc123 at runpod-pod, $0.34/h, is left running, for a successor"


def test_an_end_that_was_not_confirmed_says_what_to_type() -> None:
    line = what_is_left(POD, on_purpose=False)
    assert line.startswith("warning: abc123 ") and "not confirmed" in line and line.endswith("wakegate stop --all")


def test_where_nothing_runs_nothing_is_said() -> None:
    assert what_is_left(None, on_purpose=False) == ""
