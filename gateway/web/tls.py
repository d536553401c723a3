"""TLS on the gateway's own port, for places without a proxy in front (Vast.ai, a machine at home).

`Certificate` holds the pair and reads it again when its files change: new connections get the new one, running streams
go on with theirs. `TlsSite` is the listening port. What was tried (Python 3.11 to 3.14, OpenSSL 3, asyncio and uvloop):

1. A new pair is never loaded into the context that is in use: OpenSSL keeps one certificate per kind of key, so after a
   change from RSA to ECDSA the old one would still be served. Each pair gets a context of its own, and `context` hands
   every new connection to the newest.
2. Files are read on a thread, whole, into memory, and loaded from there: a volume that hangs stops nobody, and OpenSSL
   sees two files of one moment.
3. Certificate and key are two files, replaced one after the other. A pair that does not match is looked at again, and
   spoken of only when it stays so. What was loaded last stays in use.
4. asyncio tells the server of a connection when its handshake is over, so that whoever opens thousands and says nothing
   would be counted by nobody. `TlsSite` accepts by itself, counts handshakes as connections and ends them after
   HANDSHAKE_TIMEOUT.
"""

import asyncio
import base64
import contextlib
import datetime
import hashlib
import os
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

from aiohttp import web

from gateway.web.ports import BACKLOG, listening

HANDSHAKE_TIMEOUT: Final = 10.0
"""Seconds, as for the head of a request."""
SHUTDOWN_TIMEOUT: Final = 2.0
"""Seconds that a closed connection waits for the other side's goodbye."""
LOOK_EVERY: Final = 5.0
PATIENCE: Final = 60.0
"""Seconds that files which cannot be used may stay so before somebody is told."""
SPARE: Final = 64
"""Connections above the limit that still get a handshake, so that they can be told 503 instead of being cut."""
PAUSE: Final = 0.5
"""Seconds without accepting when no file can be opened any more."""
FILE_MAX: Final = 1 << 20


class CertificateError(Exception):
    """One line: which setting, what is wrong with its file, what to do."""


@dataclass(frozen=True, slots=True)
class Reload:
    """What came of reading the files again."""

    ok: bool
    said: str


@dataclass(frozen=True, slots=True)
class _Pair:
    """What was read and can be used."""

    context: ssl.SSLContext
    digest: bytes
    begins: float
    ends: float
    """Unix times between which the server's own certificate is valid."""


class _Newest(ssl.SSLContext):
    """A context that gives each new connection to the newest one. asyncio and uvloop both ask `wrap_bio`."""

    newest: ssl.SSLContext

    def wrap_bio(self, *args: Any, **kwargs: Any) -> ssl.SSLObject:
        return self.newest.wrap_bio(*args, **kwargs)


