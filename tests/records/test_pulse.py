"""A loop that stands still is noticed from outside, once, with the place where it stands; nothing is imagined."""

import asyncio
import subprocess
import sys
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.records.pulse import Pulse, Recovered, Stalled, StoodStill, Watch, said, stack_of

# --- What is decided ------------------------------------------------------------------------------------------------


def looks(watch: Watch, start: float, end: float, step: float = 0.5) -> list[object]:
    """The verdicts of an onlooker who looks all the time."""
    said, now = [], start
    while now <= end:
        said.append(watch.look(now))
        now += step
    return [verdict for verdict in said if verdict is not None]


def test_a_loop_that_beats_in_time_is_nothing_to_tell() -> None:
    watch = Watch()
    for second in range(100):
        watch.beat(float(second))
        assert looks(watch, second, second + 0.5) == []
    assert watch.stalls == 0
    assert watch.lag(99.0) == 0


def test_a_stall_is_told_once_while_it_lasts_and_once_when_it_ends() -> None:
    watch = Watch()
    watch.beat(0.0)
    assert looks(watch, 0.0, 3.0) == []
    assert looks(watch, 3.5, 8.0) == [Stalled(2.5)]
    watch.beat(8.2)
    assert looks(watch, 8.5, 9.0) == [Recovered(pytest.approx(7.2), True)]
    assert watch.stalls == 1


def test_each_stall_is_told_of() -> None:
    watch = Watch()
    for begin in (0.0, 10.0, 20.0):
        watch.beat(begin)
        assert looks(watch, begin + 0.5, begin + 8.5)[-1] == Stalled(2.5)
        watch.beat(begin + 9.0)
        assert looks(watch, begin + 9.0, begin + 9.5) == [Recovered(8.0, True)]
    assert watch.stalls == 3


def test_a_stall_that_ends_between_two_looks_is_told_afterwards() -> None:
    watch = Watch()
    watch.beat(0.0)
    watch.look(3.0)
    watch.beat(3.4)
    assert watch.look(3.5) == Recovered(pytest.approx(2.4), False)


def test_before_the_first_beat_and_after_the_last_nothing_is_missed() -> None:
    watch = Watch()
    assert looks(watch, 0.0, 100.0) == []
    assert watch.age(100.0) is None
    watch.beat(100.0)
    watch.rest()
    assert looks(watch, 100.0, 200.0) == []
    assert watch.lag(200.0) == 0


def test_when_the_onlooker_slept_too_the_loop_is_not_blamed() -> None:
    """A machine that was paused, a container that was frozen: both are late, neither is at fault."""
    watch = Watch()
    watch.beat(0.0)
    assert watch.look(0.5) is None
    assert watch.look(60.5) == StoodStill(59.5)
    watch.beat(60.6)
    assert looks(watch, 61.0, 63.0) == []


def test_a_stall_that_was_told_of_has_its_end_told_although_everything_stood_still_meanwhile() -> None:
    watch = Watch()
    watch.beat(0.0)
    assert looks(watch, 0.0, 4.0) == [Stalled(2.5)]
    assert watch.look(60.0) == StoodStill(55.5)
    watch.beat(60.2)
    assert looks(watch, 60.5, 61.0) == [Recovered(pytest.approx(59.2), True)]


def test_a_loop_that_stays_behind_after_a_pause_is_told_of_when_it_beat_once() -> None:
    watch = Watch()
    watch.beat(0.0)
    watch.look(0.5)
    watch.look(60.5)
    watch.beat(60.6)
    assert looks(watch, 61.0, 65.0) == [Stalled(pytest.approx(2.4))]


def test_the_lag_is_the_worst_of_the_last_minute() -> None:
    watch = Watch()
    watch.beat(0.0)
    watch.beat(1.5)
    watch.beat(2.6)
    assert watch.lag(2.6) == pytest.approx(0.5)
    assert watch.lag(61.0) > 50, "no beat since: it is late now"
    for second in range(3, 80):
        watch.beat(float(second))
    assert watch.lag(79.0) == 0


@given(st.lists(st.floats(0, 10), min_size=1, max_size=100))
def test_the_lag_never_says_less_than_any_lateness_of_the_last_minute(gaps: list[float]) -> None:
    watch = Watch()
    now, seen = 0.0, []
    watch.beat(now)
    for gap in gaps:
        now += gap
        watch.beat(now)
        seen.append((now, max(0.0, gap - 1.0)))
        assert watch.lag(now) >= max(late for at, late in seen if at >= now - 60) - 1e-9
    assert watch.stalls == sum(late > 2.0 + 1e-9 for _, late in seen) or any(abs(late - 2) < 1e-6 for _, late in seen)


