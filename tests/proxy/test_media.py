"""Images that are fetched for the engine: from a real https server, whose address counts as public here.

Names are answered by a table instead of the system's resolver, so that a test says what a stranger's DNS would.
"""

import asyncio
import base64
import contextlib
import gc
import gzip
import os
import socket
import ssl
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from aiohttp import web

from gateway.errors import Refusal, Refused
from gateway.proxy.checker import Image
from gateway.proxy.checks import Wanted
from gateway.proxy.media import IMAGE_MAX, LOOKUPS_MAX, REDIRECTS_MAX, MediaFetcher, Names, is_public

PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 40
JPEG = b"\xff\xd8\xff\xe0" + b"j" * 999
WEBP = b"RIFF\x00\x01\x00\x00WEBP" + b"w" * 1000
GIF = b"GIF89a" + b"g" * 1001
ROOM = 1 << 30
HERE = "127.0.0.1"


# -- what is public ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "10.1.2.3", "172.16.0.1", "172.31.255.255", "192.168.1.1", "169.254.169.254", "100.64.0.1"),
        *("100.100.100.200", "192.0.0.192", "168.63.129.16", "0.0.0.0", "0.1.2.3", "198.18.0.1", "224.0.0.1"),
        *("239.255.255.250", "240.0.0.1", "255.255.255.255", "192.0.2.1", "203.0.113.1", "192.88.99.1"),
        *("::1", "::", "fd00::1", "fc00::1", "fe80::1", "fe80::1%eth0", "ff02::1", "fec0::1", "::ffff:10.0.0.1"),
        *("::ffff:8.8.8.8", "::10.0.0.1", "64:ff9b::a00:1", "64:ff9b::8.8.8.8", "64:ff9b:1::1", "2002:a00:1::"),
        *("2001::1", "2001:db8::1", "3fff::1", "100::1", "5f00::1", "fd00:ec2::254"),
        *("localhost", "", "127.1", "2130706433", "0x7f000001", "0177.0.0.1", "127.0.0.1 ", "1.2.3.4.5"),
    ],
)
def test_what_is_not_on_the_open_internet_is_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize(
    "address", ["8.8.8.8", "1.1.1.1", "172.32.0.1", "100.128.0.1", "2606:4700::1111", "2a00:1450::1"]
)
def test_the_open_internet_is_public(address: str) -> None:
    assert is_public(address)


# -- a host with images --------------------------------------------------------------------------------------------


@dataclass
class Host:
    """An https server with some images and some tricks; it remembers who asked for what."""

    port: int
    trust: ssl.SSLContext
    seen: list[web.BaseRequest] = field(default_factory=list)
    let_go: asyncio.Event = field(default_factory=asyncio.Event)
    running: int = 0
    most_running: int = 0
    left: int = 0

    def url(self, path: str, name: str = "images.example.org") -> str:
        return f"https://{name}:{self.port}{path}"

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        self.seen.append(request)
        self.running += 1
        self.most_running = max(self.running, self.most_running)
        try:
            return await self._answer(request)
        except asyncio.CancelledError:
            self.left += 1
            raise
        finally:
            self.running -= 1

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        name = request.path.rpartition("/")[2]
        if name in IMAGES:
            kind, data = IMAGES[name]
            return web.Response(body=data, headers={"Content-Type": kind} if kind else {})
        if name.startswith("status-"):
            return web.Response(status=int(name[7:]), body=PNG, content_type="image/png")
        if name == "to":
            return web.Response(status=302, headers={"Location": request.query["where"]})
        if name == "far":
            return web.Response(status=302, headers={"Location": "/" + "x" * 3000})
        if name == "circle":
            return web.Response(status=307, headers={"Location": "/circle"})
        if name == "gzip":
            head = {"Content-Encoding": "gzip", "Content-Type": "image/png"}
            return web.Response(body=gzip.compress(PNG), headers=head)
        if name == "slow":
            await self.let_go.wait()
            return web.Response(body=PNG, content_type="image/png")
        return await self._stream(request, name)

    async def _stream(self, request: web.BaseRequest, name: str) -> web.StreamResponse:
        answer = web.StreamResponse(headers={"Content-Type": "image/png"})
        answer.enable_chunked_encoding()
        await answer.prepare(request)
        if name == "drop":
            await answer.write(PNG[:100])
            assert request.transport is not None
            request.transport.abort()
        elif name == "dribble":
            for byte in PNG[:100]:
                await answer.write(bytes([byte]))
        elif name == "endless":
            await answer.write(PNG[:8])
            with contextlib.suppress(ConnectionError):
                while True:
                    await answer.write(b"x" * 65536)
                    await asyncio.sleep(0)  # else a lost connection would never be told
        elif name == "stall":
            await answer.write(PNG[:100])
            await self.let_go.wait()
        return answer


