"""deploy/prometheus: promtool agrees with every file, alerts fire when they should and only then, and a real Prometheus
that scrapes a real worker has the callers' own counts."""

import re
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from gateway.records.metrics import Metrics
from tests.deploy.conftest import ROUTE, Night
from tests.records.test_metrics import KEYS, MODELS, ROUTES, everything

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy" / "prometheus"
RULES, ALERTS = ("rules.yml", "alerts.yml")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy, as somebody would set it up: with the key's file."""
    shutil.copytree(DEPLOY, tmp_path / "prometheus")
    (tmp_path / "prometheus" / "wakegate.key").write_text("sk-0123456789abcdef")
    return tmp_path / "prometheus"


def promtool(*words: str, cwd: Path, data: bytes = b"") -> str:
    done = subprocess.run(["promtool", *words], cwd=cwd, input=data, stdout=-1, stderr=-2, timeout=60)
    said = done.stdout.decode()
    assert done.returncode == 0, said
    return said


def rules(name: str) -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load((DEPLOY / name).read_text())["groups"] for rule in group["rules"]]


def test_promtool_finds_nothing_in_a_full_page_that_breaks_a_convention(folder: Path) -> None:
    metrics = Metrics(models=MODELS, key_names=True, routes=ROUTES)
    everything(metrics, upstreams=1, routes=ROUTES, models=MODELS, keys=KEYS)
    assert promtool("check", "metrics", cwd=folder, data=metrics.page()) == ""


def test_the_configuration_is_one(folder: Path) -> None:
    (folder / "workers").mkdir()
    (folder / "workers" / "vast.yml").write_text('- targets: ["203.0.113.7:8000"]\n  labels: {platform: vast}\n')
    said = promtool("check", "config", "prometheus.yml", cwd=folder)
    assert "WARNING" not in said and "2 rule files found" in said


def test_the_rules_are_without_fault_or_double(folder: Path) -> None:
    assert promtool("check", "rules", "--lint=all", "--lint-fatal", RULES, ALERTS, cwd=folder).count("SUCCESS") == 2


def test_rules_say_and_alerts_fire_as_their_tests_have_it(folder: Path) -> None:
    said = promtool("test", "rules", "rules_test.yml", "alerts_test.yml", cwd=folder)
    assert said.count("SUCCESS") == 2


def test_every_rule_and_every_alert_has_a_test_in_which_it_speaks() -> None:
    text = (DEPLOY / "rules_test.yml").read_text()
    for rule in rules(RULES):
        assert f"- labels: '{rule['record']}" in text or f"round({rule['record']}" in text, rule["record"]
    cases = yaml.safe_load((DEPLOY / "alerts_test.yml").read_text())["tests"]
    checks = [check for case in cases for check in case["alert_rule_test"]]
    for rule in rules(ALERTS):
        mine = [bool(check["exp_alerts"]) for check in checks if check["alertname"] == rule["alert"]]
        assert set(mine) == {True, False}, f"{rule['alert']} must fire in one test and be silent in another"


def test_every_metric_that_a_rule_asks_for_is_one_of_ours() -> None:
    """A rule about a metric that does not exist is silent for ever."""
    known = {
        name + suffix
        for each in Metrics().described
        for name in [each.name]
        for suffix in (("_bucket", "_count", "_sum") if each.kind in ("histogram", "summary") else ("",))
    }
    recorded = {str(rule["record"]) for rule in rules(RULES)}
    for rule in (*rules(RULES), *rules(ALERTS)):
        for name in re.findall(r"(?:\w+:)?\bwakegate_\w+(?::\w+)?", str(rule["expr"])):
            assert name in known | recorded, f"{name} in {rule}"


def test_the_guide_has_every_alert_with_its_severity() -> None:
    page = (ROOT / "docs" / "how-to" / "prometheus.md").read_text()
    for rule in rules(ALERTS):
        assert f"| `{rule['alert']}` | {rule['labels']['severity']} | " in page
    assert page.count("| `WakeGate") == len(rules(ALERTS))


# --- A real Prometheus, and a real worker ---------------------------------------------------------------------------


