"""scripts/setup.sh: what it decides to install, when it does nothing, and what it says when it cannot.

The installing itself is tried on bare machines; here its decisions are called one by one, in a bash of their own.
"""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from gateway.doctor.pgo import has_pgo

ROOT = Path(__file__).parents[2]


@pytest.fixture
def bash(tmp_path):
    """Runs lines of bash after setup.sh has been sourced for a checkout of a few files; gives what they print."""
    root = tmp_path / "checkout"
    (root / "scripts").mkdir(parents=True)
    shutil.copy(ROOT / "scripts" / "setup.sh", root / "scripts")
    shutil.copy(ROOT / "constraints.txt", root)
    (root / "gateway" / "doctor").mkdir(parents=True)
    shutil.copy(ROOT / "gateway" / "doctor" / "pgo.py", root / "gateway" / "doctor")
    (root / "pyproject.toml").write_text('[project]\nname = "wakegate"\n')
    (root / "bin").mkdir()

    def bash(script: str, code: int = 0, **environ: str) -> str:
        done = subprocess.run(
            ["/bin/bash", "-c", f"set -uo pipefail; root={root}; source $root/scripts/setup.sh\n{script}"],
            env={"PATH": f"{root}/bin:/usr/bin:/bin", "HOME": str(tmp_path), "TMPDIR": str(tmp_path)} | environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert done.returncode == code, done.stdout
        return done.stdout.strip().replace(str(root), "ROOT")

    bash.root = root
    return bash


def tool(root: Path, name: str, script: str = "exit 0") -> None:
    path = root / "bin" / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


# -- what is needed

NO_GPU = "has_gpu() { false; }\n"
CHOOSE = NO_GPU + 'choose; echo "${extras[*]}|$flavour|$demo_model"'
DEMO = "ROOT/data/models/wakegate-demo.gguf"


@pytest.mark.parametrize(
    ("settings", "chosen"),
    [
        ({}, f"demo llama|cpu|{DEMO}"),
        ({"DATA_DIR": "/volume"}, "demo llama|cpu|/volume/models/wakegate-demo.gguf"),
        ({"MODEL": "org/name:Q4_K_M"}, "llama|cpu|"),
        ({"MODEL_PATH": "/models/a.gguf"}, "llama|cpu|"),
        ({"WAKEGATE_MODEL_REPO": "org/name"}, "llama|cpu|"),
        ({"ENGINE": "llama-cpp-python"}, f"demo llama|cpu|{DEMO}"),
        ({"ENGINE": "llama-server"}, f"demo|none|{DEMO}"),
        ({"ENGINE": "vllm", "MODEL": "org/name"}, "|none|"),
        ({"ENGINE_COMMAND": "my-engine --port {port}"}, "|none|"),
        ({"ENGINE": "command"}, "|none|"),
        ({"UPSTREAM_URL": "http://host:9000"}, "|none|"),
        ({"VLLM_API_URL": "http://host:9000"}, "|none|"),
        ({"PROVIDER": "external", "UPSTREAM_URL": "http://host:9000"}, "|none|"),
        ({"PROVIDER": "local", "UPSTREAM_URL": "http://host:9000"}, f"demo llama|cpu|{DEMO}"),
    ],
)
def test_what_is_installed_follows_from_the_settings(bash, settings, chosen):
    assert bash(CHOOSE, **settings) == chosen


def test_settings_come_from_dotenv_and_toml_as_well(bash):
    (bash.root / ".env").write_text("# mine\nexport MODEL='/models/a b.gguf' # big\n")
    assert bash(CHOOSE) == "llama|cpu|"
    (bash.root / ".env").write_text("MODEL=\nWAKEGATE_CONFIG=" + str(bash.root / "wakegate.toml"))
    (bash.root / "wakegate.toml").write_text('upstream_url = "http://host:9000" # there\n[later]\nmodel = "x"\n')
    assert bash(CHOOSE) == "|none|"


def test_the_order_of_places_is_the_gateways(bash):
    (bash.root / ".env").write_text("WAKEGATE_MODEL=prefixed in file\nENGINE=in file\n")
    show = 'read_files; setting MODEL; echo "$REPLY"; setting ENGINE; echo "$REPLY"'
    assert bash(show, MODEL="plain outside", ENGINE="outside") == "prefixed in file\noutside"
    assert bash(show, WAKEGATE_MODEL="prefixed outside") == "prefixed outside\nin file"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_dotenv_file_of_somebody_else_is_not_read(bash):
    (bash.root / ".env").write_text("UPSTREAM_URL=http://evil\n")
    os.chown(bash.root / ".env", 12345, 12345)
    assert bash(CHOOSE) == f"demo llama|cpu|{DEMO}"


def test_an_engine_that_is_there_already_is_used_instead_of_compiling(bash):
    tool(bash.root, "llama-server")
    assert bash(CHOOSE) == f"demo|none|{DEMO}"
    assert bash(CHOOSE, ENGINE="llama-cpp-python") == f"demo llama|cpu|{DEMO}"


def test_vllm_is_used_for_what_it_can_serve(bash):
    tool(bash.root, "vllm")
    assert bash(CHOOSE, MODEL="org/name") == "|none|"
    assert bash(CHOOSE, MODEL="/models/a.GGUF") == "llama|cpu|"
    assert bash(CHOOSE) == f"demo llama|cpu|{DEMO}"


def test_a_gpu_with_nvcc_means_cuda(bash):
    choose = CHOOSE.replace("false", "true")
    if bash('find_nvcc; echo "$nvcc"') == "":
        assert bash(choose).split("|")[1] == "cpu"
    tool(bash.root, "nvcc", "echo 'Cuda compilation tools, release 12.4, V12.4.131'")
    assert bash(choose).split("|")[1] == "cuda"


def test_wheels_of_cpu_and_cuda_are_kept_apart_by_version(bash, tmp_path):
    tool(bash.root, "nvcc", "echo 'Cuda compilation tools, release 12.4, V12.4.131'")
    version = bash('flavour=cpu; llama_wheel; echo "$llama_version"')
    machine = os.uname().machine
    show = 'if llama_wheel; then echo "${wheel##*/}"; else echo "none in ${wheels#"$HOME"/}"; fi'
    assert bash("flavour=cpu;" + show) == "none in .cache/wakegate/wheels"
    assert bash("flavour=cuda nvcc=nvcc;" + show) == "none in .cache/wakegate/wheels/cuda-12.4"
    wheels = tmp_path / ".cache" / "wakegate" / "wheels"
    wheels.mkdir(parents=True)
    (wheels / "llama_cpp_python-0.0.1-py3-none-linux_x86_64.whl").touch()
    (wheels / f"llama_cpp_python-{version}-py3-none-linux_riscv64.whl").touch()
    assert bash("flavour=cpu;" + show) == "none in .cache/wakegate/wheels"
    (wheels / f"llama_cpp_python-{version}-py3-none-linux_{machine}.whl").touch()
    assert bash("flavour=cpu;" + show) == f"llama_cpp_python-{version}-py3-none-linux_{machine}.whl"
    assert bash("flavour=cpu;" + show, WAKEGATE_WHEEL_CACHE="/else") == "none in /else"


# -- the second run


@pytest.fixture
def installed(bash):
    """A checkout whose set-up has run, as far as the stamp tells."""
    (bash.root / ".venv" / "bin").mkdir(parents=True)
    (bash.root / ".venv" / "bin" / "python").symlink_to(sys.executable)

    def stamp(have="base demo llama", flavour="cpu", root=bash.root, python=sys.executable):
        files = (bash.root / "pyproject.toml").read_text() + (bash.root / "constraints.txt").read_text()
        (bash.root / ".venv" / "wakegate-setup").write_text(f"{python}\n{root}\n{flavour}\n {have} \n{files}")

    stamp()
    bash.stamp = stamp
    return bash


CHECK = NO_GPU + "is_set_up && echo there || echo missing"


def test_a_second_run_has_nothing_to_do(installed):
    assert installed(CHECK, MODEL="x.gguf") == "there"


def test_it_finds_that_out_without_running_a_single_program(installed):
    """Hence the few milliseconds: no hash, no stat, no grep."""
    forbidden = "PATH=/nowhere; trap 'echo ran $BASH_COMMAND' ERR;"
    assert installed(forbidden + CHECK, MODEL="x.gguf") == "there"


@pytest.mark.parametrize(
    "change",
    [
        {"have": "base demo"},
        {"root": "/moved/from/there"},
        {"python": "/usr/bin/python3.99"},
        {"flavour": "cuda"},
    ],
    ids=["another engine is wanted", "moved", "its Python is gone", "another build of llama-cpp-python"],
)
def test_a_change_of_what_is_wanted_is_noticed(installed, change):
    installed.stamp(**change)
    assert installed(CHECK, MODEL="x.gguf") == "missing"


@pytest.mark.parametrize("file", ["pyproject.toml", "constraints.txt"])
def test_a_change_of_what_is_pinned_is_noticed(installed, file):
    with (installed.root / file).open("a") as text:
        text.write("# another\n")
    assert installed(CHECK, MODEL="x.gguf") == "missing"


def test_more_than_is_wanted_is_enough(installed):
    installed.stamp(have="base llama demo test check")
    assert installed(CHECK, MODEL="x.gguf") == "there"
    assert installed(CHECK, UPSTREAM_URL="http://host:1") == "there"
    assert installed("has_test_packages && echo there") == "there"


def test_the_demo_model_is_made_once_and_again_when_its_script_is_newer(installed):
    assert installed(CHECK) == "missing"
    model = installed.root / "data" / "models" / "wakegate-demo.gguf"
    model.parent.mkdir(parents=True)
    model.write_bytes(b"GGUF")
    assert installed(CHECK) == "there"
    script = installed.root / "scripts" / "make_demo_model.py"
    script.touch()
    os.utime(script, (model.stat().st_mtime + 10,) * 2)
    assert installed(CHECK) == "missing"


def test_of_two_at_once_the_second_waits_and_finds_it_done(installed):
    """start.sh and test.sh in two windows; the lock is the folder itself."""
    script = """
        flock "$root" sleep 0.5 & sleep 0.2
        make_venv() { echo "set up again"; exit 1; }
        set_up llama; echo went on; wait"""
    assert installed(script) == "[setup] Waiting for another set-up of this checkout\nwent on"


def test_an_environment_that_is_only_a_link_is_never_emptied(bash, tmp_path):
    """Another checkout lives where it leads."""
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "precious").touch()
    (bash.root / ".venv").symlink_to(theirs)
    told = bash("open_log; base_python=/usr/bin/python3; make_venv", code=2)
    assert f"ROOT/.venv is a link to {theirs}" in told and told.rstrip().endswith("remove the link")
    assert (theirs / "precious").exists()


