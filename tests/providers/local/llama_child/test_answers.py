"""The child's answers: those of the package's own server, and whole where that one's are not."""

import base64
import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import httpx2
import openai
import pytest

from tests.support.llama import Child, llama_child, make_model, reference_server

pytestmark = pytest.mark.engine

HELLO = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is the capital of Norway?"}]
SCHEMA = {
    "type": "object",
    "properties": {"sure": {"type": "boolean"}, "city": {"enum": ["Oslo", "Bergen"]}},
    "required": ["sure", "city"],
    "additionalProperties": False,
}
TOOL = {"type": "function", "function": {"name": "tell", "description": "Tell it.", "parameters": SCHEMA}}


@pytest.fixture(scope="module")
def reference(demo_model: Path) -> Iterator[str]:
    words = ["--n_ctx", "8192", "--embedding", "true", "--logits_all", "true", "--model_alias", "demo"]
    with reference_server(demo_model, *words) as url:
        yield url


async def ask(url: str, route: str, body: dict[str, Any]) -> dict[str, Any]:
    async with aiohttp.ClientSession(url) as session, session.post(route, json=body) as answer:
        assert answer.status == 200, await answer.text()
        return dict(await answer.json())


def comparable(answer: dict[str, Any]) -> dict[str, Any]:
    """Without what differs from answer to answer."""
    return {key: value for key, value in answer.items() if key not in ("id", "created")}


@pytest.mark.parametrize(
    "more",
    [
        {"max_tokens": 24},
        {"max_tokens": 24, "repeat_penalty": 1.0, "frequency_penalty": 0.5},
        {"max_tokens": 24, "stop": [" ba", " be", " bi", " bo", " bu", " da", " de", " ka", " ke", " ra"]},
        {"max_tokens": 24, "logit_bias": {"300": 40}},
        {"max_tokens": 60, "response_format": {"type": "json_object", "schema": SCHEMA}},
    ],
    ids=["plain", "penalties", "stop", "logit_bias", "schema"],
)
async def test_a_chat_answer_is_the_one_of_the_packages_server(
    child: Child, reference: str, more: dict[str, Any]
) -> None:
    """Same text, same reason to end, same usage, same shape."""
    body = {"model": "demo", "messages": HELLO, "temperature": 0, **more}
    status, ours = await child.post("/v1/chat/completions", body)
    assert status == 200
    assert comparable(ours) == comparable(await ask(reference, "/v1/chat/completions", body))


@pytest.mark.parametrize("more", [{}, {"max_tokens": 30}, {"max_tokens": 9, "echo": True}], ids=["16", "30", "echo"])
async def test_a_completion_is_the_one_of_the_packages_server(
    child: Child, reference: str, more: dict[str, Any]
) -> None:
    body = {"model": "demo", "prompt": "Once upon a time", "temperature": 0, **more}
    status, ours = await child.post("/v1/completions", body)
    assert status == 200
    assert comparable(ours) == comparable(await ask(reference, "/v1/completions", body))


async def test_log_probabilities_are_those_of_the_packages_server(child: Child, reference: str) -> None:
    body = {"model": "demo", "prompt": "Once upon a time", "temperature": 0, "max_tokens": 8, "logprobs": 3}
    _, ours = await child.post("/v1/completions", body)
    theirs = await ask(reference, "/v1/completions", body)
    mine, other = ours["choices"][0]["logprobs"], theirs["choices"][0]["logprobs"]
    assert mine["tokens"] == other["tokens"]
    assert mine["token_logprobs"] == pytest.approx(other["token_logprobs"], abs=1e-3)
    for left, right in zip(mine["top_logprobs"], other["top_logprobs"], strict=True):
        assert left == pytest.approx(right, abs=1e-3)


async def test_embeddings_are_those_of_the_packages_server(child: Child, reference: str) -> None:
    body = {"model": "demo", "input": ["a first text", "and another, somewhat longer one"]}
    _, ours = await child.post("/v1/embeddings", body)
    theirs = await ask(reference, "/v1/embeddings", body)
    assert ours["usage"] == theirs["usage"]
    assert [each["index"] for each in ours["data"]] == [0, 1]
    for mine, other in zip(ours["data"], theirs["data"], strict=True):
        assert mine["embedding"] == pytest.approx(other["embedding"], abs=2e-3)


async def test_a_stream_says_what_the_whole_answer_says(child: Child) -> None:
    body = {"messages": HELLO, "temperature": 0, "max_tokens": 24}
    _, whole = await child.post("/v1/chat/completions", body)
    chunks = await child.stream("/v1/chat/completions", body)
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant"}
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert len({chunk["id"] for chunk in chunks}) == 1
    text = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)
    assert text == whole["choices"][0]["message"]["content"]
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks[-2:]] == [None, "length"]


