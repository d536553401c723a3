"""Where a rented worker's leases come in (policy/lease.py): the one thing on its port that no caller's key opens.

A lease is believed by its signature, whose key is made from the worker's API_KEY: whoever has that one could have made
it anyway. It shows no key to anybody, and the answer is signed for this lease alone, so that whoever is in between can
make neither. Wrong ones are counted by address as wrong keys are, or guessing here would be a way round.
"""

import asyncio
from collections.abc import Callable
from typing import Final, Protocol

from aiohttp import web

from gateway.errors import refuse
from gateway.policy.lease import HEADER, MOST, BadLease, Lease, Report, is_signed, signature
from gateway.policy.throttle import LIMIT, Throttle

WITHIN: Final = 5.0
"""Seconds for the few bytes of a lease to come."""


class Taker(Protocol):
    """Who goes by leases."""

    def take(self, lease: Lease) -> str:
        """Why it is not taken; "" when it is."""

    def report(self, refused: str = "") -> Report: ...


class LeaseDesk:
    """Of one worker."""

    def __init__(self, key: bytes, taker: Taker, *, clock: Callable[[], float]) -> None:
        self._key = key
        self._taker = taker
        self._clock = clock
        self._throttle = Throttle()

    async def answer(self, request: web.BaseRequest, address: str) -> tuple[int, bytes, tuple[tuple[str, str], ...]]:
        """Status, body and headers: 200 where it was taken, 409 where it is none for here and now. Raises Refused."""
        said = await _read(request)
        signed = request.headers.get(HEADER, "")
        if not is_signed(self._key, said, signed):
            self._count(address)
            raise refuse("invalid_api_key", "This is not signed with what is made from this worker's API_KEY.")
        try:
            refused = self._taker.take(Lease.read(said))
        except BadLease as error:
            raise refuse("invalid_request", f"This is no lease: {error}.") from error
        report = self._taker.report(refused).spell()
        return 409 if refused else 200, report, ((HEADER, signature(self._key, report, of=signed)),)

    def _count(self, address: str) -> None:
        wait = self._throttle.count(address, self._clock())
        if wait is not None:
            said = f"More than {LIMIT} wrong signatures came from this address within a minute."
            raise refuse("rate_limit_exceeded", said, retry_after=wait, retry=False)


async def _read(request: web.BaseRequest) -> bytes:
    """Raises Refused: too long, too slow."""
    if (request.content_length or 0) > MOST:
        raise refuse("body_too_large", f"A lease has at most {MOST} bytes.")
    try:
        async with asyncio.timeout(WITHIN):
            said = await request.content.read(MOST + 1)
            while len(said) <= MOST and not request.content.at_eof():
                said += await request.content.read(MOST + 1 - len(said))
    except TimeoutError:
        raise refuse("body_timeout", f"A lease comes within {WITHIN:g} s.") from None
    if len(said) > MOST:
        raise refuse("body_too_large", f"A lease has at most {MOST} bytes.")
    return said
