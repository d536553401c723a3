"""PLATFORMS: what RunPod, Vast and Modal want, as far as it can be seen from inside. Without I/O.

The facts: PLATFORMS.md A.1-A.6 of the project's notes, with RunPod's pages `serverless/load-balancing/overview.mdx`,
`serverless/endpoints/endpoint-configurations.mdx` and `serverless/development/optimization.mdx`; Vast's instance
environment; Modal's `web_server`. Whether RunPod's edge strips `Authorization` is not known: a key of ours in it is
refused there in any case, unless it is RunPod's own.
"""

from collections.abc import Iterator

from gateway.doctor.case import Case
from gateway.doctor.findings import BREAKS, DOUBTFUL, NOTE, Finding, Level, found
from gateway.surroundings import EDGE_HOLD

NO_WORKER = 120.0
"""Seconds that RunPod's load balancer lets a request wait for a healthy worker."""
INIT_TIMEOUT = 420.0
"""Seconds that RunPod gives a worker to become healthy, unless RUNPOD_INIT_TIMEOUT says more."""
IDENTITY = 70_000
"""Asking for a port from here on means: any port, but the same number inside and outside."""
DAY = 86_400.0


def check(case: Case) -> Iterator[Finding]:
    platform = case.around.platform
    if platform == "runpod-serverless":
        yield from _runpod_serverless(case)
    elif platform == "runpod-pod":
        yield from _runpod_pod(case)
    elif platform == "vast":
        yield from _mapped(case, "Vast")
        if case.settings.tls_cert is None:
            yield found("vast-plain-http", host=case.around.public_ip or "203.0.113.7")
    elif platform == "modal":
        off = case.settings.auth_enabled is False
        keys = "And keys are off." if off else "Our own key is asked for, after the container has started."
        yield found("modal-proxy-auth", DOUBTFUL if off else NOTE, keys=keys)


# --- RunPod ----------------------------------------------------------------------------------------------------------


def _runpod_serverless(case: Case) -> Iterator[Finding]:
    s = case.settings
    endpoint = case.around.endpoint_id or "$RUNPOD_ENDPOINT_ID"
    yield from _told_ports(case)
    yield found("runpod-ports-exposed", port=s.port, health=s.port_health, endpoint=endpoint)
    yield from _authorization(case)
    yield from _idle(case, endpoint)
    slowest = case.facts.slowest_start
    if slowest is None:
        return
    if slowest > NO_WORKER and s.health_mode == "strict":
        yield found("runpod-slow-start", seconds=slowest)
    told = case.facts.told.get("RUNPOD_INIT_TIMEOUT", "")
    allowed = float(told) if told.isdecimal() else INIT_TIMEOUT
    if slowest > allowed and s.health_mode == "strict":
        yield found("runpod-init-timeout", seconds=slowest, allowed=allowed, wanted=int(slowest * 2 // 60 + 1) * 60)


def _told_ports(case: Case) -> Iterator[Finding]:
    """RunPod reads PORT and PORT_HEALTH from the endpoint's environment: `.env`, and names with a prefix, are ours."""
    wanted = (("PORT", case.settings.port), ("PORT_HEALTH", case.settings.port_health))
    missing = [name for name, _ in wanted if not case.facts.told.get(name)]
    if missing:
        names = " and ".join(missing) + (" is" if len(missing) == 1 else " are")
        yield found("runpod-ports-unset", names=names, port=case.settings.port, health=case.settings.port_health)
    for name, port in wanted:
        told = case.facts.told.get(name)
        if told and told != str(port):
            yield found("runpod-ports-differ", name=name, told=told, port=port)


def _authorization(case: Case) -> Iterator[Finding]:
    s = case.settings
    has_keys = s.auth_enabled is not False and (s.api_key or s.api_keys_file or s.auth_enabled)
    ours = "Callers send our own key as X-API-Key." if has_keys else "No key of our own is asked for besides."
    header = ' -H "X-API-Key: $API_KEY"' if has_keys else ""
    url = f"https://{case.around.endpoint_id or '$RUNPOD_ENDPOINT_ID'}.api.runpod.ai"
    yield found("runpod-authorization", ours=ours, header=header, url=url)


def _idle(case: Case, endpoint: str) -> Iterator[Finding]:
    requests = case.facts.requests
    days = (case.facts.now - requests[-1].at) / DAY if requests else 0.0
    if days >= 2:
        yield found("runpod-idle-endpoint", DOUBTFUL, endpoint=endpoint, seen=f"The last one was {days:.0f} days ago.")
    else:
        yield found("runpod-idle-endpoint", endpoint=endpoint, seen="")


def _runpod_pod(case: Case) -> Iterator[Finding]:
    pod = case.around.pod_id or "$RUNPOD_POD_ID"
    if case.facts.told.get("RUNPOD_GPU_COUNT") == "0":
        yield found("pod-without-gpu", pod=pod)
    hold = case.settings.hold_max or EDGE_HOLD
    yield found("runpod-pod-proxy", hold=f"{hold:.0f}", url=f"https://{pod}-{case.settings.port}.proxy.runpod.net")
    yield from _identity(case)


# --- Ports that are passed on ----------------------------------------------------------------------------------------


def _mapped(case: Case, platform: str) -> Iterator[Finding]:
    port, pairs = case.settings.port, case.around.public_ports
    identity = [outside for inside, outside in pairs if inside >= IDENTITY]
    if port in identity or port in (inside for inside, _ in pairs):
        yield from _identity(case)
    elif identity:
        yield from _identity(case, BREAKS)
    else:
        mapped = ", ".join(f"{inside} as {outside}" for inside, outside in pairs) or "none is"
        others = (22, 1111, 8080, case.settings.port_health)  # SSH and the pages of Vast's own images
        inside = next((inside for inside, _ in pairs if inside not in others), None)
        cure = f"export PORT={inside}" if inside else f"vastai create instance … --env '-p {port}:{port}'"
        yield found("vast-port-unmapped", port=port, platform=platform, mapped=mapped, cure=cure)


def _identity(case: Case, level: Level = NOTE) -> Iterator[Finding]:
    port = case.settings.port
    inside = {inside for inside, _ in case.around.public_ports}
    for asked, outside in case.around.public_ports:
        if asked >= IDENTITY and port != outside and (level is BREAKS or port not in inside):
            yield found("identity-port", level, asked=asked, outside=outside, port=port)
