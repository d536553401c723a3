"""A key and what it may. Pure: the hash, never the key itself, and the question "may it do this now?".

Keys come from API_KEY, ADMIN_KEY, the first key, or API_KEYS_FILE (`web/keyfile.py` reads and writes that). When one
ends is a moment in ISO 8601, read here.
"""

import hashlib
import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta


@dataclass(frozen=True, slots=True)
class Key:
    """One caller's key: its name for logs, its hash to compare with, and its limits (None: no limit)."""

    name: str
    digest: bytes
    """SHA-256 of the key's bytes. Keys are long random strings, so that a slow hash would protect nothing more."""
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    max_concurrent: int | None = None
    monthly_spend: int | None = None
    """Micro-dollars in a calendar month, UTC."""
    fallback: bool = True
    """Whether its requests may go to a fallback that is paid per token."""
    expires: float | None = None
    """Unix time from which it is wrong."""
    models: frozenset[str] = frozenset()
    """Models that it may ask for; empty: all."""
    routes: frozenset[str] = frozenset()
    """Paths that it may use; empty: all."""

    @classmethod
    def of(cls, name: str, secret: str) -> "Key":
        """A key without limits, from its text."""
        return cls(name, digest_of(secret.encode("utf-8", "surrogateescape")))

    def has_expired(self, now: float) -> bool:
        """`now` is Unix time."""
        return self.expires is not None and now >= self.expires

    def may_use(self, route: str) -> bool:
        return not self.routes or route in self.routes

    def may_ask_for(self, model: str | None) -> bool:
        """Whether it may name this model. A request that names none gets the usual one, which must be listed, too."""
        return not self.models or model in self.models


def digest_of(secret: bytes) -> bytes:
    return hashlib.sha256(secret).digest()


# --- When a key ends --------------------------------------------------------------------------------------------------

MOMENT_ALLOWED = "ISO 8601, such as 2027-01-31 (to the end of that day, UTC) or 2027-01-31T12:00+01:00"
_EPOCH = date(1970, 1, 1).toordinal()
_DAY = 86_400
_EARLIEST, _LATEST = (1 - _EPOCH) * _DAY, (date.max.toordinal() + 1 - _EPOCH) * _DAY - 1
"""What can be written down. 9999-12-31 is how many people spell "never"."""

_WHEN = re.compile(r"(?P<date>[0-9W-]+?)(?:[T ](?P<time>[0-9:.,]+) ?(?P<zone>Z|[+-][0-9:]+)?)?")
_DAYS = re.compile(
    r"(?P<year>\d{4})(?:-(?P<month>\d\d)|(?P<dash>-?)(?:(?P<md>\d\d(?P<dash2>-?)\d\d)|(?P<nth>\d{3})|W(?P<week>\d\d)"
    r"(?:-?(?P<weekday>[1-7]))?))?"
)
_TIME = re.compile(r"(\d\d)(?:(:?)(\d\d)(?:\2(\d\d))?)?(?:[.,](\d+))?")
_ZONE = re.compile(r"([+-])(\d\d)(?::?(\d\d))?")


def parse_moment(text: str) -> float:
    """Unix time, to the millisecond, from a date or a date and a time in any form of ISO 8601. Raises ValueError.

    Without an offset it is UTC: where the gateway runs must not change when a key ends. A day, week, month or year
    alone means its end, as on a ticket.
    """
    found = _WHEN.fullmatch(text.strip().upper().replace("\N{MINUS SIGN}", "-"))
    if found is None:
        raise ValueError
    first, after = _days(found["date"])
    if found["time"] is None:
        moment = float(min(after * _DAY, _LATEST))
    elif after - first != 1:
        raise ValueError("a time of a day that is not named")
    else:
        moment = first * _DAY + _seconds(found["time"]) - _offset(found["zone"] or "Z")
    if not _EARLIEST <= moment <= _LATEST:
        raise ValueError("further away than can be written down")
    return round(moment, 3)


def spell_moment(moment: float) -> str:
    """`2027-01-31T12:00:00Z`: as parse_moment reads it, to the millisecond."""
    when = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=round(moment * 1000))
    return when.isoformat(timespec="milliseconds" if when.microsecond else "seconds").replace("+00:00", "Z")


def _days(text: str) -> tuple[int, int]:
    """The first day that is meant and the one after the last, counted from 1970. 2027-01, 2027-W05, 2027-031 too."""
    found = _DAYS.fullmatch(text)
    if found is None or (found["md"] and found["dash"] != found["dash2"]):
        raise ValueError
    year = int(found["year"])
    if found["week"]:
        first = date.fromisocalendar(year, int(found["week"]), int(found["weekday"] or 1)).toordinal()
        length = 1 if found["weekday"] else 7
    elif found["nth"]:
        first, length = date(year, 1, 1).toordinal() + int(found["nth"]) - 1, 1
        if date.fromordinal(first).year != year:
            raise ValueError
    elif found["md"]:
        first, length = date(year, int(found["md"][:2]), int(found["md"][-2:])).toordinal(), 1
    elif found["month"]:
        month = int(found["month"])
        first = date(year, month, 1).toordinal()
        length = 31 if month == 12 else date(year, month + 1, 1).toordinal() - first
    else:
        first = date(year, 1, 1).toordinal()
        length = date(year, 12, 31).toordinal() - first + 1
    return first - _EPOCH, first + length - _EPOCH


def _seconds(text: str) -> float:
    """Of a day: 24:00 is its end, and a leap second the next one. The last part may have a fraction."""
    found = _TIME.fullmatch(text)
    if found is None:
        raise ValueError
    hour, minute, second = int(found[1]), int(found[3] or 0), int(found[4] or 0)
    unit = 1 if found[4] else 60 if found[3] else 3600
    digits = (found[5] or "0")[:12]
    seconds = hour * 3600 + minute * 60 + second + unit * float(f"0.{digits}")
    if minute > 59 or second > 60 or seconds > _DAY:
        raise ValueError
    return seconds


def _offset(text: str) -> int:
    if text == "Z":
        return 0
    found = _ZONE.fullmatch(text)
    if found is None or int(found[2]) > 23 or int(found[3] or 0) > 59:
        raise ValueError
    return (-1 if found[1] == "-" else 1) * (int(found[2]) * 3600 + int(found[3] or 0) * 60)
