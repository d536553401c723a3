"""What is answered here: its shapes, and who may read how much of it."""

import asyncio
import json
import subprocess
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import Any

import pytest

from gateway.conductor import Snapshot
from gateway.errors import Refused
from gateway.policy.estimate import Progress
from gateway.policy.lifecycle.states import State
from gateway.providers.base import Endpoint, Instance, Loading, Profile
from gateway.web.auth import Key, Keys
from gateway.web.gate import Gate
from gateway.web.pages import Page, Pages, Visitor
from tests.support.house import KEY, House, house

STRANGER = Visitor(has_key=False, is_admin=False, base="http://localhost:8000")
CALLER = Visitor(has_key=True, is_admin=False, base="http://localhost:8000")
ADMIN = Visitor(has_key=False, is_admin=True, base="http://localhost:8000")

SERVING = Snapshot(
    upstream="default",
    state=State.READY,
    since=0.0,
    loading=None,
    progress=None,
    in_flight=2,
    waiting=3,
    starts=4,
    last_activity=None,
    idle_at=None,
    warm_until=None,
    ever_ready=True,
    failures=0,
    reason="",
    code="",
    detail="",
    instance=Instance("i4", "local", Endpoint("http://localhost", socket="/run/secret.sock", key="engine-key"), 0.0),
)
LOADING = replace(
    SERVING,
    state=State.STARTING,
    loading=Loading("loading", 0.5),
    progress=Progress("loading", 0.4329, "12.1/28.0 GiB", 20.04, 24.96),
    instance=None,
)
FAILED = replace(
    SERVING, state=State.FAILED, reason="The model was not found.", detail="FileNotFoundError: /data/x", instance=None
)


@dataclass
class Shown:
    """What pages ask of a conductor."""

    said: Snapshot = SERVING
    name: str = "default"
    models: tuple[str, ...] = ("org/name", "alias")

    def snapshot(self) -> Snapshot:
        return self.said


def pages(conductor: Shown | None = None, *, ping: int = 200) -> Pages:
    return Pages(conductor or Shown(), ping=lambda: ping)  # type: ignore[arg-type]


def told(page: Page) -> Any:
    assert page.content_type == "application/json"
    return json.loads(page.body)


# --- /health


@pytest.mark.parametrize(
    ("snapshot", "expected"),
    [
        (SERVING, {"status": "ok", "state": "ready", "progress": None}),
        (
            LOADING,
            {
                "status": "ok",
                "state": "starting",
                "progress": {
                    "phase": "loading",
                    "ratio": 0.432,
                    "detail": "12.1/28.0 GiB",
                    "elapsed": 20.0,
                    "seconds_left": 25.0,
                },
            },
        ),
        (
            FAILED,
            {"status": "failed", "state": "failed", "progress": None, "reason": "The model was not found."},
        ),
        (replace(SERVING, state=State.DRAINING), {"status": "draining", "state": "draining", "progress": None}),
        (replace(SERVING, state=State.STOPPED), {"status": "ok", "state": "stopped", "progress": None}),
        (replace(SERVING, reason="It crashed an hour ago."), {"status": "ok", "state": "ready", "progress": None}),
    ],
)
def test_health_is_200_whatever_the_state_and_names_nothing_to_strangers(
    snapshot: Snapshot, expected: dict[str, Any]
) -> None:
    page = pages(Shown(snapshot)).show("health", STRANGER, "")
    assert page.status == 200 and told(page) == expected


def test_health_says_more_to_who_has_a_key() -> None:
    said = told(pages().show("health", CALLER, ""))
    assert said == {
        "status": "ok",
        "state": "ready",
        "progress": None,
        "upstream": "default",
        "models": ["org/name", "alias"],
        "in_flight": 2,
        "waiting": 3,
        "starts": 4,
        "provider": "local",
        "instance": "i4",
    }


