"""`/metrics?engine=1` with real engines: what they show is passed on, and asking for it is no use of them."""

import pytest

from tests.support.real_house import Engine, RealHouse
from tests.support.wire import get_page

pytestmark = [pytest.mark.engine, pytest.mark.asyncio(loop_scope="module")]


async def test_an_engines_own_metrics_are_shown_where_it_has_some(demo_house: RealHouse, engine: Engine) -> None:
    used = demo_house.conductor.snapshot().last_activity
    status, _, body = await get_page(demo_house.port, "/metrics?engine=1")
    if engine.name == "llama-server":
        assert status == 200 and b"\nllamacpp:requests_processing " in body
    else:
        assert status == 404 and b'"code":"route_not_supported"' in body
    assert demo_house.conductor.snapshot().last_activity == used
