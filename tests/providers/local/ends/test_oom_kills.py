"""Where the kernel says that it killed for memory: real files of each kind of cgroup, in a folder."""

from pathlib import Path

import pytest

from gateway.providers.local.ends.oom_kills import oom_kills, ran_out

EVENTS = "low 0\nhigh 0\nmax 41\noom 3\noom_kill 2\noom_group_kill 0\n"
CONTROL = "oom_kill_disable 0\nunder_oom 0\noom_kill 5\n"
VMSTAT = "nr_free_pages 12\noom_kill 7\nunevictable_pgs_culled 0\n"


def machine(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.mark.parametrize(
    "files, count",
    [
        (
            {
                "proc/self/cgroup": "0::/system.slice/wakegate.service\n",
                "sys/fs/cgroup/system.slice/wakegate.service/memory.events": EVENTS,
            },
            2,
        ),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.events": EVENTS}, 2),
        # A container whose /proc names its group as the machine sees it, and whose /sys begins at it.
        ({"proc/self/cgroup": "0::/kubepods/pod7/abc\n", "sys/fs/cgroup/memory.events": EVENTS}, 2),
        (
            {
                "proc/self/cgroup": "9:name=systemd:/\n4:memory:/docker/abc\n0::/\n",
                "sys/fs/cgroup/memory/docker/abc/memory.oom_control": CONTROL,
                "proc/vmstat": VMSTAT,
            },
            5,
        ),
        ({"proc/self/cgroup": "4:cpu,memory:/docker/abc\n", "sys/fs/cgroup/memory/memory.oom_control": CONTROL}, 5),
        # The root of a machine has no events of its own.
        ({"proc/self/cgroup": "0::/\n", "proc/vmstat": VMSTAT}, 7),
        ({"proc/vmstat": VMSTAT}, 7),
        ({"proc/self/cgroup": "nonsense\n", "proc/vmstat": "oom_kill x\n"}, None),
        ({}, None),
    ],
)
def test_the_count_is_found_in_each_kind_of_group(tmp_path: Path, files: dict[str, str], count: int | None) -> None:
    assert oom_kills(machine(tmp_path, files)) == count


def test_this_machines_own_files_can_be_read() -> None:
    count = oom_kills()
    assert count is None or count >= 0


@pytest.mark.parametrize(
    "before, after, verdict", [(2, 3, True), (2, 2, False), (None, 3, None), (2, None, None), (0, 0, False)]
)
def test_more_than_before_means_that_somebody_was_killed(
    before: int | None, after: int | None, verdict: bool | None
) -> None:
    assert ran_out(before, after) is verdict
