"""`wakegate spend` as it is typed, on ledgers that a gateway wrote."""

import asyncio
import csv
import io
import json
import os
import time

import pytest
from typer.testing import CliRunner

from gateway.cli import app
from gateway.commands.spend import chart
from gateway.policy.books import HOUR, Entry, day_of, month_of
from gateway.records.ledger.redis import RedisLedger
from gateway.records.ledger.sqlite import SqliteLedger, usual_path
from tests.support.redis_server import RedisServer
from tests.support.worker import free_port

NOW = int(time.time() * 1000)
MONTH = month_of(NOW)
PRICE = 340_000


@pytest.fixture
def typed(tmp_path, monkeypatch):
    for name in [*os.environ]:
        monkeypatch.delenv(name)
    (tmp_path / "empty.env").touch()
    base = {"HOME": str(tmp_path), "DATA_DIR": str(tmp_path / "data"), "WAKEGATE_ENV_FILE": str(tmp_path / "empty.env")}

    def run(*words, **environ):
        return CliRunner().invoke(app, ["spend", *words], env={**base, "PATH": "/nowhere", "COLUMNS": "80", **environ})

    return run


def write(folder, *entries: Entry) -> None:
    (folder / "data").mkdir(exist_ok=True)

    async def all_of_them() -> None:
        ledger = SqliteLedger(usual_path(folder / "data"))
        for seq, entry in enumerate(entries):
            assert await ledger.append(entry, seq)
        await ledger.close()

    asyncio.run(all_of_them())


@pytest.fixture
def two_hours(tmp_path):
    """Two hours that ended just now, and disks."""
    write(
        tmp_path,
        Entry("intended", NOW - 2 * HOUR, "wg-1", "runpod-pod", "default", price=PRICE, amount=200_000, why="RunPod's"),
        Entry("known", NOW - 2 * HOUR + 1, "wg-1", instance="pod1", price=PRICE, why="RunPod's"),
        Entry("ended", NOW, "wg-1", amount=2 * PRICE, why="idle"),
        Entry("storage", NOW, provider="runpod-pod", month=MONTH, price=12_000_000, amount=4_000_000),
    )
    return tmp_path


def spent(folder, month: str, worker: str, **keys: int) -> None:
    place = folder / "data" / "state" / "spent"
    place.mkdir(parents=True, exist_ok=True)
    (place / f"{month}_{worker}.json").write_text(json.dumps({"month": month, "micro_dollars": keys}))


def test_nothing_rented_is_said(typed):
    done = typed()
    assert (done.exit_code, done.stdout) == (0, "Nothing was rented yet: there is no ledger.\n")


def test_the_month_is_summed_up(typed, two_hours):
    """Also when the two hours began in the month before, on whose figures the month is then asked for."""
    done = typed("--month", month_of(NOW - 2 * HOUR), MONTHLY_BUDGET="20")
    assert done.exit_code == 0, done.output
    said = " ".join(done.stdout.split())
    if month_of(NOW - 2 * HOUR) == MONTH:
        assert "running $0.68" in said
        assert "disks $4.00 to the month's end, whatever runs" in said
        assert "together $4.68 of $20.00, 23 %" in said
        assert "forecast $" in said
    assert day_of(NOW - 2 * HOUR) in done.stdout and "█" in done.stdout


def test_why_says_every_line_and_their_sum(typed, two_hours):
    done = typed("--why")
    assert done.exit_code == 0
    assert "wg-1 on runpod-pod (pod1)" in done.stdout and "RunPod's" in done.stdout and "idle" in done.stdout
    assert f"in {MONTH}, rounded up for each line" in done.stdout.splitlines()[-1]


def test_programs_get_the_same(typed, two_hours):
    said = json.loads(typed("--json").stdout)
    assert said["month"] == MONTH and said["storage_dollars"] == 4.0
    assert sum(said["by_day"].values()) == pytest.approx(said["running_dollars"])
    assert said["by_key"] is None and said["budget_dollars"] is None


