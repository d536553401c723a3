"""What a MODEL setting means, read from its text alone, and which of a repository's or folder's files it asks for.

Pure: no disk, no network. The forms, in the order in which they are tried:

1. `/…`, `./…`, `../…`, `~…`: a path, nothing else. `folder:Q4_K_M` picks one GGUF of several in a folder.
2. `https://huggingface.co/org/name[/tree|blob|resolve/revision[/file]]`, the same with `hf.co/` or without the scheme,
   and `hf://org/name`: a Hub repository, nothing else.
3. `org/name`, `org/name:Q4_K_M`, `org/name:file.gguf` (the file may stand in a folder), each with `@revision` after
   `name` or at the end; `org/name/file.gguf` too: a Hub repository, but something of that name under
   `DATA_DIR/models`, or from the folder that the gateway was started in, wins over the Hub.
4. Anything else: a file or folder under `DATA_DIR/models` (or from the folder that the gateway was started in).
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import unquote, urlsplit

from gateway.providers.local.models.model_error import ModelError

Wants = Literal["gguf", "safetensors", "any"]
Format = Literal["gguf", "safetensors"]

DEFAULT_QUANT = "Q4_K_M"
"""What a GGUF repository is asked for when nobody said which quantization: the usual middle of size and quality."""

HUB_HOSTS = frozenset({"huggingface.co", "www.huggingface.co", "hf.co"})

_SEGMENT = r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,94}[A-Za-z0-9_])?"
_REPO = re.compile(rf"{_SEGMENT}/{_SEGMENT}")
_TAG = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_REVISION = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_./-]{0,254}")
_SHARD = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf", re.IGNORECASE)
_QUANT = re.compile(
    r"(?:^|[-._])((?:UD-)?(?:(?:I?Q|TQ)\d[A-Z0-9]*(?:_[A-Z0-9]+)*|BF16|FP?16|FP?32|(?:MX|NV)FP4(?:_[A-Z0-9]+)*))(?=$|[-.])",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """One MODEL setting, understood. Made by `parse`; `str(spec)` reads back as the same spec."""

    text: str = field(compare=False)
    repo: str | None = None
    quant: str | None = None
    file: str | None = None
    """A file inside the repository, with its folders."""
    revision: str | None = None
    paths: tuple[tuple[str, str | None], ...] = ()
    """Where it may lie on this machine's disk, best first, each with the quantization asked for there. `~` and relative
    paths are as written."""
    not_hub: str | None = field(default=None, compare=False)
    """Why it is no Hub id although it looks like one; said when no such path exists either."""
    explicit_path: bool = False
    """It can only be a path: relative ones count from the working folder, and models_dir is not looked into."""

    def __str__(self) -> str:
        if self.paths or self.repo is None:
            return self.text
        tag = self.file or self.quant
        return f"hf.co/{self.repo}{f'@{self.revision}' if self.revision else ''}{f':{tag}' if tag else ''}"


def parse(text: str) -> ModelSpec:
    """Raises ModelError (kind "name") with the sentence that says what was expected."""
    text = text.strip()
    if not text:
        raise ModelError(
            "name", "MODEL is empty: give a path, a name under DATA_DIR/models, or a Hub id such as org/name."
        )
    if len(text) > 4096 or any(ord(c) < 32 or ord(c) == 127 for c in text):
        raise ModelError("name", "MODEL holds control characters or is longer than 4096 characters.")
    if text.startswith(("/", "~", "./", "../")) or text in (".", ".."):
        return ModelSpec(text, paths=_disk_candidates(text), explicit_path=True)
    hub = _after_hub_host(text)
    if hub is not None:
        return _parse_hub(text, hub)
    if "://" in text:
        raise ModelError(
            "name",
            f"MODEL={text} is no address of huggingface.co: download the file into DATA_DIR/models and give its name.",
        )
    paths = _disk_candidates(text)
    if _REPO.match(text) is None:
        return ModelSpec(text, paths=paths)
    try:
        spec = _parse_hub(text, text)
    except ModelError as error:
        return ModelSpec(text, paths=paths, not_hub=error.sentence)
    return ModelSpec(text, spec.repo, spec.quant, spec.file, spec.revision, paths)


def _disk_candidates(text: str) -> tuple[tuple[str, str | None], ...]:
    base, colon, tag = text.rpartition(":")
    if not colon or not base:
        return ((text, None),)
    if tag.lower().endswith(".gguf"):
        return ((text, None), (f"{base.rstrip('/')}/{tag}", None))
    return ((text, None), (base, tag)) if _TAG.fullmatch(tag) else ((text, None),)


def _after_hub_host(text: str) -> str | None:
    """The part after huggingface.co/, or None if this is not an address of the Hub."""
    if text.lower().startswith("hf://"):
        return text[5:].removeprefix("models/")
    address = text if "://" in text else f"https://{text}"
    try:
        parts = urlsplit(address)
        host = parts.hostname
    except ValueError:  # an unclosed [ in the host
        return None
    if parts.scheme.lower() not in ("http", "https") or host not in HUB_HOSTS or "/" not in text:
        return None
    return unquote(parts.path).lstrip("/")


def _parse_hub(text: str, hub: str) -> ModelSpec:
    """`hub` is org/name with whatever follows it."""
    found = _REPO.match(hub)
    if found is None:
        raise ModelError("name", f"MODEL={text} names no repository: expected org/name.")
    repo, rest = found.group(), hub[found.end() :].rstrip("/")
    if repo.startswith(("datasets/", "spaces/", "api/")):
        raise ModelError("name", f"MODEL={text} is not a model repository.")
    if rest and rest[0] not in "/:@":
        raise ModelError(
            "name", f"MODEL={text}: {repo + rest!r} is not a repository name (letters, digits, - _ . only)."
        )
    if ".." in repo or "--" in repo or repo.endswith(".git"):
        raise ModelError("name", f"MODEL={text}: {repo!r} is not a repository name (no '..', no '--', no '.git').")
    revision = file = quant = None
    page = re.fullmatch(r"/(?:tree|blob|resolve|raw)/(?P<revision>refs/[^/]+/[^/]+|[^/]+)(?:/(?P<file>.+))?", rest)
    if page:
        revision, file = page["revision"], page["file"]
        if file is not None and not file.lower().endswith(".gguf"):
            raise ModelError(
                "name", f"MODEL={text}: {file} is not a GGUF file; for other formats name the repository alone, {repo}."
            )
    elif rest.startswith("/"):
        file = rest[1:].partition("@")[0]
        revision = rest[1:].partition("@")[2] or None
        if not file.lower().endswith(".gguf"):
            raise ModelError("name", f"MODEL={text}: after {repo} a :quant, a :file.gguf or an @revision may follow.")
    elif rest:
        tag, revision = _tag_and_revision(rest)
        file, quant = (tag, None) if tag is not None and tag.lower().endswith(".gguf") else (None, tag)
    _check_parts(text, quant, file, revision)
    return ModelSpec(text, repo, None if quant == "latest" else quant, file, revision)


def _tag_and_revision(rest: str) -> tuple[str | None, str | None]:
    """`:tag`, `@revision`, `@revision:tag`, `:tag@revision`."""
    if rest[0] == "@":
        revision, colon, tag = rest[1:].partition(":")
        return (tag if colon else None), revision
    tag, at, revision = rest[1:].partition("@")
    return tag, (revision if at else None)


def _check_parts(text: str, quant: str | None, file: str | None, revision: str | None) -> None:
    if quant is not None and not _TAG.fullmatch(quant):
        raise ModelError("name", f"MODEL={text}: {quant!r} is neither a quantization such as Q4_K_M nor a file.gguf.")
    if file is not None and (not safe_name(file) or "@" in file or ":" in file):
        raise ModelError("name", f"MODEL={text}: {file!r} is not a file name inside a repository.")
    if revision is not None and (not _REVISION.fullmatch(revision) or not safe_name(revision)):
        raise ModelError("name", f"MODEL={text}: {revision!r} is not a revision (a branch, a tag or a commit).")


def safe_name(name: str) -> bool:
    """Whether a name from outside stays inside the folder that it is put under."""
    return (
        0 < len(name) <= 1024
        and not name.startswith("/")
        and "\\" not in name
        and not any(ord(c) < 32 or ord(c) == 127 for c in name)
        and all(part not in ("", ".", "..") for part in name.split("/"))
    )


@dataclass(frozen=True, slots=True)
class Weights:
    """One GGUF model: a single file, or every shard of it in order. Names are relative to the folder or repository."""

    files: tuple[str, ...]
    missing: tuple[str, ...] = ()
    """Shards that its names promise and that are not there."""

    @property
    def first(self) -> str:
        return self.files[0]

    @property
    def stem(self) -> str:
        """The file's name without folders, shard number and ending."""
        return stem_of(self.first)

    @property
    def quant(self) -> str | None:
        """As its name says it, in capitals; from the folder's name where the file's does not say."""
        found = _QUANT.findall(self.stem)
        if not found and "/" in self.first:
            found = _QUANT.findall(self.first.split("/")[-2])
        return found[-1].upper() if found else None


