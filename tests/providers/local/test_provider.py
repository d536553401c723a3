"""The provider `local` with real processes: news in their order, ends in sentences, nothing left behind."""

import asyncio
import os
import shlex
import signal
import socket
import stat
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from gateway.providers.base import Gone, Instance, Intent, Loading, ProviderError, Ready
from gateway.providers.local import guard
from gateway.providers.local.commands import CommandError, EngineSpec, Format, Installed
from gateway.providers.local.ends.reasons import CAUSES
from gateway.providers.local.loading.read_ahead import WORTH
from gateway.providers.local.loading.warmup import Warmup
from gateway.providers.local.models.model_error import FOR_CALLERS, ModelError
from gateway.providers.local.models.shape import Shape
from gateway.providers.local.planning.planner import Planner
from gateway.providers.local.provider import FoundModel, LocalProvider
from tests.support.engines import (
    FAKE_ENGINE,
    FullJournal,
    ListJournal,
    Watcher,
    alive,
    engine_self,
    fake_engine,
    soon,
    with_cookie,
)
from tests.support.known_models import known
from tests.support.nvml import machine
from tests.support.vllm import recorded


@dataclass(frozen=True)
class FakeModel:
    path: Path = Path("/models/tiny.gguf")
    name: str = "tiny"
    format: Format = "gguf"
    size: int = 1000
    shape: Shape = field(default_factory=Shape)


async def no_model(_tell: Callable[[Loading], None]) -> None:
    return None


async def tiny(tell: Callable[[Loading], None]) -> FakeModel:
    return FakeModel()


class Local:
    """Makes providers around fake engines in one folder, and ends what they started."""

    def __init__(self, folder: Path) -> None:
        self.run_folder = folder / "run"
        self.run_folder.mkdir(mode=0o700)
        self.log = folder / "engine.txt"
        self.boot = f"t{os.getpid()}{abs(hash(folder))}"
        self.journal = ListJournal()
        self._started: list[tuple[LocalProvider, Instance]] = []

    def provider(self, spec: EngineSpec, **parts: Any) -> LocalProvider:
        parts.setdefault("resolve", no_model)
        parts.setdefault("installed", Installed)
        return LocalProvider(spec, run_folder=self.run_folder, boot=self.boot, log_path=self.log, **parts)

    def command(self, *words: str, door: str = "--socket {socket}", **settings: Any) -> EngineSpec:
        return EngineSpec(engine_command=f"{shlex.join(fake_engine())} {door} {shlex.join(words)}", **settings)

    async def start(self, provider: LocalProvider, run: int = 1) -> tuple[Instance, Watcher]:
        instance = await provider.start(Intent("default", run), self.journal)
        self._started.append((provider, instance))
        return instance, Watcher(provider, instance)

    async def run(self, *words: str, **settings: Any) -> tuple[LocalProvider, Instance, Watcher]:
        provider = self.provider(self.command(*words, **settings))
        return provider, *(await self.start(provider))

    def left(self) -> list[int]:
        return with_cookie(self.boot)

    async def close(self) -> None:
        for provider, instance in self._started:
            await provider.stop(instance, within=0)
            await provider.close()
        assert self.left() == []
        assert list(self.run_folder.iterdir()) == []


@pytest.fixture
async def local(tmp_path: Path) -> AsyncIterator[Local]:
    made = Local(tmp_path)
    yield made
    await made.close()


# --- The way up ---


async def test_start_says_the_endpoint_before_there_is_an_engine(local: Local) -> None:
    _provider, instance, watcher = await local.run("--load", "0.2")
    assert instance.endpoint.socket is not None
    assert not Path(instance.endpoint.socket).exists()
    ready = await watcher.first(Ready)
    assert ready.models == ("fake",)
    assert local.journal.rentals[0].name == instance.id


async def test_an_engine_that_was_begun_ahead_is_the_one_that_the_order_gets(local: Local) -> None:
    provider = local.provider(local.command())
    await provider.go_ahead(Intent("default", 1))
    await soon(lambda: len(local.left()) == 1, "the engine")
    instance, watcher = await local.start(provider)
    await watcher.first(Ready)
    assert len(local.left()) == 1
    await provider.stop(instance, within=1)
    _, watcher = await local.start(provider, run=2)
    await watcher.first(Ready)


