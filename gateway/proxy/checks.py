"""What is checked in a JSON body before an engine sees it. Pure: bytes in, a `Checked` out or `Refused` raised.

What was checked is what is forwarded: the body is parsed once, strictly, and written again from what was parsed, so
that no engine's parser can read it in another way (a second `"n"`, a BOM, NaN, a UTF-16 body). pydantic's parser and
writer do it, several times as fast as Python's; what they doubt Python's parser judges, and says what is wrong. Texts
that are too long to be looked at in one go were taken out before (`sieve.py`), and a mark stands for each. Key order,
big integers and every field that is not named here pass untouched. What changes: white space; `\\u…` escapes become
UTF-8; a float is written as the shortest text that means the same double (`1E2` becomes `100.0`, digits beyond a
double's are lost, `-0` becomes `0`); a lone surrogate (text cut in the middle of an emoji) becomes U+FFFD and is
counted.

Three things may be asked of the engine that the caller did not ask for (`Rules.count_tokens`, `Rules.gather`,
`Rules.output_tokens`): the count of tokens at the end of a stream, a stream in place of a silent answer, and no more
tokens than the operator lets one answer have. `Facts` tells what the caller asked.

`/chat` is `/v1/chat/completions` under a short name, where `{"prompt": "…"}` may stand for the messages: it is written
again as one of these, before anything else is looked at.

Three policies live here as tables: fields that are refused, limits (never clamped: the refusal names the limit), and
where media may come from. Media is looked for only where engines look for it (messages, their content parts, multimodal
inputs), so that a tool's argument named `image_url` stays a tool's argument.

Images that the gateway is to fetch itself (MEDIA_FETCH) leave gaps: the body is written without them, and where they
were missing is told beside it. What was fetched is later sent from there, and nothing is parsed again.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any, Final, NoReturn

from pydantic_core import from_json, to_json

from gateway.errors import Refused, refuse
from gateway.proxy.dialects import OPENAI, for_route

REFUSED_FIELDS: Final = frozenset(
    {
        # Memory corruption in the engine (llama.cpp CVE-2026-21869, CVE-2026-107183; vLLM CVE-2025-62164).
        "n_discard",
        "chat_parser",
        "prompt_embeds",
        # Template code, and what reaches it by keyword (vLLM CVE-2025-62426, llama-cpp-python CVE-2024-34359).
        "chat_template",
        "chat_template_kwargs.chat_template",
        "chat_template_kwargs.tokenize",
        # Code chosen by name.
        "logits_processors",
        "guided_decoding_backend",
        # Sends the request, or its key, somewhere else.
        "api_base",
        "base_url",
        "api_key",
        "user_config",
        "kv_transfer_params",
    }
)

GRAMMARS: Final = (
    "grammar",
    "json_schema",
    "response_format",
    "structured_outputs",
    "guided_json",
    "guided_grammar",
    "guided_regex",
    "guided_choice",
    "structural_tag",
    "text",
    "output_format",
    "output_config",
)
"""Fields whose value an engine compiles. `text` is `/v1/responses`' home of a schema."""


CONVERSATIONS: Final = frozenset({"/v1/chat/completions", "/v1/messages", "/v1/messages/count_tokens"})
"""Routes that are about a list of `messages`, with every engine."""

CHAT: Final = "/v1/chat/completions"
SHORT_CHAT: Final = "/chat"

MODEL_MAX: Final = 512
"""Characters of a model's name."""


@dataclass(frozen=True, slots=True)
class Rules:
    """What a body may hold. Made once from the settings; picklable as JSON by `to_wire` for the checker process."""

    refused: frozenset[str] = REFUSED_FIELDS
    media_hosts: tuple[str, ...] = ()
    """`host`, `host:port` or `*.suffix`, lower case. Empty: only `data:` passes."""
    media_fetch: bool = False
    """Whether images of other https hosts are wanted (`Checked.wanted`) instead of refused."""
    choices: int = 128
    stops: int = 64
    top_logprobs: int = 20
    nesting: int = 64
    grammar: int = 64 * 1024
    count_tokens: bool = False
    """Whether each stream of OpenAI's is to end with the count of its tokens, also where nobody asked for it."""
    gather: bool = False
    """Whether the engine is asked for a stream where the caller asked for none (`Facts.gathered`)."""
    output_tokens: int | None = None
    """The most tokens that one answer may have; an engine is told so where the caller says nothing. None: no limit."""

    def to_wire(self) -> dict[str, Any]:
        wire: dict[str, Any] = {name: getattr(self, name) for name in self.__slots__}
        return wire | {"refused": sorted(self.refused)}

    @staticmethod
    def from_wire(wire: dict[str, Any]) -> "Rules":
        return Rules(**(wire | {"refused": frozenset(wire["refused"]), "media_hosts": tuple(wire["media_hosts"])}))


