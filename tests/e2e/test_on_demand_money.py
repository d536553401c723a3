"""The end of the budget on real processes: answers have their grace, and what is rented is stopped."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.landlord import CHAT, SOON, Landlord, landlord, renting, spend
from tests.support.worker import wait_for

pytestmark = pytest.mark.minutes


@pytest.fixture
def rents(tmp_path: Path) -> Iterator[Landlord]:
    with landlord(tmp_path / "pods") as made:
        yield made


def test_at_the_budgets_end_answers_have_their_grace_and_the_pod_is_stopped(tmp_path: Path, rents: Landlord) -> None:
    """No start is begun that is not good for a minute, so this takes one."""
    # Ten cents a second; a start needs 7.20.
    money = {"HOURLY_PRICE": "360", "MONTHLY_BUDGET": "7.3", "BUDGET_GRACE": "2s", "START_MAX": "10s"}
    with renting(tmp_path, rents, **money) as gateway:
        answers: list[tuple[int, str]] = []

        def ended() -> bool:
            time.sleep(1)
            status, answer = gateway.post("/v1/chat/completions", CHAT, timeout=120)
            answers.append((status, answer["error"]["code"] if status != 200 else ""))
            return status != 200

        wait_for(ended, 2 * SOON, "the budget's end")
        assert answers[0] == (200, "") and answers[-1] == (429, "insufficient_quota")
        wait_for(lambda: not rents.running, SOON, "it is stopped")
        spent = wait_for(lambda: spend(gateway)["spent_dollars"], 10, "it is in the ledger")
        assert 6.5 < float(str(spent)) <= 7.3 + 0.6, "beyond the budget only what the stop took"
        assert rents.actions() == ["POST /v2/pods/abc123/action"] * 2, "one start, one stop"
