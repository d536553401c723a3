"""What RunPod, Vast and Modal want."""

from dataclasses import replace

import pytest

from gateway.doctor.case import Facts, Request
from gateway.doctor.findings import BREAKS, DOUBTFUL, NOTE
from gateway.doctor.platforms import check
from gateway.surroundings import Surroundings
from tests.support.doctoring import KEY, PLAIN, POD, SERVERLESS, VAST, case, codes, only

TOLD = {"PORT": "8000", "PORT_HEALTH": "8001"}
NOTES = ["runpod-ports-exposed", "runpod-authorization", "runpod-idle-endpoint"]
DAY = 86_400.0


def told(**values: str) -> Facts:
    return Facts(told={**TOLD, **values})


def test_a_plain_machine_has_no_platform() -> None:
    assert codes(check(case())) == []


# --- RunPod serverless -----------------------------------------------------------------------------------------------


def test_a_worker_as_it_should_be_has_only_notes() -> None:
    findings = list(check(case(told(), SERVERLESS, API_KEY=KEY)))
    assert codes(findings) == NOTES
    assert {finding.level for finding in findings} == {NOTE}


@pytest.mark.parametrize(
    ("there", "named"),
    [
        ({}, "PORT and PORT_HEALTH are"),
        ({"PORT": "8000"}, "PORT_HEALTH is"),
        ({"PORT_HEALTH": "8001"}, "PORT is"),
    ],
)
def test_both_ports_must_stand_in_the_endpoints_environment(there: dict[str, str], named: str) -> None:
    said = only(check(case(Facts(told=there), SERVERLESS)), "runpod-ports-unset")
    assert said.level is BREAKS
    assert said.what == f"{named} not set in the endpoint's environment."
    assert said.cure == "export PORT=8000 PORT_HEALTH=8001"


def test_a_port_with_our_prefix_is_none_that_runpod_reads() -> None:
    said = only(check(case(told(), SERVERLESS, PORT="8000", WAKEGATE_PORT="9000")), "runpod-ports-differ")
    assert said.level is BREAKS and "PORT=8000, and the gateway listens on 9000" in said.what


def test_both_ports_must_be_exposed() -> None:
    assert "8000/http and 8001/http" in only(check(case(told(), SERVERLESS)), "runpod-ports-exposed").what


def test_the_authorization_header_belongs_to_the_edge() -> None:
    said = only(check(case(told(), SERVERLESS, API_KEY=KEY)), "runpod-authorization")
    assert "our own key as X-API-Key" in said.what
    assert said.cure == (
        'curl https://ep42.api.runpod.ai/v1/models -H "Authorization: Bearer $RUNPOD_API_KEY" -H "X-API-Key: $API_KEY"'
    )
    assert KEY not in said.cure
    without = only(check(case(told(), SERVERLESS)), "runpod-authorization")
    assert "No key of our own" in without.what and "X-API-Key" not in without.cure


def test_an_endpoint_without_requests_is_turned_off() -> None:
    said = only(check(case(told(), SERVERLESS)), "runpod-idle-endpoint")
    assert said.level is NOTE
    assert "2 workers after 3 days, and to 0 after 7 days" in said.what
    assert "/v2/serverless/ep42" in said.cure and '{"workers": {"max": 3}}' in said.cure


def test_an_endpoint_whose_last_request_is_days_ago_is_doubtful() -> None:
    facts = told()
    facts = replace(facts, requests=(Request(facts.now - 4 * DAY, "k", "/v1/chat/completions"),))
    said = only(check(case(facts, SERVERLESS)), "runpod-idle-endpoint")
    assert said.level is DOUBTFUL and "The last one was 4 days ago." in said.what


def test_strict_health_with_starts_longer_than_runpod_waits() -> None:
    facts = replace(told(), slowest_start=180.0)
    said = only(check(case(facts, SERVERLESS, HEALTH_MODE="strict")), "runpod-slow-start")
    assert said.level is BREAKS and said.cure == "export HEALTH_MODE=hold"
    assert codes(check(case(facts, SERVERLESS, HEALTH_MODE="hold"))) == NOTES
    assert codes(check(case(facts, SERVERLESS))) == NOTES  # auto decides by the same number


def test_starts_longer_than_a_worker_is_given() -> None:
    facts = replace(told(), slowest_start=500.0)
    said = only(check(case(facts, SERVERLESS, HEALTH_MODE="strict")), "runpod-init-timeout")
    assert said.cure == "export RUNPOD_INIT_TIMEOUT=1020"
    longer = replace(facts, told={**TOLD, "RUNPOD_INIT_TIMEOUT": "800"})
    assert "runpod-init-timeout" not in codes(check(case(longer, SERVERLESS, HEALTH_MODE="strict")))


# --- RunPod pods -----------------------------------------------------------------------------------------------------


def test_a_pods_proxy_is_public_and_impatient() -> None:
    said = only(check(case(around=POD)), "runpod-pod-proxy")
    assert said.level is NOTE and said.cure == "curl https://abc123-8000.proxy.runpod.net/health"


def test_a_pod_that_lost_its_gpus() -> None:
    said = only(check(case(Facts(told={"RUNPOD_GPU_COUNT": "0"}), POD)), "pod-without-gpu")
    assert said.level is BREAKS and "/v2/pods/abc123" in said.cure


# --- Vast ------------------------------------------------------------------------------------------------------------


def vast(*ports: tuple[int, int]) -> Surroundings:
    return replace(VAST, public_ports=ports)


def test_a_port_that_vast_passes_on_with_tls_is_nothing_to_say() -> None:
    assert codes(check(case(around=VAST, TLS_CERT="/c.pem"))) == []


def test_nothing_on_vast_speaks_tls() -> None:
    said = only(check(case(around=VAST)), "vast-plain-http")
    assert said.level is DOUBTFUL and "IP:203.0.113.7" in said.cure


def test_a_port_that_vast_does_not_pass_on() -> None:
    said = only(check(case(around=vast((22, 33001), (9000, 33002)))), "vast-port-unmapped")
    assert said.level is BREAKS
    assert "(22 as 33001, 9000 as 33002)" in said.what and said.cure == "export PORT=9000"
    assert "-p 8000:8000" in only(check(case(around=vast())), "vast-port-unmapped").cure


def test_an_identity_port_must_be_listened_on_by_its_outer_number() -> None:
    asked = vast((70000, 33526))
    said = only(check(case(around=asked)), "identity-port")
    assert said.level is BREAKS and said.cure == "export PORT=33526"
    assert "vast-port-unmapped" not in codes(check(case(around=asked)))
    assert codes(check(case(around=asked, PORT="33526", TLS_CERT="/c.pem"))) == []


def test_an_identity_port_beside_an_ordinary_one_may_be_meant_for_another_program() -> None:
    assert codes(check(case(around=vast((8000, 33001), (70000, 33526)), TLS_CERT="/c.pem"))) == []


def test_a_pods_symmetric_port_is_the_same() -> None:
    pod = replace(POD, public_ports=((70000, 41234),))
    assert only(check(case(around=pod)), "identity-port").level is NOTE  # the proxy may be meant


# --- Modal -----------------------------------------------------------------------------------------------------------


def test_modals_web_server_is_public() -> None:
    modal = replace(PLAIN, platform="modal", in_container=True)
    assert only(check(case(around=modal, API_KEY=KEY)), "modal-proxy-auth").level is NOTE
    assert only(check(case(around=modal, AUTH_ENABLED="false")), "modal-proxy-auth").level is DOUBTFUL
