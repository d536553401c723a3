"""Real engines for rules that are about what engines say: asked straight, with nothing of ours between."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from tests.support.llama import Answer, llama_server_on_a_port, ready_child
from tests.support.loops import pytest_asyncio_loop_factories  # noqa: F401  a hook
from tests.support.real_house import find_llama_server

Ask = Callable[[str, Answer], Awaitable[bytes]]
"""(path, body) → the body of the 200."""


@pytest.fixture(
    scope="package", params=["llama-cpp-python", pytest.param("llama-server", marks=pytest.mark.llama_server)]
)
def ask(request: pytest.FixtureRequest, demo_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ask]:
    if request.param == "llama-cpp-python":
        with ready_child(tmp_path_factory.mktemp("child"), demo_model, "--ctx", "2048") as child:
            yield _asking(child.client)
        return
    binary = find_llama_server()
    if binary is None:
        pytest.fail("no llama-server: `make test-llama-server` builds one, WAKEGATE_TEST_LLAMA_SERVER names one")
    with llama_server_on_a_port(binary, demo_model) as url:

        @asynccontextmanager
        async def client() -> AsyncIterator[aiohttp.ClientSession]:
            async with aiohttp.ClientSession(base_url=url) as session:
                yield session

        yield _asking(client)


def _asking(client: Callable[[], AbstractAsyncContextManager[aiohttp.ClientSession]]) -> Ask:
    async def ask(path: str, body: Answer) -> bytes:
        async with client() as session, session.post(path, json=body) as answer:
            assert answer.status == 200, await answer.text()
            return await answer.read()

    return ask
