"""How each route's stream speaks: which heartbeat is safe, how an error looks, what ends an answer properly. Pure.

| dialect   | a stream ends with                            | an error in a stream                                     |
|-----------|-----------------------------------------------|----------------------------------------------------------|
| openai    | `data: [DONE]`, or a `finish_reason` a choice | `data: {"error": {…}}`                                   |
| anthropic | `event: message_stop`                         | `event: error`, `data: {"type": "error", "error": {…}}`  |
| responses | `event: response.completed/failed/incomplete` | `event: error`, `data: {"type": "error", "error": {…}}` ¹|

¹ and `code`, `message`, `param`, `sequence_number` beside it, as OpenAI's reference has them (`ResponseErrorEvent`).
Its SDKs raise what has an `error`; without one the event is only passed on, and their `responses.stream()` complains
about the order of events instead of saying what failed.

A heartbeat is an SSE comment (`: text`) in every dialect. The HTML standard (9.2.6) has readers ignore it, and so do
the decoders of the OpenAI SDKs and of Anthropic's (whose own keep-alive, `event: ping`, may only come after
`message_start` and is therefore not used here); OpenRouter has sent comments to OpenAI clients for years.

`StreamWatch` looks at complete events as bytes and parses none of them. Model text cannot fake what it looks for:
inside a JSON string a quote is `\\"` and a line end is `\\n`, so `"finish_reason":` with bare quotes is a key, and
`data:` at the start of a line is a field.
"""

import re
from dataclasses import dataclass, field
from typing import Final

from gateway.errors import Refusal, refuse, to_json
from gateway.proxy.headers import error_in_stream

_ANTHROPIC_TYPES: Final = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}
"""Anthropic's error types by status (docs.anthropic.com, API errors); else `invalid_request_error` or `api_error`."""


@dataclass(frozen=True, slots=True)
class Dialect:
    """One way to speak. `OPENAI` is also what is spoken where no route is known."""

    name: str
    streams: bool = True
    """Whether `"stream": true` in a body means an event stream here."""
    end: re.Pattern[bytes] | None = field(default=None, repr=False)
    """What stands in the event that ends an answer, one match per choice; None: whatever ends the HTTP answer."""
    end_hint: bytes = field(default=b"", repr=False)
    """Stands in every such event, and is quicker to look for."""
    not_yet: bytes = field(default=b"", repr=False)
    """The hint as it stands in each event before the last; empty: it does not."""

    def heartbeat(self, text: str) -> bytes:
        """A comment that every reader ignores. What could end its line is taken out."""
        return b": %b\n\n" % " ".join(text.split()).encode("utf-8", "replace")

    def error_body(self, refusal: Refusal) -> dict[str, object]:
        """The JSON of an answer that is an error; `errors.to_json` writes it."""
        if self.name != "anthropic":
            return refusal.body()
        return {"type": "error", "error": self._anthropic(refusal)}

    def error_event(self, refusal: Refusal, *, sequence: int = 0) -> bytes:
        """An error as the last event of a stream. `sequence` is its number where events are counted (responses)."""
        if self.name == "anthropic":
            return b"event: error\ndata: %b\n\n" % to_json(self.error_body(refusal))
        if self.name == "responses":
            event = {
                "type": "error",
                "code": refusal.code,
                "message": refusal.message,
                "param": refusal.param,
                "sequence_number": sequence,
            } | refusal.body()
            return b"event: error\ndata: %b\n\n" % to_json(event)
        return b"data: %b\n\n" % to_json(refusal.body())

    @staticmethod
    def _anthropic(refusal: Refusal) -> dict[str, object]:
        usual = "api_error" if refusal.status >= 500 else "invalid_request_error"
        lasts = refusal.status == 503 and refusal.retry is False  # what is overloaded, clients ask again
        kind = usual if lasts else _ANTHROPIC_TYPES.get(refusal.status, usual)
        return {"type": kind, "message": refusal.message, "code": refusal.code, "param": refusal.param}


_FINISHED: Final = re.compile(rb'"finish_reason"\s*:\s*"')
_STOPPED: Final = re.compile(rb'(?:^|[\r\n])(?:event: ?message_stop\s|data: ?\{\s*"type"\s*:\s*"message_stop")')
_RESPONDED: Final = re.compile(
    rb"(?:^|[\r\n])(?:event: ?response\.(?:completed|failed|incomplete)\s"
    rb'|data: ?\{\s*"type"\s*:\s*"response\.(?:completed|failed|incomplete)")'
)

OPENAI: Final = Dialect("openai", end=_FINISHED, end_hint=b'"finish_reason"', not_yet=b'"finish_reason":null')
ANTHROPIC: Final = Dialect("anthropic", end=_STOPPED, end_hint=b"message_stop")
RESPONSES: Final = Dialect("responses", end=_RESPONDED, end_hint=b"response.")
WHOLE: Final = Dialect("openai", streams=False)
"""Answers in one piece: embeddings, rerank, token counts."""
ANTHROPIC_WHOLE: Final = Dialect("anthropic", streams=False)
UNKNOWN: Final = Dialect("openai")
"""Paths that the operator added, and transcriptions: may stream, and nobody knows what ends it but HTTP."""

DIALECTS: Final = {
    "/v1/chat/completions": OPENAI,
    "/chat": OPENAI,
    "/v1/completions": OPENAI,
    "/v1/responses": RESPONSES,
    "/v1/messages": ANTHROPIC,
    "/v1/messages/count_tokens": ANTHROPIC_WHOLE,
    "/v1/embeddings": WHOLE,
    "/v1/rerank": WHOLE,
    "/v1/audio/transcriptions": UNKNOWN,
}


