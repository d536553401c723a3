"""The boot log: a boot's story on the volume, whatever the volume does, and nobody waits for it."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from threading import Event

import pytest

from gateway.records.boot_log import KEPT, LATEST, RETRY, TOUCH, BootLog, Courier, for_xargs
from gateway.records.logs.room import LIVE
from tests.support.worker import wait_for

STAMP = "20261121T140506Z_worker-7"


class Hand:
    """Writes when it is told to: stands for the writer's thread. And the time."""

    def __init__(self) -> None:
        self.jobs: list[Callable[[], None]] = []
        self.at = 1795269906.0

    def __call__(self, job: Callable[[], None]) -> None:
        self.jobs.append(job)

    def now(self) -> float:
        return self.at

    def work(self) -> None:
        while self.jobs:
            self.jobs.pop(0)()


@pytest.fixture
def hand() -> Hand:
    return Hand()


@pytest.fixture
def log(tmp_path: Path, hand: Hand) -> BootLog:
    return BootLog(tmp_path / "logs" / "_boot", STAMP, now=hand.now, clock=hand.now, run=hand)


def told(log: BootLog, hand: Hand) -> list[str]:
    """What stands in the file, without the times."""
    hand.work()
    return [line.partition("s  ")[2] for line in log.path.read_text("utf-8").splitlines()]


def test_a_boot_is_told_from_the_first_fact_to_the_end(log: BootLog, hand: Hand) -> None:
    """Each phase with its time, the engine's command line without its key."""
    log.begin({"about": ["WakeGate 0.1.0"], "setting": ["PORT=1", "API_KEY=…"]})
    log.phase("checking")
    hand.at += 0.5
    log.phase("downloading", "0/4 GiB")
    hand.at += 50
    log.phase("downloading", "4/4 GiB")
    log.engine(["llama-server", "--api-key", "wk-0123456789"])
    log.engine(["llama-server", "--api-key", "wk-0123456789"])
    log.phase("loading")
    hand.at += 11.75
    log.ready(62.3)
    log.ended("SIGTERM")
    assert told(log, hand) == [
        f"boot {STAMP}, process {os.getpid()}",
        "about: WakeGate 0.1.0",
        "setting: PORT=1",
        "setting: API_KEY=…",
        "start 1",
        "  checking",
        "  downloading: 0/4 GiB",
        "engine: llama-server --api-key …",
        "  loading",
        "ready after 62.3 s (checking 0.5 s, downloading 50.0 s, loading 11.8 s)",
        "ended: SIGTERM",
    ]


def test_each_line_has_its_time_of_day_and_of_the_boot(log: BootLog, hand: Hand) -> None:
    hand.at += 12.3456
    log.note("here")
    hand.work()
    assert log.path.read_text() == "2026-11-21T14:05:18.345Z     12.346s  here\n"


def test_a_start_that_fails_says_why_and_the_next_one_counts_on(log: BootLog, hand: Hand) -> None:
    log.phase("booting")
    hand.at += 3
    log.failed("The engine ended.", "out of memory\nkilled")
    log.phase("booting")
    assert told(log, hand) == [
        "start 1",
        "  booting",
        "failed after 3.0 s: The engine ended. (booting 3.0 s)",
        "  | out of memory",
        "  | killed",
        "start 2",
        "  booting",
    ]


def test_a_stop_and_a_start_that_is_given_up_are_told_apart(log: BootLog, hand: Hand) -> None:
    log.phase("loading")
    hand.at += 2
    log.stopped("idle")
    log.phase("loading")
    log.ready()
    log.stopped("idle")
    assert told(log, hand) == [
        "start 1",
        "  loading",
        "start given up after 2.0 s: idle",
        "start 2",
        "  loading",
        "ready after 0.0 s (loading 0.0 s)",
        "stopped: idle",
    ]


def test_what_an_engine_said_after_it_served_is_not_repeated(log: BootLog, hand: Hand) -> None:
    """It may hold a prompt."""
    log.phase("loading")
    log.ready()
    log.failed("The engine crashed.", "slot 1: prompt: my secret diary")
    assert told(log, hand)[-1] == "broke off: The engine crashed."
    assert "diary" not in log.path.read_text()


def test_secrets_are_taken_out_and_a_text_cannot_end_its_line(tmp_path: Path, hand: Hand) -> None:
    log = BootLog(tmp_path / "logs" / "_boot", STAMP, redact=lambda text: text.replace("hunter2", "…"), run=hand)
    log.note("key hunter2\n2026 forged \x1b[31m\u2028 \udcff")
    assert told(log, hand) == ["key …\\x0a2026 forged \\x1b[31m\\x2028 \\xdcff"]


