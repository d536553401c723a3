"""What is known of one inference request when it has ended: for the metrics, the canonical log line and the key's bill.

One value, so that counts and lines can never tell different stories. Nothing in it is a key, a prompt or an answer.
Nobody changes it once it is made, though it is not frozen: that would cost each request as much as all else here.
"""

from dataclasses import dataclass


@dataclass(slots=True)
class Ended:
    """Times are seconds, sizes are bytes of HTTP bodies."""

    at: float
    """Unix time of its end."""
    request_id: str
    caller_id: str
    """The caller's own X-Request-Id, if it was plain."""
    upstream: str
    key: str
    """The name of its key; empty with keys off."""
    route: str
    model: str
    """As the caller wrote it: a stranger's text."""
    status: int
    """What the caller got; 0 when it left before there was one."""
    outcome: str
    """answered, refused, left, failed."""
    code: str
    """Our refusal's code, or the engine's status of 400 and above; empty when all went well."""
    ended_by: str
    """caller, gateway, engine, fallback."""
    state: str
    """What the upstream was when the request arrived."""
    line: float
    """Waiting in line behind others."""
    wake: float
    """Held while the upstream woke."""
    first_byte: float | None
    """From its head to the first byte of the answer's body; None when none came."""
    first_token: float | None
    """From its head to the first event of a stream that says something; None when none came."""
    longest_gap: float | None
    """Between two reads of a stream, but for the time in which its caller read nothing; None where there is none."""
    took: float
    """From its head to its end."""
    tokens_in: int | None
    """From the engine's `usage`; None when it said none."""
    tokens_out: int | None
    bytes_in: int
    bytes_out: int
    served_by: str = ""
    """`fallback` where somebody else gave the answer, and counted its tokens; empty for the engine."""
