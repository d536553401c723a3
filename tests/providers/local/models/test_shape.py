"""What a model keeps for each token, read from what it says of itself; and silence where it does not say enough."""

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.providers.local.models.gguf_header import Header, read_header
from gateway.providers.local.models.shape import WHOLE, Shape, of_config, of_gguf
from tests.support.known_models import CONFIGS, LLAMA_3_1, known
from tests.support.model_bytes import gguf_bytes


def header(architecture="llama", layers=4, **changes):
    values = {
        "block_count": layers,
        "embedding_length": 64,
        "feed_forward_length": 128,
        "attention.head_count": 4,
        "attention.head_count_kv": 2,
    }
    values |= {name.replace("__", "."): value for name, value in changes.items()}
    return Header(3, 1, 1, architecture, context_length=4096, values=values, vocabulary=600)


# --- config.json -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "bytes_per_token", "context"),
    [
        # The figures that people know: 128 KiB for Llama 3.1 8B, 320 KiB for 70B, 12 KiB for Qwen2.5 0.5B.
        ("Llama-3.1-8B", 131072, 131072),
        ("Llama-3.1-70B", 327680, 131072),
        ("Qwen2.5-0.5B", 12288, 32768),
        ("Qwen2.5-7B", 57344, 32768),
        ("Qwen2.5-72B", 327680, 32768),
        ("mistralai/Mixtral-8x7B-Instruct-v0.1", 131072, 32768),
        ("gpt-oss-20b", 49152, 131072),
        ("gpt-oss-120b", 73728, 131072),
        ("deepseek-ai/DeepSeek-V2-Lite-Chat", 31104, 163840),
        ("DeepSeek-V3", 70272, 163840),
        ("gemma-3-27b-it", 507904, None),
        ("microsoft/Phi-3-mini-128k-instruct", 393216, 4096),
    ],
)
def test_what_well_known_models_keep(name, bytes_per_token, context):
    shape = known(name).shape
    assert shape.is_known, shape
    assert (2 * sum(shape.keeps), shape.context) == (bytes_per_token, context)


def test_layers_with_a_window_are_told_from_those_without():
    assert known("gpt-oss-20b").shape.windows == (128, WHOLE) * 12
    gemma = known("gemma-3-27b-it").shape.windows
    assert gemma[:6] == (1024,) * 5 + (WHOLE,) and (gemma.count(1024), gemma.count(WHOLE)) == (52, 10)
    assert set(known("Qwen2.5-7B").shape.windows) == {WHOLE}
    assert set(of_config({**CONFIGS["Qwen/Qwen2.5-7B-Instruct"][1], "model_type": "mistral"}).windows) == {WHOLE}


def test_a_window_of_every_layer_is_seen():
    mistral = {**CONFIGS["mistralai/Mixtral-8x7B-Instruct-v0.1"][1], "sliding_window": 4096}
    assert set(of_config(mistral).windows) == {4096}


def test_what_else_a_plan_goes_by():
    shape = known("gpt-oss-20b").shape
    assert (shape.quantization, shape.dtype, shape.sinks) == ("mxfp4", "bfloat16", True)
    assert (shape.heads, shape.kv_heads, shape.width, shape.vocabulary) == (64, 8, 2880, 201088)
    assert known("DeepSeek-V3").shape.latent and not known("Llama-3.1-8B").shape.latent
    nested = {"model_type": "gemma3", "text_config": {"model_type": "gemma3_text", "dtype": "float16"}}
    assert of_config(nested).dtype == "float16"


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("Qwen3-Next-80B-A3B", "how a qwen3_next model keeps its context is not known here"),
        ("gemma-3-4b-it", "its config.json leaves its layers to the engine's own defaults"),
    ],
)
def test_a_model_that_does_not_say_enough_is_unknown(name, why):
    shape = known(name).shape
    assert not shape.is_known and shape.unknown == why
    assert shape.dtype == "bfloat16"  # what is known of it stays known


def test_an_index_beside_the_cache_makes_it_unknown():
    config = {**CONFIGS["deepseek-ai/DeepSeek-V3"][1], "index_topk": 2048}
    assert of_config(config).unknown == "it keeps more than one cache"


@pytest.mark.parametrize(
    ("scaling", "context"),
    [
        (None, 131072),
        ({"rope_type": "llama3", "factor": 8.0}, 131072),
        ({"rope_type": "linear", "factor": 2.0}, 262144),
        ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 131072}, 524288),
        ({"rope_type": "yarn", "factor": 4.0}, 131072),
        ({"type": "longrope", "original_max_position_embeddings": 4096}, 4096),
        ({"type": "dynamic", "factor": None}, 131072),
        ("nonsense", 131072),
    ],
)
def test_a_stretched_context_is_what_vllm_takes(scaling, context):
    assert of_config({**LLAMA_3_1, "rope_scaling": scaling}).context == context


