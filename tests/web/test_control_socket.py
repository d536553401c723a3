"""The command line's way in: who may, what is answered, and that it is gone when the gateway is."""

import asyncio
import json
import os
import socket
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from gateway.orders import address_of, peer_of
from gateway.policy.lifecycle.machine import TurnedAway
from gateway.policy.lifecycle.states import State
from gateway.providers.base import Profile
from gateway.web.control_socket import AT_ONCE, QUESTION_MOST, ControlSocket
from tests.support.house import House, house


async def dial(path: Path) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    with address_of(path) as address:
        return await asyncio.open_unix_connection(address)


@dataclass
class Line:
    """A gateway, and the socket to it."""

    home: House
    door: ControlSocket

    async def ask(self, question: object) -> dict[str, Any]:
        reader, writer = await dial(self.door.path)
        writer.write((question if isinstance(question, bytes) else json.dumps(question).encode()) + b"\n")
        answer: dict[str, Any] = json.loads(await reader.readline())
        writer.close()
        return answer


@asynccontextmanager
async def line(folder: Path, **sizes: Any) -> AsyncIterator[Line]:
    async with house(**sizes) as h:
        door = ControlSocket(h.control, folder, 8000)
        await door.open()
        try:
            yield Line(h, door)
        finally:
            await door.close()


async def test_nobody_else_may_speak_there_and_it_goes_with_the_gateway(tmp_path: Path) -> None:
    async with line(tmp_path) as on:
        assert on.door.path == tmp_path / "control-8000.sock"
        seen = on.door.path.stat()
        assert stat.S_ISSOCK(seen.st_mode) and stat.S_IMODE(seen.st_mode) == 0o600
    assert not on.door.path.exists()


