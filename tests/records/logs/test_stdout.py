"""The console as a place: whole lines among other processes', and no harm from one that is gone."""

import fcntl
import io
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Iterator
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


# --- the live line


class Terminal:
    """A pseudo terminal, and what stands on its screen."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, columns: int = 80) -> None:
        self.ours, self.theirs = pty.openpty()
        fcntl.ioctl(self.theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        self.stream = open(self.theirs, "w", closefd=False)  # noqa: SIM115 - closed below
        self._monkeypatch = monkeypatch
        self.sent = b""

    def console(self) -> Console:
        """In the test itself: pytest replaces the stream between its phases."""
        self._monkeypatch.setattr(sys, "stdout", self.stream)
        self._monkeypatch.setenv("TERM", "xterm")
        return Console()

    def close(self) -> None:
        self.stream.close()
        os.close(self.theirs)
        os.close(self.ours)

    @property
    def screen(self) -> list[str]:
        os.set_blocking(self.ours, False)
        try:
            while piece := os.read(self.ours, 65536):
                self.sent += piece
        except BlockingIOError:
            pass  # nothing more
        rows, column = [""], 0
        for part in re.split(r"(\x1b\[K|\r|\n)", self.sent.decode()):
            if part == "\n":
                rows.append("")
                column = 0
            elif part == "\r":
                column = 0
            elif part == "\x1b[K":
                rows[-1] = rows[-1][:column]
            else:
                rows[-1] = rows[-1][:column] + part + rows[-1][column + len(part) :]
                column += len(part)
        return rows


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[Terminal]:
    made = Terminal(monkeypatch, columns=30)
    yield made
    made.close()


def test_the_live_line_is_rewritten_in_place(terminal: Terminal) -> None:
    console = terminal.console()
    assert console.is_terminal
    console.write(b"one\n\r#--- 25%\n")
    console.write(b"\r##-- 50%\n\r### 75%\n")
    assert terminal.screen == ["one", "### 75%"]


def test_lines_are_printed_above_the_live_line_and_whole(terminal: Terminal) -> None:
    console = terminal.console()
    console.write(b"\r##-- 50%, a long live line\n")
    console.write(b"two\nthree\n")
    assert terminal.screen == ["two", "three", "##-- 50%, a long live line"]


def test_an_empty_live_line_is_none(terminal: Terminal) -> None:
    console = terminal.console()
    console.write(b"\r##-- 50%\n")
    console.write(b"\r\nREADY\n")
    assert terminal.screen == ["READY", ""]
    console.write(b"more\n")
    assert terminal.screen == ["READY", "more", ""]


def test_a_live_line_is_cut_to_the_terminals_width(terminal: Terminal) -> None:
    terminal.console().write(b"\r" + b"#" * 300 + b"\n")
    assert terminal.screen == ["#" * 29]


def test_the_live_line_ends_with_the_console(terminal: Terminal) -> None:
    console = terminal.console()
    console.write(b"\r##-- 50%\n")
    console.close()
    assert terminal.screen == [""]


def test_a_pipe_a_dumb_terminal_and_a_closed_stream_are_no_terminals(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert terminal.console().is_terminal
    monkeypatch.setenv("TERM", "dumb")
    assert not Console().is_terminal
    monkeypatch.setattr(sys, "stdout", None)
    assert not Console().is_terminal
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    assert not Console().is_terminal
