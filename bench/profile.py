"""Where it goes: what an idle stream's memory and a unit's CPU time are made of, in the gateway under the bench's load.

    python -m bench.profile memory|request|chunk [--rounds N] [--page]

memory    an idle stream's bytes, by who allocated them
request   a 1 KB request's CPU time, and the calls that are made for it, by room
chunk     the same of a chunk at 200 streams, and what our own functions need for one when nothing else is done

Profilers make what they look at dearer, and unevenly. So what a unit costs is measured without one, beside nginx and
beside the least that can be built on the same parts (bench/peers/bare_aiohttp.py), with fresh processes in turn; the
profile says what that is made of. --page writes the tables into docs/explanation/performance.md.
"""

import argparse
import asyncio
import contextlib
import json
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from pstats import Stats as ReadStats
from typing import Any

from aiohttp.http import HttpVersion11

from bench.compare import machine
from bench.figures import BASE, Figure, shown
from bench.page import PAGE, with_figures
from bench.processes import Busy, Cpu, kernel_time
from bench.profiled import seen
from bench.rooms import KERNEL, OURS, ROOMS, Calls, calls_by_room, room_of, shares_by_library, short
from bench.stand import BenchError, Lost, Standing, build, get_ready, standing
from bench.subjects import PEERS, ROOT, SUBJECTS, Launch, Place, Subject, wakegate_settings
from bench.work import EVENTS_PER_SECOND, FULL, WARM, Work, works
from gateway.process import loop_factory
from gateway.proxy import dialects
from gateway.proxy.connection import Connection
from gateway.proxy.reply import Reply
from gateway.proxy.stream import EventStream

ROUNDS = 5
SEEN_WITHIN = 60.0
PERF_HERTZ = 1999
PERF_BEGINS = 0.3
"""Seconds that are left to it, as it does not say when it has begun."""
SETTLES = 0.3
"""Seconds after which the gateway has let go of callers who left."""
LINES = 12
"""Of the memory table's single lines, that many are printed."""

Programs = tuple[Path, Path]


# --- Who is measured --------------------------------------------------------------------------------------------------

FLOOR, SERVER, GATEWAY, NAIVE = "floor", "server", "wakegate", "aiohttp"


def _bare(name: str, title: str, *, asks: bool) -> Subject:
    def launch(place: Place) -> Launch:
        ports = [str(place.port), str(place.engine)] if asks else [str(place.port)]
        return Launch([sys.executable, str(PEERS / "bare_aiohttp.py"), *ports], {})

    return Subject(name, title, launch, lambda: "", lambda: "")


COMPARED = {
    GATEWAY: SUBJECTS[GATEWAY],
    NAIVE: SUBJECTS[NAIVE],
    FLOOR: _bare(FLOOR, "the least on these parts: passes on, looks at nothing", asks=True),
    SERVER: _bare(SERVER, "aiohttp's server alone: answers by itself", asks=False),
    BASE: SUBJECTS[BASE],
}
"""The gateway, and what to hold it against, from the dearest down."""


class Profiled:
    """The gateway with a profiler in its process (bench/profiled.py), which sleeps until it is told to look."""

    def __init__(self, kind: str, folder: Path) -> None:
        self._kind = kind
        self._folder = folder
        self._told = 0
        self.subject = Subject("profiled", "WakeGate", self._launch, lambda: "", lambda: "")

    def _launch(self, place: Place) -> Launch:
        command = [sys.executable, "-P", "-m", "bench.profiled", self._kind, str(self._folder)]
        return Launch(command, wakegate_settings(place) | {"PYTHONPATH": str(ROOT)})

    def look(self, process: subprocess.Popen[bytes]) -> Path:
        """Where what it saw stands. Raises BenchError."""
        self._told += 1
        path = seen(self._folder, self._told)
        process.send_signal(signal.SIGUSR1)
        deadline = time.monotonic() + SEEN_WITHIN
        while not path.exists():
            if process.poll() is not None or time.monotonic() > deadline:
                raise BenchError("the gateway has ended, or does not tell what it saw")
            time.sleep(0.01)
        return path


def process_of(stand: Standing) -> subprocess.Popen[bytes]:
    assert stand.process is not None, "only what stands between load and engine is profiled"
    return stand.process


# --- CPU time ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Cost:
    """Seconds of CPU for one unit."""

    all: float
    """Of a chunk: with its share in the opening and the end of its stream."""
    alone: float
    """Of a chunk: while all streams were open. Of a request the same."""
    kernel: float
    """Of `alone`."""

    @property
    def user(self) -> float:
        return self.alone - self.kernel


