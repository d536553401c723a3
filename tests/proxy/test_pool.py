"""The connections to one endpoint: which one is taken, how long it is believed, and how a new one is opened.

Real sockets and both loops. The pool's clock stands still until a test moves it (tests/support/clock_loop.py); the
engine's ends are plain sockets in the test's hand (tests/support/engine_end.py).
"""

import asyncio
import contextlib
import errno
import hashlib
import os
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from gateway.providers.base import Endpoint
from gateway.proxy.connection import Connection
from gateway.proxy.pool import FORGIVE, IDLE_MAX, KEEP, KNOWN_FOR, REST, Pool, WrongCertificate
from tests.support.clock_loop import ClockLoop
from tests.support.engine_end import EngineEnd, Over, until
from tests.support.llama import ROOT
from tests.support.loops import BOTH_LOOPS

pytestmark = BOTH_LOOPS
BOTH_SOCKETS = pytest.mark.parametrize("over", ["tcp", "unix"])
ASKED = b"POST / HTTP/1.1\r\n\r\n"
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
A_MOMENT = 0.001
"""Seconds, of a clock that only a test moves."""


class Room:
    """A pool, its clock, and the engine's listening socket."""

    def __init__(self, pool: Pool, clock: ClockLoop, listener: socket.socket) -> None:
        self.pool = pool
        self.clock = clock
        self._listener = listener
        self.ends: list[EngineEnd] = []
        self.opened: list[Connection] = []

    async def open(self) -> tuple[Connection, EngineEnd]:
        connection = await self.pool.open()
        engine = EngineEnd(self._listener.accept()[0])
        self.opened.append(connection)
        self.ends.append(engine)
        return connection, engine

    async def answered(self, connection: Connection, engine: EngineEnd, *, streamed: bool = False) -> None:
        """Asked, answered whole, and given back."""
        connection.ask("POST", ASKED)
        await engine.hear(len(ASKED))
        engine.say(ANSWER)
        await until(lambda: connection.is_done)
        connection.release()
        self.pool.give_back(connection, streamed=streamed)

    async def kept(self, *, streamed: bool = False) -> tuple[Connection, EngineEnd]:
        """A new connection with one answer behind it, given back."""
        connection, engine = await self.open()
        await self.answered(connection, engine, streamed=streamed)
        return connection, engine

    async def trusting(self) -> tuple[Connection, EngineEnd]:
        """One that has lived for a while, in the hand; others are believed at once from now on."""
        connection, engine = await self.kept()
        self.clock.pass_by(REST)
        assert self.pool.take() is connection
        return connection, engine


@contextlib.asynccontextmanager
async def room(over: Over = "tcp") -> AsyncIterator[Room]:
    clock = ClockLoop()
    with contextlib.ExitStack() as stack:
        if over == "unix":
            listener, folder = socket.socket(socket.AF_UNIX), stack.enter_context(_short_folder())
            listener.bind(str(folder / "e.sock"))
            listener.listen(256)
            endpoint = Endpoint("http://localhost", socket=str(folder / "e.sock"))
        else:
            listener = socket.create_server(("127.0.0.1", 0), backlog=256)
            endpoint = Endpoint(f"http://127.0.0.1:{listener.getsockname()[1]}")
        stack.enter_context(listener)
        pool = Pool(endpoint, connect=5, loop=clock.as_loop)
        made = Room(pool, clock, listener)
        try:
            yield made
        finally:
            pool.close()
            for connection in made.opened:
                connection.abort()
            for engine in made.ends:
                engine.close()
            await until(lambda: all(connection.is_lost for connection in made.opened))


