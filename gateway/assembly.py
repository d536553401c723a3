"""From settings to rooms: which provider, with what; who may. What `app.py` needs to know of each, in one place."""

import asyncio
import errno
import os
import shlex
import socket
import time
from collections.abc import Awaitable, Callable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

from gateway.config import Settings, host_and_port, is_this_machine
from gateway.policy.keys import Key
from gateway.policy.schedule import Schedule
from gateway.policy.spending import Spending, problem
from gateway.providers.base import Endpoint, Gone, Intent, Loading, Provider, Renter
from gateway.providers.catalogue import provider_class
from gateway.records import lines
from gateway.records.logs import Formats, LogPlan, Logs
from gateway.records.spent import Spent, SpentFolder
from gateway.surroundings import Surroundings, own_certificate
from gateway.warmth import Warmth
from gateway.web.auth import Keys, first_key
from gateway.web.keyring import Keyring, KeysWrong
from gateway.web.ports import listening

if TYPE_CHECKING:
    from gateway.conductor import Conductor

    # The room of models is entered only where there is one to look for.
    from gateway.providers.local.commands import EngineSpec
    from gateway.providers.local.loading.warmup import Warmup
    from gateway.providers.local.models.facts import ModelFacts
    from gateway.providers.local.models.models import Places, Wants
    from gateway.providers.local.planning.planner import Planner
    from gateway.providers.local.provider import FoundModel
    from gateway.providers.own_machine.watchdog import Watchdog
    from gateway.proxy.bodies import Bodies
    from gateway.proxy.fallback import Fallback
    from gateway.proxy.purse import Purse
    from gateway.proxy.upstream import Limits
    from gateway.records.metrics import Metrics
    from gateway.renting import Ears
    from gateway.web.leases import LeaseDesk
    from gateway.web.quota import Quotas
    from gateway.web.tls import Certificate

DEMO_NAME = "wakegate-demo"
CERTIFICATE_HANDED_OVER = "WAKEGATE_TLS_PAIR"
"""As renting/certificates.py has it, which is entered only where there is one."""


class CannotStart(Exception):
    """One line that says what is wrong and what to do. Exit code 2."""


@dataclass(frozen=True, slots=True)
class Boot:
    """What start.sh hands over: this boot's nonce, its private folder, and the model to speak nonsense with."""

    nonce: str
    run_folder: Path
    demo_model: Path | None
    stamp: str = "boot"
    """When and where, for names of log files: `<boot>_<worker>`."""
    worker: str = "worker"
    """Where: the same at the next boot on this machine."""


@dataclass(frozen=True, slots=True)
class Access:
    """Who may, and how a person gets the key."""

    keys: Keys
    admin: Keys
    keyring: Keyring
    shell_key: str | None
    """What to paste for the key; None when keys are off."""
    said: tuple[str, ...]
    """Lines for the console."""
    made: str | None = None
    """The key that was made just now, for the person at the terminal."""
    secrets: tuple[str, ...] = ()
    """Keys that no setting holds, and no log may."""


def make_access(settings: Settings, around: Surroundings) -> Access:
    """Who may (INTERFACE: "No key configured"). Raises CannotStart where nobody would be kept out by accident."""
    admin = Keys([Key.of("admin", settings.admin_key.get_secret_value())] if settings.admin_key else [])

    def access(ring: Keyring, shell_key: str | None, *said: str) -> Access:
        return Access(Keys(ring), admin, ring, shell_key, said)

    if settings.auth_enabled is False:
        return access(Keyring(), None, "Keys are off (AUTH_ENABLED=false): anybody who reaches it may use it.")
    fixed = [Key.of("api-key", settings.api_key.get_secret_value())] if settings.api_key is not None else []
    if fixed or settings.api_keys_file is not None:
        ring = _load_keys(settings, fixed)
        count = f"{len(ring.keys) - len(fixed)} keys in {settings.api_keys_file}"
        said = (count, *(f"warning: {line}" for line in ring.warnings)) if settings.api_keys_file is not None else ()
        return access(ring, "$API_KEY", *said)
    if settings.auth_enabled is None and around.edge_asks_key:
        said_once = "No API_KEY is set: this worker relies on RunPod's edge, which asks callers for a RunPod key."
        return access(Keyring(), None, said_once)
    if around.fleet:
        raise CannotStart(
            f"API_KEY: not set, and on {around.platform} a key made here would be lost with it; set API_KEY, or "
            "AUTH_ENABLED=false if something in front asks for a key."
        )
    key, path, made = _first_key(settings.data_dir / "keys")
    said_of_it = f"{'A first API key was made' if made else 'The API key is the first one made here'}: {path}"
    found = access(Keyring([Key.of("first-key", key)]), f"$(cat {shlex.quote(str(path))})", said_of_it)
    return replace(found, made=key if made and around.is_terminal else None, secrets=(key,))


