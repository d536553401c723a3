"""RunPod's API, version 2: its calls, its answers as values, and which of its errors is which.

Source: the published schema (openapi 2.0.0, read August 2026) and RunPod's docs of that time; version 1 was retired on
15 November 2026. Nothing here was tried against a live account. What the schema leaves open is said where it matters.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Literal
from urllib.parse import quote, urlencode

from gateway.providers.renting.vendor import Answer, Line, Urgency, VendorError, judge_by_status

Action = Literal["start", "stop", "restart", "terminate"]
Bucket = Literal["hour", "day"]

ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
"""What may be an id: it becomes part of a path, and of a host's name."""
CAPACITY = re.compile(
    r"no longer any (instances|machines)|not enough free (gpu|resource)|no (instances|machines|capacity|gpus?)\b.*avail"
    r"|could not be placed|out of (stock|capacity)|insufficient capacity|no resources",
    re.IGNORECASE,
)
"""Capacity has no code of its own, only words: 400 means this, or a broken rule (schema, createPod)."""
BALANCE = re.compile(
    r"insufficient (balance|funds|credit)|balance is too low|not enough (balance|credit)", re.IGNORECASE
)
LOCKED = re.compile(r"\block(ed)?\b", re.IGNORECASE)
STARTS = ("start", "create")


@dataclass(frozen=True, slots=True)
class Port:
    private: int
    public: int | None
    kind: str
    ip: str


@dataclass(frozen=True, slots=True)
class Runtime:
    """What a running container says of itself. The schema requires none of it."""

    uptime: float | None = None
    gpus: int | None = None
    """How many it sees. None: it does not say (RunPod's own examples don't); 0: it came back without any."""
    ports: tuple[Port, ...] = ()

    @property
    def says_something(self) -> bool:
        return self.uptime is not None or bool(self.ports) or bool(self.gpus)


@dataclass(frozen=True, slots=True)
class Pod:
    """As RunPod has it."""

    id: str
    name: str
    status: str
    actions: tuple[str, ...] = ()
    cost: Decimal = Decimal(0)
    """Dollars per hour now; 0 while it sleeps."""
    gpu: str = ""
    cpu: str = ""
    count: int = 1
    """Of GPUs, or of vCPUs."""
    cloud: str = "SECURE"
    locked: bool = False
    runtime: Runtime | None = None
    persistent: int = 0
    """GB on the host, which bill while it sleeps."""
    network: bool = False
    started_at: float | None = None


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of GPU, or of CPU, in the catalogue."""

    id: str
    secure: Decimal | None
    """Dollars per hour, for one GPU or one vCPU."""
    community: Decimal | None = None
    stock: str = ""
    """NONE, LOW, MEDIUM, HIGH; empty where it was not said."""
    places: tuple[str, ...] = ()
    """Data centres that have some now."""


@dataclass(frozen=True, slots=True)
class Record:
    """One bucket of one pod's bill. Dollars."""

    pod: str
    begins: float
    ends: float
    total: Decimal
    disk: Decimal


def judge(op: str, answer: Answer) -> VendorError | None:
    """What an answer means, by its status and its words."""
    if 200 <= answer.status < 300:
        return judge_by_status(op, answer)
    status, detail = answer.status, f"{answer.status} {words(answer)}"
    if status in (400, 402) and BALANCE.search(detail):
        return VendorError("balance", detail)
    if status in (400, 403, 409, 422, 423) and LOCKED.search(detail):
        return VendorError("locked", detail)
    if status != 429 and op in STARTS and CAPACITY.search(detail):
        return VendorError("capacity", detail)
    if status == 400 and op == "start":  # its body has one word, which is right: what is left is its host
        return VendorError("capacity", detail)
    if status == 403 and op == "create":  # this pool is not for this account; the next candidate may be
        return VendorError("unprocessable", detail)
    plain = judge_by_status(op, answer) or VendorError("failing")
    return VendorError(plain.kind, detail, retry_after=plain.retry_after, may_have_happened=plain.may_have_happened)


def words(answer: Answer) -> str:
    """The text of an error (RFC 9457), short."""
    content = answer.content()
    if not isinstance(content, dict):
        return answer.body[:200].decode("utf-8", "replace")
    errors = content.get("errors")
    said = [content.get("title"), content.get("detail"), *(errors if isinstance(errors, list) else [])]
    return " · ".join(text for text in said if isinstance(text, str))[:400]


