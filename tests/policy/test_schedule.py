"""The spans in which the engine is kept up: as they are written, in the hours of the clocks on the wall."""

from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.policy.schedule import Schedule, Span

BERLIN = "Europe/Berlin"


def at(text: str, zone: str = BERLIN, *, fold: int = 0) -> float:
    """Unix seconds of a local time, such as `2026-11-20 08:30`."""
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone), fold=fold).timestamp()


def schedule(*texts: str) -> Schedule:
    return Schedule.of(texts, ZoneInfo)


def spoken(span: Span | None, zone: str = BERLIN) -> tuple[str, str] | None:
    if span is None:
        return None
    begin, end = (
        datetime.fromtimestamp(each, ZoneInfo(zone)).strftime("%a %d %H:%M") for each in (span.begin, span.end)
    )
    return begin, end


OFFICE = schedule("Mon-Fri 08:30-18:00 Europe/Berlin")


@pytest.mark.parametrize(
    ("now", "span"),
    [
        ("2026-11-20 08:29", ("Fri 20 08:30", "Fri 20 18:00")),
        ("2026-11-20 08:30", ("Fri 20 08:30", "Fri 20 18:00")),
        ("2026-11-20 17:59", ("Fri 20 08:30", "Fri 20 18:00")),
        ("2026-11-20 18:00", ("Mon 23 08:30", "Mon 23 18:00")),
        ("2026-11-21 12:00", ("Mon 23 08:30", "Mon 23 18:00")),
    ],
)
def test_the_span_that_it_is_or_else_the_next_one(now: str, span: tuple[str, str]) -> None:
    assert spoken(OFFICE.span(at(now))) == span


def test_a_span_holds_its_begin_and_not_its_end() -> None:
    span = OFFICE.span(at("2026-11-20 12:00"))
    assert span is not None
    assert span.holds(span.begin) and not span.holds(span.end) and not span.holds(span.begin - 1)


@pytest.mark.parametrize(
    ("text", "now", "span"),
    [
        ("10:00-11:00", "2026-11-20 10:30", ("Fri 20 11:00", "Fri 20 12:00")),  # UTC, seen from Berlin
        ("daily 10:00-11:00 Europe/Berlin", "2026-11-20 11:00", ("Sat 21 10:00", "Sat 21 11:00")),
        ("Sat-Mon 10:00-11:00 Europe/Berlin", "2026-11-20 10:30", ("Sat 21 10:00", "Sat 21 11:00")),
        ("Sat-Mon 10:00-11:00 Europe/Berlin", "2026-11-23 11:00", ("Sat 28 10:00", "Sat 28 11:00")),
        ("mon,wed,FRI 9:05-9:10 Europe/Berlin", "2026-11-18 09:10", ("Fri 20 09:05", "Fri 20 09:10")),
        ("Monday Wednesday-Friday 10:00-11:00 Europe/Berlin", "2026-11-23 11:00", ("Wed 25 10:00", "Wed 25 11:00")),
        ("Fri 22:00-02:00 Europe/Berlin", "2026-11-21 01:00", ("Fri 20 22:00", "Sat 21 02:00")),
        ("Fri 22:00-24:00 Europe/Berlin", "2026-11-20 23:00", ("Fri 20 22:00", "Sat 21 00:00")),
        ("Fri 08:00–12:00 13:00–18:00 Europe/Berlin", "2026-11-20 12:30", ("Fri 20 13:00", "Fri 20 18:00")),
        ("Thu 08:00-09:00 Europe/Berlin", "2026-11-19 09:00", ("Thu 26 08:00", "Thu 26 09:00")),
    ],
)
def test_how_it_is_written(text: str, now: str, span: tuple[str, str]) -> None:
    assert spoken(schedule(text).span(at(now))) == span


def test_spans_that_meet_or_overlap_are_one() -> None:
    both = schedule("Fri 08:00-12:00 Europe/Berlin", "Fri 12:00-13:00 Europe/Berlin", "Fri 12:30-14:00 Europe/Berlin")
    assert spoken(both.span(at("2026-11-20 09:00"))) == ("Fri 20 08:00", "Fri 20 14:00")


def test_always_has_no_end_within_a_week() -> None:
    now = at("2026-11-20 09:00")
    span = schedule("00:00-24:00 Europe/Berlin").span(now)
    assert span is not None and span.holds(now) and span.end > now + 7 * 86_400


def test_no_schedule_has_no_span() -> None:
    assert schedule().span(at("2026-11-20 09:00")) is None and not schedule() and OFFICE


# --- Where clocks are changed: forward on 29 March 2026 at 2, back on 25 October 2026 at 3


