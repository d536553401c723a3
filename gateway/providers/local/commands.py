"""How each engine is started: settings in, command line out. Pure: it reads no file and no environment.

One function per engine says how MODEL, CTX_SIZE, MAX_MODEL_LEN, N_GPU_LAYERS, GPU_MEMORY_UTILIZATION and MAX_NUM_SEQS
are called there; `TRAITS` says what else is known about it. A new engine is one more of each.

A wrong setting is a `CommandError`: one sentence for whoever set it. Sources of the flags: llama.cpp's
tools/server/README.md, vLLM's cli_args.py, both as of autumn 2026.
"""

import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

EngineName = Literal["llama-cpp-python", "llama-server", "vllm", "command"]
Format = Literal["gguf", "safetensors"]
Door = Literal["socket", "port"]
IdleAction = Literal["auto", "sleep", "stop"]

SOCKET_PATH_MAX = 107
"""Bytes: the kernel's sockaddr_un, less its ending zero."""

CHAT, COMPLETIONS, EMBEDDINGS = "/v1/chat/completions", "/v1/completions", "/v1/embeddings"
RESPONSES, MESSAGES, COUNT_TOKENS, RERANK = "/v1/responses", "/v1/messages", "/v1/messages/count_tokens", "/v1/rerank"


class CommandError(ValueError):
    """A setting of the engine that cannot be carried out; the text is one sentence that names it."""


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """What the settings say about the engine. The defaults are those of INTERFACE.md."""

    engine: EngineName | None = None
    """None: chosen by `choose` once the model's format is known."""
    served_names: tuple[str, ...] = ()
    ctx_size: int | None = None
    """Tokens of context in all (llama.cpp)."""
    max_model_len: int | None = None
    """Tokens of context for one request."""
    n_gpu_layers: str = "auto"
    """`auto`, `all`, or a number."""
    gpu_memory_utilization: float | None = None
    max_num_seqs: int | None = None
    """Requests at once."""
    engine_args: tuple[str, ...] = ()
    """Split as a shell splits; appended as they are, so that they win."""
    engine_command: str = ""
    stop_command: str = ""
    health_path: str = ""
    engine_env: Mapping[str, str] = field(default_factory=dict)
    # What no setting says, but the plan of a start (planning/plan.py); ENGINE_ARGS win over all of them.
    longest: bool = False
    """vLLM is to find the longest context that fits."""
    tensor_parallel: int | None = None
    """GPUs that vLLM divides the model among."""
    dtype: str = ""
    gpu_layers_first: int | None = None
    """With `auto`: how many layers llama-cpp-python tries first."""
    idle_action: IdleAction = "stop"
    """What it does when nobody needs it. `auto`: it sleeps where it can."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where one run of the engine lives; `python` and `package_root` are for our own child program."""

    socket: str
    port: int
    key_file: str
    news_fd: int
    python: str
    package_root: str


@dataclass(frozen=True, slots=True)
class Launch:
    """One command line, ready to be run."""

    argv: tuple[str, ...]
    stop_argv: tuple[str, ...] = ()
    wanted_env: Mapping[str, str] = field(default_factory=dict)
    """ENGINE_ENV, its placeholders filled."""
    needed_env: Mapping[str, str] = field(default_factory=dict)
    """What the command line cannot do without."""


@dataclass(frozen=True, slots=True)
class Installed:
    """What was found on this machine. Paths, or None."""

    llama_cpp: bool = False
    llama_server: str | None = None
    vllm: str | None = None
    cuda: bool = False
    """Whether there is an NVIDIA GPU."""


@dataclass(frozen=True, slots=True)
class Traits:
    """What is known of an engine without asking it."""

    routes: frozenset[str] | None
    """Inference paths that it has; None: it depends on the model, ask it."""
    concurrency: int | None
    """Requests at once when MAX_NUM_SEQS does not say it; None: unknown."""
    health: tuple[str, ...]
    """Paths to look at, the first that exists counts."""
    news: bool = False
    """Whether it tells of its loading through a pipe."""
    slots: str = ""
    """A path whose JSON says in `total_slots` how many requests it takes at once."""


