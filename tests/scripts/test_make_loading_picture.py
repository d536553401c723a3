"""The picture of a start shows what a start printed."""

import re
import subprocess
import sys
from xml.etree import ElementTree

from scripts.make_loading_picture import PICTURE, RECORD, ROOT, picture


def test_the_picture_is_up_to_date() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "make_loading_picture.py", "--check"],
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, "run python scripts/make_loading_picture.py"


def test_it_has_each_line_as_it_was_printed() -> None:
    texts = ElementTree.fromstring(PICTURE.read_text("utf-8")).iter("{http://www.w3.org/2000/svg}text")
    assert ["".join(text.itertext()) for text in texts] == RECORD.read_text("utf-8").splitlines()


def test_what_was_recorded_is_a_start_that_never_goes_back_and_ends_ready() -> None:
    lines = RECORD.read_text("utf-8").splitlines()
    percents = [int(found[1]) for line in lines if (found := re.search(r" (\d+)% ", line))]
    assert len(percents) > 5 and percents == sorted(percents) and percents[-1] < 100
    assert lines[-1].startswith("READY after ")


def test_what_an_engine_is_called_cannot_break_the_picture() -> None:
    drawn = picture("READY after 1.0 s: <b>&\n")
    assert "".join(ElementTree.fromstring(drawn).itertext()).endswith("READY after 1.0 s: <b>&\n")
