"""What a chat page shows while its caller is held (LOADING_TEXT=reasoning), and how the model's stream goes on from it.

Comments keep a stream alive, and no person sees them. Chat pages show `delta.reasoning_content`, which reasoning models
think in, beside the answer. So the wait is told there, in chunks of the very stream that the model then goes on with:

    ours     {"id":A,…,"choices":[{"index":0,"delta":{"role":"assistant","reasoning_content":"Loading the model: …"}…
    ours     {"id":A,…,"choices":[{"index":0,"delta":{"reasoning_content":"Ready.…"}…
    engine   {"id":B,…,"choices":[{"index":0,"delta":{"role":"assistant","content":"Hel"}…   goes out with A, no role

A stream is one answer to those who read it. Its chunks share `id`, `created` and `model`, and its role is said once:
OpenAI's SDK adds up the texts of all deltas, the role too. So what the engine says of these is replaced, and every
other byte of its chunks stays. `content` is not ours to begin: a tool call has none. Where several answers were asked
for, the first tells. Pure.
"""

import json
import re
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, Final

from gateway.errors import to_json

ROUTES: Final = frozenset({"/v1/chat/completions", "/chat"})
"""Where streams have a place for it. `/v1/completions` has none; in `/v1/messages` and `/v1/responses` what is thought
belongs into a message, and only the engine can open one."""

_PHASES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "ordered": "Starting the model",
        "queued": "Waiting for a machine",
        "booting": "Starting the machine",
        "checking": "Checking the model's files",
        "downloading": "Downloading the model",
        "loading": "Loading the model",
        "filling": "Filling the GPU's memory",
        "compiling": "Compiling the model",
        "warming": "Warming up",
        "waking": "Waking the model",
        "unreachable": "Waiting for the engine",
    }
)
"""What a start is doing, to somebody who never heard of these words."""

_READY: Final = "Ready"
_AT_WORK: Final = {"working on the prompt": f"{_READY}, working on the prompt"}

_HEARTBEAT: Final = re.compile(r"(\w+)(?:,? (.*))?", re.DOTALL)
_MEASURED: Final = re.compile(r"(?<=\d%)(?= )")
"""Behind how far it is, where what it has done follows."""
_CHUNK: Final = re.compile(rb"(?<![^\r\n])(data: ?)(\{[^\r\n]*)")
_COLON: Final = re.compile(r"\s*:\s*")
_COMMA: Final = re.compile(r"\s*,\s*")
_SPACE: Final = re.compile(r"\s*")
_decode: Final = json.JSONDecoder().raw_decode


def for_people(heartbeat: str) -> str:
    """`Loading the model: 43%, 12.1/28.0 GiB, about 25 s` of `loading 43% 12.1/28.0 GiB, about 25 s`, on one line."""
    said = " ".join(heartbeat.split())
    match = _HEARTBEAT.fullmatch(said)
    if match is None or (phase := _PHASES.get(match[1])) is None:
        return _AT_WORK.get(said) or said[:1].upper() + said[1:]
    return f"{phase}: {_MEASURED.sub(',', match[2], count=1)}" if match[2] else phase


class LoadingText:
    """One stream's. `event` while it is held, `ready` and `joined` when the engine's stream has come."""

    __slots__ = ("_said", "_same")

    def __init__(self, id: str, *, model: str, created: int) -> None:
        """`model`: the name that the caller used. `created`: seconds since the epoch."""
        self._same = {"id": id, "created": created, "model": model}
        self._said: str | None = None

    def __repr__(self) -> str:
        return f"<LoadingText {self._same['id']} {self._said!r}>"

    @property
    def has_begun(self) -> bool:
        """Whether this stream has a chunk of ours, which the engine's go on from."""
        return self._said is not None

    def event(self, heartbeat: str) -> bytes | None:
        """The event that tells it; None where it was the last that was told."""
        text = for_people(heartbeat)
        return None if text == self._said else self._told(text, f"{text}  \n")

    def ready(self) -> bytes:
        """The last event of ours. What a model thinks itself comes behind it, in a paragraph of its own."""
        is_said = self._said is not None and self._said.startswith(_READY)
        return self._told(_READY, "\n" if is_said else f"{_READY}.\n\n")

    def _told(self, text: str, shown: str) -> bytes:
        delta = {"reasoning_content": shown} if self.has_begun else {"role": "assistant", "reasoning_content": shown}
        self._said = text
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": None}
        return b"data: %b\n\n" % to_json(self._same | {"object": "chat.completion.chunk", "choices": [choice]})

    # -- the engine's stream ---------------------------------------------------------------------

    def joined(self, events: bytes) -> bytes:
        """Whole events of the engine's, as parts of this stream. What is no chunk stays as it is."""
        return _CHUNK.sub(self._line, events)

    def _line(self, match: re.Match[bytes]) -> bytes:
        said = match[2].decode("utf-8", "surrogateescape")
        try:
            chunk = self._chunk(said)
        except (ValueError, RecursionError):
            return match[0]  # no JSON: not ours to judge
        return match[1] + chunk.encode("utf-8", "surrogateescape")

    def _chunk(self, said: str) -> str:
        """The same with what is the same in all of them. Raises ValueError."""
        parts, at = [said[:1]], 1
        missing = dict(self._same)
        is_chunk = False
        for name, value, start, end in _members(said):
            if name in self._same:
                new: object = self._same[name]
                missing.pop(name, None)
            elif name == "choices" and isinstance(value, list):
                is_chunk = True
                if not _take_role(value):
                    continue
                new = value
            else:
                continue
            parts += said[at:start], json.dumps(new, separators=(",", ":"))
            at = end
        if not is_chunk:
            return said
        parts[1:1] = (f"{json.dumps(name)}:{json.dumps(value)}," for name, value in missing.items())
        return "".join((*parts, said[at:]))


def _take_role(choices: list[Any]) -> bool:
    """Take the role out of the first answer's delta. Whether there was one."""
    is_taken = False
    for choice in choices:
        if isinstance(choice, dict) and choice.get("index", 0) == 0 and isinstance(choice.get("delta"), dict):
            is_taken = choice["delta"].pop("role", None) is not None or is_taken
    return is_taken


def _members(text: str) -> Iterator[tuple[str, Any, int, int]]:
    """Name, value and the value's place, of each member of the object that the text begins with. Raises ValueError."""
    at = _past(_SPACE, text, 1)
    while True:
        name, at = _decode(text, at)
        start = _past(_COLON, text, at)
        value, at = _decode(text, start)
        yield str(name), value, start, at
        if text.startswith("}", _past(_SPACE, text, at)):
            return
        at = _past(_COMMA, text, at)


def _past(pattern: re.Pattern[str], text: str, at: int) -> int:
    match = pattern.match(text, at)
    if match is None:
        raise ValueError(f"no JSON at {at}")
    return match.end()
