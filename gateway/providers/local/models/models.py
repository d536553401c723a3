"""What MODEL means on this machine: finds it, downloads it if it must, and says in one sentence what is wrong with it.

The order, first hit wins: a path on the disk (for a plain name, under DATA_DIR/models); the usual Hub cache; RunPod's
cached models; BASE_PATH; what was downloaded before; the Hub. Only the last one touches the network: a model that is
here in full starts without it, at the commit that is here.
"""

import asyncio
import errno
import os
import threading
from collections.abc import Awaitable, Callable, Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path

from gateway.providers.base import Gone, Loading
from gateway.providers.local.models.facts import ModelFacts, facts_of
from gateway.providers.local.models.hub_cache import RUNPOD_CACHE, caches_below, find_snapshots, usual_caches
from gateway.providers.local.models.hub_download import Download, Hub, Listing, Session
from gateway.providers.local.models.model_error import ModelError
from gateway.providers.local.models.model_files import (
    OWN_CACHE,
    Model,
    explained,
    inspect_path,
    inspect_selection,
    near_misses,
    not_there,
    read_json,
    relative_files,
)
from gateway.providers.local.models.model_names import (
    DEFAULT_QUANT,
    ModelSpec,
    Selection,
    Wants,
    parse,
    select,
    stem_of,
)
from gateway.providers.local.models.proof import blobs_of, prove
from gateway.providers.local.models.shape import Shape, of_config

__all__ = [
    "Download",
    "Model",
    "ModelError",
    "ModelSpec",
    "Places",
    "Wants",
    "examine",
    "find",
    "name_of",
    "parse",
    "preview",
    "resolve",
]

DAMAGED_HERE = "The model's files were damaged on this disk: they are downloaded again at the next try."
AS_ON_THE_HUB = (
    "The model's files are as the Hub has them, and this engine cannot read them: install a newer version of the "
    "engine, or choose another MODEL or ENGINE."
)


@dataclass(frozen=True, slots=True)
class Places:
    """Where models may lie on this machine."""

    models_dir: Path
    hub_caches: tuple[Path, ...] = ()
    """Looked into, never written, in this order."""
    working_dir: Path = Path()
    home: Path | None = None

    @classmethod
    def of(cls, models_dir: Path, *, base_path: Path | None, environ: Mapping[str, str]) -> "Places":
        """The places that this environment's settings name."""
        caches = (*usual_caches(environ), RUNPOD_CACHE, *(caches_below(base_path) if base_path else ()))
        home = environ.get("HOME")
        return cls(models_dir, tuple(dict.fromkeys(caches)), home=Path(home) if home else None)

    @property
    def own_cache(self) -> Path:
        """Where downloads go: on the volume, so that the next worker finds them."""
        return self.models_dir / OWN_CACHE


async def resolve(
    spec: ModelSpec | str,
    *,
    places: Places,
    wants: Wants = "any",
    token: str | None = None,
    environ: Mapping[str, str] | None = None,
    on_progress: Callable[[Download], None] = lambda _: None,
    spoiled: AbstractSet[Path] = frozenset(),
    admit: Callable[[ModelFacts], Awaitable[None]] | None = None,
) -> Model:
    """The model, whole and on this machine's disk. Raises ModelError.

    Cancelled: returns at once; a download is ended and keeps what it has. `environ` is where the Hub's own settings
    (HF_ENDPOINT, proxies) are taken from; the process's environment by default. What holds a `spoiled` blob is passed
    over (see `examine`). `admit` is asked before weights are downloaded, and raises ModelError for those that could not
    be used here.
    """
    spec = parse(spec) if isinstance(spec, str) else spec
    model, looked = await asyncio.to_thread(_find, spec, places, wants, spoiled)
    if model is not None:
        return model
    hub = Hub(os.environ if environ is None else environ, token)
    try:
        return await _download(spec, hub, places, wants, on_progress, admit)
    except ModelError as error:
        if error.kind != "network":
            raise
        sentence = f"{error.sentence} The model was looked for in {', '.join(looked)} first."
        raise ModelError(error.kind, sentence, lasting=error.lasting) from error


