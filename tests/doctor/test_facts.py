"""What the machine is asked: real sockets, real files, real programs where they can be had."""

import gzip
import os
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from gateway.config import load
from gateway.doctor import facts
from gateway.doctor.case import Build, Case, KeysFile, Listener, PagesAsked, Request
from gateway.doctor.facts import HANGS, gather, run_errands
from gateway.doctor.report import judge
from gateway.gpus import GpusSeen
from gateway.policy.keys import Key
from gateway.providers.local.commands import Installed
from gateway.records.ended import Ended
from gateway.records.lines import happening_json, happening_text, json_line, text_line
from gateway.records.onlookers import Tally
from gateway.surroundings import Surroundings, look, read_file, settle
from tests.support import nvml
from tests.support.doctoring import KEY, PLAIN, codes
from tests.support.llama import reference_server

ROOT = Path(__file__).parents[2]


def case_here(folder: Path, around: Surroundings = PLAIN, **environ: str) -> Case:
    """A case of this very machine."""
    there = {"DATA_DIR": str(folder), "PORT": str(unused()), "PORT_HEALTH": str(unused()), **environ}
    settings = settle(load(there, read=read_file), around)
    return Case(settings, around, gather(settings, around, there))


def unused() -> int:
    with listening() as listener:
        return listener.port


@contextmanager
def listening(address: str = "127.0.0.1") -> Iterator[Listener]:
    """A port on which somebody listens and never says anything."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family) as end:
        end.bind((address, 0))
        end.listen()
        yield Listener(address, end.getsockname()[1])


@contextmanager
def answering(
    pages: Mapping[str, tuple[int, str]], address: str = "127.0.0.1", tls: ssl.SSLContext | None = None
) -> Iterator[Listener]:
    """A port that answers GET from a table, 404 else."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = pages.get(self.path, (404, "not found"))
            self.send_response_only(status)
            self.send_header("Server", "uvicorn")
            self.send_header("Content-Length", str(len(body.encode())))
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, format: str, *words: object) -> None:
            pass

    with ThreadingHTTPServer((address, 0), Handler) as http:
        if tls is not None:
            http.socket = tls.wrap_socket(http.socket, server_side=True)
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield Listener(address, http.server_port)
        finally:
            http.shutdown()
            thread.join()


def openssl_pair(cert: Path, key: Path, *, days: int) -> None:
    """A certificate that signs itself, and its key."""
    kind = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=somebody"]
    files = ["-keyout", str(key), "-out", str(cert)]
    subprocess.run(["openssl", "req", "-x509", *kind, "-days", str(days), *files], check=True, capture_output=True)


# --- the whole -------------------------------------------------------------------------------------------------------


def test_a_look_at_this_machine_takes_less_than_its_time_and_leaves_nothing(tmp_path: Path) -> None:
    began = time.monotonic()
    case = case_here(tmp_path)
    assert time.monotonic() - began < 3
    assert case.facts.folder.problem == "" and case.facts.folder.free
    assert case.facts.python == sys.version_info[:3]
    assert case.facts.aiohttp_compiled and case.facts.uvloop
    assert case.facts.gateway is None and case.facts.unchecked == ()
    assert list(tmp_path.iterdir()) == []
    judge(case)


def test_what_hangs_costs_its_time_and_one_note(tmp_path: Path) -> None:
    """A pipe that nobody writes to, as a volume that never answers."""
    pipe = tmp_path / "cert.pem"
    os.mkfifo(pipe)
    settings = settle(load({"TLS_CERT": str(pipe), "DATA_DIR": str(tmp_path)}, read=read_file), PLAIN)
    try:
        found = gather(settings, PLAIN, {}, within=0.3)
    finally:
        os.close(os.open(pipe, os.O_RDWR))  # lets the thread go
    assert ("TLS_CERT", HANGS) in found.unchecked


def test_a_data_dir_that_hangs_is_told_apart_from_one_that_fails(
    tmp_path: Path,
) -> None:
    release = threading.Event()
    errands = {"slow": lambda: release.wait(5), "wrong": lambda: (tmp_path / "no").stat(), "fine": lambda: 7}
    found, failed = run_errands(errands, 0.2)
    release.set()
    assert found == {"fine": 7}
    assert failed == {"slow": HANGS, "wrong": "No such file or directory"}