@pytest.mark.parametrize("route", ["/v1/chat/completions", "/v1/completions"])
async def test_include_usage_adds_a_last_chunk_with_true_counts(child: Child, route: str) -> None:
    body = {"messages": HELLO, "prompt": "Once", "temperature": 0, "max_tokens": 11}
    _, whole = await child.post(route, body)
    without = await child.stream(route, body)
    assert all("usage" not in chunk and chunk["choices"] for chunk in without)
    *_, last = await child.stream(route, {**body, "stream_options": {"include_usage": True}})
    assert last["choices"] == []
    assert last["usage"] == whole["usage"]


async def test_a_stream_carries_each_tokens_log_probability_once(child: Child) -> None:
    body = {"messages": HELLO, "temperature": 0, "max_tokens": 9, "logprobs": True, "top_logprobs": 2}
    _, whole = await child.post("/v1/chat/completions", body)
    chunks = await child.stream("/v1/chat/completions", body)
    streamed = [entry for chunk in chunks for entry in (chunk["choices"][0]["logprobs"] or {"content": []})["content"]]
    tokens = whole["choices"][0]["logprobs"]["content"]
    assert [entry["token"] for entry in streamed] == [entry["token"] for entry in tokens]
    assert "".join(entry["token"] for entry in tokens) == whole["choices"][0]["message"]["content"]
    for entry in tokens:
        assert len(entry["top_logprobs"]) == 2
        assert entry["logprob"] == entry["top_logprobs"][0]["logprob"]  # the likeliest, at temperature 0
        assert bytes(entry["bytes"]).decode() == entry["token"]


async def test_log_probabilities_of_a_repeated_prompt_are_computed_again(child: Child) -> None:
    """The engine still has the prompt's state then; the numbers must not come from anything older."""
    body = {"prompt": [300, 301, 302], "temperature": 0, "max_tokens": 1}
    await child.post("/v1/completions", body)
    _, first = await child.post("/v1/completions", {**body, "logprobs": 1})
    _, again = await child.post("/v1/completions", {**body, "logprobs": 1})
    values = [each["choices"][0]["logprobs"]["token_logprobs"][0] for each in (first, again)]
    assert values[0] == pytest.approx(values[1], abs=1e-4)


@pytest.mark.parametrize(
    "form",
    [
        {"type": "json_schema", "json_schema": {"name": "capital", "schema": SCHEMA, "strict": True}},
        {"type": "json_object", "schema": SCHEMA},
    ],
    ids=["json_schema", "json_object"],
)
async def test_even_nonsense_keeps_to_a_schema(child: Child, form: dict[str, Any]) -> None:
    body = {"messages": HELLO, "max_tokens": 60, "temperature": 1.5, "response_format": form}
    for seed in range(3):
        _, answer = await child.post("/v1/chat/completions", {**body, "seed": seed})
        said = json.loads(answer["choices"][0]["message"]["content"])
        assert isinstance(said.pop("sure"), bool)
        assert said.pop("city") in ("Oslo", "Bergen")
        assert said == {}
        assert answer["choices"][0]["finish_reason"] == "stop"


async def test_any_json_object_begins_as_one(child: Child) -> None:
    body = {"messages": HELLO, "max_tokens": 5, "temperature": 0, "response_format": {"type": "json_object"}}
    _, answer = await child.post("/v1/chat/completions", body)
    assert answer["choices"][0]["message"]["content"].startswith("{")


@pytest.mark.parametrize(
    "choice", ["required", {"type": "function", "function": {"name": "tell"}}], ids=["required", "name"]
)
async def test_a_tool_that_must_be_called_is_called_with_true_arguments(child: Child, choice: Any) -> None:
    body = {"messages": HELLO, "tools": [TOOL], "tool_choice": choice, "max_tokens": 60, "temperature": 0}
    _, answer = await child.post("/v1/chat/completions", body)
    message = answer["choices"][0]["message"]
    assert "function_call" not in message
    assert [call["function"]["name"] for call in message["tool_calls"]] == ["tell"]
    assert set(json.loads(message["tool_calls"][0]["function"]["arguments"])) == {"sure", "city"}
    assert answer["choices"][0]["finish_reason"] == "tool_calls"


async def test_a_tool_call_cut_by_max_tokens_says_length(child: Child) -> None:
    body = {"messages": HELLO, "tools": [TOOL], "tool_choice": "required", "max_tokens": 3, "temperature": 0}
    _, answer = await child.post("/v1/chat/completions", body)
    assert answer["choices"][0]["finish_reason"] == "length"
    chunks = await child.stream("/v1/chat/completions", body)
    assert chunks[-1]["choices"][0]["finish_reason"] == "length"


async def test_the_old_words_for_tools_are_answered_in_them(child: Child) -> None:
    body = {"messages": HELLO, "functions": [TOOL["function"]], "function_call": {"name": "tell"}, "max_tokens": 60}
    _, answer = await child.post("/v1/chat/completions", body)
    message = answer["choices"][0]["message"]
    assert message["function_call"]["name"] == "tell"
    assert "tool_calls" not in message


