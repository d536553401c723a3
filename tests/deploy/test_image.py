"""The images that scripts/build_image.sh has built, run by podman: `make image-test`. Not part of ./test.sh: minutes.

`cpu` is all real. Of `vllm` and `cuda-llamacpp` everything is but the bases, which hold the engines.
"""

import contextlib
import gzip
import io
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from openai import OpenAI

from tests.support.worker import free_port, wait_for

pytestmark = pytest.mark.image

ROOT = Path(__file__).parents[2]
PLACE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "wakegate" / "image-test"
ENV = {
    **os.environ,
    "CONTAINERS_STORAGE_CONF": str(PLACE / "storage.conf"),
    "CONTAINERS_CONF": str(PLACE / "containers.conf"),
    "TMPDIR": str(PLACE / "tmp"),
}
USER = 10001
HEALTHCHECK = ("/opt/wakegate/bin/python", "-I", "-S", "/opt/wakegate/share/healthcheck.py")
TARGETS = ("cpu", "cuda-llamacpp", "vllm")
_numbers = itertools.count()


def podman(*words: str, code: int | None = 0) -> str:
    """What it prints on both streams. `code` None: whatever it ends with."""
    done = subprocess.run(
        ["podman", *words], env=ENV, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=120
    )
    assert code in (None, done.returncode), f"podman {' '.join(words)}: exit {done.returncode}\n{done.stdout}"
    return done.stdout.strip()


def image(target: str) -> str:
    return f"localhost/wakegate:{target}"


class Container:
    """One container of the image `cpu`, on the host's network and free ports."""

    def __init__(self, *options: str, words: tuple[str, ...] = (), target: str = "cpu", **settings: str) -> None:
        self.name = f"wakegate-test-{os.getpid()}-{next(_numbers)}"
        self.port, self.port_health = free_port(), free_port()
        chosen = {"PORT": str(self.port), "PORT_HEALTH": str(self.port_health)} | settings
        pairs = [word for name, value in chosen.items() for word in ("-e", f"{name}={value}")]
        podman("run", "-d", "--name", self.name, "--no-healthcheck", *pairs, *options, image(target), *words)

    @property
    def console(self) -> str:
        return podman("logs", self.name)

    def is_running(self) -> bool:
        return podman("inspect", "--format", "{{.State.Running}}", self.name) == "true"

    def exec(self, *words: str, code: int | None = 0, options: tuple[str, ...] = ()) -> str:
        return podman("exec", *options, self.name, *words, code=code)

    def healthcheck(self, **settings: str) -> int:
        pairs = tuple(word for name, value in settings.items() for word in ("-e", f"{name}={value}"))
        return subprocess.run(["podman", "exec", *pairs, self.name, *HEALTHCHECK], env=ENV, timeout=20).returncode

    def until_ready(self) -> "Container":
        wait_for(lambda: "READY after" in self.console or not self.is_running(), 30, "ready")
        assert self.is_running(), self.console
        return self

    def ended(self) -> int:
        """Its exit code, once it has ended by itself."""
        return int(podman("wait", self.name))

    def stop(self) -> int:
        podman("stop", "-t", "20", self.name)
        return int(podman("inspect", "--format", "{{.State.ExitCode}}", self.name))

    def processes(self) -> list[dict[str, str]]:
        """/proc/PID/status of every process in there, as the host sees it."""
        pids = podman("top", self.name, "hpid").splitlines()[1:]
        found = []
        for pid in pids:
            with contextlib.suppress(OSError):  # a short one, ended meanwhile
                lines = Path(f"/proc/{int(pid)}/status").read_text().splitlines()
                found.append({name: value.strip() for name, _, value in (line.partition(":") for line in lines)})
        return found

    def ask(self, key: str) -> str:
        """Sends a chat, expects words, and gives the request's id."""
        client = OpenAI(base_url=f"http://127.0.0.1:{self.port}/v1", api_key=key)
        answer = client.chat.completions.with_raw_response.create(
            model="wakegate-demo", max_tokens=8, messages=[{"role": "user", "content": "Hello!"}]
        )
        assert answer.parse().choices[0].message.content
        return answer.headers["x-request-id"]


