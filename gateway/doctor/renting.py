"""WHAT IS RENTED: what a gateway that rents may spend, and who is told when it goes wrong. Without I/O: no vendor is
asked here, `wakegate rehearse --real` does that."""

from collections.abc import Iterator

from gateway.doctor.case import Case
from gateway.doctor.findings import Finding, found
from gateway.kinds import spell_duration
from gateway.policy.books import dollars
from gateway.policy.budget import Terms


def check(case: Case) -> Iterator[Finding]:
    s = case.settings
    if not s.rents:
        return
    if s.monthly_budget == "unlimited":
        yield found("rent-unlimited")
    else:
        yield from _budget(case, s.monthly_budget or 0)
    if s.alert_url is None:
        yield found("rent-unheard")
    if s.on_exit == "leave":
        yield found("rent-left")
    yield found(
        "rents",
        provider=s.provider,
        budget="unlimited" if s.monthly_budget == "unlimited" else f"{dollars(s.monthly_budget or 0)} a month",
        idle=spell_duration(s.idle_timeout),
        longest=spell_duration(s.max_runtime),
    )


def _budget(case: Case, monthly: int) -> Iterator[Finding]:
    """By HOURLY_PRICE: the vendor's own price is known only to who asks it."""
    s = case.settings
    if not monthly:
        yield found("rent-without-budget")
        return
    if not s.hourly_price:
        return
    terms = Terms(monthly, round(s.budget_grace * 1000), round(s.start_max * 1000))
    needed = terms.reservation(s.hourly_price)
    if needed > monthly:
        yield found("rent-budget-small", needed=dollars(needed), budget=dollars(monthly))
