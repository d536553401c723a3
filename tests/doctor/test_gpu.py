"""GPUs: seen, large enough, and of one mind with the engine."""

from dataclasses import replace
from pathlib import Path

import pytest

from gateway.doctor.case import Build, Facts, GatewaySeen, ModelSeen
from gateway.doctor.findings import BREAKS, DOUBTFUL, NOTE, Finding
from gateway.doctor.gpu import check
from gateway.gpus import Gpu, GpusSeen
from gateway.providers.local.commands import Installed
from tests.support.doctoring import GIB, PLAIN, SERVERLESS, case, codes, gguf, only
from tests.support.known_models import known

L4 = Gpu("NVIDIA L4", 24 * GIB, 23 * GIB, (8, 9))
BIG = "org/Big-70B-GGUF:Q8_0"
T4 = Gpu("Tesla T4", 16 * GIB, 15 * GIB, (7, 5))
ONE = GpusSeen((L4,), driver="570.86.15", cuda=(12, 8), devices=("/dev/nvidia0",))
NONE = GpusSeen()
VLLM = Installed(vllm="/usr/bin/vllm")


def with_model(size: float, seen: GpusSeen = ONE, **values: object) -> Facts:
    return Facts(gpus=seen, model=ModelSeen("m.gguf", gguf(int(size * GIB))), **values)  # type: ignore[arg-type]


def test_a_model_that_fits_is_nothing_to_say() -> None:
    assert codes(check(case(with_model(5), MODEL="m.gguf"))) == []


# --- seen ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("facts", "sign"),
    [
        (Facts(gpus=GpusSeen(devices=("/dev/nvidia0",), problem="Driver Not Loaded")), "/dev/nvidia0"),
        (Facts(told={"RUNPOD_GPU_COUNT": "2"}), "RUNPOD_GPU_COUNT=2"),
        (Facts(told={"NVIDIA_VISIBLE_DEVICES": "GPU-12ab"}), "NVIDIA_VISIBLE_DEVICES=GPU-12ab"),
    ],
)
def test_a_gpu_that_should_be_there_and_is_not_seen(facts: Facts, sign: str) -> None:
    said = only(check(case(facts)), "gpu-not-visible")
    assert said.level is BREAKS and f"({sign})" in said.what


def test_a_machine_that_never_had_one_is_not_asked_for_it() -> None:
    assert codes(check(case(Facts(told={"NVIDIA_VISIBLE_DEVICES": "all"})))) == []
    assert codes(check(case(with_model(1, GpusSeen()), MODEL="m.gguf"))) == []


def test_a_large_model_without_any_gpu_is_slow() -> None:
    facts = with_model(8, GpusSeen())
    assert only(check(case(facts, MODEL="m.gguf")), "gpu-missing").level is NOTE
    assert only(check(case(facts, SERVERLESS, MODEL="m.gguf")), "gpu-missing").level is DOUBTFUL


def test_an_external_upstreams_gpu_is_elsewhere() -> None:
    facts = Facts(gpus=GpusSeen(devices=("/dev/nvidia0",)))
    assert codes(check(case(facts, UPSTREAM_URL="http://10.0.0.7:9000"))) == []


# --- room ------------------------------------------------------------------------------------------------------------


def test_weights_larger_than_the_gpu_break_what_must_fit_and_slow_what_need_not() -> None:
    facts = with_model(40)
    assert only(check(case(facts, MODEL="m.gguf", N_GPU_LAYERS="all")), "gpu-too-small").level is BREAKS
    said = only(check(case(facts, MODEL="m.gguf")), "gpu-too-small")
    assert said.level is DOUBTFUL
    assert said.what == "m has 40.0 GiB of weights, and the GPUs have 24.0 GiB (1 x NVIDIA L4)."


def test_several_gpus_count_together() -> None:
    assert codes(check(case(with_model(40, replace(ONE, gpus=(L4, L4))), MODEL="m.gguf"))) == []


def test_vllm_has_only_the_share_that_it_takes() -> None:
    model = gguf(int(22.5 * GIB), format="safetensors", path=Path("/data/models/m"))
    facts = Facts(gpus=ONE, model=ModelSeen("m", model), installed=VLLM)
    assert only(check(case(facts, MODEL="m")), "gpu-too-small").level is BREAKS
    assert only(check(case(facts, MODEL="m", GPU_MEMORY_UTILIZATION="0.98")), "gpu-tight").level is DOUBTFUL


def test_weights_that_fit_without_room_for_the_prompt_are_tight() -> None:
    said = only(check(case(with_model(20), MODEL="m.gguf", CTX_SIZE="65536")), "gpu-tight")
    assert "with room for 65536 tokens" in said.what and said.cure == "export CTX_SIZE=32768"


def test_a_model_that_is_not_here_yet_is_reckoned_by_its_name_and_stops_nobody() -> None:
    facts = Facts(gpus=ONE, model=ModelSeen(BIG))
    assert only(check(case(facts, MODEL=BIG, N_GPU_LAYERS="all")), "gpu-too-small").level is DOUBTFUL


