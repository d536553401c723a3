"""The guard: one small process between the gateway and an engine, so that nothing of an engine outlives its owner.

It owns a session of its own, starts the engine in it, and is the subreaper of everything the engine starts. It lives by
one socket to the gateway: when that ends, the gateway is gone, and the engine goes too. Whoever of the three dies
(kill -9 of the gateway, of the guard, of a part of the engine), one of the others ends the rest:

  gateway dies   the guard reads the end of its socket: the stop command, TERM, one second, KILL
  guard dies     the kernel kills the engine's first process (PR_SET_PDEATHSIG), the gateway sweeps up the rest
  engine's first process dies   the guard kills what it left behind (vLLM's workers hold the GPU otherwise)
  gateway and guard die         `guard.py sweep BOOT`, called by start.sh

"The rest" is found in three ways, because each one alone has a hole: the guard's session (left by setsid), its
descendants (lost when the guard dies), and every process whose environment carries WAKEGATE_ENGINE=<cookie>
(overwritten by programs that set their title in place; SPT_NOENV, which environment.py sets, stops that).

Standard library only and one file, since it runs as `python -I -S guard.py run FD` (starts in 30 ms, sees no
site-packages); the gateway imports its sweeping. Linux: without /proc or prctl each belt that needs them is not there.

The socket carries JSON lines.
  gateway to guard   first an order (see `Order`), later {"stop": seconds of grace}, any number of times: least wins ·
                     {"quiet": true}: it serves now, and what it prints may be what its callers said
  guard to gateway   {"started": pid} or {"failed": errno} · {"lines": so many so far}, at most each second ·
                     {"said": [lines], "open": the unfinished one, "lines": …} at once, until it is told to be quiet ·
                     {"exited": code, or minus the signal, "tail": [last lines]} · {"gone": true}: nothing of it lives

What the gateway does not read waits here, and the engine does not wait for it: lines that come meanwhile are dropped.
"""
# Without pathlib: it is a third of the start-up time here, and thousands of /proc files are read by name.
# ruff: noqa: PTH104, PTH116, PTH119, PTH123, PTH208

import ctypes
import fcntl
import json
import os
import selectors
import signal
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, NoReturn

COOKIE = "WAKEGATE_ENGINE"
"""In the environment of every process of an engine: `<boot nonce>.<upstream>.<run>`."""
GUARD_COOKIE = "WAKEGATE_GUARD"
"""The same, in the guard's own: a sweep ends the guard too, but the guard does not end itself."""

ORPHAN_GRACE = 1.0
"""Seconds between TERM and KILL once the gateway is gone: nobody is left who could hear the engine's last answers."""
ORPHAN_STOP_COMMAND = 15.0
"""Seconds for the stop command once the gateway is gone. `docker stop` alone takes ten."""
AFTERMATH = 2.0
"""Seconds that are left to the other processes after an ordered stop ended the first one (a shell around an engine)."""
LINES_EVERY = 1.0
SAID_EVERY = 0.02
"""Seconds between two messages with lines, at least."""
SAID_LINES, SAID_RATE = 256, 200_000
"""Lines of one message, the newest, and bytes a second of all: an engine that prints without end costs no more."""
TELL_WITHIN = 1.0
LAST_WORD_WITHIN = 10.0
"""Seconds that a word which must not get lost, and the last one, waits for a gateway that does not read."""
REOPEN_EVERY = 5.0
TOUCH_EVERY = 60.0
BEGAN = "[guard] %Y-%m-%dT%H:%M:%SZ begin of this file\n"
HEADER = len("[guard] 2026-11-21T00:00:00Z begin of this file\n")
TAIL_LINES, TAIL_LINE, TAIL_BYTES = 40, 500, 8192
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36


# --- What lives: reading /proc -------------------------------------------------------------------------------------


class Process(NamedTuple):  # no dataclass here or below: the engine would wait for what they import, 7 ms
    """One line of /proc. `started` (clock ticks since boot) with `pid` is unique; a pid alone is not."""

    pid: int
    parent: int
    session: int
    started: int
    zombie: bool


