"""Why engines did not start: recordings of real failures, lines as the sources print them, and hostile ones."""

import time
from pathlib import Path

import pytest

from gateway.config import SETTINGS
from gateway.providers.local.commands import Asked
from gateway.providers.local.ends.reasons import CAUSES, LINE_MAX, SIGNS, WHILE_SERVING, Complaints, Reason, Worth

LOGS = Path(__file__).parents[1] / "logs"

RECORDED = {
    "llama-cpp-python-child-cut-file": "corrupt",
    "llama-cpp-python-child-no-such-file": "files_missing",
    "llama-cpp-python-child-not-a-gguf": "not_a_model",
    "llama-cpp-python-child-out-of-memory": "context",
    "llama-cpp-python-server-cut-file": "corrupt",
    "llama-cpp-python-server-no-such-file": "files_missing",
    "llama-cpp-python-server-not-a-gguf": "not_a_model",
    "llama-cpp-python-server-out-of-memory": "context",
    "llama-cpp-python-server-port-taken": "address",
    "llama-cpp-python-server-unknown-argument": "arguments",
    "llama-server-address-taken": "address",
    "llama-server-bad-template": "chat_template",
    "llama-server-bad-value": "argument_value",
    "llama-server-cut-file": "corrupt",
    "llama-server-cut-file-458mb": "corrupt",
    "llama-server-narrow-heads": "combination",
    "llama-server-no-such-file": "files_missing",
    "llama-server-not-a-gguf": "not_a_model",
    "llama-server-out-of-memory": "context",
    "llama-server-out-of-memory-weights-458mb": "context",
    "llama-server-port-taken": "address",
    "llama-server-unknown-argument": "arguments",
    "llama-server-wrong-architecture": "architecture",
    "vllm-bad-value": "argument_value",
    "vllm-broken-config": "corrupt",
    "vllm-cut-weights": "corrupt",
    "vllm-empty-folder": "not_a_model",
    "vllm-kv-cannot-fit": "context",
    "vllm-longer-than-model": "context_beyond_model",
    "vllm-no-room-for-cache": "cache_size",
    "vllm-no-sleep-mode": "combination",
    "vllm-no-such-folder": "files_missing",
    "vllm-no-tokenizer": "tokenizer",
    "vllm-no-weights": "not_a_model",
    "vllm-port-taken": "address",
    "vllm-unknown-model-type": "architecture",
    "vllm-unknown-argument": "arguments",
    "vllm-unsupported-architecture": "architecture",
    "vllm-wrong-shape": "corrupt",
}
"""Real ones, by file; what the file's first line says of it."""

