"""The doctor's whole visit: look, check, and say it, as text for 80 columns or as JSON. Only `examine` does any I/O."""

import json
import os
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import groupby

from gateway.config import NAMES_TO_FIELD, PREFIX, Settings, SettingsError
from gateway.doctor import exposure, gateway, gpu, model, platforms, ports, renting, runtime, storage, traffic
from gateway.doctor.case import Case
from gateway.doctor.findings import BREAKS, DOUBTFUL, NOTE, Finding, Level, found
from gateway.records.redact import GONE, Redactor, forms_of
from gateway.surroundings import Surroundings

CHECKS: Mapping[str, Callable[[Case], Iterable[Finding]]] = {
    "gateway": gateway.check,
    "ports": ports.check,
    "storage": storage.check,
    "renting": renting.check,
    "model": model.check,
    "GPU": gpu.check,
    "platform": platforms.check,
    "exposure": exposure.check,
    "runtime": runtime.check,
    "traffic": traffic.check,
}
"""By theme."""
LOOKED_AT = (
    "settings, ports, DATA_DIR and its volume, disk space, what is rented, model, engine, GPU and driver, platform, "
    "keys and TLS, engines beside the gateway, Python and its packages, limits, clock, the request log"
)
TOLD_ELSEWHERE = (" characters; a key that nobody guesses is longer", " files may be open; ", "MONTHLY_BUDGET is 0: ")
"""Parts of warnings of the settings that a finding of its own says better."""

WIDTH = 80
HEADINGS = {BREAKS: "Would break, or cost money", DOUBTFUL: "Doubtful", NOTE: "Good to know"}


def examine(settings: Settings, around: Surroundings, environ: Mapping[str, str] | None = None) -> tuple[Finding, ...]:
    """Everything that is found on this machine, the most important first. Blocking, 2 s at most.

    `environ` is what the settings were made from; the process's own by default.
    """
    from gateway.doctor.facts import gather  # what looks imports what it looks at

    facts = gather(settings, around, os.environ if environ is None else environ)
    return judge(Case(settings, around, facts))


def judge(case: Case) -> tuple[Finding, ...]:
    """What follows from the facts. No secret of the settings is in it, whoever wrote it into a path or a name."""
    findings = [finding for check in CHECKS.values() for finding in check(case)]
    findings += (found("unchecked", what=what, problem=why) for what, why in case.facts.unchecked)
    findings += (
        found("setting-doubtful", warning=_sentence(warning))
        for warning in case.settings.warnings
        if not any(part in warning for part in TOLD_ELSEWHERE)
    )
    secrets = tuple(case.settings.secrets())
    redact = Redactor(secrets)
    forms = sorted({form for secret in secrets for form in forms_of(secret)}, key=len, reverse=True)
    return tuple(sorted((_without(redact, forms, finding) for finding in findings), key=lambda finding: finding.rank))


def of_unreadable(error: SettingsError) -> tuple[Finding, ...]:
    """For settings that cannot be read at all: each problem as a finding, then the warnings, which often explain it."""
    wrong = [found("setting-wrong", problem=_sentence(line), cure=_cure(line)) for line in error.problems]
    return tuple(wrong + [found("setting-doubtful", warning=_sentence(line)) for line in error.warnings])


def _sentence(line: str) -> str:
    return line if line.endswith((".", "?")) else f"{line}."


def _cure(problem: str) -> str:
    """Where the value stands: `NAME (.env line 3): …`, or in the environment."""
    name, _, rest = problem.partition(" ")
    place, line, number = rest[1:].partition(")")[0].partition(" line ")
    if rest.startswith("(") and line and number.isdecimal():
        return f"${{EDITOR:-vi}} +{number} {place}"
    name = name.rstrip(":")
    if rest.startswith("not set") and name.removeprefix(PREFIX) in NAMES_TO_FIELD:
        return f"export {name}=…"
    return f"unset {name}" if name.removeprefix(PREFIX) in NAMES_TO_FIELD else "env | cut -d= -f1 | sort"


def _without(redact: Redactor, forms: Sequence[str], finding: Finding) -> Finding:
    """From a line to paste only the known ones go: what looks like a key there is the name of one
    (`X-API-Key: $API_KEY`)."""
    cure = finding.cure
    for form in forms:
        cure = cure.replace(form, GONE)
    return Finding(finding.code, finding.level, redact(finding.what), redact(finding.why), cure)


def exit_code(findings: Iterable[Finding]) -> int:
    """1 when something would break."""
    return 1 if any(finding.level is BREAKS for finding in findings) else 0


# --- Saying it -------------------------------------------------------------------------------------------------------


def as_text(findings: Sequence[Finding]) -> str:
    """For people: by level, most important first; lines to paste stand alone and are never broken."""
    parts = []
    for level, group in groupby(findings, key=lambda finding: finding.level):
        heading = HEADINGS[level]
        parts.append(f"{heading}\n{'-' * len(heading)}\n\n" + "\n".join(map(_paragraph, group)))
    if all(finding.level is NOTE for finding in findings):
        parts.append(textwrap.fill(f"Looked at: {LOOKED_AT}.", WIDTH) + "\n")
    parts.append(summary(findings) + "\n")
    return "\n".join(parts)


def _paragraph(finding: Finding) -> str:
    first = f"{finding.theme}  [{finding.code}]"
    lines = [first, *_wrapped("  ", finding.what), *_wrapped("  Why:  ", finding.why), f"  Type: {finding.cure}"]
    return "\n".join(lines) + "\n"


def _wrapped(lead: str, text: str) -> Iterator[str]:
    text = " ".join(text.split())
    behind = " " * len(lead)
    options = {"break_long_words": False, "break_on_hyphens": False}
    yield from textwrap.wrap(text, WIDTH, initial_indent=lead, subsequent_indent=behind, **options)  # type: ignore[arg-type]


def summary(findings: Sequence[Finding]) -> str:
    """One line."""
    counts = {level: sum(finding.level is level for finding in findings) for level in Level}
    if not findings:
        return "Nothing found that would break, and nothing doubtful."
    notes = f"{counts[NOTE]} note{'' if counts[NOTE] == 1 else 's'}"
    if not counts[BREAKS] and not counts[DOUBTFUL]:
        return f"Nothing would break, and nothing is doubtful; {notes}."
    breaks = f"{counts[BREAKS]} would break" if counts[BREAKS] else "Nothing would break"
    return f"{breaks}, {counts[DOUBTFUL]} doubtful, {notes}."


def as_json(findings: Sequence[Finding]) -> str:
    """For programs. Fields are added, never changed."""
    counts = {level.value: sum(finding.level is level for finding in findings) for level in Level}
    listed = [
        {
            "code": finding.code,
            "level": finding.level.value,
            "theme": finding.theme,
            "what": finding.what,
            "why": finding.why,
            "type": finding.cure,
        }
        for finding in findings
    ]
    return json.dumps({"summary": counts, "findings": listed}, indent=2, ensure_ascii=False)
