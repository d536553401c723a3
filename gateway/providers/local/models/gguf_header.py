"""Reads a GGUF file's header: what the model is, and how long the file must be, so that a cut copy is found.

Own code instead of the `gguf` package (which needs numpy and maps the whole file): the file comes from outside, so
every length in it is checked against the file's size and against a ceiling before it is believed, nothing large is
held, and the work is bounded. The format: ggml's docs/gguf.md.
"""

import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import BinaryIO, Literal

MAGIC = b"GGUF"

KEY_LENGTH_MAX = 65_535
TEXT_LENGTH_MAX = 1 << 20
"""The longest text value that is kept; longer ones are skipped."""
PLAUSIBLE_LENGTH = 1 << 40
PAIRS_MAX, TENSORS_MAX, ARRAY_TEXTS_MAX = 1 << 16, 1 << 18, 1 << 22
"""Ceilings far above any model's (the largest vocabularies have 300,000 entries); they bound the time spent."""
ARRAY_KEPT = 1024
"""Arrays of numbers up to this length are kept: those that hold one for each layer."""

WALKED = 1 << 18
"""Bytes that are held while texts are walked over."""

_LENGTH = struct.Struct("<Q")
_UINT32, _UINT64, _STRING, _ARRAY, _BOOL = 4, 10, 8, 9, 7
_SCALARS: dict[int, str] = {
    0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d",
}  # fmt: skip

BLOCKS: dict[int, tuple[int, int]] = {
    0: (1, 4), 1: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34), 9: (32, 40),
    10: (256, 84), 11: (256, 110), 12: (256, 144), 13: (256, 176), 14: (256, 210), 15: (256, 292),
    16: (256, 66), 17: (256, 74), 18: (256, 98), 19: (256, 50), 20: (32, 18), 21: (256, 110), 22: (256, 82),
    23: (256, 136), 24: (1, 1), 25: (1, 2), 26: (1, 4), 27: (1, 8), 28: (1, 8), 29: (256, 56), 30: (1, 2),
    34: (256, 54), 35: (256, 66), 39: (32, 17), 40: (64, 36), 41: (128, 18),
}  # fmt: skip
"""Tensor type → (elements in a block, bytes of a block); ggml.h. A type that is not here counts as zero bytes."""

Fault = Literal["magic", "truncated", "version", "nonsense"]


_BLOCK = re.compile(r"blk\.(\d{1,4})\.")
"""How the name of a layer's tensor begins."""
OTHERS_KEPT = 256
"""Tensors outside of layers whose names are kept; models have a dozen."""


class GGUFFault(Exception):
    """The file is not a whole GGUF. `detail` says where it was noticed."""

    def __init__(self, fault: Fault, detail: str) -> None:
        super().__init__(f"{fault}: {detail}")
        self.fault = fault
        self.detail = detail


@dataclass(frozen=True, slots=True)
class Header:
    version: int
    tensors: int
    size_needed: int
    """Bytes that the file must have for its last tensor to be whole."""
    architecture: str | None = None
    name: str | None = None
    context_length: int | None = None
    pooling: int | None = None
    """`<arch>.pooling_type`: set and not 0 where the model pools its embeddings."""
    chat_template: bool = False
    split_count: int = 1
    split_number: int = 0
    vocabulary: int | None = None
    """Tokens that it knows."""
    values: Mapping[str, object] = field(default_factory=dict, repr=False)
    """What stands under `<architecture>.`, by the rest of its name: numbers, texts, and short arrays as tuples."""
    blocks: Mapping[int, int] = field(default_factory=dict, repr=False)
    """Layer → bytes of its tensors."""
    others: Mapping[str, int] = field(default_factory=dict, repr=False)
    """Name → bytes, of the tensors that belong to no layer."""


@dataclass(frozen=True, slots=True)
class Array:
    """One that is too long to be kept, or holds no numbers."""

    length: int


