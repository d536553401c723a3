"""What Prometheus reads: its format, its names, what is counted where, and that no stranger can make it grow."""

import random
import re

import pytest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from gateway.errors import CATALOGUE
from gateway.policy.fallback import CASES, OBJECTIONS, WAKING
from gateway.policy.lifecycle.states import State
from gateway.proxy import fallback
from gateway.records.metrics import (
    ALERT_OUTCOMES,
    AUTH_FAILURES,
    CALL_OUTCOMES,
    CALLS,
    CODES,
    ENDS,
    FALLBACK_CASES,
    FALLBACK_OUTCOMES,
    LARGEST_PAGE,
    OUTCOMES,
    PHASES,
    START_OUTCOMES,
    WARNINGS,
    Metrics,
    bounded,
)
from gateway.records.metrics import OBJECTIONS as REASONS
from gateway.records.readings import MoneyFacts, ProcessFacts, UpstreamFacts
from gateway.records.series import OTHER
from gateway.web.routes import INFERENCE
from tests.support.ends import ended, refused
from tests.support.house import CHAT, house

FACTS = UpstreamFacts("default", State.STARTING, 2, 3, 4, 12.5, 0.43, 300.0, 60.0, {State.READY: 60.0}, "loading", 25.0)
PROCESS = ProcessFacts(0.2, 0.01, 1, 2, 300, 5, True)
MONEY = MoneyFacts(spent=3_100_000, storage=12_000_000, reserved=260_000, price=340_000, budget=20_000_000)
ROUTES = [route.path for route in INFERENCE]


def families(metrics: Metrics) -> dict[str, Metric]:
    return {family.name: family for family in text_string_to_metric_families(metrics.page().decode())}


def sample(metrics: Metrics, name: str, **labels: str) -> float | None:
    for family in families(metrics).values():
        for each in family.samples:
            if each.name == name and labels.items() <= each.labels.items():
                return each.value
    return None


def tell_everything(metrics: Metrics) -> None:
    """Something of everything that can happen."""
    metrics.watch(lambda: [FACTS])
    metrics.watch_process(lambda: PROCESS)
    metrics.ended(ended(wake=0.5, line=0.1))
    metrics.ended(refused("queue_full"))
    metrics.rejected("route_not_found")
    metrics.surrogates.inc(3)
    metrics.auth_failed("wrong")
    metrics.reloaded("keys", True)
    metrics.start_began("default")
    metrics.start_ended("default", "ready", {"booting": 1.5, "loading": 4.0})
    metrics.engine_ended("default", "crashed")
    metrics.watch_fallback(lambda: 1.25, ["waking"])
    metrics.fallback_answered("answered", "waking", tokens_in=10, tokens_out=4, cost=140)
    metrics.fallback_not_asked("spend")
    metrics.watch_money(lambda: MONEY, "runpod-pod")
    metrics.watch_alerts()
    metrics.budget_warned(50)
    metrics.provider_called("runpod-pod", "look", "limited")
    metrics.alerted("sent")


@pytest.fixture
def busy() -> Metrics:
    metrics = Metrics(models=["org/model-a"], key_names=True, version="1.2.3")
    tell_everything(metrics)
    return metrics


# --- The page -------------------------------------------------------------------------------------------------------


def test_the_process_is_described_as_every_exporter_does(busy: Metrics) -> None:
    names = {family.name for family in families(busy).values() if not family.name.startswith("wakegate_")}
    assert {"process_cpu_seconds", "process_resident_memory_bytes", "process_open_fds"} <= names


def test_the_page_is_one_that_prometheus_reads(busy: Metrics) -> None:
    text = busy.page().decode()
    assert text.endswith("\n")
    for family in families(busy).values():
        assert family.type in ("counter", "gauge", "histogram", "summary"), family
        assert f"# TYPE {family.name}" in text and family.documentation.endswith(".")


