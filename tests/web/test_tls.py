"""TLS on the gateway's own port: real certificates by the real openssl, real handshakes, files that change."""

import asyncio
import contextlib
import os
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from aiohttp import web

from gateway.web.tls import SPARE, Certificate, CertificateError, Reload, TlsSite, validity

BOTH_LOOPS = pytest.mark.asyncio(loop_factories=["asyncio", "uvloop"])


def openssl(*arguments: str | Path) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)


def make_pair(folder: Path, name: str, *, kind: str = "ec", days: int = 30) -> tuple[Path, Path]:
    """A certificate for localhost, signed by itself, and its key."""
    cert, key = folder / f"{name}.pem", folder / f"{name}.key"
    new = ["-newkey", "rsa:2048"] if kind == "rsa" else ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    names = ["-subj", f"/CN={name}", "-addext", "subjectAltName=DNS:localhost"]
    openssl("req", "-x509", *new, "-nodes", "-keyout", key, "-out", cert, "-days", str(days), *names)
    return cert, key


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with pairs `one`, `two` (elliptic) and `old` (RSA); made once, because that takes a moment."""
    folder = tmp_path_factory.mktemp("certificates")
    make_pair(folder, "one")
    make_pair(folder, "two")
    make_pair(folder, "old", kind="rsa")
    return folder


@pytest.fixture
def place(tmp_path: Path, made: Path) -> Path:
    """Where TLS_CERT and TLS_KEY point to: `cert.pem` and `key.pem`, which are `one`."""
    put(made, "one", tmp_path)
    return tmp_path


def put(made: Path, name: str, place: Path, *, only: str = "") -> None:
    """As certbot and people do it: a new file in place of the old one."""
    for source, target in ((f"{name}.pem", "cert.pem"), (f"{name}.key", "key.pem")):
        if not only or only == target:
            shutil.copy(made / source, place / "new")
            os.replace(place / "new", place / target)


def certificate(place: Path, on_reload: Callable[[Reload], None] = lambda told: None, **times: float) -> Certificate:
    found = Certificate(place / "cert.pem", place / "key.pem", on_reload=on_reload, **times)
    found.load()
    return found


class House(contextlib.AsyncExitStack):
    """A server on a TLS port, which answers with its greeting and streams on /stream until it is told to go on."""

    def __init__(self, context: ssl.SSLContext, **settings: float) -> None:
        super().__init__()
        self.go_on = asyncio.Event()
        self._server = web.Server(self._answer)
        self._runner = web.ServerRunner(self._server, shutdown_timeout=0.2)
        self._context = context
        self._settings = {"most": 100, **settings}

    async def __aenter__(self) -> "House":
        await self._runner.setup()
        self.push_async_callback(self._runner.cleanup)
        self.site = TlsSite(self._runner, self._server, "127.0.0.1", 0, self._context, **self._settings)  # type: ignore[arg-type]
        await self.site.start()
        self.port = self._runner.addresses[0][1]
        return self

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.path == "/stream":
            answer = web.StreamResponse()
            await answer.prepare(request)
            await answer.write(b"first")
            await self.go_on.wait()
            await answer.write(b"last")
            return answer
        return web.Response(text="hello")

    async def connect(self, **how: object) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port, ssl=client(**how), server_hostname="localhost")


def client(
    alpn: tuple[str, ...] = ("h2", "http/1.1"), most: ssl.TLSVersion = ssl.TLSVersion.MAXIMUM_SUPPORTED
) -> ssl.SSLContext:
    """It trusts everybody: which certificate came is looked at by the test."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    context.maximum_version = most
    context.set_alpn_protocols(list(alpn))
    return context


def shown(writer: asyncio.StreamWriter) -> str:
    """The PEM that the server showed."""
    return ssl.DER_cert_to_PEM_cert(writer.get_extra_info("ssl_object").getpeercert(True))


