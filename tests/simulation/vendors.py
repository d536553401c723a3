"""The vendors as the world sees them: the emulators of their APIs, their clock, what it truly costs, and mishaps.

Each emulator is asked in its own words; what is the same for all (what runs, what it costs, what answers) is said here
in one. `now` is always the vendor's own clock, which is the world's.
"""

import json
from collections.abc import Callable
from decimal import Decimal
from typing import Any, Protocol

from gateway.providers.base import Endpoint, Instance
from gateway.providers.probe import Sight
from gateway.providers.renting.vendor import Answer
from tests.emulators.runpod import Emulated as Pod
from tests.emulators.runpod import Gpu, RunPodCloud
from tests.emulators.vast import VastCloud
from tests.simulation.plain import PlainCloud
from tests.simulation.scenario import Mishap, Setup


class Vendor(Protocol):
    """What the world needs of an emulated vendor."""

    def handle(self, method: str, path: str, body: bytes | None) -> Answer: ...

    def running(self) -> list[str]:
        """The ids of everything that costs money for its running now."""

    def spent(self) -> int:
        """Micro-dollars that all of it has truly cost for its running up to now."""

    def verb(self, method: str, path: str, body: bytes | None) -> str:
        """ "start" or "stop" for a call that would do such a thing, else ""."""

    def serves(self, instance: Instance) -> bool:
        """Whether a request to where it is said to be would be answered."""

    def look(self, endpoint: Endpoint, path: str) -> Sight:
        """What a look from outside sees."""

    def befall(self, mishap: Mishap) -> None: ...

    def heal(self) -> None:
        """Every mishap is over, and whatever is lost by it stays lost."""

    def price_becomes(self, factor: float) -> None: ...


MISHAPS = {
    "taken away": "the vendor stops what runs",
    "dies": "what runs in the machine ends, the machine goes on costing",
    "hangs": "it runs, and does not answer for a while",
    "no capacity": "nothing can be started",
    "zero gpu": "what is started has no GPU",
    "never runs": "what is started stays queued for ever",
    "never boots": "what is started runs, and its engine never answers",
    "slow boot": "what is started takes ten minutes more",
    "no balance": "the account is empty",
    "stop ignored": "a stop is answered, and nothing stops",
    "lies stopped": "one look says stopped of what runs",
    "lies running": "one look says running of what does not",
    "odd status": "looks say a status that nobody knows",
}


class Booted:
    """When what runs in a machine answers: some time after the machine does, unless something befell it."""

    def __init__(self, now: Callable[[], float], boot: float) -> None:
        self._now = now
        self._boot = boot
        self.never = self.slow = False
        self._answers: dict[str, float] = {}
        """Since when, or from when on, by id. Infinite: never."""
        self._hangs_until = -1e18

    def up(self, id: str) -> None:
        """It was started."""
        more = float("inf") if self.never else 600.0 if self.slow else 0.0
        self._answers[id] = self._now() + self._boot + more

    def down(self, id: str) -> None:
        self._answers.pop(id, None)

    def dies(self, id: str) -> None:
        self._answers[id] = float("inf")

    def hangs(self, lasts: float) -> None:
        self._hangs_until = self._now() + lasts

    def answers(self, id: str) -> bool:
        now = self._now()
        return self._answers.get(id, float("inf")) <= now and now >= self._hangs_until

    def wake(self, id: str) -> None:
        self._hangs_until = -1e18


class Emulated:
    """What is the same for every emulator: what befalls it, and who hears of it."""

    reading = "/pods/"
    """What the path of a look at one instance begins with."""
    stopped, running_word = "EXITED", "RUNNING"
    """How a look says them."""

    def __init__(self, world: "Surroundings") -> None:
        self._now = world.now
        self._later = world.later
        self._lose = world.answering.lose
        self.booted = Booted(world.now, world.setup.boot)
        self._lies: list[str] = []
        self._odd_until = -1e18

    def handle(self, method: str, path: str, body: bytes | None) -> Answer:
        before = self.running()
        result = self._ask(method, path, body)
        self._compare(before)
        return self._lied(result) if method == "GET" and path.startswith(self.reading) else result

    def _compare(self, before: list[str]) -> None:
        after = self.running()
        for id in after:
            if id not in before:
                self.booted.up(id)
        for id in before:
            if id not in after:
                self.booted.down(id)
                self._lose(id)

    def _lied(self, result: Answer) -> Answer:
        said = result.content()
        if result.status != 200 or not isinstance(said, dict) or not (self._lies or self._now() < self._odd_until):
            return result
        said = json.loads(result.body)
        self._say_status(said, "HIBERNATING" if self._now() < self._odd_until else self._lies.pop())
        return Answer(200, result.headers, json.dumps(said).encode())

    def _say_status(self, said: dict[str, Any], status: str) -> None:
        said["status"] = status
        if "runtime" in said and status != self.running_word:
            said["runtime"] = None

    def serves(self, instance: Instance) -> bool:
        return self._is_up(instance.id) and self.booted.answers(instance.id)

    def befall(self, mishap: Mishap) -> None:
        before = self.running()
        match mishap.kind:
            case "taken away":
                for id in before:
                    self._take_away(id)
                self._compare(before)
            case "dies":
                for id in before:
                    self.booted.dies(id)
                    self._lose(id)
            case "hangs":
                self.booted.hangs(mishap.lasts)
            case "lies stopped":
                self._lies.append(self.stopped)
            case "lies running":
                self._lies.append(self.running_word)
            case "odd status":
                self._odd_until = self._now() + mishap.lasts
            case "never boots" | "slow boot" as kind:
                switch = kind.split()[0]
                setattr(self.booted, switch, True)
                self._later(mishap.lasts, setattr, self.booted, switch, False)
            case kind:
                self.turn(kind, True)
                self._later(mishap.lasts, self.turn, kind, False)

    def heal(self) -> None:
        for kind in ("no capacity", "zero gpu", "never runs", "no balance", "stop ignored"):
            self.turn(kind, False)
        self.booted.never = self.booted.slow = False
        self.booted.hangs(0)
        self._lies.clear()
        self._odd_until = -1e18

    def turn(self, kind: str, on: bool) -> None:
        raise NotImplementedError

    def running(self) -> list[str]:
        raise NotImplementedError

    def _ask(self, method: str, path: str, body: bytes | None) -> Answer:
        raise NotImplementedError

    def _is_up(self, id: str) -> bool:
        raise NotImplementedError

    def _take_away(self, id: str) -> None:
        raise NotImplementedError


