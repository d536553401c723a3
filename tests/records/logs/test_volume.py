"""Folders of logs, by handle; and real volumes that fill, turn read-only, vanish and come back during load."""

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from gateway.records.logs.volume import Volume
from tests.support import log_stories

CAN_MOUNT = shutil.which("unshare") is not None and subprocess.run(["unshare", "-m", "true"]).returncode == 0
"""Root may, but not in every container, and not in a chroot."""


@pytest.mark.skipif(not CAN_MOUNT, reason="needs root and unshare for a volume of its own")
@pytest.mark.parametrize("story", log_stories.STORIES)
def test_a_volume_that_misbehaves_costs_lines_at_most_and_they_are_counted(story: str, tmp_path: Path) -> None:
    ran = subprocess.run(
        ["unshare", "-m", sys.executable, "-m", "tests.support.log_stories", story, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.stdout == "fine\n", ran.stdout + ran.stderr


def test_folders_are_made_where_they_are_missing(tmp_path: Path) -> None:
    volume = Volume(tmp_path / "data")
    with pytest.raises(FileNotFoundError):
        volume.open("llama")
    with volume.folder("llama", make=True) as folder:
        os.mkdir("x", dir_fd=folder)
    assert (tmp_path / "data" / "logs" / "llama" / "x").is_dir()
    with volume.folder("llama"):
        pass


@pytest.mark.parametrize("link", ["logs", "logs/llama"])
def test_no_link_is_followed_below_the_data_folder(link: str, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "llama").mkdir(parents=True)
    data = tmp_path / "data"
    (data / link).parent.mkdir(parents=True, exist_ok=True)
    (data / link).symlink_to(elsewhere)
    with pytest.raises(OSError) as refused, Volume(data).folder("llama", make=True):
        pass
    assert refused.value.errno in (errno.ENOTDIR, errno.ELOOP)


def test_no_handle_is_left_open(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    volume = Volume(tmp_path)
    for _ in range(3):
        with volume.folder("llama", make=True):
            pass
        with pytest.raises(FileNotFoundError):
            volume.open("nowhere")
    (tmp_path / "logs" / "file").write_text("")
    with pytest.raises(NotADirectoryError):
        volume.open("file")
    assert len(os.listdir("/proc/self/fd")) == before