KV_NEEDED = (
    "(EngineCore_DP0 pid=257) ERROR 11-21 20:00:01 [core.py:708] ValueError: To serve at least one request with the "
    "model's max seq len (131072), (16.00 GiB KV cache is needed, which is larger than the available KV cache memory "
    "(5.08 GiB). Based on the available memory, the estimated maximum model length is 41600. Try increasing "
    "`gpu_memory_utilization` (which also controls CPU memory on the CPU backend) or decreasing `max_model_len` when "
    "initializing the engine."
)
TORCH_FULL = (
    "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 448.00 MiB. GPU 0 has a total capacity of 22.05 GiB "
    "of which 300.12 MiB is free. Including non-PyTorch memory, this process has 21.74 GiB memory in use. Of the "
    "allocated memory 21.40 GiB is allocated by PyTorch, and 30.03 MiB is reserved by PyTorch but unallocated."
)
TORCH_TAKEN = (
    "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 448.00 MiB. GPU 0 has a total capacity of 22.05 GiB "
    "of which 300.12 MiB is free. Process 4021 has 15.01 GiB memory in use. Including non-PyTorch memory, this process "
    "has 6.73 GiB memory in use."
)
CONSTRUCTED = [
    (KV_NEEDED, "context"),
    (
        "ValueError: The model's max seq len (131072) is larger than the maximum number of tokens that can be stored "
        "in KV cache (41600). Try increasing `gpu_memory_utilization` or decreasing `max_model_len`.",
        "context",
    ),
    ("ValueError: No available memory for the cache blocks. Try increasing `gpu_memory_utilization`", "no_cache"),
    (
        "ValueError: Free memory on device cuda:0 (2.10/23.64 GiB) on startup is less than desired GPU memory "
        "utilization (0.9, 21.28 GiB). Decrease GPU memory utilization or reduce GPU memory used by other processes.",
        "gpu_busy",
    ),
    (TORCH_FULL, "gpu_memory_vllm"),
    (TORCH_TAKEN, "gpu_busy"),
    ("RuntimeError: CUDA error: out of memory", "gpu_memory"),
    (
        "(EngineCore_DP0 pid=9) ERROR 11-21 20:00:01 [gpu_model_runner.py:5086] Failed to load model - not enough GPU "
        f"memory. Try lowering --gpu-memory-utilization (original error: {TORCH_FULL})",
        "gpu_memory_vllm",
    ),
    (
        "RuntimeError: CUDA out of memory occurred when warming up sampler with 1024 dummy requests. Please try "
        "lowering `max_num_seqs` or `gpu_memory_utilization` when initializing the engine.",
        "gpu_memory_left",
    ),
    (
        "0.01.204.113 E ggml_backend_cuda_buffer_type_alloc_buffer: allocating 7605.33 MiB on device 0: cudaMalloc "
        "failed: out of memory",
        "gpu_memory",
    ),
    ("0.01.204.120 E llama_model_load: error loading model: unable to allocate CUDA0 buffer", "gpu_memory"),
    ("llama_model_load: error loading model: unable to allocate CPU buffer", "memory"),
    ("alloc_tensor_range: failed to allocate CUDA_Host buffer of size 1073741824", "memory"),
    ("terminate called after throwing an instance of 'std::bad_alloc'", "memory"),
    ("OSError: [Errno 12] Cannot allocate memory", "memory"),
    (
        "RuntimeError: The NVIDIA driver on your system is too old (found version 11040). Please update your GPU",
        "driver_old",
    ),
    (
        "0.00.300.001 E ggml_cuda_init: failed to initialize CUDA: CUDA driver version is insufficient for CUDA "
        "runtime version",
        "driver_old",
    ),
    ("Failed to initialize NVML: Driver/library version mismatch", "driver_mismatch"),
    ("RuntimeError: Found no NVIDIA driver on your system. Please check that you have an NVIDIA GPU", "driver_missing"),
    (
        "llama-server: error while loading shared libraries: libcuda.so.1: cannot open shared object file: No such "
        "file or directory",
        "driver_missing",
    ),
    ("0.00.300.001 E ggml_cuda_init: failed to initialize CUDA: no CUDA-capable device is detected", "no_gpu"),
    ("RuntimeError: No CUDA GPUs are available", "no_gpu"),
    ("RuntimeError: Failed to infer device type, please set the environment variable", "no_gpu"),
    ("RuntimeError: CUDA error: no kernel image is available for execution on the device", "gpu_unsupported"),
    ("torch.AcceleratorError: CUDA error: uncorrectable ECC error encountered", "gpu_trouble"),
    (
        "ValueError: World size (2) is larger than the number of available GPUs (1) in this node. If this is",
        "gpus_too_few",
    ),
    (
        "ValueError: Total number of attention heads (14) must be divisible by tensor parallel size (4).",
        "gpus_uneven",
    ),
    (
        "ValueError: Bfloat16 is only supported on GPUs with compute capability of at least 8.0. Your Tesla T4 GPU has "
        "compute capability 7.5.",
        "bfloat16",
    ),
    (
        "ValueError: The quantization method mxfp4 is not supported for the current GPU. Minimum capability: 80. "
        "Current capability: 75.",
        "mxfp4",
    ),
    (
        "ValueError: The quantization method fp8 is not supported for the current GPU. Minimum capability: 89. Current "
        "capability: 75.",
        "quantization",
    ),
    ("ValueError: Unknown quantization method: nf9. Must be one of ['awq', 'fp8'].", "quantization"),
    ("ValueError: Model architectures ['NobodyForCausalLM'] are not supported for now.", "architecture"),
    (
        "ValueError: The checkpoint you are trying to load has model type `nobody` but Transformers does not recognize "
        "this architecture.",
        "architecture",
    ),
    (
        "RuntimeError: Failed to load the model config. If the model is a custom model not yet available in the "
        "HuggingFace transformers library, consider setting `trust_remote_code=True` in LLM or using the "
        "`--trust-remote-code` flag in the CLI.",
        "remote_code",
    ),
    (
        "ValueError: User-specified max_model_len (65536) is greater than the derived max_model_len "
        "(max_position_embeddings=32768 or model_max_length=None in model's config.json). To allow overriding this "
        "maximum, set the env var VLLM_ALLOW_LONG_MAX_MODEL_LEN=1.",
        "context_beyond_model",
    ),
    ("vllm: error: unrecognized arguments: --max-model-length 4096", "arguments"),
    ("vllm serve: error: argument --max-num-seqs: invalid int value: 'many'", "argument_value"),
    ("llama_model_load: error loading model: unknown pre-tokenizer type: 'nobody'", "tokenizer"),
    (
        "0.00.005.167 E gguf_init_from_file: failed to open GGUF file '/models/x.gguf' (Permission denied)",
        "unreadable",
    ),
    ("OSError: You are trying to access a gated repo.", "gated"),
    (
        "huggingface_hub.errors.HfHubHTTPError: 403 Client Error: Forbidden for url: https://huggingface.co/a/b",
        "gated",
    ),
    ("OSError: We couldn't connect to 'https://huggingface.co' to load the files", "hub"),
    ("OSError: [Errno 28] No space left on device", "disk_full"),
    ("NCCL WARN Error while creating shared memory segment /dev/shm/nccl-uGR2Yp (size 9637888)", "shared_memory"),
    ("RuntimeError: unable to write to file </torch_88_1>: No space left on device (28)", "shared_memory"),
    ("RuntimeError: can't start new thread", "processes"),
    ("ERROR: [Errno 98] error while attempting to bind on address: address already in use", "address"),
    ("ModuleNotFoundError: No module named 'vllm'", "module"),
    ("/usr/bin/python3: No module named vllm", "module"),
    ("ImportError: libcudart.so.12: cannot open shared object file: No such file or directory", "library"),
    (
        "The model did not load: llama-cpp-python is installed, and its libraries cannot be loaded. (Failed to load "
        "shared library 'libggml-cuda.so': libcuda.so.1: cannot open shared object file: No such file or directory)",
        "driver_missing",
    ),
    ("llama-server: /lib/libc.so.6: version `GLIBC_2.38' not found (required by llama-server)", "library"),
    ("RuntimeError: Failed to find C compiler. Please specify via CC environment variable", "compiler"),
    ("/tmp/x/main.c:5:10: fatal error: Python.h: No such file or directory", "compiler"),
    (
        "safetensors_rust.SafetensorError: Error while deserializing header: MetadataIncompleteBuffer",
        "corrupt",
    ),
    (
        "RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {'Core': -9}",
        "killed",
    ),
]
"""As the engines' sources print them (GPUs and gated models are not at hand here), not recorded."""


