"""LOADING_TEXT: what a chat page shows while it waits, and that the model's stream goes on from it as one answer.

The rules, and the way of the events; as callers hear it from a whole gateway: `test_held_callers.py`.
"""

import json
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.lib.streaming.chat import ChatCompletionStreamState
from openai.types.chat import ChatCompletionChunk

from gateway.errors import Refused
from gateway.proxy.connection import Connection
from gateway.proxy.dialects import OPENAI
from gateway.proxy.framing import TAIL_MAX
from gateway.proxy.loading_text import LoadingText, for_people
from gateway.proxy.reply import Reply
from gateway.proxy.stream import JOINED_MAX, EventStream, JoinedStream, stream_into

SAME = {"id": "chatcmpl-ours", "created": 1_800_000_000, "model": "gpt-4o"}


def loading_text(*heartbeats: str) -> LoadingText:
    text = LoadingText("chatcmpl-ours", model="gpt-4o", created=1_800_000_000)
    for heartbeat in heartbeats:
        text.event(heartbeat)
    return text


def chunks(stream: bytes) -> list[dict[str, Any]]:
    said = (line.removeprefix(b"data:").strip() for line in stream.splitlines() if line.startswith(b"data:"))
    return [json.loads(each) for each in said if each != b"[DONE]"]


# -- the words -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("heartbeat", "shown"),
    [
        ("loading 43% 12.1/28.0 GiB, about 25 s", "Loading the model: 43%, 12.1/28.0 GiB, about 25 s"),
        ("loading 43%, about 25 s", "Loading the model: 43%, about 25 s"),
        ("loading 43%", "Loading the model: 43%"),
        ("downloading 12.1/28.0 GiB", "Downloading the model: 12.1/28.0 GiB"),
        ("warming, longer than usual", "Warming up: longer than usual"),
        ("waking", "Waking the model"),
        ("in line", "In line"),
        ("working on the prompt", "Ready, working on the prompt"),
        ("loading\n\n 43%\r\n", "Loading the model: 43%"),
        ("", ""),
    ],
)
def test_a_person_reads_a_sentence_of_what_a_heartbeat_says(heartbeat: str, shown: str) -> None:
    assert for_people(heartbeat) == shown


def test_every_phase_of_a_start_has_its_words() -> None:
    from gateway.policy.estimate import PHASES

    assert [phase for phase in (*PHASES, "ordered") if for_people(phase).lower() == phase] == []


# -- our chunks ------------------------------------------------------------------------------------------------------


def test_a_chunk_tells_each_change_and_the_role_is_said_once() -> None:
    text = loading_text()
    assert not text.has_begun
    told = [text.event("loading 1%"), text.event("loading 1%"), text.event("loading 2%"), text.ready()]
    assert told[1] is None and text.has_begun
    said = chunks(b"".join(filter(None, told)))
    assert [chunk["choices"][0]["delta"] for chunk in said] == [
        {"role": "assistant", "reasoning_content": "Loading the model: 1%  \n"},
        {"reasoning_content": "Loading the model: 2%  \n"},
        {"reasoning_content": "Ready.\n\n"},
    ]


def test_that_it_is_ready_is_said_once() -> None:
    text = loading_text("loading 99%", "working on the prompt")
    assert chunks(text.ready())[0]["choices"][0]["delta"] == {"reasoning_content": "\n"}


@pytest.mark.parametrize("model", ["gpt-4o", 'q"\n\ndata: [DONE]', "名前 \ud83d"])
def test_each_is_one_event_that_a_strict_reader_takes(model: str) -> None:
    text = LoadingText("chatcmpl-ours", model=model, created=1)
    for event in (text.event('loading 1% "x"\n\ndata: {}'), text.event("in line"), text.ready()):
        assert event is not None and event.endswith(b"\n\n") and event.count(b"\n") == 2
        (chunk,) = chunks(event)
        ChatCompletionChunk.model_validate(chunk, strict=True)
        assert chunk["object"] == "chat.completion.chunk"
        assert chunk["choices"][0] | {"delta": 0} == {"index": 0, "delta": 0, "logprobs": None, "finish_reason": None}


# -- the engine's chunks ---------------------------------------------------------------------------------------------


