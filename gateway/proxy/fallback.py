"""Somebody else answers: an API that is paid per token, while the GPU wakes or where it cannot serve.

    answered = await fallback.answer(asked, why="waking")       False: nothing was said, the caller is held as usual

The order of things: may this request leave (`policy/fallback.py`)? what of it leaves (`outgoing.py`)? is there money
for it (`purse.py`)? is the other one well (`Circuit`)? Then it is asked like an engine, over the same client. As long
as it has said nothing the caller has lost nothing: whatever goes wrong, it is held for the GPU instead; so it is when
the GPU is ready first. It is asked for no longer than its caller can wait. A stream that breaks in the middle ends with
an error event, as any stream does.

Each answer is one fact (`Answered`), for the metrics. What an operator has to know is said once, until it works again.
"""

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from math import inf
from typing import Final, Literal

from gateway.conductor import SERVING, Conductor
from gateway.errors import Refused, refuse
from gateway.policy.fallback import CASE_OF, WAKING, Circuit, Objection, Rules, WakeAfter
from gateway.policy.lifecycle.states import State
from gateway.providers.base import Endpoint
from gateway.proxy.checker import Body
from gateway.proxy.outgoing import Manner, Outgoing, learnt, outgoing
from gateway.proxy.purse import Purse, Reserved
from gateway.proxy.reply import CallerLeft, Reply
from gateway.proxy.upstream import Away, Call, Declined, Limits, Unreached, Upstream
from gateway.proxy.usage import Usage

FORBIDS: Final = "X-Wakegate-Fallback"
"""A request with this header stays here, whatever it says: a header may only forbid."""
SERVED_BY: Final = ("X-Wakegate-Served-By", "fallback")
FIRST_BYTE: Final = 30.0
"""Seconds until a stream begins. A caller hears nothing meanwhile, and could be held instead."""
ANSWER: Final = 280.0
"""Seconds for an answer that does not stream. Node's fetch gives up at 300; until then the caller can still be held."""
ANSWER_BEHIND_EDGE: Final = 85.0
"""The same where an edge in front cuts silent answers: its caller must be told to come back before that."""
NEARLY: Final = 0.9
"""The share of its time in which one that says nothing is at fault, though its caller's patience ended first."""
SILENT: Final = 5.0
"""Seconds after which one that has said nothing is left for an engine that is ready."""
CONNECT: Final = 5.0
_FAULT_OF_ITS_REQUEST: Final = frozenset({400, 413, 415, 422})
"""Statuses that say nothing of the fallback: another request may go well. Ours may serve this one, too."""
_LEFT_ALONE: Final = 60.0
"""Seconds at least after a failure that only an operator can do something about."""
_HELP: Final = (
    ((401, 403, 407), "it refuses the key: FALLBACK_API_KEY"),
    ((402,), "its account has no money, or FALLBACK_API_KEY is another's"),
    ((404, 405), "it has no {route}, or no such model: FALLBACK_URL, FALLBACK_MODEL"),
    (range(400), "what comes is no answer of an API: FALLBACK_URL"),
)
"""By status: what only an operator can do something about."""
ELSEWHERE: Final = "waiting for an answer"
"""What a stream hears meanwhile."""

Outcome = Literal["answered", "declined", "unreached", "broke", "left"]
OUTCOMES: Final = ("answered", "declined", "unreached", "broke", "left")


@dataclass(frozen=True, slots=True)
class CanWait:
    """How long a caller can hear nothing. Loop times, on the clock of the hold that may follow."""

    until: float | None = None
    """By then a stream has begun, and any other answer has come whole; None: as long as the fallback's limits say."""
    opens_at: float = inf
    """Until then nothing is committed, so that a stream's head can still say who answers."""
    pulse: float = inf
    """Seconds between two heartbeats of a stream from then on."""


