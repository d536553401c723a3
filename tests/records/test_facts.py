"""Facts of an installation: what helps, and no secret."""

from pathlib import Path

import pytest

from gateway.config import load
from gateway.records.facts import (
    around_us,
    boot_facts,
    is_secret_name,
    masked_command,
    secrets_in,
    settings_that_differ,
    version,
    versions,
)
from gateway.surroundings import Mount, Surroundings, read_file

SECRET = "wk-0123456789abcdef0123"


def test_the_version_is_the_packages() -> None:
    assert version()[0].isdigit()
    assert next(versions()) == f"WakeGate {version()}"


def test_only_settings_that_differ_are_told_as_one_would_write_them() -> None:
    settings = load({"IDLE_TIMEOUT": "600", "PORT": "8000", "MAX_REQUEST_BODY_SIZE": "1MiB"}, read=read_file)
    assert list(settings_that_differ(settings)) == ["IDLE_TIMEOUT=10m", "MAX_REQUEST_BODY_SIZE=1MiB"]


def test_secrets_and_what_may_hold_one_are_masked() -> None:
    environ = {"API_KEY": SECRET, "ENGINE_ARGS": f"--api-key {SECRET}", "ENGINE_ENV": f"HF_TOKEN={SECRET}"}
    lines = list(settings_that_differ(load(environ, read=read_file)))
    assert lines == ["ENGINE_ENV=…", "ENGINE_ARGS=…", "API_KEY=…"]


def test_it_says_what_data_dir_lies_on() -> None:
    around = Surroundings(mounts=(Mount("/", "overlay"), Mount("/vol", "nfs4")), memory=2**30)
    settings = load({"DATA_DIR": "/vol/data"}, read=read_file)
    assert list(around_us(around, settings)) == [
        "platform plain",
        "cpus 1, memory 1.0 GiB, open files 1024",
        f"DATA_DIR {Path('/vol/data')} (nfs4 at /vol), on a network",
    ]


def test_the_boots_facts_have_a_heading_each() -> None:
    facts = boot_facts(load({"PORT": "1234"}, read=read_file), Surroundings(), "qwen")
    assert {name: list(lines) for name, lines in facts.items() if name in ("setting", "model")} == {
        "setting": ["PORT=1234"],
        "model": ["qwen"],
    }


@pytest.mark.parametrize(
    ("argv", "shown"),
    [
        (["llama-server", "--api-key", SECRET, "--port", "1"], "llama-server --api-key … --port 1"),
        (["vllm", "serve", f"--api-key={SECRET}"], "vllm serve --api-key=…"),
        (["engine", "--hf-token", "abc", "-m", "/models/a b.gguf"], "engine --hf-token … -m '/models/a b.gguf'"),
        (["engine", "--api-key-file", "/run/key"], "engine --api-key-file /run/key"),
        (["sh", "-c", "MY_SECRET=abc exec engine"], "sh -c 'MY_SECRET=… exec engine'"),
        (["engine", "--url", "https://me:pw@host/x?sig=abc"], "engine --url 'https://…@host/x?…'"),
        (["engine", SECRET], "engine …"),
        (["engine", "--header", "X: abc"], "engine --header …"),
    ],
)
def test_a_command_line_is_shown_without_secrets(argv: list[str], shown: str) -> None:
    assert masked_command(argv) == shown


def test_what_an_option_hides_is_known_to_whoever_takes_secrets_out() -> None:
    argv = ["engine", "--api-key", "abc", "--token=def", "--port", "1", "--key"]
    assert list(secrets_in(argv)) == ["abc", "def"]


@pytest.mark.parametrize(
    "name", ["HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "API_KEY", "WAKEGATE_ADMIN_KEY", "PGPASSWORD_PASSWORD"]
)
def test_a_variable_that_sounds_secret_is(name: str) -> None:
    assert is_secret_name(name)


@pytest.mark.parametrize("name", ["PATH", "HOME", "API_KEYS_FILE", "KEYBOARD", "MONKEY_BARS"])
def test_a_variable_that_does_not_is_not(name: str) -> None:
    assert not is_secret_name(name)
