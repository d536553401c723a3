"""How the command line finds a gateway that runs on this machine, and what the two say to each other. Standard library
only, so that asking is quick.

A gateway listens at `control-PORT.sock` in its run folder, which only its own user may enter. One question is one line
of JSON, `{"do": "status"}`, and so is its answer: `{"ok": true, "told": {…}}` or `{"ok": false, "code", "message"}`.
After `stop` a second line follows when it has ended. There is no list of gateways that could be out of date: whoever
asks looks into the folders where run folders are made (start.sh: make_run_dir) and believes those that answer.
"""

import json
import os
import re
import socket
import stat
import struct
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PLACES = ("/dev/shm", "/tmp")  # noqa: S108  looked into, and only folders of our own are entered there
_NAME = re.compile(r"control-([0-9]{1,5})\.sock")
LINE_MOST = 1 << 20
"""Bytes of an answer."""
WITHIN = 10.0
"""Seconds for one: a gateway whose loop hangs for longer does not answer, says the command line."""


ADDRESS_MOST = 107
"""Bytes of a path that a unix socket's address has room for (unix(7))."""


def socket_name(port: int) -> str:
    return f"control-{port}.sock"


@contextmanager
def address_of(path: Path) -> Iterator[str]:
    """The path as an address to bind or connect to, also where it is longer than one may be."""
    if len(os.fsencode(path)) <= ADDRESS_MOST:
        yield str(path)
        return
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


class NoAnswer(Exception):
    """It was there, and said nothing of use. The text is for people."""


@dataclass(frozen=True, slots=True)
class Running:
    """A gateway that has been seen to listen."""

    port: int
    path: Path

    def ask(self, order: Mapping[str, object], *, within: float = WITHIN) -> dict[str, Any]:
        """Its answer. Raises NoAnswer."""
        with self.asking(order, within=within) as answers:
            return next(answers)

    @contextmanager
    def asking(self, order: Mapping[str, object], *, within: float = WITHIN) -> Iterator[Iterator[dict[str, Any]]]:
        """Its answers, where there are several. `within`: seconds for each. Iterating raises NoAnswer."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as there:
            there.settimeout(within)
            try:
                with address_of(self.path) as address:
                    there.connect(address)
                there.sendall(json.dumps(dict(order)).encode() + b"\n")
            except OSError as error:
                raise NoAnswer(f"The gateway on port {self.port} cannot be asked: {error}.") from error
            yield self._lines(there)

    def _lines(self, there: socket.socket) -> Iterator[dict[str, Any]]:
        kept = b""
        while True:
            line, found, rest = kept.partition(b"\n")
            if found:
                kept = rest
                yield _read(line, self.port)
                continue
            try:
                more = there.recv(65_536)
            except TimeoutError as error:
                raise NoAnswer(f"The gateway on port {self.port} did not answer in time.") from error
            except OSError as error:
                raise NoAnswer(f"The gateway on port {self.port} broke off: {error}.") from error
            if not more:
                raise NoAnswer(f"The gateway on port {self.port} has ended.")
            kept += more
            if len(kept) > LINE_MOST:
                raise NoAnswer(f"What answers for port {self.port} is no gateway.")


def _read(line: bytes, port: int) -> dict[str, Any]:
    try:
        said = json.loads(line)
    except (ValueError, RecursionError):
        said = None
    if not isinstance(said, dict):
        raise NoAnswer(f"What answers for port {port} is no gateway.")
    return said


def running(port: int, environ: Mapping[str, str]) -> list[Running]:
    """The gateways of this user that listen now, on this port or, where it is 0, on any. Mostly one or none: a port is
    one gateway's, unless network namespaces share a folder."""
    found: dict[Path, Running] = {}
    for folder in _folders(environ):
        for name in _entries(folder):
            match = _NAME.fullmatch(name)
            if match is None or port not in (0, int(match[1])):
                continue
            path = folder / name
            if path not in found and _listens(path):
                found[path] = Running(int(match[1]), path)
    return sorted(found.values(), key=lambda each: (each.port, str(each.path)))


def _folders(environ: Mapping[str, str]) -> Iterator[Path]:
    """Run folders of our own that nobody else can enter: in a place for everybody, others may have laid some."""
    if named := environ.get("WAKEGATE_RUN_DIR"):
        yield Path(named)
    for place in dict.fromkeys((f"/run/user/{os.geteuid()}", *PLACES, tempfile.gettempdir())):
        for name in _entries(Path(place)):
            folder = Path(place) / name
            if name.startswith(("wakegate.", "wakegate-")) and _is_private(folder):
                yield folder


def _entries(folder: Path) -> list[str]:
    try:
        return sorted(each.name for each in folder.iterdir())
    except OSError:
        return []


def _is_private(folder: Path) -> bool:
    try:
        seen = folder.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(seen.st_mode) and seen.st_uid == os.geteuid() and not seen.st_mode & 0o077


def _listens(path: Path) -> bool:
    """Whether somebody answers there, and is who we are. What a gateway left that was killed refuses."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as there:
        there.settimeout(WITHIN)
        try:
            with address_of(path) as address:
                there.connect(address)
            return peer_of(there) == os.geteuid()
        except OSError:
            return False


def peer_of(connection: socket.socket) -> int:
    """The user at the other end, as the kernel says. Raises OSError."""
    _, user, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return int(user)
