"""`Logs`: what the rest of the house hands its lines to, and the thread that makes lines of what was handed in.

A request's end costs the event loop one append to a list. Everything else happens on the scribe's thread: formatting,
taking secrets out, escaping, and handing batches to the outlets. A batch is at most a tenth of a second of lines.

Requests' lines are looked at many at a time, as one text: nearly always there is nothing in it that must be taken out
or escaped. Where there is, each line is treated for itself, so that what comes out never depends on its neighbours.

    logs = Logs(plan, formats=formats, redact=redactor)
    logs.start()
    logs.say("Starting gateway on 0.0.0.0:8000", always=True)
    logs.request(ended)
    logs.close(patience=2.0)
"""

import json
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from gateway.records import console
from gateway.records.ended import Ended
from gateway.records.logs.files import Files
from gateway.records.logs.keeper import Keeper
from gateway.records.logs.outlet import Gap, Outlet
from gateway.records.logs.plan import LEVELS, Formats, LogFacts, LogPlan
from gateway.records.logs.stdout import Console
from gateway.records.logs.volume import Volume

GATHER = 0.1
"""Seconds that requests' lines are gathered. What is said goes out at once, with what was gathered so far."""
IDLE = 5.0
"""Seconds between two looks at the outlets while nothing is said."""
MOST = 20_000
"""Ends of requests and happenings that may wait for the scribe."""
MOST_SIZE = 16 << 20
"""The same, in characters of what strangers wrote."""
LONGEST = 32 << 10
"""Characters of one line."""
BATCH = 256 << 10
"""Characters that are handed to an outlet in one go."""
TOGETHER = 64
"""Requests' lines that are looked at as one text. More would gain nothing: CPython searches long texts more slowly."""
CLOSE = 2.0


@dataclass(frozen=True, slots=True)
class Happening:
    """Anything that is said and is not a request's end."""

    at: float
    level: str
    text: str
    always: bool = False
    """On the console whatever LOG_TO says: guides and scripts wait for it."""
    only_console: bool = False
    only_files: bool = False
    keeps_lines: bool = False
    """Whether its line ends are ours (a traceback's). Those that a stranger wrote are escaped."""


@dataclass(frozen=True, slots=True)
class Block:
    """Lines of our own making for the console, as they are; as JSON the message of one happening."""

    at: float
    text: str


@dataclass(frozen=True, slots=True)
class Live:
    """What stands in the terminal's last line from now on; empty: nothing."""

    text: str


@dataclass(frozen=True, slots=True)
class Marker:
    """Everything that was handed in before it has been passed on."""

    reached: threading.Event = field(default_factory=threading.Event)


@dataclass(slots=True)
class Batch:
    """Lines on their way to one outlet."""

    lines: list[str] = field(default_factory=list)
    size: int = 0

    def add(self, *lines: str) -> None:
        self.lines += lines
        self.size += sum(map(len, lines))

    def take(self) -> bytes:
        self.lines.append("")  # the last one ends, too
        data = "\n".join(self.lines).encode("utf-8", "replace")
        self.lines, self.size = [], 0
        return data


