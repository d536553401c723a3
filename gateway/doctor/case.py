"""What the doctor goes by: the settings, the surroundings, and the facts that it found. Values only, and pure.

Every fact has a default that is a healthy, plain machine, so that a test states only what is wrong. `facts.py` makes
them from the real machine.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from gateway.config import Settings
from gateway.gpus import GpusSeen, Version
from gateway.providers.local.commands import Installed
from gateway.providers.local.models.model_files import Model
from gateway.records.onlookers import Tally
from gateway.surroundings import Surroundings

LLAMA_CPP_PYTHON = Installed(llama_cpp=True)
NO_GPU = GpusSeen()


@dataclass(frozen=True, slots=True)
class Listener:
    """A TCP port that somebody listens on."""

    address: str
    port: int
    process: str = ""
    """Its name, where we may see it; never its command line, which may hold keys."""
    pid: int | None = None

    @property
    def is_loopback(self) -> bool:
        return self.address.startswith(("127.", "::ffff:127.")) or self.address == "::1"

    @property
    def is_wildcard(self) -> bool:
        return self.address in ("0.0.0.0", "::")  # noqa: S104 - compared, not listened on

    @property
    def who(self) -> str:
        if self.process:
            return f"{self.process} (process {self.pid})"
        return "another user's process (only root sees which)"


@dataclass(frozen=True, slots=True)
class GatewaySeen:
    """A WakeGate that runs here, as its two ports say it."""

    state: str = "ready"
    status: str = "ok"
    reason: str = ""
    progress: str = ""
    """Such as `loading 43 %`."""
    silent: str = ""
    """Why /health got no answer, where the process is known to be ours."""
    pid: int | None = None
    tls: bool = False
    """Whether it speaks TLS, which this shell's settings need not know."""
    health_port: int | None = 200
    """The code of /livez on PORT_HEALTH; None: nobody answers there as our health server does."""
    health_hangs: bool = False
    """Whether our health server has PORT_HEALTH, and does not answer."""
    metrics_port: bool = True
    """Whether somebody listens on METRICS_PORT."""


@dataclass(frozen=True, slots=True)
class Folder:
    """DATA_DIR, looked at."""

    path: Path = Path("/data")
    """Without links."""
    problem: str = ""
    """Why it cannot be written; empty: it can."""
    is_forbidden: bool = False
    """Whether that is because it is somebody else's."""
    hangs: bool = False
    free: int | None = None
    size: int | None = None
    skew: float = 0.0
    """Seconds that its server's clock is ahead of ours."""


@dataclass(frozen=True, slots=True)
class ModelSeen:
    """What MODEL means on this disk."""

    text: str | None = None
    """None: not set."""
    found: Model | None = None
    problem: str = ""
    """What is wrong with it, in one sentence."""

    @property
    def is_to_download(self) -> bool:
        return self.text is not None and self.found is None and not self.problem


@dataclass(frozen=True, slots=True)
class Build:
    """How an engine was built. None: not known."""

    gpu: bool | None = None
    """Whether it has a part for GPUs."""
    cuda: Version | None = None
    """The CUDA that it was built for."""
    version: Version | None = None
    """Its own."""


EngineKind = Literal["vLLM", "llama-server", "llama-cpp-python's own server", "Ollama"]


@dataclass(frozen=True, slots=True)
class EngineSeen:
    """An engine that listens beside the gateway."""

    name: EngineKind
    listener: Listener
    open_routes: tuple[str, ...] = ()
    """What it answers without a key; empty: not known to answer anything."""


@dataclass(frozen=True, slots=True)
class Request:
    """One line of the request log."""

    at: float
    """Unix time of its end."""
    key: str
    route: str
    bytes_in: int = 0
    tokens_out: int | None = None
    took: float = 0.0


@dataclass(frozen=True, slots=True)
class PagesAsked:
    """One line of the log that sums up what pages were asked for."""

    at: float
    """Unix time of its end."""
    tally: Tally


@dataclass(frozen=True, slots=True)
class KeysFile:
    """API_KEYS_FILE, looked at. No key is in it, only sentences and names."""

    problems: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()
    in_clear: bool = False
    count: int = 1
    """Keys that can be used."""
    expired: tuple[str, ...] = ()
    """Names of keys."""


@dataclass(frozen=True, slots=True)
class CertificateSeen:
    """TLS_CERT, looked at."""

    problem: str = ""
    """Why it cannot be used with its key."""
    warning: str = ""
    """It can, and callers refuse it: its time is over, or has not begun."""
    ends: float | None = None
    """Unix time."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What was found. The defaults: nothing is wrong, nothing is running."""

    told: Mapping[str, str] = field(default_factory=dict)
    """The variables of platforms, from a fixed list without secrets."""
    listeners: tuple[Listener, ...] = ()
    gateway: GatewaySeen | None = None
    host_problem: str = ""
    """Why HOST cannot be listened on."""
    lowest_port: int = 1024
    """The first port that everybody may listen on."""
    may_listen_low: bool = True
    run_folders: bool = True
    """Whether one of the places for the run folder can be written."""
    folder: Folder = Folder()
    slowest_start: float | None = None
    """Seconds of the slowest of the last starts on this volume."""
    model: ModelSeen = ModelSeen()
    installed: Installed = LLAMA_CPP_PYTHON
    builds: Mapping[str, Build] = field(default_factory=dict)
    """By ENGINE."""
    engine_program: bool = True
    """Whether ENGINE_COMMAND's first word can be run."""
    gpus: GpusSeen = NO_GPU
    engines: tuple[EngineSeen, ...] = ()
    readable: tuple[tuple[str, int], ...] = ()
    """(path, mode) of files with secrets in them that others may read."""
    keys_file: KeysFile = KeysFile()
    certificate: CertificateSeen = CertificateSeen()
    python: Version = (3, 13, 0)
    python_optimized: bool = False
    python_pgo: bool | None = True
    """None: it does not say."""
    aiohttp: str = "3.14.5"
    aiohttp_compiled: bool = True
    uvloop: bool = True
    now: float = 1_800_000_000.0
    """Unix time."""
    clock_synchronised: bool | None = None
    """None: the kernel does not say."""
    requests: tuple[Request, ...] = ()
    """From the request log, oldest first."""
    pages: tuple[PagesAsked, ...] = ()
    """From the same log."""
    unchecked: tuple[tuple[str, str], ...] = ()
    """(what, why) could not be looked at."""


@dataclass(frozen=True, slots=True)
class Case:
    """Everything that a check may go by."""

    settings: Settings
    around: Surroundings
    facts: Facts = field(default_factory=Facts)

    @property
    def listens_beyond_this_machine(self) -> bool:
        return self.settings.host not in ("127.0.0.1", "::1", "localhost")

    def is_public(self, port: int) -> bool:
        """Whether the platform puts this port onto the open internet, as far as can be known from inside."""
        if self.around.platform == "vast":  # it passes on exactly what it tells
            return any(port in pair for pair in self.around.public_ports)
        return self.around.is_exposed
