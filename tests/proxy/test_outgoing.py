"""What leaves the house when somebody else answers, and what the answer is made to look like."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.proxy.checker import Checker
from gateway.proxy.checks import Facts, Readable, Rules, check
from gateway.proxy.outgoing import (
    ANSWER_MOST,
    Manner,
    Outgoing,
    answer_in,
    error_status,
    learnt,
    may_begin,
    outgoing,
    renamed,
    renamed_events,
)

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
FREE, LIMITED = Manner("theirs", limited=False), Manner("theirs", limited=True)
HELLO = [{"role": "user", "content": "Hello"}]


def sent(body: dict[str, Any], route: str = CHAT, manner: Manner = FREE) -> Outgoing | None:
    checked = check(json.dumps(body).encode(), route, Rules())
    return outgoing(Readable(checked.whole()), route, checked.facts, manner)


def said(body: dict[str, Any], route: str = CHAT, manner: Manner = FREE) -> Any:
    out = sent(body, route, manner)
    assert out is not None
    assert out.size == len(b"".join(out.chunks))
    return json.loads(b"".join(out.chunks))


def test_a_chat_goes_out_under_the_fallbacks_name_for_the_model() -> None:
    assert said({"model": "ours", "messages": HELLO}) == {"model": "theirs", "messages": HELLO}


@pytest.mark.parametrize(
    "field",
    [
        *("user", "metadata", "safety_identifier", "prompt_cache_key", "store"),
        *("top_k", "min_p", "repetition_penalty", "chat_template_kwargs", "cache_prompt", "id_slot", "guided_json"),
        *(
            "logit_bias",
            "service_tier",
            "web_search_options",
            "audio",
            "modalities",
            "prediction",
            "models",
            "provider",
        ),
    ],
)
def test_who_asks_and_what_only_engines_know_stays_here(field: str) -> None:
    assert field not in said({"model": "ours", "messages": HELLO, field: {"a": 1}})


@given(st.dictionaries(st.text(min_size=1, max_size=12), st.integers(), max_size=8))
def test_no_field_leaves_that_is_not_listed(fields: dict[str, int]) -> None:
    wild = {f"x_{name}": value for name, value in fields.items()}
    assert said({"messages": HELLO} | wild) == {"model": "theirs", "messages": HELLO}


def test_what_openai_has_goes_along() -> None:
    body = {
        "messages": HELLO,
        "temperature": 0.5,
        "seed": 7,
        "stop": ["x"],
        "n": 2,
        "logprobs": True,
        "top_logprobs": 3,
    }
    assert said(body) == body | {"model": "theirs"}


def test_of_a_message_only_what_openai_has_goes_along() -> None:
    message = {"role": "assistant", "content": "a", "reasoning_content": "secret", "tool_calls": [{"id": "1"}]}
    assert said({"messages": [message]})["messages"] == [
        {"role": "assistant", "content": "a", "tool_calls": [{"id": "1"}]}
    ]


def test_of_a_part_and_of_a_tool_only_what_it_is_goes_along() -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA==", "detail": "low"}}
    content = [{"type": "text", "text": "Hello"}, image, {"type": "refusal", "refusal": "No."}]
    tool = {"type": "function", "function": {"name": "f", "parameters": {}}}
    more = {"metadata": {"who": "ann"}, "uuid": "u-1", "cache_control": {"type": "ephemeral"}}
    gone = said({"messages": [{"role": "user", "content": [part | more for part in content]}], "tools": [tool | more]})
    assert gone["messages"] == [{"role": "user", "content": content}] and gone["tools"] == [tool]


def test_a_part_that_does_not_say_what_it_is_stays() -> None:
    """vLLM understands it."""
    body = {"messages": [{"role": "user", "content": [{"image_url": "data:image/png;base64,AA=="}]}]}
    assert sent(body) is None


def test_a_stream_is_asked_to_end_with_the_count_of_its_tokens() -> None:
    body = {
        "messages": HELLO,
        "stream": True,
        "stream_options": {"include_usage": False, "continuous_usage_stats": True},
    }
    assert said(body)["stream_options"] == {"include_usage": True}


def test_a_request_that_is_no_stream_asks_for_none_whatever_our_engine_is_asked_for() -> None:
    checked = check(json.dumps({"messages": HELLO}).encode(), CHAT, Rules(gather=True))
    out = outgoing(Readable(checked.whole()), CHAT, checked.facts, FREE)
    assert out is not None and b"stream" not in b"".join(out.chunks)


@pytest.mark.parametrize("prompt", [[1, 2, 3], [[1, 2], [3]], ["text", 1]])
def test_a_prompt_of_token_numbers_stays(prompt: object) -> None:
    """They are other words to another model."""
    assert sent({"model": "m", "prompt": prompt}, TEXT) is None


def test_tools_that_the_vendor_runs_and_bills_stay() -> None:
    ours = {"type": "function", "function": {"name": "f"}}
    assert sent({"messages": HELLO, "tools": [ours]}) is not None
    assert sent({"messages": HELLO, "tools": [ours, {"type": "web_search"}]}) is None


def test_an_image_stays_where_its_price_cannot_be_told() -> None:
    image = [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]
    body = {"messages": [{"role": "user", "content": image}]}
    assert said(body)["messages"][0]["content"] == image
    assert sent(body, manner=LIMITED) is None
    texts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert sent({"messages": [{"role": "user", "content": texts}]}, manner=LIMITED) is not None


def test_an_answer_without_a_limit_gets_one_where_money_is_limited() -> None:
    assert "max_tokens" not in said({"messages": HELLO})
    out = sent({"messages": HELLO, "n": 3}, manner=LIMITED)
    assert out is not None and out.tokens_out == 3 * ANSWER_MOST
    assert said({"messages": HELLO}, manner=LIMITED)["max_tokens"] == ANSWER_MOST


@pytest.mark.parametrize("odd", [-1, 0, 1.5, "many", True])
def test_a_limit_that_is_none_counts_as_none(odd: object) -> None:
    assert said({"messages": HELLO, "max_tokens": odd}, manner=LIMITED)["max_tokens"] == ANSWER_MOST


def test_of_two_limits_one_is_sent_and_counted() -> None:
    body = {"messages": HELLO, "max_tokens": 1000, "max_completion_tokens": 10}
    assert "max_tokens" not in said(body) and said(body)["max_completion_tokens"] == 10


def test_each_of_several_prompts_may_be_as_long() -> None:
    out = sent({"prompt": ["a", "b", "c"], "max_tokens": 10, "n": 2}, TEXT, LIMITED)
    assert out is not None and out.tokens_out == 60


def test_a_limit_is_called_what_the_fallback_calls_it_once_it_said_so() -> None:
    error = {
        "error": {
            "message": "Unsupported parameter: 'max_tokens' is not supported with this model. Use "
            "'max_completion_tokens' instead.",
            "param": "max_tokens",
            "code": "unsupported_parameter",
        }
    }
    manner = learnt(FREE, json.dumps(error).encode())
    assert manner == Manner("theirs", limited=False, limit_name="max_completion_tokens")
    assert said({"messages": HELLO, "max_tokens": 5}, manner=manner)["max_completion_tokens"] == 5
    assert said({"prompt": "a", "max_tokens": 5}, TEXT, manner)["max_tokens"] == 5


@pytest.mark.parametrize("body", [b"", b"[]", b'{"error": "no"}', b'{"error": {"param": "n"}}', b"\xff"])
def test_any_other_error_teaches_nothing(body: bytes) -> None:
    assert learnt(FREE, body) == FREE


def test_a_vendor_that_counts_no_streams_is_not_asked_to_again() -> None:
    manner = learnt(FREE, b'{"detail": [{"loc": ["body", "stream_options"], "msg": "Extra inputs are not permitted"}]}')
    body = said({"messages": HELLO, "stream": True}, manner=manner)
    assert body["stream"] is True and "stream_options" not in body


def test_no_prompt_has_more_tokens_than_are_counted_for_it() -> None:
    """A token of any tokenizer stands for a byte at least."""
    out = sent({"messages": [{"role": "user", "content": "\u00e9" * 1000}]})
    assert out is not None and out.tokens_in >= 2000


async def test_long_texts_go_along_and_those_of_fields_that_stay_do_not() -> None:
    """A large body's texts stand beside it, each with a mark in its place."""
    checker = Checker(Rules())
    body = {"metadata": {"note": "n" * 300_000}, "messages": [{"role": "user", "content": "c" * 300_000}]}
    body["messages"].append({"role": "assistant", "reasoning_content": "r" * 300_000, "content": "ok"})  # type: ignore[attr-defined]
    sieve = checker.sieve()
    sieve.take(json.dumps(body).encode())
    sieve.finish()
    checked = await checker.check(sieve, CHAT)
    assert checked.readable is not None and checked.readable.holes
    out = outgoing(checked.readable, CHAT, checked.facts, LIMITED)
    assert out is not None
    document = json.loads(b"".join(out.chunks))
    assert document["messages"] == [{"role": "user", "content": "c" * 300_000}, {"role": "assistant", "content": "ok"}]
    assert "metadata" not in document and 300_000 < out.tokens_in < 301_000
    assert b"".join(checked.chunks) == json.dumps(body, separators=(",", ":")).encode()
    await checker.close()


