"""A small RunPod: one pod that is started and stopped by API version 2, as its schema of August 2026 has it. Pure.

    PROVISIONING → STARTING → RUNNING → (stop) → EXITED → (start) → PROVISIONING → …

It costs from the start call until its container is gone, and says what it cost. It answers what a gateway asks: the
pod, the list of pods, actions, the catalogue's price, the bill. What the vendor cannot be asked here is a 404, and a
wrong key a 401. It never fails: the emulator that does is tests/emulators/runpod.py.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, NamedTuple
from urllib.parse import parse_qs, urlsplit

GPU = "NVIDIA GeForce RTX 4090"
PRICE = 340_000
"""Micro-dollars per hour: what RunPod's community cloud took for that GPU in 2026."""
POD = "rehearsal"
PROVISIONING, STARTING = 0.5, 0.5
"""Seconds. The real ones take half a minute or more."""

Status = Literal["PROVISIONING", "STARTING", "RUNNING", "EXITED"]
ACTIONS: Mapping[Status, tuple[str, ...]] = {
    "PROVISIONING": ("stop", "terminate"),
    "STARTING": ("stop", "terminate"),
    "RUNNING": ("stop", "restart", "terminate"),
    "EXITED": ("start", "terminate"),
}
"""The schema's table of what may be done when."""


class Answer(NamedTuple):
    status: int
    body: bytes

    @property
    def content_type(self) -> str:
        return "application/json" if self.status < 400 else "application/problem+json"


@dataclass(slots=True)
class Run:
    """From a start call to the end of the container."""

    began: float
    up: float | None = None
    """Since when the container runs."""
    ended: float | None = None


