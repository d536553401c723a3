"""Who may come in, from where, with which key, and how often: everything that is asked before a request may cost
anything.

In this order: what a browser says of the page behind it (keys off), the key, what the key may, and, once its body is
known, the key's limits. Each is a room of its own; the door asks here only.
"""

import asyncio
import time
from collections.abc import Callable, Iterable

from aiohttp import web

from gateway.errors import Refused, refuse
from gateway.policy.keys import Key
from gateway.proxy.reply import Reply
from gateway.web.auth import Keys, check_browser, may_ask_for, may_use
from gateway.web.cors import Cors
from gateway.web.pages import Visitor
from gateway.web.peers import Peers
from gateway.web.quota import Grant, Quotas
from gateway.web.routes import Route


class Gate:
    """Stands before the door. Raises Refused, and knows nothing of upstreams."""

    def __init__(
        self,
        *,
        keys: Keys,
        admin: Keys,
        quotas: Quotas | None = None,
        cors: Cors | None = None,
        peers: Peers | None = None,
        origins: Iterable[str] = (),
        secure: bool = False,
        metrics_open: bool = True,
        on_refused: Callable[[str], None] = lambda why: None,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self._keys = keys
        self._admin = admin
        self._quotas = quotas or Quotas()
        self._cors = cors or Cors(())
        self._peers = peers or Peers(())
        self._origins = frozenset(origins)
        self._secure = secure
        """Whether this port speaks TLS itself."""
        self._metrics_open = metrics_open
        """Whether /metrics is for everybody."""
        self._on_refused = on_refused
        """Hears why somebody may not come in: a word of a closed set."""
        self._clock = clock or asyncio.get_running_loop().time

    # -- from where ----------------------------------------------------------------------------

    def headers(self, request: web.BaseRequest) -> tuple[tuple[str, str], ...]:
        """What a browser must see on every answer, errors included."""
        return self._cors.headers_for(request.headers.get("Origin")) if self._cors.is_on else ()

    def preflight(self, request: web.BaseRequest, methods: tuple[str, ...]) -> tuple[tuple[str, str], ...] | None:
        """The answer to a browser that asks before it sends; None: it is no such question, or not for us to allow."""
        return self._cors.preflight(request.method, request.headers, methods)

    def address(self, request: web.BaseRequest) -> str:
        """The caller's own address, as far as it is to be believed."""
        return self._peers.address_of(_peer(request), request.headers.getall("X-Forwarded-For", ()))

    def base(self, request: web.BaseRequest) -> str:
        """Where this caller reached us, for a line to paste. Shown to that caller only; nothing is decided by it."""
        said = request.headers.getall("X-Forwarded-Proto", ())
        scheme = self._peers.scheme_of(_peer(request), said, "https" if self._secure else "http")
        return f"{scheme}://{request.headers.get('Host', 'localhost:8000')}"

    # -- who -----------------------------------------------------------------------------------

    def enter(self, request: web.BaseRequest) -> Key | None:
        """The key that came, None with keys off. Raises Refused: 401, 403 (a web page), 429."""
        try:
            if not self._keys.enabled:
                check_browser(request.headers, origins=self._origins)
                return None
            raw = request.raw_headers
            if (key := self._keys.known(raw)) is not None:
                return key
            # Only now does it matter where it came from, which takes longer to tell than the key.
            return self._keys.check(raw, address=self.address(request), now=self._clock(), wall=time.time())
        except Refused as refused:
            self._on_refused(refused.refusal.why or "other")
            raise

    def let_use(self, key: Key | None, route: Route) -> None:
        """Whether whoever this is may use this route. Raises Refused, 403."""
        if key is None or not key.routes or (route.short and key.may_use(route.short)):
            return
        try:
            may_use(key, route.path)
        except Refused as refused:
            self._on_refused(refused.refusal.why)
            raise

    def administer(self, request: web.BaseRequest) -> None:
        """Whether this comes with the admin key. Raises Refused: 401, 429."""
        try:
            address, now = self.address(request), self._clock()
            if self._admin.check(request.raw_headers, address=address, now=now, wall=time.time()) is None:
                raise refuse("route_not_found", "There is no admin key here.")  # nor are these paths, without one
        except Refused as refused:
            self._on_refused(refused.refusal.why or "other")
            raise

    def visitor(self, request: web.BaseRequest) -> Visitor:
        """What an open page may show to whoever this is."""
        raw, wall = request.raw_headers, time.time()
        key = self._keys.known(raw, wall=wall)
        is_admin = self._admin.known(raw, wall=wall) is not None
        if key is None and not is_admin:
            self._keys.count_wrong(raw, address=self.address(request), now=self._clock())
        return Visitor(
            has_key=key is not None,
            is_admin=is_admin,
            base=self.base(request),
            models=key.models if key is not None else frozenset(),
        )

    def may_scrape(self, request: web.BaseRequest) -> None:
        """Whether whoever this is may read /metrics. Raises Refused: 401, 429.

        Where it is closed its answer tells whether a key is right: so wrong ones are counted there as at any door.
        """
        raw, wall = request.raw_headers, time.time()
        if self._metrics_open or self._admin.known(raw, wall=wall) is not None:
            return
        try:
            if self._keys.check(raw, address=self.address(request), now=self._clock(), wall=wall) is None:
                said = "METRICS_AUTH_ENABLED is on, and keys are off: the admin key alone may read this."
                raise refuse("invalid_api_key", said, why="missing")
        except Refused as refused:
            self._on_refused(refused.refusal.why or "other")
            raise

    # -- how often -----------------------------------------------------------------------------

    def grant(self, key: Key | None, *, model: str | None, tokens: int) -> Grant:
        """Leave for one request within the key's limits. Then `end` it, always."""
        if key is not None and key.models:
            self._let_ask(key, model)
        return self._quotas.admit(key, tokens=tokens, now=self._clock(), wall=time.time())

    def go_on(self, grant: Grant, key: Key | None, *, model: str | None) -> Grant:
        """Leave for one who was told to come back, and is there again with the same request. Raises Refused: the keys
        may have been changed meanwhile."""
        if key is not None and key.models:
            self._let_ask(key, model)
        return self._quotas.go_on(grant, key, self._clock(), time.time())

    def _let_ask(self, key: Key, model: str | None) -> None:
        try:
            may_ask_for(key, model)
        except Refused as refused:
            self._on_refused(refused.refusal.why)
            raise

    def leave_engine(self, grant: Grant) -> None:
        """Somebody else is asked for its answer. Then `need_engine`, unless that one gives it."""
        grant.leave_engine(self._clock())

    def need_engine(self, grant: Grant) -> None:
        """It waits for the engine after all."""
        grant.need_engine(self._clock(), time.time())

    def rest(self, grant: Grant) -> None:
        """Its caller is told to come back. Then `go_on`, or `forget`."""
        grant.rest(self._clock())

    def forget(self, grant: Grant) -> None:
        """Its caller did not come back: what it took is given back."""
        grant.close(self._clock(), reached_engine=False)

    def end(self, grant: Grant, reply: Reply, *, reached_engine: bool) -> None:
        """The request is over: what it used is taken, and what it did not is given back."""
        grant.close(self._clock(), used=reply.usage, events=reply.events, reached_engine=reached_engine)


def _peer(request: web.BaseRequest) -> str | None:
    """The socket's own other end; None for a unix socket."""
    transport = request.transport
    peer = transport.get_extra_info("peername") if transport is not None else None
    return peer[0] if isinstance(peer, tuple) else None
