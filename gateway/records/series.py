"""Counters, distributions and readings, and the text in which Prometheus reads them.

prometheus_client's own take 5 ms of CPU to write 64 KiB and 2 µs to observe one value, on the event loop, where every
stream waits meanwhile (docs/adr/0010-metrics-text.md, bench/metrics_scrape.py). Here a count is an int in a slot and
its line's beginning is written once. tests/records/test_series.py holds the text to prometheus_client's parser, and
tests/deploy/ to promtool and to a real Prometheus.

All of it belongs to the event loop's thread: nothing is locked.
"""

import math
import zlib
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from typing import Generic, Literal, TypeVar

Labels = tuple[str, ...]
Sample = tuple[Labels, float]
"""The words of one series' labels, and its value."""
Kind = Literal["counter", "gauge", "histogram", "summary"]

OTHER = "other"
"""The label of what has no series of its own."""
LONGEST_LABEL = 80
"""Characters. A longer one is cut, and told apart from its like by a checksum."""
_WHOLE = 1e15
"""From here on a whole number is shorter with its exponent."""
FOLDED = 8
"""Series beyond a family's own number that may hold what was folded, each time a label gives way."""


class Count:
    """One counter: only ever grows."""

    __slots__ = ("_head", "value")

    def __init__(self, name: str, labels: str) -> None:
        self._head = f"{name}{braced(labels)} "
        self.value: float = 0

    def inc(self, amount: float = 1) -> None:
        self.value += amount

    def lines(self) -> Iterator[str]:
        yield self._head + number(self.value)


class Total:
    """How many, and how much in all: a summary without quantiles."""

    __slots__ = ("_heads", "count", "sum")

    def __init__(self, name: str, labels: str) -> None:
        self._heads = (f"{name}_count{braced(labels)} ", f"{name}_sum{braced(labels)} ")
        self.count = 0
        self.sum = 0.0

    def observe(self, value: float) -> None:
        self.count += 1
        self.sum += value

    def lines(self) -> Iterator[str]:
        yield self._heads[0] + number(self.count)
        yield self._heads[1] + number(self.sum)


class Distribution:
    """One histogram: how many were at most as large as each bound."""

    __slots__ = ("_bounds", "_buckets", "_heads", "_total")

    def __init__(self, name: str, labels: str, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self._buckets = [0] * (len(bounds) + 1)
        """Not added up: each value is in one of them. Adding is the scrape's work."""
        comma = "," if labels else ""
        self._heads = [f'{name}_bucket{{{labels}{comma}le="{as_label(bound)}"}} ' for bound in (*bounds, math.inf)]
        self._total = Total(name, labels)

    def observe(self, value: float) -> None:
        self._buckets[bisect_left(self._bounds, value)] += 1
        self._total.count += 1
        self._total.sum += value

    def lines(self) -> Iterator[str]:
        so_far = 0
        for head, count in zip(self._heads, self._buckets, strict=True):
            so_far += count
            yield head + number(so_far)
        yield from self._total.lines()


class Described:
    """What has a name and a sentence on the page. `labels` are names; the words of a series are their values."""

    def __init__(self, name: str, kind: Kind, meaning: str, labels: Labels = ()) -> None:
        self.name = name
        self.kind = kind
        self.meaning = meaning
        self.labels = labels
        said = meaning.replace("\\", "\\\\").replace("\n", "\\n")
        self._top = f"# HELP {name} {said}\n# TYPE {name} {kind}\n"

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}{list(self.labels)}>"

    def lines(self) -> Iterable[str]:
        raise NotImplementedError

    def text(self) -> str:
        """The family as Prometheus reads it; nothing where there is no series yet."""
        body = "\n".join(self.lines())
        return f"{self._top}{body}\n" if body else ""


S = TypeVar("S", Count, Total, Distribution)


