"""What curl hears while the model wakes: it obeys Retry-After as SDKs do, where it is told to try again."""

import asyncio
import json

from gateway.providers.base import Ready
from tests.callers.stage import CALM, ENOUGH, TEXT, say_hello
from tests.support.house import CHAT, KEY, STREAMED, House, house

HELD = CALM | {"ready_at_once": False, "script": say_hello, "grace": 0.01, "heartbeat": 0.02, "hold_max": ENOUGH}


async def curl(h: House, body: object, *options: str) -> tuple[int, str, str]:
    """(exit code, output, errors)."""
    command = ["curl", "-sS", "--max-time", str(ENOUGH), *options, f"http://127.0.0.1:{h.port}/v1/chat/completions"]
    command += ["-H", f"Authorization: Bearer {KEY}", "-H", "Content-Type: application/json", "-d", json.dumps(body)]
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await process.communicate()
    return process.returncode or 0, out.decode(), err.decode()


async def waits(h: House) -> None:
    """Until it does, and a stream has heard something."""
    await h.until(lambda: h.conductor.snapshot().waiting, ENOUGH)
    for _ in range(3):
        await asyncio.sleep(0.05)


def ready(h: House) -> None:
    h.provider.tell(Ready(models=("served",)))


async def test_a_stream_shows_its_comments_and_then_the_models_own_bytes() -> None:
    async with house(**HELD) as h:
        asked = asyncio.create_task(curl(h, STREAMED, "-N"))
        await waits(h)
        ready(h)
        code, out, err = await asked
        assert (code, err) == (0, "")
        events = out.split("\n\n")
        comments = [event for event in events if event.startswith(": ")]
        assert len(comments) >= 3
        assert events[: len(comments)] == comments, "what the model says stands after all of them"
        assert events[-2:] == ["data: [DONE]", ""]


async def test_an_answer_in_one_piece_comes_when_it_is_ready() -> None:
    async with house(**HELD) as h:
        asked = asyncio.create_task(curl(h, CHAT))
        await waits(h)
        ready(h)
        code, out, err = await asked
        assert (code, err) == (0, "")
        assert json.loads(out)["choices"][0]["message"]["content"] == TEXT


async def test_with_retry_it_comes_back_when_the_gateway_says() -> None:
    async with house(**(HELD | {"rejects": True, "usual_start": 1.0})) as h:
        h.visits.on_end = lambda visit: ready(h) if visit.code else None
        code, out, _ = await curl(h, CHAT, "--retry", "3")
        assert (code, json.loads(out[out.rindex('{"id"') :])["choices"][0]["message"]["content"]) == (0, TEXT)
        assert [visit.code for visit in h.visits] == ["loading", ""]


async def test_without_retry_it_shows_the_error() -> None:
    async with house(**(HELD | {"rejects": True})) as h:
        code, out, _ = await curl(h, CHAT, "--fail-with-body")
        assert (code, json.loads(out)["error"]["code"]) == (22, "loading")
