"""The contract of providers/base.py, one class for every provider.

A provider joins by a `Case` in CASES: how it is made, and how what it watches is made to fail.
"""

import asyncio
import inspect
import os
import shlex
import subprocess
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, cast

import aiohttp
import pytest

from gateway.providers.base import (
    Asleep,
    Endpoint,
    Gone,
    Instance,
    Intent,
    Loading,
    Profile,
    Provider,
    ProviderError,
    Ready,
)
from gateway.providers.catalogue import PROVIDERS, provider_class
from gateway.providers.external.provider import ExternalProvider, Pace, endpoint_of
from gateway.providers.local.commands import EngineSpec, Installed
from gateway.providers.local.provider import LocalProvider
from gateway.providers.probe import Sight, look
from gateway.providers.renting.page import Page, Terms
from gateway.providers.renting.rented import Look, Tempo
from gateway.providers.renting.seat import Seat
from gateway.providers.renting.shared import Shared
from gateway.providers.renting.transport import HttpTransport
from gateway.providers.runpod_pod.provider import RunPodPod, Spec, Wishes
from gateway.providers.vast.provider import VastProvider
from gateway.records.board.memory import MemoryBoard
from tests.emulators.runpod import RunPodCloud
from tests.emulators.runpod import Served as RunPodServed
from tests.emulators.vast import VastCloud
from tests.support.engines import FullJournal, ListJournal, Watcher, engine_self, fake_engine, soon, with_cookie
from tests.support.real_house import OnDisk
from tests.support.vllm import recorded


@dataclass
class Case:
    """One provider with something that it can start, and that dies when told."""

    provider: Provider
    break_it: Callable[[Instance], "asyncio.Future[None]"]
    left: Callable[[], list[int]]
    """Process ids, or a vendor's, that a stop should have ended."""
    price: int = 0
    stop_within: float = 0.0
    """Seconds that its end may take when a test is over; a vendor has to confirm it twice."""
    before: type | None = None
    """The class of the provider that it stands before, and is called as."""


class Maker(Protocol):
    async def __call__(self, stack: AsyncExitStack, folder: Path) -> Case: ...


async def local(stack: AsyncExitStack, folder: Path) -> Case:
    async def no_model(_tell: Callable[[Loading], None]) -> None:
        return None

    async def break_it(instance: Instance) -> None:
        pid = (await engine_self(instance.endpoint))["pid"]
        assert isinstance(pid, int)
        os.kill(pid, 9)

    boot = f"c{os.getpid()}{abs(hash(folder))}"
    command = shlex.join(fake_engine("--load", "0.15", "--spawn", "setsid"))
    provider = LocalProvider(
        EngineSpec(engine_command=f"{command} --socket {{socket}}", served_names=("fake",), max_num_seqs=4),
        resolve=no_model,
        run_folder=folder,
        boot=boot,
        log_path=folder / "engine.txt",
        installed=Installed,
    )
    return Case(provider, lambda instance: asyncio.ensure_future(break_it(instance)), lambda: with_cookie(boot))