def processes() -> dict[int, Process]:
    """Everything that runs now, as far as it can be seen."""
    found: dict[int, Process] = {}
    try:
        names = os.listdir("/proc")
    except OSError:
        return found
    for name in names:
        if name.isdigit() and (process := read_process(int(name))) is not None:
            found[process.pid] = process
    return found


def read_process(pid: int) -> Process | None:
    """One process, or None when it is gone."""
    raw = read_proc(pid, "stat")
    # The name stands in brackets and may hold brackets and spaces itself: the last one ends it.
    _, bracket, rest = raw.rpartition(b")")
    fields = rest.split()
    if not bracket or len(fields) < 20:
        return None
    return Process(pid, int(fields[1]), int(fields[3]), int(fields[19]), fields[0] in (b"Z", b"X"))


def read_proc(pid: int, name: str) -> bytes:
    try:
        with open(f"/proc/{pid}/{name}", "rb") as file:
            return file.read()
    except OSError:
        return b""  # gone meanwhile, or another user's: then it is not ours either


def carries(pid: int, variable: str, cookie: str) -> bool:
    """Whether the process was started with this cookie, or with one below it (`boot` stands above `boot.default.3`)."""
    wanted = f"{variable}={cookie}".encode()
    return any(
        entry == wanted or entry.startswith(wanted + b".") for entry in read_proc(pid, "environ").split(b"\0") if entry
    )


def belonging(cookie: str, *, session: int = 0, ancestor: int = 0) -> set[Process]:
    """Every living process of the engine with this cookie.

    `session`: the guard's, when it is known (its number cannot be taken while the guard is not reaped); `ancestor`:
    the guard itself, when it still lives. Never the caller, never the ancestor.
    """
    everything = processes()
    me, mine = os.getpid(), os.getsid(0)
    ours = {pid for pid, seen in everything.items() if not seen.zombie and carries(pid, COOKIE, cookie)}
    if not ancestor:
        ours |= {pid for pid in everything if carries(pid, GUARD_COOKIE, cookie)} - {me}
    # A session whose leader is one of ours, or is gone, is an engine's. One that somebody else leads (a terminal in
    # which a program was started by hand with a cookie) is not.
    sessions = {everything[pid].session for pid in ours} - {mine}
    leaderless = {sid for sid in sessions if sid not in everything or everything[sid].zombie}
    sessions = leaderless | (sessions & ours) | ({session} - {0})
    ours |= {pid for pid, seen in everything.items() if seen.session in sessions} | ({ancestor} - {0})
    while children := {pid for pid, seen in everything.items() if seen.parent in ours} - ours:
        ours |= children
    ours -= {0, 1, me, ancestor}
    return {everything[pid] for pid in ours if not everything[pid].zombie}


def kill(process: Process, number: int = signal.SIGKILL) -> None:
    """Signal exactly this process, and nobody who got its number since."""
    try:
        handle = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return
    except (OSError, AttributeError):
        handle = -1  # a kernel or sandbox (gVisor) without pidfds
    try:
        now = read_process(process.pid)
        if now is None or now.started != process.started:
            return
        if handle >= 0:
            signal.pidfd_send_signal(handle, number)
        else:
            os.kill(process.pid, number)
    except (ProcessLookupError, PermissionError):
        pass  # ended just now; or it changed its user, and cannot be ended by us: the sweep will say that it lives
    finally:
        if handle >= 0:
            os.close(handle)


def sweep(cookie: str, *, session: int = 0, patience: float = 5.0) -> int:
    """Kill everything with this cookie until two looks in a row find nothing; returns how many are left (0: nothing).

    Two looks, since a process that forks and ends while /proc is read can hide its child from one. Blocks.
    """
    deadline = time.monotonic() + patience
    empty, pause = 0, 0.005
    while True:
        living = belonging(cookie, session=session)
        empty = 0 if living else empty + 1
        if empty == 2:
            return 0
        if time.monotonic() > deadline:
            return len(living)
        for process in living:
            kill(process)
        time.sleep(pause)
        pause = min(0.1, pause * 1.5)


