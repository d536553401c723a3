"""Who may: keys compared whole, in every header that may hold them, and a first one that is nobody's accident."""

import os
import stat
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from gateway.errors import Refusal, Refused
from gateway.policy.keys import digest_of
from gateway.policy.throttle import Throttle
from gateway.web import auth
from gateway.web.auth import FIRST_KEY, Key, Keys, check_browser, first_key, may_ask_for, may_use
from gateway.web.keyring import Keyring

ONE, TWO, OLD = "sk-one-0123456789", "sk-two-0123456789", "sk-old-0123456789"
RIGHT = [Key.of("one", ONE), Key.of("two", TWO)]
KEYS = Keys(RIGHT)
EXPIRING = Keys([*RIGHT, Key("old", Key.of("", OLD).digest, expires=1_801_393_200.0)])

Headers = list[tuple[bytes, bytes]]


def bearer(key: str) -> tuple[bytes, bytes]:
    return b"Authorization", b"Bearer " + key.encode()


def x_api_key(key: str) -> tuple[bytes, bytes]:
    return b"X-API-Key", key.encode()


def name_of(headers: Headers, keys: Keys = KEYS, wall: float = 0.0) -> str:
    key = keys.check(headers, address="198.51.100.7", now=0.0, wall=wall)
    return key.name if key is not None else ""


def refused(act: Callable[[], object]) -> Refusal:
    with pytest.raises(Refused) as caught:
        act()
    return caught.value.refusal


def refusal_to(headers: Headers, keys: Keys = KEYS, wall: float = 0.0) -> str:
    refusal = refused(lambda: keys.check(headers, wall=wall))
    assert (refusal.code, refusal.status) == ("invalid_api_key", 401)
    assert ("WWW-Authenticate", "Bearer") in refusal.head()
    return refusal.message


@pytest.mark.parametrize(
    ("headers", "name"),
    [
        ([bearer(ONE)], "one"),
        ([bearer(TWO)], "two"),
        ([x_api_key(TWO)], "two"),
        ([(b"AUTHORIZATION", b"bearer   " + ONE.encode() + b" ")], "one"),
        ([(b"x-api-key", b"\t" + ONE.encode())], "one"),
        ([bearer("rpa_of_the_edge"), x_api_key(ONE)], "one"),
        ([x_api_key("placeholder"), bearer(ONE)], "one"),
        ([(b"Authorization", b"Basic dXNlcjpwdw=="), x_api_key(ONE)], "one"),
        ([(b"Cookie", b"a=b"), bearer(ONE), (b"Accept", b"*/*")], "one"),
        ([bearer(ONE), x_api_key(TWO)], "two"),
        ([x_api_key(TWO), bearer(ONE)], "two"),
    ],
)
def test_a_right_key_has_a_name(headers: Headers, name: str) -> None:
    """Of two right ones the one in X-API-Key, which no edge puts there by itself."""
    assert name_of(headers) == name
    assert KEYS.knows(headers)


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [bearer("")],
        [x_api_key("")],
        [bearer(ONE[:-1])],
        [bearer(ONE + "x")],
        [bearer(ONE.upper())],
        [bearer(f"{ONE} {TWO}")],
        [bearer(f"{ONE},{TWO}")],
        [(b"Authorization", ONE.encode())],
        [(b"Authorization", b"Basic " + ONE.encode())],
        [(b"Authorization", b"Bearer" + ONE.encode())],
        [(b"X-API-Key", b"Bearer " + ONE.encode())],
        [(b"X_API_KEY", ONE.encode())],
        [(b"Proxy-Authorization", b"Bearer " + ONE.encode())],
        [bearer("schlüssel-ünicode")],
        [(b"Authorization", b"Bearer \xff\xfe\x00")],
    ],
)
def test_anything_else_is_no_key(headers: Headers) -> None:
    refusal_to(headers)
    assert not KEYS.knows(headers)


@pytest.mark.parametrize("headers", [[bearer(ONE), bearer(TWO)], [x_api_key(ONE), x_api_key("wrong")]])
def test_a_header_that_comes_twice_is_refused_even_with_a_right_key(headers: Headers) -> None:
    """Whoever stands in front may have looked at the other one."""
    assert "more than once" in refusal_to(headers)
    assert not KEYS.knows(headers)


