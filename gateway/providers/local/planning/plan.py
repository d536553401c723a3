"""What an engine is told about this machine before it starts: will the model fit, with which context, on how many GPUs.
Pure: facts in, a plan out.

`plan` looks at the settings, the model's shape and size, and the machine. Three rules hold for every choice:

* What somebody set is theirs. It is never changed; where it cannot fit, the plan says so.
* Nothing is passed that could end a start which would have succeeded without it. What the engine chooses well by
  itself is left to it, and told.
* Where a fact is unknown, nothing is chosen, and the plan says which fact.

A start is refused only where it cannot succeed: weights larger than all GPU memory, a number format that no kernel of
the engine reads on this GPU. Sources: vLLM 0.33 (platforms/cuda.py, engine/arg_utils.py, v1/core/kv_cache_planning.py,
v1/worker/utils.py), llama.cpp (common/fit.cpp); sizes beside weights and cache are estimates with a margin both ways.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from gateway.gpu import Gpu, Version
from gateway.providers.local.commands import EngineName, EngineSpec, llama_slots
from gateway.providers.local.models.facts import ModelFacts
from gateway.providers.local.models.shape import Shape
from gateway.providers.local.planning import cache

GIB = 1024**3
MIB = 1024**2


@dataclass(frozen=True, slots=True)
class Machine:
    """What there is to run it on."""

    gpus: tuple[Gpu, ...] = ()
    gpus_unknown: str = ""
    """Why nobody knows what GPUs there are; empty: `gpus` is all that NVIDIA's library knows of."""
    other_gpu: bool = False
    """Whether there may be a GPU of which NVIDIA's library does not know."""
    memory: int | None = None
    """Bytes of the machine's memory that can be had."""
    vllm: Version | None = None
    vllm_on_cpu: bool = False
    """Whether vLLM was built for a CPU: then it uses no GPU."""
    llama_gpu: bool | None = None
    """Whether llama-cpp-python was built for a GPU; None: it cannot be told."""


@dataclass(frozen=True, slots=True)
class Choice:
    """One thing that was decided, or left to the engine."""

    what: str
    value: str
    why: str = ""
    setting: str = ""
    """What changes it."""

    def __str__(self) -> str:
        why = f", {self.why}" if self.why else ""
        return f"{self.what}: {self.value}{why}{f' ({self.setting} changes it)' if self.setting else ''}"


@dataclass(frozen=True, slots=True)
class Plan:
    """`changes` are fields of the EngineSpec; the rest is for people."""

    engine: EngineName
    choices: tuple[Choice, ...] = ()
    warnings: tuple[str, ...] = ()
    refusal: str = ""
    """Why it cannot work, and what to do, in one sentence or two; empty: it may."""
    changes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def lines(self) -> tuple[str, ...]:
        """For the console: one for each choice, then what is doubtful."""
        return (*(str(choice) for choice in self.choices), *(f"warning: {text}" for text in self.warnings))

    def applied(self, spec: EngineSpec) -> EngineSpec:
        return replace(spec, **self.changes)

    def __repr__(self) -> str:
        return f"<Plan {self.engine} {dict(self.changes)} {'REFUSED' if self.refusal else ''} {list(self.lines)}>"


class _Draft:
    """A plan that is being made."""

    def __init__(self, spec: EngineSpec, engine: EngineName, model: ModelFacts, machine: Machine) -> None:
        self.spec = spec
        self.model = model
        self.shape = model.shape
        self.machine = machine
        self.given = said(spec.engine_args)
        self._engine: EngineName = engine
        self._choices: list[Choice] = []
        self._warnings: list[str] = []
        self._changes: dict[str, Any] = {}

    def choose(self, what: str, value: str, why: str = "", setting: str = "", **changes: Any) -> None:
        self._choices.append(Choice(what, value, why, setting))
        self._changes |= changes

    def warn(self, text: str) -> None:
        self._warnings.append(text)

    def has(self, *names: str) -> bool:
        """Whether ENGINE_ARGS has one of these options."""
        return any(name in self.given for name in names)

    def done(self, refusal: str = "") -> Plan:
        return Plan(self._engine, tuple(self._choices), tuple(self._warnings), refusal, self._changes)


