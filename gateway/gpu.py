"""What is known of GPUs: values only, made in `gpus.py`. Pure."""

import re
from dataclasses import dataclass

Version = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Gpu:
    """One device that an engine can use: a GPU, or one slice of a GPU that is divided (MIG)."""

    name: str
    memory: int
    """Bytes. 0 where it shares the machine's, and has none of its own to tell of."""
    free: int
    capability: Version | None = None
    """CUDA's compute capability, (8, 0) for an A100."""
    uuid: str = ""
    is_slice: bool = False
    """A MIG instance. CUDA gives a process only one of them."""


@dataclass(frozen=True, slots=True)
class GpusSeen:
    """What NVIDIA's library says, and what else speaks of a GPU."""

    gpus: tuple[Gpu, ...] = ()
    problem: str = ""
    """Why the library says nothing, or not all."""
    driver: str = ""
    cuda: Version | None = None
    """The newest CUDA that the driver knows."""
    devices: tuple[str, ...] = ()
    """Of /dev/nvidia0 …"""

    @property
    def memory(self) -> int:
        return sum(gpu.memory for gpu in self.gpus)

    @property
    def free(self) -> int:
        return sum(gpu.free for gpu in self.gpus)

    def __str__(self) -> str:
        names = [gpu.name for gpu in self.gpus]
        return ", ".join(f"{names.count(name)} x {name}" for name in dict.fromkeys(names))


def visible(gpus: tuple[Gpu, ...], wanted: str | None) -> tuple[Gpu, ...]:
    """Those that CUDA_VISIBLE_DEVICES leaves: numbers or beginnings of UUIDs, up to the first that means nothing, as
    CUDA reads it. None: it is not set, and all are left."""
    if wanted is None:
        return gpus
    left: list[Gpu] = []
    for word in (part.strip() for part in wanted.split(",")):
        if re.fullmatch(r"\d+", word):
            found = list(gpus[int(word) : int(word) + 1])
        else:
            found = [gpu for gpu in gpus if word and gpu.uuid.startswith(word)]
        if len(found) != 1 or found[0] in left:
            break
        left += found
    return tuple(left)