class Vendor:
    """`now` is Unix seconds. Whoever gives the pod its body looks at `wants_body`, and tells `came_up` and `went`."""

    def __init__(self, key: str, *, port: int, price: int = PRICE) -> None:
        self._key = key
        self._port = port
        """That the pod answers at, inside and outside."""
        self._price = price
        self._runs: list[Run] = []
        self._stopping = False
        self._seen = 0.0

    def __repr__(self) -> str:
        return f"<Vendor {len(self._runs)} runs, {'stopping' if self._stopping else 'at rest or running'}>"

    # -- its body --------------------------------------------------------------------------------

    @property
    def wants_body(self) -> bool:
        """Whether a container is to run."""
        return self._run is not None and not self._stopping and self._seen - self._run.began >= PROVISIONING

    def passes(self, now: float) -> None:
        self._seen = max(self._seen, now)

    def came_up(self, now: float) -> None:
        self.passes(now)
        if self._run is not None:
            self._run.up = now

    def went(self, now: float) -> None:
        """It is gone, asked for or not: it costs nothing from now on."""
        self.passes(now)
        if self._run is not None:
            self._run.ended = now
        self._stopping = False

    # -- what it knows ---------------------------------------------------------------------------

    @property
    def _run(self) -> Run | None:
        return self._runs[-1] if self._runs and self._runs[-1].ended is None else None

    @property
    def runs(self) -> int:
        """How often it was started."""
        return len(self._runs)

    def status(self) -> Status:
        run = self._run
        if run is None:
            return "EXITED"
        if self._seen - run.began < PROVISIONING:
            return "PROVISIONING"
        if run.up is None or self._seen - run.up < STARTING:
            return "STARTING"
        return "RUNNING"

    def cost(self, now: float) -> int:
        """Micro-dollars that it has really cost, rounded up."""
        seconds = sum((now if run.ended is None else run.ended) - run.began for run in self._runs)
        return -int(-self._price * seconds // 3600)

    # -- what it answers -------------------------------------------------------------------------

    def handle(self, method: str, target: str, authorization: str, body: bytes, now: float) -> Answer:
        """`target`: path and query, without what stands before `/pods`."""
        self.passes(now)
        if authorization != f"Bearer {self._key}":
            return _problem(401, "Unauthorized", "invalid api key")
        url = urlsplit(target)
        match (method, url.path.strip("/").split("/")):
            case ("GET", ["pods"]):
                return _json({"pods": [self._pod()]})
            case ("GET", ["pods", pod]) if pod == POD:
                return _json(self._pod())
            case ("POST", ["pods", pod, "action"]) if pod == POD:
                return self._act(body, now)
            case ("GET", ["catalog", "gpus"]):
                return _json({"gpus": [self._gpu()]})
            case ("GET", ["billing", "pods"]):
                return _json(self._bill(parse_qs(url.query), now))
        return _problem(404, "Not Found", f"no {method} {url.path} here")

    def _act(self, body: bytes, now: float) -> Answer:
        try:
            action = json.loads(body)["action"]
        except (ValueError, KeyError, TypeError):
            return _problem(422, "Unprocessable Entity", "action is required")
        if self._stopping and action == "stop":
            return _json(self._pod())
        if self._stopping or action not in ACTIONS[self.status()] or action not in ("start", "stop"):
            return _problem(409, "Conflict", f"action {action!r:.20} is not valid for status {self.status()}")
        if action == "start":
            self._runs.append(Run(now))
        elif self._run is not None and self._run.up is None and not self.wants_body:
            self.went(now)  # nothing ran yet
        else:
            self._stopping = True
        return _json(self._pod())

    def _pod(self) -> dict[str, Any]:
        status, run = self.status(), self._run
        uptime = int(self._seen - run.up) if run is not None and run.up is not None else 0
        port = {"private": self._port, "public": self._port, "type": "http", "ip": "127.0.0.1"}
        runtime = {"uptime": uptime, "gpus": [{"util": 0, "memoryUtil": 0}], "ports": [port]}
        return {
            "id": POD,
            "name": "wakegate-rehearsal",
            "status": status,
            "actions": [] if self._stopping else list(ACTIONS[status]),
            "image": "wakegate",
            "args": "",
            "disk": 10,
            "mounts": {"persistent": {"size": 20, "path": "/workspace"}},
            "ports": [f"{self._port}/http"],
            "env": {},
            "registry": None,
            "gpu": {"id": GPU, "count": 1},
            "cloud": "COMMUNITY",
            "dataCenterId": None,
            "cudaVersion": "12.8",
            "ssh": {"proxy": None, "direct": None},
            "template": None,
            "cost": 0 if status == "EXITED" else self._price / 1_000_000,
            "locked": False,
            "globalNetworking": {"enabled": False},
            "runtime": runtime if status == "RUNNING" else None,
            "createdAt": "2026-08-18T00:00:00Z",
            "startedAt": _moment(self._runs[-1].began) if self._runs else None,
        }

    def _gpu(self) -> dict[str, Any]:
        dollars = self._price / 1_000_000
        return {
            "id": GPU,
            "name": "RTX 4090",
            "pool": "ADA_24",
            "manufacturer": "NVIDIA",
            "memory": 24,
            "secure": True,
            "community": True,
            "price": {"secure": dollars, "community": dollars, "serverless": 1.116},
            "maxCount": {"secure": 8, "community": 4},
            "availability": "HIGH",
        }

    def _bill(self, query: Mapping[str, list[str]], now: float) -> dict[str, Any]:
        total = self.cost(now) / 1_000_000
        amounts = {"totalAmount": total, "gpuAmount": total, "cpuAmount": 0, "diskAmount": 0}
        begins = self._runs[0].began if self._runs else now
        hour = {"startTime": _moment(begins // 3600 * 3600), "endTime": _moment(begins // 3600 * 3600 + 3600)}
        records = [{"podId": POD, **hour, **amounts}] if total else []
        asked = {"startTime": query.get("startTime", [hour["startTime"]])[0], "endTime": _moment(now)}
        return {
            "records": records,
            "metadata": {
                "query": {**asked, "bucketSize": "hour"},
                "recordCount": len(records),
                "uniquePodCount": len(records),
                "totals": amounts,
            },
        }


def _json(content: object) -> Answer:
    return Answer(200, json.dumps(content).encode())


def _problem(status: int, title: str, detail: str) -> Answer:
    return Answer(status, json.dumps({"title": title, "status": status, "detail": detail}).encode())


def _moment(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
