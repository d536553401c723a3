"""The load generator and the fake engine: what one says the other understands, and whatever goes wrong is noticed."""

import json
import socket
import socketserver
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bench.stand import asked, build, engine_running


@pytest.fixture(scope="module")
def engine(programs: tuple[Path, Path]) -> Iterator[int]:
    with engine_running(programs[0]) as port:
        yield port


@pytest.fixture
def fresh(programs: tuple[Path, Path], tmp_path: Path) -> Iterator[int]:
    """An engine that has counted nothing yet, and listens on a unix socket, too."""
    with engine_running(programs[0], tmp_path / "engine.sock") as port:
        yield port


def seen(port: int) -> dict[str, int]:
    return dict(json.loads(asked(port, "GET", "/bench")[1].split(b"\r\n\r\n")[1]))


def load(programs: tuple[Path, Path], port: int, **options: int) -> subprocess.CompletedProcess[str]:
    words = [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    command = [str(programs[1]), "--port", str(port), *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, stdin=subprocess.DEVNULL)


def test_what_is_built_is_built_once(programs: tuple[Path, Path], tmp_path: Path) -> None:
    cache = programs[0].parents[1]
    before = programs[0].stat().st_mtime_ns
    assert build(cache) == programs
    assert programs[0].stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("options", "answers", "chunks"),
    [
        ({"connections": 5, "each": 4}, 20, 0),
        ({"connections": 3, "chunks": 7, "gap": 100, "ramp": 5}, 3, 21),
        ({"connections": 2, "each": 3, "chunks": 10, "gap": 100, "per-write": 4}, 6, 60),
        ({"connections": 2, "chunks": 3, "gap": 0, "wait": 0, "event": 4000}, 2, 6),
        ({"size": 3_000_000}, 1, 0),
        ({"size": 3_000_000, "form": 1, "answer": 300_000}, 1, 0),
        ({"connections": 4, "seconds": 10_000, "most": 40}, 40, 0),
    ],
)
def test_every_answer_is_counted(
    programs: tuple[Path, Path], engine: int, options: dict[str, int], answers: int, chunks: int
) -> None:
    done = load(programs, engine, **options)
    assert (done.returncode, done.stderr) == (0, "")
    counted = json.loads(done.stdout)
    assert (counted["answers"], counted["chunks"]) == (answers, chunks)
    if chunks:
        assert counted["first"]["count"] == answers
        assert counted["gap"]["count"] == chunks - answers
        assert counted["first"]["p50"] <= counted["first"]["p99"] <= counted["first"]["max"]


def test_connections_are_kept(programs: tuple[Path, Path], engine: int) -> None:
    done = load(programs, engine, connections=3, each=20)
    assert json.loads(done.stdout)["connects"] == 3


def test_the_engine_counts_what_reached_it(programs: tuple[Path, Path], engine: int) -> None:
    before = seen(engine)["posts"]
    load(programs, engine, connections=3, each=5)
    assert seen(engine)["posts"] - before == 15


