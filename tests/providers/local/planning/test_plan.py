"""What an engine is told about the machine: tables of models, GPUs and settings. No GPU is needed for them.

The GPUs are those of tests/support/nvml.py (constructed), the models those of tests/support/known_models.py (public).
"""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.gpus import Gpu
from gateway.providers.local.commands import EngineSpec
from gateway.providers.local.models.facts import ModelFacts
from gateway.providers.local.models.shape import Shape
from gateway.providers.local.planning.plan import (
    GIB,
    Choice,
    Machine,
    Plan,
    asks_gpus,
    described,
    layers_that_fit,
    plan,
    rounded,
    said,
)
from tests.support.known_models import CONFIGS, known
from tests.support.nvml import CARDS, gpus

NEW, OLD = (0, 33, 0), (0, 11, 2)
NOTHING = EngineSpec()


def on(*cards, spec=NOTHING, vllm=NEW, **machine):
    """A function that plans vLLM's start on these cards."""

    def planned(name):
        return plan(spec, "vllm", known(name), Machine(gpus=gpus(*cards), vllm=vllm, **machine))

    return planned


def told(made: Plan, what: str) -> Choice:
    """The one choice about this."""
    (choice,) = [choice for choice in made.choices if choice.what == what]
    return choice


# --- vLLM: will it fit -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "cards", "changes"),
    [
        # In full: nothing is passed.
        ("gpt-oss-20b", ["A100-40"], {}),
        ("gpt-oss-20b", ["L4"], {}),
        ("gpt-oss-20b", ["RTX 4090"], {}),
        ("gpt-oss-20b", ["A5000"], {}),
        ("gpt-oss-20b", ["A10G"], {}),
        ("gpt-oss-120b", ["A100-80"], {}),
        ("gpt-oss-120b", ["H100"], {}),
        ("gpt-oss-120b", ["H200"], {}),
        ("gpt-oss-120b", ["B200"], {}),
        ("Llama-3.1-8B", ["A100-80"], {}),
        ("Llama-3.1-8B", ["H100"], {}),
        ("Qwen2.5-0.5B", ["L4"], {}),
        ("Qwen2.5-7B", ["L40S"], {}),
        ("deepseek-ai/DeepSeek-V2-Lite-Chat", ["A100-80"], {}),
        # The weights fit, and not all of the context.
        ("Llama-3.1-8B", ["L4"], {"longest": True}),
        ("Llama-3.1-8B", ["A10G"], {"longest": True}),
        ("Llama-3.1-70B", ["B200"], {"longest": True}),
        ("gpt-oss-20b", ["MIG"], {}),
        ("Llama-3.1-8B", ["MIG"], {"longest": True}),
        # Several GPUs, where one does not suffice; where it does, one.
        ("Llama-3.1-70B", ["A100-80"] * 2, {"tensor_parallel": 2, "longest": True}),
        ("Llama-3.1-70B", ["H100"] * 8, {"tensor_parallel": 4}),
        ("Qwen2.5-72B", ["A100-80"] * 3, {"tensor_parallel": 2, "longest": True}),
        ("mistralai/Mixtral-8x7B-Instruct-v0.1", ["L40S"] * 4, {"tensor_parallel": 4}),
        ("gpt-oss-120b", ["L4"] * 4, {"tensor_parallel": 4}),
        ("DeepSeek-V3", ["H200"] * 8, {"tensor_parallel": 8}),
        ("Llama-3.1-8B", ["A100-80"] * 2, {}),
        ("Qwen2.5-0.5B", ["L4"] * 2, {}),
        # A GPU that cannot do bfloat16.
        ("Qwen2.5-0.5B", ["T4"], {"dtype": "half"}),
        # What is not known is left to vLLM, which finds out by itself.
        ("gemma-3-27b-it", ["H100"], {"longest": True}),
        ("gemma-3-4b-it", ["L4"], {"longest": True}),
        ("Qwen3-Next-80B-A3B", ["H100"] * 4, {"tensor_parallel": 4, "longest": True}),
    ],
)
def test_what_is_passed_to_vllm(name, cards, changes):
    made = on(*cards)(name)
    assert (made.refusal, dict(made.changes)) == ("", changes), made


