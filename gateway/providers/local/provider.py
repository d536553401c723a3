"""Runs an engine on this machine, as a guarded child process.

`start` says at once where the engine will listen. Below it one task per run goes through the whole life: the model is
found or fetched, the engine is started under its guard, it is watched until it serves, then until it ends; and whatever
ends it, the task returns only when nothing of it lives any more. That task is the only writer of the run's news.
"""

import asyncio
import importlib.util
import logging
import os
import re
import secrets
import shutil
import socket
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from gateway import gpus
from gateway.providers.base import (
    Endpoint,
    Gone,
    Instance,
    Intent,
    Journal,
    Loading,
    News,
    Profile,
    ProviderError,
    Ready,
    Rental,
)
from gateway.providers.feed import Feed
from gateway.providers.local import commands, guard
from gateway.providers.local.commands import CommandError, EngineName, EngineSpec, Installed, Launch, Place, Traits
from gateway.providers.local.ends.oom_kills import oom_kills, ran_out
from gateway.providers.local.environment import engine_environment
from gateway.providers.local.guarded import SWEEP_PATIENCE, GuardedEngine, Spawn, living, spawn_guard
from gateway.providers.local.loading.compile_caches import added
from gateway.providers.local.loading.knocking import until_listening
from gateway.providers.local.models.model_error import ModelError
from gateway.providers.local.news_pipe import NewsPipe
from gateway.providers.local.planning.free_memory import free_memory
from gateway.providers.probe import Sight, look, private_session, settle

if TYPE_CHECKING:  # imported when the engine's process runs already
    import aiohttp

    from gateway.providers.local.ends.reasons import Complaints
    from gateway.providers.local.loading.measures import Measures
    from gateway.providers.local.loading.progress import Reading
    from gateway.providers.local.loading.read_ahead import ReadAhead
    from gateway.providers.local.loading.warmup import Warmup
    from gateway.providers.local.models.shape import Shape
    from gateway.providers.local.planning.planner import Planner
    from gateway.providers.local.sleeping import Sleeper

log = logging.getLogger(__name__)

FIRST_LOOK, LAST_LOOK = 0.01, 0.1
"""Seconds between two looks at an engine that is not ready: the first pause, and the longest."""
LOOK_WITHIN = 5.0
WATCH_EVERY = 3.0
"""Seconds between two looks at an engine that serves."""
SICK_LOOKS = 3
"""Looks in a row that must find a serving engine dead before it is ended. A busy one answers late: not dead."""
CONFIRM_WITHIN = 5.0
"""Seconds beyond the stop's own grace until the guard is taken for stuck, and again until the sweep is."""
CALLED_OFF_WITHIN = 1.0
"""Seconds, at least, for a start without an engine to end what it has begun."""
ILL_GRACE = 10.0
"""Seconds for an engine that is ended because it does not serve any more: its stop command may be all that ends it."""
STOPPED = "The engine was stopped."
AHEAD_WITHIN = 0.2
"""Seconds that whoever starts an engine ahead waits for its process. A download, or a slow disk, is not waited for."""


class FoundModel(Protocol):
    """A model on this machine (models/): what an engine is given, what it is called, what it is written in."""

    @property
    def path(self) -> Path: ...
    @property
    def name(self) -> str: ...
    @property
    def format(self) -> commands.Format: ...
    @property
    def size(self) -> int: ...
    @property
    def shape(self) -> "Shape": ...


Resolve = Callable[[Callable[[Loading], None]], Awaitable[FoundModel | None]]
"""Finds or fetches the model, telling its progress. None: there is no MODEL (an ENGINE_COMMAND that needs none).

Raises ModelError (or ProviderError)."""

Examine = Callable[[FoundModel, Callable[[Loading], None]], Awaitable[Gone | None]]
"""Reads the model's files against the Hub's checksums. None: there is nothing to compare them with."""


def find_installed() -> Installed:
    """What engines this machine has. Looks for llama_cpp without importing it (that takes a second)."""
    return Installed(
        llama_cpp=importlib.util.find_spec("llama_cpp") is not None,
        llama_server=shutil.which("llama-server"),
        vllm=shutil.which("vllm"),
        cuda=gpus.library_is_there() and any(Path("/dev").glob("nvidia[0-9]*")),
    )


