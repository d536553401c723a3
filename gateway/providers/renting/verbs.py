"""What a vendor of rented machines is asked for, and the words in which it answers: `Seen`, `Offer`, and `Vendor`'s
verbs. A vendor's own words are translated at this edge; the shell around them (rented.py) knows no others."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Protocol

from gateway.providers.base import Bill, Endpoint
from gateway.providers.renting.prices import Price
from gateway.providers.renting.vendor import Line, Urgency


class Phase(Enum):
    """What an instance is to us, whatever its vendor calls it."""

    ASLEEP = "asleep"
    """It exists, and costs nothing for running."""
    BOOTING = "booting"
    """It costs, or may: also whatever the vendor says that we do not know."""
    UP = "up"
    USELESS = "useless"
    """It costs, and will never serve: `Seen.trouble` says why."""
    OVER = "over"
    """It is gone for good."""

    @property
    def costs(self) -> bool:
        return self not in (Phase.ASLEEP, Phase.OVER)


@dataclass(frozen=True, slots=True)
class Seen:
    """What a vendor says of one instance, in our words."""

    id: str
    phase: Phase
    name: str = ""
    """What we called it, where we created it; else empty."""
    price: Price | None = None
    """Of its running, by all figures that there are."""
    endpoint: Endpoint | None = None
    """Where it answers by now. None: nowhere yet."""
    detail: str = ""
    """Short, ours, fit for a caller: "waiting for a machine"."""
    status: str = ""
    """The vendor's own word, for the log."""
    trouble: str = ""
    """A closed sentence for callers, where it is useless."""
    code: str = "start_failed"
    lasting: bool = False
    taken: bool = False
    """Should it not serve any more, then because the vendor took it away."""
    up_for: float | None = None
    """Seconds since its container began. One from before our start is what was, not what is."""
    started_at: float | None = None


@dataclass(frozen=True, slots=True)
class Offer:
    """One thing that a start may try."""

    label: str
    """For the log: "NVIDIA L4 in EU-RO-1"."""
    price: Price | None
    instance: str = ""
    """The vendor's id, where it exists already. Empty: taking the offer creates one."""
    body: Any = field(default=None, repr=False)
    """The vendor's own."""


class Vendor(Protocol):
    """A vendor's verbs. All raise VendorError, and are asked through one Line that keeps the pauses."""

    name: str
    """As in PROVIDER."""
    title: str
    """As people write it."""
    line: Line

    async def seen(self, instance: str, urgency: Urgency) -> Seen | None:
        """None: the vendor says that there is no such instance."""

    async def all(self, urgency: Urgency) -> Sequence[Seen]:
        """Everything of ours, running or not: by its id, or by our names' prefix."""

    async def offers(self) -> Sequence[Offer]:
        """What a start tries, in order."""

    async def take(self, offer: Offer, name: str) -> Seen:
        """Start it, or create one called `name`."""

    async def end(self, instance: str, tries: int) -> None:
        """Ask for its end, for the `tries`-th time. What was there before us is stopped, never deleted."""

    async def bills(self, begins: float, ends: float) -> Sequence[Bill] | None: ...

    async def storage(self) -> int | None: ...

    async def close(self) -> None: ...