def test_a_fault_of_our_own_is_not_hidden() -> None:
    with pytest.raises(ZeroDivisionError):
        run_errands({"broken": lambda: 1 // 0}, 1.0)


def test_only_harmless_variables_are_kept(tmp_path: Path) -> None:
    environ = {"PORT": "8000", "API_KEY": KEY, "RUNPOD_API_KEY": KEY, "RUNPOD_GPU_COUNT": "1"}
    settings = settle(load({"DATA_DIR": str(tmp_path)}, read=read_file), PLAIN)
    found = gather(settings, PLAIN, environ)
    assert found.told == {"PORT": "8000", "RUNPOD_GPU_COUNT": "1"}
    assert KEY not in repr(found)


# --- DATA_DIR --------------------------------------------------------------------------------------------------------


def test_a_folder_that_is_not_there_yet_is_judged_by_the_one_above(tmp_path: Path) -> None:
    folder = facts.look_at_folder(tmp_path / "a" / "b")
    assert folder.problem == "" and folder.free and not (tmp_path / "a").exists()


def test_what_cannot_be_written_says_why(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert facts.look_at_folder(tmp_path / "file").problem == "it is not a folder"
    assert "is not a folder" in facts.look_at_folder(tmp_path / "file" / "below").problem
    assert facts.look_at_folder(Path("/proc")).problem != ""  # not even root can make files there


def test_links_in_a_circle_are_a_finding_and_no_fault_of_ours(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    assert facts.look_at_folder(tmp_path / "a").problem == "its links lead round in a circle"


def test_a_link_is_followed_to_where_the_data_really_lies(tmp_path: Path) -> None:
    (tmp_path / "volume").mkdir()
    (tmp_path / "data").symlink_to("volume")
    assert facts.look_at_folder(tmp_path / "data").path == tmp_path / "volume"


def test_a_folder_in_memory_is_recognised_by_this_machines_own_mounts(tmp_path: Path) -> None:
    """All of them: a bare chroot has none in memory, and then nothing may be taken for one."""
    around = look({})
    folders = [Path(mount.point) for mount in around.mounts if Path(mount.point).is_dir()]
    for folder in [*folders, tmp_path]:
        mount = around.mount_of(folder)
        in_memory = mount is not None and mount.kind in ("tmpfs", "ramfs")
        assert ("data-dir-in-memory" in codes(judge(case_here(folder, around)))) is in_memory, folder


def test_the_time_of_a_volume_on_this_machine_is_ours(tmp_path: Path) -> None:
    assert abs(facts.look_at_folder(tmp_path).skew) < 1


# --- the log ---------------------------------------------------------------------------------------------------------


def ended(at: float, outcome: str = "answered") -> Ended:
    return Ended(
        at=at, request_id="r", caller_id="", upstream="default", key="alice", route="/v1/chat/completions", model="m",
        status=200, outcome=outcome, code="", ended_by="gateway", state="ready", line=0.0, wake=0.0, first_byte=0.1,
        first_token=None, longest_gap=None, took=0.5, tokens_in=3, tokens_out=7, bytes_in=90, bytes_out=500,
    )  # fmt: skip


def test_requests_are_read_from_every_workers_files_in_both_forms(tmp_path: Path) -> None:
    lines = [happening_text(1.0, "ready"), text_line(ended(100.0)), "torn requ", text_line(ended(50.0, "refused"))]
    (tmp_path / "20261121T140506Z_pod-1.txt").write_text("\n".join(lines) + "\n")
    (tmp_path / "20261121T150000Z_pod-2.txt").write_text(json_line(ended(300.0)) + "\n")
    with gzip.open(tmp_path / "20261121T140506Z_pod-1_20261122T140506.123456Z.txt.gz", "wt") as packed:
        packed.write(text_line(ended(40.0)) + "\n")
    (tmp_path / "20261121T140506Z_pod-1_engine.txt").write_text(text_line(ended(1.0)) + "\n")
    (tmp_path / "notes.txt").write_text(text_line(ended(2.0)) + "\n")
    (tmp_path / "20261121T140506Z_pod-3_20261122T140506.123456Z.txt.gz").write_bytes(b"torn")
    requests = facts.look_at_log(tmp_path)
    assert [request.at for request in requests] == [40.0, 100.0, 300.0]
    assert requests[0] == Request(40.0, "alice", "/v1/chat/completions", bytes_in=90, tokens_out=7, took=0.5)


def test_pages_are_read_from_the_lines_that_sum_them_up(tmp_path: Path) -> None:
    tally = Tally(600.0, {"/ping": 20})
    lines = [happening_text(100.0, str(tally)), text_line(ended(100.0)), happening_text(1.0, "pages asked for nothing")]
    (tmp_path / "20261121T140506Z_pod-1.txt").write_text("\n".join(lines) + "\n")
    (tmp_path / "20261121T150000Z_pod-2.txt").write_text(happening_json(300.0, "info", str(tally)) + "\n")
    assert sorted(facts.look_at_pages(tmp_path), key=lambda asked: asked.at) == [
        PagesAsked(100.0, tally),
        PagesAsked(300.0, tally),
    ]


def test_no_log_is_no_request(tmp_path: Path) -> None:
    assert facts.look_at_log(tmp_path / "logs") == facts.look_at_pages(tmp_path / "logs") == ()


# --- model, keys, certificate ----------------------------------------------------------------------------------------


def test_a_model_is_found_missed_or_to_be_downloaded(tmp_path: Path, demo_model: Path) -> None:
    assert case_here(tmp_path).facts.model.text is None
    here = case_here(tmp_path, MODEL=str(demo_model)).facts.model
    assert here.found is not None and here.found.size == demo_model.stat().st_size
    assert "is not there" in case_here(tmp_path, MODEL="/nowhere/m.gguf").facts.model.problem
    assert case_here(tmp_path, MODEL="wakegate-tests/no-such-model").facts.model.is_to_download


def test_a_cut_model_says_so(tmp_path: Path, demo_model: Path) -> None:
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(demo_model.read_bytes()[:-100])
    assert "model-unusable" in codes(judge(case_here(tmp_path, MODEL=str(cut))))


def test_a_file_of_keys_is_read_as_the_gateway_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    digest = Key.of("x", KEY).digest.hex()
    path.write_text(f"alice:sha256:{digest}\nbob:{KEY}\n")
    path.chmod(0o644)
    seen = facts.look_at_keys(path)
    assert seen.in_clear and seen.count == 2 and seen.doubts and KEY not in repr(seen)
    path.write_text(f'[[keys]]\nname = "carol"\nhash = "sha256:{digest}"\nexpires = "2020-01-01"\n')
    assert facts.look_at_keys(path).expired == ("carol",)
    assert facts.look_at_keys(tmp_path / "no").problems == ("no such file or directory",)
    assert facts.look_at_keys(None) == KeysFile()


def test_a_certificate_is_read_as_the_gateway_reads_it(tmp_path: Path) -> None:
    for name in ("one", "two"):
        openssl_pair(tmp_path / f"{name}.pem", tmp_path / f"{name}.key", days=3)
    cert, key = str(tmp_path / "one.pem"), str(tmp_path / "one.key")
    assert "tls-expiring" in codes(judge(case_here(tmp_path, TLS_CERT=cert, TLS_KEY=key)))
    assert "tls-unusable" in codes(judge(case_here(tmp_path, TLS_CERT=cert, TLS_KEY=str(tmp_path / "two.key"))))
    assert "tls-unusable" in codes(judge(case_here(tmp_path, TLS_CERT=str(tmp_path / "no.pem"))))


def test_secrets_that_others_may_read_are_found_and_not_kept(tmp_path: Path) -> None:
    dotenv = tmp_path / ".env"
    dotenv.write_text(f"PORT=8000\nWAKEGATE_API_KEY={KEY}\n")
    dotenv.chmod(0o644)
    (tmp_path / "keys").mkdir()
    first = tmp_path / "keys" / "first-key.txt"
    first.write_text(KEY)
    first.chmod(0o600)
    settings = settle(load({"DATA_DIR": str(tmp_path)}, read=read_file), PLAIN)
    environ = {"WAKEGATE_ENV_FILE": str(dotenv)}
    assert list(facts.look_at_secrets(settings, PLAIN, environ)) == [(str(dotenv), 0o644)]
    dotenv.write_text("PORT=8000\n# API_KEY=x\nAPI_KEY=\n")
    first.chmod(0o604)
    assert list(facts.look_at_secrets(settings, PLAIN, environ)) == [(str(first), 0o604)]


# --- GPUs and engines ------------------------------------------------------------------------------------------------


def test_gpus_are_told_as_nvidias_library_tells_them() -> None:
    seen = facts.look_at_gpus(nvml.library("L4"))
    assert (seen.gpus, seen.driver, seen.cuda) == (nvml.gpus("L4"), "570.86.15", (12, 8))


def test_a_driver_that_is_not_there_or_fails_halfway_is_told_in_its_words() -> None:
    halfway = nvml.library("L4", nvmlDeviceGetName=nvml.fail)
    assert facts.look_at_gpus(halfway).problem == "the driver answers, and not all: Not Supported"
    assert facts.look_at_gpus(nvml.library(nvmlInit=nvml.fail)).problem == "Not Supported"


def test_the_real_library_answers_or_says_why_not() -> None:
    seen = facts.look_at_gpus()
    assert isinstance(seen, GpusSeen) and (seen.gpus or seen.problem)


def test_llama_cpp_is_known_by_its_libraries(tmp_path: Path) -> None:
    cpu, cuda = tmp_path / "libggml-cpu.so", tmp_path / "libggml-cuda.so"
    cpu.write_bytes(b"x")
    assert facts.build_of_libraries([cpu]) == Build(gpu=False)
    cuda.write_bytes(b"\x7fELF\0libm.so.6\0libcudart.so.12\0libcublas.so.12\0")
    assert facts.build_of_libraries([cpu, cuda]) == Build(gpu=True, cuda=(12,))
    assert facts.build_of_libraries([cpu, tmp_path / "libggml-vulkan.so"]) == Build(gpu=True)
    assert facts.build_of_libraries([]) == Build()


def test_the_package_that_is_installed_here_is_known() -> None:
    assert facts.look_at_builds(Installed(llama_cpp=True))["llama-cpp-python"].gpu is not None


def test_llama_server_is_known_by_what_is_in_it_or_beside_it(tmp_path: Path) -> None:
    program = tmp_path / "bin" / "llama-server"
    program.parent.mkdir()
    program.write_bytes(b"\x7fELF code ggml_cuda_init \0libcudart.so.13\0")
    assert facts.build_of_llama_server(program) == Build(gpu=True, cuda=(13,))
    program.write_bytes(b"\x7fELF code")
    assert facts.build_of_llama_server(program) == Build(gpu=False)
    program.write_text("#!/bin/sh\nexec docker run …\n")
    assert facts.build_of_llama_server(program) == Build()
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "libggml-hip.so").touch()
    assert facts.build_of_llama_server(program) == Build(gpu=True)


@pytest.mark.parametrize(
    ("line", "build"),
    [
        ("cuda: Optional[str] = '12.8'\n", Build(gpu=True, cuda=(12, 8))),
        ("__version__ = '2.9'\ncuda = '13.0'\n", Build(gpu=True, cuda=(13, 0))),
        ("cuda: Optional[str] = None\n", Build(gpu=False)),
        ("other = 1\n", Build()),
    ],
)
def test_vllm_is_known_by_the_torch_beside_it(tmp_path: Path, line: str, build: Build) -> None:
    torch = tmp_path / "lib" / "python3.12" / "site-packages" / "torch"
    torch.mkdir(parents=True)
    (torch / "version.py").write_text(line)
    script = tmp_path / "bin" / "vllm"
    script.parent.mkdir()
    script.write_text(f"#!{tmp_path}/bin/python3\nimport sys\n")
    assert facts.build_of_vllm(script) == build
    script.write_text("#!/usr/bin/env python3\n")
    assert facts.build_of_vllm(script) == Build()


# --- ports -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("address", ["127.0.0.1", "0.0.0.0", "::1", "::"])
def test_a_real_listener_is_seen_with_its_process(address: str) -> None:
    with listening(address) as there:
        (seen,) = [listener for listener in facts.look_at_listeners() if listener.port == there.port]
    assert (seen.address, seen.pid) == (address, os.getpid())
    assert seen.process and seen.who == f"{seen.process} (process {os.getpid()})"


def test_a_real_port_in_use_is_found(tmp_path: Path) -> None:
    with listening("0.0.0.0") as there:
        found = judge(case_here(tmp_path, PORT=str(there.port)))
    assert "port-taken" in codes(found)


def test_a_gateway_is_recognised_by_what_its_health_says(tmp_path: Path) -> None:
    said = '{"status":"failed","state":"failed","progress":null,"reason":"Out of memory."}'
    with answering({"/health": (200, said)}) as there:
        case = case_here(tmp_path, PORT=str(there.port))
    assert case.facts.gateway is not None
    assert (case.facts.gateway.status, case.facts.gateway.reason) == ("failed", "Out of memory.")
    assert {"gateway-failed", "health-port-silent"} <= set(codes(judge(case)))


def test_a_gateway_that_speaks_tls_is_asked_so(tmp_path: Path) -> None:
    pem, key = tmp_path / "both.pem", tmp_path / "key"
    openssl_pair(pem, key, days=60)
    pem.write_text(key.read_text() + pem.read_text())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    said = '{"status":"ok","state":"starting","progress":{"phase":"loading","ratio":0.43}}'
    with answering({"/health": (200, said)}, tls=context) as there:
        seen = case_here(tmp_path, PORT=str(there.port), TLS_CERT=str(pem)).facts.gateway
    assert seen is not None and (seen.state, seen.progress) == ("starting", "loading 43%")


def test_a_gateway_is_recognised_also_from_a_shell_that_knows_nothing_of_its_tls(tmp_path: Path) -> None:
    """Else the doctor would have somebody kill a gateway that serves."""
    pem, key = tmp_path / "both.pem", tmp_path / "key"
    openssl_pair(pem, key, days=60)
    pem.write_text(key.read_text() + pem.read_text())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    pages = {"/health": (200, '{"status":"ok","state":"ready","progress":null}')}
    with answering(pages, tls=context) as secure, answering(pages) as plain:
        over_tls = case_here(tmp_path, PORT=str(secure.port)).facts.gateway
        in_clear = case_here(tmp_path, PORT=str(plain.port), TLS_CERT=str(pem)).facts.gateway
    assert over_tls is not None and (over_tls.state, over_tls.silent, over_tls.tls) == ("ready", "", True)
    assert in_clear is not None and (in_clear.state, in_clear.silent, in_clear.tls) == ("ready", "", False)


def test_a_health_server_of_ours_that_hangs_is_told_from_a_stranger(tmp_path: Path) -> None:
    with answering({"/health": (200, '{"status":"ok","state":"ready","progress":null}')}) as there:
        program = (
            "import socket, time; s = socket.create_server(('127.0.0.1', 0)); print(s.getsockname()[1]); time.sleep(60)"
        )
        command = [sys.executable, "-u", "-I", "-S", "-c", program]
        for last, hangs in (("/opt/wakegate/health", True), ("/srv/else", False)):
            with subprocess.Popen([*command, last], stdout=subprocess.PIPE, text=True) as other:
                try:
                    assert other.stdout is not None
                    port = other.stdout.readline().strip()
                    seen = case_here(tmp_path, PORT=str(there.port), PORT_HEALTH=port).facts.gateway
                finally:
                    other.kill()
            assert seen is not None and (seen.health_port, seen.health_hangs) == (None, hangs)


def test_somebody_elses_health_is_no_gateway(tmp_path: Path) -> None:
    for pages in ({"/health": (200, '{"status":"ok"}')}, {"/health": (200, "[]")}, {}):
        with answering(pages) as there:
            assert case_here(tmp_path, PORT=str(there.port)).facts.gateway is None


def test_our_health_server_is_known_while_the_gateway_is_not_there_yet(tmp_path: Path) -> None:
    port = unused()
    health = subprocess.Popen(
        [sys.executable, "-I", "-S", str(ROOT / "health")],
        env={"HOST": "127.0.0.1", "PORT_HEALTH": str(port), "WAKEGATE_RUN_DIR": str(tmp_path), "WAKEGATE_BOOT": "b"},
        stdout=subprocess.PIPE,
    )
    try:
        assert health.stdout is not None
        health.stdout.readline()  # it listens
        found = judge(case_here(tmp_path, PORT_HEALTH=str(port)))
    finally:
        health.kill()
        health.communicate()
    assert f"is taken by a WakeGate's health server (process {health.pid})." in "".join(f.what for f in found)


VLLM = {"/health": (200, ""), "/version": (200, '{"version":"0.33.0"}'), "/invocations": (405, "")}


def test_a_bare_vllm_beside_the_gateway_is_found_with_what_it_leaves_open(tmp_path: Path) -> None:
    with answering({**VLLM, "/v1/models": (401, "")}, address="0.0.0.0") as locked:
        case = case_here(tmp_path)
    (engine,) = [engine for engine in case.facts.engines if engine.listener.port == locked.port]
    assert (engine.name, engine.open_routes) == ("vLLM", ("/invocations",))
    assert "engine-open" in codes(judge(case))


@pytest.mark.parametrize("name", ["PORT", "PORT_HEALTH", "METRICS_PORT"])
def test_an_engine_that_has_one_of_our_own_ports_is_found_as_well(tmp_path: Path, name: str) -> None:
    """8000 is where vLLM listens when nobody says otherwise."""
    with answering({**VLLM, "/v1/models": (200, "")}, address="0.0.0.0") as there:
        case = case_here(tmp_path, **{name: str(there.port)})
    assert [seen.open_routes for seen in case.facts.engines if seen.listener.port == there.port] == [("everything",)]
    assert {"port-taken", "engine-open"} <= set(codes(judge(case)))


def test_ports_that_take_calls_and_never_answer_do_not_hide_that_they_are_taken(tmp_path: Path) -> None:
    with listening("0.0.0.0") as first, listening("0.0.0.0") as second, listening("0.0.0.0"):
        began = time.monotonic()
        case = case_here(tmp_path, PORT=str(first.port), PORT_HEALTH=str(second.port))
        assert time.monotonic() - began < 3
    assert codes(judge(case)).count("port-taken") == 2
    assert case.facts.unchecked == ()


def test_an_engine_on_loopback_is_nobodys_danger(tmp_path: Path) -> None:
    with answering(VLLM) as there:
        engines = case_here(tmp_path).facts.engines
    assert there.port not in [engine.listener.port for engine in engines]


@pytest.mark.engine
def test_the_real_server_of_llama_cpp_python_is_recognised(demo_model: Path) -> None:
    with reference_server(demo_model) as url:
        seen = facts.look_at_engine(Listener("127.0.0.1", int(url.rpartition(":")[2])))
    assert seen is not None and seen.name == "llama-cpp-python's own server"


def test_what_speaks_no_http_or_nothing_at_all_is_no_engine() -> None:
    with listening() as silent:
        assert facts.look_at_engine(silent) is None
    with socket.create_server(("127.0.0.1", 0)) as end:
        thread = threading.Thread(target=lambda: [end.accept()[0].sendall(b"SSH-2.0-x\r\n")])
        thread.start()
        assert facts.look_at_engine(Listener("127.0.0.1", end.getsockname()[1])) is None
        thread.join()
    assert facts.look_at_engine(silent) is None  # nobody listens any more


def test_nothing_but_addresses_of_this_machine_is_connected_to() -> None:
    with pytest.raises(OSError, match="no address"):
        facts.ask(Listener("example.org", 80), "/")


def test_an_address_that_is_not_ours_is_told_and_a_name_is_not_looked_up() -> None:
    assert facts.host_problem("203.0.113.9") == "Cannot assign requested address"
    assert facts.host_problem("127.0.0.1") == facts.host_problem("::") == facts.host_problem("example.org") == ""


# --- the machine -----------------------------------------------------------------------------------------------------


def test_rights_and_limits_are_read_from_the_kernels_files(tmp_path: Path) -> None:
    proc = tmp_path / "proc"
    (proc / "self").mkdir(parents=True)
    (proc / "sys/net/ipv4").mkdir(parents=True)
    (proc / "self/status").write_text("Name:\tx\nCapEff:\t0000000000000000\n")
    (proc / "sys/net/ipv4/ip_unprivileged_port_start").write_text("80\n")
    settings = settle(load({"DATA_DIR": str(tmp_path)}, read=read_file), PLAIN)
    found = gather(settings, PLAIN, {}, proc=proc)
    assert (found.may_listen_low, found.lowest_port, found.listeners) == (False, 80, ())
    (proc / "self/status").write_text("CapEff:\t00000000a80425fb\n")
    assert gather(settings, PLAIN, {}, proc=proc).may_listen_low


def test_the_kernel_says_whether_its_clock_is_right_or_says_nothing() -> None:
    assert facts.clock_is_synchronised() in (True, False, None)
