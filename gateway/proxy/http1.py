"""Reads an engine's HTTP/1.1 answer (RFC 9112) out of whatever pieces it arrives in. Pure.

`AnswerParser` is fed what one connection read; it gives back the bytes of the body, and has the `Head` once that is
complete. One parser reads one answer. It keeps nothing of what it has given back, and whatever the engine sends, one
byte costs it a bounded amount of work and memory. How the bytes were split never changes the head, the body or the
verdict.

It is strict, because what it lets pass decides where one caller's answer ends and the next one's begins. Where the RFC
leaves a choice, this is ours:

- Content-Length stands there once, as digits. Even the same value twice is refused (6.3 would let us take it).
- Content-Length beside Transfer-Encoding, and any Transfer-Encoding in HTTP/1.0, is refused (6.1 calls both suspect).
- A coding other than `chunked` is framed as 6.3 says: `gzip, chunked` by its chunks, one that does not end in
  `chunked` by the connection's end. Its head can be read; whether such a body is wanted is for the caller to say.
- A line ends in CR LF. LF alone, folded lines, control characters other than TAB, space before a colon: refused.
- Interim answers (1xx) are skipped, a few; 101 is refused, because nobody asked to upgrade. So are empty lines before
  an answer: some servers send one too many behind the answer before.
- Behind an answer empty lines, and what may begin another, are surplus and harmless. Any other byte there makes the
  answer before it doubtful: Malformed, even if all of it was there.
- Chunk extensions and trailers are checked for their form and dropped (7.1.1, 7.1.2).
- Answers to HEAD, 204 and 304 have no body, whatever their head says (6.3).
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

LINE_MAX: Final = 8190
"""Bytes of one line of a head or of trailers, and of a chunk's size with its extensions, without the line end."""

HEAD_MAX: Final = 64 * 1024
"""Bytes of one head, with its empty line; of all trailers together, too."""

HEADERS_MAX: Final = 128

SKIPPED_MAX: Final = 8
"""Interim answers and empty lines before the answer that counts, together."""

LENGTH_DIGITS: Final = 18

CHUNK_MAX: Final = 1 << 60
"""No chunk is as large as this. Sixteen digits are read, for engines that pad with zeros."""

_CONTROL: Final = r"\x00-\x08\x0a-\x1f\x7f"  # but TAB
_NAME: Final = r"[!#$%&'*+.^_`|~0-9A-Za-z-]++"
_TEXT: Final = rf"[^{_CONTROL}]*+"  # of a value, or a reason: obs-text, too (RFC 9110, 5.5)
_QUOTED: Final = rf'"[^"\\{_CONTROL}]*+(?:\\[^{_CONTROL}][^"\\{_CONTROL}]*+)*"'

_STATUS: Final = re.compile(rf"HTTP/1\.([01]) ([1-9][0-9][0-9])(?: {_TEXT})?\r\n").match
_FIELDS: Final = re.compile(rf"^({_NAME}):[ \t]*+({_TEXT})\r\n", re.MULTILINE).findall
_TRAILER: Final = re.compile(rf"{_NAME}:{_TEXT}".encode()).fullmatch
_SIZE: Final = re.compile(rb"([0-9A-Fa-f]{1,15})\r\n").match  # the usual one; int() alone takes +de, d_e and 0xde, too
# No possessive groups: Python's are broken before 3.11.5. None of these groups can match in two ways.
_SIZE_LINE: Final = re.compile(
    rf"([0-9A-Fa-f]{{1,16}})(?:[ \t]*+;[ \t]*+{_NAME}(?:[ \t]*+=[ \t]*+(?:{_NAME}|{_QUOTED}))?)*[ \t]*+".encode()
).fullmatch
_HEX: Final = frozenset(b"0123456789abcdefABCDEF")
_LONE: Final = re.compile(rb"(?<!\r)\n|\r[^\n]").search  # half a line end

_BEGINNING: Final = b"HTTP/1."

# What comes next. _BOUNDARY is 0 because the hottest path asks for it.
_BOUNDARY: Final = 0  # a chunk's size, of which nothing was read
_SIZE_PART: Final = 1  # the rest of a chunk's size
_CHUNK: Final = 2  # the rest of a chunk
_CHUNK_END: Final = 3  # CR LF behind a chunk, or its LF
_TRAILERS: Final = 4
_HEAD: Final = 5
_LENGTH: Final = 6  # the rest of a body that has a length
_REST: Final = 7  # a body that only the connection's end ends
_NOTHING: Final = 8  # the answer was read
_BROKEN: Final = 9

_NAMES: Final = (
    "a chunk's size",
    "the rest of a chunk's size",
    "the rest of a chunk",
    "a chunk's end",
    "trailers",
    "the head",
    "the rest of the body",
    "the connection's end",
    "nothing more",
    "nothing: it is broken",
)


