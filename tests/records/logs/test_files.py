"""The live file: its rotation, `latest.txt`, and what becomes of it when somebody meddles."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from gateway.records.logs import names
from gateway.records.logs.files import Files
from gateway.records.logs.room import LIVE
from gateway.records.logs.volume import Volume
from tests.support.log_lines import STAMP, plan, segments

NEWER = STAMP.replace("2026", "2027")


def files(
    data: Path, *, rotations: list[str] | None = None, parts: dict[str, Any] | None = None, **plans: Any
) -> Files:
    plans = {"verify_every": 0.0, "touch_every": 0.0} | plans
    told = (lambda: rotations.append("")) if rotations is not None else (lambda: None)
    return Files(plan(data, **plans), Volume(data), on_rotation=told, **(parts or {}))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "logs" / "llama"


# --- rotation


def test_a_file_is_rotated_before_it_is_too_large_and_between_lines(tmp_path: Path, folder: Path) -> None:
    rotations: list[str] = []
    log = files(tmp_path, rotations=rotations, max_size=1000)
    data = b"".join(b"line %04d\n" % number for number in range(350))
    for begin in range(0, len(data), 700):
        assert log.write(data[begin : begin + 700]) == len(data[begin : begin + 700])
    log.close()
    found = segments(folder)
    assert b"".join(path.read_bytes() for path in found) == data
    assert [path.stat().st_size for path in found] == [1000, 1000, 1000, 500]
    assert len(rotations) == 3 and found[-1].name == f"{STAMP}.txt"
    assert all((name := names.parse(path.name)) and name.is_rotated for path in found[:-1])


def test_a_line_longer_than_a_file_has_one_to_itself(tmp_path: Path, folder: Path) -> None:
    log = files(tmp_path, max_size=100)
    log.write(b"short\n" + b"x" * 500 + b"\nshort\n")
    log.close()
    assert [path.stat().st_size for path in segments(folder)] == [6, 501, 6]


def test_it_rotates_sooner_when_many_share_the_volume(tmp_path: Path, folder: Path) -> None:
    log = files(tmp_path, max_size=10_000)
    log.allow(100)
    log.write(b"x" * 99 + b"\n" + b"y\n")
    log.allow(1 << 30)
    log.write(b"z" * 9000 + b"\n")
    log.close()
    assert len(segments(folder)) == 2, "and never later than LOG_MAX_SIZE"


def test_a_file_is_rotated_when_it_is_old_also_when_nothing_is_written(tmp_path: Path, folder: Path) -> None:
    clock = [1_795_262_400.0]
    log = files(tmp_path, parts={"now": lambda: clock[0]}, rotate_every=3600.0)
    log.write(b"one\n")
    clock[0] += 3599
    log.look()
    assert len(segments(folder)) == 1
    clock[0] += 1
    log.look()
    rotated, live = segments(folder)
    assert rotated.read_bytes() == b"one\n" and live.read_bytes() == b""
    clock[0] += 10_000
    log.look()
    assert len(segments(folder)) == 2, "an empty file does not age"
    log.close()


def test_a_clock_that_is_set_back_does_not_keep_a_file_forever(tmp_path: Path, folder: Path) -> None:
    clock = [1_795_262_400.0]
    log = files(tmp_path, parts={"now": lambda: clock[0]}, rotate_every=3600.0)
    log.write(b"one\n")
    clock[0] -= 1_000_000
    log.look()
    clock[0] += 3600
    log.look()
    assert len(segments(folder)) == 2
    log.close()


BY_FAKETIME = """
import os, sys, time
from pathlib import Path
from gateway.records.logs.files import Files
from gateway.records.logs.volume import Volume
from tests.support.log_lines import plan, segments

data, clock = Path(sys.argv[1]), Path(os.environ["FAKETIME_TIMESTAMP_FILE"])
log = Files(plan(data), Volume(data), on_rotation=lambda: None)
for until in sys.argv[2:]:
    clock.write_text(until)
    log.write(f"{time.time():.0f} {time.strftime('%H:%M')}\\n".encode())
    print(len(segments(data / "logs" / "llama")))