@contextlib.contextmanager
def _short_folder() -> Iterator[Path]:
    """A socket's path has 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="wg-") as name:
        yield Path(name)


# -- which one is taken ------------------------------------------------------------------------------


async def test_an_empty_pool_has_nothing_to_take() -> None:
    async with room() as r:
        assert r.pool.take() is None
        assert r.clock.timers == 0


@BOTH_SOCKETS
async def test_the_last_one_given_back_is_the_first_one_taken(over: Over) -> None:
    async with room(over) as r:
        hand, _ = await r.trusting()
        first, second = (await r.kept())[0], (await r.kept())[0]
        assert [r.pool.take(), r.pool.take(), r.pool.take()] == [second, first, None]
        assert not hand.is_lost


@pytest.mark.parametrize(("waits", "is_taken"), [(KEEP - A_MOMENT, True), (KEEP, False)])
async def test_one_is_taken_only_while_it_is_younger_than_half_of_what_engines_allow(
    waits: float, is_taken: bool
) -> None:
    async with room() as r:
        connection, engine = await r.trusting()
        await r.answered(connection, engine)
        r.clock.jump(waits)
        assert (r.pool.take() is connection) is is_taken
        if not is_taken:
            assert await engine.is_left()


async def test_idle_ones_are_closed_before_the_engine_closes_them() -> None:
    """Whenever they were given back: uvicorn and cpp-httplib wait for five seconds. Then no timer is left."""
    for offset in (0.0, KEEP - A_MOMENT, KEEP + A_MOMENT):
        async with room() as r:
            hand, end = await r.trusting()
            other, _ = await r.kept()  # starts the sweeps
            r.clock.pass_by(offset)
            await r.answered(hand, end)
            r.clock.pass_by(KEEP - A_MOMENT)
            assert hand.is_alive()
            r.clock.pass_by(2 * KEEP - (KEEP - A_MOMENT) - A_MOMENT)
            await until(lambda hand=hand, other=other: hand.is_lost and other.is_lost)
            assert await end.is_left()
            assert r.pool.take() is None
            r.clock.pass_by(KEEP)
            assert r.clock.timers == 0
            await r.kept()
            assert r.clock.timers == 1


@BOTH_SOCKETS
async def test_no_more_are_kept_than_are_of_use(over: Over) -> None:
    async with room(over) as r:
        pairs = [await r.open() for _ in range(IDLE_MAX + 1)]
        for connection, engine in pairs:
            await r.answered(connection, engine)
        assert f"{IDLE_MAX} idle" in repr(r.pool)
        await until(lambda: pairs[-1][0].is_lost)
        assert sum(connection.is_lost for connection, _ in pairs) == 1


@BOTH_SOCKETS
async def test_what_carried_a_stream_is_closed_at_once(over: Over) -> None:
    async with room(over) as r:
        connection, engine = await r.trusting()
        await r.answered(connection, engine, streamed=True)
        assert await engine.is_left()
        assert r.pool.take() is None


async def test_what_may_not_be_asked_again_is_closed() -> None:
    async with room() as r:
        connection, engine = await r.open()
        connection.ask("POST", ASKED)
        r.pool.give_back(connection, streamed=False)  # its caller left
        await engine.hear(len(ASKED))
        assert await engine.is_left()
        r.clock.pass_by(REST)
        assert r.pool.take() is None


async def test_a_closed_pool_keeps_nothing() -> None:
    """Idle ones end now, those at work with their answer."""
    async with room() as r:
        at_work, engine = await r.trusting()
        _, idle_end = await r.kept()
        r.pool.close()
        assert await idle_end.is_left() and r.clock.timers == 0
        assert at_work.is_alive()
        await r.answered(at_work, engine)
        assert await engine.is_left()
        assert r.pool.take() is None
        r.pool.close()


# -- whom to believe ---------------------------------------------------------------------------------


@BOTH_SOCKETS
async def test_trust_is_earned_by_the_first_one_that_survives_its_rest(over: Over) -> None:
    async with room(over) as r:
        first, engine = await r.kept()
        second, _ = await r.kept()
        r.clock.pass_by(REST - A_MOMENT)
        assert r.pool.take() is None
        r.clock.pass_by(A_MOMENT)
        assert r.pool.take() is second
        assert r.pool.take() is first
        await r.answered(first, engine)
        assert r.pool.take() is first  # at once from now on


async def test_those_that_still_rest_are_passed_over() -> None:
    async with room() as r:
        old, _ = await r.kept()
        r.clock.pass_by(REST / 2)
        young, _ = await r.kept()
        r.clock.pass_by(REST / 2 + A_MOMENT)
        assert r.pool.take() is old
        assert r.pool.take() is None
        r.clock.pass_by(REST / 2)
        assert r.pool.take() is young


@BOTH_SOCKETS
@pytest.mark.parametrize("what", [EngineEnd.close, lambda engine: engine.say(ANSWER)], ids=["closes", "speaks"])
@pytest.mark.parametrize("is_seen", [True, False], ids=["seen", "before the loop looked"])
async def test_an_engine_that_ends_each_connection_is_never_asked_twice_on_one(
    over: Over, what: Callable[[EngineEnd], None], is_seen: bool
) -> None:
    """Neither before trust nor later, however long one waits (for less than it takes to forgive)."""
    async with room(over) as r:
        for wait in (0.0, A_MOMENT, REST, REST, KEEP / 2, 3 * KEEP, REST):
            connection, engine = await r.kept()
            assert r.pool.take() is None
            what(engine)
            if is_seen:
                await until(lambda connection=connection: connection.is_lost)
            r.clock.pass_by(wait)
            assert r.pool.take() is None


async def test_an_engine_that_begins_to_end_them_at_once_loses_its_trust() -> None:
    """It was replaced by another one behind the same address, say."""
    async with room() as r:
        hand, end = await r.trusting()
        await r.answered(hand, end)
        r.clock.pass_by(A_MOMENT)
        end.close()
        assert r.pool.take() is None
        await r.kept()
        assert r.pool.take() is None
        r.clock.pass_by(REST - A_MOMENT)
        assert r.pool.take() is None


async def test_an_end_after_a_while_halves_the_time_for_which_others_are_believed() -> None:
    async with room() as r:
        hand, end = await r.trusting()
        await r.answered(hand, end)
        r.clock.pass_by(1.0)
        end.close()
        assert r.pool.take() is None
        other, end = await r.kept()  # at once: the engine does keep them for a while
        r.clock.pass_by(0.5 - A_MOMENT)
        assert r.pool.take() is other
        await r.answered(other, end)
        r.clock.pass_by(0.5 + A_MOMENT)
        assert r.pool.take() is None
        assert await end.is_left()


async def test_an_end_that_only_the_sweep_finds_counts_too() -> None:
    async with room() as r:
        hand, end = await r.trusting()
        quiet, quiet_end = await r.kept()
        r.clock.pass_by(1.0)
        quiet_end.close()
        await until(lambda: quiet.is_lost)
        r.clock.pass_by(2 * KEEP)
        await r.answered(hand, end)
        r.clock.pass_by(0.5 + A_MOMENT)
        assert r.pool.take() is None


async def test_after_a_minute_it_is_tried_anew() -> None:
    """It may have been restarted. Trust has to be earned again."""
    async with room() as r:
        hand, end = await r.trusting()
        other, other_end = await r.kept()
        r.clock.pass_by(1.0)
        other_end.close()
        await until(lambda: other.is_lost)
        assert r.pool.take() is None
        r.clock.pass_by(FORGIVE - A_MOMENT)
        await r.answered(hand, end)
        assert r.pool.take() is hand  # believed, for half a second
        r.clock.pass_by(2 * A_MOMENT)
        await r.answered(hand, end)
        assert r.pool.take() is None  # forgiven, and not yet trusted
        r.clock.pass_by(REST + 1.0)
        assert r.pool.take() is hand


async def test_who_never_broke_a_promise_is_trusted_for_good() -> None:
    async with room() as r:
        hand, end = await r.trusting()
        for _ in range(3):
            r.clock.pass_by(2 * FORGIVE)
            await r.answered(hand, end)
            assert r.pool.take() is hand


async def test_its_repr_says_where_to_and_how_many_rest() -> None:
    async with room() as r:
        await r.kept()
        assert repr(r.pool).startswith("<Pool 127.0.0.1:") and repr(r.pool).endswith(" tcp, 1 idle>")
    async with room("unix") as r:
        assert repr(r.pool).endswith("e.sock unix, 0 idle>")


# -- opening -----------------------------------------------------------------------------------------


@contextlib.contextmanager
def listening(host: str = "127.0.0.1", port: int = 0) -> Iterator[socket.socket]:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, port), family=family) as listener:
        listener.settimeout(5)
        yield listener


@contextlib.contextmanager
def silent(host: str = "127.0.0.1", port: int = 0) -> Iterator[socket.socket]:
    """A listener whose line is full: whoever connects hears nothing at all."""
    with socket.socket() as listener, contextlib.ExitStack() as stack:
        listener.bind((host, port))
        listener.listen(0)
        for _ in range(2):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
        yield listener


def port_of(listener: socket.socket) -> int:
    return int(listener.getsockname()[1])


def open_sockets() -> set[str]:
    """Of this process. (uvloop opens other files for itself, once.)"""
    found = set()
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # the folder's own is closed by now
            found.add(os.readlink(f"/proc/self/fd/{name}"))
    return {name for name in found if name.startswith("socket:")}


def assert_meets(connection: Connection, listener: socket.socket) -> None:
    with listener.accept()[0]:
        assert not connection.is_lost and connection.is_alive()
    connection.abort()


def _has_ipv6() -> bool:
    with socket.socket(socket.AF_INET6) as probe:
        return probe.connect_ex(("::1", 9)) in (0, errno.ECONNREFUSED)


@pytest.mark.parametrize("host", ["127.0.0.1", *(["::1"] if _has_ipv6() else [])])
async def test_an_address_needs_no_resolver(host: str) -> None:
    clock = ClockLoop()
    with listening(host) as listener:
        url = f"http://[{host}]:{port_of(listener)}" if ":" in host else f"http://{host}:{port_of(listener)}"
        assert_meets(await Pool(Endpoint(url), connect=5, loop=clock.as_loop).open(), listener)
    assert clock.looked_up == []


async def test_a_name_is_looked_up_by_the_system() -> None:
    with listening() as listener:
        assert_meets(await Pool(Endpoint(f"http://localhost:{port_of(listener)}"), connect=5).open(), listener)


@pytest.mark.parametrize("first", ["refuses", "is silent", "is away"])
async def test_the_next_address_is_tried_when_the_first_one_does_not_answer(first: str) -> None:
    clock = ClockLoop()
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(listening("127.0.0.1"))
        port = port_of(listener)
        if first == "is silent":
            stack.enter_context(silent("127.0.0.2", port))
        other = {"refuses": "::1", "is silent": "127.0.0.2", "is away": "192.0.2.1"}[first]
        clock.names["engine.example"] = [(other, port), ("127.0.0.1", port)]
        pool = Pool(Endpoint(f"http://engine.example:{port}"), connect=5, loop=clock.as_loop)
        assert_meets(await pool.open(), listener)


async def test_a_name_is_believed_for_a_while_and_looked_up_again_after_a_failure() -> None:
    clock = ClockLoop()
    with listening() as listener:
        port = port_of(listener)
        pool = Pool(Endpoint(f"http://engine.example:{port}"), connect=5, loop=clock.as_loop)
        with pytest.raises(socket.gaierror):
            await pool.open()
        clock.names["engine.example"] = [("127.0.0.1", port)]
        for _ in range(2):
            assert_meets(await pool.open(), listener)
            clock.pass_by(KNOWN_FOR / 2)
        assert len(clock.looked_up) == 2
        clock.pass_by(A_MOMENT)
        assert_meets(await pool.open(), listener)
        assert len(clock.looked_up) == 3
    with pytest.raises(ConnectionRefusedError):
        await pool.open()
    with listening() as listener:
        clock.names["engine.example"] = [("127.0.0.1", port_of(listener))]  # it moved
        assert_meets(await pool.open(), listener)
    assert len(clock.looked_up) == 4


async def test_a_resolver_is_asked_once_for_all_who_want_to_know_meanwhile() -> None:
    """A slow one holds a thread for each question, and there are few. Whoever leaves takes nobody's answer away."""
    clock, answered = ClockLoop(), asyncio.Event()
    ask = clock.getaddrinfo

    async def slow(host: str, port: int, **how: object) -> object:
        await answered.wait()
        return await ask(host, port, **how)

    clock.getaddrinfo = slow  # type: ignore[method-assign]
    with listening() as listener:
        pool = Pool(Endpoint(f"http://engine.example:{port_of(listener)}"), connect=5, loop=clock.as_loop)
        for name in (None, "engine.example"):  # unknown at first
            if name is not None:
                clock.names[name] = [("127.0.0.1", port_of(listener))]
            openings = [asyncio.ensure_future(pool.open()) for _ in range(20)]
            await asyncio.sleep(0)
            openings[0].cancel()
            await asyncio.sleep(0)
            answered.set()
            first, *others = await asyncio.gather(*openings, return_exceptions=True)
            answered.clear()
            assert isinstance(first, asyncio.CancelledError)
            for other in others:
                if name is None:
                    assert isinstance(other, socket.gaierror)
                else:
                    assert isinstance(other, Connection) and not other.is_lost
                    other.abort()
        assert clock.looked_up == ["engine.example"] * 2


