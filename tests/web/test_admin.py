"""Orders over HTTP: who may give which, what is answered, and that nothing is held and nobody's machine is started for
a stranger."""

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest

from gateway.conductor import Ticket
from gateway.policy.keys import Key
from gateway.policy.lifecycle.machine import TurnedAway
from gateway.policy.lifecycle.states import State
from gateway.providers.base import Profile, Ready
from gateway.web.admin import how_long
from gateway.web.auth import Keys
from gateway.web.gate import Gate
from gateway.web.routes import ADMIN
from tests.support.house import ADMIN_KEY, CHAT, KEY, House, answer, house

SPENT = TurnedAway("insufficient_quota", "The month's budget is spent; it renews on 1 December.", None)


@dataclass(frozen=True)
class Told:
    status: int
    head: str
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        return str(self.json["error"]["code"])


async def ask(
    h: House, method: str, target: str, key: str | None = ADMIN_KEY, body: object | None = None, headers: str = ""
) -> Told:
    payload = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"{method} {target} HTTP/1.1", "Host: x", "Connection: close"]
    if key is not None:
        lines.append(f"Authorization: Bearer {key}")
    if body is not None:
        lines += ["Content-Type: application/json", f"Content-Length: {len(payload)}"]
    reply = await h.raw(("\r\n".join(lines) + f"\r\n{headers}\r\n").encode() + payload)
    head, _, rest = reply.partition(b"\r\n\r\n")
    return Told(int(head.split(b" ")[1]), head.decode(), rest)


def in_flight(h: House, request: str = "r") -> Ticket:
    verdict = h.conductor.admit(request, size=1)
    assert isinstance(verdict, Ticket)
    return verdict


# --- POST /wake


async def test_a_wake_starts_it_and_is_answered_at_once_with_how_long_it_takes() -> None:
    async with house(ready_at_once=False, usual_start=40.0) as h:
        told = await ask(h, "POST", "/wake", KEY)
        assert (told.status, told.json["state"], told.json["ready"]) == (200, "starting", False)
        assert 0 < told.json["expected_seconds"] <= 40.0
        assert told.json["progress"]["phase"] == "ordered"
        assert "Content-Type: application/json" in told.head
        await h.until(lambda: h.provider.starts == 1)
        assert h.said == ["woken by the key test"]
        again = await ask(h, "POST", "/wake", KEY, body={})
        assert again.json["state"] == "starting" and h.provider.starts == 1 and len(h.said) == 1
        h.provider.tell(Ready())
        await h.until(lambda: h.state is State.READY)
        ready = (await ask(h, "POST", "/wake", KEY)).json
        assert ready == {"state": "ready", "ready": True, "expected_seconds": 0.0, "progress": None}


async def test_a_wake_says_when_nobody_can_tell_how_long_it_takes() -> None:
    async with house(ready_at_once=False) as h:
        assert (await ask(h, "POST", "/wake", KEY)).json["expected_seconds"] is None


@pytest.mark.parametrize("key", [None, "wrong", ADMIN_KEY])
async def test_a_wake_needs_the_key_of_a_caller(key: str | None) -> None:
    async with house(ready_at_once=False, admin=True) as h:
        told = await ask(h, "POST", "/wake", key)
        assert (told.status, told.code) == (401, "invalid_api_key")
        assert (h.provider.starts, h.state) == (0, State.STOPPED)


async def test_a_web_page_wakes_nothing_where_keys_are_off() -> None:
    gate = lambda: Gate(keys=Keys([]), admin=Keys([]))  # noqa: E731
    async with house(ready_at_once=False, gate=gate) as h:
        told = await ask(h, "POST", "/wake", None, headers="Origin: http://evil.example\r\n")
        assert told.status == 403 and h.provider.starts == 0
        assert (await ask(h, "POST", "/wake", None)).status == 200
        assert h.said == ["woken by a caller"]


async def test_a_key_wakes_only_what_it_may_ask_for_and_within_its_limits() -> None:
    keys = [
        replace(Key.of("other", "sk-other"), models=frozenset({"elsewhere"})),
        replace(Key.of("chat", "sk-chat"), routes=frozenset({"/v1/chat/completions"})),
        replace(Key.of("waker", "sk-waker"), routes=frozenset({"/wake"})),
    ]
    gate = lambda: Gate(keys=Keys(keys), admin=Keys([]))  # noqa: E731
    async with house(ready_at_once=False, gate=gate) as h:
        for key in ("sk-other", "sk-chat"):
            told = await ask(h, "POST", "/wake", key)
            assert (told.status, told.code) == (403, "forbidden")
        assert h.provider.starts == 0
        assert (await ask(h, "POST", "/wake", "sk-waker")).status == 200


