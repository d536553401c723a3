"""An engine that is a real process and no model: speaks HTTP on a unix socket or a port, and misbehaves as it is told.

    python -I -S fake_engine.py --socket PATH | --port N [--load SECONDS] [--crash loading|ready] [--code N] …

Standard library only and threads only, so that it is there within 20 ms. Everything that a test wants to see of it is
said over HTTP (GET /self: its environment and process id) or in its output.
"""

import argparse
import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

STARTED = time.monotonic()


def parse() -> argparse.Namespace:
    words = argparse.ArgumentParser()
    words.add_argument("--socket")
    words.add_argument("--port", type=int)
    words.add_argument("--key-file", help="refuse /v1 without the key in it")
    words.add_argument("--load", type=float, default=0.0, help="seconds until it serves")
    words.add_argument("--refuse-while-loading", action="store_true", help="as vLLM: nothing listens until it serves")
    words.add_argument("--no-health", action="store_true", help="as llama-cpp-python's own server")
    words.add_argument("--health-path", default="/health")
    words.add_argument("--health-early", action="store_true", help="healthy before the model is loaded")
    words.add_argument("--sick-after", type=float, help="healthy no more, but alive, these seconds after the start")
    words.add_argument("--no-models", action="store_true")
    words.add_argument("--crash", choices=["loading", "ready"])
    words.add_argument("--after", type=float, default=0.0, help="seconds into that phase")
    words.add_argument("--code", type=int, default=1)
    words.add_argument("--news-fd", type=int)
    words.add_argument("--spawn", action="append", default=[], choices=["plain", "setsid", "wiped", "setsid-wiped"])
    words.add_argument("--ignore-term", action="store_true")
    words.add_argument("--slow-term", type=float, help="end these seconds after TERM, with code 0")
    words.add_argument("--print", dest="lines", type=int, default=0, help="lines of output at once")
    words.add_argument("--alias", action="append", default=[])
    words.add_argument("--model")
    words.add_argument("--wait-only", action="store_true", help="be a part of an engine: sleep")
    words.add_argument("--wipe", action="store_true", help="overwrite the own environment, as setproctitle does")
    # What the gateway tells its own child program, and this one has no use for.
    for word in ("--gpu-layers", "--ctx", "--arg"):
        words.add_argument(word)
    return words.parse_args()


def say(text: str) -> None:
    os.write(1, text.encode() + b"\n")


def wipe_environment() -> None:
    """What setproctitle does to /proc/PID/environ: the memory that the kernel shows there is overwritten."""
    fields = Path("/proc/self/stat").read_bytes().rpartition(b")")[2].split()
    start, end = int(fields[47]), int(fields[48])
    ctypes.memset(start, 0, end - start)


def spawn(kind: str, deaf: bool) -> int:
    argv = [sys.executable, "-I", "-S", __file__, "--wait-only"]
    argv += ["--wipe"] if "wiped" in kind else []
    argv += ["--ignore-term"] if deaf else []
    return subprocess.Popen(argv, start_new_session="setsid" in kind).pid


class Engine:
    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.parts: list[int] = []

    def age(self) -> float:
        return time.monotonic() - STARTED

    def loaded(self) -> bool:
        return self.age() >= self.options.load

    def news(self, **message: object) -> None:
        if self.options.news_fd is not None:
            os.write(self.options.news_fd, json.dumps(message).encode() + b"\n")

    def answer(self, path: str, key: str) -> tuple[int, str, bytes]:
        options = self.options
        if path == "/self":
            facts = {"pid": os.getpid(), "parts": self.parts, "environ": dict(os.environ), "argv": sys.argv}
            return 200, "application/json", json.dumps(facts).encode()
        if path == options.health_path and not options.no_health:
            if options.sick_after is not None and self.age() > options.sick_after:
                return 503, "text/plain", b"dead inside"
            if not self.loaded() and not options.health_early:
                progress = {"status": "loading", "progress": min(0.99, self.age() / options.load)}
                return 503, "application/json", json.dumps(progress).encode()
            return 200, "application/json", b'{"status":"ok"}'
        if path == "/v1/models" and not options.no_models:
            if options.key_file and key != "Bearer " + Path(options.key_file).read_text().strip():
                return 401, "application/json", b'{"error":"Unauthorized"}'
            if not self.loaded():
                return 503, "application/json", b'{"error":{"message":"Loading model"}}'
            names = options.alias or ["fake"]
            return 200, "application/json", json.dumps({"data": [{"id": name} for name in names]}).encode()
        return 404, "text/html", b"<html>not found</html>"

    def serve_one(self, connection: socket.socket) -> None:
        with connection:
            head = b""
            while b"\r\n\r\n" not in head:
                data = connection.recv(65536)
                if not data:
                    return
                head += data
            lines = head.decode("latin-1").split("\r\n")
            key = next((line[15:] for line in lines if line.lower().startswith("authorization: ")), "")
            status, kind, body = self.answer(lines[0].split(" ")[1], key)
            top = f"HTTP/1.1 {status} X\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n"
            connection.sendall(top.encode() + b"Connection: close\r\n\r\n" + body)

    def listen(self) -> None:
        if self.options.socket:
            listener = socket.socket(socket.AF_UNIX)
            listener.bind(self.options.socket)
        else:
            listener = socket.create_server(("127.0.0.1", self.options.port or 0))
            say(f"listening on {listener.getsockname()[1]}")
        listener.listen(64)

        def accept() -> None:
            while True:
                connection, _ = listener.accept()
                threading.Thread(target=self.serve_one, args=(connection,), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()

    def live(self) -> None:
        options = self.options
        say(f"fake engine {os.getpid()}")
        for number in range(options.lines):
            say(f"line {number} " + "x" * 80)
        self.parts = [spawn(kind, options.ignore_term) for kind in options.spawn]
        if self.parts:
            say("parts " + " ".join(map(str, self.parts)))
        if not options.refuse_while_loading:
            self.listen()
        if options.crash == "loading":
            time.sleep(options.after)
            say("error: something broke while loading")
            self.news(phase="failed", reason="The model file is damaged.", detail="tensor 3 is cut")
            os._exit(options.code)
        while not self.loaded():
            self.news(phase="loading", ratio=round(min(0.99, self.age() / options.load), 2))
            time.sleep(min(0.05, max(0.0, options.load - self.age())))
        if options.refuse_while_loading:
            self.listen()
        self.news(phase="ready")
        say("ready")
        if options.crash == "ready":
            time.sleep(options.after)
            say("error: something broke while serving")
            os._exit(options.code)
        while True:
            time.sleep(3600)


def main() -> None:
    options = parse()
    if options.wipe:
        wipe_environment()
    if options.ignore_term:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    elif options.slow_term is not None:
        signal.signal(signal.SIGTERM, lambda *_: (time.sleep(options.slow_term), os._exit(0)))
    if options.wait_only:
        time.sleep(3600)
    Engine(options).live()


if __name__ == "__main__":
    main()
