"""A vendor without a fence, and gateways that share one instance there: for stories about who decides.

The cloud carries out whatever reaches it, however late, and remembers who asked and how many ran at once.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field

from gateway.providers.base import (
    Bill,
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
from gateway.providers.renting.page import Page, Terms
from gateway.providers.renting.seat import Board, Seat
from gateway.providers.renting.shared import Shared
from gateway.providers.renting.vendor import Unanswered
from gateway.records.board.memory import MemoryBoard

CALL = 1.0
"""Seconds until a call has been carried out, and its answer is back."""
TAKEN = "The vendor took it."


@dataclass
class Cloud:
    running: dict[str, int] = field(default_factory=dict)
    """Names, and the port of each."""
    asked: list[tuple[str, str]] = field(default_factory=list)
    """Who, and for what: start, stop, list, look."""
    begun: int = 0
    most: int = 0
    """Of them at once."""
    boot: float = 30.0
    pace: float = 5.0
    """Between two looks of who watches."""
    down: bool = False
    refuses: ProviderError | None = None
    deaf: bool = False
    """Stops are answered and not carried out."""

    takes: Callable[[], float] = lambda: CALL
    """Seconds that a call takes, drawn anew for each."""

    async def call(self, who: str, what: str, deed: Callable[[], None] = lambda: None) -> None:
        """Once it is sent it is carried out, whatever becomes of whoever sent it."""
        self.asked.append((who, what))
        takes = self.takes()
        if not self.down:
            asyncio.get_running_loop().call_later(takes / 2, deed)
        await asyncio.sleep(takes)
        if self.down:
            raise ProviderError("The cloud does not answer.")

    def create(self, name: str) -> None:
        if self.refuses is not None:
            return
        self.begun += 1
        self.running[name] = 8000 + self.begun
        self.most = max(self.most, len(self.running))

    def end(self, name: str) -> None:
        if not self.deaf:
            self.running.pop(name, None)

    def who(self, what: str) -> list[str]:
        return [who for who, asked in self.asked if asked == what]


class Ledger:
    """What all of them write to."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str]] = []
        self.down = False

    def journal(self, who: str) -> "SharedJournal":
        return SharedJournal(self, who)


class SharedJournal:
    def __init__(self, ledger: Ledger, who: str) -> None:
        self._ledger, self._who, self._names = ledger, who, 0

    async def open(self) -> None:
        self._write("", "")

    def next_name(self) -> str:
        self._names += 1
        return f"wakegate-{self._who}-{self._names}"

    def _write(self, what: str, name: str) -> None:
        if self._ledger.down:
            raise ConnectionRefusedError("no ledger")
        if what and (what != "end" or (what, name) not in self._ledger.lines):
            self._ledger.lines.append((what, name))

    async def intend(self, rental: Rental) -> None:
        if ("intend", rental.name) not in self._ledger.lines:
            self._write("intend", rental.name)

    async def know(self, name: str, instance: str, price: int, why: str = "") -> None: ...

    async def void(self, name: str, why: str) -> None:
        self._write("end", name)

    async def end(self, name: str, why: str) -> None:
        self._write("end", name)


