"""How much memory is left: the machine's own word, and that of the cgroups around us, of both versions."""

from pathlib import Path

import pytest

from gateway.providers.local.planning.free_memory import free_memory

GIB = 1 << 30


def tree(root: Path, **files: str) -> Path:
    """`a__b` is a/b."""
    for name, text in files.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def meminfo(available: int) -> str:
    return f"MemTotal: 99999999 kB\nMemFree: 1 kB\nMemAvailable:   {available // 1024} kB\n"


def test_on_a_bare_machine_it_is_what_the_kernel_says(tmp_path: Path) -> None:
    assert free_memory(tree(tmp_path, proc__meminfo=meminfo(5 * GIB))) == 5 * GIB


def test_a_container_has_what_its_limit_leaves(tmp_path: Path) -> None:
    """Its group is at the top, whatever it is called; cached files that nobody uses are as good as free."""
    groups = "sys__fs__cgroup"
    files = {
        "proc__meminfo": meminfo(50 * GIB),
        "proc__self__cgroup": "0::/kubepods/pod1/abc\n",
        f"{groups}__memory.max": f"{8 * GIB}\n",
        f"{groups}__memory.current": f"{6 * GIB}\n",
        f"{groups}__memory.stat": f"anon 1\ninactive_file {GIB}\n",
    }
    assert free_memory(tree(tmp_path, **files)) == 3 * GIB


def test_the_tightest_group_around_us_counts(tmp_path: Path) -> None:
    files = {"proc__meminfo": meminfo(50 * GIB), "proc__self__cgroup": "0::/user/me\n"}
    for group, most in (("user__me__", "max"), ("user__", str(4 * GIB))):
        files[f"sys__fs__cgroup__{group}memory.max"] = most
        files[f"sys__fs__cgroup__{group}memory.current"] = str(GIB)
    assert free_memory(tree(tmp_path, **files)) == 3 * GIB


@pytest.mark.parametrize(("limit", "expected"), [(str(4 * GIB), 2 * GIB), ("9223372036854771712", 50 * GIB)])
def test_groups_of_version_1(tmp_path: Path, limit: str, expected: int) -> None:
    files = {
        "proc__meminfo": meminfo(50 * GIB),
        "proc__self__cgroup": "3:cpu:/x\n7:memory:/docker/1\n",
        "sys__fs__cgroup__memory__memory.limit_in_bytes": limit,
        "sys__fs__cgroup__memory__memory.usage_in_bytes": str(3 * GIB),
        "sys__fs__cgroup__memory__memory.stat": f"total_inactive_file {GIB}\n",
    }
    assert free_memory(tree(tmp_path, **files)) == expected


def test_a_group_over_its_limit_leaves_nothing(tmp_path: Path) -> None:
    files = {
        "proc__self__cgroup": "0::/\n",
        "sys__fs__cgroup__memory.max": "100",
        "sys__fs__cgroup__memory.current": "300",
    }
    assert free_memory(tree(tmp_path, **files)) == 0


def test_where_nobody_says_nobody_knows(tmp_path: Path) -> None:
    assert free_memory(tmp_path) is None


def test_this_machine_says_it() -> None:
    free = free_memory()
    assert free is not None and free > 0