class Malformed(Exception):
    """The engine's answer breaks a rule of HTTP. The message is ours and quotes nothing of the engine's."""


@dataclass(slots=True)
class Head:
    """The head of an answer. `repr` shows nothing that the engine can have put there but its status."""

    status: int
    headers: list[tuple[str, str]] = field(repr=False)
    """As sent, in latin-1, without the white space around values."""
    length: int | None
    """Bytes of the body; None when chunks or the connection's end tell; 0 where no body can follow."""
    chunked: bool
    reusable: bool
    """Whether the engine means to keep the connection, and the answer's end can be told without it."""
    _first: dict[str, str] = field(repr=False)

    def get(self, name: str) -> str | None:
        """The first value; the name in lower case."""
        return self._first.get(name)

    def let_go(self) -> None:
        """Forget the headers, which only the beginning of an answer needs."""
        self.headers, self._first = [], {}

    def all(self, name: str) -> list[str]:
        """Every value, in order; the name in lower case."""
        if name not in self._first:
            return []
        return [value for known, value in self.headers if known.lower() == name]


class AnswerParser:
    """One answer's."""

    __slots__ = (
        "_held",
        "_left",
        "_method",
        "_phase",
        "_skipped",
        "done",
        "head",
        "surplus",
        "verbatim",
    )

    def __init__(self, method: str = "POST") -> None:
        self.head: Head | None = None
        """Of the answer that counts, once it is complete."""
        self.done = False
        """The whole answer was read."""
        self.surplus = False
        """Bytes came behind its end: the connection is not to be used again."""
        self.verbatim = False
        """The last read was one whole chunk, framed as anybody would: it may be passed on as it came."""
        self._method = method
        self._phase = _HEAD
        self._held = bytearray()  # part of a head, of a line, of a line end
        self._left = 0  # bytes of the body, or of a chunk, to come; that trailers may take
        self._skipped = 0

    def __repr__(self) -> str:
        left = f", {self._left} bytes" if self._left else ""
        return f"<AnswerParser to {self._method}: {self.head}, awaits {_NAMES[self._phase]}{left}>"

    def feed(self, data: bytes) -> bytes:
        """What of this read belongs to the body. Raises Malformed, and then again whatever follows."""
        self.verbatim = False
        if not self._phase:
            # Engines write one token as one chunk, which usually arrives as one read.
            line = _SIZE(data)
            if line is not None:
                begin = line.end()
                size = int(line[1], 16)
                if begin + size + 2 == len(data) and size and data.endswith(b"\r\n"):
                    self.verbatim = True
                    return data[begin:-2]
        try:
            return _STEPS[self._phase](self, data, 0)
        except Malformed:
            self._phase = _BROKEN
            self._held = bytearray()
            raise

    def feed_eof(self) -> bool:
        """The connection has ended: whether the answer was whole. One that only this ends, is."""
        if self._phase == _REST:
            self._end()
        return self.done and self._phase != _BROKEN

    # -- the head ------------------------------------------------------------------------------

    def _take_head(self, data: bytes, _: int) -> bytes:
        """Heads, until one counts; then what came with it."""
        source: bytes | bytearray = data
        searched = 0
        if self._held:
            searched = max(0, len(self._held) - 3)
            self._held += data
            source = self._held
        while True:
            if not source.startswith(_BEGINNING):
                source = self._skip_empty_lines(source)
            end = source.find(b"\r\n\r\n", searched) + 4
            if end < 4:
                return self._hold_head(source, searched)
            if end > HEAD_MAX:
                raise Malformed(f"The head of the answer is longer than {HEAD_MAX} bytes.")
            head = _read_head(source[:end].decode("latin-1"), self._method)
            if head is not None:
                break
            self._skip()
            source, searched = source[end:], 0
        if self._held:
            source = bytes(source)
            self._held = bytearray()
        self.head = head
        if head.chunked:
            self._phase = _BOUNDARY
        elif head.length is None:
            self._phase = _REST
        elif head.length:
            self._phase = _LENGTH
            self._left = head.length
        else:
            self._end()
        if end == len(source):
            return b""
        return _STEPS[self._phase](self, bytes(source), end)

    def _skip_empty_lines(self, source: bytes | bytearray) -> bytes | bytearray:
        while source.startswith(b"\r\n"):
            self._skip()
            source = source[2:]
        # Said at once: whoever speaks something else may wait for us to speak.
        if source != b"\r" and not _BEGINNING.startswith(source[: len(_BEGINNING)]):
            raise Malformed("The answer does not begin as one of HTTP/1.")
        return source

    def _skip(self) -> None:
        self._skipped += 1
        if self._skipped > SKIPPED_MAX:
            raise Malformed("Too much comes before the answer.")

    def _hold_head(self, source: bytes | bytearray, searched: int) -> bytes:
        if len(source) >= HEAD_MAX:
            raise Malformed(f"The head of the answer is longer than {HEAD_MAX} bytes.")
        _check_line_ends(source, searched)
        if source is not self._held:
            self._held = bytearray(source)
        return b""

    # -- a body in chunks ----------------------------------------------------------------------

    def _take_chunks(self, data: bytes, at: int) -> bytes:
        """From anywhere in the chunks to the end of the read, or of the answer."""
        parts: list[bytes] = []
        stop = len(data)
        while at < stop:
            phase = self._phase
            if phase == _BOUNDARY:
                line = _SIZE(data, at)
                if line is None:
                    at = self._take_size_line(data, at)
                    continue
                at = line.end()
                size = int(line[1], 16)
                end = at + size
                if size and data[end : end + 2] == b"\r\n":
                    parts.append(data[at:end])
                    at = end + 2
                else:
                    self._begin_chunk(size)
            elif phase == _CHUNK:
                part = data[at : at + self._left]
                parts.append(part)
                at += len(part)
                self._left -= len(part)
                if not self._left:
                    self._phase = _CHUNK_END
            elif phase == _CHUNK_END:
                at = self._take_chunk_end(data, at)
            elif phase == _SIZE_PART:
                at = self._take_size_line(data, at)
            elif phase == _TRAILERS:
                at = self._take_trailer(data, at)
            else:
                self._take_nothing(data, at)
                break
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _take_size_line(self, data: bytes, at: int) -> int:
        """A size in several reads, with extensions or with padding."""
        line, at = self._line(data, at)
        if line is None:
            if self._held and self._held[0] not in _HEX:  # said at once, not when its line ends, which may be never
                raise Malformed("A chunk of the answer has no size.")
            self._phase = _SIZE_PART
            return at
        found = _SIZE_LINE(line)
        if found is None:
            raise Malformed("The size of a chunk is malformed.")
        size = int(found[1], 16)
        if size >= CHUNK_MAX:
            raise Malformed("A chunk is too large.")
        self._begin_chunk(size)
        return at

    def _begin_chunk(self, size: int) -> None:
        self._left = size or HEAD_MAX
        self._phase = _CHUNK if size else _TRAILERS

    def _take_chunk_end(self, data: bytes, at: int) -> int:
        wanted = b"\n" if self._held else b"\r\n"
        came = data[at : at + len(wanted)]
        if not wanted.startswith(came):
            raise Malformed("A chunk is longer than its size.")
        if came == wanted:
            self._held.clear()
            self._phase = _BOUNDARY
        else:
            self._held += came
        return at + len(came)

    def _take_trailer(self, data: bytes, at: int) -> int:
        line, at = self._line(data, at)
        if line is None:
            return at
        if not line:
            self._left = 0
            self._end()
            return at
        self._left -= len(line) + 2
        if self._left < 0:
            raise Malformed("There are too many trailers.")
        if _TRAILER(line) is None:
            raise Malformed("A trailer is malformed.")
        return at

    def _line(self, data: bytes, at: int) -> tuple[bytes | None, int]:
        """The line that began before or begins here, if all of it is there; and where the next begins."""
        held = self._held
        if not held:
            end = data.find(b"\r\n", at, at + LINE_MAX + 2)
            if end >= 0:
                return data[at:end], end + 2
        known = len(held)
        held += data[at : at + LINE_MAX + 2 - known]
        end = held.find(b"\r\n", max(0, known - 1))
        if end >= 0:
            line = bytes(held[:end])
            held.clear()
            return line, at + end + 2 - known
        if len(held) == LINE_MAX + 2:
            raise Malformed(f"A line of the answer is longer than {LINE_MAX} bytes.")
        _check_line_ends(held, max(0, known - 1))
        return None, len(data)

    # -- other bodies, and what comes behind them ----------------------------------------------

    def _take_length(self, data: bytes, at: int) -> bytes:
        body = data[at:] if at else data
        left = self._left - len(body)
        if left > 0:
            self._left = left
            return body
        body = body[: self._left]
        self._left = 0
        self._end()
        if left < 0:
            self._take_nothing(data, at + len(body))
        return body

    def _take_rest(self, data: bytes, at: int) -> bytes:
        return data[at:]

    def _end(self) -> None:
        self._phase = _NOTHING
        self.done = True

    def _take_nothing(self, data: bytes, at: int) -> bytes:
        """Empty lines, or another answer of which only the beginning is looked at."""
        if at == len(data):
            return b""
        self.surplus = True
        known = len(_BEGINNING) - len(self._held)
        behind = data[at:].lstrip(b"\r\n") if not self._held else data[at : at + known]
        self._held += behind[:known]
        if not _BEGINNING.startswith(self._held):
            raise Malformed("Bytes that begin no answer came behind this one.")
        return b""

    def _take_more_of_the_broken(self, data: bytes, at: int) -> bytes:
        raise Malformed("The answer was broken before.")


