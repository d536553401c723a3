"""The table of paths. A path is matched exactly, as it came: undecoded, unnormalised, without its query string.

What is not in the table never reaches an engine: `/slots`, `/props`, `/sleep`, `/v1/../slots`, `//v1/…`, `%2e`. Nothing
here looks at the Host header (two critical bypasses of 2026 were routes built from a URL with Host in it:
CVE-2026-48746, CVE-2026-49468).
"""

import enum
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import unquote

from gateway.errors import refuse
from gateway.policy.lease import PATH as LEASE_PATH


class Kind(enum.Enum):
    """What happens behind a path."""

    PAGE = "page"
    """Answered here; open."""
    MODELS = "models"
    """Answered here, from what is known; a key is needed."""
    JSON = "json"
    """Forwarded: a JSON body that was checked."""
    MULTIPART = "multipart"
    """Forwarded: a body that streams through."""
    WAKE = "wake"
    """Answered here, with a key: it is woken, and nobody waits."""
    ADMIN = "admin"
    """Answered here, with the admin key only."""


@dataclass(frozen=True, slots=True)
class Route:
    path: str
    kind: Kind
    methods: tuple[str, ...]
    page: str = ""
    """Which page answers (web/pages.py, web/admin.py); empty for what is forwarded."""
    short: str = ""
    """The short name that it was asked for by. Its body may be short, too; in all else it is the route of `path`."""

    @property
    def forwarded(self) -> bool:
        return self.kind in (Kind.JSON, Kind.MULTIPART)


READ = ("GET", "HEAD")
CHAT = "/v1/chat/completions"

INFERENCE = (
    Route(CHAT, Kind.JSON, ("POST",)),
    Route("/v1/completions", Kind.JSON, ("POST",)),
    Route("/v1/embeddings", Kind.JSON, ("POST",)),
    Route("/v1/responses", Kind.JSON, ("POST",)),
    Route("/v1/messages", Kind.JSON, ("POST",)),
    Route("/v1/messages/count_tokens", Kind.JSON, ("POST",)),
    Route("/v1/rerank", Kind.JSON, ("POST",)),
    Route("/v1/audio/transcriptions", Kind.MULTIPART, ("POST",)),
)

PAGES = (
    Route("/", Kind.PAGE, READ, page="welcome"),
    Route("/ping", Kind.PAGE, READ, page="ping"),
    Route("/health", Kind.PAGE, READ, page="health"),
    Route("/metrics", Kind.PAGE, READ, page="metrics"),
    Route("/v1/models", Kind.MODELS, READ, page="models"),
)

SHORT_CHAT = Route(CHAT, Kind.JSON, ("POST",), short="/chat")
WAKE = Route("/wake", Kind.WAKE, ("POST",), page="wake")
ADMIN = (
    Route("/admin/status", Kind.ADMIN, READ, page="status"),
    Route("/admin/spend", Kind.ADMIN, READ, page="spend"),
    Route("/admin/wake", Kind.ADMIN, ("POST",), page="wake"),
    Route("/admin/sleep", Kind.ADMIN, ("POST",), page="sleep"),
    Route("/admin/keep-warm", Kind.ADMIN, ("POST",), page="keep-warm"),
)

LEASE = Route(LEASE_PATH, Kind.PAGE, ("POST",), page="lease")
"""Only where we run in something that is rented (web/leases.py)."""

MODEL_PREFIX = "/v1/models/"
MODEL = Route("/v1/models/{id}", Kind.MODELS, READ, page="model")

METHODS = frozenset({"GET", "HEAD", "POST", "OPTIONS"})
"""Any other method ends the connection: none is used by anybody who means well here."""


class Routes:
    """The paths that this gateway has: the table, and what ALLOWED_PATHS adds."""

    def __init__(self, allowed_paths: Iterable[str] = (), *, admin: bool = False, leases: bool = False) -> None:
        """`admin`: whether there is an admin key. Without one its paths are not there, like any other that is not.
        `leases`: whether somebody here goes by them."""
        self._table = {route.short or route.path: route for route in (*INFERENCE, SHORT_CHAT, *PAGES, WAKE)}
        if admin:
            self._table |= {route.path: route for route in ADMIN}
        if leases:
            self._table[LEASE.path] = LEASE
        for path in allowed_paths:
            self._table.setdefault(path, Route(path, Kind.JSON, ("POST", *READ)))

    def find(self, method: str, raw_path: str) -> tuple[Route, str]:
        """The route, and the model's id where the path carries one. Raises Refused: 404, 405."""
        usual = self._table.get(raw_path)
        if usual is not None and method in usual.methods:
            return usual, ""
        if method not in METHODS:
            raise refuse("method_not_allowed", f"{method[:20]} is not used here.", close=True)
        path = raw_path.partition("?")[0]
        route, rest = self._table.get(path), ""
        if route is None and path.startswith(MODEL_PREFIX) and len(path) > len(MODEL_PREFIX):
            route, rest = MODEL, unquote(path[len(MODEL_PREFIX) :])
        if route is None:
            raise refuse("route_not_found", self._nothing_here(path))
        if route.short and path != raw_path:
            raise refuse("invalid_request", f"{route.short} has its prompt in a JSON body: proxies write URLs down.")
        if method not in route.methods and method != "OPTIONS":
            allow = ", ".join((*route.methods, "OPTIONS"))
            said = f"{route.short or route.path} takes {allow}."
            raise refuse("method_not_allowed", said, headers=(("Allow", allow),))
        return route, rest

    def _nothing_here(self, path: str) -> str:
        """Says what the caller most likely meant."""
        bare = path.rstrip("/")
        if "/v1" + bare in self._table:
            return f"No such path. Add /v1: the base URL of this gateway ends in /v1, and the path is /v1{bare}."
        if path.startswith("/v1/v1/"):
            return "No such path: /v1 is there twice. Take one out of the client's base URL."
        if bare != path and bare in self._table:
            return f"No such path. Take the slash off the end: {bare}."
        if bare.startswith("/api/"):
            return "No such path. This gateway speaks OpenAI's API, not Ollama's: use the base URL with /v1 at its end."
        return (
            "No such path here, and unlisted paths are not passed to the engine. POST /v1/chat/completions is the "
            "usual one; an operator may add others with ALLOWED_PATHS."
        )
