"""What keys have spent outlives a restart, and a volume in trouble disturbs nobody."""

import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from gateway.records.spent import SLOW, Elsewhere, Found, Spent, SpentFolder

WITHIN = 5.0
"""Seconds in which the thread has done what it is asked for."""


def until(true: Callable[[], object]) -> None:
    deadline = time.monotonic() + WITHIN
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.002)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "state" / "spent"


@pytest.fixture
def keep(folder: Path) -> Iterator[Callable[..., Spent]]:
    """Makes keepers, and ends them."""
    made: list[Spent] = []

    def make(worker: str = "w1", *, write_every: float = 0.0, read_every: float = 60.0) -> Spent:
        made.append(Spent(SpentFolder(folder, worker), write_every=write_every, read_every=read_every))
        return made[-1]

    yield make
    for one in made:
        one.close(WITHIN)


# -- the files --------------------------------------------------------------------------------


def test_a_folder_that_is_not_there_yet_holds_nothing(folder: Path) -> None:
    assert SpentFolder(folder, "w1").read() == Found("")
    assert not folder.exists()


def test_what_was_written_is_read_again_by_its_worker_and_added_up_by_others(folder: Path) -> None:
    SpentFolder(folder, "w1").write("2026-10", {"ann": 100})
    SpentFolder(folder, "w1").write("2026-11", {"ann": 1, "bob": 2})
    SpentFolder(folder, "w2").write("2026-11", {"ann": 10})
    assert SpentFolder(folder, "w1").read() == Found(
        "2026-11", {"ann": 10}, {"2026-10": {"ann": 100}, "2026-11": {"ann": 1, "bob": 2}}
    )
    assert SpentFolder(folder, "w3").read() == Found("2026-11", {"ann": 11, "bob": 2}, {})
    assert sorted(os.listdir(folder)) == ["2026-10_w1.json", "2026-11_w1.json", "2026-11_w2.json"]
    assert (folder / "2026-11_w1.json").stat().st_mode & 0o777 == 0o600
    assert json.loads((folder / "2026-11_w1.json").read_text()) == {
        "month": "2026-11",
        "worker": "w1",
        "micro_dollars": {"ann": 1, "bob": 2},
    }


def test_a_workers_name_never_leaves_the_folder(folder: Path) -> None:
    SpentFolder(folder, "../../etc/w_1").write("2026-11", {})
    assert os.listdir(folder) == ["2026-11_..-..-etc-w-1.json"]
    SpentFolder(folder, "").write("2026-11", {})
    assert (folder / "2026-11_worker.json").exists()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "{}",
        '{"micro_dollars": [1]}',
        '{"micro_dollars": {"ann": -1, "bob": "2", "eve": 1.5}}',
        "[" * 9999,
    ],
)
def test_a_file_that_is_not_as_we_write_it_counts_as_none(folder: Path, text: str) -> None:
    folder.mkdir(parents=True)
    (folder / "2026-11_w2.json").write_text(text)
    (folder / "2026-11_w1.json").write_text(text)
    assert SpentFolder(folder, "w1").read() == Found("2026-11", {}, {"2026-11": {}})


def test_foreign_names_are_left_alone(folder: Path) -> None:
    folder.mkdir(parents=True)
    for name in ("2026-13_w2.json", "9_w2.json", "notes.txt", ".2026-11_w2.json.7.new", "2026-11_a_b.json"):
        (folder / name).write_text('{"micro_dollars": {"ann": 5}}')
    assert SpentFolder(folder, "w1").read() == Found("")


def test_links_are_not_followed(folder: Path, tmp_path: Path) -> None:
    folder.mkdir(parents=True)
    other = tmp_path / "other.json"
    other.write_text('{"micro_dollars": {"ann": 5}}')
    (folder / "2026-11_w2.json").symlink_to(other)
    assert SpentFolder(folder, "w1").read() == Found("2026-11", {}, {})
    (folder / f".2026-11_w1.json.{os.getpid()}.new").symlink_to(other)
    with pytest.raises(OSError):
        SpentFolder(folder, "w1").write("2026-11", {})
    assert json.loads(other.read_text()) == {"micro_dollars": {"ann": 5}}


