"""What engines say of tokens is found wherever they say it, however it is cut; nobody else passes for them."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.proxy.usage import REST_MAX, TRIES, Usage, UsageWatch, usage_in, usage_of
from tests.proxy.conftest import Ask

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


def test_it_is_found_wherever_the_read_was_cut() -> None:
    stream = b"".join(CHAT_STREAM)
    for at in range(len(stream)):
        assert watched(stream[:at], stream[at:]) == SAID


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


def test_of_many_only_the_first_and_the_last_are_looked_at_and_that_is_enough() -> None:
    """`/v1/messages` says the prompt in the first; vLLM's continuous_usage_stats says all in each."""
    begin, *_, last = MESSAGES_STREAM
    between = [event({"type": "message_delta", "usage": {"output_tokens": n}}) for n in range(35)]
    assert watched(begin, *between, last) == SAID
    watch = UsageWatch()
    for each in (begin, *between):
        watch.feed(each)
    assert watch.usage == SAID
    watch.feed(event({"type": "message_delta", "usage": {"output_tokens": 40}}))
    assert watch.usage == Usage(12, 40)


def test_a_usage_that_was_parsed_already() -> None:
    assert usage_of(CHAT) == SAID
    assert usage_of(None) is usage_of({}) is usage_of([1]) is usage_of({"prompt_tokens": "1"}) is None


# -- what the caller did not ask for ----------------------------------------------------------


def stripped(*reads: bytes) -> bytes:
    """What passes, of a stream whose usage is counted all the same."""
    watch = UsageWatch(strip=True)
    passed = b"".join(map(watch.feed, reads))
    assert watch.usage == watched(*reads)
    return passed


