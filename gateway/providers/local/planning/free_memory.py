"""How much more memory this process and its children may take: what the machine has left, and each cgroup around us.

the machine   /proc/meminfo         MemAvailable
cgroup 2      <group>/memory.max    less memory.current; what is only cache of files (inactive_file) can be given up
cgroup 1      <group>/memory.limit_in_bytes, memory.usage_in_bytes, total_inactive_file
"""

import re
from pathlib import Path

from gateway.surroundings import cgroups_in

ROOT = Path("/")
NAMES = (
    ("memory.max", "memory.current", "inactive_file"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)
"""Of each version: the limit, what is used of it, and what of that can be given up."""
UNLIMITED = 1 << 60
"""cgroup 1 says "no limit" as a number near 2**63."""


def free_memory(root: Path = ROOT) -> int | None:
    """Bytes; None where nobody says. A few small files of the kernel: no waiting."""
    match = re.search(r"^MemAvailable:\s+(\d+) kB", _read(root / "proc/meminfo"), re.MULTILINE)
    left = [int(match[1]) * 1024] if match else []
    for folders in cgroups_in(_read(root / "proc/self/cgroup"), "memory"):
        for folder in (root / name.lstrip("/") for name in folders):
            left += (found for names in NAMES if (found := _left_of(folder, *names)) is not None)
    return min(left, default=None)


def _left_of(folder: Path, limit: str, used: str, cache: str) -> int | None:
    """None: it is not of this version, or has no limit."""
    most, taken = _number(folder / limit), _number(folder / used)
    if most is None or taken is None or most >= UNLIMITED:
        return None
    given_up = re.search(rf"^{cache} (\d+)", _read(folder / "memory.stat"), re.MULTILINE)
    return max(0, most - taken + (int(given_up[1]) if given_up else 0))


def _number(path: Path) -> int | None:
    text = _read(path).strip()
    return int(text) if text.isdecimal() else None


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
