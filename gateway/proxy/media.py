"""Fetches the images of vision requests that lie on other hosts, so that no engine has to (MEDIA_FETCH).

An engine that loads whatever URL a caller names speaks to the inside of its network for strangers (vLLM CVE-2026-24779,
-25960, -34753). So does whoever fetches in its place, unless (OWASP API7):

1. https only, port 443 only, and a certificate that is valid for the name: what lies inside rarely has one.
2. The name is resolved here, once; every address that comes must be public, and only these are connected to. A name
   that means something else a moment later (DNS rebinding) changes nothing; one that means a public and a private
   address is refused. Addresses in a URL are looked at in the same way, each socket once more before it connects.
3. Redirects are followed by hand, three at most, and each goes through 1 and 2 again.
4. Nothing of the caller or of ours goes along: no key, no cookie, no proxy setting, no Referer.
5. What comes must be a PNG, JPEG, WebP or GIF by its first bytes, uncompressed in transfer, within IMAGE_MAX and what
   the body still has room for. It is turned into base64 as it comes and never held as one object.
6. Time, number and concurrency are bounded; a caller who leaves ends its fetches.

No refusal tells what was found: a name without an address and one with a private address sound alike.
"""

import asyncio
import binascii
import ipaddress
import re
import socket
import ssl
import threading
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urljoin

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from gateway.errors import Refused, refuse
from gateway.proxy.checker import Image, Spool
from gateway.proxy.checks import URL_MAX, Wanted, host_of, refuse_media

IMAGE_MAX: Final = 20_000_000
"""Bytes of one image; OpenAI's own limit is 20 MB, too."""
REDIRECTS_MAX: Final = 3
ADDRESSES_MAX: Final = 8
AT_ONCE: Final = 8
"""Requests whose images are fetched at the same time; each holds at most the room that its body has."""
AT_ONCE_EACH: Final = 4
WAITING_MAX: Final = 64
LOOKUPS_MAX: Final = 32
"""Names that may be asked for at once. A resolver that hangs keeps a thread each time."""
CONNECT_TIMEOUT: Final = 10.0
TIME_LIMIT: Final = 30.0
"""Seconds for all images of one request."""

_NOT_PUBLIC: Final = tuple(
    ipaddress.ip_network(text)
    for text in (
        # IANA's registry of special addresses, and what comes close to it.
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",  # carriers' networks, clouds' metadata (Alibaba: 100.100.100.200)
        "127.0.0.0/8",
        "168.63.129.16/32",  # Azure's host, as seen from a machine
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.0.0.0/24",  # Oracle's metadata: 192.0.0.192
        "192.0.2.0/24",
        "192.88.99.0/24",
        "192.168.0.0/16",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/3",  # multicast, reserved, broadcast
        "2001::/23",  # Teredo and other tunnels: an IPv4 address inside decides where it goes
        "2001:db8::/32",
        "2002::/16",  # 6to4
        "3fff::/20",
    )
)
_PUBLIC_IPV6: Final = ipaddress.ip_network("2000::/3")
"""All that was ever given out. Not in it: loopback, ULA, link-local, multicast, IPv4 in IPv6, NAT64 (64:ff9b::/96)."""

_KINDS: Final = (
    (re.compile(rb"\x89PNG\r\n\x1a\n"), "image/png"),
    (re.compile(rb"\xff\xd8\xff"), "image/jpeg"),
    (re.compile(rb"RIFF....WEBP", re.DOTALL), "image/webp"),
    (re.compile(rb"GIF8[79]a"), "image/gif"),
)
_ENOUGH_TO_TELL: Final = 12
_SAID_OF_IMAGES: Final = re.compile(r"image/[a-z0-9.+-]+|(?:application|binary)/octet-stream|", re.IGNORECASE)
"""Content types under which images come; storage services often do not know better. What it is, its bytes say."""

Lookup = Callable[[str], Awaitable[Sequence[str]]]


