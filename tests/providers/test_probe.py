"""One look at an upstream: what came, and nothing believed."""

import asyncio
import hashlib
import ssl
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from gateway.providers.base import Endpoint
from gateway.providers.probe import ANSWER_MAX, Sight, is_html, look, parse, private_session

Ask = Callable[[bytes], Awaitable[Sight]]


@pytest.fixture
async def ask() -> AsyncIterator[Ask]:
    """Looks at a server that sends exactly these bytes and closes."""
    session = private_session(None)
    servers: list[asyncio.Server] = []

    async def one(answer: bytes) -> Sight:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer)
            await asyncio.sleep(0 if answer else 2)
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        servers.append(server)
        return await look(session, Endpoint(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"), "/x", within=0.3)

    yield one
    await session.close()
    for server in servers:
        server.close()


def answer(body: bytes, status: bytes = b"200 OK", headers: bytes = b"") -> bytes:
    return b"HTTP/1.1 " + status + b"\r\n" + headers + b"Content-Length: %d\r\n\r\n" % len(body) + body


async def test_json_is_read(ask: Ask) -> None:
    assert await ask(answer(b'{"progress": 0.5}')) == Sight(200, {"progress": 0.5})


async def test_a_redirect_is_an_answer_and_is_not_followed(ask: Ask) -> None:
    assert (await ask(answer(b"", b"302 Found", b"Location: http://127.0.0.1:1/\r\n"))).status == 302


async def test_an_answer_that_is_too_long_is_not_read_to_its_end(ask: Ask) -> None:
    assert (await ask(answer(b'"' + b"x" * ANSWER_MAX + b'"'))).content is None


@pytest.mark.parametrize(
    "raw, trouble",
    [(b"", "timeout"), (b"SSH-2.0-x\r\n\r\n", "protocol"), (b"HTTP/1.1 200 OK\r\nContent-Le", "refused")],
)
async def test_what_is_no_answer_is_named(ask: Ask, raw: bytes, trouble: str) -> None:
    sight = await ask(raw)
    assert (sight.status, sight.trouble) == (0, trouble)
    assert not sight.answered


async def test_nobody_there_is_refused() -> None:
    session = private_session("/nowhere/engine.sock")
    try:
        assert (await look(session, Endpoint("http://localhost"), "/health", within=1)).trouble == "refused"
    finally:
        await session.close()


@pytest.mark.parametrize("value", ['{"progress": true}', '{"progress": 7}', '{"progress": "x"}', "[]", "7", "null"])
def test_progress_that_is_none_is_not_told(value: str) -> None:
    assert Sight(503, parse(value.encode())).progress() is None


@pytest.mark.parametrize("value", ['{"data": 7}', '{"data": [7, {"id": 7}, {}]}', "[]", "{}"])
def test_a_list_that_is_none_names_no_models(value: str) -> None:
    assert Sight(200, parse(value.encode())).model_names() == ()


@pytest.mark.parametrize(
    "kind, body, html",
    [("text/html; charset=utf-8", b"", True), ("", b"  <!doctype html>", True), ("application/json", b"{}", False)],
)
def test_a_page_is_recognised(kind: str, body: bytes, html: bool) -> None:
    assert is_html(kind, body) is html


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, str]:
    """What a server shows that signed its own, and its fingerprint."""
    folder: Path = tmp_path_factory.mktemp("pin")
    files = ["-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem"), "-subj", "/CN=worker"]
    new = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "1"]
    subprocess.run(["openssl", "req", "-x509", *new, *files], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    der = ssl.PEM_cert_to_DER_cert((folder / "cert.pem").read_text())
    return context, hashlib.sha256(der).hexdigest()


@pytest.mark.parametrize("right", [True, False])
async def test_a_key_is_shown_to_the_one_certificate_that_is_known_and_to_no_other(
    right: bool, certificate: tuple[ssl.SSLContext, str]
) -> None:
    context, fingerprint = certificate
    heard = bytearray()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1000):
            heard.extend(data)
            writer.write(answer(b"{}"))
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    session = private_session(None)
    try:
        known = fingerprint if right else "0" * 64
        url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        sight = await look(session, Endpoint(url, key="k" * 16, fingerprint=known), "/health", within=10)
    finally:
        await session.close()
        server.close()
    assert (sight.status, sight.trouble) == ((200, "") if right else (0, "tls"))
    assert (b"k" * 16 in heard) is right
    assert right or fingerprint in sight.detail


def test_a_fingerprint_without_tls_is_no_endpoint() -> None:
    with pytest.raises(ValueError, match="no TLS"):
        Endpoint("http://127.0.0.1:8000", fingerprint="0" * 64)
