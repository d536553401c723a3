"""What a month costs: a GPU that is rented while it is used, one that runs all the time, and serverless.

Pure arithmetic in whole micro-dollars, for `wakegate plan --hours-per-day`. A wake costs more than the hours in which
people ask: the machine is paid while it boots and loads, and again while it waits out IDLE_TIMEOUT.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from gateway.policy.prices import HOURS, NETWORK_VOLUME, RUNNING_DISK, STOPPED_DISK, Gpu


@dataclass(frozen=True, slots=True)
class Use:
    """How it is used. Seconds, and hours in a day."""

    hours_per_day: float
    wakes_per_day: float = 2.0
    boot: float = 180.0
    """From the start call to the first answer: paid."""
    idle: float = 600.0
    """IDLE_TIMEOUT."""
    busy: float = 1.0
    """The share of those hours in which a request runs: serverless costs nothing in the rest of them."""
    disk: int = 50
    """GB that the model and its surroundings take."""
    count: int = 1
    """GPUs."""

    @property
    def rented_hours(self) -> float:
        """A month of a machine that is woken and given back; never more than all of it."""
        daily = self.hours_per_day + self.wakes_per_day * (self.boot + self.idle) / 3600
        return min(daily, 24.0) * HOURS / 24

    @property
    def worked_hours(self) -> float:
        """A month of a serverless worker, whose idle time is seconds; it boots as well."""
        daily = self.hours_per_day * self.busy + self.wakes_per_day * self.boot / 3600
        return min(daily, 24.0) * HOURS / 24


@dataclass(frozen=True, slots=True)
class Offer:
    """One row: what it is, what an hour costs, how many are paid, and the month's sums. Micro-dollars."""

    what: str
    gpu: str
    price: int
    hours: float
    running: int
    disk: int

    @property
    def month(self) -> int:
        return self.running + self.disk


def offers(gpu: Gpu, use: Use) -> Iterator[Offer]:
    """The ways in which this GPU can be had, for this use."""

    def offer(what: str, price: int, hours: float, disk: float) -> Offer:
        price *= use.count
        return Offer(what, gpu.name, price, hours, round(price * hours), round(use.disk * disk))

    on = use.rented_hours / HOURS
    sleeping_disk = RUNNING_DISK * on + STOPPED_DISK * (1 - on)
    if gpu.secure is not None:
        yield offer("on demand, its own disk", gpu.secure, use.rented_hours, sleeping_disk)
        yield offer("on demand, network volume", gpu.secure, use.rented_hours, NETWORK_VOLUME)
        yield offer("24/7", gpu.secure, HOURS, RUNNING_DISK)
    if gpu.community is not None:
        yield offer("community, on demand", gpu.community, use.rented_hours, sleeping_disk)
        yield offer("community, 24/7", gpu.community, HOURS, RUNNING_DISK)
    if gpu.serverless is not None:
        yield offer("serverless", gpu.serverless, use.worked_hours, NETWORK_VOLUME)


def even(gpu: Gpu, use: Use) -> float | None:
    """The share of the hours that requests may fill until serverless costs as much as on demand with the same volume.

    None: one of both is not offered. Above 1 serverless is never dearer, below 0 always.
    """
    if gpu.secure is None or gpu.serverless is None or not use.hours_per_day:
        return None
    wakes = use.wakes_per_day * use.boot / 3600
    daily = use.rented_hours * 24 / HOURS
    return (gpu.secure * daily / gpu.serverless - wakes) / use.hours_per_day


def cents(micro: int) -> str:
    """`$12.34`, to the cent, for tables (books.dollars says all of it); less than a cent with the digits it has."""
    sign, micro = ("-" if micro < 0 else ""), abs(micro)
    if 0 < micro < 10_000:
        return f"{sign}${micro / 1_000_000:.6f}".rstrip("0")
    cents = (micro + 5_000) // 10_000
    return f"{sign}${cents // 100:,}.{cents % 100:02}"
