"""Tiny models as bytes: GGUFs written by the `gguf` package itself, safetensors by hand."""

import json
import tempfile
from pathlib import Path

import gguf
import numpy as np


def gguf_bytes(
    *,
    architecture: str = "llama",
    name: str | None = "Tiny",
    context: int | None = 128,
    rows: int = 4,
    chat_template: bool = False,
    pooling: int | None = None,
    split: tuple[int, int] | None = None,
    quantized: bool = False,
) -> bytes:
    """A whole GGUF with two tensors. `rows` makes it longer, `split` is (number from 0, count)."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.gguf"
        writer = gguf.GGUFWriter(path, architecture)
        if name is not None:
            writer.add_name(name)
        if context is not None:
            writer.add_context_length(context)
        if chat_template:
            writer.add_chat_template("{{ messages }}")
        if pooling is not None:
            writer.add_pooling_type(gguf.PoolingType(pooling))
        if split is not None:
            writer.add_uint16("split.no", split[0])
            writer.add_uint16("split.count", split[1])
        writer.add_token_list(["a", "b", "<eos>"])
        writer.add_token_scores([0.0, 1.0, 2.0])
        writer.add_tensor("token_embd.weight", np.arange(rows * 32, dtype=np.float32).reshape(rows, 32))
        second = np.ones((rows, 64), dtype=np.float32)
        if quantized:
            blocks = gguf.quants.quantize(second, gguf.GGMLQuantizationType.Q8_0)
            writer.add_tensor("output.weight", blocks, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
        else:
            writer.add_tensor("output.weight", second.astype(np.float16))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path.read_bytes()


def safetensors_bytes(size: int = 64) -> bytes:
    header = json.dumps({"weight": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
    return len(header).to_bytes(8, "little") + header + bytes(size)


def transformers_files(size: int = 2000) -> dict[str, bytes]:
    """A repository as vLLM reads them: two weight files with an index, and what stands beside them."""
    weights = {f"model-0000{n}-of-00002.safetensors": safetensors_bytes(size + n) for n in (1, 2)}
    index = {"weight_map": {f"weight{n}": name for n, name in enumerate(weights)}}
    config = {"architectures": ["LlamaForCausalLM"], "max_position_embeddings": 4096}
    return {
        **weights,
        "model.safetensors.index.json": json.dumps(index).encode(),
        "config.json": json.dumps(config).encode(),
        "tokenizer_config.json": json.dumps({"chat_template": "{{ messages }}"}).encode(),
        "tokenizer.json": b"{}",
        "README.md": b"# A model",
        "pytorch_model.bin": b"never wanted",
        "original/consolidated.00.pth": b"never wanted",
    }
