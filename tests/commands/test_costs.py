"""`wakegate plan --hours-per-day` as it is typed: the table, where its prices come from, and that nothing is rented."""

import http.server
import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from typer.testing import CliRunner

from gateway.cli import app

CATALOGUE = {
    "gpus": [
        {
            "id": "NVIDIA GeForce RTX 4090",
            "name": "RTX 4090",
            "pool": "ADA_24",
            "manufacturer": "NVIDIA",
            "memory": 24,
            "secure": True,
            "community": True,
            "price": {"secure": 0.5, "community": 0.3, "serverless": 1.0},
            "maxCount": {"secure": 8, "community": 4},
        }
    ]
}
KEY = "rpa_ABCDEFGHIJKLMNOP1234"


@pytest.fixture
def typed(tmp_path, monkeypatch):
    for name in [*os.environ]:
        monkeypatch.delenv(name)
    (tmp_path / "empty.env").touch()
    base = {"HOME": str(tmp_path), "DATA_DIR": str(tmp_path / "data"), "WAKEGATE_ENV_FILE": str(tmp_path / "empty.env")}

    def run(*words, **environ):
        return CliRunner().invoke(app, ["plan", *words], env={**base, "PATH": "/nowhere", **environ})

    return run


@contextmanager
def vendor(status: int, body: object) -> Iterator[tuple[str, list[tuple[str, str, str]]]]:
    """Its URL, and what it was asked: method, path, authorization."""
    asked: list[tuple[str, str, str]] = []

    class Answers(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append((self.command, self.path, self.headers["Authorization"]))
            raw = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Answers)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v2", asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_gpu_is_shown_in_all_the_ways_to_have_it(typed):
    done = typed("--hours-per-day", "10", "--gpu", "4090")
    assert done.exit_code == 0, done.output
    for part in ("RTX 4090, 24 GB", "on demand, its own disk", "24/7", "serverless", "as read 2026-01-01"):
        assert part in done.stdout
    assert "set RUNPOD_API_KEY for the prices of now" in done.stdout and "Vast has no list prices" in done.stdout
    assert "Serverless costs less when requests run in less than" in done.stdout


def test_without_a_gpu_each_has_a_line(typed):
    done = typed("--hours-per-day", "2.5")
    assert done.exit_code == 0
    lines = [line for line in done.stdout.splitlines() if "H100" in line or "L4 " in line]
    assert len(lines) == 3 and all(line.count("$") >= 3 for line in lines)


def test_the_sums_are_those_of_the_arithmetic(typed):
    """10 h and two wakes of 13 minutes a day are 317.35 h a month, at $1.79."""
    rows = json.loads(typed("--hours-per-day", "10", "--gpu", "A100 PCIe", "--json").stdout)
    row = next(row for row in rows if row["how"] == "on demand, network volume")
    assert row["hours"] == 317.35 and row["dollars_per_hour"] == 1.79
    assert row["month_dollars"] == pytest.approx(317.347 * 1.79 + 50 * 0.07, abs=0.01)
    assert row["read"] == "2026-11-09"


def test_with_a_key_the_prices_are_the_vendors_of_now(typed):
    with vendor(200, CATALOGUE) as (url, asked):
        done = typed("--hours-per-day", "10", "--gpu", "4090", RUNPOD_API_KEY=KEY, RUNPOD_API_URL=url)
    assert done.exit_code == 0, done.output
    assert "$0.50" in done.stdout and "RunPod's API, now" in done.stdout
    assert asked == [("GET", "/v2/catalog/gpus", f"Bearer {KEY}")]
    assert KEY not in done.output


@pytest.mark.parametrize(("status", "body"), [(401, {"title": "no"}), (200, {"gpus": []}), (200, "odd")])
def test_a_vendor_that_does_not_say_leaves_the_dated_table_and_is_told_of(typed, status, body):
    with vendor(status, body) as (url, _):
        done = typed("--hours-per-day", "10", "--gpu", "4090", RUNPOD_API_KEY=KEY, RUNPOD_API_URL=url)
    assert done.exit_code == 0
    assert "as read 2026-01-01" in done.stdout and "RunPod was asked for the prices of now, and" in done.stdout


def test_nobody_there_leaves_the_dated_table(typed):
    with vendor(200, CATALOGUE) as (url, _):
        pass
    done = typed("--hours-per-day", "1", "--gpu", "L4", RUNPOD_API_KEY=KEY, RUNPOD_API_URL=url)
    assert done.exit_code == 0 and "no connection" in done.stdout


def test_a_gpu_without_a_price_is_exit_code_2_and_says_which_have_one(typed):
    done = typed("--hours-per-day", "1", "--gpu", "banana")
    assert done.exit_code == 2 and "RTX 4090" in done.stderr


@pytest.mark.parametrize("words", [("--hours-per-day", "25"), ("--gpu", "L4"), ("--hours-per-day", "x")])
def test_what_makes_no_sense_is_exit_code_2(typed, words):
    assert typed(*words).exit_code == 2


@pytest.mark.parametrize("words", [("--gpu", "4090"), ()], ids=["one", "all"])
def test_the_page_shows_what_the_command_says(typed, words):
    page = Path(__file__).parents[2] / "docs" / "how-to" / "what-a-month-costs.md"
    table = typed("--hours-per-day", "10", *words).stdout.split("\n\n")[1]
    assert table in page.read_text("utf-8"), "copy the table of the command to the page"
