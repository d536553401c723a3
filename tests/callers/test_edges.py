"""Behind each edge that cuts what takes long: nobody who arrives while the model wakes is lost to it.

Everything runs a hundred times faster: the edges' limits (tests/support/edges.py), and the gateway's defaults, of which
the same hundredth is taken. All callers call at once, by a real SDK with nothing set but the address.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import pytest

from gateway.config import Settings
from gateway.providers.base import Ready
from gateway.web.patience import EDGE_HOLD, LONGEST_HOLD
from tests.callers.stage import CALM, ENOUGH, TEXT, have_called, say_hello
from tests.support.edges import EDGES, MODAL, NODE_FETCH, RUNPOD_LB, SHORTER, Clock, Edge, Limits, standing_before
from tests.support.house import House, Received, house

SDKS = ("openai-3.52.0", "node-openai-7.55.0")
DEFAULTS = Settings.model_fields
GRACE, HEARTBEAT = (float(DEFAULTS[name].default) / SHORTER for name in ("hold_grace", "heartbeat_interval"))


@dataclass(frozen=True)
class Told:
    heard: dict
    did: tuple[str, ...]
    outcomes: tuple[tuple[str, str], ...]
    """(outcome, code) of each try, as the gateway saw it."""


@dataclass
class Scene:
    """One gateway behind one edge."""

    house: House
    edge: Edge

    def ready(self) -> None:
        self.house.provider.tell(Ready(models=("served",)))

    async def starts_for(self, seconds: float) -> None:
        """The edge's seconds, from when somebody waits."""
        await self.house.until(lambda: self.house.conductor.snapshot().waiting, ENOUGH)
        ready_at = self.edge.clock.now + seconds
        await self.house.until(lambda: self.edge.clock.now >= ready_at, ENOUGH)
        self.ready()

    async def starts_until_sent_back(self) -> None:
        """503 or the edge's own."""
        await self.house.until(lambda: self.house.visits or self.edge.did, ENOUGH)
        self.ready()


@dataclass(frozen=True)
class Case:
    name: str
    limits: Limits
    streamed: bool
    play: Callable[[Scene], Awaitable[None]]
    hold: float
    """HOLD_MAX in the edge's seconds."""
    healthy: bool = True
    """What the health checks say during the start."""
    answers_late: bool = False
    """Not before the edge has done something about it."""

    @property
    def id(self) -> str:
        return f"{self.name} {self.limits.name}"


def limit_of(limits: Limits) -> float:
    """The first of its limits that a silent answer meets."""
    return min(each for each in (limits.silence, limits.worker, limits.result) if each is not None)


def hold_behind(limits: Limits) -> float:
    return LONGEST_HOLD if limits is NODE_FETCH else EDGE_HOLD


def longer_than(limits: Limits) -> Callable[[Scene], Awaitable[None]]:
    return lambda scene: scene.starts_for(limit_of(limits) * 1.4)


STREAMED = [Case("streamed", limits, True, longer_than(limits), hold_behind(limits)) for limits in EDGES]
WHOLE = [Case("whole", limits, False, Scene.starts_until_sent_back, hold_behind(limits)) for limits in EDGES]
UNHELPED = [Case("unhelped", limits, False, Scene.starts_until_sent_back, 100 * ENOUGH) for limits in EDGES]
LONG_ANSWER = Case("long answer", MODAL, False, lambda scene: scene.starts_for(1), EDGE_HOLD, answers_late=True)
UNHEALTHY = Case("unhealthy", RUNPOD_LB, True, lambda scene: asyncio.sleep(ENOUGH), EDGE_HOLD, healthy=False)
CASES = [*STREAMED, *WHOLE, *UNHELPED, LONG_ANSWER, UNHEALTHY]