@pytest.mark.parametrize("day", ["2026-03-28", "2026-03-29", "2026-10-24", "2026-10-25"])
def test_a_morning_begins_by_the_clock_on_the_wall_on_each_side_of_a_change(day: str) -> None:
    daily = schedule("08:30-18:00 Europe/Berlin")
    span = daily.span(at(f"{day} 12:00"))
    assert span == Span(at(f"{day} 08:30"), at(f"{day} 18:00")) and span.end - span.begin == 9.5 * 3600


@pytest.mark.parametrize(
    ("text", "begin", "end"),
    [
        ("02:30-04:00 Europe/Berlin", "2026-03-29 03:00", "2026-03-29 04:00"),
        ("01:00-02:30 Europe/Berlin", "2026-03-29 01:00", "2026-03-29 03:00"),
        ("01:00-04:00 Europe/Berlin", "2026-03-29 01:00", "2026-03-29 04:00"),
    ],
)
def test_what_begins_or_ends_in_the_hour_that_is_skipped_does_so_where_it_is_skipped(
    text: str, begin: str, end: str
) -> None:
    assert schedule(text).span(at("2026-03-29 00:30")) == Span(at(begin), at(end))


def test_what_lies_in_the_skipped_hour_alone_does_not_come_that_day() -> None:
    assert spoken(schedule("02:10-02:50 Europe/Berlin").span(at("2026-03-29 00:30"))) == (
        "Mon 30 02:10",
        "Mon 30 02:50",
    )


def test_of_the_hour_that_comes_twice_the_first_is_meant() -> None:
    once = schedule("02:00-02:30 Europe/Berlin")
    assert once.span(at("2026-10-25 00:30")) == Span(at("2026-10-25 02:00"), at("2026-10-25 02:30"))
    assert once.span(at("2026-10-25 02:10", fold=1)) == Span(at("2026-10-26 02:00"), at("2026-10-26 02:30"))


def test_a_night_over_the_change_is_an_hour_longer_or_shorter() -> None:
    night = schedule("22:00-06:00 Europe/Berlin")
    hours = [
        (span.end - span.begin) / 3600
        for day in ("2026-10-24", "2026-10-25", "2026-03-28")
        if (span := night.span(at(f"{day} 23:00"))) is not None
    ]
    assert hours == [9, 8, 7]


@given(
    begin=st.integers(0, 1439),
    length=st.integers(1, 1439),
    zone=st.sampled_from([BERLIN, "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu", "Pacific/Apia", "UTC"]),
    now=st.integers(1_260_000_000, 1_900_000_000),
)
def test_in_a_span_the_clocks_on_the_wall_stand_between_its_hours(begin: int, length: int, zone: str, now: int) -> None:
    """Away from nights in which clocks are changed, which have stories of their own."""
    end = (begin + length) % 1440
    hours = f"{begin // 60:02}:{begin % 60:02}-{end // 60:02}:{end % 60:02}"
    span = schedule(f"{hours} {zone}").span(now)
    assert span is not None and now < span.end and span.begin - now < 3 * 86_400
    offsets = {datetime.fromtimestamp(now + days * 86_400, ZoneInfo(zone)).utcoffset() for days in range(-3, 4)}
    if len(offsets) > 1:
        return
    shown = datetime.fromtimestamp(now, ZoneInfo(zone))
    minute = shown.hour * 60 + shown.minute
    inside = begin <= minute < end if begin < end else minute >= begin or minute < end
    assert span.holds(now) is inside
    local = datetime.fromtimestamp(span.begin, ZoneInfo(zone))
    assert (local.hour * 60 + local.minute, timedelta(seconds=span.end - span.begin)) == (
        begin,
        timedelta(minutes=length),
    )


# --- What cannot be read


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Mon-Fri", "hours are missing"),
        ("Mon-Fry 08:00-18:00 Europe/Berlin", "Mon-Fry is neither a day"),
        ("Mon-Fri 8-18", "hours are missing"),
        ("Mon-Fri 08:00-18:00 Europe/Berlino", "no time zone Europe/Berlino"),
        ("Mon-Fri 08:00-18:00 ../../etc/passwd", "no time zone"),
        ("Mon-Fri 08:00-25:00", "hours go from 00:00 to 24:00"),
        ("Mon-Fri 24:00-02:00", "hours go from 00:00 to 24:00"),
        ("Mon-Fri 08:60-18:00", "hours go from 00:00 to 24:00"),
        ("Mon-Fri 08:00-08:00", "a whole day is 00:00-24:00"),
    ],
)
def test_what_cannot_be_read_is_quoted_and_explained(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said) as caught:
        schedule("Mon 08:00-09:00", text)
    assert repr(text) in str(caught.value)
