"""Each thing is told once, in the words of metrics and boot log, whatever way an upstream's life takes."""

from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from gateway.conductor import Snapshot
from gateway.policy.estimate import Progress
from gateway.policy.lifecycle.states import State
from gateway.providers.base import Loading
from gateway.telling import Telling

IDLE = Snapshot(
    upstream="default",
    state=State.STOPPED,
    since=0.0,
    loading=None,
    progress=None,
    in_flight=0,
    waiting=0,
    starts=0,
    last_activity=None,
    idle_at=None,
    warm_until=None,
    ever_ready=False,
    failures=0,
    reason="",
    code="",
    detail="",
    instance=None,
)


@dataclass
class Ear:
    """Metrics and boot log in one: what they were told, in order."""

    heard: list[tuple[Any, ...]] = field(default_factory=list)

    def __getattr__(self, name: str) -> Any:
        return lambda *words: self.heard.append((name, *words))


@dataclass
class Stage:
    """An upstream whose life is told line by line; time is what the test says."""

    metrics: Ear = field(default_factory=Ear)
    boot_log: Ear = field(default_factory=Ear)
    now: float = 0.0
    said: Snapshot = IDLE
    ready: list[float] = field(default_factory=list)
    shows_loading: bool = True

    def __post_init__(self) -> None:
        self.telling = Telling(
            metrics=self.metrics,  # type: ignore[arg-type]
            boot_log=self.boot_log,  # type: ignore[arg-type]
            clock=lambda: self.now,
            on_state=lambda: None,
            on_ready=lambda snapshot, seconds: self.ready.append(seconds),
            engine_line=lambda: ("engine", "--port"),
            shows_loading=self.shows_loading,
        )
        self.becomes(State.STOPPED)

    def snapshot(self) -> Snapshot:
        return self.said

    @property
    def state(self) -> State:
        return self.said.state

    def becomes(self, state: State, *, after: float = 0.0, **changes: Any) -> None:
        self.now += after
        loading: Loading | None = changes.get("loading")
        progress = Progress(loading.phase, loading.ratio, loading.detail, self.now, None) if loading else None
        self.said = replace(self.said, state=state, **({"loading": None, "progress": progress} | changes))
        self.telling.changed(self)  # type: ignore[arg-type]

    def beats(self, *, after: float, ratio: float) -> None:
        self.now += after
        assert self.said.progress is not None
        self.said = replace(self.said, progress=replace(self.said.progress, ratio=ratio, elapsed=self.now))
        self.telling.beat(self)  # type: ignore[arg-type]

    def names(self, ear: Ear) -> list[str]:
        return [words[0] for words in ear.heard]

    def last(self, ear: Ear, name: str) -> tuple[Any, ...]:
        return next(words[1:] for words in reversed(ear.heard) if words[0] == name)


@pytest.fixture
def stage() -> Stage:
    return Stage()


def starts(stage: Stage) -> None:
    stage.becomes(State.STARTING)
    stage.becomes(State.STARTING, after=1, loading=Loading("booting"))
    stage.becomes(State.STARTING, after=2, loading=Loading("loading", 0.5))
    stage.becomes(State.STARTING, after=3, loading=Loading("loading", 0.9))
    stage.becomes(State.READY, after=1)


def test_a_start_is_told_with_the_time_of_each_phase(stage: Stage) -> None:
    starts(stage)
    assert stage.names(stage.metrics) == ["start_began", "start_ended"]
    upstream, outcome, phases = stage.last(stage.metrics, "start_ended")
    assert (upstream, outcome, phases) == ("default", "ready", {"ordered": 1.0, "booting": 2.0, "loading": 4.0})
    assert stage.ready == [7.0] and stage.last(stage.boot_log, "ready") == (7.0,)
    assert stage.last(stage.boot_log, "engine") == (("engine", "--port"),)


@pytest.mark.parametrize(
    ("changes", "outcome"),
    [
        ({"state": State.STOPPING}, "given_up"),
        ({"state": State.STOPPED, "reason": "It broke."}, "failed"),
        ({"state": State.STOPPING, "reason": "No progress.", "code": "start_timeout"}, "timeout"),
    ],
)
def test_a_start_that_came_to_nothing_says_why(stage: Stage, changes: dict[str, Any], outcome: str) -> None:
    stage.becomes(State.STARTING)
    stage.becomes(changes.pop("state"), after=5, **changes)
    assert stage.last(stage.metrics, "start_ended")[1] == outcome and stage.ready == []


@pytest.mark.parametrize(
    ("state", "reason", "end"),
    [
        (State.STOPPING, "", "idle"),
        (State.DRAINING, "", "drained"),
        (State.STARTING, "It was killed.", "crashed"),
        (State.STOPPING, "It answers no more.", "unhealthy"),
    ],
)
def test_the_end_of_what_was_ready_has_its_reason(stage: Stage, state: State, reason: str, end: str) -> None:
    starts(stage)
    stage.becomes(state, after=100, reason=reason)
    assert stage.last(stage.metrics, "engine_ended") == ("default", end)


def test_a_crash_is_not_told_again_at_the_next_ordinary_end(stage: Stage) -> None:
    """What was the matter is remembered by the lifecycle, and is no news for that."""
    starts(stage)
    stage.becomes(State.STARTING, reason="It was killed.", detail="Killed")
    stage.becomes(State.READY, after=1)
    stage.becomes(State.STOPPING, after=900)
    ends = [words[2] for words in stage.metrics.heard if words[0] == "engine_ended"]
    assert ends == ["crashed", "idle"]
    assert stage.names(stage.boot_log).count("failed") == 1


