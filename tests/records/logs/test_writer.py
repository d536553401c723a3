"""The logs as others see them: what goes where, and that nobody who says something ever waits."""

import json
import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gateway.records import lines
from gateway.records.ended import Ended
from gateway.records.logs import Formats, LogFacts, Logs
from gateway.records.logs.writer import LONGEST, Complaint
from gateway.records.redact import Redactor
from tests.support.log_lines import FORMATS, STAMP, ended, missing_in, numbers_in, plan, segments, text_of

REAL = Formats(lines.text_line, lines.json_line, lines.happening_text, lines.happening_json)


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Logs]]:
    made: list[Logs] = []

    def start(*, formats: Formats = FORMATS, redact: Callable[[str], str] = str, **changes: Any) -> Logs:
        parts = {name: changes.pop(name) for name in ("now", "open_file") if name in changes}
        logs = Logs(plan(tmp_path, **changes), formats=formats, redact=redact, **parts)
        made.append(logs)
        logs.start()
        return logs

    yield start
    for logs in made:
        assert logs.close(10)


def filed(folder: Path) -> str:
    return "".join(text_of(path) for path in segments(folder / "logs" / "llama"))


# --- what goes where


def test_how_far_a_start_is_stands_in_console_and_file_once_for_each_step(
    make: Callable[..., Logs], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    logs = make()
    logs.loading("[LOADING] ## 10%", mark=True)
    logs.loading("[LOADING] ## 11%", mark=False)
    logs.loading("", mark=False)
    assert logs.flush(10)
    assert capfd.readouterr().out == "[LOADING] ## 10%\n"
    assert [line.split(" ", 1)[1] for line in filed(tmp_path).splitlines()] == ["[LOADING] ## 10%"]


def test_on_a_terminal_it_is_one_line_that_moves_and_the_file_has_the_steps(
    make: Callable[..., Logs], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = os.openpty()
    monkeypatch.setenv("TERM", "xterm")
    with os.fdopen(theirs, "w") as terminal, os.fdopen(ours, "rb", buffering=0) as screen:
        monkeypatch.setattr(sys, "stdout", terminal)
        logs = make()
        logs.loading("[LOADING] 10%", mark=True)
        logs.loading("[LOADING] 11%", mark=False)
        assert logs.flush(10)
        logs.say("another thing")
        assert logs.flush(10)
        logs.loading("", mark=False)
        assert logs.flush(10)
        seen = ""
        while not ("another thing" in seen and seen.endswith("\r\x1b[K")) and select.select([screen], [], [], 10)[0]:
            seen += screen.read(4096).decode()
    assert "\r\x1b[K[gateway] another thing\r\n[LOADING] 11%" in seen and seen.endswith("\r\x1b[K")
    assert "10%" in filed(tmp_path) and "11%" not in filed(tmp_path)


def test_a_requests_line_is_on_the_console_and_in_the_file(
    make: Callable[..., Logs], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    logs = make(formats=REAL)
    logs.request(ended(7))
    assert logs.flush(5)
    line = lines.text_line(ended(7))
    assert filed(tmp_path) == f"{line}\n"
    assert capsys.readouterr().out == f"[gateway] {line.partition(' ')[2]}\n", "whose reader has times of its own"


def test_what_is_said_has_its_time_in_the_file(
    make: Callable[..., Logs], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    logs = make(formats=REAL, now=lambda: 1795262400.0)
    logs.say("ready after 1.2 s")
    assert logs.flush(5)
    assert capsys.readouterr().out == "[gateway] ready after 1.2 s\n"
    assert filed(tmp_path) == "2026-11-21T12:00:00.000Z ready after 1.2 s\n"


@pytest.mark.parametrize("to", ["console", "files", "both"])
def test_log_to_decides_where(
    to: str, make: Callable[..., Logs], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Guides wait for some lines on the console, whatever is set; a banner is for the console only."""
    logs = make(to=to)
    logs.say("Starting gateway", always=True)
    logs.say("starting")
    logs.show("\nREADY\n")
    logs.request(ended(1))
    logs.record("INFO gateway: a record", "info")
    assert logs.flush(5)
    shown = capsys.readouterr().out.splitlines()
    rest = ["[gateway] starting", "", "READY", "", f"[gateway] request=r1 model=demo {'.' * 60}"]
    rest.append("[gateway] INFO gateway: a record")
    assert shown == ["[gateway] Starting gateway", *(["", "READY", ""] if to == "files" else rest)]
    if to == "console":
        assert not (tmp_path / "logs").exists(), "no file is made"
    else:
        expected = [
            "T Starting gateway",
            "T starting",
            f"T request=r1 model=demo {'.' * 60}",
            "T INFO gateway: a record",
        ]
        assert filed(tmp_path).splitlines() == expected


def test_log_level_decides_what(make: Callable[..., Logs], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    logs = make(level="warning")
    logs.request(ended(1))
    logs.say("starting")
    logs.say("something is odd", "warning")
    logs.record("DEBUG x: y", "debug")
    logs.say("Starting gateway", always=True)
    assert logs.flush(5)
    assert capsys.readouterr().out == "[gateway] something is odd\n[gateway] Starting gateway\n"
    assert filed(tmp_path) == "T something is odd\nT Starting gateway\n"


def test_json_has_one_object_per_line_except_what_guides_wait_for(
    make: Callable[..., Logs], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    logs = make(form="json", formats=REAL)
    logs.say("Starting gateway", always=True)
    logs.request(ended(1, model="a\x7f\u2028b\n"))
    logs.record("ERROR x: failed\nTraceback\n  here", "error")
    logs.say("warning: a key is short", "warning", always=True)
    logs.show("\nREADY\n")
    assert logs.flush(5)
    first, *shown = capsys.readouterr().out.splitlines()
    assert first == "[gateway] Starting gateway"
    objects = [json.loads(line) for line in filed(tmp_path).splitlines()]
    assert [one["kind"] for one in objects] == ["happening", "request", "happening", "happening"]
    assert objects[1]["model"] == "a\x7f\u2028b\n"
    *rest, banner = [json.loads(line) for line in shown]
    assert rest == objects[1:]
    assert banner["message"] == "\nREADY\n"


def test_a_key_of_digits_takes_no_number_apart(
    make: Callable[..., Logs], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    logs = make(form="json", formats=REAL, redact=Redactor(["1234"]))
    logs.request(ended(1, model="my 1234", bytes_out=12345))
    assert logs.flush(5)
    said = json.loads(filed(tmp_path))
    assert (said["model"], said["bytes_out"]) == ("my …", 12345)
    assert json.loads(capsys.readouterr().out) == said


def test_no_stranger_can_begin_a_line_or_speak_to_the_terminal(
    make: Callable[..., Logs], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever the formats let through; a traceback of ours keeps its lines, each with its time in the file."""
    logs = make()
    logs.say("odd\nT request=r9\x1b[2J")
    logs.request(ended(1, model="x\nT request=r8\r\x9b"))
    logs.record("ERROR x: failed\nTraceback\n  here", "error")
    assert logs.flush(5)
    assert [line[:10] for line in filed(tmp_path).splitlines()] == [
        "T odd\\nT r",
        "T request=",
        "T ERROR x:",
        "T Tracebac",
        "T   here",
    ]
    shown = capsys.readouterr().out
    assert shown.startswith(
        "[gateway] odd\\nT request=r9\\x1b[2J\n[gateway] request=r1 model=x\\nT request=r8\\r\\x9b "
    )
    assert shown.endswith("\n[gateway] ERROR x: failed\nTraceback\n  here\n")


@pytest.mark.parametrize("form", ["text", "json"])
def test_secrets_are_in_neither_place(
    form: str, make: Callable[..., Logs], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    logs = make(form=form, formats=REAL, redact=Redactor(['s3cret"key']))
    logs.say('it said s3cret"key', always=True)
    logs.say('it said s3cret"key')
    logs.record('ERROR x: s3cret"key\nTraceback s3cret"key', "error")
    logs.request(ended(1, model='s3cret"key'))
    logs.show('curl s3cret"key')
    assert logs.flush(5)
    for text in (filed(tmp_path), capsys.readouterr().out):
        assert "s3cret" not in text and text.count("…") + text.count("\\u2026") >= 4


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_line_is_the_same_whatever_stands_beside_it(
    form: str, make: Callable[..., Logs], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Many are looked at as one text. One with a secret or an odd character must not change its neighbours."""
    odd = {3: "my s3cret-key", 64: "a\x85b\u2028", 65: "sk-0123456789abcdefgh", 199: "Bearer s3cret-key"}
    logs = make(form=form, formats=REAL, redact=Redactor(["s3cret-key"]))
    for number in range(200):
        logs.request(ended(number, model=odd.get(number, "demo")))
        if number == 100:
            logs.say("between")
    assert logs.flush(5)
    lines_found = [line for line in filed(tmp_path).splitlines() if "between" not in line]
    plain = lines.json_line if form == "json" else lines.text_line
    for number, line in enumerate(lines_found):
        if number not in odd:
            assert line == plain(ended(number))
    models = [str((lines.parse_line(line) or {})["model"]) for line in lines_found]
    escaped_twice = "a\x85b\u2028"
    assert {number: models[number] for number in odd} == {3: "my …", 64: escaped_twice, 65: "…", 199: "Bearer …"}
    assert "between" in filed(tmp_path).splitlines()[101], "and all are in their order"
    shown = capsys.readouterr().out.splitlines()
    assert len(shown) == 201 and not [line for line in shown if "s3cret" in line]


def test_what_only_two_lines_together_would_spell_is_no_secret(make: Callable[..., Logs], tmp_path: Path) -> None:
    """Nothing is taken out across the end of a line: there would be one line less, and nobody would know which."""
    logs = make(redact=Redactor([f"{'.' * 8} T request=r2"]))
    for number in (1, 2, 3):
        logs.request(ended(number))
    assert logs.flush(5)
    assert numbers_in(filed(tmp_path)) == [1, 2, 3]


def test_a_fault_in_one_requests_line_does_not_end_the_others(
    make: Callable[..., Logs], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(end: Ended) -> str:
        if end.request_id == "r2":
            raise KeyError(end.request_id)
        return FORMATS.text_line(end)

    logs = make(formats=replace(FORMATS, text_line=broken))
    for number in (1, 2, 3):
        logs.request(ended(number))
    assert logs.flush(5)
    assert numbers_in(filed(tmp_path)) == [1, 3]
    assert capsys.readouterr().out.splitlines()[1] == "[gateway] error: a log line could not be made: KeyError"


def test_lines_are_in_the_file_soon_without_anybody_asking(make: Callable[..., Logs], tmp_path: Path) -> None:
    logs = make()
    logs.request(ended(1))
    began = time.monotonic()
    live = tmp_path / "logs" / "llama" / f"{STAMP}.txt"
    while not (live.exists() and live.read_text()):
        assert time.monotonic() - began < 2
        time.sleep(0.005)


def test_a_fault_in_one_line_does_not_end_the_others(
    make: Callable[..., Logs], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(text: str) -> str:
        if "bad" in text:
            raise KeyError(text)
        return text

    logs = make(redact=broken)
    for line in ("one", "bad", "two"):
        logs.say(line)
    assert logs.flush(5)
    assert filed(tmp_path) == "T one\nT two\n"
    assert capsys.readouterr().out.splitlines()[1] == "[gateway] error: a log line could not be made: KeyError"


def test_a_line_without_end_is_cut(make: Callable[..., Logs], tmp_path: Path) -> None:
    logs = make()
    logs.say("x" * 10_000_000)
    assert logs.flush(5)
    assert len(filed(tmp_path)) < LONGEST + 100


# --- nobody waits


HANGING = """
import os, sys, time
from pathlib import Path
from gateway.records.logs import Logs
from gateway.records.logs import outlet
from tests.support.log_lines import FORMATS, ended, plan

outlet.STUCK = 0.2
fifo = sys.argv[2]

def hangs(name, flags, mode, dir_fd):
    return os.open(fifo, os.O_RDWR)  # its 64 KiB are soon full, and nobody reads

logs = Logs(
    plan(Path(sys.argv[1]), verify_every=60.0, most_waiting=1 << 16, to="files"),
    formats=FORMATS, redact=str, open_file=hangs,
)
logs.start()
longest = 0.0
for number in range(5000):
    began = time.perf_counter()
    logs.request(ended(number))
    longest = max(longest, time.perf_counter() - began)
    if number % 100 == 0:
        time.sleep(0.005)
deadline = time.monotonic() + 5
while not logs.facts().reason.startswith("no answer for") or not logs.facts().dropped_lines:
    logs.request(ended(0))
    assert time.monotonic() < deadline, logs.facts()
    time.sleep(0.01)
began = time.monotonic()
closed = logs.close(0.5)
print(closed, round(longest, 1), round(time.monotonic() - began))
"""


def test_a_volume_that_hangs_costs_no_request_anything_and_the_end_only_the_patience(tmp_path: Path) -> None:
    """A pipe that nobody reads stands for the file: a write to it never comes back."""
    os.mkfifo(tmp_path / "hangs")
    ran = subprocess.run(
        [sys.executable, "-c", HANGING, str(tmp_path / "data"), str(tmp_path / "hangs")],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    *said, end = ran.stdout.splitlines() or [ran.stderr]
    assert end == "False 0.0 1" or end == "False 0.1 1", ran.stdout + ran.stderr
    assert said[0].startswith("[gateway] warning: logs in ") and "cannot be written: no answer for" in said[0]
    assert said[-1].startswith("[gateway] warning: logs: the last lines could not be written")


BLOCKED = """
import sys, time
from pathlib import Path
from gateway.records.logs import Logs
from tests.support.log_lines import FORMATS, plan

logs = Logs(plan(Path(sys.argv[1]), most_waiting=1 << 16), formats=FORMATS, redact=str)
logs.start()
longest = 0.0
for number in range(4000):
    began = time.perf_counter()
    logs.say(f"happening {number} " + "." * 60)
    longest = max(longest, time.perf_counter() - began)
    if number % 200 == 0:
        time.sleep(0.01)
while not logs.facts().dropped_lines:
    time.sleep(0.01)
print(longest, file=sys.stderr, flush=True)
sys.stdin.readline()
logs.flush(10)
logs.say("after")
assert logs.close(10)
"""


def test_a_console_that_nobody_reads_holds_up_nobody_and_costs_the_files_nothing(tmp_path: Path) -> None:
    """`docker logs` that hangs, a terminal that is stopped by Ctrl-S."""
    words = [sys.executable, "-c", BLOCKED, str(tmp_path)]
    pipe = subprocess.PIPE
    with subprocess.Popen(words, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as process:
        assert process.stdin and process.stdout and process.stderr
        try:
            assert float(process.stderr.readline()) < 0.5
            process.stdin.write("\n")
            process.stdin.close()
            shown = process.stdout.read().splitlines()
            assert process.wait(20) == 0, process.stderr.read()
        finally:
            process.kill()
    assert shown[-1] == "[gateway] after"
    notes = [line for line in shown if "could not be shown" in line]
    lost = sum(int(line.split()[2]) for line in notes)
    assert notes and lost + len(shown) - len(notes) == 4001, "what is missing is counted, in its place"
    assert filed(tmp_path).count("T happening") == 4000


@pytest.mark.parametrize("model", ["demo", "x" * (1 << 20)])
def test_what_comes_faster_than_lines_can_be_made_is_counted(
    model: str, make: Callable[..., Logs], tmp_path: Path
) -> None:
    """A hundred long names of strangers are as much as twenty thousand short ones."""
    handed_in = threading.Event()

    def slow(end: Ended) -> str:
        assert handed_in.wait(10)
        return FORMATS.text_line(replace(end, model="demo"))

    logs = make(to="files", formats=replace(FORMATS, text_line=slow))
    try:
        for number in range(25_000):
            logs.request(ended(number, model=model))
    finally:
        handed_in.set()
    assert logs.flush(20)
    logs.say("after")
    assert logs.flush(20)
    text = filed(tmp_path)
    numbers = numbers_in(text)
    assert numbers == sorted(set(numbers))
    assert len(numbers) + sum(missing_in(text)) == 25_000 and sum(missing_in(text)) >= 4_000
    assert len(numbers) < (30 if model != "demo" else 21_000)


# --- what it tells of itself


def test_facts_of_logs_that_are_fine(make: Callable[..., Logs]) -> None:
    logs = make()
    logs.say("one")
    assert logs.flush(5)
    assert logs.facts() == LogFacts(0, 0, True, "")
    assert "inbox=0" in repr(logs)


def test_trouble_is_said_at_once_then_once_in_a_while_and_when_it_is_over() -> None:
    complaint = Complaint(60, "cannot be written", "are written again")
    assert complaint.about(0, "") == ""
    assert complaint.about(1, "full") == "cannot be written: full"
    assert complaint.about(2, "full", 10) == "" and complaint.about(60.9, "full", 10) == ""
    assert complaint.about(61, "full", 10) == "cannot be written: full; 10 lines are lost so far"
    assert complaint.about(62, "", 12) == "are written again; 12 lines are missing"
    assert complaint.about(63, "", 12) == ""
    assert complaint.about(64, "full", 15) == "", "what comes and goes is not said each time"
    assert complaint.about(130, "full", 15) == "cannot be written: full; 3 lines are lost so far"


def test_what_the_volume_refuses_is_in_the_facts(make: Callable[..., Logs], tmp_path: Path) -> None:
    (tmp_path / "logs").write_text("a file where a folder should be")
    logs = make()
    logs.say("one")
    logs.flush(0.2)
    assert not logs.facts().files_ok and logs.facts().reason
    (tmp_path / "logs").unlink()
    assert logs.flush(5) and logs.facts().files_ok
    assert filed(tmp_path) == "T one\n", "what waited is written"


def test_all_is_on_the_disk_and_no_thread_is_left_at_the_end(tmp_path: Path) -> None:
    before = threading.active_count()
    logs = Logs(plan(tmp_path), formats=FORMATS, redact=str)
    logs.start()
    for number in range(1000):
        logs.request(ended(number))
    assert logs.close(10)
    assert numbers_in(filed(tmp_path)) == list(range(1000))
    assert threading.active_count() == before


def test_logs_that_were_never_started_end_at_once(tmp_path: Path) -> None:
    logs = Logs(plan(tmp_path), formats=FORMATS, redact=str)
    logs.say("nobody hears it")
    assert logs.close(10)
    assert list(tmp_path.iterdir()) == []
