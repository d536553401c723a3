"""The console as a place for lines. It may be a pipe that nobody empties: only this room's own thread waits for it.

On a terminal one line may be live: it stands below all others, is rewritten as often as one likes, and is out of the
way while a line is printed. It comes as a line that begins with a carriage return, as no other line does.

Several processes share one console (start.sh, health, gateway). A write of up to 4096 bytes to a pipe is whole or not
at all (PIPE_BUF, pipe(7)), so lines go out in such pieces and no other process' line cuts one.
"""

import os
import select
import stat
import sys

WHOLE = 4096
"""PIPE_BUF of Linux."""
AT_ONCE = 64 << 10
LIVE = b"\r"
CLEARED = b"\r\x1b[K"
"""Back to the line's beginning, and nothing more in it (EL, ECMA-48)."""


class Console:
    """`sys.stdout`, looked at anew for each write: tests and embedders replace it."""

    def __init__(self) -> None:
        self.trouble = ""
        self._torn = False
        """Whether the last line that got out lacks its end."""
        self.lost_lines = 0
        self.lost_size = 0
        self._live = b""
        """What stands in the live line."""

    @property
    def is_terminal(self) -> bool:
        fd = self._descriptor()
        try:
            return fd is not None and os.isatty(fd) and os.environ.get("TERM") != "dumb"
        except OSError:
            return False

    def __repr__(self) -> str:
        return f"<Console {self.trouble or 'fine'}>"

    def write(self, data: bytes) -> int:
        """Always all of it: what a closed console does not take is nobody's to wait for, and only counted."""
        fd = self._descriptor()
        try:
            if fd is None:
                sys.stdout.write(data.decode("utf-8", "replace"))
                sys.stdout.flush()
            else:
                self._write_lines(fd, self._around_the_live_line(b"\n" + data if self._torn else data, fd))
            self.trouble, self._torn = "", False
        except (OSError, ValueError, AttributeError) as error:
            self.trouble = (error.strerror if isinstance(error, OSError) else None) or str(error)
            self.lost_lines += data.count(b"\n")
            self.lost_size += len(data)
        return len(data)

    def look(self) -> None:
        pass  # nothing about a console ages

    def close(self) -> None:
        """It is not ours, but for the live line."""
        if self._live:
            self.write(LIVE + b"\n")

    def _around_the_live_line(self, data: bytes, fd: int) -> bytes:
        if not self._live and LIVE not in data:
            return data
        shown, lines = self._live, data.split(b"\n")[:-1]
        for line in lines:
            if line.startswith(LIVE):
                self._live = line[1:]
        others = b"".join(line + b"\n" for line in lines if not line.startswith(LIVE))
        return (CLEARED if shown else b"") + others + cut(self._live, fd)

    @staticmethod
    def _descriptor() -> int | None:
        """None for a stream that is none of the system's, such as a test's."""
        try:
            return sys.stdout.fileno()
        except (OSError, ValueError, AttributeError):
            return None

    def _write_lines(self, fd: int, data: bytes) -> None:
        most = WHOLE if stat.S_ISFIFO(os.fstat(fd).st_mode) else AT_ONCE
        view = memoryview(data)
        while view:
            end = len(view)
            if end > most:
                end = data.rfind(b"\n", len(data) - len(view), len(data) - len(view) + most) + 1
                end = end - (len(data) - len(view)) if end else most
            try:
                written = os.write(fd, view[:end])
            except BlockingIOError:
                # Somebody who shares the terminal or pipe with us made it non-blocking. We have time.
                poll = select.poll()
                poll.register(fd, select.POLLOUT)
                poll.poll(1000)
                continue
            self._torn = data[len(data) - len(view) + written - 1] != 0x0A
            view = view[written:]


def cut(line: bytes, fd: int) -> bytes:
    """As much as fits: a line that goes on in the next row could not be rewritten."""
    try:
        columns = os.get_terminal_size(fd).columns or 80
    except OSError:
        columns = 80
    return line.decode("utf-8", "replace")[: columns - 1].encode()
