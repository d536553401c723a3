"""What the tests of this room share."""

from collections.abc import AsyncIterator

import pytest

from tests.support.hub import FakeHub, fake_hub


@pytest.fixture
async def hub() -> AsyncIterator[FakeHub]:
    """The Hub, as far as huggingface_hub can tell."""
    async with fake_hub() as running:
        yield running