# -- the answer ----------------------------------------------------------------------------------


def test_the_answers_model_is_called_as_the_caller_called_it() -> None:
    answer = {"id": "x", "model": "vendor/theirs-2026", "choices": [{"message": {"content": '"model":"y"'}}]}
    assert json.loads(renamed(json.dumps(answer).encode(), "ours")) == answer | {"model": "ours"}


@pytest.mark.parametrize("answer", [b"", b"no json", b"[]", b'{"id": 1}', b'{"model": "cut'])
def test_what_names_no_model_stays_as_it_is(answer: bytes) -> None:
    assert renamed(answer, "ours") == answer


def test_each_event_of_a_stream_is_renamed_and_nothing_else() -> None:
    events = (
        b': hi\r\n\r\ndata: {"model":"a","choices":[]}\r\n\r\ndata:{"model":"a","x":"\xc3\xa9"}\n\ndata: [DONE]\n\n'
    )
    assert renamed_events(events, "ours") == events.replace(b'"model":"a"', b'"model":"ours"')


@pytest.mark.parametrize(
    ("event", "status"),
    [
        ({"error": {"code": 429, "message": "slow down"}}, 429),
        ({"error": {"code": "overloaded"}}, 502),
        ({"error": "no"}, 502),
        ({"error": {"code": 200}, "id": "x"}, 502),
        ({"error": None, "choices": []}, 0),
        ({"choices": [{"delta": {"content": '"error"'}}]}, 0),
        ([{"error": 1}], 0),
    ],
)
def test_an_event_that_is_an_error_says_its_status(event: object, status: int) -> None:
    assert error_status(json.dumps(event).encode()) == status


