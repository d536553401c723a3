"""What a request may ask for: one table per route, each field with its type and limits.

The defaults are those of the package's own server, so that the same request gives the same answer. Null means absent.
Unknown fields are ignored, as there: clients send many. A wrong type is a 400 that names the field. Pure.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from .refusals import Refusal

Check = Callable[[str, Any], Any]
"""`check(name, value)` gives the value to use, or raises a refusal that names the field."""

REFUSED = {
    "chat_template": "Templates come from the model, never from a request.",
    "suffix": "Filling in the middle does not work with this engine.",
}
"""Not ignored: who sends them relies on them."""

TEXT_ROLES = ("system", "developer", "user", "assistant", "tool", "function")


def wrong(name: str, wanted: str) -> Refusal:
    return Refusal(f"`{name}` must be {wanted}.", param=name)


def number(low: float, high: float) -> Check:
    def check(name: str, value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise wrong(name, "a number")
        if not low <= value <= high:
            raise wrong(name, f"between {low:g} and {high:g}")
        return float(value)

    return check


def integer(low: int, high: int) -> Check:
    def check(name: str, value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise wrong(name, "a whole number")
        if not low <= value <= high:
            raise wrong(name, f"between {low} and {high}")
        return value

    return check


def boolean(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise wrong(name, "true or false")
    return value


def text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise wrong(name, "a string")
    return value


def mapping(name: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise wrong(name, "an object")
    return cast("dict[str, Any]", value)


def only_one(name: str, value: Any) -> int:
    if integer(1, 128)(name, value) != 1:
        raise Refusal(f"`{name}`: this engine gives one answer per request.", param=name, code="unsupported_parameter")
    return 1


def stops(name: str, value: Any) -> list[str]:
    listed = [value] if isinstance(value, str) else value
    if not isinstance(listed, list) or not all(isinstance(each, str) for each in listed):
        raise wrong(name, "a string or a list of strings")
    if len(listed) > 64:
        raise Refusal("`stop` can have 64 entries at most.", param=name)
    return [each for each in listed if each]  # an empty one would end every answer before it begins


def bias(name: str, value: Any) -> dict[str, float]:
    within = number(-100, 100)
    return {key: within(f"{name}.{key}", each) for key, each in mapping(name, value).items()}


def bias_type(name: str, value: Any) -> str:
    if value not in ("input_ids", "tokens"):
        raise wrong(name, '"input_ids" or "tokens"')
    return str(value)


SAMPLING: Mapping[str, tuple[Check, Any]] = {
    # Below 10^-4 the logits would overflow when divided by it: that is what 0 means.
    "temperature": (number(0, 100), 0.8),
    "top_p": (number(0, 1), 0.95),
    "min_p": (number(0, 1), 0.05),
    "top_k": (integer(-1, 1 << 30), 40),
    "repeat_penalty": (number(0.01, 100), 1.1),
    "presence_penalty": (number(-2, 2), 0.0),
    "frequency_penalty": (number(-2, 2), 0.0),
    "mirostat_mode": (integer(0, 2), 0),
    "mirostat_tau": (number(0, 10), 5.0),
    "mirostat_eta": (number(0.001, 1), 0.1),
    "seed": (integer(-(1 << 63), (1 << 64) - 1), None),
    "stop": (stops, []),
}
"""Handed to the package as they are."""

AROUND: Mapping[str, tuple[Check, Any]] = {
    "model": (text, None),
    "n": (only_one, 1),
    "stream": (boolean, False),
    "grammar": (text, None),
    "logit_bias": (bias, {}),
    "logit_bias_type": (bias_type, "input_ids"),
    "min_tokens": (integer(0, 1 << 30), 0),
    "user": (text, None),
}

LENGTH = integer(-1, 1 << 31)
"""0 and -1: as long as the context allows, which is how the package reads them."""

CHAT: Mapping[str, tuple[Check, Any]] = {
    **SAMPLING,
    **AROUND,
    "max_tokens": (LENGTH, None),
    "max_completion_tokens": (LENGTH, None),
    "logprobs": (boolean, False),
    "top_logprobs": (integer(0, 20), 0),
}

COMPLETION: Mapping[str, tuple[Check, Any]] = {
    **SAMPLING,
    **AROUND,
    "best_of": (only_one, 1),
    "max_tokens": (LENGTH, 16),
    "logprobs": (integer(0, 20), None),
    "echo": (boolean, False),
}


@dataclass(frozen=True, slots=True)
class Generation:
    """A checked request for text, for `answers`."""

    sampling: dict[str, Any]
    model: str | None
    max_tokens: int | None
    stream: bool
    include_usage: bool
    top: int | None
    """Likeliest tokens wanted with each token; None: no log probabilities."""
    grammar: str | None = None
    schema: dict[str, Any] | None = None
    json: bool = False
    bias: dict[str, float] = field(default_factory=dict)
    bias_by_text: bool = False
    min_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Chat:
    how: Generation
    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]] | None = None
    tool: dict[str, Any] | None = None
    """The one that must be called."""
    functions: bool = False
    """Asked in the old words (`functions`, `function_call`): answered in them."""


@dataclass(frozen=True, slots=True)
class Completion:
    how: Generation
    prompt: str | list[int]
    echo: bool


@dataclass(frozen=True, slots=True)
class Embedding:
    inputs: list[str | list[int]]
    model: str | None
    base64: bool


def chat(body: dict[str, Any]) -> Chat:
    values = _read(body, CHAT)
    messages = [_message(f"messages[{at}]", each) for at, each in enumerate(_list("messages", body.get("messages")))]
    if not messages:
        raise Refusal("`messages` must have at least one message.", param="messages")
    tools, old = _tools(body)
    longest = values["max_completion_tokens"] if values["max_completion_tokens"] is not None else values["max_tokens"]
    top = values["top_logprobs"] if values["logprobs"] else None
    how = _generation(body, values, longest, top, _response_format(body.get("response_format")))
    return Chat(how, messages, tools, _forced(body, tools), old)


def completion(body: dict[str, Any]) -> Completion:
    values = _read(body, COMPLETION)
    how = _generation(body, values, values["max_tokens"], values["logprobs"], {})
    if values["echo"] and (how.top is not None or how.stream):
        raise Refusal("`echo` goes with neither `logprobs` nor `stream` here.", param="echo")
    return Completion(how, _prompt(body.get("prompt", "")), values["echo"])


def embedding(body: dict[str, Any]) -> Embedding:
    _refuse(body)
    form = body.get("encoding_format") or "float"
    if form not in ("float", "base64"):
        raise wrong("encoding_format", '"float" or "base64"')
    if body.get("dimensions") is not None:
        raise Refusal(
            "`dimensions`: this engine gives the model's own.", param="dimensions", code="unsupported_parameter"
        )
    given = body.get("input")
    many = given if isinstance(given, list) and given and not isinstance(given[0], int) else [given]
    if len(many) > 2048:
        raise Refusal("`input` can have 2048 entries at most.", param="input")
    inputs = [each if isinstance(each, str) else _token_list("input", each) for each in many]
    model = body.get("model")
    return Embedding(inputs, None if model is None else text("model", model), form == "base64")


def _read(body: dict[str, Any], table: Mapping[str, tuple[Check, Any]]) -> dict[str, Any]:
    _refuse(body)
    return {
        name: default if body.get(name) is None else check(name, body[name]) for name, (check, default) in table.items()
    }


def _refuse(body: dict[str, Any]) -> None:
    for name, why in REFUSED.items():
        if body.get(name):
            raise Refusal(f"`{name}`: {why}", param=name, code="unsupported_parameter")


def _generation(
    body: dict[str, Any], values: dict[str, Any], longest: int | None, top: int | None, form: dict[str, Any]
) -> Generation:
    sampling = {name: values[name] for name in SAMPLING}
    sampling["temperature"] = 0.0 if sampling["temperature"] < 1e-4 else sampling["temperature"]
    options = {} if body.get("stream_options") is None else mapping("stream_options", body["stream_options"])
    return Generation(
        sampling=sampling,
        model=values["model"],
        max_tokens=longest,
        stream=values["stream"],
        include_usage=options.get("include_usage") is True,
        top=top,
        grammar=values["grammar"],
        bias=values["logit_bias"],
        bias_by_text=values["logit_bias_type"] == "tokens",
        min_tokens=values["min_tokens"],
        **form,
    )


def _list(name: str, value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise wrong(name, "a list")
    return value


def _message(name: str, value: Any) -> dict[str, Any]:
    """Templates read `content` as one string: parts are joined, as llama-server and vLLM do."""
    message = dict(mapping(name, value))
    role = message.get("role")
    if role not in TEXT_ROLES:
        raise wrong(f"{name}.role", "one of " + ", ".join(TEXT_ROLES))
    if role == "developer":
        message["role"] = "system"  # OpenAI's new word for it; templates know the old one
    content = message.get("content")
    if isinstance(content, list):
        content = "\n".join(_part(f"{name}.content[{at}]", part) for at, part in enumerate(content))
    elif content is not None and not isinstance(content, str):
        raise wrong(f"{name}.content", "a string or a list of parts")
    if content is None and role != "assistant":
        raise wrong(f"{name}.content", "a string or a list of parts")
    message["content"] = content or ""
    if message.get("tool_calls") is not None:
        for at, call in enumerate(_list(f"{name}.tool_calls", message["tool_calls"])):
            _call(f"{name}.tool_calls[{at}]", call)
    return message


def _part(name: str, value: Any) -> str:
    part = mapping(name, value)
    if part.get("type") in ("text", "input_text", "refusal"):
        return text(f"{name}.text", part.get("text", part.get("refusal")))
    raise Refusal(
        f"`{name}`: this engine reads text only, not {str(part.get('type'))[:40]}.",
        param=name,
        code="unsupported_parameter",
    )


def _call(name: str, value: Any) -> None:
    function = mapping(f"{name}.function", mapping(name, value).get("function"))
    text(f"{name}.function.name", function.get("name"))
    if not isinstance(function.get("arguments", ""), str | dict):
        raise wrong(f"{name}.function.arguments", "a string")


def _tools(body: dict[str, Any]) -> tuple[list[dict[str, Any]] | None, bool]:
    """In today's words. The package turns `functions` into the same."""
    if body.get("tools") is not None:
        return [_tool(f"tools[{at}]", each) for at, each in enumerate(_list("tools", body["tools"]))] or None, False
    if body.get("functions") is not None:
        listed = enumerate(_list("functions", body["functions"]))
        return [_tool(f"functions[{at}]", {"type": "function", "function": each}) for at, each in listed] or None, True
    return None, False


