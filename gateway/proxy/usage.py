"""What the engine says an answer cost in tokens: its own `usage`, found without parsing the answer. Pure.

| who says it        | where                            | in a stream                      | which `…_tokens`          |
|--------------------|----------------------------------|----------------------------------|---------------------------|
| chat, completions  | at the top                       | in the last event                | `prompt`, `completion`    |
| embeddings, rerank | at the top, before or after data |                                  | `prompt`, or only `total` |
| responses          | at the top                       | `response` of the last           | `input`, `output`         |
| messages           | at the top                       | `message` of the first; the last | `input` ¹, `output`       |

¹ and `cache_read_input`, `cache_creation_input`: Anthropic's counts are apart from each other.

Nobody else can fake it. Inside a JSON string a quote is `\\"`, so `"usage"` with bare quotes is a key, or a text that
is no more than this word and then has no `:` after it. Objects that a model or a caller wrote (a tool's input, a
schema) may hold such a key, too, but stand deeper than the engine's: the depth is counted, from where the JSON begins
or back from where it ends. The last one counts. `"usage":null`, which some engines say in each event, says nothing.
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from typing import Final

MOST: Final = 2**53
"""A count above is not believed."""
OBJECT_MAX: Final = 4096
"""Bytes that a `usage` object has at most; the engines' have 50 to 400."""
REST_MAX: Final = 16 * 1024
"""Bytes of an unfinished line that are kept: a `usage` and what engines put behind it."""
TRIES: Final = 3
"""Keys of this name that are looked at from each side: a model can write thousands, and each look costs."""

_KEY: Final = re.compile(rb'"usage"\s*:\s*(?=\{)')
_STRING: Final = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_LINE: Final = re.compile(rb"[^\r\n]+")
_decode: Final = json.JSONDecoder().raw_decode


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one answer."""

    prompt: int
    completion: int

    @property
    def total(self) -> int:
        return self.prompt + self.completion


def usage_in(end: bytes, beginning: bytes | None = None) -> Usage | None:
    """The usage of a JSON answer in one piece. None when it says none, or none that can be believed.

    `end`: its last bytes. `beginning`: its first ones, when `end` is not all of it; llama-server puts the usage of
    embeddings before the data.
    """
    tally = _Tally()
    if b'"usage"' in end:
        for key in reversed(list(_KEY.finditer(end))[-TRIES:]):
            starts_nearer = beginning is None and key.start() < len(end) // 2
            if tally.look(end, key, _opened_before if starts_nearer else _closed_after, (1,)):
                return tally.usage
    first = end if beginning is None else beginning
    if b'"usage"' in first:
        for key in islice(_KEY.finditer(first), TRIES):
            if tally.look(first, key, _opened_before, (1,)):
                return tally.usage
    return None


class UsageWatch:
    """One stream's. Feed it what is passed on; whole events in the usual case, but any pieces will do."""

    __slots__ = ("_rest", "_tally")

    def __init__(self) -> None:
        self._tally = _Tally()
        self._rest = b""

    def __repr__(self) -> str:
        return f"<UsageWatch {self._tally.usage}, {len(self._rest)} bytes unfinished>"

    def feed(self, events: bytes) -> None:
        """One look for one word, unless it is there or the last event is unfinished."""
        if self._rest or not events.endswith(b"\n"):
            events = self._whole_lines(events)
        if b'"usage"' in events and _KEY.search(events):
            self._look(events)

    @property
    def usage(self) -> Usage | None:
        """What the engine has said up to here; also in a last line without an end."""
        if b'"usage"' in self._rest:
            self._look(self._rest)
        return self._tally.usage

    def _whole_lines(self, events: bytes) -> bytes:
        events = self._rest + events
        end = max(events.rfind(b"\n"), events.rfind(b"\r")) + 1
        self._rest = events[end:][-REST_MAX:]
        return events[:end]

    def _look(self, events: bytes) -> None:
        for match in _LINE.finditer(events):
            line = match[0]
            if b'"usage"' in line:
                for key in reversed(list(_KEY.finditer(line))[-TRIES:]):
                    if self._tally.look(line, key, _closed_after, (1, 2)):  # 2: in `response`, or in `message`
                        break


class _Tally:
    """What was said so far: a stream of `/v1/messages` says one half at its beginning, the other at its end."""

    __slots__ = ("_completion", "_prompt", "found")

    def __init__(self) -> None:
        self.found = False
        self._prompt = 0
        self._completion = 0

    @property
    def usage(self) -> Usage | None:
        return Usage(self._prompt, self._completion) if self.found else None

    def look(self, text: bytes, key: re.Match[bytes], depth_of: "_Depth", depths: tuple[int, ...]) -> bool:
        """Whether the object behind this key is the engine's; then it counts."""
        try:
            said, length = _decode(text[key.end() : key.end() + OBJECT_MAX].decode("latin-1"))
        except (ValueError, RecursionError):
            return False  # cut off, or nothing that an engine writes
        return depth_of(text, key.start(), key.end() + length) in depths and self._add(said)

    def _add(self, said: dict[str, object]) -> bool:
        prompt, completion = _count(said, "prompt_tokens"), _count(said, "completion_tokens")
        if prompt is None and (prompt := _count(said, "input_tokens")) is not None:
            prompt += _count(said, "cache_read_input_tokens") or 0
            prompt += _count(said, "cache_creation_input_tokens") or 0
        if completion is None:
            completion = _count(said, "output_tokens")
        if prompt is None and completion is None:
            prompt = _count(said, "total_tokens")  # rerank, in its oldest form
        if prompt is None and completion is None:
            return False
        self.found = True
        self._prompt = self._prompt if prompt is None else prompt
        self._completion = self._completion if completion is None else completion
        return True


def _count(said: dict[str, object], name: str) -> int | None:
    value = said.get(name)
    return value if type(value) is int and 0 <= value < MOST else None


_Depth = Callable[[bytes, int, int], int]
"""How deep in its JSON a place is, from where it starts to where it ends: 1 is a member of the outermost object."""


def _closed_after(text: bytes, _: int, end: int) -> int:
    """By what is closed behind it; `text` holds the end of the JSON."""
    return -_balance(text[end:])


def _opened_before(text: bytes, start: int, _: int) -> int:
    """By what is open before it; `text` begins where the JSON begins."""
    return _balance(text[:start])


def _balance(text: bytes) -> int:
    """Brackets that it opens, less those that it closes."""
    bare = _STRING.sub(b"", text) if b'"' in text else text
    return bare.count(b"{") + bare.count(b"[") - bare.count(b"}") - bare.count(b"]")
