"""The table of paths: exactly what stands in it, as it came."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import Refused
from gateway.proxy.dialects import DIALECTS
from gateway.web.routes import ADMIN, CHAT, INFERENCE, PAGES, SHORT_CHAT, WAKE, Kind, Routes

ROUTES = Routes(["/tokenize", "/metrics", "/v1/extra"])
KNOWN = {route.path for route in (*INFERENCE, *PAGES, WAKE)} | {"/tokenize", "/v1/extra", "/chat"}


def refusal_to(method: str, path: str) -> Refused:
    with pytest.raises(Refused) as caught:
        ROUTES.find(method, path)
    return caught.value


@pytest.mark.parametrize("route", INFERENCE, ids=lambda route: route.path)
def test_an_inference_path_takes_post_and_nothing_else(route) -> None:
    assert ROUTES.find("POST", route.path) == (route, "")
    assert ROUTES.find("POST", route.path + "?api-version=1&x=/slots") == (route, "")
    refused = refusal_to("GET", route.path).refusal
    assert (refused.status, refused.code) == (405, "method_not_allowed")
    assert ("Allow", "POST, OPTIONS") in refused.head() and not refused.closes


def test_every_inference_path_has_a_dialect_of_its_own() -> None:
    assert {route.path for route in INFERENCE} <= set(DIALECTS)


def test_the_short_name_of_a_chat_is_its_route() -> None:
    assert ROUTES.find("POST", "/chat") == (SHORT_CHAT, "")
    assert (SHORT_CHAT.path, SHORT_CHAT.kind, SHORT_CHAT.forwarded) == (CHAT, Kind.JSON, True)


def test_what_the_admin_key_opens_is_there_where_there_is_one() -> None:
    with_admin = Routes(admin=True)
    for route in ADMIN:
        assert with_admin.find(route.methods[0], route.path) == (route, "")
        assert refusal_to(route.methods[0], route.path).refusal.code == "route_not_found"
    assert not any(route.forwarded for route in (*ADMIN, WAKE))


@pytest.mark.parametrize("route", PAGES, ids=lambda route: route.path)
def test_a_page_is_read(route) -> None:
    for method in ("GET", "HEAD"):
        assert ROUTES.find(method, route.path) == (route, "")
    assert refusal_to("POST", route.path).refusal.status == 405


@pytest.mark.parametrize("method", ["TRACE", "CONNECT", "PUT", "DELETE", "PATCH", "PROPFIND", "post", "x" * 500])
def test_a_method_that_nobody_uses_here_ends_the_connection(method: str) -> None:
    refused = refusal_to(method, "/v1/chat/completions").refusal
    assert refused.code == "method_not_allowed" and refused.closes and len(refused.message) < 60


def test_options_is_answered_wherever_there_is_something() -> None:
    assert ROUTES.find("OPTIONS", "/v1/chat/completions")[0].methods == ("POST",)
    assert refusal_to("OPTIONS", "/slots").refusal.code == "route_not_found"


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/v1/models/served", "served"),
        ("/v1/models/org/name", "org/name"),
        ("/v1/models/org%2Fname", "org/name"),
        ("/v1/models/org%2fname%3AQ4_K_M", "org/name:Q4_K_M"),
        ("/v1/models/a?x=1", "a"),
        ("/v1/models/%FF", "�"),
    ],
)
def test_a_models_name_may_hold_a_slash_in_both_spellings(path: str, name: str) -> None:
    route, rest = ROUTES.find("GET", path)
    assert (route.kind, route.page, rest) == (Kind.MODELS, "model", name)


def test_a_list_of_models_with_a_slash_at_its_end_is_told_to_take_it_off() -> None:
    assert "Take the slash off" in refusal_to("GET", "/v1/models/").refusal.message


@pytest.mark.parametrize(
    "path",
    [
        "/slots",
        "/props",
        "/sleep",
        "/v1",
        "/v1/",
        "//v1/chat/completions",
        "/v1//chat/completions",
        "/v1/../slots",
        "/v1/chat/completions/..",
        "/v1/chat/completions/",
        "/v1/%63hat/completions",
        "/%76%31/chat/completions",
        "/v1/chat%2Fcompletions",
        "/v1/chat/completions;x=1",
        "/v1/chat/completions#x",
        "/v1/chat/completions%00",
        "/v1\\chat\\completions",
        "/V1/Chat/Completions",
        "/v1/chat/completions ",
        "http://host/v1/chat/completions",
        "*",
        "",
    ],
)
def test_what_is_not_in_the_table_is_not_there(path: str) -> None:
    """No decoding, no normalising: a tolerant engine would resolve some of these to what it should not show."""
    assert refusal_to("POST", path).refusal.code == "route_not_found"


@given(
    st.text(max_size=60) | st.sampled_from(sorted(KNOWN)).flatmap(lambda path: st.text(max_size=8).map(path.__add__))
)
def test_no_path_at_all_leads_anywhere_but_into_the_table(path: str) -> None:
    """So the number of routes in metrics is bounded, whoever asks for what."""
    for method in ("GET", "POST"):
        try:
            route, _ = ROUTES.find(method, path)
        except Refused as refused:
            assert refused.refusal.code in ("route_not_found", "method_not_allowed")
        else:
            assert route.path in KNOWN or (route.page == "model" and path.startswith("/v1/models/"))


@pytest.mark.parametrize(
    ("path", "hint"),
    [
        ("/chat/completions", "/v1/chat/completions"),
        ("/embeddings", "/v1/embeddings"),
        ("/models", "/v1/models"),
        ("/v1/v1/chat/completions", "twice"),
        ("/v1/chat/completions/", "Take the slash off"),
        ("/api/chat", "Ollama"),
        ("/anything", "ALLOWED_PATHS"),
    ],
)
def test_the_refusal_knows_what_was_most_likely_meant(path: str, hint: str) -> None:
    assert hint in refusal_to("POST", path).refusal.message


def test_an_operators_path_is_forwarded_and_takes_no_page_away() -> None:
    route, _ = ROUTES.find("POST", "/tokenize")
    assert route.forwarded and route.kind is Kind.JSON and ROUTES.find("GET", "/tokenize")[0] is route
    assert ROUTES.find("GET", "/metrics")[0].kind is Kind.PAGE
    assert refusal_to("POST", "/tokenize/x").refusal.code == "route_not_found"