def _tool(name: str, value: Any) -> dict[str, Any]:
    tool = mapping(name, value)
    if tool.get("type", "function") != "function":
        raise wrong(f"{name}.type", '"function"')
    function = dict(mapping(f"{name}.function", tool.get("function")))
    text(f"{name}.function.name", function.get("name"))
    given = function.get("parameters")
    function["parameters"] = {"type": "object"} if given is None else mapping(f"{name}.function.parameters", given)
    return {"type": "function", "function": function}


def _forced(body: dict[str, Any], tools: list[dict[str, Any]] | None) -> dict[str, Any] | None:
    """The tool that must be called. `auto` leaves it to the model's text, as the package does."""
    param = "tool_choice" if body.get("tool_choice") is not None else "function_call"
    choice = body.get(param)
    if choice is None or choice in ("none", "auto"):
        return None
    if not tools:
        raise Refusal(f"`{param}` needs `tools`.", param=param)
    if choice == "required":
        if len(tools) > 1:
            raise Refusal(
                "`tool_choice`: this engine cannot choose among several required tools; name one.",
                param=param,
                code="unsupported_parameter",
            )
        return tools[0]
    chosen = mapping(param, choice) if isinstance(choice, dict) else None
    named = chosen.get("function", chosen) if chosen is not None else None
    name = named.get("name") if isinstance(named, dict) else None
    for tool in tools:
        if isinstance(name, str) and tool["function"]["name"] == name:
            return tool
    raise wrong(param, '"none", "auto", "required" or the name of one of the tools')


