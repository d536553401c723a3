"""`wakegate rehearse --real --up-to 0.05`: one real cycle with the user's own settings, and a look whether it ended.

What it may cost is held by what holds it always: the run has a MONTHLY_BUDGET of what is spent already and --up-to
more, START_MAX and MAX_RUNTIME that fit into it, and the ledger of every other run. Afterwards the vendor itself is
asked, twice, whether anything still runs.
"""

import asyncio
import re
import secrets
import ssl
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from gateway import assembly
from gateway.config import SETTINGS, Settings
from gateway.policy.books import Books, dollars, month_of
from gateway.policy.budget import storage_due
from gateway.providers.base import ProviderError, Renter
from gateway.rehearsal.children import Child, free_port
from gateway.rehearsal.play import Caller, Failed, Say, Told, listening, read_books, running, surely
from gateway.rehearsal.stage import unix

GRACE = 10
"""BUDGET_GRACE of the run, seconds."""
SHORTEST = 60
"""What the budget keeps for the run after the start (policy/budget.py), seconds."""
SHORTEST_START = 60
IDLE = 3
BETWEEN = 2.0
"""Seconds between two looks that must both say that nothing runs."""
STOP_WITHIN = 120.0


@dataclass(frozen=True, slots=True)
class Bounds:
    """Of the run. Seconds, micro-dollars."""

    price: int
    budget: int
    start_max: int
    max_runtime: int


