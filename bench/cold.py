#!/usr/bin/env python3
"""How much of a cold start is the gateway's own: from exec to the engine's process, and from ready to the first byte.

    python -m bench.cold                       # both, with each engine that is installed; about two minutes
    python -m bench.cold --engines quick       # the stand-in alone: what the gateway adds where an engine adds nothing
    python -m bench.cold --rounds 9 --part wake
    python -m bench.cold --part read --disk 200      # a cold disk of 200 MB/s, with and without READ_AHEAD; needs root
    python -m bench.cold --part prompt               # the first caller of a long prompt, with and without WARMUP

*boot*: `start.sh --no-setup` with the engine, from its exec. When a process began is read from /proc, which counts in
hundredths of a second; the port and the answers are looked at every two milliseconds.
*wake*: a gateway that runs while its engine does not; a streamed request wakes it. When the engine is ready is seen by
asking it every two milliseconds, beside the gateway. A warm request's first byte is what the engine itself takes.
*read*: from exec to ready, of a 460 MB model that is thrown out of the page cache before each start; one engine takes
three seconds until it opens it, a short stand-in for vLLM's imports.
*prompt*: from a request to its first byte, right after ready, of a caller who begins with the 1,000 tokens or so that
all callers begin with.

Engines take turns; medians of the rounds [lowest..highest], in milliseconds. Needs Linux.
"""

import argparse
import contextlib
import importlib.util
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bench import processes
from bench.stand import BenchError, free_port, get_ready
from bench.subjects import KEY, ROOT, cache_folder

LOOK_EVERY = 0.002
TICK = 1 / os.sysconf("SC_CLK_TCK")
QUICK = ROOT / "tests" / "support" / "quick_engine.py"
WITHIN = 60.0
Figures = dict[str, float]
"""What was measured, in milliseconds."""


@dataclass(frozen=True, slots=True)
class Engine:
    """One kind of engine, and the settings that a user would choose it by."""

    name: str
    settings: dict[str, str]
    missing: str = ""


def engines(model: Path, delay: float) -> dict[str, Engine]:
    """`delay`: seconds that the stand-in takes to be ready."""
    server = os.environ.get("LLAMA_SERVER") or shutil.which("llama-server") or newest_server()
    quick = f"{sys.executable} -I -S {QUICK} {{socket}} {delay}"
    has_package = importlib.util.find_spec("llama_cpp") is not None
    path = {"PATH": f"{Path(server).parent}:{os.environ['PATH']}"} if server else {}
    found = (
        Engine("quick", {"ENGINE_COMMAND": quick, "MODEL": str(model)}),
        Engine(
            "llama-server",
            {"ENGINE": "llama-server", "MODEL": str(model), **path},
            "" if server else "scripts/build_llama_server.sh",
        ),
        Engine(
            "llama-cpp-python",
            {"ENGINE": "llama-cpp-python", "MODEL": str(model)},
            "" if has_package else "pip install 'wakegate[llama]'",
        ),
    )
    return {engine.name: engine for engine in found}


def newest_server() -> str:
    built = sorted((Path.home() / ".cache/wakegate/llama-server").glob("*/llama-server"))
    return str(built[-1]) if built else ""


