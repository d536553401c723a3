"""Takes the long texts out of a JSON body while it comes, so that what is left can be checked at once. Pure.

A body of many megabytes is nearly always a few long texts (a picture in base64, a document) in a small request. To
parse it whole and to write it again costs ten times what it costs to receive and to send it, and holds the event loop
for so long that another process has to do it. But the inside of a string has no structure: a piece of it can be proved
to be nothing else by itself, in the moment in which it comes. What is proved is set aside and later sent as it came. In
its place stands a mark, and the rest is checked by `checks.py` like any small body.

Why the whole is then what was checked:

1. A piece that was set aside is by itself the whole content of a JSON string: valid UTF-8, no bare quotation mark, no
   control character, no escape that is broken, no half of a surrogate pair, so none that could join another half.
2. The rest is valid JSON, and the mark in it cannot be forged (it is random, new for each body). The mark begins with a
   character that no escape goes on with, so it stands in a string, behind a whole character. With the piece in its
   place that string is still one string, and everything around it is as it was.
3. It stands in a value, not in a key, and in no value whose text matters: the model's name, a grammar, a URL other than
   `data:`. The first 4 KiB of a long text are not taken out, so that limits on short ones hold. `checks.check` refuses
   a mark elsewhere.
4. Whatever is refused here is checked again, whole and without this file: it never decides against a body, and no
   refusal shows a mark.

The sieve itself only guesses where strings begin and end, by counting quotation marks; were it wrong, 1 or 2 would not
hold.
"""

from typing import Final

from pydantic_core import from_json, to_json

KEPT: Final = 4096
"""Bytes at the beginning of a long text that are never taken out."""
LEAST: Final = 4096
"""Bytes that are worth being taken out."""
WINDOW: Final = 64 * 1024
"""Bytes that are looked at together where there is structure. Smaller reads are joined to so many."""
_ESCAPE: Final = 6
"""Bytes of the longest escape, `\\uXXXX`."""
_TRIES: Final = 16
"""Places that are tried for an edge that cuts no character, no escape, and no pair of them."""
_BACKSLASH: Final = ord("\\")


