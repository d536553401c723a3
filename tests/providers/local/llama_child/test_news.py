"""The board: what is told on the pipe, and that a gateway which does not listen does not matter."""

import json
import os
from collections.abc import Iterator

import pytest

from gateway.providers.local.llama_child.news import Board


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reading, writing = os.pipe()
    yield reading, writing
    for descriptor in (reading, writing):
        try:
            os.close(descriptor)
        except OSError:
            pass  # closed by the test


def test_each_change_is_one_line_and_small_steps_are_none(pipe: tuple[int, int]) -> None:
    board = Board(pipe[1])
    for ratio in (0.0, 0.001, 0.009, 0.01, 0.43, 0.435, 1.5):
        board.loading("loading", ratio)
    board.loading("warming")
    board.became_ready(("demo",), 8192)
    told = [json.loads(line) for line in os.read(pipe[0], 65536).splitlines()]
    assert [line.get("ratio") for line in told[:4]] == [0.0, 0.01, 0.43, 1.0]
    assert told[4:] == [
        {"phase": "warming", "ratio": None},
        {"phase": "ready", "models": ["demo"], "context": 8192, "concurrency": 1},
    ]
    assert board.ready


def test_a_failure_is_told_with_its_reason(pipe: tuple[int, int]) -> None:
    Board(pipe[1]).failed("The model could not be loaded.", "native words")
    assert json.loads(os.read(pipe[0], 65536)) == {
        "phase": "failed",
        "reason": "The model could not be loaded.",
        "detail": "native words",
    }


def test_a_broken_pipe_is_harmless(pipe: tuple[int, int]) -> None:
    board = Board(pipe[1])
    os.close(pipe[0])
    board.loading("loading", 0.5)
    board.became_ready((), 1)
    assert board.ready


def test_a_full_pipe_is_harmless(pipe: tuple[int, int]) -> None:
    board = Board(pipe[1])
    for number in range(20_000):
        board.loading(f"phase {number % 2}", 0.5)
    board.became_ready((), 1)
    assert board.ready


def test_nobody_has_to_listen() -> None:
    board = Board()
    board.loading("loading", 0.25)
    assert repr(board) == "<Board loading 25%>"