# --- A gateway ------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def running(
    command: list[str], folder: Path, settings: dict[str, str]
) -> Iterator[tuple[subprocess.Popen[bytes], float]]:
    """The process, and when it was begun (CLOCK_BOOTTIME). Ended with everything below it."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
    environment = kept | {
        "HOST": "127.0.0.1",
        "API_KEY": KEY,
        "DATA_DIR": str(folder / "data"),
        "WAKEGATE_ENV_FILE": str(folder / "empty.env"),
        "WAKEGATE_PYTHON": sys.executable,
        "PYTHONPATH": str(ROOT),
        **settings,
    }
    (folder / "empty.env").touch()
    with (folder / "console.txt").open("ab") as console:
        began = time.clock_gettime(time.CLOCK_BOOTTIME)
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=console, stderr=console,
            start_new_session=True,
        )  # fmt: skip
    try:
        yield process, began
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def connected(port: int, process: subprocess.Popen[bytes]) -> socket.socket:
    deadline = time.monotonic() + WITHIN
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(ConnectionRefusedError):
            return socket.create_connection(("127.0.0.1", port), timeout=WITHIN)
        time.sleep(LOOK_EVERY)
    raise BenchError(f"nothing listens on {port}")


def ask(caller: socket.socket, prefix: str = "") -> float:
    """A streamed request; when the first byte of what the model says came (time.monotonic)."""
    messages = [{"role": "system", "content": prefix}] if prefix else []
    messages.append({"role": "user", "content": "Hi"})
    body = json.dumps({"messages": messages, "stream": True, "max_tokens": 2}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    caller.sendall(head.encode() + body)
    heard = b""
    at = 0.0
    while data := caller.recv(65536):
        heard += data
        if not at and b"data: " in heard:
            at = time.monotonic()
    caller.close()
    if b" 200 " not in heard[:20] or b"[DONE]" not in heard:
        raise BenchError(f"an answer went wrong: {heard[:300]!r}")
    return at


# --- boot -----------------------------------------------------------------------------------------------------------


def boot(engine: Engine, folder: Path) -> Figures:
    """One start of the whole worker with its engine."""
    port = free_port()
    settings = engine.settings | {"PORT": str(port), "PORT_HEALTH": str(free_port())}
    now = time.monotonic()
    with running([str(ROOT / "start.sh"), "--no-setup"], folder, settings) as (process, began):
        caller = connected(port, process)
        opened = time.monotonic()
        answered = ask(caller)
        begun = births(process.pid)
    found = {name: 1000 * (at + TICK / 2 - began) for name, at in begun.items()}
    found["port open"] = 1000 * (opened - now)
    found["first byte"] = 1000 * (answered - now)
    return found


# --- read --------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def slow_disk(path: Path, speed: int) -> Iterator[list[str]]:
    """Words before a command that make what it reads of this path's disk slow (bytes a second). 0: as it is."""
    if not speed:
        yield []
        return
    number = path.stat().st_dev
    group = Path("/sys/fs/cgroup/blkio") / f"wakegate-bench-{os.getpid()}"
    try:
        group.mkdir()
    except OSError as error:
        raise BenchError(
            f"{group} cannot be made ({error.strerror}): --disk needs root and cgroup 1's blkio"
        ) from error
    try:
        (group / "blkio.throttle.read_bps_device").write_text(f"{os.major(number)}:{os.minor(number)} {speed}")
        yield ["sh", "-c", f'echo $$ > {group}/cgroup.procs; exec "$@"', "sh"]
    finally:
        deadline = time.monotonic() + 10
        while (group / "cgroup.procs").read_text() and time.monotonic() < deadline:
            time.sleep(0.05)
        group.rmdir()


