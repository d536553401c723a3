"""The composition root: builds every room from the settings, wires them, starts and closes them.

Nothing else knows all rooms, and nothing else may assume that there is one upstream only. The order of a start:
ports, then the engine; the order of an end: no new callers, running answers, the engine, the ports. `process.py` is
the process around it.
"""

import asyncio
import os
import socket
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, cast

from aiohttp import web

from gateway import assembly, gpus
from gateway.assembly import Ahead, Boot, CannotStart, Ports
from gateway.conductor import Conductor, Snapshot
from gateway.conductor import Limits as ConductorLimits
from gateway.config import Settings
from gateway.policy.admission import Admission
from gateway.policy.admission import Limits as AdmissionLimits
from gateway.policy.lifecycle.machine import Lifecycle, LifecycleSettings
from gateway.policy.lifecycle.states import State
from gateway.policy.rates import Rate
from gateway.providers.own_machine.watchdog import Use
from gateway.proxy.reply import Reply
from gateway.proxy.upstream import Limits as UpstreamLimits
from gateway.proxy.upstream import Upstream, Upstreams
from gateway.records import console
from gateway.records.boot_log import BootLog, Courier
from gateway.records.console import Welcome, ready_banner, say, show
from gateway.records.ended import Ended
from gateway.records.facts import boot_facts, version
from gateway.records.gpus import described
from gateway.records.logs import Logs
from gateway.records.metrics import Metrics
from gateway.records.onlookers import Onlookers
from gateway.records.pulse import Pulse
from gateway.records.readings import ProcessFacts
from gateway.records.redact import Redactor
from gateway.records.starts import Kind, StartTimes
from gateway.records.status import Status, StatusFile
from gateway.surroundings import Surroundings
from gateway.telling import Telling
from gateway.web.admin import Admin
from gateway.web.control import Control
from gateway.web.control_socket import ControlSocket
from gateway.web.cors import Cors
from gateway.web.door import Door, Visit
from gateway.web.gate import Gate
from gateway.web.pages import Pages
from gateway.web.patience import Patience
from gateway.web.peers import Peers
from gateway.web.ports import BACKLOG
from gateway.web.routes import INFERENCE, Routes
from gateway.web.scrape import Scrape, SideDoor
from gateway.web.tls import Reload, TlsSite
from gateway.web.wire import Server
from health.status import Status as HealthStatus
from health.status import ping_code

if TYPE_CHECKING:
    from gateway.providers.base import Renter
    from gateway.renting import Renting

HEARTBEAT = 1.0
"""Seconds between two writings of the status file; the health port calls it stale after ten."""
STOP_AT_EXIT = 30.0
"""Seconds beyond DRAIN_TIMEOUT in which a vendor may confirm the stop of what is rented."""
ENGINE_SLOTS_UNKNOWN = 2000
"""MAX_CONCURRENT_REQUESTS where nothing says how many the engine works on at once."""
VOLUME_WITHIN = 2.0
"""Seconds for what the volume knows of earlier starts; it may hang, and callers are there already."""
SLOW_START = 90.0
LARGE_MODEL = 8 * 10**9
"""Where HEALTH_MODE=auto means hold on RunPod's load balancer: it gives up on a worker after two minutes."""
SHORT_OF_MEMORY = 0.9
"""The share of the memory that we may use from which on new requests are refused, rather than all that run be lost."""


STRANGERS = 60
"""Lines a minute for requests that came to no inference route: an operator finds the id that somebody reports, and
whoever scans us cannot fill the log. All of them are counted."""


