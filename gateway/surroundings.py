"""What the machine says: which platform this is, what it allows, where it is reached; and what follows for settings.

`look` asks everything once and gives a frozen `Surroundings`; `settle` then fills in the defaults that depend on it, so
that the other rooms see final values only. Questions to the machine go through `Machine`, which tests replace; the rest
is pure.

One rule about names: people set RUNPOD_POD_ID or RUNPOD_ENDPOINT_ID themselves, to say what a gateway elsewhere should
start. So only RUNPOD_DC_ID or RUNPOD_POD_HOSTNAME, which nobody sets, tell that we are inside RunPod.
"""

import ipaddress
import os
import re
import resource
import socket
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal, Protocol, cast

from gateway import config
from gateway.config import File, Settings, SettingsError
from gateway.kinds import shown

Platform = Literal["runpod-serverless", "runpod-pod", "vast", "modal", "kubernetes", "container", "plain"]

EDGE_HOLD = 85.0
"""Seconds. RunPod's proxy and Cloudflare give up on a silent answer after 100, Modal after 150."""
RENTED_IDLE, RENTED_REQUEST = 600.0, 3600.0
"""Seconds. What costs by the second is given back sooner, and no answer holds it for ever."""
DRAIN_UNKNOWN = 8.0
"""Seconds. `docker stop` kills after 10; platforms that say nothing are not known to wait longer."""
OWN_CERTIFICATE = "self"
"""TLS_CERT for one that the gateway makes."""
FILES_OF_OUR_OWN = 256
"""Open files that are not a caller's: logs, libraries, the engine's pipes."""


# --- What there is to know -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Mount:
    """One line of /proc/self/mountinfo."""

    point: str
    kind: str
    source: str = ""


_IN_MEMORY = frozenset({"tmpfs", "ramfs"})
_NETWORK = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "ceph", "9p", "afs", "beegfs", "glusterfs", "gpfs", "lustre", "virtiofs"}
)


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the machine said when it was asked. The defaults are a plain machine that says little."""

    platform: Platform = "plain"
    in_container: bool = False
    volumes: tuple[Path, ...] = ()
    """Those of /runpod-volume, /workspace and /data that are there and can be written."""
    memory: int | None = None
    """Bytes that we may use: the cgroup's limit or all there is. None: nobody says."""
    cpus: int = 1
    is_terminal: bool = False
    """Whether somebody reads the console as it is written, rather than a log collector."""
    open_files: int = 1024
    """How far the limit may be raised."""
    cwd: Path = Path("/")
    home: Path | None = None
    checkout: Path | None = None
    """The folder of start.sh, where we run from a checkout."""
    host_name: str = ""
    lan: tuple[str, ...] = ()
    """Our addresses on the network that leads outside."""
    pod_id: str | None = None
    endpoint_id: str | None = None
    vast_id: str | None = None
    """Of the instance at Vast that we run in."""
    public_ip: str | None = None
    public_ports: tuple[tuple[int, int], ...] = ()
    """(port here, port outside)."""
    mounts: tuple[Mount, ...] = ()

    @property
    def fleet(self) -> bool:
        """Whether others like us come and go behind one address: a key made here would open one of them only."""
        return self.platform in ("runpod-serverless", "modal", "kubernetes")

    @property
    def edge_asks_key(self) -> bool:
        """Whether nobody gets here without a key of the platform's own."""
        return self.platform == "runpod-serverless"

    @property
    def behind_edge(self) -> bool:
        """Whether something in front gives up on silent answers."""
        return self.platform in ("runpod-serverless", "runpod-pod", "modal")

    @property
    def edge_counts_all(self) -> bool:
        """Whether the platform goes by what passes its edge: there a request for any page starts and keeps a worker."""
        return self.platform in ("runpod-serverless", "modal")

    @property
    def is_exposed(self) -> bool:
        """Whether the platform puts every port that it passes on onto the open internet."""
        return self.behind_edge or self.platform == "vast"

    @property
    def is_worker(self) -> bool:
        """Whether a platform started us for this one job, and takes the machine back when nobody needs it."""
        return self.platform not in ("container", "plain")

    def mount_of(self, path: Path) -> Mount | None:
        """The mount that a path lies on. `path` is absolute, and without links. None: nobody says."""
        within = [mount for mount in self.mounts if PurePosixPath(path).is_relative_to(mount.point)]
        # Of several at the same point the last one is seen.
        return max(reversed(within), key=lambda mount: len(PurePosixPath(mount.point).parts), default=None)

    def in_memory(self, path: Path) -> bool:
        """Whether what is written there costs no disk, and is gone with the machine."""
        mount = self.mount_of(path)
        return mount is not None and mount.kind in _IN_MEMORY

    def on_network(self, path: Path) -> bool:
        """Whether others may write there too, and locks and fsync cannot be relied on (SQLite: never)."""
        mount = self.mount_of(path)
        # Of file systems in user space we know only that somebody's program answers: RunPod's volumes are such.
        return mount is not None and (mount.kind in _NETWORK or mount.kind.startswith("fuse"))

    def bases(self, host: str, port: int, *, secure: bool = False) -> tuple[tuple[str, str], ...]:
        """(for whom, base URL): where callers reach us, the likeliest first. Never empty. `secure`: we speak TLS."""
        found = ((whom, f"{url}/v1") for whom, url in self._addresses(host, port))
        return tuple((whom, url.replace("http://", "https://", 1) if secure else url) for whom, url in found)

    def _addresses(self, host: str, port: int) -> Iterator[tuple[str, str]]:
        address = _address(host)
        if host == "localhost" or (address is not None and address.is_loopback):
            yield "this machine", _url(host, port)
            return
        if self.platform == "runpod-serverless" and self.endpoint_id:
            yield "callers", f"https://{self.endpoint_id}.api.runpod.ai"
        if self.platform == "runpod-pod" and self.pod_id:
            yield "RunPod's proxy", f"https://{self.pod_id}-{port}.proxy.runpod.net"
        outside = dict(self.public_ports).get(port)
        if self.public_ip and outside:
            yield "from outside", _url(self.public_ip, outside)
        if address is None or not address.is_unspecified:
            yield "this address", _url(host, port)
            return
        yield "this machine", _url("127.0.0.1", port)
        # A container's own address means nothing to anybody outside its network; in a cluster it does.
        if not self.in_container or self.platform == "kubernetes":
            for lan in self.lan:
                if address.version == 6 or ":" not in lan:
                    yield "the cluster" if self.in_container else "your network", _url(lan, port)

    def __repr__(self) -> str:
        memory = "?" if self.memory is None else f"{self.memory / 2**30:.1f}GiB"
        kind = self.platform + (" in a container" if self.in_container and self.platform != "container" else "")
        volumes = " ".join(map(str, self.volumes)) or "none"
        return f"<Surroundings {kind}, {self.cpus} cpus, {memory}, volumes {volumes}, files {self.open_files}>"


