"""An upstream that somebody else runs, seen over HTTP by a server that answers as it is told."""

import asyncio
import ssl
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import cast

import aiohttp
import pytest
from aiohttp import web

from gateway.providers.base import Endpoint, Gone, Intent, Loading, Ready
from gateway.providers.external.provider import ExternalProvider, Pace, endpoint_of, is_behind_runpods_proxy
from tests.support.engines import ListJournal, Watcher, soon

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
QUICK = Pace(first=0.01, longest=0.02, steady=0.02, within=1)


class Upstream:
    """Answers each path with a status and a body that a test may change; remembers what was asked."""

    def __init__(self) -> None:
        self.answers: dict[str, tuple[int, str, str]] = {
            "/health": (200, "application/json", "{}"),
            "/v1/models": (200, "application/json", '{"data":[{"id":"a"},{"id":"b"}]}'),
        }
        self.asked: list[tuple[str, str | None]] = []
        self.url = ""

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        self.asked.append((request.raw_path, request.headers.get("Authorization")))
        status, kind, body = self.answers.get(request.raw_path, (404, "text/html", "<html>"))
        headers = {"Location": "/elsewhere"} if status in (301, 302) else {}
        return web.Response(status=status, content_type=kind, text=body, headers=headers)


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    made = Upstream()
    runner = web.ServerRunner(web.Server(made.answer))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    made.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield made
    await runner.cleanup()


@pytest.fixture
async def look_at() -> AsyncIterator[Callable[..., Awaitable[tuple[ExternalProvider, Watcher]]]]:
    providers: list[ExternalProvider] = []
    async with aiohttp.ClientSession() as session:

        async def start(url: str, key: str | None = None) -> tuple[ExternalProvider, Watcher]:
            provider = ExternalProvider(endpoint_of(url, key), session=session, pace=QUICK)
            providers.append(provider)
            return provider, Watcher(provider, await provider.start(Intent("default", 1), ListJournal()))

        yield start
        for provider in providers:
            await provider.close()


async def test_ready_says_what_it_serves(upstream, look_at) -> None:
    provider, watcher = await look_at(upstream.url, "sk-its-own")
    assert await watcher.first(Ready) == Ready(("a", "b"), None)
    assert provider.profile.models == ("a", "b")
    assert not provider.profile.starts
    assert upstream.asked[:2] == [("/health", "Bearer sk-its-own"), ("/v1/models", "Bearer sk-its-own")]


@pytest.mark.parametrize(
    "path, answer",
    [
        ("/health", (503, "application/json", '{"status":"loading","progress":0.43}')),
        ("/v1/models", (503, "application/json", '{"progress":0.43}')),
    ],
)
async def test_an_upstream_that_loads_is_waited_for(upstream, look_at, path, answer) -> None:
    before, upstream.answers[path] = upstream.answers[path], answer
    _, watcher = await look_at(upstream.url)
    assert await watcher.first(Loading) == Loading("loading", 0.43)
    upstream.answers[path] = before
    await watcher.first(Ready)


async def test_an_upstream_without_health_is_ready_by_its_models_and_asked_for_them_once(upstream, look_at) -> None:
    """On llama-cpp-python's own server /v1/models cuts the answer that is running."""
    del upstream.answers["/health"]
    _, watcher = await look_at(upstream.url)
    await watcher.first(Ready)
    upstream.asked.clear()
    await soon(lambda: len(upstream.asked) > 4, "looks")
    assert {path for path, _ in upstream.asked} == {"/health"}


@pytest.mark.parametrize("status", [403, 404, 405, 501])
async def test_an_upstream_without_models_is_ready_by_its_health(upstream, look_at, status) -> None:
    """A server for speech; a key that may infer and not list."""
    upstream.answers["/v1/models"] = (status, "text/plain", "no")
    _, watcher = await look_at(upstream.url)
    assert (await watcher.first(Ready)).models == ()


async def test_a_page_is_no_health_and_no_list(upstream, look_at) -> None:
    """A tunnel whose other end sleeps answers 200 with a page."""
    page = (200, "text/html", "<html>Your app is asleep</html>")
    before = dict(upstream.answers)
    upstream.answers.update({"/health": page, "/v1/models": page})
    _, watcher = await look_at(upstream.url)
    assert (await watcher.first(Loading)).phase == "unreachable"
    upstream.answers = before
    await watcher.first(Ready)


async def test_redirects_are_not_followed(upstream, look_at) -> None:
    upstream.answers.update({"/health": (302, "text/plain", ""), "/v1/models": (302, "text/plain", "")})
    _, watcher = await look_at(upstream.url)
    assert await watcher.first(Loading) == Loading("unreachable", detail="status 302 at /v1/models")
    assert "/elsewhere" not in {path for path, _ in upstream.asked}


