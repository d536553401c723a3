"""Whether the kernel killed for memory: its own count, read before and after.

SIGKILL has many senders; this count has one. In a container (and in a service of systemd) it counts what was killed in
it and below, in the root group of a machine what was killed anywhere on it.

    cgroup 2   <group>/memory.events         "oom_kill 3"
    cgroup 1   <group>/memory.oom_control    "oom_kill 3" (since Linux 4.13)
    neither    /proc/vmstat                  "oom_kill 3"
"""

from collections.abc import Iterator
from pathlib import Path

from gateway.surroundings import cgroups_in

ROOT = Path("/")


def ran_out(before: int | None, after: int | None) -> bool | None:
    """Whether it was killed for memory between two counts; None where nobody counts."""
    return None if before is None or after is None else after > before


def oom_kills(root: Path = ROOT) -> int | None:
    """How many processes so far; None where nobody counts. A few small files of the kernel: no waiting."""
    for path in _counters(root):
        count = _count(path)
        if count is not None:
            return count
    return None


def _counters(root: Path) -> Iterator[Path]:
    """Ours first. A container may see its group at the top although its name says more."""
    for folders in cgroups_in(_read(root / "proc/self/cgroup"), "memory"):
        for folder in (folders[0], folders[-1]):
            for name in ("memory.events", "memory.oom_control"):
                yield root / folder.lstrip("/") / name
    yield root / "proc/vmstat"


def _count(path: Path) -> int | None:
    for line in _read(path).splitlines():
        name, _, number = line.partition(" ")
        if name == "oom_kill" and number.strip().isdigit():
            return int(number)
    return None


def _read(path: Path) -> str:
    try:
        return path.read_text("ascii", "replace")
    except OSError:
        return ""  # not this kind of kernel, or not for us to see
