"""The loops that a test may run on: asyncio's, and uvloop's, which production uses.

They tell of a closed, a full or a broken connection at other moments and in other words. A folder whose `conftest.py`
imports `pytest_asyncio_loop_factories` from here runs a test on both where that names both: `BOTH_LOOPS`.
"""

import asyncio
from collections.abc import Callable

import pytest
import uvloop

BOTH_LOOPS = pytest.mark.asyncio(loop_factories=["asyncio", "uvloop"])


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """asyncio's for all; both where a test names both."""
    loops: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {"asyncio": asyncio.new_event_loop}
    if any("loop_factories" in marker.kwargs for marker in item.iter_markers("asyncio")):
        loops["uvloop"] = uvloop.new_event_loop
    return loops