def test_the_refusal_says_what_came_and_nothing_of_what_was_in_it() -> None:
    assert "No API key came" in refusal_to([])
    said = refusal_to([bearer("sk-wrong-secret"), x_api_key("other-secret")])
    assert "Authorization" in said and "X-API-Key" in said and "secret" not in said
    assert "without a key" in refusal_to([(b"Authorization", b"Basic c2VjcmV0")])


@given(st.binary(max_size=40))
def test_no_bytes_are_too_odd_to_be_compared(token: bytes) -> None:
    headers = [(b"authorization", b"Bearer " + token)]
    assert KEYS.knows(headers) is (token.strip() in (ONE.encode(), TWO.encode()))


def test_a_key_of_any_text_can_be_configured() -> None:
    keys = Keys([Key.of("odd", "schlüssel-😀-" + "\udcff")])
    assert name_of([(b"authorization", "Bearer schlüssel-😀-".encode() + b"\xff")], keys) == "odd"


def test_an_empty_key_is_never_right_not_even_if_it_is_configured() -> None:
    keys = Keys([Key.of("empty", "")])
    refusal_to([bearer("")], keys)
    assert not keys.knows([x_api_key("")])


class Asked(Mapping[bytes, Key]):
    """A table that remembers what was looked up in it."""

    def __init__(self, known: Mapping[bytes, Key]) -> None:
        self._known = known
        self.digests: list[bytes] = []

    def __getitem__(self, digest: bytes) -> Key:
        self.digests.append(digest)
        return self._known[digest]

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._known)

    def __len__(self) -> int:
        return len(self._known)


def test_what_a_caller_sent_is_looked_up_by_its_digest_and_compared_with_nothing() -> None:
    """The time it takes says nothing about a key."""
    ring = Keyring(RIGHT)
    asked = ring.by_digest = Asked(ring.by_digest)
    assert set(asked) == {digest_of(ONE.encode()), digest_of(TWO.encode())}
    for guess in (ONE, TWO, ONE[:-1], "wrong"):
        asked.digests.clear()
        Keys(ring).knows([bearer(guess)])
        assert asked.digests == [digest_of(guess.encode())]


CAME = st.lists(
    st.sampled_from(
        [
            *(header(key) for header in (bearer, x_api_key) for key in (ONE, TWO, OLD, "wrong", "")),
            (b"authorization", b"Basic dXNlcjpwdw=="),
            (b"x-API-key", b"  " + TWO.encode()),
            (b"Accept", b"*/*"),
        ]
    ),
    max_size=4,
)


@given(CAME, st.sampled_from((0.0, 2e9)))
def test_the_quick_look_and_the_one_that_says_what_is_wrong_never_disagree(headers: Headers, wall: float) -> None:
    known = EXPIRING.known(headers, wall=wall)
    if known is None:
        refusal_to(headers, EXPIRING, wall)
    else:
        assert EXPIRING.check(headers, wall=wall) is known


def test_without_keys_everybody_may_and_nobody_is_known() -> None:
    off = Keys([])
    assert not off.enabled and off.check([]) is None and not off.knows([bearer(ONE)])


def test_a_file_without_keys_is_not_the_same_as_keys_off(tmp_path: Path) -> None:
    (tmp_path / "keys.toml").write_text("# all revoked\n")
    ring = Keyring([], tmp_path / "keys.toml")
    ring.load()
    assert Keys(ring).enabled
    refusal_to([], Keys(ring))


def test_a_key_is_not_in_what_is_printed_of_it() -> None:
    assert ONE not in repr(Key.of("one", ONE)) and ONE not in repr(KEYS)
    assert repr(KEYS) == "<Keys 2, <Throttle 0 addresses, 0 at the limit>>"


# --- expiry


def test_a_key_is_right_until_the_second_that_it_ends_and_needs_no_reload_for_it() -> None:
    assert name_of([bearer(OLD)], EXPIRING, wall=1_801_393_199.9) == "old"
    said = refusal_to([bearer(OLD)], EXPIRING, wall=1_801_393_200.0)
    assert said == "The API key old expired at 2027-01-31T11:00:00Z. Ask the operator of this gateway for a new one."
    assert EXPIRING.known([bearer(OLD)], wall=1_801_393_200.0) is None


