"""Takes orders from the command line: a unix socket in the run folder (`gateway/orders.py` says how it is spoken).

Only this user, and root, may speak here: the folder is private, the socket is 0600, and the kernel is asked who is at
the other end. It needs no key, so it works where no admin key was ever set. A gateway goes on without it.
"""

import asyncio
import json
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gateway.errors import Refused, refuse
from gateway.orders import address_of, peer_of, socket_name
from gateway.web.control import Control

WHO = "the command line"
ASK_WITHIN = 10.0
"""Seconds for a question to be asked."""
QUESTION_MOST = 4096
AT_ONCE = 32
"""Connections."""
GOODBYE_WITHIN = 2.0
"""Seconds that those have who wait for the end, to be told of it."""


class ControlSocket:
    """Of one gateway. `open`, and `close` when nothing of it listens or runs any more."""

    def __init__(self, control: Control, folder: Path, port: int) -> None:
        self._control = control
        self.path = folder / socket_name(port)
        self._server: asyncio.Server | None = None
        self._speaking: set[asyncio.Task[None]] = set()
        self._over = asyncio.Event()
        self._orders: dict[str, Callable[[dict[str, Any]], None]] = {
            "status": lambda question: None,
            "wake": lambda question: control.wake(WHO),
            "sleep": lambda question: control.sleep(WHO),
            "keep-warm": lambda question: control.keep_warm(WHO, _seconds(question.get("for"))),
            "stop": lambda question: control.stop(WHO, leave=question.get("leave") is True),
        }

    def __repr__(self) -> str:
        return f"<ControlSocket {self.path}, {len(self._speaking)} speak>"

    async def open(self) -> None:
        """Raises OSError."""
        self.path.unlink(missing_ok=True)  # of a gateway that was killed, and had the same folder
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            os.fchmod(listener.fileno(), 0o600)  # before it has a name: it is never there with other rights
            with address_of(self.path) as address:
                listener.bind(address)
            listener.listen(AT_ONCE)
            listener.setblocking(False)
            self._server = await asyncio.start_unix_server(self._enter, sock=listener, limit=QUESTION_MOST)
        except BaseException:
            listener.close()
            raise

    async def close(self) -> None:
        """Tell those who wait for the end, and be gone."""
        if self._server is None:
            return
        self._server.close()
        self.path.unlink(missing_ok=True)
        self._over.set()
        if self._speaking:
            await asyncio.wait(self._speaking, timeout=GOODBYE_WITHIN)
        for task in self._speaking:
            task.cancel()
        await asyncio.gather(*self._speaking, return_exceptions=True)

    async def _enter(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is None or len(self._speaking) >= AT_ONCE or not _is_ours(writer):
            writer.close()
            return
        self._speaking.add(task)
        try:
            await self._speak(reader, writer)
        except (OSError, TimeoutError, ValueError):
            pass  # it left, asked for longer than it may, or too long a question
        finally:
            self._speaking.discard(task)
            writer.close()

    async def _speak(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async with asyncio.timeout(ASK_WITHIN):
            line = await reader.readline()
        if not line:
            return  # who only looked whether somebody is here
        question, answer = self._answer(line)
        await _say(writer, answer)
        if question.get("do") == "stop" and answer["ok"]:
            await self._over.wait()
            await _say(writer, {"ok": True, "ended": True, "instance": self._control.left()})

    def _answer(self, line: bytes) -> tuple[dict[str, Any], dict[str, Any]]:
        try:
            question = json.loads(line)
        except (ValueError, RecursionError):
            question = None
        if not isinstance(question, dict):
            question = {}
        try:
            if question.get("do") == "spend":
                return question, {"ok": True, "told": self._control.spend()}
            order = self._orders.get(str(question.get("do")))
            if order is None:
                raise refuse("invalid_request", "This gateway knows no such order; it may be an older one.")
            order(question)
        except Refused as refused:
            refusal = refused.refusal
            return question, {"ok": False, "code": refusal.code, "message": refusal.message}
        return question, {"ok": True, "told": self._control.status()}


async def _say(writer: asyncio.StreamWriter, said: dict[str, object]) -> None:
    writer.write(json.dumps(said).encode() + b"\n")
    await writer.drain()


def _is_ours(writer: asyncio.StreamWriter) -> bool:
    """Whether this user, or root, is at the other end."""
    transport_socket = writer.get_extra_info("socket")
    try:
        with socket.socket(fileno=os.dup(transport_socket.fileno())) as asked:
            return peer_of(asked) in (os.geteuid(), 0)
    except OSError:
        return False


def _seconds(wish: object) -> float | None:
    """Raises Refused."""
    if wish is None:
        return None
    if isinstance(wish, bool) or not isinstance(wish, int | float) or not wish > 0:
        raise refuse("invalid_request", "`for` must be seconds above zero, or null.", param="for")
    return float(wish)
