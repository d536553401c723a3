"""Before the door: which answers a caller gets for where it comes from, its key, and what is left of its limits."""

import asyncio
import json

import pytest

from gateway.policy.keys import Key
from gateway.policy.lifecycle.states import State
from gateway.providers.base import Ready
from gateway.web.auth import Keys
from gateway.web.cors import Cors
from gateway.web.gate import Gate
from gateway.web.peers import Peers
from tests.support.house import CHAT, STREAMED, House, answer, event, house, stream
from tests.support.wire import ANSWERED, FIN, Heard, get_page, talk

SECRET = "sk-limited-0123456789"
CHAT_PATH = "/v1/chat/completions"
PAGE = "https://chat.example"
USED = {"choices": [], "usage": {"prompt_tokens": 30, "completion_tokens": 12, "total_tokens": 42}}


def limited(**limits: object) -> Gate:
    """In front of which no time passes: a slow machine gives nothing back meanwhile."""
    key = Key("alice", Key.of("alice", SECRET).digest, **limits)  # type: ignore[arg-type]
    return Gate(keys=Keys([key]), admin=Keys([]), clock=lambda: 1000.0)


def asking(h: House, body: object = CHAT, *, key: str = SECRET, headers: str = "", path: str = "") -> bytes:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return (
        f"POST {path or '/v1/chat/completions'} HTTP/1.1\r\nHost: 127.0.0.1:{h.port}\r\nX-API-Key: {key}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n{headers}\r\n"
    ).encode() + data


async def ask(h: House, *args: object, headers: str = "", **more: object) -> Heard:
    """To the end of the answer: who closes its side earlier has left."""
    return await talk(h.port, asking(h, *args, headers=f"Connection: close\r\n{headers}", **more))  # type: ignore[arg-type]


def code(heard: Heard) -> str:
    return str(json.loads(heard.only.body)["error"]["code"])


# --- limits


async def test_a_key_over_its_limit_is_told_when_to_come_back() -> None:
    async with house(gate=lambda: limited(requests_per_minute=2)) as h:
        for left in ("1", "0"):
            heard = await ask(h)
            assert heard.only.status == 200
            assert heard.only.header("x-ratelimit-remaining-requests") == left
        refused = await ask(h)
        assert (refused.only.status, code(refused)) == (429, "rate_limit_exceeded")
        assert refused.only.header("Retry-After") == "30"
        assert refused.only.header("x-ratelimit-limit-requests") == "2"
        assert refused.only.header("x-should-retry") == "true"
        assert len(h.engine.received) == 2


async def test_what_a_stream_used_is_taken_from_the_tokens_of_the_minute() -> None:
    last = b"data: " + json.dumps(USED).encode() + b"\n\n"
    async with house(script=stream(event("a", "stop"), last), gate=lambda: limited(tokens_per_minute=1000)) as h:
        first = await ask(h, STREAMED | {"max_tokens": 100})
        assert first.only.header("x-ratelimit-remaining-tokens") == "900"
        await h.until(lambda: h.conductor.snapshot().in_flight == 0)
        second = await ask(h, STREAMED | {"max_tokens": 100})
        assert second.only.header("x-ratelimit-remaining-tokens") == "858"
        (visit, _) = h.visits
        assert visit.reply is not None and visit.reply.usage is not None and visit.reply.usage.total == 42


async def test_a_stream_that_says_nothing_of_tokens_is_counted_by_its_events() -> None:
    """Else whoever asks for no usage and names no maximum would have no limit."""
    script = stream(*[event("x")] * 49, event("", "stop"))
    async with house(script=script, gate=lambda: limited(tokens_per_minute=1000)) as h:
        await ask(h, STREAMED)
        await h.until(lambda: h.conductor.snapshot().in_flight == 0)
        assert (await ask(h, STREAMED)).only.header("x-ratelimit-remaining-tokens") == str(1000 - 51 - 1)


async def test_a_request_that_is_sent_back_while_it_wakes_is_counted_once_however_often_it_comes() -> None:
    async with house(ready_at_once=False, hold_max=0.2, gate=lambda: limited(requests_per_minute=1)) as h:
        for _ in range(3):
            heard = await ask(h)
            assert (heard.only.status, code(heard)) == (503, "loading")
            assert heard.only.header("x-ratelimit-remaining-requests") == "0", "kept for it"
        h.provider.tell(Ready(models=("served",)))
        await h.until(lambda: h.state is State.READY)
        assert (await ask(h)).only.status == 200
        assert code(await ask(h)) == "rate_limit_exceeded"


