"""How long one caller may be kept waiting: what the operator set, what stands in front, what the caller said. Pure.

Nobody is held for longer than anything between here and the person would wait: an edge that gives up turns a wait into
an error page that no SDK tries again, while our own 503 makes each of them come back by itself.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

EDGE_HOLD = 85.0
"""Seconds that a silent answer may take behind RunPod's proxy (100 s) or Cloudflare (100 to 120 s)."""
LONGEST_HOLD = 280.0
"""Seconds; Node's fetch gives up at 300 without a byte (measured: 302)."""
LONGEST_WISH = 3600.0
"""Seconds that a caller who names its own wait is believed."""
ANSWER_IN = 5.0
"""Seconds before a caller's own time-out in which it is told to come back, rather than left to give up."""
QUICKEST = 0.5
"""Seconds between two heartbeats, whatever a caller says of its time-out."""

_WAIT = re.compile(r'(?:^|[,;])\s*wait\s*=\s*"?([0-9]{1,9})"?\s*(?=[,;]|$)', re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Patience:
    """How long callers are held, in seconds."""

    grace: float
    """Nothing is committed for this long, so that a fast failure keeps its status."""
    heartbeat: float
    hold_max: float | None
    """For answers that do not stream; None: as long as the caller and the edge in front of it can wait."""
    behind_edge: bool
    """Whether an edge that cuts silent answers is known to stand in front."""
    rejects: bool = False
    """COLD_START=reject: nobody waits for a start."""

    def of(self, headers: Mapping[str, str], *, streams: bool = False) -> float | None:
        """Seconds that this caller may be kept waiting; None for a stream, which is held by heartbeats for as long as
        it takes, unless it said itself how long it waits (`Prefer: wait=N`, RFC 7240)."""
        return self._of(headers, wish_in(headers), self.hold_max, streams=streams)

    def elsewhere(self, headers: Mapping[str, str], *, streams: bool = False) -> float | None:
        """Seconds in which the answer of somebody else, who is asked in our engine's place, must have come, or begun
        where it streams: those for which this caller can be held. Where nobody may be held at all (HOLD_MAX=0,
        `Prefer: wait=0`) that says nothing of an answer that is on its way."""
        return self._of(headers, wish_in(headers) or None, self.hold_max or None, streams=streams)

    def _of(
        self, headers: Mapping[str, str], wish: float | None, hold_max: float | None, *, streams: bool
    ) -> float | None:
        if streams:
            return wish
        if hold_max is not None:
            hold = hold_max
        elif self.behind_edge or "CF-Ray" in headers:
            hold = EDGE_HOLD
        else:
            hold = LONGEST_HOLD if wish is None else LONGEST_WISH
        if wish is not None:
            hold = min(hold, wish)
        gives_up = time_out_in(headers)
        return hold if gives_up is None else min(hold, max(1.0, gives_up - ANSWER_IN))

    def pulse(self, headers: Mapping[str, str]) -> tuple[float, float]:
        """Seconds until a held stream is opened, and between two heartbeats: each twice within what its caller takes
        for silence, so that a short time-out costs nobody a stream."""
        gives_up = time_out_in(headers)
        if gives_up is None:
            return self.grace, self.heartbeat
        most = max(QUICKEST, gives_up / 2)
        return min(self.grace, most), min(self.heartbeat, most)


def time_out_in(headers: Mapping[str, str]) -> float | None:
    """Seconds of silence after which the caller gives up, as OpenAI's and Anthropic's SDKs tell."""
    said = headers.get("x-stainless-read-timeout") or headers.get("x-stainless-timeout")
    try:
        return float(said) if said else None
    except ValueError:
        return None


def wish_in(headers: Mapping[str, str]) -> float | None:
    """The N of `Prefer: wait=N`, where it was said; 0 is "at once or not at all"."""
    said = headers.get("Prefer")
    if said is None or (found := _WAIT.search(said)) is None:
        return None
    return min(float(found[1]), LONGEST_WISH)