class Surroundings(Protocol):
    """What a vendor needs of its world."""

    setup: Setup
    answering: Any

    def now(self) -> float: ...

    def later(self, seconds: float, *deed: Any) -> object: ...


class Plain(Emulated):
    """tests/simulation/plain.py"""

    stopped, running_word = "asleep", "running"

    def __init__(self, world: Surroundings) -> None:
        super().__init__(world)
        self.cloud = PlainCloud(world.setup.price, own=world.setup.strategy == "resume")

    def _ask(self, method: str, path: str, body: bytes | None) -> Answer:
        return self.cloud.handle(method, path, body, self._now())

    def running(self) -> list[str]:
        return [pod.id for pod in self.cloud.pods.values() if pod.costs]

    def spent(self) -> int:
        return int(self.cloud.spent(self._now()))

    def verb(self, method: str, path: str, body: bytes | None) -> str:
        if method == "DELETE" or path.endswith("/stop"):
            return "stop"
        return "start" if method == "POST" else ""

    def _is_up(self, id: str) -> bool:
        self.cloud.pass_by(self._now())
        pod = self.cloud.pods.get(id)
        return pod is not None and pod.status == "running" and pod.gpus > 0

    def look(self, endpoint: Endpoint, path: str) -> Sight:
        id = endpoint.url.removeprefix("https://").removesuffix(".test")
        pod = self.cloud.pods.get(id)
        if pod is None or pod.status != "running":
            return Sight(404, None, True)
        if not self.booted.answers(id):
            return Sight(502, None, True)
        return Sight(200, {"data": [{"id": "served"}]} if path.endswith("/models") else {"status": "ok"})

    def turn(self, kind: str, on: bool) -> None:
        words = {"no capacity": "full", "zero gpu": "no_gpus", "never runs": "stuck", "no balance": "empty_purse"}
        setattr(self.cloud, (words | {"stop ignored": "deaf"})[kind], on)

    def _take_away(self, id: str) -> None:
        self.cloud.stop(id, self._now(), "asleep" if id == "own" else "over")

    def price_becomes(self, factor: float) -> None:
        self.cloud.price = max(1, round(self.cloud.price * factor))
        if "own" in self.cloud.pods and not self.cloud.pods["own"].costs:
            self.cloud.pods["own"].price = self.cloud.price


L4, A40 = "NVIDIA L4", "NVIDIA A40"
POD = "abc123"


