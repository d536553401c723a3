"""The process around the gateway: what it is called in logs, and what it says when it cannot begin."""

import os
import re
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from gateway.assembly import Ahead, Boot, CannotStart, go_ahead, make_ahead
from gateway.config import Settings
from gateway.process import THREADS, are_over, give_up, make_boot
from gateway.providers.base import Intent
from gateway.providers.local.provider import LocalProvider
from gateway.surroundings import Surroundings
from tests.support.worker import KEY, free_port, wait_for

ROOT = Path(__file__).parents[1]


def boot(**environ: str) -> Boot:
    return make_boot(environ)


def test_two_gateways_of_one_host_and_second_write_different_files(tmp_path: Path) -> None:
    one = boot(WAKEGATE_RUN_DIR=str(tmp_path), WAKEGATE_BOOT="aaaa1111")
    other = boot(WAKEGATE_RUN_DIR=str(tmp_path), WAKEGATE_BOOT="bbbb2222")
    assert one.stamp.endswith("-aaaa") and other.stamp.endswith("-bbbb")
    assert one.worker == other.worker, "what was spent belongs to the machine"


def test_a_pod_is_called_by_its_id_in_letters_that_a_file_name_can_have(tmp_path: Path) -> None:
    inside = {"RUNPOD_POD_ID": "a_b/../c d", "RUNPOD_DC_ID": "EU-RO-1"}
    made = boot(WAKEGATE_RUN_DIR=str(tmp_path), WAKEGATE_BOOT="cccc", **inside)
    assert made.worker == "a-b-..-c-d"
    elsewhere = boot(WAKEGATE_RUN_DIR=str(tmp_path), WAKEGATE_BOOT="cccc", RUNPOD_POD_ID="another")
    assert elsewhere.worker != "another", "there it is what this gateway starts"
    assert re.fullmatch(r"[0-9]{8}T[0-9]{6}Z_a-b-\.\.-c-d-cccc", made.stamp)


def test_what_must_be_mended_is_said_line_by_line_with_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert give_up(("PORT: taken", "MODEL: nowhere")) == 2
    assert capsys.readouterr().err == "[gateway] PORT: taken\n[gateway] MODEL: nowhere\n"


# --- The engine first ---


class Begun(LocalProvider):
    """Notes what it was told to begin, and begins nothing."""

    def __init__(self) -> None:
        self.intents: list[Intent] = []

    async def go_ahead(self, intent: Intent) -> None:
        self.intents.append(intent)


def ahead(tmp_path: Path, **given: object) -> tuple[Ahead, Begun, Settings]:
    given = {"data_dir": tmp_path, "api_key": "sk-test-0123456789abcdef", "port": 0, "host": "127.0.0.1"} | given
    settings = Settings(engine_command="engine --port {port}", **given)  # type: ignore[arg-type]
    made = make_ahead(settings, Surroundings(), make_boot({"WAKEGATE_RUN_DIR": str(tmp_path)}))
    made.provider = provider = Begun()
    return made, provider, settings


async def test_the_port_is_open_before_the_engine_is_begun(tmp_path: Path) -> None:
    made, provider, settings = ahead(tmp_path)
    await go_ahead(made, settings)
    assert made.ports is not None
    with socket.create_connection(made.ports.main[0].getsockname()):
        assert provider.intents == [Intent("default", 1)]
    made.ports.close()


async def test_no_engine_is_begun_where_the_port_is_taken(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        made, provider, settings = ahead(tmp_path, port=other.getsockname()[1])
        with pytest.raises(CannotStart, match="PORT"):
            await go_ahead(made, settings)
    assert provider.intents == []


async def test_no_port_stays_open_where_that_for_metrics_is_taken(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other, socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
        free.close()
        made, provider, settings = ahead(tmp_path, port=port, metrics_port=other.getsockname()[1])
        with pytest.raises(CannotStart, match="METRICS_PORT"):
            await go_ahead(made, settings)
    assert provider.intents == []
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))


async def test_an_engine_that_shall_wait_for_its_first_caller_is_not_begun(tmp_path: Path) -> None:
    made, provider, settings = ahead(tmp_path, wake_on_start=False)
    await go_ahead(made, settings)
    assert made.ports is not None and provider.intents == []
    made.ports.close()


def test_the_engine_does_not_wait_for_the_web_server_to_be_imported() -> None:
    code = (
        "import sys, gateway.process, gateway.providers.local.provider, gateway.providers.local.models.models\n"
        "print([name for name in ('aiohttp', 'gateway.app', 'gateway.proxy.checks', 'yarl') if name in sys.modules])"
    )
    environ = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-P", "-c", code], env=environ, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# --- The end ---


def test_threads_that_have_ended_are_over_and_one_that_hangs_is_not_waited_for() -> None:
    idle, hanging = (ThreadPoolExecutor(thread_name_prefix=THREADS) for _ in range(2))
    idle.submit(int).result()
    assert are_over(idle)
    let_go = threading.Event()
    hanging.submit(let_go.wait)
    try:
        assert not are_over(hanging, patience=0.01)
    finally:
        let_go.set()
    assert are_over(hanging)


def test_a_gateway_whose_volume_does_not_answer_ends_all_the_same(tmp_path: Path) -> None:
    """A model's file that blocks whoever opens it stands for the volume."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.safetensors").write_bytes(b"weights")
    os.mkfifo(tmp_path / "model" / "config.json")
    environ = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT),
        "HOST": "127.0.0.1",
        "PORT": str(free_port()),
        "PORT_HEALTH": str(free_port()),
        "DATA_DIR": str(tmp_path / "data"),
        "API_KEY": KEY,
        "MODEL": str(tmp_path / "model"),
        "ENGINE_COMMAND": "engine --socket {socket}",
        "WAKEGATE_RUN_DIR": str(tmp_path),
    }
    console = tmp_path / "console.txt"
    with console.open("wb") as out:
        process = subprocess.Popen([sys.executable, "-P", "-m", "gateway"], cwd=tmp_path, env=environ, stdout=out)
    try:
        wait_for(lambda: "looking at the model" in console.read_text() or process.poll() is not None, 30, "a start")
        process.terminate()
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()
    assert console.read_text().endswith("[gateway] ended\n")
