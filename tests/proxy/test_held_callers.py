"""What a held stream's caller hears in each dialect, with the vendors' own clients at a whole gateway.

Held, then answered; held, then told why not; held, and then refused by the engine itself.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import anthropic
import openai
import pytest

from gateway.providers.base import Gone, Loading, Ready
from tests.support.house import CHAT, KEY, STREAMED, House, Received, Script, answer, house, stream
from tests.support.loops import BOTH_LOOPS
from tests.support.wire import Heard, talk

LOADING = Loading("loading", 0.43, "12.1/28.0 GiB")


def named(kind: str, **more: object) -> bytes:
    return f"event: {kind}\ndata: {json.dumps({'type': kind} | more)}\n\n".encode()


def data(**said: object) -> bytes:
    return f"data: {json.dumps(said)}\n\n".encode()


@asynccontextmanager
async def openai_at(h: House) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(api_key=KEY, base_url=f"http://127.0.0.1:{h.port}/v1", max_retries=0) as sdk:
        yield sdk


@asynccontextmanager
async def anthropic_at(h: House) -> AsyncIterator[anthropic.AsyncAnthropic]:
    async with anthropic.AsyncAnthropic(api_key=KEY, base_url=f"http://127.0.0.1:{h.port}", max_retries=0) as sdk:
        yield sdk


# -- each dialect's own client, and what an engine says to it --------------------------------------------------------

Then = Callable[[], None]
"""Called when the head of the answer has come: the stream is held from there on, and no status can be said any more."""
ASKED: Any = [{"role": "user", "content": "Hello"}]


async def chat(h: House, then: Then) -> str:
    async with openai_at(h) as sdk, sdk.chat.completions.stream(model="gpt-4o", messages=ASKED) as said:
        then()
        return (await said.get_final_completion()).choices[0].message.content or ""


async def completions(h: House, then: Then) -> str:
    async with openai_at(h) as sdk:
        said = await sdk.completions.create(model="gpt-4o", prompt="Hello", stream=True)
        then()
        return "".join([each.choices[0].text async for each in said])


async def responses(h: House, then: Then) -> str:
    async with openai_at(h) as sdk, sdk.responses.stream(model="gpt-4o", input="Hello") as said:
        then()
        return (await said.get_final_response()).output_text


async def messages(h: House, then: Then) -> str:
    async with anthropic_at(h) as sdk, sdk.messages.stream(model="claude", max_tokens=5, messages=ASKED) as said:
        then()
        return await said.get_final_text()


TEXT = {"type": "output_text", "text": "Hello", "annotations": []}
MESSAGE = {"type": "message", "id": "m", "role": "assistant", "status": "completed", "content": [TEXT]}
PLACE = {"item_id": "m", "output_index": 0, "content_index": 0}
OF_RESPONSES = [
    named("response.created", sequence_number=0, response={"id": "r", "object": "response", "output": []}),
    named(
        "response.output_item.added",
        sequence_number=1,
        output_index=0,
        item=MESSAGE | {"content": [], "status": "in_progress"},
    ),
    named("response.content_part.added", sequence_number=2, part=TEXT | {"text": ""}, **PLACE),
    named("response.output_text.delta", sequence_number=3, delta="Hello", logprobs=[], **PLACE),
    named("response.output_text.done", sequence_number=4, text="Hello", logprobs=[], **PLACE),
    named("response.content_part.done", sequence_number=5, part=TEXT, **PLACE),
    named("response.output_item.done", sequence_number=6, output_index=0, item=MESSAGE),
    named(
        "response.completed",
        sequence_number=7,
        response={"id": "r", "object": "response", "status": "completed", "output": [MESSAGE]},
    ),
]
OF_MESSAGES = [
    named(
        "message_start",
        message={"id": "m", "type": "message", "role": "assistant", "model": "served", "content": []}
        | {"stop_reason": None, "stop_sequence": None, "usage": {"input_tokens": 1, "output_tokens": 1}},
    ),
    named("content_block_start", index=0, content_block={"type": "text", "text": ""}),
    named("content_block_delta", index=0, delta={"type": "text_delta", "text": "Hello"}),
    named("content_block_stop", index=0),
    named("message_delta", delta={"stop_reason": "end_turn", "stop_sequence": None}, usage={"output_tokens": 2}),
    named("message_stop"),
]
CHUNK = {"id": "chatcmpl-b", "object": "chat.completion.chunk", "created": 5, "model": "served"}
OF_CHAT = [
    data(**CHUNK, choices=[{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}]),
    data(**CHUNK, choices=[{"index": 0, "delta": {"content": "Hello"}, "finish_reason": None}]),
    data(**CHUNK, choices=[{"index": 0, "delta": {}, "finish_reason": "stop"}]),
]
OF_COMPLETIONS = [
    data(id="b", object="text_completion", created=5, model="m", choices=[{"index": 0, "text": t, "finish_reason": f}])
    for t, f in (("Hel", None), ("lo", "stop"))
]


@dataclass(frozen=True)
class Client:
    """One dialect: how its own SDK asks, and what an engine answers."""

    path: str
    ask: Callable[[House, Then], Awaitable[str]]
    events: list[bytes]
    done: bool = True
    """Whether `[DONE]` ends it."""

    @property
    def script(self) -> Script:
        return stream(*self.events, done=self.done)


CLIENTS = [
    Client("/v1/chat/completions", chat, OF_CHAT),
    Client("/v1/completions", completions, OF_COMPLETIONS),
    Client("/v1/responses", responses, OF_RESPONSES, done=False),
    Client("/v1/messages", messages, OF_MESSAGES, done=False),
]
EACH = pytest.mark.parametrize(
    ("client", "shows_loading"),
    [
        *(pytest.param(client, False, id=client.path) for client in CLIENTS),
        pytest.param(CLIENTS[0], True, id=f"{CLIENTS[0].path}, LOADING_TEXT=reasoning"),
    ],
)
FAILURES = (openai.APIError, anthropic.APIError)


def said_by(error: Exception) -> tuple[str, str]:
    """The code, and what a person reads."""
    body: Any = error.body if isinstance(error, FAILURES) else None
    inner = body.get("error", body) if isinstance(body, dict) else {}
    return str(inner.get("code")), str(inner.get("message"))


def loading(script: Script, **sizes: Any) -> AbstractAsyncContextManager[House]:
    """A gateway whose model loads, and whose streams are opened and held at once."""
    return house(script=script, ready_at_once=False, grace=0.0, heartbeat=0.02, **sizes)


def is_ready(h: House) -> Then:
    return lambda: h.provider.tell(Ready(("served",)))


async def heard_by(h: House, request: bytes, until: bytes) -> bytes:
    """The body of the answer to a caller made of bytes; the model is ready when it has heard `until`."""
    reader, writer = await asyncio.open_connection("127.0.0.1", h.port)
    try:
        writer.write(request)
        async with asyncio.timeout(15):
            begun = await reader.readuntil(until)
            h.provider.tell(Ready(("served",)))
            return Heard(begun + await reader.read(), closed=True, took=0).only.body
    finally:
        writer.close()


# -- held, then answered ---------------------------------------------------------------------------------------------


@EACH
async def test_a_client_that_was_held_reads_the_answer_as_if_it_had_not_been(
    client: Client, shows_loading: bool
) -> None:
    async with loading(client.script, shows_loading=shows_loading) as h:
        h.provider.tell(LOADING)
        assert await client.ask(h, is_ready(h)) == "Hello"


@pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.path)
async def test_it_hears_comments_and_then_the_engines_own_bytes(client: Client) -> None:
    """With LOADING_TEXT, too, where streams have no place for it."""
    async with loading(client.script, shows_loading=client.path != "/v1/chat/completions") as h:
        h.provider.tell(LOADING)
        body = STREAMED | {"prompt": "Hello", "input": "Hello", "max_tokens": 5}
        heard = await heard_by(h, h.request(body, path=client.path), b": loading")
        own = b"".join(client.events) + (b"data: [DONE]\n\n" if client.done else b"")
        assert heard.endswith(own)
        *comments, end = heard.removesuffix(own).split(b"\n\n")
        assert all(comment.startswith(b": ") for comment in comments) and end == b""


# -- held, then told why not -----------------------------------------------------------------------------------------


@EACH
async def test_a_start_that_fails_later_is_an_error_of_the_clients_own_kind(
    client: Client, shows_loading: bool
) -> None:
    async with loading(client.script, shows_loading=shows_loading) as h:
        h.provider.tell(LOADING)
        failed = Gone("The model needs a token: set HF_TOKEN.", lasting=True, detail="401 from /secret/path")
        with pytest.raises(FAILURES) as caught:
            await client.ask(h, lambda: h.provider.tell(failed))
        code, message = said_by(caught.value)
        assert code == "start_failed" and "HF_TOKEN" in message and "secret" not in message
        assert h.engine.received == []


ERRORS = [
    pytest.param("400 Bad Request", 400, "Too many tokens: 9000.", "invalid_request", id="400"),
    pytest.param("500 Internal Server Error", 500, "CUDA error.", "backend_error", id="500"),
]


@EACH
@pytest.mark.parametrize(("status", "number", "message", "code"), ERRORS)
async def test_an_engines_own_refusal_is_an_error_of_the_clients_own_kind_with_its_words(
    client: Client, shows_loading: bool, status: str, number: int, message: str, code: str
) -> None:
    """Its status cannot be said any more; nor may its JSON stand in the stream as it came."""
    error = {"message": message, "type": "BadRequestError", "param": None, "code": number}
    shape = {"type": "error"} if client.path == "/v1/messages" else {}
    async with loading(answer(shape | {"error": error}, status=status), shows_loading=shows_loading) as h:
        h.provider.tell(LOADING)
        with pytest.raises(FAILURES) as caught:
            await client.ask(h, is_ready(h))
        assert said_by(caught.value) == (code, message)


@EACH
async def test_an_engine_that_breaks_off_is_an_error_of_the_clients_own_kind(
    client: Client, shows_loading: bool
) -> None:
    """Also where the answer had begun: what came of it is not taken for the whole."""
    script = stream(*client.events[:2], done=False)
    if client.path == "/v1/completions":
        script = stream(client.events[0], done=False)
    async with loading(script, shows_loading=shows_loading) as h:
        h.provider.tell(LOADING)
        with pytest.raises(FAILURES) as caught:
            await client.ask(h, is_ready(h))
        assert said_by(caught.value)[0] == "backend_lost"


# -- what a chat page shows ------------------------------------------------------------------------------------------


def shown_in(said: list[Any]) -> list[str]:
    """The lines of `reasoning_content`."""
    thought = [getattr(c.delta, "reasoning_content", None) or "" for chunk in said for c in chunk.choices]
    return [line.strip() for line in "".join(thought).splitlines() if line.strip()]


@BOTH_LOOPS
async def test_a_chat_page_shows_each_change_once_and_then_the_answer_of_the_same_stream() -> None:
    """Each piece of news comes when the one before was shown; comments fill the time between."""
    next_news = {"": LOADING, "Loading the model": Loading("warming"), "Warming up": Ready(("served",))}
    async with loading(stream(*OF_CHAT), shows_loading=True) as h, openai_at(h) as sdk:
        said: list[Any] = []
        async for chunk in await sdk.chat.completions.create(model="gpt-4o", messages=ASKED, stream=True):
            said.append(chunk)
            phases = [line.split(":")[0] for line in shown_in(said)]
            for shown in ("", phases[-1]):
                if news := next_news.pop(shown, None):
                    h.provider.tell(news)
        lines = shown_in(said)
        phases = list(dict.fromkeys(line.split(":")[0] for line in lines))
        assert phases[-3:] == ["Loading the model", "Warming up", "Ready."]
        assert len(set(lines)) == len(lines)
        assert {(chunk.id, chunk.created, chunk.model) for chunk in said} == {(said[0].id, said[0].created, "gpt-4o")}
        assert said[0].id == f"chatcmpl-{h.visits[0].request_id}"
        assert [chunk.choices[0].delta.role for chunk in said if chunk.choices[0].delta.role] == ["assistant"]
        assert "".join(chunk.choices[0].delta.content or "" for chunk in said) == "Hello"


async def test_what_did_not_change_is_said_again_as_a_comment() -> None:
    async with loading(stream(*OF_CHAT), shows_loading=True) as h:
        h.provider.tell(Loading("queued"))
        heard = await heard_by(h, h.request(STREAMED), b": queued")
        assert heard.count(b"Waiting for a machine") == 1
        assert heard.index(b"Waiting for a machine") < heard.index(b": queued")


async def test_who_waits_in_line_is_shown_that_it_does() -> None:
    release = asyncio.Event()

    async def slow(request: Received, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await release.wait()
        await stream(*OF_CHAT)(request, reader, writer)

    async with house(script=slow, slots=1, grace=0.0, heartbeat=0.02, shows_loading=True) as h:
        first = asyncio.create_task(talk(h.port, h.request(STREAMED)))
        await h.until(lambda: h.engine.received)
        async with openai_at(h) as sdk:
            said: list[Any] = []
            async for chunk in await sdk.chat.completions.create(model="gpt-4o", messages=ASKED, stream=True):
                said.append(chunk)
                release.set()
            assert shown_in(said)[0] == "In line" and shown_in(said)[-1] == "Ready."
        await first


async def test_who_is_not_held_reads_the_engines_own_stream() -> None:
    """Also when the engine takes its time: only what is held is told, and nothing of it is written anew."""
    async with house(script=stream(*OF_CHAT), shows_loading=True) as h:
        for _ in range(2):  # the first one has to wait for the start, if not for long
            body = (await talk(h.port, h.request(STREAMED))).only.body
        assert body == b"".join(OF_CHAT) + b"data: [DONE]\n\n"


async def test_a_caller_who_wants_no_stream_is_shown_nothing() -> None:
    async with loading(answer({"ok": True}), shows_loading=True) as h:
        heard = asyncio.create_task(talk(h.port, h.request(CHAT)))
        await h.until(lambda: h.conductor.snapshot().waiting == 1)
        h.provider.tell(Ready(("served",)))
        assert (await heard).only.json == {"ok": True}


async def test_without_a_name_the_stream_is_that_of_the_model_that_is_served() -> None:
    async with loading(stream(*OF_CHAT), shows_loading=True) as h:
        heard = await heard_by(h, h.request({"messages": ASKED, "stream": True}), b"reasoning_content")
        models = [json.loads(line[6:])["model"] for line in heard.splitlines() if line.startswith(b"data: {")]
        assert set(models) == {"served"} and len(models) > len(OF_CHAT)