async def test_a_wake_counts_as_one_of_its_keys_requests() -> None:
    keys = [replace(Key.of("slow", "sk-slow"), requests_per_minute=2)]
    gate = lambda: Gate(keys=Keys(keys), admin=Keys([]))  # noqa: E731
    async with house(ready_at_once=False, gate=gate) as h:
        answers = [await ask(h, "POST", "/wake", "sk-slow") for _ in range(3)]
        assert [told.status for told in answers] == [200, 200, 429]
        assert answers[2].code == "rate_limit_exceeded" and "Retry-After: " in answers[2].head


async def test_a_wake_that_may_not_be_paid_is_refused_as_a_request_is() -> None:
    async with house(ready_at_once=False, closed=lambda: SPENT) as h:
        told = await ask(h, "POST", "/wake", KEY)
        assert (told.status, told.code) == (429, "insufficient_quota")
        assert "x-should-retry: false" in told.head
        assert (h.provider.starts, h.state, h.said) == (0, State.STOPPED, [])


async def test_a_wake_is_a_post() -> None:
    async with house() as h:
        told = await ask(h, "GET", "/wake", KEY)
        assert told.status == 405 and "Allow: POST, OPTIONS" in told.head and h.provider.starts == 0


# --- who may give orders


@pytest.mark.parametrize("route", ADMIN, ids=lambda route: route.path)
async def test_without_an_admin_key_its_paths_are_not_there(route: Any) -> None:
    async with house() as h:
        method = route.methods[0]
        assert (await ask(h, method, route.path, KEY)).code == "route_not_found"
        unknown = await ask(h, method, "/admin/nothing", KEY)
        same = await ask(h, method, route.path, ADMIN_KEY)
        assert same.json == unknown.json and same.status == unknown.status == 404


@pytest.mark.parametrize("key", [None, "wrong", KEY])
@pytest.mark.parametrize("route", ADMIN, ids=lambda route: route.path)
async def test_only_the_admin_key_opens_them(route: Any, key: str | None) -> None:
    async with house(admin=True, ready_at_once=False) as h:
        told = await ask(h, route.methods[0], route.path, key, body={"for": "2h"})
        assert (told.status, told.code) == (401, "invalid_api_key")
        assert (h.provider.starts, h.said) == (0, [])


async def test_who_guesses_the_admin_key_is_told_to_wait() -> None:
    async with house(admin=True) as h:
        codes = [(await ask(h, "GET", "/admin/status", f"guess-{number}")).status for number in range(30)]
        assert codes[0] == 401 and codes[-1] == 429
        assert (await ask(h, "GET", "/admin/status")).status == 200, "a right one always passes"


async def test_only_the_callers_may_use_the_engine_the_admin_key_is_none_of_theirs() -> None:
    async with house(admin=True) as h:
        reply = await ask(h, "POST", "/v1/chat/completions", ADMIN_KEY, body=CHAT)
        assert reply.status == 401 and h.engine.received == []


# --- what is told


async def test_the_status_tells_the_operator_everything() -> None:
    money = {"budget": 20.0, "spent": 3.1}
    async with house(admin=True, money=lambda: money) as h:
        asleep = (await ask(h, "GET", "/admin/status")).json
        assert (asleep["state"], asleep["instance"], asleep["starts"]) == ("stopped", None, 0)
        with in_flight(h):
            await h.until(lambda: h.state is State.READY)
            told = (await ask(h, "GET", "/admin/status")).json
        assert told["instance"] == {
            "id": "stub-1",
            "name": "",
            "provider": "stub",
            "dollars_per_hour": 0.0,
            "started": "1970-01-01T00:00:00Z",
        }
        assert (told["in_flight"], told["waiting"], told["starts"], told["failures"]) == (1, 0, 1, 0)
        assert (told["models"], told["provider"], told["upstream"]) == (["served"], "stub", "default")
        assert told["money"] == money and told["warm_until"] is None
        assert "engine-key" not in json.dumps(told)
        assert (await ask(h, "HEAD", "/admin/status")).body == b""
        assert (await ask(h, "GET", "/admin/spend")).json == money


async def test_where_nothing_is_rented_nothing_is_spent() -> None:
    async with house(admin=True) as h:
        told = await ask(h, "GET", "/admin/spend")
        assert (told.status, told.code) == (404, "route_not_found") and "Nothing is rented" in told.body.decode()


# --- what is ordered


async def test_the_admin_wakes_and_puts_to_sleep() -> None:
    async with house(admin=True) as h:
        told = await ask(h, "POST", "/admin/wake")
        assert (told.status, told.json["state"]) == (200, "starting")
        await h.until(lambda: h.state is State.READY)
        told = await ask(h, "POST", "/admin/sleep")
        assert (told.status, told.json["state"]) == (200, "stopping")
        await h.until(lambda: h.state is State.STOPPED)
        assert (h.provider.starts, h.provider.stops) == (1, 1)
        assert h.said == ["woken by the admin key", "told to sleep by the admin key"]


