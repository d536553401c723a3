"""What Prometheus may ask. Names follow its conventions: `wakegate_` in front, base units, `_total` on counters.

Every series carries its upstream's name. No label comes from a caller: routes are those of our table, outcomes and
codes are closed sets, so a million odd paths make no series.
"""

from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector

from gateway.policy.lifecycle.states import State

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

disable_created_metrics()  # a second series for each counter that no dashboard asks for

TTFB_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
"""Seconds: from a warm cache to a cold start of five minutes."""


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
        self.requests = Counter(
            "wakegate_requests",
            "Inference requests that ended, by route, outcome (answered, refused, left, failed) and code.",
            ("upstream", "route", "outcome", "code"),
            registry=self._registry,
        )
        self.time_to_first_byte = Histogram(
            "wakegate_time_to_first_byte_seconds",
            "From a request's head to the first byte of its answer, waiting and waking included.",
            ("upstream", "route"),
            buckets=TTFB_BUCKETS,
            registry=self._registry,
        )
        self.rejects = Counter(
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

    def page(self) -> bytes:
        return generate_latest(self._registry)


class UpstreamFacts:
    """What the gauges say of one upstream."""

    __slots__ = ("in_flight", "last_activity_age", "name", "progress", "starts", "state", "waiting")

    def __init__(
        self,
        name: str,
        state: State,
        in_flight: int,
        waiting: int,
        starts: int,
        last_activity_age: float | None,
        progress: float | None,
    ) -> None:
        self.name = name
        self.state = state
        self.in_flight = in_flight
        self.waiting = waiting
        self.starts = starts
        self.last_activity_age = last_activity_age
        self.progress = progress


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
