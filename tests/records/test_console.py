"""What people read, and paste."""

import ast
import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from gateway.policy.estimate import PHASES, Progress
from gateway.records.console import (
    DOING,
    Welcome,
    install,
    loading_line,
    ready_banner,
    say,
    set_up_logging,
    show,
    show_loading,
    uninstall,
)

ODD_NAMES = ["demo", "org/name:Q4_K_M", "it's", 'a "quoted" \\ one', "$(reboot) `reboot`", "ünïcode 😀", "a\nb"]
KEYS = ["$API_KEY", "$(cat /data/keys/first-key.txt)", "$(cat '/data/my keys/first-key.txt')", None]


def welcome(*, model: str = "demo", key: str | None = "$API_KEY", is_demo: bool = False) -> Welcome:
    return Welcome(
        bases=(("From this machine", "http://127.0.0.1:8000/v1"), ("From a container", "http://172.17.0.1:8000/v1")),
        model=model,
        engine="llama-cpp-python",
        seconds=1.234,
        key=key,
        is_demo=is_demo,
    )


def block(banner: str, first: str, *, until: str = "") -> str:
    """The lines from the one that begins so, up to the next empty one (or the one that begins with `until`)."""
    lines = banner.split("\n")
    begin = next(number for number, line in enumerate(lines) if line.startswith(first))
    end = next(number for number, line in enumerate(lines) if number > begin and line == until)
    return "\n".join(lines[begin:end])


def words_of(script: str) -> list[str]:
    """What bash makes of it: the words that the first one would get."""
    show_words = script.replace("curl ", "printf '%s\\0' ", 1)
    done = subprocess.run(
        ["bash", "-c", "cat() { printf 'key of %s' \"$*\"; }; " + show_words],
        capture_output=True,
        text=True,
        check=True,
        env={"API_KEY": "from-the-environment"},
    )
    return done.stdout.split("\0")[:-1]


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("model", ODD_NAMES)
def test_the_curl_can_be_pasted_into_a_shell(model: str, key: str | None) -> None:
    script = block(ready_banner(welcome(model=model, key=key)), "curl")
    assert subprocess.run(["bash", "-n", "-c", script], capture_output=True).returncode == 0
    words = words_of(script)
    assert "http://127.0.0.1:8000/v1/chat/completions" in words
    body = json.loads(words[words.index("-d") + 1])
    assert body["model"] == model and body["stream"] is True
    bearers = [word for word in words if word.startswith("Authorization: Bearer ")]
    expected = {
        "$API_KEY": ["from-the-environment"],
        "$(cat /data/keys/first-key.txt)": ["key of /data/keys/first-key.txt"],
        "$(cat '/data/my keys/first-key.txt')": ["key of /data/my keys/first-key.txt"],
        None: [],
    }[key]
    assert bearers == [f"Authorization: Bearer {each}" for each in expected]


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("model", ODD_NAMES)
def test_the_python_can_be_pasted_too(model: str, key: str | None) -> None:
    banner = ready_banner(welcome(model=model, key=key))
    code = block(banner, "import os" if key else "from openai")
    tree = ast.parse(code)
    compile(tree, "banner", "exec")
    given = {node.arg: node.value for node in ast.walk(tree) if isinstance(node, ast.keyword)}
    assert isinstance(given["model"], ast.Constant) and given["model"].value == model
    assert ast.unparse(given["api_key"]) == ("os.environ['API_KEY']" if key else "'none'")


@pytest.mark.parametrize("key", KEYS)
def test_a_key_that_no_variable_holds_yet_is_put_into_one(key: str | None) -> None:
    banner = ready_banner(welcome(key=key))
    if key is None or key == "$API_KEY":
        assert "export" not in banner
    else:
        line = block(banner, "export")
        assert subprocess.run(["bash", "-n", "-c", line], capture_output=True).returncode == 0
        assert line == f'export API_KEY="{key}"'


def test_the_banner_says_what_is_ready_and_from_where_it_is_reached() -> None:
    banner = ready_banner(welcome())
    assert "READY after 1.2 s: demo (llama-cpp-python)" in banner
    assert "  From this machine:    http://127.0.0.1:8000/v1" in banner
    assert "MODEL=" not in banner
    assert "talks nonsense" in ready_banner(welcome(is_demo=True))


# --- lines


def test_a_line_begins_as_guides_expect(capsys: pytest.CaptureFixture[str]) -> None:
    say("Starting gateway on 0.0.0.0:8000")
    assert capsys.readouterr().out == "[gateway] Starting gateway on 0.0.0.0:8000\n"


def test_nothing_that_was_said_can_begin_a_line_or_speak_to_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    say("  engine: a\nb\r\tc\x1b[2Jd\x9be\u2028f\x00g\x7f ünïcode 😀")
    assert capsys.readouterr().out == (
        "[gateway]   engine: a\\nb\\r\\tc\\x1b[2Jd\\x9be\\u2028f\\x00g\\x7f ünïcode 😀\n"
    )


def test_a_block_keeps_its_lines(capsys: pytest.CaptureFixture[str]) -> None:
    show("\nREADY\n")
    assert capsys.readouterr().out == "\nREADY\n\n"


