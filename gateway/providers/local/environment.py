"""What an engine's environment holds: names from an allow-list, ENGINE_ENV, and the cookie that it is found by. Pure.

An engine is a stranger. llama_cpp.server reads HOST, PORT and API_KEY from its environment after its own arguments
(with the gateway's PORT it takes the gateway's port), llama-server reads LLAMA_ARG_*, vLLM reads VLLM_API_KEY; and
whatever an engine runs (a chat template, a plug-in, a tool) could read a vendor's key that can rent machines. So
nothing is inherited that does not stand in the table. Who needs more writes it into ENGINE_ENV: those are the
operator's own words to the engine, and pass as they are.
"""

from collections.abc import Mapping

ALLOWED: dict[str, str] = {
    "PATH": "to find its own helpers (nvcc, ninja, gcc for just-in-time kernels)",
    "HOME": "caches and settings that people keep there",
    "USER": "torch asks getpass for the name of its cache folder, and fails without one where the uid has no name",
    "LOGNAME": "as USER",
    "LANG": "without UTF-8 some engines cannot print what they say",
    "LANGUAGE": "as LANG",
    "LC_*": "as LANG",
    "TZ": "the times in its log are those in ours",
    "TMPDIR": "a small /tmp is why somebody set it",
    "LD_LIBRARY_PATH": "where images keep CUDA, and where torch looks for it",
    "VIRTUAL_ENV": "an engine from an activated virtual environment",
    "CONDA_PREFIX": "as VIRTUAL_ENV",
    "XDG_CACHE_HOME": "compiled kernels are kept there, minutes of a start",
    "XDG_RUNTIME_DIR": "rootless podman as ENGINE_COMMAND",
    "DOCKER_HOST": "docker as ENGINE_COMMAND",
    "PYTHONPATH": "images that keep an engine outside site-packages; it holds no secret",
    "PYTHONHOME": "as PYTHONPATH",
    "PYTHONUTF8": "as LANG",
    "PYTHONIOENCODING": "as LANG",
    "PYTHONDONTWRITEBYTECODE": "images with a read-only root",
    "PYTHONPYCACHEPREFIX": "as PYTHONDONTWRITEBYTECODE",
    "PYTHONHASHSEED": "vLLM's prefix caches are shared between processes only with one seed",
    "PYTHONFAULTHANDLER": "a stack in the log when it crashes",
    "CUDA_*": "which GPUs, where the toolkit is, the kernel cache",
    "NVIDIA_*": "the container runtime's view of the GPUs",
    "NCCL_*": "several GPUs",
    "CUBLAS_*": "determinism and workspace",
    "CUDNN_*": "as CUBLAS",
    "GPU_DEVICE_ORDINAL": "which GPUs, AMD",
    "ROCR_*": "which GPUs, AMD",
    "ROCM_*": "as CUDA",
    "HIP_*": "as CUDA",
    "HSA_*": "people with unlisted AMD cards live by HSA_OVERRIDE_GFX_VERSION",
    "ONEAPI_*": "which GPUs, Intel",
    "SYCL_*": "as ONEAPI",
    "ZE_*": "as ONEAPI",
    "VK_*": "Vulkan builds of llama.cpp: which driver",
    "GGML_*": "llama.cpp's own knobs; unlike LLAMA_ARG_* they name no address, port or key",
    "OMP_*": "threads; a wrong number halves the speed",
    "GOMP_*": "as OMP",
    "KMP_*": "as OMP",
    "MKL_*": "as OMP",
    "OPENBLAS_*": "as OMP",
    "MALLOC_*": "memory that large models fragment",
    "TORCH_*": "torch's knobs and caches",
    "TORCHINDUCTOR_*": "as TORCH",
    "PYTORCH_*": "as TORCH (PYTORCH_CUDA_ALLOC_CONF)",
    "TRITON_*": "its kernel cache, minutes of a start",
    "FLASHINFER_*": "as TRITON",
    "TOKENIZERS_PARALLELISM": "silences a warning per request",
    "VLLM_*": "vLLM's knobs, but not those below",
    "HF_HOME": "the model may lie there, and so may its chat template's code",
    "HF_HUB_CACHE": "as HF_HOME",
    "HF_HUB_OFFLINE": "whoever wants no download wants none from the engine either",
    "TRANSFORMERS_OFFLINE": "as HF_HUB_OFFLINE",
    "HF_ENDPOINT": "a mirror; the address of one is no secret",
    "HF_HUB_DISABLE_TELEMETRY": "a wish that must reach the engine",
    "DO_NOT_TRACK": "as HF_HUB_DISABLE_TELEMETRY",
    "SSL_CERT_FILE": "a company's own authority",
    "SSL_CERT_DIR": "as SSL_CERT_FILE",
    "REQUESTS_CA_BUNDLE": "as SSL_CERT_FILE",
}
"""Name, or prefix with a star, and why an engine gets it. Not here, among others: the proxies (HTTPS_PROXY often holds
a password, and a local engine has nothing to fetch), LD_PRELOAD (meant for the gateway: a fake clock, a profiler),
PYTHONWARNINGS and PYTHONSTARTUP, LLAMA_ARG_*, HF_TOKEN (the gateway downloads; an engine that must, gets it by
ENGINE_ENV)."""

REFUSED: dict[str, str] = {
    "VLLM_API_URL": "an alias of our UPSTREAM_URL",
    "VLLM_HOST": "Kubernetes sets it for a service called vllm",
    "VLLM_PORT": "as VLLM_HOST: `tcp://…`, at which vLLM's start fails",
    "VLLM_SERVICE_HOST": "as VLLM_HOST",
    "VLLM_SERVICE_PORT": "as VLLM_HOST",
}
"""Names that a prefix above would let through."""

SECRET_WORDS = frozenset(
    {"KEY", "KEYS", "APIKEY", "TOKEN", "SECRET", "PASSWORD", "PASSWD", "CREDENTIAL", "CREDENTIALS"}
)
"""A name with one of these between its underscores is never inherited, whatever its prefix: VLLM_API_KEY."""

OURS: dict[str, str] = {
    "PYTHONUNBUFFERED": "1",
    # setproctitle writes over the environment that /proc shows, and vLLM's workers call it: the cookie would be gone.
    "SPT_NOENV": "1",
}


def inherits(name: str) -> bool:
    """Whether an engine may see this variable of the gateway's environment."""
    if name in REFUSED or SECRET_WORDS & set(name.split("_")):
        return False
    if name in ALLOWED:
        return True
    stem, underscore, _ = name.partition("_")
    return bool(underscore) and f"{stem}_*" in ALLOWED


def engine_environment(
    inherited: Mapping[str, str],
    *,
    cookie_name: str,
    cookie: str,
    wanted: Mapping[str, str],
    needed: Mapping[str, str],
) -> dict[str, str]:
    """The whole environment of an engine. `wanted` is ENGINE_ENV, `needed` what its command line stands on."""
    env = {name: value for name, value in inherited.items() if inherits(name)}
    env.update(OURS)
    env.update(wanted)
    for name, value in needed.items():
        # Of places to look at, ours is the first, and what was there stays behind it.
        env[name] = f"{value}:{env[name]}" if name == "PYTHONPATH" and env.get(name) else value
    env[cookie_name] = cookie
    return env
