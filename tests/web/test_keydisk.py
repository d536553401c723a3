"""A file of keys on its disk: read whole, replaced whole, by one at a time."""

import os
import stat
import threading
from pathlib import Path

import pytest

from gateway.web import keydisk
from gateway.web.keydisk import Busy, Unreadable, locked, look, put, take


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "keys.toml"
    path.write_text("# ours\n")
    path.chmod(0o600)
    return path


def test_a_file_is_read_with_what_tells_it_from_the_next_one(file: Path) -> None:
    found = take(file)
    assert found.raw == b"# ours\n" and found.stamp == look(file)
    put(file, "# ours\n")
    assert look(file) != found.stamp


def test_the_same_bytes_with_the_same_time_are_another_file(file: Path) -> None:
    """Times that somebody set back (cp -p, rsync, tar) hide nothing."""
    before = file.stat()
    stamp = look(file)
    file.write_text("# mine\n")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert look(file) != stamp


def test_what_is_no_plain_file_is_named_and_never_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "large").write_bytes(b"#" * (keydisk.LARGEST + 1))
    for name, words in {
        "nothing": "no such file or directory",
        ".": "it is a folder",
        "fifo": "it is not a plain file",
        "loop": "too many levels of symbolic links",
        "large": "it is larger than 1048576 bytes",
        "\0": "not a path",
    }.items():
        with pytest.raises(Unreadable, match=words):
            take(tmp_path / name)


def test_a_new_file_is_its_owners_alone(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        put(tmp_path / "keys.toml", "# ours\n")
    finally:
        os.umask(before)
    assert mode(tmp_path / "keys.toml") == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["keys.toml"]


@pytest.mark.parametrize(("before", "after"), [(0o600, 0o600), (0o640, 0o640), (0o666, 0o644), (0o400, 0o600)])
def test_a_file_stays_as_readable_as_it_was_and_others_lose_the_pen(file: Path, before: int, after: int) -> None:
    """A gateway that runs as somebody else, and reads it by its group, goes on reading it."""
    file.chmod(before)
    put(file, "# new\n")
    assert mode(file) == after and file.read_text() == "# new\n"


def test_a_file_keeps_its_owner_and_a_new_one_gets_its_folders(tmp_path: Path) -> None:
    """`docker exec` is root, and the gateway is not: it must be able to read what was made for it."""
    if os.geteuid() != 0:
        put(tmp_path / "keys.toml", "#\n")
        assert (tmp_path / "keys.toml").stat().st_uid == os.geteuid()
        return
    os.chown(tmp_path, 12345, 54321)
    with locked(tmp_path / "keys.toml"):
        put(tmp_path / "keys.toml", "#\n")
    for path in tmp_path.iterdir():
        assert (path.stat().st_uid, path.stat().st_gid) == (12345, 54321)
    os.chown(tmp_path / "keys.toml", 11111, 22222)
    put(tmp_path / "keys.toml", "# again\n")
    assert ((tmp_path / "keys.toml").stat().st_uid, (tmp_path / "keys.toml").stat().st_gid) == (11111, 22222)


def test_what_cannot_be_written_leaves_everything_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "folder" / "inner").mkdir(parents=True)
    with pytest.raises(OSError):
        put(tmp_path / "folder", "#\n")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_two_never_change_it_at_once(file: Path) -> None:
    count = 0

    def add() -> None:
        nonlocal count
        for _ in range(20):
            with locked(file) as alone:
                assert alone
                number = int(file.read_text().strip("# \n") or 0) if count else 0
                put(file, f"# {number + 1}\n")
                count += 1

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert file.read_text() == "# 80\n"


def test_who_waits_too_long_for_the_other_is_told(file: Path) -> None:
    with locked(file), pytest.raises(Busy), locked(file, wait=0.05):
        pass
    with locked(file) as alone:
        assert alone, "given back"


def test_a_link_in_the_place_of_the_lock_is_not_followed(file: Path, tmp_path: Path) -> None:
    (tmp_path / ".keys.toml.lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError), locked(file):
        pass
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize(
    ("mode", "clear", "doubts"),
    [
        (0o600, True, ()),
        (0o644, False, ()),
        (0o644, True, ("others than its owner can read the keys",)),
        (0o660, False, ("others than its owner can write",)),
        (0o666, True, ("others than its owner can write", "others than its owner can read")),
    ],
)
def test_loose_permissions_are_a_doubt(file: Path, mode: int, clear: bool, doubts: tuple[str, ...]) -> None:
    file.chmod(mode)
    said = take(file).doubts(clear=clear)
    assert len(said) == len(doubts) and all(line.startswith(start) for line, start in zip(said, doubts, strict=True))
