"""What a gateway that rents may spend."""

import pytest

from gateway.doctor import model
from gateway.doctor.case import Facts
from gateway.doctor.findings import BREAKS, DOUBTFUL, NOTE
from gateway.doctor.renting import check
from gateway.providers.local.commands import Installed
from tests.support.doctoring import RENTS, case, codes, only

QUIET = {"ALERT_URL": "https://hooks.example/x"}


def test_where_nothing_is_rented_there_is_nothing_to_say() -> None:
    assert codes(check(case())) == []


def test_what_it_may_spend_is_said_in_one_line() -> None:
    (said,) = check(case(**RENTS, **QUIET))
    assert (said.code, said.level) == ("rents", NOTE)
    assert "from runpod-pod: at most $20.00 a month; IDLE_TIMEOUT is 10m" in said.what


@pytest.mark.parametrize(
    ("settings", "code", "level"),
    [
        ({"MONTHLY_BUDGET": "0"}, "rent-without-budget", BREAKS),
        ({"MONTHLY_BUDGET": "0.10", "HOURLY_PRICE": "0.39"}, "rent-budget-small", BREAKS),
        ({"MONTHLY_BUDGET": "unlimited"}, "rent-unlimited", DOUBTFUL),
        ({"ON_EXIT": "leave"}, "rent-left", DOUBTFUL),
        ({"ALERT_URL": ""}, "rent-unheard", NOTE),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_was_hardly_meant_is_found(settings: dict[str, str], code: str, level: object) -> None:
    assert only(check(case(**RENTS | QUIET | settings)), code).level is level


def test_the_budget_for_one_start_is_named() -> None:
    said = only(check(case(**RENTS | {"MONTHLY_BUDGET": "0.10", "HOURLY_PRICE": "0.39"})), "rent-budget-small")
    assert said.what == "MONTHLY_BUDGET is $0.10, and one start at HOURLY_PRICE needs $0.208."


def test_a_budget_with_room_for_a_start_is_none_of_them() -> None:
    assert codes(check(case(**RENTS | QUIET | {"MONTHLY_BUDGET": "0.21", "HOURLY_PRICE": "0.39"}))) == ["rents"]


def test_a_small_server_that_rents_needs_no_model_and_no_engine_of_its_own() -> None:
    nothing = Facts(installed=Installed())
    assert codes(model.check(case(nothing, **RENTS))) == []
