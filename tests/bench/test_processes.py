"""What a tree of processes has used."""

import subprocess
import sys

import pytest

from bench.processes import TICK, Busy, Cpu, Stat, busy_in, cpu, family, kernel_time, memory, pss_in, read_stat, tree

LINE = "812 (a) name (x) S 1 812 700 0 -1 4194560 100 200 0 0 150 50 30 20 20 0 1 0 4242 1000 50 18446744073709551615"


def test_a_name_with_brackets_and_blanks_is_read_over() -> None:
    stat = read_stat(LINE)
    assert (stat.parent, stat.session) == (1, 700)
    assert (stat.own, stat.buried, stat.kernel) == pytest.approx((200 * TICK, 50 * TICK, 50 * TICK))


def test_a_family_is_a_session_and_whoever_descends_from_it() -> None:
    """A helper in a session of its own is found by its parent, one whose parent has died by its session."""
    stats = {
        10: Stat(1, 10, 0, 0),
        11: Stat(10, 10, 0, 0),
        12: Stat(11, 12, 0, 0),
        13: Stat(12, 12, 0, 0),
        14: Stat(1, 10, 0, 0),
        20: Stat(1, 20, 0, 0),
    }
    assert family(10, stats) == {10, 11, 12, 13, 14}


def test_memory_is_the_share_of_what_is_shared() -> None:
    assert (
        pss_in("00400000-7ffd r--p 00000000 00:00 0 [rollup]\nRss:  900 kB\nPss:  512 kB\nPss_Dirty: 5 kB\n") == 524288
    )
    assert pss_in("") == 0


def test_what_others_did_is_what_is_not_ours() -> None:
    assert busy_in("cpu  100 20 30 9999 888 4 5 6 0 0\ncpu0 1 2 3\n") == pytest.approx(165 * TICK)
    assert Busy(all=16, ours=7).others_since(Busy(all=10, ours=5)) == 4
    assert Busy(all=11, ours=7).others_since(Busy(all=10, ours=5)) == 0
    assert Busy.now().all > 0


BURN = "import time\nend = time.process_time() + {}\nwhile time.process_time() < end: pass\n"


def test_cpu_time_of_living_and_of_buried_processes_counts_once_each() -> None:
    """A child that has ended, threads that live, and one that has ended."""
    script = (
        "import subprocess, sys, threading\n"
        f"burn = {BURN!r}\n"
        "subprocess.run([sys.executable, '-I', '-S', '-c', burn.format(0.1)])\n"
        "thread = threading.Thread(target=exec, args=(burn.format(0.1),)); thread.start(); thread.join()\n"
        "print('ready', flush=True); sys.stdin.read()\n"
    )
    command = [sys.executable, "-I", "-S", "-c", script]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        used = cpu(process.pid)
        again = cpu(process.pid).since(used)
        assert process.pid in tree(process.pid)
        assert memory(tree(process.pid)) > 1_000_000
        assert 0 <= kernel_time(process.pid) <= used.ticks
        process.communicate()
    assert 0.18 <= used.since(Cpu(0, 0)) < 1  # both, and the start of two interpreters
    assert 0 <= again < 0.1


def test_a_process_that_is_gone_has_used_nothing() -> None:
    process = subprocess.run([sys.executable, "-I", "-S", "-c", "import os; print(os.getpid())"], capture_output=True)
    assert cpu(int(process.stdout)) == Cpu(0, 0)


def test_the_exact_time_counts_unless_threads_have_ended_and_taken_theirs_along() -> None:
    assert Cpu(0.50, 0.513).since(Cpu(0.10, 0.108)) == pytest.approx(0.405)
    assert Cpu(0.50, 0.250).since(Cpu(0.10, 0.108)) == pytest.approx(0.4)
    assert Cpu(0.50, 0.0).since(Cpu(0.48, 0.0)) == pytest.approx(0.02), "a kernel that does not count so"