# --- The engine's output ---------------------------------------------------------------------------------------------


class OutputLog:
    """What the engine prints, in a file that is rotated when it is larger than `limit` or older than `every` seconds.

    The old one is called `<name>_<UTC time>.txt` then; the gateway compresses it, and removes the oldest. Each file
    begins with a line that says when it began, by which a guard that comes later knows its age.

    A thread of its own writes, behind a bounded queue: a volume that hangs must not stop the guard, and a full or
    read-only one must not stop the engine. What cannot be written is dropped and counted, and said once it works again.
    """

    PENDING = 1 << 20

    def __init__(self, path: str, limit: int, every: float = float("inf")) -> None:
        self._path = path
        self._limit = max(limit, 4096)
        self._every = every
        self._fd = -1
        self._size = 0
        self._began = 0.0
        """Unix time at which the file was begun."""
        self._renamed_at = 0.0
        self._retry_at = 0.0
        self._touch_at = 0.0
        self._queue: deque[bytes] = deque()
        self._pending = 0
        self.lost = 0
        """Bytes that could not be written so far, not yet told in the file."""
        self._wake = threading.Condition()
        self._idle = True
        self._thread = threading.Thread(target=self._run, name="engine-log", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def write(self, data: bytes) -> None:
        with self._wake:
            if self._pending + len(data) > self.PENDING:
                self.lost += len(data)
                return
            self._queue.append(data)
            self._pending += len(data)
            self._idle = False
            self._wake.notify_all()

    def flush(self, patience: float) -> None:
        """Wait until all is written, or for `patience` seconds."""
        with self._wake:
            self._wake.wait_for(lambda: self._idle, patience)

    def _run(self) -> None:
        while True:
            with self._wake:
                self._idle = not self._queue
                if self._idle:
                    self._wake.notify_all()
                self._wake.wait_for(lambda: bool(self._queue), TOUCH_EVERY)
                data = b"".join(self._queue)
                self._queue.clear()
                self._pending = 0
            if data:
                self._put(data)
            self._touch()

    def _put(self, data: bytes) -> None:
        left = data
        try:
            if self._open():
                if told := self.lost:
                    note = b"[guard] %d bytes could not be written here.\n" % told
                    while note:
                        note = note[self._append(note) :]
                    with self._wake:
                        self.lost -= told
                while left:
                    left = left[self._append(left) :]
        except OSError:
            self._close()  # full, read-only, gone: look again later
        with self._wake:
            self.lost += len(left)

    def _append(self, data: bytes) -> int:
        """As much as fits before the limit, in whole lines if it can be, after a rotation where it is due. Returns how
        much, which may be nothing; raises OSError."""
        if self._size >= self._limit or self._is_old():
            self._rotate()
        if len(data) > self._limit - self._size:
            whole = data.rfind(b"\n", 0, self._limit - self._size) + 1
            if not whole and self._size > HEADER:
                self._rotate()
                return 0
            data = data[: whole or self._limit - self._size]
        written = os.write(self._fd, data)
        self._size += written
        return written

    def _is_old(self) -> bool:
        now = time.time()
        self._began = min(self._began, now)  # the clock was set back
        return self._size > HEADER and now - self._began >= self._every

    def _rotate(self) -> None:
        self._renamed_at = max(time.time(), self._renamed_at + 1e-5)  # no two get one name
        if self._is_at_its_name():
            os.rename(self._path, rotated_name(self._path, self._renamed_at))
        self._close()
        self._retry_at = 0.0
        self._open()

    def _is_at_its_name(self) -> bool:
        try:
            return os.path.samestat(os.stat(self._path), os.fstat(self._fd))
        except FileNotFoundError:
            return False

    def _open(self) -> bool:
        """Whether there is a file to write to: the one that has the name now, not one moved or unmounted under us."""
        now = time.monotonic()
        if now < self._retry_at:
            return self._fd >= 0
        self._retry_at = now + REOPEN_EVERY
        if self._fd >= 0:
            if self._is_at_its_name():
                return True
            self._close()  # moved away by somebody's log rotation
        self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        self._size = os.fstat(self._fd).st_size
        self._retry_at = now + REOPEN_EVERY
        self._touch_at = now + TOUCH_EVERY
        self._lock()
        if self._size:
            self._began = self._read_began()
        else:
            self._began = time.time()
            self._size += os.write(self._fd, time.strftime(BEGAN, time.gmtime(self._began)).encode())
        return True

    def _lock(self) -> None:
        """So that no gateway on this machine takes it for a dead one's. Given back by closing."""
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            pass  # no locks on this volume: its time says that it is live

    def _read_began(self) -> float:
        """An earlier guard of this boot began the file, and wrote when; or else as if it were new."""
        text = os.pread(self._fd, HEADER, 0).decode("ascii", "replace")
        try:
            # Without strptime, which imports half the library.
            year, month, day = int(text[8:12]), int(text[13:15]), int(text[16:18])
            hour, minute, second = int(text[19:21]), int(text[22:24]), int(text[25:27])
            return time.mktime((year, month, day, hour, minute, second, 0, 0, 0)) - time.timezone
        except (ValueError, OverflowError, TypeError):
            return time.time()

    def _touch(self) -> None:
        """A sign of life in the file's time, for the gateways that make room on the volume."""
        now = time.monotonic()
        if self._fd >= 0 and now >= self._touch_at:
            self._touch_at = now + TOUCH_EVERY
            try:
                os.utime(self._fd)
                self._lock()
            except OSError:
                pass  # the next write says what is wrong

    def _close(self) -> None:
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            try:
                os.close(fd)
            except OSError:
                pass  # a network file system reports its late write errors here; they are counted as lost already
        self._retry_at = time.monotonic() + REOPEN_EVERY


def rotated_name(path: str, when: float) -> str:
    """`…_engine.txt` as it is called once it is rotated. The gateway knows it by this (records/logs/names.py)."""
    seconds, fraction = divmod(when, 1)
    stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime(seconds)) + f".{int(fraction * 1e6):06d}Z"
    return f"{path.removesuffix('.txt')}_{stamp}.txt"


