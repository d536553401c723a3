"""What Prometheus may ask. Names follow its conventions: `wakegate_` in front, base units, `_total` on counters.

No label comes from a caller: upstreams, routes, models and keys are those of the configuration, everything else is of
a closed set, so a million odd paths make no series. A page is at most 64 KiB: families stand in the order of their
worth, and what does not fit is left out, the last first (docs/reference/metrics.md is generated in this order).

The `process_…` series at the end are prometheus_client's own, by the names that every dashboard knows.

Here is counted what happened; what is so at the moment of a scrape stands in records/readings.py. A scrape reads and
changes nothing: it is no activity and wakes nothing. bench/metrics_scrape.py says what it costs.
"""

import platform
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, TypeVar

from gateway.errors import CATALOGUE
from gateway.policy import estimate
from gateway.records.ended import Ended
from gateway.records.lines import tokens_per_second
from gateway.records.readings import (
    MoneyFacts,
    ProcessFacts,
    StateTimes,
    UpstreamFacts,
    money_readings,
    process_readings,
    upstream_readings,
)
from gateway.records.series import (
    OTHER,
    Count,
    Described,
    Distribution,
    Family,
    Labels,
    Reading,
    counter,
    histogram,
    summary,
)

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

__all__ = ["CONTENT_TYPE", "Metrics", "MoneyFacts", "ProcessFacts", "StateTimes", "UpstreamFacts"]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
LARGEST_PAGE = 64 * 1024
KEPT_FOR_THE_END = 1536
"""Bytes in which the page says how much of it was left out, and what prometheus_client says of the process: 1 KiB."""
MOST_MODELS = 32
MOST_KEYS = 64