def plan(spec: EngineSpec, engine: EngineName, model: ModelFacts | None, machine: Machine) -> Plan:
    """What to change in `spec` for this start, and what to tell. Never raises."""
    if engine == "command" or model is None:
        return Plan(engine)
    return _PLANNERS[engine](_Draft(spec, engine, model, machine))


def asks_gpus(spec: EngineSpec, engine: EngineName, machine: Machine) -> bool:
    """Whether what is passed to the engine depends on the GPUs, so that their driver's answer is worth waiting for.
    llama-server looks at them itself."""
    return engine == "vllm" or (engine == "llama-cpp-python" and machine.llama_gpu is not False)


def human(size: float) -> str:
    return f"{size / GIB:.1f} GiB" if size >= GIB / 10 else f"{size / MIB:.0f} MiB"


def tokens(count: int) -> str:
    return f"{count:,} tokens"


def said(words: Iterable[str]) -> Mapping[str, str]:
    """ENGINE_ARGS by option: `--dtype half`, `--dtype=half`, `-tp 2`. The last one wins, as in the engines."""
    found: dict[str, str] = {}
    option = ""
    for word in words:
        if word.startswith("-") and not word.lstrip("-").replace(".", "").isdigit():
            name, _, value = word.partition("=")
            option = name.replace("_", "-")
            found[option] = value
        elif option:
            found[option] = word
    return found


def described(gpus: tuple[Gpu, ...]) -> str:
    """`2 x NVIDIA L4 with 22.5 GiB each`."""
    names = [gpu.name for gpu in gpus]
    sizes = {gpu.name: human(gpu.memory) if gpu.memory else "the machine's memory" for gpu in gpus}
    each = {name: " each" if names.count(name) > 1 else "" for name in names}
    return ", ".join(f"{names.count(name)} x {name} with {sizes[name]}{each[name]}" for name in dict.fromkeys(names))


# --- vLLM ------------------------------------------------------------------------------------------------------------

SHARE = 0.92
"""GPU_MEMORY_UTILIZATION that vLLM takes when nobody says."""
CUDA_ITSELF = GIB // 2
"""What CUDA takes of each GPU before vLLM looks how much is free. It then wants its share to be free, or ends."""
SPARE = GIB
"""What is left free besides, where the share is chosen here."""
LEAST_BESIDE = GIB // 4
"""What vLLM needs beside weights and cache, at the very least."""
GRAPHS = GIB
"""What CUDA graphs and libraries take, generously."""
AUTO_LENGTH: Version = (0, 14)
"""The first version that takes `--max-model-len auto`, and then finds the longest context that fits by itself."""
ENOUGH = 8192
"""Tokens of context with which one GPU suffices: a second is not asked for more, which it can fail to give."""
TINY = 8192
"""With room for fewer tokens in all, MAX_NUM_SEQS is lowered: what batches of 256 or 1024 need is worth more as
context."""
SMALL_BATCH = 16
MXFP4_NEEDS: Version = (8, 0)
BF16_NEEDS: Version = (8, 0)
NO_HALF = frozenset({"gemma2", "gemma3", "gemma3_text", "glm4"})
"""model_types that vLLM does not run in 16 bits of the older kind; it takes 32 for them."""
SHRUNK = ("--quantization", "-q", "--cpu-offload-gb", "--load-format", "--hf-overrides", "--offload-backend", "--model")
"""Options with which the weights take less of the GPU than their files."""
SPREAD = (
    "--pipeline-parallel-size",
    "-pp",
    "--data-parallel-size",
    "-dp",
    "--enable-expert-parallel",
    "-ep",
    "--nnodes",
)
"""Options with which this plan knows too little of where what lies."""