async def test_a_name_that_led_nowhere_in_time_is_looked_up_again() -> None:
    clock = ClockLoop()
    with silent() as nowhere, listening() as listener:
        clock.names["engine.example"] = [nowhere.getsockname()]
        pool = Pool(Endpoint("http://engine.example"), connect=0.02, loop=clock.as_loop)
        with pytest.raises(TimeoutError):
            await pool.open()
        clock.names["engine.example"] = [listener.getsockname()]
        assert_meets(await pool.open(), listener)


@pytest.mark.parametrize("host", ["engine..example", f"{'e' * 64}.example"])
async def test_a_name_that_no_host_can_have_is_no_connection(host: str) -> None:
    with pytest.raises(socket.gaierror):
        await Pool(Endpoint(f"http://{host}"), connect=5).open()


@BOTH_SOCKETS
async def test_where_nobody_listens_is_no_connection(over: Over) -> None:
    async with room(over) as r:
        r._listener.close()
        with pytest.raises(ConnectionRefusedError):
            await r.pool.open()
    with pytest.raises(FileNotFoundError):
        await Pool(Endpoint("http://localhost", socket="/nonexistent/e.sock"), connect=5).open()


async def test_at_a_unix_socket_whose_line_is_full_one_waits_for_a_place() -> None:
    """Over TCP the kernel does it; here it says EAGAIN, which no loop understands."""
    with _short_folder() as folder, socket.socket(socket.AF_UNIX) as listener, contextlib.ExitStack() as stack:
        listener.bind(str(folder / "e.sock"))
        listener.listen(0)
        pool = Pool(Endpoint("http://localhost", socket=str(folder / "e.sock")), connect=5)
        in_line = await pool.open()
        opening = asyncio.ensure_future(pool.open())
        await asyncio.sleep(0.02)
        assert not opening.done()
        for place in (in_line, None):
            connection = place or await opening
            end = stack.enter_context(listener.accept()[0])
            connection.ask("POST", ASKED)
            await until(lambda end=end: EngineEnd(end).has_more())
            assert end.recv(100) == ASKED
            connection.abort()
        in_line = await pool.open()
        quick = Pool(Endpoint("http://localhost", socket=str(folder / "e.sock")), connect=0.02)
        sockets = open_sockets()
        with pytest.raises(TimeoutError):
            await quick.open()
        await nothing_left(sockets)
        in_line.abort()


