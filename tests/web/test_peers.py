"""Whose X-Forwarded-For is believed, and how far to the left."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import kinds
from gateway.web.peers import HOPS_MAX, LOCAL, Peers, parse

NOBODY = Peers(())
HOME = Peers(("private",))
CLOUD = Peers(("203.0.113.0/24", "2001:db8:cf::/48"))
CALLER, OTHER = "198.51.100.7", "192.0.2.9"


def test_without_trusted_proxies_the_caller_is_who_the_socket_says() -> None:
    assert NOBODY.address_of(CALLER, [OTHER]) == CALLER
    assert NOBODY.address_of("127.0.0.1", [OTHER]) == "127.0.0.1"


def test_the_header_of_somebody_who_is_not_trusted_is_not_read() -> None:
    assert HOME.address_of(CALLER, [OTHER, "10.0.0.1"]) == CALLER
    assert CLOUD.address_of("10.0.0.1", [OTHER]) == "10.0.0.1"


@pytest.mark.parametrize(
    ("header", "caller"),
    [
        ([CALLER], CALLER),
        ([f"{CALLER}, 10.1.1.1, 172.16.0.9"], CALLER),
        ([CALLER, "10.1.1.1", "fd00::9"], CALLER),
        ([f"1.2.3.4, {CALLER}"], CALLER),
        ([f"10.9.9.9,{CALLER},10.0.0.2"], CALLER),
        ([f"  {CALLER}  ,, "], CALLER),
        (["10.3.3.3, 10.2.2.2"], "10.3.3.3"),
        ([], "10.0.0.1"),
        ([""], "10.0.0.1"),
        ([", ,"], "10.0.0.1"),
    ],
    ids=[
        "one proxy",
        "three proxies",
        "a line for each",
        "the caller invented more",
        "it invented a private one",
        "blanks",
        "a caller inside",
        "none",
        "empty",
        "commas",
    ],
)
def test_the_first_from_the_right_that_is_not_a_proxy_is_the_caller(header: list[str], caller: str) -> None:
    assert HOME.address_of("10.0.0.1", header) == caller


@pytest.mark.parametrize(
    "broken", ["unknown", "_hidden", "", "1.2.3", "1.2.3.4.5", "999.1.1.1", "evil.org", "a" * 9999]
)
def test_nothing_left_of_an_entry_that_is_no_address_is_believed(broken: str) -> None:
    assert HOME.address_of("10.0.0.1", [f"{CALLER}, {broken or '-'}, 10.0.0.2"]) == "10.0.0.2"


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("192.0.2.1:51234", "192.0.2.1"),
        ("[2001:db8::1]:51234", "2001:db8::1"),
        ("[2001:DB8:0::1]", "2001:db8::1"),
        ("2001:db8::1", "2001:db8::1"),
        ('"[2001:db8::1]:80"', "2001:db8::1"),
        ("fe80::1%eth0", "fe80::1"),
        ("[fe80::1%25eth0]:80", "fe80::1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("[::ffff:c000:201]:80", "192.0.2.1"),
    ],
)
def test_an_address_is_one_whatever_its_spelling(text: str, address: str) -> None:
    assert str(parse(text)) == address
    assert HOME.address_of("127.0.0.1", [text]) == address


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[",
        "[]",
        "[]:80",
        "localhost",
        "2130706433",
        "0x7f.1",
        "127.1",
        "010.0.0.1",
        "1.2.3.4:",
        "1.2.3.4:x",
        "::1]",
        "x%y",
    ],
)
def test_what_is_no_address_is_none(text: str) -> None:
    assert parse(text) is None


def test_a_dual_stack_socket_shows_the_proxy_as_ipv4_in_ipv6() -> None:
    assert HOME.address_of("::ffff:10.0.0.1", [CALLER]) == CALLER
    assert NOBODY.address_of("::ffff:10.0.0.1") == "10.0.0.1"
    assert Peers(("::ffff:10.0.0.0/104",)).address_of("10.0.0.1", [CALLER]) == CALLER


@pytest.mark.parametrize(
    "peer",
    [
        "127.0.0.1",
        "10.0.0.1",
        "172.31.255.1",
        "192.168.1.1",
        "100.64.0.1",
        "169.254.1.1",
        "::1",
        "fd12::1",
        "fe80::1%eth0",
    ],
)
def test_private_is_every_network_from_which_nothing_comes_over_the_internet(peer: str) -> None:
    assert HOME.trusts(peer)
    assert not NOBODY.trusts(peer)


@pytest.mark.parametrize(
    "peer", ["8.8.8.8", "172.32.0.1", "100.128.0.1", "2600::1", "64:ff9b::a00:1", "2002:a00:1::", "", "nonsense"]
)
def test_what_may_come_over_the_internet_is_not_private(peer: str) -> None:
    assert not CLOUD.trusts(peer)
    assert HOME.trusts(peer) == (peer == "")


@pytest.mark.parametrize("peer", [None, "", LOCAL])
def test_a_unix_socket_counts_as_private(peer: str | None) -> None:
    assert NOBODY.address_of(peer, [CALLER]) == LOCAL
    assert CLOUD.address_of(peer, [CALLER]) == LOCAL
    assert HOME.address_of(peer, [CALLER]) == CALLER
    assert HOME.address_of(peer) == LOCAL


def test_named_networks_are_trusted_and_nothing_beside_them() -> None:
    assert CLOUD.address_of("203.0.113.9", [f"{CALLER}, 2001:db8:cf::5"]) == CALLER
    assert CLOUD.address_of("203.0.114.9", [CALLER]) == "203.0.114.9"
    assert "203.0.113.0/24" in repr(CLOUD)


def test_a_huge_header_costs_nothing_and_is_read_from_the_right() -> None:
    header = ["10.0.0.2," * 100_000 + CALLER + ", 10.0.0.2"] * 3
    began = time.perf_counter()
    assert HOME.address_of("10.0.0.1", header) == CALLER
    assert HOME.address_of("10.0.0.1", ["10.0.0.2," * 100_000]) == "10.0.0.2"
    assert time.perf_counter() - began < 0.5


def test_a_chain_of_proxies_longer_than_any_real_one_is_not_followed_to_its_end() -> None:
    assert HOME.address_of("10.0.0.1", [CALLER, *["10.0.0.2"] * (HOPS_MAX - 1)]) == CALLER
    assert HOME.address_of("10.0.0.1", [CALLER, *["10.0.0.2"] * HOPS_MAX]) == "10.0.0.2"


@given(st.one_of(st.none(), st.text(max_size=40)), st.lists(st.text(max_size=80), max_size=5))
def test_no_header_breaks_it(peer: str | None, header: list[str]) -> None:
    assert isinstance(HOME.address_of(peer, header), str)
    assert HOME.scheme_of(peer, header, "http") in ("http", "https")


@given(st.lists(st.ip_addresses().map(str), max_size=6))
def test_a_caller_can_only_add_to_the_left_of_what_proxies_say(invented: list[str]) -> None:
    """Whatever it sends itself, the trusted proxy appends who it is."""
    assert HOME.address_of("10.0.0.1", [", ".join([*invented, CALLER])]) == CALLER


@pytest.mark.parametrize(
    ("peer", "said", "scheme"),
    [
        ("10.0.0.1", ["https"], "https"),
        ("10.0.0.1", ["HTTPS"], "https"),
        ("10.0.0.1", ["https, http"], "https"),
        ("10.0.0.1", ["http"], "http"),
        ("10.0.0.1", ["gopher"], "http"),
        ("10.0.0.1", [], "http"),
        (CALLER, ["https"], "http"),
        ("", ["https"], "https"),
    ],
)
def test_how_the_caller_speaks_is_what_a_trusted_proxy_says(peer: str, said: list[str], scheme: str) -> None:
    assert HOME.scheme_of(peer, said, "http") == scheme


def test_a_proxy_that_speaks_tls_to_us_may_have_callers_that_do_not() -> None:
    assert HOME.scheme_of("10.0.0.1", ["http"], "https") == "http"
    assert HOME.scheme_of("10.0.0.1", [], "https") == "https"
    assert NOBODY.scheme_of("10.0.0.1", ["http"], "https") == "https"


def test_it_takes_what_the_setting_reads() -> None:
    trusted = kinds.NETWORKS.parse("private, 203.0.113.7, 2001:DB8::/32")
    assert Peers(trusted).address_of("203.0.113.7", [f"{CALLER}, 2001:db8::1, 10.0.0.1"]) == CALLER  # type: ignore[arg-type]
