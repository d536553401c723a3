"""One measurement: an engine, a fresh subject in front of it, load on that, and what the subject used meanwhile."""

import contextlib
import hashlib
import json
import os
import resource
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from bench import processes
from bench.processes import Cpu
from bench.subjects import KEY, ROOT, Launch, Place, Subject, cache_folder
from bench.work import TOLD_WITHIN, WARM, Counted, Options, Work

SOURCES = ROOT / "bench" / "load"
FLAGS = ["-std=gnu11", "-O3", "-Wall", "-Wextra", "-Wpedantic", "-Werror"]
START_WITHIN = 60.0
LOAD_WITHIN = 120.0


class Lost(Exception):
    """An answer was not what the engine sent, or none came. A measurement of such a proxy means nothing."""


class BenchError(Exception):
    """The benchmark itself cannot go on."""


def get_ready() -> None:
    """What each of the commands needs of its own process: to end what it started, and files for all its streams."""
    # Or what was started would stay behind: `finally` runs for an exception, not for a signal.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


# --- Programs ---------------------------------------------------------------------------------------------------------


def build(cache: Path | None = None) -> tuple[Path, Path]:
    """(engine, load), compiled unless these very sources have been before."""
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None:
        raise BenchError("No C compiler: apt install gcc")
    sources = sorted(SOURCES.iterdir())
    print_of = hashlib.sha256(b"\0".join([*(path.read_bytes() for path in sources), *map(str.encode, FLAGS)]))
    folder = (cache or cache_folder()) / print_of.hexdigest()[:16]
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("engine", "load"):
        built = folder / name
        if built.exists():
            continue
        unfinished = folder / f"{name}.{os.getpid()}"
        done = subprocess.run(
            [compiler, *FLAGS, str(SOURCES / f"{name}.c"), "-o", str(unfinished)], capture_output=True, text=True
        )
        if done.returncode != 0:
            raise BenchError(f"{name}.c does not compile:\n{done.stderr}")
        unfinished.rename(built)
    return folder / "engine", folder / "load"


