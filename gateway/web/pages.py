"""What is answered here, without an upstream: `/`, `/ping`, `/health`, `/v1/models`; `/metrics` is scrape.py's.

None of it is activity, none of it wakes or waits for anything.
"""

import json
import math
import shlex
import time
from collections.abc import Callable
from dataclasses import dataclass

from gateway.conductor import Conductor, Snapshot
from gateway.errors import refuse, to_json
from gateway.policy.lifecycle.states import State

WELCOME = """\
This is WakeGate: an OpenAI-compatible gateway that wakes its model when somebody asks, and lets it go when nobody
does.

  curl -N {base}/v1/chat/completions -H "Authorization: Bearer $API_KEY" -H "Content-Type: application/json" \\
    -d {body}

State: {state}. More: /health, /v1/models (with a key), /metrics.
"""

JSON = "application/json"
TEXT = "text/plain; charset=utf-8"
HEADERS = (
    ("X-Content-Type-Options", "nosniff"),
    ("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'"),
)
"""Nothing here is a page that runs, or that stands in another's frame."""


@dataclass(frozen=True, slots=True)
class Page:
    status: int
    body: bytes
    content_type: str = JSON


@dataclass(frozen=True, slots=True)
class Visitor:
    """What a page may know of who asks."""

    has_key: bool
    is_admin: bool
    base: str
    models: frozenset[str] = frozenset()
    """What its key may ask for; empty: all."""

    def may_see(self, model: str) -> bool:
        return not self.models or model in self.models


class Pages:
    """The pages of one gateway."""

    def __init__(
        self,
        conductor: Conductor,
        *,
        ping: Callable[[], int],
        records: Callable[[], dict[str, object]] = dict,
    ) -> None:
        self._conductor = conductor
        self._ping = ping
        self._records = records
        """How the keys file, the logs and the like are, for whoever has a key."""
        self._born = int(time.time())
        self._table: dict[str, Callable[[Visitor, str], Page]] = {
            "welcome": self._welcome,
            "ping": self._say_ping,
            "health": self._health,
            "models": self._models,
            "model": self._model,
        }

    def show(self, page: str, visitor: Visitor, rest: str) -> Page:
        """Raises Refused."""
        return self._table[page](visitor, rest)

    def _welcome(self, visitor: Visitor, rest: str) -> Page:
        known = [
            m for m in self._conductor.models if visitor.has_key and visitor.may_see(m)
        ]  # what is served here is not for everybody to read
        body = {
            "model": (known or ["default"])[0],
            "stream": True,
            "messages": [{"role": "user", "content": "Hello!"}],
        }
        state = self._conductor.snapshot().state.value
        text = WELCOME.format(base=visitor.base, body=shlex.quote(json.dumps(body)), state=state)
        return Page(200, text.encode(), TEXT)

    def _say_ping(self, visitor: Visitor, rest: str) -> Page:
        code = self._ping()
        return Page(code, b"" if code == 204 else f"{code}\n".encode(), TEXT)

    def _health(self, visitor: Visitor, rest: str) -> Page:
        snapshot = self._conductor.snapshot()
        body = health(snapshot)
        if visitor.has_key or visitor.is_admin:
            body |= health_for_key(snapshot, self._conductor.models) | self._records()
        if visitor.is_admin:
            body["engine_said"] = snapshot.detail
        return Page(200, to_json(body))

    def _models(self, visitor: Visitor, rest: str) -> Page:
        data = [self._describe(name) for name in self._conductor.models if visitor.may_see(name)]
        return Page(200, to_json({"object": "list", "data": data}))

    def _model(self, visitor: Visitor, rest: str) -> Page:
        seen = [name for name in self._conductor.models if visitor.may_see(name)]
        if rest not in seen:
            known = ", ".join(seen) or "none is known before the upstream was ready once"
            raise refuse("model_not_found", f"No such model here. Served: {known}.")
        return Page(200, to_json(self._describe(rest)))

    def _describe(self, name: str) -> dict[str, object]:
        return {
            "id": name,
            "object": "model",
            "created": self._born,
            "owned_by": "wakegate",
            "wakegate": {"state": self._conductor.snapshot().state.value, "upstream": self._conductor.name},
        }


def health(snapshot: Snapshot) -> dict[str, object]:
    """Open to everybody: no name, no path, no number of users."""
    status = {State.FAILED: "failed", State.DRAINING: "draining"}.get(snapshot.state, "ok")
    body: dict[str, object] = {"status": status, "state": snapshot.state.value, "progress": progress(snapshot)}
    if snapshot.reason and snapshot.state is not State.READY:
        body["reason"] = snapshot.reason
    return body


def progress(snapshot: Snapshot) -> dict[str, object] | None:
    """Of the whole start; seconds since its order, and until it is probably ready."""
    known = snapshot.progress
    if known is None:
        return None
    return {
        "phase": known.phase,
        "ratio": None if known.ratio is None else math.floor(known.ratio * 1000) / 1000,
        "detail": known.detail,
        "elapsed": round(known.elapsed, 1),
        "seconds_left": None if known.seconds_left is None else round(known.seconds_left, 1),
    }


def health_for_key(snapshot: Snapshot, models: tuple[str, ...]) -> dict[str, object]:
    return {
        "upstream": snapshot.upstream,
        "models": list(models),
        "in_flight": snapshot.in_flight,
        "waiting": snapshot.waiting,
        "starts": snapshot.starts,
        "provider": snapshot.instance.provider if snapshot.instance else None,
        "instance": snapshot.instance.id if snapshot.instance else None,
    }
