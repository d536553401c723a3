"""The connections to one endpoint: opened when needed, kept while the engine keeps its own, closed by us first.

Engines promise to keep connections and close them all the same: llama-server after every streamed answer, uvicorn and
cpp-httplib after five idle seconds, others as they like. A request that is sent into such an end is lost. So

- a connection is taken only while it is younger than half of what the engine allows, and after a look at it;
- the first ones rest until one of them has lived for a moment: trust is earned. Each one that the engine ends while it
  is idle shortens the time for which the others are believed to half of its own;
- what carried a stream is closed at once; where a new one costs a TLS handshake, it rests until an end would be seen.

The last one that was given back is the first one taken, so that those that are too many grow old and go.

A rented machine has no name that an authority would sign for. Where the endpoint says which certificate is the right
one, that one is looked for, and nothing is sent before it was seen.
"""

import asyncio
import hashlib
import hmac
import socket
import ssl
from collections import deque
from collections.abc import Sequence
from functools import lru_cache
from typing import Final, cast

import aiohappyeyeballs
from yarl import URL

from gateway.providers.base import Endpoint
from gateway.proxy.alarms import Alarms
from gateway.proxy.connection import Connection, Over

KEEP: Final = 2.5
"""Seconds that a connection may be idle: half of what uvicorn (vLLM) and cpp-httplib (llama-server) allow."""
IDLE_MAX: Final = 128
"""Idle connections that are kept."""
REST: Final = 0.1
"""Seconds after which an end that the engine put behind its answer has been seen."""
FORGIVE: Final = 60.0
"""Seconds after which an engine that ended idle connections is tried anew: it may have been restarted."""
KNOWN_FOR: Final = 10.0
"""Seconds for which a host's addresses are believed."""
_AGAIN: Final = 0.005
"""Seconds between two tries to get into a unix socket's line."""
_DELAY: Final = 0.25
"""Seconds that one address is tried before the next is, too (RFC 8305, 5)."""

Addresses = Sequence[aiohappyeyeballs.AddrInfoType]


@lru_cache(maxsize=1)
def system_trust() -> ssl.SSLContext:
    """Certificates are verified. Made when first needed: it takes 25 ms."""
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    return context


