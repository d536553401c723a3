"""A ledger's life, once for each system call that can be its last one. Run under strace, which is told to kill whoever
makes a call of this kind for the `AT`-th time, or to let that call fail:

    strace -f -e inject=pwrite64,…:signal=KILL:when=48 python ledger_crashes.py FOLDER network|local [CALL=COUNT …]

Each life is a child of its own, with its own counters (strace has them by process and kind of call). One that is to
reach the mark at its third write makes 45 empty ones first. So one start of Python and of strace is enough for all.
In `FOLDER/CALL-N/` stands the ledger, and `said`, what the child knew when it ended: `.` for each line that counts,
`!` for one that failed. Without counts, as many lives as it takes until one comes to its end.
"""

import itertools
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

from gateway.policy.books import Entry
from gateway.records.ledger.base import LedgerError
from gateway.records.ledger.sqlite import LedgerFile, usual_path

AT = 48
"""More than any life makes of one kind."""
CALLS = ("mkdir", "pwrite64", "fsync", "fdatasync", "ftruncate", "unlink")
"""All that change something, but for opening what is not there yet: who dies there has changed what came before."""
LIVES = (2, 1, 1)
"""Lines in each of three openings; the second one ends without a word, and leaves its log."""


def line(number: int) -> Entry:
    return Entry("said", 1_000 + number, why="x" * 40)


def live(folder: Path, said: int, *, network: bool, crashes: bool) -> None:
    """Write lines. Who is killed says no more; who meets errors goes on after them, as a gateway does."""
    seq = 0
    for life, lines in enumerate(LIVES):
        file = LedgerFile(usual_path(folder), network=network)
        for _ in range(lines):
            for _ in range(4):
                try:
                    seq = len(file.read())
                    if file.append(line(seq), seq):
                        os.write(said, b".")
                        break
                except LedgerError:
                    if crashes:
                        raise
                    os.write(said, b"!")
        if life == 1:
            os.close(file._lock)  # type: ignore[arg-type]  # as if it had been killed
            file._db = None
            continue
        file.close()


def dummy(call: str, folder: Path, fd: int) -> Callable[[], object]:
    """One call of this kind that does nothing."""

    def fails(work: Callable[[], object]) -> Callable[[], None]:
        def tried() -> None:
            try:
                work()
            except OSError:
                pass

        return tried

    return {
        "mkdir": fails(lambda: os.mkdir(folder)),
        "pwrite64": lambda: os.pwrite(fd, b"", 0),
        "fsync": lambda: os.fsync(fd),
        "fdatasync": lambda: os.fdatasync(fd),
        "ftruncate": lambda: os.ftruncate(fd, 0),
        "unlink": fails(lambda: os.unlink(folder / "nothing")),
    }[call]


def one(folder: Path, call: str, number: int, *, network: bool, crashes: bool) -> bool:
    """Whether it came to its end."""
    if number >= AT:
        raise RuntimeError(f"a life makes more calls of {call} than there is room for")
    child = os.fork()
    if child == 0:
        try:
            folder.mkdir()
            said = os.open(folder / "said", os.O_WRONLY | os.O_CREAT, 0o600)
            work = dummy(call, folder, os.open(folder / "empty", os.O_WRONLY | os.O_CREAT, 0o600))
            for _ in range(AT - number - (call == "mkdir")):
                work()
            live(folder, said, network=network, crashes=crashes)
            os._exit(0)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    if os.WIFEXITED(status) and os.WEXITSTATUS(status):
        raise RuntimeError(f"{folder} failed by itself")
    return os.WIFEXITED(status)


def main(folder: str, kind: str, *counts: str) -> None:
    network = kind == "network"
    asked = dict(count.split("=") for count in counts)
    for call in CALLS:
        for number in range(1, int(asked.get(call, 0)) + 1) if asked else itertools.count(1):
            ended = one(Path(folder) / f"{call}-{number}", call, number, network=network, crashes=not asked)
            if ended and not asked:
                break


if __name__ == "__main__":
    main(*sys.argv[1:])
