"""An engine that keeps connections as cpp-httplib does under llama-server, or breaks its word in other ways.

    python -I -S httplib_engine.py ADDRESS [CLOSES [AFTER [IDLE]]]

ADDRESS is a path, or `tcp`: the port is printed. It promises `Keep-Alive: timeout=5, max=100` with every answer. A
thread serves one connection and closes it as httplib does (shutdown, close), without a look at what came meanwhile:

- `stream` (llama-server): after each streamed answer, at once; the others are kept for IDLE seconds, and 100 requests;
- `all`: after every answer, AFTER seconds later.

It answers with the last message, so that each caller knows its own; GET /seen is what it saw, since it was asked last.
A process of its own: only then does it close while the gateway looks elsewhere. Standard library only.
"""

import json
import select
import socket
import sys
import threading
import time

MAX = 100
BACKLOG = 5
"""Connections that wait to be accepted, at a unix socket: httplib's default, CPPHTTPLIB_LISTEN_BACKLOG. Over TCP more,
as llama-server has it: there the kernel of whoever finds the line full waits for a second."""
KEEP = b"Keep-Alive: timeout=5, max=100\r\n"
STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n%b\r\n"
WHOLE = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n%b\r\n%b"


class Seen:
    """What came since the last look."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._connections = 0
        self._posts: list[str] = []
        self._latest = 0.0

    def connection(self) -> None:
        with self._lock:
            self._connections += 1

    def post(self, text: str) -> None:
        with self._lock:
            self._posts.append(text)

    def closing(self, after: float) -> None:
        with self._lock:
            self._latest = max(self._latest, after)

    def tell(self) -> dict[str, object]:
        """`latest`: the seconds after which it closed at the latest where it meant to after AFTER; a busy machine makes
        it late."""
        with self._lock:
            told: dict[str, object] = {
                "connections": self._connections,
                "posts": self._posts,
                "latest": self._latest,
            }
            self._connections, self._posts, self._latest = 0, [], 0.0
            return told


class Engine:
    def __init__(self, closes: str = "stream", after: float = 0.0, idle: float = 5.0) -> None:
        self._closes = closes
        self._after = after
        self._idle = idle
        self._seen = Seen()

    def serve(self, listener: socket.socket) -> None:
        while True:
            end = listener.accept()[0]
            threading.Thread(target=self._serve, args=(end,), daemon=True).start()

    def _serve(self, end: socket.socket) -> None:
        self._seen.connection()
        try:
            for left in range(MAX, 0, -1):
                if not select.select([end], [], [], self._idle)[0] or not self._answer(end, last=left == 1):
                    break
            end.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # the caller left
        finally:
            end.close()

    def _answer(self, end: socket.socket, *, last: bool) -> bool:
        """Whether it is kept."""
        line, body = _request(end)
        if not line.startswith(b"POST "):
            page = self._seen.tell() if line.startswith(b"GET /seen ") else {"status": "ok", "data": [{"id": "served"}]}
            end.sendall(_whole(page, b"Connection: close\r\n"))
            return False
        asked = json.loads(body)
        text = asked["messages"][-1]["content"]
        self._seen.post(text)
        keep = b"Connection: close\r\n" if last else KEEP
        began = time.monotonic()
        if asked.get("stream"):
            end.sendall(STREAM % keep)
            for event in _events(text):
                end.sendall(b"%x\r\n%b\r\n" % (len(event), event))
            end.sendall(b"0\r\n\r\n")
        else:
            end.sendall(
                _whole({"choices": [{"index": 0, "message": {"content": text}, "finish_reason": "stop"}]}, keep)
            )
        if self._closes == "all":
            time.sleep(self._after)
            self._seen.closing(time.monotonic() - began)
            return False
        return not asked.get("stream")


def _request(end: socket.socket) -> tuple[bytes, bytes]:
    """(request line, body). Raises OSError when the caller leaves."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += _more(end)
    head, _, body = data.partition(b"\r\n\r\n")
    lengths = [int(row[15:]) for row in head.split(b"\r\n") if row.lower().startswith(b"content-length:")]
    while lengths and len(body) < lengths[0]:
        body += _more(end)
    return head.partition(b"\r\n")[0], body


def _more(end: socket.socket) -> bytes:
    data = end.recv(1 << 16)
    if not data:
        raise ConnectionError
    return data


def _whole(page: object, keep: bytes) -> bytes:
    body = json.dumps(page).encode()
    return WHOLE % (len(body), keep, body)


def _events(text: str) -> list[bytes]:
    choices: list[dict[str, object]] = [{"delta": {"content": text}, "finish_reason": None}]
    choices.append({"delta": {}, "finish_reason": "stop"})
    chunks = [{"object": "chat.completion.chunk", "choices": [{"index": 0} | choice]} for choice in choices]
    return [b"data: %b\n\n" % json.dumps(chunk).encode() for chunk in chunks] + [b"data: [DONE]\n\n"]


def main() -> None:
    address, *words = sys.argv[1:]
    engine = Engine(*words[:1], *(float(word) for word in words[1:]))
    if address == "tcp":
        listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        print(listener.getsockname()[1], flush=True)
    else:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(address)
        listener.listen(BACKLOG)
        print(address, flush=True)
    engine.serve(listener)


if __name__ == "__main__":
    main()