class Tail:
    """The last lines of the output, for whoever asks why the engine ended."""

    def __init__(self) -> None:
        self._lines: deque[str] = deque(maxlen=TAIL_LINES)
        self._open = b""
        self.count = 0

    def add(self, data: bytes) -> list[str]:
        """Returns the lines that are whole now."""
        *whole, self._open = (self._open + data).replace(b"\r", b"\n").split(b"\n")
        self._open = self._open[-4 * TAIL_LINE :]
        lines = [line[:TAIL_LINE].decode("utf-8", "replace") for line in whole if line.strip()]
        self.count += len(lines)
        self._lines.extend(lines)
        return lines

    @property
    def unfinished(self) -> str:
        return self._open[-TAIL_LINE:].decode("utf-8", "replace")

    def lines(self) -> list[str]:
        kept: list[str] = []
        size = 0
        unfinished = [self.unfinished] if self._open.strip() else []
        for line in reversed([*self._lines, *unfinished]):
            size += len(line)
            if size > TAIL_BYTES:
                break
            kept.append(line)
        return kept[::-1]


# --- The guard -------------------------------------------------------------------------------------------------------


class Order(NamedTuple):
    """What the gateway wants started. Sent as the first line: argv and environment of the guard show none of it."""

    argv: list[str]
    env: dict[str, str]
    cookie: str
    log: str
    log_limit: int
    log_every: float = 86400.0
    """Seconds after which the log is rotated."""
    stop_command: Sequence[str] = ()
    keep_fds: Sequence[int] = ()
    """Descriptors that the engine inherits under the same number (the pipe for its news)."""
    repeats: bool = False
    """Whether the gateway wants to hear what the engine prints, until it says {"quiet": true}."""


