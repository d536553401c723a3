"""Gathers what a plan goes by, makes it before the engine starts, and tells it. The deciding is `plan`'s.

The GPUs' driver is asked as soon as a start begins, on a thread of its own, and heard while the model is looked for:
its first answer may take some hundred milliseconds. Where NVIDIA's library is not installed it is never asked. An
engine whose command line does not depend on the answer is not held up by it, and any other for `PATIENCE` at most.
"""

import asyncio
import importlib.util
import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from gateway import gpus
from gateway.gpus import GpusSeen, Question, Version, visible
from gateway.providers.local.commands import CommandError, EngineName, EngineSpec, Installed, choose
from gateway.providers.local.models.facts import KnownModel, ModelFacts, facts_of
from gateway.providers.local.models.model_error import ModelError
from gateway.providers.local.planning import plan
from gateway.providers.local.planning.free_memory import free_memory
from gateway.providers.local.planning.plan import Machine, Plan

log = logging.getLogger(__name__)

PATIENCE = 2.0
"""Seconds that an engine waits for the driver to answer. One that takes longer is taken for one that hangs."""
SLOW = "the driver did not answer in time"


class Planner:
    """For one provider, and each of its starts."""

    def __init__(
        self,
        *,
        environment: Mapping[str, str],
        look: Callable[[], GpusSeen] | None = None,
        memory: Callable[[], int | None] = free_memory,
        root: Path = Path("/"),
        patience: float = PATIENCE,
    ) -> None:
        self._environment = environment
        self._hear: Callable[[str, str], None] | None = None
        self._untold: list[Plan] = []
        self._look = look
        self._memory = memory
        self._root = root
        self._patience = patience
        self._question: Question | None = None
        self._late: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<Planner {self._question!r}>"

    def listen(self, hear: Callable[[str, str], None]) -> None:
        """Who is told of each plan, line by line, with its level; and now of what was planned before."""
        self._hear = hear
        untold, self._untold = self._untold, []
        for made in untold:
            self._tell(made)

    def _tell(self, made: Plan) -> None:
        if self._hear is None:
            self._untold.append(made)
            return
        for choice in made.choices:
            self._hear(f"plan: {choice}", "info")
        for warning in made.warnings:
            self._hear(f"plan: warning: {warning}", "warning")
        if made.refusal:
            self._hear(f"plan: {made.refusal}", "error")

    def begin(self) -> None:
        """A start begins: ask what GPUs there are, and how much of them is free now. Returns at once."""
        self.close()
        there = self._look is not None or gpus.library_is_there()
        self._question = Question(self._look or gpus.look) if there else None

    def close(self) -> None:
        """Nobody wants to hear of a plan that is still to be told."""
        if self._late is not None:
            self._late.cancel()
            self._late = None

    async def settle(
        self, spec: EngineSpec, engine: EngineName, model: KnownModel | None, installed: Installed
    ) -> EngineSpec:
        """What the engine is to be started with. Raises ModelError where it cannot work."""
        if engine == "command" or model is None:
            return spec
        facts = facts_of(model)
        machine = await asyncio.to_thread(self._machine, spec, engine, installed)
        if self._question is not None and not plan.asks_gpus(spec, engine, machine):
            # Nothing is passed that depends on them: the engine starts, and the plan is told when they are known.
            known = self._question.answer.done()
            if not known:
                self._late = asyncio.get_running_loop().create_task(self._tell_late(spec, engine, facts, machine))
                return spec
        machine = await self._with_gpus(machine, spec, self._patience)
        return self._checked(plan.plan(spec, engine, facts, machine), spec)

    async def admit(self, spec: EngineSpec, facts: ModelFacts, installed: Installed) -> None:
        """Before a model is downloaded: raises ModelError where it could not work here."""
        try:
            engine = choose(spec, facts.format, installed)
        except CommandError:
            return  # whoever starts it says that in its own words
        machine = await asyncio.to_thread(self._machine, spec, engine, installed)
        machine = await self._with_gpus(machine, spec, self._patience)
        _raise_refusal(plan.plan(spec, engine, facts, machine))

    async def look_once(self, spec: EngineSpec, facts: ModelFacts, installed: Installed) -> Plan:
        """The plan, for somebody who only wants to see it. Raises CommandError."""
        engine = choose(spec, facts.format, installed)
        machine = await asyncio.to_thread(self._machine, spec, engine, installed)
        return plan.plan(spec, engine, facts, await self._with_gpus(machine, spec, 5 * self._patience))

    # --- Facts ---

    def _machine(self, spec: EngineSpec, engine: EngineName, installed: Installed) -> Machine:
        """All but the GPUs. Small files only."""
        version, on_cpu = vllm_version(Path(installed.vllm)) if engine == "vllm" and installed.vllm else (None, False)
        return Machine(
            other_gpu=any(self._root.glob("dev/dri/renderD*")) or (self._root / "dev/kfd").exists(),
            memory=self._memory(),
            vllm=version,
            vllm_on_cpu=on_cpu,
            llama_gpu=llama_cpp_has_gpu() if engine == "llama-cpp-python" else None,
        )

    async def _with_gpus(self, machine: Machine, spec: EngineSpec, within: float) -> Machine:
        if self._question is None:
            return machine
        answer = asyncio.wrap_future(self._question.answer)
        await asyncio.wait({answer}, timeout=within)
        if not answer.done():
            return replace(machine, gpus_unknown=SLOW)
        if (error := answer.exception()) is not None:
            log.warning("NVIDIA's library failed: %s: %s", type(error).__name__, error)
            return replace(machine, gpus_unknown="NVIDIA's library failed")
        seen = answer.result()
        wanted = spec.engine_env.get("CUDA_VISIBLE_DEVICES", self._environment.get("CUDA_VISIBLE_DEVICES"))
        # A library without a driver that answers says nothing of a GPU: as on many images that run anywhere.
        return replace(machine, gpus=visible(seen.gpus, wanted), gpus_unknown="")

    async def _tell_late(self, spec: EngineSpec, engine: EngineName, facts: ModelFacts, machine: Machine) -> None:
        self._tell(plan.plan(spec, engine, facts, await self._with_gpus(machine, spec, self._patience)))

    def _checked(self, made: Plan, spec: EngineSpec) -> EngineSpec:
        self._tell(made)
        _raise_refusal(made)
        return made.applied(spec)


