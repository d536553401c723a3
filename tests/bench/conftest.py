"""The engine and the load generator, compiled once for all tests."""

from pathlib import Path

import pytest

from bench.stand import build


@pytest.fixture(scope="session")
def programs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Compiled here and now: -Wall -Wextra -Wpedantic -Werror."""
    return build(tmp_path_factory.mktemp("built"))
