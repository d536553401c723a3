"""What the gateway wants to reach, as a table, and what a run says of it. Pure.

Ratios are those of medians within one run; what a run did not measure is left out.
"""

import statistics
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial

from bench.figures import BASE, Measure, Values, figure, shown

OURS = "wakegate"
RUST = ("vllm", "sglang")
ROUTERS = (*RUST, "go", "caddy")

Measures = Mapping[str, Measure]


@dataclass(frozen=True, slots=True)
class Goal:
    """One line of the table."""

    title: str
    at_most: float
    reached: Callable[[Measures, Values], float | None]
    """In the unit of the limit; None: not measured."""
    only: str = ""
    """The form of run that it is about: others are too small to say."""
    pgo: bool | None = None
    """The build of Python that it is about: with profile-guided optimisation, without; None: any."""


def _median(name: str, subject: str, measures: Measures, values: Values) -> float | None:
    found = figure(measures[name], subject, values) if name in measures else None
    return None if found is None else found.median


def _times(name: str, peers: Iterable[str], measures: Measures, values: Values) -> float | None:
    """How many times the best of the peers' (those that were measured)."""
    ours = _median(name, OURS, measures, values)
    theirs = [each for peer in peers if (each := _median(name, peer, measures, values)) is not None and each > 0]
    return ours / min(theirs) if ours is not None and theirs else None


def _whole_times(name: str, _: Measures, values: Values) -> float | None:
    """The same with what the engine itself takes, for times that are shown without it."""
    ours, theirs = (values.get(name, {}).get(subject) for subject in (OURS, BASE))
    return statistics.median(ours) / statistics.median(theirs) if ours and theirs else None


def _is(name: str, measures: Measures, values: Values) -> float | None:
    """In the unit in which the measure is shown."""
    found = _median(name, OURS, measures, values)
    return None if found is None else found * measures[name].scale


def times_base(name: str) -> Callable[[Measures, Values], float | None]:
    return partial(_times, name, (BASE,))


def times_best(name: str, *peers: str) -> Callable[[Measures, Values], float | None]:
    return partial(_times, name, peers)


def absolute(name: str) -> Callable[[Measures, Values], float | None]:
    return partial(_is, name)


GOALS = (
    Goal("CPU per chunk at 200 streams, times nginx's", 1.25, times_base("chunk-200")),
    Goal(
        "CPU per chunk at 200 streams, times that of the best router (Rust, Go, Caddy)",
        0.75,
        times_best("chunk-200", *ROUTERS),
    ),
    Goal(
        "CPU per JSON request of 1 KB, times the best Rust router's (without PGO)",
        0.8,
        times_best("request", *RUST),
        pgo=False,
    ),
    Goal(
        "CPU per JSON request of 1 KB, times the best Rust router's (with PGO)",
        0.65,
        times_best("request", *RUST),
        pgo=True,
    ),
    Goal("CPU per MB of a JSON upload, times nginx's", 2.0, times_base("upload-json")),
    Goal("CPU per MB of a multipart upload, times nginx's", 1.2, times_base("upload-form")),
    Goal("added time to the first chunk at 200 streams, p50, times nginx's", 1.3, times_base("first-p50-200")),
    Goal(
        "time to the first chunk at 200 streams, the engine's own included, p50, times nginx's",
        1.3,
        partial(_whole_times, "first-p50-200"),
    ),
    Goal("added time to the first chunk at 200 streams, p99, ms", 10, absolute("first-p99-200")),
    Goal("added gap between chunks at 200 streams, p99, ms", 2, absolute("gap-200")),
    Goal("memory per idle stream, KB", 12, absolute("idle")),
    Goal("memory in all with 1,000 idle streams, MB", 80, absolute("whole"), only="full"),
    Goal("answers lost, of 640 by an engine that closes kept connections", 0, absolute("promise-lost")),
    Goal("requests that reached such an engine more than once, of 640", 0, absolute("promise-twice")),
    Goal("until the health port answers, ms", 60, absolute("start-health")),
    Goal("until the port is open, ms", 400, absolute("start-listens")),
    Goal("CPU per chunk at 1,000 streams, times that at 50", 1.15, absolute("growth")),
)


def goals_table(measures: Iterable[Measure], values: Values, *, form: str, pgo: bool) -> str:
    """In Markdown: what is wanted, what was reached, and whether that is it."""
    by_name = {measure.name: measure for measure in measures}
    lines = []
    for goal in GOALS:
        reached = goal.reached(by_name, values) if goal.only in ("", form) and goal.pgo in (None, pgo) else None
        if reached is not None:
            # Rounded as it is shown: nobody should read "1.25, at most 1.25, no".
            met = float(shown(reached)) <= goal.at_most
            lines.append(f"| {goal.title} | {goal.at_most:g} | {shown(reached)} | {'yes' if met else '**no**'} |\n")
    return "".join(("| Goal | at most | reached | met |\n|---|---|---|---|\n", *lines)) if lines else ""
