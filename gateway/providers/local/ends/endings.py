"""How an engine ended, as a sentence: closed ones for callers, and what the engine itself said beside them. Pure.

Four witnesses are heard, the surest first: the kernel (which counts whom it killed for memory), the signal, what the
engine printed (reasons.py), and our own child program's word. (`os.strerror` and the signal numbers are tables, not
calls on the world.)
"""

import errno
import os
import signal
from collections.abc import Mapping
from dataclasses import dataclass

from gateway.providers.base import Gone
from gateway.providers.local.ends.exits import Exit
from gateway.providers.local.ends.reasons import CAUSES, WHILE_SERVING, Complaints, Reason, Worth

LESS_MEMORY = CAUSES["memory"].do
SHELLS_SIGNALS = {
    128 + number: -number
    for number in (signal.SIGILL, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGKILL, signal.SIGSEGV)
}
"""As a shell, or `docker run`, passes on that what it ran was killed."""


def not_started(number: int, program: str) -> Gone:
    """The engine's program could not be run at all."""
    detail = f"{program}: {os.strerror(number)}"
    if number == errno.ENOENT:
        return Gone(
            "The engine's program was not found: check ENGINE, ENGINE_COMMAND and PATH.", lasting=True, detail=detail
        )
    if number in (errno.EACCES, errno.ENOEXEC, errno.EPERM):
        reason = "The engine's program may not be run, or is not a program: check ENGINE_COMMAND and its rights."
        return Gone(reason, lasting=True, detail=detail)
    return Gone("The engine's program could not be run.", detail=detail)


def not_carried_out(error: OSError) -> Gone:
    """Something that a start needs on this machine failed before there was an engine."""
    cause = NOT_CARRIED_OUT.get(error.errno or 0)
    if cause is None:
        return Gone("The engine could not be started on this machine.", detail=str(error))
    return Gone(CAUSES[cause].sentence, detail=str(error))


NOT_CARRIED_OUT = {
    errno.ENOSPC: "disk_full",
    errno.EDQUOT: "disk_full",
    errno.ENOMEM: "memory",
    errno.EAGAIN: "processes",
}


def calls_files_damaged(exit: Exit, complaints: Complaints) -> bool:
    """Whether it is worth the time to read the model's files whole. SIGBUS: a page of a file could not be read."""
    reason = _complaint(exit, [], False, complaints)
    code = SHELLS_SIGNALS.get(exit.code, exit.code)
    return code == -signal.SIGBUS or (code != 0 and reason is not None and reason.cause == "corrupt")


@dataclass(frozen=True, slots=True)
class Witness:
    """What is known of one end. `ran_out`: whether the kernel killed for memory while it ran; None: nobody counts."""

    exit: Exit
    was_ready: bool
    reason: Reason | None
    """What its output explains."""
    own_word: str | None
    """What our own child program gave as its reason; None where it gave none, or it is another engine."""
    ran_out: bool | None

    @property
    def code(self) -> int:
        return SHELLS_SIGNALS.get(self.exit.code, self.exit.code)

    @property
    def when(self) -> str:
        return "while it served" if self.was_ready else "while it was loading the model"


def how_it_ended(
    exit: Exit,
    failure: Mapping[str, object] | None,
    was_ready: bool,
    complaints: Complaints | None = None,
    *,
    ran_out: bool | None = None,
    room: int | None = None,
) -> Gone:
    """A closed sentence; what the engine itself said goes into the detail.

    `complaints` has heard what it printed while it started; the last lines are heard here. `failure` is what our own
    child program told on its pipe: its reasons are closed sentences, like these. `room`: see `Complaints.reason`.
    """
    said = [str(failure.get("reason") or "")[:200], str(failure.get("detail") or "")] if failure is not None else []
    reason = _complaint(exit, said, was_ready, complaints or Complaints(), room)
    seen = Witness(exit, was_ready, reason, said[0] if said else None, ran_out)
    sentence, lasting = _killed(seen) or _explained(seen) or _unexplained(seen)
    if failure is not None and failure.get("lasting") is True:
        lasting = True
    detail = "\n".join(filter(None, [_root(reason, exit), *said[1:], *exit.tail]))
    return Gone(sentence, lasting=lasting and not was_ready, detail=detail)


Verdict = tuple[str, bool]
"""The sentence, and whether it is lasting."""


def _killed(seen: Witness) -> Verdict | None:
    """By whom, where that is known."""
    when = seen.when
    if seen.exit.lost_guard:
        return f"The engine's guard was killed {when}, and the engine ended with it.", False
    if seen.ran_out and seen.code == -signal.SIGKILL:
        return f"The engine was killed {when}, because memory ran out: {LESS_MEMORY}.", False
    if seen.ran_out and _might_be_memory(seen):
        return f"A part of the engine was killed {when}, because memory ran out: {LESS_MEMORY}.", False
    if seen.exit.code == -signal.SIGKILL and seen.ran_out is False:
        return f"The engine was killed by signal 9 {when}, and not for memory: somebody on this machine did it.", False
    if seen.code == -signal.SIGKILL:
        return f"The engine was killed by signal 9 {when}, probably because memory ran out: {LESS_MEMORY}.", False
    if seen.code == -signal.SIGILL:
        return f"The engine was built for another processor (signal 4 {when}): install it again on this machine.", True
    return None


def _explained(seen: Witness) -> Verdict | None:
    """By what it printed, or by our own child's word."""
    reason = seen.reason
    if reason is not None and reason.worth >= Worth.GENERAL:
        return reason.sentence, reason.lasting
    if seen.own_word is not None:
        return seen.own_word or f"The engine gave up {seen.when}.", False
    if reason is not None and seen.code > 0:
        return reason.sentence, reason.lasting
    return None


def _unexplained(seen: Witness) -> Verdict:
    if seen.code == -signal.SIGBUS:
        what = "its file was cut, the disk failed, or /dev/shm is too small"
        return f"The engine lost what it had mapped (signal 7 {seen.when}): {what}.", False
    if seen.code < 0:
        return f"The engine was killed by signal {-seen.code} {seen.when}.", False
    return f"The engine ended with exit code {seen.code} {seen.when}.", False


def _complaint(
    exit: Exit, said: list[str], was_ready: bool, complaints: Complaints, room: int | None = None
) -> Reason | None:
    """What its output explains. One that served complained of nothing before that; only its last words count."""
    heard = Complaints() if was_ready else complaints
    for line in (*(part for text in said for part in text.split(" / ")), *exit.tail):
        heard.hear(line)
    reason = heard.reason(room)
    return None if reason is None or (was_ready and reason.cause not in WHILE_SERVING) else reason


def _root(reason: Reason | None, exit: Exit) -> str:
    """The line that explains it, where the last lines don't hold it: a long traceback came after it."""
    return "" if reason is None or any(reason.line in line for line in exit.tail) else reason.line


def _might_be_memory(seen: Witness) -> bool:
    """A part of it may have been what was killed. vLLM ends with 0 when its core process dies."""
    reason = seen.reason
    if reason is not None and reason.worth > Worth.HINT:
        return reason.cause in ("killed", "core_died", "memory")
    return seen.code != 0
