"""Our llama.cpp child answers in the shape in which llama-server does: nothing is there under another name or type."""

from pathlib import Path

import pytest

from tests.support.real_house import ENGINES, RealHouse, find_llama_server, real_house

pytestmark = [pytest.mark.engine, pytest.mark.llama_server]

ASKED = {"model": "any", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 3, "temperature": 0}
NOT_OPENAI = {"timings", "__verbose", "system_fingerprint", "prompt_tokens_details", "id_slot"}
"""What llama-server adds of its own, or the API leaves open."""


def shape(value: object) -> object:
    """Names and types; of a list its first element."""
    if isinstance(value, dict):
        return {name: shape(each) for name, each in sorted(value.items()) if name not in NOT_OPENAI}
    if isinstance(value, list):
        return [shape(value[0])] if value else []
    return "number" if isinstance(value, int | float) and not isinstance(value, bool) else type(value).__name__


async def shapes(house: RealHouse) -> dict[str, object]:
    async with house.sdk() as client:
        chat = await client.chat.completions.create(**ASKED)
        stream = await client.chat.completions.create(**ASKED, stream=True, stream_options={"include_usage": True})
        chunks = [chunk async for chunk in stream]
        text = await client.completions.create(model="any", prompt="Once", max_tokens=3)
        vector = await client.embeddings.create(model="any", input=["one"], encoding_format="float")
    words = next(chunk for chunk in chunks if chunk.choices and chunk.choices[0].delta.content)
    found = {"chat": chat, "words": words, "last": chunks[-1], "text": text, "vector": vector}
    return {name: shape(each.model_dump(exclude_none=True)) for name, each in found.items()}


async def test_our_childs_answers_have_llama_servers_shape(demo_model: Path) -> None:
    assert find_llama_server() is not None, "`make test-llama-server` builds one"
    seen = {}
    for name in ("llama-cpp-python", "llama-server"):
        async with real_house(ENGINES[name], demo_model) as house:
            await house.ready()
            seen[name] = await shapes(house)
    assert seen["llama-cpp-python"] == seen["llama-server"]
