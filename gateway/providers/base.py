"""The contract that every provider keeps, and the words it speaks.

A provider turns the conductor's orders into calls on a machine or a vendor, and everything that it sees there into
`News`. It decides nothing: when to start, stop or give up is `policy`'s business. Every vendor status is translated
at this edge; one that is unknown is named in an error, never guessed.
"""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where an upstream answers. `url` has no path and no trailing slash; `prefix` is what stands before `/v1/…`."""

    url: str
    prefix: str = ""
    socket: str | None = None
    """A unix socket to connect to instead of the host in `url`."""
    key: str | None = field(default=None, repr=False)
    """Sent as `Authorization: Bearer …`. The upstream's own key, never a caller's."""
    proxied: bool = False
    """A vendor's proxy stands before it, which answers with pages of its own where nothing is behind it."""
    fingerprint: str | None = None
    """The SHA-256 of the one certificate that is believed there, in hexadecimal digits, whoever signed it and whatever
    names and dates it holds; nothing is sent to one with another. None: one that the system's authorities signed."""

    def __post_init__(self) -> None:
        if self.fingerprint is not None and not self.url.startswith("https://"):
            raise ValueError(f"{self.url} has no TLS, and a certificate is expected there")


@dataclass(frozen=True, slots=True)
class Instance:
    """One running upstream."""

    id: str
    provider: str
    endpoint: Endpoint
    started_at: float
    """Seconds since the epoch, UTC."""
    price: int = 0
    """Micro-dollars per hour."""
    name: str = ""
    """The rental's in the journal. Empty: it costs nothing, and nothing is written down."""


@dataclass(frozen=True, slots=True)
class Intent:
    """What is about to be started."""

    upstream: str
    run: int


@dataclass(frozen=True, slots=True)
class Rental:
    """What is about to cost money, or not: written down before anybody is asked to start it."""

    name: str
    """Ours; no two have the same. What is created at a vendor is called so there, and found by it."""
    provider: str
    upstream: str
    run: int
    price: int = 0
    """Micro-dollars per hour, as far as it is known; 0: it costs nothing."""
    instance: str = ""
    """The vendor's id, where it is known beforehand."""
    why: str = ""
    """Where the price comes from, for people: "RunPod's figure", "HOURLY_PRICE, more than RunPod's 0.31"."""
    runs_since: float | None = None
    """Unix seconds since when it runs, where it was found running and is taken over. None: it is yet to be started."""


@dataclass(frozen=True, slots=True)
class Bill:
    """What a vendor says that one instance of ours has cost, in one span of time. Whole micro-dollars, Unix seconds."""

    instance: str
    begins: float
    ends: float
    amount: int
    storage: int = 0
    """The part of `amount` that is for disks."""


@dataclass(frozen=True, slots=True)
class Loading:
    """Not there yet. Each one that differs from the last counts as progress.

    `phase` is a closed word: queued, booting, checking, downloading, loading, filling, compiling, warming, waking,
    unreachable. `ratio` is 0..1 of this phase where it is truly known, else None; `detail` is short and fit for a
    caller to read.
    """

    phase: str
    ratio: float | None = None
    detail: str = ""
    done: int | None = None
    total: int | None = None
    """Bytes of bytes, where this phase has some; `ratio` and `detail` may be left to them."""
    file: str = ""
    """Which file it is at. For the console and the log: a caller need not know it."""
    signs: int = 0
    """Signs of life so far of something that has no better measure. One more is progress, and nobody is told it."""


@dataclass(frozen=True, slots=True)
class Ready:
    """It serves. `models`: what it says it serves (empty: it did not say); `concurrency`: how many at once if known.

    `endpoint`: where, if that was not known when it was started, or is another one now. It replaces the instance's."""

    models: tuple[str, ...] = ()
    concurrency: int | None = None
    endpoint: Endpoint | None = None


@dataclass(frozen=True, slots=True)
class Asleep:
    """It rests: its memory is given back, a wake brings it back."""


@dataclass(frozen=True, slots=True)
class Gone:
    """It is not there any more. Always the last news of an instance.

    `reason` is a closed sentence of ours for callers and /health (never raw engine output); `detail` is what the
    engine or vendor said, for the log and the admin key only. `lasting`: another try would fail the same way.
    """

    reason: str
    lasting: bool = False
    detail: str = ""
    code: str = "start_failed"
    """The refusal's code (gateway/errors.py) for callers who waited for it."""
    taken: bool = False
    """The vendor took it away: nobody's fault here, and not a failure to be counted."""


News = Loading | Ready | Asleep | Gone


