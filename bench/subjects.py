"""What is measured: the gateway and its peers, each configured for this work as its users would, and how it is started.

All speak plain HTTP/1.1 on one port of 127.0.0.1 and have the fake engine behind them.
"""

import enum
import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PEERS = ROOT / "bench" / "peers"
KEY = "sk-bench-0123456789abcdef"
FEW = frozenset({"chunk-50", "request", "upload-json", "leave", "promise", "idle"})
"""The work of those that are known to be so dear that all of it would take longer than everybody else's together."""


def cache_folder() -> Path:
    """Where what is built, installed and measured stays: outside the tree."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if base else Path.home() / ".cache") / "wakegate" / "bench"


@dataclass(frozen=True, slots=True)
class Place:
    """Where one run of a subject lives."""

    folder: Path
    port: int
    port_health: int
    engine: int
    """The engine's port."""

    @property
    def engine_socket(self) -> Path:
        """Where the engine listens, too."""
        return self.folder / "engine.sock"


@dataclass(frozen=True, slots=True)
class Launch:
    """A command and what it needs in its environment."""

    command: list[str]
    environment: dict[str, str]


class Rewrites(enum.IntEnum):
    """What is not passed on byte by byte, and so cannot be compared with what was sent (--loose of load.c)."""

    NOTHING = 0
    REQUESTS = 1
    """The engine's count of the bytes that it was sent is no evidence; answers are compared byte by byte."""
    ANSWERS = 2
    """These, too: what the model says in them is compared."""


@dataclass(frozen=True, slots=True)
class Subject:
    """Something that stands between the load and the engine."""

    name: str
    title: str
    launch: Callable[[Place], Launch]
    missing: Callable[[], str]
    """What to install, or "" where it is there."""
    version: Callable[[], str]
    has_health_port: bool = False
    usual: bool = True
    """Whether it is measured without being asked for."""
    only: frozenset[str] | None = None
    """The work that it is given; None: all."""
    rounds: int = 100
    """At most this many, however many the others have."""
    lacks: frozenset[str] = frozenset()
    """Work that it cannot do."""
    rewrites: Rewrites = Rewrites.NOTHING

    def takes(self, work: str) -> bool:
        return work not in self.lacks and (self.only is None or work in self.only)


def program(name: str) -> str:
    """Its path, also where a user's PATH leaves out what root runs; "" where it is not installed."""
    return shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin:/sbin") or ""


def _needs_program(name: str, package: str) -> Callable[[], str]:
    return lambda: "" if program(name) else f"apt install {package}"


def _says(name: str, *arguments: str) -> Callable[[], str]:
    """The first thing that looks like a version in what a program prints."""

    def version() -> str:
        done = subprocess.run([program(name), *arguments], capture_output=True, text=True, timeout=20)
        found = re.search(r"\d+\.\d+(\.\d+)?", done.stdout + done.stderr)
        return found[0] if found else "?"

    return version


def _in_peers(name: str) -> Path:
    """What bench/peers/install.sh installed in a virtual environment: the environment's name, and the program's."""
    return cache_folder() / "peers" / name


def _needs_peer(path: Callable[[], Path], also: str = "") -> Callable[[], str]:
    def missing() -> str:
        return "" if path().exists() else "make bench-peers" + also

    return missing


def _peer_says(venv: str, *packages: str) -> Callable[[], str]:
    """Versions of packages in a virtual environment of bench/peers/install.sh."""

    def version() -> str:
        found = []
        for name in packages:
            pattern = f"lib/python3*/site-packages/{name.replace('-', '_')}-*.dist-info"
            paths = [path.name for path in _in_peers(venv).glob(pattern)]
            found.append(paths[0].removesuffix(".dist-info").partition("-")[2] if paths else "?")
        return found[0] if len(found) == 1 else ", ".join(map(" ".join, zip(packages, found, strict=True)))

    return version


def _needs_packages(*names: str) -> Callable[[], str]:
    def missing() -> str:
        absent = [name for name in names if find_spec(name) is None]
        return f"pip install {' '.join(absent)}" if absent else ""

    return missing


def _python_packages(*names: str) -> Callable[[], str]:
    def version() -> str:
        from importlib.metadata import version as version_of

        return ", ".join(f"{name} {version_of(name)}" for name in names)

    return version


