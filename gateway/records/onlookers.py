"""How often pages are asked for on PORT (/ping, /health, /metrics, /v1/models), which have no lines of their own in the
request log: one line for all of them every ten minutes, and one at the end.

It is written where the platform counts every request at its edge (RunPod's load balancer, Modal). There a monitor that
asks for a page keeps a worker, and has it paid for, although no engine wakes; nothing else would show it.
`wakegate doctor` reads the lines back. Without I/O.
"""

import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

EVERY = 600.0
"""Seconds. What was counted since then is lost with a worker that is killed."""

_LINE = re.compile(r"pages asked for on PORT in ([0-9]{1,9}) s: (.+)")
_ONE = re.compile(r"(/[!-~]*) ([0-9]{1,12})")


@dataclass(frozen=True, slots=True)
class Tally:
    """One line's content."""

    seconds: float
    counts: Mapping[str, int]
    """By page: from the table of routes, never a caller's own path."""

    def __str__(self) -> str:
        counts = ", ".join(f"{page} {count}" for page, count in sorted(self.counts.items()))
        return f"pages asked for on PORT in {self.seconds:.0f} s: {counts}"


def parse(message: str) -> Tally | None:
    """What `str` of a tally wrote; None for another message."""
    match = _LINE.fullmatch(message)
    ones = [_ONE.fullmatch(part) for part in match[2].split(", ")] if match else []
    if match is None or not all(ones):
        return None
    return Tally(float(match[1]), {one[1]: int(one[2]) for one in ones if one})


class Onlookers:
    """Counts, and says a tally when it is time. Times are the loop's."""

    def __init__(self, say: Callable[[str], None], *, now: float) -> None:
        self._say = say
        self._since = now
        self._counts: Counter[str] = Counter()

    def __repr__(self) -> str:
        return f"<Onlookers {dict(self._counts)}>"

    def seen(self, page: str) -> None:
        self._counts[page] += 1

    def beat(self, now: float) -> None:
        if now - self._since >= EVERY:
            self.tell(now)

    def tell(self, now: float) -> None:
        """Say what was counted, if anything was, and begin anew."""
        if self._counts:
            self._say(str(Tally(now - self._since, self._counts)))
        self._since, self._counts = now, Counter()
