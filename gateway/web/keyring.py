"""The keys in force: those that are fixed (API_KEY, the first key) and those of API_KEYS_FILE, read again by itself.

A file that has become wrong, unreadable, or does not answer changes nothing: the keys of before stay in force, and log
(`on_reload`), metrics and `/health` (`state`) say so until it is right again. Nobody is locked out by a typing error,
and a revoked key stays revoked.

A change is taken when two looks in a row saw the same: a file that is being written in place is not read in the middle,
and one whose times have only whole seconds is not missed.
"""

import asyncio
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from gateway.policy.keys import Key, spell_moment
from gateway.web import keydisk, keyfile
from gateway.web.keydisk import BeingWritten, Found, Stamp, Unreadable
from gateway.web.keyfile import Reading

NAME: Final = "API_KEYS_FILE"
EVERY = 2.0
"""Seconds between two looks at the file."""
PATIENCE = 10.0
"""Seconds that a volume may take for a look before it is said not to answer."""


class KeysWrong(Exception):
    """The file cannot be used at the start. One line with the setting, what is wrong and what to do; exit code 2."""


@dataclass(frozen=True, slots=True)
class Seen:
    """One look at the file."""

    mark: Stamp | str
    """Its stamp, or why it has none."""
    read: tuple[Found, Reading] | None = None
    """What was in it, where that was looked at."""
    trouble: str = ""
    """Why it could not be, where it should have been."""


def see(path: Path, judged: Stamp | None, before: Stamp | str | None, *, asked: bool) -> Seen:
    """Blocks. Reads the file when it is not the one that was judged and keeps still, or when somebody asks."""
    try:
        mark = keydisk.look(path)
    except Unreadable as error:
        return Seen(str(error), trouble=str(error))
    if not asked and (mark == judged or mark != before):
        return Seen(mark)
    try:
        found = keydisk.take(path)
    except BeingWritten as error:  # the next look waits again until it keeps still
        return Seen(str(error), trouble=str(error) if asked else "")
    except Unreadable as error:
        return Seen(mark, trouble=str(error))
    return Seen(found.stamp, (found, keyfile.read(found.raw)))


