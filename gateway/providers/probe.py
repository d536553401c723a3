"""Looks at an upstream over HTTP: one GET, a bounded answer, nothing followed and nothing believed.

Used where readiness must be seen from outside. What an answer means is the provider's business; here is only what came.
"""

import asyncio
import json
import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from gateway.providers.base import Endpoint

if TYPE_CHECKING:  # imported with the first look: an engine on this machine is started before (process.py)
    import aiohttp

ANSWER_MAX = 1 << 20
"""Bytes of an answer that are read. A longer one is no health and no list of models."""


@dataclass(frozen=True, slots=True)
class Sight:
    """What was seen. `status` 0: nobody answered, and `trouble` says why (refused, timeout, tls, protocol, unknown)."""

    status: int
    content: Any = None
    """The body, when it was JSON."""
    html: bool = False
    trouble: str = ""
    detail: str = ""

    @property
    def answered(self) -> bool:
        return self.status != 0

    def model_names(self) -> tuple[str, ...]:
        """The ids of an OpenAI list of models; empty when this is not one."""
        data = self.content.get("data") if isinstance(self.content, dict) else None
        if not isinstance(data, list):
            return ()
        return tuple(item["id"] for item in data if isinstance(item, dict) and isinstance(item.get("id"), str))

    def progress(self) -> float | None:
        """The share of loading, 0 to 1, where an engine tells it."""
        value = self.content.get("progress") if isinstance(self.content, dict) else None
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
            return None
        return float(value)


async def look(session: "aiohttp.ClientSession", endpoint: Endpoint, path: str, *, within: float) -> Sight:
    """GET `path` (its prefix included) from `endpoint`, with the endpoint's key. Raises nothing but cancellation."""
    import aiohttp
    from yarl import URL

    headers = {"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": "wakegate"}
    if endpoint.key:
        headers["Authorization"] = f"Bearer {endpoint.key}"
    try:
        async with session.get(
            URL(endpoint.url + path, encoded=True),
            headers=headers,
            allow_redirects=False,
            timeout=aiohttp.ClientTimeout(total=within),
            ssl=belief(endpoint),
        ) as answer:
            body = await answer.content.read(ANSWER_MAX + 1)
            while len(body) <= ANSWER_MAX and not answer.content.at_eof():
                body += await answer.content.read(ANSWER_MAX + 1 - len(body))
            return Sight(answer.status, parse(body), is_html(answer.headers.get("Content-Type", ""), body))
    except TimeoutError:
        return Sight(0, trouble="timeout")
    except aiohttp.ServerFingerprintMismatch as error:
        return Sight(0, trouble="tls", detail=f"the certificate has the fingerprint {error.got.hex()}")
    except (aiohttp.ClientConnectorCertificateError, aiohttp.ClientSSLError, ssl.SSLError) as error:
        return Sight(0, trouble="tls", detail=str(error))
    except aiohttp.ClientConnectorDNSError as error:
        return Sight(0, trouble="unknown", detail=str(error))
    except (aiohttp.ClientConnectionError, OSError) as error:
        return Sight(0, trouble="refused", detail=str(error))
    except (aiohttp.ClientError, ValueError) as error:
        return Sight(0, trouble="protocol", detail=str(error))


def belief(endpoint: Endpoint) -> "aiohttp.Fingerprint | Literal[True]":
    """What aiohttp is to believe of this endpoint's certificate: the one with its fingerprint, looked at before
    anything is sent; or what the session believes."""
    import aiohttp

    return aiohttp.Fingerprint(bytes.fromhex(endpoint.fingerprint)) if endpoint.fingerprint is not None else True


def parse(body: bytes) -> Any:
    if len(body) > ANSWER_MAX:
        return None
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def is_html(content_type: str, body: bytes) -> bool:
    """A tunnel's or a router's "sorry" page is often 200."""
    return "html" in content_type.lower() or body[:64].lstrip()[:1] == b"<"


def private_session(socket: str | None) -> "aiohttp.ClientSession":
    """A session for one engine on this machine: no cookies, no proxies from the environment, a connection per look.

    To be closed by its maker. Not kept alive, since engines close idle connections when they please.
    """
    import aiohttp

    connector: aiohttp.BaseConnector
    if socket is None:
        connector = aiohttp.TCPConnector(force_close=True, use_dns_cache=False)
    else:
        connector = aiohttp.UnixConnector(socket, force_close=True)
    return aiohttp.ClientSession(
        connector=connector, cookie_jar=aiohttp.DummyCookieJar(), auto_decompress=False, trust_env=False
    )


async def settle(session: "aiohttp.ClientSession") -> None:
    """Close a session, and let its transports notice before the loop may end."""
    await session.close()
    await asyncio.sleep(0)
