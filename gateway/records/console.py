"""What people read on the console: one line per happening, and the READY banner with something to paste.

Lines begin with `[gateway]`, as guides and scripts expect. A request's line carries ids, numbers and codes, never a
key, a prompt or an answer. What strangers or engines said is shown with its control characters escaped: it cannot end
a line, begin another, or speak to the terminal.

Until the logs are there, and after their end, lines are printed where they are said; in between (`install`) they go to
the logs, which write the console on a thread of their own.
"""

import json
import logging
import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Protocol

from gateway.policy.estimate import Progress, percent, spell

LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}

_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0))} | {
    ord("\n"): "\\n",
    ord("\r"): "\\r",
    ord("\t"): "\\t",
    0x2028: "\\u2028",
    0x2029: "\\u2029",
}
_CONTROLS_IN_A_BLOCK = {code: name for code, name in _CONTROLS.items() if code != ord("\n")}


class Sink(Protocol):
    """Who takes the lines once the logs are there (`gateway.records.logs.Logs`)."""

    def say(self, line: str, level: str = "info", *, always: bool = False) -> None: ...

    def record(self, text: str, level: str) -> None: ...

    def show(self, block: str) -> None: ...

    def loading(self, line: str, *, mark: bool) -> None: ...


_sink: Sink | None = None


def install(sink: Sink) -> None:
    """From now on lines go to the logs, which write the console on a thread of their own."""
    global _sink
    _sink = sink


def uninstall() -> None:
    """Back to the console itself: before the logs are closed, so that the last lines are seen."""
    global _sink
    _sink = None


def escaped(text: str, *, keep_lines: bool = False) -> str:
    """Without anything that could end a line, or speak to a terminal."""
    if text.isprintable():
        return text
    return text.translate(_CONTROLS_IN_A_BLOCK if keep_lines else _CONTROLS)


def say(line: str, level: str = "info", *, always: bool = False) -> None:
    """One happening. `always`: on the console whatever LOG_TO and LOG_LEVEL say: guides and scripts wait for it."""
    if _sink is not None:
        _sink.say(line, level, always=always)
    else:
        _print(f"[gateway] {escaped(line)}")


def show(block: str) -> None:
    """Lines of our own making, on the console only."""
    if _sink is not None:
        _sink.show(block)
    else:
        _print(block)


def show_loading(line: str, *, mark: bool) -> None:
    """How far a start is. On a terminal the last line is rewritten by each, and an empty one takes it away; elsewhere,
    and in the logs' files, those are lines that are marked: one for each step."""
    if _sink is not None:
        _sink.loading(line, mark=mark)
    elif mark:
        _print(escaped(line))


def show_once(block: str) -> None:
    """For the person who looks at the terminal at this moment: no log keeps it, and nothing is taken out of it."""
    _print(block)


def _print(block: str) -> None:
    """A console that is gone is nobody's reason to fail a request."""
    try:
        sys.stdout.write(block + "\n")
        sys.stdout.flush()
    except (OSError, ValueError):
        pass  # nobody reads it any more


class OneLine(logging.Formatter):
    """A message on one line, whatever stands in it; a traceback after it on its own lines."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        record.message = escaped(record.message)
        return super().formatMessage(record)

    def formatException(self, ei: Any) -> str:
        return escaped(super().formatException(ei), keep_lines=True)


class ToConsole(logging.Handler):
    """Where the logging module's records go: the same way as what is said."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = self.format(record)
        except (TypeError, ValueError):
            self.handleError(record)  # a library's format string that does not fit its arguments
            return
        if _sink is not None:
            _sink.record(text, _level_of(record.levelno))
        else:
            _print(f"[gateway] {text}")


def _level_of(number: int) -> str:
    return next((name for name, least in reversed(LEVELS.items()) if number >= least), "debug")