def is_public(address: str) -> bool:
    """Whether an address is one on the open internet. Tables of our own: Python's `is_global` differs by version."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(found, ipaddress.IPv6Address) and found not in _PUBLIC_IPV6:
        return False
    return not any(found.version == network.version and found in network for network in _NOT_PUBLIC)


class _NotPublic(OSError):
    """A name or address that is not one of the open internet, or none at all."""


@dataclass(slots=True)
class _Room:
    """Bytes that the body may still grow, over all its images."""

    left: int

    def take(self, size: int) -> None:
        self.left -= size
        if self.left < 0:
            raise refuse("body_too_large", "With its images in it the body is larger than MAX_REQUEST_BODY_SIZE.")


class MediaFetcher:
    """Owns the connections to the hosts of images. `close()` ends them."""

    def __init__(
        self,
        *,
        image_max: int = IMAGE_MAX,
        time_limit: float = TIME_LIMIT,
        at_once: int = AT_ONCE,
        waiting: int = WAITING_MAX,
        lookup: Lookup | None = None,
        is_public: Callable[[str], bool] = is_public,
        port: int = 443,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """What follows `waiting` is for tests: whom names are asked from, what counts as public, where https is."""
        self._image_max = image_max
        self._time_limit = time_limit
        self._turns = asyncio.Semaphore(at_once)
        self._most_waiting = waiting
        self._waiting = 0
        self._lookup = lookup or Names().look_up
        self._is_public = is_public
        self._port = port
        self._tls = tls or ssl.create_default_context()  # reads some hundred certificates: not in a request's way
        self._session: aiohttp.ClientSession | None = None

    def __repr__(self) -> str:
        return f"<MediaFetcher {self._waiting} requests wait for images>"

    async def fetch(self, wanted: Sequence[Wanted], *, room: int) -> tuple[Image, ...]:
        """The images, in order; `room` is how many bytes the body may still grow. Raises Refused. They are the
        caller's, to be closed."""
        if self._waiting >= self._most_waiting:
            raise _busy()
        self._waiting += 1
        try:
            await self._turn()
            try:
                return await self._all(wanted, _Room(room))
            finally:
                self._turns.release()
        finally:
            self._waiting -= 1

    async def _turn(self) -> None:
        try:
            async with asyncio.timeout(self._time_limit):
                await self._turns.acquire()
        except TimeoutError:
            raise _busy() from None

    async def _all(self, wanted: Sequence[Wanted], room: _Room) -> tuple[Image, ...]:
        """All at the same time, a few at once; the first that cannot be had ends the others."""
        few = asyncio.Semaphore(AT_ONCE_EACH)
        tasks = [asyncio.ensure_future(self._one(each, room, few)) for each in wanted]
        try:
            async with asyncio.timeout(self._time_limit):
                return tuple(await asyncio.gather(*tasks))
        except BaseException as error:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            for task in tasks:
                if not task.cancelled() and task.exception() is None:
                    task.result().close()
            if not isinstance(error, TimeoutError):
                raise
            late = next((each for each, task in zip(wanted, tasks, strict=True) if task.cancelled()), wanted[0])
            raise _failed(late, late.url, f"it did not come within {self._time_limit:g} s") from None

    async def _one(self, wanted: Wanted, room: _Room, few: asyncio.Semaphore) -> Image:
        url = wanted.url
        async with few:
            try:
                for _ in range(REDIRECTS_MAX + 1):
                    self._check(url, wanted)
                    async with self._open().get(URL(url, encoded=True), allow_redirects=False) as answer:
                        if answer.status not in (301, 302, 303, 307, 308):
                            return await self._read(answer, wanted, url, room)
                        url = _where_to(url, answer)
            except (aiohttp.ClientError, OSError, ValueError) as error:
                raise _failed(wanted, url, _why(error)) from error
        raise _failed(wanted, url, f"more than {REDIRECTS_MAX} redirects")

    def _check(self, url: str, wanted: Wanted) -> None:
        """Raises Refused: not a URL that is fetched, here or after a redirect."""
        found = host_of(url) if len(url) <= URL_MAX else None
        if found is None:
            raise refuse_media("from where a redirect leads", wanted.place)
        host, port = found
        if int(port or 443) != self._port:
            raise refuse_media(f"from {host}:{port or 443} (only port 443 is fetched from)", wanted.place)
        if _is_number(host) and not self._is_public(host):
            raise _failed(wanted, url, _NO_ADDRESS)

    async def _read(self, answer: aiohttp.ClientResponse, wanted: Wanted, url: str, room: _Room) -> Image:
        if answer.status != 200:
            raise _failed(wanted, url, f"its host answers {answer.status}")
        if answer.headers.get("Content-Encoding", "identity").strip().lower() not in ("identity", ""):
            raise _failed(wanted, url, "it comes compressed, although nobody asked for that")
        said = answer.headers.get("Content-Type", "").partition(";")[0].strip()
        if not _SAID_OF_IMAGES.fullmatch(said):
            raise _failed(wanted, url, f"it is {said[:60] if said.isprintable() else 'something else'}, not an image")
        if (answer.content_length or 0) > self._image_max:
            raise self._too_large(wanted, url)
        spool = Spool()
        try:
            return Image(await self._spooled(answer, wanted, url, room, spool), spool)
        except BaseException:
            spool.close()
            raise

    async def _spooled(
        self, answer: aiohttp.ClientResponse, wanted: Wanted, url: str, room: _Room, spool: Spool
    ) -> str:
        """Into the spool as base64; the media type, by its first bytes."""
        kind, rest, size = "", b"", 0
        async for chunk in answer.content.iter_any():
            size += len(chunk)
            if size > self._image_max:
                raise self._too_large(wanted, url)
            rest += chunk
            if not kind:
                if size < _ENOUGH_TO_TELL:
                    continue
                kind = _kind_of(rest)
                if not kind:
                    break
            whole = len(rest) - len(rest) % 3
            _spool(rest[:whole], spool, room, wanted.uses)
            rest = rest[whole:]
        if not kind:
            raise _failed(wanted, url, "it is not a PNG, JPEG, WebP or GIF")
        _spool(rest, spool, room, wanted.uses)
        return kind

    def _too_large(self, wanted: Wanted, url: str) -> Refused:
        return _failed(wanted, url, f"it is larger than {self._image_max / 1_000_000:g} MB")

    def _open(self) -> aiohttp.ClientSession:
        """Made when first needed. Each image gets a connection of its own, closed when it is there."""
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    ssl=self._tls,
                    resolver=_Checked(self._lookup, self._is_public),
                    use_dns_cache=False,
                    socket_factory=self._socket,
                    force_close=True,
                    limit=0,
                ),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                trust_env=False,
                headers={"User-Agent": "WakeGate", "Accept": "image/*", "Accept-Encoding": "identity"},
                timeout=aiohttp.ClientTimeout(total=None, connect=CONNECT_TIMEOUT, sock_read=CONNECT_TIMEOUT),
            )
        return self._session

    def _socket(self, found: tuple[Any, ...]) -> socket.socket:
        """The last look before a connection is made, whichever way the address came."""
        family, kind, protocol, _, address = found
        if not self._is_public(address[0]):
            raise _NotPublic("not public")
        made = socket.socket(family, kind, protocol)
        made.setblocking(False)
        return made

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()


