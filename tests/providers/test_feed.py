"""News between the task that sees them and the watcher."""

import asyncio

from gateway.providers.base import Gone, Loading, News, Ready
from gateway.providers.feed import Feed


async def everything(feed: Feed) -> list[News]:
    return [news async for news in feed.read()]


async def test_progress_that_nobody_read_is_replaced_by_newer() -> None:
    """A slow watcher hears where loading is, not where it was."""
    feed = Feed()
    for ratio in (0.1, 0.2, 0.3):
        feed.tell(Loading("loading", ratio))
    feed.tell(Ready())
    feed.tell(Gone("x."))
    assert await everything(feed) == [Loading("loading", 0.3), Ready(), Gone("x.")]


async def test_nothing_is_told_twice_in_a_row() -> None:
    feed = Feed()
    feed.tell(Ready())
    feed.tell(Ready())
    feed.tell(Gone("x."))
    assert await everything(feed) == [Ready(), Gone("x.")]


async def test_nothing_comes_after_the_end() -> None:
    feed = Feed()
    feed.tell(Gone("first."))
    feed.tell(Gone("second."))
    feed.tell(Ready())
    assert await everything(feed) == [Gone("first.")]


async def test_a_waiting_watcher_hears_at_once() -> None:
    feed = Feed()
    reading = asyncio.ensure_future(everything(feed))
    await asyncio.sleep(0)
    feed.tell(Loading("booting"))
    await asyncio.sleep(0)
    feed.tell(Gone("x."))
    assert await reading == [Loading("booting"), Gone("x.")]


async def test_every_watcher_hears_the_end() -> None:
    feed = Feed()
    feed.tell(Gone("x."))
    assert await everything(feed) == await everything(feed) == [Gone("x.")]
