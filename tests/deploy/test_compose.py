"""The compose files: valid by the specification's schema, complete, without a secret, and in step with the rest."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from gateway.config import SETTINGS

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "compose"
FILES = ("compose.yaml", "compose.gpu.yaml")


def read(name: str) -> Any:
    return YAML(typ="safe", pure=True).load((FOLDER / name).read_text())


@pytest.fixture(scope="module")
def compose() -> Any:
    return read("compose.yaml")


def merged(below: Any, above: Any) -> Any:
    """As compose merges files, for what these two hold: mappings by name, the rest is replaced."""
    if not isinstance(below, dict) or not isinstance(above, dict):
        return above
    return below | {name: merged(below[name], value) if name in below else value for name, value in above.items()}


def is_valid(path: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(path)],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60,
    )  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_it_is_valid_by_the_schema(name: str) -> None:
    done = is_valid(FOLDER / name)
    assert done.returncode == 0, done.stdout


def test_both_together_are_valid_too(tmp_path: Path, compose: Any) -> None:
    both = merged(compose, read("compose.gpu.yaml"))
    assert both["services"]["wakegate"]["build"] == {"context": "../..", "target": "cuda-llamacpp"}
    with (tmp_path / "both.yaml").open("w") as file:
        YAML().dump(both, file)
    assert is_valid(tmp_path / "both.yaml").returncode == 0


def test_a_wrong_key_would_be_noticed(tmp_path: Path) -> None:
    (tmp_path / "wrong.yaml").write_text("services:\n  a:\n    imagee: x\n")
    assert is_valid(tmp_path / "wrong.yaml").returncode == 1


def test_every_service_says_how_it_is_and_comes_back(compose: Any) -> None:
    assert set(compose["services"]) == {"wakegate", "prometheus", "grafana"}
    for name, service in compose["services"].items():
        assert service["healthcheck"]["test"][0] == "CMD", name
        assert service["restart"] == "unless-stopped", name
        assert service["cap_drop"] == ["ALL"], name
        assert re.search(r":v?\d+\.\d+\.\d+$", service["image"]) or "build" in service, name


def test_every_file_that_is_mounted_is_there_and_every_volume_named(compose: Any) -> None:
    for service in compose["services"].values():
        for mount in service["volumes"]:
            source = mount.split(":")[0]
            if source.startswith("."):
                assert (FOLDER / source).is_file(), source
                assert mount.endswith(":ro"), mount
            else:
                assert source in compose["volumes"], source


def test_nothing_listens_to_the_network_unasked(compose: Any) -> None:
    for service in compose["services"].values():
        for port in service["ports"]:
            assert port.startswith(("127.0.0.1:", "${WAKEGATE_ADDRESS:-127.0.0.1}:")), port


def test_its_settings_are_settings(compose: Any) -> None:
    gateway = compose["services"]["wakegate"]["environment"]
    assert set(gateway) <= {setting.name for setting in SETTINGS.values()}


def test_no_secret_is_in_it(compose: Any) -> None:
    """Names that hold one may stand there; their values come from a file that git does not take."""
    for service in compose["services"].values():
        for name, value in service.get("environment", {}).items():
            if re.search("KEY|TOKEN|SECRET|PASSWORD", name):
                assert re.fullmatch(r"\$\{\w+:\?.*\}", value), name
    for name in ("deploy/compose/.env", "deploy/compose/wakegate.env"):
        asked = subprocess.run(["git", "check-ignore", "-q", "--no-index", name], cwd=ROOT)
        assert asked.returncode == 0, f"{name} is not in .gitignore"


def test_there_is_time_to_end(compose: Any) -> None:
    gateway = compose["services"]["wakegate"]
    drain, grace = gateway["environment"]["DRAIN_TIMEOUT"], gateway["stop_grace_period"]
    assert int(grace.removesuffix("s")) >= int(drain.removesuffix("s")) + 10


def test_it_asks_for_health_as_the_image_does(compose: Any) -> None:
    image = re.search(r"HEALTHCHECK .*\\\n\s+CMD (\[.*\])", (ROOT / "Dockerfile").read_text())
    assert image
    command = compose["services"]["wakegate"]["healthcheck"]["test"]
    assert command == ["CMD", *re.findall(r'"([^"]*)"', image[1])]


def test_prometheus_asks_where_the_gateway_answers(compose: Any) -> None:
    [job] = read("prometheus.yml")["scrape_configs"]
    port = compose["services"]["wakegate"]["environment"]["METRICS_PORT"]
    assert job["static_configs"] == [{"targets": [f"wakegate:{port}"]}]
    assert job["job_name"] == "wakegate"


def test_prometheus_takes_what_is_mounted(compose: Any, tmp_path: Path) -> None:
    """The folder as the container sees it, read by Prometheus' own tool."""
    for mount in compose["services"]["prometheus"]["volumes"]:
        source, place, *_ = mount.split(":")
        if place.startswith("/etc/prometheus/"):
            shutil.copy(FOLDER / source, tmp_path / Path(place).name)
    done = subprocess.run(
        ["promtool", "check", "config", str(tmp_path / "prometheus.yml")],
        env=dict(os.environ), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert "2 rule files found" in done.stdout


def test_grafana_finds_its_source_and_its_dashboard(compose: Any) -> None:
    mounts = dict(mount.split(":")[:2] for mount in compose["services"]["grafana"]["volumes"])
    [source] = read("grafana/datasource.yaml")["datasources"]
    assert (source["type"], source["url"]) == ("prometheus", "http://prometheus:9090")
    [provider] = read("grafana/dashboards.yaml")["providers"]
    assert mounts["../grafana/wakegate.json"] == provider["options"]["path"] + "/wakegate.json"
    home = compose["services"]["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert mounts["../grafana/wakegate.json"] == home
