"""The demo model: made in no time, always the same, whole or not at all."""

import hashlib
import subprocess
import sys
import time
from pathlib import Path

import gguf
import pytest

from tests.support.llama import ROOT, make_model

SCRIPT = str(ROOT / "scripts" / "make_demo_model.py")


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_same_arguments_write_the_same_bytes(tmp_path: Path, demo_model: Path) -> None:
    assert digest(make_model(tmp_path / "again.gguf")) == digest(demo_model)
    assert digest(make_model(tmp_path / "other.gguf", "--seed", "8")) != digest(demo_model)


def test_it_is_small_quick_and_says_what_it_is(tmp_path: Path) -> None:
    began = time.monotonic()
    path = make_model(tmp_path / "new" / "folder" / "demo.gguf")
    assert time.monotonic() - began < 5  # 0.3 s where nothing else runs
    assert path.stat().st_size < 1 << 20
    fields = gguf.GGUFReader(path).fields
    assert "demo" in fields["general.name"].contents()
    assert fields["llama.context_length"].contents() >= 8192
    assert "<|im_start|>" in fields["tokenizer.chat_template"].contents()


def test_every_byte_can_be_read_and_none_is_spoken(demo_model: Path) -> None:
    """Its output row for control and byte tokens looks at the constant dimension only, and that is far below."""
    reader = gguf.GGUFReader(demo_model)
    tokens = reader.fields["tokenizer.ggml.tokens"].contents()
    assert sum(token.startswith("<0x") for token in tokens) == 256
    output = next(tensor.data for tensor in reader.tensors if tensor.name == "output.weight")
    silent = tokens.index("\u2581") + 1
    assert (output[:silent, 0] == -20).all()
    assert (output[:silent, 1:] == 0).all()
    assert (output[silent:, 0] == 0).all()
    spoken = "".join(tokens[silent:]).replace("\u2581", "")
    assert spoken.isascii()
    assert len(set(tokens)) == len(tokens)


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path) -> None:
    """Here: a limit on the size of files, which ends the writing in its middle."""
    out = tmp_path / "demo.gguf"
    out.write_bytes(b"what was there before")
    code = (
        "import resource, runpy, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)); "
        f"sys.argv = ['make', {str(out)!r}]; runpy.run_path({SCRIPT!r}, run_name='__main__')"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True)
    assert ran.returncode != 0
    assert out.read_bytes() == b"what was there before"
    assert [path.name for path in tmp_path.iterdir()] == ["demo.gguf"]


@pytest.mark.parametrize("words", [["--dim", "50"], ["--size", "huge"]])
def test_what_it_cannot_make_is_said(tmp_path: Path, words: list[str]) -> None:
    ran = subprocess.run([sys.executable, SCRIPT, str(tmp_path / "x.gguf"), *words], capture_output=True, text=True)
    assert ran.returncode == 2
    assert words[0] in ran.stderr
