"""How an engine ended, as a sentence that callers may read."""

import errno

import pytest

from gateway.providers.base import Gone
from gateway.providers.local.commands import Asked
from gateway.providers.local.ends.endings import (
    LESS_MEMORY,
    calls_files_damaged,
    how_it_ended,
    not_carried_out,
    not_started,
)
from gateway.providers.local.ends.exits import Exit
from gateway.providers.local.ends.reasons import CAUSES, Complaints

LESS = f"{LESS_MEMORY}."
LOADING = "while it was loading the model"
FULL = "OSError: [Errno 28] No space left on device"
WARNED = "UserWarning: CUDA initialization: Found no NVIDIA driver on your system."


@pytest.mark.parametrize(
    "code, was_ready, reason, lasting",
    [
        (1, False, "The engine ended with exit code 1 while it was loading the model.", False),
        (0, True, "The engine ended with exit code 0 while it served.", False),
        (
            -9,
            False,
            f"The engine was killed by signal 9 {LOADING}, probably because memory ran out: {LESS}",
            False,
        ),
        (
            137,
            True,
            f"The engine was killed by signal 9 while it served, probably because memory ran out: {LESS}",
            False,
        ),
        (-11, True, "The engine was killed by signal 11 while it served.", False),
        (139, True, "The engine was killed by signal 11 while it served.", False),
        (
            -7,
            False,
            "The engine lost what it had mapped (signal 7 while it was loading the model): its file was cut, the disk "
            "failed, or /dev/shm is too small.",
            False,
        ),
        (
            -4,
            False,
            "The engine was built for another processor (signal 4 while it was loading the model): install it again on "
            "this machine.",
            True,
        ),
    ],
)
def test_each_way_to_end_has_its_sentence(code: int, was_ready: bool, reason: str, lasting: bool) -> None:
    assert how_it_ended(Exit(code, ("a", "b")), None, was_ready) == Gone(reason, lasting, "a\nb")


def test_what_the_engine_printed_is_never_in_the_reason() -> None:
    gone = how_it_ended(Exit(1, ("CUDA error at /srv/secret/path.cu",)), None, False)
    assert "secret" not in gone.reason
    assert "secret" in gone.detail


def test_our_own_childs_reason_goes_before_the_exit_code() -> None:
    said = {"phase": "failed", "reason": "The model file is damaged.", "detail": "tensor 3", "lasting": True}
    assert how_it_ended(Exit(1, ("x",)), said, False) == Gone("The model file is damaged.", True, "tensor 3\nx")


def test_a_child_that_gives_no_reason_gave_up() -> None:
    assert how_it_ended(Exit(1), {"phase": "failed"}, False).reason == (
        "The engine gave up while it was loading the model."
    )


def test_a_killed_guard_is_not_the_engines_fault() -> None:
    assert how_it_ended(Exit(-9, lost_guard=True), None, True).reason == (
        "The engine's guard was killed while it served, and the engine ended with it."
    )


@pytest.mark.parametrize(
    "number, lasting", [(errno.ENOENT, True), (errno.EACCES, True), (errno.ENOEXEC, True), (errno.ENOMEM, False)]
)
def test_only_what_a_retry_could_mend_is_retried(number: int, lasting: bool) -> None:
    gone = not_started(number, "llama-sever")
    assert gone.lasting is lasting
    assert gone.detail.startswith("llama-sever: ") and "llama-sever" not in gone.reason


# --- Killed for memory: the kernel counts ---


@pytest.mark.parametrize(
    "code, tail, who",
    [
        (-9, (), "The engine"),
        (137, (), "The engine"),
        (1, ("Failed core proc(s): {'EngineCore_DP0': -9}",), "A part of the engine"),
        (1, (), "A part of the engine"),
        (0, ("vllm.v1.engine.exceptions.EngineDeadError: EngineCore encountered an issue.",), "A part of the engine"),
    ],
)
def test_what_the_kernel_killed_for_memory_is_told_for_sure(code: int, tail: tuple[str, ...], who: str) -> None:
    gone = how_it_ended(Exit(code, tail), None, False, ran_out=True)
    assert gone.reason == f"{who} was killed while it was loading the model, because memory ran out: {LESS}"
    assert not gone.lasting


def test_what_somebody_else_killed_was_not_killed_for_memory() -> None:
    """The kernel counts, and counted nothing."""
    assert how_it_ended(Exit(-9), None, True, ran_out=False).reason == (
        "The engine was killed by signal 9 while it served, and not for memory: somebody on this machine did it."
    )


