"""What a plan goes by is gathered without holding up a start: the driver answers late, never, or not at all."""

import asyncio
import threading
from pathlib import Path

import pytest

from gateway.gpus import GpusSeen
from gateway.providers.local.commands import EngineSpec, Installed
from gateway.providers.local.models.model_error import ModelError
from gateway.providers.local.models.model_files import Model
from gateway.providers.local.models.shape import of_config
from gateway.providers.local.planning.planner import SLOW, Planner, llama_cpp_has_gpu, vllm_version
from tests.support.known_models import CONFIGS, known
from tests.support.nvml import machine

GIB = 1024**3
VLLM = Installed(vllm="/nowhere/bin/vllm")
SPEC = EngineSpec()


def model(name="meta-llama/Llama-3.1-8B-Instruct", format="safetensors"):
    size, config = CONFIGS[name]
    return Model(Path("/models/m"), name, format, size, shape=of_config(config))


class Story:
    """A planner with everything handed in, and what it told."""

    def __init__(self, tmp_path: Path, *cards: str, environment=None, **given) -> None:
        self.told: list[str] = []
        self.let_go = threading.Event()
        self.let_go.set()

        def look() -> GpusSeen:
            self.let_go.wait(60)
            return machine(*cards)

        given.setdefault("look", look)
        self.planner = Planner(environment=environment or {}, memory=lambda: 64 * GIB, root=tmp_path, **given)
        self.planner.listen(lambda line, level: self.told.append(line))

    def driver_hangs(self) -> None:
        self.let_go.clear()


@pytest.fixture
def story(tmp_path):
    made = []

    def make(*cards, **given):
        made.append(Story(tmp_path, *cards, **given))
        return made[-1]

    yield make
    for one in made:
        one.let_go.set()
        one.planner.close()


async def test_a_start_gets_what_was_planned_and_it_is_told(story):
    it = story("L4")
    it.planner.begin()
    spec = await it.planner.settle(SPEC, "vllm", model(), VLLM)
    assert spec.max_model_len == 32768  # of a vLLM whose version is not known
    assert it.told[0].startswith("plan: GPUs: 1 x NVIDIA L4") and len(it.told) > 3


async def test_what_was_planned_before_somebody_listened_is_told_then(tmp_path):
    planner = Planner(environment={}, look=lambda: machine("L4"), memory=lambda: GIB, root=tmp_path)
    planner.begin()
    await planner.settle(SPEC, "vllm", model(), VLLM)
    told = []
    planner.listen(lambda line, level: told.append((line, level)))
    once = list(told)
    planner.listen(lambda line, level: told.append((line, level)))
    assert told == once and told[0][1] == "info" and told[0][0].startswith("plan: GPUs")


async def test_what_cannot_work_is_a_model_error_that_lasts(story):
    it = story("L4")
    it.planner.begin()
    with pytest.raises(ModelError) as caught:
        await it.planner.settle(SPEC, "vllm", model("meta-llama/Llama-3.1-70B-Instruct"), VLLM)
    assert caught.value.kind == "fit" and caught.value.lasting and "MODEL" in caught.value.reason
    assert "131.4 GiB of weights" in caught.value.sentence
    assert it.told[-1] == f"plan: {caught.value.sentence}"


async def test_a_driver_that_hangs_is_waited_for_no_longer_than_agreed(story):
    it = story("L4", patience=0.01)
    it.driver_hangs()
    it.planner.begin()
    assert await it.planner.settle(SPEC, "vllm", model(), VLLM) == SPEC
    assert SLOW in it.told[0]


async def test_a_library_that_fails_ends_no_start(story, caplog):
    def broken() -> GpusSeen:
        raise AttributeError("nvmlDeviceGetMigMode")

    it = story(look=broken)
    it.planner.begin()
    assert await it.planner.settle(SPEC, "vllm", model(), VLLM) == SPEC
    assert "not known, NVIDIA's library failed" in it.told[0] and "nvmlDeviceGetMigMode" in caplog.text


async def test_an_engine_that_fits_itself_is_not_held_up_and_its_plan_is_told_when_known(story):
    it = story("L4", patience=60)
    it.driver_hangs()
    it.planner.begin()
    spec = await it.planner.settle(SPEC, "llama-server", model(format="gguf"), Installed(llama_server="/x"))
    assert spec == SPEC and it.told == []
    it.let_go.set()
    while not it.told:
        await asyncio.sleep(0.001)
    assert "NVIDIA L4" in it.told[0]


