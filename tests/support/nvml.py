"""NVIDIA's library as nvidia-ml-py has it, without a GPU: what it answers on the machines that people rent.

Constructed, not recorded: names, total memory and compute capabilities are those of NVIDIA's documentation and of
public `nvidia-smi` listings. What is free there is the total less what an idle driver keeps.
"""

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from gateway.gpus import Gpu, GpusSeen, Version, ask

MIB = 1024**2


class NVMLError(Exception):
    """As the library's own."""


@dataclass(frozen=True)
class Card:
    name: str
    memory: int
    """MiB, as nvidia-smi shows it."""
    capability: Version
    idle: int = 500
    """MiB that the driver keeps."""
    slices: tuple[tuple[str, int], ...] | None = None
    """MIG instances, name and MiB; None: it is not divided."""


CARDS = {
    "A100-40": Card("NVIDIA A100-SXM4-40GB", 40960, (8, 0)),
    "A100-80": Card("NVIDIA A100-SXM4-80GB", 81920, (8, 0)),
    "H100": Card("NVIDIA H100 80GB HBM3", 81559, (9, 0)),
    "H200": Card("NVIDIA H200", 143771, (9, 0)),
    "B200": Card("NVIDIA B200", 183359, (10, 0)),
    "L40S": Card("NVIDIA L40S", 46068, (8, 9)),
    "L4": Card("NVIDIA L4", 23034, (8, 9)),
    "RTX 4090": Card("NVIDIA GeForce RTX 4090", 24564, (8, 9)),
    "A5000": Card("NVIDIA RTX A5000", 24564, (8, 6)),
    "A10G": Card("NVIDIA A10G", 23028, (8, 6)),
    "T4": Card("Tesla T4", 15360, (7, 5)),
    "MIG": Card(
        "NVIDIA A100-SXM4-40GB",
        40960,
        (8, 0),
        slices=(("NVIDIA A100-SXM4-40GB MIG 3g.20gb", 19968), ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", 4864)),
    ),
    "shared memory": Card("NVIDIA GB10", 0, (12, 1)),
}


def library(*cards: str, driver: str = "570.86.15", cuda: int = 12080, **changes: Any) -> Any:
    """The library on a machine with these cards. `changes` replaces answers."""
    here = [CARDS[card] for card in cards]

    def handle(index: int) -> tuple[int, int | None]:
        return (index, None)

    def slice_handle(device: tuple[int, None], number: int) -> tuple[int, int]:
        if number >= len(here[device[0]].slices or ()):
            raise NVMLError("Not Found")
        return (device[0], number)

    def mode(device: tuple[int, None]) -> list[int]:
        if here[device[0]].capability < (8, 0):
            raise NVMLError("Not Supported")
        return [int(here[device[0]].slices is not None)] * 2

    def memory(device: tuple[int, int | None]) -> Any:
        card = here[device[0]]
        mib = card.memory if device[1] is None else (card.slices or ())[device[1]][1]
        if not mib:
            raise NVMLError("Not Supported")
        idle = card.idle if device[1] is None else 40
        return SimpleNamespace(total=mib * MIB, free=(mib - idle) * MIB, used=idle * MIB)

    def name(device: tuple[int, int | None]) -> str:
        card = here[device[0]]
        return card.name if device[1] is None else (card.slices or ())[device[1]][0]

    answers: dict[str, Any] = {
        "NVMLError": NVMLError,
        "nvmlInit": lambda: None,
        "nvmlShutdown": lambda: None,
        "nvmlSystemGetDriverVersion": lambda: driver,
        "nvmlSystemGetCudaDriverVersion": lambda: cuda,
        "nvmlDeviceGetCount": lambda: len(here),
        "nvmlDeviceGetHandleByIndex": handle,
        "nvmlDeviceGetName": name,
        "nvmlDeviceGetMemoryInfo": memory,
        "nvmlDeviceGetCudaComputeCapability": lambda device: here[device[0]].capability,
        "nvmlDeviceGetUUID": lambda device: f"{'GPU' if device[1] is None else 'MIG'}-{device[0]}{device[1] or 0}-ab",
        "nvmlDeviceGetMigMode": mode,
        "nvmlDeviceGetMaxMigDeviceCount": lambda device: 7,
        "nvmlDeviceGetMigDeviceHandleByIndex": slice_handle,
    }
    return SimpleNamespace(**(answers | changes))


def fail(*args: object) -> Any:
    raise NVMLError("Not Supported")


def machine(*cards: str) -> GpusSeen:
    """What a plan goes by on a machine with these cards."""
    return ask(library(*cards))


def gpus(*cards: str) -> tuple[Gpu, ...]:
    return machine(*cards).gpus