def test_another_groups_count_says_nothing_of_an_engine_behind_a_program() -> None:
    """`docker run` passes on 137; its engine is in a group of its own, which is not the one that was counted."""
    assert "probably because memory ran out" in how_it_ended(Exit(137), None, True, ran_out=False).reason


def test_an_engine_that_ends_well_was_not_killed() -> None:
    assert "exit code 0" in how_it_ended(Exit(0), None, True, ran_out=True).reason


def test_a_kill_elsewhere_does_not_hide_what_the_engine_said() -> None:
    assert how_it_ended(Exit(1, (FULL,)), None, False, ran_out=True).reason == CAUSES["disk_full"].sentence


# --- What it printed ---


def test_what_the_engine_complained_of_is_the_reason_and_leads_the_detail() -> None:
    complaints = Complaints()
    complaints.hear(FULL)
    gone = how_it_ended(Exit(1, ("RuntimeError: See root cause above.",)), None, False, complaints)
    assert gone == Gone(CAUSES["disk_full"].sentence, True, f"{FULL}\nRuntimeError: See root cause above.")


def test_a_complaint_in_the_last_lines_is_told_once() -> None:
    assert how_it_ended(Exit(1, ("a", FULL, "b")), None, False).detail == f"a\n{FULL}\nb"


def test_a_warning_is_the_reason_only_where_nothing_else_is() -> None:
    assert how_it_ended(Exit(1, (WARNED,)), None, False).reason == CAUSES["driver_missing"].sentence
    assert "signal 11" in how_it_ended(Exit(-11, (WARNED,)), None, False).reason
    assert how_it_ended(Exit(1, (WARNED,)), {"reason": "The child's word."}, False).reason == "The child's word."


def test_our_childs_native_words_are_read_for_a_better_reason() -> None:
    said = {
        "reason": "There is not enough memory for this model.",
        "detail": "alloc_tensor_range: failed to allocate CPU buffer of size 12800032768 / llama_init_from_model: "
        "failed to initialize the context: failed to allocate buffer for kv cache",
    }
    gone = how_it_ended(Exit(1), said, False, Complaints(Asked(50_000_000, "CTX_SIZE")))
    assert gone.reason.startswith("There is not enough memory for a context of 50000000 tokens, which takes 11.9 GiB:")
    assert gone.lasting


def test_one_that_served_is_believed_about_memory_and_little_else_and_never_lastingly() -> None:
    """Its last lines may hold what its callers wrote; and what it could do a minute ago it may do again."""
    gone = how_it_ended(Exit(1, ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate",)), None, True)
    assert (gone.reason, gone.lasting) == (CAUSES["gpu_memory_vllm"].sentence, False)
    told = how_it_ended(Exit(1, ("prompt: cannot access gated repo",)), None, True)
    assert told.reason == "The engine ended with exit code 1 while it served."


def test_the_warnings_of_a_good_start_do_not_explain_a_later_end() -> None:
    complaints = Complaints()
    complaints.hear("OSError: [Errno 12] Cannot allocate memory")
    assert "exit code 1" in how_it_ended(Exit(1), None, True, complaints).reason


# --- Before there is an engine, and what is looked at afterwards ---


@pytest.mark.parametrize(
    "number, cause", [(errno.ENOSPC, "disk_full"), (errno.EDQUOT, "disk_full"), (errno.EAGAIN, "processes")]
)
def test_what_the_machine_lacks_is_named(number: int, cause: str) -> None:
    gone = not_carried_out(OSError(number, "so it is", "/secret"))
    assert (gone.reason, gone.lasting) == (CAUSES[cause].sentence, False)
    assert "/secret" in gone.detail
    assert not_carried_out(OSError(errno.EIO, "x")).reason == "The engine could not be started on this machine."


@pytest.mark.parametrize(
    "code, line, doubted",
    [
        (1, "tensor 'a' data is not within the file bounds", True),
        (-7, "", True),
        (135, "", True),
        (1, "unknown model architecture: 'x'", False),
        (0, "tensor 'a' data is not within the file bounds", False),
        (-9, "", False),
    ],
)
def test_files_are_doubted_where_the_engine_calls_them_damaged_or_lost_a_page_of_them(
    code: int, line: str, doubted: bool
) -> None:
    assert calls_files_damaged(Exit(code, (line,)), Complaints()) is doubted
