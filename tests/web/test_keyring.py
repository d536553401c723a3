"""The keys in force: read again by themselves, and never lost to a file that has become wrong."""

import asyncio
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gateway.policy.keys import Key, digest_of
from gateway.web.keydisk import Stamp
from gateway.web.keyfile import render
from gateway.web.keyring import Keyring, KeysWrong, Seen, see

ALICE, BOB, CAROL = (Key(name, digest_of(name.encode())) for name in ("alice", "bob", "carol"))
FIXED = Key("api-key", digest_of(b"fixed"))


class Told:
    """What the log heard."""

    def __init__(self) -> None:
        self.lines: list[tuple[bool, str]] = []

    def __call__(self, ok: bool, line: str) -> None:
        self.lines.append((ok, line))

    def one(self) -> tuple[bool, str]:
        """The one line that was not looked at yet."""
        (line,) = self.lines
        self.lines.clear()
        return line


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "keys.toml"
    write(path, ALICE, BOB)
    path.chmod(0o600)
    return path


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def ring(file: Path, told: Told) -> Iterator[Keyring]:
    """Loaded, and asked by the test to look."""
    ring = Keyring([FIXED], file, on_reload=told, wall=lambda: 1_800_000_000.4)
    ring.load()
    yield ring
    assert told.lines == [], "a line that the test did not expect"


def write(path: Path, *keys: Key) -> None:
    path.write_text("\n".join(render(key) for key in keys))


def replace(path: Path, *keys: Key) -> None:
    draft = path.with_suffix(".new")
    write(draft, *keys)
    draft.replace(path)


def names(ring: Keyring) -> list[str]:
    return [key.name for key in ring.keys]


async def look(ring: Keyring, times: int = 2) -> None:
    for _ in range(times):
        await ring.look()


# --- the start


def test_the_fixed_keys_and_those_of_the_file_are_in_force(ring: Keyring) -> None:
    assert names(ring) == ["api-key", "alice", "bob"]
    assert ring.enabled and ring.state == "ok" and ring.warnings == ()


async def test_a_key_is_found_by_its_digest_as_long_as_it_is_in_force(ring: Keyring, file: Path, told: Told) -> None:
    assert ring.by_digest == {key.digest: key for key in (FIXED, ALICE, BOB)}
    replace(file, ALICE, CAROL)
    await look(ring)
    assert told.one()[0] and ring.by_digest == {key.digest: key for key in (FIXED, ALICE, CAROL)}


def test_without_a_file_and_fixed_keys_nobody_is_asked_for_one() -> None:
    assert not Keyring().enabled
    assert Keyring([FIXED]).enabled


def test_a_file_without_keys_lets_nobody_in(tmp_path: Path) -> None:
    """Not everybody: no keys is not the same as keys off."""
    (tmp_path / "keys.toml").write_text("# none yet\n")
    ring = Keyring([], tmp_path / "keys.toml")
    ring.load()
    assert ring.enabled and ring.keys == ()
    assert "nobody may come in" in ring.warnings[-1]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "cannot be read (no such file or directory)"),
        ("", "it is empty"),
        ("[[keys]]\nname = 'a'\n[[keys]]\n", "line 1: hash: missing (and 2 more: `wakegate keys check`)"),
        (render(Key("alice", FIXED.digest)), "alice is the same key as API_KEY; take one of them away"),
    ],
)
def test_a_file_that_is_wrong_at_the_start_ends_it_with_one_line(
    tmp_path: Path, content: str | None, words: str
) -> None:
    path = tmp_path / "keys.toml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(KeysWrong) as caught:
        Keyring([FIXED], path).load()
    said = str(caught.value)
    assert said.startswith(f"API_KEYS_FILE: {path}") and words in said and "\n" not in said
    assert "wakegate keys" in said


def test_what_is_unwise_is_warned_about(tmp_path: Path) -> None:
    path = tmp_path / "keys.txt"
    path.write_text("alice:sk-0123456789abcdef\n")
    path.chmod(0o644)
    ring = Keyring([], path)
    ring.load()
    assert len(ring.warnings) == 2 and "clear text" in ring.warnings[0] and "chmod 600" in ring.warnings[1]
    assert "0123" not in "".join(ring.warnings)


