"""An engine that is nothing but quick, for soaks: answers by what stands in the prompt. Standard library only.

    python -I -S quick_engine.py SOCKET [SECONDS before it listens]

`fail` in the prompt: 500; `slow`: a stream that goes on until its caller leaves; else one answer, with `usage`,
streamed where it is asked for; with `a moment` in the prompt not at once, so that there is a speed to speak of.
"""

import asyncio
import json
import sys

USAGE = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
WHOLE = json.dumps(
    {
        "id": "c",
        "object": "chat.completion",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hello"}, "finish_reason": "stop"}],
        "usage": USAGE,
    }
).encode()
CHUNK = {"id": "c", "object": "chat.completion.chunk", "choices": [{"index": 0, "delta": {"content": "Hi"}}]}
LAST = {"id": "c", "object": "chat.completion.chunk", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
EVENT = b"data: " + json.dumps(CHUNK).encode() + b"\n\n"
A_MOMENT = 0.02
"""Seconds: far more than the millisecond below which no speed is counted."""
STREAM = EVENT * 2 + b"data: " + json.dumps(LAST | {"usage": USAGE}).encode() + b"\n\ndata: [DONE]\n\n"
HEAD = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: "
JSON = HEAD + b"application/json\r\nContent-Length: %d\r\n\r\n"
SSE = HEAD + b"text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def whole(body: bytes) -> bytes:
    return JSON % len(body) + body


class Connection(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.data = b""

    def data_received(self, data: bytes) -> None:
        self.data += data
        head, found, body = self.data.partition(b"\r\n\r\n")
        if not found:
            return
        length = next((int(row[15:]) for row in head.split(b"\r\n") if row.lower().startswith(b"content-length:")), 0)
        if len(body) >= length:
            self.answer(head.split(b" ")[1], body)

    def answer(self, path: bytes, body: bytes) -> None:
        if path == b"/v1/models":
            self.end(whole(b'{"data":[{"id":"quick"}]}'))
        elif not path.startswith(b"/v1/"):
            self.end(whole(b'{"status":"ok"}'))
        elif b"fail" in body:
            self.end(b"HTTP/1.1 500 X\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}")
        elif b"slow" in body:
            self.transport.write(SSE + b"%x\r\n%b\r\n" % (len(EVENT), EVENT))
        elif b'"stream":true' in body.replace(b" ", b""):
            self.end(SSE + b"%x\r\n%b\r\n0\r\n\r\n" % (len(STREAM), STREAM))
        elif b"a moment" in body:
            asyncio.get_running_loop().call_later(A_MOMENT, self.end, whole(WHOLE))
        else:
            self.end(whole(WHOLE))

    def end(self, data: bytes) -> None:
        self.transport.write(data)
        self.transport.close()


async def main() -> None:
    await asyncio.sleep(float(sys.argv[2]) if len(sys.argv) > 2 else 0.0)
    server = await asyncio.get_running_loop().create_unix_server(Connection, sys.argv[1], backlog=256)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