@dataclass(frozen=True, slots=True)
class Profile:
    """What is known of an upstream before it runs."""

    models: tuple[str, ...] = ()
    """Names it will serve. Empty: unknown until it is ready."""
    routes: frozenset[str] | None = None
    """Inference paths ("/v1/chat/completions") that it has. None: unknown, ask it."""
    concurrency: int | None = None
    """Requests it can work on at once. None: unknown."""
    engine: str = ""
    """What answers ("llama-server"), for people to read. Empty: unknown until the first start."""
    starts: bool = True
    """Whether there is something to start and stop; False for something that already runs."""
    can_rest: bool = False
    cuts_silence: bool = False
    """Whether what stands between us and it cuts an answer that says nothing for a while, as RunPod's proxy of pods
    does after 100 s: then it is asked for a stream where the caller asked for none."""


class Journal(Protocol):
    """Where a provider writes down what it is about to do, before it does it. Handed in; a ledger or a list.

    Each returns only when what it was told would survive a crash, and raises OSError when it cannot be written down:
    then nothing is started.
    """

    async def open(self) -> None:
        """Before each start: returns once what was written down earlier is known, and compared with what the vendor
        says that runs. Raises OSError, or ProviderError when the vendor cannot be asked."""

    def next_name(self) -> str:
        """A name for the next rental: the same prefix for all of this gateway's, whatever is lost or restarted."""

    async def intend(self, rental: Rental) -> None:
        """Before the vendor is asked: it costs from now on. Raises ProviderError, with the code `insufficient_quota`,
        when the month's budget has no room for it."""

    async def know(self, name: str, instance: str, price: int, why: str = "") -> None:
        """The vendor's id, and the price that it says. Known already: changes what is different."""

    async def void(self, name: str, why: str) -> None:
        """The vendor said that nothing was started: it has cost nothing."""

    async def end(self, name: str, why: str) -> None:
        """The vendor confirmed that it costs nothing any more. Again: changes nothing."""


class ProviderError(Exception):
    """The provider could not do what was ordered.

    `reason` is a closed sentence fit for a caller. `lasting`: a retry would fail the same way. `instance` is set when
    something was created all the same, or may have been, and must be stopped. `code`: the refusal's, for callers who
    waited. `detail`: what the vendor said, for the log and the admin key only.
    """

    def __init__(
        self,
        reason: str,
        *,
        lasting: bool = False,
        instance: Instance | None = None,
        code: str = "start_failed",
        detail: str = "",
    ) -> None:
        super().__init__(reason)
        self.reason = reason
        self.lasting = lasting
        self.instance = instance
        self.code = code
        self.detail = detail


class Provider(Protocol):
    """One kind of compute. The same conformance tests run against each (tests/providers/test_conformance.py)."""

    name: str

    @property
    def profile(self) -> Profile:
        """What is known without asking anybody; may grow after the first start."""

    async def start(self, intent: Intent, journal: Journal) -> Instance:
        """Begin one start and return as soon as there is something to watch and stop, long before it serves.

        Raises ProviderError. Cancelled: whatever was begun is ended, or the error that carries it is raised.
        """

    def watch(self, instance: Instance) -> AsyncIterator[News]:
        """News as it comes, from now until `Gone`. One watcher at a time. Ready is told within 50 ms if it can be."""

    async def rest(self, instance: Instance) -> None:
        """Put it to sleep; `Asleep` follows in the news."""

    async def wake(self, instance: Instance) -> None:
        """Wake it; `Ready` follows in the news."""

    async def stop(self, instance: Instance, *, within: float) -> None:
        """End it, politely for at most `within` seconds, and return only when nothing of it exists any more.

        Stopping something that is gone succeeds. Raises ProviderError when it cannot be confirmed. `Gone` follows in
        the news of a watcher that still listens.
        """

    async def list(self) -> list[Instance]:
        """What of ours exists, for reconciling after a restart."""

    async def price(self) -> int | None:
        """Micro-dollars per hour of the next start; 0 for one's own machine, None when nobody can say."""

    async def close(self) -> None:
        """Give back sessions and sockets. Stops nothing."""


class Renter(Provider, Protocol):
    """A provider whose instances cost money from the moment they are asked for."""

    async def list(self) -> list[Instance]:
        """Everything of ours that exists and may cost money for its running, known here or not; `name` as far as the
        vendor knows it. Raises ProviderError when the vendor cannot be asked: then nothing is known, not nothing."""

    async def bills(self, begins: float, ends: float) -> Sequence[Bill] | None:
        """What the vendor says that our instances cost from `begins` to `ends` (Unix seconds). None: this vendor has no
        such records. Raises ProviderError."""

    async def storage(self) -> int | None:
        """Micro-dollars per month for disks that stay when nothing runs. None: nobody can say yet."""