async def test_what_failed_ahead_is_told_to_the_order(local: Local) -> None:
    provider = local.provider(EngineSpec(engine_command="/nowhere/engine --port {port}"))
    await provider.go_ahead(Intent("default", 1))
    _, watcher = await local.start(provider)
    assert "not found" in (await watcher.first(Gone)).reason


async def test_an_engine_that_was_begun_ahead_and_never_ordered_ends_with_the_provider(local: Local) -> None:
    provider = local.provider(local.command())
    await provider.go_ahead(Intent("default", 1))
    await soon(lambda: len(local.left()) == 1, "the engine")
    await provider.close()
    assert local.left() == []


async def test_a_download_is_not_waited_for_ahead(local: Local) -> None:
    fetched = asyncio.Event()

    async def fetch(tell: Callable[[Loading], None]) -> None:
        await fetched.wait()

    provider = local.provider(local.command(), resolve=fetch)
    await provider.go_ahead(Intent("default", 1))
    assert local.left() == []
    fetched.set()
    _, watcher = await local.start(provider)
    await watcher.first(Ready)


async def test_the_command_line_is_known_once_the_engine_was_called(local: Local) -> None:
    provider = local.provider(local.command())
    assert provider.command_line == ()
    instance, watcher = await local.start(provider)
    await watcher.first(Ready)
    assert instance.endpoint.socket in provider.command_line


async def test_news_come_in_their_order_with_the_progress_that_the_health_path_tells(local: Local) -> None:
    _, _, watcher = await local.run("--load", "0.5")
    await watcher.first(Ready)
    phases = [news.phase if isinstance(news, Loading) else "ready" for news in watcher.heard]
    assert [phase for at, phase in enumerate(phases) if at == 0 or phases[at - 1] != phase] in (
        ["checking", "booting", "loading", "ready"],
        ["booting", "loading", "ready"],
    )
    ratios = [news.ratio for news in watcher.heard if isinstance(news, Loading) and news.ratio is not None]
    assert ratios == sorted(ratios)
    assert len(ratios) > 1


async def test_an_engine_that_refuses_connections_while_it_loads_is_waited_for(local: Local) -> None:
    """vLLM. Its output counts as progress, since nothing else moves."""
    _, _, watcher = await local.run("--load", "0.4", "--refuse-while-loading")
    await watcher.first(Ready)
    assert any(isinstance(news, Loading) and news.signs > 0 for news in watcher.heard)


async def test_healthy_is_not_ready_while_the_list_of_models_says_loading(local: Local) -> None:
    """FAULTS 38."""
    _provider, instance, watcher = await local.run("--load", "0.5", "--health-early")
    await soon(lambda: Path(str(instance.endpoint.socket)).exists(), "the socket")
    await asyncio.sleep(0.1)
    assert not any(isinstance(news, Ready) for news in watcher.heard)
    await watcher.first(Ready)


async def test_an_engine_without_health_is_ready_by_its_models(local: Local) -> None:
    """llama-cpp-python's own server."""
    _, _, watcher = await local.run("--no-health", "--load", "0.1")
    assert (await watcher.first(Ready)).models == ("fake",)


async def test_a_models_files_are_read_ahead_for_as_long_as_it_loads(local: Local, tmp_path: Path) -> None:
    with (tmp_path / "large.gguf").open("wb") as file:
        file.truncate(WORTH)

    async def large(tell: Callable[[Loading], None]) -> FakeModel:
        return FakeModel(tmp_path / "large.gguf", "large")

    provider = local.provider(local.command("--model", "{model}"), resolve=large, read_ahead=True)
    _, watcher = await local.start(provider)
    await watcher.first(Ready)
    (run,) = provider._runs.values()
    assert run.read_ahead is not None and run.read_ahead.wait(10)
    assert "closed" in repr(run.read_ahead)


