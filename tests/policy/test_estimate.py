"""How far a start is, as one number that never lies: learned from earlier starts, never falling, never whole."""

import math
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.policy.estimate import (
    PHASES,
    Forecast,
    Past,
    Progress,
    amount,
    ordered,
    spell,
    usual,
    usual_seconds,
)

GIB = 1 << 30


def past(**phases: float) -> Past:
    return Past(phases)


USUAL = past(ordered=0.0, checking=1.0, booting=9.0, loading=30.0, warming=10.0)


# --- what waiting callers hear


def test_a_line_says_phase_share_amount_and_time() -> None:
    assert Progress("loading", 0.432, "12.1/28.0 GiB", 20.0, 24.2).text() == "loading 43% 12.1/28.0 GiB, about 25 s"


def test_what_nobody_knows_is_not_said() -> None:
    assert Progress("booting", None, "", 20.0, None).text() == "booting"
    assert Progress("booting", 0.5, "", 20.0, None, late=True).text() == "booting 50%, longer than usual"


def test_a_share_is_rounded_down() -> None:
    assert Progress("warming", 0.9999, "", 20.0, None).text() == "warming 99%"


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.0, "1 s"), (6.2, "7 s"), (10.1, "15 s"), (25.0, "25 s"), (88.0, "90 s"), (91.0, "2 min"), (8000.0, "3 h")],
)
def test_time_is_told_as_coarsely_as_it_is_known(seconds: float, said: str) -> None:
    assert spell(seconds) == said


