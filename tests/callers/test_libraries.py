"""LangChain and LiteLLM as callers, and SDKs that really wait: `make test-sdks`. 420 MB, and slow to import."""

import asyncio

import pytest

from gateway.providers.base import Ready
from tests.callers.expected import LIBRARIES, SDKS
from tests.callers.stage import TEXT, Told, calls_of, dialects_of, have_called, play_all, say_hello
from tests.support.house import house

pytestmark = pytest.mark.sdks

CALLS = [
    pytest.param(library, row, streamed, id=f"{library}-{row.phase}-{'streamed' if streamed else 'whole'}")
    for library in LIBRARIES
    for row, _, streamed in calls_of(library)
]


@pytest.fixture(scope="module")
def told() -> dict[str, dict[str, Told]]:
    return asyncio.run(play_all(LIBRARIES))


@pytest.mark.parametrize(("library", "row", "streamed"), CALLS)
def test_a_library_says_what_the_table_says(told, library, row, streamed) -> None:
    """The answer, or an error that has the gateway's own message, after the right number of tries.

    LiteLLM has classes and codes of its own, and none of them is looked at.
    """
    wanted = row.heard(streamed)
    said = told[library][f"{row.phase}-chat-{'streamed' if streamed else 'whole'}"]
    heard = said.sdk
    story = f"{heard}\nthe gateway saw {said.visits}"
    if wanted.code:
        assert heard.get("error") and heard["text"] == "", story
        refusal = said.visits[-1].reply.refused
        assert (refusal.message if refusal is not None else "Too long.") in heard["message"], story
        if wanted.status is not None:
            assert heard["status"] == wanted.status, story
    else:
        assert not heard.get("error"), story
        assert heard["text"] == ("Hello from afar" if wanted.elsewhere else TEXT), story
    assert len(said.visits) == wanted.tries, story
    assert said.engine_posts == (1 if wanted.at_engine else 0), story


@pytest.mark.parametrize("sdk", SDKS)
async def test_an_sdk_stays_away_for_as_long_as_it_is_told(sdk, monkeypatch) -> None:
    """Without its clock put forward: two seconds."""
    monkeypatch.setenv("CLOCK", "real")
    async with house(ready_at_once=False, script=say_hello, rejects=True, usual_start=1.5) as h:
        h.visits.on_end = lambda visit: h.provider.tell(Ready(models=("served",)))
        call = {"id": "", "url": f"http://127.0.0.1:{h.port}", "dialect": dialects_of(sdk)[0], "stream": False}
        said = (await have_called(sdk, [call]))[""]
        assert said["text"] == TEXT, said
        first, second = h.visits
        assert said["waits"] == [2.0]
        assert second.began - first.began >= 1.99
