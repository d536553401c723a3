"""A program that reads a file as a slow disk would give it, and then becomes another program: an engine's start that
takes a visible time, whatever the machine's own disk is like.

    python slow_disk.py FILE BYTES_PER_SECOND PROGRAM [ARGUMENTS]
    python slow_disk.py FILE FOLDER PROGRAM [ARGUMENTS]     # a quarter for each file that appears there: 1, 2, 3, 4

What it reads stays in the page cache, where the program finds it.
"""

import os
import sys
import time
from pathlib import Path

PIECE = 4 << 20


def read(path: str, begin: int, end: int) -> None:
    with Path(path).open("rb", buffering=0) as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)  # no more than is asked for
        file.seek(begin)
        while (at := file.tell()) < end and file.read(min(PIECE, end - at)):
            pass


def by_speed(path: str, size: int, speed: float) -> None:
    began = time.monotonic()
    for begin in range(0, size, PIECE):
        read(path, begin, min(size, begin + PIECE))
        time.sleep(max(0.0, began + begin / speed - time.monotonic()))


def when_told(path: str, size: int, folder: Path) -> None:
    for quarter in range(1, 5):
        while not (folder / str(quarter)).exists():
            time.sleep(0.01)
        read(path, size * (quarter - 1) // 4, size * quarter // 4)


def main(file: str, pace: str, *program: str) -> None:
    size = Path(file).stat().st_size
    print(f"load_model: loading model '{file}'", flush=True)  # as llama-server says it
    if pace.isdigit():
        by_speed(file, size, float(pace))
    else:
        when_told(file, size, Path(pace))
    os.execvp(program[0], program)


if __name__ == "__main__":
    main(*sys.argv[1:])
