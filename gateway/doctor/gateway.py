"""THE GATEWAY that runs here already, if one does: what its two ports say. Without I/O."""

from collections.abc import Iterator

from gateway.doctor.case import Case
from gateway.doctor.findings import Finding, found


def check(case: Case) -> Iterator[Finding]:
    s, gateway = case.settings, case.facts.gateway
    if gateway is None:
        return
    host = "127.0.0.1" if s.host in ("0.0.0.0", "::") else s.host  # noqa: S104 - compared, not listened on
    shown = f"[{host}]" if ":" in host else host
    url = f"{'https' if gateway.tls else 'http'}://{shown}:{s.port}"
    if gateway.silent or gateway.health_port == 503:
        detail = gateway.silent or "its heartbeat is older than 10 s"
        yield found("gateway-stuck", port=s.port, detail=detail, pid=gateway.pid or "<its process>")
        return
    if gateway.status == "failed" and s.rents:
        yield found("gateway-cannot-rent", reason=gateway.reason or "it says no reason.")
    elif gateway.status == "failed":
        logs = s.data_dir / "logs" / s.log_name
        yield found("gateway-failed", reason=gateway.reason or "it says no reason.", logs=logs)
    elif gateway.state in ("starting", "draining", "stopping"):
        state = f"{gateway.state} ({gateway.progress})" if gateway.progress else gateway.state
        yield found("gateway-starting", state=state, url=url)
    else:
        yield found("gateway-runs", port=s.port, state=gateway.state, url=url)
