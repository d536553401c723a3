"""JSON schemas and grammars from requests, made harmless before native code sees them.

A grammar that llama.cpp cannot parse gives a null pointer, which the package hands on: the process dies (tried). One
that names a token the model lacks throws through C, with the same end. So every grammar is parsed once here, and
whatever could grow without bound is measured first. What is wrong is the caller's 400.
"""

import json
import re
from collections.abc import Iterator
from typing import Any

import llama_cpp
from llama_cpp import llama_cpp as native
from llama_cpp.llama_grammar import JSON_GBNF

from .refusals import Refusal

LARGEST = 64 << 10
"""Bytes of a schema or grammar (FAULTS.md's figure)."""
DEEPEST = 64
REPEATS = 1000
"""minItems, maxLength, {n}: each is written out by the converter, so that 10^9 of them would be gigabytes."""
PATTERN_REPEATS = 10_000
"""All of one pattern's repetitions, multiplied: they nest."""

COUNTS = ("minItems", "maxItems", "minLength", "maxLength")
STRINGS = re.compile(r'"(?:\\.|[^"\\])*"|\[(?:\\.|[^\]\\])*\]|#[^\n]*')


def any_object(vocabulary: Any) -> llama_cpp.LlamaGrammar:
    """`{"type": "json_object"}`: whatever object."""
    return vetted(vocabulary, JSON_GBNF, "response_format")


def from_schema(vocabulary: Any, schema: dict[str, Any], param: str) -> llama_cpp.LlamaGrammar:
    """What follows the schema, as far as the package's converter knows JSON Schema."""
    text = json.dumps(schema)
    if len(text) > LARGEST:
        raise Refusal(f"The schema is larger than {LARGEST} bytes.", param=param)
    for key, value in _walk(schema, param):
        if key in COUNTS and isinstance(value, int) and value > REPEATS:
            raise Refusal(f"`{key}` in a schema can be {REPEATS} at most.", param=param)
        if key == "pattern" and isinstance(value, str):
            _measure(value, param)
    try:
        grammar = llama_cpp.llama_grammar.json_schema_to_gbnf(text)
    except Exception as error:
        # The converter raises whatever its code runs into (KeyError, AssertionError, …): all of it is about this
        # schema.
        raise Refusal(f"This schema cannot be turned into a grammar ({type(error).__name__}).", param=param) from error
    return vetted(vocabulary, grammar, param)


def from_text(vocabulary: Any, grammar: str) -> llama_cpp.LlamaGrammar:
    """A caller's own GBNF."""
    if len(grammar) > LARGEST:
        raise Refusal(f"The grammar is larger than {LARGEST} bytes.", param="grammar")
    if "<" in STRINGS.sub("", grammar):
        raise Refusal("Tokens (`<…>`) in a grammar are not supported here.", param="grammar")
    return vetted(vocabulary, grammar, "grammar")


def vetted(vocabulary: Any, grammar: str, param: str) -> llama_cpp.LlamaGrammar:
    """Parsed once by native code, before the package hands it over unasked."""
    if not re.search(r"^root\s*::=", grammar, re.MULTILINE):
        raise Refusal("The grammar has no rule `root`.", param=param)
    sampler = native.llama_sampler_init_grammar(vocabulary, grammar.encode(), b"root")
    if not sampler:
        raise Refusal("The grammar, or the one made from the schema, is not one that llama.cpp can read.", param=param)
    native.llama_sampler_free(sampler)
    return llama_cpp.LlamaGrammar.from_string(grammar)


def _walk(node: Any, param: str, depth: int = 0) -> Iterator[tuple[str, Any]]:
    """Every key with its value, however deep; too deep is an error of its own."""
    if depth > DEEPEST:
        raise Refusal(f"The schema is nested deeper than {DEEPEST}.", param=param)
    children = node.items() if isinstance(node, dict) else (("", child) for child in node)
    for key, value in children:
        yield key, value
        if isinstance(value, dict | list):
            yield from _walk(value, param, depth + 1)


def _measure(pattern: str, param: str) -> None:
    product = 1
    for numbers in re.findall(r"\{([\d,]+)\}", pattern):
        product *= max((int(number[:9]) for number in numbers.split(",") if number), default=1) or 1
        if product > PATTERN_REPEATS:
            raise Refusal("The repetitions of a `pattern` are too many.", param=param)
