"""EXPOSURE: who gets in past the keys, who reads the secrets, and whether TLS will hold. Without I/O."""

import shlex
from collections.abc import Iterator
from datetime import UTC, datetime

from gateway.config import KEY_LENGTH, host_and_port, is_public
from gateway.doctor.case import Case
from gateway.doctor.findings import BREAKS, DOUBTFUL, NOTE, Finding, found
from gateway.kinds import MONEY, shown

EXPIRES_SOON = 14.0
"""Days. Let's Encrypt's clients renew 30 days before the end."""
DAY = 86_400.0


def check(case: Case) -> Iterator[Finding]:
    yield from _engines(case)
    yield from _keys(case)
    yield from _keys_file(case)
    yield from _metrics(case)
    yield from _certificate(case)
    yield from _fallback(case)
    for path, mode in case.facts.readable if not case.around.in_container else ():  # a container has one user
        yield found("secret-readable", path=shlex.quote(path), mode=mode)


def _engines(case: Case) -> Iterator[Finding]:
    for engine in case.facts.engines:
        where = {"engine": engine.name, "address": engine.listener.address, "port": engine.listener.port}
        if engine.open_routes:
            level = BREAKS if case.is_public(engine.listener.port) else DOUBTFUL
            yield found("engine-open", level, routes=", ".join(engine.open_routes), **where)
        else:
            yield found("engine-beside", **where)


def _keys(case: Case) -> Iterator[Finding]:
    s, around = case.settings, case.around
    if s.auth_enabled is False:
        if case.listens_beyond_this_machine and not around.edge_asks_key:
            public = case.is_public(s.port)
            where = f"{s.host}, which the internet reaches" if public else s.host
            yield found("keys-off", BREAKS if public else DOUBTFUL, where=where)
        return
    left_to_edge = s.auth_enabled is None and around.edge_asks_key
    if s.api_key is None and s.api_keys_file is None and around.fleet and not left_to_edge:
        yield found("key-missing", platform=around.platform)
    for name, key in (("API_KEY", s.api_key), ("ADMIN_KEY", s.admin_key)):
        if key is not None and len(key.get_secret_value()) < KEY_LENGTH:
            yield found("key-short", name=name, least=KEY_LENGTH)


def _keys_file(case: Case) -> Iterator[Finding]:
    path, seen = case.settings.api_keys_file, case.facts.keys_file
    if path is None:
        return
    for problem in seen.problems:
        yield found("keys-file-wrong", problem=f"{path}: {problem}.")
    if not seen.count and not seen.problems and case.settings.api_key is None:
        yield found("keys-file-wrong", problem=f"{path} holds no key that can be used, and API_KEY is not set.")
    for doubt in seen.doubts:
        yield found("keys-file-doubtful", doubt=f"{path}: {doubt}.", path=shlex.quote(str(path)))
    if seen.in_clear:
        yield found("keys-in-clear", path=shlex.quote(str(path)))
    if seen.expired:
        names = ", ".join(seen.expired[:5]) + (" and others" if len(seen.expired) > 5 else "")
        yield found("key-expired", names=f"the key{'s' if len(seen.expired) > 1 else ''} of {names}")


def _metrics(case: Case) -> Iterator[Finding]:
    s, around = case.settings, case.around
    # RunPod's and Modal's edges bring TLS along; Vast passes on what we speak ourselves.
    if s.metrics_port and s.metrics_auth_enabled and around.platform == "vast" and case.is_public(s.metrics_port):
        yield found("metrics-in-clear", port=s.metrics_port)
    if s.metrics_auth_enabled or around.edge_asks_key or not case.listens_beyond_this_machine:
        return
    port = s.metrics_port or s.port
    if case.is_public(port):
        yield found("metrics-open", port=port, who="the internet")
    elif not around.in_container:
        yield found("metrics-open", NOTE, port=port, who="your network")


def _fallback(case: Case) -> Iterator[Finding]:
    """Who else answers, and whether it would."""
    s = case.settings
    if not s.has_fallback or s.fallback_url is None:
        return
    host, _ = host_and_port(s.fallback_url)
    limit = s.fallback_max_spend
    spelled = "without a limit" if limit is None else f"at most {MONEY.spell(limit)} dollars a month"
    when = ", ".join((*(("while it wakes",) if s.cold_start == "fallback" else ()), *s.fallback_on))
    model = shown(s.fallback_model)
    yield found("fallback", host=host, model=model, when=when, limit=spelled, url=s.fallback_url)
    if not is_public(host):
        return
    if limit is None:
        prices = "" if s.fallback_price_in is not None else " FALLBACK_PRICE_IN=0.15 FALLBACK_PRICE_OUT=0.60"
        yield found("fallback-without-limit", host=host, cure=f"export FALLBACK_MAX_SPEND=20{prices}")
    if s.fallback_api_key is None:
        yield found("fallback-without-key", host=host)


def _certificate(case: Case) -> Iterator[Finding]:
    path, seen = case.settings.tls_cert, case.facts.certificate
    if path is None:
        return
    shown = shlex.quote(str(path))
    if seen.problem:
        yield found("tls-unusable", problem=seen.problem, path=shown)
    if seen.warning:
        yield found("tls-expired", warning=seen.warning, path=shown)
    elif seen.ends is not None and (days := (seen.ends - case.facts.now) / DAY) < EXPIRES_SOON:
        ends = datetime.fromtimestamp(seen.ends, UTC).strftime("%Y-%m-%d %H:%M UTC")
        yield found("tls-expiring", days=days, ends=ends, path=shown)
