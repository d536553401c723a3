"""Which log files have to go, so that all logs of all boots and workers on a volume stay under their cap. Pure.

Nobody coordinates the workers of a volume: each looks, and removes the oldest that nobody writes to. That is safe
because all look by the same rules: who comes second finds the file gone. Three rules keep the sum under the cap at all
times, not only after a look:

1. A live file counts with the size that it may grow to.
2. That size is at most LOG_MAX_SIZE, and at most half the cap divided by the number of live files: the more workers,
   the sooner they rotate. So live files never take more than half, and the other half is history.
3. A file counts with whole blocks of 4 KiB, so that a hundred thousand tiny ones are not nothing.

What may lie above the cap: what workers write that began since everybody's last look, what an engine prints within
ten seconds beyond its share (its guard rotates by itself), the compressed half of a file while the other half still
stands beside it, and live files beyond half the cap where there are so many that each has only `LEAST`.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace

from gateway.records.logs.names import LATEST, Name

LIVE = 600.0
"""Seconds without a touch after which a file counts as nobody's. Live ones are touched each minute: ten times that
leaves room for clocks that disagree, and for a worker that was paused."""
SETTLED = 30.0
"""Seconds after which the engine's guard has surely seen that its file was moved: it looks every five."""
LEAST = 64 << 10
"""No live file is made to rotate below this."""
BLOCK = 4096


@dataclass(frozen=True, slots=True)
class Entry:
    """One file of ours, as a look at its folder showed it."""

    folder: str
    file: str
    name: Name
    size: int
    mtime: float
    inode: int = 0
    is_held: bool = False
    """Somebody was seen to hold its lock. (That nobody is seen means nothing: network volumes often know only their own
    machine's locks.)"""

    @property
    def room(self) -> int:
        return -(-max(self.size, 1) // BLOCK) * BLOCK

    def since(self, now: float) -> float:
        """How old what stands in it is: when it was rotated, or written last. A time to come (a clock was wrong) counts
        as now."""
        return min(self.name.when if self.name.when is not None else self.mtime, now)


def is_live(entry: Entry, now: float, ours: Collection[str]) -> bool:
    """Whether somebody may be writing to it. `ours`: stamps of this boot."""
    if entry.is_held or entry.file == LATEST:
        return True
    if entry.name.is_rotated:
        return False
    # A time far ahead is not a sign of life: a file of a clock that was wrong once would stay forever.
    return (entry.name.stamp in ours and not entry.name.is_unfinished) or abs(now - entry.mtime) < LIVE


def limit_of_one(cap: int, live: int, max_size: int) -> int:
    """How large each of so many live files may be."""
    return max(LEAST, min(max_size, cap // (2 * max(live, 1))))


def count_live(entries: Iterable[Entry], now: float, ours: Collection[str]) -> int:
    """Files that somebody may be writing lines to."""
    return sum(is_live(entry, now, ours) and entry.file != LATEST and not entry.name.is_unfinished for entry in entries)


def what_to_remove(
    entries: Collection[Entry], cap: int, now: float, ours: Collection[str], max_size: int
) -> list[Entry]:
    """The oldest that nobody writes to, until the rest fits; and what a dead process left half made. Oldest first."""
    limit = limit_of_one(cap, count_live(entries, now, ours), max_size)
    taken = 0
    leftovers: list[Entry] = []
    removable: list[Entry] = []
    for entry in entries:
        if is_live(entry, now, ours):
            taken += entry.room if entry.name.is_unfinished or entry.file == LATEST else max(entry.room, limit)
        elif entry.name.is_unfinished:
            leftovers.append(entry)
        else:
            removable.append(entry)
            taken += entry.room
    going: list[Entry] = []
    for entry in sorted(removable, key=lambda entry: (entry.since(now), entry.folder, entry.file)):
        if taken <= cap:
            break
        taken -= entry.room
        going.append(entry)
    return leftovers + going


def what_to_compress(entries: Iterable[Entry], now: float, ours: Collection[str]) -> list[Entry]:
    """Rotated files that are not compressed yet: ours, and those whose worker has been gone for long. Oldest first."""
    waiting = [
        entry
        for entry in entries
        if entry.name.is_rotated
        and not entry.name.is_compressed
        and not entry.is_held
        and _is_nobodys(entry, now, ours)
    ]
    return sorted(waiting, key=lambda entry: entry.since(now))


def _is_nobodys(entry: Entry, now: float, ours: Collection[str]) -> bool:
    """Whether a rotated file is ours to compress. Each worker does its own; those of the dead are anybody's, later."""
    if entry.name.stamp in ours and not entry.name.is_engine:
        return True
    return now - max(entry.mtime, entry.since(now)) >= (SETTLED if entry.name.stamp in ours else LIVE)


def held(entry: Entry) -> Entry:
    return replace(entry, is_held=True)
