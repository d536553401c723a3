"""How much more memory this process and its children may take: what the machine has left, and each cgroup around us.

the machine   /proc/meminfo         MemAvailable
cgroup 2      <group>/memory.max    less memory.current; what is only cache of files (inactive_file) can be given up
cgroup 1      <group>/memory.limit_in_bytes, memory.usage_in_bytes, total_inactive_file
"""

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

ROOT = Path("/")
UNLIMITED = 1 << 60
"""cgroup 1 says "no limit" as a number near 2**63."""


def free_memory(root: Path = ROOT) -> int | None:
    """Bytes; None where nobody says. A few small files of the kernel: no waiting."""
    match = re.search(r"^MemAvailable:\s+(\d+) kB", _read(root / "proc/meminfo"), re.MULTILINE)
    left = [int(match[1]) * 1024] if match else []
    for folder, limit, used, cache in _groups(root):
        most, taken = _number(folder / limit), _number(folder / used)
        if most is None or taken is None or most >= UNLIMITED:
            continue
        given_up = re.search(rf"^{cache} (\d+)", _read(folder / "memory.stat"), re.MULTILINE)
        left.append(max(0, most - taken + (int(given_up[1]) if given_up else 0)))
    return min(left, default=None)


def _groups(root: Path) -> Iterator[tuple[Path, str, str, str]]:
    """Ours and those around it. A container may see its group at the top although its name says more."""
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, place = (*line.split(":", 2), "", "")[:3]
        if not controllers:
            base, names = root / "sys/fs/cgroup", ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            base = root / "sys/fs/cgroup/memory"
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        else:
            continue
        path = PurePosixPath("/", place)
        for folder in (path, *path.parents):
            yield base / str(folder).lstrip("/"), *names


def _number(path: Path) -> int | None:
    text = _read(path).strip()
    return int(text) if text.isdecimal() else None


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
