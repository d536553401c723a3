"""start.sh around a stand-in gateway: the order of the boot, who hears which signal, and how everything ends.

The stand-in is a package called gateway in a copy of the tree, so that start.sh, the health server and the run folder
are the real ones. The real gateway's turn is in tests/e2e.
"""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

STAND_IN = '''
"""Writes what happens to it to LOG, one word per line, and does what BEHAVE says."""
import json, os, signal, sys, time

log = open(os.environ["LOG"], "a", buffering=1)
behave = os.environ.get("BEHAVE", "")
run_dir = os.environ["WAKEGATE_RUN_DIR"]
signals = 0

def status(**changes):
    fields = {"boot": os.environ["WAKEGATE_BOOT"], "at": time.monotonic(), "state": "ready", "mode": "strict",
              "listening": True, "ever_ready": True, "draining": False} | changes
    with open(run_dir + "/new", "w") as file:
        json.dump(fields, file)
    os.rename(run_dir + "/new", run_dir + "/status.json")

def heard(number, frame):
    global signals
    signals += 1
    print(signal.Signals(number).name, file=log)
    if behave == "stubborn":
        return
    if behave == "drain" and signals == 1:
        status(state="draining", draining=True)
        return
    print("left", file=log)
    os._exit(0)

def hung_up(number, frame):
    print("hup", file=log)

if behave == "early":
    os.kill(os.getppid(), signal.SIGHUP)  # before it listens to one: it must not die of it
    time.sleep(0.3)
signal.signal(signal.SIGHUP, hung_up)
signal.signal(signal.SIGTERM, heard)
signal.signal(signal.SIGINT, heard)
if behave.startswith("exit"):
    sys.exit(int(behave.split()[1]))
status()
print("run_dir", run_dir, file=log)
print("mode", oct(os.stat(run_dir).st_mode & 0o777), file=log)
print("pid", os.getpid(), file=log)
print("group", os.getpgid(0), file=log)
print("stdin", os.readlink("/proc/self/fd/0"), file=log)
print("plugins", os.environ.get("PYDANTIC_DISABLE_PLUGINS"), file=log)
print("[gateway] Starting gateway on 0.0.0.0:8000", flush=True)
print("up", file=log)
while True:
    time.sleep(0.2)
    leaving = behave == "drain" and signals > 0
    status(state="draining" if leaving else "ready", draining=leaving)
'''

GUARD = """
import os, sys
with open(os.environ["LOG"], "a") as log:
    print("sweep", sys.argv[1] == "sweep", sys.argv[2] == os.environ["WAKEGATE_BOOT"], file=log)
"""


def wait_until(condition, within=10.0):
    deadline = time.monotonic() + within
    while not (value := condition()):
        assert time.monotonic() < deadline, "nothing came of it"
        time.sleep(0.01)
    return value