@contextlib.asynccontextmanager
async def staged(case: Case, clock: Clock):
    async def script(request: Received, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while case.answers_late and not edge.did:
            await asyncio.sleep(0.01)
        await say_hello(request, reader, writer)

    sizes = CALM | {"grace": GRACE, "heartbeat": HEARTBEAT, "hold_max": case.hold / SHORTER}
    async with (
        house(script=script, ready_at_once=False, **sizes) as front,
        standing_before(front.port, case.limits, clock, lambda: case.healthy) as edge,
    ):
        scene = Scene(front, edge)
        meanwhile = asyncio.ensure_future(case.play(scene))
        try:
            yield scene
        finally:
            meanwhile.cancel()
            await asyncio.gather(meanwhile, return_exceptions=True)


async def play(sdk: str) -> dict[str, Told]:
    async with contextlib.AsyncExitStack() as stack:
        clock = await stack.enter_async_context(Clock())
        scenes = {case.id: await stack.enter_async_context(staged(case, clock)) for case in CASES}
        calls = [
            {
                "id": case.id,
                "url": f"http://127.0.0.1:{scenes[case.id].edge.port}",
                "dialect": "chat",
                "stream": case.streamed,
            }
            for case in CASES
        ]
        heard = await have_called(sdk, calls)
        return {
            name: Told(
                heard[name],
                tuple(scene.edge.did),
                tuple((visit.outcome, visit.code) for visit in scene.house.visits),
            )
            for name, scene in scenes.items()
        }


@pytest.fixture(scope="module")
def told() -> dict[str, dict[str, Told]]:
    async def all_of_them() -> dict[str, dict[str, Told]]:
        return dict(zip(SDKS, await asyncio.gather(*map(play, SDKS)), strict=True))

    return asyncio.run(all_of_them())


def answered(told: Told) -> None:
    assert not told.heard.get("error"), told
    assert told.heard["text"] == TEXT, told


every_sdk = pytest.mark.parametrize("sdk", SDKS)


@every_sdk
@pytest.mark.parametrize("case", STREAMED, ids=lambda case: case.limits.name)
def test_a_stream_survives_a_start_that_is_longer_than_the_limit(told, sdk, case) -> None:
    said = told[sdk][case.id]
    answered(said)
    assert (said.did, said.heard["waits"]) == ((), []), said


@every_sdk
@pytest.mark.parametrize("case", WHOLE, ids=lambda case: case.limits.name)
def test_who_asked_for_no_stream_is_sent_back_before_the_limit_and_comes_again_by_itself(told, sdk, case) -> None:
    said = told[sdk][case.id]
    answered(said)
    assert said.did == (), said
    assert said.outcomes == (("refused", "loading"), ("answered", "")), said


@every_sdk
@pytest.mark.parametrize("case", UNHELPED, ids=lambda case: case.limits.name)
def test_a_hold_that_is_longer_than_the_limit_is_cut_there(told, sdk, case) -> None:
    """So these edges do bite, and the two tests above show something."""
    said = told[sdk][case.id]
    if case.limits is RUNPOD_LB:
        assert "524" in said.did, said
    elif case.limits is MODAL:
        assert set(said.did) == {"303"}, said
    else:
        assert said.did[0] == ("524" if case.limits.says else "cut"), said


@every_sdk
def test_an_answer_that_takes_longer_than_modal_waits_is_fetched_where_modal_says(told, sdk) -> None:
    said = told[sdk][LONG_ANSWER.id]
    answered(said)
    assert said.did == ("303",), said
    assert said.outcomes == (("answered", ""),), said


@every_sdk
def test_a_worker_that_is_not_healthy_while_it_starts_loses_its_callers_after_two_minutes(told, sdk) -> None:
    """Which is why HEALTH_MODE is `hold` there when starts take long: no SDK tries again after a 400."""
    said = told[sdk][UNHEALTHY.id]
    assert (said.heard["error"], said.heard["status"]) == ("BadRequestError", 400), said
    assert (said.did, said.outcomes) == (("400",), ()), said
