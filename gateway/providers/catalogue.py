"""The provider behind each name in PROVIDER. A vendor's code is imported when it is chosen, and not before."""

from importlib import import_module
from typing import Any

PROVIDERS: dict[str, str] = {
    "local": "gateway.providers.local.provider:LocalProvider",
    "external": "gateway.providers.external.provider:ExternalProvider",
    "runpod-pod": "gateway.providers.runpod_pod.provider:RunPodPod",
    "vast": "gateway.providers.vast.provider:VastProvider",
}
"""Name as in the settings, and where its class lives. What each needs to be made, `app.py` knows."""


def provider_class(name: str) -> Any:
    """The class of this name. Raises LookupError with the names that there are."""
    try:
        module, _, attribute = PROVIDERS[name].partition(":")
    except KeyError:
        raise LookupError(f"PROVIDER={name} is not one of {', '.join(PROVIDERS)}.") from None
    return getattr(import_module(module), attribute)
