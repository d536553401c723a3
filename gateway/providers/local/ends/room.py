"""How much memory a context could have had, looked at after an engine has ended for want of it.

What is free now, less the model's weights, which were in it as well. Nobody knows it where there are several GPUs: how
llama.cpp divides a context among them is its own affair.
"""

from collections.abc import Callable
from pathlib import Path

from gateway import gpus
from gateway.gpus import GpusSeen, Question, visible
from gateway.providers.local.ends.reasons import Memory
from gateway.providers.local.models.weights import size_of
from gateway.providers.local.planning.free_memory import free_memory

PATIENCE = 2.0
"""Seconds that the GPU's driver has for its answer. Those who wait for the reason wait for it too."""


def room_for_context(
    where: Memory,
    model: Path | None,
    *,
    devices: str | None,
    memory: Callable[[], int | None] = free_memory,
    look: Callable[[], GpusSeen] = gpus.look,
    patience: float = PATIENCE,
) -> int | None:
    """Bytes; None where nobody knows. `devices` is the engine's CUDA_VISIBLE_DEVICES. Blocking, up to `patience`."""
    free = memory() if where == "main" else _free_of_gpu(look, devices, patience)
    return None if free is None else max(0, free - (size_of(model) if model is not None else 0))


def _free_of_gpu(look: Callable[[], GpusSeen], devices: str | None, patience: float) -> int | None:
    try:
        seen = Question(look).answer.result(patience)
    except (TimeoutError, OSError):
        return None  # a driver that hangs: the thread that asks it is left behind
    left = visible(seen.gpus, devices)
    return left[0].free if len(left) == 1 else None
