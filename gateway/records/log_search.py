"""Finding lines again: by who asked, what came of it, when and in which boot; the last of them, or all in order.

What is asked stands in `Wanted`; which boots, in `choose`. `last` reads from the end and stops when it has enough;
`all_of` goes through everything in order of time, with as many files open as there were gateways at once.
"""

import heapq
import json
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from gateway.kinds import parse_duration
from gateway.records.lines import cut, iso, parse_line
from gateway.records.log_files import BootFiles, Segment, as_it_is, backwards, forwards

OUTCOMES = ("answered", "refused", "left", "failed")
CLOCK_ERROR = 120.0
"""Seconds by which a volume's clock and ours may differ, where one stands for the other."""
_AT = re.compile(
    rb'(?:\{"at": ?")?([0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{3}Z)(?: |"[,}]|$)', re.ASCII
)
_PLAIN = re.compile(r"[A-Za-z0-9_./:@+-]+")


@dataclass(frozen=True, slots=True)
class Found:
    """One line."""

    at: str
    """Its time, or that of the line that it belongs to."""
    boot: str
    raw: bytes

    @property
    def text(self) -> str:
        return shown(self.raw)

    def as_json(self) -> str:
        """One object, whichever form the line has in the file; a line that is not one of ours is a `message`."""
        text = self.raw.decode("utf-8", "backslashreplace")
        facts = parse_line(text) or {"at": self.at, "kind": "other", "message": text}
        return json.dumps({**facts, "boot": self.boot}, separators=(",", ":"))


def shown(raw: bytes) -> str:
    """For a terminal: whatever it holds, it stays one line and moves no cursor."""
    text = raw.decode("utf-8", "backslashreplace").rstrip("\r")
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\t" else _escaped(c) for c in text)


