"""Checks bodies without holding the event loop: small ones at once, large ones in a helper process.

A JSON parser keeps the GIL, so a thread would hold the loop exactly as long as the call itself does (measured by
bench/loop_hold.py: 30 MiB of text in a thread stop the loop for as long as the check takes). A large body therefore
never becomes one object in this process.

1. Its long texts are proved piece by piece as they come (`sieve.py`) and set aside; the rest is mostly small, and
   checked at once. What came is what is sent: nothing is copied.
2. A body that is crowded without its texts, that is refused, or in which a text matters, goes whole into a memory file
   (`Spool`). The helper reads, checks and rewrites it there, and the sender reads it in pieces: each byte is copied
   twice, 256 KiB at a time.

Helpers are started when first needed, one or two, and kept; they end with the gateway, when idle, or when a check takes
too long (`check_child.py`). One that dies is replaced, and its body is checked once more.

A body whose images are still to be fetched (`Body.wanted`) has gaps; `filled` closes them with what `media.py` brought,
in place: neither body nor images are copied again.
"""

import asyncio
import json
import os
import secrets
import socket
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, overload

from gateway.errors import Refused, refuse
from gateway.proxy.checks import (
    INLINE_BYTES,
    Checked,
    Facts,
    Fill,
    Gap,
    Readable,
    Rules,
    Wanted,
    check,
    is_cheap,
    name_field,
)
from gateway.proxy.sieve import Sieve

PIECE = 256 * 1024
"""Bytes that are read from a spool, or written to one, in one go on the event loop."""

_ROOT = str(Path(__file__).resolve().parents[2])
_BOOT = "import sys; sys.path += sys.argv[1:]; from gateway.proxy.check_child import main; main()"
_PACKET_MAX = 64 * 1024


class Spool:
    """A body in a memory file: no path, no disk. Close it; a forgotten one closes with its last reference."""

    _file = -1

    def __init__(self) -> None:
        """Raises Refused when files or memory are short."""
        self.size = 0
        try:
            self._file = os.memfd_create("wakegate-body", os.MFD_CLOEXEC)
        except OSError as error:
            raise _no_room() from error

    def __repr__(self) -> str:
        return f"<Spool {self.size} bytes{' closed' if self._file < 0 else ''}>"

    def fileno(self) -> int:
        return self._file

    def write(self, data: bytes) -> None:
        """Append. Raises Refused when memory is short."""
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self._file, view[:PIECE]) :]
        except OSError as error:
            raise _no_room() from error
        self.size += len(data)

    def read(self, start: int, end: int) -> bytes:
        return os.pread(self._file, end - start, start)

    def close(self) -> None:
        file, self._file = self._file, -1
        if file >= 0:
            os.close(file)

    def __del__(self) -> None:
        self.close()


def spooled(pieces: Iterable[bytes]) -> Spool:
    """Raises Refused; the spool closes with its last reference then."""
    spool = Spool()
    for piece in pieces:
        spool.write(piece)
    return spool


def _no_room() -> Refused:
    return refuse("overloaded", "There is no memory left for a request of this size.", retry_after=5)


class Pieces(Sequence[bytes]):
    """A spooled body as it will be sent, read piece by piece; may be gone through again for another try."""

    def __init__(self, parts: Iterable[bytes | tuple[Spool, int, int]]) -> None:
        """A part is bytes, or a spool with the start and the end of what counts in it."""
        self._parts: list[bytes | tuple[Spool, int, int]] = []
        for part in parts:
            if isinstance(part, bytes):
                self._parts.append(part)
            else:
                self._parts += [(part[0], *place) for place in _cut(part[1], part[2])]

    def __len__(self) -> int:
        return len(self._parts)

    @overload
    def __getitem__(self, index: int) -> bytes: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[bytes]: ...
    def __getitem__(self, index: int | slice) -> bytes | Sequence[bytes]:
        if isinstance(index, slice):
            return [self[each] for each in range(len(self))[index]]
        part = self._parts[index]
        return part if isinstance(part, bytes) else part[0].read(part[1], part[2])


