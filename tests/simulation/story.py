"""What happened, in the order in which it happened, for a person who has to find out why."""

import datetime as dt
from collections.abc import Callable


class Story:
    """Lines with the vendor's time in front. `keep=False` tells nothing and costs nothing."""

    def __init__(self, now: Callable[[], float], *, keep: bool = True) -> None:
        self._now = now
        self._keep = keep
        self.lines: list[str] = []

    def tell(self, who: str, what: str) -> None:
        if self._keep:
            self.lines.append(f"{moment(self._now())}  {who:<10} {what}")

    def __str__(self) -> str:
        return "\n".join(self._folded())

    def _folded(self) -> list[str]:
        """The same line again and again, but for its time, is one."""
        folded: list[str] = []
        again = 0
        for number, line in enumerate(self.lines):
            if number and line[26:] == self.lines[number - 1][26:]:
                again += 1
                continue
            if again:
                folded.append(f"{'':26}… and {again} times more")
            again = 0
            folded.append(line)
        if again:
            folded.append(f"{'':26}… and {again} times more")
        return folded


def moment(at: float) -> str:
    """`at`: Unix seconds. Always 24 characters."""
    return dt.datetime.fromtimestamp(at, dt.UTC).strftime("%a %d %b %H:%M:%S.%f")[:-3]


def span(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.3g} s"
    if seconds < 7200:
        return f"{seconds / 60:.3g} min"
    return f"{seconds / 3600:.3g} h"


def dollars(amount: float) -> str:
    return f"${amount / 1e6:.6f}"
