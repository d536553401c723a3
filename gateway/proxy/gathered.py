"""Puts an answer in one piece together from an engine's event stream, for a caller who asked for no stream. Pure.

Needed where an edge between us and the engine cuts answers that stay silent (RunPod's pod proxy after 100 s): the
engine is asked to stream, with `stream_options.include_usage`, and the caller gets what it would have said at once.

| in each chunk                                     | how pieces become one                                        |
|---------------------------------------------------|--------------------------------------------------------------|
| of the answer: `id`, `model`, `usage`, `timings` … | the last                                                    |
| of a choice: `finish_reason`, `stop_reason` …     | the last; lists (`token_ids`) go on                          |
| its `logprobs`                                    | each list goes on                                            |
| its `text`; in `delta`: `content`, `reasoning` …  | texts go on                                                  |
| in `delta`: `role`, `id`, `type`, `name`          | the first that says something: some engines repeat them      |
| in `delta`: lists (`tool_calls`)                  | what has the `index` of an entry continues it, else appended |

Names that are not known follow the rule of their place. Null never takes the place of a value.

`content` without any text is null where something was called, and "" elsewhere, as engines have it in whole answers
(llama-server streams null and vLLM "" before both).

What the engine said wrong is raised as `Refused`; what is missing at the end is a verdict, `problem()`.
"""

import json
from io import StringIO
from typing import Any, Final

from gateway.errors import Refusal, Refused, refuse
from gateway.proxy.headers import error_in_stream
from gateway.proxy.usage import Usage, usage_of

CHAT: Final = "chat.completion"
TEXT: Final = "text_completion"

_KINDS: Final = {"/v1/chat/completions": CHAT, "/chat": CHAT, "/v1/completions": TEXT}
_ONCE: Final = frozenset({"role", "id", "type", "name"})
_CHOICES_OWN: Final = frozenset({"index", "delta", "text", "message"})
_ENTRY: Final = 16
"""Bytes that a choice, a name or an entry of a list is counted with, beside its texts."""
_DROPPED: Final = frozenset({"object", "choices", "obfuscation"})
"""Said of the chunk, not of the answer. `obfuscation` is OpenAI's padding against who counts bytes on the line."""


def _no_number(word: str) -> None:
    raise ValueError(f"{word} is no JSON")


_decode: Final = json.JSONDecoder(parse_constant=_no_number).decode
_encode: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode
_Object = dict[str, Any]


def kind_for(path: str) -> str | None:
    """What an answer of this route is called; None where a stream cannot be made one answer here."""
    return _KINDS.get(path)


