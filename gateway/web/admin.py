"""Orders that come over HTTP: `POST /wake` for who has a key, `/admin/*` for who has the admin key. Each is answered at
once, in JSON; nobody is held here, and none of it is activity.

    GET  /admin/status      everything that is known of the upstream, its machine and its money
    GET  /admin/spend       what was spent, in full
    POST /admin/wake        start it, or wake it
    POST /admin/sleep       stop it now, unless somebody is here
    POST /admin/keep-warm   {"for": "2h"}, {"for": 7200} or {"for": "off"}
"""

import json
from collections.abc import Callable

from aiohttp import web

from gateway.errors import refuse, to_json
from gateway.kinds import parse_duration
from gateway.proxy.bodies import Arrival, BodyLimits
from gateway.proxy.checks import check_type
from gateway.web.control import Control
from gateway.web.pages import Page

ORDER_MOST = BodyLimits(size=4096)
"""Of an order's body."""
WHO = "the admin key"


class Admin:
    """Of one gateway. Who may come here the gate has said."""

    def __init__(self, control: Control) -> None:
        self._control = control
        self._orders: dict[str, Callable[[], None]] = {
            "wake": lambda: control.wake(WHO),
            "sleep": lambda: control.sleep(WHO),
        }

    def wake(self, who: str) -> Page:
        """POST /wake. Raises Refused."""
        self._control.wake(who)
        return Page(200, to_json(self._control.brief()))

    async def page(self, name: str, request: web.BaseRequest) -> Page:
        """Raises Refused."""
        if name == "spend":
            return Page(200, to_json(self._control.spend()))
        if name == "keep-warm":
            self._control.keep_warm(WHO, await _how_long(request))
        elif name != "status":
            self._orders[name]()
        return Page(200, to_json(self._control.status()))


async def _how_long(request: web.BaseRequest) -> float | None:
    """Seconds; None: it is to end. Raises Refused."""
    check_type(request.headers.getall("Content-Type", ()), request.headers.getall("Content-Encoding", ()))
    arrival = Arrival(request, ORDER_MOST)
    try:
        said = json.loads(b"".join([chunk async for chunk in arrival]))
    except (ValueError, RecursionError):
        said = None
    wish = said.get("for") if isinstance(said, dict) else None
    try:
        return how_long(wish if isinstance(wish, str) else json.dumps(wish))
    except ValueError:
        raise refuse("invalid_request", f'Send {{"for": TIME}}: {ALLOWED}.', param="for") from None


ALLOWED = "such as 2h, 30m or 7200 (seconds), or off"


def how_long(text: str) -> float | None:
    """What `keep-warm` is told, here and on the command line. Raises ValueError."""
    word = text.strip().lower()
    return None if word in ("off", "never") else parse_duration(word) or None
