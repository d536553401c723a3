"""Takes secrets out of what is written down: known ones in every form they are met in, and what looks like a key.

    >>> redact = Redactor(["s3cret/key"])
    >>> redact("GET https://host/?token=abc and s3cret%2Fkey, then Bearer abcdefgh")
    'GET https://host/?token=… and …, then Bearer …'

Compiled patterns, and a check before them that costs little where nothing matches, so that every line goes through it,
on the threads of the logs: alone, or many of them as one text, which is as quickly seen to hold nothing. The hooks at
the end send uncaught exceptions the same way: vendors' clients like to put whole URLs, key included, into theirs.
"""

import asyncio
import base64
import json
import re
import sys
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Any
from urllib.parse import quote, quote_plus

GONE = "…"
SHORTEST = 4
"""Characters of a known secret. Shorter ones would take words apart, and are not secret."""

_PATTERNS = r"""
  (?P<before>
    \b(?:[Bb]earer|BEARER|[Bb]asic|BASIC)[ ]+ (?=[A-Za-z0-9._~+/-]{8})
  | [?&;](?:[A-Za-z_-]*(?:[Kk]ey|KEY|[Tt]oken|TOKEN|[Ss]ecret|SECRET|[Pp]assword|[Ss]ignature)|sig)=
  | \b[Xx]-(?:[Aa][Pp][Ii]-[Kk][Ee][Yy]|[Aa]uth-[Tt]oken)['"]?\ ?[:=]\ ?['"]?
  | \b[a-z][a-z0-9+.-]{1,15}://(?=[^\s/?\#@'"]*@)
  )
  [^\s&;"'\\,<>@\]})]+
| \b(?:sk|rk|pk)-[A-Za-z0-9_-]{16,}
| \b(?:wk|ws|ak|as)-[A-Za-z0-9]{16,}
| \b(?:hf|rpa|ghp|gho|github_pat|glpat|xoxb|nvapi)[_-][A-Za-z0-9_-]{16,}
| \beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*
"""
"""What stands in `before` is kept: it says what was taken out."""
_MARKS = (
    *("earer ", "EARER ", "asic ", "BASIC ", "?", "&", ";", "x-a", "x-A", "X-a", "X-A", "://"),
    *("sk-", "rk-", "pk-", "wk-", "ws-", "ak-", "as-", "hf_", "hf-", "rpa_", "rpa-", "ghp", "gho"),
    *("github_pat", "glpat", "xoxb", "nvapi", "eyJ"),
)
"""Whatever `_PATTERNS` matches has one of these in it, and no line of ours has: `-key` would be in each of the key
`api-key`. Looking for all of them takes 2 µs a line, the patterns 20."""


class Redactor:
    """`redact(text)` is the text without secrets. Give it every secret that this process knows."""

    def __init__(self, secrets: Iterable[str]) -> None:
        self._forms: set[str] = set()
        self._known: re.Pattern[str] | None = None
        self._signs: tuple[str, ...] = _MARKS
        """A text without any of these has nothing to take out."""
        self._looks_like_one = re.compile(_PATTERNS, re.VERBOSE)
        self.learn(secrets)

    def __repr__(self) -> str:
        return f"<Redactor of {len(self._forms)} forms>"

    def learn(self, secrets: Iterable[str]) -> None:
        """Further ones, such as a key that was made only now. From any thread."""
        self._forms = self._forms | {form for secret in secrets for form in forms_of(secret)}
        known = "|".join(re.escape(form) for form in sorted(self._forms, key=lambda form: (-len(form), form)))
        self._known = re.compile(known) if known else None
        self._signs = (*_MARKS, *self._forms)  # the last, so that another thread has the pattern for what it sees

    def __call__(self, text: str) -> str:
        for sign in self._signs:
            if sign in text:
                break
        else:
            return text
        if self._known is not None:
            text = self._known.sub(GONE, text)
        return self._looks_like_one.sub(_keep_before, text)


