"""Where engines keep what they compile: on the volume, so that the next start on it, of whichever worker, is shorter.

vLLM's torch.compile, Triton's and FlashInfer's kernels and the driver's own just-in-time code are minutes of a start;
by themselves they go to the home folder or to /tmp, which a container loses. Each of these caches names its files by
what they were made of (versions, GPU, model) and puts them in place whole, so that several workers may share one.

Nothing is set that somebody has set: in the gateway's environment, as far as an engine inherits it, or in ENGINE_ENV.
Two exceptions on network file systems: the driver's cache stays where it is, since it rewrites one index in place; and
where file locks do not work, which FlashInfer and inductor take around a compilation, nothing is set at all.
"""

import fcntl
import logging
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Cache:
    """One cache: the variable that moves it, and the folder below ours."""

    name: str
    folder: str
    instead: tuple[str, ...] = ()
    """Further variables that say where it is: whoever set one has decided."""
    shared: bool = True
    """Whether several machines may write it at once, over a network file system."""
    at_home: bool = True
    """Whether it is moved out of a home folder that outlives us, too."""


CACHES = (
    # torch.compile's graphs and what it learned of the memory; the folders of inductor and Triton below it by itself.
    Cache("VLLM_CACHE_ROOT", "vllm", ("XDG_CACHE_HOME",)),
    # By itself /tmp/torchinductor_<user>, of a torch that somebody else runs than vLLM.
    Cache("TORCHINDUCTOR_CACHE_DIR", "torchinductor"),
    Cache("TRITON_CACHE_DIR", "triton", ("TRITON_HOME",)),
    Cache("FLASHINFER_WORKSPACE_BASE", "flashinfer"),
    # What the driver compiles of PTX, where a program was not built for this very GPU: llama.cpp's on a new one.
    Cache("CUDA_CACHE_PATH", "cuda", shared=False),
    # Tokenizers, templates' code, draft models that an engine fetches itself. A person's own holds more than ours.
    Cache("HF_HOME", "huggingface", ("HF_HUB_CACHE", "XDG_CACHE_HOME"), at_home=False),
)


@dataclass(frozen=True, slots=True)
class Volume:
    """DATA_DIR, as far as it matters here."""

    folder: Path
    on_network: bool = False
    in_memory: bool = False
    """Gone with the machine: nothing is won there."""
    home_is_lost: bool = False
    """Whether the home folder goes with this machine."""


def cache_variables(volume: Volume) -> dict[str, str]:
    """Every variable, as it would be where nobody has set any; their folder is made. Waits for the volume. Empty where
    it cannot be written or cannot lock."""
    if volume.in_memory or not locks(volume.folder):
        return {}
    return {
        cache.name: str(volume.folder / cache.folder)
        for cache in CACHES
        if (cache.shared or not volume.on_network) and (cache.at_home or volume.home_is_lost)
    }


def added(variables: Mapping[str, str], environment: Collection[str]) -> dict[str, str]:
    """Those of the variables that this environment leaves open."""
    instead = {cache.name: cache.instead for cache in CACHES}
    return {name: value for name, value in variables.items() if not {name, *instead[name]}.intersection(environment)}


def locks(folder: Path) -> bool:
    """Whether files there can be made and locked; says so when not."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pass  # another worker asks this very moment: then locks work
        finally:
            os.close(handle)
    except OSError as error:
        log.warning("Compiled code is not kept in %s, which makes later starts longer: %s.", folder, error.strerror)
        return False
    return True
