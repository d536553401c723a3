"""What a rented machine can say to its vendor about itself: with the key that the vendor put there, and no other.

RunPod gives each pod RUNPOD_API_KEY and RUNPOD_POD_ID, Vast each container CONTAINER_API_KEY and CONTAINER_ID; both say
that the key may act on that one machine. Unverified, because nobody of us could try it: that RunPod's pod-scoped key
may stop the pod through API v2. So it is tried at the first boot, as far as reading goes, what came of it is told
everywhere, and docs/how-to/dead-mans-lease.md says how to try the rest in two minutes.

RunPod: `POST /v2/pods/{id}/action`, `{"action": "stop"}`; 409 where it is stopping already (its OpenAPI, 2026-11-20).
Vast: `PUT /api/v0/instances/{id}/`, `{"state": "stopped"}`; 200 with `"success": false` is a refusal (its docs, same).
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from gateway.providers.renting.vendor import Answer, VendorError, judge_by_status
from gateway.surroundings import Surroundings


@dataclass(frozen=True, slots=True)
class Words:
    """One vendor's for the two things that are asked of it."""

    vendor: str
    thing: str
    """What it calls such a machine."""
    id_name: str
    key_name: str
    """The environment's names."""
    look: str
    stop: tuple[str, str, bytes]
    """Method, path, body; `{id}` in a path is the machine's."""


RUNPOD: Final = Words(
    vendor="RunPod",
    thing="pod",
    id_name="RUNPOD_POD_ID",
    key_name="RUNPOD_API_KEY",
    look="/pods/{id}",
    stop=("POST", "/pods/{id}/action", json.dumps({"action": "stop"}).encode()),
)
VAST: Final = Words(
    vendor="Vast",
    thing="instance",
    id_name="CONTAINER_ID",
    key_name="CONTAINER_API_KEY",
    look="/instances/{id}/",
    stop=("PUT", "/instances/{id}/", json.dumps({"state": "stopped"}).encode()),
)
BY_PLATFORM: Final = {"runpod-pod": RUNPOD, "vast": VAST}
"""Nothing else is billed until somebody stops it: a serverless worker is its platform's to end."""


@dataclass(frozen=True, slots=True)
class OwnMachine:
    """The machine that we run on, as its vendor knows it."""

    words: Words
    id: str
    url: str
    """The vendor's API, without a slash at its end."""
    key: str = field(repr=False)
    """"" where the vendor put none here."""

    def __str__(self) -> str:
        return f"{self.words.vendor} {self.words.thing} {self.id}"

    @property
    def look(self) -> tuple[str, str]:
        return "GET", self.words.look.format(id=self.id)

    @property
    def stop(self) -> tuple[str, str, bytes]:
        method, path, body = self.words.stop
        return method, path.format(id=self.id), body


def own_machine(around: Surroundings, environ: Mapping[str, str], urls: Mapping[str, str]) -> OwnMachine | None:
    """The machine that can be stopped from here; None where a platform does it, or where it is nobody's.

    `urls`: each platform's API.
    """
    words = BY_PLATFORM.get(around.platform)
    if words is None:
        return None
    found = environ.get(words.id_name, "").strip()
    own = found if found.replace("-", "").isalnum() and found.isascii() and len(found) <= 64 else ""
    if not own:
        return None
    return OwnMachine(words, own, urls[around.platform].rstrip("/"), environ.get(words.key_name, "").strip())


def judge(op: str, answer: Answer) -> VendorError | None:
    """What an answer to `look` or `stop` means. None: it went well."""
    content = answer.content()
    if op == "stop" and answer.status == 409:
        return None  # it is in no state to be stopped: it stops already. If not, it is tried again soon
    if 200 <= answer.status < 300:
        if isinstance(content, dict) and content.get("success") is False:
            return VendorError("unprocessable", f"{answer.status}, success false")
        if _is_locked(content):
            return VendorError("locked", "it is locked")
        return None
    error = judge_by_status(op, answer)
    # The rest of its text may hold anything, and goes to another machine.
    return None if error is None else VendorError(error.kind, str(answer.status), retry_after=error.retry_after)


def _is_locked(content: object) -> bool:
    """RunPod's `locked`: such a pod cannot be stopped by anybody."""
    return isinstance(content, dict) and content.get("locked") is True