TRAITS: dict[EngineName, Traits] = {
    "llama-cpp-python": Traits(
        routes=frozenset({CHAT, COMPLETIONS, EMBEDDINGS}), concurrency=1, health=("/health",), news=True
    ),
    "llama-server": Traits(
        routes=frozenset({CHAT, COMPLETIONS, RESPONSES, MESSAGES, COUNT_TOKENS}),
        concurrency=None,
        health=("/health",),
        slots="/props",
    ),
    "vllm": Traits(routes=None, concurrency=None, health=("/health",)),
    # Nothing is known of it. /v1/models only where there is no /health, and never again once it is ready: on
    # llama-cpp-python's own server that question waits for the running answer, and cuts it.
    "command": Traits(routes=None, concurrency=None, health=("/health", "/v1/models")),
}


def traits(spec: EngineSpec, engine: EngineName) -> Traits:
    """TRAITS, and what the settings change about them."""
    known = TRAITS[engine]
    routes = known.routes
    if engine == "llama-server" and routes is not None:
        # llama-server has embeddings only with --embeddings (501 else), and they need a pooling (--pooling mean) where
        # the model has none; current versions then still chat, older ones refuse to. So it is the operator's choice.
        if {"--embedding", "--embeddings"} & set(spec.engine_args):
            routes |= {EMBEDDINGS}
        if {"--rerank", "--reranking"} & set(spec.engine_args):
            routes |= {RERANK}
    concurrency = known.concurrency
    if engine != "llama-cpp-python" and spec.max_num_seqs:
        concurrency = spec.max_num_seqs
    if engine == "llama-server" and concurrency is None and spec.max_model_len:
        concurrency = llama_slots(spec)
    health = (spec.health_path,) if spec.health_path else known.health
    return Traits(routes, concurrency, health, known.news, known.slots)


def choose(spec: EngineSpec, format: Format | None, installed: Installed) -> EngineName:
    """The engine for a model: what ENGINE says, else ENGINE_COMMAND, else what reads the format and is installed.

    Raises CommandError when nothing fits, or when what is asked for is not there.
    """
    if spec.engine == "command" or (spec.engine is None and spec.engine_command):
        if not spec.engine_command:
            raise CommandError("ENGINE=command needs ENGINE_COMMAND.")
        return "command"
    if spec.engine is not None:
        there = {
            "llama-cpp-python": installed.llama_cpp,
            "llama-server": bool(installed.llama_server),
            "vllm": bool(installed.vllm),
        }[spec.engine]
        if not there:
            where = "on PATH" if spec.engine != "llama-cpp-python" else "in this Python (pip install 'wakegate[llama]')"
            raise CommandError(f"ENGINE={spec.engine} is not installed {where}.")
        if format == "safetensors" and spec.engine != "vllm":
            raise CommandError(f"ENGINE={spec.engine} reads GGUF files, and this model is a safetensors folder.")
        return spec.engine
    if format == "safetensors":
        if installed.vllm:
            return "vllm"
        raise CommandError("The model is a safetensors folder, which vLLM reads, and vllm is not on PATH.")
    if installed.llama_server and (spec.max_num_seqs or 1) > 1:
        return "llama-server"
    if installed.llama_cpp:
        return "llama-cpp-python"
    if installed.llama_server:
        return "llama-server"
    if format is None and installed.vllm:
        return "vllm"
    raise CommandError(
        "No engine is installed for a GGUF model: install llama-cpp-python (pip install 'wakegate[llama]') "
        "or put llama-server on PATH."
    )


# --- Command lines ---------------------------------------------------------------------------------------------------


def build(spec: EngineSpec, engine: EngineName, place: Place, model: str | None, installed: Installed) -> Launch:
    """The command line of one run. Raises CommandError."""
    if engine != "command" and model is None:
        raise CommandError(f"ENGINE={engine} needs a MODEL.")
    if len(place.socket.encode()) > SOCKET_PATH_MAX:
        raise CommandError(f"The run folder's path is too long for a unix socket: {place.socket}")
    launch = BUILDERS[engine](spec, place, model or "", installed)
    fill = filler(place, model)
    return Launch(
        argv=launch.argv,
        stop_argv=tuple(fill(word, "ENGINE_STOP_COMMAND") for word in split(spec.stop_command, "ENGINE_STOP_COMMAND")),
        wanted_env={name: fill(value, "") for name, value in spec.engine_env.items()},
        needed_env=launch.needed_env,
    )


