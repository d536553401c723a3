"""How far an engine is, by the lines that it prints and by what is measured of it."""

import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.policy.estimate import PHASES
from gateway.providers.base import Loading
from gateway.providers.local.loading.progress import LLAMA_CPP, TABLES, VLLM, Life, Measured, Reading, Row

LOGS = Path(__file__).parents[1] / "logs"
GIB = 1 << 30


def lines_of(log: str) -> Iterator[str]:
    """As the guard tells them: carriage returns end a line, too. The first line says where the recording is from."""
    text = (LOGS / log).read_text("utf-8", "replace").replace("\r", "\n")
    return (line[:500] for line in text.splitlines()[1:] if line.strip())


def steps(log: str, engine: str) -> list[tuple[str, float | None, str]]:
    """What is said in the course of a recording, each once."""
    reading = Reading(engine)
    said: list[tuple[str, float | None, str]] = []
    for line in lines_of(log):
        reading.hear(line)
        now = reading.loading()
        if not said or (now.phase, now.ratio, now.detail) != said[-1]:
            said.append((now.phase, now.ratio, now.detail))
    return said


def phases(log: str, engine: str) -> list[str]:
    told = [phase for phase, _, _ in steps(log, engine)]
    return [phase for at, phase in enumerate(told) if at == 0 or phase != told[at - 1]]


def read(*lines: str, engine: str = "vllm", measured: Measured | None = None) -> Loading:
    reading = Reading(engine)
    for line in lines:
        reading.hear(line)
    reading.measured = measured or Measured()
    return dataclasses.replace(reading.loading(), signs=0)


# --- Recorded starts


@pytest.mark.parametrize("log", sorted(path.name for path in LOGS.glob("llama-server-good*.txt")))
@pytest.mark.parametrize("engine", ["llama-server", "command"])
def test_llama_server_boots_loads_and_warms_up(log: str, engine: str) -> None:
    assert phases(log, engine) == ["booting", "loading", "warming"]


@pytest.mark.parametrize(
    ("log", "expected"),
    [
        ("vllm-good-eager.txt", ["booting", "loading", "warming"]),
        ("vllm-good-compiled.txt", ["booting", "loading", "compiling", "warming"]),
        ("vllm-good-compiled-again.txt", ["booting", "loading", "compiling", "warming"]),
        ("vllm-gpu-good.txt", ["booting", "loading", "compiling", "warming"]),
        ("vllm-gpu-two-workers.txt", ["booting", "loading", "compiling", "warming"]),
    ],
)
@pytest.mark.parametrize("engine", ["vllm", "command"])
def test_vllm_boots_loads_compiles_and_warms_up(log: str, expected: list[str], engine: str) -> None:
    assert phases(log, engine) == expected


@pytest.mark.parametrize(
    "log",
    sorted(path.name for pattern in ("*-good*.txt", "*-gpu-*.txt") for path in LOGS.glob(pattern)),
)
def test_what_serves_has_said_so_and_a_share_never_falls(log: str) -> None:
    said = steps(log, "command")
    ratios = [ratio for phase, ratio, _ in said if phase == "loading" and ratio is not None]
    assert ratios == sorted(ratios)
    reading = Reading("command")
    for line in lines_of(log):
        reading.hear(line)
    assert reading.serves or "child" in log  # our own says it on its pipe


def test_llama_cpps_dots_are_percents_at_least() -> None:
    """A small model has few tensors, and a tensor no more than one dot."""
    ratios = [ratio for phase, ratio, _ in steps("llama-cpp-python-verbose.txt", "command") if phase == "loading"]
    assert ratios[-1] == 0.54
    assert read("." * 54, engine="llama-server", measured=Measured(total=100, paged=90)).ratio == 0.9


def test_a_line_of_dots_is_read_before_it_ends() -> None:
    assert read("load_tensors: loading model tensors", "." * 43, engine="llama-server").ratio == 0.43


