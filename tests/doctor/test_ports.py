"""Ports: taken, forbidden, elsewhere, silent."""

from dataclasses import replace

import pytest

from gateway.doctor.case import Facts, GatewaySeen, Listener
from gateway.doctor.findings import BREAKS, DOUBTFUL
from gateway.doctor.ports import check
from tests.support.doctoring import POD, case, codes, only

NGINX = Listener("0.0.0.0", 8000, "nginx", 4711)


def test_free_ports_are_nothing_to_say() -> None:
    assert codes(check(case())) == []
    assert codes(check(case(Facts(listeners=(Listener("0.0.0.0", 9999),))))) == []


def test_a_port_that_somebody_else_has_is_told_with_who_and_with_a_free_one() -> None:
    said = only(check(case(Facts(listeners=(NGINX, Listener("::", 8080))))), "port-taken")
    assert said.level is BREAKS
    assert said.what == "PORT: port 8000 is taken by nginx (process 4711)."
    assert said.cure == "export PORT=8081"


@pytest.mark.parametrize("name", ["PORT", "PORT_HEALTH", "METRICS_PORT"])
def test_each_of_the_three_ports_is_looked_at(name: str) -> None:
    said = only(check(case(Facts(listeners=(Listener("::", 7777),)), **{name: "7777"})), "port-taken")
    assert said.what == f"{name}: port 7777 is taken by another user's process (only root sees which)."


def test_the_same_port_on_another_address_is_not_in_the_way() -> None:
    on_loopback = Facts(listeners=(Listener("127.0.0.1", 8000, "other", 1),))
    assert codes(check(case(on_loopback, HOST="192.168.1.20"))) == []
    assert codes(check(case(on_loopback, HOST="localhost"))) == ["port-taken"]
    assert codes(check(case(on_loopback, HOST="0.0.0.0"))) == ["port-taken"]


def test_our_own_gateway_on_them_is_no_stranger() -> None:
    running = Facts(listeners=(NGINX, Listener("0.0.0.0", 8001)), gateway=GatewaySeen())
    assert codes(check(case(running))) == []


def test_a_gateway_whose_health_port_nobody_serves() -> None:
    said = only(check(case(Facts(gateway=GatewaySeen(health_port=None)))), "health-port-silent")
    assert said.level is BREAKS
    assert "port 8001" in said.what and said.cure == "curl -i http://127.0.0.1:8001/ping"


def test_a_stranger_on_the_health_port_of_a_running_gateway() -> None:
    facts = Facts(listeners=(NGINX, Listener("0.0.0.0", 8001, "java", 9)), gateway=GatewaySeen(health_port=None))
    assert "PORT_HEALTH: port 8001 is taken by java" in only(check(case(facts)), "port-taken").what


def test_a_health_server_of_our_own_that_hangs_is_silent_and_no_stranger() -> None:
    facts = Facts(
        listeners=(NGINX, Listener("0.0.0.0", 8001, "python", 9)),
        gateway=GatewaySeen(health_port=None, health_hangs=True),
    )
    found = list(check(case(facts)))
    assert codes(found) == ["health-port-silent"]
    assert "its server listens, and says nothing" in found[0].what


def test_a_metrics_port_that_nobody_serves_while_the_gateway_runs() -> None:
    facts = Facts(gateway=GatewaySeen(metrics_port=False))
    assert codes(check(case(facts, METRICS_PORT="9090"))) == ["metrics-port-silent"]
    assert codes(check(case(facts))) == []


def test_a_port_below_1024_needs_a_right() -> None:
    said = only(check(case(Facts(may_listen_low=False), PORT="80")), "port-needs-right")
    assert said.level is BREAKS and said.cure == "export PORT=8080"
    assert codes(check(case(Facts(may_listen_low=True), PORT="80"))) == []
    assert codes(check(case(Facts(may_listen_low=False, lowest_port=0), PORT="80"))) == []


def test_a_host_that_is_not_ours() -> None:
    facts = Facts(host_problem="Cannot assign requested address")
    assert only(check(case(facts, HOST="203.0.113.9")), "host-not-here").cure == "export HOST=0.0.0.0"


def test_loopback_inside_a_container_is_reached_by_nobody() -> None:
    assert only(check(case(around=POD, HOST="127.0.0.1")), "host-loopback").level is BREAKS
    docker = replace(POD, platform="container")
    assert only(check(case(around=docker, HOST="127.0.0.1")), "host-loopback").level is DOUBTFUL
    assert codes(check(case(HOST="127.0.0.1"))) == []
