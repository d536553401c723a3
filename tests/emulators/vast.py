"""Vast.ai's API as far as a gateway meets it: one contract, its host, and everything that goes wrong there.

A pure core: `handle(method, path, headers, body, now)` answers, and between two answers the contract has become what it
is by `now`. `Served` puts it behind a real port. What the shapes are taken from, as of 2026-11: vast-ai/docs
`api-reference/openapi/yaml/{show_instance,show_instances,start_instance,stop_instance,show_charges}.yaml` and
`rate-limits-and-errors.mdx`; vast-ai/vast-cli `vastai/api/{instances,billing}.py`; what people saw of a full host
("Required resources are currently unavailable, state change queued.", status 200). Nobody ran this against an account.

    vast = VastCloud(key="k", now=0)
    vast.boot = [(0, None), (2, "loading"), (20, "running")]
    vast.full = True
"""

import asyncio
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any
from urllib.parse import parse_qs, urlsplit

from aiohttp import web

from gateway.providers.renting.vendor import Answer, Transport, Unanswered

HOUR = 3600
NOBODY: dict[str, Any] = {"success": False, "error": "auth_error", "msg": "Invalid user key"}
QUEUED = {
    "success": False,
    "error": "resources_unavailable",
    "msg": "Required resources are currently unavailable, state change queued.",
}


def said(content: object, status: int = 200) -> Answer:
    return Answer(status, {"content-type": "application/json"}, json.dumps(content).encode())


def text(words: str, status: int, kind: str = "text/plain") -> Answer:
    return Answer(status, {"content-type": kind}, words.encode())


