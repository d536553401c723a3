"""vLLM by what was recorded of it: real processes, no model. Speaks as vLLM 0.32 (CPU) was seen to on 2026-11-20.

    recorded_vllm.py serve MODEL --uds PATH [--served-model-name NAME…] [--recorded-load S] [--recorded-dying S] …

Recorded, and played here:
- nothing listens until it is ready (no 503 before);
- three processes: API server, EngineCore, Worker; a kill -9 of the API server leaves the other two alive;
- SIGTERM in mid-stream: each stream ends with `"finish_reason":"abort"` and `data: [DONE]`, then all exit with code 0;
- kill -9 of EngineCore: `data: {"error":…}` and `data: [DONE]` inside the 200; /health is 503 for 3 s; then exit with
  code 0 (tests/providers/local/logs/vllm-killed-core.txt);
- a caller's disconnect cancels its request within 0.3 s;
- asleep (its routes are there with VLLM_SERVER_DEV_MODE=1 only): /health stays 200, a request hangs until it is awake;
  /wake_up with a tag wakes that part only; a partial wake is still asleep;
- `--enable-sleep-mode` on a CPU: the start fails, with "Sleep mode is not supported on current platform" at its end.
Not recorded, and assumed: that a whole answer is aborted in the same words, and that requests in those 3 s get a 500;
that a level 2 sleep whose weights are not loaded again answers nonsense (a CPU frees nothing, so it was not seen). The
wording of the error is in its sources (vllm/v1/engine/exceptions.py). A real one is asked by `make test-vllm`.

Standard library and threads only, so that it is there within 50 ms.
"""

import argparse
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time

GAP = 0.02
"""Seconds between two tokens."""
DEAD = {
    "error": {
        "message": "EngineCore encountered an issue. See stack trace (above) for the root cause.",
        "type": "InternalServerError",
        "param": None,
        "code": 500,
    }
}


def parse() -> argparse.Namespace:
    words = argparse.ArgumentParser()
    words.add_argument("command", choices=["serve", "core", "worker"])
    words.add_argument("model")
    words.add_argument("--uds")
    words.add_argument("--served-model-name", nargs="+", default=[])
    words.add_argument("--recorded-load", type=float, default=0.1, help="seconds until it is ready")
    words.add_argument("--recorded-dying", type=float, default=3.0, help="seconds between EngineCore's end and its own")
    words.add_argument("--enable-sleep-mode", action="store_true")
    words.add_argument("--recorded-cpu", action="store_true", help="it cannot sleep here")
    words.add_argument("--recorded-sleep", choices=["fails", "hangs"], help="what becomes of the order to sleep")
    words.add_argument("--recorded-wake", choices=["fails", "hangs"], help="what becomes of the order to wake")
    return words.parse_known_args()[0]


def part(name: str) -> "subprocess.Popen[bytes]":
    """EngineCore starts its Worker itself, as vLLM's does."""
    return subprocess.Popen([sys.executable, "-I", "-S", __file__, name, "-"])


SLEEP_ROUTES = ("/sleep", "/wake_up", "/is_sleeping", "/collective_rpc")


class Gone(Exception):
    """The caller has left."""


