"""`wakegate logs` as a process of its own: what it shows, what it follows, how it ends."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from gateway.cli import app
from gateway.records.lines import happening_text, text_line
from gateway.records.logs import names
from tests.records.test_lines import ENDED
from tests.support.worker import wait_for

ROOT = Path(__file__).parents[2]
OLD, NEW, NEXT = "20261121T120000Z_pod-1", "20261121T130000Z_pod-2", "20261121T140000Z_pod-3"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A DATA_DIR with two boots' logs."""
    folder = tmp_path / "logs" / "llama"
    folder.mkdir(parents=True)
    write(folder, OLD, line("old-1", key="alice"), line("old-2", outcome="failed", code="backend_lost"))
    write(folder, NEW, happening_text(ENDED.at, "ready"), line("new-1"), line("new-2", key="bob"))
    (folder / f"{NEW}_engine.txt").write_bytes(b"loading\n\x1b[2J\xffslot 1: done\n")
    return tmp_path


def write(folder: Path, stamp: str, *lines: str) -> None:
    with (folder / f"{stamp}.txt").open("a") as file:
        file.write("".join(f"{line}\n" for line in lines))


def line(request: str, **changes: object) -> str:
    return text_line(replace(ENDED, request_id=request, **changes))


def environ(data: Path, **settings: str) -> dict[str, str]:
    return {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT),
        "DATA_DIR": str(data),
        "WAKEGATE_ENV_FILE": os.devnull,
        **settings,
    }


def logs(data: Path, *words: str, code: int = 0) -> list[str]:
    """What it prints, as a process."""
    done = subprocess.run(
        [sys.executable, "-m", "gateway", "logs", *words],
        env=environ(data),
        cwd="/",
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == code, done.stderr
    return (done.stdout if code == 0 else done.stderr).splitlines()


def here(data: Path, *words: str) -> tuple[int, str, str]:
    """The same, in this process: exit code, stdout, stderr."""
    settings = environ(data) | {"TERMINAL_WIDTH": "200"}
    result = CliRunner(env=settings).invoke(app, ["logs", *words])
    return result.exit_code, result.stdout, result.stderr


def ids(output: str) -> list[str]:
    return [text.split("request=")[1].split()[0] for text in output.splitlines() if "request=" in text]


# --- What it shows ---


def test_the_newest_boot_is_shown_unless_another_is_asked_for(data: Path) -> None:
    assert [text.split(" ", 2)[1] for text in logs(data)] == ["ready", "request=new-1", "request=new-2"]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("-n", "1"), ["new-2"]),
        (("-n", "0"), ["new-1", "new-2"]),
        (("--boot", "2"), ["old-1", "old-2"]),
        (("--boot", "20261121T12"), ["old-1", "old-2"]),
        (("--boot", "all"), ["old-1", "old-2", "new-1", "new-2"]),
        (("--boot", "all", "-n", "0", "--key", "alice"), ["old-1", "old-2", "new-1"]),
        (("--key", "bob"), ["new-2"]),
        (("--boot", "all", "--outcome", "failed"), ["old-2"]),
        (("--route", "chat/completions", "--model", ENDED.model), ["new-1", "new-2"]),
        (("--since", "2026-11-21"), ["old-1", "old-2", "new-1", "new-2"]),
        (("--since", "2099-01-01"), []),
    ],
)
def test_filters(data: Path, words: tuple[str, ...], expected: list[str]) -> None:
    code, output, _ = here(data, *words)
    assert (code, sorted(ids(output))) == (0, sorted(expected))


def test_an_id_is_looked_for_in_every_boot(data: Path) -> None:
    """Whoever has an id from an error knows nothing of boots; now they do."""
    boot, found = logs(data, "--id", "old-2")
    assert (boot, ids(found)) == (f"==> {OLD} <==", ["old-2"])


def test_lines_of_several_boots_say_whose_they_are(data: Path) -> None:
    output = here(data, "--boot", "all")[1].splitlines()
    assert output[0] == f"==> {OLD} <=="
    assert f"==> {NEW} <==" in output


def test_json_is_one_object_a_line_with_the_boot_in_it(data: Path) -> None:
    shown = [json.loads(text) for text in here(data, "--json", "--boot", "all")[1].splitlines()]
    assert {each["boot"] for each in shown} == {OLD, NEW}
    assert [each["kind"] for each in shown].count("request") == 4
    assert all(isinstance(each["took"], float) for each in shown if each["kind"] == "request")


def test_the_engines_log_is_shown_and_cannot_speak_to_the_terminal(data: Path) -> None:
    assert logs(data, "--engine") == ["loading", "\\x1b[2J\\xffslot 1: done"]


def test_nothing_found_is_said_beside_the_output(data: Path) -> None:
    code, output, error = here(data, "--key", "nobody")
    assert (code, output) == (0, "")
    assert "Nothing of that kind in 1 boot in" in error


