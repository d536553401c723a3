"""The dated table: each price says when it was read, and a person finds a GPU by what it is called anywhere."""

import datetime
from decimal import Decimal

import pytest

from gateway.policy.prices import MOST_LISTED, TABLE, Gpu, from_catalogue, matching, per_hour, per_second


def test_every_price_has_a_day_and_a_place() -> None:
    for gpu in TABLE:
        assert datetime.date.fromisoformat(gpu.read) <= datetime.date(2026, 11, 21), gpu
        assert gpu.source
        assert gpu.secure or gpu.community


def test_the_table_is_in_the_order_of_memory_and_names_are_unlike() -> None:
    assert [gpu.memory for gpu in TABLE] == sorted(gpu.memory for gpu in TABLE)
    assert len({gpu.name for gpu in TABLE}) == len(TABLE)


def test_community_costs_less_than_secure() -> None:
    assert all(gpu.community < gpu.secure for gpu in TABLE if gpu.community and gpu.secure)


def test_prices_are_exact() -> None:
    assert per_hour("0.34") == 340_000
    assert per_second("0.00031") == 1_116_000


@pytest.mark.parametrize(
    ("named", "found"),
    [
        ("RTX 4090", ["RTX 4090"]),
        ("4090", ["RTX 4090"]),
        ("NVIDIA GeForce RTX 4090", ["RTX 4090"]),
        ("a100", ["A100 PCIe", "A100 SXM"]),
        ("NVIDIA A100 80GB PCIe", ["A100 PCIe"]),
        ("NVIDIA A100-SXM4-80GB", ["A100 SXM"]),
        ("L4", ["L4"]),
        ("l40s", ["L40S"]),
        ("banana", []),
        ("", []),
        ("NVIDIA", []),
    ],
)
def test_a_gpu_is_found_by_any_of_its_names(named: str, found: list[str]) -> None:
    assert [gpu.name for gpu in matching(named, TABLE)] == found


def test_the_very_one_goes_before_those_that_hold_its_name() -> None:
    table = [Gpu(name, 24, 1, None, None, "now", "RunPod") for name in ("L40", "L4", "L40S")]
    assert [gpu.name for gpu in matching("L40", table)] == ["L40"]


LISTED = {
    "id": "NVIDIA GeForce RTX 4090",
    "name": "RTX 4090",
    "pool": "ADA_24",
    "manufacturer": "NVIDIA",
    "memory": 24,
    "secure": True,
    "community": True,
    "price": {"secure": Decimal("0.44"), "community": Decimal("0.31"), "serverless": Decimal("1.1")},
    "maxCount": {"secure": 8, "community": 4},
}
"""As the schema's own example has it (RunPod API v2, GpuType)."""


def test_the_vendors_catalogue_is_read_exactly() -> None:
    assert from_catalogue({"gpus": [LISTED]}) == [
        Gpu("RTX 4090", 24, 440_000, 310_000, 1_100_000, "now", "RunPod's API")
    ]


def test_what_is_not_offered_has_no_price() -> None:
    only_secure = LISTED | {"community": False, "price": {"secure": 1, "community": Decimal("0.31")}}
    (gpu,) = from_catalogue({"gpus": [only_secure]})
    assert (gpu.secure, gpu.community, gpu.serverless) == (1_000_000, None, None)


@pytest.mark.parametrize(
    "content",
    [
        None,
        [],
        "gpus",
        {"gpus": {}},
        {"gpus": [None, 1, {}, {"name": "x"}]},
        {"gpus": [LISTED | {"name": "evil\x1b[2J"}]},
        {"gpus": [LISTED | {"name": "n" * 61}]},
        {"gpus": [LISTED | {"price": {"secure": "0.44", "community": True, "serverless": Decimal("NaN")}}]},
        {"gpus": [LISTED | {"price": {"secure": -1, "community": 0, "serverless": 10**9}}]},
    ],
)
def test_what_is_not_understood_is_left_out(content: object) -> None:
    assert from_catalogue(content) == []


def test_a_catalogue_without_an_end_has_one() -> None:
    assert len(from_catalogue({"gpus": [LISTED] * 10_000})) == MOST_LISTED
