"""`wakegate doctor` as it is typed: its exit codes, its two forms, and nothing of a secret."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.worker import free_port, running

ROOT = Path(__file__).parents[2]
SECRETS = {
    "API_KEY": "sk-planted-api-0123456789abcdef",
    "ADMIN_KEY": "sk-planted-admin-0123456789abcdef",
    "UPSTREAM_API_KEY": "sk-planted-upstream-0123456789abcdef",
    "HF_TOKEN": "hf_plantedtoken0123456789",
    "RUNPOD_API_KEY": "rpa_PLANTED0123456789",
}


def doctor(folder: Path, *words: str, **environ: str) -> "subprocess.CompletedProcess[str]":
    there = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "HOME": str(folder), "LANG": "C.UTF-8"}
    there |= {"DATA_DIR": str(folder), "HOST": "127.0.0.1", "WAKEGATE_ENV_FILE": str(folder / "empty.env")}
    there |= {"PORT": str(free_port()), "PORT_HEALTH": str(free_port())}
    (folder / "empty.env").touch()
    command = [sys.executable, "-m", "gateway", "doctor", *words]
    return subprocess.run(command, env=there | environ, cwd=folder, capture_output=True, text=True, timeout=30)


def test_a_machine_on_which_it_would_run_is_exit_code_0(tmp_path: Path) -> None:
    done = doctor(tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1].startswith("Nothing would break, ")


def test_what_would_break_is_exit_code_1_and_stands_first(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as stranger:
        done = doctor(tmp_path, "--json", PORT=str(stranger.getsockname()[1]))
    assert done.returncode == 1
    said = json.loads(done.stdout)
    assert said["summary"]["breaks"] == 1
    assert said["findings"][0]["code"] == "port-taken"
    assert f"(process {os.getpid()})" in said["findings"][0]["what"]


@pytest.mark.parametrize("words", [(), ("--json",)])
def test_settings_that_cannot_be_read_are_exit_code_2_and_findings(tmp_path: Path, words: tuple[str, ...]) -> None:
    done = doctor(tmp_path, *words, PORT="high", HOLD_MAX="soon")
    assert done.returncode == 2
    assert done.stdout.count("setting-wrong") == 2 and "PORT: " in done.stdout


def test_no_secret_is_printed_whatever_is_wrong(tmp_path: Path) -> None:
    keys = tmp_path / "keys.txt"
    keys.write_text("bob:sk-planted-bob-0123456789abcdef\n")
    serverless = {"RUNPOD_DC_ID": "EU-1", "RUNPOD_ENDPOINT_ID": "ep42"}
    wrong = {"MODEL": "/nowhere/sk-planted-api-0123456789abcdef.gguf", "API_KEYS_FILE": str(keys), "PORT": "80"}
    for words in ((), ("--json",)):
        done = doctor(tmp_path, *words, **SECRETS, **serverless, **wrong)
        said = done.stdout + done.stderr
        assert done.returncode == 1 and "runpod-authorization" in said and "keys-in-clear" in said
        assert "planted" not in said.lower()
    broken = doctor(tmp_path, **SECRETS, PORT=SECRETS["API_KEY"])
    assert broken.returncode == 2 and "planted" not in broken.stdout + broken.stderr


@pytest.mark.engine
def test_a_running_gateway_of_ours_is_recognised(tmp_path: Path, demo_model: Path) -> None:
    with running(tmp_path, MODEL=str(demo_model), WAKEGATE_PYTHON=sys.executable) as worker:
        worker.until("ready")
        ports = {"PORT": str(worker.port), "PORT_HEALTH": str(worker.port_health)}
        done = doctor(tmp_path, "--json", MODEL=str(demo_model), **ports)
    said = json.loads(done.stdout)
    assert done.returncode == 0
    (runs,) = [finding for finding in said["findings"] if finding["code"] == "gateway-runs"]
    assert f"on port {worker.port}, state ready" in runs["what"]