class Certificate:
    """TLS_CERT and TLS_KEY. `load` at the start, then `watch`; `close` ends the watching."""

    def __init__(
        self,
        cert: Path,
        key: Path | None = None,
        *,
        on_reload: Callable[[Reload], None] = lambda reload: None,
        every: float = LOOK_EVERY,
        patience: float = PATIENCE,
    ) -> None:
        """`on_reload` hears, on the loop that watches, of each new pair and of one that stays wrong."""
        self._cert = cert
        self._key = key
        self.on_reload = on_reload
        self._every = every
        self._patience = patience
        self._context = _Newest(ssl.PROTOCOL_TLS_SERVER)
        self._pair: _Pair | None = None
        self._seen: object = None
        self._wrong_since: float | None = None
        self._told = ""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._asked = threading.Event()
        self._ended = False

    def __repr__(self) -> str:
        until = f"until {_day(self._pair.ends)}" if self._pair else "not loaded"
        return f"<Certificate {self._cert} {until}{' wrong since then' if self._wrong_since is not None else ''}>"

    @property
    def context(self) -> ssl.SSLContext:
        """For the server; the same object for good. Only after `load`."""
        return self._context

    @property
    def ends(self) -> float:
        """Unix time at which the certificate in use ends."""
        return self._pair.ends if self._pair else 0.0

    def load(self) -> None:
        """Read both files. Raises CertificateError."""
        self._seen = self._look_at_files()
        self._use(self._read())

    def warning(self, now: float) -> str:
        """What is wrong with the certificate in use at this Unix time, although it can be used; "" when nothing is."""
        if self._pair is None:
            return ""
        if now >= self._pair.ends:
            return f"TLS_CERT: {self._cert} has expired on {_day(self._pair.ends)}; clients will refuse it."
        if now < self._pair.begins:
            return f"TLS_CERT: {self._cert} is not valid before {_day(self._pair.begins)}; is the clock right?"
        return ""

    # -- reading again ---------------------------------------------------------------------------

    def watch(self) -> None:
        """Look at the files every few seconds from now on, on a thread of its own. Needs a running loop."""
        self._loop = asyncio.get_running_loop()
        threading.Thread(target=self._keep_looking, name="tls-certificate", daemon=True).start()

    def reload(self) -> None:
        """Read again at once, and say what came of it (SIGHUP). Returns immediately."""
        self._asked.set()

    def close(self) -> None:
        """The thread ends by itself; one that hangs in a dead volume is not waited for."""
        self._ended = True
        self._asked.set()

    def _keep_looking(self) -> None:
        while not self._ended:
            asked = self._asked.wait(self._every)
            self._asked.clear()
            if self._ended:
                return
            told = self.look(time.monotonic(), asked=asked)
            if told is not None:
                self._tell(told)

    def _tell(self, told: Reload) -> None:
        if self._loop is None:
            return
        try:
            self._loop.call_soon_threadsafe(self.on_reload, told)
        except RuntimeError:
            self._ended = True  # the loop has ended, and with it whoever would listen

    def look(self, now: float, *, asked: bool = False) -> Reload | None:
        """One look at the files at this monotonic time; what is to be told of it. `asked` tells in any case."""
        seen = self._look_at_files()
        if seen == self._seen and self._wrong_since is None and not asked:
            return None
        self._seen = seen
        try:
            pair = self._read()
        except CertificateError as error:
            return self._still_wrong(str(error), now, asked)
        was_told, self._wrong_since, self._told = self._told, None, ""
        is_new = self._pair is None or pair.digest != self._pair.digest
        if is_new:
            self._use(pair)
        if not (is_new or was_told or asked):
            return None
        what = "was read again" if is_new else "has not changed" if not was_told else "can be read again"
        return Reload(True, f"TLS_CERT: {self._cert} {what}, valid until {_day(pair.ends)}")

    def _still_wrong(self, said: str, now: float, asked: bool) -> Reload | None:
        """The old pair stays in use. Told when asked, or once when it has been so for long enough to be no accident."""
        if self._wrong_since is None:
            self._wrong_since = now
        if not asked and (now - self._wrong_since < self._patience or said == self._told):
            return None
        self._told = said
        return Reload(False, f"{said} The certificate that was loaded before stays in use.")

    def _look_at_files(self) -> object:
        """What changes when a file does, a link's target too. Equal for files that are not there twice."""
        found: list[object] = []
        for path in (self._cert, self._key or self._cert):
            try:
                stat = path.stat()
            except OSError as error:
                found.append(error.errno)
            else:
                found.append((stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns))
        return found

    def _use(self, pair: _Pair) -> None:
        self._pair = pair
        self._context.newest = pair.context

    def _read(self) -> _Pair:
        cert = _contents("TLS_CERT", self._cert)
        key = cert if self._key is None else _contents("TLS_KEY", self._key)
        first = _CERTIFICATE.search(cert)
        if first is None:
            raise CertificateError(f"TLS_CERT: {self._cert} holds no certificate in PEM (-----BEGIN CERTIFICATE-----).")
        self._check_key(key)
        try:
            begins, ends = validity(base64.b64decode(first[1]))
        except ValueError:
            raise CertificateError(f"TLS_CERT: the certificate in {self._cert} is damaged.") from None
        try:
            context = _context_of(cert, key)
        except ssl.SSLError as error:
            raise self._problem(error) from None
        return _Pair(context, hashlib.sha256(cert + b"\0" + key).digest(), begins, ends)

    def _check_key(self, key: bytes) -> None:
        found = _PRIVATE_KEY.search(key)
        if found is None and self._key is None:
            raise CertificateError(
                f"TLS_KEY: not set, and {self._cert} (TLS_CERT) holds no private key; set TLS_KEY to the key's file."
            )
        if found is None:
            raise CertificateError(f"TLS_KEY: {self._key} holds no private key in PEM (-----BEGIN PRIVATE KEY-----).")
        if b"ENCRYPTED" in found[0]:
            raise CertificateError(
                f"TLS_KEY: the key in {self._key or self._cert} is encrypted, and nobody is there to type its "
                "password; write it without one (openssl pkey -in KEY -out PLAIN)."
            )

    def _problem(self, error: ssl.SSLError) -> CertificateError:
        # The last is a key of another kind than the certificate's.
        if error.reason in ("KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH", "NO_CERTIFICATE_ASSIGNED"):
            return CertificateError(
                f"TLS_KEY: the key in {self._key or self._cert} does not belong to the first certificate in "
                f"{self._cert}; a chain begins with the server's own certificate."
            )
        return CertificateError(
            f"TLS_CERT: {self._cert} and its key cannot be used ({error.reason or 'OpenSSL does not say why'})."
        )