IMAGES = {
    "a.png": ("image/png", PNG),
    "a.jpg": ("image/jpeg", JPEG),
    "a.webp": ("image/webp; charset=binary", WEBP),
    "a.gif": ("IMAGE/GIF", GIF),
    "wrong-type.png": ("image/jpeg", PNG),
    "bucket": ("binary/octet-stream", PNG),
    "no-type": ("application/octet-stream", JPEG),
    "page.html": ("text/html", PNG),
    "json": ("application/json", b'{"secret": 1}'),
    "text.png": ("image/png", b"root:x:0:0:root:/root:/bin/bash\n" * 9),
    "svg": ("image/svg+xml", b"<svg xmlns='http://www.w3.org/2000/svg'/>"),
    "tiny": ("image/png", b"\x89PN"),
    "empty": ("image/png", b""),
    "three.png": ("image/png", PNG[:8] + b"abcd"),
}


@pytest.fixture(scope="module", autouse=True)
def nobody_elses_spools() -> None:
    """Those that another file's tests have left in a cycle of references are not ours to count."""
    gc.collect()


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("tls")
    cert, key = folder / "cert.pem", folder / "key.pem"
    new = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-subj", "/CN=images", "-days", "2"]
    names = ["-addext", f"subjectAltName=DNS:*.example.org,DNS:example.org,IP:{HERE}"]
    command = ["openssl", "req", "-x509", "-nodes", *new, *names, "-keyout", str(key), "-out", str(cert)]
    subprocess.run(command, check=True, capture_output=True)
    return cert, key


@pytest.fixture
async def host(pair: tuple[Path, Path]) -> AsyncIterator[Host]:
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(*pair)
    found = Host(0, ssl.create_default_context(cafile=str(pair[0])))
    server = web.Server(found.answer, handler_cancellation=True)
    listening = await asyncio.get_running_loop().create_server(server, HERE, 0, ssl=serving)
    found.port = listening.sockets[0].getsockname()[1]
    yield found
    found.let_go.set()
    listening.close()
    await server.shutdown(0.2)


Table = dict[str, Sequence[str] | list[Sequence[str]]]


class Resolver:
    """Names from a table; a list of answers is given one after the other. It counts."""

    def __init__(self, table: Table | None = None) -> None:
        self.table = {"images.example.org": (HERE,), "example.org": (HERE,), "evil.org": (HERE,)} | (table or {})
        self.asked: list[str] = []

    async def __call__(self, host: str) -> Sequence[str]:
        self.asked.append(host)
        answer = self.table.get(host, ())
        if isinstance(answer, list):
            return answer.pop(0)
        return answer


Make = Callable[..., MediaFetcher]


@pytest.fixture
async def make(host: Host) -> AsyncIterator[Make]:
    """Fetchers for which loopback is the open internet, as nothing else is here."""
    made: list[MediaFetcher] = []

    def make_one(names: Resolver | None = None, **settings: object) -> MediaFetcher:
        usual = {"lookup": names or Resolver(), "is_public": HERE.__eq__, "port": host.port, "tls": host.trust}
        made.append(MediaFetcher(**(usual | settings)))  # type: ignore[arg-type]
        return made[-1]

    yield make_one
    for each in made:
        await each.close()


