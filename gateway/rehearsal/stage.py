"""Gives the small RunPod a port on loopback, and its pod a body: a real WakeGate worker in a process of its own.

Every call is told as it comes, with what it did to the price; looks that say the same again are told once.
"""

import asyncio
import importlib.util
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from aiohttp import web

from gateway.policy.books import dollars
from gateway.rehearsal.children import Child, free_port
from gateway.rehearsal.vendor import PRICE, Vendor

TICK = 0.1
MOST = 1 << 16
"""Bytes of a body that is read."""

Tell = Callable[[str, str], None]
"""Who it is, and what happened."""


@dataclass(frozen=True, slots=True)
class Body:
    """What runs in the pod."""

    settings: Mapping[str, str]
    engine: str
    """In words."""


def body_of(folder: Path, root: Path) -> Body:
    """The demo model on llama.cpp where both are there, else an engine that says one sentence."""
    script = root / "scripts" / "make_demo_model.py"
    if all(map(importlib.util.find_spec, ("llama_cpp", "gguf"))) and script.is_file():
        model = folder / "wakegate-demo.gguf"
        done = subprocess.run([sys.executable, str(script), str(model)], capture_output=True, timeout=60, check=False)  # noqa: S603
        if done.returncode == 0:
            return Body({"MODEL": str(model), "ENGINE": "llama-cpp-python"}, "llama.cpp with a demo model")
    engine = Path(__file__).with_name("engine.py")
    settings = {"ENGINE_COMMAND": f"{sys.executable} -I -S {engine} {{port}}", "ENGINE_HEALTH_PATH": "/health"}
    return Body(settings, "a stand-in that says one sentence")


class Stage:
    """Everything that stands for RunPod."""

    def __init__(
        self, vendor: Vendor, pod: Callable[[], Child], *, port: int, tell: Tell, now: Callable[[], float]
    ) -> None:
        """`pod` makes the process of one run. `port`: the pod's."""
        self.vendor = vendor
        self._make = pod
        self._pod: Child | None = None
        self._tell = tell
        self._now = now
        self._runner: web.AppRunner | None = None
        self._task: asyncio.Task[None] | None = None
        self._last: dict[str, str] = {}
        self._again = 0
        self.api_port = 0
        self.calls = 0

    async def __aenter__(self) -> "Stage":
        app = web.Application(client_max_size=MOST)
        app.router.add_route("*", "/v2/{rest:.*}", self._answer)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.api_port = int(self._runner.addresses[0][1])
        self._task = asyncio.get_running_loop().create_task(self._keep(), name="the pod")
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
        if self._pod is not None:
            await self._pod.stop(5.0)
        if self._runner is not None:
            await self._runner.cleanup()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.api_port}/v2"

    @property
    def pod_runs(self) -> bool:
        return self._pod is not None and self._pod.runs

    def pods_console(self) -> str:
        return self._pod.tail() if self._pod is not None else ""

    async def _keep(self) -> None:
        """The pod has a process when it is to have one, and none when not."""
        while True:
            self.vendor.passes(self._now())
            if self.vendor.wants_body and self._pod is None:
                self._pod = self._make()
                await self._pod.start()
                self.vendor.came_up(self._now())
                self._tell("pod", "its container starts")
            elif self._pod is not None and not (self.vendor.wants_body and self._pod.runs):
                await self._pod.stop()
                self._pod = None
                self.vendor.went(self._now())
                self._tell("pod", f"its container is gone; it has cost {dollars(self.vendor.cost(self._now()))}")
            await asyncio.sleep(TICK)

    async def _answer(self, request: web.Request) -> web.Response:
        body = await request.read()
        target = request.rel_url.path_qs.removeprefix("/v2")
        before = self.vendor.status()
        authorization = request.headers.get("Authorization", "")
        answer = self.vendor.handle(request.method, target, authorization, body, self._now())
        self.calls += 1
        self._say(f"{request.method} {request.rel_url.path}", body, answer.status, before)
        return web.Response(status=answer.status, body=answer.body, headers={"Content-Type": answer.content_type})

    def _say(self, call: str, body: bytes, status: int, before: str) -> None:
        after = self.vendor.status()
        changed = call.startswith("POST")
        said = f"{status}, the pod is {after}"
        if not changed and self._last.get(call) == said:
            return
        self._last[call] = said
        did = f" {body.decode('utf-8', 'replace')[:60]}" if changed else ""
        price = ""
        if before == "EXITED" and after != "EXITED":
            price = f"; it costs {dollars(PRICE)} an hour from now on"
        self._tell("vendor", f"{call}{did} → {said}{price}")


def unix() -> float:
    return time.time()


def pods_settings(port: int, key: str, body: Body, folder: Path) -> dict[str, str]:
    """Of the worker in the pod."""
    return {
        **body.settings,
        "HOST": "127.0.0.1",
        "PORT": str(port),
        "PORT_HEALTH": str(free_port()),
        "DATA_DIR": str(folder),
        "API_KEY": key,
        "IDLE_TIMEOUT": "never",
        "DRAIN_TIMEOUT": "5",
        "SERVED_MODEL_NAME": "rehearsal",
    }
