"""The loops that a test of this room may run on: asyncio's, and uvloop's, which production uses."""

from tests.support.loops import pytest_asyncio_loop_factories  # noqa: F401  a hook
