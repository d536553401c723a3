"""What the subjects are given to do, and which figures come of it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from bench.figures import Measure

EVENTS_PER_SECOND = 6000
"""Of all streams together, whatever their number, so that only the number differs (200 streams × 30/s)."""
OPENED_PER_SECOND = 400
UPLOAD = 10_000_000
HEARD = 5
"""Chunks after which a caller leaves."""
PACE = 0.01
"""Seconds between two of them, and so how exactly one knows when the engine was told."""
TOLD_WITHIN = 1.0
"""Seconds in which the engine must be told that its caller has left."""

CPU = "CPU time"
MEMORY = "Memory"
LATENCY = "Time added"
BEGIN = "Start"
KEPT = "Engine that closes kept connections"
SECTIONS = (CPU, MEMORY, LATENCY, KEPT, BEGIN)


@dataclass(frozen=True, slots=True)
class Form:
    """How much of everything."""

    name: str
    seconds: float
    """Of one measurement."""
    streamed: float
    """Of one of chunks: long enough for the opening of its streams to be a small part."""
    streams: tuple[int, ...]
    idle: int
    uploads: int
    whole: bool
    """Whether it holds what no goal is about, too: one stream after the other, an engine as fast as it can."""


QUICK = Form("quick", seconds=1.2, streamed=3.0, streams=(200,), idle=200, uploads=4, whole=False)
FULL = Form("full", seconds=1.5, streamed=3.0, streams=(1, 50, 200, 1000), idle=1000, uploads=10, whole=True)
FORMS = {form.name: form for form in (QUICK, FULL)}

Options = Mapping[str, int]
Counted = Mapping[str, Any]
"""What the load generator prints."""


@dataclass(frozen=True, slots=True)
class Work:
    """One measurement in a fresh process."""

    name: str
    load: Options
    per: Callable[[Counted], float]
    """Units of work that were done; CPU time is divided by it."""
    measures: tuple[Measure, ...]
    latencies: Mapping[str, tuple[str, str]]
    """Measures that the load generator counts itself: which of its samples, and what of them."""
    warm: Options | None = None
    """One more round to warm up with, besides the usual ones."""
    idle: int = 0
    """Streams that are opened and held, while memory is read; CPU time is not."""
    steady: str = ""
    """Where the CPU time of a chunk goes that passed while all streams were open: without openings and ends."""
    counts: Mapping[str, Callable[[Counted, Counted], float]] = field(default_factory=dict)
    """Measures that are counted: from what the load generator and what the engine says."""

    @property
    def cost(self) -> str:
        """The measure that CPU time goes into."""
        return self.name


def micro(seconds: float) -> int:
    return round(seconds * 1e6)


def milli(seconds: float) -> int:
    return round(seconds * 1e3)


def ramp_of(streams: int) -> float:
    """In which they are opened: a caller after the other, as they come, not all in one instant."""
    return streams / OPENED_PER_SECOND


def _chunks(counted: Counted) -> float:
    return float(counted["chunks"])


def _answers(counted: Counted) -> float:
    return float(counted["answers"])


def _megabytes(counted: Counted) -> float:
    return float(counted["bytes"]) / 1e6


def _streams(form: Form, count: int) -> Work:
    # One stream alone is paced like the quickest of engines: at 6,000 events a second they would come in heaps.
    gap = 0.002 if count == 1 else count / EVENTS_PER_SECOND
    ramp = ramp_of(count)
    # One alone opens nothing meanwhile; of many, the first goes on when the last is there.
    long = form.seconds if count == 1 else max(form.streamed, ramp + form.seconds)
    load = {"connections": count, "ramp": milli(ramp), "chunks": max(3, round(long / gap)), "gap": micro(gap)}
    each = f"{count:,} stream{'s' * (count > 1)}"
    chunk = Measure(f"chunk-{count}", CPU, f"per chunk, {each} × {1 / gap:.0f}/s, µs", 1e6)
    pause = Measure(f"gap-{count}", LATENCY, f"to a gap between chunks, {each}, p99, ms", 1e3, compared=False)
    found: dict[str, tuple[str, str]] = {pause.name: ("gap", "p99")}
    measures = [chunk, pause]
    if count > 1:
        first, samples = _first(count, each)
        measures[1:1] = first
        found |= samples
    return Work(chunk.name, load, _chunks, tuple(measures), found, steady=f"steady-{count}")


def _first(count: int, each: str) -> tuple[list[Measure], dict[str, tuple[str, str]]]:
    """The time to the first chunk: its measures, and which samples they are."""
    title = f"to the first chunk, {each}"
    usual = Measure(f"first-p50-{count}", LATENCY, f"{title}, p50, ms", 1e3, added=True)
    late = Measure(f"first-p99-{count}", LATENCY, f"{title}, p99, ms", 1e3, added=True, compared=False)
    return [usual, late], {usual.name: ("first", "p50"), late.name: ("first", "p99")}


def _first_alone(form: Form) -> Work:
    load = {"connections": 1, "seconds": milli(form.seconds), "chunks": 2, "gap": 0, "most": 10_000}
    measures, samples = _first(1, "1 stream after the other")
    return Work("first", load, _answers, tuple(measures), samples)


def _closed_loop(form: Form, name: str, title: str, **more: int) -> Work:
    # `most`: fewer than the ports that one address has, for proxies that open a connection for each request.
    load = {"connections": 32, "seconds": milli(form.seconds), "most": 20_000} | more
    return Work(name, load, _answers, (Measure(name, CPU, title, 1e6),), {})


def _upload(form: Form, name: str, title: str, is_form: int) -> Work:
    load = {"connections": 2, "each": form.uploads // 2, "size": UPLOAD, "form": is_form}
    warm = load | {"connections": 1, "each": 1}
    return Work(name, load, _megabytes, (Measure(name, CPU, title, 1e3),), {}, warm=warm)


def _burst(form: Form) -> Work:
    load = {"connections": 20, "chunks": round(form.seconds * 3000), "gap": 1000, "per-write": 5}
    title = "per chunk, 20 streams × 5 at once each millisecond, µs"
    return Work("burst", load, _chunks, (Measure("burst", CPU, title, 1e6),), {})


def _leave(form: Form) -> Work:
    """Callers who hang up in the middle of their streams, and come again."""
    # Long enough for an engine that was not told to be caught at it.
    plan = {"chunks": round(3 * TOLD_WITHIN / PACE), "gap": micro(PACE), "leave": HEARD}
    load = {"connections": 32, "seconds": milli(form.seconds), "most": 20_000} | plan
    cost = Measure("leave", CPU, f"per caller who leaves after {HEARD} chunks, µs", 1e6)
    title = f"until the engine hears that its caller left, latest, ms (steps of {milli(PACE)})"
    told = Measure("told", LATENCY, title, 1e3, compared=False)
    return Work("leave", load, _left, (cost, told), {}, counts={told.name: _told})


def _left(counted: Counted) -> float:
    return float(counted["left"])


def _told(_: Counted, engine: Counted) -> float:
    return max(0.0, (engine["sent_before_cut"] - HEARD) * PACE)


def _promise() -> Work:
    """An engine that closes each connection after a stream, which HTTP/1.1 has promised to keep (llama-server)."""
    load = {"connections": 32, "each": 20, "chunks": 2, "gap": 0, "drop": 1, "lossy": 1}
    lost = Measure("promise-lost", KEPT, "answers lost, of 640", 1, compared=False)
    twice = Measure("promise-twice", KEPT, "requests that reached the engine more than once, of 640", 1, compared=False)
    counts: dict[str, Callable[[Counted, Counted], float]] = {
        lost.name: lambda counted, _: float(counted["lost"]),
        twice.name: lambda _, engine: float(engine["twice"]),
    }
    return Work("promise", load, _answers, (lost, twice), {}, counts=counts)


def _idle(form: Form) -> Work:
    load = {"connections": form.idle, "ramp": milli(ramp_of(form.idle)), "chunks": 2, "gap": micro(600), "hold": 1}
    measures = (
        Measure("idle", MEMORY, f"per idle stream, of {form.idle:,}, KB", 1 / 1000),
        Measure("whole", MEMORY, f"in all, with {form.idle:,} idle streams, MB", 1 / 1e6),
    )
    return Work("idle", load, _answers, measures, {}, idle=form.idle)


def works(form: Form) -> list[Work]:
    return [
        *([_first_alone(form)] if form.whole else []),
        *(_streams(form, count) for count in form.streams),
        _closed_loop(form, "request", "per JSON request of 1 KB, µs"),
        _closed_loop(form, "short", "per stream of 2 chunks, µs", chunks=2, gap=0),
        _upload(form, "upload-json", "per MB of a 10 MB upload, JSON, ms", 0),
        _upload(form, "upload-form", "per MB of a 10 MB upload, multipart, ms", 1),
        *([_burst(form)] if form.whole else []),
        _leave(form),
        _promise(),
        _idle(form),
    ]


START = (
    Measure("start-health", BEGIN, "until the health port answers, ms", 1e3, compared=False),
    Measure("start-listens", BEGIN, "until the port is open, ms", 1e3, compared=False),
    Measure("start-answers", BEGIN, "until the first answer has passed, ms", 1e3, compared=False),
)


GROWTH = Measure("growth", CPU, "per chunk while all are open, 1,000 streams by 50, times", 1, compared=False)


def with_growth(values: Mapping[str, Mapping[str, list[float]]]) -> dict[str, dict[str, list[float]]]:
    """How much dearer a chunk is among 1,000 streams than among 50, each round by its own."""
    many, few = values.get("steady-1000", {}), values.get("steady-50", {})
    grown = {name: [a / b for a, b in zip(row, few.get(name, []), strict=False)] for name, row in many.items()}
    found = {name: row for name, row in grown.items() if row}
    return {**{name: dict(row) for name, row in values.items()}, **({GROWTH.name: found} if found else {})}


def all_measures(form: Form) -> list[Measure]:
    found = [measure for work in works(form) for measure in work.measures]
    if {50, 1000} <= set(form.streams):
        found.insert(next(at for at, each in enumerate(found) if each.name == "request"), GROWTH)
    return [*found, *START]


WARM: tuple[Options, ...] = (
    {"connections": 32, "seconds": 300, "most": 2_000},
    {"connections": 20, "chunks": 2, "gap": 0},
)
"""Before every measurement: 0.3 s of requests and 20 short streams."""
