"""What passes between caller and engine beside the body, and an engine's errors in our shape."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.proxy.headers import TEXT_MAX, answer_headers, error_from_engine, error_in_stream, upstream_headers

# -- headers -----------------------------------------------------------------------------------------------------------


def test_only_listed_headers_reach_the_engine() -> None:
    sent = [
        ("Host", "evil.example"),
        ("Authorization", "Bearer caller"),
        ("X-API-Key", "caller"),
        ("api-key", "caller"),
        ("Cookie", "a=b"),
        ("Connection", "keep-alive, Accept"),
        ("Transfer-Encoding", "chunked"),
        ("Content-Length", "5"),
        ("Content-Encoding", "identity"),
        ("Accept-Encoding", "gzip"),
        ("Expect", "100-continue"),
        ("Upgrade", "h2c"),
        ("TE", "trailers"),
        ("Range", "bytes=0-1"),
        ("X-Request-Id", "http://169.254.169.254/"),
        ("X-Forwarded-For", "1.2.3.4"),
        ("Forwarded", "for=1.2.3.4"),
        ("X-Real-IP", "1.2.3.4"),
        ("User-Agent", "curl"),
        ("x-stainless-lang", "python"),
        ("content_type", "text/plain"),
        ("anthropic_beta", "evil"),
        ("Content-Type", "application/json"),
        ("ACCEPT", "text/event-stream"),
        ("anthropic-version", "2023-06-01"),
        ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
    ]
    assert upstream_headers(sent) == [
        ("Content-Type", "application/json"),
        ("Accept", "text/event-stream"),
        ("anthropic-version", "2023-06-01"),
        ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
    ]


def test_repeated_lists_are_joined_and_of_anything_else_the_first_counts() -> None:
    sent = [("Content-Type", "a/b"), ("anthropic-beta", "x"), ("content-type", "c/d"), ("Anthropic-Beta", "y")]
    assert upstream_headers(sent) == [("Content-Type", "a/b"), ("anthropic-beta", "x, y")]


@pytest.mark.parametrize("value", ["a\r\nX: y", "a\nb", "a\0", "ä", "a\x7f", "x" * 2049, "\ud83d"])
def test_a_value_with_controls_or_too_long_does_not_pass_either_way(value: str) -> None:
    assert upstream_headers([("Accept", value)]) == []
    assert answer_headers([("X-RateLimit-Limit", value), ("Content-Type", value)]) == []


def test_only_listed_headers_of_an_engine_reach_the_caller_and_several_stay_several() -> None:
    said = [
        ("Content-Type", "application/json"),
        ("Set-Cookie", "a=b"),
        ("Server", "uvicorn"),
        ("Connection", "close"),
        ("Keep-Alive", "timeout=5"),
        ("Transfer-Encoding", "chunked"),
        ("Content-Length", "5"),
        ("Content-Encoding", "gzip"),
        ("Location", "http://x"),
        ("Access-Control-Allow-Origin", "*"),
        ("X-Request-Id", "theirs"),
        ("Date", "x"),
        ("Warning", "199 - one"),
        ("X-RateLimit-Remaining-Requests", "7"),
        ("Warning", "199 - two"),
        ("openai-processing-ms", "12"),
        ("Retry-After", "3"),
    ]
    assert answer_headers(said) == [
        ("Content-Type", "application/json"),
        ("Warning", "199 - one"),
        ("X-RateLimit-Remaining-Requests", "7"),
        ("Warning", "199 - two"),
        ("openai-processing-ms", "12"),
        ("Retry-After", "3"),
    ]


def test_a_listed_prefix_does_not_let_an_odd_name_through() -> None:
    assert answer_headers([("x-ratelimit-a b", "1"), ("x-ratelimit-:", "1"), ("x-ratelimit-ok", "1")]) == [
        ("x-ratelimit-ok", "1")
    ]


# -- errors ------------------------------------------------------------------------------------------------------------


def error(status: int, body: object, content_type: str = "application/json") -> tuple[int, dict[str, object]]:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    answer = error_from_engine(status, content_type, raw)
    said = json.loads(answer.body)["error"]
    assert {"message", "type", "param", "code"} <= set(said)
    assert isinstance(said["message"], str)
    assert isinstance(said["type"], str)
    assert answer.refusal.message == said["message"]
    return answer.status, said


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (  # OpenAI, vLLM
            400,
            {
                "error": {
                    "message": "max_tokens is too large",
                    "type": "BadRequestError",
                    "param": "max_tokens",
                    "code": 400,
                }
            },
            (400, "max_tokens is too large", "BadRequestError", "max_tokens", "invalid_request"),
        ),
        (  # vLLM, older
            404,
            {"object": "error", "message": "The model `x` does not exist.", "type": "NotFoundError", "code": 404},
            (404, "The model `x` does not exist.", "NotFoundError", None, "model_not_found"),
        ),
        (  # llama-server
            501,
            {
                "error": {
                    "code": 501,
                    "message": "This server does not support embeddings.",
                    "type": "not_supported_error",
                }
            },
            (501, "This server does not support embeddings.", "not_supported_error", None, "backend_error"),
        ),
        (  # llama-server, a prompt beyond its context
            400,
            {
                "error": {
                    "code": 400,
                    "message": "request (8193 tokens) exceeds the available context size (8192 tokens)",
                    "type": "exceed_context_size_error",
                    "n_ctx": 8192,
                }
            },
            (
                400,
                "request (8193 tokens) exceeds the available context size (8192 tokens)",
                "exceed_context_size_error",
                None,
                "context_length_exceeded",
            ),
        ),
        (  # llama-server, loading
            503,
            {"error": {"message": "Loading model", "type": "unavailable_error", "code": 503}},
            (503, "Loading model", "unavailable_error", None, "backend_error"),
        ),
        (  # FastAPI
            404,
            {"detail": "Not Found"},
            (404, "Not Found", "invalid_request_error", None, "route_not_supported"),
        ),
        (
            422,
            {"detail": [{"loc": ["body", "messages"], "msg": "Field required", "input": {"secret": 1}}]},
            (422, "messages: Field required", "invalid_request_error", "messages", "invalid_request"),
        ),
        (  # Anthropic
            429,
            {"type": "error", "error": {"type": "rate_limit_error", "message": "slow down"}},
            (429, "slow down", "rate_limit_error", None, "rate_limit_exceeded"),
        ),
        (500, {"error": "broken"}, (500, "broken", "server_error", None, "backend_error")),
        (500, {}, (500, "The engine answered with status 500.", "server_error", None, "backend_error")),
        (
            400,
            {"error": None},
            (400, "The engine answered with status 400.", "invalid_request_error", None, "invalid_request"),
        ),
    ],
    ids=lambda value: str(value)[:50],
)
def test_an_engines_json_error_keeps_status_and_message(
    status: int, body: object, expected: tuple[int, str, str, str | None, str]
) -> None:
    got, said = error(status, body)
    assert (got, said["message"], said["type"], said["param"], said["code"]) == expected


@pytest.mark.parametrize(
    ("status", "code"),
    [(400, "invalid_request"), (422, "invalid_request"), (500, "backend_error"), (503, "backend_error")],
)
def test_in_a_stream_the_code_tells_whose_mistake_it_is(status: int, code: str) -> None:
    """Where no status can be said any more; a caller's mistake there is no failure of the engine's."""
    refusal = error_from_engine(status, "application/json", b'{"error": {"message": "x", "code": 1}}').refusal
    assert (refusal.code, refusal.status) == (code, status)


def test_what_else_an_error_object_holds_stays() -> None:
    """llama-server says how long the prompt was; clients use it."""
    said = error(400, {"error": {"message": "too long", "n_prompt_tokens": 9000, "n_ctx": 4096, "code": "exceeds"}})[1]
    assert (said["n_prompt_tokens"], said["n_ctx"], said["code"]) == (9000, 4096, "exceeds")


@pytest.mark.parametrize("status", [100, 101, 200, 204, 301, 302, 307, 399, 600, 999, 0])
def test_a_status_that_is_no_error_is_a_protocol_error(status: int) -> None:
    got, said = error(status, {"error": {"message": "x"}})
    assert (got, said["code"]) == (502, "backend_protocol_error")


@pytest.mark.parametrize("status", [401, 407])
def test_an_engine_that_refuses_our_key_is_not_the_callers_fault(status: int) -> None:
    got, said = error(status, {"error": {"message": "Incorrect API key provided: sk-ours"}})
    assert (got, said["code"]) == (502, "backend_error")
    assert "sk-ours" not in str(said)


HTML = (
    b"<!DOCTYPE html><html><head><title>x</title><style>b{}</style></head>"
    b"<body><h1>Bad &amp; Gateway</h1><script>alert(1)</script></body>"
)


@pytest.mark.parametrize("status", [400, 404, 413, 418, 500, 502, 503, 504])
def test_html_and_text_are_wrapped_without_markup(status: int) -> None:
    for content_type, body in (
        ("text/html", HTML),
        ("text/plain", b"<b onclick=x>Bad</b> thing <"),
        ("", b"\xff\x00\x1b"),
    ):
        got, said = error(status, body, content_type)
        assert got == (status if status < 500 else 502)
        assert "<" not in str(said["message"])
        assert "alert" not in str(said["message"])
        assert "\x1b" not in str(said["message"])
    assert error(status, b"", "")[0] == (status if status < 500 else 502)


TRACE = (
    'Traceback (most recent call last):\n  File "/usr/lib/python3.11/site.py", line 5, in f\n    x()\nValueError: no'
)


@pytest.mark.parametrize(
    "body",
    [
        TRACE.encode(),
        b"Internal Server Error\n" + TRACE.encode(),
        json.dumps({"error": {"message": TRACE}}).encode(),
        json.dumps({"error": {"message": "failed", "extra": {"trace": [TRACE]}}}).encode(),
        json.dumps({"detail": TRACE}).encode(),
        json.dumps({"detail": [{"loc": ["body"], "msg": TRACE}]}).encode(),
        json.dumps({"error": {"message": 'File "/srv/app/x.py", line 12, in g'}}).encode(),
        json.dumps({"error": {"message": "cannot open /root/.cache/huggingface/hub/model.gguf"}}).encode(),
        json.dumps({"error": {"message": "at ~/models/a.gguf or ../secret/b or C:\\\\Users\\\\me\\\\x"}}).encode(),
        json.dumps({"error": {"message": "x", "type": "/opt/venv/lib/x.py", "code": "/a/b", "/etc/x/y": 1}}).encode(),
        b"Error: x\n    at Object.<anonymous> (/srv/app/index.js:3:9)",
        b"file:///etc/ssl/private",
    ],
    ids=lambda body: repr(body[:50]),
)
@pytest.mark.parametrize("status", [400, 500])
def test_no_traceback_and_no_file_path_passes(body: bytes, status: int) -> None:
    said = str(error(status, body)[1])
    for leak in ("Traceback", ".py", "/usr", "/root", "/srv", "/opt", "/etc", "Users", "secret", "models", "line 1"):
        assert leak not in said


@pytest.mark.parametrize(
    "message",
    [
        "use /v1/chat/completions instead",
        "see https://docs.vllm.ai/en/latest/models.html",
        "The model `org/name` does not exist",
        "either/or, 3/4 of 10 tokens/s, and/or/not",
        "dtype float16/bfloat16",
    ],
)
def test_routes_urls_and_names_are_not_taken_for_paths(message: str) -> None:
    assert error(400, {"error": {"message": message}})[1]["message"] == message


def test_a_long_text_is_cut_and_cut_json_is_not_shown() -> None:
    assert len(str(error(500, b"word " * 13_000, "text/plain")[1]["message"])) <= TEXT_MAX + 100
    assert len(str(error(400, {"error": {"message": "m" * 60_000}})[1]["message"])) == TEXT_MAX
    assert (
        error(400, b'{"error":{"message":"cut off')[1]["message"] == "The engine refused the request with status 400."
    )


@given(st.integers(0, 1000), st.binary(max_size=300) | st.text(alphabet='<>{}[]":/\\aé ', max_size=200).map(str.encode))
def test_any_answer_becomes_a_json_error(status: int, body: bytes) -> None:
    got, said = error(status, body)
    assert 400 <= got <= 599
    assert "Traceback" not in str(said)


@given(
    st.recursive(
        st.none() | st.text(max_size=8) | st.integers(),
        lambda i: (
            st.lists(i)
            | st.dictionaries(st.sampled_from(["error", "message", "detail", "msg", "loc", "type", "code", "param"]), i)
        ),
    )
)
def test_any_json_becomes_a_json_error(document: object) -> None:
    error(500, document)


def test_hostile_text_is_cleaned_quickly() -> None:
    """64 KiB that make careless patterns backtrack: each is cleaned well within a second."""
    for unit in (b"<script", b"/a", b"<!--", b"< ", b"a/ ", b"\n   at a", b'File "', b"C:\\", b"../"):
        error(500, unit * (65536 // len(unit)), "text/html")


@pytest.mark.parametrize(
    ("event", "status", "code", "message"),
    [
        (b'{"error":{"message":"x"}}', 502, "backend_error", "x"),
        (b'{"error":{"message":"x","code":500}}', 502, "backend_error", "x"),
        (b'{"error":{"message":"x","code":400}}', 400, "invalid_request", "x"),
        (b'{"error":{"message":"our key","code":401}}', 502, "backend_error", "our key"),
        (b'{"error":{"message":"x","code":true}}', 502, "backend_error", "x"),
        (b"not json", 502, "backend_error", "The engine failed in the middle of this answer."),
    ],
)
def test_an_error_in_a_stream_has_the_status_that_the_engine_names_if_it_is_the_callers(
    event: bytes, status: int, code: str, message: str
) -> None:
    refusal = error_in_stream(event)
    assert (refusal.status, refusal.code, refusal.message) == (status, code, message)
