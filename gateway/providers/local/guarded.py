"""The gateway's end of a guard (guard.py): starts it, hears it, and does its work when it is killed.

One `GuardedEngine` is one run of an engine. Three things happen to it, in this order, each once: `started` (the
engine's program runs, or could not be run), `exited` (its first process ended), `gone` (nothing of it lives). All three
always happen, whoever is killed.
"""

import asyncio
import json
import logging
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gateway.providers.local import guard
from gateway.providers.local.ends.exits import Exit

log = logging.getLogger(__name__)

GUARD = str(Path(guard.__file__).resolve())
QUIET = ("-W", "ignore::DeprecationWarning")
"""Python 3.12 and later warn when a program with threads forks, as the guard does for a stop command. Between that fork
and its exec there are only system calls, and the other thread only writes a file: nothing is held that they need."""
SWEEP_PATIENCE = 5.0


@dataclass(frozen=True, slots=True)
class Started:
    """Whether the engine's program runs. `error` is the errno of its exec, 0 when it does."""

    pid: int = 0
    error: int = 0


OnLine = Callable[[str], None]
"""Told a line that the engine printed, cut at 500 bytes, with its control characters; from the loop's thread."""

Spawn = Callable[[Sequence[str], Sequence[int], Mapping[str, str]], "subprocess.Popen[bytes]"]
"""Starts the guard: its argv, the descriptors it inherits, its environment. Returns at once."""


def spawn_guard(argv: Sequence[str], keep_fds: Sequence[int], env: Mapping[str, str]) -> "subprocess.Popen[bytes]":
    """In a session of its own, so that Ctrl-C and a supervisor's signals do not reach it. Takes about 2 ms."""
    return subprocess.Popen(  # noqa: S603 - our own file and our own interpreter
        list(argv), pass_fds=tuple(keep_fds), env=dict(env), stdin=subprocess.DEVNULL, start_new_session=True
    )


