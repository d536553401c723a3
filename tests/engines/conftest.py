"""The gateway against real engines. Everything here runs once for each engine that is there.

llama-cpp-python always; llama-server where the marker `llama_server` is asked for (`make test-llama-server` builds it).
"""

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import pytest_asyncio

from gateway.process import loop_factory
from tests.support.real_house import ENGINES, Engine, RealHouse, find_llama_server, real_house


def pytest_asyncio_loop_factories(config: pytest.Config, item: pytest.Item) -> dict[str, Callable[[], object]]:
    """Production's own loop: uvloop tells of broken connections in other words than asyncio does."""
    return {"production": loop_factory}


@pytest.fixture(
    scope="module", params=["llama-cpp-python", pytest.param("llama-server", marks=pytest.mark.llama_server)]
)
def engine(request: pytest.FixtureRequest) -> Engine:
    if request.param == "llama-server" and find_llama_server() is None:
        pytest.fail("no llama-server: `make test-llama-server` builds one, WAKEGATE_TEST_LLAMA_SERVER names one")
    return ENGINES[request.param]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def demo_house(engine: Engine, demo_model: Path) -> AsyncIterator[RealHouse]:
    """One for all tests of a module, ready, with a tap on the line to the engine."""
    async with real_house(engine, demo_model, tapped=True) as house:
        await house.ready()
        yield house
