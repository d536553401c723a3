"""The SDK matrix: every SDK that people call with, stream and not, in each phase of a model that wakes.

What they should hear stands in expected.py; it is the same for all. All calls of all SDKs run at once, one process per
SDK; each test looks at one of them.
"""

import asyncio

import pytest

from gateway.web.patience import EDGE_HOLD
from tests.callers.expected import SDKS
from tests.callers.stage import TEXT, Told, calls_of, play_all

CALLS = [
    pytest.param(sdk, row, dialect, streamed, id=f"{sdk}-{row.phase}-{dialect}-{'streamed' if streamed else 'whole'}")
    for sdk in SDKS
    for row, dialect, streamed in calls_of(sdk)
]


@pytest.fixture(scope="module")
def told() -> dict[str, dict[str, Told]]:
    return asyncio.run(play_all())


@pytest.mark.parametrize(("sdk", "row", "dialect", "streamed"), CALLS)
def test_a_caller_hears_what_the_table_says(told, sdk, row, dialect, streamed) -> None:
    """The answer or the error, after the right number of tries, and each wait as the gateway asked for."""
    wanted = row.heard(streamed)
    said = told[sdk][f"{row.phase}-{dialect}-{'streamed' if streamed else 'whole'}"]
    heard = said.sdk
    story = f"{heard}\nthe gateway saw {said.visits}"

    if wanted.code:
        assert heard.get("error"), f"it has an answer: {story}"
        assert (heard["status"], heard["code"]) == (wanted.status, wanted.code), story
        assert heard["text"] == "", story
    else:
        assert not heard.get("error"), story
        assert heard["text"] == ("Hello from afar" if wanted.elsewhere else TEXT), story
    assert bool(heard["thought"]) == wanted.shown, story
    assert len(said.visits) == wanted.tries, story
    assert [visit.code for visit in said.visits[:-1]] == [wanted.refused] * (wanted.tries - 1), story
    asked = [dict(visit.reply.refused.head()).get("Retry-After") for visit in said.visits[:-1]]
    assert [wait for wait, said_so in zip(heard["waits"], asked, strict=True) if said_so] == [
        float(seconds) for seconds in asked if seconds
    ], story
    assert all(wait <= 60 for wait in heard["waits"]), story
    assert said.engine_posts == (1 if wanted.at_engine else 0), story
    if wanted.held:
        assert said.visits[-1].reply.bytes_sent > (0 if wanted.code else said.engine_bytes), story


@pytest.mark.parametrize("sdk", [sdk for sdk in SDKS if "openai" in sdk])
def test_two_retries_reach_as_far_as_the_page_says(told, sdk) -> None:
    """A start that usually takes longer than a minute: three holds, and a minute twice in between."""
    said = told[sdk]["beyond-tries-chat-whole"]
    assert len(said.visits) * EDGE_HOLD + sum(said.sdk["waits"]) == 375.0
