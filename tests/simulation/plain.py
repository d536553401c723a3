"""The plainest vendor there could be, and its verbs: what `RentedProvider` promises, promised for it, holds for all.

Nothing here is anybody's API. `PlainCloud` is the other side, `PlainVendor` ours; both in a hundred lines, so that a
story in which something goes wrong has nothing in it but that.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from gateway.providers.base import Bill, Endpoint
from gateway.providers.renting.prices import Price
from gateway.providers.renting.rented import Offer, Phase, Seen
from gateway.providers.renting.vendor import Answer, Line, Transport, Urgency, VendorError, judge_by_status

HOUR = 3600


@dataclass
class Pod:
    id: str
    name: str
    price: int
    status: str = "asleep"
    """asleep, queued (it costs, and nothing runs yet), running, over."""
    gpus: int = 1
    since: float = 0.0
    """Of what it costs for."""
    boots: float = 0.0
    """When it runs; before, it is queued."""
    cost: float = 0.0
    """Micro-dollars, up to `since`."""

    @property
    def costs(self) -> bool:
        return self.status in ("queued", "running")


class PlainCloud:
    """One account."""

    def __init__(self, price: int, *, own: bool, queued: float = 3.0) -> None:
        """`own`: there is one pod from the beginning, to be resumed."""
        self.price = price
        self.queued = queued
        self.full = self.empty_purse = self.deaf = self.no_gpus = self.stuck = False
        self.bills: list[tuple[str, float, float, float]] = []
        self.pods: dict[str, Pod] = {"own": Pod("own", "", price)} if own else {}
        self._made = 0

    def handle(self, method: str, path: str, body: bytes | None, now: float) -> Answer:
        self.pass_by(now)
        parts = path.strip("/").split("/")
        said: dict[str, Any] = json.loads(body) if body else {}
        match method, parts:
            case "GET", ["pods"]:
                return answer([told(pod) for pod in self.pods.values() if pod.status != "over"])
            case "POST", ["pods"]:
                if refusal := self._refuses():
                    return refusal
                self._made += 1
                pod = self.pods[f"pod{self._made}"] = Pod(f"pod{self._made}", said["name"], self.price)
                self._begin(pod, now)
                return answer(told(pod))
            case "GET", ["bills"]:
                return answer([list(bill) for bill in self._bills(now)])
            case _, ["pods", id, *_] if id not in self.pods or self.pods[id].status == "over":
                return answer({"error": "there is no such pod"}, 404)
            case "GET", ["pods", id]:
                return answer(told(self.pods[id]))
            case "POST", ["pods", id, "start"]:
                pod = self.pods[id]
                if pod.costs:
                    return answer({"error": "it runs"}, 409)
                if refusal := self._refuses():
                    return refusal
                self._begin(pod, now)
                return answer(told(pod))
            case "POST", ["pods", id, "stop"]:
                if not self.deaf:
                    self.stop(id, now)
                return answer(told(self.pods[id]))
            case "DELETE", ["pods", id]:
                if not self.deaf:
                    self.stop(id, now, "over")
                return answer({})
        return answer({"error": "no such thing"}, 404)

    def _refuses(self) -> Answer | None:
        if self.full:
            return answer({"error": "capacity"}, 400)
        return answer({"error": "no money"}, 402) if self.empty_purse else None

    def _begin(self, pod: Pod, now: float) -> None:
        pod.price, pod.status, pod.since, pod.gpus = self.price, "queued", now, 0 if self.no_gpus else 1
        pod.boots = now + (1e9 if self.stuck else self.queued)

    def stop(self, id: str, now: float, status: str = "asleep") -> None:
        pod = self.pods[id]
        if pod.costs:
            self.pass_by(now)
            self.bills.append((id, pod.since, now, self._accrued(pod, now)))
            pod.cost += self._accrued(pod, now)
        pod.status = status

    def pass_by(self, now: float) -> None:
        for pod in self.pods.values():
            if pod.status == "queued" and now >= pod.boots:
                pod.status = "running"

    @staticmethod
    def _accrued(pod: Pod, now: float) -> float:
        return pod.price * (now - pod.since) / HOUR

    def _bills(self, now: float) -> list[tuple[str, float, float, float]]:
        return self.bills + [
            (pod.id, pod.since, now, self._accrued(pod, now)) for pod in self.pods.values() if pod.costs
        ]

    def spent(self, now: float) -> float:
        return sum(pod.cost + (self._accrued(pod, now) if pod.costs else 0) for pod in self.pods.values())


def answer(content: object, status: int = 200) -> Answer:
    return Answer(status, {"content-type": "application/json"}, json.dumps(content).encode())


def told(pod: Pod) -> dict[str, object]:
    return {"id": pod.id, "name": pod.name, "status": pod.status, "gpus": pod.gpus, "price": pod.price}


class PlainVendor:
    """Its verbs, for `RentedProvider`."""

    title = "Plain"

    def __init__(self, transport: Transport, *, own: bool, prefix: str, price: Callable[[], int]) -> None:
        """`price`: of a new one, by the catalogue."""
        self.name = "plain"
        self._price = price
        self.line = Line(transport, judge=judge)
        self._own = own
        self._prefix = prefix

    async def seen(self, instance: str, urgency: Urgency) -> Seen | None:
        try:
            found = await self.line.ask("GET", f"/pods/{instance}", urgency=urgency, patience=60, op="look")
        except VendorError as error:
            if error.kind == "not_found":
                return None
            raise
        return seen(found.content())

    async def all(self, urgency: Urgency) -> Sequence[Seen]:
        found = await self.line.ask("GET", "/pods", urgency=urgency, patience=60, op="list")
        pods = [seen(pod) for pod in found.content()]
        return [pod for pod in pods if pod.id == "own" or pod.name.startswith(self._prefix)]

    async def offers(self) -> Sequence[Offer]:
        if not self._own:
            return [Offer("a new one", Price(self._price(), "Plain's figure"))]
        pod = (await self.line.ask("GET", "/pods/own", patience=60)).content()
        return [Offer("ours", Price(pod["price"], "Plain's figure"), "own")]

    async def take(self, offer: Offer, name: str) -> Seen:
        path = f"/pods/{offer.instance}/start" if offer.instance else "/pods"
        body = json.dumps({"name": name}).encode()
        done = await self.line.ask("POST", path, body, urgency=Urgency.START, patience=60, op="take")
        return seen(done.content())

    async def end(self, instance: str, tries: int) -> None:
        how = ("POST", f"/pods/{instance}/stop") if instance == "own" else ("DELETE", f"/pods/{instance}")
        await self.line.ask(*how, urgency=Urgency.STOP, patience=60, op="stop")

    async def bills(self, begins: float, ends: float) -> Sequence[Bill] | None:
        rows = (await self.line.ask("GET", "/bills", patience=60)).content()
        return [
            Bill(id, since, until, round(amount))
            for id, since, until, amount in rows
            if until > begins and since < ends
        ]

    async def storage(self) -> int | None:
        return 0

    async def close(self) -> None:
        """Nothing is held."""


def judge(op: str, answer: Answer) -> VendorError | None:
    if answer.status == 400 and b"capacity" in answer.body:
        return VendorError("capacity", "full")
    return judge_by_status(op, answer)


def seen(pod: dict[str, Any]) -> Seen:
    phases = {"asleep": Phase.ASLEEP, "queued": Phase.BOOTING, "running": Phase.UP, "over": Phase.OVER}
    phase = phases.get(pod["status"], Phase.BOOTING)
    trouble = ""
    if phase is Phase.UP and not pod["gpus"]:
        phase, trouble = Phase.USELESS, "It was started without a GPU."
    return Seen(
        pod["id"],
        phase,
        name=pod["name"],
        price=Price(pod["price"], "Plain's figure"),
        endpoint=Endpoint(f"https://{pod['id']}.test") if phase is Phase.UP else None,
        status=pod["status"],
        trouble=trouble,
    )