# --- changes


async def test_a_file_that_nobody_touches_is_no_news(ring: Keyring) -> None:
    await look(ring, 5)
    assert names(ring) == ["api-key", "alice", "bob"]


async def test_a_file_that_is_replaced_is_taken_when_it_was_seen_twice(ring: Keyring, file: Path, told: Told) -> None:
    replace(file, ALICE, CAROL)
    await look(ring)
    assert names(ring) == ["api-key", "alice", "carol"]
    assert told.one() == (True, "API_KEYS_FILE was read again: 2 keys (new: carol; gone: bob)")


async def test_a_file_that_is_rewritten_in_place_is_not_read_in_the_middle(
    ring: Keyring, file: Path, told: Told
) -> None:
    whole = render(ALICE) + render(CAROL)
    for end in range(0, len(whole), 40):
        file.write_text(whole[:end])
        await ring.look()
        assert names(ring) == ["api-key", "alice", "bob"], "in pieces it is not looked into"
    file.write_text(whole)
    await look(ring)
    assert names(ring) == ["api-key", "alice", "carol"]
    assert told.one()[0]


async def test_the_first_look_reads_it_once_more(file: Path) -> None:
    """Written in the moment of the start, on a volume of whole seconds, it looks as if it were the same."""
    read: list[bool] = []

    def watched(path: Path, judged: Stamp | None, last: Stamp | str | None, *, asked: bool) -> Seen:
        seen = see(path, judged, last, asked=asked)
        read.append(seen.read is not None)
        return seen

    ring = Keyring([], file, see=watched)
    ring.load()
    await look(ring, 3)
    assert read == [True, False, False]


async def test_a_changed_limit_is_a_change(ring: Keyring, file: Path, told: Told) -> None:
    replace(file, ALICE, Key("bob", BOB.digest, requests_per_minute=3))
    await look(ring)
    assert told.one() == (True, "API_KEYS_FILE was read again: 2 keys (changed: bob)")
    assert ring.keys[2].requests_per_minute == 3


async def test_a_secret_of_kubernetes_turns_a_link_above_the_file(tmp_path: Path, told: Told) -> None:
    for folder, key in (("one", ALICE), ("two", BOB)):
        (tmp_path / folder).mkdir()
        write(tmp_path / folder / "keys.toml", key)
    (tmp_path / "..data").symlink_to("one")
    (tmp_path / "keys.toml").symlink_to("..data/keys.toml")
    ring = Keyring([], tmp_path / "keys.toml", on_reload=told)
    ring.load()
    await look(ring)
    (tmp_path / "..new").symlink_to("two")
    (tmp_path / "..new").replace(tmp_path / "..data")
    await look(ring)
    assert names(ring) == ["bob"] and told.one()[0]


@pytest.mark.parametrize(
    ("how", "why"),
    [
        ("deleted", "no such file or directory"),
        ("a folder", "it is a folder"),
        ("a fifo", "it is not a plain file"),
        ("garbage", "line 2: not UTF-8 text"),
        ("not TOML", "line 1: this is not TOML"),
        ("emptied", "it is empty; a file without keys has at least a comment in it"),
        ("a wrong value", "line 3: hash: not right; allowed: sha256: and the 64 hex digits of a key's SHA-256"),
        ("a key of ours", "carol is the same key as API_KEY; take one of them away"),
        ("far too large", "it is larger than 1048576 bytes"),
    ],
)
async def test_a_file_that_became_unusable_keeps_the_keys_of_before(
    ring: Keyring, file: Path, told: Told, how: str, why: str
) -> None:
    """And says so once, in the log and on /health, until it is right again."""
    kept = file.with_name("kept")
    file.rename(kept)
    if how == "a folder":
        file.mkdir()
    elif how == "a fifo":
        os.mkfifo(file)
    elif how != "deleted":
        file.write_bytes(
            {
                "garbage": b"#\n\xff\x00\x80",
                "not TOML": b"[[keys]\n",
                "emptied": b"",
                "a wrong value": b"[[keys]]\nname = 'alice'\nhash = 'sha256:c4nary'\n",
                "a key of ours": render(Key("carol", FIXED.digest)).encode(),
                "far too large": b"#" * 1_100_000,
            }[how]
        )
    await look(ring, 6)
    assert names(ring) == ["api-key", "alice", "bob"]
    assert told.one() == (
        False,
        f"API_KEYS_FILE ({file}) cannot be used, the keys of before stay in force: {why}",
    )
    since = "2027-01-15T08:00:00Z"
    assert ring.state == f"API_KEYS_FILE cannot be used since {since}, the keys of before are in force: {why}"
    if how == "a folder":
        file.rmdir()
    kept.replace(file)
    await look(ring)
    assert told.one() == (True, "API_KEYS_FILE can be used again: 2 keys (as before)")
    assert ring.state == "ok"


