"""`wakegate rehearse` where it does not begin; the whole of it is played in tests/e2e/test_rehearsal.py."""

import os

import pytest
from typer.testing import CliRunner

from gateway.cli import app


@pytest.fixture
def typed(tmp_path, monkeypatch):
    for name in [*os.environ]:
        monkeypatch.delenv(name)
    (tmp_path / "empty.env").touch()
    base = {"HOME": str(tmp_path), "DATA_DIR": str(tmp_path / "data"), "WAKEGATE_ENV_FILE": str(tmp_path / "empty.env")}

    def run(*words, **environ):
        return CliRunner().invoke(app, ["rehearse", *words], env={**base, "PATH": "/nowhere", **environ})

    return run


def test_for_real_something_must_be_rented(typed):
    done = typed("--real")
    assert (
        done.exit_code == 2
        and "PROVIDER rents nothing here: set PROVIDER=runpod-pod with RUNPOD_API_KEY" in done.stderr
    )


def test_for_real_the_settings_must_be_right(typed):
    done = typed("--real", PROVIDER="runpod-pod")
    assert done.exit_code == 2 and "RUNPOD_API_KEY" in done.stderr


@pytest.mark.parametrize("amount", ["much", "-1", "0.00000001"])
def test_what_is_no_sum_is_exit_code_2(typed, amount):
    done = typed("--real", "--up-to", amount)
    assert done.exit_code == 2 and "is not a sum" in done.stderr