Start = Callable[..., Container]


@pytest.fixture
def start() -> Iterator[Start]:
    containers: list[Container] = []

    def start(*options: str, **more: Any) -> Container:
        containers.append(Container(*options, **more))
        return containers[-1]

    yield start
    for container in containers:
        podman("rm", "-f", "-t", "0", container.name, code=None)


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    """As platforms mount them: root's, and nobody else may write."""
    folder = tmp_path / "volume"
    folder.mkdir(mode=0o755)
    return folder


def first_key(volume: Path) -> str:
    return (volume / "keys" / "first-key.txt").read_text().strip()


# --- A worker --------------------------------------------------------------------------------------------------------


def test_it_boots_answers_keeps_its_logs_and_ends_in_order(start: Start, volume: Path) -> None:
    """The whole life of a worker on a volume that belongs to root, with the real engine."""
    worker = start("-v", f"{volume}:/data").until_ready()

    said = [
        line for line in worker.console.splitlines() if re.match(r"\[(start\.sh|health)\]|\[gateway\] Starting", line)
    ]
    assert said[:5] == [
        "[start.sh] Starting health server",
        f"[health] Starting health server on 0.0.0.0:{worker.port_health}",
        next(line for line in said if re.search(rf" Health server PID: \d+ \(port {worker.port_health}\)$", line)),
        "[start.sh] Starting gateway",
        f"[gateway] Starting gateway on 0.0.0.0:{worker.port}",
    ]  # fmt: skip
    with urllib.request.urlopen(f"http://127.0.0.1:{worker.port_health}/ping", timeout=5) as answer:
        assert answer.status == 200
    assert worker.healthcheck() == 0
    request = worker.ask(first_key(volume))

    assert len(worker.processes()) >= 4
    for process in worker.processes():
        assert set(process["Uid"].split()) == {str(USER)}, process["Name"]
        assert set(process["Gid"].split()) == {str(USER)}, process["Name"]
        assert int(process["CapEff"], 16) == int(process["CapBnd"], 16) == 0, process["Name"]
        assert process["NoNewPrivs"] == "1", process["Name"]

    assert worker.stop() == 0
    assert request in (volume / "logs" / "llama" / "latest.txt").read_text()
    boot = volume / "logs" / "_boot"
    assert "wakegate" in (boot / Path((boot / "latest.txt").read_text().strip()).name).read_text().lower()
    for path in volume.rglob("*"):
        assert path.lstat().st_uid == USER, path


def test_what_root_left_on_the_volume_earlier_is_handed_over_and_the_rest_is_not(start: Start, volume: Path) -> None:
    (volume / "logs" / "llama").mkdir(parents=True)
    (volume / "logs" / "llama" / "old.txt").write_text("old")
    (volume / "models").mkdir()
    (volume / "models" / "mine.gguf").write_bytes(b"GGUF")
    (volume / "photos").mkdir()
    outside = volume.parent / "outside"
    outside.mkdir()
    (volume / "state").symlink_to(outside)
    worker = start("-v", f"{volume}:/data").until_ready()
    assert worker.stop() == 0
    for name in ("logs", "logs/llama/old.txt", "models", "models/mine.gguf"):
        assert (volume / name).stat().st_uid == USER, name
    assert (volume / "photos").stat().st_uid == 0
    assert outside.stat().st_uid == 0


def test_a_volume_that_is_somebodys_is_written_as_that_somebody(start: Start, volume: Path) -> None:
    os.chown(volume, 4242, 4343)
    worker = start("-v", f"{volume}:/data").until_ready()
    assert {process["Uid"].split()[0] for process in worker.processes()} == {"4242"}
    assert worker.ask(first_key(volume))
    assert worker.stop() == 0
    assert {path.lstat().st_uid for path in [volume, *volume.rglob("*")]} == {4242}


def test_runpods_volume_is_found_by_itself(start: Start, volume: Path) -> None:
    worker = start(
        "-v", f"{volume}:/runpod-volume", RUNPOD_DC_ID="EU-RO-1", RUNPOD_ENDPOINT_ID="abc", AUTH_ENABLED="false"
    )
    worker.until_ready()
    assert worker.stop() == 0
    assert (volume / "logs").stat().st_uid == USER


