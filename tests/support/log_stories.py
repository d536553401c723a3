"""Stories of volumes that misbehave while lines are written, told in a mount namespace of their own.

    unshare -m python -m tests.support.log_stories STORY FOLDER

The volume `FOLDER/volume` is a tmpfs. Each story ends with `fine` or with the assertion that failed.
"""

import contextlib
import io
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gateway.records.boot_log import BootLog
from gateway.records.logs import Logs
from gateway.records.spent import SpentFolder
from tests.support.log_lines import FORMATS, STAMP, ended, missing_in, numbers_in, plan, segments, text_of


def sh(*words: str) -> None:
    subprocess.run(words, check=True)


def wait_until(holds: Callable[[], object], what: str, patience: float = 10) -> None:
    deadline = time.monotonic() + patience
    while not holds():
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.01)


class Load:
    """A gateway's logs on the volume, and requests that end all the time."""

    def __init__(self, folder: Path, size: str) -> None:
        self.store, self.volume = folder / "store", folder / "volume"
        for place in (self.store, self.volume):
            place.mkdir()
        sh("mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(self.store))
        self.mount()
        self.folder = self.volume / "logs" / "llama"
        self.logs = Logs(plan(self.volume, most_waiting=96 << 10), formats=FORMATS, redact=lambda text: text)
        self.logs.start()
        self.said = 0
        self.longest = 0.0

    def mount(self, *options: str) -> None:
        """With all its options from the first moment: a copy of a mount has them, while one that is changed later could
        be written in between."""
        source = self.store
        if options:
            source = self.store.with_name("with-options")
            source.mkdir()
            sh("mount", "--bind", str(self.store), str(source))
            sh("mount", "-o", ",".join(("remount", "bind", *options)), str(source))
        sh("mount", "--bind", str(source), str(self.volume))

    def unmount(self) -> None:
        sh("umount", "-l", str(self.volume))

    def requests(self, count: int) -> None:
        for _ in range(count):
            began = time.perf_counter()
            self.logs.request(ended(self.said))
            self.longest = max(self.longest, time.perf_counter() - began)
            self.said += 1
            if self.said % 50 == 0:
                time.sleep(0.01)

    def until(self, holds: Callable[[], object], what: str) -> None:
        """Requests go on meanwhile."""

        def step() -> object:
            self.requests(50)
            return holds()

        wait_until(step, what)

    def check(self, shown: str) -> None:
        """Every line stands in the files once, or was counted in the place where it is missing."""
        assert self.logs.close(5), repr(self.logs)
        text = "".join(text_of(path) for path in segments(self.folder))
        numbers = numbers_in(text)
        facts = self.logs.facts()
        assert numbers == sorted(set(numbers)), "in order, none twice"
        assert facts.dropped_lines == sum(missing_in(text)) > 0, (facts, missing_in(text))
        assert len(numbers) == self.said - facts.dropped_lines, (len(numbers), self.said, facts)
        assert all(line.startswith("T ") for line in text.splitlines()), "none is torn"
        assert self.longest < 0.5, f"a request waited {self.longest} s"
        assert "warning: logs in" in shown and "cannot be written" in shown and "are written again" in shown, shown


@contextlib.contextmanager
def console() -> Iterator[io.StringIO]:
    before, sys.stdout = sys.stdout, io.StringIO()
    try:
        yield sys.stdout
    finally:
        sys.stdout = before


def fills(folder: Path) -> None:
    """Somebody fills the volume; later there is room again."""
    with console() as shown:
        load = Load(folder, "1m")
        load.requests(500)
        assert load.logs.flush(5)
        ballast = load.store / "ballast"
        with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
            while True:
                file.write(b"x" * 4096)
        load.until(lambda: "No space left" in load.logs.facts().reason, "full")
        load.until(lambda: load.logs.facts().dropped_lines, "dropped")
        ballast.unlink()
        load.until(lambda: load.logs.facts().files_ok, "there is room again")
        load.requests(500)
        wait_until(lambda: "are written again" in shown.getvalue(), "said")
        load.check(shown.getvalue())


def turns_read_only(folder: Path) -> None:
    """The volume comes back read-only, as after an error on the disk, and is mended later. The other device stands for
    the error: to the one that we have open Linux would let us write on."""
    with console() as shown:
        load = Load(folder, "8m")
        load.requests(500)
        assert load.logs.flush(5)
        load.unmount()
        before, load.store = load.store, folder / "mended"
        load.store.mkdir()
        sh("mount", "-t", "tmpfs", "none", str(load.store))
        sh("cp", "-a", f"{before}/.", str(load.store))
        load.mount("ro")
        wait_until(lambda: "Read-only" in load.logs.facts().reason, "read-only, also when nothing is written")
        load.until(lambda: load.logs.facts().dropped_lines, "dropped")
        load.unmount()
        load.mount()
        load.until(lambda: load.logs.facts().files_ok, "it can be written again")
        load.requests(500)
        wait_until(lambda: "are written again" in shown.getvalue(), "said")
        load.check(shown.getvalue())


def vanishes(folder: Path) -> None:
    """The volume is unmounted under us: writes to the open file go on succeeding, and that is noticed. Nothing is
    written to the folder beneath."""
    with console() as shown:
        load = Load(folder, "8m")
        boot_log = BootLog(load.volume / "logs" / "_boot", STAMP)
        boot_log.note("before")
        spent = SpentFolder(load.volume / "state" / "spent", "w1")
        spent.write("2026-11", {"ann": 41})
        load.requests(500)
        assert load.logs.flush(5) and boot_log.flush(5)
        load.unmount()
        boot_log.note("meanwhile")
        assert boot_log.flush(5)
        assert spent.read().own == {}
        with pytest.raises(OSError, match="not mounted"):
            spent.write("2026-11", {"ann": 42})
        load.until(lambda: "not mounted" in load.logs.facts().reason, "gone")
        load.until(lambda: load.logs.facts().dropped_lines, "dropped")
        assert list(load.volume.iterdir()) == [], "nothing beneath"
        load.mount()
        assert spent.read().own == {"2026-11": {"ann": 41}}
        boot_log.try_again()
        assert boot_log.flush(5) and "before" in (story := boot_log.path.read_text()) and "meanwhile" in story
        load.until(lambda: load.logs.facts().files_ok, "it is back")
        load.requests(500)
        wait_until(lambda: "are written again" in shown.getvalue(), "said")
        load.check(shown.getvalue())
        assert (load.folder / "latest.txt").readlink() == Path(f"{STAMP}.txt")


def comes_late(folder: Path) -> None:
    """The volume is mounted over the folder after the start: the log moves to it by itself."""
    with console():
        volume = folder / "volume"
        volume.mkdir()
        logs = Logs(plan(volume), formats=FORMATS, redact=lambda text: text)
        logs.start()
        logs.say("before")
        assert logs.flush(5)
        sh("mount", "-t", "tmpfs", "none", str(volume))
        live = volume / "logs" / "llama" / f"{STAMP}.txt"

        def step() -> bool:
            logs.say("after")
            return live.exists() and "after" in live.read_text()

        wait_until(step, "on the volume")
        assert logs.close(5)


STORIES = {story.__name__: story for story in (fills, turns_read_only, vanishes, comes_late)}

if __name__ == "__main__":
    STORIES[sys.argv[1]](Path(sys.argv[2]))
    print("fine")
