"""Who may: one key, or none when somebody decided so.

A key is compared as the SHA-256 of its bytes, in constant time, and every configured key is always compared. Nothing
that a caller sent is ever logged. Where no key is configured, a first one is made, so that nobody's GPU is open to
strangers by having forgotten a setting.
"""

import hashlib
import hmac
import os
import secrets
from collections.abc import Iterable
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

    def check(self, raw: Iterable[tuple[bytes, bytes]]) -> str:
        """The name of the key that came, "" when keys are off. Raises Refused: 401, and what is wrong with it.

        Either header may hold it (RunPod's edge takes Authorization for itself), but neither may come twice: whoever
        stands in front of us may have looked at the other one.
        """
        if not self._keys:
            return ""
        came = _came(raw)
        found = ""
        for _, token in came:
            found = self._match(token) or found
        if found and not _is_doubled(came):
            return found
        raise refuse("invalid_api_key", _what_is_wrong(came))

    def knows(self, raw: Iterable[tuple[bytes, bytes]]) -> bool:
        """For open pages that say more to who has a key."""
        matches = [self._match(token) for _, token in _came(raw)]  # all of them: constant time
        return any(matches)

    def _match(self, token: bytes) -> str:
        """The name of the key that this is. Every key is compared, whichever is right."""
        digest = hashlib.sha256(token).digest()
        found = ""
        for key in self._keys:
            if hmac.compare_digest(key.digest, digest):
                found = key.name
        return found if token else ""


_HEADERS = {b"authorization": "Authorization", b"x-api-key": "X-API-Key"}


def _came(raw: Iterable[tuple[bytes, bytes]]) -> list[tuple[str, bytes]]:
    """Each header that may hold a key, with the key in it; b"" where it holds none."""
    came = []
    for name, value in raw:
        header = _HEADERS.get(name.lower())
        if header is None:
            continue
        if header == "Authorization":
            scheme, _, value = value.partition(b" ")
            value = value if scheme.lower() == b"bearer" else b""
        came.append((header, value.strip()))
    return came


def _is_doubled(came: list[tuple[str, bytes]]) -> bool:
    return len({header for header, _ in came}) < len(came)


def _what_is_wrong(came: list[tuple[str, bytes]]) -> str:
    if not came:
        return "No API key came. Send `Authorization: Bearer <key>` or `X-API-Key: <key>`."
    if _is_doubled(came):
        return "A header that holds a key came more than once."
    where = [header if token else f"{header}, without a key" for header, token in came]
    hint = "" if any(token for _, token in came) else " Send `Authorization: Bearer <key>` or `X-API-Key: <key>`."
    return f"The API key is not right (it came in: {'; '.join(where)}).{hint}"


def first_key(folder: Path) -> tuple[str, Path, bool]:
    """The key made at the first start: (key, where it lies, whether it was made just now). Raises OSError.

    Of two gateways that start on one volume, one makes it and the other reads it: it appears whole or not at all, by a
    link from a file of one's own that fails where there is one already. An empty file (a volume without links, and a
    start that was interrupted) is no key, and must not become the right one.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = folder / FIRST_KEY
    kept = _kept(path)
    if kept:
        return kept, path, False
    made = "sk-wakegate-" + secrets.token_urlsafe(24)
    draft = folder / f".{FIRST_KEY}.{secrets.token_hex(8)}"
    try:
        _write_secret(draft, made)
        if kept is not None:
            draft.replace(path)
        else:
            _put(draft, path)
    except FileExistsError:
        kept = _kept(path)
        if not kept:
            raise
        return kept, path, False
    finally:
        draft.unlink(missing_ok=True)
    return made, path, True


def _kept(path: Path) -> str | None:
    """The key in the file; "" where it is empty, None where there is none."""
    try:
        return path.read_text("utf-8").strip()
    except FileNotFoundError:
        return None


def _write_secret(path: Path, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(fd, "w", encoding="utf-8") as file:
        file.write(text + "\n")
        file.flush()
        os.fsync(file.fileno())


def _put(draft: Path, path: Path) -> None:
    """Give it its name, unless another has it. Raises FileExistsError."""
    try:
        os.link(draft, path)
    except FileExistsError:
        raise
    except OSError:  # a volume without links
        _write_secret(path, draft.read_text("utf-8").strip())
