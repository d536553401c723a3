"""Keys, a prompt and a provider's secret are planted in every input there is, and must come out nowhere.

Through ./start.sh, with the real engine, at the most talkative log level. Looked into: console, every log, metrics,
status, pages, error bodies, doctor, report, the command lines of all processes, and the engine's environment.
"""

import contextlib
import json
import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.worker import ROOT, Worker, running, wait_for

pytestmark = pytest.mark.engine

API_KEY = "sk-planted-api-key-7f3a91c2d4"
ADMIN_KEY = "sk-planted-admin-key-0b1c2d3e"
CLEAR_KEY = "sk-planted-clear-text-5e6f7a8b"
WRONG_KEY = "sk-planted-wrong-key-99aa88bb"
HUB_TOKEN = "hf_plantedHubToken0123456789abcdef"
VENDOR_KEY = "rpa_PLANTEDVENDORKEY0123456789ABCDEFGH"
PROMPT = "xylophone-quagmire-zephyr planted prompt"
ANSWER_MARK = "xylophone-quagmire"
SECRETS = (API_KEY, ADMIN_KEY, CLEAR_KEY, WRONG_KEY, HUB_TOKEN, VENDOR_KEY, ANSWER_MARK)

CHAT = {"max_tokens": 3, "messages": [{"role": "user", "content": PROMPT}]}


def bodies() -> Iterator[tuple[str, bytes]]:
    """What a caller may send, rightly or wrongly, with the prompt or a key in every part of it."""
    for path, body in (
        ("/v1/chat/completions", CHAT),
        ("/v1/chat/completions", CHAT | {"stream": True}),
        ("/v1/chat/completions", CHAT | {"model": API_KEY}),
        ("/v1/chat/completions", CHAT | {"model": CLEAR_KEY, "user": PROMPT, "stop": [PROMPT]}),
        ("/v1/chat/completions", CHAT | {"n_discard": PROMPT}),
        ("/v1/chat/completions", CHAT | {"max_tokens": PROMPT}),
        ("/v1/chat/completions", CHAT | {"response_format": {"type": "json_schema", "json_schema": PROMPT}}),
        ("/v1/chat/completions", CHAT | {"messages": [{"role": PROMPT, "content": PROMPT}]}),
        ("/v1/chat/completions", CHAT | {"messages": PROMPT}),
        (
            "/v1/chat/completions",
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": PROMPT}}]}]},
        ),
        ("/v1/completions", {"prompt": PROMPT, "max_tokens": 3, "logit_bias": {PROMPT: 1}}),
        ("/v1/embeddings", {"input": PROMPT}),
        ("/v1/responses", {"input": PROMPT}),
        ("/v1/messages", {"messages": CHAT["messages"], "system": PROMPT}),
    ):
        yield path, json.dumps(body).encode()
    yield "/v1/chat/completions", f'{{"messages": "{PROMPT}", {API_KEY}'.encode()
    yield "/v1/chat/completions", PROMPT.encode("utf-16")
    yield f"/v1/{API_KEY}?api_key={API_KEY}", json.dumps(CHAT).encode()
    yield f"/v1/models/{CLEAR_KEY}", b"{}"


def heads(port: int, path: str, length: int) -> Iterator[bytes]:
    base = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\nContent-Length: {length}\r\n"
    kind = "Content-Type: application/json\r\n"
    yield f"{base}{kind}Authorization: Bearer {API_KEY}\r\nX-Request-Id: {API_KEY}\r\n\r\n".encode()
    yield f"{base}{kind}X-API-Key: {CLEAR_KEY}\r\nUser-Agent: {PROMPT}\r\nReferer: http://x/?k={API_KEY}\r\n\r\n".encode()


def odd_heads(port: int, length: int) -> Iterator[bytes]:
    """Wrong keys, keys in wrong places, and requests that no parser takes."""
    base = f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Length: {length}\r\n"
    base += "Connection: close\r\n"
    yield f"{base}Authorization: Bearer {WRONG_KEY}\r\nX-Request-Id: {WRONG_KEY}\r\n\r\n".encode()
    yield f"{base}Authorization: Basic {WRONG_KEY}\r\n\r\n".encode()
    yield f"{base}Authorization: Bearer {API_KEY}\r\nContent-Type: {PROMPT}\r\n\r\n".encode()
    yield f"{base}Authorization: Bearer {API_KEY}\r\nAuthorization: Bearer {ADMIN_KEY}\r\n\r\n".encode()
    yield f"{base}Authorization: Bearer {API_KEY}\r\nExpect: {API_KEY}\r\n\r\n".encode()
    yield f"POST /{API_KEY} {PROMPT} HTTP/1.1\r\nHost: {API_KEY}\r\n\r\n".encode()
    yield f"{API_KEY} / HTTP/1.1\r\n\r\n".encode()
    yield f"GET /metrics?key={API_KEY} HTTP/1.1\r\nHost: {API_KEY}/{PROMPT}\r\n\r\n".encode()


