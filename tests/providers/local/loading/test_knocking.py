"""Knocking: an engine that begins to listen is heard, and nobody is bothered before."""

import asyncio
import socket
from pathlib import Path

import pytest

from gateway.providers.base import Endpoint
from gateway.providers.local.loading.knocking import LATEST, SOONEST, listens, pace, until_listening


def test_nobody_listens_where_there_is_no_socket_or_a_stale_one(tmp_path: Path) -> None:
    stale = tmp_path / "stale.sock"
    with socket.socket(socket.AF_UNIX) as once:
        once.bind(str(stale))
    assert not listens(Endpoint("http://localhost", socket=str(stale)))
    assert not listens(Endpoint("http://localhost", socket=str(tmp_path / "none.sock")))


def test_a_socket_that_is_bound_and_does_not_listen_yet_is_nobody(tmp_path: Path) -> None:
    path = tmp_path / "engine.sock"
    with socket.socket(socket.AF_UNIX) as engine:
        engine.bind(str(path))
        assert not listens(Endpoint("http://localhost", socket=str(path)))
        engine.listen()
        assert listens(Endpoint("http://localhost", socket=str(path)))


def test_a_port_is_knocked_at_as_well() -> None:
    with socket.create_server(("127.0.0.1", 0)) as engine:
        endpoint = Endpoint(f"http://127.0.0.1:{engine.getsockname()[1]}")
        assert listens(endpoint)
    assert not listens(endpoint)


@pytest.mark.parametrize(
    ("elapsed", "pause"), [(0.0, SOONEST), (0.1, SOONEST), (1.0, 0.01), (2.0, LATEST), (600, LATEST)]
)
def test_the_longer_a_start_takes_the_less_often_it_is_knocked(elapsed: float, pause: float) -> None:
    assert pace(elapsed) == pytest.approx(pause)


async def test_who_begins_to_listen_is_heard(tmp_path: Path) -> None:
    path = tmp_path / "engine.sock"
    heard = asyncio.create_task(
        until_listening(Endpoint("http://localhost", socket=str(path)), asyncio.get_running_loop().time())
    )
    await asyncio.sleep(0)
    assert not heard.done()
    with socket.socket(socket.AF_UNIX) as engine:
        engine.bind(str(path))
        engine.listen()
        async with asyncio.timeout(10):
            await heard
