"""One run of a scenario: vendor, network, disk, callers, one controller after the other, and who watches.

The world is not a process: it cannot be killed, its clock is right, and it knows what is true. When an invariant
(FAULTS.md 2.4) does not hold, the run is over and `Outcome.breach` says which and why.

After the scenario comes quiet: every fault is over, nobody comes, and after a while nothing may run. Then one last
caller comes, who must be answered unless the budget is spent, and it must be quiet again.
"""

import asyncio
import contextvars
import datetime as dt
import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from gateway.conductor import Conductor
from gateway.policy.books import Books, Entry
from gateway.policy.lifecycle.states import State
from tests.simulation import scenario as plan
from tests.simulation.callers import ENDS, Answering, Visit, call, visits
from tests.simulation.ledger import Disk, DiskLedger
from tests.simulation.loop import Killed, Process, WorldLoop, current
from tests.simulation.network import Network
from tests.simulation.scenario import Scenario, Setup
from tests.simulation.story import Story, dollars
from tests.simulation.vendors import Vendor
from tests.support.simulated import BEGIN

LONGEST = 4 * 3600.0
"""Seconds in which each caller has been told something: some answers take half an hour, four at once, after a wait."""
TICK = 60.0
"""Seconds between two looks at the money."""
MOST_ROUNDS = 2400
"""Rounds of the loop between two such looks: more, and something goes round without waiting for anything."""
SETTLES = 360.0
"""Seconds after a fault in which its consequences excuse what would else be wrong: a refused key or a failing API is
met with pauses that double up to a quarter of an hour."""
STOP_TAKES = 40.0
"""Seconds that a stop may take from its order to its confirmation with no fault anywhere."""
QUIET = 3600.0
"""Seconds after the last fault in which everything must have come to rest: pauses double up to a quarter of an hour."""


class House(Protocol):
    """One controller, built anew after each death."""

    conductor: Conductor

    async def open(self) -> None:
        """Reads the ledger, reconciles, and goes on until it is cancelled."""

    async def leave(self, *, leave: bool) -> None:
        """SIGTERM, to its end."""

    def now(self) -> int:
        """The ledger's clock, milliseconds."""

    @property
    def ready(self) -> bool:
        """Whether it has reconciled."""

    @property
    def books(self) -> Books: ...


Build = Callable[["World", Process], House]


@dataclass(frozen=True)
class Breach:
    invariant: str
    what: str

    def __str__(self) -> str:
        return f"{self.invariant}: {self.what}"


@dataclass
class Outcome:
    scenario: Scenario
    breach: Breach | None
    story: Story
    ends: Counter[str]
    starts: int
    deaths: int
    calls: int
    seconds: float
    """Simulated."""
    cost: int
    """Micro-dollars, truly."""
    booked: int

    def __str__(self) -> str:
        ends = ", ".join(f"{count} {how}" for how, count in self.ends.most_common())
        return (
            f"{self.seconds / 3600:.1f} hours, {self.starts} starts, {self.deaths} deaths, {self.calls} calls at the "
            f"vendor, {dollars(self.cost)} truly, {dollars(self.booked)} booked; callers: {ends}"
        )


class _Log(logging.Handler):
    """What the parts log becomes part of the story. A traceback from a living process is a fault of ours."""

    def __init__(self, world: "World") -> None:
        super().__init__(logging.WARNING)
        self._world = world

    def emit(self, record: logging.LogRecord) -> None:
        process = current()
        if process is not None and not process.alive:
            return
        if record.exc_info:
            self._world.breach("fault", f"{record.getMessage()}: {record.exc_info[1]!r}")
        self._world.story.tell("log", record.getMessage())


