"""RunPod's API v2 as far as a gateway meets it: an account with its pods, its catalogue, its bills, and its bad days.

A pure core: `handle(method, path, headers, body, now)` answers, and between two answers every pod has become what it is
by `now` (Unix seconds). `Served` puts it behind a real port, `straight` is a Transport right into it. The shapes are
those of the published schema (openapi 2.0.0 of August 2026; runpod_schema.py holds what is checked of it), the order of
states and the words of errors those of RunPod's docs of that time. Nobody ran this against an account.

    cloud = RunPodCloud(now=0)
    cloud.put_pod("abc123", gpu="NVIDIA L4")       # one that exists and sleeps, as RUNPOD_POD_ID names it
    cloud.full.add("NVIDIA L4")
"""

import json
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from urllib.parse import parse_qs, urlsplit

from aiohttp import web

from gateway.providers.renting.vendor import Answer, Unanswered

HOUR, DAY, MONTH = 3600, 86_400, 30 * 86_400
JSON, PROBLEM = {"content-type": "application/json"}, {"content-type": "application/problem+json"}
NO_MACHINE = (
    "There are no longer any instances available with the requested specifications. Please refresh and try again."
)
NO_GPU = "There are not enough free GPUs on the host machine to start this pod."
ACTIONS = {
    "RUNNING": ["stop", "restart", "terminate"],
    "EXITED": ["start", "terminate"],
    "ERROR": ["start", "terminate"],
    "PROVISIONING": ["stop", "terminate"],
    "STARTING": ["stop", "terminate"],
    "TERMINATED": [],
}
RUNS = ("PROVISIONING", "STARTING", "RUNNING")
TITLES = {400: "Bad Request", 401: "Unauthorized", 402: "Payment Required", 403: "Forbidden", 404: "Not Found",
          409: "Conflict", 422: "Unprocessable Entity", 429: "Too Many Requests",
          500: "Internal Server Error"}  # fmt: skip
FIELDS = {"name", "image", "args", "disk", "env", "ports", "registry", "cloud", "cpu", "dataCenterIds",
          "globalNetworking", "gpu", "mounts", "startJupyter", "startSsh", "templateId"}  # fmt: skip


