"""From settings to what rents: the provider that has a card behind it, the ledger, the treasury, who is told.

Beside assembly.py, which asks here where PROVIDER names something that costs money. Nothing of this is imported
elsewhere: an engine on this machine starts sooner without it.
"""

import asyncio
import hashlib
import importlib.util
import json
import secrets
import socket
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

from gateway.config import Settings, is_this_machine
from gateway.policy.account import account, as_json
from gateway.policy.books import dollars, moment
from gateway.policy.budget import Standing, Terms
from gateway.providers.base import Endpoint, Instance, Profile, Renter
from gateway.providers.renting.several import Several
from gateway.records.ledger.base import Ledger
from gateway.records.ledger.looking import is_redis
from gateway.records.ledger.sqlite import SqliteLedger, path_of
from gateway.surroundings import Surroundings
from gateway.treasury import Clocks, Treasury

if TYPE_CHECKING:
    import aiohttp

    from gateway.conductor import Conductor, Snapshot
    from gateway.providers.probe import Sight
    from gateway.providers.renting.leases import Lessor, Told
    from gateway.providers.renting.shared import Shared
    from gateway.providers.renting.vendor import Transport
    from gateway.records.alerts import Alerts, Event, NoAlerts
    from gateway.records.metrics import Metrics
    from gateway.records.readings import MoneyFacts

SPEC_MOST = 256 * 1024
"""Bytes of a file with RUNPOD_POD_SPEC."""
CERTIFICATE = "rented-tls.pem"
"""In DATA_DIR/keys: what pods that are created show at their port; the same each time, so that each is known again."""


class CannotRent(Exception):
    """One line that says what is wrong and what to do."""


@dataclass(slots=True)
class Ears:
    """Who hears of what happens at a vendor. Filled in when there is somebody: the provider is made first."""

    alarm: Callable[[str, str], None] = lambda kind, text: None
    """(kind, sentence): what somebody should know at once."""
    heard: Callable[[str, str, str], None] = lambda provider, call, outcome: None
    """Each call to a vendor's API, and what came of it."""


def prefix_of(settings: Settings, upstream: str) -> str:
    """What all names of ours at a vendor begin with. Made of what does not change when everything here is lost, and
    differs where two gateways share an account: the upstream's name and its key."""
    made_of = f"{upstream}\n{_secret(settings.upstream_api_key)}"
    return f"wakegate-{hashlib.sha256(made_of.encode()).hexdigest()[:8]}-"


Fence = Callable[["Transport"], "Transport"]
"""Around a vendor's transport: lets a call through only for whoever may make it."""


def make_renter(settings: Settings, *, upstream: str = "default", ears: Ears | None = None) -> Renter:
    """What PROVIDER names, alone. Needs a running loop, opens nothing. Raises CannotRent."""
    return _make_alone(settings, upstream, ears or Ears(), lambda transport: transport)


def make_shared(settings: Settings, *, upstream: str = "default", ears: Ears | None = None) -> Renter:
    """The same, shared with other gateways over the Redis in STATE_URL where that is one. Raises CannotRent."""
    if not is_shared(settings):
        return make_renter(settings, upstream=upstream, ears=ears)
    if importlib.util.find_spec("redis") is None:
        raise CannotRent("STATE_URL: a Redis needs its client; pip install 'wakegate[redis]', or leave STATE_URL out")
    from gateway.providers.renting.seat import Seat, fenced, since_boot
    from gateway.providers.renting.shared import Shared
    from gateway.records.board.redis import RedisBoard

    heard, key = ears or Ears(), _secret(settings.upstream_api_key)
    me = f"{socket.gethostname()}-{secrets.token_hex(6)}"  # another one at each boot
    seat = Seat(RedisBoard(settings.state_url or "", upstream), me=me, clock=since_boot)

    def make() -> Renter:
        return _make_alone(settings, upstream, heard, lambda transport: fenced(transport, seat))

    def complete(endpoint: Endpoint) -> Endpoint:
        """With the key, which does not lie on the board."""
        return replace(endpoint, key=key) if endpoint.url else endpoint

    return cast(Renter, Shared(make, seat, complete=complete))  # its name is read only


