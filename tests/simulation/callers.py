"""Those who ask: they come in bursts, wait, are answered for a while, and leave at any moment.

A caller is a connection to one process: when that dies, the connection breaks, and the caller counts as told (I6). It
does what web/door.py does with a request: ask `admit`, wait for the turn, be answered by the upstream, give back.
"""

import asyncio
import random
from dataclasses import dataclass
from typing import Protocol

from gateway.conductor import Conductor
from gateway.errors import Refusal, Refused
from gateway.providers.base import Instance
from tests.simulation.scenario import Callers

PATIENCE = (None, None, None, 5.0, 60.0, 300.0)
ENDS = {
    "answered", "lost", "sent back", "left", "killed", "queue_full", "queue_timeout", "start_failed", "start_timeout",
    "draining", "insufficient_quota", "no_capacity", "provider_auth", "upstream_disabled", "backend_lost",
}  # fmt: skip
"""Every way in which a caller may end."""


@dataclass(frozen=True)
class Visit:
    name: str
    after: float
    takes: float
    patience: float | None
    leaves: float | None
    """Seconds after coming; None: it stays to the end."""


def visits(callers: Callers, seed: int) -> list[Visit]:
    """Everything that these callers will do."""
    dice = random.Random(f"callers {seed} {callers.number}")
    drawn = []
    for number in range(callers.count):
        takes = dice.uniform(0.05, callers.takes)
        leaves = dice.choice((0.0, 0.001, 2.0, dice.uniform(0, 120), takes)) if dice.random() < callers.leaves else None
        after = dice.uniform(0, callers.over)
        drawn.append(Visit(f"{callers.number}.{number}", after, takes, dice.choice(PATIENCE), leaves))
    return drawn


class Lost(Exception):
    """What answered is gone."""


class Upstream(Protocol):
    """What stands at the other end of a forwarded request."""

    def serves(self, instance: Instance) -> bool: ...


class Answering:
    """Who is being answered by what, so that the world can break it off."""

    def __init__(self) -> None:
        self.upstream: Upstream | None = None
        self._by_instance: dict[str, dict[asyncio.Future[None], str]] = {}

    def __repr__(self) -> str:
        return f"<Answering { ({instance: list(who.values()) for instance, who in self._by_instance.items() if who}) }>"

    def on(self, instance: str) -> list[str]:
        return list(self._by_instance.get(instance, {}).values())

    async def by(self, instance: Instance, who: str, takes: float) -> None:
        """Raises Lost when the instance does not answer, or ends before it is through."""
        if self.upstream is None or not self.upstream.serves(instance):
            raise Lost
        broken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        here = self._by_instance.setdefault(instance.id, {})
        here[broken] = who
        try:
            done, _ = await asyncio.wait({broken}, timeout=takes)
            if done:
                raise Lost
        finally:
            del here[broken]
            broken.cancel()

    def lose(self, instance: str) -> None:
        for broken in tuple(self._by_instance.get(instance, {})):
            if not broken.done():
                broken.set_result(None)


async def call(conductor: Conductor, visit: Visit, answering: Answering) -> str:
    """One caller, from its admission to its end, which is what it returns."""
    verdict = conductor.admit(visit.name, size=100, patience=visit.patience)
    if isinstance(verdict, Refusal):
        return verdict.code
    try:
        with verdict as ticket:
            ticket.carried_by(asyncio.current_task())
            instance = await ticket.wait(visit.patience)
            if instance is None:
                return "sent back"
            await answering.by(instance, visit.name, visit.takes)
            return "answered"
    except Refused as refused:
        return refused.refusal.code
    except Lost:
        return "lost"
