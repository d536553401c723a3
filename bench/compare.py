"""The gateway measured beside nginx and others, on the same work in the same run.

    python -m bench.compare [--quick] [--rounds N] [--subjects a,b] [--work a,b] [--resume]

CPU time of the whole process tree, not wall time. Every measurement has fresh processes, warmed up; the order is
shuffled in each round; a figure is the median of the rounds, with the lowest and the highest. Absolute values move with
the machine, so read the ratios to nginx. Every byte of every answer is checked: when the gateway or nginx loses data,
the run fails (exit code 1); of another peer it is said. Figures stay in a JSON file outside the tree, and the next run
says what has changed. A run that was interrupted goes on with --resume.
"""

import argparse
import json
import os
import platform
import random
import sys
import sysconfig
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from bench.figures import BASE, DIRECT, changes, table
from bench.goals import OURS, goals_table
from bench.journal import Journal
from bench.processes import Busy
from bench.stand import BenchError, Lost, build, get_ready, measure
from bench.subjects import SUBJECTS, Subject, cache_folder
from bench.work import FORMS, SECTIONS, Form, Work, all_measures, with_growth, works
from gateway.doctor.pgo import has_pgo

Run = dict[str, Any]
"""A run as its JSON file holds it."""

QUICK_SUBJECTS = ("wakegate", "nginx")
ROUNDS = 3


def title_of(name: str) -> str:
    return "no proxy" if name == DIRECT else SUBJECTS[name].title


def plan(subjects: Mapping[str, Subject], chosen: list[Work], rounds: int) -> Iterator[tuple[int, str, Work]]:
    """(round, subject, work), each round in an order of its own. Without a proxy only latencies are worth anything."""
    pairs = [(name, work) for work in chosen for name, subject in subjects.items() if subject.takes(work.name)]
    pairs += [(DIRECT, work) for work in chosen if work.latencies]
    for number in range(rounds):
        random.shuffle(pairs)
        for name, work in pairs:
            if name == DIRECT or number < subjects[name].rounds:
                yield number, name, work


def machine() -> dict[str, Any]:
    """What the absolute figures depend on, without names of its own."""
    cpus = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30)
    return {
        "processor": cpus[0].partition(":")[2].strip() if cpus else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory": f"{memory:.0f} GiB",
        "system": f"{_distribution()}, Linux {platform.release()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        # Which the gateway runs on, too: start.sh takes the same .venv.
        "pgo": has_pgo(sysconfig.get_config_vars()) is True,
    }


def _distribution() -> str:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME", "Linux")
    except OSError:
        return "Linux"


def run(form: Form, subjects: Mapping[str, Subject], chosen: list[Work], rounds: int, resume: bool = False) -> Run:
    """Measure all of it. What is lost is told and kept under "lost", with who lost it."""
    values: dict[str, dict[str, list[float]]] = {}
    lost: list[tuple[str, str]] = []
    versions = {name: subject.version() for name, subject in subjects.items()}
    about = {"form": form.name, "rounds": rounds, "versions": versions, "work": [work.name for work in chosen]}
    journal = Journal.open(cache_folder() / f"{form.name}.journal", about, resume=resume)
    if resume:
        print(f"Going on behind {len(journal.steps)} measurements of the run that was interrupted")
    busy = Busy.now()
    began = time.monotonic()
    programs = build()
    steps = list(plan(subjects, chosen, rounds))
    for step, (number, name, work) in enumerate(steps, 1):
        _progress(f"round {number + 1} of {rounds}, {step} of {len(steps)}: {title_of(name)}, {work.name}")
        found = journal.steps.get((number, name, work.name))
        if found is None:
            try:
                found = measure(subjects.get(name), work, programs)
            except Lost as error:
                lost.append((name, f"{title_of(name)}, {work.name}: {error}"))
                _progress("")
                print(f"FAILED: {lost[-1][1]}", file=sys.stderr)
                continue
            journal.note(number, name, work.name, found)
        for each, value in found.items():
            values.setdefault(each, {}).setdefault(name, []).append(value)
    _progress("")
    journal.close()
    took = time.monotonic() - began
    return {
        "form": form.name,
        "when": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "took": round(took),
        "rounds": rounds,
        "machine": machine(),
        # Of all cores, what was used by processes that are none of this run's.
        "others": round(Busy.now().others_since(busy) / took / len(os.sched_getaffinity(0)), 3),
        "versions": versions,
        "lost": lost,
        "values": with_growth(values),
    }


def _progress(line: str) -> None:
    """The line that is being overwritten, for whoever watches."""
    if sys.stderr.isatty():
        print(f"\r\033[K{line}", end="", file=sys.stderr, flush=True)


