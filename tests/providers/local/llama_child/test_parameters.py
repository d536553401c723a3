"""What a request may ask for: a wrong type is an error that names its field, and nothing else is."""

from typing import Any

import pytest

from gateway.providers.local.llama_child import parameters
from gateway.providers.local.llama_child.refusals import Refusal

HELLO = [{"role": "user", "content": "Hello"}]
TOOLS = [{"type": "function", "function": {"name": name}} for name in ("first", "second")]

WRONG_IN_BOTH: list[tuple[str, Any]] = [
    ("temperature", "hot"),
    ("temperature", True),
    ("temperature", -1),
    ("temperature", 1e999),
    ("top_p", 1.5),
    ("top_k", 1.5),
    ("min_p", []),
    ("repeat_penalty", 0),
    ("presence_penalty", 3),
    ("mirostat_mode", 3),
    ("seed", "x"),
    ("stop", 5),
    ("stop", ["a", 5]),
    ("stop", ["x"] * 65),
    ("max_tokens", 1.5),
    ("max_tokens", "many"),
    ("max_tokens", -2),
    ("stream", "yes"),
    ("stream_options", []),
    ("model", 5),
    ("n", 2),
    ("n", "two"),
    ("logit_bias", []),
    ("logit_bias", {"5": "x"}),
    ("logit_bias", {"5": 1000}),
    ("logit_bias_type", "words"),
    ("min_tokens", -1),
    ("grammar", 5),
    ("chat_template", "{{ x }}"),
    ("suffix", "after"),
]

WRONG_IN_CHAT: list[tuple[str, Any]] = [
    ("messages", None),
    ("messages", "Hello"),
    ("messages", []),
    ("messages[0]", ["Hello"]),
    ("messages[0].role", [{"role": "king", "content": "x"}]),
    ("messages[0].role", [{"content": "x"}]),
    ("messages[0].content", [{"role": "user"}]),
    ("messages[0].content", [{"role": "user", "content": 5}]),
    ("messages[0].content[0]", [{"role": "user", "content": ["x"]}]),
    ("messages[0].content[0]", [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]),
    ("messages[0].content[0].text", [{"role": "user", "content": [{"type": "text", "text": 5}]}]),
    ("messages[0].tool_calls", [{"role": "assistant", "tool_calls": 5}]),
    ("messages[0].tool_calls[0].function", [{"role": "assistant", "tool_calls": [{"id": "1"}]}]),
    ("logprobs", 3),
    ("top_logprobs", 21),
    ("max_completion_tokens", "x"),
    ("tools", 5),
    ("tools[0].function", [{"type": "function"}]),
    ("tools[0].type", [{"type": "magic", "function": {"name": "x"}}]),
    ("tools[0].function.name", [{"type": "function", "function": {}}]),
    ("tools[0].function.parameters", [{"type": "function", "function": {"name": "x", "parameters": 5}}]),
    ("functions[0].function", ["x"]),
    ("tool_choice", "required"),
    ("response_format", "json"),
    ("response_format.type", {"type": "xml"}),
    ("response_format.json_schema", {"type": "json_schema"}),
    ("response_format.json_schema.schema", {"type": "json_schema", "json_schema": {"name": "x"}}),
    ("response_format.schema", {"type": "json_object", "schema": 5}),
]


def field_of(param: str) -> str:
    return param.split("[")[0].split(".")[0]


@pytest.mark.parametrize(("param", "value"), WRONG_IN_BOTH, ids=lambda value: str(value)[:30])
@pytest.mark.parametrize("read", [parameters.chat, parameters.completion], ids=["chat", "completion"])
def test_a_wrong_value_is_a_refusal_that_names_the_field(read: Any, param: str, value: Any) -> None:
    with pytest.raises(Refusal) as refused:
        read({"messages": HELLO, "prompt": "x", param: value})
    assert refused.value.status == 400
    assert (refused.value.param or "").startswith(param)
    assert param in refused.value.message


@pytest.mark.parametrize(("param", "value"), WRONG_IN_CHAT, ids=lambda value: str(value)[:40])
def test_a_wrong_part_of_a_chat_is_named_down_to_its_place(param: str, value: Any) -> None:
    with pytest.raises(Refusal) as refused:
        parameters.chat({"messages": HELLO, field_of(param): value})
    assert refused.value.param == param