def test_prometheus_takes_the_page_with_the_key_and_nobody_without(night: Night) -> None:
    """The job for a fleet sends one; the other does not, and METRICS_AUTH_ENABLED is on."""
    assert max(night.prometheus.numbers(night.of("up", platform="test"), night.began)) == 1
    assert max(night.prometheus.numbers(night.of("up", job="wakegate"), night.began)) == 0
    assert max(night.prometheus.numbers(night.of("scrape_samples_scraped"), night.began)) > 100


def test_scraping_wakes_nothing_and_keeps_nothing_awake(night: Night) -> None:
    """Twice a second all the time; IDLE_TIMEOUT is a second and a half."""
    assert night.scrapes_before >= 3
    assert night.starts_before == 0
    assert night.prometheus.value(night.last("wakegate_state", state="stopped")) == 1


def test_what_prometheus_counted_is_what_the_callers_counted(night: Night) -> None:
    def counted(label: str, metric: str) -> dict[str, float]:
        found = night.prometheus.by(label, f"sum by ({label}) ({night.last(metric)})")
        return {word: value for word, value in found.items() if value}

    assert counted("outcome", "wakegate_requests_total") == night.outcomes
    assert counted("code", "wakegate_request_errors_total") == night.codes
    assert counted("code", "wakegate_http_rejects_total")["route_not_found"] == 1
    assert night.prometheus.value(night.last("wakegate_input_tokens_total")) == night.tokens["input"]
    assert night.prometheus.value(night.last("wakegate_output_tokens_total")) == night.tokens["output"]


def test_what_was_waited_and_woken_for_is_seen(night: Night) -> None:
    ask = night.prometheus.value
    assert ask(f"max_over_time({night.of('wakegate_requests_in_flight')}[5m])") == 1
    assert ask(f"max_over_time({night.of('wakegate_requests_waiting')}[5m])") == 1
    assert ask(night.last("wakegate_wake_wait_seconds_count")) == 2
    reached = night.outcomes["answered"] + night.outcomes["left"]
    assert ask(night.last("wakegate_time_to_first_byte_seconds_count", route=ROUTE)) == reached


def test_starts_and_ends_are_seen_with_their_reasons(night: Night) -> None:
    """Woken, killed, started again, and stopped when nobody came."""
    assert night.prometheus.value(night.last("wakegate_starts_total")) == 2
    outcomes = night.prometheus.by("outcome", night.last("wakegate_starts_ended_total"))
    assert {word: number for word, number in outcomes.items() if number} == {"ready": 2}
    reasons = night.prometheus.by("reason", night.last("wakegate_engine_ends_total"))
    assert {word: number for word, number in reasons.items() if number} == {"crashed": 1, "idle": 1}


def test_the_time_that_is_paid_for_is_the_time_in_which_it_ran(night: Night) -> None:
    spent = night.prometheus.by("state", night.last("wakegate_state_seconds_total"))
    assert spent["starting"] + spent["ready"] > 2 * 0.1
    assert spent["ready"] >= 1, "IDLE_TIMEOUT, less what two scrapes may miss"
    assert sum(spent.values()) <= time.time() - night.began + 5


@pytest.mark.parametrize("rule", rules(RULES), ids=lambda rule: rule["record"])
def test_every_recorded_series_is_there(night: Night, rule: dict[str, Any]) -> None:
    assert night.prometheus.numbers(rule["record"], night.began)


FOR_RENT = {
    f"wakegate_{name}"
    for name in (
        "budget_dollars",
        "month_spend_dollars",
        "month_storage_dollars",
        "price_dollars_per_hour",
        "provider_calls_total",
    )
}
"""What the night's worker has none of: its engine is its own."""


def test_every_rule_can_be_carried_out_and_asks_for_what_is_there(night: Night) -> None:
    groups = night.prometheus.get("rules")["groups"]
    mine = [rule for group in groups for rule in group["rules"]]
    assert len(mine) == len(rules(RULES)) + len(rules(ALERTS))
    assert {rule["health"] for rule in mine} == {"ok"}
    assert {each.name for each in Metrics().described} >= FOR_RENT
    there = set(night.prometheus.get("label/__name__/values")) | FOR_RENT
    for rule in rules(ALERTS):
        for name in re.findall(r"(?:\w+:)?\bwakegate_\w+(?::\w+)?", rule["expr"]):
            assert name in there, f"{name}, which {rule['alert']} asks for, has no series"
