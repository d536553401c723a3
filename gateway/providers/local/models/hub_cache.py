"""Finds a repository's files in the caches that the Hub's tools keep on disk, with no network and no library.

The layout is huggingface_hub's, shared by everybody (its docs: "Understand caching"):

    <cache>/models--org--name/refs/main              the commit that a branch stood at
    <cache>/models--org--name/snapshots/<commit>/…   the files, as links into ../../blobs

RunPod's cached models have the same layout below /runpod-volume/huggingface-cache/hub; worker-vllm sets its caches to
BASE_PATH/huggingface-cache/hub (and HF_HOME to the same folder, so that some tools nest another hub/ in it).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

RUNPOD_CACHE = Path("/runpod-volume/huggingface-cache/hub")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One commit of a repository in a cache; whether all of its files are there is for others to check."""

    folder: Path
    commit: str


def usual_caches(environ: Mapping[str, str]) -> tuple[Path, ...]:
    """Where the Hub's own tools keep their cache, as their settings in this environment say it (in their order)."""
    home = Path(environ.get("HOME") or "/root")

    def place(value: str) -> Path:
        return home / value[1:].lstrip("/") if value.startswith("~") else Path(value)

    explicit = environ.get("HF_HUB_CACHE") or environ.get("HUGGINGFACE_HUB_CACHE")
    if explicit:
        return (place(explicit),)
    if hf_home := environ.get("HF_HOME"):
        return (place(hf_home) / "hub",)
    return (place(environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface" / "hub",)


def caches_below(base: Path) -> tuple[Path, ...]:
    """Where worker-vllm, or HF_HOME set to this folder, would have put its cache."""
    return (
        base / "huggingface-cache" / "hub",
        base / "huggingface-cache" / "hub" / "hub",
        base / "huggingface-cache",
        base / "hub",
        base,
    )


def repo_folder(cache: Path, repo: str) -> Path:
    return cache / ("models--" + repo.replace("/", "--"))


def find_snapshots(cache: Path, repo: str, revision: str | None) -> Iterator[Snapshot]:
    """The snapshots that this revision may mean, likeliest first. OSError for a cache that cannot be read.

    Without a revision: what `main` stood at, then any other, newest first (RunPod's cached models may have no refs).
    """
    folder = _existing(cache, repo)
    if folder is None:
        return
    snapshots = folder / "snapshots"
    commit = _read_ref(folder, revision or "main")
    if commit is not None and (snapshots / commit).is_dir():
        yield Snapshot(snapshots / commit, commit)
    if not snapshots.is_dir():
        return
    others = sorted(snapshots.iterdir(), key=lambda s: s.stat().st_mtime, reverse=True)
    for other in others:
        asked_for = revision is None or (len(revision) >= 7 and other.name.startswith(revision))
        if asked_for and other.name != commit:
            yield Snapshot(other, other.name)


def _existing(cache: Path, repo: str) -> Path | None:
    """The repository's folder. The Hub does not tell capitals apart, so neither does this."""
    exact = repo_folder(cache, repo)
    if exact.is_dir():
        return exact
    if not cache.is_dir():
        return None
    wanted = exact.name.lower()
    return next((f for f in cache.iterdir() if f.name.lower() == wanted), None)


def _read_ref(folder: Path, revision: str) -> str | None:
    try:
        commit = (folder / "refs" / revision).read_text("ascii", "replace").strip()
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None
    return commit if commit and "/" not in commit and not commit.startswith(".") else None