# ---------------------------------------------------------------- files and contexts

_CERTIFICATE: Final = re.compile(rb"-----BEGIN CERTIFICATE-----([A-Za-z0-9+/=\s]+)-----END CERTIFICATE-----")
_PRIVATE_KEY: Final = re.compile(rb"-----BEGIN [A-Z ]*PRIVATE KEY-----\s*(?:Proc-Type: 4,ENCRYPTED)?")


def _contents(setting: str, path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(FILE_MAX + 1)
    except FileNotFoundError:
        raise CertificateError(f"{setting}: {path} is not there; set it to a file in PEM.") from None
    except OSError as error:
        raise CertificateError(
            f"{setting}: {path} cannot be read ({error.strerror or error}); the gateway runs as user {os.geteuid()}."
        ) from None
    if len(data) > FILE_MAX:
        raise CertificateError(f"{setting}: {path} is larger than any certificate.")
    return data


def _context_of(cert: bytes, key: bytes) -> ssl.SSLContext:
    """Raises ssl.SSLError. TLS 1.2 and 1.3 with Python's own choice of ciphers; HTTP/1.1 only."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    context.set_alpn_protocols(["http/1.1"])
    with _as_file(cert) as cert_file, _as_file(key) as key_file:
        context.load_cert_chain(cert_file, key_file, password=lambda: "")  # else OpenSSL would ask on a terminal
    return context


@contextlib.contextmanager
def _as_file(data: bytes) -> Iterator[str]:
    """A path to bytes in memory: OpenSSL's loader takes paths only."""
    file = os.memfd_create("wakegate-tls", os.MFD_CLOEXEC)
    try:
        os.write(file, data)
        yield f"/proc/self/fd/{file}"
    finally:
        os.close(file)


def validity(der: bytes) -> tuple[float, float]:
    """When a certificate begins and ends to be valid, Unix times (RFC 5280, 4.1). Raises ValueError.

    Nothing in the standard library says it of a certificate of one's own.
    """
    certificate = _inside(der)[0][1]
    body = _inside(_inside(certificate)[0][1])
    if body[0][0] == 0xA0:  # the version stands first where it is not 1
        body = body[1:]
    if len(body) < 4 or body[3][0] != 0x30:
        raise ValueError("not a certificate")
    begins, ends = (_moment(tag, text) for tag, text in _inside(body[3][1]))
    return begins, ends


def _inside(der: bytes) -> list[tuple[int, bytes]]:
    """The (tag, content) pairs that DER holds, one after the other; those of a sequence are in its content."""
    found, place = [], 0
    try:
        while place < len(der):
            tag, size = der[place], der[place + 1]
            place += 2
            if size & 0x80:
                count = size & 0x7F
                size = int.from_bytes(der[place : place + count], "big")
                place += count
            if place + size > len(der):
                raise ValueError("cut off")
            found.append((tag, der[place : place + size]))
            place += size
    except IndexError:
        raise ValueError("cut off") from None
    if not found:
        raise ValueError("empty")
    return found


def _moment(tag: int, text: bytes) -> float:
    """UTCTime has two digits of the year, those from 50 on are of the last century; GeneralizedTime has four."""
    said = text.decode("ascii")
    if tag == 0x17:
        said = ("19" if said[:2] >= "50" else "20") + said
    return datetime.datetime.strptime(said, "%Y%m%d%H%M%SZ").replace(tzinfo=datetime.UTC).timestamp()


def _day(moment: float) -> str:
    return datetime.datetime.fromtimestamp(moment, datetime.UTC).strftime("%Y-%m-%d")


# ---------------------------------------------------------------- the port


class TlsSite(web.BaseSite):
    """A port that speaks TLS, in place of aiohttp's TCPSite."""

    def __init__(
        self,
        runner: web.BaseRunner,
        server: web.Server,
        host: str,
        port: int,
        context: ssl.SSLContext,
        *,
        most: int,
        backlog: int = BACKLOG,
        handshake_timeout: float = HANDSHAKE_TIMEOUT,
        sockets: Sequence[socket.socket] | None = None,
    ) -> None:
        """`most` is MAX_CONNECTIONS: handshakes and connections together, and a few to be told that it is full.
        `sockets`: those of host and port, where they listen already."""
        super().__init__(runner, ssl_context=context, backlog=backlog)
        self._to = server
        self._host = host
        self._port = port
        self._most = most
        self._sockets = sockets
        self._handshake_timeout = handshake_timeout

    @property
    def name(self) -> str:
        return f"https://{f'[{self._host}]' if ':' in self._host else self._host}:{self._port}"

    async def start(self) -> None:
        """Raises OSError when the address cannot be listened on."""
        sockets = self._sockets
        if sockets is None:
            sockets = await asyncio.to_thread(listening, self._host, self._port, self._backlog)
        await super().start()
        self._server = cast("asyncio.AbstractServer", _Listener(sockets, self._enter))

    async def _enter(self, caller: socket.socket, others: int) -> None:
        """One connection's handshake; afterwards it is the server's. `others` is how many are in theirs."""
        context = self._ssl_context
        if context is None or others + len(self._to.connections) >= self._most + SPARE:
            caller.close()
            return
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                self._to,
                caller,
                ssl=context,
                ssl_handshake_timeout=self._handshake_timeout,
                ssl_shutdown_timeout=SHUTDOWN_TIMEOUT,
            )
        except OSError:
            # No TLS at all, a scanner, a client that does not trust us, or one that left: nobody to tell. SSLError and
            # the time-out are OSErrors; the transport has closed the socket.
            pass


