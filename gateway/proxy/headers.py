"""What passes between caller and engine besides the body: headers by allow-list, and an engine's errors. Pure.

Requests are built, not copied. What is not in a table here does not pass: no Authorization or Cookie of a caller's, no
Host, no X-Forwarded-*, no X-Request-Id (the Reply's own is added by whoever sends), nothing hop-by-hop, and no twin of
a name with `_` for `-`, which some engines read as the same header. The engine's answer is untrusted in the same way:
no Set-Cookie, Server, Location, Content-Encoding, Connection.

An engine's error keeps its status, message and what else its JSON object holds, in OpenAI's shape; HTML, plain text,
tracebacks and file paths do not pass (OWASP API10, LLM05).
"""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from gateway.errors import INVALID, LIMIT, SERVER, Refusal, refuse, to_json

Headers = list[tuple[str, str]]

TO_ENGINE: Final = {
    "accept": "Accept",
    "content-type": "Content-Type",
    # Dialect versions: /v1/messages and beta features are chosen by them.
    "anthropic-version": "anthropic-version",
    "anthropic-beta": "anthropic-beta",
    "openai-beta": "OpenAI-Beta",
    # Which replica has this conversation's cache, for routers in front of several engines.
    "x-session-id": "X-Session-ID",
    "x-conversation-id": "X-Conversation-ID",
    # W3C trace context: an id, and vendors' short notes on it.
    "traceparent": "traceparent",
    "tracestate": "tracestate",
}
LISTS: Final = frozenset({"accept", "anthropic-beta", "openai-beta", "tracestate"})
"""Headers whose repeated values are one list (RFC 9110, 5.3). Of any other the first counts."""

FROM_ENGINE: Final = frozenset(
    {
        "content-type",
        "content-disposition",
        "content-language",
        "retry-after",
        "retry-after-ms",
        "openai-processing-ms",
        "openai-version",
        "openai-model",
        "request-id",
        "warning",
    }
)
FROM_ENGINE_PREFIXES: Final = ("x-ratelimit-", "anthropic-ratelimit-")

_PLAIN: Final = re.compile(r"[\t\x20-\x7e]*")
VALUE_MAX: Final = 2048
"""Characters. A longer value does not pass: engines' own limits differ, and end in errors that say nothing."""


def upstream_headers(headers: Iterable[tuple[str, str]]) -> Headers:
    """What of a caller's headers the engine gets. Host, key, request id and framing are added by whoever sends."""
    kept: dict[str, str] = {}
    for name, value in headers:
        low = name.lower()
        if low not in TO_ENGINE or not _fits(value):
            continue
        if low not in kept:
            kept[low] = value
        elif low in LISTS and _fits(joined := f"{kept[low]}, {value}"):
            kept[low] = joined
    return [(TO_ENGINE[low], value) for low, value in kept.items()]


def answer_headers(headers: Iterable[tuple[str, str]]) -> Headers:
    """What of an engine's headers the caller gets, in order; several of one name stay several."""
    return [
        (name, value)
        for name, value in headers
        if ((low := name.lower()) in FROM_ENGINE or low.startswith(FROM_ENGINE_PREFIXES))
        and _NAME.fullmatch(name)
        and _fits(value)
    ]


_NAME: Final = re.compile(r"[A-Za-z0-9-]{1,64}")


def _fits(value: str) -> bool:
    if len(value) > VALUE_MAX:
        return False
    return (value.isascii() and value.isprintable()) or _PLAIN.fullmatch(value) is not None


# ---------------------------------------------------------------- an engine's errors


@dataclass(frozen=True, slots=True)
class EngineError:
    """An engine's error as the caller hears it: complete where nothing was said yet, as a refusal inside a stream."""

    status: int
    body: bytes
    refusal: Refusal


TEXT_MAX: Final = 4096
"""Characters of an engine's error text that pass."""