@pytest.mark.parametrize(
    ("name", "cards", "word"),
    [
        ("gpt-oss-20b", ["T4"], "MXFP4"),
        ("gpt-oss-120b", ["T4"] * 8, "MXFP4"),
        ("gpt-oss-120b", ["A100-40"], "60.8 GiB of weights, and there are 40.0 GiB"),
        ("Llama-3.1-70B", ["H100"], "131.4 GiB of weights, and there are 79.6 GiB"),
        ("Llama-3.1-70B", ["L4"] * 4, "4 x NVIDIA L4 with 22.5 GiB each"),
        ("DeepSeek-V3", ["H100"] * 8, "641.3 GiB of weights"),
        ("Llama-3.1-70B", ["MIG"], "and there are 19.5 GiB of GPU memory"),  # one slice, however many are seen
    ],
)
def test_what_cannot_work_is_refused_in_a_sentence_that_says_what_would(name, cards, word):
    made = on(*cards)(name)
    assert word in made.refusal and "MODEL" in made.refusal and made.refusal.endswith("."), made


@pytest.mark.parametrize("argument", ["--quantization=fp8", "-q fp8", "--cpu-offload-gb 80", "--load-format dummy"])
def test_nothing_is_refused_where_somebody_arranged_for_less(argument):
    spec = EngineSpec(engine_args=tuple(argument.split()))
    assert on("H100", spec=spec)("Llama-3.1-70B").refusal == ""


def test_mxfp4_that_is_turned_into_something_else_is_not_refused():
    assert on("T4", spec=EngineSpec(engine_args=("--quantization", "bf16")))("gpt-oss-20b").refusal == ""


def test_the_number_format_is_passed_only_where_vllm_would_take_the_same():
    """For models that vLLM does not run in float16 it takes float32; told to take float16 it would end."""
    made = on("T4")("gemma-3-1b-it")
    assert "dtype" not in made.changes and told(made, "number format").value == "left to vLLM"
    made = on("T4", spec=EngineSpec(engine_args=("--dtype", "float32")))("Qwen2.5-0.5B")
    assert "dtype" not in made.changes


def test_heads_that_cannot_be_divided_by_four_are_divided_by_two():
    made = on(*["A10G"] * 4)("Qwen2.5-72B")
    assert made.refusal  # 135 GiB on 90
    shape = replace(known("Qwen2.5-7B").shape, heads=14, kv_heads=2)
    facts = ModelFacts("m", "safetensors", 30 * GIB, shape)
    made = plan(NOTHING, "vllm", facts, Machine(gpus=gpus(*["A10G"] * 4), vllm=NEW))
    assert made.changes["tensor_parallel"] == 2


def test_gpus_that_differ_are_not_made_to_work_together():
    made = plan(NOTHING, "vllm", known("Qwen2.5-7B"), Machine(gpus=gpus("L4", "H100"), vllm=NEW))
    assert "tensor_parallel" not in made.changes and "they differ" in told(made, "GPUs used").why


# --- vLLM: what somebody set -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "spec",
    [
        EngineSpec(max_model_len=4096),
        EngineSpec(max_model_len=131072),
        EngineSpec(max_model_len=131072, gpu_memory_utilization=0.99),
        EngineSpec(max_num_seqs=3),
        EngineSpec(engine_args=("--max-model-len", "9000")),
        EngineSpec(engine_args=("--max_model_len=9000",)),
        EngineSpec(engine_args=("-tp", "1", "--dtype=bfloat16", "--max-num-seqs", "5")),
    ],
)
@pytest.mark.parametrize("card", [card for card in CARDS if card != "shared memory"])
def test_what_somebody_set_is_never_changed(spec, card):
    made = on(card, spec=spec)("Llama-3.1-8B")
    after = made.applied(spec)
    for name in ("max_model_len", "gpu_memory_utilization", "max_num_seqs"):
        if getattr(spec, name) is not None:
            assert getattr(after, name) == getattr(spec, name)
    arguments = said(spec.engine_args)
    assert "--max-model-len" not in arguments or (after.max_model_len, after.longest) == (None, False)
    assert "-tp" not in arguments or after.tensor_parallel is None
    assert "--max-num-seqs" not in arguments or after.max_num_seqs is None


