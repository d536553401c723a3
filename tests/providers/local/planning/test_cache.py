"""What a cache takes, against the figures that the engines print themselves."""

import json
import re
from pathlib import Path

import pytest

from gateway.providers.local.models.gguf_header import Header
from gateway.providers.local.models.shape import WHOLE, Shape, of_config, of_gguf
from gateway.providers.local.planning.cache import BLOCK, CELLS, Paged, llama_bytes, llama_layers, llama_longest, paged
from tests.support.known_models import known

MIB = 1024**2
GIB = 1024**3
HERE = Path(__file__).parents[1]
RECORDED = json.loads((HERE / "caches.json").read_text())
"""Of a real llama-server: tests/support/record_caches.py."""
RECORDED_VLLM = json.loads((HERE / "caches_vllm.json").read_text())
LOGS = HERE / "logs"


# --- llama.cpp -------------------------------------------------------------------------------------------------------


def shape_of(entry):
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in entry["values"].items()}
    return of_gguf([Header(3, 1, 1, entry["architecture"], context_length=values["context_length"], values=values)])


@pytest.mark.parametrize("entry", RECORDED, ids=lambda entry: f"{entry['model']} {' '.join(entry['called'])}")
def test_llama_cpp_prints_the_same(entry):
    called = dict(zip(entry["called"][::2], entry["called"][1::2], strict=True))
    slots, unified = (int(called["--parallel"]), False) if "--parallel" in called else (4, True)
    shape = shape_of(entry)
    layers = llama_layers(shape, int(called.get("-c", shape.context)), slots=slots, unified=unified)
    of_windows = {True: [], False: []}
    for size, window in zip(layers, shape.windows, strict=True):
        of_windows[window != WHOLE].append(size)
    # Where some layers have a window: one line for those that look at all, then one for them.
    mine = [sizes for sizes in of_windows.values() if sizes]
    found = [re.match(r"size = +([\d.]+) MiB \( *\d+ cells, +(\d+) layers", line).groups() for line in entry["said"]]
    assert sorted((f"{sum(sizes) / MIB:.2f}", str(len(sizes))) for sizes in mine) == sorted(found)


def test_the_recordings_have_every_shape_that_is_reckoned_with():
    assert {entry["architecture"] for entry in RECORDED} == {"llama", "qwen3", "gemma3", "gpt-oss", "deepseek2"}
    assert len(RECORDED) >= 20


def test_the_longest_context_is_the_last_that_fits():
    shape = known("Llama-3.1-8B").shape
    longest = llama_longest(shape, 131072, 2 * GIB)
    assert longest == 16384 and llama_bytes(shape, longest) == 2 * GIB
    assert llama_longest(shape, 131072, 2 * GIB - 1) == 16384 - CELLS
    assert llama_longest(shape, 8000, 2 * GIB) == 8192  # padded, as it is there
    assert llama_longest(shape, 131072, 100) == 0


# --- vLLM ------------------------------------------------------------------------------------------------------------


def test_vllm_prints_the_same():
    """A real start on a CPU, with 1 GiB for the cache (tests/support/make_tiny_llama.py has the model)."""
    said = re.search(
        r"KV cache size: ([\d,]+) tokens, Maximum concurrency for ([\d,]+) tokens per request: ([\d.]+)x",
        (LOGS / "vllm-good-eager.txt").read_text(),
    )
    size, length, at_once = (float(part.replace(",", "")) for part in said.groups())
    tiny = {
        "model_type": "llama",
        "hidden_size": 256,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 4096,
    }
    pages = paged(of_config(tiny))
    assert pages.capacity(GIB, int(length)) == size
    assert f"{pages.at_once(GIB, int(length)):.2f}" == f"{at_once:.2f}"


@pytest.mark.parametrize("entry", RECORDED_VLLM, ids=lambda entry: entry["model"])
def test_vllm_prints_the_same_where_layers_have_windows(entry):
    """Real starts on a CPU, with 1 GiB for the cache, blocks of 128 tokens and 2,048 tokens on their way."""
    pages = paged(of_config(entry["config"]), in_flight=2048, length=128)
    said = (
        f"CPU KV cache size: {pages.capacity(GIB, 4096):,} tokens, "
        f"Maximum concurrency for 4,096 tokens per request: {pages.at_once(GIB, 4096):.2f}x"
    )
    assert said == entry["said"]


def test_heads_are_divided_and_latent_caches_are_not():
    llama, deepseek = known("Llama-3.1-8B").shape, known("DeepSeek-V3").shape
    assert paged(llama).bytes(1024) == 1024 * 131072
    assert paged(llama, split=4).bytes(1024) == 1024 * 131072 // 4
    assert paged(llama, split=16).bytes(1024) == 1024 * 131072 // 8  # one head of keys on each at least
    assert paged(deepseek, split=8).bytes(1024) == paged(deepseek).bytes(1024) == 1024 * 70272
    assert paged(llama, number=1).bytes(1024) == 1024 * 131072 // 2


def test_layers_with_windows_take_no_more_than_their_window_and_what_is_on_its_way():
    pages = paged(known("gpt-oss-20b").shape, in_flight=2048)
    assert pages.groups == (128, WHOLE)
    of_window = -(-(127 + 2048) // BLOCK) + 1
    assert pages.blocks(131072) == 131072 // BLOCK + of_window
    assert pages.blocks(1024) == 2 * 1024 // BLOCK + 1


def test_groups_are_as_large_as_the_smaller_kind_unless_they_are_nearly_alike():
    gemma = paged(known("gemma-3-27b-it").shape)
    assert (gemma.groups.count(WHOLE), gemma.groups.count(1024)) == (1, 6)  # 10 layers each, the last padded
    assert gemma.block == 10 * BLOCK * 2 * 16 * 128 * 2
    windows = (WHOLE,) * 12 + (512,) * 13
    alike = paged(Shape("constructed", keeps=(64,) * 25, windows=windows, kv_heads=2))
    assert sorted(alike.groups) == [WHOLE, 512] and alike.block == 13 * BLOCK * 64 * 2


@pytest.mark.parametrize("room", [0, 15 * 131072, 16 * 131072, 100 * 131072, 10**12])
def test_the_longest_request_is_the_last_that_fits(room):
    pages = paged(known("Llama-3.1-8B").shape)
    longest = pages.longest(room, 131072)
    assert longest == min(131072, room // 131072 // BLOCK * BLOCK)
    assert pages.bytes(longest) <= room


def test_a_cache_can_be_read_at_night():
    assert repr(Paged(1024, (0,), 16)) == "Paged(block=1024, groups=(0,), in_flight=16, length=16)"
