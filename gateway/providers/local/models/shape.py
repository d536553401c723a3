"""A model's shape: its layers, and what each of them keeps per token of context. Pure.

Read from a GGUF's header or from a `config.json`, never from weights. What a file does not say, or says in a way that
is not known here, is unknown: `Shape.unknown` then says why, and nothing is reckoned with it.

Where the facts come from: llama.cpp's src/models/*.cpp (which layers have a window where the file does not say), vLLM's
and transformers' configurations, as of autumn 2026.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gateway.providers.local.models.gguf_header import Header

WHOLE = 0
"""As a window: the layer looks at the whole context."""


@dataclass(frozen=True, slots=True)
class Shape:
    """One model. Counts of 0 are not known."""

    architecture: str = ""
    keeps: tuple[int, ...] = ()
    """Numbers that each layer keeps for a token: keys and values of all its heads."""
    windows: tuple[int, ...] = ()
    """How far back each layer looks, in tokens; WHOLE where it looks at all."""
    heads: int = 0
    kv_heads: int = 0
    """The fewest of any layer."""
    width: int = 0
    hidden: int = 0
    """Width of the feed-forward part."""
    vocabulary: int = 0
    context: int | None = None
    """Tokens that an engine takes when nobody says."""
    dtype: str = ""
    quantization: str = ""
    latent: bool = False
    """Whether keys and values are kept compressed, once for all heads (MLA)."""
    sinks: bool = False
    """Whether its attention has sinks, which not every kernel can do (gpt-oss)."""
    layer_bytes: tuple[int, ...] = ()
    """Bytes of each layer's weights (GGUF)."""
    output_bytes: int = 0
    """Bytes of what comes after the last layer (GGUF)."""
    unknown: str = ""
    """Why nobody here knows what its cache takes."""

    @property
    def layers(self) -> int:
        return len(self.keeps)

    @property
    def is_known(self) -> bool:
        return not self.unknown and bool(self.keeps)

    def __repr__(self) -> str:
        what = self.unknown or f"{self.layers} layers, {sum(self.keeps)} numbers per token, windows {set(self.windows)}"
        return f"<Shape {self.architecture}: {what}>"


# --- GGUF ------------------------------------------------------------------------------------------------------------

WINDOW_EVERY: Mapping[str, int] = {
    "gemma2": 2, "gemma3": 6, "gpt-oss": 2, "cohere2": 4, "gemma3n": 5, "olmo2": 4, "exaone4": 4,
}  # fmt: skip
"""Architecture → of how many layers the last looks at the whole context, where the file has no pattern. For others with
a window that llama.cpp knows of, all layers are taken to look at all: that is never too little."""
STATE = ("ssm.", "wkv_head_size", "shortconv.", "full_attention_interval", "linear_attention", "kda.", "recurrent")
"""Settings of architectures that keep a state beside the cache, or instead of it, in some layers."""
INDEXED = ("attention.indexer.",)
"""Settings of those that keep an index beside the cache."""