def _url(host: str, port: int) -> str:
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


# --- Asking ----------------------------------------------------------------------------------------------------------


class Machine(Protocol):
    """The questions. A test answers them from a table."""

    def read(self, path: str) -> str | None:
        """The text of a small file; None when there is none."""

    def exists(self, path: str) -> bool: ...

    def is_writable(self, folder: str) -> bool:
        """Whether it is a folder in which we can make files."""

    def cpus(self) -> int:
        """Those that we may run on."""

    def open_files(self) -> int:
        """How far the limit may be raised."""

    def is_terminal(self) -> bool: ...

    def address_towards(self, far: str) -> str | None:
        """Our address on the way to another. Sends nothing."""

    def host_name(self) -> str: ...

    def cwd(self) -> Path: ...

    def home(self) -> Path | None: ...


class ThisMachine:
    """The machine that we run on."""

    def read(self, path: str) -> str | None:
        try:
            return Path(path).read_text("utf-8", "replace")
        except OSError:
            return None

    def exists(self, path: str) -> bool:
        return os.path.exists(path)  # noqa: PTH110 - never raises, unlike Path.exists before 3.12

    def is_writable(self, folder: str) -> bool:
        return Path(folder).is_dir() and os.access(folder, os.W_OK | os.X_OK)

    def cpus(self) -> int:
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

    def open_files(self) -> int:
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        return 1_048_576 if hard == resource.RLIM_INFINITY else hard

    def is_terminal(self) -> bool:
        return sys.stdout is not None and not sys.stdout.closed and sys.stdout.isatty()

    def address_towards(self, far: str) -> str | None:
        family = socket.AF_INET6 if ":" in far else socket.AF_INET
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as end:
                end.connect((far, 9))  # of a datagram socket: chooses a route, and sends nothing
                return str(end.getsockname()[0])
        except OSError:
            return None

    def host_name(self) -> str:
        return socket.gethostname()

    def cwd(self) -> Path:
        return Path.cwd()

    def home(self) -> Path | None:
        try:
            return Path.home()
        except RuntimeError:  # a user id without a name, and no HOME: usual in containers
            return None