async def test_an_engine_is_warmed_before_it_is_ready_however_that_goes(local: Local, caplog: Any) -> None:
    caplog.set_level("INFO")
    provider = local.provider(local.command(), warmup=Warmup())
    _, watcher = await local.start(provider)
    await watcher.first(Ready)
    assert Loading("warming") in watcher.heard
    assert "The warm-up failed" in caplog.text, "the fake engine has no route for it"


async def test_an_engine_without_models_is_ready_by_its_health(local: Local) -> None:
    """A server for speech. And ENGINE_HEALTH_PATH names where to look."""
    _, _, watcher = await local.run("--no-models", "--health-path", "/healthy", health_path="/healthy")
    assert (await watcher.first(Ready)).models == ()


async def test_our_own_childs_news_are_told_as_they_come(local: Local, tmp_path: Path) -> None:
    """Ratios from its pipe, and ready within 50 ms of its word (here: of the whole start, less the load)."""
    provider = local.provider(
        EngineSpec(), resolve=tiny, installed=lambda: Installed(llama_cpp=True), python=as_python(tmp_path)
    )
    assert provider.profile.concurrency is None
    _instance, watcher = await local.start(provider)
    ready = await watcher.first(Ready)
    ratios = [news.ratio for news in watcher.heard if isinstance(news, Loading) and news.phase == "loading"]
    assert len(ratios) > 2
    assert ready == Ready(("tiny",), 1)
    assert provider.profile.models == ("tiny",)
    assert provider.profile.concurrency == 1
    assert provider.profile.routes == {"/v1/chat/completions", "/v1/completions", "/v1/embeddings"}


async def test_our_own_childs_reason_is_the_reason(local: Local, tmp_path: Path) -> None:
    python = as_python(tmp_path, "--crash", "loading")
    provider = local.provider(EngineSpec(), resolve=tiny, installed=lambda: Installed(llama_cpp=True), python=python)
    _, watcher = await local.start(provider)
    gone = await watcher.gone()
    assert gone.reason == "The model file is damaged."
    assert gone.detail.startswith("tensor 3 is cut\n")


def as_python(folder: Path, *words: str) -> str:
    """A Python whose `-P -m gateway…llama_child` is the fake engine."""
    script = folder / "python"
    fake = shlex.join([sys.executable, "-I", "-S", FAKE_ENGINE])
    script.write_text(f'#!/bin/sh\nshift 3\nexec {fake} --load 0.3 {shlex.join(words)} "$@"\n')
    script.chmod(0o755)
    return str(script)


# --- What it is given ---


async def test_the_engines_environment_holds_nothing_of_ours(local: Local) -> None:
    """Read where the kernel keeps it, with the gateway's own settings and secrets set."""
    ours = {
        **os.environ, "PORT": "8000", "HOST": "0.0.0.0", "API_KEY": "sk-secret", "VLLM_API_KEY": "sk-secret",
        "RUNPOD_API_KEY": "rp-secret", "HF_TOKEN": "hf-secret", "ADMIN_KEY": "adm-secret", "OMP_NUM_THREADS": "3",
    }  # fmt: skip
    provider = local.provider(local.command(engine_env={"EXTRA": "yes"}), environment=ours)
    instance, watcher = await local.start(provider)
    await watcher.first(Ready)
    pid = (await engine_self(instance.endpoint))["pid"]
    assert isinstance(pid, int)
    entries = dict(entry.split(b"=", 1) for entry in guard.read_proc(pid, "environ").split(b"\0") if entry)
    assert not {b"PORT", b"HOST", b"API_KEY", b"VLLM_API_KEY", b"RUNPOD_API_KEY", b"HF_TOKEN", b"ADMIN_KEY"} & set(
        entries
    )
    assert not any(b"secret" in value for value in entries.values())
    assert entries[b"OMP_NUM_THREADS"] == b"3"
    assert entries[b"EXTRA"] == b"yes"
    assert entries[b"WAKEGATE_ENGINE"].decode() == instance.id