def is_shared(settings: Settings) -> bool:
    return is_redis(settings.state_url)


def _make_alone(settings: Settings, upstream: str, ears: Ears, fence: Fence) -> Renter:
    made = {"runpod-pod": _make_runpod, "vast": _make_vast}
    renters = [made[name](settings, upstream, ears, fence) for name in settings.providers]
    return renters[0] if len(renters) == 1 else Several(renters)


def _session() -> "aiohttp.ClientSession":
    """To rented machines: a connection for each call, and no certificate but those that the system believes."""
    import aiohttp

    from gateway.proxy.pool import system_trust

    connector = aiohttp.TCPConnector(ssl=system_trust(), force_close=True)
    return aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar())


class _Sight:
    """Looks at upstreams with a session of its own, made with the first look."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None

    async def look(self, endpoint: Endpoint, path: str, within: float) -> "Sight":
        from gateway.providers.probe import look

        if self._session is None:
            self._session = _session()
        return await look(self._session, endpoint, path, within=within)

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()


def _transport(url: str, key: str, sight: _Sight) -> tuple[Any, Callable[[], Awaitable[None]]]:
    """The way to a vendor's API, and what gives back it and the sight."""
    from gateway.providers.renting.transport import HttpTransport
    from gateway.proxy.pool import system_trust

    trust = system_trust() if url.startswith("https:") else None
    transport = HttpTransport(url, headers={"Authorization": f"Bearer {key}"}, trust=trust)

    async def close() -> None:
        await transport.close()
        await sight.close()

    return transport, close


def _secret(value: Any) -> str:
    return str(value.get_secret_value()) if value is not None else ""


def _make_runpod(settings: Settings, upstream: str, ears: Ears, fence: Fence) -> Renter:
    from gateway.providers.runpod_pod.provider import RunPodPod, Wishes

    s, sight = settings, _Sight()
    pod, fingerprint, handed = _what_to_run(s)
    key = _secret(s.upstream_api_key)
    wishes = Wishes(
        pod,
        prefix_of(s, upstream),
        port=s.runpod_pod_port,
        connect=s.runpod_connect,
        proxy_url=s.runpod_proxy_url,
        key=key,
        fingerprint=fingerprint,
        plain_http=s.allow_plain_http,
        hourly_price=s.hourly_price,
        storage_price=s.storage_price,
        models=s.served_model_name,
        concurrency=s.max_concurrent_requests,
        public_only=not _is_local(s.runpod_api_url),
    )
    transport, close = _transport(s.runpod_api_url, _secret(s.runpod_api_key), sight)
    return RunPodPod(
        wishes,
        transport=fence(transport),
        look=sight.look,
        now=time.time,
        close=close,
        environment=lambda name: {"API_KEY": key, "VLLM_API_KEY": key, **handed},  # a bare vLLM reads the second
        alarm=lambda kind, text: ears.alarm(kind, text),
        heard=lambda call, outcome: ears.heard("runpod-pod", call, outcome),
    )


def _what_to_run(s: Settings) -> tuple[Any, str | None, Mapping[str, str]]:
    """The pod's id or its spec, the certificate that it shows, and what it is handed over in its environment."""
    strategy = s.runpod_strategy or ("recreate" if s.runpod_pod_spec is not None else "resume")
    over_tcp = s.runpod_connect == "tcp"
    if strategy == "resume":
        return s.runpod_pod_id, s.tls_fingerprint if over_tcp else None, {}
    from gateway.providers.runpod_pod.provider import Spec

    try:
        spec = Spec.of(_spec(s.runpod_pod_spec or ""))
    except ValueError as error:
        said = str(error).removeprefix("RUNPOD_POD_SPEC").lstrip(": ")
        raise CannotRent(f"RUNPOD_POD_SPEC: {said} Allowed: the body of POST /pods, or a file with it") from None
    if not over_tcp or s.tls_fingerprint is not None or s.allow_plain_http:
        return spec, s.tls_fingerprint if over_tcp else None, {}
    from gateway.providers.renting import certificates

    try:
        pair = certificates.kept(s.data_dir / "keys" / CERTIFICATE)
    except (certificates.NoCertificate, OSError) as error:
        raise CannotRent(f"RUNPOD_CONNECT: tcp needs a certificate for the pod; none can be made: {error}") from None
    return spec, pair.fingerprint, pair.environment()