@dataclass(frozen=True, slots=True)
class Selection:
    """The files that make the model, and the one to hand to the engine ("" for the folder itself)."""

    format: Format
    files: tuple[str, ...]
    first: str
    missing: tuple[str, ...] = ()


def stem_of(name: str) -> str:
    """`dir/Big-Q8_0-00001-of-00003.gguf` → `Big-Q8_0`."""
    base = name.rsplit("/", 1)[-1]
    shard = _SHARD.fullmatch(base)
    return shard["stem"] if shard else re.sub(r"\.gguf$", "", base, flags=re.IGNORECASE)


def shards_of(name: str) -> tuple[str, ...]:
    """Every shard that this file's name promises, in order; the name alone for a file that is whole."""
    folder, slash, base = name.rpartition("/")
    shard = _SHARD.fullmatch(base)
    if shard is None or not 1 <= int(shard["number"]) <= int(shard["count"]) or int(shard["count"]) > 1000:
        return (name,)
    count, ending = int(shard["count"]), base[-5:]
    return tuple(f"{folder}{slash}{shard['stem']}-{n:05d}-of-{count:05d}{ending}" for n in range(1, count + 1))


def group_ggufs(names: Iterable[str]) -> list[Weights]:
    """The GGUF models among these files, sorted by name. Vision projectors and importance matrices are none."""
    present = {n for n in names if n.lower().endswith(".gguf") and not _is_companion(n)}
    groups: dict[tuple[str, ...], Weights] = {}
    for name in sorted(present):
        shards = shards_of(name)
        if shards not in groups:
            groups[shards] = Weights(
                tuple(s for s in shards if s in present), tuple(s for s in shards if s not in present)
            )
    return list(groups.values())