_VOLUMES = ("/runpod-volume", "/workspace", "/data")
_FAR = ("192.0.2.1", "2001:db8::1")
"""Addresses for documentation (RFC 5737, RFC 3849): nobody has them."""
_ID = re.compile(r"[A-Za-z0-9-]{1,64}")
"""What a platform's id may hold: it is shown in lines that people paste into a shell."""


def look(environ: Mapping[str, str], machine: Machine | None = None, checkout: Path | None = None) -> Surroundings:
    """Ask the machine everything, once. Reads a few files below /proc and /sys; a few milliseconds."""
    machine = machine or ThisMachine()
    in_container = is_container(environ, machine)
    platform = platform_of(environ, in_container=in_container)
    on_runpod = platform.startswith("runpod")
    found = {
        "pod_id": environ.get("RUNPOD_POD_ID", "") if on_runpod else "",
        "endpoint_id": environ.get("RUNPOD_ENDPOINT_ID", "") if on_runpod else "",
        "vast_id": environ.get("CONTAINER_ID", "") if platform == "vast" else "",
    }
    ids = {name: value for name, value in found.items() if _ID.fullmatch(value)}
    public_ip = environ.get("RUNPOD_PUBLIC_IP" if on_runpod else "PUBLIC_IPADDR", "").strip()
    has_ports = on_runpod or platform == "vast"
    return Surroundings(
        platform=platform,
        in_container=in_container or platform != "plain",
        volumes=tuple(Path(folder) for folder in _VOLUMES if machine.is_writable(folder)),
        memory=memory_of(machine),
        cpus=cpus_of(machine),
        is_terminal=machine.is_terminal(),
        open_files=machine.open_files(),
        cwd=machine.cwd(),
        home=machine.home(),
        checkout=checkout,
        host_name=machine.host_name(),
        lan=tuple(address for far in _FAR if (address := machine.address_towards(far)) is not None),
        pod_id=ids.get("pod_id"),
        endpoint_id=ids.get("endpoint_id"),
        vast_id=ids.get("vast_id"),
        public_ip=public_ip if has_ports and _address(public_ip) is not None else None,
        # Also where no address is told: which ports are passed on is known all the same.
        public_ports=tuple(_ports(environ, "RUNPOD_TCP_PORT_" if on_runpod else "VAST_TCP_PORT_")) if has_ports else (),
        mounts=parse_mounts(machine.read("/proc/self/mountinfo") or ""),
    )


def platform_of(environ: Mapping[str, str], *, in_container: bool) -> Platform:
    """Which platform's names are there. Kubernetes comes last: others are built on it, and its names are there, too."""

    def has(*names: str) -> bool:
        return any(environ.get(name) for name in names)

    if has("RUNPOD_DC_ID", "RUNPOD_POD_HOSTNAME"):
        is_worker = has("RUNPOD_ENDPOINT_ID", "RUNPOD_WEBHOOK_GET_JOB", "RUNPOD_WEBHOOK_PING")
        return "runpod-serverless" if is_worker else "runpod-pod"
    if has("VAST_CONTAINERLABEL") or any(name.startswith("VAST_TCP_PORT_") for name in environ):
        return "vast"
    if has("CONTAINER_ID") and has("CONTAINER_API_KEY"):
        return "vast"
    if has("MODAL_TASK_ID", "MODAL_IS_REMOTE"):
        return "modal"
    if has("KUBERNETES_SERVICE_HOST"):
        return "kubernetes"
    return "container" if in_container else "plain"


def is_container(environ: Mapping[str, str], machine: Machine) -> bool:
    """The same signs as health/settings.py, which decides about its own address: the two must agree."""
    return (
        machine.exists("/.dockerenv")
        or machine.exists("/run/.containerenv")
        or any(
            environ.get(name)
            for name in ("KUBERNETES_SERVICE_HOST", "RUNPOD_DC_ID", "RUNPOD_POD_HOSTNAME", "container")
        )
    )


def _ports(environ: Mapping[str, str], prefix: str) -> Iterator[tuple[int, int]]:
    for name, value in sorted(environ.items()):
        inside = name.removeprefix(prefix)
        if name.startswith(prefix) and re.fullmatch(r"[0-9]{1,5}", inside) and re.fullmatch(r"[0-9]{1,5}", value):
            yield int(inside), int(value)