class Sieve:
    """One body's. Give it what comes, `finish`, and then ask for `rest` and `holes`."""

    def __init__(self, secret: str, *, room: int) -> None:
        """`secret`: letters and digits that nobody could guess. `room`: bytes beyond which the rest is of no use."""
        self.mark = f"~{secret}~"
        self.size = 0
        self.rest_size = 0
        self._room = room
        self._segments: list[list[bytes]] = [[]]
        """In turns: what stays, and what was taken out."""
        self._waiting: list[bytes] = []
        """Too little to be looked at yet."""
        self._waits = 0
        self._is_inside = False
        """Whether what comes next is within a string..."""
        self._kept = 0
        """...of which so many bytes have stayed."""
        self._is_lost = False
        """No safe edge was found: nothing more is taken out."""

    def __repr__(self) -> str:
        return f"<Sieve {self.size} bytes, {len(self.holes)} holes>"

    @property
    def holes(self) -> list[list[bytes]]:
        """What each mark in the rest stands for."""
        return self._segments[1::2]

    @property
    def rest(self) -> bytes:
        return self.mark.encode().join([b"".join(segment) for segment in self._segments[::2]])

    @property
    def has_given_up(self) -> bool:
        """The rest has become too large."""
        return self.rest_size > self._room

    def pieces(self) -> list[bytes]:
        """All that came, but for the spelling of escapes."""
        return [piece for segment in (*self._segments, self._waiting) for piece in segment]

    def take(self, data: bytes) -> None:
        self.size += len(data)
        self._waiting.append(data)
        self._waits += len(data)
        if self._waits >= WINDOW:
            self._look()

    def finish(self) -> None:
        """Nothing more comes."""
        self._stay(b"".join(self._waiting))
        self._waiting.clear()
        if len(self._segments) % 2 == 0:  # it broke off; each hole has its mark all the same
            self._segments.append([])

    # -- one piece -----------------------------------------------------------------------------------------------------

    def _look(self) -> None:
        piece = self._waiting[0] if len(self._waiting) == 1 else b"".join(self._waiting)
        self._waiting.clear()
        self._waits = 0
        if self._is_lost:
            self._stay(piece)
            return
        if self._is_inside and self._kept >= KEPT and _is_plain(piece):
            self._take_out(piece)
            return
        at, size = 0, len(piece)
        while size - at >= WINDOW:
            end = _edge_before(piece, at + WINDOW)
            if end <= at:
                self._is_lost = True
                self._stay(piece[at:])
                return
            self._sift(piece[at:end])
            at = end
        if at < size:
            self._waiting.append(piece[at:])
            self._waits = size - at

    def _sift(self, piece: bytes) -> None:
        """A piece with whole characters and whole escapes at its edges."""
        if self._is_inside and self._kept >= KEPT and (taken := _content(piece)) is not None:
            self._take_out(taken)  # it is proved that no string ends here
            return
        seen = piece
        if b"\\" in piece:  # the same length without escaped quotation marks
            seen = piece.replace(b"\\\\", b"__").replace(b'\\"', b"__")
        at = 0
        if self._is_inside:
            closed = seen.find(b'"')
            self._text(piece if closed < 0 else piece[:closed])
            if closed < 0:
                return
            at = closed
        if (seen.count(b'"') % 2 == 1) == self._is_inside:
            self._is_inside = False
            self._stay(piece[at:] if at else piece)
            return
        last = seen.rfind(b'"')
        self._is_inside, self._kept = True, 0
        self._stay(piece[at : last + 1])
        self._text(piece[last + 1 :])

    def _text(self, text: bytes) -> None:
        """The next bytes of a string."""
        begin = 0
        if self._kept < KEPT:
            begin = _edge_after(text, KEPT - self._kept)
            self._kept += begin
            self._stay(text[:begin])
        taken = _content(text[begin:] if begin else text) if len(text) - begin >= LEAST else None
        if taken is None:
            self._stay(text[begin:])
        else:
            self._take_out(taken)

    def _take_out(self, taken: bytes) -> None:
        if len(self._segments) % 2:
            self._segments.append([])
        self._segments[-1].append(taken)

    def _stay(self, data: bytes) -> None:
        if data:
            self.rest_size += len(data)
            if len(self._segments) % 2 == 0:
                self._segments.append([])
            self._segments[-1].append(data)


def _edge_before(piece: bytes, end: int) -> int:
    """The last place up to `end` where a cut goes through no character and no escape; 0: there is none near it."""
    for place in range(end, max(end - _TRIES, 0), -1):
        if _is_edge(piece, place):
            return place
    return 0


def _edge_after(piece: bytes, begin: int) -> int:
    """The first such place from `begin` on; the end if there is none near it."""
    for place in range(begin, min(begin + _TRIES, len(piece))):
        if _is_edge(piece, place):
            return place
    return len(piece)


def _is_edge(piece: bytes, place: int) -> bool:
    if piece[place - 1] >= 0x80:  # whether it is the last of a character only the next byte tells
        return place < len(piece) and not 0x80 <= piece[place] < 0xC0
    begin = piece.rfind(b"\\", max(place - _ESCAPE, 0), place)
    if begin < 0:
        return True
    first = begin
    while first > 0 and piece[first - 1] == _BACKSLASH:
        first -= 1
    if (begin - first) % 2:  # escaped backslashes, and nothing after them
        return True
    if piece[begin + 1 : begin + 2] != b"u":
        return place >= begin + 2
    return place == begin + _ESCAPE and piece[begin + 2 : begin + 4].lower() not in (b"d8", b"d9", b"da", b"db")


def _is_plain(text: bytes) -> bool:
    """Whether it can stand in a JSON string as it is, and in ASCII: each of these looks is one instruction for many
    bytes, so that all of them take a third of the time of the quickest parser."""
    if b'"' in text or b"\\" in text or not text.isascii():
        return False
    return not any(control in text for control in _CONTROLS)


_CONTROLS: Final = range(0x20)


def _content(text: bytes) -> bytes | None:
    """The same as the content of a JSON string, in the spelling in which a checked body is written; None if it is
    anything else."""
    if _is_plain(text):
        return text
    try:
        value = from_json(b'"%b"' % text, cache_strings="none")
    except ValueError:
        return None
    return to_json(value)[1:-1] if b"\\u" in text or b"\\/" in text else text


__all__ = ["Sieve"]