class _Listener:
    """Accepts until it is closed. What aiohttp's runner asks of an asyncio server is here: `sockets` and `close`."""

    def __init__(self, sockets: Sequence[socket.socket], enter: "Callable[[socket.socket, int], Any]") -> None:
        self.sockets = tuple(sockets)
        self._enter = enter
        self._loop = asyncio.get_running_loop()
        self._accepting = [self._loop.create_task(self._accept(listening)) for listening in self.sockets]
        self._entering: set[asyncio.Task[None]] = set()

    def __repr__(self) -> str:
        return f"<_Listener {len(self.sockets)} sockets, {len(self._entering)} handshakes>"

    def close(self) -> None:
        for task in (*self._accepting, *self._entering):
            task.cancel()
        for opened in self.sockets:
            self._loop.remove_reader(opened)
            opened.close()
        self.sockets = ()

    async def _accept(self, listening: socket.socket) -> None:
        while True:
            try:
                caller, _ = await self._loop.sock_accept(listening)
            except ConnectionError:  # it left before it was accepted
                continue
            except OSError:  # no file or memory left for another one; those that are open go on
                await asyncio.sleep(PAUSE)
                continue
            task = self._loop.create_task(self._enter(caller, len(self._entering)))
            self._entering.add(task)
            task.add_done_callback(self._entering.discard)
