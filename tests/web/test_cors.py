"""Which pages may call from a browser: what a browser that follows the Fetch standard makes of our headers."""

import pytest
from multidict import CIMultiDict

from gateway import kinds
from gateway.web.cors import MAX_AGE, READABLE, Cors, Headers

CHAT = "https://chat.example.org"
DEV = "http://localhost:3000"
LISTED = Cors((CHAT, DEV))
ANY = Cors(("*",))
OFF = Cors(())

OPENAI_SDK = (
    "authorization,content-type,x-stainless-arch,x-stainless-lang,x-stainless-os,x-stainless-package-version,"
    "x-stainless-retry-count,x-stainless-runtime,x-stainless-runtime-version,x-stainless-timeout"
)
ANTHROPIC_SDK = "anthropic-dangerous-direct-browser-access,anthropic-version,content-type,x-api-key,x-stainless-helper"


def asks(origin: str | None, method: str = "POST", headers: str = OPENAI_SDK, **more: str) -> CIMultiDict[str]:
    """The head of a preflight, as browsers send it."""
    sent = {"Access-Control-Request-Method": method, "Access-Control-Request-Headers": headers, **more}
    return CIMultiDict(
        {name: value for name, value in (sent | ({"Origin": origin} if origin else {})).items() if value}
    )


def preflight(cors: Cors, head: CIMultiDict[str]) -> dict[str, str]:
    found = cors.preflight("OPTIONS", head, ("POST",))
    assert found is not None
    assert len(dict(found)) == len(found), "no header twice"
    return dict(found)


def may_send(cors: Cors, head: CIMultiDict[str]) -> bool:
    """What a browser concludes from the answer to its preflight (Fetch, 4.8 CORS-preflight fetch)."""
    said = preflight(cors, head)
    if said.get("Access-Control-Allow-Origin") not in ("*", head["Origin"]):
        return False
    methods = [part.strip() for part in said.get("Access-Control-Allow-Methods", "").split(",")]
    names = [part.strip().lower() for part in said.get("Access-Control-Allow-Headers", "").split(",")]
    asked = head.get("Access-Control-Request-Headers", "")
    return head["Access-Control-Request-Method"] in methods and all(name in names for name in asked.split(",") if name)


def may_read(cors: Cors, origin: str) -> bool:
    return dict(cors.headers_for(origin)).get("Access-Control-Allow-Origin") in ("*", origin)


@pytest.mark.parametrize("headers", [OPENAI_SDK, ANTHROPIC_SDK, "", "traceparent,x-request-id,prefer,my-app-version"])
@pytest.mark.parametrize("cors", [LISTED, ANY], ids=["listed", "any"])
def test_a_listed_page_may_send_what_its_sdk_sends(cors: Cors, headers: str) -> None:
    assert may_send(cors, asks(CHAT, headers=headers))
    assert may_read(cors, CHAT)


def test_a_page_that_is_not_listed_is_refused_by_its_browser() -> None:
    evil = "https://evil.example.org"
    assert not may_send(LISTED, asks(evil))
    assert not may_read(LISTED, evil)
    assert not any(name.startswith("Access-Control") for name in preflight(LISTED, asks(evil)))


@pytest.mark.parametrize(
    "near",
    [
        "http://chat.example.org",
        "https://chat.example.org:8443",
        "https://chat.example.org.evil.org",
        "https://evil.org/https://chat.example.org",
        "https://sub.chat.example.org",
        "HTTPS://CHAT.EXAMPLE.ORG",
        "http://localhost",
        "null",
        "*",
        "",
    ],
)
def test_an_origin_is_compared_whole(near: str) -> None:
    assert not may_read(LISTED, near)
    assert not LISTED.allows(near)


def test_a_file_or_a_sandboxed_frame_may_only_where_any_page_may() -> None:
    assert may_read(ANY, "null")
    assert may_send(ANY, asks("null"))


def test_off_adds_nothing_and_answers_no_preflight() -> None:
    assert OFF.headers_for(CHAT) == OFF.headers_for(None) == ()
    assert OFF.preflight("OPTIONS", asks(CHAT), ("POST",)) is None


def test_a_cache_in_between_keeps_the_answers_of_pages_apart() -> None:
    for origin in (CHAT, "https://evil.example.org", None):
        assert ("Vary", "Origin") in LISTED.headers_for(origin)
        assert ("Vary", "Origin") not in ANY.headers_for(origin), "every page gets the same"
    for cors in (LISTED, ANY):
        assert preflight(cors, asks(CHAT))["Vary"] == (
            "Origin, Access-Control-Request-Method, Access-Control-Request-Headers"
        )