def _spec(text: str) -> Any:
    """JSON, or the path of a file with it. Raises ValueError, whose text holds nothing of what stands there."""
    if not text.lstrip().startswith("{"):
        try:
            with Path(text).expanduser().open("rb") as file:
                text = file.read(SPEC_MOST + 1)[:SPEC_MOST].decode("utf-8")
        except UnicodeDecodeError:
            raise ValueError("The file is not text in UTF-8.") from None
        except OSError as error:
            raise ValueError(f"It is no JSON, and no file that can be read ({error.strerror}).") from None
    try:
        return json.loads(text)
    except ValueError as error:
        raise ValueError(f"It is not JSON: {str(error).partition(':')[0]}.") from None


def _make_vast(settings: Settings, upstream: str, ears: Ears, fence: Fence) -> Renter:
    from gateway.providers.vast.api import root_of
    from gateway.providers.vast.provider import VastProvider

    s, sight = settings, _Sight()
    transport, close = _transport(root_of(s.vast_api_url), _secret(s.vast_api_key), sight)
    return VastProvider(
        s.vast_instance_id or "",
        transport=fence(transport),
        look=sight.look,
        now=time.time,
        port=s.vast_port,
        key=_secret(s.upstream_api_key),
        fingerprint=s.tls_fingerprint,
        plain_http=s.allow_plain_http,
        public_only=not _is_local(s.vast_api_url),
        hourly_price=s.hourly_price,
        profile=Profile(models=s.served_model_name, concurrency=s.max_concurrent_requests),
        alarm=lambda kind, text: ears.alarm(kind, text),
        heard=lambda call, outcome: ears.heard("vast", call, outcome),
        close=close,
    )


def _is_local(url: str) -> bool:
    """A vendor on this machine is an emulator, whose machines are here, too."""
    return is_this_machine(urlsplit(url).hostname or "")


# --- The ledger, and who looks after it -------------------------------------------------------------------------------


def terms_of(settings: Settings) -> Terms:
    monthly = settings.monthly_budget
    return Terms(
        monthly if isinstance(monthly, int) else None,
        round(settings.budget_grace * 1000),
        round(settings.start_max * 1000),
    )


def ledger_opener(settings: Settings, around: Surroundings) -> Callable[[], Awaitable[Ledger]]:
    """Each call opens it anew. Raises CannotRent where what is set cannot be one."""
    url = settings.state_url or ""
    if is_shared(settings):
        from gateway.records.ledger.redis import RedisLedger

        async def open_redis() -> Ledger:
            return RedisLedger(url)

        return open_redis
    path = path_of(url, settings.data_dir)
    network = around.on_network(path.parent)

    async def open_file() -> Ledger:
        return SqliteLedger(path, network=network)

    return open_file


def make_alerts(
    settings: Settings,
    *,
    redact: Callable[[str], str],
    say: Callable[[str, str], None],
    on_done: Callable[[str], None],
) -> "Alerts | NoAlerts":
    from gateway.records.alerts import Alerts, NoAlerts, web_hook

    if settings.alert_url is None:
        return NoAlerts()
    from gateway.proxy.pool import system_trust

    return Alerts(web_hook(settings.alert_url, system_trust), who="wakegate", redact=redact, say=say, on_done=on_done)


EVENTS: Mapping[str, "Event"] = {"provider_auth": "key_refused"}
"""Alarms of providers that alerts have another word for."""