def llama_cpp_python(spec: EngineSpec, place: Place, model: str, installed: Installed) -> Launch:
    """Our own child program around the package. One request at a time, so all the context is that request's."""
    if (spec.max_num_seqs or 1) > 1:
        raise CommandError(
            f"MAX_NUM_SEQS={spec.max_num_seqs}: llama-cpp-python answers one request at a time; "
            "llama-server and vllm take more."
        )
    context = spec.ctx_size or spec.max_model_len
    argv = [place.python, "-P", "-m", "gateway.providers.local.llama_child", "--socket", place.socket, "--model", model]
    for name in spec.served_names:
        argv += ["--alias", name]
    if context:
        argv += ["--ctx", str(context)]
    first = spec.gpu_layers_first if spec.n_gpu_layers == "auto" else None
    argv += ["--gpu-layers", spec.n_gpu_layers if first is None else f"auto:{first}"]
    for word in key_values(spec.engine_args):
        argv += ["--arg", word]
    argv += ["--news-fd", str(place.news_fd)]
    # A checkout is not installed; and -P keeps whatever lies in the working directory out of its imports.
    return Launch(tuple(argv), needed_env={"PYTHONPATH": place.package_root} if place.package_root else {})


def key_values(words: tuple[str, ...]) -> list[str]:
    """ENGINE_ARGS for the package: `n_batch=512`, `--n_batch 512`, `--n-batch=512`, `--flash-attn` name parameters."""
    found: list[str] = []
    waiting = list(words)
    while waiting:
        word = waiting.pop(0)
        name, equals, value = word.removeprefix("--").partition("=")
        if not word.startswith("--") and not equals:
            raise CommandError(f"ENGINE_ARGS for llama-cpp-python are parameters such as n_batch=512, not {word!r}.")
        if not equals:
            value = waiting.pop(0) if waiting and not waiting[0].startswith("--") and "=" not in waiting[0] else "true"
        found.append(f"{name.replace('-', '_')}={value}")
    return found


