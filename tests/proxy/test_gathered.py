"""An answer that was streamed is, put together, the answer that the engine would have given at once."""

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.lib.streaming.chat import ChatCompletionStreamState
from openai.types import Completion
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from gateway.errors import Refused
from gateway.proxy.gathered import CHAT, TEXT, Gathered, kind_for
from gateway.proxy.usage import Usage
from tests.proxy.conftest import Ask
from tests.support.engines import soon

Json = dict[str, Any]
HEAD = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m"}


def event(value: object) -> bytes:
    return b"data: " + json.dumps(value, separators=(",", ":")).encode() + b"\n\n"


def chunk(delta: Json, finish: str | None = None, index: int = 0, **more: object) -> bytes:
    return event({**HEAD, "choices": [{"index": index, "delta": delta, "finish_reason": finish, **more}]})


def text(piece: str, finish: str | None = None, index: int = 0, **more: object) -> bytes:
    return event({**HEAD, "choices": [{"index": index, "text": piece, "finish_reason": finish, **more}]})


END = chunk({}, "stop")
DONE = b"data: [DONE]\n\n"


def gathered(*events: bytes, kind: str = CHAT, choices: int = 1) -> Gathered:
    answer = Gathered(kind, choices=choices)
    for each in events:
        answer.feed(each)
    return answer


def whole(*events: bytes, kind: str = CHAT) -> Json:
    answer: Json = json.loads(gathered(*events, kind=kind).answer())
    return answer


def message(*deltas: Json) -> Json:
    said: Json = whole(*map(chunk, deltas), END, DONE)["choices"][0]["message"]
    return said


# -- what becomes of each piece ---------------------------------------------------------------


def test_the_routes_whose_streams_can_be_made_one_answer() -> None:
    assert kind_for("/v1/chat/completions") == kind_for("/chat") == CHAT
    assert kind_for("/v1/completions") == TEXT
    assert kind_for("/v1/responses") is kind_for("/v1/messages") is kind_for("/v1/embeddings") is None


def test_texts_go_on_whatever_they_are_called() -> None:
    said = message(
        {"role": "assistant", "content": ""},
        {"reasoning_content": "let ", "reasoning": "me "},
        {"reasoning_content": "see", "reasoning": "think"},
        {"content": "Hel"},
        {"content": "lo", "of_next_year": "a"},
        {"of_next_year": "b", "refusal": None},
    )
    assert said == {
        "role": "assistant",
        "content": "Hello",
        "reasoning_content": "let see",
        "reasoning": "me think",
        "of_next_year": "ab",
        "refusal": None,
    }


def test_who_speaks_is_said_once_however_often_it_comes() -> None:
    assert message({"role": "assistant", "content": "a"}, {"role": "assistant", "content": "b"}) == {
        "role": "assistant",
        "content": "ab",
    }
    assert message({"content": "a"}) == {"role": "assistant", "content": "a"}


@pytest.mark.parametrize("first", [{"content": None}, {"content": ""}, {}], ids=["null", "empty", "not said"])
def test_no_content_is_null_beside_a_call_and_empty_elsewhere(first: Json) -> None:
    call = {"tool_calls": [{"index": 0, "id": "c", "function": {"name": "f", "arguments": "{}"}}]}
    assert message({"role": "assistant", **first})["content"] == ""
    assert message({"role": "assistant", **first}, {"reasoning": "hm"})["content"] == ""
    assert message({"role": "assistant", **first}, call)["content"] is None
    assert message({"role": "assistant", **first}, {"function_call": {"name": "f"}})["content"] is None
    assert message({"role": "assistant", **first}, {"content": "so"}, call)["content"] == "so"