def test_names_follow_the_conventions(busy: Metrics) -> None:
    for family in families(busy).values():
        assert re.fullmatch(r"(wakegate|process)_[a-z_]+", family.name)
        for each in family.samples:
            if family.type == "counter":
                assert each.name.endswith("_total")
            assert not each.name.endswith("_created")
        if re.search(r"_(age|time|wait|lag|duration)(_|$)", family.name):
            assert "_seconds" in family.name, "base units"


def test_the_names_and_labels_are_these(busy: Metrics) -> None:
    """A name that changes breaks somebody's dashboard."""
    assert {
        family.name: " ".join(sorted({label for each in family.samples for label in each.labels}))
        for family in families(busy).values()
        if not family.name.startswith("process_")
    } == {
        "wakegate_build_info": "python version",
        "wakegate_state": "state upstream",
        "wakegate_requests_in_flight": "upstream",
        "wakegate_requests_waiting": "upstream",
        "wakegate_starts": "upstream",
        "wakegate_last_activity_age_seconds": "upstream",
        "wakegate_idle_stop_in_seconds": "upstream",
        "wakegate_ready_age_seconds": "upstream",
        "wakegate_loading_ratio": "upstream",
        "wakegate_loading_seconds_left": "upstream",
        "wakegate_loading_phase": "phase upstream",
        "wakegate_state_seconds": "state upstream",
        "wakegate_requests": "outcome route upstream",
        "wakegate_request_errors": "code upstream",
        "wakegate_http_rejects": "code",
        "wakegate_heartbeat_age_seconds": "",
        "wakegate_event_loop_lag_seconds": "",
        "wakegate_event_loop_stalls": "",
        "wakegate_log_lines_dropped": "",
        "wakegate_log_bytes_dropped": "",
        "wakegate_connections_open": "",
        "wakegate_keys_file_ok": "",
        "wakegate_starts_ended": "outcome upstream",
        "wakegate_engine_ends": "reason upstream",
        "wakegate_auth_failures": "reason",
        "wakegate_config_reloads": "result what",
        "wakegate_fallback_requests": "outcome why",
        "wakegate_fallback_not_asked": "reason",
        "wakegate_fallback_tokens": "direction",
        "wakegate_fallback_spend_dollars": "",
        "wakegate_fallback_month_spend_dollars": "",
        "wakegate_budget_dollars": "",
        "wakegate_month_spend_dollars": "",
        "wakegate_month_storage_dollars": "",
        "wakegate_reserved_dollars": "",
        "wakegate_price_dollars_per_hour": "",
        "wakegate_budget_warnings": "percent",
        "wakegate_provider_calls": "call outcome provider",
        "wakegate_alerts": "outcome",
        "wakegate_lone_surrogates": "",
        "wakegate_input_tokens": "upstream",
        "wakegate_output_tokens": "upstream",
        "wakegate_request_body_bytes": "upstream",
        "wakegate_response_body_bytes": "upstream",
        "wakegate_time_to_first_byte_seconds": "le route upstream",
        "wakegate_queue_wait_seconds": "le upstream",
        "wakegate_wake_wait_seconds": "le upstream",
        "wakegate_cold_start_seconds": "le upstream",
        "wakegate_cold_start_phase_seconds": "phase upstream",
        "wakegate_output_tokens_per_second": "le upstream",
        "wakegate_request_duration_seconds": "le route upstream",
        "wakegate_model_requests": "model",
        "wakegate_model_input_tokens": "model",
        "wakegate_model_output_tokens": "model",
        "wakegate_key_requests": "key",
        "wakegate_key_input_tokens": "key",
        "wakegate_key_output_tokens": "key",
        "wakegate_metrics_left_out": "",
    }