def _load_keys(settings: Settings, fixed: list[Key]) -> Keyring:
    """A monthly_spend that nobody can count is an objection: a limit on money that is none."""
    ring = Keyring(
        fixed,
        settings.api_keys_file,
        objection=lambda keys: problem(keys, price_of_an_hour(settings)),
    )
    try:
        ring.load()
    except KeysWrong as error:
        raise CannotStart(str(error)) from error
    return ring


def _first_key(folder: Path) -> tuple[str, Path, bool]:
    try:
        return first_key(folder)
    except OSError as error:
        raise CannotStart(
            f"API_KEY: not set, and a first key cannot be kept in {folder} ({error.strerror or error}); "
            "set API_KEY, or DATA_DIR to a folder that can be written."
        ) from error


def make_certificate(settings: Settings, boot: Boot) -> "Certificate | None":
    """What PORT speaks TLS with: the operator's, one of its own (TLS_CERT=self), or one that whoever rents this machine
    handed over. Raises CannotStart."""
    file = _own_certificate(settings, boot) or settings.tls_cert
    if file is None:
        return None
    from gateway.web.tls import Certificate, CertificateError

    certificate = Certificate(file, settings.tls_key if file == settings.tls_cert else None)
    try:
        certificate.load()
    except CertificateError as error:
        raise CannotStart(str(error)) from error
    return certificate


def _own_certificate(settings: Settings, boot: Boot) -> Path | None:
    """The file of one that nobody else signed, there by now, and its fingerprint said; None: it has none."""
    is_own = settings.tls_cert == own_certificate(settings.data_dir)
    if not is_own and not os.environ.get(CERTIFICATE_HANDED_OVER):
        return None
    from gateway.providers.renting import certificates
    from gateway.records.console import say

    try:
        handed = certificates.handed_over(os.environ)
        if handed is None:
            path = own_certificate(settings.data_dir)
            pair = certificates.kept(path)
        else:
            path, pair = boot.run_folder / "worker-tls.pem", handed
            path.unlink(missing_ok=True)  # of an earlier start in the same folder
            certificates.write(path, pair)
    except certificates.NoCertificate as error:
        raise CannotStart(f"TLS_CERT: {error}.") from error
    except OSError as error:
        raise CannotStart(f"TLS_CERT: its own certificate cannot be kept ({error.strerror or error}).") from error
    say(f"PORT shows a certificate of its own; for whoever rents this: TLS_FINGERPRINT={pair.fingerprint}", always=True)
    return path


def make_warmth(settings: Settings, conductor: "Conductor") -> Warmth:
    """What keeps it up without being asked. Raises CannotStart where WARM_SCHEDULE cannot be read."""
    schedule = Schedule()
    if settings.warm_schedule:
        from zoneinfo import ZoneInfo, available_timezones

        try:
            schedule = Schedule.of(settings.warm_schedule, ZoneInfo)
        except ValueError as error:
            lacks = "" if available_timezones() else " This machine knows none: install tzdata."
            raise CannotStart(f"WARM_SCHEDULE: {error}{lacks}") from error

    def may() -> bool:
        away = conductor.refusal()
        return away is None or away.code != "insufficient_quota"

    clock = asyncio.get_running_loop().time
    return Warmth(conductor.keep_warm, schedule, clock=clock, wall=time.time, may=may)


def make_watchdog(settings: Settings, around: Surroundings) -> "Watchdog | None":
    """What stops this machine from inside when whoever rents it is gone; None: nobody has to."""
    elsewhere = settings.upstream_url is not None and not is_this_machine(host_and_port(settings.upstream_url)[0])
    if settings.rents or (settings.provider == "external" and elsewhere):
        return None  # a controller or a proxy, for which nobody rents a GPU
    from gateway.providers.own_machine.vendors import own_machine
    from gateway.providers.own_machine.watchdog import Watchdog, over_https
    from gateway.proxy.pool import system_trust
    from gateway.records.console import say

    urls = {"runpod-pod": settings.runpod_api_url, "vast": settings.vast_api_url}
    machine = own_machine(around, os.environ, urls)
    if machine is None:
        return None
    return Watchdog(
        machine,
        after=float("inf") if settings.self_stop_after is None else settings.self_stop_after,
        open_transport=lambda: over_https(machine, system_trust()),
        say=say,
    )


