"""The composition root: builds every room from the settings, wires them, starts and closes them.

Nothing else knows all rooms, and nothing else may assume that there is one upstream only. The order of a start:
settings, ports, then the engine; the order of an end: no new callers, running answers, the engine, the ports.
"""

import asyncio
import errno
import gc
import os
import platform
import re
import secrets
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from aiohttp import web

from gateway import assembly, surroundings
from gateway.assembly import Boot, CannotStart
from gateway.conductor import Conductor, Snapshot
from gateway.conductor import Limits as ConductorLimits
from gateway.config import Settings, SettingsError
from gateway.policy.admission import Admission
from gateway.policy.admission import Limits as AdmissionLimits
from gateway.policy.lifecycle.machine import Lifecycle, LifecycleSettings
from gateway.policy.lifecycle.states import State
from gateway.proxy.bodies import Bodies, BodyLimits
from gateway.proxy.checker import Checker
from gateway.proxy.checks import Rules, refused_fields
from gateway.proxy.reply import Reply
from gateway.proxy.upstream import Limits as UpstreamLimits
from gateway.proxy.upstream import Upstream, Upstreams
from gateway.records.console import Welcome, progress_line, ready_banner, request_line, say, set_up_logging, show
from gateway.records.ended import Ended
from gateway.records.metrics import Metrics, UpstreamFacts
from gateway.records.starts import StartTimes
from gateway.records.status import Status, StatusFile
from gateway.surroundings import Surroundings
from gateway.web.door import Door, Patience, Visit
from gateway.web.pages import Pages
from gateway.web.routes import Routes
from gateway.web.wire import Server, parser_is_compiled
from health.status import Status as HealthStatus
from health.status import ping_code

HEARTBEAT = 1.0
"""Seconds between two writings of the status file; the health port calls it stale after ten."""
ENGINE_SLOTS_UNKNOWN = 2000
"""MAX_CONCURRENT_REQUESTS where nothing says how many the engine works on at once."""
SLOW_START = 90.0
LARGE_MODEL = 8 * 10**9
"""Where HEALTH_MODE=auto means hold on RunPod's load balancer: it gives up on a worker after two minutes."""