async def external(stack: AsyncExitStack, folder: Path) -> Case:
    process = subprocess.Popen(fake_engine("--port", "0", "--load", "0.15"), stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    stack.callback(process.stdout.close)
    stack.callback(process.wait)
    stack.callback(process.kill)
    port = next(line.split()[-1] for line in process.stdout if line.startswith("listening on"))
    session = await stack.enter_async_context(aiohttp.ClientSession())

    async def break_it(instance: Instance) -> None:
        process.kill()

    provider = ExternalProvider(
        endpoint_of(f"http://127.0.0.1:{port}/v1"),
        session=session,
        models=("fake",),
        concurrency=4,
        pace=Pace(first=0.02, longest=0.05, steady=0.05, within=2),
    )
    return Case(provider, lambda instance: asyncio.ensure_future(break_it(instance)), list)


async def engine_for(stack: AsyncExitStack, *words: str) -> tuple[int, subprocess.Popen[str]]:
    """A fake engine on a free port of this machine: what runs in something that is rented."""
    process = subprocess.Popen(fake_engine("--port", "0", *words), stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    stack.callback(process.stdout.close)
    stack.callback(process.wait)
    stack.callback(process.kill)
    return next(int(line.split()[-1]) for line in process.stdout if line.startswith("listening on")), process


async def looking(stack: AsyncExitStack) -> Look:
    session = await stack.enter_async_context(aiohttp.ClientSession())

    async def seen(endpoint: Endpoint, path: str, within: float) -> Sight:
        return await look(session, endpoint, path, within=within)

    return seen


QUICK = Tempo(
    booting=0.02, patient=0.05, ready=0.1, confirm=0.02, again=1.0, lag=0.3, empty=0.05, look=0.02, steady=0.05
)


async def vast(stack: AsyncExitStack, folder: Path) -> Case:
    port, process = await engine_for(stack, "--load", "0.15")
    boot: list[tuple[float, str | None]] = [(0.0, None), (0.05, "loading"), (0.1, "running")]
    cloud = VastCloud(now=time.time(), host="127.0.0.1", boot=boot, next_ports=[port] * 9, stop_takes=0.05)

    async def break_it(instance: Instance) -> None:
        process.kill()
        cloud.exit()

    provider = VastProvider(
        str(cloud.id),
        transport=cloud.transport(time.time, latency=0.0),
        look=await looking(stack),
        now=time.time,
        plain_http=True,
        public_only=False,
        profile=Profile(models=("fake",), concurrency=4),
        tempo=QUICK,
        between=0.0,
    )
    return Case(
        provider,
        lambda instance: asyncio.ensure_future(break_it(instance)),
        lambda: [cloud.id] if cloud.running else [],
        price=350_000,
        stop_within=10.0,
    )


async def runpod_pod(stack: AsyncExitStack, folder: Path) -> Case:
    """Pods that are created, over HTTP as it is."""
    port, process = await engine_for(stack, "--load", "0.15")
    cloud = RunPodCloud(
        now=time.time(), provisioning=0.02, starting=0.02, bare=0.02, stop_takes=0.05,
        proxy_url=f"http://127.0.0.1:{port}",
    )  # fmt: skip
    served = await stack.enter_async_context(RunPodServed(cloud, time.time))

    async def break_it(instance: Instance) -> None:
        process.kill()
        cloud.take_away(instance.id)

    transport = HttpTransport(served.url, headers={"Authorization": f"Bearer {cloud.key}"})
    spec = Spec.of({"image": "x", "gpu": {"id": "NVIDIA L4"}})
    provider = RunPodPod(
        Wishes(spec, "wakegate-test-", proxy_url=cloud.proxy_url, models=("fake",), concurrency=4),
        transport=transport,
        close=transport.close,
        look=await looking(stack),
        now=time.time,
        tempo=QUICK,
    )
    return Case(
        provider,
        lambda instance: asyncio.ensure_future(break_it(instance)),
        lambda: [len(cloud.running())] if cloud.running() else [],
        price=390_000,
        stop_within=10.0,
    )


async def shared(stack: AsyncExitStack, folder: Path) -> Case:
    """Pods that several gateways share, seen by the one that decides."""
    alone = await runpod_pod(stack, folder)
    seat = Seat(MemoryBoard(Page(handed_over=True).text()), me="this one", terms=Terms(look=0.05))
    assert isinstance(alone.provider, RunPodPod)
    return replace(alone, provider=Shared(lambda: cast(RunPodPod, alone.provider), seat), before=RunPodPod)


CASES: dict[str, Maker] = {"local": local, "external": external, "vast": vast, "runpod-pod": runpod_pod}
BEFORE_OTHERS: dict[str, Maker] = {"shared": shared}
"""No names of PROVIDER: they stand before one of those, and look the same."""


def test_every_provider_is_held_to_the_contract() -> None:
    assert set(CASES) == set(PROVIDERS)


@pytest.fixture(params=sorted(CASES | BEFORE_OTHERS))
async def case(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Case]:
    async with AsyncExitStack() as stack:
        made = await (CASES | BEFORE_OTHERS)[request.param](stack, tmp_path)
        yield made
        try:
            for instance in await made.provider.list():
                await made.provider.stop(instance, within=made.stop_within)
        except ProviderError:
            pass  # it was closed, and asks nobody any more
        await made.provider.close()


class TestContract:
    """What the conductor may rely on."""

    def test_its_name_is_the_one_in_the_catalogue(self, case: Case) -> None:
        assert provider_class(case.provider.name) is (case.before or type(case.provider))

    def test_it_has_every_method_of_the_contract(self, case: Case) -> None:
        for name, member in inspect.getmembers(Provider, inspect.isfunction):
            if not name.startswith("_"):
                assert inspect.signature(getattr(type(case.provider), name)) == inspect.signature(member), name

    async def test_what_is_known_beforehand_is_said_beforehand(self, case: Case) -> None:
        assert case.provider.profile.models == ("fake",)
        assert case.provider.profile.concurrency == 4
        assert await case.provider.price() == case.price

    async def test_a_start_returns_before_anything_serves_and_is_written_down(self, case: Case) -> None:
        journal = ListJournal()
        async with asyncio.timeout(0.5):
            instance = await case.provider.start(Intent("main", 7), journal)
        assert [(rental.upstream, rental.run) for rental in journal.rentals] == [("main", 7)]
        assert instance.provider == case.provider.name
        assert await case.provider.list() == [instance]

    async def test_a_start_that_cannot_be_written_down_does_not_happen(self, case: Case) -> None:
        with pytest.raises(ProviderError):
            await case.provider.start(Intent("main", 1), FullJournal())
        assert await case.provider.list() == []
        assert case.left() == []

    async def test_news_begin_with_loading_and_come_to_ready(self, case: Case) -> None:
        instance, watcher = await self.started(case)
        ready = await watcher.first(Ready)
        assert isinstance(watcher.heard[0], Loading)
        assert all(one != other for one, other in zip(watcher.heard, watcher.heard[1:], strict=False))
        assert (ready.models, ready.concurrency) == (("fake",), 4)
        assert isinstance(await engine_self(ready.endpoint or instance.endpoint), dict)

    async def test_a_watcher_that_comes_late_hears_what_is(self, case: Case) -> None:
        instance = await case.provider.start(Intent("main", 1), ListJournal())
        await asyncio.sleep(0.4)
        await Watcher(case.provider, instance).first(Ready)

    async def test_its_death_is_told_and_is_the_last_news(self, case: Case) -> None:
        instance, watcher = await self.started(case)
        await watcher.first(Ready)
        await case.break_it(instance)
        gone = await watcher.gone()
        assert gone.reason.endswith((".", ")."))
        assert not gone.lasting
        assert await case.provider.list() == []

    async def test_a_watcher_after_the_end_hears_the_end(self, case: Case) -> None:
        instance, watcher = await self.started(case)
        await case.provider.stop(instance, within=2)
        first = await watcher.gone()
        assert await Watcher(case.provider, instance).gone() == first

    async def test_an_unknown_instance_is_gone(self, case: Case) -> None:
        instance, _ = await self.started(case)
        stranger = Instance("nobody", instance.provider, instance.endpoint, 0.0)
        assert isinstance(await Watcher(case.provider, stranger).gone(), Gone)
        await case.provider.stop(stranger, within=1)

    async def test_after_a_stop_nothing_is_left(self, case: Case) -> None:
        instance, watcher = await self.started(case)
        await watcher.first(Ready)
        await case.provider.stop(instance, within=2)
        assert case.left() == []
        assert await case.provider.list() == []
        assert isinstance(await watcher.gone(), Gone)

    async def test_a_stop_of_something_gone_succeeds(self, case: Case) -> None:
        instance, watcher = await self.started(case)
        await case.provider.stop(instance, within=2)
        await case.provider.stop(instance, within=2)
        await watcher.gone()

    @pytest.mark.parametrize("turns", [0, 1, 2, 5, 20])
    async def test_a_start_that_is_cancelled_leaves_nothing_or_says_what(self, case: Case, turns: int) -> None:
        """The conductor cancels a start call that hangs; what it may have begun must not become nobody's."""
        start = asyncio.ensure_future(case.provider.start(Intent("main", 1), ListJournal()))
        for _ in range(turns):
            await asyncio.sleep(0)
        start.cancel()
        left = None
        try:
            left = await start
        except asyncio.CancelledError:
            pass
        except ProviderError as error:
            left = error.instance
        if left is not None:
            await case.provider.stop(left, within=10)
        assert await case.provider.list() == []
        assert case.left() == []

    async def test_a_stop_during_the_start_is_a_stop(self, case: Case) -> None:
        instance = await case.provider.start(Intent("main", 1), ListJournal())
        await case.provider.stop(instance, within=2)
        assert case.left() == []
        await Watcher(case.provider, instance).gone()

    async def test_it_can_be_started_again(self, case: Case) -> None:
        journal = ListJournal()
        first, watcher = await self.started(case, journal)
        await case.provider.stop(first, within=2)
        await watcher.gone()
        second = await case.provider.start(Intent("main", 2), journal)
        assert (second.id, second.name) != (first.id, first.name)
        await Watcher(case.provider, second).first(Ready)

    async def test_what_it_cannot_do_it_refuses_for_good(self, case: Case) -> None:
        instance, _ = await self.started(case)
        assert not case.provider.profile.can_rest
        for order in (case.provider.rest, case.provider.wake):
            with pytest.raises(ProviderError) as refused:
                await order(instance)
            assert refused.value.lasting

    async def test_closing_twice_is_closing(self, case: Case) -> None:
        await self.started(case)
        await case.provider.close()
        await case.provider.close()
        if not case.price:  # what is rented goes on: a successor takes it over
            assert case.left() == []

    @staticmethod
    async def started(case: Case, journal: ListJournal | None = None) -> tuple[Instance, Watcher]:
        instance = await case.provider.start(Intent("main", 1), journal or ListJournal())
        return instance, Watcher(case.provider, instance)


# --- Those that can rest


async def resting_local(stack: AsyncExitStack, folder: Path) -> Case:
    """vLLM, as it was recorded, on a machine with a GPU."""
    model = folder / "model"
    model.mkdir()
    (model / "model.safetensors").write_bytes(b"x" * 1000)

    async def found(_tell: Callable[[Loading], None]) -> OnDisk:
        return OnDisk(model, format="safetensors")

    async def break_it(instance: Instance) -> None:
        core = next(pid for pid in with_cookie(boot) if b"\0core\0" in Path(f"/proc/{pid}/cmdline").read_bytes())
        os.kill(core, 9)

    boot = f"r{os.getpid()}{abs(hash(folder))}"
    provider = LocalProvider(
        EngineSpec(engine="vllm", served_names=("fake",), idle_action="auto", engine_args=("--recorded-dying", "0.1")),
        resolve=found,
        run_folder=folder,
        boot=boot,
        log_path=folder / "engine.txt",
        installed=lambda: Installed(vllm=str(recorded(folder)), cuda=True),
        free=lambda: 1 << 40,
        watch_every=0.05,
    )
    return Case(provider, lambda instance: asyncio.ensure_future(break_it(instance)), lambda: with_cookie(boot))


RESTING: dict[str, Maker] = {"local": resting_local}


@pytest.fixture(params=sorted(RESTING))
async def rested(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[tuple[Case, Instance, Watcher]]:
    """A provider whose instance was ready, and sleeps."""
    async with AsyncExitStack() as stack:
        case = await RESTING[request.param](stack, tmp_path)
        instance, watcher = await TestContract.started(case)
        await watcher.first(Ready)
        assert case.provider.profile.can_rest
        await case.provider.rest(instance)
        await watcher.first(Asleep)
        yield case, instance, watcher
        for found in await case.provider.list():
            await case.provider.stop(found, within=2)
        await case.provider.close()
        assert case.left() == []


class TestRest:
    """What the conductor may rely on where `can_rest` is said."""

    async def test_a_wake_makes_it_what_it_was(self, rested: tuple[Case, Instance, Watcher]) -> None:
        case, instance, watcher = rested
        await asyncio.sleep(0.2)  # some looks of its watch: it seems healthy
        assert isinstance(watcher.heard[-1], Asleep)
        await case.provider.wake(instance)
        await soon(lambda: isinstance(watcher.heard[-1], Ready), "it is ready again")
        assert watcher.heard[-1] == await watcher.first(Ready)
        assert await case.provider.list() == [instance]

    async def test_a_stop_while_it_rests_leaves_nothing(self, rested: tuple[Case, Instance, Watcher]) -> None:
        case, instance, watcher = rested
        await case.provider.stop(instance, within=2)
        assert case.left() == []
        assert isinstance(await watcher.gone(), Gone)
        for order in (case.provider.rest, case.provider.wake):
            with pytest.raises(ProviderError):
                await order(instance)

    async def test_its_death_while_it_rests_is_told(self, rested: tuple[Case, Instance, Watcher]) -> None:
        case, instance, watcher = rested
        await case.break_it(instance)
        assert not (await watcher.gone()).lasting
        with pytest.raises(ProviderError):
            await case.provider.wake(instance)
