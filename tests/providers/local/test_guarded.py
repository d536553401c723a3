"""The gateway's end of a guard: what it hears, what it may order, and what it does when the guard is killed."""

import asyncio
import errno
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.providers.local import guard, guarded
from tests.support.engines import Launcher, fake_engine, soon, text_of, with_cookie

SOON = 10.0
"""Seconds within which nothing of a killed engine may live: a fraction of one, but for a busy machine."""


@pytest.fixture
async def launch(tmp_path: Path) -> AsyncIterator[Launcher]:
    launcher = Launcher(tmp_path)
    yield launcher
    for engine in launcher.engines:
        engine.stop(0)
        await asyncio.wait({engine.gone})  # a test that gave up waiting for it has cancelled it


async def test_an_exit_is_told_with_its_code_and_the_last_lines(launch: Launcher) -> None:
    engine = launch("/bin/sh", "-c", "echo one; echo two >&2; exit 7")
    ended = await engine.exited
    assert (ended.code, ended.tail, ended.lost_guard) == (7, ("one", "two"), False)
    assert await engine.gone is True
    lines = launch.log.read_text().splitlines()
    assert all(line.startswith("[guard] 20") for line in lines[:2])
    assert lines[2:] == ["one", "two"]


async def test_a_signal_is_told_as_minus_its_number(launch: Launcher) -> None:
    engine = launch("/bin/sh", "-c", "kill -11 $$")
    assert (await engine.exited).code == -signal.SIGSEGV


@pytest.mark.parametrize("program, name", [("no-such-program", "ENOENT"), ("/etc/passwd", "EACCES")])
async def test_a_program_that_cannot_be_run_is_told_by_its_errno(launch: Launcher, program: str, name: str) -> None:
    engine = launch(program)
    assert (await engine.started).error == getattr(errno, name)
    assert await engine.gone is True


async def test_a_polite_stop_lets_the_engine_finish(launch: Launcher) -> None:
    engine = await launch.ready("--slow-term", "0.3")
    engine.stop(5)
    assert (await engine.exited).code == 0
    assert await engine.gone is True


async def test_a_stop_is_a_kill_once_its_grace_is_over(launch: Launcher) -> None:
    engine = await launch.ready("--ignore-term")
    engine.stop(0.2)
    async with asyncio.timeout(SOON):
        assert (await engine.exited).code == -signal.SIGKILL
        assert await engine.gone is True


async def test_an_engine_that_was_paused_hears_a_polite_stop_too(launch: Launcher) -> None:
    """A shell, which has one thread: a stopped program of several may hear TERM in any, and Python in its main one
    only."""
    engine = launch("/bin/sh", "-c", "trap 'exit 0' TERM; echo ready; while :; do sleep 0.05; done")
    await soon(lambda: "ready" in text_of(launch.log).split(), "the engine")
    os.killpg((await engine.started).pid, signal.SIGSTOP)
    engine.stop(60)
    async with asyncio.timeout(SOON):
        assert (await engine.exited).code == 0
        assert await engine.gone is True


async def test_a_second_stop_may_shorten_the_grace(launch: Launcher) -> None:
    """The second Ctrl-C."""
    engine = await launch.ready("--ignore-term")
    engine.stop(60)
    engine.stop(0)
    async with asyncio.timeout(SOON):
        assert (await engine.exited).code == -signal.SIGKILL


async def test_a_shell_around_the_engine_does_not_keep_the_signal_to_itself(launch: Launcher) -> None:
    """TERM goes to the whole group, and what outlives its shell has a moment to finish."""
    inner = " ".join(fake_engine("--port", "0", "--slow-term", "0.3"))
    engine = launch("/bin/sh", "-c", f"{inner}; true")
    await soon(lambda: "ready" in text_of(launch.log).split(), "the engine")
    engine.stop(5)
    assert await engine.gone is True
    assert with_cookie(launch.cookie) == []


