"""Which files the weights of a model lie in, and how many bytes they are: of a model that is on this machine's disk.

Whoever measures, reads ahead, or asks whether something fits, goes by the same files. Blocking; it looks at names and
sizes only.
"""

from pathlib import Path

from gateway.providers.local.models.model_names import shards_of

KINDS = ("*.safetensors", "*.gguf", "*.bin", "*.pt", "*.pth")
"""Of a folder the first kind that it has: several are the same weights again."""
AGAIN = "consolidated"
"""How the names begin of those that Mistral's repositories carry a second time."""


def weights_of(model: Path) -> tuple[Path, ...]:
    """The files: all parts of a split GGUF, what a folder has of the usual kinds. Empty where it cannot be seen."""
    try:
        if not model.is_dir():
            return tuple(part for name in shards_of(model.name) if (part := model.with_name(name)).is_file())
        found = next((files for kind in KINDS if (files := sorted(model.glob(kind)))), [])
    except OSError:
        return ()
    return tuple(path for path in found if not path.name.startswith(AGAIN)) or tuple(found)


def size_of(model: Path) -> int:
    """Bytes of all of them, which is seldom less than what an engine makes of them in its memory. 0: nobody knows, or
    they are gone."""
    try:
        return sum(path.stat().st_size for path in weights_of(model))
    except OSError:
        return 0
