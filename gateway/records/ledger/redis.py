"""A ledger in a Redis that several gateways share: a list, to which one script adds, if nobody else did meanwhile.

Only a Redis that loses nothing will do: `appendonly yes` and `appendfsync always`, so that it answers when the line is
on its disk (redis.io, "Redis persistence"); no memory limit that throws lines away; and no replica, which forgets what
it is told. It is asked for that before each line, since anybody may set it anew while it runs.

Each line is proved by the one before it, and the newest that is known here must still be there: a Redis that came back
with less, or with something else, is found out and believed no more. A line whose answer was lost is written again;
it is known by a mark of its own, so that it is there once.
"""

import asyncio
import contextlib
import errno
import hashlib
import json
import secrets
from collections.abc import AsyncIterator
from typing import Any, Final

from gateway.policy.books import BadEntry, Entry
from gateway.records.ledger.base import LedgerDamaged, LedgerError, LedgerLate
from gateway.records.redis_link import RedisDown, RedisLink, RedisRefused

WITHIN: Final = 5.0
"""Seconds for a call in all."""
TRY: Final = 2.0
"""Seconds for one command: time for another try is left."""
AGAIN: Final = 0.1
"""Seconds between two tries."""
KEY: Final = "wakegate:ledger"
MANY: Final = 1000
"""Lines that are read at once."""

_APPEND: Final = """
local seq, there = tonumber(ARGV[1]), redis.call('LLEN', KEYS[1])
if there < seq then return -1 end
if there > seq then
  if redis.call('LINDEX', KEYS[1], seq) == ARGV[3] then return 1 end
  return 0
end
if seq > 0 and redis.call('LINDEX', KEYS[1], -1) ~= ARGV[2] then return -1 end
redis.call('RPUSH', KEYS[1], ARGV[3])
return 1
"""


class NotDurable(LedgerError):
    """This Redis may forget what it has confirmed. No money is counted in it."""