async def test_an_engine_learns_where_to_keep_what_it_compiles_unless_somebody_has_said(local: Local) -> None:
    caches = {"VLLM_CACHE_ROOT": "/volume/vllm", "TRITON_CACHE_DIR": "/volume/triton"}
    spec = local.command(engine_env={"TRITON_CACHE_DIR": "/elsewhere"})
    instance, watcher = await local.start(local.provider(spec, caches=lambda: caches))
    await watcher.first(Ready)
    environment = (await engine_self(instance.endpoint))["environ"]
    assert isinstance(environment, dict)
    assert environment["VLLM_CACHE_ROOT"] == "/volume/vllm"
    assert environment["TRITON_CACHE_DIR"] == "/elsewhere"


async def test_the_engine_holds_no_descriptor_of_ours(local: Local) -> None:
    _, instance, watcher = await local.run()
    await watcher.first(Ready)
    pid = (await engine_self(instance.endpoint))["pid"]
    links = [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")]
    pipes = [link for link in links if link.startswith("pipe:")]
    assert len(set(pipes)) == 1  # its output
    assert len([link for link in links if link.startswith("socket:")]) <= 2  # its own: listening, and our question


async def test_a_command_on_a_port_with_a_key_file(local: Local) -> None:
    """The key is fresh, 0600, and sent by us; the engine accepts nobody else."""
    door = "--port {port} --key-file {api_key_file}"
    _provider, instance, watcher = await local.run(door=door)
    assert (await watcher.first(Ready)).models == ("fake",)
    key_file = local.run_folder / "default-1" / "key"
    assert stat.S_IMODE(key_file.stat().st_mode) == 0o600
    assert key_file.read_text().strip() == instance.endpoint.key
    assert instance.endpoint.url.startswith("http://127.0.0.1:")
    assert instance.endpoint.key not in repr(instance)


async def test_the_run_folder_is_private_and_goes_with_the_run(local: Local) -> None:
    provider, instance, watcher = await local.run()
    await watcher.first(Ready)
    folder = Path(str(instance.endpoint.socket)).parent
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    await provider.stop(instance, within=5)
    assert not folder.exists()


async def test_a_stale_socket_of_an_earlier_boot_is_in_nobodys_way(local: Local) -> None:
    """Engines leave theirs behind, and cannot bind over it."""
    folder = local.run_folder / "default-1"
    folder.mkdir()
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(folder / "engine.sock"))
    _, _, watcher = await local.run()
    await watcher.first(Ready)


async def test_two_starts_in_a_row_share_nothing(local: Local) -> None:
    door = "--socket {socket} --key-file {api_key_file}"
    provider = local.provider(local.command(door=door))
    first, watcher = await local.start(provider, run=1)
    await watcher.first(Ready)
    await provider.stop(first, within=5)
    second, watcher = await local.start(provider, run=2)
    await watcher.first(Ready)
    assert first.endpoint.socket != second.endpoint.socket
    assert first.endpoint.key != second.endpoint.key
    assert first.id != second.id
    assert await Watcher(provider, first).gone() == Gone("This engine is not running.")


async def test_a_second_engine_is_not_started_beside_the_first(local: Local) -> None:
    provider, _, watcher = await local.run()
    await watcher.first(Ready)
    with pytest.raises(ProviderError, match="has not ended yet"):
        await provider.start(Intent("default", 2), local.journal)


async def test_nothing_is_started_that_cannot_be_written_down(local: Local) -> None:
    provider = local.provider(local.command())
    with pytest.raises(ProviderError):
        await provider.start(Intent("default", 1), FullJournal())
    assert await provider.list() == []


def test_a_command_that_does_not_say_where_it_listens_is_told_at_once(local_folder: Path) -> None:
    with pytest.raises(CommandError):
        LocalProvider(
            EngineSpec(engine_command="serve"),
            resolve=no_model,
            run_folder=local_folder,
            boot="b",
            log_path=local_folder,
        )


@pytest.fixture
def local_folder(tmp_path: Path) -> Path:
    return tmp_path


# --- What was planned for it ---