def alive(pid: int) -> bool:
    """Running, and not a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


class Run:
    """One run of start.sh in a copy of the tree."""

    def __init__(self, tree: Path, *arguments: str, wrapper: tuple[str, ...] = (), **environ: str) -> None:
        self.wrapper = wrapper
        self.log = tree / "log.txt"
        self.log.touch()
        self.console = tree / "console.txt"
        keep = {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR") if name in os.environ}
        with self.console.open("wb") as console:
            self.process = subprocess.Popen(
                [*wrapper, str(tree / "start.sh"), *arguments],
                env=keep
                | {
                    "WAKEGATE_PYTHON": sys.executable,
                    "WAKEGATE_ENV_FILE": "/dev/null",
                    "LOG": str(self.log),
                    "HOST": "127.0.0.1",
                    "PORT_HEALTH": "0",
                }
                | environ,
                cwd=tree.parent,
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def lines(self) -> list[str]:
        return self.console.read_text().splitlines()

    def words(self, first: str) -> list[str]:
        """What the stand-in wrote in lines that begin with this word."""
        return [line[len(first) + 1 :] for line in self.log.read_text().splitlines() if line.split()[0] == first]

    def is_up(self) -> "Run":
        wait_until(lambda: self.words("up") or self.process.poll() is not None)
        assert self.process.poll() is None, self.lines
        return self

    @property
    def gateway(self) -> int:
        return int(self.words("pid")[-1])

    @property
    def health(self) -> int:
        return int(self._told()[-1][0])

    def _told(self) -> list[tuple[str, str]]:
        return re.findall(r"^\[start\.sh\] Health server PID: (\d+) \(port (\d+)\)$", self.console.read_text(), re.M)

    def ping(self) -> int | None:
        """The code of /ping, None when nobody listens."""
        try:
            with socket.create_connection(("127.0.0.1", int(self._told()[-1][1])), timeout=5) as sock:
                sock.sendall(b"GET /ping HTTP/1.0\r\n\r\n")
                return int(sock.recv(4096).split()[1])
        except OSError:
            return None

    def ends(self, within=10.0) -> int:
        code = self.process.wait(within)
        for run_dir in self.words("run_dir"):
            assert not Path(run_dir).exists()
        if told := self._told():
            assert not alive(int(told[-1][0]))
        return code

    def send(self, name: str) -> None:
        os.kill(self.process.pid, getattr(signal, name))


@pytest.fixture
def tree(tmp_path):
    tree = tmp_path / "a checkout"
    tree.mkdir()
    shutil.copy(ROOT / "start.sh", tree)
    shutil.copytree(ROOT / "health", tree / "health", ignore=shutil.ignore_patterns("__pycache__"))
    (tree / "gateway" / "providers" / "local").mkdir(parents=True)
    (tree / "gateway" / "__init__.py").touch()
    (tree / "gateway" / "__main__.py").write_text(STAND_IN)
    (tree / "gateway" / "providers" / "local" / "guard.py").write_text(GUARD)
    return tree


@pytest.fixture
def start(tree):
    runs = []

    def start(*arguments, **options) -> Run:
        runs.append(Run(tree, *arguments, **options))
        return runs[-1]

    yield start
    for run in runs:
        # Ended so that it takes its run folder along: a dead gateway ends everything.
        if run.process.poll() is None and not run.wrapper:
            for pid in run.words("pid"):
                if alive(int(pid)):
                    os.kill(int(pid), signal.SIGKILL)
            run.send("SIGTERM")
            run.process.wait(10)
        elif run.process.poll() is None:
            run.process.kill()  # and unshare takes the whole namespace along
            run.process.wait()


# -- the beginning


def test_the_five_lines_in_their_order(start):
    """To the letter: guides rely on them."""
    run = start().is_up()
    lines = [re.sub(r"\d{4,}|(?<=PID: )\d+", "N", line) for line in run.lines]
    assert lines == [
        "[start.sh] Starting health server",
        "[health] Starting health server on 127.0.0.1:N",
        "[start.sh] Health server PID: N (port N)",
        "[start.sh] Starting gateway",
        "[gateway] Starting gateway on 0.0.0.0:N",
    ]
    assert Path(f"/proc/{run.health}").exists()


def test_the_run_folder_is_private_on_tmpfs_and_gone_afterwards(start):
    run = start().is_up()
    assert run.words("mode") == ["0o700"]
    place = Path(run.words("run_dir")[0])
    assert re.fullmatch(r"/(run/user/\d+|dev/shm|tmp)/wakegate\.\w+", str(place))
    run.send("SIGTERM")
    run.ends()
    assert not place.exists()


def test_children_have_groups_of_their_own_and_no_stdin(start):
    run = start().is_up()
    assert os.getpgid(run.gateway) == run.gateway
    assert os.getpgid(run.health) == run.health
    assert run.words("stdin") == ["/dev/null"]


def test_no_plugin_of_pydantics_is_shown_the_settings(start):
    assert start().is_up().words("plugins") == ["__all__"]


def test_health_believes_the_gateway_of_this_boot(start):
    run = start().is_up()
    wait_until(lambda: run.ping() == 200)


def test_the_second_line_of_the_story_comes_fast(start):
    """From exec of start.sh to the gateway's own first line, a stand-in that imports nothing: the shell's share."""
    took = []
    for _ in range(3):
        began = time.monotonic()
        run = start()
        run.is_up()
        took.append(time.monotonic() - began)
        run.send("SIGTERM")
        run.ends()
        run.log.write_text("")
    print(f"start.sh to gateway: {min(took) * 1000:.0f} ms at best")
    assert min(took) < 0.5


def test_a_wrong_health_setting_ends_it_with_2_before_the_gateway_starts(start):
    run = start(HEALTH_MODE="nice")
    assert run.ends() == 2
    assert run.lines == [
        "[start.sh] Starting health server",
        '[health] HEALTH_MODE is "nice": choose one of auto, strict, hold, always',
    ]


def test_a_python_that_is_not_there_is_said(start):
    run = start(WAKEGATE_PYTHON="/no/python")
    assert run.ends() == 2
    assert run.lines == ['[start.sh] WAKEGATE_PYTHON is "/no/python": give the path of a Python 3.11 to 3.14']


def test_an_unknown_argument_is_said(start):
    run = start("--port=1")
    assert run.ends() == 2
    assert run.lines[0].startswith('[start.sh] Unknown argument "--port=1": ')


def test_help_says_what_it_does(start):
    run = start("--help")
    assert run.ends() == 0
    assert "./start.sh" in run.console.read_text()


def test_it_works_through_a_link_and_as_a_wheel_installs_it(tree, tmp_path, start):
    """In a wheel start.sh lies inside gateway/, and health/ beside that."""
    (tree / "start.sh").rename(tree / "gateway" / "start.sh")
    (tree / "start.sh").symlink_to(tree / "gateway" / "start.sh")
    run = start(PYTHONPATH=str(tree))
    run.is_up()
    run.send("SIGTERM")
    assert run.ends() == 0


# -- deaths


@pytest.mark.parametrize("code", [0, 1, 2, 77])
def test_the_gateways_exit_code_is_ours(start, code):
    run = start(BEHAVE=f"exit {code}")
    assert run.ends() == code
    assert run.words("sweep") == ["True True"]


def test_a_killed_gateway_is_128_and_the_signal_and_takes_everything_along(start):
    run = start().is_up()
    os.kill(run.gateway, signal.SIGKILL)
    assert run.ends(within=3) == 128 + signal.SIGKILL
    assert run.lines[-1] == "[start.sh] The gateway has ended (killed by signal 9)"
    assert run.words("sweep") == ["True True"]


def test_a_health_server_that_somebody_stopped_does_not_hold_up_the_end(start):
    """SIGSTOP: it hears SIGTERM only once it goes on."""
    run = start().is_up()
    os.kill(run.health, signal.SIGSTOP)
    run.process.send_signal(signal.SIGTERM)
    assert run.ends(within=5) == 0
    assert "Killed" not in run.lines[-1]


def test_a_gateway_that_dies_of_a_sigterm_that_nobody_sent_through_us_is_a_death(start):
    run = start(BEHAVE="stubborn").is_up()
    os.kill(run.gateway, signal.SIGSEGV)
    assert run.ends() == 128 + signal.SIGSEGV


def test_a_dead_health_server_is_restarted_three_times_at_most(start):
    run = start().is_up()
    for death in range(1, 4):
        pid = run.health
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda pid=pid: run.health != pid)
        assert f"[start.sh] The health server has ended (killed by signal 9): restarting it, {death} of 3" in run.lines
        wait_until(lambda: run.ping() == 200)
    assert run.process.poll() is None
    os.kill(run.health, signal.SIGKILL)
    assert run.ends() == 128 + signal.SIGKILL
    assert "[start.sh] The health server has ended (killed by signal 9) too often: ending" in run.lines
    assert run.words("left") == [""]


def test_killing_start_sh_itself_leaves_neither_child(start):
    run = start().is_up()
    gateway, health = run.gateway, run.health
    run.process.kill()
    run.process.wait()
    wait_until(lambda: not alive(gateway) and not alive(health))
    assert run.words("SIGTERM") == [""]
    shutil.rmtree(run.words("run_dir")[0])


# -- signals


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_an_ordinary_end_is_exit_0_with_one_signal_for_the_gateway(start, name):
    run = start().is_up()
    run.send(name)
    assert run.ends() == 0
    assert run.words("SIGINT" if name == "SIGINT" else "SIGTERM") == [""]
    assert run.words("left") == [""]
    assert run.words("sweep") == ["True True"]


def test_a_hang_up_is_a_wish_to_read_keys_and_certificates_again(start):
    run = start().is_up()
    run.send("SIGHUP")
    wait_until(lambda: run.words("hup"))
    assert alive(run.gateway) and alive(run.health)
    run.send("SIGTERM")
    assert run.ends() == 0
    assert run.words("SIGTERM") == [""]


def test_a_hang_up_that_everybody_hears_ends_no_health_server(start):
    """`systemctl kill -s HUP`, for one, tells all processes of a service; four of them would have ended it."""
    run = start().is_up()
    os.kill(run.health, signal.SIGHUP)
    run.send("SIGHUP")
    wait_until(lambda: run.words("hup"))
    assert run.ping() is not None
    assert alive(run.health)
    run.send("SIGTERM")
    assert run.ends() == 0


def test_a_hang_up_in_the_first_moment_does_not_end_the_gateway(start):
    run = start(BEHAVE="early").is_up()
    assert run.words("hup") == []
    run.send("SIGHUP")
    wait_until(lambda: run.words("hup"))


IN_A_TERMINAL = """
import os, pty, signal, sys
pid, terminal = pty.fork()
if pid == 0:
    os.execv(sys.argv[1], sys.argv[1:])
