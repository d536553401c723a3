"""Opens a port, before what answers there is imported: callers who come meanwhile wait in the kernel's line.

So a port that is taken ends the start while there is no engine yet, and the engine need not wait for our imports.
"""

import socket

BACKLOG = 1024


def listening(host: str, port: int, backlog: int = BACKLOG) -> list[socket.socket]:
    """One socket for each address that the host has, as asyncio's own server does. Raises OSError."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    sockets: list[socket.socket] = []
    try:
        for family, kind, protocol, _, address in dict.fromkeys(found):
            opened = socket.socket(family, kind, protocol)
            sockets.append(opened)
            opened.setblocking(False)
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            opened.bind(address)
            opened.listen(backlog)
    except OSError:
        for opened in sockets:
            opened.close()
        raise
    return sockets
