"""200 callers come while a worker's engine starts, and half of them leave: the others lose nothing by it.

Through ./start.sh, with an engine that starts when the test lets it and answers each caller by its own number. Who
arrives is known by /health, which counts those who wait, so that there is an order to speak of.
"""

import asyncio
import http.client
import json
import sys
from pathlib import Path

from tests.e2e.test_soak import rss
from tests.support.worker import KEY, ROOT, Worker, running

CALLERS = 200
MORE_ROUNDS = 3
"""Of as many as leave in the first."""
PROMPT = 256 << 10
"""Bytes: so that what a round holds is far more than memory goes up and down by itself."""
PATIENCE = 60.0


class Caller:
    """One request on a connection of its own. The engine answers with its number."""

    def __init__(self, number: int) -> None:
        self.number = str(number)
        self.streamed = number % 4 in (1, 2)
        prompt = self.number + " " + "x" * PROMPT
        body = {"model": "m", "stream": self.streamed, "messages": [{"role": "user", "content": prompt}]}
        self._body = json.dumps(body).encode()
        self._writer: asyncio.StreamWriter | None = None

    def __repr__(self) -> str:
        return f"<Caller {self.number} {'streamed' if self.streamed else 'whole'}>"

    async def come(self, port: int) -> None:
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", port)
        head = (
            f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {KEY}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(self._body)}\r\nConnection: close\r\n\r\n"
        )
        self._writer.write(head.encode() + self._body)
        await self._writer.drain()
        self._body = b""

    def leave(self) -> None:
        if self._writer is not None:
            self._writer.close()

    async def answer(self) -> str:
        """What it has in the end: the model's text."""
        async with asyncio.timeout(PATIENCE):
            heard = (await self._reader.read()).decode()
        self.leave()
        assert heard.startswith("HTTP/1.1 200 "), f"{self!r}: {heard}"
        if self.streamed:
            assert "data: [DONE]" in heard, f"{self!r}: {heard}"
            said = next(line for line in heard.splitlines() if line.startswith("data: {"))
            return str(json.loads(said.removeprefix("data: "))["choices"][0]["delta"]["content"])
        return str(json.loads(heard.partition("\r\n\r\n")[2])["choices"][0]["message"]["content"])


class Line:
    """The gateway's line, as /health shows it."""

    def __init__(self, worker: Worker) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", worker.port)

    def facts(self) -> dict[str, int]:
        self._connection.request("GET", "/health", headers={"Authorization": f"Bearer {KEY}"})
        said = json.loads(self._connection.getresponse().read())
        return dict(said)

    async def is_long(self, number: int) -> None:
        async with asyncio.timeout(PATIENCE):
            while (await asyncio.to_thread(self.facts))["waiting"] != number:
                await asyncio.sleep(0.002)

    def close(self) -> None:
        self._connection.close()


async def crowd(worker: Worker, folder: Path) -> tuple[list[Caller], list[str], list[int]]:
    """Those who stayed, what each of them heard, and the gateway's memory after each round."""
    line, memory = Line(worker), []
    callers = [Caller(number) for number in range(CALLERS)]
    staying, leaving = callers[::2], callers[1::2]
    try:
        for waiting, caller in enumerate(callers, 1):
            await caller.come(worker.port)
            await line.is_long(waiting)
        for _ in range(1 + MORE_ROUNDS):
            for caller in leaving:
                caller.leave()
            await line.is_long(len(staying))
            memory.append(rss(worker))
            if len(memory) <= MORE_ROUNDS:
                leaving = [Caller(number) for number in range(1000, 1000 + len(leaving))]
                await asyncio.gather(*(caller.come(worker.port) for caller in leaving))
                await line.is_long(CALLERS)
        (folder / "open").touch()
        return staying, list(await asyncio.gather(*(caller.answer() for caller in staying))), memory
    finally:
        line.close()
        for caller in (*staying, *leaving):
            caller.leave()


def test_half_of_two_hundred_callers_leave_during_the_start_and_the_others_are_answered_in_order(tmp_path) -> None:
    """One start; each of the others once at the engine, in the order of their arrival; memory as it was."""
    engine = tmp_path / "engine"
    engine.mkdir()
    program = ROOT / "tests" / "support" / "gated_engine.py"
    settings = {
        "ENGINE_COMMAND": f"{sys.executable} -I -S {program} {{socket}} {engine}",
        "WAKE_ON_START": "false",
        "MAX_CONCURRENT_REQUESTS": "1",
        "HOLD_MAX": "10m",
        "HOLD_GRACE": "500ms",
        "HEARTBEAT_INTERVAL": "500ms",
        "LOG_TO": "files",
    }
    with running(tmp_path, **settings) as worker:
        worker.until("stopped")
        staying, heard, memory = asyncio.run(crowd(worker, engine))
        worker.until("ready")
        starts = worker.get("/health")[1]
        worker.stop()

    numbers = [caller.number for caller in staying]
    assert heard == numbers, "somebody heard what was meant for another"
    assert (engine / "asked").read_text().split() == numbers, "not each of them once, in order"
    assert (engine / "starts").read_text().splitlines() == ["started"], starts
    one_round = CALLERS // 2 * PROMPT
    assert memory[-1] - memory[0] < one_round, f"{[size >> 20 for size in memory]} MiB after each round"
