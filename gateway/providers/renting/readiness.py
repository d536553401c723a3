"""Whether what runs in a rented machine serves yet, and whether it still does: what its answers mean, seen from afar.

In front of it there may be a vendor's proxy, whose 404s and 502s are pages of its own, and in it a WakeGate, which says
at /health how far it is, or an engine alone. /health is not believed by itself, since engines are healthy before their
model is there; and once it serves /v1/models is left alone, since on llama-cpp-python's own server that question cuts
the answer that is running.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from gateway.providers.base import Endpoint, Gone, Loading
from gateway.providers.probe import Sight

Look = Callable[[Endpoint, str, float], Awaitable[Sight]]
"""One GET of a path from an upstream, with its key, within seconds. Raises nothing but cancellation."""

KEY_REFUSED = "The upstream refuses our key (UPSTREAM_API_KEY)."
ENGINE_FAILED = "The engine in the rented machine does not start; its own log says why."
PHASES = frozenset({"queued", "booting", "checking", "downloading", "loading", "filling", "compiling", "warming"})
BOOTING = Loading("booting", detail="the machine runs, its container starts")


@dataclass(frozen=True, slots=True)
class Serves:
    """`models`: the names that it says; `has_health`: whether its /health alone says from now on that it is there."""

    models: tuple[str, ...]
    has_health: bool


async def readiness(look: Look, endpoint: Endpoint, within: float) -> Loading | Serves | Gone:
    """What can be said of it now. Gone: it will never serve, or not us."""
    health = await look(endpoint, f"{endpoint.prefix}/health", within)
    if is_nobody(health):
        return BOOTING
    told = worker_says(health.content)
    if told is not None:
        return told
    if health.status >= 500:
        return Loading("loading", health.progress())
    has_health = health.status == 200 and not health.html
    models = await look(endpoint, f"{endpoint.prefix}/v1/models", within)
    if models.status == 401 or (models.status == 403 and not models.html):
        return Gone(KEY_REFUSED, lasting=True)
    listed = isinstance(models.content, dict) and isinstance(models.content.get("data"), list)
    if models.status == 200 and listed and not models.html:
        return Serves(models.model_names(), has_health)
    if has_health and models.status in (404, 405, 501):
        return Serves((), has_health)  # a server for speech has no list of models
    return Loading("loading", models.progress()) if models.content is not None else BOOTING


async def is_there(look: Look, endpoint: Endpoint, within: float, *, has_health: bool) -> bool | Gone:
    """Whether something that served still does. Gone: a WakeGate says there that its engine failed for good."""
    health = await look(endpoint, f"{endpoint.prefix}/health", within)
    told = worker_says(health.content)
    if isinstance(told, Gone):
        return told
    if is_nobody(health) or health.html:
        return False
    return health.status < 500 if not has_health else health.status == 200 or health.content is not None


def is_nobody(seen: Sight) -> bool:
    """Nothing of its own answered: nobody did, or a proxy that found nobody."""
    return (
        not seen.answered
        or (seen.status in (404, 502, 503, 504, 524) and seen.html)
        or (seen.status in (502, 503, 504, 524) and seen.content is None)
    )


def worker_says(content: object) -> Loading | Gone | None:
    """What a WakeGate in the machine says of itself at /health. None: it serves, or is none."""
    if not isinstance(content, dict) or not isinstance(content.get("state"), str):
        return None
    if content.get("status") == "failed" or content["state"] == "failed":
        reason = clean(content.get("reason"))
        return Gone(f"In the rented machine: {reason}" if reason else ENGINE_FAILED)
    if content["state"] not in ("starting", "draining", "stopping"):
        return None
    progress = content.get("progress")
    if not isinstance(progress, dict):
        return Loading("loading")
    phase, ratio = progress.get("phase"), progress.get("ratio")
    known = phase if isinstance(phase, str) and phase in PHASES else "loading"
    if isinstance(ratio, bool) or not isinstance(ratio, int | float) or not 0 <= ratio <= 1:
        ratio = None
    return Loading(known, ratio, clean(progress.get("detail")))


def clean(text: object) -> str:
    """Somebody else's words, short and printable."""
    return "".join(c for c in text if c.isprintable())[:80] if isinstance(text, str) else ""
