"""The script beside a bare engine: run as it is, against an engine's counters and a vendor that hears what it asks."""

import os
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.support.worker import ROOT, wait_for

SCRIPT = ROOT / "deploy" / "sidecar" / "self_stop.sh"

IDLE = """\
# HELP vllm:num_requests_running Number of requests in model execution batches.
vllm:num_requests_running{engine="0",model_name="m"} 0.0
vllm:num_requests_waiting{engine="0",model_name="m"} 0.0
vllm:prompt_tokens_total{engine="0",model_name="m"} 12.0
vllm:generation_tokens_total{engine="0",model_name="m"} 40.0
"""
BUSY = IDLE.replace('running{engine="0",model_name="m"} 0.0', 'running{engine="0",model_name="m"} 1.0')
LLAMA_BUSY = "llamacpp:requests_processing 2\nllamacpp:tokens_predicted_total 40\n"


class Outside(ThreadingHTTPServer):
    """The engine's metrics, and the vendor's API."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Asked)
        self.metrics = IDLE
        self.status = 200
        self.asked: list[str] = []
        """Of the vendor: method, path, key and body."""
        self.scrapes = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Asked(BaseHTTPRequestHandler):
    def _answer(self) -> None:
        assert isinstance(self.server, Outside)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
        said, status = b"{}", self.server.status
        if self.path == "/metrics":
            self.server.scrapes += 1
            said, status = self.server.metrics.encode(), 200
        else:
            self.server.asked.append(f"{self.command} {self.path} {self.headers['Authorization']} {body}".strip())
        self.send_response(status)
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)

    do_GET = do_POST = do_PUT = _answer

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def outside() -> Iterator[Outside]:
    server = Outside()
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


class Script:
    """One run of it."""

    def __init__(self, folder: Path, outside: Outside, **environ: str) -> None:
        self.log = folder / "said.txt"
        self.environ = {
            "PATH": os.environ["PATH"],
            "METRICS_URL": f"{outside.url}/metrics",
            "RUNPOD_API_URL": f"{outside.url}/v2",
            "VAST_API_URL": f"{outside.url}/api/v0",
            "LOOK_EVERY": "0.1",
            **environ,
        }

    def __enter__(self) -> "Script":
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                ["sh", str(SCRIPT)], env=self.environ, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )
        return self

    def __exit__(self, *_: object) -> None:
        os.killpg(self.process.pid, 15)
        self.process.wait()

    @property
    def said(self) -> str:
        return self.log.read_text()


POD = {"RUNPOD_POD_ID": "pod1", "RUNPOD_API_KEY": "pod-scoped"}
STOP = 'POST /v2/pods/pod1/action Bearer pod-scoped {"action": "stop"}'


def test_it_has_forty_lines_at_most() -> None:
    """Somebody who puts it into a machine of theirs reads it first."""
    assert len(SCRIPT.read_text().splitlines()) <= 40


def test_an_idle_pod_is_stopped_and_asked_again_while_it_runs(outside: Outside, tmp_path: Path) -> None:
    with Script(tmp_path, outside, SELF_STOP_AFTER="1", **POD) as script:
        wait_for(lambda: outside.asked.count(STOP) >= 2, 30, "two stops")
        assert outside.asked[0] == "GET /v2/pods/pod1 Bearer pod-scoped"
        assert "pods/pod1: 200 (200: this machine's key works" in script.said
        wait_for(lambda: "asked to stop it: 200" in script.said, 30, "what came of it")
        shown = Path(f"/proc/{script.process.pid}/cmdline").read_bytes()
        assert b"pod-scoped" not in shown and "pod-scoped" not in script.said


@pytest.mark.parametrize("busy", [BUSY, LLAMA_BUSY], ids=["vllm", "llama-server"])
def test_one_that_works_is_left_alone_until_its_longest_time_is_over(
    outside: Outside, tmp_path: Path, busy: str
) -> None:
    outside.metrics = busy
    with Script(tmp_path, outside, SELF_STOP_AFTER="1", MAX_RUNTIME="2", **POD) as script:
        wait_for(lambda: STOP in outside.asked, 30, "the end of MAX_RUNTIME")
        wait_for(lambda: "asked to stop it" in script.said, 30, "what came of it")
        assert "idle for 0 s" in script.said, script.said


def test_a_vast_instance_is_stopped_in_vasts_words(outside: Outside, tmp_path: Path) -> None:
    here = {"CONTAINER_ID": "4711", "CONTAINER_API_KEY": "of-the-instance"}
    stop = 'PUT /api/v0/instances/4711/ Bearer of-the-instance {"state": "stopped"}'
    with Script(tmp_path, outside, SELF_STOP_AFTER="0", **here):
        wait_for(lambda: stop in outside.asked, 30, "the stop")


def test_a_key_that_is_refused_is_told(outside: Outside, tmp_path: Path) -> None:
    outside.status = 403
    with Script(tmp_path, outside, SELF_STOP_AFTER="0", **POD) as script:
        wait_for(lambda: "asked to stop it: 403" in script.said, 30, "what came of it")
        assert "pods/pod1: 403" in script.said
