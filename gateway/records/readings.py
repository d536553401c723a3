"""What is so at the moment of a scrape: the facts that `app.py` gathers, and the series that they become.

What happened (a request's end, a start's end) is counted in records/metrics.py; here nothing is kept.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from gateway.policy.lifecycle.states import State
from gateway.records.series import Kind, Reading, Sample


@dataclass(frozen=True, slots=True)
class UpstreamFacts:
    """What the readings say of one upstream."""

    name: str
    state: State
    in_flight: int
    waiting: int
    starts: int
    last_activity_age: float | None
    """Seconds; None before the first."""
    progress: float | None
    """0 to 1; None when nothing loads, or nobody knows."""
    idle_stop_in: float | None = None
    """Seconds until it is stopped if nobody comes; None when that is not going to happen."""
    ready_for: float | None = None
    """Seconds since it became ready; None while it is not."""
    state_seconds: Mapping[State, float] = field(default_factory=dict)
    """How long it was in each state so far (StateTimes)."""
    phase: str | None = None
    """Of the start that is under way; None when none is."""
    seconds_left: float | None = None
    """Until that start is probably ready; None when nobody knows."""


@dataclass(frozen=True, slots=True)
class ProcessFacts:
    """What the readings say of the gateway itself. None: not known, and not on the page."""

    heartbeat_age: float | None = None
    """Seconds since the status file was written."""
    loop_lag: float | None = None
    """Seconds (Pulse.lag)."""
    loop_stalls: int | None = None
    """Pulse.stalls."""
    log_lines_dropped: int | None = None
    log_bytes_dropped: int | None = None
    connections: int | None = None
    keys_file_ok: bool | None = None
    """Whether API_KEYS_FILE was good when it was last looked at; None without one."""
    self_stop_in: float | None = None
    """Seconds until this machine is stopped from inside (own_machine/watchdog.py)."""
    self_stop_tries: int | None = None
    self_stop_key_ok: bool | None = None


@dataclass(frozen=True, slots=True)
class MoneyFacts:
    """What the readings say of what rented compute costs: whole micro-dollars, of this calendar month (UTC)."""

    spent: int
    """For running, up to now."""
    storage: int = 0
    """For disks, up to the month's end: it bills whatever we do."""
    reserved: int = 0
    """For what runs or starts, beyond what it has cost so far: free for nothing else."""
    price: int = 0
    """Per hour, of what runs now."""
    budget: int | None = None
    """None: unlimited."""


class StateTimes:
    """How long an upstream has been in each state. GPU time is added up from it: a scrape sees one moment, and a
    platform's worker does not live to be asked for the day's average."""

    def __init__(self, state: State, now: float) -> None:
        self._state = state
        self._since = now
        self._seconds = dict.fromkeys(State, 0.0)

    def __repr__(self) -> str:
        spent = " ".join(f"{state.value}={seconds:.0f}s" for state, seconds in self._seconds.items() if seconds)
        return f"<StateTimes {self._state.value} since {self._since:.1f} {spent}>"

    def entered(self, state: State, now: float) -> None:
        """It is in this state, from now on or still."""
        self._seconds[self._state] += now - self._since
        self._state, self._since = state, now

    def read(self, now: float) -> dict[State, float]:
        return self._seconds | {self._state: self._seconds[self._state] + now - self._since}


UPSTREAM: tuple[tuple[str, Kind, str, Callable[[UpstreamFacts], float | None]], ...] = (
    (
        "wakegate_requests_in_flight",
        "gauge",
        "Inference requests that the upstream works on.",
        lambda f: f.in_flight,
    ),
    (
        "wakegate_requests_waiting",
        "gauge",
        "Callers in line, or held while it wakes.",
        lambda f: f.waiting,
    ),
    (
        "wakegate_starts_total",
        "counter",
        "Starts that were ordered since this gateway began.",
        lambda f: f.starts,
    ),
    (
        "wakegate_last_activity_age_seconds",
        "gauge",
        "Seconds since the last byte of the last answer; absent before the first.",
        lambda f: f.last_activity_age,
    ),
    (
        "wakegate_idle_stop_in_seconds",
        "gauge",
        "Seconds until it is stopped if nobody comes; absent while it works, and where it never is.",
        lambda f: f.idle_stop_in,
    ),
    (
        "wakegate_ready_age_seconds",
        "gauge",
        "Seconds since it became ready; absent while it is not.",
        lambda f: f.ready_for,
    ),
    (
        "wakegate_loading_ratio",
        "gauge",
        "How far a start is as a whole, 0 to below 1; absent when nobody knows.",
        lambda f: f.progress,
    ),
    (
        "wakegate_loading_seconds_left",
        "gauge",
        "Seconds until a start is probably ready; absent when nobody knows.",
        lambda f: f.seconds_left,
    ),
)