async def test_nobody_is_put_to_sleep_under() -> None:
    async with house(admin=True) as h:
        with in_flight(h):
            await h.until(lambda: h.state is State.READY)
            told = await ask(h, "POST", "/admin/sleep")
            assert (told.status, told.code) == (409, "invalid_request")
            assert "1 in flight, 0 waiting" in told.body.decode()
            assert (h.state, h.provider.stops, h.said) == (State.READY, 0, [])


async def test_what_was_not_started_here_is_not_stopped_here() -> None:
    async with house(admin=True, profile=Profile(models=("served",), starts=False)) as h:
        assert (await ask(h, "POST", "/admin/sleep")).status == 409
        assert h.provider.stops == 0


@pytest.mark.parametrize(
    ("wish", "seconds"), [("2h", 7200), (7200, 7200), ("1h30m", 5400), (90.5, 90.5), ("7d", 604800)]
)
async def test_it_is_kept_warm_for_as_long_as_is_said(wish: object, seconds: float) -> None:
    async with house(admin=True, idle_timeout=0.05) as h:
        clock = asyncio.get_running_loop().time
        before = clock()
        told = await ask(h, "POST", "/admin/keep-warm", body={"for": wish})
        assert (told.status, told.json["warm_by"]) == (200, "keep-warm")
        until = h.conductor.snapshot().warm_until
        assert until is not None and before + seconds <= until <= clock() + seconds
        await h.until(lambda: h.state is State.READY)
        assert h.provider.starts == 1


async def test_warmth_ends_when_it_is_told_to() -> None:
    async with house(admin=True, idle_timeout=0.05) as h:
        await ask(h, "POST", "/admin/keep-warm", body={"for": "2h"})
        await h.until(lambda: h.state is State.READY)
        told = await ask(h, "POST", "/admin/keep-warm", body={"for": "off"})
        assert told.json["warm_until"] is None
        await h.until(lambda: h.state is State.STOPPED)
        assert h.said == ["kept warm for 2h by the admin key", "no longer kept warm, says the admin key"]


async def test_sleep_ends_warmth_too() -> None:
    async with house(admin=True) as h:
        await ask(h, "POST", "/admin/keep-warm", body={"for": "2h"})
        await h.until(lambda: h.state is State.READY)
        assert (await ask(h, "POST", "/admin/sleep")).json["warm_until"] is None
        await h.until(lambda: h.state is State.STOPPED)
        assert h.provider.starts == 1


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        {},
        {"for": None},
        {"for": "soon"},
        {"for": -1},
        {"for": True},
        {"for": {}},
        {"for": "8d"},
    ],
)
async def test_what_is_no_time_changes_nothing(body: object) -> None:
    async with house(admin=True) as h:
        told = await ask(h, "POST", "/admin/keep-warm", body=body)
        assert (told.status, told.code, told.json["error"]["param"]) == (400, "invalid_request", "for")
        assert (h.provider.starts, h.conductor.snapshot().warm_until, h.said) == (0, None, [])


async def test_an_orders_body_is_small_and_json() -> None:
    async with house(admin=True) as h:
        assert (await ask(h, "POST", "/admin/keep-warm", body={"for": "x" * 5000})).status == 413
        assert (await ask(h, "POST", "/admin/keep-warm")).status == 415
        assert h.said == []


async def test_nothing_is_kept_warm_that_may_not_be_paid() -> None:
    async with house(admin=True, closed=lambda: SPENT) as h:
        for path in ("/admin/keep-warm", "/admin/wake"):
            assert (await ask(h, "POST", path, body={"for": "2h"})).code == "insufficient_quota"
        assert (h.provider.starts, h.said, h.conductor.snapshot().warm_until) == (0, [], None)


async def test_no_order_is_activity_or_has_a_line_of_its_own_in_the_request_log() -> None:
    async with house(admin=True, ready_at_once=False) as h:
        for method, path in (("POST", "/wake"), ("GET", "/admin/status"), ("POST", "/admin/wake")):
            await ask(h, method, path, KEY if path == "/wake" else ADMIN_KEY)
        assert h.conductor.snapshot().last_activity is None
        assert [(visit.route, visit.page) for visit in h.visits] == [
            ("", "/wake"),
            ("", "/admin/status"),
            ("", "/admin/wake"),
        ]


@pytest.mark.parametrize(
    ("text", "seconds"), [("2h", 7200.0), (" 90 ", 90.0), ("off", None), ("OFF", None), ("never", None), ("0", None)]
)
def test_how_long_is_said_as_settings_say_it(text: str, seconds: float | None) -> None:
    assert how_long(text) == seconds


