"""What a bug report needs, in one text file that a person can read before sending it.

`gather` collects sections, `render` makes the text of them, every line through a redactor. What an engine said may
repeat prompts: it is left out unless it is asked for, also where our own log quotes it. Nothing here changes anything:
a gateway that runs is asked what it tells everybody, without a key.
"""

import http.client
import json
import ssl
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

from gateway.config import Settings
from gateway.records import gpus
from gateway.records.facts import around_us, is_secret_name, secrets_in, settings_that_differ, versions
from gateway.records.lines import parse_line
from gateway.records.log_files import BootFiles, find
from gateway.records.log_search import Wanted, last, shown
from gateway.surroundings import Surroundings

LOG_LINES = 2000
ENGINE_LINES = 500
BOOTS = 3
LONGEST_LINE = 4000
"""Characters."""
PATIENCE = 3.0
"""Seconds for a gateway on this machine to answer one question."""
MOST = 512 * 1024
"""Bytes of one answer, and of one boot's story."""
ENGINE_SAID = "  | "
"""How our own lines begin that quote an engine."""


@dataclass(frozen=True, slots=True)
class Section:
    """One part of the report. `lines` is asked once, and may raise what it likes: the others are there all the same."""

    title: str
    lines: Callable[[], Iterable[str]] = field(repr=False)


def gather(
    settings: Settings,
    around: Surroundings,
    *,
    doctor: Callable[[], str] | None = None,
    with_engine_log: bool = False,
) -> list[Section]:
    """What there is to tell, where the settings are right. `doctor`: its findings as text."""
    logs = settings.data_dir / "logs"
    folder = logs / settings.log_name
    sections = [
        Section("Versions", versions),
        Section("Place", lambda: around_us(around, settings)),
        Section("Settings that differ from the defaults", lambda: settings_that_differ(settings)),
        Section("Warnings about the settings", lambda: settings.warnings),
        Section("GPUs", gpus.described),
    ]
    if doctor is not None:
        sections.append(Section("Doctor", lambda: doctor().splitlines()))
    return [
        *sections,
        Section("The running gateway", lambda: running(settings)),
        Section(f"The last {BOOTS} boots", lambda: boot_stories(logs / "_boot")),
        Section(f"The last {LOG_LINES} lines of the log", lambda: log_lines(folder, quotes=with_engine_log)),
        Section("The engine's log", lambda: engine_lines(folder, included=with_engine_log)),
        Section("Packages", packages),
    ]


def of_broken_settings(problems: Iterable[str]) -> list[Section]:
    """What can be told when the settings are wrong: nobody knows then where logs are."""
    said = tuple(problems)
    return [
        Section("Versions", versions),
        Section("What is wrong with the settings", lambda: said),
        Section("GPUs", gpus.described),
        Section("Packages", packages),
    ]


@dataclass(frozen=True, slots=True)
class Rendered:
    text: str
    contents: tuple[tuple[str, int], ...]
    """(title, lines) of each section."""


def render(sections: Iterable[Section], *, at: str, redact: Callable[[str], str]) -> Rendered:
    """The whole file."""
    parts = [
        f"WakeGate report, {at}\n",
        "Secrets that are known here were taken out, and what looks like one. Read it all the same before you send\n"
        "it: it names your settings, your models, the names of your keys, and when they were used.\n",
    ]
    contents: list[tuple[str, int]] = []
    for section in sections:
        lines = [shown(redact(line)[:LONGEST_LINE].encode("utf-8", "replace")) for line in _lines(section)]
        contents.append((section.title, len(lines)))
        parts.append(f"\n=== {section.title} ===\n\n" + "".join(f"{line}\n" for line in lines or ["(nothing)"]))
    return Rendered("".join(parts), tuple(contents))


def _lines(section: Section) -> list[str]:
    lines: list[str] = []
    try:
        lines.extend(section.lines())
    except Exception as error:  # a report of what is broken must not break on it: it tells of it instead
        lines.append(f"could not be collected: {type(error).__name__}: {error}")
    return lines


