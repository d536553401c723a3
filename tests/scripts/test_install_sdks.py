"""scripts/install_sdks.sh: what it would install, when it does nothing, and what it says when it cannot."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.callers.expected import LIBRARIES, SDKS

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "install_sdks.sh"
PINS = ROOT / "tests" / "callers" / "pins"


def run(home: Path, *names: str, pip: str = "exit 9") -> subprocess.CompletedProcess[str]:
    """With a Python that has this one's name for its version, and a pip that does as it is told."""
    python = home / "python"
    python.write_text(f'#!/bin/sh\n[ "$1" = -c ] && exec {sys.executable} "$@"\n{pip}\n')
    python.chmod(0o755)
    return subprocess.run(
        [str(SCRIPT), str(python), *names],
        env={"PATH": "/usr/bin:/bin", "HOME": str(home)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=30,
    )


def folder(home: Path) -> Path:
    return home / ".cache" / "wakegate" / "sdks" / str(sys.implementation.cache_tag)


def test_there_is_a_file_of_pins_for_each() -> None:
    assert {path.stem for path in PINS.iterdir()} == {*SDKS, *LIBRARIES}


def test_every_line_of_it_names_one_version() -> None:
    for path in PINS.iterdir():
        assert all(re.fullmatch(r"[\w-]+==[\w.]+", line) for line in path.read_text().split()), path


@pytest.mark.parametrize(("names", "meant"), [((), SDKS), (("all",), (*SDKS, *LIBRARIES))], ids=["usual", "all"])
def test_what_is_there_stays(tmp_path, names, meant) -> None:
    """By default what ./test.sh needs; pip is not even asked."""
    for name in meant:
        (folder(tmp_path) / name).mkdir(parents=True)
        shutil.copy(PINS / f"{name}.txt", folder(tmp_path) / name / "pins.txt")
    done = run(tmp_path, *names)
    assert (done.returncode, done.stdout) == (0, "")


def test_other_pins_than_those_that_it_has_are_installed_anew(tmp_path) -> None:
    there = folder(tmp_path) / "openai-1.109.1"
    there.mkdir(parents=True)
    (there / "pins.txt").write_text("openai==1.0\n")
    (there / "old").touch()
    done = run(
        tmp_path, "openai-1.109.1", pip='while [ "$1" != --target ]; do shift; done; mkdir -p "$2"; touch "$2/new"'
    )
    assert (done.returncode, done.stdout) == (0, f"[test.sh] Installing openai-1.109.1 into {folder(tmp_path)}\n")
    assert sorted(path.name for path in there.iterdir()) == ["new", "pins.txt"]


def test_what_cannot_be_installed_is_said_and_leaves_nothing_that_looks_whole(tmp_path) -> None:
    done = run(tmp_path, "openai-1.109.1", pip="echo no network; exit 1")
    assert done.returncode == 1
    assert "no network" in done.stdout and "openai-1.109.1 could not be installed" in done.stdout
    assert not (folder(tmp_path) / "openai-1.109.1").exists()
