"""How long the last starts took, and in which phases: it informs, and never stands in the way."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.policy.estimate import Past
from gateway.records.starts import KEPT, KINDS, LARGEST, Kind, Known, StartTimes, known_of

DEMO = Kind("demo", "llama-server", "1 x NVIDIA L4")
SMALL = Past({"booting": 1.0, "loading": 2.5})


def test_nothing_is_known_before_the_first_start(tmp_path: Path) -> None:
    times = StartTimes(tmp_path / "state" / "starts.json")
    assert times.slowest() is None
    assert times.pasts(DEMO) == ()


def test_the_slowest_of_the_last_starts_counts(tmp_path: Path) -> None:
    path = tmp_path / "state" / "starts.json"
    times = StartTimes(path)
    for seconds in (500, 12.3456, 90.5, 3, 4, 5):
        times.add(DEMO, SMALL, seconds)
    assert StartTimes(path).slowest() == 90.5, "the oldest is forgotten"
    assert json.loads(path.read_text())["seconds"] == [12.346, 90.5, 3, 4, 5]
    assert [each.name for each in path.parent.iterdir()] == ["starts.json"]


def test_phases_of_the_last_starts_are_kept_for_each_kind(tmp_path: Path) -> None:
    path = tmp_path / "starts.json"
    times = StartTimes(path)
    for number in range(KEPT + 2):
        times.add(DEMO, Past({"booting": 1.0, "loading": float(number)}))
    times.add(Kind("other"), SMALL)
    again = StartTimes(path)
    again.read()
    assert [past.phases["loading"] for past in again.pasts(DEMO)] == [2.0, 3.0, 4.0, 5.0, 6.0]
    assert list(again.pasts(DEMO)[0].phases) == ["booting", "loading"], "in their order"
    assert again.pasts(Kind("other")) == (SMALL,)


def test_another_model_engine_or_gpu_says_nothing_and_neither_does_a_wake(tmp_path: Path) -> None:
    times = StartTimes(tmp_path / "starts.json")
    times.add(DEMO, SMALL)
    assert times.pasts(Kind("demo", "vllm", "1 x NVIDIA L4")) == ()
    assert times.pasts(Kind("demo", "llama-server", "1 x NVIDIA H100")) == ()
    assert times.pasts(Kind("demo2", "llama-server", "1 x NVIDIA L4")) == ()
    assert times.pasts(Kind("demo", "llama-server", "1 x NVIDIA L4", "wake")) == ()


def test_what_is_not_known_yet_fits_all(tmp_path: Path) -> None:
    """The engine is chosen by the model's files, the GPUs are asked for on a thread: after the start was ordered."""
    times = StartTimes(tmp_path / "starts.json")
    times.add(DEMO, SMALL)
    assert times.pasts(Kind("demo")) == (SMALL,)


def test_a_wake_is_no_cold_start_for_the_health_mode(tmp_path: Path) -> None:
    times = StartTimes(tmp_path / "starts.json")
    times.add(Kind("demo", what="wake"), SMALL)
    assert times.slowest() is None


def test_two_workers_on_one_volume_learn_from_each_other(tmp_path: Path) -> None:
    one, other = StartTimes(tmp_path / "starts.json"), StartTimes(tmp_path / "starts.json")
    one.add(DEMO, SMALL, 1)
    other.add(DEMO, SMALL, 2)
    one.add(DEMO, SMALL, 3)
    assert len(one.pasts(DEMO)) == 3
    assert one.slowest() == 3


def test_the_file_is_bounded(tmp_path: Path) -> None:
    path = tmp_path / "starts.json"
    times = StartTimes(path)
    long = Past({f"phase {number} {'x' * 20}": 1.0 for number in range(16)})
    for number in range(KINDS + 3):
        times.add(Kind(f"model {number} {'m' * 150}"), long)
    times.add(Kind(f"model {KINDS + 2} {'m' * 150}"), long)
    kinds = {start["model"] for start in json.loads(path.read_text())["starts"]}
    assert len(kinds) == KINDS and not any(kind.startswith("model 0 ") for kind in kinds)
    assert path.stat().st_size * KEPT < LARGEST


# --- Files of other making


def test_a_list_of_an_earlier_version_still_says_how_slow_starts_are(tmp_path: Path) -> None:
    path = tmp_path / "starts.json"
    path.write_text("[12.346, 90.5, 3.0]")
    times = StartTimes(path)
    assert times.slowest() == 90.5
    times.add(DEMO, SMALL, 7)
    assert StartTimes(path).slowest() == 90.5
    assert times.pasts(DEMO) == (SMALL,)


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
        "[1.0," * 500_000,
        "\x00\xff",
        '{"seconds": 7, "starts": {}}',
        '{"seconds": ["7"], "starts": [7, {"phases": []}, {"phases": {"loading": 1}, "what": "nap"}]}',
        '{"starts": [{"model": "m", "engine": 7, "gpu": "", "what": "start", "phases": {"loading": 1}}]}',
        '{"starts": [{"model": "m", "engine": "", "gpu": "", "what": "start", "phases": {"loading": NaN}}]}',
    ],
)
def test_a_file_that_holds_anything_else_is_as_if_there_were_none(tmp_path: Path, text: str) -> None:
    path = tmp_path / "starts.json"
    path.write_text(text, "latin-1")
    assert StartTimes(path).slowest() is None
    times = StartTimes(path)
    times.add(DEMO, SMALL, 7)
    assert StartTimes(path).slowest() == 7
    assert times.pasts(DEMO) == (SMALL,)


def test_what_can_be_read_of_a_mixed_list_is_read(tmp_path: Path) -> None:
    path = tmp_path / "starts.json"
    path.write_text('[10.0, "x", NaN, 20.0]')
    assert StartTimes(path).slowest() == 20


json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.dictionaries(
            st.sampled_from(["seconds", "starts", "phases", "model", "engine", "gpu", "what", "x"]), inner
        )
    ),
    max_leaves=30,
)


@given(json_values)
def test_whatever_a_file_says_is_read_as_times_or_not_at_all(said: object) -> None:
    known = known_of(said)
    assert isinstance(known, Known)
    assert all(0 <= seconds < float("inf") for seconds in known.seconds)


def test_a_volume_that_cannot_be_written_is_nobodys_reason_to_fail(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    StartTimes(tmp_path / "file" / "starts.json").add(DEMO, SMALL, 5)
    (tmp_path / "starts.json").mkdir()
    times = StartTimes(tmp_path / "starts.json")
    times.add(DEMO, SMALL, 5)
    times.add(DEMO, SMALL, 6)
    assert StartTimes(tmp_path / "starts.json").slowest() is None
    assert times.pasts(DEMO) == (SMALL, SMALL), "this gateway knows it all the same"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "starts.json"], "no draft is left behind"