def carried(stand: Standing, work: Work, begin: Callable[[], Any], end: Callable[[], Any]) -> tuple[float, float]:
    """(units of all the work, units between `begin` and `end`: the same, or, of chunks, while all streams were open).

    Raises Lost.
    """
    if not work.steady:
        begin()
        units = work.per(stand.carry(work.load))
        end()
        return units, units
    marks: dict[str, int] = {}

    def told(word: str, chunks: int) -> None:
        marks[word] = chunks
        (begin if word == "open" else end)()

    units = work.per(stand.carry(work.load, told))
    if list(marks) != ["open", "ends"]:
        raise Lost("the streams were not all open at one time")
    return units, marks["ends"] - marks["open"]


def cost(name: str, work: Work, programs: Programs) -> Cost:
    """Raises Lost."""
    with standing(COMPARED[name], programs) as stand:
        if name == SERVER:
            stand = replace(stand, engine=stand.port)  # it is its own
        for warm in WARM:
            if name != SERVER or "chunks" not in warm:  # it has no streams
                stand.carry(warm)
        pid = process_of(stand).pid
        marks: list[tuple[Cpu, float]] = []

        def mark() -> None:
            marks.append((stand.cpu(), kernel_time(pid)))

        before = stand.cpu()
        units, between = carried(stand, work, mark, mark)
        whole = stand.cpu().since(before)
        (began, kernel_began), (ended, kernel_ended) = marks
        used = ended.since(began)
        return Cost(whole / units, used / between, min(used, kernel_ended - kernel_began) / between)


def costs(names: Iterable[str], work: Work, programs: Programs, rounds: int) -> dict[str, list[Cost]]:
    """One for each round, in which all take their turn."""
    found: dict[str, list[Cost]] = {name: [] for name in COMPARED if name in names}
    for _ in range(rounds):
        for name in random.sample(list(found), len(found)):
            found[name].append(cost(name, work, programs))
    return found


def calls_of(work: Work, programs: Programs) -> dict[str, Calls]:
    """What is called in the gateway for one unit, by room. Raises Lost, BenchError."""
    with tempfile.TemporaryDirectory(prefix="wakegate-profile-") as folder:
        profiled = Profiled("calls", Path(folder))
        with standing(profiled.subject, programs) as stand:
            for warm in WARM:
                stand.carry(warm)
            paths: list[Path] = []

            def look() -> None:
                paths.append(profiled.look(process_of(stand)))

            _, units = carried(stand, work, look, look)
            stats = ReadStats(str(paths[-1])).stats
    rooms = calls_by_room(stats, str(ROOT))
    return {
        room: Calls(each.python / units, each.built_in / units, each.seconds / units) for room, each in rooms.items()
    }


def libraries_of(work: Work, programs: Programs) -> Mapping[str, float] | str:
    """In whose compiled code the gateway's process spends its time, as shares of one; or why that cannot be seen.

    From samples that perf takes from outside, which makes nothing dearer than it is. Raises Lost.
    """
    if shutil.which("perf") is None:
        return "perf is not installed (apt install linux-perf)"
    with tempfile.TemporaryDirectory(prefix="wakegate-profile-") as folder:
        data = str(Path(folder) / "perf.data")
        with standing(Profiled("calls", Path(folder)).subject, programs) as stand:
            for warm in WARM:
                stand.carry(warm)
            watch = ["perf", "record", "-q", "-F", str(PERF_HERTZ), "-p", str(process_of(stand).pid), "-o", data]
            with contextlib.ExitStack() as stack:
                perf: list[subprocess.Popen[str]] = []

                def begin() -> None:
                    perf.append(stack.enter_context(subprocess.Popen(watch, stderr=subprocess.PIPE, text=True)))
                    stack.callback(perf[0].send_signal, signal.SIGINT)
                    time.sleep(PERF_BEGINS)

                def end() -> None:
                    perf[0].send_signal(signal.SIGINT)

                carried(stand, work, begin, end)
                said = perf[0].communicate()[1]
        report = ["perf", "report", "-q", "-i", data, "--stdio", "--sort", "dso", "-F", "overhead,dso", "-t", ";"]
        done = subprocess.run(report, capture_output=True, text=True)
    shares = shares_by_library(done.stdout.splitlines())
    if shares and KERNEL not in shares:
        return "perf may not look into the kernel here (kernel.perf_event_paranoid)"
    why = " ".join((said or done.stderr).split()) or "it saw nothing"
    return shares or f"perf may not look into processes here ({why})"


# --- Our own functions, alone -----------------------------------------------------------------------------------------