async def test_the_stop_command_comes_before_term(launch: Launcher) -> None:
    """An engine that would outlive TERM by far ends by its own command."""
    number = launch.log.with_name("pid")
    inner = " ".join(fake_engine("--port", "0", "--ignore-term"))
    engine = launch(
        "/bin/sh", "-c", f"echo $$ > {number}; exec {inner}", stop=["/bin/sh", "-c", f"kill -KILL $(cat {number})"]
    )
    await soon(lambda: "ready" in text_of(launch.log).split(), "the engine")
    engine.stop(30)
    async with asyncio.timeout(SOON):
        assert (await engine.exited).code == -signal.SIGKILL
        assert await engine.gone is True


async def test_an_engine_that_ends_before_its_stop_command_does_is_gone_with_it(launch: Launcher) -> None:
    """As with `docker stop`: the container's process ends first. Nobody waits for the rest of the grace then."""
    number = launch.log.with_name("pid")
    engine = launch(
        "/bin/sh",
        "-c",
        f"echo $$ > {number}; echo ready; exec sleep 60",
        stop=["/bin/sh", "-c", f"kill -KILL $(cat {number}); sleep 0.3"],
    )
    await soon(lambda: "ready" in text_of(launch.log).split(), "the engine")
    engine.stop(600)
    async with asyncio.timeout(SOON):
        assert (await engine.exited).code == -signal.SIGKILL
        assert await engine.gone is True


async def test_a_stop_command_that_hangs_has_the_grace_and_no_more(launch: Launcher) -> None:
    engine = await launch.ready(stop=["/bin/sleep", "60"])
    engine.stop(0.3)
    async with asyncio.timeout(SOON):
        assert await engine.gone is True
    assert with_cookie(launch.cookie) == []


async def test_a_stop_command_that_is_not_there_is_passed_over(launch: Launcher) -> None:
    engine = await launch.ready("--slow-term", "0", stop=["no-such-program"])
    engine.stop(5)
    assert (await engine.exited).code == 0
    assert "The stop command did not start" in launch.log.read_text()


async def test_hanging_up_ends_the_engine_and_is_confirmed(launch: Launcher) -> None:
    engine = await launch.ready()
    engine.hang_up()
    async with asyncio.timeout(SOON):
        assert await engine.gone is True


async def test_a_killed_guard_is_noticed_at_once_and_swept_up_after(launch: Launcher) -> None:
    engine = await launch.ready("--spawn", "setsid", "--ignore-term")
    engine.kill_guard()
    async with asyncio.timeout(SOON):
        assert (await engine.exited).lost_guard
        assert await engine.gone is True
    assert with_cookie(launch.cookie) == []
    await soon(lambda: not Path(f"/proc/{engine.guard_pid}").exists(), "the guard's zombie is reaped")


async def test_zombies_of_the_engine_are_reaped(launch: Launcher) -> None:
    """The guard is the subreaper: an orphan's end does not wait for PID 1, which in a container may be anything."""
    engine = launch("/bin/sh", "-c", "(sh -c 'exec sleep 0.05' &) ; sleep 0.5; echo done; sleep 60")
    await soon(lambda: "done" in text_of(launch.log), "the shell")
    children = Path(f"/proc/{engine.guard_pid}/task/{engine.guard_pid}/children").read_text().split()
    assert [int(pid) for pid in children] == [(await engine.started).pid]


async def test_output_counts_as_a_sign_of_life(launch: Launcher) -> None:
    engine = launch("/bin/sh", "-c", "echo a; sleep 1.2; echo b; echo c; sleep 60")
    await soon(lambda: engine.lines == 1, "the first line")
    await soon(lambda: engine.lines == 3, "the others, told once")


async def test_lines_are_heard_when_they_are_printed_until_it_serves(launch: Launcher) -> None:
    heard: list[str] = []
    engine = launch("/bin/sh", "-c", "echo one; printf ..; read nothing; sleep 60", on_line=heard.append)
    await soon(lambda: (heard, engine.unfinished) == (["one"], ".."), "a line, and a part of one")
    engine.hush()
    assert engine.unfinished == ""


