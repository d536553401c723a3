"""One connection to an engine, on real sockets and both loops: what is held, who is told, what an end proves.

The engine's end is a plain socket in the test's hand (tests/support/engine_end.py).
"""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

import pytest

from gateway.proxy.connection import HELD, Connection, Lost
from gateway.proxy.http1 import Malformed
from tests.support.engine_end import EngineEnd, Over, connected, until
from tests.support.loops import BOTH_LOOPS

pytestmark = BOTH_LOOPS
BOTH_SOCKETS = pytest.mark.parametrize("over", ["tcp", "unix"])

ASKED = b"POST / HTTP/1.1\r\nContent-Length: 2\r\n\r\nhi"
OK = b"HTTP/1.1 200 OK\r\n"
ANSWER = OK + b"Content-Length: 2\r\n\r\nok"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
TO_THE_END = OK + b"Connection: close\r\n\r\n"


@contextlib.asynccontextmanager
async def asked(over: Over = "tcp") -> AsyncIterator[tuple[Connection, EngineEnd]]:
    """A connection whose engine has heard the request."""
    async with connected(over) as (connection, engine):
        connection.ask("POST", ASKED)
        assert await engine.hear(len(ASKED)) == ASKED
        yield connection, engine


@contextlib.asynccontextmanager
async def kept(over: Over = "tcp") -> AsyncIterator[tuple[Connection, EngineEnd]]:
    """A connection that has one answer behind it, and rests."""
    async with asked(over) as (connection, engine):
        engine.say(ANSWER)
        await until(lambda: connection.is_done)
        assert connection.release() == b"ok" and connection.may_rest()
        connection.rest(0)
        yield connection, engine


async def told(connection: Connection) -> None:
    """News, and not the end of patience."""
    async with asyncio.timeout(5):
        await connection.news(60)


class Taker:
    """Takes what comes, and remembers it."""

    def __init__(self, error: Exception | None = None) -> None:
        self.bodies: list[bytes] = []
        self.reads: list[bytes | None] = []
        self._error = error

    def __call__(self, body: bytes, read: bytes | None) -> None:
        if self._error is not None:
            raise self._error
        self.bodies.append(body)
        self.reads.append(read)


# -- what came, and who takes it ---------------------------------------------------------------


async def test_the_body_is_held_until_somebody_takes_it_and_then_goes_to_them_at_once() -> None:
    async with asked() as (connection, engine):
        engine.say(CHUNKED + b"3\r\none\r\n")
        await until(lambda: connection.held == 3)
        engine.say(b"3\r\ntwo\r\n")
        await until(lambda: connection.held == 6)
        take = Taker()
        connection.flow_to(take)
        assert take.bodies == [b"onetwo"] and connection.held == 0
        engine.say(b"5\r\nthree\r\n")
        await until(lambda: len(take.bodies) == 2)
        assert take.bodies[1] == b"three" and connection.held == 0


async def test_a_read_that_is_one_whole_chunk_comes_along_as_it_came() -> None:
    """So that it can be passed on as it is; what was held, or framed in another way, cannot."""
    async with asked() as (connection, engine):
        engine.say(CHUNKED + b"1\r\na\r\n")
        await until(lambda: connection.held)
        take = Taker()
        connection.flow_to(take)
        for said in (b"1\r\nb\r\n", b"1;x=y\r\nc\r\n", b"1\r\nd\r\n1\r\ne\r\n", b"2\r\nf"):
            count = len(take.bodies)
            engine.say(said)
            await until(lambda count=count: len(take.bodies) > count)
        assert take.bodies == [b"a", b"b", b"c", b"de", b"f"]
        assert take.reads == [None, b"1\r\nb\r\n", None, None, None]


