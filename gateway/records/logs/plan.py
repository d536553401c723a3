"""What the logs are told when they are made, and what they tell of themselves. Pure."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from gateway.records.ended import Ended

Level = Literal["debug", "info", "warning", "error"]
LEVELS: dict[str, int] = {"debug": 10, "info": 20, "warning": 30, "error": 40}


@dataclass(frozen=True, slots=True)
class LogPlan:
    """Where lines go, and how much is kept. Sizes are bytes."""

    data_dir: Path
    """Files are under `data_dir/logs/name`."""
    name: str
    """LOG_NAME."""
    stamp: str
    """`<boot>_<worker>`: the file's name without `.txt`."""
    to: Literal["console", "files", "both"] = "both"
    form: Literal["text", "json"] = "text"
    level: Level = "info"
    max_size: int = 20 << 20
    rotate_every: float = 86400.0
    total_size: int = 500 << 20
    most_waiting: int = 4 << 20
    """What may wait for a volume or a console that takes nothing; what comes then is dropped and counted."""
    retry_every: float = 5.0
    """Between two tries at a volume that could not be written."""
    verify_every: float = 30.0
    """Between two looks whether the open file still is the one that has its name: a volume that was unmounted lazily
    goes on accepting writes."""
    touch_every: float = 60.0
    """Between two touches of the live file, by which other workers see that it is one."""
    sweep_every: float = 300.0
    """Between two looks at how much all logs take; also at the start and at each rotation."""
    say_every: float = 60.0
    """Between two lines on the console about files that cannot be written."""


@dataclass(frozen=True, slots=True)
class Formats:
    """How lines look: the functions of `gateway.records.lines`, or others. Those for text begin with the time."""

    text_line: Callable[[Ended], str]
    json_line: Callable[[Ended], str]
    happening_text: Callable[[float, str], str]
    happening_json: Callable[[float, str, str], str]


@dataclass(frozen=True, slots=True)
class LogFacts:
    """How the logs are doing, for /metrics and /health."""

    dropped_lines: int = 0
    """Since the start, in files and on the console."""
    dropped_bytes: int = 0
    files_ok: bool = True
    """Whether the last write to the files succeeded, and none has been stuck; true where no files are wanted."""
    reason: str = ""
    """Why not, for a person."""