# -- opening that ends early -------------------------------------------------------------------------


@contextlib.contextmanager
def hanging(kind: str) -> Iterator[tuple[Endpoint, ClockLoop]]:
    """Endpoints that never let anybody in."""
    clock = ClockLoop()
    with contextlib.ExitStack() as stack:
        if kind == "unix":
            folder = stack.enter_context(_short_folder())
            listener = stack.enter_context(socket.socket(socket.AF_UNIX))
            listener.bind(str(folder / "e.sock"))
            listener.listen(0)
            first = stack.enter_context(socket.socket(socket.AF_UNIX))
            first.connect(str(folder / "e.sock"))
            yield Endpoint("http://localhost", socket=str(folder / "e.sock")), clock
            return
        if kind == "TLS":
            port = port_of(stack.enter_context(listening()))  # accepts, and never speaks
            clock.names["engine.example"] = [("127.0.0.1", port)]
            yield Endpoint(f"https://engine.example:{port}"), clock
            return
        if kind == "address":
            yield Endpoint(f"http://127.0.0.1:{port_of(stack.enter_context(silent()))}"), clock
            return
        port = port_of(stack.enter_context(silent()))
        stack.enter_context(silent("127.0.0.2", port))
        clock.names["engine.example"] = [("127.0.0.1", port), ("127.0.0.2", port)]
        yield Endpoint(f"http://engine.example:{port}"), clock