class RunPod(Emulated):
    """tests/emulators/runpod.py"""

    def __init__(self, world: Surroundings) -> None:
        super().__init__(world)
        dollars = Decimal(world.setup.price) / 1_000_000
        self.cloud = RunPodCloud(
            now=world.now(), gpus=[Gpu(L4, dollars, dollars), Gpu(A40, dollars * 2, dollars * 2)], loads=0.0
        )
        if world.setup.strategy == "resume":
            self.cloud.put_pod(POD, gpu=L4)
        self.cloud.on_change = self._changed

    def _changed(self, pod: Pod) -> None:
        if not pod.costs:
            self.booted.down(pod.id)
            self._lose(pod.id)

    def _ask(self, method: str, path: str, body: bytes | None) -> Answer:
        answer = self.cloud.handle(method, path, {"authorization": f"Bearer {self.cloud.key}"}, body, self._now())
        if self.verb(method, path, body) == "stop":
            self._later(self.cloud.stop_takes + 0.001, self._advance)
        return answer

    def _advance(self) -> None:
        self.cloud.advance(self._now())

    def running(self) -> list[str]:
        self._advance()
        return self.cloud.running()

    def spent(self) -> int:
        return self.cloud.spent(self._now())

    def verb(self, method: str, path: str, body: bytes | None) -> str:
        if method == "POST" and path.endswith("/action"):
            action = json.loads(body or b"{}").get("action")
            return "start" if action == "start" else "stop"
        return {"POST": "start", "DELETE": "stop"}.get(method, "")

    def _is_up(self, id: str) -> bool:
        self._advance()
        pod = self.cloud.pods.get(id)
        return pod is not None and pod.status == "RUNNING" and pod.up_at is not None and pod.gpus > 0

    def look(self, endpoint: Endpoint, path: str) -> Sight:
        answer = self.cloud.upstream(endpoint.url, path, endpoint.key, self._now())
        if answer is None:
            return Sight(0, trouble="refused")
        pod = self.cloud.pod_at(endpoint.url)
        if answer.status < 500 and pod is not None and not self.booted.answers(pod.id):
            return Sight(502, None, True)
        content = answer.content()
        return Sight(answer.status, content, content is None)

    def turn(self, kind: str, on: bool) -> None:
        if kind == "no capacity":
            (self.cloud.full.update if on else self.cloud.full.difference_update)({L4, A40})
        else:
            words = {"zero gpu": "zero_gpus", "never runs": "never_up", "no balance": "broke", "stop ignored": "deaf"}
            setattr(self.cloud, words[kind], on)

    def _take_away(self, id: str) -> None:
        self.cloud.take_away(id, "EXITED" if id == POD else "TERMINATED")

    def price_becomes(self, factor: float) -> None:
        """Of what is started from now on."""
        for gpu in self.cloud.gpus:
            gpu.secure = gpu.community = max(Decimal("0.000001"), round(gpu.secure * Decimal(str(factor)), 6))
        for pod in self.cloud.pods.values():
            if not pod.costs:
                pod.dollars = self.cloud.price(pod.gpu, pod.count, pod.cloud)


CONTRACT = 883


class Vast(Emulated):
    """tests/emulators/vast.py. There is one contract, which is never made or ended here: `strategy` says nothing."""

    reading = f"/v0/instances/{CONTRACT}/"
    stopped, running_word = "stopped", "running"

    def __init__(self, world: Surroundings) -> None:
        super().__init__(world)
        self.cloud = VastCloud(now=world.now(), id=CONTRACT, disk_dollars=Decimal(0))
        self.cloud.dollars = Decimal(world.setup.price) / 1_000_000

    def _ask(self, method: str, path: str, body: bytes | None) -> Answer:
        headers = {"authorization": f"Bearer {self.cloud.key}"}
        reply = self.cloud.handle(method, f"/api{path}", headers, body, self._now())
        if self.verb(method, path, body) == "stop":
            self._later(self.cloud.stop_takes + 0.001, self._advance)
        return Answer(reply.status, {name.lower(): value for name, value in reply.headers.items()}, reply.body)

    def _advance(self) -> None:
        """A queued start begins, and a stop is over, in the middle of nothing."""
        before = self.cloud.running
        self.cloud.spent(self._now())
        if self.cloud.running and not before:
            self.booted.up(str(CONTRACT))
        elif before and not self.cloud.running:
            self.booted.down(str(CONTRACT))
            self._lose(str(CONTRACT))

    def _say_status(self, said: dict[str, Any], status: str) -> None:
        contract = said.get("instances")
        if isinstance(contract, dict):
            contract["actual_status"] = contract["cur_state"] = status

    def running(self) -> list[str]:
        self._advance()
        return [str(CONTRACT)] if self.cloud.running else []

    def spent(self) -> int:
        return self.cloud.spent(self._now())

    def verb(self, method: str, path: str, body: bytes | None) -> str:
        if method != "PUT":
            return ""
        return {"running": "start", "stopped": "stop"}.get(json.loads(body or b"{}").get("state"), "")

    def _is_up(self, id: str) -> bool:
        self._advance()
        return self.cloud.running and self.cloud.actual == "running"

    def look(self, endpoint: Endpoint, path: str) -> Sight:
        self._advance()
        if not endpoint.url.endswith(f":{self.cloud.port}") or not self.booted.answers(str(CONTRACT)):
            return Sight(0, trouble="refused")
        return Sight(200, {"data": [{"id": "served"}]} if path.endswith("/models") else {"status": "ok"})

    def turn(self, kind: str, on: bool) -> None:
        match kind:
            case "no capacity":
                self.cloud.full = on
            case "never runs" | "zero gpu":
                self.cloud.scheduling = on
            case "stop ignored":
                self.cloud.deaf = on
            case "no balance":
                pass  # what Vast answers then is nowhere to be read

    def _take_away(self, id: str) -> None:
        self.cloud.take_away()

    def price_becomes(self, factor: float) -> None:
        """A contract keeps its price."""
