"""Where an engine's compile caches go: to the volume, unless somebody has decided, or the volume cannot."""

import errno
import fcntl
from pathlib import Path

import pytest

from gateway.providers.local.environment import inherits
from gateway.providers.local.loading import compile_caches
from gateway.providers.local.loading.compile_caches import CACHES, Volume, added, cache_variables


def test_all_of_them_are_on_the_volume_of_a_container(tmp_path: Path) -> None:
    found = cache_variables(Volume(tmp_path / "cache", home_is_lost=True))
    assert set(found) == {cache.name for cache in CACHES}
    assert all(Path(value).parent == tmp_path / "cache" for value in found.values())


def test_a_persons_own_hub_cache_stays_where_it_is(tmp_path: Path) -> None:
    assert "HF_HOME" not in cache_variables(Volume(tmp_path))


def test_the_drivers_cache_is_not_on_a_network_file_system(tmp_path: Path) -> None:
    """It rewrites one index in place."""
    found = cache_variables(Volume(tmp_path, on_network=True))
    assert "CUDA_CACHE_PATH" not in found and "VLLM_CACHE_ROOT" in found


def test_nothing_is_set_on_a_volume_that_is_gone_with_the_machine(tmp_path: Path) -> None:
    assert cache_variables(Volume(tmp_path, in_memory=True)) == {}


def test_nothing_is_set_where_nothing_can_be_written(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").touch()
    assert cache_variables(Volume(tmp_path / "file" / "cache")) == {}
    assert "later starts longer" in caplog.text


def test_nothing_is_set_where_locks_do_not_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(handle: int, how: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(compile_caches.fcntl, "flock", refuse)
    assert cache_variables(Volume(tmp_path)) == {}


def test_a_lock_that_another_worker_holds_is_a_lock_that_works(tmp_path: Path) -> None:
    with (tmp_path / ".lock").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        assert cache_variables(Volume(tmp_path)) != {}


@pytest.mark.parametrize(
    ("given", "gone"),
    [
        ("VLLM_CACHE_ROOT", {"VLLM_CACHE_ROOT"}),
        ("XDG_CACHE_HOME", {"VLLM_CACHE_ROOT", "HF_HOME"}),
        ("HF_HUB_CACHE", {"HF_HOME"}),
        ("TRITON_HOME", {"TRITON_CACHE_DIR"}),
        ("PATH", set()),
    ],
)
def test_what_somebody_has_set_stays(tmp_path: Path, given: str, gone: set[str]) -> None:
    everything = cache_variables(Volume(tmp_path, home_is_lost=True))
    assert set(everything) - set(added(everything, {given: "/elsewhere"})) == gone


def test_an_engine_inherits_what_the_operator_sets_instead() -> None:
    """Else we would set what somebody has set for it."""
    assert all(inherits(name) for cache in CACHES for name in (cache.name, *cache.instead))