HANGING = pytest.mark.parametrize("kind", ["unix", "TLS", "address", "name"])


async def nothing_left(sockets: set[str]) -> None:
    """Of tasks and of sockets."""
    await until(lambda: asyncio.all_tasks() == {asyncio.current_task()})
    await until(lambda: open_sockets() <= sockets)


@HANGING
async def test_nobody_waits_for_ever_to_be_let_in(kind: str) -> None:
    with hanging(kind) as (endpoint, clock):
        sockets = open_sockets()
        with pytest.raises(TimeoutError):
            await Pool(endpoint, connect=0.05, loop=clock.as_loop).open()
        await nothing_left(sockets)


@HANGING
async def test_a_caller_who_leaves_while_a_connection_opens_leaves_nothing_open(kind: str) -> None:
    with hanging(kind) as (endpoint, clock):
        sockets = open_sockets()
        opening = asyncio.ensure_future(Pool(endpoint, connect=5, loop=clock.as_loop).open())
        await asyncio.sleep(0.02)
        opening.cancel()
        await asyncio.wait({opening})
        assert opening.cancelled()
        await nothing_left(sockets)


@pytest.mark.parametrize("kind", ["unix", "TLS", "address", "name"])
async def test_at_whatever_step_a_caller_leaves_nothing_is_left_open(kind: str, pki: Path) -> None:
    """One turn of the loop later each time, until it is open."""
    clock = ClockLoop()
    with contextlib.ExitStack() as stack:
        if kind == "unix":
            folder = stack.enter_context(_short_folder())
            listener = stack.enter_context(socket.socket(socket.AF_UNIX))
            listener.bind(str(folder / "e.sock"))
            listener.listen(64)
            endpoint = Endpoint("http://localhost", socket=str(folder / "e.sock"))
        elif kind == "TLS":
            endpoint = Endpoint(f"https://localhost:{stack.enter_context(tls_engine(pki, 'right'))}")
            clock.names["localhost"] = [("127.0.0.1", int(endpoint.url.rpartition(":")[2]))]
        else:
            listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=64))
            endpoint = Endpoint(f"http://{'127.0.0.1' if kind == 'address' else 'localhost'}:{port_of(listener)}")
            clock.names["localhost"] = [("127.0.0.1", port_of(listener)), ("::1", port_of(listener))]
        pool = Pool(endpoint, connect=5, trust=believing(pki), loop=clock.as_loop)
        sockets = open_sockets()
        for turns in (*range(50), *(1 << bits for bits in range(6, 20))):  # the thread that answers needs its time
            opening = asyncio.ensure_future(pool.open())
            for _ in range(turns):
                await asyncio.sleep(0)
            opening.cancel()
            await asyncio.wait({opening})
            if not opening.cancelled():
                (await opening).abort()
                break
            await nothing_left(sockets)
        else:
            pytest.fail("it never opened")
        await nothing_left(sockets)


