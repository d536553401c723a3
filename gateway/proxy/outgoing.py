"""What leaves the house when the fallback answers, and what its answer is made to look like. Pure.

Out goes what stands in `FIELDS`, of messages in `OF_A_MESSAGE`, and of their parts what `_typed` keeps: what OpenAI's
API has and every compatible one understands. Everything else stays here:

- who asks: `user`, `metadata`, `safety_identifier`, `prompt_cache_key`, `store`;
- what only engines know: `top_k`, `min_p`, `chat_template_kwargs`, `cache_prompt`, `id_slot`, `guided_json` …;
- what speaks of tokens by their numbers, which are others with another model: `logit_bias`;
- what is paid beside tokens, or at another price for them: `service_tier`, `web_search_options`, `audio`, `prediction`.

A request that would not mean the same without it stays at home as a whole: a prompt of token numbers, tools that the
vendor runs itself, and, where there is a limit on money, images and sounds: no price of theirs can be told before.

In the answer the model is called as the caller called it.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Final

from gateway.proxy.checks import Facts, Readable

CHAT: Final = "/v1/chat/completions"

_ALWAYS: Final = frozenset(
    {"frequency_penalty", "logprobs", "max_tokens", "n", "presence_penalty", "seed", "stop", "temperature", "top_p"}
)
FIELDS: Final = {
    CHAT: _ALWAYS
    | {"messages", "max_completion_tokens", "parallel_tool_calls", "reasoning_effort", "response_format", "tool_choice"}
    | {"tools", "top_logprobs", "functions", "function_call", "verbosity"},
    "/v1/completions": _ALWAYS | {"prompt", "suffix", "echo"},
}
"""By route; `model`, `stream` and `stream_options` are ours to write."""
OF_A_MESSAGE: Final = frozenset({"role", "content", "name", "tool_calls", "tool_call_id", "refusal", "function_call"})
TEXTS: Final = frozenset({"text", "refusal"})
"""Parts of a message that are nothing but tokens."""
TOOLS: Final = frozenset({"function", "custom"})
"""Tools that the caller runs. Others are the vendor's, and have prices of their own."""
LIMITS: Final[tuple[str, ...]] = ("max_completion_tokens", "max_tokens")
"""Both mean the most tokens of an answer. OpenAI's newer models know the first only, most others the second."""

ANSWER_MOST: Final = 4096
"""Tokens of an answer whose request names no limit, where what it may cost is limited."""
UNSEEN: Final = 256
"""Tokens that a vendor's template may put around a prompt, beyond the bytes that its JSON has for that."""


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A body as the fallback gets it."""

    chunks: tuple[bytes, ...]
    tokens_in: int
    """The prompt has no more: a token stands for one byte at least."""
    tokens_out: int
    """All its answers together have no more; 0 where nobody limits them."""

    @property
    def size(self) -> int:
        return sum(map(len, self.chunks))

    def __repr__(self) -> str:
        return f"<Outgoing {self.size} bytes, at most {self.tokens_in} tokens in and {self.tokens_out or 'any'} out>"


@dataclass(frozen=True, slots=True)
class Manner:
    """How the fallback is asked."""

    model: str
    limited: bool
    """Whether what a request may cost must be known before."""
    counts: bool = True
    """Whether it can be asked for the count of a stream's tokens."""
    limit_name: str = ""
    """What the fallback calls the most tokens of a chat's answer, once it is known; empty: as the caller calls it."""


def outgoing(body: Readable, route: str, facts: Facts, manner: Manner) -> Outgoing | None:
    """The body for the fallback. None: this request stays at home."""
    marks = _Marks(body)
    document = json.loads(marks.numbered())
    if _stays(document, limited=manner.limited):
        return None
    kept = {name: value for name, value in document.items() if name in FIELDS[route] and value is not None}
    if "messages" in kept:
        kept["messages"] = [_message(message) for message in kept["messages"]]
    if isinstance(kept.get("tools"), list):
        kept["tools"] = [_typed(tool) for tool in kept["tools"]]
    answers = facts.choices * (len(kept["prompt"]) if isinstance(kept.get("prompt"), list) else 1)
    most = _set_limit(kept, manner, is_chat=route == CHAT)
    kept["model"] = manner.model
    if facts.stream:
        kept["stream"] = True
        if manner.counts:
            kept["stream_options"] = {"include_usage": True}
    chunks = tuple(marks.filled(_written(kept)))
    return Outgoing(chunks, sum(map(len, chunks)) + UNSEEN, most * answers)


def _stays(document: dict[str, Any], *, limited: bool) -> bool:
    """Whether it would not mean the same elsewhere, or its price could not be told."""
    prompt = document.get("prompt")
    if isinstance(prompt, list) and not all(isinstance(each, str) for each in prompt):
        return True
    parts = list(_parts(document.get("messages")))
    if any(isinstance(part, dict) and _kind(part) is None for part in parts):
        return True
    tools = document.get("tools")
    if isinstance(tools, list) and any(_kind(tool) not in TOOLS for tool in tools):
        return True
    return limited and any(_kind(part) not in TEXTS for part in parts)


def _parts(messages: object) -> Iterator[object]:
    for message in messages if isinstance(messages, list) else ():
        content = message.get("content") if isinstance(message, dict) else None
        if isinstance(content, list):
            yield from content
        elif content is not None and not isinstance(content, str):
            yield content