async def test_another_reason_is_said_again_and_the_time_stays_that_of_the_first(
    ring: Keyring, file: Path, told: Told
) -> None:
    file.write_text("[[keys]\n")
    await look(ring)
    assert "not TOML" in told.one()[1]
    file.unlink()
    await look(ring)
    assert "no such file" in told.one()[1]
    assert "since 2027-01-15T08:00:00Z" in ring.state


async def test_an_editor_that_puts_the_file_away_for_a_moment_is_no_news(ring: Keyring, file: Path) -> None:
    file.rename(file.with_name("keys.toml~"))
    await ring.look()
    file.with_name("keys.toml~").rename(file)
    await look(ring, 3)
    assert ring.state == "ok"


async def test_a_file_that_may_not_be_opened_is_tried_again(ring: Keyring, file: Path, told: Told) -> None:
    """Nothing about the file changes when a volume, or whoever guards it, lets us in again."""
    locked_out = True

    def guarded(path: Path, judged: Stamp | None, last: Stamp | str | None, *, asked: bool) -> Seen:
        if not locked_out:
            return see(path, judged, last, asked=asked)
        seen = see(path, judged, None, asked=False)
        return Seen(seen.mark, trouble="permission denied")

    ring._see = guarded
    await look(ring)
    assert "permission denied" in told.one()[1]
    locked_out = False
    await look(ring)
    assert told.one()[0] and ring.state == "ok"


async def test_keys_that_other_settings_forbid_are_a_file_that_is_wrong(file: Path, told: Told) -> None:
    """Money that nobody can count, for one: at the start, and when the file is read again."""
    refuses = False
    ring = Keyring([], file, on_reload=told, objection=lambda keys: "It cannot be counted." if refuses else None)
    ring.load()
    refuses = True
    replace(file, CAROL)
    await look(ring)
    assert told.one()[1].endswith("stay in force: It cannot be counted")
    assert names(ring) == ["alice", "bob"]
    with pytest.raises(KeysWrong, match="It cannot be counted; make keys"):
        ring.load()


# --- SIGHUP


async def test_who_asks_is_answered_at_once_also_when_nothing_changed(ring: Keyring, file: Path, told: Told) -> None:
    ring.reload()
    await ring.look()
    assert told.one() == (True, "API_KEYS_FILE was read again: 2 keys (as before)")
    replace(file, ALICE)
    ring.reload()
    await ring.look()
    assert told.one() == (True, "API_KEYS_FILE was read again: 1 key (gone: bob)")
    file.unlink()
    for _ in range(2):
        ring.reload()
        await ring.look()
        assert "no such file" in told.one()[1]


async def test_the_watch_finds_changes_and_hears_who_asks(file: Path, told: Told) -> None:
    ring = Keyring([], file, on_reload=told, every=0.01)
    ring.load()
    watch = asyncio.create_task(ring.watch())
    try:
        replace(file, CAROL)
        await until(lambda: names(ring) == ["carol"])
        assert told.one()[0]
    finally:
        watch.cancel()
    slow = Keyring([], file, on_reload=told, every=3600)
    slow.load()
    watch = asyncio.create_task(slow.watch())
    try:
        slow.reload()
        await until(lambda: bool(told.lines))
    finally:
        watch.cancel()
    assert told.one() == (True, "API_KEYS_FILE was read again: 1 key (as before)")


