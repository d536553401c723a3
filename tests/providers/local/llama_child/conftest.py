"""One ready child per model for all tests of this room: each of them must leave it as it found it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.llama import Child, ready_child

SMALL = ["--ctx", "2048", "--arg", "n_threads=1", "--arg", "n_threads_batch=1"]
"""One thread: more of them wait for each other on a busy machine, and this model needs no help."""


@pytest.fixture(scope="package")
def child(demo_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Child]:
    with ready_child(
        tmp_path_factory.mktemp("child"), demo_model, "--alias", "demo", "--alias", "second", *SMALL
    ) as running:
        yield running


@pytest.fixture(scope="package")
def slow_child(slow_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Child]:
    with ready_child(tmp_path_factory.mktemp("slow"), slow_model, "--alias", "slow") as running:
        yield running
