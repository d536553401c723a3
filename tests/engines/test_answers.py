"""What real engines answer comes through as the OpenAI SDK wants it: whole, streamed, and as an error."""

import openai
import pytest

from tests.support.real_house import RealHouse

pytestmark = [pytest.mark.engine, pytest.mark.asyncio(loop_scope="module")]

HELLO = [{"role": "user", "content": "Hello"}]


async def test_a_chat_answer_comes_whole(demo_house: RealHouse) -> None:
    async with demo_house.sdk() as client:
        answer = await client.chat.completions.create(model="any", messages=HELLO, max_tokens=8, temperature=0)
    assert answer.choices[0].message.content
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None and answer.usage.completion_tokens == 8


async def test_a_streamed_chat_says_the_same_piece_by_piece(demo_house: RealHouse) -> None:
    async with demo_house.sdk() as client:
        asked = {"model": "any", "messages": HELLO, "max_tokens": 8, "temperature": 0, "seed": 1}
        whole = await client.chat.completions.create(**asked)
        stream = await client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True})
        chunks = [chunk async for chunk in stream]
    pieces = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert "".join(pieces) == whole.choices[0].message.content
    assert sum(map(bool, pieces)) == 8
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "length"
    assert chunks[-1].usage is not None and chunks[-1].usage.completion_tokens == 8


async def test_completions_come_whole_and_streamed(demo_house: RealHouse) -> None:
    async with demo_house.sdk() as client:
        whole = await client.completions.create(model="any", prompt="Once", max_tokens=6, temperature=0)
        stream = await client.completions.create(model="any", prompt="Once", max_tokens=6, temperature=0, stream=True)
        pieces = [chunk.choices[0].text async for chunk in stream if chunk.choices]
    assert "".join(pieces) == whole.choices[0].text
    assert len(pieces) >= 6


async def test_embeddings_are_vectors_one_for_each_text(demo_house: RealHouse) -> None:
    async with demo_house.sdk() as client:
        answer = await client.embeddings.create(model="any", input=["one", "two", "one"])
    one, two, again = (item.embedding for item in answer.data)
    assert len(one) == 64
    assert one == pytest.approx(again, abs=1e-4)
    assert one != pytest.approx(two, abs=1e-4)


async def test_chat_still_works_after_embeddings(demo_house: RealHouse) -> None:
    async with demo_house.sdk() as client:
        await client.embeddings.create(model="any", input="one")
        answer = await client.chat.completions.create(model="any", messages=HELLO, max_tokens=3)
    assert answer.usage is not None and answer.usage.completion_tokens == 3


async def test_its_model_is_listed(demo_house: RealHouse) -> None:
    async with demo_house.sdk() as client:
        models = await client.models.list()
    assert [model.id for model in models.data] == ["demo"]


async def test_a_prompt_beyond_the_context_is_the_callers_mistake(demo_house: RealHouse) -> None:
    """400 with the code that SDKs and agents look for when they shorten a conversation."""
    async with demo_house.sdk() as client:
        with pytest.raises(openai.BadRequestError) as refused:
            await client.completions.create(model="any", prompt=[300] * (demo_house.engine.context + 1), max_tokens=1)
        assert refused.value.code == "context_length_exceeded"
        assert str(demo_house.engine.context) in refused.value.message
        again = await client.completions.create(model="any", prompt="short", max_tokens=1)
    assert again.choices


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_five_megabytes_of_conversation_are_refused_by_the_engine_not_lost(
    demo_house: RealHouse, stream: bool
) -> None:
    """A body of this size reaches the engine in full, and its 400 comes back as it would for a small one."""
    messages = [{"role": "user", "content": "kamkem dufa ror. " * 64_000 * 5}]
    async with demo_house.sdk() as client:
        with pytest.raises(openai.BadRequestError) as refused:
            await client.chat.completions.create(model="any", messages=messages, max_tokens=1, stream=stream)
    assert refused.value.code == "context_length_exceeded"
    assert len(demo_house.tap.posts[-1].body) > 5 << 20
    await demo_house.freed()


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": "hot"},
        {"messages": [{"role": "user", "content": 5}]},
        {"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "nonsense"}}}},
    ],
    ids=lambda wrong: next(iter(wrong)),
)
async def test_the_engines_other_refusals_keep_their_status_and_say_nothing_of_the_inside(
    demo_house: RealHouse, wrong: dict[str, object]
) -> None:
    async with demo_house.sdk() as client:
        with pytest.raises(openai.BadRequestError) as refused:
            await client.post("/chat/completions", body={"messages": HELLO, "max_tokens": 1} | wrong, cast_to=object)
    assert refused.value.code == "invalid_request"
    said = str(refused.value.body)
    assert "Traceback" not in said and ".py" not in said and str(demo_house.log.parent) not in said