def test_a_length_that_cannot_fit_is_said_with_the_one_that_can():
    (warning,) = on("L4", spec=EngineSpec(max_model_len=131072))("Llama-3.1-8B").warnings
    assert warning == (
        "The cache for MAX_MODEL_LEN=131072 takes 16.0 GiB on each GPU, and 5.5 GiB are left beside the weights; "
        "at most 44,032 tokens fit."
    )
    assert on("L4", spec=EngineSpec(max_model_len=16384))("Llama-3.1-8B").warnings == ()


def test_a_cache_of_eight_bits_holds_twice_as_much():
    spec = EngineSpec(max_model_len=65536, engine_args=("--kv-cache-dtype", "fp8"))
    assert on("L4", spec=spec)("Llama-3.1-8B").warnings == ()


def test_several_gpus_that_somebody_asked_for_are_reckoned_with():
    made = on("L4", "L4", spec=EngineSpec(engine_args=("--tensor-parallel-size", "2")))("Llama-3.1-8B")
    assert "tensor_parallel" not in made.changes and told(made, "context").value == "131,072 tokens"
    made = on("L4", spec=EngineSpec(engine_args=("--tensor-parallel-size", "2")))("Llama-3.1-8B")
    assert made.warnings == ("ENGINE_ARGS asks for 2 GPUs, and 1 can be seen.",) and not made.changes


def test_where_layers_are_divided_by_hand_nothing_is_chosen():
    made = on("L4", "L4", spec=EngineSpec(engine_args=("--pipeline-parallel-size", "2")))("Llama-3.1-70B")
    assert (dict(made.changes), made.refusal) == ({}, "")


@pytest.mark.parametrize("card", ["L4", "T4"])
def test_where_a_file_of_vllms_own_settings_is_named_nothing_is_chosen(card):
    """What stands behind it on the command line would win over what somebody wrote into it."""
    made = on(card, spec=EngineSpec(engine_args=("--config", "vllm.yaml")))("Llama-3.1-70B")
    assert (dict(made.changes), made.refusal) == ({}, "")
    assert "--config" in told(made, "all else").value


# --- vLLM: context, share, requests ----------------------------------------------------------------------------------


def test_an_older_vllm_is_given_a_length_that_surely_fits():
    made = on("L4", vllm=OLD)("Llama-3.1-8B")
    assert made.changes == {"max_model_len": 32768}
    assert on("L4", vllm=None)("Llama-3.1-8B").changes == made.changes
    newer = told(on("L4")("Llama-3.1-8B"), "context")
    assert newer.value == "the longest that fits, about 32,768 tokens" and newer.setting == "MAX_MODEL_LEN"


def test_an_older_vllm_is_left_alone_where_facts_are_unknown():
    assert on("L4", vllm=OLD)("gemma-3-4b-it").changes == {}
    assert on("H100", vllm=OLD)("gemma-3-27b-it").changes == {}


def test_weights_that_leave_no_room_are_said_and_not_refused():
    """What is free beside them is an estimate."""
    made = on("T4", vllm=OLD)("Llama-3.1-8B")
    assert not made.refusal and "not even a short one fits" in made.warnings[0]


@pytest.mark.parametrize(
    ("taken", "share"),
    [(0.5, None), (1.0, None), (4, 0.77), (10, 0.51), (22, None)],
)
def test_the_share_is_lowered_only_where_others_hold_memory(taken, share):
    """vLLM wants its share of the whole to be free, or ends."""
    (card,) = gpus("L4")
    busy = replace(card, free=int(card.memory - taken * GIB))
    made = plan(NOTHING, "vllm", known("Qwen2.5-0.5B"), Machine(gpus=(busy,), vllm=NEW))
    assert made.changes.get("gpu_memory_utilization") == share
    assert share is None or busy.free > share * card.memory + GIB / 2
    assert (taken == 22) == any("Others hold" in warning for warning in made.warnings)


