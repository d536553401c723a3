"""LOOKING: everything that the doctor asks the machine. The only file here with I/O; it decides nothing.

Each errand runs on a daemon thread of its own, with one deadline for all of them: a dead network volume or a broken
GPU driver never answers, and must cost two seconds and one finding, not the report. Connections are made to this
machine's own addresses only, as the kernel's table of listeners has them.
"""

import ctypes
import gzip
import http.client
import importlib.metadata
import importlib.util
import mmap
import os
import re
import shutil
import socket
import ssl
import sys
import sysconfig
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

from gateway import assembly, config, gpus
from gateway.config import SETTINGS, Settings
from gateway.doctor import sockets
from gateway.doctor.case import (
    Build,
    CertificateSeen,
    EngineSeen,
    Facts,
    Folder,
    GatewaySeen,
    KeysFile,
    Listener,
    ModelSeen,
    PagesAsked,
    Request,
)
from gateway.doctor.pgo import has_pgo
from gateway.doctor.sockets import Answer
from gateway.doctor.storage import HANGS_AFTER
from gateway.gpus import GpusSeen, Version
from gateway.providers.local.commands import Installed
from gateway.providers.local.models import models
from gateway.providers.local.models.model_error import ModelError
from gateway.providers.local.planning.planner import vllm_version
from gateway.providers.local.provider import find_installed
from gateway.records import onlookers
from gateway.records.lines import parse_line
from gateway.records.logs import names
from gateway.records.starts import StartTimes
from gateway.surroundings import Surroundings

TOLD = (
    "PORT",
    "PORT_HEALTH",
    "RUNPOD_INIT_TIMEOUT",
    "RUNPOD_GPU_COUNT",
    "NVIDIA_VISIBLE_DEVICES",
    "AIOHTTP_NO_EXTENSIONS",
    "CUDA_VISIBLE_DEVICES",
)
"""The variables that checks may know of. None of them is a secret."""
ANSWER_WITHIN = 0.5
"""Seconds in which a port of this machine answers, or is taken for silent."""
ANSWER_MAX = 16 * 1024
MOST_LISTENERS = 24
LOG_FILES = 12
LOG_TAIL = 512 * 1024
"""Bytes of each log file, the newest ones."""
CAN_BIND_LOW = 10
"""CAP_NET_BIND_SERVICE (capability.h)."""
UNSYNCHRONISED = 0x40
"""STA_UNSYNC (timex.h)."""


def gather(
    settings: Settings,
    around: Surroundings,
    environ: Mapping[str, str],
    *,
    proc: Path = Path("/proc"),
    nvml: Any = None,
    within: float = HANGS_AFTER,
) -> Facts:
    """Look at everything once. Takes `within` seconds at most, and what the imports take."""
    # First, and here: the kernel answers at once, and what the ports are asked depends on it.
    listeners = look_at_listeners(proc)
    errands: dict[str, Callable[[], object]] = {
        "folder": lambda: look_at_folder(settings.data_dir),
        "slowest_start": StartTimes(settings.data_dir / "state" / "starts.json").slowest,
        "requests": lambda: look_at_log(settings.data_dir / "logs" / settings.log_name),
        "pages": lambda: look_at_pages(settings.data_dir / "logs" / settings.log_name),
        "model": lambda: look_at_model(settings),
        "keys_file": lambda: look_at_keys(settings.api_keys_file),
        "certificate": lambda: look_at_certificate(settings),
        "gpus": lambda: look_at_gpus(nvml),
        "builds": lambda: look_at_builds(find_installed()),
        "gateway": lambda: look_at_gateway(settings, listeners, proc),
        "health_server": lambda: look_at_health_server(settings, listeners),
        "engines": lambda: look_at_engines(settings, listeners),
        "readable": lambda: tuple(look_at_secrets(settings, around, environ)),
    }
    found, failed = run_errands(errands, within)
    if found.pop("health_server", False):
        listeners = tuple(
            replace(one, process="a WakeGate's health server") if one.port == settings.port_health else one
            for one in listeners
        )
    folder = found.pop("folder", None)
    if folder is None:
        why = failed.pop("folder")
        folder = Folder(settings.data_dir, problem="" if why == HANGS else why, hangs=why == HANGS)
    return Facts(
        told={name: environ[name] for name in TOLD if environ.get(name)},
        folder=folder,
        listeners=listeners,
        installed=find_installed(),
        engine_program=not settings.engine_command or shutil.which(settings.engine_command[0]) is not None,
        host_problem=host_problem(settings.host),
        lowest_port=_number(proc / "sys/net/ipv4/ip_unprivileged_port_start", 1024),
        may_listen_low=_may_listen_low(proc),
        run_folders=any(os.access(place, os.W_OK) for place in _run_places()),
        python=tuple(sys.version_info[:3]),
        python_optimized=sys.flags.optimize > 0,
        python_pgo=has_pgo(sysconfig.get_config_vars()),
        aiohttp=_version("aiohttp"),
        aiohttp_compiled=_aiohttp_is_compiled(),
        uvloop=importlib.util.find_spec("uvloop") is not None,
        now=time.time(),
        clock_synchronised=clock_is_synchronised(),
        unchecked=tuple((WORDS[name], why) for name, why in failed.items()),
        **found,
    )


