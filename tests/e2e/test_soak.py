"""20,000 requests through ./start.sh: nothing grows that should not, and three counts of what happened agree.

The engine is a stand-in that answers at once: with a model, the same would take half an hour. Everything else is real:
start.sh, both processes, sockets, log files, /metrics.
"""

import asyncio
import collections
import gzip
import json
import sys
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support.worker import KEY, ROOT, Worker, running, wait_for

REQUESTS = 20_000
CALLERS = 16
WARM = 4_000
"""Requests after which what start-up and caches need is there."""
LOG_TOTAL = 4 << 20
PLAN = ["whole"] * 11 + ["stream"] * 5 + ["fail", "left", "bad", "lost"]
"""What one caller does, over and over. bad: no JSON; lost: no such model's path, so never counted as inference."""


def head(worker: Worker, path: str, body: bytes) -> bytes:
    return (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{worker.port}\r\nAuthorization: Bearer {KEY}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode() + body


def chat(worker: Worker, text: str, stream: bool = False) -> bytes:
    body = {"model": "quick", "stream": stream, "messages": [{"role": "user", "content": text}]}
    return head(worker, "/v1/chat/completions", json.dumps(body).encode())


class Caller:
    """One kept-alive connection that goes through the plan."""

    def __init__(self, worker: Worker, counts: "collections.Counter[str]") -> None:
        self.worker = worker
        self.counts = counts
        self.requests = {
            "whole": chat(worker, "Hello"),
            "stream": chat(worker, "Hello", stream=True),
            "fail": chat(worker, "fail"),
            "left": chat(worker, "slow", stream=True),
            "bad": head(worker, "/v1/chat/completions", b"{"),
            "lost": head(worker, "/v1/nowhere", b"{}"),
        }

    async def run(self, number: int) -> None:
        reader, writer = await self.connect()
        try:
            for index in range(number):
                what = PLAN[index % len(PLAN)]
                writer.write(self.requests[what])
                status, closes = await self.answer(reader, leave=what == "left")
                self.counts[what] += 1
                assert status == {"fail": 500, "bad": 400, "lost": 404}.get(what, 200), (what, status)
                if closes:
                    writer.close()
                    reader, writer = await self.connect()
        finally:
            writer.close()

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.worker.port)

    async def answer(self, reader: asyncio.StreamReader, *, leave: bool) -> tuple[int, bool]:
        top = await reader.readuntil(b"\r\n\r\n")
        status, lower = int(top.split()[1]), top.lower()
        if leave:
            await reader.readuntil(b"\n\n")
            return status, True
        if b"content-length:" in lower:
            await reader.readexactly(int(lower.partition(b"content-length:")[2].split()[0]))
        else:
            while size := int(await reader.readuntil(b"\r\n"), 16):
                await reader.readexactly(size + 2)
            await reader.readexactly(2)
        return status, b"connection: close" in lower


async def go(worker: Worker, number: int) -> "collections.Counter[str]":
    counts: collections.Counter[str] = collections.Counter()
    async with asyncio.timeout(240):
        await asyncio.gather(*(Caller(worker, counts).run(number // CALLERS) for _ in range(CALLERS)))
    return counts


def rss(worker: Worker) -> int:
    """Bytes of the gateway's own memory."""
    (pid,) = worker.pids("-m gateway")
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * 4096


def outcomes(page: str) -> "collections.Counter[str]":
    counted: collections.Counter[str] = collections.Counter()
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            if sample.name == "wakegate_requests_total":
                counted[sample.labels["outcome"]] += int(sample.value)
            elif sample.name == "wakegate_request_errors_total":
                counted["code " + sample.labels["code"]] += int(sample.value)
            elif sample.name == "wakegate_http_rejects_total":
                counted["rejects " + sample.labels["code"]] += int(sample.value)
            elif sample.name in ("wakegate_input_tokens_total", "wakegate_output_tokens_total"):
                counted[sample.name] += int(sample.value)
    return counted


def logged(folder: Path) -> "collections.Counter[str]":
    """Canonical lines by outcome and code, over all rotated files."""
    counted: collections.Counter[str] = collections.Counter()
    for path in sorted(folder.rglob("*.txt*")):
        if path.is_symlink() or "_engine" in path.name or path.name == "latest.txt":
            continue
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        for line in data.decode().splitlines():
            fact = json.loads(line)
            if (
                fact.get("kind") == "request" and "route" in fact
            ):  # of those that came no further, only some have a line
                counted[fact["outcome"]] += 1
                if "code" in fact:
                    counted["code " + fact["code"]] += 1
    return counted


def test_twenty_thousand_requests_leave_no_trace_but_true_counts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = {
        "ENGINE_COMMAND": f"{sys.executable} -I -S {ROOT / 'tests/support/quick_engine.py'} {{socket}}",
        "MAX_CONCURRENT_REQUESTS": "64",
        "LOG_FORMAT": "json",
        "LOG_TO": "files",
        "LOG_MAX_SIZE": "1MiB",
        "LOG_TOTAL_SIZE": "64MiB",
    }
    with running(tmp_path, **settings) as worker:
        worker.until("ready")
        first = asyncio.run(go(worker, WARM))
        before = rss(worker)
        done = first + asyncio.run(go(worker, REQUESTS - WARM))
        after = rss(worker)
        with capsys.disabled():
            print(f"\n{sum(done.values())} requests: {before / 2**20:.1f} MiB, then {after / 2**20:.1f} MiB of memory")
        assert sum(done.values()) == REQUESTS
        assert after - before < 8 * 2**20
        expected = {
            "answered": done["whole"] + done["stream"] + done["fail"],
            "left": done["left"],
            "refused": done["bad"],
            "code 500": done["fail"],
            "code invalid_json": done["bad"],
        }

        def agreed() -> object:
            status, page = worker.get("/metrics")
            counted = outcomes(page)
            assert status == 200
            return counted if all(counted[name] == number for name, number in expected.items()) else None

        counted = wait_for(agreed, 10, f"counters as the callers counted: {expected}")
        assert counted["rejects route_not_found"] == done["lost"]
        answers = done["whole"] + done["stream"]
        assert counted["wakegate_input_tokens_total"] == 7 * answers
        assert counted["wakegate_output_tokens_total"] == 3 * answers
        worker.stop()
        assert logged(tmp_path / "data" / "logs" / "llama") == expected