async def examine(
    model: Path, *, places: Places, spoiled: set[Path], on_progress: Callable[[Loading], None]
) -> Gone | None:
    """What to say of a model whose files an engine called damaged, after reading all of them against the Hub's
    checksums. None: they came from no Hub, and there is nothing to compare them with.

    A damaged file of our own cache is removed, so that the next `resolve` brings it again; one in somebody else's cache
    is theirs, and joins `spoiled`. Cancelled: the reading ends at once.
    """
    loop, stop = asyncio.get_running_loop(), threading.Event()

    def tell(done: int, total: int) -> None:
        loop.call_soon_threadsafe(on_progress, Loading("checking", done=done, total=total))

    try:
        proof = await asyncio.to_thread(prove, model, tell, stop)
    finally:
        stop.set()
    if not proof.compared:
        return None
    if not proof.damaged:
        return Gone(AS_ON_THE_HUB, lasting=True, detail=f"{len(proof.compared)} files have the checksum of the Hub")
    for blob in proof.damaged:
        _discard(blob, places, spoiled)
    named = "\n".join(f"{blob} does not have the checksum that it is named by" for blob in proof.damaged)
    return Gone(DAMAGED_HERE, detail=named)


def _discard(blob: Path, places: Places, spoiled: set[Path]) -> None:
    try:
        if blob.is_relative_to(places.own_cache.resolve()):
            blob.unlink(missing_ok=True)
            return
    except OSError:
        pass  # it stays, and is passed over
    spoiled.add(blob)


def name_of(text: str, places: Places) -> str:
    """What the model will be called, without looking into it: `Model.name`, for /v1/models before the first start.

    Raises ModelError for a name that cannot be understood.
    """
    spec = parse(text)
    for path, _ in _paths(spec, places):
        if path.exists():
            return path.name if path.is_dir() else stem_of(path.name)
    return spec.repo or stem_of(spec.text.rstrip("/"))


def find(spec: ModelSpec | str, *, places: Places, wants: Wants = "any") -> Model | None:
    """The model if it is on this machine's disk already; None if it would have to be downloaded. Blocking.

    Raises ModelError for one that is here and broken, and for one that is no Hub id and is not here.
    """
    return _find(parse(spec) if isinstance(spec, str) else spec, places, wants)[0]


async def preview(
    spec: ModelSpec | str,
    *,
    places: Places,
    wants: Wants = "any",
    token: str | None = None,
    environ: Mapping[str, str] | None = None,
) -> ModelFacts:
    """What is known of a model without its weights: of one that is here from its files, else from the Hub, where at
    most its config.json is downloaded. Raises ModelError."""
    spec = parse(spec) if isinstance(spec, str) else spec
    model, _ = await asyncio.to_thread(_find, spec, places, wants)
    if model is not None:
        return facts_of(model)
    hub = Hub(os.environ if environ is None else environ, token)
    async with hub.session(spec) as session:
        listing = await session.list()
        selection = _selected([f.name for f in listing.files], spec, wants)
        return await _facts(session, listing, selection, places)


async def _facts(session: Session, listing: Listing, selection: Selection, places: Places) -> ModelFacts:
    """What the Hub's listing says, and the model's config.json, which is fetched before anything else. A GGUF says how
    it is made only where it begins: there it is its size that is known."""
    wanted = {name for name in selection.files if name.lower().endswith((".gguf", ".safetensors"))}
    size = sum(file.size for file in listing.files if file.name in wanted)
    shape = Shape(unknown="it is not here yet")
    if selection.format == "safetensors":
        folder = await session.fetch(listing, ("config.json",), places.own_cache, lambda _: None)
        with explained(folder):
            shape = of_config(await asyncio.to_thread(read_json, folder / "config.json"))
    return ModelFacts(str(session.spec.repo), selection.format, size, shape)