def want(*urls: str) -> list[Wanted]:
    return [Wanted(url, f"messages.0.content.{index}.image_url") for index, url in enumerate(urls)]


def content(image: Image) -> bytes:
    data = base64.b64decode(image.data.read(0, image.data.size), validate=True)
    image.close()
    return data


async def refusal(fetching: Awaitable[object]) -> Refusal:
    with pytest.raises(Refused) as caught:
        await fetching
    return caught.value.refusal


def spools() -> int:
    return sum("wakegate-body" in name for name in (readlink(fd) for fd in os.listdir("/proc/self/fd")))


def readlink(fd: str) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    except OSError:
        return ""


async def until(holds: Callable[[], bool], within: float = 5.0) -> None:
    deadline = time.monotonic() + within
    while not holds():
        assert time.monotonic() < deadline, "not within the deadline"
        await asyncio.sleep(0.01)


# -- what comes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "kind", "data"),
    [
        ("a.png", "image/png", PNG),
        ("a.jpg", "image/jpeg", JPEG),
        ("a.webp", "image/webp", WEBP),
        ("a.gif", "image/gif", GIF),
        ("wrong-type.png", "image/png", PNG),
        ("bucket", "image/png", PNG),
        ("no-type", "image/jpeg", JPEG),
        ("dribble", "image/png", PNG[:100]),
        ("three.png", "image/png", PNG[:8] + b"abcd"),
    ],
)
async def test_an_image_is_what_its_first_bytes_say(host: Host, make: Make, name: str, kind: str, data: bytes) -> None:
    (image,) = await make().fetch(want(host.url(f"/{name}?x=%2f#part")), room=ROOM)
    assert (image.media_type, content(image)) == (kind, data)
    assert host.seen[0].raw_path == f"/{name}?x=%2f"


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("page.html", "it is text/html, not an image"),
        ("json", "it is application/json, not an image"),
        ("text.png", "it is not a PNG, JPEG, WebP or GIF"),
        ("svg", "it is not a PNG, JPEG, WebP or GIF"),
        ("tiny", "it is not a PNG, JPEG, WebP or GIF"),
        ("empty", "it is not a PNG, JPEG, WebP or GIF"),
        ("gzip", "it comes compressed"),
        ("status-404", "its host answers 404"),
        ("status-206", "its host answers 206"),
        ("status-204", "its host answers 204"),
        ("status-500", "its host answers 500"),
        ("drop", "the connection to its host failed"),
        ("circle", f"more than {REDIRECTS_MAX} redirects"),
    ],
)
async def test_what_is_no_image_is_refused_with_the_reason(host: Host, make: Make, name: str, why: str) -> None:
    said = await refusal(make().fetch(want(host.url(f"/{name}")), room=ROOM))
    assert (said.status, said.code, said.param) == (400, "invalid_request", "messages.0.content.0.image_url")
    assert f"from images.example.org could not be fetched: {why}" in said.message
    assert "MEDIA_HOSTS" in said.message and "MEDIA_FETCH" in said.message
    assert "secret" not in said.message and "root:" not in said.message
    await until(lambda: spools() == 0)