WORDS = {
    "slowest_start": "How long starts took",
    "requests": "The request log",
    "pages": "The request log, for pages,",
    "model": "The model",
    "keys_file": "API_KEYS_FILE",
    "certificate": "TLS_CERT",
    "gpus": "The GPUs",
    "builds": "How the engines were built",
    "gateway": "PORT",
    "health_server": "PORT_HEALTH",
    "engines": "Other ports of this machine",
    "readable": "Who may read the files with secrets",
}
HANGS = "no answer in time"


def run_errands(errands: Mapping[str, Callable[[], object]], within: float) -> tuple[dict[str, Any], dict[str, str]]:
    """(what came back, why the others did not). Threads that hang are left behind; they end with the process."""
    found: dict[str, Any] = {}
    failed: dict[str, str] = {}
    broken: list[BaseException] = []

    def go(name: str, errand: Callable[[], object]) -> None:
        try:
            found[name] = errand()
        except OSError as error:
            failed[name] = error.strerror or type(error).__name__
        except BaseException as error:  # handed on to the caller's thread, below
            broken.append(error)

    threads = {
        name: threading.Thread(target=go, args=(name, errand), name=f"doctor-{name}", daemon=True)
        for name, errand in errands.items()
    }
    for thread in threads.values():
        thread.start()
    until = time.monotonic() + within
    for name, thread in threads.items():
        thread.join(max(0.0, until - time.monotonic()))
        if thread.is_alive():
            failed[name] = HANGS
    if broken:
        raise broken[0]
    # A late one may still come in while this is read.
    return {name: found[name] for name in errands if name in found and name not in failed}, dict(failed)


# --- The volume ------------------------------------------------------------------------------------------------------


def look_at_folder(path: Path) -> Folder:
    """DATA_DIR: writes a file without a name into it, to see whether that works and what time it is there."""
    try:
        path = path.resolve()
    except RuntimeError:  # links in a circle, before Python 3.13; later ones leave the last link as it is
        pass
    if path.is_symlink():
        return Folder(path, problem="its links lead round in a circle")
    there = next(folder for folder in (path, *path.parents) if folder.exists())
    space = os.statvfs(there)
    folder = Folder(path, free=space.f_bavail * space.f_frsize, size=space.f_blocks * space.f_frsize)
    if there != path:
        if not there.is_dir():
            return replace(folder, problem=f"{there} is not a folder")
        if os.access(there, os.W_OK | os.X_OK):
            return folder
        return replace(folder, problem=f"it is not there, and {there} may not be written", is_forbidden=True)
    if not path.is_dir():
        return replace(folder, problem="it is not a folder")
    try:
        with tempfile.TemporaryFile(dir=path, prefix=".doctor-") as file:
            before = time.time()
            file.write(b"?")
            file.flush()
            at = os.fstat(file.fileno()).st_mtime
            after = time.time()
    except OSError as error:
        why = error.strerror or type(error).__name__
        return replace(folder, problem=why, is_forbidden=isinstance(error, PermissionError))
    return replace(folder, skew=at - before if at < before else max(0.0, at - after))


def look_at_log(folder: Path) -> tuple[Request, ...]:
    """The last requests that any worker on this volume logged, oldest first."""
    requests = [request for line in _lines(folder) if (request := request_of(line))]
    return tuple(sorted(requests, key=lambda request: request.at))


def look_at_pages(folder: Path) -> tuple[PagesAsked, ...]:
    """How often pages were asked for, as the workers on this volume summed it up."""
    return tuple(asked for line in _lines(folder) if "pages asked for" in line and (asked := pages_of(line)))


