"""The ledger in a file: a line that counted is there whatever dies, and a ledger that was changed is never believed."""

import ast
import asyncio
import errno
import os
import random
import re
import shutil
import sqlite3
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from gateway.policy.books import Entry
from gateway.records.ledger.base import LedgerDamaged, LedgerError, LedgerLate, LedgerTaken
from gateway.records.ledger.sqlite import LedgerFile, SqliteLedger, look, usual_path
from tests.support import ledger_crashes
from tests.support.ledger_crashes import AT, CALLS, line

ROOT = Path(__file__).parents[3]
CHANGING = ",".join(CALLS)


def kept(folder: Path, lines: int, *, closed: bool = True) -> Path:
    """A ledger of so many lines in this folder; not closed, its last ones are in its log."""
    file = LedgerFile(usual_path(folder))
    for number in range(lines):
        assert file.append(line(number), number)
    if closed:
        file.close()
    else:
        copy = folder.with_name(folder.name + " as it was left")
        shutil.copytree(folder, copy)
        file.close()
        shutil.rmtree(folder)
        copy.rename(folder)
    return file.path


def edit(path: Path, order: str, *values: object) -> None:
    with sqlite3.connect(path) as db:
        db.execute(order, values)
    db.close()


def open_and_read(folder: Path) -> list[Entry]:
    file = LedgerFile(usual_path(folder))
    try:
        return file.read()
    finally:
        file.close()


# -- whose it is


def test_only_its_owner_can_read_it(tmp_path: Path) -> None:
    path = kept(tmp_path, 1, closed=False)
    for found in path.parent.iterdir():
        assert stat.S_IMODE(found.stat().st_mode) & 0o177 == 0, found


def test_another_gateway_is_told_that_it_is_taken_until_the_first_one_ends(tmp_path: Path) -> None:
    first, second = LedgerFile(usual_path(tmp_path)), LedgerFile(usual_path(tmp_path))
    assert first.append(line(0), 0)
    with pytest.raises(LedgerTaken):
        second.read()
    with pytest.raises(LedgerTaken):
        second.append(line(1), 1)
    first.close()
    assert second.read() == [line(0)]
    second.close()


def test_somebody_may_look_at_it_meanwhile_and_changes_nothing(tmp_path: Path) -> None:
    assert look(usual_path(tmp_path)) is None
    file = LedgerFile(usual_path(tmp_path))
    file.append(line(0), 0)
    assert look(usual_path(tmp_path)) == [line(0)]
    assert file.append(line(1), 1)
    file.close()
    assert look(usual_path(tmp_path)) == [line(0), line(1)]


def test_who_only_looks_finds_damage_too(tmp_path: Path) -> None:
    path = kept(tmp_path, 2)
    edit(path, "UPDATE entries SET amount = 5 WHERE seq = 2")
    with pytest.raises(LedgerDamaged):
        look(usual_path(tmp_path))


# -- damage


@pytest.mark.parametrize(
    ("order", "said"),
    [
        ("UPDATE entries SET amount = amount + 1 WHERE seq = 2", "line 2 is not what was written"),
        ("UPDATE entries SET why = why || '!' WHERE seq = 3", "line 3 is not what was written"),
        ("UPDATE entries SET amount = 1.5 WHERE seq = 1", "line 1 is not what was written"),
        ("DELETE FROM entries WHERE seq = 2", "line 2 is missing"),
        ("DELETE FROM entries WHERE seq = 1", "line 1 is missing"),
        ("UPDATE entries SET seq = 9 WHERE seq = 3", "line 3 is missing"),
        ("ALTER TABLE entries DROP COLUMN why", "line 1 is not what was written"),
        ("DROP TABLE entries", "no ledger of ours"),
        ("PRAGMA application_id = 5", "no ledger of ours"),
    ],
)
def test_a_ledger_that_somebody_changed_is_not_believed(tmp_path: Path, order: str, said: str) -> None:
    path = kept(tmp_path, 3)
    edit(path, order)
    if order == "DROP TABLE entries":
        edit(path, "PRAGMA application_id = 5")
    with pytest.raises(LedgerDamaged, match=said):
        open_and_read(tmp_path)