def _vllm(draft: _Draft) -> Plan:
    machine, gpus = draft.machine, draft.machine.gpus
    if machine.vllm_on_cpu:
        draft.choose("GPUs", "none used", "this vLLM was built for a CPU; all is left to it", "VLLM_CPU_KVCACHE_SPACE")
        return draft.done()
    if machine.gpus_unknown:
        draft.choose("GPUs", "not known", f"{machine.gpus_unknown}; all is left to vLLM")
        return draft.done()
    if not gpus:
        draft.choose("GPUs", "none that NVIDIA's library knows of", "all is left to vLLM")
        return draft.done()
    draft.choose("GPUs", described(gpus), f"for {human(draft.model.size)} of weights", "MODEL")
    if draft.has("--config"):
        # What is passed behind it wins over what the file says, and nobody has read the file here.
        draft.choose("all else", "as the file says that --config names", "and where it says nothing, as vLLM chooses")
        return draft.done()
    if refusal := _format_refused(draft):
        return draft.done(refusal)
    _number_format(draft)
    if not all(gpu.memory for gpu in gpus):
        draft.choose("memory", "shared with the machine", "all that depends on it is left to vLLM")
        return draft.done()
    if any(draft.has(option) for option in SPREAD):
        draft.choose("memory", "divided by ENGINE_ARGS", "all that depends on it is left to vLLM")
        return draft.done()
    split = _split(draft)
    if split is None:
        return draft.done()
    used = gpus[:split]
    if refusal := _weights_refused(draft, used, split):
        return draft.done(refusal)
    share = _share(draft, used)
    _length(draft, used, split, share)
    _attention(draft, used)
    return draft.done()


def _weakest(gpus: tuple[Gpu, ...]) -> Gpu | None:
    """Of those whose compute capability is known."""
    return min((gpu for gpu in gpus if gpu.capability), key=lambda gpu: gpu.capability or (), default=None)


def _format_refused(draft: _Draft) -> str:
    weakest = _weakest(draft.machine.gpus)
    if draft.shape.quantization != "mxfp4" or weakest is None or draft.has("--quantization", "-q"):
        return ""
    if (weakest.capability or ()) >= MXFP4_NEEDS:
        return ""
    return (
        f"{draft.model.name} comes in MXFP4, which vLLM reads on GPUs of compute capability "
        f"{_dotted(MXFP4_NEEDS)} and above, and {weakest.name} has {_dotted(weakest.capability or ())}: take another "
        "GPU, or set MODEL to a GGUF of it, which llama.cpp runs on any."
    )


def _number_format(draft: _Draft) -> None:
    weakest = _weakest(draft.machine.gpus)
    if weakest is None or draft.shape.dtype != "bfloat16" or draft.shape.quantization:
        return
    if (weakest.capability or ()) >= BF16_NEEDS:
        draft.choose("number format", "bfloat16", "the model's own", "ENGINE_ARGS=--dtype")
    elif draft.has("--dtype"):
        return
    elif draft.shape.architecture in NO_HALF or not draft.shape.architecture:
        draft.choose(
            "number format", "left to vLLM", f"{weakest.name} cannot do the model's bfloat16", "ENGINE_ARGS=--dtype"
        )
    else:
        why = f"{weakest.name} cannot do the model's bfloat16"
        draft.choose("number format", "float16", why, "ENGINE_ARGS=--dtype", dtype="half")


def _split(draft: _Draft) -> int | None:
    """Over how many GPUs it is divided; None where that cannot be reckoned with."""
    gpus, shape = draft.machine.gpus, draft.shape
    for option in ("--tensor-parallel-size", "-tp"):
        if option in draft.given:
            value = draft.given[option]
            if value.isdigit() and 1 <= int(value) <= len(gpus):
                return int(value)
            draft.warn(f"ENGINE_ARGS asks for {value or 'several'} GPUs, and {len(gpus)} can be seen.")
            return None
    if len(gpus) == 1:
        return 1
    setting = "ENGINE_ARGS=--tensor-parallel-size"
    if gpus[0].is_slice:
        draft.choose("GPUs used", "1", "slices of a GPU cannot work together")
        return 1
    possible = [split for split in (1, 2, 4, 8, 16) if split <= len(gpus) and _divides(shape, split)]
    alike = len({(gpu.name, gpu.memory) for gpu in gpus}) == 1
    if not alike or not shape.heads:
        why = "they differ" if not alike else "how many heads the model has is not known"
        draft.choose("GPUs used", "1", f"{why}, so they are not made to work together here", setting)
        return 1
    # If more than one are needed anyway, then as many as hold all that the model can do.
    split = next((one for one in possible if _suffices(draft, gpus[:one], one, in_full=one > 1)), possible[-1])
    if split == 1:
        draft.choose("GPUs used", f"1 of {len(gpus)}", "the model fits on one", setting)
    else:
        why = f"its {shape.heads} heads are divided among them"
        draft.choose("GPUs used", f"{split} of {len(gpus)}", why, setting, tensor_parallel=split)
    return split


