"""The Dockerfile and its scripts, as far as they can be read and tried without building: tests/deploy/test_image.py
runs the images themselves (`make image-test`)."""

import fnmatch
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.config import SETTINGS
from gateway.surroundings import Machine, ThisMachine, data_dir, look

ROOT = Path(__file__).parents[2]
CONTAINER = ROOT / "deploy" / "container"
ENTRYPOINT = CONTAINER / "entrypoint.sh"
TARGETS = ("cpu", "cuda-llamacpp", "vllm")
root_only = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")


# --- The Dockerfile --------------------------------------------------------------------------------------------------


def instructions() -> list[tuple[str, str]]:
    """(word, the rest), lines that go on joined, comments gone."""
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)
    lines = re.sub(r"\s*\\\n\s*", " ", text).splitlines()
    return [(line.split()[0], line.partition(" ")[2]) for line in lines if line.strip()]


def stages() -> dict[str, list[tuple[str, str]]]:
    found: dict[str, list[tuple[str, str]]] = {"": []}
    for word, rest in instructions():
        if word == "FROM":
            found[rest.partition(" AS ")[2]] = []
        found[list(found)[-1]].append((word, rest))
    return found


def ignored(path: str) -> bool:
    """Whether .dockerignore keeps it out of the context: the last line that fits decides, a folder's for all in it."""
    verdict = False
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        if not line or line.startswith("#"):
            continue
        pattern = line.removeprefix("!")
        parts = path.split("/")
        beginnings = ["/".join(parts[: count + 1]) for count in range(len(parts))]
        anywhere = pattern.removeprefix("**/")
        fits = any(
            fnmatch.fnmatch(beginning if pattern == anywhere else beginning.rpartition("/")[2], anywhere)
            for beginning in beginnings
        )
        if fits:
            verdict = not line.startswith("!")
    return verdict