_STEPS: Final[tuple[Callable[[AnswerParser, bytes, int], bytes], ...]] = (
    AnswerParser._take_chunks,  # _BOUNDARY
    AnswerParser._take_chunks,  # _SIZE_PART
    AnswerParser._take_chunks,  # _CHUNK
    AnswerParser._take_chunks,  # _CHUNK_END
    AnswerParser._take_chunks,  # _TRAILERS
    AnswerParser._take_head,  # _HEAD
    AnswerParser._take_length,  # _LENGTH
    AnswerParser._take_rest,  # _REST
    AnswerParser._take_nothing,  # _NOTHING
    AnswerParser._take_more_of_the_broken,  # _BROKEN
)


def _read_head(text: str, method: str) -> Head | None:
    """A head up to its empty line; None for an interim one."""
    line = _STATUS(text)
    if line is None:
        raise Malformed("The status line is malformed.")
    fields = _read_fields(text, line.end())
    status = int(line[2])
    if status < 200:
        if status == 101:
            raise Malformed("The engine changes the protocol, and nobody asked it to.")
        return None
    first = {name.lower(): value for name, value in fields}
    if len(first) < len(fields):
        first = {name.lower(): value for name, value in reversed(fields)}
    length, chunked = _framing(fields, first, line[1])
    if method == "HEAD" or status == 204 or status == 304:
        length, chunked = 0, False
    reusable = (chunked or length is not None) and _is_kept(fields, first, line[1])
    return Head(status, fields, length, chunked, reusable, first)


