"""LOADING_TEXT with real engines: what was shown while one started, and its own answer, are one answer to the SDK."""

from pathlib import Path
from typing import Any

import pytest

from tests.support.real_house import Engine, RealHouse, real_house

pytestmark = pytest.mark.engine

ASKED: dict[str, Any] = {
    "model": "gpt-4o",
    "messages": [{"role": "user", "content": "Hello"}],
    "max_tokens": 8,
    "temperature": 0,
    "seed": 1,
    "stream_options": {"include_usage": True},
}


async def answer_of(house: RealHouse) -> tuple[dict[str, Any], set[str]]:
    """The whole answer as the SDK adds it up, and the ids of its chunks."""
    async with house.sdk() as client, client.chat.completions.stream(**ASKED) as stream:
        ids = {event.chunk.id async for event in stream if event.type == "chunk"}
        return stream.current_completion_snapshot.to_dict(), ids  # the final one refuses answers of a length


async def test_a_cold_answer_is_the_warm_one_with_the_text_beside_it(engine: Engine, demo_model: Path) -> None:
    async with real_house(engine, demo_model, grace=0.0, heartbeat=0.02, shows_loading=True) as house:
        cold, ids = await answer_of(house)
        warm, _ = await answer_of(house)
    assert ids == {cold["id"]} and cold["model"] == "gpt-4o" != warm["model"]
    (said,), (own,) = cold["choices"], warm["choices"]
    shown = said["message"].pop("reasoning_content")
    own["message"].pop("reasoning_content", None)
    assert shown.endswith(("Ready.\n\n", "Ready, working on the prompt  \n\n")) and "Loading the model" in shown
    assert said["message"] == own["message"] and said["finish_reason"] == own["finish_reason"] == "length"
    assert cold["usage"]["completion_tokens"] == warm["usage"]["completion_tokens"] == 8