def _kind(part: object) -> object:
    kind = part.get("type") if isinstance(part, dict) else None
    return kind if isinstance(kind, str) else None


def _message(message: object) -> object:
    if not isinstance(message, dict):
        return message
    kept = {name: value for name, value in message.items() if name in OF_A_MESSAGE}
    if isinstance(kept.get("content"), list):
        kept["content"] = [_typed(part) for part in kept["content"]]
    return kept


def _typed(part: object) -> object:
    """A part of a message, or a tool: its type and what is called as that (`image_url`, `function`), or its text."""
    kind = _kind(part)
    if kind is None or not isinstance(part, dict):
        return part
    return {name: value for name, value in part.items() if name in ("type", kind, "text")}


def _set_limit(kept: dict[str, Any], manner: Manner, *, is_chat: bool) -> int:
    """One limit of tokens under one name, and how many they are; 0 where there is none. -1 and such are none."""
    given = {name: kept.pop(name) for name in LIMITS if name in kept}
    right = [(name, value) for name, value in given.items() if type(value) is int and value > 0]
    name, most = right[0] if right else ("max_tokens", ANSWER_MOST if manner.limited else 0)
    if most:
        kept[(manner.limit_name or name) if is_chat else "max_tokens"] = most
    return most


def learnt(manner: Manner, error: bytes) -> Manner:
    """The manner in which the fallback wants to be asked, as far as its 400 says: the same where that was not it."""
    if manner.counts and b"stream_options" in error:
        return replace(manner, counts=False)
    name = _other_limit_name(error)
    return replace(manner, limit_name=name) if name else manner


def _other_limit_name(error: bytes) -> str:
    try:
        said = json.loads(error)["error"]
        param, message = said.get("param"), str(said.get("message"))
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError):
        return ""
    for wrong, right in zip(LIMITS, LIMITS[::-1], strict=True):
        if param == wrong and (right in message or said.get("code") == "unsupported_parameter"):
            return right
    return ""


class _Marks:
    """Each mark with a number, so that texts go along with what they stand in, or stay with it."""

    def __init__(self, body: Readable) -> None:
        self._body = body

    def numbered(self) -> bytes:
        if not self._body.holes:
            return self._body.json
        pieces = self._body.json.split(self._body.mark)
        marked = [piece + b"%b%08d" % (self._body.mark, number) for number, piece in enumerate(pieces[:-1])]
        return b"".join([*marked, pieces[-1]])

    def filled(self, text: bytes) -> Iterator[bytes]:
        if not self._body.holes:
            yield text
            return
        for place, piece in enumerate(re.split(re.escape(self._body.mark) + rb"([0-9]{8})", text)):
            if place % 2:
                yield from self._body.holes[int(piece)]
            else:
                yield piece


def _written(document: object) -> bytes:
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


# -- the answer ----------------------------------------------------------------------------------


_NAMED: Final = re.compile(rb'"model"\s*:\s*("(?:[^"\\]|\\.)*"|null)')


def answer_in(body: bytes, model: str | None) -> bytes | None:
    """An answer in one piece, with another model's name; None: it is no answer, whatever its status said."""
    said = _parsed(body)
    choices = said.get("choices") if isinstance(said, dict) else None
    if not isinstance(choices, list) or not choices or not all(isinstance(each, dict) and each for each in choices):
        return None
    return body if model is None else _renamed(body, said, model)


def may_begin(event: bytes) -> bool:
    """Whether an answer's stream can begin with the JSON of this event. Some begin with one that has no choices yet."""
    said = _parsed(event)
    return isinstance(said, dict) and isinstance(said.get("choices", []), list)


def renamed(answer: bytes, model: str) -> bytes:
    """JSON with another model's name. What is no such JSON stays as it is, and so does all else."""
    return _renamed(answer, _parsed(answer), model)


def _parsed(text: bytes) -> Any:
    """None where it is no JSON."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _renamed(answer: bytes, said: object, model: str) -> bytes:
    if not isinstance(said, dict) or "model" not in said:
        return answer
    named = list(_NAMED.finditer(answer))
    if len(named) == 1:
        return b"".join((answer[: named[0].start(1)], json.dumps(model).encode(), answer[named[0].end(1) :]))
    return json.dumps(said | {"model": model}, separators=(",", ":")).encode()  # a second one stands deeper


def error_status(event: bytes) -> int:
    """The status that the JSON of an event speaks of, if it is an error; 502 where it names none, 0 for none."""
    if b'"error"' not in event:
        return 0
    try:
        error = json.loads(event).get("error")
    except (ValueError, RecursionError, AttributeError):
        return 0
    code = error.get("code") if isinstance(error, dict) else None
    return (code if type(code) is int and 400 <= code < 600 else 502) if error else 0


_DATA: Final = re.compile(rb"(?m)^(data:[ ]?)(\{[^\r\n]*)")


def renamed_events(events: bytes, model: str) -> bytes:
    """The same of whole events of a stream. Each is parsed: this is not the way of our own engine's chunks."""
    if b'"model"' not in events:
        return events
    return _DATA.sub(lambda line: line[1] + renamed(line[2], model), events)
