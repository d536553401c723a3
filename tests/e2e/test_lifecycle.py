"""What dies, comes back, ends and is left alone: ./start.sh itself, real processes, a real engine."""

import asyncio
import concurrent.futures
import contextlib
import json
import os
import re
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.worker import KEY, Worker, living, running, wait_for

pytestmark = pytest.mark.engine

CHAT = {"max_tokens": 4, "temperature": 0, "messages": [{"role": "user", "content": "Hello"}]}


@contextlib.contextmanager
def ready(folder: Path, **settings: str) -> Iterator[Worker]:
    with running(folder, **settings) as worker:
        worker.until("ready")
        yield worker


def post_bytes(worker: Worker, body: dict[str, object]) -> bytes:
    payload = json.dumps(body).encode()
    return (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n"
        f"Content-Type: application/json\r\nConnection: close\r\nContent-Length: {len(payload)}\r\n\r\n"
    ).encode() + payload


def open_stream(worker: Worker, tokens: int) -> socket.socket:
    """A streamed answer that has begun."""
    caller = socket.create_connection(("127.0.0.1", worker.port), timeout=30)
    caller.sendall(post_bytes(worker, CHAT | {"stream": True, "max_tokens": tokens}))
    got = b""
    while b"data: " not in got:
        data = caller.recv(65536)
        assert data, got
        got += data
    return caller


def rest_of(caller: socket.socket, within: float = 30) -> bytes:
    caller.settimeout(within)
    whole = b""
    with contextlib.suppress(ConnectionError):
        while data := caller.recv(65536):
            whole += data
    return whole


def test_twenty_callers_before_it_is_ready_cause_one_start_and_are_all_answered(tmp_path: Path) -> None:
    with running(tmp_path, WAKE_ON_START="false") as worker:
        worker.until("stopped")
        with concurrent.futures.ThreadPoolExecutor(20) as pool:
            answers = list(pool.map(lambda _: worker.post("/v1/chat/completions", CHAT), range(20)))
        assert [status for status, _ in answers] == [200] * 20
        assert 'wakegate_starts_total{upstream="default"} 1' in worker.get("/metrics")[1]
        # The banner's time is the start's, not that of the gateway, which waited for the first caller.
        told = re.findall(r"(?:ready|READY) after (\S+) s", worker.console)
        assert len(told) == 2 and told[0] == told[1]


def test_idleness_frees_the_engine_and_the_next_request_wakes_it(tmp_path: Path) -> None:
    """Probes in between are no activity: 10,000 of them on 8001 leave the idle clock where it was."""
    with ready(tmp_path, IDLE_TIMEOUT="2s") as worker:
        assert worker.post("/v1/chat/completions", CHAT)[0] == 200
        pid = worker.engine_pid()
        began = time.monotonic()
        flood(worker, 10_000)
        worker.until("stopped", within=10)
        assert time.monotonic() - began < 8
        wait_for(lambda: not Path(f"/proc/{pid}").exists(), 2, "the engine's process is gone")
        assert worker.probe() == 200  # it would be woken
        assert worker.get("/v1/models")[1]["data"][0]["wakegate"]["state"] == "stopped"
        assert worker.post("/v1/chat/completions", CHAT)[0] == 200