def _lines(folder: Path) -> Iterator[str]:
    """The last ones of the newest log files."""
    try:
        files = [entry for entry in os.scandir(folder) if _is_request_log(entry.name) and entry.is_file()]
    except FileNotFoundError:
        return
    for entry in sorted(files, key=lambda entry: entry.stat().st_mtime, reverse=True)[:LOG_FILES]:
        yield from _tail(entry.path)


def _is_request_log(name: str) -> bool:
    parsed = names.parse(name)
    return parsed is not None and bool(parsed.stamp) and not parsed.is_engine and not parsed.is_unfinished


def _tail(path: str) -> Iterator[str]:
    """The last lines of a log file."""
    try:
        if path.endswith(".gz"):
            with gzip.open(path, "rb") as packed:
                data = packed.read(16 * LOG_TAIL)[-LOG_TAIL:]
        else:
            with Path(path).open("rb") as file:
                file.seek(max(0, os.fstat(file.fileno()).st_size - LOG_TAIL))
                data = file.read(LOG_TAIL)
    except (OSError, EOFError):  # rotated away in this moment, or torn: the other files tell enough
        return
    yield from data.decode("utf-8", "replace").splitlines()


def request_of(line: str) -> Request | None:
    """What traffic goes by; None for another line, and for a request that was refused: it counts as no activity."""
    said = parse_line(line)
    if said is None or said["kind"] != "request" or said.get("outcome") == "refused":
        return None
    numbers = {name: said.get(name) for name in ("bytes_in", "tokens_out", "took")}
    known = {name: value for name, value in numbers.items() if isinstance(value, int | float)}
    try:
        at = datetime.fromisoformat(str(said["at"])).timestamp()
    except ValueError:
        return None
    return Request(at, str(said.get("key", "")), str(said.get("route", "")), **known)  # type: ignore[arg-type]


def pages_of(line: str) -> PagesAsked | None:
    said = parse_line(line)
    tally = onlookers.parse(str(said.get("message", ""))) if said is not None else None
    if said is None or tally is None:
        return None
    try:
        return PagesAsked(datetime.fromisoformat(str(said["at"])).timestamp(), tally)
    except ValueError:
        return None


# --- Model, keys, certificate ----------------------------------------------------------------------------------------


def look_at_model(settings: Settings) -> ModelSeen:
    """What MODEL means on this disk. Downloads nothing, reads headers only."""
    if settings.provider != "local" or settings.model is None:
        return ModelSeen()
    text = settings.model
    try:
        found = models.find(text, places=assembly.places_of(settings), wants=assembly.wants_of(settings))
    except ModelError as error:
        return ModelSeen(text, problem=error.sentence)
    return ModelSeen(text, found)


def look_at_keys(path: Path | None) -> KeysFile:
    from gateway.web import keydisk, keyfile  # only where there is such a file

    if path is None:
        return KeysFile()
    try:
        file = keydisk.take(path)
    except keydisk.Unreadable as error:
        return KeysFile(problems=(str(error),))
    reading = keyfile.read(file.raw)
    now = time.time()
    expired = tuple(key.name for key in reading.keys if key.has_expired(now))
    return KeysFile(
        problems=reading.problems,
        doubts=file.doubts(clear=bool(reading.clear)),
        in_clear=bool(reading.clear),
        count=len(reading.keys) - len(expired),
        expired=expired,
    )


def look_at_certificate(settings: Settings) -> CertificateSeen:
    if settings.tls_cert is None:
        return CertificateSeen()
    from gateway.web.tls import Certificate, CertificateError

    certificate = Certificate(settings.tls_cert, settings.tls_key)
    try:
        certificate.load()
    except CertificateError as error:
        return CertificateSeen(problem=str(error))
    return CertificateSeen(warning=certificate.warning(time.time()), ends=certificate.ends)


def look_at_secrets(settings: Settings, around: Surroundings, environ: Mapping[str, str]) -> Iterator[tuple[str, int]]:
    """Files with secrets in them that others may read. The text of `.env` is looked at, and not kept."""
    asked = environ.get(f"{config.PREFIX}ENV_FILE", "").strip()
    dotenv = Path(asked) if asked else around.checkout / ".env" if around.checkout else None
    secret = "|".join(name for setting in SETTINGS.values() if setting.secret for name in setting.names)
    if dotenv is not None and dotenv.is_file():
        text = dotenv.read_text("utf-8", "replace")
        if re.search(rf"^\s*(export\s+)?({config.PREFIX})?({secret})\s*=\s*\S", text, re.MULTILINE):
            yield from _readable(dotenv)
    if settings.tls_key is not None:
        yield from _readable(settings.tls_key)
    yield from _readable(settings.data_dir / "keys" / "first-key.txt")


