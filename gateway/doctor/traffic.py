"""TRAFFIC: what the request log tells about monitors and about idle times. Without I/O.

What counts, and costs, are the requests with a key that are in it. A monitor is told from people by its clock: the same
key and route, tiny, at a fixed interval. Pages (/ping, /health, /metrics) wake nothing and are only summed up there:
they cost where the platform counts what passes its edge (PLATFORMS.md 0 of the project's notes: "a client-sent GET
/ping does count as a request and resets idle").
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import pairwise
from statistics import median

from gateway.doctor.case import Case, Request
from gateway.doctor.findings import BREAKS, DOUBTFUL, Finding, found
from gateway.kinds import spell_duration

DAY = 86_400.0
ENOUGH = 8
"""Requests in a row before a rhythm is one."""
RHYTHM = 0.05
"""How far half of the gaps may lie from the usual one, as a share of it."""
TINY_QUESTION = 2048
TINY_ANSWER = 16
"""Tokens."""
AT_LEAST = 1800.0
"""Seconds of log before visits to pages are a habit."""
RARE = 7200.0
"""Seconds between two visits to a page from which on it may as well be a person."""
SPAN = 6 * 3600.0
"""Seconds of log before a day is reckoned from it."""
LONGEST_IDLE = 4 * 3600.0
"""Seconds: no longer idle time than this is ever proposed."""


def check(case: Case) -> Iterator[Finding]:
    monitors = list(_monitors(case.facts.requests))
    for key, route, every, count in monitors:
        yield _monitor(case, key, route, every, count)
    yield from _pages(case)
    watched = {(key, route) for key, route, _, _ in monitors}
    yield from _idle(case, [r for r in case.facts.requests if (r.key, r.route) not in watched])


def _monitors(requests: Sequence[Request]) -> Iterator[tuple[str, str, float, int]]:
    """(key, route, seconds between, how many) for each rhythm."""
    groups: dict[tuple[str, str], list[Request]] = {}
    for request in requests:
        if request.bytes_in <= TINY_QUESTION and (request.tokens_out or 0) <= TINY_ANSWER:
            groups.setdefault((request.key, request.route), []).append(request)
    for (key, route), group in groups.items():
        gaps = _gaps([request.at - request.took for request in group])
        if len(gaps) + 1 < ENOUGH:
            continue
        usual = median(gaps)
        # Half of the gaps close to the usual one: pauses in between (a worker that was away) do not hide a rhythm.
        if usual >= 5 and median(abs(gap - usual) for gap in gaps) <= RHYTHM * usual:
            yield key, route, usual, len(group)


def _pages(case: Case) -> Iterator[Finding]:
    """Whether somebody asks for pages so often that a platform keeps workers for it."""
    if not case.around.edge_counts_all or not case.facts.pages:
        return
    begin = min(asked.at - asked.tally.seconds for asked in case.facts.pages)
    span = max(asked.at for asked in case.facts.pages) - begin
    counts: Counter[str] = Counter()
    for asked in case.facts.pages:
        counts.update(asked.tally.counts)
    for page, count in counts.most_common() if span >= AT_LEAST else ():
        if count >= ENOUGH and span / count < RARE:
            # Chat pages ask for the models each time they are opened: that may as well be people.
            level = DOUBTFUL if page.startswith("/v1/") else BREAKS
            values = {"page": page, "count": count, "every": _about(span / count), "cure": _instead(case)}
            yield found("monitor-of-pages", level, **values)


def _instead(case: Case) -> str:
    """What a monitor may ask that starts no worker."""
    around = case.around
    if around.platform == "runpod-serverless" and around.endpoint_id:
        url = f"https://api.runpod.ai/v2/{around.endpoint_id}/health"
        return f'curl {url} -H "Authorization: Bearer $RUNPOD_API_KEY"'
    if around.platform == "modal":
        return "modal container list"
    return f"curl -f http://127.0.0.1:{case.settings.port_health}/readyz"


def _monitor(case: Case, key: str, route: str, every: float, count: int) -> Finding:
    idle, around = case.settings.idle_timeout, case.around
    # It costs where somebody pays by the second, and where it comes before the engine would have gone to sleep.
    costs = around.is_worker or (idle is not None and every < idle)
    who = f"The key {key}" if key else "Somebody"
    values = {"who": who, "route": route, "every": _about(every), "count": count, "cure": _instead(case)}
    return found("monitor", BREAKS if costs else DOUBTFUL, **values)


def _idle(case: Case, requests: Sequence[Request]) -> Iterator[Finding]:
    """Whether most requests come after the engine has gone."""
    idle = case.settings.idle_timeout
    if idle is None or len(requests) < ENOUGH:
        return
    ends = [request.at for request in requests]
    span = ends[-1] - ends[0]
    gaps = _gaps(ends)
    usual = median(gaps)
    if span < SPAN or usual <= idle:
        return
    starts = sum(gap > idle for gap in gaps) * DAY / span
    better = min(LONGEST_IDLE, max(usual * 1.5, idle * 2))
    rounded = spell_duration(float(-(-better // 300) * 300))
    yield found("idle-too-short", gap=_about(usual), idle=spell_duration(idle), starts=f"{starts:.0f}", better=rounded)


def _gaps(times: Sequence[float]) -> list[float]:
    ordered = sorted(times)
    return [later - earlier for earlier, later in pairwise(ordered)]


def _about(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
