"""Looks at a model on this machine's disk and says what is wrong with it before any engine is tried.

Reads headers only, never the weights: a few milliseconds for a file of any size. Blocking; call it from a thread.
"""

import difflib
import json
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gateway.providers.local.models.gguf_header import GGUFFault, Header, read_header
from gateway.providers.local.models.model_error import ModelError
from gateway.providers.local.models.model_names import Format, Selection, Wants, group_ggufs, select, shards_of, stem_of
from gateway.providers.local.models.shape import Shape, of_config, of_gguf

UNREAD = Shape(unknown="its files were not read")
OWN_CACHE = "hub"
"""Under DATA_DIR/models: where downloads from the Hub lie, in the layout of the Hub's own cache."""

LFS_POINTER = b"version https://git-lfs.github.com/spec/"
SAFETENSORS_HEADER_MAX = 100_000_000
"""As the safetensors library itself has it."""
_BERTS = frozenset({"bert", "nomic-bert", "nomic-bert-moe", "jina-bert-v2", "jina-bert-v3", "t5encoder", "modern-bert"})


@dataclass(frozen=True, slots=True)
class Model:
    """A model that is whole and readable. `path` is what an engine is given: a GGUF (its first shard), or a folder."""

    path: Path
    name: str
    """As a person would call it; also the default served name."""
    format: Format
    size: int
    """Bytes of all its weights."""
    revision: str | None = None
    """The Hub's commit, if it came from there."""
    context_length: int | None = None
    """What it was trained for, in tokens."""
    architecture: str | None = None
    embedding: bool = False
    """It makes embeddings and cannot chat: an encoder, or it pools and has no chat template."""
    chat_template: bool = False
    shape: Shape = field(default=UNREAD, compare=False)
    """Its layers, and what they keep: what a plan of the start goes by."""


def human(size: int) -> str:
    """`4.9 GiB`: sizes as sentences say them."""
    amount = float(size)
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if amount < 1024:
            return f"{size} bytes" if unit == "bytes" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} TiB"


def inspect_path(path: Path, *, wants: Wants, quant: str | None = None) -> Model:
    """What lies at this path. Raises ModelError, with a sentence that names it."""
    with explained(path):
        try:
            mode = path.stat().st_mode
        except (FileNotFoundError, NotADirectoryError):
            if path.is_symlink():
                raise ModelError("missing", f"{path} is a link to {path.readlink()}, which is not there.") from None
            raise not_there(path) from None
        if stat.S_ISDIR(mode):
            return _inspect_folder(path, wants=wants, quant=quant)
        if stat.S_ISREG(mode):
            return _inspect_single(path, wants)
        raise ModelError("format", f"{path} is neither a file nor a folder.")


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """What the system says about files becomes a sentence about them. `path` is named where it does not name one."""
    try:
        yield
    except PermissionError as error:
        place = error.filename or path
        raise ModelError("unreadable", f"{place} may not be read by {_whoami()}: change its rights.") from error
    except OSError as error:
        # A network volume that is away for a moment looks like this: another try may succeed.
        place = error.filename or path
        raise ModelError("unreadable", f"{place} cannot be read: {error.strerror}.", lasting=False) from error


def _whoami() -> str:
    return f"user {os.geteuid()}" if hasattr(os, "geteuid") else "this user"


def not_there(path: Path) -> ModelError:
    """The path is missing: says how far it exists, and what there is called nearly so."""
    parent = path.parent
    while not parent.is_dir() and parent != parent.parent:
        parent = parent.parent
    if parent != path.parent:
        return ModelError("missing", f"{path} is not there: {parent} has no {path.relative_to(parent).parts[0]}.")
    return ModelError("missing", f"{path} is not there. {near_misses(path.name, parent)}")


def near_misses(name: str, folder: Path) -> str:
    """A sentence about what a folder holds, names like the one asked for first."""
    try:
        there = sorted(e.name for e in os.scandir(folder) if not e.name.startswith(".") and e.name != OWN_CACHE)
    except FileNotFoundError:
        return "That folder is not there yet."
    except OSError:
        return f"{folder} cannot be listed."
    if not there:
        return f"{folder} is empty."
    lower = {n.lower(): n for n in there}
    close = [lower[m] for m in difflib.get_close_matches(name.lower(), lower, n=3, cutoff=0.5)]
    if close:
        return f"Did you mean {' or '.join(close)}?"
    models = [n for n in there if n.lower().endswith(".gguf") or (folder / n).is_dir()] or there
    return f"{folder} holds: {', '.join(models[:8])}{' …' if len(models) > 8 else ''}."


