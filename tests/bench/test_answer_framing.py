"""The measurement of answers' framing runs, and its readers agree on what they read."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_reader_is_measured_on_everything() -> None:
    command = [sys.executable, "bench/answer_framing.py", "--quick"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr
    head, *rows = done.stdout.splitlines()
    assert head.split()[-3:] == ["ours", "aiohttp", "h11"]
    assert len(rows) == 5 and all(re.search(r"(\s+\d+\.\d\d){3}$", row) for row in rows)
