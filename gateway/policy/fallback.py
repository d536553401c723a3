"""Whether somebody else may answer a request, whether it may still be asked, and when the GPU is woken all the same.

The fallback is an API that is paid per token. It is asked in the cases that the operator named (`Rules.when`), by keys
that may, for requests that do not forbid it. One that fails is left alone for a while that doubles (`Circuit`): then
one request tries it again, and the others wait for the GPU meanwhile.

`WakeAfter` counts who came: with WAKE_AFTER the GPU is woken by so many requests within a span, not by the first. What
it may cost is `purse.py`'s business.
"""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from gateway.policy.backoff import pause

When = Literal["waking", "no_capacity", "budget", "start_failed", "queue_full"]
WAKING: Final = "waking"
"""Nothing is ready, and it is not known yet whether it will be."""
CASES: Final = ("no_capacity", "budget", "start_failed", "queue_full")
"""What FALLBACK_ON may name besides."""

CASE_OF: Final[Mapping[str, str]] = {
    "queue_full": "queue_full",
    "start_failed": "start_failed",
    "start_timeout": "start_failed",
    "no_capacity": "no_capacity",
    "insufficient_quota": "budget",
}
"""By the code of the refusal that the caller would get otherwise. A key's own month is spent before a request gets as
far as that, so `insufficient_quota` is the gateway's budget here."""

Objection = Literal["", "forbidden", "key", "route", "request", "crowded", "paused", "spend", "volume"]
OBJECTIONS: Final = ("forbidden", "key", "route", "request", "crowded", "paused", "spend", "volume")
"""Why the fallback was not asked: the request's header, its key, its route, what stands in it; too much is on its way
there already; it failed just now; its month's money is spent; the volume that keeps what was spent does not answer."""


@dataclass(frozen=True, slots=True)
class Rules:
    """What the operator allowed."""

    when: frozenset[str]
    """`waking`, and of CASES."""
    routes: frozenset[str] = frozenset({"/v1/chat/completions", "/v1/completions"})
    """Those that mean the same with another model. Vectors of another model (embeddings) cannot be compared with ours,
    nor its scores (rerank); `/v1/responses` goes on from what was said earlier, which the fallback never saw; and
    `/v1/messages` is not OpenAI's."""

    def objection(self, *, route: str, forbids: bool, key_may: bool) -> Objection:
        """Why this request stays here; empty when it need not. `forbids`: its own header says so."""
        if forbids:
            return "forbidden"
        if not key_may:
            return "key"
        return "" if route in self.routes else "route"


class Circuit:
    """Whether the fallback is asked now. After a failure it is not, for `first` seconds and twice as long each time;
    then by one request alone, until that one has an answer."""

    def __init__(self, *, first: float = 2, most: float = 300) -> None:
        self._first, self._most = first, most
        self._failures = 0
        self._again_at = 0.0
        self._is_tried = False

    def __repr__(self) -> str:
        if not self._failures:
            return "<Circuit closed>"
        return f"<Circuit open after {self._failures} failures, next at {self._again_at:.1f}>"

    @property
    def is_closed(self) -> bool:
        return not self._failures

    def may(self, now: float) -> bool:
        """Whether one may ask now. True counts as asking: tell what came of it."""
        if not self._failures:
            return True
        if self._is_tried or now < self._again_at:
            return False
        self._is_tried = True
        return True

    def failed(self, now: float, *, at_least: float = 0) -> None:
        """`at_least`: seconds that it asked to be left alone for. Those who asked before it failed count once."""
        if self._failures and not self._is_tried and now < self._again_at:
            return
        wait = pause(self._failures, first=self._first, most=self._most)
        self._again_at = now + min(self._most, max(wait, at_least))
        self._failures += 1
        self._is_tried = False

    def worked(self) -> None:
        self._failures = 0
        self._is_tried = False

    def left(self) -> None:
        """Nothing came of it that says anything of the fallback: its caller went, or its request was at fault."""
        self._is_tried = False


@dataclass(frozen=True, slots=True)
class Often:
    """`20/10m`: so many within a span. Seconds."""

    count: int
    span: float


class WakeAfter:
    """Wakes the GPU once so many requests have come within a span; those that came before are answered elsewhere."""

    def __init__(self, often: Often) -> None:
        self._span = often.span
        self._came: deque[float] = deque(maxlen=often.count)

    def __repr__(self) -> str:
        return f"<WakeAfter {len(self._came)} of {self._came.maxlen} in {self._span:g}>"

    def came(self, now: float) -> bool:
        """One more came. True: enough to wake it."""
        came = self._came
        came.append(now)
        while came[0] <= now - self._span:
            came.popleft()
        return len(came) == came.maxlen
