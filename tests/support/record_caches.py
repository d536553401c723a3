"""Records what real engines say of their caches for models of several shapes: tests/providers/local/caches*.json.

    python -m tests.support.record_caches PATH             # of llama-server; scripts/build_llama_server.sh prints it
    python -m tests.support.record_caches vllm FOLDER      # a minute; scripts/build_vllm.sh prints it

The models have random weights, a few layers, and the shapes that matter: grouped heads, one window for some layers
(Gemma 3, gpt-oss) or for all, keys and values compressed (DeepSeek). Each entry holds what the GGUF's header or the
config.json says, how the engine was called, and the lines that it printed, as they came.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import gguf
import numpy as np

from gateway.providers.local.models.gguf_header import read_header
from scripts.make_demo_model import vocabulary
from tests.support.vllm import ENVIRONMENT

FIGURES = Path(__file__).parent.parent / "providers" / "local" / "caches.json"
LINE = re.compile(r"llama_kv_cache: (size = .*)")
WORDS = ("--no-warmup", "--verbosity", "4", "--no-webui")


@dataclass
class Made:
    """A model to be written: its architecture, settings without the architecture's name, and tensors' shapes."""

    name: str
    architecture: str
    settings: dict[str, int | float]
    tensors: dict[str, tuple[int, ...]]
    layer: dict[str, tuple[int, ...]]
    """Of each layer, behind `blk.N.`."""
    calls: tuple[tuple[str, ...], ...] = field(
        default=((), ("-c", "5000"), ("-c", "8192", "--parallel", "3"), ("-c", "12288", "--parallel", "1"))
    )


WIDTH, HEADS, FEED = 64, 4, 128
TOKENS = len(vocabulary()[0])
OUTER = {"token_embd.weight": (TOKENS, WIDTH), "output.weight": (TOKENS, WIDTH), "output_norm.weight": (WIDTH,)}
FEED_FORWARD = {
    "ffn_norm.weight": (WIDTH,),
    "ffn_gate.weight": (FEED, WIDTH),
    "ffn_up.weight": (FEED, WIDTH),
    "ffn_down.weight": (WIDTH, FEED),
}


def common(layers: int, context: int) -> dict[str, int | float]:
    return {
        "context_length": context,
        "embedding_length": WIDTH,
        "block_count": layers,
        "feed_forward_length": FEED,
        "attention.head_count": HEADS,
        "attention.layer_norm_rms_epsilon": 1e-5,
        "rope.dimension_count": 16,
    }


def attention(kv_heads: int, key: int, value: int) -> dict[str, tuple[int, ...]]:
    return {
        "attn_norm.weight": (WIDTH,),
        "attn_q.weight": (HEADS * key, WIDTH),
        "attn_k.weight": (kv_heads * key, WIDTH),
        "attn_v.weight": (kv_heads * value, WIDTH),
        "attn_output.weight": (WIDTH, HEADS * value),
    }


def models() -> Iterator[Made]:
    for layers, kv_heads, context in ((2, 4, 16384), (5, 1, 5000), (7, 2, 32768)):
        yield Made(
            f"llama, {layers} layers, {kv_heads} of {HEADS} heads",
            "llama",
            {**common(layers, context), "attention.head_count_kv": kv_heads},
            OUTER,
            {**attention(kv_heads, 16, 16), **FEED_FORWARD},
        )
    yield Made(
        "qwen3, heads of another size",
        "qwen3",
        {
            **common(3, 8192),
            "attention.head_count_kv": 2,
            "attention.key_length": 32,
            "attention.value_length": 32,
            "rope.dimension_count": 32,
        },
        OUTER,
        {
            **attention(2, 32, 32),
            "attn_q_norm.weight": (32,),
            "attn_k_norm.weight": (32,),
            **FEED_FORWARD,
        },
    )
    yield Made(
        "gemma3, a window in five of six layers",
        "gemma3",
        {
            **common(13, 16384),
            "attention.head_count_kv": 2,
            "attention.key_length": 32,
            "attention.value_length": 32,
            "attention.sliding_window": 1024,
            "rope.dimension_count": 32,
        },
        OUTER,
        {
            **attention(2, 32, 32),
            "attn_q_norm.weight": (32,),
            "attn_k_norm.weight": (32,),
            "post_attention_norm.weight": (WIDTH,),
            "post_ffw_norm.weight": (WIDTH,),
            **FEED_FORWARD,
        },
    )
    experts = 4
    yield Made(
        "gpt-oss, a window in every other layer",
        "gpt-oss",
        {
            **common(6, 16384),
            "attention.head_count_kv": 2,
            "attention.key_length": 16,
            "attention.value_length": 16,
            "attention.sliding_window": 128,
            "expert_count": experts,
            "expert_used_count": 2,
            "expert_feed_forward_length": FEED,
        },
        OUTER,
        {
            **attention(2, 16, 16),
            "attn_q.bias": (HEADS * 16,),
            "attn_k.bias": (2 * 16,),
            "attn_v.bias": (2 * 16,),
            "attn_output.bias": (WIDTH,),
            "attn_sinks.weight": (HEADS,),
            "post_attention_norm.weight": (WIDTH,),
            "ffn_gate_inp.weight": (experts, WIDTH),
            "ffn_gate_inp.bias": (experts,),
            "ffn_gate_exps.weight": (experts, FEED, WIDTH),
            "ffn_up_exps.weight": (experts, FEED, WIDTH),
            "ffn_down_exps.weight": (experts, WIDTH, FEED),
            "ffn_gate_exps.bias": (experts, FEED),
            "ffn_up_exps.bias": (experts, FEED),
            "ffn_down_exps.bias": (experts, WIDTH),
        },
    )
    latent, rope, key, value = 32, 16, 48, 32
    yield Made(
        "deepseek2, keys and values compressed",
        "deepseek2",
        {
            **common(4, 8192),
            "attention.head_count_kv": 1,
            "attention.key_length": latent + rope,
            "attention.value_length": latent,
            "attention.key_length_mla": key,
            "attention.value_length_mla": value,
            "attention.q_lora_rank": 32,
            "attention.kv_lora_rank": latent,
            "rope.dimension_count": rope,
            "leading_dense_block_count": 4,
            "expert_count": 0,
            "expert_feed_forward_length": FEED,
            "expert_shared_count": 0,
            "vocab_size": TOKENS,
        },
        OUTER,
        {
            "attn_norm.weight": (WIDTH,),
            "attn_q_a.weight": (32, WIDTH),
            "attn_q_a_norm.weight": (32,),
            "attn_q_b.weight": (HEADS * key, 32),
            "attn_kv_a_mqa.weight": (latent + rope, WIDTH),
            "attn_kv_a_norm.weight": (latent,),
            "attn_k_b.weight": (HEADS, latent, key - rope),
            "attn_v_b.weight": (HEADS, value, latent),
            "attn_output.weight": (WIDTH, HEADS * value),
            **FEED_FORWARD,
        },
    )


def write(made: Made, path: Path) -> None:
    tokens, kinds = vocabulary()
    writer = gguf.GGUFWriter(path, made.architecture)
    for name, setting in made.settings.items():
        add = writer.add_float32 if isinstance(setting, float) else writer.add_uint32
        add(f"{made.architecture}.{name}", setting)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([0.0] * len(tokens))
    writer.add_token_types(kinds)
    draw = np.random.default_rng(1)
    shapes = made.tensors | {
        f"blk.{layer}.{name}": shape
        for layer in range(int(made.settings["block_count"]))
        for name, shape in made.layer.items()
    }
    for name, shape in shapes.items():
        writer.add_tensor(name, draw.standard_normal(shape, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def said(server: str, model: Path, words: tuple[str, ...]) -> list[str]:
    """What it prints of its cache, until it listens or ends. The process is gone when this returns."""
    address = model.with_suffix(".sock")
    address.unlink(missing_ok=True)  # it leaves its own behind, and stumbles over it
    command = [server, "--model", str(model), "--host", str(address), *WORDS, *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        found, tail = [], []
        try:
            for line in process.stdout or ():
                tail = [*tail[-20:], line]
                if match := LINE.search(line):
                    found.append(match[1].strip())
                if "listening on" in line:
                    break
        finally:
            process.kill()
    if not found:
        raise SystemExit(f"{model.stem} {words} printed no figures:\n{''.join(tail)}")
    return found


# --- vLLM ------------------------------------------------------------------------------------------------------------

VLLM_FIGURES = FIGURES.with_name("caches_vllm.json")
VLLM_LINE = re.compile(r"(CPU KV cache size: .*)")
VLLM_COMMON = {
    "vocab_size": 262,
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "max_position_embeddings": 4096,
    "torch_dtype": "bfloat16",
    "bos_token_id": 1,
    "eos_token_id": 3,
    "pad_token_id": 0,
    "rms_norm_eps": 1e-6,
}
VLLM_CONFIGS = {
    "gemma3": {
        **VLLM_COMMON,
        "architectures": ["Gemma3ForCausalLM"],
        "model_type": "gemma3_text",
        "num_hidden_layers": 13,
        "sliding_window": 512,
        "sliding_window_pattern": 6,
        "query_pre_attn_scalar": 64,
        "rope_theta": 1e6,
        "rope_local_base_freq": 1e4,
    },
    "mistral": {
        **VLLM_COMMON,
        "architectures": ["MistralForCausalLM"],
        "model_type": "mistral",
        "num_hidden_layers": 3,
        "sliding_window": 1024,
    },
}


def record_vllm(home: Path) -> None:
    """Weights are made up by vLLM itself (`--load-format dummy`); words are those of the tiny Llama beside it."""
    entries = []
    with tempfile.TemporaryDirectory() as folder:
        for name, config in VLLM_CONFIGS.items():
            model = Path(folder) / name
            shutil.copytree(home / "model", model, ignore=shutil.ignore_patterns("*.safetensors", "config.json"))
            (model / "config.json").write_text(json.dumps(config))
            line = said_by_vllm(home / "bin" / "vllm", model)
            entries.append({"model": name, "config": config, "said": line})
            print(name, line, sep="\n    ")
    VLLM_FIGURES.write_text(json.dumps(entries, indent=1) + "\n")


def said_by_vllm(program: Path, model: Path) -> str:
    """The line about its cache. Its processes are gone when this returns."""
    address = model.with_suffix(".sock")
    words = ("--load-format", "dummy", "--enforce-eager", "--uds", str(address))
    environ = {**os.environ, **ENVIRONMENT}
    with subprocess.Popen(
        [program, "serve", model, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environ,
        start_new_session=True,
    ) as process:
        try:
            for line in process.stdout or ():
                if match := VLLM_LINE.search(line):
                    return match[1].strip()
        finally:
            os.killpg(process.pid, signal.SIGKILL)
    raise SystemExit(f"{model.name} printed no figures")


def main() -> None:
    if sys.argv[1] == "vllm":
        record_vllm(Path(sys.argv[2]))
        return
    entries = []
    with tempfile.TemporaryDirectory() as folder:
        for number, made in enumerate(models()):
            path = Path(folder) / f"{number}.gguf"
            write(made, path)
            with path.open("rb") as file:
                values = read_header(file, path.stat().st_size).values
            for words in made.calls:
                lines = said(sys.argv[1], path, words)
                entries.append(
                    {
                        "model": made.name,
                        "architecture": made.architecture,
                        "values": dict(values),
                        "called": list(words),
                        "said": lines,
                    }
                )
                print(made.name, words, *lines, sep="\n    ")
    FIGURES.write_text(json.dumps(entries, indent=1) + "\n")


if __name__ == "__main__":
    main()
