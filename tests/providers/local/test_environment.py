"""What an engine may inherit."""

import pytest

from gateway.providers.local.environment import ALLOWED, OURS, engine_environment, inherits


@pytest.mark.parametrize(
    "name",
    [
        "PORT", "HOST", "API_KEY", "PORT_HEALTH", "MODEL", "DATA_DIR", "CONFIG_FILE", "WAKEGATE_CONFIG", "ADMIN_KEY",
        "RUNPOD_API_KEY", "RUNPOD_POD_ID", "RUNPOD_AI_API_KEY", "VAST_API_KEY", "MODAL_TOKEN_SECRET", "HF_TOKEN",
        "HUGGING_FACE_HUB_TOKEN", "UPSTREAM_API_KEY", "VLLM_API_KEY", "VLLM_API_URL", "VLLM_PORT", "NVIDIA_API_KEY",
        "LLAMA_ARG_HOST", "LLAMA_API_KEY", "AWS_SECRET_ACCESS_KEY", "HTTPS_PROXY", "http_proxy", "LD_PRELOAD",
        "PYTHONWARNINGS", "PYTHONSTARTUP", "OPENAI_API_KEY", "SSH_PASSWORD", "PUBLIC_KEY", "TORCH", "CUDA", "",
    ],
)  # fmt: skip
def test_our_settings_and_secrets_are_not_inherited(name: str) -> None:
    assert not inherits(name)


@pytest.mark.parametrize(
    "name",
    [
        "PATH", "HOME", "LANG", "LC_ALL", "TZ", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES",
        "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "HSA_OVERRIDE_GFX_VERSION", "GGML_CUDA_ENABLE_UNIFIED_MEMORY",
        "OMP_NUM_THREADS", "VLLM_ATTENTION_BACKEND", "VLLM_USE_V1", "HF_HOME", "HF_HUB_OFFLINE", "XDG_CACHE_HOME",
        "SSL_CERT_FILE", "TOKENIZERS_PARALLELISM", "PYTORCH_CUDA_ALLOC_CONF", "TRITON_CACHE_DIR",
    ],
)  # fmt: skip
def test_what_an_engine_needs_is_inherited(name: str) -> None:
    assert inherits(name)


def test_every_allowed_name_has_its_reason() -> None:
    assert all(len(reason) > 4 for reason in ALLOWED.values())


def test_engine_env_is_the_operators_own_word_and_passes_as_it_is() -> None:
    """Some engine may really need PORT or a token: then it is written into ENGINE_ENV, on purpose."""
    env = build({"PORT": "8000"}, wanted={"PORT": "9000", "HF_TOKEN": "hf_x", "PATH": "/only"})
    assert (env["PORT"], env["HF_TOKEN"], env["PATH"]) == ("9000", "hf_x", "/only")


def test_nobody_can_take_the_cookie_away() -> None:
    env = build({"WAKEGATE_ENGINE": "old"}, wanted={"WAKEGATE_ENGINE": "none"})
    assert env["WAKEGATE_ENGINE"] == "boot.default.1"


def test_titles_are_set_without_overwriting_the_cookie() -> None:
    """setproctitle, which vLLM's workers use, otherwise writes over what /proc/PID/environ shows."""
    assert build({})["SPT_NOENV"] == OURS["SPT_NOENV"] == "1"


def test_our_package_comes_before_what_stood_in_pythonpath() -> None:
    assert build({"PYTHONPATH": "/theirs"}, needed={"PYTHONPATH": "/ours"})["PYTHONPATH"] == "/ours:/theirs"
    assert build({}, needed={"PYTHONPATH": "/ours"})["PYTHONPATH"] == "/ours"
    assert build({"VLLM_X": "0"}, needed={"VLLM_X": "1"})["VLLM_X"] == "1"  # no list of places


def build(
    inherited: dict[str, str], wanted: dict[str, str] | None = None, needed: dict[str, str] | None = None
) -> dict[str, str]:
    return engine_environment(
        inherited, cookie_name="WAKEGATE_ENGINE", cookie="boot.default.1", wanted=wanted or {}, needed=needed or {}
    )