class Guard:
    """One engine, from its start until nothing of it lives. `run` returns then."""

    def __init__(self, control: socket.socket, order: Order, heard: bytes = b"") -> None:
        self.order = order
        self.control = control
        self.phase: Callable[[], None] = self._while_running
        """What is looked at after each event: running, asking (the stop command), terminating, killing."""
        self.engine = 0
        self.stopper = 0
        self.end_at = float("inf")
        """When politeness is over."""
        self.next_look = float("inf")
        self.exited = False
        self.gone = False
        self._empty = 0
        self._pause = 0.005
        self._heard = heard
        self._unsent = b""
        """What the gateway has not read yet: at most one message with lines, and the few words that must be told."""
        self._told_lines = 0
        self._told_open = ""
        self._said: deque[str] = deque(maxlen=SAID_LINES)
        """Lines that the gateway has not been told."""
        self._repeats = order.repeats
        self._lines_due = float("inf")
        self._lines_after = 0.0
        self.tail = Tail()
        self.log = OutputLog(order.log, order.log_limit, order.log_every)
        self.selector = selectors.DefaultSelector()
        self.libc = load_libc()

    def __repr__(self) -> str:
        return f"<Guard {self.order.cookie} engine={self.engine} {self.phase.__name__.strip('_')}>"

    def run(self) -> None:
        """Start the engine and stay until it is gone."""
        self._become_guardian()
        self._output, self._output_end = os.pipe()
        os.set_blocking(self._output, False)
        try:
            self.engine = self._spawn(self.order.argv, self.order.keep_fds)
        except OSError as error:
            self._tell({"failed": error.errno or 0})
            self._tell({"gone": True})
            return
        for fd in self.order.keep_fds:
            os.close(fd)  # else the gateway would never see the end of the engine's news
        self.log.start()
        self.log.write(time.strftime("[guard] %Y-%m-%dT%H:%M:%SZ ", time.gmtime()).encode() + self._title())
        self._tell({"started": self.engine})
        self.selector.register(self.control, selectors.EVENT_READ, self._hear)
        self.selector.register(self._output, selectors.EVENT_READ, self._read_output)
        self.selector.register(self._children, selectors.EVENT_READ, self._reap)
        self._obey(b"")  # what came right behind the order
        self._reap()
        self.phase()
        while not self.gone:
            until = min(self.end_at, self.next_look, self._lines_due)
            wait = None if until == float("inf") else max(0.0, until - time.monotonic())
            for key, _ in self.selector.select(wait):
                key.data()
            self._tell_lines()
            self.phase()
        self._read_output()
        self.log.flush(1.0)
        self._tell({"gone": True}, within=LAST_WORD_WITHIN)

    def _become_guardian(self) -> None:
        # Ctrl-C and a supervisor's TERM are aimed at whole groups; the guard ends with its engine and not before.
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE):
            signal.signal(number, signal.SIG_IGN)
        self._children, wake = socket.socketpair()
        for end in (self._children, wake):
            end.setblocking(False)
        self._wake = wake
        signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
        signal.set_wakeup_fd(wake.fileno(), warn_on_full_buffer=False)
        if self.libc is not None:
            self.libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)

    def _title(self) -> bytes:
        """The engine's first line in its log. Not its arguments: a key may stand there, put in by hand."""
        name = os.path.basename(self.order.argv[0])
        return f"{name} started as process {self.engine} ({self.order.cookie})\n".encode("utf-8", "replace")

    def _spawn(self, argv: Sequence[str], keep_fds: Sequence[int]) -> int:
        """Start a program in this session, in a process group of its own. Raises the OSError of its exec."""
        report, told = os.pipe()
        guard = os.getpid()
        child = os.fork()
        if child == 0:
            self._become_engine(argv, keep_fds, guard, told)
        os.close(told)
        with os.fdopen(report, "rb") as answer:
            number = answer.read()
        if number:
            os.waitpid(child, 0)
            raise OSError(int(number), os.strerror(int(number)))
        return child

    def _become_engine(self, argv: Sequence[str], keep_fds: Sequence[int], guard: int, told: int) -> NoReturn:
        """The child's half of `_spawn`: every descriptor not named here closes at exec."""
        try:
            os.setpgid(0, 0)
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE, signal.SIGCHLD):
                signal.signal(number, signal.SIG_DFL)
            signal.set_wakeup_fd(-1)
            if self.libc is not None:
                self.libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
                if os.getppid() != guard:
                    os._exit(1)  # the guard died before the line above
            prefer_for_oom()
            nothing = os.open(os.devnull, os.O_RDONLY)
            os.dup2(nothing, 0)
            os.dup2(self._output_end, 1)
            os.dup2(self._output_end, 2)
            for fd in keep_fds:
                os.set_inheritable(fd, True)
            os.execvpe(argv[0], list(argv), self.order.env)  # noqa: S606 - the operator's engine is what this is for
        except OSError as error:
            os.write(told, str(error.errno or 1).encode())
        finally:
            os._exit(127)

    # Events. Each only takes note; `phase` then decides.

    def _hear(self) -> None:
        """The gateway says something, or is gone."""
        try:
            data = self.control.recv(65536)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        if not data:
            self.selector.unregister(self.control)
            self._end_within(ORPHAN_STOP_COMMAND if self.order.stop_command else ORPHAN_GRACE)
            return
        self._obey(data)

    def _obey(self, data: bytes) -> None:
        *lines, self._heard = (self._heard + data).split(b"\n")
        for line in lines:
            message = json.loads(line)
            if "stop" in message:
                self._end_within(float(message["stop"]))
            if "quiet" in message:
                self._repeats = False
                self._said.clear()

    def _reap(self) -> None:
        """A child, or somebody who became one because its own parent died, has ended."""
        try:
            while self._children.recv(512):
                pass
        except (BlockingIOError, InterruptedError):
            pass
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid == self.stopper:
                self.stopper = 0
            if pid == self.engine and not self.exited:
                self.exited = True
                self._read_output()  # its last words first
                self._lines_due = 0.0
                self._tell_lines()
                self._tell({"exited": os.waitstatus_to_exitcode(status), "tail": self.tail.lines()})

    def _read_output(self) -> None:
        for _ in range(64):  # bounded: an engine that prints without end must not starve the socket
            try:
                data = os.read(self._output, 65536)
            except (BlockingIOError, InterruptedError):
                break
            if not data:
                break
            self.log.write(data)
            lines = self.tail.add(data)
            if self._repeats:
                self._said += lines
        if self.tail.count != self._told_lines or (self._repeats and self.tail.unfinished != self._told_open):
            self._lines_due = self._lines_after

    def _tell_lines(self) -> None:
        now = time.monotonic()
        if now < self._lines_due:
            return
        self._lines_due = float("inf")
        if self._unsent:
            self._send(0.0)
        if self._unsent:  # the gateway does not read; it is told the newest lines when it does
            self._lines_after = self._lines_due = now + LINES_EVERY
            return
        self._told_lines = self.tail.count
        message: dict[str, Any] = {"lines": self.tail.count}
        if self._repeats:
            self._told_open = self.tail.unfinished
            message |= {"said": list(self._said), "open": self._told_open}
            self._said.clear()
        self._unsent = packed(message)
        self._lines_after = now + (SAID_EVERY + len(self._unsent) / SAID_RATE if self._repeats else LINES_EVERY)
        self._send(0.0)

    def _tell(self, message: dict[str, Any], within: float = TELL_WITHIN) -> None:
        """What must not get lost: the gateway is given a moment to read."""
        self._unsent += packed(message)
        self._send(within)

    def _send(self, patience: float) -> None:
        deadline = time.monotonic() + patience
        try:
            while self._unsent:
                self.control.settimeout(max(0.0, deadline - time.monotonic()))
                self._unsent = self._unsent[self.control.send(self._unsent) :]
        except (BlockingIOError, TimeoutError):
            pass  # it goes out with the next word
        except OSError:
            self._unsent = b""  # the gateway is gone: its end of the socket says so to `_hear`
        finally:
            self.control.setblocking(False)

    # Phases.

    def _end_within(self, grace: float) -> None:
        self.end_at = min(self.end_at, time.monotonic() + max(0.0, grace))
        if self.phase == self._while_running:
            self._begin_end()

    def _begin_end(self) -> None:
        if self.order.stop_command and time.monotonic() < self.end_at:
            try:
                self.stopper = self._spawn(self.order.stop_command, [])
                self.phase = self._while_asking
                return
            except OSError as error:
                self.log.write(f"[guard] The stop command did not start: {error.strerror}\n".encode())
        self._terminate()

    def _terminate(self) -> None:
        """To the engine's whole group: a shell around it would keep the signal to itself."""
        self.phase = self._while_terminating
        if not self.exited and time.monotonic() < self.end_at:
            try:
                os.killpg(self.engine, signal.SIGTERM)
                os.killpg(self.engine, signal.SIGCONT)  # one that was stopped hears it only when it goes on
            except (ProcessLookupError, PermissionError):
                pass  # ended this moment

    def _while_running(self) -> None:
        if self.exited:
            # Not ordered: whatever it left behind serves nobody any more.
            self._start_killing()

    def _while_asking(self) -> None:
        if time.monotonic() >= self.end_at:
            self._start_killing()
        elif self.stopper == 0:
            self._terminate()
            self._while_terminating()  # the engine may be gone already, and then nothing else would wake us

    def _while_terminating(self) -> None:
        now = time.monotonic()
        if now >= self.end_at:
            self._start_killing()
        elif self.exited and self.next_look == float("inf"):
            # Those in groups or sessions of their own have heard nothing yet.
            self.end_at = min(self.end_at, now + AFTERMATH)
            living = self._living()
            for process in living:
                kill(process, signal.SIGTERM)
            self._look(living)
        elif self.exited and now >= self.next_look:
            self._look(self._living())

    def _start_killing(self) -> None:
        self.phase = self._while_killing
        self.end_at = float("inf")
        self.next_look, self._pause = 0.0, 0.005
        self._while_killing()

    def _while_killing(self) -> None:
        if time.monotonic() < self.next_look:
            return
        living = self._living()
        for process in living:
            kill(process)
        self._look(living)

    def _living(self) -> set[Process]:
        return belonging(self.order.cookie, session=os.getsid(0), ancestor=os.getpid())

    def _look(self, living: set[Process]) -> None:
        """Gone when two looks in a row found nothing and the engine's first process has been reaped."""
        self._reap()
        self._empty = 0 if living else self._empty + 1
        self.gone = self._empty >= 2 and self.exited
        self._pause = min(0.1, self._pause * 1.5)
        self.next_look = time.monotonic() + self._pause


