"""The page that replicas share: who decides, who wants the instance, and what became of it. Pure.

A replica changes the page by writing a whole new one, which counts only if nobody else wrote meanwhile
(records/board/). So every rule here is a function from one page to the next, and whoever holds the pen is alone.

One *life* is one shared instance, from the decision to start it to the confirmed end. Lives have numbers, and a *want*
is for one of them: when a life is over all wants for it are, too. A life is ended only by a page on which nobody wants
it; so a caller who comes at the same moment either keeps it or gets the next one.

Clocks don't come into it. A replica that is there moves its beat, and the others see by their own clocks for how long
it did not (`Sightings`): no jump of anybody's clock, the board's included, makes one look dead or alive.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, TypeVar

from gateway.providers.base import Endpoint, Gone, Instance, Loading, Ready

FORMAT = 1
"""Of the text. A page of another format was written by another version, and is left alone."""
PAGE_MAX = 1 << 16
"""Characters. Hundreds of replicas have room; what is longer was not written here."""

Phase = Literal["starting", "running", "stopping"]
How = Literal["failed", "gone", "stopped"]
PHASES = ("starting", "running", "stopping")
HOWS = ("failed", "gone", "stopped")


class PageError(ValueError):
    """Somebody else's text, or a newer version's. Nothing may be decided by it, nor written over it."""


@dataclass(frozen=True, slots=True)
class Terms:
    """Seconds."""

    lease: float = 45.0
    """For so long after its last beat whoever decides may go on deciding, and nobody else may begin to."""
    call: float = 20.0
    """The longest that one call to a vendor takes: less than `lease`. A new holder waits for it, too."""
    interest: float = 60.0
    """A want lasts for so long after its replica's last beat."""
    beat: float = 5.0
    look: float = 1.0
    """Between two looks at the board."""
    blind: float = 300.0
    """Whoever decides and cannot reach the board for so long ends the instance: what it costs can't be written down."""

    def __post_init__(self) -> None:
        if not 0 < self.call < self.lease or not self.beat * 3 <= min(self.lease - self.call, self.interest):
            raise ValueError(f"a lease must outlast a call and some beats: {self!r}")


@dataclass(frozen=True, slots=True)
class Want:
    """One replica has callers for a life, or has not been idle for long enough."""

    upstream: str
    run: int
    life: int


@dataclass(frozen=True, slots=True)
class Replica:
    beat: int = 0
    want: Want | None = None
    suspects: int = 0
    """How often one of its connections to the instance broke: one more, and the holder looks at once."""


@dataclass(frozen=True, slots=True)
class Life:
    """The shared instance, as whoever decides sees it."""

    phase: Phase
    instance: Instance | None = None
    """Without what is secret in its endpoint. While it starts: as it was announced, by the rental's name or the
    vendor's id; None: nobody was asked for anything yet."""
    news: Loading | Ready | None = None


@dataclass(frozen=True, slots=True)
class Ended:
    """How the newest life that is over, or as good as over, came to its end."""

    life: int
    how: How
    reason: str = ""
    lasting: bool = False
    code: str = "start_failed"
    detail: str = ""
    taken: bool = False

    def gone(self) -> Gone:
        return Gone(self.reason, lasting=self.lasting, detail=self.detail, code=self.code, taken=self.taken)


@dataclass(frozen=True, slots=True)
class Page:
    holder: str = ""
    """The replica that decides: it alone asks the vendor for anything."""
    term: int = 0
    """How often that changed."""
    handed_over: bool = False
    """The last holder left in good order: no call of its is under way, nobody need wait for it."""
    replicas: Mapping[str, Replica] = field(default_factory=dict)
    number: int = 1
    """Of the life that is, or of the next one."""
    life: Life | None = None
    ended: Ended | None = None
    price: int | None = None
    """Of the next start, as the holder heard it last."""

    @property
    def wanted_life(self) -> int:
        """The life that whoever comes now wants: this one, or the one after it when its end is decided."""
        over = self.ended is not None and self.ended.life == self.number
        return self.number + 1 if over or (self.life is not None and self.life.phase == "stopping") else self.number

    def wants(self, life: int) -> list[Want]:
        """In the order of the replicas' names."""
        return [
            replica.want
            for _, replica in sorted(self.replicas.items())
            if replica.want is not None and replica.want.life == life
        ]

    # -- what any replica may write

    def beaten(self, me: str, want: Want | None, suspects: int = 0) -> "Page":
        beat = self.replicas[me].beat + 1 if me in self.replicas else 1
        return replace(self, replicas={**self.replicas, me: Replica(beat, want, suspects)})

    def taken_by(self, me: str) -> "Page":
        return replace(self, holder=me, term=self.term + 1, handed_over=False)

    def without(self, gone: "set[str]") -> "Page":
        """Without those replicas, and what they want. A holder among them has not handed over by that."""
        return replace(self, replicas={name: one for name, one in self.replicas.items() if name not in gone})

    def left_by(self, me: str, *, wanting: bool, in_order: bool) -> "Page":
        """`wanting`: its want stays for as long as any want of somebody who is not heard of. `in_order`: no call to the
        vendor is under way."""
        page = self if wanting else self.without({me})
        return replace(page, holder="", handed_over=True) if self.holder == me and in_order else page

    # -- what only the holder may

    def living(self, life: Life) -> "Page":
        return replace(self, life=life)

    def stopping(self, instance: Instance | None, ended: Ended | None = None) -> "Page":
        """Nobody can have it any more, though something of it may still be there to stop. `ended`: why, for those who
        want it all the same."""
        return replace(self, life=Life("stopping", instance), ended=ended or self.ended)

    def over(self, ended: Ended) -> "Page":
        """Nothing of it exists any more. What was said at its end, when it failed or was lost, stays said."""
        said = self.ended if self.ended is not None and self.ended.life == self.number else ended
        return replace(self, number=self.number + 1, life=None, ended=said)

    # -- as text

    def text(self) -> str:
        return json.dumps(
            {
                "format": FORMAT,
                "holder": self.holder,
                "term": self.term,
                "handed_over": self.handed_over,
                "replicas": {name: _told(one) for name, one in self.replicas.items()},
                "number": self.number,
                "life": _told(self.life),
                "ended": _told(self.ended),
                "price": self.price,
            },
            separators=(",", ":"),
        )

    @classmethod
    def read(cls, text: str) -> "Page":
        """Raises PageError. No text is the first page."""
        if not text:
            return cls()
        if len(text) > PAGE_MAX:
            raise PageError(f"it has {len(text)} characters")
        try:
            told = json.loads(text)
            if told["format"] != FORMAT:
                raise PageError(f"it has the format {told['format']!r:.20}, of another version")
            return cls(
                holder=_typed(told["holder"], str),
                term=_typed(told["term"], int),
                handed_over=_typed(told["handed_over"], bool),
                replicas={name: _replica(one) for name, one in _typed(told["replicas"], dict).items()},
                number=_typed(told["number"], int),
                life=_life(told["life"]),
                ended=_ended(told["ended"]),
                price=None if told["price"] is None else _typed(told["price"], int),
            )
        except PageError:
            raise
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise PageError(f"it is no page of ours: {error!r:.200}") from None


