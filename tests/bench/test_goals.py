"""What was wanted, and what a run says of it."""

import pytest

from bench.figures import BASE, DIRECT
from bench.goals import GOALS, OURS, goals_table
from bench.subjects import SUBJECTS
from bench.work import FULL, QUICK, all_measures

MEASURES = all_measures(FULL)


def told(values: dict[str, dict[str, list[float]]], form: str = "full", pgo: bool = False) -> list[str]:
    lines = goals_table(MEASURES, values, form=form, pgo=pgo).splitlines()[2:]
    return [" ".join(cell.strip() for cell in line.split("|")[2:-1]) for line in lines]


def test_a_ratio_is_one_to_nginx_or_to_the_best_of_those_that_were_measured() -> None:
    row = {OURS: [24e-6], BASE: [20e-6], "vllm": [40e-6], "go": [30e-6], "haproxy": [1e-6]}
    assert told({"chunk-200": row}) == ["1.25 1.20 yes", "0.75 0.800 **no**"]


def test_an_absolute_goal_is_in_the_unit_that_is_shown() -> None:
    assert told({"idle": {OURS: [13_500.0]}}) == ["12 13.5 **no**"]
    assert told({"start-listens": {OURS: [0.4001]}}) == ["400 400 yes"]


def test_added_time_is_shown_with_and_without_what_the_engine_takes() -> None:
    row = {OURS: [0.0030], BASE: [0.0025], DIRECT: [0.0020]}
    assert told({"first-p50-200": row}) == ["1.3 2.00 **no**", "1.3 1.20 yes"]


def test_nothing_may_be_lost() -> None:
    assert told({"promise-lost": {OURS: [0, 0, 0]}}) == ["0 0 yes"]
    assert told({"promise-lost": {OURS: [0, 1, 2]}}) == ["0 1.00 **no**"]


@pytest.mark.parametrize(("pgo", "most"), [(True, "0.65"), (False, "0.8")])
def test_a_build_with_pgo_has_a_goal_of_its_own(pgo: bool, most: str) -> None:
    row = {OURS: [7e-6], "sglang": [10e-6]}
    assert told({"request": row}, pgo=pgo) == [f"{most} 0.700 {'**no**' if pgo else 'yes'}"]


def test_a_run_of_fewer_streams_says_nothing_of_a_thousand() -> None:
    assert told({"whole": {OURS: [7e7]}}, form="quick") == []


def test_what_was_not_measured_is_left_out() -> None:
    assert goals_table(MEASURES, {}, form="full", pgo=False) == ""


def test_a_quick_run_measures_what_the_goals_are_about() -> None:
    """But for those that need the other routers or 1,000 streams."""
    values = {
        each.name: {name: [1.5 if name == DIRECT else 2.0] for name in (OURS, BASE, DIRECT)}
        for each in all_measures(QUICK)
    }
    lines = goals_table(all_measures(QUICK), values, form="quick", pgo=False).splitlines()[2:]
    assert len(lines) == len(GOALS) - 5
    assert set(SUBJECTS) > {"vllm", "sglang", "go", "caddy"}
