"""One night of a worker with a real Prometheus beside it, lived through once and asked about by many tests.

The worker is `./start.sh` with a stand-in for an engine, as a worker that comes and goes: it is woken, answers,
refuses, fails, has a line and callers who leave, loses its engine, and goes to sleep.
"""

import contextlib
import json
import os
import signal
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from tests.support.prometheus import Prometheus, scraping
from tests.support.worker import KEY, ROOT, Worker, running, wait_for

SCRAPERS_KEY = "sk-prometheus-0123456789"
ROUTE = "/v1/chat/completions"
SETTINGS = {
    "ENGINE_COMMAND": f"{sys.executable} -I -S {ROOT / 'tests/support/quick_engine.py'} {{socket}}",
    "WAKE_ON_START": "false",
    "IDLE_TIMEOUT": "1500ms",
    "MAX_CONCURRENT_REQUESTS": "1",
    "METRICS_AUTH_ENABLED": "true",
    "METRICS_KEY_NAMES": "true",
    "SERVED_MODEL_NAME": "quick",
}


@dataclass
class Night:
    """What was done, and whom to ask about it."""

    prometheus: Prometheus
    worker: Worker
    began: float
    """Unix time."""
    outcomes: Counter[str] = field(default_factory=Counter)
    codes: Counter[str] = field(default_factory=Counter)
    tokens: Counter[str] = field(default_factory=Counter)
    scrapes_before: float = 0
    """How often the worker was scraped before anybody asked it anything."""
    starts_before: float | None = None

    def of(self, metric: str, **labels: str) -> str:
        """A selector for the worker's series."""
        words = ",".join(f'{name}="{word}"' for name, word in {"job": "wakegate-workers", **labels}.items())
        return f"{metric}{{{words}}}"

    def last(self, metric: str, **labels: str) -> str:
        """Its last value: on a busy machine one scrape may come too late and be missing."""
        return f"last_over_time({self.of(metric, **labels)}[1m])"

    def chat(self, text: str = "Think a moment") -> int:
        body = {"model": "quick", "messages": [{"role": "user", "content": text}]}
        return self.worker.post(ROUTE, body)[0]

    def answered(self, times: int = 1) -> None:
        for _ in range(times):
            assert self.chat() == 200
            self.outcomes["answered"] += 1
            self.tokens += Counter({"input": 7, "output": 3})

    def open_stream(self) -> socket.socket:
        """A streamed answer that has begun and goes on until its caller leaves."""
        payload = json.dumps({"stream": True, "messages": [{"role": "user", "content": "slow"}]}).encode()
        head = f"POST {ROUTE} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\nContent-Type: application/json\r\n"
        caller = socket.create_connection(("127.0.0.1", self.worker.port), timeout=30)
        caller.sendall(f"{head}Content-Length: {len(payload)}\r\n\r\n".encode() + payload)
        while b"data: " not in caller.recv(65536):
            pass
        return caller


def live_through(night: Night) -> None:
    """Everything that can happen to a worker in a few seconds."""
    ask = night.prometheus.value
    scrapes = f"sum_over_time({night.of('up')}[1m])"
    wait_for(lambda: (ask(scrapes) or 0) >= 3, 20, "the worker was scraped three times")
    night.scrapes_before = ask(scrapes) or 0
    night.starts_before = ask(night.last("wakegate_starts_total"))
    night.answered(3)  # the first of them wakes it
    assert night.chat("fail") == 500
    night.outcomes["answered"] += 1
    night.codes["500"] += 1
    assert night.worker.post(ROUTE, {"messages": "none"})[0] == 400
    night.outcomes["refused"] += 1
    night.codes["invalid_request"] += 1
    assert night.worker.post("/v1/nowhere", {})[0] == 404
    assert night.worker.get("/v1/models", key="sk-wrong-0123456789")[0] == 401
    stand_in_line(night)
    os.kill(max(night.worker.pids("quick_engine.py")), signal.SIGKILL)  # while nobody asks: it is started again
    night.answered()
    wait_for(lambda: night.worker.state() == "stopped", 20, "idleness stops it, scraped or not")


def stand_in_line(night: Night) -> None:
    """One has the only slot, one waits for it; then the first one leaves."""
    caller = night.open_stream()
    with contextlib.closing(caller):
        second = threading.Thread(target=night.answered)
        second.start()
        both = f"{night.of('wakegate_requests_waiting')} + {night.of('wakegate_requests_in_flight')}"
        wait_for(lambda: night.prometheus.value(both) == 2, 10, "Prometheus sees one at work and one who waits")
    night.outcomes["left"] += 1
    second.join(30)


def settled(night: Night) -> bool:
    """Whether Prometheus has seen all of it."""
    counted = night.prometheus.by("outcome", f"sum by (outcome) ({night.last('wakegate_requests_total')})")
    stopped = night.prometheus.value(night.last("wakegate_state", state="stopped")) == 1
    return stopped and sum(counted.values()) >= sum(night.outcomes.values())


@pytest.fixture(scope="session")
def night(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Night]:
    folder = tmp_path_factory.mktemp("night")
    keys = folder / "keys.txt"
    keys.write_text(f"prometheus:{SCRAPERS_KEY}\n")
    keys.chmod(0o600)
    with running(folder, API_KEYS_FILE=str(keys), **SETTINGS) as worker:
        target = f"127.0.0.1:{worker.port}"
        with scraping(folder / "prometheus", always_on=target, workers=[target], key=SCRAPERS_KEY) as prometheus:
            worker.until("stopped")
            night = Night(prometheus, worker, time.time())
            live_through(night)
            wait_for(lambda: settled(night), 20, "Prometheus has seen it all")
            yield night