# --- Ours -------------------------------------------------------------------------------------------------------------


def wakegate_settings(place: Place) -> dict[str, str]:
    """What every one of ours has: a key, and the engine behind it."""
    nothing = place.folder / "empty.env"  # not a developer's own .env
    nothing.touch()
    return {
        "HOST": "127.0.0.1",
        "PORT": str(place.port),
        "PORT_HEALTH": str(place.port_health),
        "DATA_DIR": str(place.folder / "data"),
        "API_KEY": KEY,
        "PROVIDER": "external",
        "UPSTREAM_URL": f"http://127.0.0.1:{place.engine}/v1",
        "WAKEGATE_ENV_FILE": str(nothing),
    }


def _wakegate(place: Place) -> Launch:
    return Launch([str(ROOT / "start.sh"), "--no-setup"], wakegate_settings(place))


def _our_version() -> str:
    words = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
    done = subprocess.run(words, capture_output=True, text=True)
    return done.stdout.strip() or "?"


# --- Peers ------------------------------------------------------------------------------------------------------------

NGINX = """\
{user}
daemon off;
worker_processes 1;
worker_rlimit_nofile 16384;
pid {folder}/nginx.pid;
error_log {folder}/error.log warn;
events {{ worker_connections 8192; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    keepalive_requests 10000000;
    client_max_body_size 0;
    upstream engine {{
        server 127.0.0.1:{engine};
        keepalive 2048;
        keepalive_requests 10000000;
    }}
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        location / {{
            proxy_pass http://engine;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header Host $host;
            proxy_buffering off;
            proxy_request_buffering off;
            proxy_read_timeout 1h;
            proxy_next_upstream off;
        }}
    }}
}}
"""

HAPROXY = """\
global
    nbthread 1
    maxconn 8192
defaults
    mode http
    option http-no-delay
    timeout connect 10s
    timeout client 1h
    timeout server 1h
frontend callers
    bind 127.0.0.1:{port} backlog 4096
    default_backend engine
backend engine
    retries 0
    server engine 127.0.0.1:{engine}
"""

CADDY = """\
{{
    admin off
    auto_https off
}}
http://127.0.0.1:{port} {{
    reverse_proxy 127.0.0.1:{engine}
}}
"""


def _written(place: Place, name: str, text: str) -> str:
    path = place.folder / name
    # As root nginx's worker would be somebody else, who cannot write into the folder.
    user = "user root;" if os.geteuid() == 0 else ""
    path.write_text(text.format(folder=place.folder, port=place.port, engine=place.engine, user=user))
    return str(path)


def _nginx(place: Place) -> Launch:
    log = str(place.folder / "error.log")
    return Launch(
        [program("nginx"), "-e", log, "-p", str(place.folder), "-c", _written(place, "nginx.conf", NGINX)], {}
    )


def _haproxy(place: Place) -> Launch:
    return Launch([program("haproxy"), "-db", "-f", _written(place, "haproxy.cfg", HAPROXY)], {})


def _caddy(place: Place) -> Launch:
    command = [program("caddy"), "run", "--adapter", "caddyfile", "--config", _written(place, "Caddyfile", CADDY)]
    return Launch(command, {"HOME": str(place.folder)})


def _nginx_to_socket(place: Place) -> Launch:
    launch = _nginx(place)
    path = Path(launch.command[-1])
    path.write_text(path.read_text().replace(f"127.0.0.1:{place.engine};", f"unix:{place.engine_socket};"))
    return launch


def _aiohttp(place: Place) -> Launch:
    return Launch([sys.executable, str(PEERS / "naive_aiohttp.py"), str(place.port), str(place.engine)], {})


def _fastapi(place: Place) -> Launch:
    python = str(_in_peers("fastapi") / "bin" / "python")
    return Launch([python, str(PEERS / "fastapi_httpx.py"), str(place.port), str(place.engine)], {})


def go_program() -> Path:
    """Where bench/peers/install.sh builds Go's proxy from the source as it is now."""
    source = hashlib.sha256((PEERS / "reverse_proxy.go").read_bytes()).hexdigest()
    return _in_peers(f"go-{source[:16]}") / "reverse_proxy"


def _go(place: Place) -> Launch:
    return Launch([str(go_program()), str(place.port), str(place.engine)], {})