CHUNK = (
    b'data: {"id":"bench","object":"chat.completion.chunk","created":1795000000,"model":"bench","choices":[{"index":0,'
    b'"finish_reason":null,"delta":{"content":"event 7, sent 1795000000000000 '
).ljust(213, b"x") + b'"}}]}\n\n'
FRAMED = b"%x\r\n%b\r\n" % (len(CHUNK), CHUNK)
"""As the fake engine sends it."""
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


class Nowhere:
    """A transport that takes everything, the writing side of aiohttp's protocol, and a request of nobody."""

    method = "POST"
    keep_alive = True
    version = HttpVersion11
    writing_paused = False

    def __init__(self) -> None:
        self.transport = self.protocol = self
        self.written = 0

    def write(self, data: bytes) -> None:
        self.written += len(data)

    def is_closing(self) -> bool:
        return False


def ours_alone(streams: int, times: int, rounds: int = 15) -> float:
    """Seconds that one chunk needs from the read to the write, the best of some rounds: no kernel, no event loop."""

    def measured(takers: Sequence[Callable[[bytes], None]]) -> float:
        best = float("inf")
        for _ in range(rounds):
            began = time.process_time()
            for _ in range(times):
                for take in takers:
                    take(FRAMED)
            best = min(best, (time.process_time() - began) / times / streams)
        return best

    return _with_takers(streams, measured, rounds * times * streams)


def ours_rested(streams: int, times: int) -> float:
    """The same, the median of single ones: before each the process sleeps, as it does between chunks that come at a
    rate, and the processor's caches are somebody else's meanwhile."""

    def measured(takers: Sequence[Callable[[bytes], None]]) -> float:
        took = []
        for number in range(times):
            take = takers[number % streams]
            time.sleep(1 / EVENTS_PER_SECOND)
            began = time.perf_counter()
            take(FRAMED)
            took.append(time.perf_counter() - began)
        return statistics.median(took)

    return _with_takers(streams, measured, times)


def _with_takers(streams: int, measured: Callable[[Sequence[Callable[[bytes], None]]], float], chunks: int) -> float:
    """What `measured` says when it has sent that many chunks into streams that are open. Raises BenchError."""

    async def on_a_loop() -> float:
        caller = Nowhere()
        takers = [_open_stream(caller).data_received for _ in range(streams)]
        before = caller.written
        found = measured(takers)
        if caller.written - before != chunks * len(FRAMED):
            raise BenchError("not all chunks have passed")
        return found

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        return runner.run(on_a_loop())


def _open_stream(caller: Nowhere) -> Connection:
    """A connection to an engine whose stream has begun, and goes to this caller."""
    connection = Connection(asyncio.get_running_loop(), "tcp")
    connection.connection_made(Nowhere())
    connection.ask("POST", b"")
    connection.data_received(HEAD)
    reply = Reply(caller, dialects.OPENAI, request_id="bench", write_timeout=60)
    reply.begin_now(200, [("content-type", "text/event-stream")], length=None)
    connection.flow_to(EventStream(connection, reply, choices=1).take)
    connection.data_received(FRAMED)
    return connection


# --- Memory -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Held:
    """What one idle stream holds in the gateway's process."""

    lines: Mapping[str, tuple[float, float]]
    """Bytes and blocks, by "path:line"."""
    types: Mapping[str, float]
    """Objects that the garbage collector knows."""

    def by_room(self) -> dict[str, tuple[float, float]]:
        found: dict[str, tuple[float, float]] = {}
        for line, (size, blocks) in self.lines.items():
            room = room_of(line.rpartition(":")[0], str(ROOT))
            sum_size, sum_blocks = found.get(room, (0.0, 0.0))
            found[room] = sum_size + size, sum_blocks + blocks
        return found


def growth(name: str, work: Work, programs: Programs) -> float:
    """Bytes for one stream, from outside (PSS), with no profiler about. Raises Lost."""
    with standing(COMPARED[name], programs) as stand:
        for warm in WARM:
            stand.carry(warm)
        before = stand.memory()
        return (stand.memory_while_held(work.load) - before) / work.idle


def held(work: Work, programs: Programs) -> Held:
    """Raises Lost, BenchError."""
    with tempfile.TemporaryDirectory(prefix="wakegate-profile-") as name:
        profiled = Profiled("memory", Path(name))
        with standing(profiled.subject, programs) as stand:
            for warm in WARM:
                stand.carry(warm)
            time.sleep(SETTLES)
            before = profiled.look(process_of(stand))
            with stand.holding(work.load):
                after = profiled.look(process_of(stand))
            return grown(json.loads(before.read_text()), json.loads(after.read_text()), work.idle)