@dataclass
class VastCloud:
    """One account with one contract. Times are seconds on whatever clock `now` is taken from."""

    key: str = "vast-key"
    id: int = 883
    now: float = 0.0
    host: str = "192.0.2.45"
    inner: int = 8000
    """The port inside of the container that is mapped."""
    dollars: Decimal = Decimal("0.34")
    """dph_base: the GPU, per hour."""
    disk_dollars: Decimal = Decimal("0.01")
    """storage_total_cost, per hour."""
    ends_at: float | None = None
    boot: list[tuple[float, str | None]] = field(
        default_factory=lambda: [(0.0, None), (2.0, "loading"), (20.0, "running")]
    )
    """Seconds after the host took it up, and what `actual_status` is from then on. Empty: it stays what it was."""
    next_ports: list[int] = field(default_factory=lambda: list(range(33526, 34026)))
    """The public port of each start, in order."""

    # --- What goes wrong
    full: bool = False
    """Somebody else has the GPU: a start is refused, in a 200, and is in the queue all the same."""
    queue_held: bool = True
    """A queued start begins once the host is no longer full. People saw the other too."""
    scheduling: bool = False
    """A start is accepted, and never comes to anything."""
    deaf: bool = False
    """A stop is accepted, and nothing stops."""
    stop_takes: float = 1.0
    limit_every: float = 0.0
    """Seconds that must lie between two calls of one endpoint; a call before is a 429, as text, without Retry-After."""
    failing: int = 0
    """So many calls from now on are a 500."""
    unreachable: bool = False
    lose: int = 0
    """The answers to so many changes from now on are lost, after they were carried out."""
    words: Answer | None = None
    """Answered to everything: HTML, garbage, megabytes."""
    destroyed: bool = False
    vanished_from_list: bool = False
    port_numbers: bool = False
    """`ports` as the OpenAPI of one contract says: a list of numbers."""

    actual: str | None = "exited"
    intended: str = "stopped"
    current: str = "stopped"
    port: int | None = None
    started: int = 0
    """Times that the GPU was given to it."""
    calls: list[tuple[float, str, str]] = field(default_factory=list)
    """(when, method, path with query) of each call with the right key."""
    refused: int = 0
    """Calls without the right key."""
    _booting_since: float | None = None
    _stops_at: float | None = None
    _queued: bool = False
    _last: dict[str, float] = field(default_factory=dict)
    _gpu: Decimal = Decimal(0)
    """Dollars for the GPU up to `now`."""
    _lived: float = 0.0
    """Seconds that it exists, up to `now`: the disk is paid for each of them."""

    # --- The truth

    @property
    def running(self) -> bool:
        """Whether the GPU is ours and costs money."""
        return not self.destroyed and self.current == "running"

    def spent(self, now: float) -> int:
        """Whole micro-dollars that the GPU has truly cost: as if loading were billed, which Vast says it is not."""
        self._pass(now)
        return int(self._gpu * 1_000_000)

    def transport(self, clock: Callable[[], float], *, key: str | None = None, latency: float = 0.05) -> Transport:
        """Straight to it, with no network between: what `HttpTransport(root_of(VAST_API_URL))` would be."""

        async def ask(method: str, path: str, body: bytes | None, within: float) -> Answer:
            if self.unreachable:
                await asyncio.sleep(within)
                raise Unanswered("no connection", may_have_happened=False)
            await asyncio.sleep(latency / 2)
            headers = {"Authorization": f"Bearer {key or self.key}"}
            answer = self.handle(method, f"/api{path}", headers, body, clock())
            if self.lose > 0 and method == "PUT":
                self.lose -= 1
                await asyncio.sleep(within)
                raise Unanswered("no answer", may_have_happened=True)
            await asyncio.sleep(latency / 2)
            return answer

        return ask

    # --- What happens to it

    def exit(self) -> None:
        """Its command ended."""
        self.actual, self._booting_since = "exited", None

    def take_away(self) -> None:
        """A higher bid, or a paying customer: the contract is paused, and would go on when the GPU is free again."""
        self.current, self.actual, self.port, self._booting_since = "stopped", "exited", None, None

    def unplug(self, status: str = "offline") -> None:
        """The host has lost its line to Vast."""
        self.actual, self._booting_since = status, None

    def destroy(self) -> None:
        self.destroyed, self.current, self.port = True, "unloaded", None

    # --- The API

    def handle(self, method: str, path: str, headers: Mapping[str, str], body: bytes | None, now: float) -> Answer:
        self._pass(now)
        if self.words is not None:
            return self.words
        carried = {name.lower(): value for name, value in headers.items()}.get("authorization")
        if carried != f"Bearer {self.key}":
            self.refused += 1
        if carried is None:
            return said({"success": False, "error": "auth_error", "msg": "This action requires login."}, 403)
        if carried != f"Bearer {self.key}":
            return said(NOBODY, 404 if "/charges/" in path else 401)
        self.calls.append((now, method, path))
        if self.failing:
            self.failing -= 1
            return text("<html>oops</html>", 500, "text/html")
        endpoint = f"{method} {urlsplit(path).path}"
        if self.limit_every and now - self._last.get(endpoint, -self.limit_every) < self.limit_every:
            return text(f"API requests too frequent: endpoint threshold={self.limit_every}", 429)
        self._last[endpoint] = now
        return self._route(method, path, body)

    def _route(self, method: str, path: str, body: bytes | None) -> Answer:
        parts = urlsplit(path)
        query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
        match method, parts.path:
            case "GET", "/api/v1/instances/":
                return self._list(query)
            case "GET", "/api/v0/charges/":
                return self._charges(query)
            case (("GET" | "PUT"), where) if where == f"/api/v0/instances/{self.id}/":
                if method == "PUT":
                    return self._put(body)
                return said({"instances": None if self.destroyed else self._row()})
            case _, where if where.startswith("/api/v0/instances/"):
                return said({"success": False, "error": "no_such_instance", "msg": "Instance not found"}, 404)
            case _:
                return text("404: Not Found", 404)

    def _put(self, body: bytes | None) -> Answer:
        try:
            state = json.loads(body or b"")["state"]
        except (ValueError, KeyError, TypeError):
            return said({"success": False, "error": "invalid_args", "msg": "error 400: Invalid args"}, 400)
        if self.destroyed:
            return said({"success": False, "error": "no_such_instance", "msg": "Instance not found"}, 404)
        if state == "running":
            return self._start()
        if state == "stopped":
            self._queued = False
            if not self.deaf:
                self.intended = "stopped"
                if self.current == "running":
                    self._stops_at = self._stops_at or self.now + self.stop_takes
            return said({"success": True})
        return said({"success": False, "error": "invalid_args", "msg": "Invalid state"}, 400)

    def _start(self) -> Answer:
        if self.ends_at is not None and self.now >= self.ends_at:
            return said({"success": False, "error": "expired", "msg": "Contract has ended."}, 400)
        self.intended = "running"
        if self.current == "running":
            self._stops_at = None
            return said({"success": True})
        if self.full:
            self._queued = self.queue_held
            if not self.queue_held:
                self.intended = "stopped"
            return said(QUEUED)
        if self.scheduling:
            self.actual = None
        else:
            self._begin()
        return said({"success": True})

    def _begin(self) -> None:
        self.current, self._booting_since, self._queued = "running", self.now, False
        self.started += 1
        self.port = None

    def _list(self, query: Mapping[str, str]) -> Answer:
        wanted = json.loads(query.get("select_filters", "{}")).get("id", {})
        ids = wanted.get("in", [wanted["eq"]] if "eq" in wanted else [self.id])
        hidden = self.destroyed or self.vanished_from_list or self.id not in ids
        rows = [] if hidden else [self._row()]
        total = {"success": True, "instances_found": len(rows), "total_instances": len(rows), "label_counts": {}}
        return said({**total, "instances": rows, "next_token": None})

    def _charges(self, query: Mapping[str, str]) -> Answer:
        day = json.loads(query.get("select_filters", "{}")).get("day", {})
        if "gte" not in day or "lte" not in day:
            words = "Must provide both 'day' gte and lte filters for instance charges"
            return said({"success": False, "msg": words}, 400)
        disk = self.disk_dollars * Decimal(str(self._lived)) / HOUR
        kinds = (("gpu", self._gpu), ("disk", disk), ("bwd", Decimal(0)))
        items = [{"type": kind, "amount": float(round(sum_, 3)), "items": [], "metadata": {}} for kind, sum_ in kinds]
        row = {
            "start": int(day["gte"]),
            "end": int(min(self.now, day["lte"])),
            "type": "instance",
            "source": f"instance-{self.id}",
            "description": f"Instance {self.id} Charges - 1 day",
            "amount": float(round(self._gpu + disk, 3)),
            "items": items,
        }
        return said({"success": True, "count": 1, "total": 1, "next_token": None, "results": [row]})

    def _row(self) -> dict[str, Any]:
        """One contract as it is told: with much that nobody asked for."""
        mapped = self.port is not None and self.actual == "running"
        ports: Any = {"22/tcp": [{"HostIp": "0.0.0.0", "HostPort": "20000"}]} if mapped else None
        if mapped:
            ports[f"{self.inner}/tcp"] = [
                {"HostIp": "0.0.0.0", "HostPort": str(self.port)},
                {"HostIp": "::", "HostPort": str(self.port)},
            ]
        if self.port_numbers:
            ports = [self.inner, 22]
        return {
            "id": self.id,
            "actual_status": self.actual,
            "intended_status": self.intended,
            "cur_state": self.current,
            "next_state": self.intended,
            "label": None,
            "image_uuid": "vllm/vllm-openai:latest",
            "extra_env": [["VLLM_API_KEY", "never to be shown"]],
            "jupyter_token": "never to be shown",
            "status_msg": None if self.actual is None else f"success, {self.actual}\n",
            "public_ipaddr": f"{self.host}\n" if self.current == "running" else "",
            "local_ipaddrs": "10.2.202.31 172.17.0.1 \n",
            "ssh_host": "ssh2281.vast.ai",
            "ssh_port": 10882,
            "start_date": 1761008618.225083,
            "end_date": self.ends_at,
            "uptime_mins": None,
            "gpu_name": "RTX A5000",
            "num_gpus": 1,
            "gpu_frac": 0.125,
            "disk_space": 40.0,
            "ports": ports,
            "is_bid": False,
            "dph_base": float(self.dollars),
            "dph_total": float(self.dollars + self.disk_dollars),
            "storage_total_cost": float(self.disk_dollars),
        }

    # --- Time

    def _pass(self, now: float) -> None:
        """What has become of it by `now`. A clock that goes back changes nothing."""
        if now <= self.now:
            return
        if self.ends_at is not None and self.current == "running" and now >= self.ends_at >= self.now:
            self._live_until(self.ends_at)
            self.intended = self.current = "stopped"
            self.actual, self.port, self._booting_since, self._stops_at = "exited", None, None, None
        if self._stops_at is not None and now >= self._stops_at:
            self._live_until(max(self._stops_at, self.now))
            self.current, self.actual, self.port = "stopped", "exited", None
            self._stops_at = self._booting_since = None
        self._live_until(now)
        if self._queued and not self.full and self.intended == "running":
            self._begin()
        if self._booting_since is not None:
            for after, status in self.boot:
                if now >= self._booting_since + after:
                    self.actual = status
            if self.actual == "running" and self.port is None:
                self.port = self.next_ports.pop(0)

    def _live_until(self, then: float) -> None:
        if self.current == "running" and not self.destroyed:
            self._gpu += self.dollars * Decimal(str(then - self.now)) / HOUR
        if not self.destroyed:
            self._lived += then - self.now
        self.now = then


class Served:
    """It behind a real port of 127.0.0.1: `async with Served(cloud, clock) as url`."""

    def __init__(self, cloud: VastCloud, clock: Any) -> None:
        self.cloud = cloud
        self._clock = clock
        self._runner: web.AppRunner | None = None

    async def __aenter__(self) -> str:
        app = web.Application()
        app.router.add_route("*", "/{anything:.*}", self._answer)
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        host, port = self._runner.addresses[0][:2]
        return f"http://{host}:{port}/api/v0"

    async def __aexit__(self, *_: object) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    async def _answer(self, request: web.Request) -> web.Response:
        body = await request.read()
        reply = self.cloud.handle(request.method, request.path_qs, request.headers, body, self._clock())
        return web.Response(status=reply.status, headers=dict(reply.headers), body=reply.body)