@BOTH_SOCKETS
async def test_no_more_than_a_little_is_held_while_nobody_takes_it(over: Over) -> None:
    """The engine has to wait, and goes on as soon as what was held is taken."""
    async with asked(over) as (connection, engine):
        size = 32 << 20
        engine.say(OK + b"Content-Length: %d\r\n\r\n" % size)
        engine.socket.setblocking(False)
        sent = await _say_all_it_takes(engine)
        assert HELD <= connection.held <= HELD + (256 << 10)  # one read more than the limit at most
        assert sent < size
        came = 0
        while came < size:
            if sent < size:
                sent += _say_some(engine, size - sent)
            came += len(connection.release())
            await asyncio.sleep(0)
        assert connection.is_done and connection.may_rest()


async def _say_all_it_takes(engine: EngineEnd) -> int:
    """Bytes until there was no room for more for a while."""
    sent = silent = 0
    while silent < 5:
        some = _say_some(engine, 1 << 20)
        sent += some
        silent = 0 if some else silent + 1
        await asyncio.sleep(0.002)
    return sent


def _say_some(engine: EngineEnd, most: int) -> int:
    try:
        return engine.socket.send(b"x" * min(most, 1 << 20))
    except BlockingIOError:
        return 0


async def test_a_taker_that_has_enough_lets_the_engine_wait() -> None:
    async with asked() as (connection, engine):
        engine.say(CHUNKED)
        await until(lambda: connection.head)
        take = Taker()
        connection.flow_to(take)
        connection.pause()
        connection.pause()
        engine.say(b"1\r\na\r\n")
        await asyncio.sleep(0.01)
        assert take.bodies == []
        connection.resume()
        await until(lambda: take.bodies)


@pytest.mark.parametrize("when", ["on what was held", "on a read"])
async def test_what_a_taker_raises_ends_the_answer(when: str) -> None:
    """It is the connection's failure, and whoever carries the request is woken to see it."""
    error = RuntimeError("the caller left")
    async with asked() as (connection, engine):
        engine.say(CHUNKED + (b"1\r\na\r\n" if when == "on what was held" else b""))
        await until(lambda: connection.head and connection.held == (when == "on what was held"))
        connection.flow_to(Taker(error))
        if when == "on a read":
            engine.say(b"1\r\na\r\n")
            await told(connection)
        assert connection.failure is error and connection.is_over and not connection.is_done
        assert not connection.may_rest()
        engine.say(b"1\r\nb\r\n")  # nobody listens any more: it is closed
        assert await engine.is_left()
        assert connection.failure is error


async def test_what_is_no_proper_http_ends_the_answer() -> None:
    async with asked() as (connection, engine):
        engine.say(b"ICY 200 OK\r\n\r\n")
        await told(connection)
        assert isinstance(connection.failure, Malformed) and not connection.may_rest()


async def test_the_last_answer_leaves_nothing_for_the_next_one() -> None:
    """Nobody took its body: its caller left, or was told something else. The next answer is another caller's."""
    async with asked() as (connection, engine):
        engine.say(OK + b"Content-Length: 6\r\n\r\nsecret")
        await until(lambda: connection.is_done)
        assert connection.may_rest()
        connection.rest(0)
        assert connection.held == 0
        connection.ask("POST", ASKED)
        engine.say(ANSWER)
        await until(lambda: connection.is_done)
        assert connection.release() == b"ok"


async def test_a_caller_who_was_slow_to_the_end_does_not_make_the_next_one_wait() -> None:
    async with asked() as (connection, engine):
        connection.flow_to(lambda body, read: connection.pause())
        engine.say(ANSWER)
        await until(lambda: connection.is_done)
        assert connection.may_rest()
        connection.rest(0)
        connection.ask("POST", ASKED)
        engine.say(ANSWER)
        await until(lambda: connection.is_done)
        assert connection.release() == b"ok"


# -- news ----------------------------------------------------------------------------------------