def test_it_runs_without_root_without_capabilities_and_on_a_read_only_root(start: Start, volume: Path) -> None:
    """What a strict Kubernetes asks for, with a volume that fsGroup has given to the user."""
    os.chown(volume, USER, USER)
    worker = start(
        *("--user", f"{USER}:{USER}", "--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--read-only"),
        *("-v", f"{volume}:/data"),
    ).until_ready()
    assert worker.ask(first_key(volume))
    assert worker.stop() == 0


def test_it_hands_the_volume_over_with_the_few_capabilities_that_compose_leaves(start: Start, volume: Path) -> None:
    left = [word for name in ("CHOWN", "SETGID", "SETUID", "SETPCAP") for word in ("--cap-add", name)]
    worker = start(
        *("--cap-drop", "ALL", *left, "--security-opt", "no-new-privileges", "--read-only"),
        *("-v", f"{volume}:/data"),
        METRICS_PORT=str(free_port()),
    ).until_ready()
    assert worker.ask(first_key(volume))
    assert worker.stop() == 0


def test_openshifts_random_user_of_group_0_gets_a_key_and_an_answer(start: Start) -> None:
    worker = start("--user", "1000650000:0").until_ready()
    key = worker.exec("cat", "/data/keys/first-key.txt")
    assert worker.ask(key)
    assert worker.stop() == 0


def test_a_user_who_cannot_write_the_volume_is_told_what_to_do(start: Start, volume: Path) -> None:
    options = ("--user", str(USER), "-v", f"{volume}:/data")
    without_key = start(*options, DATA_DIR="/data")
    assert without_key.ended() == 2
    assert "/data cannot be written by user 10001: give it to that user" in without_key.console
    assert "API_KEY: not set, and a first key cannot be kept in /data/keys" in without_key.console

    with_key = start(*options, DATA_DIR="/data", API_KEY="sk-test-of-the-image").until_ready()
    assert with_key.ask("sk-test-of-the-image")
    assert with_key.stop() == 0
    assert list(volume.iterdir()) == []


def test_a_volume_that_is_read_only_is_said_and_stops_nothing(start: Start, volume: Path) -> None:
    worker = start("-v", f"{volume}:/data:ro", DATA_DIR="/data", API_KEY="sk-test-of-the-image").until_ready()
    assert "Cannot give /data to user 10001:10001: chown:" in worker.console
    assert worker.ask("sk-test-of-the-image")
    assert worker.stop() == 0


def test_root_that_may_not_become_another_user_is_told_so_rather_than_run_as_root(start: Start) -> None:
    worker = start("--cap-drop", "ALL")
    assert worker.ended() == 2
    assert "run the container with --user 10001:10001" in worker.console


def test_a_group_that_was_added_stays_and_roots_group_goes(start: Start) -> None:
    """Without a volume, too: the image's own /data has group 0, for OpenShift."""
    worker = start("--group-add", "44").until_ready()
    assert {process["Groups"] for process in worker.processes()} == {"44"}
    assert {process["Gid"].split()[0] for process in worker.processes()} == {str(USER)}
    assert worker.stop() == 0


# --- Health ----------------------------------------------------------------------------------------------------------


def test_the_healthcheck_says_ill_while_nobody_could_be_answered(start: Start) -> None:
    worker = start(MODEL="/data/models/not-there.gguf", API_KEY="sk-test-of-the-image")
    wait_for(lambda: "not-there.gguf" in worker.console, 20, "the failure is said")
    assert worker.healthcheck() == 1
    assert worker.healthcheck(PORT_HEALTH="1") == 1
    assert worker.healthcheck(PORT_HEALTH="x") == 1


def test_the_healthcheck_answers_for_health_mode(start: Start) -> None:
    worker = start(MODEL="/data/models/not-there.gguf", API_KEY="sk-test-of-the-image", HEALTH_MODE="always")
    wait_for(lambda: "Starting gateway on" in worker.console, 20, "the port is open")
    assert worker.healthcheck() == 0


