"""What Prometheus may ask. Names follow its conventions: `wakegate_` in front, base units, `_total` on counters.

Every series carries its upstream's name. No label comes from a caller: routes are those of our table, outcomes and
codes are closed sets, so a million odd paths make no series.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector

from gateway.errors import CATALOGUE
from gateway.policy.lifecycle.states import State

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

disable_created_metrics()  # a second series for each counter that no dashboard asks for

TTFB_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
"""Seconds: from a warm cache to a cold start of five minutes."""

CODES = frozenset({"", "gateway_fault", *CATALOGUE, "400", "403", "404", "413", "422", "429", "500", "503"})
"""Ours, and the statuses of their own that engines are known to answer with."""


def bounded(code: str) -> str:
    """The code as a label. An engine that makes up statuses makes no series: 418 is `4xx`."""
    if code in CODES:
        return code
    return f"{code[0]}xx" if len(code) == 3 and code.isdecimal() and code[0] in "45" else "other"


class Gauges(Collector):
    """Gauges that are read at the scrape, from whoever knows them."""

    def __init__(self, read: Callable[[], Iterable[Metric]]) -> None:
        self._read = read

    def collect(self) -> Iterable[Metric]:
        return self._read()


class Metrics:
    """All series of one gateway."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry(auto_describe=False)
        self._requests = Counter(
            "wakegate_requests",
            "Inference requests that ended, by route, outcome (answered, refused, left, failed) and code.",
            ("upstream", "route", "outcome", "code"),
            registry=self._registry,
        )
        self._time_to_first_byte = Histogram(
            "wakegate_time_to_first_byte_seconds",
            "From a request's head to the first byte of its answer, waiting and waking included.",
            ("upstream", "route"),
            buckets=TTFB_BUCKETS,
            registry=self._registry,
        )
        self._rejects = Counter(
            "wakegate_http_rejects",
            "Requests that were refused before they reached an inference route, by code.",
            ("code",),
            registry=self._registry,
        )
        self.surrogates = Counter(
            "wakegate_lone_surrogates",
            "Halves of characters in request bodies that were replaced by U+FFFD.",
            registry=self._registry,
        )

    def watch(self, read: Callable[[], Iterable["UpstreamFacts"]]) -> None:
        """Take the gauges of the upstreams from `read`, at each scrape."""
        self._registry.register(Gauges(lambda: upstream_gauges(read())))

    def ended(self, upstream: str, route: str, outcome: str, code: str, first_byte: float | None) -> None:
        """One inference request is over. `route` is one of our table; `first_byte` in seconds, None when none came."""
        self._requests.labels(upstream, route, outcome, bounded(code)).inc()
        if first_byte is not None:
            self._time_to_first_byte.labels(upstream, route).observe(first_byte)

    def rejected(self, code: str) -> None:
        """One was refused before it reached an inference route."""
        self._rejects.labels(bounded(code)).inc()

    def page(self) -> bytes:
        return generate_latest(self._registry)


@dataclass(frozen=True, slots=True)
class UpstreamFacts:
    """What the gauges say of one upstream."""

    name: str
    state: State
    in_flight: int
    waiting: int
    starts: int
    last_activity_age: float | None
    """Seconds; None before the first."""
    progress: float | None
    """0 to 1; None when nothing loads, or nobody knows."""


def upstream_gauges(upstreams: Iterable[UpstreamFacts]) -> list[Metric]:
    state = GaugeMetricFamily(
        "wakegate_state", "1 for the state that the upstream is in, 0 for the others.", labels=("upstream", "state")
    )
    in_flight = GaugeMetricFamily(
        "wakegate_requests_in_flight", "Inference requests that the upstream works on.", labels=("upstream",)
    )
    waiting = GaugeMetricFamily(
        "wakegate_requests_waiting", "Callers in line, or held while it wakes.", labels=("upstream",)
    )
    starts = Metric("wakegate_starts", "Starts that were ordered since this gateway began.", "counter")
    activity = GaugeMetricFamily(
        "wakegate_last_activity_age_seconds",
        "Seconds since the last byte of the last answer; absent before the first.",
        labels=("upstream",),
    )
    loading = GaugeMetricFamily(
        "wakegate_loading_ratio", "How far a start is, 0 to 1; absent when nobody knows.", labels=("upstream",)
    )
    for facts in upstreams:
        for each in State:
            state.add_metric((facts.name, each.value), float(each is facts.state))
        in_flight.add_metric((facts.name,), facts.in_flight)
        waiting.add_metric((facts.name,), facts.waiting)
        starts.add_sample("wakegate_starts_total", {"upstream": facts.name}, facts.starts)
        if facts.last_activity_age is not None:
            activity.add_metric((facts.name,), facts.last_activity_age)
        if facts.progress is not None:
            loading.add_metric((facts.name,), facts.progress)
    return [state, in_flight, waiting, starts, activity, loading]