async def test_news_is_a_head_more_of_the_body_and_the_end() -> None:
    async with asked() as (connection, engine):
        for said in (OK, b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\na\r\n", b"0\r\n\r\n"):
            assert not connection.is_over
            engine.say(said)
            if said != OK:  # half a head is none
                await told(connection)
                assert connection.head is not None
        assert connection.is_over


async def test_while_a_stream_flows_there_is_no_news_until_its_end() -> None:
    async with asked() as (connection, engine):
        engine.say(CHUNKED)
        await until(lambda: connection.head)
        take = Taker()
        connection.flow_to(take)
        waiting = asyncio.ensure_future(connection.news(60))
        for count in range(1, 20):
            engine.say(b"1\r\na\r\n")
            await until(lambda count=count: len(take.bodies) == count)
        assert not waiting.done()
        engine.say(b"0\r\n\r\n")
        await asyncio.wait_for(waiting, 5)
        assert connection.is_done and len(take.bodies) == 19


async def test_news_also_comes_when_somebody_calls_or_the_time_is_over() -> None:
    async with asked() as (connection, _engine):
        waiting = asyncio.ensure_future(connection.news(60))
        await asyncio.sleep(0)
        connection.wake()
        connection.wake()
        await asyncio.wait_for(waiting, 5)
        async with asyncio.timeout(5):
            await connection.news(0.001)
            await connection.news(-1)
        connection.wake()  # nobody waits
        assert not connection.is_over


async def test_who_stopped_waiting_is_not_woken() -> None:
    async with asked() as (connection, engine):
        waiting = asyncio.ensure_future(connection.news(60))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait({waiting})
        engine.say(ANSWER)
        await until(lambda: connection.is_done)
        assert waiting.cancelled()


# -- ends ----------------------------------------------------------------------------------------


@BOTH_SOCKETS
@pytest.mark.parametrize(
    ("said", "is_whole"),
    [
        (b"", False),
        (b"HTTP/1.1 100 Continue\r\n\r\n", False),
        (OK, False),
        (OK + b"Content-Length: 3\r\n\r\nok", False),
        (CHUNKED, False),
        (CHUNKED + b"5\r\nok", False),
        (CHUNKED + b"2\r\nok\r\n", False),
        (CHUNKED + b"2\r\nok\r\n0\r\n", False),
        (TO_THE_END, True),
        (TO_THE_END + b"ok", True),
        (ANSWER, True),
        (CHUNKED + b"2\r\nok\r\n0\r\n\r\n", True),
    ],
    ids=[
        "before a byte",
        "after an interim answer",
        "in the head",
        "in the body",
        "before the first chunk",
        "in a chunk",
        "between chunks",
        "in the last chunk",
        "of an empty body that it ends",
        "of a body that it ends",
        "after the body",
        "after the last chunk",
    ],
)
async def test_an_end_makes_an_answer_whole_or_lost(over: Over, said: bytes, is_whole: bool) -> None:
    """And nobody is left waiting, whether they wait or look later; no connection that has ended may rest."""
    async with asked(over) as (connection, engine):
        engine.say(said)
        engine.close()
        while not connection.is_over:
            await told(connection)
        assert connection.is_done is is_whole
        assert isinstance(connection.failure, Lost) is not is_whole
        assert not connection.was_unread
        await until(lambda: connection.is_lost)
        assert not connection.may_rest() and not connection.is_alive()


async def test_a_reset_in_a_body_that_the_end_ends_is_no_end() -> None:
    async with asked() as (connection, engine):
        engine.say(TO_THE_END + b"half")
        await until(lambda: connection.held)
        engine.reset()
        await told(connection)
        assert isinstance(connection.failure, Lost) and not connection.is_done


async def test_what_was_lost_while_nobody_waited_is_there_for_who_looks() -> None:
    async with asked() as (connection, engine):
        engine.close()
        await until(lambda: connection.is_lost)
        assert isinstance(connection.failure, Lost) and connection.is_over
        async with asyncio.timeout(5):
            await connection.drained()
        connection.send(b"more")  # lost, and no error
        connection.pause()
        connection.resume()


async def test_an_end_behind_the_answer_is_seen_before_it_rests() -> None:
    async with asked() as (connection, engine):
        engine.say(ANSWER)
        engine.close()
        await until(lambda: connection.is_lost)
        assert connection.is_done and not connection.may_rest()


@BOTH_SOCKETS
async def test_abort_is_an_end_for_the_engine_and_nothing_more_is_taken(over: Over) -> None:
    async with asked(over) as (connection, engine):
        engine.say(CHUNKED)
        await until(lambda: connection.head)
        take = Taker()
        connection.flow_to(take)
        engine.say(b"1\r\na\r\n")
        connection.abort()
        assert await engine.is_left()
        await until(lambda: connection.is_lost)
        assert take.bodies == [] and isinstance(connection.failure, Lost)
        connection.abort()


# -- whether it may be asked again -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "may_rest"),
    [
        (ANSWER, True),
        (CHUNKED + b"0\r\n\r\n", True),
        (OK + b"Connection: keep-alive\r\nContent-Length: 0\r\n\r\n", True),
        (b"HTTP/1.1 204 No\r\n\r\n", True),
        (OK + b"Connection: close\r\nContent-Length: 0\r\n\r\n", False),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n", False),
        (ANSWER + OK, False),
        (ANSWER + b"\r\n", False),
    ],
    ids=["length", "chunks", "keep-alive", "no body", "close", "HTTP/1.0", "another answer behind", "a line behind"],
)
async def test_an_answer_that_came_whole_as_it_had_said_leaves_its_connection_fit(said: bytes, may_rest: bool) -> None:
    async with asked() as (connection, engine):
        assert not connection.may_rest()
        engine.say(said)
        await until(lambda: connection.is_done)
        assert connection.may_rest() is may_rest