def test_who_reads_on_from_somewhere_is_told_of_damage_before_it(tmp_path: Path) -> None:
    edit(kept(tmp_path, 3), "UPDATE entries SET amount = 5 WHERE seq = 1")
    file = LedgerFile(usual_path(tmp_path))
    with pytest.raises(LedgerDamaged):
        file.read(2)
    file.close()


def test_a_damaged_one_stays_as_it_is_and_is_copied_once(tmp_path: Path) -> None:
    path = kept(tmp_path, 3)
    edit(path, "UPDATE entries SET amount = 5 WHERE seq = 2")
    before = path.read_bytes()
    for _ in range(2):
        with pytest.raises(LedgerDamaged):
            open_and_read(tmp_path)
    assert path.read_bytes() == before
    copy = path.with_name("wakegate.sqlite.damaged")
    assert copy.read_bytes() == before and stat.S_IMODE(copy.stat().st_mode) == 0o600


def test_nothing_is_added_to_a_damaged_one(tmp_path: Path) -> None:
    path = kept(tmp_path, 3)
    edit(path, "UPDATE entries SET amount = 5 WHERE seq = 2")
    file = LedgerFile(usual_path(tmp_path))
    for seq in (0, 3):
        with pytest.raises(LedgerDamaged):
            file.append(line(seq), seq)
    file.close()


def test_a_bit_that_flips_anywhere_in_it_is_found_or_changes_nothing(tmp_path: Path) -> None:
    path = kept(tmp_path / "whole", 12)
    whole, chance, found = path.read_bytes(), random.Random(5), 0
    for number in range(60):
        bit = chance.randrange(len(whole) * 8)
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        folder = tmp_path / str(number)
        shutil.copytree(path.parent, folder / "state")
        (folder / "state" / path.name).write_bytes(flipped)
        try:
            assert open_and_read(folder) == [line(one) for one in range(12)], f"bit {bit} is not found"
        except LedgerError:
            found += 1
    assert found > 10


@pytest.mark.parametrize("text", [b"not a database, but long enough to be one" * 40, b"\0" * 8192])
def test_what_is_no_ledger_at_all_is_not_begun_anew(tmp_path: Path, text: bytes) -> None:
    path = kept(tmp_path, 1)
    path.write_bytes(text)
    with pytest.raises(LedgerDamaged):
        open_and_read(tmp_path)
    assert path.read_bytes() == text


def test_a_folder_or_a_link_in_its_place_is_refused(tmp_path: Path) -> None:
    path = kept(tmp_path, 1)
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")
    with pytest.raises(LedgerError):
        open_and_read(tmp_path)
    path.unlink()
    path.mkdir()
    with pytest.raises(LedgerError):
        open_and_read(tmp_path)


def test_a_newer_versions_is_left_alone(tmp_path: Path) -> None:
    path = kept(tmp_path, 1)
    edit(path, "PRAGMA user_version = 2")
    with pytest.raises(LedgerError, match="newer version") as raised:
        open_and_read(tmp_path)
    assert not isinstance(raised.value, LedgerDamaged)


# -- what happens to the file while it is open


def test_one_that_is_gone_is_not_begun_anew_by_who_knew_it(tmp_path: Path) -> None:
    path = kept(tmp_path, 2)
    file = LedgerFile(usual_path(tmp_path))
    assert len(file.read()) == 2
    for found in list(path.parent.glob("wakegate.sqlite*")):
        found.unlink()
    for _ in range(2):
        with pytest.raises(LedgerError):
            file.append(line(2), 2)
    assert not path.exists()
    file.close()


def test_an_older_one_in_its_place_is_not_believed_by_who_knew_more(tmp_path: Path) -> None:
    path = kept(tmp_path, 2)
    older = path.read_bytes()
    file = LedgerFile(usual_path(tmp_path))
    assert file.append(line(2), 2)
    other = path.with_name("other")
    other.write_bytes(older)
    other.replace(path)
    for left in path.parent.glob("wakegate.sqlite-*"):
        left.unlink()
    for _ in range(2):
        with pytest.raises(LedgerError):
            file.append(line(3), 3)
    file.close()


