"""Compressing and removing, on real folders: nothing double, nothing lost, nothing touched that is not ours."""

import fcntl
import gzip
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.records.logs import keeper as keeper_room
from gateway.records.logs import names
from gateway.records.logs.keeper import Keeper
from gateway.records.logs.room import LIVE
from gateway.records.logs.volume import Volume
from tests.support.log_lines import STAMP, plan

LINES = b"".join(b"a line of the log, number %d\n" % number for number in range(2000))
LONG_AGO = time.time() - 3 * LIVE
DEAD = "20260101T000000Z_dead"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "logs" / "llama"
    made.mkdir(parents=True)
    return made


def keeper(data: Path, cap: int = 500 << 20, max_size: int = 1 << 20) -> Keeper:
    return Keeper(plan(data, total_size=cap, max_size=max_size), Volume(data), None)


def put(folder: Path, file: str, data: bytes = LINES, mtime: float | None = None) -> Path:
    path = folder / file
    path.write_bytes(data)
    if mtime is not None:
        os.utime(path, (mtime, mtime))
    return path


def rotated(stamp: str = STAMP, age: float = 10.0, engine: str = "") -> str:
    return names.rotated(f"{stamp}{engine}.txt", time.time() - age)


def listing(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_what_was_rotated_is_compressed(tmp_path: Path, folder: Path) -> None:
    path = put(folder, rotated(), mtime=LONG_AGO)
    live = put(folder, f"{STAMP}.txt")
    keeper(tmp_path).sweep()
    packed = folder / f"{path.name}.gz"
    assert listing(folder) == sorted([packed.name, live.name])
    assert gzip.decompress(packed.read_bytes()) == LINES
    assert packed.stat().st_mtime == pytest.approx(LONG_AGO, abs=1) and packed.stat().st_mode & 0o777 == 0o600


def test_who_died_while_compressing_leaves_nothing_double_and_nothing_lost(tmp_path: Path, folder: Path) -> None:
    """Half made: removed and made again. Named, and the other one still there: the other one goes. Named wrongly (not
    by us): made again."""
    half, whole, wrong = (rotated(DEAD, age) for age in (3000, 4000, 5000))
    for file in (half, whole, wrong):
        put(folder, file, mtime=LONG_AGO)
    put(folder, f"{half}.gz.tmp", gzip.compress(LINES)[:100], mtime=LONG_AGO)
    put(folder, f"{whole}.gz", gzip.compress(LINES), mtime=LONG_AGO)
    put(folder, f"{wrong}.gz", gzip.compress(b"something else"), mtime=LONG_AGO)
    keeper(tmp_path).sweep()
    assert listing(folder) == sorted(f"{file}.gz" for file in (half, whole, wrong))
    assert [gzip.decompress(path.read_bytes()) for path in folder.iterdir()] == [LINES] * 3


def test_what_another_worker_is_compressing_is_left_to_it(tmp_path: Path, folder: Path) -> None:
    file = rotated()
    put(folder, file)
    put(folder, f"{file}.gz.tmp", b"so far")
    keeper(tmp_path).sweep()
    assert listing(folder) == sorted([file, f"{file}.gz.tmp"])


def test_what_somebody_still_writes_to_is_not_compressed(tmp_path: Path, folder: Path) -> None:
    """The engine's guard, whose file was moved and which has not looked yet."""
    path = put(folder, rotated(engine="_engine", age=60), mtime=LONG_AGO)
    with path.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        keeper(tmp_path).sweep()
        assert listing(folder) == [path.name]
    keeper(tmp_path).sweep()
    assert listing(folder) == [f"{path.name}.gz"]


def test_lines_that_come_while_it_is_compressed_are_not_lost(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = put(folder, rotated(), mtime=LONG_AGO)
    write_all = keeper_room._write_all

    def meanwhile(fd: int, data: bytes) -> None:
        with path.open("ab") as file:
            file.write(b"late\n")
        write_all(fd, data)

    monkeypatch.setattr(keeper_room, "_write_all", meanwhile)
    keeper(tmp_path).sweep()
    assert listing(folder) == [path.name] and path.read_bytes().endswith(b"late\n")


def test_what_was_removed_while_it_was_compressed_does_not_come_back(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = put(folder, rotated(), mtime=LONG_AGO)
    monkeypatch.setattr(keeper_room.os, "fsync", lambda fd: path.unlink(missing_ok=True))
    keeper(tmp_path).sweep()
    assert listing(folder) == []


def test_what_was_compressed_while_it_was_to_be_removed_goes_all_the_same(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or else the oldest would stay, and a younger one go."""
    path = put(folder, rotated(DEAD, 4 * LIVE), os.urandom(100_000), mtime=LONG_AGO)
    decide = keeper_room.room.what_to_remove

    def meanwhile(*words: Any) -> Any:
        going = decide(*words)
        if path.exists():
            path.rename(f"{path}.gz")
        return going

    monkeypatch.setattr(keeper_room.room, "what_to_remove", meanwhile)
    keeper(tmp_path, cap=1).sweep()
    assert listing(folder) == []


def test_the_oldest_go_over_all_folders_and_workers(tmp_path: Path, folder: Path) -> None:
    other, boots = tmp_path / "logs" / "vllm", tmp_path / "logs" / "_boot"
    other.mkdir()
    boots.mkdir()
    mib = os.urandom(1 << 20)
    long_ago = time.time() - 3 * LIVE  # from the same moment as the names' times
    going = [
        put(folder, f"{DEAD}_engine.txt", mib, long_ago - 500),
        put(other, rotated(DEAD, 3 * LIVE + 400) + ".gz", mib),
        put(boots, "20260101T000000Z_old.log", b"boot", long_ago - 300),
    ]
    staying = [
        put(other, f"{DEAD}.txt", mib, long_ago - 200),
        put(folder, rotated(STAMP, 5) + ".gz", mib),
        put(boots, "20260102T000000Z_new.log", b"boot", long_ago),
        put(boots, f"{STAMP}.log", b"boot", long_ago - 1000),
    ]
    keeper(tmp_path, cap=2 * (1 << 20) + 4096 + (1 << 20)).sweep()
    assert [path.exists() for path in (*going, *staying)] == [False] * 3 + [True] * 4


def test_nothing_is_touched_that_is_not_ours(tmp_path: Path, folder: Path) -> None:
    """Other names, folders and pipes under our names, links, files with a second name, and what a link leads to."""
    outside = tmp_path / "outside"
    outside.mkdir()
    kept = [put(outside, f"{DEAD}.txt", mtime=LONG_AGO), put(folder, "notes.txt", mtime=LONG_AGO)]
    (folder / f"{DEAD}-link.txt").symlink_to(kept[0])
    os.link(kept[1], folder / f"{DEAD}-hard.txt")
    (folder / f"{DEAD}-folder.txt").mkdir()
    os.mkfifo(folder / f"{DEAD}-pipe.txt")
    os.mkfifo(folder / rotated(DEAD, 4 * LIVE))
    (tmp_path / "logs" / "linked").symlink_to(outside)
    (tmp_path / "logs" / "a file").write_text("")
    before = listing(folder), listing(outside), listing(tmp_path / "logs")
    ours = put(folder, f"{DEAD}-2.txt", mtime=LONG_AGO)
    one = keeper(tmp_path, cap=0)
    one.sweep()
    assert not ours.exists() and not one.trouble
    assert (listing(folder), listing(outside), listing(tmp_path / "logs")) == before


def test_who_holds_the_lock_is_alive_whatever_the_time_says(tmp_path: Path, folder: Path) -> None:
    """A worker that was paused, or whose clock is wrong: another goes in its place."""
    paused = put(folder, f"{DEAD}.txt", mtime=LONG_AGO - 100)
    younger = put(folder, "20260201T000000Z_w.txt", mtime=LONG_AGO)
    with paused.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        keeper(tmp_path, cap=0).sweep()
    assert paused.exists() and not younger.exists()


def test_our_engines_log_is_moved_when_it_is_over_its_share(tmp_path: Path, folder: Path) -> None:
    """Its guard cannot be told; it sees that the file was moved, and begins another."""
    put(folder, f"{STAMP}_engine.txt", os.urandom(1 << 20))
    put(folder, f"{DEAD}_engine.txt", os.urandom(1 << 20))
    keeper(tmp_path, cap=2 << 20).sweep()
    kept = [names.parse(file) for file in listing(folder)]
    assert [(name.stamp, name.is_rotated) for name in kept if name] == [(DEAD, False), (STAMP, True)]


def test_a_sweep_of_nothing_and_of_what_may_not_be_read_is_no_trouble(tmp_path: Path) -> None:
    one = keeper(tmp_path / "nowhere")
    one.sweep()
    assert not one.trouble and not (tmp_path / "nowhere").exists(), "and makes nothing"


@pytest.fixture
def running(tmp_path: Path, folder: Path) -> Iterator[Keeper]:
    one = keeper(tmp_path)
    one.start()
    yield one
    one.ask_to_end()
    assert one.join(5)


def test_it_works_on_a_thread_of_its_own_with_low_priority(running: Keeper, folder: Path) -> None:
    path = put(folder, rotated())
    running.rotated()
    deadline = time.monotonic() + 5
    while not (folder / f"{path.name}.gz").exists():
        assert time.monotonic() < deadline
        time.sleep(0.005)
    thread = next(thread for thread in threading.enumerate() if thread.name == "log-keeper" and thread.native_id)
    assert os.getpriority(os.PRIO_PROCESS, thread.native_id or 0) == 19
    assert os.getpriority(os.PRIO_PROCESS, 0) < 19


def test_the_end_does_not_wait_for_a_file_to_be_compressed(tmp_path: Path, folder: Path) -> None:
    put(folder, rotated(), os.urandom(1 << 20) * 40)
    one = keeper(tmp_path)
    one.start()
    time.sleep(0.01)
    one.ask_to_end()
    assert one.join(2)
    assert not any(file.endswith(".tmp") for file in listing(folder))
