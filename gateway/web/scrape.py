"""What Prometheus asks for: `/metrics`, on PORT or on a port of its own, and the engine's own with `?engine=1`.

A scrape is no activity: it wakes nothing, waits in no line, and an engine that does not serve is not asked.
"""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

from aiohttp import web

from gateway.conductor import Conductor
from gateway.errors import Refused, refuse, to_json
from gateway.policy.lifecycle.states import State
from gateway.proxy.reply import Answer
from gateway.proxy.upstream import Upstream, Upstreams
from gateway.records.metrics import CONTENT_TYPE, Metrics
from gateway.web import wire
from gateway.web.pages import HEADERS, Page
from gateway.web.routes import READ

if TYPE_CHECKING:
    from gateway.web.gate import Gate

ENGINE_PATH = "/metrics"
"""Where vLLM and llama-server (with --metrics) have theirs; neither counts such a GET as use."""
ENGINE_WITHIN = 5.0
ENGINE_MOST = 4 << 20
"""Bytes. vLLM's own are about 100 KB with one model."""


class Scrape:
    """The metrics of one gateway. Who may read them the gate knows."""

    def __init__(self, conductor: Conductor, upstreams: Upstreams, metrics: Metrics) -> None:
        self._conductor = conductor
        self._upstreams = upstreams
        self._metrics = metrics
        self._asking: asyncio.Task[Page] | None = None
        """The question that the engine has not answered yet. Whoever else wants to know waits for the same answer: the
        page may be open to the world, and is no way to keep an engine busy, or to fill our memory."""

    async def page(self, query: str) -> Page:
        """Raises Refused."""
        if parse_qs(query).get("engine", ["0"])[-1] in ("1", "true"):
            return await self._engines()
        return Page(200, self._metrics.page(), CONTENT_TYPE)

    async def _engines(self) -> Page:
        """The engine's own, as it wrote them. Raises Refused."""
        instance = self._conductor.snapshot().instance
        if self._conductor.state is not State.READY or instance is None:
            state = self._conductor.state.value
            raise refuse("loading", f"The engine does not serve ({state}), and a scrape does not wake it.", retry=False)
        if self._asking is None:
            self._asking = asyncio.create_task(self._ask(self._upstreams.to(self._conductor.name, instance.endpoint)))
            self._asking.add_done_callback(self._answered)
        return await asyncio.shield(self._asking)

    async def _ask(self, upstream: Upstream) -> Page:
        content_type, body = await upstream.page(ENGINE_PATH, within=ENGINE_WITHIN, at_most=ENGINE_MOST)
        return Page(200, body, content_type)

    def _answered(self, asking: "asyncio.Task[Page]") -> None:
        self._asking = None
        if not asking.cancelled():
            asking.exception()  # heard, also where everybody who asked has left


class SideDoor:
    """METRICS_PORT: `/metrics`, and nothing else."""

    def __init__(self, scrape: Scrape, gate: "Gate", on_reject: Callable[[str], None]) -> None:
        self._scrape = scrape
        self._gate = gate
        self._on_reject = on_reject

    async def __call__(self, request: web.BaseRequest) -> Answer:
        identity = ("X-Request-Id", wire.new_request_id())
        try:
            wire.check_head(request)
            path, _, query = request.raw_path.partition("?")
            if path != "/metrics":
                raise refuse("route_not_found", "This port has /metrics, and nothing else.")
            if request.method not in READ:
                raise refuse("method_not_allowed", "/metrics takes GET, HEAD.", headers=(("Allow", "GET, HEAD"),))
            self._gate.may_scrape(request)
            page = await self._scrape.page(query)
        except Refused as refused:
            self._on_reject(refused.refusal.code)
            refusal = refused.refusal
            return Answer(request, refusal.status, to_json(refusal.body()), [*refusal.head(), identity], close=True)
        return Answer(request, page.status, page.body, (*HEADERS, identity), content_type=page.content_type)
