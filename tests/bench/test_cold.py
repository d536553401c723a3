"""The cold start's figures: what is chosen, and how it is written down."""

from pathlib import Path

import pytest

from bench.cold import Engine, cell, chosen, table, throw_out
from bench.stand import BenchError


def test_a_cell_is_the_median_with_its_ends() -> None:
    assert cell([3.4, 1.2, 40.0]) == "3 [1..40]"


def test_a_table_has_a_column_for_each_engine() -> None:
    text = table("boot, ms", ("port open",), {"quick": [{"port open": 2.0}], "vllm": [{"port open": 4.0}]})
    assert text.splitlines() == [
        "| boot, ms | quick | vllm |",
        "|---|---|---|",
        "| port open | 2 [2..2] | 4 [4..4] |",
    ]


def test_an_engine_that_is_not_installed_is_said_and_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    there = {"quick": Engine("quick", {}), "vllm": Engine("vllm", {}, "pip install vllm")}
    assert list(chosen(there, "")) == ["quick"]
    assert "pip install vllm" in capsys.readouterr().out


def test_an_engine_that_there_is_not_is_named() -> None:
    with pytest.raises(BenchError, match="olama"):
        chosen({"quick": Engine("quick", {})}, "olama")


def test_what_is_thrown_out_of_the_page_cache_stays_on_the_disk(tmp_path: Path) -> None:
    (tmp_path / "model").write_bytes(b"x" * 10_000)
    throw_out(tmp_path / "model")
    assert (tmp_path / "model").read_bytes() == b"x" * 10_000