def _readable(path: Path) -> Iterator[tuple[str, int]]:
    try:
        mode = path.stat().st_mode & 0o7777
    except OSError:
        return  # not there, or in a folder that keeps even us out
    if mode & 0o044:
        yield str(path), mode


# --- GPUs and engines ------------------------------------------------------------------------------------------------


def look_at_gpus(nvml: Any = None) -> GpusSeen:
    """What NVIDIA's library says. Its first call loads the driver's library, and starts no work."""
    devices = tuple(sorted(str(path) for path in Path("/dev").glob("nvidia[0-9]*")))
    return replace(gpus.look() if nvml is None else gpus.ask(nvml), devices=devices)


def look_at_builds(installed: Installed) -> dict[str, Build]:
    """How the engines were built, by the files that they consist of: none is started or imported."""
    builds = {}
    if installed.llama_cpp:
        spec = importlib.util.find_spec("llama_cpp")
        if spec is not None and spec.origin is not None:
            builds["llama-cpp-python"] = build_of_libraries((Path(spec.origin).parent / "lib").glob("libggml*"))
    if installed.llama_server:
        builds["llama-server"] = build_of_llama_server(Path(installed.llama_server).resolve())
    if installed.vllm:
        version, on_cpu = vllm_version(Path(installed.vllm))
        build = build_of_vllm(Path(installed.vllm))
        builds["vllm"] = replace(build, version=version, gpu=False if on_cpu else build.gpu)
    return builds


_GPU_LIBRARY = re.compile(r"libggml-(cuda|hip|vulkan|sycl|metal|musa|cann|opencl)\b")
_RUNTIME = re.compile(rb"libcudart\.so\.(\d{1,3})(?:\.(\d{1,3}))?\0")
"""As the dynamic section names what it needs."""


def build_of_libraries(libraries: Iterable[Path]) -> Build:
    """llama.cpp built as shared libraries, one for each kind of machine."""
    found = sorted(libraries)
    if not found:
        return Build()
    with_gpu = [path for path in found if _GPU_LIBRARY.match(path.name)]
    cuda = next((path for path in with_gpu if "cuda" in path.name), None)
    return Build(bool(with_gpu), _needs_cuda(cuda) if cuda else None)


def build_of_llama_server(program: Path) -> Build:
    """Linked to shared libraries beside it, or all in one."""
    beside = [*program.parent.glob("libggml*"), *(program.parent.parent / "lib").glob("libggml*")]
    if beside:
        return build_of_libraries(beside)
    with program.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as code:
        if code[:4] != b"\x7fELF":
            return Build()  # somebody's wrapper script: it may call anything
        has_gpu = code.find(b"ggml_cuda") >= 0 or code.find(b"ggml_vulkan") >= 0
    return Build(has_gpu, _needs_cuda(program) if has_gpu else None)


def _needs_cuda(library: Path) -> Version | None:
    with library.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as code:
        match = _RUNTIME.search(code)
        return tuple(int(part) for part in match.groups() if part) if match else None


def build_of_vllm(script: Path) -> Build:
    """By the torch that lies beside it: `cuda = '12.8'` in torch/version.py."""
    with script.open("rb") as file:
        shebang = file.readline(512).decode("utf-8", "replace")
    interpreter = re.match(r"#!\s*(/\S+/bin/python[\d.]*)\s*$", shebang)
    if interpreter is None:
        return Build()
    for version in Path(interpreter[1]).parent.parent.glob("lib/python3*/site-packages/torch/version.py"):
        said = re.search(r"^cuda\b[^=\n]*=\s*(?:'([\d.]+)'|(None))", version.read_text("utf-8"), re.MULTILINE)
        if said:
            return Build(said[1] is not None, tuple(map(int, said[1].split("."))) if said[1] else None)
    return Build()


# --- Ports -----------------------------------------------------------------------------------------------------------


