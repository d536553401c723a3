"""Which web pages may call from a browser: CORS, the headers by which a browser learns it. Pure.

A browser asks for itself: it sends `Origin`, and shows an answer to the page only when `Access-Control-Allow-Origin`
names that origin. Programs that are no browser neither ask nor care, so this protects people's browsers, not the
engine; keys protect the engine. Off by default: then no header is added at all. When on, every answer carries the
headers, errors and streams too: a page that may call must be able to read why it was refused.

Chosen, where the Fetch standard leaves a choice:

1. A page that is not listed gets the same answers without the headers, a preflight 204 without permission. Its browser
   does the refusing, and names the missing header in its console; a status of our own would be shown to nobody.
2. No `Access-Control-Allow-Credentials`: keys are headers that the page's program sets, not cookies.
3. Whatever plain header a listed page asks for is allowed (the SDKs' `x-stainless-*`, `anthropic-*`, a tracer's own),
   because the engine gets no header that is not in `proxy/headers.py`'s table. Names that proxies in front write are
   not allowed: behind one, a page could speak in its name.
4. Private network access is granted to listed pages: a page on the internet that speaks to a gateway at home is what
   the operator listed it for. Chrome used to ask this in the preflight (WICG Private Network Access). Now it asks its
   reader (Local Network Access) and sends nothing before he allows it: no header of ours helps there.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Final

Headers = tuple[tuple[str, str], ...]

READABLE: Final = (
    "X-Request-Id",
    "Retry-After",
    "retry-after-ms",
    "x-should-retry",
    "Server-Timing",
    "X-Wakegate-Served-By",
    "WWW-Authenticate",
    *(f"x-ratelimit-{what}-{of}" for what in ("limit", "remaining", "reset") for of in ("requests", "tokens")),
    "openai-processing-ms",
    "openai-version",
    "request-id",
)
"""Headers of an answer that a page's program may read, besides those that it always may (Content-Type and few more).
Named one by one: `*` means only itself in older browsers."""

MAX_AGE: Final = 7200
"""Seconds that a browser may remember a preflight; Chrome remembers none for longer (Firefox: 24 h)."""
NAMES_MAX: Final = 64
"""Headers that a preflight may ask for. The OpenAI SDK asks for about ten."""

_NAME: Final = re.compile(r"[a-z0-9!#$%&'*+.^_`|~-]{1,64}")
_OF_PROXIES: Final = re.compile(
    r"forwarded|via|x-forwarded.*|x-real-ip|x-client-ip|x-cluster-client-ip|true-client-ip|fastly-client-ip|cf-.*"
    r"|x-original-.*|x-http-method.*"
)


class Cors:
    """What is added to answers for browsers. With no origins: nothing."""

    def __init__(self, origins: tuple[str, ...]) -> None:
        """`origins` as `kinds.ORIGINS` reads them; `*` is any."""
        self._origins = frozenset(origins)
        self.is_on = bool(origins)
        """Whether answers carry anything for browsers."""
        self._any = "*" in self._origins
        readable = ("Access-Control-Expose-Headers", ", ".join(READABLE))
        self._for_any: Headers = (("Access-Control-Allow-Origin", "*"), readable)
        self._for_listed: dict[str, Headers] = {
            origin: (("Access-Control-Allow-Origin", origin), readable, ("Vary", "Origin")) for origin in origins
        }
        self._for_others: Headers = (("Vary", "Origin"),) if origins else ()

    def __repr__(self) -> str:
        return f"<Cors {', '.join(sorted(self._origins)) or 'off'}>"

    def allows(self, origin: str | None) -> bool:
        """Whether a page of this origin may call. `null` (a local file, a sandboxed frame) may only where any may."""
        return origin is not None and (self._any or origin in self._origins)

    def headers_for(self, origin: str | None) -> Headers:
        """What every answer carries to a request with this `Origin`. `Vary` also when there is nothing else: a cache in
        between must not give one page's answer to another."""
        if self._any:
            return self._for_any
        return self._for_listed.get(origin or "", self._for_others)

    def preflight(
        self, method: str, request_headers: Mapping[str, str], route_methods: Iterable[str]
    ) -> Headers | None:
        """All CORS headers of the 204 that answers a preflight (those of `headers_for` are among them); None when it is
        none, or CORS is off. `request_headers` are looked up in lower case or by a mapping that ignores case."""
        origin = request_headers.get("origin")
        asked = request_headers.get("access-control-request-method")
        if not self._origins or method != "OPTIONS" or origin is None or asked is None:
            return None
        if not self.allows(origin):
            return _varying(self._for_others)
        granted = [*self.headers_for(origin), ("Access-Control-Allow-Methods", ", ".join(route_methods))]
        if names := _plain_names(request_headers.get("access-control-request-headers", "")):
            granted.append(("Access-Control-Allow-Headers", ", ".join(names)))
        if request_headers.get("access-control-request-private-network") == "true":
            granted.append(("Access-Control-Allow-Private-Network", "true"))
        granted.append(("Access-Control-Max-Age", str(MAX_AGE)))
        return _varying(tuple(granted))


def _plain_names(asked: str) -> list[str]:
    """What of the headers that a page asks for it may send. One that may not be is left out: the browser names it."""
    names = (name.strip().lower() for name in asked.split(",", NAMES_MAX)[:NAMES_MAX])
    return [name for name in names if _NAME.fullmatch(name) and not _OF_PROXIES.fullmatch(name)]


def _varying(headers: Headers) -> Headers:
    """The same, and `Vary` by all that a preflight's answer depends on."""
    rest = tuple((name, value) for name, value in headers if name != "Vary")
    return (*rest, ("Vary", "Origin, Access-Control-Request-Method, Access-Control-Request-Headers"))
