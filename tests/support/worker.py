"""A whole worker as a user runs it: `./start.sh` in a process of its own, on free ports, with a volume of its own."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
KEY = "sk-test-0123456789abcdef"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(condition, within: float, what: str) -> Any:
    """The first true value of `condition`, looked for until `within` seconds have passed."""
    deadline = time.monotonic() + within
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {within:g} s: {what}")
        time.sleep(0.02)


class Worker:
    """One run of start.sh."""

    def __init__(self, folder: Path, **settings: str) -> None:
        self.folder = folder
        self.port, self.port_health = free_port(), free_port()
        self.base = f"http://127.0.0.1:{self.port}"
        self.health = f"http://127.0.0.1:{self.port_health}"
        self.log = folder / "console.txt"
        self.command = [str(ROOT / "start.sh")]
        keep = ("PATH", "HOME", "LANG", "XDG_CACHE_HOME", "WAKEGATE_WHEEL_CACHE", "TMPDIR")
        self.env = {name: os.environ[name] for name in keep if name in os.environ}
        self.env |= {
            "HOST": "127.0.0.1",
            "PORT": str(self.port),
            "PORT_HEALTH": str(self.port_health),
            "DATA_DIR": str(folder / "data"),
            "API_KEY": KEY,
            "WAKEGATE_ENV_FILE": str(folder / "empty.env"),  # not a developer's own .env
            **settings,
        }
        (folder / "empty.env").touch()
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> "Worker":
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command,
                cwd=self.folder,
                env=self.env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return self

    @property
    def console(self) -> str:
        return self.log.read_text("utf-8", "replace")

    def state(self) -> str:
        """The lifecycle's state as /health says it; "" when nobody answers."""
        try:
            return str(self.get("/health")[1]["state"])
        except (OSError, ValueError, KeyError, TypeError):  # TypeError: something else answers there, and no JSON
            return ""

    def until(self, *states: str, within: float = 60) -> str:
        def reached() -> str:
            assert self.process is not None
            assert self.process.poll() is None, f"start.sh ended with {self.process.poll()}:\n{self.console}"
            state = self.state()
            return state if state in states else ""

        try:
            return str(wait_for(reached, within, f"state {' or '.join(states)}"))
        except AssertionError as error:
            raise AssertionError(f"{error}; it is {self.state()!r}\n{self.console}") from None

    def get(self, path: str, *, base: str | None = None, key: str | None = KEY) -> tuple[int, Any]:
        """(status, JSON or text) of one GET."""
        return self.call("GET", path, base=base, key=key)

    def post(self, path: str, body: object, *, key: str | None = KEY, timeout: float = 60) -> tuple[int, Any]:
        return self.call("POST", path, json.dumps(body).encode(), key=key, timeout=timeout)

    def call(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        *,
        base: str | None = None,
        key: str | None = KEY,
        timeout: float = 60,
    ) -> tuple[int, Any]:
        request = urllib.request.Request((base or self.base) + path, data=body, method=method)
        request.add_header("Content-Type", "application/json")
        if key:
            request.add_header("Authorization", f"Bearer {key}")
        try:
            with urllib.request.urlopen(request, timeout=timeout) as answer:
                status, raw = answer.status, answer.read()
        except urllib.error.HTTPError as error:
            status, raw = error.code, error.read()
        try:
            return status, json.loads(raw)
        except ValueError:
            return status, raw.decode("utf-8", "replace")

    def probe(self, path: str = "/ping") -> int:
        """The health port's code; 0 when nobody answers."""
        try:
            with urllib.request.urlopen(self.health + path, timeout=5) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return 0

    def pids(self, text: str) -> list[int]:
        """Processes of this worker whose command line holds `text`; found by DATA_DIR or the boot's cookie."""
        found = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            with contextlib.suppress(OSError):
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
                environ = (entry / "environ").read_bytes()
                if text in line and (str(self.port).encode() in environ or self.boot.encode() in environ):
                    found.append(int(entry.name))
        return found

    @property
    def boot(self) -> str:
        """This boot's nonce, from the gateway's environment."""
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    environ = (entry / "environ").read_bytes()
                    if f"PORT={self.port}\0".encode() in environ:
                        match = re.search(rb"WAKEGATE_BOOT=([^\0]+)", environ)
                        if match:
                            return match[1].decode()
        return "no such boot"

    def engine_pid(self) -> int:
        """The engine's own process."""
        pids = wait_for(lambda: self.pids("llama_child --socket"), 10, "an engine process")
        return int(max(pids))

    def stop(self, *, within: float = 40) -> int:
        """SIGTERM to start.sh alone, as a platform sends it. Returns the exit code."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(within)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(OSError):
                os.killpg(self.process.pid, signal.SIGKILL)
            raise AssertionError(f"start.sh did not end within {within:g} s\n{self.console}") from None


def living(cookie: str) -> list[int]:
    """Processes that carry this engine cookie in their environment."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if f"WAKEGATE_ENGINE={cookie}".encode() in (entry / "environ").read_bytes():
                    found.append(int(entry.name))
    return found


@contextlib.contextmanager
def running(folder: Path, **settings: str) -> Iterator[Worker]:
    """A worker that is ended whatever the test does."""
    worker = Worker(folder, **settings).start()
    try:
        yield worker
    finally:
        if worker.process is not None and worker.process.poll() is None:
            with contextlib.suppress(AssertionError):
                worker.stop()