def told(*lines: str, asked: Asked | None = None, room: int | None = None) -> Reason | None:
    complaints = Complaints(asked)
    for line in lines:
        complaints.hear(line)
    return complaints.reason(room)


def recorded(name: str) -> list[str]:
    return (LOGS / f"{name}.txt").read_text("utf-8", "replace").splitlines()[1:]


@pytest.mark.parametrize("name, cause", RECORDED.items(), ids=list(RECORDED))
def test_a_real_failure_is_recognised(name: str, cause: str) -> None:
    reason = told(*recorded(name))
    assert reason is not None and (reason.cause, reason.worth >= Worth.GENERAL) == (cause, True)


def test_every_recorded_failure_has_its_reason_here() -> None:
    says = {path.stem: path.open(encoding="utf-8", errors="replace").readline() for path in LOGS.glob("*.txt")}
    assert {name for name, first in says.items() if " fails: " in first} == set(RECORDED) - {
        "llama-server-bad-template"
    }


@pytest.mark.parametrize("path", sorted(LOGS.glob("*-good*.txt")), ids=lambda path: path.stem)
def test_a_good_start_complains_of_nothing(path: Path) -> None:
    """Whatever ends such an engine later, its warnings are no reason. (vLLM may call its core dead when it is told to
    end.)"""
    reason = told(*recorded(path.stem))
    assert reason is None or reason.cause == "core_died"


