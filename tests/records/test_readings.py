"""How long an upstream was in each state is added up without a gap."""

from gateway.policy.lifecycle.states import State
from gateway.records.readings import StateTimes


def test_the_times_of_all_states_add_up_to_the_whole() -> None:
    times = StateTimes(State.STOPPED, 100.0)
    times.entered(State.STARTING, 110.0)
    times.entered(State.READY, 115.0)
    times.entered(State.READY, 120.0)  # told again: nothing changes
    assert times.read(145.0)[State.STOPPED] == 10
    assert times.read(145.0)[State.STARTING] == 5
    assert times.read(145.0)[State.READY] == 30
    assert sum(times.read(145.0).values()) == 45
    assert set(times.read(145.0)) == set(State)


def test_reading_changes_nothing_and_no_time_runs_back() -> None:
    times = StateTimes(State.READY, 0.0)
    assert times.read(5.0) == times.read(5.0)
    assert times.read(6.0)[State.READY] == 6
    assert "ready" in repr(times)
