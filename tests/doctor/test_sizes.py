"""Sizes by names: rough, and never made up."""

import pytest

from gateway.doctor.sizes import guessed_size, kv_size


@pytest.mark.parametrize(
    ("name", "gigabytes"),
    [
        ("Qwen/Qwen3-0.6B-GGUF:Q8_0", 0.6),
        ("bartowski/Llama-3.3-70B-Instruct-GGUF:Q4_K_M", 42),
        ("meta-llama/Llama-3.1-8B-Instruct", 16),
        ("mistralai/Mixtral-8x7B-v0.1", 94),
        ("Qwen/Qwen2.5-32B-Instruct-AWQ", 19),
        ("openai/gpt-oss-120b", 72),
        ("neuralmagic/Llama-3.1-405B-Instruct-FP8", 430),
        ("HuggingFaceTB/SmolLM2-135M-Instruct", 0.27),
    ],
)
def test_within_a_fifth_of_what_they_have(name: str, gigabytes: float) -> None:
    guess = guessed_size(name)
    assert guess is not None
    assert 0.8 * gigabytes < guess / 1e9 < 1.2 * gigabytes


@pytest.mark.parametrize("name", ["", "org/name", "org/model-v2", "phi-4", "gemma-3n-E4B", "my.gguf", "4bit"])
def test_a_name_that_tells_nothing_gives_nothing(name: str) -> None:
    assert guessed_size(name) is None


def test_the_cache_grows_with_tokens_and_less_than_the_model() -> None:
    assert kv_size(8192, 8 * 10**9) == 1024**3
    assert kv_size(8192, 32 * 10**9) == 2 * 1024**3
