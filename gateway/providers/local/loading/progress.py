"""How far an engine on this machine is: judged by the lines that it prints, and by what was measured of it. Pure.

No engine says how far it is in a form that is meant for programs, except our own. llama.cpp and vLLM print lines from
which it can be read: the tables below, made after the sources of llama.cpp (b6000 to 2026-11) and vLLM 0.32 and 0.33,
and tried on recorded starts (tests/providers/local/logs). Lines that no table knows are signs of life at most.

A table's rows stand in the order of a start. `stage` is where a row belongs in it: what belongs to an earlier stage
than what was seen already is a straggler (vLLM's workers are not of one pace), and changes nothing. To add a row, add
the engine's line to a recording first.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from gateway.providers.base import Loading


@dataclass(frozen=True, slots=True)
class Row:
    """One line that an engine prints, and what it means.

    The pattern may have groups named `done` and `total`, numbers of things of which there are several, or `percent`.
    """

    stage: int
    phase: str
    pattern: re.Pattern[str]
    what: str = ""
    """What is counted, for people: `shard 3/4`."""
    measures: bool = False
    """Whether what is counted is this phase's whole way. Else there are several such bars, one after the other, and the
    count is told as a detail only."""
    serves: bool = False
    """It takes requests from now on."""


def row(stage: int, phase: str, pattern: str, what: str = "", *, measures: bool = False, serves: bool = False) -> Row:
    return Row(stage, phase, re.compile(pattern), what, measures, serves)


LLAMA_CPP = (
    row(1, "booting", r"llama_server: initializing|\bbuild: \d|system[_ ]info: n_threads|ggml_cuda_init: found"),
    row(
        2, "loading", r"load_model: loading model|llama_model_loader: loaded meta data|load_tensors: loading model tens"
    ),
    row(3, "loading", r"load_tensors: +(?:offload|(?!CPU_Mapped)\S+ model buffer size)"),
    row(4, "loading", r"^(?:\S+ I )?(?P<dots>\.+)$", measures=True),
    row(
        5, "warming", r"llama_context: constructing|llama_init_from_model|llama_kv_cache(?:_unified)?: |threadpool init"
    ),
    row(6, "warming", r"warming up the model with an empty run|load_model: initializing, n_slots|initializing slots"),
    row(7, "warming", r"llama_server: model loaded|main: model loaded"),
    row(8, "warming", r"listening on |Application startup complete", serves=True),
)
"""llama-server, and llama-cpp-python's own server where it is told to be verbose. llama.cpp prints dots, up to one
for each percent of the weights that it has copied (its default progress callback), on one line."""

_BAR = (
    r"(?:safetensors|pt|np_cache) checkpoint shards|safetensors using [\w ]+|-thread loading (?:pt checkpoint )?shards"
)
_COUNT = r"(?P<done>\d+)/(?P<total>\d+) \["

VLLM = (
    row(
        1, "booting", r"non-default args: |vLLM API server version|Resolved architecture: |Initializing a V1 LLM engine"
    ),
    row(2, "loading", r"Starting to load model |Loading model from scratch\.\.\."),
    row(3, "loading", rf"(?:Loading |Multi)(?:{_BAR}): +\d+% Completed \| {_COUNT}", "shard", measures=True),
    row(3, "loading", rf"(?:Loading |Multi)(?:{_BAR}): +(?P<percent>\d+)% Completed \|", measures=True),
    row(4, "loading", r"Loading weights took [\d.]+ seconds|Model loading took "),
    row(5, "compiling", r"Starting torch\.compile|for vLLM's torch\.compile|Dynamo bytecode transform time: "),
    row(
        5,
        "compiling",
        r"Compiling a graph for |Cache the graph of |Directly load (?:the compiled graph|AOT compilation)",
    ),
    row(
        5,
        "compiling",
        r"torch\.compile (?:took|takes) |saved AOT compiled function|Warming up model for the compilation",
    ),
    row(5, "compiling", rf"(?:DeepGEMM|JIT kernel) warmup[^:]*: .* {_COUNT}", "kernel"),
    row(5, "compiling", rf"Compiling CuTeDSL kernels: .* {_COUNT}", "kernel"),
    row(5, "compiling", r"Profiling CUDA graph memory: "),
    row(6, "compiling", rf"Capturing [\w -]*CUDA graphs?[^:]*: .* {_COUNT}", "CUDA graph"),
    row(
        7,
        "warming",
        r"Graph capturing finished in |Warming up done\.|init engine \(profile, create kv cache, warmup mod",
    ),
    row(8, "warming", r"Starting vLLM (?:API )?server "),
    row(9, "warming", r"Application startup complete", serves=True),
)
"""Its bars (vllm/model_executor/model_loader/weight_utils.py, `_BAR_FORMAT`) are lines; those of tqdm, for what is
compiled and captured, are rewritten with carriage returns, which count as line ends here."""

TABLES: Mapping[str, tuple[Row, ...]] = MappingProxyType({"llama-server": LLAMA_CPP, "vllm": VLLM})

NOTHING = 50
"""A fiftieth of a model is no measure of it: so much may be read, or lie on a GPU, for other reasons."""
LITTLE = 32 << 20
"""Bytes that any program may read before it comes to a model. Where a line says that it loads, they are known."""
SHAPES = 500
"""Kinds of lines that are told apart; an engine that prints ever new ones is not believed for ever."""
LONGEST_SHAPE = 120

_WORDS = re.compile(r"(?<![^\W_])(?![a-fA-F]+(?![^\W_]))[^\W\d_]+(?![^\W_])")
"""Of letters only, and such as are no hexadecimal number: those are somebody's id."""
_FRACTION = re.compile(r"(?<![\d.])(?P<done>\d{1,9})/(?P<total>\d{1,9})(?![\d.])|(?P<percent>\d{1,3}(?:\.\d+)?) ?%")


