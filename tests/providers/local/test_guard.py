"""The guard, with real processes: whoever is killed, nothing of the engine lives on."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from gateway.providers.local import guard
from gateway.providers.local.guarded import GUARD
from gateway.records.logs import names
from tests.support.engines import GATEWAY_STAND_IN, alive, fake_engine, text_of, wait_until, with_cookie

SOON = 10.0
"""Seconds within which nothing of a killed engine may live. The guard's own grace for an orphan is one of them."""


@dataclass
class Killed:
    """A gateway stand-in, its guard, its engine and the engine's parts, running."""

    cookie: str
    gateway: "subprocess.Popen[str]"
    guard: int
    engine: int
    parts: list[int]
    log: Path

    def everybody(self) -> list[int]:
        return [self.guard, self.engine, *self.parts]

    def gone_within(self, seconds: float = SOON) -> None:
        wait_until(lambda: not any(map(alive, self.everybody())), f"alive: {self.left()}", seconds)
        assert with_cookie(self.cookie) == []

    def left(self) -> list[int]:
        return [pid for pid in self.everybody() if alive(pid)]


@pytest.fixture
def start(tmp_path: Path) -> Iterator["Starter"]:
    starter = Starter(tmp_path)
    yield starter
    starter.clean_up()


class Starter:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.cookie = f"test{os.getpid()}{folder.name.replace('_', '')}.default.1"
        self._gateways: list[subprocess.Popen[str]] = []

    def __call__(self, *words: str, stop_command: list[str] | None = None, parts: int = 0) -> Killed:
        log = self.folder / "engine.txt"
        argv = fake_engine("--socket", str(self.folder / "e.sock"), *words)
        if stop_command:
            argv += ["--", *stop_command]
        gateway = subprocess.Popen(
            [sys.executable, GATEWAY_STAND_IN, self.cookie, str(log), *argv],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": "."},
        )
        self._gateways.append(gateway)
        assert gateway.stdout is not None
        guard_pid, engine_pid = map(int, gateway.stdout.readline().split())
        found: list[int] = []
        if parts:
            wait_until(lambda: "parts " in text_of(log), "the engine's parts")
            line = next(line for line in log.read_text().splitlines() if line.startswith("parts "))
            found = [int(word) for word in line.split()[1:]]
            assert len(found) == parts
        wait_until(lambda: "ready" in text_of(log).split(), "the engine")
        return Killed(self.cookie, gateway, guard_pid, engine_pid, found, log)

    def clean_up(self) -> None:
        for gateway in self._gateways:
            gateway.kill()
            gateway.wait()
            assert gateway.stdout is not None
            gateway.stdout.close()
        guard.sweep(self.cookie)


PARTS = ["--spawn", "plain", "--spawn", "setsid", "--spawn", "wiped"]


def test_kill_of_the_gateway_ends_the_engine(start: Starter) -> None:
    killed = start(*PARTS, parts=3)
    killed.gateway.kill()
    killed.gone_within()


def test_kill_of_the_gateway_ends_an_engine_that_ignores_term(start: Starter) -> None:
    """One second of grace, then KILL, for its parts in other sessions too."""
    killed = start(*PARTS, "--ignore-term", parts=3)
    killed.gateway.kill()
    killed.gone_within()


def test_kill_of_the_gateway_runs_the_stop_command_first(start: Starter) -> None:
    """What ends an engine in Docker is its stop command; the guard knows it."""
    witness = start.folder / "stopped"
    killed = start(stop_command=["/bin/sh", "-c", f"echo $WAKEGATE_ENGINE > {witness}"])
    killed.gateway.kill()
    killed.gone_within()
    assert witness.read_text().strip() == killed.cookie


def test_kill_of_the_guard_ends_the_engine(start: Starter) -> None:
    """The kernel ends the first process, the gateway the rest: those in the session, and those with the cookie."""
    killed = start(*PARTS, "--ignore-term", parts=3)
    os.kill(killed.guard, signal.SIGKILL)
    killed.gone_within()


def test_the_engines_first_process_dying_ends_its_parts(start: Starter) -> None:
    """vLLM's API server leaves EngineCore behind, which holds the GPU."""
    killed = start(*PARTS, "--spawn", "setsid-wiped", "--ignore-term", parts=4)
    os.kill(killed.engine, signal.SIGKILL)
    killed.gone_within()


def test_a_part_of_the_engine_dying_is_the_engines_own_business(start: Starter) -> None:
    """Some engines replace their workers; if it cannot live without, it ends, or its health says so."""
    killed = start("--spawn", "plain", parts=1)
    os.kill(killed.parts[0], signal.SIGKILL)
    wait_until(lambda: not alive(killed.parts[0]), "the part")
    assert alive(killed.engine)
    assert alive(killed.guard)


