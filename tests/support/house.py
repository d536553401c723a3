"""A gateway in this process, with production's flags: real server, real sockets, a provider and an engine to play with.

`StubProvider` obeys at once and tells what it was told. `ScriptedEngine` is a raw TCP server: a script per request, so
that a test decides each byte that comes back and sees each byte that came.
"""

import asyncio
import contextlib
import json
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from aiohttp import web

from gateway.conductor import Conductor
from gateway.conductor import Limits as ConductorLimits
from gateway.policy.admission import Admission
from gateway.policy.admission import Limits as AdmissionLimits
from gateway.policy.estimate import Past
from gateway.policy.lifecycle.machine import Lifecycle, LifecycleSettings, TurnedAway
from gateway.policy.lifecycle.states import State
from gateway.policy.schedule import Schedule
from gateway.providers.base import Endpoint, Gone, Instance, Intent, Journal, News, Profile, Provider, Ready
from gateway.proxy.bodies import Bodies, BodyLimits
from gateway.proxy.checker import Checker
from gateway.proxy.checks import Rules
from gateway.proxy.fallback import Fallback
from gateway.proxy.upstream import Limits as UpstreamLimits
from gateway.proxy.upstream import Upstream, Upstreams
from gateway.records.metrics import Metrics
from gateway.warmth import Warmth
from gateway.web.admin import Admin
from gateway.web.auth import Key, Keys
from gateway.web.control import Control, Facts
from gateway.web.door import Door, Visit
from gateway.web.gate import Gate
from gateway.web.leases import LeaseDesk
from gateway.web.pages import Pages
from gateway.web.patience import Patience
from gateway.web.routes import Routes
from gateway.web.scrape import Scrape
from gateway.web.wire import Server

KEY = "sk-test-0123456789abcdef"
ADMIN_KEY = "sk-admin-0123456789abcdef"


class StubProvider:
    """A provider whose instances exist at once and become ready when they are told to (or at once)."""

    name = "stub"

    def __init__(self, endpoint: Endpoint, *, ready_at_once: bool = True, profile: Profile | None = None) -> None:
        self.endpoint = endpoint
        self.ready_at_once = ready_at_once
        self.profile = profile or Profile(models=("served",))
        self.starts = 0
        self.stops = 0
        self._news: asyncio.Queue[News] = asyncio.Queue()
        """Of the instance that is there, or of the next: what a test tells before the start call came waits for it."""
        self._of: dict[str, asyncio.Queue[News]] = {}

    async def start(self, intent: Intent, journal: Journal) -> Instance:
        self.starts += 1
        instance = Instance(f"stub-{intent.run}", self.name, self.endpoint, 0.0)
        self._of[instance.id] = self._news
        if self.ready_at_once:
            self.tell(Ready(models=self.profile.models))
        return instance

    def tell(self, news: News) -> None:
        self._news.put_nowait(news)
        if isinstance(news, Gone):
            self._news = asyncio.Queue()

    async def watch(self, instance: Instance) -> AsyncIterator[News]:
        told = self._of[instance.id]
        while True:
            item = await told.get()
            yield item
            if isinstance(item, Gone):
                return

    async def rest(self, instance: Instance) -> None:
        raise NotImplementedError

    async def wake(self, instance: Instance) -> None:
        raise NotImplementedError

    async def stop(self, instance: Instance, *, within: float) -> None:
        self.stops += 1
        self.tell(Gone("The engine was stopped."))

    async def list(self) -> list[Instance]:
        return []

    async def price(self) -> int | None:
        return 0

    async def close(self) -> None:
        pass


@dataclass
class Received:
    """One request as the engine saw it."""

    line: str
    headers: list[tuple[str, str]]
    body: bytes
    raw_head: bytes

    def header(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key.lower() == name.lower()]

    @property
    def json(self) -> Any:
        return json.loads(self.body)


async def read_request(reader: asyncio.StreamReader) -> Received:
    """One whole request. Raises IncompleteReadError when the other side leaves before its end."""
    head = await reader.readuntil(b"\r\n\r\n")
    line, *rest = head.decode("latin-1").split("\r\n")
    headers = [(name, value.strip()) for name, _, value in (row.partition(":") for row in rest if row)]
    fields = {name.lower(): value for name, value in headers}
    body = b""
    if "content-length" in fields:
        body = await reader.readexactly(int(fields["content-length"]))
    elif fields.get("transfer-encoding") == "chunked":
        while size := int(await reader.readuntil(b"\r\n"), 16):
            body += await reader.readexactly(size)
            await reader.readexactly(2)
        await reader.readline()
    return Received(line, headers, body, head)


