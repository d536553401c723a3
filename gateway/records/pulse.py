"""Whether the event loop goes on: how late it is, and a second pair of eyes for when it stands still.

The loop beats once a second (`Pulse.beat`, from the heartbeat that writes the status file). Something that blocks it
holds up every stream and every probe of the gateway, and cannot be seen from the loop itself. So a thread looks on,
and when there was no beat for long enough, it says once where the loop's thread is: files, lines and names of
functions, never a value. (The health port, a process of its own, answers 503 once the heartbeat is older than 10 s.)

`Watch` decides and knows no clock and no thread; `Pulse` is the thread around it.
"""

import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType

BEAT = 1.0
"""Seconds between two beats."""
STALLED = 2.0
"""Seconds of lateness from which on it is a stall."""
LOOK = 0.5
"""Seconds between two looks of the thread."""
WINDOW = 60.0
"""Seconds over which the worst lateness is remembered: as long as the rarest usual scrape."""
DEEPEST = 40
"""Frames of a stack that are said, from where it is outwards."""


@dataclass(frozen=True, slots=True)
class Stalled:
    """The loop stands still, and has for this many seconds."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Recovered:
    """It goes on, after this many seconds."""

    seconds: float
    seen: bool
    """Whether it was told while it lasted."""


@dataclass(frozen=True, slots=True)
class StoodStill:
    """Nothing of this process ran for this many seconds, the onlooker included: the machine was paused or starved, or
    something held the interpreter."""

    seconds: float


Verdict = Stalled | Recovered | StoodStill


class Watch:
    """Decides from beats and looks. `beat` is the loop's, `look` the onlooker's; each writes only what is its own."""

    def __init__(self, *, beat: float = BEAT, stalled: float = STALLED, look: float = LOOK) -> None:
        self._beat = beat
        self._stalled = stalled
        self._look = look
        # The loop's.
        self._late: deque[tuple[float, float]] = deque()
        """(When, lateness), the worst of the window first, each later one smaller."""
        self._stalls: tuple[int, float, float] = (0, 0.0, 0.0)
        """How many there were, how long the last one was, and after which beat."""
        self._last: float | None = None
        """When it beat last. None: it need not."""
        # The onlooker's.
        self._looked: float | None = None
        self._told_of: float | None = None
        """The beat after which it stood still, once that was told."""
        self._forgiven: float | None = None
        """The beat after which everything stood still: what came then late is not the loop's fault."""
        self._ended = 0
        """Stalls whose end was told."""

    def __repr__(self) -> str:
        return f"<Watch last={self._last} stalls={self._stalls[0]} told_of={self._told_of}>"

    def beat(self, now: float) -> None:
        last, self._last = self._last, now
        if last is None:
            return
        late = max(0.0, now - last - self._beat)
        while self._late and self._late[-1][1] <= late:
            self._late.pop()
        self._late.append((now, late))
        while self._late[0][0] < now - WINDOW:
            self._late.popleft()
        if late > self._stalled:
            self._stalls = (self._stalls[0] + 1, late, last)

    def rest(self) -> None:
        """It need not beat any more."""
        self._last = None

    def lag(self, now: float) -> float:
        """How late it was at its worst in the last minute, now included."""
        last = self._last
        running = 0.0 if last is None else max(0.0, now - last - self._beat)
        return max(running, max((late for at, late in tuple(self._late) if at >= now - WINDOW), default=0.0))

    def age(self, now: float) -> float | None:
        """Seconds since the last beat; None when there is none to wait for."""
        last = self._last
        return None if last is None else max(0.0, now - last)

    @property
    def stalls(self) -> int:
        return self._stalls[0]

    def look(self, now: float) -> Verdict | None:
        """What there is to tell, if anything."""
        looked, self._looked = self._looked, now
        last = self._last
        if looked is not None and now - looked > self._look + self._stalled:
            # Whoever slept longer than it asked for is no judge of others.
            self._ended = self.stalls
            if self._told_of != last:
                self._told_of, self._forgiven = None, last
            return StoodStill(now - looked - self._look)
        stalls, seconds, after = self._stalls
        if stalls > self._ended:
            seen, self._ended, self._told_of = self._told_of is not None, stalls, None
            return Recovered(seconds, seen) if after != self._forgiven else None
        if last is None or last in (self._told_of, self._forgiven):
            return None
        late = now - last - self._beat
        if late <= self._stalled:
            return None
        self._told_of = last
        return Stalled(late)


class Pulse:
    """The thread that looks on while the loop beats. Made and started on the loop's thread; `stop()` gives it back.

    `tell` is called on the onlooker's thread, with lines to write down; what it raises ends nothing but that line.
    """

    def __init__(
        self,
        tell: Callable[[str], None],
        *,
        watch: Watch | None = None,
        look: float = LOOK,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._tell = tell
        self._watch = watch or Watch(look=look)
        self._look = look
        self._clock = clock
        self._watched = threading.get_ident()
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def __repr__(self) -> str:
        return f"<Pulse {'looking' if self._thread is not None else 'not looking'} {self._watch!r}>"

    def start(self) -> None:
        # A daemon: it never keeps the process alive.
        self._thread = threading.Thread(target=self._run, name="pulse", daemon=True)
        self._thread.start()

    def beat(self, now: float) -> None:
        """The loop goes on. `now` is time.monotonic's, as loop.time() is on Linux."""
        self._watch.beat(now)

    @property
    def lag(self) -> float:
        """Seconds that the loop was late, at its worst in the last minute."""
        return self._watch.lag(self._clock())

    @property
    def age(self) -> float | None:
        """Seconds since the last beat; None before the first and after the end."""
        return self._watch.age(self._clock())

    @property
    def stalls(self) -> int:
        return self._watch.stalls

    def stop(self) -> None:
        """No more beats come, and nobody looks on any more. Waits for no more than a moment: a `tell` that hangs keeps
        nobody from ending."""
        self._watch.rest()
        self._over.set()
        if self._thread is not None:
            self._thread.join(timeout=0.2)
            self._thread = None

    def _run(self) -> None:
        while not self._over.wait(self._look):
            verdict = self._watch.look(self._clock())
            if verdict is not None:
                for line in said(verdict, stack_of(self._watched) if isinstance(verdict, Stalled) else []):
                    self._say(line)

    def _say(self, line: str) -> None:
        try:
            self._tell(line)
        except Exception as error:  # a log that is broken, too, is no reason to stop looking
            sys.stderr.write(f"[gateway] {line} (not logged: {type(error).__name__})\n")


def said(verdict: Verdict, stack: list[str]) -> list[str]:
    """The lines for the log."""
    match verdict:
        case Stalled(seconds):
            return [
                f"the event loop stands still since {seconds:.1f} s: nobody is answered meanwhile; it is in",
                *stack,
            ]
        case Recovered(seconds, seen):
            return [f"the event loop {'goes on after' if seen else 'stood still for'} {seconds:.1f} s"]
        case StoodStill(seconds):
            return [
                f"the whole process stood still for {seconds:.1f} s: the machine was paused or starved, or something "
                "held Python's interpreter"
            ]


def stack_of(thread: int) -> list[str]:
    """Where a thread is, the innermost first: files, lines and functions. No value of any variable is looked at, and no
    source is read: both may lie on a volume that hangs."""
    frame: FrameType | None = sys._current_frames().get(thread)
    lines: list[str] = []
    while frame is not None and len(lines) < DEEPEST:
        code = frame.f_code
        place = "/".join(code.co_filename.rsplit("/", 3)[-3:])
        lines.append(f"  | {place}:{frame.f_lineno} {code.co_qualname}")
        frame = frame.f_back
    return lines