# -- what is said


def test_who_may_not_install_packages_is_told_what_to_type(bash):
    """Not root, or root of a system without apt."""
    line = bash('hash() { [[ $1 != apt-get ]]; }; need "The tests need make" make g++', code=2)
    sudo = "sudo " if os.geteuid() else ""
    assert line == (
        f"[setup] The tests need make: run {sudo}apt-get install -y make g++ "
        "(or what your system calls them), then this again"
    )


def test_everything_that_is_missing_is_told_at_once(bash):
    """Python first and the compiler an hour later would be two evenings."""
    script = NO_GPU + 'find_python() { base_python="" score=0; }; hash() { false; }; ensure_python'
    packages = "python3 python3-venv g++ cmake ninja-build"
    assert f"apt-get install -y {packages} (or what" in bash(script, code=2)
    assert "apt-get install -y python3 python3-venv (or what" in bash(script, code=2, UPSTREAM_URL="http://host:1")
    made_for_3_12 = script.replace('base_python="" score=0', "base_python=/usr/bin/python3.12 score=112")
    assert "apt-get install -y python3.12-venv g++ cmake" in bash(made_for_3_12, code=2)


@pytest.mark.parametrize(
    ("said", "line"),
    [
        ("ERROR: [Errno 28] No space left on device", "the disk is full: free some space"),
        ("Failed to establish a new connection: [Errno -3]", "no way to the package registry: check the network"),
        ("E: Could not resolve 'deb.debian.org'", "no way to the package registry"),
        ("SSLError(CERTIFICATE_VERIFY_FAILED)", "the registry's TLS certificate is not trusted here"),
        ("PermissionError: [Errno 13] Permission denied: '/a/b'", "a folder cannot be written by"),
        ("c++: fatal error: Killed signal terminated program cc1plus", "memory ran out"),
        ("ERROR: something else", "failed: ERROR: something else. Everything that was said stands in"),
    ],
)
def test_a_failure_is_one_line_that_names_the_log_and_keeps_it(bash, said, line):
    told = bash("open_log; show Installing pip_line bash -c 'echo \"$SAID\"; exit 1'", code=1, SAID=said)
    first, last = told.splitlines()
    assert first == "[setup] Installing …"
    assert last.startswith(f"[setup] Installing: {line}")
    log = Path(last.split("stands in ")[1])
    assert said in log.read_text()


