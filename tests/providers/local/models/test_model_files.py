"""What lies on the disk is checked before any engine is tried, and each trouble is one sentence with its remedy."""

import json
import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.providers.local.models.model_error import ModelError
from gateway.providers.local.models.model_files import human, inspect_path
from tests.support.model_bytes import gguf_bytes, safetensors_bytes, transformers_files

WHOLE = gguf_bytes(chat_template=True)


def put(folder, files):
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def trouble(path, wants="any", quant=None):
    with pytest.raises(ModelError) as caught:
        inspect_path(path, wants=wants, quant=quant)
    assert caught.value.sentence.endswith((".", "?", ")"))
    assert str(path.parent) not in caught.value.reason
    return caught.value


def test_a_whole_gguf_says_what_others_need(tmp_path):
    put(tmp_path, {"Tiny-Q8_0.gguf": WHOLE})
    model = inspect_path(tmp_path / "Tiny-Q8_0.gguf", wants="gguf")
    assert model.path == tmp_path / "Tiny-Q8_0.gguf"
    assert (model.format, model.size, model.name) == ("gguf", len(WHOLE), "Tiny-Q8_0")
    assert (model.context_length, model.architecture) == (128, "llama")
    assert (model.chat_template, model.embedding) == (True, False)


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ({"pooling": 1}, True),
        ({"pooling": 1, "chat_template": True}, False),
        ({"architecture": "bert"}, True),
        ({"pooling": 0}, False),
    ],
)
def test_an_embedding_model_is_known_by_its_header(tmp_path, facts, expected):
    put(tmp_path, {"e.gguf": gguf_bytes(**facts)})
    assert inspect_path(tmp_path / "e.gguf", wants="gguf").embedding is expected


def test_a_missing_path_names_what_is_called_nearly_so(tmp_path):
    put(tmp_path, {"Qwen3-8B-Q4_K_M.gguf": b"", "notes.txt": b""})
    error = trouble(tmp_path / "qwen3-8b-q4_k_m.gguf")
    assert error.kind == "missing" and error.lasting
    assert "Did you mean Qwen3-8B-Q4_K_M.gguf?" in error.sentence
    assert "holds: Qwen3-8B-Q4_K_M.gguf" in trouble(tmp_path / "zzz").sentence
    assert f"{tmp_path} has no no" in trouble(tmp_path / "no" / "such" / "x.gguf").sentence


def test_a_link_into_nowhere_says_where_it_points(tmp_path):
    (tmp_path / "m.gguf").symlink_to("/nowhere/m.gguf")
    assert "link to /nowhere/m.gguf" in trouble(tmp_path / "m.gguf").sentence


def test_a_truncated_gguf_says_how_much_of_it_is_there(tmp_path):
    put(tmp_path, {"m.gguf": WHOLE[:-200]})
    error = trouble(tmp_path / "m.gguf")
    assert error.kind == "broken"
    assert f"has {len(WHOLE) - 200:,} of " in error.sentence
    assert "damaged or incomplete" in error.reason


