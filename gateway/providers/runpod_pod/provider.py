"""RunPod's pods in our words: what each status means, what is tried at a start, and what it costs.

*resume* starts and stops the pod that RUNPOD_POD_ID names. Its disk is the user's: it is stopped, never terminated, and
while it sleeps its host may rent its GPU to somebody else. *recreate* creates a pod from RUNPOD_POD_SPEC with each
start, from a list of GPUs and data centres, and terminates it: what must last is on a network volume.
"""

import asyncio
import ipaddress
import json
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from gateway.providers.base import Bill, Endpoint, Profile
from gateway.providers.renting.prices import Price, believed
from gateway.providers.renting.readiness import Look, clean
from gateway.providers.renting.rented import Offer, Phase, RentedProvider, Seen, Tempo
from gateway.providers.renting.vendor import Line, Manners, Transport, Urgency, VendorError, micros
from gateway.providers.runpod_pod.api import Kind, Pod, RunPodApi, judge, quota_is_spent

log = logging.getLogger(__name__)

PRICES_KEPT = 600.0
"""Seconds for which the catalogue is believed without asking again."""
BY_THE_HOUR = 2 * 86_400
"""Seconds. Longer spans are billed by days: one month of hours of many pods is more than an answer may hold."""
ZERO_GPUS = "The pod came back without its GPU, which somebody else rents now."
BROKEN = "RunPod says that the pod is in an error state."


async def nothing() -> None:
    """There is nothing to close."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One kind of machine that a spec allows."""

    kind: Literal["gpu", "cpu"]
    id: str
    count: int
    """Of GPUs, or of vCPUs."""
    config: Mapping[str, Any] = field(repr=False)
    """The body's `gpu` or `cpu`, with this id."""


@dataclass(frozen=True, slots=True)
class Spec:
    """RUNPOD_POD_SPEC: the body of `POST /pods`, where `gpu.id` (or `cpu.id`) may also be a list, and `gpu` itself one
    of such objects. GPUs and `dataCenterIds` are tried in their order."""

    body: Mapping[str, Any] = field(repr=False)
    candidates: tuple[Candidate, ...]
    places: tuple[str, ...]
    cloud: str

    @classmethod
    def read(cls, text: str) -> "Spec":
        """Raises ValueError with one sentence that ends in what is allowed."""
        try:
            body = json.loads(text)
        except ValueError as error:
            raise ValueError(f"RUNPOD_POD_SPEC is not JSON: {error}.") from None
        return cls.of(body)

    @classmethod
    def of(cls, body: Any) -> "Spec":
        if not isinstance(body, dict):
            raise ValueError("RUNPOD_POD_SPEC must be a JSON object: the body of RunPod's POST /pods.")
        if "image" not in body and "templateId" not in body:
            raise ValueError("RUNPOD_POD_SPEC names no image and no templateId.")
        if ("gpu" in body) == ("cpu" in body):
            raise ValueError("RUNPOD_POD_SPEC must have exactly one of gpu and cpu.")
        places = body.get("dataCenterIds") or []
        if not isinstance(places, list) or not all(isinstance(place, str) for place in places):
            raise ValueError("RUNPOD_POD_SPEC: dataCenterIds must be a list of names such as EU-RO-1.")
        if not isinstance(body.get("env", {}), dict) or not isinstance(body.get("ports", []), list):
            raise ValueError('RUNPOD_POD_SPEC: env must be an object, and ports a list such as ["8000/http"].')
        cloud = body.get("cloud", "SECURE")
        if cloud not in ("SECURE", "COMMUNITY"):
            raise ValueError("RUNPOD_POD_SPEC: cloud must be SECURE or COMMUNITY.")
        return cls(body, tuple(candidates("gpu" if "gpu" in body else "cpu", body)), tuple(places), cloud)


