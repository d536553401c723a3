"""What is measured: the gateway and its peers, each configured for this work as its users would, and how it is started.

All speak plain HTTP/1.1 on one port of 127.0.0.1 and have the fake engine behind them.
"""

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
KEY = "sk-bench-0123456789abcdef"


@dataclass(frozen=True, slots=True)
class Place:
    """Where one run of a subject lives."""

    folder: Path
    port: int
    port_health: int
    engine: int
    """The engine's port."""


@dataclass(frozen=True, slots=True)
class Launch:
    """A command and what it needs in its environment."""

    command: list[str]
    environment: dict[str, str]


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


def _wakegate(place: Place) -> Launch:
    nothing = place.folder / "empty.env"  # not a developer's own .env
    nothing.touch()
    settings = {
        "HOST": "127.0.0.1",
        "PORT": str(place.port),
        "PORT_HEALTH": str(place.port_health),
        "DATA_DIR": str(place.folder / "data"),
        "API_KEY": KEY,
        "PROVIDER": "external",
        "UPSTREAM_URL": f"http://127.0.0.1:{place.engine}/v1",
        "WAKEGATE_ENV_FILE": str(nothing),
    }
    return Launch([str(ROOT / "start.sh"), "--no-setup"], settings)


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


def _script(name: str) -> Callable[[Place], Launch]:
    path = str(ROOT / "bench" / "peers" / name)
    return lambda place: Launch([sys.executable, path, str(place.port), str(place.engine)], {})


SUBJECTS = {
    subject.name: subject
    for subject in (
        Subject("wakegate", "WakeGate", _wakegate, lambda: "", _our_version, has_health_port=True),
        Subject("nginx", "nginx", _nginx, _needs_program("nginx", "nginx-light"), _says("nginx", "-v")),
        Subject("haproxy", "HAProxy", _haproxy, _needs_program("haproxy", "haproxy"), _says("haproxy", "-v")),
        Subject("caddy", "Caddy", _caddy, _needs_program("caddy", "caddy"), _says("caddy", "version")),
        Subject(
            "aiohttp",
            "plain aiohttp",
            _script("naive_aiohttp.py"),
            _needs_packages("aiohttp"),
            _python_packages("aiohttp"),
        ),
        Subject(
            "fastapi",
            "FastAPI + httpx",
            _script("fastapi_httpx.py"),
            _needs_packages("fastapi", "httpx", "uvicorn"),
            _python_packages("fastapi", "httpx", "uvicorn"),
            usual=False,
        ),
    )
}