class Unfilled(Sequence[bytes]):
    """A body that cannot be sent, because its images were not fetched. Whoever tries has forgotten a step."""

    def __len__(self) -> int:
        raise RuntimeError("a body with images to fetch was to be sent without them")

    def __getitem__(self, index: int | slice) -> Any:
        return len(self)


def _cut(start: int, end: int) -> list[tuple[int, int]]:
    return [(place, min(place + PIECE, end)) for place in range(start, end, PIECE)]


@dataclass(frozen=True, slots=True)
class Image:
    """An image that was fetched."""

    media_type: str
    """Such as `image/png`."""
    data: Spool
    """In base64."""

    def parts(self, fill: Fill) -> tuple[bytes | tuple[Spool, int, int], ...]:
        """What goes into a gap."""
        kind, data = self.media_type.encode(), (self.data, 0, self.data.size)
        if fill is Fill.TYPE:
            return (kind,)
        return (data,) if fill is Fill.DATA else (b"data:" + kind + b";base64,", data)

    def size(self, fill: Fill) -> int:
        """Bytes of its parts."""
        return sum(len(part) if isinstance(part, bytes) else part[2] - part[1] for part in self.parts(fill))

    def close(self) -> None:
        self.data.close()


@dataclass(slots=True)
class Body:
    """A checked body, ready to be sent any number of times."""

    facts: Facts
    chunks: Sequence[bytes]
    size: int
    _held: "Checked | _Held | _Sifted | None"

    def with_model(self, model: str) -> "Body":
        """The same body under another model name: nothing is copied or parsed again."""
        if isinstance(self._held, Checked):
            return body_of(self._held.with_model(model))
        if isinstance(self._held, _Sifted):
            return replace(self._held, checked=self._held.checked.with_model(model)).body()
        if self._held is None:
            raise RuntimeError(f"{self!r} was let go")
        return self._held.with_model(model).body(replace(self.facts, model=model))

    @property
    def readable(self) -> Readable | None:
        """Its JSON, small enough to be parsed at once. None: nobody here has looked into it, or it was let go."""
        if isinstance(self._held, Checked) and not self._held.gaps:
            return Readable(self._held.whole())
        if isinstance(self._held, _Sifted):
            return Readable(self._held.checked.whole(), self._held.mark, self._held.holes)
        return None

    @property
    def wanted(self) -> tuple[Wanted, ...]:
        """Images that have to be fetched before it can be sent."""
        return self._held.wanted if isinstance(self._held, _Held) and not self._held.images else ()

    def filled(self, images: Sequence[Image]) -> "Body":
        """The same with its images, in the order of `wanted`; they are its own from now on."""
        if not isinstance(self._held, _Held) or len(images) != len(self._held.wanted):
            raise RuntimeError(f"{self!r} does not want {len(images)} images")
        return replace(self._held, images=tuple(images)).body(self.facts)

    def close(self) -> None:
        """Give back the memory of a spooled body, for all names of it."""
        if isinstance(self._held, _Held):
            self._held.spool.close()
            for image in self._held.images:
                image.close()

    def let_go(self) -> None:
        """It was sent, and will not be again: keep the facts alone. A stream can last for an hour."""
        self.close()
        self.chunks, self._held = (), None

    def __repr__(self) -> str:
        where = "spooled" if isinstance(self._held, _Held) else "let go" if self._held is None else "in memory"
        return f"<Body {self.size} bytes {where} {self.facts}>"