def test_a_share_that_is_not_free_is_said():
    (card,) = gpus("L4")
    busy = replace(card, free=card.memory // 2)
    spec = EngineSpec(gpu_memory_utilization=0.9)
    made = plan(spec, "vllm", known("Qwen2.5-0.5B"), Machine(gpus=(busy,), vllm=NEW))
    assert "gpu_memory_utilization" not in made.changes
    assert "GPU_MEMORY_UTILIZATION=0.9 wants 20.2 GiB of each GPU" in made.warnings[0]


def test_requests_at_once_are_vllms_own_unless_there_is_hardly_room():
    made = on("H100")("Llama-3.1-8B")
    assert told(made, "requests at once").value == "1024" and "vLLM's own choice" in told(made, "requests at once").why
    small = Gpu("small", 19 * GIB, 19 * GIB, (8, 6))
    made = plan(NOTHING, "vllm", known("Llama-3.1-8B"), Machine(gpus=(small,), vllm=NEW))
    assert made.changes == {"longest": True, "max_num_seqs": 16}
    made = plan(EngineSpec(max_num_seqs=64), "vllm", known("Llama-3.1-8B"), Machine(gpus=(small,), vllm=NEW))
    assert "max_num_seqs" not in made.changes


# --- vLLM: attention -------------------------------------------------------------------------------------------------

GUIDE = {
    "A100-40": "TRITON_ATTN",
    "A100-80": "TRITON_ATTN",
    "A5000": "TRITON_ATTN",
    "A10G": "TRITON_ATTN",
    "L4": "TRITON_ATTN",
    "L40S": "TRITON_ATTN",
    "RTX 4090": "TRITON_ATTN",
    "H100": "FLASH_ATTN",
    "H200": "FLASH_ATTN",
    "B200": "FLASHINFER",
}
"""The gpt-oss guide's table, and what vLLM's sources say of the others: told, and passed to nobody."""


@pytest.mark.parametrize("card", GUIDE)
def test_the_attention_of_gpt_oss_is_told_and_left_to_vllm(card):
    made = on(card)("gpt-oss-20b")
    choice = told(made, "attention")
    assert choice.value == f"{GUIDE[card]} probably" and choice.setting == "ENGINE_ARGS=--attention-backend"
    assert dict(made.changes) == {}


def test_of_attention_nothing_is_said_where_it_is_not_plain():
    assert "attention" not in [choice.what for choice in on("H100")("deepseek-ai/DeepSeek-V2-Lite-Chat").choices]
    spec = EngineSpec(engine_args=("--attention-backend", "FLEX_ATTENTION"))
    assert "attention" not in [choice.what for choice in on("H100", spec=spec)("gpt-oss-20b").choices]


# --- No GPU, or none that is known -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("machine", "value"),
    [
        (Machine(), "none that NVIDIA's library knows of"),
        (Machine(gpus_unknown="the driver did not answer in time"), "not known"),
        (Machine(gpus=gpus("L4"), vllm=NEW, vllm_on_cpu=True), "none used"),
    ],
)
def test_without_facts_all_is_left_to_vllm(machine, value):
    made = plan(NOTHING, "vllm", known("Llama-3.1-70B"), machine)
    assert (dict(made.changes), made.refusal, made.warnings) == ({}, "", ())
    assert told(made, "GPUs").value == value


def test_memory_that_is_shared_with_the_machine_is_not_reckoned_with():
    made = on("shared memory")("Llama-3.1-70B")
    assert (dict(made.changes), made.refusal) == ({}, "")
    assert told(made, "memory").value == "shared with the machine"


def test_a_command_of_ones_own_and_no_model_have_no_plan():
    assert plan(NOTHING, "command", known("gpt-oss-20b"), Machine()) == Plan("command")
    assert plan(NOTHING, "vllm", None, Machine()) == Plan("vllm")


# --- llama.cpp -------------------------------------------------------------------------------------------------------


def gguf(size: float, name="Llama-3.1-8B", layers=32, output=0.5):
    """The model as a GGUF of so many GiB."""
    each = int((size - output) * GIB / layers)
    shape = replace(known(name).shape, layer_bytes=(each,) * layers, output_bytes=int(output * GIB))
    return ModelFacts("m", "gguf", int(size * GIB), shape)


def test_llama_server_fits_itself_to_a_gpu():
    made = plan(NOTHING, "llama-server", gguf(5), Machine(gpus=gpus("L4"), memory=32 * GIB))
    assert dict(made.changes) == {} and not made.warnings
    assert [choice.what for choice in made.choices] == ["GPUs", "GPU layers", "context", "requests at once"]
    assert told(made, "GPU layers").setting == "N_GPU_LAYERS" and told(made, "context").setting == "CTX_SIZE"


