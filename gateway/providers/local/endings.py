"""How an engine ended, as a sentence: closed ones for callers, and what the engine itself said beside them. Pure.

(`os.strerror` and the signal numbers are tables, not calls on the world.)
"""

import errno
import os
import signal
from collections.abc import Mapping
from dataclasses import dataclass

from gateway.providers.base import Gone


@dataclass(frozen=True, slots=True)
class Exit:
    """How the engine's first process ended. `code` is minus the signal, as subprocess has it."""

    code: int
    tail: tuple[str, ...] = ()
    """Its last lines of output."""
    lost_guard: bool = False
    """The guard was killed: nobody knows how the engine ended, only that it did."""


def not_started(number: int) -> Gone:
    """The engine's program could not be run at all."""
    detail = os.strerror(number)
    if number == errno.ENOENT:
        return Gone("The engine's program was not found.", lasting=True, detail=detail)
    if number in (errno.EACCES, errno.ENOEXEC, errno.EPERM):
        return Gone("The engine's program may not be run, or is not a program.", lasting=True, detail=detail)
    return Gone("The engine's program could not be run.", detail=detail)


def how_it_ended(exit: Exit, failure: Mapping[str, object] | None, was_ready: bool) -> Gone:
    """A closed sentence; what the engine itself said goes into the detail."""
    when = "while it served" if was_ready else "while it was loading the model"
    detail = "\n".join(exit.tail)
    if exit.lost_guard:
        return Gone(f"The engine's guard was killed {when}, and the engine ended with it.", detail=detail)
    if failure is not None:
        # Only our own child program has this pipe: its reasons are closed sentences, like these.
        said = str(failure.get("detail") or "")
        reason = str(failure.get("reason") or "")[:200] or f"The engine gave up {when}."
        return Gone(reason, lasting=failure.get("lasting") is True, detail="\n".join(filter(None, (said, detail))))
    if exit.code == -signal.SIGKILL:
        return Gone(f"The engine was killed by signal 9 {when} (out of memory?).", detail=detail)
    if exit.code == -signal.SIGILL:
        return Gone(f"The engine was built for another processor (signal 4 {when}).", lasting=True, detail=detail)
    if exit.code < 0:
        return Gone(f"The engine was killed by signal {-exit.code} {when}.", detail=detail)
    return Gone(f"The engine ended with exit code {exit.code} {when}.", detail=detail)
