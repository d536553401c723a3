"""What is said of GPUs: one line for each, and one where the library has no answer or never gives one."""

from threading import Event

from gateway.gpus import GpusSeen
from gateway.records import gpus
from tests.support.nvml import machine


def test_each_gpu_is_told_with_its_memory_and_driver() -> None:
    line = "NVIDIA H200: 140.4 GiB, 0.5 GiB taken; driver 570.86.15, CUDA 12.8"
    assert gpus.lines(machine("H200", "H200")) == (line, line)


def test_no_driver_is_said() -> None:
    assert gpus.lines(GpusSeen(problem="Not Loaded")) == ("none that NVIDIA's library knows of (Not Loaded)",)


def test_no_gpu_is_said() -> None:
    assert gpus.lines(machine()) == (gpus.NONE_SEEN,)


def test_a_gpu_without_memory_of_its_own_is_told_all_the_same() -> None:
    assert "no memory of its own" in gpus.lines(machine("shared memory"))[0]


def test_a_driver_that_never_answers_is_left_behind() -> None:
    never = Event()

    def hang() -> GpusSeen:
        never.wait(10)
        return GpusSeen()

    assert gpus.described(within=0.01, ask=hang) == ("the driver did not answer within 0.01 s",)
    never.set()


def test_this_machine_says_something() -> None:
    assert gpus.described()
