"""The page of the lifecycle says what the machine does."""

import re
import subprocess
import sys

from gateway.policy.lifecycle.states import State
from scripts.make_lifecycle_page import PAGE, ROOT, diagram, page, state_meanings


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run python scripts/make_lifecycle_page.py"


def test_the_script_says_so_from_anywhere(tmp_path) -> None:
    """As `make check` calls it; not importing it is what this test is for."""
    script = str(ROOT / "scripts" / "make_lifecycle_page.py")
    done = subprocess.run([sys.executable, script, "--check"], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


def test_every_state_is_explained() -> None:
    assert list(state_meanings()) == list(State)


def test_the_picture_has_every_state_and_only_plain_arrows() -> None:
    """A colon or a quote in a label is a syntax error in mermaid, which shows only in a browser."""
    arrows = [line for line in diagram().splitlines() if "-->" in line]
    assert all(re.fullmatch(r"    (\[\*\]|[a-z]+) --> (\[\*\]|[a-z]+)(: [A-Za-z /]+)?", arrow) for arrow in arrows)
    assert {state for state in State if any(f" {state}" in arrow for arrow in arrows)} == set(State)


def test_no_sentence_breaks_its_table() -> None:
    rows = [line for line in page().splitlines() if line.startswith("|")]
    columns = [row.count("|") for row in rows]
    heads = [index for index, row in enumerate(rows) if row.startswith("|---")]
    for begin, end in zip(heads, [*heads[1:], len(rows) + 1], strict=True):
        assert len(set(columns[begin - 1 : end - 1])) == 1