def test_memory_that_another_program_holds() -> None:
    taken = replace(ONE, gpus=(replace(L4, free=2 * GIB),))
    assert "2.0 GiB is free" in only(check(case(with_model(5, taken), MODEL="m.gguf")), "gpu-memory-taken").what
    running = with_model(5, taken, gateway=GatewaySeen())
    assert codes(check(case(running, MODEL="m.gguf"))) == []  # it is our own engine's


def test_a_gpu_that_shares_the_machines_memory_is_not_measured() -> None:
    shared = replace(ONE, gpus=(Gpu("NVIDIA GB10", 0, 0, (12, 1)),))
    assert codes(check(case(with_model(40, shared), MODEL="m.gguf"))) == []


# --- engine and driver -----------------------------------------------------------------------------------------------


def test_no_layers_on_a_gpu_that_is_there() -> None:
    assert codes(check(case(with_model(5), MODEL="m.gguf", N_GPU_LAYERS="0"))) == ["gpu-unused"]


def test_an_engine_built_without_cuda() -> None:
    facts = with_model(5, builds={"llama-cpp-python": Build(gpu=False)})
    said = only(check(case(facts, MODEL="m.gguf")), "engine-without-cuda")
    assert said.level is DOUBTFUL and "GGML_CUDA=on pip install" in said.cure
    assert only(check(case(facts, SERVERLESS, MODEL="m.gguf")), "engine-without-cuda").level is BREAKS
    assert codes(check(case(with_model(5, builds={"llama-cpp-python": Build()}), MODEL="m.gguf"))) == []


def test_only_the_engine_that_would_serve_is_looked_at() -> None:
    facts = with_model(5, builds={"vllm": Build(gpu=False)})
    assert codes(check(case(facts, MODEL="m.gguf"))) == []


@pytest.mark.parametrize(
    ("built", "level"), [((13, 0), BREAKS), ((13,), BREAKS), ((12, 9), DOUBTFUL), ((12, 8), None), ((12,), None)]
)
def test_an_engine_newer_than_the_driver(built: tuple[int, ...], level: object) -> None:
    facts = with_model(5, builds={"llama-cpp-python": Build(gpu=True, cuda=built)})
    found = [f for f in check(case(facts, MODEL="m.gguf")) if f.code == "cuda-driver-too-old"]
    assert [f.level for f in found] == ([level] if level else [])
    if found:
        assert "the driver (570.86.15) goes up to 12.8" in found[0].what


@pytest.mark.parametrize("name", ["openai/gpt-oss-20b", "org/thing-MXFP4"])
def test_mxfp4_on_a_gpu_that_is_too_old_for_it(name: str) -> None:
    seen = replace(ONE, gpus=(L4, T4))
    facts = Facts(gpus=seen, model=ModelSeen(name), installed=VLLM)
    said = only(check(case(facts, MODEL=name, ENGINE="vllm")), "gpu-too-old")
    assert "Tesla T4 has compute capability 7.5" in said.what
    llama = Facts(gpus=seen, model=ModelSeen(name))
    assert "gpu-too-old" not in codes(check(case(llama, MODEL=name, ENGINE="llama-cpp-python")))
    assert "gpu-too-old" not in codes(check(case(replace(facts, gpus=ONE), MODEL=name, ENGINE="vllm")))


def test_the_gpus_are_named_as_people_count_them() -> None:
    assert str(GpusSeen((L4, T4, L4))) == "2 x NVIDIA L4, 1 x Tesla T4"


# --- The plan of a start ---------------------------------------------------------------------------------------------


def planned(size: float, memory: int = 64 * GIB, seen: GpusSeen = NONE, **environ: str) -> list[Finding]:
    """What is found with a model whose own files say how it is made."""
    shape = known("Llama-3.1-8B").shape
    facts = Facts(gpus=seen, model=ModelSeen("m.gguf", gguf(int(size * GIB), shape=shape)))
    return list(check(case(facts, replace(PLAIN, memory=memory), MODEL="m.gguf", **environ)))


def test_what_a_start_would_choose_is_told_with_the_settings_that_change_it() -> None:
    said = only(planned(3), "plan")
    assert said.level is NOTE and said.cure == "wakegate plan"
    assert said.what == (
        "m would be started with llama-cpp-python so: context: 8,192 tokens, as long as nobody says; its cache takes "
        "1.0 GiB (CTX_SIZE changes it)."
    )


def test_what_is_set_and_does_not_go_with_the_machine_is_doubtful() -> None:
    said = only(planned(3, memory=8 * GIB, CTX_SIZE="131072"), "plan-doubtful")
    assert said.level is DOUBTFUL and "The cache for 131,072 tokens takes 16.0 GiB" in said.what


def test_a_model_that_says_how_it_is_made_is_not_judged_by_its_size_alone() -> None:
    """llama.cpp keeps the layers that do not fit in the machine's memory."""
    assert "gpu-tight" not in codes(planned(22, seen=ONE))
    assert "layers" in only(planned(22, seen=ONE), "plan").what


def test_what_cannot_be_started_has_no_plan() -> None:
    model = gguf(60 * GIB, format="safetensors", shape=known("gpt-oss-120b").shape)
    facts = Facts(gpus=ONE, model=ModelSeen("m", model), installed=VLLM)
    found = list(check(case(facts, MODEL="m")))
    assert "gpu-too-small" in codes(found) and "plan" not in codes(found)
