"""How large things are when nobody can be asked: a model by its name, its memory by its size. Rough, without I/O."""

import re

GIB = 1024**3
MIB = 1024**2

_BITS = (
    (re.compile(r"\b(?:f|fp|bf)32\b", re.I), 32.0),
    (re.compile(r"\b(?:f|fp|bf)16\b", re.I), 16.0),
    (re.compile(r"\bfp8\b|\bq8_0\b|\bint8\b|\bw8a8\b", re.I), 8.5),
    (re.compile(r"\bi?q6_k", re.I), 6.6),
    (re.compile(r"\bi?q5_", re.I), 5.7),
    (re.compile(r"\bi?q4_|\bawq\b|\bgptq\b|\bmxfp4\b|\bnvfp4\b|\bint4\b|\b4bit\b", re.I), 4.8),
    (re.compile(r"\bi?q3_", re.I), 3.9),
    (re.compile(r"\bi?q2_", re.I), 3.0),
    (re.compile(r"\bi?q1_", re.I), 2.0),
)
_PARAMETERS = re.compile(r"(?<![A-Za-z0-9.])(?:(\d{1,2})x)?(\d{1,4}(?:\.\d{1,2})?)([bm])(?![A-Za-z0-9])", re.I)
KV_PER_TOKEN = 128 * 1024
"""Bytes per token of context for a model of 8 GB in 16 bits with grouped heads, as Llama 3 8B has them."""


def guessed_size(name: str) -> int | None:
    """Bytes of a model's weights by its name (`Qwen3-32B-GGUF:Q4_K_M`); None for a name that tells nothing."""
    billions = 0.0
    for experts, number, unit in _PARAMETERS.findall(name):
        # Experts share their attention: 8x7B has 47 billion, not 56.
        one = float(number) / (1000 if unit in "mM" else 1)
        billions = max(billions, one * int(experts) * 0.84 if experts else one)
    if not billions:
        return None
    bits = next((bits for pattern, bits in _BITS if pattern.search(name.replace("-", " ").replace(".", " "))), None)
    if bits is None:
        # Without a word on it, a GGUF repository gives Q4_K_M, and gpt-oss comes in four bits.
        bits = 4.8 if re.search(r"gguf|gpt-oss", name, re.I) else 16.0
    return int(billions * 1e9 * bits / 8)


def kv_size(tokens: int, weights: int) -> int:
    """Bytes of the cache for so many tokens, reckoned from one model's by the square root of their sizes: width and
    depth both grow."""
    return int(tokens * KV_PER_TOKEN * (max(weights, MIB) / (8 * 10**9)) ** 0.5)