@pytest.mark.parametrize("error", [BrokenPipeError(), ValueError("I/O operation on closed file"), OSError(28, "full")])
def test_a_console_that_is_gone_fails_nothing(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    class Gone:
        def write(self, text: str) -> None:
            raise error

        def flush(self) -> None:
            raise error

    monkeypatch.setattr(sys, "stdout", Gone())
    say("nobody hears it")
    show("nor this")


# --- logging


@contextmanager
def logging_set_up() -> Iterator[None]:
    """As production has it, and afterwards as pytest has it."""
    root, own = logging.getLogger(), logging.getLogger("gateway")
    before = root.handlers[:], root.level, own.level, logging.raiseExceptions
    set_up_logging("info")
    try:
        yield
    finally:
        root.handlers[:] = before[0]
        root.setLevel(before[1])
        own.setLevel(before[2])
        logging.raiseExceptions = before[3]


def test_log_records_have_the_form_of_the_other_lines(capsys: pytest.CaptureFixture[str]) -> None:
    with logging_set_up():
        logging.getLogger("gateway.conductor").info("the stop of %s was not confirmed", "i1")
        logging.getLogger("aiohttp.server").info("a library's chatter")
        logging.getLogger("aiohttp.server").warning("a library's warning")
    assert capsys.readouterr().out == (
        "[gateway] INFO gateway.conductor: the stop of i1 was not confirmed\n"
        "[gateway] WARNING aiohttp.server: a library's warning\n"
    )


def test_a_log_record_cannot_begin_another_line(capsys: pytest.CaptureFixture[str]) -> None:
    with logging_set_up():
        logging.getLogger("gateway").warning("said: %s", "x\n[gateway] INFO gateway: all is well\x1b[2J")
    assert capsys.readouterr().out == (
        "[gateway] WARNING gateway: said: x\\n[gateway] INFO gateway: all is well\\x1b[2J\n"
    )


def test_a_traceback_keeps_its_lines_and_loses_its_controls(capsys: pytest.CaptureFixture[str]) -> None:
    with logging_set_up():
        try:
            raise ValueError("odd \x1b[2J")
        except ValueError:
            logging.getLogger("gateway").exception("failed")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "[gateway] ERROR gateway: failed" and lines[1].startswith("Traceback")
    assert lines[-1] == "ValueError: odd \\x1b[2J"


def test_progress_is_a_bar_with_what_is_done_and_when_it_is_over() -> None:
    half = Progress("downloading", 0.43, "12.1/28.0 GiB", 8.4, 24.2)
    assert loading_line(half, "model-00001-of-00004.gguf") == (
        "[LOADING] #####------- 43% 12.1/28.0 GiB - downloading model-00001-of-00004.gguf... (8s, ~25 s left)"
    )


def test_a_usual_line_fits_a_terminal() -> None:
    assert len(loading_line(Progress("loading", 0.56, "45.2/80.0 GiB", 88.0, 24.2))) < 80


def test_there_is_no_bar_and_no_time_where_nobody_knows_them() -> None:
    assert loading_line(Progress("booting", None, "", 3.0, None)) == "[LOADING] starting the engine... (3s)"
    assert loading_line(Progress("compiling", None, "CUDA graph 30/67", 70.0, None)) == (
        "[LOADING] CUDA graph 30/67 - compiling... (70s)"
    )


def test_a_late_start_says_so_and_its_bar_is_not_full() -> None:
    line = loading_line(Progress("warming", 0.9999, "", 300.0, None, late=True))
    assert line == f"[LOADING] {'#' * 11}- 99% - warming up... (300s, longer than usual)"


def test_each_phase_has_words_for_people() -> None:
    assert set(DOING) == {"ordered", *PHASES}


def test_before_the_logs_are_there_marked_lines_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    show_loading("[LOADING] a", mark=True)
    show_loading("[LOADING] b", mark=False)
    show_loading("", mark=False)
    assert capsys.readouterr().out == "[LOADING] a\n"


# --- once the logs are there


class Heard:
    def __init__(self) -> None:
        self.calls: list[tuple[object, ...]] = []

    def say(self, line: str, level: str = "info", *, always: bool = False) -> None:
        self.calls.append(("say", line, level, always))

    def record(self, text: str, level: str) -> None:
        self.calls.append(("record", text, level))

    def show(self, block: str) -> None:
        self.calls.append(("show", block))

    def loading(self, line: str, *, mark: bool) -> None:
        self.calls.append(("loading", line, mark))


def test_lines_go_to_the_logs_while_they_are_there(capsys: pytest.CaptureFixture[str]) -> None:
    heard = Heard()
    install(heard)
    try:
        say("one")
        say("two", "warning", always=True)
        show("block")
        show_loading("bar", mark=False)
        with logging_set_up():
            logging.getLogger("gateway").error("a\nb")
            logging.getLogger("aiohttp").log(45, "odd level")
    finally:
        uninstall()
    say("three")
    assert capsys.readouterr().out == "[gateway] three\n"
    assert heard.calls == [
        ("say", "one", "info", False),
        ("say", "two", "warning", True),
        ("show", "block"),
        ("loading", "bar", False),
        ("record", "ERROR gateway: a\\nb", "error"),
        ("record", "Level 45 aiohttp: odd level", "error"),
    ]
