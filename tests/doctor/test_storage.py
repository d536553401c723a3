"""DATA_DIR, its volume, and room. Mounts as the kernel writes them."""

from dataclasses import replace
from pathlib import Path

import pytest

from gateway.doctor.case import Facts, Folder, ModelSeen
from gateway.doctor.findings import BREAKS, DOUBTFUL, NOTE
from gateway.doctor.storage import check
from gateway.surroundings import Surroundings, parse_mounts
from tests.support.doctoring import GIB, PLAIN, SERVERLESS, case, codes, gguf, only

LAYER = "22 1 0:20 / / rw,relatime - overlay overlay rw,lowerdir=/var/lib/containers/a\n"
SHM = "23 22 0:21 / /dev/shm rw,nosuid - tmpfs shm rw,size=65536k\n"
NETWORK = "24 22 0:22 / /runpod-volume rw,relatime - fuse.juicefs JuiceFS:vol rw\n"
NFS = "24 22 0:22 / /mnt/share rw - nfs4 nas:/export rw\n"
DISK = "25 22 8:1 / /workspace rw - ext4 /dev/sda1 rw\n"


def on(mounts: str, around: Surroundings = SERVERLESS) -> Surroundings:
    return replace(around, mounts=parse_mounts(mounts))


def at(path: str, **values: object) -> Facts:
    return Facts(folder=Folder(Path(path), **values))  # type: ignore[arg-type]


def test_a_writable_folder_on_a_disk_is_nothing_to_say() -> None:
    assert codes(check(case(at("/workspace/x", free=100 * GIB, size=200 * GIB), on(LAYER + DISK)))) == []


def test_the_containers_own_layer_costs_a_download_at_each_cold_start() -> None:
    said = only(check(case(at("/root/data"), on(LAYER + NETWORK))), "data-dir-on-layer")
    assert said.level is BREAKS
    assert "(overlay)" in said.what
    assert said.cure == "export DATA_DIR=/runpod-volume"


def test_where_no_volume_is_there_none_is_made_up() -> None:
    without = replace(on(LAYER), volumes=(Path("/data"),))  # a folder of the image, on the same layer
    assert only(check(case(at("/data"), without)), "data-dir-on-layer").cure == "export DATA_DIR=/path/of/a/volume"


def test_a_model_that_comes_with_the_image_makes_the_layer_only_doubtful() -> None:
    facts = replace(at("/data"), model=ModelSeen("/models/m.gguf", gguf(path=Path("/models/m.gguf"))))
    assert only(check(case(facts, on(LAYER))), "data-dir-on-layer").level is DOUBTFUL


def test_docker_at_home_is_doubtful_and_an_overlay_outside_a_container_is_none_of_our_business() -> None:
    docker = on(LAYER, replace(PLAIN, platform="container", in_container=True))
    assert only(check(case(at("/data"), docker)), "data-dir-on-layer").level is DOUBTFUL
    assert codes(check(case(at("/data"), on(LAYER, PLAIN)))) == []


def test_memory_is_no_place_for_models() -> None:
    said = only(check(case(at("/dev/shm/data"), on(LAYER + SHM + NETWORK))), "data-dir-in-memory")
    assert said.level is DOUBTFUL and said.cure == "export DATA_DIR=/runpod-volume"


@pytest.mark.parametrize(("mounts", "path"), [(NETWORK, "/runpod-volume"), (NFS, "/mnt/share/wakegate")])
def test_a_network_volume_is_a_note(mounts: str, path: str) -> None:
    assert only(check(case(at(path), on(LAYER + mounts))), "data-dir-on-network").level is NOTE


def test_a_folder_that_cannot_be_written_is_told_with_the_volume_that_can() -> None:
    said = only(check(case(at("/data", problem="Permission denied"), on(LAYER + NETWORK))), "data-dir-unwritable")
    assert said.level is BREAKS
    assert "(Permission denied)" in said.what and said.cure == "export DATA_DIR=/runpod-volume"
    said = only(check(case(at("/srv/a b", problem="Permission denied", is_forbidden=True))), "data-dir-unwritable")
    assert said.cure == "sudo install -d -o $(id -u) '/srv/a b'"


@pytest.mark.parametrize("problem", ["Read-only file system", "No space left on device", "/srv/x is not a folder"])
def test_what_no_owner_can_mend_is_not_answered_with_a_change_of_owner(problem: str) -> None:
    assert only(check(case(at("/srv/x", problem=problem))), "data-dir-unwritable").cure == (
        "export DATA_DIR=/path/of/a/volume"
    )


def test_a_volume_that_hangs_is_all_that_is_said_of_it() -> None:
    assert codes(check(case(at("/data", hangs=True, problem="x")))) == ["data-dir-hangs"]


def test_a_full_disk_breaks_and_a_nearly_full_one_is_doubtful() -> None:
    assert codes(check(case(at("/data", free=10 * 1024**2, size=100 * GIB)))) == ["disk-full"]
    said = only(check(case(at("/data", free=2 * GIB, size=100 * GIB))), "disk-nearly-full")
    assert "2.0 GiB left of 100.0 GiB" in said.what and "500.0 MiB" in said.why
    assert codes(check(case(at("/data", free=50 * GIB, size=100 * GIB)))) == []


def test_a_small_volume_that_is_half_empty_is_not_nearly_full() -> None:
    assert codes(check(case(at("/data", free=GIB, size=2 * GIB)))) == []


def test_a_model_that_has_to_be_downloaded_needs_room_by_its_name() -> None:
    facts = replace(at("/data", free=20 * GIB, size=100 * GIB), model=ModelSeen("org/Llama-70B-GGUF:Q4_K_M"))
    said = only(check(case(facts)), "disk-too-small")
    assert said.level is DOUBTFUL  # a guess
    assert "about 39.1 GiB by its name" in said.what


def test_a_model_that_is_here_or_is_small_needs_none() -> None:
    folder = at("/data", free=20 * GIB, size=100 * GIB)
    for model in (ModelSeen("m", gguf(50 * GIB)), ModelSeen("org/Tiny-1B:Q4_K_M"), ModelSeen("org/who-knows")):
        assert codes(check(case(replace(folder, model=model)))) == []


def test_a_volume_with_another_time() -> None:
    assert "61 s apart" in only(check(case(at("/data", skew=-61.0))), "volume-clock").what
    assert codes(check(case(at("/data", skew=0.2)))) == []


def test_no_place_for_the_run_folder() -> None:
    assert only(check(case(Facts(run_folders=False))), "run-folder-missing").level is BREAKS
