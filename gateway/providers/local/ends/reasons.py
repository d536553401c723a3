"""Why an engine did not start, read from what it printed: one table of causes, and who reads the lines against it.

An engine that fails says why somewhere, and then goes on talking: vLLM prints the cause in one process, the same again
with a traceback, and last, from another process, "See root cause above"; llama.cpp names the buffer, then what it was
for, then four functions that failed with it. So the last line is seldom the reason. `Complaints` is fed each line and
keeps the one that says most: what a `Sign` is worth decides, and among equals the first.

The sentences are ours and closed: only numbers of the engine come into them. They were checked against the sources of
vLLM 0.33, PyTorch 2.13 and llama.cpp as llama-cpp-python 0.3.36 vendors it, and against recordings
(tests/providers/local/logs). Lines are a stranger's text (a model's own metadata is among them): they are cut, each is
searched for fixed words only, and numbers are read by expressions that cannot go back. Pure.

To add a cause: one entry in `CAUSES`, its sentence naming the setting that helps, one or more in `SIGNS`, and a line
or a recording in tests/providers/local/ends/test_reasons.py. docs/reference/start-failures.md is generated from
`CAUSES`.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Literal

from gateway.providers.local.commands import Asked

LINE_MAX = 500
"""Characters of a line that are looked at."""
TOKENS_MAX = 100_000_000
"""No context is longer; a number above it is not one."""


@dataclass(frozen=True, slots=True)
class Cause:
    """One way to fail: what it is, and what to do about it. Together they are the sentence that everybody is told."""

    what: str
    do: str
    lasting: bool = True
    """Another try would fail the same way, until somebody changes something."""

    @property
    def sentence(self) -> str:
        return f"{self.what}: {self.do}."


CAUSES: Mapping[str, Cause] = {
    # -- memory
    "gpu_memory": Cause(
        "The GPU has not enough memory for this model",
        "choose a smaller quantization, set MAX_MODEL_LEN lower (for llama.cpp also CTX_SIZE and N_GPU_LAYERS), or "
        "take a larger GPU",
    ),
    "gpu_memory_vllm": Cause(
        "The GPU has not enough memory for this model",
        "choose a quantized or smaller model, set MAX_MODEL_LEN lower, or take a larger GPU or several "
        "(ENGINE_ARGS=--tensor-parallel-size=2)",
    ),
    "gpu_memory_left": Cause(
        "vLLM ran out of GPU memory after the model was loaded", "set GPU_MEMORY_UTILIZATION or MAX_NUM_SEQS lower"
    ),
    "gpu_busy": Cause(
        "Somebody else holds this GPU's memory",
        "end the other program, or set GPU_MEMORY_UTILIZATION lower",
        lasting=False,
    ),
    "context": Cause(
        "There is not enough memory for so long a context",
        "set MAX_MODEL_LEN or MAX_NUM_SEQS lower (for llama.cpp also CTX_SIZE)",
    ),
    "no_cache": Cause(
        "The model leaves no memory for any context",
        "set GPU_MEMORY_UTILIZATION higher, choose a smaller quantization, or take a larger GPU",
    ),
    "cache_size": Cause(
        "vLLM was told to take more memory for its cache than there is",
        "set ENGINE_ENV=VLLM_CPU_KVCACHE_SPACE (on a GPU --kv-cache-memory-bytes in ENGINE_ARGS) lower",
    ),
    "memory": Cause(
        "There is not enough memory for this model",
        "choose a smaller quantization, set MAX_MODEL_LEN (CTX_SIZE) lower, or give the machine more memory",
    ),
    "killed": Cause(
        "A part of the engine was killed, probably because memory ran out",
        "choose a smaller quantization, set MAX_MODEL_LEN (CTX_SIZE) lower, or give the machine more memory",
        lasting=False,
    ),
    "core_died": Cause(
        "A process of vLLM died, and the rest ended with it",
        "where its log says nothing more, memory ran out: set MAX_MODEL_LEN or GPU_MEMORY_UTILIZATION lower",
        lasting=False,
    ),
    "shared_memory": Cause(
        "Shared memory (/dev/shm) is too small for this engine",
        "start the container with more of it (docker run --shm-size=8g), or set ENGINE_ARGS to one GPU",
    ),
    "processes": Cause(
        "The engine may start no more threads",
        "raise the limit on processes (docker run --pids-limit, ulimit -u)",
    ),
    # -- the GPU and its driver
    "driver_old": Cause(
        "The NVIDIA driver is too old for this engine's CUDA",
        "update the driver, choose a machine with a newer one, or install an engine that is built for an older CUDA",
    ),
    "driver_mismatch": Cause(
        "The NVIDIA driver was updated and not loaded again", "restart this machine, or load its modules again"
    ),
    "driver_missing": Cause(
        "The engine finds no NVIDIA driver",
        "start the container with the GPU (docker run --gpus all), install the driver, or use an engine built for the "
        "CPU",
    ),
    "no_gpu": Cause(
        "The engine finds no GPU that it can use",
        "start the container with the GPU (docker run --gpus all), check CUDA_VISIBLE_DEVICES, or use an engine built "
        "for the CPU",
    ),
    "gpu_unsupported": Cause(
        "This engine was not built for this GPU",
        "install an engine version that supports the GPU's compute capability, or take another GPU",
    ),
    "gpu_trouble": Cause(
        "The GPU reports an error of its own",
        "restart the machine, and take another one when it comes again",
        lasting=False,
    ),
    "gpus_too_few": Cause(
        "ENGINE_ARGS asks for more GPUs than this machine has",
        "set --tensor-parallel-size (and --pipeline-parallel-size) to what is there",
    ),
    "gpus_uneven": Cause(
        "This model cannot be spread evenly over so many GPUs",
        "set --tensor-parallel-size in ENGINE_ARGS to a number that divides its attention heads",
    ),
    "bfloat16": Cause(
        "This GPU does not know bfloat16, in which the model would run",
        "set ENGINE_ARGS=--dtype=half, or take a GPU with compute capability 8.0 or higher",
    ),
    "mxfp4": Cause(
        "This GPU cannot run MXFP4 weights",
        "take a GPU with compute capability 8.0 or higher, or set MODEL to a GGUF of it",
    ),
    "quantization": Cause(
        "This engine or this GPU does not support the model's quantization",
        "choose another quantization of the model, a newer GPU, or another ENGINE",
    ),
    # -- the model
    "corrupt": Cause(
        "The model's files are damaged or incomplete", "download or copy them again; free disk space comes first"
    ),
    "not_a_model": Cause("The model's file is not one that this engine reads", "check MODEL and ENGINE"),
    "files_missing": Cause(
        "A file that the engine needs is not there", "check MODEL, and the paths in ENGINE_ARGS and ENGINE_COMMAND"
    ),
    "unreadable": Cause(
        "The engine may not read a file that it needs",
        "change the rights of the model's files and folders, or run the gateway as their owner",
    ),
    "architecture": Cause(
        "This engine's version does not know the model's architecture",
        "install a newer version of the engine, or choose another MODEL or ENGINE",
    ),
    "tokenizer": Cause(
        "The engine cannot read the model's tokenizer",
        "install a newer version of the engine, or name another tokenizer in ENGINE_ARGS",
    ),
    "chat_template": Cause(
        "The chat template cannot be used",
        "name another one in ENGINE_ARGS (--chat-template; for llama-server also --no-jinja)",
    ),
    "remote_code": Cause(
        "The model brings code of its own, which is not run unasked",
        "read it, and set ENGINE_ARGS=--trust-remote-code if you trust it",
    ),
    "context_beyond_model": Cause(
        "MAX_MODEL_LEN is more than the model was made for",
        "set it lower, or ENGINE_ENV=VLLM_ALLOW_LONG_MAX_MODEL_LEN=1 if you know better",
    ),
    # -- the Hub and the disk
    "gated": Cause(
        "The engine may not download what it needs from the Hub",
        "set HF_TOKEN to a token whose account has accepted the model's licence",
    ),
    "hub": Cause(
        "The engine could not reach the Hub", "check the network, or download the model before (wakegate pull)", False
    ),
    "disk_full": Cause("The disk is full", "make room, or set DATA_DIR to a larger volume"),
    # -- settings and installation
    "arguments": Cause("ENGINE_ARGS holds what this engine does not know", "take it out, or spell it as --help does"),
    "argument_value": Cause(
        "A setting of the engine has a value that it cannot have", "check ENGINE_ARGS against the engine's --help"
    ),
    "combination": Cause(
        "ENGINE_ARGS asks for what does not go together, or not with this model",
        "take the argument out that the log names",
    ),
    "address": Cause(
        "The engine could not listen at its address, which another program may hold", "end the other program", False
    ),
    "module": Cause(
        "The engine's installation lacks a Python module",
        "install the engine again in its own environment, or check ENGINE_COMMAND",
    ),
    "library": Cause(
        "The engine's installation lacks a library, or finds another version of it than it was built for",
        "install the CUDA version that it was built for, or an engine that is built for this system",
    ),
    "compiler": Cause(
        "The engine compiles kernels at its start and finds no compiler for them",
        "install gcc and the headers of its Python (python3-dev), or set ENGINE_ARGS=--enforce-eager",
    ),
}


class Worth(IntEnum):
    """How much a line explains."""

    VAGUE = 0
    """That something failed, and where one would look."""
    HINT = 1
    """A warning: explains a failure that nothing better explains, and harms nobody in a start that goes well."""
    GENERAL = 2
    """A cause, of which another line may say more."""
    CERTAIN = 3


@dataclass(frozen=True, slots=True)
class Sign:
    """All of these words in one line, in lower case, mean this cause."""

    cause: str
    words: tuple[str, ...]
    worth: Worth = Worth.CERTAIN


def _sign(cause: str, *words: str, worth: Worth = Worth.CERTAIN) -> Sign:
    return Sign(cause, words, worth)


VAGUE, HINT, GENERAL = Worth.VAGUE, Worth.HINT, Worth.GENERAL

SIGNS: tuple[Sign, ...] = (
    # -- PyTorch and CUDA
    _sign("gpu_memory_vllm", "cuda out of memory", worth=GENERAL),
    _sign("gpu_memory_vllm", "hip out of memory", worth=GENERAL),
    _sign("gpu_memory", "cuda error: out of memory", worth=GENERAL),
    _sign("gpu_memory_vllm", "cuda_error_out_of_memory", worth=GENERAL),
    _sign("gpu_busy", "all cuda-capable devices are busy or unavailable"),
    _sign("driver_old", "cuda driver version is insufficient for cuda runtime version"),
    _sign("driver_old", "the nvidia driver on your system is too old"),
    _sign("driver_old", "forward compatibility was attempted on non supported hw"),
    _sign("driver_old", "the provided ptx was compiled with an unsupported toolchain"),
    _sign("driver_mismatch", "driver/library version mismatch"),
    _sign("driver_missing", "found no nvidia driver on your system"),
    _sign("driver_missing", "libcuda.so.1: cannot open shared object file"),
    _sign("driver_missing", "libnvidia-ml.so.1: cannot open shared object file", worth=HINT),
    _sign("no_gpu", "no cuda-capable device is detected", worth=GENERAL),
    _sign("no_gpu", "no cuda gpus are available"),
    _sign("no_gpu", "invalid device ordinal"),
    _sign("no_gpu", "failed to infer device type", worth=VAGUE),
    _sign("gpu_unsupported", "no kernel image is available for execution on the device"),
    _sign("gpu_unsupported", "is not compatible with the current pytorch installation", worth=HINT),
    _sign("gpu_unsupported", "ggml was not compiled with any cuda arch"),
    _sign("gpu_trouble", "uncorrectable ecc error"),
    _sign("gpu_trouble", "gpu is lost"),
    _sign("gpu_trouble", "unable to determine the device handle for gpu"),
    _sign("gpu_trouble", "system not yet initialized"),
    _sign("gpu_trouble", "cuda error: unspecified launch failure", worth=GENERAL),
    _sign("gpu_trouble", "an illegal memory access was encountered", worth=GENERAL),
    _sign("gpu_trouble", "cuda error: unknown error", worth=GENERAL),
    # -- vLLM
    _sign("context", "to serve at least one request with the model", "max seq len"),
    _sign("context", "max seq len", "is larger than the maximum number of tokens that can be stored in kv cache"),
    _sign("no_cache", "no available memory for the cache blocks"),
    _sign("cache_size", "is less than requested memory for kv"),
    _sign("gpu_busy", "free memory on device", "on startup", "less than"),
    _sign("gpu_memory_vllm", "failed to load model - not enough gpu memory"),
    _sign("gpu_memory_left", "cuda out of memory occurred when warming up"),
    _sign("context_beyond_model", "is greater than the derived max_model_len", "to allow overriding this maximum"),
    _sign("bfloat16", "bfloat16 is only supported on gpus"),
    _sign("mxfp4", "quantization method mxfp4 is not supported for the current gpu"),
    _sign("mxfp4", "no mxfp4 moe backend supports the deployment configuration"),
    _sign("quantization", "is not supported for the current gpu"),
    _sign("quantization", "unknown quantization method"),
    _sign("quantization", "is not supported for quantization method"),
    _sign("quantization", "does not match the quantization method specified"),
    _sign("gpus_too_few", "world size", "is larger than the number of available gpus"),
    _sign("gpus_uneven", "must be divisible by tensor parallel size"),
    _sign("architecture", "model architectures", "are not supported for now"),
    _sign("architecture", "model architecture", "is not supported anymore"),
    _sign("architecture", "model architecture", "not supported in-tree anymore"),
    _sign("architecture", "model architectures", "failed to be inspected", worth=GENERAL),
    _sign("architecture", "does not recognize this architecture"),
    _sign("architecture", "has no vllm implementation"),
    _sign("remote_code", "`trust_remote_code=true` in llm"),
    _sign("remote_code", "contains custom code which must be executed"),
    _sign("tokenizer", "couldn't instantiate the backend tokenizer"),
    _sign("tokenizer", "can't load tokenizer for"),
    _sign("tokenizer", "data did not match any variant of untagged enum"),
    _sign("tokenizer", "tokenizer class", "does not exist or is not currently imported"),
    _sign("chat_template", "the supplied chat template", "path-like"),
    _sign("arguments", "error: unrecognized arguments"),
    _sign("arguments", "error: ambiguous option"),
    _sign("argument_value", "error: argument -", "invalid"),
    _sign("argument_value", "error: argument -", "expected"),
    _sign("argument_value", "validation error for", "config", worth=GENERAL),
    _sign("combination", "is not supported on current platform"),
    _sign("killed", "failed core proc(s)", ": -9", worth=GENERAL),
    _sign("killed", "worker proc", "died unexpectedly", "exit code: -9", worth=GENERAL),
    _sign("core_died", "enginedeaderror", worth=GENERAL),
    _sign("compiler", "failed to find c compiler"),
    _sign("compiler", "python.h: no such file or directory"),
    _sign("compiler", "could not find nvcc", worth=GENERAL),
    _sign("corrupt", "error while deserializing header"),
    _sign("corrupt", "safetensorerror", worth=GENERAL),
    _sign("corrupt", "the size of tensor", "must match the size of tensor", worth=GENERAL),
    _sign("corrupt", "size mismatch for", worth=GENERAL),
    _sign("corrupt", "is not a valid json file"),
    _sign("not_a_model", "invalid repository id or local directory specified"),
    _sign("files_missing", "repo id must be in the form"),
    _sign("not_a_model", "does not appear to have a file named config.json"),
    _sign("not_a_model", "cannot find any model weights"),
    # -- llama.cpp
    _sign("context", "failed to allocate buffer for kv cache"),
    _sign("context", "failed to allocate buffer for rs cache"),
    _sign("context", "failed to allocate compute pp buffers"),
    _sign("context", "failed to allocate compute tg buffers"),
    _sign("context", "failed to allocate compute buffers"),
    _sign("gpu_memory", "cudamalloc failed: out of memory", worth=GENERAL),
    _sign("corrupt", "data is not within the file bounds"),
    _sign("corrupt", "failed to read magic"),
    _sign("corrupt", "failed to read header"),
    _sign("corrupt", "failed to read key-value pairs"),
    _sign("corrupt", "failed to read tensor"),
    _sign("corrupt", "exceeds remaining file size"),
    _sign("corrupt", "unexpectedly reached end of file"),
    _sign("corrupt", "wrong number of tensors"),
    _sign("corrupt", "missing tensor '", worth=GENERAL),
    _sign("corrupt", "has invalid data", "tensor"),
    _sign("corrupt", "the model file is incomplete or damaged", worth=GENERAL),
    _sign("not_a_model", "invalid magic characters"),
    _sign("not_a_model", "the model file is not a gguf"),
    _sign("not_a_model", "bad gguf version"),
    _sign("not_a_model", "this gguf file is version", "only supports"),
    _sign("architecture", "unknown model architecture"),
    _sign("quantization", "invalid ggml type"),
    _sign("tokenizer", "unknown pre-tokenizer type"),
    _sign("tokenizer", "error loading model vocabulary", worth=GENERAL),
    _sign("chat_template", "failed to initialize chat template"),
    _sign("chat_template", "chat template parsing error"),
    _sign("chat_template", "the supplied chat template is not supported"),
    _sign("arguments", "error: invalid argument:"),
    _sign("arguments", "an engine argument is not one that llama-cpp-python knows"),
    _sign("argument_value", "error while handling argument"),
    _sign("argument_value", "error: unknown value for"),
    _sign("argument_value", "error while handling environment variable"),
    _sign("combination", "quantized v cache requires flash_attn"),
    _sign("combination", "cache with type", "does not divide"),
    _sign("combination", "cache type", "does not divide"),
    _sign("address", "couldn't bind http server socket"),
    _sign("files_missing", "failed to open gguf file", "no such file or directory"),
    _sign("unreadable", "failed to open gguf file", "permission denied"),
    _sign("files_missing", "does this file exist?", worth=GENERAL),
    _sign("files_missing", "model path does not exist"),
    _sign("files_missing", "the model file cannot be read", "no such file or directory"),
    _sign("unreadable", "the model file cannot be read"),
    # -- the Hub, as its own library says it
    _sign("gated", "cannot access gated repo"),
    _sign("gated", "you are trying to access a gated repo"),
    _sign("gated", "gatedrepoerror"),
    _sign("gated", "401 client error", "for url"),
    _sign("gated", "403 client error", "for url"),
    _sign("hub", "couldn't connect to", "huggingface"),
    _sign("hub", "outgoing traffic has been disabled"),
    _sign("hub", "localentrynotfounderror", worth=GENERAL),
    # -- the system
    _sign("memory", "cannot allocate memory", worth=GENERAL),
    _sign("memory", "std::bad_alloc", worth=GENERAL),
    _sign("memory", "defaultcpuallocator: can't allocate memory", worth=GENERAL),
    _sign("memory", "there is not enough memory for this model", worth=GENERAL),
    _sign("memory", "insufficient memory (attempted to allocate", worth=GENERAL),
    _sign("shared_memory", "dev/shm", "no space left on device"),
    _sign("shared_memory", "error while creating shared memory segment"),
    _sign("shared_memory", "unable to write to file </torch_"),
    _sign("shared_memory", "insufficient shared memory (shm)"),
    _sign("disk_full", "no space left on device"),
    _sign("disk_full", "disk quota exceeded"),
    _sign("processes", "can't start new thread"),
    _sign("processes", "thread creation failed"),
    _sign("processes", "pthread_create failed"),
    _sign("processes", "what():  resource temporarily unavailable"),
    _sign("address", "address already in use"),
    _sign("module", "modulenotfounderror: no module named", worth=GENERAL),
    _sign("module", "no module named", "python", worth=GENERAL),
    _sign("module", "llama-cpp-python is not installed for this python"),
    _sign("library", "error while loading shared libraries"),
    _sign("library", "cannot open shared object file", worth=GENERAL),
    _sign("library", "llama-cpp-python is installed, and its libraries cannot be loaded", worth=GENERAL),
    _sign("library", "version `glibc", "not found"),
    _sign("library", "version `cxxabi", "not found"),
    _sign("library", "undefined symbol:", worth=GENERAL),
    _sign("unreadable", "permissionerror: [errno 13]", worth=GENERAL),
    _sign("files_missing", "filenotfounderror: [errno 2]", worth=GENERAL),
)

_LEVEL = re.compile(r"(?:\([A-Za-z0-9_ =-]{1,60}\) )?(INFO|DEBUG|WARNING) \d\d-\d\d |[\d.]{1,24} ([IDW]) ")
"""vLLM's `(EngineCore pid=7) WARNING 11-21 …`, llama.cpp's `0.00.002.667 W srv`."""
_BUFFER = re.compile(r"(?:failed|unable) to allocate ([A-Za-z0-9_]{1,32}) buffer(?: of size (\d{1,18}))?")
"""llama.cpp names the device of a buffer: CPU, CUDA0, Vulkan1, CUDA_Host."""
_ASKED = re.compile(r"max seq len \((\d{1,12})\)")
_LARGEST = re.compile(r"(?:estimated maximum model length is |be stored in kv cache \()(\d{1,12})")
_CAPACITY = re.compile(
    r"total capacity of (\d{1,6}(?:\.\d{1,3})?) (gib|mib) of which (\d{1,6}(?:\.\d{1,3})?) (gib|mib)"
)
_OURS = re.compile(r"this process has (\d{1,6}(?:\.\d{1,3})?) (gib|mib) memory in use")
CACHE_REFUSED = "failed to allocate buffer for kv cache"
"""Of llama.cpp's buffers the one that grows as the context does."""
SURELY, STEP = 0.9, 256
"""What is proposed is less than what would just fit, since more than the cache is wanted, and a round number."""
Memory = Literal["main", "gpu"]
FOREIGN_SHARE = 0.2
"""Of a GPU's memory: what others hold, above which they, and not the model, are the reason."""