signal.signal(signal.SIGUSR1, lambda number, frame: os.close(terminal))
while True:
    try:
        os.write(1, os.read(terminal, 4096))
    except OSError:
        break
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""


def has_terminals() -> bool:
    try:
        for fd in os.openpty():
            os.close(fd)
    except OSError:
        return False
    return True


@pytest.mark.skipif(not has_terminals(), reason="needs /dev/ptmx (a chroot may lack it)")
def test_a_terminal_that_goes_away_ends_it_in_order(start):
    run = start(wrapper=(sys.executable, "-c", IN_A_TERMINAL)).is_up()
    run.send("SIGUSR1")
    assert run.ends() == 0
    assert run.words("SIGTERM") == [""]
    assert run.words("sweep") == ["True True"]


def test_ctrl_c_reaches_the_gateway_once(start):
    """A terminal sends it to the whole foreground group."""
    run = start(BEHAVE="drain").is_up()
    os.killpg(run.process.pid, signal.SIGINT)
    wait_until(lambda: run.words("SIGINT"))
    time.sleep(0.2)
    assert run.words("SIGINT") == [""]
    assert alive(run.health)
    os.killpg(run.process.pid, signal.SIGINT)
    assert run.ends() == 0


def test_a_signal_that_comes_twice_at_once_is_one(start):
    """As `timeout` sends it: to the process, and to its group."""
    run = start(BEHAVE="drain").is_up()
    run.send("SIGTERM")
    time.sleep(0.02)
    run.send("SIGTERM")
    wait_until(lambda: run.words("SIGTERM"))
    time.sleep(0.2)
    assert run.words("SIGTERM") == [""]
    run.send("SIGTERM")
    assert run.ends() == 0