def test_a_name_that_stands_deeper_stays() -> None:
    answer = {"provider": {"model": "deep"}, "model": "a", "choices": [{"x": "\u2028"}]}
    assert json.loads(renamed(json.dumps(answer).encode(), "ours")) == answer | {"model": "ours"}


@given(st.text(max_size=40), st.text(max_size=20))
def test_no_text_of_a_model_is_taken_for_its_name(text: str, name: str) -> None:
    chunk = {"model": "a", "choices": [{"delta": {"content": text, "arguments": json.dumps({"model": text})}}]}
    event = b"data: " + json.dumps(chunk).encode() + b"\n\n"
    (line,) = renamed_events(event, name).strip().splitlines()
    assert json.loads(line[5:]) == chunk | {"model": name}


def test_facts_of_a_body_are_not_asked_twice() -> None:
    """`stream` is what the caller asked for, whatever stands in the body by now."""
    out = outgoing(Readable(b'{"messages":[],"stream":true}'), CHAT, Facts(stream=False), FREE)
    assert out is not None and b"stream" not in b"".join(out.chunks)


@pytest.mark.parametrize(
    ("body", "is_one"),
    [
        ('{"choices": [{"text": "a"}], "model": "a"}', True),
        ('{"choices": [{"text": "a"}]}', True),
        ('{"choices": "none"}', False),
        ('{"choices": []}', False),
        ('{"choices": [1]}', False),
        ('{"choices": [{}]}', False),
        ('[{"choices": [{"text": "a"}]}]', False),
        ("no", False),
        ("", False),
        ("[" * 100_000, False),
        ("\xff", False),
    ],
)
def test_an_answer_is_an_object_with_a_list_of_choices(body: str, is_one: bool) -> None:
    raw = body.encode("latin-1")
    assert (answer_in(raw, None) == raw) is is_one
    named = answer_in(raw, "ours")
    assert named == (raw.replace(b'"model": "a"', b'"model": "ours"') if is_one else None)


@pytest.mark.parametrize(
    ("event", "may"),
    [
        ('{"choices": [{"delta": {}}]}', True),
        ('{"choices": [], "prompt_filter_results": []}', True),
        ('{"type": "ping"}', True),
        ('{"choices": "none"}', False),
        ("[DONE]", False),
        ("[]", False),
    ],
)
def test_a_stream_begins_with_a_chunk(event: str, may: bool) -> None:
    assert may_begin(event.encode()) is may
