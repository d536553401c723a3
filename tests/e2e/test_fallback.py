"""Somebody else answers, with the gateway as users run it: killed, started again, and told to end in the middle."""

import asyncio
import contextlib
import http.client
import json
import os
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.paid_api import KEY as PAID_KEY
from tests.support.paid_api import MODEL, PaidApi
from tests.support.worker import KEY, Worker, running, wait_for

CHAT = {"model": "ours", "messages": [{"role": "user", "content": "Hello"}]}


@dataclass(frozen=True)
class Paid:
    """The API, and the loop that it runs on."""

    api: PaidApi
    loop: asyncio.AbstractEventLoop


@contextlib.contextmanager
def paid_api() -> Iterator[Paid]:
    """On a thread and a loop of its own: the test itself waits for processes."""
    loop, api = asyncio.new_event_loop(), PaidApi()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        asyncio.run_coroutine_threadsafe(api.start(), loop).result(5)
        yield Paid(api, loop)
    finally:
        asyncio.run_coroutine_threadsafe(api.close(), loop).result(5)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(5)
        loop.close()


@pytest.fixture
def paid() -> Iterator[Paid]:
    with paid_api() as api:
        yield api


def settings(paid: Paid) -> dict[str, str]:
    """Nothing is woken: this is about the fallback. A micro-dollar for each token."""
    return {
        "COLD_START": "fallback",
        "WAKE_AFTER": "1000/1h",
        "FALLBACK_URL": f"http://127.0.0.1:{paid.api.port}/api/v1",
        "FALLBACK_API_KEY": PAID_KEY,
        "FALLBACK_MODEL": MODEL,
        "FALLBACK_PRICE_IN": "1",
        "FALLBACK_PRICE_OUT": "1",
        "FALLBACK_MAX_SPEND": "0.05",
    }


def ask(worker: Worker, body: dict[str, object]) -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection("127.0.0.1", worker.port, timeout=30)
    headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
    connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
    return connection.getresponse()


def spent(worker: Worker) -> float:
    """Micro-dollars of this month."""
    page = str(worker.get("/metrics")[1])
    (line,) = [line for line in page.splitlines() if line.startswith("wakegate_fallback_month_spend_dollars ")]
    return round(float(line.split()[1]) * 1_000_000)


def test_what_was_spent_outlives_a_kill_and_what_is_under_way_a_drain(paid: Paid, tmp_path: Path) -> None:
    """A gateway that was killed believes what it had reserved: never less than is owed, and at most a fiftieth of the
    limit more."""
    with running(tmp_path, **settings(paid)) as worker:
        worker.until("stopped")
        answer = ask(worker, CHAT)
        assert answer.headers["X-Wakegate-Served-By"] == "fallback"
        assert json.loads(answer.read())["model"] == "ours" and spent(worker) == 14
        paid.api.says_usage = False
        ask(worker, CHAT | {"max_tokens": 20_000}).read()
        owed = spent(worker)
        assert owed > 20_000 and worker.process is not None
        os.killpg(worker.process.pid, signal.SIGKILL)
        worker.process.wait(10)
    with running(tmp_path, **settings(paid)) as worker:
        worker.until("stopped")
        assert owed <= spent(worker) <= owed + 1000
        paid.api.gate.clear()
        answer = ask(worker, CHAT | {"stream": True})
        assert b"Hello" in answer.readline() and worker.process is not None
        worker.process.send_signal(signal.SIGTERM)
        wait_for(lambda: worker.probe() == 503, 5, "it drains")
        paid.loop.call_soon_threadsafe(paid.api.gate.set)
        assert b"[DONE]" in answer.read()
        assert worker.process.wait(10) == 0
    log = "".join(path.read_text() for path in (tmp_path / "data" / "logs" / "llama").glob("*"))
    assert "served_by=fallback" in log and "ended_by=fallback" in log
    assert PAID_KEY not in log + worker.console