class Gateway:
    """One gateway: all rooms, from listening to closed."""

    def __init__(self, settings: Settings, around: Surroundings, boot: Boot) -> None:
        self.settings = settings
        self._around = around
        self._boot = boot
        self._loop = asyncio.get_running_loop()
        self._began = self._loop.time()
        self._listening = False
        self._draining = False
        self._mode = "strict"
        self._status = StatusFile(boot.run_folder, boot.nonce)
        self._written: Status | None = None
        self._shown_state: State | None = None
        self._shown_reason = ""
        self._shown_progress = ("", -1)
        self._start_began = self._began
        self._welcomed = False
        self._starts = StartTimes(settings.data_dir / "state" / "starts.json")
        self.metrics = Metrics()
        self.access = assembly.make_access(settings, around)
        self.provider = assembly.make_provider(settings, boot)
        self.conductor = self._make_conductor()
        self._bodies = Bodies(
            BodyLimits(size=settings.max_request_body_size),
            Checker(Rules(refused=refused_fields(",".join(settings.refuse_fields)), media_hosts=settings.media_hosts)),
            on_repair=self.metrics.surrogates.inc,
        )
        self._upstreams = Upstreams(lambda endpoint: Upstream(endpoint, self._upstream_limits()))
        self.server = Server(
            self._make_door(),
            max_connections=settings.max_connections,
            on_reject=lambda refusal: self.metrics.rejected(refusal.code),
        )
        self._runner = web.ServerRunner(self.server, handle_signals=False, shutdown_timeout=1.0)
        self._pulse: asyncio.Task[None] | None = None

    # -- building ------------------------------------------------------------------------------

    def _make_conductor(self) -> Conductor:
        s = self.settings
        profile = self.provider.profile
        reserve = min(5.0, s.drain_timeout / 3)
        lifecycle = Lifecycle(
            LifecycleSettings(
                idle_timeout=s.idle_timeout if profile.starts else None,
                start_timeout=s.start_timeout,
                start_max=s.start_max if profile.starts else float("inf"),
                drain_timeout=s.drain_timeout,
                drain_reserve=reserve,
            ),
            now=self._loop.time(),
        )
        slots = s.max_concurrent_requests or profile.concurrency or ENGINE_SLOTS_UNKNOWN
        admission = Admission(self._line_limits(slots))
        return Conductor(
            "default",
            self.provider,
            lifecycle,
            admission,
            limits=ConductorLimits(stop_within=10.0, drain_reserve=reserve),
            limits_for=self._line_limits if s.max_concurrent_requests is None else None,
            on_change=self._changed,
        )

    def _line_limits(self, slots: int) -> AdmissionLimits:
        s = self.settings
        return AdmissionLimits(
            concurrency=slots,
            max_queue_size=s.queue_size(slots),
            max_queue_bytes=s.max_queue_bytes,
            queue_timeout=s.queue_timeout,
        )

    def _upstream_limits(self) -> UpstreamLimits:
        s = self.settings
        return UpstreamLimits(
            connect=s.connect_timeout,
            first_byte=s.first_byte_timeout,
            answer=s.answer_timeout,
            gap=s.stream_idle_timeout,
            heartbeat=s.heartbeat_interval,
        )

    def _make_door(self) -> Door:
        s = self.settings
        metrics_open = not s.metrics_auth_enabled
        self.metrics.watch(self._facts)
        return Door(
            conductor=self.conductor,
            upstreams=self._upstreams,
            bodies=self._bodies,
            routes=Routes(s.allowed_paths),
            show=Pages(self.conductor, self.metrics, ping=self._ping, metrics_open=metrics_open),
            keys=self.access.keys,
            admin=self.access.admin,
            patience=Patience(
                grace=min(s.hold_grace, s.heartbeat_interval),
                heartbeat=s.heartbeat_interval,
                hold_max=s.hold_max,
                behind_edge=self._around.behind_edge,
            ),
            strict_models=s.model_check == "strict",
            write_timeout=s.write_timeout,
            on_end=self._ended,
        )

    # -- from listening to closed --------------------------------------------------------------

    async def listen(self) -> None:
        """Open the port. Raises CannotStart when it is taken."""
        s = self.settings
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, s.host, s.port, backlog=1024).start()
        except OSError as error:
            await self.close()
            raise CannotStart(listen_problem(s.host, s.port, error)) from error
        self._listening = True
        self._mode = health_mode(
            s.health_mode,
            self._around.platform,
            self._starts.slowest(),
            lambda: assembly.model_size(s, self._boot),
        )
        self._pulse = self._loop.create_task(self._beat())
        say(f"Starting gateway on {bracketed(s.host)}:{s.port}")
        for line in self.access.said:
            say(line)

    def begin(self) -> None:
        """The port listens; now what answers behind it."""
        if not self.provider.profile.starts:
            say(f"looking for {assembly.describe_engine(self.settings)}")
        if self.settings.wake_on_start or not self.provider.profile.starts:
            self.conductor.wake()

    async def drain(self) -> None:
        """Let running answers finish, end the rest, stop the engine; all within DRAIN_TIMEOUT."""
        self._draining = True
        self._write_status()
        await self.conductor.drain()

    async def close(self) -> None:
        """Give back everything. After this nothing of the gateway listens or runs."""
        if self._pulse is not None:
            self._pulse.cancel()
        await self.server.close()
        await self._runner.cleanup()
        await self._upstreams.close()
        await self.conductor.close()
        await self._bodies.close()

    @property
    def port(self) -> int:
        """The port that is listened on, also when it was asked for as 0."""
        for address in self._runner.addresses:
            return int(address[1])
        return self.settings.port

    # -- telling -------------------------------------------------------------------------------

    async def _beat(self) -> None:
        while True:
            self._write_status(always=True)
            await asyncio.sleep(HEARTBEAT)

    def _ping(self) -> int:
        now, said = time.monotonic(), self._now()
        status = HealthStatus(now, said.state, said.mode, said.listening, said.ever_ready, said.draining)
        return ping_code(said.mode, status, now)

    def _now(self) -> Status:
        snapshot = self.conductor.snapshot()
        return Status(
            state=snapshot.state.value,
            mode=self._mode,
            listening=self._listening,
            ever_ready=snapshot.ever_ready,
            draining=self._draining,
        )

    def _write_status(self, *, always: bool = False) -> None:
        status = self._now()
        if always or status != self._written:
            self._written = status
            self._status.write(status)

    def _changed(self, conductor: Conductor) -> None:
        """Something was told to the lifecycle: say what is new of it, once."""
        snapshot = conductor.snapshot()
        if snapshot.loading is not None:
            self._show_progress(snapshot)
        if snapshot.state is self._shown_state:
            return
        before, self._shown_state = self._shown_state, snapshot.state
        self._write_status()
        self._show_fall(snapshot, before)
        if snapshot.state is State.STARTING:
            self._start_began = self._loop.time()
        elif snapshot.state is State.READY and before is State.STARTING:
            self._became_ready(self._loop.time() - self._start_began)
        elif snapshot.state is not State.STOPPED or before is not None:
            say(snapshot.state.value)

    def _show_fall(self, snapshot: Snapshot, before: State | None) -> None:
        """Why it failed or crashed, once for each time: the sentence, and what the engine or the model room said."""
        crashed = before is State.READY and snapshot.state in (State.STARTING, State.STOPPED, State.FAILED)
        if not snapshot.reason or (snapshot.reason == self._shown_reason and not crashed):
            return
        self._shown_reason = snapshot.reason
        say(snapshot.reason)
        for line in snapshot.detail.splitlines()[-10:]:
            say(f"  | {line}")

    def _show_progress(self, snapshot: Snapshot) -> None:
        """One line per phase and per tenth of it."""
        loading = snapshot.loading
        if loading is None:
            return
        tenth = int(loading.ratio * 10) if loading.ratio is not None else -1
        if (loading.phase, tenth) != self._shown_progress:
            self._shown_progress = (loading.phase, tenth)
            say(progress_line(loading.phase, loading.ratio, loading.detail))

    def _became_ready(self, seconds: float) -> None:
        if self.provider.profile.starts:
            self._starts.add(seconds)
        if self._welcomed:
            say(f"ready after {seconds:.1f} s")
            return
        self._welcomed = True
        welcome = Welcome(
            bases=self._around.bases(self.settings.host, self.port),
            model=(self.conductor.models or ("default",))[0],
            engine=self.provider.profile.engine or assembly.describe_engine(self.settings),
            seconds=self._loop.time() - self._began,
            key=self.access.shell_key,
            is_demo=assembly.is_demo(self.settings, self._boot),
        )
        show(ready_banner(welcome))

    def _ended(self, visit: Visit) -> None:
        """One request is over: count it, and say one line."""
        reply = visit.reply
        if not visit.route or reply is None:
            if visit.code:
                self.metrics.rejected(visit.code)
            return
        first = reply.first_byte_at - visit.began if reply.first_byte_at is not None else None
        self.metrics.ended(self._what_ended(visit, reply, first))
        if self.settings.log_level in ("debug", "info"):
            say(
                request_line(
                    (
                        ("request", visit.request_id),
                        ("caller_id", visit.caller_id),
                        ("route", visit.route),
                        ("status", reply.status or ""),
                        ("outcome", visit.outcome),
                        ("code", visit.code),
                        ("line", f"{reply.timings.get('line', 0):.3f}s"),
                        ("wake", f"{reply.timings.get('wake', 0):.3f}s"),
                        ("first_byte", f"{first:.3f}s" if first is not None else ""),
                        ("took", f"{self._loop.time() - visit.began:.3f}s"),
                        ("bytes", reply.bytes_sent),
                    )
                )
            )

    def _what_ended(self, visit: Visit, reply: Reply, first: float | None) -> Ended:
        usage = reply.usage
        return Ended(
            at=time.time(),
            request_id=visit.request_id,
            caller_id=visit.caller_id,
            upstream=self.conductor.name,
            key="",
            route=visit.route,
            model="",
            status=reply.status,
            outcome=visit.outcome,
            code=visit.code,
            ended_by="caller" if visit.outcome == "left" else "engine" if visit.outcome == "answered" else "gateway",
            state="",
            line=reply.timings.get("line", 0.0),
            wake=reply.timings.get("wake", 0.0),
            first_byte=first,
            took=self._loop.time() - visit.began,
            tokens_in=usage.prompt if usage else None,
            tokens_out=usage.completion if usage else None,
            bytes_in=0,
            bytes_out=reply.bytes_sent,
        )

    def _facts(self) -> Iterable[UpstreamFacts]:
        snapshot = self.conductor.snapshot()
        activity = snapshot.last_activity
        yield UpstreamFacts(
            snapshot.upstream,
            snapshot.state,
            snapshot.in_flight,
            snapshot.waiting,
            snapshot.starts,
            None if activity is None else self._loop.time() - activity,
            snapshot.loading.ratio if snapshot.loading else None,
        )


