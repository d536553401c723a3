"""The way of one request, from its head to the end of its answer. Each "how" is a named helper or another room.

    head → route → key → body → checks → admission → hold → upstream → record

A refusal may be raised at each step and is rendered in one place, by the Reply. A caller who leaves cancels the
handler's task wherever it stands: the ticket gives back its place or slot, and the closed connection tells the engine.
"""

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from math import inf
from typing import TYPE_CHECKING

from aiohttp import web

from gateway.conductor import SERVING, Conductor, Ticket
from gateway.errors import Refusal, Refused, refuse
from gateway.policy.activity import is_activity
from gateway.policy.keys import Key
from gateway.policy.lifecycle.states import State
from gateway.proxy import dialects, loading_text
from gateway.proxy.bodies import Bodies
from gateway.proxy.checker import Body
from gateway.proxy.gathered import kind_for
from gateway.proxy.headers import upstream_headers
from gateway.proxy.reply import CallerLeft, ReadsNothing, Reply
from gateway.proxy.upstream import Call, Unreached, Upstream, Upstreams
from gateway.web import pages, wire
from gateway.web.admin import Admin
from gateway.web.gate import Gate
from gateway.web.patience import Patience
from gateway.web.places import Places
from gateway.web.quota import Grant
from gateway.web.routes import INFERENCE, METHODS, Kind, Route, Routes
from gateway.web.scrape import Scrape

if TYPE_CHECKING:  # entered only where somebody else may answer
    from gateway.proxy.fallback import Asked, CanWait, Fallback
    from gateway.web.leases import LeaseDesk

log = logging.getLogger(__name__)

_PLAIN_ID = re.compile(r"[A-Za-z0-9._:-]{1,64}")
END_IS_TOLD = 0.1
"""Seconds in which a provider tells that its instance has ended (a local engine's end: 25 to 45 ms after a kill)."""
_OURS = frozenset({"draining", "gateway_fault"})
"""Ends of an answer that the engine would have gone on with."""
_INFERENCE_PATHS = frozenset(route.path for route in INFERENCE)
TAKEN_WITHIN = 12.0
"""Seconds in which a vendor must say that it took a machine away for a broken answer to be asked for again. Shorter
than the usual heartbeat."""
TRIES = 3
"""Times that a request is sent of which the engine can have seen nothing."""
COME_BACK_IN = 15.0
"""Seconds at least, where nobody knows how long it will take."""
SHOWN_EVERY = 5.0
"""Seconds after which somebody who looks at a chat page sees how far it is now."""


class ComeBack(Refused):
    """It was held for as long as it can be; its place in line is kept for a while."""

    def __init__(self, refused: Refused, since: float) -> None:
        super().__init__(refused.refusal)
        self.since = since


@dataclass(slots=True)
class Visit:
    """What is known of one request when it is over: for the metrics and the log, never for a decision."""

    request_id: str
    caller_id: str
    began: float
    state: str
    """What the upstream was when the request came."""
    route: str = ""
    page: str = ""
    """What was shown, for a request that no engine is meant for."""
    key: str = ""
    """The name of its key."""
    model: str = ""
    """As the caller wrote it."""
    bytes_in: int = 0
    outcome: str = "answered"
    code: str = ""
    reached_engine: bool = False
    """Whether it was sent, so that the engine (or the fallback) may have worked on it."""
    served_by: str = ""
    """`fallback` where somebody else gave the answer."""
    unheard: "asyncio.Task[None] | None" = field(default=None, repr=False)
    """The engine's work on it, and its body, where that goes on although the caller left."""
    reply: Reply | None = field(default=None, repr=False)

    def answered_elsewhere(self) -> None:
        """The fallback's answer has begun."""
        self.reached_engine, self.served_by = True, "fallback"

    @property
    def ended_by(self) -> str:
        """Who had the last word: caller, engine, fallback or gateway."""
        if self.outcome == "left":
            return "caller"
        if self.code in _OURS:
            return "gateway"
        if self.served_by:
            return self.served_by
        return "engine" if self.reached_engine or self.outcome == "failed" else "gateway"


