"""What people read on the console: one line per happening, and the READY banner with something to paste.

Lines begin with `[gateway]`, as guides and scripts expect. A request's line carries ids, numbers and codes, never a
key, a prompt or an answer. What strangers or engines said is shown with its control characters escaped: it cannot end
a line, begin another, or speak to the terminal.
"""

import json
import logging
import shlex
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0))} | {
    ord("\n"): "\\n",
    ord("\r"): "\\r",
    ord("\t"): "\\t",
    0x2028: "\\u2028",
    0x2029: "\\u2029",
}
_CONTROLS_IN_A_BLOCK = {code: name for code, name in _CONTROLS.items() if code != ord("\n")}


def say(line: str) -> None:
    """One line on the console."""
    show(f"[gateway] {line.translate(_CONTROLS)}")


def show(block: str) -> None:
    """Lines of our own making. A console that is gone is nobody's reason to fail a request."""
    try:
        sys.stdout.write(block + "\n")
        sys.stdout.flush()
    except (OSError, ValueError):
        pass  # nobody reads it any more


class OneLine(logging.Formatter):
    """A message on one line, whatever stands in it; a traceback after it on its own lines."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        record.message = record.message.translate(_CONTROLS)
        return super().formatMessage(record)

    def formatException(self, ei: Any) -> str:
        return super().formatException(ei).translate(_CONTROLS_IN_A_BLOCK)


def set_up_logging(level: str) -> None:
    """The libraries' and our own log records go to the console in the same form."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(OneLine("[gateway] %(levelname)s %(name)s: %(message)s"))
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
        "Try it:",
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


BAR = 20


def progress_line(phase: str, ratio: float | None, detail: str) -> str:
    """`downloading ########------------ 40% 1.9 GiB of 4.9 GiB`; without a bar where nobody knows how far it is."""
    parts = [phase]
    if ratio is not None:
        done = int(ratio * BAR)
        parts += ["#" * done + "-" * (BAR - done), f"{ratio:.0%}"]
    if detail:
        parts.append(detail)
    return " ".join(parts)


def request_line(facts: Iterable[tuple[str, object]]) -> str:
    """`key=value` pairs; empty ones are left out."""
    return " ".join(f"{name}={value}" for name, value in facts if value not in ("", None))