class World:
    def __init__(
        self, scenario: Scenario, vendor: Callable[["World"], Vendor], build: Build, *, tell: bool = False
    ) -> None:
        self.scenario = scenario
        self.setup: Setup = scenario.setup
        self.loop = asyncio.get_running_loop()
        self._context = contextvars.copy_context()
        """Nobody's but the world's: what is begun in it dies with no process."""
        self.story = Story(self.now, keep=tell)
        self.answering = Answering()
        self.vendor = vendor(self)
        self.answering.upstream = self.vendor
        self.network = Network(self.vendor, scenario.seed, lambda what: self.story.tell("network", what))
        self.network.on_phase = self._on_phase
        self.disk = Disk()
        self.disk.on_append = self._on_append
        self.disk.on_entry = self._on_entry
        self.books = Books()
        """Of everything that is on the disk."""
        self.ends: Counter[str] = Counter()
        self.starts = self.deaths = 0
        self._build = build
        self._skew = 0.0
        self.jumped = self.set_back = False
        self.price_most = 2.0
        """The most that is rented costs, as a share of what the first choice does: the second costs twice as much."""
        self.price_factor = 1.0
        """What the price is at least, as a share of what it was."""
        self.house: House | None = None
        self.process: Process | None = None
        self._booted = 0
        self._up_since = BEGIN
        self._callers: dict[asyncio.Task[None], None] = {}
        self._last_seen = -1e9
        """Loop time at which somebody was here last."""
        self._warm_until = -1e9
        self._faults_until = BEGIN
        """The last moment at which something was wrong that excuses."""
        self._armed: list[list[Any]] = []
        self._lifting: asyncio.Task[None] | None = None
        self._breach: Breach | None = None
        self._over = asyncio.Event()
        self._watch = _Watch(self)

    # -- clocks

    def now(self) -> float:
        """The vendor's, and everybody's but the controller's. Unix seconds."""
        return self.setup.begins + self.loop.time() - BEGIN

    def wall(self) -> float:
        """The controller's."""
        return self.now() + self._skew

    def later(self, seconds: float, *deed: Any) -> asyncio.TimerHandle:
        """A timer that no process owns."""
        return self._context.copy().run(self.loop.call_later, seconds, *deed)

    # -- the run

    async def run(self) -> Outcome:
        self.loop.set_exception_handler(self._faulty)
        log, root = _Log(self), logging.getLogger("gateway")
        root.addHandler(log)
        before, root.propagate = root.propagate, False
        told = self.loop.create_task(self._tell_it())
        over = self.loop.create_task(self._over.wait())
        try:
            await asyncio.wait({told, over}, return_when=asyncio.FIRST_COMPLETED)
            if told.done():
                told.result()
        finally:
            for task in (told, over):
                task.cancel()
            await asyncio.gather(told, over, return_exceptions=True)
            await self._tidy()
            root.removeHandler(log)
            root.propagate = before
        return Outcome(
            self.scenario, self._breach, self.story, self.ends, self.starts, self.deaths, self.network.calls,
            self.loop.time() - BEGIN, self.vendor.spent(), self._watch.booked,
        )  # fmt: skip

    async def _tell_it(self) -> None:
        self.boot()
        ticking = self.loop.create_task(self._tick())
        try:
            for happening in self.scenario.happenings:
                await asyncio.sleep(max(0.0, BEGIN + happening.at - self.loop.time()))
                self.story.tell("world", str(happening))
                self._happen(happening)
            await asyncio.sleep(max(0.0, BEGIN + self.setup.hours * plan.HOUR - self.loop.time()))
            await self._quiet()
            await self._last_caller()
        finally:
            ticking.cancel()
            await asyncio.gather(ticking, return_exceptions=True)

    async def _tick(self) -> None:
        rounds = self.loop.rounds  # type: ignore[attr-defined]
        while True:
            rounds, before = self.loop.rounds, rounds  # type: ignore[attr-defined]
            if rounds - before > MOST_ROUNDS:
                self.breach("busy", f"the loop went round {rounds - before} times in {TICK:g} s")
            self._watch.look()
            month_end = self._watch.month_ends()
            await asyncio.sleep(min(TICK, max(0.001, month_end - self.now())))

    async def _quiet(self) -> None:
        self.story.tell("world", "from now on nothing goes wrong and nobody comes")
        self.network.heal()
        self.vendor.heal()
        self._armed.clear()
        self.loop.at_round.clear()  # type: ignore[attr-defined]
        self.disk.full = False
        self._fault(0)
        while self._lifting is not None:
            await self._lifting
        if self.house is None:
            self.boot()
        for _ in range(round(LONGEST / 60)):
            if not self._callers:
                break
            await asyncio.sleep(60)
        else:
            self.breach("I6", f"nobody told {', '.join(task.get_name() for task in self._callers)} anything")
        await asyncio.sleep(QUIET + max(0.0, self._warm_until - self.loop.time()) + self.setup.idle_timeout)
        self._at_rest("I2")

    async def _last_caller(self) -> None:
        assert self.house is not None
        before = self.ends.copy()
        self.story.tell("world", "one last caller")
        self.visit(Visit("the last", 0.0, 1.0, None, None))
        for _ in range(round(LONGEST / 60)):
            if not self._callers:
                break
            await asyncio.sleep(60)
        else:
            self.breach("I6", "nobody told the last caller anything")
            return
        (how,) = (self.ends - before).elements()
        if how not in ("answered", "insufficient_quota"):
            self.breach(
                "I8", f"with nothing wrong any more, the last caller ended as {how!r}: {self.house.conductor!r}"
            )
        await asyncio.sleep(QUIET / 2 + self.setup.idle_timeout)
        self._at_rest("I2")
        self._watch.settled()

    def _at_rest(self, invariant: str) -> None:
        assert self.house is not None
        running, state = self.vendor.running(), self.house.conductor.state
        if running:
            self.breach(invariant, f"{running} still runs, and nobody is here: {self.house.conductor!r}")
        if state not in (State.STOPPED, State.FAILED):
            self.breach(invariant, f"it has not come to rest: {self.house.conductor!r}")
        if self.books.open:
            self.breach("I3", f"nothing runs, and this is still counted: {self.books.open}")

    # -- what happens

    def _happen(self, happening: plan.Happening) -> None:
        match happening:
            case plan.Callers():
                for visit in visits(happening, self.scenario.seed):
                    self.loop.call_later(visit.after, self.visit, visit)
            case plan.Trouble():
                self.network.begin(happening)
                self._fault(happening.lasts)
            case plan.Mishap():
                self.vendor.befall(happening)
                self._fault(happening.lasts)
                self._watch.instances()
            case plan.Kill(when="now"):
                self.loop.after_rounds(happening.rounds, lambda: self._die(happening.down))  # type: ignore[attr-defined]
            case plan.Kill():
                self._armed.append([happening, happening.which])
            case plan.Restart():
                if self._lifting is None:
                    self._lifting = self.loop.create_task(self._restart(happening))
            case plan.ClockJump():
                self._skew += happening.by
                self.jumped, self.set_back = True, self.set_back or happening.by < 0
                self._fault(0)
            case plan.FullDisk():
                self.disk.full = True
                self._fault(happening.lasts)
                self.loop.call_later(happening.lasts, setattr, self.disk, "full", False)
            case plan.NewPrice():
                self.vendor.price_becomes(happening.factor)
                self.price_most = max(self.price_most, self.price_factor * happening.factor)
                self.price_factor = min(self.price_factor, self.price_factor * happening.factor)
            case plan.KeepWarm():
                self._warm_until = self.loop.time() + happening.lasts
                if self.house is not None and self.process is not None:
                    self.process.do(self.house.conductor.keep_warm, self._warm_until)

    def _fault(self, lasts: float) -> None:
        self._faults_until = max(self._faults_until, self.loop.time() + lasts)

    @property
    def excused(self) -> bool:
        """Whether something is wrong, or was a moment ago."""
        return self.house is None or self.loop.time() < max(self._faults_until, self._up_since) + SETTLES

    # -- the controller's lives

    def boot(self) -> None:
        self._booted += 1
        self._up_since = self.loop.time()
        self.process = process = Process(f"controller {self._booted}")
        self.story.tell(process.name, "begins")
        self.house = house = process.do(self._build, self, process)
        process.begin(self._live(house), name="house")

    async def _live(self, house: House) -> None:
        try:
            await house.open()
        except asyncio.CancelledError:
            raise
        except Exception as error:
            logging.exception("the house fell")
            self.breach("house", f"it ended with {error!r}")

    def ledger(self, process: Process) -> DiskLedger:
        return DiskLedger(self.disk, process)

    def _die(self, down: float) -> None:
        if self.process is None or self._lifting is not None or self._breach is not None:
            return
        self.process.alive = False
        self.deaths += 1
        self._fault(down)
        self.story.tell("world", f"kill -9 of {self.process.name}")
        self._lifting = self.loop.create_task(self._resurrect(down), context=self._context.copy())

    async def _resurrect(self, down: float) -> None:
        assert self.process is not None
        process, self.house = self.process, None
        await process.kill()
        await self._next(down)

    async def _restart(self, restart: plan.Restart) -> None:
        if self.process is None or self.house is None:
            self._lifting = None
            return
        process, house = self.process, self.house
        await process.begin(house.leave(leave=restart.leave))
        self.house = None
        self.story.tell(process.name, "ends")
        self.deaths += 1
        self._fault(restart.down)
        await process.kill()
        await self._next(restart.down)

    async def _next(self, down: float) -> None:
        self.process = None
        await asyncio.sleep(down)
        self._lifting = None
        if self._breach is None:
            self.boot()

    async def _tidy(self) -> None:
        """Whatever happened, nothing is left."""
        self._breach = self._breach or None
        if self._lifting is not None:
            self._lifting.cancel()
            await asyncio.gather(self._lifting, return_exceptions=True)
        if self.process is not None:
            await self.process.kill()
        for task in tuple(self._callers):
            task.cancel()
        await asyncio.gather(*self._callers, return_exceptions=True)
        await self.network.close()
        for timer in self.loop.pending_timers():  # type: ignore[attr-defined]
            timer.cancel()

    # -- callers

    def visit(self, visit: Visit) -> None:
        if self.house is None or self.process is None or not self.process.alive:
            self.ends["killed"] += 1
            return
        task = self.process.begin(self._visit(visit), name=visit.name)
        self._callers[task] = None
        self._last_seen = self.loop.time()
        if visit.leaves is not None:
            timer = self.loop.call_later(visit.leaves, task.cancel)
            task.add_done_callback(lambda _: timer.cancel())
        task.add_done_callback(lambda task: self._seen_off(visit, task))

    async def _visit(self, visit: Visit) -> None:
        assert self.house is not None
        self.story.tell(visit.name, f"comes for {visit.takes:.3g} s")
        how = await call(self.house.conductor, visit, self.answering)
        self.ends[how] += 1
        self.story.tell(visit.name, how)

    def _seen_off(self, visit: Visit, task: "asyncio.Task[None]") -> None:
        self._callers.pop(task, None)
        self._last_seen = self.loop.time()
        if task.cancelled():
            self.ends["left"] += 1
            self.story.tell(visit.name, "left")
        elif (error := task.exception()) is not None:
            self.breach("I6", f"{visit.name} met {error!r}")
        if self.ends.keys() - ENDS:
            self.breach("I6", f"{visit.name} ended in no way that is known: {self.ends.keys() - ENDS}")

    # -- who hears of what goes on

    def _on_phase(self, phase: str, method: str, path: str, body: bytes | None) -> None:
        verb = self.vendor.verb(method, path, body)
        if phase == "call":
            if verb:
                self.story.tell("controller", f"{method} {path} {(body or b'').decode()[:120]}")
            if verb == "start":
                self._watch.start_is_wanted()
                self._watch.start_is_paid_for()
            elif verb == "stop":
                self._watch.nobody_is_cut(path, body)
        elif phase == "heard":
            if verb:
                self.story.tell("vendor", f"heard {verb}; runs: {self.vendor.running()}")
            if verb == "start":
                self.starts += 1
            self._watch.instances()
        self._strike(phase)

    def _on_append(self, phase: str) -> None:
        self._strike(phase)

    def _on_entry(self, entry: Entry) -> None:
        self.story.tell("ledger", _told(entry))
        self.books.apply(entry)
        self._watch.heard_entry(entry)

    def _strike(self, phase: str) -> None:
        for armed in self._armed:
            kill, left = armed
            if kill.when != phase:
                continue
            if left:
                armed[1] -= 1
                continue
            self._armed.remove(armed)
            if kill.rounds:
                self.loop.after_rounds(kill.rounds, lambda kill=kill: self._die(kill.down))  # type: ignore[attr-defined]
            else:
                self._die(kill.down)
            return

    def _faulty(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Nobody heard of an error."""
        error = context.get("exception")
        if not isinstance(error, Killed):
            self.breach("fault", f"{context.get('message')}: {error!r}")

    def breach(self, invariant: str, what: str) -> None:
        if self._breach is None:
            self._breach = Breach(invariant, what)
            self.story.tell("BREACH", str(self._breach))
            self._over.set()


class _Watch:
    """Who looks on, and says when something is not as it must be."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._month = self._month_now()
        self._spent_before: dict[str, int] = {}
        """What had truly been spent when each month began."""
        self._last_spent = 0
        self._over: Counter[str] = Counter()
        """Micro-dollars that were spent beyond the budget, by month, while nothing excused it."""
        self.booked = 0
        self._voided = False

    # I1

    def instances(self) -> None:
        running = self._world.vendor.running()
        if len(running) > 1:
            self._world.breach("I1", f"{len(running)} instances at once: {', '.join(running)}")

    # I5

    def start_is_wanted(self) -> None:
        world = self._world
        if world._callers or world.loop.time() < world._warm_until + 900:
            return
        if world.loop.time() - world._last_seen > world.setup.idle_timeout + 900:
            world.breach("I5", "a start that nobody asked for")

    def start_is_paid_for(self) -> None:
        """Whatever was written down: what it has truly cost, and what a start may cost, fit the month's budget."""
        world, setup = self._world, self._world.setup
        if setup.budget is None or world.jumped:
            return
        self.look()
        needed = setup.price * (setup.start_max + 60 + setup.grace) / 3600
        in_month = world.vendor.spent() - self._spent_before.get(self._month, 0)
        if world.vendor.running() or in_month + needed * world.price_factor <= setup.budget + 1:
            return
        world.breach(
            "budget",
            f"a start for {dollars(needed)}, when {dollars(in_month)} of {dollars(setup.budget)} are spent",
        )

    # I7

    def nobody_is_cut(self, path: str, body: bytes | None) -> None:
        world = self._world
        if world.house is None or world.excused:
            return
        lifecycle = world.house.conductor._lifecycle
        if lifecycle.draining or lifecycle.ending:
            return
        for running in world.vendor.running():
            if here := world.answering.on(running):
                world.breach("I7", f"{running} is stopped under {', '.join(here)}: {world.house.conductor!r}")

    # Money: I3, I4 and the budget

    def _month_now(self) -> str:
        return dt.datetime.fromtimestamp(self._world.now(), dt.UTC).strftime("%Y-%m")

    def month_ends(self) -> float:
        now = dt.datetime.fromtimestamp(self._world.now(), dt.UTC)
        begin = now.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
        return (begin + dt.timedelta(days=32)).replace(day=1).timestamp()

    def heard_entry(self, entry: Entry) -> None:
        if entry.kind in ("voided", "ended", "leapt"):
            self._voided = True  # the figure may go down by what was only supposed

    def look(self) -> None:
        world = self._world
        spent = world.vendor.spent()
        month = self._month_now()
        if month != self._month:
            self._spent_before[month] = spent
            self._month = month
        self._budget(month, spent)
        self._last_spent = spent
        if world.house is not None and world.house.ready:
            self._booked(spent)

    def _budget(self, month: str, spent: int) -> None:
        world, setup = self._world, self._world.setup
        if setup.budget is None or world.jumped:
            return
        in_month = spent - self._spent_before.get(month, 0)
        over = min(in_month - setup.budget, spent - self._last_spent)
        if over > 0 and not world.excused:
            self._over[month] += over
        allowed = setup.price * world.price_most * (setup.grace + STOP_TAKES) / 3600
        if self._over[month] > allowed:
            world.breach(
                "budget",
                f"{dollars(in_month)} in {month}, and the budget is {dollars(setup.budget)}: "
                f"{dollars(self._over[month])} of that with nothing to excuse it, {dollars(allowed)} are the grace",
            )

    def total(self) -> int:
        """What is booked in all, by the ledger's clock."""
        world = self._world
        assert world.house is not None
        at = max(world.house.now(), world.books.latest)
        whole = sum(world.books.cost(one, at) for one in world.books.rentals.values())
        return whole + sum(entry.amount for entry in world.books._corrections)

    def _booked(self, spent: int) -> None:
        world = self._world
        total = self.total()
        if world.set_back and world.deaths:
            return  # what passed while nobody counted is known to nobody but the vendor, whose bills come later
        if total < spent - 1:
            world.breach("I3", f"{dollars(total)} are booked, and it has truly cost {dollars(spent)}: {world.books!r}")
        if total < self.booked - 1 and not self._voided:
            world.breach("I4", f"{dollars(self.booked)} were booked, and now it is {dollars(total)}")
        self.booked, self._voided = total, False

    def settled(self) -> None:
        """Nothing runs any more, and the vendor's bills have come: what is booked is what it cost, and for each fault
        and each start a little more."""
        world = self._world
        spent, total = world.vendor.spent(), self.total()
        if total < spent - 1 and not (world.set_back and world.deaths):
            world.breach("I3", f"at the end {dollars(total)} are booked, and it has truly cost {dollars(spent)}")


def _told(entry: Entry) -> str:
    told = [f"{name} {value}" for name, value in entry.fields().items() if value and name not in ("kind", "at", "why")]
    return f"{entry.kind}: {', '.join(told)}{f' ({entry.why})' if entry.why else ''}"


def play(scenario: Scenario, vendor: Callable[[World], Vendor], build: Build, *, tell: bool = False) -> Outcome:
    """Run it in simulated time."""

    async def run() -> Outcome:
        return await World(scenario, vendor, build, tell=tell).run()

    with asyncio.Runner(loop_factory=WorldLoop) as runner:
        return runner.run(run())