def candidates(kind: Literal["gpu", "cpu"], body: Mapping[str, Any]) -> Iterable[Candidate]:
    wanted = body[kind]
    counted = "count" if kind == "gpu" else "vcpuCount"
    for one in wanted if isinstance(wanted, list) else [wanted]:
        ids = one.get("id") if isinstance(one, dict) else None
        count = one.get(counted, 1 if kind == "gpu" else None) if isinstance(one, dict) else None
        if not isinstance(count, int) or count < 1:
            raise ValueError(f"RUNPOD_POD_SPEC: {kind}.{counted} must be a whole number from 1.")
        for name in ids if isinstance(ids, list) and ids else [ids]:
            if not isinstance(name, str) or not name:
                raise ValueError(f"RUNPOD_POD_SPEC: {kind}.id must be a name of RunPod's catalogue, or a list of them.")
            yield Candidate(kind, name, count, {**one, "id": name})


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the settings say of pods."""

    pod: str | Spec
    """The id of the one to resume, or what to create each time."""
    prefix: str
    """Every name that the journal gives begins with it, and nobody else's does: what is called so is ours, and may be
    terminated."""
    port: int = 8000
    connect: Literal["proxy", "tcp"] = "proxy"
    proxy_url: str = "https://{pod_id}-{port}.proxy.runpod.net"
    key: str | None = field(default=None, repr=False)
    """The upstream's own, sent with each request to it."""
    fingerprint: str | None = None
    """Of the upstream's certificate, over tcp; with one, it is spoken to over TLS."""
    plain_http: bool = False
    """Whether keys and prompts may cross the internet in the clear: over tcp, without a fingerprint, they do."""
    hourly_price: int | None = None
    """Micro-dollars."""
    storage_price: int = 200_000
    """Micro-dollars for a GB and month."""
    models: tuple[str, ...] = ()
    concurrency: int | None = None
    gpus_after: float = 0.0
    """Seconds that a container runs until an empty list of GPUs is believed. Unverified: whether RunPod may say so for
    a moment of a pod that has some."""
    public_only: bool = True
    """Whether an address that RunPod gives must be a public one: a key is sent there."""