def _divides(shape: Shape, split: int) -> bool:
    """vLLM's own condition for heads, and for those of keys: each GPU has as many, or all have a copy of one."""
    if split == 1:
        return True
    heads, kv_heads = shape.heads, shape.kv_heads or shape.heads
    return heads > 0 and heads % split == 0 and (kv_heads % split == 0 or split % kv_heads == 0)


def _suffices(draft: _Draft, gpus: tuple[Gpu, ...], split: int, *, in_full: bool) -> bool:
    room = min(gpu.memory for gpu in gpus) * SHARE - draft.model.size / split - _beside(draft, gpus, split)
    if not draft.shape.is_known:
        return room > 0
    own = draft.spec.max_model_len or draft.shape.context or ENOUGH
    wanted = own if in_full else min(own, ENOUGH)
    return _paged(draft, gpus, split).bytes(wanted) <= room


def _batches(draft: _Draft, gpu: Gpu) -> tuple[int, int]:
    """max_num_batched_tokens and max_num_seqs as vLLM chooses them when nobody says."""
    if gpu.memory >= 160 * GIB:
        chosen = (16384, 1024)
    elif gpu.memory >= 70 * GIB and "a100" not in gpu.name.lower() and gpu.capability != (12, 1):
        chosen = (8192, 1024)
    else:
        chosen = (2048, 256)
    batched = draft.given.get("--max-num-batched-tokens", "")
    return int(batched) if batched.isdigit() and batched != "0" else chosen[0], draft.spec.max_num_seqs or chosen[1]


