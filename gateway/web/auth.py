"""Who may: one key, or none when somebody decided so.

A key is compared as the SHA-256 of its bytes, in constant time, and every configured key is always compared. Nothing
that a caller sent is ever logged. Where no key is configured, a first one is made, so that nobody's GPU is open to
strangers by having forgotten a setting.
"""

import hashlib
import hmac
import os
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from gateway.errors import refuse

FIRST_KEY = "first-key.txt"


@dataclass(frozen=True, slots=True)
class Key:
    """A key that is right: its name for logs, its hash to compare with."""

    name: str
    digest: bytes

    @classmethod
    def of(cls, name: str, secret: str) -> "Key":
        return cls(name, hashlib.sha256(secret.encode("utf-8", "surrogateescape")).digest())


class Keys:
    """Who may use the inference routes. With no keys, everybody may: that is `AUTH_ENABLED=false`."""

    def __init__(self, keys: Iterable[Key]) -> None:
        self._keys = tuple(keys)

    @property
    def enabled(self) -> bool:
        return bool(self._keys)

    def check(self, headers: Mapping[str, str], raw: Iterable[tuple[bytes, bytes]]) -> str:
        """The name of the key that came, "" when keys are off. Raises Refused: 401, and what is wrong with it."""
        if not self._keys:
            return ""
        seen: list[str] = []
        found = ""
        for name, value in raw:
            header = name.lower()
            if header == b"authorization":
                scheme, _, token = value.partition(b" ")
                if scheme.lower() != b"bearer":
                    seen.append("Authorization without Bearer")
                    continue
                seen.append("Authorization")
                found = self._match(token.strip()) or found
            elif header == b"x-api-key":
                seen.append("X-API-Key")
                found = self._match(value.strip()) or found
        if found:
            return found
        if not seen:
            said = "No API key came. Send `Authorization: Bearer <key>` or `X-API-Key: <key>`."
        else:
            said = f"The API key is not right (it came in: {', '.join(dict.fromkeys(seen))})."
        raise refuse("invalid_api_key", said)

    def knows(self, raw: Iterable[tuple[bytes, bytes]]) -> bool:
        """For open pages that say more to who has a key."""
        if not self._keys:
            return False
        tokens = []
        for name, value in raw:
            if name.lower() == b"authorization" and value[:7].lower() == b"bearer ":
                tokens.append(value[7:].strip())
            elif name.lower() == b"x-api-key":
                tokens.append(value.strip())
        matches = [self._match(token) for token in tokens]  # all of them: constant time
        return any(matches)

    def _match(self, token: bytes) -> str:
        """The name of the key that this is. Every key is compared, whichever is right."""
        digest = hashlib.sha256(token).digest()
        found = ""
        for key in self._keys:
            if hmac.compare_digest(key.digest, digest):
                found = key.name
        return found if token else ""


def first_key(folder: Path) -> tuple[str, Path, bool]:
    """The key made at the first start: (key, where it lies, whether it was made just now). Raises OSError.

    O_EXCL: of two gateways that start on one volume, one makes it and the other reads it.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = folder / FIRST_KEY
    made = "sk-wakegate-" + secrets.token_urlsafe(24)
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    except FileExistsError:
        kept = path.read_text("utf-8").strip()
        if not kept:
            # The making of it was interrupted: an empty key must not become the right one.
            path.unlink()
            return first_key(folder)
        return kept, path, False
    with os.fdopen(fd, "w", encoding="utf-8") as file:
        file.write(made + "\n")
        file.flush()
        os.fsync(file.fileno())
    return made, path, True
