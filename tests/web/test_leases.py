"""Where leases come in: over real HTTP, through the same door as everything else on that port."""

import asyncio
import json
from collections.abc import AsyncIterator

import pytest

from gateway.policy.lease import HEADER, MOST, PATH, DeadMan, Lease, Report, is_signed, key_from, signature
from gateway.policy.lifecycle.states import State
from gateway.policy.throttle import LIMIT
from gateway.web.leases import LeaseDesk
from tests.support.house import KEY, House, house
from tests.support.wire import Answer, Heard

WALL = 1_795_000_000
SIGNS = key_from("the-key-of-this-worker")


class Worker:
    """Goes by leases, and has them taken."""

    def __init__(self) -> None:
        self.man = DeadMan("pod1", after=1800, now=0)

    def take(self, lease: Lease) -> str:
        return self.man.take(lease, now=0, wall=WALL)

    def report(self, refused: str = "") -> Report:
        return Report(self.man.counter, 300, 2, 1, "armed", "key works", refused)


@pytest.fixture
async def rented() -> AsyncIterator[House]:
    worker = Worker()
    desk = LeaseDesk(SIGNS, worker, clock=asyncio.get_running_loop().time)
    async with house(leases=desk) as h:
        yield h


def lease(counter: int = 1, instance: str = "pod1") -> bytes:
    return Lease(instance, counter, 300, WALL + 300).spell()


async def send(h: House, said: bytes, signed: str | None = None, headers: str = "") -> Answer:
    signed = signature(SIGNS, said) if signed is None else signed
    head = f"{headers}{HEADER}: {signed}\r\n" if signed else headers
    heard = Heard(await h.raw(h.request(said, path=PATH, headers=head)), closed=True, took=0)
    return heard.answers[0]


async def test_a_lease_is_taken_and_the_answer_is_signed_for_it_alone(rented: House) -> None:
    answer = await send(rented, lease())
    assert answer.status == 200
    assert Report.read(answer.body) == Report(1, 300, 2, 1, "armed", "key works")
    signed = answer.header(HEADER) or ""
    assert is_signed(SIGNS, answer.body, signed, of=signature(SIGNS, lease()))
    assert not is_signed(SIGNS, answer.body, signed, of=signature(SIGNS, lease(2)))


async def test_one_that_is_old_or_for_another_is_refused_in_words_that_are_signed_too(rented: House) -> None:
    """So a controller learns from it how far the worker has counted."""
    await send(rented, lease(5))
    for said in (lease(5), lease(6, instance="pod2")):
        answer = await send(rented, said)
        assert answer.status == 409 and Report.read(answer.body).counter == 5 and Report.read(answer.body).refused
        assert is_signed(SIGNS, answer.body, answer.header(HEADER) or "", of=signature(SIGNS, said))


@pytest.mark.parametrize("signed", ["", "0" * 64, signature(key_from(KEY), lease())])
async def test_what_is_not_signed_with_the_workers_own_key_is_refused_whoever_sends_it(
    rented: House, signed: str
) -> None:
    """A caller has a right key with each of these, and it opens nothing here."""
    answer = await send(rented, lease(), signed)
    assert (answer.status, answer.json["error"]["code"]) == (401, "invalid_api_key")
    assert answer.header(HEADER) is None
    assert Report.read((await send(rented, lease())).body).counter == 1, "it was not taken"


async def test_whoever_guesses_is_told_to_wait_and_who_is_right_is_not(rented: House) -> None:
    for _ in range(LIMIT):
        assert (await send(rented, lease(), "0" * 64)).status == 401
    assert (await send(rented, lease(), "0" * 64)).status == 429
    assert (await send(rented, lease())).status == 200


async def test_what_is_signed_and_no_lease_is_named(rented: House) -> None:
    answer = await send(rented, b'{"instance": "pod1"}')
    assert (answer.status, answer.json["error"]["code"]) == (400, "invalid_request")


async def test_more_than_a_lease_is_not_read(rented: House) -> None:
    said = b" " * (MOST + 1)
    assert (await send(rented, said)).status == 413
    chunked = f"POST {PATH} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n{MOST + 1:x}\r\n".encode()
    heard = Heard(await rented.raw(chunked + said + b"\r\n0\r\n\r\n"), closed=True, took=0)
    assert heard.answers[0].status == 413


async def test_a_lease_is_no_request_and_wakes_nothing(rented: House) -> None:
    await send(rented, lease())
    assert (rented.provider.starts, rented.state) == (0, State.STOPPED)
    assert rented.conductor.snapshot().last_activity is None


async def test_where_nothing_is_rented_there_is_no_such_path() -> None:
    async with house() as h:
        answer = await send(h, lease())
        assert (answer.status, json.loads(answer.body)["error"]["code"]) == (404, "route_not_found")


async def test_a_lease_is_posted(rented: House) -> None:
    heard = Heard(
        await rented.raw(f"GET {PATH} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode()), closed=True, took=0
    )
    assert heard.answers[0].status == 405 and heard.answers[0].header("Allow") == "POST, OPTIONS"
