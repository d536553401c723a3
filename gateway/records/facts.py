"""What is worth knowing of this installation, in lines for a boot log and a bug report: no secret is in any.

Versions, where it runs, which settings differ from their defaults, and how the engine was called.
"""

import platform
import re
import shlex
import sys
from collections.abc import Iterable, Iterator
from importlib import metadata
from itertools import pairwise
from pathlib import Path

from gateway.config import SETTINGS, Settings
from gateway.surroundings import Surroundings

MASK = "…"


def version() -> str:
    """Ours: what was installed, else what the checkout says of itself."""
    try:
        return metadata.version("wakegate")
    except metadata.PackageNotFoundError:
        import tomllib
    try:
        text = (Path(__file__).resolve().parents[2] / "pyproject.toml").read_text("utf-8")
        return str(tomllib.loads(text)["project"]["version"])
    except (OSError, ValueError, KeyError):
        return "unknown"


def versions() -> Iterator[str]:
    """Us, Python and the system, one line each."""
    yield f"WakeGate {version()}"
    yield f"Python {platform.python_version()} ({platform.python_implementation()}, {sys.executable})"
    # Not platform.platform(), which runs a program to learn what the processor is called: 5 ms of each start.
    yield f"system {platform.system()} {platform.release()}, {' '.join(platform.libc_ver())}, {platform.machine()}"


def around_us(around: Surroundings, settings: Settings) -> Iterator[str]:
    """Where we run, and what that place allows."""
    kind = f"{around.platform}{', in a container' if around.in_container else ''}"
    yield f"platform {kind}"
    memory = "unknown" if around.memory is None else f"{around.memory / 2**30:.1f} GiB"
    yield f"cpus {around.cpus}, memory {memory}, open files {around.open_files}"
    mount = around.mount_of(settings.data_dir)
    lies = f" ({mount.kind} at {mount.point})" if mount is not None else ""
    shared = ", on a network" if around.on_network(settings.data_dir) else ""
    yield f"DATA_DIR {settings.data_dir}{lies}{shared}"


def settings_that_differ(settings: Settings) -> Iterator[str]:
    """`NAME=value` for each setting that is not as it is when nobody says anything; secrets, and what may hold one, as
    `…`."""
    for setting in SETTINGS.values():
        value = getattr(settings, setting.field)
        if value != setting.default:
            yield f"{setting.name}={MASK if setting.kind.hidden else setting.kind.spell(value)}"


def boot_facts(settings: Settings, around: Surroundings, model: str) -> dict[str, Iterable[str]]:
    """For BootLog.begin. `model`: what will be served, in words."""
    return {
        "about": versions(),
        "place": around_us(around, settings),
        "setting": settings_that_differ(settings),
        "model": (model,),
    }


# --- The engine's command line ----------------------------------------------------------------------------------------

_TELLING = r"(?:[a-z0-9]*[-_])*(?:api-?key|key|token|secret|password|passwd|auth|authorization|header)"
_OPTION = re.compile(rf"-{{1,2}}{_TELLING}", re.IGNORECASE)
_OPTION_WITH_VALUE = re.compile(rf"(-{{1,2}}{_TELLING}=).*", re.IGNORECASE | re.DOTALL)
_NAME = re.compile(_TELLING, re.IGNORECASE)
_ASSIGNMENT = re.compile(rf"\b({_TELLING}\s*[=:]\s*)[^\s'\"]+", re.IGNORECASE)
_USER_IN_URL = re.compile(r"(?<=://)[^/?#\s@]*@")
_QUERY_IN_URL = re.compile(r"(://[^?#\s]*)[?#]\S*")
_LOOKS_SECRET = re.compile(r"\b(?:sk|rpa|hf|wk|ws|gsk|ghp)[-_][A-Za-z0-9_-]{8,}")


def masked_command(argv: Iterable[str]) -> str:
    """As a shell would have it, without what looks like a secret: `llama-server --api-key … --port 1`."""
    words: list[str] = []
    hide_next = False
    for word in argv:
        if hide_next:
            words.append(MASK)
            hide_next = False
            continue
        hide_next = _OPTION.fullmatch(word) is not None
        words.append(_quoted(_masked_word(word)))
    return " ".join(words)


def _masked_word(word: str) -> str:
    word = _OPTION_WITH_VALUE.sub(rf"\1{MASK}", word)
    word = _USER_IN_URL.sub(f"{MASK}@", word)
    word = _QUERY_IN_URL.sub(rf"\1?{MASK}", word)
    word = _ASSIGNMENT.sub(rf"\1{MASK}", word)
    return _LOOKS_SECRET.sub(MASK, word)


def _quoted(word: str) -> str:
    return word if re.fullmatch(rf"[\w@%+=:,./{MASK}-]+", word) else shlex.quote(word)


def secrets_in(argv: Iterable[str]) -> Iterator[str]:
    """What `masked_command` hides behind an option that says that it is secret: for whoever takes secrets out."""
    for word, following in pairwise((*argv, "")):
        if _OPTION.fullmatch(word) and following:
            yield following
        elif _OPTION_WITH_VALUE.fullmatch(word):
            yield word.partition("=")[2]


def is_secret_name(name: str) -> bool:
    """Whether a variable called so holds a secret, as far as its name tells: `HF_TOKEN`, `AWS_SECRET_ACCESS_KEY`."""
    return _NAME.fullmatch(name) is not None
