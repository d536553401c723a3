"""The canonical line: one line whatever strangers wrote, the same in both forms, and it reads back."""

import json
from dataclasses import replace
from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.records.ended import Ended
from gateway.records.lines import (
    FIELDS,
    MODEL_LENGTH,
    happening_json,
    happening_text,
    iso,
    json_line,
    parse_line,
    text_line,
    tokens_per_second,
)

AT = 1795269906.1234567
ENDED = Ended(
    at=AT,
    request_id="wk-7f3a",
    caller_id="trace-1",
    upstream="default",
    key="alice",
    route="/v1/chat/completions",
    model="org/Name-7B:Q4_K_M",
    status=200,
    outcome="answered",
    code="",
    ended_by="engine",
    state="ready",
    line=0.0,
    wake=12.3456,
    first_byte=12.5,
    first_token=12.6,
    longest_gap=0.25,
    took=14.3456,
    tokens_in=31,
    tokens_out=100,
    bytes_in=412,
    bytes_out=2048,
)
BARE = replace(
    ENDED,
    caller_id="",
    upstream="",
    key="",
    model="",
    status=0,
    first_byte=None,
    first_token=None,
    longest_gap=None,
    tokens_in=None,
    tokens_out=None,
)

EVIL = 'a\u2028b\x00\x1b[31m"\\\n\r\t\x85 request=forged status=200 😀 \u202etxt \udcff'
TEXTS = st.one_of(st.text(), st.text('ab="\\ \n\u2028{}:x', max_size=12), st.just(EVIL))
SECONDS = st.floats(0, 1e6)
COUNTS = st.integers(0, 2**53)
ENDINGS = st.builds(
    Ended,
    at=st.floats(0, 4e9),
    request_id=TEXTS.filter(bool),
    caller_id=TEXTS,
    upstream=TEXTS,
    key=TEXTS,
    route=TEXTS,
    model=TEXTS,
    status=st.sampled_from((0, 200, 429, 503)),
    outcome=TEXTS,
    code=TEXTS,
    ended_by=TEXTS,
    state=TEXTS,
    line=SECONDS,
    wake=SECONDS,
    first_byte=st.none() | SECONDS,
    first_token=st.none() | SECONDS,
    longest_gap=st.none() | SECONDS,
    took=SECONDS,
    tokens_in=st.none() | COUNTS,
    tokens_out=st.none() | st.integers(0, 10**6),
    bytes_in=COUNTS,
    bytes_out=COUNTS,
)


def test_a_line_tells_who_asked_what_came_of_it_and_how_long_each_part_took() -> None:
    assert text_line(ENDED) == (
        "2026-11-21T14:05:06.123Z request=wk-7f3a key=alice route=/v1/chat/completions upstream=default "
        "model=org/Name-7B:Q4_K_M status=200 outcome=answered ended_by=engine line=0.000s wake=12.346s "
        "first_byte=12.500s first_token=12.600s longest_gap=0.250s took=14.346s tokens_in=31 tokens_out=100 "
        "tokens_per_second=50.0 bytes_in=412 "
        "bytes_out=2048 state=ready caller_id=trace-1"
    )


def test_json_has_the_same_names_with_numbers_as_numbers() -> None:
    line = json_line(ENDED)
    assert line.startswith('{"at":"2026-11-21T14:05:06.123Z","kind":"request","request":"wk-7f3a","key":"alice",')
    assert {name: json.loads(line)[name] for name in ("status", "wake", "tokens_out", "tokens_per_second")} == {
        "status": 200,
        "wake": 12.346,
        "tokens_out": 100,
        "tokens_per_second": 50.0,
    }


def test_every_field_stands_in_both_forms_in_the_order_of_the_table() -> None:
    full = replace(ENDED, code="502", served_by="fallback")
    assert list(parse_line(text_line(full)) or ()) == ["at", "kind", *FIELDS]
    assert list(parse_line(json_line(full)) or ()) == ["at", "kind", *FIELDS]


def test_what_is_empty_is_left_out_of_both_forms() -> None:
    gone = {"caller_id", "upstream", "key", "model", "status", "code", "first_byte", "tokens_in", "tokens_out"}
    gone |= {"first_token", "longest_gap"}
    for line in (text_line(BARE), json_line(BARE)):
        assert not [name for name in gone if name in line]
        assert "bytes_in" in line