def test_the_age_is_that_of_the_last_beat() -> None:
    watch = Watch()
    watch.beat(10.0)
    assert watch.age(13.0) == 3


# --- What is said ---------------------------------------------------------------------------------------------------


def test_each_verdict_has_its_line() -> None:
    assert said(Stalled(2.5), ["  | a.py:1 f"]) == [
        "the event loop stands still since 2.5 s: nobody is answered meanwhile; it is in",
        "  | a.py:1 f",
    ]
    assert said(Recovered(7.25, True), []) == ["the event loop goes on after 7.2 s"]
    assert said(Recovered(7.25, False), []) == ["the event loop stood still for 7.2 s"]
    assert "59.5 s" in said(StoodStill(59.5), [])[0]


def blocked_with(prompt: str, entered: threading.Event, leave: threading.Event) -> None:
    entered.set()
    leave.wait(5)


def test_a_stack_names_places_and_no_value() -> None:
    entered, leave = threading.Event(), threading.Event()
    thread = threading.Thread(target=blocked_with, args=("a secret prompt", entered, leave))
    thread.start()
    try:
        assert entered.wait(5)
        lines = stack_of(thread.ident or 0)
    finally:
        leave.set()
        thread.join()
    assert any("tests/records/test_pulse.py:" in line and line.endswith(" blocked_with") for line in lines)
    assert "secret" not in "".join(lines)


def test_a_stack_has_an_end() -> None:
    def deeper(depth: int) -> list[str]:
        return stack_of(threading.get_ident()) if depth == 0 else deeper(depth - 1)

    assert len(deeper(200)) == 40


def test_a_thread_that_is_gone_has_no_stack() -> None:
    assert stack_of(-1) == []


# --- The thread -----------------------------------------------------------------------------------------------------


async def test_a_loop_that_is_blocked_is_seen_from_outside() -> None:
    """A real loop, a real blockade, everything ten times as quick."""
    lines: list[str] = []
    pulse = Pulse(lines.append, watch=Watch(beat=0.1, stalled=0.2, look=0.05), look=0.05)
    pulse.start()
    try:
        for _ in range(2):
            pulse.beat(time.monotonic())
            await asyncio.sleep(0.1)
        pulse.beat(time.monotonic())
        block_the_loop(lines)
        pulse.beat(time.monotonic())
        async with asyncio.timeout(5):
            while not any("goes on" in line for line in lines):
                await asyncio.sleep(0.05)
                pulse.beat(time.monotonic())
        assert pulse.stalls == 1
        assert pulse.lag > 0.2
    finally:
        pulse.stop()
    assert [line for line in lines if "stands still" in line] == lines[:1]
    assert any("block_the_loop" in line for line in lines)


def block_the_loop(lines: list[str]) -> None:
    deadline = time.monotonic() + 5
    while not any("block_the_loop" in line for line in lines) and time.monotonic() < deadline:
        time.sleep(0.01)


async def test_after_stop_nobody_looks_on() -> None:
    lines: list[str] = []
    pulse = Pulse(lines.append, watch=Watch(beat=0.01, stalled=0.02, look=0.01), look=0.01)
    pulse.start()
    pulse.beat(time.monotonic())
    pulse.stop()
    assert "pulse" not in {thread.name for thread in threading.enumerate()}
    pulse.stop()  # twice is once
    assert lines == []


async def test_a_log_that_fails_does_not_end_the_looking(capsys: pytest.CaptureFixture[str]) -> None:
    def broken(line: str) -> None:
        raise OSError(28, "No space left on device")

    pulse = Pulse(broken, watch=Watch(beat=0.01, stalled=0.05, look=0.02), look=0.02)
    pulse.start()
    try:
        said_by_then = ""
        for _ in range(2):
            pulse.beat(time.monotonic())
            deadline = time.monotonic() + 5
            before = said_by_then.count("stands still")
            while said_by_then.count("stands still") == before and time.monotonic() < deadline:
                time.sleep(0.01)
                said_by_then += capsys.readouterr().err
        assert said_by_then.count("stands still") == 2
        assert "not logged: OSError" in said_by_then
    finally:
        pulse.stop()


def test_a_process_ends_although_nobody_stopped_it() -> None:
    """Also while `tell` hangs."""
    script = (
        "import time; from gateway.records.pulse import Pulse, Watch\n"
        "pulse = Pulse(lambda line: time.sleep(60), watch=Watch(beat=0.01, stalled=0.01, look=0.01), look=0.01)\n"
        "pulse.start(); pulse.beat(time.monotonic()); time.sleep(0.2); print('end')\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=20)
    assert (done.returncode, done.stdout, done.stderr) == (0, "end\n", "")