@pytest.mark.parametrize("machine", [Machine(gpus_unknown="x", memory=GIB), Machine(other_gpu=True, memory=GIB)])
def test_nothing_is_chosen_by_the_machines_memory_where_there_may_be_a_gpu(machine):
    assert dict(plan(NOTHING, "llama-server", gguf(5), machine).changes) == {}


@pytest.mark.parametrize(
    ("memory", "context"),
    [
        (64, None),  # 16 GiB for all 131,072 tokens
        (16, 85504),
        (8, 19968),
        (6, 6144),  # at least an eighth of the memory
        (2, 4096),
    ],
)
def test_llama_server_without_a_gpu_gets_a_context_for_which_there_is_memory(memory, context):
    """By itself it goes by all the memory of the machine, whatever a container may have of it."""
    made = plan(NOTHING, "llama-server", gguf(5), Machine(memory=memory * GIB))
    assert made.changes.get("ctx_size") == context, made
    assert (memory == 2) == any("more than" in warning for warning in made.warnings)


@pytest.mark.parametrize(
    "spec",
    [EngineSpec(ctx_size=131072), EngineSpec(max_model_len=32768, max_num_seqs=4), EngineSpec(ctx_size=2048)],
)
def test_a_context_that_somebody_set_is_kept_and_doubted(spec):
    made = plan(spec, "llama-server", gguf(5), Machine(memory=8 * GIB))
    assert dict(made.changes) == {}
    assert bool(made.warnings) == (spec.ctx_size != 2048)
    if made.warnings:
        assert "takes 16.0 GiB" in made.warnings[0]


def test_layers_by_hand_turn_the_gpu_off():
    spec = EngineSpec(n_gpu_layers="0")
    made = plan(spec, "llama-server", gguf(5), Machine(gpus=gpus("L4"), memory=8 * GIB))
    assert made.changes["ctx_size"] == 19968


@pytest.mark.parametrize(
    ("size", "cards", "first", "value"),
    [
        (5, ["L4"], None, "all 33"),
        (40, ["L4"], 17, "about 17 of 33"),
        (44, ["L4", "L4"], 30, "about 30 of 33"),
        (40, ["H100"], None, "all 33"),
        (600, ["T4"], 1, "about 1 of 33"),
    ],
)
def test_llama_cpp_python_tries_as_many_layers_as_should_fit(size, cards, first, value):
    made = plan(NOTHING, "llama-cpp-python", gguf(size), Machine(gpus=gpus(*cards), memory=999 * GIB, llama_gpu=True))
    assert made.changes.get("gpu_layers_first") == first, made
    assert told(made, "GPU layers").value == value


def test_layers_are_filled_gpu_by_gpu_with_their_cache():
    shape = Shape("x", (64,) * 4, (0,) * 4, heads=4, kv_heads=4, width=64, vocabulary=32_000, layer_bytes=(GIB,) * 4)
    room = Gpu("x", 8 * GIB, int(3.3 * GIB), (8, 0))
    assert layers_that_fit(shape, (room,), 256) == 1 + 2
    assert layers_that_fit(shape, (room, room), 256) == 1 + 4
    assert layers_that_fit(shape, (room,), 64 * 256 * 1024) == 1  # the cache of a layer is larger than all


def test_layers_by_number_are_left_alone():
    spec = EngineSpec(n_gpu_layers="20")
    made = plan(spec, "llama-cpp-python", gguf(40), Machine(gpus=gpus("L4"), memory=64 * GIB, llama_gpu=True))
    assert dict(made.changes) == {} and told(made, "GPU layers").value == "20"


def test_llama_cpp_python_without_a_gpu_gets_a_context_for_which_there_is_memory():
    made = plan(NOTHING, "llama-cpp-python", gguf(5), Machine(gpus=gpus("L4"), memory=16 * GIB, llama_gpu=False))
    assert dict(made.changes) == {} and told(made, "context").value == "8,192 tokens"
    made = plan(NOTHING, "llama-cpp-python", gguf(5), Machine(memory=6 * GIB))
    assert made.changes == {"ctx_size": 6144}
    made = plan(EngineSpec(engine_args=("n_ctx=32768",)), "llama-cpp-python", gguf(5), Machine(memory=6 * GIB))
    assert dict(made.changes) == {}


def test_weights_beyond_all_memory_are_said():
    (warning,) = plan(NOTHING, "llama-server", gguf(100), Machine(gpus=gpus("L4"), memory=32 * GIB)).warnings
    assert warning.startswith("100.0 GiB of weights are more than the 54.0 GiB of memory here")


