"""Secrets in what is written down: none, in whatever form."""

import asyncio
import base64
import json
import re
import sys
import threading
import urllib.parse
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.records.lines import json_line, text_line
from gateway.records.redact import _MARKS, _PATTERNS, GONE, Redactor, describe, hook_exceptions, loop_handler
from tests.support.ends import ended

SECRET = 'p@ss/w"rd+ü key'
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)


@pytest.fixture
def redact() -> Redactor:
    return Redactor([SECRET, "another-secret", ""])


@pytest.mark.parametrize(
    "form",
    [
        SECRET,
        urllib.parse.quote(SECRET, safe=""),
        urllib.parse.quote(SECRET),
        urllib.parse.quote_plus(SECRET),
        urllib.parse.quote(SECRET, safe="").lower(),
        json.dumps(SECRET),
        json.dumps(SECRET, ensure_ascii=False),
        json.dumps(SECRET).replace("/", "\\/"),
        repr(SECRET),
        f"x{SECRET}y{SECRET}",
    ],
)
def test_a_known_secret_is_taken_out_as_others_write_it(form: str, redact: Redactor) -> None:
    assert redact(f"before {form} after").replace(GONE, "").strip("'\"xy ").replace('"', "").split()[0] == "before"
    for part in ("w%22", "ss/w", "ss%2", "rd+", "rd%"):
        assert part not in redact(f"before {form} after")


@given(before=TEXTS, after=TEXTS)
def test_a_known_secret_is_taken_out_of_base64_wherever_it_stands(before: str, after: str) -> None:
    """`Authorization: Basic` has `user:secret` in it."""
    secret = "a-long-secret-0123"
    redact = Redactor([secret])
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        encoded = encode(f"{before}{secret}{after}".encode()).decode()
        left = redact(f"<{encoded}>")
        assert GONE in left
        for piece in left.strip("<>").split(GONE):
            assert "secret" not in base64.urlsafe_b64decode(piece[: len(piece) // 4 * 4]).decode("latin-1")


@given(secrets=st.lists(st.text(min_size=4, max_size=20).map(str.strip).filter(lambda s: len(s) > 3)), text=TEXTS)
def test_no_known_secret_is_left_whatever_it_is(secrets: list[str], text: str) -> None:
    redact = Redactor(secrets)
    left = redact(text + "|".join(secrets) + text)
    assert not [secret for secret in secrets if secret in left and secret not in GONE]


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("Authorization: Bearer abcDEF123._-~", "Authorization: Bearer …"),
        ('{"authorization": "bearer abcDEF123"}', '{"authorization": "bearer …"}'),
        ("Basic dXNlcjpwYXNz", "Basic …"),
        ("X-API-Key: abc123", "X-API-Key: …"),
        ("'x-api-key': 'abc123'", "'x-api-key': '…'"),
        ("GET https://api.runpod.io/graphql?api_key=ABC&x=1", "GET https://api.runpod.io/graphql?api_key=…&x=1"),
        ("/v1/models?access_token=abc&sig=def#x", "/v1/models?access_token=…&sig=…"),
        ("postgres://user:pw@host/db", "postgres://…@host/db"),
        ("redis://:pw@host:6379/0", "redis://…@host:6379/0"),
        ("key sk-abcdefghijklmnop1234 of", "key … of"),
        ("sk-proj-abcdefghijklmnop_1234", "…"),
        ("hf_abcdefghijklmnopqrst", "…"),
        ("rpa_ABCDEFGHIJKLMNOPQRST1234", "…"),
        ("github_pat_ABCDEFGHIJKLMNOPQRST", "…"),
        ("eyJhbGciOiJI.eyJzdWIiOiIx.SflKxwRJSMeKKF2Q", "…"),
    ],
)
def test_what_looks_like_a_key_is_taken_out(text: str, left: str, redact: Redactor) -> None:
    assert redact(text) == left


@pytest.mark.parametrize(
    "text",
    [
        "request=r1 key=frank route=/v1/chat/completions model=org/name:Q4_K_M tokens_in=5",
        "WWW-Authenticate: Bearer realm",
        "loading /data/models/hf_transfer/task-as-it-is.gguf",
        "http://127.0.0.1:8000/v1?limit=5&page=2",
        "asked for https://huggingface.co/org/name@main",
        "",
    ],
)
def test_what_is_no_secret_stays(text: str, redact: Redactor) -> None:
    assert redact(text) == text


@given(found=st.from_regex(re.compile(_PATTERNS, re.VERBOSE), fullmatch=True), around=TEXTS)
def test_whatever_looks_like_a_key_is_seen_at_the_first_glance(found: str, around: str) -> None:
    """The quick check before the patterns lets none of them pass, in whatever case it is written."""
    looks_like_one = re.compile(_PATTERNS, re.VERBOSE).search
    text = f"{around} {found} {around}"
    assert GONE in Redactor([])(text) or not looks_like_one(text)


