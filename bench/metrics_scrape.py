"""What /metrics costs: CPU of one scrape, of counting one request, and how large the page is.

    python bench/metrics_scrape.py [--quick]

The event loop does nothing else meanwhile, so both are waiting time of every stream. With the same number of series
from prometheus_client beside it, where that is installed: why the text is written here (docs/adr/0010-metrics-text.md).
"""

import argparse
import time
from collections.abc import Callable

from gateway.errors import CATALOGUE
from gateway.policy.lifecycle.states import State
from gateway.records.ended import Ended
from gateway.records.metrics import FIRST_BYTE_BUCKETS, PHASES, Metrics
from gateway.records.readings import ProcessFacts, UpstreamFacts
from gateway.web.routes import INFERENCE

MODELS = [f"organisation-{number}/some-model-7B-instruct-GGUF" for number in range(32)]


def ended(**facts: object) -> Ended:
    usual: dict[str, object] = {
        "at": 0.0,
        "request_id": "r",
        "caller_id": "",
        "upstream": "default",
        "key": "team-1",
        "route": "/v1/chat/completions",
        "model": MODELS[0],
        "status": 200,
        "outcome": "answered",
        "code": "",
        "ended_by": "engine",
        "state": "ready",
        "line": 0.0,
        "wake": 0.0,
        "first_byte": 0.03,
        "first_token": 0.05,
        "longest_gap": 0.2,
        "took": 2.0,
        "tokens_in": 7,
        "tokens_out": 30,
        "bytes_in": 120,
        "bytes_out": 900,
    }
    return Ended(**(usual | facts))


def full(upstreams: int) -> Metrics:
    """One that has used every label there is."""
    metrics = Metrics(models=MODELS, key_names=True)
    spent = dict.fromkeys(State, 1e4)
    facts = [
        UpstreamFacts(name, State.READY, 3, 1, 5, 1.5, None, 300.0, 1e4, spent)
        for name in ("default", *(f"upstream-{number}" for number in range(1, upstreams)))
    ]
    metrics.watch(lambda: facts)
    metrics.watch_process(lambda: ProcessFacts(0.2, 0.01, 0, 0, 0, 12, True))
    for each in facts:
        metrics.start_began(each.name)
        metrics.start_ended(each.name, "ready", dict.fromkeys(PHASES, 1.5))
        for route in INFERENCE:
            metrics.ended(ended(upstream=each.name, route=route.path, wake=3.0))
        for code in CATALOGUE:
            metrics.ended(ended(upstream=each.name, outcome="refused", code=code))
            metrics.rejected(code)
    for model in MODELS:
        metrics.ended(ended(model=model))
    for number in range(64):
        metrics.ended(ended(key=f"team-{number}"))
    return metrics


def theirs() -> Callable[[], bytes]:
    """As much from prometheus_client: four histograms with eight label sets."""
    from prometheus_client import CollectorRegistry, Histogram, generate_latest

    registry = CollectorRegistry(auto_describe=False)
    for number in range(4):
        histogram = Histogram(
            f"wakegate_time_{number}_seconds",
            "T.",
            ("upstream", "route"),
            buckets=FIRST_BYTE_BUCKETS,
            registry=registry,
        )
        for route in INFERENCE:
            histogram.labels("default", route.path).observe(0.3)
    return lambda: generate_latest(registry)


def cpu(work: Callable[[], object], times: int) -> float:
    """Seconds of CPU that one of it takes, the best of five."""
    best = float("inf")
    for _ in range(5):
        began = time.process_time()
        for _ in range(times):
            work()
        best = min(best, (time.process_time() - began) / times)
    return best


def main() -> None:
    words = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    words.add_argument("--quick", action="store_true", help="fewer rounds")
    rounds = 5 if words.parse_args().quick else 50
    print(f"{'page':<44}{'bytes':>8}{'ms':>8}")
    for upstreams in (1, 32):
        metrics = full(upstreams)
        name = f"32 models, 64 keys, {upstreams} upstream{'s' if upstreams > 1 else ''}"
        print(f"{name:<44}{len(metrics.page()):>8}{cpu(metrics.page, rounds) * 1e3:>8.2f}")
    try:
        page = theirs()
        print(f"{'prometheus_client, as large':<44}{len(page()):>8}{cpu(page, rounds) * 1e3:>8.2f}")
    except ImportError:
        print("prometheus_client is not installed")
    metrics, e = full(1), ended()
    print(f"\ncounting one request: {cpu(lambda: metrics.ended(e), rounds * 200) * 1e6:.1f} µs")


if __name__ == "__main__":
    main()
