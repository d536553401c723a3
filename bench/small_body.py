"""What it costs to read and check a small JSON body: microseconds of CPU time, the best of some rounds.

    python bench/small_body.py

One row per kind of body: from what the server's parser holds to a `Body` that can be sent, and of that the check alone,
by pydantic's parser and by Python's (which judges what pydantic's doubts).
"""

import asyncio
import json
import time
from collections.abc import Callable

from aiohttp import StreamReader, web
from aiohttp.base_protocol import BaseProtocol
from aiohttp.test_utils import make_mocked_request

from gateway.proxy.bodies import Bodies, BodyLimits
from gateway.proxy.checker import Checker
from gateway.proxy.checks import Rules, check

ROUTE = "/v1/chat/completions"
TIMES, ROUNDS = 1000, 15


def kinds() -> dict[str, bytes]:
    """Bodies as clients send them, of about 1 KB each."""
    answers = [
        {"role": ("user", "assistant")[turn % 2], "content": 'Tell me more of "it", please.\nThank you, Zoë. ' * 3}
        for turn in range(5)
    ]
    conversation = {
        "messages": [{"role": "system", "content": "You are a helpful assistant."}, *answers],
        "model": "some-model",
        "temperature": 0.7,
        "max_tokens": 256,
        "stream": True,
    }
    question = {"model": "some-model", "messages": [{"role": "user", "content": "words " * 160}], "stream": True}
    compact = (",", ":")
    return {
        "a question": json.dumps(question, separators=compact).encode(),
        "a conversation": json.dumps(conversation, separators=compact, ensure_ascii=False).encode(),
        "a conversation, spaced": json.dumps(conversation, ensure_ascii=False).encode(),
        "a conversation, escaped": json.dumps(conversation).encode(),
    }


def best(work: Callable[[], object]) -> float:
    """Seconds of one time."""
    found = []
    for _ in range(ROUNDS):
        began = time.process_time()
        for _ in range(TIMES):
            work()
        found.append((time.process_time() - began) / TIMES)
    return min(found)


def request_with(raw: bytes) -> web.BaseRequest:
    """As the server hands it over when the body came with the head."""
    loop = asyncio.get_running_loop()
    content = StreamReader(BaseProtocol(loop), 1 << 18, loop=loop)
    content.feed_data(raw)
    content.feed_eof()
    head = {"Host": "a", "Content-Type": "application/json", "Content-Length": str(len(raw))}
    return make_mocked_request("POST", ROUTE, headers=head, payload=content)


async def read(raw: bytes) -> float:
    bodies = Bodies(BodyLimits(size=1 << 20), Checker(Rules()))
    found = []
    for _ in range(ROUNDS):
        requests = [request_with(raw) for _ in range(TIMES)]
        began = time.process_time()
        for request in requests:
            await bodies.read(request, ROUTE)
        found.append((time.process_time() - began) / TIMES)
    await bodies.close()
    return min(found)


def main() -> None:
    rules = Rules()
    print(f"{'µs':26}bytes   read and check   check   by Python's parser")
    for name, raw in kinds().items():
        whole = asyncio.run(read(raw))
        alone = best(lambda raw=raw: check(raw, ROUTE, rules))  # type: ignore[misc]
        slow = best(lambda raw=raw: check(raw, ROUTE, rules, quickly=False))  # type: ignore[misc]
        print(f"{name:26}{len(raw):5}{whole * 1e6:17.1f}{alone * 1e6:8.1f}{slow * 1e6:21.1f}")


if __name__ == "__main__":
    main()
