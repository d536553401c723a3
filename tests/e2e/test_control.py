"""A worker that is told what to do from the command line, as a person types it: found by its port, wherever it runs."""

import json
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from gateway.cli import app
from tests.e2e.test_operating import QUICK
from tests.support.landlord import landlord
from tests.support.worker import Worker, running, wait_for


def wakegate(worker: Worker, *words: str) -> tuple[int, str]:
    """Exit code, and all that it says; in this process, which knows of the worker only what its settings say."""
    result = CliRunner(env=worker.env | {"WAKEGATE_RUN_DIR": None}).invoke(app, list(words))
    return result.exit_code, result.output


def status(worker: Worker) -> dict[str, Any]:
    code, said = wakegate(worker, "status", "--json")
    assert code == 0, said
    told: dict[str, Any] = json.loads(said)
    return told


def test_it_is_warm_by_schedule_sleeps_when_told_and_ends_when_told(tmp_path: Path) -> None:
    always = {"WARM_SCHEDULE": "daily 00:00-24:00 Europe/Berlin", "WAKE_ON_START": "false", "IDLE_TIMEOUT": "300"}
    with running(tmp_path, ENGINE_COMMAND=QUICK, ADMIN_KEY="sk-admin-0123456789abcdef", **always) as worker:
        worker.until("ready")
        told = status(worker)
        assert (told["state"], told["warm_by"], told["in_flight"]) == ("ready", "WARM_SCHEDULE", 0)

        assert wakegate(worker, "sleep")[0] == 0
        worker.until("stopped")
        assert worker.call("POST", "/wake")[1]["state"] == "starting"
        code, said = wakegate(worker, "wake", "--wait")
        assert code == 0 and any(line.startswith("ready, for ") for line in said.splitlines()), said

        answered = worker.post("/chat", {"prompt": "Hello"})
        assert answered[0] == 200 and answered[1]["object"] == "chat.completion"
        assert wakegate(worker, "keep-warm", "1h")[0] == 0
        assert status(worker)["warm_by"] == "keep-warm"
        told = worker.call("GET", "/admin/status", key="sk-admin-0123456789abcdef")[1]
        assert (told["state"], told["warm_by"], told["starts"]) == ("ready", "keep-warm", 2)

        code, said = wakegate(worker, "stop")
        assert (code, said.splitlines()[-1]) == (0, "It has ended, and nothing of it runs."), said
        assert worker.process is not None and worker.process.wait(30) == 0
        assert worker.pids("quick_engine") == []
        assert "told to sleep by the command line" in worker.console
        assert wakegate(worker, "status")[0] == 1


def test_what_is_rented_is_left_to_a_successor_where_that_is_ordered(tmp_path: Path) -> None:
    """That a successor takes it over is in test_on_demand.py."""
    (tmp_path / "gateway").mkdir()
    with landlord(tmp_path / "pods") as rents, running(tmp_path / "gateway", **rents.settings()) as gateway:
        gateway.until("stopped")
        assert wakegate(gateway, "wake")[0] == 0
        wait_for(lambda: rents.running, 30, "the pod runs")
        told = wait_for(lambda: (now := status(gateway))["instance"] and now, 30, "the gateway knows of it")
        assert (told["instance"]["id"], told["money"]["budget_dollars"]) == ("abc123", 20.0)
        code, said = wakegate(gateway, "stop", "--leave")
        assert code == 0 and "Left running: abc123 (runpod-pod), $0.39/h." in said, said
        assert gateway.process is not None and gateway.process.wait(30) == 0
        assert rents.running == ["abc123"] and len(rents.actions()) == 1