@given(
    st.dictionaries(
        st.sampled_from([*CONFIGS["deepseek-ai/DeepSeek-V3"][1], "layer_types", "sliding_window", "text_config"]),
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | st.lists(st.integers()),
    ),
    st.sampled_from([config for _, config in CONFIGS.values()]),
)
def test_no_config_is_an_error(changes, config):
    shape = of_config({**config, **changes})
    assert not shape.is_known or len(shape.windows) == shape.layers > 0


# --- GGUF ------------------------------------------------------------------------------------------------------------


def test_a_gguf_says_it_in_its_header():
    shape = of_gguf([header()])
    assert (shape.keeps, shape.windows) == ((64,) * 4, (WHOLE,) * 4)
    assert (shape.heads, shape.kv_heads, shape.width, shape.hidden, shape.vocabulary) == (4, 2, 64, 128, 600)
    assert shape.context == 4096


def test_heads_may_have_a_size_of_their_own_and_differ_by_layer():
    shape = of_gguf([header(attention__key_length=32, attention__value_length=16)])
    assert shape.keeps == (96,) * 4
    shape = of_gguf([header(attention__head_count_kv=(1, 2, 3, 4))])
    assert shape.keeps == (32, 64, 96, 128) and shape.kv_heads == 1


def test_compressed_keys_and_values_are_kept_once():
    shape = of_gguf(
        [
            header(
                "deepseek2",
                attention__head_count_kv=1,
                attention__key_length=576,
                attention__value_length=512,
                attention__key_length_mla=192,
                attention__value_length_mla=128,
            )
        ]
    )
    assert shape.keeps == (576,) * 4 and shape.latent


def test_layers_that_share_another_ones_cache_keep_nothing():
    assert of_gguf([header("gemma3n", attention__shared_kv_layers=2)]).keeps == (64, 64, 0, 0)


@pytest.mark.parametrize(
    ("architecture", "pattern", "windows"),
    [
        ("gpt-oss", None, (128, WHOLE, 128, WHOLE)),
        ("gemma3", None, (128, 128, 128, 128)),
        ("gemma3", 2, (128, WHOLE, 128, WHOLE)),
        ("gemma3", (True, False, False, True), (128, WHOLE, WHOLE, 128)),
        # llama.cpp reads no window for this one; and of another, nobody here knows in which layers.
        ("llama", None, (WHOLE,) * 4),
        ("afmoe", None, (WHOLE,) * 4),
    ],
)
def test_windows_are_where_llama_cpp_has_them(architecture, pattern, windows):
    values = {"attention__sliding_window": 128}
    if pattern is not None:
        values["attention__sliding_window_pattern"] = pattern
    assert of_gguf([header(architecture, **values)]).windows == windows


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"ssm__state_size": 128}, "some of its layers keep a state instead of a cache"),
        ({"full_attention_interval": 4}, "some of its layers keep a state instead of a cache"),
        ({"attention__indexer__top_k": 4}, "it keeps an index beside its cache"),
        ({"attention__head_count": 0}, "the header of a llama model does not say how its layers are made"),
        ({"block_count": 1 << 30}, "the header of a llama model does not say how its layers are made"),
        ({"attention__head_count_kv": (1, 2)}, "its header does not say how many heads it has"),
    ],
)
def test_a_header_that_does_not_say_enough_makes_it_unknown(changes, why):
    shape = of_gguf([header(**changes)])
    assert shape.unknown == why and not shape.is_known


def test_the_bytes_of_layers_are_those_of_all_files():
    first = header(layers=2)
    one = Header(3, 1, 1, "llama", values=first.values, blocks={0: 10, 1: 5}, others={"token_embd.weight": 7})
    two = Header(3, 1, 1, blocks={1: 6}, others={"output.weight": 9})
    shape = of_gguf([one, two])
    assert (shape.layer_bytes, shape.output_bytes) == ((10, 11), 9)
    assert of_gguf([one]).output_bytes == 7  # a table that both ends share is there twice


def test_a_real_header_that_says_little_is_no_error():
    content = gguf_bytes()
    shape = of_gguf([read_header(io.BytesIO(content), len(content))])
    assert not shape.is_known and shape.context == 128


def test_a_shape_can_be_read_at_night():
    assert repr(Shape("llama", (64,), (0,))) == "<Shape llama: 1 layers, 64 numbers per token, windows {0}>"
