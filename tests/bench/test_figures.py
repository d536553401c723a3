"""The arithmetic of a measurement."""

import pytest

from bench.figures import DIRECT, Figure, Measure, cell, changes, figure, ratio, shown, table

CHUNK = Measure("chunk", "CPU time", "per chunk, µs", 1e6)
FIRST = Measure("first", "Time added", "to the first chunk, ms", 1e3, added=True)
GAP = Measure("gap", "Time added", "to a gap, p99, ms", 1e3, compared=False)
NAMES = {"wakegate": "WakeGate", "nginx": "nginx", DIRECT: "no proxy"}
VALUES = {
    "chunk": {"wakegate": [31e-6, 29e-6, 36e-6], "nginx": [15e-6, 14e-6, 10e-6]},
    "first": {"wakegate": [0.0028, 0.0030, 0.0027], "nginx": [0.0022, 0.0023, 0.0025], DIRECT: [0.002, 0.0021, 0.0019]},
}


def test_a_figure_is_the_median_of_the_rounds_and_keeps_their_spread() -> None:
    assert Figure.of([3, 1, 9]) == Figure(3, 1, 9)


def test_what_no_proxy_needs_is_taken_off_where_only_the_rest_is_the_proxys_doing() -> None:
    found = figure(FIRST, "wakegate", VALUES)
    assert found is not None
    assert (found.median, found.low, found.high) == pytest.approx((0.0008, 0.0007, 0.001))
    plain = figure(FIRST, DIRECT, VALUES)
    assert plain is not None and plain.median == 0.002


def test_added_time_is_unknown_where_no_proxy_was_not_measured() -> None:
    assert figure(FIRST, "nginx", {"first": {"nginx": [0.002]}}) is None


def test_a_ratio_is_one_of_medians() -> None:
    assert ratio(CHUNK, "wakegate", VALUES) == pytest.approx(31 / 14)
    assert ratio(FIRST, "wakegate", VALUES) == pytest.approx(0.8 / 0.3)


@pytest.mark.parametrize("theirs", [[], [0.0], [0.0018]])
def test_there_is_no_ratio_to_nothing(theirs: list[float]) -> None:
    """Not measured, or so quick that noise makes its added time negative."""
    values = {"first": {"wakegate": [0.003], "nginx": theirs, DIRECT: [0.002]}}
    assert ratio(FIRST, "wakegate", values) is None


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (0.1337, "0.134"),
        (1.337, "1.34"),
        (14.44, "14.4"),
        (144.4, "144"),
        (1702.3, "1702"),
        (-0.02, "-0.020"),
    ],
)
def test_figures_have_no_more_digits_than_they_are_worth(value: float, text: str) -> None:
    assert shown(value) == text


def test_there_is_no_ratio_of_what_is_rare() -> None:
    assert cell(GAP, "wakegate", {"gap": {"wakegate": [0.003], "nginx": [0.0001]}}) == "3.00 [3.00..3.00]"


def test_a_cell_shows_median_ratio_and_spread() -> None:
    assert cell(CHUNK, "wakegate", VALUES) == "31.0 · **2.21×** [29.0..36.0]"
    assert cell(CHUNK, "nginx", VALUES) == "14.0 [10.0..15.0]"
    assert cell(CHUNK, DIRECT, VALUES) == "–"


def test_a_table_has_only_columns_in_which_something_stands() -> None:
    assert table([CHUNK], NAMES, VALUES) == (
        "| CPU time | WakeGate | nginx |\n"
        "|---|---|---|\n"
        "| per chunk, µs | 31.0 · **2.21×** [29.0..36.0] | 14.0 [10.0..15.0] |\n"
    )


def test_a_run_is_compared_by_its_ratios_so_that_a_slower_machine_is_no_change() -> None:
    slower = {"chunk": {name: [3 * value for value in row] for name, row in VALUES["chunk"].items()}}
    assert changes([CHUNK], "wakegate", slower, VALUES) == []


def test_what_differs_by_more_than_the_noise_is_told() -> None:
    now = {"chunk": {"wakegate": [21e-6], "nginx": [14e-6]}}
    assert changes([CHUNK], "wakegate", now, VALUES) == [
        "better: CPU time per chunk, µs: 1.50× nginx's, was 2.21× (-32 %)"
    ]
    assert changes([CHUNK], "wakegate", VALUES, now) == [
        "WORSE: CPU time per chunk, µs: 2.21× nginx's, was 1.50× (+48 %)"
    ]


def test_runs_whose_rounds_overlap_do_not_differ() -> None:
    now = {"chunk": {"wakegate": [21e-6, 20e-6, 30e-6], "nginx": [14e-6]}}
    assert changes([CHUNK], "wakegate", now, VALUES) == []


def test_what_one_of_the_two_runs_did_not_measure_is_no_change() -> None:
    assert changes([CHUNK, FIRST], "wakegate", VALUES, {}) == []
