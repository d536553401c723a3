"""Keys of a gateway that runs: made and revoked from the command line, ended by the clock, broken by a typing error."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.policy.keys import Key, digest_of
from gateway.web.keyfile import render
from tests.support.worker import Worker, wait_for

ROOT = Path(__file__).parents[2]
LIFE = 3.0
"""Seconds that a key lives here."""
CAROL = "sk-carol-0123456789"


class Gateway:
    """One that has nothing behind it, and its operator."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "data" / "keys" / "keys.toml"
        upstream = {"UPSTREAM_URL": "http://127.0.0.1:9", "ALLOW_PLAIN_HTTP": "true"}
        self.worker = Worker(folder, API_KEY="", API_KEYS_FILE=str(self.file), **upstream)

    def keys(self, *words: str) -> str:
        """What `wakegate keys …` prints."""
        command = [sys.executable, "-m", "gateway", "keys", *words]
        env = self.worker.env | {"PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def status(self, key: str) -> int:
        return self.worker.get("/v1/models", key=key)[0]

    def hang_up(self, line: str) -> None:
        """SIGHUP, until the console says so."""
        before = self.worker.console.count(line)
        assert self.worker.process is not None
        os.kill(self.worker.process.pid, signal.SIGHUP)
        wait_for(lambda: self.worker.console.count(line) > before, 20, f"{line!r} on the console")


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Gateway]:
    gateway = Gateway(tmp_path)
    yield gateway
    if gateway.worker.process is not None and gateway.worker.process.poll() is None:
        gateway.worker.stop()


def listens(gateway: Gateway) -> bool:
    try:
        return gateway.worker.get("/health", key=None)[0] == 200
    except OSError:
        return False


def test_keys_come_and_go_while_it_runs(gateway: Gateway) -> None:
    alice, bob = gateway.keys("new", "alice"), gateway.keys("new", "bob")
    gateway.worker.start()
    wait_for(lambda: listens(gateway), 30, "the gateway")
    assert [gateway.status(key) for key in (alice, bob, "sk-wrong-0123456789")] == [200, 200, 401]

    gateway.keys("revoke", "bob")
    gateway.hang_up("API_KEYS_FILE was read again: 1 key (gone: bob)")
    assert [gateway.status(key) for key in (alice, bob)] == [200, 401]

    right = gateway.file.read_bytes()
    gateway.file.write_text("[[keys]\n")
    gateway.hang_up("the keys of before stay in force: line 1: this is not TOML")
    assert [gateway.status(key) for key in (alice, bob)] == [200, 401], "a typing error locks nobody out or in"
    assert "line 1: this is not TOML" in str(gateway.worker.get("/health", key=alice)[1])
    assert "TOML" not in str(gateway.worker.get("/health", key=None)[1])

    ends = round(time.time() + LIFE, 3)
    gateway.file.write_bytes(right + render(Key("carol", digest_of(CAROL.encode()), expires=ends)).encode())
    gateway.hang_up("API_KEYS_FILE can be used again: 2 keys (new: carol)")
    status, now = gateway.status(CAROL), time.time()
    assert status == 200 or now >= ends
    wait_for(lambda: gateway.status(CAROL) == 401, LIFE + 10, "the end of carol's key")
    assert time.time() >= ends
    assert "The API key carol expired at" in gateway.worker.get("/v1/models", key=CAROL)[1]["error"]["message"]
    assert gateway.status(alice) == 200
    for key in (alice, bob, CAROL, "sk-wrong"):
        assert key not in gateway.worker.console