class _Reader:
    """Reads forward; never beyond `size`, never more than a megabyte at once."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file = file
        self._size = size
        self._begins = file.tell()
        self.at = 0

    def take(self, count: int) -> bytes:
        self._check(count)
        data = self._file.read(count)
        self.at += len(data)
        if len(data) < count:
            raise GGUFFault("truncated", f"it ends at byte {self.at}, inside its header")
        return data

    def skip(self, count: int) -> None:
        self._check(count)
        self._file.seek(count, 1)
        self.at += count

    def skip_texts(self, count: int) -> None:
        """A vocabulary has some hundred thousand: they are walked over block by block, not one read for each."""
        block, at, length, length_at = b"", 0, 0, _LENGTH.unpack_from
        while count:
            self.at, at = self.at + at, 0
            self._check(_LENGTH.size)
            self._file.seek(self._begins + self.at)
            block = self._file.read(WALKED)
            last = len(block) - _LENGTH.size
            if last < 0:
                raise GGUFFault("truncated", f"it ends at byte {self.at + len(block)}, inside its header")
            while count and at <= last:
                length = length_at(block, at)[0]
                at += _LENGTH.size + length
                count -= 1
            if self.at + at > self._size:
                self.at += at - length
                self._check(length)
        self.at += at
        self._file.seek(self._begins + self.at)

    def _check(self, count: int) -> None:
        if count > PLAUSIBLE_LENGTH:
            raise GGUFFault("nonsense", f"a length of {count} stands at byte {self.at}")
        if self.at + count > self._size:
            raise GGUFFault("truncated", f"it ends at byte {self._size}, inside its header")

    def uint32(self) -> int:
        return int.from_bytes(self.take(4), "little")

    def uint64(self) -> int:
        return int.from_bytes(self.take(8), "little")

    def text(self, longest: int) -> str | None:
        """None for one that is longer than wanted; it is skipped."""
        length = self.uint64()
        if length > longest:
            self.skip(length)
            return None
        return self.take(length).decode("utf-8", "replace")


def read_header(file: BinaryIO, size: int) -> Header:
    """`file` stands at its start and is `size` bytes long. Raises GGUFFault, and OSError from the file itself."""
    reader = _Reader(file, size)
    if size < 4 or (magic := reader.take(4)) != MAGIC:
        raise GGUFFault("magic", f"it begins with {magic!r}" if size >= 4 else f"it is {size} bytes long")
    version = reader.uint32()
    if version not in (2, 3):
        swapped = int.from_bytes(version.to_bytes(4, "little"), "big")
        what = "big-endian bytes" if swapped in (1, 2, 3) else f"version {version}"
        raise GGUFFault("version", f"it has {what}; version 2 and 3 in little-endian bytes are read here")
    tensors, pairs = reader.uint64(), reader.uint64()
    if tensors > TENSORS_MAX or pairs > PAIRS_MAX:
        raise GGUFFault("nonsense", f"it claims {tensors} tensors and {pairs} settings")
    values = _read_pairs(reader, pairs)
    alignment = values.get("general.alignment", 32)
    if not isinstance(alignment, int) or alignment <= 0 or alignment > 1 << 20 or alignment % 8:
        raise GGUFFault("nonsense", f"its alignment is {alignment!r}")
    furthest, blocks, others = _read_tensors(reader, tensors)
    data_begins = -(-reader.at // alignment) * alignment
    architecture = _text(values, "general.architecture")
    return Header(
        version=version,
        tensors=tensors,
        size_needed=data_begins + furthest if tensors else reader.at,
        architecture=architecture,
        name=_text(values, "general.name"),
        context_length=_number(values, f"{architecture}.context_length"),
        pooling=_number(values, f"{architecture}.pooling_type"),
        chat_template="tokenizer.chat_template" in values,
        split_count=_number(values, "split.count") or 1,
        split_number=_number(values, "split.no") or 0,
        vocabulary=_vocabulary(values, architecture),
        values={key.removeprefix(f"{architecture}."): value for key, value in _below(values, architecture)},
        blocks=blocks,
        others=others,
    )


def _below(values: Mapping[str, object], architecture: str | None) -> list[tuple[str, object]]:
    return [(key, value) for key, value in values.items() if architecture and key.startswith(f"{architecture}.")]


def _vocabulary(values: Mapping[str, object], architecture: str | None) -> int | None:
    tokens = values.get("tokenizer.ggml.tokens")
    return tokens.length if isinstance(tokens, Array) else _number(values, f"{architecture}.vocab_size")


def _read_pairs(reader: _Reader, count: int) -> dict[str, object]:
    """The single values and short arrays of numbers; of other arrays the length."""
    values: dict[str, object] = {}
    texts_left = [ARRAY_TEXTS_MAX]
    for _ in range(count):
        key = reader.text(KEY_LENGTH_MAX)
        if key is None:
            raise GGUFFault("nonsense", f"a setting's name before byte {reader.at} is too long")
        kind = reader.uint32()
        if kind == _STRING:
            values[key] = reader.text(TEXT_LENGTH_MAX)
        elif kind == _ARRAY:
            values[key] = _read_array(reader, texts_left, depth=0)
        elif kind in _SCALARS:
            layout = struct.Struct(_SCALARS[kind])
            values[key] = layout.unpack(reader.take(layout.size))[0]
        else:
            raise GGUFFault("nonsense", f"a value of unknown type {kind} stands at byte {reader.at}")
    return values


def _read_array(reader: _Reader, texts_left: list[int], depth: int) -> "tuple[object, ...] | Array":
    kind, count = reader.uint32(), reader.uint64()
    if kind in _SCALARS:
        layout = _SCALARS[kind]
        size = struct.calcsize(layout)
        if count <= ARRAY_KEPT and depth == 0:
            return struct.unpack(f"<{count}{layout[1:]}", reader.take(count * size))
        reader.skip(count * size)
        return Array(count)
    if kind not in (_STRING, _ARRAY) or (kind == _ARRAY and depth >= 2):
        raise GGUFFault("nonsense", f"an array of unknown type {kind} stands at byte {reader.at}")
    texts_left[0] -= count
    if texts_left[0] < 0:
        raise GGUFFault("nonsense", f"an array of {count} entries stands at byte {reader.at}")
    if kind == _STRING:
        reader.skip_texts(count)
        return Array(count)
    for _ in range(count):
        _read_array(reader, texts_left, depth + 1)
    return Array(count)


def _read_tensors(reader: _Reader, count: int) -> tuple[int, dict[int, int], dict[str, int]]:
    """How far behind the start of the data the last byte of any tensor lies; the bytes of each layer; of the others."""
    furthest, blocks, others = 0, dict[int, int](), dict[str, int]()
    for _ in range(count):
        name = reader.text(KEY_LENGTH_MAX)
        if name is None:
            raise GGUFFault("nonsense", f"a tensor's name before byte {reader.at} is too long")
        dimensions = reader.uint32()
        if dimensions > 8:
            raise GGUFFault("nonsense", f"a tensor with {dimensions} dimensions stands at byte {reader.at}")
        elements = 1
        for _ in range(dimensions):
            elements *= reader.uint64()
        kind, offset = reader.uint32(), reader.uint64()
        per_block, block_bytes = BLOCKS.get(kind, (1, 0))
        size = -(-elements // per_block) * block_bytes
        if offset + size > PLAUSIBLE_LENGTH * 16:
            raise GGUFFault("nonsense", f"a tensor that ends at {offset + size} is described at byte {reader.at}")
        furthest = max(furthest, offset + size)
        if block := _BLOCK.match(name):
            number = int(block[1])
            blocks[number] = blocks.get(number, 0) + size
        elif len(others) < OTHERS_KEPT:
            others[name[:64]] = size
    return furthest, blocks, others


def _text(values: Mapping[str, object], key: str) -> str | None:
    value = values.get(key)
    return value if isinstance(value, str) else None


def _number(values: Mapping[str, object], key: str) -> int | None:
    value = values.get(key)
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 62 else None