def look_at_engines(settings: Settings, listeners: Iterable[Listener]) -> tuple[EngineSeen, ...]:
    """Engines on addresses that others may reach, on our own ports too: 8000 is vLLM's. All are asked at once."""
    ours = (settings.port, settings.port_health, settings.metrics_port)
    reached = {
        listener.port: listener
        for listener in sorted(listeners, key=lambda one: one.port not in ours)
        if not listener.is_loopback and listener.port not in sockets.NO_HTTP
    }
    errands = {str(port): lambda one=listener: look_at_engine(one) for port, listener in reached.items()}
    found, _ = run_errands(dict(list(errands.items())[:MOST_LISTENERS]), 3 * ANSWER_WITHIN)
    return tuple(engine for engine in found.values() if engine is not None)


def look_at_health_server(settings: Settings, listeners: Iterable[Listener]) -> bool:
    """Whether our own health server has PORT_HEALTH: it is there before the gateway is."""
    return any(_is_health_server(listener) for listener in listeners if listener.port == settings.port_health)


def look_at_listeners(proc: Path = Path("/proc")) -> tuple[Listener, ...]:
    """Every TCP port that is listened on in our network namespace, with the process where we may see it."""
    rows: list[sockets.Row] = []
    for name in ("tcp", "tcp6"):
        try:
            rows += sockets.parse_listeners((proc / "net" / name).read_text("ascii"))
        except FileNotFoundError:
            pass  # a kernel without IPv6
    owners = dict(_owners(proc, {row.inode for row in rows}))
    seen = dict.fromkeys(rows)
    return tuple(Listener(row.address, row.port, *owners.get(row.inode, ("", None))) for row in seen)


def _owners(proc: Path, inodes: set[int]) -> Iterator[tuple[int, tuple[str, int]]]:
    """(inode, (name, process)). Other users' processes show theirs to root only."""
    wanted = {f"socket:[{inode}]": inode for inode in inodes}
    for folder in proc.iterdir():
        if not folder.name.isdecimal():
            continue
        try:
            mine = [wanted[link] for link in map(_link, (folder / "fd").iterdir()) if link in wanted]
            name = (folder / "comm").read_text("utf-8", "replace").strip() if mine else ""
        except OSError:
            continue  # it has ended meanwhile, or is another user's
        for inode in mine:
            yield inode, (name, int(folder.name))


def _link(descriptor: Path) -> str:
    """Where a descriptor leads. Empty for one that is closed meanwhile: the one that lists them is always such."""
    try:
        return str(descriptor.readlink())
    except FileNotFoundError:
        return ""


def look_at_gateway(settings: Settings, listeners: Iterable[Listener], proc: Path) -> GatewaySeen | None:
    """The WakeGate on PORT, if one listens there."""
    listeners = tuple(listeners)
    mine = next((listener for listener in listeners if listener.port == settings.port), None)
    if mine is None:
        return None
    health = next((listener for listener in listeners if listener.port == settings.port_health), None)
    seen = GatewaySeen(
        pid=mine.pid,
        health_port=_livez(health) if health is not None else None,
        metrics_port=any(listener.port == settings.metrics_port for listener in listeners),
    )
    if health is not None and seen.health_port is None and _is_ours(health, proc, _runs_health):
        seen = replace(seen, health_hangs=True)
    try:
        said, tls = _ask_either_way(mine, "/health", tls=settings.tls_cert is not None)
    except (OSError, http.client.HTTPException) as error:
        if _is_ours(mine, proc, _runs_gateway):
            return replace(seen, silent=str(error) or type(error).__name__)
        return None
    if not {"status", "state", "progress"} <= said.keys():
        return None
    return replace(
        seen,
        state=str(said["state"]),
        status=str(said["status"]),
        reason=str(said.get("reason", "")),
        progress=_progress(said["progress"]),
        tls=tls,
    )


def _ask_either_way(listener: Listener, path: str, *, tls: bool) -> tuple[Mapping[str, object], bool]:
    """(what it says, whether over TLS): this shell's settings, tried first, need not be those that it runs with.
    Raises the first try's OSError or HTTPException."""
    try:
        return ask(listener, path, tls=tls).json(), tls
    except TimeoutError:
        raise  # it hangs, whatever it speaks
    except (OSError, http.client.HTTPException) as first:
        try:
            return ask(listener, path, tls=not tls).json(), not tls
        except (OSError, http.client.HTTPException):
            raise first from None


def _progress(said: object) -> str:
    if not isinstance(said, dict):
        return ""
    ratio = said.get("ratio")
    return f"{said.get('phase')} {ratio:.0%}" if isinstance(ratio, float) else str(said.get("phase"))