def _beside(draft: _Draft, gpus: tuple[Gpu, ...], split: int) -> int:
    """What one GPU needs beside weights and cache, generously: graphs, one batch on its way, one round of choosing."""
    batched, seqs = _batches(draft, gpus[0])
    shape = draft.shape
    width, hidden = shape.width or 8192, shape.hidden or 4 * (shape.width or 8192)
    on_its_way = batched * 2 * (6 * width + 3 * hidden // split)
    choosing = seqs * (shape.vocabulary or 150_000) * 12
    return GRAPHS + on_its_way + choosing


def _paged(draft: _Draft, gpus: tuple[Gpu, ...], split: int) -> cache.Paged:
    number = 1.0 if draft.given.get("--kv-cache-dtype", "").startswith("fp8") else cache.NUMBER
    return cache.paged(draft.shape, split=split, number=number, in_flight=2 * _batches(draft, gpus[0])[0])


def _weights_refused(draft: _Draft, gpus: tuple[Gpu, ...], split: int) -> str:
    """Only where the files alone are more than all GPUs that it could be given hold."""
    shown = draft.machine.gpus
    memory = sum(gpu.memory for gpu in shown) if not gpus[0].is_slice else gpus[0].memory
    if any(draft.has(option) for option in SHRUNK):
        return ""
    if draft.model.size >= memory:
        return (
            f"{draft.model.name} has {human(draft.model.size)} of weights, and there are {human(memory)} of GPU "
            f"memory ({described(shown)}): take a larger GPU or more of them, or set MODEL to a smaller or quantized "
            "version."
        )
    if draft.model.size / split >= min(gpu.memory for gpu in gpus):
        if split < len(shown):
            draft.warn(
                f"{human(draft.model.size)} of weights are more than {split} of these GPUs hold, and the model's "
                f"{draft.shape.heads or 'unknown number of'} heads cannot be divided among more of them here; "
                "ENGINE_ARGS=--pipeline-parallel-size divides it by layers."
            )
        else:
            draft.warn(f"{human(draft.model.size)} of weights leave no room for anything else: this will not start.")
    return ""


def _share(draft: _Draft, gpus: tuple[Gpu, ...]) -> float:
    """The share of each GPU's memory that vLLM takes."""
    asked = draft.spec.gpu_memory_utilization
    option = draft.given.get("--gpu-memory-utilization", "")
    if asked is None and option.replace(".", "", 1).isdigit():
        asked = float(option)
    fullest = min(gpus, key=lambda gpu: gpu.free / gpu.memory)
    free = f"{human(fullest.free)} of {human(fullest.memory)} are free"
    if asked is not None:
        if 0 < asked <= 1 and fullest.free < fullest.memory * asked:
            draft.warn(
                f"GPU_MEMORY_UTILIZATION={asked:g} wants {human(fullest.memory * asked)} of each GPU, and {free}: "
                "vLLM will refuse to start."
            )
        return asked
    if fullest.free - CUDA_ITSELF >= fullest.memory * SHARE:
        why = "vLLM's own choice"
        draft.choose("share of GPU memory", f"{SHARE:g}", why, "GPU_MEMORY_UTILIZATION")
        return SHARE
    share = int((fullest.free - SPARE) / fullest.memory * 100) / 100
    if share < 0.1:
        draft.warn(f"Others hold the GPU's memory: {free}.")
        return SHARE
    draft.choose(
        "share of GPU memory",
        f"{share:g}",
        f"others hold some: {free}",
        "GPU_MEMORY_UTILIZATION",
        gpu_memory_utilization=share,
    )
    return share


def _length(draft: _Draft, gpus: tuple[Gpu, ...], split: int, share: float) -> None:
    """How long one request may be, and how many there may be at once."""
    spec, shape = draft.spec, draft.shape
    memory = min(gpu.memory for gpu in gpus) * share
    weights = draft.model.size / split
    most, least = int(memory - weights - LEAST_BESIDE), int(memory - weights - _beside(draft, gpus, split))
    finds_itself = draft.machine.vllm is not None and draft.machine.vllm >= AUTO_LENGTH
    own = shape.context
    if draft.has("--max-model-len", "--kv-cache-memory-bytes", "--num-gpu-blocks-override"):
        draft.choose("context", draft.given.get("--max-model-len", "") or "as ENGINE_ARGS says")
        return
    if not shape.is_known:
        why = f"what a token takes is not known: {shape.unknown or 'nothing was read of it'}"
        if spec.max_model_len is not None:
            return
        if finds_itself:
            draft.choose("context", "the longest that fits", f"vLLM finds it; {why}", "MAX_MODEL_LEN", longest=True)
        else:
            draft.choose("context", "left to vLLM", why, "MAX_MODEL_LEN")
        return
    pages = _paged(draft, gpus, split)
    if spec.max_model_len is not None:
        if pages.bytes(spec.max_model_len) > most:
            _does_not_fit(draft, f"MAX_MODEL_LEN={spec.max_model_len}", pages, most, spec.max_model_len)
        length = spec.max_model_len
    elif own is None:
        why = "the model does not say how much it was made for"
        if finds_itself:
            draft.choose("context", "the longest that fits", f"vLLM finds it; {why}", "MAX_MODEL_LEN", longest=True)
        else:
            draft.choose("context", "left to vLLM", why, "MAX_MODEL_LEN")
        return
    elif pages.bytes(own) <= least:
        draft.choose("context", tokens(own), "all that the model was made for", "MAX_MODEL_LEN")
        length = own
    else:
        found = _shorter(draft, pages, most, least, own, finds_itself)
        if not found:
            return
        length = found
    _sequences(draft, gpus, pages, least, length)


def _shorter(draft: _Draft, pages: cache.Paged, most: int, least: int, own: int, finds_itself: bool) -> int:
    """The model's own context does not surely fit: what is chosen instead. 0: nothing."""
    longest = rounded(pages.longest(max(least, 0), own))
    if finds_itself:
        about = f", about {tokens(longest)}" if longest else ""
        why = f"vLLM finds it; the model was made for {tokens(own)}"
        draft.choose("context", f"the longest that fits{about}", why, "MAX_MODEL_LEN", longest=True)
        if pages.bytes(1) > most:
            _does_not_fit(draft, "the shortest context", pages, most, cache.BLOCK)
        return longest
    if longest:
        why = f"what surely fits; the model was made for {tokens(own)}"
        draft.choose("context", tokens(longest), why, "MAX_MODEL_LEN", max_model_len=longest)
        return longest
    _does_not_fit(draft, f"the model's {tokens(own)} of context", pages, most, own)
    return 0


def _does_not_fit(draft: _Draft, what: str, pages: cache.Paged, most: int, length: int) -> None:
    fits = rounded(pages.longest(max(most, 0), length))
    advice = (
        f"at most {tokens(fits)} fit" if fits else "not even a short one fits: take a smaller MODEL or a larger GPU"
    )
    draft.warn(
        f"The cache for {what} takes {human(pages.bytes(length))} on each GPU, and {human(max(most, 0))} are left "
        f"beside the weights; {advice}."
    )


def rounded(count: int) -> int:
    """Down, to what people write."""
    step = 1024 if count >= 16384 else 256 if count >= 1024 else 16
    return count // step * step


def _sequences(draft: _Draft, gpus: tuple[Gpu, ...], pages: cache.Paged, room: int, length: int) -> None:
    _, own = _batches(draft, gpus[0])
    if room <= 0:
        return
    in_full = pages.at_once(room, length)
    held = (
        f"the cache holds about {in_full:.1f} of {tokens(length)}" if in_full < 10 else f"about {in_full:.0f} in full"
    )
    if draft.spec.max_num_seqs or draft.has("--max-num-seqs"):
        draft.choose("requests at once", str(draft.spec.max_num_seqs or draft.given["--max-num-seqs"]), held)
        return
    if own <= SMALL_BATCH or pages.capacity(room, min(length, 1024)) >= TINY:
        draft.choose("requests at once", f"{own}", f"vLLM's own choice; {held}", "MAX_NUM_SEQS")
        return
    why = "larger batches would take what little is left for the cache"
    draft.choose("requests at once", str(SMALL_BATCH), why, "MAX_NUM_SEQS", max_num_seqs=SMALL_BATCH)


def _attention(draft: _Draft, gpus: tuple[Gpu, ...]) -> None:
    """Told, never passed: vLLM knows which of its kernels can do what a model needs."""
    if draft.has("--attention-backend"):
        return
    weakest = _weakest(gpus)
    name = attention(draft.shape, weakest.capability or ()) if weakest is not None else ""
    if name:
        draft.choose("attention", f"{name} probably", "vLLM's own choice", "ENGINE_ARGS=--attention-backend")


def attention(shape: Shape, capability: Version) -> str:
    """The kernels that vLLM probably chooses; empty where that is not plain."""
    if not shape.is_known or shape.latent or not capability:
        return ""
    if shape.sinks:
        by_generation = {8: "TRITON_ATTN", 9: "FLASH_ATTN", 10: "FLASHINFER"}
    else:
        by_generation = {8: "FLASH_ATTN", 9: "FLASH_ATTN", 10: "FLASHINFER"}
    return by_generation.get(capability[0], "")


def _dotted(version: Version) -> str:
    return ".".join(map(str, version))


# --- llama.cpp -------------------------------------------------------------------------------------------------------

CONTEXT_OF_CHILD = 8192
"""What our own child takes when nobody says (llama_child/arguments.py), or what the model was made for if less."""
SLOTS_OF_SERVER = 4
"""What llama-server takes when nobody says; they share one cache."""
LEAST_CONTEXT = 4096
"""Less is not chosen here: whoever has no room for it has none for the model."""
CUDA_OF_LLAMA = 6 * GIB // 10
"""What CUDA and its libraries take of a GPU, and a little more."""


def _llama_server(draft: _Draft) -> Plan:
    """It fits layers and context to the GPU's free memory itself (`--fit`). Without a GPU it goes by all the memory of
    the machine, and knows neither a container's limit nor what others hold."""
    spec, own = draft.spec, draft.shape.context
    slots = llama_slots(spec) if spec.max_model_len else spec.max_num_seqs or SLOTS_OF_SERVER
    unified = not (spec.max_model_len or spec.max_num_seqs)
    context = spec.ctx_size or (spec.max_model_len * slots if spec.max_model_len else None)
    if _uses_gpu(draft, built=None):
        _gpus_of_llama(draft)
        draft.choose("GPU layers", _layers_asked(spec), "llama-server fits them to the free memory", "N_GPU_LAYERS")
        if context is None:
            draft.choose("context", "as long as fits", f"llama-server finds it{_made_for(own)}", "CTX_SIZE")
    elif context is None and not draft.has("-c", "--ctx-size"):
        # Unified, or divided among the slots: in all it is as long as one request's.
        _context_in_memory(draft, own, slots, unified)
    elif context is not None:
        _check_memory(draft, context, slots, unified)
    if not spec.max_num_seqs and not spec.max_model_len and not draft.has("-np", "--parallel"):
        draft.choose(
            "requests at once", str(slots), "llama-server's own choice; they share the context", "MAX_NUM_SEQS"
        )
    _check_weights(draft)
    return draft.done()


def _llama_cpp_python(draft: _Draft) -> Plan:
    spec, machine, shape = draft.spec, draft.machine, draft.shape
    asked = spec.ctx_size or spec.max_model_len
    own = min(CONTEXT_OF_CHILD, shape.context) if shape.context else CONTEXT_OF_CHILD
    if any(re.match(r"(--)?n[-_]ctx\b", word) for word in spec.engine_args):
        return draft.done()  # a context of its own, in the package's words
    if _uses_gpu(draft, built=machine.llama_gpu):
        _gpus_of_llama(draft)
        _layers(draft, asked or own)
        if asked is None:
            draft.choose("context", tokens(own), f"as long as nobody says{_made_for(shape.context)}", "CTX_SIZE")
    elif asked is None:
        _context_in_memory(draft, own, 1, True)
    else:
        _check_memory(draft, asked, 1, True)
    _check_weights(draft)
    return draft.done()


def _made_for(own: int | None) -> str:
    return f"; the model was made for {tokens(own)}" if own else ""


def _layers_asked(spec: EngineSpec) -> str:
    return spec.n_gpu_layers


def _uses_gpu(draft: _Draft, built: bool | None) -> bool:
    """Whether it may use one. Without knowing, yes: then nothing is chosen by the machine's memory."""
    machine = draft.machine
    if draft.spec.n_gpu_layers == "0" or built is False:
        return False
    return bool(machine.gpus or machine.gpus_unknown or machine.other_gpu)


def _gpus_of_llama(draft: _Draft) -> None:
    machine = draft.machine
    if machine.gpus:
        draft.choose("GPUs", described(machine.gpus), f"for {human(draft.model.size)} of weights", "MODEL")
    else:
        why = machine.gpus_unknown or "there may be one that NVIDIA's library does not know of"
        draft.choose("GPUs", "not known", why)


def _layers(draft: _Draft, context: int) -> None:
    """How many layers llama-cpp-python tries first; with fewer, if they do not fit after all."""
    spec, shape, gpus = draft.spec, draft.shape, draft.machine.gpus
    if spec.n_gpu_layers != "auto":
        draft.choose("GPU layers", spec.n_gpu_layers, "as set", "N_GPU_LAYERS")
        return
    measured = shape.is_known and len(shape.layer_bytes) == shape.layers and all(shape.layer_bytes)
    if not gpus or not all(gpu.memory for gpu in gpus) or not measured:
        draft.choose("GPU layers", "all, or fewer where they do not fit", "found by trying", "N_GPU_LAYERS")
        return
    fits, every = layers_that_fit(shape, gpus, context), shape.layers + 1
    free = human(sum(gpu.free for gpu in gpus))
    if fits >= every:
        draft.choose("GPU layers", f"all {every}", f"{free} are free", "N_GPU_LAYERS")
    else:
        why = f"{free} are free; the others stay in the machine's memory, which is slower"
        draft.choose("GPU layers", f"about {fits} of {every}", why, "N_GPU_LAYERS", gpu_layers_first=fits)


def layers_that_fit(shape: Shape, gpus: tuple[Gpu, ...], context: int) -> int:
    """The output counts as one, and comes first; then the last layers, each with its part of the cache. Several GPUs
    are filled one after the other, so that each wastes less than a layer."""
    caches = cache.llama_layers(shape, context)
    # Of one batch: the answers' logits, and a few times its width.
    batch = cache.MICRO_BATCH * 4 * (max(shape.vocabulary, 32_000) + 8 * (shape.width or 8192))
    free = [gpu.free - CUDA_OF_LLAMA - batch for gpu in gpus]
    parts = [shape.output_bytes, *(w + c for w, c in zip(reversed(shape.layer_bytes), reversed(caches), strict=True))]
    fits = 0
    for room in free:
        while fits < len(parts) and parts[fits] <= room:
            room -= parts[fits]
            fits += 1
    return fits


def _context_in_memory(draft: _Draft, own: int | None, slots: int, unified: bool) -> None:
    """Without a GPU: what the model was made for if the machine's memory has room for it, else less."""
    shape, memory, setting = draft.shape, draft.machine.memory, "CTX_SIZE"
    if own is None:
        draft.choose("context", "left to the engine", "the model does not say how much it was made for", setting)
        return
    if not shape.is_known or memory is None:
        why = shape.unknown if not shape.is_known else "how much memory there is is not known"
        draft.choose("context", "left to the engine", why, setting)
        return
    room = _room(draft)
    needed = cache.llama_bytes(shape, own, slots=slots, unified=unified)
    if needed <= room:
        why = "all that the model was made for" if own == shape.context else "as long as nobody says"
        draft.choose("context", tokens(own), f"{why}; its cache takes {human(needed)}", setting)
        return
    longest = cache.llama_longest(shape, own, room, slots=slots, unified=unified)
    fits = min(own, max(longest, LEAST_CONTEXT))
    taken = cache.llama_bytes(shape, fits, slots=slots, unified=unified)
    made_for = f"; the model was made for {tokens(shape.context)}" if shape.context else ""
    why = f"what there is memory for beside the weights; its cache takes {human(taken)}{made_for}"
    draft.choose("context", tokens(fits), why, setting, ctx_size=fits)
    if taken > room:
        draft.warn(f"There is hardly memory for it: {human(memory)} in all, for {human(draft.model.size)} of weights.")


def _room(draft: _Draft) -> int:
    """The machine's memory for a cache. Weights are mapped: they should stay in memory, but need not."""
    memory = draft.machine.memory or 0
    beside = cache.MICRO_BATCH * 4 * (max(draft.shape.vocabulary, 32_000) + 8 * (draft.shape.width or 8192)) + GIB // 4
    return max(memory - draft.model.size - beside, memory // 8)


def _check_memory(draft: _Draft, context: int, slots: int, unified: bool) -> None:
    """Whether a context that somebody asked for can be had without a GPU."""
    if not draft.shape.is_known or draft.machine.memory is None:
        return
    needed = cache.llama_bytes(draft.shape, context, slots=slots, unified=unified)
    if needed > draft.machine.memory:
        draft.warn(
            f"The cache for {tokens(context)} takes {human(needed)}, and there are {human(draft.machine.memory)} of "
            "memory: set CTX_SIZE or MAX_MODEL_LEN lower."
        )


def _check_weights(draft: _Draft) -> None:
    machine = draft.machine
    if machine.memory is None or machine.gpus_unknown or machine.other_gpu:
        return
    memory = machine.memory + sum(gpu.free for gpu in machine.gpus)
    if draft.model.size > memory:
        draft.warn(
            f"{human(draft.model.size)} of weights are more than the {human(memory)} of memory here: they are read "
            "from the disk again and again, which is very slow."
        )


_PLANNERS: Mapping[EngineName, Callable[[_Draft], Plan]] = {
    "vllm": _vllm,
    "llama-server": _llama_server,
    "llama-cpp-python": _llama_cpp_python,
}