def test_hadolint_has_nothing_to_say() -> None:
    hadolint = Path(sys.executable).parent / "hadolint"
    done = subprocess.run([str(hadolint), str(ROOT / "Dockerfile")], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_three_targets_are_there_and_each_has_a_stage_that_builds() -> None:
    named = [name for name in stages() if name]
    assert [name for name in named if not name.endswith("-build")] == list(TARGETS)
    assert len(named) == 2 * len(TARGETS)


def test_every_base_is_an_argument_with_a_version() -> None:
    defaults = dict(rest.split("=", 1) for word, rest in stages()[""] if word == "ARG")
    for name, stage in stages().items():
        if name:
            base = re.fullmatch(r"\$\{(\w+)\} AS [\w-]+", stage[0][1])
            assert base, stage[0]
            assert re.search(r":v?\d+\.\d+\.\d+", defaults[base[1]]), f"{base[1]} is not pinned"


def test_each_target_is_built_and_shipped_on_the_same_system() -> None:
    """Or its Python, or its C library, would not be the one that everything was installed for."""
    bases = {name: stage[0][1].partition(" ")[0] for name, stage in stages().items() if name}
    assert bases["cpu"] == bases["cpu-build"]
    assert bases["vllm"] == bases["vllm-build"]
    defaults = dict(rest.split("=", 1) for word, rest in stages()[""] if word == "ARG")
    assert defaults["CUDA_BUILD_IMAGE"].replace("-devel-", "-runtime-") == defaults["CUDA_IMAGE"]


def sources() -> Iterator[str]:
    for word, rest in instructions():
        if word == "COPY" and not rest.startswith("--from="):
            yield from rest.split()[:-1]


def test_everything_that_is_copied_is_there_and_not_ignored() -> None:
    assert len(set(sources())) > 5
    for source in sources():
        assert (ROOT / source).exists(), source
        tracked = subprocess.run(
            ["git", "ls-files", "--cached", "--others", "--exclude-standard", source],
            cwd=ROOT, check=True, capture_output=True, text=True,
        ).stdout.split()  # fmt: skip
        assert tracked, source
        assert [path for path in tracked if ignored(path)] == []


@pytest.mark.parametrize(
    "path",
    [".env", "gateway/.env", "data/keys/first-key.txt", ".git/config", ".venv/bin/python", "tests/conftest.py",
     "gateway/__pycache__/cli.cpython-311.pyc", "wakegate.toml", ".ci/run", "scripts/setup.sh"],
)  # fmt: skip
def test_nothing_else_gets_into_the_context(path: str) -> None:
    assert ignored(path)


def test_what_is_copied_holds_all_that_the_package_is_made_of() -> None:
    """A room that a wheel needs and the Dockerfile forgets would be missed only in the image."""
    text = (ROOT / "pyproject.toml").read_text()
    packages = json.loads(re.search(r"^packages = (\[.*\])$", text, re.MULTILINE)[1])
    for name, stage in stages().items():
        if name.endswith("-build"):
            copied = {source for word, rest in stage if word == "COPY" for source in rest.split()[:-1]}
            assert {*packages, "start.sh", "pyproject.toml", "constraints.txt", "README.md"} <= copied, name


def test_the_targets_differ_in_their_bases_only() -> None:
    def tail(name: str) -> list[tuple[str, str]]:
        said = [(word, rest) for word, rest in stages()[name] if word not in ("FROM", "COPY", "RUN")]
        text = json.dumps(said).replace(" WAKEGATE_DEMO_MODEL=/opt/wakegate/share/demo.gguf", "")
        return json.loads(re.sub(r'(image\.description=\\")[^"]*\\"', r"\1", text))

    assert tail("cpu") == tail("cuda-llamacpp") == tail("vllm")
    words = [word for word, _ in tail("cpu")]
    assert words == ["ENV", "ARG", "LABEL", "EXPOSE", "STOPSIGNAL", "HEALTHCHECK", "ENTRYPOINT"]


def test_no_setting_of_ours_is_baked() -> None:
    """DATA_DIR least of all, or no platform's volume would be found; and a secret would be everybody's."""
    set_here = set()
    for word, rest in instructions():
        if word in ("ENV", "ARG"):
            set_here |= set(re.findall(r"(\w+)=", rest)) | ({rest} if re.fullmatch(r"\w+", rest) else set())
    settings = {name for setting in SETTINGS.values() for name in (setting.name, *setting.aliases)}
    assert set_here & (settings | {f"WAKEGATE_{name}" for name in settings}) == set()
    assert [name for name in set_here if re.search("KEY|TOKEN|SECRET|PASSWORD", name)] == []


def test_the_version_is_the_packages() -> None:
    version = re.search(r'^version = "(.*)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert version
    for name in TARGETS:
        assert ("ARG", f"VERSION={version[1]} REVISION=unknown SOURCE=unknown") in stages()[name]


# --- entrypoint.sh: where the volume is ------------------------------------------------------------------------------


class Answers(ThisMachine):
    """This machine, with other folders."""

    def __init__(self, folders: tuple[str, ...]) -> None:
        self._folders = folders

    def exists(self, path: str) -> bool:
        return path == "/.dockerenv"

    def is_writable(self, folder: str) -> bool:
        return folder in self._folders


PLATFORMS = {
    "docker": {},
    "RunPod serverless": {"RUNPOD_DC_ID": "EU", "RUNPOD_ENDPOINT_ID": "e"},
    "RunPod's queue": {"RUNPOD_POD_HOSTNAME": "h", "RUNPOD_WEBHOOK_GET_JOB": "https://…"},
    "RunPod pod": {"RUNPOD_DC_ID": "EU", "RUNPOD_POD_ID": "p"},
    "RunPod's names set by hand": {"RUNPOD_POD_ID": "p", "RUNPOD_ENDPOINT_ID": "e"},
    "Vast": {"VAST_CONTAINERLABEL": "C.1"},
    "Vast by its ports": {"VAST_TCP_PORT_8000": "40001"},
    "Vast by its key": {"CONTAINER_ID": "1", "CONTAINER_API_KEY": "k"},
    "half of Vast": {"CONTAINER_ID": "1"},
    "Kubernetes": {"KUBERNETES_SERVICE_HOST": "10.0.0.1"},
    "Modal": {"MODAL_TASK_ID": "t"},
}


@pytest.mark.parametrize("platform", PLATFORMS)
@pytest.mark.parametrize("folders", [("/runpod-volume", "/workspace", "/data"), ("/workspace", "/data"), ("/data",)])
def test_the_volume_that_is_handed_over_is_the_one_that_the_gateway_takes(
    platform: str, folders: tuple[str, ...]
) -> None:
    machine: Machine = Answers(folders)
    # `[[ -d … ]]` cannot be replaced: the folders are made up by a pattern in a copy of the function.
    script = (
        f"source {ENTRYPOINT}\n"
        f"there() {{ case $1 in {'|'.join(folders)}) return 0 ;; *) return 1 ;; esac; }}\n"
        "eval \"$(declare -f find_data | sed 's/\\[\\[ -d $place \\]\\]/there $place/')\"\n"
        "find_data; printf %s \"$data\""
    )  # fmt: skip
    said = subprocess.run(
        ["bash", "-c", script], env={"PATH": os.environ["PATH"], **PLATFORMS[platform]},
        check=True, capture_output=True, text=True, timeout=10,
    ).stdout  # fmt: skip
    assert said == str(data_dir(look(PLATFORMS[platform], machine)))


# --- entrypoint.sh: words and users ----------------------------------------------------------------------------------


@pytest.fixture
def image() -> Iterator[Path]:
    """/opt/wakegate at another place, where everybody may look, with programs that say what they were called with."""
    place = Path(tempfile.mkdtemp(prefix="wakegate-entrypoint-"))
    place.chmod(0o755)
    for folder in ("share", "bin", "links", "volume"):
        (place / folder).mkdir(mode=0o755)
    shutil.copy(ENTRYPOINT, place / "share")
    for name in ("start.sh", "bin/wakegate"):
        (place / name).write_text('#!/bin/sh\necho "${0##*/}" "$@" "as $(id -u):$(id -g) in [$(id -G)]"\n')
        (place / name).chmod(0o755)
    (place / "links" / "wakegate-entrypoint").symlink_to("../share/entrypoint.sh")
    (place / "links" / "wakegate").symlink_to("wakegate-entrypoint")
    yield place
    shutil.rmtree(place)


def run(
    image: Path, *words: str, name: str = "wakegate-entrypoint", before: tuple[str, ...] = (), code: int = 0
) -> str:
    done = subprocess.run(
        [*before, "bash", str(image / "links" / name), *words],
        env={"PATH": f"{image}/links:{os.environ['PATH']}", "DATA_DIR": str(image / "volume")},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=10,
    )  # fmt: skip
    assert done.returncode == code, done.stdout
    return done.stdout.strip()


@pytest.mark.parametrize(
    ("words", "called"),
    [
        ((), "start.sh"),
        (("--help",), "start.sh --help"),
        (("doctor", "--json"), "wakegate doctor --json"),
        (("pull", "org/name"), "wakegate pull org/name"),
        (("wakegate", "serve"), "wakegate serve"),
        (("bash", "-c", "echo hello"), "hello"),
        (("/bin/echo", "hello"), "hello"),
    ],
)
def test_a_word_says_what_is_run(image: Path, words: tuple[str, ...], called: str) -> None:
    assert run(image, *words).startswith(called)


def test_the_command_wakegate_is_the_same_script(image: Path) -> None:
    assert run(image, "bash", "x", name="wakegate").startswith("wakegate bash x")


@root_only
def test_root_becomes_the_images_user_and_the_volume_is_given_to_it(image: Path) -> None:
    assert run(image).endswith("as 10001:10001 in [10001]")
    assert (image / "volume").stat().st_uid == 10001


@root_only
def test_root_becomes_the_volumes_owner_where_that_is_somebody(image: Path) -> None:
    os.chown(image / "volume", 4242, 0)
    assert run(image, "keys", "list") == "wakegate keys list as 4242:10001 in [10001]"
    assert (image / "volume").stat().st_gid == 0


@root_only
def test_a_volume_that_everybody_may_write_stays_as_it_is(image: Path) -> None:
    (image / "volume").chmod(0o777)
    assert run(image).endswith("as 10001:10001 in [10001]")
    assert (image / "volume").stat().st_uid == 0


@root_only
def test_links_on_a_volume_that_others_write_lead_root_nowhere(image: Path) -> None:
    outside = image / "outside"
    outside.mkdir(mode=0o755)
    (outside / "file").touch()
    (image / "volume" / "logs").symlink_to(outside)
    (image / "volume" / "models").mkdir()
    (image / "volume" / "models" / "link").symlink_to(outside)
    run(image)
    assert (image / "volume" / "models").stat().st_uid == 10001
    assert {path.stat().st_uid for path in (outside, outside / "file")} == {0}


@root_only
def test_whoever_is_not_root_stays_that_and_is_told_of_a_volume_that_is_not_theirs(image: Path) -> None:
    before = ("setpriv", "--reuid=777", "--regid=777", "--clear-groups")
    said = run(image, before=before).splitlines()
    assert said[0].startswith(f"[container] {image}/volume cannot be written by user 777: give it to that user")
    assert said[1] == "start.sh as 777:777 in [777]"


@root_only
def test_root_that_may_not_become_somebody_is_an_error_that_says_what_to_type(image: Path) -> None:
    before = ("setpriv", "--bounding-set=-setuid,-setgid", "--inh-caps=-all")
    assert "run the container with --user 10001:10001" in run(image, before=before, code=2)


# --- healthcheck.py --------------------------------------------------------------------------------------------------


@pytest.fixture
def check(image: Path) -> Path:
    shutil.copy(CONTAINER / "healthcheck.py", image / "share")
    (image / "health").symlink_to(ROOT / "health")
    return image / "share" / "healthcheck.py"


def health(check: Path, **environ: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-I", "-S", str(check)],
        env={"WAKEGATE_ENV_FILE": "/dev/null", **environ}, capture_output=True, text=True, timeout=20,
    )  # fmt: skip
    assert done.stderr == ""
    return done.returncode, done.stdout.strip()


@pytest.mark.parametrize(("line", "code"), [("200 OK", 0), ("204 No Content", 1), ("503 Unavailable", 1)])
def test_the_healthcheck_asks_readyz_where_the_settings_say(check: Path, line: str, code: int) -> None:
    heard = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            caller, _ = listener.accept()
            with caller:
                heard.append(caller.recv(1024))
                caller.sendall(f"HTTP/1.1 {line}\r\n\r\n".encode())

        thread = threading.Thread(target=answer)
        thread.start()
        port = str(listener.getsockname()[1])
        found = health(check, WAKEGATE_PORT_HEALTH=port, PORT_HEALTH="1")
        thread.join()
    assert found == (code, f"port {port}: {line[:3]}")
    assert heard[0].startswith(b"GET /readyz HTTP/1.0\r\n")


def test_a_health_port_that_nobody_opened_is_ill(check: Path) -> None:
    code, said = health(check, PORT_HEALTH="1")
    assert (code, said[:22]) == (1, "port 1 (PORT_HEALTH): ")


def test_a_wrong_setting_is_ill_and_says_which(check: Path) -> None:
    assert health(check, PORT_HEALTH="x")[0] == 1
    assert "PORT_HEALTH" in health(check, PORT_HEALTH="x")[1]


# --- make_sbom.py ----------------------------------------------------------------------------------------------------


@pytest.mark.skipif(shutil.which("dpkg-query") is None, reason="the images are Debian's and Ubuntu's")
def test_the_bill_of_materials_lists_what_is_installed_and_is_the_same_each_time(tmp_path: Path) -> None:
    import aiohttp

    place = str(Path(aiohttp.__file__).parents[1])
    found = tmp_path / "wakegate-1.2.3.dist-info"
    found.mkdir()
    (found / "METADATA").write_text("Metadata-Version: 2.4\nName: wakegate\nVersion: 1.2.3\nLicense-Expression: MIT\n")
    command = [sys.executable, "-I", "-S", str(CONTAINER / "make_sbom.py"), str(tmp_path), place, "/nowhere"]
    first, second = (subprocess.run(command, check=True, capture_output=True, timeout=60).stdout for _ in range(2))
    assert first == second
    bill = json.loads(first)
    listed = {component["purl"].partition("?")[0]: component for component in bill["components"]}
    assert f"pkg:pypi/aiohttp@{aiohttp.__version__}" in listed
    assert listed["pkg:pypi/wakegate@1.2.3"]["licenses"] == [{"expression": "MIT"}]
    assert [purl for purl in listed if re.match(r"pkg:deb/\w+/bash@", purl)]
    assert bill["metadata"]["component"]["version"] == "1.2.3"
