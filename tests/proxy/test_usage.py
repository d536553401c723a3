"""What engines say of tokens is found wherever they say it, however it is cut; nobody else passes for them."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.proxy.usage import REST_MAX, TRIES, Usage, UsageWatch, usage_in

CHAT = {"prompt_tokens": 12, "completion_tokens": 34, "total_tokens": 46}
SAID = Usage(12, 34)
FAKE = '"usage":{"prompt_tokens":1,"completion_tokens":1,"total_tokens":2}'


def compact(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def event(value: object, name: str = "") -> bytes:
    return (f"event: {name}\n" if name else "").encode() + b"data: " + compact(value) + b"\n\n"


def watched(*reads: bytes) -> Usage | None:
    watch = UsageWatch()
    for read in reads:
        watch.feed(read)
    return watch.usage


# -- answers in one piece ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "usage"),
    [
        ({"id": "1", "choices": [{"message": {"content": "hi"}}], "usage": CHAT}, SAID),
        ({"choices": [], "usage": CHAT, "timings": {"predicted_n": 99}, "id": "x"}, SAID),
        ({"data": [{"embedding": [0.1, 0.2]}], "usage": {"prompt_tokens": 8, "total_tokens": 8}}, Usage(8, 0)),
        ({"usage": {"prompt_tokens": 8, "total_tokens": 8}, "data": [{"embedding": [[0.1], [0.2]]}]}, Usage(8, 0)),
        ({"usage": {"total_tokens": 8}, "results": [{"document": {"text": "}]"}}]}, Usage(8, 0)),
        ({"output": [], "usage": {"input_tokens": 5, "output_tokens": 6, "total_tokens": 11}}, Usage(5, 6)),
        (
            {
                "content": [],
                "usage": {
                    "input_tokens": 5,
                    "cache_read_input_tokens": 100,
                    "cache_creation_input_tokens": 20,
                    "output_tokens": 6,
                },
            },
            Usage(125, 6),
        ),
        (
            {"usage": {"prompt_tokens": 1, "completion_tokens": 2, "prompt_tokens_details": {"cached": [1]}}},
            Usage(1, 2),
        ),
    ],
    ids=[
        "chat",
        "llama-server",
        "embeddings",
        "embeddings of llama-server",
        "rerank",
        "responses",
        "messages",
        "nested",
    ],
)
def test_an_answer_in_one_piece(answer: dict[str, Any], usage: Usage) -> None:
    assert usage_in(compact(answer)) == usage
    assert usage_in(json.dumps(answer, indent=2).encode()) == usage


def test_the_total_is_prompt_and_completion() -> None:
    assert SAID.total == 46


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"{}",
        b'{"usage":null}',
        b'{"usage":"usage"}',
        b'{"usage":[1]}',
        b'{"usage":{}}',
        b'{"usage":{"type":"duration","seconds":3}}',
        b'{"usage":{"prompt_tokens":-1}}',
        b'{"usage":{"prompt_tokens":true}}',
        b'{"usage":{"prompt_tokens":1.5}}',
        b'{"usage":{"prompt_tokens":"1"}}',
        b'{"usage":{"prompt_tokens":99999999999999999999}}',
        b'{"usage":{"prompt_tokens":12',
        b'{"usage":{' + b'"a":{' * 700,
        b'{"usage":{"a":"' + b"x" * 5000 + b'"}}',
        b'"usage":{"prompt_tokens":1,"completion_tokens":1}',
    ],
)
def test_what_says_nothing_that_can_be_believed(answer: bytes) -> None:
    assert usage_in(answer) is None
    assert watched(b"data: " + answer + b"\n\n") is None


def test_the_end_of_a_long_answer_is_enough() -> None:
    answer = compact({"choices": [{"message": {"content": 'a "b" \\ {[' * 9000}}], "usage": CHAT, "id": "x"})
    for length in range(90, 4096, 7):
        assert usage_in(answer[-length:], answer[:4096]) == SAID


def test_the_beginning_of_a_long_answer_is_where_llama_server_says_it() -> None:
    embeddings = {"model": "m", "usage": {"prompt_tokens": 8, "total_tokens": 8}, "data": [[0.25] * 50_000]}
    answer = compact(embeddings)
    assert usage_in(answer[-4096:], answer[:65536]) == Usage(8, 0)
    assert usage_in(answer[-4096:], b"") is None


@pytest.mark.parametrize("where", ["first", "last"])
def test_a_tools_input_that_holds_a_usage_of_its_own_is_not_the_engines(where: str) -> None:
    """In an answer of /v1/messages the model writes objects, not only strings."""
    block = {"type": "tool_use", "input": {"usage": {"input_tokens": 0, "output_tokens": 0}, "x": [{"usage": CHAT}]}}
    content, usage = {"content": [block] * TRIES}, {"usage": {"input_tokens": 7, "output_tokens": 9}}
    answer = usage | content if where == "first" else content | usage
    assert usage_in(compact(answer)) == Usage(7, 9)


def test_thousands_of_fakes_cost_a_few_looks() -> None:
    block = b"[" + b",".join([b"{%b}" % FAKE.encode()] * 20_000) + b"]"
    assert usage_in(b'{"content":' + block + b"}") is None
    assert usage_in(b'{"content":' + block + b',"usage":{"input_tokens":7,"output_tokens":9}}') == Usage(7, 9)
    assert watched(b'data: {"a":' + block + b"}\n\n") is None


# -- streams ----------------------------------------------------------------------------------

TEXT = {"choices": [{"index": 0, "delta": {"content": "word"}, "finish_reason": None}], "usage": None}
CHAT_STREAM = [
    *[event(TEXT)] * 3,
    event({"choices": [], "usage": CHAT, "timings": {"predicted_n": 99}}),
    b"data: [DONE]\n\n",
]
RESPONSES_STREAM = [
    event({"type": "response.created", "response": {"id": "r", "usage": None}}, "response.created"),
    event({"type": "response.output_text.delta", "delta": "word"}, "response.output_text.delta"),
    event(
        {
            "type": "response.completed",
            "response": {
                "tools": [{"parameters": {"properties": {"usage": {"input_tokens": 0, "output_tokens": 0}}}}],
                "output": [{"content": [{"text": "word " * 5000}]}],
                "usage": {"input_tokens": 12, "input_tokens_details": {"cached_tokens": 1}, "output_tokens": 34},
                "metadata": {"usage": "{}"},
            },
        },
        "response.completed",
    ),
]
MESSAGES_STREAM = [
    event({"type": "message_start", "message": {"usage": {"input_tokens": 12, "output_tokens": 1}}}, "message_start"),
    event({"type": "content_block_delta", "delta": {"text": "word"}}, "content_block_delta"),
    event({"type": "message_delta", "delta": {}, "usage": {"output_tokens": 20}}, "message_delta"),
    event({"type": "message_delta", "delta": {}, "usage": {"output_tokens": 34}}, "message_delta"),
    event({"type": "message_stop"}, "message_stop"),
]
STREAMS = {"chat": CHAT_STREAM, "responses": RESPONSES_STREAM, "messages": MESSAGES_STREAM}


@pytest.mark.parametrize("stream", STREAMS.values(), ids=STREAMS)
def test_a_stream(stream: list[bytes]) -> None:
    assert watched(*stream) == SAID
    assert watched(b"".join(stream)) == SAID
    assert watched(b"".join(stream).replace(b"\n", b"\r\n")) == SAID
    assert watched(b"".join(stream).replace(b"\n", b"\r")) == SAID


def test_the_last_one_counts() -> None:
    """vLLM's continuous_usage_stats says it in each event."""
    assert watched(*(event({"usage": {"prompt_tokens": 12, "completion_tokens": n}}) for n in range(35))) == SAID