@pytest.mark.parametrize("value", [5, ["a", "b"], [[1], [2]], [1, "a"], [-1], [True], {"a": 1}], ids=str)
def test_a_prompt_is_one_text_or_one_list_of_tokens(value: Any) -> None:
    with pytest.raises(Refusal) as refused:
        parameters.completion({"prompt": value})
    assert refused.value.param == "prompt"


@pytest.mark.parametrize(
    ("value", "prompt"), [("a", "a"), (["a"], "a"), ([1, 2], [1, 2]), ([[1, 2]], [1, 2]), (None, ""), ([], "")], ids=str
)
def test_prompts_in_all_their_forms(value: Any, prompt: Any) -> None:
    body = {} if value is None else {"prompt": value}
    assert parameters.completion(body).prompt == prompt


@pytest.mark.parametrize(
    ("more", "param"), [({"input": 5}, "input"), ({}, "input"), ({"input": [{}]}, "input")], ids=str
)
def test_an_embedding_needs_texts_or_tokens(more: dict[str, Any], param: str) -> None:
    with pytest.raises(Refusal) as refused:
        parameters.embedding(more)
    assert refused.value.param == param


@pytest.mark.parametrize(("name", "value"), [("encoding_format", "hex"), ("dimensions", 8), ("model", 5)])
def test_what_an_embedding_cannot_be_is_said(name: str, value: Any) -> None:
    with pytest.raises(Refusal) as refused:
        parameters.embedding({"input": "x", name: value})
    assert refused.value.param == name


def test_null_means_absent_and_unknown_fields_are_ignored() -> None:
    nulls = dict.fromkeys([*parameters.CHAT, "tools", "tool_choice", "response_format", "stream_options"])
    asked = parameters.chat(
        {"messages": HELLO, **nulls, "metadata": {"a": 1}, "store": True, "reasoning_effort": "low"}
    )
    assert asked == parameters.chat({"messages": HELLO})


def test_the_defaults_are_those_of_the_packages_server() -> None:
    chat, completion = parameters.chat({"messages": HELLO}), parameters.completion({"prompt": "x"})
    assert chat.how.sampling["temperature"] == 0.8
    assert chat.how.sampling["repeat_penalty"] == 1.1
    assert chat.how.max_tokens is None
    assert completion.how.max_tokens == 16


def test_a_temperature_that_would_overflow_is_none_at_all() -> None:
    assert parameters.completion({"prompt": "x", "temperature": 1e-45}).how.sampling["temperature"] == 0.0


def test_empty_stops_are_no_stops() -> None:
    assert parameters.completion({"prompt": "x", "stop": ["", "a"]}).how.sampling["stop"] == ["a"]
    assert parameters.completion({"prompt": "x", "stop": "b"}).how.sampling["stop"] == ["b"]


def test_one_required_tool_is_the_one_and_several_must_be_named() -> None:
    only = parameters.chat({"messages": HELLO, "tools": TOOLS[:1], "tool_choice": "required"})
    assert only.tool is not None
    assert only.tool["function"] == {"name": "first", "parameters": {"type": "object"}}
    named = {"type": "function", "function": {"name": "second"}}
    second = parameters.chat({"messages": HELLO, "tools": TOOLS, "tool_choice": named})
    assert second.tool is not None
    assert second.tool["function"]["name"] == "second"
    for choice in ("required", {"function": {"name": "third"}}, {"function": 5}, 5, "perhaps"):
        with pytest.raises(Refusal) as refused:
            parameters.chat({"messages": HELLO, "tools": TOOLS, "tool_choice": choice})
        assert refused.value.param == "tool_choice"


@pytest.mark.parametrize("choice", ["auto", "none", None])
def test_the_model_is_left_to_itself(choice: str | None) -> None:
    assert parameters.chat({"messages": HELLO, "tools": TOOLS, "tool_choice": choice}).tool is None


def test_echo_is_for_whole_answers_without_log_probabilities() -> None:
    for more in ({"stream": True}, {"logprobs": 1}):
        with pytest.raises(Refusal, match="echo"):
            parameters.completion({"prompt": "x", "echo": True, **more})
