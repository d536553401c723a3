"""The way to a vendor's API over HTTPS, and nothing else: its key in a header, one bounded answer, nothing followed.

Each call has a connection of its own. On one that was kept the vendor may hang up just as a create is sent, and then
nobody knows whether it was carried out: a handshake is cheaper than that doubt.
"""

import ssl
from collections.abc import Mapping
from typing import TYPE_CHECKING

from gateway.providers.renting.vendor import ANSWER_MAX, Answer, Unanswered

if TYPE_CHECKING:
    import aiohttp


class HttpTransport:
    """A Transport (vendor.py) to everything under `base`."""

    def __init__(self, base: str, *, headers: Mapping[str, str], trust: ssl.SSLContext | None = None) -> None:
        """`headers`: with each call; the key is among them. `trust`: which certificates are believed, where it is not
        the system's."""
        self._base = base.rstrip("/")
        self._headers = {
            "Accept": "application/json",
            "Accept-Encoding": "identity",
            "User-Agent": "wakegate",
            **headers,
        }
        self._trust = trust
        self._session: aiohttp.ClientSession | None = None

    def __repr__(self) -> str:
        return f"<HttpTransport {self._base}>"

    async def __call__(self, method: str, path: str, body: bytes | None, within: float) -> Answer:
        """Raises Unanswered, whose text names no URL: a path may hold an id, and logs are read by others."""
        import aiohttp
        from yarl import URL

        headers = dict(self._headers)
        if body is not None:
            headers["Content-Type"] = "application/json"
        try:
            async with self._opened().request(
                method,
                URL(self._base + path, encoded=True),
                data=body,
                headers=headers,
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(total=within, connect=within / 2),
            ) as answer:
                content = await answer.content.read(ANSWER_MAX + 1)
                while len(content) <= ANSWER_MAX and not answer.content.at_eof():
                    content += await answer.content.read(ANSWER_MAX + 1 - len(content))
                named = {name.lower(): value for name, value in answer.headers.items()}
                return Answer(answer.status, named, content if len(content) <= ANSWER_MAX else b"")
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            raise Unanswered(f"no connection ({type(error).__name__})", may_have_happened=False) from error
        except TimeoutError as error:
            raise Unanswered(f"no answer within {within:g} s", may_have_happened=True) from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise Unanswered(f"no proper answer ({type(error).__name__})", may_have_happened=True) from error

    def _opened(self) -> "aiohttp.ClientSession":
        import aiohttp

        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(ssl=self._trust or True, force_close=True, use_dns_cache=False),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                trust_env=False,
            )
        return self._session

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None
