"""What is drawn from a seed before anything runs: the settings, and a list of things that happen.

A scenario is data. The same scenario is the same run, and one with some of its happenings left out is another run of
the same world: that is how a long story of a failure is made short (`shrink.py`). Each happening has a number of its
own to draw from, so that leaving one out changes nothing in the others.
"""

import datetime as dt
import random
from dataclasses import dataclass, replace

from tests.simulation.story import dollars, span

HOUR = 3600.0


@dataclass(frozen=True)
class Happening:
    """At `at` seconds after the beginning."""

    at: float

    def __str__(self) -> str:
        return type(self).__name__.lower()


@dataclass(frozen=True)
class Callers(Happening):
    """Some come within `over` seconds. Each draws how long its answer takes and whether it leaves."""

    number: int
    count: int
    over: float
    takes: float
    """Seconds of the longest answer."""
    leaves: float
    """The share of those who leave before it is over."""

    def __str__(self) -> str:
        leaving = f", {self.leaves:.0%} of them leave" if self.leaves else ""
        return f"{self.count} callers within {span(self.over)}, answers up to {span(self.takes)}{leaving}"


@dataclass(frozen=True)
class Trouble(Happening):
    """On the way to the vendor, or at it, for a while. What each kind does is said in `network.TROUBLES`."""

    number: int
    kind: str
    lasts: float
    share: float
    """Of the calls that it meets."""

    def __str__(self) -> str:
        return f"trouble: {self.kind}, for {span(self.lasts)}, {self.share:.0%} of the calls"


@dataclass(frozen=True)
class Mishap(Happening):
    """Something happens to what is rented, or to the next that is. What each kind does is said in `vendors.py`."""

    number: int
    kind: str
    lasts: float

    def __str__(self) -> str:
        return f"mishap: {self.kind}, for {span(self.lasts)}"


@dataclass(frozen=True)
class Kill(Happening):
    """kill -9 of the controller, and another one after `down` seconds.

    `when` says what is waited for from `at` on: "now"; a vendor "call" that is under way, was "heard" there, or is
    "answered"; a ledger "append" that is under way or "written". Then `rounds` more of the loop.
    """

    when: str
    which: int
    """The first such, or a later one."""
    rounds: int
    down: float

    def __str__(self) -> str:
        where = {"now": "", "call": "at its vendor call", "heard": "when its vendor call was heard"}
        where |= {"answered": "when its vendor call was answered", "append": "before its ledger entry"}
        where |= {"written": "when its ledger entry was written"}
        which = f" {self.which + 1}" if self.when != "now" else ""
        return f"kill -9 {where[self.when]}{which} + {self.rounds} rounds; another one after {span(self.down)}"


@dataclass(frozen=True)
class Restart(Happening):
    """SIGTERM, as a planned restart does, and another one after `down` seconds."""

    leave: bool
    down: float

    def __str__(self) -> str:
        return (
            f"SIGTERM, {'leaves what runs' if self.leave else 'stops what runs'}; another one after {span(self.down)}"
        )


@dataclass(frozen=True)
class ClockJump(Happening):
    """The controller's wall clock; the vendor's, and the time that really passes, do not."""

    by: float

    def __str__(self) -> str:
        return f"the controller's clock jumps by {self.by:+.0f} s"


@dataclass(frozen=True)
class FullDisk(Happening):
    """The ledger cannot be written."""

    lasts: float

    def __str__(self) -> str:
        return f"the ledger cannot be written for {span(self.lasts)}"


@dataclass(frozen=True)
class NewPrice(Happening):
    """From the next start on."""

    factor: float

    def __str__(self) -> str:
        return f"the vendor's price is {self.factor:.2g} times as high"


@dataclass(frozen=True)
class KeepWarm(Happening):
    lasts: float

    def __str__(self) -> str:
        return f"keep-warm for {span(self.lasts)}"


@dataclass(frozen=True)
class Setup:
    """What stays the same for a whole story."""

    begins: float
    """Unix seconds, UTC."""
    hours: float
    vendor: str = "runpod-pod"
    strategy: str = "resume"
    price: int = 340_000
    """Micro-dollars per hour."""
    budget: int | None = 20_000_000
    """Micro-dollars a month; None: unlimited."""
    grace: float = 60.0
    idle_timeout: float = 600.0
    start_timeout: float = 600.0
    start_max: float = 1800.0
    max_runtime: float = 12 * HOUR
    boot: float = 60.0
    """Seconds from the vendor's RUNNING to the first answer."""
    slots: int = 4

    def __str__(self) -> str:
        budget = "no limit" if self.budget is None else dollars(self.budget)
        begins = dt.datetime.fromtimestamp(self.begins, dt.UTC).strftime("%Y-%m-%d %H:%M")
        return (
            f"{self.vendor} ({self.strategy}) from {begins}, {self.hours:.3g} hours, {dollars(self.price)}/h, "
            f"budget {budget}, idle {span(self.idle_timeout)}, boots in {span(self.boot)}"
        )


@dataclass(frozen=True)
class Scenario:
    seed: int
    setup: Setup
    happenings: tuple[Happening, ...]

    def without(self, gone: set[int]) -> "Scenario":
        kept = tuple(happening for number, happening in enumerate(self.happenings) if number not in gone)
        return replace(self, happenings=kept)

    def __str__(self) -> str:
        lines = [str(self.setup)]
        lines += [
            f"  {number:3}  at {span(happening.at):>9}  {happening}" for number, happening in enumerate(self.happenings)
        ]
        return "\n".join(lines)


