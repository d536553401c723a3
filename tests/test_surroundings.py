"""What is read from a machine, and what follows for the settings."""

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from gateway import config
from gateway.config import File, Settings, SettingsError
from gateway.surroundings import (
    Mount,
    Surroundings,
    ThisMachine,
    cpus_of,
    data_dir,
    find_checkout,
    is_trusted,
    look,
    memory_of,
    own_certificate,
    parse_mounts,
    platform_of,
    read_file,
    settings_here,
    settle,
)
from health import settings as health_settings

GIB = 1024**3
POD = {"RUNPOD_DC_ID": "EU-1", "RUNPOD_POD_ID": "abc123", "RUNPOD_POD_HOSTNAME": "abc123-64410"}
SERVERLESS = {**POD, "RUNPOD_ENDPOINT_ID": "ep42", "RUNPOD_WEBHOOK_GET_JOB": "https://…"}


@dataclass
class Table:
    """A machine that answers from tables."""

    files: Mapping[str, str] = field(default_factory=dict)
    there: frozenset[str] = frozenset()
    writable: frozenset[str] = frozenset()
    cores: int = 8
    files_limit: int = 65536
    addresses: Mapping[str, str] = field(default_factory=lambda: {"192.0.2.1": "192.168.1.20"})

    def read(self, path: str) -> str | None:
        return self.files.get(path)

    def exists(self, path: str) -> bool:
        return path in self.there

    def is_writable(self, folder: str) -> bool:
        return folder in self.writable

    def cpus(self) -> int:
        return self.cores

    def open_files(self) -> int:
        return self.files_limit

    def is_terminal(self) -> bool:
        return True

    def address_towards(self, far: str) -> str | None:
        return self.addresses.get(far)

    def host_name(self) -> str:
        return "Box"

    def cwd(self) -> Path:
        return Path("/cwd")

    def home(self) -> Path | None:
        return Path("/home/me")


DOCKER = frozenset({"/.dockerenv"})


def settings(**environ: str) -> Settings:
    return config.load(environ, read=lambda path: File(""))


# --- which platform --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environ", "there", "platform"),
    [
        ({}, frozenset(), "plain"),
        ({}, DOCKER, "container"),
        ({"container": "podman"}, frozenset(), "container"),
        ({}, frozenset({"/run/.containerenv"}), "container"),
        (POD, DOCKER, "runpod-pod"),
        ({"RUNPOD_POD_HOSTNAME": "x"}, frozenset(), "runpod-pod"),
        (SERVERLESS, DOCKER, "runpod-serverless"),
        ({"RUNPOD_DC_ID": "EU-1", "RUNPOD_WEBHOOK_PING": "https://…"}, DOCKER, "runpod-serverless"),
        ({"VAST_TCP_PORT_8000": "33526"}, DOCKER, "vast"),
        ({"VAST_CONTAINERLABEL": "C.1"}, DOCKER, "vast"),
        ({"CONTAINER_ID": "1", "CONTAINER_API_KEY": "x"}, DOCKER, "vast"),
        ({"CONTAINER_ID": "1"}, DOCKER, "container"),
        ({"MODAL_TASK_ID": "ta-1"}, frozenset(), "modal"),
        ({"MODAL_TOKEN_ID": "ak-1"}, frozenset(), "plain"),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, frozenset(), "kubernetes"),
        ({**POD, "KUBERNETES_SERVICE_HOST": "10.0.0.1"}, DOCKER, "runpod-pod"),
    ],
)
def test_the_platform_is_told_by_what_it_sets(environ: dict[str, str], there: frozenset[str], platform: str) -> None:
    around = look(environ, Table(there=there))
    assert around.platform == platform
    assert around.in_container is (platform != "plain")


@pytest.mark.parametrize(
    "environ",
    [
        {"RUNPOD_POD_ID": "abc123"},
        {"RUNPOD_ENDPOINT_ID": "ep42", "RUNPOD_API_KEY": "rpa_x"},
        {"RUNPOD_PUBLIC_IP": "1.2.3.4", "RUNPOD_TCP_PORT_8000": "1234"},
    ],
)
def test_names_that_people_set_themselves_do_not_make_it_runpod(environ: dict[str, str]) -> None:
    around = look(environ, Table())
    assert (around.platform, around.pod_id, around.endpoint_id, around.public_ip) == ("plain", None, None, None)


