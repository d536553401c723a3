"""Sleep instead of stop: vLLM by its recorded behaviour (tests/support/recorded_vllm.py), under the local provider."""

import contextlib
import os
import stat
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from gateway.providers.base import Asleep, Endpoint, Instance, Intent, Loading, ProviderError, Ready
from gateway.providers.local.commands import EngineSpec, IdleAction, Installed
from gateway.providers.local.provider import LocalProvider
from gateway.providers.local.sleeping import SPARE, Sleeper, level
from gateway.providers.probe import private_session, settle
from tests.support.engines import ListJournal, Watcher, ask, soon, text_of, with_cookie
from tests.support.real_house import OnDisk
from tests.support.vllm import recorded

GIB = 1 << 30


class TestHowDeep:
    @pytest.mark.parametrize(
        ("free", "insists", "held", "expected"),
        [
            (2 * GIB + SPARE, False, False, 1),
            (2 * GIB + SPARE, True, False, 1),
            (2 * GIB + SPARE - 1, False, False, None),
            (2 * GIB + SPARE - 1, True, False, 2),
            (0, False, True, 1),
            (None, False, False, None),
            (None, True, False, 2),
        ],
    )
    def test_the_weights_are_kept_where_there_is_room_for_twice_as_much(
        self, free: int | None, insists: bool, held: bool, expected: int | None
    ) -> None:
        assert level(GIB, free, insists=insists, held=held) == expected

    def test_weights_that_nobody_knows_of_find_no_room(self) -> None:
        assert level(0, 1 << 50, insists=False, held=False) is None


@dataclass
class Stage:
    """One start of a recorded vLLM, and what it was told."""

    provider: LocalProvider
    folder: Path
    boot: str
    free: list[int]
    """What the machine has left; a test writes the first."""
    instance: Instance = field(init=False)
    watcher: Watcher = field(init=False)

    async def start(self, run: int = 1) -> None:
        self.instance = await self.provider.start(Intent("main", run), ListJournal())
        self.watcher = Watcher(self.provider, self.instance)
        await self.watcher.first(Ready)

    def told(self) -> list[str]:
        """The orders that the engine had, as it printed them."""
        lines = text_of(self.folder / "engine.txt").splitlines()
        return [line.removeprefix("told ") for line in lines if line.startswith("told ")]

    async def was_told(self, *orders: str) -> None:
        """These and no others; its output takes a moment to its log."""
        await soon(lambda: self.told() == [*orders], f"its orders: {orders}")

    def kinds(self) -> list[str]:
        """The news since it was ready for the first time."""
        names = [type(news).__name__ for news in self.watcher.heard]
        return names[names.index("Ready") :]

    async def answers(self) -> str:
        """What the model says to a request, past the gateway."""
        session = private_session(self.instance.endpoint.socket)
        try:
            body = {"model": "demo", "messages": [], "max_tokens": 1}
            url = self.instance.endpoint.url + "/v1/chat/completions"
            async with session.post(url, json=body, timeout=aiohttp.ClientTimeout(total=5)) as answer:
                said = await answer.json(content_type=None)
            return str(said["choices"][0]["message"]["content"])
        finally:
            await settle(session)


@contextlib.asynccontextmanager
async def stage(
    folder: Path, *args: str, idle_action: IdleAction = "auto", cuda: bool = True, **more: Any
) -> AsyncIterator[Stage]:
    """A provider with a recorded vLLM on a machine with a GPU and room for everything."""
    model = folder / "model"
    model.mkdir()
    (model / "model.safetensors").write_bytes(b"x" * 1000)
    free = [1 << 40]
    boot = f"s{os.getpid()}{abs(hash(folder))}"

    async def found(_tell: Callable[[Loading], None]) -> OnDisk:
        return OnDisk(model, format="safetensors")

    provider = LocalProvider(
        EngineSpec(engine="vllm", served_names=("demo",), max_num_seqs=4, engine_args=args, idle_action=idle_action),
        resolve=found,
        run_folder=folder,
        boot=boot,
        log_path=folder / "engine.txt",
        installed=lambda: Installed(vllm=str(recorded(folder)), cuda=cuda),
        free=lambda: free[0],
        watch_every=0.05,
        **more,
    )
    on = Stage(provider, folder, boot, free)
    try:
        yield on
    finally:
        for instance in await provider.list():
            await provider.stop(instance, within=2)
        await provider.close()
    assert with_cookie(boot) == []


