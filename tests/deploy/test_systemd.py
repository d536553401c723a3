"""The systemd unit: valid, hardened, and in step with start.sh and the settings; and the script that installs it."""

import os
import re
import subprocess
from collections import defaultdict
from pathlib import Path

import pytest

from gateway.config import SETTINGS, load

ROOT = Path(__file__).parents[2]
UNIT = ROOT / "deploy" / "systemd" / "wakegate.service"


def options() -> dict[str, list[str]]:
    found = defaultdict(list)
    for name, value in re.findall(r"^(\w+)=(.*)$", UNIT.read_text(), re.MULTILINE):
        found[name].append(value)
    return found


def seconds(text: str) -> float:
    unit = {"": 1, "s": 1, "min": 60, "h": 3600}
    found = re.fullmatch(r"([0-9.]+)(s|min|h|)", text)
    assert found, text
    return float(found[1]) * unit[found[2]]


def analyze(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["systemd-analyze", *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60
    )


def test_systemd_understands_every_line(tmp_path: Path) -> None:
    """With the checkout where this one is, since it looks whether the programs are there."""
    unit = tmp_path / "wakegate.service"
    unit.write_text(UNIT.read_text().replace("=/opt/wakegate/", f"={ROOT}/"))
    done = analyze("verify", "--man=no", "--recursive-errors=no", str(unit))
    assert (done.returncode, done.stdout) == (0, "")


def test_a_line_that_systemd_does_not_know_would_be_noticed(tmp_path: Path) -> None:
    unit = tmp_path / "wakegate.service"
    text = UNIT.read_text().replace("=/opt/wakegate/", f"={ROOT}/")
    unit.write_text(text.replace("[Service]", "[Service]\nNoNewPrivilege=yes"))
    assert "NoNewPrivilege" in analyze("verify", "--man=no", "--recursive-errors=no", str(unit)).stdout


def test_systemd_finds_little_to_object_to() -> None:
    """2.0 of 10, where a unit without any hardening has 9.6. What is left needs the network or the GPUs."""
    done = analyze("security", "--offline=true", "--threshold=20", str(UNIT))
    assert done.returncode == 0, done.stdout
    assert not re.search(r"^✗ .*(CAP_|RestrictNamespaces|ProtectSystem|NoNewPrivileges)", done.stdout, re.MULTILINE)


def test_it_runs_the_script_that_installs_nothing() -> None:
    [command] = options()["ExecStart"]
    assert command == "/opt/wakegate/start.sh --no-setup"


def test_only_start_sh_is_told_to_end_and_there_is_time_for_it() -> None:
    unit = options()
    assert unit["KillMode"] == ["mixed"]
    drain = load({}, read=lambda path: (_ for _ in ()).throw(FileNotFoundError(path))).drain_timeout
    assert seconds(unit["TimeoutStopSec"][0]) > drain + 30
    assert unit["ExecReload"] == ['/bin/sh -c "kill -HUP $MAINPID"'], "not every system has /bin/kill"


def test_a_wrong_setting_is_not_tried_again_and_a_crash_is() -> None:
    unit = options()
    assert (unit["Restart"], unit["RestartPreventExitStatus"]) == (["on-failure"], ["2"])
    assert unit["OOMPolicy"] == ["continue"], "the engine's end would be the gateway's, too"


def test_there_are_files_enough_for_all_connections() -> None:
    most = SETTINGS["max_connections"].default
    assert int(options()["LimitNOFILE"][0]) > 2 * int(str(most)) + 1000


def test_what_would_break_an_engine_is_left_out() -> None:
    unit = options()
    for name in ("MemoryDenyWriteExecute", "PrivateDevices", "PrivateNetwork", "ProcSubset"):
        assert name not in unit, name
    assert "char-nvidia* rw" in unit["DeviceAllow"]


def test_the_run_folder_has_a_place() -> None:
    """start.sh takes /run/user, /dev/shm or /tmp: the last is the service's own, and writable."""
    assert options()["PrivateTmp"] == ["yes"]
    assert "TemporaryFileSystem" not in options()


def test_its_settings_are_settings() -> None:
    unit = options()
    names = {setting.name for setting in SETTINGS.values()}
    given = {pair.partition("=")[0] for line in unit["Environment"] for pair in line.split()}
    assert given - {"HOME"} <= names
    example = (UNIT.parent / "wakegate.env.example").read_text()
    assert set(re.findall(r"^# ([A-Z_]+)=", example, re.MULTILINE)) <= names
    assert not re.search(r"^[A-Z_]+=", example, re.MULTILINE), "an example sets nothing by itself"


# --- install.sh -------------------------------------------------------------------------------------------------------


def install(destination: Path | None, **environ: str) -> subprocess.CompletedProcess[str]:
    where = {"DESTDIR": str(destination)} if destination else {}
    return subprocess.run(
        ["bash", str(UNIT.parent / "install.sh")],
        env={"PATH": os.environ["PATH"], **where, **environ},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=20,
    )  # fmt: skip


def test_it_puts_the_files_where_systemd_looks(tmp_path: Path) -> None:
    assert install(tmp_path).returncode == 0
    assert (tmp_path / "etc/systemd/system/wakegate.service").read_text() == UNIT.read_text()
    assert (tmp_path / "usr/lib/sysusers.d/wakegate.conf").is_file()
    settings = tmp_path / "etc/wakegate/wakegate.env"
    assert settings.stat().st_mode & 0o777 == 0o600
    [path] = options()["EnvironmentFile"]
    assert path == "-/etc/wakegate/wakegate.env"


def test_settings_that_are_there_stay(tmp_path: Path) -> None:
    settings = tmp_path / "etc/wakegate/wakegate.env"
    settings.parent.mkdir(parents=True)
    settings.write_text("MODEL=mine\n")
    assert install(tmp_path).returncode == 0
    assert settings.read_text() == "MODEL=mine\n"


@pytest.mark.skipif(os.geteuid() != 0, reason="another user is told to become root first")
def test_a_checkout_at_another_place_is_told_where_to_go() -> None:
    done = install(None)
    assert done.returncode == 2
    assert "clone to /opt/wakegate" in done.stdout