def _raise_refusal(made: Plan) -> None:
    if made.refusal:
        raise ModelError("fit", made.refusal)


def llama_cpp_has_gpu() -> bool | None:
    """Whether llama-cpp-python was built for a GPU, by the libraries that lie in its folder."""
    spec = importlib.util.find_spec("llama_cpp")
    if spec is None or spec.origin is None:
        return None
    names = [path.name for path in (Path(spec.origin).parent / "lib").glob("libggml*")]
    return any(re.match(r"libggml-(cuda|hip|vulkan|sycl|metal|musa|cann|opencl)\b", name) for name in names) or (
        False if names else None
    )


def vllm_version(script: Path) -> tuple[Version | None, bool]:
    """Of the vLLM that this command runs, by the folder that its package left; and whether it was built for a CPU."""
    for folder in _packages(script):
        for info in folder.glob("vllm-*.dist-info"):
            text = info.name.removeprefix("vllm-").removesuffix(".dist-info")
            numbers = re.match(r"(\d+)\.(\d+)(?:\.(\d+))?", text)
            if numbers:
                return tuple(int(part) for part in numbers.groups() if part), "cpu" in text
    return None, False


def _packages(script: Path) -> list[Path]:
    """Where the packages of the Python in its first line lie, and those beside the script itself."""
    try:
        with script.open("rb") as file:
            first = file.readline(512).decode("utf-8", "replace")
    except OSError:
        return []
    interpreter = re.match(r"#!\s*(/\S+)/bin/python[\d.]*\s*$", first)
    homes = [script.resolve().parent.parent, *([Path(interpreter[1])] if interpreter else [])]
    return [folder for home in homes for folder in home.glob("lib/python3*/*-packages")]