async def test_it_sleeps_and_wakes_and_says_so(tmp_path: Path) -> None:
    async with stage(tmp_path) as on:
        await on.start()
        assert on.provider.profile.can_rest
        for _ in range(2):
            await on.provider.rest(on.instance)
            assert await ask(on.instance.endpoint, "/is_sleeping") == {"is_sleeping": True}
            await on.provider.wake(on.instance)
            assert await on.answers() == "word "
        await soon(lambda: on.kinds().count("Ready") == 3, "the news")
        assert on.kinds() == ["Ready", *(["Asleep", "Loading", "Ready"] * 2)]
        assert Loading("waking") in on.watcher.heard
        first, *others = [news for news in on.watcher.heard if isinstance(news, Ready)]
        assert others == [first, first]
        await on.was_told(*["/sleep?level=1", "/wake_up"] * 2)


async def test_weights_that_find_no_room_are_read_again_where_sleep_was_insisted_on(tmp_path: Path) -> None:
    async with stage(tmp_path, idle_action="sleep") as on:
        on.free[0] = 1000
        await on.start()
        await on.provider.rest(on.instance)
        await on.provider.wake(on.instance)
        assert await on.answers() == "word "
        await on.was_told(
            "/sleep?level=2",
            "/wake_up?tags=weights",
            '/collective_rpc {"method": "reload_weights"}',
            "/wake_up?tags=kv_cache",
        )


async def test_weights_that_find_no_room_are_no_sleep_where_it_was_not_insisted_on(tmp_path: Path) -> None:
    async with stage(tmp_path) as on:
        on.free[0] = 1000
        await on.start()
        with pytest.raises(ProviderError) as refused:
            await on.provider.rest(on.instance)
        assert not refused.value.lasting  # another day there is room
        assert on.told() == []


async def test_the_memory_that_it_kept_from_its_last_sleep_is_room_enough(tmp_path: Path) -> None:
    async with stage(tmp_path) as on:
        await on.start()
        await on.provider.rest(on.instance)
        await on.provider.wake(on.instance)
        on.free[0] = 0
        await on.provider.rest(on.instance)
        await on.was_told("/sleep?level=1", "/wake_up", "/sleep?level=1")


@pytest.mark.parametrize("order", ["rest", "wake"])
async def test_an_order_that_fails_is_told_to_who_gave_it(tmp_path: Path, order: str) -> None:
    async with stage(tmp_path, f"--recorded-{'sleep' if order == 'rest' else 'wake'}", "fails") as on:
        await on.start()
        with pytest.raises(ProviderError) as refused:
            await on.provider.rest(on.instance)
            await on.provider.wake(on.instance)
        assert not refused.value.lasting and refused.value.reason.endswith(".")
        assert on.kinds()[-1] != "Ready" or order == "rest"


async def test_a_sleep_that_was_not_our_order_is_noticed_and_not_trusted(tmp_path: Path) -> None:
    """Requests would hang. Nobody knows what it kept, so it is not woken but stopped."""
    async with stage(tmp_path) as on:
        await on.start()
        session = private_session(on.instance.endpoint.socket)
        async with session.post(on.instance.endpoint.url + "/sleep?level=2") as answer:
            assert answer.status == 200
        await settle(session)
        await on.watcher.first(Asleep)
        with pytest.raises(ProviderError):
            await on.provider.wake(on.instance)
        await on.was_told("/sleep?level=2")


