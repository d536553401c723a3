"""The status file, written here and read by the health port: one test reads both."""

import json
import time
from pathlib import Path

import pytest

from gateway.policy.lifecycle.states import State
from gateway.records.status import NAME, Status, StatusFile
from health.status import Status as Told
from health.status import StatusFile as Reader
from health.status import ping_code

READY = Status(state="ready", mode="hold", listening=True, ever_ready=True, draining=False)


@pytest.mark.parametrize("state", list(State))
@pytest.mark.parametrize("flags", [(True, True, False), (False, False, True)])
def test_the_health_port_reads_what_the_gateway_writes(tmp_path: Path, state: State, flags: tuple[bool, ...]) -> None:
    listening, ever_ready, draining = flags
    StatusFile(tmp_path, "boot-1").write(Status(state.value, "strict", listening, ever_ready, draining))
    told = Reader(str(tmp_path / NAME), "boot-1").read()
    assert isinstance(told, Told)
    assert (told.state, told.mode, told.listening, told.ever_ready, told.draining) == (state, "strict", *flags)
    assert told.is_fresh(time.monotonic())
    assert ping_code("auto", told, time.monotonic()) in (200, 204, 503)


def test_the_file_of_another_boot_is_not_believed(tmp_path: Path) -> None:
    StatusFile(tmp_path, "the one before").write(READY)
    reader = Reader(str(tmp_path / NAME), "boot-1")
    assert reader.read() is None
    StatusFile(tmp_path, "boot-1").write(READY)
    told = reader.read()
    assert told is not None and told.state == "ready"


def test_each_word_replaces_the_last_one_whole(tmp_path: Path) -> None:
    """A reader never sees half of it, and no other file is left."""
    writer, reader = StatusFile(tmp_path, "b"), Reader(str(tmp_path / NAME), "b")
    for state in State:
        writer.write(Status(state.value, "hold", True, True, False))
        told = reader.read()
        assert told is not None and told.state == state
    assert [path.name for path in tmp_path.iterdir()] == [NAME]
    assert (tmp_path / NAME).stat().st_size < 4096, "what the reader reads at most"


def test_the_time_in_it_is_the_clock_that_all_processes_share(tmp_path: Path) -> None:
    before = time.monotonic()
    StatusFile(tmp_path, "b").write(READY)
    assert before <= json.loads((tmp_path / NAME).read_text())["at"] <= time.monotonic()


def test_a_folder_that_is_gone_fails_no_request(tmp_path: Path) -> None:
    writer = StatusFile(tmp_path / "gone", "b")
    writer.write(READY)
    writer.write(READY)
    assert writer.failures == 2
    (tmp_path / "gone").mkdir()
    writer.write(READY)
    assert writer.failures == 2 and Reader(str(tmp_path / "gone" / NAME), "b").read() is not None
