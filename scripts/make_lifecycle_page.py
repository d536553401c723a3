"""Write docs/reference/lifecycle.md: the picture and the tables of the lifecycle, from the machine's own tables.

python scripts/make_lifecycle_page.py          write it
python scripts/make_lifecycle_page.py --check  exit 1 when it is not up to date
"""

import ast
import inspect
import itertools
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # run as a script, from anywhere, without being installed

from gateway.policy.lifecycle import effects, events, states  # noqa: E402
from gateway.policy.lifecycle.machine import _ALWAYS, FOLLOWS, RULES  # noqa: E402
from gateway.policy.lifecycle.states import State  # noqa: E402

PAGE = ROOT / "docs" / "reference" / "lifecycle.md"

OPENING = """\
# The life of an upstream

<!-- Generated from gateway/policy/lifecycle/ by scripts/make_lifecycle_page.py. Change it there. -->

An upstream is in exactly one of seven states, and `/health` and the metrics call them by these names. Something
happens (an **event**), the machine changes its state by the tables below, and orders something (an **effect**). What
it then waits for is one deadline; there is no other timer. Each rule is shown by a story in `tests/stories/`.
"""


def page() -> str:
    """The whole page."""
    parts = [OPENING, "## Picture\n", diagram(), "## States\n", state_table(), "## What an event does\n"]
    parts.append(
        "An event that is not named for a state changes nothing there: late news is normal. So does news of an earlier "
        "run.\n\nIn every state:\n"
    )
    parts.append(table(("event", "goes to", "what it does"), always_rows()))
    for state in State:
        rows = list(rule_rows(state))
        if rows:
            parts += [f"### {state}\n", table(("event", "goes to", "what it does"), rows)]
    parts += [
        "## What follows without an event\n",
        "After each event, and when its moment comes, the first of these that applies is done, then again from the "
        "top, until none does. Nobody outside sees the states in between: a start that failed goes through *stopped* "
        "back to *starting*, where it pauses before the next try, all in one moment.\n",
        table(("state", "what", "goes to", "when and why"), follow_rows()),
        "## Events\n",
        table(("event", "meaning"), named(events.Event.__args__)),
        "## Effects\n",
        table(("effect", "meaning"), named(effects.Effect.__args__)),
    ]
    return "\n".join(parts)


def diagram() -> str:
    """The edges that change the state, one arrow for each pair, as a mermaid stateDiagram."""
    labels: dict[tuple[State, State], list[str]] = {}
    for state in State:
        for kind, rule in RULES[state].items():
            if rule.to is not None and rule.to is not State.DRAINING:
                labels.setdefault((state, rule.to), []).append(kind.__name__)
        for follow in FOLLOWS[state]:
            if follow.to is not None:
                labels.setdefault((state, follow.to), []).append(follow.name)
    lines = ["```mermaid", "stateDiagram-v2", "    [*] --> stopped"]
    lines += [f"    {here} --> {there}: {' / '.join(names)}" for (here, there), names in labels.items()]
    lines += ["    draining --> [*]: drained", "```", "", "`DrainRequested` leads from every state to *draining*.", ""]
    return "\n".join(lines)


def state_table() -> str:
    return table(("state", "meaning"), [(f"`{state}`", meaning) for state, meaning in state_meanings().items()])


def state_meanings() -> dict[State, str]:
    """The sentence below each member of State: the source is the only place that has it."""
    body = next(node for node in ast.parse(inspect.getsource(states)).body if isinstance(node, ast.ClassDef)).body
    meanings: dict[State, str] = {}
    for node, following in itertools.pairwise(body):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            assert isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant)
            meanings[State[node.targets[0].id]] = " ".join(str(following.value.value).split())
    return meanings


def always_rows() -> Iterator[tuple[str, ...]]:
    for kind, rule in _ALWAYS.items():
        yield f"`{kind.__name__}`", f"`{rule.to}`" if rule.to else "", rule.says


def rule_rows(state: State) -> Iterator[tuple[str, ...]]:
    for kind, rule in RULES[state].items():
        if _ALWAYS.get(kind) is not rule:
            yield f"`{kind.__name__}`", f"`{rule.to}`" if rule.to else "", rule.says


def follow_rows() -> Iterator[tuple[str, ...]]:
    for state in State:
        for follow in FOLLOWS[state]:
            yield f"`{state}`", follow.name, f"`{follow.to}`" if follow.to else "", follow.says


def named(kinds: tuple[type, ...]) -> Iterator[tuple[str, ...]]:
    for kind in kinds:
        fields = ", ".join(kind.__annotations__)
        meaning = " ".join((inspect.getdoc(kind) or "").split("\n\n")[0].split())
        yield f"`{kind.__name__}({fields})`" if fields else f"`{kind.__name__}`", meaning


def table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """A Markdown table, ending in an empty line."""
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    lines += [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join(lines) + "\n"


def main(arguments: list[str]) -> int:
    if arguments == ["--check"]:
        if PAGE.exists() and PAGE.read_text(encoding="utf-8") == page():
            return 0
        print(f"{PAGE.relative_to(ROOT)} is not up to date: run python scripts/make_lifecycle_page.py", file=sys.stderr)
        return 1
    PAGE.parent.mkdir(parents=True, exist_ok=True)
    PAGE.write_text(page(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
