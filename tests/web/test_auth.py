"""Who may: keys compared whole, in every header that may hold them, and a first one that is nobody's accident."""

import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import Refused
from gateway.web import auth
from gateway.web.auth import FIRST_KEY, Key, Keys, first_key

ONE, TWO = "sk-one-0123456789", "sk-two-0123456789"
KEYS = Keys([Key.of("one", ONE), Key.of("two", TWO)])

Headers = list[tuple[bytes, bytes]]


def bearer(key: str) -> tuple[bytes, bytes]:
    return b"Authorization", b"Bearer " + key.encode()


def x_api_key(key: str) -> tuple[bytes, bytes]:
    return b"X-API-Key", key.encode()


def refusal_to(headers: Headers, keys: Keys = KEYS) -> str:
    with pytest.raises(Refused) as caught:
        keys.check(headers)
    refusal = caught.value.refusal
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
        ([(b"Authorization", b"Basic dXNlcjpwdw=="), x_api_key(ONE)], "one"),
        ([(b"Cookie", b"a=b"), bearer(ONE), (b"Accept", b"*/*")], "one"),
    ],
)
def test_a_right_key_has_a_name(headers: Headers, name: str) -> None:
    assert KEYS.check(headers) == name
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
    assert keys.check([(b"authorization", "Bearer schlüssel-😀-".encode() + b"\xff")]) == "odd"


def test_an_empty_key_is_never_right_not_even_if_it_is_configured() -> None:
    keys = Keys([Key.of("empty", "")])
    refusal_to([bearer("")], keys)
    assert not keys.knows([x_api_key("")])


def test_every_key_is_compared_whichever_is_right(monkeypatch: pytest.MonkeyPatch) -> None:
    """The time it takes says nothing about which."""
    compared: list[bytes] = []
    real = auth.hmac.compare_digest

    def counting(one: bytes, other: bytes) -> bool:
        compared.append(one)
        return real(one, other)

    monkeypatch.setattr(auth.hmac, "compare_digest", counting)
    for headers in ([bearer(ONE)], [bearer(TWO)], [bearer("wrong")]):
        compared.clear()
        KEYS.knows(headers)
        assert len(compared) == 2


def test_without_keys_everybody_may_and_nobody_is_known() -> None:
    off = Keys([])
    assert not off.enabled and off.check([]) == "" and not off.knows([bearer(ONE)])


def test_a_key_is_not_in_what_is_printed_of_it() -> None:
    assert ONE not in repr(Key.of("one", ONE)) and ONE not in repr(KEYS)


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