async def ask(house: House, path: str = "/") -> tuple[str, bytes]:
    """Which certificate came, and what was answered."""
    reader, writer = await house.connect()
    try:
        writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        return shown(writer), await asyncio.wait_for(reader.read(), 5)
    finally:
        writer.close()


async def until(holds: Callable[[], bool], within: float = 5.0) -> None:
    deadline = time.monotonic() + within
    while not holds():
        assert time.monotonic() < deadline, "not within the deadline"
        await asyncio.sleep(0.01)


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


# -- serving ---------------------------------------------------------------------------------------------------------


@BOTH_LOOPS
async def test_a_client_gets_its_answer_over_tls_and_the_certificate_from_the_file(place: Path) -> None:
    async with House(certificate(place).context) as house:
        pem, said = await ask(house)
    assert pem.strip() in (place / "cert.pem").read_text()
    assert said.endswith(b"hello")


@BOTH_LOOPS
async def test_http_1_1_is_agreed_on_with_a_client_that_would_rather_have_h2(place: Path) -> None:
    async with House(certificate(place).context) as house:
        _, writer = await house.connect()
        assert writer.get_extra_info("ssl_object").selected_alpn_protocol() == "http/1.1"
        writer.close()


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1 is deprecated")
async def test_tls_below_1_2_is_refused(place: Path) -> None:
    async with House(certificate(place).context) as house:
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await house.connect(most=ssl.TLSVersion.TLSv1_1)
        _, writer = await house.connect(most=ssl.TLSVersion.TLSv1_2)
        assert writer.get_extra_info("ssl_object").version() == "TLSv1.2"
        writer.close()


@BOTH_LOOPS
async def test_a_client_that_speaks_plain_http_is_closed_at_once(place: Path) -> None:
    async with House(certificate(place).context) as house:
        reader, writer = await asyncio.open_connection("127.0.0.1", house.port)
        writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            assert b"hello" not in await asyncio.wait_for(reader.read(), 2)
        writer.close()
        assert (await ask(house))[1].endswith(b"hello"), "others are served"


@BOTH_LOOPS
async def test_a_handshake_that_stops_is_ended_by_the_clock(place: Path) -> None:
    async with House(certificate(place).context, handshake_timeout=0.2) as house:
        reader, writer = await asyncio.open_connection("127.0.0.1", house.port)
        writer.write(b"\x16\x03\x01")
        began = time.monotonic()
        with contextlib.suppress(ConnectionError):
            await asyncio.wait_for(reader.read(), 3)
        assert time.monotonic() - began < 2
        writer.close()


@BOTH_LOOPS
async def test_silent_connections_count_against_the_limit_and_are_given_back(place: Path) -> None:
    """Without that, whoever opens thousands and says nothing would take all open files."""
    async with House(certificate(place).context, most=2, handshake_timeout=30) as house:
        before = open_files()
        silent = [await asyncio.open_connection("127.0.0.1", house.port) for _ in range(2 + SPARE)]
        await until(lambda: open_files() >= before + 2 * len(silent))
        reader, writer = await asyncio.open_connection("127.0.0.1", house.port)
        with contextlib.suppress(ConnectionError):
            assert await asyncio.wait_for(reader.read(), 2) == b"", "one too many is closed before any handshake"
        writer.close()
        for _, each in silent:
            each.close()
        await until(lambda: open_files() <= before + 1)
        assert (await ask(house))[1].endswith(b"hello")


@BOTH_LOOPS
async def test_closing_ends_the_port_and_handshakes_and_leaves_no_file_open(place: Path) -> None:
    found = certificate(place)
    before = open_files()
    async with House(found.context, handshake_timeout=30) as house:
        port = house.port
        _, silent = await asyncio.open_connection("127.0.0.1", port)
        await ask(house)
        await asyncio.sleep(0)
    with pytest.raises(OSError):
        await asyncio.open_connection("127.0.0.1", port)
    silent.close()
    await until(lambda: open_files() <= before + 2)


