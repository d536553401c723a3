"""GPUs as values: which of them CUDA leaves, and how they are counted."""

import pytest

from gateway.gpu import visible
from tests.support.nvml import MIB, gpus, machine


def test_several_are_counted_by_name():
    seen = machine("L4", "L4", "H100")
    assert str(seen) == "2 x NVIDIA L4, 1 x NVIDIA H100 80GB HBM3"
    assert seen.memory == (2 * 23034 + 81559) * MIB and seen.free == seen.memory - 3 * 500 * MIB


@pytest.mark.parametrize(
    ("wanted", "left"),
    [
        (None, [0, 1, 2]),
        ("0,1,2", [0, 1, 2]),
        ("2", [2]),
        ("2,0", [2, 0]),
        ("GPU-10", [1]),
        ("GPU-", []),  # means several: CUDA takes that for nothing
        ("", []),
        ("-1", []),
        ("0,9,1", [0]),
        ("1,1", [1]),
    ],
)
def test_cuda_visible_devices_is_read_as_cuda_reads_it(wanted, left):
    all_of_them = gpus("L4", "H100", "T4")
    assert visible(all_of_them, wanted) == tuple(all_of_them[index] for index in left)
