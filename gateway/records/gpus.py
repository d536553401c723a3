"""What NVIDIA's library says of the GPUs here, in lines for the boot log and a bug report. Decides nothing.

The library asks the driver, and a broken driver may never answer: `described` gives up after a while.
"""

from collections.abc import Callable
from concurrent.futures import TimeoutError as Late

from gateway import gpus
from gateway.gpus import GpusSeen

PATIENCE = 5.0
NONE_SEEN = "none that NVIDIA's library knows of"


def described(*, within: float = PATIENCE, ask: Callable[[], GpusSeen] = gpus.look) -> tuple[str, ...]:
    """One line for each GPU, or one that says why there is none to tell of. Takes `within` seconds at most."""
    try:
        return lines(gpus.Question(ask).answer.result(timeout=within))
    except Late:
        return (f"the driver did not answer within {within:g} s",)


def lines(seen: GpusSeen) -> tuple[str, ...]:
    """`NVIDIA H200: 139.8 GiB, 0.6 GiB taken; driver 570.86.15, CUDA 12.8`, one for each."""
    if not seen.gpus:
        return (f"{NONE_SEEN} ({seen.problem})" if seen.problem else NONE_SEEN,)
    behind = f"driver {seen.driver}, CUDA {'.'.join(map(str, seen.cuda or ()))}"
    return tuple(
        f"{gpu.name}: "
        + (
            f"{gpu.memory / 2**30:.1f} GiB, {(gpu.memory - gpu.free) / 2**30:.1f} GiB taken"
            if gpu.memory
            else "no memory of its own"  # it shares the machine's
        )
        + f"; {behind}"
        for gpu in seen.gpus
    )