def say(port: int, data: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=3) as caller:
        caller.sendall(data)
        whole = b""
        with contextlib.suppress(ConnectionError, TimeoutError):
            while got := caller.recv(65536):
                whole += got
        return whole


def wakegate(worker: Worker, *words: str) -> str:
    """What a command prints, in the worker's own environment."""
    python = ROOT / ".venv/bin/python"
    done = subprocess.run(
        [str(python), "-m", "gateway", *words],
        cwd=ROOT, env=worker.env, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert "Traceback" not in done.stderr, done.stderr
    return done.stdout + done.stderr


def leave_in_the_middle(worker: Worker) -> None:
    body = json.dumps(CHAT | {"stream": True, "max_tokens": 2000}).encode()
    with socket.create_connection(("127.0.0.1", worker.port), timeout=20) as caller:
        caller.sendall(next(heads(worker.port, "/v1/chat/completions", len(body))) + body)
        assert caller.recv(65536)


def command_lines(worker: Worker) -> str:
    lines = []
    for pid in worker.pids(""):
        with contextlib.suppress(OSError):  # it ended meanwhile
            lines.append(Path(f"/proc/{pid}/cmdline").read_text(errors="replace"))
    assert len(lines) >= 4, "start.sh, health, gateway, guard and engine"
    return "\n".join(lines)


def places(worker: Worker, folder: Path, answers: list[bytes]) -> Iterator[tuple[str, str]]:
    """(where, what stands there) for all that somebody may read, or send to others."""
    yield "answers", "\n".join(answer.decode("utf-8", "replace") for answer in answers)
    for path in ("/", "/health", "/metrics", "/v1/models", "/ping"):
        for key in (None, API_KEY, ADMIN_KEY, WRONG_KEY):
            yield f"{path} with {key}", json.dumps(worker.get(path, key=key)[1])
    yield "command lines", command_lines(worker)
    for pid in worker.pids("llama_child --socket"):
        yield "the engine's environment", Path(f"/proc/{pid}/environ").read_text(errors="replace")
    for name in ("doctor", "doctor --json", "logs -n 1000", "logs --json --boot all", "keys list", "keys check"):
        yield f"wakegate {name}", wakegate(worker, *name.split())
    for words in ((), ("--with-engine-log",)):
        file = folder / f"report{len(words)}.txt"
        yield "wakegate report", wakegate(worker, "report", "-o", str(file), *words)
        yield f"the report {words}", file.read_text()
    (run,) = [Path(value) for value in run_folders(worker)]
    yield "the status file", (run / "status.json").read_text()


def run_folders(worker: Worker) -> set[str]:
    found = set()
    for pid in worker.pids("-m gateway"):
        for entry in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
            if entry.startswith(b"WAKEGATE_RUN_DIR="):
                found.add(entry.partition(b"=")[2].decode())
    return found


def logs(worker: Worker, folder: Path) -> Iterator[tuple[str, str]]:
    yield "console", worker.console
    for path in (folder / "data" / "logs").rglob("*"):
        if path.is_file():
            yield str(path), path.read_text(errors="replace")


def test_no_secret_and_no_prompt_comes_out_anywhere(tmp_path: Path) -> None:
    clear = tmp_path / "keys.txt"
    clear.write_text(f"old:{CLEAR_KEY}:6000\n")
    clear.chmod(0o600)
    settings = {
        "API_KEY": API_KEY,
        "ADMIN_KEY": ADMIN_KEY,
        "API_KEYS_FILE": str(clear),
        "HF_TOKEN": HUB_TOKEN,
        "RUNPOD_API_KEY": VENDOR_KEY,
        "LOG_LEVEL": "debug",
        "ENGINE_ENV": f"SOME_TOKEN={HUB_TOKEN}",
    }
    with running(tmp_path, **settings) as worker:
        wait_for(lambda: worker.state() == "ready", 60, "ready")
        answers = []
        for path, body in bodies():
            answers += [say(worker.port, head + body) for head in heads(worker.port, path, len(body))]
        for head in odd_heads(worker.port, 2):
            answers.append(say(worker.port, head + b"{}"))
        leave_in_the_middle(worker)
        before = worker.engine_pid()
        os.kill(before, 9)  # a crash is told, with what the engine said last
        wait_for(lambda: worker.state() == "ready" and worker.engine_pid() != before, 60, "ready again")
        found = list(places(worker, tmp_path, answers))
        worker.stop()
        found += logs(worker, tmp_path)
    assert len(found) > 36
    leaks = [
        (where, secret, text[max(0, text.index(secret) - 200) :][:300])
        for where, text in found
        for secret in SECRETS
        if secret in text
    ]
    # Asked for by name, and shown to whoever may read that process' memory: a variable that the operator handed on.
    leaks = [leak for leak in leaks if leak[:2] != ("the engine's environment", HUB_TOKEN)]
    assert leaks == [], leaks[0]