async def test_what_is_printed_after_that_is_only_counted(launch: Launcher, tmp_path: Path) -> None:
    heard: list[str] = []
    served = tmp_path / "served"
    script = f"echo one; while ! [ -e {served} ]; do sleep 0.01; done; echo a prompt; sleep 60"
    engine = launch("/bin/sh", "-c", script, on_line=heard.append)
    await soon(lambda: heard == ["one"], "the first line")
    engine.hush()
    served.touch()
    await soon(lambda: engine.lines == 2, "the other")
    assert heard == ["one"]


async def test_an_engines_last_lines_are_heard_before_its_exit(launch: Launcher) -> None:
    heard: list[str] = []
    engine = launch("/bin/sh", "-c", f"echo {'x' * 600}; echo last; exit 3", on_line=heard.append)
    await engine.exited
    assert heard == ["x" * guard.TAIL_LINE, "last"]


async def test_a_listener_that_fails_is_let_go_and_the_engine_goes_on(launch: Launcher) -> None:
    def fail(line: str) -> None:
        raise KeyError(line)

    engine = launch("/bin/sh", "-c", "echo one; sleep 60", on_line=fail)
    await soon(lambda: engine.on_line is None, "the first line")
    assert not engine.exited.done()


async def test_a_gateway_that_does_not_read_holds_up_neither_guard_nor_engine(launch: Launcher, tmp_path: Path) -> None:
    """Ten megabytes are printed meanwhile; what it then reads is whole, and ends with the end."""
    ours, theirs = socket.socketpair()
    done = tmp_path / "done"
    order = {
        "argv": [
            "/bin/sh",
            "-c",
            f"head -c 10000000 /dev/zero | tr '\\0' x | fold -w 99; touch {done}; read x; exit 3",
        ],
        "env": {"PATH": os.environ["PATH"], guard.COOKIE: launch.cookie},
        "cookie": launch.cookie,
        "log": str(launch.log),
        "log_limit": 1 << 20,
        "repeats": True,
    }
    argv = [sys.executable, "-I", "-S", guarded.GUARD, "run", str(theirs.fileno())]
    process = guarded.spawn_guard(argv, [theirs.fileno()], {})
    with ours:
        theirs.close()
        ours.sendall(json.dumps(order).encode() + b"\n")
        await soon(done.exists, "the engine's output, which nobody reads")
        with ours.makefile("rb") as said:
            messages = [json.loads(line) for line in said]
    assert await asyncio.to_thread(process.wait, 10) == 0
    assert messages[-2]["exited"] == 3 and messages[-1] == {"gone": True}
    assert max(len(message.get("said", ())) for message in messages) <= guard.SAID_LINES


# --- Its log ---


async def test_the_log_rotates_and_loses_no_line(launch: Launcher) -> None:
    engine = launch(*fake_engine("--port", "0", "--print", "2000", "--crash", "ready"), limit=16384)
    await engine.gone
    assert "something broke" in launch.log.read_text()
    files = sorted(launch.log.parent.iterdir(), key=lambda path: path.name.replace("engine.txt", "engine_z"))
    assert files[-1] == launch.log and len(files) > 3
    assert all(path.stat().st_size <= 16384 for path in files)
    assert all(path.read_text().startswith("[guard] 20") for path in files), "each says when it began"
    text = "".join(path.read_text() for path in files)
    assert [f"line {number}" in text for number in range(2000)] == [True] * 2000


async def test_the_engine_does_not_notice_a_log_that_cannot_be_written(launch: Launcher, tmp_path: Path) -> None:
    """The folder is not there: 200 kB are dropped, the engine starts, serves and is stopped as ever."""
    engine = launch(*fake_engine("--port", "0", "--print", "2000"), log=str(tmp_path / "nowhere" / "engine.txt"))
    await soon(lambda: engine.lines >= 2000, "the engine's output")
    engine.stop(5)
    assert (await engine.exited).code == -signal.SIGTERM
    assert any("line 1999" in line for line in engine.exited.result().tail)