@pytest.mark.parametrize("line, cause", CONSTRUCTED, ids=[f"{c}-{n}" for n, (_, c) in enumerate(CONSTRUCTED)])
def test_a_line_as_the_sources_print_it_is_recognised(line: str, cause: str) -> None:
    reason = told("INFO 11-21 20:00:00 [x.py:1] all is well", line, "RuntimeError: it failed")
    assert reason is not None and reason.cause == cause


def test_the_largest_context_that_would_fit_is_told() -> None:
    reason = told(KV_NEEDED)
    assert reason is not None and reason.sentence == (
        "There is not enough memory for a context of 131072 tokens: set MAX_MODEL_LEN=41600 or less, or "
        "GPU_MEMORY_UTILIZATION higher."
    )


def test_the_largest_context_is_told_from_a_real_start_too() -> None:
    reason = told(*recorded("vllm-kv-cannot-fit"))
    assert reason is not None and "2000000 tokens: set MAX_MODEL_LEN=1048448 or less" in reason.sentence


def test_vllm_whose_core_is_killed_while_it_serves_ends_with_0_and_its_reason_is_known() -> None:
    reason = told(*recorded("vllm-killed-core")[-40:])
    assert reason is not None and reason.cause == "core_died" and reason.cause in WHILE_SERVING


CACHE_REFUSED = (
    "E alloc_tensor_range: failed to allocate CUDA0 buffer of size 12884901888",
    "E llama_init_from_model: failed to initialize the context: failed to allocate buffer for kv cache",
)


def test_where_the_engine_knows_no_largest_context_what_was_asked_and_what_it_takes_are_told() -> None:
    reason = told(*CACHE_REFUSED, asked=Asked(98304, "CTX_SIZE"))
    assert reason is not None and reason.sentence == (
        "There is not enough memory for a context of 98304 tokens, which takes 12.0 GiB: "
        "set MAX_MODEL_LEN or MAX_NUM_SEQS lower (for llama.cpp also CTX_SIZE)."
    )


@pytest.mark.parametrize(
    "asked, setting",
    [(Asked(98304, "CTX_SIZE"), "CTX_SIZE=44032"), (Asked(98304, "MAX_MODEL_LEN", 4), "MAX_MODEL_LEN=11008")],
)
def test_where_the_engine_knows_no_largest_context_it_is_reckoned_from_the_room_there_is(
    asked: Asked, setting: str
) -> None:
    """Half of it is free, and a tenth of that is left for what comes beside the cache."""
    reason = told(*CACHE_REFUSED, asked=asked, room=6 << 30)
    assert reason is not None and reason.sentence == (
        f"There is not enough memory for a context of 98304 tokens, which takes 12.0 GiB: set {setting} or less, by "
        "what is free now."
    )


@pytest.mark.parametrize("room", [None, 0, 1 << 20, 16 << 30])
def test_a_number_that_helps_nobody_is_not_told(room: int | None) -> None:
    """Nothing is free; too little for any context; more than it asked for, so that somebody has left meanwhile."""
    reason = told(*CACHE_REFUSED, asked=Asked(98304, "CTX_SIZE"), room=room)
    assert reason is not None and "=" not in reason.sentence


@pytest.mark.parametrize(
    "line, asked, memory",
    [
        (CACHE_REFUSED[0], Asked(98304, "CTX_SIZE"), "gpu"),
        ("alloc_tensor_range: failed to allocate CPU buffer of size 7", Asked(98304, "CTX_SIZE"), "main"),
        ("alloc_tensor_range: failed to allocate CUDA_Host buffer of size 7", Asked(98304, "CTX_SIZE"), "main"),
        (CACHE_REFUSED[0], None, None),
        ("nothing of a size", Asked(98304, "CTX_SIZE"), None),
    ],
)
def test_it_says_of_which_memory_to_ask_how_much_there_is(line: str, asked: Asked | None, memory: str | None) -> None:
    complaints = Complaints(asked)
    for each in (line, CACHE_REFUSED[1]):
        complaints.hear(each)
    assert complaints.short_of == memory