@dataclass(slots=True)
class Asked:
    """One request that somebody else might answer."""

    headers: Mapping[str, str]
    """The caller's. None of them leaves."""
    route: str
    body: Body
    reply: Reply
    key_may: bool
    on_answer: Callable[[], None] = field(repr=False)
    """Called when somebody else's answer has begun."""
    can_wait: Callable[[], CanWait] = field(default=CanWait, repr=False)
    """Asked only where somebody else is."""
    until: float | None = None
    """Of what it said."""
    company: "asyncio.Task[None] | None" = field(default=None, repr=False)
    """Keeps a stream alive until its answer begins, and is cancelled then."""


@dataclass(frozen=True, slots=True)
class Answered:
    """What came of asking."""

    outcome: Outcome
    why: str
    usage: Usage | None
    cost: int
    """Micro-dollars; 0 where nobody knows a price."""


@dataclass(slots=True, eq=False)
class _Errand:
    """One request on its way."""

    task: "asyncio.Task[object] | None"
    bytes: int
    """Of its body, as long as that is held."""
    recalled_from: float = inf
    """Loop time from which on it is left for an engine that is ready."""
    is_cut: bool = False
    is_recalled: bool = False
    """The engine was ready first."""
    has_begun: bool = False
    silence: asyncio.Timeout | None = None
    """How much longer it may say nothing, as long as it is asked and has not begun."""

    def let_go(self) -> int:
        """The bytes that are free now."""
        free, self.bytes = self.bytes, 0
        return free

    def speaks(self) -> None:
        """From here on the answer is the fallback's."""
        if self.silence is not None:
            self.silence.reschedule(None)
            self.silence = None

    def recall(self, now: float) -> None:
        if self.silence is not None and not self.silence.expired():
            self.is_recalled = True
            self.silence.reschedule(now)


