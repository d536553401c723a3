"""Who may: which key came, whether it is right, and what it may; with keys off, whether a web page is behind it.

A key is looked up by the SHA-256 of its bytes in a table of digests, which takes as long for a thousand keys as for one
and whichever is right. Its time leaks nothing: Python compares two digests only where their hashes, seeded anew in each
process, are the same, so nobody learns how much of a digest was met; and from a digest nobody gets to a key.

Nothing that a caller sent is ever logged. Wrong keys are counted by address and told to wait when there are too many; a
right one always passes, because behind an edge all callers share an address. Where no key is configured, a first one is
made, so that nobody's GPU is open to strangers by having forgotten a setting.
"""

import os
import secrets
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from gateway.errors import Refused, refuse
from gateway.kinds import address_of, shown
from gateway.policy.keys import Key, digest_of, spell_moment
from gateway.policy.throttle import LIMIT, Throttle
from gateway.web.keyring import Keyring

__all__ = ["FIRST_KEY", "Key", "Keys", "check_browser", "first_key", "may_ask_for", "may_use"]

FIRST_KEY = "first-key.txt"

Raw = Iterable[tuple[bytes, bytes]]
"""Headers as they came, doubled ones too."""


class Keys:
    """Who may use the inference routes. With no keys, everybody may: that is `AUTH_ENABLED=false`."""

    def __init__(self, keys: Iterable[Key] | Keyring = (), *, throttle: Throttle | None = None) -> None:
        self._ring = keys if isinstance(keys, Keyring) else Keyring(keys)
        self._throttle = Throttle() if throttle is None else throttle
        self.enabled = self._ring.enabled

    def check(
        self, raw: Raw, *, address: str | None = None, now: float | None = None, wall: float | None = None
    ) -> Key | None:
        """The key that came, None when keys are off. Raises Refused: 401, what is wrong; 429, too many wrong ones.

        Either header may hold it (RunPod's edge takes Authorization for itself), but neither may come twice: whoever
        stands in front of us may have looked at the other one. Of two right keys X-API-Key's is meant. `address` is
        whose wrong keys are counted (None: nobody's), `now` a monotonic clock, `wall` Unix time.
        """
        if not self.enabled:
            return None
        came = _came(raw)
        matches = [self._match(token) for _, token in came]
        wall = time.time() if wall is None else wall
        found = _valid(matches, wall)
        if found is not None and not _is_doubled(came):
            return found
        if not _is_doubled(came):
            for match in matches:
                if match is not None:  # whoever has an expired key guesses nothing
                    raise refuse("invalid_api_key", _expired(match), why="expired")
        self._refuse_too_many(came, address, now)
        why = "missing" if not _is_guess(came) else "doubled" if _is_doubled(came) else "wrong"
        raise refuse("invalid_api_key", _what_is_wrong(came), why=why)

    def known(self, raw: Raw, *, wall: float | None = None) -> Key | None:
        """The right key that came, which is all that there is to know of nearly every request. None: `check` says what
        is wrong; an open page, which refuses nobody, asks `count_wrong`."""
        in_authorization = in_x_api_key = None
        for name, value in raw:
            name = name.lower()
            if name == b"authorization":
                if in_authorization is not None:
                    return None
                in_authorization = value
            elif name == b"x-api-key":
                if in_x_api_key is not None:
                    return None
                in_x_api_key = value
        for token in (in_x_api_key, in_authorization and bearer(in_authorization)):
            key = self._match(token.strip()) if token else None
            if key is not None and (key.expires is None or not key.has_expired(time.time() if wall is None else wall)):
                return key
        return None

    def knows(self, raw: Raw) -> bool:
        return self.known(raw) is not None

    def count_wrong(self, raw: Raw, *, address: str, now: float) -> bool:
        """Count a wrong key that came to an open page, so that guessing there is no way round. Whether there was one.

        Only for a request whose key nobody knew (API keys and admin key). It is answered all the same: a probe with
        somebody's header in it must not begin to fail because others guess.
        """
        came = _came(raw)
        if not self.enabled or not _is_guess(came):
            return False
        self._throttle.count(address, now)
        return True

    def _refuse_too_many(self, came: "list[_Came]", address: str | None, now: float | None) -> None:
        """Nobody without a key guesses: a browser, a crawler, a forgotten setting hears 401 as often as it asks."""
        if address is None or not _is_guess(came):
            return
        wait = self._throttle.count(address, time.monotonic() if now is None else now)
        if wait is not None:
            raise refuse(
                "rate_limit_exceeded",
                f"More than {LIMIT} wrong keys came from this address within a minute. {_what_is_wrong(came)}",
                retry_after=wait,
                retry=False,
                why="throttled",
            )

    def _match(self, token: bytes) -> Key | None:
        """The key that this is. No text at all is none, whatever was configured."""
        return self._ring.by_digest.get(digest_of(token)) if token else None

    def __repr__(self) -> str:
        return f"<Keys {len(self._ring.keys) if self.enabled else 'off'}, {self._throttle!r}>"


# --- What came --------------------------------------------------------------------------------------------------------


class _Came(NamedTuple):
    """A header that may hold a key, and the key in it; b"" where it holds none."""

    header: str
    token: bytes


_HEADERS = {b"authorization": "Authorization", b"x-api-key": "X-API-Key"}


def _came(raw: Raw) -> list[_Came]:
    """Authorization first, whatever came first."""
    came = []
    for name, value in raw:
        header = _HEADERS.get(name.lower())
        if header is None:
            continue
        if header == "Authorization":
            value = bearer(value)
        came.append(_Came(header, value.strip()))
    return sorted(came, key=lambda each: each.header)