class RedisLedger:
    def __init__(self, url: str, *, key: str = KEY, within: float = WITHIN) -> None:
        self._link = RedisLink(url, within=min(TRY, within))
        self._key = key
        self._within = within
        self._known = 0
        """Lines that were read, and proved."""
        self._newest = ""
        """The last of them, as it lies there."""
        self._one = asyncio.Lock()

    def __repr__(self) -> str:
        return f"<RedisLedger {self._key} of {self._known} lines known>"

    async def read(self, since: int = 0) -> list[Entry]:
        async with _deadline(self._within), self._one:
            await self._sure()
            if since == self._known:
                return await self._read_on()
            await self._read_on()  # what is known must be there, also for who wants it from the beginning
            self._known, self._newest = 0, ""
            return (await self._read_on())[since:]

    async def append(self, entry: Entry, seq: int) -> bool:
        entry.check()
        async with _deadline(self._within), self._one:
            await self._sure()
            if seq != self._known:
                await self._read_on()
                if seq != self._known:
                    return False
            line = _line(entry, self._newest)
            answer = await self._add(line, seq)
            if answer < 0:
                raise self._less()
            if answer:
                self._known, self._newest = seq + 1, line
            return bool(answer)

    async def close(self) -> None:
        await self._link.close()

    async def _add(self, line: str, seq: int) -> int:
        """Again and again, while no answer comes: the script knows a line that it has."""
        while True:
            try:
                return int(await self._link.ask("EVAL", _APPEND, 1, self._key, seq, self._newest, line))
            except RedisDown:
                await asyncio.sleep(AGAIN)
            except RedisRefused as error:
                raise LedgerError(str(error)) from None

    async def _read_on(self) -> list[Entry]:
        """The lines after those that are known, each proved by the one before it."""
        entries: list[Entry] = []
        while True:
            first = max(self._known - 1, 0)
            lines = await self._ask("LRANGE", self._key, first, first + MANY)
            if self._known:
                if not lines or lines[0] != self._newest:
                    raise self._less()
                lines = lines[1:]
            for line in lines:
                entries.append(_entry(line, self._newest, self._known))
                self._known, self._newest = self._known + 1, line
            if len(lines) < MANY:
                return entries

    def _less(self) -> LedgerDamaged:
        return LedgerDamaged(
            f"Redis no longer has the {self._known} lines at {self._key} that it confirmed: it lost some, or somebody "
            "changed them. Give it its append-only file back; nothing is rented until then."
        )

    async def _sure(self) -> None:
        """Raises NotDurable."""
        settings = _pairs(await self._ask("CONFIG", "GET", "*append*"))
        memory = _pairs(await self._ask("CONFIG", "GET", "maxmemory*"))
        state = _facts(await self._ask("INFO", "persistence")) | _facts(await self._ask("INFO", "replication"))
        for wrong, what in (
            (settings.get("appendonly") != "yes", "needs `appendonly yes`"),
            (settings.get("appendfsync") != "always", "needs `appendfsync always`"),
            (settings.get("no-appendfsync-on-rewrite") == "yes", "needs `no-appendfsync-on-rewrite no`"),
            (
                memory.get("maxmemory", "0") != "0" and memory.get("maxmemory-policy") != "noeviction",
                "throws keys away when its memory is full; it needs `maxmemory-policy noeviction`",
            ),
            (state.get("role") != "master", "is a replica, which forgets what it is told"),
            (state.get("aof_last_write_status", "ok") != "ok", "cannot write its append-only file; is its disk full?"),
        ):
            if wrong:
                raise NotDurable(f"The Redis in STATE_URL {what}: else it may forget what was spent.")

    async def _ask(self, *command: str | int) -> Any:
        while True:
            try:
                return await self._link.ask(*command)
            except RedisDown:
                await asyncio.sleep(AGAIN)
            except RedisRefused as error:
                if command[0] == "CONFIG":
                    raise NotDurable(
                        f"The Redis in STATE_URL does not say how durable it is ({error}): the ledger needs one that "
                        "does, with `appendonly yes` and `appendfsync always`."
                    ) from None
                raise LedgerError(str(error)) from None


@contextlib.asynccontextmanager
async def _deadline(within: float) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(within):
            yield
    except TimeoutError:
        raise LedgerLate(errno.ETIMEDOUT, f"Redis did not answer within {within:g} s") from None


def _line(entry: Entry, before: str) -> str:
    kept = {"entry": entry.fields(), "mark": secrets.token_hex(8)}
    return json.dumps({**kept, "proof": _proof(kept, before)}, sort_keys=True, separators=(",", ":"))


def _proof(kept: dict[str, Any], before: str) -> str:
    text = json.dumps(kept, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(f"{before}\n{text}".encode()).hexdigest()


def _entry(line: str, before: str, seq: int) -> Entry:
    """Raises LedgerDamaged, BadEntry."""
    try:
        kept = json.loads(line)
        proof = kept.pop("proof")
        right = kept.keys() == {"entry", "mark"} and proof == _proof(kept, before)
        fields = kept["entry"]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        right, fields = False, None
    if not right or not isinstance(fields, dict):
        raise LedgerDamaged(f"line {seq + 1} of the ledger in Redis is not what was written")
    try:
        return Entry.read(fields)
    except BadEntry as error:
        raise BadEntry(f"line {seq + 1} of the ledger in Redis: {error}") from None


def _pairs(answer: Any) -> dict[str, str]:
    """CONFIG GET, as a list or as a mapping."""
    if isinstance(answer, dict):
        return {str(name): str(value) for name, value in answer.items()}
    return dict(zip(map(str, answer[::2]), map(str, answer[1::2]), strict=False))


def _facts(answer: Any) -> dict[str, str]:
    """INFO, as text or read already."""
    if isinstance(answer, dict):
        return {str(name): str(value) for name, value in answer.items()}
    return dict(line.split(":", 1) for line in str(answer).splitlines() if ":" in line)