class CloudRenter:
    """The cloud's provider in one gateway."""

    name = "cloud"

    def __init__(self, who: str, cloud: Cloud, seat: Seat) -> None:
        self._who, self._cloud, self._seat = who, cloud, seat
        self._pace = cloud.pace
        self._suspected = asyncio.Event()
        self._journal: Journal | None = None

    @property
    def profile(self) -> Profile:
        return Profile(models=("fake",), concurrency=4)

    async def _call(self, what: str, deed: Callable[[], None] = lambda: None) -> None:
        """The fence, as every call has it; then the call is on its way, and is carried out whatever happens here."""
        try:
            await self._seat.look_again(self._seat.terms.call)
        except Unanswered as error:
            raise ProviderError("The cloud does not answer as it should.", detail=error.reason) from error
        await self._cloud.call(self._who, what, deed)

    def _instance(self, name: str) -> Instance:
        return Instance(name, self.name, Endpoint(""), 0.0, 100, name)

    async def start(self, intent: Intent, journal: Journal) -> Instance:
        self._journal = journal
        await journal.open()
        await self._call("list")
        for name in self._cloud.running:
            await journal.intend(Rental(name, self.name, intent.upstream, intent.run, 100, runs_since=0.0))
            return self._instance(name)
        name = journal.next_name()
        await journal.intend(Rental(name, self.name, intent.upstream, intent.run, 100))
        try:
            await self._call("start", lambda: self._cloud.create(name))
        except ProviderError as error:
            error.instance = self._instance(name)
            raise
        if self._cloud.refuses is not None and name not in self._cloud.running:
            await journal.void(name, "refused")
            raise self._cloud.refuses
        return self._instance(name)

    async def watch(self, instance: Instance) -> AsyncIterator[News]:
        yield Loading("booting")
        begun, told = asyncio.get_running_loop().time(), None
        while True:
            try:
                await self._call("look")
            except ProviderError:
                await asyncio.sleep(self._pace)
                continue
            port = self._cloud.running.get(instance.name)
            if port is None:
                if self._journal is not None:
                    await self._journal.end(instance.name, "taken")
                yield Gone(TAKEN, taken=True)
                return
            if asyncio.get_running_loop().time() - begun >= self._cloud.boot and port != told:
                told = port
                yield Ready(("fake",), 4, Endpoint(f"https://cloud:{port}", key="secret"))
            try:
                async with asyncio.timeout(self._pace):
                    await self._suspected.wait()
            except TimeoutError:
                pass
            self._suspected.clear()

    def suspect(self, instance: Instance) -> None:
        self._suspected.set()

    def whereabouts(self, instance: Instance) -> tuple[str, Endpoint] | None:
        return "id", instance.endpoint

    async def rest(self, instance: Instance) -> None: ...

    async def wake(self, instance: Instance) -> None: ...

    async def stop(self, instance: Instance, *, within: float) -> None:
        await self._call("stop", lambda: self._cloud.end(instance.name))
        await self._call("look")
        if instance.name in self._cloud.running:
            raise ProviderError("The cloud has not confirmed the stop.")

    async def list(self) -> list[Instance]:
        await self._call("list")
        return [self._instance(name) for name in self._cloud.running]

    async def price(self) -> int | None:
        await self._call("price")
        return 100

    async def bills(self, begins: float, ends: float) -> Sequence[Bill] | None:
        await self._call("bills")
        return []

    async def storage(self) -> int | None:
        return 0

    async def close(self) -> None: ...


class Line:
    """One gateway's way to the board, which can be cut."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self.cut = False

    async def read(self) -> tuple[str, str]:
        self._check()
        return await self._board.read()

    async def write(self, text: str, version: str) -> bool:
        self._check()
        return await self._board.write(text, version)

    def _check(self) -> None:
        if self.cut:
            raise ConnectionRefusedError("no way to the board")

    async def close(self) -> None:
        await self._board.close()


class Replica:
    """One gateway, with what a conductor would do for it said by the test."""

    def __init__(self, name: str, board: Board, cloud: Cloud, ledger: Ledger, terms: Terms | None = None) -> None:
        self.name = name
        self.line = Line(board)
        self.ledger = ledger
        self.seat = Seat(self.line, me=name, terms=terms)
        self.shared = Shared(
            lambda: CloudRenter(name, cloud, self.seat),
            self.seat,
            complete=lambda place: place if not place.url else Endpoint(place.url, key="secret"),
        )
        self.shared.begin(ledger.journal(name))
        self.heard: list[News] = []
        self.instance: Instance | None = None
        self._watching: asyncio.Task[None] | None = None

    async def start(self) -> Instance:
        """As a conductor does: start, then watch."""
        self.instance = await self.shared.start(Intent("main", 1), Ledger().journal("conductor"))
        self.heard = []
        self._watching = asyncio.create_task(self._listen(self.instance))
        return self.instance

    async def _listen(self, instance: Instance) -> None:
        async for news in self.shared.watch(instance):
            self.heard.append(news)

    async def stop(self, within: float = 60.0) -> None:
        assert self.instance is not None
        await self.shared.stop(self.instance, within=within)
        await asyncio.sleep(0.1)  # until its watcher has heard it, too

    @property
    def last(self) -> News | None:
        return self.heard[-1] if self.heard else None

    @property
    def ready(self) -> bool:
        return isinstance(self.last, Ready)

    @property
    def gone(self) -> bool:
        return isinstance(self.last, Gone)

    async def die(self) -> None:
        """kill -9: nothing of it goes on, nobody is told."""
        shared = self.shared
        tasks = [shared._keeper, shared._work, shared._pump, self._watching]
        alive = [task for task in tasks if task is not None and not task.done()]
        for task in alive:
            task.cancel()
        if alive:
            await asyncio.wait(alive)
        shared._keeper = None

    async def die_for_good(self) -> None:
        """The same, and whatever the test still has of it ends."""
        await self.die()
        self.shared._closing = True
        if not self.shared._round_over.done():
            self.shared._round_over.set_result(None)

    def wake(self) -> None:
        """It was only paused: its next look is made now."""
        self.shared._go()
        if self.instance is not None:
            self._watching = asyncio.create_task(self._listen(self.instance))

    async def close(self) -> None:
        await self.shared.close()
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.wait({self._watching})


def fresh_board() -> MemoryBoard:
    """As a last gateway left it in good order: whoever comes decides at once."""
    return MemoryBoard(Page(handed_over=True).text())
