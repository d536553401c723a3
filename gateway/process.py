"""The gateway's process: from the environment to settings, logs and an event loop, and from signals to an exit code.

An engine takes seconds to minutes, most of them alone. So only what can refuse a start, and what starts an engine, is
imported before its process runs; the web server and all that answers come while the engine imports its own.

SIGTERM and SIGINT end it in order, a second one at once; SIGHUP has it read keys and certificates again. Exit codes: 0,
and 2 for what somebody has to mend, with one line that says what.
"""

import asyncio
import gc
import os
import platform
import re
import secrets
import signal
import ssl
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from gateway import assembly, surroundings
from gateway.assembly import Boot, CannotStart
from gateway.config import Settings, SettingsError
from gateway.records import console
from gateway.records.console import say, set_up_logging
from gateway.records.logs import Logs
from gateway.records.redact import Redactor, hook_exceptions, loop_handler
from gateway.surroundings import Surroundings

if TYPE_CHECKING:
    from gateway.app import Gateway


THREADS = "waits"
"""What the threads that wait for volumes and drivers are called."""
LEFT_BEHIND_AFTER = 2.0
"""Seconds that they have to end, once all else has."""


def make_boot(environ: Mapping[str, str]) -> Boot:
    folder = environ.get("WAKEGATE_RUN_DIR") or tempfile.mkdtemp(prefix="wakegate-")
    demo = environ.get("WAKEGATE_DEMO_MODEL")
    nonce = environ.get("WAKEGATE_BOOT") or secrets.token_hex(16)
    inside = environ.get("RUNPOD_POD_ID") if environ.get("RUNPOD_DC_ID") or environ.get("RUNPOD_POD_HOSTNAME") else None
    worker = re.sub(r"[^A-Za-z0-9.-]+", "-", inside or platform.node())[:40] or "worker"
    # The nonce's beginning: two gateways of one host may begin in the same second, and share a volume.
    stamp = f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}_{worker}-{nonce[:4]}"
    return Boot(nonce, Path(folder), Path(demo) if demo else None, stamp, worker)


async def serve(settings: Settings, around: Surroundings, boot: Boot, logs: Logs, redact: Redactor) -> int:
    """The main job, from listening to the end. Returns the exit code. Raises CannotStart."""
    told = asyncio.Event()
    again = asyncio.Event()
    leaves = False

    def end() -> None:
        (again if told.is_set() else told).set()

    def end_by_order(leave: bool) -> None:
        nonlocal leaves
        leaves = leaves or leave
        end()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, end)
    loop.set_exception_handler(loop_handler(redact, lambda text: logs.record(text, "error")))
    gateway = await begin(settings, around, boot, logs, redact)
    loop.add_signal_handler(signal.SIGHUP, gateway.reload)
    gateway.on_told_to_end = end_by_order
    await gateway.listen()
    gateway.begin()
    gc.freeze()  # what start-up made stays: full collections need not look at it
    gc.enable()  # __main__ turned it off; a collection before the freeze would hold the loop for 50 ms to free a few KB
    await told.wait()
    say("ending: running answers may finish; a second signal ends at once", always=True)
    draining = loop.create_task(gateway.drain(leave=leaves))
    hurry = loop.create_task(again.wait())
    await asyncio.wait({draining, hurry}, return_when=asyncio.FIRST_COMPLETED)
    if not draining.done():
        gateway.conductor.hurry()
        await asyncio.wait({draining}, timeout=5)
    hurry.cancel()
    await gateway.close()
    say("ended", always=True)
    return 0


async def begin(settings: Settings, around: Surroundings, boot: Boot, logs: Logs, redact: Redactor) -> "Gateway":
    """The engine's process first, then our own rooms. Raises CannotStart, with nothing left of either."""
    ahead = assembly.make_ahead(settings, around, boot)
    try:
        await assembly.go_ahead(ahead, settings)
        with no_certificates():
            import aiohttp  # noqa: F401 - for those who import it later
        from gateway.app import Gateway

        check_parser()
        return Gateway(settings, around, boot, logs, redact, ahead)
    except BaseException:
        await ahead.close()
        raise