def flood(worker: Worker, count: int) -> None:
    """Pipelined probes on one connection."""
    with socket.create_connection(("127.0.0.1", worker.port_health), timeout=30) as probe:
        for _ in range(count // 100):
            probe.sendall(b"GET /ping HTTP/1.1\r\nHost: x\r\n\r\n" * 100)
            got = 0
            while got < 100:
                got += probe.recv(1 << 20).count(b"HTTP/1.1 200")


def test_an_engine_that_is_killed_comes_back(tmp_path: Path) -> None:
    """Who was in flight hears of it as an error event; who comes next is held and answered."""
    with ready(tmp_path) as worker:
        caller = open_stream(worker, 4000)
        pid = worker.engine_pid()
        os.kill(pid, signal.SIGKILL)
        said = rest_of(caller)
        assert b'"code":"backend_lost"' in said and b"[DONE]" not in said
        assert worker.post("/v1/chat/completions", CHAT)[0] == 200
        assert worker.engine_pid() != pid
        assert "The engine was killed by signal 9 while it served" in worker.console


def test_a_gateway_that_is_killed_ends_start_sh_and_leaves_nothing(tmp_path: Path) -> None:
    with ready(tmp_path) as worker:
        boot, engine = worker.boot, worker.engine_pid()
        gateway = wait_for(lambda: worker.pids("-m gateway"), 5, "the gateway's process")
        gateway = min(pid for pid in gateway if pid != engine)
        os.kill(gateway, signal.SIGKILL)
        assert worker.process is not None
        assert worker.process.wait(15) == 128 + signal.SIGKILL
        wait_for(lambda: not living(boot), 3, "nothing of the engine lives")
        assert worker.probe() == 0


def test_a_health_server_that_is_killed_is_restarted(tmp_path: Path) -> None:
    with ready(tmp_path) as worker:
        line = next(line for line in worker.console.splitlines() if "Health server PID" in line)
        os.kill(int(line.split("PID: ")[1].split()[0]), signal.SIGKILL)
        wait_for(lambda: worker.probe() == 200, 5, "the health port answers again")
        assert worker.post("/v1/chat/completions", CHAT)[0] == 200


def test_sigterm_lets_a_running_stream_finish(tmp_path: Path, slow_model: Path) -> None:
    with ready(tmp_path, MODEL=str(slow_model)) as worker:
        caller = open_stream(worker, 200)
        assert worker.process is not None
        worker.process.send_signal(signal.SIGTERM)
        wait_for(lambda: worker.probe() == 503, 3, "8001 says 503 while it drains")
        status, body = worker.post("/v1/chat/completions", CHAT)
        assert (status, body["error"]["code"]) == (503, "draining")
        assert rest_of(caller).endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")
        assert worker.process.wait(30) == 0


def test_sigterm_ends_a_stream_that_is_too_long_with_an_error(tmp_path: Path, slow_model: Path) -> None:
    with ready(tmp_path, DRAIN_TIMEOUT="3s", MODEL=str(slow_model), HEALTH_MODE="always") as worker:
        caller = open_stream(worker, 8_000)
        engine = worker.engine_pid()
        began = time.monotonic()
        assert worker.process is not None
        worker.process.send_signal(signal.SIGTERM)
        said = rest_of(caller)
        assert b'"code":"draining"' in said and b"[DONE]" not in said
        assert worker.process.wait(15) == 0
        assert time.monotonic() - began < 8
        assert not Path(f"/proc/{engine}").exists()


def test_a_second_signal_ends_at_once(tmp_path: Path, slow_model: Path) -> None:
    with ready(tmp_path, MODEL=str(slow_model)) as worker:
        caller = open_stream(worker, 8_000)
        engine = worker.engine_pid()
        assert worker.process is not None
        worker.process.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        worker.process.send_signal(signal.SIGTERM)
        worker.process.wait(6)
        wait_for(lambda: not Path(f"/proc/{engine}").exists(), 3, "the engine is gone")
        caller.close()


def test_an_engine_sees_none_of_our_settings_and_secrets(tmp_path: Path) -> None:
    """PORT among them: an engine that read it would take the gateway's own port."""
    with ready(tmp_path, HF_TOKEN="hf_secretsecretsecret", ADMIN_KEY="sk-admin-0123456789abcdef") as worker:
        environ = Path(f"/proc/{worker.engine_pid()}/environ").read_bytes().split(b"\0")
        names = {pair.partition(b"=")[0] for pair in environ}
        assert not names & {b"PORT", b"HOST", b"API_KEY", b"ADMIN_KEY", b"HF_TOKEN", b"DATA_DIR", b"PORT_HEALTH"}
        whole = b"\0".join(environ)
        assert KEY.encode() not in whole and b"secretsecret" not in whole and b"sk-admin" not in whole
        command = Path(f"/proc/{worker.engine_pid()}/cmdline").read_bytes()
        assert KEY.encode() not in command


def test_five_hundred_idle_sockets_do_not_delay_a_probe(tmp_path: Path) -> None:
    with ready(tmp_path) as worker:
        idle = [socket.create_connection(("127.0.0.1", worker.port_health)) for _ in range(500)]
        try:
            began = time.monotonic()
            assert worker.probe() == 200
            assert time.monotonic() - began < 1
        finally:
            for each in idle:
                each.close()


def test_callers_leaving_in_any_phase_leave_the_engine_free(tmp_path: Path) -> None:
    """Waiting for the start, in line, uploading, prefill, streaming, whole: the next caller is answered at once."""
    prompt = "word " * 3000

    async def leave(body: dict[str, object], cut: int | None, after: float) -> None:
        _, writer = await asyncio.open_connection("127.0.0.1", worker.port)
        writer.write(post_bytes(worker, body)[:cut])
        await asyncio.sleep(after)
        writer.close()

    async def all_leave() -> None:
        long = CHAT | {"max_tokens": 5000}
        bodies = [long, long | {"stream": True}, CHAT | {"messages": [{"role": "user", "content": prompt}]}]
        await asyncio.gather(
            *(leave(body, cut, after) for body in bodies for cut in (None, -5) for after in (0.02, 0.3))
        )

    with running(tmp_path, WAKE_ON_START="false") as worker:
        worker.until("stopped")
        asyncio.run(all_leave())
        began = time.monotonic()
        assert worker.post("/v1/chat/completions", CHAT)[0] == 200
        asyncio.run(all_leave())
        began = time.monotonic()
        assert worker.post("/v1/chat/completions", CHAT)[0] == 200
        assert time.monotonic() - began < 2
        page = worker.get("/metrics")[1]
        assert 'wakegate_requests_in_flight{upstream="default"} 0' in page
        assert 'wakegate_requests_waiting{upstream="default"} 0' in page


def test_a_model_that_is_not_there_is_told_in_one_sentence(tmp_path: Path) -> None:
    """To the operator with the path, to callers without it; the health port says 503."""
    with running(tmp_path, MODEL=str(tmp_path / "nowhere.gguf"), ADMIN_KEY="sk-admin-0123456789abcdef") as worker:
        worker.until("failed")
        status, body = worker.post("/v1/chat/completions", CHAT)
        assert (status, body["error"]["code"]) == (503, "start_failed")
        assert "nowhere" not in json.dumps(body)
        assert "nowhere.gguf" in worker.console
        assert "engine_said" not in worker.get("/health")[1]
        assert "nowhere.gguf" in worker.get("/health", key="sk-admin-0123456789abcdef")[1]["engine_said"]
        wait_for(lambda: worker.probe() == 503, 3, "8001 says 503 for a failed start")


def test_wrong_settings_end_it_with_2_and_one_line_each(tmp_path: Path) -> None:
    with running(tmp_path, IDLE_TIMEOUT="soon", MAX_QUEUE_SIZE="many", WAKEGATE_IDEL_TIMEOUT="5m") as worker:
        assert worker.process is not None
        assert worker.process.wait(10) == 2
        assert "WAKEGATE_IDEL_TIMEOUT" in worker.console, "what was mistyped is told beside what is wrong"
        assert "IDLE_TIMEOUT" in worker.console and "MAX_QUEUE_SIZE" in worker.console
        assert "Traceback" not in worker.console


def test_a_taken_port_is_said_in_one_line(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with running(tmp_path, PORT=str(taken.getsockname()[1])) as worker:
            assert worker.process is not None
            assert worker.process.wait(10) == 2
            assert "is taken by another program" in worker.console and "Traceback" not in worker.console
