"""Who gets in past the keys, who reads the secrets, whether TLS holds."""

from dataclasses import replace

import pytest

from gateway.doctor.case import CertificateSeen, EngineSeen, Facts, KeysFile, Listener
from gateway.doctor.exposure import check
from gateway.doctor.findings import BREAKS, DOUBTFUL, NOTE
from gateway.surroundings import Surroundings
from tests.support.doctoring import KEY, PLAIN, POD, SERVERLESS, VAST, case, codes, only

DAY = 86_400.0
BARE = EngineSeen("vLLM", Listener("0.0.0.0", 9000, "python3", 7), ("everything",))
MODAL = replace(PLAIN, platform="modal", in_container=True)
QUIET = {"API_KEY": KEY, "METRICS_AUTH_ENABLED": "true"}


def test_keys_and_metrics_closed_is_nothing_to_say() -> None:
    assert codes(check(case(**QUIET))) == []


# --- engines beside --------------------------------------------------------------------------------------------------


def test_a_bare_engine_on_a_public_port_breaks_and_elsewhere_is_doubtful() -> None:
    facts = Facts(engines=(BARE,))
    said = only(check(case(facts, POD, **QUIET)), "engine-open")
    assert said.level is BREAKS
    assert said.what == "vLLM listens on 0.0.0.0 port 9000, beside the gateway, and answers everything without a key."
    assert only(check(case(facts, **QUIET)), "engine-open").level is DOUBTFUL


def test_vast_exposes_only_the_ports_that_it_names() -> None:
    facts = Facts(engines=(BARE,))
    assert only(check(case(facts, VAST, **QUIET)), "engine-open").level is DOUBTFUL
    mapped = replace(VAST, public_ports=((9000, 33001),))
    assert only(check(case(facts, mapped, **QUIET)), "engine-open").level is BREAKS


def test_an_engine_that_is_not_known_to_answer_without_a_key_is_doubtful() -> None:
    facts = Facts(engines=(replace(BARE, open_routes=()),))
    assert only(check(case(facts, POD, **QUIET)), "engine-beside").level is DOUBTFUL


# --- keys ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("around", "host", "level"),
    [
        (PLAIN, "127.0.0.1", None),
        (PLAIN, "0.0.0.0", DOUBTFUL),
        (POD, "0.0.0.0", BREAKS),
        (SERVERLESS, "0.0.0.0", None),  # RunPod's edge asks for a key
    ],
)
def test_keys_off_matters_where_others_reach_it(around: Surroundings, host: str, level: object) -> None:
    findings = check(case(around=around, AUTH_ENABLED="false", HOST=host, METRICS_AUTH_ENABLED="true"))
    assert [f.level for f in findings if f.code == "keys-off"] == ([level] if level else [])


def test_a_fleet_needs_a_key_that_all_of_it_shares() -> None:
    assert only(check(case(around=MODAL)), "key-missing").level is BREAKS
    assert "key-missing" not in codes(check(case(around=SERVERLESS)))
    assert only(check(case(around=SERVERLESS, AUTH_ENABLED="true")), "key-missing").level is BREAKS
    assert "key-missing" not in codes(check(case(around=MODAL, API_KEYS_FILE="/keys")))


def test_short_keys_are_named_and_not_shown() -> None:
    findings = list(check(case(API_KEY="hunter2", ADMIN_KEY="swordfish", METRICS_AUTH_ENABLED="true")))
    assert codes(findings) == ["key-short", "key-short"]
    assert "hunter2" not in repr(findings) and "swordfish" not in repr(findings)


def test_a_file_of_keys_that_is_wrong_doubtful_in_clear_or_out_of_date() -> None:
    seen = KeysFile(("line 3: no hash",), ("others can read it",), in_clear=True, expired=("alice", "bob"))
    findings = list(check(case(Facts(keys_file=seen), API_KEYS_FILE="/data/keys.toml", METRICS_AUTH_ENABLED="true")))
    assert codes(findings) == ["keys-file-wrong", "keys-file-doubtful", "keys-in-clear", "key-expired"]
    assert findings[0].what == "API_KEYS_FILE: /data/keys.toml: line 3: no hash."
    assert findings[3].what == "API_KEYS_FILE: the keys of alice, bob expired."


def test_a_file_without_any_key_that_counts_lets_nobody_in() -> None:
    facts = Facts(keys_file=KeysFile(count=0))
    only(check(case(facts, API_KEYS_FILE="/keys")), "keys-file-wrong")
    assert "keys-file-wrong" not in codes(check(case(facts, API_KEYS_FILE="/keys", API_KEY=KEY)))


