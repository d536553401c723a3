"""vLLM in tests: the one that was recorded, which is always there, and the real one, where it was built."""

import os
import sys
from pathlib import Path

from tests.support.llama import ROOT

RECORDING = Path(__file__).with_name("recorded_vllm.py")


def recorded(folder: Path) -> Path:
    """A `vllm` that behaves as it was seen to, as an executable in this folder."""
    program = folder / "vllm"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -I -S {RECORDING} "$@"\n')
    program.chmod(0o755)
    return program


def find_vllm() -> Path | None:
    """WAKEGATE_TEST_VLLM, or what scripts/build_vllm.sh left in the cache: a folder with bin/vllm and model/."""
    named = os.environ.get("WAKEGATE_TEST_VLLM")
    if named:
        return Path(named)
    script = (ROOT / "scripts" / "build_vllm.sh").read_text()
    version = next(line.split()[0].removeprefix("version=") for line in script.splitlines() if line[:8] == "version=")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "wakegate" / "vllm" / version
    return cache if (cache / "whole").is_file() else None


ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "OMP_NUM_THREADS": "1",
    "VLLM_NO_USAGE_STATS": "1",
}
"""ENGINE_ENV of a vLLM on a CPU that is shared with others: a small cache, one thread, and nobody is told."""


def is_an_error_and_no_end(said: bytes) -> None:
    """What vLLM made look complete does not reach the caller: an error event is the last thing it hears."""
    *_, last = [line for line in said.split(b"\n") if line.startswith(b"data: ")]
    assert last.startswith(b'data: {"error":'), last
    assert b"[DONE]" not in said and b'"finish_reason":"abort"' not in said