class Renting:
    """Everything that a gateway has only because it rents. The conductor is given its `journal` and its `gate`."""

    def __init__(
        self,
        settings: Settings,
        around: Surroundings,
        renter: Renter,
        ears: Ears,
        metrics: "Metrics",
        *,
        upstream: str,
        elsewhere: Callable[[], int],
        redact: Callable[[str], str],
        say: Callable[[str, str], None],
    ) -> None:
        """`elsewhere`: micro-dollars of this month that count against the budget and are in no ledger."""
        self._settings = settings
        self._upstream = upstream
        self._renter = renter
        self._metrics = metrics
        self._say = say
        self._loop = asyncio.get_running_loop()
        self.alerts = make_alerts(settings, redact=redact, say=say, on_done=metrics.alerted)
        self.treasury = Treasury(
            ledger_opener(settings, around),
            renter,
            terms_of(settings),
            prefix=prefix_of(settings, upstream),
            clocks=Clocks(time.time, partial(time.clock_gettime, time.CLOCK_BOOTTIME)),
            max_runtime=settings.max_runtime,
            hourly_price=settings.hourly_price,
            elsewhere=elsewhere,
            alarm=self._alarmed,
            say=say,
        )
        ears.alarm = lambda kind, text: self._alarmed(kind, text, text[:80])
        ears.heard = metrics.provider_called
        metrics.watch_money(self._facts, renter.name)
        if settings.alert_url is not None:
            metrics.watch_alerts()
        self._conductor: Conductor | None = None
        self._told: Told | None = None
        self._lessor: Lessor | None = None
        self._session: aiohttp.ClientSession | None = None
        self._keeping: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<Renting {self.treasury!r}, leases {self._told}>"

    def attach(self, conductor: "Conductor") -> None:
        self._conductor = conductor
        self.treasury.attach(conductor)
        if self.journal is None:
            cast("Shared", self._renter).begin(self.treasury)

    @property
    def journal(self) -> Treasury | None:
        """What the conductor writes to. None: several gateways share what is rented, and who decides among them writes
        what began and ended."""
        return None if hasattr(self._renter, "decides") else self.treasury

    def begin(self) -> None:
        """The ports listen: look at what runs, and lend the worker its time."""
        from gateway.providers.renting.leases import Lessor, by

        self._session = _session()
        self._lessor = Lessor(by(self._session), wall=time.time, ends_in=self._ends_in, on_told=self._lease_told)
        self._keeping = self._loop.create_task(self._lessor.keep(self._where), name="leases")
        self.treasury.begin()

    async def leave(self) -> None:
        """What runs is left to a successor: its lease is to last until that one comes."""
        if self._lessor is not None:
            await self._lessor.leave(self._where)

    async def close(self) -> None:
        if self._keeping is not None:
            self._keeping.cancel()
            await asyncio.wait({self._keeping})
        await self.treasury.close()
        await self.alerts.close(2.0)
        if self._session is not None:
            await self._session.close()

    # -- what is told --------------------------------------------------------------------------

    @property
    def price(self) -> int:
        """Micro-dollars that an hour costs now."""
        return sum(one.price for one in self.treasury.books.open)

    def money(self) -> dict[str, object]:
        """For the operator."""
        standing = self.treasury.standing()
        return {
            "month": standing.month,
            "spent_dollars": standing.spent / 1_000_000,
            "storage_dollars": standing.storage / 1_000_000,
            "reserved_dollars": standing.reserved / 1_000_000,
            "budget_dollars": None if standing.monthly is None else standing.monthly / 1_000_000,
            "left_dollars": None if standing.left is None else standing.left / 1_000_000,
            "warned_percent": self.treasury.books.warned(standing.month),
            "renews": moment(standing.renews),
            "ends": None if standing.ends_at is None else moment(standing.ends_at),
            "trouble": self.treasury.trouble,
            "lease": self._lease(),
        }

    def spend(self, keys: Mapping[str, int] | None = None) -> dict[str, object]:
        """GET /admin/spend. `keys`: their shares of this month."""
        names = {self._upstream: self._settings.served_model_name[0]} if self._settings.served_model_name else {}
        treasury = self.treasury
        return as_json(account(treasury.books, treasury.terms, treasury.at, keys=keys, names=names))

    @property
    def state(self) -> str:
        """For /health, with a key."""
        return self.treasury.trouble or "ok"

    def wake_line(self, snapshot: "Snapshot") -> str:
        idle = self._settings.idle_timeout
        if snapshot.idle_at is not None:
            idle = snapshot.idle_at - self._loop.time()
        return wake_line(snapshot, self.treasury.standing(), None if idle is None else time.time() + idle)

    def _lease(self) -> str:
        told = self._told
        if told is None:
            return "none was sent yet"
        if told.trouble:
            return told.trouble
        return told.report.key if told.report is not None else "sent"

    def _facts(self) -> "MoneyFacts | None":
        from gateway.records.readings import MoneyFacts

        standing = self.treasury.standing()
        running = standing.spent - standing.storage
        return MoneyFacts(running, standing.storage, standing.reserved, self.price, standing.monthly)

    def _alarmed(self, kind: str, text: str, about: str) -> None:
        self.alerts.tell(EVENTS.get(kind, cast("Event", kind)), text, about=about)
        if kind == "budget":
            self._metrics.budget_warned(int(about.rpartition(" ")[2]))
        else:
            self._say(text, "warning")

    # -- leases ----------------------------------------------------------------------------------

    def _where(self) -> tuple[str, Endpoint] | None:
        """Of what runs: as soon as its port may answer, since a controller may be lost while it loads, too."""
        instance = self._conductor.snapshot().instance if self._conductor is not None else None
        if hasattr(self._renter, "held"):
            instance = cast("Shared", self._renter).held
        if instance is None:
            return None
        if (ask := getattr(self._renter, "whereabouts", None)) is not None:
            found: tuple[str, Endpoint] | None = ask(instance)
            return found
        return (instance.id, instance.endpoint) if instance.endpoint.url else None

    def _ends_in(self, instance: str) -> float | None:
        return self.treasury.ends_in

    def _lease_told(self, told: "Told") -> None:
        self._told = told
        if told.trouble:
            self._say(f"the dead man's lease of {told.instance}: {told.trouble}", "warning")
        elif told.can_stop_itself is False and told.report is not None:
            text = f"{told.instance} cannot stop itself if this gateway dies: {told.report.key}"
            self._alarmed("key_refused", text, told.instance)


