"""The kernel's tables of listeners, and which engine an answer comes from."""

import pytest

from gateway.doctor.case import Listener
from gateway.doctor.sockets import (
    ASKED_FIRST,
    ASKED_THEN,
    Answer,
    Row,
    engine_of,
    engine_seen,
    is_of_this_machine,
    parse_listeners,
    reachable_at,
)

HEAD = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
FOUR = (
    "   0: 00000000:1F40 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1207 1 0 100 0 0 10 0\n"
    "   1: 0100007F:9F8F 0100007F:EB12 06 00000000:00000000 03:0000011A 00000000     0        0 0 3 0\n"
    "   2: 0100007F:0050 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 33 1 0\n"
)
SIX = (
    "   0: 00000000000000000000000000000000:1F41 00000000000000000000000000000000:0000 0A "
    "00000000:00000000 00:00000000 00000000     0        0 44 1 0\n"
    "   1: 00000000000000000000000001000000:0016 00000000000000000000000000000000:0000 0A "
    "00000000:00000000 00:00000000 00000000     0        0 55 1 0\n"
)
PYTHONS_OWN = "llama-cpp-python's own server"
VLLM = {"/health": Answer(200, "uvicorn"), "/version": Answer(200, "uvicorn", '{"version":"0.33.0"}')}


def test_listeners_of_both_families_and_nothing_else_that_is_in_the_tables() -> None:
    assert list(parse_listeners(HEAD + FOUR)) == [Row("0.0.0.0", 8000, 1207), Row("127.0.0.1", 80, 33)]
    assert list(parse_listeners(HEAD + SIX)) == [Row("::", 8001, 44), Row("::1", 22, 55)]
    assert list(parse_listeners("")) == []


@pytest.mark.parametrize(
    ("address", "loopback", "at"),
    [
        ("0.0.0.0", False, "127.0.0.1"),
        ("::", False, "::1"),
        ("127.0.0.53", True, "127.0.0.53"),
        ("::ffff:127.0.0.1", True, "::ffff:127.0.0.1"),
        ("::1", True, "::1"),
        ("10.0.0.7", False, "10.0.0.7"),
    ],
)
def test_a_listener_is_asked_at_an_address_of_this_machine(address: str, loopback: bool, at: str) -> None:
    listener = Listener(address, 80)
    assert (listener.is_loopback, reachable_at(listener)) == (loopback, at)


def test_names_are_no_addresses_of_this_machine() -> None:
    assert is_of_this_machine("fe80::1") and not is_of_this_machine("example.org")


@pytest.mark.parametrize(
    ("answers", "engine"),
    [
        (VLLM, "vLLM"),
        ({**VLLM, "/health": Answer(503, "uvicorn")}, "vLLM"),
        ({"/health": Answer(200, "llama.cpp", '{"status":"ok"}')}, "llama-server"),
        ({"/openapi.json": Answer(200, "", '{"info":{"title":"🦙 llama.cpp Python API"')}, PYTHONS_OWN),
        ({"/": Answer(200, "", "Ollama is running")}, "Ollama"),
        ({"/version": Answer(200, "", '{"major":"1","gitVersion":"v1.31"}'), "/health": Answer(404)}, None),
        ({"/version": Answer(200, "", '{"version":"2.4"}'), "/health": Answer(200, "", "OK")}, None),
        ({"/version": Answer(200, "", '["version"]'), "/health": Answer(200)}, None),
        ({"/": Answer(200, "nginx", "<html>"), "/version": Answer(404, "nginx", "no JSON")}, None),
        ({}, None),
    ],
)  # fmt: skip
def test_which_engine_it_is(answers: dict[str, Answer], engine: str | None) -> None:
    assert engine_of(answers) == engine


@pytest.mark.parametrize(
    ("more", "routes"),
    [
        ({"/v1/models": Answer(200), "/invocations": Answer(405)}, ("everything",)),
        ({"/v1/models": Answer(401), "/invocations": Answer(405)}, ("/invocations",)),
        ({"/v1/models": Answer(401), "/invocations": Answer(401)}, ()),
        ({}, ()),
    ],
)
def test_vllms_key_leaves_routes_open(more: dict[str, Answer], routes: tuple[str, ...]) -> None:
    assert engine_seen("vLLM", Listener("0.0.0.0", 9000), {**VLLM, **more}).open_routes == routes


def test_the_others_are_open_or_locked_as_a_whole() -> None:
    port = Listener("0.0.0.0", 9000)
    assert engine_seen("llama-server", port, {"/props": Answer(200)}).open_routes == ("everything",)
    assert engine_seen("llama-server", port, {"/props": Answer(401)}).open_routes == ()
    assert engine_seen("llama-cpp-python's own server", port, {}).open_routes == ()


def test_no_question_can_disturb_an_engine() -> None:
    """On llama-cpp-python's own server /v1/models waits for the running answer, and cuts it."""
    assert "/v1/models" not in ASKED_FIRST
    assert [name for name, paths in ASKED_THEN.items() if "/v1/models" in paths] == ["vLLM"]
