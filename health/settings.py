"""The five settings that the health port needs, read from the places where the gateway reads them, in the same order.

`WAKEGATE_<NAME>` comes before `<NAME>`, which other programs use as well; then the environment before `.env`, `.env`
before the TOML file, and that before the default. It is a small second reader on purpose: `gateway/config.py` needs a
quarter of a second to import, and this port has 60 ms.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False  # typing and collections.abc would cost a fifth of the whole start
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any


CONTAINER_NAMES = (
    "KUBERNETES_SERVICE_HOST",
    "RUNPOD_DC_ID",
    "RUNPOD_POD_HOSTNAME",
    "VAST_CONTAINERLABEL",
    "MODAL_TASK_ID",
    "MODAL_IS_REMOTE",
    "container",
)
"""What `gateway/surroundings.py` goes by, too: both ports must come to the same address."""


class Wrong(Exception):
    """Settings that cannot be used; each argument is one line for the console: setting, value, what to do."""


class Settings:
    __slots__ = ("check_path", "host", "mode", "port")

    def __init__(self, host: str, port: int, check_path: str, mode: str) -> None:
        self.host = host
        self.port = port
        """0 takes any free port (tests)."""
        self.check_path = check_path
        self.mode = mode

    def __repr__(self) -> str:
        return f"<Settings {self.host}:{self.port} {self.check_path} {self.mode}>"


def read(environ: Mapping[str, str], home: str) -> Settings:
    """`home` is the folder in which `.env` is looked for. Raises Wrong with a line per setting that is wrong."""
    find = _finder(environ, home)
    wrong: list[str] = []
    port = _port("PORT_HEALTH", find("PORT_HEALTH") or "8001", wrong)
    path = find("HEALTH_CHECK_PATH") or "/ping"
    if not path.startswith("/") or not path.isascii() or not path.isprintable() or " " in path or "?" in path:
        wrong.append(f'HEALTH_CHECK_PATH is "{path}": give a plain path that begins with a slash, such as /ping')
    mode = (find("HEALTH_MODE") or "auto").lower()
    if mode not in ("auto", "strict", "hold", "always"):
        wrong.append(f'HEALTH_MODE is "{mode}": choose one of auto, strict, hold, always')
    keys_off = (find("AUTH_ENABLED") or "").lower() in ("false", "0", "no", "off")
    # Without keys only this machine may talk to us. In a container that is nobody: there the network is the fence.
    host = find("HOST") or ("127.0.0.1" if keys_off and not in_container(environ) else "0.0.0.0")
    if wrong:
        raise Wrong(*wrong)
    return Settings(host, port, path, mode)


def in_container(environ: Mapping[str, str], exists: Callable[[str], bool] = os.path.exists) -> bool:
    """Docker and Podman leave a file, the platforms an environment; systemd-nspawn and LXC set `container`."""
    return exists("/.dockerenv") or exists("/run/.containerenv") or any(environ.get(name) for name in CONTAINER_NAMES)


def _port(name: str, value: str, wrong: list[str]) -> int:
    if value.isascii() and value.isdigit() and int(value) < 65536:
        return int(value)
    wrong.append(f'{name} is "{value}": give a whole number from 1 to 65535')
    return -1


def _finder(environ: Mapping[str, str], home: str) -> Callable[[str], str | None]:
    """A look-up over all places. An empty value counts as not set: compose files pass `NAME=` for what is left out."""
    dotenv = _dotenv(environ.get("WAKEGATE_ENV_FILE") or os.path.join(home, ".env"))
    toml = _toml(environ.get("WAKEGATE_CONFIG") or dotenv.get("WAKEGATE_CONFIG"))

    def find(name: str) -> str | None:
        for key in ("WAKEGATE_" + name, name):
            for place in (environ, dotenv):
                if value := place.get(key, "").strip():
                    return value
        last = toml.get(name.lower())
        return None if last is None else str(last)

    return find


def _dotenv(path: str) -> dict[str, str]:
    """`NAME=value` lines, `export` and quotes allowed. Nothing from a file that somebody else on this machine owns."""
    found: dict[str, str] = {}
    try:
        with open(path, encoding="utf-8") as file:
            if os.fstat(file.fileno()).st_uid not in (0, os.geteuid()):
                return found
            for line in file:
                name, equals, value = line.strip().removeprefix("export ").partition("=")
                if not equals or name.startswith("#"):
                    continue
                value = value.strip()
                if value[:1] in ("'", '"') and value.count(value[0]) > 1:
                    value = value[1 : value.index(value[0], 1)]
                else:
                    value = value.partition(" #")[0].rstrip()
                found[name.strip()] = value
    except (OSError, UnicodeDecodeError):
        # Usually there is none. One that is there but unreadable is named by the gateway, which needs more of it.
        pass
    return found


def _toml(path: str | None) -> dict[str, Any]:
    if not path:
        return {}
    import tomllib  # only for those who have such a file: it would double the start-up time of everybody else

    try:
        with open(path, "rb") as file:
            return tomllib.load(file)
    except OSError as error:
        raise Wrong(f'WAKEGATE_CONFIG is "{path}": {error.strerror}; give the path of a readable TOML file') from error
    except tomllib.TOMLDecodeError as error:
        raise Wrong(f'WAKEGATE_CONFIG is "{path}": not TOML ({error}); mend that line') from error