class Door:
    """The one handler behind the server."""

    def __init__(
        self,
        *,
        conductor: Conductor,
        upstreams: Upstreams,
        bodies: Bodies,
        routes: Routes,
        show: pages.Pages,
        scrape: Scrape | None,
        gate: Gate,
        patience: Patience,
        strict_models: bool,
        write_timeout: float,
        max_seconds: float | None = None,
        counts_tokens: bool = False,
        cancels: bool = True,
        admin: Admin | None = None,
        fallback: "Fallback | None" = None,
        leases: "LeaseDesk | None" = None,
        shows_loading: bool = False,
        looks_first: bool = False,
        on_end: Callable[[Visit], None],
        is_short_of_memory: Callable[[], bool] = lambda: False,
    ) -> None:
        self._conductor = conductor
        self._upstreams = upstreams
        self._bodies = bodies
        self._routes = routes
        self._pages = show
        self._scrape = scrape
        """None: /metrics has a port of its own."""
        self._gate = gate
        self._patience = patience
        self._strict_models = strict_models
        self._write_timeout = write_timeout
        self._max_seconds = max_seconds
        """That one request may take in all."""
        self._carry = self._forward if max_seconds is None else self._forward_in_time
        self._counts_tokens = counts_tokens
        """Whether the engine is asked to count tokens for those who did not ask."""
        self._cancels = cancels
        """Whether the engine is told when a caller leaves."""
        self._admin = admin
        """Who carries out orders; None: nobody, and there are no paths for them."""
        self._fallback = fallback
        """Who else may answer."""
        self._leases = leases
        """Where leases come in, for something that is rented."""
        self._shows_loading = shows_loading
        """Whether chat pages are shown what a held stream waits for."""
        self._looks_first = looks_first
        """Whether the beginning of what streams through is seen before it starts anything: a start costs money."""
        self._unheard: set[asyncio.Task[None]] = set()
        """Answers that nobody listens to any more."""
        self.places = Places(gate, asyncio.get_running_loop().time)
        """Of callers who were told to come back."""
        self._on_end = on_end
        self._is_short_of_memory = is_short_of_memory
        self._clock = asyncio.get_running_loop().time

    async def __call__(self, request: web.BaseRequest) -> Reply:
        """One request, one Reply. Nothing is raised to the server but CancelledError and a caller who left."""
        visit = Visit(wire.new_request_id(), caller_id(request), self._clock(), self._conductor.state.value)
        reply = Reply(request, dialects.OPENAI, request_id=visit.request_id, write_timeout=self._write_timeout)
        visit.reply = reply
        reply.extra = self._gate.headers(request)
        try:
            await self._way(request, reply, visit)
        except Refused as refused:
            visit.outcome, visit.code = outcome_of(refused.refusal), refused.refusal.code
            await reply.refuse(refused.refusal)
        except CallerLeft as left:
            visit.outcome, visit.code = "left", "write_timeout" if isinstance(left, ReadsNothing) else ""
            reply.cut()
        except asyncio.CancelledError:
            visit.outcome = "left"
            raise
        except Exception:
            visit.outcome, visit.code = "failed", "gateway_fault"
            if not reply.is_open:
                reply.cut()
            raise
        finally:
            self._tell(visit)
        return reply

    def beat(self, now: float) -> None:
        """Every second or so."""
        self.places.beat(now)

    def close(self) -> None:
        """The gateway ends: nothing goes on unheard."""
        for work in self._unheard:
            work.cancel()

    def _tell(self, visit: Visit) -> None:
        """Whoever counts and writes down may fail; the answer was given all the same."""
        try:
            self._on_end(visit)
        except Exception:
            log.exception("the end of request %s could not be told", visit.request_id)

    def _way(self, request: web.BaseRequest, reply: Reply, visit: Visit) -> Awaitable[None]:
        """Whether it may come in, and the way that it goes then. Raises Refused. No coroutine of its own: each costs a
        stream a quarter of a kilobyte for as long as it runs, and every step of it a look."""
        wire.check_head(request)
        if request.method == "OPTIONS":
            return self._say_options(request, reply)
        route, rest = self._routes.find(request.method, request.raw_path)
        reply.dialect = dialects.for_route(route.path)
        if route.kind is Kind.PAGE:
            if route.page == "lease":
                return self._take_lease(request, reply)
            return self._show(route, rest, request, reply, visit)
        if route.kind is Kind.ADMIN:
            return self._administer(route, request, reply, visit)
        key = self._gate.enter(request)
        visit.key = key.name if key is not None else ""
        visit.route = route.path if route.forwarded else ""  # from here on its line can say who asked
        self._gate.let_use(key, route)
        if route.kind is Kind.MODELS:
            return self._show(route, rest, request, reply, visit)
        if route.kind is Kind.WAKE:
            return self._wake(route, key, reply, visit)
        return self._carry(request, route, key, reply, visit)

    async def _say_options(self, request: web.BaseRequest, reply: Reply) -> None:
        """What this path takes; to a browser that asks for a page of another origin, whether that page may. That it may
        is also said of a path that is not there: the page could not read the 404, which says what is meant, else."""
        try:
            route, _ = self._routes.find("OPTIONS", request.raw_path)
        except Refused:
            allow = tuple(sorted(METHODS))
            granted = self._gate.preflight(request, allow)
            if granted is None:
                raise
        else:
            allow = (*route.methods, "OPTIONS")
            granted = self._gate.preflight(request, allow)
        if granted is not None:
            reply.extra = ()  # a preflight has its own, and a browser takes none that comes twice
        await reply.answer(204, b"", (("Allow", ", ".join(allow)), *(granted or ())))

    async def _show(self, route: Route, rest: str, request: web.BaseRequest, reply: Reply, visit: Visit) -> None:
        visit.page = route.path
        if route.page != "metrics":
            page = self._pages.show(route.page, self._gate.visitor(request), rest)
        elif self._scrape is not None:
            self._gate.may_scrape(request)
            page = await self._scrape.page(request.raw_path.partition("?")[2])
        else:
            raise refuse("route_not_found", "/metrics has a port of its own here: METRICS_PORT.")
        await reply.answer(page.status, page.body, pages.HEADERS, content_type=page.content_type)

    # -- orders --------------------------------------------------------------------------------

    async def _administer(self, route: Route, request: web.BaseRequest, reply: Reply, visit: Visit) -> None:
        visit.page = route.path
        self._gate.administer(request)
        page = await self._orders().page(route.page, request)
        await reply.answer(page.status, page.body, pages.HEADERS, content_type=page.content_type)

    async def _wake(self, route: Route, key: Key | None, reply: Reply, visit: Visit) -> None:
        """Whoever may ask may wake, within the same limits: it costs what a first request costs. Nobody is held."""
        visit.page = route.path
        grant = self._gate.grant(key, model=self._usual_model(), tokens=0)
        was_taken = False
        try:
            page = self._orders().wake(f"the key {key.name}" if key is not None else "a caller")
            was_taken = True
        finally:
            self._gate.end(grant, reply, reached_engine=was_taken)  # it counts as one of the key's requests
        await reply.answer(page.status, page.body, pages.HEADERS, content_type=page.content_type)

    def _orders(self) -> Admin:
        if self._admin is None:
            raise refuse("route_not_found", "Nobody takes orders here.")
        return self._admin

    async def _take_lease(self, request: web.BaseRequest, reply: Reply) -> None:
        if self._leases is None:
            raise refuse("route_not_found", "Nothing that is rented runs here.")
        status, body, headers = await self._leases.answer(request, self._gate.address(request))
        await reply.answer(status, body, headers)

    # -- a request for the upstream ------------------------------------------------------------

    async def _forward(
        self, request: web.BaseRequest, route: Route, key: Key | None, reply: Reply, visit: Visit
    ) -> None:
        arrived = self._clock()
        self._supported(route)
        if self._is_short_of_memory():
            raise refuse("overloaded", "This gateway is short of memory.", retry_after=5)
        visit.bytes_in = request.content_length or 0
        call, body = await self._read(request, route, reply)
        try:
            if body is not None:
                visit.model, visit.bytes_in = body.facts.model or "", visit.bytes_in or body.size
            came = body
            model = visit.model or self._usual_model()
            place = self.places.find(key, route, came, model=model) if self.places.any else None
            grant = place.grant if place is not None else self._grant(key, body, model)
            extra = reply.extra
            reply.extra = (*extra, *grant.headers)
            told: ComeBack | None = None
            try:
                if body is not None and body.wanted:
                    body = await self._bodies.with_images(body)
                since = place.since if place is not None else None
                if self._fallback is None or body is None:
                    await self._deliver(request, call, body, reply, visit, arrived, since)
                else:
                    may = key is None or key.fallback
                    asked = self._fallback.asked(
                        request.headers,
                        route.path,
                        body,
                        reply,
                        key_may=may,
                        on_answer=visit.answered_elsewhere,
                        can_wait=partial(self._can_wait, request.headers, reply, arrived),
                    )
                    deliver = partial(self._deliver, request, call, body, reply, visit, arrived, since)
                    await self._deliver_here_or_there(self._fallback, asked, deliver, visit, grant)
            except ComeBack as error:
                told = error
                raise
            finally:
                if visit.unheard is not None:  # settled once the engine is done with it, whoever listens
                    visit.unheard.add_done_callback(lambda _: self._gate.end(grant, reply, reached_engine=True))
                elif told is None or not self.places.keep(
                    key, route, came, grant, since=told.since, retry_after=told.refusal.retry_after or 0
                ):
                    self._gate.end(grant, reply, reached_engine=visit.reached_engine)
                reply.extra = (*extra, *grant.headers)  # a refusal is yet to be said: it shows what was given back
        finally:
            if body is not None and visit.unheard is None:
                body.close()
        if reply.status >= 400:
            visit.code = str(reply.status)

    def _can_wait(self, headers: Mapping[str, str], reply: Reply, arrived: float) -> "CanWait":
        """How long somebody else may say nothing: on the clock of the hold that would follow."""
        from gateway.proxy.fallback import CanWait

        seconds = self._patience.elsewhere(headers, streams=reply.streams)
        grace, pulse = self._patience.pulse(headers)
        return CanWait(None if seconds is None else arrived + seconds, arrived + grace, pulse)

    def _grant(self, key: Key | None, body: Body | None, model: str | None) -> Grant:
        tokens = body.facts.max_tokens if body is not None else 0
        return self._gate.grant(key, model=model, tokens=tokens)

    async def _forward_in_time(
        self, request: web.BaseRequest, route: Route, key: Key | None, reply: Reply, visit: Visit
    ) -> None:
        """The same within MAX_REQUEST_SECONDS, the arrival of its body included."""
        seconds = self._max_seconds or 0.0
        try:
            async with asyncio.timeout_at(visit.began + seconds) as limit:
                await self._forward(request, route, key, reply, visit)
        except TimeoutError as error:
            if not limit.expired():
                raise
            said = f"This request took longer than MAX_REQUEST_SECONDS ({seconds:g} s)."
            raise refuse("backend_timeout", said) from error

    def _usual_model(self) -> str | None:
        """What a request that names no model gets."""
        models = self._conductor.models
        return models[0] if models else None

    async def _deliver_here_or_there(
        self, fallback: "Fallback", asked: "Asked", deliver: Callable[[], Awaitable[None]], visit: Visit, grant: Grant
    ) -> None:
        """Somebody else answers while nothing is ready, and where the operator wants that rather than a refusal."""
        why = fallback.wanted_for()
        if why:
            self._gate.leave_engine(grant)
            if await fallback.answer(asked, why):
                return
            self._gate.need_engine(grant)
        try:
            await deliver()
        except Refused as refused:
            case = fallback.case_of(refused.refusal.code)
            if case in ("", why) or visit.reached_engine or not asked.reply.may_begin:
                raise
            self._gate.leave_engine(grant)
            if not await fallback.answer(asked, case):
                raise

    async def _deliver(
        self,
        request: web.BaseRequest,
        call: Call,
        body: Body | None,
        reply: Reply,
        visit: Visit,
        arrived: float,
        since: float | None = None,
    ) -> None:
        """Wait for the turn and carry it; again only while the engine can have seen nothing of it. `since`: when it
        came first, if it was told to come back."""
        patience = self._patience.of(request.headers, streams=reply.streams)
        if reply.streams:
            call.pulse = self._patience.pulse(request.headers)[1]
        size, slots = (body.size, body.facts.slots) if body is not None else (0, 1)
        limit = ""
        for attempt in range(TRIES):
            verdict = self._conductor.admit(
                f"{reply.request_id}.{attempt}", size=size, patience=patience, slots=slots, since=since
            )
            if isinstance(verdict, Refusal):
                raise Refused(verdict)
            with verdict as ticket:
                ticket.carried_by(asyncio.current_task())
                try:
                    if ticket.instance is None:
                        if self._shows_loading and reply.streams and call.path in loading_text.ROUTES:
                            reply.show_loading(visit.model or self._usual_model() or self._conductor.name)
                        await self._hold(ticket, request.headers, reply, arrived, patience)
                    self._note_wait(reply, arrived)
                    if body is not None:
                        self._fill(call, body)  # not earlier: what the engine calls its model it says when it is ready
                    visit.reached_engine = True
                    if self._cancels:
                        await self._upstream(ticket).pipe(call, reply)
                    else:
                        await self._see_through(ticket, call, body, reply, visit)
                    return
                except Unreached as unreached:
                    visit.reached_engine = False
                    ticket.active = False
                    limit, since = unreached.limit, ticket.since
                    await asyncio.sleep(END_IS_TOLD)  # then we wait in line
                    await self._conductor.is_taken(ticket, TAKEN_WITHIN)
                except Refused as refused:
                    ticket.active = is_activity(refused.refusal.status)
                    if refused.refusal.code == "backend_lost":
                        # The slot of an engine that broke off stays taken until its end is known: else the next in
                        # line would be sent to a dying one, whose door is open a moment longer than its connections.
                        await asyncio.sleep(END_IS_TOLD)
                    if not await self._may_ask_another(refused.refusal.code, ticket, body, reply):
                        raise
                    visit.reached_engine, since = False, ticket.since
                finally:
                    ticket.active = ticket.active and is_activity(reply.status or None)
        within = f" within {limit}" if limit else ""
        raise refuse("backend_unavailable", f"The engine cannot be reached{within}.", retry_after=5)

    async def _may_ask_another(self, code: str, ticket: Ticket, body: Body | None, reply: Reply) -> bool:
        """Whether the machine was taken away before its caller heard anything: then nobody will ever answer this, and
        it is held for the next one. That the vendor took it away must be known: what may have run, runs once."""
        if code not in ("backend_lost", "backend_unavailable") or body is None or not reply.may_begin:
            return False
        return await self._conductor.is_taken(ticket, TAKEN_WITHIN)

    async def _see_through(self, ticket: Ticket, call: Call, body: Body | None, reply: Reply, visit: Visit) -> None:
        """As `pipe`, for an engine that must not hear of a caller's leaving: its answer is read to the end, and its
        slot is taken until then. Where the gateway ends it (a drain, MAX_REQUEST_SECONDS) the engine hears of that: its
        caller is still there, and is told something else."""
        reply.goes_on = True
        work = asyncio.ensure_future(self._pipe_on(ticket, call, reply, visit))
        try:
            await asyncio.shield(work)
        except asyncio.CancelledError:
            if work.done() or ticket.cut_short is not None or not reply.is_left:
                work.cancel()
                await asyncio.wait({work})  # it says nothing more, and has told what it saw
                raise
            visit.unheard = work
            self._unheard.add(work)
            work.add_done_callback(self._unheard.discard)
            if self._max_seconds is not None:  # its caller's clock ended with its caller
                end = asyncio.get_running_loop().call_at(visit.began + self._max_seconds, work.cancel)
                work.add_done_callback(lambda _: end.cancel())
            work.add_done_callback(partial(_heard_by_nobody, body))
            ticket.goes_on_without_its_caller(work)
            raise

    async def _pipe_on(self, ticket: Ticket, call: Call, reply: Reply, visit: Visit) -> None:
        """As `pipe`, whoever listens."""
        try:
            await self._upstream(ticket).pipe(call, reply)
        except Refused as refused:
            if visit.unheard is not None and refused.refusal.code == "backend_lost":
                await asyncio.sleep(END_IS_TOLD)  # as in `_deliver`, which is over
            raise

    def _upstream(self, ticket: Ticket) -> Upstream:
        if ticket.instance is None:
            raise RuntimeError(f"{ticket!r} has its turn, and nothing to turn to")
        return self._upstreams.to(self._conductor.name, ticket.instance.endpoint)

    def _supported(self, route: Route) -> None:
        routes = self._conductor.provider.profile.routes
        if routes is not None and route.path not in routes and route.path in _INFERENCE_PATHS:
            raise refuse("route_not_supported", f"This engine has no {route.path}.")

    async def _read(self, request: web.BaseRequest, route: Route, reply: Reply) -> tuple[Call, Body | None]:
        """The request as it will be sent, and the checked body that is held for it meanwhile."""
        headers = upstream_headers(request.headers.items())
        headers.append(("X-Request-Id", reply.request_id))
        if request.method != "POST":
            return Call("GET", route.path, headers), None
        if route.kind is Kind.MULTIPART:
            self._bodies.check_head(request, json=False)
            length = request.content_length if "Content-Length" in request.headers else None
            looks = self._looks_first and self._conductor.state not in SERVING
            arrival = await self._bodies.stream_begun(request) if looks else self._bodies.stream(request)
            return Call("POST", route.path, headers, arrival, length), None
        self._bodies.check_head(request, json=True)
        body = await self._bodies.read(request, route.short or route.path)
        facts = body.facts
        if lacks := facts.lacks:  # every engine would refuse it: none is woken to do so
            body.close()
            raise refuse("invalid_request", f"`{lacks}` must be there, and be a list.", param=lacks)
        try:
            self._check_model(body)
        except Refused:
            body.close()
            raise
        reply.streams = facts.stream and reply.dialect.streams
        call = Call("POST", route.path, headers, choices=facts.choices)
        call.hides_usage = self._counts_tokens and not facts.include_usage
        call.gathered = kind_for(route.path) if facts.gathered else None
        return call, body

    def _check_model(self, body: Body) -> None:
        """With MODEL_CHECK=strict only what is served; as long as nobody knows what that is, everything."""
        served = self._conductor.models
        if self._strict_models and served and body.facts.model not in served:
            raise refuse("model_not_found", f"No such model here. Served: {', '.join(served)}.", param="model")

    def _fill(self, call: Call, body: Body) -> None:
        """The body under the name that the engine knows, whatever the caller calls its model."""
        self._check_model(body)
        model = body.facts.model
        name = self._conductor.name_for(model)
        named = body if name is None or name == model else body.with_model(name)
        call.body, call.length, call.on_heard = named.chunks, named.size, body.let_go

    # -- holding -------------------------------------------------------------------------------

    async def _hold(
        self, ticket: Ticket, headers: Mapping[str, str], reply: Reply, arrived: float, patience: float | None
    ) -> None:
        """Wait for this request's turn: a stream in company, anything else silently and not for longer than it can."""
        now = self._clock()
        grace, pause = self._patience.pulse(headers)
        beat = max(now, arrived + grace) if reply.streams else inf
        if reply.loading_text is not None:
            pause = min(pause, SHOWN_EVERY)
        deadline = inf if patience is None else arrived + patience
        if self._patience.rejects and self._conductor.state not in SERVING:
            deadline = now
        try:
            while await ticket.wait(max(0.0, min(beat, deadline) - now)) is None:
                if self._clock() >= deadline:
                    raise self._not_yet(ticket, self._clock() - arrived)
                await reply.heartbeat(self._company())
                now = self._clock()
                beat = now + pause
        except BaseException:  # whoever left or was sent back has waited, too
            self._note_wait(reply, arrived)
            raise

    def _note_wait(self, reply: Reply, arrived: float) -> None:
        """What of the wait was the upstream's waking, and what the line behind others."""
        waited = self._clock() - arrived
        woke = waited
        if self._conductor.state in SERVING:
            woke = min(waited, max(0.0, self._conductor.since - arrived))
        reply.timings["line"] = waited - woke
        reply.timings["wake"] = woke

    def _company(self) -> str:
        """What a held stream hears. Nothing here is secret: no model, no path, no number of others."""
        snapshot = self._conductor.snapshot()
        if snapshot.state is State.READY:
            return "in line"
        said = "waking" if snapshot.progress is None else snapshot.progress.text()
        return f"trying again: {said}" if snapshot.failures else said

    def _not_yet(self, ticket: Ticket, waited: float) -> Refused:
        """It can wait no longer. What is under way goes on without it."""
        held = f"not ready within {waited:.0f} s" if waited >= 1 else "not ready yet"
        if self._conductor.state in SERVING:
            refused = refuse("queue_timeout", f"Waited {waited:.0f} s in line; others are before you.", retry_after=10)
        else:
            self._conductor.wake()  # whoever comes back wants it up, also where it pauses between two tries
            said = f"The model is waking ({self._company()}); {held}. Come back: the wake goes on."
            refused = refuse("loading", said, retry_after=self._expected_wait())
        return ComeBack(refused, ticket.since)

    def _expected_wait(self) -> float:
        """Seconds until it probably serves. What nobody can tell, because it never was or takes longer than ever, is
        taken to last as long again as it has: who asks too early each time is out of tries before it is there."""
        expected = self._conductor.expected_wait()
        if expected is None:
            progress = self._conductor.snapshot().progress
            expected = max(COME_BACK_IN, progress.elapsed if progress is not None else 0.0)
        return max(1.0, expected)


def _heard_by_nobody(body: Body | None, work: "asyncio.Future[None]") -> None:
    """How it ended is told to nobody, but must not be logged as forgotten."""
    if body is not None:
        body.close()
    if not work.cancelled():
        work.exception()


def outcome_of(refusal: Refusal) -> str:
    return "failed" if refusal.code.startswith("backend_") else "refused"


def caller_id(request: web.BaseRequest) -> str:
    """The caller's own X-Request-Id, for our log only, if it is short and plain."""
    said = request.headers.get("X-Request-Id")
    return said if said and _PLAIN_ID.fullmatch(said) else ""
