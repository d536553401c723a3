"""What a MODEL setting means, and which files it asks for."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.providers.local.models.model_error import ModelError
from gateway.providers.local.models.model_names import (
    ModelSpec,
    group_ggufs,
    parse,
    safe_name,
    select,
    shards_of,
    stem_of,
)


def hub(text: str) -> tuple[str | None, str | None, str | None, str | None]:
    spec = parse(text)
    return spec.repo, spec.quant, spec.file, spec.revision


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("org/name", ("org/name", None, None, None)),
        ("org/name:Q4_K_M", ("org/name", "Q4_K_M", None, None)),
        ("org/name:UD-Q4_K_XL", ("org/name", "UD-Q4_K_XL", None, None)),
        ("org/name:latest", ("org/name", None, None, None)),
        ("org/name:file.gguf", ("org/name", None, "file.gguf", None)),
        ("org/name:BF16/file-00001-of-00002.gguf", ("org/name", None, "BF16/file-00001-of-00002.gguf", None)),
        ("org/name/file.gguf", ("org/name", None, "file.gguf", None)),
        ("org/name@v1.0", ("org/name", None, None, "v1.0")),
        ("org/name@refs/pr/3:Q8_0", ("org/name", "Q8_0", None, "refs/pr/3")),
        ("org/name:Q8_0@main", ("org/name", "Q8_0", None, "main")),
        ("  org/name  ", ("org/name", None, None, None)),
        ("hf.co/org/name", ("org/name", None, None, None)),
        ("hf.co/org/name:Q4_K_M", ("org/name", "Q4_K_M", None, None)),
        ("huggingface.co/org/name@dev", ("org/name", None, None, "dev")),
        ("hf://org/name", ("org/name", None, None, None)),
        ("https://huggingface.co/org/name", ("org/name", None, None, None)),
        ("https://huggingface.co/org/name/", ("org/name", None, None, None)),
        ("https://huggingface.co/org/name/tree/main", ("org/name", None, None, "main")),
        ("https://huggingface.co/org/name/blob/main/a%20b.gguf", ("org/name", None, "a b.gguf", "main")),
        ("https://huggingface.co/org/name/blob/main/d/f.gguf", ("org/name", None, "d/f.gguf", "main")),
        (
            "https://hf.co/org/name/resolve/refs%2Fpr%2F1/f.gguf?download=true",
            ("org/name", None, "f.gguf", "refs/pr/1"),
        ),
    ],
)
def test_forms_of_a_hub_id(text, expected):
    assert hub(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/models/a.gguf", (("/models/a.gguf", None),)),
        ("./a", (("./a", None),)),
        ("~/m/a.gguf", (("~/m/a.gguf", None),)),
        ("/models/dir:Q4_K_M", (("/models/dir:Q4_K_M", None), ("/models/dir", "Q4_K_M"))),
        ("/models/dir:a.gguf", (("/models/dir:a.gguf", None), ("/models/dir/a.gguf", None))),
        ("a.gguf", (("a.gguf", None),)),
        ("folder:Q8_0", (("folder:Q8_0", None), ("folder", "Q8_0"))),
        ("a/b/c/d", (("a/b/c/d", None),)),
    ],
)
def test_forms_that_are_paths_or_names_only(text, expected):
    spec = parse(text)
    assert spec.repo is None
    assert spec.paths == expected


def test_a_hub_id_may_be_something_on_the_disk_and_an_address_may_not():
    assert parse("org/name:Q4_K_M").paths == (("org/name:Q4_K_M", None), ("org/name", "Q4_K_M"))
    assert parse("hf.co/org/name").paths == ()


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("", "empty"),
        ("   ", "empty"),
        ("a\nb", "control"),
        ("https://example.com/a.gguf", "huggingface.co"),
        ("https://huggingface.co/datasets/org/name", "not a model"),
        ("https://huggingface.co/name", "org/name"),
        ("hf.co/org/name:Q4 K", "neither a quantization"),
        ("hf.co/org/name:../../x.gguf", "not a file name"),
        ("hf.co/org/name@../main", "not a revision"),
        ("hf.co/org/name@", "not a revision"),
        ("hf.co/org/na--me", "not a repository"),
        ("hf.co/org/name.git", "not a repository"),
        ("https://huggingface.co/org/name/blob/main/model.safetensors", "not a GGUF"),
        ("hf.co/org/name/other", ":quant"),
    ],
)
def test_names_that_cannot_be_understood_say_what_was_expected(text, word):
    with pytest.raises(ModelError, match=word) as caught:
        parse(text)
    assert caught.value.kind == "name"
    assert caught.value.lasting


_segment = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.]{0,8}[A-Za-z0-9]", fullmatch=True).filter(
    lambda s: (
        ".." not in s and not s.endswith(".git") and s not in ("hf.co", "huggingface.co", "datasets", "spaces", "api")
    )
)
_file = st.from_regex(r"([A-Za-z0-9_-]{1,8}/)?[A-Za-z0-9_.-]{0,8}[a-z]\.gguf", fullmatch=True).filter(safe_name)
_quant = st.sampled_from(["Q4_K_M", "IQ2_XXS", "UD-Q8_K_XL", "BF16"])
_revision = st.from_regex(r"[A-Za-z0-9_]{1,8}(/[A-Za-z0-9_]{1,4})?", fullmatch=True)


@given(_segment, _segment, st.none() | _quant | _file, st.none() | _revision)
def test_a_hub_id_reads_back_as_it_was_written(org, name, tag, revision):
    text = f"hf.co/{org}/{name}{f'@{revision}' if revision else ''}{f':{tag}' if tag else ''}"
    spec = parse(text)
    assert (spec.repo, spec.file or spec.quant, spec.revision) == (f"{org}/{name}", tag, revision)
    assert parse(str(spec)) == spec


@given(st.text(max_size=60))
def test_any_text_is_a_spec_that_reads_back_or_a_sentence(text):
    try:
        spec = parse(text)
    except ModelError as error:
        assert error.kind == "name"
    else:
        assert isinstance(spec, ModelSpec)
        assert parse(str(spec)) == spec
        assert spec.file is None or safe_name(spec.file)


def test_shards_are_known_by_their_names():
    assert stem_of("d/Big-Q8_0-00002-of-00003.gguf") == "Big-Q8_0"
    assert shards_of("d/Big-00002-of-00003.gguf") == tuple(f"d/Big-0000{n}-of-00003.gguf" for n in (1, 2, 3))
    assert shards_of("Big.gguf") == ("Big.gguf",)
    assert shards_of("Big-00009-of-00003.gguf") == ("Big-00009-of-00003.gguf",)


QUANTS = [
    "M-Q4_K_M.gguf",
    "M-Q8_0.gguf",
    "M-IQ2_XXS.gguf",
    "M-UD-Q5_K_XL.gguf",
    "M.f16.gguf",
    "mmproj-M-f16.gguf",
    "M.imatrix.gguf",
]


def test_companion_files_are_no_models_and_quants_are_read_from_names():
    assert [g.quant for g in group_ggufs(QUANTS)] == ["IQ2_XXS", "Q4_K_M", "Q8_0", "UD-Q5_K_XL", "F16"]
    assert [g.quant for g in group_ggufs(["BF16/x-00001-of-00001.gguf", "Qwen3-0.6B-MXFP4_MOE.gguf"])] == [
        "BF16",
        "MXFP4_MOE",
    ]


@pytest.mark.parametrize(
    ("quant", "first"),
    [("Q8_0", "M-Q8_0.gguf"), ("q8_0", "M-Q8_0.gguf"), ("F16", "M.f16.gguf"), ("Q5_K_XL", "M-UD-Q5_K_XL.gguf")],
)
def test_a_quant_tag_finds_its_file(quant, first):
    assert select(QUANTS, where="x", quant=quant).first == first


def test_a_quant_that_is_not_there_lists_those_that_are():
    with pytest.raises(ModelError, match=r"no Q3_K_S\. It has: F16, IQ2_XXS, Q4_K_M, Q8_0, UD-Q5_K_XL\.") as caught:
        select(QUANTS, where="org/name", quant="Q3_K_S")
    assert caught.value.kind == "missing"


def test_no_quant_means_the_usual_one_or_the_only_one_or_a_question():
    assert select(QUANTS, where="x", default_quant="Q4_K_M").first == "M-Q4_K_M.gguf"
    assert select(["M-Q2_K.gguf"], where="x", default_quant="Q4_K_M").first == "M-Q2_K.gguf"
    with pytest.raises(ModelError, match="say which"):
        select(QUANTS, where="x")
    with pytest.raises(ModelError, match=r"say which.*a-Q4_K_M\.gguf, b-Q4_K_M\.gguf"):
        select(["a-Q4_K_M.gguf", "b-Q4_K_M.gguf"], where="x", default_quant="Q4_K_M")


def test_the_same_quant_twice_asks_for_the_file():
    with pytest.raises(ModelError, match=r"more than once.*a-Q8_0\.gguf, b-Q8_0\.gguf"):
        select(["a-Q8_0.gguf", "b-Q8_0.gguf", "c.gguf"], where="x", quant="Q8_0")


def test_shards_are_taken_whole_and_missing_ones_are_named():
    names = ["Q8_0/B-Q8_0-00001-of-00003.gguf", "Q8_0/B-Q8_0-00003-of-00003.gguf"]
    selection = select(names, where="x", quant="Q8_0")
    assert (selection.first, selection.missing) == (names[0], ("Q8_0/B-Q8_0-00002-of-00003.gguf",))


def test_a_file_may_be_named_with_or_without_its_folder_and_a_shard_means_all_of_them():
    names = ["d/M-00001-of-00002.gguf", "d/M-00002-of-00002.gguf", "other.gguf", "mmproj-x.gguf"]
    for file in ("d/M-00002-of-00002.gguf", "M-00001-of-00002.gguf"):
        assert select(names, where="x", file=file).files == tuple(names[:2])
    with pytest.raises(ModelError, match="has no file absent"):
        select(names, where="x", file="absent.gguf")
    with pytest.raises(ModelError, match="companion"):
        select(names, where="x", file="mmproj-x.gguf")


SAFETENSORS = [
    "config.json",
    "model.safetensors",
    "consolidated.safetensors",
    "tokenizer.json",
    "a.bin",
    "original/p.json",
]


def test_safetensors_come_with_what_stands_beside_them_and_nothing_twice():
    selection = select(SAFETENSORS, where="x", wants="safetensors")
    assert selection.files == ("config.json", "model.safetensors", "tokenizer.json")
    assert (selection.format, selection.first) == ("safetensors", "")


@pytest.mark.parametrize(
    ("names", "wants", "word"),
    [
        (SAFETENSORS, "gguf", "llama.cpp cannot read"),
        (["a.gguf"], "safetensors", "ENGINE=llama-cpp-python"),
        (["pytorch_model.bin", "config.json"], "any", "another format"),
        (["README.md"], "any", "holds no model"),
        (["adapter_config.json", "adapter_model.safetensors"], "any", "LoRA"),
        (["model.safetensors"], "any", "no config.json"),
    ],
)
def test_the_wrong_format_is_told_with_the_way_out(names, wants, word):
    with pytest.raises(ModelError, match=word):
        select(names, where="x", wants=wants)


def test_a_gguf_asked_for_by_name_is_not_for_an_engine_of_safetensors():
    with pytest.raises(ModelError, match="asks for a GGUF"):
        select([*SAFETENSORS, "a-Q4_0.gguf"], where="x", wants="safetensors", quant="Q4_0")


def test_either_format_will_do_and_the_gguf_is_taken():
    assert select([*SAFETENSORS, "a-Q4_0.gguf"], where="x").format == "gguf"
    assert select(SAFETENSORS, where="x").format == "safetensors"
