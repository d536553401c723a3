"""deploy/prometheus: promtool agrees with every file, and alerts fire when they should and only then."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from gateway.records.metrics import Metrics
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
