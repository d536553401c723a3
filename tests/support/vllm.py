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