def test_a_write_that_fails_leaves_the_old_figures_and_nothing_else(folder: Path) -> None:
    keeper = SpentFolder(folder, "w1")
    (folder / "2026-11_w1.json").mkdir(parents=True)
    with pytest.raises(OSError):
        keeper.write("2026-11", {"ann": 1})
    assert os.listdir(folder) == ["2026-11_w1.json"]


# -- the thread -------------------------------------------------------------------------------


def test_a_restart_goes_on_from_where_the_last_one_ended(folder: Path, keep: Callable[..., Spent]) -> None:
    SpentFolder(folder, "w2").write("2026-11", {"ann": 5})
    first = keep()
    assert first.ready(WITHIN)
    assert first.elsewhere == Elsewhere("2026-11", {"ann": 5})
    first.offer({"2026-11": {"ann": 100}})
    assert first.close(WITHIN)
    second = keep()
    assert second.ready(WITHIN)
    assert second.elsewhere == Elsewhere("2026-11", {"ann": 105})
    second.offer({"2026-11": {"ann": 7}})
    assert second.close(WITHIN)
    assert SpentFolder(folder, "w1").read().own == {"2026-11": {"ann": 107}}


def test_the_newest_figures_are_written_while_it_runs(folder: Path, keep: Callable[..., Spent]) -> None:
    keeper = keep()
    for amount in range(20):
        keeper.offer({"2026-11": {"ann": amount}})
    until(lambda: SpentFolder(folder, "w1").read().own == {"2026-11": {"ann": 19}})
    assert keeper.state == ""


def test_between_two_writings_lies_a_while_but_the_last_one_comes_at_once(
    folder: Path, keep: Callable[..., Spent]
) -> None:
    keeper = keep(write_every=3600.0)
    keeper.offer({"2026-11": {"ann": 1}})
    until(lambda: SpentFolder(folder, "w1").read().own == {"2026-11": {"ann": 1}})
    keeper.offer({"2026-11": {"ann": 2}})
    assert keeper.close(WITHIN)
    assert SpentFolder(folder, "w1").read().own == {"2026-11": {"ann": 2}}


def test_the_month_that_ended_is_written_a_last_time_with_the_new_one(folder: Path, keep: Callable[..., Spent]) -> None:
    keeper = keep()
    keeper.offer({"2026-11": {"ann": 9}, "2026-12": {"ann": 1}})
    assert keeper.close(WITHIN)
    assert SpentFolder(folder, "w1").read().own == {"2026-11": {"ann": 9}, "2026-12": {"ann": 1}}


def test_others_figures_are_read_again_now_and_then(folder: Path, keep: Callable[..., Spent]) -> None:
    keeper = keep(read_every=0.01)
    assert keeper.ready(WITHIN)
    SpentFolder(folder, "w2").write("2026-11", {"ann": 5})
    until(lambda: keeper.elsewhere == Elsewhere("2026-11", {"ann": 5}))


def test_its_own_figures_are_not_added_to_themselves(folder: Path, keep: Callable[..., Spent]) -> None:
    """However often the files are read while it writes them."""
    keeper = keep(read_every=0.001)
    for amount in range(1, 6):
        keeper.offer({"2026-11": {"ann": amount}})
        until(lambda amount=amount: SpentFolder(folder, "w1").read().own == {"2026-11": {"ann": amount}})
        before = keeper.elsewhere
        until(lambda before=before: keeper.elsewhere is not before)
    assert keeper.elsewhere == Elsewhere("2026-11", {})


def test_a_volume_that_takes_nothing_is_told_of_and_written_to_when_it_is_back(
    folder: Path, keep: Callable[..., Spent]
) -> None:
    (folder / "2026-11_w1.json").mkdir(parents=True)  # in the way of the file, for root too
    (folder / "2026-11_w1.json").rmdir()
    keeper = keep(write_every=0.01)
    assert keeper.ready(WITHIN)
    (folder / "2026-11_w1.json").mkdir()
    keeper.offer({"2026-11": {"ann": 1}})
    until(lambda: keeper.state)
    assert keeper.state.startswith("what keys have spent is counted in memory only: cannot write: ")
    (folder / "2026-11_w1.json").rmdir()
    until(lambda: not keeper.state)
    assert keeper.close(WITHIN)
    assert SpentFolder(folder, "w1").read().own == {"2026-11": {"ann": 1}}