def test_vllms_shards_are_counted() -> None:
    told = steps("vllm-gpu-good.txt", "vllm")
    assert [(ratio, detail) for phase, ratio, detail in told if phase == "loading" and ratio is not None] == [
        (0.0, "shard 0/4"),
        (0.25, "shard 1/4"),
        (0.5, "shard 2/4"),
        (0.75, "shard 3/4"),
        (1.0, "shard 4/4"),
    ]


def test_captured_graphs_are_told_and_no_share_of_them() -> None:
    """There is a bar for each mode, and nobody knows how many modes."""
    told = [(ratio, detail) for phase, ratio, detail in steps("vllm-gpu-good.txt", "vllm") if phase == "compiling"]
    assert (None, "CUDA graph 30/67") in told and all(ratio is None for ratio, _ in told)


@pytest.mark.parametrize("log", sorted(path.name for path in LOGS.glob("*.txt")))
def test_each_recording_says_what_it_is_and_where_it_is_from(log: str) -> None:
    first = (LOGS / log).read_text("utf-8", "replace").splitlines()[0]
    assert re.match(r"# .*\b(?:real, 20\d\d-\d\d-\d\d|constructed from the sources of)", first), first


def test_each_row_knows_a_line_of_a_recording() -> None:
    """A row that none shows would be a guess."""
    seen = [line for path in LOGS.glob("*.txt") for line in lines_of(path.name)]
    unseen = [
        row.pattern.pattern for table in TABLES.values() for row in table if not any(map(row.pattern.search, seen))
    ]
    assert not unseen


@pytest.mark.parametrize("table", [LLAMA_CPP, VLLM])
def test_a_table_stands_in_the_order_of_a_start(table: tuple[Row, ...]) -> None:
    assert [row.stage for row in table] == sorted(row.stage for row in table)
    assert all(row.phase in PHASES for row in table)
    assert [PHASES.index(row.phase) for row in table] == sorted(PHASES.index(row.phase) for row in table)


def test_a_straggler_does_not_lead_back() -> None:
    assert read("Starting torch.compile", "(Worker_TP1 pid=7) Starting to load model /m...").phase == "compiling"


# --- What was measured


STARTED = "Starting to load model /models/m..."


def test_weights_come_from_the_disk_by_bytes() -> None:
    seen = Measured(total=28 * GIB, paged=12 * GIB)
    assert read(STARTED, measured=seen) == Loading("loading", done=12 * GIB, total=28 * GIB)


def test_what_was_in_memory_before_is_no_measure() -> None:
    assert read(STARTED, measured=Measured(total=28 * GIB, paged=None, read=5000)) == Loading("loading")


def test_weights_that_are_read_and_not_mapped_are_counted_with_the_processes() -> None:
    """But not what was read of the engine's own program before."""
    reading = Reading("llama-server")
    reading.measured = Measured(total=8 * GIB, read=3 * GIB)
    reading.hear("srv    load_model: loading model '/models/m.gguf'")
    reading.measured = Measured(total=8 * GIB, read=5 * GIB)
    assert (reading.loading().done, reading.loading().total) == (2 * GIB, 8 * GIB)


def test_a_program_that_reads_itself_reads_no_model() -> None:
    imports = Measured(total=400 << 20, paged=None, read=30 << 20)
    assert read(engine="command", measured=imports) == Loading("booting")
    both = dataclasses.replace(imports, paged=100 << 20, read=300 << 20)
    assert read(engine="command", measured=both).done == 100 << 20, "the page cache knows better"


