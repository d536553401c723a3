"""How much memory a context could have had."""

import threading
from pathlib import Path

import pytest

from gateway.gpus import Gpu, GpusSeen
from gateway.providers.local.ends.room import room_for_context

GPU = Gpu("NVIDIA L4", memory=22 << 30, free=21 << 30, uuid="GPU-1")
OTHER = Gpu("NVIDIA L4", memory=22 << 30, free=20 << 30, uuid="GPU-2")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.gguf"
    path.write_bytes(bytes(1000))
    return path


def test_it_is_what_is_free_less_the_weights(model: Path) -> None:
    assert room_for_context("main", model, devices=None, memory=lambda: 5000) == 4000
    assert room_for_context("main", None, devices=None, memory=lambda: 5000) == 5000
    assert room_for_context("main", model, devices=None, memory=lambda: 500) == 0
    assert room_for_context("main", model, devices=None, memory=lambda: None) is None


@pytest.mark.parametrize(
    "seen, devices, free",
    [
        ((GPU,), None, GPU.free - 1000),
        ((GPU, OTHER), "1", OTHER.free - 1000),
        ((GPU, OTHER), None, None),
        ((), None, None),
    ],
)
def test_of_one_gpu_it_is_known_and_of_several_it_is_not(
    model: Path, seen: tuple[Gpu, ...], devices: str | None, free: int | None
) -> None:
    assert room_for_context("gpu", model, devices=devices, look=lambda: GpusSeen(seen)) == free


def test_a_driver_that_hangs_is_not_waited_for(model: Path) -> None:
    hangs = threading.Event()

    def look() -> GpusSeen:
        hangs.wait(30)
        return GpusSeen()

    try:
        assert room_for_context("gpu", model, devices=None, look=look, patience=0.01) is None
    finally:
        hangs.set()


def test_a_driver_that_breaks_says_nothing(model: Path) -> None:
    def look() -> GpusSeen:
        raise OSError("no such device")

    assert room_for_context("gpu", model, devices=None, look=look) is None