def _is_companion(name: str) -> bool:
    base = name.rsplit("/", 1)[-1].lower()
    return "mmproj" in base or "imatrix" in base


def select(
    names: Iterable[str],
    *,
    where: str,
    wants: Wants = "any",
    quant: str | None = None,
    file: str | None = None,
    default_quant: str | None = None,
) -> Selection:
    """Which of these files are the model. `where` is how a sentence calls the place. Raises ModelError.

    A GGUF is preferred where both formats are there and either will do: the embedded engine reads it.
    """
    names = sorted(names)
    groups = group_ggufs(names)
    safetensors = [n for n in names if n.endswith(".safetensors") and "/" not in n]
    if quant is None and file is None and (wants == "safetensors" or (wants == "any" and not groups and safetensors)):
        return _select_safetensors(names, safetensors, groups, where)
    if wants == "safetensors":
        raise ModelError(
            "format",
            f"{where}: {file or quant} asks for a GGUF file, but the engine chosen reads safetensors folders: "
            f"name the repository or folder alone, or set ENGINE=llama-cpp-python.",
        )
    if file is not None:
        return _named_file(groups, names, file, where)
    if not groups:
        raise ModelError(*_no_gguf(names, safetensors, where))
    chosen = _choose(groups, quant, default_quant, where)
    return Selection("gguf", chosen.files, chosen.first, chosen.missing)


