"""GPU: seen or not, large enough or not, and whether engine and driver fit together. Without I/O."""

from collections.abc import Iterator

from gateway.assembly import engine_spec
from gateway.doctor.case import Case
from gateway.doctor.findings import BREAKS, DOUBTFUL, NOTE, Finding, found
from gateway.doctor.model import engine_of
from gateway.doctor.sizes import GIB, guessed_size, kv_size
from gateway.gpu import Version, visible
from gateway.providers.local.commands import CommandError, EngineName
from gateway.providers.local.models.facts import facts_of
from gateway.providers.local.models.model_files import human
from gateway.providers.local.planning.plan import Machine, plan

TOKENS_UNKNOWN = 8192
"""Room for so many tokens is reckoned where no setting says how many."""
OVERHEAD = GIB
"""What CUDA itself and the engine's buffers take, roughly."""
LARGE_FOR_A_CPU = 4 * GIB
MXFP4_NEEDS: Version = (8, 0)
VLLM_SHARE = 0.92
"""GPU_MEMORY_UTILIZATION that vLLM takes when nobody says (config/cache.py, 0.33)."""

_WITH_CUDA = {
    "llama-cpp-python": "CMAKE_ARGS=-DGGML_CUDA=on pip install --force-reinstall --no-cache-dir llama-cpp-python",
    "llama-server": "cmake -B build -DGGML_CUDA=ON && cmake --build build --target llama-server -j",
    "vllm": "pip install --force-reinstall vllm",
}


def check(case: Case) -> Iterator[Finding]:
    if case.settings.provider != "local":
        return
    sign = _sign(case)
    if not case.facts.gpus.gpus and case.facts.told.get("RUNPOD_GPU_COUNT") != "0":
        yield from _nothing_seen(case, sign)
    try:
        engine = engine_of(case)
    except CommandError:
        return  # told already: with nothing to serve it, nothing more is known
    if case.facts.gpus.gpus:
        yield from _engine(case, engine)
        yield from _room(case, engine)
    yield from _plan(case, engine)


def _sign(case: Case) -> str:
    """What says that there should be a GPU; empty: nothing does."""
    told, devices = case.facts.told, case.facts.gpus.devices
    if devices:
        return devices[0]
    count = told.get("RUNPOD_GPU_COUNT", "")
    if count.isdecimal() and int(count) > 0:
        return f"RUNPOD_GPU_COUNT={count}"
    visible = told.get("NVIDIA_VISIBLE_DEVICES", "")
    # Images based on CUDA's set it to "all" wherever they run.
    if visible not in ("", "all", "void", "none"):
        return f"NVIDIA_VISIBLE_DEVICES={visible}"
    return ""


def _nothing_seen(case: Case, sign: str) -> Iterator[Finding]:
    model = case.facts.model.found
    if sign:
        yield found("gpu-not-visible", sign=sign, problem=case.facts.gpus.problem or "none is listed")
    elif model is not None and model.size > LARGE_FOR_A_CPU:
        level = DOUBTFUL if case.around.is_worker else NOTE
        yield found("gpu-missing", level, model=model.name, size=human(model.size))


def _engine(case: Case, engine: EngineName) -> Iterator[Finding]:
    s, seen = case.settings, case.facts.gpus
    build = case.facts.builds.get(engine)
    uses_llama = engine in ("llama-cpp-python", "llama-server")
    if uses_llama and s.n_gpu_layers == 0:
        yield found("gpu-unused", gpus=seen)
    elif build is not None and build.gpu is False:
        level = BREAKS if case.around.is_worker else DOUBTFUL
        yield found("engine-without-cuda", level, engine=engine, gpus=seen, cure=_WITH_CUDA[engine])
    if build is not None and build.cuda and seen.cuda:
        wanted, has = build.cuda, seen.cuda
        # Within a major version newer code runs on older drivers (CUDA's minor version compatibility).
        if wanted > has[: len(wanted)]:
            level = BREAKS if wanted[0] > has[0] else DOUBTFUL
            values = {"wanted": _dotted(wanted), "has": _dotted(has), "driver": seen.driver or "its version is unknown"}
            yield found("cuda-driver-too-old", level, engine=engine, **values)
    name = _name(case)
    oldest = min((gpu for gpu in seen.gpus if gpu.capability), key=lambda gpu: gpu.capability or (), default=None)
    in_mxfp4 = any(word in name.lower() for word in ("gpt-oss", "mxfp4"))
    if engine == "vllm" and in_mxfp4 and oldest is not None and (oldest.capability or ()) < MXFP4_NEEDS:
        yield found("gpu-too-old", model=name, gpu=oldest.name, has=_dotted(oldest.capability or ()))


def _room(case: Case, engine: EngineName) -> Iterator[Finding]:
    s, seen, model = case.settings, case.facts.gpus, case.facts.model
    size = model.found.size if model.found is not None else guessed_size(model.text or "")
    if size is None or s.n_gpu_layers == 0 or engine == "command" or not all(gpu.memory for gpu in seen.gpus):
        return
    share = (s.gpu_memory_utilization or VLLM_SHARE) if engine == "vllm" else 1.0
    memory = int(seen.memory * share)
    context = model.found.context_length if model.found is not None else None
    tokens = s.ctx_size or s.max_model_len or min(context or TOKENS_UNKNOWN, TOKENS_UNKNOWN)
    needed = size + kv_size(tokens, size) + OVERHEAD
    shown = {"model": _name(case), "memory": human(memory), "gpus": seen}
    if size > memory:
        must_fit = engine == "vllm" or s.n_gpu_layers == "all"
        level = BREAKS if must_fit and model.found is not None else DOUBTFUL  # a guess is no reason to stop
        yield found("gpu-too-small", level, size=human(size), smaller="<org/name of a smaller one>", **shown)
    elif needed > memory and not _is_planned(case):
        name = "MAX_MODEL_LEN" if engine == "vllm" else "CTX_SIZE"
        cure = f"{name}={max(1024, tokens // 2)}"
        yield found("gpu-tight", needed=human(needed), tokens=tokens, cure=cure, **shown)
    elif case.facts.gateway is None and needed > seen.free * share and seen.free < seen.memory * 0.9:
        yield found("gpu-memory-taken", memory=human(seen.memory), free=human(seen.free))


def _is_planned(case: Case) -> bool:
    """Whether more is known of the model than its size."""
    return case.facts.model.found is not None and case.facts.model.found.shape.is_known


def _plan(case: Case, engine: EngineName) -> Iterator[Finding]:
    """What a start would choose by the model's own files; whatever cannot work is a finding already."""
    found_model, seen = case.facts.model.found, case.facts.gpus
    if found_model is None or not _is_planned(case):
        return
    build = case.facts.builds.get(engine)
    machine = Machine(
        gpus=visible(seen.gpus, case.facts.told.get("CUDA_VISIBLE_DEVICES")),
        memory=case.around.memory,
        vllm=build.version if build else None,
        vllm_on_cpu=engine == "vllm" and build is not None and build.gpu is False,
        llama_gpu=build.gpu if build else None,
    )
    spec = engine_spec(case.settings, case.settings.served_model_name)
    made = plan(spec, engine, facts_of(found_model), machine)
    for warning in made.warnings:
        yield found("plan-doubtful", warning=warning)
    choices = "; ".join(map(str, made.choices))
    if choices and not made.refusal:
        yield found("plan", model=found_model.name, engine=engine, choices=choices)


def _name(case: Case) -> str:
    model = case.facts.model
    return model.found.name if model.found is not None else model.text or "The demo model"


def _dotted(version: Version) -> str:
    return ".".join(map(str, version))
