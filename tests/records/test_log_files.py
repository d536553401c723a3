"""Log files as they lie on a volume: found by name, read from both ends, followed through rotations."""

import gzip
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.records.log_files import (
    LONGEST,
    Following,
    Segment,
    as_it_is,
    backwards,
    find,
    forwards,
)
from gateway.records.logs import names

STAMP, LATER = "20261121T140506Z_pod-1", "20261121T150000Z_pod-2"
WHEN = 1795270000.5


class Volume:
    """A folder of logs, and what a gateway does to it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rotations = 0

    def live(self, stamp: str = STAMP) -> Path:
        return self.folder / f"{stamp}.txt"

    def write(self, *lines: str, stamp: str = STAMP, end: str = "\n") -> None:
        with self.live(stamp).open("a") as file:
            file.write("".join(line + end for line in lines))

    def rotate(self, stamp: str = STAMP, *, packed: bool = False) -> Path:
        self.rotations += 1
        old = self.folder / names.rotated(f"{stamp}.txt", WHEN + self.rotations)
        self.live(stamp).rename(old)
        return self.pack(old) if packed else old

    def pack(self, old: Path) -> Path:
        new = old.with_name(old.name + ".gz")
        new.write_bytes(gzip.compress(old.read_bytes()))
        old.unlink()
        return new


@pytest.fixture
def volume(tmp_path: Path) -> Volume:
    return Volume(tmp_path)


def read(volume: Volume, number: int = -1) -> list[bytes]:
    return [line for segment in find(volume.folder)[number].segments for line in forwards(as_it_is(segment))]


# --- Finding and reading ---


def test_a_boots_log_is_found_in_order_compressed_or_not(volume: Volume) -> None:
    volume.write("one")
    volume.rotate(packed=True)
    volume.write("two")
    volume.rotate()
    volume.write("three", "", "four", end="\n")
    assert read(volume) == [b"one", b"two", b"three", b"", b"four"]


def test_boots_are_told_apart_and_strangers_files_are_left_alone(volume: Volume) -> None:
    volume.write("new", stamp=LATER)
    volume.write("old")
    (volume.folder / f"{STAMP}_engine.txt").write_text("engine\n")
    (volume.folder / f"{STAMP}.log").write_text("a boot's story\n")
    (volume.folder / "notes.txt").write_text("mine\n")
    (volume.folder / "latest.txt").symlink_to(f"{LATER}.txt")
    (volume.folder / f"{STAMP}_20261121T150000.000000Z.txt.gz.tmp").write_text("in the making")
    assert [boot.stamp for boot in find(volume.folder)] == [STAMP, LATER]
    assert read(volume, 0) == [b"old"]
    assert [list(forwards(boot.segments[0])) for boot in find(volume.folder, engine=True)] == [[b"engine"]]
    assert find(volume.folder)[0].began == "2026-11-21T14:05:06"


def test_a_part_that_is_there_twice_for_an_instant_is_read_once(volume: Volume) -> None:
    volume.write("one")
    old = volume.rotate()
    old.with_name(old.name + ".gz").write_bytes(gzip.compress(old.read_bytes()))
    assert read(volume) == [b"one"]


def test_a_part_that_was_compressed_since_it_was_found_is_read_all_the_same(volume: Volume) -> None:
    volume.write("one")
    old = volume.rotate()
    boot = find(volume.folder)[0]
    volume.pack(old)
    assert list(forwards(as_it_is(boot.segments[0]))) == [b"one"]


def test_a_part_that_is_gone_since_it_was_found_is_no_error(volume: Volume) -> None:
    volume.write("one")
    boot = find(volume.folder)[0]
    volume.live().unlink()
    assert list(forwards(as_it_is(boot.segments[0]))) == []
    assert list(backwards(boot.segments[0])) == []


def test_a_torn_archive_gives_what_is_whole(volume: Volume) -> None:
    volume.write(*(f"line {number} {os.urandom(30).hex()}" for number in range(5000)))
    packed = volume.rotate(packed=True)
    packed.write_bytes(packed.read_bytes()[:-20000])
    lines = read(volume)
    assert len(lines) > 1000
    assert lines[0].startswith(b"line 0 ")


def test_no_link_is_followed_and_no_pipe_waits(volume: Volume, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret\n")
    volume.live().symlink_to(tmp_path / "secret")
    os.mkfifo(volume.live(LATER))
    assert read(volume, 0) == []
    assert read(volume, 1) == []


@given(data=st.lists(st.sampled_from([b"\n", b"a", b"bc", b"\xff\r"]), max_size=30), size=st.integers(1, 7))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_from_the_end_it_is_the_same_lines_the_other_way_round(data: list[bytes], size: int, tmp_path: Path) -> None:
    path = tmp_path / "any"
    path.write_bytes(b"".join(data))
    segment = Segment(path, None, 0.0, path.stat().st_size)
    ahead = list(forwards(segment, size))
    assert list(backwards(segment, size)) == ahead[::-1]
    assert ahead == path.read_bytes().removesuffix(b"\n").split(b"\n") if data else not ahead


def test_what_cannot_hold_a_word_is_passed_over_and_no_line_that_holds_it_is(volume: Volume) -> None:
    volume.write(*(f"line {number} {'needle' if number % 100 == 0 else 'straw'}" for number in range(1000)))
    segment = find(volume.folder)[0].segments[0]
    for size in (7, 100, 300):
        ahead = list(forwards(segment, size, holding=b"needle"))
        back = list(backwards(segment, size, holding=b"needle"))
        assert len(ahead) < 500 and len(back) < 500
        for lines in (ahead, back[::-1]):
            assert [line for line in lines if b"needle" in line] == [b"line %d needle" % n for n in range(0, 1000, 100)]


def test_a_line_without_an_end_does_not_fill_the_memory(volume: Volume) -> None:
    with volume.live().open("wb") as file:
        file.write(b"x" * (3 * LONGEST) + b"\nshort\n")
    segment = find(volume.folder)[0].segments[0]
    for lines in (list(forwards(segment)), list(backwards(segment))):
        assert max(map(len, lines)) <= LONGEST + 300_000
        assert b"short" in lines
        assert sum(map(len, lines)) == 3 * LONGEST + 5


# --- Following ---


@pytest.fixture
def followed(volume: Volume) -> Iterator[Callable[[], list[str]]]:
    """What has come since the last call."""
    volume.write("before")
    boots = find(volume.folder)
    following = Following(volume.folder, boots, boots)

    def poll() -> list[str]:
        return [f"{stamp[-1]} {line.decode()}" for stamp, line in following.poll(look_around=True)]

    yield poll
    following.close()


Poll = Callable[[], list[str]]


def test_only_what_comes_is_told_and_a_line_only_when_it_is_whole(volume: Volume, followed: Poll) -> None:
    assert followed() == []
    volume.write("one", "tw")
    assert followed() == ["1 one", "1 tw"]
    volume.write("thr", end="")
    assert followed() == []
    volume.write("ee")
    assert followed() == ["1 three"]


def test_what_was_there_and_what_comes_are_cut_at_the_same_place(volume: Volume) -> None:
    """In the middle of a line that is being written."""
    volume.write("one")
    volume.write("two and", end="")
    boots = find(volume.folder)
    following = Following(volume.folder, boots, boots)
    volume.write(" a half", "three")
    (boot,) = (following.until_here(boot) for boot in find(volume.folder))
    assert list(backwards(boot.segments[-1])) == [b"one"]
    assert [line for _, line in following.poll(look_around=False)] == [b"two and a half", b"three"]
    following.close()


@pytest.mark.parametrize("packed", [False, True])
def test_a_rotation_loses_nothing(volume: Volume, followed: Poll, packed: bool) -> None:
    volume.write("one")
    volume.rotate(packed=packed)
    assert followed() == ["1 one"]
    volume.write("two")
    assert followed() == ["1 two"]


def test_two_rotations_between_two_looks_lose_nothing(volume: Volume, followed: Poll) -> None:
    volume.write("one")
    volume.rotate(packed=True)
    volume.write("two")
    volume.rotate(packed=True)
    volume.write("three")
    assert followed() == ["1 one", "1 two", "1 three"]
    assert followed() == []


def test_a_boot_that_begins_later_is_told_from_its_beginning(volume: Volume, followed: Poll) -> None:
    volume.write("first", stamp=LATER)
    volume.write("here")
    assert followed() == ["1 here", "2 first"]
    volume.write("second", stamp=LATER)
    assert followed() == ["2 second"]


def test_a_volume_that_comes_back_with_other_numbers_is_not_told_again(volume: Volume, followed: Poll) -> None:
    """The same file under another inode, as after a new mount."""
    volume.write("one")
    assert followed() == ["1 one"]
    copy = volume.folder / "copy"
    copy.write_bytes(volume.live().read_bytes() + b"two\n")
    copy.replace(volume.live())
    assert followed() == ["1 two"]


def test_a_volume_that_is_gone_for_a_while_is_waited_for(volume: Volume, followed: Poll, tmp_path: Path) -> None:
    away = tmp_path.with_name(tmp_path.name + "-away")
    tmp_path.rename(away)
    assert followed() == []
    away.rename(tmp_path)
    volume.write("back")
    assert followed() == ["1 back"]


def test_a_file_that_somebody_has_emptied_is_read_from_its_start(volume: Volume, followed: Poll) -> None:
    volume.live().write_text("a\n")
    assert followed() == ["1 a"]


def test_a_log_between_rotation_and_its_next_line_is_waited_for(volume: Volume) -> None:
    """There is no live file at that moment."""
    volume.write("one")
    volume.rotate()
    boots = find(volume.folder)
    following = Following(volume.folder, boots, boots)
    assert list(following.poll(look_around=False)) == []
    volume.write("two")
    volume.rotate()
    volume.write("three")
    assert [line for _, line in following.poll(look_around=False)] == [b"two", b"three"]
    following.close()