def test_a_model_that_is_not_known_gets_nothing():
    facts = ModelFacts(
        "m", "gguf", GIB, Shape(unknown="some of its layers keep a state instead of a cache", context=9000)
    )
    for engine in ("llama-server", "llama-cpp-python"):
        made = plan(NOTHING, engine, facts, Machine(memory=GIB // 2))
        assert dict(made.changes) == {} and "keep a state" in told(made, "context").why


# --- All of them -----------------------------------------------------------------------------------------------------


@settings(max_examples=60)
@given(
    engine=st.sampled_from(["vllm", "llama-server", "llama-cpp-python"]),
    name=st.sampled_from(sorted(CONFIGS)),
    cards=st.lists(st.sampled_from(sorted(CARDS)), max_size=4),
    length=st.none() | st.integers(1, 1 << 22),
    context=st.none() | st.integers(1, 1 << 22),
    seqs=st.none() | st.integers(1, 2000),
    share=st.none() | st.floats(0.01, 1),
    memory=st.none() | st.integers(0, 1 << 42),
    words=st.lists(st.sampled_from(["-tp", "2", "--dtype", "--max-model-len=-1", "--kv-cache-dtype", "fp8", "x"])),
    vllm=st.sampled_from([None, NEW, OLD]),
)
def test_no_plan_is_an_error_and_none_changes_what_was_set(
    engine, name, cards, length, context, seqs, share, memory, words, vllm
):
    size, _ = CONFIGS[name]
    spec = EngineSpec(
        max_model_len=length,
        ctx_size=context,
        max_num_seqs=seqs,
        gpu_memory_utilization=share,
        engine_args=tuple(words),
    )
    facts = replace(known(name), size=size)
    made = plan(spec, engine, facts, Machine(gpus=gpus(*cards), memory=memory, vllm=vllm))
    after = made.applied(spec)
    for field in ("max_model_len", "ctx_size", "max_num_seqs", "gpu_memory_utilization", "engine_args"):
        assert getattr(spec, field) in (None, getattr(after, field))
    assert after.max_model_len is None or not after.longest
    assert all("\n" not in line for line in made.lines)


# --- Words -----------------------------------------------------------------------------------------------------------


def test_a_choice_says_what_changes_it():
    choice = Choice("context", "4,096 tokens", "what surely fits", "MAX_MODEL_LEN")
    assert str(choice) == "context: 4,096 tokens, what surely fits (MAX_MODEL_LEN changes it)"
    assert str(Choice("GPUs used", "1")) == "GPUs used: 1"


def test_a_plan_is_told_line_by_line():
    made = on("L4", spec=EngineSpec(max_model_len=131072))("Llama-3.1-8B")
    assert made.lines[0] == "GPUs: 1 x NVIDIA L4 with 22.5 GiB, for 15.0 GiB of weights (MODEL changes it)"
    assert made.lines[-1].startswith("warning: The cache for MAX_MODEL_LEN=131072")
    assert "<Plan vllm" in repr(made)


def test_gpus_are_counted_by_name():
    assert (
        described(gpus("L4", "L4", "H100"))
        == "2 x NVIDIA L4 with 22.5 GiB each, 1 x NVIDIA H100 80GB HBM3 with 79.6 GiB"
    )


@pytest.mark.parametrize(("count", "down"), [(131071, 130048), (16383, 16128), (5000, 4864), (1000, 992), (3, 0)])
def test_lengths_are_rounded_down(count, down):
    assert rounded(count) == down


def test_options_are_read_as_the_engines_read_them():
    words = ("--max_model_len", "-1", "-tp", "2", "--dtype=half", "--enforce-eager", "--dtype", "auto")
    assert said(words) == {"--max-model-len": "-1", "-tp": "2", "--dtype": "auto", "--enforce-eager": ""}


def test_only_engines_whose_command_line_depends_on_gpus_wait_for_the_driver():
    assert asks_gpus(NOTHING, "vllm", Machine())
    assert asks_gpus(NOTHING, "llama-cpp-python", Machine())
    assert not asks_gpus(NOTHING, "llama-cpp-python", Machine(llama_gpu=False))
    assert not asks_gpus(NOTHING, "llama-server", Machine())