def of_gguf(headers: Sequence[Header]) -> Shape:
    """The headers of all its files, in their order."""
    first = headers[0]
    values, architecture = first.values, first.architecture or ""
    layers, heads, width = _count(values, "block_count"), _count(values, "attention.head_count"), 0
    width = _count(values, "embedding_length")
    blocks: dict[int, int] = {}
    for header in headers:
        for number, size in header.blocks.items():
            blocks[number] = blocks.get(number, 0) + size
    others = {name: size for header in headers for name, size in header.others.items()}
    common: dict[str, Any] = {
        "architecture": architecture,
        "heads": heads,
        "width": width,
        "hidden": _count(values, "feed_forward_length"),
        "vocabulary": first.vocabulary or 0,
        "context": first.context_length,
        "sinks": architecture == "gpt-oss",
        "layer_bytes": tuple(blocks.get(number, 0) for number in range(layers or 0)) if layers < 4096 else (),
        # Where words and answers share a table, the GPU gets a copy of it.
        "output_bytes": others.get("output.weight") or others.get("token_embd.weight", 0),
    }
    if why := _strange(values, architecture, layers, width):
        return Shape(**common, unknown=why)
    keys = _per_layer(values, "attention.key_length", layers, width // heads if heads else 0)
    texts = _per_layer(values, "attention.value_length", layers, width // heads if heads else 0)
    kv_heads = _per_layer(values, "attention.head_count_kv", layers, heads)
    if not (keys and texts and kv_heads):
        return Shape(**common, unknown="its header does not say how many heads it has")
    latent = "attention.key_length_mla" in values and "attention.value_length_mla" in values
    shared = _count(values, "attention.shared_kv_layers")  # the last ones have none of their own
    keeps = tuple(
        0 if layer >= layers - shared else kv_heads[layer] * (keys[layer] + (0 if latent else texts[layer]))
        for layer in range(layers)
    )
    windows = _gguf_windows(values, architecture, layers)
    return Shape(**common, keeps=keeps, windows=windows, kv_heads=min(kv_heads), latent=latent)


def _strange(values: Mapping[str, object], architecture: str, layers: int, width: int) -> str:
    """Why its cache cannot be reckoned from its header; empty: it can."""
    if any(key.startswith(STATE) for key in values):
        return "some of its layers keep a state instead of a cache"
    if any(key.startswith(INDEXED) for key in values):
        return "it keeps an index beside its cache"
    if not 0 < layers < 4096 or not width or not _count(values, "attention.head_count"):
        return f"the header of a {architecture or 'nameless'} model does not say how its layers are made"
    return ""


def _count(values: Mapping[str, object], key: str) -> int:
    """A number; of an array, which holds one for each layer, the largest. 0: it does not say."""
    value = values.get(key)
    if isinstance(value, tuple):
        value = max((one for one in value if isinstance(one, int)), default=0)
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 40 else 0


def _per_layer(values: Mapping[str, object], key: str, layers: int, default: int) -> tuple[int, ...]:
    value = values.get(key)
    if isinstance(value, tuple):
        fits = len(value) >= layers and all(isinstance(one, int) and 0 <= one < 1 << 20 for one in value)
        return tuple(value[:layers]) if fits else ()
    number = _count(values, key) or default
    return (number,) * layers if number else ()


def _gguf_windows(values: Mapping[str, object], architecture: str, layers: int) -> tuple[int, ...]:
    window = _count(values, "attention.sliding_window")
    pattern = values.get("attention.sliding_window_pattern")
    if isinstance(pattern, tuple) and len(pattern) >= layers and all(isinstance(one, bool) for one in pattern):
        return tuple(window if has else WHOLE for has in pattern[:layers])
    every = (_count(values, "attention.sliding_window_pattern") or WINDOW_EVERY.get(architecture, 0)) if window else 0
    if architecture not in WINDOW_EVERY or not every:
        return (WHOLE,) * layers
    return tuple(window if layer % every < every - 1 else WHOLE for layer in range(layers))


# --- config.json -----------------------------------------------------------------------------------------------------

FULL, SLIDING = "full_attention", "sliding_attention"
CONFIG_WINDOW_EVERY: Mapping[str, int] = {
    "gemma2": 2, "gemma3": 6, "gemma3_text": 6, "gpt_oss": 2, "cohere2": 4,
}  # fmt: skip
"""model_type → as WINDOW_EVERY, where the file lists no layer types."""
WINDOW_IN_ALL = frozenset({"mistral", "mixtral", "phi3", "starcoder2"})
"""Those whose every layer has the window that the file names."""
KNOWN_CACHES = frozenset(
    {
        "llama", "mistral", "mixtral", "qwen2", "qwen2_moe", "qwen3", "qwen3_moe", "gemma", "gemma2", "gemma3",
        "gemma3_text", "phi3", "gpt_oss", "deepseek_v2", "deepseek_v3", "kimi_k2", "cohere", "cohere2", "olmo2",
        "olmoe", "starcoder2", "granite", "granitemoe", "stablelm", "glm", "glm4", "glm4_moe", "qwen2_vl",
        "qwen2_5_vl", "mistral3", "smollm3", "exaone", "seed_oss", "ernie4_5", "ernie4_5_moe",
    }
)  # fmt: skip
"""model_types whose every layer is attention, with the numbers in the usual places. About any other nothing is
claimed: a hybrid's layers look like these from afar."""
LATENT = frozenset({"deepseek_v2", "deepseek_v3", "kimi_k2"})


def of_config(config: Mapping[str, Any]) -> Shape:
    """As the file of that name beside safetensors has it. Never raises, whatever stands in it."""
    nested = config.get("text_config")
    text: Mapping[str, Any] = nested if isinstance(nested, Mapping) else config
    kind = str(text.get("model_type") or config.get("model_type") or "")
    heads, layers = _int(text, "num_attention_heads"), _int(text, "num_hidden_layers")
    width = _int(text, "hidden_size")
    kv_heads = _int(text, "num_key_value_heads") or heads
    quantized = config.get("quantization_config") or text.get("quantization_config")
    common: dict[str, Any] = {
        "architecture": kind,
        "heads": heads,
        "kv_heads": kv_heads,
        "width": width,
        "hidden": _int(text, "intermediate_size"),
        "vocabulary": _int(text, "vocab_size") or _int(config, "vocab_size"),
        "context": _context(text, kind),
        "dtype": str(
            text.get("dtype") or text.get("torch_dtype") or config.get("torch_dtype") or config.get("dtype") or ""
        ),
        "quantization": str(quantized.get("quant_method") or "") if isinstance(quantized, Mapping) else "",
        "sinks": kind == "gpt_oss",
    }
    if kind not in KNOWN_CACHES:
        return Shape(**common, unknown=f"how a {kind or 'nameless'} model keeps its context is not known here")
    if "index_topk" in text or config.get("is_encoder_decoder"):
        return Shape(**common, unknown="it keeps more than one cache")
    if not (0 < layers < 4096 and heads and width):
        return Shape(**common, unknown="its config.json leaves its layers to the engine's own defaults")
    latent = kind in LATENT and _int(text, "kv_lora_rank") > 0
    if latent:
        keep = _int(text, "kv_lora_rank") + _int(text, "qk_rope_head_dim")
    else:
        keep = 2 * kv_heads * (_int(text, "head_dim") or width // heads)
    windows = _config_windows(text, kind, layers)
    return Shape(**common, keeps=(keep,) * layers, windows=windows, latent=latent)


def _int(values: Mapping[str, Any], key: str) -> int:
    value = values.get(key)
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 40 else 0


SCALED_ALREADY = frozenset({"su", "longrope", "llama3", "yarn", "deepseek_yarn", "default", "mrope"})
"""Kinds of RoPE whose max_position_embeddings is what the model can do: vLLM does not multiply it."""


def _context(text: Mapping[str, Any], kind: str) -> int | None:
    """As vLLM takes it when nobody says."""
    context = _int(text, "max_position_embeddings") or None
    scaling = text.get("rope_scaling") or text.get("rope_parameters")
    if context is None or not isinstance(scaling, Mapping):
        return context
    how = scaling.get("rope_type") or scaling.get("type") or "default"
    original = _int(text, "original_max_position_embeddings") or _int(scaling, "original_max_position_embeddings")
    if how == "longrope":
        return original or context
    factor = scaling.get("factor")
    if not isinstance(factor, int | float) or not 1 <= factor < 1e6 or kind.startswith("gemma3"):
        return context
    if how == "yarn" and original:
        return max(context, int(original * factor))  # as vLLM had it before 0.33
    return context if how in SCALED_ALREADY else int(context * factor)


def _config_windows(text: Mapping[str, Any], kind: str, layers: int) -> tuple[int, ...]:
    window = _int(text, "sliding_window")
    if not window or text.get("use_sliding_window") is False:
        return (WHOLE,) * layers
    types = text.get("layer_types")
    if isinstance(types, list) and len(types) == layers:
        return tuple(window if one == SLIDING else WHOLE for one in types)
    every = _int(text, "sliding_window_pattern") or CONFIG_WINDOW_EVERY.get(kind, 0)
    if every:
        return tuple(window if (layer + 1) % every else WHOLE for layer in range(layers))
    return (window if kind in WINDOW_IN_ALL else WHOLE,) * layers