async def test_so_many_at_once_counts_those_who_wait_too() -> None:
    async with house(ready_at_once=False, hold_max=5, gate=lambda: limited(max_concurrent=1)) as h:
        first = asyncio.ensure_future(ask(h))
        await h.until(lambda: h.conductor.snapshot().waiting == 1)
        assert code(await ask(h)) == "rate_limit_exceeded"
        h.provider.tell(Ready(models=("served",)))
        assert (await first).only.status == 200
        assert (await ask(h)).only.status == 200


async def test_a_caller_who_leaves_gives_its_place_among_those_at_once_back() -> None:
    async with house(ready_at_once=False, gate=lambda: limited(max_concurrent=1)) as h:
        _, writer = await asyncio.open_connection("127.0.0.1", h.port)
        writer.write(asking(h))
        await h.until(lambda: h.conductor.snapshot().waiting == 1)
        writer.transport.abort()
        await h.until(lambda: h.conductor.snapshot().waiting == 0)
        h.provider.tell(Ready(models=("served",)))
        assert (await ask(h)).only.status == 200


async def test_a_key_for_some_models_and_routes_gets_403_for_others() -> None:
    gate = limited(models=frozenset({"served"}), routes=frozenset({"/v1/chat/completions"}))
    async with house(gate=lambda: gate) as h:
        assert (await ask(h)).only.status == 200
        assert code(await ask(h, CHAT | {"model": "other"})) == "forbidden"
        assert (await ask(h, {"messages": CHAT["messages"]})).only.status == 200, "the usual one is listed"
        assert code(await ask(h, {"input": "x"}, path="/v1/embeddings")) == "forbidden"
        assert len(h.engine.received) == 2
        refused = h.visits[-1]
        assert (refused.key, refused.route, refused.code) == ("alice", "/v1/embeddings", "forbidden")


async def test_the_line_knows_whose_key_it_was() -> None:
    async with house(gate=limited) as h:
        await ask(h)
        (visit,) = h.visits
        assert (visit.key, visit.model, visit.state, visit.ended_by) == ("alice", "served", "stopped", "engine")
        assert visit.bytes_in > 10 and visit.reached_engine


# --- wrong keys


async def test_the_21st_wrong_key_within_a_minute_is_429_and_a_right_one_still_passes() -> None:
    async with house(gate=limited) as h:
        said = [code(await ask(h, key=f"sk-wrong-{number}")) for number in range(22)]
        assert said == ["invalid_api_key"] * 20 + ["rate_limit_exceeded"] * 2
        assert (await ask(h)).only.status == 200
        assert h.provider.starts == 1


async def test_guessing_at_an_open_page_counts_as_well() -> None:
    async with house(gate=limited) as h:
        for number in range(21):
            assert (await get_page(h.port, "/health", f"X-API-Key: sk-wrong-{number}\r\n"))[0] == 200
        assert code(await ask(h, key="sk-wrong")) == "rate_limit_exceeded"


async def test_behind_a_trusted_proxy_each_caller_is_counted_apart() -> None:
    keys = Keys([Key.of("alice", SECRET)])
    async with house(gate=lambda: Gate(keys=keys, admin=Keys([]), peers=Peers(("private",)))) as h:
        for _ in range(21):
            await ask(h, key="sk-wrong", headers="X-Forwarded-For: 8.8.8.8\r\n")
        assert code(await ask(h, key="sk-wrong", headers="X-Forwarded-For: 8.8.8.8\r\n")) == "rate_limit_exceeded"
        assert code(await ask(h, key="sk-wrong", headers="X-Forwarded-For: 8.8.4.4\r\n")) == "invalid_api_key"


# --- web pages


async def test_every_answer_carries_what_a_browser_asks_for() -> None:
    keys = Keys([Key.of("alice", SECRET)])
    last = event("a", "stop")
    gate = lambda: Gate(keys=keys, admin=Keys([]), cors=Cors((PAGE,)))  # noqa: E731
    async with house(script=stream(last), gate=gate) as h:
        origin = f"Origin: {PAGE}\r\n"
        good = await ask(h, STREAMED, headers=origin)
        wrong = await ask(h, key="sk-wrong", headers=origin)
        bad = await ask(h, b"{", headers=origin)
        for heard, status in ((good, 200), (wrong, 401), (bad, 400)):
            assert (heard.only.status, heard.only.header("Access-Control-Allow-Origin")) == (status, PAGE)
        assert (await ask(h, headers="Origin: https://other.example\r\n")).only.header(
            "Access-Control-Allow-Origin"
        ) is None


