"""What the tests of logs share: ends of requests by number, plans that are quick, and what stands in the files."""

import gzip
import re
from pathlib import Path
from typing import Any

from gateway.records.ended import Ended
from gateway.records.logs import Formats, LogPlan, names
from tests.support import ends

STAMP = "20261121T140506Z_pod-1"


def ended(number: int, **changes: Any) -> Ended:
    """A request's end that can be told from others: `r<number>`."""
    usual = {"at": 1_795_262_400.0, "request_id": f"r{number}", "key": "frank", "model": "demo"}
    return ends.ended(**(usual | changes))


FORMATS = Formats(
    text_line=lambda e: f"T request={e.request_id} model={e.model} {'.' * 60}",
    json_line=lambda e: f'{{"request":"{e.request_id}","model":"{e.model}"}}',
    happening_text=lambda at, text: f"T {text}",
    happening_json=lambda at, level, text: f'{{"level":"{level}","message":"{text}"}}',
)
"""Plain ones, so that these tests are about where lines go, not about how they look."""


def plan(data_dir: Path, **changes: Any) -> LogPlan:
    """Quick to notice, to try again and to look."""
    quick: dict[str, Any] = {
        "name": "llama",
        "stamp": STAMP,
        "retry_every": 0.05,
        "verify_every": 0.05,
        "touch_every": 0.2,
        "sweep_every": 0.2,
        "say_every": 0.2,
    }
    return LogPlan(data_dir, **(quick | changes))


def segments(folder: Path, stamp: str = STAMP) -> list[Path]:
    """Everything that one gateway wrote, oldest first, the live file last."""
    known = [(path, names.parse(path.name)) for path in folder.iterdir()]
    mine = [(path, name) for path, name in known if name and name.stamp == stamp and not name.is_engine]
    return [path for path, name in sorted(mine, key=lambda pair: pair[1].when or float("inf"))]


def text_of(path: Path) -> str:
    return gzip.decompress(path.read_bytes()).decode() if path.suffix == ".gz" else path.read_text()


def numbers_in(text: str) -> list[int]:
    """Of requests whose line stands there whole."""
    return [int(found) for found in re.findall(r"^T request=r(\d+) model=demo \.{60}$", text, re.MULTILINE)]


def missing_in(text: str) -> list[int]:
    """What the notes say: so many lines are missing here."""
    return [int(found) for found in re.findall(r"^T warning: (\d+) log lines .* are missing here", text, re.MULTILINE)]