def bounds(price: int, up_to: int, spent: int, budget: int | None) -> Bounds:
    """What fits into `up_to` at this price. Raises Failed."""
    seconds = up_to * 3600 // price
    start = seconds - SHORTEST - GRACE
    if start < SHORTEST_START:
        needed = -(-price * (SHORTEST_START + SHORTEST + GRACE) // 3600)
        cents = -(-needed // 10_000)
        raise Failed(
            f"--up-to: at {dollars(price)} an hour {dollars(up_to)} last for {seconds} s, which no start fits into; "
            f"give at least {cents / 100:.2f}",
            code=2,
        )
    allowed = spent + up_to if budget is None else min(budget, spent + up_to)
    return Bounds(price, allowed, start, seconds)


def overrides(limits: Bounds, port: int, key: str) -> dict[str, str]:
    """What is not as the user set it, for this one run."""
    return {
        "HOST": "127.0.0.1",
        "PORT": str(port),
        "PORT_HEALTH": str(free_port()),
        "API_KEY": key,
        "AUTH_ENABLED": "true",
        "MONTHLY_BUDGET": f"{limits.budget / 1_000_000:.6f}",
        "BUDGET_GRACE": str(GRACE),
        "START_MAX": str(limits.start_max),
        "START_TIMEOUT": str(limits.start_max),
        "MAX_RUNTIME": str(limits.max_runtime),
        "IDLE_TIMEOUT": str(IDLE),
        "WAKE_ON_START": "false",
        "ON_EXIT": "stop",
        "COLD_START": "hold",
        "HOLD_GRACE": "0",
        "HEARTBEAT_INTERVAL": "5",
    }


def environment(environ: Mapping[str, str], changed: Mapping[str, str]) -> dict[str, str]:
    """The user's own, with these on top: names with the prefix come before all others, in any file."""
    fields = {name.lower() for name in changed}
    aliases = {f"WAKEGATE_{alias}" for field in fields for alias in SETTINGS[field].names}
    kept = {name: value for name, value in environ.items() if name not in aliases}
    for name in ("WAKEGATE_RUN_DIR", "WAKEGATE_BOOT"):
        kept.pop(name, None)
    return kept | {f"WAKEGATE_{name}": value for name, value in changed.items()}


async def play_for_real(say: Say, script: Path, environ: Mapping[str, str], settings: Settings, up_to: int) -> None:
    """The whole story. Raises Failed."""
    if not settings.rents:
        raise Failed(
            "PROVIDER rents nothing here: set PROVIDER=runpod-pod with RUNPOD_API_KEY and RUNPOD_POD_ID, or "
            "PROVIDER=vast with VAST_API_KEY and VAST_INSTANCE_ID",
            code=2,
        )
    tell = Told(say)
    with tempfile.TemporaryDirectory(prefix="wakegate-rehearsal-") as name:
        renter = _renter(settings)
        try:
            await _with(tell, renter, script, environ, settings, up_to, Path(name))
        except ProviderError as error:
            raise Failed(f"{error.reason} {error.detail}".strip()) from error
        finally:
            await renter.close()


def _renter(settings: Settings) -> Renter:
    """To ask with; it starts nothing."""
    try:
        return assembly.make_renter(settings)
    except assembly.CannotStart as error:
        raise Failed(str(error), code=2) from error


async def _with(
    tell: Told,
    renter: Renter,
    script: Path,
    environ: Mapping[str, str],
    settings: Settings,
    up_to: int,
    folder: Path,
) -> None:
    if there := await renter.list():
        raise Failed(f"{', '.join(one.id for one in there)} runs already: a rehearsal begins with nothing that costs")
    price = await renter.price()
    if price is None or price <= 0:
        raise Failed("nobody knows what it would cost; set HOURLY_PRICE", code=2)
    before = await _books(settings)
    at = max(int(unix() * 1000), before.latest)
    limits = bounds(price, up_to, _spent(before, at, await renter.storage(), renter.name), _budget(settings))
    tell("vendor", f"nothing of yours runs; it would cost {dollars(price)} an hour, so at most {limits.max_runtime} s")
    port, key = free_port(), secrets.token_hex(16)
    child = Child("gateway", script, folder, environment(environ, overrides(limits, port, key)), cwd=Path.cwd())
    scheme = "https" if settings.tls_cert is not None else "http"
    timeout = aiohttp.ClientTimeout(total=limits.start_max + 120)
    connector = aiohttp.TCPConnector(ssl=_nobody_else() if scheme == "https" else True)
    try:
        async with (
            running(child, settings.drain_timeout + 60),
            aiohttp.ClientSession(timeout=timeout, connector=connector) as session,
        ):
            caller = Caller(f"{scheme}://127.0.0.1:{port}", key, session)
            await listening(caller, child)
            calls = Calls(tell)
            watching = asyncio.ensure_future(_keep_looking(calls, caller))
            try:
                await _cycle(tell, caller, child, limits, warm=bool(settings.warm_schedule))
                calls.read(await caller.metrics())
            finally:
                watching.cancel()
                await asyncio.wait({watching})
    finally:
        await surely(_look_after(tell, renter))
    after = await _books(settings)
    for line in after.why(month_of(at), max(int(unix() * 1000), after.latest)):
        if line.at >= at and line.amount:
            tell("ledger", f"{dollars(line.amount)}  {line.text}")


class Calls:
    """What the gateway asks of its vendor, and what an hour costs, as its metrics have it: told when it is news."""

    ALWAYS = ("start", "create", "stop", "terminate")
    """Each of these; of the others the first of its kind."""
    _CALL = re.compile(r'^wakegate_provider_calls_total\{provider="[^"]*",call="(\w+)",outcome="(\w+)"\} (\d+)', re.M)
    _PRICE = re.compile(r"^wakegate_price_dollars_per_hour (\S+)", re.M)

    def __init__(self, tell: Callable[[str, str], None]) -> None:
        self._tell = tell
        self._known: dict[tuple[str, str], int] = {}
        self._price = 0.0

    def read(self, page: str) -> None:
        for call, outcome, count in self._CALL.findall(page):
            before = self._known.get((call, outcome), 0)
            self._known[call, outcome] = int(count)
            if int(count) > before and (not before or call in self.ALWAYS):
                self._tell("vendor", f"is asked for {call}: {outcome}")
        if (found := self._PRICE.search(page)) is not None and float(found[1]) != self._price:
            self._price = float(found[1])
            hour = dollars(round(self._price * 1_000_000))
            self._tell("vendor", f"costs {hour} an hour from now on" if self._price else "costs nothing any more")


async def _keep_looking(calls: Calls, caller: Caller) -> None:
    while True:
        calls.read(await caller.metrics())
        await asyncio.sleep(0.5)


async def _cycle(tell: Told, caller: Caller, child: Child, limits: Bounds, *, warm: bool) -> None:
    tell("you", "ask for a chat, streamed")
    comments: set[str] = set()

    def heard(comment: str) -> None:
        if comment and comment not in comments:
            comments.add(comment)
            tell("you", f"hear, while you wait: {comment}")

    answer = await caller.chat(heard)
    tell("you", f"are answered: {answer.strip()[:60]!r}")
    if warm:
        tell("gateway", "is ended now: WARM_SCHEDULE would keep it up")
        return
    tell("gateway", f"waits {IDLE} s for somebody else, then stops it")
    loop = asyncio.get_running_loop()
    deadline = loop.time() + IDLE + STOP_WITHIN
    while (said := str((await caller.health() or {}).get("state", ""))) != "stopped":
        if loop.time() > deadline:
            raise Failed(f"it is {said or 'silent'} after {IDLE + STOP_WITHIN:.0f} s, not stopped", child.tail())
        await asyncio.sleep(0.5)
    tell("gateway", "has seen it stopped, twice")


async def _look_after(tell: Told, renter: Renter) -> None:
    """Whatever happened before: ask the vendor. Raises Failed."""
    for look in range(2):
        if look:
            await asyncio.sleep(BETWEEN)
        try:
            there = await renter.list()
        except ProviderError as error:
            raise Failed(
                f"whether something still runs is not known ({error.reason}): look into the vendor's console, or "
                "`wakegate stop --all`"
            ) from error
        if there:
            names = ", ".join(one.id for one in there)
            raise Failed(f"{names} STILL RUNS AND COSTS: stop it in the vendor's console, or `wakegate stop --all`")
    tell("vendor", "was asked itself, twice: nothing of yours runs")


def _nobody_else() -> ssl.SSLContext:
    """The gateway is ours, on loopback; its certificate is for another name."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


async def _books(settings: Settings) -> Books:
    try:
        return await read_books(settings.data_dir, settings.state_url)
    except OSError as error:
        raise Failed(f"the ledger cannot be read: {error.strerror or error}") from error


def _spent(books: Books, at: int, storage: int | None, provider: str) -> int:
    """What the month's budget holds already, with the disks that the run will write down first."""
    due = storage_due(books, provider, storage, at) if storage else None
    # a rate more, for the clock goes on until the gateway writes it
    return books.spent(month_of(at), at) + (due.amount + due.price // 720 if due is not None else 0)


def _budget(settings: Settings) -> int | None:
    return settings.monthly_budget if isinstance(settings.monthly_budget, int) else None