Script = Callable[[Received, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def answer(
    body: object, *, status: str = "200 OK", headers: str = "", content_type: str = "application/json"
) -> Script:
    """A complete answer with a length."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()

    async def script(request: Received, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = f"HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {len(raw)}\r\n{headers}\r\n"
        writer.write(head.encode() + raw)

    return script


def chunked(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


STREAM_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def event(text: str, finish: str | None = None) -> bytes:
    delta = {"id": "c", "object": "chat.completion.chunk", "choices": [{"index": 0, "delta": {"content": text}}]}
    delta["choices"][0]["finish_reason"] = finish  # type: ignore[index]
    return b"data: " + json.dumps(delta).encode() + b"\n\n"


def stream(*events: bytes, done: bool = True, last_chunk: bool = True, gap: float = 0) -> Script:
    """A stream of events, each its own chunk."""

    async def script(request: Received, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM_HEAD)
        for each in events:
            writer.write(chunked(each))
            await writer.drain()
            await asyncio.sleep(gap)
        if done:
            writer.write(chunked(b"data: [DONE]\n\n"))
        if last_chunk:
            writer.write(b"0\r\n\r\n")

    return script


def raw(data: bytes) -> Script:
    async def script(request: Received, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(data)

    return script


@dataclass
class ScriptedEngine:
    """Answers each request by `script`; keeps what it saw and who left."""

    script: Script = field(default_factory=lambda: answer({"ok": True}))
    received: list[Received] = field(default_factory=list)
    left: int = 0
    """Callers (the gateway) that closed before the script was over."""
    port: int = 0
    socket: str | None = None
    """A path to listen at, instead of a port."""
    _server: asyncio.Server | None = None
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    async def start(self) -> "ScriptedEngine":
        if self.socket is not None:
            self._server = await asyncio.start_unix_server(self._serve, self.socket)
        else:
            self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
            self.port = self._server.sockets[0].getsockname()[1]
        return self

    @property
    def endpoint(self) -> Endpoint:
        host = "localhost" if self.socket is not None else f"127.0.0.1:{self.port}"
        return Endpoint(f"http://{host}", socket=self.socket, key="engine-key")

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                request = await read_request(reader)
                self.received.append(request)
                work = asyncio.ensure_future(self.script(request, reader, writer))
                gone = asyncio.ensure_future(reader.read(1))
                await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
                if not work.done():
                    self.left += 1
                    work.cancel()
                gone.cancel()
                (ended, _) = await asyncio.gather(work, gone, return_exceptions=True)
                if isinstance(ended, ConnectionError):
                    self.left += 1
        finally:
            writer.close()
            self._tasks.discard(task)

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


class Visits(list[Visit]):
    """What was asked and is over, in order."""

    on_end: Callable[[Visit], None] = staticmethod(lambda visit: None)
    """Called with each, in the step in which it ends: before its caller can have come again."""

    def append(self, visit: Visit) -> None:
        super().append(visit)
        self.on_end(visit)


@dataclass
class Front:
    """One gateway, from where its callers stand."""

    conductor: Conductor
    metrics: Metrics
    server: Server
    port: int
    visits: "Visits"
    door: Door
    control: Control
    said: list[str]
    """What was ordered, as the console tells it."""
    ends: list[bool]
    """Each time that the gateway was told to end: whether it was to leave what runs."""

    @property
    def state(self) -> State:
        return self.conductor.snapshot().state

    async def until(self, what: Callable[[], object], within: float = 5.0) -> None:
        async with asyncio.timeout(within):
            while not what():
                await asyncio.sleep(0.005)

    async def raw(self, data: bytes, *, within: float = 15.0, half_close: bool = False) -> bytes:
        """Send bytes on a fresh connection and read until the gateway closes it (or `within`)."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(data)
            if half_close:
                writer.write_eof()
            with contextlib.suppress(TimeoutError, ConnectionError):
                async with asyncio.timeout(within):
                    return await reader.read()
            return b""
        finally:
            writer.close()

    def request(
        self, body: object, *, path: str = "/v1/chat/completions", headers: str = "", close: bool = True
    ) -> bytes:
        """A well-formed POST as bytes."""
        payload = body if isinstance(body, bytes) else json.dumps(body).encode()
        return (
            f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\nAuthorization: Bearer {KEY}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(payload)}\r\n"
            f"{'Connection: close' + chr(13) + chr(10) if close else ''}{headers}\r\n"
        ).encode() + payload


@dataclass
class House(Front):
    """A gateway with its scripted engine."""

    engine: ScriptedEngine
    provider: StubProvider


CHAT = {"model": "served", "messages": [{"role": "user", "content": "Hello"}]}
STREAMED = CHAT | {"stream": True}


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Everything small and quick. Seconds and bytes, by the names of the settings that they stand for."""

    slots: int = 2
    adopt_slots: bool = True
    """Whether what the engine says of its slots counts more than `slots`."""
    queue: int = 16
    queue_bytes: int = 1 << 24
    body_limit: int = 1 << 20
    body_gap: float = 0.5
    max_connections: int = 100
    grace: float = 0.2
    heartbeat: float = 0.2
    hold_max: float | None = 2.0
    write_timeout: float = 2.0
    connect: float = 1.0
    first_byte: float = 5.0
    answer_time: float = 5.0
    gap: float = 1.0
    idle_timeout: float | None = None
    idle_action: Literal["sleep", "stop"] = "stop"
    start_timeout: float = 600.0
    drain_timeout: float = 3.0
    stop_within: float = 1.0
    head_timeout: float = 3.0
    keep_idle: float = 5.0
    linger: float = 0.3
    receive_buffer: int | None = None
    """Bytes that the kernel keeps of what a caller sent and the gateway did not read yet."""
    allowed_paths: tuple[str, ...] = ()
    admin: bool = False
    """Whether there is an admin key: ADMIN_KEY."""
    money: Facts | None = None
    closed: Callable[[], TurnedAway | None] = lambda: None
    """Why nobody is let in, whatever the upstream could do."""
    output_tokens: int | None = None
    """MAX_OUTPUT_TOKENS."""
    leases: LeaseDesk | None = None
    """Where leases come in, as in something that is rented."""
    strict_models: bool = False
    gate: Callable[[], Gate] | None = None
    short_of_memory: bool = False
    retry_first: float = 0.1
    usual_start: float | None = None
    """What starts took so far on this volume, until their first news."""
    max_seconds: float | None = None
    """MAX_REQUEST_SECONDS."""
    response_size: int | None = None
    """MAX_RESPONSE_SIZE."""
    count_tokens: bool = False
    rejects: bool = False
    """COLD_START=reject."""
    cancels: bool = True
    """CANCEL_ON_DISCONNECT."""
    looks_first: bool = False
    """What is started costs money."""
    fallback: Callable[[Conductor], Fallback] | None = None
    """Who else may answer."""
    shows_loading: bool = False
    """LOADING_TEXT=reasoning."""
    gathers: bool = False
    """Whether the engine is behind an edge that cuts silent answers (`Profile.cuts_silence`)."""


@contextlib.asynccontextmanager
async def standing(provider: Provider, sizes: Sizes) -> AsyncIterator[Front]:
    """A gateway in front of any provider, wired as production wires it (gateway/app.py)."""
    lifecycle = Lifecycle(
        LifecycleSettings(
            idle_timeout=sizes.idle_timeout,
            idle_action=sizes.idle_action,
            start_timeout=sizes.start_timeout,
            drain_timeout=sizes.drain_timeout,
            drain_reserve=0.5,
            retry_first=sizes.retry_first,
        ),
        now=asyncio.get_running_loop().time(),
    )
    admission = Admission(
        AdmissionLimits(
            concurrency=sizes.slots, max_queue_size=sizes.queue, max_queue_bytes=sizes.queue_bytes, queue_timeout=30
        )
    )
    conductor = Conductor(
        "default",
        provider,
        lifecycle,
        admission,
        limits=ConductorLimits(stop_within=sizes.stop_within, drain_reserve=0.5),
        limits_for=(lambda n: replace(admission.limits, concurrency=n)) if sizes.adopt_slots else None,
        pasts=lambda kind: [] if sizes.usual_start is None else [Past({"ordered": sizes.usual_start})],
        gate=sizes.closed,
    )
    metrics = Metrics()
    limits = UpstreamLimits(
        connect=sizes.connect,
        first_byte=sizes.first_byte,
        answer=sizes.answer_time,
        gap=sizes.gap,
        heartbeat=sizes.heartbeat,
        size=sizes.response_size,
    )
    upstreams = Upstreams(lambda endpoint: Upstream(endpoint, limits))
    rules = Rules(count_tokens=sizes.count_tokens, gather=sizes.gathers, output_tokens=sizes.output_tokens)
    bodies = Bodies(
        BodyLimits(size=sizes.body_limit, gap=sizes.body_gap), Checker(rules), on_repair=metrics.surrogates.inc
    )
    visits = Visits()
    said: list[str] = []
    ends: list[bool] = []
    clock = asyncio.get_running_loop().time
    warmth = Warmth(conductor.keep_warm, Schedule(), clock=clock, wall=time.time)
    control = Control(conductor, warmth, end=ends.append, say=said.append, money=sizes.money, spend=sizes.money)
    admin = Keys([Key.of("admin", ADMIN_KEY)] if sizes.admin else [])
    fallback = sizes.fallback(conductor) if sizes.fallback is not None else None
    door = Door(
        conductor=conductor,
        upstreams=upstreams,
        bodies=bodies,
        routes=Routes(sizes.allowed_paths, admin=sizes.admin, leases=sizes.leases is not None),
        show=Pages(conductor, ping=lambda: 200),
        scrape=Scrape(conductor, upstreams, metrics),
        gate=sizes.gate() if sizes.gate is not None else Gate(keys=Keys([Key.of("test", KEY)]), admin=admin),
        patience=Patience(
            grace=sizes.grace,
            heartbeat=sizes.heartbeat,
            hold_max=sizes.hold_max,
            behind_edge=False,
            rejects=sizes.rejects,
        ),
        strict_models=sizes.strict_models,
        write_timeout=sizes.write_timeout,
        max_seconds=sizes.max_seconds,
        counts_tokens=sizes.count_tokens,
        cancels=sizes.cancels,
        looks_first=sizes.looks_first,
        admin=Admin(control),
        fallback=fallback,
        leases=sizes.leases,
        shows_loading=sizes.shows_loading,
        on_end=visits.append,
        is_short_of_memory=lambda: sizes.short_of_memory,
    )
    server = Server(
        door,
        max_connections=sizes.max_connections,
        head_timeout=sizes.head_timeout,
        idle_timeout=sizes.keep_idle,
        linger=sizes.linger,
    )
    runner = web.ServerRunner(server, handle_signals=False, shutdown_timeout=0.2)
    await runner.setup()
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    if sizes.receive_buffer is not None:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, sizes.receive_buffer)
    await web.SockSite(runner, listener, backlog=1024).start()
    try:
        port = runner.addresses[0][1]
        yield Front(conductor, metrics, server, port, visits, door, control, said, ends)
    finally:
        await server.close()
        await runner.cleanup()
        door.close()
        upstreams.close()
        if fallback is not None:
            fallback.close()
            await asyncio.get_running_loop().run_in_executor(None, fallback.purse.close, 2.0)
        await conductor.close()
        await bodies.close()


@contextlib.asynccontextmanager
async def house(
    *,
    script: Script | None = None,
    ready_at_once: bool = True,
    profile: Profile | None = None,
    engine_socket: Path | None = None,
    **sizes: Any,
) -> AsyncIterator[House]:
    """A gateway whose engine is a script, on a port or at a path. `sizes` are the fields of Sizes."""
    engine = await ScriptedEngine(socket=str(engine_socket) if engine_socket is not None else None).start()
    if script is not None:
        engine.script = script
    provider = StubProvider(engine.endpoint, ready_at_once=ready_at_once, profile=profile)
    try:
        async with standing(provider, Sizes(**sizes)) as front:
            yield House(**vars(front), engine=engine, provider=provider)
    finally:
        await engine.close()
