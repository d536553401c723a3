"""The controller's side of the dead-man's lease (policy/lease.py): leave for a rented worker to go on, again and again.

A `Lessor` sends one every half minute for as long as a rental is followed, wherever it answers by then, and hears from
the worker how it is: who is in flight there, and whether it could stop itself. What runs there may be no WakeGate at
all (a bare vLLM knows no such path): that is told once, and asked less often.

A lease never ends later than what it is for: the budget, or MAX_RUNTIME. It shows no key, only a signature by one that
is made from the endpoint's; and a worker's report is believed only with the signature that belongs to it.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from gateway.policy.lease import (
    HEADER,
    LEAVE_LENGTH,
    LENGTH,
    MOST,
    PATH,
    BadLease,
    Lease,
    Report,
    is_signed,
    key_from,
    signature,
)
from gateway.providers.base import Endpoint
from gateway.providers.probe import belief, parse

if TYPE_CHECKING:  # imported with the first lease
    import aiohttp

log = logging.getLogger(__name__)

EVERY: Final = 30.0
"""Seconds between two leases."""
SOON: Final = 5.0
"""After one that did not arrive: the worker boots, or the network fails."""
SELDOM: Final = 300.0
"""Where nothing knows what a lease is."""
WITHIN: Final = 10.0


@dataclass(frozen=True, slots=True)
class Posted:
    """What came back. `status` 0: nothing did, and `trouble` says why."""

    status: int
    body: bytes = b""
    signature: str = ""
    trouble: str = ""


Post = Callable[[Endpoint, bytes, str, float], Awaitable[Posted]]
"""Posts these bytes with this signature to the endpoint's PATH, within seconds. Raises nothing but cancellation."""
Where = Callable[[], tuple[str, Endpoint] | None]
"""The vendor's id of the instance, and where it answers now. None: nowhere yet, or it is to have no more leases."""


@dataclass(frozen=True, slots=True)
class Told:
    """What came of one lease."""

    instance: str
    report: Report | None = None
    """The worker's, when its signature was right."""
    trouble: str = ""
    """Why there is none: closed words."""
    is_worker: bool = True
    """False: what answers there knows no leases. Its own sidecar must stop it, or nobody does."""

    @property
    def can_stop_itself(self) -> bool | None:
        """Whether the worker's own key is good, as far as it could be tried; None: not known."""
        if self.report is None or not self.report.key.startswith(("key works", "key refused", "no key")):
            return None
        return self.report.key == "key works"