def test_of_other_buffers_nobody_knows_how_they_grow() -> None:
    complaints = Complaints(Asked(98304, "CTX_SIZE"))
    for line in (CACHE_REFUSED[0], "failed to initialize the context: failed to allocate compute pp buffers"):
        complaints.hear(line)
    assert complaints.short_of is None


def test_the_cause_is_told_and_not_what_came_of_it() -> None:
    """vLLM's way: the cause in one process, its traceback, then another process that only points at it."""
    reason = told(
        TORCH_FULL,
        "Process EngineCore_DP0:",
        "Traceback (most recent call last):",
        TORCH_FULL,
        "(APIServer pid=1) RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): "
        "{'EngineCore_DP0': 1}",
    )
    assert reason is not None and (reason.cause, reason.line) == ("gpu_memory_vllm", TORCH_FULL)


def test_what_is_certain_goes_before_what_is_general_and_that_before_a_warning() -> None:
    warning = "UserWarning: CUDA initialization: The NVIDIA driver on your system is too old (found version 11040)"
    general = "OSError: [Errno 12] Cannot allocate memory"
    certain = "OSError: [Errno 28] No space left on device"
    found = [told(warning), told(warning, general), told(warning, general, certain, general)]
    assert [reason and reason.cause for reason in found] == ["driver_old", "memory", "disk_full"]


def test_a_warning_explains_what_says_nothing_itself() -> None:
    vague = "RuntimeError: Failed to infer device type, please set the environment variable"
    warned = told(vague, "UserWarning: CUDA initialization: The NVIDIA driver on your system is too old")
    assert warned is not None and warned.cause == "driver_old"


def test_what_an_engine_only_mentions_is_no_complaint() -> None:
    assert told("(APIServer pid=1) INFO 11-21 20:00:00 [api_server.py:9] args: address already in use") is None
    assert told("0.00.003.437 I cmn  common_param: out of memory? no space left on device") is None


def test_a_line_is_cut_and_a_number_that_is_none_is_not_told() -> None:
    assert told("x" * LINE_MAX + "No space left on device") is None
    silly = told("the model's max seq len (999999999999), To serve at least one request with the model")
    assert silly is not None and "999999999999" not in silly.sentence


def test_hostile_lines_cost_next_to_nothing_and_nothing_is_kept_of_them() -> None:
    """CPU time, not the clock: hundredths of a second where one expression that goes back would take minutes."""
    complaints = Complaints()
    hostile = ["(" * 500, "total capacity of " + "9" * 480, "a" * 100_000, "failed to allocate " * 26, "0." * 250, "\0"]
    begun = time.process_time()
    for _ in range(200):
        for line in hostile:
            complaints.hear(line)
    assert time.process_time() - begun < 2
    assert complaints.reason() is None


def test_a_sentence_is_closed_and_names_what_to_set() -> None:
    """No path and no word of the engine; every setting in it exists."""
    foreign = {
        "ENGINE_ARGS=--",
        "CUDA_VISIBLE_DEVICES",
        "VLLM_ALLOW_LONG_MAX_MODEL_LEN",
        "VLLM_CPU_KVCACHE_SPACE",
        "GPU",
        "NVIDIA",
        "CUDA",
    }
    known = {name.upper() for name in SETTINGS} | foreign | {"MXFP4", "GGUF", "CPU"}
    for cause in CAUSES.values():
        words = {word.strip("(),:.").partition("=")[0] for word in cause.sentence.split()}
        shouted = {word for word in words if word.isupper() and len(word) > 2}
        assert shouted <= known, cause.sentence
        assert "\n" not in cause.sentence and len(cause.sentence) < 250


def test_the_table_holds_together() -> None:
    assert {sign.cause for sign in SIGNS} == set(CAUSES)
    assert set(CAUSES) >= WHILE_SERVING
    assert all(word == word.lower() for sign in SIGNS for word in sign.words)
    shown = {cause for _, cause in CONSTRUCTED} | set(RECORDED.values()) | {"core_died"}
    assert set(CAUSES) - shown == set(), "each cause is shown by a line or a recording"
