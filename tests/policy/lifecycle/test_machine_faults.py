"""Faults planted in the machine, one at a time: a story must find each, and its name must say which rule is broken."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from gateway.policy.lifecycle.events import (
    BecameReady,
    Event,
    InstanceLost,
    RequestFinished,
    RequestLeft,
    StartProgressed,
    StopFailed,
    WakeRequested,
)
from gateway.policy.lifecycle.machine import FOLLOWS, RULES, Lifecycle, LifecycleSettings
from gateway.policy.lifecycle.states import State
from tests.support.stories import check, every

STORIES = every()


def rule(state: State, event: type, **changed: Any) -> type[Lifecycle]:
    """A machine with one rule changed (or added, as starting has it); without `changed`, the rule is missing."""
    row = {kind: rule for kind, rule in RULES[state].items() if kind is not event}
    if changed:
        row[event] = replace(RULES[state].get(event) or RULES[State.STARTING][event], **changed)

    return type("Faulty", (Lifecycle,), {"rules": {**RULES, state: row}})


def follow(state: State, name: str, **changed: Any) -> type[Lifecycle]:
    """A machine with one of the rules that follow changed; without `changed`, it is missing."""
    row = [replace(it, **changed) if it.name == name else it for it in FOLLOWS[state] if it.name != name or changed]

    return type("Faulty", (Lifecycle,), {"follows": {**FOLLOWS, state: tuple(row)}})


def setting(**changed: Any) -> Callable[[LifecycleSettings], Lifecycle]:
    """A machine that does not heed some settings."""
    return lambda settings: Lifecycle(replace(settings, **changed))


class WantsWhatItTakesOver(Lifecycle):
    """A wish that is not kept for something that ran already is one like any other."""

    def _try_no_more(self) -> None:
        pass


class OldNewsCounts(Lifecycle):
    def _is_news(self, event: Event) -> bool:
        return True


def serve_anew(facts: Any, event: BecameReady) -> None:
    """As if every ready began a new idle time, also that of a restart nobody asked for."""
    facts._serve(event)
    facts._idle.start(facts._now)


def count_wrong(facts: Any, event: RequestFinished) -> None:
    """As if every answer were activity."""
    facts._finish(replace(event, active=True))


FAULTS: dict[str, tuple[Callable[[LifecycleSettings], Lifecycle], str]] = {
    "a 4xx counts as activity": (
        rule(State.READY, RequestFinished, do=count_wrong),
        "a-wrong-request-is-no-activity",
    ),
    "who leaves is still counted": (
        rule(State.STARTING, RequestLeft),
        "the-last-waiter-leaves",
    ),
    "progress does not push the limit": (
        rule(State.STARTING, StartProgressed),
        "slow-progress-is-no-timeout",
    ),
    "progress pushes START_MAX too": (
        follow(State.STARTING, "start took too long", due=lambda facts: facts._instance and facts._no_progress_at),
        "start-max-ends-it-all",
    ),
    "ready is believed after the stop was ordered": (
        rule(State.STOPPING, BecameReady, to=State.READY),
        "ready-too-late",
    ),
    "a wish while stopping is lost": (
        rule(State.STOPPING, WakeRequested),
        "a-wish-while-stopping",
    ),
    "a failed stop is taken for done": (
        rule(State.STOPPING, StopFailed, do=Lifecycle._vanish, to=State.STOPPED),
        "a-stop-that-fails",
    ),
    "a crash is never restarted for those who wait": (
        follow(State.STOPPED, "wanted", due=lambda facts: None),
        "a-crash-is-restarted",
    ),
    "a crash loop never ends": (
        follow(State.STOPPED, "given up"),
        "a-crash-loop-ends-in-failed",
    ),
    "failed never opens again": (
        follow(State.FAILED, "pause over"),
        "failed-lets-one-try",
    ),
    "a lost instance is started again without a pause": (
        follow(State.STARTING, "try", due=lambda facts: float("-inf") if facts._instance is None else None),
        "a-failed-start-is-tried-again",
    ),
    "a sleeper that is lost is a crash": (
        rule(State.ASLEEP, InstanceLost, do=lambda facts, event: (facts._want(WakeRequested()), facts._lose(event))),
        "lost-in-its-sleep",
    ),
    "what was to be taken over is tried again": (WantsWhatItTakesOver, "taken-over-and-lost"),
    "old news counts": (OldNewsCounts, "late-news"),
    "a restart for nobody buys idle time": (
        rule(State.STARTING, BecameReady, do=serve_anew),
        "a-crash-within-the-idle-time",
    ),
    "a drain cuts nobody": (follow(State.DRAINING, "cut"), "drain-cuts-at-its-time"),
    "a drain waits for a stop that never comes": (
        follow(
            State.DRAINING,
            "drained",
            due=lambda facts: float("-inf") if facts._end_at and facts._instance is None and not facts._here else None,
        ),
        "drain-cuts-at-its-time",
    ),
    "healthy time forgets nothing": (setting(quick_crash_window=10**9), "healthy-in-between"),
    "nothing is kept back for the stop": (setting(drain_reserve=0), "drain-while-ready"),
}


@pytest.mark.parametrize(("build", "finder"), FAULTS.values(), ids=FAULTS.keys())
def test_a_story_finds_it(build: Callable[[LifecycleSettings], Lifecycle], finder: str) -> None:
    found: dict[str, str] = {}
    for told in STORIES:
        try:
            check(told, build)
        except (AssertionError, RuntimeError) as error:
            found[told.name] = str(error)
    assert finder in found, f"found by {sorted(found)}"
    assert next(told.says for told in STORIES if told.name == finder) in found[finder], "its message names the rule"
