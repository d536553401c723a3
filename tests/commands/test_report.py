"""`wakegate report` as a person runs it: one private file, never over another, and what is in it is listed."""

import os
import stat
import subprocess
import sys
from pathlib import Path

from typer.testing import CliRunner

from gateway.cli import app
from tests.commands.test_logs import environ


def report(data: Path, *words: str, **settings: str) -> tuple[int, str]:
    """In this process: exit code, and all that it says."""
    result = CliRunner(env=environ(data, **settings)).invoke(app, ["report", *words])
    return result.exit_code, result.output


def test_it_writes_one_private_file_and_lists_what_is_in_it(tmp_path: Path) -> None:
    secret = "sk-0123456789abcdefghij"
    done = subprocess.run(
        [sys.executable, "-m", "gateway", "report"],
        env=environ(tmp_path, API_KEY=secret, MODEL="qwen"),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    (path,) = tmp_path.glob("wakegate-report-*Z.txt")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert "MODEL=qwen" in path.read_text() and "API_KEY=…" in path.read_text()
    assert secret not in path.read_text() + done.stdout
    assert "lines  Versions" in done.stdout and "read it before you send it" in done.stdout


def test_a_file_that_is_there_is_not_replaced_unless_it_is_said(tmp_path: Path) -> None:
    path = tmp_path / "mine.txt"
    path.write_text("mine")
    assert report(tmp_path, "-o", str(path)) == (1, f"{path} is there already; --force replaces it.\n")
    assert path.read_text() == "mine"
    assert report(tmp_path, "-o", str(path), "--force")[0] == 0
    assert path.read_text().startswith("WakeGate report")


def test_no_link_is_written_through(tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "elsewhere")
    assert report(tmp_path, "-o", str(link))[0] == 1
    assert report(tmp_path, "-o", str(link), "--force")[0] == 0
    assert not (tmp_path / "elsewhere").exists() and not link.is_symlink()


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    code, said = report(tmp_path, "-o", str(tmp_path / "nowhere" / "r.txt"))
    assert code == 1
    assert "cannot be written: No such file or directory; -o names another file." in said


def test_settings_that_are_wrong_make_a_report_too(tmp_path: Path) -> None:
    code, said = report(tmp_path, "-o", "-", PORT="eighty")
    assert code == 0
    assert 'PORT: "eighty" is not a port' in said
    assert not list(Path(os.curdir).glob("wakegate-report-*"))
