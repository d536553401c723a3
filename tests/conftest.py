"""What all tests share: real models, made once per run."""

from pathlib import Path

import hypothesis.internal.observability  # noqa: F401  see below
import pytest

from tests.support.llama import make_model

# hypothesis' pytest plugin imports that module when the run ends. Debian's Python 3.11.2 then fails at times with "AST
# constructor recursion depth mismatch" (python/cpython#106905, mended in 3.11.5): a collection of garbage in the middle
# of compiling it prints a warning, whose traceback compiles as well.


@pytest.fixture(scope="session")
def demo_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo model that `./start.sh` makes when none is configured: 0.6 MB, ready in no time, talks nonsense."""
    return make_model(tmp_path_factory.mktemp("models") / "demo.gguf")


@pytest.fixture(scope="session")
def slow_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some ten seconds for a prompt of 5,000 tokens on two cores: something to be cancelled in the middle of."""
    return make_model(tmp_path_factory.mktemp("models") / "slow.gguf", "--size", "slow")
