"""What each feature costs: the arithmetic, and that a gateway with any of them answers."""

from pathlib import Path

import pytest

from bench.featured import FEATURES
from bench.features import ALL, NONE, UNIX, VARIANTS, added, features_of, gateway, goals, share, table
from bench.stand import standing

CHUNK = {NONE: [9e-6, 19e-6, 29e-6]} | {name: [9.5e-6, 19.5e-6, 29.5e-6] for name in (*FEATURES, UNIX)}
CHUNK[ALL] = [11e-6, 20e-6, 29e-6]
REQUEST = {name: [60e-6, 60e-6] for name in VARIANTS} | {ALL: [80e-6, 80e-6]}


def test_a_feature_costs_what_it_needs_more_in_the_same_turn() -> None:
    """However much the turns differ among themselves."""
    assert added(CHUNK, "auth") == pytest.approx((0.5e-6, 0.5e-6, 0.5e-6))
    assert added(CHUNK, ALL)[0] == pytest.approx(1e-6)


def test_a_share_is_one_of_the_cost_with_all_of_them() -> None:
    assert share(CHUNK) == pytest.approx(1 / 20)
    assert share(REQUEST) == pytest.approx(0.25)


def test_the_table_has_a_row_for_none_each_and_all() -> None:
    rows = table({"chunk": CHUNK, "request": REQUEST}).splitlines()[2:]
    assert rows[0] == "| none of them | 19.0 |  | 60.0 |  |"
    assert rows[1].startswith("| API key | +0.50 [+0.50..+0.50] | 2.5 % | +0.00 ")
    assert [row.split("|")[1].strip() for row in rows] == list(VARIANTS.values())


def test_the_goals_are_about_all_of_them_together() -> None:
    rows = goals({"chunk": CHUNK, "request": REQUEST}).splitlines()[2:]
    assert rows == [
        "| all features' share of a chunk | 10% | 5.0% | yes |",
        "| all features' share of a request | 25% | 25.0% | yes |",
    ]


def test_each_variant_has_what_it_is_called() -> None:
    assert features_of(NONE) == ()
    assert features_of("log") == ("log",)
    assert features_of(ALL) == features_of(UNIX) == FEATURES


@pytest.mark.parametrize("variant", [NONE, UNIX])
def test_a_gateway_with_none_or_all_of_them_answers(programs: tuple[Path, Path], variant: str) -> None:
    """The stand-ins still fit the rooms, and whoever has a key with limits is let in."""
    with standing(gateway(variant), programs) as stand:
        assert stand.carry({"connections": 2, "each": 3})["answers"] == 6
        assert stand.carry({"connections": 2, "chunks": 3, "gap": 100})["chunks"] == 6
