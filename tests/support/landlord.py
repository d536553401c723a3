"""An emulated RunPod whose pods have bodies: each is a whole WakeGate worker with a real engine.

The API stands on a port of 127.0.0.1, in a thread; RunPod's proxy of pods is the worker's own port. A pod that is
started is a worker that is started; one that is stopped is killed at once, as RunPod does it after its grace.
"""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.emulators.runpod import Emulated, RunPodCloud, Served
from tests.support.worker import ROOT, Worker, free_port, running, wait_for

POD_KEY = "sk-pod-0123456789abcdef"
"""What the worker in the pod asks for: the backend's own key."""


class Landlord:
    """The account, its API, and the machines."""

    def __init__(self, folder: Path, **settings: str) -> None:
        """`settings`: of the workers in the pods."""
        self._folder = folder
        self._settings = settings
        self.port = free_port()
        """Where whatever runs in a pod answers."""
        self.cloud = RunPodCloud(provisioning=0.2, starting=0.2, bare=0.1, stop_takes=0.2, proxy_after=0.0)
        self.cloud.on_change = self._changed
        self.bodies: dict[str, Worker] = {}
        self.begun = 0
        self.url = ""
        self._loop = asyncio.new_event_loop()
        self._ended = asyncio.Event()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._serve(),))

    async def _serve(self) -> None:
        async with Served(self.cloud, time.time) as served:
            self.url = served.url
            while not self._ended.is_set():
                self.cloud.advance(time.time())  # what happens by itself, happens also when nobody asks
                await asyncio.sleep(0.05)

    def _changed(self, pod: Emulated) -> None:
        body = self.bodies.get(pod.id)
        if pod.costs and body is None:
            self.begun += 1
            folder = self._folder / f"{pod.id}-{self.begun}"
            folder.mkdir()
            more = {**pod.env, **self._settings, "PORT": str(self.port), "PORT_HEALTH": str(free_port())}
            self.bodies[pod.id] = Worker(folder, **({"API_KEY": POD_KEY} | more)).start()
        elif not pod.costs and body is not None:
            del self.bodies[pod.id]
            kill(body)

    def in_the_cloud(self, deed: Callable[[RunPodCloud], object]) -> object:
        """Do something to the account, in its own thread."""

        async def do() -> object:
            return deed(self.cloud)

        return asyncio.run_coroutine_threadsafe(do(), self._loop).result(10)

    @property
    def running(self) -> list[str]:
        return list(self.in_the_cloud(lambda cloud: cloud.running()))  # type: ignore[call-overload]

    def actions(self) -> list[str]:
        """start, stop, create, …: what was ordered so far."""
        calls = self.in_the_cloud(lambda cloud: [(method, path) for _, method, path in cloud.calls])
        return [f"{method} {path.partition('?')[0]}" for method, path in calls if method != "GET"]  # type: ignore[attr-defined]

    def settings(self, **more: str) -> dict[str, str]:
        """What a gateway needs to rent here."""
        return {
            "PROVIDER": "runpod-pod",
            "RUNPOD_API_KEY": self.cloud.key,
            "RUNPOD_API_URL": self.url,
            "RUNPOD_PROXY_URL": "http://127.0.0.1:{port}",
            "RUNPOD_POD_PORT": str(self.port),
            "RUNPOD_POD_ID": "abc123",
            "UPSTREAM_API_KEY": POD_KEY,
            "MONTHLY_BUDGET": "20",
            **more,
        }

    def __enter__(self) -> "Landlord":
        self._thread.start()
        wait_for(lambda: self.url, 10, "the API listens")
        return self

    def __exit__(self, *trouble: object) -> None:
        self._loop.call_soon_threadsafe(self._ended.set)
        self._thread.join(10)
        self._loop.close()
        for body in self.bodies.values():
            kill(body)


def kill(worker: Worker) -> None:
    """Everything of it at one moment, as a power cut does: nobody hears of anybody's end. Its engine's guard ends what
    is left."""
    mark = f"DATA_DIR={worker.folder / 'data'}\0".encode()
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and mark in (entry / "environ").read_bytes():
                found.append(int(entry.name))
    for number in (signal.SIGSTOP, signal.SIGKILL):
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
    if worker.process is not None:
        worker.process.wait(10)


@contextlib.contextmanager
def landlord(folder: Path, **settings: str) -> Iterator[Landlord]:
    folder.mkdir(exist_ok=True)
    with Landlord(folder, **settings) as made:
        made.in_the_cloud(lambda cloud: cloud.put_pod("abc123"))
        yield made


CHAT = {"max_tokens": 4, "temperature": 0, "messages": [{"role": "user", "content": "Hello"}]}
SOON = 60.0


@contextlib.contextmanager
def renting(tmp_path: Path, rents: Landlord, name: str = "gateway", **settings: str) -> Iterator[Worker]:
    """A gateway that rents there, in processes of its own."""
    folder = tmp_path / name
    folder.mkdir(exist_ok=True)
    with running(folder, **rents.settings(**{"IDLE_TIMEOUT": "60s"} | settings)) as gateway:
        gateway.until("stopped", "starting", "ready")
        yield gateway


def spend(gateway: Worker) -> dict[str, object]:
    """What `wakegate spend --json` says, in another process."""
    done = subprocess.run(
        [sys.executable, "-m", "gateway", "spend", "--json"], cwd=ROOT, env=gateway.env, capture_output=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, object] = json.loads(done.stdout)
    return found