_CODES: Final = {
    400: "invalid_request",
    404: "model_not_found",
    413: "body_too_large",
    415: "unsupported_media_type",
    422: "invalid_request",
    429: "rate_limit_exceeded",
    503: "backend_error",
    504: "backend_timeout",
}
_TYPES: Final = {429: LIMIT}
_CODES_OF_TYPES: Final = {
    # llama-server has no codes but numbers; this is the one that agents look for when they shorten a conversation.
    "exceed_context_size_error": "context_length_exceeded",
}


def error_from_engine(status: int, content_type: str, body: bytes) -> EngineError:
    """An answer that is not 2xx, as ours. `body` is what came of it, at most 64 KiB.

    A status that is no error (101, 3xx, 999) is 502 `backend_protocol_error`. 401 and 407 are about the gateway's own
    key, which the caller can do nothing about: 502 `backend_error`. JSON keeps its status; so does text with a 4xx,
    while text with a 5xx is 502 `backend_error`.
    """
    if not 400 <= status <= 599:
        return _ours(
            refuse(
                "backend_protocol_error", f"The engine answered with status {status}, which has no place here."
            ).refusal
        )
    if status in (401, 407):
        return _ours(
            refuse(
                "backend_error", "The engine refused the gateway's own key; its operator sets UPSTREAM_API_KEY."
            ).refusal
        )
    said = _parsed(body)
    if said is None:
        return _wrapped(status, _plain_text(body))
    error = _as_openai(said, status)
    # In a stream that is held already no status can be said any more: the code must tell whose mistake it is.
    refusal = refuse(_CODES.get(status, "backend_error"), str(error["message"]), status=status).refusal
    return EngineError(status, to_json({"error": error}), refusal)


def error_in_stream(event: bytes) -> Refusal:
    """An engine's error in an event's JSON. Engines say the status there that they can say no more (`code`): where it
    calls it the caller's mistake, so do we; anything else is the engine's, 502 `backend_error`."""
    said = _parsed(event)
    if said is None:
        return refuse("backend_error", "The engine failed in the middle of this answer.").refusal
    error = said.get("error")
    status = (error if isinstance(error, dict) else said).get("code")
    if type(status) is int and 400 <= status < 500 and status not in (401, 407):
        return error_from_engine(status, "application/json", event).refusal
    return refuse("backend_error", str(_as_openai(said, 500)["message"])).refusal


def _ours(refusal: Refusal) -> EngineError:
    return EngineError(refusal.status, to_json(refusal.body()), refusal)


def _wrapped(status: int, text: str) -> EngineError:
    if status >= 500:
        message = f"The engine failed with status {status}" + (f": {text}" if text else ".")
        return _ours(refuse("backend_error", message).refusal)
    message = f"The engine refused the request with status {status}" + (f": {text}" if text else ".")
    if status == 404:  # an engine that knows the route says 404 in JSON, and means the model
        return _ours(refuse("route_not_supported", f"This engine lacks the route. {message}").refusal)
    return _ours(refuse(_CODES.get(status, "invalid_request"), message, status=status).refusal)


def _parsed(body: bytes) -> dict[str, Any] | None:
    try:
        said = json.loads(body.decode("utf-8"))
    except (ValueError, RecursionError):
        return None
    return said if isinstance(said, dict) else None


