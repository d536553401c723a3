"""From a file to a model: checks, reading ahead, and one sentence for each way to fail."""

from pathlib import Path

import pytest

from gateway.providers.local.llama_child import loading
from gateway.providers.local.llama_child.brake import Brake
from gateway.providers.local.llama_child.news import Board


def gguf(path: Path, size: int = 100) -> Path:
    path.write_bytes(b"GGUF" + bytes(size - 4))
    return path


def test_a_single_file_and_a_split_one(tmp_path: Path) -> None:
    assert loading.files(gguf(tmp_path / "one.gguf")) == [tmp_path / "one.gguf"]
    parts = [gguf(tmp_path / f"big-0000{part}-of-00003.gguf") for part in (1, 2, 3)]
    assert loading.files(parts[0]) == parts


def test_a_missing_part_and_a_wrong_file_fail_before_anything_is_imported(tmp_path: Path) -> None:
    gguf(tmp_path / "big-00001-of-00002.gguf")
    with pytest.raises(loading.LoadFailed, match="cannot be read"):
        loading.files(tmp_path / "big-00001-of-00002.gguf")
    (tmp_path / "text.gguf").write_text("hello")
    with pytest.raises(loading.LoadFailed, match="not a GGUF") as failure:
        loading.files(tmp_path / "text.gguf")
    assert str(tmp_path) not in failure.value.reason


def test_reading_ahead_is_counted_over_all_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "STEP", 1 << 16)
    heard: list[float] = []
    amounts: list[tuple[int | None, int]] = []

    class Ear(Board):
        def loading(self, phase: str, ratio: float | None = None, *, done: int | None = None, total: int = 0) -> None:
            heard.append(ratio or 0.0)
            amounts.append((done, total))

    parts = [gguf(tmp_path / "a.gguf", 200_000), gguf(tmp_path / "b.gguf", 100_000)]
    assert loading.read_ahead(parts, Ear(), Brake())
    assert len(heard) == 6
    assert heard == sorted(heard)
    assert heard[-1] == pytest.approx(loading.READING)
    whole = sum(part.stat().st_size for part in parts)
    assert amounts[-1] == (whole, whole)


def test_a_file_larger_than_memory_is_not_read_ahead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "memory", lambda: 100)
    assert not loading.read_ahead([gguf(tmp_path / "a.gguf", 200)], Board(), Brake())


def test_the_brake_ends_reading(tmp_path: Path) -> None:
    brake = Brake()
    brake.pull()
    with pytest.raises(loading.LoadFailed):
        loading.read_ahead([gguf(tmp_path / "a.gguf")], Board(), brake)


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("tensor 'x' data is not within the file bounds, model is corrupted or incomplete", "incomplete"),
        ("error loading model architecture: unknown model architecture: 'future'", "unknown"),
        ("ggml_backend_cuda_buffer_type_alloc_buffer: allocating 4096.00 MiB failed: out of memory", "memory"),
        ("Failed to create llama_context", "memory"),
        ("something new", "other"),
    ],
)
def test_native_words_become_one_of_our_sentences(said: str, reason: str) -> None:
    assert loading.reason_of(said) == loading.REASONS[reason]


def test_layers_are_tried_from_all_to_none_only_when_nobody_chose() -> None:
    assert loading.attempts(None, gpu=False) == [0]
    assert loading.attempts(None, gpu=True)[0] == -1
    assert loading.attempts(None, gpu=True)[-1] == 0
    assert loading.attempts(33, gpu=True) == [33]


def test_a_number_to_begin_with_is_followed_by_smaller_ones() -> None:
    assert loading.attempts(None, gpu=True, first=20) == [20, 16, 8, 0]
    assert loading.attempts(None, gpu=True, first=81)[:2] == [81, 64]
    assert loading.attempts(None, gpu=True, first=0) == [0]
    assert loading.attempts(None, gpu=False, first=20) == [0]
    assert loading.attempts(33, gpu=True, first=20) == [33]


def test_a_containers_quota_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading.os, "sched_getaffinity", lambda _: set(range(16)))
    for written, processors in (("max 100000", 16), ("400000 100000", 4), ("50000 100000", 1), ("", 16)):
        monkeypatch.setattr(loading, "_cgroup", lambda _, written=written: written)
        assert loading.processors() == processors


def test_native_lines_are_kept_while_loading_and_told_after() -> None:
    told: list[str] = []
    listener = loading.Listener(told.append)
    listener.keep(2, "chatter")
    listener.keep(loading.ERROR, "bad thing")
    listener.keep(loading.GOES_ON, " indeed")
    assert told == []
    assert listener.last_words() == "bad thing / indeed"
    listener.loaded()
    listener.keep(loading.WARNING, "later")
    assert told == ["bad thing", "indeed", "later"]