def test_health_answers_503_until_the_gateway_has_ended(start):
    run = start(BEHAVE="drain").is_up()
    wait_until(lambda: run.ping() == 200)
    run.send("SIGTERM")
    wait_until(lambda: run.ping() == 503)
    time.sleep(0.15)
    assert alive(run.gateway)
    run.send("SIGTERM")
    assert run.ends() == 0
    assert run.words("SIGTERM") == ["", ""]
    assert run.ping() is None


def test_a_second_signal_ends_also_a_gateway_that_will_not(start):
    run = start(BEHAVE="stubborn").is_up()
    run.send("SIGTERM")
    wait_until(lambda: run.words("SIGTERM"))
    time.sleep(0.15)
    assert run.process.poll() is None
    began = time.monotonic()
    run.send("SIGTERM")
    assert run.ends(within=6) == 128 + signal.SIGKILL
    assert time.monotonic() - began < 4
    assert run.words("SIGTERM") == ["", ""]


def test_a_third_signal_does_not_even_wait_for_that(start):
    run = start(BEHAVE="stubborn").is_up()
    for count in range(1, 3):
        run.send("SIGTERM")
        wait_until(lambda count=count: len(run.words("SIGTERM")) == count)
        time.sleep(0.15)
    began = time.monotonic()
    run.send("SIGTERM")
    assert run.ends() == 128 + signal.SIGKILL
    assert time.monotonic() - began < 1.5


def test_a_signal_in_the_first_moment_is_an_ordinary_end_too(start):
    """Whenever it comes: before health, between the two, before the gateway can hear it."""
    for delay in (0.005, 0.015, 0.03, 0.045, 0.06, 0.09):
        run = start()
        time.sleep(delay)
        run.send("SIGTERM")
        assert run.ends() in (0, -signal.SIGTERM), delay  # bash itself had not yet reached the first line
        run.log.write_text("")