def _named_file(groups: list[Weights], names: list[str], file: str, where: str) -> Selection:
    for group in groups:
        if file in group.files or file in group.missing:
            return Selection("gguf", group.files, group.first, group.missing)
    same_name = [g for g in groups if file in {f.rsplit("/", 1)[-1] for f in g.files}]
    if len(same_name) == 1:
        return Selection("gguf", same_name[0].files, same_name[0].first, same_name[0].missing)
    if file in names:
        raise ModelError(
            "choice", f"{where}: {file} is a companion file (a projector or importance matrix), not a model."
        )
    raise ModelError("missing", f"{where} has no file {file}. {_listing(groups)}")


def _choose(groups: list[Weights], quant: str | None, default_quant: str | None, where: str) -> Weights:
    if quant is None:
        if len(groups) == 1:
            return groups[0]
        usual = [g for g in groups if g.quant == default_quant] if default_quant else []
        if len(usual) == 1:
            return usual[0]
        raise ModelError(
            "choice", f"{where} holds several models: say which with :QUANT or :file.gguf. {_listing(groups)}"
        )
    wanted = quant.upper()
    matches = (
        [g for g in groups if g.quant == wanted]
        or [g for g in groups if (g.quant or "").removeprefix("UD-") == wanted]
        or [
            g
            for g in groups
            if g.stem.upper().endswith(("-" + wanted, "." + wanted, "_" + wanted)) or g.stem.upper() == wanted
        ]
    )
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise ModelError(
            "choice", f"{where} has {quant} more than once: name the file. {_listing(matches, as_files=True)}"
        )
    raise ModelError("missing", f"{where} has no {quant}. {_listing(groups)}")


def _listing(groups: list[Weights], as_files: bool = False) -> str:
    quants = [g.quant for g in groups]
    if as_files or None in quants or len(set(quants)) < len(quants):
        entries = [g.first for g in groups]
    else:
        entries = sorted({q for q in quants if q})
    if not entries:
        return "It holds no GGUF file at all."
    more = f" and {len(entries) - 20} more" if len(entries) > 20 else ""
    return f"It has: {', '.join(entries[:20])}{more}."


def _no_gguf(names: list[str], safetensors: list[str], where: str) -> tuple[Literal["format", "missing"], str]:
    if safetensors:
        return "format", (
            f"{where} holds safetensors weights, which llama.cpp cannot read: use a GGUF version of the model "
            "(on the Hub often the same name with -GGUF), or ENGINE=vllm."
        )
    if any(n.endswith((".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".onnx")) for n in names):
        return "format", f"{where} holds weights in another format; GGUF or safetensors is needed."
    return "missing", f"{where} holds no model: no .gguf and no .safetensors file is there."


def _select_safetensors(names: list[str], safetensors: list[str], groups: list[Weights], where: str) -> Selection:
    if not safetensors:
        if groups:
            raise ModelError(
                "format",
                f"{where} holds GGUF files, but the engine chosen reads safetensors: set ENGINE=llama-cpp-python, "
                "or use the model's original repository.",
            )
        raise ModelError(*_no_gguf(names, safetensors, where))
    if "config.json" not in names:
        what = (
            "is a LoRA adapter, not a whole model"
            if "adapter_config.json" in names
            else "has no config.json beside its weights"
        )
        raise ModelError("format", f"{where} {what}: it cannot be served by itself.")
    # Mistral's repositories carry the same weights a second time as consolidated*.safetensors.
    if any(not n.startswith("consolidated") for n in safetensors):
        safetensors = [n for n in safetensors if not n.startswith("consolidated")]
    small = (".json", ".txt", ".model", ".jinja", ".py", ".tiktoken")
    beside = [
        n for n in names if n.endswith(small) and not n.startswith(("original/", "onnx/", "openvino/", "coreml/"))
    ]
    return Selection("safetensors", tuple(sorted({*safetensors, *beside})), "")