def parse_mounts(text: str) -> tuple[Mount, ...]:
    """/proc/self/mountinfo (proc(5)): `36 35 98:0 /root /point options [optional…] - type source options`."""
    mounts = []
    for line in text.splitlines():
        before, dash, after = line.partition(" - ")
        left, right = before.split(" "), after.split(" ")
        if dash and len(left) > 5 and len(right) > 1:
            mounts.append(Mount(_unescape(left[4]), right[0], _unescape(right[1])))
    return tuple(mounts)


def _unescape(text: str) -> str:
    """Blanks, tabs, line breaks and backslashes stand there in octal."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)


def memory_of(machine: Machine) -> int | None:
    """The least of what the machine has and what each cgroup around us allows."""
    match = re.search(r"^MemTotal:\s+(\d+) kB", machine.read("/proc/meminfo") or "", re.MULTILINE)
    limits = [int(match[1]) * 1024] if match else []
    for folder in _cgroups(machine, "memory"):
        for name in ("memory.max", "memory.limit_in_bytes"):
            text = (machine.read(f"{folder}/{name}") or "").strip()
            if text.isdecimal() and 0 < int(text) < 2**60:  # v1 says "unlimited" as a number near 2**63
                limits.append(int(text))
    return min(limits, default=None)


def cpus_of(machine: Machine) -> int:
    """How many threads can truly run at once: a quota of 1.5 is one, since two would be halted again and again."""
    cpus = machine.cpus()
    for folder in _cgroups(machine, "cpu"):
        quota, _, period = (machine.read(f"{folder}/cpu.max") or "").strip().partition(" ")
        if not quota:
            quota = (machine.read(f"{folder}/cpu.cfs_quota_us") or "").strip()
            period = (machine.read(f"{folder}/cpu.cfs_period_us") or "").strip()
        if quota.isdecimal() and period.isdecimal() and int(period) > 0:
            cpus = min(cpus, int(quota) // int(period))
    return max(1, cpus)


def _cgroups(machine: Machine, controller: str) -> Iterator[str]:
    for folders in cgroups_in(machine.read("/proc/self/cgroup") or "", controller):
        yield from folders


def cgroups_in(text: str, controller: str) -> Iterator[tuple[str, ...]]:
    """Of each hierarchy that has this controller, of both versions: our cgroup's folder and those around it, the root
    last. `text` is /proc/self/cgroup. Inside a container they are often not where we are told that they are, and the
    root is ours; folders that are not there say nothing."""
    for line in text.splitlines():
        number, _, rest = line.partition(":")
        controllers, _, place = rest.partition(":")
        if controller in controllers.split(","):
            root = f"/sys/fs/cgroup/{controller}"
        elif number == "0" and not controllers:
            root = "/sys/fs/cgroup"
        else:
            continue
        path = PurePosixPath(place)
        yield tuple(f"{root}{'' if str(folder) == '/' else folder}" for folder in (path, *path.parents))


def read_file(path: Path) -> File:
    """As `config.load` wants it: the text, and whether its owner is us or root. The same file for both answers."""
    with path.open(encoding="utf-8") as file:
        owner = os.fstat(file.fileno()).st_uid
        return File(file.read(), trusted=is_trusted(owner, os.geteuid()))


def is_trusted(owner: int, us: int) -> bool:
    """Whether what a file says may decide what we do: it is ours, or root's."""
    return owner in (0, us)


def find_checkout() -> Path | None:
    """The folder of start.sh, when this code lies in a checkout and not among installed packages."""
    root = Path(__file__).resolve().parent.parent
    return root if (root / "start.sh").is_file() and (root / "pyproject.toml").is_file() else None


# --- What follows for the settings -----------------------------------------------------------------------------------


def settings_here(environ: Mapping[str, str]) -> tuple[Settings, Surroundings]:
    """The final settings of this process, and where it runs. Raises SettingsError with everything that is wrong."""
    checkout = find_checkout()
    around = look(environ, checkout=checkout)
    dotenv = checkout / ".env" if checkout else None
    return settle(config.load(environ, read=read_file, dotenv=dotenv), around), around


