"""Write the tables of docs/explanation/what-callers-see.md: what the tests expect, and what waits add up to.

python scripts/make_callers_page.py          write them
python scripts/make_callers_page.py --check  exit 1 when they are not up to date
"""

import re
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # run as a script, from anywhere, without being installed

from gateway.errors import CATALOGUE, RETRY_AFTER_MAX  # noqa: E402
from gateway.web.patience import EDGE_HOLD, LONGEST_HOLD  # noqa: E402
from tests.callers.expected import SDKS, TABLE, Heard  # noqa: E402

PAGE = ROOT / "docs" / "explanation" / "what-callers-see.md"
RETRIES = (2, 5, 10, 20)
ORDINALS = {2: "second", 3: "third"}
NUMBERS = {2: "two", 3: "three"}


def words(heard: Heard) -> str:
    """What one caller hears, in words."""
    if heard.code and heard.status is None:
        return f"comments, then an error in the stream: `{heard.code}`"
    if heard.code and heard.at_engine:
        return f"{heard.status}, in the engine's words"
    if heard.code:
        times = "" if heard.tries == 1 else f", {NUMBERS[heard.tries]} times"
        return f"{heard.status} `{heard.code}`{times}"
    if heard.tries > 1:
        status = CATALOGUE[heard.refused].status
        sent_back = f"{status} `{heard.refused}`" + ("" if heard.tries == 2 else f", {NUMBERS[heard.tries - 1]} times")
        return f"{sent_back}; the {ORDINALS[heard.tries]} try has the answer"
    if heard.elsewhere:
        return "the answer of `FALLBACK_URL`, at once"
    if heard.shown:
        return "how far it is, as reasoning; then the answer"
    return "comments, then the answer" if heard.held else "the answer"


def phases() -> str:
    rows = [(row.meanwhile, words(row.whole), words(row.streamed)) for row in TABLE]
    return table(("when the model …", "without a stream", "with `stream: true`"), rows)


def sdks() -> str:
    """One sentence."""
    named = [f"`{name.removeprefix('node-')}`{' of npm' if name.startswith('node-') else ''}" for name in SDKS]
    pinned = [re.sub(r"-([0-9.]+)`", r"` \1", name, count=1) for name in named]
    return f"Tried with {', '.join(pinned[:-1])} and {pinned[-1]}.\n"


def sums() -> str:
    """How long the tries of an SDK reach, by its `max_retries`."""

    def reach(hold: float, wait: float, retries: int) -> str:
        return f"{hold * (retries + 1) + wait * retries:.0f} s"

    holds = (EDGE_HOLD, LONGEST_HOLD)
    rows = [
        (
            f"{retries}{' (the default)' if retries == 2 else ''}",
            *(reach(hold, RETRY_AFTER_MAX, retries) for hold in holds),
        )
        for retries in RETRIES
    ]
    heads = [f"held {hold:.0f} s, away {RETRY_AFTER_MAX} s" for hold in holds]
    return table(("`max_retries`", *heads), rows)


PARTS: Mapping[str, Callable[[], str]] = {"phases": phases, "sdks": sdks, "sums": sums}


def table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    lines += [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join(lines) + "\n"


def page(written: str) -> str:
    """The page, with its generated parts as they should be."""
    return re.sub(
        r"(<!-- generated: ([a-z]+) -->\n).*?(<!-- end -->)",
        lambda part: f"{part[1]}\n{PARTS[part[2]]()}\n{part[3]}",
        written,
        flags=re.DOTALL,
    )


def main(arguments: list[str]) -> int:
    written = PAGE.read_text(encoding="utf-8")
    if arguments == ["--check"]:
        if written == page(written):
            return 0
        print(f"{PAGE.relative_to(ROOT)} is not up to date: run python scripts/make_callers_page.py", file=sys.stderr)
        return 1
    PAGE.write_text(page(written), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
