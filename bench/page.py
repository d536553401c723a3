"""Writes the figures of the last full run into docs/explanation/performance.md, between two marks, and its picture;
beside them what each feature costs, if that was measured.

make bench && python -m bench.page
"""

import json
import sys
from pathlib import Path
from typing import Any

from bench import features
from bench.compare import Run, caption, goals, lost_lines, tables, title_of
from bench.picture import picture
from bench.subjects import ROOT, SUBJECTS, cache_folder
from bench.work import FORMS, all_measures

PAGE = ROOT / "docs" / "explanation" / "performance.md"
PICTURE = PAGE.with_suffix(".svg")
SHOWN = ("chunk-200", "request", "idle")
"""Measures that stand in the picture."""
BEGIN = "<!-- measured: written by python -m bench.page -->\n"
END = "<!-- end of what was measured -->\n"


def measured(found: Run, alone: dict[str, Any] | None = None) -> str:
    """What stands between the marks. `alone`: what features.py has kept."""
    notes = [f"\nNot installed, and so not measured: {title}.\n" for title in found.get("absent", {})]
    notes += [f"\nDid not answer as it should: {line}.\n" for line in lost_lines(found)]
    if alone is not None:
        notes.append(f"\n{features.table(alone['costs'])}\n{features.goals(alone['costs'])}\n{alone['when']}.\n")
    return f"\n{tables(found)}\n{goals(found)}\n{caption(found)}\n{''.join(notes)}\n"


def drawn(found: Run) -> str:
    measures = [measure for measure in all_measures(FORMS[found["form"]]) if measure.name in SHOWN]
    return picture(measures, {name: title_of(name) for name in SUBJECTS}, found["values"])


def with_figures(page: str, text: str, begin: str = BEGIN) -> str:
    """The page with other figures behind this mark. Raises ValueError when a mark is missing."""
    before, _, rest = page.partition(begin)
    _, found, after = rest.partition(END)
    if not found:
        raise ValueError("the page has lost its marks")
    return before + begin + text + END + after


def main(folder: Path) -> int:
    path = folder / "full.json"
    if not path.exists():
        print("There is no full run yet: make bench", file=sys.stderr)
        return 2
    found = json.loads(path.read_text("utf-8"))
    kept = folder / "features.json"
    alone = json.loads(kept.read_text("utf-8")) if kept.exists() else None
    PAGE.write_text(with_figures(PAGE.read_text("utf-8"), measured(found, alone)), "utf-8")
    PICTURE.write_text(drawn(found), "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(cache_folder()))
