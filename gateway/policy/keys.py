"""A key and what it may. Pure: the hash, never the key itself, and the question "may it do this now?".

Keys come from API_KEY, ADMIN_KEY, the first key, or API_KEYS_FILE (`web/keyfile.py` reads and writes that).
"""

import hashlib
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Key:
    """One caller's key: its name for logs, its hash to compare with, and its limits (None: no limit)."""

    name: str
    digest: bytes
    """SHA-256 of the key's bytes. Keys are long random strings, so that a slow hash would protect nothing more."""
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    max_concurrent: int | None = None
    monthly_spend: int | None = None
    """Micro-dollars in a calendar month, UTC."""
    fallback: bool = True
    """Whether its requests may go to a fallback that is paid per token."""
    expires: float | None = None
    """Unix time from which it is wrong."""
    models: frozenset[str] = frozenset()
    """Models that it may ask for; empty: all."""
    routes: frozenset[str] = frozenset()
    """Paths that it may use; empty: all."""

    @classmethod
    def of(cls, name: str, secret: str) -> "Key":
        """A key without limits, from its text."""
        return cls(name, digest_of(secret.encode("utf-8", "surrogateescape")))

    def has_expired(self, now: float) -> bool:
        """`now` is Unix time."""
        return self.expires is not None and now >= self.expires

    def may_use(self, route: str) -> bool:
        return not self.routes or route in self.routes

    def may_ask_for(self, model: str | None) -> bool:
        """Whether it may name this model. A request that names none gets the usual one, which must be listed, too."""
        return not self.models or model in self.models


def digest_of(secret: bytes) -> bytes:
    return hashlib.sha256(secret).digest()
