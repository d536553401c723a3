"""`wakegate rehearse` as it is typed: the whole cycle, what is left of it when it is interrupted or killed, and the one
for real, on a vendor that stands for RunPod. All of them run at once: they mostly wait."""

import asyncio
import contextlib
import os
import re
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from gateway.rehearsal.children import Child, bare, free_port
from gateway.rehearsal.stage import Stage, body_of, pods_settings, unix
from gateway.rehearsal.vendor import Vendor
from tests.support.worker import ROOT

WITHIN = 400.0
"""Seconds for each; they take some twenty."""
POD_RUNS = "its container starts"
VENDORS_KEY = "rpa_0123456789abcdefghij"
PODS_KEY = "sk-of-the-pod-0123456789"


@dataclass
class Run:
    """One that has ended."""

    code: int
    output: str
    folder: Path
    """Its TMPDIR."""


@dataclass
class Played:
    whole: Run
    interrupted: Run
    killed: Run
    real: Run
    vendor: Vendor
    """Of the one for real."""


async def typed(folder: Path, *words: str, environ: dict[str, str] | None = None, sign: int | None = None) -> Run:
    """Run it to its end; with `sign`, that signal is sent once its pod runs."""
    (folder / "tmp").mkdir(parents=True)
    env = bare(os.environ) | {"TMPDIR": str(folder / "tmp"), "PYTHONUNBUFFERED": "1", **(environ or {})}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gateway", "rehearse", *words),
        cwd=ROOT,
        env=env,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output = ""
    try:
        async with asyncio.timeout(WITHIN):
            assert process.stdout is not None
            async for line in process.stdout:
                output += line.decode()
                if sign is not None and POD_RUNS in output:
                    process.send_signal(sign)
                    sign = None
            return Run(await process.wait(), output, folder / "tmp")
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def for_real(folder: Path) -> tuple[Run, Vendor]:
    """With settings as a user has them, in a file, and a vendor on loopback."""
    port = free_port()
    vendor = Vendor(VENDORS_KEY, port=port)
    body = body_of(folder, Path("/nowhere"))
    (folder / "pod").mkdir(parents=True)
    (folder / "data").mkdir()
    (folder / "user.env").write_text(
        f"PROVIDER=runpod-pod\nRUNPOD_POD_ID=rehearsal\nRUNPOD_POD_PORT={port}\nMONTHLY_BUDGET=20\nIDLE_TIMEOUT=600\n"
        f"RUNPOD_PROXY_URL=http://127.0.0.1:{{port}}\nUPSTREAM_API_KEY={PODS_KEY}\nAPI_KEY=sk-of-the-user-0123456789\n"
    )

    def pod() -> Child:
        settings = pods_settings(port, PODS_KEY, body, folder / "pod")
        return Child("pod", ROOT / "start.sh", folder, bare(os.environ) | settings)

    async with Stage(vendor, pod, port=port, tell=lambda who, what: None, now=unix) as stage:
        environ = {
            "WAKEGATE_ENV_FILE": str(folder / "user.env"),
            "DATA_DIR": str(folder / "data"),
            "RUNPOD_API_KEY": VENDORS_KEY,
            "RUNPOD_API_URL": stage.url,
        }
        run = await typed(folder, "--real", "--up-to", "0.05", environ=environ)
        assert not stage.pod_runs
        return run, vendor


async def play_all(folder: Path) -> Played:
    async with asyncio.TaskGroup() as all_of_them:
        whole = all_of_them.create_task(typed(folder / "whole"))
        interrupted = all_of_them.create_task(typed(folder / "interrupted", sign=signal.SIGINT))
        killed = all_of_them.create_task(typed(folder / "killed", sign=signal.SIGKILL))
        real = all_of_them.create_task(for_real(folder / "real"))
    run, vendor = real.result()
    return Played(whole.result(), interrupted.result(), killed.result(), run, vendor)


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Played]:
    folder = tmp_path_factory.mktemp("rehearsals")
    (folder / "real").mkdir()
    try:
        yield asyncio.run(play_all(folder))
    finally:
        for pid in left(folder):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def left(folder: Path) -> list[int]:
    """Processes that were told of this folder."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):
                if str(folder).encode() in (entry / "environ").read_bytes():
                    found.append(int(entry.name))
    return found


async def until_nothing_is_left(folder: Path) -> None:
    async with asyncio.timeout(120):
        while left(folder):
            await asyncio.sleep(0.1)


def in_order(output: str, *parts: str) -> bool:
    return re.search(".*?".join(map(re.escape, parts)), output, re.DOTALL) is not None


def test_the_whole_cycle_is_played_and_each_call_told(played: Played) -> None:
    assert played.whole.code == 0, played.whole.output
    assert in_order(
        played.whole.output,
        "it listens, with $20.00 a month to spend; the pod sleeps",
        "ask for a chat",
        'action {"action": "start"} → 200, the pod is PROVISIONING; it costs $0.34 an hour from now on',
        POD_RUNS,
        "are answered: '",
        'action {"action": "stop"} → 200',
        "its container is gone; it has cost $",
        "has seen it stopped, twice",
        "booked $",
        "nothing runs, nothing is left",
    ), played.whole.output


def test_callers_hear_of_the_start_while_they_wait(played: Played) -> None:
    assert "hear, while you wait: " in played.whole.output


async def test_nothing_is_left_behind(played: Played) -> None:
    await until_nothing_is_left(played.whole.folder)
    assert list(played.whole.folder.iterdir()) == []


async def test_an_interrupted_one_leaves_nothing_behind_either(played: Played) -> None:
    assert played.interrupted.code == 130, played.interrupted.output
    assert "Interrupted: everything that was started is ended." in played.interrupted.output
    await until_nothing_is_left(played.interrupted.folder)
    assert list(played.interrupted.folder.iterdir()) == []


async def test_a_killed_one_leaves_no_process_behind(played: Played) -> None:
    assert played.killed.code == -signal.SIGKILL
    await until_nothing_is_left(played.killed.folder)


def test_the_one_for_real_rents_once_and_asks_the_vendor_whether_it_stopped(played: Played) -> None:
    assert played.real.code == 0, played.real.output
    assert played.vendor.runs == 1 and played.vendor.status() == "EXITED"
    assert in_order(
        played.real.output,
        "nothing of yours runs; it would cost $0.34 an hour, so at most 529 s",
        "is asked for start: ok",
        "costs $0.34 an hour from now on",
        "are answered: 'This is a rehearsal: no GPU was rented for this answer.'",
        "is asked for stop: ok",
        "has seen it stopped, twice",
        "was asked itself, twice: nothing of yours runs",
        "on runpod-pod (rehearsal)",
    ), played.real.output


def test_the_one_for_real_is_in_the_users_own_ledger_and_cost_what_it_may(played: Played) -> None:
    booked = re.search(r"ledger +\$([0-9.]+)  .*on runpod-pod \(rehearsal\)", played.real.output)
    assert booked is not None, played.real.output
    assert played.vendor.cost(unix()) / 1e6 <= float(booked[1]) <= 0.05


def test_no_key_is_shown(played: Played) -> None:
    for run in (played.whole, played.interrupted, played.real):
        assert VENDORS_KEY not in run.output and PODS_KEY not in run.output