@dataclass(slots=True)
class Run:
    """One start, from its order to its end."""

    intent: Intent
    instance: Instance
    cookie: str
    place: Place
    folder: Path
    feed: Feed = field(default_factory=Feed)
    engine: GuardedEngine | None = None
    model: Path | None = None
    """What the engine was given."""
    complaints: "Complaints | None" = None
    oom_kills: int | None = None
    """The kernel's count when the engine was started."""
    caches: Mapping[str, str] = field(default_factory=dict)
    """Variables that say where it keeps what it compiles, as far as nobody else has set them."""
    launched: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when there is an engine: its guard has the order."""
    served: bool = False
    """Whether it was ready once: its end is then a crash, not a failed start."""
    stopping: bool = False
    """Whether its end was ordered."""
    reading: "Reading | None" = None
    """How far the engine is, by its lines and by what is measured of it."""
    measures: "Measures | None" = None
    read_ahead: "ReadAhead | None" = None
    sleeper: "Sleeper | None" = None
    """Puts it to sleep; None: this engine cannot."""
    life: "asyncio.Task[None] | None" = None
    examination: "asyncio.Future[Gone | None] | None" = None
    """Of the model's files, after an engine has called them damaged: there is nothing to stop but this."""

    def __repr__(self) -> str:
        return f"<Run {self.cookie} engine={self.engine!r} stopping={self.stopping} {self.feed!r}>"

    def hear(self, pipe: NewsPipe, line: str) -> None:
        """A line that the engine printed while it was not ready."""
        if self.complaints is not None:
            self.complaints.hear(line)
        if self.sleeper is not None:
            self.sleeper.hear(line)
        if self.reading is not None:
            served = self.reading.serves
            self.reading.hear(line)
            if self.reading.serves and not served:
                pipe.nudge()  # it is looked at now, not after the pause

    def loaded(self) -> None:
        """Whatever accompanies the loading is over."""
        if self.measures is not None:
            self.measures.close()
        if self.read_ahead is not None:
            self.read_ahead.close()

    def loading(self, health: Sight) -> Loading:
        """What can be said of an engine that does not serve yet."""
        if self.reading is None:
            return Loading("booting")
        if self.measures is not None:
            self.reading.measured = self.measures.seen
        if self.engine is not None and self.engine.unfinished:
            self.reading.hear(self.engine.unfinished)
        if health.answered:
            self.reading.answered(health.progress())
        return self.reading.loading()


