"""The dead-man's lease: how long a rented worker may go on without its controller, and when it must end itself.

Whoever rents a machine may die, or lose its network, and the machine would be billed for ever. So the controller sends
it a lease every half minute, "go on for five minutes more"; past it the worker stops its own machine, whatever the
traffic. One that never had a lease goes by use: by the time without a request of somebody who may ask.

    controller ── Lease, signed ──► worker ── Report, signed ──► controller
                                      │ DeadMan: due?
                                      ▼
                                 stops its own machine

The two share a key that is made from the worker's API key, so that nothing more need be handed over, and a successor
of the controller has it, too. A lease names the machine (it is good for no other), a counter that only rises (an old
one is not taken again), and its end twice: in seconds from when it comes, by the worker's own clock that nobody sets,
and as Unix time, so that one that was kept back and comes late is told from a fresh one.

Pure. Times are those of whoever asks: `now` monotonic, `wall` Unix.
"""

import hashlib
import hmac
import json
import math
from dataclasses import asdict, dataclass
from typing import Any, Final

from gateway.policy.backoff import pause

PATH: Final = "/wakegate/lease"
HEADER: Final = "X-WakeGate-Signature"
MOST: Final = 4096
"""Bytes of a lease or of a report."""
LENGTH: Final = 300
"""Seconds of an ordinary lease: what a controller has to be restarted in."""
LEAVE_LENGTH: Final = 900
"""Seconds of the last one, of a controller that leaves the machine to a successor."""
LONGEST: Final = 3600
"""Seconds that a worker believes at most: a lease is for the gaps of a controller that lives."""
SKEW: Final = 300
"""Seconds that two machines' clocks may differ."""
_LABEL: Final = b"wakegate: the dead-man's lease, 1"


# --- What is said, and that it is true --------------------------------------------------------------------------------


class BadLease(Exception):
    """This is no lease, or no report."""


@dataclass(frozen=True, slots=True)
class Lease:
    """Leave to go on."""

    instance: str
    """The machine's id, as its vendor and it itself know it."""
    counter: int
    seconds: int
    """From the moment in which it comes."""
    until: int
    """Unix time."""

    def spell(self) -> bytes:
        return _spell(self)

    @classmethod
    def read(cls, data: bytes) -> "Lease":
        """Raises BadLease."""
        found = _read(data)
        instance = found.get("instance")
        if not isinstance(instance, str) or not 0 < len(instance) <= 200:
            raise BadLease("instance is no id")
        return cls(instance, _whole(found, "counter"), _whole(found, "seconds"), _whole(found, "until"))


@dataclass(frozen=True, slots=True)
class Report:
    """What the worker says to each lease."""

    counter: int
    """Of the last lease that was taken; 0: none was."""
    seconds_left: int
    in_flight: int
    waiting: int
    self_stop: str
    """`armed`, or what keeps it from being so; how often it tried in vain."""
    key: str
    """`key works`, `key refused: …`, and the like: what the machine's own key at its vendor is good for."""
    refused: str = ""
    """Why the lease was not taken."""

    def spell(self) -> bytes:
        return _spell(self)

    @classmethod
    def read(cls, data: bytes) -> "Report":
        """Raises BadLease."""
        found = _read(data)
        return cls(
            counter=_whole(found, "counter"),
            seconds_left=_whole(found, "seconds_left"),
            in_flight=_whole(found, "in_flight"),
            waiting=_whole(found, "waiting"),
            self_stop=_text(found, "self_stop"),
            key=_text(found, "key"),
            refused=_text(found, "refused"),
        )


def _spell(said: Lease | Report) -> bytes:
    return json.dumps(asdict(said), separators=(",", ":")).encode()


def _read(data: bytes) -> dict[str, Any]:
    if len(data) > MOST:
        raise BadLease("too long")
    try:
        found = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise BadLease("no JSON") from error
    if not isinstance(found, dict):
        raise BadLease("no object")
    return found


def _whole(found: dict[str, Any], name: str) -> int:
    value = found.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**53:
        raise BadLease(f"{name} is no whole number")
    return value


def _text(found: dict[str, Any], name: str) -> str:
    """For people; from a machine that is not ours alone, so on one line and short."""
    value = found.get(name)
    if not isinstance(value, str):
        raise BadLease(f"{name} is no text")
    return "".join(character for character in value[:300] if character.isprintable())


