"""Which of several prices counts, and how that is said."""

import pytest

from gateway.providers.renting.prices import Price, believed, dollars


@pytest.mark.parametrize(
    ("micros", "text"),
    [(340_000, "$0.34"), (0, "$0.00"), (12_000_000, "$12.00"), (345_678, "$0.345678"), (1, "$0.000001")],
)
def test_a_figure_is_written_with_the_digits_that_it_has(micros: int, text: str) -> None:
    assert dollars(micros) == text


def test_the_highest_counts_and_names_what_it_exceeds() -> None:
    assert believed([(310_000, "RunPod's figure"), (340_000, "HOURLY_PRICE")]) == Price(
        340_000, "HOURLY_PRICE, more than $0.31 (RunPod's figure)"
    )


def test_two_that_agree_need_no_explanation() -> None:
    assert believed([(340_000, "RunPod's figure"), (340_000, "HOURLY_PRICE")]) == Price(340_000, "RunPod's figure")


@pytest.mark.parametrize("figures", [[], [(None, "a")], [(0, "a"), (None, "b")]])
def test_nothing_and_0_are_no_price(figures: list[tuple[int | None, str]]) -> None:
    assert believed(figures) is None