class Fallback:
    """The one that is asked. Close it when the gateway ends."""

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        model: str,
        rules: Rules,
        conductor: Conductor,
        purse: Purse,
        limits: Limits,
        most_bytes: int = 1 << 28,
        wake_after: WakeAfter | None = None,
        on_answered: Callable[[Answered], None] = lambda answered: None,
        on_objection: Callable[[Objection], None] = lambda objection: None,
        say: Callable[[str, str], None] = lambda line, level: None,
    ) -> None:
        """`endpoint`: what stands before `/chat/completions` is its url and prefix. `wake_after`: None when each
        request wakes. `most_bytes`: of bodies that may be on their way there at once. `say` gets a line for the log
        and its level."""
        self.purse = purse
        self._endpoint = endpoint
        self._upstream = Upstream(endpoint, limits)
        self._limits = limits
        self._rules = rules
        self._conductor = conductor
        self._wake_after = wake_after
        self._manner = Manner(model, limited=purse.limit is not None)
        self._circuits = {route: Circuit() for route in rules.routes}
        """One for each route: an API without `/completions` can be well all the same."""
        self._said: dict[str, str] = {}
        """What is wrong, by route."""
        self._most_bytes = most_bytes
        self._bytes = 0
        """Of bodies on their way."""
        self._on_answered = on_answered
        self._on_objection = on_objection
        self._say = say
        self._under_way: set[_Errand] = set()
        self._all_back = asyncio.Event()
        self._clock = asyncio.get_running_loop().time

    def __repr__(self) -> str:
        return f"<Fallback {self._endpoint.url}, {self.state}, {self.purse!r}, {len(self._under_way)} under way>"

    @property
    def state(self) -> str:
        """How it is doing, in one line."""
        wrong = "; ".join(dict.fromkeys(self._said.values()))
        return (f"left alone for now: {wrong}" if wrong else self.purse.state) or "ok"

    # -- when ----------------------------------------------------------------------------------

    def wanted_for(self) -> str:
        """Why a request that comes now should be answered elsewhere, before it gets in line; empty: it need not.

        It wakes the GPU, unless WAKE_AFTER wants more of them first. Once for each request.
        """
        if WAKING not in self._rules.when or self._conductor.state in SERVING:
            return ""
        if self._wake_after is None or self._wake_after.came(self._clock()):
            self._conductor.wake()
        if self._conductor.state is State.FAILED:
            return "start_failed" if "start_failed" in self._rules.when else ""
        return WAKING

    def case_of(self, code: str) -> str:
        """Which of the operator's cases this refusal is; empty: none."""
        case = CASE_OF.get(code, "")
        return case if case in self._rules.when else ""

    # -- one request ---------------------------------------------------------------------------

    @staticmethod
    def asked(
        headers: Mapping[str, str],
        route: str,
        body: Body,
        reply: Reply,
        *,
        key_may: bool,
        on_answer: Callable[[], None],
        can_wait: Callable[[], CanWait] = CanWait,
    ) -> Asked:
        """One request that might be answered here. `on_answer`: called when its answer has begun."""
        return Asked(headers, route, body, reply, key_may, on_answer, can_wait)

    async def answer(self, asked: Asked, why: str) -> bool:
        """Whether it was answered. False: nothing was said, and it can be held. Raises Refused where its stream broke,
        or the gateway ends."""
        objection: Objection | Literal["failed"] | None = self._rules.objection(
            route=asked.route, forbids=FORBIDS in asked.headers, key_may=asked.key_may
        )
        if not objection:
            async with self._company(asked):
                objection = await self._try(asked, why)
        if objection is None:
            return True
        if objection != "failed":
            self._on_objection(objection)
        return False

    @contextlib.asynccontextmanager
    async def _company(self, asked: Asked) -> AsyncIterator[None]:
        """For a stream, whatever is waited for: the purse's disk, a connection, a first word."""
        can_wait = asked.can_wait()
        asked.until = can_wait.until
        if not asked.reply.streams or can_wait.opens_at == inf:
            yield
            return
        asked.company = company = asyncio.create_task(self._keep_company(asked.reply, can_wait))
        try:
            yield
        finally:
            company.cancel()
            await asyncio.wait({company})

    async def _keep_company(self, reply: Reply, can_wait: CanWait) -> None:
        if reply.is_open:
            await asyncio.sleep(can_wait.opens_at - self._clock())
        pulse = min(can_wait.pulse, self._limits.heartbeat)
        with contextlib.suppress(CallerLeft):  # whoever carries its request hears of that, too
            while True:
                await reply.heartbeat(ELSEWHERE)
                await asyncio.sleep(pulse)

    async def _try(self, asked: Asked, why: str) -> Objection | Literal["failed"] | None:
        """None: it was answered."""
        for _ in range(2):
            if asked.until is not None and self._clock() >= asked.until:
                return "failed"  # its time is over before it began
            readable = asked.body.readable
            if self._bytes + asked.body.size > self._most_bytes:
                return "crowded"
            out = outgoing(readable, asked.route, asked.body.facts, self._manner) if readable is not None else None
            if out is None:
                return "request"
            if not self._circuits[asked.route].may(self._clock()):
                return "paused"
            with self._on_its_way(asked.body) as errand:
                reserved = await self._reserve(out, self._circuits[asked.route])
                if isinstance(reserved, str):
                    return reserved
                before = self._manner
                if await self._go(asked, reserved, why, errand):
                    return None
            if self._manner is before:
                break  # else it wants the same in another word, and gets it
        return "failed"

    @contextlib.contextmanager
    def _on_its_way(self, body: Body) -> Iterator[_Errand]:
        """A drain waits for it, from before its money is reserved, and says so where it cuts it: raises Refused."""
        errand = _Errand(asyncio.current_task(), body.size)
        self._under_way.add(errand)
        self._bytes += errand.bytes
        try:
            yield errand
        except asyncio.CancelledError:
            if not errand.is_cut or errand.task is None:
                raise
            errand.task.uncancel()
            said = "This gateway is shutting down, and the time for running answers is over."
            raise refuse("draining", said) from None
        finally:
            self._under_way.discard(errand)
            self._bytes -= errand.let_go()
            if not self._under_way:
                self._all_back.set()

    async def _reserve(self, out: Outgoing, circuit: Circuit) -> Reserved | Objection:
        reserved: Reserved | Objection = "spend"
        try:
            reserved = await self.purse.reserve(out)
        finally:
            if isinstance(reserved, str):
                circuit.left()
        return reserved

    async def _go(self, asked: Asked, reserved: Reserved, why: str, errand: _Errand) -> bool:
        reply, extra = asked.reply, asked.reply.extra
        outcome: Outcome = "left"
        was_read = True
        sent_at = self._clock()
        try:
            async with asyncio.timeout_at(asked.until) as silence:
                if why == WAKING:  # any other is asked because of what the engine said
                    errand.recalled_from = sent_at + SILENT
                errand.silence = silence
                await self._upstream.pipe(self._call(asked, reserved.out, errand), reply)
            outcome = "answered"
            self._worked(asked.route)
            if not errand.has_begun:
                asked.on_answer()
        except Unreached as error:
            outcome, was_read = "unreached", False
            self._failed(asked.route, f"it cannot be reached ({error}); FALLBACK_URL says where it is")
        except Declined as declined:
            outcome, was_read = "declined", declined.was_read
            self._was_declined(asked.route, declined)
        except TimeoutError:
            if not silence.expired():
                raise
            if not errand.is_recalled and self._clock() - sent_at >= NEARLY * self._most_silence(reply):
                outcome = "broke"
                self._failed(asked.route, _LOGGED["backend_timeout"])
        except Refused as refused:
            outcome = "broke"
            self._failed(asked.route, _LOGGED.get(refused.refusal.code, "it failed in the middle of an answer"))
            if errand.has_begun or not reply.may_begin:
                raise refuse(refused.refusal.code, _words(refused)) from refused
        finally:
            errand.silence = None
            if outcome == "left":
                self._circuits[asked.route].left()
            # What was said of an answer that did not come whole may be of its beginning: some count in each event.
            is_all = outcome == "answered" or self.purse.limit is None
            usage = reply.usage if is_all else None
            cost = self.purse.settle(reserved, usage, events=reply.events, was_read=was_read)
            self._on_answered(Answered(outcome, why, reply.usage, cost))
            if outcome != "answered" and reply.may_begin:
                reply.extra, reply.usage = extra, None
        return outcome == "answered"

    def _most_silence(self, reply: Reply) -> float:
        return self._limits.first_byte if reply.streams else self._limits.answer

    def _call(self, asked: Asked, out: Outgoing, errand: _Errand) -> Call:
        facts, streams = asked.body.facts, asked.reply.streams
        models = self._conductor.models

        def begun(is_stream: bool) -> None:
            errand.speaks()
            asked.reply.extra = (*asked.reply.extra, SERVED_BY)
            if asked.company is not None:
                asked.company.cancel()
            if is_stream:  # any other answer may still turn out to be none, and its body is needed again
                errand.has_begun = True
                asked.on_answer()
                asked.body.let_go()
                self._bytes -= errand.let_go()

        call = Call(
            "POST",
            asked.route.removeprefix("/v1"),
            [
                ("Content-Type", "application/json"),
                ("Accept", "text/event-stream" if streams else "application/json"),
                ("User-Agent", "WakeGate"),
            ],
            body=out.chunks,
            length=out.size,
            choices=facts.choices,
            pulse=asked.can_wait().pulse,
            hides_usage=not facts.include_usage,
        )
        call.away = Away(facts.model or (models[0] if models else None), begun)
        return call

    # -- how it is doing -----------------------------------------------------------------------

    def _worked(self, route: str) -> None:
        self._circuits[route].worked()
        if self._said.pop(route, None) is not None:
            self._say("the fallback answers again", "info")

    def beat(self) -> None:
        """Every second or so: whoever waits there for a first word goes home once the engine is ready."""
        self.purse.beat()
        if self._conductor.state is not State.READY:
            return
        now = self._clock()
        for errand in self._under_way:
            if now >= errand.recalled_from:
                errand.recall(now)

    def _failed(self, route: str, why: str, *, at_least: float = 0, detail: str = "") -> None:
        self._circuits[route].failed(self._clock(), at_least=at_least)
        if why not in self._said.values():
            more = f" It says {detail}." if detail else ""
            self._say(f"warning: the fallback fails, and callers are held meanwhile: {why}.{more}", "warning")
        self._said[route] = why

    def _was_declined(self, route: str, declined: Declined) -> None:
        status = declined.status
        if status in _FAULT_OF_ITS_REQUEST:
            self._circuits[route].left()
            wanted = learnt(self._manner, declined.body)
            if wanted != self._manner:
                self._manner = wanted
            return
        detail = named_in(declined.body)
        for statuses, why in _HELP:
            if status in statuses:
                why = f"{why.format(route=route)} (status {status})"
                self._failed(route, why, at_least=_LEFT_ALONE, detail=detail)
                return
        self._failed(route, f"it answers with status {status}", at_least=_seconds(declined.retry_after), detail=detail)

    # -- the end -------------------------------------------------------------------------------

    async def drain(self, within: float) -> None:
        """Let running answers finish for so many seconds, then cut them."""
        try:
            async with asyncio.timeout(within):
                while self._under_way:
                    self._all_back.clear()
                    await self._all_back.wait()
        except TimeoutError:
            pass  # those that are left are told so
        for errand in self._under_way:
            if errand.task is not None and not errand.task.done():
                errand.is_cut = True
                errand.task.cancel()

    def close(self) -> None:
        self._upstream.close()