def test_an_engine_that_reads_past_the_page_cache_is_seen_reading() -> None:
    assert read(engine="command", measured=Measured(total=GIB, paged=0, read=GIB // 2)).done == GIB // 2


def test_pages_that_are_given_back_are_no_loss() -> None:
    reading = Reading("vllm")
    reading.hear(STARTED)
    told = []
    for paged in (4, 9, 7):
        reading.measured = Measured(total=10 * GIB, paged=paged * GIB)
        told.append(reading.loading().done)
    assert told == [4 * GIB, 9 * GIB, 9 * GIB]


def test_once_the_disk_is_done_it_is_the_gpu_that_fills() -> None:
    half = Measured(total=10 * GIB, paged=9 * GIB, gpu=5 * GIB)
    assert read(STARTED, measured=half).phase == "loading"
    all_read = dataclasses.replace(half, paged=10 * GIB)
    assert read(STARTED, measured=all_read) == Loading("filling", done=5 * GIB, total=10 * GIB)
    warm = dataclasses.replace(half, paged=None)
    assert read(STARTED, measured=warm) == Loading("filling", done=5 * GIB, total=10 * GIB)


def test_more_than_the_model_on_the_gpu_is_all_of_it() -> None:
    assert read(STARTED, measured=Measured(total=GIB, gpu=3 * GIB)) == Loading("filling", done=GIB, total=GIB)


def test_a_context_on_the_gpu_is_no_part_of_the_model() -> None:
    assert read(STARTED, measured=Measured(total=100 * GIB, gpu=GIB // 2)) == Loading("loading")


def shard(done: int, total: int) -> str:
    return f"Loading safetensors checkpoint shards: {100 * done // total}% Completed | {done}/{total} [00:00<?, ?it/s]"


def test_between_two_shards_it_is_as_far_as_what_was_read_and_not_beyond_the_next() -> None:
    for paged, ratio in ((1, 0.25), (4, 0.4), (10, 0.5)):
        seen = Measured(total=10 * GIB, paged=paged * GIB)
        assert read(STARTED, shard(1, 4), measured=seen).ratio == pytest.approx(ratio)


def test_an_engine_of_which_nobody_knows_loads_when_its_model_is_read() -> None:
    assert read(engine="command", measured=Measured(total=GIB, paged=GIB // 100)).phase == "booting"
    assert read(engine="command", measured=Measured(total=GIB, paged=GIB // 2)).phase == "loading"
    half = Measured(total=GIB, paged=GIB // 2, paged_before=GIB // 2)
    assert read(engine="command", measured=half).phase == "booting", "all that was there before"


def test_vllm_that_still_imports_is_booting_whatever_is_read_ahead() -> None:
    assert read(measured=Measured(total=GIB, paged=GIB // 2)).phase == "booting"


def test_an_engine_that_answers_is_loading_and_is_believed_what_it_says() -> None:
    reading = Reading("command")
    reading.answered(None)
    assert reading.loading() == Loading("loading")
    reading.answered(0.4)
    reading.answered(0.3)
    assert reading.loading() == Loading("loading", 0.4)


# --- Signs of life


def test_lines_that_only_come_again_are_no_sign_of_life() -> None:
    life = Life()
    for second in range(1000):
        life.hear(f'INFO 11-21 20:45:{second:02} "GET /health HTTP/1.1" 503, waited {second} s, id {second:x}f')
    assert life.signs == 1


def test_a_count_that_rises_is_a_sign_of_life_and_ends() -> None:
    life = Life()
    for round_ in range(3):
        for layer in range(81):
            life.hear(f"[{round_}] quantizing layer {layer}/80")
    assert life.signs == 81


def test_ever_new_lines_are_not_believed_for_ever() -> None:
    life = Life()
    for number in range(100_000):
        life.hear("".join(chr(97 + int(digit)) for digit in str(number)))
    assert life.signs <= 500


@given(st.lists(st.text(max_size=300) | st.sampled_from([STARTED, shard(1, 4), "....", "9/3", "400%"]), max_size=40))
def test_whatever_is_printed_is_read_and_a_share_stays_one(lines: list[str]) -> None:
    reading, before = Reading("command"), 0.0
    reading.measured = Measured(total=100, paged=40)
    for line in lines:
        reading.hear(line)
        now = reading.loading()
        assert now.phase in PHASES and (now.ratio is None or 0 <= now.ratio <= 1)
        if now.ratio is not None and now.phase == "loading":
            assert now.ratio >= before
            before = now.ratio