async def test_the_openai_sdk_reads_streams_tools_and_embeddings(child: Child) -> None:
    """It joins the parts of a streamed tool call, and asks for embeddings as base64."""
    transport = httpx2.AsyncHTTPTransport(uds=str(child.socket))
    async with openai.AsyncOpenAI(
        base_url="http://engine/v1", api_key="-", http_client=httpx2.AsyncClient(transport=transport)
    ) as sdk:
        async with sdk.chat.completions.stream(
            model="demo",
            messages=HELLO,
            tools=[TOOL],
            tool_choice={"type": "function", "function": {"name": "tell"}},
            max_tokens=60,
            stream_options={"include_usage": True},
        ) as stream:
            final = await stream.get_final_completion()
        call = final.choices[0].message.tool_calls[0]
        assert call.function.name == "tell"
        assert set(json.loads(call.function.arguments)) == {"sure", "city"}
        assert final.usage.completion_tokens > 0
        embedded = await sdk.embeddings.create(model="demo", input=["one", "two"])
        assert [len(each.embedding) for each in embedded.data] == [64, 64]


async def test_embeddings_as_base64_text_or_tokens_are_the_same_vector(child: Child) -> None:
    _, plain = await child.post("/v1/embeddings", {"input": "ab"})
    _, packed = await child.post("/v1/embeddings", {"input": ["ab"], "encoding_format": "base64"})
    _, tokens = await child.post("/v1/embeddings", {"input": [[5 + ord("a"), 5 + ord("b")]]})
    vector = plain["data"][0]["embedding"]
    raw = base64.b64decode(packed["data"][0]["embedding"])
    assert struct.unpack(f"<{len(vector)}f", raw) == pytest.approx(vector)
    assert tokens["data"][0]["embedding"] == pytest.approx(vector)
    assert tokens["usage"] == {"prompt_tokens": 2, "total_tokens": 2}


async def test_chat_and_embeddings_do_not_disturb_each_other(child: Child) -> None:
    chat = {"messages": HELLO, "temperature": 0, "max_tokens": 16}
    embed = {"input": "The quick brown fox"}
    _, said = await child.post("/v1/chat/completions", chat)
    _, vector = await child.post("/v1/embeddings", embed)
    _, longer = await child.post("/v1/embeddings", {"input": "long " * 200})  # a larger context of its own
    _, said_again = await child.post("/v1/chat/completions", chat)
    _, vector_again = await child.post("/v1/embeddings", embed)
    assert comparable(said) == comparable(said_again)
    assert vector["data"][0]["embedding"] == pytest.approx(vector_again["data"][0]["embedding"], abs=1e-4)
    assert longer["usage"]["prompt_tokens"] == 1000


async def test_a_chat_model_without_a_pooling_gives_one_vector_per_text(tmp_path: Path) -> None:
    """The package's server gives one per token then, which no OpenAI client can read."""
    model = make_model(tmp_path / "chat.gguf", "--no-pooling")
    with llama_child(tmp_path, model) as child:
        await child.until(status="ok")
        _, answer = await child.post("/v1/embeddings", {"input": "some words"})
        assert len(answer["data"][0]["embedding"]) == 64
        assert isinstance(answer["data"][0]["embedding"][0], float)


async def test_text_parts_are_joined_and_a_developer_is_a_system(child: Child) -> None:
    parts = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "What is"}, {"type": "text", "text": "it?"}]},
    ]
    plain = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is\nit?"}]
    answers = [
        await child.post("/v1/chat/completions", {"messages": each, "temperature": 0, "max_tokens": 8})
        for each in (parts, plain)
    ]
    assert comparable(answers[0][1]) == comparable(answers[1][1])


async def test_max_completion_tokens_is_max_tokens(child: Child) -> None:
    _, answer = await child.post("/v1/chat/completions", {"messages": HELLO, "max_completion_tokens": 3})
    assert answer["usage"]["completion_tokens"] == 3


async def test_a_seed_repeats_an_answer_and_none_does_not(child: Child) -> None:
    body = {"messages": HELLO, "max_tokens": 24, "temperature": 1.5}
    seeded = [(await child.post("/v1/chat/completions", {**body, "seed": 5}))[1] for _ in range(2)]
    free = [(await child.post("/v1/chat/completions", body))[1] for _ in range(2)]
    assert comparable(seeded[0]) == comparable(seeded[1])
    assert comparable(free[0]) != comparable(free[1])


async def test_an_answer_names_the_model_that_was_asked_for_or_the_first_alias(child: Child) -> None:
    body = {"messages": HELLO, "max_tokens": 1}
    assert (await child.post("/v1/chat/completions", body))[1]["model"] == "demo"
    assert (await child.post("/v1/chat/completions", {**body, "model": "second"}))[1]["model"] == "second"
    _, listed = await child.get("/v1/models")
    assert [each["id"] for each in listed["data"]] == ["demo", "second"]
