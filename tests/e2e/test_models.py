"""A model by its Hub name, from ./start.sh and from `wakegate pull`: huggingface_hub itself, with a Hub made here."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.hub import FakeHub, fake_hub
from tests.support.worker import ROOT, running, wait_for

pytestmark = pytest.mark.engine


def with_model(hub: FakeHub, model: Path) -> None:
    hub.add("org/tiny", {"tiny.Q4_K_M.gguf": model.read_bytes(), "README.md": b"# tiny"})


async def test_a_hub_name_is_downloaded_and_served(tmp_path: Path, demo_model: Path) -> None:
    """The served name is the Hub's; the download shows on the console; the second start needs no Hub."""

    def first(url: str) -> None:
        with running(tmp_path, MODEL="org/tiny:Q4_K_M", HF_ENDPOINT=url, HF_HOME=str(tmp_path / "hf")) as worker:
            worker.until("ready")
            assert worker.get("/v1/models")[1]["data"][0]["id"] == "org/tiny"
            body = {"model": "org/tiny", "max_tokens": 2, "messages": [{"role": "user", "content": "Hi"}]}
            assert worker.post("/v1/chat/completions", body)[0] == 200
            assert "downloading" in worker.console

    def second() -> None:
        nowhere = "http://127.0.0.1:9"
        with running(tmp_path, MODEL="org/tiny:Q4_K_M", HF_ENDPOINT=nowhere, HF_HOME=str(tmp_path / "hf")) as worker:
            worker.until("ready")

    async with fake_hub() as hub:
        with_model(hub, demo_model)
        await asyncio.to_thread(first, hub.url)
    await asyncio.to_thread(second)


def test_a_model_is_listed_and_checked_before_it_was_ever_started(tmp_path: Path, demo_model: Path) -> None:
    """MODEL_CHECK=strict: an unknown name is 404 and starts nothing."""
    model = tmp_path / "tiny-00001-of-00001.gguf"
    model.write_bytes(demo_model.read_bytes())
    with running(tmp_path, MODEL=str(model), MODEL_CHECK="strict", WAKE_ON_START="false") as worker:
        worker.until("stopped")
        assert [each["id"] for each in worker.get("/v1/models")[1]["data"]] == ["tiny"]
        body = {"max_tokens": 2, "messages": [{"role": "user", "content": "Hi"}]}
        status, said = worker.post("/v1/chat/completions", body | {"model": "gpt-4o"})
        assert (status, said["error"]["code"]) == (404, "model_not_found")
        assert worker.state() == "stopped"
        assert worker.post("/v1/chat/completions", body | {"model": "tiny"})[0] == 200
        assert [each["id"] for each in worker.get("/v1/models")[1]["data"]] == ["tiny"]


def test_an_engine_that_only_logs_our_looks_makes_no_progress(tmp_path: Path) -> None:
    """START_TIMEOUT ends its start, although it prints without end."""
    command = f"{sys.executable} -u -m http.server {{port}} --bind 127.0.0.1 --directory {tmp_path}"
    with running(tmp_path, ENGINE_COMMAND=command, START_TIMEOUT="3s") as worker:
        worker.until("starting")
        wait_for(lambda: "made no progress" in worker.console, 12, "the start is given up")


def wakegate(*words: str, **env: str) -> "subprocess.CompletedProcess[str]":
    keep = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    return subprocess.run(
        [sys.executable, "-m", "gateway", *words],
        cwd=ROOT,
        env=keep | env,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


async def test_pull_brings_a_model_and_does_nothing_else(tmp_path: Path, demo_model: Path) -> None:
    async with fake_hub() as hub:
        with_model(hub, demo_model)
        settings = {"DATA_DIR": str(tmp_path), "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf")}
        done = await asyncio.to_thread(lambda: wakegate("pull", "org/tiny:Q4_K_M", **settings))
        assert done.returncode == 0, done.stdout + done.stderr
        assert list(tmp_path.rglob("tiny.Q4_K_M.gguf"))
        done = await asyncio.to_thread(lambda: wakegate("pull", "org/tiny:Q9", **settings))
        assert done.returncode == 1 and "Q4_K_M" in done.stdout
    assert "Traceback" not in done.stderr


def test_pull_with_a_wrong_setting_is_2(tmp_path: Path) -> None:
    done = wakegate("pull", "org/tiny", DATA_DIR=str(tmp_path), PORT="eighty")
    assert done.returncode == 2 and "PORT" in done.stderr and "Traceback" not in done.stderr
