"""One connection to an engine: a request out, its answer in, read by read, without a task, a queue or a copy.

It is an asyncio protocol. What the engine says goes, without its HTTP framing, to whoever takes it:

    ask ──► nobody takes it yet: bytes are held, HELD at most ──► flow_to(take): each read goes to `take` at once
     └─ over: the whole answer came, or `failure` says why it never will

Whoever carries the request awaits `news`: something changed that it must see to. While a stream flows that is nothing
at all, so that a chunk costs one read, one look and one write (docs/explanation/how-a-chunk-travels.md). One task at a
time may wait for news, and one may wait until more can be sent.

It knows no reply, no limits and no refusals; `upstream.py` does.
"""

import asyncio
import errno
import os
import select
import socket
import struct
from collections.abc import Callable
from typing import Final, Literal, cast

from gateway.proxy.alarms import Alarms
from gateway.proxy.http1 import AnswerParser, Head

HELD: Final = 64 * 1024
"""Bytes of an answer that are held while nobody takes them; then the engine is asked to wait."""

Take = Callable[[bytes, bytes | None], None]
"""Takes what came of the body, and the read that it came in if that may be passed on as it is (one whole chunk).
What it raises ends the answer, and is the connection's `failure`."""


Over = Literal["tcp", "tls", "unix"]
_TCP_CLOSE: Final = 7
"""tcpi_state of a socket whose other end answered with a reset."""
_ACKED: Final = struct.Struct("@120xQ")
"""Where tcpi_bytes_acked stands in struct tcp_info (linux/tcp.h, since 4.1). It counts the SYN as one."""


class Lost(Exception):
    """The connection ended before the answer did."""