def test_the_log_of_what_went_well_is_not_kept(bash, tmp_path):
    assert bash("open_log; show Trying pip_line true; close_log").splitlines()[-1] == "[setup] Trying: done (0 s)"
    bash("open_log; show Trying pip_line true; exit 0")
    assert not list(tmp_path.glob("wakegate-setup*"))


def test_a_long_compile_shows_every_tenth_in_a_log(bash):
    script = 'for i in {1..50}; do echo "  [$i/50] Building CXX object a/b/c.cpp.o"; done'
    lines = bash(f"open_log; show Compiling ninja_line bash -c '{script}'; close_log").splitlines()
    tenths = [line.removeprefix("[setup] Compiling: ").split(" %")[0] for line in lines[1:-1]]
    assert tenths == ["2", *[str(percent) for percent in range(10, 101, 10)]]


# -- Python


def test_a_python_with_venv_is_found_and_is_a_supported_one(bash):
    path = bash("find_python; echo $base_python", PATH=os.environ["PATH"])
    version = subprocess.run(
        [path, "-c", "import sys, venv, ensurepip; print(*sys.version_info[:2])"], capture_output=True, text=True
    ).stdout
    assert version.split()[0] == "3"
    assert 11 <= int(version.split()[1]) <= 14


def test_a_python_built_with_pgo_is_preferred_then_the_newest(bash):
    def fake(name, score):
        tool(bash.root, name, f'echo "{score} /fake/{name}"')

    fake("python3", 1011)
    fake("python3.14", 1114)  # does not say
    fake("python3.12", 1212)
    fake("python3.13", 213)  # PGO, but without venv
    assert bash("find_python; echo $base_python", PATH=f"{bash.root}/bin") == "/fake/python3.12"


def test_a_python_is_asked_how_it_was_built_where_nothing_is_installed(bash):
    """Without a venv, without packages: the score that it gets is the one that its build deserves."""
    real = shutil.which(sys._base_executable)
    tool(bash.root, "python3", f'exec {real} "$@"')
    score = int(bash("find_python; echo $score", PATH=f"{bash.root}/bin"))
    assert score % 100 == sys.version_info[1]
    assert score // 100 % 10 == {True: 2, None: 1, False: 0}[has_pgo(sysconfig.get_config_vars())]
    assert not list((bash.root / "gateway").rglob("__pycache__")), "it leaves nothing behind"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root installs anything")
def test_a_service_that_the_tests_bring_is_kept_from_starting(bash):
    tool(bash.root, "systemctl", 'echo "$@" >>"$HOME/told"; exit 1')
    assert bash('log=/dev/null; keep_from_starting shellcheck; cat "$HOME/told" 2>/dev/null; echo') == ""
    assert bash('log=/dev/null; keep_from_starting make prometheus nginx-light; cat "$HOME/told"') == (
        "mask prometheus.service\nmask nginx.service"
    )
