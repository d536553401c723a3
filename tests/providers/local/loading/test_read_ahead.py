"""Reading ahead: what is asked of the kernel, and when nothing is."""

from pathlib import Path

import pytest

from gateway.providers.local.loading import read_ahead
from gateway.providers.local.loading.read_ahead import SPARE, WINDOW, WORTH, ReadAhead, bypassed

PLENTY = 1 << 50


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A folder with two files of weights that hold nothing, and take no disk."""
    for name in ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"):
        with (tmp_path / name).open("wb") as file:
            file.truncate(WORTH)
    return tmp_path


def read(model: Path, free: int | None = PLENTY) -> int:
    """Bytes that were asked for, of a reading that ran to its end."""
    reading = ReadAhead(model, free=lambda: free)
    reading.begin()
    assert reading.wait(30)
    return reading.asked


def test_all_files_of_a_model_are_read(model: Path) -> None:
    assert read(model) == 2 * WORTH


def test_where_nobody_says_how_much_memory_is_free_it_is_read(model: Path) -> None:
    assert read(model, free=None) == 2 * WORTH


def test_what_does_not_fit_into_memory_is_not(model: Path) -> None:
    assert read(model, free=2 * WORTH) == 0


def test_what_is_small_is_not(tmp_path: Path) -> None:
    (tmp_path / "tiny.gguf").write_bytes(b"GGUF")
    assert read(tmp_path / "tiny.gguf") == 0


def test_what_is_in_memory_already_is_not(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(read_ahead, "resident", lambda files: int(1.95 * WORTH))
    assert read(model) == 0


def test_a_model_that_is_not_there_is_nobodys_business_here(tmp_path: Path) -> None:
    assert read(tmp_path / "none.gguf") == 0


def test_it_ends_where_memory_becomes_short(model: Path) -> None:
    left = iter([PLENTY, PLENTY, SPARE - 1])
    reading = ReadAhead(model, free=lambda: next(left))
    reading.begin()
    assert reading.wait(30)
    assert reading.asked == WINDOW


def test_it_ends_with_the_start(model: Path) -> None:
    def free() -> int:
        reading.close()
        return PLENTY

    reading = ReadAhead(model, free=free)
    reading.begin()
    assert reading.wait(30)
    assert reading.asked == 0


@pytest.mark.parametrize(
    ("arguments", "is_bypassed"),
    [
        ((), False),
        (("--max-num-seqs", "4"), False),
        (("--load-format", "runai_streamer"), True),
        (("--load-format=fastsafetensors",), True),
        (("-dio",), True),
        (("--dtype", "half"), False),
    ],
)
def test_an_engine_that_reads_past_the_page_cache_is_left_alone(arguments: tuple[str, ...], is_bypassed: bool) -> None:
    assert bypassed(arguments) == is_bypassed
