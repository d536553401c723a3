"""`python -I -S health/`: the second port, on its own from the first moment to the last.

`start.sh` hands over `WAKEGATE_RUN_DIR` (where the status file will be), `WAKEGATE_BOOT` (whose status to believe) and
`WAKEGATE_READY_FD` (where to write the port once it listens). Exit code 2: a setting is wrong, said in one line.
"""

from __future__ import annotations

import os
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from health import server, settings, status
else:  # run as a folder: the files beside this one are top-level modules
    import server
    import settings
    import status


def main() -> int:
    environ = os.environ
    try:
        chosen = settings.read(environ, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
        listener = server.listen(chosen.host, chosen.port)
    except (settings.Wrong, server.CannotListen) as error:
        for line in error.args:
            say(line, to=2)
        return 2

    file = status.StatusFile(
        os.path.join(environ.get("WAKEGATE_RUN_DIR", "/nowhere"), "status.json"), environ.get("WAKEGATE_BOOT", "")
    )

    def ping() -> int:
        return status.ping_code(chosen.mode, file.read(), time.monotonic())

    def ready() -> int:
        return status.ready_code(chosen.mode, file.read(), time.monotonic())

    def live() -> int:
        return status.live_code(file.read(), time.monotonic())

    # The operator's path comes last: HEALTH_CHECK_PATH=/readyz then answers RunPod, which asks there, in its own codes.
    answers = {"/ping": ping, "/readyz": ready, "/livez": live, "/healthz": live, chosen.check_path: ping}
    port = listener.getsockname()[1]
    say(f"Starting health server on {f'[{chosen.host}]' if ':' in chosen.host else chosen.host}:{port}")
    tell_parent(port)
    server.Server(listener, {path.encode(): code for path, code in answers.items()}).run()
    return 0


def say(line: str, to: int = 1) -> None:
    try:
        os.write(to, f"[health] {line}\n".encode())
    except OSError:
        pass  # a console that has gone away is no reason to stop answering


def tell_parent(port: int) -> None:
    """The console line comes before this, so whoever waits for it may print the next one."""
    fd = os.environ.get("WAKEGATE_READY_FD", "")
    if fd.isdigit():
        os.write(int(fd), f"{port}\n".encode())
        os.close(int(fd))


sys.exit(main())
