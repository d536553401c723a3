"""Posts to ALERT_URL what somebody should know at once: the budget, an instance that does not stop, a refused key.

Nobody waits for it: `tell` puts an alert into a short line, and a task posts one after the other. What the other side
does not take is tried again with growing pauses, for a quarter of an hour, and then given up; so is the oldest where
more wait than the line holds, and what it answers a plain no to. The same thing is told once an hour.

The body is one JSON object. `text` and `content` hold the same sentence, since Slack shows the one and Discord the
other; `event` is for programs. No key stands in it; the URL itself is a secret, and in no line of ours.
"""

import asyncio
import json
import ssl
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

Event = Literal["budget", "will_not_stop", "key_refused", "orphan", "ledger", "contract_ends"]
"""A share of MONTHLY_BUDGET is reached; the vendor does not confirm a stop; it refuses our key; something of ours ran
that nobody knew of; the ledger cannot be written, so that nothing is started; a contract with a vendor ends soon."""

WAITING = 32
"""Alerts that wait at most."""
PAUSES = (2.0, 10.0, 60.0, 240.0, 600.0)
"""Seconds before the second try, the third, …"""
ONCE_IN = 3600.0
"""Seconds for which the same thing is not told again."""
WITHIN = 10.0
"""Seconds for one post."""
_REMEMBERED = 64

Post = Callable[[bytes], Awaitable[int]]
"""Returns the status of the answer. Raises OSError when there was none."""


class Tells(Protocol):
    """Who is told."""

    def tell(self, event: Event, text: str, *, about: str = "", **facts: str | int) -> None:
        """Never waits, and never fails. `about` tells apart what is not the same thing: "80", or an instance's id."""


class NoAlerts:
    """Where there is no ALERT_URL."""

    def tell(self, event: Event, text: str, *, about: str = "", **facts: str | int) -> None:
        """Nobody wants to know."""

    async def close(self, within: float) -> None:
        """Nothing waits."""


@dataclass(slots=True)
class _Alert:
    event: Event
    body: bytes
    tries: int = field(default=0)


class Alerts:
    """The line, and the task that empties it."""

    def __init__(
        self,
        post: Post,
        *,
        who: str,
        redact: Callable[[str], str],
        wall: Callable[[], float] = time.time,
        say: Callable[[str, str], None] = lambda line, level: None,
        on_done: Callable[[str], None] = lambda outcome: None,
    ) -> None:
        """`who`: what this gateway is called. `say`: a line for the log, and its level. `on_done`: sent, or lost."""
        self._post = post
        self._who = who
        self._redact = redact
        self._wall = wall
        self._say = say
        self._on_done = on_done
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[_Alert] = deque()
        self._told: dict[tuple[str, str], float] = {}
        """When each thing was told last, the oldest first."""
        self._closing = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<Alerts {len(self._waiting)} waiting{', closing' if self._closing.is_set() else ''}>"

    def tell(self, event: Event, text: str, *, about: str = "", **facts: str | int) -> None:
        """Never waits, and never fails. `about` tells apart what is not the same thing: "80", or an instance's id."""
        if self._closing.is_set() or not self._is_news(event, about):
            return
        if len(self._waiting) == WAITING:
            self._lost(self._waiting.popleft(), "too many wait")
        self._waiting.append(_Alert(event, self._body(event, text, facts)))
        if self._task is None or self._task.done():
            self._task = self._loop.create_task(self._empty(), name="alerts")

    async def close(self, within: float) -> None:
        """One more try for each that waits, all of them in `within` seconds."""
        self._closing.set()
        if self._task is not None:
            done, _ = await asyncio.wait({self._task}, timeout=within)
            if not done:
                self._task.cancel()
                await asyncio.wait({self._task})
        while self._waiting:
            self._lost(self._waiting.popleft(), "the gateway ended")

    def _is_news(self, event: str, about: str) -> bool:
        now = self._loop.time()
        last = self._told.pop((event, about), None)
        self._told[event, about] = now if last is None or now - last >= ONCE_IN else last
        while len(self._told) > _REMEMBERED:
            del self._told[next(iter(self._told))]
        return last is None or now - last >= ONCE_IN

    def _body(self, event: Event, text: str, facts: Mapping[str, str | int]) -> bytes:
        line = self._redact(text)
        at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self._wall()))
        told = {name: self._redact(value) if isinstance(value, str) else value for name, value in facts.items()}
        shown = f"WakeGate {self._who}: {line}"
        return json.dumps(
            {"text": shown, "content": shown, "event": event, "gateway": self._who, "at": at, **told},
            ensure_ascii=False,
        ).encode("utf-8", "replace")

    async def _empty(self) -> None:
        while self._waiting:
            alert = self._waiting[0]
            verdict = await self._try(alert)
            if alert not in self._waiting:
                continue  # it made room meanwhile, and was counted
            if verdict == "" or verdict is None:
                self._waiting.popleft()
                if verdict == "":
                    self._on_done("sent")
                continue
            if self._closing.is_set() or alert.tries > len(PAUSES):
                self._waiting.popleft()
                self._lost(alert, verdict)
                continue
            await self._pause(PAUSES[alert.tries - 1])

    async def _try(self, alert: _Alert) -> str | None:
        """Empty: it was taken. None: it never will be, which was said. Else why it was not, this time."""
        alert.tries += 1
        try:
            status = await asyncio.wait_for(self._post(alert.body), WITHIN)
        except TimeoutError:
            return f"no answer within {WITHIN:.0f} s"
        except OSError as error:
            return error.strerror or type(error).__name__
        if 200 <= status < 300:
            return ""
        if status in (408, 425, 429) or status >= 500:
            return f"status {status}"
        self._lost(alert, f"status {status}")
        return None

    async def _pause(self, seconds: float) -> None:
        """Less when the gateway ends."""
        try:
            await asyncio.wait_for(self._closing.wait(), seconds)
        except TimeoutError:
            pass

    def _lost(self, alert: _Alert, why: str) -> None:
        self._say(f"ALERT_URL was not told of {alert.event}: {why}", "warning")
        self._on_done("lost")


def web_hook(url: str, trust: Callable[[], ssl.SSLContext]) -> Post:
    """Posts to this URL, each time by a connection of its own: there are a few in a month. Follows no redirect."""

    async def post(body: bytes) -> int:
        import aiohttp

        context = trust() if url.startswith("https:") else True
        connector = aiohttp.TCPConnector(ssl=context, force_close=True)
        try:
            async with (
                aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar()) as session,
                session.post(
                    url, data=body, headers={"Content-Type": "application/json"}, allow_redirects=False
                ) as answer,
            ):
                return answer.status
        except aiohttp.ClientError as error:
            raise OSError(0, type(error).__name__) from None  # their texts name the URL

    return post