def quota_is_spent(answer: Answer) -> float:
    """Seconds until there is quota again, by the RateLimit header of any answer: `"minute";r=0;t=12, "hour";…`."""
    waits = [0.0]
    for member in answer.headers.get("ratelimit", "")[:400].split(","):
        figures = dict(re.findall(r";\s*([rt])=(\d{1,6})(?!\d)", member))
        if figures.get("r") == "0" and "t" in figures:
            waits.append(float(figures["t"]))
    return max(waits)


class RunPodApi:
    """One call each. All raise VendorError."""

    def __init__(self, line: Line) -> None:
        self.line = line

    async def pod(self, pod: str, urgency: Urgency) -> Pod | None:
        """None: RunPod says that there is none."""
        try:
            content = await self._ask("GET", f"/pods/{quoted(pod)}", urgency, "look")
        except VendorError as error:
            if error.kind == "not_found":
                return None
            raise
        return self._read(content)

    async def pods(self, urgency: Urgency) -> list[Pod]:
        content = await self._ask("GET", "/pods", urgency, "list")
        return [self._read(one) for one in self._rows(content, "pods")]

    async def act(self, pod: str, action: Action, urgency: Urgency) -> Pod | None:
        """The pod as it is then; None where RunPod has nothing to say of it any more."""
        content = await self._ask("POST", f"/pods/{quoted(pod)}/action", urgency, action, {"action": action})
        return self._read(content) if content is not None else None

    async def create(self, body: Mapping[str, Any]) -> Pod:
        return self._read(await self._ask("POST", "/pods", Urgency.START, "create", body))

    async def delete(self, pod: str) -> None:
        await self._ask("DELETE", f"/pods/{quoted(pod)}", Urgency.STOP, "terminate")

    async def gpus(self, count: int, cloud: str) -> list[Kind]:
        """With what is free of each for pods of `count` GPUs."""
        query = urlencode({"include": "AVAILABILITY", "product": "POD", "count": count, "cloud": cloud})
        content = await self._ask("GET", f"/catalog/gpus?{query}", Urgency.START, "prices")
        return [kind for row in self._rows(content, "gpus") if (kind := read_gpu(row)) is not None]

    async def cpus(self) -> list[Kind]:
        content = await self._ask("GET", "/catalog/cpus", Urgency.START, "prices")
        return [kind for row in self._rows(content, "cpus") if (kind := read_cpu(row)) is not None]

    async def bills(self, begins: float, ends: float, bucket: Bucket, pod: str | None) -> list[Record]:
        """RunPod widens the span to whole buckets; the one that is not over yet is in it."""
        query = {"startTime": stamp(begins), "endTime": stamp(ends), "bucketSize": bucket}
        if pod is not None:
            query["podId"] = pod
        content = await self._ask("GET", f"/billing/pods?{urlencode(query)}", Urgency.LOOK, "bills")
        try:
            return [read_record(row) for row in self._rows(content, "records")]
        except (KeyError, ValueError, TypeError, ArithmeticError) as error:
            raise self.line.distrust(f"a bill that is none: {error!r}") from error

    async def _ask(
        self, method: str, path: str, urgency: Urgency, op: str, body: Mapping[str, Any] | None = None
    ) -> Any:
        patience = {Urgency.STOP: 600.0, Urgency.LOOK: 0.0, Urgency.START: 30.0}[urgency]
        sent = None if body is None else json.dumps(body).encode()
        answer = await self.line.ask(method, path, sent, urgency=urgency, patience=patience, op=op)
        return None if answer.status == 204 else answer.content()

    def _read(self, content: Any) -> Pod:
        try:
            return read_pod(content)
        except (KeyError, ValueError, TypeError, ArithmeticError) as error:
            raise self.line.distrust(f"a pod that is none: {error!r}") from error

    def _rows(self, content: Any, name: str) -> Sequence[Any]:
        rows = content.get(name) if isinstance(content, dict) else None
        if not isinstance(rows, list):
            raise self.line.distrust(f"an answer without {name}")
        return rows


def quoted(pod: str) -> str:
    return quote(pod, safe="")


