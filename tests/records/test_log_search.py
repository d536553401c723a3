"""Finding lines again: by what they say, when and where, without reading more than is needed."""

import gzip
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.records.ended import Ended
from gateway.records.lines import happening_json, happening_text, json_line, text_line
from gateway.records.log_files import BootFiles, find
from gateway.records.log_search import Found, Wanted, all_of, choose, last, parse_since, shown, time_of
from tests.records.test_lines import ENDED

NOON = 1795262400.0
"""2026-11-21T12:00:00Z."""


def ended(second: float = 0, **changes: object) -> Ended:
    return replace(ENDED, at=NOON + second, **changes)


def stamp_of(second: int, worker: str = "pod") -> str:
    return f"20261121T12{second // 60:02}{second % 60:02}Z_{worker}"


class Logs:
    """Boots on a volume. What is written last was changed last."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def add(self, stamp: str, *lines: str, rotated: Sequence[Sequence[str]] = ()) -> None:
        for number, old in enumerate(rotated):
            name = f"{stamp}_20261121T12{number:02}00.000000Z.txt.gz"
            (self.folder / name).write_bytes(gzip.compress("".join(f"{line}\n" for line in old).encode()))
        (self.folder / f"{stamp}.txt").write_text("".join(f"{line}\n" for line in lines))

    @property
    def boots(self) -> list[BootFiles]:
        return find(self.folder)

    def ask(self, **wanted: object) -> list[str]:
        """The ids of what is found, in order; both ways of reading must agree."""
        question = Wanted(**wanted)
        found = list(all_of(self.boots, question))
        assert last(self.boots, question, 1000) == found
        return [id_of(line) for line in found]


def id_of(line: Found) -> str:
    facts = json.loads(line.as_json())
    return str(facts.get("request", facts.get("message")))


@pytest.fixture
def logs(tmp_path: Path) -> Logs:
    return Logs(tmp_path)


@pytest.mark.parametrize("form", [text_line, json_line])
def test_each_filter_finds_its_lines_in_both_forms(logs: Logs, form) -> None:
    logs.add(
        stamp_of(0),
        form(ended(1, request_id="a1", key="alice")),
        form(ended(2, request_id="a2", key="bob", outcome="failed", code="backend_lost")),
        form(ended(3, request_id="a3", key="bob", route="/v1/embeddings", model="modèle 7B")),
        form(ended(4, request_id="a4", caller_id="", model="m" * 100)),
    )
    assert logs.ask() == ["a1", "a2", "a3", "a4"]
    assert logs.ask(key="bob") == ["a2", "a3"]
    assert logs.ask(key="bob", outcome="failed") == ["a2"]
    assert logs.ask(id="a3") == ["a3"]
    assert logs.ask(id="trace-1") == ["a1", "a2", "a3"]
    assert logs.ask(route="embeddings") == logs.ask(route="/v1/embeddings") == ["a3"]
    assert logs.ask(route="bedding") == []
    assert logs.ask(model="modèle 7B") == ["a3"]
    assert logs.ask(model="m" * 100) == ["a4"]
    assert logs.ask(since=NOON + 3) == ["a3", "a4"]
    assert logs.ask(id="nobody") == []


def test_a_value_in_another_field_is_not_found(logs: Logs) -> None:
    """A model called alice is no key called alice."""
    logs.add(stamp_of(0), text_line(ended(request_id="1", key="bob", model="alice")))
    assert logs.ask(key="alice") == []


def test_an_id_also_finds_what_else_was_said_of_it(logs: Logs) -> None:
    logs.add(
        stamp_of(0),
        happening_text(NOON, "request a1: the engine broke off"),
        happening_json(NOON, "warning", "a1 again"),
        "Traceback of a1, by somebody who writes no times",
        happening_text(NOON, "something else"),
    )
    assert len(logs.ask(id="a1")) == 3
    assert logs.ask(id="a1", key="alice") == []


def test_foreign_and_broken_lines_are_shown_where_they_stand_unless_requests_are_asked_for(logs: Logs) -> None:
    one, two = text_line(ended(1, request_id="1")), text_line(ended(5, request_id="2"))
    logs.add(stamp_of(0), "begins in the middle", one, "Traceback:", '  File "x"', two, two[:40])
    assert [line.text for line in all_of(logs.boots, Wanted())] == [
        *("begins in the middle", one, "Traceback:", '  File "x"', two, two[:40])
    ]
    assert len(logs.ask()) == 6
    assert logs.ask(key="alice") == ["1", "2"]
    assert [line.at[14:19] for line in all_of(logs.boots, Wanted())] == [
        *("00:00", "00:01", "00:01", "00:01", "00:05", "00:05")
    ]


def test_several_workers_lines_come_in_order_of_time(logs: Logs) -> None:
    for worker, seconds in (("a", (1, 4, 9)), ("b", (2, 3, 8)), ("c", (5, 6, 7))):
        logs.add(
            stamp_of(seconds[0], worker), *(text_line(ended(second, request_id=str(second))) for second in seconds)
        )
    assert logs.ask() == [str(number) for number in range(1, 10)]
    assert [id_of(line) for line in last(logs.boots, Wanted(), 4)] == ["6", "7", "8", "9"]


def test_a_clock_that_goes_back_does_not_shuffle_a_boots_lines(logs: Logs) -> None:
    seconds = (5, 6, 2, 3)
    logs.add(stamp_of(0), *(text_line(ended(second, request_id=str(second))) for second in seconds))
    assert logs.ask() == ["5", "6", "2", "3"]


def test_the_last_lines_reach_back_through_rotated_and_compressed_parts(logs: Logs) -> None:
    lines = [text_line(ended(number, request_id=str(number))) for number in range(30)]
    logs.add(stamp_of(0), *lines[20:], rotated=(lines[:10], lines[10:20]))
    assert [id_of(line) for line in last(logs.boots, Wanted(), 15)] == [str(number) for number in range(15, 30)]
    assert logs.ask() == [str(number) for number in range(30)]


def test_the_last_lines_of_a_large_log_are_there_at_once(logs: Logs) -> None:
    """The rest is not read: it may be a gigabyte on a network. Here it could not be."""
    lines = [text_line(ended(number, request_id=str(number))) for number in range(5)]
    logs.add(stamp_of(0), *lines, rotated=([],))
    next(logs.folder.glob("*.gz")).write_bytes(b"not to be read")
    path = logs.folder / f"{stamp_of(0)}.txt"
    content = path.read_bytes()
    with path.open("wb") as file:
        file.truncate(2**33)  # gigabytes of nothing, which takes no room
        file.seek(2**33)
        file.write(b"\n" + content)
    assert [id_of(line) for line in last(logs.boots, Wanted(), 5)] == ["0", "1", "2", "3", "4"]


def test_json_has_the_boot_with_it_and_takes_any_line(logs: Logs) -> None:
    found = Found("2026-11-21T12:00:00.000Z", "b_w", b'odd \xff "line"')
    assert json.loads(found.as_json()) == {
        "at": "2026-11-21T12:00:00.000Z",
        "kind": "other",
        "message": 'odd \\xff "line"',
        "boot": "b_w",
    }
    line = Found("", "b_w", text_line(ENDED).encode())
    assert json.loads(line.as_json()) == {**json.loads(json_line(ENDED)), "boot": "b_w"}


@given(st.binary(max_size=60))
def test_whatever_a_line_holds_it_cannot_speak_to_the_terminal(raw: bytes) -> None:
    assert shown(raw).replace("\t", "").isprintable()
    json.loads(Found("", "b", raw).as_json())


def test_what_is_escaped_can_still_be_read() -> None:
    assert shown("\x1b[31mrot\u2028\u202e 😀\ttab\r".encode()) == "\\x1b[31mrot\\u2028\\u202e 😀\ttab"


@pytest.mark.parametrize(
    ("which", "expected"),
    [
        ("latest", [2]),
        ("all", [0, 1, 2]),
        ("1", [2]),
        ("3", [0]),
        ("4", []),
        ("0", []),
        ("20261121T1201", [1]),
        ("20261121", [0, 1, 2]),
        ("nonsense", []),
    ],
)
def test_boots_are_chosen_by_number_or_name(which: str, expected: list[int]) -> None:
    boots = [BootFiles(stamp_of(minute * 60), ()) for minute in range(3)]
    assert choose(boots, which) == [boots[number] for number in expected]


def test_since_is_a_span_or_a_time_in_utc() -> None:
    assert parse_since("10m", NOON) == NOON - 600
    assert parse_since("2026-11-21T12:00", NOON) == NOON
    assert parse_since("2026-11-21T13:00+01:00", NOON) == NOON
    assert parse_since("2026-11-21T12:00:00Z", NOON) == NOON
    with pytest.raises(ValueError, match="isoformat"):
        parse_since("yesterday", NOON)


def test_a_time_is_read_from_either_form_and_from_nothing_else() -> None:
    assert time_of(text_line(ended()).encode()) == time_of(json_line(ended()).encode()) == "2026-11-21T12:00:00.000Z"
    assert time_of(b"2026-11-21 12:00:00 INFO engine") == ""
