"""The gateway that runs already."""

from gateway.doctor.case import Facts, GatewaySeen
from gateway.doctor.findings import BREAKS, NOTE
from gateway.doctor.gateway import check
from tests.support.doctoring import RENTS, case, codes, only


def seen(**values: object) -> Facts:
    return Facts(gateway=GatewaySeen(**values))  # type: ignore[arg-type]


def test_none_is_nothing_to_say() -> None:
    assert codes(check(case())) == []


def test_one_that_runs_is_a_note() -> None:
    said = only(check(case(seen(state="asleep"))), "gateway-runs")
    assert said.level is NOTE
    assert "port 8000, state asleep" in said.what
    assert said.cure == "curl -sk http://127.0.0.1:8000/health"


def test_its_address_is_the_one_that_it_listens_on() -> None:
    assert (
        "https://[::1]:8443/health"
        in only(check(case(seen(tls=True), HOST="::1", PORT="8443", TLS_CERT="/c.pem")), "gateway-runs").cure
    )


def test_its_address_is_in_the_scheme_that_it_speaks_whatever_this_shell_has_set() -> None:
    assert "https://127.0.0.1:8000/" in only(check(case(seen(tls=True))), "gateway-runs").cure
    assert "http://127.0.0.1:8000/" in only(check(case(seen(), TLS_CERT="/c.pem")), "gateway-runs").cure


def test_a_start_under_way_says_how_far_it_is() -> None:
    said = only(check(case(seen(state="starting", progress="loading 43%"))), "gateway-starting")
    assert said.what == "The running gateway is not ready: starting (loading 43%)."


def test_a_failed_engine_is_told_with_its_reason() -> None:
    facts = seen(state="failed", status="failed", reason="The model does not fit into memory.")
    said = only(check(case(facts, DATA_DIR="/data", LOG_NAME="chat")), "gateway-failed")
    assert said.level is BREAKS
    assert said.what == "The running gateway's engine has failed: The model does not fit into memory."
    assert said.cure == "tail -n 40 /data/logs/chat/*_engine.txt"


def test_one_that_can_rent_nothing_says_why_and_has_no_engines_log() -> None:
    facts = seen(state="failed", status="failed", reason="RunPod refuses the key of this gateway.")
    said = only(check(case(facts, **RENTS)), "gateway-cannot-rent")
    assert said.level is BREAKS and said.cure == "wakegate status"
    assert said.what == "The running gateway rents nothing: RunPod refuses the key of this gateway."


def test_one_that_does_not_answer_is_stuck() -> None:
    said = only(check(case(seen(silent="timed out", pid=4711))), "gateway-stuck")
    assert said.level is BREAKS and said.cure == "kill -TERM 4711"


def test_one_whose_heartbeat_is_old_is_stuck_though_it_answers() -> None:
    assert "heartbeat is older than 10 s" in only(check(case(seen(health_port=503))), "gateway-stuck").what