@dataclass(frozen=True, slots=True)
class Measured:
    """What was found out about an engine from outside, at one moment. Bytes; None: nobody knows."""

    total: int = 0
    """Of the model's files."""
    paged: int | None = None
    """Of the model's files that are in the page cache. None where that says nothing: all were there before."""
    paged_before: int = 0
    """Of them, what was there when the engine was started."""
    read: int | None = None
    """That the engine's processes have read from files, of whatever kind."""
    gpu: int | None = None
    """That are taken on its GPUs since it was started."""


@dataclass(frozen=True, slots=True)
class Count:
    """`done` of `total` things."""

    done: int
    total: int
    is_least: bool = False
    """It may be further: llama.cpp prints one dot when a large tensor was several percents."""

    @property
    def ratio(self) -> float:
        return min(1.0, self.done / self.total)

    @property
    def next(self) -> float:
        """How far it can be at most before the next one is done."""
        return 1.0 if self.is_least else min(1.0, (self.done + 1) / self.total)


@dataclass(slots=True, eq=False)
class Life:
    """Signs of life from lines that no table knows: a line of a new kind is one, and a share or a count in it that is
    higher than before. A line that only comes again is none, whatever number or time stands in it."""

    signs: int = 0
    _shapes: dict[str, float] = field(default_factory=dict, repr=False)

    def hear(self, line: str) -> None:
        shape = " ".join(_WORDS.findall(line[:500]))[:LONGEST_SHAPE]
        share = max((share_of(found) for found in _FRACTION.finditer(line[:500])), default=0.0)
        before = self._shapes.get(shape)
        if before is None and len(self._shapes) >= SHAPES:
            return
        if before is None or share > before:
            self._shapes[shape] = share
            self.signs += 1


def share_of(found: "re.Match[str]") -> float:
    if found["percent"] is not None:
        return min(1.0, float(found["percent"]) / 100)
    total = int(found["total"])
    return int(found["done"]) / total if total > 0 and int(found["done"]) <= total else 0.0


