"""How far a start is, as it is seen on a terminal, in /health, the metrics and the log; and learned for the next."""

import contextlib
import http.client
import json
import os
import pty
import re
import shlex
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.engines import fake_engine
from tests.support.llama import make_model
from tests.support.model_bytes import gguf_bytes
from tests.support.real_house import find_llama_server
from tests.support.worker import KEY, ROOT, Worker, running, wait_for

SLOW_DISK = ROOT / "tests" / "support" / "slow_disk.py"
ROWS = 240_000
"""Of a model of some 60 MB: kernels read ahead, some of them 16 MB. One that is larger the gateway would read ahead."""


def cold_model(folder: Path) -> Path:
    """A model that is on the disk and not in memory; where its folder is memory (tmpfs), what is read of it counts."""
    path = folder / "cold.gguf"
    path.write_bytes(gguf_bytes(rows=ROWS))
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return path


def engine_on_a_slow_disk(model: Path, steps: Path) -> str:
    words = [sys.executable, "-IS", str(SLOW_DISK), str(model), str(steps), *fake_engine()]
    return f"{shlex.join(words)} --socket {{socket}}"


def past_start(folder: Path, model: Path) -> None:
    """An earlier gateway on this volume has seen a start of this model."""
    past = {"model": str(model), "engine": "command", "gpu": "", "what": "start"}
    past["phases"] = {"ordered": 0.1, "checking": 0.1, "booting": 1.0, "loading": 60.0, "warming": 1.0}
    (folder / "data" / "state").mkdir(parents=True)
    (folder / "data" / "state" / "starts.json").write_text(json.dumps({"seconds": [62.2], "starts": [past]}))


class Screen:
    """What a worker prints on a terminal of its own."""

    def __init__(self, terminal: int) -> None:
        self.seen = b""
        self._terminal = terminal
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        with contextlib.suppress(OSError):  # EIO: all other ends are closed
            while piece := os.read(self._terminal, 65536):
                self.seen += piece
        os.close(self._terminal)

    def close(self) -> None:
        self._reader.join(10)


@contextlib.contextmanager
def on_a_terminal(worker: Worker) -> Iterator[Screen]:
    ours, theirs = pty.openpty()
    screen = Screen(ours)
    worker.process = subprocess.Popen(
        worker.command,
        cwd=worker.folder,
        env=worker.env | {"TERM": "xterm"},
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    try:
        yield screen
    finally:
        worker.stop()
        screen.close()


def progress(worker: Worker) -> dict[str, object]:
    said: dict[str, object] = worker.get("/health")[1].get("progress") or {}
    return said


def loaded(worker: Worker) -> float:
    """The share of bytes that /health tells."""
    told = re.fullmatch(r"([\d.]+)/([\d.]+) MiB", str(progress(worker).get("detail")))
    return float(told[1]) / float(told[2]) if told else 0.0


def test_a_models_way_from_the_disk_is_seen_in_bytes_and_its_end_foretold(tmp_path: Path) -> None:
    steps, model = tmp_path / "steps", cold_model(tmp_path)
    steps.mkdir()
    past_start(tmp_path, model)
    worker = Worker(tmp_path, MODEL=str(model), ENGINE_COMMAND=engine_on_a_slow_disk(model, steps))
    with on_a_terminal(worker) as screen:
        worker.log.touch()
        worker.until("starting")
        wait_for(lambda: progress(worker).get("phase") == "loading", 20, "the engine")
        ratios = []
        for quarter in (1, 2):
            (steps / str(quarter)).touch()
            wait_for(lambda quarter=quarter: loaded(worker) > quarter / 4 - 0.01, 20, f"{quarter} of 4")
            ratios.append(progress(worker)["ratio"])
        assert 0 < ratios[0] < ratios[1] < 1
        left = progress(worker)["seconds_left"]
        assert isinstance(left, float) and 0 < left < 60, "by what the earlier start took"
        assert 'wakegate_loading_phase{upstream="default",phase="loading"} 1' in worker.get("/metrics")[1]
        for quarter in (3, 4):
            (steps / str(quarter)).touch()
        worker.until("ready")
        wait_for(lambda: b"READY after" in screen.seen, 20, "the banner")
    before = screen.seen.split(b"READY after")[0]
    bar = rb"\[LOADING\] #+-+ \d+% [\d.]+/[\d.]+ MiB - loading weights\.\.\. \(\d+s, ~\d+ s left\)"
    assert len(re.findall(bar, before)) >= 2
    left_over = [re.split(rb"\r\x1b\[K", line)[-1] for line in before.split(b"\r\n")]
    whole = (b"[gateway] ", b"[health] ", b"[start.sh] ")
    assert all(line.startswith(whole) or not line for line in left_over), "no line is torn, and no bar is left"
    filed = "".join(path.read_text() for path in (tmp_path / "data" / "logs").rglob("*.txt"))
    assert re.search(r"^\S+ \[LOADING\] #+-+ \d+% .* MiB - loading weights", filed, re.MULTILINE)
    kept = json.loads((tmp_path / "data" / "state" / "starts.json").read_text())["starts"]
    assert len(kept) == 2 and "loading" in kept[1]["phases"]


@pytest.mark.llama_server
def test_who_waits_for_a_real_engine_hears_how_far_it_is_and_then_its_answer(tmp_path: Path) -> None:
    """llama-server with 460 MB that come from a disk of 120 MB/s."""
    binary = find_llama_server()
    assert binary is not None, "make test-llama-server builds one"
    model = make_model(tmp_path / "large.gguf", "--layers", "24", "--dim", "1024")
    with model.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    words = [sys.executable, "-IS", str(SLOW_DISK), str(model), "120000000", binary, "--model", str(model)]
    settings = {"ENGINE_COMMAND": f"{shlex.join(words)} --host {{socket}}", "MODEL": str(model)}
    settings |= {"READ_AHEAD": "false", "HOLD_GRACE": "0.1s", "HEARTBEAT_INTERVAL": "1s"}
    with running(tmp_path, **settings) as worker:
        worker.until("starting")
        caller = http.client.HTTPConnection("127.0.0.1", worker.port, timeout=120)
        body = {"messages": [{"role": "user", "content": "Hi"}], "stream": True, "max_tokens": 2}
        headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
        caller.request("POST", "/v1/chat/completions", json.dumps(body), headers)
        answer = caller.getresponse()
        assert answer.status == 200, answer.read()
        heard = answer.read().decode().splitlines()
        caller.close()
    waited = [line for line in heard if line.startswith(": ")]
    told = [re.search(r"loading (\d+)% ([\d.]+)/([\d.]+) MiB", line) for line in waited]
    ratios = [int(found[1]) for found in told if found]
    amounts = [float(found[2]) for found in told if found]
    assert len(ratios) >= 2 and ratios == sorted(ratios) and ratios[-1] < 100, waited
    assert amounts == sorted(amounts) and amounts[-1] > 100, waited
    assert heard.index(waited[-1]) < min(at for at, line in enumerate(heard) if line.startswith("data: {"))
    assert "data: [DONE]" in heard
