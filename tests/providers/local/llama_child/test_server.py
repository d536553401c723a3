"""HTTP: every wrong request is an answer of its own in OpenAI's shape, and the engine survives all of them."""

import asyncio
import io
from typing import Any

import pytest

from tests.support.llama import Child

pytestmark = pytest.mark.engine

HELLO = [{"role": "user", "content": "Hello"}]
CHAT, COMPLETION, EMBEDDING = "/v1/chat/completions", "/v1/completions", "/v1/embeddings"

DEEP: dict[str, Any] = {"type": "object"}
for _ in range(100):
    DEEP = {"type": "object", "properties": {"a": DEEP}}


def schema(value: dict[str, Any]) -> dict[str, Any]:
    return {"messages": HELLO, "response_format": {"type": "json_object", "schema": value}, "max_tokens": 1}


BAD: list[tuple[str, object, int, str | None]] = [
    (CHAT, b"", 400, None),
    (CHAT, b"{", 400, None),
    (CHAT, b"[]", 400, None),
    (CHAT, b"\xff\xfe", 400, None),
    (CHAT, b'{"messages":[{"role":"user","content":"x"}],"temperature":NaN}', 400, None),
    (CHAT, b'{"messages":[{"role":"user","content":"\\ud800"}]}', 400, None),
    (CHAT, b"[" * 100_000, 400, None),
    (CHAT, {}, 400, "messages"),
    (CHAT, {"messages": HELLO, "max_tokens": "x"}, 400, "max_tokens"),
    (CHAT, {"messages": HELLO, "n": 3}, 400, "n"),
    (CHAT, {"messages": HELLO, "chat_template": "{{ 7 * 7 }}"}, 400, "chat_template"),
    (CHAT, {"messages": HELLO, "grammar": "root ::= missing"}, 400, "grammar"),
    (CHAT, {"messages": HELLO, "grammar": "root ::= root"}, 400, "grammar"),
    (CHAT, {"messages": HELLO, "grammar": ""}, 400, "grammar"),
    (CHAT, {"messages": HELLO, "grammar": "root ::= <[999999]>"}, 400, "grammar"),
    (CHAT, {"messages": HELLO, "grammar": "x" * 70_000}, 400, "grammar"),
    (CHAT, {"messages": HELLO, "logit_bias": {"999999": 1}}, 400, "logit_bias"),
    (CHAT, schema({"$ref": "https://example.org/schema.json"}), 400, "response_format"),
    (CHAT, schema({"$ref": "#/nowhere"}), 400, "response_format"),
    (CHAT, schema({"type": "string", "maxLength": 1_000_000_000}), 400, "response_format"),
    (CHAT, schema({"type": "string", "pattern": "^((a{999}){999}){999}$"}), 400, "response_format"),
    (CHAT, schema({"type": "spaghetti"}), 400, "response_format"),
    (CHAT, schema(DEEP), 400, "response_format"),
    (CHAT, schema({"enum": ["x" * 70_000]}), 400, "response_format"),
    (COMPLETION, {"prompt": ""}, 400, "prompt"),
    (COMPLETION, {"prompt": [999_999]}, 400, "prompt"),
    (COMPLETION, {"prompt": ["a", "b"]}, 400, "prompt"),
    (COMPLETION, {"prompt": "x", "best_of": 2}, 400, "best_of"),
    (COMPLETION, {"prompt": "x" * 3000}, 400, "prompt"),
    (COMPLETION, {"prompt": "x" * 3000, "stream": True}, 400, "prompt"),
    (EMBEDDING, {"input": ""}, 400, "input"),
    (EMBEDDING, {"input": ["a", ""]}, 400, "input[1]"),
    (EMBEDDING, {"input": [[999_999]]}, 400, "input"),
    (EMBEDDING, {"input": "x" * 3000}, 400, "input"),
    ("/v1/nonsense", {}, 404, None),
    ("/v1/models", {}, 405, None),
]


