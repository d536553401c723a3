"""The real llama-cpp-python engine in tests: the demo model, our child around it, and the package's own server."""

import asyncio
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

ROOT = Path(__file__).resolve().parent.parent.parent
PATIENCE = 30.0
"""Seconds until a test gives up on a real engine on a busy machine. Nothing waits this long when it works."""

Answer = dict[str, Any]


def make_model(path: Path, *words: str) -> Path:
    """By scripts/make_demo_model.py, in a process of its own as a user would."""
    subprocess.run([sys.executable, str(ROOT / "scripts" / "make_demo_model.py"), str(path), *words], check=True)
    return path


@dataclass
class Child:
    """A running child program, spoken to as the gateway does."""

    process: "subprocess.Popen[bytes]"
    socket: Path
    news: int
    """The reading end of the pipe that it tells its news on."""

    @asynccontextmanager
    async def client(self) -> AsyncIterator[aiohttp.ClientSession]:
        connector = aiohttp.UnixConnector(str(self.socket))
        async with aiohttp.ClientSession(base_url="http://engine", connector=connector) as session:
            yield session

    async def get(self, route: str) -> tuple[int, Answer]:
        async with self.client() as session, session.get(route) as answer:
            return answer.status, await answer.json()

    async def post(self, route: str, body: object) -> tuple[int, Answer]:
        """`body` as JSON, or as it is when it is bytes."""
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        async with self.client() as session, session.post(route, data=raw) as answer:
            return answer.status, await answer.json()

    async def stream(self, route: str, body: Answer) -> list[Answer]:
        """Every event of a whole stream."""
        async with self.client() as session, session.post(route, json={**body, "stream": True}) as answer:
            assert answer.status == 200, await answer.text()
            assert answer.content_type == "text/event-stream"
            return events(await answer.text())

    async def until(self, **wanted: object) -> Answer:
        """/health, as soon as it says what is wanted."""
        deadline = time.monotonic() + PATIENCE
        while True:
            assert self.process.poll() is None, f"the child has ended: {self.process.communicate()[1].decode()}"
            _, health = await self.get("/health")
            if all(health.get(key) == value for key, value in wanted.items()):
                return health
            assert time.monotonic() < deadline, f"{wanted} did not come: {health}"
            await asyncio.sleep(0.01)

    def told(self) -> list[Answer]:
        """All its news up to now; after its end, all there is."""
        text = b""
        while True:
            try:
                more = os.read(self.news, 65536)
            except BlockingIOError:
                break
            if not more:
                break
            text += more
        return [json.loads(line) for line in text.splitlines()]


def events(text: str) -> list[Answer]:
    """The data of an event stream that ended as it should; anything else in it fails the test."""
    parts = text.split("\n\n")
    assert parts[-2:] == ["data: [DONE]", ""], parts[-2:]
    assert all(part.startswith("data: ") and "\n" not in part for part in parts[:-1])
    return [json.loads(part.removeprefix("data: ")) for part in parts[:-2]]


@contextmanager
def llama_child(folder: Path, model: Path, *words: str, environment: dict[str, str] | None = None) -> Iterator[Child]:
    """Started, not yet ready. It gets an environment of its own, as from the gateway."""
    path = folder / "engine.sock"
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    command = [
        sys.executable,
        "-m",
        "gateway.providers.local.llama_child",
        "--socket",
        str(path),
        "--model",
        str(model),
    ]
    try:
        process = subprocess.Popen(
            [*command, "--news-fd", str(writing), *words],
            cwd=ROOT,
            env={"PATH": os.environ["PATH"], **(environment or {})},
            pass_fds=[writing],
            stderr=subprocess.PIPE,
        )
    finally:
        os.close(writing)
    try:
        deadline = time.monotonic() + PATIENCE
        while process.poll() is None and not _listens(path):
            assert time.monotonic() < deadline
            time.sleep(0.005)
        yield Child(process, path, reading)
    finally:
        process.kill()
        process.communicate()
        os.close(reading)


def _listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(path)) == 0


@contextmanager
def ready_child(folder: Path, model: Path, *words: str) -> Iterator[Child]:
    with llama_child(folder, model, *words) as child:
        asyncio.run(child.until(status="ok"))
        yield child


@contextmanager
def reference_server(model: Path, *words: str) -> Iterator[str]:
    """The package's own server, ready; yields its URL. Its answers are what ours are compared with."""
    command = [sys.executable, "-m", "llama_cpp.server"]
    with _on_a_port([*command, "--model", str(model), *words], "/v1/models") as url:
        yield url


@contextmanager
def llama_server_on_a_port(binary: str, model: Path, *words: str) -> Iterator[str]:
    """llama.cpp's own server as somebody else would run it, ready; yields its URL."""
    with _on_a_port([binary, "--model", str(model), *words], "/health") as url:
        yield url


@contextmanager
def _on_a_port(command: list[str], path: str) -> Iterator[str]:
    """`path` is 200 once it serves."""
    with socket.socket() as chosen:
        chosen.bind(("127.0.0.1", 0))
        port = chosen.getsockname()[1]
    process = subprocess.Popen(
        [*command, "--host", "127.0.0.1", "--port", str(port)],
        env={"PATH": os.environ["PATH"]},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                urllib.request.urlopen(url + path, timeout=1).close()
                break
            except OSError:
                assert process.poll() is None, f"{command[0]} has ended"
                assert time.monotonic() < deadline
                time.sleep(0.05)
        yield url
    finally:
        process.kill()
        process.wait()
