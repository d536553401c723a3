"""HTTP for probes: GET and HEAD of a handful of paths, in one loop that nobody can hold up.

Made for one job, hence its limits: heads up to 8 KiB, no bodies (whoever sends one gets an answer and a closed
connection), five seconds for a head to be complete or for the next one to come, a bounded number of sockets of which
the longest idle goes first. It is not `http.server` or asyncio because their imports alone take most of the 60 ms in
which the first answer is due; `_socket` is what `socket` wraps, without the 8 ms that its enums take.
"""

from __future__ import annotations

import _socket
import errno
import os
import select
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

PATIENCE = 5.0
"""A socket that neither completes a request nor takes its answer for this long is closed."""
HEAD_MAX = 8192
OUT_MAX = 16384
"""Answers that a pipelining client has not taken yet. Above this it is not read from."""
MOST_SOCKETS = 1024
SPARE_DESCRIPTORS = 32
ACCEPT_PAUSE = 0.1
"""How long the port rests when the machine has no descriptor left at all, rather than spin."""

_OUT_OF_DESCRIPTORS = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_TOKEN = frozenset(b"!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")

_REASONS = {
    200: ("OK", "ok\n"),
    204: ("No Content", ""),
    400: ("Bad Request", "bad request\n"),
    404: ("Not Found", "not found: try /ping, /readyz, /livez or /healthz\n"),
    405: ("Method Not Allowed", "only GET and HEAD\n"),
    431: ("Request Header Fields Too Large", "request head too large\n"),
    503: ("Service Unavailable", "unavailable\n"),
    505: ("HTTP Version Not Supported", "HTTP/1.0 or HTTP/1.1\n"),
}


class CannotListen(Exception):
    """The address cannot be had; the argument says which setting to change and how."""


class Malformed(Exception):
    """What came is not a request that this server answers; the argument is the status code."""


def listen(host: str, port: int) -> _socket.socket:
    """Binds, in the words of the settings HOST and PORT_HEALTH when it cannot."""
    family = _socket.AF_INET6 if ":" in host else _socket.AF_INET
    try:
        listener = _socket.socket(family, _socket.SOCK_STREAM)
        listener.setsockopt(_socket.SOL_SOCKET, _socket.SO_REUSEADDR, 1)
        if family == _socket.AF_INET6:
            # Platforms probe over IPv4 also where the operator wrote "::".
            listener.setsockopt(_socket.IPPROTO_IPV6, _socket.IPV6_V6ONLY, 0)
        listener.bind((host, port))
        listener.listen(MOST_SOCKETS)
        listener.setblocking(False)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            why = f"PORT_HEALTH is {port}: something listens there already; stop it, or set another PORT_HEALTH"
        elif error.errno in (errno.EACCES, errno.EPERM):
            why = f"PORT_HEALTH is {port}: this user may not listen there; set one from 1024 to 65535"
        else:
            why = f'HOST is "{host}": {error.strerror}; give an address of this machine, or 0.0.0.0 for all of them'
        raise CannotListen(why) from error
    return listener


def render(code: int, *, body: bool, close: bool) -> bytes:
    reason, text = _REASONS[code]
    head = f"HTTP/1.1 {code} {reason}\r\nCache-Control: no-store\r\n"
    if code != 204:
        head += f"Content-Type: text/plain; charset=utf-8\r\nContent-Length: {len(text)}\r\n"
    if code == 405:
        head += "Allow: GET, HEAD\r\n"
    head += f"Connection: {'close' if close else 'keep-alive'}\r\n\r\n"
    return (head + (text if body else "")).encode()


class Request:
    """The three things about a request that matter here."""

    __slots__ = ("close", "method", "path")

    def __init__(self, method: bytes, path: bytes, close: bool) -> None:
        self.method = method
        self.path = path
        self.close = close
        """After the answer: because it was asked for, or because a body follows that nobody will read."""

    def __repr__(self) -> str:
        return f"<Request {self.method!r} {self.path!r}{' close' if self.close else ''}>"


