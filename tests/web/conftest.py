"""The loops that a test of this room may run on: asyncio's, and uvloop's, which production uses."""

import asyncio
from collections.abc import Callable

import pytest
import uvloop


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """asyncio's for all; both where a test names both: `@pytest.mark.asyncio(loop_factories=["asyncio", "uvloop"])`."""
    loops: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {"asyncio": asyncio.new_event_loop}
    if any("loop_factories" in marker.kwargs for marker in item.iter_markers("asyncio")):
        loops["uvloop"] = uvloop.new_event_loop
    return loops
