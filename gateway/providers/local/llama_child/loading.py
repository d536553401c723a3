"""From a file to a model: read it, load it, say how far it is, and say in one sentence why it failed.

llama.cpp maps the file into memory, which reads all of it in one system call, and only then begins to count: its own
progress jumps from nothing to everything (measured in docs/adr/0002). So the file is read ahead here, in steps that can
be counted, into the page cache where the mapping finds it; then native loading counts on (on a GPU that is the upload).
"""

import ctypes
import inspect
import mmap
import os
import re
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .arguments import ALL_LAYERS, CONTEXT_UNASKED, Options
from .brake import Brake
from .news import Board

READING = 0.9
"""The share of loading that reading the file is, where it is read ahead: a disk is some ten times slower than the
rest."""
STEP = 32 << 20
MADV_POPULATE_READ = 22  # Linux 5.14; the mmap module has no name for it yet
OURS = {"model_path", "verbose", "embedding", "logits_all", "progress_callback"}


class LoadFailed(Exception):
    """`reason` is a closed sentence for callers; `detail` is for the log."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason)
        self.reason, self.detail = reason, detail


WARNING, ERROR, GOES_ON = 3, 4, 5
"""ggml's levels. (The package's own table is of an older ggml, one lower.)"""


class Listener:
    """What native code says: kept while it loads (the last lines are why it failed), warnings and errors told after."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self._said: list[str] = []
        self._loading = True
        self._level = 0

    def keep(self, level: int, text: str) -> None:
        self._level = self._level if level == GOES_ON else level
        if self._level not in (WARNING, ERROR) or not text.strip():
            return
        if self._loading:
            self._said.append(text.strip())
        else:
            self._tell(text)

    def loaded(self) -> None:
        self._loading = False
        for line in self._said:
            self._tell(line)
        self._said.clear()

    def last_words(self) -> str:
        return " / ".join(self._said[-4:])


def load(options: Options, board: Board, brake: Brake) -> Any | None:
    """The model, or None: the board then says why (or nothing at all, when the brake ended it)."""
    try:
        shards = files(options.model)
        model = _load(options, shards, board, brake)
    except LoadFailed as failure:
        if not brake.pulled:
            board.failed(failure.reason, failure.detail)
        return None
    except Exception as error:  # this thread would end, and everybody wait for a model that never comes
        traceback.print_exc()
        board.failed(REASONS["other"], repr(error))
        return None
    board.became_ready(options.names, model.limit)
    return model


def files(model: Path) -> list[Path]:
    """The file, or every part of a split one. Cheap checks first: a wrong path must fail before anything is
    imported."""
    split = re.fullmatch(r"(.+)-00001-of-(\d{5})\.gguf", model.name)
    names = [model.name]
    if split:
        names = [f"{split[1]}-{part:05}-of-{split[2]}.gguf" for part in range(1, int(split[2]) + 1)]
    shards = [model.with_name(name) for name in names]
    for shard in shards:
        try:
            with shard.open("rb") as opened:
                magic = opened.read(4)
        except OSError as error:
            raise LoadFailed("The model file cannot be read.", f"{shard}: {error.strerror}") from None
        if magic != b"GGUF":
            raise LoadFailed("The model file is not a GGUF.", f"{shard} begins with {magic!r}")
    return shards


def _load(options: Options, shards: list[Path], board: Board, brake: Brake) -> Any:
    try:
        import llama_cpp

        from . import model as module
    except ImportError as error:
        raise LoadFailed("llama-cpp-python is not installed for this Python.", str(error)) from None
    except (OSError, RuntimeError) as error:  # one of its libraries: CUDA's, or a driver's, is not there
        raise LoadFailed("llama-cpp-python is installed, and its libraries cannot be loaded.", str(error)) from None
    listener = Listener(module.say)
    module.listen_to_native(listener.keep)
    arguments = _arguments(options, llama_cpp.Llama)
    board.loading("loading", 0.0)
    start = READING if arguments.get("use_mmap", True) and read_ahead(shards, board, brake) else 0.0

    def progress(ratio: float) -> bool:
        if ratio >= 1.0:
            board.loading("warming")
        else:
            board.loading("loading", start + (1.0 - start) * ratio)
        return not brake.pulled

    gpu = bool(llama_cpp.llama_supports_gpu_offload())
    for layers in attempts(arguments.pop("n_gpu_layers", options.gpu_layers), gpu, options.gpu_layers_first):
        try:
            loaded = module.Model(
                str(options.model),
                brake=brake,
                progress=progress,
                trained_only=options.context is None,
                n_gpu_layers=layers,
                **arguments,
            )
        except (ValueError, RuntimeError, AssertionError, MemoryError, TypeError, OSError) as error:
            said = listener.last_words() or str(error)
            if brake.pulled or not out_of_memory(said) or layers == 0:
                raise LoadFailed(reason_of(said), said) from error
            module.say(
                f"Not enough GPU memory for {'all' if layers == ALL_LAYERS else layers} layers; trying with fewer."
            )
            continue
        listener.loaded()
        return loaded
    raise LoadFailed("There is not enough memory for this model.", listener.last_words())