class ApiServer:
    def __init__(self, options: argparse.Namespace) -> None:
        self.names = options.served_model_name or [options.model]
        self.options = options
        self.ending = threading.Event()
        self.running = 0
        self.served = 0
        self.changed = threading.Condition()
        self.asleep: set[str] = set()
        """What it has given back: weights, kv_cache."""
        self.has_weights = True
        self.told: list[str] = []
        """The orders about its sleep, in their order."""
        self.core = part("core")

    @property
    def core_is_dead(self) -> bool:
        return self.core.poll() is not None

    # -- answers

    def piece(self, text: str, finish: str | None) -> dict[str, object]:
        choice = {"index": 0, "delta": {"content": text}, "finish_reason": finish}
        return {"id": "chatcmpl-1", "object": "chat.completion.chunk", "model": self.names[0], "choices": [choice]}

    def tokens(self, count: int, caller: socket.socket) -> str:
        """Works for so many tokens' time, and says how that came to an end: length, abort or dead."""
        for _ in range(count):
            time.sleep(GAP)
            while self.asleep and not self.core_is_dead and not self.ending.is_set():
                time.sleep(GAP)
            if self.core_is_dead:
                return "dead"
            if self.ending.is_set():
                return "abort"
            with contextlib.suppress(BlockingIOError):
                caller.setblocking(False)
                try:
                    if not caller.recv(1, socket.MSG_PEEK):
                        raise Gone
                finally:
                    caller.setblocking(True)
        return "length"

    @property
    def word(self) -> str:
        return "word " if self.has_weights else "!!!! "

    def chat(self, body: dict[str, object], caller: socket.socket) -> None:
        count = int(str(body.get("max_tokens") or 16))
        if body.get("stream") and not self.core_is_dead:
            self.stream(count, caller)
        elif self.core_is_dead or (end := self.tokens(count, caller)) == "dead":
            send(caller, 500, DEAD)
        else:
            message = {"role": "assistant", "content": self.word * count}
            choice = {"index": 0, "message": message, "finish_reason": end}
            send(caller, 200, {"id": "chatcmpl-1", "object": "chat.completion", "choices": [choice]})

    def stream(self, count: int, caller: socket.socket) -> None:
        head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"
        caller.sendall(head.encode())
        end = "length"
        for _ in range(count):
            if (end := self.tokens(1, caller)) != "length":
                break
            event(caller, self.piece(self.word, None))
        event(caller, DEAD if end == "dead" else self.piece("", end))
        caller.sendall(chunk(b"data: [DONE]\n\n") + chunk(b""))

    def answer(self, line: str, body: bytes, caller: socket.socket) -> None:
        path = line.split(" ")[1]
        if path == "/health":
            caller.sendall(f"HTTP/1.1 {503 if self.core_is_dead else 200} X\r\ncontent-length: 0\r\n\r\n".encode())
        elif path == "/v1/models":
            send(caller, 200, {"object": "list", "data": [{"id": name, "object": "model"} for name in self.names]})
        elif path == "/load":  # vLLM's, with --enable-server-load-tracking
            send(caller, 200, {"server_load": self.running, "served": self.served})
        elif path == "/v1/chat/completions":
            with self.changed:
                self.running += 1
                self.served += 1
            try:
                self.chat(json.loads(body), caller)
            finally:
                with self.changed:
                    self.running -= 1
                    self.changed.notify_all()
        elif os.environ.get("VLLM_SERVER_DEV_MODE") == "1" and path.partition("?")[0] in SLEEP_ROUTES:
            self.turn(path, body, caller)
        else:
            send(caller, 404, {"detail": "Not Found"})

    def turn(self, path: str, body: bytes, caller: socket.socket) -> None:
        """What is about its sleep."""
        route, _, query = path.partition("?")
        if route == "/is_sleeping":
            send(caller, 200, {"is_sleeping": bool(self.asleep)})
            return
        self.told.append(f"{path} {body.decode()}".strip())
        print("told", self.told[-1], flush=True)
        misbehaves = {"/sleep": self.options.recorded_sleep, "/wake_up": self.options.recorded_wake}.get(route)
        if misbehaves == "hangs":
            self.ending.wait()
        elif misbehaves == "fails":
            send(caller, 500, DEAD)
        elif route == "/sleep":
            self.asleep = {"weights", "kv_cache"}
            self.has_weights = "level=2" not in query
            send(caller, 200, {"status": "sleeping", "level": 2 if "level=2" in query else 1})
        elif route == "/wake_up":
            self.asleep -= {query.removeprefix("tags=")} if query else {"weights", "kv_cache"}
            send(caller, 200, {"status": "sleeping" if self.asleep else "awake", "tags": None})
        else:
            self.has_weights = self.has_weights or "weights" not in self.asleep
            send(caller, 200, {"results": [None]})

    def serve_one(self, caller: socket.socket) -> None:
        with caller, contextlib.suppress(OSError, Gone):
            data = b""
            while b"\r\n\r\n" not in data:
                data += received(caller)
            head, _, body = data.partition(b"\r\n\r\n")
            lines = head.decode("latin-1").split("\r\n")
            length = next((int(row[15:]) for row in lines if row.lower().startswith("content-length:")), 0)
            while len(body) < length:
                body += received(caller)
            self.answer(lines[0], body, caller)

    # -- life

    def live(self) -> None:
        signal.signal(signal.SIGTERM, lambda *_: self.ending.set())
        if self.options.recorded_cpu and self.options.enable_sleep_mode:
            self.core.terminate()
            sys.exit("  Value error, Sleep mode is not supported on current platform. [type=value_error]")
        time.sleep(self.options.recorded_load)
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(self.options.uds)
        listener.listen(128)
        threading.Thread(target=self.accept, args=(listener,), daemon=True).start()
        while not self.ending.is_set() and not self.core_is_dead:
            self.ending.wait(0.02)
        if self.core_is_dead and not self.ending.is_set():
            time.sleep(self.options.recorded_dying)
            os._exit(0)
        listener.close()
        with self.changed:
            self.changed.wait_for(lambda: not self.running, timeout=5)
        self.core.terminate()
        self.core.wait()
        os._exit(0)

    def accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                caller, _ = listener.accept()
                threading.Thread(target=self.serve_one, args=(caller,), daemon=True).start()


def received(caller: socket.socket) -> bytes:
    data = caller.recv(65536)
    if not data:
        raise Gone
    return data


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def event(caller: socket.socket, body: object) -> None:
    caller.sendall(chunk(b"data: " + json.dumps(body, separators=(",", ":")).encode() + b"\n\n"))


def send(caller: socket.socket, status: int, body: object) -> None:
    raw = json.dumps(body).encode()
    head = f"HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {len(raw)}\r\n\r\n"
    caller.sendall(head.encode() + raw)


def main() -> None:
    options = parse()
    if options.command == "serve":
        ApiServer(options).live()
    worker = part("worker") if options.command == "core" else None

    def end(*_: object) -> None:
        if worker is not None:
            worker.terminate()
        os._exit(0)

    signal.signal(signal.SIGTERM, end)
    while True:
        time.sleep(3600)


if __name__ == "__main__":
    main()
