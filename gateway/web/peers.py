"""Who a caller is, when proxies stand in front: whose `X-Forwarded-For` is believed, and how much of it. Pure.

Each proxy on the way appends the address that it was called from, so the header reads `caller, proxy, proxy`, and only
its right end was written by somebody we know. It is therefore read from the right, past trusted addresses, up to the
first that is not: whatever stands further left may be the caller's own invention. Without trusted proxies nothing of it
is read, and the caller is who the socket says.

`CF-Connecting-IP`, `X-Real-IP`, `Forwarded` and the like are not read: nearly every proxy writes X-Forwarded-For (also
Cloudflare, which appends to it), a second source could only disagree, and a proxy that does not know one of the names
passes a caller's own on. A proxy in front must append to the header or replace it, as nginx, Caddy, HAProxy, Cloudflare
and all load balancers do when they set it at all.
"""

import ipaddress
import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Final, Literal

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

PRIVATE: Final[tuple[Network, ...]] = tuple(
    ipaddress.ip_network(text)
    for text in (
        "127.0.0.0/8",
        "10.0.0.0/8",
        "172.16.0.0/12",
        "192.168.0.0/16",
        "100.64.0.0/10",
        "169.254.0.0/16",
        "::1/128",
        "fc00::/7",
        "fe80::/10",
    )
)
"""What `private` means: networks from which nothing comes over the open internet (RFC 1918, 4193, 6598, 3927)."""
LOCAL: Final = "local"
"""The address of whoever came through a unix socket."""
HOPS_MAX: Final = 32
"""Entries that are looked at. A header may be megabytes of them."""

_WITH_PORT: Final = re.compile(r"(?:\[([^\[\]]{2,64})\]|([0-9.]{7,15}))(?::[0-9]{1,5})?")


class Peers:
    """The proxies in front that are believed."""

    def __init__(self, trusted: tuple[str, ...]) -> None:
        """`trusted` as `kinds.NETWORKS` reads them."""
        self._networks = tuple(
            network for text in trusted for network in (PRIVATE if text == "private" else (_network(text),))
        )
        self._local = "private" in trusted
        self._said = trusted

    def __repr__(self) -> str:
        return f"<Peers {', '.join(self._said) or 'none trusted'}>"

    def trusts(self, peer: str) -> bool:
        """Whether what this peer says of others is believed."""
        if peer == LOCAL or not peer:
            return self._local
        address = parse(peer)
        return address is not None and self._is_trusted(address)

    def address_of(self, peer: str | None, forwarded_for: Sequence[str] = ()) -> str:
        """The caller's address, in one spelling for each; `local` for a unix socket.

        `peer` is the socket's own (None or "" for a unix socket), `forwarded_for` are all values of X-Forwarded-For in
        the order in which they came.
        """
        here = parse(peer) if peer else None
        if here is None:
            known = peer or LOCAL
            if not self.trusts(known):
                return known
        elif not self._is_trusted(here):
            return str(here)
        else:
            known = str(here)
        for text in _from_the_right(forwarded_for):
            address = parse(text)
            if address is None:  # "unknown", an obfuscated name, nonsense: what stands left of it cannot be placed
                return known
            known = str(address)
            if not self._is_trusted(address):
                return known
        return known

    def scheme_of(
        self, peer: str | None, forwarded_proto: Sequence[str], own: Literal["http", "https"]
    ) -> Literal["http", "https"]:
        """How the caller itself speaks: `own` is how the socket does, X-Forwarded-Proto counts from a trusted peer.

        The leftmost word: a proxy behind the one that ends TLS would otherwise say how it was called itself.
        """
        if not forwarded_proto or not self.trusts(peer or ""):
            return own
        said = forwarded_proto[0].partition(",")[0].strip().lower()
        if said in ("https", "wss"):
            return "https"
        return "http" if said in ("http", "ws") else own

    def _is_trusted(self, address: Address) -> bool:
        return any(address.version == network.version and address in network for network in self._networks)


def parse(text: str) -> Address | None:
    """An address as sockets and proxies write it: plain, `[v6]:port`, `v4:port`, with a zone, IPv4 in IPv6. None: none.

    The zone (`fe80::1%eth0`) is dropped, IPv4 in IPv6 becomes IPv4: one caller is one address.
    """
    text = text.strip().strip('"')
    return None if len(text) > 64 else _parsed(text)


@lru_cache(maxsize=1024)
def _parsed(text: str) -> Address | None:
    """Remembered, because a proxy in front, and most callers, are the same again and again."""
    if match := _WITH_PORT.fullmatch(text):
        text = match[1] or match[2]
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def _network(text: str) -> Network:
    """A network of IPv4 in IPv6 is the IPv4 one: addresses are compared in that form."""
    network = ipaddress.ip_network(text, strict=False)
    mapped = network.network_address.ipv4_mapped if isinstance(network, ipaddress.IPv6Network) else None
    if mapped is not None and network.prefixlen >= 96:
        return ipaddress.ip_network(f"{mapped}/{network.prefixlen - 96}", strict=False)
    return network


def _from_the_right(values: Sequence[str]) -> Iterator[str]:
    """The entries, last first, HOPS_MAX at most; only the end of a long header is cut into pieces."""
    left = HOPS_MAX
    for value in reversed(values):
        for entry in reversed(value.rsplit(",", left)[-left:]):
            if entry.strip():
                yield entry
            left -= 1
            if left <= 0:
                return
