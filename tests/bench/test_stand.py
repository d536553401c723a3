"""One measurement, as short as it can be. What it costs is not looked at here, only that it comes to a figure."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from bench.stand import Lost, measure, standing
from bench.subjects import SUBJECTS, Launch, Place, Subject, program
from bench.work import Form, works

TINY = Form("tiny", seconds=0.03, streamed=0.03, streams=(1, 5), idle=4, uploads=2, whole=True)
WORKS = {work.name: work for work in works(TINY)}


@pytest.mark.parametrize("work", WORKS)
def test_every_work_comes_to_all_of_its_figures(programs: tuple[Path, Path], work: str) -> None:
    """In front of nginx, whose configuration is tried by this, too."""
    found = measure(SUBJECTS["nginx"], WORKS[work], programs)
    assert {each.name for each in WORKS[work].measures} <= set(found)
    assert {"start-listens", "start-answers"} <= set(found)
    may_be_nothing = ("gap", "idle", "told", "promise")
    assert all(found[each.name] > 0 for each in WORKS[work].measures if not each.name.startswith(may_be_nothing))


@pytest.mark.parametrize("name", ["wakegate", "aiohttp", "caddy", "haproxy"])
def test_every_subject_carries_streams(programs: tuple[Path, Path], name: str) -> None:
    """Where it is installed: HAProxy is not among what the tests install."""
    subject = SUBJECTS[name]
    if subject.missing():
        assert name == "haproxy" and not program("haproxy")
        return
    found = measure(subject, WORKS["chunk-5"], programs)
    assert found["chunk-5"] > 0
    assert ("start-health" in found) == (name == "wakegate")
    assert subject.version() not in ("", "?")


def test_without_a_proxy_there_are_latencies_and_no_cost(programs: tuple[Path, Path]) -> None:
    assert set(measure(None, WORKS["chunk-5"], programs)) == {"gap-5", "first-p50-5", "first-p99-5"}


@pytest.mark.parametrize("name", SUBJECTS)
def test_every_subject_knows_its_port_and_its_engine(tmp_path: Path, name: str) -> None:
    """Whether it is installed or not: what it would be started with."""
    launch = SUBJECTS[name].launch(Place(tmp_path, 11111, 22222, 33333))
    said = " ".join(launch.command) + str(launch.environment)
    said += "".join(path.read_text() for path in tmp_path.iterdir() if path.is_file())
    assert "11111" in said
    assert "33333" in said or str(tmp_path / "engine.sock") in said


def test_streams_that_stay_open_are_measured_apart_from_their_openings_and_ends(programs: tuple[Path, Path]) -> None:
    work = replace(WORKS["chunk-5"], load={"connections": 5, "ramp": 20, "chunks": 30, "gap": 10_000})
    assert measure(SUBJECTS["nginx"], work, programs)["steady-5"] > 0


def broken(script: str) -> Subject:
    def launch(place: Place) -> Launch:
        return Launch([sys.executable, "-I", "-S", "-c", script, str(place.port), str(place.engine)], {})

    return Subject("broken", "Broken", launch, lambda: "", lambda: "1")


def test_a_subject_that_ends_fails_with_what_it_said(programs: tuple[Path, Path]) -> None:
    with pytest.raises(Lost, match=r"(?s)ended with 3 at its start.*no such thing"):
        measure(broken("import sys; print('no such thing', flush=True); sys.exit(3)"), WORKS["request"], programs)


TWICE = """
import socket, sys
door = socket.create_server(("127.0.0.1", int(sys.argv[1])))
while True:
    caller, _ = door.accept()
    request = caller.recv(65536)
    for _ in range(2 if request else 0):
        with socket.create_connection(("127.0.0.1", int(sys.argv[2]))) as engine:
            engine.sendall(request)
            answer = engine.recv(65536)
    if request:
        caller.sendall(answer.replace(b"HTTP/1.1 200 OK", b"HTTP/1.1 200 OK\\r\\nConnection: close"))
    caller.close()
"""


def test_a_subject_that_sends_a_request_twice_fails(programs: tuple[Path, Path]) -> None:
    with pytest.raises(Lost, match="answers, and the engine was asked"):
        measure(broken(TWICE), WORKS["request"], programs)


DEAF = """
import socket, sys, threading
def carry(caller):
    with socket.create_connection(("127.0.0.1", int(sys.argv[2]))) as engine:
        engine.sendall(caller.recv(65536))
        while data := engine.recv(65536):
            try:
                caller.sendall(data)
            except OSError:
                pass  # reads on, as if somebody heard it
            if data.endswith(b"0\\r\\n\\r\\n") or b"Content-Length" in data:
                break
    caller.close()
door = socket.create_server(("127.0.0.1", int(sys.argv[1])), backlog=100)
while True:
    threading.Thread(target=carry, args=door.accept()[:1], daemon=True).start()
"""


def test_a_subject_that_does_not_tell_the_engine_who_left_fails(programs: tuple[Path, Path]) -> None:
    with (
        standing(broken(DEAF), programs) as stand,
        pytest.raises(Lost, match="of 2 callers who left, the engine was told of 0 within 1 s"),
    ):
        stand.carry({"connections": 2, "chunks": 2000, "gap": 2000, "leave": 3})
