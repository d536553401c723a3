"""How an engine ended, as a sentence that callers may read."""

import errno

import pytest

from gateway.providers.base import Gone
from gateway.providers.local.endings import Exit, how_it_ended, not_started


@pytest.mark.parametrize(
    "code, was_ready, reason, lasting",
    [
        (1, False, "The engine ended with exit code 1 while it was loading the model.", False),
        (0, True, "The engine ended with exit code 0 while it served.", False),
        (-9, False, "The engine was killed by signal 9 while it was loading the model (out of memory?).", False),
        (-11, True, "The engine was killed by signal 11 while it served.", False),
        (-4, False, "The engine was built for another processor (signal 4 while it was loading the model).", True),
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
    assert not_started(number).lasting is lasting
