"""`wakegate pull MODEL`, as its caller sees it: what it prints and what it returns."""

import asyncio
import io
import os

import pytest
from rich.console import Console

from gateway.providers.local.models.models import Download, Places
from gateway.providers.local.models.pull import PullSettings, _Lines, pull
from tests.support.model_bytes import gguf_bytes

REPO = "org/Tiny-GGUF"
BIG = gguf_bytes(rows=16_000)


@pytest.fixture
def console():
    return Console(file=io.StringIO(), width=100)


@pytest.fixture
def settings(hub, tmp_path):
    environ = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home")}
    return PullSettings(Places(tmp_path / "models"), environ=environ)


async def test_a_pull_brings_the_model_and_says_where_it_is(hub, settings, console):
    hub.add(REPO, {"Tiny-Q4_K_M.gguf": BIG})
    assert await asyncio.to_thread(pull, REPO, settings, console) == 0
    said = console.file.getvalue()
    assert "downloading: " in said
    assert f"{REPO} is here: " in said and "llama, 128 tokens of context" in said
    assert "Tiny-Q4_K_M.gguf" in said.splitlines()[-1]
    assert await asyncio.to_thread(pull, REPO, settings, console) == 0
    assert len(hub.downloads()) == 1


async def test_a_terminal_sees_a_bar(hub, settings):
    hub.add(REPO, {"Tiny-Q4_K_M.gguf": BIG})
    terminal = Console(file=io.StringIO(), width=100, force_terminal=True, _environ={"TERM": "xterm"})
    assert await asyncio.to_thread(pull, REPO, settings, terminal) == 0
    assert "downloading Tiny-Q4_K_M.gguf" in terminal.file.getvalue()


async def test_a_failure_is_1_and_a_name_that_means_nothing_is_2(hub, settings, console):
    assert await asyncio.to_thread(pull, "org/nothing", settings, console) == 1
    assert "org/nothing is not on the Hub" in console.file.getvalue()
    assert await asyncio.to_thread(pull, "https://example.com/x", settings, console) == 2
    assert "no address of huggingface.co" in console.file.getvalue()


def test_a_log_gets_a_line_for_each_tenth(console):
    lines = _Lines(console)
    for done in range(1001):
        lines(Download(done, 1000))
    assert 10 <= len(console.file.getvalue().splitlines()) <= 11


def test_the_token_is_in_no_repr(settings):
    assert "hf_secret" not in repr(PullSettings(settings.places, token="hf_secret"))