# --- Process 1 -------------------------------------------------------------------------------------------------------


def test_a_killed_gateway_ends_the_container_with_its_code(start: Start) -> None:
    worker = start(API_KEY="sk-test-of-the-image").until_ready()
    worker.exec("bash", "-c", "kill -9 $(grep -lz '^gateway$' /proc/[0-9]*/cmdline | cut -d / -f 3 | head -n 1)")
    assert worker.ended() == 137


def test_process_1_buries_the_dead_of_others(start: Start) -> None:
    """What `docker exec` leaves behind ends up with process 1."""
    worker = start(API_KEY="sk-test-of-the-image").until_ready()
    worker.exec("bash", "-c", "setsid bash -c 'sleep 0.2 & exec true' & wait")
    wait_for(lambda: all("sleep" not in process["Name"] for process in worker.processes()), 10, "it is over")
    wait_for(lambda: all("Z" not in process["State"][:1] for process in worker.processes()), 10, "nobody is a zombie")
    assert worker.stop() == 0


# --- Words -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(
    ("words", "printed"),
    [
        (("--help",), "installs nothing"),
        (("pull", "--help"), "Usage: wakegate pull"),
        (("wakegate", "pull", "--help"), "Usage: wakegate pull"),
        (("bash", "-c", "id -u; wakegate pull --help"), "Usage: wakegate pull"),
        (("/bin/echo", "a path"), "a path"),
    ],
    ids=["options", "a word of wakegate's", "wakegate", "bash", "a path"],
)
def test_words_behind_the_image_say_what_is_run(target: str, words: tuple[str, ...], printed: str) -> None:
    assert printed in podman("run", "--rm", "--no-healthcheck", image(target), *words)


def test_an_unknown_word_is_an_error() -> None:
    podman("run", "--rm", "--no-healthcheck", image("cpu"), "nonsense", code=2)


def test_the_command_writes_as_the_gateway_does(start: Start, volume: Path) -> None:
    """Also when root types it (docker exec): what it writes has to be readable to the gateway."""
    worker = start("-v", f"{volume}:/data").until_ready()
    assert "sk-" in worker.exec("wakegate", "keys", "new", "me", options=("--user", "0"))
    assert {path.stat().st_uid for path in (volume / "keys").iterdir()} == {USER}
    assert worker.stop() == 0


@pytest.mark.parametrize("target", TARGETS)
def test_everything_that_a_gateway_imports_is_there(target: str) -> None:
    python = "/opt/wakegate/bin/python"
    podman("run", "--rm", "--no-healthcheck", image(target), python, "-c", "import gateway.app, gateway.cli")
    said = podman(
        "run", "--rm", "--no-healthcheck", image(target), "bash", "-c", f"ls /opt/wakegate/share; {python} -V"
    )
    assert ("demo.gguf" in said) == (target != "vllm")


# --- The service -----------------------------------------------------------------------------------------------------


class Machine(Container):
    """A machine with systemd as process 1, on which install.sh has put the unit in place."""

    def __init__(self) -> None:
        super().__init__("--privileged", "--systemd=always", target="systemd")
        wait_for(lambda: self.exec("systemctl", "is-system-running", code=None) == "running", 30, "systemd is up")

    def configure(self, **settings: str) -> None:
        known = {
            "WAKEGATE_PYTHON": "/opt/wakegate/bin/python",
            "MODEL": "/opt/wakegate/share/demo.gguf",
            "SERVED_MODEL_NAME": "wakegate-demo",
            "PORT": str(self.port),
            "PORT_HEALTH": str(self.port_health),
        }
        lines = "".join(f"{name}={value}\n" for name, value in (known | settings).items())
        self.exec("bash", "-c", 'printf %s "$1" >/etc/wakegate/wakegate.env', "-", lines)

    def shown(self, name: str) -> str:
        return self.exec("systemctl", "show", "--value", "-p", name, "wakegate")

    def until_ready(self) -> "Machine":
        wait_for(lambda: "READY after" in self.journal() or self.shown("ActiveState") == "failed", 30, "ready")
        assert self.shown("ActiveState") == "active", self.journal()
        return self

    def service(self) -> list[dict[str, str]]:
        user = self.exec("id", "-u", "wakegate")
        return [process for process in self.processes() if process["Uid"].split() == [user] * 4]

    def journal(self) -> str:
        return self.exec("journalctl", "-u", "wakegate", "--no-pager", "-o", "cat")


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    machine = Machine()
    yield machine
    podman("rm", "-f", "-t", "0", machine.name)


