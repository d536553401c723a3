"""What the engine says an answer cost in tokens: its own `usage`, found without parsing long answers. Pure.

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

`UsageWatch(strip=True)` hides what only the gateway asked for (`stream_options.include_usage`) from a caller who did
not: the one event that would not be there without it, the one with no choice, on which a careless `choices[0]` of
the caller's fails. Other events pass as they are: what their `usage` says, null or a count, engines say unasked, too.

| asked with include_usage | says it in                                          | what is then missing before it |
|--------------------------|-----------------------------------------------------|--------------------------------|
| llama-server, chat       | an event with `"choices":[]`, one for each choice   | `timings`                      |
| llama-server, text       | the last event of each choice, asked or not         |                                |
| our llama-cpp-python     | an event with `"choices":[]`                        |                                |
| vLLM                     | an event with `"choices":[]`                        | `system_fingerprint`           |
| OpenAI                   | an event with `"choices":[]`; null in all the others |                               |

What is missing (third column) is put back where the engine says it unasked, if both events came in one read.
"""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Final

from pydantic_core import from_json

MOST: Final = 2**53
"""A count above is not believed."""
OBJECT_MAX: Final = 4096
"""Bytes that a `usage` object has at most; the engines' have 50 to 400."""
REST_MAX: Final = 16 * 1024
"""Bytes of an unfinished line that are kept: a `usage` and what engines put behind it."""
SHORT: Final = 4096
"""Bytes of an answer that is parsed whole."""
TRIES: Final = 3
"""Keys of this name that are looked at from each side: a model can write thousands, and each look costs."""

_KEY: Final = re.compile(rb'"usage"\s*:\s*(?=\{)')
_NO_CHOICE: Final = re.compile(rb'"choices"\s*:\s*(?:\[\s*\]|null)')
_EMPTY_LINE: Final = re.compile(rb"\n\n|\n\r\n|\r\r")
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
    if beginning is None and len(end) <= SHORT and b"usage" in end:
        try:  # a parser in C reads all of it in less time than it takes to look around in it
            said = from_json(end)
        except ValueError:
            said = None
        if isinstance(said, dict):
            return usage_of(said.get("usage"))
    tally = _Tally()
    if b"usage" in end:  # quicker to look for than the same with quotes
        for key in _last_keys(end):
            starts_nearer = beginning is None and key.start() < len(end) // 2
            if tally.look(end, key, _opened_before if starts_nearer else _closed_after, (1,)):
                return tally.usage
    first = end if beginning is None else beginning
    if b'"usage"' in first:
        for key in islice(_KEY.finditer(first), TRIES):
            if tally.look(first, key, _opened_before, (1,)):
                return tally.usage
    return None


def usage_of(said: object) -> Usage | None:
    """The same of a `usage` that was parsed already."""
    tally = _Tally()
    return tally.usage if isinstance(said, dict) and tally.add(said) else None


class UsageWatch:
    """One stream's. Feed it what is passed on; whole events in the usual case, but any pieces will do.

    `strip`: hide the event that nobody but the gateway asked for. It is seen when it comes whole.
    """

    __slots__ = ("_latest", "_rest", "_strip", "_tally")

    def __init__(self, *, strip: bool = False) -> None:
        self._tally = _Tally()
        self._strip = strip
        self._rest = b""
        self._latest = b""
        """Lines that may say it, not yet looked at: with vLLM's `continuous_usage_stats` each event does."""

    def __repr__(self) -> str:
        return f"<UsageWatch {self.usage}, {len(self._rest)} bytes unfinished>"

    def feed(self, events: bytes) -> bytes:
        """What may be passed on; but for the one event that is stripped, what came."""
        # One look for a word that is quickly looked for, unless it is there or the last line is unfinished.
        if b"usage" in events or self._rest or events[-1:] != b"\n":
            lines = self._whole_lines(events)
            if _KEY.search(lines):
                self._note(lines)
            if self._strip and _NO_CHOICE.search(events):
                return _stripped(events)
        return events

    @property
    def usage(self) -> Usage | None:
        """What the engine has said up to here; also in a last line without an end."""
        for lines in (self._latest, self._rest):
            if b'"usage"' in lines:
                self._look(lines)
        self._latest = b""
        return self._tally.usage

    def _whole_lines(self, events: bytes) -> bytes:
        if not self._rest and events.endswith(b"\n"):
            return events
        events = self._rest + events
        end = max(events.rfind(b"\n"), events.rfind(b"\r")) + 1
        self._rest = events[end:][-REST_MAX:]
        return events[:end]

    def _note(self, lines: bytes) -> None:
        """The first is looked at (`/v1/messages` says the prompt there), of the others only the last, once it is."""
        if self._tally.found:
            self._latest = lines
        else:
            self._look(lines)

    def _look(self, lines: bytes) -> None:
        for match in _LINE.finditer(lines):
            line = match[0]
            if b'"usage"' in line:
                for key in _last_keys(line):
                    if self._tally.look(line, key, _closed_after, (1, 2)):  # 2: in `response`, or in `message`
                        break


def _stripped(events: bytes) -> bytes:
    """Without the events that say a usage and have no choice."""
    passed: list[bytes] = []
    begun = 0
    for end in (*(blank.end() for blank in _EMPTY_LINE.finditer(events)), len(events)):
        event = events[begun:end]
        begun = end
        said = _chunk_in(event) if _NO_CHOICE.search(event) else None
        if said is None or not isinstance(said.get("usage"), dict):
            passed.append(event)
        elif passed:
            passed[-1] = _with_members_of(said, passed[-1])
    return b"".join(passed)


def _with_members_of(said: dict[str, object], event: bytes) -> bytes:
    """The event before, with what the engine would have said in it, had nobody asked for the usage."""
    before = _chunk_in(event)
    if before is None or not before.get("choices"):
        return event
    moved = {name: value for name, value in said.items() if name != "usage" and name not in before}
    if not moved:
        return event
    members = json.dumps(moved, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")[1:-1]
    at = event.rindex(b"}")
    return b"%b,%b%b" % (event[:at], members, event[at:])


def _chunk_in(event: bytes) -> dict[str, object] | None:
    """The JSON of an event that is one line; None for any other."""
    lines = [line for line in event.splitlines() if line.startswith(b"data:")]
    try:
        chunk = json.loads(lines[0][5:]) if len(lines) == 1 else None
    except (ValueError, RecursionError):
        return None  # not all of it, or no JSON: not ours to judge
    return chunk if isinstance(chunk, dict) else None


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
        return depth_of(text, key.start(), key.end() + length) in depths and self.add(said)

    def add(self, said: dict[str, object]) -> bool:
        """Whether it is an engine's, with counts that can be believed."""
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


def _last_keys(text: bytes) -> Iterator[re.Match[bytes]]:
    """From the end of the text on."""
    place, tries = len(text), TRIES
    while tries and (place := text.rfind(b'"usage"', 0, place)) >= 0:
        if key := _KEY.match(text, place):
            tries -= 1
            yield key


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