async def test_a_late_plan_is_not_told_when_the_start_is_over(story):
    it = story("L4", patience=60)
    it.driver_hangs()
    it.planner.begin()
    await it.planner.settle(SPEC, "llama-server", model(format="gguf"), Installed(llama_server="/x"))
    it.planner.close()
    it.let_go.set()
    await asyncio.sleep(0.01)
    assert it.told == []


async def test_each_start_asks_anew(story):
    seen = iter([machine("L4"), machine("H100")])
    it = story(look=lambda: next(seen))
    for name in ("NVIDIA L4", "NVIDIA H100 80GB HBM3"):
        it.planner.begin()
        it.told.clear()
        await it.planner.settle(SPEC, "vllm", model(), VLLM)
        assert name in it.told[0]


async def test_only_the_gpus_that_cuda_leaves_are_reckoned_with(story):
    it = story("L4", "H100", environment={"CUDA_VISIBLE_DEVICES": "1"})
    it.planner.begin()
    await it.planner.settle(SPEC, "vllm", model(), VLLM)
    assert "1 x NVIDIA H100" in it.told[0]
    it.told.clear()
    it.planner.begin()
    await it.planner.settle(EngineSpec(engine_env={"CUDA_VISIBLE_DEVICES": "0"}), "vllm", model(), VLLM)
    assert "1 x NVIDIA L4" in it.told[0]


async def test_without_nvidias_library_nobody_is_asked(story, tmp_path):
    it = Planner(environment={}, memory=lambda: 8 * GIB, root=tmp_path)
    assert await it.settle(SPEC, "command", None, Installed()) == SPEC
    (tmp_path / "dev/dri").mkdir(parents=True)
    spec = await it.settle(SPEC, "llama-server", model(format="gguf"), Installed(llama_server="/x"))
    assert spec.ctx_size is not None  # 16 GiB of context, and 8 of memory
    (tmp_path / "dev/dri/renderD128").touch()
    assert await it.settle(SPEC, "llama-server", model(format="gguf"), Installed(llama_server="/x")) == SPEC


async def test_before_a_download_only_what_cannot_work_is_refused(story):
    it = story("T4")
    it.planner.begin()
    with pytest.raises(ModelError, match="MXFP4"):
        await it.planner.admit(SPEC, known("gpt-oss-20b"), VLLM)
    await it.planner.admit(SPEC, known("Qwen2.5-0.5B"), VLLM)
    await it.planner.admit(SPEC, known("gpt-oss-20b"), Installed())  # no engine for it: that is said elsewhere
    assert it.told == []


async def test_a_plan_can_be_looked_at_without_a_start(story):
    it = story("L4")
    it.planner.begin()
    made = await it.planner.look_once(SPEC, known("gpt-oss-20b"), VLLM)
    assert made.engine == "vllm" and not made.refusal and it.told == []


# --- What is installed -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("folder", "version"),
    [
        ("lib/python3.12/site-packages/vllm-0.33.0.dist-info", ((0, 33, 0), False)),
        ("lib/python3.12/dist-packages/vllm-0.14.1rc2+cu129.dist-info", ((0, 14, 1), False)),
        ("lib/python3.11/site-packages/vllm-0.32.0+cpu.dist-info", ((0, 32, 0), True)),
        ("lib/python3.11/site-packages/vllm-nonsense.dist-info", (None, False)),
        ("lib/python3.11/site-packages/other-1.0.dist-info", (None, False)),
    ],
)
def test_vllms_version_is_read_from_the_folder_beside_it(tmp_path, folder, version):
    (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "bin").mkdir()
    script = tmp_path / "bin/vllm"
    script.write_text("#!/nowhere/bin/python3\n")
    assert vllm_version(script) == version


def test_vllms_version_may_lie_with_the_python_that_runs_it(tmp_path):
    (tmp_path / "venv/lib/python3.12/site-packages/vllm-0.33.0.dist-info").mkdir(parents=True)
    (tmp_path / "elsewhere/bin").mkdir(parents=True)
    script = tmp_path / "elsewhere/bin/vllm"
    script.write_text(f"#!{tmp_path}/venv/bin/python3.12\nimport vllm\n")
    assert vllm_version(script) == ((0, 33, 0), False)


def test_a_vllm_that_is_no_script_has_no_version(tmp_path):
    assert vllm_version(tmp_path / "vllm") == (None, False)
    (tmp_path / "vllm").write_bytes(b"\x7fELF\xff\xfe")
    assert vllm_version(tmp_path / "vllm") == (None, False)


def test_llama_cpp_python_is_known_by_its_libraries():
    assert llama_cpp_has_gpu() in (True, False)  # it is installed here, and was compiled for something