def test_a_fresh_gateway_says_zero_where_something_bad_may_come() -> None:
    """The first failure is an increase only if there was a zero before it."""
    metrics = Metrics(routes=ROUTES)
    for route in ROUTES:
        for outcome in OUTCOMES:
            assert sample(metrics, "wakegate_requests_total", route=route, outcome=outcome) == 0
    for reason in AUTH_FAILURES:
        assert sample(metrics, "wakegate_auth_failures_total", reason=reason) == 0
    assert sample(metrics, "wakegate_config_reloads_total", what="keys", result="failed") == 0
    metrics.start_began("default")
    assert {sample(metrics, "wakegate_starts_ended_total", outcome=outcome) for outcome in START_OUTCOMES} == {0}
    assert {sample(metrics, "wakegate_engine_ends_total", reason=reason) for reason in ENDS} == {0}


def test_what_runs_is_said() -> None:
    assert sample(Metrics(version="1.2.3"), "wakegate_build_info", version="1.2.3") == 1


# --- What is so -----------------------------------------------------------------------------------------------------


def test_the_gauges_say_what_the_upstream_says_at_the_scrape(busy: Metrics) -> None:
    states = {state: sample(busy, "wakegate_state", state=state.value) for state in State}
    assert states == {state: float(state is State.STARTING) for state in State}
    assert sample(busy, "wakegate_requests_in_flight", upstream="default") == 2
    assert sample(busy, "wakegate_requests_waiting", upstream="default") == 3
    assert sample(busy, "wakegate_starts_total", upstream="default") == 4
    assert sample(busy, "wakegate_last_activity_age_seconds") == 12.5
    assert sample(busy, "wakegate_idle_stop_in_seconds") == 300
    assert sample(busy, "wakegate_ready_age_seconds") == 60
    assert sample(busy, "wakegate_loading_ratio") == 0.43
    assert sample(busy, "wakegate_loading_seconds_left") == 25
    assert sample(busy, "wakegate_loading_phase", phase="loading") == 1
    assert sample(busy, "wakegate_state_seconds_total", state="ready") == 60


def test_the_gauges_say_what_the_gateway_says_of_itself(busy: Metrics) -> None:
    assert sample(busy, "wakegate_heartbeat_age_seconds") == 0.2
    assert sample(busy, "wakegate_event_loop_lag_seconds") == 0.01
    assert sample(busy, "wakegate_event_loop_stalls_total") == 1
    assert sample(busy, "wakegate_log_lines_dropped_total") == 2
    assert sample(busy, "wakegate_log_bytes_dropped_total") == 300
    assert sample(busy, "wakegate_connections_open") == 5
    assert sample(busy, "wakegate_keys_file_ok") == 1


def test_what_nobody_knows_is_absent() -> None:
    metrics = Metrics()
    metrics.watch(lambda: [UpstreamFacts("default", State.STOPPED, 0, 0, 0, None, None)])
    page = metrics.page().decode()
    for name in ("last_activity_age", "loading_", "idle_stop_in", "ready_age", "heartbeat_age", "keys_file_ok"):
        assert f"wakegate_{name}" not in page


def test_several_upstreams_are_told_apart() -> None:
    metrics = Metrics()
    metrics.watch(lambda: [FACTS, UpstreamFacts("other", State.READY, 7, 0, 1, None, None)])
    assert sample(metrics, "wakegate_requests_in_flight", upstream="other") == 7
    assert sample(metrics, "wakegate_state", upstream="other", state="ready") == 1


# --- What happened --------------------------------------------------------------------------------------------------


def test_a_request_that_was_answered_is_counted_and_timed() -> None:
    metrics = Metrics()
    metrics.ended(ended(route="/v1/embeddings", first_byte=0.03, took=2.0, bytes_in=120, bytes_out=900))
    assert sample(metrics, "wakegate_requests_total", outcome="answered", route="/v1/embeddings") == 1
    assert sample(metrics, "wakegate_time_to_first_byte_seconds_count", route="/v1/embeddings") == 1
    assert sample(metrics, "wakegate_time_to_first_byte_seconds_bucket", le="0.025") == 0
    assert sample(metrics, "wakegate_time_to_first_byte_seconds_bucket", le="0.1") == 1
    assert sample(metrics, "wakegate_request_duration_seconds_sum") == 2
    assert sample(metrics, "wakegate_request_body_bytes_total") == 120
    assert sample(metrics, "wakegate_response_body_bytes_total") == 900
    assert sample(metrics, "wakegate_request_errors_total") is None