def make_lease_desk(settings: Settings, watchdog: "Watchdog | None") -> "LeaseDesk | None":
    """Where leases come in: nowhere without an API_KEY, which a controller and this worker share."""
    if watchdog is None or settings.api_key is None:
        return None
    from gateway.policy.lease import key_from
    from gateway.web.leases import LeaseDesk

    return LeaseDesk(key_from(settings.api_key.get_secret_value()), watchdog, clock=time.monotonic)


def make_quotas(settings: Settings, boot: Boot, *, now: float) -> "Quotas":
    """What keys may take, and, where an hour has a price, what they have spent, kept on the volume."""
    from gateway.web.quota import Quotas

    price = price_of_an_hour(settings)
    if price is None:
        return Quotas()
    spent = Spent(SpentFolder(settings.data_dir / "state" / "spent", f"{boot.worker}-{settings.port}"))
    return Quotas(Spending(price, now=now, wall=time.time()), spent)


def price_of_an_hour(settings: Settings) -> int | None:
    """What the shares of keys are counted by at first. What is rented costs nothing before it is; then the ledger knows
    its price. None: nobody says any, and nothing can be counted."""
    return 0 if settings.rents else settings.hourly_price


def make_fallback(
    settings: Settings,
    boot: Boot,
    conductor: "Conductor",
    metrics: "Metrics",
    limits: "Limits",
    *,
    behind_edge: bool,
) -> "Fallback | None":
    """Who else may answer; None where the operator wants nobody."""
    if not settings.has_fallback or settings.fallback_url is None or settings.fallback_model is None:
        return None
    from gateway.policy.fallback import Often, Rules, WakeAfter
    from gateway.proxy.fallback import Answered, Fallback, limits_for
    from gateway.records.console import say

    waking = ("waking",) if settings.cold_start == "fallback" else ()
    rules = Rules(frozenset((*waking, *settings.fallback_on)))
    key = settings.fallback_api_key.get_secret_value() if settings.fallback_api_key else None
    parts = urlsplit(settings.fallback_url)
    purse = _make_purse(settings, boot)
    model = settings.fallback_model
    say(f"{parts.netloc} answers in its place ({', '.join(sorted(rules.when))}), as {model}")

    def count(answered: Answered) -> None:
        usage = answered.usage
        metrics.fallback_answered(
            answered.outcome,
            answered.why,
            tokens_in=usage.prompt if usage else 0,
            tokens_out=usage.completion if usage else 0,
            cost=answered.cost,
        )

    metrics.watch_fallback(lambda: None if (spent := purse.spent) is None else spent / 1_000_000, sorted(rules.when))
    return Fallback(
        Endpoint(f"{parts.scheme}://{parts.netloc}", prefix=parts.path, key=key),
        model=model,
        rules=rules,
        conductor=conductor,
        purse=purse,
        limits=limits_for(limits, behind_edge=behind_edge, hold_max=settings.hold_max),
        most_bytes=settings.max_queue_bytes,
        wake_after=WakeAfter(Often(*settings.wake_after)) if settings.wake_after is not None else None,
        on_answered=count,
        on_objection=metrics.fallback_not_asked,
        say=say,
    )


def _make_purse(settings: Settings, boot: Boot) -> "Purse":
    """What the fallback may cost, and has cost, kept on the volume."""
    from gateway.policy.purse import Prices
    from gateway.proxy.purse import KeptPurse, Purse

    if settings.fallback_price_in is None or settings.fallback_price_out is None:
        return Purse()
    limited = settings.fallback_max_spend is not None
    folder = SpentFolder(settings.data_dir / "state" / "fallback", f"{boot.worker}-{settings.port}", strict=limited)
    return KeptPurse(
        Prices(settings.fallback_price_in, settings.fallback_price_out),
        settings.fallback_max_spend,
        # With a limit requests wait until what they may cost is written; else nobody waits.
        lambda tell: Spent(folder, write_every=0.02 if limited else 5.0, what="what the fallback costs", on_news=tell),
        time.time,
    )


# --- Before the rest is imported --------------------------------------------------------------------------------------

UPSTREAM = "default"
"""What the one upstream is called."""


