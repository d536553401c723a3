"""WARM_SCHEDULE: the spans of time in which the engine is kept up without being asked. Pure: zones and the time are
handed in.

    Mon-Fri 08:30-18:00 Europe/Berlin       days, hours, a zone
    Sat,Sun 22:00-02:00                     to the next day; UTC where no zone is named
    07:00-12:00 13:00-24:00 Asia/Tokyo      every day, with a break

Hours are those of the clocks on the wall, also where these are changed. What begins in an hour that is skipped begins
when it is over, and what ends in it has ended then. Of an hour that comes twice the first is meant, for begin and end
alike: no span comes twice in one night. A span over such a night is an hour shorter or longer than on others.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import date, datetime, timedelta, tzinfo
from typing import Final

DAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_LONG: Final = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
EVERY_DAY: Final = frozenset(range(7))
_HOURS: Final = re.compile(r"(\d{1,2}):(\d\d)-(\d{1,2}):(\d\d)")
_DAY: Final = 24 * 60
AHEAD: Final = 8
"""Days that are looked ahead: a span that comes once a week is among them, whatever the clocks do."""

ZoneOf = Callable[[str], tzinfo]
"""The zone of that name, as IANA spells it. Raises LookupError or ValueError."""


@dataclass(frozen=True, slots=True)
class Span:
    """Unix seconds; `end` is the first moment that is out of it."""

    begin: float
    end: float

    def holds(self, now: float) -> bool:
        return self.begin <= now < self.end


@dataclass(frozen=True, slots=True)
class Rule:
    """One line of it. `hours` are minutes since midnight: (begin, end), the end on the next day where it is not
    later."""

    days: frozenset[int]
    hours: tuple[tuple[int, int], ...]
    zone: tzinfo

    def spans(self, first: date, count: int) -> Iterator[Span]:
        """Those that begin on one of so many days."""
        for number in range(count):
            day = first + timedelta(days=number)
            if day.weekday() not in self.days:
                continue
            for begin, end in self.hours:
                begins = _moment(day, begin, self.zone)
                ends = _moment(day, end if end > begin else end + _DAY, self.zone)
                if ends > begins:
                    yield Span(begins, ends)


class Schedule:
    """All lines together."""

    def __init__(self, rules: Iterable[Rule] = ()) -> None:
        self._rules = tuple(rules)

    @classmethod
    def of(cls, texts: Iterable[str], zone_of: ZoneOf) -> "Schedule":
        """Raises ValueError: one sentence that quotes what cannot be read."""
        return cls(_rule(text, zone_of) for text in texts)

    def __bool__(self) -> bool:
        return bool(self._rules)

    def __repr__(self) -> str:
        return f"<Schedule of {len(self._rules)} lines>"

    def span(self, now: float) -> Span | None:
        """The span that it is now, or else the next one. None: none comes. Spans that meet or overlap are one; one that
        has no end reaches a week ahead."""
        return next((span for span in self._joined(now) if now < span.end), None)

    def _joined(self, now: float) -> list[Span]:
        found: list[Span] = []
        for rule in self._rules:
            yesterday = datetime.fromtimestamp(now, rule.zone).date() - timedelta(days=1)
            found += rule.spans(yesterday, AHEAD + 2)
        joined: list[Span] = []
        for span in sorted(found, key=lambda each: each.begin):
            if joined and span.begin <= joined[-1].end:
                joined[-1] = Span(joined[-1].begin, max(joined[-1].end, span.end))
            else:
                joined.append(span)
        return joined


# --- Local time -------------------------------------------------------------------------------------------------------


def _moment(day: date, minutes: int, zone: tzinfo) -> float:
    """When the clocks there show it first; where they never do, the moment at which they skip it."""
    shown = datetime.combine(day, datetime.min.time(), zone) + timedelta(minutes=minutes)
    first, second = shown.replace(fold=0).timestamp(), shown.replace(fold=1).timestamp()
    return first if first <= second else _skip(second, first, zone)


def _skip(before: float, after: float, zone: tzinfo) -> float:
    """The second in between at which the clocks are put forward."""

    def offset(moment: float) -> timedelta | None:
        return datetime.fromtimestamp(moment, zone).utcoffset()

    usual = offset(before)
    while after - before > 1:
        middle = (before + after) // 2
        before, after = (middle, after) if offset(middle) == usual else (before, middle)
    return after


# --- What is written --------------------------------------------------------------------------------------------------


def _rule(text: str, zone_of: ZoneOf) -> Rule:
    days: set[int] = set()
    hours: list[tuple[int, int]] = []
    zones: list[str] = []
    for word in text.replace("\N{EN DASH}", "-").split():
        if (found := _HOURS.fullmatch(word)) is not None:
            hours.append(_hours(text, found))
        elif (meant := _days(word.lower())) is not None:
            days |= meant
        else:
            zones.append(word)
    if len(zones) > 1:
        raise ValueError(
            f"{text!r}: {zones[0]} is neither a day, such as Mon or Mon-Fri, nor hours, such as 08:30-18:00."
        )
    if not hours:
        raise ValueError(f"{text!r}: hours are missing, such as 08:30-18:00.")
    return Rule(frozenset(days) or EVERY_DAY, tuple(hours), _zone(text, zones[0] if zones else "UTC", zone_of))


def _hours(text: str, found: re.Match[str]) -> tuple[int, int]:
    hour, minute, last_hour, last_minute = map(int, found.groups())
    begin, end = hour * 60 + minute, last_hour * 60 + last_minute
    if minute > 59 or last_minute > 59 or begin >= _DAY or end > _DAY:
        raise ValueError(f"{text!r}: hours go from 00:00 to 24:00.")
    if begin == end:
        raise ValueError(f"{text!r}: it ends when it begins; a whole day is 00:00-24:00.")
    return begin, end


def _days(word: str) -> frozenset[int] | None:
    """`mon`, `mon-fri`, `sat-mon`, `mon,wed,fri-sun`, `daily`. None: it is something else."""
    if word == "daily":
        return EVERY_DAY
    days: set[int] = set()
    for part in word.split(","):
        first, _, last = part.partition("-")
        begin, end = _day(first), _day(last or first)
        if begin is None or end is None:
            return None
        days |= {day % 7 for day in range(begin, end + 1 if end >= begin else end + 8)}
    return frozenset(days)


def _day(word: str) -> int | None:
    for names in (DAYS, _LONG):
        if word in names:
            return names.index(word)
    return None


def _zone(text: str, name: str, zone_of: ZoneOf) -> tzinfo:
    try:
        return zone_of(name)
    except (LookupError, ValueError, OSError) as error:
        raise ValueError(
            f"{text!r}: there is no time zone {name}; the names are those of IANA, such as Europe/Berlin."
        ) from error
