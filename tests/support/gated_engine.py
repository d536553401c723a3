"""An engine that starts when it is let: it serves once FOLDER/open is there. Standard library only.

    python -I -S gated_engine.py SOCKET FOLDER

Each start adds a line to FOLDER/starts, and each POST the first word of its prompt to FOLDER/asked, in the order in
which they came. The answer is that word, streamed where that was asked for.
"""

import asyncio
import json
import sys
from pathlib import Path

FOLDER = Path(sys.argv[2])
HEAD = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: "


def add(name: str, line: str) -> None:
    with (FOLDER / name).open("a") as file:
        file.write(line + "\n")


def answer(path: bytes, body: bytes) -> bytes:
    if not body:
        said = {"data": [{"id": "gated"}]} if path == b"/v1/models" else {"status": "ok"}
        return whole(said)
    asked = json.loads(body)
    word = asked["messages"][0]["content"].split()[0]
    add("asked", word)
    if not asked.get("stream"):
        message = {"role": "assistant", "content": word}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return whole({"id": "c", "object": "chat.completion", "choices": [choice]})
    choice = {"index": 0, "delta": {"content": word}, "finish_reason": "stop"}
    events = f"data: {json.dumps({'id': 'c', 'object': 'chat.completion.chunk', 'choices': [choice]})}\n\n"
    return HEAD + b"text/event-stream\r\n\r\n" + events.encode() + b"data: [DONE]\n\n"


def whole(said: object) -> bytes:
    data = json.dumps(said).encode()
    return HEAD + b"application/json\r\nContent-Length: %d\r\n\r\n" % len(data) + data


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        head = await reader.readuntil(b"\r\n\r\n")
        lengths = [int(row[15:]) for row in head.split(b"\r\n") if row.lower().startswith(b"content-length:")]
        body = await reader.readexactly(lengths[0]) if lengths else b""
        writer.write(answer(head.split(b" ")[1], body))
        await writer.drain()
    except (ConnectionError, asyncio.IncompleteReadError):
        pass  # whoever looks whether somebody listens says nothing
    finally:
        writer.close()


async def main() -> None:
    add("starts", "started")
    while not (FOLDER / "open").exists():
        await asyncio.sleep(0.02)
    server = await asyncio.start_unix_server(serve, sys.argv[1], backlog=256)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
