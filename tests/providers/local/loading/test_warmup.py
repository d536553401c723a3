"""WARMUP: one request before the first caller's, whatever the model can; what goes wrong with it is said, no more."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from gateway.providers.base import Endpoint
from gateway.providers.local.commands import CHAT, COMPLETIONS, EMBEDDINGS
from gateway.providers.local.loading.warmup import Warmup, warm_up
from gateway.providers.probe import private_session, settle


@dataclass
class Engine:
    """Answers each route with a status; 200 where none is named. `slow` keeps its answer until it is left."""

    endpoint: Endpoint
    session: aiohttp.ClientSession
    statuses: dict[str, int] = field(default_factory=dict)
    slow: bool = False
    seen: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    left: asyncio.Event = field(default_factory=asyncio.Event)

    async def answer(self, request: web.Request) -> web.Response:
        self.seen.append((request.path, await request.json()))
        if self.slow:
            try:
                await asyncio.sleep(3600)
            finally:
                self.left.set()
        return web.json_response({}, status=self.statuses.get(request.path, 200))

    async def warm(self, warmup: Warmup, routes: frozenset[str] | None = None, **times: float) -> str:
        return await warm_up(self.session, self.endpoint, routes, "a-model", warmup, **times)


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[Engine]:
    socket = str(tmp_path / "engine.sock")
    made = Engine(Endpoint("http://localhost", socket=socket, key="its-key"), private_session(socket))
    app = web.Application()
    app.router.add_post("/{path:.*}", made.answer)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    await web.UnixSite(runner, socket).start()
    yield made
    await settle(made.session)
    await runner.cleanup()


async def test_one_token_goes_through_the_model(engine: Engine) -> None:
    assert "warmed up" in await engine.warm(Warmup())
    (route, body), *more = engine.seen
    assert not more
    assert route == CHAT
    assert body["max_tokens"] == 1 and body["model"] == "a-model" and len(body["messages"]) == 1


async def test_a_model_without_a_chat_template_completes(engine: Engine) -> None:
    engine.statuses = {CHAT: 400}
    assert "warmed up" in await engine.warm(Warmup())
    assert [route for route, _ in engine.seen] == [CHAT, COMPLETIONS]


async def test_a_model_that_only_embeds_embeds(engine: Engine) -> None:
    engine.statuses = {CHAT: 404, COMPLETIONS: 404}
    assert "warmed up" in await engine.warm(Warmup())
    assert [route for route, _ in engine.seen] == [CHAT, COMPLETIONS, EMBEDDINGS]


async def test_a_route_that_the_engine_is_known_not_to_have_is_not_asked(engine: Engine) -> None:
    assert "warmed up" in await engine.warm(Warmup(), frozenset({COMPLETIONS}))
    assert [route for route, _ in engine.seen] == [COMPLETIONS]


async def test_a_text_is_the_system_message_that_callers_begin_with(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "prefix.txt").write_text("You are a helpful pirate.")
    assert "warmed up" in await engine.warm(Warmup(tmp_path / "prefix.txt"))
    assert engine.seen[0][1]["messages"][0] == {"role": "system", "content": "You are a helpful pirate."}


async def test_a_whole_request_is_asked_as_it_is_for_one_token(engine: Engine, tmp_path: Path) -> None:
    body = {"messages": [{"role": "user", "content": "x"}], "tools": [{"type": "function"}], "max_tokens": 900}
    (tmp_path / "prefix.json").write_text(json.dumps(body | {"stream": True, "model": "another"}))
    assert "warmed up" in await engine.warm(Warmup(tmp_path / "prefix.json"))
    asked = engine.seen[0][1]
    assert asked["tools"] == [{"type": "function"}]
    assert (asked["max_tokens"], asked["stream"], asked["model"]) == (1, False, "a-model")


@pytest.mark.parametrize(
    ("name", "content", "word"),
    [
        ("none.txt", None, "cannot be read"),
        ("latin.txt", b"\xff\xfe", "UTF-8"),
        ("broken.json", b"{", "no JSON"),
        ("other.json", b"[]", "no messages"),
        ("long.txt", b"x" * ((4 << 20) + 1), "longer than 4 MiB"),
    ],
)
async def test_a_prompt_that_cannot_be_used_is_said(
    engine: Engine, tmp_path: Path, name: str, content: bytes | None, word: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    said = await engine.warm(Warmup(tmp_path / name))
    assert word in said and "left out" in said
    assert engine.seen == []


async def test_an_engine_that_fails_at_it_serves_all_the_same_and_is_asked_once(engine: Engine) -> None:
    engine.statuses = {CHAT: 500}
    assert "serves all the same" in await engine.warm(Warmup())
    assert len(engine.seen) == 1


async def test_an_engine_that_takes_too_long_is_left(engine: Engine) -> None:
    engine.slow = True
    assert "given up" in await engine.warm(Warmup(), within=0.05)
    async with asyncio.timeout(10):
        await engine.left.wait()


async def test_an_engine_that_hangs_up_is_said(engine: Engine, tmp_path: Path) -> None:
    session = private_session(str(tmp_path / "nobody.sock"))
    assert "serves all the same" in await warm_up(session, engine.endpoint, None, None, Warmup())
    await settle(session)