def test_the_newest_boot_is_found_by_the_command_that_guides_have(tmp_path: Path) -> None:
    """Also under a folder with blanks and quotes in its name, and from anywhere."""
    folder = tmp_path / "my \"o'data" / "logs" / "_boot"
    for stamp in (STAMP, "20261121T150000Z_other"):
        log = BootLog(folder, stamp)
        log.begin({})
        assert log.flush(5)
    done = subprocess.run(
        ["sh", "-c", 'cat "$1" | xargs cat', "sh", str(folder / LATEST)], cwd="/", capture_output=True, text=True
    )
    assert "boot 20261121T150000Z_other" in done.stdout
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        (f"{STAMP}.log", "20261121T150000Z_other.log", LATEST)
    )
    assert for_xargs(Path("/data/logs/_boot/a.log")) == "/data/logs/_boot/a.log"


def test_gpus_are_heard_of_later_and_a_driver_that_hangs_holds_nothing(tmp_path: Path) -> None:
    answer = Event()

    def look() -> tuple[str, ...]:
        answer.wait(10)
        return ("NVIDIA H200",)

    log = BootLog(tmp_path / "logs" / "_boot", STAMP)
    log.look_for_gpus(look)
    log.note("goes on")
    assert log.flush(5)
    assert "gpu" not in log.path.read_text()
    answer.set()
    wait_for(lambda: "gpu: NVIDIA H200" in log.path.read_text(), 5, "the GPU's line")


def test_a_volume_that_takes_nothing_is_counted_and_gets_it_all_when_it_is_back(log: BootLog, hand: Hand) -> None:
    """Here a file stands where the folder should."""
    log.path.parent.parent.mkdir()
    log.path.parent.touch()
    log.note("one")
    hand.work()
    log.note("two")
    hand.work()
    assert log.failures == 2
    log.path.parent.unlink()
    hand.at += RETRY
    log.try_again()
    assert told(log, hand) == ["one", "two"]
    assert (log.path.parent / LATEST).read_text() == f"{log.path}\n"
    log.try_again()
    assert not hand.jobs, "nothing waits, nothing is tried"


def test_a_volume_that_stays_away_is_not_asked_each_second(log: BootLog, hand: Hand) -> None:
    log.path.parent.parent.mkdir()
    log.path.parent.touch()
    log.note("one")
    hand.work()
    for _ in range(int(RETRY) - 1):
        log.try_again()
        hand.work()
        hand.at += 1
    assert log.failures == 2


def test_a_gateway_that_lives_long_gives_a_sign_of_life(log: BootLog, hand: Hand) -> None:
    """Other workers of the volume take a file that nobody has touched for ten minutes for a dead one's."""
    log.note("one")
    hand.work()
    os.utime(log.path, (0, 0))
    for _ in range(int(TOUCH)):
        hand.at += 1
        log.try_again()
    assert len(hand.jobs) == 1
    hand.work()
    assert log.path.stat().st_mtime > 0 and LIVE > 3 * TOUCH
    log.path.unlink()
    hand.at += TOUCH
    log.try_again()
    hand.work()
    assert not log.path.exists(), "a sign of life makes no file"


def test_what_waits_for_a_volume_that_hangs_is_bounded(log: BootLog, hand: Hand) -> None:
    """Nobody writes, and nobody notices: one job is asked for, lines are kept, then dropped and counted."""
    for _ in range(2000):
        log.note("x" * 1000)
    assert len(hand.jobs) == 1
    assert log.dropped > 0
    hand.work()
    assert KEPT - 2000 < log.path.stat().st_size <= KEPT


def test_a_link_in_its_place_is_not_followed(log: BootLog, hand: Hand, tmp_path: Path) -> None:
    log.path.parent.mkdir(parents=True)
    log.path.symlink_to(tmp_path / "elsewhere")
    log.note("one")
    hand.work()
    assert log.failures == 1
    assert not (tmp_path / "elsewhere").exists()
    log.path.unlink()
    log.note("two")
    assert told(log, hand) == ["one", "two"]


def test_a_pipe_in_its_place_holds_nobody(log: BootLog, hand: Hand) -> None:
    log.path.parent.mkdir(parents=True)
    os.mkfifo(log.path)
    log.note("one")
    hand.work()
    assert log.failures == 1


def test_a_folder_that_is_a_link_is_not_written_to(log: BootLog, hand: Hand, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    log.path.parent.parent.mkdir()
    log.path.parent.symlink_to(elsewhere)
    log.note("one")
    hand.work()
    assert log.failures == 1
    assert not list(elsewhere.iterdir())


def test_a_courier_does_jobs_in_order_and_rests_without_a_thread() -> None:
    courier, done, go = Courier("test"), [], Event()
    courier(lambda: go.wait(10) and None)
    for number in range(3):
        courier(lambda number=number: done.append(number))
    assert not courier.wait(0.01)
    go.set()
    assert courier.wait(5)
    assert done == [0, 1, 2]
    courier(lambda: done.append(3))
    assert courier.wait(5)
    assert done[-1] == 3
