"""`wakegate plan` as it is typed: what it says, its exit codes, and that it starts and fetches nothing it need not."""

import asyncio
import json
import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from gateway.cli import app
from scripts import make_demo_model
from tests.support.hub import fake_hub
from tests.support.model_bytes import gguf_bytes, transformers_files


@pytest.fixture
def typed(tmp_path, monkeypatch):
    """Runs the command with these words and settings, in this process."""
    for name in [*os.environ]:
        monkeypatch.delenv(name)
    base = {"HOME": str(tmp_path), "DATA_DIR": str(tmp_path / "data"), "WAKEGATE_ENV_FILE": str(tmp_path / "empty.env")}
    (tmp_path / "empty.env").touch()
    (tmp_path / "data/models").mkdir(parents=True)

    def run(*words, **environ):
        return CliRunner().invoke(app, ["plan", *words], env={**base, "PATH": "/nowhere", **environ})

    return run


def demo(folder: Path) -> None:
    path = folder / "data/models/demo.gguf"
    assert make_demo_model.main([str(path)]) == 0


def test_a_model_on_the_disk_is_planned_by_its_own_files(typed, tmp_path):
    demo(tmp_path)
    done = typed("demo.gguf", ENGINE="llama-cpp-python")
    assert done.exit_code == 0 and done.stdout.startswith("demo with llama-cpp-python\n\n")
    assert "context: 8,192 tokens, as long as nobody says; its cache takes 2 MiB" in done.stdout
    assert "(CTX_SIZE" in done.stdout


def test_the_model_is_the_settings_unless_another_is_named(typed, tmp_path):
    demo(tmp_path)
    assert typed(MODEL="demo.gguf").exit_code == 0
    assert typed("other.gguf", MODEL="demo.gguf").exit_code == 1


def test_programs_get_each_choice_and_what_it_passes(typed, tmp_path):
    demo(tmp_path)
    said = json.loads(typed("demo.gguf", "--json").stdout)
    assert (said["model"], said["engine"], said["works"], said["passed"]) == ("demo", "llama-cpp-python", True, {})
    assert said["choices"][-1].keys() == {"what", "value", "why", "setting"}


def test_no_model_is_exit_code_2(typed):
    done = typed()
    assert (done.exit_code, done.stderr) == (2, "MODEL: not set; name one: wakegate plan org/name\n")


def test_a_setting_that_is_wrong_is_exit_code_2(typed):
    assert typed("x", MAX_MODEL_LEN="long").exit_code == 2


def test_a_model_that_is_not_there_is_exit_code_1(typed):
    done = typed("nothing.gguf")
    assert done.exit_code == 1 and "nothing.gguf is not in" in done.stderr


def test_an_engine_that_is_not_there_is_exit_code_1(typed, tmp_path):
    (tmp_path / "data/models/big.gguf").write_bytes(gguf_bytes())
    done = typed("big.gguf", ENGINE="llama-server")
    assert done.exit_code == 1 and "ENGINE=llama-server is not installed" in done.stderr


def test_an_engine_elsewhere_is_not_planned(typed):
    done = typed("x", UPSTREAM_URL="http://10.0.0.9:8000")
    assert done.exit_code == 0 and done.stdout.startswith("PROVIDER is external")


async def test_of_a_model_on_the_hub_only_its_config_is_fetched(typed, tmp_path):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/vllm").write_text("#!/bin/sh\n")
    (tmp_path / "bin/vllm").chmod(0o755)
    async with fake_hub() as hub:
        hub.add("org/Tiny", transformers_files())
        there = {"ENGINE": "vllm", "HF_ENDPOINT": hub.url, "PATH": f"{tmp_path}/bin"}
        done = await asyncio.to_thread(typed, "org/Tiny", **there)
    assert done.exit_code == 0, done.output
    assert {s.path.rsplit("/", 1)[-1] for s in hub.seen if "/resolve/" in s.path} == {"config.json"}