def parse(head: bytes) -> Request:
    """A complete head (request line and fields, without the empty line) by RFC 9112. Raises Malformed."""
    first, *fields = head.split(b"\r\n")
    words = first.split(b" ")
    if len(words) != 3 or not words[0] or not _TOKEN.issuperset(words[0]):
        raise Malformed(400)
    method, target, version = words
    if version not in (b"HTTP/1.1", b"HTTP/1.0"):
        looks_like_http = (
            len(version) == 8 and version.startswith(b"HTTP/") and version[5:].replace(b".", b"0").isdigit()
        )
        raise Malformed(505 if looks_like_http else 400)
    if not target or not all(0x21 <= byte < 0x7F for byte in target):
        raise Malformed(400)
    hosts = 0
    length: bytes | None = None
    chunked = False
    connection = b""
    for field in fields:
        name, colon, value = field.partition(b":")
        # Folded lines and a space before the colon are how requests are smuggled; no probe sends them.
        if not colon or not name or not _TOKEN.issuperset(name) or b"\0" in value:
            raise Malformed(400)
        name, value = name.lower(), value.strip(b" \t")
        if name == b"host":
            hosts += 1
        elif name == b"content-length":
            if not value.isdigit() or length not in (None, value):
                raise Malformed(400)
            length = value
        elif name == b"transfer-encoding":
            chunked = True
        elif name == b"connection":
            connection += b"," + value.lower()
    if hosts > 1 or (version == b"HTTP/1.1" and hosts == 0) or (chunked and (length or version == b"HTTP/1.0")):
        raise Malformed(400)
    options = [option.strip() for option in connection.split(b",")]
    keep = b"close" not in options and (version == b"HTTP/1.1" or b"keep-alive" in options)
    has_body = chunked or (length is not None and length.strip(b"0") != b"")
    return Request(method, path_of(target), close=not keep or has_body)


def path_of(target: bytes) -> bytes:
    """Without the query; also of the absolute form that proxies send."""
    if target[:7].lower() == b"http://":
        target = b"/" + target[7:].partition(b"/")[2]
    return target.partition(b"?")[0]


class Connection:
    """One socket: what came and was not answered yet, what was answered and not taken yet."""

    __slots__ = ("came", "deadline", "fd", "out", "phase", "socket", "waits_for")

    # open: reads requests · finishing: writes its last answer · lingering: waits for the other side to hang up, because
    # closing with unread bytes would reset the connection and may destroy the answer on its way.
    def __init__(self, socket: _socket.socket, deadline: float) -> None:
        self.socket = socket
        self.fd = socket.fileno()
        self.deadline = deadline
        self.came = b""
        self.out = b""
        self.phase = "open"
        self.waits_for = select.EPOLLIN

    def __repr__(self) -> str:
        return f"<Connection {self.fd} {self.phase} in={len(self.came)} out={len(self.out)}>"