def test_the_service_runs_with_a_real_engine_behind_all_its_fences(machine: Machine) -> None:
    machine.configure()
    machine.exec("systemctl", "start", "wakegate")
    machine.until_ready()
    assert machine.ask(machine.exec("cat", "/var/lib/wakegate/keys/first-key.txt"))
    assert len(machine.service()) >= 5
    for process in machine.service():
        assert process["NoNewPrivs"] == "1"
        assert int(process["CapEff"], 16) == int(process["CapBnd"], 16) == 0
        assert process["Seccomp"] == "2"


def test_a_reload_reaches_the_gateway_and_ends_nothing(machine: Machine) -> None:
    before = machine.shown("MainPID")
    machine.exec("systemctl", "reload", "wakegate")
    assert machine.ask(machine.exec("cat", "/var/lib/wakegate/keys/first-key.txt"))
    assert machine.shown("MainPID") == before


def test_a_stop_is_an_ordinary_end_and_leaves_nothing(machine: Machine) -> None:
    machine.exec("systemctl", "stop", "wakegate")
    assert (machine.shown("Result"), machine.shown("ExecMainStatus")) == ("success", "0")
    assert machine.service() == []


def test_a_wrong_setting_is_not_tried_again(machine: Machine) -> None:
    machine.configure(PORT="x")
    machine.exec("systemctl", "start", "wakegate")
    wait_for(lambda: machine.shown("ActiveState") == "failed", 20, "it is given up")
    assert (machine.shown("ExecMainStatus"), machine.shown("NRestarts")) == ("2", "0")


def test_a_crash_is(machine: Machine) -> None:
    machine.configure()
    machine.exec("systemctl", "reset-failed", "wakegate")
    machine.exec("systemctl", "start", "wakegate")
    wait_for(lambda: machine.shown("ActiveState") == "active", 20, "it runs")
    machine.exec("systemctl", "kill", "-s", "KILL", "--kill-who=main", "wakegate")
    wait_for(lambda: machine.shown("NRestarts") == "1" and machine.shown("ActiveState") == "active", 30, "again")
    machine.exec("systemctl", "stop", "wakegate")


# --- What is in there ------------------------------------------------------------------------------------------------


def config_of(target: str) -> dict[str, Any]:
    said = subprocess.run(
        ["buildah", "inspect", "--type", "image", image(target)], env=ENV, check=True, capture_output=True, text=True
    )
    docker: dict[str, Any] = json.loads(said.stdout)["Docker"]
    return docker


@pytest.mark.parametrize("target", TARGETS)
def test_the_image_says_what_it_is(target: str) -> None:
    config = config_of(target)["config"]
    labels = config["Labels"]
    assert labels["org.opencontainers.image.version"] == "1.2.3"
    assert labels["org.opencontainers.image.revision"] == "0123abc"
    assert labels["org.opencontainers.image.source"] == "https://example.org/wakegate"
    assert set(config["ExposedPorts"]) == {"8000/tcp", "8001/tcp"}
    assert config["Healthcheck"]["Test"] == ["CMD", *HEALTHCHECK]
    assert config["Entrypoint"] == ["/usr/local/bin/wakegate-entrypoint"]
    assert not config.get("Cmd")
    assert not config.get("Volumes")
    names = {pair.partition("=")[0] for pair in config["Env"]}
    assert "DATA_DIR" not in names
    assert not [name for name in names if re.search("KEY|TOKEN|SECRET|PASSWORD", name)]


