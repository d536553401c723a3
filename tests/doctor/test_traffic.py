"""Monitors and idle times, by the request log."""

import random
from dataclasses import replace

from gateway.doctor.case import Facts, PagesAsked, Request
from gateway.doctor.findings import BREAKS, DOUBTFUL
from gateway.doctor.traffic import check
from gateway.records.onlookers import Tally
from gateway.surroundings import Surroundings
from tests.support.doctoring import POD, SERVERLESS, case, codes, only

CHAT = "/v1/chat/completions"
HOUR = 3600.0


def every(
    seconds: float, count: int, *, jitter: float = 0.0, key: str = "probe", bytes_in: int = 90, tokens_out: int = 1
) -> tuple[Request, ...]:
    chance = random.Random(7)
    times = [1_800_000_000.0 + i * seconds + chance.uniform(-jitter, jitter) for i in range(count)]
    return tuple(Request(at, key, CHAT, bytes_in, tokens_out) for at in times)


def people(gap: float, count: int) -> tuple[Request, ...]:
    """As people come: any time between at once and twice the usual gap."""
    chance, at, found = random.Random(3), 1_800_000_000.0, []
    for _ in range(count):
        at += chance.uniform(0, 2 * gap)
        found.append(Request(at, "alice", CHAT, bytes_in=3000, tokens_out=200))
    return tuple(found)


def test_no_log_and_few_requests_tell_nothing() -> None:
    assert codes(check(case())) == []
    assert codes(check(case(Facts(requests=every(60, 5))))) == []


def test_a_tiny_request_at_a_fixed_interval_is_a_monitor_that_is_paid_for() -> None:
    said = only(check(case(Facts(requests=every(60, 30, jitter=0.5)))), "monitor")
    assert said.level is BREAKS
    assert said.what.startswith(f"The key probe asks {CHAT} every 60 s, 30 times in a row")
    assert said.cure == "curl -f http://127.0.0.1:8001/readyz"


def test_on_runpod_it_is_told_of_the_question_that_starts_no_worker() -> None:
    said = only(check(case(Facts(requests=every(300, 12)), SERVERLESS)), "monitor")
    assert said.level is BREAKS and said.cure.startswith("curl https://api.runpod.ai/v2/ep42/health ")


def pages(count: int, *, seconds: float = 600.0, times: int = 6, page: str = "/ping") -> tuple[PagesAsked, ...]:
    return tuple(PagesAsked(1_800_000_000.0 + i * seconds, Tally(seconds, {page: count})) for i in range(times))


def test_a_monitor_of_pages_is_told_where_the_platform_counts_every_request() -> None:
    said = only(check(case(Facts(pages=pages(20)), SERVERLESS)), "monitor-of-pages")
    assert said.level is BREAKS
    assert said.what.startswith("/ping on PORT was asked for 120 times, about every 30 s")
    assert said.cure.startswith("curl https://api.runpod.ai/v2/ep42/health ")
    modal = only(check(case(Facts(pages=pages(20)), Surroundings(platform="modal", in_container=True))), said.code)
    assert modal.cure == "modal container list"
    models = only(check(case(Facts(pages=pages(20, page="/v1/models")), SERVERLESS)), said.code)
    assert models.level is DOUBTFUL, "chat pages ask for them, too"


def test_pages_cost_nothing_where_no_edge_counts_them_and_a_person_now_and_then_is_no_monitor() -> None:
    assert codes(check(case(Facts(pages=pages(20))))) == codes(check(case(Facts(pages=pages(20)), POD))) == []
    assert codes(check(case(Facts(pages=pages(1)), SERVERLESS))) == []
    assert codes(check(case(Facts(pages=pages(1, seconds=86_400.0, times=10)), SERVERLESS))) == []
    assert codes(check(case(Facts(pages=pages(50, times=2)), SERVERLESS))) == [], "twenty minutes are no habit"


def test_a_monitor_slower_than_the_idle_time_is_doubtful() -> None:
    assert only(check(case(Facts(requests=every(3000, 12)), IDLE_TIMEOUT="10m")), "monitor").level is DOUBTFUL


def test_pauses_do_not_hide_its_rhythm() -> None:
    morning, evening = every(60, 10), every(60, 10)
    later = tuple(replace(request, at=request.at + 12 * HOUR) for request in evening)
    assert "monitor" in codes(check(case(Facts(requests=morning + later))))


def test_people_are_no_monitor() -> None:
    assert "monitor" not in codes(check(case(Facts(requests=people(60, 200)))))


def test_a_batch_of_large_questions_is_no_monitor() -> None:
    assert codes(check(case(Facts(requests=every(60, 50, bytes_in=50_000))))) == []
    assert codes(check(case(Facts(requests=every(60, 50, tokens_out=400))))) == []
    assert codes(check(case(Facts(requests=every(0.5, 50))))) == []  # a load test


def test_two_callers_do_not_make_one_rhythm() -> None:
    both = sorted((*every(60, 6), *every(61, 6, key="other")), key=lambda request: request.at)
    assert codes(check(case(Facts(requests=tuple(both))))) == []


def test_an_idle_time_below_the_usual_gap_is_a_cold_start_for_most() -> None:
    facts = Facts(requests=people(40 * 60, 60))
    said = only(check(case(facts, IDLE_TIMEOUT="15m")), "idle-too-short")
    assert said.level is DOUBTFUL
    assert "IDLE_TIMEOUT is 15m" in said.what and "cold starts a day" in said.what
    starts = int(said.what.split("about ")[1].split(" ")[0])
    assert 20 < starts < 36  # one for each gap above 15 minutes
    assert said.cure.startswith("export IDLE_TIMEOUT=")


def test_an_idle_time_above_it_or_none_is_nothing_to_say() -> None:
    facts = Facts(requests=people(40 * 60, 60))
    assert codes(check(case(facts, IDLE_TIMEOUT="3h"))) == []
    assert codes(check(case(facts, IDLE_TIMEOUT="never"))) == []


def test_an_hour_of_log_is_too_little_to_reckon_a_day() -> None:
    assert codes(check(case(Facts(requests=people(300, 10)), IDLE_TIMEOUT="1m"))) == []


def test_a_monitors_requests_do_not_count_as_peoples() -> None:
    mixed = sorted((*every(60, 2000), *people(40 * 60, 60)), key=lambda request: request.at)
    found = codes(check(case(Facts(requests=tuple(mixed)), IDLE_TIMEOUT="15m")))
    assert found == ["monitor", "idle-too-short"]


def test_no_longer_idle_time_than_a_few_hours_is_proposed() -> None:
    said = only(check(case(Facts(requests=people(20 * HOUR, 30)), IDLE_TIMEOUT="15m")), "idle-too-short")
    assert said.cure == "export IDLE_TIMEOUT=4h"
