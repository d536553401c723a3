"""One measurement, as short as it can be. What it costs is not looked at here, only that it comes to a figure."""

import sys
from pathlib import Path

import pytest

from bench.stand import Lost, build, measure
from bench.subjects import SUBJECTS, Launch, Place, Subject, program
from bench.work import Form, works

TINY = Form("tiny", seconds=0.03, streams=(1, 5), idle=4, uploads=2, burst=True)
WORKS = {work.name: work for work in works(TINY)}


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return build(tmp_path_factory.mktemp("built"))


@pytest.mark.parametrize("work", WORKS)
def test_every_work_comes_to_all_of_its_figures(programs: tuple[Path, Path], work: str) -> None:
    """In front of nginx, whose configuration is tried by this, too."""
    found = measure(SUBJECTS["nginx"], WORKS[work], programs)
    assert {each.name for each in WORKS[work].measures} <= set(found)
    assert {"start-listens", "start-answers"} <= set(found)
    assert all(found[each.name] > 0 for each in WORKS[work].measures if not each.name.startswith(("gap", "idle")))


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
