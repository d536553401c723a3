"""A whole run: what is measured, in which order, and what is told of it."""

import random

import pytest

from bench.compare import caption, choose, choose_works, plan, tables
from bench.figures import DIRECT
from bench.stand import BenchError
from bench.subjects import SUBJECTS, Subject
from bench.work import FULL, QUICK, SECTIONS, all_measures, works


def test_each_round_holds_everything_once_in_an_order_of_its_own() -> None:
    random.seed(4)
    chosen = choose_works(QUICK, "request,chunk-200")
    subjects = {name: SUBJECTS[name] for name in ("wakegate", "nginx")}
    steps = list(plan(subjects, chosen, 3))
    rounds = [[(name, work.name) for number, name, work in steps if number == each] for each in range(3)]
    assert [sorted(each) for each in rounds] == 3 * [
        sorted([(name, work.name) for name in subjects for work in chosen] + [(DIRECT, "chunk-200")])
    ]
    assert rounds[0] != rounds[1] != rounds[2]


def test_peers_that_are_not_installed_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    absent = Subject("gone", "Gone", SUBJECTS["nginx"].launch, lambda: "apt install gone", lambda: "1")
    monkeypatch.setitem(SUBJECTS, "gone", absent)
    subjects, said = choose(FULL, "wakegate,gone")
    assert list(subjects) == ["wakegate"]
    assert said == {"Gone": "apt install gone"}


def test_a_name_that_does_not_exist_is_refused() -> None:
    with pytest.raises(BenchError, match="No such subject: ngin"):
        choose(FULL, "ngin")
    with pytest.raises(BenchError, match="No such work: chunk-2"):
        choose_works(QUICK, "chunk-2")


@pytest.mark.parametrize("form", [QUICK, FULL], ids=lambda form: form.name)
def test_every_measure_has_a_name_of_its_own_and_a_table(form) -> None:
    measures = all_measures(form)
    assert len({measure.name for measure in measures}) == len(measures)
    assert {measure.section for measure in measures} == set(SECTIONS)
    assert len({work.name for work in works(form)}) == len(works(form))


def test_the_same_number_of_chunks_per_second_whatever_the_number_of_streams() -> None:
    """So that only the number of streams differs; one alone has the pace of the quickest engines."""
    for work in works(FULL):
        if work.name.startswith("chunk-") and work.name != "chunk-1":
            assert work.load["connections"] / work.load["gap"] * 1e6 == pytest.approx(6000, rel=0.001)


def test_all_streams_are_open_at_once_for_a_while() -> None:
    for work in (*works(QUICK), *works(FULL)):
        if work.name.startswith("chunk-"):
            assert work.load["chunks"] * work.load["gap"] / 1e6 > work.load["ramp"] / 1e3


def test_fewer_requests_than_an_address_has_ports() -> None:
    """A proxy that opens a connection for each leaves each port behind for a minute."""
    for work in works(FULL):
        if "seconds" in work.load:
            assert work.load["most"] <= 20_000


def test_a_run_is_told_in_one_table_for_each_section_and_a_caption() -> None:
    found = {
        "form": "quick",
        "when": "2026-01-01 00:00 UTC",
        "rounds": 1,
        "took": 9,
        "others": 0.034,
        "machine": {"processor": "P", "cores": 2, "memory": "8 GiB", "system": "S", "python": "CPython 3"},
        "versions": {"wakegate": "abc", "nginx": "1.22"},
        "values": {"request": {"wakegate": [1e-4], "nginx": [1e-5]}, "start-listens": {"wakegate": [0.3]}},
    }
    assert tables(found) == (
        "| CPU time | WakeGate | nginx |\n|---|---|---|\n"
        "| per JSON request of 1 KB, µs | 100 · **10.0×** [100..100] | 10.0 [10.0..10.0] |\n\n"
        "| Start | WakeGate |\n|---|---|\n| until the port is open, ms | 300 [300..300] |\n"
    )
    assert "other work used 3 % of the cores" in caption(found)
    assert "WakeGate (abc), nginx (1.22)" in caption(found)