async def test_without_a_file_there_is_nothing_to_watch() -> None:
    ring = Keyring([FIXED])
    ring.load()
    ring.reload()
    await ring.look()
    await asyncio.wait_for(ring.watch(), 1)
    assert ring.keys == (FIXED,) and ring.state == "ok"


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not holds():
            await asyncio.sleep(0.01)


# --- a volume that hangs


class Volume:
    """Answers when the test lets it."""

    def __init__(self) -> None:
        self.answers = threading.Event()
        self.answers.set()
        self.asked = 0

    def see(self, path: Path, judged: Stamp | None, last: Stamp | str | None, *, asked: bool) -> Seen:
        self.asked += 1
        assert self.answers.wait(10)
        return see(path, judged, last, asked=asked)


async def test_a_volume_that_hangs_is_said_once_and_never_asked_twice(file: Path, told: Told) -> None:
    volume = Volume()
    ring = Keyring([], file, on_reload=told, patience=0.02, see=volume.see)
    ring.load()
    volume.answers.clear()
    await look(ring, 4)
    assert volume.asked == 1
    assert told.one() == (
        False,
        f"API_KEYS_FILE ({file}) cannot be used, the keys of before stay in force: its volume does not answer",
    )
    assert names(ring) == ["alice", "bob"]
    ring.reload()
    await ring.look()
    assert "does not answer" in told.one()[1], "who asks is told again"
    volume.answers.set()
    await until_looked(ring, lambda: ring.state == "ok")
    assert told.one() == (True, "API_KEYS_FILE can be used again: 2 keys (as before)")


async def until_looked(ring: Keyring, holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not holds():
            await ring.look()


async def test_who_asks_while_the_volume_hangs_is_answered_by_a_look_of_its_own(file: Path, told: Told) -> None:
    """What the hanging one brings may be older than the question."""
    volume = Volume()
    ring = Keyring([], file, on_reload=told, patience=0.02, see=volume.see)
    ring.load()
    volume.answers.clear()
    await ring.look()
    assert not told.one()[0]
    replace(file, CAROL)
    ring.reload()
    volume.answers.set()
    await until_looked(ring, lambda: names(ring) == ["carol"])
    assert told.one()[0]


def test_a_volume_that_hangs_does_not_hold_up_the_end(file: Path, told: Told) -> None:
    volume = Volume()
    ring = Keyring([], file, on_reload=told, every=0.001, patience=0.01, see=volume.see)
    ring.load()
    volume.answers.clear()

    async def live() -> None:
        watch = asyncio.create_task(ring.watch())
        await until(lambda: bool(told.lines))
        watch.cancel()

    began = time.monotonic()
    asyncio.run(live())
    assert time.monotonic() - began < 5
    volume.answers.set()  # the thread finds nobody left to tell, and ends quietly


async def test_a_look_that_fails_in_a_way_nobody_thought_of_is_told_and_repeated(file: Path, told: Told) -> None:
    broken = True

    def odd(path: Path, judged: Stamp | None, last: Stamp | str | None, *, asked: bool) -> Seen:
        if broken:
            raise MemoryError
        return see(path, judged, last, asked=asked)

    ring = Keyring([], file, on_reload=told, see=odd)
    ring.load()
    await look(ring)
    assert told.one() == (
        False,
        f"API_KEYS_FILE ({file}) cannot be used, the keys of before stay in force: reading it failed (MemoryError)",
    )
    broken = False
    await look(ring)
    assert told.one()[0]


def test_its_repr_says_what_is_in_force_and_no_hash(ring: Keyring, file: Path) -> None:
    assert repr(ring) == f"<Keyring 1 fixed, 2 of {file}, ok>"