def vllm_on(local: Local, model: str, *cards: str) -> LocalProvider:
    """A provider whose machine has these cards, and a vLLM that behaves as one was seen to."""
    facts = known(model)
    planner = Planner(environment={}, look=lambda: machine(*cards), memory=lambda: 64 << 30)

    async def found(tell: Callable[[Loading], None]) -> FakeModel:
        return FakeModel(local.run_folder, facts.name, "safetensors", facts.size, facts.shape)

    program = recorded(local.run_folder.parent)
    return local.provider(
        EngineSpec(engine="vllm"), resolve=found, planner=planner, installed=lambda: Installed(vllm=str(program))
    )


async def test_an_engine_is_started_with_what_was_planned_for_this_machine(local: Local) -> None:
    provider = vllm_on(local, "Llama-3.1-8B", "L4")
    _, watcher = await local.start(provider)
    await watcher.first(Ready)
    line = " ".join(provider.command_line)
    assert "--max-model-len 32768" in line and "--tensor-parallel-size" not in line


async def test_an_engine_that_is_begun_ahead_is_planned_by_the_gpus_too(local: Local) -> None:
    provider = vllm_on(local, "Llama-3.1-8B", "L4")
    await provider.go_ahead(Intent("default", 1))
    _, watcher = await local.start(provider)
    await watcher.first(Ready)
    assert "--max-model-len 32768" in " ".join(provider.command_line)


async def test_what_cannot_run_here_is_not_started_and_says_why(local: Local) -> None:
    provider = vllm_on(local, "gpt-oss-20b", "T4")
    _, watcher = await local.start(provider)
    gone = await watcher.gone()
    assert (gone.reason, gone.lasting) == (FOR_CALLERS["fit"], True)
    assert "MXFP4" in gone.detail and provider.command_line == ()


# --- The ways down ---


async def test_what_breaks_our_own_part_ends_the_engine_before_it_is_told(local: Local) -> None:
    class Broken(Warmup):
        def bodies(self, model: str | None) -> Any:
            raise RuntimeError("a fault of ours")

    provider = local.provider(local.command(), warmup=Broken())
    _, watcher = await local.start(provider)
    assert "the gateway's log says why" in (await watcher.gone()).reason
    assert local.left() == []


async def test_what_hangs_before_there_is_an_engine_is_left_behind(local: Local, caplog: Any) -> None:
    """A download that was killed, on a volume that does not answer: it is never seen to end."""
    begun = asyncio.Event()

    async def hangs(tell: Callable[[Loading], None]) -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.Event().wait()

    provider = local.provider(local.command(), resolve=hangs)
    instance, watcher = await local.start(provider)
    await begun.wait()
    await provider.stop(instance, within=0)
    assert (await watcher.gone()).reason == "The engine was stopped."
    assert "left behind" in caplog.text and await provider.list() == []


async def test_a_crash_while_loading_is_told_with_the_last_lines(local: Local) -> None:
    _, _, watcher = await local.run("--crash", "loading", "--code", "3", "--load", "5")
    gone = await watcher.gone()
    assert gone.reason == "The engine ended with exit code 3 while it was loading the model."
    assert gone.detail.splitlines()[-1] == "error: something broke while loading"
    assert not gone.lasting


async def test_a_crash_while_serving_is_told_at_once(local: Local) -> None:
    _, _, watcher = await local.run("--crash", "ready", "--after", "0.3")
    await watcher.first(Ready)
    gone = await watcher.gone()
    assert gone.reason == "The engine ended with exit code 1 while it served."


async def test_kill_of_the_engine_is_told_and_nothing_of_it_lives(local: Local) -> None:
    _, instance, watcher = await local.run("--spawn", "setsid", "--spawn", "wiped", "--ignore-term")
    await watcher.first(Ready)
    facts = await engine_self(instance.endpoint)
    os.kill(facts["pid"], signal.SIGKILL)  # type: ignore[arg-type]
    gone = await watcher.gone()
    assert gone.reason.startswith("The engine was killed by signal 9 while it served")
    assert not any(alive(pid) for pid in facts["parts"])  # type: ignore[attr-defined]


