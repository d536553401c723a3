"""Every refusal a caller can meet, once: status, stable code, whether a retry can help, and what to do about it.

The codes are promises (docs/reference/errors.md is generated from `CATALOGUE`). Rendering lives here too, so that the
OpenAI shape is written in one place; a route with another shape (`/v1/messages`) asks its dialect.
"""

import json
from dataclasses import dataclass

RETRY_AFTER_MAX = 60
"""Seconds. Older OpenAI SDKs ignore a longer Retry-After, the newest gives up above 120 (three generations tried)."""


@dataclass(frozen=True, slots=True)
class Kind:
    """What is the same for every refusal with this code."""

    status: int
    type: str
    retry: bool | None
    """`x-should-retry`: True where a retry costs nothing and may succeed, False where it cannot; None: not sent."""
    meaning: str
    close: bool = False
    """The connection ends after it: the request's framing or body can no longer be trusted, or was not read."""
    retry_after: float | None = None
    """Seconds after which a retry may succeed, where whoever refuses does not know better."""


INVALID, AUTH, FORBIDDEN = "invalid_request_error", "authentication_error", "permission_error"
LIMIT, SERVER = "rate_limit_error", "server_error"

CATALOGUE: dict[str, Kind] = {
    "invalid_request": Kind(
        400, INVALID, None, "The request is not one that can be served; the message names the part."
    ),
    "invalid_json": Kind(
        400, INVALID, None, "The body is not a JSON object, or not one that every parser reads alike."
    ),
    "unsupported_parameter": Kind(
        400, INVALID, None, "A field that could harm the engine, or exceeds a limit; `param` names it."
    ),
    "invalid_api_key": Kind(401, AUTH, None, "No key, or a wrong one; the message says which header came."),
    "forbidden": Kind(403, FORBIDDEN, None, "The key is right, and may not do this."),
    "route_not_found": Kind(404, INVALID, None, "No such path here. It was not passed to the engine."),
    "route_not_supported": Kind(404, INVALID, None, "A known route that this engine lacks."),
    "model_not_found": Kind(404, INVALID, None, "MODEL_CHECK is strict and the model is not one of those served."),
    "method_not_allowed": Kind(405, INVALID, None, "The path exists; `Allow` names its methods."),
    "body_timeout": Kind(408, INVALID, None, "The body came too slowly, or stopped coming.", close=True),
    "body_too_large": Kind(413, INVALID, None, "Larger than MAX_REQUEST_BODY_SIZE.", close=True),
    "head_too_large": Kind(431, INVALID, None, "The request line or the headers are too long.", close=True),
    "unsupported_media_type": Kind(
        415, INVALID, None, "The body must be JSON (or multipart, on audio routes), uncompressed."
    ),
    "rate_limit_exceeded": Kind(429, LIMIT, True, "Too many requests with this key, or too many wrong keys."),
    "queue_full": Kind(429, LIMIT, True, "The line is full, or longer than this caller can wait."),
    "insufficient_quota": Kind(429, "insufficient_quota", False, "The month's budget is spent."),
    "backend_unavailable": Kind(502, SERVER, True, "The engine could not be reached, and nothing was sent to it."),
    "backend_protocol_error": Kind(502, SERVER, None, "The engine's answer was not proper HTTP."),
    "backend_error": Kind(502, SERVER, None, "The engine failed; what it said is in the log."),
    "backend_lost": Kind(502, SERVER, None, "The engine ended in the middle of this answer."),
    "backend_stalled": Kind(504, SERVER, None, "The engine stopped sending in the middle of this answer."),
    "backend_timeout": Kind(504, SERVER, None, "The engine did not begin to answer in time."),
    "loading": Kind(503, SERVER, True, "The engine is waking; come back in `Retry-After` seconds."),
    "queue_timeout": Kind(503, SERVER, True, "Waited in line for QUEUE_TIMEOUT."),
    "draining": Kind(503, SERVER, True, "This gateway is shutting down.", retry_after=10),
    "start_failed": Kind(503, SERVER, False, "The engine does not start; the message says why."),
    "start_timeout": Kind(
        503,
        SERVER,
        True,
        "The engine made no progress for START_TIMEOUT, or took longer than START_MAX.",
        retry_after=30,
    ),
    "no_capacity": Kind(
        503, SERVER, True, "The vendor has no such GPU free at the moment; nothing was charged.", retry_after=60
    ),
    "provider_auth": Kind(503, SERVER, False, "The vendor refuses the key, or there is no credit left."),
    "overloaded": Kind(503, SERVER, True, "MAX_CONNECTIONS are open already.", close=True),
}


@dataclass(frozen=True, slots=True)
class Refusal:
    """One refusal to one caller. Make it with `refuse(code, message)`."""

    code: str
    message: str
    param: str | None = None
    retry_after: float | None = None
    """Seconds; sent rounded up, and never above RETRY_AFTER_MAX."""
    headers: tuple[tuple[str, str], ...] = ()
    status_override: int | None = None
    retry_override: bool | None = None
    close: bool = False
    why: str = ""
    """One word for the metrics, where the code alone says too little: of a closed set."""

    @property
    def kind(self) -> Kind:
        return CATALOGUE[self.code]

    @property
    def status(self) -> int:
        return self.status_override or self.kind.status

    @property
    def retry(self) -> bool | None:
        """Whether another try may succeed; None: nobody can say."""
        return self.kind.retry if self.retry_override is None else self.retry_override

    @property
    def closes(self) -> bool:
        return self.close or self.kind.close

    def body(self) -> dict[str, object]:
        """The OpenAI shape, as the SDKs read it."""
        return {"error": {"message": self.message, "type": self.kind.type, "param": self.param, "code": self.code}}

    def head(self) -> list[tuple[str, str]]:
        """The headers that belong to the refusal itself."""
        head = list(self.headers)
        seconds = self.kind.retry_after if self.retry_after is None else self.retry_after
        if seconds is not None:
            head.append(("Retry-After", str(min(RETRY_AFTER_MAX, max(1, -int(-seconds // 1))))))
        if self.retry is not None:
            head.append(("x-should-retry", "true" if self.retry else "false"))
        if self.status == 401:
            head.append(("WWW-Authenticate", "Bearer"))
        return head


class Refused(Exception):
    """Raised by a check to leave the handler with a refusal; rendered in one place (web/door.py).

    Not frozen: contextlib sets `__traceback__` on what passes through its context managers.
    """

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal)
        self.refusal = refusal

    def __str__(self) -> str:
        return f"{self.refusal.status} {self.refusal.code}: {self.refusal.message}"


def refuse(
    code: str,
    message: str,
    *,
    param: str | None = None,
    retry_after: float | None = None,
    status: int | None = None,
    headers: tuple[tuple[str, str], ...] = (),
    retry: bool | None = None,
    close: bool = False,
    why: str = "",
) -> Refused:
    """`raise refuse("queue_full", "…")`."""
    if code not in CATALOGUE:
        raise LookupError(f"no such refusal: {code}")
    return Refused(Refusal(code, message, param, retry_after, headers, status, retry, close, why))


def to_json(body: object) -> bytes:
    """As every answer of our own is written: UTF-8, compact."""
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
