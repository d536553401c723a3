"""One line per happening: how a request's end looks in the log, as text for people or as JSON. Pure.

`text_line` and `json_line` say the same under the same names (`FIELDS`); what is empty is left out. `parse_line` reads
both back, for `wakegate logs`, and gives None for a line that is nobody's. Times are UTC.

Names of models and keys, and a caller's own id, are strangers' texts: one that is not plain is written as a JSON
string, with whatever cannot be printed escaped, so that it can neither end a line nor pass for another field.
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache

from gateway.records.ended import Ended

MODEL_LENGTH = 80
"""Characters of a model's name; a longer one is cut, and ends in `…`."""

CLOCK_STEP = 0.001
"""Seconds: uvloop's clock has whole milliseconds."""

# --- The fields -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Field:
    """One name of the canonical line."""

    name: str
    sort: str
    """text, seconds (text has an `s` behind it), number, or rate (with one decimal)."""
    sentence: str


FIELDS: dict[str, Field] = {
    field.name: field
    for field in (
        Field("request", "text", "Our id of it: `X-Request-Id` of the answer, and in the engine's own log."),
        Field("key", "text", "The name of its key. Never the key."),
        Field("route", "text", "The path that was asked. Not there for what came no further than the door (401, 404)."),
        Field("upstream", "text", "Which upstream it was for."),
        Field("model", "text", f"The model as the caller wrote it, up to {MODEL_LENGTH} characters."),
        Field("status", "number", "What the caller got. Not there when it left before there was one."),
        Field("outcome", "text", "*answered*, *refused* (by the gateway), *left* (the caller), *failed*."),
        Field(
            "code",
            "text",
            "The code of our refusal, or the engine's status from 400 on; *write_timeout*: the caller read nothing.",
        ),
        Field("ended_by", "text", "Who ended it: *caller*, *gateway*, *engine*, *fallback*."),
        Field("line", "seconds", "Waited in line behind others."),
        Field("wake", "seconds", "Was held while the engine woke."),
        Field(
            "first_byte",
            "seconds",
            "From the request's head to the answer's first byte; comments that hold a stream do not count.",
        ),
        Field("first_token", "seconds", "From the request's head to the first event of a stream that says something."),
        Field("longest_gap", "seconds", "The longest silence of the engine in the middle of a stream."),
        Field("took", "seconds", "From the request's head to its end, waiting included."),
        Field("tokens_in", "number", "Tokens of the prompt, as the engine counted them, where it does."),
        Field("tokens_out", "number", "Tokens of the answer, likewise."),
        Field(
            "tokens_per_second", "rate", "`tokens_out` by the time that it was its turn: `took` less `line` and `wake`."
        ),
        Field("bytes_in", "number", "The request's body."),
        Field("bytes_out", "number", "The answer's body."),
        Field("state", "text", "What the upstream was when the request came: *ready*, *stopped*, *starting*, …"),
        Field("served_by", "text", "*fallback* where that answered, and counted the tokens. Not there for the engine."),
        Field("caller_id", "text", "The caller's own `X-Request-Id`, if it was plain."),
    )
}
"""In the order in which they stand in a line."""


def tokens_per_second(ended: Ended) -> float | None:
    """Tokens of the answer by the seconds from its turn to its end: right for answers that stream and that do not, and
    for streams that were held by comments. None where the engine counted none, or it took less than clocks tell: what
    is left of a subtraction then would make 10¹⁷ tokens a second."""
    seconds = ended.took - ended.line - ended.wake
    return ended.tokens_out / seconds if ended.tokens_out and seconds >= CLOCK_STEP else None


# --- Writing ----------------------------------------------------------------------------------------------------------

_PLAIN = re.compile(r"[A-Za-z0-9_./:@+-]+").fullmatch
_ODD = re.compile(r"[^ -~]")


