"""What an interrupted run leaves."""

from pathlib import Path

from bench.journal import Journal

ABOUT = {"form": "quick", "versions": {"nginx": "1.22"}}


def filled(path: Path) -> None:
    journal = Journal.open(path, ABOUT, resume=False)
    journal.note(0, "nginx", "request", {"request": 0.5})
    journal.note(1, "nginx", "short", {"short": 0.25})
    journal.close()


def test_what_was_measured_is_there_again(tmp_path: Path) -> None:
    path = tmp_path / "a" / "quick.journal"
    filled(path)
    for _ in range(2):  # and stays, when the second try is interrupted, too
        journal = Journal.open(path, ABOUT, resume=True)
        assert journal.steps == {(0, "nginx", "request"): {"request": 0.5}, (1, "nginx", "short"): {"short": 0.25}}
        journal.close()


def test_a_line_that_was_being_written_does_not_count(tmp_path: Path) -> None:
    path = tmp_path / "quick.journal"
    filled(path)
    path.write_text(path.read_text()[:-8])
    assert list(Journal.open(path, ABOUT, resume=True).steps) == [(0, "nginx", "request")]


def test_a_run_of_something_else_is_not_gone_on_with(tmp_path: Path) -> None:
    """Another version, say: its figures are another gateway's."""
    path = tmp_path / "quick.journal"
    filled(path)
    assert Journal.open(path, ABOUT | {"form": "full"}, resume=True).steps == {}
    filled(path)
    assert Journal.open(path, ABOUT, resume=False).steps == {}
    assert Journal.open(tmp_path / "none.journal", ABOUT, resume=True).steps == {}
