"""One thread, one line: first come first served, and whoever leaves costs nothing. With a model that is only a name."""

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from gateway.providers.local.llama_child.brake import Brake, CallerLeft
from gateway.providers.local.llama_child.engine import WINDOW, Engine, Job, Work
from gateway.providers.local.llama_child.refusals import Refusal


class Bench:
    """An engine whose work waits for the test."""

    def __init__(self) -> None:
        self.brake: Brake | None = None
        self.failed = threading.Event()
        self.engine = Engine(self._load, self.failed.set)
        self.engine.start()
        self.order: list[str] = []

    def _load(self, brake: Brake) -> str:
        self.brake = brake
        return "model"

    def work(self, name: str, pieces: int = 1, gate: threading.Event | None = None) -> Work:
        def run(_: Any) -> Iterator[object]:
            self.order.append(name)
            while gate is not None and not gate.wait(0.005):
                assert self.brake is not None
                self.brake.check()
            for piece in range(pieces):
                yield f"{name}{piece}"

        return run


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    bench.engine.refuse_new()
    bench.engine.cut()
    bench.engine.join(5)
    assert not bench.engine.busy


async def everything(job: Job) -> list[object]:
    told: list[object] = []
    async with asyncio.timeout(5):
        while pieces := await job.pieces():
            told += pieces
    return told


async def test_jobs_run_in_the_order_they_came(bench: Bench) -> None:
    gate = threading.Event()
    jobs = [bench.engine.submit(bench.work(name, 2, gate)) for name in "abc"]
    gate.set()
    assert [await everything(job) for job in jobs] == [["a0", "a1"], ["b0", "b1"], ["c0", "c1"]]
    assert bench.order == ["a", "b", "c"]


async def test_leaving_the_line_takes_only_that_one_out(bench: Bench) -> None:
    gate = threading.Event()
    first, second, third = (bench.engine.submit(bench.work(name, 1, gate)) for name in "abc")
    second.leave()
    second.leave()
    gate.set()
    assert await everything(first) == ["a0"]
    assert await everything(third) == ["c0"]
    assert bench.order == ["a", "c"]


async def test_leaving_while_running_stops_it_and_never_the_next(bench: Bench) -> None:
    never = threading.Event()
    for round_ in range(20):
        first = bench.engine.submit(bench.work(f"a{round_}", 1, never))
        second = bench.engine.submit(bench.work(f"b{round_}"))
        first.leave()
        assert await everything(second) == [f"b{round_}0"]
        first.leave()  # late, when the engine is somebody else's


async def test_a_reader_who_does_not_read_holds_the_engine_and_not_the_memory(bench: Bench) -> None:
    job = bench.engine.submit(bench.work("a", 10 * WINDOW))
    other = bench.engine.submit(bench.work("b"))
    taken = await job.pieces()
    await asyncio.sleep(0.05)
    taken += await job.pieces()
    assert len(taken) <= 2 * WINDOW
    job.leave()
    assert await everything(other) == ["b0"]


async def test_a_refusal_ends_the_job_and_a_fault_says_nothing_of_itself(
    bench: Bench, capfd: pytest.CaptureFixture[str]
) -> None:
    def refuse(_: Any) -> Iterator[object]:
        yield "begun"
        raise Refusal("no", param="x")

    def break_(_: Any) -> Iterator[object]:
        raise RuntimeError("llama_decode returned -3 in /secret/path")
        yield

    refused = bench.engine.submit(refuse)
    with pytest.raises(Refusal, match="no"):
        await everything(refused)
    with pytest.raises(Refusal) as broken:
        await everything(bench.engine.submit(break_))
    assert broken.value.status == 500
    assert "secret" not in broken.value.message
    assert "secret" in capfd.readouterr().err
    assert await everything(bench.engine.submit(bench.work("next"))) == ["next0"]


async def test_stopping_tells_who_waits_and_lets_run_what_runs(bench: Bench) -> None:
    gate = threading.Event()
    running, waiting = (bench.engine.submit(bench.work(name, 1, gate)) for name in "ab")
    while not bench.order:
        await asyncio.sleep(0.001)
    bench.engine.refuse_new()
    with pytest.raises(Refusal) as told:
        await everything(waiting)
    assert told.value.status == 503
    with pytest.raises(Refusal):
        bench.engine.submit(bench.work("c"))
    gate.set()
    assert await everything(running) == ["a0"]
    bench.engine.join(5)
    assert bench.order == ["a"]


async def test_a_cut_ends_the_running_answer_with_a_refusal(bench: Bench) -> None:
    job = bench.engine.submit(bench.work("a", 1, threading.Event()))
    while not bench.order:
        await asyncio.sleep(0.001)
    bench.engine.refuse_new()
    bench.engine.cut()
    with pytest.raises(Refusal) as told:
        await everything(job)
    assert told.value.code == "draining"


def test_an_engine_without_a_model_says_so_and_ends() -> None:
    failed = threading.Event()
    engine = Engine(lambda _: None, failed.set)
    engine.start()
    assert failed.wait(5)
    engine.join(5)


def test_the_brake_is_a_string_that_native_code_can_measure() -> None:
    import ctypes

    brake = Brake()
    callback = ctypes.CFUNCTYPE(ctypes.c_bool, ctypes.c_void_p)(brake.callback)
    assert callback(brake.data) is False
    brake.pull()
    assert callback(brake.data) is True
    with pytest.raises(CallerLeft):
        brake.check()
    brake.release()
    assert callback(brake.data) is False
    brake.check()