@pytest.fixture(scope="module", params=TARGETS)
def layers(request: pytest.FixtureRequest) -> Iterator[tuple[str, Path]]:
    """An image as a registry would get it: config, manifest, layers."""
    folder = PLACE / "tmp" / f"oci-{os.getpid()}"
    subprocess.run(
        ["buildah", "push", "-q", image(request.param), f"dir:{folder}"],
        env=ENV, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    yield request.param, folder
    shutil.rmtree(folder)


def test_no_secret_is_in_any_layer_nor_in_the_history(
    layers: tuple[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """Those that build_image.sh planted: build argument, environment, .env, keys, .git, caches, the registry's."""
    target, folder = layers
    files = size = 0
    for blob in folder.iterdir():
        data = blob.read_bytes()
        assert b"planted-secret" not in data, blob
        if data[:2] == b"\x1f\x8b":
            data = gzip.decompress(data)
        if data[257:262] != b"ustar":
            continue
        assert b"planted-secret" not in data, f"in a file of layer {blob.name}"
        with tarfile.open(fileobj=io.BytesIO(data)) as layer:
            names = layer.getnames()
        files += len(names)
        assert not [name for name in names if name.endswith((".env", "first-key.txt")) or name.startswith("src/")]
        size += len(data)
    assert files > 5000
    pushed = sum(blob.stat().st_size for blob in folder.iterdir())
    with capsys.disabled():
        print(f"\n[image] {target}: {size / 1e6:.0f} MB, {pushed / 1e6:.0f} MB to pull, base included")


@pytest.fixture(scope="module", params=TARGETS)
def bill(request: pytest.FixtureRequest) -> dict[str, Any]:
    words = ("run", "--rm", "--no-healthcheck", image(request.param), "/bin/cat", "/usr/share/sbom/wakegate.cdx.json")
    found: dict[str, Any] = json.loads(podman(*words))
    return found


def test_the_bill_of_materials_is_cyclonedx_and_lists_what_is_there(bill: dict[str, Any]) -> None:
    import jsonschema
    from referencing import Registry, Resource

    places = PLACE / "cyclonedx" / "cyclonedx" / "schema" / "_res"
    schemas = {
        name: json.loads((places / f"{name}.SNAPSHOT.schema.json").read_text())
        for name in ("bom-1.6", "spdx", "jsf-0.82")
    }
    registry: Registry[Any] = Registry().with_resources(
        (schema["$id"], Resource.from_contents(schema)) for schema in schemas.values()
    )
    jsonschema.Draft7Validator(schemas["bom-1.6"], registry=registry).validate(bill)
    listed = {component["name"]: component for component in bill["components"]}
    for name in ("wakegate", "aiohttp", "CPython", "libc6", "bash"):
        assert listed[name]["version"], name
    assert listed["aiohttp"]["licenses"]


def test_every_python_package_is_what_constraints_txt_says(bill: dict[str, Any]) -> None:
    pinned = {
        re.sub(r"[-_.]+", "-", name).lower(): version
        for name, version in re.findall(r"^([\w.-]+)==(\S+)", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    }
    listed = {
        component["purl"].removeprefix("pkg:pypi/").partition("@")[0]: component["version"]
        for component in bill["components"]
        if component["purl"].startswith("pkg:pypi/")
    }
    del listed["wakegate"]
    assert len(listed) > 20
    assert {name: version for name, version in listed.items() if pinned.get(name) != version} == {}


@pytest.mark.parametrize("python", ["3.12", "3.13"])
def test_every_version_is_there_for_the_pythons_of_the_public_bases(python: str, tmp_path: Path) -> None:
    """3.13 in python:…-slim, 3.12 in NVIDIA's Ubuntu 24.04 and in vLLM's image: nothing of it has to be compiled."""
    platforms = [f"manylinux_2_{minor}_x86_64" for minor in (5, 12, 17, 24, 26, 28, 31, 34)]
    platforms += ["manylinux1_x86_64", "manylinux2010_x86_64", "manylinux2014_x86_64", "linux_x86_64"]
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pip", "install", "--dry-run", "-q", "--ignore-installed"),
            *("--target", str(tmp_path)),
            *("--python-version", python, "--implementation", "cp", "--only-binary", ":all:"),
            *[word for platform in platforms for word in ("--platform", platform)],
            *("--find-links", str(PLACE / "wheel"), "-c", "constraints.txt", ".[llama]"),
        ],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