def _response_format(value: Any) -> dict[str, Any]:
    if value is None:
        return {}
    form = mapping("response_format", value)
    kind = form.get("type")
    if kind == "text":
        return {}
    if kind == "json_object":
        return (
            {"json": True}
            if form.get("schema") is None
            else {"schema": mapping("response_format.schema", form["schema"])}
        )
    if kind == "json_schema":
        inner = mapping("response_format.json_schema", form.get("json_schema"))
        return {"schema": mapping("response_format.json_schema.schema", inner.get("schema"))}
    raise wrong("response_format.type", '"text", "json_object" or "json_schema"')


def _prompt(value: Any) -> str | list[int]:
    """A string, a list of tokens, or a list with one of them."""
    if isinstance(value, str):
        return value
    listed = _list("prompt", value)
    if listed and isinstance(listed[0], int):
        return _token_list("prompt", listed)
    if len(listed) > 1:
        raise Refusal(
            "`prompt`: this engine answers one prompt per request.", param="prompt", code="unsupported_parameter"
        )
    return _prompt(listed[0]) if listed else ""


def _token_list(name: str, value: Any) -> list[int]:
    listed = value if isinstance(value, list) else [None]
    if not all(isinstance(each, int) and not isinstance(each, bool) and each >= 0 for each in listed):
        raise wrong(name, "a string, a list of strings or a list of tokens")
    return cast("list[int]", listed)