print(*(path.name for path in segments(data / "logs" / "llama")[:-1]))
"""


def test_a_day_has_24_hours_also_when_summer_time_ends(tmp_path: Path, folder: Path) -> None:
    """With the clock of a whole process faked: the day in Berlin on which the hour from 2 to 3 comes twice."""
    faketime = subprocess.run(
        ["faketime", "2026-01-01", "sh", "-c", 'echo "$LD_PRELOAD"'], capture_output=True, text=True, check=True
    )
    begin = 1792872000  # 2026-10-24 22:00 in Berlin; summer time ends five hours later
    hours = (0, 4.5, 5.5, 23.99, 24, 24.5, 48.1)
    (tmp_path / "clock").write_text(str(begin))
    ran = subprocess.run(
        [sys.executable, "-c", BY_FAKETIME, str(tmp_path), *(str(int(begin + hour * 3600)) for hour in hours)],
        env={
            **os.environ,
            "TZ": "Europe/Berlin",
            "LD_PRELOAD": faketime.stdout.strip(),
            "FAKETIME_TIMESTAMP_FILE": str(tmp_path / "clock"),
            "FAKETIME_FMT": "%s",
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        },
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    *counts, rotated = ran.stdout.splitlines()
    assert counts == ["1", "1", "1", "1", "2", "2", "3"]
    assert [name.split("_")[2][:15] for name in rotated.split()] == ["20261025T200000", "20261026T200600"]
    text = "".join(path.read_text() for path in segments(folder))
    assert [line.split()[1] for line in text.splitlines()[1:3]] == ["02:30", "02:30"], "the same hour twice"


# --- latest.txt


def test_latest_is_a_relative_link_to_the_live_file(tmp_path: Path, folder: Path) -> None:
    log = files(tmp_path, max_size=100)
    log.write(b"x" * 99 + b"\n" + b"new\n")
    assert (folder / "latest.txt").readlink() == Path(f"{STAMP}.txt")
    assert (folder / "latest.txt").read_bytes() == b"new\n", "also after a rotation"
    log.close()


def no_links(*_: object, **__: object) -> None:
    raise PermissionError(1, "Operation not permitted")


def test_where_the_volume_knows_no_links_latest_is_a_copy(tmp_path: Path, folder: Path) -> None:
    """FAT and some SMB shares. It has the lines at once, and begins anew with each rotation."""
    log = files(tmp_path, parts={"symlink": no_links}, max_size=100)
    latest = folder / "latest.txt"
    log.write(b"one\n")
    log.write(b"two\n")
    assert latest.read_bytes() == b"one\ntwo\n" and not latest.is_symlink()
    log.write(b"x" * 98 + b"\n")
    assert latest.read_bytes() == (folder / f"{STAMP}.txt").read_bytes() == b"x" * 98 + b"\n"
    log.close()
    assert sorted(path.name for path in folder.iterdir() if "latest" in path.name) == ["latest.txt"]


def test_a_newer_gateway_takes_latest_over_and_keeps_it(tmp_path: Path, folder: Path) -> None:
    for parts in ({}, {"symlink": no_links}):
        older, newer = (files(tmp_path, parts=parts, stamp=stamp, max_size=100) for stamp in (STAMP, NEWER))
        older.write(b"older\n")
        newer.write(b"newer\n")
        older.write(b"o" * 95 + b"\n")
        older.write(b"older again\n")
        assert (folder / "latest.txt").read_bytes() == b"newer\n" or parts, "by its name, a link says who is newer"
        older.close()
        newer.close()
        shutil.rmtree(folder)


def test_latest_of_a_gateway_that_ended_long_ago_is_taken_over_whatever_its_clock_said(
    tmp_path: Path, folder: Path
) -> None:
    dead = files(tmp_path, stamp=NEWER)
    dead.write(b"dead\n")
    dead.close()
    os.utime(folder / f"{NEWER}.txt", (0, time.time() - 2 * LIVE))
    log = files(tmp_path)
    log.write(b"alive\n")
    assert (folder / "latest.txt").read_bytes() == b"alive\n"
    log.close()


def test_a_folder_in_the_place_of_latest_stops_no_line(tmp_path: Path, folder: Path) -> None:
    (folder / "latest.txt" / "x").mkdir(parents=True)
    log = files(tmp_path)
    assert log.write(b"one\n") == 4 and not log.trouble
    log.close()
    assert sorted(path.name for path in folder.iterdir()) == sorted(["latest.txt", f"{STAMP}.txt"])


# --- others


def test_two_gateways_of_one_name_that_begin_in_one_second_write_to_two_files(tmp_path: Path, folder: Path) -> None:
    logs = [files(tmp_path) for _ in range(3)]
    for word in (b"one\n", b"two\n"):
        for log in logs:
            log.write(word)
    for log in logs:
        log.close()
    found = {path.name: path.read_text() for path in folder.iterdir() if path.name != "latest.txt"}
    assert found == {f"{STAMP}{end}.txt": "one\ntwo\n" for end in ("", "-2", "-3")}


@pytest.mark.parametrize("meddle", ["moved", "deleted", "folder gone", "replaced by a link"])
def test_a_file_that_somebody_took_away_is_begun_again(meddle: str, tmp_path: Path, folder: Path) -> None:
    log = files(tmp_path)
    log.write(b"one\n")
    live = folder / f"{STAMP}.txt"
    victim = tmp_path / "victim"
    victim.write_text("untouched")
    if meddle == "moved":
        live.rename(tmp_path / "moved")
    elif meddle == "folder gone":
        shutil.rmtree(tmp_path / "logs")
    else:
        live.unlink()
    if meddle == "replaced by a link":
        live.symlink_to(victim)
        assert log.write(b"two\n") == 0 and "links" in log.trouble, "never through a link"
        live.unlink()
    assert log.write(b"two\n") == 4 and not log.trouble
    assert live.read_bytes() == b"two\n" and victim.read_text() == "untouched"
    log.close()


def test_a_live_file_shows_that_it_is(tmp_path: Path, folder: Path) -> None:
    """By its time, for everybody, and by its lock, where the volume has such."""
    log = files(tmp_path)
    log.write(b"one\n")
    live = folder / f"{STAMP}.txt"
    os.utime(live, (0, 0))
    log.look()
    assert time.time() - live.stat().st_mtime < 60
    assert subprocess.run(["flock", "-n", str(live), "true"]).returncode == 1
    log.close()
    assert subprocess.run(["flock", "-n", str(live), "true"]).returncode == 0


def test_no_handle_is_left_open(tmp_path: Path) -> None:
    before = sorted(os.listdir("/proc/self/fd"))
    log = files(tmp_path, parts={"symlink": no_links}, max_size=50)
    for number in range(20):
        log.write(b"line %d\n" % number)
        log.look()
    log.close()
    assert sorted(os.listdir("/proc/self/fd")) == before