async def test_what_a_killed_gateway_left_is_no_hindrance(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as left, address_of(tmp_path / "control-8000.sock") as address:
        left.bind(address)
    async with line(tmp_path) as on:
        assert (await on.ask({"do": "status"}))["ok"] is True


async def test_a_gateway_in_a_folder_that_is_gone_cannot_open_it(tmp_path: Path) -> None:
    async with house() as h:
        door = ControlSocket(h.control, tmp_path / "gone", 8000)
        with pytest.raises(OSError):
            await door.open()
        await door.close()


async def test_it_wakes_and_puts_to_sleep_and_tells_how_it_is(tmp_path: Path) -> None:
    async with line(tmp_path) as on:
        assert (await on.ask({"do": "status"}))["told"]["state"] == "stopped"
        assert (await on.ask({"do": "wake"}))["told"]["state"] == "starting"
        await on.home.until(lambda: on.home.state is State.READY)
        told = (await on.ask({"do": "status"}))["told"]
        assert (told["state"], told["models"], told["instance"]["id"]) == ("ready", ["served"], "stub-1")
        assert (await on.ask({"do": "sleep"}))["told"]["state"] == "stopping"
        await on.home.until(lambda: on.home.state is State.STOPPED)
        assert on.home.said == ["woken by the command line", "told to sleep by the command line"]


async def test_it_keeps_warm_and_ends_that(tmp_path: Path) -> None:
    async with line(tmp_path) as on:
        told = (await on.ask({"do": "keep-warm", "for": 7200}))["told"]
        assert told["warm_by"] == "keep-warm" and told["warm_until"] is not None
        assert (await on.ask({"do": "keep-warm", "for": None}))["told"]["warm_until"] is None


@pytest.mark.parametrize("wish", ["2h", True, 0, -1, [], 1e12])
async def test_what_is_no_time_keeps_nothing_warm(tmp_path: Path, wish: object) -> None:
    async with line(tmp_path) as on:
        answer = await on.ask({"do": "keep-warm", "for": wish})
        assert (answer["ok"], answer["code"]) == (False, "invalid_request")
        assert on.home.conductor.snapshot().warm_until is None and on.home.provider.starts == 0


async def test_a_refusal_is_told_with_its_code(tmp_path: Path) -> None:
    spent = TurnedAway("insufficient_quota", "The month's budget is spent.", None)
    async with line(tmp_path, closed=lambda: spent) as on:
        assert await on.ask({"do": "wake"}) == {"ok": False, "code": "insufficient_quota", "message": spent.reason}
        assert on.home.provider.starts == 0


async def test_what_was_spent_is_told_where_something_is_rented(tmp_path: Path) -> None:
    async with line(tmp_path, money=lambda: {"spent": 3.1}) as on:
        assert (await on.ask({"do": "spend"}))["told"] == {"spent": 3.1}
    async with line(tmp_path) as on:
        assert (await on.ask({"do": "spend"}))["ok"] is False


@pytest.mark.parametrize(
    "question", [b"", b"{", b"[]", b"5", b'"status"', {}, {"do": "dance"}, {"do": ["status"]}, {"do": None}]
)
async def test_what_is_no_order_does_nothing(tmp_path: Path, question: object) -> None:
    async with line(tmp_path) as on:
        answer = await on.ask(question)
        assert (answer["ok"], answer["code"]) == (False, "invalid_request")
        assert on.home.said == [] and on.home.ends == []


async def test_too_long_a_question_gets_no_answer(tmp_path: Path) -> None:
    async with line(tmp_path) as on:
        reader, writer = await dial(on.door.path)
        writer.write(b"x" * (3 * QUESTION_MOST) + b"\n")
        try:
            assert await reader.read() == b""
        except ConnectionResetError:
            pass  # it closed with some of it unread
        writer.close()
        assert (await on.ask({"do": "status"}))["ok"] is True


async def test_whoever_only_looks_is_no_question(tmp_path: Path) -> None:
    async with line(tmp_path) as on:
        reader, writer = await dial(on.door.path)
        writer.write_eof()
        assert await reader.read() == b""
        writer.close()


async def test_so_many_may_speak_at_once_and_no_more(tmp_path: Path) -> None:
    async with line(tmp_path) as on:
        some = [await dial(on.door.path) for _ in range(AT_ONCE)]
        await on.home.until(lambda: f"{AT_ONCE} speak" in repr(on.door))
        reader, writer = await dial(on.door.path)
        assert await reader.read() == b""
        for _, each in [*some, (reader, writer)]:
            each.close()
        await on.home.until(lambda: ", 0 speak" in repr(on.door))
        assert (await on.ask({"do": "status"}))["ok"] is True


# --- stop


@pytest.mark.parametrize("leave", [False, True])
async def test_a_stop_is_answered_at_once_and_again_when_it_is_over(tmp_path: Path, leave: bool) -> None:
    async with line(tmp_path) as on:
        await on.ask({"do": "wake"})
        await on.home.until(lambda: on.home.state is State.READY)
        reader, writer = await dial(on.door.path)
        writer.write(json.dumps({"do": "stop", "leave": leave}).encode() + b"\n")
        assert json.loads(await reader.readline())["ok"] is True
        assert on.home.ends == [leave]
        await on.home.conductor.drain(leave=leave)
        await on.door.close()
        left = {"id": "stub-1", "provider": "stub", "dollars_per_hour": 0.0}
        assert json.loads(await reader.readline()) == {"ok": True, "ended": True, "instance": left if leave else None}
        assert await reader.read() == b""
        writer.close()


async def test_what_was_not_started_here_is_not_left_here(tmp_path: Path) -> None:
    async with line(tmp_path, profile=Profile(models=("served",), starts=False)) as on:
        await on.ask({"do": "wake"})
        await on.home.until(lambda: on.home.state is State.READY)
        assert on.home.control.left() is None


async def test_who_asked_and_left_holds_no_end_up(tmp_path: Path) -> None:
    async with line(tmp_path) as on:
        _, writer = await dial(on.door.path)
        writer.write(b'{"do": "stop"}\n')
        await on.home.until(lambda: on.home.ends)
        writer.close()
        await on.door.close()
        assert ", 0 speak" in repr(on.door)


async def test_its_owner_is_asked_of_the_kernel(tmp_path: Path) -> None:
    """Another user's process could have been handed the connection; only root can try that here."""
    async with line(tmp_path) as on:
        with socket.socket(socket.AF_UNIX) as there:
            with address_of(on.door.path) as address:
                there.connect(address)
            assert peer_of(there) == os.geteuid()
