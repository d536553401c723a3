"""A pay-per-token API to play with: it checks its key, refuses what it does not know, and fails when it is told to.

Beside it `two_houses`: a gateway whose engine wakes when the test says so, and which may ask this API meanwhile.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from gateway.conductor import Conductor
from gateway.policy.fallback import Objection, Often, Rules, WakeAfter
from gateway.providers.base import Endpoint
from gateway.proxy.fallback import Answered, Fallback
from gateway.proxy.purse import Purse
from gateway.proxy.upstream import Limits
from tests.support.house import (
    STREAM_HEAD,
    House,
    Received,
    Script,
    ScriptedEngine,
    answer,
    chunked,
    house,
)

KEY = "sk-paid-fedcba9876543210"
MODEL = "vendor/small-2026"
KNOWN = frozenset(
    {"model", "messages", "prompt", "stream", "stream_options", "max_tokens", "max_completion_tokens", "temperature"}
    | {"top_p", "n", "stop", "seed", "tools", "tool_choice", "response_format"}
)
USAGE = {"prompt_tokens": 10, "completion_tokens": 4, "total_tokens": 14}
LIMITS = Limits(connect=5.0, first_byte=10.0, answer=10.0, gap=10.0, heartbeat=0.2)


def error(status: str, **more: object) -> Script:
    said = {"error": {"message": f"vendor says {status}", "type": "vendor", "param": None, "code": None} | more}
    return answer(said, status=status)


@dataclass
class PaidApi(ScriptedEngine):
    """Answers like a vendor's. `fails`: what it does instead, for each request until it is cleared."""

    fails: Script | None = None
    words: tuple[str, ...] = ("Hello", " from", " afar")
    says_usage: bool = True
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    """Cleared, a stream stops after its first word."""

    def __post_init__(self) -> None:
        self.script = self._answer
        self.gate.set()

    @property
    def endpoint(self) -> Endpoint:
        return Endpoint(f"http://127.0.0.1:{self.port}", prefix="/api/v1", key=KEY)

    async def _answer(self, request: Received, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        script = self.fails or self._refuses(request) or (self._stream if request.json.get("stream") else self._whole)
        await script(request, reader, writer)

    def _refuses(self, request: Received) -> Script | None:
        if request.header("Authorization") != [f"Bearer {KEY}"]:
            return error("401 Unauthorized")
        if request.line.split()[1] not in ("/api/v1/chat/completions", "/api/v1/completions"):
            return error("404 Not Found")
        if request.json["model"] != MODEL:
            return error("404 Not Found", code="model_not_found")
        strange = request.json.keys() - KNOWN
        return error(f"400 {sorted(strange)}") if strange else None

    async def _whole(self, request: Received, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        said: dict[str, Any] = {
            "id": "gen-1",
            "object": "chat.completion",
            "created": 1,
            "model": f"{MODEL}-0801",
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": "".join(self.words)},
                    "finish_reason": "stop",
                }
            ],
        }
        if self.says_usage:
            said["usage"] = USAGE
        await self.gate.wait()
        headers = "x-ratelimit-remaining-requests: 7\r\nopenai-organization: org-secret\r\nX-Request-Id: theirs\r\n"
        await answer(said, headers=headers)(request, reader, writer)

    async def _stream(self, request: Received, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM_HEAD)
        for number, word in enumerate(self.words):
            delta = {"content": word} | ({"role": "assistant"} if number == 0 else {})
            writer.write(chunked(self._chunk([{"index": 0, "delta": delta, "finish_reason": None}])))
            await writer.drain()
            await self.gate.wait()
        writer.write(chunked(self._chunk([{"index": 0, "delta": {}, "finish_reason": "stop"}])))
        if self.says_usage and (request.json.get("stream_options") or {}).get("include_usage"):
            writer.write(chunked(self._chunk([], usage=USAGE)))
        writer.write(chunked(b"data: [DONE]\n\n") + b"0\r\n\r\n")

    @staticmethod
    def _chunk(choices: list[object], **more: object) -> bytes:
        said = {"id": "gen-1", "object": "chat.completion.chunk", "created": 1, "model": f"{MODEL}-0801"}
        return b"data: " + json.dumps(said | {"choices": choices} | more).encode() + b"\n\n"


@dataclass
class TwoHouses(House):
    """A gateway, its engine, and who answers meanwhile."""

    paid: PaidApi
    fallback: Fallback
    answered: list[Answered]
    objections: list[Objection]
    said: list[str]
    """Lines for the log."""


@contextlib.asynccontextmanager
async def two_houses(
    *,
    when: Iterable[str] = ("waking",),
    wake_after: tuple[int, float] | None = None,
    purse: Callable[[], Purse] = Purse,
    key: str = KEY,
    model: str = MODEL,
    port: int | None = None,
    limits: Limits = LIMITS,
    most_bytes: int = 1 << 20,
    **sizes: Any,
) -> AsyncIterator[TwoHouses]:
    """`port`: another than the API's."""
    paid = PaidApi()
    await paid.start()
    made: list[Fallback] = []
    answered: list[Answered] = []
    objections: list[Objection] = []
    said: list[str] = []

    def make(conductor: Conductor) -> Fallback:
        endpoint = replace(paid.endpoint, key=key)
        if port is not None:
            endpoint = replace(endpoint, url=f"http://127.0.0.1:{port}")
        made.append(
            Fallback(
                endpoint,
                model=model,
                rules=Rules(frozenset(when)),
                conductor=conductor,
                purse=purse(),
                limits=limits,
                most_bytes=most_bytes,
                wake_after=WakeAfter(Often(*wake_after)) if wake_after is not None else None,
                on_answered=answered.append,
                on_objection=objections.append,
                say=lambda line, level: said.append(line),
            )
        )
        return made[0]

    try:
        async with house(ready_at_once=False, fallback=make, **({"hold_max": 30.0, "grace": 5.0} | sizes)) as h:
            told = vars(h) | {"said": said}  # by the fallback; the orders' own lines are of no interest here
            yield TwoHouses(**told, paid=paid, fallback=made[0], answered=answered, objections=objections)
    finally:
        await paid.close()
