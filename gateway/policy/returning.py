"""The places of callers who were told to come back, so that whoever does goes on where it stood.

A caller whose answer cannot be held any longer hears 503 and comes back after a while: its SDK does that by itself.
What it had stays here meanwhile, under a name that only the same request has; once per place, so that two callers who
sent the same twice have two. Bounded: the place that ends first makes room. Pure; times are seconds of one clock.
"""

from collections import OrderedDict, deque
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True, eq=False)
class _Kept(Generic[T]):
    who: bytes
    place: T
    until: float


class Returning(Generic[T]):
    """What is kept for those who may come back. `most`: places, at any time."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._kept: OrderedDict[_Kept[T], None] = OrderedDict()
        """In the order in which they were kept."""
        self._by_who: dict[bytes, deque[_Kept[T]]] = {}

    def __repr__(self) -> str:
        return f"<Returning {len(self._kept)} of {self._most} places>"

    def __len__(self) -> int:
        return len(self._kept)

    def keep(self, who: bytes, place: T, *, until: float) -> list[T]:
        """Keep a place. Returns those that had to go for it: they are nobody's any more."""
        gone: list[T] = []
        while len(self._kept) >= self._most:
            first = min(self._kept, key=lambda kept: kept.until)
            self._forget(first)
            gone.append(first.place)
        kept = _Kept(who, place, until)
        self._kept[kept] = None
        self._by_who.setdefault(who, deque()).append(kept)
        return gone

    def take(self, who: bytes, now: float) -> T | None:
        """Its place, if it comes back in time; the oldest one, if it has several. It is kept no longer."""
        for kept in self._by_who.get(who, ()):
            if now < kept.until:
                self._forget(kept)
                return kept.place
        return None

    def expired(self, now: float) -> list[T]:
        """Those who did not come back. They are kept no longer."""
        late = [kept for kept in self._kept if now >= kept.until]
        for kept in late:
            self._forget(kept)
        return [kept.place for kept in late]

    def _forget(self, kept: _Kept[T]) -> None:
        del self._kept[kept]
        places = self._by_who[kept.who]
        places.remove(kept)
        if not places:
            del self._by_who[kept.who]
