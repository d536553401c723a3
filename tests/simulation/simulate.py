"""A seed's world, run; and where something is wrong in it, the shortest story of it that was found."""

from tests.simulation.house import Parts, house
from tests.simulation.planted import Change
from tests.simulation.scenario import Scenario, draw
from tests.simulation.shrink import shrink
from tests.simulation.suites import SUITES
from tests.simulation.world import Outcome, play


def unchanged(parts: Parts) -> Parts:
    return parts


def run(scenario: Scenario, change: Change = unchanged, *, tell: bool = False) -> Outcome:
    suite = SUITES[scenario.setup.vendor]
    return play(scenario, suite.vendor, house(change(suite.parts)), tell=tell)


def is_bad(seed: int, change: Change = unchanged) -> str:
    """The invariant that breaks in this seed's world; empty: none."""
    outcome = run(draw(seed), change)
    return outcome.breach.invariant if outcome.breach is not None else ""


def command(seed: int) -> str:
    return f".venv/bin/python -m tests.simulation --seed {seed}"


def explain(seed: int, change: Change = unchanged, *, whole: bool = False) -> str:
    """What happens in this seed's world, for a person. Where an invariant breaks, only what leads to that."""
    scenario = draw(seed)
    outcome = run(scenario, change)
    breach = outcome.breach
    if breach is not None and not whole:

        def fails(candidate: Scenario) -> bool:
            found = run(candidate, change).breach
            return found is not None and found.invariant == breach.invariant

        scenario = shrink(scenario, fails)
    outcome = run(scenario, change, tell=True)
    heading = f"seed {seed}: {outcome.breach or 'all invariants hold'}"
    return f"{heading}\n\n{scenario}\n\n{outcome.story}\n\n{heading}\nagain: {command(seed)}\n{outcome}"
