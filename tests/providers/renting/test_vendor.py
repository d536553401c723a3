"""The line to a vendor: what an answer means, and how politely the next question is asked."""

import asyncio
import json
from collections.abc import Callable
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.providers.renting.vendor import (
    Answer,
    Line,
    Unanswered,
    Urgency,
    VendorError,
    judge_by_status,
    micros,
    seconds_of,
)
from tests.support.simulated import in_simulated_time

FINE = Answer(200, {}, b"{}")


class Calls:
    """A Transport that answers what it is told to, and remembers when it was asked."""

    def __init__(self, answer: Callable[[str], Answer] = lambda path: FINE) -> None:
        self.answer = answer
        self.at: list[tuple[float, str]] = []

    async def __call__(self, method: str, path: str, body: bytes | None, within: float) -> Answer:
        self.at.append((asyncio.get_running_loop().time(), path))
        return self.answer(path)


async def refused(line: Line, **how: object) -> VendorError:
    with pytest.raises(VendorError) as error:
        await line.ask("GET", "/", **how)  # type: ignore[arg-type]
    return error.value


@pytest.mark.parametrize(
    ("status", "kind", "may"),
    [
        (400, "unprocessable", False),
        (401, "key", False),
        (402, "balance", False),
        (403, "key", False),
        (404, "not_found", False),
        (409, "conflict", False),
        (422, "unprocessable", False),
        (429, "limited", False),
        (302, "failing", True),
        (500, "failing", True),
        (503, "failing", True),
    ],
)
def test_a_status_has_one_meaning(status: int, kind: str, may: bool) -> None:
    error = judge_by_status("create", Answer(status, {}, b"{}"))
    assert error is not None
    assert (error.kind, error.may_have_happened) == (kind, may)


@pytest.mark.parametrize("body", [b"", b"<html>", b"{", b"NaN", b"1e99999999999999999999", b"[" * 100_000, b"\xff"])
def test_a_200_that_is_not_json_is_a_failure_after_which_it_may_have_happened(body: bytes) -> None:
    error = judge_by_status("create", Answer(200, {}, body))
    assert error is not None
    assert (error.kind, error.may_have_happened) == ("failing", True)


def test_a_204_needs_no_body() -> None:
    assert judge_by_status("terminate", Answer(204)) is None


@pytest.mark.parametrize(
    ("text", "seconds"), [("12", 12.0), (" 3 ", 3.0), ("", None), ("soon", None), ("-1", None), ("9" * 30, None)]
)
def test_retry_after_is_read_in_seconds(text: str, seconds: float | None) -> None:
    assert seconds_of(text) == seconds


@given(st.decimals(min_value=0, max_value=1000, places=9))
def test_money_is_rounded_up_to_whole_micro_dollars(dollars: Decimal) -> None:
    read = json.loads(str(dollars), parse_float=Decimal)
    amount = micros(read)
    assert amount is not None
    assert 0 <= Decimal(amount) - dollars * 1_000_000 < 1


@pytest.mark.parametrize("text", ["-1", "true", '"0.3"', "null", "1e30", "[]"])
def test_what_is_no_price_is_not_read_as_one(text: str) -> None:
    assert micros(json.loads(text, parse_float=Decimal)) is None


@in_simulated_time
async def test_a_pause_that_the_vendor_asks_for_is_kept_by_everybody() -> None:
    calls = Calls(lambda path: Answer(429, {"retry-after": "17"}, b""))
    line = Line(calls)
    begun = asyncio.get_running_loop().time()
    assert (await refused(line)).kind == "limited"
    for urgency in Urgency:
        assert (await refused(line, urgency=urgency)).retry_after == pytest.approx(17 + 0.5 * urgency)
    calls.answer = lambda path: FINE
    await line.ask("GET", "/again", patience=60)
    assert calls.at[1:] == [(pytest.approx(begun + 17.5), "/again")]


@in_simulated_time
async def test_after_a_pause_stops_go_first_then_looks_then_starts() -> None:
    calls = Calls(lambda path: Answer(429, {"retry-after": "10"}, b""))
    line = Line(calls)
    await refused(line)
    calls.answer = lambda path: FINE
    calls.at.clear()
    await asyncio.gather(
        line.ask("POST", "/start", urgency=Urgency.START, patience=60),
        line.ask("GET", "/look", urgency=Urgency.LOOK, patience=60),
        line.ask("POST", "/stop", urgency=Urgency.STOP, patience=60),
    )
    assert calls.at[0][1] == "/stop"


@in_simulated_time
async def test_still_too_often_after_the_pause_is_found_out_by_one_call() -> None:
    calls = Calls(lambda path: Answer(429, {"retry-after": "10"}, b""))
    line = Line(calls)
    await refused(line)
    calls.at.clear()
    waiting = [line.ask("POST", "/x", urgency=urgency, patience=15) for urgency in Urgency]
    outcomes = await asyncio.gather(*waiting, return_exceptions=True)
    assert all(isinstance(outcome, VendorError) for outcome in outcomes)
    assert len(calls.at) == 1