def wake_line(snapshot: "Snapshot", standing: Standing, stops: float | None) -> str:
    """`$0.34/h, stops 15:42 if idle, $3.10 of $20 this month`: what each real wake is told with. `stops`: Unix time, if
    nobody comes any more."""
    price = snapshot.instance.price if snapshot.instance is not None else 0
    parts = [f"{dollars(price)}/h"]
    if stops is not None:
        parts.append(f"stops {datetime.fromtimestamp(stops):%H:%M} if idle")
    return ", ".join([*parts, f"{cents(standing.spent)}{standing.of_the_budget} this month"])


def what_is_left(instance: Instance | None, *, on_purpose: bool) -> str:
    """Said when the gateway ends; empty where nothing runs on."""
    if instance is None:
        return ""
    price = f", {dollars(instance.price)}/h," if instance.price else ""
    if on_purpose:
        return f"{instance.id} at {instance.provider}{price} is left running, for a successor"
    return (
        f"warning: {instance.id} at {instance.provider}{price} may run on: its stop is not confirmed. "
        "The next gateway here ends it, or: wakegate stop --all"
    )


def cents(amount: int) -> str:
    """`$3.10`, and all of it where it is less than ten cents."""
    return f"${amount / 1_000_000:,.2f}" if amount >= 100_000 else dollars(amount)