async def test_nothing_of_ours_or_the_callers_goes_along(
    host: Host, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    (image,) = await make().fetch(want(host.url("/a.png")), room=ROOM)
    image.close()
    assert {name: value for name, value in host.seen[0].headers.items() if name != "Host"} == {
        "User-Agent": "WakeGate",
        "Accept": "image/*",
        "Accept-Encoding": "identity",
        "Connection": "close",
    }
    assert host.seen[0].headers["Host"] == f"images.example.org:{host.port}"
    assert host.seen[0].method == "GET"


async def test_several_images_come_in_order_and_a_few_at_a_time(host: Host, make: Make) -> None:
    names = ["a.png", "a.jpg", "a.webp", "a.gif"] * 3
    images = await make().fetch(want(*(host.url(f"/{n}/{name}") for n, name in enumerate(names))), room=ROOM)
    assert [image.media_type for image in images] == [IMAGES[name][0].partition(";")[0].lower() for name in names]
    assert [content(image) for image in images] == [IMAGES[name][1] for name in names]
    assert host.most_running <= 4


async def test_an_image_over_the_limit_is_given_up_in_the_middle(host: Host, make: Make) -> None:
    fetcher = make(image_max=300_000)
    said = await refusal(fetcher.fetch(want(host.url("/endless")), room=ROOM))
    assert "it is larger than 0.3 MB" in said.message
    assert IMAGE_MAX == 20_000_000


async def test_a_declared_length_over_the_limit_is_not_read_at_all(host: Host, make: Make) -> None:
    said = await refusal(make(image_max=100).fetch(want(host.url("/a.png")), room=ROOM))
    assert "it is larger than 0.0001 MB" in said.message


async def test_all_images_together_must_fit_into_the_body(host: Host, make: Make) -> None:
    each = 4 * ((len(PNG) + 2) // 3)
    urls = want(*(host.url(f"/{n}/a.png") for n in range(3)))
    images = await make().fetch(urls, room=3 * each)
    assert sum(image.data.size for image in images) == 3 * each
    for image in images:
        image.close()
    said = await refusal(make().fetch(urls, room=3 * each - 1))
    assert (said.status, said.code) == (413, "body_too_large")
    assert "MAX_REQUEST_BODY_SIZE" in said.message
    await until(lambda: spools() == 0)


async def test_an_image_counts_as_often_as_it_stands_in_the_body(host: Host, make: Make) -> None:
    each = 4 * ((len(PNG) + 2) // 3)
    twice = [Wanted(host.url("/a.png"), "a", uses=2)]
    assert (await refusal(make().fetch(twice, room=2 * each - 1))).code == "body_too_large"
    (image,) = await make().fetch(twice, room=2 * each)
    image.close()


# -- where it may come from ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "answer",
    [
        ["10.0.0.7"],
        ["8.8.8.8", "10.0.0.7"],
        ["10.0.0.7", "8.8.8.8"],
        ["::ffff:10.0.0.1"],
        ["169.254.169.254"],
        ["fd00:ec2::254"],
        ["64:ff9b::a00:1"],
        ["127.0.0.1"],
        [],
    ],
    ids=str,
)
async def test_a_name_that_means_anything_but_public_addresses_is_refused(host: Host, answer: list[str]) -> None:
    """With the rule as it is in earnest. All refusals sound alike, so that none tells what lies inside."""
    names = Resolver({"images.example.org": tuple(answer)})
    fetcher = MediaFetcher(lookup=names, port=host.port, tls=host.trust)
    said = await refusal(fetcher.fetch(want(host.url("/a.png")), room=ROOM))
    assert "could not be fetched: its host has no public address." in said.message
    assert not any(address in said.message for address in answer)
    assert not host.seen
    await fetcher.close()


@pytest.mark.parametrize(
    "spelling",
    [
        "127.0.0.1",
        "127.1",
        "2130706433",
        "0x7f000001",
        "0x7f.1",
        "0177.0.0.1",
        "127.0.0.01",
        "10.0.0.1",
        "169.254.169.254",
        "0",
    ],
)
async def test_an_address_in_any_spelling_is_refused_and_no_name_is_asked_for(host: Host, spelling: str) -> None:
    names = Resolver()
    fetcher = MediaFetcher(lookup=names, port=host.port, tls=host.trust)
    said = await refusal(fetcher.fetch(want(host.url("/a.png", spelling)), room=ROOM))
    assert "no public address" in said.message
    assert not names.asked and not host.seen
    await fetcher.close()


async def test_an_address_that_is_public_is_fetched_from(host: Host, make: Make) -> None:
    (image,) = await make().fetch(want(host.url("/a.png", HERE)), room=ROOM)
    assert content(image) == PNG


async def test_a_name_is_asked_for_once_and_its_answer_connected_to(host: Host, make: Make) -> None:
    """DNS rebinding: what the name means a moment later is not looked at."""
    names = Resolver({"images.example.org": [(HERE,), ("10.0.0.7",), ("10.0.0.7",)]})
    (image,) = await make(names).fetch(want(host.url("/a.png")), room=ROOM)
    assert content(image) == PNG
    assert names.asked == ["images.example.org"]
    said = await refusal(make(names).fetch(want(host.url("/a.png")), room=ROOM))
    assert "no public address" in said.message


async def test_a_socket_is_looked_at_once_more_before_it_connects(host: Host, make: Make) -> None:
    """Should a resolver's answer ever get past the first look."""
    looks: list[str] = []

    def public_the_first_time(address: str) -> bool:
        looks.append(address)
        return len(looks) == 1

    said = await refusal(make(is_public=public_the_first_time).fetch(want(host.url("/a.png")), room=ROOM))
    assert "the connection to its host failed" in said.message
    assert looks == [HERE, HERE] and not host.seen


async def test_the_certificate_must_be_the_hosts(host: Host, make: Make) -> None:
    said = await refusal(make().fetch(want(host.url("/a.png", "evil.org")), room=ROOM))
    assert "from evil.org could not be fetched: its host shows no valid TLS certificate" in said.message
    strict = MediaFetcher(lookup=Resolver(), is_public=HERE.__eq__, port=host.port)
    said = await refusal(strict.fetch(want(host.url("/a.png")), room=ROOM))
    assert "no valid TLS certificate" in said.message
    await strict.close()
    assert not host.seen


async def test_only_port_443_is_fetched_from() -> None:
    fetcher = MediaFetcher(lookup=Resolver())
    for url in ("https://images.example.org:8443/a", "https://images.example.org:22/", "https://images.example.org:0/"):
        said = await refusal(fetcher.fetch(want(url), room=ROOM))
        assert (said.status, said.code) == (400, "unsupported_parameter")
        assert "from images.example.org:" in said.message and "only port 443" in said.message
        assert "MEDIA_HOSTS" in said.message and "MEDIA_FETCH" in said.message
    await fetcher.close()


async def test_nobody_there_is_a_refusal(make: Make) -> None:
    with socket.socket() as idle:
        idle.bind((HERE, 0))
        port = idle.getsockname()[1]
        said = await refusal(make(port=port).fetch(want(f"https://images.example.org:{port}/a"), room=ROOM))
    assert "the connection to its host failed" in said.message


# -- redirects -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "where", ["/a.png", "a.png", "https://example.org:{port}/a.png", "//example.org:{port}/a.png#x"]
)
async def test_a_redirect_is_followed(host: Host, make: Make, where: str) -> None:
    (image,) = await make().fetch(want(host.url(f"/to?where={where.format(port=host.port)}")), room=ROOM)
    assert content(image) == PNG


@pytest.mark.parametrize(
    ("where", "code"),
    [
        ("http://example.org/a.png", "unsupported_parameter"),
        ("http://169.254.169.254/latest/meta-data", "unsupported_parameter"),
        ("file:///etc/passwd", "unsupported_parameter"),
        ("https://user@example.org/", "unsupported_parameter"),
        ("https://example.org:22/", "unsupported_parameter"),
        ("https://[::1]/", "unsupported_parameter"),
        ("/far", "unsupported_parameter"),
        ("https://10.0.0.7:{port}/", "invalid_request"),
        ("https://inside.example.org:{port}/", "invalid_request"),
        ("https://[", "invalid_request"),
    ],
)
async def test_a_redirect_leads_nowhere_that_a_url_may_not(host: Host, make: Make, where: str, code: str) -> None:
    names = Resolver({"inside.example.org": ("10.0.0.7",)})
    said = await refusal(make(names).fetch(want(host.url(f"/to?where={where.format(port=host.port)}")), room=ROOM))
    assert (said.status, said.code) == (400, code)
    assert {request.path for request in host.seen} <= {"/to", "/far"}


async def test_a_redirect_to_nowhere_goes_round_and_ends(host: Host, make: Make) -> None:
    said = await refusal(make().fetch(want(host.url("/to?where=")), room=ROOM))
    assert said.status == 400
    assert len(host.seen) <= REDIRECTS_MAX + 1


# -- time and place for all ----------------------------------------------------------------------------------------


async def test_a_host_that_does_not_answer_is_given_up_after_the_time_limit(host: Host, make: Make) -> None:
    said = await refusal(make(time_limit=0.2).fetch(want(host.url("/a.png"), host.url("/slow")), room=ROOM))
    assert said.code == "invalid_request" and "did not come within 0.2 s" in said.message
    assert said.param == "messages.0.content.1.image_url"
    await until(lambda: host.left == 1)
    await until(lambda: spools() == 0)


@pytest.mark.parametrize("name", ["slow", "stall"])
async def test_a_caller_who_leaves_ends_the_fetch(host: Host, make: Make, name: str) -> None:
    fetcher = make()
    fetching = asyncio.create_task(fetcher.fetch(want(host.url("/a.png"), host.url(f"/{name}")), room=ROOM))
    await until(lambda: any(request.path == f"/{name}" for request in host.seen))
    fetching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await fetching
    await until(lambda: host.running == 0)
    await until(lambda: spools() == 0)
    assert repr(fetcher) == "<MediaFetcher 0 requests wait for images>"


async def test_one_that_fails_ends_the_others(host: Host, make: Make) -> None:
    said = await refusal(make().fetch(want(host.url("/slow"), host.url("/status-404")), room=ROOM))
    assert "answers 404" in said.message
    await until(lambda: host.running == 0)


async def test_so_many_requests_fetch_at_once_others_wait_and_more_are_told_to_come_back(
    host: Host, make: Make
) -> None:
    fetcher = make(at_once=2, waiting=3)
    running = [asyncio.create_task(fetcher.fetch(want(host.url("/slow")), room=ROOM)) for _ in range(3)]
    await until(lambda: host.running == 2)
    said = await refusal(fetcher.fetch(want(host.url("/slow")), room=ROOM))
    assert (said.status, said.code, said.retry_after) == (429, "queue_full", 5)
    host.let_go.set()
    for images in await asyncio.gather(*running):
        images[0].close()
    assert host.most_running == 2


async def test_whoever_waits_too_long_for_a_turn_is_told_to_come_back(host: Host, make: Make) -> None:
    fetcher = make(at_once=1, time_limit=0.3)
    first = asyncio.create_task(fetcher.fetch(want(host.url("/slow")), room=ROOM))
    await until(lambda: host.running == 1)
    fetcher._time_limit = 0.05
    assert (await refusal(fetcher.fetch(want(host.url("/a.png")), room=ROOM))).code == "queue_full"
    assert "did not come" in (await refusal(first)).message


async def test_ten_megabytes_do_not_hold_the_loop(host: Host, make: Make) -> None:
    longest, done = 0.0, False

    async def watch() -> None:
        nonlocal longest
        while not done:
            began = time.perf_counter()
            await asyncio.sleep(0.001)
            longest = max(longest, time.perf_counter() - began)

    watcher = asyncio.create_task(watch())
    said = await refusal(make(image_max=10_000_000).fetch(want(host.url("/endless")), room=ROOM))
    done = True
    await watcher
    assert "larger than 10 MB" in said.message
    assert longest < 0.1


# -- names ---------------------------------------------------------------------------------------------------------


async def test_the_systems_resolver_is_asked_on_a_thread() -> None:
    assert HERE in await Names().look_up("localhost")
    assert await Names().look_up("no-such-name.invalid") == []
    assert await Names().look_up("a" * 300) == []


async def test_a_resolver_that_hangs_takes_no_more_than_so_many_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    import threading

    go_on = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: go_on.wait(5) and [])
    names = Names(most=2)
    asking = [asyncio.create_task(names.look_up("a")) for _ in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(OSError, match="too many"):
        await names.look_up("b")
    asking[0].cancel()
    go_on.set()
    assert await asking[1] == []
    await until(lambda: names._running == 0)
    assert LOOKUPS_MAX == 32