def test_calls_are_put_together_by_their_index() -> None:
    said = message(
        {"tool_calls": [{"index": 0, "id": "a", "type": "function", "function": {"name": "f", "arguments": ""}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": '{"x"'}}]},
        {"tool_calls": [{"index": 1, "id": "b", "function": {"name": "g"}}, {"index": 0, "function": {"name": None}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": ":1}"}}]},
    )
    assert said["tool_calls"] == [
        {"id": "a", "type": "function", "function": {"name": "f", "arguments": '{"x":1}'}},
        {"id": "b", "type": "function", "function": {"name": "g", "arguments": ""}},
    ]


def test_an_engine_that_repeats_id_type_and_name_in_each_chunk_says_them_once() -> None:
    """llama-cpp-python's own server does."""
    piece = {"index": 0, "id": "a", "type": "function", "function": {"name": "f", "arguments": "1"}}
    (call,) = message({"tool_calls": [piece]}, {"tool_calls": [piece]})["tool_calls"]
    assert call == {"id": "a", "type": "function", "function": {"name": "f", "arguments": "11"}}


@pytest.mark.parametrize("index", [{"index": 0}, {}], ids=["all of one index", "without an index"])
def test_calls_with_ids_of_their_own_stay_apart(index: Json) -> None:
    calls = [{**index, "id": i, "type": "function", "function": {"name": "f", "arguments": i}} for i in ("a", "b")]
    said = message({"tool_calls": calls[:1]}, {"tool_calls": calls[1:]})
    assert [(call["id"], call["function"]["arguments"]) for call in said["tool_calls"]] == [("a", "a"), ("b", "b")]


def test_the_old_form_of_a_call() -> None:
    said = message({"function_call": {"name": "f", "arguments": "{"}}, {"function_call": {"arguments": "}"}})
    assert said["function_call"] == {"name": "f", "arguments": "{}"}


def test_lists_that_are_not_calls() -> None:
    said = message(
        {"annotations": [{"url": "a"}], "reasoning_details": [{"index": 0, "type": "t", "text": "a"}]},
        {"annotations": [{"url": "b"}], "reasoning_details": [{"index": 0, "type": "t", "text": "b"}], "n": [1, "x"]},
        {"content": [{"type": "text", "text": "hi"}]},
    )
    assert said["annotations"] == [{"url": "a"}, {"url": "b"}]
    assert said["reasoning_details"] == [{"index": 0, "type": "t", "text": "ab"}]
    assert said["n"] == [1, "x"]
    assert said["content"] == [{"type": "text", "text": "hi"}]


def test_what_is_said_of_a_choice() -> None:
    """vLLM's `stop_reason` and `token_ids`, and names of next year."""
    (choice,) = whole(
        chunk({"content": "a"}, token_ids=[1, 2], stop_reason=None),
        chunk({"content": "b"}, token_ids=[3], prompt_token_ids=None),
        chunk({}, "stop", token_ids=None, stop_reason=7, of_next_year={"a": 1}),
    )["choices"]
    assert choice == {
        "index": 0,
        "message": {"role": "assistant", "content": "ab"},
        "finish_reason": "stop",
        "token_ids": [1, 2, 3],
        "prompt_token_ids": None,
        "stop_reason": 7,
        "of_next_year": {"a": 1},
    }


def test_logprobs_of_a_chat_go_on_and_stay_null_where_nobody_asked() -> None:
    one, two = {"token": "a", "logprob": -1.5}, {"token": "b", "logprob": -2.5, "top_logprobs": []}
    said = [{"content": [one], "refusal": None}, None, {"content": [two], "refusal": [one]}]
    answer = whole(*(chunk({"content": "x"}, logprobs=each) for each in said), END)
    assert answer["choices"][0]["logprobs"] == {"content": [one, two], "refusal": [one]}
    assert whole(chunk({"content": "x"}, logprobs=None), END)["choices"][0]["logprobs"] is None
    assert "logprobs" not in whole(chunk({"content": "x"}), END)["choices"][0]


def test_logprobs_of_another_form_are_replaced() -> None:
    said = chunk({}, logprobs=[1]), chunk({}, "stop", logprobs={"content": []})
    assert whole(*said)["choices"][0]["logprobs"] == {"content": []}


def test_logprobs_of_a_completion_go_on_whatever_the_tokens_are() -> None:
    """A token may be called `index`."""
    first = {"tokens": ["a"], "token_logprobs": [None], "top_logprobs": [None], "text_offset": [0]}
    second = {"tokens": ["index"], "token_logprobs": [-1], "top_logprobs": [{"index": -1}], "text_offset": [1]}
    answer = whole(text("a", logprobs=first), text("index", "stop", logprobs=second), kind=TEXT)
    assert answer["object"] == "text_completion"
    assert answer["choices"][0]["text"] == "aindex"
    assert answer["choices"][0]["logprobs"] == {
        "tokens": ["a", "index"],
        "token_logprobs": [None, -1],
        "top_logprobs": [None, {"index": -1}],
        "text_offset": [0, 1],
    }


def test_several_choices_come_in_any_order_and_leave_in_theirs() -> None:
    events = [
        chunk({"content": "b"}, index=1),
        chunk({"content": "a"}),
        chunk({}, "length", 1),
        chunk({"content": "A"}),
    ]
    answer = gathered(*events, END, choices=2)
    said = [(c["index"], c["message"]["content"], c["finish_reason"]) for c in json.loads(answer.answer())["choices"]]
    assert said == [(0, "aA", "stop"), (1, "b", "length")]


def test_what_is_said_of_the_answer_is_said_last() -> None:
    """llama-server's `timings`, vLLM's `system_fingerprint` in its last chunk, OpenAI's null in all but one."""
    counts = {"prompt_tokens": 3, "completion_tokens": 4, "completion_tokens_details": {"reasoning_tokens": 1}}
    last = {**HEAD, "choices": [], "usage": counts, "timings": {"n": 2}, "system_fingerprint": "f", "service_tier": "x"}
    early = {**HEAD, "choices": [], "usage": None, "timings": {"n": 1}, "prompt_filter_results": [1]}
    answer = gathered(
        event(early), chunk({"content": "a"}), END, event(last), event(HEAD | {"choices": None, "usage": None}), DONE
    )
    assert json.loads(answer.answer()) == {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "a"}, "finish_reason": "stop"}],
        "usage": counts,
        "timings": {"n": 2},
        "system_fingerprint": "f",
        "service_tier": "x",
        "prompt_filter_results": [1],
    }
    assert answer.usage == Usage(3, 4)


def test_padding_that_openai_sends_against_listeners_is_no_part_of_the_answer() -> None:
    assert "obfuscation" not in whole(event({**HEAD, "choices": [], "obfuscation": "xyz"}), END)


def test_an_answer_of_an_engine_that_counts_no_tokens() -> None:
    answer = gathered(END)
    assert answer.usage is None
    assert "usage" not in json.loads(answer.answer())


def test_halves_of_a_character_in_two_events_are_one_character() -> None:
    halves = [chunk({"content": "HALF"}).replace(b"HALF", half) for half in (rb"\ud83d", rb"\ude00")]
    assert whole(*halves, END)["choices"][0]["message"]["content"] == "\N{GRINNING FACE}"


def test_line_ends_in_a_text_stay_as_they_are() -> None:
    assert message({"content": "a\r\nb\r"}, {"content": "\nc\u2028d"})["content"] == "a\r\nb\r\nc\u2028d"


# -- what is no answer ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "said",
    [
        b"{",
        b'{"choices":[{"delta":',
        b"5",
        b'"text"',
        b"[]",
        b"{}",
        b'{"object":"list","data":[]}',
        b'{"choices":{}}',
        b'{"choices":[5]}',
        b'{"choices":[{"index":"0"}]}',
        b'{"choices":[{"index":-1}]}',
        b'{"choices":[{"index":true}]}',
        b'{"choices":[{"index":0,"logprobs":{"content":[NaN]}}]}',
        b'{"choices":[],"a":"\xff"}',
        b"[" * 100_000,
    ],
)
def test_an_event_that_is_no_part_of_an_answer_is_the_engines_fault(said: bytes) -> None:
    with pytest.raises(Refused) as refused:
        gathered(b"data: " + said + b"\n\n")
    assert refused.value.refusal.code == "backend_protocol_error"


@pytest.mark.parametrize("depth", [100, 300, 450, 700, 950])
def test_a_nesting_that_python_cannot_follow_is_the_engines_fault(depth: int) -> None:
    """Whichever step meets the end of the stack, nothing but Refused comes out."""
    said = b'data: {"choices":[{"finish_reason":"stop","delta":' + b'{"a":' * depth + b"1" + b"}" * depth + b"}]}\n\n"
    try:
        assert json.loads(gathered(said).answer())["choices"]
    except Refused as refused:
        assert depth > 100
        assert refused.refusal.code == "backend_protocol_error"


def test_a_number_that_no_json_can_hold_is_the_engines_fault() -> None:
    answer = gathered(chunk({}, "stop"), b'data: {"choices":[],"timings":{"n":1e999}}\n\n')
    with pytest.raises(Refused) as refused:
        answer.answer()
    assert refused.value.refusal.code == "backend_protocol_error"


@pytest.mark.parametrize(
    "stream",
    [
        b"",
        DONE,
        chunk({"content": "a"}),
        chunk({"content": "a"}) + DONE,
        chunk({"content": "a"}, "") + DONE,
        chunk({"content": "a"}, index=1) + END + DONE,
        chunk({"content": "a"}) + END[:-9],
        event(HEAD | {"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 1}}) + DONE,
    ],
    ids=[
        "nothing",
        "only an end",
        "cut",
        "no finish_reason",
        "an empty one",
        "one of two",
        "half an event",
        "only usage",
    ],
)
def test_a_stream_that_ended_too_early_is_not_complete(stream: bytes) -> None:
    answer = gathered(stream)
    problem = answer.problem()
    assert problem is not None and problem.code == "backend_lost" and not answer.complete
    with pytest.raises(Refused):
        answer.answer()


def test_fewer_choices_than_were_asked_for_are_not_complete() -> None:
    assert not gathered(END, DONE, choices=2).complete
    assert gathered(END, chunk({}, "stop", 1), choices=2).complete


def test_an_error_among_the_events_is_what_the_caller_hears() -> None:
    """Also where other members stand before it, which `StreamWatch` does not look for."""
    failure = {**HEAD, "error": {"message": "out of memory", "code": 500}, "choices": [{"index": 0, "delta": {}}]}
    problem = gathered(chunk({"content": "a"}), event(failure), END, DONE).problem()
    assert problem is not None
    assert (problem.code, problem.message) == ("backend_error", "out of memory")


def test_events_of_other_sorts_are_passed_over() -> None:
    """Comments, fields that are not data, and the null that llama-server begins several prompts with."""
    stream = b": loading 43%\n\nevent: x\nid: 7\nretry: 9\n\ndata: null\n\n" + chunk({"content": "a"}) + END
    assert whole(stream)["choices"][0]["message"]["content"] == "a"


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_an_event_may_have_several_lines_however_they_end_and_wherever_they_are_cut(end: bytes) -> None:
    stream = END.replace(b',"choices"', b',\ndata:"choices"').replace(b"\n", end)
    for at in range(len(stream)):
        assert whole(stream[:at], stream[at:])["choices"][0]["finish_reason"] == "stop"


def test_a_last_event_without_its_empty_line_counts() -> None:
    assert gathered(chunk({"content": "a"}) + END.rstrip()).complete


def test_half_an_event_behind_the_last_choice_costs_the_caller_nothing_but_it() -> None:
    """The engine ended while it said its usage."""
    answer = gathered(chunk({"content": "a"}) + END + b'data: {"choices":[],"usage":{"prompt')
    assert answer.complete
    assert json.loads(answer.answer())["choices"][0]["message"]["content"] == "a"
    assert answer.usage is None


NAMES = (
    *("choices", "usage", "error", "index", "delta", "text", "logprobs", "finish_reason", "message", "token_ids"),
    *("content", "role", "id", "type", "tool_calls", "function_call", "function", "name", "arguments"),
)


def anything(chance: random.Random, depth: int) -> Any:
    """An engine's word without its sense."""
    kind = chance.randrange(7 if depth else 5)
    if kind == 5:
        return [anything(chance, depth - 1) for _ in range(chance.randrange(3))]
    if kind == 6:
        return {name: anything(chance, depth - 1) for name in chance.sample(NAMES, chance.randrange(5))}
    return (None, chance.random() < 0.5, chance.randint(-1, 2), 0.5, "x")[kind]


@given(st.integers(0, 2**32))
def test_whatever_an_engine_says_nothing_but_a_refusal_or_json_comes_of_it(seed: int) -> None:
    chance = random.Random(seed)
    for kind in (CHAT, TEXT):
        answer = Gathered(kind)
        try:
            for _ in range(4):
                choice = {name: anything(chance, 3) for name in chance.sample(NAMES, 6)}
                if chance.random() < 0.9:
                    choice |= {"index": 0, "finish_reason": "stop"}
                answer.feed(event({"choices": [choice], chance.choice(NAMES[3:]): anything(chance, 3)}))
            assert json.loads(answer.answer())["choices"]
        except Refused:
            pass
        assert answer.size >= 0
        assert answer.usage is None or answer.usage.total >= 0


# -- how much is held -------------------------------------------------------------------------


def test_what_is_held_is_about_the_size_of_the_answer_not_of_the_stream() -> None:
    answer = gathered(*[chunk({"content": "word "})] * 2000, END)
    assert 10_000 <= answer.size <= 11_000


@pytest.mark.parametrize(
    "more",
    [
        {"delta": {"tool_calls": [{"index": 0, "function": {"arguments": "x" * 1000}}]}},
        {"delta": {"annotations": [{"text": "x" * 1000}]}},
        {"delta": {"annotations": ["x" * 1000]}},
        {"logprobs": {"content": [{"token": "x" * 1000}]}},
        {"token_ids": list(range(300))},
    ],
    ids=["a call", "objects", "texts", "logprobs", "numbers"],
)
def test_everything_that_grows_is_counted(more: Json) -> None:
    assert gathered(*[event({"choices": [{"index": 0, **more}]})] * 100).size > 100_000


def test_choices_and_names_without_end_are_counted() -> None:
    assert gathered(*(chunk({"content": ""}, index=n) for n in range(1000))).size > 10_000
    assert gathered(*(chunk({f"name {n}": ""}) for n in range(1000))).size > 10_000
    assert gathered(*(event({"choices": [], f"name {n}": None}) for n in range(1000))).size > 10_000


def test_an_event_without_end_is_counted() -> None:
    assert gathered(b"data: ", *[b"x" * 1000] * 100).size > 100_000
    assert gathered(*[b"data: x\n"] * 1000).size > 1000


def test_its_repr_tells_how_far_it_is() -> None:
    answer = gathered(chunk({"content": "a"}), chunk({"content": "b"}, "stop", 1), choices=3)
    assert repr(answer) == f"<Gathered chat.completion, 1 of 3 ended, {answer.size} bytes>"


# -- any answer, cut into any pieces ----------------------------------------------------------

words = st.text(max_size=12)
entry = st.fixed_dictionaries(
    {"token": words, "logprob": st.floats(-99, 0), "bytes": st.none(), "top_logprobs": st.just([])}
)
call = st.fixed_dictionaries({"name": st.text(min_size=1, max_size=8), "arguments": words})
chats = st.fixed_dictionaries(
    {"content": words, "finish_reason": st.sampled_from(["stop", "length", "tool_calls"])},
    optional={
        "reasoning_content": st.text(min_size=1, max_size=12),
        "refusal": st.text(min_size=1, max_size=12),
        "tool_calls": st.lists(call, min_size=1, max_size=3),
        "logprobs": st.lists(entry, max_size=4),
        "stop_reason": st.one_of(st.none(), words, st.integers()),
    },
)


def chat_answer(choices: list[Json]) -> Json:
    """As an engine answers it whole."""
    said = []
    for index, one in enumerate(choices):
        spoken: Json = {"role": "assistant", "content": one["content"]}
        spoken |= {name: one[name] for name in ("reasoning_content", "refusal") if name in one}
        if "tool_calls" in one:
            spoken["content"] = one["content"] or None
            spoken["tool_calls"] = [
                {"id": f"call_{index}_{n}", "type": "function", "function": dict(each)}
                for n, each in enumerate(one["tool_calls"])
            ]
        choice = {"index": index, "message": spoken, "finish_reason": one["finish_reason"]}
        if "logprobs" in one:
            choice["logprobs"] = {"content": one["logprobs"], "refusal": None}
        said.append(choice | {name: one[name] for name in ("stop_reason",) if name in one})
    return {**HEAD, "object": CHAT, "choices": said, "usage": {"prompt_tokens": 1, "completion_tokens": 2}}


def pieces(whole: str, chance: random.Random) -> list[str]:
    cuts = sorted(chance.randint(0, len(whole)) for _ in range(chance.randint(0, 3)))
    return [whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True)]


def chat_chunks(choice: Json, chance: random.Random) -> list[Json]:
    """The choices of the chunks that a streaming engine would send instead."""
    said = choice["message"]
    deltas: list[Json] = [{"role": "assistant", **chance.choice([{}, {"content": None}, {"content": ""}])}]
    for name in ("reasoning_content", "content", "refusal"):
        deltas += [{name: piece} for piece in pieces(said.get(name) or "", chance)] if name in said else []
    for n, each in enumerate(said.get("tool_calls", ())):
        function = {"name": each["function"]["name"], "arguments": ""}
        deltas.append({"tool_calls": [{**each, "index": n, "function": function}]})
        arguments = pieces(each["function"]["arguments"], chance)
        deltas += [{"tool_calls": [{"index": n, "function": {"arguments": piece}}]} for piece in arguments]
    chunks: list[Json] = [{"index": choice["index"], "delta": delta, "finish_reason": None} for delta in [*deltas, {}]]
    if "logprobs" in choice:
        for each in chunks:
            each["logprobs"] = {"content": [], "refusal": None}
        said = choice["logprobs"]["content"]
        # Not in the first, as no engine does: OpenAI's SDK takes those of a second choice twice (3.54).
        places = sorted(chance.randrange(1, len(chunks)) for _ in said)
        for place, one in zip(places, said, strict=True):
            chunks[place]["logprobs"]["content"].append(one)
    chunks[-1] |= {name: choice[name] for name in ("finish_reason", "stop_reason") if name in choice}
    return chunks


def in_any_order(lists: list[list[Json]], chance: random.Random) -> list[Json]:
    """Merged, each in its own order."""
    turns = [n for n, each in enumerate(lists) for _ in each]
    chance.shuffle(turns)
    left = [iter(each) for each in lists]
    return [next(left[n]) for n in turns]


def as_stream(chunks: list[Json], chance: random.Random) -> bytes:
    line_end = chance.choice([b"\n", b"\r\n", b"\r"])
    events = [b"data: " + json.dumps(each, ensure_ascii=chance.random() < 0.5).encode() for each in chunks]
    events.insert(chance.randint(0, len(events)), b": a comment")
    return b"".join(each + line_end * 2 for each in [*events, b"data: [DONE]"])


def in_any_reads(stream: bytes, chance: random.Random) -> list[bytes]:
    cuts = sorted(chance.randint(0, len(stream)) for _ in range(chance.randint(0, 8)))
    return [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]


@given(st.lists(chats, min_size=1, max_size=3), st.randoms(use_true_random=False))
def test_any_chat_that_is_streamed_in_any_pieces_is_the_same_chat_again(
    choices: list[Json], chance: random.Random
) -> None:
    answer = chat_answer(choices)
    chunks = in_any_order([chat_chunks(choice, chance) for choice in answer["choices"]], chance)
    sent = [{**HEAD, "choices": [each]} for each in chunks] + [{**HEAD, "choices": [], "usage": answer["usage"]}]
    made = gathered(*in_any_reads(as_stream(sent, chance), chance), choices=len(choices))
    assert json.loads(made.answer()) == answer
    assert made.usage == Usage(1, 2)


@given(st.lists(st.tuples(words, st.one_of(st.none(), st.lists(words))), min_size=1), st.randoms(use_true_random=False))
def test_any_completion_that_is_streamed_in_any_pieces_is_the_same_again(
    texts: list[tuple[str, list[str] | None]], chance: random.Random
) -> None:
    choices: list[Json] = []
    lists: list[list[Json]] = []
    for index, (said, tokens) in enumerate(texts):
        logprobs = None if tokens is None else {"tokens": tokens, "top_logprobs": [{each: -1.0} for each in tokens]}
        choices.append({"index": index, "text": said, "logprobs": logprobs, "finish_reason": "stop"})
        chunks: list[Json] = [{"index": index, "text": piece, "logprobs": None} for piece in pieces(said, chance)]
        chunks += [
            {"index": index, "text": "", "logprobs": {"tokens": [each], "top_logprobs": [{each: -1.0}]}}
            for each in tokens or ()
        ]
        none: Json | None = {"tokens": [], "top_logprobs": []} if tokens == [] else None
        lists.append([*chunks, {"index": index, "text": "", "logprobs": none, "finish_reason": "stop"}])
    sent = [{**HEAD, "object": TEXT, "choices": [each]} for each in in_any_order(lists, chance)]
    made = gathered(*in_any_reads(as_stream(sent, chance), chance), kind=TEXT, choices=len(texts))
    assert json.loads(made.answer()) == {**HEAD, "object": TEXT, "choices": choices}
    Completion.model_validate_json(made.answer())


@given(st.lists(chats, min_size=1, max_size=3), st.randoms(use_true_random=False))
def test_it_is_what_openais_sdk_makes_of_the_same_stream(choices: list[Json], chance: random.Random) -> None:
    """Their accumulator, which wants the first chunks of the choices in order."""
    lists = [chat_chunks(choice, chance) for choice in chat_answer(choices)["choices"]]
    chunks = [each.pop(0) for each in lists] + in_any_order(lists, chance)
    state: ChatCompletionStreamState[None] = ChatCompletionStreamState()
    for each in chunks:
        state.handle_chunk(ChatCompletionChunk.model_validate({**HEAD, "choices": [each]}))
    theirs = state.current_completion_snapshot
    ours = ChatCompletion.model_validate_json(gathered(*(event({**HEAD, "choices": [c]}) for c in chunks)).answer())
    for their, our in zip(theirs.choices, ours.choices, strict=True):
        assert our.message.role == their.message.role
        assert (our.message.content or "") == (their.message.content or "")
        assert our.message.refusal == their.message.refusal
        assert [c.model_dump() for c in our.message.tool_calls or ()] == [
            c.model_dump(exclude={"index": True, "function": {"parsed_arguments"}})
            for c in their.message.tool_calls or ()
        ]
        assert our.finish_reason == their.finish_reason
        entries = [each.logprobs.content or [] if each.logprobs else [] for each in (our, their)]
        assert entries[0] == entries[1]


# -- real engines -----------------------------------------------------------------------------

HELLO = {"messages": [{"role": "user", "content": "Hello"}], "seed": 1, "max_tokens": 12}
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string", "maxLength": 8}}},
    },
}
ASKED: dict[str, tuple[str, Json]] = {
    "chat": ("/v1/chat/completions", HELLO),
    "chat with logprobs": ("/v1/chat/completions", {**HELLO, "logprobs": True, "top_logprobs": 2}),
    "chat with a call": (
        "/v1/chat/completions",
        {**HELLO, "max_tokens": 60, "tools": [WEATHER], "tool_choice": "required"},
    ),
    "completion": ("/v1/completions", {"prompt": "Once", "seed": 1, "max_tokens": 12}),
    "completion with logprobs": ("/v1/completions", {"prompt": "Once", "seed": 1, "max_tokens": 12, "logprobs": 2}),
}