def health_mode(asked: str, platform_name: str, slowest: float | None, model_size: Callable[[], int]) -> str:
    """HEALTH_MODE=auto: strict, but hold on RunPod's load balancer when the model would not be there in time.

    `slowest`: seconds of the slowest of the last starts on this volume, None when there were none; then `model_size`
    (bytes) is asked.
    """
    if asked != "auto":
        return asked
    if platform_name != "runpod-serverless":
        return "strict"
    if slowest is not None:
        return "hold" if slowest > SLOW_START else "strict"
    return "hold" if model_size() > LARGE_MODEL else "strict"


def bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def listen_problem(host: str, port: int, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"PORT: {port} is taken by another program; stop that one, or set PORT to a free one."
    if error.errno == errno.EACCES:
        return f"PORT: {port} may not be opened by this user; set PORT to one above 1023."
    return f"HOST: cannot listen on {host}:{port} ({error.strerror or error}); set HOST to an address of this machine."


def make_boot(environ: "os._Environ[str]") -> Boot:
    folder = environ.get("WAKEGATE_RUN_DIR") or tempfile.mkdtemp(prefix="wakegate-")
    demo = environ.get("WAKEGATE_DEMO_MODEL")
    nonce = environ.get("WAKEGATE_BOOT") or secrets.token_hex(16)
    worker = environ.get("RUNPOD_POD_ID") or platform.node() or "worker"
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime()) + "_" + re.sub(r"[^A-Za-z0-9.-]+", "-", worker)[:40]
    return Boot(nonce, Path(folder), Path(demo) if demo else None, stamp)


