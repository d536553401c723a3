"""Records what real engines print while they start, fail to start, sleep and end: tests/providers/local/logs/*.txt.

    python -m tests.support.record_starts llama-server PATH            # scripts/build_llama_server.sh prints it
    python -m tests.support.record_starts llama-cpp-python
    python -m tests.support.record_starts vllm FOLDER                  # scripts/build_vllm.sh prints it
    python -m tests.support.record_starts vllm FOLDER good-eager       # only this one

One file per story: a line of `#` that says which engine, and that it is real; then all that the process wrote to its
output and errors, in its order, `\\r` included. What is of one machine (folders, its name, process ids) is replaced by
the same words everywhere. A recording is data: tests that read them must not need this file.
"""

import argparse
import datetime
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from http.client import HTTPConnection
from pathlib import Path

from gateway.providers.local.environment import engine_environment
from tests.support.vllm import ENVIRONMENT

LOGS = Path(__file__).parent.parent / "providers" / "local" / "logs"
ROOT = Path(__file__).parent.parent.parent
PATIENCE = 120.0


class OtherwiseError(Exception):
    """It did not do what its story says; what it printed is kept nowhere."""


class UnixConnection(HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=60)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


@dataclass
class Engine:
    """A running engine that is recorded, with what it has said so far in `output`."""

    process: "subprocess.Popen[bytes]"
    output: Path
    socket: str = ""
    port: int = 0
    patience: float = PATIENCE

    def ask(self, method: str, path: str, body: object = None) -> tuple[int, str]:
        kind = UnixConnection(self.socket) if self.socket else HTTPConnection("127.0.0.1", self.port, timeout=60)
        with closing(kind) as line:
            data = None if body is None else json.dumps(body).encode()
            line.request(method, path, data, {"Content-Type": "application/json"})
            answer = line.getresponse()
            return answer.status, answer.read().decode()

    def ready(self, path: str = "/health") -> None:
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise OtherwiseError(f"it ended: {self.output.read_text()[-3000:]}")
            try:
                if self.ask("GET", path)[0] == 200:
                    return
            except OSError:
                pass
            time.sleep(0.05)
        raise OtherwiseError("it was never ready")

    def ends(self) -> int:
        return self.process.wait(self.patience)

    def stop(self) -> int:
        os.killpg(self.process.pid, signal.SIGTERM)
        return self.ends()


Play = Callable[[Engine], None]


def ready_then_stop(engine: Engine) -> None:
    engine.ready()
    engine.stop()


def fails(engine: Engine) -> None:
    try:
        code = engine.ends()
    except subprocess.TimeoutExpired:
        raise OtherwiseError("it was to fail, and runs") from None
    if code == 0:
        raise OtherwiseError("it was to fail")


def ready_by_models(engine: Engine) -> None:
    engine.ready("/v1/models")
    engine.stop()


@dataclass
class Story:
    name: str
    says: str
    args: list[str]
    play: Play = ready_then_stop
    env: Mapping[str, str] = field(default_factory=dict)
    before: Callable[[Path], None] | None = None
    """Makes what it needs in its folder."""
    room: float = 0
    """GB of address space that it may have; 0: any. Without it the kernel would kill other processes too."""


CHAT = {"model": "demo", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 8, "temperature": 0}


def slept(level: int) -> Play:
    """One answer, asleep, awake, one answer."""

    def play(engine: Engine) -> None:
        engine.ready()
        said = [engine.ask("POST", "/v1/chat/completions", CHAT)]
        said.append(engine.ask("POST", f"/sleep?level={level}&mode=wait"))
        said.append(engine.ask("GET", "/is_sleeping"))
        said.append(engine.ask("GET", "/health"))
        if level == 2:
            said.append(engine.ask("POST", "/wake_up?tags=weights"))
            said.append(engine.ask("GET", "/is_sleeping"))
            said.append(engine.ask("POST", "/collective_rpc", {"method": "reload_weights"}))
            said.append(engine.ask("POST", "/wake_up?tags=kv_cache"))
            said.append(engine.ask("GET", "/is_sleeping"))
        else:
            said.append(engine.ask("POST", "/wake_up"))
        said.append(engine.ask("GET", "/is_sleeping"))
        said.append(engine.ask("POST", "/v1/chat/completions", CHAT))
        for status, text in said:
            print("   ", status, text[:300])
        engine.stop()

    return play


# --- vLLM ------------------------------------------------------------------------------------------------------------