WHILE_SERVING = frozenset(
    {
        "gpu_memory", "gpu_memory_vllm", "gpu_memory_left", "gpu_trouble", "memory", "killed", "core_died",
        "shared_memory", "disk_full", "processes",
    }
)  # fmt: skip
"""What may also end an engine that served. Nothing else is believed then: its output may hold what callers wrote."""


@dataclass(frozen=True, slots=True)
class Reason:
    """Why it failed: a sentence for everybody, and the engine's own line for the log."""

    cause: str
    sentence: str
    lasting: bool
    line: str
    worth: Worth = Worth.CERTAIN


class Complaints:
    """Hears what one engine prints and keeps the line that explains most. Its memory does not grow."""

    def __init__(self, asked: Asked | None = None) -> None:
        self._asked = asked
        self._best: tuple[Worth, str, str] | None = None
        self._buffer = 0
        """Bytes that the last refused allocation asked for,"""
        self._where: Memory = "main"
        """and of which memory."""

    def __repr__(self) -> str:
        return f"<Complaints {self._best[1] if self._best else 'none'}>"

    def hear(self, line: str) -> None:
        """One line of output, in its order."""
        line = line[:LINE_MAX].strip()
        said = line.lower()
        most = Worth.CERTAIN
        if level := _LEVEL.match(line):
            if (level[1] or level[2])[0] != "W":
                return
            most = HINT
        elif "warning: " in said:
            most = HINT
        if self._best is not None and self._best[0] >= most:
            return
        if refused := _BUFFER.search(said):
            self._buffer = int(refused[2] or 0) or self._buffer
            self._where = "main" if refused[1].startswith("cpu") or refused[1].endswith("_host") else "gpu"
            self._keep("memory" if self._where == "main" else "gpu_memory", min(most, GENERAL), line)
        for sign in SIGNS:
            if sign.words[0] in said and all(word in said for word in sign.words):
                self._keep(_others(sign.cause, said), min(most, sign.worth), line)

    def _keep(self, cause: str, worth: Worth, line: str) -> None:
        if self._best is None or worth > self._best[0]:
            self._best = worth, cause, line

    @property
    def short_of(self) -> "Memory | None":
        """The memory that was too small for the context, where it is worth asking how much of it there is."""
        if self._best is None or self._best[1] != "context" or self._asked is None or not self._buffer:
            return None
        return self._where if CACHE_REFUSED in self._best[2].lower() else None

    def reason(self, room: int | None = None) -> Reason | None:
        """What explains the failure; None when nothing that was printed does.

        `room`: bytes that a context may have of the memory that it is `short_of`, if anybody knows.
        """
        if self._best is None:
            return None
        worth, cause, line = self._best
        sentence = self._long_context(line.lower(), room) if cause == "context" else ""
        return Reason(cause, sentence or CAUSES[cause].sentence, CAUSES[cause].lasting, line, worth)

    def _long_context(self, said: str, room: int | None) -> str:
        """With the numbers that are known: what was asked for, and what would fit."""
        tokens = _tokens(_ASKED.search(said)) or (self._asked.tokens if self._asked else None)
        if tokens is None:
            return ""
        what = f"There is not enough memory for a context of {tokens} tokens"
        if largest := _tokens(_LARGEST.search(said)):
            return f"{what}: set MAX_MODEL_LEN={largest} or less, or GPU_MEMORY_UTILIZATION higher."
        if self._buffer:
            what += f", which takes {self._buffer / 2**30:.1f} GiB"
        if self._asked is not None and self.short_of and room is not None:
            fits = int(self._asked.tokens * room / self._buffer / self._asked.share * SURELY) // STEP * STEP
            if 0 < fits * self._asked.share < tokens:
                return f"{what}: set {self._asked.setting}={fits} or less, by what is free now."
        return f"{what}: {CAUSES['context'].do}."


def _tokens(found: "re.Match[str] | None") -> int | None:
    number = int(found[1]) if found else 0
    return number if 0 < number <= TOKENS_MAX else None


def _others(cause: str, said: str) -> str:
    """PyTorch tells how much of the GPU is this process's: where somebody else has a good part, they are the cause."""
    if cause != "gpu_memory_vllm":
        return cause
    capacity, ours = _CAPACITY.search(said), _OURS.search(said)
    if capacity is None or ours is None:
        return cause
    total, free = _gib(capacity[1], capacity[2]), _gib(capacity[3], capacity[4])
    return "gpu_busy" if total - free - _gib(ours[1], ours[2]) > FOREIGN_SHARE * total else cause


def _gib(number: str, unit: str) -> float:
    return float(number) / (1 if unit == "gib" else 1024)