def test_only_whoever_has_it_learns_that_it_expired() -> None:
    assert "expired" not in refusal_to([bearer(OLD + "x")], EXPIRING, wall=2e9)
    assert "expired" not in refusal_to([bearer(OLD), bearer(OLD)], EXPIRING, wall=2e9)


def test_a_right_key_beside_an_expired_one_is_right() -> None:
    assert name_of([bearer(ONE), x_api_key(OLD)], EXPIRING, wall=2e9) == "one"
    assert name_of([bearer(OLD), x_api_key(ONE)], EXPIRING, wall=2e9) == "one"


def test_an_expired_key_is_no_guess() -> None:
    """Its owner hears that it expired, as often as the program asks."""
    keys = Keys([Key("old", Key.of("", OLD).digest, expires=1.0)])
    for _ in range(50):
        assert refused(lambda: keys.check([bearer(OLD)], address="a", now=0.0, wall=2.0)).status == 401


# --- too many wrong keys


def wrong(keys: Keys, headers: Headers, address: str = "198.51.100.7", now: float = 0.0) -> Refusal:
    return refused(lambda: keys.check(headers, address=address, now=now, wall=0.0))


def test_more_than_twenty_wrong_keys_a_minute_are_told_to_wait_and_a_right_one_passes() -> None:
    keys = Keys(RIGHT)
    assert [wrong(keys, [bearer(f"guess{n}")], now=n / 10).status for n in range(20)] == [401] * 20
    refusal = wrong(keys, [bearer("guess20")], now=2.5)
    assert (refusal.status, refusal.code) == (429, "rate_limit_exceeded")
    assert ("Retry-After", "58") in refusal.head() and ("x-should-retry", "false") in refusal.head()
    assert "More than 20 wrong keys" in refusal.message and "it came in: Authorization" in refusal.message
    assert "guess" not in refusal.message
    key = keys.check([bearer(ONE)], address="198.51.100.7", now=2.5, wall=0.0)
    assert key is not None and key.name == "one", "behind an edge all callers share an address"
    assert wrong(keys, [bearer("guess21")], address="203.0.113.9", now=2.5).status == 401
    assert wrong(keys, [bearer("guess22")], now=60.0).status == 401, "as Retry-After promised"


def test_whoever_sends_no_key_guesses_nothing() -> None:
    """A browser, a crawler, a forgotten setting."""
    keys = Keys(RIGHT)
    for headers in ([], [bearer("")], [(b"Authorization", b"Basic dXNlcjpwdw==")]):
        assert {wrong(keys, headers).status for _ in range(50)} == {401}


def test_a_key_of_the_edge_beside_a_right_one_is_not_counted() -> None:
    keys = Keys(RIGHT)
    for _ in range(50):
        assert name_of([bearer("rpa_of_the_edge"), x_api_key(ONE)], keys) == "one"
    assert wrong(keys, [bearer("guess")]).status == 401


def test_doubled_headers_count_as_guesses() -> None:
    keys = Keys(RIGHT)
    assert [wrong(keys, [bearer("a"), bearer("b")]).status for _ in range(21)] == [401] * 20 + [429]


def test_guessing_at_an_open_page_is_no_way_round() -> None:
    """It is answered as to a stranger, and counted."""
    keys = Keys(RIGHT)
    for n in range(20):
        assert keys.known([bearer(f"guess{n}")], wall=0.0) is None
        assert keys.count_wrong([bearer(f"guess{n}")], address="a", now=0.0)
    assert wrong(keys, [bearer("guess")], address="a").status == 429
    assert not keys.count_wrong([], address="a", now=0.0)
    assert not Keys([]).count_wrong([bearer("guess")], address="a", now=0.0)


def test_the_table_of_addresses_is_bounded() -> None:
    throttle = Throttle(addresses=100)
    keys = Keys(RIGHT, throttle=throttle)
    for n in range(500):
        wrong(keys, [bearer("guess")], address=f"2001:db8:{n:x}::1")
    assert len(throttle) == 100