@in_simulated_time
async def test_a_refused_key_is_tried_again_less_and_less_often() -> None:
    calls = Calls(lambda path: Answer(401, {}, b""))
    line = Line(calls)
    for _ in range(24 * 60):
        assert (await refused(line)).kind == "key"
        await asyncio.sleep(60)
    assert len(calls.at) <= 105
    pauses = [later - sooner for (sooner, _), (later, _) in zip(calls.at, calls.at[1:], strict=False)]
    assert pauses == sorted(pauses)


@in_simulated_time
async def test_a_stop_is_tried_each_half_minute_though_the_key_is_refused() -> None:
    calls = Calls(lambda path: Answer(401, {}, b""))
    line = Line(calls)
    for _ in range(600):
        await refused(line, urgency=Urgency.STOP)
        await asyncio.sleep(1)
    assert 18 <= len(calls.at) <= 22


@in_simulated_time
async def test_a_stop_keeps_the_pause_of_a_minute_and_not_that_of_a_day() -> None:
    calls = Calls(lambda path: Answer(429, {"retry-after": "45000"}, b""))
    line = Line(calls)
    await refused(line)
    assert line.opens_in(Urgency.LOOK) > 40_000
    assert line.opens_in(Urgency.STOP) == pytest.approx(60)
    calls.answer = lambda path: Answer(429, {"retry-after": "42"}, b"")
    await asyncio.sleep(60)
    await refused(line, urgency=Urgency.STOP)
    assert line.opens_in(Urgency.STOP) == pytest.approx(60)  # the day's is still the longer one


@in_simulated_time
async def test_one_good_answer_ends_all_pauses() -> None:
    calls = Calls(lambda path: Answer(500, {}, b""))
    line = Line(calls)
    for _ in range(4):
        await refused(line, patience=1000)
    assert line.trouble is not None
    calls.answer = lambda path: FINE
    await line.ask("GET", "/", patience=1000)
    assert line.trouble is None
    assert line.opens_in(Urgency.START) == 0


@in_simulated_time
async def test_quota_that_an_answer_says_is_used_up_is_waited_for() -> None:
    calls = Calls()
    line = Line(calls, spent=lambda answer: 9.0)
    await line.ask("GET", "/")
    assert line.opens_in(Urgency.STOP) == pytest.approx(9.0)


@in_simulated_time
async def test_when_there_is_quota_again_a_stop_takes_it_before_a_start_that_waited_longer() -> None:
    calls = Calls()
    line = Line(calls, spent=lambda answer: 9.0 if len(calls.at) == 1 else 0.0)
    await line.ask("GET", "/")
    starts = asyncio.ensure_future(line.ask("POST", "/start", urgency=Urgency.START, patience=60))
    await asyncio.sleep(1)
    await asyncio.gather(starts, line.ask("POST", "/stop", urgency=Urgency.STOP, patience=60))
    assert [path for _, path in calls.at] == ["/", "/stop", "/start"]


@in_simulated_time
async def test_without_a_pause_nobody_waits_for_anybody() -> None:
    line = Line(Calls())
    for urgency in Urgency:
        await line.ask("GET", "/")
        assert line.opens_in(urgency) == 0


@in_simulated_time
async def test_a_look_that_was_not_answered_changed_nothing_and_a_start_may_have() -> None:
    def lost(path: str) -> Answer:
        raise Unanswered("no answer within 20 s", may_have_happened=True)

    line = Line(Calls(lost))
    assert not (await refused(line)).may_have_happened
    with pytest.raises(VendorError) as error:
        await line.ask("POST", "/", patience=10)
    assert error.value.may_have_happened


@in_simulated_time
async def test_each_call_is_counted_with_how_it_ended() -> None:
    heard: list[tuple[str, str]] = []
    calls = Calls()
    line = Line(calls, heard=lambda op, outcome: heard.append((op, outcome)))
    await line.ask("GET", "/", op="look")
    calls.answer = lambda path: Answer(404, {}, b"")
    await refused(line, op="look")
    calls.answer = lambda path: Answer(500, {}, b"")
    await refused(line, op="list")
    await refused(line, op="list")  # not made
    assert heard == [("look", "ok"), ("look", "not_found"), ("list", "failing")]


@in_simulated_time
async def test_a_stop_waits_as_long_as_the_vendor_said_and_no_longer_than_half_a_minute_where_it_said_nothing() -> None:
    """Vast says "too often" and never for how long: pauses of ours that grow would let the money run."""
    silent, clear = Answer(429, {}, b"too often"), Answer(429, {"retry-after": "50"}, b"too often")
    for calls, waits in ((Calls(lambda path: silent), 30.0), (Calls(lambda path: clear), 50.0)):
        line = Line(calls)
        for _ in range(8):
            await refused(line, patience=10_000.0)
        assert line.opens_in(Urgency.STOP) == pytest.approx(waits)
