"""The child's life: there before its model, true about its progress, quick to fail, prompt to end."""

import asyncio
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.llama import PATIENCE, ROOT, Child, llama_child, make_model

pytestmark = pytest.mark.engine

COMPLETION = "/v1/completions"


def ended(child: Child, within: float = PATIENCE) -> tuple[int, str]:
    """Its exit code, and what it said on stderr."""
    code = child.process.wait(within)
    assert child.process.stderr is not None
    return code, child.process.stderr.read().decode()


async def test_it_listens_before_the_model_is_there_and_says_how_far_it_is(tmp_path: Path) -> None:
    model = make_model(tmp_path / "large.gguf", "--layers", "16", "--dim", "1024")
    with llama_child(tmp_path, model, "--arg", "use_mmap=false") as child:
        seen, routes = [], []
        while not seen or seen[-1]["status"] != "ok":
            status, health = await child.get("/health")
            assert status == (200 if health["status"] == "ok" else 503)
            seen.append(health)
            routes.append(await child.post(COMPLETION, {"prompt": "x", "max_tokens": 1}))
        loading = [health["progress"] for health in seen if health["phase"] == "loading"]
        assert loading == sorted(loading)
        assert any(0 < ratio < 1 for ratio in loading), seen
        assert routes[0] == (503, {"error": {"message": "Loading model", "type": "unavailable_error", "code": 503}})
        assert routes[-1][0] == 200

        told = child.told()
        ratios = [line["ratio"] for line in told if line["phase"] == "loading"]
        assert len(ratios) > 20
        assert ratios == sorted(ratios)
        assert told[-1] == {"phase": "ready", "models": ["large"], "context": 8192, "concurrency": 1}


async def test_only_the_owner_may_speak_to_it(tmp_path: Path, demo_model: Path) -> None:
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(str(tmp_path / "engine.sock"))
    with llama_child(tmp_path, demo_model) as child:
        await child.until(status="ok")
        assert stat.S_IMODE(child.socket.stat().st_mode) == 0o600


async def test_the_environment_is_not_read(tmp_path: Path, demo_model: Path) -> None:
    """The package's own server would take the gateway's port, and its key for its own."""
    ours = {"PORT": "1", "HOST": "203.0.113.1", "API_KEY": "secret", "CONFIG_FILE": "/nowhere", "MODEL": "/nowhere"}
    with llama_child(tmp_path, demo_model, environment=ours) as child:
        await child.until(status="ok")
        status, _ = await child.post(COMPLETION, {"prompt": "x", "max_tokens": 1})
        assert status == 200
        assert not _tcp_ports(child.process.pid)


def _tcp_ports(pid: int) -> list[str]:
    """Listening TCP sockets of a process."""
    own = set()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        try:
            own.add(os.readlink(descriptor))
        except OSError:
            continue  # closed in between
    lines = [
        line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]
    ]
    return [line[1] for line in lines if line[3] == "0A" and f"socket:[{line[9]}]" in own]


def test_a_model_that_cannot_be_loaded_ends_it_with_one_plain_line(tmp_path: Path, demo_model: Path) -> None:
    truncated, text = tmp_path / "truncated.gguf", tmp_path / "text.gguf"
    truncated.write_bytes(demo_model.read_bytes()[:300_000])
    text.write_text("hello")
    for model, words, reason in (
        (tmp_path / "missing.gguf", [], "The model file cannot be read."),
        (text, [], "The model file is not a GGUF."),
        (truncated, [], "The model file is incomplete or damaged."),
        (demo_model, ["--arg", "nonsense=1"], "An engine argument is not one that llama-cpp-python knows."),
    ):
        began = time.monotonic()
        with llama_child(tmp_path, model, *words) as child:
            code, said = ended(child)
            told = child.told()
        assert code == 1
        assert time.monotonic() - began < 10
        assert said.startswith(f"The model did not load: {reason}")
        assert said.count("\n") == 1
        assert told[-1]["phase"] == "failed"
        assert told[-1]["reason"] == reason
        assert not child.socket.exists()


@pytest.mark.parametrize(
    "trouble, reason",
    [
        (
            "RuntimeError('Failed to load shared library: libcudart.so.12: cannot open shared object file')",
            "llama-cpp-python is installed, and its libraries cannot be loaded.",
        ),
        ("ImportError('no llama_cpp')", "llama-cpp-python is not installed for this Python."),
        ("AttributeError('nobody thought of this')", "The model could not be loaded."),
    ],
    ids=["library", "package", "other"],
)
def test_a_package_that_cannot_be_imported_ends_it_too(
    tmp_path: Path, demo_model: Path, trouble: str, reason: str
) -> None:
    """Not only its thread, with a socket that says "loading" for ever."""
    (tmp_path / "llama_cpp.py").write_text(f"raise {trouble}\n")
    with llama_child(tmp_path, demo_model, environment={"PYTHONPATH": f"{tmp_path}:{ROOT}"}) as child:
        code, said = ended(child)
        assert (code, child.told()[-1]["reason"]) == (1, reason)
        assert f"The model did not load: {reason}" in said


