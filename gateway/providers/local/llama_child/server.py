"""HTTP on the unix socket: /health from the first moment, OpenAI's routes once the model is there.

Every answer closes its connection: the caller is one gateway on the same machine, a connection there costs
microseconds, and nobody can ever write a request into a connection that is just being closed. A caller's disconnect
cancels the handler, whatever it waits for, and that gives the engine back.
"""

import asyncio
import functools
import importlib
import json
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any

from aiohttp import web

from . import parameters
from .engine import Engine, Job
from .news import Board
from .refusals import LOADING, Refusal, failed, stopping

LARGEST_BODY = 64 << 20
STREAM_HEAD = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-cache",
    "X-Accel-Buffering": "no",
    "Connection": "close",
}


class Server:
    """The routes of one engine."""

    def __init__(self, engine: Engine, board: Board, names: tuple[str, ...]) -> None:
        self._engine, self._board, self._names = engine, board, names
        self._stopping = False
        self._began = int(time.time())

    def application(self) -> web.Application:
        app = web.Application(client_max_size=LARGEST_BODY, middlewares=[_errors])
        app.router.add_get("/health", self._health)
        app.router.add_get("/v1/models", self._models)
        for route, read in (
            ("chat/completions", parameters.chat),
            ("completions", parameters.completion),
            ("embeddings", parameters.embedding),
        ):
            app.router.add_post(f"/v1/{route}", functools.partial(self._infer, read))
        return app

    def stop(self) -> None:
        """From now on every request is refused; what runs goes on."""
        self._stopping = True
        self._engine.refuse_new()

    async def _health(self, _: web.Request) -> web.Response:
        board = self._board
        if not board.ready:
            return _json(503, {"status": "loading", "progress": board.ratio, "phase": board.phase})
        status = "stopping" if self._stopping else "ok"
        more = {"progress": 1.0, "phase": "ready", "models": list(self._names)}
        line = {"busy": self._engine.busy, "waiting": self._engine.waiting}
        return _json(503 if self._stopping else 200, {"status": status, **more, **line})

    async def _models(self, _: web.Request) -> web.Response:
        if not self._board.ready:
            return _json(503, LOADING)
        data = [
            {"id": name, "object": "model", "created": self._began, "owned_by": "llama-cpp-python"}
            for name in self._names
        ]
        return _json(200, {"object": "list", "data": data})

    async def _infer(self, read: Callable[[dict[str, Any]], Any], request: web.Request) -> web.StreamResponse:
        if self._stopping:
            raise stopping()
        if not self._board.ready:
            return _json(503, LOADING)
        ask = read(_object(await request.read()))
        answers = importlib.import_module(f"{__package__}.answers")  # loaded by the engine's thread with the model
        answer = {parameters.Chat: answers.chat, parameters.Completion: answers.completion}.get(
            type(ask), answers.embeddings
        )
        job = self._engine.submit(lambda model: answer(model, ask, self._names[0]))
        try:
            if isinstance(ask, parameters.Embedding) or not ask.how.stream:
                return _json(200, (await job.pieces())[0])
            return await _stream(request, job)
        finally:
            job.leave()


async def _stream(request: web.Request, job: Job) -> web.StreamResponse:
    """The head goes out with the first piece: until then an error can still have its own status."""
    pieces = await job.pieces()
    response = web.StreamResponse(headers=STREAM_HEAD)
    await response.prepare(request)
    try:
        while pieces:
            await response.write(b"".join(b"data: " + _bytes(piece) + b"\n\n" for piece in pieces))
            pieces = await job.pieces()
    except Refusal as refusal:
        # The event, then a cut: a chunked body without its end, so that nobody takes it for a whole answer.
        await response.write(b"data: " + _bytes(refusal.body()) + b"\n\n")
        if request.transport is not None:
            request.transport.close()
        return response
    await response.write(b"data: [DONE]\n\n")
    return response


@web.middleware
async def _errors(request: web.Request, handler: Callable[[web.Request], Any]) -> web.StreamResponse:
    """Every error in one shape, and nothing of what went wrong inside."""
    try:
        return await handler(request)  # type: ignore[no-any-return]
    except Refusal as refusal:
        return _json(refusal.status, refusal.body())
    except web.HTTPException as error:
        message = {404: "No such route in this engine.", 405: "Not with this method.", 413: "The body is too large."}
        code = "route_not_supported" if error.status == 404 else None  # a 404 without a code is taken for the model's
        return _json(error.status, Refusal(message.get(error.status, error.reason), code=code).body())
    except (asyncio.CancelledError, ConnectionError):
        raise
    except Exception:
        traceback.print_exc(file=sys.stderr)
        return _json(500, failed().body())


def _object(raw: bytes) -> dict[str, Any]:
    """The body as a JSON object that native code can take: no NaN, no half characters."""
    try:
        body = json.loads(raw, parse_constant=_no_constant)
        if b"\\ud" in raw or b"\\uD" in raw:
            json.dumps(body, ensure_ascii=False).encode()  # a lone surrogate cannot be encoded
    except (ValueError, RecursionError):
        raise Refusal("The body is not valid JSON.", code="invalid_json") from None
    if not isinstance(body, dict):
        raise Refusal("The body must be a JSON object.", code="invalid_json")
    return body


def _no_constant(word: str) -> float:
    raise ValueError(word)


def _bytes(body: object) -> bytes:
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def _json(status: int, body: object) -> web.Response:
    return web.Response(
        status=status, body=_bytes(body), content_type="application/json", headers={"Connection": "close"}
    )
