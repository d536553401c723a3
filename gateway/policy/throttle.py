"""How many wrong keys one address may try: counted exactly, forgotten after a minute, in a table that cannot grow.

Pure. It slows nobody down who has a right key: behind an edge all callers share one address, so a right key passes
whatever others did. A wrong key that was refused for coming too often is not counted again, or somebody who never stops
would never hear the truth about it, and `Retry-After` could not be kept.
"""

import ipaddress
from array import array
from collections import OrderedDict

LIMIT = 20
"""Wrong keys within WINDOW that are answered by what is wrong with them."""
WINDOW = 60.0
ADDRESSES = 10_000
"""Those that are remembered at once, the latest. Three megabytes at most."""


class Throttle:
    """The wrong keys of the last minute, by address."""

    def __init__(self, *, limit: int = LIMIT, window: float = WINDOW, addresses: int = ADDRESSES) -> None:
        self._limit = limit
        self._window = window
        self._room = addresses
        self._tries: OrderedDict[str, array[float]] = OrderedDict()
        """When each address tried, oldest first; the address that tried last stands last."""

    def count(self, address: str, now: float) -> float | None:
        """One more wrong key. None: it is within the limit; else the seconds until one would be again."""
        self._forget(now)
        who = network_of(address)
        tries = self._tries.pop(who, None) or array("d")
        self._tries[who] = tries
        while tries and tries[0] <= now - self._window:
            tries.pop(0)
        if len(tries) >= self._limit:
            return tries[0] + self._window - now
        tries.append(now)
        if len(self._tries) > self._room:
            self._tries.popitem(last=False)
        return None

    def _forget(self, now: float) -> None:
        """Addresses whose last try is over. Each is forgotten once, so this costs what counting cost."""
        while self._tries:
            tries = next(iter(self._tries.values()))
            if tries[-1] > now - self._window:
                return
            self._tries.popitem(last=False)

    def __len__(self) -> int:
        return len(self._tries)

    def __repr__(self) -> str:
        full = sum(len(tries) >= self._limit for tries in self._tries.values())
        return f"<Throttle {len(self._tries)} addresses, {full} at the limit>"


def network_of(address: str) -> str:
    """Who an address stands for: of IPv6 its /64, which one customer has whole; whatever is no address, itself."""
    try:
        known = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address[:64]
    if isinstance(known, ipaddress.IPv4Address):
        return str(known)
    if known.ipv4_mapped is not None:
        return str(known.ipv4_mapped)
    return str(ipaddress.IPv6Network((int(known) >> 64 << 64, 64)))