def test_a_spreadsheet_gets_all_digits(typed, two_hours):
    spent(two_hours, MONTH, "home-8000", **{"=cmd()": 500_000, "team-b": 1})
    rows = list(csv.reader(io.StringIO(typed("--csv", "--by", "key").stdout)))
    assert rows[0] == ["key", "dollars"]
    assert ["'=cmd()", "0.500000"] in rows and ["team-b", "0.000001"] in rows and ["(disks)", "4.000000"] in rows


def test_keys_of_all_workers_are_added(typed, two_hours):
    spent(two_hours, MONTH, "home-8000", a=100_000)
    spent(two_hours, MONTH, "away-8000", a=50_000, b=20_000)
    spent(two_hours, "2020-01", "home-8000", a=9_000_000)
    done = typed("--by", "key")
    assert "a   " in done.stdout and "$0.15" in done.stdout and "$0.02" in done.stdout


def test_shares_that_nobody_counts_are_said(typed, two_hours):
    done = typed("--by", "key")
    assert done.exit_code == 0 and "No shares of keys were counted" in done.stdout


def test_models_are_called_as_callers_know_them(typed, two_hours):
    words = ("--by", "model", "--month", month_of(NOW - 2 * HOUR))
    assert "default  $" in typed(*words).stdout
    assert "org/big  $" in typed(*words, SERVED_MODEL_NAME="org/big,other").stdout


@pytest.mark.parametrize("words", [("--by", "colour"), ("--month", "November")])
def test_what_makes_no_sense_is_exit_code_2(typed, two_hours, words):
    assert typed(*words).exit_code == 2


def test_a_ledger_that_cannot_be_read_is_exit_code_1(typed, tmp_path):
    (tmp_path / "data" / "state").mkdir(parents=True)
    (tmp_path / "data" / "state" / "wakegate.sqlite").write_bytes(b"no database at all, but long enough to be one" * 9)
    done = typed()
    assert done.exit_code == 1 and done.stderr.startswith("the ledger cannot be read: ")


def test_a_ledger_elsewhere_is_read_there(typed, tmp_path):
    write(tmp_path, Entry("said", NOW, why="a remark"))
    url = f"sqlite://{usual_path(tmp_path / 'data')}"
    assert "a remark" in typed("--why", DATA_DIR=str(tmp_path / "other"), STATE_URL=url).stdout


def test_a_ledger_that_several_share_is_read_in_their_redis(typed, tmp_path):
    async def one_line(url: str) -> None:
        ledger = RedisLedger(url)
        assert await ledger.append(Entry("said", NOW, why="a shared remark"), 0)
        await ledger.close()

    port = free_port()
    with RedisServer(tmp_path, "--port", str(port)):
        url = f"redis://127.0.0.1:{port}/0"
        assert typed(STATE_URL=url).stdout.startswith("Nothing was rented yet")
        asyncio.run(one_line(url))
        assert "a shared remark" in typed("--why", STATE_URL=url).stdout


def test_reading_does_not_need_the_gateway_to_be_gone_and_changes_nothing(typed, tmp_path):
    async def story() -> None:
        ledger = SqliteLedger(usual_path(tmp_path / "data"))
        assert await ledger.append(Entry("said", NOW, why="a remark"), 0)
        done = await asyncio.to_thread(typed, "--why")
        assert done.exit_code == 0 and "a remark" in done.stdout
        assert await ledger.append(Entry("said", NOW, why="another"), 1)
        await ledger.close()

    (tmp_path / "data").mkdir()
    asyncio.run(story())


@pytest.mark.parametrize("width", [10, 80, 500])
def test_bars_are_in_proportion_and_what_cost_anything_is_seen(width):
    lines = [*chart({"a": 0, "b": 1, "c": 500_000, "d": 1_000_000}, width)]
    bars = [line.count("█") for line in lines]
    assert bars[3] == max(bars) and abs(bars[3] - 2 * bars[2]) <= 1
    assert not lines[0].endswith(("█", "▏")) and lines[1].endswith("▏")