@dataclass(slots=True)
class Ports:
    """Those that callers come to, open; nobody is accepted before there is somebody to answer."""

    main: Sequence[socket.socket]
    metrics: Sequence[socket.socket] = ()

    def close(self) -> None:
        for opened in (*self.main, *self.metrics):
            opened.close()


def open_ports(settings: Settings) -> Ports:
    """Raises CannotStart when one is taken."""
    main = _open("PORT", settings.host, settings.port)
    if settings.metrics_port is None:
        return Ports(main)
    try:
        return Ports(main, _open("METRICS_PORT", settings.host, settings.metrics_port))
    except CannotStart:
        Ports(main).close()
        raise


def _open(setting: str, host: str, port: int) -> list[socket.socket]:
    try:
        return listening(host, port)
    except OSError as error:
        raise CannotStart(listen_problem(host, port, error, setting)) from error


def listen_problem(host: str, port: int, error: OSError, setting: str = "PORT") -> str:
    if error.errno == errno.EADDRINUSE:
        return f"{setting}: {port} is taken by another program; stop that one, or set {setting} to a free one."
    if error.errno == errno.EACCES:
        return f"{setting}: {port} may not be opened by this user; set {setting} to one above 1023."
    return f"HOST: cannot listen on {host}:{port} ({error.strerror or error}); set HOST to an address of this machine."


@dataclass(slots=True)
class Ahead:
    """What is made first: whatever may refuse the start, and then the engine, which takes longer than all the rest."""

    access: Access
    certificate: "Certificate | None"
    provider: Provider
    ports: Ports | None = field(default=None)
    """None: not opened yet."""
    ears: "Ears | None" = None
    """Who hears of what happens at a vendor; None: nothing is rented."""

    async def close(self) -> None:
        """For a start that ends here. Whatever runs already is ended with it."""
        if self.ports is not None:
            self.ports.close()
        await self.provider.close()


def make_ahead(settings: Settings, around: Surroundings, boot: Boot) -> Ahead:
    """Opens and starts nothing. Raises CannotStart."""
    access = make_access(settings, around)
    certificate = make_certificate(settings, boot)
    if settings.rents:
        from gateway.renting import Ears

        ears = Ears()
        return Ahead(access, certificate, make_renter(settings, ears), ears=ears)
    return Ahead(access, certificate, make_provider(settings, around, boot))


async def go_ahead(ahead: Ahead, settings: Settings) -> None:
    """The ports, then the engine, if it is to be started at once: returns when its process is on its way, or soon."""
    ahead.ports = open_ports(settings)
    if settings.provider == "local" and settings.wake_on_start:
        from gateway.providers.local.provider import LocalProvider

        if isinstance(ahead.provider, LocalProvider):
            await ahead.provider.go_ahead(Intent(UPSTREAM, 1))


def make_logs(settings: Settings, boot: Boot, redact: Callable[[str], str]) -> Logs:
    """Not started yet."""
    plan = LogPlan(
        data_dir=settings.data_dir,
        name=settings.log_name,
        stamp=boot.stamp,
        to=settings.log_to,
        form=settings.log_format,
        level=settings.log_level,
        max_size=settings.log_max_size,
        rotate_every=settings.log_rotate_every,
        total_size=settings.log_total_size,
    )
    formats = Formats(lines.text_line, lines.json_line, lines.happening_text, lines.happening_json)
    return Logs(plan, formats=formats, redact=redact)


def make_bodies(settings: Settings, *, gather: bool = False, on_repair: Callable[[int], None]) -> "Bodies":
    """`gather`: whether the engine is asked for a stream where a caller asked for none."""
    from gateway.proxy.bodies import Bodies, BodyLimits
    from gateway.proxy.checker import Checker
    from gateway.proxy.checks import Rules, refused_fields
    from gateway.proxy.media import MediaFetcher

    rules = Rules(
        refused=refused_fields(",".join(settings.refuse_fields)),
        media_hosts=settings.media_hosts,
        media_fetch=settings.media_fetch,
        count_tokens=settings.count_tokens,
        gather=gather,
        output_tokens=settings.max_output_tokens,
    )
    media = MediaFetcher() if settings.media_fetch else None
    return Bodies(BodyLimits(size=settings.max_request_body_size), Checker(rules), media=media, on_repair=on_repair)


def model_text(settings: Settings, boot: Boot) -> str | None:
    """What MODEL is, or the demo model where nobody named one. None: there is none (an engine command of one's own)."""
    if settings.model is not None:
        return settings.model
    if settings.engine_command or settings.provider != "local":
        return None
    return str(boot.demo_model) if boot.demo_model is not None else None


