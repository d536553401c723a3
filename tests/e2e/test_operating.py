"""What an operator does to a running worker: ports, certificates, keys, a hang-up; through ./start.sh itself."""

import json
import os
import re
import signal
import ssl
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from tests.support.worker import KEY, ROOT, Worker, free_port, running, wait_for

pytestmark = pytest.mark.engine

CHAT = {"max_tokens": 4, "temperature": 0, "messages": [{"role": "user", "content": "Hello"}]}

QUICK = f"{sys.executable} -I -S {ROOT / 'tests/support/quick_engine.py'} {{socket}}"


def certificate(folder: Path, name: str) -> None:
    """A new pair, where the old one was."""
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-subj", f"/CN={name}", "-addext", "subjectAltName=IP:127.0.0.1",
         "-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")],
        check=True, capture_output=True,
    )  # fmt: skip


def test_it_speaks_tls_and_takes_a_new_certificate_on_a_hang_up(tmp_path: Path) -> None:
    certificate(tmp_path, "first")
    with running(tmp_path, TLS_CERT=str(tmp_path / "cert.pem"), TLS_KEY=str(tmp_path / "key.pem")) as worker:
        wait_for(lambda: "READY" in worker.console, 60, "ready")
        base = f"https://127.0.0.1:{worker.port}"
        assert f"{base}/v1" in worker.console
        trusting = ssl.create_default_context(cafile=str(tmp_path / "cert.pem"))
        request = urllib.request.Request(
            f"{base}/v1/chat/completions", data=json.dumps(CHAT).encode(), headers={"Content-Type": "application/json"}
        )
        request.add_header("X-API-Key", KEY)
        with urllib.request.urlopen(request, timeout=30, context=trusting) as answer:
            assert answer.status == 200
        assert worker.probe() == 200, "the health port speaks no TLS: platforms probe it in the clear"
        old = ssl.get_server_certificate(("127.0.0.1", worker.port))
        certificate(tmp_path, "second")
        assert worker.process is not None
        worker.process.send_signal(signal.SIGHUP)
        wait_for(
            lambda: ssl.get_server_certificate(("127.0.0.1", worker.port)) not in (old, ""), 10, "the new certificate"
        )


def test_metrics_have_a_port_of_their_own_when_asked_for(tmp_path: Path) -> None:
    port = free_port()
    with running(tmp_path, METRICS_PORT=str(port)) as worker:
        worker.until("ready")
        status, page = worker.get("/metrics", base=f"http://127.0.0.1:{port}", key=None)
        assert status == 200 and 'wakegate_state{upstream="default",state="ready"} 1' in page
        assert worker.get("/metrics")[0] == 404
        assert worker.get("/v1/models", base=f"http://127.0.0.1:{port}")[0] == 404


@pytest.mark.parametrize(("endpoint", "told"), [("ep42", True), ("", False)])
def test_who_asks_for_pages_is_summed_up_where_the_platform_counts_it_as_a_request(
    tmp_path: Path, endpoint: str, told: bool
) -> None:
    """On a pod nobody pays for a question; on a load balancer each keeps the worker."""
    here = {"RUNPOD_DC_ID": "EU-1", "RUNPOD_ENDPOINT_ID": endpoint}
    with running(tmp_path, WAKE_ON_START="false", ENGINE_COMMAND=QUICK, HOST="127.0.0.1", **here) as worker:
        worker.until("stopped")
        for path in ("/ping", "/ping", "/v1/models"):
            worker.get(path)
        worker.probe()
        assert worker.stop(within=10) == 0
        line = re.search(r"pages asked for on PORT in \d+ s: .*, /ping 2, /v1/models 1$", worker.console, re.MULTILINE)
    assert bool(line) is told, worker.console


def test_what_a_stream_cost_and_how_it_went_is_known_where_the_operator_wants_it_counted(tmp_path: Path) -> None:
    """COUNT_TOKENS: in its line and on /metrics, and its caller, who did not ask, does not hear of it."""
    with running(tmp_path, COUNT_TOKENS="true") as worker:
        worker.until("ready")
        status, said = worker.post("/v1/chat/completions", CHAT | {"stream": True})
        assert status == 200 and "[DONE]" in said and "usage" not in said
        live = tmp_path / "data/logs/llama/latest.txt"
        line = wait_for(lambda: re.search(r".*route=/v1/chat/completions .*", live.read_text()), 10, "its line")[0]
        assert "outcome=answered" in line and " tokens_out=4 " in line
        assert re.search(r" first_byte=\S+s first_token=\S+s( longest_gap=\S+s)? took=", line), line
        page = worker.get("/metrics")[1]
        assert re.search(r"^wakegate_output_tokens_total\{.*\} 4$", page, re.MULTILINE), page


def test_a_volume_that_hangs_when_the_engine_is_ready_holds_up_nobody(tmp_path: Path) -> None:
    """How long a start took is kept on the volume. A pipe that nobody writes to hangs whoever opens it."""
    with running(tmp_path, WAKE_ON_START="false", ENGINE_COMMAND=QUICK) as worker:
        worker.until("stopped")
        state = tmp_path / "data" / "state"
        state.mkdir(parents=True, exist_ok=True)
        os.mkfifo(state / "starts.json")
        assert worker.post("/v1/chat/completions", CHAT, timeout=15)[0] == 200
        assert worker.stop(within=10) == 0


def ended(worker: Worker) -> int:
    assert worker.process is not None
    return worker.process.wait(30)


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"API_KEYS_FILE": "/nowhere/keys.toml"}, "API_KEYS_FILE"),
        ({"TLS_CERT": "/nowhere/cert.pem"}, "TLS_CERT"),
        ({"CORS_ORIGINS": "*", "AUTH_ENABLED": "false", "API_KEY": ""}, "CORS_ORIGINS"),
    ],
)
def test_what_cannot_work_ends_the_start_with_2_and_one_line(
    tmp_path: Path, settings: dict[str, str], word: str
) -> None:
    with running(tmp_path, **settings) as worker:
        assert ended(worker) == 2
        lines = [line for line in worker.console.splitlines() if word in line]
        assert len(lines) == 1, worker.console
        assert "Traceback" not in worker.console


def refused_id(worker: Worker) -> str:
    """The id that somebody with a wrong key was answered with."""
    request = urllib.request.Request(f"{worker.base}/v1/models", headers={"X-API-Key": "sk-wrong"})
    try:
        urllib.request.urlopen(request, timeout=10).close()
    except urllib.error.HTTPError as error:
        error.close()
        return str(error.headers["X-Request-Id"])
    raise AssertionError("a wrong key got in")


def test_the_id_that_somebody_reports_with_a_401_is_in_the_log_and_a_scan_does_not_fill_it(tmp_path: Path) -> None:
    with running(tmp_path) as worker:
        worker.until("ready")
        first = refused_id(worker)
        ids = {first, *(refused_id(worker) for _ in range(90))}
        assert len(ids) == 91
        live = tmp_path / "data/logs/llama/latest.txt"
        wait_for(lambda: first in live.read_text(), 10, "the id in the log")
        worker.stop()
        refused = [line for line in live.read_text().splitlines() if "outcome=refused" in line]
        assert 55 <= len(refused) < len(ids)