class Server:
    """The loop. `answers` maps a raw path to the function that knows the code."""

    def __init__(self, listener: _socket.socket, answers: Mapping[bytes, Callable[[], int]]) -> None:
        self._listener: Any = listener  # Any, because typeshed does not know _accept
        self._answers = answers
        self._rendered: dict[tuple[int, bool, bool], bytes] = {}
        self._poll = select.epoll()
        self._accepting_from = 0.0
        self._most = max(16, min(MOST_SOCKETS, os.sysconf("SC_OPEN_MAX") - SPARE_DESCRIPTORS))
        # By descriptor, in the order of their deadlines: every renewal moves a connection to the end, and all have the
        # same patience. So the first is the next to expire, and the one to go when there are too many.
        self._connections: dict[int, Connection] = {}

    def __repr__(self) -> str:
        return f"<Server {self._listener.getsockname()} connections={len(self._connections)}/{self._most}>"

    def run(self) -> None:
        self._resume_accepting()
        while True:
            for fd, _events in self._poll.poll(self._until_next_deadline()):
                if fd == self._listener.fileno():
                    self._accept()
                elif (connection := self._connections.get(fd)) is not None:
                    self._serve(connection)
            self._close_expired()

    # -- time

    def _first(self) -> Connection | None:
        return next(iter(self._connections.values()), None)

    def _until_next_deadline(self) -> float:
        first = self._first()
        deadlines = [first.deadline] if first else []
        if self._accepting_from:
            deadlines.append(self._accepting_from)
        return max(0.0, min(deadlines) - time.monotonic()) if deadlines else -1

    def _close_expired(self) -> None:
        now = time.monotonic()
        while (first := self._first()) and first.deadline <= now:
            self._close(first)
        if self._accepting_from and self._accepting_from <= now:
            self._resume_accepting()

    def _renew(self, connection: Connection) -> None:
        connection.deadline = time.monotonic() + PATIENCE
        self._connections[connection.fd] = self._connections.pop(connection.fd)

    # -- sockets

    def _resume_accepting(self) -> None:
        self._accepting_from = 0.0
        self._poll.register(self._listener.fileno(), select.EPOLLIN)

    def _pause_accepting(self) -> None:
        self._accepting_from = time.monotonic() + ACCEPT_PAUSE
        self._poll.unregister(self._listener.fileno())

    def _accept(self) -> None:
        for _ in range(64):  # then it is the turn of those who are in already
            try:
                fd, _peer = self._listener._accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno not in _OUT_OF_DESCRIPTORS:
                    continue  # that caller left while still in the queue
                if not self._make_room():
                    self._pause_accepting()
                    return
                continue
            if len(self._connections) >= self._most:
                self._make_room()
            socket = _socket.socket(fileno=fd)
            socket.setblocking(False)
            self._connections[fd] = Connection(socket, time.monotonic() + PATIENCE)
            self._poll.register(fd, select.EPOLLIN)

    def _make_room(self) -> bool:
        first = self._first()
        if first:
            self._close(first)
        return first is not None

    def _close(self, connection: Connection) -> None:
        del self._connections[connection.fd]
        connection.socket.close()  # which also takes it out of the poll

    # -- one connection

    def _serve(self, connection: Connection) -> None:
        # Errors and hang-ups need no case of their own: they surface in the read or write that comes next.
        try:
            if not connection.out:
                self._take(connection)
            while connection.out and self._give(connection):
                self._answer_all(connection)
        except BlockingIOError:
            pass
        except OSError:
            self._close(connection)

    def _take(self, connection: Connection) -> None:
        data = connection.socket.recv(HEAD_MAX)
        if not data:
            self._close(connection)  # whatever it asked for has been answered and taken
        elif connection.phase == "open":
            connection.came += data
            self._answer_all(connection)

    def _answer_all(self, connection: Connection) -> None:
        """Answers every complete request that has come, in order."""
        while connection.phase == "open" and len(connection.out) < OUT_MAX:
            came = connection.came.lstrip(b"\r\n") if connection.came[:1] in (b"\r", b"\n") else connection.came
            end = came.find(b"\r\n\r\n", 0, HEAD_MAX + 4)
            head = came if end < 0 else came[:end]
            try:
                # A line that ends with a bare LF or CR is one request to some and another to others: to us, none.
                lines = head.count(b"\r\n")
                if head.count(b"\n") != lines or head.count(b"\r") - (end < 0 and head[-1:] == b"\r") != lines:
                    raise Malformed(400)
                if head and head[0] not in _TOKEN:
                    raise Malformed(400)  # TLS or another protocol: say so now rather than wait for an end of line
                if end < 0:
                    if len(came) >= HEAD_MAX + 4:
                        raise Malformed(431)
                    connection.came = came
                    return
                connection.came = came[end + 4 :]
                self._answer(connection, parse(head))
            except Malformed as error:
                self._reply(connection, error.args[0], body=True, close=True)

    def _answer(self, connection: Connection, request: Request) -> None:
        if request.method not in (b"GET", b"HEAD"):
            return self._reply(connection, 405, body=True, close=request.close)
        code = self._answers.get(request.path)
        return self._reply(connection, code() if code else 404, body=request.method == b"GET", close=request.close)

    def _reply(self, connection: Connection, code: int, *, body: bool, close: bool) -> None:
        key = (code, body, close)
        if key not in self._rendered:
            self._rendered[key] = render(code, body=body, close=close)
        connection.out += self._rendered[key]
        if close:
            connection.phase = "finishing"
            connection.came = b""
        self._renew(connection)

    def _give(self, connection: Connection) -> bool:
        """Whether everything was taken. Until it is, nothing more is read; who takes nothing meets his deadline."""
        try:
            sent = connection.socket.send(connection.out)
        except BlockingIOError:
            sent = 0
        connection.out = connection.out[sent:]
        if not connection.out and connection.phase == "finishing":
            connection.phase = "lingering"
            connection.socket.shutdown(_socket.SHUT_WR)
        self._wait_for(connection, select.EPOLLOUT if connection.out else select.EPOLLIN)
        return not connection.out

    def _wait_for(self, connection: Connection, event: int) -> None:
        if event != connection.waits_for:
            self._poll.modify(connection.fd, event)
            connection.waits_for = event