@pytest.mark.parametrize(
    ("done", "total", "said"),
    [(5, 900, "5/900 bytes"), (GIB // 2, 28 * GIB, "0.5/28.0 GiB"), (1 << 20, 400 << 20, "1.0/400.0 MiB")],
)
def test_bytes_are_told_in_the_unit_of_the_whole(done: int, total: int, said: str) -> None:
    assert amount(done, total) == said


# --- a first start


def test_before_the_first_measure_of_a_first_start_nobody_knows_anything() -> None:
    forecast = Forecast(100.0)
    forecast.hear("checking", now=100.0)
    forecast.hear("booting", now=101.0)
    progress = forecast.at(160.0)
    assert (progress.phase, progress.ratio, progress.seconds_left, progress.elapsed) == ("booting", None, None, 60.0)


def test_a_first_start_has_a_share_once_something_is_measured_and_no_time() -> None:
    forecast = Forecast(0.0)
    forecast.hear("booting", now=0.0)
    forecast.hear("loading", now=5.0, done=7 * GIB, total=28 * GIB)
    progress = forecast.at(20.0)
    assert progress.ratio is not None and 0.25 < progress.ratio < 0.5
    assert (progress.detail, progress.seconds_left) == ("7.0/28.0 GiB", None)


def test_a_phase_without_a_measure_leaves_the_share_where_it_was() -> None:
    forecast = Forecast(0.0)
    forecast.hear("loading", now=0.0, ratio=1.0)
    before = forecast.at(1.0).ratio
    forecast.hear("warming", now=2.0)
    assert forecast.at(3.0).ratio == before == forecast.at(500.0).ratio


def test_what_was_skipped_is_not_waited_for() -> None:
    forecast = Forecast(0.0, [past(booting=10.0, loading=10.0)])
    forecast.hear("loading", now=0.0, ratio=0.5)
    assert forecast.at(0.0).ratio == 0.5


# --- learned from earlier ones


def test_time_is_told_by_what_starts_usually_took() -> None:
    forecast = Forecast(0.0, [USUAL])
    assert forecast.at(0.0).seconds_left == 50.0
    forecast.hear("checking", now=0.0)
    forecast.hear("booting", now=1.0)
    assert forecast.at(4.0).seconds_left == 46.0
    forecast.hear("loading", now=10.0)
    assert forecast.at(10.0).ratio == 0.2
    assert forecast.at(25.0).ratio == 0.5
    assert forecast.at(25.0).seconds_left == 25.0


def test_a_measured_phase_is_believed_more_than_habit_the_longer_it_is_watched() -> None:
    forecast = Forecast(0.0, [USUAL])
    forecast.hear("loading", now=10.0, ratio=0.0)
    forecast.hear("loading", now=30.0, ratio=0.1)  # ten times slower than usual
    assert forecast.at(30.0).seconds_left == pytest.approx(180 + 10)


def test_a_start_that_takes_longer_than_any_before_says_so_and_no_time() -> None:
    forecast = Forecast(0.0, [USUAL])
    forecast.hear("warming", now=40.0)
    assert forecast.at(45.0).seconds_left == 5.0
    late = forecast.at(52.0)
    assert late.seconds_left is None and late.late and late.text().endswith("longer than usual")


def test_a_late_start_comes_nearer_to_its_end_and_never_reaches_it() -> None:
    forecast = Forecast(0.0, [USUAL])
    forecast.hear("warming", now=40.0)
    ratios = [forecast.at(40.0 + 2**power).ratio for power in range(30)]
    assert ratios == sorted(ratios, key=lambda ratio: ratio or 0) and all(r is not None and r < 1 for r in ratios)


def test_between_the_usual_and_the_longest_time_it_is_any_moment_now() -> None:
    forecast = Forecast(0.0, [past(warming=10.0), past(warming=10.0), past(warming=40.0)])
    forecast.hear("warming", now=0.0)
    assert forecast.at(20.0).seconds_left == 0.0
    assert forecast.at(42.0).late


def test_one_download_is_kept_on_the_disk_and_not_expected_again() -> None:
    assert usual_seconds([past(downloading=500.0, loading=20.0)]) == 20.0


def test_a_machine_that_downloads_at_each_start_is_expected_to() -> None:
    assert usual_seconds([past(downloading=500.0, loading=20.0)] * 2) == 520.0


def test_an_unexpected_download_is_judged_by_its_own_speed() -> None:
    forecast = Forecast(0.0, [past(loading=20.0)])
    forecast.hear("downloading", now=0.0, ratio=0.0)
    assert forecast.at(1.0).seconds_left is None
    forecast.hear("downloading", now=10.0, ratio=0.25)
    assert forecast.at(10.0).seconds_left == pytest.approx(30 + 20)


def test_a_phase_is_as_long_as_in_the_middle_one_of_the_last_starts() -> None:
    assert usual([past(loading=10.0), past(loading=300.0), past(loading=20.0)]) == {"loading": 20.0}
    assert usual_seconds([]) is None


def test_phases_stand_in_the_order_in_which_they_came() -> None:
    pasts = [past(booting=1.0, loading=1.0, warming=1.0), past(booting=1.0, loading=1.0, compiling=1.0, warming=1.0)]
    assert ordered(pasts[::-1]) == ordered(pasts) == ["booting", "loading", "compiling", "warming"]


def test_what_is_learned_of_a_start_is_its_phases_seconds() -> None:
    forecast = Forecast(0.0)
    forecast.hear("checking", now=1.0)
    forecast.hear("loading", now=3.0, ratio=0.5)
    forecast.hear("checking", now=10.0)
    forecast.hear("loading", now=11.0, ratio=0.7)
    learned = forecast.past(20.0)
    assert learned.phases == {"ordered": 1.0, "checking": 3.0, "loading": 16.0}
    assert learned.seconds == 20.0


# --- whatever happens

seconds = st.floats(0, 1e6, allow_nan=False)
pasts_ = st.lists(st.dictionaries(st.sampled_from(("ordered", *PHASES)), seconds, max_size=6).map(Past), max_size=5)
news = st.tuples(
    st.floats(0, 1e4, allow_nan=False),
    st.sampled_from((*PHASES, "a phase of the future")),
    st.none() | st.floats(-1, 2, allow_nan=False),
    st.none() | st.integers(0, 1 << 45),
    st.none() | st.integers(0, 1 << 45),
)


@given(pasts_, st.lists(news, max_size=30))
def test_whatever_is_told_a_share_never_falls_and_is_never_whole(
    pasts: list[Past], told: list[tuple[float, str, float | None, int | None, int | None]]
) -> None:
    forecast, now, before = Forecast(0.0, pasts), 0.0, 0.0
    for after, phase, ratio, done, total in told:
        now += after
        for moment in (now - after / 2, now):
            progress = forecast.at(moment)
            assert progress.ratio is not None or before == 0.0, "what was known once stays known"
            if progress.ratio is not None:
                assert before <= progress.ratio < 1
                before = progress.ratio
            assert progress.seconds_left is None or 0 <= progress.seconds_left < math.inf
            assert not (progress.late and progress.seconds_left is not None)
            assert "100%" not in progress.text()
        forecast.hear(phase, now=now, ratio=ratio, done=done, total=total)


@given(st.dictionaries(st.sampled_from(PHASES), st.floats(0.1, 1e4), min_size=1))
def test_a_start_that_goes_as_usual_is_foretold_to_the_second(phases: Mapping[str, float]) -> None:
    steps = {name: took for name, took in phases.items() if name != "downloading"}
    forecast, now, whole = Forecast(0.0, [Past(steps)]), 0.0, sum(steps.values())
    for name, took in steps.items():
        forecast.hear(name, now=now)
        left = forecast.at(now + took / 2).seconds_left
        assert left is not None and left == pytest.approx(whole - now - took / 2, abs=1e-3)
        now += took
