"""What is said of GPUs: from the library's answers, and when it has none or never gives one."""

from threading import Event
from types import SimpleNamespace
from typing import Any

from gateway.records import gpus


class Trouble(Exception):
    """Stands for NVMLError."""


def library(**changes: Any) -> Any:
    """As nvidia-ml-py has it, on a machine with two GPUs; the names are its own."""
    memory = SimpleNamespace(total=int(139.8 * 2**30), used=2**29)
    answers: dict[str, Any] = {
        "NVMLError": Trouble,
        "nvmlInit": lambda: None,
        "nvmlShutdown": lambda: None,
        "nvmlSystemGetDriverVersion": lambda: "570.86.15",
        "nvmlSystemGetCudaDriverVersion": lambda: 12080,
        "nvmlDeviceGetCount": lambda: 2,
        "nvmlDeviceGetHandleByIndex": lambda index: index,
        "nvmlDeviceGetName": lambda device: b"NVIDIA H200",
        "nvmlDeviceGetMemoryInfo": lambda device: memory,
    }
    return SimpleNamespace(**(answers | changes))


def fail(*args: object) -> None:
    raise Trouble("Not Supported")


def test_each_gpu_is_told_with_its_memory_and_driver() -> None:
    line = "NVIDIA H200: 139.8 GiB, 0.5 GiB taken; driver 570.86.15, CUDA 12.8"
    assert gpus.asked(library()) == (line, line)


def test_no_driver_is_said() -> None:
    assert gpus.asked(library(nvmlInit=fail)) == ("none that NVIDIA's library knows of (Not Supported)",)


def test_no_gpu_is_said() -> None:
    assert gpus.asked(library(nvmlDeviceGetCount=lambda: 0)) == (gpus.NONE_SEEN,)


def test_a_gpu_without_memory_of_its_own_is_told_all_the_same() -> None:
    assert "memory: Not Supported" in gpus.asked(library(nvmlDeviceGetMemoryInfo=fail))[0]


def test_a_driver_that_answers_in_part_is_said_and_given_back() -> None:
    closed: list[bool] = []
    broken = library(nvmlDeviceGetName=fail, nvmlShutdown=lambda: closed.append(True))
    assert gpus.asked(broken) == ("the driver answers, and not all: Not Supported",)
    assert closed == [True]


def test_a_driver_that_never_answers_is_left_behind() -> None:
    never = Event()

    def hang() -> tuple[str, ...]:
        never.wait(10)
        return ()

    assert gpus.described(within=0.01, ask=hang) == ("the driver did not answer within 0.01 s",)
    never.set()


def test_this_machine_says_something() -> None:
    assert gpus.described()