def said(content: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Answer:
    return Answer(status, {**JSON, **(headers or {})}, json.dumps(content).encode())


def problem(status: int, detail: str, errors: list[str] | None = None, **headers: str) -> Answer:
    content: dict[str, Any] = {"title": TITLES[status], "status": status, "detail": detail}
    if errors is not None:
        content["errors"] = errors
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Answer(status, {**PROBLEM, **named}, json.dumps(content).encode())


def stamp(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")


@dataclass
class Gpu:
    id: str
    secure: Decimal
    community: Decimal
    memory: int = 24
    places: tuple[str, ...] = ("EU-RO-1", "US-KS-2")


@dataclass
class Span:
    """A time for which a pod was paid."""

    begins: float
    ends: float | None
    dollars: Decimal
    """Per hour."""

    def within(self, begins: float, ends: float) -> Decimal:
        """What it cost between two moments."""
        last = ends if self.ends is None else min(self.ends, ends)
        return self.dollars * Decimal(max(0.0, last - max(self.begins, begins))) / HOUR


@dataclass
class Emulated:
    """A pod as it truly is."""

    id: str
    name: str
    gpu: str
    count: int
    cloud: str
    place: str
    env: dict[str, str]
    ports: list[str]
    image: str
    created: float
    dollars: Decimal
    persistent: int = 0
    volume: str = ""
    locked: bool = False
    status: str = "EXITED"
    woken: float = 0.0
    """When it was started last."""
    up_at: float | None = None
    """When its container began, in this run."""
    gpus: int = 0
    """That it truly has."""
    public: dict[int, int] = field(default_factory=dict)
    """Private ports, and what each is mapped to in this run."""
    ip: str = "194.26.196.7"
    spans: list[Span] = field(default_factory=list)
    stops_at: float | None = None
    gone_at: float | None = None

    @property
    def costs(self) -> bool:
        return bool(self.spans) and self.spans[-1].ends is None


@dataclass
class RunPodCloud:
    """One account. Times are seconds on whatever clock `now` is taken from."""

    now: float = 0.0
    key: str = "rp-key"
    gpus: list[Gpu] = field(
        default_factory=lambda: [
            Gpu("NVIDIA L4", Decimal("0.39"), Decimal("0.29")),
            Gpu("NVIDIA A40", Decimal("0.44"), Decimal("0.35"), 48),
            Gpu("NVIDIA GeForce RTX 4090", Decimal("0.69"), Decimal("0.34")),
        ]
    )
    pods: dict[str, Emulated] = field(default_factory=dict)
    proxy_url: str = "https://{pod_id}-{port}.proxy.runpod.net"
    next_ports: Callable[[], int] | None = None
    """Gives a public port to each mapped one at each start. None: counted up."""
    on_change: Callable[[Emulated], None] = lambda pod: None
    """Heard when a container begins, and when a pod runs no more."""

    # --- How fast
    provisioning: float = 3.0
    starting: float = 10.0
    bare: float = 2.0
    """RUNNING, and `runtime` still null."""
    proxy_after: float = 5.0
    """Until RunPod's proxy finds a container that began; 502 before."""
    loads: float = 20.0
    """Until the engine in the container serves."""
    stop_takes: float = 1.0

    # --- What goes wrong
    full: set[str] = field(default_factory=set)
    """GPUs, or "GPU in place", or ids of pods whose host has none left."""
    zero_gpus: bool = False
    """A pod that is resumed comes back without any."""
    never_up: bool = False
    """RUNNING with `runtime: null` for ever, and billed."""
    dies: bool = False
    """The next ones end in ERROR when their container starts."""
    broke: bool = False
    """No money: 402."""
    deaf: bool = False
    """A stop is answered well, and nothing stops."""
    lag: float = 0.0
    """What was created is in no list, and not to be found by its id, for so long."""
    blind: bool = False
    """Lists are empty."""
    stale: float = 0.0
    """A status that changed is told so much later."""
    hides: set[str] = field(default_factory=set)
    """Ids that are not found by themselves, though the list has them."""
    lies: dict[str, str] = field(default_factory=dict)
    """By id: the status that is told, whatever is true."""
    limit: int | None = None
    """Calls in each minute; 429 with Retry-After for more."""
    failing: int = 0
    """So many calls from now on are a 500."""
    words: Answer | None = None
    """Answered to everything: HTML, garbage, megabytes."""
    refuses_key: bool = False
    bill_lag: float = 0.0
    old_ports: bool = False
    """Asleep, it still shows the runtime of its last run."""

    calls: list[tuple[float, str, str]] = field(default_factory=list)
    """(when, method, path) of each call with the right key."""
    creates: list[dict[str, Any]] = field(default_factory=list)
    """The bodies of those that created something."""
    keys_sent: list[tuple[float, str, str]] = field(default_factory=list)
    """(when, URL, key) of each look at an upstream."""
    _minute: tuple[int, int] = (0, 0)
    _made: int = 0
    _port: int = 10_000
    _told: dict[str, list[tuple[float, str]]] = field(default_factory=dict)
    """By id: since when it has had which status."""

    # --- What is there

    def put_pod(self, pod: str = "abc123", *, gpu: str = "NVIDIA L4", count: int = 1, **more: Any) -> Emulated:
        """One that somebody made by hand, asleep."""
        ports = more.pop("ports", ["8000/http", "8000/tcp"])
        made = Emulated(
            pod, more.pop("name", "my pod"), gpu, count, more.pop("cloud", "SECURE"), "EU-RO-1",
            more.pop("env", {}), ports, "vllm/vllm-openai", self.now, self.price(gpu, count, "SECURE"), **more,
        )  # fmt: skip
        self.pods[pod] = made
        self._is(made, made.status)
        return made

    def price(self, gpu: str, count: int, cloud: str) -> Decimal:
        kind = next((one for one in self.gpus if one.id == gpu), None)
        return Decimal(0) if kind is None else (kind.secure if cloud == "SECURE" else kind.community) * count

    # --- The truth

    def running(self) -> list[str]:
        """The ids of everything that costs money for its running now."""
        return [pod.id for pod in self.pods.values() if pod.costs]

    def spent(self, now: float) -> int:
        """Whole micro-dollars that running has truly cost."""
        self.advance(now)
        return int(
            sum((span.within(0, now) for pod in self.pods.values() for span in pod.spans), Decimal(0)) * 1_000_000
        )

    def price_becomes(self, factor: Decimal) -> None:
        """For everything, from now on."""
        for gpu in self.gpus:
            gpu.secure, gpu.community = gpu.secure * factor, gpu.community * factor
        for pod in self.pods.values():
            pod.dollars *= factor
            if pod.costs:
                self._pay_no_more(pod, self.now)
                pod.spans.append(Span(self.now, None, pod.dollars))

    # --- What happens to a pod

    def take_away(self, pod: str, status: str = "EXITED") -> None:
        """The host fails, or the money is gone: stopped (or terminated) by RunPod itself."""
        self._ends(self.pods[pod], status, self.now)

    def restart(self, pod: str) -> None:
        """The container ended and was begun again: another port, and the engine loads anew."""
        one = self.pods[pod]
        one.up_at, one.public = self.now, self._mapped(one)

    def start_by_hand(self, pod: str) -> None:
        self._begin(self.pods[pod])

    # --- Time

    def advance(self, now: float) -> None:
        self.now = max(self.now, now)
        for pod in list(self.pods.values()):
            self._advance(pod)

    def _advance(self, pod: Emulated) -> None:
        now = self.now
        if pod.status == "PROVISIONING" and now >= pod.woken + self.provisioning:
            self._is(pod, "STARTING", pod.woken + self.provisioning)
        if pod.status == "STARTING" and now >= (at := pod.woken + self.provisioning + self.starting):
            if self.dies:
                self._ends(pod, "ERROR", at)
            else:
                self._is(pod, "RUNNING", at)
        if pod.status == "RUNNING" and pod.up_at is None and not self.never_up:
            at = pod.woken + self.provisioning + self.starting + self.bare
            if now >= at:
                pod.up_at, pod.public = at, self._mapped(pod)
                self.on_change(pod)
        if pod.stops_at is not None and now >= pod.stops_at:
            self._ends(pod, "TERMINATED" if pod.gone_at is not None else "EXITED", pod.stops_at)

    def _is(self, pod: Emulated, status: str, at: float | None = None) -> None:
        pod.status = status
        self._told.setdefault(pod.id, []).append((self.now if at is None else at, status))

    def _begin(self, pod: Emulated, *, created: bool = False) -> None:
        pod.woken, pod.up_at, pod.stops_at = self.now, None, None
        if not self.old_ports:
            pod.public = {}
        pod.gpus = 0 if self.zero_gpus and not created else pod.count
        pod.spans.append(Span(self.now, None, pod.dollars))
        self._is(pod, "PROVISIONING")

    def _ends(self, pod: Emulated, status: str, at: float) -> None:
        self._pay_no_more(pod, at)
        pod.stops_at = None
        if not self.old_ports:
            pod.up_at = None
        self._is(pod, status, at)
        self.on_change(pod)

    def _pay_no_more(self, pod: Emulated, at: float) -> None:
        if pod.costs:
            pod.spans[-1].ends = at

    def _mapped(self, pod: Emulated) -> dict[int, int]:
        public = {}
        for text in pod.ports:
            private = int(text.partition("/")[0])
            self._port += 1
            public[private] = self.next_ports() if self.next_ports is not None else self._port
        return public

    # --- The API

    def handle(self, method: str, path: str, headers: Mapping[str, str], body: bytes | None, now: float) -> Answer:
        self.advance(now)
        if self.words is not None:
            return self.words
        carried = {name.lower(): value for name, value in headers.items()}.get("authorization")
        if carried != f"Bearer {self.key}" or self.refuses_key:
            return problem(401, "missing bearer token" if carried is None else "invalid api key")
        self.calls.append((now, method, path))
        minute, used = self._minute
        used = used + 1 if minute == now // 60 else 1
        self._minute = int(now // 60), used
        rest = int(60 - now % 60) or 1
        if self.limit is not None and used > self.limit:
            quota = f'"minute";r=0;t={rest}, "hour";r=2800;t=1812'
            return problem(429, "rate limit exceeded for the minute window", retry_after=str(rest), ratelimit=quota)
        if self.failing:
            self.failing -= 1
            return problem(500, "internal server error")
        answer = self._route(method, path, body)
        left = 60 if self.limit is None else self.limit - used
        quota = f'"minute";r={left};t={rest}, "hour";r=2800;t=1812, "day";r=49500;t=45012'
        return Answer(answer.status, {**answer.headers, "ratelimit": quota}, answer.body)

    def _route(self, method: str, path: str, body: bytes | None) -> Answer:
        parts = urlsplit(path.removeprefix("/v2"))
        query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
        match method, parts.path.strip("/").split("/"):
            case "GET", ["pods"]:
                shown = [] if self.blind else [pod for pod in self.pods.values() if self._is_shown(pod)]
                return said({"pods": [self._pod(pod) for pod in shown if self._status(pod) != "TERMINATED"]})
            case "POST", ["pods"]:
                return self._create(body)
            case "GET", ["catalog", "gpus"]:
                return said({"gpus": [self._gpu(gpu, query) for gpu in self.gpus]})
            case "GET", ["catalog", "cpus"]:
                return said({"cpus": [CPU]})
            case "GET", ["billing", "pods"]:
                return self._bills(query)
            case (("GET" | "DELETE") as what, ["pods", pod]):
                return self._one(what, pod)
            case "POST", ["pods", pod, "action"]:
                return self._act(pod, body)
        return problem(404, "resource not found")

    def _is_shown(self, pod: Emulated) -> bool:
        return self.now - pod.created >= self.lag

    def _found(self, pod: str) -> Emulated | None:
        one = self.pods.get(pod)
        if one is None or pod in self.hides or not self._is_shown(one):
            return None
        return None if one.gone_at is not None and self._status(one) == "TERMINATED" else one

    def _one(self, what: str, pod: str) -> Answer:
        one = self._found(pod)
        if one is None:
            return problem(404, "pod not found")
        return said(self._pod(one)) if what == "GET" else self._terminate(one)

    def _terminate(self, pod: Emulated) -> Answer:
        if pod.locked:
            return problem(400, "pod is locked")
        if not self.deaf:
            pod.gone_at = self.now
            pod.stops_at = self.now + self.stop_takes
        return Answer(204)

    def _act(self, pod: str, body: bytes | None) -> Answer:
        one = self._found(pod)
        try:
            action = json.loads(body or b"")["action"]
        except (ValueError, KeyError, TypeError):
            return problem(422, "Request validation failed.", ["$: missing property 'action'"])
        if action not in ("start", "stop", "restart", "terminate"):
            return problem(422, "Request validation failed.", ["$.action: not one of the enumeration"])
        if one is None:
            return problem(404, "pod not found")
        if action == "terminate":
            return self._terminate(one)
        if one.locked and action == "stop":
            return problem(400, "pod is locked")
        if action not in ACTIONS[one.status]:
            return problem(409, f"action {action} is not valid for a pod that is {one.status}")
        if action == "start":
            if self.broke:
                return problem(402, "insufficient balance")
            if pod in self.full or one.gpu in self.full:
                return problem(400, NO_GPU)
            self._begin(one)
        elif action == "restart":
            self.restart(pod)
        elif not self.deaf:
            one.stops_at = self.now + self.stop_takes
        return said(self._pod(one))

    def _create(self, body: bytes | None) -> Answer:
        try:
            wish = json.loads(body or b"")
        except ValueError:
            return problem(400, "request could not be processed")
        wrong = [f"$: additional properties '{name}' not allowed" for name in wish if name not in FIELDS]
        wrong += [] if wish.get("name") else ["$: missing property 'name'"]
        wrong += [] if "image" in wish or "templateId" in wish else ["$: missing property 'image'"]
        gpu = wish.get("gpu") or {}
        if gpu and not isinstance(gpu.get("id"), str):
            wrong.append("$.gpu.id: got array, want string")
        if not all(isinstance(value, str) for value in wish.get("env", {}).values()):
            wrong.append("$.env: want string")
        if wrong:
            return problem(422, "Request validation failed.", wrong)
        if bool(gpu) == bool(wish.get("cpu")):
            return problem(400, "exactly one of gpu or cpu must be set")
        if self.broke:
            return problem(402, "insufficient balance")
        name, cloud = gpu.get("id", ""), wish.get("cloud", "SECURE")
        places = wish.get("dataCenterIds") or ["EU-RO-1"]
        free = [place for place in places if not {name, f"{name} in {place}"} & self.full]
        if gpu and (all(one.id != name for one in self.gpus) or not free):
            return problem(400, NO_MACHINE)
        self._made += 1
        mounts = wish.get("mounts", {})
        count = gpu.get("count", 1)
        cpu = wish.get("cpu") or {}
        dollars = self.price(name, count, cloud) if gpu else Decimal("0.04") * cpu.get("vcpuCount", 2)
        pod = Emulated(
            f"pod{self._made:04d}x", wish["name"], name, count, cloud, free[0] if free else places[0],
            dict(wish.get("env", {})), list(wish.get("ports", [])), wish.get("image", ""), self.now, dollars,
            persistent=mounts.get("persistent", {}).get("size", 0),
            volume=next((one["volumeId"] for one in mounts.get("network", [])), ""),
        )  # fmt: skip
        self.creates.append(wish)
        self.pods[pod.id] = pod
        self._begin(pod, created=True)
        return said(self._pod(pod), 201)

    # --- How things are told

    def _status(self, pod: Emulated) -> str:
        if pod.id in self.lies:
            return self.lies[pod.id]
        known = [status for at, status in self._told[pod.id] if at <= self.now - self.stale]
        return known[-1] if known else self._told[pod.id][0][1]

    def _pod(self, pod: Emulated) -> dict[str, Any]:
        status = self._status(pod)
        mounts: dict[str, Any] = {}
        if pod.persistent:
            mounts["persistent"] = {"size": pod.persistent, "path": "/workspace"}
        if pod.volume:
            mounts["network"] = [{"volumeId": pod.volume, "path": "/runpod-volume"}]
        told: dict[str, Any] = {
            "id": pod.id, "name": pod.name, "status": status, "actions": ACTIONS.get(status, []), "image": pod.image,
            "args": "", "disk": 50, "mounts": mounts, "ports": pod.ports, "env": pod.env, "registry": None,
            "cloud": pod.cloud, "dataCenterId": pod.place, "cudaVersion": "12.8",
            "ssh": {"proxy": None, "direct": None}, "template": None,
            "cost": float(pod.dollars) if status in RUNS else 0.0, "locked": pod.locked,
            "runtime": self._runtime(pod, status), "createdAt": stamp(pod.created),
            "startedAt": stamp(pod.woken) if pod.woken else None, "globalNetworking": {"enabled": False},
        }  # fmt: skip
        if pod.gpu:
            told["gpu"] = {"id": pod.gpu, "count": pod.count}
        else:
            told["cpu"] = {"id": "cpu5c", "vcpuCount": 2, "memory": 4}
        return told

    def _runtime(self, pod: Emulated, status: str) -> dict[str, Any] | None:
        if pod.up_at is None or (status != "RUNNING" and not self.old_ports):
            return None
        kinds = {int(port): kind for port, _, kind in (text.partition("/") for text in pod.ports)}
        return {
            "uptime": int(self.now - pod.up_at),
            "gpus": [{"util": 0, "memoryUtil": 0}] * pod.gpus,
            "cpu": {"util": 1},
            "memory": {"util": 1},
            "ports": [
                {"private": private, "public": public, "type": kinds[private], "ip": pod.ip}
                for private, public in pod.public.items()
            ],
        }

    def _gpu(self, gpu: Gpu, query: Mapping[str, str]) -> dict[str, Any]:
        told: dict[str, Any] = {
            "id": gpu.id, "name": gpu.id.removeprefix("NVIDIA "), "pool": None, "manufacturer": "NVIDIA",
            "memory": gpu.memory, "secure": True, "community": True,
            "price": {"secure": float(gpu.secure), "community": float(gpu.community)},
            "maxCount": {"secure": 8, "community": 4},
        }  # fmt: skip
        if query.get("include") == "AVAILABILITY":
            free = [place for place in gpu.places if not {gpu.id, f"{gpu.id} in {place}"} & self.full]
            told["availability"] = "HIGH" if free else "NONE"
            if free:
                told["dataCenters"] = [{"id": place, "name": place, "availability": "HIGH"} for place in free]
        return told

    def _bills(self, query: Mapping[str, str]) -> Answer:
        size = {"hour": HOUR, "day": DAY}[query.get("bucketSize", "day")]
        begins, ends = (datetime.fromisoformat(query[name]).timestamp() for name in ("startTime", "endTime"))
        begins, ends = begins // size * size, -(-ends // size) * size
        known = self.now - self.bill_lag
        records = []
        for pod in self.pods.values():
            if query.get("podId", pod.id) != pod.id:
                continue
            at = begins
            while at < ends:
                until = min(at + size, known)
                gpu = sum((span.within(at, until) for span in pod.spans), Decimal(0)) if until > at else Decimal(0)
                disk = self._disk(pod, at, until)
                if gpu or disk:
                    records.append(
                        {
                            "startTime": stamp(at), "endTime": stamp(at + size), "podId": pod.id,
                            "totalAmount": float(gpu + disk), "gpuAmount": float(gpu), "cpuAmount": 0,
                            "diskAmount": float(disk),
                        }
                    )  # fmt: skip
                at += size
        totals = {name: sum(record[name] for record in records) for name in
                  ("totalAmount", "gpuAmount", "cpuAmount", "diskAmount")}  # fmt: skip
        asked: dict[str, Any] = {"startTime": stamp(begins), "endTime": stamp(ends)}
        asked |= {"bucketSize": query.get("bucketSize", "day"), "podId": query.get("podId")}
        metadata = {"query": asked, "recordCount": len(records), "totals": totals,
                    "uniquePodCount": len({record["podId"] for record in records})}  # fmt: skip
        return said({"records": records, "metadata": metadata})

    def _disk(self, pod: Emulated, begins: float, ends: float) -> Decimal:
        """$0.20 a GB and month, as of a pod that always sleeps."""
        lived = min(ends, self.now) - max(begins, pod.created)
        return Decimal("0.20") * pod.persistent * Decimal(max(0.0, lived)) / MONTH

    # --- What runs in the pods

    def upstream(self, url: str, path: str, key: str | None, now: float) -> Answer | None:
        """What answers at an address: RunPod's proxy, or the container itself. None: nobody does."""
        self.advance(now)
        self.keys_sent.append((now, url, key or ""))
        pod = self.pod_at(url)
        if pod is None:
            return Answer(404, {"content-type": "text/html"}, b"<html>not found</html>") if "proxy" in url else None
        if pod.up_at is None or pod.status != "RUNNING":
            return Answer(404, {"content-type": "text/html"}, b"<html>not found</html>") if "proxy" in url else None
        up = now - pod.up_at
        if up < self.proxy_after:
            return Answer(502, {"content-type": "text/html"}, b"<html>bad gateway</html>") if "proxy" in url else None
        loaded = up >= self.loads
        if path == "/health":
            state = "ready" if loaded else "starting"
            share = round(up / self.loads, 3) if self.loads else 1
            progress = None if loaded else {"phase": "loading", "ratio": min(1.0, share), "detail": ""}
            return said({"status": "ok", "state": state, "progress": progress})
        if path == "/v1/models":
            return said({"data": [{"id": "m"}]}) if loaded else said({"error": {"code": "loading"}}, 503)
        return said({"error": {}}, 404)

    def pod_at(self, url: str) -> Emulated | None:
        """Whose address it is now."""
        for pod in self.pods.values():
            for private, public in pod.public.items():
                if url in (f"http://{pod.ip}:{public}", f"https://{pod.ip}:{public}"):
                    return pod
                if url == self.proxy_url.replace("{pod_id}", pod.id).replace("{port}", str(private)):
                    return pod
        match = re.match(r"https?://([a-z0-9]+)-\d+\.proxy", url)
        return self.pods.get(match[1]) if match else None


CPU = {"id": "cpu5c", "name": "Compute-Optimized", "group": "Gen 5", "vcpu": {"min": 2, "max": 32}, "ramGbPerVcpu": 2,
       "price": {"securePerVcpu": 0.04, "serverlessPerVcpu": 0.03}}  # fmt: skip


def straight(
    cloud: RunPodCloud,
    now: Callable[[], float],
    *,
    key: str | None = None,
    lose: Callable[[str, str], str] = lambda method, path: "",
    checked: Callable[[str, str, Answer], None] = lambda method, path, answer: None,
) -> Callable[[str, str, bytes | None, float], Awaitable[Answer]]:
    """A Transport right into it. `lose` says of each call "before" (it never arrived, and one knows it), "gone" (it
    never arrived, and one does not know), "after" (its answer was lost) or nothing."""

    async def ask(method: str, path: str, body: bytes | None, within: float) -> Answer:
        lost = lose(method, path)
        if lost in ("before", "gone"):
            raise Unanswered("no connection", may_have_happened=lost == "gone")
        answer = cloud.handle(method, path, {"authorization": f"Bearer {key or cloud.key}"}, body, now())
        checked(method, path, answer)
        if lost == "after":
            raise Unanswered("no answer", may_have_happened=True)
        return answer

    return ask


class Served:
    """It behind a real port of 127.0.0.1. `async with Served(cloud, time.time) as served:`, then `served.url`."""

    def __init__(self, cloud: RunPodCloud, now: Callable[[], float]) -> None:
        self.cloud = cloud
        self.url = ""
        self._now = now
        app = web.Application(client_max_size=1 << 20)
        app.router.add_route("*", "/{rest:.*}", self._answer)
        self._runner = web.AppRunner(app, access_log=None)

    async def _answer(self, request: web.Request) -> web.Response:
        body = await request.read()
        answer = self.cloud.handle(request.method, request.path_qs, request.headers, body or None, self._now())
        return web.Response(status=answer.status, headers=dict(answer.headers), body=answer.body or None)

    async def __aenter__(self) -> "Served":
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        host, port = self._runner.addresses[0][:2]
        self.url = f"http://{host}:{port}/v2"
        return self

    async def __aexit__(self, *trouble: object) -> None:
        await self._runner.cleanup()