def test_a_refusal_says_nothing_of_the_models_speed() -> None:
    metrics = Metrics()
    metrics.ended(refused("queue_full"))
    assert sample(metrics, "wakegate_requests_total", outcome="refused") == 1
    assert sample(metrics, "wakegate_request_errors_total", code="queue_full") == 1
    for name in ("time_to_first_byte_seconds", "request_duration_seconds", "queue_wait_seconds"):
        assert sample(metrics, f"wakegate_{name}_count") == 0


def test_a_refusal_after_a_wait_in_line_is_a_wait() -> None:
    metrics = Metrics()
    metrics.ended(refused("queue_timeout", line=300.0))
    assert sample(metrics, "wakegate_queue_wait_seconds_sum") == 300


def test_whoever_left_is_counted_and_its_time_is_not_that_of_an_answer() -> None:
    metrics = Metrics()
    metrics.ended(ended(outcome="left", first_byte=None, status=0))
    assert sample(metrics, "wakegate_requests_total", outcome="left") == 1
    assert sample(metrics, "wakegate_time_to_first_byte_seconds_count") == 0
    assert sample(metrics, "wakegate_request_duration_seconds_count") == 0


def test_the_engines_own_status_is_a_code_of_an_answer() -> None:
    metrics = Metrics()
    metrics.ended(ended(status=400, code="400"))
    assert sample(metrics, "wakegate_requests_total", outcome="answered") == 1
    assert sample(metrics, "wakegate_request_errors_total", code="400") == 1


def test_only_cold_callers_are_in_the_time_that_waking_took() -> None:
    metrics = Metrics()
    metrics.ended(ended())
    metrics.ended(ended(wake=40.0, took=42.0))
    assert sample(metrics, "wakegate_wake_wait_seconds_count") == 1
    assert sample(metrics, "wakegate_wake_wait_seconds_sum") == 40


def test_tokens_are_counted_where_the_engine_said_them() -> None:
    metrics = Metrics()
    metrics.ended(ended(tokens_in=7, tokens_out=30, line=1.0, wake=2.0, took=6.0))
    metrics.ended(ended(tokens_in=None, tokens_out=None))
    assert sample(metrics, "wakegate_input_tokens_total") == 7
    assert sample(metrics, "wakegate_output_tokens_total") == 30
    assert sample(metrics, "wakegate_output_tokens_per_second_count") == 1
    assert sample(metrics, "wakegate_output_tokens_per_second_sum") == 10, "by the time that it was its turn"


def test_models_are_those_of_the_configuration() -> None:
    metrics = Metrics(models=["org/model-a", "org/model-b"])
    metrics.ended(ended(model="org/model-a", tokens_in=5, tokens_out=6))
    metrics.ended(ended(model="a stranger's text"))
    assert sample(metrics, "wakegate_model_requests_total", model="org/model-a") == 1
    assert sample(metrics, "wakegate_model_input_tokens_total", model="org/model-a") == 5
    assert sample(metrics, "wakegate_model_output_tokens_total", model="org/model-a") == 6
    assert sample(metrics, "wakegate_model_requests_total", model="org/model-b") == 0
    assert sample(metrics, "wakegate_model_requests_total", model="other") == 1


def test_without_a_configured_model_there_is_no_series_by_model() -> None:
    metrics = Metrics()
    metrics.ended(ended())
    assert b"wakegate_model" not in metrics.page()


def test_the_33rd_model_is_among_the_others() -> None:
    metrics = Metrics(models=[f"m{number}" for number in range(33)])
    metrics.ended(ended(model="m32"))
    assert sample(metrics, "wakegate_model_requests_total", model="m32") is None
    assert sample(metrics, "wakegate_model_requests_total", model="other") == 1


def test_key_names_are_not_on_the_page_unless_asked_for() -> None:
    metrics = Metrics()
    metrics.ended(ended(key="team-a"))
    assert b"team-a" not in metrics.page()