@dataclass(frozen=True, slots=True)
class _Held:
    """A checked body in its spool."""

    spool: Spool
    before: int
    name: bytes
    after: int
    wanted: tuple[Wanted, ...] = ()
    gaps: tuple[Gap, ...] = ()
    images: tuple[Image, ...] = ()

    def with_model(self, model: str) -> "_Held":
        edge = self.spool.read(self.before - 1, self.before + 1)
        return replace(self, name=name_field(model, edge[:1], edge[1:]))

    def body(self, facts: Facts) -> Body:
        size = self.before + len(self.name) + self.after
        if self.gaps and not self.images:
            return Body(facts, Unfilled(), size, self)
        size += sum(self.images[gap.image].size(gap.fill) for gap in self.gaps)
        return Body(facts, Pieces(self._parts()), size, self)

    def _parts(self) -> Iterator[bytes | tuple[Spool, int, int]]:
        """The spool from its start to its end, and at their places the name and what fills the gaps."""
        inserted = [(gap.at, self.images[gap.image].parts(gap.fill)) for gap in self.gaps]
        inserted.append((self.before, (self.name,) if self.name else ()))
        inserted.sort(key=_place)
        reached = 0
        for place, parts in inserted:
            if place > reached:
                yield self.spool, reached, place
                reached = place
            yield from parts
        yield self.spool, reached, self.before + self.after


def _place(inserted: tuple[int, object]) -> int:
    return inserted[0]


@dataclass(frozen=True, slots=True)
class _Sifted:
    """A checked body with marks in it, and what they stand for."""

    checked: Checked
    mark: bytes
    holes: tuple[Sequence[bytes], ...]

    def body(self) -> Body:
        first, *others = self.checked.whole().split(self.mark)
        chunks = [first]
        for hole, other in zip(self.holes, others, strict=True):  # or a mark was lost, and nothing is sent
            chunks += hole
            chunks.append(other)
        return Body(self.checked.facts, chunks, sum(map(len, chunks)), self)


def body_of(checked: Checked) -> Body:
    """Raises Refused when it has gaps and there is no memory for a spool."""
    if not checked.gaps:
        whole = checked.whole()
        return Body(checked.facts, (whole,), len(whole), checked)
    spool = Spool()
    spool.write(checked.before)
    spool.write(checked.after)
    held = _Held(spool, len(checked.before), checked.name, len(checked.after), checked.wanted, checked.gaps)
    return held.body(checked.facts)