def test_sweep_ends_what_gateway_and_guard_left_behind(start: Starter) -> None:
    """start.sh's belt: both are killed at once, and it knows only its boot's nonce."""
    killed = start(*PARTS, "--ignore-term", parts=3)
    os.kill(killed.guard, signal.SIGSTOP)  # else it would notice before it is killed
    killed.gateway.kill()
    os.kill(killed.guard, signal.SIGKILL)
    boot = killed.cookie.partition(".")[0]
    swept = subprocess.run([sys.executable, "-I", "-S", GUARD, "sweep", boot], timeout=SOON, check=False)
    assert swept.returncode == 0
    killed.gone_within(0.1)


def test_sweep_ends_a_guard_that_hangs(start: Starter) -> None:
    killed = start(*PARTS, parts=3)
    os.kill(killed.guard, signal.SIGSTOP)
    assert guard.sweep(killed.cookie) == 0
    killed.gone_within(0.1)


def test_sweep_leaves_other_boots_alone(start: Starter) -> None:
    """A nonce that begins alike is another one; so is another run of the same boot."""
    killed = start()
    assert guard.sweep(killed.cookie[:-1]) == 0
    assert guard.sweep(killed.cookie.partition(".")[0][:-1]) == 0
    assert guard.sweep(killed.cookie + "1") == 0
    assert alive(killed.engine)


def test_sweep_does_not_end_the_session_in_which_somebody_started_a_program_with_a_cookie(start: Starter) -> None:
    """Only sessions whose leader is the engine's, or gone, are the engine's."""
    cookie = start.cookie
    script = f"sleep 60 & WAKEGATE_ENGINE={cookie} {sys.executable} -c 'import time; time.sleep(60)' & echo $!; wait"
    shell = subprocess.Popen(["/bin/sh", "-c", script], start_new_session=True, stdout=subprocess.PIPE, text=True)
    assert shell.stdout is not None
    program = int(shell.stdout.readline())
    try:
        wait_until(lambda: with_cookie(cookie) == [program], "the program")
        assert guard.sweep(cookie) == 0
        assert not alive(program)
        assert shell.poll() is None
    finally:
        os.killpg(shell.pid, signal.SIGKILL)
        shell.wait()
        shell.stdout.close()


def test_sweep_refuses_to_sweep_everything() -> None:
    """An empty nonce, from a script with an unset variable, must not match every cookie."""
    swept = subprocess.run([sys.executable, "-I", "-S", GUARD, "sweep", ""], capture_output=True, check=False)
    assert swept.returncode == 2


def test_the_guard_does_not_hear_ctrl_c(start: Starter) -> None:
    killed = start()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.kill(killed.guard, number)
    assert os.getsid(killed.guard) == killed.guard
    assert os.getsid(killed.engine) == killed.guard
    assert os.getpgid(killed.engine) == killed.engine
    with pytest.raises(subprocess.TimeoutExpired):
        killed.gateway.wait(0.2)
    assert alive(killed.engine)


def test_the_guard_shows_nothing_of_its_order(start: Starter) -> None:
    """ps shows argv to everybody: neither the engine's arguments nor its environment stand in the guard's."""
    killed = start("--alias", "secret-name")
    assert b"secret-name" not in guard.read_proc(killed.guard, "cmdline")
    names = {entry.partition(b"=")[0] for entry in guard.read_proc(killed.guard, "environ").split(b"\0") if entry}
    assert names == {b"WAKEGATE_GUARD", b"LC_ALL"}


# --- Its log ---


async def test_a_log_that_was_moved_away_is_begun_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "REOPEN_EVERY", 0.0)
    path = tmp_path / "log.txt"
    log = guard.OutputLog(str(path), 1 << 20)
    log.start()
    log.write(b"one\n")
    log.flush(5)
    path.rename(tmp_path / "log.moved")
    log.write(b"two\n")
    log.flush(5)
    begin, line = path.read_text().splitlines()
    assert begin.startswith("[guard] 20") and line == "two"


def test_a_log_that_grew_old_is_rotated_even_by_a_guard_that_came_later(tmp_path: Path) -> None:
    """An engine that is stopped and started again writes to the same file: its age is read from its first line."""
    path = tmp_path / "20261121T000000Z_w_engine.txt"
    old = time.strftime(guard.BEGAN, time.gmtime(time.time() - 100))
    path.write_text(f"{old}long ago\n")
    for every, files in ((200.0, 1), (99.0, 2), (99.0, 2)):
        log = guard.OutputLog(str(path), 1 << 20, every)
        log.start()
        log.write(b"again\n")
        log.flush(5)
        assert len(list(tmp_path.iterdir())) == files
    rotated = next(file for file in tmp_path.iterdir() if file != path)
    assert rotated.read_text() == f"{old}long ago\nagain\n"
    assert path.read_text().splitlines()[1:] == ["again", "again"]


def test_a_rotated_log_has_the_name_by_which_the_gateway_knows_it() -> None:
    name = guard.rotated_name("/logs/20261121T000000Z_pod-1_engine.txt", 1795262400.25)
    assert name == "/logs/" + names.rotated("20261121T000000Z_pod-1_engine.txt", 1795262400.25)
    assert names.parse(Path(name).name).is_engine