def settle(settings: Settings, around: Surroundings) -> Settings:
    """Fill in what depends on the machine. What somebody set stays. Raises SettingsError for an upstream that is us."""
    warnings: list[str] = []
    changes: dict[str, object] = {
        "data_dir": _absolute(settings.data_dir, around) if settings.given("data_dir") else data_dir(around),
    }
    for field in ("base_path", "api_keys_file", "tls_cert", "tls_key", "warmup"):
        path = getattr(settings, field)
        if isinstance(path, Path):
            changes[field] = _absolute(path, around)
    if settings.tls_cert == Path(OWN_CERTIFICATE):
        changes["tls_cert"] = own_certificate(cast("Path", changes["data_dir"]))
    if settings.model is not None:
        changes["model"] = _expanded(settings.model, around)

    def default(field: str, value: object) -> None:
        if not settings.given(field):
            changes[field] = value

    if settings.auth_enabled is False and not around.in_container:
        default("host", "127.0.0.1")
    if settings.wake_after is not None or settings.rents:
        default("wake_on_start", False)
    if settings.rents:
        default("max_request_seconds", RENTED_REQUEST)
    if settings.health_mode == "auto" and settings.cold_start == "fallback":
        changes["health_mode"] = "hold"  # requests are answered from the first moment on, by somebody else
    elif settings.health_mode == "auto" and around.platform != "runpod-serverless":
        changes["health_mode"] = "strict"  # there the app decides, by how long starts take
    if settings.rents:
        default("idle_timeout", RENTED_IDLE)
    elif settings.provider != "local" or around.is_worker:
        default("idle_timeout", None)
    if around.in_container and around.platform != "kubernetes":  # Kubernetes waits 30 s unless told otherwise
        default("drain_timeout", DRAIN_UNKNOWN)
    if settings.hold_max is None and around.behind_edge:
        changes["hold_max"] = EDGE_HOLD
    if around.memory is not None:
        default("max_queue_bytes", around.memory // 5)
    if settings.metrics_auth_enabled is None:
        changes["metrics_auth_enabled"] = around.is_exposed
    room = max(16, (around.open_files - FILES_OF_OUR_OWN) // 2)  # a caller takes two: its own, and one to the engine
    if settings.max_connections > room:
        default("max_connections", room)
        done = "it may not work" if settings.given("max_connections") else f"it is {room} here"
        warnings.append(
            f"MAX_CONNECTIONS is {settings.max_connections}, and {around.open_files} files may be open; {done}"
        )
    settled = settings.changed(changes, warnings)
    if ours := list(_ourselves(settled, around)):
        raise SettingsError(ours)
    return settled


def _ourselves(settled: Settings, around: Surroundings) -> Iterator[str]:
    """What must not be this gateway, or the machine that it runs in."""
    for name, url in (("UPSTREAM_URL", settled.upstream_url), ("FALLBACK_URL", settled.fallback_url)):
        if url is not None and _is_us(url, settled, around):
            yield f"{name}: {shown(url)} is this gateway itself; allowed: another address"
    for name, provider, target, here in (
        ("RUNPOD_POD_ID", "runpod-pod", settled.runpod_pod_id, around.pod_id),
        ("VAST_INSTANCE_ID", "vast", settled.vast_instance_id, around.vast_id),
    ):
        if provider in settled.providers and target is not None and target == here:
            why = "is the machine that this gateway runs in, and would stop with it"
            yield f"{name}: {target} {why}; allowed: another one's id"


def own_certificate(data_dir: Path) -> Path:
    """Where the pair lies that TLS_CERT=self means."""
    return data_dir / "keys" / "worker-tls.pem"


def data_dir(around: Surroundings) -> Path:
    """Where DATA_DIR is when nobody said."""
    here = {
        "runpod-serverless": ("/runpod-volume", "/workspace", "/data"),
        "runpod-pod": ("/workspace", "/runpod-volume", "/data"),
        "vast": ("/workspace", "/data"),
    }.get(around.platform, ("/data",) if around.in_container else ())
    for folder in here:
        if Path(folder) in around.volumes:
            return Path(folder)
    if around.checkout is not None:
        return around.checkout / "data"
    return around.home / ".local" / "share" / "wakegate" if around.home is not None else around.cwd / "data"


def _expanded(text: str, around: Surroundings) -> str:
    """`~/…` as a shell writes it, because nobody's shell has seen a `.env` or a TOML file."""
    return str(around.home / text[2:]) if text.startswith("~/") and around.home is not None else text


def _absolute(path: Path, around: Surroundings) -> Path:
    return around.cwd / _expanded(str(path), around)


def _is_us(url: str, settings: Settings, around: Surroundings) -> bool:
    host, port = config.host_and_port(url)
    ours = (settings.port, settings.port_health)
    if port in ours and host in (*around.lan, around.host_name.lower()):
        return True
    if host == around.public_ip and port in (outside for inside, outside in around.public_ports if inside in ours):
        return True
    return around.pod_id is not None and host in (f"{around.pod_id}-{mine}.proxy.runpod.net".lower() for mine in ours)