def is_demo(settings: Settings, boot: Boot) -> bool:
    return settings.model is None and model_text(settings, boot) is not None


def make_provider(settings: Settings, around: Surroundings, boot: Boot) -> Provider:
    """The provider that PROVIDER names, ready to be told to start. Raises CannotStart."""
    if settings.rents:
        return make_renter(settings)
    if settings.provider == "external":
        return _make_external(settings)
    return _make_local(settings, around, boot)


def make_renter(settings: Settings, ears: "Ears | None" = None) -> "Renter":
    """What has a card behind it. Needs a running loop, opens nothing. Raises CannotStart. Without `ears` it is for a
    command that asks the vendor itself, whoever else shares what is rented."""
    from gateway import renting

    make = renting.make_renter if ears is None else renting.make_shared
    try:
        return make(settings, upstream=UPSTREAM, ears=ears)
    except renting.CannotRent as error:
        raise CannotStart(str(error)) from error


def _make_external(settings: Settings) -> Provider:
    import aiohttp

    from gateway.providers.external.provider import endpoint_of
    from gateway.proxy.pool import system_trust

    key = settings.upstream_api_key.get_secret_value() if settings.upstream_api_key else None
    try:
        endpoint = endpoint_of(settings.upstream_url or "", key)
    except ValueError as error:
        raise CannotStart(str(error)) from error
    try:
        endpoint = replace(endpoint, fingerprint=settings.tls_fingerprint)
    except ValueError:
        raise CannotStart("TLS_FINGERPRINT: set, and UPSTREAM_URL has no TLS; allowed: with https://") from None
    # The one that requests go by, see gateway/__main__.py; only where it is used: to make it takes 25 ms.
    context = system_trust() if endpoint.url.startswith("https:") else True
    session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context), cookie_jar=aiohttp.DummyCookieJar())
    provider: Provider = provider_class("external")(
        endpoint, session=session, models=settings.served_model_name, concurrency=settings.max_concurrent_requests
    )
    return provider


def idle_action(settings: Settings) -> Literal["sleep", "stop"]:
    """What the lifecycle orders where it is idle. An engine that turns out to be unable to sleep is stopped instead."""
    may = settings.provider == "local" and settings.engine in (None, "vllm") and settings.idle_action != "stop"
    return "sleep" if may else "stop"


def engine_spec(settings: Settings, served_names: tuple[str, ...]) -> "EngineSpec":
    """What the settings say about the engine; the doctor goes by the same."""
    from gateway.providers.local.commands import EngineSpec

    return EngineSpec(
        engine=settings.engine,
        served_names=served_names,
        ctx_size=settings.ctx_size,
        max_model_len=settings.max_model_len,
        n_gpu_layers=str(settings.n_gpu_layers),
        gpu_memory_utilization=settings.gpu_memory_utilization,
        max_num_seqs=settings.max_num_seqs,
        engine_args=tuple(settings.engine_args),
        engine_command=shlex.join(settings.engine_command),
        stop_command=shlex.join(settings.engine_stop_command),
        health_path=settings.engine_health_path or "",
        engine_env=dict(settings.engine_env),
        # One that is never idle is not made to hold anything in readiness for its sleep.
        idle_action="stop" if settings.idle_timeout is None else settings.idle_action,
    )


def _make_local(settings: Settings, around: Surroundings, boot: Boot) -> Provider:
    from gateway.providers.local.commands import CommandError
    from gateway.providers.local.loading.compile_caches import Volume, cache_variables
    from gateway.providers.local.planning.planner import Planner

    text = model_text(settings, boot)
    if text is None and not settings.engine_command:
        raise CannotStart(
            "MODEL: not set; set it to a path, a name under DATA_DIR/models, or a Hub id such as org/name."
        )
    spec = engine_spec(settings, settings.served_model_name or known_names(settings, boot))
    log = settings.data_dir / "logs" / settings.log_name / f"{boot.stamp}_engine.txt"
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
    except OSError:
        pass  # a volume that cannot be written: the guard counts what it drops, and the engine runs all the same
    spoiled: set[Path] = set()
    planner = Planner(environment=os.environ)
    volume = Volume(
        settings.data_dir / "cache",
        on_network=around.on_network(settings.data_dir),
        in_memory=around.in_memory(settings.data_dir),
        home_is_lost=around.in_container,
    )
    try:
        provider: Provider = provider_class("local")(
            spec,
            resolve=_resolver(settings, text, spoiled, partial(_admitted, planner, spec)),
            planner=planner,
            examine=_examiner(settings, spoiled),
            run_folder=boot.run_folder,
            boot=boot.nonce,
            log_path=log,
            log_limit=settings.log_max_size,
            log_every=settings.log_rotate_every,
            caches=partial(cache_variables, volume),
            warmup=_warmup(settings),
            read_ahead=settings.read_ahead,
        )
    except CommandError as error:
        raise CannotStart(str(error)) from error
    return provider


