"""The page of what callers see says what the tests hold the gateway to."""

import subprocess
import sys

from scripts.make_callers_page import PAGE, PARTS, ROOT, page, sums
from tests.callers.expected import TABLE
from tests.callers.stage import SCENES


def test_the_page_is_up_to_date() -> None:
    written = PAGE.read_text(encoding="utf-8")
    assert written == page(written), "run python scripts/make_callers_page.py"
    assert all(f"<!-- generated: {name} -->" in written for name in PARTS)


def test_the_script_says_so_from_anywhere(tmp_path) -> None:
    """As `make check` calls it; not importing it is what this test is for."""
    script = str(ROOT / "scripts" / "make_callers_page.py")
    done = subprocess.run([sys.executable, script, "--check"], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


def test_every_row_is_played() -> None:
    assert [row.phase for row in TABLE] == list(SCENES)


def test_two_retries_behind_an_edge_reach_as_far_as_the_page_says() -> None:
    assert "| 2 (the default) | 375 s | 960 s |\n" in sums()
    assert "a start of up to 375 s" in PAGE.read_text(encoding="utf-8")
