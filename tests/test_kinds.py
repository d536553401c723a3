"""How each sort of value is read, written and complained about."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from gateway import kinds
from gateway.kinds import Kind, parse_duration, parse_size, shown, spell_duration, spell_size

MIB = 1024**2

READS: list[tuple[Kind, object, object]] = [
    *((kinds.SWITCH, text, True) for text in ("true", "1", "yes", "on", "TRUE", " Yes ")),
    *((kinds.SWITCH, text, False) for text in ("false", "0", "no", "off", "OFF")),
    (kinds.SWITCH, True, True),
    (kinds.SWITCH, 0, False),
    (kinds.BASE_URL, "https://openrouter.example/api/v1", "https://openrouter.example/api/v1"),
    (kinds.BASE_URL, "https://api.example.com/", "https://api.example.com/v1"),
    (kinds.BASE_URL, "https://api.example.com:8443/v1/openai/", "https://api.example.com:8443/v1/openai"),
    (kinds.BASE_URL, "http://[fd00::1]:8080", "http://[fd00::1]:8080/v1"),
    (kinds.OFTEN, "5/10m", (5, 600.0)),
    (kinds.OFTEN, " 20 / 90 ", (20, 90.0)),
    (kinds.OFTEN, "off", None),
    (kinds.some_of("a", "b"), "A, b", ("a", "b")),
    (kinds.SWITCH_AUTO, "auto", None),
    (kinds.SWITCH_AUTO, "on", True),
    (kinds.SIZE, "4096", 4096),
    (kinds.SIZE, 4096, 4096),
    (kinds.SIZE, "10M", 10_000_000),
    (kinds.SIZE, "10MB", 10_000_000),
    (kinds.SIZE, "30MiB", 30 * MIB),
    (kinds.SIZE, "30mi", 30 * MIB),
    (kinds.SIZE, "1.5 GiB", 1536 * MIB),
    (kinds.SIZE, "0.57M", 570_000),
    (kinds.SPAN, "90", 90.0),
    (kinds.SPAN, 90, 90.0),
    (kinds.SPAN, 1.5, 1.5),
    (kinds.SPAN, "90s", 90.0),
    (kinds.SPAN, "10m", 600.0),
    (kinds.SPAN, "2h", 7200.0),
    (kinds.SPAN, "1h30m", 5400.0),
    (kinds.SPAN, "1d", 86400.0),
    (kinds.SPAN, "500ms", 0.5),
    (kinds.SPAN_OR_ZERO, "0", 0.0),
    (kinds.WARMUP, "on", True),
    (kinds.WARMUP, False, False),
    (kinds.WARMUP, "prompts/system.txt", Path("prompts/system.txt")),
    (kinds.SPAN_OR_NEVER, "never", None),
    (kinds.SPAN_OR_NEVER, "Off", None),
    (kinds.SPAN_OR_NEVER, "0", 0.0),
    (kinds.SPAN_OR_AUTO, "auto", None),
    (kinds.SPAN_OR_AUTO, "85", 85.0),
    (kinds.PORT, "8000", 8000),
    (kinds.COUNT, "1", 1),
    (kinds.COUNT_OR_ZERO, "0", 0),
    (kinds.SHARE, "0.9", 0.9),
    (kinds.SHARE, ".5", 0.5),
    (kinds.SHARE, "1", 1.0),
    (kinds.LAYERS, "auto", "auto"),
    (kinds.LAYERS, "-1", "all"),
    (kinds.LAYERS, "ALL", "all"),
    (kinds.LAYERS, 33, 33),
    (kinds.HOST, "0.0.0.0", "0.0.0.0"),
    (kinds.HOST, "::1", "::1"),
    (kinds.HOST, "[::]", "::"),
    (kinds.HOST, "gateway.local", "gateway.local"),
    (kinds.URL, "http://gpu:8080", "http://gpu:8080"),
    (kinds.URL, "http://gpu:8080/v1", "http://gpu:8080"),
    (kinds.URL, "https://llm.example.org/v1/", "https://llm.example.org"),
    (kinds.URL, "HTTP://GPU", "http://gpu"),
    (kinds.URL, "http://[::1]:8080", "http://[::1]:8080"),
    (kinds.PATH, "/ping", "/ping"),
    (kinds.PATHS, "/v1/score, /rerank", ("/v1/score", "/rerank")),
    (kinds.PATHS, ["/v1/score"], ("/v1/score",)),
    (kinds.NAMES, "a, b/c:d ,", ("a", "b/c:d")),
    (kinds.NAMES, '["a,b", "c"]', ("a,b", "c")),
    (
        kinds.MEDIA_HOSTS,
        "Images.example.org,*.example.net,host:8443",
        ("images.example.org", "*.example.net", "host:8443"),
    ),
    (kinds.FIELDS, "none", ()),
    (kinds.FIELDS, "+logit_bias,-chat_template_kwargs.tokenize", ("+logit_bias", "-chat_template_kwargs.tokenize")),
    (kinds.COMMAND, "serve --name 'two words' {port}", ("serve", "--name", "two words", "{port}")),
    (kinds.COMMAND, '["serve", "two words"]', ("serve", "two words")),
    (kinds.COMMAND, ["serve", "[x]"], ("serve", "[x]")),
    (kinds.PAIRS, "A=1 B='two words' C=", (("A", "1"), ("B", "two words"), ("C", ""))),
    (kinds.PAIRS, '{"A": "1", "B": 2}', (("A", "1"), ("B", "2"))),
    (kinds.PAIRS, {"A": "x=y"}, (("A", "x=y"),)),
    (kinds.TEXT, " org/name:Q4_K_M ", "org/name:Q4_K_M"),
    (kinds.LOG_NAME, "llama-3.1_b", "llama-3.1_b"),
    (kinds.FOLDER, "/srv/data", Path("/srv/data")),
    (kinds.FOLDER, Path("/srv/data"), Path("/srv/data")),
    (kinds.SECRET, "sk-123", SecretStr("sk-123")),
]


@pytest.mark.parametrize(("kind", "value", "meaning"), READS, ids=lambda v: v.noun if isinstance(v, Kind) else repr(v))
def test_a_value_is_read_as_it_is_meant(kind: Kind, value: object, meaning: object) -> None:
    assert kind.read(value) == meaning
    assert type(kind.read(value)) is type(meaning)


WRONG: list[tuple[Kind, tuple[object, ...]]] = [
    (kinds.SWITCH, ("", "maybe", "2", 2, "tru", [True])),
    (
        kinds.BASE_URL,
        ("", "api.example.com", "https://", "ftp://a.example", "https://u:p@a.example", "https://a.example?b"),
    ),
    (
        kinds.BASE_URL,
        ("https://a.example/v1/chat/completions", "https://a.example/../v1", "https://a.example/a b", "https://a#"),
    ),
    (kinds.OFTEN, ("", "5", "5/", "/10m", "0/10m", "5/0", "-1/10m", "5/10m/2", "5/soon")),
    (kinds.some_of("a", "b"), ("c", "a;b", "a,c")),
    (kinds.SIZE, ("", "ten", "-1", "10 X", "1.5", "0.1", "1e3", "10i", "٣", "9" * 40, "9" * 18 + "T")),
    (kinds.SPAN, ("", "soon", "0", "0s", "-1", "10 m", "m", "1m1", "1x", "10m90", "inf", "nan", "٣", "9" * 400, True)),
    (kinds.SPAN, (float("inf"), float("nan"))),
    (kinds.SPAN, ("never", "auto")),
    (kinds.SPAN_OR_NEVER, ("auto", "-1")),
    (kinds.PORT, ("eighty", "65536", "-1", "8000.0", 8000.5, "8 000", "8000\n9000", "0x50", "99999999999999999999")),
    (kinds.COUNT, ("0", "-1", "1.0", "many")),
    (kinds.SHARE, ("0", "1.1", "90%", "-0.5", "nan")),
    (kinds.LAYERS, ("-2", "some", "1.5")),
    (kinds.HOST, ("", "two words", "http://x", "1.2.3.4:80", "x86_64-conda-linux-gnu", "-x", "1.2.3", "0x7f.1")),
    (
        kinds.URL,
        ("", "gpu:8080", "ftp://gpu", "http://", "http:///v1", "http://gpu:0", "http://gpu:99999", "http://gpu:"),
    ),
    (
        kinds.URL,
        ("http://u:p@gpu", "http://gpu/v1?x=1", "http://gpu/#", "http://gpu?", "http://gpu/v2", "http://gpu/v1/chat"),
    ),
    (kinds.URL, ("http://two words", "http://gpu\\evil", "http://g\npu", "http://2130706433/", "http://0x7f000001")),
    (
        kinds.PATH,
        ("", "ping", "//ping", "/a//b", "/a/../b", "/a/.", "/a?b", "/a#b", "/%70ing", "/a b", "/a\\b", "http://x/"),
    ),
    (kinds.PATHS, ("/v1/score,rerank", "[1]", '["/a"', "/a\n/b")),
    (kinds.MEDIA_HOSTS, ("http://x", "host:port", "host:0", "*", "*.", "a b")),
    (kinds.FIELDS, ("a..b", "a b", "+", "--a")),
    (kinds.COMMAND, ("serve 'open", '["a", 1]', '["a"', "[serve")),
    (kinds.PAIRS, ("A", "=1", "1A=1", '{"A": "1"', "[1]", '{"A B": "1"}', '{"A": "\\u0000"}')),
    (kinds.TEXT, ("", "a\nb", "a\x00", "a\x1b[31m")),
    (kinds.LOG_NAME, ("", "../x", "a/b", "_boot", ".hidden", "x" * 65)),
    (kinds.SECRET, ("two words", "two\nlines", "tab\there", "nul\x00")),
    (kinds.NAMES, (object(), [object()], {"a": b"x"})),
]


@pytest.mark.parametrize(
    ("kind", "value"),
    [(k, v) for k, values in WRONG for v in values],
    ids=lambda v: v.noun if isinstance(v, Kind) else None,
)
def test_what_cannot_be_meant_is_refused_and_only_by_value_error(kind: Kind, value: object) -> None:
    with pytest.raises(ValueError):
        kind.read(value)


@given(st.integers(0, 2**53 - 1))
def test_a_size_reads_as_it_was_written(size: int) -> None:
    assert parse_size(spell_size(size)) == size


@given(st.integers(0, 10**12))
def test_a_duration_reads_as_it_was_written(milliseconds: int) -> None:
    seconds = milliseconds / 1000
    assert parse_duration(spell_duration(seconds)) == seconds


@given(st.integers(0, 10**6), st.sampled_from(["d", "h", "m", "s", "ms"]))
def test_every_unit_is_its_number_of_seconds(count: int, unit: str) -> None:
    seconds = {"d": 86400, "h": 3600, "m": 60, "s": 1, "ms": 0.001}[unit]
    if count * seconds <= 1e9:
        assert parse_duration(f"{count}{unit}") == pytest.approx(count * seconds)


@given(st.text(max_size=30))
def test_no_text_brings_anything_but_a_value_or_a_value_error(text: str) -> None:
    for kind in {kind for kind, *_ in READS}:
        try:
            value = kind.read(text)
        except ValueError:
            continue
        assert kind.hidden or kind.read(kind.spell(value)) == value, "written and read again it is the same"


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0"), (1000, "1k"), (1024, "1KiB"), (30 * MIB, "30MiB"), (1023, "1023")]
)
def test_sizes_are_written_in_one_unit(size: int, text: str) -> None:
    assert spell_size(size) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "never"), (0.0, "0s"), (0.5, "0.5s"), (90.0, "90s"), (900.0, "15m"), (86400.0, "24h"), (172800.0, "2d")],
)
def test_durations_are_written_in_one_unit(seconds: float | None, text: str) -> None:
    assert spell_duration(seconds) == text


def test_a_complaint_names_the_value_and_what_is_allowed() -> None:
    assert kinds.PORT.complaint("eighty", "") == '"eighty" is not a port; allowed: 1 to 65535'


def test_a_complaint_about_a_secret_does_not_hold_it() -> None:
    assert "hunter2" not in kinds.SECRET.complaint("hunter2 hunter2", "it has a space in it")
    assert "hunter2" not in kinds.COMMAND.complaint("serve --api-key 'hunter2", "a quotation mark is not closed")
    assert "hunter2" not in kinds.PAIRS.complaint({"KEY": "hunter2"}, "")


@pytest.mark.parametrize("value", ["sk-abcdef", "hf_abcdef", "Bearer sk-abc", "rpa_ABC", ["sk-abc"]])
def test_a_key_that_was_put_in_the_wrong_place_is_not_repeated(value: object) -> None:
    assert shown(value) == "the value (not shown: it looks like a key)"


@pytest.mark.parametrize("value", ["disk_1", "risk-free", "desk-lamp"])
def test_words_that_only_end_like_a_key_are_shown(value: str) -> None:
    assert shown(value) == f'"{value}"'


def test_what_is_shown_is_short_one_line_and_without_passwords() -> None:
    assert shown("http://user:hunter2@host/v1?key=hunter3") == '"http://…host/v1…"'
    assert len(shown("x" * 1000)) < 70
    assert shown("a\nb\x1b") == json.dumps("a\nb\x1b")


@pytest.mark.parametrize(
    "written",
    [
        "Mon,Tue 08:30-18:00 Europe/Berlin; Sat 10:00-12:00",
        "Mon,Tue 08:30-18:00 Europe/Berlin\nSat 10:00-12:00",
        '["Mon,Tue 08:30-18:00 Europe/Berlin", "Sat 10:00-12:00"]',
        ["Mon,Tue 08:30-18:00 Europe/Berlin", "Sat 10:00-12:00"],
    ],
)
def test_a_schedule_is_lines_whose_days_may_have_commas(written: object) -> None:
    assert kinds.SCHEDULE.read(written) == ("Mon,Tue 08:30-18:00 Europe/Berlin", "Sat 10:00-12:00")