PROCESS: tuple[tuple[str, Kind, str, Callable[[ProcessFacts], float | None]], ...] = (
    (
        "wakegate_heartbeat_age_seconds",
        "gauge",
        "Seconds since the gateway wrote its status file; the health port answers 503 from 10 on.",
        lambda f: f.heartbeat_age,
    ),
    (
        "wakegate_event_loop_lag_seconds",
        "gauge",
        "How late the event loop was, at its worst in the last minute.",
        lambda f: f.loop_lag,
    ),
    (
        "wakegate_event_loop_stalls_total",
        "counter",
        "Times that the event loop stood still for more than 2 seconds; the log says where.",
        lambda f: f.loop_stalls,
    ),
    (
        "wakegate_log_lines_dropped_total",
        "counter",
        "Log lines that were not written because the volume was full, gone or too slow.",
        lambda f: f.log_lines_dropped,
    ),
    (
        "wakegate_log_bytes_dropped_total",
        "counter",
        "Bytes of log lines that were not written.",
        lambda f: f.log_bytes_dropped,
    ),
    (
        "wakegate_connections_open",
        "gauge",
        "Connections of callers.",
        lambda f: f.connections,
    ),
    (
        "wakegate_keys_file_ok",
        "gauge",
        "0 while API_KEYS_FILE cannot be read or is wrong, and the keys of before hold; absent without one.",
        lambda f: f.keys_file_ok,
    ),
    (
        "wakegate_self_stop_in_seconds",
        "gauge",
        "Seconds until this rented machine stops itself, if no lease or request comes; absent where use keeps it.",
        lambda f: f.self_stop_in,
    ),
    (
        "wakegate_self_stop_tries",
        "gauge",
        "Times that this machine has tried to stop itself since it had to; above 1 it costs money and does not stop.",
        lambda f: f.self_stop_tries,
    ),
    (
        "wakegate_self_stop_key_ok",
        "gauge",
        "0 where the machine's own key at its vendor is missing or refused; absent while that is not known.",
        lambda f: f.self_stop_key_ok,
    ),
)


MONEY: tuple[tuple[str, str, Callable[[MoneyFacts], int | None]], ...] = (
    (
        "wakegate_budget_dollars",
        "MONTHLY_BUDGET; absent where it is unlimited.",
        lambda f: f.budget,
    ),
    (
        "wakegate_month_spend_dollars",
        "What rented compute has cost by running, in this calendar month (UTC), by the ledger.",
        lambda f: f.spent,
    ),
    (
        "wakegate_month_storage_dollars",
        "What its disks cost in this calendar month, up to its end: they bill whatever runs.",
        lambda f: f.storage,
    ),
    (
        "wakegate_reserved_dollars",
        "Kept from the budget for what runs or starts, beyond what it has cost so far.",
        lambda f: f.reserved,
    ),
    (
        "wakegate_price_dollars_per_hour",
        "What runs now costs this; 0 while nothing does.",
        lambda f: f.price,
    ),
)


def upstream_readings(seen: Callable[[], Iterable[UpstreamFacts]]) -> Iterator[Reading]:
    """The series of all upstreams that `seen` gives."""

    def states() -> Iterator[Sample]:
        for facts in seen():
            for state in State:
                yield (facts.name, state.value), facts.state is state

    def phases() -> Iterator[Sample]:
        for facts in seen():
            if facts.phase is not None:
                yield (facts.name, facts.phase), 1

    def state_seconds() -> Iterator[Sample]:
        for facts in seen():
            for state, seconds in facts.state_seconds.items():
                yield (facts.name, state.value), seconds

    yield Reading(
        "wakegate_state",
        "gauge",
        "1 for the state that the upstream is in, 0 for the others.",
        ("upstream", "state"),
        states,
    )
    for name, kind, meaning, of in UPSTREAM:

        def read(of: Callable[[UpstreamFacts], float | None] = of) -> Iterator[Sample]:
            for facts in seen():
                value = of(facts)
                if value is not None:
                    yield (facts.name,), value

        yield Reading(name, kind, meaning, ("upstream",), read)
    yield Reading(
        "wakegate_loading_phase",
        "gauge",
        "1 for the phase that a start is in; absent while none is under way.",
        ("upstream", "phase"),
        phases,
    )
    yield Reading(
        "wakegate_state_seconds_total",
        "counter",
        "Seconds that the upstream has spent in each state. What runs is paid for: all but stopped and failed.",
        ("upstream", "state"),
        state_seconds,
    )


def process_readings(seen: Callable[[], ProcessFacts]) -> Iterator[Reading]:
    """The series of the gateway itself."""
    for name, kind, meaning, of in PROCESS:

        def read(of: Callable[[ProcessFacts], float | None] = of) -> Iterator[Sample]:
            value = of(seen())
            if value is not None:
                yield (), value

        yield Reading(name, kind, meaning, (), read)


def money_readings(seen: Callable[[], MoneyFacts | None]) -> Iterator[Reading]:
    """The series of what is rented; none of them where nothing is, or the ledger was not read yet."""
    for name, meaning, of in MONEY:

        def read(of: Callable[[MoneyFacts], int | None] = of) -> Iterator[Sample]:
            facts = seen()
            value = of(facts) if facts is not None else None
            if value is not None:
                yield (), value / 1_000_000

        yield Reading(name, "gauge", meaning, (), read)
