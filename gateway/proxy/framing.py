"""Where an event stream may be interrupted by an event of our own: only between two complete events. Pure.

`EventCutter` stands between the engine's bytes and the caller: it lets everything pass up to the last complete event
and keeps the unfinished rest, so that a heartbeat or an error event can always follow what was sent. It changes no
byte and no order, and knows nothing of what the events say: a model that writes `\\n\\ndata:` writes it inside a JSON
string, where a line end is an escape.

Line ends are those of the HTML standard, 9.2.5: LF, CR LF or CR, also mixed; an empty line ends an event.
"""

from typing import Final

TAIL_MAX: Final = 64 * 1024
"""Bytes of one unfinished event that are kept. A longer event flows on unfinished."""

_CONTEXT: Final = 3
"""Bytes before a read that can belong to the empty line that ends in it (`CR LF CR` before `LF`)."""


class EventCutter:
    """One stream's. Feed it what the engine sent; pass on what it returns."""

    __slots__ = ("_before", "_kept", "_parts", "cut_only")

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._kept = 0
        self._before = b""
        self.cut_only = False
        """Part of an unfinished event was sent: until it ends nothing of ours may follow, only a cut."""

    def __repr__(self) -> str:
        return f"<EventCutter keeps {self._kept} bytes{', cut only' if self.cut_only else ''}>"

    def feed(self, data: bytes) -> bytes:
        """What may be sent now. In the usual case, whole events in one read, that is `data` itself."""
        if not self._parts and data.endswith(b"\n\n"):
            self._before = b""
            self.cut_only = False
            return data
        end = self._last_end(data)
        if end:
            ready = data if end == len(data) else data[:end]
            if self._parts:
                ready = b"".join((*self._parts, ready))
                self._parts.clear()
            self._kept = 0
            self.cut_only = False
            data = data[end:]
        else:
            ready = b""
        if not data:
            self._before = b"" if end else self._before
            return ready
        self._before = (data if len(data) >= _CONTEXT or end else self._before + data)[-_CONTEXT:]
        if self.cut_only:
            return ready + data
        self._parts.append(data)
        self._kept += len(data)
        if self._kept > TAIL_MAX:
            self.cut_only = True
            ready += self.rest()
        return ready

    def rest(self) -> bytes:
        """What is kept, given up: for a stream that ended well, though its last event lacks an empty line."""
        rest = b"".join(self._parts)
        self._parts.clear()
        self._kept = 0
        return rest

    def _last_end(self, data: bytes) -> int:
        """How many bytes of `data` belong to complete events; the empty line may have begun in an earlier read."""
        end = _ends(data)
        if end or not self._before:
            return end
        before = len(self._before)
        return max(0, _ends(self._before + data[:_CONTEXT]) - before)


def _ends(data: bytes) -> int:
    """The length of `data` up to and including its last empty line; 0 without one.

    `LF CR` at the very end is no end yet: it is half of `LF CR LF`.
    """
    end = data.rfind(b"\n\n") + 2
    if b"\r" in data:
        end = max(end, data.rfind(b"\n\r\n") + 3 if b"\n\r\n" in data else 0, data.rfind(b"\r\r") + 2)
    return end if end >= 2 else 0