def grown(before: Mapping[str, Any], after: Mapping[str, Any], streams: int) -> Held:
    lines = {}
    for line in {*before["lines"], *after["lines"]}:
        (size, blocks), (old_size, old_blocks) = (each["lines"].get(line, (0, 0)) for each in (after, before))
        if size != old_size or blocks != old_blocks:
            lines[line] = ((size - old_size) / streams, (blocks - old_blocks) / streams)
    types = {name: (count - before["types"].get(name, 0)) / streams for name, count in after["types"].items()}
    return Held(lines, {name: count for name, count in types.items() if round(count) > 0})


# --- Tables -----------------------------------------------------------------------------------------------------------


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def percent(share: float) -> str:
    return f"{share * 100:.0f} %"


def spread(values: Sequence[float], scale: float) -> str:
    found = Figure.of([value * scale for value in values])
    return f"{shown(found.median)} [{shown(found.low)}..{shown(found.high)}]"


def costs_table(unit: str, found: Mapping[str, Sequence[Cost]], *, streams: bool) -> str:
    """`streams`: that a unit has two costs."""

    def middle(name: str, what: str) -> float:
        return statistics.median(getattr(each, what) for each in found[name])

    rows = []
    for name, several in found.items():
        whole = [spread([each.all for each in several], 1e6), shown(middle(name, "all") / middle(BASE, "all"))]
        alone = [spread([each.alone for each in several], 1e6), shown(middle(name, "alone") / middle(BASE, "alone"))]
        split = [shown(middle(name, what) * 1e6) for what in ("user", "kernel")]
        rows.append([COMPARED[name].title, *whole, *(alone if streams else []), *split])
    more = ["while all streams are open", f"× {BASE}"] if streams else []
    head = [f"CPU time per {unit}, µs", "in all", f"× {BASE}", *more, "of that user", "kernel"]
    return table(head, rows)


def calls_table(unit: str, calls: Mapping[str, Calls]) -> str:
    seconds = sum(each.seconds for each in calls.values())
    rows = [
        (room, shown(each.python), shown(each.built_in), percent(each.seconds / seconds))
        for room in ROOMS
        if (each := calls.get(room)) and each.all >= 0.005
    ]
    for title, rooms in (("the gateway's own, in all", OURS), ("in all", set(calls))):
        those = [each for room, each in calls.items() if room in rooms]
        python, built_in = sum(each.python for each in those), sum(each.built_in for each in those)
        rows.append((f"**{title}**", shown(python), shown(built_in), percent(sum(e.seconds for e in those) / seconds)))
    return table((f"Calls per {unit}", "of Python functions", "of built-in ones", "share of the profile"), rows)


def libraries_table(unit: str, libraries: Mapping[str, float] | str, per_unit: float) -> str:
    """`per_unit`: seconds that a unit takes without a profiler."""
    if isinstance(libraries, str):
        return f"Shares by library: {libraries}.\n"
    rows = [(name, percent(share), shown(share * per_unit * 1e6)) for name, share in libraries.items()]
    return table((f"Where a {unit}'s CPU time is spent", "share", "µs"), rows)


def memory_table(found: Held, growths: Mapping[str, Sequence[float]]) -> str:
    grew = statistics.median(growths[GATEWAY])
    rooms = found.by_room()
    traced = sum(size for size, _ in rooms.values())
    rows = [(room, *rooms[room]) for room in ROOMS if room in rooms and rooms[room][0] >= grew / 1000]
    for title, whose in (("the gateway's own, in all", OURS), ("in all, traced", set(rooms))):
        those = [rooms[room] for room in rooms if room in whose]
        rows.append((f"**{title}**", sum(size for size, _ in those), sum(blocks for _, blocks in those)))
    cells = [(room, f"{size:,.0f}", f"{blocks:.1f}", percent(size / grew)) for room, size, blocks in rows]
    rest = grew - traced
    cells.append(("not traced: rounding up, less what lay free before", f"{rest:,.0f}", "", percent(rest / grew)))
    cells.append(("**in all, from outside** (PSS)", f"{grew:,.0f}", "", percent(1)))
    return table(("An idle stream's memory, by who allocated it", "bytes", "blocks", "share"), cells)


def growths_table(growths: Mapping[str, Sequence[float]]) -> str:
    rows = [(COMPARED[name].title, spread(several, 1 / 1000)) for name, several in growths.items()]
    return table(("KB per idle stream, from outside", "in all"), rows)