def secrets_of(settings: Settings, environ: Mapping[str, str]) -> Iterator[str]:
    """Everything on this machine that must not be in a report, as far as we can know."""
    yield from settings.secrets()
    yield from secrets_in(settings.engine_command)
    yield from secrets_in(settings.engine_args)
    yield from secrets_in(settings.engine_stop_command)
    yield from (value for name, value in settings.engine_env if is_secret_name(name))
    yield from secrets_around(environ)
    try:
        yield (settings.data_dir / "keys" / "first-key.txt").read_text("utf-8", "replace").strip()
    except OSError:
        pass  # there is none, or it is not for us to read, and then it is nowhere here


def secrets_around(environ: Mapping[str, str]) -> Iterator[str]:
    yield from (value for name, value in environ.items() if is_secret_name(name))


# --- Sections ---------------------------------------------------------------------------------------------------------


def packages() -> list[str]:
    """`name==version`, as pip has it."""
    found = {f"{each.name}=={each.version}" for each in metadata.distributions() if each.name}
    return sorted(found, key=str.lower)


def boot_stories(folder: Path) -> Iterator[str]:
    stories = sorted(folder.glob("*.log"), key=lambda path: path.name)[-BOOTS:]
    for path in stories:
        yield f"--- {path.name}"
        if path.is_symlink() or not path.is_file():
            yield "(not a file)"
            continue
        with path.open("rb") as file:
            yield from file.read(MOST).decode("utf-8", "replace").splitlines()


def log_lines(folder: Path, *, quotes: bool) -> Iterator[str]:
    """Of all boots. `quotes`: with what it quotes of an engine's words."""
    boot = ""
    left_out = 0
    for line in last(find(folder), Wanted(), LOG_LINES):
        if not quotes and _is_quote(line.text):
            left_out += 1
            continue
        if line.boot != boot:
            boot = line.boot
            yield f"--- {boot}"
        yield line.text
    if left_out:
        yield f"({left_out} lines that quote the engine are left out: it may have repeated prompts. --with-engine-log)"


def _is_quote(text: str) -> bool:
    return str((parse_line(text) or {}).get("message", text)).removeprefix("[gateway] ").startswith(ENGINE_SAID)


def engine_lines(folder: Path, *, included: bool) -> Iterator[str]:
    boots: list[BootFiles] = find(folder, engine=True)
    if not boots:
        return
    if not included:
        yield f"{boots[-1].size} bytes of the newest boot, not in here: engines may write down prompts."
        yield "If you know that it holds none, or have read it: wakegate report --with-engine-log"
        return
    yield f"--- {boots[-1].stamp}"
    yield from (line.text for line in last(boots[-1:], Wanted(), ENGINE_LINES))


def running(settings: Settings) -> Iterator[str]:
    """What a gateway on this machine tells everybody; no key is sent, since nobody knows who listens there."""
    host = settings.host if settings.host not in ("0.0.0.0", "::", "") else "127.0.0.1"  # noqa: S104  not bound to
    tls = settings.tls_cert is not None
    for port, paths in (
        (settings.port_health, ("/ping", "/readyz", "/livez")),
        (settings.port, ("/health",)),
    ):
        for path in paths:
            yield f"--- {port}{path}"
            yield from _ask(host, port, path, tls=tls and port == settings.port)
    apart = settings.metrics_port
    yield f"--- {apart or settings.port}/metrics"
    yield from _ask(host, apart or settings.port, "/metrics", tls=tls and apart is None)


def _ask(host: str, port: int, path: str, *, tls: bool) -> Iterator[str]:
    if tls:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # our own machine, under whatever name
        connection: http.client.HTTPConnection = http.client.HTTPSConnection(
            host, port, timeout=PATIENCE, context=context
        )
    else:
        connection = http.client.HTTPConnection(host, port, timeout=PATIENCE)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        body = answer.read(MOST).decode("utf-8", "replace")
    except (OSError, http.client.HTTPException, UnicodeError) as error:
        yield f"no answer: {error or type(error).__name__}"
        return
    finally:
        connection.close()
    yield f"status {answer.status}"
    yield from _pretty(body).splitlines()


def _pretty(body: str) -> str:
    try:
        return json.dumps(json.loads(body), ensure_ascii=False, indent=1)
    except (ValueError, RecursionError):
        return body