class Gateway:
    """One gateway: all rooms, from listening to closed."""

    def __init__(
        self,
        settings: Settings,
        around: Surroundings,
        boot: Boot,
        logs: Logs | None = None,
        redact: Redactor | None = None,
        ahead: Ahead | None = None,
    ) -> None:
        """Raises CannotStart. Without logs of the caller's there are none. `ahead`: what has been begun already."""
        self.settings = settings
        self._around = around
        self._boot = boot
        self._loop = asyncio.get_running_loop()
        self._listening = self._draining = self._leaves = self._welcomed = False
        self._mode = "strict"
        self._memory = 0
        self._first_ready: float | None = None
        self._side: Server | None = None
        self._runners: list[web.ServerRunner] = []
        self._tasks: list[asyncio.Task[None]] = []
        ahead = ahead or assembly.make_ahead(settings, around, boot)
        self._ports: Ports | None = ahead.ports
        self.provider = ahead.provider
        self._make_records(ahead, logs, redact or Redactor(settings.secrets()))
        self._telling = self._make_telling()
        self.renting = self._make_renting(ahead, redact or Redactor(settings.secrets()))
        self.conductor = self._make_conductor()
        self.quotas = assembly.make_quotas(settings, boot, now=self._loop.time())
        self._bodies = assembly.make_bodies(
            settings, gather=self.provider.profile.cuts_silence, on_repair=self.metrics.surrogates.inc
        )
        self._upstreams = Upstreams(lambda endpoint: Upstream(endpoint, self._upstream_limits()))
        self.fallback = assembly.make_fallback(
            settings,
            boot,
            self.conductor,
            self.metrics,
            self._upstream_limits(),
            behind_edge=around.behind_edge,
        )
        self.control = self._make_control()
        self._make_front()

    # -- building ------------------------------------------------------------------------------

    def _make_front(self) -> None:
        """What callers meet, and what looks on."""
        self._gate = self._make_gate()
        self._scrape = Scrape(self.conductor, self._upstreams, self.metrics)
        self._door = self._make_door()
        self.server = Server(
            self._door,
            max_connections=self.settings.max_connections,
            on_reject=lambda refusal: self.metrics.rejected(refusal.code),
        )
        self.metrics.watch(lambda: (self._telling.facts(self.conductor),))
        self.metrics.watch_process(self._process_facts)

    def _make_records(self, ahead: Ahead, logs: Logs | None, redact: Redactor) -> None:
        """What writes down, and what it must know before anything happens: who may, and which secrets there are."""
        settings, boot = self.settings, self._boot
        self._status = StatusFile(boot.run_folder, boot.nonce)
        self._written: Status | None = None
        self._starts = StartTimes(settings.data_dir / "state" / "starts.json")
        self._gpus: gpus.Question | None = None
        self._courier = Courier("start times")
        self._pulse = Pulse(say)
        self._strangers = Rate(STRANGERS, 60)
        self._onlookers = Onlookers(say, now=self._loop.time())
        self.metrics = Metrics(
            version=version(),
            models=settings.served_model_name or assembly.known_names(settings, boot),
            key_names=settings.metrics_key_names,
            routes=[route.path for route in INFERENCE],
        )
        self.access = ahead.access
        self.access.keyring.on_reload = self._keys_reloaded
        redact.learn(self.access.secrets)
        self.watchdog = assembly.make_watchdog(settings, self._around)
        if self.watchdog is not None:
            redact.learn(self.watchdog.secrets)
        self.certificate = ahead.certificate
        if self.certificate is not None:
            self.certificate.on_reload = self._certificate_reloaded
            if warning := self.certificate.warning(time.time()):
                say(f"warning: {warning}", "warning")
        self.logs = logs or assembly.make_logs(settings, boot, redact)
        self.boot_log = BootLog(settings.data_dir / "logs" / "_boot", boot.stamp, redact=redact)

    def _make_telling(self) -> Telling:
        return Telling(
            metrics=self.metrics,
            boot_log=self.boot_log,
            clock=self._loop.time,
            on_state=self._write_status,
            on_ready=self._became_ready,
            engine_line=lambda: getattr(self.provider, "command_line", ()),
            shows_loading=self.settings.show_loading_progress,
        )

    def _make_renting(self, ahead: Ahead, redact: Redactor) -> "Renting | None":
        """What pays; None: nothing that is started here costs anything."""
        if ahead.ears is None:
            return None
        from gateway.renting import Renting

        return Renting(
            self.settings,
            self._around,
            cast("Renter", self.provider),
            ahead.ears,
            self.metrics,
            upstream=assembly.UPSTREAM,
            elsewhere=lambda: (self.fallback.purse.spent or 0) if self.fallback is not None else 0,
            redact=redact,
            say=say,
        )

    def _make_conductor(self) -> Conductor:
        s = self.settings
        profile = self.provider.profile
        renting = self.renting
        reserve, drain_timeout = min(5.0, s.drain_timeout / 3), s.drain_timeout
        if renting is not None and s.on_exit == "stop":
            reserve, drain_timeout = STOP_AT_EXIT, s.drain_timeout + STOP_AT_EXIT
        lifecycle = Lifecycle(
            LifecycleSettings(
                idle_timeout=s.idle_timeout if profile.starts else None,
                idle_action=assembly.idle_action(s),
                start_timeout=s.start_timeout,
                start_max=s.start_max if profile.starts else float("inf"),
                drain_timeout=drain_timeout,
                drain_reserve=reserve,
            ),
            now=self._loop.time(),
        )
        slots = s.max_concurrent_requests or profile.concurrency or ENGINE_SLOTS_UNKNOWN
        admission = Admission(self._line_limits(slots))
        conductor = Conductor(
            assembly.UPSTREAM,
            self.provider,
            lifecycle,
            admission,
            limits=ConductorLimits(stop_within=10.0 if renting is None else 60.0, drain_reserve=reserve),
            limits_for=self._line_limits if s.max_concurrent_requests is None else None,
            journal=renting.journal if renting is not None else None,
            gate=renting.treasury.gate if renting is not None else lambda: None,
            pasts=lambda what: self._starts.pasts(self._kind_of_start(what)),
            on_change=self._telling.changed,
        )
        if renting is not None:
            renting.attach(conductor)
        return conductor

    def _kind_of_start(self, what: str) -> Kind:
        """By what earlier starts this one may be judged, as far as it is known yet."""
        answer = self._gpus.answer if self._gpus is not None else None
        names = str(answer.result()) if answer is not None and answer.done() and not answer.exception() else ""
        model = assembly.model_text(self.settings, self._boot) or ""
        return Kind(model[:200], self.provider.profile.engine, names[:200], "wake" if what == "wake" else "start")

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
            size=s.max_response_size,
        )

    def _make_gate(self) -> Gate:
        s = self.settings
        return Gate(
            keys=self.access.keys,
            admin=self.access.admin,
            quotas=self.quotas,
            cors=Cors(s.cors_origins),
            peers=Peers(s.trusted_proxies),
            origins=s.cors_origins,
            secure=self.certificate is not None,
            metrics_open=not s.metrics_auth_enabled,
            on_refused=self.metrics.auth_failed,
        )

    def _make_control(self) -> Control:
        """What takes orders, and what it orders."""
        self.on_told_to_end: Callable[[bool], None] = lambda leave: None
        """Whoever runs this process hears here that it is to end; True: what runs is left to a successor."""
        self.warmth = assembly.make_warmth(self.settings, self.conductor)
        self._orders: ControlSocket | None = None
        renting = self.renting
        return Control(
            self.conductor,
            self.warmth,
            end=lambda leave: self.on_told_to_end(leave),
            say=lambda line: say(line, always=True),
            money=renting.money if renting is not None else None,
            spend=(lambda: renting.spend(self.quotas.shares(self._loop.time(), time.time()))) if renting else None,
            more=lambda: {"version": version()},
        )

    def _make_door(self) -> Door:
        s = self.settings
        leases = assembly.make_lease_desk(s, self.watchdog)
        return Door(
            conductor=self.conductor,
            upstreams=self._upstreams,
            bodies=self._bodies,
            routes=Routes(s.allowed_paths, admin=s.admin_key is not None, leases=leases is not None),
            show=Pages(self.conductor, ping=self._ping, records=self._records),
            scrape=self._scrape if s.metrics_port is None else None,
            gate=self._gate,
            patience=Patience(
                grace=min(s.hold_grace, s.heartbeat_interval),
                heartbeat=s.heartbeat_interval,
                hold_max=s.hold_max,
                behind_edge=self._around.behind_edge,
                rejects=s.cold_start == "reject",
            ),
            strict_models=s.model_check == "strict",
            write_timeout=s.write_timeout,
            max_seconds=s.max_request_seconds,
            counts_tokens=s.count_tokens,
            cancels=s.cancel_on_disconnect,
            admin=Admin(self.control),
            fallback=self.fallback,
            leases=leases,
            shows_loading=s.loading_text == "reasoning",
            looks_first=s.rents,
            on_end=self._ended,
            is_short_of_memory=self._is_short_of_memory,
        )

    # -- from listening to closed --------------------------------------------------------------

    async def listen(self) -> None:
        """Answer at the ports, which are opened unless they are open. Raises CannotStart when one is taken."""
        s = self.settings
        ports = self._ports = self._ports or assembly.open_ports(s)
        self.boot_log.begin(boot_facts(s, self._around, assembly.model_text(s, self._boot) or "none named"))
        try:
            await self._answer(self.server, ports.main, s.port)
            if s.metrics_port is not None:
                door = SideDoor(self._scrape, self._gate, self.metrics.rejected)
                self._side = Server(door, max_connections=64)
                await self._answer(self._side, ports.metrics, s.metrics_port)
        except CannotStart:
            await self.close()
            raise
        self._listening = True
        await self._hear_orders()
        self._courier(self._starts.read)  # what starts took on this volume, to judge this one by
        self._mode = await self._choose_mode()
        self._tasks.append(self._loop.create_task(self._beat()))
        self._tasks.append(self._loop.create_task(self.access.keyring.watch()))
        if self.certificate is not None:
            self.certificate.watch()
        if self.watchdog is not None:
            self.watchdog.start()
        self._pulse.start()
        say(f"Starting gateway on {bracketed(s.host)}:{s.port}", always=True)
        for line in self.access.said:
            say(line, "warning" if line.startswith("warning: ") else "info", always=True)
        if self.access.made is not None:
            console.show_once(f"[gateway] The first API key, shown here and now only: {self.access.made}")
        if planner := getattr(self.provider, "planner", None):
            planner.listen(self._tell_plan)
        self._gpus = seen = gpus.Question()
        self.boot_log.look_for_gpus(lambda: described(ask=seen.answer.result))

    async def _hear_orders(self) -> None:
        """From the command line. Whatever is wrong with the run folder, callers are served."""
        self._orders = ControlSocket(self.control, self._boot.run_folder, self.port)
        try:
            await self._orders.open()
        except OSError as error:
            say(f"warning: wakegate status, wake and the like cannot reach this gateway: {error}", "warning")

    def _tell_plan(self, line: str, level: str) -> None:
        """What was chosen for the engine, one line for each choice."""
        say(line, level)
        self.boot_log.note(line)

    async def _choose_mode(self) -> str:
        """What `auto` means here. Its answer lies on the volume; from one that hangs a slow start is to be expected."""
        s = self.settings
        if s.health_mode != "auto":
            return s.health_mode
        size = partial(assembly.model_size, s, self._boot)
        asking = self._loop.run_in_executor(
            None, health_mode, "auto", self._around.platform, self._starts.slowest, size
        )
        try:
            return await asyncio.wait_for(asking, VOLUME_WITHIN)
        except TimeoutError:
            return "hold"

    async def _answer(self, server: Server, sockets: Sequence[socket.socket], port: int) -> None:
        """Accept at one port; METRICS_PORT never speaks TLS, as Prometheus beside it needs none."""
        runner = runner_of(server)
        self._runners.append(runner)
        await runner.setup()
        if self.certificate is not None and server is self.server:
            host, context, most = self.settings.host, self.certificate.context, self.settings.max_connections
            await TlsSite(runner, server, host, port, context, most=most, sockets=sockets).start()
            return
        for opened in sockets:
            await web.SockSite(runner, opened, backlog=BACKLOG).start()

    def begin(self) -> None:
        """The port listens; now what answers behind it."""
        if self.renting is not None:
            self.renting.begin()
        if not self.provider.profile.starts:
            say(f"looking for {assembly.describe_engine(self.settings)}")
        if self.settings.wake_on_start or not self.provider.profile.starts:
            self.conductor.wake()

    def reload(self) -> None:
        """SIGHUP: keys and certificates are read again now; what came of it is said."""
        say("SIGHUP: reading keys and certificates again")
        self.access.keyring.reload()
        if self.certificate is not None:
            self.certificate.reload()

    async def drain(self, *, leave: bool = False) -> None:
        """Let running answers finish, end the rest, stop the engine; all within DRAIN_TIMEOUT. `leave`: what is rented
        is left to a successor."""
        self._draining = True
        self._write_status()
        self._onlookers.tell(self._loop.time())
        leave = self._leaves = leave or (self.renting is not None and self.settings.on_exit == "leave")
        if leave and self.renting is not None:
            await self.renting.leave()
        elsewhere = [] if self.fallback is None else [self.fallback.drain(self.settings.drain_timeout - 1.0)]
        await asyncio.gather(self.conductor.drain(leave=leave), *elsewhere)

    async def close(self) -> None:
        """Give back everything. After this nothing of the gateway listens or runs."""
        for task in self._tasks:
            task.cancel()
        self._pulse.stop()
        if self.watchdog is not None:
            self.watchdog.close()
        if self.certificate is not None:
            self.certificate.close()
        for server in (self.server, self._side):
            if server is not None:
                await server.close()
        for runner in self._runners:
            await runner.cleanup()
        if self._ports is not None:
            self._ports.close()
        self._door.close()
        self._upstreams.close()
        if self.fallback is not None:
            self.fallback.close()
            await self._loop.run_in_executor(None, self.fallback.purse.close, 2.0)
        if self.renting is not None:
            self._say_what_is_left()
        await self.conductor.close()
        if self.renting is not None:
            await self.renting.close()
        await self._bodies.close()
        await self._loop.run_in_executor(None, self.quotas.close, self._loop.time(), time.time())
        if self._orders is not None:
            await self._orders.close()  # late: who waits for the end may start the next one then
        self.boot_log.ended("as asked" if self._draining else "it could not start")
        await self._loop.run_in_executor(None, self.boot_log.flush, 1.0)

    @property
    def port(self) -> int:
        """The port that is listened on, also when it was asked for as 0."""
        for runner in self._runners:
            for address in runner.addresses:
                return int(address[1])
        return self.settings.port

    # -- telling -------------------------------------------------------------------------------

    def _say_what_is_left(self) -> None:
        """What goes on costing when this gateway has ended."""
        from gateway.renting import what_is_left

        line = what_is_left(self.conductor.snapshot().instance, on_purpose=self._leaves)
        if line:
            say(line, "info" if self._leaves else "warning", always=True)

    async def _beat(self) -> None:
        while True:
            now = self._loop.time()
            self._pulse.beat(now)
            self._memory = resident_memory()
            self._onlookers.beat(now)
            self._telling.beat(self.conductor)
            self.warmth.beat()
            self._door.beat(now)
            self.quotas.beat(now, time.time(), self.renting.price if self.renting is not None else None)
            if self.watchdog is not None:
                self.watchdog.saw(self._use(now))
            if self.fallback is not None:
                self.fallback.beat()
            self.boot_log.try_again()
            self._write_status(always=True)
            await asyncio.sleep(HEARTBEAT)

    def _use(self, now: float) -> Use:
        """What the watchdog goes by where it has no lease. Only whoever may ask is admitted, and counted here."""
        seen = self.conductor.snapshot()
        loads = seen.state is State.STARTING and not seen.ever_ready
        used = [at for at in (seen.last_activity, self._first_ready) if at is not None]
        return Use(
            in_flight=seen.in_flight,
            waiting=seen.waiting,
            wanted=loads or seen.warm_until is not None,
            used_at=time.monotonic() - (now - max(used)) if used else None,
        )

    def _is_short_of_memory(self) -> bool:
        return self._around.memory is not None and self._memory > SHORT_OF_MEMORY * self._around.memory

    def _keys_reloaded(self, ok: bool, line: str) -> None:
        self.metrics.reloaded("keys", ok)
        say(line if ok else f"warning: {line}", "info" if ok else "warning")
        for warning in self.access.keyring.warnings if ok else ():
            say(f"warning: {warning}", "warning")

    def _certificate_reloaded(self, reload: Reload) -> None:
        self.metrics.reloaded("tls", reload.ok)
        say(reload.said if reload.ok else f"warning: {reload.said}", "info" if reload.ok else "warning")

    def _records(self) -> dict[str, object]:
        """For /health, with a key: how what is written down and read again is doing."""
        logs = self.logs.facts()
        found: dict[str, object] = {"logs": logs.reason or "ok", "log_lines_dropped": logs.dropped_lines}
        if self.settings.api_keys_file is not None:
            found["keys_file"] = self.access.keyring.state
        if said := self.quotas.state:
            found["spent"] = said
        if self.fallback is not None:
            found["fallback"] = self.fallback.state
        if self.renting is not None:
            found["money"] = self.renting.state
        if self.watchdog is not None:
            found["self_stop"] = self.watchdog.state
        return found

    def _process_facts(self) -> ProcessFacts:
        logs = self.logs.facts()
        has_file = self.settings.api_keys_file is not None
        watched = self.watchdog.facts() if self.watchdog is not None else None
        return ProcessFacts(
            heartbeat_age=self._pulse.age,
            loop_lag=self._pulse.lag,
            loop_stalls=self._pulse.stalls,
            log_lines_dropped=logs.dropped_lines,
            log_bytes_dropped=logs.dropped_bytes,
            connections=len(self.server.connections),
            keys_file_ok=self.access.keyring.state == "ok" if has_file else None,
            self_stop_in=watched.stops_in if watched is not None else None,
            self_stop_tries=watched.tries if watched is not None else None,
            self_stop_key_ok=watched.key_works if watched is not None else None,
        )

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

    def _became_ready(self, snapshot: Snapshot, seconds: float) -> None:
        if self.provider.profile.starts and self.conductor.last_start is not None:
            what, past = self.conductor.last_start
            lasted = seconds if what == "start" else None
            self._courier(partial(self._starts.add, self._kind_of_start(what), past, lasted))  # the volume may hang
        say(f"ready after {seconds:.1f} s")
        if self.renting is not None:
            say(self.renting.wake_line(snapshot), always=True)
        if self._welcomed:
            return
        self._welcomed, self._first_ready = True, self._loop.time()
        secure = self.certificate is not None
        welcome = Welcome(
            bases=self._around.bases(self.settings.host, self.port, secure=secure),
            model=(self.conductor.models or ("default",))[0],
            engine=self.provider.profile.engine or assembly.describe_engine(self.settings),
            seconds=seconds,
            key=self.access.shell_key,
            is_demo=assembly.is_demo(self.settings, self._boot),
        )
        show(ready_banner(welcome))

    def _ended(self, visit: Visit) -> None:
        """One request is over: count it, and write its line."""
        reply = visit.reply
        if visit.page and self._around.edge_counts_all:
            self._onlookers.seen(visit.page)
        if not visit.route or reply is None:
            if visit.code:
                self.metrics.rejected(visit.code)
                if reply is not None and self._strangers.take(1, round(self._loop.time())) is not None:
                    self.logs.request(self._what_ended(visit, reply))
            return
        ended = self._what_ended(visit, reply)
        self.metrics.ended(ended)
        self.logs.request(ended)

    def _what_ended(self, visit: Visit, reply: Reply) -> Ended:
        usage = reply.usage
        return Ended(
            at=time.time(),
            request_id=visit.request_id,
            caller_id=visit.caller_id,
            upstream=self.conductor.name,
            key=visit.key,
            route=visit.route,
            model=visit.model,
            status=reply.status,
            outcome=visit.outcome,
            code=visit.code,
            ended_by=visit.ended_by,
            state=visit.state,
            line=reply.timings.get("line", 0.0),
            wake=reply.timings.get("wake", 0.0),
            first_byte=reply.first_byte_at - visit.began if reply.first_byte_at is not None else None,
            first_token=reply.first_token_at - visit.began if reply.first_token_at is not None else None,
            longest_gap=reply.longest_gap or None,
            took=self._loop.time() - visit.began,
            tokens_in=usage.prompt if usage else None,
            tokens_out=usage.completion if usage else None,
            bytes_in=visit.bytes_in,
            bytes_out=reply.bytes_sent,
            served_by=visit.served_by,
        )


def runner_of(server: Server) -> web.ServerRunner:
    """The drain has waited already: not aiohttp's 60 seconds once more."""
    return web.ServerRunner(server, handle_signals=False, shutdown_timeout=1.0)


def resident_memory() -> int:
    """Bytes of this process that are in memory; 0 where nobody says."""
    try:
        with open("/proc/self/statm", "rb") as file:  # noqa: PTH123 - each second
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0


def health_mode(
    asked: str, platform_name: str, slowest: Callable[[], float | None], model_size: Callable[[], int]
) -> str:
    """HEALTH_MODE=auto: strict, but hold on RunPod's load balancer when the model would not be there in time.

    `slowest`: seconds of the slowest of the last starts on this volume, None when there were none; then `model_size`
    (bytes) is asked. Both read the volume, however long that takes.
    """
    if asked != "auto":
        return asked
    if platform_name != "runpod-serverless":
        return "strict"
    if (seconds := slowest()) is not None:
        return "hold" if seconds > SLOW_START else "strict"
    return "hold" if model_size() > LARGE_MODEL else "strict"


def bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
