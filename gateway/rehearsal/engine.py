"""The engine of a rehearsal where none is installed: it answers every chat with one sentence, word by word.

    python -I -S engine.py PORT

Standard library only. It speaks as much of OpenAI's API as a gateway asks of an engine, and knows one model.
"""

import json
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

MODEL = "rehearsal"
WORDS = ["This", "is", "a", "rehearsal:", "no", "GPU", "was", "rented", "for", "this", "answer."]
BETWEEN = 0.05
"""Seconds between two words."""
MOST = 1 << 20


class Answers(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.path == "/v1/models":
            self._whole({"object": "list", "data": [{"id": MODEL, "object": "model"}]})
        else:
            self._whole({"status": "ok"})

    def do_POST(self) -> None:
        try:
            asked = json.loads(self.rfile.read(min(int(self.headers.get("Content-Length", 0)), MOST)))
        except ValueError:
            asked = {}
        if isinstance(asked, dict) and asked.get("stream") is True:
            self._stream()
        else:
            message = {"role": "assistant", "content": " ".join(WORDS)}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            usage = {"prompt_tokens": 1, "completion_tokens": len(WORDS), "total_tokens": len(WORDS) + 1}
            self._whole({"id": "r", "object": "chat.completion", "model": MODEL, "choices": [choice], "usage": usage})

    def _whole(self, content: object) -> None:
        body = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _stream(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        for number, word in enumerate(WORDS):
            self._chunk({"content": f" {word}" if number else word}, None)
            time.sleep(BETWEEN)
        self._chunk({}, "stop")
        self.wfile.write(b"data: [DONE]\n\n")
        self.close_connection = True

    def _chunk(self, delta: object, reason: str | None) -> None:
        choice = {"index": 0, "delta": delta, "finish_reason": reason}
        chunk = {"id": "r", "object": "chat.completion.chunk", "model": MODEL, "choices": [choice]}
        self.wfile.write(b"data: " + json.dumps(chunk).encode() + b"\n\n")
        self.wfile.flush()

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: the gateway tells of every request."""


if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Answers).serve_forever()
