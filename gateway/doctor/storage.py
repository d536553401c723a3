"""STORAGE: DATA_DIR, the volume it lies on, and room for what has to go there. Without I/O."""

import shlex
from collections.abc import Iterator

from gateway.doctor.case import Case, Folder
from gateway.doctor.findings import BREAKS, DOUBTFUL, Finding, found
from gateway.doctor.sizes import GIB, MIB, guessed_size
from gateway.providers.local.models.model_files import human
from gateway.surroundings import Mount

HANGS_AFTER = 2.0
"""Seconds."""
FULL = 64 * MIB
ANOTHER = "/path/of/a/volume"
SKEW = 5.0
"""Seconds between two clocks that are no rounding."""
LAYERS = frozenset({"overlay", "overlayfs", "aufs", "fuse.fuse-overlayfs", "zfs-layer", "rootfs"})
"""File systems that a container's own layer is made of."""
RUN_PLACES = ("/run/user/$UID", "/dev/shm", "/tmp")  # noqa: S108 - as start.sh tries them, with mkdir and mode 0700


def check(case: Case) -> Iterator[Finding]:
    folder = case.facts.folder
    path = shlex.quote(str(folder.path))
    if not case.facts.run_folders:
        yield found("run-folder-missing", places=", ".join(RUN_PLACES))
    if folder.hangs:
        yield found("data-dir-hangs", path=path, seconds=HANGS_AFTER)
        return
    mount = case.around.mount_of(folder.path)
    if folder.problem:
        other = _volume(case, None)
        allow = folder.is_forbidden and not other
        cure = f"sudo install -d -o $(id -u) {path}" if allow else f"export DATA_DIR={other or ANOTHER}"
        yield found("data-dir-unwritable", path=path, problem=folder.problem, cure=cure)
    if mount is not None:
        yield from _place(case, folder, mount)
    yield from _room(case, folder, path)
    if abs(folder.skew) > SKEW:
        yield found("volume-clock", path=path, seconds=abs(folder.skew))


def _place(case: Case, folder: Folder, mount: Mount) -> Iterator[Finding]:
    path = shlex.quote(str(folder.path))
    volume = _volume(case, mount) or ANOTHER
    if case.around.in_memory(folder.path):
        yield found("data-dir-in-memory", path=path, kind=mount.kind, volume=volume)
    elif mount.kind in LAYERS and case.around.in_container:
        model = case.facts.model.found
        baked = model is not None and not model.path.is_relative_to(folder.path)
        # A model that comes with the image is not downloaded; then only logs are lost.
        level = BREAKS if case.around.is_worker and not baked else DOUBTFUL
        yield found("data-dir-on-layer", level, path=path, kind=mount.kind, volume=volume)
    elif case.around.on_network(folder.path):
        yield found("data-dir-on-network", path=path, kind=mount.kind)


def _volume(case: Case, mount: Mount | None) -> str:
    """A volume that can be written, lies elsewhere, and is none of a container's own layers. Empty: there is none."""
    for volume in case.around.volumes:
        there = case.around.mount_of(volume)
        if there is None or (there != mount and there.kind not in LAYERS and not case.around.in_memory(volume)):
            return str(volume)
    return ""


def _room(case: Case, folder: Folder, path: str) -> Iterator[Finding]:
    if folder.free is None:
        return
    model = case.facts.model
    needed = guessed_size(model.text or "") if model.is_to_download else None
    if folder.free < FULL:
        yield found("disk-full", path=path, free=human(folder.free))
    elif needed is not None and needed > folder.free:
        values = {"model": model.text, "needed": human(needed), "free": human(folder.free)}
        yield found("disk-too-small", path=path, **values)
    elif folder.size and folder.free < min(folder.size // 20, 10 * GIB) + case.settings.log_total_size // 2:
        logs = human(case.settings.log_total_size)
        yield found("disk-nearly-full", path=path, free=human(folder.free), size=human(folder.size), logs=logs)
