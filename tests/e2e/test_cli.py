"""`wakegate serve`: the same two ports, started by the command line."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.worker import Worker

pytestmark = pytest.mark.engine


def test_serve_runs_both_ports_and_ends_in_order(tmp_path: Path, demo_model: Path) -> None:
    """It is start.sh without the set-up: with the Python that it was called by."""
    worker = Worker(tmp_path, MODEL=str(demo_model))
    worker.command = [sys.executable, "-m", "gateway", "serve"]
    worker.env["PYTHONPATH"] = str(Path(__file__).parents[2])
    worker.start()
    try:
        worker.until("ready")
        assert worker.probe() == 200
        body = {"max_tokens": 2, "messages": [{"role": "user", "content": "Hi"}]}
        assert worker.post("/v1/chat/completions", body)[0] == 200
        assert "[setup]" not in worker.console
    finally:
        assert worker.stop() == 0


def test_help_names_the_commands() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "gateway", "--help"], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 0
    assert "serve" in done.stdout and "pull" in done.stdout