def _as_openai(said: dict[str, Any], status: int) -> dict[str, Any]:
    """`{"message", "type", "param", "code", …}` from the shapes that engines use.

    OpenAI's and llama-server's `{"error": {…}}` (`code` a number there), `{"error": "text"}`, Anthropic's `{"type":
    "error", "error": {…}}`, old vLLM's flat `{"object": "error", "message", …}`, FastAPI's `{"detail": text or list}`.
    """
    error = said.get("error")
    if isinstance(error, dict):
        found = error
    elif isinstance(error, str):
        found = {"message": error}
    elif "detail" in said:
        found = {"message": _detail(said["detail"]), "param": _detail_param(said["detail"])}
    else:
        found = {name: said[name] for name in ("message", "type", "param", "code") if name in said}
    cleaned = _cleaned(found)
    extra = cleaned if isinstance(cleaned, dict) else {}
    message, kind, code = extra.get("message"), extra.get("type"), extra.get("code")
    usual = _CODES.get(status, "backend_error" if status >= 500 else "invalid_request")
    usual = _CODES_OF_TYPES.get(str(kind), usual)
    if status == 404 and said.get("detail") == "Not Found":  # FastAPI's, for a path that it does not have
        usual = "route_not_supported"
    return extra | {
        "message": message if isinstance(message, str) and message else f"The engine answered with status {status}.",
        "type": kind if _is_word(kind) else _TYPES.get(status, SERVER if status >= 500 else INVALID),
        "param": extra.get("param"),
        "code": code if _is_word(code) else usual,
    }


def _is_word(value: object) -> bool:
    return isinstance(value, str) and re.fullmatch(r"[A-Za-z0-9_.-]{1,64}", value) is not None


def _detail(detail: object) -> str:
    if isinstance(detail, str):
        return detail
    if isinstance(detail, list):  # pydantic: [{"loc": ["body", "messages"], "msg": "Field required", "input": …}]
        parts = []
        for item in detail[:10]:
            if isinstance(item, dict) and isinstance(item.get("msg"), str):
                parts.append(f"{_location(item)}: {item['msg']}" if _location(item) else item["msg"])
        return "; ".join(parts)
    return ""


def _detail_param(detail: object) -> str | None:
    first = detail[0] if isinstance(detail, list) and detail else None
    return (_location(first) or None) if isinstance(first, dict) else None


def _location(item: dict[str, Any]) -> str:
    place = item.get("loc")
    return ".".join(str(part) for part in place if part != "body") if isinstance(place, list) else ""


_TRACEBACK: Final = re.compile(
    r"Traceback \(most recent call last\)|\bFile \"[^\"\n]{1,500}\", line \d|\n\s+at [\w.$<>]+ ?\("
)
_PATH: Final = re.compile(
    r"(?<![\w.:/-])(?:file://|~|\.{1,2})?(?!/v\d/)/(?:[\w.+@-]{1,100}/){1,30}[\w.+@-]{1,200}"
    r"|(?<!\w)[A-Za-z]:\\{1,2}[\w.+@\\ -]{1,300}"
)
"""A path with at least one folder; `/v1/chat/completions` is a route and stays, as does what follows `https:/`."""
_TAG: Final = re.compile(
    r"<(script|style|head)\b.{0,20000}?</\1\s*>|<!--.{0,20000}?-->|<[a-zA-Z/!?][^<>]{0,500}>", re.DOTALL | re.IGNORECASE
)


def _clean(text: str) -> str:
    """A message without traceback and file paths, on one line where a traceback was."""
    trace = _TRACEBACK.search(text)
    if trace:
        text = text[: trace.start()].rstrip() or "The engine failed; what it said is in the log."
    return _PATH.sub("[path]", text)[:TEXT_MAX]


def _cleaned(value: Any, depth: int = 0) -> Any:
    if isinstance(value, str):
        return _clean(value)
    if isinstance(value, dict) and depth < 4:
        return {_clean(key): _cleaned(inner, depth + 1) for key, inner in value.items()}
    if isinstance(value, list) and depth < 4:
        return [_cleaned(inner, depth + 1) for inner in value[:100]]
    return value if value is None or isinstance(value, bool | int | float) else None


def _plain_text(body: bytes) -> str:
    """Text of whatever was not JSON: no tags, no controls, one line, 4 KiB."""
    text = body.decode("utf-8", "replace")
    if text.lstrip()[:1] in ("{", "["):
        return ""  # JSON that was cut off: half an object helps nobody
    text = _clean(text)
    text = _TAG.sub(" ", text).replace("<", " ").replace(">", " ")
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())[:TEXT_MAX]