class LocalProvider:
    """The provider `local`. One engine at a time; a second start while the first still lives is refused.

    `run_folder` is the private one (0700, on tmpfs): sockets and engine keys go there. `boot` is this process's nonce.
    `log_path` is the engine's own log, rotated at `log_limit` bytes and after `log_every` seconds. `caches` gives the
    variables that tell an engine where to keep what it compiles; it may wait for the volume.
    """

    name = "local"

    def __init__(
        self,
        spec: EngineSpec,
        *,
        resolve: Resolve,
        examine: Examine | None = None,
        run_folder: Path,
        boot: str,
        log_path: Path,
        log_limit: int = 20 << 20,
        log_every: float = 86400.0,
        environment: Mapping[str, str] = os.environ,
        installed: Callable[[], Installed] = find_installed,
        executor: Executor | None = None,
        spawn: Spawn = spawn_guard,
        caches: Callable[[], Mapping[str, str]] = dict,
        warmup: "Warmup | None" = None,
        read_ahead: bool = False,
        now: Callable[[], float] = time.time,
        python: str = sys.executable,
        watch_every: float = WATCH_EVERY,
        free: Callable[[], int | None] = free_memory,
        planner: "Planner | None" = None,
    ) -> None:
        self._spec = spec
        self._planner = planner
        self._resolve = resolve
        self._examine = examine
        self._run_folder = run_folder
        self._boot = boot
        self._log_path = log_path
        self._log_limit = log_limit
        self._log_every = log_every
        self._environment = environment
        self._installed = installed
        self._executor = executor
        self._spawn = spawn
        self._caches = caches
        self._warmup = warmup
        self._read_ahead = read_ahead
        self._now = now
        self._python = python
        self._watch_every = watch_every
        self._free = free
        self._runs: dict[str, Run] = {}
        self._ahead: Run | None = None
        """The one that was begun before it was ordered."""
        self._door = commands.door(spec, spec.engine)
        self._profile = self._first_profile()
        self._command_line: tuple[str, ...] = ()
        self._sleepless = False
        """Whether the engine said that it cannot sleep on this machine."""

    def __repr__(self) -> str:
        return f"<LocalProvider {self._spec.engine or 'engine by model'} runs={list(self._runs.values())}>"

    @property
    def command_line(self) -> tuple[str, ...]:
        """How the last engine was called; empty before the first. ENGINE_ARGS may have put a secret into it."""
        return self._command_line

    @property
    def planner(self) -> "Planner | None":
        """Who says what was chosen for the engine."""
        return self._planner

    # --- The contract ---

    @property
    def profile(self) -> Profile:
        return self._profile

    async def start(self, intent: Intent, journal: Journal) -> Instance:
        """Begin; the endpoint is known, the engine is not there yet. Raises ProviderError."""
        if self._ahead is not None:
            run, self._ahead = self._ahead, None
            if run.intent == intent:
                return run.instance
        if any(run.life is not None and not run.life.done() for run in self._runs.values()):
            raise ProviderError("The previous engine has not ended yet.")
        self._runs.clear()
        run = self._prepare(intent)
        try:
            await journal.intend(Rental(run.cookie, self.name, intent.upstream, intent.run))
        except OSError as error:
            remove(run.folder)
            raise ProviderError("What is started could not be written down.") from error
        self._set_out(run)
        return run.instance

    async def go_ahead(self, intent: Intent) -> None:
        """Begin the start that is ordered next, while whoever orders it is still being imported.

        Returns when the engine's process is on its way, or after a moment. Raises nothing: what is wrong, the order
        that follows is told. Nothing is written down before it: an engine without its gateway is ended by its guard.
        """
        try:
            run = self._prepare(intent)
        except ProviderError:
            return  # the order meets the same
        self._ahead = run
        life = self._set_out(run)
        launched = asyncio.ensure_future(run.launched.wait())
        await asyncio.wait({launched, life}, timeout=AHEAD_WITHIN, return_when=asyncio.FIRST_COMPLETED)
        launched.cancel()

    async def watch(self, instance: Instance) -> AsyncIterator[News]:
        """News until `Gone`."""
        run = self._runs.get(instance.id)
        if run is None:
            yield Gone("This engine is not running.")
            return
        async for news in run.feed.read():
            yield news

    async def rest(self, instance: Instance) -> None:
        await self._sleeper(instance).rest()

    async def wake(self, instance: Instance) -> None:
        await self._sleeper(instance).wake()

    def _sleeper(self, instance: Instance) -> "Sleeper":
        run = self._runs.get(instance.id)
        if run is None or run.sleeper is None:
            raise ProviderError("This engine cannot sleep.", lasting=True)
        return run.sleeper

    async def stop(self, instance: Instance, *, within: float) -> None:
        """End it and see it gone. A caller who leaves here leaves a stop that goes on."""
        run = self._runs.get(instance.id)
        if run is None or run.life is None or run.life.done():
            return
        run.stopping = True
        if run.engine is None:
            await self._give_up(run, run.life, within)
            return
        if run.examination is not None:
            run.examination.cancel()
        run.engine.stop(within)
        if not await ended(run.life, within + CONFIRM_WITHIN):
            log.warning("The guard of engine %s does not end it; ending both.", run.cookie)
            run.engine.kill_guard()
            if not await ended(run.life, SWEEP_PATIENCE + CONFIRM_WITHIN):
                raise ProviderError("The engine's processes could not be ended.")
        if run.engine.gone.done() and not run.engine.gone.cancelled() and not run.engine.gone.result():
            raise ProviderError("The engine's processes could not be ended.")

    async def list(self) -> list[Instance]:
        """The run that is under way, and one of which something lives although it should not.

        What an earlier gateway left is not here: its guard ended it.
        """
        loop = asyncio.get_running_loop()
        runs = tuple(self._runs.values())
        under_way = [run.life is not None and not run.life.done() for run in runs]
        found = [
            busy or await loop.run_in_executor(self._executor, living, run.cookie)
            for run, busy in zip(runs, under_way, strict=True)
        ]
        return [run.instance for run, there in zip(runs, found, strict=True) if there]

    async def price(self) -> int | None:
        return 0

    async def close(self) -> None:
        """Give back what is held. An engine that still runs loses its gateway by that, and its guard ends it."""
        if self._planner is not None:
            self._planner.close()
        for run in self._runs.values():
            if run.life is None or run.life.done():
                continue
            run.stopping = True
            if run.engine is None:
                await self._give_up(run, run.life, CALLED_OFF_WITHIN)
            else:
                if run.examination is not None:
                    run.examination.cancel()
                run.engine.hang_up()
                await ended(run.life, guard.ORPHAN_STOP_COMMAND + CONFIRM_WITHIN)

    @staticmethod
    async def _give_up(run: Run, life: "asyncio.Task[None]", within: float) -> None:
        """End a start that has no engine yet."""
        life.cancel()
        if not await ended(life, max(within, CALLED_OFF_WITHIN)):
            # It waits for the end of a download that was killed, and hangs in a volume that does not answer.
            log.warning("What prepares engine %s does not end; it is left behind.", run.cookie)
            life.cancel()
            await ended(life, CALLED_OFF_WITHIN)
        # A task that is cancelled before its first step runs none of its lines, its clean-up included.
        remove(run.folder)
        run.feed.tell(Gone(STOPPED))

    # --- Before the engine ---

    def _first_profile(self) -> Profile:
        engine = self._spec.engine or ("command" if self._spec.engine_command else None)
        return self._profile_of(engine)

    def _profile_of(self, engine: EngineName | None) -> Profile:
        names = self._spec.served_names
        if engine is None:
            return Profile(models=names, concurrency=self._spec.max_num_seqs)
        known = commands.traits(self._spec, engine)
        return Profile(models=names, routes=known.routes, concurrency=known.concurrency, engine=engine)

    def _prepare(self, intent: Intent) -> Run:
        """A folder of its own, an address, a key. Nothing of an earlier run is in it: stale sockets are the rule."""
        slug = re.sub(r"[^a-z0-9-]+", "-", intent.upstream.lower())[:24] or "engine"
        folder = self._run_folder / f"{slug}-{intent.run}"
        key = secrets.token_urlsafe(32) if "api_key_file" in commands.used(self._spec) else None
        try:
            remove(folder)
            folder.mkdir(mode=0o700)
            place = Place(
                socket=str(folder / "engine.sock"),
                port=free_port() if self._door == "port" else 0,
                key_file=str(folder / "key"),
                news_fd=-1,
                python=self._python,
                package_root=str(Path(commands.__file__).resolve().parents[3]),
            )
            if key is not None:
                write_secret(folder / "key", key)
        except OSError as error:
            raise ProviderError("The engine's run folder could not be made.") from error
        if self._door == "socket" and len(place.socket.encode()) > commands.SOCKET_PATH_MAX:
            raise ProviderError("The run folder's path is too long for a socket.", lasting=True)
        endpoint = (
            Endpoint("http://localhost", socket=place.socket, key=key)
            if self._door == "socket"
            else Endpoint(f"http://127.0.0.1:{place.port}", key=key)
        )
        cookie = f"{self._boot}.{slug}.{intent.run}"
        return Run(intent, Instance(cookie, self.name, endpoint, self._now()), cookie, place, folder)

    # --- One life ---

    def _set_out(self, run: Run) -> "asyncio.Task[None]":
        """The GPUs' driver is asked at once: its answer may take as long as finding the model does."""
        if self._planner is not None:
            self._planner.begin()
        self._runs[run.instance.id] = run
        run.life = asyncio.get_running_loop().create_task(self._live(run), name=f"engine {run.cookie}")
        return run.life

    async def _live(self, run: Run) -> None:
        gone = Gone("The engine's start failed; the gateway's log says why.")
        try:
            gone = await self._play(run)
        except asyncio.CancelledError:
            gone = Gone(STOPPED)
        except ModelError as error:
            gone = Gone(error.reason, lasting=error.lasting, detail=error.sentence)
        except ProviderError as error:
            gone = Gone(error.reason, lasting=error.lasting)
        except CommandError as error:
            gone = Gone("The engine's settings cannot be carried out.", lasting=True, detail=str(error))
        except OSError as error:
            from gateway.providers.local.ends.endings import not_carried_out

            gone = not_carried_out(error)
        except Exception:
            log.exception("The start of engine %s failed for a reason that nobody thought of.", run.cookie)
        finally:
            # Nothing in this block waits, so that nothing can be cut off in it.
            remove(run.folder)
            run.loaded()
            run.feed.tell(Gone(STOPPED) if run.stopping else gone)

    async def _play(self, run: Run) -> Gone:
        """Model, start, readiness, service, end: returns how it ended, with nothing left alive."""
        run.feed.tell(Loading("checking"))
        model = await self._resolve(run.feed.tell)
        loop = asyncio.get_running_loop()
        installed = await loop.run_in_executor(self._executor, self._installed)
        run.caches = await loop.run_in_executor(self._executor, self._caches)
        if self._sleepless:
            installed = replace(installed, cuda=False)
        engine_name = commands.choose(self._spec, model.format if model else None, installed)
        known = commands.traits(self._spec, engine_name)
        self._profile = self._profile_of(engine_name)
        if model is not None and not self._profile.models:
            self._profile = replace(self._profile, models=(model.name,))
        if model is not None:
            self._begin_reading(run, model.path)
        spec = self._spec
        if self._planner is not None:
            spec = await self._planner.settle(spec, engine_name, model, installed)
            if spec.max_num_seqs != self._spec.max_num_seqs:
                self._profile = replace(self._profile, concurrency=spec.max_num_seqs)
        with NewsPipe() as pipe:
            engine = run.engine = self._launch(run, spec, engine_name, model, installed, pipe)
            try:
                gone = await self._watch_engine(run, engine, known, pipe)
                if not engine.exited.done():
                    engine.stop(ILL_GRACE)
                await asyncio.shield(engine.gone)
            except BaseException as error:
                # Cut off or broken: the guard ends the engine as it does when the whole gateway dies.
                engine.hang_up()
                if isinstance(error, Exception):
                    await asyncio.shield(engine.gone)  # the next start is not to meet it
                raise
        return await self._doubt(run, engine, model, gone)

    async def _doubt(self, run: Run, engine: GuardedEngine, model: FoundModel | None, gone: Gone) -> Gone:
        """Where the engine called its files damaged, their checksums say whether they are. Damaged ones are thrown
        away, and another try is worth it."""
        if self._examine is None or model is None or run.served or run.stopping:
            return gone
        from gateway.providers.local.ends.endings import calls_files_damaged

        if run.complaints is None or not calls_files_damaged(engine.exited.result(), run.complaints):
            return gone
        run.examination = asyncio.ensure_future(self._examine(model, run.feed.tell))
        try:
            await asyncio.wait({run.examination})
        finally:
            run.examination.cancel()
        found = None if run.examination.cancelled() else run.examination.result()
        return gone if found is None else replace(found, detail=f"{found.detail}\n{gone.detail}".strip())

    def _launch(
        self,
        run: Run,
        spec: EngineSpec,
        name: EngineName,
        model: FoundModel | None,
        installed: Installed,
        pipe: NewsPipe,
    ) -> GuardedEngine:
        if not spec.served_names and model is not None:
            # Else an engine would call itself by its path, and callers would see it.
            spec = replace(spec, served_names=(model.name,))
        tells = commands.TRAITS[name].news
        place = replace(run.place, news_fd=pipe.write_end if tells else -1)
        launch: Launch = commands.build(spec, name, place, str(model.path) if model else None, installed)
        self._command_line = launch.argv
        run.oom_kills = oom_kills()
        env = engine_environment(
            self._environment,
            cookie_name=guard.COOKIE,
            cookie=run.cookie,
            wanted=launch.wanted_env,
            needed=launch.needed_env,
        )
        env |= added(run.caches, env)
        engine = GuardedEngine.launch(
            argv=launch.argv,
            env=env,
            cookie=run.cookie,
            log=str(self._log_path),
            log_limit=self._log_limit,
            log_every=self._log_every,
            stop_argv=launch.stop_argv,
            keep_fds=(pipe.write_end,) if tells else (),
            executor=self._executor,
            spawn=self._spawn,
            on_line=partial(run.hear, pipe),
        )
        pipe.handed_over()
        run.launched.set()
        from gateway.providers.local.ends.reasons import Complaints

        run.model = model.path if model is not None else None
        run.complaints = Complaints(commands.context_asked(spec, name))
        self._prepare_sleep(run, name, model, installed)
        self._measure(run, engine, name, model, env.get("CUDA_VISIBLE_DEVICES"))
        return engine

    def _prepare_sleep(self, run: Run, name: EngineName, model: FoundModel | None, installed: Installed) -> None:
        """Whether it was started so that it can sleep, and who will tell it to."""
        insists = self._spec.idle_action == "sleep"
        if model is None or not commands.can_sleep(self._spec, name, installed):
            if insists:
                log.warning("IDLE_ACTION=sleep: %s cannot sleep here (vLLM on an NVIDIA GPU can); it is stopped.", name)
            return
        from gateway.providers.local.sleeping import Sleeper

        run.sleeper = Sleeper(
            run.instance.endpoint,
            model.path,
            run.feed.tell,
            insists=insists,
            executor=self._executor,
            free=self._free,
        )
        self._profile = replace(self._profile, can_rest=True)

    @staticmethod
    def _measure(
        run: Run, engine: GuardedEngine, name: EngineName, model: FoundModel | None, visible: str | None
    ) -> None:
        from gateway.providers.local.loading.measures import Measures
        from gateway.providers.local.loading.progress import Reading

        run.reading = Reading(name)
        run.measures = Measures(model.path if model else None, visible=visible)
        run.measures.follow(engine.guard_pid)

    def _begin_reading(self, run: Run, path: Path) -> None:
        from gateway.providers.local.loading.read_ahead import ReadAhead, bypassed

        if self._read_ahead and not bypassed(self._spec.engine_args):
            run.read_ahead = ReadAhead(path)
            run.read_ahead.begin()

    async def _watch_engine(self, run: Run, engine: GuardedEngine, known: Traits, pipe: NewsPipe) -> Gone:
        from gateway.providers.local.ends.endings import how_it_ended, not_started

        started = await asyncio.shield(engine.started)
        if started.error:
            return not_started(started.error, self._command_line[0])
        run.feed.tell(Loading("booting"))
        session = private_session(run.instance.endpoint.socket)
        try:
            serving = asyncio.ensure_future(self._serve(run, engine, known, pipe, session))
            try:
                waiting: set[asyncio.Future[Any]] = {serving, engine.exited}
                await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                if not engine.exited.done():
                    return serving.result()  # it does not serve, though its process lives
            finally:
                serving.cancel()
                await asyncio.wait({serving})
        finally:
            run.loaded()
            await settle(session)
        pipe.read_now()
        if run.sleeper is not None and run.sleeper.refused and not run.served:
            self._sleepless = True
            return Gone("This engine cannot sleep here, and is started again without.")
        return how_it_ended(
            engine.exited.result(),
            pipe.failure,
            run.served,
            run.complaints,
            ran_out=ran_out(run.oom_kills, oom_kills()),
            room=await self._room(run),
        )

    async def _room(self, run: Run) -> int | None:
        """What a context might have had, where the engine ended for want of it."""
        where = run.complaints.short_of if run.complaints is not None else None
        if where is None:
            return None
        from gateway.providers.local.ends.room import room_for_context

        look = partial(room_for_context, where, run.model, devices=self._environment.get("CUDA_VISIBLE_DEVICES"))
        return await asyncio.get_running_loop().run_in_executor(self._executor, look)

    async def _serve(
        self, run: Run, engine: GuardedEngine, known: Traits, pipe: NewsPipe, session: "aiohttp.ClientSession"
    ) -> Gone:
        """Until it is ready, then until it is found dead although its process lives."""
        endpoint = run.instance.endpoint
        knocking = asyncio.ensure_future(nudge_once_it_listens(endpoint, pipe))
        try:
            health = await self._until_ready(run, engine, known, pipe, session)
        finally:
            knocking.cancel()
        sick = 0
        while True:
            await asyncio.sleep(self._watch_every)
            if run.sleeper is not None:
                await run.sleeper.notice(session)
            if health is None:
                continue  # there is nothing that could be asked without disturbing it; its process is watched anyway
            sight = await look(session, endpoint, health, within=LOOK_WITHIN)
            dead = sight.status >= 500 or sight.trouble == "refused"
            sick = sick + 1 if dead else 0
            if sick >= SICK_LOOKS:
                return Gone("The engine's process lives, but it does not serve any more.", detail=f"{health}: {sight}")

    async def _until_ready(
        self, run: Run, engine: GuardedEngine, known: Traits, pipe: NewsPipe, session: "aiohttp.ClientSession"
    ) -> str | None:
        """Returns the path at which its health may be asked from now on, None when there is none."""
        endpoint = run.instance.endpoint
        pause = FIRST_LOOK
        while True:
            for news in pipe.take():
                run.feed.tell(news)
            path, health = await first_that_exists(session, endpoint, known.health)
            if health.status == 200 and not health.html:
                asked = path == "/v1/models"
                models = health if asked else await look(session, endpoint, "/v1/models", within=LOOK_WITHIN)
                if serves(models):
                    slots = await self._slots(session, endpoint, known)
                    names = models.model_names() or self._profile.models
                    await self._warm_up(run, session, names)
                    run.served = True
                    engine.hush()
                    run.loaded()
                    ready = Ready(names, slots or self._profile.concurrency)
                    if run.sleeper is not None:
                        run.sleeper.serves(ready)
                    run.feed.tell(ready)
                    return None if asked else path
            if not pipe.spoke:
                run.feed.tell(run.loading(health))
            nudged = await pipe.wait(pause)
            pause = FIRST_LOOK if nudged else min(LAST_LOOK, pause * 1.3)

    async def _warm_up(self, run: Run, session: "aiohttp.ClientSession", names: tuple[str, ...]) -> None:
        """WARMUP: before it counts as ready, but however that goes."""
        if self._warmup is None:
            return
        from gateway.providers.local.loading.warmup import warm_up

        run.feed.tell(Loading("warming"))
        name = names[0] if names else None
        log.info("%s", await warm_up(session, run.instance.endpoint, self._profile.routes, name, self._warmup))

    @staticmethod
    async def _slots(session: "aiohttp.ClientSession", endpoint: Endpoint, known: Traits) -> int | None:
        if not known.slots:
            return None
        sight = await look(session, endpoint, known.slots, within=LOOK_WITHIN)
        number = sight.content.get("total_slots") if isinstance(sight.content, dict) else None
        return number if isinstance(number, int) and number > 0 else None