class Pods:
    """RunPod's verbs (rented.py, Vendor)."""

    name = "runpod-pod"
    title = "RunPod"

    def __init__(
        self,
        api: RunPodApi,
        wishes: Wishes,
        *,
        environment: Callable[[str], Mapping[str, str]],
        close: Callable[[], Awaitable[None]],
    ) -> None:
        if wishes.connect == "tcp" and wishes.fingerprint is None and not wishes.plain_http:
            raise ValueError("RunPod's TCP ports have no TLS: TLS_FINGERPRINT or ALLOW_PLAIN_HTTP is needed.")
        self.line = api.line
        self._api = api
        self._wishes = wishes
        self._resumes = wishes.pod if isinstance(wishes.pod, str) else None
        """The id of the pod that is not ours to delete."""
        self._environment = environment
        self._time = asyncio.get_running_loop().time
        self._close = close
        self._ours: set[str] = set()
        """Ids of pods that we created, as far as they were seen."""
        self._locked: set[str] = set()
        self._ran_at: dict[str, int] = {}
        """Micro-dollars per hour that RunPod said of a pod while it ran."""
        self._catalogue: dict[tuple[str, int, str], tuple[float, dict[str, Kind]]] = {}
        """By gpu or cpu, count and cloud: when it was read, and the kinds."""

    # --- Looking ---

    async def seen(self, instance: str, urgency: Urgency) -> Seen | None:
        pod = await self._api.pod(instance, urgency)
        return None if pod is None else self._in_our_words(pod)

    async def all(self, urgency: Urgency) -> Sequence[Seen]:
        """The resumed pod, and whatever bears our names. A pod that is a cluster's is in no list: it is asked for."""
        pods = await self._api.pods(urgency)
        wanted = self._resumes
        ours = [pod for pod in pods if pod.id == wanted or self._is_created(pod)]
        if wanted is not None and all(pod.id != wanted for pod in ours):
            one = await self._api.pod(wanted, urgency)
            ours += [one] if one is not None else []
        return [self._in_our_words(pod) for pod in ours]

    def _is_created(self, pod: Pod) -> bool:
        created = pod.id != self._resumes and pod.name.startswith(self._wishes.prefix)
        if created:
            self._ours.add(pod.id)
        return created

    def _in_our_words(self, pod: Pod) -> Seen:
        (self._locked.add if pod.locked else self._locked.discard)(pod.id)
        phase, detail, trouble, endpoint = self._phase(pod)
        return Seen(
            pod.id,
            phase,
            name=pod.name if self._is_created(pod) else "",
            price=self._price_of(pod),
            endpoint=endpoint,
            detail=detail,
            status=f"{clean(pod.status)}{', locked' if pod.locked else ''}",
            trouble=trouble,
            code="no_capacity" if trouble == ZERO_GPUS else "start_failed",
            up_for=pod.runtime.uptime if pod.runtime is not None else None,
            started_at=pod.started_at,
        )

    def _phase(self, pod: Pod) -> tuple[Phase, str, str, Endpoint | None]:
        """What a status means: the phase, a detail for callers, the trouble if it is useless, and where it answers."""
        match pod.status:
            case "TERMINATED":
                return Phase.OVER, "", "", None
            case "EXITED":
                return Phase.ASLEEP, "", "", None
            case "ERROR":
                if pod.cost == 0 and "stop" not in pod.actions:
                    return Phase.ASLEEP, "", "", None
                return Phase.USELESS, "", BROKEN, None
            case "PROVISIONING":
                return Phase.BOOTING, "RunPod looks for a machine", "", None
            case "STARTING":
                return Phase.BOOTING, "RunPod starts the container", "", None
            case "RUNNING":
                return self._running(pod)
        return Phase.BOOTING, f"RunPod says {clean(pod.status)}", "", None

    def _running(self, pod: Pod) -> tuple[Phase, str, str, Endpoint | None]:
        runtime = pod.runtime
        if runtime is not None and runtime.gpus == 0 and pod.gpu and (runtime.uptime or 0.0) >= self._wishes.gpus_after:
            return Phase.USELESS, "", ZERO_GPUS, None
        if runtime is None or not runtime.says_something:
            # Some stay so for ever, and are billed (comfyui-mcp#2022): no progress, so START_TIMEOUT ends it.
            return Phase.BOOTING, "the machine is there, its container has not started", "", None
        endpoint = self._endpoint(pod)
        if endpoint is None:
            return Phase.BOOTING, f"port {self._wishes.port} has no address yet", "", None
        return Phase.UP, "", "", endpoint

    def _endpoint(self, pod: Pod) -> Endpoint | None:
        wishes = self._wishes
        if wishes.connect == "proxy":
            url = wishes.proxy_url.replace("{pod_id}", pod.id).replace("{port}", str(wishes.port))
            return Endpoint(url.rstrip("/"), key=wishes.key, proxied=True)
        for port in pod.runtime.ports if pod.runtime is not None else ():
            if port.private == wishes.port and port.kind == "tcp" and port.public is not None:
                host = self._host(port.ip)
                if host is not None:
                    scheme = "https" if wishes.fingerprint is not None else "http"
                    url = f"{scheme}://{host}:{port.public}"
                    return Endpoint(url, key=wishes.key, fingerprint=wishes.fingerprint)
        return None

    def _host(self, ip: str) -> str | None:
        """An address that our key may be sent to."""
        try:
            address = ipaddress.ip_address(ip)
        except ValueError:
            return None
        if self._wishes.public_only and not address.is_global:
            return None
        return f"[{address}]" if address.version == 6 else str(address)

    # --- Money ---

    def _price_of(self, pod: Pod) -> Price | None:
        """RunPod's own figure; the catalogue's while the pod says 0, which it does asleep; HOURLY_PRICE if more."""
        if pod.cost > 0:
            ran_at = micros(pod.cost)
            if ran_at is not None:
                self._ran_at[pod.id] = ran_at
            return self._with_ours((ran_at, "RunPod's figure for this pod"))
        kind: Literal["gpu", "cpu"] = "gpu" if pod.gpu else "cpu"
        known = self._catalogue.get((kind, pod.count if kind == "gpu" else 0, pod.cloud))
        listed = self._listed(known[1] if known is not None else {}, pod.gpu or pod.cpu, pod.count, pod.cloud)
        ran_at = self._ran_at.get(pod.id)
        if listed is None or ran_at is None or ran_at <= listed.amount:
            return listed
        # The list has become cheaper; whether this pod has, its next run tells.
        return believed([(ran_at, "RunPod's figure when it ran last"), (listed.amount, listed.why)])

    def _listed(self, kinds: Mapping[str, Kind], name: str, count: int, cloud: str) -> Price | None:
        kind = kinds.get(name)
        figure = None if kind is None else kind.community if cloud == "COMMUNITY" else kind.secure
        whole = micros(figure * count) if figure is not None else None
        return self._with_ours((whole, f"RunPod's list price of {count} x {clean(name)}"))

    def _with_ours(self, theirs: tuple[int | None, str]) -> Price | None:
        return believed([theirs, (self._wishes.hourly_price, "HOURLY_PRICE")])

    async def _kinds(self, kind: Literal["gpu", "cpu"], count: int, cloud: str) -> dict[str, Kind]:
        """The catalogue. An old one is better than none: a price there was is a price."""
        key = (kind, count if kind == "gpu" else 0, cloud)
        at, known = self._catalogue.get(key, (float("-inf"), {}))
        if self._time() - at < PRICES_KEPT:
            return known
        try:
            read = await (self._api.gpus(count, cloud) if kind == "gpu" else self._api.cpus())
        except VendorError as error:
            if error.kind in ("key", "limited"):
                raise
            log.warning("RunPod's catalogue cannot be read: %s", error)
            return known
        known = {one.id: one for one in read}
        self._catalogue[key] = (self._time(), known)
        return known

    async def bills(self, begins: float, ends: float) -> Sequence[Bill] | None:
        """Of the resumed pod; or of every pod that is not somebody else's for sure. RunPod's bills have no names, and
        pods that were terminated are in no list: where the ledger is lost, too much is counted rather than too
        little."""
        bucket: Literal["hour", "day"] = "hour" if ends - begins <= BY_THE_HOUR else "day"
        records = await self._api.bills(begins, ends, bucket, self._resumes)
        others: set[str] = set()
        if self._resumes is None:
            others = {pod.id for pod in await self._api.pods(Urgency.LOOK) if not self._is_created(pod)}
        return [
            Bill(record.pod, record.begins, record.ends, micros(record.total) or 0, micros(record.disk) or 0)
            for record in records
            if record.pod not in others
        ]

    async def storage(self) -> int | None:
        """Disks of pods that stay when they are stopped. A network volume is no pod's and bills whatever we do: it is
        not counted here."""
        wanted = self._resumes
        if wanted is None:
            return 0  # what we create we terminate, and its disk with it
        pod = await self._api.pod(wanted, Urgency.LOOK)
        return None if pod is None else pod.persistent * self._wishes.storage_price

    # --- Starting ---

    async def offers(self) -> Sequence[Offer]:
        if isinstance(self._wishes.pod, str):
            return [await self._resumable(self._wishes.pod)]
        return await self._creatable(self._wishes.pod)

    async def _resumable(self, wanted: str) -> Offer:
        pod = await self._api.pod(wanted, Urgency.START)
        if pod is None or pod.status == "TERMINATED":
            raise VendorError("not_found", f"there is no pod {wanted} (RUNPOD_POD_ID)")
        if pod.locked:
            raise VendorError("locked", f"pod {wanted} is locked; unlock it in RunPod's console")
        if pod.cost == 0:
            await self._kinds("gpu" if pod.gpu else "cpu", pod.count, pod.cloud)
        return Offer(f"pod {wanted}", self._price_of(pod), pod.id)

    async def _creatable(self, spec: Spec) -> Sequence[Offer]:
        """The user's order; what RunPod says has none free comes last, since that may have changed since."""
        offers: list[tuple[bool, Offer]] = []
        for candidate in spec.candidates:
            kinds = await self._kinds(candidate.kind, candidate.count, spec.cloud)
            price = self._listed(kinds, candidate.id, candidate.count, spec.cloud)
            known = kinds.get(candidate.id)
            for place in spec.places or ("",):
                scarce = known is not None and known.stock != "" and (known.stock == "NONE" or missing(known, place))
                label = f"{candidate.count} x {candidate.id}" + (f" in {place}" if place else "")
                body = self._body(spec, candidate, place)
                offers.append((scarce, Offer(label, price, body=body)))
        return [offer for _, offer in sorted(offers, key=lambda one: one[0])]

    async def take(self, offer: Offer, name: str) -> Seen:
        if offer.instance:
            return await self._resume(offer.instance)
        env = {**offer.body.get("env", {}), **self._environment(name)}
        pod = await self._api.create({**offer.body, "name": name, "env": env})
        self._ours.add(pod.id)
        return self._in_our_words(pod)

    async def _resume(self, wanted: str) -> Seen:
        try:
            pod = await self._api.act(wanted, "start", Urgency.START)
        except VendorError as error:
            if error.kind != "conflict":
                raise
            pod = await self._api.pod(wanted, Urgency.START)  # it may run by now
            if pod is None or not self._in_our_words(pod).phase.costs:
                raise
        if pod is None:
            raise self.line.distrust("a start without a pod")
        return self._in_our_words(pod)

    def _body(self, spec: Spec, candidate: Candidate, place: str) -> dict[str, Any]:
        """Of the create, without its name and what the environment gets for that name."""
        body: dict[str, Any] = {**spec.body, candidate.kind: dict(candidate.config)}
        if place:
            body["dataCenterIds"] = [place]
        if "ports" in body or "templateId" not in body:  # a template's own ports would be replaced by these
            wanted = f"{self._wishes.port}/{'http' if self._wishes.connect == 'proxy' else 'tcp'}"
            ports = list(body.get("ports", []))
            body["ports"] = ports if wanted in ports else [*ports, wanted]
        return body

    # --- Ending ---

    async def end(self, instance: str, tries: int) -> None:
        """What we created is terminated: nobody will resume it, and stopped its disk would go on costing. Where that
        does not help it is stopped in between, which at least gives the GPU back."""
        created = instance != self._resumes and await self._was_created(instance)
        try:
            if created and tries % 2:
                await self._api.delete(instance)
            else:
                await self._api.act(instance, "stop", Urgency.STOP)
        except VendorError as error:
            if instance in self._locked and error.kind in ("unprocessable", "conflict", "key"):
                raise VendorError("locked", error.detail) from error
            raise

    async def _was_created(self, instance: str) -> bool:
        if instance in self._ours:
            return True
        pod = await self._api.pod(instance, Urgency.STOP)
        return pod is not None and self._is_created(pod)

    async def close(self) -> None:
        await self._close()


