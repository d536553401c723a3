"""What each of the gateway's features costs, switched on alone: CPU time per chunk at 200 streams and per 1 KB request.

    python -m bench.features [--quick]

Several gateways stand side by side: one without any of the features, one with each of them alone, one with all
(bench/featured.py). They are given small pieces of the same work in turn, in an order that is shuffled each time. What
a feature costs is the median of the differences to the one without any in the same turn, so that what the machine does
meanwhile hits both alike. After a third of the turns all are started anew: where a process happens to lie in memory
makes some percent, too.
"""

import argparse
import contextlib
import json
import random
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from bench.compare import machine
from bench.featured import FEATURES, LIMITS, SOCKET
from bench.figures import shown
from bench.stand import BenchError, Lost, Standing, build, get_ready, standing
from bench.subjects import KEY, ROOT, Launch, Place, Subject, cache_folder, wakegate_settings
from bench.work import WARM, Options
from gateway.policy.keys import digest_of

NONE, ALL, UNIX = "none", "all", "unix"
VARIANTS = {
    NONE: "none of them",
    "auth": "API key",
    "metrics": "metrics",
    "log": "log line",
    "usage": "looking for `usage`",
    "hold": "line and lifecycle",
    "body": "body check",
    "quotas": "a key's limits",
    ALL: "all of them",
    UNIX: "all of them, the engine on a unix socket",
}
WORKS: dict[str, tuple[Options, str]] = {
    "chunk": ({"connections": 200, "ramp": 300, "chunks": 45, "gap": 33_333}, "chunks"),
    "request": ({"connections": 32, "each": 30}, "answers"),
}
"""One piece of work, and what of it is counted."""
GOALS = {"chunk": 0.10, "request": 0.25}
"""The share of all of them in the cost of a chunk and of a request."""

Costs = Mapping[str, Mapping[str, Sequence[float]]]
"""Seconds of CPU, one for each turn: `costs[work][variant]`."""


@dataclass(frozen=True, slots=True)
class Size:
    """How often."""

    sittings: int
    """Times that all are started anew."""
    turns: Mapping[str, int]
    """In one sitting, by work."""


QUICK = Size(1, {"chunk": 3, "request": 8})
FULL = Size(3, {"chunk": 4, "request": 20})


def features_of(variant: str) -> tuple[str, ...]:
    if variant in (ALL, UNIX):
        return FEATURES
    return () if variant == NONE else (variant,)


def gateway(variant: str) -> Subject:
    """The gateway with what this variant has."""
    features = features_of(variant)

    def launch(place: Place) -> Launch:
        settings = wakegate_settings(place) | {"PYTHONPATH": str(ROOT)}
        if {"auth", "quotas"} <= set(features):
            del settings["API_KEY"]
            keys = place.folder / "keys.toml"
            limits = "".join(f"{name} = {limit}\n" for name, limit in LIMITS.items())
            keys.write_text(f'[[keys]]\nname = "bench"\nhash = "sha256:{digest_of(KEY.encode()).hex()}"\n{limits}')
            settings["API_KEYS_FILE"] = str(keys)
        if variant == UNIX:
            settings[SOCKET] = str(place.engine_socket)
        return Launch([sys.executable, "-P", "-m", "bench.featured", ",".join(features)], settings)

    return Subject(variant, VARIANTS[variant], launch, lambda: "", lambda: "")


def measure(size: Size) -> Costs:
    """Raises Lost."""
    programs = build()
    costs: dict[str, dict[str, list[float]]] = {work: {variant: [] for variant in VARIANTS} for work in WORKS}
    for _ in range(size.sittings):
        with _all_standing(programs) as stands:
            for work, turns in size.turns.items():
                for _ in range(turns):
                    for variant in random.sample(list(stands), len(stands)):
                        costs[work][variant].append(_piece(stands[variant], *WORKS[work]))
    return costs


@contextlib.contextmanager
def _all_standing(programs: tuple) -> Iterator[dict[str, Standing]]:
    with contextlib.ExitStack() as stack:
        stands = {variant: stack.enter_context(standing(gateway(variant), programs)) for variant in VARIANTS}
        for stand in stands.values():
            for warm in WARM:
                stand.carry(warm)
        yield stands


def _piece(stand: Standing, options: Options, counted: str) -> float:
    before = stand.cpu()
    done = stand.carry(options)
    return stand.cpu().since(before) / done[counted]


# --- Telling ----------------------------------------------------------------------------------------------------------


def added(costs: Mapping[str, Sequence[float]], variant: str) -> tuple[float, float, float]:
    """What the variant costs more than the one without any, turn by turn: median, lower and upper quartile."""
    differences = [one - none for one, none in zip(costs[variant], costs[NONE], strict=True)]
    low, median, high = statistics.quantiles(differences, n=4) if len(differences) > 1 else differences * 3
    return median, low, high


def share(costs: Mapping[str, Sequence[float]], variant: str = ALL) -> float:
    """Of what a unit costs with all features, what this one takes."""
    return added(costs, variant)[0] / statistics.median(costs[ALL])


def table(costs: Costs) -> str:
    """In Markdown: a row for each variant."""
    lines = [
        "| Feature, alone | per chunk, µs | of a chunk | per request, µs | of a request |\n",
        "|---|---|---|---|---|\n",
    ]
    for variant, title in VARIANTS.items():
        cells = [cell for work in ("chunk", "request") for cell in _cells(costs[work], variant)]
        lines.append(f"| {title} | {' | '.join(cells)} |\n")
    return "".join(lines)


def _cells(costs: Mapping[str, Sequence[float]], variant: str) -> tuple[str, str]:
    if variant == NONE:
        return shown(statistics.median(costs[NONE]) * 1e6), ""
    median, low, high = (each * 1e6 for each in added(costs, variant))
    return f"{median:+.2f} [{low:+.2f}..{high:+.2f}]", f"{share(costs, variant) * 100:.1f} %"


def goals(costs: Costs) -> str:
    lines = ["| Goal | at most | reached | met |\n|---|---|---|---|\n"]
    for work, most in GOALS.items():
        found = share(costs[work])
        met = "yes" if round(found, 3) <= most else "**no**"  # as it is shown
        lines.append(f"| all features' share of a {work} | {most:.0%} | {found:.1%} | {met} |\n")
    return "".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a minute: good to a third of what a feature costs")
    asked = parser.parse_args()
    get_ready()
    began = time.monotonic()
    try:
        costs = measure(QUICK if asked.quick else FULL)
    except (BenchError, Lost) as error:
        print(error, file=sys.stderr)
        return 2
    print(table(costs))
    print(goals(costs))
    print(f"A cell: the median difference to the first row [quartiles]; {time.monotonic() - began:.0f} s.")
    if not asked.quick:
        path = cache_folder() / "features.json"
        when = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
        path.write_text(json.dumps({"when": when, "machine": machine(), "costs": costs}), "utf-8")
        print(f"Kept in {path} for the page.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