@lru_cache(maxsize=1)
def any_certificate() -> ssl.SSLContext:
    """Certificates are not verified, only that whoever shows one has its key: for those who know the right one's
    fingerprint and compare it before they send anything."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["http/1.1"])
    return context


class WrongCertificate(ssl.SSLCertVerificationError):
    """Somebody else answers there, or the right one has a new certificate."""


class Pool:
    """Connections to one endpoint, with TLS where its URL says so."""

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        connect: float,
        trust: ssl.SSLContext | None = None,
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        """`connect`: seconds for a new connection, names and TLS included. `trust`: which certificates are believed,
        where it is not the system's. `loop`: whose clock and names, where they are not the running one's."""
        url = URL(endpoint.url)
        self._loop = loop or asyncio.get_running_loop()
        self._socket = endpoint.socket
        self._host = url.host or "localhost"
        self._port = url.port or 80
        self._fingerprint = endpoint.fingerprint
        self._tls: ssl.SSLContext | None = None
        if url.scheme == "https" and endpoint.socket is None:
            self._tls = any_certificate() if self._fingerprint is not None else trust or system_trust()
        self._over: Over = "unix" if endpoint.socket is not None else "tls" if self._tls is not None else "tcp"
        self._connect = connect
        self._alarms = Alarms(self._loop)
        self._idle: list[Connection] = []
        self._resting: deque[Connection] = deque()
        """Not to be asked yet; all rest equally long, so the first of them is the first that may be."""
        self._keep = KEEP
        self._is_trusted = False
        self._ended_at = 0.0
        self._addresses: tuple[float, Addresses] | None = None
        self._asking: asyncio.Future[Addresses] | None = None
        self._sweeper: asyncio.TimerHandle | None = None
        self._is_closed = False

    def __repr__(self) -> str:
        return f"<Pool {self._socket or f'{self._host}:{self._port}'} {self._over}, {self._kept} idle>"

    # -- taking and giving back ----------------------------------------------------------------

    def take(self) -> Connection | None:
        """An idle connection that can be asked at once; None: `open` one."""
        now = self._loop.time()
        while self._resting and self._resting[0].idle_since <= now:
            self._idle.append(self._resting.popleft())
        while self._idle:
            connection = self._idle.pop()
            if now - connection.idle_since < self._keep and connection.is_alive():
                self._is_trusted = True
                return connection
            self._let_go(connection)
        return None

    def _let_go(self, connection: Connection) -> None:
        """One that is too old, or that the engine has ended: which tells how long it lets them live."""
        if (ended := connection.ended_at) is not None:
            lived = ended - connection.idle_since
            self._keep = min(self._keep, lived / 2)
            self._is_trusted = self._is_trusted and lived > REST
            self._ended_at = ended
        connection.abort()

    def _forgive(self, now: float) -> None:
        if self._keep < KEEP and now - self._ended_at > FORGIVE:
            self._keep = KEEP
            self._is_trusted = False

    def give_back(self, connection: Connection, *, streamed: bool) -> None:
        """After an answer: kept if it can be asked again, else closed."""
        is_unwanted = self._is_closed or (streamed and self._over != "tls")
        if is_unwanted or not connection.may_rest() or self._kept >= IDLE_MAX:
            connection.abort()
            return
        self._forgive(self._loop.time())
        if self._is_trusted and not streamed:
            connection.rest(0.0)
            self._idle.append(connection)
        else:
            connection.rest(REST)
            self._resting.append(connection)
        if self._sweeper is None:
            self._sweeper = self._loop.call_later(KEEP, self._sweep)

    @property
    def _kept(self) -> int:
        return len(self._idle) + len(self._resting)

    def _sweep(self) -> None:
        """Close those that are too old before the engine does, and those that it has closed."""
        oldest = self._loop.time() - self._keep
        known = [*self._idle, *self._resting]
        gone = {each for each in known if each.idle_since <= oldest or each.ended_at is not None}
        self._idle = [each for each in self._idle if each not in gone]
        self._resting = deque(each for each in self._resting if each not in gone)
        for connection in gone:
            self._let_go(connection)
        self._sweeper = self._loop.call_later(KEEP / 2, self._sweep) if self._kept else None

    def close(self) -> None:
        """Idle ones end now; those at work when they are given back."""
        self._is_closed = True
        if self._sweeper is not None:
            self._sweeper.cancel()
        for connection in (*self._idle, *self._resting):
            connection.abort()
        self._idle.clear()
        self._resting.clear()

    # -- opening -------------------------------------------------------------------------------

    async def open(self) -> Connection:
        """A new connection. Raises OSError (no route, no name, refused, TLS that is not right), TimeoutError."""
        connection = Connection(self._loop, self._over, self._alarms)
        try:
            async with asyncio.timeout(self._connect):
                await self._open(connection)
            if self._fingerprint is not None:
                check_certificate(connection.certificate, self._fingerprint)
        except BaseException as error:
            connection.abort()  # it may have come in the very moment in which nobody wanted it any more
            if isinstance(error, TimeoutError):
                self._addresses = None  # it may have moved
            raise
        return connection

    async def _open(self, connection: Connection) -> None:
        if self._socket is not None:
            await self._loop.create_unix_connection(lambda: connection, sock=await _at_socket(self._socket))
        elif _is_address(self._host):
            await self._loop.create_connection(lambda: connection, self._host, self._port, ssl=self._tls)
        else:
            connected = await self._race(await self._look_up())
            name = self._host if self._tls is not None else None
            try:
                await self._loop.create_connection(
                    lambda: connection, sock=connected, ssl=self._tls, server_hostname=name
                )
            except BaseException:
                connected.close()
                raise

    async def _look_up(self) -> Addresses:
        """One question for all who want to know meanwhile: each takes a thread for as long as the resolver does, and
        there are few. Whoever leaves leaves the question."""
        if self._addresses is not None and self._loop.time() - self._addresses[0] <= KNOWN_FOR:
            return self._addresses[1]
        if self._asking is None:
            self._asking = asyncio.ensure_future(self._ask_resolver())
            self._asking.add_done_callback(self._was_told)
        return await asyncio.shield(self._asking)

    async def _ask_resolver(self) -> Addresses:
        now = self._loop.time()
        try:
            found = await self._loop.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
        except UnicodeError as error:  # a part of it is empty, or longer than 63 letters
            raise socket.gaierror(socket.EAI_NONAME, "no host can have this name") from error
        addresses = cast("Addresses", found)  # of these families, whatever a resolver could say
        self._addresses = (now, addresses)
        return addresses

    def _was_told(self, asking: asyncio.Future[Addresses]) -> None:
        self._asking = None
        if not asking.cancelled():
            asking.exception()  # told to those who wait; where nobody does any more it is no error to log

    async def _race(self, addresses: Addresses) -> socket.socket:
        """To whichever of the host's addresses answers first (RFC 8305)."""
        try:
            return await aiohappyeyeballs.start_connection(
                addresses, happy_eyeballs_delay=_DELAY, interleave=1, loop=self._loop
            )
        except OSError:
            self._addresses = None  # it may have moved
            raise


def check_certificate(came: bytes | None, fingerprint: str) -> None:
    """Whether the certificate that came (DER) is the one with this SHA-256, in hexadecimal digits. Raises
    WrongCertificate."""
    seen = hashlib.sha256(came).hexdigest() if came else "none"
    if not hmac.compare_digest(seen, fingerprint):
        raise WrongCertificate(f"its certificate has the fingerprint {seen}, and not the one in TLS_FINGERPRINT")


async def _at_socket(path: str) -> socket.socket:
    """Connected to a unix socket; in line where the engine's own line is full, as over TCP (cpp-httplib's default is
    five places). The kernel only says EAGAIN, which uvloop takes for a failure and asyncio for success."""
    connected = socket.socket(socket.AF_UNIX)
    try:
        connected.setblocking(False)
        while True:
            try:
                connected.connect(path)
                return connected
            except BlockingIOError:
                await asyncio.sleep(_AGAIN)
    except BaseException:
        connected.close()
        raise


def _is_address(host: str) -> bool:
    """Whether it is an IP address, which needs neither a name server nor a race."""
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, host.partition("%")[0])
        except OSError:
            continue
        return True
    return False