async def test_bytes_that_come_behind_an_answer_before_it_rests_are_seen() -> None:
    async with asked() as (connection, engine):
        engine.say(ANSWER)
        await until(lambda: connection.is_done)
        engine.say(b"HTTP/1.1 200 evil\r\n")
        await until(lambda: not connection.may_rest())
        assert connection.release() == b"ok"


@BOTH_SOCKETS
async def test_a_kept_connection_is_asked_again(over: Over) -> None:
    async with kept(over) as (connection, engine):
        assert connection.is_alive() and connection.is_alive()
        connection.ask("POST", ASKED)
        assert connection.head is None and not connection.is_over
        assert await engine.hear(len(ASKED)) == ASKED
        engine.say(CHUNKED + b"2\r\nme\r\n0\r\n\r\n")
        await until(lambda: connection.is_done)
        assert connection.release() == b"me"


async def test_it_says_from_when_on_it_may_be_asked_again() -> None:
    async with kept() as (connection, _engine):
        now = asyncio.get_running_loop().time()
        connection.rest(100)
        assert now + 100 <= connection.idle_since < now + 101


@BOTH_SOCKETS
@pytest.mark.parametrize("what", ["closes", "speaks"])
@pytest.mark.parametrize("is_seen", [True, False], ids=["seen", "before the loop looked"])
async def test_an_engine_that_ends_or_speaks_unasked_is_found_out(over: Over, what: str, is_seen: bool) -> None:
    """What it says is nobody's answer. Asked in the moment in which it happens, it is the kernel that tells."""
    async with kept(over) as (connection, engine):
        if what == "closes":
            engine.close()
        else:
            engine.say(ANSWER)
        if is_seen:
            await until(lambda: connection.is_lost)
            assert connection.ended_at is not None
        assert not connection.is_alive()
        assert connection.ended_at is not None and connection.idle_since <= connection.ended_at
        assert connection.held == 0 and connection.failure is None


async def test_an_answer_to_half_a_request_leaves_its_connection_unfit() -> None:
    """The engine may still wait for the rest, and would take the next request for it."""
    async with connected() as (connection, engine):
        connection.ask("POST", ASKED[:-1], more=True)
        await engine.hear(len(ASKED) - 1)
        engine.say(ANSWER)
        await until(lambda: connection.is_done)
        assert connection.release() == b"ok" and not connection.may_rest()


async def test_an_answer_to_all_of_a_request_that_was_sent_by_and_by_leaves_it_fit() -> None:
    async with connected() as (connection, engine):
        connection.ask("POST", ASKED[:-1], more=True)
        connection.send(ASKED[-1:])
        connection.sent_all()
        assert await engine.hear(len(ASKED)) == ASKED
        engine.say(ANSWER)
        await until(lambda: connection.is_done)
        assert connection.may_rest()


