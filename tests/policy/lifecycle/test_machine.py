"""The machine tells every story of tests/stories as it is written, and the stories walk all of its tables."""

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from gateway.policy.lifecycle.effects import ReleaseWaiting, RestInstance, StartInstance, StopInstance, WakeInstance
from gateway.policy.lifecycle.events import (
    BecameReady,
    DrainRequested,
    FellAsleep,
    InstanceLost,
    RequestArrived,
    RequestFinished,
    TimePassed,
)
from gateway.policy.lifecycle.machine import (
    _ALWAYS,
    FOLLOWS,
    RULES,
    Follow,
    Lifecycle,
    LifecycleSettings,
    Rule,
)
from gateway.policy.lifecycle.states import State
from tests.support.stories import FOLDER, Story, Teller, check, every

STORIES = every()


@pytest.mark.parametrize("told", STORIES, ids=[told.name for told in STORIES])
def test_story(told: Story) -> None:
    check(told)


def whole(value: object) -> bool:
    """Whether another language reads the numbers in it as the same: whole, and below 2^53."""
    if isinstance(value, dict | list):
        return all(whole(part) for part in (value.values() if isinstance(value, dict) else value))
    return value is None or isinstance(value, str | bool) or (isinstance(value, int) and 0 <= value < 2**53)


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.json")), ids=lambda path: path.stem)
def test_every_language_reads_the_same_story(path: Path) -> None:
    """Whole milliseconds in order, one sentence, and nothing a reader would pass over in silence."""
    told = json.loads(path.read_text(encoding="ascii"))
    assert whole(told)
    if path.stem.startswith("_"):
        assert told.keys() == {field.name for field in fields(LifecycleSettings)}
        return
    assert told.keys() <= {"says", "settings", "steps"} and told["says"].endswith(".")
    moments = [step["at"] for step in told["steps"]]
    assert moments == sorted(moments)
    assert all(step.keys() <= {"at", "event", "effects", "state", "deadline", "refusal"} for step in told["steps"])


def test_idle_time_counts_from_the_last_real_request(story: Teller) -> None:
    """A long answer keeps the upstream; silence after it does not."""
    story.with_settings(idle_timeout=300)
    story >> RequestArrived("r1") << StartInstance(1)
    story.after(40) >> BecameReady(1) << ReleaseWaiting()
    story.after(1000) >> TimePassed()
    story >> RequestFinished("r1")
    story.after(299) >> TimePassed()
    story.after(1) >> TimePassed() << StopInstance(1)


def test_a_request_wakes_the_sleeper(story: Teller) -> None:
    """The same run comes back: nothing is started anew."""
    story.with_settings(idle_timeout=300, idle_action="sleep")
    story >> RequestArrived("r1") << StartInstance(1)
    story.after(40) >> BecameReady(1) << ReleaseWaiting()
    story >> RequestFinished("r1")
    story.after(300) >> TimePassed() << RestInstance(1)
    story.after(10) >> FellAsleep(1)
    story.after(999) >> RequestArrived("r2") << WakeInstance(1)
    story.after(10) >> BecameReady(1) << ReleaseWaiting()


def test_an_order_that_the_story_does_not_read_is_an_error() -> None:
    story = Teller()
    story >> RequestArrived("r1")
    with pytest.raises(AssertionError, match="StartInstance"):
        story.all_is_read()


def test_an_order_that_was_not_given_is_an_error() -> None:
    story = Teller()
    with pytest.raises(AssertionError, match="was not ordered"):
        story >> TimePassed() << StartInstance(1)


def test_the_stories_walk_every_rule() -> None:
    """A rule that no story walks is a rule that nobody has decided."""
    walked: set[int] = set()

    class Watched(Lifecycle):
        def _apply(self, rule: Rule | Follow, event: object) -> None:
            walked.add(id(rule))
            super()._apply(rule, event)

    for told in STORIES:
        check(told, Watched)
    rules = {f"{state}: {kind.__name__}": rule for state, row in RULES.items() for kind, rule in row.items()}
    follows = {f"{state}: {follow.name}": follow for state, row in FOLLOWS.items() for follow in row}
    assert [name for name, rule in (rules | follows).items() if id(rule) not in walked] == []


