#!/usr/bin/env python3
"""Write the demo model: a real GGUF with random weights, so that the first run needs no download.

    python scripts/make_demo_model.py data/models/demo.gguf
    python scripts/make_demo_model.py slow.gguf --size slow          # seconds of prefill: for cancelling and load tests
    python scripts/make_demo_model.py big.gguf --layers 12 --dim 1024

It speaks word-like nonsense and never ends by itself: `max_tokens` ends it. Every engine that reads llama-architecture
GGUFs can serve it (chat by its ChatML template, completions, embeddings by mean pooling), and the same arguments write
the same bytes. Needs numpy and gguf (the extra `demo`).
"""

import argparse
import itertools
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import gguf
import numpy as np
import numpy.typing as npt

NAME = "WakeGate demo (random weights: it talks nonsense)"

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)

SIZES = {"tiny": (2, 64), "slow": (8, 768)}
"""Layers and width. `slow` is 110 MB: 5,000 tokens take two cores some ten seconds to read."""

CONTROL = ("<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>")
BOS, EOS = CONTROL.index("<s>"), CONTROL.index("<|im_end|>")
SPACE = "\u2581"  # how a SentencePiece vocabulary writes a leading space

POOL = 1_000_003
"""Random numbers are drawn once and read from different places for each tensor: drawing 10^8 of them takes seconds. A
prime, so that no two rows of a matrix begin at the same place."""


def words(count: int) -> list[str]:
    """Short pronounceable words, always the same ones."""
    onsets, vowels, codas = "bdfgklmnrvz", "aeiou", ["", "n", "r", "l", "m"]
    syllables = [onset + vowel + coda for coda in codas for onset, vowel in itertools.product(onsets, vowels)]
    doubles = [first + second for first, second in zip(syllables[::3], syllables[1::3], strict=False)]
    return (doubles + syllables)[:count]


def vocabulary() -> tuple[list[str], list[int]]:
    """Tokens and their types: control, all 256 bytes (so that any prompt can be read), then what it speaks."""
    kinds = gguf.TokenType
    table = [(token, kinds.UNKNOWN if token == "<unk>" else kinds.CONTROL) for token in CONTROL]
    table += [(f"<0x{byte:02X}>", kinds.BYTE) for byte in range(256)]
    table.append((SPACE, kinds.NORMAL))
    table += [(SPACE + word, kinds.NORMAL) for word in words(330)]
    table += [(mark, kinds.NORMAL) for mark in (".", ",", "?", "!")]
    return [token for token, _ in table], [int(kind) for _, kind in table]


class Weights:
    """Random tensors from one pool; `next_tensor` never hands out the same place twice in a row."""

    def __init__(self, seed: int) -> None:
        self._pool = np.random.default_rng(seed).standard_normal(POOL, dtype=np.float32)
        self._at = 0

    def matrix(self, rows: int, columns: int, scale: float) -> npt.NDArray[np.float32]:
        self._at = (self._at + 7919 * 101) % POOL
        return np.resize(np.roll(self._pool, -self._at), (rows, columns)) * np.float32(scale)


def tensors(layers: int, dim: int, tokens: list[str], seed: int) -> Iterator[tuple[str, npt.NDArray[np.float32]]]:
    """Dimension 0 carries a constant that no layer touches: the output rows of tokens that it must not speak (control
    and byte tokens, the lone space) look at that dimension only, so their logits are always far below the others, the
    text is always valid UTF-8 and it never ends by itself."""
    weights, hidden = Weights(seed), 2 * dim
    silent = tokens.index(SPACE) + 1
    usual = dim**-0.5

    embedding = weights.matrix(len(tokens), dim, 1.0)
    embedding[:, 0] = 2.0
    yield "token_embd.weight", embedding
    for layer in range(layers):
        shapes = {
            "attn_q": (dim, dim, usual),
            "attn_k": (dim // 2, dim, usual),
            "attn_v": (dim // 2, dim, usual),
            "attn_output": (dim, dim, usual),
            "ffn_gate": (hidden, dim, usual),
            "ffn_up": (hidden, dim, usual),
            "ffn_down": (dim, hidden, usual),
        }
        yield f"blk.{layer}.attn_norm.weight", np.ones(dim, np.float32)
        yield f"blk.{layer}.ffn_norm.weight", np.ones(dim, np.float32)
        for name, shape in shapes.items():
            matrix = weights.matrix(*shape)
            if name in ("attn_output", "ffn_down"):
                matrix[0, :] = 0.0
            yield f"blk.{layer}.{name}.weight", matrix
    yield "output_norm.weight", np.ones(dim, np.float32)
    output = weights.matrix(len(tokens), dim, 3 * usual)
    output[:, 0] = 0.0
    output[:silent] = 0.0
    output[:silent, 0] = -20.0
    yield "output.weight", output


def write(path: Path, layers: int, dim: int, context: int, seed: int, pooling: bool) -> None:
    """The whole file or none: written beside its place, then renamed."""
    tokens, kinds = vocabulary()
    writer = gguf.GGUFWriter(None, "llama")
    writer.add_name(NAME)
    writer.add_description("Random weights, for trying the gateway out and for its tests. Made by make_demo_model.py.")
    writer.add_context_length(context)
    writer.add_embedding_length(dim)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(2 * dim)
    writer.add_head_count(dim // 16)
    writer.add_head_count_kv(dim // 32)
    writer.add_rope_dimension_count(16)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(tokens))
    if pooling:
        writer.add_pooling_type(gguf.PoolingType.MEAN)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([-float(number) for number in range(len(tokens))])
    writer.add_token_types(kinds)
    writer.add_bos_token_id(BOS)
    writer.add_eos_token_id(EOS)
    writer.add_unk_token_id(0)
    writer.add_add_bos_token(False)
    writer.add_add_space_prefix(False)
    writer.add_chat_template(CHAT_TEMPLATE)
    small = dim < 256
    for name, tensor in tensors(layers, dim, tokens, seed):
        writer.add_tensor(name, tensor if small or tensor.ndim == 1 else tensor.astype(np.float16))

    path.parent.mkdir(parents=True, exist_ok=True)
    handle, beside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    try:
        writer.write_header_to_file(Path(beside))
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        Path(beside).chmod(0o644)
        Path(beside).replace(path)
    except BaseException:
        Path(beside).unlink(missing_ok=True)
        raise


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Write a GGUF with random weights.")
    parser.add_argument("out", type=Path)
    parser.add_argument("--size", choices=SIZES, default="tiny")
    parser.add_argument("--layers", type=int, help="instead of the size's")
    parser.add_argument("--dim", type=int, help="a multiple of 32, instead of the size's")
    parser.add_argument("--context", type=int, default=16384)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--no-pooling", action="store_true", help="say nothing about pooling, as chat models do")
    asked = parser.parse_args(arguments)
    layers, dim = SIZES[asked.size]
    dim = asked.dim or dim
    if dim % 32:
        parser.error("--dim must be a multiple of 32")
    write(asked.out, asked.layers or layers, dim, asked.context, asked.seed, not asked.no_pooling)
    return 0


if __name__ == "__main__":
    sys.exit(main())