async def test_a_refused_key_is_a_lasting_failure(upstream, look_at) -> None:
    upstream.answers["/v1/models"] = (401, "application/json", "{}")
    _, watcher = await look_at(upstream.url, "sk-wrong")
    assert await watcher.gone() == Gone("The upstream refuses our key (UPSTREAM_API_KEY).", lasting=True)


async def test_an_upstream_that_is_not_there_yet_is_looked_for(look_at) -> None:
    _, watcher = await look_at("http://127.0.0.1:1")
    assert await watcher.first(Loading) == Loading("unreachable", detail="refused")


async def test_one_lost_look_is_not_the_end(upstream, look_at) -> None:
    _, watcher = await look_at(upstream.url)
    await watcher.first(Ready)
    upstream.answers["/health"] = (502, "text/html", "<html>")
    upstream.asked.clear()
    await soon(lambda: len(upstream.asked) == 1, "a look")
    upstream.answers["/health"] = (200, "application/json", "{}")
    await soon(lambda: len(upstream.asked) > 8, "looks")
    assert not any(isinstance(news, Gone) for news in watcher.heard)


async def test_three_lost_looks_are_the_end(upstream, look_at) -> None:
    _, watcher = await look_at(upstream.url)
    await watcher.first(Ready)
    upstream.answers["/health"] = (502, "text/html", "<html>")
    assert (await watcher.gone()).reason == "The upstream does not answer."


async def test_a_path_before_v1_is_kept(upstream, look_at) -> None:
    upstream.answers = {f"/openai{path}": answer for path, answer in upstream.answers.items()}
    _, watcher = await look_at(f"{upstream.url}/openai/v1/")
    await watcher.first(Ready)


async def test_a_certificate_that_nobody_vouches_for_is_not_accepted(look_at, tmp_path: Path) -> None:
    """TLS is verified: the upstream stays unreachable, and why is said."""
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    made = subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
         "-days", "1", "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1",
         "-keyout", str(key), "-out", str(certificate)],
        capture_output=True, check=False,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server = await asyncio.start_server(lambda _reader, writer: writer.close(), "127.0.0.1", 0, ssl=context)
    try:
        _, watcher = await look_at(f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        assert await watcher.first(Loading) == Loading("unreachable", detail="tls")
    finally:
        server.close()


@pytest.mark.parametrize(
    "url, expected",
    [
        ("http://host:8000", Endpoint("http://host:8000")),
        ("http://host:8000/v1/", Endpoint("http://host:8000")),
        ("https://HOST/v1", Endpoint("https://host")),
        ("https://api.runpod.ai/v2/abc/openai/v1", Endpoint("https://api.runpod.ai", "/v2/abc/openai")),
        ("http://[::1]:8080/x/", Endpoint("http://[::1]:8080", "/x")),
    ],
)
def test_an_upstream_is_named_with_or_without_v1(url: str, expected: Endpoint) -> None:
    assert endpoint_of(url) == expected


@pytest.mark.parametrize(
    "url, sentence",
    [
        ("host:8000", "must begin with http"),
        ("ftp://host", "must begin with http"),
        ("http://", "must begin with http"),
        ("http://user:pw@host", "must not hold a password"),
        ("http://host/v1?key=x", "without"),
        ("http://host:99999", "is not a URL"),
        ("http://ho st", "without"),
    ],
)
def test_a_url_that_cannot_be_meant_is_one_sentence(url: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=f"UPSTREAM_URL.*{sentence}"):
        endpoint_of(url)


@pytest.mark.parametrize(
    ("url", "is_behind"),
    [
        ("https://abc123-8000.proxy.runpod.net/v1", True),
        ("https://ABC123-8000.PROXY.RunPod.net", True),
        ("https://abc123-8000.proxy.runpod.net:443", True),
        ("https://ep42.api.runpod.ai", False),
        ("https://abc123-8000.proxy.runpod.net.evil.example", False),
        ("https://proxy.runpod.net", False),
        ("http://10.0.0.7:8000/proxy.runpod.net", False),
    ],
)
def test_an_engine_behind_runpods_proxy_is_known_by_its_url(url: str, is_behind: bool) -> None:
    """Which ends what was silent for 100 s: such an engine is asked to stream also what its caller wants at once."""
    endpoint = endpoint_of(url)
    assert is_behind_runpods_proxy(endpoint.url) is is_behind
    assert ExternalProvider(endpoint, session=cast(aiohttp.ClientSession, None)).profile.cuts_silence is is_behind