def bearer(authorization: bytes) -> bytes:
    """What comes behind `Bearer`; b"" behind any other scheme (RFC 9110, 11.1: in any case)."""
    scheme, _, credentials = authorization.partition(b" ")
    return credentials if scheme.lower() == b"bearer" else b""


def _is_doubled(came: list[_Came]) -> bool:
    return len({each.header for each in came}) < len(came)


def _is_guess(came: list[_Came]) -> bool:
    return any(each.token for each in came)


def _valid(matches: list[Key | None], wall: float) -> Key | None:
    found = None
    for key in matches:
        if key is not None and not key.has_expired(wall):
            found = key
    return found


def _expired(key: Key) -> str:
    when = spell_moment(key.expires or 0)
    return f"The API key {key.name} expired at {when}. Ask the operator of this gateway for a new one."


def _what_is_wrong(came: list[_Came]) -> str:
    if not came:
        return "No API key came. Send `Authorization: Bearer <key>` or `X-API-Key: <key>`."
    if _is_doubled(came):
        return "A header that holds a key came more than once."
    where = [each.header if each.token else f"{each.header}, without a key" for each in came]
    hint = "" if _is_guess(came) else " Send `Authorization: Bearer <key>` or `X-API-Key: <key>`."
    return f"The API key is not right (it came in: {'; '.join(where)}).{hint}"


# --- What a key may ---------------------------------------------------------------------------------------------------

MODELS = "/v1/models"


def may_use(key: Key, route: str) -> None:
    """Raises Refused, 403. `route` is a path of the table; whoever may list the models may also look at one."""
    if not key.may_use(MODELS if route.startswith(MODELS + "/") else route):
        said = f"The key {key.name} may not use {route}; it may use {_few(key.routes)}."
        raise refuse("forbidden", said, why="forbidden")


def may_ask_for(key: Key, model: str | None) -> None:
    """Raises Refused, 403. `model` is what the request names; None: the usual one, where nothing says which that is."""
    if key.may_ask_for(model):
        return
    asked = "ask without naming a model" if model is None else f"ask for the model {_quoted(model)}"
    said = f"The key {key.name} may not {asked}; it may ask for {_few(key.models)}."
    raise refuse("forbidden", said, param="model", why="forbidden")


def _quoted(text: str) -> str:
    """What a caller sent, on one line, short, and nothing that looks like a key."""
    return shown(text if text.isprintable() else ascii(text)[1:-1])


def _few(names: frozenset[str]) -> str:
    first = sorted(names)[:10]
    return ", ".join(first) + (f" and {len(names) - 10} more" if len(names) > 10 else "")


# --- Keys off: web pages ----------------------------------------------------------------------------------------------


def check_browser(headers: Mapping[str, str], *, origins: frozenset[str] = frozenset()) -> None:
    """With keys off: refuse what a web page makes its reader's browser send here. Raises Refused, 403.

    Two ways lead from a page to a service that only its reader can reach. It posts here from its own origin, which the
    browser tells in `Origin` or `Sec-Fetch-Site`. Or its own name suddenly means our address (DNS rebinding): then the
    browser takes us for the page's own server, and only `Host` tells. An address cannot be rebound, and neither can
    localhost. Programs that are no browsers are not looked at. `origins` is CORS_ORIGINS, as `kinds` reads it.
    """
    origin, site = headers.get("Origin"), headers.get("Sec-Fetch-Site", "").lower()
    if origin is None and not site and not headers.get("User-Agent", "").startswith("Mozilla/"):
        return
    if origin is not None and origin.lower() != "null" and (origin.lower() in origins or "*" in origins):
        return  # a page that the operator trusts, wherever it finds us
    host = headers.get("Host", "")
    name, _ = _host_and_port(host)
    if not (_cannot_be_rebound(name) or "*" in origins or name in {urlsplit(each).hostname for each in origins}):
        raise _not_from_a_page(f"a browser that calls this gateway {_quoted(host)}", origin or f"http://{host}")
    if origin is not None:
        if not _is_same_origin(origin, host):
            raise _not_from_a_page(f"a web page of {_quoted(origin)}", origin)
    elif site in ("cross-site", "same-site") and headers.get("Sec-Fetch-Mode", "").lower() != "navigate":
        raise _not_from_a_page("a web page of another origin", "")


def _not_from_a_page(who: str, origin: str) -> Refused:
    add = _quoted(origin).strip('"') if origin.startswith(("http://", "https://")) else "the page's origin"
    said = f"Keys are off, and this came from {who}. If it may: add {add} to CORS_ORIGINS."
    return refuse("forbidden", said, why="browser")


def _host_and_port(host: str) -> tuple[str, int | None]:
    """Of a Host header; ("", None) where it is none."""
    try:
        parts = urlsplit(f"//{host}")
        name, port = parts.hostname or "", parts.port
    except ValueError:
        return "", None
    return ("", None) if parts.netloc != host or "@" in host else (name.rstrip("."), port)


def _cannot_be_rebound(name: str) -> bool:
    return address_of(name) is not None or name == "localhost" or name.endswith(".localhost")


def _is_same_origin(origin: str, host: str) -> bool:
    """Whether the page came from where it now asks. Which scheme we were reached by only the origin says."""
    parts = urlsplit(origin)
    default = {"http": 80, "https": 443}.get(parts.scheme)
    if default is None or not parts.netloc:
        return False
    (name, port), (own, own_port) = _host_and_port(parts.netloc), _host_and_port(host)
    return bool(name) and (name, port or default) == (own, own_port or default)


# --- The first key ----------------------------------------------------------------------------------------------------


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
