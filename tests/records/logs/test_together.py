"""Ten real processes on one folder of logs, under a cap that is much too small for what they write."""

import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from gateway.records.logs.room import LEAST
from tests.support.log_lines import numbers_in, segments, text_of

WORKERS = 10
LINES = 6000
CAP = 3 << 20
"""Together they write twice as much."""


class Worker:
    def __init__(self, process: "subprocess.Popen[str]", number: int) -> None:
        self.process = process
        self.stamp = f"20261121T14050{number}Z_worker"
        self.folder = f"llama{number % 2}"

    def says(self, word: str) -> None:
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == f"{word}\n"

    def go_on(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()


@pytest.fixture
def workers(tmp_path: Path) -> Iterator[list[Worker]]:
    with ExitStack() as stack:
        started = []
        for number in range(WORKERS):
            words = [sys.executable, "-m", "tests.support.log_worker", str(tmp_path), str(number), str(LINES), str(CAP)]
            process = stack.enter_context(
                subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            )
            stack.callback(process.kill)
            started.append(Worker(process, number))
        yield started


def size_of(logs: Path) -> int:
    total = 0
    for path in logs.rglob("*.*"):
        try:
            total += path.lstat().st_size
        except FileNotFoundError:
            continue  # removed or renamed this moment
    return total


def test_ten_workers_keep_one_cap_and_lose_no_line_of_a_live_file(tmp_path: Path, workers: list[Worker]) -> None:
    logs = tmp_path / "logs"
    for worker in workers:
        worker.says("there")
    notes = logs / "llama0" / "notes.txt"
    notes.write_text("not a log of ours")
    time.sleep(0.5)  # each looks around every 0.2 s, and shares the room with all that it sees
    for worker in workers:
        worker.go_on()
    largest = 0
    with ThreadPoolExecutor(WORKERS) as pool:
        done = [pool.submit(worker.says, "done") for worker in workers]
        while not all(one.done() for one in done):
            largest = max(largest, size_of(logs))
        for one in done:
            one.result()
    # What may be above the cap: a file per worker that is being compressed.
    assert largest <= CAP + WORKERS * LEAST, f"{largest} bytes at once"
    for worker in workers:
        worker.go_on()
        assert worker.process.wait(20) == 0
    assert size_of(logs) <= CAP
    for worker in workers:
        live = logs / worker.folder / f"{worker.stamp}.txt"
        assert live.exists(), "never removed by another"
        text = "".join(text_of(path) for path in segments(logs / worker.folder, worker.stamp))
        numbers = numbers_in(text)
        assert "T facts 0" in text, "nothing was dropped"
        assert numbers == list(range(LINES - len(numbers), LINES)), "without a hole to the end"
    assert list(logs.rglob("*_worker_2*")), "history is kept, too"
    assert notes.read_text() == "not a log of ours"
    assert not list(logs.rglob("*.tmp"))
