"""What is checked in a JSON body before an engine sees it. Pure: bytes in, a `Checked` out or `Refused` raised.

What was checked is what is forwarded: the body is parsed once, strictly, and written again from what was parsed, so
that no engine's parser can read it in another way (a second `"n"`, a BOM, NaN, a UTF-16 body). Key order, big integers
and every field that is not named here pass untouched. What changes: white space; `\\u…` escapes become UTF-8; a float
is written as the shortest text that means the same double (`1E2` becomes `100.0`, digits beyond a double's are lost,
`-0` becomes `0`); a lone surrogate (text cut in the middle of an emoji) becomes U+FFFD and is counted.

Three policies live here as tables: fields that are refused, limits (never clamped: the refusal names the limit), and
where media may come from. Media is looked for only where engines look for it (messages, their content parts, multimodal
inputs), so that a tool's argument named `image_url` stays a tool's argument.

Images that the gateway is to fetch itself (MEDIA_FETCH) leave gaps: the body is written without them, and where they
were missing is told beside it. What was fetched is later sent from there, and nothing is parsed again.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any, Final, NoReturn

from gateway.errors import Refused, refuse
from gateway.proxy.dialects import for_route

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


@dataclass(frozen=True, slots=True)
class Facts:
    """What the gateway needs to know of a body."""

    model: str | None = None
    stream: bool = False
    """The caller asks for a stream, on a route that has streams."""
    slots: int = 1
    """How many answers the engine will work on at once (`n`, `best_of`)."""
    choices: int = 1
    """How many answers will come (`n`): a stream has ended when each has."""
    include_usage: bool = False
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
    media, *parameters = (part.strip() for part in kinds.pop().split(";"))
    settings = {
        name.strip().lower(): value.strip().strip('"') for name, _, value in (p.partition("=") for p in parameters)
    }
    if multipart:
        fits = media.lower() == "multipart/form-data" and settings.get("boundary", "") != ""
    else:
        fits = media.lower() == "application/json" and settings.get("charset", "utf-8").lower() in ("utf-8", "utf8")
    if not fits:
        hint = ""
        if not multipart and media.lower() == "application/x-www-form-urlencoded":
            hint = " With curl, add: -H 'Content-Type: application/json'."
        raise refuse("unsupported_media_type", f"Content-Type must be {wanted}.{hint}", close=True)


# ---------------------------------------------------------------- the body


def check(raw: bytes, route: str, rules: Rules) -> Checked:
    """Parse, check and write again. Raises Refused; no other exception, whatever the bytes."""
    document = _parse(raw, rules.nesting)
    repaired = 0
    try:
        before, name, after = _written(document)
    except UnicodeEncodeError:
        document, repaired = _repaired(document)
        before, name, after = _written(document)
    if not document:
        raise refuse("invalid_request", "The body is an empty object; send at least `model` and the input.")
    _refuse_fields(document, rules)
    _check_limits(document, rules)
    wanted = _check_media(document, rules)
    facts = _facts(document, route, repaired)
    return _with_gaps(document, facts, wanted) if wanted else Checked(facts, before, name, after)


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
    if deeper_than(raw, nesting):
        _too_deep(nesting)
    return document


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


def _written(document: dict[str, Any]) -> tuple[bytes, bytes, bytes]:
    """The document as UTF-8 in three parts, so that another model name costs nothing."""
    before, name, after = _parts(document)
    return before.encode(), name.encode(), after.encode()


def _parts(document: dict[str, Any]) -> tuple[str, str, str]:
    if "model" not in document:
        return "{", "", _text(document)[1:]
    keys = list(document)
    place = keys.index("model")
    before = _text({key: document[key] for key in keys[:place]})[:-1]
    after = _text({key: document[key] for key in keys[place + 1 :]})[1:]
    name = '"model":' + _text(document["model"])
    if place:
        before += ","
    if place + 1 < len(keys):
        after = "," + after
    return before, name, after


# ---------------------------------------------------------------- fields and limits


def _refuse_fields(document: dict[str, Any], rules: Rules) -> None:
    """A refused field whose value is null does nothing in any engine, and clients that send every field send it so."""
    if not rules.refused.isdisjoint(document):
        for field in document:
            if field in rules.refused and document[field] is not None:
                _unsupported(field)
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


def _check_limits(document: dict[str, Any], rules: Rules) -> None:
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
            size = len((value if isinstance(value, str) else _text(value)).encode("utf-8", "replace"))
            if size > rules.grammar:
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
    return Facts(
        model=model,
        stream=stream is True and for_route(route).streams,
        slots=max(document.get("n") or 1, document.get("best_of") or 1),
        choices=document.get("n") or 1,
        include_usage=isinstance(options, dict) and options.get("include_usage") is True,
        max_tokens=_max_tokens(document) * (document.get("n") or 1),
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


def _check_media(document: dict[str, Any], rules: Rules) -> list[_Reference]:
    """Raises Refused; returns what is to be fetched."""
    return [
        reference
        for root in ROOTS
        if isinstance(document.get(root), list | dict)
        for reference in _references(document[root], root)
        if not _may_pass(reference, rules)
    ]


def _references(value: object, where: str) -> Iterator[_Reference]:
    """Every string in the parts below `value` that an engine could load, with its place. Nesting was bounded before."""
    if isinstance(value, list):
        for index, item in enumerate(value):
            if isinstance(item, dict | list):
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


def _may_pass(reference: _Reference, rules: Rules) -> bool:
    """True as it stands, False if it is to be fetched. Raises Refused."""
    text = reference.text
    if text[:5].lower() == "data:":
        return True
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
    before, name, after = _parts(document)
    first, gaps = _cut_at_marks(before, 0, marks)
    last, more = _cut_at_marks(after, len(first), marks)
    wanted = tuple(Wanted(url, places[url], uses[url]) for url in index)
    return Checked(facts, first, name.encode(), last, wanted, (*gaps, *more))


def _cut_at_marks(text: str, start: int, marks: list[tuple[int, Fill]]) -> tuple[bytes, list[Gap]]:
    pieces, gaps, size = [], [], start
    for number, piece in enumerate(_MARK.split(text)):
        if number % 2:
            gaps.append(Gap(size, *marks[ord(piece) - 0xD800]))
        else:
            pieces.append(piece.encode())
            size += len(pieces[-1])
    return b"".join(pieces), gaps


_MARK: Final = re.compile("([\ud800-\udfff])")


# ---------------------------------------------------------------- what a check costs

INLINE_BYTES: Final = 256 * 1024
"""A body above this is never checked on the event loop."""
_PER_BYTE, _PER_VALUE, _BUDGET = 12e-9, 0.6e-6, 4e-3
"""Seconds; measured by bench/loop_hold.py on two slow shared cores, see there."""


def is_cheap(raw: bytes) -> bool:
    """Whether a check surely takes less than a few milliseconds: counted in C from what makes values, text included."""
    if len(raw) > INLINE_BYTES:
        return False
    values = raw.count(b",") + raw.count(b"{") + raw.count(b"[")
    return len(raw) * _PER_BYTE + values * _PER_VALUE <= _BUDGET


__all__ = [
    "Checked",
    "Facts",
    "Fill",
    "Gap",
    "Refused",
    "Rules",
    "Wanted",
    "check",
    "check_type",
    "host_of",
    "is_cheap",
    "refuse_media",
    "refused_fields",
]
