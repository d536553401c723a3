"""Keeps the lease, and stops the machine from inside when it is over.

It runs on a thread of its own with a loop of its own: a gateway whose loop hangs answers nobody, and costs as much as
one that works. What the gateway knows (who is in flight, since when nobody was) it is told by `saw`, each second; what
it was told a minute ago counts no more.

It ends nothing itself, not even this process: a container that ends may be started again by its vendor, and is billed
either way.
"""

import asyncio
import contextlib
import math
import ssl
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Final

from gateway.policy.backoff import pause
from gateway.policy.lease import DeadMan, Lease, Report
from gateway.providers.own_machine.vendors import OwnMachine, judge
from gateway.providers.renting.transport import HttpTransport
from gateway.providers.renting.vendor import Transport, Unanswered, VendorError

TICK: Final = 2.0
SHORTEST: Final = 0.05
"""Seconds between two looks at the clock."""
BELIEVED: Final = 60.0
"""Seconds for which what `saw` told is believed."""
WITHIN: Final = 20.0
"""For one call at the vendor's."""
KEY_FIRST: Final = 30.0
KEY_MOST: Final = 900.0
"""Seconds between two tries of the key, while it is not known to be good."""

Say = Callable[[str, str], None]
"""A line and its level. Called on the watchdog's thread."""


@dataclass(frozen=True, slots=True)
class Use:
    """What the gateway saw of its upstream."""

    in_flight: int = 0
    waiting: int = 0
    wanted: bool = False
    """It loads for the first time, or whoever has the admin key keeps it warm."""
    used_at: float | None = None
    """Monotonic time of the last byte of the last answer to somebody with a key, or of the first Ready."""

    @property
    def is_busy(self) -> bool:
        return self.in_flight > 0 or self.waiting > 0 or self.wanted


@dataclass(frozen=True, slots=True)
class Facts:
    """For the metrics and /health."""

    stops_in: float | None
    """Seconds; None while the use that goes on keeps it."""
    by_lease: bool
    tries: int
    """To stop it, since it had to be."""
    failure: str
    """Why the last of them was in vain."""
    key: str
    key_works: bool | None
    """None: not known yet."""