@pytest.mark.parametrize(("route", "body", "status", "param"), BAD, ids=lambda value: str(value)[:40])
async def test_a_bad_request_is_its_own_error_and_nothing_breaks(
    child: Child, route: str, body: object, status: int, param: str | None
) -> None:
    answered, answer = await child.post(route, body)
    assert answered == status, answer
    error = answer["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    assert error["param"] == param
    assert "/" not in error["message"].replace("</", ""), "no path of this machine"
    assert (await child.get("/health"))[0] == 200


async def test_a_path_that_it_has_not_is_no_missing_model(child: Child) -> None:
    """The gateway keeps an engine's code, and takes a 404 without one for the model's (ALLOWED_PATHS leads here)."""
    answered, answer = await child.post("/v1/nonsense", {})
    assert (answered, answer["error"]["code"]) == (404, "route_not_supported")


async def test_a_prompt_longer_than_the_context_says_the_numbers(child: Child) -> None:
    for body in ({"prompt": "x" * 3000}, {"prompt": "x" * 3000, "stream": True}):
        _, answer = await child.post(COMPLETION, body)
        assert answer["error"]["code"] == "context_length_exceeded"
        assert "2048" in answer["error"]["message"]
        assert "3000" in answer["error"]["message"]


async def test_a_prompt_that_cannot_fit_is_refused_before_it_is_cut_into_tokens(child: Child) -> None:
    """The tokenizer's time grows with the square of the length, and nothing stops it: everybody would wait."""
    text = "\U0001f600" * 80_000
    for route, body, param in (
        (COMPLETION, {"prompt": text}, "prompt"),
        (CHAT, {"messages": [{"role": "user", "content": text}]}, "messages"),
        (CHAT, {"messages": [{"role": "user", "content": text}], "stream": True}, "messages"),
        (EMBEDDING, {"input": text}, "input"),
        (EMBEDDING, {"input": ["Hello", text]}, "input[1]"),
    ):
        _, answer = await child.post(route, body)
        assert (answer["error"]["code"], answer["error"]["param"]) == ("context_length_exceeded", param)
        assert "at least" in answer["error"]["message"]


async def test_an_answer_ends_where_the_context_does(child: Child) -> None:
    _, answer = await child.post(COMPLETION, {"prompt": [300] * 2000, "max_tokens": 500, "temperature": 0})
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"]["total_tokens"] == 2048


async def test_a_body_too_large_is_413(child: Child) -> None:
    async with child.client() as session, session.post(CHAT, data=io.BytesIO(bytes((64 << 20) + 10))) as answer:
        assert answer.status == 413
        assert (await answer.json())["error"]["type"] == "invalid_request_error"


async def test_no_sampling_makes_native_code_fall(child: Child) -> None:
    """Values at the ends of what is allowed; a crash would be the end of everybody's answers."""
    edges: list[dict[str, Any]] = [
        {"temperature": 100},
        {"temperature": 1e-4},
        {"top_p": 0, "min_p": 1},
        {"top_k": -1},
        {"top_k": 1 << 30},
        {"repeat_penalty": 0.01},
        {"repeat_penalty": 100, "frequency_penalty": 2, "presence_penalty": -2},
        {"mirostat_mode": 1, "mirostat_tau": 0, "mirostat_eta": 1},
        {"mirostat_mode": 2, "mirostat_tau": 0},
        {"seed": -(1 << 63)},
        {"seed": (1 << 64) - 1},
        {"logit_bias": {"300": 100, "301": -100}, "min_tokens": 3},
        {"logit_bias": {" ba": 5}, "logit_bias_type": "tokens"},
        {"stop": ["\u0000", "☺"]},
        {"max_tokens": 1, "prompt": "a\u0000b\U0001f600"},
        {"max_tokens": 0, "prompt": [300] * 2030},
    ]
    for more in edges:
        status, answer = await child.post(COMPLETION, {"prompt": "x", "max_tokens": 6, **more})
        assert status == 200, (more, answer)
        assert answer["usage"]["completion_tokens"] > 0


async def test_streams_have_the_heads_that_proxies_need(child: Child) -> None:
    async with child.client() as session:
        body = {"prompt": "x", "max_tokens": 2, "stream": True}
        async with session.post(COMPLETION, json=body) as answer:
            assert answer.headers["Cache-Control"] == "no-cache"
            assert answer.headers["X-Accel-Buffering"] == "no"
            assert answer.headers["Connection"] == "close"
            await answer.read()


async def test_health_answers_while_the_engine_works(child: Child) -> None:
    """The package's Python parts share the interpreter with the event loop; it must not starve."""
    loop = asyncio.get_running_loop()
    work = asyncio.create_task(child.post(COMPLETION, {"prompt": "x", "max_tokens": 1500}))
    await child.until(busy=True)
    times = []
    while not work.done() and len(times) < 50:
        began = loop.time()
        _, health = await child.get("/health")
        times.append(loop.time() - began)
        assert health["status"] == "ok"
    await work
    assert sorted(times)[len(times) // 2] < 0.05


async def test_requests_at_once_are_all_answered_in_turn(child: Child) -> None:
    """The package's server would cut the first streams for the later ones."""
    body = {"prompt": "x", "max_tokens": 100, "temperature": 0}
    _, alone = await child.post(COMPLETION, body)
    answers = await asyncio.gather(*(child.stream(COMPLETION, body) for _ in range(8)))
    for chunks in answers:
        assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == alone["choices"][0]["text"]