class Keyring:
    """Owns the keys in force. `load` once at the start, then `watch` as a task."""

    def __init__(
        self,
        fixed: Iterable[Key] = (),
        file: Path | None = None,
        *,
        on_reload: Callable[[bool, str], None] = lambda ok, line: None,
        objection: Callable[[Iterable[Key]], str | None] = lambda keys: None,
        every: float = EVERY,
        patience: float = PATIENCE,
        wall: Callable[[], float] = time.time,
        see: Callable[..., Seen] = see,
    ) -> None:
        self._fixed = tuple(fixed)
        self._file = file
        self.on_reload = on_reload
        self._objection = objection
        """What other settings have against these keys, in one sentence."""
        self._every = every
        self._patience = patience
        self._wall = wall
        self._see = see
        self.enabled: Final = bool(self._fixed) or file is not None
        """Whether callers need a key at all. A file without any keys lets nobody in, rather than everybody."""
        self.keys: tuple[Key, ...] = ()
        """All of them, expired ones too."""
        self.by_digest: Mapping[bytes, Key] = {}
        """The same, as they are looked up."""
        self._enforce(self._fixed)
        self.warnings: tuple[str, ...] = ()
        """Lines for the console: what is unwise about the file."""
        self._raw = b""
        self._judged: Stamp | None = None
        """The file that was read last; None: it is to be read again, even if it looks the same."""
        self._before: Stamp | str | None = None
        """What the last look saw."""
        self._wrong: tuple[float, str] | None = None
        """Since when it cannot be used, and why. Then the keys are those of before."""
        self._asked = asyncio.Event()
        self._looking: asyncio.Future[Seen] | None = None
        """A look that a volume has not answered yet. There is never a second one beside it."""

    @property
    def state(self) -> str:
        """For `/health`: `ok`, or what is wrong, and since when. No secrets, no path."""
        if self._wrong is None:
            return "ok"
        since, why = self._wrong
        return f"{NAME} cannot be used since {spell_moment(round(since))}, the keys of before are in force: {why}"

    def load(self) -> None:
        """Read the file for the first time; blocks. Raises KeysWrong."""
        if self._file is None:
            return
        try:
            found = keydisk.take(self._file)
        except Unreadable as error:
            raise KeysWrong(f"{NAME}: {self._file} cannot be read ({error}); {_REMEDY}") from error
        reading = keyfile.read(found.raw)
        if problems := self._problems(reading):
            raise KeysWrong(f"{NAME}: {self._file}: {_first(problems)}; {_REMEDY}")
        self._use(found, reading)
        # Not `_judged`: a file that is written in the moment of its reading may look the same afterwards.
        self._before = found.stamp

    def reload(self) -> None:
        """Read it again now, whatever it looks like, and say how that went (SIGHUP)."""
        self._asked.set()

    async def watch(self) -> None:
        """Look at the file for ever. Cancelled at the end."""
        while self._file is not None:
            try:
                async with asyncio.timeout(self._every):
                    await self._asked.wait()
            except TimeoutError:
                pass  # nobody asked: an ordinary look
            await self.look()

    async def look(self) -> None:
        """One look, and what follows from it."""
        if self._file is None:
            return
        asked, resumed = self._asked.is_set(), self._looking is not None
        self._asked.clear()
        looking = self._looking = self._looking or self._on_a_thread(self._file, asked)
        await asyncio.wait((looking,), timeout=self._patience)
        if looking.done():
            self._looking = None
            self._judge(looking.result(), aloud=asked and not resumed)
            if asked and resumed:
                self._asked.set()  # what that look saw is older than the question
        else:
            self._judged = None
            self._fail("its volume does not answer", aloud=asked)

    # -- what follows --------------------------------------------------------------------------

    def _judge(self, seen: Seen, *, aloud: bool) -> None:
        still = seen.mark == self._before
        self._before = seen.mark
        if seen.read is not None:
            self._judged = seen.read[0].stamp
            self._take(*seen.read, aloud=aloud)
        elif seen.trouble and (still or aloud):
            self._judged = None
            self._fail(seen.trouble, aloud=aloud)

    def _take(self, found: Found, reading: Reading, *, aloud: bool) -> None:
        if problems := self._problems(reading):
            self._fail(_first(problems), aloud=aloud)
            return
        if found.raw == self._raw and self._wrong is None and not aloud:
            return
        before, was_wrong = self.keys, self._wrong is not None
        self._use(found, reading)
        again = "can be used again" if was_wrong else "was read again"
        self.on_reload(True, f"{NAME} {again}: {_difference(before, self.keys, len(self._fixed))}")

    def _use(self, found: Found, reading: Reading) -> None:
        self._enforce((*self._fixed, *reading.keys))
        self._raw = found.raw
        self._wrong = None
        said = [*reading.warnings, *found.doubts(clear=bool(reading.clear))]
        if not self.keys:
            said.append("it has no keys, so nobody may come in; `wakegate keys new NAME` makes one")
        self.warnings = tuple(f"{NAME} ({self._file}): {line}" for line in said)

    def _enforce(self, keys: tuple[Key, ...]) -> None:
        self.keys, self.by_digest = keys, {key.digest: key for key in keys}

    def _fail(self, why: str, *, aloud: bool) -> None:
        if self._wrong is not None and self._wrong[1] == why and not aloud:
            return
        since = self._wrong[0] if self._wrong is not None else self._wall()
        self._wrong = (since, why)
        self.on_reload(False, f"{NAME} ({self._file}) cannot be used, the keys of before stay in force: {why}")

    def _problems(self, reading: Reading) -> tuple[str, ...]:
        objection = self._objection(reading.keys)
        found = reading.problems + keyfile.clashes(reading.keys, self._fixed)
        return found if objection is None else (*found, objection.rstrip("."))

    # -- the thread ----------------------------------------------------------------------------

    def _on_a_thread(self, file: Path, asked: bool) -> asyncio.Future[Seen]:
        """A thread of its own, that nobody waits for at the end: a volume that hangs must not hang the executor."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Seen] = loop.create_future()
        judged, before = self._judged, self._before

        def tell(seen: Seen) -> None:
            if not answer.done():
                answer.set_result(seen)

        def work() -> None:
            try:
                seen = self._see(file, judged, before, asked=asked)
            except Exception as error:  # told as any other trouble, and looked at again
                words = f"reading it failed ({type(error).__name__})"
                seen = Seen(words, trouble=words)
            try:
                loop.call_soon_threadsafe(tell, seen)
            except RuntimeError:
                pass  # the loop has ended meanwhile

        threading.Thread(target=work, name="keys", daemon=True).start()
        return answer

    def __repr__(self) -> str:
        where = "" if self._file is None else f" of {self._file}"
        return f"<Keyring {len(self._fixed)} fixed, {len(self.keys) - len(self._fixed)}{where}, {self.state}>"


_REMEDY = "make keys with `wakegate keys new NAME`, see what is wrong with `wakegate keys check`"


def _first(problems: tuple[str, ...]) -> str:
    more = len(problems) - 1
    return problems[0] + (f" (and {more} more: `wakegate keys check`)" if more else "")


def _difference(before: tuple[Key, ...], after: tuple[Key, ...], fixed: int) -> str:
    """`3 keys (new: carol; gone: bob)`: the ones of the file, by name."""
    old, new = ({key.name: key for key in keys} for keys in (before, after))
    changes = {
        "new": [name for name in new if name not in old],
        "gone": [name for name in old if name not in new],
        "changed": [name for name in new if name in old and new[name] != old[name]],
    }
    said = [f"{what}: {_few(names)}" for what, names in changes.items() if names]
    count = len(after) - fixed
    return f"{count} {'key' if count == 1 else 'keys'} ({'; '.join(said) or 'as before'})"


def _few(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