class Gathered:
    """One answer. Feed it the stream, in any pieces; when the engine has ended it, ask for the `problem()`."""

    __slots__ = ("_asked", "_choices", "_data", "_failure", "_held", "_kind", "_line", "_said")

    def __init__(self, kind: str, *, choices: int = 1) -> None:
        """`choices`: how many the caller asked for."""
        self._kind = kind
        self._asked = choices
        self._choices: dict[int, _Choice] = {}
        self._said: _Object = {}
        self._failure: Refusal | None = None
        self._line: list[bytes] = []
        """Pieces of a line that has not ended."""
        self._data: list[bytes] = []
        """Lines of an event that has not ended; engines' have one."""
        self._held = 0

    def __repr__(self) -> str:
        ended = sum(choice.has_ended for choice in self._choices.values())
        return f"<Gathered {self._kind}, {ended} of {max(self._asked, len(self._choices))} ended, {self.size} bytes>"

    @property
    def size(self) -> int:
        """Bytes held, about as many as the answer has; a stream says each token in fifty times its bytes."""
        return self._held + sum(map(len, self._line)) + sum(map(len, self._data))

    @property
    def usage(self) -> Usage | None:
        """What the engine said of its tokens."""
        return usage_of(self._said.get("usage"))

    @property
    def complete(self) -> bool:
        return self.problem() is None

    def feed(self, events: bytes) -> None:
        """Raises Refused for what is no JSON, or no chunk of such an answer."""
        for line in self._whole_lines(events).splitlines():
            if line.startswith(b"data:"):
                self._data.append(line[5:])
            elif not line and self._data:
                self._end_event()

    def problem(self) -> Refusal | None:
        """Why this is not the whole answer. Ask at the end: a last event without its empty line is then taken, too."""
        if self._failure is not None:
            return self._failure
        try:
            self.feed(b"\n\n" if self._line or self._data else b"")
        except Refused:
            pass  # half an event: what matters is whether a choice is missing or has no end
        if len(self._choices) < max(1, self._asked) or not all(choice.has_ended for choice in self._choices.values()):
            return _lost()
        return None

    def answer(self) -> bytes:
        """The JSON of the whole answer. Raises Refused when it is not whole."""
        problem = self.problem()
        if problem is not None:
            raise Refused(problem)
        try:
            choices = [self._choices[index].whole(index) for index in sorted(self._choices)]
            return _encoded({"object": self._kind, **self._said, "choices": choices})
        except (ValueError, RecursionError):
            raise _malformed("a number or a nesting that JSON has no room for") from None

    # -- how it is read ------------------------------------------------------------------------

    def _whole_lines(self, events: bytes) -> bytes:
        """What is complete; a CR at the end may be half of a CR LF."""
        if not self._line and events.endswith(b"\n"):
            return events
        end = max(events.rfind(b"\n"), events.rfind(b"\r", 0, -1)) + 1
        if not end:
            self._line.append(events)
            return b""
        lines = b"".join((*self._line, events[:end]))
        self._line = [events[end:]] if end < len(events) else []
        return lines

    def _end_event(self) -> None:
        data = self._data[0] if len(self._data) == 1 else b"\n".join(self._data)
        self._data.clear()
        if self._failure is not None or data.strip() == b"[DONE]":
            return
        try:
            chunk = _decode(data.decode())
            if isinstance(chunk, dict):
                self._take(chunk, data)
                return
        except (ValueError, RecursionError):
            raise _malformed("no JSON") from None
        if chunk is not None:  # null: llama-server's first event when it answers several prompts
            raise _malformed("no object")

    def _take(self, chunk: _Object, data: bytes) -> None:
        if chunk.get("error"):
            self._failure = error_in_stream(data)
            return
        choices = chunk.get("choices", False)
        if not isinstance(choices, list | None):
            raise _malformed(f"no chunk of a {self._kind}")
        for choice in choices or ():
            self._held += self._choice(choice).take(choice, len(data))
        known = len(self._said)
        for name, value in chunk.items():
            if name not in _DROPPED and (value is not None or name not in self._said):
                self._said[name] = value
        if len(self._said) > known:
            self._held += len(data)

    def _choice(self, choice: object) -> "_Choice":
        index = choice.get("index", 0) if isinstance(choice, dict) else None
        if type(index) is not int or index < 0:
            raise _malformed("a choice without an index")
        known = self._choices.get(index)
        if known is None:
            known = self._choices[index] = _Choice(self._kind)
            self._held += _ENTRY
        return known


class _Choice:
    """One of the answers that were asked for."""

    __slots__ = ("_grown", "_kind", "_said")

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._grown: _Object = {}
        self._said: _Object = {}

    @property
    def has_ended(self) -> bool:
        return bool(self._said.get("finish_reason"))

    def take(self, choice: _Object, size: int) -> int:
        """How many bytes more are held; `size` is that of the chunk."""
        pieces = choice.get("delta") if self._kind == CHAT else {"text": choice.get("text")}
        grown = _grow(self._grown, pieces) if isinstance(pieces, dict) else 0
        known = len(self._said)
        for name, value in choice.items():
            if name in _CHOICES_OWN:
                continue
            if name == "logprobs" and isinstance(value, dict):
                held = self._said.get(name)
                value = _go_on(held if isinstance(held, dict) else {}, value)
                grown += size
            elif isinstance(value, list):
                grown += size
            _go_on(self._said, {name: value})
        return grown + (size if len(self._said) > known else 0)

    def whole(self, index: int) -> _Object:
        grown = _plain(self._grown)
        own = {"message": _message(grown)} if self._kind == CHAT else {"text": grown.get("text") or ""}
        return {"index": index, **own, **self._said}