class Family(Described, Generic[S]):
    """The series of one name, made as their labels are first met, and no more than there may be.

    Where there are `folds`, `at_most` series have all their labels. What comes later gives up those labels in turn,
    each to `other`, until it is one of those that are there or there is room. The others must be of closed sets.
    """

    def __init__(
        self,
        name: str,
        kind: Kind,
        meaning: str,
        labels: Labels,
        make: Callable[[str, str], S],
        *,
        at_most: int = 64,
        folds: Labels = (),
    ) -> None:
        super().__init__(name, kind, meaning, labels)
        self._make: Callable[[str, str], S] = make
        self._at_most = at_most
        self._folds = [labels.index(label) for label in folds]
        self._series: dict[Labels, S] = {}

    def of(self, *labels: str) -> S:
        """The one with these labels, or the one that stands in for it."""
        return self._series.get(labels) or self._find(labels)

    def _find(self, labels: Labels) -> S:
        *steps, last = self._folded(labels)
        room = self._at_most
        for folded in steps:
            if folded in self._series or len(self._series) < room:
                return self._get(folded)
            room += FOLDED
        return self._get(last)

    def _folded(self, labels: Labels) -> Iterator[Labels]:
        words = [short(word) for word in labels]
        yield tuple(words)
        for index in self._folds:
            words[index] = OTHER
            yield tuple(words)

    def _get(self, labels: Labels) -> S:
        if labels not in self._series:
            self._series[labels] = self._make(self.name, pairs(self.labels, labels))
        return self._series[labels]

    def lines(self) -> Iterator[str]:
        for series in self._series.values():
            yield from series.lines()


class Reading(Described):
    """Series whose values somebody else knows: asked for at each scrape."""

    def __init__(
        self,
        name: str,
        kind: Kind,
        meaning: str,
        labels: Labels,
        read: Callable[[], Iterable[Sample]],
    ) -> None:
        super().__init__(name, kind, meaning, labels)
        self._read = read
        self._heads: dict[Labels, str] = {}

    def lines(self) -> Iterator[str]:
        for labels, value in self._read():
            head = self._heads.get(labels)
            if head is None:
                words = tuple(short(word) for word in labels)
                head = self._heads[labels] = f"{self.name}{braced(pairs(self.labels, words))} "
            yield head + number(value)


def counter(name: str, meaning: str, labels: Labels = (), *, at_most: int = 64, folds: Labels = ()) -> Family[Count]:
    return Family(name, "counter", meaning, labels, Count, at_most=at_most, folds=folds)


def summary(name: str, meaning: str, labels: Labels = (), *, at_most: int = 64, folds: Labels = ()) -> Family[Total]:
    return Family(name, "summary", meaning, labels, Total, at_most=at_most, folds=folds)


def histogram(
    name: str, meaning: str, labels: Labels, bounds: tuple[float, ...], *, at_most: int = 8, folds: Labels = ()
) -> Family[Distribution]:
    def make(name: str, labels: str) -> Distribution:
        return Distribution(name, labels, bounds)

    return Family(name, "histogram", meaning, labels, make, at_most=at_most, folds=folds)


def number(value: float) -> str:
    """As Go reads it, and no longer than it must be: there are a thousand of them on a full page."""
    if isinstance(value, int):
        return str(int(value))  # a bool says 1
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return str(int(value)) if value.is_integer() and abs(value) < _WHOLE else repr(value)


def as_label(bound: float) -> str:
    """As every client of Python's writes `le`: another spelling would be another series."""
    return "+Inf" if math.isinf(bound) else repr(float(bound))


def short(word: str) -> str:
    if len(word) <= LONGEST_LABEL:
        return word
    return f"{word[: LONGEST_LABEL - 9]}…{zlib.crc32(word.encode('utf-8', 'replace')):08x}"


def pairs(names: Labels, words: Labels) -> str:
    return ",".join(f'{name}="{escaped(word)}"' for name, word in zip(names, words, strict=True))


def braced(labels: str) -> str:
    return f"{{{labels}}}" if labels else ""


def escaped(word: str) -> str:
    return word.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