# --- POST /chat


ANSWER = {"id": "c", "object": "chat.completion", "choices": [{"index": 0, "message": {"content": "hi"}}]}


async def test_a_prompt_is_answered_as_a_chat_completion() -> None:
    async with house(script=answer(ANSWER)) as h:
        told = await ask(h, "POST", "/chat", KEY, body={"prompt": "Hello", "temperature": 0.5})
        assert (told.status, told.json) == (200, ANSWER)
        seen = h.engine.received[0]
        assert seen.line == "POST /v1/chat/completions HTTP/1.1"
        assert seen.json == {"model": "served", "messages": [{"role": "user", "content": "Hello"}], "temperature": 0.5}
        assert h.visits[0].route == "/v1/chat/completions", "counted and logged as what it is"


async def test_a_long_prompt_arrives_whole() -> None:
    text = "ü" * 300_000
    async with house(script=answer(ANSWER), body_limit=1 << 21) as h:
        body = json.dumps({"prompt": text, "n": 1}, ensure_ascii=False).encode()
        assert (await ask(h, "POST", "/chat", KEY, body=body)).status == 200
        assert h.engine.received[0].json["messages"] == [{"role": "user", "content": text}]


@pytest.mark.parametrize(
    ("key", "body", "status"), [(None, {"prompt": "x"}, 401), (KEY, {"prompt": 5}, 400), (KEY, {}, 400)]
)
async def test_no_stranger_and_no_garbage_wakes_anything(key: str | None, body: object, status: int) -> None:
    async with house(ready_at_once=False) as h:
        assert (await ask(h, "POST", "/chat", key, body=body)).status == status
        assert h.provider.starts == 0


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_prompt_in_the_url_is_refused_and_says_where_it_belongs(method: str) -> None:
    async with house(ready_at_once=False) as h:
        told = await ask(h, method, "/chat?prompt=secret", KEY)
        assert (told.status, told.code) == (400, "invalid_request")
        assert "JSON body" in told.body.decode() and b"secret" not in told.body and h.provider.starts == 0
        assert (await ask(h, "GET", "/chat", KEY)).json["error"]["message"] == "/chat takes POST, OPTIONS."


async def test_it_is_held_and_streams_as_a_chat_does() -> None:
    async with house(ready_at_once=False) as h:
        reader, writer = await asyncio.open_connection("127.0.0.1", h.port)
        writer.write(h.request({"prompt": "x", "stream": True}, path="/chat"))
        assert b"Content-Type: text/event-stream" in await reader.readuntil(b"\r\n\r\n")
        await reader.readuntil(b": ")  # it is told what it waits for
        h.provider.tell(Ready())
        await reader.read()
        writer.close()
        assert h.engine.received[0].json["stream"] is True


@pytest.mark.parametrize(("routes", "status"), [("/chat", 200), ("/v1/chat/completions", 200), ("/v1/embeddings", 403)])
async def test_a_key_for_either_name_may_use_the_short_one(routes: str, status: int) -> None:
    key = replace(Key.of("k", KEY), routes=frozenset({routes}))
    gate: Callable[[], Gate] = lambda: Gate(keys=Keys([key]), admin=Keys([]))  # noqa: E731
    async with house(script=answer(ANSWER), gate=gate) as h:
        assert (await ask(h, "POST", "/chat", KEY, body={"prompt": "x"})).status == status
        long_way = await ask(h, "POST", "/v1/chat/completions", KEY, body=CHAT)
        assert long_way.status == (200 if routes == "/v1/chat/completions" else 403)


async def test_an_engine_without_chats_has_no_short_form_of_them() -> None:
    profile = Profile(models=("served",), routes=frozenset({"/v1/embeddings"}))
    async with house(profile=profile) as h:
        assert (await ask(h, "POST", "/chat", KEY, body={"prompt": "x"})).code == "route_not_supported"


async def test_more_tokens_than_one_answer_may_have_are_refused_before_anything_is_woken() -> None:
    async with house(ready_at_once=False, output_tokens=100) as h:
        told = await ask(h, "POST", "/v1/chat/completions", KEY, body=CHAT | {"max_tokens": 101})
        assert (told.status, told.json["error"]["param"]) == (400, "max_tokens")
        assert "MAX_OUTPUT_TOKENS" in told.body.decode() and h.provider.starts == 0


async def test_who_names_no_limit_of_tokens_gets_the_operators() -> None:
    async with house(script=answer(ANSWER), output_tokens=100) as h:
        await ask(h, "POST", "/chat", KEY, body={"prompt": "x"})
        assert h.engine.received[0].json["max_tokens"] == 100