def refused_fields(setting: str) -> frozenset[str]:
    """What `REFUSE_FIELDS` means: bare names are the list; only `+name` and `-name` change the usual one; else none."""
    words = [word for word in re.split(r"[,\s]+", setting) if word]
    changes = [word for word in words if word[0] in "+-"]
    bare = {word for word in words if word[0] not in "+-"}
    fields = bare - {"none"} if bare or not changes else set(REFUSED_FIELDS)
    for change in changes:
        if change[0] == "+":
            fields.add(change[1:])
        else:
            fields.discard(change[1:])
    return frozenset(fields)


@dataclass(slots=True)
class Facts:
    """What the gateway needs to know of a body. Nobody changes it; frozen, each would take twice as long to make."""

    model: str | None = None
    stream: bool = False
    """The caller asks for a stream, on a route that has streams."""
    slots: int = 1
    """How many answers the engine will work on at once (`n`, `best_of`)."""
    choices: int = 1
    """How many answers will come (`n`): a stream has ended when each has."""
    include_usage: bool = False
    """The caller asks for the count of tokens; what the engine is asked for may be more (`Rules.count_tokens`)."""
    gathered: bool = False
    """The engine will answer with a stream, of which the caller's answer has to be put together (`Rules.gather`)."""
    max_tokens: int = 0
    """The most tokens that all answers together may have; 0 when the caller set no limit."""
    repaired: int = 0
    """Lone surrogates that became U+FFFD."""
    lacks: str = ""
    """The field without which no engine answers on this route: such a request must not wake one to be told so."""


class Fill(Enum):
    """What goes into a gap."""

    URL = "url"
    """`data:image/png;base64,…`"""
    TYPE = "type"
    """`image/png`"""
    DATA = "data"
    """base64"""


@dataclass(frozen=True, slots=True)
class Gap:
    """A place in a body, between quotation marks, where something of a fetched image will stand."""

    at: int
    """Bytes before it, of `before` and `after` together."""
    image: int
    """Which of those wanted."""
    fill: Fill


@dataclass(frozen=True, slots=True)
class Wanted:
    """An image that has to be fetched, once, however often it stands in the body."""

    url: str
    """https, in the one spelling that passes here; port and host are not yet looked at."""
    place: str
    """The first place in the body, as a refusal names it."""
    uses: int = 1


@dataclass(frozen=True, slots=True, repr=False)
class Checked:
    """A body that may be forwarded: what stands before the model's name, the name, and what stands after it."""

    facts: Facts
    before: bytes
    name: bytes
    """`"model":"…"` as it will be sent, or nothing."""
    after: bytes
    wanted: tuple[Wanted, ...] = ()
    gaps: tuple[Gap, ...] = ()
    """In the order of their places. A body with gaps cannot be sent before they are filled."""

    @property
    def size(self) -> int:
        return len(self.before) + len(self.name) + len(self.after)

    def with_model(self, model: str) -> "Checked":
        """The same body for another model name; nothing is parsed again."""
        return replace(self, facts=replace(self.facts, model=model), name=name_field(model, self.before, self.after))

    def whole(self) -> bytes:
        if self.gaps:
            raise RuntimeError("its images were not fetched")
        return b"".join((self.before, self.name, self.after))

    def __repr__(self) -> str:
        return f"<Checked {self.size} bytes {self.facts}>"


@dataclass(frozen=True, slots=True)
class Readable:
    """The JSON of a checked body, as far as it is in one piece."""

    json: bytes
    mark: bytes = b""
    """Stands in it for each of `holes`: long texts, or parts of them."""
    holes: tuple[Sequence[bytes], ...] = ()

    def __repr__(self) -> str:
        return f"<Readable {len(self.json)} bytes, {len(self.holes)} holes>"


def name_field(model: str, before: bytes, after: bytes) -> bytes:
    """`"model":"…"` between what is before and what is after it, with the commas that they lack."""
    lead = b"" if before.endswith((b"{", b",")) else b","
    trail = b"" if after.startswith((b"}", b",")) else b","
    return lead + b'"model":' + _text(model).encode("utf-8", "replace") + trail


# ---------------------------------------------------------------- the head


def check_type(content_types: Sequence[str], encodings: Sequence[str] = (), *, multipart: bool = False) -> None:
    """415 unless the body is what the route reads. Both arguments are all values of their header, as they came.

    `application/*+json` is refused like any other type: no client sends it, and one spelling is easier to trust.
    """
    if not encodings and not multipart and len(content_types) == 1 and content_types[0] == "application/json":
        return
    for encoding in encodings:
        if encoding.strip().lower() not in ("", "identity"):
            raise refuse(
                "unsupported_media_type", "The body must not be compressed: leave out Content-Encoding.", close=True
            )
    wanted = "multipart/form-data with a boundary" if multipart else "application/json"
    kinds = {kind.strip() for kind in content_types}
    if len(kinds) != 1:
        came = "none came" if not kinds else "several came"
        raise refuse("unsupported_media_type", f"Content-Type must be {wanted}; {came}.", close=True)
    media, settings = media_type(kinds.pop())
    if multipart:
        fits = media.lower() == "multipart/form-data" and settings.get("boundary", "") != ""
    else:
        fits = media.lower() == "application/json" and settings.get("charset", "utf-8").lower() in ("utf-8", "utf8")
    if not fits:
        hint = ""
        if not multipart and media.lower() == "application/x-www-form-urlencoded":
            hint = " With curl, add: -H 'Content-Type: application/json'."
        raise refuse("unsupported_media_type", f"Content-Type must be {wanted}.{hint}", close=True)


