"""What callers hear while the model wakes: the one table that the tests hold the gateway to, and that the docs show.

A caller uses an SDK as people do: with its default of two retries, and nothing set. What it hears is the same in every
SDK of `SDKS`, so it is written once per phase: for who asked for a whole answer, and for who asked for a stream.
The docs page is written from here by scripts/make_callers_page.py.
"""

from dataclasses import dataclass
from typing import Literal

SDKS = ("openai-1.109.1", "openai-2.45.0", "openai-3.52.0", "node-openai-7.55.0", "anthropic-2.12.0")
"""By the names of their files in pins/. Each of them is tried with every row of its dialects."""

LIBRARIES = ("langchain-openai-1.7.3", "litellm-1.106.2")
"""Which call by an OpenAI SDK of their own."""

Dialect = Literal["chat", "responses", "messages"]


@dataclass(frozen=True, slots=True)
class Heard:
    """What a caller has in the end, and after how many tries of its SDK."""

    tries: int = 1
    refused: str = ""
    """The code of the refusals before the last try."""
    status: int | None = 200
    """None: an error that came in a stream, after its 200."""
    code: str = ""
    """Of the error; empty: it has the answer, whole."""
    held: bool = False
    """Whether its stream was kept alive before."""
    shown: bool = False
    """Whether it was told how far the start is, as reasoning."""
    at_engine: bool = True
    """Whether the engine was asked, exactly once; else never."""
    elsewhere: bool = False
    """Whether somebody else gave the answer."""


def answered(tries: int = 1, refused: str = "", *, held: bool = False, shown: bool = False) -> Heard:
    return Heard(tries, refused, held=held, shown=shown)


def answered_elsewhere() -> Heard:
    return Heard(at_engine=False, elsewhere=True)


def refused(status: int, code: str, tries: int = 1) -> Heard:
    """By the gateway."""
    return Heard(tries, code, status, code, at_engine=False)


def failed_in_stream(code: str) -> Heard:
    return Heard(status=None, code=code, held=True, at_engine=False)


@dataclass(frozen=True, slots=True)
class Row:
    """One phase."""

    phase: str
    meanwhile: str
    """How it is, for the page: goes on from "the model …"."""
    whole: Heard
    streamed: Heard
    dialects: tuple[Dialect, ...] = ("chat",)

    def heard(self, streamed: bool) -> Heard:
        return self.streamed if streamed else self.whole


ALL: tuple[Dialect, ...] = ("chat", "responses", "messages")

TABLE = (
    Row("ready", "is ready", answered(), answered()),
    Row("stopped", "is stopped, and there at once", answered(), answered()),
    Row("starting", "is ready after 3 s", answered(), answered(held=True), ALL),
    Row("beyond-hold", "takes longer than `HOLD_MAX`", answered(2, "loading"), answered(held=True), ALL),
    Row("beyond-300", "takes longer than 300 s", answered(3, "loading"), answered(held=True)),
    Row("beyond-tries", "takes longer than all three tries", refused(503, "loading", 3), answered(held=True)),
    Row("reject", "is stopped, with `COLD_START=reject`", answered(2, "loading"), answered(2, "loading")),
    Row("fallback", "is stopped, with `COLD_START=fallback`", answered_elsewhere(), answered_elsewhere()),
    Row("prefer", "takes longer than `Prefer: wait=N`", answered(2, "loading"), answered(2, "loading")),
    Row("shown", "is ready after 3 s, with `LOADING_TEXT=reasoning`", answered(), answered(held=True, shown=True)),
    Row("fails-early", "fails to start, within `HOLD_GRACE`", *(refused(503, "start_failed"),) * 2, ALL),
    Row("fails-late", "fails to start later", refused(503, "start_failed"), failed_in_stream("start_failed"), ALL),
    Row(
        "engine-refuses",
        "is ready after 3 s, and refuses the request",
        Heard(status=400, code="too_long"),
        Heard(status=None, code="invalid_request", held=True),
    ),
    Row("full-a-while", "has a full line, for a while", answered(2, "queue_full"), answered(2, "queue_full")),
    Row("full", "has a full line, for longer", refused(429, "queue_full", 3), refused(429, "queue_full", 3)),
    Row("draining", "is shut down already", refused(503, "draining", 3), refused(503, "draining", 3)),
    Row("drained", "is shut down while they wait", refused(503, "draining", 3), failed_in_stream("draining")),
)
