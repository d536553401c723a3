"""The catalogue: every finding has its words, stands in a test, and reads well."""

import re
from pathlib import Path
from string import Formatter

import pytest

from gateway.doctor.findings import BREAKS, CATALOGUE, DOUBTFUL, NOTE, THEMES, Finding, Level, found

TESTS = "\n".join(path.read_text("utf-8") for path in Path(__file__).parent.glob("test_*.py") if path != Path(__file__))


@pytest.mark.parametrize("code", CATALOGUE)
def test_every_finding_is_tested_by_its_code(code: str) -> None:
    assert f'"{code}"' in TESTS


@pytest.mark.parametrize("code", CATALOGUE)
def test_every_finding_has_a_code_a_theme_and_levels_that_are_known(code: str) -> None:
    kind = CATALOGUE[code]
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", code)
    assert kind.theme in THEMES
    assert kind.levels and len(set(kind.levels)) == len(kind.levels)


@pytest.mark.parametrize("code", CATALOGUE)
def test_every_finding_says_why_in_a_sentence_and_what_to_type_in_one_line(code: str) -> None:
    kind = CATALOGUE[code]
    assert kind.why.endswith((".", ")"))
    assert kind.cure and "\n" not in kind.cure
    assert kind.what.endswith((".", "}", ")"))


def names(code: str) -> set[str]:
    kind = CATALOGUE[code]
    return {name for text in (kind.what, kind.why, kind.cure) for _, name, _, _ in Formatter().parse(text) if name}


@pytest.mark.parametrize("code", CATALOGUE)
def test_a_value_that_is_missing_is_noticed(code: str) -> None:
    for name in names(code):
        values: dict[str, object] = dict.fromkeys(names(code) - {name}, 1)
        with pytest.raises(LookupError):
            found(code, **values)


def test_a_code_or_a_level_that_is_not_in_the_catalogue_is_refused() -> None:
    with pytest.raises(LookupError):
        found("no-such-finding")
    with pytest.raises(LookupError, match="never note"):
        found("gpu-too-old", NOTE, model="m", gpu="T4", has="7.5")


def test_the_worst_come_first_and_then_by_theme() -> None:
    findings = [
        found("uvloop-missing"),
        found("python-optimized"),
        found("run-folder-missing", places="/tmp"),
        found("pod-without-gpu", pod="abc"),
        found("clock-unsynchronised"),
    ]
    ranked = sorted(findings, key=lambda finding: finding.rank)
    assert [finding.level for finding in ranked] == [BREAKS, BREAKS, DOUBTFUL, NOTE, NOTE]
    assert [finding.code for finding in ranked[:2]] == ["run-folder-missing", "pod-without-gpu"]


def test_it_reads_well_at_three_in_the_morning() -> None:
    assert repr(found("clock-wrong", year=1970)) == "<Finding breaks clock-wrong: The clock says 1970.>"
    assert isinstance(found("uvloop-missing"), Finding)
    assert [level.value for level in Level] == ["breaks", "doubtful", "note"]
