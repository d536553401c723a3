"""The console as a place: whole lines among other processes', and no harm from one that is gone."""

import io
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from gateway.records.logs.stdout import Console

SHARED = """
import sys
from gateway.records.logs.stdout import Console
console = Console()
word = sys.argv[1]
for batch in range(40):
    lines = "".join(f"<{word * (1 + (7 * number + batch) % 300)}>\\n" for number in range(100))
    assert console.write(lines.encode()) == len(lines)
"""


def test_two_processes_on_one_pipe_never_cut_each_others_lines() -> None:
    read, write = os.pipe()
    writers = [subprocess.Popen([sys.executable, "-c", SHARED, word], stdout=write) for word in "ab"]
    os.close(write)
    with os.fdopen(read) as pipe:
        lines = pipe.read().split("\n")
    assert [writer.wait(10) for writer in writers] == [0, 0]
    assert len(lines) == 2 * 40 * 100 + 1
    assert all(line[0] == "<" and line[-1] == ">" and len(set(line[1:-1])) == 1 for line in lines[:-1])


def test_a_pipe_that_somebody_made_non_blocking_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    read, write = os.pipe()
    os.set_blocking(write, False)
    data = b"".join(b"line %05d\n" % number for number in range(20_000))
    got = bytearray()

    def reads() -> None:
        while piece := os.read(read, 8192):
            got.extend(piece)

    reader = threading.Thread(target=reads)
    reader.start()
    with os.fdopen(write, "w") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        assert Console().write(data) == len(data)
    reader.join(5)
    os.close(read)
    assert bytes(got) == data


def test_a_closed_pipe_is_nobodys_trouble_but_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    read, write = os.pipe()
    os.close(read)
    console = Console()
    with open(write, "w", closefd=False) as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        assert console.write(b"one\ntwo\n") == 8
    os.close(write)
    assert console.trouble == "Broken pipe" and (console.lost_lines, console.lost_size) == (2, 8)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
def test_a_console_that_goes_to_a_full_disk_works_again_later(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    console = Console()
    with open("/dev/full", "w") as full, (tmp_path / "out").open("w") as out:
        monkeypatch.setattr(sys, "stdout", full)
        console.write(b"lost\n")
        assert console.trouble == "No space left on device"
        monkeypatch.setattr(sys, "stdout", out)
        console.write(b"kept\n")
        assert not console.trouble
    assert (tmp_path / "out").read_text() == "kept\n"


@pytest.mark.parametrize("stream", [None, io.StringIO()])
def test_any_stream_will_do(stream: io.StringIO | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """pythonw has none; tests have one without a descriptor."""
    console = Console()
    monkeypatch.setattr(sys, "stdout", stream)
    assert console.write("ünï\n".encode()) == 6
    assert stream is None or stream.getvalue() == "ünï\n"