def for_route(path: str) -> Dialect:
    """The dialect of a path of our table; an operator's own path is assumed to speak OpenAI's."""
    return DIALECTS.get(path, UNKNOWN)


def lost_in(body: bytes) -> Refusal | None:
    """What an answer in one piece hides: vLLM that is going down answers 200 with `"finish_reason": "abort"`."""
    return _abort() if b'abort"' in body and _ABORTED.search(body) else None


_DONE: Final = re.compile(rb"(?:^|[\r\n])data: ?\[DONE\][ \t]*(?:[\r\n]|$)")
_ABORTED: Final = re.compile(rb'"(?:finish_reason|stop_reason)"\s*:\s*"abort"')
_FAILED: Final = re.compile(
    rb'(?:^|[\r\n])(?:data: ?\{\s*"(?:error"\s*:(?!\s*null)|object"\s*:\s*"error")|error: ?\{|event: ?error\s)'
)
"""An error event inside a 200: vLLM's and llama-server's `data: {"error"`, old vLLM's `"object":"error"`, old
llama-server's field `error:`, and the named event of /v1/messages and /v1/responses."""
_SEQUENCE: Final = re.compile(rb'"sequence_number"\s*:\s*([0-9]{1,15})')


class StreamWatch:
    """One stream's: what of its events may be passed on, whether it ended properly, whether the engine failed in it.

    Feed it what `EventCutter` let pass. Only an event that must not be shown is held back: vLLM's `"finish_reason":
    "abort"` (its own death) and an engine's error event, both followed by a `[DONE]` that would make them look
    complete. Then `failure` is set, nothing more passes, and the Reply says it in its own words.
    """

    __slots__ = ("_at_line_start", "_choices", "_dialect", "_done", "_ends", "_last", "failure")

    def __init__(self, dialect: Dialect, *, choices: int = 1) -> None:
        self._dialect = dialect
        self._choices = choices
        self._ends = 0
        self._done = False
        self._at_line_start = True
        self._last = b""
        self.failure: Refusal | None = None

    def __repr__(self) -> str:
        failure = self.failure.code if self.failure else None
        return f"<StreamWatch {self._dialect.name} ended={self.ended_properly} failure={failure}>"

    @property
    def has_ended(self) -> bool:
        """Whether the engine has said that this was all: what ends its connection then cuts nothing off."""
        if self.failure is not None:
            return False
        return self._done or (self._dialect.end is not None and self._ends >= self._choices)

    @property
    def ended_properly(self) -> bool:
        """Whether everything came. A stream that ends without it was cut, however tidy its HTTP framing."""
        return self.has_ended or (self.failure is None and self._dialect.end is None)

    @property
    def sequence(self) -> int:
        """The number for an event of our own after what was passed (`/v1/responses`)."""
        numbers = _SEQUENCE.findall(self._last) if self._dialect is RESPONSES else ()
        return int(numbers[-1]) + 1 if numbers else 0

    def feed(self, events: bytes) -> bytes:
        """What of these bytes may be passed on; nearly always they themselves. Looks, and parses nothing."""
        if self.failure is not None or not events:
            return b""
        # Each `in` runs at memory speed; a pattern is tried only where its word stands.
        if b"rror" in events and (found := self._find(_FAILED, events)) is not None:
            self.failure = _failure_in(events[found:])
            return events[: _event_start(events, found)]
        if b'abort"' in events and (found := self._find(_ABORTED, events)) is not None:
            self.failure = _abort()
            return events[: _event_start(events, found)]
        end = self._dialect.end
        if end is not None and self._may_end(events) and self._find(end, events) is not None:
            self._ends += len(end.findall(events))
        if b"[DONE]" in events and self._find(_DONE, events) is not None:
            self._done = True
        self._at_line_start = events[-1:] in (b"\r", b"\n")
        if self._dialect is RESPONSES:
            self._last = events
        return events

    def _may_end(self, events: bytes) -> bool:
        hint, not_yet = self._dialect.end_hint, self._dialect.not_yet
        return hint in events and not (not_yet and events.count(hint) == events.count(not_yet))

    def end(self, rest: bytes) -> bytes:
        """The engine closed: what of its last, unfinished event may pass. Nothing, unless it ends the answer."""
        before = (self._done, self._ends)
        passed = self.feed(rest)
        says_so = (self._done, self._ends) != before  # behind the end, too, half an event is no event
        return passed if self.ended_properly and (says_so or self._dialect.end is None) else b""

    def _find(self, pattern: re.Pattern[bytes], events: bytes) -> int | None:
        """Where it stands. At the very start it counts only where a line starts: an overlong event comes in pieces."""
        match = pattern.search(events)
        if match is not None and match.start() == 0 and not self._at_line_start and events[0] not in b"\r\n":
            match = pattern.search(events, 1)  # `^` is the real beginning only
        return None if match is None else match.start()


def _abort() -> Refusal:
    return refuse("backend_lost", "The engine shut down in the middle of this answer.").refusal


def _failure_in(event: bytes) -> Refusal:
    """The engine's error event as a refusal: its message, cleaned, under our code."""
    start = event.find(b"{")
    return error_in_stream(event[start : _end_of_line(event, start)] if start >= 0 else b"")


def _end_of_line(event: bytes, start: int) -> int:
    """JSON in an event stands on one line: it holds no bare line end."""
    ends = [place for end in (b"\r", b"\n") if (place := event.find(end, start)) >= 0]
    return min(ends, default=len(event))


def _event_start(events: bytes, place: int) -> int:
    """Where the event that holds `place` begins: after the last empty line before it."""
    starts = [found + len(blank) for blank in _BLANKS if (found := events.rfind(blank, 0, place + 1)) >= 0]
    return max(starts, default=0)


_BLANKS: Final = (b"\n\n", b"\n\r\n", b"\r\r")
