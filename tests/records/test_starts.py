"""How long the last starts took: it informs, and never stands in the way."""

import json
from pathlib import Path

import pytest

from gateway.records.starts import KEPT, StartTimes


def test_nothing_is_known_before_the_first_start(tmp_path: Path) -> None:
    assert StartTimes(tmp_path / "state" / "starts.json").slowest() is None


def test_the_slowest_of_the_last_starts_counts(tmp_path: Path) -> None:
    path = tmp_path / "state" / "starts.json"
    times = StartTimes(path)
    for seconds in (500, 12.3456, 90.5, 3, 4, 5):
        times.add(seconds)
    assert StartTimes(path).slowest() == 90.5, "the oldest is forgotten"
    assert json.loads(path.read_text()) == [12.346, 90.5, 3, 4, 5] and len(json.loads(path.read_text())) == KEPT
    assert [each.name for each in path.parent.iterdir()] == ["starts.json"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[1.5, 2",
        "{}",
        "null",
        '"90"',
        '["90", null, [1.0], {"a": 1}]',
        "[NaN, Infinity, -Infinity, -1.0]",
        "[1e400]",
        "[true]",
        "[" * 4000,
        "[1.0," * 5000,
        "\x00\xff",
    ],
)
def test_a_file_that_holds_anything_else_is_as_if_there_were_none(tmp_path: Path, text: str) -> None:
    path = tmp_path / "starts.json"
    path.write_text(text, "latin-1")
    assert StartTimes(path).slowest() is None
    StartTimes(path).add(7)
    assert StartTimes(path).slowest() == 7


def test_what_can_be_read_of_a_mixed_list_is_read(tmp_path: Path) -> None:
    path = tmp_path / "starts.json"
    path.write_text('[10.0, "x", NaN, 20.0]')
    assert StartTimes(path).slowest() == 20


def test_a_volume_that_cannot_be_written_is_nobodys_reason_to_fail(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    StartTimes(tmp_path / "file" / "starts.json").add(5)
    (tmp_path / "starts.json").mkdir()
    times = StartTimes(tmp_path / "starts.json")
    times.add(5)
    assert times.slowest() is None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "starts.json"], "no draft is left behind"