def test_each_try_that_fails_is_told_though_callers_wait_on(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    """A bar that begins anew without a word would puzzle whoever watches it; and the last try counts as a failure."""
    stage.becomes(State.STARTING)
    stage.becomes(State.STARTING, after=5, failures=1, reason="It was killed.", detail="signal 9")
    stage.becomes(State.STARTING, after=1, loading=Loading("booting"))
    stage.becomes(State.STARTING, after=5, failures=2)
    stage.becomes(State.STARTING, after=1, loading=Loading("booting"))
    stage.becomes(State.FAILED, after=5, failures=3)
    assert capsys.readouterr().out.splitlines().count("[gateway] It was killed.") == 3
    assert stage.names(stage.boot_log).count("failed") == 3
    assert stage.last(stage.metrics, "start_ended")[1] == "failed"


def test_the_readings_know_how_long_it_was_what_it_is(stage: Stage) -> None:
    starts(stage)
    stage.now += 3
    stage.said = replace(stage.said, idle_at=stage.now + 60, last_activity=stage.now - 2)
    facts = stage.telling.facts(stage)  # type: ignore[arg-type]
    assert (facts.ready_for, facts.idle_stop_in, facts.last_activity_age) == (3.0, 60.0, 2.0)
    assert facts.state_seconds[State.READY] == 3.0 and facts.state_seconds[State.STARTING] == 7.0


def test_lines_for_people_come_once_for_each_thing(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    starts(stage)
    stage.becomes(State.STARTING, reason="It was killed.", detail="Killed\nsignal 9")
    said = capsys.readouterr().out.splitlines()
    assert said.count("[gateway] It was killed.") == 1 and "[gateway]   | signal 9" in said
    assert sum("50%" in line for line in said) == 1 and sum("90%" in line for line in said) == 1


def bars(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return [line for line in capsys.readouterr().out.splitlines() if line.startswith("[LOADING]")]


def test_a_log_has_one_line_for_each_phase_and_each_five_percent(
    stage: Stage, capsys: pytest.CaptureFixture[str]
) -> None:
    stage.becomes(State.STARTING)
    stage.becomes(State.STARTING, loading=Loading("booting"))
    for percent in range(101):
        stage.becomes(State.STARTING, after=0.2, loading=Loading("loading", percent / 100))
    said = bars(capsys)
    assert len(said) == 22
    assert said[0] == "[LOADING] starting the engine... (0s)"
    assert said[10] == "[LOADING] #####------- 45% - loading weights... (9s)"


def test_time_goes_on_while_nothing_is_said(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    stage.becomes(State.STARTING)
    stage.becomes(State.STARTING, loading=Loading("loading", 0.5))
    stage.beats(after=1, ratio=0.51)
    stage.beats(after=1, ratio=0.55)
    assert [line.split()[2] for line in bars(capsys)] == ["50%", "55%"]
    stage.becomes(State.READY)
    stage.telling.beat(stage)  # type: ignore[arg-type]
    assert bars(capsys) == []


def test_the_live_line_is_taken_away_when_the_start_is_over(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[tuple[str, bool]] = []
    monkeypatch.setattr("gateway.telling.show_loading", lambda line, mark: shown.append((line, mark)))
    stage.becomes(State.STARTING)
    stage.becomes(State.STARTING, loading=Loading("loading", 0.5, file="model.gguf"))
    stage.becomes(State.STARTING, after=0.01, loading=Loading("loading", 0.51))
    stage.becomes(State.STARTING, after=1, loading=Loading("loading", 0.52))
    stage.becomes(State.READY)
    stage.becomes(State.STOPPING)
    assert [line[:22] for line, _ in shown] == ["[LOADING] ######------"] * 2 + [""]
    assert "model.gguf" in shown[0][0] and [mark for _, mark in shown] == [True, False, False]


def test_whoever_wants_no_bar_gets_the_boots_story_all_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    stage = Stage(shows_loading=False)
    starts(stage)
    assert bars(capsys) == []
    assert [words[1] for words in stage.boot_log.heard if words[0] == "phase"] == [
        "start ordered",
        "booting",
        "loading",
    ]


def test_the_boots_story_says_how_much_there_is_and_which_file(stage: Stage) -> None:
    stage.becomes(State.STARTING)
    stage.becomes(State.STARTING, loading=Loading("downloading", done=1 << 29, total=4 << 30, file="m.gguf"))
    assert stage.last(stage.boot_log, "phase") == ("downloading", "m.gguf 0.5/4.0 GiB")


def test_the_readings_know_how_far_a_start_is(stage: Stage) -> None:
    stage.becomes(State.STARTING, loading=Loading("loading", 0.5))
    assert stage.said.progress is not None
    stage.said = replace(stage.said, progress=replace(stage.said.progress, seconds_left=7.0))
    facts = stage.telling.facts(stage)  # type: ignore[arg-type]
    assert (facts.phase, facts.progress, facts.seconds_left) == ("loading", 0.5, 7.0)
    stage.becomes(State.READY)
    facts = stage.telling.facts(stage)  # type: ignore[arg-type]
    assert (facts.phase, facts.progress, facts.seconds_left) == (None, None, None)
