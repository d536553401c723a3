"""Which files are a model's weights, in the layouts that models come in."""

from pathlib import Path

import pytest

from gateway.providers.local.models.weights import size_of, weights_of


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    def make(*names: str) -> None:
        for size, name in enumerate(names, 1):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_bytes(bytes(size))

    make("m-00001-of-00002.gguf", "m-00002-of-00002.gguf", "other.gguf")
    make("hf/model-1.safetensors", "hf/model-2.safetensors", "hf/pytorch_model.bin", "hf/config.json")
    make("hf/original/c.safetensors", "old/a.bin", "mistral/consolidated.safetensors", "mistral/model.safetensors")
    make("own/consolidated-1.safetensors", "own/consolidated-2.safetensors")
    return tmp_path


@pytest.mark.parametrize(
    ("model", "files", "size"),
    [
        ("m-00001-of-00002.gguf", ["m-00001-of-00002.gguf", "m-00002-of-00002.gguf"], 3),
        ("other.gguf", ["other.gguf"], 3),
        ("hf", ["model-1.safetensors", "model-2.safetensors"], 3),
        ("old", ["a.bin"], 2),
        ("mistral", ["model.safetensors"], 4),
        ("own", ["consolidated-1.safetensors", "consolidated-2.safetensors"], 3),
        ("gone", [], 0),
        ("gone.gguf", [], 0),
    ],
)
def test_the_weights_are_all_parts_of_one_kind_and_none_of_them_twice(
    folder: Path, model: str, files: list[str], size: int
) -> None:
    assert [path.name for path in weights_of(folder / model)] == files
    assert size_of(folder / model) == size
