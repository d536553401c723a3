"""A key and what it may, and when it ends: in any form of ISO 8601, and the same wherever the gateway runs."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.policy.keys import Key, parse_moment, spell_moment


def unix(*when: int) -> float:
    return datetime(*when, tzinfo=UTC).timestamp()  # type: ignore[arg-type,misc]


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2027-01-31T12:00:00Z", unix(2027, 1, 31, 12)),
        ("2027-01-31T12:00:00", unix(2027, 1, 31, 12)),
        ("2027-01-31 12:00", unix(2027, 1, 31, 12)),
        ("2027-01-31t12:00z", unix(2027, 1, 31, 12)),
        ("2027-01-31T12", unix(2027, 1, 31, 12)),
        ("20270131T120000Z", unix(2027, 1, 31, 12)),
        ("20270131T1200+0100", unix(2027, 1, 31, 11)),
        ("2027-01-31T12:00+01:00", unix(2027, 1, 31, 11)),
        ("2027-01-31T12:00+01", unix(2027, 1, 31, 11)),
        ("2027-01-31T12:00:00 -05:30", unix(2027, 1, 31, 17, 30)),
        ("2027-01-31T12:00−01:00", unix(2027, 1, 31, 13)),
        ("2027-01-31T12:00:00.250Z", unix(2027, 1, 31, 12) + 0.25),
        ("2027-01-31T12:00:00,25", unix(2027, 1, 31, 12) + 0.25),
        ("2027-01-31T12:00:00.123456789Z", unix(2027, 1, 31, 12) + 0.123),
        ("2027-01-31T12.5", unix(2027, 1, 31, 12, 30)),
        ("2027-01-31T24:00", unix(2027, 2, 1)),
        ("2016-12-31T23:59:60Z", unix(2017, 1, 1)),
        ("2027-W04-7T12:00", unix(2027, 1, 31, 12)),
        ("2027W047T12", unix(2027, 1, 31, 12)),
        ("2027-031T12:00", unix(2027, 1, 31, 12)),
        ("2027031T12", unix(2027, 1, 31, 12)),
        ("1969-12-31T23:59:59Z", -1.0),
        # In Berlin this hour comes twice, and 02:30 in March never: in UTC both are moments like any other.
        ("2026-10-25T02:30", unix(2026, 10, 25, 2, 30)),
        ("2027-03-28T02:30", unix(2027, 3, 28, 2, 30)),
    ],
)
def test_a_moment_is_read_in_every_form_and_is_utc_where_it_does_not_say(text: str, moment: float) -> None:
    assert parse_moment(text) == moment
    assert parse_moment(spell_moment(moment)) == moment


@pytest.mark.parametrize(
    ("text", "after"),
    [
        ("2027-01-31", unix(2027, 2, 1)),
        ("20270131", unix(2027, 2, 1)),
        ("2024-02-29", unix(2024, 3, 1)),
        ("2024-366", unix(2025, 1, 1)),
        ("2027-W05", unix(2027, 2, 8)),
        ("2027-W05-1", unix(2027, 2, 2)),
        ("2027-02", unix(2027, 3, 1)),
        ("2027-12", unix(2028, 1, 1)),
        ("2027", unix(2028, 1, 1)),
        ("9999-12-31", unix(9999, 12, 31, 23, 59, 59)),
    ],
)
def test_a_day_week_month_or_year_alone_means_its_end(text: str, after: float) -> None:
    """As on a ticket: a key that expires on the 31st is right on the 31st."""
    assert parse_moment(text) == after


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", "soon", "tomorrow", "1798761600000", "1", "2027-13-01", "2027-02-29", "2027-00-10", "2027-0131"),
        *("202701", "2027-366", "2027-000", "2027-W54", "2027-W01-8", "2027-W01-0", "2027-01T12:00", "2027T12:00"),
        *("0000-01-01", "-2027-01-01", "0001-01-01T00:00+14:00", "31.01.2027", "٢٠٢٧-٠١-٣١", "2027-01-31\n2027-02-01"),
        *("2027-01-31T", "2027-01-31T25:00", "2027-01-31T24:01", "2027-01-31T12:60", "2027-01-31T12:00:61"),
        *("2027-01-31T12:0030", "2027-01-31T12:00+24:00", "2027-01-31T12:00+1", "2027-01-31T12:00ZZ"),
        *("T12:00", "12:00:00", "Z", "P1D"),
    ],
)
def test_what_is_no_moment_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError):
        parse_moment(text)


@given(st.text(alphabet="0123456789-:TWZ.,+ ", max_size=30))
def test_nothing_that_looks_like_a_moment_fails_in_another_way(text: str) -> None:
    try:
        moment = parse_moment(text)
    except ValueError:
        return
    assert parse_moment(spell_moment(moment)) == moment


@given(
    st.datetimes(
        min_value=datetime(2, 1, 1),
        max_value=datetime(9998, 12, 31),
        timezones=st.integers(-1439, 1439).map(lambda minutes: timezone(timedelta(minutes=minutes))),
    )
)
def test_python_agrees(when: datetime) -> None:
    when = when.replace(microsecond=when.microsecond // 1000 * 1000)
    assert parse_moment(when.isoformat()) == pytest.approx(when.timestamp(), abs=0.0005)
    assert datetime.fromisoformat(spell_moment(parse_moment(when.isoformat()))) == when


def test_a_key_is_right_until_its_end_and_wrong_from_then_on() -> None:
    key = Key("alice", b"", expires=100.0)
    assert not key.has_expired(99.999) and key.has_expired(100.0)
    assert not Key("bob", b"").has_expired(1e12)


def test_a_key_without_lists_may_use_and_ask_for_everything() -> None:
    key = Key("alice", b"")
    assert key.may_use("/v1/chat/completions") and key.may_ask_for("any") and key.may_ask_for(None)


def test_a_key_with_lists_may_what_stands_in_them() -> None:
    key = Key("alice", b"", models=frozenset({"small"}), routes=frozenset({"/v1/embeddings"}))
    assert key.may_use("/v1/embeddings") and not key.may_use("/v1/embeddings/")
    assert key.may_ask_for("small") and not key.may_ask_for("large") and not key.may_ask_for(None)