def test_the_65th_key_is_among_the_others() -> None:
    metrics = Metrics(key_names=True)
    for number in range(70):
        metrics.ended(ended(key=f"key-{number}"))
    metrics.ended(ended(key="key-63"))
    metrics.ended(ended(key=""))
    assert sample(metrics, "wakegate_key_requests_total", key="key-63") == 2
    assert sample(metrics, "wakegate_key_requests_total", key="other") == 6
    assert len(families(metrics)["wakegate_key_requests"].samples) == 65


def test_starts_are_counted_by_what_came_of_them_and_timed_by_phase() -> None:
    metrics = Metrics()
    metrics.start_began("default")
    metrics.start_ended("default", "failed", {"booting": 3.0})
    metrics.start_ended("default", "ready", {"booting": 1.0, "loading": 4.0, "dancing": 2.0})
    assert sample(metrics, "wakegate_starts_ended_total", outcome="failed") == 1
    assert sample(metrics, "wakegate_starts_ended_total", outcome="ready") == 1
    assert sample(metrics, "wakegate_cold_start_seconds_sum") == 7, "a start that failed is no measure of one"
    assert sample(metrics, "wakegate_cold_start_phase_seconds_sum", phase="loading") == 4
    assert sample(metrics, "wakegate_cold_start_phase_seconds_sum", phase="other") == 2
    assert sample(metrics, "wakegate_cold_start_phase_seconds_count", phase="booting") == 1


@pytest.mark.parametrize("word", ["", "no such word", 'evil"} 1\nfake{x="'])
def test_a_word_that_is_none_of_ours_is_other(word: str) -> None:
    metrics = Metrics()
    metrics.auth_failed(word)
    metrics.reloaded(word, False)
    metrics.start_ended("default", word, {})
    metrics.engine_ended("default", word)
    assert sample(metrics, "wakegate_auth_failures_total", reason="other") == 1
    assert sample(metrics, "wakegate_config_reloads_total", what="other", result="failed") == 1
    assert sample(metrics, "wakegate_starts_ended_total", outcome="other") == 1
    assert sample(metrics, "wakegate_engine_ends_total", reason="other") == 1


# --- No stranger makes it grow --------------------------------------------------------------------------------------


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