class Lessor:
    """Sends leases. `ends_in`: seconds until this instance must end, as far as money and MAX_RUNTIME say; None: no end
    is in sight. `on_told` hears of each lease that says something else than the one before."""

    def __init__(
        self,
        post: Post,
        *,
        wall: Callable[[], float],
        ends_in: Callable[[str], float | None] = lambda instance: None,
        on_told: Callable[[Told], None] = lambda told: None,
    ) -> None:
        self._post = post
        self._wall = wall
        self.ends_in = ends_in
        self.on_told = on_told
        self._length = LENGTH
        self._counter = 0
        self._last: dict[str, Told] = {}
        """By instance; the last few."""

    def __repr__(self) -> str:
        return f"<Lessor at lease {self._counter}, {self._last}>"

    def told(self, instance: str) -> Told | None:
        """What came of the last lease for it."""
        return self._last.get(instance)

    async def keep(self, where: Where) -> None:
        """Until it is cancelled: that is when nobody follows the rental any more."""
        while True:
            found = where()
            if found is None:
                await asyncio.sleep(SOON)
                continue
            told = await self.send(*found)
            arrived = told is None or (told.report is not None and not told.report.refused)
            is_worker = told is None or told.is_worker
            await asyncio.sleep(EVERY if arrived else SOON if is_worker else SELDOM)

    async def leave(self, where: Where) -> None:
        """A long lease, for as long as a successor may take to come; those that `keep` may still send are as long."""
        self._length = LEAVE_LENGTH
        found = where()
        if found is not None:
            await self.send(*found)

    async def send(self, instance: str, endpoint: Endpoint) -> Told | None:
        """One lease, and once more where the worker has seen a later one: our clock was put back. None: it has no
        time left, or there is no key to sign with, so that nothing was sent."""
        told = await self._send_once(instance, endpoint)
        if told is not None and told.report is not None and told.report.refused.startswith("old"):
            self._counter = max(self._counter, told.report.counter)
            told = await self._send_once(instance, endpoint)
        if told is not None:
            self._note(told)
        return told

    async def _send_once(self, instance: str, endpoint: Endpoint) -> Told | None:
        ends_in, wall, length = self.ends_in(instance), self._wall(), self._length
        if ends_in is not None:
            length = min(length, int(ends_in - WITHIN))  # it may be under way for so long
        if length <= 0 or not endpoint.key:
            return None
        self._counter = max(self._counter + 1, int(wall * 1000))
        key = key_from(endpoint.key)
        lease = Lease(instance, self._counter, length, int(wall) + length).spell()
        signed = signature(key, lease)
        return _read(instance, await self._post(endpoint, lease, signed, WITHIN), key, signed)

    def _note(self, told: Told) -> None:
        before = self._last.pop(told.instance, None)
        self._last[told.instance] = told
        while len(self._last) > 8:
            del self._last[next(iter(self._last))]
        if before is not None and _gist(before) == _gist(told):
            return
        try:
            self.on_told(told)
        except Exception:  # whoever looks on may fail; the worker needs its leases
            log.exception("what the worker %s says could not be told", told.instance)


def _gist(told: Told) -> tuple[object, ...]:
    """What is worth telling when it changes: not how many are in flight."""
    report = told.report
    return told.trouble, told.is_worker, report and (report.self_stop, report.key, report.refused[:12])


def _read(instance: str, posted: Posted, key: bytes, signed: str) -> Told:
    if posted.status == 0:
        return Told(instance, trouble=posted.trouble)
    if is_signed(key, posted.body, posted.signature, of=signed):
        try:
            return Told(instance, Report.read(posted.body))
        except BadLease as error:
            return Told(instance, trouble=f"its report cannot be read: {error}")
    if posted.status in (401, 403):
        return Told(instance, trouble="it has another key than UPSTREAM_API_KEY")
    if posted.status in (404, 405) and isinstance(parse(posted.body), dict):
        # An engine's own. A vendor's proxy says 404 in HTML while the machine boots.
        return Told(instance, trouble="what answers there knows no leases", is_worker=False)
    return Told(instance, trouble=f"status {posted.status}, without a signature")


def by(session: "aiohttp.ClientSession") -> Post:
    """Over HTTP. The session is whoever opened it's to close. No key is sent, no redirect followed, and the
    certificate is the one that the endpoint names."""

    async def post(endpoint: Endpoint, lease: bytes, signed: str, within: float) -> Posted:
        import aiohttp
        from yarl import URL

        headers = {HEADER: signed, "Content-Type": "application/json", "User-Agent": "wakegate"}
        try:
            async with session.post(
                URL(endpoint.url + endpoint.prefix + PATH, encoded=True),
                data=lease,
                headers=headers,
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(total=within),
                ssl=belief(endpoint),
            ) as answer:
                body = await answer.content.read(MOST + 1)
                while len(body) <= MOST and not answer.content.at_eof():
                    body += await answer.content.read(MOST + 1 - len(body))
                return Posted(answer.status, body, answer.headers.get(HEADER, ""))
        except TimeoutError:
            return Posted(0, trouble="timeout")
        except aiohttp.ServerFingerprintMismatch:
            return Posted(0, trouble="another certificate than the one in TLS_FINGERPRINT")
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return Posted(0, trouble=f"no answer ({type(error).__name__})")

    return post
