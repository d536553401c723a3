"""The text is one that Prometheus reads, a family makes no more series than it may, and a count is never lost."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from gateway.records.series import (
    LONGEST_LABEL,
    Described,
    Reading,
    counter,
    escaped,
    histogram,
    number,
    short,
    summary,
)


def parsed(family: Described) -> Metric:
    (found,) = text_string_to_metric_families(family.text())
    return found


def samples(family: Described) -> dict[tuple[str, ...], float]:
    """Values by the words of the labels (and the rest of a sample's name, where there is one)."""
    said = {}
    for each in parsed(family).samples:
        rest = each.name.removeprefix(family.name)
        said[(*each.labels.values(), *([rest] if rest else []))] = each.value
    return said


def test_a_counter_is_read_as_one() -> None:
    family = counter("wakegate_things_total", "Things.", ("upstream", "what"))
    family.of("default", "a").inc()
    family.of("default", "a").inc(2)
    family.of("default", "b")
    assert (parsed(family).type, parsed(family).documentation) == ("counter", "Things.")
    assert samples(family) == {("default", "a"): 3, ("default", "b"): 0}


def test_a_counter_without_labels_has_no_braces() -> None:
    family = counter("wakegate_things_total", "Things.")
    family.of().inc()
    assert "\nwakegate_things_total 1\n" in family.text()


def test_a_histogram_adds_up_its_buckets() -> None:
    family = histogram("wakegate_took_seconds", "Times.", ("route",), (0.1, 1))
    for value in (0.05, 0.1, 0.5, 2):
        family.of("/a").observe(value)
    assert parsed(family).type == "histogram"
    assert samples(family) == {
        ("/a", "0.1", "_bucket"): 2,
        ("/a", "1.0", "_bucket"): 3,
        ("/a", "+Inf", "_bucket"): 4,
        ("/a", "_count"): 4,
        ("/a", "_sum"): 2.65,
    }


def test_a_value_on_a_bound_is_within_it() -> None:
    family = histogram("wakegate_took_seconds", "Times.", (), (0.1, 1))
    family.of().observe(1)
    assert samples(family)["1.0", "_bucket"] == 1
    assert samples(family)["0.1", "_bucket"] == 0


@given(st.lists(st.floats(0, 1e6), max_size=30))
def test_a_histogram_counts_what_each_bound_holds(values: list[float]) -> None:
    bounds = (0.1, 1.0, 10.0)
    family = histogram("wakegate_took_seconds", "Times.", (), bounds)
    family.of()
    for value in values:
        family.of().observe(value)
    said = samples(family)
    for bound in bounds:
        assert said[str(bound), "_bucket"] == sum(value <= bound for value in values)
    assert said["+Inf", "_bucket"] == said[("_count",)] == len(values)
    assert said[("_sum",)] == pytest.approx(sum(values))


def test_a_summary_is_how_many_and_how_much() -> None:
    family = summary("wakegate_phase_seconds", "Phases.", ("phase",))
    family.of("loading").observe(2.5)
    family.of("loading").observe(1.5)
    assert parsed(family).type == "summary"
    assert samples(family) == {("loading", "_count"): 2, ("loading", "_sum"): 4}


def test_a_reading_asks_at_each_scrape_and_says_nothing_where_nothing_is_known() -> None:
    known: list[tuple[tuple[str, ...], float]] = []
    family = Reading("wakegate_age_seconds", "gauge", "Age.", ("upstream",), lambda: known)
    assert family.text() == ""
    known.append((("default",), 1.5))
    assert samples(family) == {("default",): 1.5}
    known[0] = (("default",), 2)
    assert samples(family) == {("default",): 2}


def test_a_family_without_series_is_not_on_the_page() -> None:
    assert counter("wakegate_things_total", "Things.", ("what",)).text() == ""


def test_what_comes_late_gives_up_its_labels_one_by_one() -> None:
    family = counter(
        "wakegate_things_total", "T.", ("upstream", "route", "outcome"), at_most=2, folds=("route", "upstream")
    )
    for route in ("/a", "/b", "/c", "/d"):
        family.of("one", route, "answered").inc()
    for upstream in range(20):
        family.of(f"u{upstream}", "/a", "answered").inc()
    said = samples(family)
    assert said["one", "/a", "answered"] == said["one", "/b", "answered"] == 1
    assert said["one", "other", "answered"] == 2
    assert said["u0", "other", "answered"] == 1
    assert said["other", "other", "answered"] == 20 - 7, "eight may stand between, and `one` is the first of them"
    assert sum(said.values()) == 24, "none is lost"
    assert len(said) == 2 + 8 + 1


@given(st.lists(st.tuples(st.text(max_size=5), st.text(max_size=5), st.sampled_from(["x", "y"])), max_size=60))
def test_whatever_comes_no_family_outgrows_its_number_and_none_is_lost(labels: list[tuple[str, str, str]]) -> None:
    family = counter(
        "wakegate_things_total", "T.", ("upstream", "route", "kind"), at_most=3, folds=("route", "upstream")
    )
    for each in labels:
        family.of(*each).inc()
    values = [float(line.rpartition(" ")[2]) for line in family.lines()]
    assert sum(values) == len(labels)
    assert len(values) <= 3 + 8 + 2


@pytest.mark.parametrize("word", ['"', "\\", "\n", 'a"} 1\nfake{x="', "ü…", "", "\\n", "a\\", "{}=,"])
def test_a_label_comes_back_as_it_was(word: str) -> None:
    family = counter("wakegate_things_total", "Things.", ("what",))
    family.of(word).inc()
    assert samples(family) == {(word,): 1}
    assert family.text().count("\n") == 3


@given(st.text(st.characters(exclude_categories=("Cs",)), max_size=40))
def test_any_text_is_one_label_on_one_line(word: str) -> None:
    assert "\n" not in escaped(word)
    family = counter("wakegate_things_total", "Things.", ("what",))
    family.of(word).inc()
    lines = family.text().split("\n")
    assert len(lines) == 4 and lines[2].endswith('"} 1')


def test_a_long_label_is_cut_and_still_told_apart() -> None:
    long = ["x" * 200 + end for end in "ab"]
    cut = [short(word) for word in long]
    assert all(len(word) == LONGEST_LABEL for word in cut)
    assert cut[0] != cut[1]
    assert short("x" * LONGEST_LABEL) == "x" * LONGEST_LABEL


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (1, "1"),
        (2.0, "2"),
        (True, "1"),
        (0.25, "0.25"),
        (10**12, "1000000000000"),
        (1e17, "1e+17"),
        (math.inf, "+Inf"),
        (-math.inf, "-Inf"),
    ],
)
def test_a_number_is_written_as_go_reads_it(value: float, text: str) -> None:
    assert number(value) == text
