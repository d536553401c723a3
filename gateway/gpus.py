"""NVIDIA's GPUs of this machine, as NVIDIA's own library (NVML) tells them. Says what is there, decides nothing.

The library asks the driver: its first call may take some hundred milliseconds, and a broken driver never answers. So
whoever asks does it on a thread of its own (`Question`), which is left behind when it hangs. Where the library is not
installed there is no such GPU, and the answer comes at once.
"""

import ctypes
from collections.abc import Callable
from concurrent.futures import Future
from threading import Thread
from typing import Any

from gateway.gpu import Gpu, GpusSeen, Version, visible

__all__ = ["NOT_INSTALLED", "Gpu", "GpusSeen", "Question", "Version", "ask", "library_is_there", "look", "visible"]

LIBRARY = "libnvidia-ml.so.1"
NOT_INSTALLED = "NVIDIA's library is not installed"


def library_is_there() -> bool:
    """Whether NVIDIA's library can be loaded. Under a millisecond where it is not."""
    try:
        ctypes.CDLL(LIBRARY)
    except OSError:
        return False
    return True


def look() -> GpusSeen:
    """Ask the driver. Blocking, and for ever where the driver is broken: see `Question`."""
    if not library_is_there():
        return GpusSeen(problem=NOT_INSTALLED)
    try:
        import pynvml
    except ImportError:
        return GpusSeen(problem="nvidia-ml-py is not installed")
    return ask(pynvml)


def ask(nvml: Any) -> GpusSeen:
    """`nvml` is the library, as nvidia-ml-py has it. Starts no work on any GPU."""
    try:
        nvml.nvmlInit()
    except (nvml.NVMLError, OSError) as error:
        return GpusSeen(problem=str(error))
    try:
        cuda = nvml.nvmlSystemGetCudaDriverVersion()
        return GpusSeen(
            gpus=tuple(gpu for index in range(nvml.nvmlDeviceGetCount()) for gpu in _devices(nvml, index)),
            driver=_text(nvml.nvmlSystemGetDriverVersion()),
            cuda=(cuda // 1000, cuda % 1000 // 10),
        )
    except (nvml.NVMLError, OSError) as error:
        return GpusSeen(problem=f"the driver answers, and not all: {error}")
    finally:
        try:
            nvml.nvmlShutdown()
        except (nvml.NVMLError, OSError):
            pass  # there is nothing to give back, then


def _devices(nvml: Any, index: int) -> tuple[Gpu, ...]:
    """The GPU, or its slices where it is divided: then CUDA offers those, and the whole to nobody."""
    device = nvml.nvmlDeviceGetHandleByIndex(index)
    capability = tuple(nvml.nvmlDeviceGetCudaComputeCapability(device))
    slices = tuple(_gpu(nvml, handle, capability, is_slice=True) for handle in _slices(nvml, device))
    return slices or (_gpu(nvml, device, capability, is_slice=False),)


def _slices(nvml: Any, device: Any) -> list[Any]:
    """Handles of its MIG instances that we may see. GPUs that cannot be divided refuse the question."""
    try:
        if not nvml.nvmlDeviceGetMigMode(device)[0]:
            return []
        most = nvml.nvmlDeviceGetMaxMigDeviceCount(device)
    except nvml.NVMLError:
        return []
    found = []
    for number in range(most):
        try:
            found.append(nvml.nvmlDeviceGetMigDeviceHandleByIndex(device, number))
        except nvml.NVMLError:
            continue  # no instance in this place
    return found


def _gpu(nvml: Any, device: Any, capability: Version, *, is_slice: bool) -> Gpu:
    name = _text(nvml.nvmlDeviceGetName(device))
    try:
        memory = nvml.nvmlDeviceGetMemoryInfo(device)
        total, free = memory.total, memory.free
    except nvml.NVMLError:
        total = free = 0
    try:
        uuid = _text(nvml.nvmlDeviceGetUUID(device))
    except nvml.NVMLError:
        uuid = ""
    return Gpu(name, total, free, capability, uuid, is_slice)


def _text(value: str | bytes) -> str:
    """Older versions of the binding give bytes."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


class Question:
    """Asks on a thread of its own, from now on. `answer` is a future of `GpusSeen`; it never comes where the driver
    hangs, and the thread does not keep the process from ending."""

    def __init__(self, ask: Callable[[], GpusSeen] = look) -> None:
        self.answer: Future[GpusSeen] = Future()
        Thread(target=self._put, args=(ask,), name="gpus", daemon=True).start()

    def _put(self, ask: Callable[[], GpusSeen]) -> None:
        try:
            self.answer.set_result(ask())
        except BaseException as error:  # for whoever waits
            self.answer.set_exception(error)

    def __repr__(self) -> str:
        return f"<Question {self.answer.result() if self.answer.done() else 'not answered'}>"