class GuardedEngine:
    """One run of an engine, from the order to start it until nothing of it lives. Make it with `launch`."""

    def __init__(
        self,
        process: "subprocess.Popen[bytes]",
        control: socket.socket,
        cookie: str,
        executor: Executor | None,
        on_line: OnLine | None = None,
    ):
        loop = asyncio.get_running_loop()
        self.cookie = cookie
        self.started: asyncio.Future[Started] = loop.create_future()
        self.exited: asyncio.Future[Exit] = loop.create_future()
        self.gone: asyncio.Future[bool] = loop.create_future()
        """True: nothing lives. False: something could not be killed (a process stuck in the kernel)."""
        self.lines = 0
        """Lines of output so far: a sign of life from an engine that says nothing else."""
        self.unfinished = ""
        """The line that it is at, as far as it goes: llama.cpp prints a dot for each percent. With `on_line` only."""
        self.on_line = on_line
        """Hears each line until `hush`; of many at once the newest 256, and no more than 200 kB a second."""
        self._process = process
        self._control = control
        self._executor = executor
        self._listening = loop.create_task(self._listen(), name=f"guard of {cookie}")

    def __repr__(self) -> str:
        state = "gone" if self.gone.done() else "exited" if self.exited.done() else "alive"
        return f"<GuardedEngine {self.cookie} guard={self._process.pid} {state}>"

    @property
    def guard_pid(self) -> int:
        return self._process.pid

    @classmethod
    def launch(
        cls,
        *,
        argv: Sequence[str],
        env: Mapping[str, str],
        cookie: str,
        log: str,
        log_limit: int,
        log_every: float = 86400.0,
        stop_argv: Sequence[str] = (),
        keep_fds: Sequence[int] = (),
        executor: Executor | None = None,
        spawn: Spawn = spawn_guard,
        on_line: OnLine | None = None,
    ) -> "GuardedEngine":
        """Start the guard and give it its order. Raises OSError when not even the guard can be started."""
        ours, theirs = socket.socketpair()
        try:
            order: dict[str, Any] = {
                "argv": list(argv),
                "env": dict(env),
                "cookie": cookie,
                "log": log,
                "log_limit": log_limit,
                "log_every": log_every,
                "stop_command": list(stop_argv),
                "keep_fds": list(keep_fds),
                "repeats": on_line is not None,
            }
            process = spawn(
                [sys.executable, "-I", "-S", *QUIET, GUARD, "run", str(theirs.fileno())],
                [theirs.fileno(), *keep_fds],
                {guard.GUARD_COOKIE: cookie, "LC_ALL": "C.UTF-8"},
            )
            engine = cls(process, ours, cookie, executor, on_line)
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        engine.send(order)
        return engine

    def stop(self, grace: float) -> None:
        """Ask for the end: the stop command, TERM, and KILL once `grace` seconds are over. Again with less: sooner."""
        self.send({"stop": grace})

    def hush(self) -> None:
        """It serves: from now on what it prints is nobody's business here. Its lines go on being counted."""
        if self.on_line is not None:
            self.on_line, self.unfinished = None, ""
            self.send({"quiet": True})

    def hang_up(self) -> None:
        """As if the gateway were gone: the guard ends everything by itself. What it says is still heard."""
        try:
            self._control.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # it has ended already

    def kill_guard(self) -> None:
        """For a guard that does not do its work: the sweep that follows does it."""
        if self._process.returncode is None:
            self._process.kill()

    def send(self, message: Mapping[str, Any]) -> None:
        data = json.dumps(message).encode() + b"\n"
        try:
            # Blocking for an instant: a few lines go into the socket's buffer, and the first one, the order, meets a
            # guard that is about to read it.
            self._control.settimeout(2.0)
            self._control.sendall(data)
        except OSError:
            pass  # the guard is dead: `_listen` hears that too, or has heard it and closed the socket
        finally:
            if self._control.fileno() >= 0:
                self._control.setblocking(False)

    async def _listen(self) -> None:
        try:
            try:
                confirmed = await self._hear()
            finally:
                # However we come here (cancelled, too), the end of this socket ends whatever still lives.
                self._control.close()
            self._settle(self.exited, Exit(-9, lost_guard=True))
            self._settle(self.started, Started(error=0))
            alive = 0 if confirmed else await self._sweep()
            self._settle(self.gone, alive == 0)
            await self._reap_guard()
        finally:
            for future in (self.started, self.exited, self.gone):
                future.cancel()

    async def _hear(self) -> bool:
        """Everything that the guard says. Whether it said that nothing lives, before its end."""
        loop = asyncio.get_running_loop()
        heard = b""
        while data := await self._receive(loop):
            *lines, heard = (heard + data).split(b"\n")
            said: list[str] = []
            try:
                if any(self._note(json.loads(line), said) for line in lines):
                    return True
            except (ValueError, KeyError, TypeError):
                return False  # not our guard's words: treated as a dead one, and swept up after
            self._repeat(said)
        return False

    def _repeat(self, said: list[str]) -> None:
        for line in said:
            if self.on_line is None:
                return
            try:
                self.on_line(line)
            except Exception:  # whoever listens may fail; the engine goes on
                log.exception("a line of engine %s could not be read", self.cookie)
                self.hush()

    async def _receive(self, loop: asyncio.AbstractEventLoop) -> bytes:
        try:
            return await loop.sock_recv(self._control, 65536)
        except OSError:
            return b""

    def _note(self, message: dict[str, Any], said: list[str]) -> bool:
        """Whether this was its last word. `said` is added to."""
        if "started" in message:
            self._settle(self.started, Started(pid=message["started"]))
        elif "failed" in message:
            self._settle(self.started, Started(error=message["failed"] or 1))
            self._settle(self.exited, Exit(127))
        elif "lines" in message:
            self.lines = message["lines"]
            if self.on_line is not None:
                said += map(str, message.get("said", ()))
                self.unfinished = str(message.get("open", ""))
        elif "exited" in message:
            self._settle(self.exited, Exit(message["exited"], tuple(message["tail"])))
        return "gone" in message

    async def _sweep(self) -> int:
        """The guard died first. It is not reaped yet, so its number, the session's, cannot be anybody else's."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._executor, self._sweep_now)

    def _sweep_now(self) -> int:
        return guard.sweep(self.cookie, session=self._process.pid, patience=SWEEP_PATIENCE)

    async def _reap_guard(self) -> None:
        """Take its exit status, so that no zombie stays. Its socket has ended, so it has ended or is about to."""
        pause = 0.002
        while self._process.poll() is None:
            await asyncio.sleep(pause)
            pause = min(0.5, pause * 2)

    @staticmethod
    def _settle(future: "asyncio.Future[Any]", value: Any) -> None:
        if not future.done():
            future.set_result(value)


def living(cookie: str) -> bool:
    """Whether anything with this cookie lives. Blocks for a few milliseconds."""
    return any(guard.carries(pid, guard.COOKIE, cookie) for pid in guard.processes() if pid != os.getpid())