async def test_nobody_else_reaches_its_development_routes(tmp_path: Path) -> None:
    async with stage(tmp_path) as on:
        await on.start()
        assert on.instance.endpoint.socket is not None
        socket = Path(on.instance.endpoint.socket)
        assert stat.S_IMODE(socket.stat().st_mode) == 0o600
        assert stat.S_IMODE(socket.parent.stat().st_mode) == 0o700


async def test_where_it_is_not_to_sleep_its_development_routes_stay_off(tmp_path: Path) -> None:
    async with stage(tmp_path, idle_action="stop") as on:
        await on.start()
        assert await ask(on.instance.endpoint, "/is_sleeping") == {"detail": "Not Found"}
        assert not on.provider.profile.can_rest
        with pytest.raises(ProviderError) as refused:
            await on.provider.rest(on.instance)
        assert refused.value.lasting


async def test_sleep_that_was_insisted_on_and_cannot_be_is_said_once_a_start(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with stage(tmp_path, idle_action="sleep", cuda=False) as on:
        await on.start()
    assert [record.levelname for record in caplog.records if "IDLE_ACTION=sleep" in record.message] == ["WARNING"]


async def test_a_machine_on_which_it_cannot_sleep_is_learned_once(tmp_path: Path) -> None:
    """A vLLM for CPUs beside a GPU: its start fails at the flag. The next one is started without."""
    async with stage(tmp_path, "--recorded-cpu") as on:
        instance = await on.provider.start(Intent("main", 1), ListJournal())
        gone = await Watcher(on.provider, instance).gone()
        assert not gone.lasting and gone.reason == "This engine cannot sleep here, and is started again without."
        await on.start(run=2)
        assert not on.provider.profile.can_rest
        assert "--enable-sleep-mode" not in on.provider.command_line


@pytest.mark.parametrize(
    ("line", "refused"),
    [
        ("  Value error, Sleep mode is not supported on current platform. [type=value_error, input_value=A", True),
        ("vllm: error: unrecognized arguments: --enable-sleep-mode", True),
        ("AssertionError: Expandable segments are not compatible with memory pool. Please track", True),
        ("(EngineCore pid=1) ERROR torch.OutOfMemoryError: CUDA out of memory.", False),
    ],
)
def test_what_it_says_when_it_cannot_sleep_is_known(tmp_path: Path, line: str, refused: bool) -> None:
    sleeper = Sleeper(Endpoint("http://x"), tmp_path, lambda news: None, insists=False, free=lambda: None)
    sleeper.hear("INFO starting")
    sleeper.hear(line)
    sleeper.hear("something else")
    assert sleeper.refused == refused


def test_a_real_refusal_is_known(tmp_path: Path) -> None:
    sleeper = Sleeper(Endpoint("http://x"), tmp_path, lambda news: None, insists=False, free=lambda: None)
    for line in (Path(__file__).parent / "logs" / "vllm-no-sleep-mode.txt").read_text().splitlines()[1:]:
        sleeper.hear(line)
    assert sleeper.refused


async def test_an_order_that_is_not_answered_in_time_has_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.providers.local.sleeping.REST_WITHIN", 0.1)
    async with stage(tmp_path, "--recorded-sleep", "hangs") as on:
        await on.start()
        with pytest.raises(ProviderError):
            await on.provider.rest(on.instance)


async def test_a_sleeper_whose_engine_is_gone_says_so(tmp_path: Path) -> None:
    told: list[object] = []
    nowhere = Endpoint("http://localhost", socket=str(tmp_path / "none.sock"))
    sleeper = Sleeper(nowhere, tmp_path, told.append, insists=False, free=lambda: 1 << 40)
    with pytest.raises(ProviderError):
        await sleeper.rest()
    assert told == [] and repr(sleeper) == "<Sleeper awake>"