def everything(metrics: Metrics, *, upstreams: int, routes: list[str], models: list[str], keys: list[str]) -> None:
    """Every label that there may be has been used."""
    metrics.watch(
        lambda: [
            UpstreamFacts(f"upstream-{n}", State.READY, 10**4, 10**4, 10**6, 1e6 / 3, 1 / 3, 1e6 / 3, 1e6 / 3, SPENT)
            for n in range(upstreams)
        ]
    )
    metrics.watch_process(lambda: ProcessFacts(1 / 3, 1 / 3, 10**6, 10**9, 10**12, 2000, True))
    metrics.watch_money(lambda: MoneyFacts(10**12 // 3, 10**12 // 7, 10**12 // 9, 10**9 // 7, 10**12 // 11), "vast")
    metrics.watch_alerts()
    for percent in WARNINGS:
        metrics.budget_warned(int(percent))
    for outcome in ALERT_OUTCOMES:
        metrics.alerted(outcome)
    for provider in ("runpod-pod", "vast"):
        for call in CALLS:
            for outcome in CALL_OUTCOMES:
                metrics.provider_called(provider, call, outcome)
    codes = [*CODES, "4xx", "5xx", "other"]
    for reason in AUTH_FAILURES:
        metrics.auth_failed(reason)
    for what in ("keys", "tls", "other"):
        metrics.reloaded(what, False)
    for number in range(upstreams):
        name = f"upstream-{number}"
        metrics.start_began(name)
        metrics.start_ended(name, "ready", dict.fromkeys(PHASES, 1e4 / 3))
        for route in routes:
            for outcome in OUTCOMES:
                metrics.ended(
                    ended(upstream=name, route=route, outcome=outcome, took=1e6 / 3, wake=1e3 / 3, line=1e3 / 3)
                )
        for code in codes:
            metrics.rejected(code)
            for outcome in ("answered", "refused", "failed"):
                metrics.ended(ended(upstream=name, outcome=outcome, code=code, tokens_in=10**9, bytes_out=10**12))
    for model in models:
        metrics.ended(ended(upstream="upstream-0", model=model))
    for key in keys:
        metrics.ended(ended(upstream="upstream-0", key=key))


SPENT = dict.fromkeys(State, 1e7 / 3)
MODELS = [f"organisation-{number}/some-model-7B-instruct" for number in range(32)]
KEYS = [f"team-{number}-production" for number in range(64)]


def test_32_models_64_keys_and_everything_else_used_fit_whole() -> None:
    metrics = Metrics(models=MODELS, key_names=True, routes=ROUTES, upstream="upstream-0")
    everything(metrics, upstreams=1, routes=ROUTES, models=MODELS, keys=KEYS)
    assert len(metrics.page()) < LARGEST_PAGE
    assert sample(metrics, "wakegate_metrics_left_out") == 0


@pytest.mark.parametrize(
    ("upstreams", "paths", "models", "keys"),
    [
        (1, [*ROUTES, *(f"/allowed/{'x' * 300}/{n}" for n in range(200))], MODELS, KEYS),
        (32, ROUTES, MODELS, KEYS),
        (300, ROUTES, MODELS, KEYS),
        (1, ROUTES, ["m" * 3000 + str(n) for n in range(100)], ["ключ" * 1000 + str(n) for n in range(100)]),
    ],
    ids=["many allowed paths", "32 upstreams", "300 upstreams", "long names"],
)
def test_whatever_is_configured_the_page_stays_within_64_kib(
    upstreams: int, paths: list[str], models: list[str], keys: list[str]
) -> None:
    metrics = Metrics(models=models, key_names=True, routes=paths)
    everything(metrics, upstreams=upstreams, routes=paths, models=models, keys=keys)
    assert len(metrics.page()) <= LARGEST_PAGE
    assert sample(metrics, "wakegate_build_info") == 1


def test_what_does_not_fit_is_left_out_from_the_end_and_said_and_stays_out() -> None:
    names = [f"{'k' * 70}-{number}" for number in range(64)]
    facts = [UpstreamFacts(f"upstream-{n}", State.READY, 1, 0, 1, None, None, state_seconds=SPENT) for n in range(40)]
    metrics = Metrics(models=names, key_names=True)
    metrics.watch(lambda: facts)
    for name in names:
        metrics.ended(ended(key=name, model=name))
    page = metrics.page()
    assert len(page) <= LARGEST_PAGE
    assert b"wakegate_state{" in page and b"wakegate_requests_total{" in page
    assert b"wakegate_key_output_tokens_total" not in page
    left_out = sample(metrics, "wakegate_metrics_left_out")
    assert left_out and left_out >= 1
    facts.clear()
    assert b"wakegate_key_output_tokens_total" not in metrics.page()
    assert sample(metrics, "wakegate_metrics_left_out") == left_out


def test_whatever_happens_on_one_route_the_page_stays_small() -> None:
    metrics = Metrics()
    metrics.watch(lambda: [FACTS])
    chance = random.Random(0)
    codes = [*CATALOGUE, *(str(status) for status in range(1000)), *(chance.randbytes(4).hex() for _ in range(1000))]
    for code in codes:
        metrics.rejected(code)
        for outcome in OUTCOMES:
            metrics.ended(ended(outcome=outcome, code=code, model=code))
    assert len(metrics.page()) < 32 * 1024


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


# --- The fallback -----------------------------------------------------------------------------------------------------


def test_what_the_fallback_answered_is_counted_apart() -> None:
    metrics = Metrics(models=["org/model-a"], key_names=True)
    metrics.ended(ended(served_by="fallback", tokens_in=10, tokens_out=4))
    assert sample(metrics, "wakegate_requests_total", outcome="answered") == 1
    assert not sample(metrics, "wakegate_input_tokens_total") and not sample(
        metrics, "wakegate_key_output_tokens_total"
    )
    assert sample(metrics, "wakegate_output_tokens_per_second_count") == 0
    metrics.ended(ended(tokens_in=10, tokens_out=4))
    assert sample(metrics, "wakegate_input_tokens_total") == 10


def test_the_fallback_has_series_of_its_own_from_its_first_moment(busy: Metrics) -> None:
    assert sample(busy, "wakegate_fallback_requests_total", outcome="answered", why="waking") == 1
    assert sample(busy, "wakegate_fallback_requests_total", outcome="broke", why="waking") == 0
    assert sample(busy, "wakegate_fallback_not_asked_total", reason="spend") == 1
    assert sample(busy, "wakegate_fallback_not_asked_total", reason="key") == 0
    assert sample(busy, "wakegate_fallback_tokens_total", direction="out") == 4
    assert sample(busy, "wakegate_fallback_spend_dollars_total") == pytest.approx(0.00014)
    assert sample(busy, "wakegate_fallback_month_spend_dollars") == 1.25


def test_without_a_fallback_the_page_does_not_speak_of_one() -> None:
    assert b"wakegate_fallback_" not in Metrics().page()


def test_the_words_of_the_fallback_are_those_that_it_uses() -> None:
    assert (*fallback.OUTCOMES, OTHER) == FALLBACK_OUTCOMES
    assert (WAKING, *CASES, OTHER) == FALLBACK_CASES
    assert (*OBJECTIONS, OTHER) == REASONS


# --- Money ------------------------------------------------------------------------------------------------------------


def test_what_is_rented_is_in_dollars(busy: Metrics) -> None:
    assert sample(busy, "wakegate_budget_dollars") == 20
    assert sample(busy, "wakegate_month_spend_dollars") == 3.1
    assert sample(busy, "wakegate_month_storage_dollars") == 12
    assert sample(busy, "wakegate_reserved_dollars") == 0.26
    assert sample(busy, "wakegate_price_dollars_per_hour") == 0.34


def test_an_unlimited_budget_is_absent_and_so_is_all_of_it_while_nobody_knows() -> None:
    metrics = Metrics()
    known: list[MoneyFacts] = []
    metrics.watch_money(lambda: known[0] if known else None, "vast")
    assert sample(metrics, "wakegate_month_spend_dollars") is None
    known.append(MoneyFacts(spent=1))
    assert sample(metrics, "wakegate_month_spend_dollars") == 0.000001
    assert sample(metrics, "wakegate_budget_dollars") is None


def test_warnings_calls_and_alerts_begin_at_zero_so_that_the_first_is_an_increase(busy: Metrics) -> None:
    assert sample(busy, "wakegate_budget_warnings_total", percent="50") == 1
    assert sample(busy, "wakegate_budget_warnings_total", percent="95") == 0
    assert sample(busy, "wakegate_provider_calls_total", call="look", outcome="limited") == 1
    assert sample(busy, "wakegate_provider_calls_total", call="stop", outcome="ok") == 0
    assert sample(busy, "wakegate_alerts_total", outcome="sent") == 1
    assert sample(busy, "wakegate_alerts_total", outcome="lost") == 0


def test_calls_of_all_kinds_stay_few_series() -> None:
    metrics = Metrics()
    for provider in ("runpod-pod", "vast", *(f"p{n}" for n in range(50))):
        for call in (*CALLS, "dance"):
            for outcome in (*CALL_OUTCOMES, "418"):
                metrics.provider_called(provider, call, outcome)
    assert len(families(metrics)["wakegate_provider_calls"].samples) <= 16 + 3 * 8


def test_who_rents_nothing_has_no_series_of_money() -> None:
    page = Metrics().page()
    assert not any(name in page for name in (b"budget", b"spend_dollars", b"provider_calls", b"alerts"))