class Logs:
    """All logs of one gateway. `request`, `say` and `show` may be called from any thread, and never wait."""

    def __init__(
        self,
        plan: LogPlan,
        *,
        formats: Formats,
        redact: Callable[[str], str],
        now: Callable[[], float] = time.time,
        symlink: Callable[..., None] = os.symlink,
        open_file: Callable[..., int] = os.open,
    ) -> None:
        self.plan = plan
        self._formats = formats
        self._redact = redact
        self._now = now
        self._least = LEVELS[plan.level]
        self._wants_requests = self._least <= logging.INFO
        self._inbox: deque[Ended | Happening | Block | Live | Marker] = deque()
        self._strange = 0
        """Characters of strangers that were handed in by requests, and (`_strange_done`) that were dealt with. Two
        numbers with one writer each, so that no lock is needed."""
        self._strange_done = 0
        self._refused = 0
        """Lines that did not fit the inbox, and (`_refused_told`) that the outlets have been told of."""
        self._refused_told = 0
        self._bell = threading.Event()
        self._now_bell = threading.Event()
        self._rung = False
        self._ending = False
        self._volume = Volume(plan.data_dir)
        self._console_place = Console()
        self._is_live = plan.form == "text" and plan.to != "files" and self._console_place.is_terminal
        self._console = Outlet("console", self._console_place, note=self._note_for_console, limit=plan.most_waiting)
        self._files: Outlet | None = None
        live: Files | None = None
        if plan.to != "console":
            live = Files(
                plan,
                self._volume,
                on_rotation=lambda: self._keeper.rotated(),
                now=now,
                symlink=symlink,
                open_file=open_file,
            )
            self._files = Outlet(
                "files",
                live,
                note=self._note_for_files,
                limit=plan.most_waiting,
                retry_every=plan.retry_every,
                look_every=min(plan.verify_every, plan.touch_every, 10.0),
            )
        self._keeper = Keeper(plan, self._volume, live, now=now)
        self._about_files = Complaint(plan.say_every, "cannot be written", "are written again")
        self._about_room = Complaint(plan.say_every, "cannot be kept under LOG_TOTAL_SIZE", "are kept under it again")
        self._scribe = threading.Thread(target=self._write, name="log-scribe", daemon=True)

    def __repr__(self) -> str:
        return f"<Logs {self.plan.name} inbox={len(self._inbox)} {self._console!r} {self._files!r}>"

    # -- what others call ----------------------------------------------------------------------

    def start(self) -> None:
        self._scribe.start()
        self._console.start()
        if self._files is not None:
            self._files.start()
        self._keeper.start()

    def request(self, ended: Ended) -> None:
        """One request is over: its canonical line. From the event loop's thread."""
        if not self._wants_requests:
            return
        if len(self._inbox) >= MOST or self._strange - self._strange_done > MOST_SIZE:
            self._refused += 1
            return
        self._strange += len(ended.model)
        self._inbox.append(ended)
        if not self._rung:
            self._rung = True
            self._bell.set()

    def say(self, line: str, level: str = "info", *, always: bool = False) -> None:
        """One happening. `always`: on the console whatever LOG_TO and LOG_LEVEL say."""
        if always or LEVELS[level] >= self._least:
            self._hand_in(Happening(self._now(), level, line[:LONGEST], always))

    def record(self, text: str, level: str) -> None:
        """A record of the logging module, as its formatter made it; a traceback's lines stay lines."""
        if LEVELS.get(level, logging.INFO) >= self._least:
            self._hand_in(Happening(self._now(), level, text[:LONGEST], keeps_lines=True))

    def show(self, block: str) -> None:
        """Lines of our own making, for the console only: a banner."""
        self._hand_in(Block(self._now(), block))

    def loading(self, line: str, *, mark: bool) -> None:
        """How far a start is: live on a terminal, else each line that is marked, as the banner without `[gateway]`."""
        if self._is_live:
            self._hand_in(Live(line))
        elif mark and self.plan.to != "files":
            self._hand_in(Block(self._now(), console.escaped(line)))
        if mark and self._least <= logging.INFO:
            self._hand_in(Happening(self._now(), "info", line[:LONGEST], only_files=True))

    def flush(self, patience: float = CLOSE) -> bool:
        """Wait until everything said so far is out, or for so many seconds. Whether it is. Blocks."""
        deadline = time.monotonic() + patience
        marker = Marker()
        self._inbox.append(marker)
        self._ring()
        done = marker.reached.wait(patience)
        for outlet in self._outlets():
            done = outlet.flush(max(0.0, deadline - time.monotonic())) and done
        return done

    def close(self, patience: float = CLOSE) -> bool:
        """Write what is there, on the disk where that can be had, and end. Blocks for at most `patience` seconds, and a
        moment. False when something hung and was left behind."""
        if self._scribe.ident is None:
            return True  # never started: nothing is open
        deadline = time.monotonic() + patience
        self._keeper.ask_to_end()
        self._ending = True
        self._ring()
        self._scribe.join(patience)
        files_done = True
        if self._files is not None:
            self._files.ask_to_close()
            files_done = self._files.join(deadline - time.monotonic())
            if not files_done or self._files.waiting:
                said = f"warning: logs: the last lines could not be written to {self._folder}: {self._files.trouble}"
                self._console.put(f"[gateway] {said}\n".encode())
        self._console.ask_to_close()
        console_done = self._console.join(max(0.1, deadline - time.monotonic()))
        keeper_done = self._keeper.join(max(0.1, deadline - time.monotonic()))
        return files_done and console_done and keeper_done and not self._scribe.is_alive()

    def facts(self) -> LogFacts:
        """For /metrics and /health. Costs nothing."""
        lines = self._console.dropped_lines + self._console_place.lost_lines
        size = self._console.dropped_size + self._console_place.lost_size
        reason = ""
        if self._files is not None:
            lines += self._files.dropped_lines
            size += self._files.dropped_size
            reason = self._files.trouble
        return LogFacts(lines, size, not reason, reason)

    # -- handing in ----------------------------------------------------------------------------

    def _hand_in(self, said: Happening | Block | Live) -> None:
        if len(self._inbox) >= 2 * MOST:  # what is said is rarer, and worth more, than requests
            self._refused += 1
            return
        self._inbox.append(said)
        self._ring()

    def _ring(self) -> None:
        self._now_bell.set()
        self._bell.set()

    @property
    def _folder(self) -> str:
        return str(self.plan.data_dir / "logs" / self.plan.name)

    def _outlets(self) -> list[Outlet]:
        return [self._console] if self._files is None else [self._files, self._console]

    # -- on the scribe's thread ----------------------------------------------------------------

    def _write(self) -> None:
        while True:
            self._bell.wait(IDLE)
            if self._inbox:
                self._now_bell.wait(GATHER)
            ending = self._ending
            # First the bells, then the inbox: who rings after this is heard in the next round, who rang before is here.
            self._now_bell.clear()
            self._bell.clear()
            self._rung = False
            self._pass_on()
            self._tell_refused()
            self._complain()
            if ending:
                return

    def _pass_on(self) -> None:
        shown, filed = Batch(), Batch()
        ends: list[Ended] = []
        while self._inbox:
            said = self._inbox.popleft()
            if isinstance(said, Ended):
                ends.append(said)
                if len(ends) < TOGETHER:
                    continue
            self._put_requests(ends, shown, filed)
            ends = []
            if isinstance(said, Marker):
                self._hand_over(shown, filed)
                said.reached.set()
            elif not isinstance(said, Ended):
                self._put(said, shown, filed)
            if shown.size >= BATCH or filed.size >= BATCH:
                self._hand_over(shown, filed)
        self._put_requests(ends, shown, filed)
        self._hand_over(shown, filed)

    def _hand_over(self, shown: Batch, filed: Batch) -> None:
        if shown.lines:
            self._console.put(shown.take())
        if filed.lines and self._files is not None:
            self._files.put(filed.take())

    def _put_requests(self, ends: list[Ended], shown: Batch, filed: Batch) -> None:
        lines = self._plain_lines(ends)
        if lines:
            self._add_requests(lines, shown, filed)
        else:
            for ended in ends:
                self._put(ended, shown, filed)
        self._strange_done += sum(len(ended.model) for ended in ends)

    def _plain_lines(self, ends: list[Ended]) -> list[str]:
        """Their lines, where nothing has to be taken out of any or escaped; else none, and each is to be looked at."""
        form = self._formats.json_line if self.plan.form == "json" else self._formats.text_line
        try:
            lines = list(map(form, ends))
            together = " ".join(lines)
            is_plain = together.isprintable() and self._redact(together) == together
        except Exception:  # a fault of ours in one of them; which one comes out when each is looked at, and is said
            return []
        return lines if is_plain else []

    def _add_requests(self, lines: list[str], shown: Batch, filed: Batch) -> None:
        if self._files is not None:
            filed.add(*lines)
        if self.plan.to == "files":
            return
        if self.plan.form == "text":  # docker and RunPod write times of their own
            lines = [f"[gateway] {line.partition(' ')[2]}" for line in lines]
        shown.add(*lines)

    def _put(self, said: Ended | Happening | Block | Live, shown: Batch, filed: Batch) -> None:
        try:
            if isinstance(said, Ended):
                self._put_request(said, shown, filed)
            elif isinstance(said, Happening):
                self._put_happening(said, shown, filed)
            elif isinstance(said, Live):
                shown.add("\r" + console.escaped(self._redact(said.text)))
            else:
                self._put_block(said, shown)
        except Exception as error:  # a fault of ours in one line must not end all lines; it is said in its place
            shown.add(f"[gateway] error: a log line could not be made: {type(error).__name__}")

    def _put_request(self, ended: Ended, shown: Batch, filed: Batch) -> None:
        if self.plan.form == "json":
            line = plain_json(redacted_json(self._formats.json_line(ended), self._redact))
        else:
            line = console.escaped(self._redact(self._formats.text_line(ended)))
        self._add_requests([line], shown, filed)

    def _put_happening(self, said: Happening, shown: Batch, filed: Batch) -> None:
        text = self._redact(said.text)
        form = self.plan.form
        if self._files is not None and not said.only_console:
            if form == "json":
                filed.add(plain_json(self._formats.happening_json(said.at, said.level, text)))
            else:
                # Each line of a traceback has its time: so it is found, and nothing passes for another line.
                for line in text.split("\n") if said.keeps_lines else (console.escaped(text),):
                    filed.add(console.escaped(self._formats.happening_text(said.at, line)))
        if (said.always or self.plan.to != "files") and not said.only_files:
            if form == "json" and not (said.always and said.level == "info"):  # guides wait for no warning
                shown.add(plain_json(self._formats.happening_json(said.at, said.level, text)))
            else:
                shown.add(f"[gateway] {console.escaped(text, keep_lines=said.keeps_lines)}")

    def _put_block(self, said: Block, shown: Batch) -> None:
        text = self._redact(said.text)
        shown.add(text if self.plan.form == "text" else plain_json(self._formats.happening_json(said.at, "info", text)))

    # -- what could not be written -------------------------------------------------------------

    def _tell_refused(self) -> None:
        """Lines that nobody could even take note of are missing in every place."""
        new = self._refused - self._refused_told
        if new:
            self._refused_told += new
            for outlet in self._outlets():
                outlet.drop(new, 0)

    def _complain(self) -> None:
        now = time.monotonic()
        lost = self._files.dropped_lines if self._files is not None else 0
        trouble = self._files.trouble if self._files is not None else ""
        said = self._about_files.about(now, trouble, lost), self._about_room.about(now, self._keeper.trouble)
        shown = Batch()
        for text in filter(None, said):
            line = f"warning: logs in {self._folder} {text}"
            self._put_happening(Happening(self._now(), "warning", line, True, True), shown, Batch())
        if shown.lines:
            self._console.put(shown.take())

    def _note_for_files(self, gap: Gap) -> bytes:
        return self._note(gap, "are missing here").encode()

    def _note(self, gap: Gap, what: str) -> str:
        since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(gap.since))
        text = f"warning: {gap.lines} log lines ({gap.size} bytes) {what}, since {since}: {gap.reason}"
        at = self._now()
        if self.plan.form == "json":
            return self._formats.happening_json(at, "warning", text) + "\n"
        return self._formats.happening_text(at, text) + "\n"

    def _note_for_console(self, gap: Gap) -> bytes:
        if self.plan.form == "json":
            return self._note(gap, "could not be shown").encode()
        return f"[gateway] {self._note(gap, 'could not be shown').partition(' ')[2]}".encode()


