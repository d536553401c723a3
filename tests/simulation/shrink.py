"""A long story of a failure, made short: happenings are left out, many at a time and then one by one, as long as it
still fails in the same way.

Delta debugging (Zeller and Hildebrandt, "Simplifying and isolating failure-inducing input", 2002), without its
complements: a scenario has some twenty happenings, and a run costs a tenth of a second.
"""

from collections.abc import Callable

from tests.simulation.scenario import Scenario

MOST_RUNS = 150


def shrink(scenario: Scenario, fails: Callable[[Scenario], bool], most_runs: int = MOST_RUNS) -> Scenario:
    """The shortest scenario found of which `fails` is still true. It was true of the one given."""
    runs = 0
    size = max(1, len(scenario.happenings) // 2)
    while True:
        number = 0
        shorter = False
        while number < len(scenario.happenings) and runs < most_runs:
            candidate = scenario.without(set(range(number, number + size)))
            runs += 1
            if fails(candidate):
                scenario, shorter = candidate, True
            else:
                number += size
        if runs >= most_runs or (size == 1 and not shorter):
            return scenario
        size = max(1, size // 2)