def comparable(answer: bytes) -> Json:
    """Without what differs from one request to the next: names, clocks, what is in the engine's cache by now."""
    said: Json = json.loads(answer)
    for name in ("id", "created", "timings"):
        said.pop(name, None)
    said["usage"].pop("prompt_tokens_details", None)
    for choice in said["choices"]:
        for each in choice.get("message", {}).get("tool_calls", ()):
            assert each.pop("id")
    return said


@pytest.mark.engine
@pytest.mark.parametrize(("path", "body"), ASKED.values(), ids=ASKED)
async def test_a_real_engines_stream_is_the_answer_that_it_gives_at_once(ask: Ask, path: str, body: Json) -> None:
    at_once = await ask(path, body)
    stream = await ask(path, {**body, "stream": True, "stream_options": {"include_usage": True}})
    kind = kind_for(path)
    assert kind is not None
    answer = gathered(stream, kind=kind)
    assert comparable(answer.answer()) == comparable(at_once)
    counts = json.loads(at_once)["usage"]
    assert answer.usage == Usage(counts["prompt_tokens"], counts["completion_tokens"])


async def test_vllm_as_it_was_recorded(tmp_path: Path) -> None:
    """See tests/support/recorded_vllm.py. Its words come without a role, and without usage."""
    program = Path(__file__).parents[1] / "support" / "recorded_vllm.py"
    path = tmp_path / "vllm.sock"
    vllm = subprocess.Popen([sys.executable, "-I", "-S", str(program), "serve", "demo", "--uds", str(path)])
    try:
        await soon(path.exists, "vLLM's socket")
        async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(path), force_close=True)) as session:
            answers = []
            for stream in (False, True):
                async with session.post(
                    "http://vllm/v1/chat/completions", json={"max_tokens": 5, "stream": stream}
                ) as answer:
                    answers.append(await answer.read())
    finally:
        vllm.terminate()
        vllm.wait()
    at_once, streamed = json.loads(answers[0]), whole(answers[1])
    assert streamed["choices"] == at_once["choices"]
    assert (streamed["id"], streamed["object"]) == (at_once["id"], at_once["object"])
