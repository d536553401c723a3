"""Where it goes: the arithmetic, the tables, and that profiles of a running gateway can be taken."""

from dataclasses import replace
from pathlib import Path

import pytest

from bench.page import END, PAGE
from bench.profile import (
    COMMANDS,
    COMPARED,
    FLOOR,
    SERVER,
    Cost,
    Held,
    begin_of,
    calls_of,
    calls_table,
    cost,
    costs_table,
    grown,
    growths_table,
    held,
    libraries_table,
    lines_table,
    memory_table,
    openings,
    ours_alone,
    ours_rested,
    types_line,
)
from bench.rooms import AIOHTTP, KERNEL, LOOP, PROXY, RECORDS, WEB, Calls
from bench.subjects import ROOT
from bench.work import Form, works

TINY = Form("tiny", seconds=0.05, streamed=0.05, streams=(5,), idle=30, uploads=2, whole=False)
WORKS = {work.name: work for work in works(TINY)}

HELD = Held(
    {
        f"{ROOT}/gateway/proxy/reply.py:7": (900.0, 3.0),
        f"{ROOT}/gateway/proxy/pool.py:9": (300.0, 1.0),
        f"{ROOT}/gateway/records/logs.py:9": (-2.0, 0.0),
        "/x/site-packages/aiohttp/streams.py:1": (800.0, 2.0),
    },
    {"list": 10.0, "Reply": 1.0},
)


def rows(table: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]


def test_what_a_stream_holds_is_what_there_is_more_of_by_stream() -> None:
    before = {"lines": {"a:1": (100, 1), "b:1": (50, 5), "c:1": (7, 7)}, "types": {"list": 10, "dict": 5}}
    after = {"lines": {"a:1": (500, 5), "c:1": (7, 7), "d:1": (40, 4)}, "types": {"list": 30, "dict": 6, "Reply": 4}}
    found = grown(before, after, 4)
    assert found.lines == {"a:1": (100.0, 1.0), "b:1": (-12.5, -1.25), "d:1": (10.0, 1.0)}
    assert found.types == {"list": 5.0, "Reply": 1.0}


def test_memory_is_added_up_by_room_and_held_against_what_is_seen_from_outside() -> None:
    assert rows(memory_table(HELD, {"wakegate": [1900.0, 2000.0, 9000.0]})) == [
        [AIOHTTP, "800", "2.0", "40 %"],
        [PROXY, "1,200", "4.0", "60 %"],
        ["**the gateway's own, in all**", "1,198", "4.0", "60 %"],
        ["**in all, traced**", "1,998", "6.0", "100 %"],
        ["not traced: rounding up, less what lay free before", "2", "", "0 %"],
        ["**in all, from outside** (PSS)", "2,000", "", "100 %"],
    ]
    assert RECORDS not in memory_table(HELD, {"wakegate": [2000.0]})


def test_the_dearest_lines_and_the_objects_are_named() -> None:
    assert [row[0] for row in rows(lines_table(HELD))][:2] == ["`gateway/proxy/reply.py:7`", "`aiohttp/streams.py:1`"]
    assert types_line(HELD) == "Objects of one stream: 10 list; one each of Reply.\n"


def test_who_is_compared_stands_in_the_order_of_the_list() -> None:
    assert rows(growths_table({"wakegate": [17e3], "nginx": [1000.0, 3000.0]})) == [
        ["WakeGate", "17.0 [17.0..17.0]"],
        ["nginx", "2.00 [1.00..3.00]"],
    ]


def test_what_a_unit_costs_is_the_median_of_its_rounds_as_user_and_kernel() -> None:
    found = {
        "wakegate": [Cost(50e-6, 40e-6, 10e-6), Cost(75e-6, 60e-6, 20e-6), Cost(60e-6, 50e-6, 15e-6)],
        "nginx": [Cost(30e-6, 25e-6, 20e-6)],
    }
    assert rows(costs_table("request", found, streams=False)) == [
        ["WakeGate", "60.0 [50.0..75.0]", "2.00", "35.0", "15.0"],
        ["nginx", "30.0 [30.0..30.0]", "1.00", "5.00", "20.0"],
    ]
    assert rows(costs_table("chunk", found, streams=True)) == [
        ["WakeGate", "60.0 [50.0..75.0]", "2.00", "50.0 [40.0..60.0]", "2.00", "35.0", "15.0"],
        ["nginx", "30.0 [30.0..30.0]", "1.00", "25.0 [25.0..25.0]", "1.00", "5.00", "20.0"],
    ]
    assert openings(WORKS["chunk-5"], found) == pytest.approx({"wakegate": 750.0, "nginx": 375.0})


def test_calls_are_shown_for_each_room_and_for_ours() -> None:
    calls = {
        AIOHTTP: Calls(40, 20, 1e-6),
        PROXY: Calls(50, 30, 2e-6),
        WEB: Calls(10, 5, 1e-6),
        LOOP: Calls(0, 0.001, 0),
    }
    assert rows(calls_table("request", calls)) == [
        [AIOHTTP, "40.0", "20.0", "25 %"],
        [WEB, "10.0", "5.00", "25 %"],
        [PROXY, "50.0", "30.0", "50 %"],
        ["**the gateway's own, in all**", "60.0", "35.0", "75 %"],
        ["**in all**", "100", "55.0", "100 %"],
    ]


def test_shares_by_library_are_of_the_cost_without_a_profiler_and_missing_ones_say_why() -> None:
    assert rows(libraries_table("chunk", {KERNEL: 0.5}, 30e-6)) == [[KERNEL, "50 %", "15.0"]]
    assert libraries_table("chunk", "perf is not installed", 1.0) == "Shares by library: perf is not installed.\n"


def test_our_functions_pass_chunks_on_when_nothing_else_is_done() -> None:
    assert ours_alone(streams=3, times=5, rounds=2) > 0
    assert ours_rested(streams=3, times=5) > 0


@pytest.mark.parametrize("name", [FLOOR, SERVER])
def test_the_least_there_can_be_answers_as_the_engine_does(programs: tuple[Path, Path], name: str) -> None:
    assert cost(name, WORKS["request"], programs).all > 0
    if name == FLOOR:
        work = replace(WORKS["chunk-5"], load={"connections": 5, "ramp": 20, "chunks": 30, "gap": 10_000})
        assert cost(name, work, programs).alone >= 0


def test_an_idle_streams_memory_is_found_in_a_running_gateway(programs: tuple[Path, Path]) -> None:
    found = held(WORKS["idle"], programs)
    rooms = found.by_room()
    assert {AIOHTTP, LOOP, PROXY, WEB} <= {room for room, (size, _) in rooms.items() if size > 200}
    assert found.types["Reply"] == 1


def test_a_requests_calls_are_counted_in_a_running_gateway(programs: tuple[Path, Path]) -> None:
    calls = calls_of(WORKS["request"], programs)
    assert all(calls[room].python >= 5 for room in (AIOHTTP, PROXY, WEB))


def test_the_page_has_a_place_for_each_command() -> None:
    page = PAGE.read_text("utf-8")
    for command in COMMANDS:
        text = page.partition(begin_of(command))[2].partition(END)[0]
        assert all(row.strip("| ") for row in text.splitlines() if row.startswith("|")), command
        assert f"| {COMPARED['nginx'].title} |" in text