def stamp(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def moment(text: object) -> float | None:
    """Unix seconds of RFC 3339."""
    if not isinstance(text, str):
        return None
    try:
        read = datetime.fromisoformat(text)
    except ValueError:
        return None
    return (read if read.tzinfo else read.replace(tzinfo=UTC)).timestamp()


MOST = 1_000_000
"""Dollars, GB, GPUs: a figure beyond this is no figure, and would only break whoever counts with it."""


def amount(value: object) -> Decimal:
    """Raises ValueError: what is no figure is not read as 0."""
    if isinstance(value, bool) or not isinstance(value, int | Decimal) or not Decimal(value).is_finite():
        raise ValueError(f"no figure: {type(value).__name__}")
    if not -MOST <= value <= MOST:
        raise ValueError("no figure: beyond all bounds")
    return Decimal(value)


def read_pod(content: Any) -> Pod:
    """Strict in what money hangs on (id, status, cost), lenient in the rest. Raises what reading raises."""
    pod, status = content["id"], content["status"]
    if not isinstance(pod, str) or not ID.fullmatch(pod) or not isinstance(status, str):
        raise ValueError(f"id {pod!r:.80}, status {status!r:.40}")
    cost = amount(content.get("cost") or 0)
    if cost < 0:
        raise ValueError(f"cost {cost}")
    gpu, cpu = part(content, "gpu"), part(content, "cpu")
    mounts, actions, runtime = part(content, "mounts"), content.get("actions"), content.get("runtime")
    counted = gpu.get("count", 1) if gpu else cpu.get("vcpuCount", 1)
    size = part(mounts, "persistent").get("size")
    if (isinstance(counted, int) and counted > MOST) or (isinstance(size, int) and size > MOST):
        raise ValueError("a count or a size beyond all bounds")
    return Pod(
        pod,
        content["name"] if isinstance(content.get("name"), str) else "",
        status,
        tuple(action for action in actions if isinstance(action, str)) if isinstance(actions, list) else (),
        cost,
        gpu=gpu["id"] if isinstance(gpu.get("id"), str) else "",
        cpu=cpu["id"] if isinstance(cpu.get("id"), str) else "",
        count=counted if isinstance(counted, int) and counted > 0 else 1,
        cloud=content["cloud"] if isinstance(content.get("cloud"), str) else "SECURE",
        locked=content.get("locked") is True,
        runtime=read_runtime(runtime) if isinstance(runtime, dict) else None,
        persistent=size if isinstance(size, int) and size > 0 else 0,
        network=bool(mounts.get("network")),
        started_at=moment(content.get("startedAt")),
    )


def part(content: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    inner = content.get(name)
    return inner if isinstance(inner, dict) else {}


def read_runtime(content: Mapping[str, Any]) -> Runtime:
    uptime, gpus, ports = content.get("uptime"), content.get("gpus"), content.get("ports")
    return Runtime(
        float(uptime) if isinstance(uptime, int | Decimal) and not isinstance(uptime, bool) else None,
        len(gpus) if isinstance(gpus, list) else None,
        tuple(port for row in ports if (port := read_port(row)) is not None) if isinstance(ports, list) else (),
    )


def read_port(row: Any) -> Port | None:
    if not isinstance(row, dict) or (private := port_of(row.get("private"))) is None:
        return None
    kind, ip = row.get("type"), row.get("ip")
    return Port(
        private,
        port_of(row.get("public")),
        kind if isinstance(kind, str) else "",
        ip if isinstance(ip, str) else "",
    )


def port_of(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 65_536 else None


def read_gpu(row: Any) -> Kind | None:
    """None: not one of which anything is known."""
    if not isinstance(row, dict) or not isinstance(row.get("id"), str):
        return None
    price, places, stock = part(row, "price"), row.get("dataCenters"), row.get("availability")
    return Kind(
        row["id"],
        priced(price.get("secure")),
        priced(price.get("community")),
        stock if isinstance(stock, str) else "",
        tuple(
            place["id"]
            for place in places
            if isinstance(place, dict) and isinstance(place.get("id"), str) and place.get("availability") != "NONE"
        )
        if isinstance(places, list)
        else (),
    )


def read_cpu(row: Any) -> Kind | None:
    if not isinstance(row, dict) or not isinstance(row.get("id"), str):
        return None
    return Kind(row["id"], priced(part(row, "price").get("securePerVcpu")))


def priced(value: object) -> Decimal | None:
    """A price of 0 is no price: it is what RunPod says of a kind that a cloud does not have."""
    try:
        figure = amount(value)
    except ValueError:
        return None
    return figure if figure > 0 else None


def read_record(row: Any) -> Record:
    begins, ends = moment(row["startTime"]), moment(row["endTime"])
    if begins is None or ends is None or not isinstance(row["podId"], str):
        raise ValueError("a record without a time or a pod")
    return Record(row["podId"], begins, ends, amount(row["totalAmount"]), amount(row["diskAmount"]))
