"""A real redis-server in a folder, behind a unix socket: killed, paused, restarted and emptied by tests."""

import os
import signal
import socket
import subprocess
import time
from pathlib import Path
from types import TracebackType

PATIENCE = 20.0
DURABLE = ("--appendonly", "yes", "--appendfsync", "always")


class RedisServer:
    """`options` are those of redis-server's command line. Durable where they say nothing else."""

    def __init__(self, folder: Path, *options: str) -> None:
        # A socket's path has 108 bytes; a test's folder may be longer.
        self._place = Path(f"/tmp/wakegate-redis-{os.getpid()}-{abs(hash(folder)) % 10**9}.sock")
        self._folder = folder
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None
        self.url = f"unix://{self._place}?db=0"

    def __enter__(self) -> "RedisServer":
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        self._place.unlink(missing_ok=True)

    def start(self) -> None:
        options = self._options if "--appendonly" in self._options else (*DURABLE, *self._options)
        argv = ["redis-server", "--port", "0", "--unixsocket", str(self._place), "--dir", str(self._folder)]
        self._process = subprocess.Popen([*argv, "--save", "", *options], stdout=subprocess.DEVNULL)
        begun = time.monotonic()
        while not self._answers():
            assert self._process.poll() is None, "redis-server ended"
            assert time.monotonic() - begun < PATIENCE, "redis-server does not answer"
            time.sleep(0.01)

    def _answers(self) -> bool:
        with socket.socket(socket.AF_UNIX) as line:
            line.settimeout(1)
            try:
                line.connect(str(self._place))
                line.sendall(b"PING\r\n")
                return line.recv(16).startswith(b"+PONG")
            except OSError:
                return False

    def ask(self, *command: str) -> bytes:
        """The raw answer to one command, by a connection of its own."""
        with socket.socket(socket.AF_UNIX) as line:
            line.settimeout(PATIENCE)
            line.connect(str(self._place))
            parts = [f"*{len(command)}\r\n".encode()]
            parts += [f"${len(word.encode())}\r\n{word}\r\n".encode() for word in command]
            line.sendall(b"".join(parts))
            return line.recv(1 << 16)

    def kill(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)
            self._process.kill()
            self._process.wait()
            self._process = None

    def pause(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def lose_everything(self) -> None:
        """Killed; what it had is gone. Not started again."""
        self.kill()
        for path in sorted(self._folder.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
