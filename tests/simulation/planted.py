"""Faults that are planted on purpose, each in one part of a house: what the simulation must find.

Whoever changes a part so that it has one of these faults is told so by tests/simulation/test_simulation.py; that it
would be is what tests/simulation/test_planted.py shows. `seed`: one that finds it; where it does not any more, all are
tried.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from gateway.conductor import Conductor, Ticket
from gateway.errors import Refused
from gateway.policy.budget import Terms
from gateway.policy.lifecycle.machine import FOLLOWS, Follow, Lifecycle
from gateway.policy.lifecycle.states import State
from gateway.providers.base import Instance, Journal, Rental, Renter
from gateway.providers.renting.rented import Rented, RentedProvider, Seen
from gateway.treasury import Treasury
from tests.simulation.house import Parts

Change = Callable[[Parts], Parts]


class NothingIsReserved(Terms):
    """A start needs no room in the budget."""

    def reservation(self, price: int) -> int:
        return 0


class NoEndByTheBudget(Treasury):
    """What runs is not ended when the budget is."""

    def _ends(self) -> int | None:
        return None


class NoLookAround(Treasury):
    """What runs is not compared with what the books say."""

    async def _reconcile(self) -> float:
        return 300.0


class WritesAfterwards(Treasury):
    """The vendor is asked first; what it costs is written down when it has answered."""

    async def intend(self, rental: Rental) -> None:
        self._later = rental

    async def know(self, name: str, instance: str, price: int, why: str = "") -> None:
        await super().intend(self._later)
        await super().know(name, instance, price, why)


class NothingElseIsOpen(Treasury):
    """What the books say of earlier rentals keeps nobody from a start."""

    async def intend(self, rental: Rental) -> None:
        await super().intend(replace(rental, runs_since=self._clocks.wall()))


class NoPriceIsLearned(Treasury):
    """The price of the intent stays, whatever the vendor says."""

    async def know(self, name: str, instance: str, price: int, why: str = "") -> None:
        await super().know(name, instance, 0, why)


class GoesByTheWall(Treasury):
    """The calendar's clock is believed, also where it is put back."""

    @property
    def at(self) -> int:
        return round(self._clocks.wall() * 1000)


class WhoeverWaitsIsForgotten(Conductor):
    """Nobody is told that a start failed."""

    def _turn_away(self, requests: list[str], refused: Refused) -> None:
        pass


class SlotsAreLost(Conductor):
    """Who leaves while waiting is never taken off the list."""

    def give_back(self, ticket: Ticket) -> None:
        if ticket.instance is not None:
            super().give_back(ticket)


def _always_idle(facts: Any) -> float | None:
    idle: float | None = facts._idle.runs_out(facts.settings.idle_timeout)
    return idle


def _idle_for_all(follow: Follow) -> Follow:
    return replace(follow, due=_always_idle) if follow.name == "idle" else follow


class IdleWhateverRuns(Lifecycle):
    """Idle time runs on while somebody is answered."""

    follows: ClassVar = {**FOLLOWS, State.READY: tuple(_idle_for_all(follow) for follow in FOLLOWS[State.READY])}


class NeverIdle(Lifecycle):
    """Nobody needs it, and it runs on."""

    follows: ClassVar = {
        **FOLLOWS,
        State.READY: tuple(follow for follow in FOLLOWS[State.READY] if follow.name != "idle"),
    }


def provider_with(**changed: Any) -> Change:
    """Parts whose provider has other methods: an instance of a subclass of its own class."""

    def change(parts: Parts) -> Parts:
        def build(*wires: Any) -> Renter:
            provider = parts.provider(*wires)
            provider.__class__ = type(f"Faulty{type(provider).__name__}", (type(provider),), changed)
            return provider

        return replace(parts, provider=build)

    return change


async def _costs_nothing_at_once(self: RentedProvider, rented: Rented, tries: int) -> bool:
    return True


async def _sees_nothing(self: RentedProvider, journal: Journal) -> Sequence[Seen]:
    return []


async def _finds_nothing(self: RentedProvider, rented: Rented) -> Seen | None:
    return None


async def _stops_without_asking(self: RentedProvider, instance: Instance, *, within: float) -> None:
    return None


def part(**changed: Any) -> Change:
    return lambda parts: replace(parts, **changed)


def neither(parts: Parts) -> Parts:
    """Either alone is enough: no fault is to be seen where only one of them is missing."""
    return provider_with(_running=_sees_nothing)(part(treasury=NothingElseIsOpen)(parts))


@dataclass(frozen=True)
class Planted:
    change: Change
    found_by: frozenset[str]
    """Invariants, any of which may be the first to break."""
    seed: int


MONEY = frozenset({"I3", "I4", "budget"})
TWO_OR_LEFT = frozenset({"I1", "I2", "I3", "I5", "I8", "budget"})

FAULTS: Mapping[str, Planted] = {
    "the reserve is forgotten": Planted(part(terms=NothingIsReserved), frozenset({"budget"}), 2),
    "the budget ends nothing": Planted(part(treasury=NoEndByTheBudget), frozenset({"budget"}), 95),
    "nobody looks around": Planted(part(treasury=NoLookAround), TWO_OR_LEFT, 5),
    "it is written down afterwards": Planted(part(treasury=WritesAfterwards), MONEY, 0),
    "the price is never learned": Planted(part(treasury=NoPriceIsLearned), MONEY, 141),
    "time goes by the wall": Planted(part(treasury=GoesByTheWall), MONEY, 29),
    "a stop counts at once": Planted(provider_with(_costs_nothing=_costs_nothing_at_once), TWO_OR_LEFT, 18),
    "a stop is not asked for": Planted(provider_with(stop=_stops_without_asking), TWO_OR_LEFT, 0),
    "neither books nor vendor are asked what runs": Planted(neither, TWO_OR_LEFT | MONEY, 3),
    "no answer means nothing was begun": Planted(provider_with(_find=_finds_nothing), TWO_OR_LEFT, 1),
    "who waits is forgotten": Planted(part(conductor=WhoeverWaitsIsForgotten), frozenset({"I6"}), 1),
    "who leaves stays": Planted(part(conductor=SlotsAreLost), frozenset({"I2", "I5", "I6", "I8"}), 6),
    "idle under callers": Planted(part(lifecycle=IdleWhateverRuns), frozenset({"I7"}), 0),
    "never idle": Planted(part(lifecycle=NeverIdle), frozenset({"I2", "I5", "I8", "budget"}), 6),
}
