"""gateway/__main__.py: what the gateway's process leaves out until it listens."""

import json
import os
import ssl
import subprocess
import sys
from pathlib import Path

import pytest

from gateway.process import no_certificates
from tests.support.worker import KEY, free_port, wait_for

ROOT = Path(__file__).parents[1]

DEAR = {
    # commands print, the gateway does not
    *("typer", "rich", "click"),
    # settings: pydantic alone reads them, and files only where there are any
    *("pydantic_settings", "dotenv", "tomllib"),
    # what an engine or a model asks for when it is its turn
    *("huggingface_hub", "httpx", "numpy", "gguf", "llama_cpp", "vllm", "jinja2"),
    # the first scrape
    *("prometheus_client", "http.server"),
    # another process, another command, another provider
    *("gateway.cli", "gateway.commands", "gateway.doctor", "gateway.providers.local"),
}
"""Modules that cost a start more than they give it."""

LISTEN = """
import gc, json, sys
from gateway.__main__ import main
code = main()
print(json.dumps({"code": code, "modules": [*sys.modules], "gc": gc.isenabled(), "frozen": gc.get_freeze_count()}))
"""


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """What a gateway says of itself that has listened and was told to end."""
    folder = tmp_path_factory.mktemp("start")
    console = folder / "console.txt"
    environ = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT),
        "HOST": "127.0.0.1",
        "PORT": str(free_port()),
        "PORT_HEALTH": str(free_port()),
        "DATA_DIR": str(folder / "data"),
        "API_KEY": KEY,
        "UPSTREAM_URL": "http://127.0.0.1:9/v1",
        "WAKEGATE_RUN_DIR": str(folder),
    }
    with console.open("wb") as out:
        command = [sys.executable, "-P", "-c", LISTEN]
        process = subprocess.Popen(command, cwd=folder, env=environ, stdout=out, stderr=out)
    try:
        wait_for(lambda: "Starting gateway on" in console.read_text() or process.poll() is not None, 30, "listening")
        process.terminate()
        process.wait(15)
    finally:
        process.kill()
        process.wait()
    return dict(json.loads(console.read_text().splitlines()[-1]))


def test_a_gateway_that_listens_has_imported_nothing_that_it_does_not_need(told: dict[str, object]) -> None:
    modules = told["modules"]
    assert isinstance(modules, list) and "gateway.app" in modules
    assert DEAR & {*modules} == set()


def test_garbage_is_collected_again_once_it_listens_but_never_what_the_start_made(told: dict[str, object]) -> None:
    assert told["code"] == 0
    assert told["gc"] is True
    assert isinstance(told["frozen"], int) and told["frozen"] > 10_000


def test_a_context_that_aiohttp_makes_when_it_is_imported_trusts_nobody() -> None:
    """Ours bring their own: one that forgot to finds every certificate wrong."""
    with no_certificates():
        checking = ssl.create_default_context()
        never = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        never.set_default_verify_paths()
    assert checking.verify_mode is ssl.CERT_REQUIRED and checking.check_hostname
    assert checking.get_ca_certs() == never.get_ca_certs() == []


def test_contexts_that_are_made_afterwards_read_certificates_as_ever() -> None:
    before = vars(ssl.SSLContext).copy()
    with pytest.raises(RuntimeError), no_certificates():
        raise RuntimeError
    assert dict(vars(ssl.SSLContext)) == dict(before)


IMPORTING = """
import signal, sys, types
sys.modules["gateway.process"] = types.SimpleNamespace(main=lambda: print(int(signal.getsignal(signal.SIGINT))))
from gateway.__main__ import main
main()
"""


@pytest.mark.parametrize("before, then", [("SIG_DFL", 0), ("SIG_IGN", 1)])
def test_ctrl_c_while_it_imports_ends_it_without_a_traceback(before: str, then: int) -> None:
    """One that is ignored, as of a job in a shell's background, stays ignored."""
    command = f"import signal; signal.signal(signal.SIGINT, signal.{before})\nimport os, sys\n"
    command += "os.execv(sys.executable, [sys.executable, '-P', '-c', os.environ['THEN']])"
    environ = {"PYTHONPATH": str(ROOT), "THEN": IMPORTING}
    done = subprocess.run([sys.executable, "-c", command], env=environ, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == str(then), done.stderr
