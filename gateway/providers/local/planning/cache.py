"""What the cache of keys and values takes, as llama.cpp and vLLM reckon it themselves. Pure.

Checked against the figures that both print: recorded ones of llama-server for models of several shapes, and vLLM's
(tests/providers/local/planning/test_cache.py). Sources: llama.cpp's src/llama-kv-cache.cpp and
llama-kv-cache-iswa.cpp, vLLM 0.33's v1/core/kv_cache_planning.py, kv_cache_utils.py and v1/kv_cache_interface.py.
"""

from dataclasses import dataclass

from gateway.providers.local.models.shape import WHOLE, Shape

NUMBER = 2
"""Bytes of one number in the cache: 16 bits, unless somebody asks for fewer."""

# --- llama.cpp -------------------------------------------------------------------------------------------------------

CELLS = 256
"""Cells come in multiples of it."""
MICRO_BATCH = 512


def padded(tokens: int) -> int:
    return -(-tokens // CELLS) * CELLS


def llama_bytes(shape: Shape, context: int, *, slots: int = 1, unified: bool = True, number: float = NUMBER) -> int:
    """Of the whole cache for a context in all, which the slots share (`unified`) or have parts of."""
    return sum(llama_layers(shape, context, slots=slots, unified=unified, number=number))


def llama_layers(
    shape: Shape, context: int, *, slots: int = 1, unified: bool = True, number: float = NUMBER
) -> tuple[int, ...]:
    """Of each layer. A layer with a window keeps as much as that, for each slot, and one batch."""
    streams = 1 if unified else slots
    cells = padded(-(-context // streams))
    short = {
        window: padded(min(cells, window * (slots if unified else 1) + MICRO_BATCH)) for window in set(shape.windows)
    }
    return tuple(
        int(keep * number * streams * (cells if window == WHOLE else min(cells, short[window])))
        for keep, window in zip(shape.keeps, shape.windows, strict=True)
    )


def llama_longest(shape: Shape, most: int, room: int, *, slots: int = 1, unified: bool = True) -> int:
    """The longest context in all, up to `most`, whose cache is no larger than `room`; a multiple of CELLS."""
    fits, too_long = 0, padded(most) // CELLS + 1
    while too_long - fits > 1:
        middle = (fits + too_long) // 2
        if llama_bytes(shape, middle * CELLS, slots=slots, unified=unified) <= room:
            fits = middle
        else:
            too_long = middle
    return fits * CELLS


# --- vLLM ------------------------------------------------------------------------------------------------------------

BLOCK = 16
"""Tokens of one block on a GPU."""
SLACK = 1.5
"""With fewer layers than this times the smaller kind, the larger kind's number is the size of the groups."""


@dataclass(frozen=True, slots=True)
class Paged:
    """vLLM's cache of one model on one GPU: groups of as many layers each, which take blocks from one pool."""

    block: int
    """Bytes of one block of one group."""
    groups: tuple[int, ...]
    """The window of each group; WHOLE for those that keep all."""
    in_flight: int
    """Tokens that may be on their way while a window moves on."""
    length: int = BLOCK
    """Tokens of one block."""

    def blocks(self, tokens: int) -> int:
        """That one request of so many tokens takes."""
        return sum(
            -(-tokens // self.length)
            if window == WHOLE
            else -(-min(window - 1 + self.in_flight, tokens) // self.length) + 1
            for window in self.groups
        )

    def bytes(self, tokens: int) -> int:
        """For one request."""
        return self.blocks(tokens) * self.block

    def at_once(self, room: int, tokens: int) -> float:
        """How many requests of so many tokens fit: vLLM's "Maximum concurrency for … tokens per request"."""
        return (room // self.block) / self.blocks(tokens)

    def capacity(self, room: int, tokens: int) -> int:
        """Tokens in all, in requests of so many: vLLM's "GPU KV cache size"."""
        return int(self.at_once(room, tokens) * tokens)

    def longest(self, room: int, most: int) -> int:
        """The longest single request that fits, `most` at most. 0: none."""
        fits, too_long = 0, most + 1
        while too_long - fits > 1:
            middle = (fits + too_long) // 2
            if self.bytes(middle) <= room:
                fits = middle
            else:
                too_long = middle
        return fits


def paged(shape: Shape, *, split: int = 1, number: float = NUMBER, in_flight: int = 4096, length: int = BLOCK) -> Paged:
    """`split` is over how many GPUs the heads are divided; each has one head at least, and the whole where the cache is
    latent. `in_flight` is twice max_num_batched_tokens: two batches overlap."""
    keep = max(shape.keeps)  # layers that keep less are padded to it
    if not shape.latent:
        keep = keep * max(1, shape.kv_heads // split) // max(1, shape.kv_heads)
    kinds: dict[int, int] = {}
    for window in shape.windows:
        kinds[window] = kinds.get(window, 0) + 1
    least, most = min(kinds.values()), max(kinds.values())
    size = most if most < least * SLACK else least
    groups = tuple(window for window, layers in kinds.items() for _ in range(-(-layers // size)))
    return Paged(int(length * keep * number * size), groups, in_flight, length)
