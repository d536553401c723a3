"""A process that owns a guarded engine, to be killed by a test: `gateway_stand_in.py COOKIE LOG ARGV…`.

Prints the process ids of the guard and of the engine, one line, when both run.
"""

import asyncio
import os
import sys

from gateway.providers.local.guard import COOKIE
from gateway.providers.local.guarded import GuardedEngine


async def main() -> None:
    cookie, log, *argv = sys.argv[1:]
    stop_argv: list[str] = []
    if "--" in argv:
        at = argv.index("--")
        argv, stop_argv = argv[:at], argv[at + 1 :]
    engine = GuardedEngine.launch(
        argv=argv,
        env={"PATH": os.environ["PATH"], COOKIE: cookie},
        cookie=cookie,
        log=log,
        log_limit=1 << 20,
        stop_argv=stop_argv,
    )
    started = await engine.started
    print(engine.guard_pid, started.pid, flush=True)
    await asyncio.Event().wait()


asyncio.run(main())