def test_an_empty_name_says_nothing() -> None:
    assert (
        platform_of({"RUNPOD_DC_ID": "", "MODAL_TASK_ID": "", "KUBERNETES_SERVICE_HOST": ""}, in_container=False)
        == "plain"
    )


@pytest.mark.parametrize(
    "environ",
    [{}, POD, SERVERLESS, {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, {"container": "lxc"}, {"RUNPOD_POD_ID": "x"}],
)
@pytest.mark.parametrize("there", [frozenset(), DOCKER, frozenset({"/run/.containerenv"})])
def test_both_ports_agree_whether_this_is_a_container(environ: dict[str, str], there: frozenset[str]) -> None:
    """Without keys it decides what each of them listens on."""
    assert look(environ, Table(there=there)).in_container is health_settings.in_container(environ, lambda p: p in there)


@pytest.mark.parametrize(
    ("platform", "fleet", "asks", "edge", "exposed", "worker"),
    [
        ("runpod-serverless", True, True, True, True, True),
        ("runpod-pod", False, False, True, True, True),
        ("vast", False, False, False, True, True),
        ("modal", True, False, True, True, True),
        ("kubernetes", True, False, False, False, True),
        ("container", False, False, False, False, False),
        ("plain", False, False, False, False, False),
    ],
)
def test_what_each_platform_means(platform, fleet, asks, edge, exposed, worker) -> None:
    around = Surroundings(platform=platform)
    facts = (around.fleet, around.edge_asks_key, around.behind_edge, around.is_exposed, around.is_worker)
    assert facts == (fleet, asks, edge, exposed, worker)


# --- memory, processors ----------------------------------------------------------------------------------------------

MEMINFO = {"/proc/meminfo": f"MemTotal:       {64 * 1024**2} kB\nMemFree: 1 kB\n"}


@pytest.mark.parametrize(
    ("files", "memory"),
    [
        ({}, None),
        (MEMINFO, 64 * GIB),
        ({**MEMINFO, "/proc/self/cgroup": "0::/\n", "/sys/fs/cgroup/memory.max": "max\n"}, 64 * GIB),
        ({**MEMINFO, "/proc/self/cgroup": "0::/\n", "/sys/fs/cgroup/memory.max": f"{8 * GIB}\n"}, 8 * GIB),
        (
            {
                **MEMINFO,
                "/proc/self/cgroup": "0::/a.slice/b.scope\n",
                "/sys/fs/cgroup/a.slice/memory.max": f"{4 * GIB}\n",
                "/sys/fs/cgroup/a.slice/b.scope/memory.max": f"{6 * GIB}\n",
            },
            4 * GIB,
        ),
        (
            {
                **MEMINFO,
                "/proc/self/cgroup": "4:memory:/docker/abc\n1:cpu,cpuacct:/docker/abc\n0::/\n",
                "/sys/fs/cgroup/memory/memory.limit_in_bytes": f"{2 * GIB}\n",
            },
            2 * GIB,
        ),
        (
            {
                **MEMINFO,
                "/proc/self/cgroup": "4:memory:/\n",
                "/sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
            },
            64 * GIB,
        ),
        ({"/proc/meminfo": "nonsense", "/proc/self/cgroup": "nonsense\n::\n0::/\n"}, None),
    ],
)
def test_memory_is_the_least_that_anything_around_us_allows(files: dict[str, str], memory: int | None) -> None:
    assert memory_of(Table(files)) == memory


@pytest.mark.parametrize(
    ("files", "cpus"),
    [
        ({}, 8),
        ({"/proc/self/cgroup": "0::/\n", "/sys/fs/cgroup/cpu.max": "max 100000\n"}, 8),
        ({"/proc/self/cgroup": "0::/\n", "/sys/fs/cgroup/cpu.max": "250000 100000\n"}, 2),
        ({"/proc/self/cgroup": "0::/\n", "/sys/fs/cgroup/cpu.max": "50000 100000\n"}, 1),
        ({"/proc/self/cgroup": "0::/\n", "/sys/fs/cgroup/cpu.max": "9900000 100000\n"}, 8),
        (
            {
                "/proc/self/cgroup": "3:cpu,cpuacct:/\n",
                "/sys/fs/cgroup/cpu/cpu.cfs_quota_us": "400000\n",
                "/sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            4,
        ),
        (
            {
                "/proc/self/cgroup": "3:cpu:/\n",
                "/sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
                "/sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            8,
        ),
        ({"/proc/self/cgroup": "0::/\n", "/sys/fs/cgroup/cpu.max": "100000 0\n"}, 8),
    ],
)
def test_processors_are_those_that_a_quota_leaves(files: dict[str, str], cpus: int) -> None:
    assert cpus_of(Table(files)) == cpus


# --- mounts ----------------------------------------------------------------------------------------------------------

MOUNTS = r"""
22 27 0:21 / / rw,relatime - overlay overlay rw,lowerdir=/x
23 22 0:22 / /proc rw,nosuid - proc proc rw
24 22 0:23 / /dev/shm rw shared:2 master:1 - tmpfs tmpfs rw,size=64k
25 22 0:24 / /workspace rw - fuse mfs#euro-1:9421 rw
26 22 0:25 / /mnt/two\040words rw - nfs4 10.0.0.1:/export\134x rw
27 22 0:26 / /data rw - ext4 /dev/sda1 rw
28 22 0:27 / /data rw - tmpfs none rw
29 22 0:28 / /data/models rw - fuse.juicefs JuiceFS:x rw
nonsense
30 22 0:29 / /no-dash rw ext4 /dev/sdb
""".strip()


@pytest.mark.parametrize(
    ("path", "kind", "in_memory", "on_network"),
    [
        ("/", "overlay", False, False),
        ("/home/me", "overlay", False, False),
        ("/dev/shm/run", "tmpfs", True, False),
        ("/dev/shmother", "overlay", False, False),
        ("/workspace/models", "fuse", False, True),
        ("/mnt/two words", "nfs4", False, True),
        ("/data", "tmpfs", True, False),
        ("/data/models/x", "fuse.juicefs", False, True),
    ],
)
def test_a_path_lies_on_the_innermost_and_last_mount(path: str, kind: str, in_memory: bool, on_network: bool) -> None:
    around = Surroundings(mounts=parse_mounts(MOUNTS))
    mount = around.mount_of(Path(path))
    assert mount is not None
    assert mount.kind == kind
    assert (around.in_memory(Path(path)), around.on_network(Path(path))) == (in_memory, on_network)


def test_names_in_mountinfo_are_unescaped_and_broken_lines_left_out() -> None:
    mounts = parse_mounts(MOUNTS)
    assert Mount("/mnt/two words", "nfs4", "10.0.0.1:/export\\x") in mounts
    assert len(mounts) == 8


def test_where_nothing_is_known_of_mounts_nothing_is_claimed() -> None:
    assert Surroundings().mount_of(Path("/x")) is None
    assert not Surroundings().in_memory(Path("/x"))
    assert not Surroundings().on_network(Path("/x"))


# --- addresses -------------------------------------------------------------------------------------------------------

VAST = {"VAST_TCP_PORT_8000": "33526", "VAST_TCP_PORT_x": "1", "PUBLIC_IPADDR": "198.51.100.7"}


@pytest.mark.parametrize(
    ("environ", "there", "host", "bases"),
    [
        ({}, (), "0.0.0.0", ["this machine http://127.0.0.1:8000/v1", "your network http://192.168.1.20:8000/v1"]),
        ({}, (), "::", ["this machine http://127.0.0.1:8000/v1", "your network http://192.168.1.20:8000/v1"]),
        ({}, (), "127.0.0.1", ["this machine http://127.0.0.1:8000/v1"]),
        ({}, (), "::1", ["this machine http://[::1]:8000/v1"]),
        ({}, (), "localhost", ["this machine http://localhost:8000/v1"]),
        ({}, (), "10.1.2.3", ["this address http://10.1.2.3:8000/v1"]),
        ({}, DOCKER, "0.0.0.0", ["this machine http://127.0.0.1:8000/v1"]),
        (
            POD,
            DOCKER,
            "0.0.0.0",
            ["RunPod's proxy https://abc123-8000.proxy.runpod.net/v1", "this machine http://127.0.0.1:8000/v1"],
        ),
        (
            {**POD, "RUNPOD_PUBLIC_IP": "198.51.100.9", "RUNPOD_TCP_PORT_8000": "10341"},
            DOCKER,
            "0.0.0.0",
            [
                "RunPod's proxy https://abc123-8000.proxy.runpod.net/v1",
                "from outside http://198.51.100.9:10341/v1",
                "this machine http://127.0.0.1:8000/v1",
            ],
        ),
        (
            SERVERLESS,
            DOCKER,
            "0.0.0.0",
            ["callers https://ep42.api.runpod.ai/v1", "this machine http://127.0.0.1:8000/v1"],
        ),
        (
            VAST,
            DOCKER,
            "0.0.0.0",
            ["from outside http://198.51.100.7:33526/v1", "this machine http://127.0.0.1:8000/v1"],
        ),
        (
            {"KUBERNETES_SERVICE_HOST": "10.0.0.1"},
            (),
            "0.0.0.0",
            ["this machine http://127.0.0.1:8000/v1", "the cluster http://192.168.1.20:8000/v1"],
        ),
        ({**POD, "RUNPOD_POD_ID": "$(rm -rf ~)"}, DOCKER, "0.0.0.0", ["this machine http://127.0.0.1:8000/v1"]),
        ({**VAST, "PUBLIC_IPADDR": "`id`"}, DOCKER, "0.0.0.0", ["this machine http://127.0.0.1:8000/v1"]),
    ],
)
def test_the_banner_shows_addresses_that_work_from_where_the_reader_sits(environ, there, host, bases) -> None:
    around = look(environ, Table(there=frozenset(there)))
    assert [" ".join(base) for base in around.bases(host, 8000)] == bases


def test_which_ports_are_passed_on_is_known_also_where_no_public_address_is_told() -> None:
    """Else the doctor would say that nobody reaches a gateway that everybody does."""
    around = look({"VAST_TCP_PORT_8000": "33526"}, Table(there=frozenset(DOCKER)))
    assert (around.public_ip, around.public_ports) == (None, ((8000, 33526),))
    assert look({"RUNPOD_TCP_PORT_8000": "1", "PUBLIC_IPADDR": "198.51.100.7"}, Table()).public_ports == ()


def test_an_ipv6_address_is_shown_only_when_it_is_listened_on() -> None:
    around = look({}, Table(addresses={"2001:db8::1": "fd00::5"}))
    assert ("your network", "http://[fd00::5]:8000/v1") in around.bases("::", 8000)
    assert around.bases("0.0.0.0", 8000) == (("this machine", "http://127.0.0.1:8000/v1"),)


# --- where the data lies ---------------------------------------------------------------------------------------------

ALL = frozenset({"/runpod-volume", "/workspace", "/data"})


@pytest.mark.parametrize(
    ("environ", "there", "writable", "checkout", "folder"),
    [
        (SERVERLESS, DOCKER, ALL, None, "/runpod-volume"),
        (SERVERLESS, DOCKER, frozenset({"/data"}), None, "/data"),
        (POD, DOCKER, ALL, None, "/workspace"),
        (POD, DOCKER, ALL - {"/workspace"}, None, "/runpod-volume"),
        (VAST, DOCKER, ALL, None, "/workspace"),
        (VAST, DOCKER, frozenset(), "/src", "/src/data"),
        ({}, DOCKER, ALL, "/src", "/data"),
        ({}, DOCKER, frozenset(), "/src", "/src/data"),
        ({}, DOCKER, frozenset({"/workspace"}), None, "/home/me/.local/share/wakegate"),
        ({}, frozenset(), ALL, "/src", "/src/data"),
        ({}, frozenset(), ALL, None, "/home/me/.local/share/wakegate"),
        ({"RUNPOD_POD_ID": "mine"}, frozenset(), ALL, "/src", "/src/data"),
    ],
)
def test_data_lies_where_the_platform_keeps_it(environ, there, writable, checkout, folder) -> None:
    machine = Table(there=there, writable=writable)
    around = look(environ, machine, Path(checkout) if checkout else None)
    assert data_dir(around) == Path(folder)
    assert settle(settings(), around).data_dir == Path(folder)


def test_without_a_home_data_lies_here() -> None:
    assert data_dir(Surroundings(cwd=Path("/cwd"))) == Path("/cwd/data")


def test_a_path_of_somebodys_is_made_absolute() -> None:
    around = Surroundings(cwd=Path("/cwd"), home=Path("/home/me"))
    settled = settle(settings(DATA_DIR="./data", BASE_PATH="~/models", MODEL="~/x.gguf"), around)
    assert (settled.data_dir, settled.base_path, settled.model) == (
        Path("/cwd/data"),
        Path("/home/me/models"),
        "/home/me/x.gguf",
    )
    assert settle(settings(DATA_DIR="/srv", MODEL="org/name"), around).data_dir == Path("/srv")
    assert settle(settings(MODEL="org/name"), around).model == "org/name"


# --- defaults that depend --------------------------------------------------------------------------------------------

PLAIN = Surroundings(memory=10 * GIB, open_files=65536)
RENTED = {
    "PROVIDER": "runpod-pod",
    "RUNPOD_POD_ID": "abc123",
    "RUNPOD_API_KEY": "rpa_0123456789abcdef",
    "UPSTREAM_API_KEY": "sk-fedcba9876543210",
    "API_KEY": "sk-0123456789abcdef",
    "MONTHLY_BUDGET": "20",
}


@pytest.mark.parametrize(
    ("environ", "around", "values"),
    [
        ({}, PLAIN, {"host": "0.0.0.0"}),
        ({"AUTH_ENABLED": "false"}, PLAIN, {"host": "127.0.0.1"}),
        ({"AUTH_ENABLED": "false", "HOST": "0.0.0.0"}, PLAIN, {"host": "0.0.0.0"}),
        ({"AUTH_ENABLED": "false"}, replace(PLAIN, in_container=True), {"host": "0.0.0.0"}),
        ({}, PLAIN, {"idle_timeout": 900.0, "wake_on_start": True, "drain_timeout": 25.0, "hold_max": None}),
        ({}, replace(PLAIN, platform="container", in_container=True), {"idle_timeout": 900.0, "drain_timeout": 8.0}),
        ({}, replace(PLAIN, platform="kubernetes", in_container=True), {"idle_timeout": None, "drain_timeout": 25.0}),
        (
            {},
            replace(PLAIN, platform="runpod-pod", in_container=True),
            {"idle_timeout": None, "drain_timeout": 8.0, "hold_max": 85.0, "metrics_auth_enabled": True},
        ),
        ({}, replace(PLAIN, platform="modal", in_container=True), {"idle_timeout": None, "hold_max": 85.0}),
        ({}, replace(PLAIN, platform="vast", in_container=True), {"hold_max": None, "metrics_auth_enabled": True}),
        ({"IDLE_TIMEOUT": "15m"}, replace(PLAIN, platform="vast"), {"idle_timeout": 900.0}),
        ({"DRAIN_TIMEOUT": "25"}, replace(PLAIN, in_container=True), {"drain_timeout": 25.0}),
        ({"HOLD_MAX": "200"}, replace(PLAIN, platform="runpod-pod"), {"hold_max": 200.0}),
        ({"HOLD_MAX": "auto"}, replace(PLAIN, platform="runpod-pod"), {"hold_max": 85.0}),
        ({"METRICS_AUTH_ENABLED": "false"}, replace(PLAIN, platform="runpod-pod"), {"metrics_auth_enabled": False}),
        ({}, PLAIN, {"metrics_auth_enabled": False, "max_queue_bytes": 2 * GIB, "max_connections": 2000}),
        ({"MAX_QUEUE_BYTES": "1GiB"}, PLAIN, {"max_queue_bytes": GIB}),
        ({}, replace(PLAIN, memory=None), {"max_queue_bytes": 256 * 1024**2}),
        ({"UPSTREAM_URL": "http://gpu:1"}, PLAIN, {"idle_timeout": None, "provider": "external"}),
        ({}, PLAIN, {"health_mode": "strict"}),
        ({}, replace(PLAIN, platform="runpod-pod"), {"health_mode": "strict"}),
        ({}, replace(PLAIN, platform="runpod-serverless"), {"health_mode": "auto", "idle_timeout": None}),
        ({"HEALTH_MODE": "always"}, PLAIN, {"health_mode": "always"}),
        ({}, PLAIN, {"max_request_seconds": None}),
        (RENTED, PLAIN, {"idle_timeout": 600.0, "max_request_seconds": 3600.0, "wake_on_start": False}),
        (RENTED | {"INACTIVITY_LIMIT": "120"}, PLAIN, {"idle_timeout": 120.0}),
        (RENTED | {"MAX_REQUEST_SECONDS": "off"}, PLAIN, {"max_request_seconds": None}),
    ],
)
def test_what_nobody_set_follows_from_the_machine(environ, around: Surroundings, values: dict[str, object]) -> None:
    settled = settle(settings(**environ), around)
    assert {field: getattr(settled, field) for field in values} == values
    assert settled.warnings == ()


def test_fewer_connections_are_taken_where_few_files_may_be_open() -> None:
    settled = settle(settings(), replace(PLAIN, open_files=1024))
    assert settled.max_connections == 384
    assert settled.warnings == ("MAX_CONNECTIONS is 2000, and 1024 files may be open; it is 384 here",)


def test_somebodys_number_of_connections_stays_and_is_doubted() -> None:
    settled = settle(settings(MAX_CONNECTIONS="3000"), replace(PLAIN, open_files=1024))
    assert settled.max_connections == 3000
    assert settled.warnings == ("MAX_CONNECTIONS is 3000, and 1024 files may be open; it may not work",)


def test_nothing_is_woken_at_the_start_where_it_takes_several_to_wake_it() -> None:
    fallback = {"COLD_START": "fallback", "FALLBACK_URL": "https://a.example", "FALLBACK_MODEL": "m"}
    assert settle(settings(**fallback), PLAIN).wake_on_start
    assert not settle(settings(**fallback, WAKE_AFTER="5/10m"), PLAIN).wake_on_start
    assert settle(settings(**fallback, WAKE_AFTER="5/10m", WAKE_ON_START="yes"), PLAIN).wake_on_start


def test_what_somebody_else_answers_from_the_first_moment_on_is_not_said_to_be_initialising() -> None:
    fallback = {"COLD_START": "fallback", "FALLBACK_URL": "https://a.example", "FALLBACK_MODEL": "m"}
    assert settle(settings(**fallback), PLAIN).health_mode == "hold"
    assert settle(settings(**fallback), look(SERVERLESS, Table(there=DOCKER))).health_mode == "hold"
    assert settle(settings(**fallback, HEALTH_MODE="strict"), PLAIN).health_mode == "strict"


def test_settling_twice_changes_nothing_more() -> None:
    around = look(SERVERLESS, Table(there=DOCKER, writable=ALL))
    once = settle(settings(API_KEY="sk-0123456789abcdef"), around)
    assert settle(once, around) == once


def test_settling_keeps_what_was_warned_about() -> None:
    assert settle(settings(WAKEGATE_PROT="1"), PLAIN).warnings == settings(WAKEGATE_PROT="1").warnings


@pytest.mark.parametrize(
    ("environ", "url"),
    [
        ({}, "http://192.168.1.20:8000"),
        ({}, "http://192.168.1.20:8001"),
        ({}, "http://box:8000"),
        (POD, "https://abc123-8000.proxy.runpod.net"),
        (POD, "https://ABC123-8001.proxy.runpod.net/v1"),
        (VAST, "https://198.51.100.7:33526"),
    ],
)
def test_an_upstream_that_is_this_gateway_is_refused_by_any_of_its_addresses(environ: dict[str, str], url: str) -> None:
    around = look(environ, Table(there=DOCKER))
    with pytest.raises(SettingsError, match="is this gateway itself"):
        settle(settings(UPSTREAM_URL=url), around)
    with pytest.raises(SettingsError, match=r"FALLBACK_URL: .* is this gateway itself"):
        settle(settings(COLD_START="fallback", FALLBACK_URL=url, FALLBACK_MODEL="m"), around)


RENTS = {"API_KEY": "k" * 20, "UPSTREAM_API_KEY": "u" * 20, "MONTHLY_BUDGET": "20", "ALLOW_PLAIN_HTTP": "true"}


@pytest.mark.parametrize(
    ("here", "target", "other"),
    [
        (POD, {"PROVIDER": "runpod-pod", "WAKEGATE_RUNPOD_API_KEY": "k"}, "WAKEGATE_RUNPOD_POD_ID"),
        (
            {"CONTAINER_ID": "12345", "CONTAINER_API_KEY": "c"},
            {"PROVIDER": "vast", "VAST_API_KEY": "k"},
            "VAST_INSTANCE_ID",
        ),
    ],
)
def test_the_machine_that_it_runs_in_is_not_rented(here: dict[str, str], target: dict[str, str], other: str) -> None:
    around = look(here, Table(there=DOCKER))
    itself = here.get("CONTAINER_ID") or here["RUNPOD_POD_ID"]
    with pytest.raises(SettingsError, match=f"{itself} is the machine that this gateway runs in"):
        settle(settings(**RENTS, **here, **target, **{other: itself}), around)
    settle(settings(**RENTS, **here, **target, **{other: f"{itself}4"}), around)


@pytest.mark.parametrize(
    "url",
    [
        "http://192.168.1.20:8080",
        "http://box:8080",
        "https://other-8000.proxy.runpod.net",
        "https://abc123-8080.proxy.runpod.net",
    ],
)
def test_an_upstream_beside_us_is_fine(url: str) -> None:
    settle(settings(UPSTREAM_URL=url), look(POD, Table(there=DOCKER)))


# --- this machine ----------------------------------------------------------------------------------------------------


def test_this_machine_answers_every_question() -> None:
    around = look(dict(os.environ), checkout=find_checkout())
    assert around.cpus >= 1
    assert around.memory is not None
    assert around.memory > 0
    assert around.open_files > 0
    assert around.cwd == Path.cwd()
    assert around.host_name
    assert around.mount_of(Path("/proc")) is not None
    assert around.checkout == Path(__file__).resolve().parent.parent
    assert around.platform in repr(around)


def test_a_machine_that_says_nothing_is_survived(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = ThisMachine()
    assert machine.read(str(tmp_path / "missing")) is None
    assert machine.read(str(tmp_path)) is None
    assert not machine.is_writable(str(tmp_path / "missing"))
    assert machine.is_writable(str(tmp_path))
    assert machine.address_towards("not an address") is None
    monkeypatch.setattr(sys, "stdout", None)
    assert not machine.is_terminal()


def test_a_file_is_read_with_whether_its_owner_may_be_believed(tmp_path: Path) -> None:
    mine = tmp_path / ".env"
    mine.write_text("PORT=9000\n")
    assert read_file(mine) == File("PORT=9000\n", trusted=True)
    assert read_file(Path("/etc/passwd")).trusted, "root's"
    with pytest.raises(FileNotFoundError):
        read_file(tmp_path / "missing")
    mine.write_bytes(b"\xff\xfe")
    with pytest.raises(UnicodeDecodeError):
        read_file(mine)


@pytest.mark.parametrize(("owner", "us"), [(0, 1000), (1000, 1000), (0, 0)])
def test_our_own_files_and_roots_are_believed(owner: int, us: int) -> None:
    assert is_trusted(owner, us)


@pytest.mark.parametrize(("owner", "us"), [(1001, 1000), (1000, 0), (65534, 1000)])
def test_strangers_files_are_not_believed_not_even_by_root(owner: int, us: int) -> None:
    assert not is_trusted(owner, us)


def test_the_settings_of_this_process_are_final() -> None:
    final, around = settings_here({"WAKEGATE_ENV_FILE": "/dev/null", "WAKEGATE_PORT": "9000"})
    assert final.port == 9000
    assert final.data_dir.is_absolute()
    assert final.health_mode != "auto" or around.platform == "runpod-serverless"
    assert settle(final, around) == final


def test_a_certificate_of_its_own_lies_with_its_keys_wherever_data_is_kept() -> None:
    settled = settle(settings(TLS_CERT="self", DATA_DIR="/srv"), Surroundings())
    assert settled.tls_cert == own_certificate(Path("/srv")) == Path("/srv/keys/worker-tls.pem")