def media_type(text: str) -> tuple[str, dict[str, str]]:
    """The type and its parameters, whose names are in lower case."""
    media, *parameters = (part.strip() for part in text.split(";"))
    return media, {
        name.strip().lower(): value.strip().strip('"') for name, _, value in (p.partition("=") for p in parameters)
    }


def boundary_of(content_type: str) -> bytes:
    """What stands, after two dashes, before each part of a multipart body."""
    return media_type(content_type)[1].get("boundary", "").encode("utf-8", "surrogateescape")


# ---------------------------------------------------------------- the body


def check(raw: bytes, route: str, rules: Rules, *, mark: str = "", quickly: bool = True) -> Checked:
    """Parse, check and write again. Raises Refused; no other exception, whatever the bytes.

    `mark` stands in the body for what was taken out of its texts (`sieve.py`): wherever that could matter the body is
    refused, and has to be checked whole. `quickly`: pydantic's parser may be tried (it ends the process when memory
    is out).
    """
    document, parts, repaired = (_read_quickly(raw) if quickly else None) or _read(raw, rules.nesting)
    if not document:
        raise refuse("invalid_request", "The body is an empty object; send at least `model` and the input.")
    if mark:
        _only_in_values(raw, mark.encode())
    if route == SHORT_CHAT:
        document, parts, route = *_as_messages(document, parts), CHAT
    wanted: list[_Reference] = []
    is_flat = _is_flat(document)
    if not (is_flat and rules.nesting >= FLAT) and deeper_than(raw, rules.nesting):
        _too_deep(rules.nesting)
    _refuse_fields(document, rules)
    if not _LIMITED.isdisjoint(document):
        _check_limits(document, rules, mark)
    if not is_flat:
        wanted = _check_media(document, rules, mark)
    facts = _facts(document, route, repaired)
    more = _bounded(document, route, rules.output_tokens) if rules.output_tokens is not None else {}
    if (rules.count_tokens or rules.gather) and for_route(route) is OPENAI:
        facts, asked = _asked_for_more(document, facts, rules, is_chat=route in CONVERSATIONS)
        more |= asked
    if more:
        parts = _with_more(document, parts, more)
    if not wanted:
        return Checked(facts, *parts)
    if mark:
        raise refuse_media("beside a text that was taken out", wanted[0].place)
    return _with_gaps(document, facts, wanted)


_Parts = tuple[bytes, bytes, bytes]
"""What stands before the model's name, the name's field, and what stands after it."""


def _read_quickly(raw: bytes) -> tuple[dict[str, Any], _Parts, int] | None:
    """The document as pydantic's parser reads and writes it; None where it could differ from what Python's would say.

    It is as strict as Python's, keeps big integers, and never lets half a surrogate pass (a test compares them), but
    takes the last of two equal keys, and infinity for 1e999. Neither can happen in a body that is written again exactly
    as it came, as most bodies are. In any other, a key that went missing took its colon along; only an escape that
    stood for a colon could make up for it.
    """
    try:
        document = from_json(raw, allow_inf_nan=False, cache_strings="keys")
    except ValueError:
        return None
    if type(document) is not dict:
        return None
    parts = _parts(document, to_json)
    written = b"".join(parts)
    if written != raw and (raw.count(b":") != written.count(b":") or b"\\u003" in raw or b"Infinity" in written):
        return None
    return document, parts, 0


def _read(raw: bytes, nesting: int) -> tuple[dict[str, Any], _Parts, int]:
    """The same with Python's parser, which can say what is wrong. The number is that of lone surrogates that were
    replaced. Raises Refused."""
    document = _parse(raw, nesting)
    try:
        return document, _parts(document, _plain_utf8), 0
    except UnicodeEncodeError:
        document, repaired = _repaired(document)
        return document, _parts(document, _plain_utf8), repaired


