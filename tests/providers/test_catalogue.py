"""Names in PROVIDER."""

import pytest

from gateway.providers.catalogue import PROVIDERS, provider_class


@pytest.mark.parametrize("name", sorted(PROVIDERS))
def test_each_name_leads_to_a_class_that_bears_it(name: str) -> None:
    assert provider_class(name).name == name


def test_an_unknown_name_is_answered_with_the_known_ones() -> None:
    with pytest.raises(LookupError, match="PROVIDER=runpd is not one of local, external"):
        provider_class("runpd")
