"""The page shows what was measured, and how."""

import pytest

from bench.compare import title_of
from bench.features import VARIANTS
from bench.figures import DIRECT
from bench.page import BEGIN, END, PAGE, measured, with_figures
from bench.subjects import SUBJECTS
from bench.work import FULL, SECTIONS, all_measures

RUN = {
    "form": "full",
    "when": "2026-01-01 00:00 UTC",
    "rounds": 3,
    "took": 900,
    "others": 0.034,
    "machine": {"processor": "P", "cores": 2, "memory": "8 GiB", "system": "S", "python": "CPython 3"},
    "versions": {"wakegate": "abc"},
    "absent": {"HAProxy": "apt install haproxy"},
    "lost": [("caddy", "Caddy, short: cut\nand what it said")],
    "values": {"request": {"wakegate": [1e-4]}},
}


def test_only_what_stands_between_the_marks_is_written() -> None:
    page = with_figures(f"before\n{BEGIN}old\n{END}after\n", measured(RUN))
    assert page.startswith(f"before\n{BEGIN}\n| CPU time | WakeGate |\n")
    assert "\n\nDid not answer as it should: Caddy, short: cut.\n" in page
    assert "Not installed, and so not measured: HAProxy.\n" in page
    assert page.endswith(f"cut.\n\n{END}after\n")
    assert "old" not in page


def test_a_page_without_marks_is_left_alone() -> None:
    with pytest.raises(ValueError, match="marks"):
        with_figures("nothing", "figures")


def test_the_page_shows_measures_that_there_are_in_their_order() -> None:
    """Or the figures are of another benchmark than this one: measure again (`make bench`, `python -m bench.page`)."""
    text = PAGE.read_text("utf-8").partition(BEGIN)[2].partition(END)[0]
    rows = [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("|") and line[1] != "-"]
    measures = [
        row
        for section in SECTIONS
        for row in (section, *(each.title for each in all_measures(FULL) if each.section == section))
    ]
    rows = rows[: rows.index("Goal")] if "Goal" in rows else rows  # which says some of them again
    assert rows == [row for row in measures if row in rows]
    titles = {title_of(name) for name in (*SUBJECTS, DIRECT)}
    heads = [line for line in text.splitlines() if line.split("|")[1:2] and line.split("|")[1].strip() in SECTIONS]
    assert {cell.strip() for head in heads for cell in head.split("|")[2:-1]} <= titles


def test_what_features_cost_stands_beside_it() -> None:
    costs = {work: {variant: [1e-6, 2e-6] for variant in VARIANTS} for work in ("chunk", "request")}
    text = measured(RUN, {"when": "2026-01-02", "costs": costs})
    assert "| Feature, alone | per chunk, µs |" in text
    assert text.index("| none of them | 1.50 |") < text.index("share of a request") < text.index("2026-01-02")