def test_a_log_is_cut_between_lines(tmp_path: Path) -> None:
    path = tmp_path / "engine.txt"
    log = guard.OutputLog(str(path), 4096)
    log.start()
    for number in range(1000):
        log.write(b"line %d of an engine that talks\n" % number)
    log.write(b"x" * 10_000 + b"\n")
    log.flush(5)
    files = sorted(tmp_path.iterdir(), key=lambda file: (file == path, file.name))
    assert all(file.stat().st_size <= 4096 for file in files)
    lines = [line for file in files for line in file.read_text().splitlines() if not line.startswith("[guard]")]
    assert lines[:1000] == [f"line {number} of an engine that talks" for number in range(1000)]
    assert "".join(lines[1000:]) == "x" * 10_000, "only a line longer than a file is cut"


CAN_MOUNT = shutil.which("unshare") is not None and subprocess.run(["unshare", "-m", "true"]).returncode == 0
"""Root may, but not in every container, and not in a chroot."""

FULL_VOLUME = """
set -e
mount -t tmpfs -o size=64k none "$1"
head -c 60000 /dev/zero > "$1/ballast"
cd "$2"
exec {python} - "$1" <<'END'
import os, sys, time
sys.path.insert(0, ".")
from gateway.providers.local import guard
guard.REOPEN_EVERY = 0.05
log = guard.OutputLog(sys.argv[1] + "/engine.txt", 1 << 20)
log.start()
for number in range(300):
    log.write(b"x" * 99 + b"\\n")
log.flush(5)
lost = log.lost
assert lost > 20000, lost
os.unlink(sys.argv[1] + "/ballast")
time.sleep(0.1)
log.write(b"and on\\n")
log.flush(5)
text = open(sys.argv[1] + "/engine.txt").read()
assert f"[guard] {{lost}} bytes could not be written here." in text, text[-200:]
assert text.endswith("and on\\n")
assert log.lost == 0
print("fine")
END
"""


@pytest.mark.skipif(not CAN_MOUNT, reason="needs root and unshare for a volume of its own")
def test_a_full_volume_loses_lines_and_says_so_when_there_is_room_again(tmp_path: Path) -> None:
    script = FULL_VOLUME.format(python=sys.executable)
    ran = subprocess.run(
        ["unshare", "-m", "/bin/bash", "-c", script, "-", str(tmp_path), str(Path.cwd())],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert ran.stdout == "fine\n", ran.stderr


# --- Small parts ---


def test_the_tail_keeps_the_last_lines_and_bounds_each() -> None:
    tail = guard.Tail()
    tail.add(b"".join(b"line %d\n" % number for number in range(100)) + b"y" * 5000 + b"\nunfinished \xff")
    lines = tail.lines()
    assert len(lines) <= guard.TAIL_LINES + 1
    assert lines[-1] == "unfinished \N{REPLACEMENT CHARACTER}"
    assert len(lines[-2]) <= guard.TAIL_LINE
    assert lines[-3] == "line 99"


def test_a_cookie_matches_itself_and_what_stands_below_it(start: Starter) -> None:
    program = subprocess.Popen(["/bin/sleep", "60"], env={"WAKEGATE_ENGINE": start.cookie})
    try:
        boot = start.cookie.partition(".")[0]
        wait_until(lambda: guard.carries(program.pid, guard.COOKIE, start.cookie), "exec")
        assert guard.carries(program.pid, guard.COOKIE, boot)
        assert not guard.carries(program.pid, guard.COOKIE, boot[:-1])
        assert not guard.carries(program.pid, guard.GUARD_COOKIE, boot)
    finally:
        program.kill()
        program.wait()


def test_a_process_whose_number_was_taken_over_is_not_killed() -> None:
    """The start time belongs to its name."""
    program = subprocess.Popen(["/bin/sleep", "60"])
    try:
        seen = guard.read_process(program.pid)
        assert seen is not None
        guard.kill(guard.Process(seen.pid, seen.parent, seen.session, seen.started - 1, False))
        with pytest.raises(subprocess.TimeoutExpired):
            program.wait(0.05)
        guard.kill(seen)
        assert program.wait(5) == -signal.SIGKILL
    finally:
        program.kill()
        program.wait()


def test_an_order_that_never_becomes_whole_starts_nothing(tmp_path: Path) -> None:
    """The gateway died between starting the guard and telling it what to do."""
    ours, theirs = socket.socketpair()
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", GUARD, "run", str(theirs.fileno())], pass_fds=[theirs.fileno()]
    )
    theirs.close()
    ours.sendall(json.dumps({"argv": ["/bin/touch", str(tmp_path / "touched")]}).encode())
    ours.close()
    assert process.wait(5) == 0
    assert not (tmp_path / "touched").exists()