_WORDS: Final = {
    "backend_lost": "The fallback ended in the middle of this answer.",
    "backend_stalled": "The fallback stopped sending in the middle of this answer.",
    "backend_timeout": "The fallback did not answer in time.",
    "backend_protocol_error": "The fallback's answer was not what an API answers.",
    "backend_error": "The fallback failed in the middle of this answer.",
}
"""For the caller of a stream that has begun."""
_LOGGED: Final = {
    "backend_lost": "it hung up before its answer was whole",
    "backend_stalled": "it stopped sending in the middle of an answer",
    "backend_timeout": "it did not answer in time",
    "backend_protocol_error": "its answer is not what an API answers: FALLBACK_URL",
    "backend_error": "it sent an error, or nothing, where its answer should be",
}
"""For the operator, whatever had come until then."""


def _words(refused: Refused) -> str:
    return _WORDS.get(refused.refusal.code, refused.refusal.message)


_PLAIN: Final = re.compile(r"[a-z0-9_.-]{1,64}")


def named_in(error: bytes) -> str:
    """What a vendor calls its error, for the log. Its message stays out of it: it may quote the prompt."""
    try:
        said = json.loads(error)["error"]
        names = [(name, str(said.get(name))) for name in ("type", "code") if said.get(name) is not None]
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError):
        return ""
    return ", ".join(f"{name} {value}" for name, value in names if _PLAIN.fullmatch(value))


def _seconds(retry_after: str | None) -> float:
    """A Retry-After in seconds; 0 for a date, which no such API sends, and for anything odd."""
    try:
        return max(0.0, min(3600.0, float(retry_after or 0)))
    except ValueError:
        return 0.0


def limits_for(limits: Limits, *, behind_edge: bool = False, hold_max: float | None = None) -> Limits:
    """The same patience as with an engine, but no more than makes sense while a caller could be held. `hold_max`: what
    the operator set for that; 0, which is nobody is held, says nothing of somebody else's answer."""
    most = ANSWER_BEHIND_EDGE if behind_edge else ANSWER
    return Limits(
        connect=min(limits.connect, CONNECT),
        first_byte=min(limits.first_byte, FIRST_BYTE),
        answer=min(limits.answer, most, hold_max or most),
        gap=limits.gap,
        heartbeat=limits.heartbeat,
        size=limits.size,
    )
