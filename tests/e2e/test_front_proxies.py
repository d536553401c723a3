"""Behind a real nginx and a real Caddy, with the configurations of docs/how-to/behind-a-proxy.md, word for word.

What stands behind them is a server that tells when each byte went out and what came in.
"""

import asyncio
import contextlib
import io
import os
import re
import signal
import ssl
import subprocess
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from gateway.web.peers import Peers
from tests.support.worker import free_port

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "behind-a-proxy.md"
NAME = "llm.example.org"
CALLER, PROXY = "127.0.0.9", "127.0.0.1"
"""Both are this machine; a caller that binds to another address of it is somebody else to the proxy."""
TRUSTED = Peers((PROXY,))
EVENTS, PAUSE = 4, 0.15


def shown(word: str) -> str:
    """The block of the page that has this word in it."""
    (found,) = (block for block in re.findall(r"^```text\n(.*?)^```", PAGE.read_text(), re.M | re.S) if word in block)
    return str(found)


@dataclass
class Behind:
    """What the gateway's place is taken by."""

    port: int = 0
    heads: list[web.BaseRequest] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    left: asyncio.Event = field(default_factory=asyncio.Event)

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        self.heads.append(request)
        try:
            if request.path == "/silent":
                await asyncio.sleep(30)
            if request.path == "/upload":
                self.sizes.append(sum([len(chunk) async for chunk in request.content.iter_any()]))
                return web.Response(text="read")
            answer = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
            await answer.prepare(request)
            for number in range(10_000 if request.path == "/endless" else EVENTS):
                await answer.write(f"data: {number}\n\n".encode())
                await asyncio.sleep(PAUSE)
        except (asyncio.CancelledError, ConnectionError):
            self.left.set()
            raise
        return answer

    @property
    def caller(self) -> str:
        """Who the caller is, as the gateway would see it."""
        head = self.heads[-1]
        assert head.transport is not None
        peer = head.transport.get_extra_info("peername")[0]
        return TRUSTED.address_of(peer, head.headers.getall("X-Forwarded-For", ()))


@dataclass
class Front:
    """A proxy that runs, and how a caller speaks to it."""

    behind: Behind
    session: aiohttp.ClientSession
    trust: ssl.SSLContext
    port: int

    @property
    def base(self) -> str:
        return f"https://{NAME}:{self.port}"


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("tls")
    cert, key = folder / "cert.pem", folder / "key.pem"
    new = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-days", "2", "-subj", f"/CN={NAME}"]
    files = ["-addext", f"subjectAltName=DNS:{NAME}", "-keyout", str(key), "-out", str(cert)]
    subprocess.run(["openssl", "req", "-x509", "-nodes", *new, *files], check=True, capture_output=True)
    return cert, key


