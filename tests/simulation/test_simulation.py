"""The invariants of FAULTS 2.4 hold in every world: 300 of them here, 10,000 with `make test-simulation`."""

import pytest

from tests.simulation.scenario import draw
from tests.simulation.shrink import shrink
from tests.simulation.simulate import command, explain, is_bad, run

SEEDS = 300
AT_ONCE = 25


@pytest.mark.parametrize("first", range(0, SEEDS, AT_ONCE))
def test_whatever_fails_there_is_one_instance_the_budget_holds_and_in_the_end_nothing_runs(first: int) -> None:
    bad = [seed for seed in range(first, first + AT_ONCE) if is_bad(seed)]
    assert not bad, f"seeds {bad}\n{explain(bad[0])}"


def test_a_seed_is_one_story_and_tells_it_again() -> None:
    once, again = explain(7, whole=True), explain(7, whole=True)
    assert once == again
    assert command(7) in once


def test_a_story_without_some_of_its_happenings_is_about_the_same_callers() -> None:
    """What is left out takes no dice from the others."""
    scenario = draw(3)
    whole, part = run(scenario, tell=True), run(scenario.without({len(scenario.happenings) - 1}), tell=True)
    first = scenario.happenings[-1].at
    before = [line for line in whole.story.lines if " comes for " in line][:3]
    assert before == [line for line in part.story.lines if " comes for " in line][:3]
    assert first > 0


def test_a_failing_story_is_made_short() -> None:
    """Two of its happenings are to blame together; the others are left out."""
    scenario = draw(2)
    blamed = {scenario.happenings[1], scenario.happenings[-2]}
    short = shrink(scenario, lambda candidate: blamed <= set(candidate.happenings))
    assert set(short.happenings) == blamed
