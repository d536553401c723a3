"""Hears the moment in which an engine begins to listen: by knocking at its door, which costs next to nothing.

A look (providers/probe.py) is a request with an answer, a millisecond or two of work for both sides, and some engines
log each one. Until somebody listens there is nobody to ask: a connection that is refused takes 30 µs and is seen by
nobody, so that it can be tried often enough to find a ready engine within hundredths of a second.
"""

import asyncio
import select
import socket
from urllib.parse import urlsplit

from gateway.providers.base import Endpoint

SOONEST, LATEST = 0.005, 0.02
"""Seconds between two knocks: the least, and the most."""
SHARE = 0.01
"""Of the time that the start has taken so far, the pause to the next knock: who waits longer may be told later."""


def pace(elapsed: float) -> float:
    """Seconds until the next knock at an engine that was started `elapsed` seconds ago."""
    return min(LATEST, max(SOONEST, elapsed * SHARE))


def listens(endpoint: Endpoint) -> bool:
    """Whether somebody takes connections there, now. Does not wait."""
    address: str | tuple[str, int]
    if endpoint.socket is not None:
        family, address = socket.AF_UNIX, endpoint.socket
    else:
        parts = urlsplit(endpoint.url)
        family, address = socket.AF_INET, (parts.hostname or "127.0.0.1", parts.port or 80)
    with socket.socket(family, socket.SOCK_STREAM) as end:
        end.setblocking(False)
        try:
            end.connect(address)
        except BlockingIOError:
            # Being connected, on this machine a matter of microseconds; else the next knock sees it.
            if not select.select((), (end,), (), 0)[1] or end.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                return False
        except OSError:
            return False
        # A connection to a port that nobody has can, by its own random port, meet itself.
        return family == socket.AF_UNIX or end.getsockname() != end.getpeername()


async def until_listening(endpoint: Endpoint, since: float) -> None:
    """Returns when somebody listens there. `since`: loop time at which the engine was started."""
    loop = asyncio.get_running_loop()
    while True:
        if listens(endpoint):
            return
        await asyncio.sleep(pace(loop.time() - since))
