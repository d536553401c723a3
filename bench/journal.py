"""What a run has measured so far, on disk, so that one that was interrupted need not begin anew.

One line of JSON for what is being measured, then one for each measurement.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

Step = tuple[int, str, str]
"""Round, subject, work."""


@dataclass
class Journal:
    """One run's. Close it when the run is over."""

    file: IO[str] = field(repr=False)
    steps: dict[Step, dict[str, float]] = field(default_factory=dict)
    """What was measured before this process began."""

    @classmethod
    def open(cls, path: Path, about: dict[str, Any], *, resume: bool) -> "Journal":
        """A new one, or, to resume, the one that is there if it is of the same subjects, versions and work."""
        path.parent.mkdir(parents=True, exist_ok=True)
        steps = _steps_of(path, about) if resume else {}
        file = path.open("w", encoding="utf-8")
        print(json.dumps(about, sort_keys=True), file=file)
        journal = cls(file, steps)
        for (number, subject, work), found in steps.items():
            journal.note(number, subject, work, found)
        return journal

    def note(self, number: int, subject: str, work: str, found: dict[str, float]) -> None:
        print(json.dumps([number, subject, work, found]), file=self.file, flush=True)

    def close(self) -> None:
        self.file.close()


def _steps_of(path: Path, about: dict[str, Any]) -> dict[Step, dict[str, float]]:
    try:
        lines = path.read_text("utf-8").splitlines()
    except FileNotFoundError:
        return {}
    if not lines or json.loads(lines[0]) != json.loads(json.dumps(about)):
        return {}
    steps = {}
    for line in lines[1:]:
        try:
            number, subject, work, found = json.loads(line)
        except ValueError:
            break  # the line that was being written
        steps[number, subject, work] = found
    return steps