class Watchdog:
    """Of the machine that we run on. `start` it once, `close` it at the end; `run` is what its thread does."""

    def __init__(
        self,
        machine: OwnMachine,
        *,
        after: float,
        open_transport: Callable[[], AbstractAsyncContextManager[Transport]],
        say: Say = lambda line, level: None,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        after_a_fault: float = 5.0,
    ) -> None:
        """`after`: SELF_STOP_AFTER. `open_transport`: the way to the vendor with the machine's own key, opened on the
        thread that uses it. `after_a_fault`: seconds until it begins again after one of its own."""
        self._machine = machine
        self._open = open_transport
        self._say = say
        self._clock = clock
        self._wall = wall
        self._lock = threading.Lock()
        """Around `_man`: leases come on the gateway's thread."""
        self._man = DeadMan(machine.id, after=after, now=clock())
        self._after = after
        self._seen = Use(), clock()
        self._key, self._key_works = ("not tried yet", None) if machine.key else self._no_key()
        self._key_tries, self._key_due = 0, -math.inf if machine.key else math.inf
        self._after_a_fault = after_a_fault
        self._ended = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._news: asyncio.Event | None = None
        """Its own thread's loop, and what wakes it there."""

    def __repr__(self) -> str:
        return f"<Watchdog of {self._machine}, {self._man!r}, {self._key}>"

    def _no_key(self) -> tuple[str, bool | None]:
        return f"no key: {self._machine.words.key_name} is not set here", False

    @property
    def secrets(self) -> tuple[str, ...]:
        """What no log may hold."""
        return (self._machine.key,) if self._machine.key else ()

    # -- what the gateway's own thread asks ----------------------------------------------------

    def start(self) -> None:
        words = self._machine.words
        alone = f", or after {self._after:.0f} s (SELF_STOP_AFTER) without an authenticated request if none ever comes"
        self._say(
            f"this {words.thing} ({self._machine.id}) stops itself when its controller's lease ends"
            f"{'' if math.isinf(self._after) else alone}",
            "info",
        )
        if self._key_works is False:
            self._say(f"it cannot stop itself: {self._key}", "warning")
        threading.Thread(target=self._live, name="dead-man", daemon=True).start()

    def close(self) -> None:
        """Its thread ends by itself; one that waits for a vendor is not waited for."""
        self._ended = True
        self._wake()

    def _wake(self) -> None:
        if self._loop is None or self._news is None:
            return
        try:
            self._loop.call_soon_threadsafe(self._news.set)
        except RuntimeError:
            pass  # its loop has ended, and nobody needs to be woken

    def _live(self) -> None:
        while not self._ended:
            try:
                asyncio.run(self.run())
            except Exception as error:  # whatever it is: nobody else stops this machine
                self._say(f"the watchdog of {self._machine} failed, and begins again: {error!r}", "error")
                time.sleep(self._after_a_fault)

    def saw(self, use: Use) -> None:
        """Each second or so, and what was seen is believed for a minute."""
        self._seen = use, self._clock()

    def take(self, lease: Lease) -> str:
        """A lease whose signature is right: why it is not taken, "" when it is."""
        with self._lock:
            is_first = not self._man.has_lease
            refused = self._man.take(lease, now=self._clock(), wall=self._wall())
        self._wake()
        if is_first and not refused:
            self._say(f"the controller's first lease came: {self._machine} goes on while it sends more", "info")
        return refused

    def report(self, refused: str = "") -> Report:
        facts, (use, _) = self.facts(), self._seen
        left = 0 if facts.stops_in is None else max(0, int(facts.stops_in))
        with self._lock:
            counter = self._man.counter
        return Report(counter, left, use.in_flight, use.waiting, self._state(facts), facts.key, refused)

    @staticmethod
    def _state(facts: Facts) -> str:
        if facts.tries:
            return f"tried to stop itself {facts.tries} times" + (f", {facts.failure}" if facts.failure else "")
        return "armed"

    @property
    def state(self) -> dict[str, object]:
        """For /health, with a key."""
        facts = self.facts()
        return {
            "machine": str(self._machine),
            "state": self._state(facts),
            "by": "lease" if facts.by_lease else "use",
            "seconds_left": None if facts.stops_in is None else round(facts.stops_in),
            "key": facts.key,
        }

    def facts(self) -> Facts:
        now = self._clock()
        with self._lock:
            busy = self._is_busy(now)
            ends = self._man.ends_at(busy=busy, now=now)
            is_kept = busy and not self._man.has_lease
            return Facts(
                stops_in=None if is_kept or math.isinf(ends) else ends - now,
                by_lease=self._man.has_lease,
                tries=self._man.tries,
                failure=self._man.last_failure,
                key=self._key,
                key_works=self._key_works,
            )

    # -- its own thread ------------------------------------------------------------------------

    async def run(self) -> None:
        """Until it is closed."""
        self._loop, self._news = asyncio.get_running_loop(), asyncio.Event()
        async with self._open() as transport:
            while not self._ended:
                now = self._clock()
                if self._key_due <= now:
                    await self._try_key(transport)
                with self._lock:
                    busy = self._is_busy(now)
                    why = self._man.why(busy=busy, now=now)
                    due = bool(why) and self._man.may_try(now)
                    look = self._man.next_look(busy=busy, now=now)
                if due:
                    await self._stop(transport, why)
                else:
                    await self._rest(max(SHORTEST, min(TICK, look - self._clock())))

    async def _rest(self, seconds: float) -> None:
        if self._news is None:
            return
        try:
            async with asyncio.timeout(seconds):
                await self._news.wait()
        except TimeoutError:
            pass  # nothing was new
        self._news.clear()

    def _is_busy(self, now: float) -> bool:
        use, saw_at = self._seen
        if use.used_at is not None:
            self._man.used(use.used_at)
        return use.is_busy and now - saw_at < BELIEVED

    async def _try_key(self, transport: Transport) -> None:
        """By reading about this machine: that it may be stopped, too, is known only when it is."""
        method, path = self._machine.look
        failure = await self._ask(transport, "look", method, path)
        was, now = self._key, self._clock()
        if failure is None:
            self._key, self._key_works, self._key_due = "key works", True, math.inf
        elif failure.kind == "locked":
            self._key, self._key_works = f"key works, but the {self._machine.words.thing} is locked", False
            self._key_due = now + KEY_MOST
        elif failure.kind == "key":
            self._key, self._key_works, self._key_due = f"key refused: {failure.detail}", False, now + KEY_MOST
        else:
            self._key = f"key not tried yet: {failure.detail or failure.kind}"
            self._key_due = now + pause(self._key_tries, first=KEY_FIRST, most=KEY_MOST)
        self._key_tries += 1
        if self._key != was:
            self._say(f"{self._machine}: {self._key}", "info" if self._key_works else "warning")

    async def _stop(self, transport: Transport, why: str) -> None:
        self._say(f"{self._machine} stops itself: {why}", "warning")
        method, path, body = self._machine.stop
        failure = await self._ask(transport, "stop", method, path, body)
        said = "" if failure is None else f"{failure.kind}: {failure.detail}"
        with self._lock:
            self._man.tried(said, now=self._clock())
            tries = self._man.tries
        if failure is None:
            self._say(f"{self._machine.words.vendor} was told to stop it, and agreed", "warning")
        else:
            self._say(f"it could not be stopped ({said}, try {tries}); it is tried again, and costs money", "error")

    async def _ask(
        self, transport: Transport, op: str, method: str, path: str, body: bytes | None = None
    ) -> VendorError | None:
        if not self._machine.key:
            return VendorError("key", f"{self._machine.words.key_name} is not set")
        try:
            return judge(op, await transport(method, path, body, WITHIN))
        except Unanswered as error:
            return VendorError("unreachable", error.reason)


@contextlib.asynccontextmanager
async def over_https(machine: OwnMachine, trust: ssl.SSLContext | None = None) -> AsyncIterator[Transport]:
    """The way to the machine's vendor, with the machine's own key. `trust`: which certificates are believed."""
    transport = HttpTransport(machine.url, headers={"Authorization": f"Bearer {machine.key}"}, trust=trust)
    try:
        yield transport
    finally:
        await transport.close()


@contextlib.asynccontextmanager
async def lent(transport: Transport) -> AsyncIterator[Transport]:
    """One that somebody else opened and closes."""
    yield transport
