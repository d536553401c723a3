"""What is seen of GPUs: from the library's answers, slices instead of what is divided, and nothing where it hangs."""

import threading
from dataclasses import replace

import pytest

from gateway.gpus import NOT_INSTALLED, GpusSeen, Question, ask, library_is_there, look
from tests.support.nvml import CARDS, MIB, NVMLError, fail, gpus, library, machine


@pytest.mark.parametrize("card", [card for card in CARDS if CARDS[card].slices is None])
def test_each_gpu_is_seen_with_its_memory_and_capability(card):
    (gpu,) = gpus(card)
    facts = CARDS[card]
    assert (gpu.name, gpu.memory, gpu.capability) == (facts.name, facts.memory * MIB, facts.capability)
    assert gpu.free == max(0, facts.memory - facts.idle) * MIB and not gpu.is_slice


def test_the_driver_and_its_cuda_are_told():
    seen = machine("L4")
    assert (seen.driver, seen.cuda, seen.problem) == ("570.86.15", (12, 8), "")


def test_of_a_gpu_that_is_divided_the_slices_are_seen_instead():
    first, second = gpus("MIG")
    assert (first.name, first.memory) == ("NVIDIA A100-SXM4-40GB MIG 3g.20gb", 19968 * MIB)
    assert first.is_slice and second.is_slice and first.capability == (8, 0)


def test_a_gpu_that_is_divided_with_no_slice_to_see_is_seen_whole():
    """As root on the host, before any instance is made."""
    (gpu,) = ask(library("MIG", nvmlDeviceGetMigDeviceHandleByIndex=fail)).gpus
    assert not gpu.is_slice


def test_no_gpu_and_no_driver_are_no_error():
    assert ask(library()) == GpusSeen(driver="570.86.15", cuda=(12, 8))
    assert ask(library(nvmlInit=fail)).problem == "Not Supported"


def test_a_driver_that_answers_in_part_is_said_and_given_back():
    closed = []
    seen = ask(library("L4", nvmlDeviceGetName=fail, nvmlShutdown=lambda: closed.append(True)))
    assert seen == GpusSeen(problem="the driver answers, and not all: Not Supported") and closed == [True]


def test_old_bindings_that_give_bytes_are_read():
    assert ask(library("L4", nvmlDeviceGetName=lambda device: b"NVIDIA L4")).gpus[0].name == "NVIDIA L4"


def test_a_gpu_without_uuid_or_shutdown_is_seen_all_the_same():
    (gpu,) = ask(library("L4", nvmlDeviceGetUUID=fail, nvmlShutdown=fail)).gpus
    assert gpu == replace(gpus("L4")[0], uuid="")


def test_this_machine_is_looked_at_without_an_error():
    seen = look()
    assert seen.gpus or seen.problem
    assert library_is_there() == (seen.problem != NOT_INSTALLED)


def test_a_driver_that_hangs_holds_up_nobody():
    never = threading.Event()

    def hang():
        never.wait(60)
        return GpusSeen()

    question = Question(hang)
    try:
        assert not question.answer.done() and repr(question) == "<Question not answered>"
    finally:
        never.set()
    assert question.answer.result(timeout=60) == GpusSeen()


def test_what_goes_wrong_while_asking_reaches_whoever_waits():
    def broken():
        raise NVMLError("x")

    with pytest.raises(NVMLError):
        Question(broken).answer.result(timeout=60)