def test_a_stream_without_usage() -> None:
    assert watched(*[event(TEXT)] * 3, b"data: [DONE]\n\n") is None


def test_a_stream_that_was_cut_counts_what_was_said_until_then() -> None:
    assert watched(*MESSAGES_STREAM[:2]) == Usage(12, 1)


def test_a_last_event_without_its_line_end_counts() -> None:
    assert watched(event(TEXT), event({"usage": CHAT}).rstrip()) == SAID


def test_an_event_that_is_longer_than_any_memory_of_it() -> None:
    long = event({"text": "word " * REST_MAX, "usage": CHAT, "metadata": {}})
    assert watched(*(long[at : at + 1000] for at in range(0, len(long), 1000))) == SAID


words = st.one_of(
    st.text(max_size=20),
    st.sampled_from(
        ['"', "\\", "usage", '"usage"', "{" + FAKE + "}", FAKE, '\\"usage\\":{', "\n\ndata: {" + FAKE + "}"]
    ),
)
writing = st.lists(words, max_size=8).map("".join)
values = st.recursive(
    st.one_of(writing, st.integers(0, 9), st.none()),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.one_of(st.just("usage"), writing), inner, max_size=3),
        st.just({"usage": {"prompt_tokens": 1, "completion_tokens": 1}}),
    ),
    max_leaves=8,
)


@given(st.lists(st.tuples(writing, values), max_size=4), st.booleans(), st.data())
def test_no_text_and_no_object_of_a_model_passes_for_the_engines_word(
    pieces: list[tuple[str, Any]], says: bool, data: st.DataObject
) -> None:
    """Wherever the stream is cut into reads."""
    stream = b"".join(
        event({"choices": [{"delta": {"content": text, "input": value}}], "usage": None}) for text, value in pieces
    )
    if says:
        stream += event({"choices": [], "usage": CHAT}) + b"data: [DONE]\n\n"
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=6)))
    reads = [stream[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    assert watched(*reads) == (SAID if says else None)


@given(writing, values, st.booleans(), st.booleans())
def test_the_same_holds_for_an_answer_in_one_piece(text: str, value: Any, first: bool, says: bool) -> None:
    content = {"content": [{"text": text, "input": value}]}
    usage = {"usage": CHAT} if says else {}
    answer = compact(usage | content if first else content | usage)
    found = usage_in(answer)
    assert found == (SAID if says else None) or (found is None and answer.count(b'"usage"') > TRIES)


def test_its_repr_tells_what_it_knows() -> None:
    watch = UsageWatch()
    watch.feed(event({"usage": CHAT}) + b"data: {")
    assert repr(watch) == "<UsageWatch Usage(prompt=12, completion=34), 7 bytes unfinished>"
