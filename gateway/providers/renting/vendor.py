"""Asking a vendor's API: what comes back, how it can fail, and how politely it is asked.

A vendor's client makes a `Line` of a `Transport` and of a judge, which says what an answer means. Whoever asks waits
in the line when the vendor wants a pause: stops first, then looks, then starts.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from enum import IntEnum
from typing import Any, Literal

from gateway.policy.backoff import pause

ANSWER_MAX = 1 << 20
"""Bytes. No answer about a handful of instances is longer; one that is, is cut off and is no answer."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a vendor answered, whatever its status. `headers`: names in lower case."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    body: bytes = field(default=b"", repr=False)

    def content(self) -> Any:
        """The body as JSON, with every fraction as a Decimal: money is among it. None: it is not JSON."""
        try:
            return json.loads(self.body, parse_float=Decimal, parse_constant=_no_number)
        except (ValueError, ArithmeticError, RecursionError):  # 1e99999999999999999999 is more than a Decimal holds
            return None


def _no_number(text: str) -> Any:
    raise ValueError(text)


Transport = Callable[[str, str, bytes | None, float], Awaitable[Answer]]
"""Asks with method, path (its query included), body and seconds. The key is its own business. Raises Unanswered."""


class Unanswered(Exception):
    """No answer came. `may_have_happened`: what was asked for may have been done all the same."""

    def __init__(self, reason: str, *, may_have_happened: bool) -> None:
        super().__init__(reason)
        self.reason = reason
        self.may_have_happened = may_have_happened


Kind = Literal[
    "key", "balance", "capacity", "not_found", "conflict", "locked", "unprocessable", "limited", "failing",
    "unreachable",
]  # fmt: skip


PAUSES = frozenset({"key", "limited", "failing", "unreachable"})
"""After these nobody asks again at once."""


class VendorError(Exception):
    """The vendor did not do it. `detail` is its own text, for the log and the admin key only.

    key: it refuses our key · balance: no money there · capacity: nothing free, try another · not_found · conflict: not
    in this state · locked: somebody locked it · unprocessable: it would refuse it again · limited: asked too often ·
    failing: its fault · unreachable: no answer.
    """

    def __init__(
        self, kind: Kind, detail: str = "", *, retry_after: float | None = None, may_have_happened: bool = False
    ) -> None:
        super().__init__(f"{kind}: {detail}" if detail else kind)
        self.kind: Kind = kind
        self.detail = detail
        self.retry_after = retry_after
        """Seconds, where the vendor said so, or where our own pause says so."""
        self.may_have_happened = may_have_happened
        """A start or a create may have been carried out though this came back."""


class Urgency(IntEnum):
    """Who goes first when the line opens again. The figure is how many beats it lets the others go ahead."""

    STOP = 0
    LOOK = 1
    START = 2


@dataclass(frozen=True, slots=True)
class Manners:
    """Seconds."""

    beat: float = 0.5
    """By which the less urgent wait for the more urgent when a pause is over."""
    limited: float = 5.0
    """The first pause after "too often", where the vendor does not say how long; doubled each time."""
    failing: float = 1.0
    """The first pause after a failure of the vendor's; doubled each time."""
    refused: float = 30.0
    """The first pause after a key was refused; doubled each time."""
    longest: float = 900.0
    longest_for_stops: float = 30.0
    """Money runs: a stop is tried again sooner than anything else."""
    limited_for_stops: float = 60.0
    """What a stop waits at most when the vendor was asked too often. The pause of a minute's quota is kept by it; that
    of a day's would cost a day."""


Judge = Callable[[str, Answer], VendorError | None]
"""What an answer to `op` ("look", "create") means. None: it went well."""


def judge_by_status(op: str, answer: Answer) -> VendorError | None:
    """What HTTP itself says. A vendor's client looks closer where its words tell more."""
    kinds: dict[int, Kind] = {401: "key", 402: "balance", 403: "key", 404: "not_found", 409: "conflict"}
    status = answer.status
    if 200 <= status < 300:
        if status == 204 or answer.content() is not None:
            return None
        return VendorError("failing", f"{status}, but its body is not JSON", may_have_happened=True)
    detail = f"{status} {answer.body[:300].decode('utf-8', 'replace')}"
    if status == 429:
        return VendorError("limited", detail, retry_after=seconds_of(answer.headers.get("retry-after")))
    if status >= 500 or status < 400:
        return VendorError("failing", detail, may_have_happened=True)
    return VendorError(kinds.get(status, "unprocessable"), detail)


def seconds_of(retry_after: str | None) -> float | None:
    """Retry-After in seconds, as both vendors send it. A date, or nonsense, is no figure."""
    text = (retry_after or "").strip()
    return float(min(int(text), 86_400)) if text.isascii() and text.isdigit() and len(text) < 10 else None