@pytest.mark.parametrize(
    ("content", "word", "kind"),
    [
        (b"", "empty", "broken"),
        (WHOLE[:40], "inside its header", "broken"),
        (b"\x80\x02}q\x00" * 9, "is not a GGUF", "format"),
        (WHOLE[:4] + b"\0\0\0\3" + WHOLE[8:], "big-endian", "format"),
        (WHOLE[:8] + b"\xff" * 16 + WHOLE[24:], "damaged", "broken"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 5\n", "git-LFS pointer", "broken"),
    ],
)
def test_a_file_that_is_no_model_is_told_why(tmp_path, content, word, kind):
    put(tmp_path, {"m.gguf": content})
    error = trouble(tmp_path / "m.gguf")
    assert word in error.sentence
    assert error.kind == kind


def test_a_folder_with_one_gguf_is_that_model(tmp_path):
    put(tmp_path, {"m.gguf": WHOLE, "mmproj-m.gguf": b"", "README.md": b""})
    assert inspect_path(tmp_path, wants="any").path == tmp_path / "m.gguf"


def test_a_folder_with_several_ggufs_asks_which_and_takes_the_quant_named(tmp_path):
    put(tmp_path, {"m-Q4_K_M.gguf": WHOLE, "m-Q8_0.gguf": WHOLE})
    error = trouble(tmp_path)
    assert error.kind == "choice"
    assert "Q4_K_M, Q8_0" in error.sentence
    assert inspect_path(tmp_path, wants="gguf", quant="Q8_0").path == tmp_path / "m-Q8_0.gguf"


def test_a_folder_without_a_model_says_so_and_looks_one_level_deeper(tmp_path):
    put(tmp_path, {"deeper/m.gguf": WHOLE})
    assert "give one of them (deeper)" in trouble(tmp_path).sentence
    put(tmp_path, {"notes.txt": b""})
    assert "holds no model" in trouble(tmp_path).sentence


SHARDS = {f"b-0000{n + 1}-of-00003.gguf": gguf_bytes(split=(n, 3), rows=n + 1) for n in range(3)}


def test_shards_are_one_model_whichever_of_them_is_named(tmp_path):
    put(tmp_path, SHARDS)
    for name in SHARDS:
        model = inspect_path(tmp_path / name, wants="gguf")
        assert model.path == tmp_path / "b-00001-of-00003.gguf"
        assert (model.name, model.size) == ("b", sum(map(len, SHARDS.values())))


def test_a_missing_and_a_cut_shard_are_found(tmp_path):
    put(tmp_path, SHARDS)
    second = tmp_path / "b-00002-of-00003.gguf"
    second.write_bytes(SHARDS[second.name][:-100])
    assert f"{second} is cut off" in trouble(tmp_path).sentence
    second.unlink()
    assert (
        f"{second} is not there: of the model's 3 parts 1 are missing"
        in trouble(tmp_path / "b-00001-of-00003.gguf").sentence
    )


def test_a_renamed_shard_is_told_what_it_must_be_called(tmp_path):
    put(tmp_path, {"my.gguf": SHARDS["b-00001-of-00003.gguf"]})
    assert "part 1 of 3" in trouble(tmp_path / "my.gguf").sentence
    assert "my-00001-of-00003.gguf" in trouble(tmp_path / "my.gguf").sentence


def test_a_safetensors_folder_says_what_others_need(tmp_path):
    folder = put(tmp_path / "Some-Model", transformers_files())
    model = inspect_path(folder, wants="safetensors")
    assert (model.path, model.format, model.name) == (folder, "safetensors", "Some-Model")
    assert (model.context_length, model.architecture, model.chat_template) == (4096, "LlamaForCausalLM", True)
    assert model.size == sum(len(c) for n, c in transformers_files().items() if n.endswith(".safetensors"))


def test_a_safetensors_folder_is_not_for_llama_cpp_and_a_gguf_not_for_vllm(tmp_path):
    folder = put(tmp_path / "m", transformers_files())
    assert "llama.cpp cannot read" in trouble(folder, "gguf").sentence
    assert f"give its folder, {folder}" in trouble(folder / "model-00001-of-00002.safetensors").sentence
    put(tmp_path, {"m.gguf": WHOLE})
    assert "ENGINE=llama-cpp-python" in trouble(tmp_path / "m.gguf", "safetensors").sentence


@pytest.mark.parametrize(
    ("damage", "word"),
    [
        ({"model-00002-of-00002.safetensors": None}, "lacks model-00002-of-00002.safetensors of its 2"),
        ({"model-00002-of-00002.safetensors": safetensors_bytes(500)[:-1]}, "cut off: it has"),
        ({"model-00002-of-00002.safetensors": safetensors_bytes(500)[:20]}, "inside its header"),
        ({"model-00002-of-00002.safetensors": b"\0" * 4}, "not a safetensors file"),
        ({"model-00002-of-00002.safetensors": b"\4" + b"\0" * 7 + b"abcd"}, "header cannot be read"),
        ({"model-00002-of-00002.safetensors": b"version https://git-lfs.github.com/spec/v1\n"}, "git-LFS pointer"),
        ({"config.json": b"{"}, "is not JSON"),
        ({"config.json": b"[]"}, "not a JSON object"),
        ({"model.safetensors.index.json": b"{}"}, "no weight_map"),
        ({"model.safetensors.index.json": b'{"weight_map": {"a": "../../etc/passwd"}}'}, "names '../../etc/passwd'"),
    ],
)
def test_a_damaged_safetensors_folder_is_told_what_is_wrong(tmp_path, damage, word):
    put(tmp_path, {n: c for n, c in {**transformers_files(), **damage}.items() if c is not None})
    error = trouble(tmp_path)
    assert word in error.sentence
    assert error.kind == "broken"


def test_a_folder_of_the_hubs_cache_is_its_only_snapshot(tmp_path):
    (tmp_path / "blobs").mkdir()
    put(tmp_path, {"snapshots/aaa/m.gguf": WHOLE})
    assert inspect_path(tmp_path, wants="any").path == tmp_path / "snapshots/aaa/m.gguf"
    put(tmp_path, {"snapshots/bbb/m.gguf": WHOLE})
    assert "2 snapshots" in trouble(tmp_path).sentence


@pytest.fixture
def nobody():
    """Root may read everything, so root becomes somebody else for a while."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_file_that_may_not_be_read_is_told_so(tmp_path, request):
    put(tmp_path, {"m.gguf": WHOLE})
    (tmp_path / "m.gguf").chmod(0)
    request.getfixturevalue("nobody")
    error = trouble(tmp_path / "m.gguf")
    assert error.kind == "unreadable"
    assert "may not be read" in error.sentence


def test_a_device_is_neither_file_nor_folder(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert "neither a file nor a folder" in trouble(tmp_path / "pipe").sentence


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 120), st.binary(max_size=12))
def test_a_damaged_safetensors_header_is_a_sentence_or_a_model(tmp_path, at, bytes_):
    content = bytearray(safetensors_bytes(64))
    content[at : at + len(bytes_)] = bytes_
    put(tmp_path, {"model.safetensors": bytes(content), "config.json": json.dumps({}).encode()})
    try:
        assert inspect_path(tmp_path, wants="any").format == "safetensors"
    except ModelError as error:
        assert error.kind == "broken"


def test_sizes_are_said_as_people_say_them():
    assert [human(n) for n in (0, 1023, 1536, 5 << 30, 3 << 40)] == [
        "0 bytes",
        "1023 bytes",
        "1.5 KiB",
        "5.0 GiB",
        "3.0 TiB",
    ]