# --- what a key may

LIMITED = Key("shop", b"", models=frozenset({"small", "tiny"}), routes=frozenset({"/v1/embeddings", "/v1/models"}))


def test_a_key_may_use_what_stands_in_its_routes() -> None:
    may_use(LIMITED, "/v1/embeddings")
    may_use(LIMITED, "/v1/models/{id}")
    may_use(RIGHT[0], "/anything")
    refusal = refused(lambda: may_use(LIMITED, "/v1/chat/completions"))
    assert (refusal.status, refusal.code) == (403, "forbidden")
    assert refusal.message == "The key shop may not use /v1/chat/completions; it may use /v1/embeddings, /v1/models."


def test_a_key_may_ask_for_what_stands_in_its_models() -> None:
    may_ask_for(LIMITED, "tiny")
    may_ask_for(RIGHT[0], None)
    refusal = refused(lambda: may_ask_for(LIMITED, "large\n"))
    assert (refusal.status, refusal.param) == (403, "model")
    assert refusal.message == 'The key shop may not ask for the model "large\\\\n"; it may ask for small, tiny.'
    assert "without naming a model" in refused(lambda: may_ask_for(LIMITED, None)).message


def test_a_long_list_is_cut() -> None:
    key = Key("shop", b"", models=frozenset(f"m{n:02}" for n in range(30)))
    assert refused(lambda: may_ask_for(key, "x")).message.endswith("m08, m09 and 20 more.")


# --- keys off: browsers

MINE = frozenset({"https://chat.example.org", "http://gpu-box:3000"})
FIREFOX = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"


def browser(host: str, **headers: str) -> CIMultiDict[str]:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return CIMultiDict({"Host": host, "User-Agent": FIREFOX, **named})


@pytest.mark.parametrize(
    "headers",
    [
        CIMultiDict({"Host": "anything.example", "User-Agent": "OpenAI/Python 3.54"}),
        CIMultiDict({"Host": "anything.example"}),
        CIMultiDict({}),
        browser("localhost:8000"),
        browser("LOCALHOST:8000"),
        browser("wakegate.localhost"),
        browser("127.0.0.1:8000"),
        browser("192.168.1.7:8000"),
        browser("[::1]:8000"),
        browser("[fe80::1]:8000", Origin="http://[fe80::1]:8000"),
        browser("gpu-box:8000"),
        browser("localhost:8000", Origin="http://localhost:8000"),
        browser("192.168.1.7", Origin="http://192.168.1.7"),
        browser("192.168.1.7", Origin="https://192.168.1.7:443", Sec_Fetch_Site="same-origin"),
        browser("localhost:8000", Origin="https://chat.example.org", Sec_Fetch_Site="cross-site"),
        browser("abc.api.example", Origin="https://chat.example.org", Sec_Fetch_Site="cross-site"),
        browser("localhost:8000", Sec_Fetch_Site="none", Sec_Fetch_Mode="navigate"),
        browser("localhost:8000", Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="navigate"),
        browser("localhost:8000", Sec_Fetch_Site="same-origin", Sec_Fetch_Mode="cors"),
    ],
)
def test_programs_and_pages_of_our_own_pass(headers: CIMultiDict[str]) -> None:
    check_browser(headers, origins=MINE)