def test_a_child_that_dies_in_the_instant_of_a_signal_is_not_waited_for_forever(start):
    """bash loses its exit code then. systemd, for one, sends its SIGTERM to all processes of a unit at once."""
    for _ in range(5):
        run = start().is_up()
        os.kill(run.gateway, signal.SIGKILL)
        run.send("SIGTERM")
        assert run.ends(within=5) in (0, 128 + signal.SIGKILL)
        run.log.write_text("")
    for _ in range(5):
        run = start().is_up()
        os.kill(run.health, signal.SIGTERM)
        run.send("SIGTERM")
        assert run.ends(within=5) == 0
        run.log.write_text("")


def test_set_up_is_ended_by_a_signal_at_once_with_health_answering_until_then(tree, start):
    """Minutes of compiling, and Ctrl-C."""
    (tree / "scripts").mkdir()
    (tree / "scripts" / "setup.sh").write_text(
        f"venv=$root/.venv demo_model=''\n"
        f"known_python() {{ base_python={sys.executable}; }}\n"
        f"is_set_up() {{ false; }}\n"
        f'set_up_for_start() {{ sleep 1000 & echo compiler $! >>"$LOG"; wait; sleep 1000; }}\n'
    )
    run = start(WAKEGATE_PYTHON="")
    compiler = int(wait_until(lambda: run.words("compiler"))[0])
    assert run.ping() == 204
    os.kill(run.health, signal.SIGKILL)
    wait_until(lambda: len(run._told()) == 2)
    assert run.ping() == 204
    run.send("SIGINT")
    assert run.ends(within=3) == 0
    wait_until(lambda: not alive(compiler))  # killed by then, and gone when the kernel has come to it


def test_a_set_up_that_fails_ends_it_with_its_code(tree, start):
    (tree / "scripts").mkdir()
    (tree / "scripts" / "setup.sh").write_text(
        f"venv=$root/.venv demo_model=''\n"
        f"known_python() {{ base_python={sys.executable}; }}\n"
        f"is_set_up() {{ false; }}\n"
        f"set_up_for_start() {{ echo '[setup] no network'; exit 1; }}\n"
    )
    run = start(WAKEGATE_PYTHON="")
    assert run.ends() == 1
    assert run.lines[-1] == "[setup] no network"


# -- process 1


def can_unshare() -> bool:
    command = ["unshare", "--pid", "--fork", "--mount-proc", "true"]
    return shutil.which("unshare") is not None and subprocess.run(command, capture_output=True).returncode == 0


@pytest.mark.skipif(not can_unshare(), reason="needs the right to make a PID namespace (root)")
def test_as_process_1_it_ends_in_order_and_buries_the_dead_of_others(start):
    run = start(wrapper=("unshare", "--pid", "--fork", "--kill-child", "--mount-proc"))
    run.is_up()
    children = Path(f"/proc/{run.process.pid}/task/{run.process.pid}/children")
    first = int(children.read_text().split()[0])
    # An orphan of somebody else's falls to process 1.
    subprocess.run(
        ["nsenter", "--pid", "--mount", "--target", str(first), "bash", "-c", "(sleep 0.05 & disown) & exit"],
        check=True,
    )

    def zombies() -> list[str]:
        pids = Path(f"/proc/{first}/task/{first}/children").read_text().split()
        return [pid for pid in pids if not alive(int(pid))]

    time.sleep(0.3)
    assert zombies() == []
    os.kill(first, signal.SIGTERM)
    assert run.process.wait(5) == 0
    assert run.words("SIGTERM") == [""]
    assert run.words("left") == [""]
    assert not Path(run.words("run_dir")[0]).exists()


@pytest.mark.skipif(not can_unshare(), reason="needs the right to make a PID namespace (root)")
def test_as_process_1_a_killed_gateway_is_noticed_too(start):
    run = start(wrapper=("unshare", "--pid", "--fork", "--kill-child", "--mount-proc"), BEHAVE="exit 5")
    assert run.process.wait(5) == 5


def test_status_files_of_the_stand_in_are_what_the_gateway_writes(tmp_path):
    """So that the stand-in cannot drift away from the real writer unnoticed."""
    from gateway.records.status import Status, StatusFile

    StatusFile(tmp_path, "boot").write(Status("ready", "strict", True, True, False))
    written = json.loads((tmp_path / "status.json").read_text())
    assert all(f'"{name}"' in STAND_IN for name in written)