@given(ENDINGS)
def test_both_forms_are_one_printable_line_and_read_back_alike(ended: Ended) -> None:
    """Whatever a model or a key is called: U+2028, control characters, quotes, halves of an emoji."""
    text, encoded = text_line(ended), json_line(ended)
    assert text.isprintable() and encoded.isprintable() and encoded.isascii()
    read = parse_line(text)
    assert read is not None and read == parse_line(encoded) == parse_line(text + "\n")
    assert read["request"] == ended.request_id
    assert read.get("key", "") == ended.key
    assert read.get("caller_id", "") == ended.caller_id
    assert read["took"] == round(ended.took, 3)


@given(st.floats(0, 4e9), TEXTS)
def test_any_other_happening_reads_back_as_it_was(at: float, message: str) -> None:
    text, encoded = happening_text(at, message), happening_json(at, "warning", message)
    assert text.isprintable() and encoded.isascii() and encoded.isprintable()
    read = parse_line(text)
    assert read is not None and (read["kind"], read["message"]) == ("happening", message)
    assert parse_line(encoded) == {**read, "level": "warning"}


@given(TEXTS)
def test_no_line_of_anybody_breaks_the_reader(line: str) -> None:
    parse_line(line)
    parse_line("2026-11-21T14:05:06.123Z request=" + line)


@given(st.floats(0, 4e9))
def test_a_time_is_written_to_the_millisecond_that_has_begun(at: float) -> None:
    """Never one that is still to come, and never another second's."""
    assert 0 <= at - datetime.fromisoformat(iso(at)).timestamp() < 0.001 + 1e-6


def test_two_requests_that_differ_in_one_thing_have_lines_that_differ_in_it() -> None:
    """However often the like of either was written before."""
    for changes in (
        {"key": "bob"},
        {"route": "/v1/x"},
        {"model": "b"},
        {"status": 500},
        {"code": "500"},
        {"state": "x"},
    ):
        ((name, value),) = changes.items()
        for line in (text_line, json_line):
            one, other, again = (parse_line(line(each)) or {} for each in (ENDED, replace(ENDED, **changes), ENDED))
            assert one == again and other[name] == value and {**other, name: 0} == {**one, name: 0}


def test_a_model_cannot_forge_a_field_or_a_line() -> None:
    read = parse_line(text_line(replace(ENDED, model='x" status=500 key=bob\n2026-11-21T14:05:06.123Z request=2')))
    assert read is not None
    assert (read["status"], read["key"], read["request"]) == (200, "alice", "wk-7f3a")


def test_a_happening_cannot_pass_for_a_request() -> None:
    read = parse_line(happening_text(AT, "request=1 status=200"))
    assert read == {"at": "2026-11-21T14:05:06.123Z", "kind": "happening", "message": "request=1 status=200"}


def test_a_long_model_is_cut() -> None:
    read = parse_line(text_line(replace(ENDED, model="m" * 10_000)))
    assert read is not None
    assert read["model"] == "m" * (MODEL_LENGTH - 1) + "…"


def test_names_in_other_scripts_stay_readable() -> None:
    assert 'model="通义千问 7B"' in text_line(replace(ENDED, model="通义千问 7B"))


@pytest.mark.parametrize(
    "line",
    [
        "",
        "INFO: started server process",
        "2026-11-21 14:05:06 something",
        '{"at":"2026-11-21T14:05:06.123Z","kind":"request","req',
        '{"at":"yesterday","kind":"request"}',
        '{"level":"info","message":"of another program"}',
        "[1,2]",
        '2026-11-21T14:05:06.123Z request=1 model="torn',
        '2026-11-21T14:05:06.123Z "torn',
    ],
)
def test_a_foreign_or_torn_line_is_nothing(line: str) -> None:
    assert parse_line(line) is None


def test_a_name_that_a_newer_version_added_is_kept() -> None:
    read = parse_line(text_line(ENDED) + " cost=3")
    assert read is not None
    assert read["cost"] == "3"


def test_the_rate_counts_from_the_requests_turn() -> None:
    """Not from its arrival, which may be a cold start ago, and not from a first byte that was a comment."""
    assert tokens_per_second(ENDED) == pytest.approx(50)
    assert tokens_per_second(replace(ENDED, tokens_out=None)) is None
    assert tokens_per_second(replace(ENDED, took=1.0)) is None
    assert tokens_per_second(replace(ENDED, line=0.1, wake=0.2, took=0.3 + 1e-16)) is None