def test_the_stories_walk_every_edge_of_the_diagram() -> None:
    walked: set[tuple[State, State]] = set()

    class Watched(Lifecycle):
        def _apply(self, rule: Rule | Follow, event: object) -> None:
            before = self._state
            super()._apply(rule, event)
            walked.add((before, self._state))

    for told in STORIES:
        check(told, Watched)
    edges = {(state, rule.to) for state, row in RULES.items() for rule in row.values() if rule.to}
    edges |= {(state, follow.to) for state, row in FOLLOWS.items() for follow in row if follow.to}
    assert edges - walked == set()


def test_every_state_has_its_rows() -> None:
    assert set(RULES) == set(FOLLOWS) == set(State)
    assert all(row.keys() >= _ALWAYS.keys() for row in RULES.values())


def test_the_deadline_that_was_given_is_the_one_that_applies_in_floats_too() -> None:
    """0.1 + 0.2 is not 0.3: whoever compares differences instead of sums waits for ever, or not long enough."""
    for moment in (0.1, 1 / 3, 1e6 + 0.1, 123456.789):
        machine = Lifecycle(LifecycleSettings(idle_timeout=0.2))
        machine.handle(RequestArrived("r1"), now=0)
        machine.handle(BecameReady(1), now=moment)
        machine.handle(RequestFinished("r1"), now=moment)
        deadline = machine.next_deadline()
        assert deadline is not None
        assert machine.handle(TimePassed(), now=deadline) == [StopInstance(1)]


def test_rules_that_go_round_for_ever_are_found_out() -> None:
    """Rather an error at once than a gateway that hangs with one core busy."""

    class Round(Lifecycle):
        follows = dict.fromkeys(State, ()) | {
            State.STOPPED: (Follow("round", "", lambda facts: float("-inf"), lambda facts, event: None),)
        }

    with pytest.raises(RuntimeError, match="go round for ever"):
        Round(LifecycleSettings()).handle(TimePassed(), now=0)


def test_what_can_be_read_of_it(story: Teller) -> None:
    machine = story.machine
    assert (machine.state, machine.run, machine.instance, machine.ever_ready) == (State.STOPPED, 0, None, False)
    story.after(10) >> RequestArrived("r1") << StartInstance(1)
    assert (machine.state, machine.since, machine.run, machine.instance) == (State.STARTING, 10, 1, 1)
    assert list(machine.requests) == ["r1"]
    story.after(40) >> InstanceLost(1, "The engine ended while loading.", code="start_failed")
    assert (machine.since, machine.instance, machine.retry_at, machine.failures) == (10, None, 1050, 1)
    assert (machine.code, machine.reason) == ("start_failed", "The engine ended while loading.")
    story.after(1000) >> TimePassed() << StartInstance(2)
    story.after(10) >> BecameReady(2) << ReleaseWaiting()
    assert (machine.ever_ready, machine.retry_at, machine.last_activity) == (True, None, None)
    assert machine.idle_at is None  # somebody is here
    story.after(40) >> RequestFinished("r1")
    assert (machine.last_activity, list(machine.requests), machine.draining) == (1100, [], False)
    assert machine.idle_at == 1100 + machine.settings.idle_timeout
    story >> DrainRequested() << StopInstance(2)
    assert machine.draining and machine.idle_at is None


@pytest.mark.parametrize(
    ("events", "words"),
    [
        ([RequestArrived("r1")], ["starting since 5", "1 here", "waits for StartInstance(run=1) of 5"]),
        ([RequestArrived("r1"), InstanceLost(1, "It broke.")], ["1 failed (It broke.)", "next try at"]),
        ([DrainRequested()], ["draining", "next deadline None"]),
    ],
)
def test_the_repr_says_what_it_waits_for(events: list[Any], words: list[str]) -> None:
    machine = Lifecycle(LifecycleSettings(), now=5)
    for event in events:
        machine.handle(event, now=5)
    for word in words:
        assert word in repr(machine)