def packed(message: dict[str, Any]) -> bytes:
    return json.dumps(message, ensure_ascii=False).encode() + b"\n"


def load_libc() -> ctypes.CDLL | None:
    try:
        libc = ctypes.CDLL(None, use_errno=True)
    except (OSError, TypeError):
        return None
    return libc if hasattr(libc, "prctl") else None


def prefer_for_oom() -> None:
    """When memory runs out the engine goes, not the gateway: a crash is restarted, a dead gateway answers nobody."""
    try:
        with open("/proc/self/oom_score_adj", "w") as file:
            file.write("500")
    except OSError:
        pass  # not everywhere to be had


def first_line(control: socket.socket) -> tuple[bytes, bytes]:
    """The order, and what came behind it. Empty when the gateway changed its mind, or died, before it was whole."""
    heard = b""
    while b"\n" not in heard:
        data = control.recv(65536)
        if not data:
            return b"", b""
        heard += data
    order, _, rest = heard.partition(b"\n")
    return order, rest


def main(words: list[str]) -> int:
    if len(words) == 2 and words[0] == "sweep" and words[1]:
        left = sweep(words[1])
        if left:
            print(f"{left} processes of the engine could not be ended", file=sys.stderr)
        return 1 if left else 0
    if len(words) == 2 and words[0] == "run" and words[1].isdigit():
        control = socket.socket(fileno=int(words[1]))
        control.set_inheritable(False)
        order, rest = first_line(control)
        if order:
            Guard(control, Order(**json.loads(order)), rest).run()
        return 0
    print("usage: guard.py run FD | guard.py sweep COOKIE", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