def choice(text: str = "word", **more: object) -> bytes:
    return event({"id": "1", "choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}], **more})


USAGE = event({"id": "1", "choices": [], "usage": CHAT})
DONE = b"data: [DONE]\n\n"


def test_without_the_flag_everything_passes_as_the_same_bytes() -> None:
    watch = UsageWatch()
    for read in (choice(), USAGE, DONE, b"data: {", b""):
        assert watch.feed(read) is read


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_the_event_that_only_the_gateway_asked_for_does_not_pass(end: bytes) -> None:
    reads = [read.replace(b"\n", end) for read in (choice(), choice(), USAGE, DONE)]
    without = b"".join((*reads[:2], reads[3]))
    assert stripped(*reads) == without
    assert stripped(b"".join(reads)) == without
    assert stripped(reads[0], reads[1] + reads[2], reads[3]) == without


def test_it_does_not_pass_as_the_last_one_without_an_empty_line_either() -> None:
    assert stripped(choice(), USAGE.rstrip()) == choice()


def test_one_that_says_more_or_is_written_in_another_way_does_not_pass() -> None:
    """llama-server sends one for each choice; vLLM leaves out what is null."""
    for other in (
        event({"usage": CHAT, "choices": []}),
        event({"choices": None, "usage": CHAT, "object": "x"}),
        b"data:"
        + json.dumps({"choices": [], "usage": CHAT}, indent=None, separators=(" , ", " : ")).encode()
        + b"\n\n",
        b": a comment\n" + USAGE,
        b"event: chunk\nid: 7\n" + USAGE,
    ):
        assert stripped(choice(), other, choice(), other, DONE) == choice() + choice() + DONE


@pytest.mark.parametrize(
    "said",
    [
        choice(usage=None),
        choice(usage=CHAT),
        event({"choices": [], "prompt_filter_results": []}),
        event({"choices": [], "usage": None, "prompt_filter_results": []}),
        event({"choices": [], "timings": {"usage": CHAT}}),
        event({"usage": CHAT}),
        choice('{"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":1}}'),
        b": " + compact({"choices": [], "usage": CHAT}) + b"\n\n",
        b'data: {"choices":[],\ndata: "usage":{}}\n\n',
        b'data: {"choices":[],"usage":{"prompt_tokens":1}}\ndata: and more\n\n',
        b'data: {"choices":[],"usage":{"prompt_tokens":1}\n\n',
    ],
    ids=[
        "null in each",
        "in an event with a choice",
        "Azure's first",
        "Azure's first, with a null",
        "elsewhere",
        "no choices at all",
        "in a text",
        "in a comment",
        "in two lines",
        "in one of two lines",
        "no JSON",
    ],
)
def test_everything_else_passes_as_it_is(said: bytes) -> None:
    assert stripped(said) == said
    assert stripped(choice(), said, DONE) == choice() + said + DONE
    assert stripped(choice() + said + DONE) == choice() + said + DONE


def test_a_piece_of_an_event_passes_as_it_is() -> None:
    """One longer than what is kept of an unfinished one."""
    long = choice("word " * 50_000, usage=CHAT)
    assert stripped(*(long[at : at + 65536] for at in range(0, len(long), 65536)), USAGE, DONE) == long + DONE


LAST = b'"created":1,"id":"chatcmpl-n","model":"demo.gguf","system_fingerprint":"b1","object":"chat.completion.chunk"'
TIMINGS = (
    b'"timings":{"cache_n":23,"prompt_n":1,"prompt_ms":0.235,"predicted_n":8,"predicted_per_second":8894.536213468868}'
)


def test_what_llama_server_says_elsewhere_when_it_is_asked_is_put_back() -> None:
    """`timings` stand in the last event with a choice, and in that with the usage where one is asked for."""
    last = b'data: {"choices":[{"finish_reason":"length","index":0,"delta":{}}],' + LAST
    counts = b'"usage":{"completion_tokens":8,"prompt_tokens":24,"prompt_tokens_details":{"cached_tokens":23}}'
    asked = last + b'}\n\ndata: {"choices":[],' + LAST + b"," + counts + b"," + TIMINGS + b"}\n\n" + DONE
    assert stripped(choice(), asked) == choice() + last + b"," + TIMINGS + b"}\n\n" + DONE


def test_it_is_put_back_only_where_it_can_be() -> None:
    usage = event({"id": "1", "choices": [], "usage": CHAT, "timings": {"n": 1}})
    assert stripped(choice(), usage, DONE) == choice() + DONE
    assert stripped(choice(timings=1) + usage) == choice(timings=1)
    assert stripped(b": loading\n\n" + usage) == b": loading\n\n"
    assert stripped(event({"choices": []}) + usage) == event({"choices": []})
    assert stripped(b"data: half}\n\n" + usage) == b"data: half}\n\n"


@given(st.lists(writing, max_size=5), st.data())
def test_a_stream_passes_as_it_would_have_come_unasked_whatever_the_model_writes(
    texts: list[str], data: st.DataObject
) -> None:
    """Cut between events, as they come."""
    said = [choice(text, usage=None) if data.draw(st.booleans()) else choice(text) for text in texts]
    asked = [*said, USAGE, DONE]
    cuts = sorted(data.draw(st.sets(st.integers(1, len(asked)))) | {len(asked)})
    reads = [b"".join(asked[begin:end]) for begin, end in zip([0, *cuts], cuts, strict=False)]
    assert stripped(*reads) == b"".join(said) + DONE


def same_but_for(stream: bytes) -> list[Any]:
    """The events, without what differs from one request to the next."""
    lines = stream.decode().split("\n\n")
    said = [json.loads(line.removeprefix("data: ")) for line in lines if line not in ("", "data: [DONE]")]
    for each in said:
        each["id"] = each["created"] = 0
        if "timings" in each:
            each["timings"] = dict.fromkeys(each["timings"], 0)
        if each.get("usage"):
            each["usage"].pop("prompt_tokens_details", None)
    return said + lines[-2:]


@pytest.mark.engine
@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "Hello"}]}),
        ("/v1/completions", {"prompt": "Once"}),
    ],
    ids=["chat", "completion"],
)
async def test_a_real_engines_stream_passes_as_if_nobody_had_asked(ask: Ask, path: str, body: dict[str, Any]) -> None:
    body = {**body, "seed": 1, "max_tokens": 8, "stream": True}
    unasked = await ask(path, body)
    asked = await ask(path, {**body, "stream_options": {"include_usage": True}})
    assert same_but_for(stripped(asked)) == same_but_for(unasked)
    said = watched(asked)
    assert said is not None and said.completion == 8


def test_its_repr_tells_what_it_knows() -> None:
    watch = UsageWatch()
    watch.feed(event({"usage": CHAT}) + b"data: {")
    assert repr(watch) == "<UsageWatch Usage(prompt=12, completion=34), 7 bytes unfinished>"
