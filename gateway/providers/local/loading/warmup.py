"""One request of ours before the first of a caller's: an engine that only just loaded still has work to do for it.

CUDA libraries are loaded with the first token, kernels compiled for the first shapes, pages of the model touched; and
a prompt that all callers begin with, read once now, is in the engine's prefix cache when they come (WARMUP).

What goes wrong here is said and no more: an engine that answers its health is ready.
"""

import asyncio
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gateway.providers.base import Endpoint
from gateway.providers.local.commands import CHAT, COMPLETIONS, EMBEDDINGS

if TYPE_CHECKING:
    import aiohttp

WITHIN = 120.0
"""Seconds; whoever waits for the engine waits for this, too."""
PROMPT_MAX = 4 << 20
"""Bytes of a prompt that is read. More is no prompt."""
HELLO = "Hello"
GONE_ON = (400, 404, 405, 422, 501)
"""Statuses by which an engine says that it, or its model, has no such route: a model without a chat template, one that
only embeds. The next route is tried."""


class WarmupError(Exception):
    """The prompt's file cannot be used. The text is one sentence."""


@dataclass(frozen=True, slots=True)
class Warmup:
    """What is asked. `file`: None is one token; else a text that callers begin with, as their system message, or, named
    `.json`, the body of a whole request for a chat, its `tools` included."""

    file: Path | None = None

    def bodies(self, model: str | None) -> "Iterator[tuple[str, dict[str, Any]]]":
        """Routes and bodies, in the order in which they are tried. Reads the file. Raises WarmupError."""
        named: dict[str, Any] = {"model": model} if model else {}
        if self.file is not None and self.file.suffix == ".json":
            yield CHAT, chat_of(text_of(self.file)) | named | {"max_tokens": 1, "stream": False}
            return
        text = text_of(self.file) if self.file is not None else ""
        system = [{"role": "system", "content": text}] if text else []
        yield CHAT, named | {"messages": [*system, {"role": "user", "content": HELLO}], "max_tokens": 1}
        yield COMPLETIONS, named | {"prompt": text or HELLO, "max_tokens": 1}
        yield EMBEDDINGS, named | {"input": HELLO}


def text_of(path: Path) -> str:
    try:
        with path.open("rb") as file:
            raw = file.read(PROMPT_MAX + 1)
        if len(raw) > PROMPT_MAX:
            raise WarmupError(f"WARMUP: {path} is longer than {PROMPT_MAX >> 20} MiB.")
        return raw.decode("utf-8")
    except OSError as error:
        raise WarmupError(f"WARMUP: {path} cannot be read ({error.strerror}).") from error
    except UnicodeDecodeError as error:
        raise WarmupError(f"WARMUP: {path} is no UTF-8 text.") from error


def chat_of(text: str) -> dict[str, Any]:
    try:
        body = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise WarmupError("WARMUP: its file is named .json, and is no JSON.") from error
    if not isinstance(body, dict) or not isinstance(body.get("messages"), list):
        raise WarmupError("WARMUP: its file has no messages; a .json file holds the body of a request for a chat.")
    return body


async def warm_up(
    session: "aiohttp.ClientSession",
    endpoint: Endpoint,
    routes: frozenset[str] | None,
    model: str | None,
    warmup: Warmup,
    *,
    within: float = WITHIN,
) -> str:
    """Ask, and say in one sentence how it went. `routes`: those that the engine has, None where nobody knows. Raises
    nothing but cancellation; after `within` seconds the request is taken back."""
    began = time.monotonic()
    try:
        bodies = await asyncio.to_thread(lambda: list(warmup.bodies(model)))
        status, said = 0, "none of its routes takes one"
        async with asyncio.timeout(within):
            for route, body in bodies:
                if routes is not None and route not in routes:
                    continue
                status, said = await ask(session, endpoint, route, body)
                if status not in GONE_ON:
                    break
    except WarmupError as error:
        return f"The warm-up was left out. {error}"
    except TimeoutError:
        return f"The warm-up took longer than {within:g} s and was given up; the engine serves all the same."
    if status == 200:
        return f"warmed up in {time.monotonic() - began:.1f} s"
    return f"The warm-up failed ({said}); the engine serves all the same."


async def ask(
    session: "aiohttp.ClientSession", endpoint: Endpoint, route: str, body: dict[str, Any]
) -> tuple[int, str]:
    """(status, what was seen in words). 0: there was no whole answer."""
    import aiohttp

    headers = {"Authorization": f"Bearer {endpoint.key}"} if endpoint.key else {}
    try:
        async with session.post(
            f"{endpoint.url}{endpoint.prefix}{route}",
            json=body,
            headers=headers,
            timeout=aiohttp.ClientTimeout(total=None),
            allow_redirects=False,
        ) as answer:
            async for _ in answer.content.iter_chunked(65536):
                pass  # only that it is all there counts
            return answer.status, f"{route} answered {answer.status}"
    except (aiohttp.ClientError, OSError) as error:
        return 0, f"{route}: {error or type(error).__name__}"