def joined(event: str) -> str:
    return loading_text("waking").joined(event.encode("utf-8", "surrogateescape")).decode("utf-8", "surrogateescape")


def test_only_what_is_the_same_in_all_chunks_is_replaced_and_every_other_byte_stays() -> None:
    before = (
        'data: { "id" : "B","object":"chat.completion.chunk", "x":[1e2,-0.0,1.10, "\\ud83d"],"created":\t5,'
        '"choices": [{"index":0,"delta":{"content":"\\u00e9 \\"id\\":\\"B\\" é"},"finish_reason":null}] , '
        '"model":"served"}\r\n\r\n'
    )
    after = before.replace('"id" : "B"', '"id" : "chatcmpl-ours"').replace('"created":\t5', '"created":\t1800000000')
    assert joined(before) == after.replace('"served"', '"gpt-4o"')


def test_a_tool_call_keeps_its_own_id_and_a_chunk_without_one_gets_ours() -> None:
    call = {"index": 0, "id": "B", "type": "function", "function": {"name": "f", "arguments": ""}}
    choice = {"index": 0, "delta": {"tool_calls": [call]}, "finish_reason": None}
    (chunk,) = chunks(joined(f"data: {json.dumps({'choices': [choice]})}\n\n").encode())
    assert chunk == SAME | {"choices": [choice]}


def test_the_role_is_taken_from_the_answer_that_told_and_from_no_other() -> None:
    choices = [{"index": n, "delta": {"role": "assistant", "content": "\ud83d"}} for n in (0, 1)]
    (chunk,) = chunks(joined(f"data: {json.dumps({'id': 'B', 'choices': choices})}\n\n").encode())
    assert [choice["delta"] for choice in chunk["choices"]] == [
        {"content": "\ud83d"},
        {"role": "assistant", "content": "\ud83d"},
    ]


@pytest.mark.parametrize(
    "event",
    [
        "data: [DONE]\n\n",
        ": waiting for the engine\n\n",
        'data: {"error":{"message":"no","id":"B"}}\n\n',
        'data: {"id":"B","choices":[{"delta":{"role":"assistant"}\n\n',
        'data: {"id":"B","choices":[]\n\n',
        'data: {"id" "B","choices":[]}\n\n',
        'data: {"id":"B"\n\n',
        "data: {}\n\n",
        "data: {",
        "data: " + '{"a":' * 100_000 + "\n\n",
        'event: x\nid: "B"\n\n',
        'data: {"id":"B","object":"thread","choices":"none"}\n\n',
        "",
    ],
    ids=lambda event: repr(event)[:40],
)
def test_what_is_no_chunk_stays_as_it_is(event: str) -> None:
    assert joined(event) == event


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_no_bytes_of_an_engine_break_it(data: bytes) -> None:
    text = loading_text("waking")
    text.joined(data)
    text.joined(b"data: {" + data + b"}\n\n")
    if b"\n" not in data and b"\r" not in data:
        as_content = json.dumps({"id": "B", "choices": [{"delta": {"content": data.decode("latin-1")}}]})
        (chunk,) = chunks(text.joined(f"data: {as_content}\n\n".encode()))
        assert chunk["choices"][0]["delta"]["content"] == data.decode("latin-1")


# -- the whole stream, however it comes ------------------------------------------------------------------------------