def key_from(api_key: str) -> bytes:
    """The key that a controller and its worker share: nobody gets from it to the API key."""
    return hmac.digest(_LABEL, api_key.encode(), "sha256")


def signature(key: bytes, said: bytes, of: str = "") -> str:
    """`of`: the signature of the lease that this is a report on, so that it is good for that one only."""
    return hmac.new(key, of.encode() + b"\n" + said, hashlib.sha256).hexdigest()


def is_signed(key: bytes, said: bytes, came: str, of: str = "") -> bool:
    return hmac.compare_digest(signature(key, said, of).encode(), came.encode("utf-8", "replace"))


# --- The worker's side ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Pace:
    """Seconds between two tries to stop one's own machine."""

    first: float = 5.0
    most: float = 60.0
    obeyed: float = 120.0
    """After one that the vendor took: whoever still runs then was not stopped."""


class DeadMan:
    """Whether this machine must be stopped from inside, and when it is next to be tried."""

    def __init__(self, instance: str, *, after: float, now: float, pace: Pace | None = None) -> None:
        """`after`: SELF_STOP_AFTER, seconds without an authenticated request where there was never a lease."""
        self._instance = instance
        self._after = after
        self._pace = pace or Pace()
        self._counter = 0
        self._until: float | None = None
        """When the lease ends. None: there never was one."""
        self._used_at = now
        self.tries = 0
        """To stop it, since it had to be."""
        self.last_failure = ""
        """Why the last of them was in vain; "" where it was not."""
        self._failures = 0
        self._next_try = -math.inf

    def __repr__(self) -> str:
        by = f"lease {self._counter} until {self._until:.0f}" if self._until is not None else f"use {self._used_at:.0f}"
        return f"<DeadMan of {self._instance}, by {by}, {self.tries} tries>"

    @property
    def counter(self) -> int:
        return self._counter

    @property
    def has_lease(self) -> bool:
        return self._until is not None

    def take(self, lease: Lease, *, now: float, wall: float) -> str:
        """A lease came whose signature is right. Why it is not taken; "" when it is. The newest counts, also where it
        ends sooner than the last."""
        if lease.instance != self._instance:
            return f"it is for {lease.instance}, and this is {self._instance}"
        if lease.counter <= self._counter:
            return f"old: its counter is {lease.counter}, and {self._counter} was here"
        if wall > lease.until + SKEW:
            return f"late: it ended {wall - lease.until:.0f} s ago, or one of the two clocks is wrong"
        self._counter = lease.counter
        self._until = now + min(lease.seconds, LONGEST)
        self.tries, self.last_failure, self._failures, self._next_try = 0, "", 0, -math.inf
        return ""

    def used(self, at: float) -> None:
        """Somebody who may ask was served, or it became ready for the first time."""
        self._used_at = max(self._used_at, at)

    def ends_at(self, *, busy: bool, now: float) -> float:
        """When this machine is to be stopped, as things are. `busy`: it works for somebody, or loads for the first
        time, which saves it only where there was never a lease."""
        if self._until is not None:
            return self._until
        return (now if busy else self._used_at) + self._after

    def why(self, *, busy: bool, now: float) -> str:
        """Why it must be stopped now; "" while it need not be."""
        if now < self.ends_at(busy=busy, now=now):
            return ""
        if self._until is not None:
            return f"its controller has been silent: the lease ended {now - self._until:.0f} s ago"
        return f"nobody with a key has used it for {now - self._used_at:.0f} s, and no controller looks after it"

    def may_try(self, now: float) -> bool:
        return now >= self._next_try

    def tried(self, failure: str, *, now: float) -> None:
        """The vendor was asked to stop it. `failure`: why it did not; "" when it said yes."""
        self.tries += 1
        self.last_failure = failure
        if failure:
            self._next_try = now + pause(self._failures, first=self._pace.first, most=self._pace.most)
            self._failures += 1
        else:
            self._next_try = now + self._pace.obeyed

    def next_look(self, *, busy: bool, now: float) -> float:
        """When to ask again, if nothing happens meanwhile."""
        return max(self.ends_at(busy=busy, now=now), self._next_try)
