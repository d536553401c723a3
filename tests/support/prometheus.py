"""A real Prometheus (Debian's package), set up as deploy/prometheus has it, only faster: two scrapes a second."""

import contextlib
import json
import shutil
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from tests.support.worker import ROOT, free_port, wait_for

DEPLOY = ROOT / "deploy" / "prometheus"


class Prometheus:
    """One that runs, from where a dashboard stands."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder = folder
        self.url = f"http://127.0.0.1:{port}"

    def get(self, path: str, **words: str) -> Any:
        """The `data` of one answer of its API. Raises AssertionError with what it complains of."""
        query = f"?{urllib.parse.urlencode(words)}" if words else ""
        try:
            with urllib.request.urlopen(f"{self.url}/api/v1/{path}{query}", timeout=10) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{words}: {error.read().decode()}") from None

    def numbers(self, expr: str, since: float) -> list[float]:
        """All that a panel with this query draws, from `since` (Unix time) until now."""
        words = {"query": expr, "start": str(since), "end": str(time.time()), "step": "0.5"}
        return [float(value) for each in self.get("query_range", **words)["result"] for _, value in each["values"]]

    def query(self, expr: str) -> list[tuple[dict[str, str], float]]:
        """Labels and value of each series at this moment."""
        return [(each["metric"], float(each["value"][1])) for each in self.get("query", query=expr)["result"]]

    def value(self, expr: str) -> float | None:
        """Of the one series; None when there is none."""
        found = self.query(expr)
        assert len(found) <= 1, found
        return found[0][1] if found else None

    def by(self, label: str, expr: str) -> dict[str, float]:
        return {labels.get(label, ""): value for labels, value in self.query(expr)}

    def is_up(self) -> bool:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{self.url}/-/ready", timeout=5) as answer:
            return bool(answer.status == 200)
        return False


def quicker(configuration: dict[str, Any], always_on: str) -> dict[str, Any]:
    """deploy's own configuration, for a target on another port and without the waiting."""
    configuration["global"] = {"scrape_interval": "500ms", "evaluation_interval": "500ms"}
    jobs = {job["job_name"]: job for job in configuration["scrape_configs"]}
    jobs["wakegate"]["static_configs"] = [{"targets": [always_on]}]
    jobs["wakegate-workers"]["file_sd_configs"][0]["refresh_interval"] = "1s"
    return configuration


@contextlib.contextmanager
def scraping(folder: Path, *, always_on: str, workers: list[str], key: str) -> Iterator[Prometheus]:
    """`always_on` and `workers` are host:port; `key` goes to the workers."""
    shutil.copytree(DEPLOY, folder, dirs_exist_ok=True)
    (folder / "wakegate.key").write_text(key)
    (folder / "workers").mkdir()
    (folder / "workers" / "group.yml").write_text(
        yaml.safe_dump([{"targets": workers, "labels": {"platform": "test"}}])
    )
    configuration = quicker(yaml.safe_load((DEPLOY / "prometheus.yml").read_text()), always_on)
    (folder / "prometheus.yml").write_text(yaml.safe_dump(configuration))
    port = free_port()
    with (folder / "log.txt").open("wb") as log:
        process = subprocess.Popen(
            [
                "prometheus",
                "--config.file=prometheus.yml",
                "--storage.tsdb.path=data",
                f"--web.listen-address=127.0.0.1:{port}",
                "--log.level=warn",
            ],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        prometheus = Prometheus(folder, port)
        wait_for(lambda: prometheus.is_up() or process.poll() is not None, 20, "Prometheus is ready")
        assert process.poll() is None, (folder / "log.txt").read_text()
        yield prometheus
    finally:
        process.terminate()
        process.wait(20)