def test_a_page_may_read_what_tells_it_when_to_come_back() -> None:
    exposed = dict(LISTED.headers_for(CHAT))["Access-Control-Expose-Headers"].split(", ")
    assert exposed == list(READABLE)
    assert {"X-Request-Id", "Retry-After", "x-should-retry", "Server-Timing", "x-ratelimit-reset-tokens"} <= {*exposed}


def test_cookies_are_never_asked_for() -> None:
    for cors in (LISTED, ANY):
        assert "Access-Control-Allow-Credentials" not in preflight(cors, asks(CHAT))


@pytest.mark.parametrize(
    "name",
    ["x-forwarded-for", "X-Forwarded-Host", "forwarded", "x-real-ip", "cf-connecting-ip", "x-http-method-override"],
)
def test_a_page_may_not_speak_as_a_proxy_in_front(name: str) -> None:
    assert not may_send(LISTED, asks(CHAT, headers=f"authorization,{name.lower()}"))
    said = preflight(LISTED, asks(CHAT, headers=f"authorization, {name}"))
    assert said["Access-Control-Allow-Headers"] == "authorization"


@pytest.mark.parametrize("headers", ["a b", "a\r\nSet-Cookie: x=1", "ä", "x" * 65, ",,,", '"a"', "a:b"])
def test_what_is_no_header_name_is_not_repeated(headers: str) -> None:
    assert "Access-Control-Allow-Headers" not in preflight(LISTED, asks(CHAT, headers=headers))


def test_a_preflight_may_ask_for_so_many_headers_and_no_more() -> None:
    names = [f"x-{number}" for number in range(5000)]
    said = preflight(LISTED, asks(CHAT, headers=",".join(names)))
    assert said["Access-Control-Allow-Headers"].split(", ") == names[:64]


def test_a_method_that_the_route_lacks_is_not_allowed() -> None:
    assert not may_send(LISTED, asks(CHAT, method="DELETE"))
    assert preflight(LISTED, asks(CHAT, method="DELETE"))["Access-Control-Allow-Methods"] == "POST"


def test_a_preflight_is_remembered_for_two_hours() -> None:
    assert preflight(LISTED, asks(CHAT))["Access-Control-Max-Age"] == str(MAX_AGE) == "7200"


@pytest.mark.parametrize(("origin", "allowed"), [(CHAT, "true"), ("https://evil.example.org", None)])
def test_a_listed_page_on_the_internet_may_reach_a_gateway_at_home(origin: str, allowed: str | None) -> None:
    head = asks(origin, **{"Access-Control-Request-Private-Network": "true"})
    assert preflight(LISTED, head).get("Access-Control-Allow-Private-Network") == allowed
    assert "Access-Control-Allow-Private-Network" not in preflight(LISTED, asks(CHAT)), "only when it asks"


@pytest.mark.parametrize(
    ("method", "head"),
    [
        ("POST", asks(CHAT)),
        ("OPTIONS", asks(None)),
        ("OPTIONS", asks(CHAT, method="")),
        ("OPTIONS", CIMultiDict[str]()),
    ],
    ids=["another method", "no origin", "no method asked", "curl -X OPTIONS"],
)
def test_any_other_request_is_no_preflight(method: str, head: CIMultiDict[str]) -> None:
    assert LISTED.preflight(method, head, ("POST",)) is None


def test_what_the_setting_reads_is_what_browsers_send() -> None:
    origins = kinds.ORIGINS.parse("https://Chat.Example.ORG:443/, http://localhost:3000, http://[::1]:5173")
    cors = Cors(origins)  # type: ignore[arg-type]
    for sent in (CHAT, DEV, "http://[::1]:5173"):
        assert may_read(cors, sent)
    assert "chat.example.org" in repr(cors)
    assert repr(OFF) == "<Cors off>"


def test_every_header_has_one_line() -> None:
    """They go onto the wire as they are."""
    heads: list[Headers] = [LISTED.headers_for(CHAT), ANY.headers_for(None)]
    heads += [LISTED.preflight("OPTIONS", asks(CHAT, headers="x\n,y"), ("POST",)) or ()]
    for name, value in (pair for head in heads for pair in head):
        assert name.isascii() and value.isascii() and value.isprintable()