@contextmanager
def no_certificates() -> Iterator[None]:
    """TLS contexts made meanwhile trust nobody.

    aiohttp makes two for its client when it is imported, and reads this machine's hundred certificates for each: 40 ms.
    None of our sessions uses them: who speaks TLS here brings a context of its own. One that forgot to would find every
    certificate wrong, never a wrong one right.
    """
    names = ("load_default_certs", "set_default_verify_paths")
    kept = {name: vars(ssl.SSLContext).get(name) for name in names}
    for name in names:
        setattr(ssl.SSLContext, name, lambda *_: None)
    try:
        yield
    finally:
        for name, method in kept.items():
            if method is None:
                delattr(ssl.SSLContext, name)  # inherited
            else:
                setattr(ssl.SSLContext, name, method)


WITHOUT_PARSER = (
    "AIOHTTP_NO_EXTENSIONS: aiohttp runs without its compiled parser, which lets broken requests through; unset it, "
    "and install aiohttp from a wheel."
)


def check_parser() -> None:
    from gateway.web.wire import AIOHTTP_FLOOR, parser_is_compiled

    if not parser_is_compiled():
        raise CannotStart(WITHOUT_PARSER)
    import aiohttp

    version = tuple(int(part) for part in aiohttp.__version__.split(".")[:3] if part.isdigit())
    if version < AIOHTTP_FLOOR:
        raise CannotStart(f"aiohttp {aiohttp.__version__} has known holes; install 3.14.5 or newer (3.14).")


def loop_factory() -> "asyncio.AbstractEventLoop":
    """uvloop where it installs: 7 µs less for each chunk of a stream."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


def main() -> int:
    """The gateway's process. Returns its exit code: 0, or 2 for a setting that is wrong."""
    try:
        if os.environ.get("AIOHTTP_NO_EXTENSIONS"):
            raise CannotStart(WITHOUT_PARSER)
        settings, around = surroundings.settings_here(os.environ)
    except SettingsError as error:
        for warning in error.warnings:
            say(f"warning: {warning}")
        return give_up(error.problems)
    except CannotStart as error:
        return give_up((str(error),))
    boot = make_boot(os.environ)
    redact = Redactor(settings.secrets())
    logs = assembly.make_logs(settings, boot, redact)
    set_up_logging(settings.log_level)
    hook_exceptions(redact, lambda text: logs.record(text, "error"))
    logs.start()
    console.install(logs)
    for warning in settings.warnings:
        say(f"warning: {warning}", "warning", always=True)
    code, over = 0, True
    problems: tuple[str, ...] = ()
    pool = ThreadPoolExecutor(thread_name_prefix=THREADS)
    runner = asyncio.Runner(loop_factory=loop_factory)
    try:
        runner.get_loop().set_default_executor(pool)
        code = runner.run(serve(settings, around, boot, logs, redact))
    except CannotStart as error:
        problems = (str(error),)
    finally:
        if over := are_over(pool):
            runner.close()
        console.uninstall()
        logs.close()
    if problems:
        code = give_up(problems)
    if not over:
        sys.stdout.flush()
        os._exit(code)  # Python itself would wait for them, and a volume that is gone does not come back
    return code


def are_over(pool: ThreadPoolExecutor, patience: float = LEFT_BEHIND_AFTER) -> bool:
    """Whether its threads have ended, now that nobody wants anything of them."""
    pool.shutdown(wait=False, cancel_futures=True)
    deadline = time.monotonic() + patience
    threads = [thread for thread in threading.enumerate() if thread.name.startswith(THREADS)]
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    return not any(thread.is_alive() for thread in threads)


def give_up(problems: Iterable[str]) -> int:
    for problem in problems:
        print(f"[gateway] {problem}", file=sys.stderr, flush=True)
    return 2
