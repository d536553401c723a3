"""The figures of a run as bars (SVG), readable in light and in dark. Pure."""

from collections.abc import Mapping
from xml.sax.saxutils import escape

from bench.figures import BASE, Figure, Measure, Values, figure, shown

WIDTH, NAME, BAR, GAP, TITLE = 720, 130, 20, 6, 34
"""Pixels: of all, of the names on the left, of a bar, between two, of a panel's title."""
FIGURE = 90
"""What the figure behind the longest bar needs."""
LONGEST = 12
"""Times the base's bar. Longer ones end there, ragged, or next to the dearest all others would look alike."""

STYLE = """\
text { font: 13px system-ui, sans-serif; fill: #222 } .title { font-weight: 600 }
.bar { fill: #8a94a3 } .ours { fill: #c2571a } .spread { stroke: #222; stroke-width: 1.5 }
.cut { stroke: #fff; stroke-width: 3 }
@media (prefers-color-scheme: dark) {
  text { fill: #ddd } .bar { fill: #6f7a89 } .ours { fill: #e58145 } .spread { stroke: #ddd } .cut { stroke: #0d1117 }
}"""


def picture(panels: list[Measure], subjects: Mapping[str, str], values: Values) -> str:
    """A panel for each measure, a bar for each subject from the cheapest to the dearest, with the rounds' spread."""
    parts: list[str] = []
    top = 0
    for measure in panels:
        found = {name: each for name in subjects if (each := figure(measure, name, values)) is not None}
        if not found:
            continue
        parts.append(f'<text class="title" x="0" y="{top + 22}">{escape(f"{measure.section} {measure.title}")}</text>')
        top += TITLE
        base = found[BASE] if BASE in found else min(found.values(), key=lambda each: each.median)
        longest = min(max(each.high for each in found.values()), LONGEST * base.median)
        for name, each in sorted(found.items(), key=lambda item: item[1].median):
            parts.append(_bar(top, subjects[name], name == "wakegate", each, longest, measure.scale))
            top += BAR + GAP
    said = ", ".join(f"{measure.section} {measure.title}" for measure in panels)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {top + GAP}" role="img">\n'
        f"<title>{escape(said)}; {BASE} is what the others are compared with</title>\n"
        f"<style>{STYLE}</style>\n" + "\n".join(parts) + "\n</svg>\n"
    )


def _bar(top: int, title: str, ours: bool, of: Figure, longest: float, scale: float) -> str:
    def at(value: float) -> float:
        return NAME + min(max(value, 0) / longest, 1) * (WIDTH - NAME - FIGURE)

    middle = top + BAR / 2
    kind = "ours" if ours else "bar"
    if of.median > longest:
        end = at(longest) - 18
        mark = f'<path class="cut" d="M{end:.1f} {top + BAR} l6 -{BAR} m6 0 l-6 {BAR}" fill="none"/>'
    else:
        mark = f'<line class="spread" x1="{at(of.low):.1f}" x2="{at(of.high):.1f}" y1="{middle}" y2="{middle}"/>'
    return (
        f'<text x="{NAME - 8}" y="{middle + 4.5}" text-anchor="end">{escape(title)}</text>'
        f'<rect class="{kind}" x="{NAME}" y="{top}" width="{at(of.median) - NAME:.1f}" height="{BAR}"/>{mark}'
        f'<text x="{at(of.high) + 8:.1f}" y="{middle + 4.5}">{shown(of.median * scale)}</text>'
    )