def _parse(raw: bytes, nesting: int) -> dict[str, Any]:
    if not raw.strip():
        raise refuse("invalid_json", "The body is empty; a JSON object is needed.")
    if raw.startswith((b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")):
        raise refuse("invalid_json", "The body begins with a byte order mark; send plain UTF-8.")
    try:
        document = _DECODER.decode(raw.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise refuse("invalid_json", f"The body is not UTF-8 (at byte {error.start}).") from None
    except json.JSONDecodeError as error:
        raise refuse(
            "invalid_json", f"The body is not JSON: {error.msg} (line {error.lineno}, column {error.colno})."
        ) from None
    except RecursionError:
        _too_deep(nesting)
    except ValueError:  # int() refuses more than 4,300 digits, where the work would grow quadratically
        raise refuse("invalid_json", "The body holds a number with too many digits.") from None
    except MemoryError:
        raise refuse("invalid_request", "The body holds too many values to be checked.") from None
    if not isinstance(document, dict):
        raise refuse("invalid_json", "The body must be a JSON object, `{…}`.")
    return document


def _only_in_values(raw: bytes, mark: bytes) -> None:
    """Refuses a mark in a key: two keys that are equal could look different then."""
    place = raw.find(mark)
    while place >= 0:
        ended = _REST_OF_TEXT.match(raw, place)
        if ended is not None and ended[1] == b":":
            raise refuse("invalid_json", "A key is too long.")
        place = raw.find(mark, place + len(mark))


_REST_OF_TEXT: Final = re.compile(rb'[^"\\]*(?:\\.[^"\\]*)*"[ \t\r\n]*(.)', re.DOTALL)
"""From inside a string in JSON to what follows it."""


FLAT: Final = 3
"""Levels of a flat body: itself, a list, the objects in it."""


def _is_flat(document: dict[str, Any]) -> bool:
    """Whether it is like most bodies: settings, and messages that are texts. No such body can name media, and none
    is deep."""
    for field, value in document.items():
        kind = type(value)
        if kind is list and field == "messages":
            for message in value:
                if type(message) is not dict or not _MEDIA.isdisjoint(message):
                    return False
                for text in message.values():
                    if type(text) is not str and text is not None:
                        return False
        elif kind is list or kind is dict:
            if field in ROOTS:
                return False
            for inner in value if kind is list else value.values():
                if type(inner) is list or type(inner) is dict:
                    return False
    return True


def _too_deep(nesting: int) -> NoReturn:
    raise refuse("invalid_json", f"The body is nested too deeply; {nesting} levels are allowed.") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise refuse("invalid_json", f"The key {_shown(twice)} appears twice in one object.")
    return made


def _constant(word: str) -> NoReturn:
    raise refuse("invalid_json", f"{word} is not JSON.")


_DECODER: Final = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_constant)
_ENCODER: Final = json.JSONEncoder(ensure_ascii=False, allow_nan=False, check_circular=False, separators=(",", ":"))


def _text(value: object) -> str:
    try:
        return _ENCODER.encode(value)
    except ValueError:  # the only one left: a float that overflowed to infinity
        raise refuse("invalid_json", "The body holds a number that is too large (such as 1e999).") from None


_NOT_BRACKETS: Final = bytes(byte for byte in range(256) if byte not in b"[]{}")
_SQUARE: Final = bytes.maketrans(b"{}", b"[]")


def deeper_than(raw: bytes, limit: int) -> bool:
    """Whether JSON that is known to be valid nests deeper than `limit`: strings out, then one level away at a time.

    All in C, so that a body that is one picture costs next to nothing, and ten million brackets about a second.
    """
    if raw.count(b"[") + raw.count(b"{") <= limit:
        return False
    unescaped = raw.replace(b"\\\\", b"").replace(b'\\"', b"") if b"\\" in raw else raw
    brackets = b"".join(unescaped.split(b'"')[::2]).translate(_SQUARE, _NOT_BRACKETS)
    for _ in range(limit):
        if not brackets:
            return False
        brackets = brackets.replace(b"[]", b"")
    return bool(brackets)


_SURROGATE: Final = re.compile("[\ud800-\udfff]")


def _repaired(document: dict[str, Any]) -> tuple[dict[str, Any], int]:
    """The document with U+FFFD for each lone surrogate. It is parsed again then: two keys may have become one."""
    text, count = _SURROGATE.subn("\ufffd", _text(document))
    repaired: dict[str, Any] = _DECODER.decode(text)
    return repaired, count


def _plain_utf8(value: object) -> bytes:
    """Raises UnicodeEncodeError at a lone surrogate."""
    return _text(value).encode()


def _parts(document: dict[str, Any], write: Callable[[object], bytes]) -> _Parts:
    """The document in three parts, so that another model name costs nothing."""
    whole = write(document)
    if "model" not in document:
        return b"{", b"", whole[1:]
    name = b'"model":' + write(document["model"])
    if whole.startswith(name, 1):
        return b"{", name, whole[1 + len(name) :]
    keys = list(document)
    rest = keys[keys.index("model") + 1 :]  # mostly little: clients put it first, or behind the messages
    after = b"," + write({key: document[key] for key in rest})[1:] if rest else b"}"
    return whole[: -len(name) - len(after)], name, after


def _as_messages(document: dict[str, Any], parts: _Parts) -> tuple[dict[str, Any], _Parts]:
    """A prompt as the one message that it is, at its place; everything else as it came."""
    prompt = document.get("prompt")
    if prompt is None:
        if not isinstance(document.get("messages"), list):
            said = 'Send `{"prompt": "…"}`, or `messages` as for /v1/chat/completions.'
            raise refuse("invalid_request", said, param="prompt")
        return document, parts
    if not isinstance(prompt, str) or not prompt.strip():
        raise refuse("invalid_request", "`prompt` must be a text that says something.", param="prompt")
    if document.pop("messages", None) is not None:
        raise refuse("invalid_request", "Send `prompt` or `messages`, not both.", param="prompt")
    messages = [{"role": "user", "content": prompt}]
    written = {
        "messages" if field == "prompt" else field: messages if field == "prompt" else value
        for field, value in document.items()
    }
    return written, _parts(written, to_json)


# ---------------------------------------------------------------- fields and limits


def _refuse_fields(document: dict[str, Any], rules: Rules) -> None:
    """A refused field whose value is null does nothing in any engine, and clients that send every field send it so."""
    if not rules.refused.isdisjoint(document):
        for field in document:
            if field in rules.refused and document[field] is not None:
                _unsupported(field)
    if _PARENTS.isdisjoint(document):
        return
    for parent, value in document.items():
        if isinstance(value, dict) and parent in _PARENTS:
            for field in value:
                dotted = f"{parent}.{field}"
                if dotted in rules.refused and value[field] is not None:
                    _unsupported(dotted)


_PARENTS: Final = frozenset(
    {"chat_template_kwargs", "extra_body", "vllm_xargs", "mm_processor_kwargs", "media_io_kwargs"}
)
"""Objects in which REFUSE_FIELDS can name a field (`parent.field`)."""


def _unsupported(field: str) -> NoReturn:
    raise refuse(
        "unsupported_parameter",
        f"`{field}` is not accepted here: it can harm the engine. Leave it out (the operator has REFUSE_FIELDS).",
        param=field,
    )


_LIMITED: Final = frozenset({"n", "best_of", "top_logprobs", "stop", "stop_sequences", *GRAMMARS})
"""Every field that `_check_limits` looks at."""


def _check_limits(document: dict[str, Any], rules: Rules, mark: str) -> None:
    for field, most in (("n", rules.choices), ("best_of", rules.choices)):
        value = document.get(field)
        if value is not None and _integer(value, field) < 1:
            raise refuse("invalid_request", f"`{field}` must be at least 1.", param=field)
        if value is not None and value > most:
            raise refuse("invalid_request", f"`{field}` is {_shown(value)}; at most {most} is allowed.", param=field)
    value = document.get("top_logprobs")
    if value is not None and _integer(value, "top_logprobs") > rules.top_logprobs:
        raise refuse(
            "invalid_request",
            f"`top_logprobs` is {_shown(value)}; at most {rules.top_logprobs} is allowed.",
            param="top_logprobs",
        )
    for field in ("stop", "stop_sequences"):
        value = document.get(field)
        if isinstance(value, list) and len(value) > rules.stops:
            raise refuse(
                "invalid_request",
                f"`{field}` has {len(value)} entries; at most {rules.stops} are allowed.",
                param=field,
            )
    for field in GRAMMARS:
        value = document.get(field)
        if value:
            text = value if isinstance(value, str) else _text(value)
            size = len(text.encode("utf-8", "replace"))
            if size > rules.grammar or (mark and mark in text):
                raise refuse(
                    "invalid_request",
                    f"The grammar or schema in `{field}` has {size} bytes; at most {rules.grammar} are allowed.",
                    param=field,
                )


def _facts(document: dict[str, Any], route: str, repaired: int) -> Facts:
    model = document.get("model")
    if model is not None and (not isinstance(model, str) or not model):
        raise refuse("invalid_request", "`model` must be a string with a model's name.", param="model")
    if model is not None and len(model) > MODEL_MAX:
        raise refuse("invalid_request", f"`model` is longer than {MODEL_MAX} characters.", param="model")
    stream = document.get("stream")
    if stream is not None and not isinstance(stream, bool):
        raise refuse("invalid_request", "`stream` must be true or false.", param="stream")
    options = document.get("stream_options")
    choices = document.get("n") or 1
    return Facts(
        model=model,
        stream=stream is True and for_route(route).streams,
        slots=max(choices, document.get("best_of") or 1),
        choices=choices,
        include_usage=isinstance(options, dict) and options.get("include_usage") is True,
        max_tokens=_max_tokens(document) * choices,
        repaired=repaired,
        lacks="messages" if route in CONVERSATIONS and not isinstance(document.get("messages"), list) else "",
    )


def _max_tokens(document: dict[str, Any]) -> int:
    """By whichever name this API has for it; anything odd is the engine's to refuse."""
    for name in ("max_completion_tokens", "max_tokens", "max_output_tokens"):
        value = document.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 10**9:
            return value
    return 0


def _integer(value: object, field: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise refuse("invalid_request", f"`{field}` must be an integer.", param=field)
    return value


def _shown(value: object) -> str:
    """A caller's own value in a message: short, and nothing in it that could break a line."""
    shown = repr(value) if not isinstance(value, int) or abs(value) < 10**18 else "a very large number"
    return shown if len(shown) <= 60 else shown[:57] + "…'"


# ---------------------------------------------------------------- what the engine is asked for beyond it

_ALONE: Final = frozenset(
    {
        *("stream_options", "use_beam_search"),  # a stream is refused with them, or they without a stream
        *("echo", "return_token_ids", "return_hidden_states", "n_probs", "return_tokens"),
        *("audio", "modalities", "web_search_options"),
    }
)
"""Fields with which a request that is no stream stays none, if their value says anything: what they ask for stands
elsewhere in a stream, or nowhere."""


_OUTPUT: Final = ("max_tokens", "max_completion_tokens", "max_output_tokens", "n_predict")
"""What engines call the most tokens of an answer, on any route. llama-server takes the last one before the others."""
_OUTPUT_OF: Final = {
    CHAT: "max_tokens",
    "/v1/completions": "max_tokens",
    "/v1/messages": "max_tokens",
    "/v1/responses": "max_output_tokens",
}
"""The one that every engine knows. Older llama-servers do not know `max_completion_tokens`."""


def _bounded(document: dict[str, Any], route: str, most: int) -> dict[str, Any]:
    """What has to be added, so that no answer is longer. Raises Refused where more is asked for: 0, -1 and what is no
    whole number mean "no limit" to one engine or another."""
    asked = most
    for field in _OUTPUT:
        value = document.get(field)
        if value is None:
            continue
        if _integer(value, field) < 1 or value > most:
            raise refuse(
                "invalid_request",
                f"`{field}` is {_shown(value)}; 1 to {most} is allowed here (MAX_OUTPUT_TOKENS).",
                param=field,
            )
        asked = min(asked, value)
    field = _OUTPUT_OF.get(route, "")
    return {field: asked} if field and document.get(field) is None else {}


def _asked_for_more(
    document: dict[str, Any], facts: Facts, rules: Rules, *, is_chat: bool
) -> tuple[Facts, dict[str, Any]]:
    """What has to be added for the count of tokens, or for a stream."""
    options = document.get("stream_options")
    more: dict[str, Any] = {}
    if facts.stream:
        if rules.count_tokens and not facts.include_usage and isinstance(options, dict | None):
            more = {"stream_options": (options or {}) | {"include_usage": True}}
    elif rules.gather and _can_be_gathered(document, is_chat=is_chat):
        more = {"stream": True, "stream_options": {"include_usage": True}}
        facts = replace(facts, gathered=True)
    return facts, more


def _with_more(document: dict[str, Any], parts: _Parts, more: dict[str, Any]) -> _Parts:
    """Changes the document."""
    is_new = more.keys().isdisjoint(document)
    document |= more
    if not is_new:
        return _parts(document, to_json)
    before, name, after = parts
    lead = b"," if name or len(after) > 1 else b""
    return before, name, after[:-1] + lead + to_json(more)[1:]


def _can_be_gathered(document: dict[str, Any], *, is_chat: bool) -> bool:
    """Whether the answer in one piece can be put together from a stream."""
    if any(document.get(field) for field in _ALONE) or document.get("prompt_logprobs") is not None:  # 0 asks, too
        return False
    if is_chat:
        return isinstance(document.get("messages"), list)
    prompt = document.get("prompt")
    several = isinstance(prompt, list) and len(prompt) > 1 and not isinstance(prompt[0], int)
    return not several and (document.get("best_of") or 1) <= (document.get("n") or 1)


# ---------------------------------------------------------------- media

ROOTS: Final = (
    *("messages", "input", "prompt", "system", "instructions", "query", "queries", "documents"),
    *("inputs", "items", "text_1", "text_2", "data_1", "data_2"),
)
"""Where engines take text and media from, over all routes. The second line is of routes that ALLOWED_PATHS may let in:
vLLM's /score and /classify, Cohere's embed."""
_REFERENCES: Final = frozenset({"image_url", "audio_url", "video_url", "file_url"})
"""Keys of a part whose value (or its `url`) an engine loads."""
_CARRIERS: Final = frozenset(
    {"image", "audio", "video", "file", "input_audio", "input_video", "source", "multimodal_data"}
)
"""Keys of a part whose value is media itself or says where it is."""
_MEDIA: Final = _REFERENCES | _CARRIERS
_INSIDE: Final = ("content", "output")
"""Keys of a part that hold further parts (a tool's result)."""


@dataclass(frozen=True, slots=True)
class _Reference:
    """Something in a body that an engine could load."""

    text: str
    place: str
    holder: dict[str, Any] | None = None
    """Where the text stands under `key`, if it is an image's and could as well stand there inline."""
    key: str = ""
    is_source: bool = False
    """`{"type": "url", "url": …}`, Anthropic's, which becomes `{"type": "base64", "media_type": …, "data": …}`."""


def _check_media(document: dict[str, Any], rules: Rules, mark: str) -> list[_Reference]:
    """Raises Refused; returns what is to be fetched."""
    return [
        reference
        for root in ROOTS
        if isinstance(document.get(root), list | dict)
        for reference in _references(document[root], root)
        if not _may_pass(reference, rules, mark)
    ]


_NESTED: Final = (dict, list)


def _references(value: object, where: str) -> Iterator[_Reference]:
    """Every string in the parts below `value` that an engine could load, with its place. Nesting was bounded before."""
    if isinstance(value, list):
        for index, item in enumerate(value):
            if item and isinstance(item, _NESTED):  # made once: an input can be a million numbers
                yield from _references(item, f"{where}.{index}")
        return
    if not isinstance(value, dict):
        return
    if not _MEDIA.isdisjoint(value):
        for key in _MEDIA.intersection(value):
            yield from _in_media(value[key], key, f"{where}.{key}", value)
    for key in _INSIDE:
        if isinstance(value.get(key), list | dict):
            yield from _references(value[key], f"{where}.{key}")


def _in_media(value: object, key: str, where: str, part: dict[str, Any]) -> Iterator[_Reference]:
    if isinstance(value, str):
        # A `source` that is text is a citation's; data without a colon is base64.
        if key in _REFERENCES or (key != "source" and ":" in value[:_SCHEME_WITHIN]):
            is_image = key == "image_url" and part.get(key) is value
            yield _Reference(value, where, part if is_image else None, key)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _in_media(item, key, f"{where}.{index}", part)
    elif isinstance(value, dict):
        for inner in ("url", "file_url"):
            if isinstance(value.get(inner), str):
                is_source = inner == "url" and _is_image_source(value, key, part)
                is_image = is_source or (inner == "url" and key == "image_url")
                yield _Reference(value[inner], f"{where}.{inner}", value if is_image else None, inner, is_source)
        for inner in ("data", "file_data"):
            data = value.get(inner)
            if isinstance(data, str) and ":" in data[:_SCHEME_WITHIN]:
                yield _Reference(data, f"{where}.{inner}")
        if "content" in value:
            yield from _references(value["content"], f"{where}.content")


def _is_image_source(value: dict[str, Any], key: str, part: dict[str, Any]) -> bool:
    """`{"type": "image", "source": {"type": "url", "url": …}}`, Anthropic's."""
    return key == "source" and part.get("type") == "image" and value.get("type") == "url" and part.get(key) is value


_SCHEME_WITHIN: Final = 64
_HTTPS: Final = re.compile(
    r"https://([a-z0-9](?:[a-z0-9._-]*[a-z0-9])?)(?::([0-9]{1,5}))?(?:[/?#][!-~]*)?", re.IGNORECASE | re.ASCII
)
"""One spelling only. No userinfo, backslash, space, control, dot at the end, or character outside ASCII: everything on
which two URL parsers could disagree about the host."""


def _may_pass(reference: _Reference, rules: Rules, mark: str) -> bool:
    """True as it stands, False if it is to be fetched. Raises Refused."""
    text = reference.text
    if text[:5].lower() == "data:":
        return True
    if mark and mark in text:
        raise refuse_media("by a URL of this length", reference.place)
    host = host_of(text)
    if host is not None and _listed(host[0], host[1], rules.media_hosts):
        return True
    if host is not None and rules.media_fetch and reference.holder is not None and len(text) <= URL_MAX:
        return False
    raise refuse_media(f"from {host[0]}" if host is not None else "from there", reference.place)


def refuse_media(where: str, place: str) -> Refused:
    """Media that no setting here lets the engine have."""
    return refuse(
        "unsupported_parameter",
        f"The engine may not load media {where}. Send it in the request (`data:…;base64,…`), or let the operator name "
        "its https host in MEDIA_HOSTS or, for https images, set MEDIA_FETCH.",
        param=place,
    )


def host_of(url: str) -> tuple[str, str | None] | None:
    """Host in lower case and port of a URL in the only spelling that passes; None: it is another one."""
    match = _HTTPS.fullmatch(url)
    if match is None or "\\" in url or ".." in match[1]:
        return None
    return match[1].lower(), match[2]


def _listed(host: str, port: str | None, hosts: Iterable[str]) -> bool:
    """An IP address in any spelling is listed only as itself: `*.1` lets none in."""
    spelled = host if port in (None, "443") else f"{host}:{port}"
    number = re.fullmatch(r"[0-9]+|0x[0-9a-f]*", host.rpartition(".")[2]) is not None
    for entry in hosts:
        if entry == spelled:
            return True
        if entry.startswith("*.") and not number and spelled.endswith(entry[1:]) and len(spelled) > len(entry) - 1:
            return True
    return False


# ---------------------------------------------------------------- gaps for what is fetched

IMAGES_MAX: Final = 32
"""Different images that are fetched for one request."""
USES_MAX: Final = 512
"""Places in which they stand. Each takes one or two of the 2048 marks that there are."""
URL_MAX: Final = 2048
"""Characters of a URL that is fetched."""


def _with_gaps(document: dict[str, Any], facts: Facts, found: list[_Reference]) -> Checked:
    """The body with gaps in place of the images. Changes the document.

    A mark is a lone surrogate: after the repair a document has none, and the writer passes it on as one character. So
    no body can hold a mark of its own, and their places are exact.
    """
    index = {url: number for number, url in enumerate(dict.fromkeys(reference.text for reference in found))}
    if len(index) > IMAGES_MAX or len(found) > USES_MAX:
        raise refuse(
            "unsupported_parameter",
            f"At most {IMAGES_MAX} different images are fetched for one request (MEDIA_FETCH), in at most {USES_MAX} "
            "places. Send more in the request itself (`data:…;base64,…`), or let the operator set MEDIA_HOSTS.",
            param=found[-1].place,
        )
    marks: list[tuple[int, Fill]] = []

    def mark(url: str, fill: Fill) -> str:
        marks.append((index[url], fill))
        return chr(0xD800 + len(marks) - 1)

    for reference in found:
        holder, url = reference.holder, reference.text
        if holder is None:
            raise RuntimeError(f"{reference.place} cannot be filled")
        if reference.is_source:
            del holder["url"]
            holder |= {"type": "base64", "media_type": mark(url, Fill.TYPE), "data": mark(url, Fill.DATA)}
        else:
            holder[reference.key] = mark(url, Fill.URL)
    uses = Counter(reference.text for reference in found)
    places = {reference.text: reference.place for reference in reversed(found)}
    before, name, after = _parts(document, _with_surrogates)
    first, gaps = _cut_at_marks(before, 0, marks)
    last, more = _cut_at_marks(after, len(first), marks)
    wanted = tuple(Wanted(url, places[url], uses[url]) for url in index)
    return Checked(facts, first, name, last, wanted, (*gaps, *more))


def _with_surrogates(value: object) -> bytes:
    return _text(value).encode("utf-8", "surrogatepass")


def _cut_at_marks(data: bytes, start: int, marks: list[tuple[int, Fill]]) -> tuple[bytes, list[Gap]]:
    pieces, gaps, size = [], [], start
    for number, piece in enumerate(_MARK.split(data)):
        if number % 2:
            gaps.append(Gap(size, *marks[ord(piece.decode("utf-8", "surrogatepass")) - 0xD800]))
        else:
            pieces.append(piece)
            size += len(piece)
    return b"".join(pieces), gaps


_MARK: Final = re.compile(rb"(\xed[\xa0-\xbf][\x80-\xbf])")
"""A surrogate in UTF-8, where none may be."""


# ---------------------------------------------------------------- what a check costs

INLINE_BYTES: Final = 256 * 1024
"""A body above this is never checked on the event loop."""
_PER_BYTE, _PER_VALUE, _BUDGET = 12e-9, 0.6e-6, 4e-3
"""Seconds; measured by bench/loop_hold.py on two slow shared cores, see there."""
_ALWAYS_CHEAP: Final = int(_BUDGET / (_PER_BYTE + _PER_VALUE))
"""Bytes, were each of them a value."""


def is_cheap(raw: bytes) -> bool:
    """Whether a check surely takes less than a few milliseconds: counted in C from what makes values, text included."""
    if len(raw) <= _ALWAYS_CHEAP:
        return True
    if len(raw) > INLINE_BYTES:
        return False
    values = raw.count(b",") + raw.count(b"{") + raw.count(b"[")
    return len(raw) * _PER_BYTE + values * _PER_VALUE <= _BUDGET


def memory_of(raw: bytes) -> int:
    """The most bytes that this body's values may take: objects, their fields, and the text, as it came and as it will
    be sent."""
    return raw.count(b"{") * 400 + raw.count(b",") * 160 + raw.count(b"[") * 100 + 8 * len(raw)


__all__ = [
    "Checked",
    "Facts",
    "Fill",
    "Gap",
    "Readable",
    "Refused",
    "Rules",
    "Wanted",
    "check",
    "check_type",
    "host_of",
    "is_cheap",
    "memory_of",
    "refuse_media",
    "refused_fields",
]