def _inspect_single(path: Path, wants: Wants) -> Model:
    if path.suffix.lower() in (".safetensors", ".json"):
        raise ModelError("format", f"{path} is one file of a safetensors model: give its folder, {path.parent}.")
    if wants == "safetensors":
        _check_gguf(path)
        raise ModelError(
            "format",
            f"{path} is a GGUF file, but the engine chosen reads safetensors folders: set ENGINE=llama-cpp-python.",
        )
    names = shards_of(path.name)
    missing = tuple(n for n in names if not (path.parent / n).exists())
    present = tuple(n for n in names if n not in missing)
    return inspect_selection(path.parent, Selection("gguf", present, names[0], missing), name=stem_of(path.name))


def _inspect_folder(folder: Path, *, wants: Wants, quant: str | None) -> Model:
    if (folder / "snapshots").is_dir() and (folder / "blobs").exists():
        folder = _only_snapshot(folder)
    names = [e.name for e in os.scandir(folder) if not e.name.startswith(".") and not e.is_dir()]
    if not group_ggufs(names) and not any(n.endswith(".safetensors") for n in names):
        _explain_unusable(folder, names)
    selection = select(names, where=str(folder), wants=wants, quant=quant)
    name = folder.name if selection.format == "safetensors" else stem_of(selection.first)
    return inspect_selection(folder, selection, name=name)


def _only_snapshot(repo: Path) -> Path:
    snapshots = sorted((repo / "snapshots").iterdir())
    if len(snapshots) != 1:
        raise ModelError(
            "choice", f"{repo} is a Hub cache with {len(snapshots)} snapshots: give one of them, or the Hub id."
        )
    return snapshots[0]


def _explain_unusable(folder: Path, names: list[str]) -> None:
    """A folder whose models lie one level deeper is worth a better sentence than 'holds no model'."""
    deeper = sorted(
        {g.parent.name for g in folder.glob("*/*.gguf")} | {s.parent.name for s in folder.glob("*/*.safetensors")}
    )
    if deeper and not names:
        raise ModelError("choice", f"{folder} holds folders with models: give one of them ({', '.join(deeper[:8])}).")


def inspect_selection(folder: Path, selection: Selection, *, name: str, revision: str | None = None) -> Model:
    """The chosen files, checked: all there, whole, and what they claim to be. Raises ModelError and OSError."""
    if selection.missing:
        raise ModelError(
            "broken",
            f"{folder / selection.missing[0]} is not there: of the model's "
            f"{len(selection.files) + len(selection.missing)} parts {len(selection.missing)} are missing. "
            "Copy or download them all.",
        )
    if selection.format == "safetensors":
        return _inspect_safetensors(folder, name, revision)
    headers = [_check_gguf(folder / f) for f in selection.files]
    first = headers[0]
    if first.split_count > 1 and len(headers) != first.split_count:
        raise ModelError(
            "broken",
            f"{folder / selection.first} is part {first.split_number + 1} of {first.split_count}, but its name does "
            "not say so: the parts must be called "
            f"{stem_of(selection.first)}-00001-of-{first.split_count:05d}.gguf and so on.",
        )
    return Model(
        path=folder / selection.first,
        name=name,
        format="gguf",
        size=sum((folder / f).stat().st_size for f in selection.files),
        revision=revision,
        context_length=first.context_length,
        architecture=first.architecture,
        embedding=first.architecture in _BERTS or (bool(first.pooling) and not first.chat_template),
        chat_template=first.chat_template,
        shape=of_gguf(headers),
    )


def _check_gguf(path: Path) -> Header:
    if not path.exists():  # a link into nowhere, as a half-deleted Hub cache has it
        raise ModelError("broken", f"{path} is a link to a file that is not there: download the model again.")
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        _refuse_pointer(path, file.read(len(LFS_POINTER)))
        file.seek(0)
        try:
            header = read_header(file, size)
        except GGUFFault as fault:
            raise _gguf_error(path, size, fault) from fault
    if size < header.size_needed:
        raise ModelError(
            "broken",
            f"{path} is cut off: it has {size:,} of {header.size_needed:,} bytes. "
            "The copy or download did not finish; do it again.",
        )
    return header


def _gguf_error(path: Path, size: int, fault: GGUFFault) -> ModelError:
    if size == 0:
        return ModelError("broken", f"{path} is empty: the copy or download did not finish; do it again.")
    if fault.fault == "magic":
        return ModelError("format", f"{path} is not a GGUF file: {fault.detail}, a GGUF begins with b'GGUF'.")
    if fault.fault == "version":
        return ModelError("format", f"{path} is a GGUF that cannot be used: {fault.detail}.")
    if fault.fault == "truncated":
        return ModelError(
            "broken", f"{path} is cut off: {fault.detail}. The copy or download did not finish; do it again."
        )
    return ModelError("broken", f"{path} is damaged: {fault.detail}. Copy or download it again.")


