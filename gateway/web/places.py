"""What a caller who was told to come back finds again: its place in line, and what it paid of its key's limits.

It is known by its key and its body, because an SDK that comes back sends those again and nothing else of ours
(docs/adr/0016-places-of-those-who-come-back.md). How places are kept is `policy.returning`; this room gives them their
names, and their grants back to the gate.
"""

import hmac
import secrets
from collections.abc import Callable
from dataclasses import dataclass

from gateway.errors import Refused
from gateway.policy.keys import Key
from gateway.policy.returning import Returning
from gateway.proxy.checker import Body
from gateway.web.gate import Gate
from gateway.web.quota import Grant
from gateway.web.routes import Route

COMES_BACK_WITHIN = 45.0
"""Seconds beyond its Retry-After for which a place is kept."""
PLACES_KEPT = 1024
NAMED_BY = 1024 * 1024
"""Bytes of a body, with its length, that tell it from another of the same key."""


@dataclass(frozen=True, slots=True)
class Place:
    """What is kept."""

    since: float
    """Loop time at which it came first."""
    grant: Grant


class Places:
    """Of one gateway. `any` is False nearly always: then nothing else here is asked."""

    def __init__(self, gate: Gate, clock: Callable[[], float]) -> None:
        self._gate = gate
        self._clock = clock
        self._returning: Returning[Place] = Returning(PLACES_KEPT)
        self._secret = secrets.token_bytes(32)

    def __repr__(self) -> str:
        return f"<Places {self._returning!r}>"

    def __len__(self) -> int:
        return len(self._returning)

    @property
    def any(self) -> bool:
        """Whether somebody is away."""
        return bool(self._returning)

    def find(self, key: Key | None, route: Route, body: Body | None, *, model: str | None) -> Place | None:
        """The place of one who was told to come back, and is there again. Raises Refused when its key may not now: its
        place is kept for longer then. `model`: what it asks for, or gets."""
        name = self._name_of(key, route, body)
        if name is None or (place := self._returning.take(name, self._clock())) is None:
            return None
        try:
            self._gate.go_on(place.grant, key, model=model)
        except Refused:
            self._put(name, place, COMES_BACK_WITHIN)
            raise
        return place

    def keep(
        self, key: Key | None, route: Route, body: Body | None, grant: Grant, *, since: float, retry_after: float
    ) -> bool:
        """It is told to come back after so many seconds. Whether it will be known again; else its grant is to be
        ended."""
        name = self._name_of(key, route, body)
        if name is None:
            return False
        self._gate.rest(grant)
        self._put(name, Place(since, grant), retry_after + COMES_BACK_WITHIN)
        return True

    def beat(self, now: float) -> None:
        """Every second or so: who did not come back is given back what it took."""
        for place in self._returning.expired(now):
            self._gate.forget(place.grant)

    def _put(self, name: bytes, place: Place, seconds: float) -> None:
        for gone in self._returning.keep(name, place, until=self._clock() + seconds):
            self._gate.forget(gone.grant)

    def _name_of(self, key: Key | None, route: Route, body: Body | None) -> bytes | None:
        """What only this request of this key is called. None: it has no body that could be told from another."""
        if body is None or body.wanted:
            return None
        name = hmac.new(self._secret, f"{key.name if key else ''}\n{route.path}\n{body.size}\n".encode(), "sha256")
        left = NAMED_BY
        for chunk in body.chunks:
            name.update(chunk[:left])
            left -= len(chunk)
            if left <= 0:
                break
        return name.digest()