def _read_fields(text: str, at: int) -> list[tuple[str, str]]:
    fields: list[tuple[str, str]] = _FIELDS(text, at)
    # Each match begins a line and holds one LF, so as many matches as LFs are all of the lines, whole.
    if len(fields) != text.count("\n", at, -1):
        raise Malformed("A header line is malformed.")
    if len(fields) > HEADERS_MAX:
        raise Malformed(f"The answer has more than {HEADERS_MAX} headers.")
    if len(text) > LINE_MAX and max(map(len, text.split("\r\n"))) > LINE_MAX:
        raise Malformed(f"A line of the answer is longer than {LINE_MAX} bytes.")
    if " \r\n" in text or "\t\r\n" in text:
        return [(name, value.rstrip(" \t")) for name, value in fields]
    return fields


def _framing(fields: list[tuple[str, str]], first: dict[str, str], minor: str) -> tuple[int | None, bool]:
    """(length, whether chunked), by RFC 9112, 6.3; (None, False) where the connection's end ends the body."""
    digits = first.get("content-length")
    if "transfer-encoding" in first:
        if digits is not None:
            raise Malformed("The answer has both a length and a transfer coding.")
        if minor == "0":
            raise Malformed("HTTP/1.0 knows no transfer coding.")
        codings = _words(fields, "transfer-encoding")
        if not codings or "chunked" in codings[:-1]:
            raise Malformed("The transfer coding is malformed.")
        return None, codings[-1] == "chunked"
    if digits is None:
        return None, False
    # Of latin-1 only 0 to 9 are decimals.
    if not digits.isdecimal() or len(digits) > LENGTH_DIGITS:
        raise Malformed("The Content-Length is malformed.")
    if len(first) < len(fields) and sum(name.lower() == "content-length" for name, _ in fields) > 1:
        raise Malformed("The answer has two lengths.")
    return int(digits), False


def _is_kept(fields: list[tuple[str, str]], first: dict[str, str], minor: str) -> bool:
    """Whether the connection persists, by RFC 9112, 9.3."""
    if "connection" not in first:
        return minor == "1"
    words = _words(fields, "connection")
    return "close" not in words and (minor == "1" or "keep-alive" in words)


def _words(fields: list[tuple[str, str]], wanted: str) -> list[str]:
    """The words of a list that may stand in several headers, in lower case (RFC 9110, 5.6.1)."""
    values = ",".join(value for name, value in fields if name.lower() == wanted)
    return [word for each in values.split(",") if (word := each.strip(" \t").lower())]


def _check_line_ends(part: bytes | bytearray, at: int) -> None:
    """Refuse half a line end at once: a head that ends its lines otherwise would be waited for in vain."""
    if _LONE(part, at) is not None:
        raise Malformed("A line of the answer does not end in CR LF.")