async def test_kill_of_the_guard_is_told_and_nothing_of_the_engine_lives(local: Local) -> None:
    _, instance, watcher = await local.run("--spawn", "setsid", "--ignore-term")
    await watcher.first(Ready)
    pid = (await engine_self(instance.endpoint))["pid"]
    assert isinstance(pid, int)
    os.kill(os.getsid(pid), signal.SIGKILL)
    gone = await watcher.gone()
    assert gone.reason == "The engine's guard was killed while it served, and the engine ended with it."
    assert local.left() == []


async def test_an_engine_that_lives_and_does_not_serve_is_ended(local: Local) -> None:
    """vLLM after its core died: /health is 503, the process stays."""
    provider = local.provider(local.command("--sick-after", "0.5"), watch_every=0.05)
    _, watcher = await local.start(provider)
    await watcher.first(Ready)
    gone = await watcher.gone()
    assert gone.reason == "The engine's process lives, but it does not serve any more."
    assert local.left() == []


async def test_a_program_that_is_not_there_is_a_lasting_failure(local: Local) -> None:
    provider = local.provider(EngineSpec(engine_command="no-such-engine {port}"))
    _, watcher = await local.start(provider)
    reason = "The engine's program was not found: check ENGINE, ENGINE_COMMAND and PATH."
    assert await watcher.gone() == Gone(reason, lasting=True, detail="no-such-engine: No such file or directory")


async def test_a_model_that_is_not_there_is_told_before_any_engine_is_tried(local: Local) -> None:
    async def missing(tell: Callable[[Loading], None]) -> FakeModel:
        tell(Loading("downloading", 0.5, "1/2 GiB"))
        raise ModelError("missing", "/models/x.gguf is not there.")

    provider = local.provider(local.command(), resolve=missing)
    _, watcher = await local.start(provider)
    gone = await watcher.gone()
    assert gone == Gone(FOR_CALLERS["missing"], lasting=True, detail="/models/x.gguf is not there.")
    assert not local.log.exists()


# --- Why it did not start ---

BROKEN = "error loading model: tensor 'output.weight' data is not within the file bounds"


def saying(*lines: str, code: int = 1) -> EngineSpec:
    """An engine that prints these lines and ends."""
    words = ["/bin/sh", "-c", 'printf "%s\\n" "$@"; exit ' + str(code), "{socket}", *lines]
    return EngineSpec(engine_command=shlex.join(words))


async def test_the_cause_is_told_however_much_was_printed_after_it(local: Local) -> None:
    """The last lines, which the guard hands over at the end, don't hold it any more."""
    cause = "ValueError: No available memory for the cache blocks. Try increasing `gpu_memory_utilization`"
    trace = [f"  File engine.py, line {number}, in start" for number in range(150)]
    _, watcher = await local.start(local.provider(saying(cause, *trace, "RuntimeError: See root cause above.")))
    gone = await watcher.gone()
    assert (gone.reason, gone.lasting) == (CAUSES["no_cache"].sentence, True)
    assert gone.detail.startswith(cause) and gone.detail.endswith("See root cause above.")


async def test_damaged_files_are_examined_and_what_is_found_is_the_reason(local: Local) -> None:
    seen: list[Path] = []

    async def examine(model: FoundModel, tell: Callable[[Loading], None]) -> Gone:
        seen.append(model.path)
        tell(Loading("checking", done=1, total=2))
        return Gone("They were damaged, and are fetched again.", detail="blob 7")

    provider = local.provider(saying(BROKEN), resolve=tiny, examine=examine)
    _, watcher = await local.start(provider)
    gone = await watcher.gone()
    assert gone == Gone("They were damaged, and are fetched again.", detail=f"blob 7\n{BROKEN}")
    assert seen == [FakeModel.path]
    assert Loading("checking", done=1, total=2) in watcher.heard


async def test_files_that_nobody_doubts_are_not_read(local: Local) -> None:
    async def examine(model: FoundModel, tell: Callable[[Loading], None]) -> Gone:
        raise AssertionError("they are large")

    provider = local.provider(saying("ValueError: unknown"), resolve=tiny, examine=examine)
    _, watcher = await local.start(provider)
    assert "exit code 1" in (await watcher.gone()).reason