def test_what_the_engine_said_is_for_the_admin() -> None:
    failed = pages(Shown(FAILED))
    assert told(failed.show("health", ADMIN, ""))["engine_said"] == "FileNotFoundError: /data/x"
    assert "engine_said" not in told(failed.show("health", CALLER, ""))
    assert b"/data/x" not in failed.show("health", CALLER, "").body
    assert told(failed.show("health", ADMIN, ""))["instance"] is None


@pytest.mark.parametrize("visitor", [STRANGER, CALLER, ADMIN])
@pytest.mark.parametrize("page", ["welcome", "health", "models"])
def test_no_page_shows_the_engines_key_or_its_socket(page: str, visitor: Visitor) -> None:
    body = pages().show(page, visitor, "").body
    assert b"engine-key" not in body and b"secret.sock" not in body


# --- /ping, /


@pytest.mark.parametrize(("code", "body"), [(200, b"200\n"), (204, b""), (503, b"503\n")])
def test_ping_answers_as_the_health_port_does(code: int, body: bytes) -> None:
    page = pages(ping=code).show("ping", STRANGER, "")
    assert (page.status, page.body) == (code, body)


@pytest.mark.parametrize("model", ["served", "it's", 'a "quoted" \\ one', "$(reboot)", "{braces}", "ünïcode"])
def test_the_curl_on_the_welcome_page_can_be_pasted(model: str) -> None:
    page = pages(Shown(models=(model,))).show("welcome", CALLER, "")
    assert page.content_type.startswith("text/plain")
    lines = page.body.decode().split("\n")
    begin = next(number for number, line in enumerate(lines) if "curl" in line)
    block = "\n".join(lines[begin : begin + 2])
    script = block.replace("curl", "printf '%s\\n'", 1)
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True, env={"API_KEY": "k"})
    args = done.stdout.split("\n")
    assert args[1] == "http://localhost:8000/v1/chat/completions" and "Authorization: Bearer k" in args
    assert json.loads(args[-2])["model"] == model
    assert "State: ready" in page.body.decode()


def test_the_welcome_page_does_not_tell_strangers_what_is_served() -> None:
    assert b"org/name" not in pages().show("welcome", STRANGER, "").body
    assert b'"default"' in pages(Shown(models=())).show("welcome", CALLER, "").body


# --- /v1/models


def test_models_are_listed_as_the_sdks_read_them() -> None:
    said = told(pages().show("models", CALLER, ""))
    assert said["object"] == "list" and [model["id"] for model in said["data"]] == ["org/name", "alias"]
    for model in said["data"]:
        assert set(model) == {"id", "object", "created", "owned_by", "wakegate"}
        assert (model["object"], model["owned_by"]) == ("model", "wakegate") and isinstance(model["created"], int)
        assert model["wakegate"] == {"state": "ready", "upstream": "default"}


def test_before_anything_is_known_the_list_is_empty() -> None:
    assert told(pages(Shown(models=())).show("models", CALLER, "")) == {"object": "list", "data": []}


def test_one_model_is_told_as_in_the_list_and_an_unknown_one_is_404() -> None:
    shown = pages()
    assert told(shown.show("model", CALLER, "org/name")) == told(shown.show("models", CALLER, ""))["data"][0]
    with pytest.raises(Refused) as caught:
        shown.show("model", CALLER, "gpt-4o")
    refusal = caught.value.refusal
    assert (refusal.status, refusal.code) == (404, "model_not_found") and "org/name, alias" in refusal.message
    with pytest.raises(Refused, match="before the upstream was ready"):
        pages(Shown(models=())).show("model", CALLER, "x")


def test_every_page_of_the_table_of_paths_exists() -> None:
    from gateway.web.routes import MODEL, PAGES

    for route in (*PAGES, MODEL):
        if route.page != "metrics":  # scrape.py's
            assert pages().show(route.page, CALLER, "alias").status == 200


# --- through the door


@pytest.fixture
async def at_home() -> AsyncIterator[House]:
    async with house(ready_at_once=False, profile=Profile(models=("org/name",))) as h:
        yield h


