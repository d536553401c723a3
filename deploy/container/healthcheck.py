"""Docker's HEALTHCHECK: exit code 0 while requests can be sent, else 1 and why.

`python -I -S healthcheck.py`: no curl, no packages, some 30 ms. It asks /readyz, which answers for HEALTH_MODE and has
no 204 (to Docker that would be healthy). Where that listens stands in the settings, read as the health port reads them.
"""

import os
import socket
import sys
from pathlib import Path

HEALTH = (Path(__file__).parents[1] / "health").resolve()
PATIENCE = 3.0
"""Seconds. Docker's own time-out (5) would kill this without a word."""


def main() -> int:
    sys.path.insert(0, str(HEALTH))
    import settings

    try:
        chosen = settings.read(os.environ, str(HEALTH.parent))
    except settings.Wrong as error:
        print("; ".join(error.args))
        return 1
    here = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(chosen.host, chosen.host)  # noqa: S104  asked for, not bound
    try:
        with socket.create_connection((here, chosen.port), PATIENCE) as line:
            line.settimeout(PATIENCE)
            line.sendall(b"GET /readyz HTTP/1.0\r\n\r\n")
            head = line.makefile("rb").readline(1024)
    except OSError as error:
        print(f"port {chosen.port} (PORT_HEALTH): {error}")
        return 1
    code = head[9:12].decode("ascii", "replace")
    # Also where HEALTH_CHECK_PATH=/readyz, which then speaks RunPod's codes: 204 is not yet.
    print(f"port {chosen.port}: {code or 'no answer'}")
    return 0 if code == "200" else 1


if __name__ == "__main__":
    sys.exit(main())
