"""What the tests of policy share."""

from collections.abc import Iterator

import pytest

from tests.support.stories import Teller


@pytest.fixture
def story() -> Iterator[Teller]:
    """A machine to tell events to; at the end, every order must have been read."""
    teller = Teller()
    yield teller
    teller.all_is_read()
