"""The way to the Redis in STATE_URL, for the ledger and the board: one command, one answer, within seconds, or OSError.

Needs the extra `redis`; imported only where STATE_URL names one. The URL may hold a password, so it is never shown.
"""

import asyncio
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, RedisError, ResponseError


class RedisDown(ConnectionError):
    """No answer. What was asked for may have been done all the same."""


class RedisRefused(OSError):
    """It answered, and did not do it: no permission, no memory, a disk that it cannot write."""


class RedisLink:
    """Nothing is tried twice here: whoever asks knows whether that is harmless."""

    def __init__(self, url: str, *, within: float) -> None:
        """Connects with the first command. `within`: seconds for a command, with its connection. ValueError: no URL."""
        self._within = within
        self._client: Any = Redis.from_url(
            url,
            protocol=2,
            decode_responses=True,
            encoding_errors="replace",
            socket_timeout=within,
            socket_connect_timeout=within,
            retry=Retry(NoBackoff(), 0),
            health_check_interval=0,
        )

    def __repr__(self) -> str:
        return f"<RedisLink within {self._within} s>"

    async def ask(self, *command: str | int) -> Any:
        """The answer, as text. Raises RedisDown, RedisRefused."""
        try:
            async with asyncio.timeout(self._within):
                return await self._client.execute_command(*command)
        except (ResponseError, AuthenticationError) as error:
            raise RedisRefused(f"{command[0]}: {error}") from None
        except TimeoutError:
            raise RedisDown(f"{command[0]}: no answer within {self._within:g} s") from None
        except (RedisError, OSError, ValueError) as error:
            if isinstance(error.__cause__, AuthenticationError):  # while it connected
                raise RedisRefused(f"{command[0]}: {error}") from None
            raise RedisDown(f"{command[0]}: {error!r:.200}") from None

    async def close(self) -> None:
        try:
            async with asyncio.timeout(self._within):
                await self._client.aclose()
        except (RedisError, OSError, TimeoutError):
            pass  # it was gone already