def set_up_logging(level: str) -> None:
    """The libraries' and our own log records go to the console in the same form."""
    handler = ToConsole()
    handler.setFormatter(OneLine("%(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(max(logging.WARNING, LEVELS[level]))
    logging.getLogger("gateway").setLevel(LEVELS[level])
    logging.raiseExceptions = False  # a closed console must not print tracebacks of its own


@dataclass(frozen=True, slots=True)
class Welcome:
    """What the READY banner tells."""

    bases: tuple[tuple[str, str], ...]
    """(for whom, base URL): addresses that work from where the reader sits, the likeliest first."""
    model: str
    engine: str
    seconds: float
    key: str | None
    """How a shell gets the key: `$(cat …)` or `$API_KEY`; None when keys are off."""
    is_demo: bool


def ready_banner(welcome: Welcome) -> str:
    """Blocks that work as pasted, whatever stands in a model's name: curl for a shell, the SDK for Python."""
    base = welcome.bases[0][1]
    bearer = f' \\\n  -H "Authorization: Bearer {welcome.key}"' if welcome.key else ""
    body = json.dumps(
        {"model": welcome.model, "stream": True, "max_tokens": 32, "messages": [{"role": "user", "content": "Hello!"}]},
        ensure_ascii=False,
    )
    key = 'os.environ["API_KEY"]' if welcome.key else '"none"'
    lines = [
        "",
        f"READY after {welcome.seconds:.1f} s: {welcome.model} ({welcome.engine})",
        "",
        *(f"  {whom + ':':<22}{url}" for whom, url in welcome.bases),
        "",
        "Try it, with a key of yours in API_KEY:" if welcome.key == "$API_KEY" else "Try it:",
        "",
        f"curl -N {shlex.quote(base + '/chat/completions')}{bearer} \\\n"
        f"  -H 'Content-Type: application/json' \\\n  -d {shlex.quote(body)}",
        "",
        "With the OpenAI SDK:",
        "",
        *((f'export API_KEY="{welcome.key}"', "") if welcome.key and welcome.key != "$API_KEY" else ()),
        *(("import os",) if welcome.key else ()),
        "from openai import OpenAI",
        f"client = OpenAI(base_url={json.dumps(base, ensure_ascii=False)}, api_key={key})",
        f"print(client.chat.completions.create(model={json.dumps(welcome.model, ensure_ascii=False)}, max_tokens=32,",
        '      messages=[{"role": "user", "content": "Hello!"}]).choices[0].message.content)',
        "",
    ]
    if welcome.is_demo:
        lines += [
            "This is the demo model: random weights, it talks nonsense. Set MODEL to a real one, for example",
            "  MODEL=Qwen/Qwen2.5-0.5B-Instruct-GGUF:Q4_K_M ./start.sh",
            "",
        ]
    return "\n".join(lines)


BAR = 12
"""So that a line with everything in it fits 80 columns."""
DOING: Mapping[str, str] = MappingProxyType(
    {
        "ordered": "starting",
        "queued": "waiting for a machine",
        "booting": "starting the engine",
        "checking": "looking at the model",
        "downloading": "downloading",
        "loading": "loading weights",
        "filling": "filling the GPU",
        "compiling": "compiling",
        "warming": "warming up",
        "waking": "waking up",
        "unreachable": "cannot be reached yet",
    }
)
"""Phases, for people."""


def loading_line(progress: Progress, file: str = "") -> str:
    """`[LOADING] #####------- 43% 12.1/28.0 GiB - loading weights... (8s, ~25 s left)`

    Without a bar where nobody knows how far it is.
    """
    bar = ""
    if progress.ratio is not None:
        done = int(progress.ratio * BAR)
        bar = f"{'#' * done}{'-' * (BAR - done)} {percent(progress.ratio)}"
    doing = " ".join(filter(None, (DOING.get(progress.phase, progress.phase), file)))
    time = f"{progress.elapsed:.0f}s"
    if progress.seconds_left is not None:
        time += f", ~{spell(progress.seconds_left)} left"
    elif progress.late:
        time += f", {progress.left()}"
    known = " ".join(filter(None, (bar, progress.detail)))
    return f"[LOADING] {known} - {doing}... ({time})" if known else f"[LOADING] {doing}... ({time})"