def test_the_engine_listens_on_a_unix_socket_too(fresh: int, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(10)
        connection.connect(str(tmp_path / "engine.sock"))
        connection.sendall(b"GET /v1/models HTTP/1.1\r\n\r\n")
        assert connection.recv(100).startswith(b"HTTP/1.1 200 OK\r\n")


def test_the_engine_knows_a_request_that_comes_again(programs: tuple[Path, Path], fresh: int) -> None:
    load(programs, fresh, connections=2, each=5, chunks=1)
    assert seen(fresh)["twice"] == 0
    load(programs, fresh, connections=2, each=5, chunks=1, number=8)
    assert seen(fresh)["twice"] == 2  # 8 and 9 of the 10 before


def test_a_caller_who_leaves_is_counted_on_both_sides(programs: tuple[Path, Path], fresh: int) -> None:
    done = load(programs, fresh, connections=4, each=3, chunks=1000, gap=2000, leave=5)
    assert (done.returncode, done.stderr) == (0, "")
    counted = json.loads(done.stdout)
    assert (counted["answers"], counted["left"], counted["chunks"]) == (0, 12, 60)
    found = seen(fresh)
    assert (found["posts"], found["cut"], found["open"]) == (12, 12, 0)
    assert 5 <= found["sent_before_cut"] < 500


def test_answers_that_are_lost_are_counted_where_that_was_asked_for(programs: tuple[Path, Path], fresh: int) -> None:
    """Without a proxy: whoever asks again on a connection that the engine has closed hears nothing."""
    options = {"connections": 4, "each": 6, "chunks": 2, "gap": 0, "drop": 1}
    done = load(programs, fresh, **options, lossy=1)
    counted = json.loads(done.stdout)
    assert (done.returncode, counted["answers"] + counted["lost"]) == (0, 24)
    assert counted["lost"] > 0
    assert load(programs, fresh, **options).returncode == 1


def test_it_tells_when_all_streams_are_open_and_when_the_first_ends(programs: tuple[Path, Path], engine: int) -> None:
    done = load(programs, engine, connections=3, ramp=30, chunks=20, gap=10_000, tell=1)
    first, second, last = done.stdout.splitlines()
    opened, ended = int(first.removeprefix("open ")), int(second.removeprefix("ends "))
    assert 3 <= opened < ended <= json.loads(last)["chunks"] == 60


def test_the_engine_reads_chunked_bodies_and_asks_for_those_that_wait(engine: int) -> None:
    plan = b"bench wait=0 chunks=0 gap=0 each=1 event=222 answer=400 drop=0."
    head = b"POST /v1/x HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
    head += b"Transfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n"
    with socket.create_connection(("127.0.0.1", engine), timeout=10) as connection:
        connection.sendall(head)
        assert connection.recv(100).startswith(b"HTTP/1.1 100 ")
        connection.sendall(b"20;x=y\r\n%b\r\n%x\r\n%b\r\n0\r\nA: b\r\n\r\n" % (plan[:32], len(plan) - 32, plan[32:]))
        answer = b"".join(iter(lambda: connection.recv(4096), b""))
    assert b'"content":"%d bytes, sum %d ' % (len(plan), sum(plan)) in answer
    assert len(answer.split(b"\r\n\r\n", 1)[1]) == 400


def test_a_held_stream_waits_for_the_word(programs: tuple[Path, Path], engine: int) -> None:
    done = load(programs, engine, connections=4, chunks=2, gap=600_000_000, hold=1)
    assert (done.returncode, done.stdout) == (0, "open\n")


# --- What a proxy may do wrong ----------------------------------------------------------------------------------------


@contextmanager
def relay(engine: int, change: Callable[[bytes], bytes], cut: bool = False) -> Iterator[int]:
    """A proxy for one answer, which it changes."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with socket.create_connection(("127.0.0.1", engine), timeout=10) as back:
                back.sendall(self.request.recv(65536))
                whole = b""
                while not whole.endswith((b"0\r\n\r\n", b"}}")):
                    whole += back.recv(65536)
            self.request.sendall(change(whole))
            if not cut:
                self.request.recv(65536)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


FRAME = b"\r\nde\r\n"
"""What stands before an event of 222 bytes."""


def without_event(number: int) -> Callable[[bytes], bytes]:
    def change(answer: bytes) -> bytes:
        at = -1
        for _ in range(number + 1):
            at = answer.index(FRAME, at + 1)
        return answer[:at] + answer[at + len(FRAME) + 222 :]

    return change


def twice(answer: bytes) -> bytes:
    pieces = answer.split(FRAME)
    return FRAME.join([*pieces[:2], pieces[1], *pieces[2:]])


DONE = b"e\r\ndata: [DONE]\n\n\r\n"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda answer: answer, ""),
        (lambda answer: answer.replace(b"e\r\ndata: [D", b"c\r\n: a comment\n\r\n1\r\n\n\r\ne\r\ndata: [D"), ""),
        (without_event(1), "event 1 is not what was sent"),
        (without_event(2), "[DONE] after 2 of 3 events"),
        (twice, "event 1 is not what was sent"),
        (lambda answer: answer.replace(b"xxx", b"xyx", 1), "event 0 is not what was sent"),
        (lambda answer: answer.replace(DONE, b""), "a stream without [DONE]"),
        (lambda answer: answer.replace(DONE, DONE + DONE), "[DONE] twice"),
        (lambda answer: answer.replace(b" 200 ", b" 502 "), "HTTP/1.1 502 OK"),
        (lambda answer: answer + b"more", "4 bytes after the end"),
        (lambda answer: answer.replace(b"\r\nde\r\n", b"\r\nxe\r\n", 1), "broken framing"),
    ],
)
def test_a_stream_that_was_changed_fails_the_run(
    programs: tuple[Path, Path], engine: int, change: Callable[[bytes], bytes], said: str
) -> None:
    with relay(engine, change) as port:
        done = load(programs, port, chunks=3, gap=0)
    assert said in done.stderr
    assert done.returncode == (1 if said else 0), done.stderr


def fewer_bytes(answer: bytes) -> bytes:
    """What an engine says that got the request in other words."""
    return answer.replace(b"1024 bytes, sum ", b"1020 bytes, sum ")


def without_event_1(answer: bytes) -> bytes:
    return without_event(1)(answer)


def written_anew(answer: bytes) -> bytes:
    return answer.replace(b'"created":1795000000,', b'"created":1795999999,')


@pytest.mark.parametrize(
    ("change", "loose", "right"),
    [
        (fewer_bytes, 0, False),
        (fewer_bytes, 1, True),
        (written_anew, 1, True),
        (lambda answer: answer.replace(b"xxx", b"xyx", 1), 2, False),
    ],
)
def test_an_engine_may_have_got_other_bytes_where_that_is_allowed(
    programs: tuple[Path, Path], engine: int, change: Callable[[bytes], bytes], loose: int, right: bool
) -> None:
    with relay(engine, change) as port:
        done = load(programs, port, loose=loose)
    assert done.returncode == (0 if right else 1), done.stderr


@pytest.mark.parametrize(
    ("change", "loose", "right"),
    [
        (written_anew, 1, False),
        (written_anew, 2, True),
        (lambda answer: answer.replace(DONE, b"a\r\ndata: {}\n\n\r\n" + DONE), 2, True),
        (lambda answer: answer.replace(b"xxx", b"xyx", 1), 2, False),
        (without_event_1, 2, False),
    ],
)
def test_a_stream_may_be_written_anew_where_that_is_allowed(
    programs: tuple[Path, Path], engine: int, change: Callable[[bytes], bytes], loose: int, right: bool
) -> None:
    with relay(engine, change) as port:
        done = load(programs, port, chunks=3, gap=0, loose=loose)
    assert done.returncode == (0 if right else 1), done.stderr


@pytest.mark.parametrize("length", [0, 10, 300, -1])
def test_a_stream_that_was_cut_fails_the_run(programs: tuple[Path, Path], engine: int, length: int) -> None:
    with relay(engine, lambda answer: answer[:length], cut=True) as port:
        done = load(programs, port, chunks=3, gap=0)
    assert (done.returncode, "it was cut" in done.stderr) == (1, True), done.stderr


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda answer: answer, ""),
        (lambda answer: answer.replace(b"sum ", b"sun "), "not the answer that was sent"),
        (lambda answer: answer.replace(b": 1024", b": 900")[:-124], "not the answer that was sent"),
        (lambda answer: answer.replace(b": 1024", b": 1030") + b"123456", "the answer is too long"),
    ],
)
def test_an_answer_that_was_changed_fails_the_run(
    programs: tuple[Path, Path], engine: int, change: Callable[[bytes], bytes], said: str
) -> None:
    with relay(engine, change) as port:
        done = load(programs, port)
    assert said in done.stderr
    assert done.returncode == (1 if said else 0), done.stderr


def test_an_upload_that_arrives_changed_fails_the_run(programs: tuple[Path, Path], engine: int) -> None:
    """The engine's sum is not that of what was sent."""

    def other_sum(answer: bytes) -> bytes:
        at = answer.index(b"sum ") + 4
        return answer[:at] + (b"2" if answer[at : at + 1] != b"2" else b"3") + answer[at + 1 :]

    with relay(engine, other_sum) as port:
        assert load(programs, port, size=900).returncode == 1