def _arguments(options: Options, llama: Any) -> dict[str, object]:
    """Ours first; what the operator asked for wins."""
    threads = processors()
    arguments: dict[str, object] = {
        "n_ctx": options.context or CONTEXT_UNASKED,
        "n_batch": options.batch,
        "n_ubatch": min(512, options.batch),
        # One core is left to the gateway and the rest of the machine: the library's threads spin while they wait for
        # each other, and on a shared core decoding falls to a twentieth. Reading a prompt may have them all.
        "n_threads": max(1, threads - 1),
        "n_threads_batch": threads,
    }
    known = set(inspect.signature(llama.__init__).parameters) - OURS - {"self", "kwargs"}
    for key, value in options.extra:
        if key not in known:
            raise LoadFailed("An engine argument is not one that llama-cpp-python knows.", f"--arg {key}")
        arguments[key] = value
    return arguments


def attempts(asked: object, gpu: bool, first: int | None = None) -> list[object]:
    """Layers on the GPU, in the order of trying. A failed allocation costs a moment; a model that is too large costs
    the start, so only `auto` tries again."""
    if asked is not None:
        return [asked]
    fewer: list[object] = [number for number in (64, 48, 32, 24, 16, 8, 0) if first is None or number < first]
    return [ALL_LAYERS if first is None else first, *fewer] if gpu and first != 0 else [0]


def read_ahead(shards: list[Path], board: Board, brake: Brake) -> bool:
    """Whether it was done. Not for files that would push themselves out of memory again."""
    total = sum(shard.stat().st_size for shard in shards)
    if total > 0.8 * memory():
        return False
    done = 0
    for shard in shards:
        with shard.open("rb") as opened:
            size = os.fstat(opened.fileno()).st_size
            for offset in range(0, size, STEP):
                length = min(STEP, size - offset)
                _into_page_cache(opened.fileno(), offset, length)
                done += length
                board.loading("loading", READING * done / total, done=done, total=total)
                if brake.pulled:
                    raise LoadFailed("Stopped.")
    return True


def _into_page_cache(descriptor: int, offset: int, length: int) -> None:
    """By mapping (nothing is copied when it is there already: 0.02 s per GB), else by reading. Through ctypes, because
    the mmap module's own madvise holds the interpreter lock, and /health with it, until the disk is done."""
    with mmap.mmap(descriptor, length, access=mmap.ACCESS_COPY, offset=offset) as mapped:
        there = (ctypes.c_char * length).from_buffer(mapped)
        refused = ctypes.CDLL(None).madvise(ctypes.byref(there), ctypes.c_size_t(length), MADV_POPULATE_READ)
        del there  # the mapping cannot be closed while it is pointed at
    if refused:
        # Older kernels, gVisor, some file systems. A disk that fails fails again in native code, which has words for
        # it.
        try:
            os.pread(descriptor, length, offset)
        except OSError:
            return


def out_of_memory(said: str) -> bool:
    return re.search(r"alloc|out of memory|create llama_context", said, re.IGNORECASE) is not None


def reason_of(said: str) -> str:
    """Native words in, one closed sentence out. The order matters: the first that fits."""
    for pattern, reason in (
        (r"not within the file bounds|corrupted or incomplete|failed to read|unexpectedly reached end", "incomplete"),
        (r"unknown model architecture|unsupported|unknown pre-tokenizer", "unknown"),
        (r"alloc|out of memory|create llama_context", "memory"),
    ):
        if re.search(pattern, said, re.IGNORECASE):
            return REASONS[reason]
    return REASONS["other"]


REASONS = {
    "incomplete": "The model file is incomplete or damaged.",
    "unknown": "This version of llama-cpp-python does not know this kind of model.",
    "memory": "There is not enough memory for this model.",
    "other": "The model could not be loaded.",
}


def processors() -> int:
    """What this process may use: its affinity, and the container's CPU quota where there is one."""
    count = float(len(os.sched_getaffinity(0)))
    quota = _cgroup("cpu.max").split()
    if len(quota) == 2 and quota[0].isdigit() and quota[1].isdigit():
        count = min(count, int(quota[0]) / int(quota[1]))
    return max(1, int(count))


def memory() -> int:
    """Bytes: the machine's, or the container's limit."""
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit = _cgroup("memory.max").strip()
    return min(machine, int(limit)) if limit.isdigit() else machine


def _cgroup(name: str) -> str:
    """A container sees its own group at the root (cgroup 2). Elsewhere there is nothing to read, and nothing lost."""
    try:
        return Path("/sys/fs/cgroup", name).read_text()
    except OSError:
        return ""
