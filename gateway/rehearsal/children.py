"""The processes of a rehearsal: whole workers, as start.sh runs them, each ended with everything that it started.

Whatever a rehearsal begins ends with it: asked to, by Ctrl-C, or by being killed, which the kernel tells its children.
"""

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import sys
from collections.abc import Mapping
from pathlib import Path

END_WITHIN = 25.0
"""Seconds for an orderly end; then it is killed."""
TAIL = 12
"""Lines of its console that are shown when it failed."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start_script() -> Path | None:
    """start.sh: beside the package in a checkout, inside it when installed from a wheel. None: it is nowhere."""
    package = Path(__file__).resolve().parents[1]
    return next((script for script in (package.parent / "start.sh", package / "start.sh") if script.is_file()), None)


def bare(environ: Mapping[str, str]) -> dict[str, str]:
    """What a child is told besides its settings: nobody's settings, keys or `.env` come along."""
    return {name: environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in environ}


class Child:
    """One worker: `start.sh --no-setup` with these settings, its console in a file."""

    def __init__(
        self, name: str, script: Path, folder: Path, environment: Mapping[str, str], *, cwd: Path | None = None
    ) -> None:
        """`folder` takes its console. `cwd`: whose `.env` is read; without one no settings but these are."""
        self.name = name
        self._script = script
        self._log = folder / f"{name}.txt"
        self._environment = {"WAKEGATE_PYTHON": sys.executable, **environment}
        if cwd is None:
            empty = folder / "empty.env"
            empty.touch()
            self._environment["WAKEGATE_ENV_FILE"] = str(empty)
        self._cwd = cwd or folder
        self._process: asyncio.subprocess.Process | None = None

    def __repr__(self) -> str:
        process = self._process
        return f"<Child {self.name} {process.pid if process else 'not started'}, ended with {self.code}>"

    @property
    def code(self) -> int | None:
        """None: it runs, or never did."""
        return self._process.returncode if self._process is not None else None

    @property
    def runs(self) -> bool:
        return self._process is not None and self._process.returncode is None

    async def start(self) -> None:
        command = ["bash", str(self._script), "--no-setup"]
        if (setpriv := shutil.which("setpriv")) is not None:
            command = [setpriv, "--pdeathsig", "TERM", *command]
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *command,
                cwd=self._cwd,
                env=self._environment,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                process_group=0,  # Ctrl-C is ours: they are ended in order
            )

    async def stop(self, within: float = END_WITHIN) -> None:
        """Returns when nothing of it is left. Again, and by several at once, it is ended once."""
        process = self._process
        if process is None:
            return
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)
            try:
                await asyncio.wait_for(process.wait(), within)
            except TimeoutError:
                pass
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)  # its own children have its end told by the kernel
        await process.wait()

    def tail(self) -> str:
        """The end of what it said."""
        try:
            lines = self._log.read_text("utf-8", "replace").splitlines()
        except OSError:
            return ""
        return "\n".join(f"  | {line}" for line in lines[-TAIL:])