async def test_sigterm_ends_an_idle_engine_at_once(tmp_path: Path, demo_model: Path) -> None:
    with llama_child(tmp_path, demo_model) as child:
        await child.until(status="ok")
        began = time.monotonic()
        child.process.terminate()
        code, _ = await asyncio.to_thread(ended, child)
        assert code == 0
        assert time.monotonic() - began < 2
        assert not child.socket.exists()


async def test_sigterm_while_loading_ends_it_at_once(tmp_path: Path, slow_model: Path) -> None:
    with llama_child(tmp_path, slow_model) as child:
        await child.get("/health")
        child.process.send_signal(signal.SIGTERM)
        code, said = await asyncio.to_thread(ended, child, 5)
        assert code == 0
        assert "did not load" not in said


async def test_sigterm_ends_what_runs_with_an_error_and_a_cut(tmp_path: Path, slow_model: Path) -> None:
    """Nobody may take the answer for whole; who waits is told; and nothing new begins."""
    with llama_child(tmp_path, slow_model, "--ctx", "4096") as child:
        await child.until(status="ok")
        reader, writer = await asyncio.open_unix_connection(str(child.socket))
        body = json.dumps({"prompt": "x", "max_tokens": 4000, "stream": True}).encode()
        writer.write(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        begun = await reader.readuntil(b"data: ")
        waiting = asyncio.create_task(child.post(COMPLETION, {"prompt": "y"}))
        await child.until(waiting=1)
        began = time.monotonic()
        child.process.terminate()
        rest = await reader.read()
        assert (await waiting)[0] == 503
        code, _ = await asyncio.to_thread(ended, child)
        assert code == 0
        assert time.monotonic() - began < 6
        assert b"200 OK" in begun
        assert b'data: {"error":' in rest
        assert b"[DONE]" not in rest
        assert not rest.endswith(b"0\r\n\r\n"), "the body must not look finished"
        writer.close()


async def test_it_outlives_a_gateway_that_closed_the_pipe(tmp_path: Path, demo_model: Path) -> None:
    with llama_child(tmp_path, demo_model) as child:
        os.dup2(os.open(os.devnull, os.O_RDONLY), child.news)
        await child.until(status="ok")


async def test_a_template_cannot_run_code_and_its_refusal_is_the_callers(tmp_path: Path) -> None:
    """CVE-2024-34359 was a template that ran commands: the package renders in a sandbox."""
    import gguf

    evil = "{{ ''.__class__.__mro__[1].__subclasses__() }}"
    refusing = "{{ raise_exception('Roles must alternate') }}"
    source = make_model(tmp_path / "source.gguf")
    for template, words in ((evil, "chat template"), (refusing, "Roles must alternate")):
        model = tmp_path / "template.gguf"
        old = next(
            bytes(field.parts[-1])
            for field in gguf.GGUFReader(source).fields.values()
            if field.name == "tokenizer.chat_template"
        )
        assert len(template) <= len(old)
        model.write_bytes(source.read_bytes().replace(old, template.encode().ljust(len(old))))
        with llama_child(tmp_path, model) as child:
            await child.until(status="ok")
            status, answer = await child.post(
                "/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}], "max_tokens": 1}
            )
        assert status == 400
        assert words in answer["error"]["message"]


def test_a_wrong_command_line_is_said_at_once() -> None:
    for words in (
        ["--ctx", "0"],
        ["--arg", "x"],
        ["--arg", "model_path=/x"],
        ["--gpu-layers", "some"],
        ["--seqs", "4"],
    ):
        ran = subprocess.run(
            [sys.executable, "-m", "gateway.providers.local.llama_child", "--socket", "s", "--model", "m", *words],
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
        assert ran.returncode == 2
        assert words[0] in ran.stderr


def test_a_socket_that_cannot_be_is_said_in_one_line(tmp_path: Path) -> None:
    ran = subprocess.run(
        [
            sys.executable,
            "-m",
            "gateway.providers.local.llama_child",
            "--model",
            "m",
            "--socket",
            str(tmp_path / ("n" * 200)),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 2
    assert ran.stderr.startswith("Cannot listen on ")
    assert ran.stderr.count("\n") == 1