# -- TLS ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an authority (`ca.pem`), and certificates of `right`, `other` (another name) and `self`-signed."""
    folder = tmp_path_factory.mktemp("pki")
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30"]
    _openssl(folder, "req", "-x509", *key, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=authority")
    for name, names in (("right", "DNS:localhost,IP:127.0.0.1"), ("other", "DNS:elsewhere.example")):
        _openssl(folder, "req", *key, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        (folder / "names").write_text(f"subjectAltName={names}\n")
        signing = ["-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "30", "-extfile", "names"]
        _openssl(folder, "x509", "-req", "-in", f"{name}.csr", "-out", f"{name}.pem", *signing)
    alone = ["-keyout", "self.key", "-out", "self.pem", "-subj", "/CN=localhost"]
    _openssl(folder, "req", "-x509", *key, *alone, "-addext", "subjectAltName=DNS:localhost")
    return folder


def _openssl(folder: Path, *words: str) -> None:
    subprocess.run(["openssl", *words], check=True, capture_output=True, cwd=folder)


def believing(pki: Path) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(pki / "ca.pem"))


@contextlib.contextmanager
def tls_engine(pki: Path, name: str) -> Iterator[int]:
    """Answers each request on a TLS port, whose number it yields; in threads, because handshakes have two sides."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pki / f"{name}.pem", pki / f"{name}.key")
    threads: list[threading.Thread] = []
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    end = listener.accept()[0]
                    threads.append(threading.Thread(target=serve, args=(end,)))
                    threads[-1].start()

        def serve(end: socket.socket) -> None:
            with end, contextlib.suppress(OSError):
                end.settimeout(5)
                with context.wrap_socket(end, server_side=True) as speaking:
                    while speaking.recv(1000):
                        speaking.sendall(ANSWER)

        accepting = threading.Thread(target=accept)
        accepting.start()
        try:
            yield port_of(listener)
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            accepting.join()
            for thread in threads:
                thread.join()


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
async def test_over_tls_an_engine_with_the_right_certificate_is_asked(host: str, pki: Path) -> None:
    with tls_engine(pki, "right") as port:
        pool = Pool(Endpoint(f"https://{host}:{port}"), connect=5, trust=believing(pki))
        connection = await pool.open()
        await tls_answer(connection)
        assert connection.release() == b"ok" and repr(pool).endswith(" tls, 0 idle>")
        connection.abort()
        await until(lambda: connection.is_lost)


async def tls_answer(connection: Connection) -> None:
    connection.ask("POST", ASKED)
    await until(lambda: connection.is_over)
    assert connection.failure is None


@pytest.mark.parametrize("name", ["self", "other"])
async def test_over_tls_no_other_certificate_is_believed(name: str, pki: Path) -> None:
    """Signed by itself; of an authority that we trust, for another name."""
    with tls_engine(pki, name) as port:
        sockets = open_sockets()
        with pytest.raises(ssl.SSLCertVerificationError):
            await Pool(Endpoint(f"https://localhost:{port}"), connect=5, trust=believing(pki)).open()
        await nothing_left(sockets)


def fingerprint_of(pki: Path, name: str) -> str:
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert((pki / f"{name}.pem").read_text())).hexdigest()


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
async def test_where_the_certificate_is_known_that_one_is_believed_whoever_signed_it(host: str, pki: Path) -> None:
    """A rented machine signs its own, and has whatever address its vendor gave it this time."""
    with tls_engine(pki, "self") as port:
        connection = await Pool(
            Endpoint(f"https://{host}:{port}", fingerprint=fingerprint_of(pki, "self")), connect=5
        ).open()
        await tls_answer(connection)
        connection.abort()
        await until(lambda: connection.is_lost)


@pytest.mark.parametrize("shown", ["self", "right"])
async def test_where_the_certificate_is_known_no_other_hears_a_byte_of_a_request(shown: str, pki: Path) -> None:
    """Not even one that an authority signed: whoever can have one made for that address is not the worker."""
    with tls_engine(pki, shown) as port:
        sockets = open_sockets()
        endpoint = Endpoint(f"https://localhost:{port}", fingerprint=fingerprint_of(pki, "other"))
        with pytest.raises(WrongCertificate, match=fingerprint_of(pki, shown)):
            await Pool(endpoint, connect=5, trust=believing(pki)).open()
        await nothing_left(sockets)


async def test_an_engine_that_speaks_no_tls_is_none() -> None:
    with listening() as listener:
        opening = asyncio.ensure_future(Pool(Endpoint(f"https://localhost:{port_of(listener)}"), connect=5).open())
        with (await asyncio.get_running_loop().run_in_executor(None, listener.accept))[0] as end:
            end.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            with pytest.raises(OSError):  # whichever of SSLError and ConnectionError the loop has for it
                await opening


async def test_over_tls_what_carried_a_stream_rests_until_an_end_would_be_seen(pki: Path) -> None:
    """A new one costs a handshake. Without a stream, one that is trusted is taken at once here as well."""
    clock = ClockLoop()
    with tls_engine(pki, "right") as port:
        pool = Pool(Endpoint(f"https://127.0.0.1:{port}"), connect=5, trust=believing(pki), loop=clock.as_loop)
        connection = await pool.open()
        try:
            for streamed in (True, True, False):
                await tls_answer(connection)
                connection.release()
                pool.give_back(connection, streamed=streamed)
                assert (pool.take() is connection) is not streamed
                clock.pass_by(REST)
                assert (pool.take() is connection) is streamed
        finally:
            pool.close()
            connection.abort()
            await until(lambda: connection.is_lost)


async def test_the_systems_own_authorities_are_the_ones_that_count(pki: Path) -> None:
    """In a process of its own: what the system believes is read once. SSL_CERT_FILE is how an operator adds to it."""
    program = (
        "import asyncio, sys\n"
        "from gateway.providers.base import Endpoint\n"
        "from gateway.proxy.pool import Pool\n"
        "async def main():\n"
        "    (await Pool(Endpoint(sys.argv[1]), connect=5).open()).abort()\n"
        "try:\n"
        "    asyncio.run(main())\n"
        "except OSError as error:\n"
        "    print(type(error).__name__)\n"
        "else:\n"
        "    print('open')\n"
    )
    with tls_engine(pki, "right") as port:
        for authorities, outcome in ((str(pki / "ca.pem"), "open"), ("", "SSLCertVerificationError")):
            environ = {name: value for name, value in os.environ.items() if not name.startswith("SSL_CERT")}
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-c", program, f"https://localhost:{port}"),
                env=environ | ({"SSL_CERT_FILE": authorities} if authorities else {}),
                cwd=ROOT,
                stdout=subprocess.PIPE,
            )
            said, _ = await asyncio.wait_for(process.communicate(), 30)
            assert said.decode().strip() == outcome