@dataclass(slots=True, eq=False)
class Reading:
    """Judges one start. It is told lines and measures as they come, and says at any time what is known."""

    engine: str
    """As ENGINE names it; any other word: nobody knows what it prints, and all tables are tried."""
    serves: bool = False
    """It has printed that it takes requests."""
    measured: Measured = Measured()
    life: Life = field(default_factory=Life)
    _tables: tuple[tuple[Row, ...], ...] = ()
    _row: Row | None = None
    _count: Count | None = None
    _detail: str = ""
    _answers: bool = False
    _told: float | None = None
    _read_before: int = 0
    """What the engine's processes had read when the phase began: their own programs, for the most part."""
    _most: dict[str, int] = field(default_factory=dict)
    """The highest amount that was told of each phase: pages that are given back are no loss of what was loaded."""

    def __post_init__(self) -> None:
        self._tables = (TABLES[self.engine],) if self.engine in TABLES else tuple(TABLES.values())

    def hear(self, line: str) -> None:
        """A line that the engine printed, or as much of it as there is so far."""
        self.life.hear(line)
        for table in self._tables:
            for known in table:
                found = known.pattern.search(line)
                if found is None:
                    continue
                self._tables = (table,)
                self._note(known, found)
                return

    def _note(self, known: Row, found: "re.Match[str]") -> None:
        if self._row is not None and known.stage < self._row.stage:
            return
        count = count_of(found)
        if self._row is None or known.phase != self._row.phase:
            self._count, self._detail = None, ""
            self._read_before = self.measured.read or 0
        if known.measures and count is not None and (self._count is None or count.ratio >= self._count.ratio):
            self._count = count
        if known.what and count is not None:
            self._detail = f"{known.what} {count.done}/{count.total}"
        self._row, self.serves = known, self.serves or known.serves

    def answered(self, ratio: float | None) -> None:
        """It answers HTTP, though it does not serve yet; `ratio` where it says how far it is."""
        self._answers = True
        if ratio is not None:
            self._told = max(ratio, self._told or 0.0)

    @property
    def phase(self) -> str:
        if self._row is not None:
            return self._row.phase
        if self._answers or self._began_to_read():
            return "loading"
        return "booting"

    def _began_to_read(self) -> bool:
        """Where no line tells: a part of the model was read since."""
        done = self._from_disk()
        since = self.measured.paged_before + self.measured.total // NOTHING
        return len(self._tables) > 1 and done is not None and done > since

    def _from_disk(self) -> int | None:
        """The model's bytes that came from the disk, as far as one can tell. What is mapped into memory shows in the
        page cache, what is read shows with whoever reads it. Little read says nothing: it may all be mapped."""
        seen = self.measured
        read = (seen.read or 0) - self._read_before
        little = max(seen.total // NOTHING, 0 if self._row is not None else LITTLE)
        is_paged = seen.paged is not None and (seen.paged > seen.paged_before or read <= little)
        known = seen.paged if is_paged else read if read > little else None
        return min(seen.total, known) if known is not None and seen.total else None

    def loading(self) -> Loading:
        """What is known now."""
        phase = self.phase
        if phase != "loading":
            return Loading(phase, None, self._detail, signs=self.life.signs)
        if self._told is not None:
            return Loading("loading", self._told, self._detail, signs=self.life.signs)
        return self._weights()

    def _weights(self) -> Loading:
        """Where the weights are: on their way from the disk, or on their way into the GPU."""
        total, disk, gpu = self.measured.total, self._from_disk(), self.measured.gpu
        arrived = disk is None or disk >= total
        if gpu is not None and total and arrived and gpu > total // NOTHING:
            return self._amount("filling", min(gpu, total))
        if disk is not None and self._count is None:
            return self._amount("loading", disk)
        if self._count is None:
            return Loading("loading", None, self._detail, signs=self.life.signs)
        ratio = self._count.ratio
        if disk is not None and total:  # between two shards it is as far as what was read, and no further than the next
            ratio = min(max(ratio, disk / total), self._count.next)
        return Loading("loading", ratio, self._detail, signs=self.life.signs)

    def _amount(self, phase: str, done: int) -> Loading:
        most = self._most[phase] = max(done, self._most.get(phase, 0))
        return Loading(phase, done=most, total=self.measured.total, signs=self.life.signs)


def count_of(found: "re.Match[str]") -> Count | None:
    groups = found.groupdict()
    if groups.get("dots"):
        return Count(min(100, len(groups["dots"])), 100, is_least=True)
    if groups.get("percent"):
        return Count(min(100, int(groups["percent"])), 100)
    if groups.get("total") and int(groups["total"]) > 0:
        return Count(min(int(groups["done"]), int(groups["total"])), int(groups["total"]))
    return None