def test_nothing_is_written_before_the_files_were_read_once(folder: Path, keep: Callable[..., Spent]) -> None:
    """Else a volume that fails for a moment would begin the month anew."""
    SpentFolder(folder, "w1").write("2026-11", {"ann": 41})
    (folder / "2026-11_w2.json").mkdir()  # cannot be read, not even by root
    keeper = keep(write_every=0.01)
    keeper.offer({"2026-11": {"ann": 1}})
    until(lambda: "cannot read" in keeper.state)
    assert keeper.elsewhere is None
    assert not keeper.ready(0.05)
    (folder / "2026-11_w2.json").rmdir()
    until(lambda: SpentFolder(folder, "w1").read().own == {"2026-11": {"ann": 42}})


class Hanging(SpentFolder):
    """A network volume whose server is gone, until it is let go."""

    def __init__(self) -> None:
        self.back = threading.Event()
        self.asked = threading.Event()
        self.writes: list[tuple[str, dict[str, int]]] = []

    def __repr__(self) -> str:
        return "<Hanging>"

    def read(self) -> Found:
        self.asked.set()
        self.back.wait(WITHIN)
        return Found("2026-11", {"ann": 5})

    def write(self, month: str, spent: object) -> None:
        assert isinstance(spent, dict)
        self.writes.append((month, spent))


def test_a_volume_that_does_not_answer_is_waited_for_by_nobody() -> None:
    volume, now = Hanging(), [0.0]
    keeper = Spent(volume, clock=lambda: now[0])
    try:
        assert volume.asked.wait(WITHIN)
        assert not keeper.ready(0.01)
        assert keeper.state == ""
        now[0] = SLOW
        assert keeper.state == ("what keys have spent is counted in memory only: the volume has not answered for 10 s")
        assert repr(keeper) == f"<Spent in <Hanging>, {keeper.state}>"
        keeper.offer({"2026-11": {"ann": 1}})
        assert not keeper.close(0.01)
    finally:
        volume.back.set()
        assert keeper.close(WITHIN)
    assert volume.writes == [("2026-11", {"ann": 1})]


class Slow(SpentFolder):
    """A volume that takes its time: each write waits for leave, and says that it is there."""

    def __init__(self, folder: Path, worker: str) -> None:
        super().__init__(folder, worker)
        self.began, self.leave = threading.Event(), threading.Event()

    def write(self, month: str, spent: Mapping[str, int]) -> None:
        self.began.set()
        assert self.leave.wait(WITHIN)
        super().write(month, spent)


def test_what_is_offered_while_the_volume_writes_is_written_next(folder: Path) -> None:
    """Whoever waits for it would wait for a minute else."""
    slow = Slow(folder, "w1")
    spent = Spent(slow, write_every=0.0)
    try:
        spent.offer({"2026-11": {"ann": 1}})
        assert slow.began.wait(WITHIN)
        spent.offer({"2026-11": {"ann": 2}})
        slow.leave.set()
        until(lambda: spent.written == {"2026-11": {"ann": 2}})
    finally:
        slow.leave.set()
        spent.close(WITHIN)


def test_news_of_the_volume_is_told_good_or_bad(folder: Path) -> None:
    news: list[None] = []
    folder.parent.parent.mkdir(parents=True, exist_ok=True)
    spent = Spent(SpentFolder(folder, "w1"), write_every=0.0, on_news=lambda: news.append(None), what="it")
    try:
        until(lambda: news)
        assert spent.state == ""
        folder.parent.mkdir()
        folder.write_text("no folder")
        good = len(news)
        spent.offer({"2026-11": {"ann": 1}})
        until(lambda: len(news) > good)
        assert spent.state.startswith("it is counted in memory only: cannot write: ")
    finally:
        spent.close(WITHIN)


@pytest.mark.parametrize("text", ["", "{", '{"micro_dollars": 5}', "[]"])
def test_where_money_is_limited_a_damaged_file_is_not_taken_for_nothing_spent(folder: Path, text: str) -> None:
    SpentFolder(folder, "w1").write("2026-11", {"ann": 1})
    (folder / "2026-11_w1.json").write_text(text)
    assert SpentFolder(folder, "w1").read().own == {"2026-11": {}}
    with pytest.raises(OSError, match=r"2026-11_w1\.json is damaged"):
        SpentFolder(folder, "w1", strict=True).read()