@pytest.mark.parametrize(
    ("headers", "remedy"),
    [
        (browser("evil.example"), "add http://evil.example to"),
        (browser("evil.example:8000", Origin="http://evil.example:8000"), "add http://evil.example:8000 to"),
        (browser("chat.example.org.evil.example"), "add http://chat.example.org.evil.example to"),
        (browser("localhost.evil.example"), "add http://localhost.evil.example to"),
        (browser("2130706433"), "add http://2130706433 to"),
        (browser("0x7f.1"), "add http://0x7f.1 to"),
        (browser(""), "add"),
        (browser("evil@127.0.0.1"), "add"),
        (browser("127.0.0.1:x"), "add"),
        (browser("localhost:8000", Origin="null"), "add the page's origin to"),
        (browser("localhost:8000", Origin="https://evil.example"), "add https://evil.example to"),
        (browser("localhost:8000", Origin="http://localhost:3000"), "add http://localhost:3000 to"),
        (browser("localhost", Origin="https://localhost:8443"), "add https://localhost:8443 to"),
        (browser("localhost:8000", Origin="file://"), "add the page's origin to"),
        (browser("localhost:8000", Origin="chrome-extension://abc"), "add the page's origin to"),
        (browser("localhost:8000", Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="no-cors"), "add the page's origin to"),
        (browser("localhost:8000", Sec_Fetch_Site="same-site", Sec_Fetch_Mode="cors"), "add the page's origin to"),
        (CIMultiDict({"Host": "evil.example", "Sec-Fetch-Site": "none"}), "add http://evil.example to"),
        (CIMultiDict({"Host": "localhost", "Origin": "https://evil.example"}), "add https://evil.example to"),
    ],
)
def test_pages_of_others_do_not(headers: CIMultiDict[str], remedy: str) -> None:
    refusal = refused(lambda: check_browser(headers, origins=MINE))
    assert (refusal.status, refusal.code) == (403, "forbidden")
    assert refusal.message.startswith("Keys are off") and remedy in refusal.message
    assert "CORS_ORIGINS" in refusal.message and "\n" not in refusal.message


def test_all_origins_are_all_but_null() -> None:
    """`*` is refused with AUTH_ENABLED=false; behind an edge that asks for a key of its own it may be meant."""
    check_browser(browser("x.api.example", Origin="https://any.example"), origins=frozenset({"*"}))
    refused(lambda: check_browser(browser("x.api.example", Origin="null"), origins=frozenset({"*"})))


@given(host=st.text(max_size=30), origin=st.text(max_size=30) | st.none())
def test_no_host_and_no_origin_is_too_odd_to_be_refused_in_order(host: str, origin: str | None) -> None:
    headers = browser(host, **({} if origin is None else {"Origin": origin}))
    try:
        check_browser(headers)
    except Refused as answer:
        assert answer.refusal.status == 403 and answer.refusal.message.isprintable()


# --- the first key


def test_a_first_key_is_made_once_and_read_afterwards(tmp_path: Path) -> None:
    key, path, made = first_key(tmp_path / "keys")
    assert made and key.startswith("sk-wakegate-") and len(key) > 40
    assert first_key(tmp_path / "keys") == (key, path, False)
    assert path.read_text() == key + "\n"
    assert [each.name for each in path.parent.iterdir()] == [FIRST_KEY]


def test_only_its_owner_may_read_it(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        _, path, _ = first_key(tmp_path / "keys")
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_gateways_that_start_on_one_volume_agree(tmp_path: Path) -> None:
    """Nobody sees a file that is half written, and nobody takes it away from another."""
    for attempt in range(20):
        folder = tmp_path / str(attempt)
        with ThreadPoolExecutor(8) as pool:
            results = list(pool.map(first_key, [folder] * 8))
        assert len({key for key, _, _ in results}) == 1
        assert sum(made for _, _, made in results) == 1


def test_a_start_that_was_interrupted_leaves_no_key_that_would_be_right(tmp_path: Path) -> None:
    (tmp_path / FIRST_KEY).write_text("\n")
    key, path, made = first_key(tmp_path)
    assert made and path.read_text() == key + "\n"
    assert first_key(tmp_path) == (key, path, False)


def test_a_volume_without_links_has_a_first_key_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(source: object, target: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(auth.os, "link", no_links)
    key, path, made = first_key(tmp_path)
    assert made and first_key(tmp_path) == (key, path, False)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [each.name for each in tmp_path.iterdir()] == [FIRST_KEY]


def test_a_folder_that_cannot_be_written_is_an_os_error_for_the_one_who_asked(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError):
        first_key(tmp_path / "file" / "keys")


def test_a_link_that_somebody_laid_there_is_not_written_through(tmp_path: Path) -> None:
    target = tmp_path / "elsewhere"
    folder = tmp_path / "keys"
    folder.mkdir()
    (folder / FIRST_KEY).symlink_to(target)
    with pytest.raises(OSError):
        first_key(folder)
    assert not target.exists()
