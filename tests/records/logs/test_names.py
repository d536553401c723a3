"""Names of log files: what is ours, and nothing else is."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.records.logs.names import Name, is_folder, parse, rotated

STAMP = "20261121T140506Z_pod-1.local"
OURS = {
    f"{STAMP}.txt": Name(STAMP),
    f"{STAMP}.log": Name(STAMP),
    f"{STAMP}_engine.txt": Name(STAMP, is_engine=True),
    f"{STAMP}_20261122T000000.000000Z.txt": Name(STAMP, when=1795305600.0),
    f"{STAMP}_20261122T000000.000000Z.txt.gz": Name(STAMP, when=1795305600.0, is_compressed=True),
    f"{STAMP}_engine_20261122T000000.500000Z.txt": Name(STAMP, is_engine=True, when=1795305600.5),
    f"{STAMP}_20261122T000000.000000Z.txt.gz.tmp": Name(
        STAMP, when=1795305600.0, is_compressed=True, is_unfinished=True
    ),
    "latest.txt": Name(""),
    f"latest.{STAMP}.tmp": Name("", is_unfinished=True),
}
OTHERS = [
    "notes.txt",
    "latest.log",
    "20261121T140506Z.txt",
    f"{STAMP}.txt.gz",
    f"{STAMP}.txt.bak",
    f"{STAMP}_engine.log.1",
    f"{STAMP}_20261322T000000.000000Z.txt",
    f"{STAMP}_20261122T000000Z.txt",
    f"{STAMP}_a_b.txt",
    f"../{STAMP}.txt",
    f"{STAMP}.txt\n",
    "٢٠261121T140506Z_w.txt",
    "",
]


@pytest.mark.parametrize("file", OURS)
def test_our_names_say_what_they_are(file: str) -> None:
    assert parse(file) == OURS[file]


@pytest.mark.parametrize("file", OTHERS)
def test_any_other_name_is_not_ours(file: str) -> None:
    assert parse(file) is None


@given(
    worker=st.from_regex(r"[A-Za-z0-9.-]{1,40}", fullmatch=True),
    engine=st.booleans(),
    whens=st.lists(st.floats(1e9, 4e9), min_size=2, max_size=2),
)
def test_rotated_names_sort_by_time_and_are_read_back(worker: str, engine: bool, whens: list[float]) -> None:
    live = f"20261121T140506Z_{worker}{'_engine' if engine else ''}.txt"
    assert parse(live) == Name(f"20261121T140506Z_{worker}", is_engine=engine)
    first, second = (rotated(live, when) for when in sorted(whens))
    assert first <= second
    name = parse(first)
    assert name is not None and name.is_rotated and name.is_engine == engine
    assert name.when == pytest.approx(min(whens), abs=1e-5)


def test_folders_are_those_that_log_name_allows() -> None:
    assert is_folder("llama") and is_folder("_boot") and is_folder("my.model-2")
    assert not any(map(is_folder, ["..", ".hidden", "_other", "a/b", "", "x" * 65]))
