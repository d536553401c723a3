"""The gateway with some of its features only: what stands in for the others is here, and nowhere in the product.

    python -m bench.featured FEATURE,…        settings come from the environment, as start.sh's do

All rooms are the real ones; of a feature that is left out, the calls through which a request comes into its room are
replaced. One that is not there any more ends this at once, rather than measure nothing. Started by bench/features.py.
"""

import asyncio
import gc
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from types import ModuleType
from typing import Any

import aiohttp

from gateway import assembly, surroundings
from gateway.app import Gateway
from gateway.conductor import Conductor, Ticket
from gateway.policy.keys import Key
from gateway.process import loop_factory, make_boot
from gateway.providers.base import Endpoint
from gateway.providers.external.provider import ExternalProvider
from gateway.proxy import usage
from gateway.proxy.bodies import Bodies
from gateway.proxy.checker import Body
from gateway.records import console
from gateway.records.console import set_up_logging
from gateway.records.redact import Redactor
from gateway.web.door import Visit
from gateway.web.gate import Gate

FEATURES = ("auth", "metrics", "log", "usage", "hold", "body", "quotas")
PLENTY = 10**9
LIMITS = {"requests_per_minute": PLENTY, "tokens_per_minute": PLENTY, "max_concurrent": PLENTY}
"""Limits that are looked at and never reached."""
SOCKET = "BENCH_ENGINE_SOCKET"
"""The variable with the engine's unix socket, where it is to be reached by that."""


def stand_in(room: Any, name: str, other: Any) -> None:
    if not hasattr(room, name):
        raise SystemExit(f"{room!r} has no {name}: bench/featured.py knows an older gateway")
    setattr(room, name, other)


class Featured(Gateway):
    """One gateway, with these features."""

    def __init__(self, features: set[str], *arguments: Any) -> None:
        self._features = features
        if "usage" not in features:
            look_for_no_usage()
        super().__init__(*arguments)
        if "body" not in features:
            check_no_bodies(self._bodies)

    def _make_gate(self) -> Gate:
        gate = super()._make_gate()
        if "auth" not in self._features:
            somebody = replace(Key.of("bench", ""), **LIMITS) if "quotas" in self._features else None
            stand_in(gate, "enter", lambda request: somebody)
            stand_in(gate, "let_use", lambda key, route: None)
        return gate

    def _make_conductor(self) -> Conductor:
        if SOCKET in os.environ:
            path = os.environ[SOCKET]
            session = aiohttp.ClientSession(connector=aiohttp.UnixConnector(path))
            self.provider = ExternalProvider(Endpoint("http://127.0.0.1", socket=path), session=session)
        conductor = super()._make_conductor()
        if "hold" not in self._features:
            admit_everybody(conductor)
        return conductor

    def _ended(self, visit: Visit) -> None:
        if {"metrics", "log"} <= self._features:
            super()._ended(visit)
        elif visit.reply is not None and self._features & {"metrics", "log"}:
            ended = self._what_ended(visit, visit.reply)
            (self.metrics.ended if "metrics" in self._features else self.logs.request)(ended)


def admit_everybody(conductor: Conductor) -> None:
    """No line, no lifecycle: whoever comes once there is an engine goes to it."""
    admit = conductor.admit

    def at_once(request: str, **asked: Any) -> Any:
        instance = conductor.snapshot().instance
        if not conductor.snapshot().ever_ready or instance is None:
            return admit(request, **asked)
        stand_in(conductor, "admit", lambda request, **_: granted(request, instance))
        return granted(request, instance)

    def granted(request: str, instance: Any) -> Ticket:
        return Ticket(conductor, request, instance, None, 0.0)

    stand_in(conductor, "admit", at_once)


def check_no_bodies(bodies: Bodies) -> None:
    """What was found in the first body of a kind is believed of all the others: here they are."""
    check: Callable[..., Any] = bodies._check
    known: dict[bool, Body] = {}

    async def believed(raw: Any, route: str, *rest: Any) -> Body:
        if not isinstance(raw, bytes):
            return await check(raw, route, *rest)
        streams = b'"stream":true' in raw
        if streams not in known:
            known[streams] = await check(raw, route, *rest)
        return replace(known[streams], chunks=(raw,), size=len(raw))

    stand_in(bodies, "_check", believed)


class NoUsage:
    """A UsageWatch that looks at nothing."""

    usage = None

    def __init__(self, **_: Any) -> None:
        pass

    def feed(self, events: bytes) -> bytes:
        return events


def look_for_no_usage() -> None:
    """In every module that took the real ones by name."""
    others = {"UsageWatch": NoUsage, "usage_in": lambda *_: None}
    took = {name: [module for module in _proxy_modules() if hasattr(module, name)] for name in others}
    for name, modules in took.items():
        if not modules:
            raise SystemExit(f"nobody takes {name}: bench/featured.py knows an older gateway")
        for module in modules:
            setattr(module, name, others[name])


def _proxy_modules() -> list[ModuleType]:
    return [module for name, module in sys.modules.items() if name.startswith("gateway.proxy.") and module is not usage]


async def serve(features: set[str]) -> None:
    """As process.py does, from listening to the end."""
    settings, around = surroundings.settings_here(os.environ)
    boot = make_boot(os.environ)
    redact = Redactor(settings.secrets())
    logs = assembly.make_logs(settings, boot, redact)
    set_up_logging(settings.log_level)
    logs.start()
    console.install(logs)
    told = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, told.set)
    try:
        gateway = Featured(features, settings, around, boot, logs, redact)
        await gateway.listen()
        gateway.begin()
        gc.collect()
        gc.freeze()
        await told.wait()
        await gateway.drain()
        await gateway.close()
    finally:
        console.uninstall()
        logs.close()


if __name__ == "__main__":
    wanted = set(filter(None, sys.argv[1].split(",")))
    if unknown := wanted - set(FEATURES):
        raise SystemExit(f"no such feature: {', '.join(sorted(unknown))}")
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(serve(wanted))
