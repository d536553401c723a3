"""Errors in OpenAI's shape, as the clients and the gateway read them. No file path and no traceback is ever in one."""

INVALID = "invalid_request_error"


class Refusal(Exception):
    """A request that gets an error: a verdict about it, not a fault of the engine."""

    def __init__(
        self, message: str, *, param: str | None = None, code: str | None = None, status: int = 400, kind: str = INVALID
    ) -> None:
        super().__init__(message)
        self.message, self.param, self.code, self.status, self.kind = message, param, code, status, kind

    def body(self) -> dict[str, object]:
        return {"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}}


LOADING: dict[str, object] = {"error": {"message": "Loading model", "type": "unavailable_error", "code": 503}}
"""What llama-server says while it loads, to the letter: the gateway reads both alike."""


def stopping() -> Refusal:
    return Refusal("The engine is stopping.", code="draining", status=503, kind="server_error")


def failed() -> Refusal:
    """The reason stands in the engine's log: what native code or a traceback says is not for callers."""
    return Refusal(
        "The engine failed on this request; its log says why.", code="engine_error", status=500, kind="server_error"
    )


def too_long(tokens: str, limit: int, param: str) -> Refusal:
    return Refusal(
        f"This model's maximum context length is {limit} tokens, and this prompt has {tokens}. Shorten it.",
        param=param,
        code="context_length_exceeded",
    )