def _is_ours(listener: Listener, proc: Path, runs: Callable[[list[bytes]], bool]) -> bool:
    """By its command line, as start.sh writes it. It is looked at here, and shown nowhere."""
    try:
        words = (proc / str(listener.pid) / "cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return runs(words)


def _runs_gateway(words: list[bytes]) -> bool:
    return b"-m" in words and b"gateway" in words


def _runs_health(words: list[bytes]) -> bool:
    return b"-S" in words and any(word.endswith(b"/health") for word in words)


def _is_health_server(listener: Listener) -> bool:
    try:
        return "try /ping, /readyz" in ask(listener, "/").body
    except (OSError, http.client.HTTPException):
        return False


def _livez(listener: Listener) -> int | None:
    """The code of our health server's /livez; None when it is not ours."""
    try:
        return ask(listener, "/livez").status if _is_health_server(listener) else None
    except (OSError, http.client.HTTPException):
        return None


def look_at_engine(listener: Listener) -> EngineSeen | None:
    """Whether an engine listens there, and what it answers without a key."""
    answers = {}
    name = None
    try:
        for path in sockets.ASKED_FIRST:
            answers[path] = ask(listener, path)
            name = sockets.engine_of(answers)
            if name is not None:
                break
        for path in sockets.ASKED_THEN.get(name, ()) if name is not None else ():
            answers[path] = ask(listener, path)
    except (OSError, http.client.HTTPException):
        if name is None:
            return None  # it speaks no HTTP, or TLS
    return sockets.engine_seen(name, listener, answers) if name is not None else None


def ask(listener: Listener, path: str, *, tls: bool = False) -> Answer:
    """One GET to a port of this machine. Raises OSError and HTTPException."""
    address = sockets.reachable_at(listener)
    if not sockets.is_of_this_machine(address):
        raise OSError(f"{address} is no address")
    connection: http.client.HTTPConnection
    if tls:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # ourselves: no certificate names 127.0.0.1
        connection = http.client.HTTPSConnection(address, listener.port, timeout=ANSWER_WITHIN, context=context)
    else:
        connection = http.client.HTTPConnection(address, listener.port, timeout=ANSWER_WITHIN)
    try:
        connection.request("GET", path, headers={"Connection": "close", "User-Agent": "wakegate-doctor"})
        response = connection.getresponse()
        body = response.read(ANSWER_MAX).decode("utf-8", "replace")
        return Answer(response.status, response.getheader("Server", ""), body)
    finally:
        connection.close()


def host_problem(host: str) -> str:
    """Why an address cannot be listened on; empty: it can, or it is a name, which only the network could resolve."""
    try:
        found = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    except OSError:
        return ""
    family, _, _, _, address = found[0]
    try:
        with socket.socket(family, socket.SOCK_STREAM) as end:
            end.bind(address)
    except OSError as error:
        return error.strerror or type(error).__name__
    return ""


def _may_listen_low(proc: Path) -> bool:
    try:
        said = re.search(r"^CapEff:\s*([0-9a-f]+)$", (proc / "self/status").read_text("ascii", "replace"), re.MULTILINE)
    except OSError:
        return os.geteuid() == 0
    return bool(said and int(said[1], 16) >> CAN_BIND_LOW & 1)


def _run_places() -> tuple[str, ...]:
    return (f"/run/user/{os.getuid()}", "/dev/shm", "/tmp")  # noqa: S108 - start.sh's, looked at only


# --- This Python and this machine ------------------------------------------------------------------------------------


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _aiohttp_is_compiled() -> bool:
    from gateway.web.wire import parser_is_compiled

    return parser_is_compiled() and not os.environ.get("AIOHTTP_NO_EXTENSIONS")


def clock_is_synchronised() -> bool | None:
    """What the kernel says (adjtimex(2), reading only). None: it says nothing, as inside some sandboxes."""
    try:
        adjtimex = ctypes.CDLL(None, use_errno=True).adjtimex
    except (OSError, AttributeError):
        return None
    # struct timex: modes, then after padding offset, freq, maxerror, esterror (long), then status (int).
    long = ctypes.sizeof(ctypes.c_long)
    buffer = ctypes.create_string_buffer(512)
    if adjtimex(buffer) < 0:
        return None
    status = int.from_bytes(buffer.raw[5 * long : 5 * long + 4], sys.byteorder)
    return not status & UNSYNCHRONISED


def _number(path: Path, default: int) -> int:
    try:
        return int(path.read_text("ascii"))
    except (OSError, ValueError):
        return default
