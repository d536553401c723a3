"""`wakegate status | wake | sleep | keep-warm | stop` as a person types them."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from gateway.cli import app
from gateway.commands.control import as_text, until_ready
from tests.commands.test_logs import environ
from tests.support.answering import gateway

READY: dict[str, Any] = {
    "state": "ready",
    "ready": True,
    "state_seconds": 192.4,
    "expected_seconds": 0.0,
    "progress": None,
    "models": ["qwen"],
    "in_flight": 2,
    "waiting": 0,
    "instance": {
        "id": "pod-7",
        "name": "wk-1",
        "provider": "runpod-pod",
        "dollars_per_hour": 0.34,
        "started": "2026-11-21T23:00:00Z",
    },
    "idle_stop_in": 540.0,
    "warm_until": "2026-11-22T01:00:00Z",
    "warm_by": "keep-warm",
    "money": {
        "month": "2026-11",
        "spent_dollars": 3.1,
        "storage_dollars": 0.0042,
        "budget_dollars": 20.0,
        "ends": None,
        "trouble": "",
    },
}
STARTING: dict[str, Any] = READY | {
    "state": "starting",
    "ready": False,
    "state_seconds": 8.0,
    "progress": {"phase": "loading", "ratio": 0.43, "seconds_left": 25.0},
    "instance": None,
    "idle_stop_in": None,
    "warm_until": None,
    "money": None,
}


def says(*answers: Mapping[str, Any]) -> bytes:
    return b"".join(json.dumps(each).encode() + b"\n" for each in answers)


def told(state: Mapping[str, Any] = READY) -> bytes:
    return says({"ok": True, "told": state})


def typed(folder: Path, *words: str, **settings: str) -> tuple[int, str]:
    """In this process: exit code, and all that it says."""
    there = environ(folder, WAKEGATE_RUN_DIR=str(folder), PORT="18000", **settings)
    result = CliRunner(env=there).invoke(app, list(words))
    return result.exit_code, result.output


def test_the_status_is_a_few_lines(tmp_path: Path) -> None:
    with gateway(tmp_path, 18000, told()):
        code, said = typed(tmp_path, "status")
    assert code == 0
    assert said == (
        "ready, for 3 m\n"
        "  model      qwen\n"
        "  callers    2 in flight, 0 waiting\n"
        "  runs       pod-7 (runpod-pod, $0.34/h), since 2026-11-21T23:00:00Z\n"
        "  stops      in 9 m, if nobody asks\n"
        "  kept warm  until 2026-11-22T01:00:00Z (keep-warm)\n"
        "  month      2026-11\n"
        "  spent      $3.10\n"
        "  storage    $0.0042\n"
        "  budget     $20.00\n"
    )


def test_the_status_is_all_of_it_for_programs(tmp_path: Path) -> None:
    with gateway(tmp_path, 18000, told()):
        code, said = typed(tmp_path, "status", "--json")
    assert (code, json.loads(said)) == (0, READY)


@pytest.mark.parametrize(
    ("state", "line"),
    [
        (STARTING, "starting: loading 43 %, 25 s left, for 8 s"),
        (STARTING | {"progress": None}, "starting, for 8 s"),
        (STARTING | {"progress": {"phase": "booting", "ratio": None}}, "starting: booting, for 8 s"),
        ({"state": "stopped"}, "stopped, for ?"),
        ({}, "unknown, for ?"),
    ],
)
def test_what_is_not_known_is_left_out(state: Mapping[str, Any], line: str) -> None:
    assert as_text(state).splitlines()[0] == line


def test_money_is_said_so_that_it_is_understood() -> None:
    money = {"left_dollars": 0.0, "warned_percent": 80, "ends": "2026-11-24 04:25:04", "trouble": ""}
    assert as_text({"state": "ready", "money": money}).splitlines()[2:] == [
        "  left         $0.00",
        "  warned at %  80",
        "  budget ends  2026-11-24 04:25:04",
    ]
    assert "warned" not in as_text({"state": "ready", "money": money | {"warned_percent": 0}})


def test_why_it_failed_is_said(tmp_path: Path) -> None:
    said = "loading\nthere is no pod abc\x1b[2J (RUNPOD_POD_ID)\n"
    state = {
        "state": "failed",
        "reason": "The vendor has no such GPU.",
        "engine_said": said,
        "warm_next": "2026-11-23T07:30:00Z",
    }
    assert as_text(state).splitlines()[1:] == [
        "  why        The vendor has no such GPU.",
        "  said       there is no pod abc[2J (RUNPOD_POD_ID)",
        "  callers    0 in flight, 0 waiting",
        "  next warm  2026-11-23T07:30:00Z",
    ]


@pytest.mark.parametrize("words", [["status"], ["wake"], ["sleep"], ["keep-warm", "2h"], ["stop"]])
def test_where_none_runs_that_is_said(tmp_path: Path, words: list[str]) -> None:
    code, said = typed(tmp_path, *words)
    assert code == 1 and said == "No gateway of this user runs on port 18000. Is PORT the same here as there?\n"


@pytest.mark.parametrize(
    ("words", "order"),
    [
        (["wake"], {"do": "wake"}),
        (["sleep"], {"do": "sleep"}),
        (["keep-warm", "2h"], {"do": "keep-warm", "for": 7200.0}),
        (["keep-warm", "off"], {"do": "keep-warm", "for": None}),
    ],
)
def test_an_order_is_passed_on_and_its_outcome_shown(tmp_path: Path, words: list[str], order: object) -> None:
    with gateway(tmp_path, 18000, told(STARTING)) as asked:
        code, said = typed(tmp_path, *words)
    assert code == 0 and said.startswith("starting: loading 43 %")
    assert [json.loads(line) for line in asked] == [order]


@pytest.mark.parametrize("words", [["wake"], ["sleep"], ["keep-warm", "2h"]])
def test_a_refusal_is_said_in_the_gateways_words(tmp_path: Path, words: list[str]) -> None:
    refusal = {"ok": False, "code": "insufficient_quota", "message": "The month's budget is spent."}
    with gateway(tmp_path, 18000, says(refusal)):
        assert typed(tmp_path, *words) == (1, "The month's budget is spent.\n")


def test_what_is_no_time_is_not_passed_on(tmp_path: Path) -> None:
    with gateway(tmp_path, 18000, told()) as asked:
        code, said = typed(tmp_path, "keep-warm", "soon")
    assert (code, said, asked) == (2, "TIME: 'soon' is not a time; such as 2h, 30m, or off.\n", [])


def test_what_answers_and_is_no_gateway_is_said(tmp_path: Path) -> None:
    with gateway(tmp_path, 18000, b"hello\n"):
        assert typed(tmp_path, "status") == (1, "What answers for port 18000 is no gateway.\n")


# --- wake --wait


def test_a_wake_is_waited_for_and_each_step_said_once() -> None:
    looks = iter([STARTING, STARTING | {"progress": {"phase": "loading", "ratio": 0.9}}, READY])
    lines: list[str] = []
    pauses: list[float] = []
    end = until_ready(STARTING, lambda: next(looks), say=lines.append, pause=pauses.append)
    assert end == READY and len(pauses) == 3
    assert lines == ["starting: loading 43 %, 25 s left", "starting: loading 90 %"]


@pytest.mark.parametrize("state", [{"state": "failed"}, {"state": "stopped"}, {"state": "draining"}])
def test_a_wake_that_failed_is_waited_for_no_longer(state: Mapping[str, Any]) -> None:
    looks = iter([state])
    assert until_ready(STARTING, lambda: next(looks), say=lambda line: None, pause=lambda seconds: None) == state


@pytest.mark.parametrize(("state", "code"), [(READY, 0), ({"state": "failed", "ready": False}, 1)])
def test_the_exit_code_of_a_wake_that_is_waited_for(tmp_path: Path, state: Mapping[str, Any], code: int) -> None:
    with gateway(tmp_path, 18000, told(state)):
        assert typed(tmp_path, "wake", "--wait")[0] == code


# --- stop

LEFT = {"id": "pod-7", "provider": "runpod-pod", "dollars_per_hour": 0.34}


def ended(instance: object) -> bytes:
    return says({"ok": True, "told": READY}, {"ok": True, "ended": True, "instance": instance})


def test_a_stop_waits_until_it_has_ended(tmp_path: Path) -> None:
    with gateway(tmp_path, 18000, ended(None)) as asked:
        code, said = typed(tmp_path, "stop", DRAIN_TIMEOUT="25")
    assert [json.loads(line) for line in asked] == [{"do": "stop", "leave": False}]
    assert code == 0 and said == (
        "The gateway on port 18000 ends; running answers have 25 s.\nIt has ended, and nothing of it runs.\n"
    )


def test_what_is_left_to_a_successor_is_named_with_its_price(tmp_path: Path) -> None:
    with gateway(tmp_path, 18000, ended(LEFT)) as asked:
        code, said = typed(tmp_path, "stop", "--leave")
    assert [json.loads(line) for line in asked] == [{"do": "stop", "leave": True}]
    assert code == 0 and "Left running: pod-7 (runpod-pod), $0.34/h." in said


def test_an_end_that_was_not_confirmed_is_a_failure_and_says_what_to_type(tmp_path: Path) -> None:
    with gateway(tmp_path, 18000, ended(LEFT)):
        code, said = typed(tmp_path, "stop")
    assert code == 1 and "the end of pod-7 (runpod-pod), $0.34/h was not confirmed" in said
    assert "wakegate stop --all" in said


def test_a_gateway_that_breaks_off_has_said_nothing_of_what_it_left(tmp_path: Path) -> None:
    with gateway(tmp_path, 18000, told()):
        code, said = typed(tmp_path, "stop")
    assert code == 1 and "The gateway on port 18000 has ended." in said


def test_leave_and_all_contradict_each_other(tmp_path: Path) -> None:
    code, said = typed(tmp_path, "stop", "--leave", "--all")
    assert code == 2 and "--leave and --all" in said


def test_where_nothing_is_rented_there_is_nothing_to_end(tmp_path: Path) -> None:
    with gateway(tmp_path, 18000, ended(None)) as asked:
        code, said = typed(tmp_path, "stop", "--all")
    assert (code, asked) == (2, []) and said.startswith("PROVIDER is local: nothing is rented")
