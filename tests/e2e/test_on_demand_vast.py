"""A gateway that rents at Vast: real processes, the vendor emulated, and a real worker with a certificate of its own.

The instance's port has no TLS but the worker's own, which the gateway knows by its fingerprint.
"""

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from gateway.providers.renting.certificates import kept
from tests.emulators.vast import Served, VastCloud
from tests.support.landlord import POD_KEY, kill
from tests.support.worker import KEY, Worker, free_port, running, wait_for

CHAT = {"max_tokens": 4, "temperature": 0, "messages": [{"role": "user", "content": "Hello"}]}
SOON = 60.0
T = TypeVar("T")


class Host:
    """The machine at Vast: its API in a thread, and a worker that lives for as long as the GPU is ours."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._pair = folder / "tls.pem"
        self.fingerprint = kept(self._pair).fingerprint
        self.ports = [free_port() for _ in range(3)]
        boot: list[tuple[float, str | None]] = [(0.0, None), (0.1, "loading"), (0.2, "running")]
        self.cloud = VastCloud(host="127.0.0.1", now=time.time(), boot=boot, next_ports=[*self.ports], stop_takes=0.2)
        self.body: Worker | None = None
        self.url = ""
        self._loop = asyncio.new_event_loop()
        self._ended = asyncio.Event()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._serve(),))

    async def _serve(self) -> None:
        async with Served(self.cloud, time.time) as url:
            self.url = url
            while not self._ended.is_set():
                self.cloud.handle("GET", "/", {}, None, time.time())
                await self._embody()
                await asyncio.sleep(0.05)

    async def _embody(self) -> None:
        if self.cloud.port is not None and self.body is None:
            folder = self._folder / f"run-{self.cloud.started}"
            folder.mkdir()
            more = {"PORT": str(self.cloud.port), "PORT_HEALTH": str(free_port()), "TLS_CERT": str(self._pair)}
            self.body = Worker(folder, API_KEY=POD_KEY, **more).start()
        elif not self.cloud.running and self.body is not None:
            body, self.body = self.body, None
            await asyncio.to_thread(kill, body)

    def ask(self, deed: Callable[[VastCloud], T]) -> T:
        async def do() -> T:
            return deed(self.cloud)

        return asyncio.run_coroutine_threadsafe(do(), self._loop).result(10)

    def orders(self) -> int:
        return self.ask(lambda cloud: sum(method == "PUT" for _, method, _ in cloud.calls))

    def settings(self) -> dict[str, str]:
        return {
            "PROVIDER": "vast",
            "VAST_API_KEY": self.cloud.key,
            "VAST_API_URL": self.url,
            "VAST_INSTANCE_ID": str(self.cloud.id),
            "TLS_FINGERPRINT": self.fingerprint,
            "UPSTREAM_API_KEY": POD_KEY,
            "MONTHLY_BUDGET": "20",
            "IDLE_TIMEOUT": "6s",
        }

    def __enter__(self) -> "Host":
        self._thread.start()
        wait_for(lambda: self.url, 10, "the API listens")
        return self

    def __exit__(self, *trouble: object) -> None:
        self._loop.call_soon_threadsafe(self._ended.set)
        self._thread.join(10)
        self._loop.close()
        if self.body is not None:
            kill(self.body)


@contextlib.contextmanager
def renting(tmp_path: Path) -> Iterator[tuple[Host, Worker]]:
    (tmp_path / "host").mkdir()
    (tmp_path / "gateway").mkdir()
    with Host(tmp_path / "host") as host, running(tmp_path / "gateway", **host.settings()) as gateway:
        gateway.until("stopped", "starting", "ready")
        yield host, gateway


def test_from_the_first_request_over_the_workers_own_certificate_to_the_stop_when_nobody_comes(tmp_path: Path) -> None:
    with renting(tmp_path) as (host, gateway):
        assert host.orders() == 0
        assert gateway.post("/v1/chat/completions", CHAT, key="wrong")[0] == 401
        status, answer = gateway.post("/v1/chat/completions", CHAT, key=KEY, timeout=120)
        assert status == 200 and answer["choices"]
        assert host.ask(lambda cloud: cloud.running)
        gateway.until("stopped", within=SOON)
        assert not host.ask(lambda cloud: cloud.running)
        assert host.orders() == 2, "one start, one stop"