def missing(kind: Kind, place: str) -> bool:
    return bool(place) and place not in kind.places


class RunPodPod(RentedProvider):
    """The provider `runpod-pod`."""

    name = Pods.name

    def __init__(
        self,
        wishes: Wishes,
        *,
        transport: Transport,
        look: Look,
        now: Callable[[], float],
        close: Callable[[], Awaitable[None]] = nothing,
        environment: Callable[[str], Mapping[str, str]] = lambda name: {},
        tempo: Tempo | None = None,
        manners: Manners | None = None,
        alarm: Callable[[str, str], None] = lambda kind, text: None,
        heard: Callable[[str, str], None] = lambda op, outcome: None,
    ) -> None:
        """`close`: gives back what the transport and the look hold. `environment`: what a pod that is created under a
        name gets beside the spec's own: the upstream's key, and what its lease needs. One that is resumed keeps what it
        was made with."""
        line = Line(transport, judge=judge, spent=quota_is_spent, heard=heard, manners=manners)
        vendor = Pods(RunPodApi(line), wishes, environment=environment, close=close)
        # RunPod's proxy ends an answer that says nothing for 100 s (docs, expose-ports).
        profile = Profile(models=wishes.models, concurrency=wishes.concurrency, cuts_silence=wishes.connect == "proxy")
        super().__init__(vendor, look=look, now=now, profile=profile, tempo=tempo, alarm=alarm)