def iso(at: float) -> str:
    """Unix time as `2026-11-21T14:05:06.123Z`."""
    second = int(at // 1)
    return f"{_iso_second(second)}.{int((at - second) * 1000):03}Z"


@lru_cache(maxsize=4)
def _iso_second(second: int) -> str:
    """Remembered, because a busy gateway writes many lines in one second."""
    return datetime.fromtimestamp(second, UTC).isoformat()[:19]


def quoted(text: str) -> str:
    """As a JSON string: what can be printed as it is, the rest escaped."""
    encoded = json.dumps(text, ensure_ascii=False)
    return encoded if encoded.isprintable() else _ODD.sub(_escape, encoded)


def _escape(match: "re.Match[str]") -> str:
    character = match[0]
    return character if character.isprintable() else json.dumps(character)[1:-1]


def word(text: str) -> str:
    """A value behind `name=`: as it is when it is plain."""
    return text if _PLAIN(text) else quoted(text)


def cut(text: str, length: int = MODEL_LENGTH) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


def text_line(ended: Ended) -> str:
    """The canonical line for people: `time request=… key=… …`. Written out, since it is made for each request."""
    e = ended
    rate = tokens_per_second(e)
    return (
        f"{iso(e.at)} request={word(e.request_id)}"
        f"{_text_middle(e.key, e.route, e.upstream, cut(e.model), e.status, e.outcome, e.code, e.ended_by)}"
        f" line={e.line:.3f}s wake={e.wake:.3f}s"
        f"{f' first_byte={e.first_byte:.3f}s' if e.first_byte is not None else ''}"
        f"{f' first_token={e.first_token:.3f}s' if e.first_token is not None else ''}"
        f"{f' longest_gap={e.longest_gap:.3f}s' if e.longest_gap is not None else ''}"
        f" took={e.took:.3f}s"
        f"{f' tokens_in={e.tokens_in}' if e.tokens_in is not None else ''}"
        f"{f' tokens_out={e.tokens_out}' if e.tokens_out is not None else ''}"
        f"{f' tokens_per_second={rate:.1f}' if rate is not None else ''}"
        f" bytes_in={e.bytes_in} bytes_out={e.bytes_out}"
        f"{f' state={word(e.state)}' if e.state else ''}"
        f"{f' served_by={e.served_by}' if e.served_by else ''}"
        f"{f' caller_id={word(e.caller_id)}' if e.caller_id else ''}"
    )


@lru_cache(maxsize=256)
def _text_middle(
    key: str, route: str, upstream: str, model: str, status: int, outcome: str, code: str, ended_by: str
) -> str:
    """Who asked for what, and what came of it. Remembered, because most requests are alike in all of this."""
    return (
        f"{f' key={word(key)}' if key else ''}"
        f"{f' route={word(route)}' if route else ''}"
        f"{f' upstream={word(upstream)}' if upstream else ''}"
        f"{f' model={word(model)}' if model else ''}"
        f"{f' status={status}' if status else ''}"
        f"{f' outcome={word(outcome)}' if outcome else ''}"
        f"{f' code={word(code)}' if code else ''}"
        f"{f' ended_by={word(ended_by)}' if ended_by else ''}"
    )


_JSON = json.JSONEncoder(separators=(",", ":")).encode
"""ASCII only: no character in it ends a line anywhere."""


def json_line(ended: Ended) -> str:
    """The same as one JSON object: `{"at":"…","kind":"request","request":…}`, numbers as numbers, times in seconds."""
    e = ended
    rate = tokens_per_second(e)
    return "".join(
        (
            f'{{"at":"{iso(e.at)}","kind":"request","request":{_JSON(e.request_id)}',
            _json_middle(e.key, e.route, e.upstream, cut(e.model), e.status, e.outcome, e.code, e.ended_by),
            f',"line":{round(e.line, 3)},"wake":{round(e.wake, 3)}',
            "" if e.first_byte is None else f',"first_byte":{round(e.first_byte, 3)}',
            "" if e.first_token is None else f',"first_token":{round(e.first_token, 3)}',
            "" if e.longest_gap is None else f',"longest_gap":{round(e.longest_gap, 3)}',
            f',"took":{round(e.took, 3)}',
            "" if e.tokens_in is None else f',"tokens_in":{e.tokens_in}',
            "" if e.tokens_out is None else f',"tokens_out":{e.tokens_out}',
            "" if rate is None else f',"tokens_per_second":{round(rate, 1)}',
            f',"bytes_in":{e.bytes_in},"bytes_out":{e.bytes_out}',
            f',"state":{_JSON(e.state)}' if e.state else "",
            f',"served_by":"{e.served_by}"' if e.served_by else "",
            f',"caller_id":{_JSON(e.caller_id)}' if e.caller_id else "",
            "}",
        )
    )


@lru_cache(maxsize=256)
def _json_middle(
    key: str, route: str, upstream: str, model: str, status: int, outcome: str, code: str, ended_by: str
) -> str:
    """As `_text_middle`."""
    facts = {
        "key": key,
        "route": route,
        "upstream": upstream,
        "model": model,
        "status": status,
        "outcome": outcome,
        "code": code,
        "ended_by": ended_by,
    }
    return "".join(f',"{name}":{_JSON(value)}' for name, value in facts.items() if value)


def happening_text(at: float, text: str) -> str:
    """Anything else that is worth a line: `time text`. A text that could be misread is written as a JSON string."""
    plain = text.isprintable() and text[:1] not in ("", " ", '"') and not text.startswith("request=")
    return f"{iso(at)} {text if plain else quoted(text)}"


def happening_json(at: float, level: str, text: str) -> str:
    return _JSON({"at": iso(at), "kind": "happening", "level": level, "message": text})


# --- Reading ----------------------------------------------------------------------------------------------------------

_STAMPED = re.compile(r"([0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{3}Z) (.*)", re.DOTALL)
_FACT = re.compile(r'([a-z][a-z_]*)=("(?:[^"\\]|\\.)*"|[^" ]*)(?: |$)')
_NUMBERS: dict[str, tuple[re.Pattern[str], Callable[[str], float]]] = {
    "number": (re.compile(r"[0-9]{1,18}"), int),
    "seconds": (re.compile(r"-?[0-9]{1,12}\.[0-9]+s"), lambda text: float(text[:-1])),
    "rate": (re.compile(r"[0-9]{1,12}\.[0-9]+"), float),
}


def parse_line(text: str) -> dict[str, object] | None:
    """What a line of ours says, whichever form it has; None when it is not one of ours, or torn.

    `at` is text, as in `iso`; `kind` is "request" or "happening" (then there is a `message`).
    """
    text = text.rstrip("\r\n")
    if text.startswith("{"):
        return _parse_json(text)
    match = _STAMPED.fullmatch(text)
    if match is None:
        return None
    at, said = match.groups()
    if not said.startswith("request="):
        message = _unquoted(said)
        return None if message is None else {"at": at, "kind": "happening", "message": message}
    facts = _parse_facts(said)
    return None if facts is None else {"at": at, "kind": "request", **facts}


def _parse_json(text: str) -> dict[str, object] | None:
    try:
        facts = json.loads(text)
    except (ValueError, RecursionError):
        return None
    ours = isinstance(facts, dict) and facts.get("kind") in ("request", "happening")
    return facts if ours and is_time(facts.get("at")) else None


def is_time(at: object) -> bool:
    return isinstance(at, str) and _STAMPED.fullmatch(f"{at} ") is not None


def _parse_facts(text: str) -> dict[str, object] | None:
    facts: dict[str, object] = {}
    place = 0
    while place < len(text):
        match = _FACT.match(text, place)
        value = _unquoted(match[2]) if match else None
        if match is None or value is None:
            return None
        facts[match[1]] = _typed(match[1], value)
        place = match.end()
    return facts


def _typed(name: str, value: str) -> object:
    """Its number where the field is one. A name that a newer version added stays text."""
    known = FIELDS.get(name)
    if known is None or known.sort == "text":
        return value
    pattern, number = _NUMBERS[known.sort]
    return number(value) if pattern.fullmatch(value) else value


def _unquoted(text: str) -> str | None:
    """What was written; None for a JSON string that is none."""
    if not text.startswith('"'):
        return text
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, str) else None
