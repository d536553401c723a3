"""The gateway as it is, with something in its process that looks at it when it is told to (SIGUSR1).

    python -m bench.profiled calls FOLDER     the first signal begins to count calls, the second ends it (cProfile)
    python -m bench.profiled memory FOLDER    each signal writes down what is allocated, by which line (tracemalloc)

Settings come from the environment, as start.sh's do. What was found is in FOLDER when its file is: seen-1, seen-2, …
Until the first signal `calls` costs nothing. Started by bench/profile.py.
"""

import cProfile
import gc
import json
import signal
import sys
import tracemalloc
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import gateway.process  # noqa: F401 - modules are of no stream, and slow to import when each allocation is noted
from gateway.__main__ import main


def seen(folder: Path, number: int) -> Path:
    """Where the answer to the signal of this number stands."""
    return folder / f"seen-{number}"


class Calls:
    """An answer is pstats' own; the first one is empty."""

    def __init__(self) -> None:
        self._profile = cProfile.Profile()
        self._counts = False

    def look(self, path: Path) -> Callable[[], None] | None:
        """Returns what is left to be done when the answer is there."""
        self._profile.disable()
        if self._counts:
            self._profile.dump_stats(path)
            return None
        self._counts = True
        path.touch()
        return self._profile.enable


class Memory:
    """An answer is JSON: `lines`, bytes and blocks by "path:line", and `types`, objects that the collector knows."""

    def __init__(self) -> None:
        tracemalloc.start()

    def look(self, path: Path) -> None:
        gc.collect()
        lines = {
            f"{each.traceback[0].filename}:{each.traceback[0].lineno}": (each.size, each.count)
            for each in tracemalloc.take_snapshot().statistics("lineno")
        }
        types = Counter(type(each).__name__ for each in gc.get_objects())
        path.write_text(json.dumps({"lines": lines, "types": types}), "utf-8")


KINDS: dict[str, Callable[[], Calls | Memory]] = {"calls": Calls, "memory": Memory}


def arm(kind: str, folder: Path) -> None:
    looker = KINDS[kind]()
    number = 0

    def on_signal(*_: object) -> None:
        nonlocal number
        number += 1
        unfinished = folder / "unfinished"
        after = looker.look(unfinished)
        unfinished.rename(seen(folder, number))
        if after is not None:
            after()

    signal.signal(signal.SIGUSR1, on_signal)


if __name__ == "__main__":
    arm(sys.argv[1], Path(sys.argv[2]))
    del sys.argv[1:]  # or the gateway would take them for a command line
    sys.exit(main())