T = TypeVar("T")
SIMPLE = (str, int, float, bool)


def _typed(value: Any, kind: type[T]) -> T:
    if type(value) is not kind:
        raise PageError(f"{value!r:.60} should be of the type {kind.__name__}")
    return value


def _told(one: Any) -> Any:
    """Its fields by their names. What a repr must not show is secret, and has no place on a board."""
    if not hasattr(one, "__dataclass_fields__"):
        return list(one) if isinstance(one, tuple) else one
    told = {each.name: _told(getattr(one, each.name)) for each in fields(one) if each.repr}
    if isinstance(one, Loading | Ready):
        told["is"] = type(one).__name__
    return told


def _made(kind: type[T], told: Any, **parts: Any) -> T:
    """One of this kind of what `_told` said; `parts`: the fields that are no simple values."""
    values = {name: value for name, value in _typed(told, dict).items() if name not in ("is", *parts)}
    for name, value in values.items():
        if isinstance(value, list):
            values[name] = tuple(_typed(item, str) for item in value)
        elif value is not None and type(value) not in SIMPLE:
            raise PageError(f"{name} is {value!r:.60}")
    return kind(**values, **parts)


def _replica(told: Any) -> Replica:
    want = told["want"]
    return _made(Replica, told, want=_made(Want, want) if want is not None else None)


def _ended(told: Any) -> Ended | None:
    if told is not None and told["how"] not in HOWS:
        raise PageError(f"a life ended {told['how']!r:.60}")
    return None if told is None else _made(Ended, told)


def _life(told: Any) -> Life | None:
    if told is None:
        return None
    if told["phase"] not in PHASES:
        raise PageError(f"a life's phase is {told['phase']!r:.60}")
    return _made(Life, told, instance=_instance(told["instance"]), news=_news(told["news"]))


def _instance(told: Any) -> Instance | None:
    return None if told is None else _made(Instance, told, endpoint=_endpoint(told["endpoint"]) or Endpoint(""))


def _endpoint(told: Any) -> Endpoint | None:
    return None if told is None else _made(Endpoint, told)


def _news(told: Any) -> Loading | Ready | None:
    if told is None:
        return None
    return _made(Ready, told, endpoint=_endpoint(told["endpoint"])) if told["is"] == "Ready" else _made(Loading, told)


class Sightings:
    """Since when nobody's beat has moved, by our own clock."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[int, float]] = {}
        self._holder: tuple[str, int, float] | None = None

    def __repr__(self) -> str:
        return f"<Sightings {self._seen!r}, holder {self._holder!r}>"

    def see(self, page: Page, now: float) -> None:
        holder = (page.holder, page.term)
        if self._holder is None or self._holder[:2] != holder:
            self._holder = (*holder, now)
        for name, replica in page.replicas.items():
            if name not in self._seen or self._seen[name][0] != replica.beat:
                self._seen[name] = replica.beat, now
        for name in self._seen.keys() - page.replicas.keys():
            del self._seen[name]

    def holder_silent(self, now: float) -> float:
        """Seconds since there was a sign of whoever decides, or since nobody is known to. Never more than we looked."""
        if self._holder is None:
            return 0.0
        name, _, since = self._holder
        return now - max(since, self._seen[name][1] if name in self._seen else since)

    def silent(self, seconds: float, now: float) -> set[str]:
        """The replicas whose beat has not moved for so long."""
        return {name for name, (_, since) in self._seen.items() if now - since >= seconds}
