"""What NVIDIA's library says of the GPUs here, for the boot log and a bug report. Decides nothing.

The library asks the driver, and a broken driver may never answer: `described` gives up after a while, and leaves its
thread behind.
"""

from collections.abc import Callable
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any

PATIENCE = 5.0
NONE_SEEN = "none that NVIDIA's library knows of"


def described(*, within: float = PATIENCE, ask: Callable[[], tuple[str, ...]] | None = None) -> tuple[str, ...]:
    """One line for each GPU, or one that says why there is none to tell of. Takes `within` seconds at most."""
    answers: SimpleQueue[tuple[str, ...]] = SimpleQueue()
    question = ask or _ask

    def put() -> None:
        answers.put(question())

    Thread(target=put, name="gpus", daemon=True).start()
    try:
        return answers.get(timeout=within)
    except Empty:
        return (f"the driver did not answer within {within:g} s",)


def _ask() -> tuple[str, ...]:
    try:
        import pynvml
    except ImportError:
        return ("nvidia-ml-py is not installed",)
    return asked(pynvml)


def asked(nvml: Any) -> tuple[str, ...]:
    """`NVIDIA H200: 139.8 GiB, 0.6 GiB taken; driver 570.86.15, CUDA 12.8`, one for each. `nvml` is the library."""
    try:
        nvml.nvmlInit()
    except (nvml.NVMLError, OSError) as error:
        return (f"{NONE_SEEN} ({error})",)
    try:
        driver, cuda = _text(nvml.nvmlSystemGetDriverVersion()), nvml.nvmlSystemGetCudaDriverVersion()
        behind = f"driver {driver}, CUDA {cuda // 1000}.{cuda % 1000 // 10}"
        return tuple(_one(nvml, index, behind) for index in range(nvml.nvmlDeviceGetCount())) or (NONE_SEEN,)
    except (nvml.NVMLError, OSError) as error:
        return (f"the driver answers, and not all: {error}",)
    finally:
        try:
            nvml.nvmlShutdown()
        except (nvml.NVMLError, OSError):
            pass  # there is nothing to give back, then


def _one(nvml: Any, index: int, behind: str) -> str:
    device = nvml.nvmlDeviceGetHandleByIndex(index)
    name = _text(nvml.nvmlDeviceGetName(device))
    try:
        memory = nvml.nvmlDeviceGetMemoryInfo(device)
        size = f"{memory.total / 2**30:.1f} GiB, {memory.used / 2**30:.1f} GiB taken"
    except nvml.NVMLError as error:  # where it shares the machine's memory there is none of its own to tell of
        size = f"memory: {error}"
    return f"{name}: {size}; {behind}"


def _text(value: str | bytes) -> str:
    """Older versions of the binding give bytes."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value