def test_files_with_secrets_that_others_may_read() -> None:
    facts = Facts(readable=(("/srv/my .env", 0o100644 & 0o7777),))
    said = only(check(case(facts, **QUIET)), "secret-readable")
    assert "(mode 0644)" in said.what and said.cure == "chmod 600 '/srv/my .env'"
    assert codes(check(case(facts, POD, **QUIET))) == []  # a container has one user


# --- metrics ---------------------------------------------------------------------------------------------------------


def test_metrics_without_a_key() -> None:
    assert only(check(case(around=POD, API_KEY=KEY, METRICS_AUTH_ENABLED="false")), "metrics-open").level is DOUBTFUL
    assert only(check(case(API_KEY=KEY)), "metrics-open").level is NOTE
    assert codes(check(case(around=POD, API_KEY=KEY))) == []  # auto: closed there
    assert codes(check(case(around=SERVERLESS, METRICS_AUTH_ENABLED="false"))) == []
    assert codes(check(case(API_KEY=KEY, HOST="127.0.0.1"))) == []


def test_a_port_of_their_own_that_vast_does_not_pass_on_is_closed() -> None:
    open_there = {"API_KEY": KEY, "METRICS_AUTH_ENABLED": "false"}
    assert codes(check(case(around=VAST, **open_there))) == ["metrics-open"]
    assert codes(check(case(around=VAST, METRICS_PORT="9090", **open_there))) == []


def test_a_key_for_metrics_does_not_cross_the_internet_in_the_clear() -> None:
    """METRICS_PORT speaks no TLS, whatever TLS_CERT says."""
    passed_on = replace(VAST, public_ports=((8000, 33526), (9090, 33527)))
    there = {"API_KEY": KEY, "METRICS_PORT": "9090", "TLS_CERT": "/c.pem"}
    assert only(check(case(around=passed_on, **there)), "metrics-in-clear").cure == "unset METRICS_PORT"
    assert "metrics-in-clear" not in codes(check(case(around=VAST, **there)))
    assert "metrics-in-clear" not in codes(check(case(around=POD, **there)))


# --- TLS -------------------------------------------------------------------------------------------------------------


def tls(**values: object) -> list[str]:
    facts = Facts(certificate=CertificateSeen(**values))  # type: ignore[arg-type]
    return codes(check(case(facts, TLS_CERT="/c.pem", **QUIET)))


def test_a_certificate_that_holds_is_nothing_to_say() -> None:
    assert tls(ends=Facts().now + 60 * DAY) == []


def test_a_certificate_that_cannot_be_used_is_over_or_soon_will_be() -> None:
    assert tls(problem="TLS_CERT: /c.pem is not there; set it to a file in PEM.") == ["tls-unusable"]
    assert tls(warning="TLS_CERT: /c.pem has expired.", ends=Facts().now - DAY) == ["tls-expired"]
    assert tls(ends=Facts().now + 3 * DAY) == ["tls-expiring"]


# --- who else answers ------------------------------------------------------------------------------------------------

ELSEWHERE = {
    **QUIET,
    "COLD_START": "fallback",
    "FALLBACK_URL": "https://api.example.com/v1",
    "FALLBACK_MODEL": "small",
    "FALLBACK_API_KEY": KEY,
    "FALLBACK_PRICE_IN": "0.15",
    "FALLBACK_PRICE_OUT": "0.6",
    "FALLBACK_MAX_SPEND": "20",
}


def test_a_fallback_that_is_set_up_rightly_is_a_note() -> None:
    said = only(check(case(**ELSEWHERE, FALLBACK_ON="queue_full")), "fallback")
    assert said.level is NOTE and codes(check(case(**ELSEWHERE))) == ["fallback"]
    assert said.what == (
        'Requests leave for api.example.com and are asked there as "small": while it wakes, queue_full; '
        "at most 20 dollars a month."
    )


def test_a_fallback_that_may_cost_anything_or_has_no_key_is_doubtful() -> None:
    without = ELSEWHERE | {"FALLBACK_MAX_SPEND": "", "FALLBACK_API_KEY": ""}
    assert codes(check(case(**without))) == ["fallback", "fallback-without-limit", "fallback-without-key"]
    said = only(check(case(**without)), "fallback-without-limit")
    assert (said.level, said.cure) == (DOUBTFUL, "export FALLBACK_MAX_SPEND=20")


def test_a_fallback_of_ones_own_costs_nothing() -> None:
    own = ELSEWHERE | {"FALLBACK_MAX_SPEND": "", "FALLBACK_API_KEY": "", "FALLBACK_URL": "http://10.0.0.7:8000"}
    assert codes(check(case(**own))) == ["fallback"]


def test_a_fallback_that_nobody_asks_is_not_spoken_of() -> None:
    assert codes(check(case(**(ELSEWHERE | {"COLD_START": "hold"})))) == []
