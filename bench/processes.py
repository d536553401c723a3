"""What a process and everything below it has used, read from /proc: CPU time and memory.

A proxy is measured as a whole: a master and its workers, or start.sh with the gateway, its helpers and the health
server.
"""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

TICK = 1 / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Stat:
    """What one line of /proc/PID/stat says, times in seconds."""

    parent: int
    session: int
    own: float
    """utime + stime: every thread that is or was."""
    buried: float
    """cutime + cstime: children that have ended and were waited for."""
    kernel: float = 0.0
    """stime: of its own, what the kernel worked for it."""


def read_stat(line: str) -> Stat:
    """See proc_pid_stat(5). The name is in brackets and may hold brackets and blanks."""
    fields = line[line.rindex(")") + 2 :].split()
    utime, stime, cutime, cstime = (int(field) * TICK for field in fields[11:15])
    return Stat(parent=int(fields[1]), session=int(fields[3]), own=utime + stime, buried=cutime + cstime, kernel=stime)


def family(root: int, stats: Mapping[int, Stat]) -> set[int]:
    """The process, its session and all that descend from them."""
    found = {pid for pid, stat in stats.items() if pid == root or stat.session == root}
    while more := {pid for pid, stat in stats.items() if stat.parent in found} - found:
        found |= more
    return found


def _stats() -> dict[int, Stat]:
    stats = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stats[int(entry.name)] = read_stat((entry / "stat").read_text("utf-8", "replace"))
            except OSError:
                pass  # it has ended since
    return stats


def tree(root: int) -> set[int]:
    return family(root, _stats())


@dataclass(frozen=True, slots=True)
class Cpu:
    """Seconds of CPU that a tree of processes has used, read in two ways."""

    ticks: float
    """In steps of 10 ms, too coarse for a short measurement, with all that has ended."""
    exact: float
    """The scheduler's own nanoseconds (the kernel scales the ticks by that same count), of threads that live."""

    def since(self, before: "Cpu") -> float:
        """What was used in between: the exact one, unless threads have ended and taken theirs along."""
        ticks, exact = self.ticks - before.ticks, self.exact - before.exact
        return exact if exact > 0 and ticks - exact < TICKS_ARE_OFF else ticks


TICKS_ARE_OFF = 4 * TICK
"""How far the two may be apart because ticks are cut off, in several processes."""


def cpu(root: int) -> Cpu:
    """What the tree has used since it began."""
    stats = _stats()
    pids = family(root, stats)
    ticks = sum(stats[pid].own + stats[pid].buried for pid in pids)
    return Cpu(ticks, sum(map(_by_threads, pids)))


def kernel_time(root: int) -> float:
    """Seconds that the kernel has worked for the tree's living processes. Counted by sampling, in steps of 10 ms."""
    stats = _stats()
    return sum(stats[pid].kernel for pid in family(root, stats))


def _by_threads(pid: int) -> float:
    total = 0
    try:
        for task in Path(f"/proc/{pid}/task").iterdir():
            total += int((task / "schedstat").read_text().split()[0])
    except OSError:
        pass  # a thread or the process has ended since, or this kernel does not count so
    return total / 1e9


@dataclass(frozen=True, slots=True)
class Busy:
    """What the whole machine has worked, and what of it was ours, in seconds of CPU. Ours counts when it has ended."""

    all: float
    ours: float

    @classmethod
    def now(cls) -> "Busy":
        return cls(busy_in(Path("/proc/stat").read_text()), sum(os.times()[:4]))

    def others_since(self, before: "Busy") -> float:
        return max(0.0, (self.all - before.all) - (self.ours - before.ours))


def busy_in(stat: str) -> float:
    """Seconds of CPU that were neither idle nor spent waiting for a disk; see proc_stat(5)."""
    user, nice, system, _idle, _iowait, irq, softirq, steal = (int(field) for field in stat.split()[1:9])
    return (user + nice + system + irq + softirq + steal) * TICK


def memory(pids: Iterable[int]) -> int:
    """Bytes of these processes, shared pages divided among those that share them (PSS)."""
    total = 0
    for pid in pids:
        try:
            total += pss_in(Path(f"/proc/{pid}/smaps_rollup").read_text())
        except OSError:
            pass  # it has ended since
    return total


def pss_in(rollup: str) -> int:
    return next((int(line.split()[1]) * 1024 for line in rollup.splitlines() if line.startswith("Pss:")), 0)