def _keep_before(match: "re.Match[str]") -> str:
    return f"{match['before'] or ''}{GONE}"


def forms_of(secret: str) -> Iterator[str]:
    """The secret as it is, as URLs, JSON and Python write it, and as base64 has it inside of anything."""
    secret = secret.strip()
    lines = secret.splitlines()
    if len(lines) > 1:  # a PEM file: no line of it may stand anywhere
        for line in lines:
            if len(line.strip()) >= 16:
                yield from forms_of(line)
    if len(secret) < SHORTEST:
        return
    yield secret
    for escaped in (quote(secret, safe=""), quote(secret), quote_plus(secret)):
        yield escaped
        yield re.sub("%[0-9A-F]{2}", lambda found: found[0].lower(), escaped)
    in_json = json.dumps(secret)[1:-1]
    yield in_json
    yield in_json.replace("/", "\\/")
    yield json.dumps(secret, ensure_ascii=False)[1:-1]
    yield repr(secret)[1:-1]
    yield from _inside_base64(secret.encode())


def _inside_base64(secret: bytes) -> Iterator[str]:
    """The characters that the secret makes wherever it stands in what was encoded (`user:secret`): three ways to begin,
    without the characters at both ends that neighbours have a part in."""
    if len(secret) < 6:
        return
    for before in range(3):
        encoded = base64.b64encode(b"\0" * before + secret).rstrip(b"=").decode()
        whole = encoded[-(-before * 8 // 6) : (before + len(secret)) * 8 // 6]
        yield whole
        yield whole.replace("+", "-").replace("/", "_")


# --- Exceptions that nobody caught ------------------------------------------------------------------------------------


def describe(error: BaseException, redact: Callable[[str], str]) -> str:
    """The traceback as Python shows it, without secrets. No values of variables stand in it."""
    return redact("".join(traceback.format_exception(error))).rstrip("\n")


def hook_exceptions(redact: Callable[[str], str], tell: Callable[[str], None] | None = None) -> Callable[[], None]:
    """Uncaught exceptions of the main thread, of other threads and of finalizers go to stderr without secrets, and to
    `tell`. Returns what undoes it."""
    before = sys.excepthook, threading.excepthook, sys.unraisablehook

    def write(heading: str, error: BaseException | None, kind: type[BaseException]) -> None:
        said = describe(error, redact) if error is not None else kind.__name__
        text = f"{heading}\n{said}" if heading else said
        try:
            sys.stderr.write(text + "\n")
            sys.stderr.flush()
        except (OSError, ValueError, AttributeError):
            pass  # there is nobody to hear it there
        if tell is not None:
            tell(text)

    def of_main(kind: type[BaseException], error: BaseException, _trace: TracebackType | None) -> None:
        write("", error, kind)

    def of_thread(args: Any) -> None:
        if args.exc_type is not SystemExit:
            name = args.thread.name if args.thread is not None else "?"
            write(f"Exception in thread {name}:", args.exc_value, args.exc_type)

    def of_finalizer(args: Any) -> None:
        write(redact(f"{args.err_msg or 'Exception ignored in'}: {args.object!r}"), args.exc_value, args.exc_type)

    def undo() -> None:
        sys.excepthook, threading.excepthook, sys.unraisablehook = before

    sys.excepthook, threading.excepthook, sys.unraisablehook = of_main, of_thread, of_finalizer
    return undo


def loop_handler(
    redact: Callable[[str], str], tell: Callable[[str], None]
) -> Callable[[asyncio.AbstractEventLoop, dict[str, Any]], None]:
    """For `loop.set_exception_handler`: what asyncio would log, without secrets."""

    def handle(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        parts = [str(context.get("message") or "an exception in the event loop")]
        parts += [
            f"{name}: {context[name]!r}" for name in ("task", "future", "handle") if context.get(name) is not None
        ]
        text = redact("\n".join(parts))
        error = context.get("exception")
        tell(f"{text}\n{describe(error, redact)}" if isinstance(error, BaseException) else text)

    return handle