async def test_a_preflight_of_the_sdk_is_granted_without_a_key() -> None:
    keys = Keys([Key.of("alice", SECRET)])
    async with house(gate=lambda: Gate(keys=keys, admin=Keys([]), cors=Cors((PAGE,)))) as h:
        heard = await talk(
            h.port,
            f"OPTIONS /v1/chat/completions HTTP/1.1\r\nHost: x\r\nOrigin: {PAGE}\r\n"
            "Access-Control-Request-Method: POST\r\n"
            "Access-Control-Request-Headers: authorization,content-type,x-stainless-lang\r\n\r\n".encode(),
            ANSWERED,
            FIN,
        )
        assert heard.only.status == 204
        head = heard.data.lower()
        assert head.count(b"access-control-allow-origin:") == head.count(b"vary:") == 1, "a browser takes none twice"
        assert heard.only.header("Access-Control-Allow-Origin") == PAGE
        assert "x-stainless-lang" in (heard.only.header("Access-Control-Allow-Headers") or "")
        assert h.provider.starts == 0


async def test_a_page_may_read_that_its_path_is_wrong() -> None:
    """A base URL without /v1 is what people get wrong most: refused at the preflight, it is a riddle in the console."""
    async with house(gate=lambda: Gate(keys=Keys([]), admin=Keys([]), cors=Cors((PAGE,)), origins=(PAGE,))) as h:
        begin = f"OPTIONS /chat/completions HTTP/1.1\r\nHost: x\r\nOrigin: {PAGE}\r\n"
        asked = await talk(h.port, f"{begin}Access-Control-Request-Method: POST\r\n\r\n".encode(), ANSWERED, FIN)
        assert (asked.only.status, asked.only.header("Access-Control-Allow-Origin")) == (204, PAGE)
        assert "POST" in (asked.only.header("Access-Control-Allow-Methods") or "")
        plain = await talk(h.port, f"{begin}\r\n".encode(), ANSWERED, FIN)
        assert plain.only.status == 404


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ("", 200),
        ("Origin: https://evil.example\r\n", 403),
        ("Origin: null\r\n", 403),
        ("Sec-Fetch-Site: cross-site\r\n", 403),
        (f"Origin: {PAGE}\r\n", 200),
    ],
)
async def test_with_keys_off_a_strangers_page_may_not_call(headers: str, status: int) -> None:
    gate = lambda: Gate(keys=Keys([]), admin=Keys([]), cors=Cors((PAGE,)), origins=(PAGE,))  # noqa: E731
    async with house(script=answer({"ok": True}), gate=gate) as h:
        assert (await ask(h, headers=headers)).only.status == status
        assert h.provider.starts == (1 if status == 200 else 0)


async def test_with_keys_off_a_name_that_was_rebound_to_us_is_refused() -> None:
    async with house(gate=lambda: Gate(keys=Keys([]), admin=Keys([]))) as h:
        request = asking(h, headers="Origin: http://evil.example:8000\r\n").replace(
            f"Host: 127.0.0.1:{h.port}".encode(), b"Host: evil.example:8000"
        )
        heard = await talk(h.port, request, ANSWERED, FIN)
        assert (heard.only.status, code(heard)) == (403, "forbidden")


# --- counted


async def test_each_reason_to_turn_somebody_away_is_counted_by_its_name() -> None:
    told: list[str] = []
    soon = Key("soon", Key.of("soon", "sk-expired-0123").digest, expires=1.0)
    alice = Key("alice", Key.of("alice", SECRET).digest, models=frozenset({"served"}), routes=frozenset({CHAT_PATH}))
    async with house(gate=lambda: Gate(keys=Keys([alice, soon]), admin=Keys([]), on_refused=told.append)) as h:
        await ask(h)
        await ask(h, key="")
        await ask(h, key="sk-wrong")
        await ask(h, key="sk-expired-0123")
        await ask(h, headers=f"X-API-Key: {SECRET}\r\n")
        await ask(h, {"input": "x"}, path="/v1/embeddings")
        await ask(h, CHAT | {"model": "other"})
    assert told == ["missing", "wrong", "expired", "doubled", "forbidden", "forbidden"]
    async with house(gate=lambda: Gate(keys=Keys([]), admin=Keys([]), on_refused=told.append)) as h:
        await ask(h, headers="Origin: https://evil.example\r\n")
    assert told[-1] == "browser"