def llama_slots(spec: EngineSpec) -> int:
    """How many requests llama-server takes at once when MAX_MODEL_LEN says how long one is."""
    if spec.max_num_seqs:
        return spec.max_num_seqs
    if spec.ctx_size and spec.max_model_len:
        return max(1, spec.ctx_size // spec.max_model_len)
    return 1


@dataclass(frozen=True, slots=True)
class Asked:
    """A context that the engine is told to make room for."""

    tokens: int
    setting: str
    """Which setting says so,"""
    share: int = 1
    """and for how many requests each."""


def context_asked(spec: EngineSpec, engine: EngineName) -> Asked | None:
    """As far as these settings say it; ENGINE_ARGS may say otherwise."""
    if spec.ctx_size and engine != "vllm":
        return Asked(spec.ctx_size, "CTX_SIZE")
    if not spec.max_model_len:
        return None
    share = llama_slots(spec) if engine == "llama-server" else 1
    return Asked(spec.max_model_len * share, "MAX_MODEL_LEN", share)


def llama_server(spec: EngineSpec, place: Place, model: str, installed: Installed) -> Launch:
    """llama-server divides -c among its slots: a length per request is multiplied by them."""
    argv = [installed.llama_server or "llama-server", "--model", model, "--host", place.socket]
    # The socket lies in a 0700 folder. No page, and no window on other callers' prompts, even for who gets there.
    argv += ["--no-webui", "--no-slots", "--metrics", "--jinja", "--n-gpu-layers", spec.n_gpu_layers]
    if spec.served_names:
        argv += ["--alias", ",".join(spec.served_names)]
    if spec.max_model_len:
        slots = llama_slots(spec)
        needed = spec.max_model_len * slots
        if spec.ctx_size and spec.ctx_size < needed:
            raise CommandError(
                f"CTX_SIZE={spec.ctx_size} is not enough for MAX_MODEL_LEN={spec.max_model_len} times "
                f"{slots} requests at once (MAX_NUM_SEQS)."
            )
        argv += ["--parallel", str(slots), "--ctx-size", str(spec.ctx_size or needed)]
    else:
        if spec.max_num_seqs:
            argv += ["--parallel", str(spec.max_num_seqs)]
        if spec.ctx_size:
            argv += ["--ctx-size", str(spec.ctx_size)]
    return Launch((*argv, *spec.engine_args))


OWN_WAY = frozenset({"--uds", "--host", "--port", "--headless", "--no-enable-sleep-mode"})
"""With one of these in ENGINE_ARGS vLLM listens where we did not tell it to, or must not sleep."""


def can_sleep(spec: EngineSpec, engine: EngineName, installed: Installed) -> bool:
    """Whether the engine is started so that it can be put to sleep (sleeping.py): vLLM, on a GPU, at our own socket.

    The routes for it let whoever reaches them do anything, so they are never switched on where others may listen.
    """
    named = {word.partition("=")[0].replace("_", "-") for word in spec.engine_args}
    return engine == "vllm" and spec.idle_action != "stop" and installed.cuda and not named & OWN_WAY


def vllm(spec: EngineSpec, place: Place, model: str, installed: Installed) -> Launch:
    """vLLM sizes its cache itself; CTX_SIZE is llama.cpp's word and means nothing here."""
    argv = [installed.vllm or "vllm", "serve", model, "--uds", place.socket]
    if spec.served_names:
        argv += ["--served-model-name", *spec.served_names]
    if spec.max_model_len:
        argv += ["--max-model-len", str(spec.max_model_len)]
    elif spec.longest:
        argv += ["--max-model-len", "auto"]
    if spec.tensor_parallel:
        argv += ["--tensor-parallel-size", str(spec.tensor_parallel)]
    if spec.dtype:
        argv += ["--dtype", spec.dtype]
    if spec.gpu_memory_utilization is not None:
        argv += ["--gpu-memory-utilization", f"{spec.gpu_memory_utilization:g}"]
    if spec.max_num_seqs:
        argv += ["--max-num-seqs", str(spec.max_num_seqs)]
    if not can_sleep(spec, "vllm", installed):
        return Launch((*argv, *spec.engine_args))
    return Launch((*argv, "--enable-sleep-mode", *spec.engine_args), needed_env={"VLLM_SERVER_DEV_MODE": "1"})


def command(spec: EngineSpec, place: Place, model: str, installed: Installed) -> Launch:
    """ENGINE_COMMAND, word by word and without a shell."""
    fill = filler(place, model or None)
    words = [fill(word, "ENGINE_COMMAND") for word in split(spec.engine_command, "ENGINE_COMMAND")]
    if not words:
        raise CommandError("ENGINE_COMMAND is empty.")
    return Launch((*words, *spec.engine_args))


BUILDERS: dict[EngineName, Callable[[EngineSpec, Place, str, Installed], Launch]] = {
    "llama-cpp-python": llama_cpp_python,
    "llama-server": llama_server,
    "vllm": vllm,
    "command": command,
}


# --- Placeholders ----------------------------------------------------------------------------------------------------

PLACEHOLDER = re.compile(r"\{([a-z_]+)\}")
PLACEHOLDERS = ("port", "host", "socket", "model", "api_key_file")


def split(text: str, setting: str) -> list[str]:
    """As a shell splits, without running one."""
    try:
        return shlex.split(text)
    except ValueError as error:
        raise CommandError(f"{setting} cannot be split into words: {error}.") from None


def used(spec: EngineSpec) -> frozenset[str]:
    """The placeholders in ENGINE_COMMAND and ENGINE_ENV (Ollama takes its address only from there)."""
    texts = [spec.engine_command, *spec.engine_env.values()]
    return frozenset(name for text in texts for name in PLACEHOLDER.findall(text))


def door(spec: EngineSpec, engine: EngineName | None) -> Door:
    """Where the engine will listen, known before the model is. Raises CommandError when ENGINE_COMMAND does not say."""
    if engine != "command" and not (engine is None and spec.engine_command):
        return "socket"
    names = used(spec)
    unknown = sorted(set(PLACEHOLDER.findall(spec.engine_command)) - set(PLACEHOLDERS))
    if unknown:
        known = " ".join(f"{{{name}}}" for name in PLACEHOLDERS)
        raise CommandError(f"ENGINE_COMMAND has an unknown placeholder {{{unknown[0]}}}; there are {known}.")
    if ("port" in names) == ("socket" in names):
        raise CommandError("ENGINE_COMMAND must say where the engine listens, with {port} or with {socket}.")
    return "socket" if "socket" in names else "port"


def filler(place: Place, model: str | None) -> Callable[[str, str], str]:
    """Fills the placeholders of one word; `setting` is the one to blame for an unknown one ("": unknown ones stay)."""
    values = {
        "port": str(place.port),
        "host": "127.0.0.1",
        "socket": place.socket,
        "model": model,
        "api_key_file": place.key_file,
    }

    def fill(word: str, setting: str) -> str:
        def value(match: re.Match[str]) -> str:
            name = match[1]
            if name not in values:
                if setting:
                    raise CommandError(f"{setting} has an unknown placeholder {{{name}}}.")
                return match[0]
            found = values[name]
            if found is None:
                raise CommandError(f"{setting or 'ENGINE_ENV'} uses {{model}}, and MODEL is not set.")
            return found

        return PLACEHOLDER.sub(value, word)

    return fill