# --- Processes --------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def engine_running(program: Path, *path: Path) -> Iterator[int]:
    """A fresh engine's port; it listens at the path, too. It ends with the pipe to it, so also when we are killed."""
    with subprocess.Popen([str(program), *map(str, path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None and process.stdout is not None
        try:
            yield int(process.stdout.readline())
        finally:
            process.stdin.close()
            process.wait(10)


@contextlib.contextmanager
def subject_running(launch: Launch, place: Place) -> Iterator[subprocess.Popen[bytes]]:
    """The subject in a session of its own, ended with all that it started."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
    with (place.folder / "console.txt").open("ab") as console:
        process = subprocess.Popen(
            launch.command,
            cwd=place.folder,
            env=kept | launch.environment,
            stdin=subprocess.DEVNULL,
            stdout=console,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        everybody = processes.tree(process.pid)
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            pass  # then all of it is killed
        for pid in everybody & processes.tree(process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def asked(port: int, method: str, path: str, body: bytes = b"", within: float = 30) -> tuple[int, bytes]:
    """(status, the rest) of one request on a connection of its own; status 0 where nobody answers."""
    head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAuthorization: Bearer {KEY}\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    answer = b""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=within) as connection:
            connection.sendall(head.encode() + body)
            while data := connection.recv(65536):
                answer += data
    except OSError:
        return 0, b""
    words = answer.split(b" ", 2)
    return (int(words[1]) if len(words) > 2 else 0), answer


PLAN = "bench wait=0 chunks=0 gap=0 each=1 event=222 answer=1024 drop=0."
FIRST = json.dumps({"model": "bench", "messages": [{"role": "user", "content": PLAN}]}).encode()


# --- A measurement ----------------------------------------------------------------------------------------------------


@dataclass
class Standing:
    """A subject that answers, or nothing at all between load and engine (`process` is None)."""

    load: Path
    engine: int
    port: int
    process: subprocess.Popen[bytes] | None = None
    started: dict[str, float] = field(default_factory=dict)
    """Seconds from exec, by measure."""
    loose: int = 0

    def seen(self) -> Counted:
        """What the engine has counted (engine.c)."""
        found: dict[str, int] = json.loads(asked(self.engine, "GET", "/bench")[1].split(b"\r\n\r\n", 1)[1])
        return found

    def carry(self, options: Options, told: Callable[[str, int], None] | None = None) -> Counted:
        """Have the load generator do this. Raises Lost unless each request was answered, and sent once.

        `told` hears what it says meanwhile (--tell of load.c): a word and the number of chunks until then.
        """
        before = self.seen()
        command = [*self._command(options), "--number", str(before["posts"]), "--tell", str(int(told is not None))]
        last = ""
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as load:
            assert load.stdout is not None and load.stderr is not None
            too_long = threading.Timer(LOAD_WITHIN, load.kill)
            too_long.start()
            for last in load.stdout:
                if told is not None and last[0] != "{":
                    word, _, chunks = last.partition(" ")
                    told(word, int(chunks))
            said = load.stderr.read().strip()
            too_long.cancel()
        if load.returncode == -signal.SIGKILL:
            raise Lost(f"not done within {LOAD_WITHIN:g} s")
        if load.returncode != 0:
            raise Lost(said or f"the load generator ended with {load.returncode}")
        counted: dict[str, Any] = json.loads(last)
        arrived = self.seen()["posts"] - before["posts"]
        if arrived != counted["answers"] + counted["left"] and not options.get("lossy"):
            raise Lost(f"{counted['answers']} answers, and the engine was asked {arrived} times")
        if counted["left"]:
            self._all_were_told(counted["left"])
        return counted

    def _all_were_told(self, left: int) -> None:
        """Raises Lost unless the engine lost its caller as often as one left, soon after."""
        deadline = time.monotonic() + TOLD_WITHIN
        while (seen := self.seen())["cut"] < left and time.monotonic() < deadline:
            time.sleep(0.01)
        if seen["cut"] != left:
            raise Lost(f"of {left} callers who left, the engine was told of {seen['cut']} within {TOLD_WITHIN:g} s")

    def _command(self, options: Options) -> list[str]:
        words = [str(self.load), "--port", str(self.port), "--key", KEY, "--loose", str(self.loose)]
        return words + [word for name, value in options.items() for word in (f"--{name}", str(value))]

    def cpu(self) -> Cpu:
        return processes.cpu(self.process.pid) if self.process is not None else Cpu(0.0, 0.0)

    def memory(self) -> int:
        return processes.memory(processes.tree(self.process.pid)) if self.process is not None else 0

    def memory_while_held(self, options: Options) -> int:
        """Bytes while all these streams are open and idle. Raises Lost when they cannot be opened."""
        with self.holding(options):
            return self.memory()

    @contextlib.contextmanager
    def holding(self, options: Options) -> Iterator[None]:
        """All these streams are open and idle. Raises Lost when they cannot be opened."""
        with subprocess.Popen(
            self._command(options), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as load:
            assert load.stdout is not None and load.stderr is not None
            with selectors.DefaultSelector() as selector:
                selector.register(load.stdout, selectors.EVENT_READ)
                told = load.stdout.readline() if selector.select(LOAD_WITHIN) else b""
            try:
                if told.strip() != b"open":
                    load.kill()
                    raise Lost(load.stderr.read().decode().strip() or "the streams did not open")
                time.sleep(0.5)  # what was allocated in passing is given back
                yield
            finally:
                load.communicate()


@contextlib.contextmanager
def standing(subject: Subject | None, programs: tuple[Path, Path]) -> Iterator[Standing]:
    """A fresh engine and, in front of it, a fresh subject that has passed one answer."""
    engine_program, load = programs
    if subject is None:
        with engine_running(engine_program) as engine:
            yield Standing(load, engine, engine)
        return
    with tempfile.TemporaryDirectory(prefix="wakegate-bench-", ignore_cleanup_errors=True) as folder:
        place = Place(Path(folder), free_port(), free_port(), 0)
        with engine_running(engine_program, place.engine_socket) as engine:
            place = replace(place, engine=engine)
            launch = subject.launch(place)
            began = time.monotonic()
            with subject_running(launch, place) as process:
                try:
                    started = _await_start(subject, place, process, began)
                    yield Standing(load, engine, place.port, process, started, loose=subject.rewrites)
                except Lost as error:
                    console = (place.folder / "console.txt").read_text("utf-8", "replace")[-1500:]
                    raise Lost(f"{error}\n{console}".replace(folder, "…")) from None


def _await_start(subject: Subject, place: Place, process: subprocess.Popen[bytes], began: float) -> dict[str, float]:
    """Seconds until its ports answer, looked at each millisecond."""
    times: dict[str, float] = {}

    def note(name: str, happened: bool) -> None:
        if happened and name not in times:
            times[name] = time.monotonic() - began

    wanted = {"start-listens"} | ({"start-health"} if subject.has_health_port else set())
    while not wanted <= set(times):
        if "start-health" in wanted and "start-health" not in times:
            # Any answer counts: it says 204 or 503 until the gateway is ready.
            note("start-health", asked(place.port_health, "GET", "/ping")[0] > 0)
        note("start-listens", _listens(place.port))
        _alive(process, began)
        time.sleep(0.001)
    while asked(place.port, "POST", "/v1/chat/completions", FIRST)[0] != 200:
        _alive(process, began)
        time.sleep(0.001)
    note("start-answers", True)
    return times


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _alive(process: subprocess.Popen[bytes], began: float) -> None:
    if process.poll() is not None:
        raise Lost(f"it ended with {process.returncode} at its start")
    if time.monotonic() - began > START_WITHIN:
        raise Lost(f"it did not answer within {START_WITHIN:g} s")


def measure(subject: Subject | None, work: Work, programs: tuple[Path, Path]) -> dict[str, float]:
    """What one subject needs for one work, by measure. Raises Lost."""
    with standing(subject, programs) as stand:
        for warm in (*WARM, *([work.warm] if work.warm else [])):
            stand.carry(warm)
        found = dict(stand.started)
        if work.idle:
            before = stand.memory()
            held = stand.memory_while_held(work.load)
            return found | {"idle": (held - before) / work.idle, "whole": held}
        marks: dict[str, tuple[Cpu, int]] = {}
        before_cpu = stand.cpu()
        if subject is not None and work.steady:
            counted = stand.carry(work.load, lambda word, chunks: marks.__setitem__(word, (stand.cpu(), chunks)))
        else:
            counted = stand.carry(work.load)
        if subject is not None and work.cost in {each.name for each in work.measures}:
            found[work.cost] = stand.cpu().since(before_cpu) / work.per(counted)
        if list(marks) == ["open", "ends"]:
            (open_cpu, open_chunks), (end_cpu, end_chunks) = marks.values()
            found[work.steady] = end_cpu.since(open_cpu) / (end_chunks - open_chunks)
        found |= {name: count(counted, stand.seen()) for name, count in work.counts.items()}
        return found | {name: counted[samples][what] for name, (samples, what) in work.latencies.items()}