def _message(said: _Object) -> _Object:
    calls, content = said.get("tool_calls"), said.get("content")
    own = {"role": said.get("role") or "assistant", "content": content}
    if not content:
        own["content"] = None if calls or said.get("function_call") else ""
    if isinstance(calls, list):
        own["tool_calls"] = [_call(call) if isinstance(call, dict) else call for call in calls]
    return {**own, **said, **own}


def _call(said: _Object) -> _Object:
    """One of a message's `tool_calls`: its index is known by its place, and it always has these."""
    call = {"type": "function", **said}
    call.pop("index", None)
    if isinstance(call.get("function"), dict):
        call["function"].setdefault("arguments", "")
    return call


def _go_on(held: _Object, said: _Object) -> _Object:
    """`held`, with its lists continued and the rest replaced."""
    for name, value in said.items():
        known = held.get(name)
        if isinstance(value, list) and isinstance(known, list) and value is not known:
            known.extend(value)
        elif value is not None or name not in held:
            held[name] = value
    return held


def _grow(held: _Object, pieces: _Object) -> int:
    """Add what a `delta` says; how many bytes more are held, roughly. A text is a StringIO as long as it grows."""
    grown = 0
    for name, piece in pieces.items():
        known = held.get(name)
        if known is None:
            grown += _ENTRY + len(name)
        if isinstance(piece, str):
            if isinstance(known, StringIO):
                known.write(piece)
            elif name not in _ONCE:
                held[name] = text = StringIO()
                text.write(piece)
            elif not known:
                held[name] = piece
            grown += len(piece)
        elif isinstance(piece, dict):
            if not isinstance(known, dict):
                known = held[name] = {}
            grown += _grow(known, piece)
        elif isinstance(piece, list):
            if not isinstance(known, _Entries):
                known = held[name] = _Entries()
            grown += sum(map(known.add, piece))
        elif piece is not None or name not in held:
            held[name] = piece
    return grown


class _Entries:
    """A list in a `delta`: who says the index of an entry again continues it."""

    __slots__ = ("_open", "all")

    def __init__(self) -> None:
        self.all: list[Any] = []
        self._open: dict[int, _Object] = {}

    def add(self, said: object) -> int:
        if not isinstance(said, dict):
            self.all.append(said)
            return _ENTRY + len(str(said))
        index = said.get("index")
        entry = self._open.get(index) if type(index) is int else None
        if entry is None or _is_another(entry, said):
            entry = {}
            self.all.append(entry)
            if type(index) is int:
                self._open[index] = entry
        return _ENTRY + _grow(entry, said)


def _is_another(entry: _Object, said: _Object) -> bool:
    """Some engines give each call the index 0, and an id of its own."""
    return bool(entry.get("id") and said.get("id") and entry["id"] != said["id"])


def _plain(value: Any) -> Any:
    if isinstance(value, StringIO):
        return value.getvalue()
    if isinstance(value, dict):
        return {name: _plain(inner) for name, inner in value.items()}
    if isinstance(value, _Entries):
        return [_plain(entry) for entry in value.all]
    return value


def _encoded(whole: _Object) -> bytes:
    try:
        return _encode(whole).encode()
    except UnicodeEncodeError:  # half a surrogate pair: its other half came in another event, or never
        return json.dumps(whole, separators=(",", ":"), allow_nan=False).encode()


def _malformed(what: str) -> Refused:
    return refuse("backend_protocol_error", f"The engine's stream held an event that is no part of an answer: {what}.")


def _lost() -> Refusal:
    return refuse("backend_lost", "The engine's stream ended before the answer did.").refusal
