"""Whose a line, a call or a compiled library is: the names under which a profile is added up. Pure."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePath

AIOHTTP = "aiohttp's server"
UVLOOP = "uvloop"
LOOP = "the event loop itself"
PYDANTIC = "pydantic_core"
STANDARD = "Python's own library"
OTHERS = "other packages"
WEB = "gateway.web"
PROXY = "gateway.proxy"
CONDUCTOR = "the conductor, gateway.policy"
RECORDS = "gateway.records"
REST = "the rest of the gateway"

ROOMS = (AIOHTTP, LOOP, UVLOOP, STANDARD, PYDANTIC, OTHERS, WEB, PROXY, CONDUCTOR, RECORDS, REST)
"""In the order in which they are shown: what the gateway is built on, then its own."""
OURS = frozenset({WEB, PROXY, CONDUCTOR, RECORDS, REST})

_PACKAGES = dict.fromkeys(("aiohttp", "multidict", "yarl", "propcache", "frozenlist", "aiosignal"), AIOHTTP)
_PACKAGES |= {"uvloop": UVLOOP, "pydantic_core": PYDANTIC, "pydantic": PYDANTIC}
_PLACES = {
    "web/": WEB,
    "proxy/": PROXY,
    "policy/": CONDUCTOR,
    "conductor.py": CONDUCTOR,
    "telling.py": CONDUCTOR,
    "records/": RECORDS,
}
"""Of the gateway's own files."""
_INSTALLED = re.compile(r".*/(?:site|dist)-packages/(\w+)", re.DOTALL)
_STARTS = frozenset({"site-packages", "dist-packages", "gateway", "asyncio"})
_OF_A_PACKAGE = re.compile(r"\b(" + "|".join(_PACKAGES) + r")\.")


def room_of(path: str, root: str) -> str:
    """Whose a file is. `root`: the folder of this repository."""
    if (found := _INSTALLED.match(path)) is not None:
        return _PACKAGES.get(found[1], OTHERS)
    if path.endswith("/asyncio/runners.py"):
        return LOOP  # the outermost line: all that the loop does by itself, or lets compiled code do, happens "in" it
    if not path.startswith(f"{root}/"):
        return STANDARD
    inside = path.removeprefix(f"{root}/").removeprefix("gateway/")
    return next((room for place, room in _PLACES.items() if inside.startswith(place)), REST)


def short(line: str) -> str:
    """A path without what stands before its package."""
    path, _, number = line.rpartition(":")
    names = PurePath(path).parts
    starts = [at + (name[-9:] == "-packages") for at, name in enumerate(names) if name in _STARTS]
    return f"{'/'.join(names[max(starts, default=-1) :])}:{number}"


# --- Calls ------------------------------------------------------------------------------------------------------------

Function = tuple[str, int, str]
"""(path, line, name), as pstats has it."""
Stats = Mapping[Function, tuple[int, int, float, float, Mapping[Function, tuple[int, int, float, float]]]]
"""By function: calls that are no recursion, calls, seconds in itself, seconds in all, and the same by caller, the first
two the other way round."""


@dataclass(slots=True)
class Calls:
    """What a room was called."""

    python: float = 0
    built_in: float = 0
    seconds: float = 0
    """As the profiler saw them, which makes short functions dearer than they are."""

    @property
    def all(self) -> float:
        return self.python + self.built_in


def calls_by_room(stats: Stats, root: str) -> dict[str, Calls]:
    """A built-in function of a package is that package's; any other (`len`, `dict.get`) is its caller's."""
    found: dict[str, Calls] = {}

    def of(room: str) -> Calls:
        return found.setdefault(room, Calls())

    for (path, _, name), (_, calls, seconds, _, callers) in stats.items():
        if path != "~":
            room = of(room_of(path, root))
            room.python += calls
            room.seconds += seconds
            continue
        package = _OF_A_PACKAGE.search(name)
        for caller, (times, _, spent, _) in callers.items():
            room = of(_PACKAGES[package[1]] if package else room_of(caller[0], root))
            room.built_in += times
            room.seconds += spent
    return found


# --- Libraries --------------------------------------------------------------------------------------------------------

KERNEL = "the kernel"
LIBRARIES = (
    (KERNEL, re.compile(r"\[")),
    (UVLOOP, re.compile(r"loop\.cpython")),
    ("aiohttp's compiled parts", re.compile(r"_(http_parser|http_writer|multidict|helpers_c|quoting_c|frozenlist)\b")),
    (PYDANTIC, re.compile(r"_pydantic_core")),
    ("libc", re.compile(r"(libc|libm|libpthread|ld-linux[\w-]*|ld-musl[\w-]*)[.\-]")),
    ("TLS and hashes", re.compile(r"lib(crypto|ssl)|_hashlib|_ssl")),
)
INTERPRETER = "the interpreter and its modules"


def library_of(name: str) -> str:
    """Whose a shared object is, by the name that perf gives it."""
    return next((library for library, pattern in LIBRARIES if pattern.match(name)), INTERPRETER)


def shares_by_library(report: Iterable[str]) -> dict[str, float]:
    """From lines of `perf report --field-separator ';' --fields overhead,dso`: each library's share of one."""
    found: dict[str, float] = {}
    for line in report:
        share, _, name = line.partition(";")
        if name:
            library = library_of(name.strip())
            found[library] = found.get(library, 0.0) + float(share.strip().rstrip("%")) / 100
    return dict(sorted(found.items(), key=lambda pair: -pair[1]))