def lines_table(found: Held) -> str:
    most = sorted(found.lines.items(), key=lambda pair: -pair[1][0])[:LINES]
    rows = [(f"`{short(line)}`", f"{size:,.0f}", f"{blocks:.1f}") for line, (size, blocks) in most]
    return table(("The dearest lines", "bytes", "blocks"), rows)


def types_line(found: Held) -> str:
    most = sorted(found.types.items(), key=lambda pair: -pair[1])
    several = ", ".join(f"{count:.0f} {name}" for name, count in most if count >= 1.5)
    once = ", ".join(name for name, count in most if count < 1.5)
    return f"Objects of one stream: {several}; one each of {once}.\n"


# --- Commands ---------------------------------------------------------------------------------------------------------

WORKS = {work.name: work for work in works(FULL)}


def memory(rounds: int, programs: Programs) -> tuple[str, str]:
    """(what the page shows, what else is said). Raises Lost, BenchError."""
    work = WORKS["idle"]
    growths: dict[str, list[float]] = {name: [] for name in COMPARED if name != SERVER}
    for _ in range(rounds):
        for name in random.sample(list(growths), len(growths)):
            growths[name].append(growth(name, work, programs))
    found = held(work, programs)
    return f"{memory_table(found, growths)}\n{growths_table(growths)}", f"{lines_table(found)}\n{types_line(found)}"


def request(rounds: int, programs: Programs) -> tuple[str, str]:
    return _cpu("request", WORKS["request"], COMPARED, rounds, programs)[0], ""


def chunk(rounds: int, programs: Programs) -> tuple[str, str]:
    work = WORKS["chunk-200"]
    text, found = _cpu("chunk", work, [name for name in COMPARED if name != SERVER], rounds, programs)
    opening = ", ".join(f"{COMPARED[name].title} {shown(begin)}" for name, begin in openings(work, found).items())
    looped, rested = ours_alone(200, 100), ours_rested(200, 3000)
    says = (
        f"To open a stream and to end it, µs: {opening}.\n\n"
        f"Our own functions alone, from the read to the write of a chunk, µs: {shown(looped * 1e6)} called in a loop, "
        f"{shown(rested * 1e6)} when the process slept before, as it does between chunks that come at this rate."
    )
    return f"{text}\n{says}\n", ""


def openings(work: Work, found: Mapping[str, Sequence[Cost]]) -> dict[str, float]:
    """Microseconds that are no chunk's own, for one stream."""
    chunks = work.load["chunks"] * 1e6
    return {name: statistics.median(each.all - each.alone for each in found[name]) * chunks for name in found}


def _cpu(
    unit: str, work: Work, names: Iterable[str], rounds: int, programs: Programs
) -> tuple[str, dict[str, list[Cost]]]:
    found = costs(names, work, programs, rounds)
    alone = statistics.median(each.alone for each in found[GATEWAY])
    tables = (
        costs_table(unit, found, streams=bool(work.steady)),
        libraries_table(unit, libraries_of(work, programs), alone),
        calls_table(unit, calls_of(work, programs)),
    )
    return "\n".join(tables), found


COMMANDS: dict[str, Callable[[int, Programs], tuple[str, str]]] = {
    "memory": memory,
    "request": request,
    "chunk": chunk,
}


def begin_of(command: str) -> str:
    """The mark in the page behind which a command's tables stand."""
    return f"<!-- measured: written by python -m bench.profile {command} --page -->\n"


def caption(took: float, others: float, rounds: int) -> str:
    on = machine()
    return (
        f"{time.strftime('%Y-%m-%d %H:%M UTC', time.gmtime())}, rounds: {rounds}, in {took:.0f} s; {on['cores']} cores "
        f"({on['processor']}), {on['python']}{' (PGO)' if on['pgo'] else ''}; meanwhile other work used "
        f"{percent(others / took / on['cores'])} of the cores."
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=COMMANDS)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--page", action="store_true", help="write the tables into docs/explanation/performance.md")
    asked = parser.parse_args()
    get_ready()
    began, busy = time.monotonic(), Busy.now()
    try:
        text, more = COMMANDS[asked.what](asked.rounds, build())
    except (BenchError, Lost) as error:
        print(error, file=sys.stderr)
        return 2
    took = time.monotonic() - began
    text = f"{text}\n{caption(took, Busy.now().others_since(busy), asked.rounds)}\n"
    print(text)
    if more:
        print(more)
    if asked.page:
        PAGE.write_text(with_figures(PAGE.read_text("utf-8"), f"\n{text}\n", begin_of(asked.what)), "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