EAGER = ["--enforce-eager"]


def bad_config(**changed: object) -> Callable[[Path], None]:
    def make(model: Path) -> None:
        config = json.loads((model / "config.json").read_text())
        (model / "config.json").write_text(json.dumps(config | changed))

    return make


def without(*names: str) -> Callable[[Path], None]:
    def make(model: Path) -> None:
        for name in names:
            (model / name).unlink()

    return make


def cut_weights(model: Path) -> None:
    file = model / "model.safetensors"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def empty(model: Path) -> None:
    shutil.rmtree(model)
    model.mkdir()


def killed_core(engine: Engine) -> None:
    engine.ready()
    for pid in (int(folder.name) for folder in Path("/proc").iterdir() if folder.name.isdigit()):
        try:
            if (
                os.getpgid(pid) == engine.process.pid
                and b"EngineCore" in Path(f"/proc/{pid}/comm").read_bytes() + Path(f"/proc/{pid}/cmdline").read_bytes()
            ):
                os.kill(pid, signal.SIGKILL)
        except OSError:
            pass  # it ended meanwhile
    engine.ends()


def vllm_stories() -> Iterator[Story]:
    yield Story("good-eager", "a good start with --enforce-eager, then SIGTERM", EAGER)
    yield Story("good-compiled", "a good start that compiles, nothing cached yet, then SIGTERM", [])
    yield Story("good-compiled-again", "a good start that finds what the last one compiled, then SIGTERM", [])
    long = ["--max-model-len", "4096", *EAGER]
    dev = {"VLLM_SERVER_DEV_MODE": "1"}
    yield Story("asleep-level-1", "an answer, /sleep?level=1, /wake_up, an answer, SIGTERM", EAGER, slept(1), dev)
    yield Story("asleep-level-2", "an answer, /sleep?level=2, weights anew, an answer, SIGTERM", EAGER, slept(2), dev)
    yield Story("no-sleep-mode", "fails: --enable-sleep-mode on a CPU", ["--enable-sleep-mode", *EAGER], fails)
    yield Story(
        "kv-cannot-fit",
        "fails: one request of --max-model-len needs more cache than there is",
        ["--max-model-len", "2000000", *EAGER],
        fails,
        {"VLLM_ALLOW_LONG_MAX_MODEL_LEN": "1"},
    )
    yield Story(
        "no-room-for-cache",
        "fails: more cache is asked for than there is memory",
        long,
        fails,
        {"VLLM_CPU_KVCACHE_SPACE": "4000"},
    )
    yield Story(
        "longer-than-model",
        "fails: --max-model-len beyond what the model was made for",
        ["--max-model-len", "100000", *EAGER],
        fails,
    )
    yield Story("unknown-argument", "fails: an argument that it does not know", ["--max-modal-len", "100"], fails)
    yield Story("bad-value", "fails: an argument with a value it cannot have", ["--dtype", "float7"], fails)
    yield Story("no-such-folder", "fails: the model's folder is not there", [*EAGER], fails, before=shutil.rmtree)
    yield Story("empty-folder", "fails: the model's folder is empty", [*EAGER], fails, before=empty)
    yield Story(
        "no-weights",
        "fails: config and tokenizer, but no weights",
        [*EAGER],
        fails,
        before=without("model.safetensors"),
    )
    yield Story("cut-weights", "fails: the weights' file ends in its middle", [*EAGER], fails, before=cut_weights)
    yield Story(
        "unsupported-architecture",
        "fails: an architecture that it does not know",
        [*EAGER],
        fails,
        before=bad_config(architectures=["NobodysForCausalLM"]),
    )
    yield Story(
        "unknown-model-type",
        "fails: a model_type that transformers does not know",
        [*EAGER],
        fails,
        before=bad_config(model_type="nobodys", architectures=["NobodysForCausalLM"]),
    )
    yield Story(
        "wrong-shape",
        "fails: weights of another shape than config.json says",
        [*EAGER],
        fails,
        before=bad_config(hidden_size=512, head_dim=64),
    )
    yield Story(
        "no-tokenizer",
        "fails: no tokenizer in the folder",
        [*EAGER],
        fails,
        before=without("tokenizer.json", "tokenizer_config.json"),
    )
    yield Story(
        "broken-config",
        "fails: config.json is no JSON",
        [*EAGER],
        fails,
        before=lambda model: (model / "config.json").write_text("{") and None,
    )
    yield Story("port-taken", "fails: its port is taken", ["--port", "{taken}", *EAGER], fails)
    yield Story("killed-core", "kill -9 of EngineCore while it serves: it ends by itself", EAGER, killed_core)


