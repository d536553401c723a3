"""Two gateways on real processes that share a real Redis: one pod for both."""

import concurrent.futures
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.landlord import CHAT, Landlord, landlord, renting
from tests.support.redis_server import RedisServer
from tests.support.worker import free_port

pytestmark = pytest.mark.minutes


@pytest.fixture
def rents(tmp_path: Path) -> Iterator[Landlord]:
    with landlord(tmp_path / "pods") as made:
        yield made


def test_two_gateways_that_share_a_redis_rent_one_pod_and_the_last_gives_it_back(
    tmp_path: Path, rents: Landlord
) -> None:
    port = free_port()
    with (
        RedisServer(tmp_path, "--port", str(port)),
        renting(tmp_path, rents, "one", STATE_URL=f"redis://127.0.0.1:{port}/0") as one,
        renting(tmp_path, rents, "other", STATE_URL=f"redis://127.0.0.1:{port}/0") as other,
        concurrent.futures.ThreadPoolExecutor(2) as pool,
    ):
        asked = [pool.submit(gateway.post, "/v1/chat/completions", CHAT, timeout=170) for gateway in (one, other)]
        assert [call.result()[0] for call in asked] == [200, 200]
        assert rents.actions() == ["POST /v2/pods/abc123/action"] and rents.begun == 1, "one start"
        assert one.stop(within=90) == 0
        assert rents.running == ["abc123"], "the other one still wants it"
        assert other.post("/v1/chat/completions", CHAT, timeout=120)[0] == 200
        assert other.stop(within=90) == 0
        assert rents.running == []
