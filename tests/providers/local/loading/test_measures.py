"""What is seen of an engine from outside: pages of its model, bytes that it read, memory on its GPUs."""

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gateway.gpus import Gpu, GpusSeen
from gateway.providers.local.loading.measures import Gauge, Measures, read_by, read_by_session, resident
from tests.support.engines import wait_until

GIB = 1 << 30
MIB = 1 << 20


def no_gpus() -> GpusSeen:
    return GpusSeen()


def file_of(path: Path, size: int, *, written: int) -> Path:
    """A file of which so much was written just now, and lies in the page cache; the rest is a hole."""
    with path.open("wb") as file:
        file.write(b"x" * written)
        file.truncate(size)
    return path


@pytest.fixture
def measure() -> Iterator[Callable[..., Measures]]:
    made: list[Measures] = []

    def make(model: Path | None, **parts: object) -> Measures:
        made.append(Measures(model, every=0.005, **({"ask": no_gpus} | parts)))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for each in made:
        each.close()
    wait_until(lambda: not gauges(), "the threads' end")


def gauges() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("gauge: ")]


# --- Pages


def test_pages_of_a_file_that_are_in_memory_are_counted(tmp_path: Path) -> None:
    whole = file_of(tmp_path / "a", 5 * MIB, written=5 * MIB)
    part = file_of(tmp_path / "b", 8 * MIB, written=2 * MIB)
    assert resident((whole,)) == 5 * MIB
    assert resident((whole, part)) == 7 * MIB
    assert resident(()) == 0


def test_of_a_large_file_a_sample_is_looked_at(tmp_path: Path) -> None:
    large = tmp_path / "large"
    with large.open("wb") as file:
        file.truncate(40 << 30)
        file.write(b"x" * 32 * MIB)
    told = resident((large,))
    assert told is not None and 0 < told < 128 * MIB, "its beginning, and nothing of the hole"


def test_looking_reads_nothing(tmp_path: Path) -> None:
    part = file_of(tmp_path / "b", 64 * MIB, written=MIB)
    assert [resident((part,)) for _ in range(3)] == [MIB] * 3


def test_a_file_that_is_not_there_is_not_known(tmp_path: Path) -> None:
    assert resident((tmp_path / "nothing",)) is None


def test_what_comes_into_memory_is_seen(tmp_path: Path, measure: Callable[..., Measures]) -> None:
    model = file_of(tmp_path / "m.gguf", 8 * MIB, written=MIB)
    seen = measure(model)
    wait_until(lambda: seen.seen.paged == MIB, "the first look")
    with model.open("r+b") as file:
        file.write(b"x" * 3 * MIB)
    wait_until(lambda: seen.seen.paged == 3 * MIB, "the next one")
    assert seen.seen.total == 8 * MIB


def test_a_model_that_is_in_memory_already_shows_nothing_of_this_start(
    tmp_path: Path, measure: Callable[..., Measures]
) -> None:
    seen = measure(file_of(tmp_path / "m.gguf", 8 * MIB, written=8 * MIB))
    wait_until(lambda: seen.seen.total == 8 * MIB, "the first look")
    assert seen.seen.paged is None


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else for a moment")
def test_of_somebody_elses_file_the_kernel_tells_nothing() -> None:
    """It would say that all of it is there."""
    passwd = (Path("/etc/passwd"),)
    assert resident(passwd)
    os.seteuid(65534)
    try:
        assert resident(passwd) is None
    finally:
        os.seteuid(0)


# --- What processes read


def test_what_a_process_reads_is_counted(tmp_path: Path) -> None:
    path = file_of(tmp_path / "a", 4 * MIB, written=4 * MIB)
    before = read_by(os.getpid())
    path.read_bytes()
    after = read_by(os.getpid())
    assert before is not None and after is not None and after - before >= 4 * MIB


def test_the_processes_of_a_session_are_added_up(tmp_path: Path) -> None:
    path = file_of(tmp_path / "a", 4 * MIB, written=4 * MIB)
    reader = "import sys, time; [open(sys.argv[1], 'rb').read() for _ in range(2)]; print(flush=True); time.sleep(60)"
    command = f"'{sys.executable}' -IS -c \"$1\" '{path}' & '{sys.executable}' -IS -c \"$1\" '{path}' & wait"
    with subprocess.Popen(
        ["/bin/sh", "-c", command, "-", reader], stdout=subprocess.PIPE, start_new_session=True
    ) as session:
        try:
            assert session.stdout is not None
            session.stdout.readline(), session.stdout.readline()
            told = read_by_session(session.pid)
            assert told is not None and 16 * MIB <= told < 64 * MIB
        finally:
            os.killpg(session.pid, 9)


def test_of_a_process_that_is_gone_nothing_is_known() -> None:
    with subprocess.Popen(["/bin/true"]) as gone:
        pass
    assert read_by(gone.pid) is None
    assert read_by_session(gone.pid) is None


# --- GPUs


def test_memory_that_fills_since_the_start_is_counted_on_the_engines_own_gpus(measure: Callable[..., Measures]) -> None:
    """Constructed answers of NVML: two GPUs, the engine has the second."""
    taken = [3 * GIB, 10 * GIB]

    def ask() -> GpusSeen:
        return GpusSeen(gpus=tuple(Gpu("NVIDIA L4", 24 * GIB, 24 * GIB - used) for used in taken))

    seen = measure(None, ask=ask, visible="1")
    wait_until(lambda: seen.seen.gpu == 0, "the first look")
    taken[:] = [20 * GIB, 15 * GIB]
    wait_until(lambda: seen.seen.gpu == 5 * GIB, "the next one")
    taken[1] = 9 * GIB
    wait_until(lambda: seen.seen.gpu == 0, "what somebody else gave back")


def test_without_a_gpu_it_is_asked_once(measure: Callable[..., Measures]) -> None:
    asked: list[int] = []

    def ask() -> GpusSeen:
        asked.append(1)
        return GpusSeen(problem="NVIDIA's library is not installed")

    seen = measure(None, ask=ask)
    wait_until(lambda: asked != [] and not gauges(), "the threads' end")
    assert asked == [1] and seen.seen.gpu is None


def test_a_driver_that_hangs_holds_up_nobody_and_is_not_asked_by_another_thread(
    tmp_path: Path, measure: Callable[..., Measures]
) -> None:
    hangs, asked = threading.Event(), []

    def ask() -> GpusSeen:
        asked.append(1)
        hangs.wait(60)
        return GpusSeen()

    try:
        first = measure(file_of(tmp_path / "m", 2 * MIB, written=MIB), ask=ask)
        wait_until(lambda: asked == [1] and first.seen.paged == MIB, "the files, all the same")
        first.close()
        wait_until(lambda: len(gauges()) == 1, "the end of the other")
        second = measure(None, ask=ask)
        assert asked == [1]
        second.close()
        wait_until(lambda: sum(thread.name == "gauge: GPU memory" for thread in gauges()) == 1, "the end of who waited")
        assert asked == [1]
        measure(None, ask=ask)
        hangs.set()
        wait_until(lambda: asked == [1, 1], "the next start's look, when the driver has answered")
    finally:
        hangs.set()


# --- Threads


def test_a_gauge_that_is_closed_looks_no_more() -> None:
    looked = threading.Semaphore(0)

    def look() -> bool:
        looked.release()
        return True

    gauge = Gauge("test", look, every=60)
    assert looked.acquire(timeout=10)
    gauge.close()
    wait_until(lambda: not gauges(), "its end, long before the next look")