@pytest.mark.parametrize("key", ["api-key", "first-key", "admin", "team-a"])
def test_a_usual_line_holds_nothing_that_looks_like_a_mark_of_a_key(key: str) -> None:
    """Else each of them would be searched with the patterns, which takes longer than all else that is done to it."""
    for line in (text_line(ended(key=key)), json_line(ended(key=key))):
        assert [mark for mark in _MARKS if mark in line] == []


def test_a_secret_of_three_letters_would_take_words_apart() -> None:
    assert Redactor(["key"])("the key of") == "the key of"


def test_no_line_of_a_private_key_is_left() -> None:
    pem = (
        "-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBgkqhkiG9w0BAQ\nEFAASCBKcwggSjAgEAAoIBAQ\n-----END PRIVATE KEY-----\n"
    )
    assert "MIIEvQIBADANBgkqhkiG9w0BAQ" not in Redactor([pem])("failed at MIIEvQIBADANBgkqhkiG9w0BAQ of it")


def test_a_secret_of_many_lines_is_gone_also_where_each_stands_in_a_line_of_its_own() -> None:
    """A line is what is looked at. One that has sixteen characters of such a secret is taken out by itself."""
    body = ["MIIEvQIBADANBgkqhkiG9w0BAQ", "EFAASCBKcwggSjAgEAAoIBAQab", "dGhlIGxhc3Qgb25lIG9mIGl0"]
    redact = Redactor(["\n".join(["-----BEGIN PRIVATE KEY-----", *body, "-----END PRIVATE KEY-----", ""])])
    assert [redact(f"engine: {line}") for line in body] == ["engine: …"] * 3
    assert redact("\n".join(body)) == "…\n…\n…"


def test_a_secret_that_was_made_later_is_learned(redact: Redactor) -> None:
    redact.learn(["made-only-now"])
    assert redact("made-only-now, another-secret") == "…, …"


# --- exceptions that nobody caught


@pytest.fixture
def told(redact: Redactor) -> Iterator[list[str]]:
    lines: list[str] = []
    undo = hook_exceptions(redact, lines.append)
    try:
        yield lines
    finally:
        undo()


def raise_with_secret() -> None:
    try:
        raise OSError("first: another-secret")
    except OSError as error:
        raise ValueError("GET https://x/?api_key=abc and another-secret") from error


def test_a_traceback_has_its_lines_but_no_secret(redact: Redactor) -> None:
    with pytest.raises(ValueError) as caught:
        raise_with_secret()
    said = describe(caught.value, redact)
    assert said.endswith("ValueError: GET https://x/?api_key=… and …")
    assert "OSError: first: …" in said and "another-secret" not in said.replace('"first: another-secret"', "")


def test_an_exception_that_ends_the_program_shows_no_secret(
    told: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        raise_with_secret()
    except ValueError as error:
        sys.excepthook(ValueError, error, error.__traceback__)
    assert capsys.readouterr().err.rstrip("\n") == told[0]
    assert told[0].endswith("and …")


def test_an_exception_of_a_thread_shows_no_secret(told: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    thread = threading.Thread(target=raise_with_secret, name="worker")
    thread.start()
    thread.join()
    assert told[0].startswith("Exception in thread worker:\n") and told[0].endswith("and …")
    assert capsys.readouterr().err == told[0] + "\n"


def test_an_exception_of_a_finalizer_shows_no_secret(told: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    class Odd:
        def __del__(self) -> None:
            raise_with_secret()

    Odd()
    assert "__del__" in told[0] and told[0].endswith("and …")


async def test_an_exception_of_the_event_loop_shows_no_secret(redact: Redactor) -> None:
    lines: list[str] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(loop_handler(redact, lines.append))
    loop.call_soon(raise_with_secret)
    loop.call_exception_handler({"message": "odd another-secret"})
    await asyncio.sleep(0)
    assert lines[0] == "odd …"
    assert lines[1].startswith("Exception in callback") and lines[1].endswith("and …")


def test_undoing_gives_back_what_was_there(redact: Redactor) -> None:
    before = sys.excepthook, threading.excepthook, sys.unraisablehook
    undo = hook_exceptions(redact)
    assert sys.excepthook is not before[0]
    undo()
    assert (sys.excepthook, threading.excepthook, sys.unraisablehook) == before


def test_a_stderr_that_is_gone_hides_nothing_from_the_logs(told: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    error = ValueError("odd")
    sys.excepthook(ValueError, error, None)
    assert told == ["ValueError: odd"]