# --- What was seen ---


def serves(models: Sight) -> bool:
    """Whether /v1/models says that it serves. Engines for speech or images have no such route, and that is no fault."""
    return (models.status == 200 and not models.html) or models.status in (401, 403, 404, 405, 501)


async def nudge_once_it_listens(endpoint: Endpoint, pipe: NewsPipe) -> None:
    """The first look that can succeed is not one of those that are made now and then."""
    await until_listening(endpoint, asyncio.get_running_loop().time())
    pipe.nudge()


async def first_that_exists(
    session: "aiohttp.ClientSession", endpoint: Endpoint, paths: tuple[str, ...]
) -> tuple[str, Sight]:
    """The first of the paths that the engine has, and what it said there."""
    path, sight = paths[0], Sight(0)
    for path in paths:
        sight = await look(session, endpoint, path, within=LOOK_WITHIN)
        if sight.status not in (404, 405, 501):
            break
    return path, sight


# --- Small things ---


async def ended(life: "asyncio.Task[None]", within: float) -> bool:
    """Whether it ended in that time; it is not cut off when not."""
    done, _ = await asyncio.wait({life}, timeout=within)
    return bool(done)


def free_port() -> int:
    """A loopback port that nobody has just now. Whoever takes it before the engine makes that start fail, no more."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def write_secret(path: Path, text: str) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(handle, "w") as file:
        file.write(text + "\n")


def remove(folder: Path) -> None:
    """The run's folder, on tmpfs: sockets, a key. One that is not there is removed."""
    shutil.rmtree(folder, ignore_errors=True)
