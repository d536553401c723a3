"""A model's files against the checksums that the Hub's cache names them by."""

import os
import threading
from pathlib import Path

import pytest

from gateway.providers.local.models.proof import Proof, prove
from tests.support.hub import etag_of


def cached(cache: Path, files: dict[str, bytes]) -> tuple[Path, dict[str, Path]]:
    """The snapshot's folder, and each file's blob."""
    folder = cache / "models--org--tiny"
    snapshot = folder / "snapshots" / ("c" * 40)
    for part in (snapshot, folder / "blobs"):
        part.mkdir(parents=True)
    blobs = {name: folder / "blobs" / etag_of(content) for name, content in files.items()}
    for name, content in files.items():
        blobs[name].write_bytes(content)
        (snapshot / name).symlink_to(os.path.relpath(blobs[name], snapshot))
    return snapshot, blobs


def told(model: Path) -> tuple[Proof, list[tuple[int, int]]]:
    heard: list[tuple[int, int]] = []
    return prove(model, lambda done, total: heard.append((done, total)), threading.Event()), heard


SMALL, LARGE = b"{}", bytes(range(256)) * 40  # the Hub names them by SHA-1 and by SHA-256


def test_files_that_are_what_they_are_named_by_are_whole(tmp_path: Path) -> None:
    snapshot, blobs = cached(tmp_path, {"config.json": SMALL, "model.safetensors": LARGE})
    proof, heard = told(snapshot)
    assert proof == Proof(tuple(blobs.values()), ())
    assert heard[-1] == (len(SMALL) + len(LARGE),) * 2


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_one_wrong_byte_is_found(tmp_path: Path, name: str) -> None:
    snapshot, blobs = cached(tmp_path, {"config.json": SMALL, "model.safetensors": LARGE})
    content = blobs[name].read_bytes()
    blobs[name].write_bytes(content[:-1] + b"!")
    assert told(snapshot)[0].damaged == (blobs[name],)


def test_a_cut_file_is_found(tmp_path: Path) -> None:
    snapshot, blobs = cached(tmp_path, {"model.gguf": LARGE})
    os.truncate(blobs["model.gguf"], 5000)
    assert told(snapshot / "model.gguf")[0].damaged == (blobs["model.gguf"],)


def test_of_a_gguf_its_own_parts_are_read_and_no_others(tmp_path: Path) -> None:
    parts = {f"big-0000{n}-of-00002.gguf": LARGE + bytes([n]) for n in (1, 2)}
    snapshot, blobs = cached(tmp_path, {**parts, "other.gguf": LARGE})
    proof, _ = told(snapshot / "big-00001-of-00002.gguf")
    assert proof.compared == tuple(blobs[name] for name in parts)


def test_what_came_from_no_hub_has_nothing_to_be_compared_with(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(LARGE)
    (tmp_path / "gone.gguf").symlink_to("nowhere")
    assert told(tmp_path / "model.gguf")[0] == told(tmp_path / "gone.gguf")[0] == Proof((), ())


def test_a_blob_that_cannot_be_read_is_damaged(tmp_path: Path) -> None:
    """A folder in its place, as any error of the disk."""
    parts = {f"big-0000{n}-of-00002.gguf": LARGE + bytes([n]) for n in (1, 2)}
    snapshot, blobs = cached(tmp_path, parts)
    second = blobs["big-00002-of-00002.gguf"]
    second.unlink()
    second.mkdir()
    assert told(snapshot / "big-00001-of-00002.gguf")[0].damaged == (second,)


def test_it_ends_when_it_is_told_to(tmp_path: Path) -> None:
    snapshot, _ = cached(tmp_path, {"model.gguf": LARGE})
    stop = threading.Event()
    stop.set()
    heard: list[tuple[int, int]] = []
    prove(snapshot / "model.gguf", lambda done, total: heard.append((done, total)), stop)
    assert heard == []
