"""Stories of the lifecycle: the JSON ones of tests/stories, and a teller with which a test reads like one.

    story >> RequestArrived("r1") << StartInstance(1)
    story.after(40) >> BecameReady(1) << ReleaseWaiting()

The format is described in tests/stories/README.md. Another language reads the same files: nothing here adds meaning.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gateway.policy.lifecycle import effects, events
from gateway.policy.lifecycle.effects import Effect
from gateway.policy.lifecycle.events import Event
from gateway.policy.lifecycle.machine import Lifecycle, LifecycleSettings

FOLDER = Path(__file__).parent.parent / "stories"


@dataclass(frozen=True, slots=True)
class Story:
    """One file of tests/stories."""

    name: str
    says: str
    settings: LifecycleSettings
    steps: list[dict[str, Any]]


def settings(**changed: Any) -> LifecycleSettings:
    """The stories' own settings, in milliseconds, with some of them changed."""
    return LifecycleSettings(**(json.loads((FOLDER / "_settings.json").read_text()) | changed))


def read(path: Path) -> Story:
    told = json.loads(path.read_text())
    return Story(path.stem, told["says"], settings(**told.get("settings", {})), told["steps"])


def every() -> list[Story]:
    """All of them, by name. A file that begins with _ is none."""
    return [read(path) for path in sorted(FOLDER.glob("[!_]*.json"))]


def event_of(told: Mapping[str, Any]) -> Event:
    """`{"type": "RequestArrived", "request": "r1"}` as the event it names."""
    fields = {name: value for name, value in told.items() if name != "type"}
    event: Event = getattr(events, told["type"])(**fields)
    return event


def told_of(effect: Effect) -> dict[str, Any]:
    """An effect as a story writes it."""
    assert hasattr(effects, type(effect).__name__)
    return {"type": type(effect).__name__, **asdict(effect)}


def check(story: Story, build: Callable[[LifecycleSettings], Lifecycle] = Lifecycle) -> Lifecycle:
    """Tell the story to a machine; AssertionError at the first step that goes another way."""
    machine = build(story.settings)
    for number, step in enumerate(story.steps, 1):
        where = f"{story.name}, step {number} at {step['at']} ({step['event']['type']}): {story.says}"
        given = [told_of(effect) for effect in machine.handle(event_of(step["event"]), now=step["at"])]
        assert given == step.get("effects", []), (
            f"{where}\n orders {given}\n not    {step.get('effects', [])}\n {machine!r}"
        )
        if "state" in step:
            assert machine.state == step["state"], f"{where}\n is {machine.state}, not {step['state']}\n {machine!r}"
        if "deadline" in step:
            deadline = machine.next_deadline()
            assert deadline == step["deadline"], f"{where}\n deadline {deadline}, not {step['deadline']}\n {machine!r}"
        if "refusal" in step:
            refusal = machine.refusal(step["at"])
            told = None if refusal is None else asdict(refusal)
            assert told == step["refusal"], f"{where}\n refusal {told}, not {step['refusal']}\n {machine!r}"
    return machine


class Teller:
    """Tells events to a machine with `>>` and reads its orders with `<<`, in whole milliseconds."""

    def __init__(self) -> None:
        self.machine = Lifecycle(settings())
        self.now = 0
        self._unread: list[Effect] = []

    def with_settings(self, **changed: Any) -> "Teller":
        """Begin with other settings."""
        self.machine = Lifecycle(settings(**changed))
        return self

    def after(self, passed: int) -> "Teller":
        """Later by so much. Nothing is told of it: a deadline in between needs its own `TimePassed`."""
        self.now += passed
        return self

    def __rshift__(self, event: Event) -> "Teller":
        self.all_is_read()
        self._unread = self.machine.handle(event, now=self.now)
        return self

    def __lshift__(self, order: Effect) -> "Teller":
        assert self._unread, f"{order} was not ordered: {self.machine!r}"
        assert self._unread[0] == order, f"{self._unread[0]} was ordered, not {order}: {self.machine!r}"
        del self._unread[0]
        return self

    def all_is_read(self) -> None:
        assert not self._unread, f"orders that the story did not speak of: {self._unread}; {self.machine!r}"