class Connection(asyncio.Protocol):
    """Ask one thing at a time. Whoever has it gives it back to its pool or aborts it."""

    __slots__ = (
        "_alarms",
        "_answered",
        "_asked",
        "_clock",
        "_drained",
        "_held",
        "_held_size",
        "_is_sent",
        "_loop",
        "_over",
        "_parser",
        "_paused",
        "_poller",
        "_sent",
        "_sent_before",
        "_take",
        "_transport",
        "_waiter",
        "ended_at",
        "failure",
        "idle_since",
        "is_lost",
        "was_unread",
        "writing_paused",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop, over: Over, alarms: Alarms | None = None) -> None:
        self._loop = loop
        self._alarms = alarms or Alarms(loop)
        self._clock = loop.time
        self._over = over
        self._transport: asyncio.Transport | None = None
        self._parser: AnswerParser | None = None
        self._take: Take | None = None
        self._held: list[bytes] = []
        self._held_size = 0
        self._waiter: asyncio.Future[None] | None = None
        self._drained: asyncio.Future[None] | None = None
        self._asked = 0
        self._sent = self._sent_before = 0
        self._answered = False
        self._is_sent = True
        self._paused = False
        self._poller: select.poll | None = None
        self.is_lost = False
        self.was_unread = False
        """Lost, and the engine cannot have read the request: it may be sent again (`_is_unread`)."""
        self.writing_paused = False
        self.failure: Exception | None = None
        """Why the answer ends early: Malformed, Lost, or what was raised by who takes it or who sends the body."""
        self.idle_since = 0.0
        """Loop time from which on it may be asked again."""
        self.ended_at: float | None = None
        """Loop time at which the engine closed it, or spoke unasked, while it was idle."""

    def __repr__(self) -> str:
        state = "lost" if self.is_lost else "idle" if self._parser is None else "done" if self.is_done else "busy"
        return f"<Connection {state}, asked {self._asked} times, holds {self._held_size} bytes>"

    # -- asking --------------------------------------------------------------------------------

    def ask(self, method: str, data: bytes, *, more: bool = False) -> None:
        """Begin a request with its head, and all of its body unless `more` follows."""
        self._parser = AnswerParser(method)
        self._answered = False
        self._sent_before = self._sent
        self._asked += 1
        self.failure = None
        self._is_sent = not more
        if self._transport is None or self._transport.is_closing():
            self.was_unread = True  # not a byte of it left us, and no end will be told again
            self.fail(Lost("the connection had ended before it was asked"))
        else:
            self.send(data)

    def send(self, data: bytes) -> None:
        """More of the request. Lost on a connection that is gone: `failure` says so."""
        transport = self._transport
        if transport is None or self.is_lost or transport.is_closing():
            return
        self._sent += len(data)
        try:
            transport.write(data)
        except RuntimeError:  # uvloop's, on a connection that was lost in this moment
            self._lose(None)

    def sent_all(self) -> None:
        """The last of the request was sent."""
        self._is_sent = True

    async def drained(self) -> None:
        """Until the engine has read enough for more to be sent, or the connection is gone."""
        if self.writing_paused and not self.is_lost:
            self._drained = self._loop.create_future()
            try:
                await self._drained
            finally:
                self._drained = None

    # -- what came of it -----------------------------------------------------------------------

    @property
    def certificate(self) -> bytes | None:
        """What the other end showed (DER); None without TLS."""
        secured = self._transport.get_extra_info("ssl_object") if self._transport is not None else None
        shown: bytes | None = secured.getpeercert(binary_form=True) if secured is not None else None
        return shown

    @property
    def head(self) -> Head | None:
        return self._parser.head if self._parser is not None else None

    @property
    def is_done(self) -> bool:
        """The whole answer came."""
        return self._parser is not None and self._parser.done

    @property
    def is_over(self) -> bool:
        """Nothing more will come of this answer."""
        return self.failure is not None or self.is_done

    @property
    def held(self) -> int:
        return self._held_size

    def peek(self) -> bytes:
        """What is held of the body, and stays held."""
        return b"".join(self._held)

    def release(self) -> bytes:
        """What was held of the body; it is the caller's now."""
        data = self._held[0] if len(self._held) == 1 else b"".join(self._held)
        self._held.clear()
        self._held_size = 0
        self.resume()
        return data

    def flow_to(self, take: Take) -> None:
        """From now on each read goes there, in the moment in which it comes; first what is held."""
        data = self.release()
        self._take = take
        if data:
            try:
                take(data, None)
            except Exception as error:
                self.fail(error)

    def news(self, within: float) -> asyncio.Future[None]:
        """Done when something changed (a head, held bytes, an end, room to send, a call of `wake`), or after so many
        seconds; sometimes for nothing."""
        self._waiter = self._loop.create_future()
        self._alarms.set(self, self._clock() + within)
        return self._waiter

    def wake(self) -> None:
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    @property
    def is_paused(self) -> bool:
        """The engine waits until `resume`, whatever has changed meanwhile."""
        return self._paused

    def pause(self) -> None:
        """Let the engine wait: whoever takes its answer has enough for now."""
        if not self._paused and self._transport is not None and not self._transport.is_closing():
            self._paused = True
            self._transport.pause_reading()

    def resume(self) -> None:
        if self._paused:
            self._paused = False
            if self._transport is not None and not self._transport.is_closing():
                self._transport.resume_reading()

    def fail(self, error: Exception) -> None:
        """This answer ends here; what ended it first is its `failure`."""
        if self.failure is None:
            self.failure = error
        self.wake()

    # -- before and after ----------------------------------------------------------------------

    def rest(self, seconds: float) -> None:
        """The answer is over; it can be asked again then, for as long as it stays silent. What nobody took of the
        answer (its caller left, or was told something else) is dropped here: the next one is another caller's."""
        self._alarms.drop(self)
        self._parser = None
        self._take = None
        if self._held:
            self._held.clear()
            self._held_size = 0
        self.resume()
        self.idle_since = self._clock() + seconds

    def may_rest(self) -> bool:
        """Whether it can be asked again: the answer came whole, as its head had said, with nothing behind it."""
        parser = self._parser
        return (
            parser is not None
            and parser.done
            and parser.head is not None
            and parser.head.reusable
            and not parser.surplus
            and self._is_sent
            and self.failure is None
            and not self.is_lost
            and not self.writing_paused
        )

    def is_alive(self) -> bool:
        """Whether it can still be asked: the engine has neither closed it nor said anything since. Asks the kernel,
        because the loop may not have come to it yet."""
        transport = self._transport
        if self.ended_at is not None or transport is None or self.is_lost or transport.is_closing():
            return False
        if self._poller is None:
            self._poller = select.poll()
            # Over TLS what can be read may be a late session ticket, which is no word of the engine's.
            unasked = select.POLLRDHUP if self._over == "tls" else select.POLLIN | select.POLLRDHUP
            self._poller.register(transport.get_extra_info("socket").fileno(), unasked)
        if not self._poller.poll(0):
            return True
        self.ended_at = self._clock()
        return False

    def abort(self) -> None:
        """At once, which is how an engine learns to stop its work."""
        self._alarms.drop(self)
        self._take = None
        if self._transport is not None:
            self._transport.abort()

    # -- the protocol --------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one, and no subclass

    def data_received(self, data: bytes) -> None:
        parser = self._parser
        if parser is None or self.failure is not None:
            self._end(None)
            self.abort()  # nobody asked, or nobody listens: what it says could be taken for the next answer
            return
        self._answered = True
        try:
            body = parser.feed(data)
            if self._take is not None:
                if body:
                    self._take(body, data if parser.verbatim else None)
                if parser.done:
                    self.wake()
                return
        except Exception as error:  # whatever it is, the task that carries this request has to hear of it
            self.fail(error)
            return
        if body:
            self._held.append(body)
            self._held_size += len(body)
            if self._held_size >= HELD:
                self.pause()
        if parser.head is not None:
            self.wake()

    def eof_received(self) -> bool | None:
        self._end(None)
        return None  # the transport closes itself

    def connection_lost(self, exc: Exception | None) -> None:
        self._lose(exc)

    def pause_writing(self) -> None:
        self.writing_paused = True

    def resume_writing(self) -> None:
        self.writing_paused = False
        self._let_send()
        self.wake()

    # -- ends ----------------------------------------------------------------------------------

    def _lose(self, exc: Exception | None) -> None:
        if not self.is_lost:
            self._end(exc)
            self.is_lost = True
            self._let_send()
            self.wake()

    def _end(self, exc: Exception | None) -> None:
        """The connection ended; some answers end so."""
        parser = self._parser
        if parser is None and self.ended_at is None:
            self.ended_at = self._clock()
        if parser is None or parser.done or self.failure is not None:
            return
        if exc is None and self._answered and parser.feed_eof():
            self.wake()
            return
        if exc is not None and not self._answered:
            self._hear_out()
            if self.is_over:
                return
        self.was_unread = not self._answered and self._is_unread(exc)
        self.fail(Lost("the connection ended before the answer"))

    def _hear_out(self) -> None:
        """What the engine said before it closed: one that refuses a body unread (401, 413) is followed by a reset, and
        our next write meets that before the loop comes to read. The kernel still has what came before it."""
        if self._transport is None or self._over == "tls":
            return
        descriptor = self._transport.get_extra_info("socket").fileno()
        try:
            while not self.is_over and self._held_size < HELD and (data := os.read(descriptor, HELD)):
                self.data_received(data)
        except OSError:
            pass  # that was all

    def _is_unread(self, exc: Exception | None) -> bool:
        """Whether this end proves that the engine cannot have begun.

        On a unix socket a reset says that the other end closed with bytes unread, or before it accepted (Linux,
        unix_release_sock): it then had no whole request, and what it never had it cannot have run.

        Over TCP a reset may come from whatever stands between, and after the engine has long begun: what it has read
        may not be acknowledged for 40 ms. But its FIN acknowledges all that came before, and what comes behind it is
        reset. So when a kept connection was closed (an end of file or EPIPE, never ECONNRESET), then reset, and not a
        byte of this request was acknowledged, none was read.
        """
        if self._over == "unix":
            return isinstance(exc, OSError) and exc.errno in (errno.ECONNRESET, errno.EPIPE)
        is_closed_first = exc is None or (isinstance(exc, OSError) and exc.errno == errno.EPIPE)
        if self._over == "tls" or self._asked < 2 or self._transport is None or not is_closed_first:
            return False
        try:
            info = self._transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 128)
        except OSError:
            return False
        return len(info) == 128 and info[0] == _TCP_CLOSE and _ACKED.unpack(info)[0] <= self._sent_before + 1

    def _let_send(self) -> None:
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)
