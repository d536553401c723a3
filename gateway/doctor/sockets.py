"""Who listens on this machine, by the kernel's tables; and which engine an answer comes from. Without I/O."""

import ipaddress
import json
import re
import socket
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from gateway.doctor.case import EngineKind, EngineSeen, Listener

LISTEN = "0A"
"""TCP_LISTEN in the kernel's include/net/tcp_states.h."""

NO_HTTP = frozenset({22, 25, 53, 111, 139, 389, 445, 587, 993, 3306, 5432, 6379, 11211, 27017})
"""Ports of well-known services that would log an attack if they were asked in HTTP."""


@dataclass(frozen=True, slots=True)
class Row:
    """One line of /proc/net/tcp or tcp6 in state LISTEN."""

    address: str
    port: int
    inode: int


def parse_listeners(text: str) -> Iterator[Row]:
    """The listening sockets of /proc/net/tcp or /proc/net/tcp6 (proc(5))."""
    for line in text.splitlines()[1:]:
        fields = line.split()
        if len(fields) > 9 and fields[3] == LISTEN:
            address, _, port = fields[1].partition(":")
            yield Row(_address(address), int(port, 16), int(fields[9]))


def _address(text: str) -> str:
    """Hexadecimal, in words of 32 bits that stand in the machine's own order."""
    raw = bytes.fromhex(text)
    if sys.byteorder == "little":
        raw = b"".join(raw[i : i + 4][::-1] for i in range(0, len(raw), 4))
    return socket.inet_ntop(socket.AF_INET if len(raw) == 4 else socket.AF_INET6, raw)


def reachable_at(listener: Listener) -> str:
    """The address of this machine by which to ask it."""
    if not listener.is_wildcard:
        return listener.address
    return "::1" if ":" in listener.address else "127.0.0.1"


def is_of_this_machine(address: str) -> bool:
    """Whether it is an IP address at all: the kernel's tables hold no names, and nothing else may be connected to."""
    try:
        ipaddress.ip_address(address)
    except ValueError:
        return False
    return True


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back for one GET."""

    status: int
    server: str = ""
    body: str = ""

    def json(self) -> Mapping[str, object]:
        try:
            value = json.loads(self.body)
        except ValueError:
            return {}
        return value if isinstance(value, dict) else {}


ASKED_FIRST = ("/health", "/version", "/openapi.json", "/")
"""What tells engines apart. Never /v1/models of an engine that is not known yet: on llama-cpp-python's own server that
question cuts the answer that is running."""

ASKED_THEN: Mapping[EngineKind, tuple[str, ...]] = {
    "vLLM": ("/v1/models", "/invocations"),
    "llama-server": ("/props",),
    "Ollama": ("/api/version",),
}
"""By engine: what shows whether it asks for a key. None of these starts any work: /invocations takes POST only, so that
405 to a GET is a route that is open, 401 one that is locked. llama-cpp-python's own server has nothing that tells it
without a risk for the answer that is running."""


def engine_of(answers: Mapping[str, Answer]) -> EngineKind | None:
    """Which engine these answers to ASKED_FIRST come from; None: no engine that is known here."""
    health, version = answers.get("/health", _NOTHING), answers.get("/version", _NOTHING)
    if re.search(r"llama\.cpp", health.server, re.I):
        return "llama-server"
    if "Ollama is running" in answers.get("/", _NOTHING).body:
        return "Ollama"
    title = answers.get("/openapi.json", _NOTHING).body[:500]
    if "llama.cpp Python API" in title:
        return "llama-cpp-python's own server"
    # Others have a /version, too; vLLM's /health has no body.
    if isinstance(version.json().get("version"), str) and health.status in (200, 503) and not health.body:
        return "vLLM"
    return None


def engine_seen(name: EngineKind, listener: Listener, answers: Mapping[str, Answer]) -> EngineSeen:
    """The engine, and what it answers without a key. vLLM's --api-key locks /v1 and leaves /invocations open."""
    routes = [path for path in ASKED_THEN.get(name, ()) if answers.get(path, _NOTHING).status in (200, 405)]
    locked = name == "vLLM" and "/v1/models" not in routes
    return EngineSeen(name, listener, tuple(routes if locked or not routes else ["everything"]))


_NOTHING = Answer(0)
