"""RUNTIME: this Python and what is installed in it, and what the machine allows: files, memory, clock. Without I/O."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime

from gateway.doctor.case import Case
from gateway.doctor.findings import BREAKS, DOUBTFUL, NOTE, Finding, found
from gateway.doctor.model import engine_of
from gateway.doctor.sizes import guessed_size
from gateway.gpus import Version
from gateway.kinds import spell_size
from gateway.providers.local.commands import CommandError
from gateway.providers.local.models.model_files import human
from gateway.surroundings import FILES_OF_OUR_OWN
from gateway.web.wire import AIOHTTP_FLOOR

AIOHTTP_CEILING: Version = (3, 15)
"""As pyproject.toml has it, and wire.py the floor; a test compares."""
PYTHONS = ((3, 11), (3, 14))
CONNECTIONS = 2000
"""MAX_CONNECTIONS where enough files may be open."""
FIRST_YEAR = 2026
"""When this was written: a clock that says less is wrong."""


def check(case: Case) -> Iterator[Finding]:
    yield from _packages(case)
    yield from _python(case)
    yield from _limits(case)
    yield from _clock(case)


def _packages(case: Case) -> Iterator[Finding]:
    facts = case.facts
    bounds = {"floor": _dotted(AIOHTTP_FLOOR), "ceiling": _dotted(AIOHTTP_CEILING)}
    version = version_of(facts.aiohttp)
    if version < AIOHTTP_FLOOR:
        yield found("aiohttp-old", version=facts.aiohttp or "no version", **bounds)
    elif version >= AIOHTTP_CEILING:
        yield found("aiohttp-new", version=facts.aiohttp, **bounds)
    if not facts.aiohttp_compiled:
        told = "AIOHTTP_NO_EXTENSIONS" in facts.told
        cause = "AIOHTTP_NO_EXTENSIONS is set" if told else "the one that is installed has none"
        wheel = f"pip install --force-reinstall --only-binary aiohttp 'aiohttp>={bounds['floor']},<{bounds['ceiling']}'"
        yield found("aiohttp-pure", cause=cause, cure="unset AIOHTTP_NO_EXTENSIONS" if told else wheel)
    if not facts.uvloop:
        yield found("uvloop-missing")


def _python(case: Case) -> Iterator[Finding]:
    facts = case.facts
    if not PYTHONS[0] <= facts.python[:2] <= PYTHONS[1]:
        yield found("python-unsupported", version=_dotted(facts.python))
    if facts.python_optimized:
        yield found("python-optimized")
    if facts.python_pgo is False:
        yield found("python-without-pgo")


def _limits(case: Case) -> Iterator[Finding]:
    s, around = case.settings, case.around
    room = max(16, (around.open_files - FILES_OF_OUR_OWN) // 2)
    # It is the hard limit: `ulimit` alone may not raise it.
    cure = "docker run --ulimit nofile=65536 …" if around.in_container else "sudo prlimit --pid $$ --nofile=65536"
    files = {"limit": around.open_files, "room": room, "cure": cure}
    if s.max_connections > room:
        yield found("open-files", wanted=s.max_connections, **files)
    elif s.max_connections == room < CONNECTIONS:  # nobody asked for more: the surroundings have lowered it
        yield found("open-files", NOTE, wanted=CONNECTIONS, **files)
    if around.memory is None:
        return
    model = case.facts.model
    size = (model.found.size if model.found is not None else guessed_size(model.text or "") or 0) * _in_memory(case)
    if size > around.memory:
        name = model.found.name if model.found is not None else model.text
        sure = model.found is not None and not case.facts.gpus.gpus
        values = {"model": name, "size": human(int(size)), "memory": human(around.memory)}
        yield found("memory-too-small", BREAKS if sure else DOUBTFUL, **values)
    elif s.max_queue_bytes + size > 0.9 * around.memory or s.max_queue_bytes > around.memory // 2:
        better = spell_size(max(64 * 1024**2, int((around.memory - size) * 0.2) // 1024**2 * 1024**2))
        values = {"queue": human(s.max_queue_bytes), "memory": human(around.memory)}
        yield found("queue-memory", model=human(int(size)) if size else "nothing", better=better, **values)


def _in_memory(case: Case) -> float:
    """How much of the model lies in memory while it serves: all of it on a CPU, little where a GPU holds it."""
    s = case.settings
    if s.provider != "local":
        return 0.0
    try:
        if engine_of(case) == "command":
            return 0.0  # not known
    except CommandError:
        return 0.0
    return 0.0 if case.facts.gpus.gpus and s.n_gpu_layers != 0 else 1.0


def _clock(case: Case) -> Iterator[Finding]:
    year = datetime.fromtimestamp(case.facts.now, UTC).year
    if year < FIRST_YEAR:
        yield found("clock-wrong", year=year)
    elif case.facts.clock_synchronised is False:
        yield found("clock-unsynchronised")


def version_of(text: str) -> Version:
    """`3.14.5` of `3.14.5rc1`: () for no version at all."""
    match = re.match(r"\d+(\.\d+)*", text)
    return tuple(int(part) for part in match[0].split(".")) if match else ()


def _dotted(version: Version) -> str:
    return ".".join(map(str, version))