async def _download(
    spec: ModelSpec,
    hub: Hub,
    places: Places,
    wants: Wants,
    on_progress: Callable[[Download], None],
    admit: Callable[[ModelFacts], Awaitable[None]] | None,
) -> Model:
    async with hub.session(spec) as session:
        listing = await session.list()
        selection = _selected([f.name for f in listing.files], spec, wants)
        if selection.missing:
            raise ModelError(
                "broken", f"{spec.repo} lacks {selection.missing[0]}: the repository itself is incomplete."
            )
        if admit is not None:
            await admit(await _facts(session, listing, selection, places))
        folder = await session.fetch(listing, selection.files, places.own_cache, on_progress)

        def look() -> Model:
            with explained(folder):
                return inspect_selection(folder, selection, name=str(spec.repo), revision=listing.commit)

        try:
            return await asyncio.to_thread(look)
        except ModelError as error:
            # What was here already was taken by its length. If it has not the checksum either, it is brought anew.
            model = folder / selection.first if selection.format == "gguf" else folder
            if error.kind not in ("broken", "format") or not await _discarded(model, places):
                raise
        await session.fetch(listing, selection.files, places.own_cache, on_progress)
        return await asyncio.to_thread(look)


async def _discarded(model: Path, places: Places) -> bool:
    """Whether something of it was damaged, and is gone now."""
    found = await examine(model, places=places, spoiled=set(), on_progress=lambda _: None)
    return found is not None and not found.lasting


def _selected(names: Iterable[str], spec: ModelSpec, wants: Wants) -> Selection:
    """What the spec means among the files of a repository, wherever the repository is."""
    return select(
        names, where=str(spec.repo), wants=wants, quant=spec.quant, file=spec.file, default_quant=DEFAULT_QUANT
    )


def _find(
    spec: ModelSpec, places: Places, wants: Wants, spoiled: AbstractSet[Path] = frozenset()
) -> tuple[Model | None, list[str]]:
    """The model, if it is here; and where it was looked for, as a sentence lists it."""
    for path, quant in _paths(spec, places):
        if _present(path):
            return inspect_path(path, wants=wants, quant=quant), []
    if spec.repo is None:
        raise _nowhere(spec, places)
    looked = []
    for cache in (*places.hub_caches, places.own_cache):
        model, remark = _look_into(cache, spec, wants)
        if model is not None and spoiled and not spoiled.isdisjoint(blobs_of(model.path)):
            model, remark = None, " (there, but damaged)"
        if model is not None:
            return model, []
        looked.append(f"{cache}{remark}")
    return None, looked


def _present(path: Path) -> bool:
    with explained(path):
        try:
            path.lstat()
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError as error:
            if error.errno == errno.ENAMETOOLONG:
                return False
            raise
    return True


def _paths(spec: ModelSpec, places: Places) -> list[tuple[Path, str | None]]:
    found: list[tuple[Path, str | None]] = []
    for text, quant in spec.paths:
        path = Path(text)
        if text == "~" or text.startswith("~/"):
            path = (places.home or Path("~").expanduser()) / text[2:]
        if spec.explicit_path:
            found.append((places.working_dir / path, quant))
            continue
        found.append((places.models_dir / path, quant))
        found.append((places.working_dir / path, quant))
    return found


def _nowhere(spec: ModelSpec, places: Places) -> ModelError:
    if spec.not_hub is not None:
        return ModelError("name", spec.not_hub)
    if spec.explicit_path:
        return not_there(_paths(spec, places)[0][0])
    base, colon, tag = spec.text.partition(":")
    if "/" in spec.text:
        return not_there(places.models_dir / spec.text)
    sentence = f"{spec.text} is not in {places.models_dir}. {near_misses(base, places.models_dir)}"
    if colon and tag and not spec.text.lower().endswith(".gguf"):
        return ModelError(
            "missing", f"{sentence} Names as Ollama has them are not known here; give a Hub id such as org/name-GGUF."
        )
    return ModelError("missing", f"{sentence} (A model of the Hub is named org/name.)")


def _look_into(cache: Path, spec: ModelSpec, wants: Wants) -> tuple[Model | None, str]:
    """The model in one cache, or a remark on why what is there does not do."""
    remark = ""
    try:
        for snapshot in find_snapshots(cache, str(spec.repo), spec.revision):
            try:
                selection = _selected(relative_files(snapshot.folder), spec, wants)
                return inspect_selection(snapshot.folder, selection, name=str(spec.repo), revision=snapshot.commit), ""
            except ModelError as error:
                remark = remark or f" (there, but not usable: {error.sentence})"
    except PermissionError:
        return None, " (may not be read)"
    except OSError as error:
        return None, f" ({error.strerror})"
    return None, remark
