"""What the config.json of well-known models says, as far as a plan goes by it, and how large their weights are.

Facts from the models' public pages on the Hub. Nothing is downloaded.
"""

from typing import Any

from gateway.providers.local.models.facts import ModelFacts
from gateway.providers.local.models.shape import of_config

LLAMA_3_1 = {
    "model_type": "llama",
    "torch_dtype": "bfloat16",
    "max_position_embeddings": 131072,
    "vocab_size": 128256,
    "num_key_value_heads": 8,
    "rope_scaling": {"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 8192},
}
QWEN_2_5 = {
    "model_type": "qwen2",
    "torch_dtype": "bfloat16",
    "max_position_embeddings": 32768,
    "sliding_window": 131072,
    "use_sliding_window": False,
}
GPT_OSS = {
    "model_type": "gpt_oss",
    "head_dim": 64,
    "hidden_size": 2880,
    "intermediate_size": 2880,
    "initial_context_length": 4096,
    "max_position_embeddings": 131072,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "quantization_config": {"quant_method": "mxfp4"},
    "rope_scaling": {"rope_type": "yarn", "factor": 32.0, "original_max_position_embeddings": 4096},
    "sliding_window": 128,
    "torch_dtype": "bfloat16",
    "vocab_size": 201088,
}


def gpt_oss(layers: int) -> dict[str, Any]:
    types = ["sliding_attention", "full_attention"] * (layers // 2)
    return {**GPT_OSS, "num_hidden_layers": layers, "layer_types": types}


CONFIGS: dict[str, tuple[int, dict[str, Any]]] = {
    "openai/gpt-oss-20b": (13_761_264_768, gpt_oss(24)),
    "openai/gpt-oss-120b": (65_248_815_744, gpt_oss(36)),
    "meta-llama/Llama-3.1-8B-Instruct": (
        16_060_556_376,
        {
            **LLAMA_3_1,
            "hidden_size": 4096,
            "intermediate_size": 14336,
            "num_attention_heads": 32,
            "num_hidden_layers": 32,
        },
    ),
    "meta-llama/Llama-3.1-70B-Instruct": (
        141_107_412_992,
        {
            **LLAMA_3_1,
            "hidden_size": 8192,
            "intermediate_size": 28672,
            "num_attention_heads": 64,
            "num_hidden_layers": 80,
        },
    ),
    "Qwen/Qwen2.5-0.5B-Instruct": (
        988_097_824,
        {
            **QWEN_2_5,
            "hidden_size": 896,
            "intermediate_size": 4864,
            "num_attention_heads": 14,
            "num_hidden_layers": 24,
            "num_key_value_heads": 2,
            "vocab_size": 151936,
        },
    ),
    "Qwen/Qwen2.5-7B-Instruct": (
        15_231_233_024,
        {
            **QWEN_2_5,
            "hidden_size": 3584,
            "intermediate_size": 18944,
            "num_attention_heads": 28,
            "num_hidden_layers": 28,
            "num_key_value_heads": 4,
            "vocab_size": 152064,
        },
    ),
    "Qwen/Qwen2.5-72B-Instruct": (
        145_412_407_296,
        {
            **QWEN_2_5,
            "hidden_size": 8192,
            "intermediate_size": 29568,
            "num_attention_heads": 64,
            "num_hidden_layers": 80,
            "num_key_value_heads": 8,
            "vocab_size": 152064,
        },
    ),
    "deepseek-ai/DeepSeek-V2-Lite-Chat": (
        31_412_968_448,
        {
            "model_type": "deepseek_v2",
            "torch_dtype": "bfloat16",
            "hidden_size": 2048,
            "intermediate_size": 10944,
            "kv_lora_rank": 512,
            "qk_rope_head_dim": 64,
            "max_position_embeddings": 163840,
            "num_attention_heads": 16,
            "num_hidden_layers": 27,
            "num_key_value_heads": 16,
            "rope_scaling": {"type": "yarn", "factor": 40, "original_max_position_embeddings": 4096},
            "vocab_size": 102400,
        },
    ),
    "deepseek-ai/DeepSeek-V3": (
        688_586_727_753,
        {
            "model_type": "deepseek_v3",
            "torch_dtype": "bfloat16",
            "hidden_size": 7168,
            "intermediate_size": 18432,
            "kv_lora_rank": 512,
            "qk_rope_head_dim": 64,
            "max_position_embeddings": 163840,
            "num_attention_heads": 128,
            "num_hidden_layers": 61,
            "num_key_value_heads": 128,
            "quantization_config": {"quant_method": "fp8"},
            "rope_scaling": {"type": "yarn", "factor": 40, "original_max_position_embeddings": 4096},
            "vocab_size": 129280,
        },
    ),
    "google/gemma-3-1b-it": (
        1_999_811_208,
        {
            "model_type": "gemma3_text",
            "torch_dtype": "bfloat16",
            "head_dim": 256,
            "hidden_size": 1152,
            "intermediate_size": 6912,
            "max_position_embeddings": 32768,
            "num_attention_heads": 4,
            "num_hidden_layers": 26,
            "num_key_value_heads": 1,
            "sliding_window": 512,
            "sliding_window_pattern": 6,
            "vocab_size": 262144,
        },
    ),
    "google/gemma-3-27b-it": (
        54_864_783_072,
        {
            "model_type": "gemma3",
            "torch_dtype": "bfloat16",
            "text_config": {
                "model_type": "gemma3_text",
                "head_dim": 128,
                "hidden_size": 5376,
                "intermediate_size": 21504,
                "num_attention_heads": 32,
                "num_hidden_layers": 62,
                "num_key_value_heads": 16,
                "rope_scaling": {"rope_type": "linear", "factor": 8.0},
                "sliding_window": 1024,
            },
        },
    ),
    "google/gemma-3-4b-it": (
        8_600_158_944,
        {
            "model_type": "gemma3",
            "torch_dtype": "bfloat16",
            "text_config": {
                "model_type": "gemma3_text",
                "hidden_size": 2560,
                "intermediate_size": 10240,
                "num_hidden_layers": 34,
                "rope_scaling": {"rope_type": "linear", "factor": 8.0},
                "sliding_window": 1024,
            },
        },
    ),
    "mistralai/Mixtral-8x7B-Instruct-v0.1": (
        93_405_585_920,
        {
            "model_type": "mixtral",
            "torch_dtype": "bfloat16",
            "hidden_size": 4096,
            "intermediate_size": 14336,
            "max_position_embeddings": 32768,
            "num_attention_heads": 32,
            "num_hidden_layers": 32,
            "num_key_value_heads": 8,
            "sliding_window": None,
            "vocab_size": 32000,
        },
    ),
    "microsoft/Phi-3-mini-128k-instruct": (
        7_642_181_880,
        {
            "model_type": "phi3",
            "torch_dtype": "bfloat16",
            "hidden_size": 3072,
            "intermediate_size": 8192,
            "max_position_embeddings": 131072,
            "original_max_position_embeddings": 4096,
            "num_attention_heads": 32,
            "num_hidden_layers": 32,
            "num_key_value_heads": 32,
            "rope_scaling": {"type": "longrope", "short_factor": [1.0], "long_factor": [1.0]},
            "sliding_window": 262144,
            "vocab_size": 32064,
        },
    ),
    "Qwen/Qwen3-Next-80B-A3B-Instruct": (
        162_703_684_608,
        {
            "model_type": "qwen3_next",
            "torch_dtype": "bfloat16",
            "full_attention_interval": 4,
            "head_dim": 256,
            "hidden_size": 2048,
            "intermediate_size": 5120,
            "linear_num_value_heads": 32,
            "max_position_embeddings": 262144,
            "num_attention_heads": 16,
            "num_hidden_layers": 48,
            "num_key_value_heads": 2,
            "vocab_size": 151936,
        },
    ),
}


def known(name: str) -> ModelFacts:
    """As it would be found on the disk. `name` is the last part, or all of it."""
    (found,) = [full for full in CONFIGS if full == name or full.split("/")[1].removesuffix("-Instruct") == name]
    size, config = CONFIGS[found]
    return ModelFacts(found, "safetensors", size, of_config(config))
