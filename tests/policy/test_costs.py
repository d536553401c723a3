"""What a month costs: hand-made sums, and what must hold for every price."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.policy.costs import Offer, Use, cents, even, offers
from gateway.policy.prices import HOURS, TABLE, Gpu

GPU = Gpu("RTX 4090", 24, 600_000, 340_000, 1_116_000, "now", "here")


def by_name(gpu: Gpu, use: Use) -> dict[str, Offer]:
    return {offer.what: offer for offer in offers(gpu, use)}


def test_hours_of_use_are_paid_and_each_wake_besides() -> None:
    """12 h a day are 365 h a month; two wakes of 3 + 10 minutes are 26 minutes more each day."""
    said = by_name(GPU, Use(12, wakes_per_day=2, boot=180, idle=600, disk=50))
    on_demand = said["on demand, network volume"]
    assert on_demand.hours == pytest.approx(365 + 730 / 24 * 26 / 60)
    assert on_demand.running == round(600_000 * on_demand.hours)
    assert on_demand.disk == 3_500_000
    assert on_demand.month == on_demand.running + on_demand.disk


def test_a_disk_costs_twice_as_much_while_it_sleeps() -> None:
    half = Use(12, wakes_per_day=0, disk=60)
    assert by_name(GPU, half)["on demand, its own disk"].disk == 9_000_000
    assert by_name(GPU, Use(0, wakes_per_day=0, disk=60))["on demand, its own disk"].disk == 12_000_000
    assert by_name(GPU, half)["24/7"].disk == 6_000_000


def test_serverless_pays_for_boots_and_for_what_runs() -> None:
    said = by_name(GPU, Use(10, wakes_per_day=2, boot=180, busy=0.3))
    assert said["serverless"].hours == pytest.approx((3 + 0.1) * 730 / 24)
    assert said["serverless"].price == 1_116_000


def test_two_gpus_cost_twice_as_much_and_one_disk() -> None:
    one, two = (by_name(GPU, Use(10, count=count))["24/7"] for count in (1, 2))
    assert two.running == 2 * one.running and two.disk == one.disk


def test_a_day_has_24_hours() -> None:
    said = by_name(GPU, Use(24, wakes_per_day=50))
    assert said["on demand, its own disk"].hours == HOURS
    assert said["on demand, its own disk"].month == said["24/7"].month


def test_what_is_not_offered_has_no_row() -> None:
    assert set(by_name(Gpu("X", 1, None, None, 5, "now", "here"), Use(1))) == {"serverless"}


def test_even_is_where_serverless_costs_as_much() -> None:
    use = Use(10)
    share = even(GPU, use)
    assert share is not None and 0 < share < 1
    said = by_name(GPU, Use(10, busy=share))
    assert said["serverless"].month == pytest.approx(said["on demand, network volume"].month, abs=2)
    assert even(Gpu("X", 1, 5, None, None, "now", "here"), use) is None


@given(st.sampled_from(TABLE), st.floats(0, 24), st.floats(0, 20), st.integers(0, 500))
def test_on_demand_never_runs_longer_than_always(gpu: Gpu, hours: float, wakes: float, disk: int) -> None:
    said = by_name(gpu, Use(hours, wakes_per_day=wakes, disk=disk))
    assert 0 <= said["on demand, its own disk"].running <= said["24/7"].running
    assert all(offer.disk >= 0 and offer.running >= 0 for offer in said.values())


@pytest.mark.parametrize(
    ("micro", "text"),
    [
        (0, "$0.00"),
        (340_000, "$0.34"),
        (12_345_000, "$12.35"),
        (1_234_567_890, "$1,234.57"),
        (9_999, "$0.009999"),
        (-3_100_000, "-$3.10"),
        (999_995_000, "$1,000.00"),
    ],
)
def test_sums_are_shown_to_the_cent(micro: int, text: str) -> None:
    assert cents(micro) == text
