"""The board in a Redis that several gateways share: one hash, changed by one script, which Redis carries out alone.

Redis may be paused, restarted or empty; whoever reads the board judges that (providers/renting/seat.py). A version is
drawn by chance, so that one from before a loss is never taken for one from after it.
"""

import secrets
from typing import Final

from gateway.records.redis_link import RedisLink, RedisRefused

WITHIN: Final = 2.0
"""Seconds for a look or a write: much less than a lease."""

_WRITE: Final = """
if (redis.call('HGET', KEYS[1], 'version') or '') ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[1], 'version', ARGV[2], 'text', ARGV[3])
return 1
"""


class RedisBoard:
    """`upstream`: each has a board of its own."""

    def __init__(self, url: str, upstream: str, *, within: float = WITHIN) -> None:
        self._link = RedisLink(url, within=within)
        self._key = f"wakegate:board:{upstream}"

    def __repr__(self) -> str:
        return f"<RedisBoard {self._key}>"

    async def read(self) -> tuple[str, str]:
        answer = await self._link.ask("HMGET", self._key, "version", "text")
        match answer:
            case [None, None]:
                return "", ""
            case [str(version), str(text)]:
                return version, text
            case _:
                raise RedisRefused(f"{self._key} is not what was written there")

    async def write(self, text: str, version: str) -> bool:
        return bool(await self._link.ask("EVAL", _WRITE, 1, self._key, version, secrets.token_hex(8), text))

    async def close(self) -> None:
        await self._link.close()
