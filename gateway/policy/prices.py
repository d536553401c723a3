"""What GPUs cost where nobody can be asked: a table of list prices, each with the day on which it was read.

Prices move; the vendor's own figure goes before this table wherever there is a key to ask with (RunPod: `GET
/v2/catalog/gpus`). Nothing is rented, stopped or counted by it: it is for `wakegate plan` alone. Vast has no list: it
is a market, whose price is made by each host and changes by the minute.

Micro-dollars for one GPU: an hour, or a GB and a month.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal

HOURS = 730
"""Of a month: 365 days by 12."""

RUNNING_DISK = 100_000
STOPPED_DISK = 200_000
"""RunPod, a pod's volume disk (docs.runpod.io, pods/pricing, August 2026). It costs twice as much while it sleeps."""
NETWORK_VOLUME = 70_000
"""RunPod, up to 1 TB (docs.runpod.io, serverless/pricing, August 2026): the same whether anything runs or not."""


def per_hour(text: str) -> int:
    """Micro-dollars of "0.34"; the same exactly."""
    return int(Decimal(text) * 1_000_000)


def per_second(text: str) -> int:
    """Micro-dollars per hour of a price per second."""
    return int(Decimal(text) * 3600 * 1_000_000)


@dataclass(frozen=True, slots=True)
class Gpu:
    """One kind of GPU at RunPod. None: not offered so, or not known."""

    name: str
    memory: int
    """GB."""
    secure: int | None
    """A pod in RunPod's own data centres."""
    community: int | None
    """A pod on somebody else's machine, by way of RunPod."""
    serverless: int | None
    """A flex worker."""
    read: str
    """The day on which the prices of pods were read, as far as it is known; "now" for the vendor's own answer."""
    source: str


def _gpu(name: str, memory: int, secure: str, community: str, flex: str, read: str, source: str) -> Gpu:
    return Gpu(
        name,
        memory,
        per_hour(secure) if secure else None,
        per_hour(community) if community else None,
        per_second(flex) if flex else None,
        read,
        source,
    )


_PAGE = "runpod.io/pricing"
_API = "RunPod's API"

TABLE: tuple[Gpu, ...] = (
    _gpu("L4", 24, "0.39", "", "0.00019", "2026-01-01", _PAGE),
    _gpu("RTX 4090", 24, "0.59", "0.34", "0.00031", "2026-01-01", _PAGE),
    _gpu("RTX 5090", 32, "0.89", "", "", "2026-01-01", _PAGE),
    _gpu("A40", 48, "0.44", "", "0.00034", "2026-08-19", _API),
    _gpu("L40S", 48, "0.86", "", "0.00053", "2026-01-01", _PAGE),
    _gpu("A100 PCIe", 80, "1.79", "1.19", "0.00076", "2026-11-09", _PAGE),
    _gpu("A100 SXM", 80, "1.79", "1.39", "0.00076", "2026-11-09", _PAGE),
    _gpu("H100 PCIe", 80, "2.89", "1.99", "0.00116", "2026-11-09", _PAGE),
    _gpu("H100 SXM", 80, "3.99", "2.69", "0.00116", "2026-11-09", _PAGE),
    _gpu("H200", 141, "4.59", "", "0.00155", "2026-10-07", _PAGE),
    _gpu("B200", 180, "6.79", "5.98", "0.00240", "2026-10-07", _PAGE),
)
"""Pods: others who wrote down what stood there on that day. Flex workers: docs.runpod.io/serverless/pricing, a copy
without a date, older than August 2026, when the page no longer had the table."""

FLEX_READ = "before August 2026"


def matching(named: str, table: Iterable[Gpu]) -> list[Gpu]:
    """Those that a person may mean by "4090", "NVIDIA GeForce RTX 4090" or "a100"; the very one, if it is there."""
    wanted = _plain(named)
    table = list(table)
    exact = [gpu for gpu in table if _plain(gpu.name) == wanted]
    return exact or [gpu for gpu in table if wanted and (wanted in _plain(gpu.name) or _plain(gpu.name) in wanted)]


def _plain(name: str) -> str:
    return re.sub(r"nvidia|geforce|[0-9]+ ?gb|[^a-z0-9]", "", name.lower())


MOST_LISTED = 500
"""GPUs that a catalogue may have; RunPod's has some forty."""


def from_catalogue(content: object) -> list[Gpu]:
    """RunPod's answer to `GET /v2/catalog/gpus`, its numbers as Decimal or int. What is not understood is left out.

    Its prices are per GPU. `serverless` is absent where the GPU is in no pool; a price of 0 is none.
    """
    listed = content.get("gpus") if isinstance(content, dict) else None
    found = [gpu for item in (listed if isinstance(listed, list) else [])[:MOST_LISTED] if (gpu := _listed(item))]
    return sorted(found, key=lambda gpu: (gpu.memory, gpu.name))


def _listed(item: object) -> Gpu | None:
    if not isinstance(item, dict):
        return None
    name, memory, price = item.get("name"), item.get("memory"), item.get("price")
    if not (isinstance(name, str) and name.isprintable() and 0 < len(name) <= 60 and type(memory) is int):
        return None
    if not isinstance(price, dict):
        return None
    secure = _figure(price.get("secure")) if item.get("secure") is True else None
    community = _figure(price.get("community")) if item.get("community") is True else None
    serverless = _figure(price.get("serverless"))
    if secure is None and community is None and serverless is None:
        return None
    return Gpu(name, memory, secure, community, serverless, "now", "RunPod's API")


def _figure(value: object) -> int | None:
    """Micro-dollars of dollars. None: it is no price."""
    if isinstance(value, bool) or not isinstance(value, int | Decimal):
        return None
    figure = Decimal(value)
    if not figure.is_finite() or not 0 < figure < 10_000:
        return None
    return int((figure * 1_000_000).to_integral_value())
