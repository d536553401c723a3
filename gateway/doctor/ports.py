"""PORTS: taken, forbidden, on an address that is not ours, or silent while the gateway runs. Without I/O."""

import itertools
from collections.abc import Iterator

from gateway.doctor.case import Case, Listener
from gateway.doctor.findings import BREAKS, DOUBTFUL, Finding, found


def check(case: Case) -> Iterator[Finding]:
    s, facts, gateway = case.settings, case.facts, case.facts.gateway
    wanted = [("PORT", s.port), ("PORT_HEALTH", s.port_health), ("METRICS_PORT", s.metrics_port)]
    for name, port in wanted:
        if not port:
            continue
        if gateway is not None and (name != "PORT_HEALTH" or gateway.health_port is not None or gateway.health_hangs):
            continue  # its own
        listener = _in_the_way(case, port)
        if listener is not None:
            yield found("port-taken", name=name, port=port, who=listener.who, free=_free(case, port))
        elif port < facts.lowest_port and not facts.may_listen_low:
            free = _free(case, max(facts.lowest_port, 8000))
            yield found("port-needs-right", name=name, port=port, lowest=facts.lowest_port, free=free)
    yield from _address(case)
    yield from _silent(case)


def _address(case: Case) -> Iterator[Finding]:
    s, around = case.settings, case.around
    if case.facts.host_problem:
        yield found("host-not-here", host=s.host, problem=case.facts.host_problem)
    elif around.in_container and not case.listens_beyond_this_machine:
        yield found("host-loopback", BREAKS if around.is_worker else DOUBTFUL, host=s.host)


def _silent(case: Case) -> Iterator[Finding]:
    """The gateway runs: so must what belongs to it."""
    s, gateway = case.settings, case.facts.gateway
    if gateway is None:
        return
    if gateway.health_hangs:
        yield found("health-port-silent", port=s.port_health, detail="its server listens, and says nothing")
    elif gateway.health_port is None and _in_the_way(case, s.port_health) is None:
        yield found("health-port-silent", port=s.port_health, detail="nothing listens there")
    if s.metrics_port and not gateway.metrics_port:
        yield found("metrics-port-silent", port=s.metrics_port)


def _in_the_way(case: Case, port: int) -> Listener | None:
    """Who would keep us from listening there: a listener on another address of this machine does not."""
    host = case.settings.host
    for listener in case.facts.listeners:
        if listener.port != port:
            continue
        everywhere = host in ("0.0.0.0", "::") or listener.is_wildcard  # noqa: S104 - compared, not listened on
        if everywhere or listener.address == host or (host == "localhost" and listener.is_loopback):
            return listener
    return None


def _free(case: Case, port: int) -> int:
    """A port near that one which nobody has."""
    s = case.settings
    taken = {listener.port for listener in case.facts.listeners} | {s.port, s.port_health, s.metrics_port}
    return next(free for free in itertools.chain(range(port + 80, 65536), range(8080, 65536)) if free not in taken)