# -- sending more than the engine reads ------------------------------------------------------------


@BOTH_SOCKETS
async def test_who_sends_waits_until_the_engine_has_read_enough(over: Over) -> None:
    async with connected(over) as (connection, engine):
        async with asyncio.timeout(5):
            await connection.drained()  # nothing to wait for
        size = 16 << 20
        connection.ask("POST", b"x" * size)
        await asyncio.sleep(0)
        assert connection.writing_paused
        waiting, news = (asyncio.ensure_future(each) for each in (connection.drained(), connection.news(60)))
        await asyncio.sleep(0)
        engine.say(ANSWER)  # early
        await until(lambda: connection.is_done)
        assert connection.writing_paused and not connection.may_rest() and not waiting.done()
        await asyncio.wait_for(news, 5)
        assert len(await engine.hear(size)) == size
        await asyncio.wait_for(waiting, 5)
        assert not connection.writing_paused and connection.may_rest()


@BOTH_SOCKETS
@pytest.mark.parametrize("end", ["engine", "abort"])
async def test_nobody_waits_for_room_on_a_connection_that_is_gone(over: Over, end: str) -> None:
    async with connected(over) as (connection, engine):
        connection.ask("POST", b"x" * (16 << 20))
        await asyncio.sleep(0)
        waiting = asyncio.ensure_future(connection.drained())
        await asyncio.sleep(0)
        assert connection.writing_paused and not waiting.done()
        if end == "engine":
            engine.close()
        else:
            connection.abort()
        await asyncio.wait_for(waiting, 5)
        await until(lambda: connection.is_lost)
        assert isinstance(connection.failure, Lost)


# -- what an end proves ----------------------------------------------------------------------------


async def lost(connection: Connection) -> bool:
    """Whether what was lost can be sent again."""
    while connection.failure is None:
        await told(connection)
    assert isinstance(connection.failure, Lost)
    return connection.was_unread


@BOTH_SOCKETS
async def test_what_came_to_a_closed_end_of_a_kept_connection_was_not_read(over: Over) -> None:
    """The race that no look before use can exclude. Over TCP its proof is an end, then a reset, and not one byte
    acknowledged; on a unix socket the write fails."""
    async with kept(over) as (connection, engine):
        assert connection.is_alive()
        engine.close()
        connection.ask("POST", ASKED)
        assert await lost(connection) is True


@pytest.mark.parametrize("size", [1, 100_000, 8 << 20])
async def test_so_it_is_with_a_body_of_any_size(size: int) -> None:
    async with kept() as (connection, engine):
        engine.close()
        connection.ask("POST", b"x" * size)
        assert await lost(connection) is True


async def test_what_is_never_sent_was_not_read() -> None:
    """Its end had been told before it was asked; nobody would be told again."""
    for how in (EngineEnd.close, EngineEnd.reset):
        for before in (connected, kept):
            async with before() as (connection, engine):
                how(engine)
                await until(lambda connection=connection: connection.is_lost)
                connection.ask("POST", ASKED)
                assert connection.is_over and await lost(connection) is True


async def test_over_tcp_bytes_that_reached_the_engines_machine_may_have_been_read() -> None:
    async with kept() as (connection, engine):
        connection.ask("POST", ASKED)
        await until(engine.has_more)
        engine.close()  # with our bytes unread: its kernel resets
        assert await lost(connection) is False


@pytest.mark.parametrize("answers_before", [1, 3])
async def test_over_tcp_a_reset_by_an_engine_that_has_read_everything_proves_nothing(answers_before: int) -> None:
    """Its kernel is slow to acknowledge on a connection that answers: nothing of what it read is acknowledged yet."""
    async with kept() as (connection, engine):
        for _ in range(answers_before - 1):
            connection.ask("POST", ASKED)
            await engine.hear(len(ASKED))
            engine.say(ANSWER)
            await until(lambda: connection.is_done)
            connection.rest(0)
        connection.ask("POST", ASKED)
        assert await engine.hear(len(ASKED)) == ASKED
        engine.reset()
        assert await lost(connection) is False