async def serve(settings: Settings, around: Surroundings, boot: Boot) -> int:
    """The main job, from listening to the end. Returns the exit code. Raises CannotStart."""
    gateway = Gateway(settings, around, boot)
    told = asyncio.Event()
    again = asyncio.Event()

    def end() -> None:
        (again if told.is_set() else told).set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, end)
    await gateway.listen()
    gateway.begin()
    gc.collect()
    gc.freeze()  # what start-up made stays: full collections need not look at it
    await told.wait()
    say("ending: running answers may finish; a second signal ends at once")
    draining = loop.create_task(gateway.drain())
    hurry = loop.create_task(again.wait())
    await asyncio.wait({draining, hurry}, return_when=asyncio.FIRST_COMPLETED)
    if not draining.done():
        gateway.conductor.hurry()
        await asyncio.wait({draining}, timeout=5)
    hurry.cancel()
    await gateway.close()
    say("ended")
    return 0


def check_parser() -> None:
    if not parser_is_compiled() or os.environ.get("AIOHTTP_NO_EXTENSIONS"):
        raise CannotStart(
            "AIOHTTP_NO_EXTENSIONS: aiohttp runs without its compiled parser, which lets broken requests through; "
            "unset it, and install aiohttp from a wheel."
        )
    import aiohttp

    version = tuple(int(part) for part in aiohttp.__version__.split(".")[:3] if part.isdigit())
    if version < (3, 14, 5):
        raise CannotStart(f"aiohttp {aiohttp.__version__} has known holes; install 3.14.5 or newer (3.14).")


def loop_factory() -> "asyncio.AbstractEventLoop":
    """uvloop where it installs: 7 µs less for each chunk of a stream."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


def main() -> int:
    """The gateway's process. Returns its exit code: 0, or 2 for a setting that is wrong."""
    try:
        check_parser()
        settings, around = surroundings.settings_here(os.environ)
        set_up_logging(settings.log_level)
        for warning in settings.warnings:
            say(f"warning: {warning}")
        with asyncio.Runner(loop_factory=loop_factory) as runner:
            return runner.run(serve(settings, around, make_boot(os.environ)))
    except SettingsError as error:
        for warning in error.warnings:
            say(f"warning: {warning}")
        for problem in error.problems:
            print(f"[gateway] {problem}", file=sys.stderr, flush=True)
        return 2
    except CannotStart as error:
        print(f"[gateway] {error}", file=sys.stderr, flush=True)
        return 2
