"""The simulation finds what it is there to find: each fault of planted.py, within the 300 worlds of ./test.sh."""

import pytest

from tests.simulation.planted import FAULTS
from tests.simulation.simulate import is_bad
from tests.simulation.test_simulation import SEEDS


@pytest.mark.parametrize("name", FAULTS)
def test_it_is_found(name: str) -> None:
    """`seed` is tried first: one that found it when it was planted."""
    fault = FAULTS[name]
    seeds = [fault.seed, *(seed for seed in range(SEEDS) if seed != fault.seed)]
    found = next((invariant for seed in seeds if (invariant := is_bad(seed, fault.change))), "")
    assert found in fault.found_by, f"{name!r} is not found in {SEEDS} worlds, or by {found!r}"