def _escaped(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


# --- What is wanted ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which lines. Empty and None: whichever."""

    id: str = ""
    """Ours or the caller's."""
    key: str = ""
    outcome: str = ""
    route: str = ""
    """A path, or how it ends: `chat/completions`."""
    model: str = ""
    since: float | None = None
    """Unix time."""

    @property
    def only_requests(self) -> bool:
        """Whether a line that is not a request's cannot be meant."""
        return bool(self.key or self.outcome or self.route or self.model)

    @property
    def words(self) -> list[bytes]:
        """What a line that is wanted must hold, as far as it stands in lines as it was asked."""
        asked = (self.id, self.key, self.outcome, cut(self.model))
        return [text.encode() for text in asked if text and _PLAIN.fullmatch(text)]

    @property
    def rarest(self) -> bytes:
        """The one of them by which most can be passed over unread."""
        return max(self.words, key=len, default=b"")

    def test(self) -> Callable[[str, bytes], bool]:
        """(time, line) → whether it is wanted. What must stand in the line is looked for before it is parsed."""
        since = iso(self.since) if self.since is not None else ""
        words = self.words
        if not self.id and not self.only_requests:
            return lambda at, raw: at >= since

        def test(at: str, raw: bytes) -> bool:
            return at >= since and all(word in raw for word in words) and self._is_meant(raw)

        return test

    def _is_meant(self, raw: bytes) -> bool:
        facts = parse_line(raw.decode("utf-8", "backslashreplace")) or {}
        if facts.get("kind") != "request":
            # What else was said of that request: its id stands in the sentence.
            return not self.only_requests and self.id in str(facts.get("message") or raw.decode("utf-8", "replace"))
        return (
            (not self.id or self.id in (facts.get("request"), facts.get("caller_id")))
            and (not self.key or facts.get("key") == self.key)
            and (not self.outcome or facts.get("outcome") == self.outcome)
            and (not self.model or facts.get("model") == cut(self.model))
            and (not self.route or _ends(str(facts.get("route", "")), self.route))
        )


def _ends(route: str, wanted: str) -> bool:
    return route == wanted or route.endswith("/" + wanted.strip("/"))


def parse_since(text: str, now: float) -> float:
    """Unix time from `10m` (before now) or an ISO 8601 time, in UTC unless it says otherwise. Raises ValueError."""
    try:
        return now - parse_duration(text)
    except ValueError:
        at = datetime.fromisoformat(text)
        return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()


def choose(boots: list[BootFiles], which: str) -> list[BootFiles]:
    """`latest`, `all`, a number (1 is the newest), or how a stamp begins. None found: empty."""
    if which == "all":
        return boots
    if which == "latest":
        return boots[-1:]
    if re.fullmatch(r"[0-9]{1,6}", which):
        number = int(which)
        return boots[-number : len(boots) - number + 1] if 0 < number <= len(boots) else []
    return [boot for boot in boots if boot.stamp.startswith(which)]


# --- Reading ----------------------------------------------------------------------------------------------------------


def last(boots: Iterable[BootFiles], wanted: Wanted, count: int) -> list[Found]:
    """The last `count` lines that are wanted, in order of time. Older boots, and older parts, are read only as far as
    they are needed."""
    found: list[Found] = []
    for boot in sorted(boots, key=lambda boot: boot.changed, reverse=True):
        if len(found) == count and iso(boot.changed + CLOCK_ERROR) < found[0].at:
            break
        # Merged, not sorted: a clock that went back must not let one boot's lines change places.
        found = list(heapq.merge(_last_of(boot, wanted, count), found, key=lambda line: line.at))[-count:]
    return found


def _last_of(boot: BootFiles, wanted: Wanted, count: int) -> list[Found]:
    found: deque[Found] = deque()
    test = wanted.test()
    for segment in reversed(boot.segments):
        if len(found) >= count or _is_too_old(segment, wanted):
            break
        missing = count - len(found)
        segment = as_it_is(segment)
        if segment.is_compressed:
            kept = deque((line for line in _timed(boot, segment, wanted) if test(line.at, line.raw)), maxlen=missing)
            found.extendleft(reversed(kept))
            continue
        for line in _timed_backwards(boot, segment, wanted):
            if test(line.at, line.raw):
                found.appendleft(line)
                if len(found) >= count:
                    break
    return list(found)


def all_of(boots: Iterable[BootFiles], wanted: Wanted) -> Iterator[Found]:
    """Every line that is wanted, in order of time over all boots."""
    test = wanted.test()
    for line in _merged(sorted(boots, key=lambda boot: boot.began), wanted):
        if test(line.at, line.raw):
            yield line


def _merged(boots: list[BootFiles], wanted: Wanted) -> Iterator[Found]:
    """A boot's log is opened when the others have come to its beginning: hundreds lie on a volume that many use."""
    waiting = deque(boots)
    at_work: list[tuple[str, str, Found, Iterator[Found]]] = []
    while waiting or at_work:
        while waiting and (not at_work or waiting[0].began <= at_work[0][0]):
            boot = waiting.popleft()
            _push(at_work, boot.stamp, _lines_of(boot, wanted))
        if at_work:
            _, stamp, line, lines = heapq.heappop(at_work)
            yield line
            _push(at_work, stamp, lines, line.at)


def _push(
    at_work: list[tuple[str, str, Found, Iterator[Found]]], stamp: str, lines: Iterator[Found], floor: str = ""
) -> None:
    """`floor`: a clock that went back must not let one boot's lines change places."""
    line = next(lines, None)
    if line is not None:
        heapq.heappush(at_work, (max(line.at, floor), stamp, line, lines))


def _lines_of(boot: BootFiles, wanted: Wanted) -> Iterator[Found]:
    for segment in boot.segments:
        if not _is_too_old(segment, wanted):
            yield from _timed(boot, as_it_is(segment), wanted)


def _is_too_old(segment: Segment, wanted: Wanted) -> bool:
    return wanted.since is not None and segment.until + CLOCK_ERROR < wanted.since


def time_of(raw: bytes) -> str:
    """What stands at its beginning; empty when it is not a line of ours."""
    match = _AT.match(raw)
    return match[1].decode() if match else ""


def _timed(boot: BootFiles, segment: Segment, wanted: Wanted) -> Iterator[Found]:
    """A line without a time belongs to the one before it."""
    at = boot.began
    for raw in forwards(segment, holding=wanted.rarest):
        at = time_of(raw) or at
        yield Found(at, boot.stamp, raw)


def _timed_backwards(boot: BootFiles, segment: Segment, wanted: Wanted) -> Iterator[Found]:
    belonging: list[bytes] = []
    for raw in backwards(segment, holding=wanted.rarest):
        at = time_of(raw)
        if not at and len(belonging) < 1000:
            belonging.append(raw)
            continue
        at = at or boot.began
        yield from (Found(at, boot.stamp, other) for other in belonging)
        belonging.clear()
        yield Found(at, boot.stamp, raw)
    yield from (Found(boot.began, boot.stamp, other) for other in belonging)