def choose(form: Form, wanted: str) -> tuple[dict[str, Subject], dict[str, str]]:
    """(subjects to measure, what to install for those that are not here, by title)."""
    usual = QUICK_SUBJECTS if form.name == "quick" else [name for name, subject in SUBJECTS.items() if subject.usual]
    names = [name.strip() for name in wanted.split(",")] if wanted else usual
    if unknown := [name for name in names if name not in SUBJECTS]:
        raise BenchError(f"No such subject: {', '.join(unknown)}; there are {', '.join(SUBJECTS)}")
    absent = {SUBJECTS[name].title: needs for name in names if (needs := SUBJECTS[name].missing())}
    return {name: SUBJECTS[name] for name in names if not SUBJECTS[name].missing()}, absent


def choose_works(form: Form, wanted: str) -> list[Work]:
    there = works(form)
    if not wanted:
        return there
    names = [name.strip() for name in wanted.split(",")]
    if unknown := set(names) - {work.name for work in there}:
        raise BenchError(f"No such work: {', '.join(sorted(unknown))}; there are {', '.join(w.name for w in there)}")
    return [work for work in there if work.name in names]


def tables(found: Run) -> str:
    """The figures of a run in Markdown, a table for each section."""
    subjects = {name: title_of(name) for name in [*SUBJECTS, DIRECT]}
    measures = all_measures(FORMS[found["form"]])
    sections = ([measure for measure in measures if measure.section == section] for section in SECTIONS)
    return "\n".join(filter(None, (table(rows, subjects, found["values"]) for rows in sections)))


def goals(found: Run) -> str:
    """What of the goals was reached, in Markdown."""
    measures = all_measures(FORMS[found["form"]])
    return goals_table(measures, found["values"], form=found["form"], pgo=found["machine"].get("pgo", False))


def lost_lines(found: Run) -> list[str]:
    """Who did not answer as it should have, each time."""
    return [said.splitlines()[0] for _, said in found["lost"]]


def caption(found: Run) -> str:
    """Where and how the figures came to be."""
    on = found["machine"]
    versions = ", ".join(f"{title_of(name)} ({text})" for name, text in found["versions"].items())
    return (
        f"{found['when']}, rounds: {found['rounds']}, in {found['took']} s; {on['cores']} cores ({on['processor']}), "
        f"{on['memory']}, {on['system']}, {on['python']}{' (PGO)' if on.get('pgo') else ''}; meanwhile other work used "
        f"{found['others'] * 100:.0f} % of the cores. {versions}."
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="gateway and nginx alone, under three minutes")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--subjects", default="", help=", ".join(SUBJECTS))
    parser.add_argument("--work", default="", help=", ".join(work.name for work in works(FORMS["full"])))
    parser.add_argument("--resume", action="store_true", help="go on with the run that was interrupted")
    asked = parser.parse_args()
    get_ready()
    form = FORMS["quick" if asked.quick else "full"]
    try:
        subjects, absent = choose(form, asked.subjects)
        chosen = choose_works(form, asked.work)
        for title, needs in absent.items():
            print(f"Not measured, as it is not installed: {title} ({needs})")
        busy = os.getloadavg()[0]
        if busy > 0.3 * len(os.sched_getaffinity(0)):
            print(f"Something else is running (load average {busy:.1f}): figures will be worse than they are")
        found = run(form, subjects, chosen, asked.rounds, asked.resume)
    except BenchError as error:
        print(error, file=sys.stderr)
        return 2
    found["absent"] = absent
    # Of a part, or of single rounds, nothing is kept: the next run would be compared with noise.
    _tell(found, form, whole=not asked.work and not asked.subjects and asked.rounds >= ROUNDS)
    return 1 if _is_failed(found) else 0


def _is_failed(found: Run) -> bool:
    return any(name in (OURS, BASE) for name, _ in found["lost"])


def _tell(found: Run, form: Form, *, whole: bool) -> None:
    print(tables(found))
    print(goals(found))
    print(caption(found))
    print(f"A cell: median · times {title_of(BASE)}'s [lowest..highest round].")
    for line in lost_lines(found):
        print(f"FAILED: {line}")
    path = cache_folder() / f"{form.name}.json"
    if path.exists():
        before = json.loads(path.read_text("utf-8"))
        lines = changes(all_measures(form), "wakegate", found["values"], before["values"])
        nothing = "" if lines else "no ratio differs by more than its noise"
        print(f"\nAgainst the run of {before['when']}: {nothing}")
        print("\n".join(f"  {line}" for line in lines))
    if whole and not _is_failed(found):
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".new")
        unfinished.write_text(json.dumps(found, indent=1), "utf-8")
        unfinished.rename(path)
        print(f"\nKept in {path} for the next run.")


if __name__ == "__main__":
    sys.exit(main())