async def ask(h: House, target: str, *headers: str, method: str = "GET") -> tuple[int, str, bytes]:
    lines = [f"{method} {target} HTTP/1.1", "Host: x", "Connection: close", *headers]
    reply = await h.raw("\r\n".join([*lines, "", ""]).encode())
    head, _, body = reply.partition(b"\r\n\r\n")
    return int(head.split(b" ")[1]), head.decode(), body


BEARER = f"Authorization: Bearer {KEY}"


async def test_health_knows_a_key_when_it_sees_one(at_home: House) -> None:
    _, _, open_body = await ask(at_home, "/health")
    _, _, known_body = await ask(at_home, "/health", BEARER)
    _, _, wrong_body = await ask(at_home, "/health", BEARER + "x")
    assert set(json.loads(open_body)) == set(json.loads(wrong_body)) == {"status", "state", "progress"}
    assert json.loads(known_body)["models"] == ["org/name"]


async def test_the_admin_sees_what_the_engine_said() -> None:
    keys = Keys([Key.of("test", KEY)])
    async with house(gate=lambda: Gate(keys=keys, admin=Keys([Key.of("admin", "sk-admin")]))) as h:
        _, _, body = await ask(h, "/health", "Authorization: Bearer sk-admin")
        assert json.loads(body)["engine_said"] == ""


@pytest.mark.parametrize("path", ["/", "/ping", "/health", "/metrics", "/v1/models", "/v1/models/org/name"])
async def test_head_says_what_get_says_without_its_body(at_home: House, path: str) -> None:
    status, head, body = await ask(at_home, path, BEARER)
    head_status, head_head, head_body = await ask(at_home, path, BEARER, method="HEAD")
    assert (status, head_status, head_body) == (200, 200, b"") and body
    assert f"Content-Length: {len(body)}" in head
    if path != "/metrics":
        assert f"Content-Length: {len(body)}" in head_head


@pytest.mark.parametrize("path", ["/v1/models/org/name", "/v1/models/org%2Fname", "/v1/models/org%2fname?x=1"])
async def test_a_model_with_a_slash_is_found_in_both_spellings(at_home: House, path: str) -> None:
    status, _, body = await ask(at_home, path, BEARER)
    assert (status, json.loads(body)["id"]) == (200, "org/name")


@pytest.mark.parametrize("path", ["/v1/models", "/v1/models/org/name"])
async def test_models_need_a_key(at_home: House, path: str) -> None:
    status, head, body = await ask(at_home, path)
    assert status == 401 and "WWW-Authenticate: Bearer" in head
    assert json.loads(body)["error"]["code"] == "invalid_api_key" and b"org/name" not in body


async def test_no_page_starts_anything_or_is_activity(at_home: House) -> None:
    for path in ("/", "/ping", "/health", "/metrics", "/v1/models", "/v1/models/none"):
        await ask(at_home, path, BEARER)
    await asyncio.sleep(0)
    snapshot = at_home.conductor.snapshot()
    assert (snapshot.state, snapshot.starts, snapshot.last_activity) == (State.STOPPED, 0, None)


def test_the_module_says_in_its_first_line_every_path_that_it_answers() -> None:
    from gateway.web import pages as module
    from gateway.web.routes import PAGES

    first = (module.__doc__ or "").split("\n")[0]
    assert all(f"`{route.path}`" in first for route in PAGES)


def test_a_key_sees_the_models_that_it_may_ask_for() -> None:
    limited = replace(CALLER, models=frozenset({"alias"}))
    assert [model["id"] for model in told(pages().show("models", limited, ""))["data"]] == ["alias"]
    assert pages().show("model", limited, "alias").status == 200
    with pytest.raises(Refused, match=r"Served: alias\."):
        pages().show("model", limited, "org/name")
    assert b'"alias"' in pages().show("welcome", limited, "").body


def test_health_tells_who_has_a_key_how_the_records_are() -> None:
    shown = Pages(Shown(), ping=lambda: 200, records=lambda: {"keys_file": "line 3: not TOML"})  # type: ignore[arg-type]
    assert told(shown.show("health", CALLER, ""))["keys_file"] == "line 3: not TOML"
    assert "keys_file" not in told(shown.show("health", STRANGER, ""))
