"""Ends of requests for tests of what is counted and written: everything has a value, a test names what it is about."""

from dataclasses import replace
from typing import Any

from gateway.records.ended import Ended

ANSWERED = Ended(
    at=1_700_000_000.0,
    request_id="req-0001",
    caller_id="",
    upstream="default",
    key="team-a",
    route="/v1/chat/completions",
    model="org/model-a",
    status=200,
    outcome="answered",
    code="",
    ended_by="engine",
    state="ready",
    line=0.0,
    wake=0.0,
    first_byte=0.03,
    first_token=0.05,
    longest_gap=0.2,
    took=2.0,
    tokens_in=7,
    tokens_out=30,
    bytes_in=120,
    bytes_out=900,
)


def ended(**facts: Any) -> Ended:
    """One that was answered, but for `facts`."""
    return replace(ANSWERED, **facts)


def refused(code: str, **facts: Any) -> Ended:
    """One that our own refusal met at once."""
    return ended(
        outcome="refused", code=code, status=429, first_byte=0.001, took=0.001, tokens_in=None, tokens_out=None, **facts
    )