class Complaint:
    """When to say what is wrong: at once, then once in a while as long as it lasts, and when it is over. Pure."""

    def __init__(self, every: float, wrong: str, over: str) -> None:
        self._every = every
        self._wrong = wrong
        self._over = over
        self._is_told = False
        self._told_at = float("-inf")
        self._dropped_before = 0

    def about(self, now: float, trouble: str, dropped: int = 0) -> str:
        """What to say now, if anything. `dropped`: lines so far, in all."""
        lost = dropped - self._dropped_before
        if trouble and now - self._told_at >= self._every:
            self._is_told, self._told_at = True, now
            return f"{self._wrong}: {trouble}" + (f"; {lost} lines are lost so far" if lost else "")
        if not trouble and self._is_told:
            self._is_told, self._dropped_before = False, dropped
            return self._over + (f"; {lost} lines are missing" if lost else "")
        return ""


def redacted_json(line: str, redact: Callable[[str], str]) -> str:
    """One object without secrets. Where there are any, only texts can hold them: a key of digits alone (somebody has
    one) must not take a number apart, or the line would be no JSON."""
    if redact(line) == line:
        return line
    facts = {name: redact(value) if isinstance(value, str) else value for name, value in json.loads(line).items()}
    return json.dumps(facts, ensure_ascii=False, separators=(",", ":"))


def plain_json(line: str) -> str:
    """The same JSON on one line that a terminal may show, whatever a formatter let through."""
    if line.isprintable():
        return line
    return "".join(character if character.isprintable() else f"\\u{ord(character):04x}" for character in line)