def test_a_new_one_is_found_where_the_old_one_was_taken_away_between_two_runs(tmp_path: Path) -> None:
    """Whether the vendor has bills of ours is asked then; nobody here knows that there was one."""
    kept(tmp_path, 2).unlink()
    assert open_and_read(tmp_path) == []


def test_a_folder_that_cannot_be_written_is_an_error_that_is_tried_again(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("in its way")
    file = LedgerFile(usual_path(tmp_path))
    with pytest.raises(LedgerError):
        file.read()
    (tmp_path / "state").unlink()
    assert file.read() == []
    file.close()


def test_a_volume_without_locks_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(fd: int, kind: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("gateway.records.ledger.sqlite.fcntl.flock", none)
    with pytest.raises(LedgerError, match="no locks"):
        open_and_read(tmp_path)


# -- waiting for it


class Hanging:
    """A disk that does nothing until it is told to."""

    def __init__(self) -> None:
        self.jobs: list[Callable[[], None]] = []

    def __call__(self, job: Callable[[], None]) -> None:
        self.jobs.append(job)

    def go_on(self) -> None:
        while self.jobs:
            self.jobs.pop(0)()


async def test_a_disk_that_hangs_is_an_error_in_time_and_a_line_that_nobody_waits_for_is_not_written(
    tmp_path: Path,
) -> None:
    disk = Hanging()
    ledger = SqliteLedger(usual_path(tmp_path), within=0.01, run=disk)
    with pytest.raises(LedgerLate):
        await ledger.append(line(0), 0)
    disk.go_on()
    assert open_and_read(tmp_path) == []


async def test_a_line_whose_writer_was_cancelled_before_it_began_is_not_written(tmp_path: Path) -> None:
    disk = Hanging()
    ledger = SqliteLedger(usual_path(tmp_path), within=60, run=disk)
    writing = asyncio.ensure_future(ledger.append(line(0), 0))
    await asyncio.sleep(0)
    writing.cancel()
    await asyncio.wait({writing})
    disk.go_on()
    assert open_and_read(tmp_path) == []


async def test_closing_waits_for_no_disk_that_hangs(tmp_path: Path) -> None:
    await SqliteLedger(usual_path(tmp_path), within=0.01, run=Hanging()).close()


async def test_a_line_that_came_late_is_seen_by_the_next_one(tmp_path: Path) -> None:
    """It had begun when its time was over: nobody knew, so the next line is refused until all is read."""
    jobs: list[Callable[[], None]] = []
    ledger = SqliteLedger(usual_path(tmp_path), within=60, run=jobs.append)
    writing = asyncio.ensure_future(ledger.append(line(0), 0))
    await asyncio.sleep(0)
    jobs.pop()()
    writing.cancel()
    await asyncio.wait({writing})

    late = asyncio.ensure_future(ledger.append(line(0), 0))
    await asyncio.sleep(0)
    jobs.pop()()
    assert await late is False
    reading = asyncio.ensure_future(ledger.read())
    await asyncio.sleep(0)
    jobs.pop()()
    assert await reading == [line(0)]
    closing = asyncio.ensure_future(ledger.close())
    await asyncio.sleep(0)
    jobs.pop()()
    await closing


# -- whatever dies


@pytest.fixture(scope="module")
def fast() -> Iterator[Path]:
    """A folder in memory where there is one: which call was the last is the same there, and a disk takes its time."""
    memory = Path("/dev/shm")
    folder = tempfile.mkdtemp(dir=memory if os.access(memory, os.W_OK) else None)
    yield Path(folder)
    shutil.rmtree(folder)


def strace(*arguments: str) -> None:
    done = subprocess.run(
        ["strace", "-f", "-qq", *arguments], cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True
    )
    assert done.returncode == 0, done.stderr.decode()[-2000:]


def lives(folder: Path, fault: str, kind: str, *counts: str) -> list[Path]:
    """Each life's folder, after a fault at each call of each kind."""
    program = (sys.executable, ledger_crashes.__file__, str(folder), kind, *counts)
    calls = ("-e", f"trace={CHANGING}", "-e", f"inject={CHANGING}:{fault}:when={AT}")
    strace("-o", os.devnull, *calls, *program)
    return sorted(folder.iterdir())


def check(folder: Path, *, counted: int, at_most: int) -> None:
    file = LedgerFile(usual_path(folder))
    lines = file.read()
    assert lines == [line(number) for number in range(len(lines))]
    assert counted <= len(lines) <= at_most, f"{len(lines)} lines, and {counted} had counted"
    assert file.append(line(len(lines)), len(lines)), "it does not go on"
    file.close()
    assert not list(folder.glob("state/*.damaged*"))


@pytest.fixture
def can_trace() -> None:
    if subprocess.run(["strace", "-qq", "-o", os.devnull, "true"], capture_output=True).returncode:
        pytest.skip("strace may trace nobody here")


@pytest.mark.parametrize("kind", ["local", pytest.param("network", marks=pytest.mark.crashes)])
def test_killed_at_any_system_call_it_has_every_line_that_counted(can_trace: None, fast: Path, kind: str) -> None:
    """One that was on its way may be there or not; either way it goes on from there."""
    folder = fast / kind
    folder.mkdir()
    found = lives(folder, "signal=KILL", kind)
    assert len(found) > 50, "too few calls were the last one"
    for life in found:
        counted = (life / "said").read_text().count(".") if (life / "said").exists() else 0
        check(life, counted=counted, at_most=counted + 1)


@pytest.mark.parametrize(
    ("error", "counts"),
    [
        ("EIO", ("fdatasync=20", "fsync=3")),
        pytest.param("EIO", ("pwrite64=40", "ftruncate=8", "unlink=3"), marks=pytest.mark.crashes),
        pytest.param("ENOSPC", ("pwrite64=40", "ftruncate=8", "mkdir=3"), marks=pytest.mark.crashes),
    ],
    ids=["syncs", "writes", "full"],
)
def test_after_an_error_of_any_system_call_it_goes_on_and_has_every_line_that_counted(
    can_trace: None, fast: Path, error: str, counts: tuple[str, ...]
) -> None:
    folder = fast / f"{error} {counts[0]}"
    folder.mkdir()
    failed = 0
    for life in lives(folder, f"error={error}", "local", *counts):
        said = (life / "said").read_text() if (life / "said").exists() else "...."
        assert said.count(".") == sum(ledger_crashes.LIVES), f"{life.name} gave up: {said}"
        failed += "!" in said
        check(life, counted=4, at_most=4 + said.count("!"))
    assert failed > 15, "hardly any error was noticed"


# -- power cuts


@dataclass
class File:
    """What one file holds, and what of it would survive now."""

    now: bytearray = field(default_factory=bytearray)
    safe: bytes = b""
    since: list[tuple[int, bytes | None]] = field(default_factory=list)
    """Writes (offset, bytes) and cuts (length, None) that are not synced."""

    def change(self, offset: int, data: bytes | None) -> None:
        self.since.append((offset, data))
        _apply(self.now, offset, data)


def _apply(content: bytearray, offset: int, data: bytes | None) -> None:
    end = offset + len(data or b"")
    content.extend(b"\0" * (end - len(content)))
    if data is None:
        del content[offset:]
    else:
        content[offset:end] = data


class Disk:
    """A disk that a program writes to, replayed from its trace. What was not synced may be there or not, by sectors."""

    EVENT = re.compile(r"^(?:\d+ +)?(\w+)\((.*)\) += (-?\d+)(<[^>]*>)?")
    PATH = re.compile(r'[<"]([^<>"]*/state(?:/[^<>"/]*)?)[>"]')
    DATA = re.compile(r'"((?:[^"\\]|\\.)*)"')
    SECTOR = 512

    def __init__(self, folder: Path) -> None:
        self._folder = str(folder)
        self.names: dict[str, File] = {}
        self.safe_names: dict[str, File] = {}
        self.counted = 0

    def happen(self, event: str) -> bool:
        """Whether it changed anything here."""
        found = self.EVENT.match(event)
        if found is None or int(found[3]) < 0:
            return False
        call, arguments = found[1], found[2]
        if call == "write":
            self.counted += '"."' in arguments
            return '"."' in arguments
        path = self.PATH.search(found[4] or arguments if call == "openat" else arguments)
        if path is None or not path[1].startswith(self._folder):
            return False
        name = path[1].rpartition("/state")[2].lstrip("/")
        if name.endswith((".lock", "-shm")):
            return False  # neither says anything to who opens it after a power cut
        return self._change(call, name, arguments, int(found[3]))

    def _change(self, call: str, name: str, arguments: str, result: int) -> bool:
        if call == "openat":
            if "O_CREAT" not in arguments or name in self.names:
                return False
            self.names[name] = File()
        elif call == "unlink":
            del self.names[name]
        elif call in ("fsync", "fdatasync") and name:
            self.names[name].safe, self.names[name].since = bytes(self.names[name].now), []
        elif call in ("fsync", "fdatasync"):
            self.safe_names = dict(self.names)
        elif call == "ftruncate":
            self.names[name].change(int(arguments.rpartition(" ")[2]), None)
        elif call == "pwrite64":
            text = self.DATA.search(arguments)
            assert text is not None
            data = ast.literal_eval(f'b"{text[1]}"')
            assert len(data) == result, "the trace is cut short"
            self.names[name].change(int(arguments.rpartition(" ")[2]), data)
        else:
            return False
        return True

    def killed(self) -> dict[str, bytes]:
        return {name: bytes(file.now) for name, file in self.names.items()}

    def without_power(self) -> dict[str, bytes]:
        return {name: file.safe for name, file in self.safe_names.items()}

    def something_of_it(self, chance: random.Random) -> dict[str, bytes]:
        names = dict(self.safe_names)
        for name in {*self.names, *self.safe_names}:
            if self.names.get(name) is not self.safe_names.get(name) and chance.random() < 0.5:
                names.pop(name, None)
                if name in self.names:
                    names[name] = self.names[name]
        return {name: self._some(file, chance) for name, file in sorted(names.items())}

    def _some(self, file: File, chance: random.Random) -> bytes:
        content = bytearray(file.safe)
        for offset, data in file.since:
            for begin in range(0, max(1, len(data or b"")), self.SECTOR):
                if chance.random() < 0.5:
                    _apply(content, offset + begin, None if data is None else data[begin : begin + self.SECTOR])
        return bytes(content)


@pytest.mark.parametrize("kind", ["local", "network"])
def test_without_power_at_any_moment_it_has_every_line_that_counted(can_trace: None, fast: Path, kind: str) -> None:
    """The trace of one life is replayed on a disk that keeps what was synced, and of the rest what chance leaves."""
    folder, trace = fast / f"traced {kind}", fast / f"trace {kind}"
    program = (
        "import sys, os; from pathlib import Path; from tests.support.ledger_crashes import live;"
        "live(Path(sys.argv[1]), os.open(os.devnull, os.O_WRONLY), network=sys.argv[2] == 'network', crashes=True)"
    )
    calls = "trace=openat,pwrite64,write,fsync,fdatasync,ftruncate,unlink"
    strace("-y", "-x", "-s", "70000", "-o", str(trace), "-e", calls, sys.executable, "-c", program, str(folder), kind)

    disk, chance, moments = Disk(folder), random.Random(7), 0
    for event in trace.read_text().splitlines():
        if not disk.happen(event):
            continue
        moments += 1
        images = [disk.killed(), disk.without_power(), *(disk.something_of_it(chance) for _ in range(2))]
        for number, image in enumerate(images):
            copy = fast / f"{kind} {moments}-{number}"
            (copy / "state").mkdir(parents=True)
            for name, content in image.items():
                (copy / "state" / name).write_bytes(content)
            check(copy, counted=disk.counted, at_most=disk.counted + 1)
            shutil.rmtree(copy)
    assert disk.counted == sum(ledger_crashes.LIVES) and moments > 40