NETWORK_TROUBLES = (
    "slow", "slow", "very slow", "answer lost", "answer lost", "unsent", "limited", "limited silently", "failing",
    "failing after all", "html", "cut", "stale", "stale", "locked out",
)  # fmt: skip
MISHAPS = (
    "taken away", "taken away", "dies", "hangs", "no capacity", "no capacity", "zero gpu", "zero gpu", "never runs",
    "never boots", "slow boot", "no balance", "stop ignored", "lies stopped", "lies running", "odd status",
)  # fmt: skip
VENDORS = ("plain", "runpod-pod", "runpod-pod", "vast")
DOWNS = (0.0, 0.0, 1.0, 5.0, 30.0, 120.0, 600.0, 3 * HOUR)
JUMPS = (-HOUR, HOUR, -40.0, 40.0, -3.0, 3.0, 31 * 24 * HOUR, -31 * 24 * HOUR)


def draw(seed: int) -> Scenario:
    """The scenario of a seed."""
    dice = random.Random(seed)
    setup = _setup(dice, seed)
    length = setup.hours * HOUR
    happenings: list[Happening] = []
    moments = [dice.uniform(0, length) for _ in range(dice.randint(1, 6))]
    """Things happen together, else they miss each other: near one of these moments."""

    def near() -> float:
        at = (
            dice.choice(moments) + dice.choice((0.0, 0.0, 1.0, 30.0, 300.0, setup.idle_timeout)) + dice.uniform(-20, 90)
        )
        return round(min(max(at, 0.0), length), 3)

    for number in range(dice.randint(1, 10)):
        happenings.append(
            Callers(
                near(),
                number,
                count=dice.choice((1, 1, 1, 2, 5, 20)),
                over=dice.choice((0.0, 1.0, 60.0, 600.0)),
                takes=dice.choice((0.1, 5.0, 30.0, 300.0, 1500.0)),
                leaves=dice.choice((0.0, 0.0, 0.3, 1.0)),
            )
        )
    for number in range(dice.choice((0, 1, 2, 3, 5, 8))):
        kind = dice.choice(NETWORK_TROUBLES)
        lasts = dice.choice((5.0, 30.0, 120.0, 600.0, HOUR))
        happenings.append(Trouble(near(), number, kind, lasts, dice.choice((0.1, 0.5, 0.5, 1.0))))
    for number in range(dice.choice((0, 0, 1, 2, 3))):
        happenings.append(Mishap(near(), number, dice.choice(MISHAPS), dice.choice((10.0, 120.0, 900.0))))
    for _ in range(dice.choice((0, 0, 1, 1, 2, 4))):
        when = dice.choice(("now", "call", "heard", "heard", "answered", "append", "written"))
        happenings.append(
            Kill(near(), when, dice.choice((0, 0, 0, 1, 2, 5)), dice.choice((0, 0, 1, 2, 5, 20)), dice.choice(DOWNS))
        )
    if dice.random() < 0.2:
        happenings.append(Restart(near(), dice.random() < 0.5, dice.choice(DOWNS)))
    for _ in range(dice.choice((0, 0, 0, 0, 1, 2))):
        happenings.append(ClockJump(near(), dice.choice(JUMPS)))
    if dice.random() < 0.15:
        happenings.append(FullDisk(near(), dice.choice((5.0, 120.0, 900.0))))
    if dice.random() < 0.1:
        happenings.append(NewPrice(near(), dice.choice((0.5, 1.3, 3.0))))
    if dice.random() < 0.1:
        happenings.append(KeepWarm(near(), dice.choice((300.0, HOUR))))
    return Scenario(seed, setup, tuple(sorted(happenings, key=lambda happening: happening.at)))


def _setup(dice: random.Random, seed: int) -> Setup:
    hours = dice.choice((0.5, 1.0, 1.0, 2.0, 2.0, 4.0, 8.0))
    month_end = dt.datetime(2026, dice.choice((1, 2, 4, 12)), 1, tzinfo=dt.UTC).timestamp()
    begins = month_end + dice.choice((5 * 24 * HOUR, 12 * 24 * HOUR, -hours * HOUR / 2, -0.25 * HOUR))
    price = dice.choice((340_000, 690_000, 2_390_000, 1))
    grace = dice.choice((0.0, 60.0, 60.0, 300.0))
    start_max = dice.choice((300.0, 1800.0))
    one_start = round(price * (start_max + 60 + grace) / 3600)
    budget = dice.choice(
        (None, 20_000_000, round(price * 0.7), round(price * 2.0), round(one_start * 1.1), one_start + 2)
    )
    return Setup(
        begins=begins,
        hours=hours,
        vendor=random.Random(f"vendor {seed}").choice(VENDORS),
        strategy=dice.choice(("resume", "recreate")),
        price=price,
        budget=budget,
        grace=grace,
        idle_timeout=dice.choice((0.0, 60.0, 600.0, 600.0)),
        start_timeout=dice.choice((120.0, 600.0)),
        start_max=start_max,
        max_runtime=dice.choice((12 * HOUR, 12 * HOUR, 0.5 * HOUR)),
        boot=dice.choice((5.0, 45.0, 90.0)),
        slots=dice.choice((1, 4)),
    )
