"""The arithmetic of a measurement: medians with their spread, ratios within one run, tables. Pure.

Values are seconds and bytes, one per round. A run is `values[measure][subject] = [round 1, round 2, …]`.
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Values = Mapping[str, Mapping[str, Sequence[float]]]

DIRECT = "direct"
"""The subject that is no proxy: the load generator speaks to the engine itself."""
BASE = "nginx"
"""The subject that the others are compared with."""
EQUAL = 0.15
"""Medians of two runs that are closer than this are equal: single rounds differ by 10 to 30 % on shared cores."""


@dataclass(frozen=True, slots=True)
class Measure:
    """One row of the tables."""

    name: str
    section: str
    """The table that it belongs into."""
    title: str
    scale: float
    """What a value is multiplied with to be shown."""
    added: bool = False
    """Whether what `direct` needs is taken off: only the rest is the proxy's doing."""
    compared: bool = True
    """Whether a ratio says something. Of the rare and late ones it does not: the base's may be next to nothing."""


@dataclass(frozen=True, slots=True)
class Figure:
    """The median of a few rounds, and between which it lies."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Figure":
        return cls(statistics.median(values), min(values), max(values))

    def less(self, amount: float) -> "Figure":
        return Figure(self.median - amount, self.low - amount, self.high - amount)


def figure(measure: Measure, subject: str, values: Values) -> Figure | None:
    """What a subject needed; None where that was not measured."""
    row = values.get(measure.name, {})
    if not row.get(subject):
        return None
    found = Figure.of(row[subject])
    if measure.added and subject != DIRECT:
        if not row.get(DIRECT):
            return None
        found = found.less(statistics.median(row[DIRECT]))
    return found


def ratio(measure: Measure, subject: str, values: Values, base: str = BASE) -> float | None:
    """How many times the base's median; None where one of the two is missing or nothing (an added time can be)."""
    if not measure.compared:
        return None
    ours, theirs = figure(measure, subject, values), figure(measure, base, values)
    if subject in (base, DIRECT) or ours is None or theirs is None or theirs.median <= 0 or ours.median <= 0:
        return None
    return ours.median / theirs.median


def shown(value: float) -> str:
    """Three digits, as nothing here is worth more: 0.134, 14.4, 1702."""
    if value == 0:
        return "0"
    whole = len(str(int(abs(value)))) if abs(value) >= 1 else 0
    return f"{value:.{min(3, max(0, 3 - whole))}f}"


def cell(measure: Measure, subject: str, values: Values) -> str:
    """`14.4 [13.9..15.6]`, and with how many times the base's: `31.0 · 2.2× [30.1..33.0]`."""
    found = figure(measure, subject, values)
    if found is None:
        return "–"
    median, low, high = (shown(each * measure.scale) for each in (found.median, found.low, found.high))
    times = ratio(measure, subject, values)
    return f"{median}{f' · **{shown(times)}×**' if times is not None else ''} [{low}..{high}]"


def table(measures: Sequence[Measure], subjects: Mapping[str, str], values: Values) -> str:
    """In Markdown: a row for each measure that somebody has, a column for each subject that has any of them."""
    rows = [measure for measure in measures if values.get(measure.name)]
    if not rows:
        return ""
    columns = [name for name in subjects if any(figure(measure, name, values) for measure in rows)]
    lines = [[rows[0].section, *(subjects[name] for name in columns)], ["---"] * (len(columns) + 1)]
    lines += [[measure.title, *(cell(measure, name, values) for name in columns)] for measure in rows]
    return "".join(_row(line) for line in lines)


def _row(cells: Sequence[str]) -> str:
    return f"|{'|'.join(cells)}|\n" if cells[0] == "---" else f"| {' | '.join(cells)} |\n"


def _ratios(measure: Measure, subject: str, values: Values) -> Figure | None:
    """The ratio, and that of the lowest and the highest round to the base's median."""
    median = ratio(measure, subject, values)
    ours = figure(measure, subject, values)
    if median is None or ours is None:
        return None
    return Figure(median, median * ours.low / ours.median, median * ours.high / ours.median)


def changes(measures: Sequence[Measure], subject: str, values: Values, before: Values) -> list[str]:
    """How the subject's ratios to the base differ from those of an earlier run: one line for each that really does.

    Really: the medians are not equal, and no round of one run lies among those of the other.
    """
    lines = []
    for measure in measures:
        new, old = _ratios(measure, subject, values), _ratios(measure, subject, before)
        if new is None or old is None or abs(new.median / old.median - 1) <= EQUAL:
            continue
        if new.low <= old.high and old.low <= new.high:
            continue
        word = "better" if new.median < old.median else "WORSE"
        change = (
            f"{shown(new.median)}× {BASE}'s, was {shown(old.median)}× ({(new.median / old.median - 1) * 100:+.0f} %)"
        )
        lines.append(f"{word}: {measure.section} {measure.title}: {change}")
    return lines