FIRST_BYTE_BUCKETS = (0.005, 0.025, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
"""Seconds: from a warm cache to a cold start of five minutes."""
TOOK_BUCKETS = (0.005, 0.05, 0.25, 1, 2.5, 5, 10, 30, 60, 120, 300, 900, 3600)
WAIT_BUCKETS = (0.005, 0.05, 0.25, 1, 2.5, 5, 10, 30, 60, 120, 300)
START_BUCKETS = (1, 2.5, 5, 10, 20, 30, 60, 90, 120, 180, 300, 600, 1200, 1800)
SPEED_BUCKETS = (1, 2.5, 5, 10, 20, 30, 50, 75, 100, 150, 250, 500, 1000)

OUTCOMES = ("answered", "refused", "left", "failed")
CODES = frozenset(
    {"", "gateway_fault", "write_timeout", *CATALOGUE, "400", "403", "404", "413", "422", "429", "500", "503"}
)
"""Ours, and the statuses of their own that engines are known to answer with."""
AUTH_FAILURES = ("missing", "wrong", "expired", "throttled", "doubled", "forbidden", "browser", OTHER)
RELOADED = ("keys", "tls", OTHER)
FALLBACK_OUTCOMES = ("answered", "declined", "unreached", "broke", "left", OTHER)
FALLBACK_CASES = ("waking", "no_capacity", "budget", "start_failed", "queue_full", OTHER)
OBJECTIONS = ("forbidden", "key", "route", "request", "crowded", "paused", "spend", "volume", OTHER)
START_OUTCOMES = ("ready", "failed", "timeout", "given_up", OTHER)
PHASES = ("ordered", *estimate.PHASES, OTHER)
WARNINGS = ("50", "80", "95")
"""Percent of the budget that were reached."""
CALLS = ("start", "create", "stop", "terminate", "look", "list", "prices", "bills", OTHER)
"""What a vendor's API is asked for."""
CALL_OUTCOMES = (
    "ok",
    "key",
    "balance",
    "capacity",
    "not_found",
    "conflict",
    "locked",
    "unprocessable",
    "limited",
    "failing",
    "unreachable",
    OTHER,
)
"""What came of it: well, or the kind of its refusal (gateway/providers/renting/vendor.py)."""
ALERT_OUTCOMES = ("sent", "lost")
ENDS = ("idle", "drained", "crashed", "unhealthy", OTHER)
"""Why an engine that was ready ended: not needed; the gateway left; by itself or by a signal; it served no more."""


@dataclass(frozen=True, slots=True)
class Lane:
    """The series of one route of one upstream, looked up once."""

    outcomes: Mapping[str, Count]
    first_byte: Distribution
    took: Distribution
    line: Distribution
    wake: Distribution
    speed: Distribution
    tokens_in: Count
    tokens_out: Count
    bytes_in: Count
    bytes_out: Count


@dataclass(frozen=True, slots=True)
class Account:
    """The series of one model or one key."""

    requests: Count
    tokens_in: Count
    tokens_out: Count

    def add(self, e: Ended) -> None:
        self.requests.inc()
        if not e.served_by:
            self.tokens_in.inc(e.tokens_in or 0)
            self.tokens_out.inc(e.tokens_out or 0)


F = TypeVar("F", bound=Described)


def standard_series() -> bytes:
    """process_cpu_seconds_total and the like, as every exporter has them.

    Imported by the first scrape: a gateway that nobody scrapes listens 12 ms earlier.
    """
    from prometheus_client import generate_latest

    return generate_latest(_process_registry())


@cache
def _process_registry() -> "CollectorRegistry":
    from prometheus_client import CollectorRegistry, ProcessCollector

    registry = CollectorRegistry(auto_describe=False)
    ProcessCollector(registry=registry)
    return registry


class Metrics:
    """All series of one gateway.

    `models`: the names that the configuration knows; any other is `other`. `key_names`: whether requests are counted by
    key, too. `routes` of `upstream` have counters that begin at zero, so that the very first request is an increase.
    """

    def __init__(
        self,
        *,
        models: Iterable[str] = (),
        key_names: bool = False,
        routes: Iterable[str] = (),
        upstream: str = "default",
        version: str = "",
    ) -> None:
        self._families: list[Described] = []
        """In the order of their worth."""
        self._left_out: set[str] = set()
        self._read_upstreams: Callable[[], Iterable[UpstreamFacts]] = tuple
        self._read_process: Callable[[], ProcessFacts] = ProcessFacts
        self._read_money: Callable[[], MoneyFacts | None] = lambda: None
        self._upstreams: tuple[UpstreamFacts, ...] = ()
        self._process = ProcessFacts()
        self._money: MoneyFacts | None = None
        self._lanes: dict[tuple[str, str], Lane] = {}
        self._make_build_info(version)
        for each in upstream_readings(lambda: self._upstreams):
            self._add(each)
        for each in money_readings(lambda: self._money):
            self._add(each)
        self._make_request_counters()
        for each in process_readings(lambda: self._process):
            self._add(each)
        self._make_other_counters()
        self._make_histograms()
        self._by_model = self._accounts(
            "model", f"model, of the first {MOST_MODELS} that the configuration names; any other is `{OTHER}`"
        )
        self._by_key = self._accounts(
            "key", f"the name of the key, of the first {MOST_KEYS} that came (only with METRICS_KEY_NAMES)"
        )
        known = list(dict.fromkeys(models))[:MOST_MODELS]
        self._models = {name: account(self._by_model, name) for name in known}
        self._other_models = account(self._by_model, OTHER) if known else None
        self._key_names = key_names
        self._keys: dict[str, Account] = {}
        for route in routes:
            self._outcomes(upstream, route)

    # -- what there is, in the order of its worth -----------------------------------------------

    def _add(self, family: F) -> F:
        self._families.append(family)
        return family

    def _make_build_info(self, version: str) -> None:
        words = (version, platform.python_version())
        self._says_left_out = Reading(
            "wakegate_metrics_left_out",
            "gauge",
            "Families that are not on this page because it would be larger than 64 KiB.",
            (),
            lambda: [((), len(self._left_out))],
        )
        self._add(
            Reading(
                "wakegate_build_info",
                "gauge",
                "Always 1; what runs stands in its labels.",
                ("version", "python"),
                lambda: [(words, 1)],
            )
        )

    def _make_request_counters(self) -> None:
        self._requests = self._add(
            counter(
                "wakegate_requests_total",
                "Inference requests that ended: answered, refused, left (its caller did), failed.",
                ("upstream", "route", "outcome"),
                folds=("route", "upstream"),
            )
        )
        self._errors = self._add(
            counter(
                "wakegate_request_errors_total",
                "Inference requests that ended with a code: our refusal's, or the engine's status of 400 and above.",
                ("upstream", "code"),
                folds=("upstream",),
            )
        )
        self._rejects = self._add(
            counter(
                "wakegate_http_rejects_total",
                "Requests that were refused before they reached an inference route, by code.",
                ("code",),
            )
        )

    def _make_other_counters(self) -> None:
        self._starts_ended = self._add(
            counter(
                "wakegate_starts_ended_total",
                "Starts that came to their end: ready, failed, timeout, given_up (nobody waited any more).",
                ("upstream", "outcome"),
                at_most=40,
                folds=("upstream",),
            )
        )
        self._ends = self._add(
            counter(
                "wakegate_engine_ends_total",
                "Engines that were ready and ended: idle, drained (the gateway left), crashed (or killed), unhealthy "
                "(they lived, and served no more).",
                ("upstream", "reason"),
                at_most=40,
                folds=("upstream",),
            )
        )
        self._make_money_counters()
        self._auth_failures = self._add(
            counter(
                "wakegate_auth_failures_total",
                "Callers without a right key: missing, wrong, expired, throttled (too many wrong ones), doubled (two "
                "at once), forbidden (right, and may not), browser (a page of another origin).",
                ("reason",),
            )
        )
        for reason in AUTH_FAILURES:
            self._auth_failures.of(reason)
        self._reloads = self._add(
            counter(
                "wakegate_config_reloads_total",
                "Files that were read again while the gateway ran: keys, tls; ok or failed.",
                ("what", "result"),
            )
        )
        for what in RELOADED[:-1]:
            self._reloads.of(what, "ok")
            self._reloads.of(what, "failed")
        self._make_fallback_counters()
        self._surrogates = self._add(
            counter(
                "wakegate_lone_surrogates_total", "Halves of characters in request bodies that were replaced by U+FFFD."
            )
        )
        self.surrogates: Count = self._surrogates.of()
        self._volumes = [
            self._add(counter(name, meaning, ("upstream",), at_most=32, folds=("upstream",)))
            for name, meaning in (
                ("wakegate_input_tokens_total", "Tokens of prompts, where the engine's `usage` says them."),
                ("wakegate_output_tokens_total", "Tokens of answers, where the engine's `usage` says them."),
                ("wakegate_request_body_bytes_total", "Bytes of requests' bodies."),
                ("wakegate_response_body_bytes_total", "Bytes of answers' bodies."),
            )
        ]

    def _make_money_counters(self) -> None:
        self._warnings = self._add(
            counter(
                "wakegate_budget_warnings_total",
                "Times that this share of MONTHLY_BUDGET was reached, in percent.",
                ("percent",),
            )
        )
        self._calls = self._add(
            counter(
                "wakegate_provider_calls_total",
                "Calls to the API of a vendor, by what was asked for and what came of it: ok, or the kind of refusal.",
                ("provider", "call", "outcome"),
                at_most=16,
                folds=("call", "outcome", "provider"),
            )
        )
        self._alerts = self._add(
            counter(
                "wakegate_alerts_total",
                "Posts to ALERT_URL: sent, or lost (it did not take them, or too many waited).",
                ("outcome",),
            )
        )

    def _make_fallback_counters(self) -> None:
        self._read_fallback: Callable[[], float | None] = lambda: None
        self._fallback = self._add(
            counter(
                "wakegate_fallback_requests_total",
                "Requests that were sent to the fallback: answered, declined (with an error), unreached, broke (in the "
                "middle, or too late), left (its caller did, or could not wait for it, or the engine was ready first); "
                "and why they were sent. But for those that broke in the middle of a stream, and callers who left, all "
                "that were not answered were held instead.",
                ("outcome", "why"),
            )
        )
        self._fallback_not_asked = self._add(
            counter(
                "wakegate_fallback_not_asked_total",
                "Requests that the fallback was there for and that stayed: forbidden (by their header), key (it may "
                "not), route, request (of what stands in it), crowded (MAX_QUEUE_BYTES are on their way), paused (it "
                "failed just now), spend (FALLBACK_MAX_SPEND), volume (it keeps what was spent, and does not answer).",
                ("reason",),
            )
        )
        self._fallback_tokens = self._add(
            counter(
                "wakegate_fallback_tokens_total",
                "Tokens that the fallback read (in) and wrote (out), as it says. They are in no other series.",
                ("direction",),
            )
        )
        self._fallback_cost = self._add(
            counter(
                "wakegate_fallback_spend_dollars_total",
                "What the fallback cost since the start, by FALLBACK_PRICE_IN and FALLBACK_PRICE_OUT.",
            )
        )
        self._add(
            Reading(
                "wakegate_fallback_month_spend_dollars",
                "gauge",
                "What the fallback cost in this calendar month (UTC), restarts and other workers of the volume "
                "included.",
                (),
                lambda: [((), spent)] if (spent := self._read_fallback()) is not None else [],
            )
        )

    def _make_histograms(self) -> None:
        by_route, by_upstream = ("upstream", "route"), ("upstream",)
        self._first_byte = self._add(
            histogram(
                "wakegate_time_to_first_byte_seconds",
                "From a request's head to the first byte of its answer, waiting and waking included, of those that "
                "were not refused. Comments to a stream that waits do not count: it is the time to the first token.",
                by_route,
                FIRST_BYTE_BUCKETS,
                at_most=4,
                folds=("route", "upstream"),
            )
        )
        self._line = self._add(
            histogram(
                "wakegate_queue_wait_seconds",
                "Waiting in line behind others, of those that were not refused at once.",
                by_upstream,
                WAIT_BUCKETS,
                at_most=4,
                folds=by_upstream,
            )
        )
        self._wake = self._add(
            histogram(
                "wakegate_wake_wait_seconds",
                "Held while the upstream woke, of the requests that were: their number is that of the cold callers.",
                by_upstream,
                WAIT_BUCKETS,
                at_most=4,
                folds=by_upstream,
            )
        )
        self._cold_start = self._add(
            histogram(
                "wakegate_cold_start_seconds",
                "Starts that became ready, from the order to ready.",
                by_upstream,
                START_BUCKETS,
                at_most=4,
                folds=by_upstream,
            )
        )
        self._phases = self._add(
            summary(
                "wakegate_cold_start_phase_seconds",
                "What each phase took of the starts that became ready; ordered: until the first news.",
                ("upstream", "phase"),
                at_most=48,
                folds=by_upstream,
            )
        )
        self._speed = self._add(
            histogram(
                "wakegate_output_tokens_per_second",
                "Output tokens by the seconds of the engine's work on one request, prefill included, of those that "
                "were answered and whose engine said its `usage`.",
                by_upstream,
                SPEED_BUCKETS,
                at_most=4,
                folds=by_upstream,
            )
        )
        self._took = self._add(
            histogram(
                "wakegate_request_duration_seconds",
                "From a request's head to the last byte of its answer, of those that were answered.",
                by_route,
                TOOK_BUCKETS,
                at_most=3,
                folds=("route", "upstream"),
            )
        )

    def _accounts(self, thing: str, by_what: str) -> list[Family[Count]]:
        return [
            self._add(counter(f"wakegate_{thing}_{name}_total", f"{what} by {by_what}.", (thing,)))
            for name, what in (
                ("requests", "Inference requests"),
                ("input_tokens", "Tokens of prompts"),
                ("output_tokens", "Tokens of answers"),
            )
        ]

    # -- what happened --------------------------------------------------------------------------

    def ended(self, e: Ended) -> None:
        """One inference request is over."""
        lane = self._lanes.get((e.upstream, e.route)) or self._lane(e.upstream, e.route)
        lane.outcomes[e.outcome].inc()
        if e.code:
            self._errors.of(e.upstream, bounded(e.code)).inc()
        if e.outcome != "refused" and e.first_byte is not None:
            lane.first_byte.observe(e.first_byte)  # how quickly one is refused says nothing of the model
        if e.outcome != "refused" or e.line:
            lane.line.observe(e.line)
        if e.wake:
            lane.wake.observe(e.wake)
        if e.outcome == "answered":
            lane.took.observe(e.took)
            speed = tokens_per_second(e)
            if speed is not None and not e.served_by:
                lane.speed.observe(speed)
        if not e.served_by:  # the fallback's are counted apart
            lane.tokens_in.inc(e.tokens_in or 0)
            lane.tokens_out.inc(e.tokens_out or 0)
        lane.bytes_in.inc(e.bytes_in)
        lane.bytes_out.inc(e.bytes_out)
        model = self._models.get(e.model, self._other_models)
        if model is not None:
            model.add(e)
        if self._key_names and e.key:
            self._key(e.key).add(e)

    def rejected(self, code: str) -> None:
        """One was refused before it reached an inference route."""
        self._rejects.of(bounded(code)).inc()

    def auth_failed(self, reason: str) -> None:
        """Somebody came without a right key; `reason` is one of AUTH_FAILURES."""
        self._auth_failures.of(one_of(AUTH_FAILURES, reason)).inc()

    def reloaded(self, what: str, ok: bool) -> None:
        """A file was read again; `what` is one of RELOADED."""
        self._reloads.of(one_of(RELOADED, what), "ok" if ok else "failed").inc()

    def start_began(self, upstream: str) -> None:
        """A start was ordered: what may come of it is on the page from now on, at zero, so that a first failure is an
        increase. How many there were the lifecycle says (UpstreamFacts.starts)."""
        for outcome in START_OUTCOMES:
            self._starts_ended.of(upstream, outcome)
        for reason in ENDS:
            self._ends.of(upstream, reason)

    def start_ended(self, upstream: str, outcome: str, phases: Mapping[str, float]) -> None:
        """It came to its end; `outcome` is one of START_OUTCOMES, `phases` are all its seconds, by phase."""
        self._starts_ended.of(upstream, one_of(START_OUTCOMES, outcome)).inc()
        if outcome != "ready":
            return
        self._cold_start.of(upstream).observe(sum(phases.values()))
        for phase, seconds in phases.items():
            self._phases.of(upstream, one_of(PHASES, phase)).observe(seconds)

    def fallback_answered(
        self, outcome: str, why: str, *, tokens_in: int = 0, tokens_out: int = 0, cost: int = 0
    ) -> None:
        """Somebody else was asked; `outcome` is one of FALLBACK_OUTCOMES, `why` of FALLBACK_CASES, `cost` is
        micro-dollars."""
        self._fallback.of(one_of(FALLBACK_OUTCOMES, outcome), one_of(FALLBACK_CASES, why)).inc()
        self._fallback_tokens.of("in").inc(tokens_in)
        self._fallback_tokens.of("out").inc(tokens_out)
        self._fallback_cost.of().inc(cost / 1_000_000)

    def fallback_not_asked(self, reason: str) -> None:
        """One could have been answered by somebody else, and was not; `reason` is one of OBJECTIONS."""
        self._fallback_not_asked.of(one_of(OBJECTIONS, reason)).inc()

    def watch_fallback(self, read: Callable[[], float | None], cases: Iterable[str]) -> None:
        """There is a fallback, asked in these cases. `read`: dollars of this month; None where nobody knows."""
        self._read_fallback = read
        for case in cases:
            for outcome in FALLBACK_OUTCOMES[:-1]:
                self._fallback.of(outcome, case)
        for reason in OBJECTIONS[:-1]:
            self._fallback_not_asked.of(reason)
        for direction in ("in", "out"):
            self._fallback_tokens.of(direction)
        self._fallback_cost.of()

    def watch_money(self, read: Callable[[], MoneyFacts | None], provider: str) -> None:
        """Compute is rented from this provider. `read`: at each scrape; None where nobody knows (yet)."""
        self._read_money = read
        for percent in WARNINGS:
            self._warnings.of(percent)
        for call in ("start", "stop"):
            self._calls.of(provider, call, "ok")

    def watch_alerts(self) -> None:
        """There is an ALERT_URL."""
        for outcome in ALERT_OUTCOMES:
            self._alerts.of(outcome)

    def budget_warned(self, percent: int) -> None:
        """This share of the budget was reached; one of WARNINGS."""
        self._warnings.of(one_of(WARNINGS, str(percent))).inc()

    def provider_called(self, provider: str, call: str, outcome: str) -> None:
        """A vendor was asked; `call` is one of CALLS, `outcome` of CALL_OUTCOMES."""
        self._calls.of(provider, one_of(CALLS, call), one_of(CALL_OUTCOMES, outcome)).inc()

    def alerted(self, outcome: str) -> None:
        """One alert is done with; `outcome` is one of ALERT_OUTCOMES."""
        self._alerts.of(one_of(ALERT_OUTCOMES, outcome)).inc()

    def engine_ended(self, upstream: str, reason: str) -> None:
        """An engine that was ready is gone; `reason` is one of ENDS."""
        self._ends.of(upstream, one_of(ENDS, reason)).inc()

    # -- what is so -----------------------------------------------------------------------------

    def watch(self, read: Callable[[], Iterable[UpstreamFacts]]) -> None:
        """Take what is so of the upstreams from `read`, at each scrape."""
        self._read_upstreams = read

    def watch_process(self, read: Callable[[], ProcessFacts]) -> None:
        """Take what is so of the gateway from `read`, at each scrape."""
        self._read_process = read

    def page(self) -> bytes:
        """The page as Prometheus reads it, at most LARGEST_PAGE bytes."""
        self._upstreams = tuple(self._read_upstreams())
        self._process = self._read_process()
        self._money = self._read_money()
        return b"".join([*self._fitting(), self._says_left_out.text().encode(), standard_series()])

    def _fitting(self) -> Iterator[bytes]:
        """What was left out once stays left out: series that come and go look like resets."""
        room = LARGEST_PAGE - KEPT_FOR_THE_END
        for family in self._families:
            if family.name in self._left_out:
                continue
            text = family.text().encode("utf-8", "replace")
            if len(text) > room:
                self._left_out.add(family.name)
                continue
            room -= len(text)
            yield text

    @property
    def described(self) -> tuple[Described, ...]:
        """All families that there may be on a page, in their order."""
        return *self._families, self._says_left_out

    # -- series that belong together ------------------------------------------------------------

    def _outcomes(self, upstream: str, route: str) -> dict[str, Count]:
        return {outcome: self._requests.of(upstream, route, outcome) for outcome in OUTCOMES}

    def _lane(self, upstream: str, route: str) -> Lane:
        lane = self._lanes[upstream, route] = Lane(
            self._outcomes(upstream, route),
            self._first_byte.of(upstream, route),
            self._took.of(upstream, route),
            self._line.of(upstream),
            self._wake.of(upstream),
            self._speed.of(upstream),
            *(family.of(upstream) for family in self._volumes),
        )
        return lane

    def _key(self, name: str) -> Account:
        found = self._keys.get(name)
        if found is None:
            name = name if len(self._keys) < MOST_KEYS else OTHER
            found = self._keys[name] = account(self._by_key, name)
        return found


def account(families: Iterable[Family[Count]], name: str) -> Account:
    return Account(*(family.of(name) for family in families))


def bounded(code: str) -> str:
    """The code as a label. An engine that makes up statuses makes no series: 418 is `4xx`."""
    if code in CODES:
        return code
    return f"{code[0]}xx" if len(code) == 3 and code.isdecimal() and code[0] in "45" else OTHER


def one_of(words: Labels, word: str) -> str:
    return word if word in words else OTHER