async def _admitted(planner: "Planner", spec: "EngineSpec", facts: "ModelFacts") -> None:
    """Whether what would be downloaded could be used here at all. Raises ModelError."""
    from gateway.providers.local.provider import find_installed

    await planner.admit(spec, facts, find_installed())


def _resolver(
    settings: Settings,
    text: str | None,
    spoiled: AbstractSet[Path],
    admit: "Callable[[ModelFacts], Awaitable[None]]",
) -> Callable[[Callable[[Loading], None]], Awaitable[object | None]]:
    """MODEL, found or fetched, each time the engine starts: what was there at the last start may be gone."""

    async def resolve(tell: Callable[[Loading], None]) -> object | None:
        if text is None:
            return None
        from gateway.providers.local.models import models

        return await models.resolve(
            text,
            places=places_of(settings),
            wants=wants_of(settings),
            token=settings.hf_token.get_secret_value() if settings.hf_token else None,
            on_progress=lambda download: tell(
                Loading("downloading", done=download.done, total=download.total, file=download.file)
            ),
            spoiled=spoiled,
            admit=admit,
        )

    return resolve


def _examiner(
    settings: Settings, spoiled: set[Path]
) -> "Callable[[FoundModel, Callable[[Loading], None]], Awaitable[Gone | None]]":
    """What is found damaged in somebody else's cache joins `spoiled`, for as long as this gateway lives."""

    async def examine(model: "FoundModel", tell: Callable[[Loading], None]) -> Gone | None:
        from gateway.providers.local.models import models

        return await models.examine(model.path, places=places_of(settings), spoiled=spoiled, on_progress=tell)

    return examine


def _warmup(settings: Settings) -> "Warmup | None":
    if settings.warmup is False:
        return None
    from gateway.providers.local.loading.warmup import Warmup

    path = settings.warmup if isinstance(settings.warmup, Path) else None
    if path is not None and not path.is_file():
        raise CannotStart(
            f"WARMUP: {path} is neither on, off nor a file that is there; it holds a prompt to begin with."
        )
    return Warmup(path)


def places_of(settings: Settings) -> "Places":
    from gateway.providers.local.models.models import Places

    return Places.of(settings.data_dir / "models", base_path=settings.base_path, environ=os.environ)


def wants_of(settings: Settings) -> "Wants":
    """The format that the named engine reads, or else the engines that are installed: nothing is downloaded that
    nothing here could serve."""
    if settings.engine in ("llama-cpp-python", "llama-server"):
        return "gguf"
    if settings.engine == "vllm":
        return "safetensors"
    if settings.engine_command:
        return "any"
    from gateway.providers.local.provider import find_installed

    installed = find_installed()
    if installed.vllm is None and (installed.llama_cpp or installed.llama_server):
        return "gguf"
    return "any"


def known_names(settings: Settings, boot: Boot) -> tuple[str, ...]:
    """What the model is called before it was ever looked for: /v1/models lists it while it sleeps."""
    if is_demo(settings, boot):
        return (DEMO_NAME,)
    text = model_text(settings, boot)
    if text is None:
        return ()
    from gateway.providers.local.models.model_error import ModelError
    from gateway.providers.local.models.models import name_of

    try:
        return (name_of(text, places_of(settings)),)
    except ModelError:
        return ()  # the start says what is wrong with it


def model_size(settings: Settings, boot: Boot) -> int:
    """Bytes of a model that lies on this machine's disk; 0 when it does not, or nobody knows."""
    from gateway.providers.local.models import models
    from gateway.providers.local.models.model_error import ModelError

    text = model_text(settings, boot)
    if text is None:
        return 0
    try:
        found = models.find(text, places=places_of(settings), wants=wants_of(settings))
    except (ModelError, OSError):
        return 0
    return found.size if found is not None else 0


def describe_engine(settings: Settings) -> str:
    if settings.rents:
        return f"what {settings.provider} rents"
    if settings.provider == "external":
        return settings.upstream_url or "external"
    return settings.engine or ("your command" if settings.engine_command else "the engine for this model")