# --- What is wrong ---


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("--outcome", "bad"), 2, "allowed: answered, refused, left, failed"),
        (("--since", "yesterday"), 2, "neither a time span"),
        (("--engine", "--key", "bob"), 2, "knows nothing of keys"),
        (("--boot", "9"), 1, f"the newest are {OLD}, {NEW}"),
        (("--folder", "/nowhere/at/all"), 1, "/nowhere/at/all is not there (as --folder says)"),
    ],
)
def test_what_is_wrong_is_one_line(data: Path, words: tuple[str, ...], code: int, says: str) -> None:
    got, output, error = here(data, *words)
    assert (got, output) == (code, "")
    assert says in error
    assert error.count("\n") == 1


def test_where_there_are_no_logs_it_says_where_it_looked_and_what_to_change(tmp_path: Path, data: Path) -> None:
    empty = tmp_path / "empty"
    assert logs(empty, code=1) == [
        f"No logs: {empty}/logs/llama is not there (DATA_DIR and LOG_NAME say where; or use --folder)."
    ]
    settings = environ(data, LOG_NAME="vllm", LOG_TO="console")
    error = CliRunner(env=settings).invoke(app, ["logs"]).stderr
    assert error.endswith(
        "(LOG_TO is console, so nothing is written there; set LOG_TO=both); there are logs of llama.\n"
    )


def test_a_mistyped_folder_is_not_told_what_else_lies_there(tmp_path: Path) -> None:
    """Other names of logs are named only where logs are."""
    (tmp_path / "photos").mkdir()
    done = CliRunner().invoke(app, ["logs", "--folder", str(tmp_path / "lllama")])
    assert done.exit_code == 1 and done.stderr == f"No logs: {tmp_path}/lllama is not there (as --folder says).\n"


def test_settings_that_are_wrong_are_said_and_a_folder_needs_none(data: Path) -> None:
    runner = CliRunner(env=environ(data, PORT="eighty"))
    assert runner.invoke(app, ["logs"]).exit_code == 2
    assert runner.invoke(app, ["logs", "--folder", str(data / "logs" / "llama")]).exit_code == 0


# --- Following ---


class Follower:
    """`wakegate logs -f` as a process."""

    def __init__(self, data: Path, *words: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "gateway", "logs", "-f", *words],
            env=environ(data),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.lines: list[str] = []
        self.reader = threading.Thread(target=self._read)
        self.reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for text in self.process.stdout:
            self.lines.append(text.rstrip("\n"))

    def until(self, text: str) -> None:
        wait_for(lambda: any(text in each for each in self.lines), 15, f"{text!r} in {self.lines}")

    def end(self, number: int = signal.SIGINT) -> tuple[int, str]:
        self.process.send_signal(number)
        code = self.process.wait(10)
        self.reader.join(10)
        assert self.process.stdout is not None and self.process.stderr is not None
        self.process.stdout.close()
        with self.process.stderr:
            return code, self.process.stderr.read()


@pytest.fixture
def follow(data: Path) -> Iterator[Callable[..., Follower]]:
    started: list[Follower] = []

    def start(*words: str) -> Follower:
        started.append(Follower(data, *words))
        return started[-1]

    yield start
    for follower in started:
        if follower.process.poll() is None:
            follower.end(signal.SIGKILL)


def test_following_survives_rotation_and_a_new_boot_and_ends_quietly(
    data: Path, follow: Callable[..., Follower]
) -> None:
    folder = data / "logs" / "llama"
    follower = follow("-n", "1")
    follower.until("new-2")
    write(folder, NEW, line("new-3"))
    (folder / f"{NEW}.txt").rename(folder / names.rotated(f"{NEW}.txt", ENDED.at))
    write(folder, NEW, line("new-4"))
    write(folder, NEXT, line("next-1"))
    follower.until("new-4")
    follower.until("next-1")
    assert [text.split()[1] for text in follower.lines if "request=" in text] == [
        *("request=new-2", "request=new-3", "request=new-4", "request=next-1")
    ]
    assert f"==> {NEXT} <==" in follower.lines
    assert follower.end() == (130, "")


def test_following_filters_what_comes(data: Path, follow: Callable[..., Follower]) -> None:
    follower = follow("--key", "bob", "--json")
    follower.until("new-2")
    write(data / "logs" / "llama", NEW, line("new-3"), line("new-4", key="bob"))
    follower.until("new-4")
    assert [json.loads(text)["request"] for text in follower.lines] == ["new-2", "new-4"]


def test_the_engines_log_is_followed_too(data: Path, follow: Callable[..., Follower]) -> None:
    follower = follow("--engine", "-n", "1")
    follower.until("slot 1")
    with (data / "logs" / "llama" / f"{NEW}_engine.txt").open("a") as file:
        file.write("slot 2: done\n")
    follower.until("slot 2")
    assert follower.lines == [f"==> {NEW} <==", "\\x1b[2J\\xffslot 1: done", "slot 2: done"]


def test_a_reader_that_has_seen_enough_ends_it_without_a_word(data: Path) -> None:
    """`wakegate logs | head -1`."""
    write(data / "logs" / "llama", NEW, *(line(f"x{number}") for number in range(5000)))
    process = subprocess.Popen(
        [sys.executable, "-m", "gateway", "logs", "-n", "0"],
        env=environ(data),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None and process.stderr is not None
    assert "ready" in process.stdout.readline()
    process.stdout.close()
    with process.stderr:
        assert (process.wait(20), process.stderr.read()) == (0, "")