def nginx_command(folder: Path, port: int, behind: int, pair: tuple[Path, Path]) -> list[str]:
    """The page's server in the smallest frame that nginx needs, with its own folders."""
    site = shown("proxy_pass").replace("127.0.0.1:8000", f"127.0.0.1:{behind}").replace("listen 443", f"listen {port}")
    for given, ours in zip(re.findall(r"/etc/\S+(?=;)", site), pair, strict=True):
        site = site.replace(given, str(ours))
    folders = "".join(f"{name}_temp_path {folder};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    frame = f"daemon off; pid {folder}/pid; error_log stderr error; events {{}} http {{ access_log off; {folders}\n"
    user = "user root;" if os.geteuid() == 0 else ""
    (folder / "nginx.conf").write_text(f"{user} {frame} {site} }}")
    return ["nginx", "-e", "stderr", "-c", str(folder / "nginx.conf")]


def caddy_command(folder: Path, port: int, behind: int, pair: tuple[Path, Path]) -> list[str]:
    """The page's site, with our certificate in place of one that Caddy would fetch, and without its admin port."""
    site = shown("reverse_proxy").replace("127.0.0.1:8000", f"127.0.0.1:{behind}")
    site = site.replace(f"{NAME} {{", f"{NAME}:{port} {{\n    tls {pair[0]} {pair[1]}", 1)
    (folder / "Caddyfile").write_text("{\n    admin off\n    auto_https disable_redirects\n}\n" + site)
    return ["caddy", "run", "--adapter", "caddyfile", "--config", str(folder / "Caddyfile")]


@contextlib.asynccontextmanager
async def running(command: list[str], port: int, folder: Path) -> AsyncIterator[None]:
    environment = os.environ | {"HOME": str(folder), "XDG_DATA_HOME": str(folder), "XDG_CONFIG_HOME": str(folder)}
    environment["PATH"] += ":/usr/sbin"
    with (folder / "said.txt").open("wb") as said:
        process = subprocess.Popen(command, stdout=said, stderr=said, cwd=folder, env=environment)
    try:
        deadline = time.monotonic() + 20
        while True:
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection(PROXY, port)
                writer.close()
                break
            assert process.poll() is None and time.monotonic() < deadline, (folder / "said.txt").read_text()
            await asyncio.sleep(0.02)
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@pytest.fixture(params=["nginx", "caddy"])
async def front(request: pytest.FixtureRequest, tmp_path: Path, pair: tuple[Path, Path]) -> AsyncIterator[Front]:
    behind = Behind()
    server = web.Server(behind.answer, handler_cancellation=True)
    listening = await asyncio.get_running_loop().create_server(server, PROXY, 0)
    behind.port, port = listening.sockets[0].getsockname()[1], free_port()
    make = nginx_command if request.param == "nginx" else caddy_command
    trust = ssl.create_default_context(cafile=str(pair[0]))
    connector = aiohttp.TCPConnector(ssl=trust, local_addr=(CALLER, 0), resolver=Here(), force_close=True)
    proxy = running(make(tmp_path, port, behind.port, pair), port, tmp_path)
    async with proxy, aiohttp.ClientSession(connector=connector) as session:
        yield Front(behind, session, trust, port)
    listening.close()
    await server.shutdown(0.2)


class Here(aiohttp.abc.AbstractResolver):
    """The name of the page is this machine."""

    async def resolve(self, host: str, port: int = 0, family: int = 0) -> list[aiohttp.abc.ResolveResult]:
        return [{"hostname": host, "host": PROXY, "port": port, "family": 2, "proto": 0, "flags": 0}]

    async def close(self) -> None:
        pass


async def test_what_the_page_shows_serves_callers_well(front: Front) -> None:
    """One start of each proxy for all of it: streams, addresses, uploads, and callers who leave."""
    await streams_pass_as_they_come(front)
    await the_caller_is_known_and_cannot_call_itself_another(front)
    await a_large_upload_passes(front)
    await a_caller_who_leaves_is_noticed(front, "/endless")
    await a_caller_who_leaves_is_noticed(front, "/silent")


async def streams_pass_as_they_come(front: Front) -> None:
    came = []
    async with front.session.post(f"{front.base}/v1/chat/completions", json={"stream": True}) as answer:
        assert answer.status == 200
        async for chunk in answer.content.iter_any():
            came.append((time.monotonic(), chunk))
    assert b"".join(chunk for _, chunk in came).count(b"data:") == EVENTS
    assert came[-1][0] - came[0][0] > PAUSE * (EVENTS - 2), "it came all at once"


async def the_caller_is_known_and_cannot_call_itself_another(front: Front) -> None:
    for invented in ({}, {"X-Forwarded-For": "203.0.113.1", "X-Forwarded-Proto": "http"}):
        async with front.session.post(f"{front.base}/upload", data=b"x", headers=invented) as answer:
            assert answer.status == 200
        assert front.behind.caller == CALLER
        head = front.behind.heads[-1].headers
        assert TRUSTED.scheme_of(PROXY, head.getall("X-Forwarded-Proto", ()), "http") == "https"
        assert head["Host"].partition(":")[0] == NAME


async def a_large_upload_passes(front: Front) -> None:
    size = 30 * 1024**2
    async with front.session.post(f"{front.base}/upload", data=io.BytesIO(bytes(size))) as answer:
        assert (answer.status, front.behind.sizes[-1]) == (200, size)


async def a_caller_who_leaves_is_noticed(front: Front, path: str) -> None:
    """On a socket of its own: asyncio's clients say goodbye in TLS first and wait up to 30 s before they hang up, and
    nginx hears only who hangs up."""
    front.behind.left.clear()
    before = len(front.behind.heads)
    _, writer = await asyncio.open_connection(PROXY, front.port, ssl=front.trust, server_hostname=NAME)
    writer.write(f"POST {path} HTTP/1.1\r\nHost: {NAME}\r\nContent-Length: 2\r\n\r\n{{}}".encode())
    while len(front.behind.heads) == before:
        await asyncio.sleep(0.01)
    await asyncio.sleep(PAUSE)
    writer.transport.abort()
    await asyncio.wait_for(front.behind.left.wait(), 3)