class Line:
    """The way to one vendor. Every call goes by here, so that whoever keeps asking, the vendor is asked politely."""

    def __init__(
        self,
        transport: Transport,
        *,
        judge: Judge = judge_by_status,
        spent: Callable[[Answer], float] = lambda answer: 0.0,
        heard: Callable[[str, str], None] = lambda op, outcome: None,
        manners: Manners | None = None,
    ) -> None:
        """`spent`: seconds until there is quota again, by an answer that went well; 0: there is. `heard`: each call
        that was made, and how it ended ("ok" or the error's kind), for whoever counts."""
        self._transport = transport
        self._judge = judge
        self._spent = spent
        self._heard = heard
        self._manners = manners or Manners()
        self._loop = asyncio.get_running_loop()
        self._failures = 0
        """In a row: answers that were refusals of the key, failures or "too often"."""
        self._trouble: VendorError | None = None
        self._since = self._opens_at = 0.0
        """When the pause began, and when it is over for all but stops, which keep no long one."""

    def __repr__(self) -> str:
        if self._trouble is None:
            return "<Line open>"
        return f"<Line {self._trouble.kind} x{self._failures}, opens in {self.opens_in(Urgency.LOOK):.0f} s>"

    @property
    def trouble(self) -> VendorError | None:
        """Why it is paused, or was asked in vain the last time. None: the last answer was one."""
        return self._trouble

    def opens_in(self, urgency: Urgency) -> float:
        """Seconds until a call may be made; 0: at once."""
        opens = self._opens_at
        if urgency is Urgency.STOP:
            trouble, manners = self._trouble, self._manners
            said_when = trouble is None or (trouble.kind == "limited" and trouble.retry_after is not None)
            opens = min(opens, self._since + (manners.limited_for_stops if said_when else manners.longest_for_stops))
        if self._opens_at > self._since:
            opens += self._manners.beat * urgency
        return max(0.0, opens - self._loop.time())

    async def ask(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        *,
        urgency: Urgency = Urgency.LOOK,
        patience: float = 0.0,
        within: float = 20.0,
        op: str = "",
    ) -> Answer:
        """The answer to a call that went well. Raises VendorError, without a call when the line does not open within
        `patience` seconds."""
        gives_up = self._loop.time() + patience
        while (wait := self.opens_in(urgency)) > 0:
            if self._loop.time() + wait > gives_up:
                trouble = self._trouble or VendorError("limited", "our own pause")
                raise VendorError(trouble.kind, trouble.detail, retry_after=wait)
            await asyncio.sleep(wait)
        return await self._call(method, path, body, within, op or method.lower())

    async def _call(self, method: str, path: str, body: bytes | None, within: float, op: str) -> Answer:
        try:
            answer = await self._transport(method, path, body, within)
        except Unanswered as error:
            maybe = error.may_have_happened and method != "GET"
            raise self._noted(op, VendorError("unreachable", error.reason, may_have_happened=maybe)) from error
        trouble = self._judge(op, answer)
        if trouble is None or trouble.kind not in PAUSES:
            self._failures, self._trouble, self._since = 0, None, self._loop.time()
            self._opens_at = self._since + self._spent(answer)
        if trouble is not None:
            raise self._noted(op, trouble)
        self._heard(op, "ok")
        return answer

    def _noted(self, op: str, trouble: VendorError) -> VendorError:
        self._heard(op, trouble.kind)
        if trouble.kind in PAUSES:
            self._pause(trouble)
        return trouble

    def distrust(self, why: str) -> VendorError:
        """An answer that looked well is none: the error to raise, and a pause as after any failure."""
        return self._noted("read", VendorError("failing", why, may_have_happened=True))

    def _pause(self, trouble: VendorError) -> None:
        manners, now = self._manners, self._loop.time()
        first = {"key": manners.refused, "limited": manners.limited}.get(trouble.kind, manners.failing)
        seconds = pause(self._failures, first=first, most=manners.longest)
        if trouble.retry_after is not None:
            seconds = max(trouble.retry_after, manners.failing)
        self._failures += 1
        self._trouble, self._since = trouble, now
        self._opens_at = max(self._opens_at, now + seconds)


def micros(dollars: object) -> int | None:
    """Micro-dollars of a figure in dollars from a vendor's JSON, rounded up. None: that is no amount of money."""
    if isinstance(dollars, bool) or not isinstance(dollars, int | Decimal):
        return None
    exact = Decimal(dollars)
    if not exact.is_finite() or exact < 0 or exact > 1_000_000:
        return None
    return int((exact * 1_000_000).to_integral_value("ROUND_CEILING"))