class _Helper:
    """One helper process and the socket to it."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.setblocking(False)
        try:
            self.process = subprocess.Popen(  # noqa: S603 - our own interpreter and module, nothing of a caller's
                [sys.executable, "-I", "-S", "-c", _BOOT, _ROOT, *filter(os.path.isabs, sys.path)],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={},
            )
        except OSError:
            self._socket.close()
            raise
        finally:
            theirs.close()

    def __repr__(self) -> str:
        return f"<_Helper pid {self.process.pid}>"

    async def ask(self, order: bytes, file: int) -> dict[str, Any] | None:
        """Its answer; None when it died. One question at a time."""
        try:
            socket.send_fds(self._socket, [order], [file])
        except OSError:
            return None
        loop = asyncio.get_running_loop()
        readable: asyncio.Future[None] = loop.create_future()
        loop.add_reader(self._socket, _resolve, readable)
        try:
            await readable
        finally:
            loop.remove_reader(self._socket)
        try:
            packet = self._socket.recv(_PACKET_MAX)
        except OSError:
            return None
        return dict(json.loads(packet)) if packet else None

    def let_go(self) -> None:
        """It ends by itself when the socket does; one at work does not look, so it is killed."""
        self._socket.close()
        self.process.kill()


def _resolve(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


class Checker:
    """Owns the helpers. `close()` ends them."""

    def __init__(
        self,
        rules: Rules,
        *,
        helpers: int = 2,
        time_limit: float = 10.0,
        memory: int = 2 << 30,
        waiting: int = 64,
    ) -> None:
        """`time_limit` in seconds and `memory` in bytes of address space are for one check in a helper; `waiting` is
        how many bodies may wait for one."""
        self._rules = rules
        self._time_limit = time_limit
        self._memory = memory
        self._most_waiting = waiting
        self._waiting = 0
        self._turns = asyncio.Semaphore(helpers)
        self._free: list[_Helper] = []
        self._ending: set[asyncio.Future[int]] = set()

    def __repr__(self) -> str:
        return f"<Checker {len(self._free)} helpers free, {self._waiting} bodies wait or are checked>"

    def sieve(self) -> Sieve:
        """For a body that is large."""
        return Sieve(secrets.token_hex(16), room=INLINE_BYTES)

    async def check(self, raw: bytes | Sieve | Spool, route: str) -> Body:
        """Raises Refused. Takes a spool over: it is closed unless a Body came of it."""
        if isinstance(raw, Sieve):
            body = self._check_sifted(raw, route)
            if body is not None:
                return body
            pieces = raw.pieces()
            raw = Spool()
            for piece in pieces:
                raw.write(piece)
                await asyncio.sleep(0)
        elif isinstance(raw, bytes):
            if is_cheap(raw):
                return body_of(check(raw, route, self._rules))
            raw = spooled([raw])
        try:
            held, facts = await self._elsewhere(raw, route)
        except BaseException:
            raw.close()
            raise
        return held.body(facts)

    def _check_sifted(self, sieve: Sieve, route: str) -> Body | None:
        """None if only the whole can tell."""
        rest, holes = sieve.rest, tuple(sieve.holes)
        if not is_cheap(rest):
            return None
        if not holes:
            return body_of(check(rest, route, self._rules))
        try:
            checked = check(rest, route, self._rules, mark=sieve.mark)
        except Refused:
            return None
        return _Sifted(checked, sieve.mark.encode(), holes).body()

    async def _elsewhere(self, spool: Spool, route: str) -> tuple[_Held, Facts]:
        if self._waiting >= self._most_waiting:
            raise refuse("queue_full", "Too many large requests are being checked at this moment.", retry_after=5)
        self._waiting += 1
        try:
            async with self._turns:
                answer = await self._ask(spool, route)
        finally:
            self._waiting -= 1
        if "code" in answer:
            raise refuse(answer["code"], answer["message"], param=answer["param"])
        before, after = answer["before"], answer["after"]
        held = _Held(spool, before, answer["name"].encode(), after)
        if "gaps" in answer:
            said = json.loads(spool.read(before + after, before + after + answer["gaps"]))
            wanted = tuple(Wanted(*each) for each in said["wanted"])
            gaps = tuple(Gap(at, image, Fill(fill)) for at, image, fill in said["gaps"])
            held = replace(held, wanted=wanted, gaps=gaps)
        return held, Facts(**answer["facts"])

    async def _ask(self, spool: Spool, route: str) -> dict[str, Any]:
        """An idle helper may have ended this very moment, so one that dies is replaced once."""
        order = json.dumps(
            {
                "size": spool.size,
                "route": route,
                "rules": self._rules.to_wire(),
                "time": self._time_limit,
                "memory": self._memory,
            }
        ).encode()
        clock = asyncio.get_running_loop().time
        for _ in range(2):
            asked = clock()
            helper = self._take()
            try:
                answer = await helper.ask(order, spool.fileno())
            except BaseException:
                self._end(helper)
                raise
            if answer is not None:
                self._free.append(helper)
                return answer
            self._end(helper)
            if clock() - asked >= self._time_limit:
                raise refuse("invalid_request", f"The body could not be checked within {self._time_limit:g} s.")
        raise refuse("overloaded", "The request could not be checked: the helper process for it ended.", retry_after=5)

    def _take(self) -> _Helper:
        try:
            return self._free.pop() if self._free else _Helper()
        except OSError as error:
            raise refuse("overloaded", "The request could not be checked: no helper process.", retry_after=5) from error

    def _end(self, helper: _Helper) -> None:
        """Its memory may take a while to be taken down, so a thread waits for that."""
        helper.let_go()
        ending = asyncio.get_running_loop().run_in_executor(None, helper.process.wait)
        self._ending.add(ending)
        ending.add_done_callback(self._ending.discard)

    async def close(self) -> None:
        while self._free:
            self._end(self._free.pop())
        await asyncio.gather(*self._ending)


__all__ = ["Body", "Checker", "Image", "Pieces", "Refused", "Spool", "body_of", "spooled"]
