"""What Prometheus reads: its format, its names, and that no stranger can make it grow."""

import random
import re

import pytest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from gateway.errors import CATALOGUE
from gateway.policy.lifecycle.states import State
from gateway.records.metrics import CODES, Metrics, UpstreamFacts, bounded
from gateway.web.routes import INFERENCE
from tests.support.house import CHAT, house

FACTS = UpstreamFacts("default", State.STARTING, 2, 3, 4, 12.5, 0.43)


def families(metrics: Metrics) -> dict[str, Metric]:
    return {family.name: family for family in text_string_to_metric_families(metrics.page().decode())}


def sample(metrics: Metrics, name: str, **labels: str) -> float | None:
    for family in families(metrics).values():
        for each in family.samples:
            if each.name == name and labels.items() <= each.labels.items():
                return each.value
    return None


@pytest.fixture
def busy() -> Metrics:
    """One that has seen something of everything."""
    metrics = Metrics()
    metrics.watch(lambda: [FACTS])
    metrics.ended("default", "/v1/chat/completions", "answered", "", 0.03)
    metrics.ended("default", "/v1/chat/completions", "refused", "queue_full", None)
    metrics.rejected("route_not_found")
    metrics.surrogates.inc(3)
    return metrics


def test_the_page_is_one_that_prometheus_reads(busy: Metrics) -> None:
    text = busy.page().decode()
    assert text.endswith("\n")
    for family in families(busy).values():
        assert family.type in ("counter", "gauge", "histogram"), family
        assert f"# TYPE {family.name}" in text and family.documentation.endswith(".")


def test_names_follow_the_conventions(busy: Metrics) -> None:
    for family in families(busy).values():
        assert re.fullmatch(r"wakegate_[a-z_]+", family.name)
        for each in family.samples:
            if family.type == "counter":
                assert each.name.endswith("_total")
            assert not each.name.endswith("_created")
        if "time" in family.name or "age" in family.name:
            assert family.name.endswith("_seconds"), "base units"


def test_the_names_and_labels_are_these(busy: Metrics) -> None:
    """A name that changes breaks somebody's dashboard."""
    assert {
        family.name: sorted({label for each in family.samples for label in each.labels})
        for family in families(busy).values()
    } == {
        "wakegate_requests": ["code", "outcome", "route", "upstream"],
        "wakegate_time_to_first_byte_seconds": ["le", "route", "upstream"],
        "wakegate_http_rejects": ["code"],
        "wakegate_lone_surrogates": [],
        "wakegate_state": ["state", "upstream"],
        "wakegate_requests_in_flight": ["upstream"],
        "wakegate_requests_waiting": ["upstream"],
        "wakegate_starts": ["upstream"],
        "wakegate_last_activity_age_seconds": ["upstream"],
        "wakegate_loading_ratio": ["upstream"],
    }


def test_the_gauges_say_what_the_upstream_says_at_the_scrape(busy: Metrics) -> None:
    states = {state: sample(busy, "wakegate_state", state=state.value) for state in State}
    assert states == {state: float(state is State.STARTING) for state in State}
    assert sample(busy, "wakegate_requests_in_flight", upstream="default") == 2
    assert sample(busy, "wakegate_requests_waiting", upstream="default") == 3
    assert sample(busy, "wakegate_starts_total", upstream="default") == 4
    assert sample(busy, "wakegate_last_activity_age_seconds") == 12.5
    assert sample(busy, "wakegate_loading_ratio") == 0.43


def test_what_nobody_knows_is_absent() -> None:
    metrics = Metrics()
    metrics.watch(lambda: [UpstreamFacts("default", State.STOPPED, 0, 0, 0, None, None)])
    assert sample(metrics, "wakegate_last_activity_age_seconds") is None
    assert sample(metrics, "wakegate_loading_ratio") is None


def test_several_upstreams_are_told_apart() -> None:
    metrics = Metrics()
    metrics.watch(lambda: [FACTS, UpstreamFacts("other", State.READY, 7, 0, 1, None, None)])
    assert sample(metrics, "wakegate_requests_in_flight", upstream="other") == 7
    assert sample(metrics, "wakegate_state", upstream="other", state="ready") == 1


def test_a_request_that_ended_is_counted_and_its_first_byte_timed() -> None:
    metrics = Metrics()
    metrics.ended("default", "/v1/embeddings", "answered", "", 0.03)
    metrics.ended("default", "/v1/embeddings", "left", "", None)
    assert sample(metrics, "wakegate_requests_total", outcome="answered", route="/v1/embeddings") == 1
    assert sample(metrics, "wakegate_requests_total", outcome="left") == 1
    assert sample(metrics, "wakegate_time_to_first_byte_seconds_count", route="/v1/embeddings") == 1
    assert sample(metrics, "wakegate_time_to_first_byte_seconds_bucket", le="0.025") == 0
    assert sample(metrics, "wakegate_time_to_first_byte_seconds_bucket", le="0.05") == 1


@pytest.mark.parametrize(
    ("code", "label"),
    [
        ("", ""),
        ("queue_full", "queue_full"),
        ("400", "400"),
        ("418", "4xx"),
        ("599", "5xx"),
        ("999", "other"),
        ("٤٠٠", "other"),
        ('evil"} 1\nfake{x="', "other"),
    ],
)
def test_a_code_becomes_a_label_of_a_closed_set(code: str, label: str) -> None:
    assert bounded(code) == label


def test_a_million_codes_make_no_series() -> None:
    chance = random.Random(0)
    labels = {bounded(str(chance.randrange(10**9))) for _ in range(500_000)}
    labels |= {bounded(f"x{number}") for number in range(500_000)}
    assert labels <= CODES | {"4xx", "5xx", "other"}


def test_whatever_happens_on_one_route_the_page_stays_small() -> None:
    metrics = Metrics()
    metrics.watch(lambda: [FACTS])
    chance = random.Random(0)
    codes = [*CATALOGUE, *(str(status) for status in range(1000)), *(chance.randbytes(4).hex() for _ in range(1000))]
    for code in codes:
        metrics.rejected(code)
        for outcome in ("answered", "refused", "failed", "left"):
            metrics.ended("default", "/v1/chat/completions", outcome, code, 1.0)
    assert len(metrics.page()) < 32 * 1024


def test_every_route_in_ordinary_trouble_stays_under_64_kib() -> None:
    metrics = Metrics()
    metrics.watch(lambda: [FACTS])
    for route in INFERENCE:
        for code in CATALOGUE:
            metrics.ended("default", route.path, "failed" if code.startswith("backend_") else "refused", code, 0.1)
        for code in ("", "400", "404", "500", "503"):
            metrics.ended("default", route.path, "answered", code, 0.1)
    assert len(metrics.page()) < 64 * 1024


async def test_strangers_with_odd_paths_and_names_make_no_series() -> None:
    async with house() as h:

        async def page() -> list[bytes]:
            reply = await h.raw(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            return [line.rpartition(b" ")[0] for line in reply.partition(b"\r\n\r\n")[2].splitlines()]

        await h.raw(h.request(CHAT, path="/nothing"))
        before = await page()
        for number in range(30):
            await h.raw(h.request(CHAT | {"model": f"m{number}"}, path=f"/v1/{number}", headers=f"X-{number}: 1\r\n"))
            await h.raw(f"GET /v1/models/{number} HTTP/1.1\r\nHost: h{number}\r\nConnection: close\r\n\r\n".encode())
        assert await page() == before
