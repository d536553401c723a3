"""A whole run: what is measured, in which order, and what is told of it."""

import random
from dataclasses import replace
from pathlib import Path

import pytest

from bench.compare import _is_failed, caption, choose, choose_works, plan, run, tables
from bench.figures import DIRECT
from bench.stand import BenchError
from bench.subjects import SUBJECTS, Subject
from bench.work import FULL, QUICK, SECTIONS, Work, all_measures, with_growth, works


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


def test_a_subject_gets_the_work_that_it_takes_as_often_as_it_takes_it() -> None:
    nginx = SUBJECTS["nginx"]
    subjects = {
        "few": replace(nginx, only=frozenset({"request"}), rounds=1),
        "lacks": replace(nginx, lacks=frozenset({"request"})),
    }
    steps = [
        (name, number, work.name) for number, name, work in plan(subjects, choose_works(QUICK, "request,short"), 2)
    ]
    assert sorted(steps) == [("few", 0, "request"), ("lacks", 0, "short"), ("lacks", 1, "short")]


def test_a_run_fails_when_the_gateway_loses_something_and_not_when_another_peer_does() -> None:
    assert not _is_failed({"lost": [("caddy", "Caddy, short: …")]})
    assert _is_failed({"lost": [("caddy", "Caddy, short: …"), ("wakegate", "WakeGate, short: …")]})


def test_a_run_goes_on_where_it_was_interrupted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("bench.compare.build", lambda: None)
    measured: list[str] = []

    def measure(subject: Subject, work: Work, programs: object) -> dict[str, float]:
        if len(measured) == 3:
            raise KeyboardInterrupt
        measured.append(work.name)
        return {work.name: float(len(measured))}

    monkeypatch.setattr("bench.compare.measure", measure)
    subjects, chosen = {"nginx": SUBJECTS["nginx"]}, choose_works(QUICK, "request,short")
    with pytest.raises(KeyboardInterrupt):
        run(QUICK, subjects, chosen, 2)
    monkeypatch.setattr("bench.compare.measure", lambda *_: {"last": 9.0})
    found = run(QUICK, subjects, chosen, 2, resume=True)["values"]
    assert sum(len(row["nginx"]) for row in found.values()) == 4
    assert found["last"]["nginx"] == [9.0]


def test_growth_is_told_for_each_round_of_its_own() -> None:
    values = {"steady-50": {"nginx": [2.0, 4.0]}, "steady-1000": {"nginx": [3.0, 4.0], "caddy": [1.0]}}
    assert with_growth(values)["growth"] == {"nginx": [1.5, 1.0]}
    assert "growth" not in with_growth({})


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