class _Checked(AbstractResolver):
    """Names to addresses, all of them public. What it answers is what aiohttp connects to."""

    def __init__(self, lookup: Lookup, is_public: Callable[[str], bool]) -> None:
        self._lookup = lookup
        self._is_public = is_public

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        found = list(dict.fromkeys(await self._lookup(host)))
        if not found or not all(self._is_public(address) for address in found):
            raise _NotPublic("not public")
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=0,
                flags=socket.AI_NUMERICHOST,
            )
            for address in found[:ADDRESSES_MAX]
        ]

    async def close(self) -> None:
        """Nothing is held."""


class Names:
    """The system's resolver, on threads of its own: one that hangs takes no thread from others, nor delays the end."""

    def __init__(self, most: int = LOOKUPS_MAX) -> None:
        self._most = most
        self._running = 0

    async def look_up(self, host: str) -> list[str]:
        """All addresses of a name; none when it has none. Raises OSError when too many are being asked for."""
        if self._running >= self._most:
            raise OSError("too many names are being asked for")
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[list[str]] = loop.create_future()
        self._running += 1

        def ask() -> None:
            try:
                found = [str(entry[4][0]) for entry in socket.getaddrinfo(host, 443, type=socket.SOCK_STREAM)]
            except (OSError, UnicodeError):
                found = []
            try:
                loop.call_soon_threadsafe(self._told, answer, found)
            except RuntimeError:
                return  # the loop has ended, nobody waits any more

        threading.Thread(target=ask, name="media-name", daemon=True).start()
        return await answer

    def _told(self, answer: "asyncio.Future[list[str]]", found: list[str]) -> None:
        self._running -= 1
        if not answer.done():
            answer.set_result(found)


# ---------------------------------------------------------------- small rules

_NO_ADDRESS: Final = "its host has no public address"


def _is_number(host: str) -> bool:
    """An address, or something that a resolver could take for one: 127.1, 2130706433, 0x7f.1, 010.0.0.1."""
    return re.fullmatch(r"[0-9]+|0x[0-9a-f]*", host.rpartition(".")[2]) is not None


def _kind_of(begin: bytes) -> str:
    return next((kind for magic, kind in _KINDS if magic.match(begin)), "")


def _spool(data: bytes, spool: Spool, room: _Room, uses: int) -> None:
    text = binascii.b2a_base64(data, newline=False)
    room.take(len(text) * uses)
    spool.write(text)


def _where_to(url: str, answer: aiohttp.ClientResponse) -> str:
    """Where a redirect leads; checked by who follows it. Raises ValueError."""
    return urljoin(url, answer.headers.get("Location", "").strip()).partition("#")[0]


def _why(error: BaseException) -> str:
    """In words that tell nothing of what is inside."""
    if isinstance(error, aiohttp.ClientConnectorDNSError | _NotPublic):
        return _NO_ADDRESS
    if isinstance(error, TimeoutError):
        return "its host did not answer in time"
    if isinstance(error, aiohttp.ClientSSLError | ssl.SSLError):
        return "its host shows no valid TLS certificate"
    return "the connection to its host failed"


def _failed(wanted: Wanted, url: str, why: str) -> Refused:
    host = (host_of(url) or ("its host", None))[0]
    return refuse(
        "invalid_request",
        f"The image from {host} could not be fetched: {why}. Send it in the request (`data:…;base64,…`), or let the "
        "operator name its host in MEDIA_HOSTS, so that the engine loads it itself (here MEDIA_FETCH is at work).",
        param=wanted.place,
    )


def _busy() -> Refused:
    return refuse("queue_full", "Too many requests wait for images to be fetched (MEDIA_FETCH).", retry_after=5)