@BOTH_SOCKETS
async def test_what_was_read_before_the_end_may_have_run(over: Over) -> None:
    async with kept(over) as (connection, engine):
        connection.ask("POST", ASKED)
        await engine.hear(len(ASKED))
        engine.close()
        assert await lost(connection) is False


async def test_over_tcp_an_engine_that_said_its_end_may_still_read() -> None:
    async with kept() as (connection, engine):
        engine.end()
        connection.ask("POST", ASKED)
        assert await engine.hear(len(ASKED)) == ASKED
        assert await lost(connection) is False


async def test_over_tcp_a_fresh_connection_proves_nothing() -> None:
    """Something between may have taken the request and have failed to reach the engine, or lost it on the way back."""
    async with connected() as (connection, engine):
        engine.close()
        connection.ask("POST", ASKED)
        assert await lost(connection) is False


async def test_over_tls_no_end_proves_anything() -> None:
    """What was acknowledged counts encrypted bytes, alerts and tickets; here the same end, called TLS."""
    async with kept() as (connection, engine):
        connection._over = "tls"
        engine.close()
        connection.ask("POST", ASKED)
        assert await lost(connection) is False


async def test_on_a_unix_socket_a_reset_says_that_the_engine_had_no_whole_request() -> None:
    for read in (0, 5):
        async with asked_unheard() as (connection, engine):
            assert len(await engine.hear(read)) == read
            engine.close()
            assert await lost(connection) is True


@contextlib.asynccontextmanager
async def asked_unheard() -> AsyncIterator[tuple[Connection, EngineEnd]]:
    async with connected("unix") as (connection, engine):
        connection.ask("POST", ASKED)
        await until(engine.has_more)
        yield connection, engine


@BOTH_SOCKETS
async def test_an_engine_that_began_to_answer_has_read(over: Over) -> None:
    async with kept(over) as (connection, engine):
        connection.ask("POST", ASKED)
        await until(engine.has_more)
        engine.say(b"H")
        engine.close()
        assert await lost(connection) is False


async def test_where_the_kernel_says_nothing_of_a_connection_nothing_is_proven() -> None:
    """getsockopt fails on a socket that is closed already, and an older kernel tells less."""
    for tells in (OSError(9, "Bad file descriptor"), b"\x07" + b"\0" * 103):
        async with kept() as (connection, _engine):
            connection._transport, real = _Deaf(tells), connection._transport  # type: ignore[assignment]
            try:
                connection._parser = None
                connection._asked = 2
                assert connection._is_unread(None) is False
            finally:
                connection._transport = real


class _Deaf:
    """A transport whose socket tells nothing of use."""

    def __init__(self, tells: OSError | bytes) -> None:
        self._tells = tells

    def get_extra_info(self, name: str) -> "_Deaf":
        assert name == "socket"
        return self

    def getsockopt(self, *which: int) -> bytes:
        assert which[:2] == (socket.IPPROTO_TCP, socket.TCP_INFO)
        if isinstance(self._tells, OSError):
            raise self._tells
        return self._tells


# -- what it looks like at night ---------------------------------------------------------------------


async def test_its_repr_says_what_it_does() -> None:
    async with connected() as (connection, engine):
        assert repr(connection) == "<Connection idle, asked 0 times, holds 0 bytes>"
        connection.ask("POST", ASKED)
        engine.say(CHUNKED + b"4\r\nhalf")
        await until(lambda: connection.held)
        assert repr(connection) == "<Connection busy, asked 1 times, holds 4 bytes>"
        engine.say(b"\r\n0\r\n\r\n")
        await until(lambda: connection.is_done)
        assert repr(connection) == "<Connection done, asked 1 times, holds 4 bytes>"
        connection.abort()
        await until(lambda: connection.is_lost)
        assert repr(connection) == "<Connection lost, asked 1 times, holds 4 bytes>"