def of_vllm(*deltas: dict[str, Any], finish: str = "stop", **more: Any) -> Iterator[dict[str, Any]]:
    """As vLLM says it: the role with an empty text first, the usage in a chunk without a choice."""
    head = {"id": "chatcmpl-b", "object": "chat.completion.chunk", "created": 5, "model": "served"}
    for delta in ({"role": "assistant", "content": ""}, *deltas):
        yield head | {"choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": None}]}
    yield head | {"choices": [{"index": 0, "delta": {"content": ""}, "finish_reason": finish, "stop_reason": None}]}
    yield head | {"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}}


def of_llama_server(*deltas: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Keys in order of the alphabet, no text in the first chunk, times in the last."""
    tail = {"created": 5, "id": "chatcmpl-b", "model": "served", "object": "chat.completion.chunk"}
    for delta in ({"role": "assistant", "content": None}, *deltas):
        yield {"choices": [{"finish_reason": None, "index": 0, "delta": delta}]} | tail
    yield {"choices": [{"finish_reason": "stop", "index": 0, "delta": {}}]} | tail | {"timings": {"prompt_ms": 1.5}}


def of_others(*texts: str) -> Iterator[dict[str, Any]]:
    """The role in every chunk, as several engines say it."""
    for text in texts:
        delta = {"role": "assistant", "content": text}
        yield {"id": "b", "object": "chat.completion.chunk", "created": 5, "model": "m", "choices": [_first(delta)]}
    yield {"object": "chat.completion.chunk", "choices": [_first({"role": "assistant"}) | {"finish_reason": "stop"}]}


def two_answers() -> Iterator[dict[str, Any]]:
    head = {"id": "b", "object": "chat.completion.chunk", "created": 5, "model": "m"}
    for index in (0, 1):
        yield head | {"choices": [_first({"role": "assistant", "content": ""}) | {"index": index}]}
    for index in (1, 0):
        yield head | {"choices": [_first({"content": f"answer {index}"}) | {"index": index}]}
    for index in (1, 0):
        yield head | {"choices": [_first({}) | {"index": index, "finish_reason": "stop"}]}


def _first(delta: dict[str, Any]) -> dict[str, Any]:
    return {"index": 0, "delta": delta, "finish_reason": None}


def call(arguments: str, **more: Any) -> dict[str, Any]:
    return {"tool_calls": [{"index": 0, "function": {"arguments": arguments}} | more]}


LONG = "long \u00e9 " * (TAIL_MAX // 4)
STREAMS: dict[str, list[dict[str, Any]]] = {
    "vllm": list(of_vllm({"content": "Hel"}, {"content": 'lo\n\ndata: {"id":"x"}'})),
    "vllm, thinking": list(of_vllm({"reasoning_content": "Hm"}, {"reasoning_content": "."}, {"content": "Yes \u4f60"})),
    "vllm, a tool": list(
        of_vllm(
            call("", id="chatcmpl-b", type="function") | {"content": None},
            call('{"a":'),
            call(" 1}"),
            finish="tool_calls",
        )
    ),
    "llama-server": list(of_llama_server({"content": "Hel"}, {"content": "lo"})),
    "llama-server, thinking": list(of_llama_server({"reasoning_content": "Hm"}, {"content": "Yes"})),
    "a role in each": list(of_others("Hel", "lo")),
    "two answers": list(two_answers()),
    "a long event": list(of_vllm({"content": LONG}, {"content": "."})),
    "a long event first": list(of_others(LONG, ".")),
}


def as_stream(said: list[dict[str, Any]], *, spaced: bool = False, end: str = "\n\n", done: bool = True) -> bytes:
    separators = (", ", ": ") if spaced else (",", ":")
    events = [f"data: {json.dumps(each, separators=separators, ensure_ascii=spaced)}{end}" for each in said]
    return "".join([*events, f"data: [DONE]{end}" if done else ""]).encode()


def added_up(stream: bytes) -> dict[str, Any]:
    """What OpenAI's SDK makes of it in `chat.completions.stream()`."""
    state = ChatCompletionStreamState()
    for chunk in chunks(stream):
        state.handle_chunk(ChatCompletionChunk.construct(**chunk))
    return cast(dict[str, Any], state.current_completion_snapshot.to_dict())


class Heard:
    """As much of a Reply as an EventStream uses."""

    def __init__(self, text: LoadingText | None) -> None:
        self.loading_text = text
        self.dialect = OPENAI
        self.first_token_at: float | None = None
        self.events = 0
        self.data = b""

    def pass_now(self, data: bytes, framed: bytes | None = None) -> bool:
        self.data += data
        return True


def way_into(heard: Heard, *, choices: int = 1, hides_usage: bool = False) -> EventStream:
    connection = cast(Connection, SimpleNamespace())
    return stream_into(connection, cast(Reply, heard), choices=choices, hides_usage=hides_usage)


@settings(deadline=None)
@given(
    name=st.sampled_from(sorted(STREAMS)),
    spaced=st.booleans(),
    end=st.sampled_from(["\n\n", "\r\n\r\n"]),
    cuts=st.lists(st.floats(0, 1), max_size=8),
    heartbeats=st.lists(st.sampled_from(["waking", "loading 1%", "loading 2%", "in line"]), min_size=1, max_size=4),
)
async def test_the_answer_is_the_engines_own_with_the_text_before_what_it_thinks(
    name: str, spaced: bool, end: str, cuts: list[float], heartbeats: list[str]
) -> None:
    """However the engine's bytes are split into reads, and however it spells them."""
    said = STREAMS[name]
    own = as_stream(said, spaced=spaced, end=end)
    text = loading_text()
    told = b"".join(text.event(heartbeat) or b"" for heartbeat in heartbeats) + text.ready()
    shown = "".join(chunk["choices"][0]["delta"]["reasoning_content"] for chunk in chunks(told))
    heard = Heard(text)
    way = way_into(heard, choices=2 if name == "two answers" else 1)
    assert isinstance(way, JoinedStream)
    places = sorted(int(cut * len(own)) for cut in cuts)
    for begin, stop in zip([0, *places], [*places, len(own)], strict=True):
        if read := own[begin:stop]:
            way.take(read, read)
    way.end()
    whole = added_up(told + heard.data)
    expected = added_up(as_stream(said)) | SAME
    expected["choices"][0]["message"]["role"] = "assistant"  # engines that say it in every chunk: the SDK adds it up
    thought = expected["choices"][0]["message"].get("reasoning_content") or ""
    expected["choices"][0]["message"]["reasoning_content"] = shown + thought
    for choice in (*whole["choices"], *expected["choices"]):
        # What no delta said the SDK fills in with None from the second chunk on.
        choice["message"] = {key: value for key, value in choice["message"].items() if value is not None}
        choice.pop("logprobs", None)
    assert whole == expected
    assert {json.dumps([chunk[key] for key in SAME]) for chunk in chunks(told + heard.data)} == {
        json.dumps(list(SAME.values()))
    }
    assert sum("role" in c["delta"] for chunk in chunks(told + heard.data) for c in chunk["choices"]) == (
        2 if name == "two answers" else 1
    )
    assert heard.data.endswith(f"data: [DONE]{end}".encode())


async def test_a_stream_that_was_told_nothing_goes_the_short_way() -> None:
    for text in (None, loading_text()):
        assert type(way_into(Heard(text))) is EventStream
    assert type(way_into(Heard(loading_text("waking")))) is JoinedStream


async def test_the_count_of_tokens_that_only_the_gateway_asked_for_stays_hidden() -> None:
    heard = Heard(loading_text("waking"))
    way = way_into(heard, hides_usage=True)
    way.take(as_stream(STREAMS["vllm"]), None)
    way.end()
    assert b"usage" not in heard.data and heard.data.count(b"chatcmpl-ours") == 4


async def test_an_event_that_the_engine_left_without_an_empty_line_is_joined_too() -> None:
    long = {"id": "b", "choices": [_first({"content": LONG}) | {"finish_reason": "stop"}]}
    for said in (STREAMS["llama-server"], [long]):
        heard = Heard(loading_text("waking"))
        way = way_into(heard)
        way.take(as_stream(said, done=False).rstrip(b"\n"), None)
        way.end()
        assert [chunk["id"] for chunk in chunks(heard.data)] == ["chatcmpl-ours"] * len(said)


async def test_of_a_long_event_that_was_cut_nothing_passes_and_one_that_is_too_long_passes_as_it_came() -> None:
    held = b"data: " + json.dumps({"id": "b", "choices": [_first({"content": "x" * (JOINED_MAX - 200)})]}).encode()
    heard = Heard(loading_text("waking"))
    way = way_into(heard)
    way.take(held[:-10], None)
    assert heard.data == b"" and not way.may_be_interrupted
    with pytest.raises(Refused):
        way.end()
    longer = held.replace(b"xxx", b"xxxx", 100_000)
    heard = Heard(loading_text("waking"))
    way = way_into(heard)
    for at in range(0, len(longer), 100_000):
        way.take(longer[at : at + 100_000], None)
    way.take(b"\n\n", None)
    assert heard.data == longer + b"\n\n"
    way.take(as_stream(STREAMS["vllm"]), None)
    way.end()
    assert heard.data.count(b"chatcmpl-ours") == len(STREAMS["vllm"])