def throw_out(path: Path) -> None:
    """Out of the page cache, so that the disk is read again."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def reads(here: Path, wanted: str, rounds: int, speed: int) -> dict[str, list[Figures]]:
    """Boots with the large model, on a cold cache; with and without take turns."""
    model = large_model()
    subjects = {name: engine for name, engine in chosen(engines(model, 0), wanted).items() if name != "quick"}
    if (server := subjects.get("llama-server")) is not None:
        late = "sleep 3; exec llama-server --model {model} --host {socket}"
        path = server.settings["PATH"]
        subjects[LATE] = Engine(LATE, {"ENGINE_COMMAND": f"sh -c '{late}'", "MODEL": str(model), "PATH": path})
    found: dict[str, list[Figures]] = {name: [] for name in subjects}
    for _ in range(rounds):
        for name, engine in subjects.items():
            figures: Figures = {}
            for row, switch in zip(READ, ("false", "true"), strict=True):
                (folder := here / f"read-{len(found[name])}-{list(subjects).index(name)}-{switch}").mkdir()
                throw_out(model)
                with slow_disk(model, speed) as slowly:
                    figures[row] = ready_after(engine.settings | {"READ_AHEAD": switch}, folder, slowly)
            found[name].append(figures)
    return found


def large_model() -> Path:
    """460 MB of weights, made once."""
    path = cache_folder() / "layers-24-dim-1024.gguf"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        words = ["--layers", "24", "--dim", "1024"]
        subprocess.run([sys.executable, str(ROOT / "scripts/make_demo_model.py"), str(path), *words], check=True)
    return path


def ready_after(settings: dict[str, str], folder: Path, slowly: list[str]) -> float:
    """Milliseconds from exec to ready."""
    settings = settings | {"PORT": str(free_port()), "PORT_HEALTH": str(free_port())}
    now = time.monotonic()
    with running([*slowly, str(ROOT / "start.sh"), "--no-setup"], folder, settings) as (process, _):
        port = int(settings["PORT"])
        connected(port, process).close()
        until_ready(port)
        return 1000 * (time.monotonic() - now)


# --- prompt ------------------------------------------------------------------------------------------------------


def prompts(here: Path, model: Path, wanted: str, rounds: int) -> dict[str, list[Figures]]:
    """The wait of the first caller, who begins with what the engine was warmed with, or was not."""
    prefix = " ".join(f"rule {number} is kept" for number in range(60))
    (here / "prefix.txt").write_text(prefix)
    subjects = {name: engine for name, engine in chosen(engines(model, 0), wanted).items() if name != "quick"}
    found: dict[str, list[Figures]] = {name: [] for name in subjects}
    for number in range(rounds):
        for name, engine in subjects.items():
            figures: Figures = {}
            for row, warmup in zip(PROMPT, ("off", str(here / "prefix.txt")), strict=True):
                (folder := here / f"prompt-{name}-{number}-{row}").mkdir()
                settings = engine.settings | {"PORT": str(free_port()), "PORT_HEALTH": str(free_port())}
                settings |= {"WARMUP": warmup, "MAX_MODEL_LEN": "16384"}
                with running([str(ROOT / "start.sh"), "--no-setup"], folder, settings) as (process, _):
                    port = int(settings["PORT"])
                    connected(port, process).close()
                    until_ready(port)
                    began = time.monotonic()
                    figures[row] = 1000 * (ask(connected(port, process), prefix) - began)
            found[name].append(figures)
    return found


def until_ready(port: int) -> None:
    deadline = time.monotonic() + WITHIN
    while time.monotonic() < deadline:
        with socket.create_connection(("127.0.0.1", port), timeout=WITHIN) as end:
            end.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            if b'"ready"' in b"".join(iter(lambda: end.recv(65536), b"")):
                return
        time.sleep(0.02)
    raise BenchError("the engine did not become ready")


def births(root: int) -> dict[str, float]:
    """When each process of a worker began, in seconds since the machine did."""
    found: dict[str, float] = {}
    lines: dict[int, tuple[str, int, float]] = {}
    for pid in processes.tree(root):
        with contextlib.suppress(OSError):
            line = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
            stat = Path(f"/proc/{pid}/stat").read_text()
            fields = stat[stat.rindex(")") + 2 :].split()
            lines[pid] = (line, int(fields[1]), int(fields[19]) * TICK)
    guards = {pid for pid, (line, _, _) in lines.items() if "guard.py run" in line}
    for pid, (line, parent, at) in lines.items():
        if pid in guards:
            found["guard"] = at
        elif parent in guards:
            found["engine's process"] = at
        elif line.rstrip().endswith("-m gateway"):
            found["gateway's process"] = at
        elif line.rstrip().endswith("/health"):
            found["health server"] = at
    if "engine's process" not in found:
        raise BenchError("the engine's process was not found")
    return found


# --- wake -----------------------------------------------------------------------------------------------------------


class Lookout:
    """Asks the engine itself when it is ready, over its socket, on a thread."""

    def __init__(self, run_folder: Path) -> None:
        self._folder = run_folder
        self.ready_at = 0.0
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def wait(self) -> float:
        self._thread.join(WITHIN)
        return self.ready_at

    def _look(self) -> None:
        deadline = time.monotonic() + WITHIN
        while time.monotonic() < deadline:
            for path in self._folder.glob("*/engine.sock"):
                if self._is_ready(path):
                    self.ready_at = time.monotonic()
                    return
            time.sleep(LOOK_EVERY)

    @staticmethod
    def _is_ready(path: Path) -> bool:
        with socket.socket(socket.AF_UNIX) as end, contextlib.suppress(OSError):
            end.settimeout(5)
            end.connect(str(path))
            end.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            return b" 200 " in end.recv(4096)[:20]
        return False


def wakes(engine: Engine, folder: Path, rounds: int) -> list[Figures]:
    """The same gateway again and again, whose engine stops as soon as it has answered."""
    port, run_folder = free_port(), folder / "run"
    run_folder.mkdir(mode=0o700)
    settings = engine.settings | {
        "PORT": str(port),
        "WAKE_ON_START": "false",
        "IDLE_TIMEOUT": "100ms",
        "WAKEGATE_RUN_DIR": str(run_folder),
    }
    found = []
    with running([sys.executable, "-P", "-m", "gateway"], folder, settings) as (process, _):
        connected(port, process).close()
        for _ in range(rounds):
            lookout = Lookout(run_folder)
            asked = time.monotonic()
            answered = ask(connected(port, process))
            ready = lookout.wait()
            again = time.monotonic()
            warm = ask(connected(port, process)) - again
            found.append(
                {
                    "request to ready": 1000 * (ready - asked),
                    "ready to first byte": 1000 * (answered - ready),
                    "of it, a warm request": 1000 * warm,
                }
            )
            deadline = time.monotonic() + WITHIN
            while any(run_folder.glob("*/")) and time.monotonic() < deadline:
                time.sleep(0.02)
    return found


# --- The table ------------------------------------------------------------------------------------------------------

BOOT = ("health server", "gateway's process", "port open", "guard", "engine's process", "first byte")
LATE = "3 s, then llama-server"
READ = ("ready, READ_AHEAD=false", "ready, READ_AHEAD=true")
PROMPT = ("first byte, WARMUP=off", "first byte, WARMUP=prefix.txt")
WAKE = ("request to ready", "ready to first byte", "of it, a warm request")


def table(title: str, rows: tuple[str, ...], values: dict[str, list[Figures]]) -> str:
    head = f"| {title} | " + " | ".join(values) + " |"
    lines = [head, "|---" * (len(values) + 1) + "|"]
    lines += [
        f"| {row} | " + " | ".join(cell([one[row] for one in found]) for found in values.values()) + " |"
        for row in rows
    ]
    return "\n".join(lines)


def cell(figures: list[float]) -> str:
    return f"{statistics.median(figures):.0f} [{min(figures):.0f}..{max(figures):.0f}]"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--engines", default="", help="quick, llama-server, llama-cpp-python")
    parser.add_argument("--part", choices=("boot", "wake", "both", "read", "prompt"), default="both")
    parser.add_argument("--disk", type=int, default=0, help="MB/s, for --part read; 0: as it is")
    asked = parser.parse_args()
    get_ready()
    before = processes.Busy.now()
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="wakegate-cold-") as name:
        here = Path(name)
        model = here / "demo.gguf"
        subprocess.run([sys.executable, str(ROOT / "scripts/make_demo_model.py"), str(model)], check=True)
        try:
            if asked.part == "read":
                print(table("cold disk, ms", READ, reads(here, asked.engines, asked.rounds, asked.disk * 1_000_000)))
            if asked.part == "prompt":
                slow = here / "slow.gguf"
                words = [sys.executable, str(ROOT / "scripts/make_demo_model.py"), str(slow), "--size", "slow"]
                subprocess.run(words, check=True)
                print(table("long prompt, ms", PROMPT, prompts(here, slow, asked.engines, asked.rounds)))
            if asked.part in ("boot", "both"):
                print(
                    table(
                        "boot, ms after exec", BOOT, boots(chosen(engines(model, 0), asked.engines), here, asked.rounds)
                    )
                )
            if asked.part in ("wake", "both"):
                woken: dict[str, list[Figures]] = {}
                for number, engine in enumerate(chosen(engines(model, 0.7), asked.engines).values()):
                    (folder := here / f"wake{number}").mkdir()
                    woken[engine.name] = wakes(engine, folder, asked.rounds)
                print("\n" + table("wake, ms", WAKE, woken))
        except BenchError as error:
            print(error, file=sys.stderr)
            return 2
    cores = len(os.sched_getaffinity(0))
    others = processes.Busy.now().others_since(before) / (time.monotonic() - began) / cores
    print(f"\n{asked.rounds} rounds, {cores} cores; meanwhile other work used {others:.0%} of them.")
    return 0


def boots(subjects: dict[str, Engine], here: Path, rounds: int) -> dict[str, list[Figures]]:
    found: dict[str, list[Figures]] = {name: [] for name in subjects}
    for number in range(rounds):
        for name, engine in subjects.items():
            (folder := here / f"boot-{name}-{number}").mkdir()
            found[name].append(boot(engine, folder))
    return found


def chosen(there: dict[str, Engine], wanted: str) -> dict[str, Engine]:
    names = [name.strip() for name in wanted.split(",")] if wanted else list(there)
    if unknown := set(names) - set(there):
        raise BenchError(f"No such engine: {', '.join(sorted(unknown))}; there are {', '.join(there)}")
    for name in names:
        if there[name].missing:
            print(f"Not measured, as it is not installed: {name} ({there[name].missing})")
    return {name: there[name] for name in names if not there[name].missing}


if __name__ == "__main__":
    sys.exit(main())