async def test_a_stop_does_not_wait_for_the_files_to_be_read(local: Local) -> None:
    reading, ended = asyncio.Event(), asyncio.Event()

    async def examine(model: FoundModel, tell: Callable[[Loading], None]) -> Gone:
        reading.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        raise AssertionError

    provider = local.provider(saying(BROKEN), resolve=tiny, examine=examine)
    instance, watcher = await local.start(provider)
    await asyncio.wait_for(reading.wait(), 10)
    await asyncio.wait_for(provider.stop(instance, within=5), 5)
    assert ended.is_set()
    assert (await watcher.gone()).reason == "The engine was stopped."


async def test_settings_that_fit_no_engine_are_a_lasting_failure(local: Local) -> None:
    provider = local.provider(EngineSpec(), resolve=tiny)
    _, watcher = await local.start(provider)
    gone = await watcher.gone()
    assert gone.lasting
    assert gone.detail.startswith("No engine is installed for a GGUF model")


# --- Stops ---


async def test_stop_is_polite_and_confirmed(local: Local) -> None:
    provider, instance, watcher = await local.run("--slow-term", "0.2")
    await watcher.first(Ready)
    await provider.stop(instance, within=5)
    assert local.left() == []
    assert await watcher.gone() == Gone("The engine was stopped.")
    await provider.stop(instance, within=5)


async def test_stop_takes_an_engine_that_ignores_term(local: Local) -> None:
    provider, instance, watcher = await local.run("--ignore-term", "--spawn", "setsid")
    await watcher.first(Ready)
    async with asyncio.timeout(2):
        await provider.stop(instance, within=0.2)
    assert local.left() == []


async def test_stop_while_loading(local: Local) -> None:
    provider, instance, watcher = await local.run("--load", "60")
    await soon(lambda: any(n.phase == "loading" for n in watcher.heard if isinstance(n, Loading)), "loading")
    await provider.stop(instance, within=5)
    assert await watcher.gone() == Gone("The engine was stopped.")


async def test_stop_while_the_model_is_fetched(local: Local) -> None:
    cancelled = asyncio.Event()

    async def slow(tell: Callable[[Loading], None]) -> FakeModel:
        tell(Loading("downloading", 0.1))
        try:
            await asyncio.sleep(60)
        finally:
            cancelled.set()
        return FakeModel()

    provider = local.provider(local.command(), resolve=slow)
    instance, watcher = await local.start(provider)
    await watcher.first(Loading)
    await provider.stop(instance, within=5)
    assert cancelled.is_set()
    assert await watcher.gone() == Gone("The engine was stopped.")


async def test_stop_in_the_instant_of_the_start(local: Local) -> None:
    """Before the run's own task took its first step."""
    provider = local.provider(local.command())
    instance = await provider.start(Intent("default", 1), local.journal)
    await provider.stop(instance, within=5)
    assert await Watcher(provider, instance).gone() == Gone("The engine was stopped.")
    assert list(local.run_folder.iterdir()) == []


async def test_two_stops_at_once_both_see_the_end(local: Local) -> None:
    provider, instance, watcher = await local.run("--ignore-term")
    await watcher.first(Ready)
    async with asyncio.timeout(2):
        await asyncio.gather(provider.stop(instance, within=60), provider.stop(instance, within=0.1))
    assert local.left() == []


async def test_a_stop_whose_caller_leaves_goes_on(local: Local) -> None:
    provider, instance, watcher = await local.run("--slow-term", "0.3")
    await watcher.first(Ready)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(provider.stop(instance, within=5), 0.05)
    assert await watcher.gone() == Gone("The engine was stopped.")
    assert local.left() == []


async def test_closing_ends_what_still_runs(local: Local) -> None:
    provider, _instance, watcher = await local.run("--spawn", "setsid")
    await watcher.first(Ready)
    await provider.close()
    assert local.left() == []
    await watcher.gone()


async def test_list_says_what_lives(local: Local) -> None:
    provider, instance, watcher = await local.run()
    await watcher.first(Ready)
    assert await provider.list() == [instance]
    await provider.stop(instance, within=5)
    assert await provider.list() == []