async def test_a_port_that_is_taken_is_an_oserror(place: Path) -> None:
    async with House(certificate(place).context) as house:
        runner = web.ServerRunner(web.Server(house._answer))
        await runner.setup()
        site = TlsSite(runner, web.Server(house._answer), "127.0.0.1", house.port, certificate(place).context, most=1)
        before = open_files()
        with pytest.raises(OSError, match="in use"):
            await site.start()
        assert open_files() == before
        await runner.cleanup()


async def test_it_listens_on_every_address_of_a_host(place: Path) -> None:
    server = web.Server(lambda request: asyncio.sleep(0, web.Response()))  # type: ignore[arg-type]
    runner = web.ServerRunner(server)
    await runner.setup()
    await TlsSite(runner, server, "localhost", 0, certificate(place).context, most=1).start()
    families = {len(address) for address in runner.addresses}
    found = socket.getaddrinfo("localhost", 0, type=socket.SOCK_STREAM)
    assert families == {len(address) for *_, address in found}
    await runner.cleanup()


@BOTH_LOOPS
async def test_no_file_left_to_accept_with_is_no_end(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with House(certificate(place).context) as house:
        loop = asyncio.get_running_loop()
        failing = [OSError(24, "Too many open files")]
        real = socket.socket.accept

        def accept(self: socket.socket) -> object:
            if failing:
                raise failing.pop()
            return real(self)

        if type(loop).__module__.startswith("asyncio"):  # uvloop's own accept cannot be made to fail
            monkeypatch.setattr(socket.socket, "accept", accept)
        assert (await ask(house))[1].endswith(b"hello")


# -- reading again -----------------------------------------------------------------------------------------------------


@BOTH_LOOPS
async def test_new_connections_get_a_new_certificate_and_running_streams_go_on(place: Path, made: Path) -> None:
    found = certificate(place)
    async with House(found.context) as house:
        reader, writer = await house.connect()
        writer.write(b"GET /stream HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        await asyncio.wait_for(reader.readuntil(b"first"), 5)
        put(made, "two", place)
        told = found.look(0.0)
        assert told is not None and told.ok and "read again, valid until" in told.said
        assert (await ask(house))[0] in (made / "two.pem").read_text()
        house.go_on.set()
        assert b"last" in await asyncio.wait_for(reader.read(), 5)
        writer.close()


@BOTH_LOOPS
async def test_a_change_of_the_kind_of_key_leaves_nothing_of_the_old_one(place: Path, made: Path) -> None:
    """One context with both would go on showing the RSA certificate to clients that ask for one."""
    put(made, "old", place)
    found = certificate(place)
    async with House(found.context) as house:
        assert (await ask(house))[0] in (made / "old.pem").read_text()
        put(made, "one", place)
        assert found.look(0.0)
        only_rsa = client(most=ssl.TLSVersion.TLSv1_2)
        only_rsa.set_ciphers("aRSA")
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await asyncio.open_connection("127.0.0.1", house.port, ssl=only_rsa, server_hostname="localhost")
        assert (await ask(house))[0] in (made / "one.pem").read_text()


def test_nothing_is_read_or_told_while_the_files_stay_as_they_are(place: Path) -> None:
    found = certificate(place)
    before = found.context.newest  # type: ignore[attr-defined]
    assert found.look(0.0) is None
    (place / "cert.pem").touch()
    assert found.look(5.0) is None, "touched, and the same"
    assert found.context.newest is before  # type: ignore[attr-defined]


def test_files_that_are_replaced_one_after_the_other_are_nobodys_mistake(place: Path, made: Path) -> None:
    found = certificate(place)
    put(made, "two", place, only="cert.pem")
    assert found.look(0.0) is None
    assert found.look(5.0) is None
    put(made, "two", place, only="key.pem")
    told = found.look(10.0)
    assert told == Reload(True, told.said if told else "")
    assert found.look(15.0) is None


def test_a_wrong_pair_keeps_the_old_one_and_is_told_once_when_it_stays_wrong(place: Path, made: Path) -> None:
    found = certificate(place, patience=60.0)
    before = found.context.newest  # type: ignore[attr-defined]
    put(made, "two", place, only="key.pem")
    told = [found.look(float(now)) for now in range(0, 300, 5)]
    (said,) = [one for one in told if one is not None]
    assert told.index(said) * 5 == 60
    assert not said.ok
    assert "does not belong" in said.said and "loaded before stays in use" in said.said
    assert found.context.newest is before  # type: ignore[attr-defined]
    assert "wrong since" in repr(found)
    put(made, "one", place)
    assert found.look(300.0) == Reload(True, f"TLS_CERT: {place}/cert.pem can be read again, {until_of(found)}")
    assert "wrong since" not in repr(found)


def until_of(found: Certificate) -> str:
    return "valid until " + time.strftime("%Y-%m-%d", time.gmtime(found.ends))


def test_whoever_asks_is_told_at_once(place: Path, made: Path) -> None:
    found = certificate(place)
    told = found.look(0.0, asked=True)
    assert told is not None and told.ok and "has not changed" in told.said
    (place / "key.pem").unlink()
    told = found.look(1.0, asked=True)
    assert told is not None and not told.ok and "is not there" in told.said


def test_files_that_vanish_and_come_back_are_seen(place: Path, made: Path) -> None:
    found = certificate(place, patience=10.0)
    (place / "cert.pem").unlink()
    assert [found.look(float(now)) is not None for now in (0, 5, 10, 15)] == [False, False, True, False]
    put(made, "two", place)
    told = found.look(20.0)
    assert told is not None and told.ok


def test_a_link_whose_target_changes_is_a_change(tmp_path: Path, made: Path) -> None:
    """certbot's `live` folder, and the `..data` of a Kubernetes secret."""
    for name, target in (("cert.pem", "one.pem"), ("key.pem", "one.key")):
        (tmp_path / name).symlink_to(made / target)
    found = certificate(tmp_path)
    for name, target in (("cert.pem", "two.pem"), ("key.pem", "two.key")):
        (tmp_path / name).unlink()
        (tmp_path / name).symlink_to(made / target)
    told = found.look(0.0)
    assert told is not None and told.ok


async def test_the_watching_thread_tells_on_the_loop_and_ends(place: Path, made: Path) -> None:
    told: list[Reload] = []
    found = certificate(place, told.append, every=0.02)
    found.watch()
    put(made, "two", place)
    await until(lambda: len(told) == 1)
    assert told[0].ok
    found.reload()
    await until(lambda: len(told) == 2)
    assert "has not changed" in told[1].said
    found.close()
    from threading import enumerate as threads

    await until(lambda: "tls-certificate" not in [thread.name for thread in threads()])


async def test_a_hang_up_is_heard_at_once_however_seldom_the_files_are_looked_at(place: Path) -> None:
    told: list[Reload] = []
    found = certificate(place, told.append, every=3600.0)
    found.watch()
    found.reload()
    await until(lambda: bool(told))
    found.close()


# -- what is wrong with the files -------------------------------------------------------------------------------------


def problem(cert: Path, key: Path | None) -> str:
    with pytest.raises(CertificateError) as caught:
        Certificate(cert, key).load()
    said = str(caught.value)
    assert "\n" not in said
    return said


def test_one_file_may_hold_both(tmp_path: Path, made: Path) -> None:
    both = tmp_path / "both.pem"
    both.write_bytes((made / "one.key").read_bytes() + (made / "one.pem").read_bytes())
    Certificate(both).load()


def test_each_problem_has_its_own_line(tmp_path: Path, made: Path) -> None:
    cert, key, text = made / "one.pem", made / "one.key", tmp_path / "text"
    text.write_text("hello")
    assert problem(tmp_path / "none.pem", key).startswith(f"TLS_CERT: {tmp_path}/none.pem is not there")
    assert problem(cert, tmp_path / "none.key").startswith("TLS_KEY: ")
    assert "cannot be read (Is a directory)" in problem(tmp_path, key)
    assert "holds no certificate" in problem(text, key)
    assert "holds no certificate" in problem(key, key)
    assert "holds no private key" in problem(cert, cert)
    assert "TLS_KEY: not set" in problem(cert, None)
    assert "does not belong to the first certificate" in problem(cert, made / "two.key")
    assert "does not belong to the first certificate" in problem(cert, made / "old.key")


def test_a_chain_in_the_wrong_order_is_said_to_be_one(tmp_path: Path, made: Path) -> None:
    chain = tmp_path / "chain.pem"
    chain.write_bytes((made / "two.pem").read_bytes() + (made / "one.pem").read_bytes())
    assert "a chain begins with the server's own certificate" in problem(chain, made / "one.key")
    chain.write_bytes((made / "one.pem").read_bytes() + (made / "two.pem").read_bytes())
    Certificate(chain, made / "one.key").load()


@pytest.mark.parametrize("form", ["pkcs8", "traditional"])
def test_an_encrypted_key_is_refused_rather_than_asked_about(tmp_path: Path, made: Path, form: str) -> None:
    locked = tmp_path / "locked.key"
    traditional = ["-traditional"] if form == "traditional" else []
    openssl("pkey", "-in", made / "one.key", "-out", locked, "-aes256", "-passout", "pass:x", *traditional)
    assert "is encrypted" in problem(made / "one.pem", locked)


@pytest.mark.parametrize("harm", ["cut off", "nonsense", "huge"])
def test_a_damaged_certificate_is_said_to_be_one(tmp_path: Path, made: Path, harm: str) -> None:
    damaged = tmp_path / "damaged.pem"
    lines = (made / "one.pem").read_text().splitlines()
    if harm == "cut off":
        lines[3:-1] = []
    elif harm == "nonsense":
        lines[1:-1] = ["QUJD"]
    else:
        lines *= 3000
    damaged.write_text("\n".join(lines))
    said = problem(damaged, made / "one.key")
    assert {"cut off": "damaged", "nonsense": "damaged", "huge": "larger than any"}[harm] in said


def test_a_key_that_may_not_be_read_says_who_we_are(place: Path) -> None:
    (place / "key.pem").chmod(0)
    was = os.geteuid()
    us = was or 65534  # root may read everything
    os.seteuid(us)
    try:
        assert problem(place / "key.pem", None) == (
            f"TLS_CERT: {place}/key.pem cannot be read (Permission denied); the gateway runs as user {us}."
        )
    finally:
        os.seteuid(was)


def test_an_expired_certificate_is_used_and_warned_about(place: Path) -> None:
    found = certificate(place)
    now = time.time()
    assert found.warning(now) == ""
    assert "has expired" in found.warning(now + 31 * 86400)
    assert "is not valid before" in found.warning(now - 86400)
    assert abs(found.ends - now - 30 * 86400) < 120


@pytest.mark.parametrize(
    ("days", "year"), [(30, None), (365 * 60, "GeneralizedTime")], ids=["two digits of the year", "four digits"]
)
def test_validity_is_read_from_the_certificate_itself(tmp_path: Path, days: int, year: str | None) -> None:
    cert, _ = make_pair(tmp_path, "long", days=days)
    begins, ends = validity(ssl.PEM_cert_to_DER_cert(cert.read_text()))
    assert ends - begins == days * 86400
    assert abs(begins - time.time()) < 120


@pytest.mark.parametrize("der", [b"", b"0", b"0\x82\xff\xff", b"0\x03abc", b"\x30\x02\x30\x00", b"0\x80" * 9])
def test_what_is_no_certificate_is_a_value_error(der: bytes) -> None:
    with pytest.raises(ValueError):
        validity(der)


def test_its_repr_says_which_file_and_until_when(place: Path) -> None:
    assert "valid" not in repr(Certificate(place / "cert.pem")) and "not loaded" in repr(
        Certificate(place / "cert.pem")
    )
    assert "until 2" in repr(certificate(place))