def record_vllm(folder: Path, chosen: list[str]) -> None:
    python = folder / "bin" / "python"
    version = subprocess.run(
        [python, "-c", "from importlib.metadata import version; print(version('vllm_cpu'), version('torch'))"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split()
    with scratch() as home:
        for story in vllm_stories():
            if chosen and story.name not in chosen:
                continue
            model = home / "tiny-llama"
            shutil.rmtree(model, ignore_errors=True)
            shutil.copytree(folder / "model", model)
            if story.before is not None:
                story.before(model)
            with taken_port() as port:
                door = [] if "--port" in story.args else ["--uds", str(home / "engine.sock")]
                args = [word.replace("{taken}", str(port)) for word in story.args]
                argv = [str(folder / "bin" / "vllm"), "serve", str(model), *door, "--served-model-name", "demo", *args]
                label = f"vLLM {version[0]} (CPU, torch {version[1]})"
                record(
                    "vllm",
                    label,
                    story,
                    argv,
                    home,
                    ENVIRONMENT | dict(story.env),
                    socket=str(home / "engine.sock"),
                    hide={str(folder): "/opt/vllm", str(port): "8000"},
                )


# --- llama-server ----------------------------------------------------------------------------------------------------


def cut_gguf(model: Path) -> None:
    data = model.read_bytes()
    model.write_bytes(data[: len(data) * 2 // 3])


HUGE_CACHE = ["-c", "2000000", "-fit", "off"]
NO_MMAP = ["--load-mode", "none"]


def llama_server_stories() -> Iterator[Story]:
    usual = ["--no-webui", "--no-slots", "--metrics", "--jinja", "--n-gpu-layers", "auto"]
    yield Story("good", "a good start as the gateway starts it, then SIGTERM", usual)
    yield Story("good-four-slots", "four requests at once, 8192 tokens in all", [*usual, "-np", "4", "-c", "8192"])
    quantized = [*usual, "-fa", "on", "-ctk", "q8_0", "-ctv", "q8_0"]
    yield Story("narrow-heads", "fails: a cache in q8_0, and heads that are narrower than its blocks", quantized, fails)
    yield Story("good-embeddings", "embeddings, pooled by mean", [*usual, "--embeddings", "--pooling", "mean"])
    yield Story("good-verbose", "with -v", [*usual, "-v"])
    yield Story("good-no-mmap", "without mmap", [*usual, *NO_MMAP])
    yield Story("good-verbosity-4", "with -lv 4", [*usual, "-lv", "4"])
    yield Story("good-beyond-training", "a longer context than the model was trained for", [*usual, "-c", "65536"])
    yield Story("no-such-file", "fails: the model's file is not there", usual, fails, before=Path.unlink)
    yield Story("cut-file", "fails: the model's file ends early", usual, fails, before=cut_gguf)
    yield Story(
        "not-a-gguf",
        "fails: the file is something else",
        usual,
        fails,
        before=lambda model: model.write_text("<html>404</html>" * 100) and None,
    )
    yield Story(
        "wrong-architecture",
        "fails: an architecture that it does not know",
        usual,
        fails,
        before=lambda model: model.write_bytes(model.read_bytes().replace(b"llama", b"nobdy")) and None,
    )
    yield Story("unknown-argument", "fails: an argument that it does not know", [*usual, "--ctx-sise", "10"], fails)
    yield Story("bad-value", "fails: an argument with a value it cannot have", [*usual, "-c", "many"], fails)
    yield Story(
        "out-of-memory", "fails: a cache beyond the memory that it may have", [*usual, *HUGE_CACHE], fails, room=1.2
    )
    yield Story("out-of-memory-weights", "fails: weights beyond the memory that it may have", NO_MMAP, fails, room=0.6)
    yield Story(
        "address-taken", "fails: it cannot listen where it is told to", ["--host", "/nowhere/engine.sock"], fails
    )
    yield Story("port-taken", "fails: its port is taken", ["--host", "127.0.0.1", "--port", "{taken}"], fails)
    yield Story("bad-template", "a chat template that does not parse", [*usual, "--chat-template", "{% if %}"], fails)


def record_llama_server(binary: Path, chosen: list[str]) -> None:
    said = subprocess.run([binary, "--version"], check=True, capture_output=True, text=True)
    version = re.search(r"version: (\S+)", said.stdout + said.stderr)
    label = f"llama-server {version[1] if version else '?'} (CPU, sources of llama-cpp-python {binary.parent.name})"
    with scratch() as home:
        models = {"": home / "demo.gguf", "-458mb": home / "big.gguf"}
        keep = home / "kept"
        keep.mkdir()
        make = [sys.executable, "scripts/make_demo_model.py"]
        subprocess.run([*make, str(keep / "demo.gguf")], check=True, cwd=ROOT)
        subprocess.run([*make, str(keep / "big.gguf"), "--layers", "12", "--dim", "1024"], check=True, cwd=ROOT)
        for story in llama_server_stories():
            for size, model in models.items():
                if story.name not in BOTH_SIZES.get(size, ()) if size else story.name in ONLY_BIG:
                    continue
                if chosen and story.name + size not in chosen:
                    continue
                shutil.copy(keep / model.name, model)
                if story.before is not None:
                    story.before(model)
                told = replace(story, name=story.name + size)
                with taken_port() as port:
                    args = [word.replace("{taken}", str(port)) for word in story.args]
                    door = [] if "--host" in args else ["--host", str(home / "engine.sock")]
                    argv = [str(binary), "--model", str(model), "--alias", "demo", *door, *args]
                    record(
                        "llama-server",
                        label,
                        told,
                        argv,
                        home,
                        {},
                        socket=str(home / "engine.sock"),
                        hide={str(port): "8000"},
                    )


# --- llama-cpp-python ------------------------------------------------------------------------------------------------


def llama_cpp_stories() -> Iterator[Story]:
    yield Story("good", "a good start of its own server, then SIGTERM", [], ready_by_models)
    yield Story("good-quiet", "its own server with --verbose False", ["--verbose", "False"], ready_by_models)
    yield Story("no-such-file", "fails: the model's file is not there", [], fails, before=Path.unlink)
    yield Story("cut-file", "fails: the model's file ends early", [], fails, before=cut_gguf)
    yield Story(
        "not-a-gguf",
        "fails: the file is something else",
        [],
        fails,
        before=lambda model: model.write_text("<html>404</html>" * 100) and None,
    )
    yield Story("out-of-memory", "fails: a cache beyond any memory", ["--n_ctx", "2000000"], fails, room=4)
    yield Story("unknown-argument", "fails: an argument that it does not know", ["--n_ctxx", "10"], fails)
    yield Story("port-taken", "fails: its port is taken", ["--port", "{taken}"], fails)


def record_llama_cpp_python(chosen: list[str]) -> None:
    """The package's own server, as people run it by ENGINE_COMMAND; and the gateway's child around the package."""
    from importlib.metadata import version

    with scratch() as home:
        keep, model = home / "kept.gguf", home / "demo.gguf"
        subprocess.run([sys.executable, "scripts/make_demo_model.py", str(keep)], check=True, cwd=ROOT)
        for story in llama_cpp_stories():
            for kind in ("server", "child"):
                name = f"{kind}-{story.name}"
                if (chosen and name not in chosen) or (kind == "child" and story.name not in CHILD_STORIES):
                    continue
                shutil.copy(keep, model)
                if story.before is not None:
                    story.before(model)
                with taken_port() as taken, taken_port() as free:
                    free_up(free)
                    told = replace(story, name=name)
                    if kind == "server":
                        args = [word.replace("{taken}", str(taken)) for word in story.args]
                        door = [] if "--port" in args else ["--port", str(free)]
                        argv = [sys.executable, "-m", "llama_cpp.server", "--model", str(model), *door, *args]
                    else:
                        told.says = story.says.replace("its own server", "the gateway's child")
                        args = ["--ctx", "2000000"] if "--n_ctx" in story.args else []
                        told.play = story.play if story.play is fails else ready_then_stop
                        argv = [sys.executable, "-m", "gateway.providers.local.llama_child", "--model", str(model)]
                        argv += ["--socket", str(home / "engine.sock"), *args]
                    record(
                        "llama-cpp-python",
                        f"llama-cpp-python {version('llama_cpp_python')} (CPU)",
                        told,
                        argv,
                        home,
                        {"PYTHONPATH": str(ROOT)},
                        port=free if kind == "server" else 0,
                        socket="" if kind == "server" else str(home / "engine.sock"),
                        hide={str(taken): "8000", str(free): "8000", sys.prefix: "/opt/venv"},
                    )


ONLY_BIG = ("out-of-memory-weights",)
BOTH_SIZES = {"-458mb": ("good", "good-no-mmap", "good-verbosity-4", "cut-file", *ONLY_BIG)}
CHILD_STORIES = ("good", "no-such-file", "cut-file", "not-a-gguf", "out-of-memory")


# --- The recording ---------------------------------------------------------------------------------------------------


@contextmanager
def scratch() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="wgrec") as name:
        yield Path(name)


@contextmanager
def taken_port() -> Iterator[int]:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        held.listen()
        HELD[held.getsockname()[1]] = held
        yield held.getsockname()[1]


HELD: dict[int, socket.socket] = {}


def free_up(port: int) -> None:
    HELD.pop(port).close()


def record(
    engine: str,
    label: str,
    story: Story,
    argv: list[str],
    home: Path,
    env: Mapping[str, str],
    *,
    hide: Mapping[str, str],
    socket: str = "",
    port: int = 0,
) -> None:
    print(f"{engine}: {story.name}", flush=True)
    Path(home / "engine.sock").unlink(missing_ok=True)
    output = home / "output.txt"
    whole = engine_environment(
        {"PATH": os.environ["PATH"], "HOME": str(home)},
        cookie_name="WAKEGATE_COOKIE",
        cookie="recorded",
        wanted=env,
        needed={},
    )
    if story.room:
        argv = ["prlimit", f"--as={int(story.room * 1e9)}", *argv]
    begun = time.monotonic()
    with open(output, "wb") as file:
        # A session of its own, so that the end is everybody's; a pipe would do the same to what it prints.
        process = subprocess.Popen(
            argv,
            env=whole,
            cwd=home,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            story.play(Engine(process, output, socket, port))
        except OtherwiseError as error:
            print("    OTHERWISE:", error)
            return
        finally:
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            process.wait()
    took = time.monotonic() - begun
    day = datetime.datetime.now(datetime.UTC).date()
    head = f"# {label}, real, {day}: {story.says}. Exit {process.returncode}, {took:.1f} s in all.\n"
    hide = {str(home): "/models", socket_name(): "host", str(ROOT): "/opt/wakegate"} | dict(hide)
    text = neutral(output.read_bytes().decode(errors="replace"), hide)
    LOGS.mkdir(exist_ok=True)
    (LOGS / f"{engine}-{story.name}.txt").write_bytes(head.encode() + text.encode())


def socket_name() -> str:
    return socket.gethostname()


def neutral(text: str, hide: Mapping[str, str]) -> str:
    """Nothing of this machine: its folders, its name and the process ids, each by the same word everywhere."""
    for there, here in sorted(hide.items(), key=lambda pair: -len(pair[0])):
        text = text.replace(there, here)
    pids: dict[str, str] = {}
    for pid in re.findall(r"\bpid[=: ]+(\d+)", text) + re.findall(r"process \[(\d+)\]", text):
        pids.setdefault(pid, str(101 + len(pids)))
    for pid, word in pids.items():
        text = re.sub(rf"(pid[=: ]+|process \[){pid}\b", rf"\g<1>{word}", text)
    text = re.sub(r"(?m)^(\[?[A-Z]\d{4} [\d:.]+) \d+ ", r"\1 100 ", text)
    text = re.sub(r"mq_connect_ip=[\d.]+", "mq_connect_ip=127.0.0.1", text)
    text = re.sub(r"/\S+/lib/(python3\.\d+)/(?!site-packages)", r"/usr/lib/\1/", text)
    text = re.sub(r"vllm_dist_[0-9a-f]+", "vllm_dist_0", text)
    text = re.sub(r"tcp://[\d.]+:\d+", "tcp://127.0.0.1:50000", text)
    return re.sub(r"ipc:///\S*?/[0-9a-f-]{36}", "ipc:///tmp/0", text)


if __name__ == "__main__":
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("engine", choices=["vllm", "llama-server", "llama-cpp-python"])
    words.add_argument("rest", nargs="*")
    options = words.parse_args()
    if options.engine == "vllm":
        record_vllm(Path(options.rest[0]), options.rest[1:])
    elif options.engine == "llama-server":
        record_llama_server(Path(options.rest[0]), options.rest[1:])
    else:
        record_llama_cpp_python(options.rest)