def _router(name: str, *first: str) -> Callable[[Place], Launch]:
    """One of the two Rust routers, which have the same options. No retries: a POST is asked once, whoever asks it."""

    def launch(place: Place) -> Launch:
        program = str(_in_peers("routers") / "bin" / name)
        words = ["--host", "127.0.0.1", "--port", str(place.port), "--worker-urls", f"http://127.0.0.1:{place.engine}"]
        words += ["--policy", "round_robin", "--disable-retries", "--log-level", "error"]
        words += ["--prometheus-host", "127.0.0.1", "--prometheus-port", str(place.port_health)]
        return Launch([program, *first, *words, "--worker-startup-check-interval", "1"], {})

    return launch


LITELLM = """\
model_list:
  - model_name: bench
    litellm_params: {{model: openai/bench, api_base: "http://127.0.0.1:{engine}/v1", api_key: none}}
litellm_settings: {{num_retries: 0, telemetry: false}}
"""

LLAMA_SWAP = """\
logLevel: error
models:
  bench:
    cmd: sleep 1000000
    proxy: http://127.0.0.1:{engine}
    concurrencyLimit: 100000
"""


def _litellm(place: Place) -> Launch:
    words = ["--config", _written(place, "litellm.yaml", LITELLM), "--host", "127.0.0.1", "--port", str(place.port)]
    # Without the second it asks the network for a list of prices at each start.
    environment = {"LITELLM_MASTER_KEY": KEY, "LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR"}
    return Launch([str(_in_peers("litellm") / "bin" / "litellm"), *words], environment)


def _llama_swap(place: Place) -> Launch:
    config = _written(place, "llama-swap.yaml", LLAMA_SWAP)
    return Launch([program("llama-swap"), "--config", config, "--listen", f"127.0.0.1:{place.port}"], {})


SUBJECTS = {
    subject.name: subject
    for subject in (
        Subject("wakegate", "WakeGate", _wakegate, lambda: "", _our_version, has_health_port=True),
        Subject("nginx", "nginx", _nginx, _needs_program("nginx", "nginx-light"), _says("nginx", "-v")),
        Subject("haproxy", "HAProxy", _haproxy, _needs_program("haproxy", "haproxy"), _says("haproxy", "-v")),
        Subject("caddy", "Caddy", _caddy, _needs_program("caddy", "caddy"), _says("caddy", "version")),
        Subject("go", "Go ReverseProxy", _go, _needs_peer(go_program), _says("go", "version")),
        Subject(
            "vllm",
            "vLLM router",
            _router("vllm-router"),
            _needs_peer(lambda: _in_peers("routers")),
            _peer_says("routers", "vllm-router"),
            lacks=frozenset({"upload-form"}),
            rewrites=Rewrites.REQUESTS,
        ),
        Subject(
            "sglang",
            "SGLang router",
            _router("sglang-router", "launch"),
            _needs_peer(lambda: _in_peers("routers")),
            _peer_says("routers", "sglang-router"),
            lacks=frozenset({"upload-form"}),
            rewrites=Rewrites.REQUESTS,
        ),
        Subject(
            "llama-swap",
            "llama-swap",
            _llama_swap,
            lambda: "" if program("llama-swap") else "a release of it in PATH; it is in no registry",
            _says("llama-swap", "--version"),
        ),
        Subject("aiohttp", "plain aiohttp", _aiohttp, _needs_packages("aiohttp"), _python_packages("aiohttp")),
        Subject(
            "fastapi",
            "FastAPI + httpx",
            _fastapi,
            _needs_peer(lambda: _in_peers("fastapi")),
            _peer_says("fastapi", "fastapi", "httpx", "uvicorn"),
            only=FEW,
            rounds=1,
        ),
        Subject(
            "litellm",
            "LiteLLM",
            _litellm,
            _needs_peer(lambda: _in_peers("litellm")),
            _peer_says("litellm", "litellm"),
            only=FEW,
            rounds=1,
            rewrites=Rewrites.ANSWERS,
        ),
        Subject(
            "nginx-unix",
            "nginx, unix socket",
            _nginx_to_socket,
            _needs_program("nginx", "nginx-light"),
            _says("nginx", "-v"),
            usual=False,
        ),
    )
}