def _refuse_pointer(path: Path, begins: bytes) -> None:
    if begins.startswith(LFS_POINTER):
        raise ModelError(
            "broken",
            f"{path} is a git-LFS pointer, not the weights: the repository was cloned without git-lfs. "
            f"Run 'git lfs pull' in {path.parent}, or give the Hub id as MODEL.",
        )


def _inspect_safetensors(folder: Path, name: str, revision: str | None) -> Model:
    config = read_json(folder / "config.json")
    weights = sorted(set(_safetensors_named_in_index(folder)) or {p.name for p in folder.glob("*.safetensors")})
    missing = [w for w in weights if not (folder / w).exists()]
    if missing:
        raise ModelError(
            "broken",
            f"{folder} lacks {missing[0]}{f' and {len(missing) - 1} more' if len(missing) > 1 else ''} of its "
            f"{len(weights)} weight files: the copy or download did not finish; do it again.",
        )
    for weight in weights:
        _check_safetensors(folder / weight)
    architectures = config.get("architectures")
    context = config.get("max_position_embeddings")
    nested = config.get("text_config")
    if context is None and isinstance(nested, dict):
        context = nested.get("max_position_embeddings")
    tokenizer = read_json(folder / "tokenizer_config.json") if (folder / "tokenizer_config.json").exists() else {}
    return Model(
        path=folder,
        name=name,
        format="safetensors",
        size=sum((folder / w).stat().st_size for w in weights),
        revision=revision,
        context_length=context if isinstance(context, int) and context > 0 else None,
        architecture=str(architectures[0]) if isinstance(architectures, list) and architectures else None,
        embedding=(folder / "modules.json").exists(),
        chat_template="chat_template" in tokenizer or (folder / "chat_template.jinja").exists(),
        shape=of_config(config),
    )


def _safetensors_named_in_index(folder: Path) -> Iterator[str]:
    index = folder / "model.safetensors.index.json"
    if not index.exists():
        return
    names = read_json(index).get("weight_map")
    if not isinstance(names, dict):
        raise ModelError("broken", f"{index} has no weight_map: copy or download the model again.")
    for name in names.values():
        if not isinstance(name, str) or "/" in name:
            raise ModelError("broken", f"{index} names {name!r} as a weight file: copy or download the model again.")
        yield name


def _check_safetensors(path: Path) -> None:
    """The layout: 8 bytes of length, that much JSON, then the data; the JSON says where the data ends."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        begins = file.read(8)
        _refuse_pointer(path, begins + file.read(len(LFS_POINTER) - 8))
        length = int.from_bytes(begins, "little")
        if len(begins) < 8 or length > SAFETENSORS_HEADER_MAX:
            raise ModelError("broken", f"{path} is not a safetensors file ({size:,} bytes): copy or download it again.")
        file.seek(8)
        try:
            header: Any = json.loads(file.read(length))
            ends = [t["data_offsets"][1] for n, t in header.items() if n != "__metadata__"]
            needed = 8 + length + max(ends, default=0)
        except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError) as error:
            if 8 + length > size:
                raise ModelError(
                    "broken",
                    f"{path} is cut off: it ends inside its header, at byte {size:,}. Copy or download it again.",
                ) from error
            raise ModelError(
                "broken", f"{path} is damaged: its header cannot be read. Copy or download it again."
            ) from error
    if size < needed:
        raise ModelError(
            "broken", f"{path} is cut off: it has {size:,} of {needed:,} bytes. Copy or download it again."
        )


def read_json(path: Path) -> Mapping[str, Any]:
    """A JSON object. Raises ModelError and OSError."""
    try:
        with path.open("rb") as file:
            content = file.read(SAFETENSORS_HEADER_MAX)
        value = json.loads(content)
    except FileNotFoundError as error:
        raise ModelError("broken", f"{path} is not there: copy or download the model again.") from error
    except (ValueError, RecursionError) as error:
        _refuse_pointer(path, content[: len(LFS_POINTER)])
        raise ModelError("broken", f"{path} is not JSON: copy or download the model again.") from error
    if not isinstance(value, dict):
        raise ModelError("broken", f"{path} is not a JSON object: copy or download the model again.")
    return value


def relative_files(folder: Path) -> Iterable[str]:
    """Every file under a folder, hidden ones aside, as names with slashes. Links are followed as files only."""
    for root, folders, files in os.walk(folder):
        folders[:] = [d for d in folders if not d.startswith(".")]
        for file in files:
            if not file.startswith("."):
                yield (Path(root) / file).relative_to(folder).as_posix()
