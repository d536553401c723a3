"""The header reader: right about whole files, and neither fooled nor exhausted by any other."""

import io
import struct
import tracemalloc

import pytest
from gguf.constants import GGML_QUANT_SIZES
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.providers.local.models.gguf_header import BLOCKS, GGUFFault, Header, read_header
from tests.support.model_bytes import gguf_bytes

WHOLE = gguf_bytes(chat_template=True)


def header_of(content: bytes) -> Header:
    return read_header(io.BytesIO(content), len(content))


def test_a_header_says_what_the_model_is():
    header = header_of(WHOLE)
    assert (header.architecture, header.name, header.context_length) == ("llama", "Tiny", 128)
    assert (header.tensors, header.chat_template, header.pooling, header.split_count) == (2, True, None, 1)


def test_a_header_keeps_what_a_plan_goes_by():
    header = header_of(WHOLE)
    assert header.values == {"context_length": 128} and header.vocabulary == 3
    assert header.others == {"token_embd.weight": 4 * 32 * 4, "output.weight": 4 * 64 * 2} and header.blocks == {}


def strings(count: int, length: int) -> bytes:
    """A GGUF without tensors and with one setting: a list of texts."""
    key = b"tokenizer.ggml.tokens"
    texts = b"".join(struct.pack("<Q", length) + bytes(length) for _ in range(count))
    return (
        b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", len(key)) + key
        + struct.pack("<IIQ", 9, 8, count) + texts
    )  # fmt: skip


@pytest.mark.parametrize(("count", "length"), [(0, 0), (1, 0), (40_000, 5), (3, 200_000), (2, 262_136), (7, 262_144)])
def test_texts_are_walked_over_wherever_blocks_of_reading_end(count, length):
    content = strings(count, length)
    header = header_of(content)
    assert (header.vocabulary, header.size_needed) == (count, len(content))


@pytest.mark.parametrize("cut", [1, 5, 13, 200_001, 262_144])
def test_texts_that_are_cut_are_a_fault(cut):
    with pytest.raises(GGUFFault) as caught:
        header_of(strings(3, 200_000)[:-cut])
    assert caught.value.fault == "truncated"


def test_a_text_that_claims_to_be_endless_is_nonsense():
    content = bytearray(strings(3, 10))
    content[-18:-10] = struct.pack("<Q", 1 << 60)
    with pytest.raises(GGUFFault) as caught:
        header_of(bytes(content))
    assert caught.value.fault == "nonsense"


@pytest.mark.parametrize("quantized", [False, True])
def test_the_size_needed_is_the_end_of_the_last_tensor(quantized):
    content = gguf_bytes(rows=5, quantized=quantized)
    needed = header_of(content).size_needed
    last_tensor = 5 * 64 // 32 * 34 if quantized else 5 * 64 * 2
    padding = -last_tensor % 32
    assert needed == len(content) - padding


def test_block_sizes_are_those_of_the_gguf_package():
    assert {int(t): sizes for t, sizes in GGML_QUANT_SIZES.items()} == BLOCKS


def test_what_is_no_gguf_is_told_by_its_first_bytes():
    with pytest.raises(GGUFFault) as caught:
        header_of(b"<!DOCTYPE html><html>")
    assert caught.value.fault == "magic"
    assert "<!DO" in caught.value.detail


def test_big_endian_and_ancient_files_are_named_as_such():
    for version, word in ((b"\0\0\0\3", "big-endian"), (b"\1\0\0\0", "version 1"), (b"\x63\0\0\0", "version 99")):
        with pytest.raises(GGUFFault, match=word) as caught:
            header_of(WHOLE[:4] + version + WHOLE[8:])
        assert caught.value.fault == "version"


@given(st.integers(0, len(WHOLE) - 1))
def test_a_cut_file_is_a_fault_or_needs_more_bytes_than_it_has(length):
    try:
        header = header_of(WHOLE[:length])
    except GGUFFault as fault:
        assert fault.fault == ("magic" if length < 4 else "truncated")
    else:
        assert header.size_needed > length


@settings(max_examples=500)
@given(st.lists(st.tuples(st.integers(0, len(WHOLE) - 1), st.integers(0, 255)), min_size=1, max_size=8))
def test_a_damaged_file_is_a_fault_or_a_value_and_never_anything_else(damage):
    content = bytearray(WHOLE)
    for at, byte in damage:
        content[at] = byte
    try:
        assert isinstance(header_of(bytes(content)), Header)
    except GGUFFault:
        pass


@given(st.binary(max_size=400))
def test_any_bytes_after_the_magic_are_a_fault_or_a_value(rest):
    try:
        assert isinstance(header_of(b"GGUF\3\0\0\0" + rest), Header)
    except GGUFFault:
        pass


HUGE = 1 << 62


def pair(key: bytes, kind: int, value: bytes) -> bytes:
    return struct.pack("<Q", len(key)) + key + struct.pack("<I", kind) + value


@pytest.mark.parametrize(
    "content",
    [
        struct.pack("<QQ", HUGE, 0),
        struct.pack("<QQ", 0, HUGE),
        struct.pack("<QQ", 0, 1) + struct.pack("<Q", HUGE),
        struct.pack("<QQ", 0, 1) + pair(b"k", 8, struct.pack("<Q", HUGE)),
        struct.pack("<QQ", 0, 1) + pair(b"k", 8, struct.pack("<Q", 1 << 30)),
        struct.pack("<QQ", 0, 1) + pair(b"k", 9, struct.pack("<IQ", 8, HUGE)),
        struct.pack("<QQ", 0, 1) + pair(b"k", 9, struct.pack("<IQ", 4, HUGE)),
        struct.pack("<QQ", 0, 1) + pair(b"k", 9, struct.pack("<IQ", 9, 100) * 50),
        struct.pack("<QQ", 0, 1) + pair(b"general.alignment", 4, struct.pack("<I", 0)),
        struct.pack("<QQ", 1, 0) + struct.pack("<Q", 1) + b"t" + struct.pack("<I", 4_000_000),
        struct.pack("<QQ", 1, 0) + struct.pack("<Q", 1) + b"t" + struct.pack("<IQQIQ", 2, HUGE, HUGE, 0, 0),
    ],
    ids=lambda c: f"{len(c)} bytes",
)
def test_claims_of_enormous_lengths_cost_neither_memory_nor_time(content):
    content = b"GGUF\3\0\0\0" + content + bytes(64)
    tracemalloc.start()
    try:
        with pytest.raises(GGUFFault):
            header_of(content)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_a_file_of_endless_empty_texts_is_given_up():
    class Endless(io.RawIOBase):
        """As long as a file can be, all zeros after the beginning."""

        def __init__(self, begin: bytes) -> None:
            self._begin = begin
            self._at = 0

        def read(self, size: int = -1) -> bytes:
            found = self._begin[self._at : self._at + size].ljust(size, b"\0")
            self._at += size
            return found

        def seek(self, offset: int, whence: int = 0) -> int:
            self._at += offset
            return self._at

    begin = b"GGUF\3\0\0\0" + struct.pack("<QQ", 0, 1) + pair(b"k", 9, struct.pack("<IQ", 8, 1 << 33))
    with pytest.raises(GGUFFault):
        read_header(Endless(begin), 1 << 40)  # type: ignore[arg-type]
